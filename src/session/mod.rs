//! Sessions: who is signed in, with which tokens, for how long.
//!
//! The browser holds 256 random bits; the store knows only their SHA-256. A [`Session`] is a
//! snapshot that never changes: whoever holds one reads one state of it, and [`Sessions::update`]
//! puts the next state in its place.

pub mod cookie;
mod old_store;
pub mod opened;
pub mod own_token;
pub mod seal;
pub mod store;

use crate::clock::{Mono, Now};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use old_store::MemoryStore;
use seal::NoRandomness;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// `[session]`, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `idle_timeout`, default 24 h; slides with use.
    pub idle_timeout: Duration,
    /// `absolute_timeout`, default 72 h; nothing extends it.
    pub absolute_timeout: Duration,
    /// `max_sessions`, default 1,000,000: a login beyond it is a 503, nobody is signed out for it.
    pub max_sessions: usize,
    /// `max_sessions_per_user`, default 100: a login beyond it ends that user's oldest session.
    pub max_sessions_per_user: usize,
    /// Keys for sealing, first seals, all open; empty: one is made at random when the process starts.
    pub secrets: Vec<SecretString>,
}

/// One state of one session.
#[derive(Clone)]
pub struct Session {
    /// What the store knows it by.
    pub key: SessionKey,
    /// The provider it was opened with.
    pub provider: Arc<str>,
    /// Who is signed in.
    pub identity: Arc<Identity>,
    /// The tokens of this generation.
    pub tokens: Arc<TokenSet>,
    /// What PATCH `/auth/session` put there.
    pub custom: Arc<Map<String, Value>>,
    /// When it was opened.
    pub started: Now,
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
}

/// What changes without a new state: cheap to touch on every request.
#[derive(Default)]
pub struct Vitals {
    last_seen: AtomicU64,
    refusals: AtomicU32,
    resent: Mutex<Vec<(u64, Mono)>>,
    ended: CancellationToken,
}

/// The 256 bits in the cookie. Never printed, never stored.
pub struct SessionId([u8; 32]);

/// SHA-256 of a [`SessionId`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey([u8; 32]);

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
}

/// Why no session was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpeningFailed {
    /// `session.max_sessions` is reached.
    Full,
    /// No random bytes.
    NoRandomness,
}

/// All sessions of this gateway.
pub struct Sessions {
    settings: Settings,
    store: MemoryStore,
}

impl Sessions {
    /// An empty store.
    #[must_use]
    pub fn new(settings: Settings) -> Sessions {
        Sessions { settings, store: MemoryStore::default() }
    }

    /// The settings it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Opens a session under an id that nobody chose and nobody has seen.
    ///
    /// # Errors
    /// At `max_sessions`, and without randomness.
    pub fn open(&self, opening: Opening, now: Now) -> Result<(SessionId, Arc<Session>), OpeningFailed> {
        if self.store.len() >= self.settings.max_sessions {
            self.sweep(now);
            if self.store.len() >= self.settings.max_sessions {
                return Err(OpeningFailed::Full);
            }
        }
        let id = SessionId::random().map_err(|_| OpeningFailed::NoRandomness)?;
        let vitals = Vitals::default();
        vitals.last_seen.store(now.mono.0, Ordering::Relaxed);
        let session = Arc::new(Session {
            key: id.key(),
            provider: opening.provider,
            identity: Arc::new(opening.identity),
            tokens: Arc::new(opening.tokens),
            custom: Arc::default(),
            started: now,
            vitals: Arc::new(vitals),
            version: 1,
            weight: 1,
        });
        self.store.create(Arc::clone(&session), self.settings.max_sessions_per_user, now.mono);
        Ok((id, session))
    }

    /// The session that these ids name, and counts the visit.
    pub fn find(&self, ids: impl Iterator<Item = SessionId>, now: Now) -> Found {
        let mut live: Option<Arc<Session>> = None;
        let mut ended = false;
        for key in ids.take(MOST_COOKIES).map(|id| id.key()) {
            match self.current(key, now) {
                Some(session) => match &live {
                    Some(other) if other.key != session.key => return Found::Nothing,
                    _ => live = Some(session),
                },
                None => ended |= self.store.has_ended(key),
            }
        }
        match live {
            Some(session) => {
                session.vitals.touch(now.mono);
                Found::Live(session)
            }
            None if ended => Found::Ended,
            None => Found::Nothing,
        }
    }

    /// The newest state of a live session, and counts the visit.
    #[must_use]
    pub fn visit(&self, key: SessionKey, now: Now) -> Option<Arc<Session>> {
        let session = self.current(key, now)?;
        session.vitals.touch(now.mono);
        Some(session)
    }

    /// The newest state of a live session.
    #[must_use]
    pub fn current(&self, key: SessionKey, now: Now) -> Option<Arc<Session>> {
        let session = self.store.find(key)?;
        if self.is_over(&session, now) {
            self.store.remove(key, now.mono);
            return None;
        }
        Some(session)
    }

    /// Puts the next state in place: `change` sees the newest one, and nobody else changes it
    /// meanwhile. None when the session has ended, and nothing brings it back.
    pub fn update(&self, key: SessionKey, change: impl FnOnce(&Session) -> Session) -> Option<Arc<Session>> {
        self.store.update(key, change)
    }

    /// Ends a session. Answers its last state, the first time.
    pub fn end(&self, key: SessionKey, now: Now) -> Option<Arc<Session>> {
        self.store.remove(key, now.mono)
    }

    /// Drops what is over. For the sweeper.
    pub fn sweep(&self, now: Now) {
        self.store.remove_where(now.mono, |session| self.is_over(session, now));
        self.store.forget_ended_before(Mono(now.mono.0.saturating_sub(REMEMBER_ENDED.as_millis() as u64)));
    }

