//! Sessions: who is signed in, with which tokens, for how long.
//!
//! The browser holds 256 random bits; the store knows only their SHA-256, and keeps a record sealed
//! under a key that those bits are part of. A [`Session`] is an opened record, a snapshot that never
//! changes: whoever holds one reads one state of it, and [`Sessions::update`] puts the next state in its
//! place, by compare and swap. Whatever is written is written by a task of its own, which ends whoever
//! stops waiting for it.
//!
//! | file | is about |
//! |---|---|
//! | `store` | where records are kept |
//! | `opened` | sessions this process has opened, and what ends with them |
//! | `record` | a session as the bytes that are sealed |
//! | `carried` | a session as the cookies that a browser carries it in |
//! | `code_flow` | sessions whose browser holds tokens of ours instead of the cookie |
//! | `impersonation` | sessions that have somebody else's identity for a while |
//! | `seal`, `cookie` | sealing; the names of our cookies |
//! | `own_token`, `signing`, `claims` | tokens that stand for the cookie; what they are signed with, and what they say |
//! | `stand_in` | what apps hold that think they hold the tokens |

pub mod carried;
pub mod claims;
pub mod code_flow;
pub mod cookie;
pub mod impersonation;
pub mod opened;
pub mod own_token;
mod record;
pub mod seal;
pub mod signing;
pub mod stand_in;
pub mod store;

use crate::background::Background;
use crate::clock::{Clock, Mono, Now};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carried::{Carrier, NotCarried};
use code_flow::{CODE_LIFE, CodeFlow, CodeFlowKeys};
use cookie::Cookies;
use http::HeaderValue;
use impersonation::Impersonation;
use opened::{Hold, Opened};
use seal::{NoRandomness, RecordSealer};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::redis::RedisSettings;
use store::{
    About, Adoption, CookieStore, Creation, Filter, Lookup, OnceName, Page, Record, Replacement, SessionStore,
    StoreError,
};
use tokio::task::JoinSet;
use zeroize::ZeroizeOnDrop;

/// `[session]`, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `store`, default `memory`.
    pub store: StoreSettings,
    /// `idle_timeout`, default 24 h; slides with use.
    pub idle_timeout: Duration,
    /// `absolute_timeout`, default 72 h; nothing extends it.
    pub absolute_timeout: Duration,
    /// `max_sessions`, default 1,000,000: a login beyond it is a 503, nobody is signed out for it.
    pub max_sessions: usize,
    /// `cache_memory`, default 64 MiB: what opened sessions may take.
    pub cache_memory: u64,
    /// `max_sessions_per_user`, default 100: a login beyond it ends that user's oldest session.
    pub max_sessions_per_user: usize,
    /// Keys for sealing, first seals, all open; empty: one is made at random when the process starts.
    pub secrets: Vec<SecretString>,
}

/// Where sessions are kept, and how to get there.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub enum StoreSettings {
    /// In this process.
    Memory,
    /// In a file of this machine.
    File(PathBuf),
    /// In Redis or Valkey, with other gateways.
    Redis(RedisSettings),
    /// By the browsers, in their cookies.
    Cookie,
}

/// One state of one session.
#[derive(Clone)]
pub struct Session {
    /// What the store knows it by.
    pub key: SessionKey,
    id: Arc<SessionId>,
    /// The provider it was opened with.
    pub provider: Arc<str>,
    /// Who is signed in.
    pub identity: Arc<Identity>,
    /// The tokens of this generation.
    pub tokens: Arc<TokenSet>,
    /// What PATCH `/auth/session` put there.
    pub custom: Arc<Map<String, Value>>,
    /// Its cookie is to end with the browser.
    pub transient: bool,
    /// Where it stands if the browser holds tokens of ours instead of the cookie.
    pub code_flow: Option<CodeFlow>,
    /// Whose it is, while `identity` is somebody else's.
    pub impersonation: Option<Impersonation>,
    /// When it was opened.
    pub started: Now,
    /// When it is over whatever happens.
    pub ends: Mono,
    /// When its login began to redeem the code.
    began: Mono,
    /// What all states of this session share.
    pub vitals: Arc<Vitals>,
    /// Counts the writes.
    pub version: u64,
    /// About how many bytes of memory it takes.
    pub weight: u64,
}

/// Who is signed in, as the provider says.
#[derive(Clone)]
pub struct Identity {
    /// `iss`. With `subject` it names the user for good (OIDC Core §5.7); compared byte by byte.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// The provider's own session, for logout.
    pub sid: Option<String>,
    /// All claims.
    pub claims: Map<String, Value>,
}

/// What one token answer brought.
pub struct TokenSet {
    /// Counts the token answers of a session; the login brings generation 1.
    pub generation: u64,
    /// As the upstream gets it.
    pub access_token: SecretString,
    /// `Bearer <access token>`, made once.
    pub bearer: HeaderValue,
    /// When the answer came; lives count from here.
    pub obtained: Mono,
    /// `expires_in`; None when the provider did not say.
    pub life: Option<Duration>,
    /// What the next refresh is made with.
    pub refresh_token: Option<SecretString>,
    /// For `attach = "id_token"` and `id_token_hint`.
    pub id_token: Option<SecretString>,
    /// `scope`, when the answer named it.
    pub scope: Option<String>,
    /// Stored as it came, before its ID token could be checked: to be sent to nobody until it is.
    pub unchecked: bool,
}

/// What changes without a new state: cheap to touch on every request.
#[derive(Default)]
pub struct Vitals {
    last_seen: AtomicU64,
    /// The visit that the store knows of.
    last_touch: AtomicU64,
    refusals: AtomicU32,
    resent: Mutex<Vec<(u64, Mono)>>,
}

/// The 256 bits in the cookie. Never printed, never stored, wiped when nobody needs them any more.
#[derive(ZeroizeOnDrop)]
pub struct SessionId([u8; 32]);

/// SHA-256 of a [`SessionId`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey([u8; 32]);

/// A session that a request shows, to be looked up.
pub struct Presented {
    id: SessionId,
    /// What the cookies carry of it.
    record: Option<Box<Record>>,
}

/// What a browser carries of a session, to be compared with what there is when the answer goes out.
#[derive(Debug, Clone, Copy)]
pub struct Carried {
    key: SessionKey,
    version: u64,
    last_seen: Mono,
}

/// What the cookies of a request name.
pub enum Found {
    /// One live session.
    Live(Arc<Session>),
    /// None that lives, but one that did.
    Ended,
    /// No session; or several, and then nobody can tell whose request this is (RFC 6265 §8.6).
    Nothing,
}

/// Everything a login knows about the session to come.
pub struct Opening {
    /// The provider's name.
    pub provider: Arc<str>,
    /// Who.
    pub identity: Identity,
    /// With what; generation 1.
    pub tokens: TokenSet,
    /// Its cookie is to end with the browser.
    pub transient: bool,
    /// When the code began to be redeemed: a sign-out after this counts for the session too.
    pub began: Mono,
}

