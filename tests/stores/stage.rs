//! A fresh store for each case, the time it goes by, and records to put into it.

use crate::redis_server::RedisServer;
use crate::sessions::{MOST_PER_USER, SECRET};
use bytes::Bytes;
use latchgate::background::Background;
use latchgate::clock::{Clock, Mono, Now};
use latchgate::session::opened::Opened;
use latchgate::session::store::redis::{RedisSettings, RedisStore};
use latchgate::session::store::{
    About, Bounds, CookieStore, Creation, FileSettings, FileStore, Filter, Lookup, MemoryStore, Record, SessionStore,
};
use latchgate::session::{SessionId, SessionKey, Sessions, Settings, StoreSettings};
use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// The stores there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    File,
    Redis,
    Cookie,
}

/// A store, seen from two gateways.
pub struct Stage {
    pub kind: Kind,
    /// As one gateway sees it.
    pub here: Arc<dyn SessionStore>,
    /// As another one does; the same object where only one process may use the store.
    pub elsewhere: Arc<dyn SessionStore>,
    opened_here: Arc<Opened>,
    opened_elsewhere: Arc<Opened>,
    clock: Clock,
    place: Place,
}

/// Where a store is kept, and what has to live as long.
enum Place {
    Memory,
    File(TempDir),
    /// All that is in it under this prefix.
    Redis(Arc<RedisServer>, String),
    Cookie,
}

/// Two gateways that share a store, or the only one, twice.
pub struct Gateways {
    pub here: Sessions,
    pub elsewhere: Sessions,
    pub clock: Clock,
}

impl Stage {
    /// An empty store for [`MOST_SESSIONS`].
    pub async fn of(kind: Kind) -> Stage {
        let place = match kind {
            Kind::Memory => Place::Memory,
            Kind::File => Place::File(tempfile::tempdir().unwrap()),
            Kind::Redis => Place::Redis(Arc::new(RedisServer::start().await), "0:".to_owned()),
            Kind::Cookie => Place::Cookie,
        };
        Stage::at(place, Clock::system()).await
    }

    async fn at(place: Place, clock: Clock) -> Stage {
        let [opened_here, opened_elsewhere] = [Opened::new(CACHE_MEMORY), Opened::new(CACHE_MEMORY)];
        let (kind, here, elsewhere): (_, Arc<dyn SessionStore>, Option<Arc<dyn SessionStore>>) = match &place {
            Place::Memory => (Kind::Memory, Arc::new(MemoryStore::new(MOST_SESSIONS)), None),
            Place::File(directory) => {
                let settings = FileSettings { path: directory.path().join("sessions"), most_sessions: MOST_SESSIONS };
                (Kind::File, Arc::new(FileStore::open(&settings, clock.clone()).unwrap()), None)
            }
            Place::Redis(server, prefix) => {
                let here = redis_store(server, prefix, &opened_here, &clock).await;
                let elsewhere = redis_store(server, prefix, &opened_elsewhere, &clock).await;
                (Kind::Redis, here, Some(elsewhere))
            }
            Place::Cookie => {
                let bounds = Bounds { sessions: PLENTY, bytes: CACHE_MEMORY, longest_life: HOUR * 24 };
                (Kind::Cookie, Arc::new(CookieStore::new(bounds)), None)
            }
        };
        let elsewhere = elsewhere.unwrap_or_else(|| Arc::clone(&here));
        Stage { kind, here, elsewhere, opened_here, opened_elsewhere, clock, place }
    }

    /// Another empty store of this kind.
    pub async fn afresh(&self) -> Stage {
        match &self.place {
            Place::Memory | Place::File(_) | Place::Cookie => Stage::of(self.kind).await,
            Place::Redis(server, _) => {
                let prefix = fresh_key().to_hex();
                Stage::at(Place::Redis(Arc::clone(server), prefix), self.clock()).await
            }
        }
    }

