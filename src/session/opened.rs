//! Sessions that this process has opened: what makes a warm read cost nothing.
//!
//! Bounded by memory, and kept honest: a store that others write to as well says what has changed
//! ([`Opened::changed`]), and says when it cannot know ([`Opened::trust`]); then everybody asks the store.
//! Apart from that it knows what must end with its session: open WebSockets and event streams
//! ([`Opened::hold`]).

use super::{Session, SessionKey, Vitals};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// See the module.
pub struct Opened {
    sessions: Cache<SessionKey, Arc<Session>, Bytes>,
    /// What outlives a state: a change elsewhere does not make this process forget what it has seen.
    vitals: Cache<SessionKey, Arc<Vitals>>,
    /// Counts changes, by key: an answer that was under way while its session changed is not kept. Whoever
    /// writes to `sessions` holds the key's counter, so that nothing is kept after the change that forbids it.
    changes: Vec<Mutex<u64>>,
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
            changes: (0..CHANGE_COUNTERS).map(|_| Mutex::new(0)).collect(),
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
        Ticket { key, change: *self.changes_of(key) }
    }

    /// Keeps what the store answered, unless the session has changed since, or is known in a newer state.
    pub fn keep(&self, ticket: Ticket, session: &Arc<Session>) {
        let changes = self.changes_of(ticket.key);
        if *changes == ticket.change {
            self.keep_newer(session);
        }
    }

    /// Keeps what this process has just written in the place of an older state.
    pub fn replaced(&self, ticket: Ticket, session: &Arc<Session>) {
        let mut changes = self.changes_of(ticket.key);
        // Answers that are under way are older than this.
        *changes += 1;
        if *changes == ticket.change + 1 {
            self.keep_newer(session);
        } else {
            self.sessions.remove(&ticket.key);
        }
    }

    /// The session has another state now, or none; whoever has to know it asks the store.
    pub fn changed(&self, key: SessionKey) {
        {
            let mut changes = self.changes_of(key);
            *changes += 1;
            self.sessions.remove(&key);
        }
        if let Some(mut held) = self.held.get_mut(&key) {
            held.in_doubt = true;
            self.doubt.notify_one();
        }
    }

    /// Anything may have changed.
    pub fn all_changed(&self) {
        for changes in &self.changes {
            *changes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.sessions.clear();
        self.doubt_held();
    }

    /// Whether the store is able to say what changes. While it is not, nothing here counts.
    pub fn trust(&self, trusted: bool) {
        if !trusted {
            self.trusted.store(false, Ordering::Release);
        }
        self.all_changed();
        if trusted {
            self.trusted.store(true, Ordering::Release);
        }
    }

    /// The session is over, here and everywhere: what was opened with it closes.
    pub fn ended(&self, key: SessionKey) {
        self.changed(key);
        self.vitals.remove(&key);
        if let Entry::Occupied(held) = self.held.entry(key) {
            held.get().ended.cancel();
            held.remove();
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

    /// While its counter is held.
    fn keep_newer(&self, session: &Arc<Session>) {
        if self.sessions.peek(&session.key).is_none_or(|known| known.version < session.version) {
            self.sessions.insert(session.key, Arc::clone(session));
        }
    }

    fn changes_of(&self, key: SessionKey) -> MutexGuard<'_, u64> {
        let number = usize::from(u16::from_be_bytes([key.0[0], key.0[1]]));
        self.changes[number % CHANGE_COUNTERS].lock().unwrap_or_else(PoisonError::into_inner)
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
        if let Entry::Occupied(mut held) = self.opened.held.entry(self.key)
            // Else it is somebody else's, who came after the end.
            && !self.ended.is_cancelled()
        {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::Background;
    use crate::clock::{Clock, Mono, Now};
    use crate::session::store::MemoryStore;
    use crate::session::tests::{opening, settings};
    use crate::session::{Found, SessionId, Sessions, TokenSet, Update};
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    fn session(id: &Arc<SessionId>, version: u64) -> Arc<Session> {
        let opening = opening("ada");
        Arc::new(Session {
            key: id.key(),
            id: Arc::clone(id),
            provider: opening.provider,
            identity: Arc::new(opening.identity),
            tokens: Arc::new(TokenSet::new("at".into(), version, Mono(0)).unwrap()),
            custom: Arc::default(),
            started: Now { mono: Mono(0), unix: 0 },
            ends: Mono(u64::MAX),
            transient: false,
            code_flow: None,
            impersonation: None,
            began: Mono(0),
            vitals: Arc::default(),
            version,
            weight: 1,
        })
    }

    type Change = fn(&Opened, SessionKey);

    fn fresh_id() -> Arc<SessionId> {
        Arc::new(SessionId::random().unwrap())
    }

    fn known_version(opened: &Opened, id: &SessionId) -> Option<u64> {
        opened.peek(id.key()).map(|session| session.version)
    }

    #[test]
    fn what_the_store_answered_is_kept() {
        let (opened, id) = (Opened::new(1 << 20), fresh_id());
        assert_eq!(known_version(&opened, &id), None);
        opened.keep(opened.ticket(id.key()), &session(&id, 1));
        assert_eq!(known_version(&opened, &id), Some(1));
    }

    #[test]
    fn an_older_answer_replaces_nothing() {
        let (opened, id) = (Opened::new(1 << 20), fresh_id());
        let ticket = opened.ticket(id.key());
        opened.keep(ticket, &session(&id, 2));
        opened.keep(ticket, &session(&id, 1));
        assert_eq!(known_version(&opened, &id), Some(2));
    }

    #[test]
    fn an_answer_that_a_change_has_overtaken_is_not_kept() {
        let changes: [(&str, Change); 4] = [
            ("changed", |opened, key| opened.changed(key)),
            ("ended", |opened, key| opened.ended(key)),
            ("all changed", |opened, _| opened.all_changed()),
            ("trusted again", |opened, _| opened.trust(true)),
        ];
        for (name, change) in changes {
            let (opened, id) = (Opened::new(1 << 20), fresh_id());
            opened.keep(opened.ticket(id.key()), &session(&id, 1));
            let late = opened.ticket(id.key());
            change(&opened, id.key());
            assert_eq!(known_version(&opened, &id), None, "{name}");
            opened.keep(late, &session(&id, 2));
            assert_eq!(known_version(&opened, &id), None, "{name}");
            opened.keep(opened.ticket(id.key()), &session(&id, 2));
            assert_eq!(known_version(&opened, &id), Some(2), "{name}: who asks afterwards may keep it");
        }
    }

    #[test]
    fn what_was_written_here_is_kept_at_once_and_outdates_answers_under_way() {
        let (opened, id) = (Opened::new(1 << 20), fresh_id());
        opened.keep(opened.ticket(id.key()), &session(&id, 1));
        let (under_way, writing) = (opened.ticket(id.key()), opened.ticket(id.key()));
        opened.replaced(writing, &session(&id, 2));
        assert_eq!(known_version(&opened, &id), Some(2));
        opened.changed(id.key());
        opened.keep(under_way, &session(&id, 1));
        assert_eq!(known_version(&opened, &id), None);
    }

    #[test]
    fn of_two_who_write_at_once_neither_is_believed() {
        let (opened, id) = (Opened::new(1 << 20), fresh_id());
        let tickets = [opened.ticket(id.key()), opened.ticket(id.key())];
        opened.replaced(tickets[1], &session(&id, 3));
        opened.replaced(tickets[0], &session(&id, 2));
        assert_eq!(known_version(&opened, &id), None, "the store knows which is the newer one");
    }

    #[test]
    fn without_trust_nothing_counts() {
        let (opened, id) = (Opened::new(1 << 20), fresh_id());
        opened.keep(opened.ticket(id.key()), &session(&id, 1));
        opened.trust(false);
        assert_eq!(known_version(&opened, &id), None);
        opened.keep(opened.ticket(id.key()), &session(&id, 1));
        assert_eq!(known_version(&opened, &id), None);
        opened.trust(true);
        assert_eq!(known_version(&opened, &id), None, "what was kept meanwhile may be stale");
        opened.keep(opened.ticket(id.key()), &session(&id, 2));
        assert_eq!(known_version(&opened, &id), Some(2));
    }

    #[test]
    fn it_stays_within_its_bound() {
        let opened = Opened::new(100);
        for _ in 0..1000 {
            let id = fresh_id();
            opened.keep(opened.ticket(id.key()), &session(&id, 1));
        }
        assert!(opened.sessions.weight() <= 100);
        assert!(!opened.sessions.is_empty());
    }

    fn is_told(hold: &Hold) -> bool {
        hold.ended.is_cancelled()
    }

    #[tokio::test]
    async fn who_holds_a_session_is_told_of_its_end_and_of_no_other() {
        let (opened, id, other) = (Opened::new(1 << 20), fresh_id(), fresh_id());
        let holds = [opened.hold(id.key()), opened.hold(id.key())];
        let of_other = opened.hold(other.key());
        opened.changed(id.key());
        opened.all_changed();
        opened.trust(false);
        assert!(!holds.iter().any(is_told), "a change is not an end");
        opened.ended(id.key());
        assert!(holds.iter().all(is_told));
        assert!(!is_told(&of_other));
        drop(holds);
        drop(of_other);
        assert!(opened.held.is_empty(), "nothing is left behind");
    }

    #[tokio::test]
    async fn who_came_after_the_end_is_not_forgotten_when_earlier_ones_go() {
        let (opened, id) = (Opened::new(1 << 20), fresh_id());
        let early = opened.hold(id.key());
        opened.ended(id.key());
        let late = opened.hold(id.key());
        drop(early);
        let in_doubt = tokio::time::timeout(Duration::from_secs(1), opened.in_doubt()).await;
        assert_eq!(in_doubt.unwrap(), [id.key()]);
        opened.ended(id.key());
        assert!(is_told(&late));
    }

    #[tokio::test]
    async fn doubts_are_named_once_until_there_are_new_ones() {
        let (opened, id) = (Opened::new(1 << 20), fresh_id());
        let is_silent = async || tokio::time::timeout(Duration::from_millis(10), opened.in_doubt()).await.is_err();
        assert!(is_silent().await);
        let _hold = opened.hold(id.key());
        assert_eq!(opened.in_doubt().await, [id.key()], "it may have ended before it was held");
        assert!(is_silent().await);
        opened.changed(fresh_id().key());
        assert!(is_silent().await, "nobody holds that one");
        let doubts: [Change; 3] =
            [|opened, key| opened.changed(key), |opened, _| opened.all_changed(), |opened, _| opened.doubt_held()];
        for doubt in doubts {
            doubt(&opened, id.key());
            assert_eq!(opened.in_doubt().await, [id.key()]);
        }
    }

    /// Threads that write, that hear of writes elsewhere and that read, on few keys: once a change is announced,
    /// nobody finds the state before it.
    #[test]
    fn nothing_stale_is_found_once_its_change_is_announced() {
        struct Place {
            id: Arc<SessionId>,
            stored: AtomicU64,
            announced: AtomicU64,
        }
        let opened = Opened::new(1 << 20);
        let places: Vec<Place> =
            (0..2).map(|_| Place { id: fresh_id(), stored: AtomicU64::new(1), announced: AtomicU64::new(1) }).collect();
        let (opened, places) = (&opened, &places);
        std::thread::scope(|scope| {
            for number in 0..2 {
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let place = &places[(round + number) % places.len()];
                        let key = place.id.key();
                        let ticket = opened.ticket(key);
                        let version = place.stored.fetch_add(1, Ordering::SeqCst) + 1;
                        // Written here, or elsewhere.
                        if round % 3 == 0 {
                            opened.changed(key);
                        } else {
                            opened.replaced(ticket, &session(&place.id, version));
                        }
                        place.announced.fetch_max(version, Ordering::SeqCst);
                    }
                });
            }
            for number in 0..3 {
                scope.spawn(move || {
                    let mut seen = [0; 2];
                    for round in 0..2 * ROUNDS {
                        let which = (round + number) % places.len();
                        let place = &places[which];
                        let announced = place.announced.load(Ordering::SeqCst);
                        if let Some(version) = known_version(opened, &place.id) {
                            assert!(version >= announced, "{version} after {announced} was announced");
                            assert!(version >= seen[which], "{version} after {} was seen", seen[which]);
                            seen[which] = version;
                        } else {
                            let ticket = opened.ticket(place.id.key());
                            let version = place.stored.load(Ordering::SeqCst);
                            opened.keep(ticket, &session(&place.id, version));
                        }
                    }
                });
            }
        });
        const ROUNDS: usize = 20_000;
    }

    /// The same through [`Sessions`]: one gateway reads and writes, another one writes and says so.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_version_goes_back_while_two_gateways_write() {
        let (clock, background) = (Clock::system(), Background::on_current_runtime());
        let settings = crate::session::Settings {
            secrets: vec!["a session secret of more than thirty-two bytes".into()],
            ..settings()
        };
        let store = Arc::new(MemoryStore::new(10));
        let [opened, opened_elsewhere] = [Opened::new(1 << 20), Opened::new(1 << 20)];
        opened_elsewhere.trust(false);
        let gateway = |opened: &Arc<Opened>| {
            let (store, opened) = (Arc::clone(&store), Arc::clone(opened));
            Sessions::new(settings.clone(), store, opened, background.clone(), clock.clone()).unwrap()
        };
        let (here, elsewhere) = (gateway(&opened), gateway(&opened_elsewhere));
        let session = here.open(opening("ada"), clock.now()).await.unwrap();
        let announced = Arc::new(AtomicU64::new(1));

        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let sessions = if writer % 2 == 0 { here.clone() } else { elsewhere.clone() };
            let (session, announced, opened) = (Arc::clone(&session), Arc::clone(&announced), Arc::clone(&opened));
            tasks.spawn(async move {
                for _ in 0..200 {
                    let update = sessions.update(&session, |session| Some(session.clone())).await;
                    let Ok(Update::Stored(stored)) = update else { panic!("it lives") };
                    opened.changed(stored.key);
                    announced.fetch_max(stored.version, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..4 {
            let (here, session, announced) = (here.clone(), Arc::clone(&session), Arc::clone(&announced));
            let clock = clock.clone();
            tasks.spawn(async move {
                let mut seen = 0;
                while announced.load(Ordering::SeqCst) < 801 {
                    let floor = announced.load(Ordering::SeqCst).max(seen);
                    let id = SessionId::parse(&session.id().to_cookie_value()).unwrap();
                    let Ok(Found::Live(found)) = here.find(vec![id.into()], clock.now()).await else {
                        panic!("it lives")
                    };
                    assert!(found.version >= floor, "{} after {floor}", found.version);
                    seen = found.version;
                    tokio::task::yield_now().await;
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
    }
}