/// Why no session was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpeningFailed {
    /// `session.max_sessions` is reached.
    Full,
    /// The user was signed out while the login was under way.
    Revoked,
    /// The provider says that the session is over already (`session_expiry`).
    Over,
    /// It does not fit into the cookies.
    TooLarge,
    /// No random bytes.
    NoRandomness,
    /// The store cannot be reached.
    Store(StoreError),
}

/// What came of an [`Sessions::update`].
pub enum Update {
    /// This is the newest state, and it is stored.
    Stored(Arc<Session>),
    /// The change declined; this is the newest state.
    Declined(Arc<Session>),
    /// It has ended, and nothing brings it back.
    Ended,
}

/// All sessions of this gateway.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    store: Arc<dyn SessionStore>,
    opened: Arc<Opened>,
    sealer: RecordSealer,
    code_flow_keys: CodeFlowKeys,
    /// When browsers carry their sessions.
    carrying: Option<Carrying>,
    background: Background,
    clock: Clock,
}

struct Carrying {
    /// The same as `Inner::store`.
    store: Arc<CookieStore>,
    carrier: Carrier,
}

impl Sessions {
    /// Sessions kept in `store`, of which `opened` has some at hand.
    ///
    /// # Errors
    /// Without any `secrets`, when there are no random bytes to make one of.
    pub fn new(
        settings: Settings,
        store: Arc<dyn SessionStore>,
        opened: Arc<Opened>,
        background: Background,
        clock: Clock,
    ) -> Result<Sessions, NoRandomness> {
        let sealer = RecordSealer::new(&settings.secrets)?;
        let code_flow_keys = CodeFlowKeys::new(&settings.secrets)?;
        let carrying = None;
        Ok(Sessions {
            inner: Arc::new(Inner { settings, store, opened, sealer, code_flow_keys, carrying, background, clock }),
        })
    }

    /// Sessions that browsers carry in `most_chunks` cookies each; `store` has what this process knows besides.
    ///
    /// # Errors
    /// As [`Sessions::new`].
    pub fn in_cookies(
        settings: Settings,
        store: Arc<CookieStore>,
        most_chunks: usize,
        opened: Arc<Opened>,
        background: Background,
        clock: Clock,
    ) -> Result<Sessions, NoRandomness> {
        let sealer = RecordSealer::new(&settings.secrets)?;
        let code_flow_keys = CodeFlowKeys::new(&settings.secrets)?;
        let carrier = Carrier::new(&settings.secrets, most_chunks)?;
        let carrying = Some(Carrying { store: Arc::clone(&store), carrier });
        Ok(Sessions {
            inner: Arc::new(Inner { settings, store, opened, sealer, code_flow_keys, carrying, background, clock }),
        })
    }

