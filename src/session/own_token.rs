//! The gateway's own tokens (SPEC §6 "CODE flow"): a JWT that stands for the session cookie, for
//! front ends that want to hold a token. It names the session as the cookie does, but sealed, so that
//! whoever reads it learns nothing; and it never reaches an upstream.
//!
//! | claim | is |
//! |---|---|
//! | `iss`, `aud` | `tokens.issuer`, both: it is for the gateway itself |
//! | `sub`, `provider` | `provider:sub`, and its first part |
//! | `iat`, `exp` | seconds; never beyond the session's end |
//! | `sid` | the session, sealed: a key alone makes no token that opens one |
//! | `name`, `email`, `picture`, chosen ones | as the provider said last, see `claims` |

use super::claims::{self, ClaimRule};
use super::seal::{NoRandomness, Purpose, Sealer};
use super::signing::{Algorithm, ClaimedHeader, KeySet, SigningKey};
use super::{Session, SessionId};
use crate::clock::Now;
use secrecy::SecretString;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// `[tokens]`, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `algorithm`, default HS256.
    pub algorithm: Algorithm,
    /// `ttl`, default an hour; at least a second.
    pub ttl: Duration,
    /// `claims`: in tokens, and in assertions that do not choose others.
    pub claims: Vec<ClaimRule>,
    /// `issuer`, default the external origin.
    pub issuer: String,
    /// `key`: first signs, all verify; empty: see [`KeySet::new`].
    pub keys: Vec<SigningKey>,
    /// `update_claims`, default false: whether a user may have the claims read again.
    pub update_claims: bool,
}

/// Issues and reads them.
pub struct OwnTokens {
    settings: Settings,
    keys: Arc<KeySet>,
    sealer: Sealer,
}

/// One to hand out.
pub struct OwnToken {
    /// Compact serialisation.
    pub token: String,
    /// Seconds.
    pub expires_in: u64,
}

/// What a bearer token turned out to be.
pub enum Read {
    /// Not one of ours.
    Foreign,
    /// One of ours, or made to look like one: its time is over, or it was signed with none of our keys.
    Dead,
    /// Ours, and it stands for this session, while [`stands_for`] says so.
    Session {
        /// Which one.
        id: SessionId,
        /// Its `sub`.
        subject: String,
    },
}

impl OwnTokens {
    /// Signed with `settings.keys`, or with what [`KeySet::new`] makes of `session.secret`.
    ///
    /// # Errors
    /// When the operating system has no random bytes to give.
    pub fn new(settings: Settings, secrets: &[SecretString]) -> Result<OwnTokens, NoRandomness> {
        let keys = Arc::new(KeySet::new(settings.algorithm, &settings.keys, secrets)?);
        Ok(OwnTokens { settings, keys, sealer: Sealer::new(secrets)? })
    }

    /// A token for `session`, for `tokens.ttl` at most and never beyond `session_ends`.
    #[must_use]
    pub fn issue(&self, session: &Session, session_ends: u64, now: Now) -> Option<OwnToken> {
        let expires_in = self.settings.ttl.as_secs().min(session_ends.saturating_sub(now.unix));
        let issuer = &self.settings.issuer;
        let mut claims = self.claims_of(session);
        claims.insert("iss".into(), issuer.as_str().into());
        claims.insert("aud".into(), issuer.as_str().into());
        claims.insert("sub".into(), claims::subject(session).into());
        claims.insert("provider".into(), session.provider.as_ref().into());
        if let Some(actor) = claims::actor(session) {
            claims.insert("act".into(), actor.clone());
        }
        claims.insert("iat".into(), now.unix.into());
        claims.insert("exp".into(), (now.unix + expires_in).into());
        claims.insert("sid".into(), self.sealer.seal(Purpose::OwnToken, "", &session.id().0).ok()?.into());
        Some(OwnToken { token: self.keys.sign(TYPE, &claims)?, expires_in })
    }

    /// What a token says of the user: `name`, `email`, `picture`, and what `tokens.claims` chooses, which wins.
    #[must_use]
    pub fn claims_of(&self, session: &Session) -> Map<String, Value> {
        let mut claims = claims::profile(session);
        claims.extend(claims::chosen(session, &self.settings.claims));
        claims
    }

    /// What `token` is. Dead ones are recognised, so that they go no further either.
    #[must_use]
    pub fn read(&self, token: &str, now: Now) -> Read {
        // Most bearer tokens are not ours, and a look at the type tells.
        if !ClaimedHeader::of(token).is_some_and(|header| header.is_of_type(TYPE)) {
            return Read::Foreign;
        }
        let issuer = &self.settings.issuer;
        let claims = self.keys.verify(token, TYPE, issuer, issuer);
        let live = claims.filter(|claims| claims.get("exp").and_then(Value::as_u64).is_some_and(|exp| exp > now.unix));
        live.and_then(|claims| self.session_of(&claims)).unwrap_or(Read::Dead)
    }

    fn session_of(&self, claims: &Map<String, Value>) -> Option<Read> {
        let id = self.sealer.open(Purpose::OwnToken, "", claims.get("sid")?.as_str()?)?;
        let subject = claims.get("sub")?.as_str()?.to_owned();
        Some(Read::Session { id: SessionId(id.try_into().ok()?), subject })
    }

    /// What they are signed with, for whatever else the gateway signs. Its type must not be theirs.
    #[must_use]
    pub fn keys(&self) -> &Arc<KeySet> {
        &self.keys
    }

