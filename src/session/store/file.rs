//! The store in a file: for one process on one machine, and there again after a crash.
//!
//! An embedded database (redb) behind one writer thread. What is acknowledged has been fsynced; writes that
//! wait at the same time share one fsync. Reads see the last commit and wait for nobody: they run where they are
//! called, a few pages from the cache of redb or of the machine. Two things are not fsynced on their own:
//! - [`SessionStore::touch`] stays in memory until the next sweep, at most half a minute later;
//! - [`SessionStore::release_lease`] goes along with the next write. Until then a crash makes the next lease on the
//!   same generation say `interrupted`, which is the careful answer.
//!
//! A lease is fsynced before it is granted: after a crash, power cuts included, it is known which refreshes had
//! begun. Nobody holds a lease longer than the process lives.
//!
//! A disk that is full or read-only stops writes, each with a reason; sessions that are there can still be read,
//! and writes go on by themselves when the disk takes them again (see `file/disk.rs`). A file that is damaged is
//! moved aside and a new one begun.

mod database;
mod disk;
mod ledger;
#[cfg(test)]
mod tests;
mod writer;

use self::database::{Contents, ENDED, Place, RECORDS, Refusal, catch, decode_row};
use self::ledger::{Index, Leased, Ledger, Removals};
use self::writer::{Acknowledge, MOST_AT_ONCE, Message, Task, Writer, reason_of};
use super::{Claim, Creation, Filter, Lease, Lookup, OnceName, Page, Record, Replacement, SessionStore, StoreError};
use crate::clock::{Clock, Mono, Now};
use crate::session::SessionKey;
use async_trait::async_trait;
use redb::{Database, ReadTransaction, ReadableDatabase};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, mem};
use tokio::sync::oneshot;

/// Where, and how many.
#[derive(Debug, Clone)]
pub struct FileSettings {
    /// The file; its directory exists. It is created for its owner alone (0600).
    pub path: PathBuf,
    /// A session beyond these is not created. Each takes about 300 bytes of memory, and its record in the file.
    pub most_sessions: usize,
}

/// One file, one process.
pub struct FileStore {
    shared: Arc<Shared>,
    messages: Mutex<Option<SyncSender<Message>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Why a store cannot be opened. None of these has changed the file.
#[derive(Debug)]
pub enum FileProblem {
    /// Another gateway has it open.
    InUse,
    /// The file or its directory may not be read or written by this user.
    NotPermitted,
    /// There is no room to begin a file, or to check one that was not closed in order.
    Full,
    /// A newer version of the gateway wrote it, in this format.
    NewerFormat(u64),
    /// Anything else the machine said.
    Io(io::Error),
}

impl FileStore {
    /// Opens the file and checks all of it, or begins one. A damaged file is renamed to `<path>.damaged-<unix
    /// seconds>`, with an error in the log, and a new one is begun.
    ///
    /// Blocks for about as long as the file takes to be read.
    ///
    /// # Errors
    /// [`FileProblem`].
    pub fn open(settings: &FileSettings, clock: Clock) -> Result<FileStore, FileProblem> {
        let place = Place { path: settings.path.clone(), through: Box::new(|file| Box::new(file)) };
        FileStore::open_at(place, settings.most_sessions, clock)
    }

    fn open_at(place: Place, most_sessions: usize, clock: Clock) -> Result<FileStore, FileProblem> {
        let shared = Arc::new(Shared::default());
        let writer = Writer::open(place, most_sessions, clock, Arc::clone(&shared))?;
        let (messages, receiver) = sync_channel(MOST_WAITING);
        let thread = thread::Builder::new().name("session-file".into());
        let writer = thread.spawn(move || writer.run(&receiver)).map_err(FileProblem::from_io)?;
        Ok(FileStore { shared, messages: Mutex::new(Some(messages)), writer: Mutex::new(Some(writer)) })
    }

