//! The tables, how they are opened, and what is done with a file that is damaged.

use super::FileProblem;
use super::disk::{Disk, DiskHandle};
use super::ledger::{Index, Leased, Removals, decode_filter};
use crate::clock::{Clock, Mono};
use crate::session::SessionKey;
use crate::session::store::{OnceName, Record};
use aws_lc_rs::digest::{Context, SHA256};
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    StorageError, Table, TableDefinition, TableHandle, WriteTransaction,
};
use std::any::Any;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Session key → [`encode_row`].
pub(super) const RECORDS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("records");
/// Session key → version, `last_seen`, `expires`: what touching changed in that version.
pub(super) const TOUCHED: TableDefinition<&[u8; 32], (u64, u64, u64)> = TableDefinition::new("touched");
/// Session key → when it ended.
pub(super) const ENDED: TableDefinition<&[u8; 32], u64> = TableDefinition::new("ended");
/// A number → a filter as JSON, and when it was applied.
pub(super) const REMOVALS: TableDefinition<u64, (&[u8], u64)> = TableDefinition::new("removals");
/// Session key → generation and owner of a refresh that began, and of which nobody said how it ended.
pub(super) const REFRESHES: TableDefinition<&[u8; 32], (u64, u128)> = TableDefinition::new("refreshes");
/// Name → until when it counts as taken.
pub(super) const TAKEN: TableDefinition<&[u8; 32], u64> = TableDefinition::new("taken");
/// `format` → [`FORMAT`].
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// All tables of one transaction.
pub(super) struct Tables<'txn> {
    pub(super) records: Table<'txn, &'static [u8; 32], &'static [u8]>,
    pub(super) touched: Table<'txn, &'static [u8; 32], (u64, u64, u64)>,
    pub(super) ended: Table<'txn, &'static [u8; 32], u64>,
    pub(super) removals: Table<'txn, u64, (&'static [u8], u64)>,
    pub(super) refreshes: Table<'txn, &'static [u8; 32], (u64, u128)>,
    pub(super) taken: Table<'txn, &'static [u8; 32], u64>,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Tables<'txn>, redb::Error> {
        Ok(Tables {
            records: txn.open_table(RECORDS)?,
            touched: txn.open_table(TOUCHED)?,
            ended: txn.open_table(ENDED)?,
            removals: txn.open_table(REMOVALS)?,
            refreshes: txn.open_table(REFRESHES)?,
            taken: txn.open_table(TAKEN)?,
        })
    }

    pub(super) fn is_taken(&self, name: &OnceName, now: u64) -> Result<bool, redb::Error> {
        Ok(self.taken.get(name.as_bytes())?.is_some_and(|until| now < until.value()))
    }
}

/// Where the file is, and what stands between it and redb (nothing, outside tests).
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) through: Box<dyn Fn(FileBackend) -> Box<dyn StorageBackend> + Send>,
}

/// An open file.
pub(super) struct Opened {
    pub(super) disk: Arc<Disk>,
    pub(super) contents: Contents,
}

/// A database that has been checked page by page, and what is kept of it in memory.
pub(super) struct Contents {
    pub(super) database: Database,
    pub(super) index: Index,
    pub(super) removals: Removals,
}

impl Place {
    /// Opens the database, or begins one. A damaged file is moved aside, so that one that was hit by a bad disk
    /// does not keep the gateway from starting again and again.
    pub(super) fn open(&self, clock: &Clock) -> Result<Opened, FileProblem> {
        let disk = Disk::open(&self.path, &self.through).map_err(FileProblem::from_io)?;
        match open_on(&disk) {
            Ok(contents) => {
                sync_directory_of(&self.path);
                Ok(Opened { disk, contents })
            }
            Err(Refusal::Damaged(what)) => {
                self.set_aside(&what, clock)?;
                disk.unlock();
                let disk = Disk::open(&self.path, &self.through).map_err(FileProblem::from_io)?;
                let contents = open_on(&disk).map_err(|refusal| {
                    disk.unlock();
                    FileProblem::from_refusal(refusal)
                })?;
                sync_directory_of(&self.path);
                Ok(Opened { disk, contents })
            }
            Err(other) => {
                disk.unlock();
                Err(FileProblem::from_refusal(other))
            }
        }
    }