    /// The settings it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// For what replicas agree on besides sessions.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn SessionStore> {
        &self.inner.store
    }

    /// What these `Cookie` lines show, as far as it is worth a look.
    #[must_use]
    pub fn presented(&self, cookies: &Cookies, lines: &[HeaderValue]) -> Vec<Presented> {
        match &self.inner.carrying {
            None => {
                let ids = cookies.sessions(lines).filter_map(SessionId::parse);
                ids.take(MOST_COOKIES).map(Presented::from).collect()
            }
            Some(carrying) => {
                let carried = carrying.carrier.read(&cookies.session_values(lines));
                carried.into_iter().map(|(id, record)| Presented { id, record: Some(Box::new(record)) }).collect()
            }
        }
    }

    /// The one session that is `presented`, and counts the visit; None when the store has to be asked.
    #[must_use]
    pub fn peek(&self, presented: &[Presented], now: Now) -> Option<Found> {
        if self.inner.carrying.is_some() {
            return None;
        }
        let mut live: Option<Arc<Session>> = None;
        for Presented { id, .. } in presented {
            let session = self.inner.opened.peek(id.key()).filter(|session| !self.inner.is_over(session, now))?;
            if session.awaits_exchange() {
                return None;
            }
            match &live {
                Some(other) if other.key != session.key => return Some(Found::Nothing),
                _ => live = Some(session),
            }
        }
        Some(match live {
            Some(session) => Found::Live(self.inner.visited(session, now)),
            None => Found::Nothing,
        })
    }

    /// The one session that is `presented`, and counts the visit.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn find(&self, presented: Vec<Presented>, now: Now) -> Result<Found, StoreError> {
        let mut live: Option<Arc<Session>> = None;
        let mut ended = false;
        for presented in presented {
            match self.inner.look_up_presented(presented, now).await? {
                // Nobody has it before the code is exchanged.
                Found::Live(session) if session.awaits_exchange() => {}
                Found::Live(session) => match &live {
                    Some(other) if other.key != session.key => return Ok(Found::Nothing),
                    _ => live = Some(session),
                },
                Found::Ended => ended = true,
                Found::Nothing => {}
            }
        }
        Ok(match live {
            Some(session) => Found::Live(self.inner.visited(session, now)),
            None if ended => Found::Ended,
            None => Found::Nothing,
        })
    }

    /// The `Set-Cookie` values that give a session to the browser whose `Cookie` lines these are.
    ///
    /// # Errors
    /// When it cannot be carried; never while a store keeps sessions here.
    pub fn set_cookies(
        &self,
        session: &Session,
        cookies: &Cookies,
        lines: &[HeaderValue],
        now: Now,
    ) -> Result<Vec<HeaderValue>, NotCarried> {
        let left = Duration::from_secs(session.ends.since(now.mono).as_secs());
        let max_age = (!session.transient).then_some(left.min(self.inner.settings.absolute_timeout));
        match &self.inner.carrying {
            None => Ok(cookies.set_session(&[session.id.to_cookie_value()], max_age, lines)),
            Some(carrying) => {
                let period = self.inner.roll_every();
                let record = || self.inner.sealed_record(session);
                let last_seen = session.vitals.last_seen();
                let values = carrying.carrier.write(&session.id, session.version, last_seen, period, record)?;
                Ok(cookies.set_session(&values, max_age, lines))
            }
        }
    }

    /// The `Set-Cookie` values for a browser that carries an outdated state of its session, or one whose
    /// last visit is long ago. None when nothing has to change, and none for a session that has ended.
    pub async fn catch_up(
        &self,
        session: &Session,
        carried: Carried,
        cookies: &Cookies,
        lines: &[HeaderValue],
    ) -> Vec<HeaderValue> {
        let now = self.inner.clock.now();
        let Ok(Some(newest)) = self.newest(session, now).await else { return Vec::new() };
        let is_newer = newest.version > carried.version;
        let is_stale = newest.vitals.last_seen().since(carried.last_seen) >= self.inner.roll_every();
        if !is_newer && !is_stale {
            return Vec::new();
        }
        // What does not fit was logged when it was written, and lives here as long as it can.
        self.set_cookies(&newest, cookies, lines, now).unwrap_or_default()
    }

    /// Whether browsers can carry this state, if they have to.
    #[must_use]
    pub fn fits(&self, session: &Session) -> bool {
        let Some(carrying) = &self.inner.carrying else { return true };
        self.inner.sealed_record(session).is_ok_and(|record| carrying.carrier.fits(&record))
    }

    /// The newest state of a session that may have gone on since; None when it has ended.
    ///
    /// # Errors
    /// When the store has to be asked and cannot be.
    pub async fn current(&self, session: &Session, now: Now) -> Result<Option<Arc<Session>>, StoreError> {
        match self.inner.look_up(Arc::clone(&session.id), now).await? {
            Found::Live(session) => Ok(Some(session)),
            Found::Ended | Found::Nothing => Ok(None),
        }
    }

    /// As [`Sessions::current`], but always by the store's word.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn newest(&self, session: &Session, now: Now) -> Result<Option<Arc<Session>>, StoreError> {
        match self.inner.ask(Arc::clone(&session.id), now).await? {
            Found::Live(session) => Ok(Some(session)),
            Found::Ended | Found::Nothing => Ok(None),
        }
    }

    /// Opens a session under an id that nobody chose and nobody has seen.
    ///
    /// # Errors
    /// [`OpeningFailed`].
    pub async fn open(&self, opening: Opening, now: Now) -> Result<Arc<Session>, OpeningFailed> {
        let id = SessionId::random().map_err(|NoRandomness| OpeningFailed::NoRandomness)?;
        let inner = Arc::clone(&self.inner);
        self.owned(async move { inner.open(id, opening, None, now).await })
            .await
            .unwrap_or(Err(OpeningFailed::Store(CUT_OFF)))
    }

    /// Puts the next state in place of the newest one, which `change` is given; it runs again when somebody
    /// else was faster, and may decline. No update is lost, and none brings back a session that has ended.
    ///
    /// # Errors
    /// When the store cannot be reached: the state may have been written or not.
    pub async fn update(
        &self,
        session: &Session,
        change: impl Fn(&Session) -> Option<Session> + Send + Sync + 'static,
    ) -> Result<Update, StoreError> {
        let (inner, id) = (Arc::clone(&self.inner), Arc::clone(&session.id));
        self.owned(async move { inner.update(id, change).await }).await.unwrap_or(Err(CUT_OFF))
    }

    /// Ends a session, for all who share the store. Whether it lived.
    ///
    /// # Errors
    /// When the store cannot be reached: then it has not ended.
    pub async fn end(&self, key: SessionKey) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        let ending = async move {
            let lived = inner.store.remove(key, inner.clock.now()).await?;
            inner.opened.ended(key);
            Ok(lived)
        };
        self.owned(ending).await.unwrap_or(Err(CUT_OFF))
    }

    /// Ends all sessions that `filter` selects, those that are being opened right now included. How many.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn end_where(&self, filter: Filter) -> Result<usize, StoreError> {
        let inner = Arc::clone(&self.inner);
        let ending = async move {
            let keys = inner.store.remove_where(&filter, inner.clock.now()).await?;
            keys.iter().for_each(|&key| inner.opened.ended(key));
            Ok(keys.len())
        };
        self.owned(ending).await.unwrap_or(Err(CUT_OFF))
    }

    /// One page of what is there, in the open.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn list(&self, filter: &Filter, cursor: Option<&str>) -> Result<Page, StoreError> {
        self.inner.store.list(filter, cursor, self.inner.clock.now()).await
    }

    /// Whether this is the first time that anyone asks for `name` within `life`.
    ///
    /// # Errors
    /// When the store cannot be reached: then nobody can tell.
    pub async fn take_once(&self, name: OnceName, life: Duration) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        let taking = async move { inner.store.take_once(name, life, inner.clock.now()).await };
        self.owned(taking).await.unwrap_or(Err(CUT_OFF))
    }

    /// For what is held open with a session: it is told when the session ends.
    #[must_use]
    pub fn hold(&self, session: &Session) -> Hold {
        self.inner.opened.hold(session.key)
    }

    /// Drops what is over. For the sweeper. Answers the last states of those that were at hand here: who else could still revoke
    /// their tokens?
    pub async fn sweep(&self, now: Now) -> Vec<Arc<Session>> {
        if let Err(error) = self.inner.store.sweep(now).await {
            tracing::warn!(reason = error.reason, "the session store could not be swept");
        }
        let mut over = self.inner.opened.all();
        over.retain(|session| self.inner.is_over(session, now));
        let mut dropped = Vec::new();
        for session in over {
            // Somebody may use it through another gateway.
            if let Ok(Lookup::Ended | Lookup::Unknown) = self.inner.store.find(session.key, now).await {
                self.inner.opened.ended(session.key);
                dropped.push(session);
            }
        }
        self.inner.opened.doubt_held();
        dropped
    }

    /// Looks after what is held open: asks the store whenever a session may have ended elsewhere. Does not end.
    pub async fn watch_held(&self) {
        // After an outage all of them are in doubt: whose session has ended must not wait for the others.
        let mut looking = JoinSet::new();
        loop {
            for key in self.inner.opened.in_doubt().await {
                if looking.len() >= MOST_LOOK_UPS {
                    let _ = looking.join_next().await;
                }
                let inner = Arc::clone(&self.inner);
                looking.spawn(async move { inner.look_up_held(key).await });
            }
            while looking.try_join_next().is_some() {}
        }
    }

    /// Runs `work` to its end, whether or not anyone waits. None when the process is going down.
    async fn owned<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.inner.background.run(work).await.ok()
    }
}

impl Inner {
    async fn look_up_presented(self: &Arc<Inner>, presented: Presented, now: Now) -> Result<Found, StoreError> {
        let Presented { id, record } = presented;
        let id = Arc::new(id);
        match (&self.carrying, record) {
            (Some(carrying), Some(record)) => match carrying.store.adopt(id.key(), *record, now) {
                Adoption::Live { version } => {
                    // Another process has gone on with it.
                    if self.opened.peek(id.key()).is_some_and(|session| session.version < version) {
                        self.opened.changed(id.key());
                    }
                    self.look_up(id, now).await
                }
                Adoption::Ended => Ok(Found::Ended),
            },
            // What has been opened may have been forgotten there since, and with it who signed out.
            (Some(_), None) => self.ask(id, now).await,
            (None, _) => self.look_up(id, now).await,
        }
    }

    async fn look_up(self: &Arc<Inner>, id: Arc<SessionId>, now: Now) -> Result<Found, StoreError> {
        match self.opened.peek(id.key()) {
            Some(session) if !self.is_over(&session, now) => Ok(Found::Live(session)),
            _ => self.ask(id, now).await,
        }
    }

