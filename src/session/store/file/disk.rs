//! What redb writes to: the file, and in memory whatever the file has not taken yet.
//!
//! redb gives up a database at the first write that fails, and with it all reads. So no write fails here: blocks
//! gather in memory and reach the file when redb syncs. A sync that fails is remembered instead of reported, the
//! blocks stay, reads go on over them, and [`Disk::flush`] tries again. The writer thread asks [`Disk::fault`]
//! after each commit, acknowledges nothing while there is one, and begins no other transaction, so at most one
//! commit waits here. All of it is written again after a failure: an fsync that failed may have dropped pages.

use redb::StorageBackend;
use redb::backends::FileBackend;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The file of one store, locked against other processes as long as this lives.
#[derive(Debug)]
pub(super) struct Disk {
    file: Box<dyn StorageBackend>,
    /// The same open file: to give the lock back even when a panic in redb has leaked a handle.
    lock: File,
    unwritten: RwLock<Unwritten>,
    fault: Mutex<Option<&'static str>>,
}

#[derive(Debug)]
struct Unwritten {
    /// As long as redb believes the file to be.
    len: u64,
    file_len: u64,
    /// By number.
    blocks: BTreeMap<u64, Arc<Block>>,
}

type Block = [u8; BLOCK];

/// redb's end of a [`Disk`], which outlives it: a database is closed and opened again on the same one.
#[derive(Debug)]
pub(super) struct DiskHandle(pub(super) Arc<Disk>);

impl Disk {
    /// Opens or creates the file, for its owner alone. `ErrorKind::WouldBlock`: another process has it.
    pub(super) fn open(
        path: &Path,
        through: impl FnOnce(FileBackend) -> Box<dyn StorageBackend>,
    ) -> io::Result<Arc<Disk>> {
        let mut file = open_private(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if was_never_begun(&mut file)? {
            file.set_len(0)?;
        }
        let file_len = file.metadata()?.len();
        let lock = file.try_clone()?;
        let backend = FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Arc::new(Disk {
            file: through(backend),
            lock,
            unwritten: RwLock::new(Unwritten { len: file_len, file_len, blocks: BTreeMap::new() }),
            fault: Mutex::default(),
        }))
    }

    /// Why the file does not take what is to be written; None when it has taken everything so far.
    pub(super) fn fault(&self) -> Option<&'static str> {
        *self.fault_slot()
    }

    pub(super) fn len(&self) -> u64 {
        self.read_unwritten().len
    }

    /// Writes what is not written yet and waits until it is on the disk.
    pub(super) fn flush(&self) -> Result<(), &'static str> {
        let outcome = self.write_out().map_err(|error| reason(&error));
        *self.fault_slot() = outcome.err();
        outcome
    }

    /// Lets another process, or another [`Disk`], have the file.
    pub(super) fn unlock(&self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "cannot unlock the session file");
        }
    }

    fn write_out(&self) -> io::Result<()> {
        // A copy of the list, not of the blocks: readers go on while the disk is busy.
        let (len, file_len, blocks) = {
            let unwritten = self.read_unwritten();
            (unwritten.len, unwritten.file_len, unwritten.blocks.clone())
        };
        if len > file_len {
            self.file.set_len(len)?;
            self.write_unwritten().file_len = len;
        }
        for run in runs(&blocks) {
            let bytes: Vec<u8> = run.clone().flat_map(|number| blocks[&number].iter().copied()).collect();
            let start = run.start * BLOCK as u64;
            let within = bytes.len().min(usize::try_from(len.saturating_sub(start)).unwrap_or(usize::MAX));
            self.file.write(start, &bytes[..within])?;
        }
        self.file.sync_data()?;
        // Only now: until here the last commit that is on the disk may still need the tail.
        if len < file_len {
            self.file.set_len(len)?;
        }
        let mut unwritten = self.write_unwritten();
        unwritten.file_len = len;
        unwritten.blocks.retain(|number, block| !blocks.get(number).is_some_and(|written| Arc::ptr_eq(written, block)));
        Ok(())
    }

    fn read_unwritten(&self) -> RwLockReadGuard<'_, Unwritten> {
        self.unwritten.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_unwritten(&self) -> RwLockWriteGuard<'_, Unwritten> {
        self.unwritten.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault_slot(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blocks not written yet hide what the file has in their place.
    fn read_over(&self, unwritten: &Unwritten, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > unwritten.len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let hiding = unwritten.blocks.range(offset / BLOCK as u64..end.div_ceil(BLOCK as u64));
        let is_hidden = hiding.clone().count() as u64 == end.div_ceil(BLOCK as u64) - offset / BLOCK as u64;
        if !is_hidden {
            let in_file = usize::try_from(unwritten.file_len.saturating_sub(offset)).unwrap_or(usize::MAX);
            let (old, new) = out.split_at_mut(in_file.min(out.len()));
            self.file.read(offset, old)?;
            new.fill(0);
        }
        for (&number, block) in hiding {
            let at = number * BLOCK as u64;
            let (from, to) = (at.max(offset), (at + BLOCK as u64).min(end));
            out[span(from, to, offset)].copy_from_slice(&block[span(from, to, at)]);
        }
        Ok(())
    }
}