    /// When the session ends at the latest, in seconds since 1970.
    #[must_use]
    pub fn ends_at(&self, session: &Session) -> u64 {
        session.started.unix.saturating_add(self.settings.absolute_timeout.as_secs())
    }

    fn is_over(&self, session: &Session, now: Now) -> bool {
        let last_seen = Mono(session.vitals.last_seen.load(Ordering::Relaxed));
        now.mono >= session.started.mono.after(self.settings.absolute_timeout)
            || now.mono >= last_seen.after(self.settings.idle_timeout)
    }
}

impl Session {
    /// The next state, with these tokens and claims.
    #[must_use]
    pub fn renewed(&self, tokens: TokenSet, claims: Map<String, Value>) -> Session {
        let identity = Arc::new(Identity { claims, ..Identity::clone(&self.identity) });
        Session { tokens: Arc::new(tokens), identity, ..self.clone() }
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
        if now.since(Mono(self.last_seen.load(Ordering::Relaxed))) >= Duration::from_secs(1) {
            self.last_seen.store(now.0, Ordering::Relaxed);
        }
    }

    /// Cancelled when the session ends: what was opened with it closes.
    #[must_use]
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
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

/// A browser sends one session cookie; more than this is not worth a look-up.
const MOST_COOKIES: usize = 8;
/// After this an ended session is as good as one that never was.
const REMEMBER_ENDED: Duration = Duration::from_secs(24 * 3600);
/// The client was asked to send a request again; within this time a second 401 stands.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(300);
const MOST_RESENT: usize = 32;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::Clock;

    pub(crate) fn opening(subject: &str) -> Opening {
        let tokens = TokenSet::new("at".into(), 1, Mono(0)).unwrap();
        Opening {
            provider: "corp".into(),
            identity: Identity { issuer: "https://idp".into(), subject: subject.into(), sid: None, claims: Map::new() },
            tokens: TokenSet { life: Some(Duration::from_secs(60)), refresh_token: Some("rt".into()), ..tokens },
        }
    }

    pub(crate) fn settings() -> Settings {
        Settings {
            idle_timeout: Duration::from_secs(24 * 3600),
            absolute_timeout: Duration::from_secs(72 * 3600),
            max_sessions: 4,
            max_sessions_per_user: 2,
            secrets: Vec::new(),
        }
    }

    fn again(id: &SessionId) -> SessionId {
        SessionId::parse(&id.to_cookie_value()).unwrap()
    }

    fn is_live(sessions: &Sessions, id: &SessionId, now: Now) -> bool {
        matches!(sessions.find([again(id)].into_iter(), now), Found::Live(_))
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
    fn idle_slides_and_absolute_does_not() {
        let clock = Clock::system();
        let sessions = Sessions::new(settings());
        let (id, _) = sessions.open(opening("ada"), clock.now()).unwrap();
        for _ in 0..3 {
            clock.advance(Duration::from_secs(23 * 3600));
            assert!(is_live(&sessions, &id, clock.now()));
        }
        clock.advance(Duration::from_secs(3 * 3600));
        assert!(matches!(sessions.find([again(&id)].into_iter(), clock.now()), Found::Ended), "72 h are over");

        let (id, _) = sessions.open(opening("ada"), clock.now()).unwrap();
        clock.advance(Duration::from_secs(24 * 3600));
        assert!(!is_live(&sessions, &id, clock.now()), "24 h without a visit");
    }

    #[test]
    fn an_ended_session_stays_ended() {
        let now = Clock::system().now();
        let sessions = Sessions::new(settings());
        let (id, session) = sessions.open(opening("ada"), now).unwrap();
        assert!(sessions.end(session.key, now).is_some());
        assert!(sessions.end(session.key, now).is_none());
        assert!(sessions.update(session.key, Session::clone).is_none());
        assert!(matches!(sessions.find([again(&id)].into_iter(), now), Found::Ended));
    }

    #[test]
    fn of_two_live_sessions_none_counts() {
        let now = Clock::system().now();
        let sessions = Sessions::new(settings());
        let (ada, _) = sessions.open(opening("ada"), now).unwrap();
        let (eve, _) = sessions.open(opening("eve"), now).unwrap();
        let unknown = SessionId::random().unwrap();
        assert!(matches!(sessions.find([again(&ada), again(&eve)].into_iter(), now), Found::Nothing));
        assert!(matches!(sessions.find([again(&unknown), again(&ada)].into_iter(), now), Found::Live(_)));
        assert!(matches!(sessions.find([again(&ada), again(&ada)].into_iter(), now), Found::Live(_)));
    }

    #[test]
    fn the_bound_turns_logins_away_and_signs_nobody_out() {
        let clock = Clock::system();
        let sessions = Sessions::new(settings());
        let kept: Vec<SessionId> =
            ["a", "b", "c", "d"].map(|user| sessions.open(opening(user), clock.now()).unwrap().0).into();
        assert!(matches!(sessions.open(opening("e"), clock.now()), Err(OpeningFailed::Full)));
        assert!(kept.iter().all(|id| is_live(&sessions, id, clock.now())));
        clock.advance(Duration::from_secs(25 * 3600));
        assert!(sessions.open(opening("e"), clock.now()).is_ok(), "what is over makes room");
    }

    #[test]
    fn a_user_with_too_many_sessions_loses_the_oldest_of_their_own() {
        let now = Clock::system().now();
        let sessions = Sessions::new(settings());
        let (other, _) = sessions.open(opening("eve"), now).unwrap();
        let [first, second, third] = [(); 3].map(|()| sessions.open(opening("ada"), now).unwrap().0);
        assert!(!is_live(&sessions, &first, now));
        assert!([&second, &third, &other].into_iter().all(|id| is_live(&sessions, id, now)));
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