    async fn ask(self: &Arc<Inner>, id: Arc<SessionId>, now: Now) -> Result<Found, StoreError> {
        let key = id.key();
        let known = self.opened.peek(key);
        let ticket = self.opened.ticket(key);
        let record = match self.store.find(key, now).await? {
            Lookup::Live(record) => record,
            Lookup::Ended => {
                self.opened.ended(key);
                return Ok(Found::Ended);
            }
            Lookup::Unknown => {
                self.opened.ended(key);
                return Ok(Found::Nothing);
            }
        };
        if let Some(known) = known.filter(|known| known.version == record.version && !self.is_over(known, now)) {
            return Ok(Found::Live(known));
        }
        let Some(session) = self.opened_record(id, &record) else {
            tracing::warn!(target: "latchgate::audit", event = "record_unreadable", session = %key, "a session's record does not open: sealed with a secret that is gone, or damaged");
            return Ok(Found::Ended);
        };
        if self.is_over(&session, now) {
            let inner = Arc::clone(self);
            self.background.run(async move {
                // The sweeper, or the store itself, does it otherwise.
                let _ = inner.store.remove(key, now).await;
                inner.opened.ended(key);
            });
            return Ok(Found::Ended);
        }
        let session = Arc::new(session);
        self.opened.keep(ticket, &session);
        Ok(Found::Live(session))
    }

    async fn look_up_held(&self, key: SessionKey) {
        match self.store.find(key, self.clock.now()).await {
            Ok(Lookup::Live(_)) => {}
            Ok(Lookup::Ended | Lookup::Unknown) => self.opened.ended(key),
            // The sweeper brings the doubt back.
            Err(error) => tracing::debug!(reason = error.reason, "a held session could not be looked up"),
        }
    }

    async fn open(
        &self,
        id: SessionId,
        opening: Opening,
        code_flow: Option<CodeFlow>,
        now: Now,
    ) -> Result<Arc<Session>, OpeningFailed> {
        let key = id.key();
        let vitals = self.opened.vitals(key);
        vitals.last_seen.store(now.mono.0, Ordering::Relaxed);
        vitals.last_touch.store(now.mono.0, Ordering::Relaxed);
        let mut session = Session {
            key,
            id: Arc::new(id),
            provider: opening.provider,
            identity: Arc::new(opening.identity),
            tokens: Arc::new(opening.tokens),
            custom: Arc::default(),
            transient: opening.transient,
            code_flow,
            impersonation: None,
            started: now,
            ends: Mono::default(),
            began: opening.began,
            vitals,
            version: 1,
            weight: 0,
        };
        session.ends = self.ends(&session);
        if now.mono >= session.ends {
            return Err(OpeningFailed::Over);
        }
        let record = self.sealed_record(&session).map_err(|NoRandomness| OpeningFailed::NoRandomness)?;
        if self.carrying.as_ref().is_some_and(|carrying| !carrying.carrier.fits(&record)) {
            return Err(OpeningFailed::TooLarge);
        }
        session.weight = weight_of(&record);
        let session = Arc::new(session);
        let ticket = self.opened.ticket(session.key);
        match self.store.create(session.key, record, self.settings.max_sessions_per_user, now).await {
            Ok(Creation::Created { evicted }) => {
                evicted.into_iter().for_each(|key| self.opened.ended(key));
                self.opened.keep(ticket, &session);
                Ok(session)
            }
            Ok(Creation::Revoked) => Err(OpeningFailed::Revoked),
            Ok(Creation::Full) => Err(OpeningFailed::Full),
            Err(error) => Err(OpeningFailed::Store(error)),
        }
    }

    async fn update(
        self: &Arc<Inner>,
        id: Arc<SessionId>,
        change: impl Fn(&Session) -> Option<Session> + Send + Sync,
    ) -> Result<Update, StoreError> {
        let now = self.clock.now();
        let Found::Live(mut base) = self.look_up(Arc::clone(&id), now).await? else { return Ok(Update::Ended) };
        for _ in 0..MOST_ROUNDS {
            let Some(next) = change(&base) else { return Ok(Update::Declined(base)) };
            let mut next = Session { version: base.version + 1, ..next };
            next.ends = self.ends(&next);
            let record = self.sealed_record(&next).map_err(|NoRandomness| StoreError { reason: "no_randomness" })?;
            next.weight = weight_of(&record);
            if self.carrying.as_ref().is_some_and(|carrying| !carrying.carrier.fits(&record)) {
                tracing::error!(session = %next.key, bytes = record.sealed.len(), "a session has become too large for cookies, and lives only as long as this process: raise limits.header_bytes, or choose another session.store");
            }
            let ticket = self.opened.ticket(next.key);
            match self.store.replace(next.key, base.version, record, now).await? {
                Replacement::Replaced => {
                    let next = Arc::new(next);
                    self.opened.replaced(ticket, &next);
                    return Ok(Update::Stored(next));
                }
                Replacement::Conflict(newer) => {
                    base = match self.opened_record(Arc::clone(&id), &newer) {
                        Some(newer) => Arc::new(newer),
                        None => return Err(StoreError { reason: "record_unreadable" }),
                    };
                }
                Replacement::Gone => {
                    self.opened.ended(next.key);
                    return Ok(Update::Ended);
                }
            }
        }
        Err(StoreError { reason: "too_many_writers" })
    }

    fn sealed_record(&self, session: &Session) -> Result<Record, NoRandomness> {
        let about = About {
            provider: session.provider.to_string(),
            issuer: session.owner().issuer.clone(),
            subject: session.owner().subject.clone(),
            sid: session.owner().sid.clone(),
            started: session.started.mono,
            ends: session.ends,
            began: session.began,
        };
        let context = Record::seal_context(session.key, session.version, &about);
        let sealed = self.sealer.seal(&session.id, &context, &record::write(session))?.into();
        let last_seen = session.vitals.last_seen();
        Ok(Record { version: session.version, last_seen, expires: self.expires(last_seen, about.ends), about, sealed })
    }

    fn opened_record(&self, id: Arc<SessionId>, record: &Record) -> Option<Session> {
        let key = id.key();
        let context = Record::seal_context(key, record.version, &record.about);
        let plain = self.sealer.open(&id, &context, &record.sealed)?;
        let vitals = self.opened.vitals(key);
        vitals.last_seen.fetch_max(record.last_seen.0, Ordering::Relaxed);
        vitals.last_touch.fetch_max(record.last_seen.0, Ordering::Relaxed);
        let mut session = record::read(id, &record.about, &plain, vitals)?;
        session.version = record.version;
        session.weight = weight_of(record);
        Some(session)
    }

    /// The store hears of a visit now and then; what it has not heard of it must not hold against the session.
    fn expires(&self, last_seen: Mono, ends: Mono) -> Mono {
        last_seen.after(self.settings.idle_timeout).after(self.touch_every()).min(ends)
    }

    fn touch_every(&self) -> Duration {
        (self.settings.idle_timeout / 20).min(TOUCH_EVERY)
    }