impl StorageBackend for DiskHandle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_over(&self.0.read_unwritten(), offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut unwritten = self.0.write_unwritten();
        unwritten.len = len;
        unwritten.blocks.split_off(&len.div_ceil(BLOCK as u64));
        Ok(())
    }

    /// Always Ok: see [`Disk::fault`].
    fn sync_data(&self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut unwritten = self.0.write_unwritten();
        let end = offset + data.len() as u64;
        if end > unwritten.len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        for number in offset / BLOCK as u64..end.div_ceil(BLOCK as u64) {
            let at = number * BLOCK as u64;
            let (from, to) = (at.max(offset), (at + BLOCK as u64).min(end));
            let mut block = [0; BLOCK];
            if to - from < BLOCK as u64 {
                let known = BLOCK.min(usize::try_from(unwritten.len - at).unwrap_or(BLOCK));
                self.0.read_over(&unwritten, at, &mut block[..known])?;
            }
            block[span(from, to, at)].copy_from_slice(&data[span(from, to, offset)]);
            unwritten.blocks.insert(number, Arc::new(block));
        }
        Ok(())
    }
}

/// A label for what the machine said.
pub(super) fn reason(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => "disk_full",
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => "store_read_only",
        _ => "store_io",
    }
}

fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let file = options.mode(OWNER_ONLY).open(path)?;
        if file.metadata()?.permissions().mode() & 0o777 != OWNER_ONLY {
            file.set_permissions(std::fs::Permissions::from_mode(OWNER_ONLY))?;
        }
        Ok(file)
    }
    #[cfg(not(unix))]
    options.open(path)
}

/// Whether the process that created the file ended before it wrote anything: nothing but zeros, and few of them.
fn was_never_begun(file: &mut File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.by_ref().take(LONGEST_BEGINNING).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start.len() as u64 == file.metadata()?.len() && start.iter().all(|&byte| byte == 0))
}

/// Neighbouring blocks are written at once; block 0, which names the tree that counts, after all others.
fn runs(blocks: &BTreeMap<u64, Arc<Block>>) -> Vec<std::ops::Range<u64>> {
    let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
    for &number in blocks.keys().filter(|&&number| number > 0) {
        match runs.last_mut() {
            Some(run) if run.end == number && run.end - run.start < MOST_BLOCKS_AT_ONCE => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs.extend(blocks.contains_key(&0).then_some(0..1));
    runs
}

/// `from..to`, counted from `base`; no longer than a read or a write of redb.
fn span(from: u64, to: u64, base: u64) -> std::ops::Range<usize> {
    (from - base) as usize..(to - base) as usize
}

/// redb's page.
const BLOCK: usize = 4096;
const MOST_BLOCKS_AT_ONCE: u64 = 256;
const LONGEST_BEGINNING: u64 = 8 << 20;
#[cfg(unix)]
const OWNER_ONLY: u32 = 0o600;
