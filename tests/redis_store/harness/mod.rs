//! Servers, a proxy that misbehaves on demand, and sessions to store.

pub mod logs;
pub mod proxy;
pub mod server;

use latchgate::background::Background;
use latchgate::clock::{Clock, Mono};
use latchgate::session::opened::Opened;
use latchgate::session::store::redis::{RedisSettings, RedisStore};
use latchgate::session::store::{About, Creation, Lookup, MemoryStore, Record, SessionStore};
use latchgate::session::{Identity, Opening, Session, SessionKey, Sessions, Settings, StoreSettings, TokenSet};
use serde_json::Map;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// One gateway: a store, and what it has opened.
pub struct Gateway {
    pub store: Arc<RedisStore>,
    pub opened: Arc<Opened>,
    pub clock: Clock,
}

impl Gateway {
    /// Patient: what is not about time does not fail for want of it.
    pub fn new(url: &str) -> Gateway {
        let settings = RedisSettings::from_urls(&[url], false).unwrap();
        Gateway::with(RedisSettings { timeout: Duration::from_secs(10), ..settings })
    }

    pub fn with_defaults(url: &str) -> Gateway {
        Gateway::with(RedisSettings::from_urls(&[url], false).unwrap())
    }

    pub fn with(settings: RedisSettings) -> Gateway {
        logs::capture();
        let (opened, clock) = (Opened::new(1 << 20), Clock::system());
        let background = Background::on_current_runtime();
        let store = RedisStore::new(settings, Arc::clone(&opened), background, clock.clone()).unwrap();
        Gateway { store, opened, clock }
    }

    /// A new session of this subject, which lives for an hour, or until it is idle for half of that.
    pub async fn create(&self, subject: &str) -> SessionKey {
        self.create_with(|record| record.about.subject = subject.into()).await
    }

    pub async fn create_with(&self, change: impl FnOnce(&mut Record)) -> SessionKey {
        let (key, mut record) = self.fresh();
        change(&mut record);
        let creation = self.store.create(key, record, 100, self.clock.now()).await.unwrap();
        assert_eq!(creation, Creation::Created { evicted: Vec::new() });
        key
    }

    /// A key nobody has, and a record whose content is that key.
    pub fn fresh(&self) -> (SessionKey, Record) {
        let key = random_key();
        let now = self.clock.mono();
        let about = About {
            provider: "corp".into(),
            issuer: "https://idp.example".into(),
            subject: "ada".into(),
            sid: None,
            started: now,
            began: now,
            ends: now.after(Duration::from_secs(3600)),
        };
        let expires = now.after(Duration::from_secs(1800));
        (key, Record { version: 1, last_seen: now, expires, about, sealed: key.as_bytes().to_vec().into() })
    }

    pub async fn find(&self, key: SessionKey) -> Lookup {
        self.store.find(key, self.clock.now()).await.unwrap()
    }

    pub async fn live(&self, key: SessionKey) -> Record {
        match self.find(key).await {
            Lookup::Live(record) => record,
            other => panic!("{key}: {other:?}"),
        }
    }

    /// Whether what is opened here counts at present.
    pub fn trusts(&self) -> bool {
        let key = random_key();
        self.opened.keep(self.opened.ticket(key), &session(key));
        self.opened.peek(key).is_some()
    }

    pub async fn trusting(self) -> Gateway {
        eventually("invalidation is up", Duration::from_secs(10), async || self.trusts()).await;
        self
    }
}

/// Waits until it is so, and says how long that took.
pub async fn eventually(what: &str, within: Duration, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    let started = Instant::now();
    loop {
        if is_so().await {
            return started.elapsed();
        }
        assert!(started.elapsed() < within, "not within {within:?}: {what}\n{}", logs::last(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    let done = work.await;
    (done, started.elapsed())
}

pub fn random_key() -> SessionKey {
    SessionKey::from_bytes(std::array::from_fn(|_| fastrand::u8(..)))
}

/// Some opened session, of another store: whose it is does not matter to what is kept or forgotten.
pub fn session(key: SessionKey) -> Arc<Session> {
    let tokens = TokenSet::new("at".into(), 1, Mono::default()).expect("it can stand in a header");
    let identity =
        Identity { issuer: "https://idp.example".into(), subject: "ada".into(), sid: None, claims: Map::new() };
    let opening = Opening { provider: "corp".into(), identity, tokens, began: Mono::default(), transient: false };
    let settings = Settings {
        store: StoreSettings::Memory,
        idle_timeout: Duration::from_secs(3600),
        absolute_timeout: Duration::from_secs(3600),
        max_sessions: 1,
        cache_memory: 1 << 20,
        max_sessions_per_user: 1,
        secrets: Vec::new(),
    };
    let (clock, background) = (Clock::system(), Background::on_current_runtime());
    let store = Arc::new(MemoryStore::new(1));
    let sessions = Sessions::new(settings, store, Opened::new(1 << 20), background, clock.clone()).expect("randomness");
    let opened = tokio::task::block_in_place(|| Handle::current().block_on(sessions.open(opening, clock.now())));
    let mut session = Session::clone(&opened.expect("room"));
    session.key = key;
    Arc::new(session)
}