    /// How often a browser gets its cookies anew because of its visits. What they say of the last visit
    /// counts where nobody has seen a later one.
    fn roll_every(&self) -> Duration {
        self.settings.idle_timeout / 20
    }

    fn visited(self: &Arc<Inner>, session: Arc<Session>, now: Now) -> Arc<Session> {
        session.vitals.touch(now.mono);
        if session.vitals.is_touch_due(now.mono, self.touch_every()) {
            let (inner, key, expires) = (Arc::clone(self), session.key, self.expires(now.mono, session.ends));
            self.background.run(async move {
                if let Err(error) = inner.store.touch(key, now.mono, expires).await {
                    tracing::debug!(reason = error.reason, "a visit could not be stored");
                }
            });
        }
        session
    }

    /// `absolute_timeout`, the life of a code that is not exchanged, the end of an impersonation, or what the provider allows: its `session_expiry` (IPSIE session lifetime) in
    /// seconds since 1970, honoured early enough for the last request to be over by then.
    fn ends(&self, session: &Session) -> Mono {
        let longest = self.settings.absolute_timeout;
        let longest = if session.awaits_exchange() { longest.min(CODE_LIFE) } else { longest };
        let absolute = session.started.mono.after(longest);
        let absolute = session.impersonation.as_ref().map_or(absolute, |it| absolute.min(it.until));
        // A JSON number: `1.8e9` is as good as `1800000000`, and whatever is too small or too large stays so.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        match session.owner().claims.get("session_expiry").and_then(Value::as_f64) {
            Some(seconds) => absolute.min(Mono(((seconds * 1000.0) as u64).saturating_sub(EXPIRY_MARGIN_MILLIS))),
            None => absolute,
        }
    }

    fn is_over(&self, session: &Session, now: Now) -> bool {
        now.mono >= session.ends || now.mono >= session.vitals.last_seen().after(self.settings.idle_timeout)
    }
}

impl Presented {
    /// What the cookies carry of it, if they carry anything but its id.
    #[must_use]
    pub fn carried(&self) -> Option<Carried> {
        let record = self.record.as_deref()?;
        Some(Carried { key: self.id.key(), version: record.version, last_seen: record.last_seen })
    }
}

impl From<SessionId> for Presented {
    fn from(id: SessionId) -> Presented {
        Presented { id, record: None }
    }
}

impl Carried {
    /// Which state it is.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether it is a state of this session.
    #[must_use]
    pub fn is_of(&self, session: &Session) -> bool {
        self.key == session.key
    }
}

impl Session {
    /// The next state, with these tokens, and these claims of its owner's.
    #[must_use]
    pub fn renewed(&self, tokens: Arc<TokenSet>, claims: Map<String, Value>) -> Session {
        let owner = Arc::new(Identity { claims, ..Identity::clone(self.owner()) });
        match self.impersonation.clone() {
            None => Session { tokens, identity: owner, ..self.clone() },
            Some(impersonation) => {
                Session { tokens, impersonation: Some(Impersonation { owner, ..impersonation }), ..self.clone() }
            }
        }
    }

    /// The next state, with this data of the front end's.
    #[must_use]
    pub fn with_custom(&self, custom: Map<String, Value>) -> Session {
        Session { custom: Arc::new(custom), ..self.clone() }
    }

    /// When it ends at the latest, in seconds since 1970.
    #[must_use]
    pub fn ends_at(&self) -> u64 {
        self.started.unix.saturating_add(self.ends.since(self.started.mono).as_secs())
    }

    /// What the browser's cookie says.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.id
    }
}

impl TokenSet {
    /// An access token by itself. None when it cannot stand in a header (RFC 6750 §2.1).
    #[must_use]
    pub fn new(access_token: SecretString, generation: u64, obtained: Mono) -> Option<TokenSet> {
        let token = access_token.expose_secret();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        bearer.set_sensitive(true);
        Some(TokenSet {
            generation,
            access_token,
            bearer,
            obtained,
            life: None,
            refresh_token: None,
            id_token: None,
            scope: None,
            unchecked: false,
        })
    }

    /// When the access token expires.
    #[must_use]
    pub fn expires(&self) -> Option<Mono> {
        self.life.map(|life| self.obtained.after(life))
    }
}

impl Vitals {
    /// A request came. Written once a second at most, so that one session's requests do not fight
    /// over a cache line.
    fn touch(&self, now: Mono) {
        if now.since(self.last_seen()) >= Duration::from_secs(1) {
            self.last_seen.store(now.0, Ordering::Relaxed);
        }
    }

    fn last_seen(&self) -> Mono {
        Mono(self.last_seen.load(Ordering::Relaxed))
    }

    /// Whether it is time to tell the store; says so once.
    fn is_touch_due(&self, now: Mono, every: Duration) -> bool {
        let told = self.last_touch.load(Ordering::Relaxed);
        now.since(Mono(told)) >= every
            && self.last_touch.compare_exchange(told, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How often in a row a token was refused that had just been renewed.
    #[must_use]
    pub fn refusals(&self) -> u32 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// What became of a REPLAY with a renewed token.
    pub fn replayed(&self, refused: bool) {
        if refused {
            let _ = self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_add(1)));
        } else {
            self.refusals.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the client may be asked to send the request `target` again; once in five minutes.
    #[must_use]
    pub fn may_ask_again(&self, target: u64, now: Mono) -> bool {
        let mut resent = self.resent.lock().unwrap_or_else(PoisonError::into_inner);
        resent.retain(|&(_, at)| now.since(at) < ASK_AGAIN_AFTER);
        if resent.len() >= MOST_RESENT || resent.iter().any(|&(earlier, _)| earlier == target) {
            return false;
        }
        resent.push((target, now));
        true
    }

    /// The request `target`, sent again, was accepted: the next time it may be asked for anew.
    pub fn was_sent_again(&self, target: u64) {
        self.resent.lock().unwrap_or_else(PoisonError::into_inner).retain(|&(earlier, _)| earlier != target);
    }
}

impl SessionId {
    /// Fresh from the operating system.
    ///
    /// # Errors
    /// When it has none to give.
    pub fn random() -> Result<SessionId, NoRandomness> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(SessionId(bytes))
    }

    /// As it stands in the cookie: 43 characters of base64url, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<SessionId> {
        let mut bytes = [0; 32];
        let written = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        (written == bytes.len()).then_some(SessionId(bytes))
    }

    /// As it stands in the cookie.
    #[must_use]
    pub fn to_cookie_value(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// What the store knows it by.
    #[must_use]
    pub fn key(&self) -> SessionKey {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        SessionKey(key)
    }
}

impl SessionKey {
    /// As a store writes it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As a store has written it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> SessionKey {
        SessionKey(bytes)
    }