    fn set_aside(&self, what: &str, clock: &Clock) -> Result<(), FileProblem> {
        let moved_to = (0..)
            .map(|nth| {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".damaged-{}", clock.now().unix + nth));
                PathBuf::from(name)
            })
            .find(|name| !name.exists())
            .unwrap_or_default();
        fs::rename(&self.path, &moved_to).map_err(FileProblem::from_io)?;
        tracing::error!(
            reason = "store_damaged",
            file = %self.path.display(),
            moved_to = %moved_to.display(),
            what,
            "the session file is damaged: it has been moved aside and a new one begun; everyone has to sign in again"
        );
        Ok(())
    }
}

/// Why a file is no database of ours, now or ever.
#[derive(Debug)]
pub(super) enum Refusal {
    Damaged(String),
    NewerFormat(u64),
    Io(io::Error),
    /// The label of a [`Disk::fault`].
    Fault(&'static str),
}

/// Opens the database on this disk: all checksums are verified, whether or not it was closed in order, because
/// redb trusts the pages it reads later.
pub(super) fn open_on(disk: &Arc<Disk>) -> Result<Contents, Refusal> {
    catch(|| {
        let handle = DiskHandle(Arc::clone(disk));
        let mut builder = Builder::new();
        let database =
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create_with_backend(handle)?;
        begin_or_check_format(&database)?;
        let contents = load(database, disk)?;
        disk.fault().map_or(Ok(contents), |fault| Err(Refusal::Fault(fault)))
    })
}

/// Runs `work` on the database; a panic in redb means that it found something it does not expect.
pub(super) fn catch<T, E: From<Panicked>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Panicked::from(panic).into()))
}

/// What a panic said.
pub(super) struct Panicked(pub(super) String);

impl From<Box<dyn Any + Send>> for Panicked {
    fn from(panic: Box<dyn Any + Send>) -> Panicked {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Panicked(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
    }
}

impl From<Panicked> for Refusal {
    fn from(panic: Panicked) -> Refusal {
        Refusal::Damaged(panic.0)
    }
}

impl From<Panicked> for redb::Error {
    fn from(panic: Panicked) -> redb::Error {
        redb::Error::Corrupted(panic.0)
    }
}

impl From<DatabaseError> for Refusal {
    fn from(error: DatabaseError) -> Refusal {
        redb::Error::from(error).into()
    }
}

impl From<redb::Error> for Refusal {
    fn from(error: redb::Error) -> Refusal {
        match error {
            // The file is shorter than it says, or says something that cannot be.
            redb::Error::Io(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
                Refusal::Damaged(error.to_string())
            }
            redb::Error::Io(error) => Refusal::Io(error),
            redb::Error::PreviousIo => Refusal::Io(ErrorKind::Other.into()),
            other => Refusal::Damaged(other.to_string()),
        }
    }
}

/// A row of [`RECORDS`]: the first eight bytes of a SHA-256 over the key and the rest, then the record.
pub(super) fn encode_row(key: &SessionKey, record: &Record) -> Vec<u8> {
    let encoded = record.encode();
    let mut row = Vec::with_capacity(CHECK + encoded.len());
    row.extend(check_of(key, &encoded));
    row.extend(encoded);
    row
}

/// None for a row that was damaged, belongs to another key, or comes from a format of the future.
pub(super) fn decode_row(key: &SessionKey, row: &[u8]) -> Option<Record> {
    let (check, encoded) = row.split_first_chunk::<CHECK>()?;
    (*check == check_of(key, encoded)).then(|| Record::decode(encoded))?
}

/// A file that was created or renamed is only there after a power cut when its directory was written too.
fn sync_directory_of(path: &Path) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(error) = File::open(parent).and_then(|directory| directory.sync_all()) {
        tracing::warn!(directory = %parent.display(), %error, "cannot sync the directory of the session file");
    }
}