    /// What `work` answers, when it is on the disk.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger<'_, '_>) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (task, answer) = task(work);
        self.send(Message::Write(task))?;
        self.answer(answer).await
    }

    async fn answer<T>(&self, answer: oneshot::Receiver<T>) -> Result<T, StoreError> {
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.shared.fault_or("store_failed")),
            Err(_) => Err(StoreError { reason: "store_slow" }),
        }
    }

    fn send(&self, message: Message) -> Result<(), StoreError> {
        use std::sync::mpsc::TrySendError::{Disconnected, Full};
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(messages) = &*messages else { return Err(StoreError { reason: "store_closed" }) };
        messages.try_send(message).map_err(|error| match error {
            Full(_) => StoreError { reason: "store_busy" },
            Disconnected(_) => self.shared.fault_or("store_failed"),
        })
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let (outcome, opening) = {
            let slot = self.shared.slot.read().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = &*slot else { return Err(self.shared.fault_or("store_closed")) };
            (catch(|| work(&database.begin_read()?)), self.shared.openings.load(Ordering::Relaxed))
        };
        outcome.map_err(|error| {
            let reason = reason_of(&error);
            tracing::error!(reason, %error, "the session file cannot be read; opening it again");
            let _ = self.send(Message::Reopen { opening, reason });
            StoreError { reason }
        })
    }

    fn stop(&self) -> Option<JoinHandle<()>> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A full queue does not matter: the writer also ends when there is nobody left who could write.
        let _ = messages.map(|messages| messages.try_send(Message::Close));
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        let _ = self.stop().map(JoinHandle::join);
    }
}

#[async_trait]
impl SessionStore for FileStore {
    async fn create(
        &self,
        key: SessionKey,
        record: Record,
        most_per_user: usize,
        now: Now,
    ) -> Result<Creation, StoreError> {
        self.write(move |ledger| ledger.create(key, &record, most_per_user, now)).await
    }

    async fn find(&self, key: SessionKey, now: Now) -> Result<Lookup, StoreError> {
        self.read(|txn| {
            if let Some(row) = txn.open_table(RECORDS)?.get(key.as_bytes())? {
                let Some(mut record) = decode_row(&key, row.value()) else {
                    self.shared.report_undecodable(1);
                    return Ok(Lookup::Unknown);
                };
                self.shared.index().freshen(&key, &mut record);
                return Ok(if now.mono < record.expires { Lookup::Live(record) } else { Lookup::Ended });
            }
            let has_ended = txn.open_table(ENDED)?.get(key.as_bytes())?.is_some();
            Ok(if has_ended { Lookup::Ended } else { Lookup::Unknown })
        })
    }

    async fn replace(&self, key: SessionKey, seen: u64, record: Record, now: Now) -> Result<Replacement, StoreError> {
        self.write(move |ledger| ledger.replace(key, seen, &record, now)).await
    }

    async fn touch(&self, key: SessionKey, seen_at: Mono, expires: Mono) -> Result<(), StoreError> {
        if let Some(mut vitals) = self.shared.index().vitals.get_mut(&key) {
            vitals.touch(seen_at, expires);
        }
        Ok(())
    }

    async fn remove(&self, key: SessionKey, now: Now) -> Result<bool, StoreError> {
        self.write(move |ledger| ledger.take(key, now.mono)).await
    }

    async fn remove_where(&self, filter: &Filter, now: Now) -> Result<Vec<SessionKey>, StoreError> {
        let filter = filter.clone();
        self.write(move |ledger| ledger.remove_where(&filter, now.mono)).await
    }