    /// 64 digits: how the admin listener names a session.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What [`SessionKey::to_hex`] wrote.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<SessionKey> {
        let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
        let bytes: Vec<u8> = digits?.chunks(2).filter_map(|pair| Some(pair.first()? << 4 | pair.get(1)?)).collect();
        (text.len() == 64).then_some(SessionKey(bytes.try_into().ok()?))
    }
}

/// Eight hex digits: enough to follow a session through the log, useless to steal it.
impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({self})")
    }
}

/// Strings twice (token and header), claims as a tree, and what every session has besides.
fn weight_of(record: &Record) -> u64 {
    2 * record.sealed.len() as u64 + 1024
}

/// A browser sends one session cookie; more than this is not worth a look-up.
const MOST_COOKIES: usize = 8;
/// Of held sessions, at the same time.
const MOST_LOOK_UPS: usize = 64;
const EXPIRY_MARGIN_MILLIS: u64 = 30_000;
/// How often the store hears of a session's visits, at most.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// Of a hundred who write at once, each gets through.
const MOST_ROUNDS: usize = 1000;
/// The process goes down; what was begun may have happened or not.
const CUT_OFF: StoreError = StoreError { reason: "shutting_down" };
/// The client was asked to send a request again; within this time a second 401 stands.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(300);
const MOST_RESENT: usize = 32;

#[cfg(test)]
pub(crate) mod tests {
    use super::store::MemoryStore;
    use super::*;

    pub(crate) fn opening(subject: &str) -> Opening {
        let tokens = TokenSet::new("at".into(), 1, Mono(0)).unwrap();
        Opening {
            provider: "corp".into(),
            identity: Identity { issuer: "https://idp".into(), subject: subject.into(), sid: None, claims: Map::new() },
            tokens: TokenSet { life: Some(Duration::from_secs(60)), refresh_token: Some("rt".into()), ..tokens },
            transient: false,
            began: Mono(0),
        }
    }

    pub(crate) fn settings() -> Settings {
        Settings {
            store: StoreSettings::Memory,
            idle_timeout: Duration::from_secs(24 * 3600),
            absolute_timeout: Duration::from_secs(72 * 3600),
            max_sessions: 4,
            cache_memory: 1 << 20,
            max_sessions_per_user: 2,
            secrets: Vec::new(),
        }
    }

    /// Sessions in memory, and the clock they go by.
    pub(crate) fn sessions() -> (Sessions, Clock) {
        let (settings, clock) = (settings(), Clock::system());
        let store = Arc::new(MemoryStore::new(settings.max_sessions));
        let opened = Opened::new(settings.cache_memory);
        let sessions = Sessions::new(settings, store, opened, Background::on_current_runtime(), clock.clone());
        (sessions.unwrap(), clock)
    }

    fn again(id: &SessionId) -> SessionId {
        SessionId::parse(&id.to_cookie_value()).unwrap()
    }

    async fn find(sessions: &Sessions, ids: &[&SessionId], clock: &Clock) -> Found {
        sessions.find(ids.iter().map(|id| again(id).into()).collect(), clock.now()).await.unwrap()
    }

    async fn is_live(sessions: &Sessions, session: &Session, clock: &Clock) -> bool {
        matches!(find(sessions, &[session.id()], clock).await, Found::Live(_))
    }

    async fn open(sessions: &Sessions, subject: &str, clock: &Clock) -> Arc<Session> {
        sessions.open(opening(subject), clock.now()).await.unwrap()
    }

    #[test]
    fn ids_are_43_characters_and_nothing_else() {
        let text = SessionId::random().unwrap().to_cookie_value();
        assert_eq!(text.len(), 43);
        assert!(SessionId::parse(&text).is_some());
        for garbage in ["", "x", &text[1..], &format!("{text}A"), &format!("{text}="), &text.replace(&text[..1], "!")] {
            assert!(SessionId::parse(garbage).is_none(), "{garbage:?}");
        }
    }

    #[test]
    fn keys_are_written_as_64_digits() {
        let key = SessionId::random().unwrap().key();
        assert_eq!(SessionKey::from_hex(&key.to_hex()), Some(key));
        for garbage in ["", "x", "é", &key.to_hex()[1..], &format!("{}0", key.to_hex()), &"g".repeat(64)] {
            assert_eq!(SessionKey::from_hex(garbage), None, "{garbage:?}");
        }
    }

    #[tokio::test]
    async fn idle_slides_and_absolute_does_not() {
        let (sessions, clock) = sessions();
        let session = open(&sessions, "ada", &clock).await;
        for _ in 0..3 {
            clock.advance(Duration::from_secs(23 * 3600));
            assert!(is_live(&sessions, &session, &clock).await);
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(3 * 3600));
        assert!(matches!(find(&sessions, &[session.id()], &clock).await, Found::Ended), "72 h are over");

        let session = open(&sessions, "ada", &clock).await;
        clock.advance(Duration::from_secs(24 * 3600));
        assert!(!is_live(&sessions, &session, &clock).await, "24 h without a visit");
    }

    // LO-19
    #[tokio::test]
    async fn a_sweep_names_what_was_over_once_and_only_by_the_word_of_the_store() {
        let (sessions, clock) = sessions();
        let idle = open(&sessions, "ada", &clock).await;
        let elsewhere = open(&sessions, "bob", &clock).await;
        let ended = open(&sessions, "eve", &clock).await;
        sessions.end(ended.key).await.unwrap();
        clock.advance(Duration::from_secs(20 * 3600));
        let now = clock.now().mono;
        let store = sessions.store();
        store.touch(elsewhere.key, now, now.after(Duration::from_secs(24 * 3600))).await.unwrap();
        clock.advance(Duration::from_secs(10 * 3600));
        let over: Vec<SessionKey> = sessions.sweep(clock.now()).await.iter().map(|session| session.key).collect();
        assert_eq!(over, [idle.key]);
        assert!(sessions.sweep(clock.now()).await.is_empty());
    }

    // TX-63
    #[tokio::test]
    async fn the_provider_sets_a_ceiling() {
        let (sessions, clock) = sessions();
        let until = |seconds: u64| {
            let mut opening = opening("ada");
            opening.identity.claims.insert("session_expiry".into(), (clock.now().unix + seconds).into());
            opening
        };
        assert!(matches!(sessions.open(until(20), clock.now()).await, Err(OpeningFailed::Over)), "30 s early");
        let session = sessions.open(until(7200), clock.now()).await.unwrap();
        clock.advance(Duration::from_secs(7165));
        assert!(is_live(&sessions, &session, &clock).await);
        clock.advance(Duration::from_secs(6));
        assert!(!is_live(&sessions, &session, &clock).await);

        for (expiry, is_over) in
            [(serde_json::json!(1.5e9), true), ((-1).into(), true), (serde_json::json!(1e300), false)]
        {
            let mut opening = opening("ada");
            opening.identity.claims.insert("session_expiry".into(), expiry.clone());
            let opened = sessions.open(opening, clock.now()).await;
            assert_eq!(matches!(opened, Err(OpeningFailed::Over)), is_over, "{expiry}");
        }
    }

