//! Gateways' sessions on each kind of store, and the browsers that hold them.

use crate::Failure;
use crate::redis_server::RedisServer;
use http::HeaderValue;
use latchgate::background::Background;
use latchgate::clock::Clock;
use latchgate::session::carried::chunks_within;
use latchgate::session::cookie::Cookies;
use latchgate::session::opened::Opened;
use latchgate::session::store::redis::{RedisSettings, RedisStore};
use latchgate::session::store::{Bounds, CookieStore, FileSettings, FileStore, MemoryStore, SessionStore};
use latchgate::session::{Found, Identity, Opening, Presented, Session, Sessions, Settings, StoreSettings, TokenSet};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The stores there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    File,
    Redis,
    Cookie,
}

/// One store, for any number of gateways.
pub struct Stage {
    pub kind: Kind,
    pub clock: Clock,
    pub cookies: Cookies,
    place: Place,
}

enum Place {
    /// One process, or one file of it: all gateways share the store itself.
    Here(Arc<dyn SessionStore>, #[expect(dead_code, reason = "goes when the store goes")] Option<TempDir>),
    Redis(RedisServer),
    Browsers,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Memory, Kind::File, Kind::Redis, Kind::Cookie];

    /// As in `session.store`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Memory => "memory",
            Kind::File => "file",
            Kind::Redis => "redis",
            Kind::Cookie => "cookie",
        }
    }

    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Stage {
    /// An empty store.
    pub async fn of(kind: Kind) -> Result<Stage, Failure> {
        let clock = Clock::system();
        let place = match kind {
            Kind::Memory => Place::Here(Arc::new(MemoryStore::new(MOST_SESSIONS)), None),
            Kind::File => {
                let directory = tempfile::tempdir_in(DIRECTORY)?;
                let settings = FileSettings { path: directory.path().join("sessions"), most_sessions: MOST_SESSIONS };
                Place::Here(Arc::new(FileStore::open(&settings, clock.clone())?), Some(directory))
            }
            Kind::Redis => Place::Redis(RedisServer::start().await),
            Kind::Cookie => Place::Browsers,
        };
        Ok(Stage { kind, clock, cookies: Cookies::new(true), place })
    }

    /// A gateway that has just begun.
    pub async fn gateway(&self) -> Result<Sessions, Failure> {
        self.gateway_with(CACHE_MEMORY).await
    }

    /// One with these bytes for sessions at hand.
    pub async fn gateway_with(&self, cache_memory: u64) -> Result<Sessions, Failure> {
        let background = Background::on_current_runtime();
        let (settings, opened, clock) = (settings(cache_memory), Opened::new(cache_memory), self.clock.clone());
        let store: Arc<dyn SessionStore> = match &self.place {
            Place::Here(store, _) => Arc::clone(store),
            Place::Redis(server) => {
                let redis = RedisSettings::from_urls(&[server.url()], false).map_err(|_| "no Redis URL")?;
                let store = RedisStore::new(redis, Arc::clone(&opened), background.clone(), clock.clone())
                    .map_err(|_| "Redis cannot be used")?;
                while store.ping().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                store
            }
            Place::Browsers => {
                let longest_life = settings.absolute_timeout;
                let store = CookieStore::new(Bounds { sessions: MOST_SESSIONS, bytes: cache_memory, longest_life });
                let most_chunks = chunks_within(HEADER_BYTES);
                return Ok(Sessions::in_cookies(settings, store.into(), most_chunks, opened, background, clock)?);
            }
        };
        Ok(Sessions::new(settings, store, opened, background, clock)?)
    }

    /// A user signs in.
    pub async fn open(&self, sessions: &Sessions, number: usize) -> Result<Arc<Session>, Failure> {
        let now = self.clock.now();
        let failed = |why| format!("no session on {}: {why:?}", self.kind.name());
        Ok(sessions.open(opening(number, &self.clock), now).await.map_err(failed)?)
    }

    /// The `Cookie` lines of the browser that holds this session.
    pub fn cookie_lines(&self, sessions: &Sessions, session: &Session) -> Result<Vec<HeaderValue>, Failure> {
        let set = sessions.set_cookies(session, &self.cookies, &[], self.clock.now());
        let lines = set.map_err(|_| "a session does not fit into cookies")?;
        let pairs = lines.iter().filter_map(|line| line.to_str().ok()?.split(';').next());
        Ok(vec![HeaderValue::try_from(pairs.collect::<Vec<_>>().join("; "))?])
    }

    /// What a request with these lines shows.
    pub fn presented(&self, sessions: &Sessions, lines: &[HeaderValue]) -> Vec<Presented> {
        sessions.presented(&self.cookies, lines)
    }

    /// As the gateway does it: what is at hand, else the store's word. Whether it lives.
    pub async fn read(&self, sessions: &Sessions, lines: &[HeaderValue]) -> Result<bool, Failure> {
        let (presented, now) = (self.presented(sessions, lines), self.clock.now());
        let found = match sessions.peek(&presented, now) {
            Some(found) => found,
            None => sessions.find(presented, now).await?,
        };
        Ok(matches!(found, Found::Live(_)))
    }
}

/// Tokens of 5 KiB.
pub fn tokens(number: usize, clock: &Clock) -> Option<TokenSet> {
    let tokens = TokenSet::new(text(number, ACCESS_TOKEN).into(), 1, clock.mono())?;
    Some(TokenSet {
        life: Some(Duration::from_secs(3600)),
        refresh_token: Some(text(number, REFRESH_TOKEN).into()),
        id_token: Some(text(number, ID_TOKEN).into()),
        scope: Some("openid profile email offline_access".into()),
        ..tokens
    })
}

/// Looks like a token, and like no other.
pub fn text(number: usize, length: usize) -> String {
    format!("{number:a>length$}")
}

/// Whether there is such a program.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn opening(number: usize, clock: &Clock) -> Opening {
    let subject = format!("{number:0>8}-5c9e-4d0a-9d6e-2b8f6f0c1a77");
    let serde_json::Value::Object(claims) = json!({
        "iss": ISSUER, "sub": subject, "aud": "bench", "name": "Ada Example", "preferred_username": "ada",
        "email": format!("user-{number}@example.com"), "email_verified": true, "groups": ["staff", "admins", "payroll"],
    }) else {
        unreachable!("written as an object")
    };
    Opening {
        provider: crate::provider::NAME.into(),
        identity: Identity { issuer: ISSUER.into(), subject, sid: Some(text(number, 36)), claims },
        tokens: tokens(number, clock).expect("letters and digits can stand in a header"),
        transient: false,
        began: clock.mono(),
    }
}

fn settings(cache_memory: u64) -> Settings {
    Settings {
        store: StoreSettings::Memory,
        idle_timeout: Duration::from_secs(24 * 3600),
        absolute_timeout: Duration::from_secs(72 * 3600),
        max_sessions: MOST_SESSIONS,
        cache_memory,
        max_sessions_per_user: 100,
        secrets: vec!["a secret of more than 32 bytes, for nothing".into()],
    }
}

/// On the disk that cargo builds on: a directory in memory would make fsync free.
pub const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");
/// With the ID token 5 KiB.
pub const ACCESS_TOKEN: usize = 2048;
pub const REFRESH_TOKEN: usize = 1024;
const ID_TOKEN: usize = 2048;
const ISSUER: &str = "https://id.example.com/realms/main";
/// The gateway's defaults.
const MOST_SESSIONS: usize = 1_000_000;
pub const CACHE_MEMORY: u64 = 64 << 20;
/// Room for 5 KiB of tokens, sealed.
const HEADER_BYTES: usize = 64 << 10;
