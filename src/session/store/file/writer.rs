//! The one thread that writes. It takes all tasks that wait into one transaction, so that many writes share one
//! fsync, and acknowledges them when that transaction is on the disk. When the disk fails it keeps trying by itself.

use super::database::{Opened, Place, Refusal, Tables, catch, open_on};
use super::disk::{self, Disk};
use super::ledger::{Ledger, Removals};
use super::{FileProblem, Shared};
use crate::clock::{Clock, Mono};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Part of a transaction; gives back what is to be said once that is on the disk. One that is dropped has failed.
pub(super) type Task = Box<dyn FnOnce(&mut Ledger<'_, '_>) -> Result<Acknowledge, redb::Error> + Send>;
pub(super) type Acknowledge = Box<dyn FnOnce() + Send>;

pub(super) enum Message {
    /// Somebody waits for it.
    Write(Task),
    /// Nobody does: it goes along with the next one.
    Later(Task),
    /// A reader has found the database unusable.
    Reopen {
        /// Which; it may be open again by now.
        opening: u64,
        reason: &'static str,
    },
    /// Writes what is left, and ends.
    Close,
}

pub(super) struct Writer {
    place: Place,
    most_sessions: usize,
    clock: Clock,
    shared: Arc<Shared>,
    disk: Arc<Disk>,
    removals: Removals,
    later: Vec<Task>,
    /// See [`Writer::confirm`].
    is_confirmed: bool,
    retry_at: Mono,
    wait: Duration,
}

/// Of a commit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phases {
    One,
    Two,
}

impl Writer {
    /// Opens the file. Nothing is written yet but by [`Writer::run`].
    pub(super) fn open(
        place: Place,
        most_sessions: usize,
        clock: Clock,
        shared: Arc<Shared>,
    ) -> Result<Writer, FileProblem> {
        let began = clock.mono();
        let Opened { disk, contents } = place.open(&clock)?;
        let sessions = contents.index.vitals.len();
        let took = clock.mono().since(began).as_millis();
        tracing::info!(file = %place.path.display(), sessions, took_ms = took, "session file open");
        let removals = shared.put(contents);
        let (retry_at, wait) = (Mono::default(), FIRST_WAIT);
        let (later, is_confirmed) = (Vec::new(), false);
        Ok(Writer { place, most_sessions, clock, shared, disk, removals, later, is_confirmed, retry_at, wait })
    }