    /// As it is after the process has ended in order and another one has begun.
    pub async fn restarted(self) -> Stage {
        self.here.close().await;
        let Stage { here, elsewhere, clock, place, .. } = self;
        drop((here, elsewhere));
        Stage::at(place, clock).await
    }

    /// Two gateways, whose sessions outlive any case.
    pub async fn gateways(&self) -> Gateways {
        self.gateways_with(HOUR, HOUR * 10).await
    }

    /// Two gateways with these timeouts.
    pub async fn gateways_with(&self, idle: Duration, absolute: Duration) -> Gateways {
        let timeouts = (idle, absolute);
        let here = self.sessions(&self.here, &self.opened_here, &[SECRET], timeouts);
        let elsewhere = match Arc::ptr_eq(&self.here, &self.elsewhere) {
            true => here.clone(),
            false => self.sessions(&self.elsewhere, &self.opened_elsewhere, &[SECRET], timeouts),
        };
        Gateways { here, elsewhere, clock: self.clock() }
    }

    /// One that has nothing at hand, and keeps nothing at hand.
    pub fn gateway_just_started(&self, secrets: &[&str]) -> Sessions {
        let opened = Opened::new(CACHE_MEMORY);
        opened.trust(false);
        self.sessions(&self.elsewhere, &opened, secrets, (HOUR, HOUR * 10))
    }

    fn sessions(
        &self,
        store: &Arc<dyn SessionStore>,
        opened: &Arc<Opened>,
        secrets: &[&str],
        (idle_timeout, absolute_timeout): (Duration, Duration),
    ) -> Sessions {
        let settings = Settings {
            store: StoreSettings::Memory,
            idle_timeout,
            absolute_timeout,
            max_sessions: MOST_SESSIONS,
            cache_memory: CACHE_MEMORY,
            max_sessions_per_user: MOST_PER_USER,
            secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
        };
        let (store, opened) = (Arc::clone(store), Arc::clone(opened));
        Sessions::new(settings, store, opened, Background::on_current_runtime(), self.clock()).unwrap()
    }

    /// Whether its time passes at once.
    pub fn is_timed(&self) -> bool {
        match self.kind {
            Kind::Memory | Kind::File | Kind::Cookie => true,
            // The server has a clock of its own.
            Kind::Redis => false,
        }
    }

    /// The clock that the store goes by.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// So many of [`Stage::ticks`] from now.
    pub fn later(&self, ticks: u32) -> Mono {
        self.now().mono.after(self.ticks(ticks))
    }

    /// A length of time: the unit is small where it really has to pass.
    pub fn ticks(&self, count: u32) -> Duration {
        let tick = if self.is_timed() { Duration::from_secs(60) } else { Duration::from_millis(300) };
        tick * count
    }

    /// Time passes.
    pub async fn pass(&self, ticks: u32) {
        if self.is_timed() {
            self.clock.advance(self.ticks(ticks));
        } else {
            tokio::time::sleep(self.ticks(ticks)).await;
        }
    }

