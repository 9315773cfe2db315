//! The CODE flow (SPEC §6), for front ends that hold a token instead of the session cookie.
//!
//! The browser comes back from its login with a code. The session is there already, under an id that takes the code
//! and a key of `session.secret` to make: the code alone opens nothing, and no replica has to be told of it. Whoever
//! shows the code within [`CODE_LIFE`] gets the session, once: the exchange is a compare and swap from
//! [`CodeFlow::AwaitsExchange`] to [`CodeFlow::Exchanged`].
//!
//! From then on the browser holds a refresh token, which names the session and counts its own uses. What the use of one
//! means ([`RefreshUse`], after RFC 9700 §4.14.2):
//!
//! | number it bears | since the newest was given out | use |
//! |---|---|---|
//! | the newest, or a later one of a store that has lost a write | any time | [`RefreshUse::Current`] |
//! | the one before | less than `refresh.grace` | [`RefreshUse::Repeated`] |
//! | the one before | longer | [`RefreshUse::Stolen`] |
//! | an older one | any time | [`RefreshUse::Stolen`] |

use super::seal::{NoRandomness, RepeatableSealer, keys_of};
use super::store::StoreError;
use super::{CUT_OFF, Found, Inner, Opening, OpeningFailed, Session, SessionId, Sessions, Update};
use crate::clock::{Mono, Now};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// How long a code waits to be exchanged.
pub const CODE_LIFE: Duration = Duration::from_secs(60);

/// 256 random bits that can be exchanged for a session, once. Never printed, never stored.
#[derive(ZeroizeOnDrop)]
pub struct Code([u8; 32]);

/// Where a session of the CODE flow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeFlow {
    /// Nobody has it yet, and without the code nobody finds it.
    AwaitsExchange,
    /// The browser holds a refresh token.
    Exchanged {
        /// Which one is the newest.
        rotation: u64,
        /// When that was given out.
        rotated: Mono,
    },
}

/// What came of a code.
pub enum CodeExchange {
    /// The session.
    Made(Arc<Session>),
    /// It has been exchanged before.
    Repeated(Arc<Session>),
    /// There is no session for it, or none any more.
    Unknown,
}

/// A session by one of its refresh tokens.
#[derive(Clone)]
pub struct ByRefreshToken {
    /// The newest state.
    pub session: Arc<Session>,
    /// The number that the token bears.
    pub rotation: u64,
}

/// What the use of a refresh token means; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshUse {
    /// A new one is due.
    Current,
    /// Another tab was faster, or an answer was lost: it gets the successor that there is.
    Repeated,
    /// It was used before, and somebody has its successor: one of the two is a thief (RFC 9700 §4.14.2).
    Stolen,
}

/// Keys for codes and refresh tokens.
pub(super) struct CodeFlowKeys {
    /// The first one makes ids, all find them.
    ids: Vec<hmac::Key>,
    refresh_tokens: RepeatableSealer,
}

impl CodeFlowKeys {
    pub(super) fn new(secrets: &[SecretString]) -> Result<CodeFlowKeys, NoRandomness> {
        let derive = |secret: &[u8]| {
            let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"latchgate codes v1");
            hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
        };
        Ok(CodeFlowKeys {
            ids: keys_of(secrets, derive)?,
            refresh_tokens: RepeatableSealer::new(b"latchgate refresh token v1", secrets)?,
        })
    }

    fn ids_of(&self, code: &Code) -> impl Iterator<Item = SessionId> {
        self.ids.iter().map(|key| {
            let mut id = [0; 32];
            id.copy_from_slice(hmac::sign(key, &code.0).as_ref());
            SessionId(id)
        })
    }
}

impl Sessions {
    /// Whether a session can wait here for its browser: not where browsers carry them.
    #[must_use]
    pub fn keeps_for_code(&self) -> bool {
        self.inner.carrying.is_none()
    }

    /// As [`Sessions::open`], under an id that only the code leads to.
    ///
    /// # Errors
    /// [`OpeningFailed`].
    pub async fn open_for_code(&self, opening: Opening, now: Now) -> Result<(Arc<Session>, Code), OpeningFailed> {
        let code = Code::random().map_err(|NoRandomness| OpeningFailed::NoRandomness)?;
        let id = self.inner.code_flow_keys.ids_of(&code).next().ok_or(OpeningFailed::NoRandomness)?;
        let inner = Arc::clone(&self.inner);
        let opening = async move { inner.open(id, opening, Some(CodeFlow::AwaitsExchange), now).await };
        let session = self.owned(opening).await.unwrap_or(Err(OpeningFailed::Store(CUT_OFF)))?;
        Ok((session, code))
    }