    async fn list(&self, filter: &Filter, cursor: Option<&str>, now: Now) -> Result<Page, StoreError> {
        let after = cursor.and_then(SessionKey::from_hex);
        let index = self.shared.index();
        let candidates = index.candidates(filter).map(|mut keys| {
            keys.retain(|key| after.is_none_or(|after| key.as_bytes() > after.as_bytes()));
            keys.sort_unstable_by_key(|key| *key.as_bytes());
            keys
        });
        self.read(|txn| {
            let table = txn.open_table(RECORDS)?;
            let mut page = Page::default();
            let mut looked_at = 0;
            let mut look_at = |key: SessionKey, row: &[u8]| {
                looked_at += 1;
                if let Some(mut record) = decode_row(&key, row) {
                    index.freshen(&key, &mut record);
                    if now.mono < record.expires && filter.selects(&record.about) {
                        page.records.push((key, record));
                    }
                }
                if page.records.len() == PAGE || looked_at == MOST_LOOKED_AT {
                    page.next = Some(key.to_hex());
                }
                page.next.is_none()
            };
            if let Some(keys) = candidates {
                for key in keys {
                    let row = table.get(key.as_bytes())?;
                    if row.is_some_and(|row| !look_at(key, row.value())) {
                        break;
                    }
                }
                return Ok(page);
            }
            let first = after.map_or([0; 32], |after| *after.as_bytes());
            for row in table.range::<&[u8; 32]>(&first..)? {
                let (key, row) = row?;
                let key = SessionKey::from_bytes(*key.value());
                if after != Some(key) && !look_at(key, row.value()) {
                    break;
                }
            }
            Ok(page)
        })
    }

    async fn lease(&self, claim: &Claim, now: Now) -> Result<Lease, StoreError> {
        let Claim { key, generation, owner, life } = *claim;
        let index = self.shared.index();
        let (before, answer) = {
            let mut leases = index.leases();
            let before = leases.get(&key).copied();
            if before.is_some_and(|held| held.owner != owner && now.mono < held.until) {
                return Ok(Lease::Held);
            }
            // Under the lock, so that marks reach the file in the order of the leases.
            let (task, answer) = task(move |ledger| ledger.mark_refresh(key, generation, owner));
            self.send(Message::Write(task))?;
            leases.insert(key, Leased { generation, owner, until: now.mono.after(life) });
            (before, answer)
        };
        if let Err(error) = self.answer(answer).await {
            let mut leases = index.leases();
            if leases.get(&key).is_some_and(|held| held.owner == owner) {
                match before {
                    Some(before) => leases.insert(key, before),
                    None => leases.remove(&key),
                };
            }
            return Err(error);
        }
        let interrupted = before.is_some_and(|held| held.owner != owner && held.generation == generation);
        Ok(Lease::Granted { interrupted })
    }

    async fn renew_lease(&self, claim: &Claim, now: Now) -> Result<bool, StoreError> {
        let index = self.shared.index();
        let mut leases = index.leases();
        let held = leases.get_mut(&claim.key).filter(|held| held.owner == claim.owner);
        Ok(held.map(|held| held.until = now.mono.after(claim.life)).is_some())
    }

    async fn release_lease(&self, claim: &Claim, resolved: bool) -> Result<(), StoreError> {
        let Claim { key, owner, .. } = *claim;
        let index = self.shared.index();
        let mut leases = index.leases();
        let Some(held) = leases.get_mut(&key).filter(|held| held.owner == owner) else { return Ok(()) };
        if !resolved {
            held.until = Mono::default();
            return Ok(());
        }
        leases.remove(&key);
        self.send(Message::Later(task(move |ledger| ledger.unmark_refresh(key, owner)).0))
    }

    async fn take_once(&self, name: OnceName, life: Duration, now: Now) -> Result<bool, StoreError> {
        self.write(move |ledger| ledger.take_once(&name, life, now.mono)).await
    }

    fn len(&self) -> Option<usize> {
        Some(self.shared.index().vitals.len())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let is_alive = writer.as_ref().is_some_and(|writer| !writer.is_finished());
        if is_alive && self.shared.fault().is_none() { Ok(()) } else { Err(self.shared.fault_or("store_failed")) }
    }

    async fn sweep(&self, now: Now) -> Result<(), StoreError> {
        while !self.write(move |ledger| ledger.sweep(now.mono, MOST_AT_ONCE)).await? {}
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }

    async fn close(&self) {
        if let Some(writer) = self.stop() {
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

/// What readers and the writer have in common.
#[derive(Default)]
struct Shared {
    /// None while it is being opened again. Only the writer puts and takes.
    slot: RwLock<Option<Database>>,
    /// Counts the databases that were in the slot.
    openings: AtomicU64,
    index: RwLock<Arc<Index>>,
    /// Why writes do not work.
    fault: Mutex<Option<&'static str>>,
}

impl Shared {
    fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, Contents { database, index, removals }: Contents) -> Removals {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        self.openings.fetch_add(1, Ordering::Relaxed);
        *slot = Some(database);
        removals
    }

    fn take(&self) -> Option<Database> {
        mem::take(&mut *self.slot.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_open(&self) -> bool {
        self.slot.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn fault(&self) -> Option<&'static str> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault_or(&self, otherwise: &'static str) -> StoreError {
        StoreError { reason: self.fault().unwrap_or(otherwise) }
    }

    fn set_fault(&self, fault: Option<&'static str>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn report_undecodable(&self, count: u64) {
        if count > 0 {
            tracing::error!(reason = "store_damaged", count, "a session that cannot be read counts as none");
        }
    }
}

impl FileProblem {
    /// A label for logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            FileProblem::InUse => "store_in_use",
            FileProblem::NotPermitted => "store_not_permitted",
            FileProblem::Full => "disk_full",
            FileProblem::NewerFormat(_) => "store_newer_format",
            FileProblem::Io(error) => disk::reason(error),
        }
    }

    fn from_io(error: io::Error) -> FileProblem {
        match error.kind() {
            ErrorKind::WouldBlock => FileProblem::InUse,
            ErrorKind::PermissionDenied => FileProblem::NotPermitted,
            _ if disk::reason(&error) == "disk_full" => FileProblem::Full,
            _ => FileProblem::Io(error),
        }
    }

    fn from_refusal(refusal: Refusal) -> FileProblem {
        match refusal {
            Refusal::NewerFormat(format) => FileProblem::NewerFormat(format),
            Refusal::Io(error) => FileProblem::from_io(error),
            Refusal::Fault("disk_full") => FileProblem::Full,
            Refusal::Fault(reason) => FileProblem::Io(io::Error::other(reason)),
            Refusal::Damaged(what) => FileProblem::Io(io::Error::new(ErrorKind::InvalidData, what)),
        }
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileProblem::InUse => f.write_str("another gateway has it open; each one needs a file of its own"),
            FileProblem::NotPermitted => f.write_str("this user may not read and write it"),
            FileProblem::Full => f.write_str("there is no room on the disk"),
            FileProblem::NewerFormat(format) => write!(
                f,
                "a newer version wrote it (format {format}, this one knows {}): run that version, or move the file away \
                 and have everyone sign in again",
                database::FORMAT
            ),
            FileProblem::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FileProblem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FileProblem::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// The work of a transaction, and where its answer comes out once that is on the disk.
fn task<T: Send + 'static>(
    work: impl FnOnce(&mut Ledger<'_, '_>) -> Result<T, redb::Error> + Send + 'static,
) -> (Task, oneshot::Receiver<T>) {
    let (sender, receiver) = oneshot::channel();
    let task: Task = Box::new(move |ledger| {
        let answer = work(ledger)?;
        Ok(Box::new(move || drop(sender.send(answer))) as Acknowledge)
    });
    (task, receiver)
}

const PAGE: usize = 100;
/// Records that one page of a list looks at: a filter that selects few does not make it read the whole file.
const MOST_LOOKED_AT: usize = 1000;
/// Writes that wait for the disk; one more is refused.
const MOST_WAITING: usize = 16_384;
/// A write that takes longer has failed, as far as its caller can tell.
const PATIENCE: Duration = Duration::from_secs(10);
