//! Sessions that this process has opened: what makes a warm read cost nothing.
//!
//! Bounded by memory, and kept honest: a store that others write to as well says what has changed
//! ([`Opened::changed`]), and says when it cannot know ([`Opened::trust`]); then everybody asks the store.
//! Apart from that it knows what must end with its session: open WebSockets and event streams
//! ([`Opened::hold`]).

use super::{Session, SessionKey, Vitals};
use dashmap::DashMap;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// See the module.
pub struct Opened {
    sessions: Cache<SessionKey, Arc<Session>, Bytes>,
    /// What outlives a state: a change elsewhere does not make this process forget what it has seen.
    vitals: Cache<SessionKey, Arc<Vitals>>,
    /// Counts changes, by key: an answer that was under way while its session changed is not kept.
    changes: Vec<AtomicU64>,
    trusted: AtomicBool,
    held: DashMap<SessionKey, Held>,
    /// Some held session may have ended elsewhere.
    doubt: Notify,
}

/// The right to keep what the store is about to answer.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    key: SessionKey,
    change: u64,
}

/// As long as this lives, somebody is told when the session ends.
pub struct Hold {
    opened: Arc<Opened>,
    key: SessionKey,
    ended: CancellationToken,
}

struct Held {
    by: usize,
    in_doubt: bool,
    ended: CancellationToken,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<SessionKey, Arc<Session>> for Bytes {
    fn weight(&self, _: &SessionKey, session: &Arc<Session>) -> u64 {
        session.weight
    }
}

impl Opened {
    /// Keeps about `most_bytes` of opened sessions.
    #[must_use]
    pub fn new(most_bytes: u64) -> Arc<Opened> {
        let estimated_items = usize::try_from(most_bytes / USUAL_WEIGHT).unwrap_or(usize::MAX).max(16);
        Arc::new(Opened {
            sessions: Cache::with_weighter(estimated_items, most_bytes, Bytes),
            vitals: Cache::new(estimated_items),
            changes: (0..CHANGE_COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            trusted: AtomicBool::new(true),
            held: DashMap::new(),
            doubt: Notify::new(),
        })
    }

    /// The newest state, if it is known here.
    #[must_use]
    pub fn peek(&self, key: SessionKey) -> Option<Arc<Session>> {
        if !self.trusted.load(Ordering::Acquire) {
            return None;
        }
        self.sessions.get(&key)
    }

    /// What all states of this session share.
    #[must_use]
    pub fn vitals(&self, key: SessionKey) -> Arc<Vitals> {
        self.vitals.get_or_insert_with(&key, || Ok::<_, Infallible>(Arc::default())).unwrap_or_default()
    }

    /// Every session at hand. Takes a while.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.sessions.iter().map(|(_, session)| session).collect()
    }

    /// Before the store is asked or written to.
    #[must_use]
    pub fn ticket(&self, key: SessionKey) -> Ticket {
        Ticket { key, change: self.counter(key).load(Ordering::Acquire) }
    }

    /// Keeps what the store answered, unless the session has changed since, or is known in a newer state.
    pub fn keep(&self, ticket: Ticket, session: &Arc<Session>) {
        let counter = self.counter(ticket.key);
        let is_current = || counter.load(Ordering::Acquire) == ticket.change;
        if !is_current() || self.sessions.get(&ticket.key).is_some_and(|known| known.version >= session.version) {
            return;
        }
        self.sessions.insert(ticket.key, Arc::clone(session));
        if !is_current() {
            self.sessions.remove(&ticket.key);
        }
    }

    /// Keeps what this process has just written in the place of an older state.
    pub fn replaced(&self, ticket: Ticket, session: &Arc<Session>) {
        let counter = self.counter(ticket.key);
        // Answers that are under way are older than this.
        let next = ticket.change + 1;
        if counter.compare_exchange(ticket.change, next, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.keep(Ticket { change: next, ..ticket }, session);
        } else {
            counter.fetch_add(1, Ordering::AcqRel);
            self.sessions.remove(&ticket.key);
        }
    }

    /// The session has another state now, or none; whoever has to know it asks the store.
    pub fn changed(&self, key: SessionKey) {
        self.counter(key).fetch_add(1, Ordering::AcqRel);
        self.sessions.remove(&key);
        if let Some(mut held) = self.held.get_mut(&key) {
            held.in_doubt = true;
            self.doubt.notify_one();
        }
    }

    /// Anything may have changed.
    pub fn all_changed(&self) {
        self.changes.iter().for_each(|counter| {
            counter.fetch_add(1, Ordering::AcqRel);
        });
        self.sessions.clear();
        self.doubt_held();
    }

    /// Whether the store is able to say what changes. While it is not, nothing here counts.
    pub fn trust(&self, trusted: bool) {
        self.trusted.store(trusted, Ordering::Release);
        self.all_changed();
    }

    /// The session is over, here and everywhere: what was opened with it closes.
    pub fn ended(&self, key: SessionKey) {
        self.changed(key);
        self.vitals.remove(&key);
        if let Some((_, held)) = self.held.remove(&key) {
            held.ended.cancel();
        }
    }

    /// For what stays open as long as the session lives. The session may have ended just before, so it is
    /// looked up once more.
    #[must_use]
    pub fn hold(self: &Arc<Opened>, key: SessionKey) -> Hold {
        let mut held =
            self.held.entry(key).or_insert_with(|| Held { by: 0, in_doubt: true, ended: CancellationToken::new() });
        held.by += 1;
        held.in_doubt = true;
        self.doubt.notify_one();
        Hold { opened: Arc::clone(self), key, ended: held.ended.clone() }
    }

    /// Time has passed: any held session may be over.
    pub fn doubt_held(&self) {
        self.held.iter_mut().for_each(|mut held| held.in_doubt = true);
        self.doubt.notify_one();
    }

    /// Waits until some held session may have ended, and names those.
    pub async fn in_doubt(&self) -> Vec<SessionKey> {
        loop {
            let mut doubtful = Vec::new();
            for mut held in self.held.iter_mut() {
                if std::mem::take(&mut held.in_doubt) {
                    doubtful.push(*held.key());
                }
            }
            if !doubtful.is_empty() {
                return doubtful;
            }
            self.doubt.notified().await;
        }
    }

    fn counter(&self, key: SessionKey) -> &AtomicU64 {
        let number = usize::from(u16::from_be_bytes([key.0[0], key.0[1]]));
        &self.changes[number % CHANGE_COUNTERS]
    }
}

impl Hold {
    /// Resolves when the session has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let dashmap::mapref::entry::Entry::Occupied(mut held) = self.opened.held.entry(self.key) {
            held.get_mut().by -= 1;
            if held.get().by == 0 {
                held.remove();
            }
        }
    }
}

/// A power of two, so that keys spread evenly.
const CHANGE_COUNTERS: usize = 4096;
/// A session with tokens of a kilobyte or two.
const USUAL_WEIGHT: u64 = 8 * 1024;