    /// The session that waits for `code`: for the first who asks, among all who share the store.
    ///
    /// # Errors
    /// When the store cannot be asked; unless it failed while it wrote, the code still works.
    pub async fn exchange(&self, code: &Code, now: Now) -> Result<CodeExchange, StoreError> {
        for id in self.inner.code_flow_keys.ids_of(code) {
            let Found::Live(session) = self.inner.ask(Arc::new(id), now).await? else { continue };
            let exchanged = self.update(&session, move |session| session.exchanged(now.mono)).await?;
            return Ok(match exchanged {
                Update::Stored(session) => CodeExchange::Made(self.inner.visited(session, now)),
                Update::Declined(session) => CodeExchange::Repeated(session),
                Update::Ended => CodeExchange::Unknown,
            });
        }
        Ok(CodeExchange::Unknown)
    }

    /// The newest refresh token of this state; None outside the CODE flow. The same state has the same one.
    #[must_use]
    pub fn refresh_token(&self, session: &Session) -> Option<String> {
        let Some(CodeFlow::Exchanged { rotation, .. }) = session.code_flow else { return None };
        let plain = Zeroizing::new([&session.id.0[..], &rotation.to_be_bytes()].concat());
        self.inner.code_flow_keys.refresh_tokens.seal(&plain)
    }

    /// The session that `token` was given out for, however old the token is, if it lives. Counts the visit.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn find_by_refresh_token(&self, token: &str, now: Now) -> Result<Option<ByRefreshToken>, StoreError> {
        let Some((id, rotation)) = self.inner.read_refresh_token(token) else { return Ok(None) };
        // By the store's word: who has the newest one must not depend on what this process remembers.
        Ok(match self.inner.ask(Arc::new(id), now).await? {
            Found::Live(session) => Some(ByRefreshToken { session: self.inner.visited(session, now), rotation }),
            Found::Ended | Found::Nothing => None,
        })
    }

    /// Gives out the successor of the refresh token with this number, unless somebody has.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn rotate(&self, session: &Session, rotation: u64, now: Now) -> Result<Update, StoreError> {
        self.update(session, move |session| session.rotated(rotation, now.mono)).await
    }
}

impl Inner {
    fn read_refresh_token(&self, token: &str) -> Option<(SessionId, u64)> {
        let plain = self.code_flow_keys.refresh_tokens.open(token)?;
        let (id, rotation) = plain.split_first_chunk::<32>()?;
        Some((SessionId(*id), u64::from_be_bytes(rotation.try_into().ok()?)))
    }
}

impl Session {
    /// Whether it waits for its code to be exchanged.
    #[must_use]
    pub fn awaits_exchange(&self) -> bool {
        self.code_flow == Some(CodeFlow::AwaitsExchange)
    }

    /// What it means that the refresh token with this number is used.
    #[must_use]
    pub fn use_of(&self, number: u64, grace: Duration, now: Mono) -> RefreshUse {
        match self.code_flow {
            Some(CodeFlow::Exchanged { rotation, .. }) if number >= rotation => RefreshUse::Current,
            Some(CodeFlow::Exchanged { rotation, rotated })
                if number.saturating_add(1) == rotation && now.since(rotated) < grace =>
            {
                RefreshUse::Repeated
            }
            _ => RefreshUse::Stolen,
        }
    }

    fn exchanged(&self, now: Mono) -> Option<Session> {
        let exchanged = CodeFlow::Exchanged { rotation: 1, rotated: now };
        self.awaits_exchange().then(|| Session { code_flow: Some(exchanged), ..self.clone() })
    }

    fn rotated(&self, number: u64, now: Mono) -> Option<Session> {
        let Some(CodeFlow::Exchanged { rotation, .. }) = self.code_flow else { return None };
        let next = CodeFlow::Exchanged { rotation: number.checked_add(1)?, rotated: now };
        (number >= rotation).then(|| Session { code_flow: Some(next), ..self.clone() })
    }
}