    #[tokio::test]
    async fn a_refresh_can_lower_the_ceiling() {
        let (sessions, clock) = sessions();
        let session = open(&sessions, "ada", &clock).await;
        let mut claims = session.identity.claims.clone();
        claims.insert("session_expiry".into(), (clock.now().unix + 60).into());
        let tokens = Arc::clone(&session.tokens);
        let renew = move |session: &Session| Some(session.renewed(Arc::clone(&tokens), claims.clone()));
        assert!(matches!(sessions.update(&session, renew).await, Ok(Update::Stored(_))));
        clock.advance(Duration::from_secs(31));
        assert!(!is_live(&sessions, &session, &clock).await);
    }

    #[tokio::test]
    async fn an_ended_session_stays_ended() {
        let (sessions, clock) = sessions();
        let session = open(&sessions, "ada", &clock).await;
        assert!(sessions.end(session.key).await.unwrap());
        assert!(!sessions.end(session.key).await.unwrap());
        assert!(matches!(sessions.update(&session, |session| Some(session.clone())).await, Ok(Update::Ended)));
        assert!(matches!(find(&sessions, &[session.id()], &clock).await, Found::Ended));
    }

    #[tokio::test]
    async fn of_two_live_sessions_none_counts() {
        let (sessions, clock) = sessions();
        let (ada, eve) = (open(&sessions, "ada", &clock).await, open(&sessions, "eve", &clock).await);
        let unknown = SessionId::random().unwrap();
        assert!(matches!(find(&sessions, &[ada.id(), eve.id()], &clock).await, Found::Nothing));
        assert!(matches!(find(&sessions, &[&unknown, ada.id()], &clock).await, Found::Live(_)));
        assert!(matches!(find(&sessions, &[ada.id(), ada.id()], &clock).await, Found::Live(_)));
    }

    #[tokio::test]
    async fn the_bound_turns_logins_away_and_signs_nobody_out() {
        let (sessions, clock) = sessions();
        let mut kept = Vec::new();
        for user in ["a", "b", "c", "d"] {
            kept.push(open(&sessions, user, &clock).await);
        }
        assert!(matches!(sessions.open(opening("e"), clock.now()).await, Err(OpeningFailed::Full)));
        for session in &kept {
            assert!(is_live(&sessions, session, &clock).await);
        }
        clock.advance(Duration::from_secs(25 * 3600));
        assert!(sessions.open(opening("e"), clock.now()).await.is_ok(), "what is over makes room");
    }

    #[tokio::test]
    async fn a_user_with_too_many_sessions_loses_the_oldest_of_their_own() {
        let (sessions, clock) = sessions();
        let other = open(&sessions, "eve", &clock).await;
        let [first, second, third] = [
            open(&sessions, "ada", &clock).await,
            open(&sessions, "ada", &clock).await,
            open(&sessions, "ada", &clock).await,
        ];
        assert!(!is_live(&sessions, &first, &clock).await);
        for session in [&second, &third, &other] {
            assert!(is_live(&sessions, session, &clock).await);
        }
    }