/// Reads all there is into the index, drops what cannot be read, and packs a file that is mostly empty.
fn load(mut database: Database, disk: &Disk) -> Result<Contents, redb::Error> {
    let index = Index::default();
    let (mut used, mut unreadable) = (0, Vec::new());
    let txn = database.begin_read()?;
    let touched = txn.open_table(TOUCHED)?;
    for row in txn.open_table(RECORDS)?.iter()? {
        let (key, row) = row?;
        let key = SessionKey::from_bytes(*key.value());
        used += row.value().len() as u64;
        let Some(record) = decode_row(&key, row.value()) else {
            unreadable.push(key);
            continue;
        };
        index.add(key, &record);
        let touch = touched.get(key.as_bytes())?.map(|touch| touch.value());
        if let Some((version, seen_at, expires)) = touch
            && version == record.version
            && let Some(mut vitals) = index.vitals.get_mut(&key)
        {
            vitals.touch(Mono(seen_at), Mono(expires));
            vitals.is_written = true;
        }
    }
    for row in txn.open_table(REFRESHES)?.iter()? {
        let (key, mark) = row?;
        let (generation, owner) = mark.value();
        // Whoever held it is gone.
        let leased = Leased { generation, owner, until: Mono::default() };
        index.leases().insert(SessionKey::from_bytes(*key.value()), leased);
    }
    let mut removals = Removals::new();
    for row in txn.open_table(REMOVALS)?.iter()? {
        let (_, row) = row?;
        let (filter, at) = row.value();
        removals.extend(decode_filter(filter).map(|filter| (filter, Mono(at))));
    }
    used += txn.open_table(ENDED)?.len()? * 64;
    drop((touched, txn));
    forget(&database, &unreadable)?;
    if disk.len() > SMALL && used * 3 < disk.len() {
        database.compact().map_err(redb::Error::from)?;
    }
    Ok(Contents { database, index, removals })
}

fn forget(database: &Database, unreadable: &[SessionKey]) -> Result<(), redb::Error> {
    if unreadable.is_empty() {
        return Ok(());
    }
    let txn = database.begin_write()?;
    {
        let mut records = txn.open_table(RECORDS)?;
        for key in unreadable {
            records.remove(key.as_bytes())?;
        }
    }
    txn.commit()?;
    tracing::error!(reason = "store_damaged", count = unreadable.len(), "sessions that cannot be read were dropped");
    Ok(())
}

fn begin_or_check_format(database: &Database) -> Result<(), Refusal> {
    let format = format_of(database)?;
    match format {
        Some(FORMAT) => Ok(()),
        Some(newer) if newer > FORMAT => Err(Refusal::NewerFormat(newer)),
        Some(other) => Err(Refusal::Damaged(format!("format {other}, which never was"))),
        None => Ok(begin(database)?),
    }
}

/// None in a database without any table.
fn format_of(database: &Database) -> Result<Option<u64>, redb::Error> {
    let txn = database.begin_read()?;
    let names: Vec<String> = txn.list_tables()?.map(|table| table.name().to_owned()).collect();
    if names.is_empty() {
        return Ok(None);
    }
    let format = txn.open_table(META)?.get("format")?.map(|format| format.value());
    format.map(Some).ok_or_else(|| StorageError::Corrupted("no format number".into()).into())
}

fn begin(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    Tables::open(&txn)?;
    txn.open_table(META)?.insert("format", FORMAT)?;
    txn.commit()?;
    Ok(())
}

fn check_of(key: &SessionKey, encoded: &[u8]) -> [u8; CHECK] {
    let mut hash = Context::new(&SHA256);
    hash.update(key.as_bytes());
    hash.update(encoded);
    let mut check = [0; CHECK];
    check.copy_from_slice(&hash.finish().as_ref()[..CHECK]);
    check
}

#[cfg(test)]
pub(super) fn write_format(database: &Database, format: u64) {
    let txn = database.begin_write().unwrap();
    txn.open_table(META).unwrap().insert("format", format).unwrap();
    txn.commit().unwrap();
}

/// The layout of the tables. A file of a higher one is left as it is.
pub(super) const FORMAT: u64 = 1;
const CHECK: usize = 8;
/// What redb holds besides the page cache of the machine.
const CACHE_BYTES: usize = 64 << 20;
/// Below this a file is not worth packing.
const SMALL: u64 = 32 << 20;