impl Code {
    fn random() -> Result<Code, NoRandomness> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Code(bytes))
    }

    /// As it stands in the URL: 43 characters of base64url, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Code> {
        let mut bytes = [0; 32];
        let written = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        (written == bytes.len()).then_some(Code(bytes))
    }

    /// As it stands in the URL.
    #[must_use]
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Names the code to the browser that was given it, and tells nobody what it is: 16 characters of the base64url of its SHA-256.
    #[must_use]
    pub fn label(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.0);
        URL_SAFE_NO_PAD.encode(&digest.as_ref()[..12])
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::failing;
    use super::super::tests::{opening, sessions};
    use super::super::{Presented, SessionId};
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn again(session: &Session) -> Vec<Presented> {
        vec![SessionId::parse(&session.id().to_cookie_value()).unwrap().into()]
    }

    fn rotation_of(session: &Session) -> u64 {
        let Some(CodeFlow::Exchanged { rotation, .. }) = session.code_flow else { panic!("not exchanged") };
        rotation
    }

    async fn made(sessions: &Sessions, code: &Code, now: Now) -> Option<Arc<Session>> {
        match sessions.exchange(code, now).await.unwrap() {
            CodeExchange::Made(session) => Some(session),
            CodeExchange::Repeated(_) | CodeExchange::Unknown => None,
        }
    }

    #[tokio::test]
    async fn before_the_exchange_not_even_its_id_opens_a_session() {
        let (sessions, clock) = sessions();
        let (session, code) = sessions.open_for_code(opening("ada"), clock.now()).await.unwrap();
        assert_ne!(session.id().to_cookie_value(), code.to_text());
        assert!(sessions.peek(&again(&session), clock.now()).is_none());
        assert!(matches!(sessions.find(again(&session), clock.now()).await, Ok(Found::Nothing)));
        assert!(sessions.refresh_token(&session).is_none());
        assert!(made(&sessions, &code, clock.now()).await.is_some());
        assert!(matches!(sessions.find(again(&session), clock.now()).await, Ok(Found::Live(_))));
    }

    #[tokio::test]
    async fn a_code_works_once_and_for_a_minute() {
        let (sessions, clock) = sessions();
        let (_, code) = sessions.open_for_code(opening("ada"), clock.now()).await.unwrap();
        clock.advance(CODE_LIFE - Duration::from_secs(1));
        let session = made(&sessions, &code, clock.now()).await.expect("within its life");
        assert!(session.ends > clock.mono().after(Duration::from_secs(3600)), "now it is a session like any other");
        let repeated = sessions.exchange(&code, clock.now()).await.unwrap();
        assert!(matches!(repeated, CodeExchange::Repeated(same) if same.key == session.key));

        let (_, late) = sessions.open_for_code(opening("bob"), clock.now()).await.unwrap();
        clock.advance(CODE_LIFE);
        assert!(matches!(sessions.exchange(&late, clock.now()).await, Ok(CodeExchange::Unknown)));
        let unknown = Code::random().unwrap();
        assert!(matches!(sessions.exchange(&unknown, clock.now()).await, Ok(CodeExchange::Unknown)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_code_that_met_an_outage_still_works() {
        let (sessions, store, clock) = failing::sessions();
        let (_, code) = sessions.open_for_code(opening("ada"), clock.now()).await.unwrap();
        store.fail(1);
        assert!(sessions.exchange(&code, clock.now()).await.is_err());
        assert!(made(&sessions, &code, clock.now()).await.is_some());
    }

    #[tokio::test]
    async fn who_rotates_at_once_gets_the_same_successor() {
        let (sessions, clock) = sessions();
        let (_, code) = sessions.open_for_code(opening("ada"), clock.now()).await.unwrap();
        let session = made(&sessions, &code, clock.now()).await.unwrap();
        let first = sessions.refresh_token(&session).unwrap();
        let found = sessions.find_by_refresh_token(&first, clock.now()).await.unwrap().unwrap();
        assert_eq!((found.session.key, found.rotation), (session.key, 1));

        let Ok(Update::Stored(winner)) = sessions.rotate(&session, 1, clock.now()).await else { panic!() };
        let Ok(Update::Declined(loser)) = sessions.rotate(&session, 1, clock.now()).await else { panic!() };
        assert_eq!(rotation_of(&winner), 2);
        assert_eq!(loser.use_of(1, GRACE, clock.mono()), RefreshUse::Repeated);
        assert_eq!(sessions.refresh_token(&winner), sessions.refresh_token(&loser));
        assert_ne!(sessions.refresh_token(&winner).unwrap(), first);
        for garbage in ["", "x", &first[1..], &format!("{first}A"), &session.id().to_cookie_value()] {
            assert!(sessions.find_by_refresh_token(garbage, clock.now()).await.unwrap().is_none(), "{garbage:?}");
        }
    }

    #[tokio::test]
    async fn the_table() {
        let (sessions, clock) = sessions();
        let (session, _) = sessions.open_for_code(opening("ada"), clock.now()).await.unwrap();
        let session = Session {
            code_flow: Some(CodeFlow::Exchanged { rotation: 5, rotated: Mono(1000) }),
            ..Session::clone(&session)
        };
        for (number, now, expected) in [
            (5, 1000, RefreshUse::Current),
            (5, 9_999_999, RefreshUse::Current),
            (7, 1000, RefreshUse::Current),
            (4, 1000, RefreshUse::Repeated),
            (4, 60_999, RefreshUse::Repeated),
            (4, 61_000, RefreshUse::Stolen),
            (3, 1000, RefreshUse::Stolen),
            (0, 1000, RefreshUse::Stolen),
        ] {
            assert_eq!(session.use_of(number, GRACE, Mono(now)), expected, "{number} at {now}");
        }
        assert_eq!(session.use_of(4, Duration::ZERO, Mono(1000)), RefreshUse::Stolen);
        assert_eq!(session.use_of(u64::MAX - 1, GRACE, Mono(1000)), RefreshUse::Current);
    }
}