    #[tokio::test]
    async fn no_update_is_lost_when_a_hundred_write_at_once() {
        let (sessions, clock) = sessions();
        let session = open(&sessions, "ada", &clock).await;
        let writers = (0..100).map(|number| {
            let (sessions, session) = (sessions.clone(), Arc::clone(&session));
            tokio::spawn(async move {
                sessions
                    .update(&session, move |session| {
                        let mut custom = Map::clone(&session.custom);
                        custom.insert(number.to_string(), number.into());
                        Some(session.with_custom(custom))
                    })
                    .await
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            assert!(matches!(writer.await.unwrap(), Ok(Update::Stored(_))));
        }
        let newest = sessions.newest(&session, clock.now()).await.unwrap().unwrap();
        assert_eq!((newest.custom.len(), newest.version), (100, 101));
    }

    #[tokio::test]
    async fn what_is_held_open_hears_of_the_end() {
        let (sessions, clock) = sessions();
        let watching = sessions.clone();
        tokio::spawn(async move { watching.watch_held().await });
        let session = open(&sessions, "ada", &clock).await;
        let hold = sessions.hold(&session);
        assert!(tokio::time::timeout(Duration::from_millis(20), hold.ended()).await.is_err());
        sessions.end(session.key).await.unwrap();
        hold.ended().await;
        let late = sessions.hold(&session);
        late.ended().await;
    }

    // LO-07
    #[tokio::test(start_paused = true)]
    async fn many_that_are_held_do_not_wait_for_each_other_to_be_looked_up() {
        let (sessions, store, clock) = store::failing::sessions();
        let watching = sessions.clone();
        tokio::spawn(async move { watching.watch_held().await });
        let session = open(&sessions, "ada", &clock).await;
        let mut others = Vec::new();
        for _ in 0..500 {
            others.push(sessions.inner.opened.hold(SessionId::random().unwrap().key()));
        }
        let hold = sessions.hold(&session);
        store.answer_after(Duration::from_millis(100));
        // As another gateway does it.
        store.remove(session.key, clock.now()).await.unwrap();
        sessions.inner.opened.doubt_held();
        tokio::time::timeout(Duration::from_secs(2), hold.ended()).await.expect("within two seconds");
        for other in others {
            tokio::time::timeout(Duration::from_secs(2), other.ended()).await.expect("the unknown ones too");
        }
    }

    // SC-15: 64 bits of nanoseconds since 1970 end in April 2262
    #[tokio::test]
    async fn a_life_may_reach_beyond_2262() {
        const YEAR: Duration = Duration::from_secs(366 * 86_400);
        const APRIL_2262: u64 = i64::MAX.unsigned_abs() / 1_000_000_000;
        let clock = Clock::system();
        let settings = Settings { idle_timeout: 400 * YEAR, absolute_timeout: 400 * YEAR, ..settings() };
        let store = Arc::new(MemoryStore::new(settings.max_sessions));
        let opened = Opened::new(settings.cache_memory);
        let sessions = Sessions::new(settings, store, opened, Background::on_current_runtime(), clock.clone()).unwrap();
        let mut opening = opening("ada");
        opening.identity.claims.insert("session_expiry".into(), u64::MAX.into());
        let session = sessions.open(opening, clock.now()).await.unwrap();
        assert!(session.ends_at() > APRIL_2262);
        let Lookup::Live(record) = sessions.store().find(session.key, clock.now()).await.unwrap() else { panic!() };
        assert_eq!(Record::decode(&record.encode()), Some(record));
        clock.advance(300 * YEAR);
        assert!(clock.now().unix > APRIL_2262 && is_live(&sessions, &session, &clock).await);
        clock.advance(100 * YEAR);
        assert!(!is_live(&sessions, &session, &clock).await);
    }

    #[tokio::test]
    async fn a_session_opens_again_from_its_record_with_all_it_had() {
        let (sessions, clock) = sessions();
        let mut opening = opening("ada");
        opening.identity.sid = Some("sid-1".into());
        opening.identity.claims.insert("groups".into(), serde_json::json!(["a", {"b": 1.5}]));
        opening.tokens.id_token = Some("idt".into());
        opening.tokens.scope = Some("openid x".into());
        let session = sessions.open(opening, clock.now()).await.unwrap();
        sessions.inner.opened.all_changed();
        let again = sessions.current(&session, clock.now()).await.unwrap().unwrap();
        assert!(!Arc::ptr_eq(&session, &again));
        assert_eq!(again.identity.claims, session.identity.claims);
        assert_eq!((&again.identity.subject, &again.identity.sid), (&session.identity.subject, &session.identity.sid));
        assert_eq!(again.tokens.bearer, session.tokens.bearer);
        assert_eq!((again.tokens.generation, again.tokens.life), (1, session.tokens.life));
        let secrets = |tokens: &TokenSet| {
            [&tokens.refresh_token, &tokens.id_token].map(|token| token.as_ref().unwrap().expose_secret().to_owned())
        };
        assert_eq!(secrets(&again.tokens), ["rt", "idt"]);
        assert_eq!(again.tokens.scope, session.tokens.scope);
        assert_eq!((again.started, again.version), (session.started, 1));
    }

    /// Sessions in cookies, of a process that has just begun.
    fn in_cookies(clock: &Clock, secrets: &[&str]) -> Sessions {
        let secrets = secrets.iter().map(|&secret| secret.into()).collect();
        let settings = Settings { store: StoreSettings::Cookie, secrets, ..settings() };
        let longest_life = settings.absolute_timeout;
        let store = Arc::new(CookieStore::new(store::Bounds { sessions: 100, bytes: 1 << 20, longest_life }));
        let opened = Opened::new(settings.cache_memory);
        Sessions::in_cookies(settings, store, 6, opened, Background::on_current_runtime(), clock.clone()).unwrap()
    }

    /// What a browser sends that was given these.
    fn sent_back(set_cookies: &[HeaderValue]) -> Vec<HeaderValue> {
        let pair = |line: &HeaderValue| HeaderValue::from_str(line.to_str().unwrap().split(';').next().unwrap());
        set_cookies.iter().map(|line| pair(line).unwrap()).collect()
    }

    async fn find_carried(sessions: &Sessions, lines: &[HeaderValue], clock: &Clock) -> Option<Arc<Session>> {
        let presented = sessions.presented(&Cookies::new(true), lines);
        match sessions.find(presented, clock.now()).await.unwrap() {
            Found::Live(session) => Some(session),
            Found::Ended | Found::Nothing => None,
        }
    }

    // SC-11
    #[tokio::test]
    async fn carried_sessions_are_sealed_anew_when_the_secret_was_rotated() {
        let (old, new) = ("the old secret, which is long enough", "the new secret, which is long enough");
        let (clock, cookies) = (Clock::system(), Cookies::new(true));
        let before = in_cookies(&clock, &[old]);
        let session = open(&before, "ada", &clock).await;
        let lines = sent_back(&before.set_cookies(&session, &cookies, &[], clock.now()).unwrap());

        clock.advance(Duration::from_secs(2 * 3600));
        let between = in_cookies(&clock, &[new, old]);
        let carried = between.presented(&cookies, &lines)[0].carried().unwrap();
        let session = find_carried(&between, &lines, &clock).await.unwrap();
        let again = between.catch_up(&session, carried, &cookies, &lines).await;
        assert_eq!(again.len(), 1, "it is time for new cookies");

        let after = in_cookies(&clock, &[new]);
        assert!(find_carried(&after, &lines, &clock).await.is_none());
        let session = find_carried(&after, &sent_back(&again), &clock).await.unwrap();
        assert_eq!(session.tokens.refresh_token.as_ref().unwrap().expose_secret(), "rt");
    }

    #[tokio::test]
    async fn no_more_cookies_are_opened_than_are_worth_it() {
        let (clock, cookies) = (Clock::system(), Cookies::new(true));
        let carried = in_cookies(&clock, &["one secret of at least 32 bytes!!"]);
        let session = open(&carried, "ada", &clock).await;
        let line = sent_back(&carried.set_cookies(&session, &cookies, &[], clock.now()).unwrap()).remove(0);
        let in_memory = super::tests::sessions().0;
        let id = HeaderValue::try_from(format!("__Host-latchgate={}", session.id().to_cookie_value())).unwrap();
        assert_eq!(carried.presented(&cookies, &vec![line; 200]).len(), MOST_COOKIES);
        assert_eq!(in_memory.presented(&cookies, &vec![id; 200]).len(), MOST_COOKIES);
    }

    #[tokio::test]
    async fn what_another_process_wrote_counts_when_its_cookie_comes() {
        const SECRET: &str = "one secret of at least 32 bytes!!";
        let (clock, cookies) = (Clock::system(), Cookies::new(true));
        let (here, there) = (in_cookies(&clock, &[SECRET]), in_cookies(&clock, &[SECRET]));
        let session = open(&here, "ada", &clock).await;
        let first = sent_back(&here.set_cookies(&session, &cookies, &[], clock.now()).unwrap());
        let session = find_carried(&there, &first, &clock).await.unwrap();
        let renamed =
            |session: &Session| Some(session.with_custom(Map::from_iter([("theme".to_owned(), Value::from("dark"))])));
        let Ok(Update::Stored(session)) = there.update(&session, renamed).await else { panic!("not stored") };
        let second = sent_back(&there.set_cookies(&session, &cookies, &[], clock.now()).unwrap());
        assert_eq!(find_carried(&here, &first, &clock).await.unwrap().version, 1);
        assert_eq!(find_carried(&here, &second, &clock).await.unwrap().custom["theme"], "dark");
        let outdated = here.presented(&cookies, &first)[0].carried().unwrap();
        let session = find_carried(&here, &first, &clock).await.unwrap();
        assert_eq!(session.version, 2, "the older cookie names the newer state now");
        assert_eq!(here.catch_up(&session, outdated, &cookies, &first).await.len(), 1);
    }

    #[test]
    fn a_request_is_sent_again_once() {
        let vitals = Vitals::default();
        assert!(vitals.may_ask_again(7, Mono(0)));
        assert!(!vitals.may_ask_again(7, Mono(299_999)));
        assert!(vitals.may_ask_again(8, Mono(299_999)));
        assert!(vitals.may_ask_again(7, Mono(300_000)));
    }

    #[test]
    fn tokens_that_cannot_stand_in_a_header_are_refused() {
        for bad in ["", "a b", "a\r\nb", "ü"] {
            assert!(TokenSet::new(bad.into(), 1, Mono(0)).is_none(), "{bad:?}");
        }
    }
}