    /// `[tokens]`.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Whether a token with this `sub` stands for `session` as it is now. Whoever opened the session keeps their tokens while they act
/// as somebody else; one that was given out for that is worth nothing when it is over, least of all the rights of its owner.
#[must_use]
pub fn stands_for(subject: &str, session: &Session) -> bool {
    let local = subject.strip_prefix(&*session.provider).and_then(|rest| rest.strip_prefix(':'));
    local.is_some_and(|local| local == session.identity.subject || local == session.owner().subject)
}

/// No other token of the gateway has it (RFC 8725 §3.11).
const TYPE: &str = "latchgate+jwt";

#[cfg(test)]
pub(crate) mod tests {
    use super::super::Mono;
    use super::super::claims::ClaimSource;
    use super::super::tests::{opening, sessions};
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    const NOW: Now = Now { mono: Mono(0), unix: 1_800_000_000 };
    const SECRET: &str = "one secret of at least 32 bytes!!";

    pub(crate) fn settings() -> Settings {
        Settings {
            algorithm: Algorithm::Hs256,
            ttl: Duration::from_secs(3600),
            claims: Vec::new(),
            issuer: "http://gw.test".into(),
            keys: Vec::new(),
            update_claims: false,
        }
    }

    async fn session() -> Arc<Session> {
        let mut opening = opening("ada");
        let claims = json!({"name": "Ada", "email": "ada@corp.test", "role": "admin", "sub": "ada", "phone": "1"});
        opening.identity.claims = claims.as_object().unwrap().clone();
        sessions().0.open(opening, NOW).await.unwrap()
    }

    fn stands_for(read: &Read, session: &Session) -> bool {
        matches!(read, Read::Session { id, .. } if id.key() == session.key)
    }

    fn tokens(secret: &str) -> OwnTokens {
        OwnTokens::new(settings(), &[secret.into()]).unwrap()
    }

    fn after(seconds: u64) -> Now {
        Now { unix: NOW.unix + seconds, ..NOW }
    }

    fn payload(token: &str) -> Value {
        let part = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn it_stands_for_its_session_for_an_hour() {
        let session = session().await;
        for algorithm in [Algorithm::Hs256, Algorithm::Es256, Algorithm::EdDsa] {
            let tokens = OwnTokens::new(Settings { algorithm, ..settings() }, &[SECRET.into()]).unwrap();
            let own = tokens.issue(&session, NOW.unix + 9999, NOW).unwrap();
            assert_eq!(own.expires_in, 3600);
            assert!(stands_for(&tokens.read(&own.token, NOW), &session), "{algorithm:?}");
            assert!(stands_for(&tokens.read(&own.token, after(3599)), &session));
            assert!(matches!(tokens.read(&own.token, after(3600)), Read::Dead));
        }
    }

    #[tokio::test]
    async fn it_never_outlives_the_session() {
        let own = tokens(SECRET).issue(&*session().await, NOW.unix + 60, NOW).unwrap();
        assert_eq!(own.expires_in, 60);
    }

    // G-11, G-12, G-20
    #[tokio::test]
    async fn g_11_it_says_who_it_is_for_and_nothing_of_the_session() {
        let session = session().await;
        let chosen = |name: &str, source| ClaimRule { name: name.into(), source };
        let claims = vec![
            chosen("role", ClaimSource::User("role".into())),
            chosen("email", ClaimSource::Static(json!("hidden"))),
        ];
        let tokens = OwnTokens::new(Settings { claims, ..settings() }, &[SECRET.into()]).unwrap();
        let mut said = payload(&tokens.issue(&session, NOW.unix + 9999, NOW).unwrap().token);
        let sid = said.as_object_mut().unwrap().remove("sid").unwrap();
        let cookie = session.id().to_cookie_value();
        assert!(!sid.as_str().unwrap().contains(&cookie));
        assert_eq!(
            said,
            json!({
                "iss": "http://gw.test", "aud": "http://gw.test", "sub": "corp:ada", "provider": "corp",
                "iat": NOW.unix, "exp": NOW.unix + 3600, "name": "Ada", "email": "hidden", "role": "admin",
            })
        );
    }

    #[tokio::test]
    async fn nobody_else_can_make_one() {
        let session = session().await;
        let others = tokens("another secret of at least 32 byte");
        let own = tokens(SECRET).issue(&session, NOW.unix + 60, NOW).unwrap();
        assert!(matches!(others.read(&own.token, NOW), Read::Dead));
        let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoibGF0Y2hnYXRlK2p3dCJ9.e30.";
        assert!(matches!(others.read(unsigned, NOW), Read::Dead), "it looks like one of ours, so it stops here");
        for foreign in ["", "a.b.c", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.AAAA"] {
            assert!(matches!(others.read(foreign, NOW), Read::Foreign));
        }
    }

    #[tokio::test]
    async fn the_key_alone_makes_no_session() {
        let session = session().await;
        let shared = || Settings { keys: vec![SigningKey::shared(SECRET.as_bytes())], ..settings() };
        let ours = OwnTokens::new(shared(), &["the secret of the sessions, long enough".into()]).unwrap();
        let theirs = OwnTokens::new(shared(), &["somebody who was given the key, no more".into()]).unwrap();
        assert!(matches!(ours.read(&theirs.issue(&session, NOW.unix + 60, NOW).unwrap().token, NOW), Read::Dead));
        let other_issuer = Settings { issuer: "http://other.test".into(), ..shared() };
        let other_issuer = OwnTokens::new(other_issuer, &["the secret of the sessions, long enough".into()]).unwrap();
        assert!(matches!(ours.read(&other_issuer.issue(&session, NOW.unix + 60, NOW).unwrap().token, NOW), Read::Dead));
    }
}