    /// Enough time passes to tell before from after.
    pub async fn pass_a_moment(&self) {
        if self.is_timed() {
            self.clock.advance(Duration::from_millis(2));
        } else {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A record of `ada`'s that lives for a hundred ticks.
    pub fn record(&self) -> Record {
        self.record_of("ada")
    }

    /// A record of this user's that lives for a hundred ticks.
    pub fn record_of(&self, subject: &str) -> Record {
        self.record_about(ISSUER, subject, None)
    }

    /// A record that lives for a hundred ticks.
    pub fn record_about(&self, issuer: &str, subject: &str, sid: Option<&str>) -> Record {
        let now = self.now().mono;
        Record {
            version: 1,
            last_seen: now,
            expires: self.later(100),
            about: About {
                provider: "corp".into(),
                issuer: issuer.into(),
                subject: subject.into(),
                sid: sid.map(str::to_owned),
                started: now,
                ends: self.later(1000),
                began: now,
            },
            sealed: Bytes::from_static(b"\0sealed\xff"),
        }
    }

    /// Creates it under a fresh name.
    pub async fn created(&self, record: Record) -> SessionKey {
        let key = fresh_key();
        let creation = self.here.create(key, record, PLENTY, self.now()).await.unwrap();
        assert_eq!(creation, Creation::Created { evicted: Vec::new() });
        key
    }

    /// `here` and `elsewhere` in turn.
    pub fn side(&self, number: usize) -> Arc<dyn SessionStore> {
        Arc::clone(if number.is_multiple_of(2) { &self.here } else { &self.elsewhere })
    }

    /// The newest record, which lives.
    pub async fn live(&self, key: SessionKey) -> Record {
        let found = self.elsewhere.find(key, self.now()).await.unwrap();
        let Lookup::Live(record) = found else { panic!("{key} does not live: {found:?}") };
        record
    }

    /// What is known of a name, by both sides.
    pub async fn standing(&self, key: SessionKey) -> Standing {
        let [here, elsewhere] = [&self.here, &self.elsewhere];
        let standing = standing_of(&here.find(key, self.now()).await.unwrap());
        assert_eq!(standing_of(&elsewhere.find(key, self.now()).await.unwrap()), standing, "{key}, seen elsewhere");
        standing
    }

    /// All pages, which have no key twice unless it changed meanwhile.
    pub async fn listed(&self, filter: &Filter) -> Vec<(SessionKey, Record)> {
        let (mut records, mut cursor) = (Vec::new(), None);
        for _ in 0..10_000 {
            let page = self.elsewhere.list(filter, cursor.as_deref(), self.now()).await.unwrap();
            records.extend(page.records);
            cursor = page.next;
            if cursor.is_none() {
                return records;
            }
        }
        panic!("the pages have no end");
    }

    /// The names of all pages.
    pub async fn listed_keys(&self, filter: &Filter) -> HashSet<SessionKey> {
        self.listed(filter).await.into_iter().map(|(key, _)| key).collect()
    }
}

/// One gateway's, connected.
async fn redis_store(server: &RedisServer, prefix: &str, opened: &Arc<Opened>, clock: &Clock) -> Arc<dyn SessionStore> {
    let settings = RedisSettings::from_urls(&[server.url()], false).unwrap();
    let settings = RedisSettings { key_prefix: prefix.to_owned(), timeout: Duration::from_secs(10), ..settings };
    let background = Background::on_current_runtime();
    let store = RedisStore::new(settings, Arc::clone(opened), background, clock.clone()).unwrap();
    while store.ping().await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store
}

/// A [`Lookup`] without the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Live,
    Ended,
    Unknown,
}

/// See [`Standing`].
pub fn standing_of(lookup: &Lookup) -> Standing {
    match lookup {
        Lookup::Live(_) => Standing::Live,
        Lookup::Ended => Standing::Ended,
        Lookup::Unknown => Standing::Unknown,
    }
}

/// A name that nobody has used.
pub fn fresh_key() -> SessionKey {
    SessionId::random().unwrap().key()
}

/// The next state of a record, with these contents.
pub fn next(record: &Record, sealed: impl Into<Bytes>) -> Record {
    Record { version: record.version + 1, sealed: sealed.into(), ..record.clone() }
}

/// Selects this user, whoever issued it.
pub fn of_subject(subject: &str) -> Filter {
    Filter { subject: Some(subject.into()), ..Filter::default() }
}

/// Selects this provider session, whoever issued it.
pub fn of_sid(sid: &str) -> Filter {
    Filter { sid: Some(sid.into()), ..Filter::default() }
}

/// Runs `count` of them at once; the results in no particular order.
pub async fn together<F, T>(count: usize, one: impl FnMut(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    (0..count).map(one).collect::<JoinSet<T>>().join_all().await
}

pub const ISSUER: &str = "https://idp.test";
/// More sessions of one user than any case has.
pub const PLENTY: usize = 10_000;
/// What a store is made for, if it has a bound at all.
pub const MOST_SESSIONS: usize = 400;
const CACHE_MEMORY: u64 = 1 << 24;
const HOUR: Duration = Duration::from_secs(3600);