    /// Until it is told to close, or nobody is left who could.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let mut next = messages.recv_timeout(self.until_something_is_due());
            if self.shared.fault().is_some() && self.clock.mono() >= self.retry_at {
                self.heal();
            }
            if matches!(next, Err(RecvTimeoutError::Timeout)) && !self.is_confirmed {
                self.confirm();
            }
            let mut tasks = Vec::new();
            let mut is_last = false;
            loop {
                match next {
                    Ok(Message::Write(task)) => tasks.push(task),
                    Ok(Message::Later(task)) => {
                        self.later.push(task);
                        self.is_confirmed = false;
                    }
                    Ok(Message::Reopen { opening, reason }) if self.is_in_use(opening) => self.give_up(reason),
                    Ok(Message::Reopen { .. }) | Err(RecvTimeoutError::Timeout) => {}
                    Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => is_last = true,
                }
                if is_last || tasks.len() >= MOST_AT_ONCE {
                    break;
                }
                match messages.try_recv() {
                    Ok(message) => next = Ok(message),
                    Err(_) => break,
                }
            }
            if !tasks.is_empty() || is_last || self.later.len() >= MOST_AT_ONCE {
                let mut all = std::mem::take(&mut self.later);
                all.extend(tasks);
                self.write(all, Phases::One);
            }
            if is_last {
                return self.close();
            }
        }
    }

    fn is_in_use(&self, opening: u64) -> bool {
        self.shared.fault().is_none() && self.shared.openings.load(Ordering::Relaxed) == opening
    }

    fn until_something_is_due(&self) -> Duration {
        match self.shared.fault() {
            Some(_) => self.wait,
            None if !self.is_confirmed => QUIET,
            None => AT_LEAST_EVERY,
        }
    }

    /// A commit in one phase costs one fsync. But when redb finds it damaged after a crash it cannot know whether it
    /// was ever whole, and goes back to the one before: what was removed would be there again. So a moment later,
    /// when nobody waits for it, another commit follows in two phases: of those redb knows, and says what is damaged.
    fn confirm(&mut self) {
        let later = std::mem::take(&mut self.later);
        self.write(later, Phases::Two);
        self.is_confirmed = true;
    }

    fn write(&mut self, tasks: Vec<Task>, phases: Phases) {
        if self.shared.fault().is_some() {
            return;
        }
        let mut acknowledgements = Vec::with_capacity(tasks.len());
        let outcome = catch(|| self.commit(tasks, phases, &mut acknowledgements));
        self.settle(outcome, acknowledgements);
    }

    fn settle(&mut self, outcome: Result<(), redb::Error>, acknowledgements: Vec<Acknowledge>) {
        match outcome {
            Ok(()) => match self.disk.fault() {
                None => acknowledgements.into_iter().for_each(|acknowledge| acknowledge()),
                Some(reason) => self.postpone(reason),
            },
            Err(error) => self.give_up(reason_of(&error)),
        }
    }

    fn commit(
        &mut self,
        tasks: Vec<Task>,
        phases: Phases,
        acknowledgements: &mut Vec<Acknowledge>,
    ) -> Result<(), redb::Error> {
        let slot = self.shared.slot.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = slot.as_ref() else { return Err(redb::Error::DatabaseClosed) };
        let mut txn = database.begin_write()?;
        txn.set_two_phase_commit(phases == Phases::Two);
        let index = self.shared.index();
        let (has_changed, undecodable) = {
            let mut ledger = Ledger {
                tables: Tables::open(&txn)?,
                index: &index,
                removals: &mut self.removals,
                most_sessions: self.most_sessions,
                has_changed: false,
                undecodable: 0,
            };
            for task in tasks {
                acknowledgements.push(task(&mut ledger)?);
            }
            (ledger.has_changed, ledger.undecodable)
        };
        if has_changed || phases == Phases::Two {
            txn.commit()?;
            self.is_confirmed = false;
        } else {
            txn.abort()?;
        }
        self.shared.report_undecodable(undecodable);
        Ok(())
    }

    /// The disk does not take what redb believes to be written; it is kept, and tried again.
    fn postpone(&mut self, reason: &'static str) {
        self.shared.set_fault(Some(reason));
        self.retry_at = self.clock.mono().after(self.wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        tracing::error!(reason, file = %self.place.path.display(), "the session file cannot be written");
    }

    /// The database cannot be used any more; a new one is opened on the same file.
    fn give_up(&mut self, reason: &'static str) {
        self.postpone(reason);
        self.shut();
        self.heal();
    }

    fn heal(&mut self) {
        if let Err(reason) = self.try_to_heal() {
            return self.postpone(reason);
        }
        self.wait = FIRST_WAIT;
        self.shared.set_fault(None);
        tracing::warn!(file = %self.place.path.display(), "the session file can be written again");
    }

    fn try_to_heal(&mut self) -> Result<(), &'static str> {
        self.disk.flush()?;
        if self.shared.is_open() {
            return Ok(());
        }
        let contents = match open_on(&self.disk) {
            Ok(contents) => contents,
            Err(Refusal::Damaged(_)) => {
                // Finds it damaged once more, sets it aside and begins a new one.
                self.disk.unlock();
                let Opened { disk, contents } = self.place.open(&self.clock).map_err(|problem| problem.reason())?;
                self.disk = disk;
                contents
            }
            Err(Refusal::Io(error)) => return Err(disk::reason(&error)),
            Err(Refusal::Fault(reason)) => return Err(reason),
            Err(Refusal::NewerFormat(_)) => return Err("store_newer_format"),
        };
        self.removals = self.shared.put(contents);
        self.is_confirmed = false;
        Ok(())
    }

    fn close(mut self) {
        let mut is_done = false;
        while !is_done && self.shared.fault().is_none() {
            let (sender, receiver) = std::sync::mpsc::channel();
            let task: Task = Box::new(move |ledger| {
                let written = ledger.write_touches(MOST_AT_ONCE)?;
                Ok(Box::new(move || sender.send(written).unwrap_or_default()) as Acknowledge)
            });
            self.write(vec![task], Phases::One);
            is_done = receiver.try_recv().is_ok_and(|written| written < MOST_AT_ONCE);
        }
        self.shut();
        self.disk.unlock();
        self.shared.set_fault(Some("store_closed"));
    }

    fn shut(&mut self) {
        let Some(database) = self.shared.take() else { return };
        let closed = catch(|| database.close().map_err(redb::Error::from));
        if let Err(error) = closed {
            tracing::warn!(reason = reason_of(&error), "the session file was not closed in order; it will be checked");
        }
    }
}

/// A label for what redb said.
pub(super) fn reason_of(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::Io(error) => disk::reason(error),
        redb::Error::PreviousIo => "store_io",
        redb::Error::DatabaseClosed => "store_closed",
        _ => "store_damaged",
    }
}

/// Tasks in one transaction.
pub(super) const MOST_AT_ONCE: usize = 1024;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Nobody writes for so long: time to confirm the last commit.
const QUIET: Duration = Duration::from_millis(50);
const AT_LEAST_EVERY: Duration = Duration::from_secs(3600);
