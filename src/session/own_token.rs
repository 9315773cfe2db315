//! The gateway's own tokens (SPEC §6 "CODE flow"): a JWT that stands for the session cookie, for
//! front ends that want to hold a token. It names the session as the cookie does, but sealed, so that
//! whoever reads it learns nothing; and it never reaches an upstream.

use super::seal::{NoRandomness, Purpose, Sealer, keys_of};
use super::{Session, SessionId};
use crate::clock::Now;
use aws_lc_rs::hmac;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// Issues and reads them.
pub struct OwnTokens {
    issuer: String,
    issuing: EncodingKey,
    reading: Vec<DecodingKey>,
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
    /// One of ours, but its time is over, or nobody knows the secret any more that it was signed with.
    Dead,
    /// Ours, and it stands for this session.
    Session(SessionId),
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    sid: String,
    iat: u64,
    exp: u64,
}

impl OwnTokens {
    /// Signed with a key of the first secret, accepted under all; without secrets, under a random one.
    ///
    /// # Errors
    /// When the operating system has no random bytes to give.
    pub fn new(issuer: String, secrets: &[SecretString]) -> Result<OwnTokens, NoRandomness> {
        let keys = keys_of(secrets, derive)?;
        let issuing = EncodingKey::from_secret(keys[0].as_ref());
        let reading = keys.iter().map(|key| DecodingKey::from_secret(key.as_ref())).collect();
        Ok(OwnTokens { issuer, issuing, reading, sealer: Sealer::new(secrets)? })
    }

    /// A token for `session`, an hour at most and never beyond `session_ends`.
    #[must_use]
    pub fn issue(&self, session: &Session, session_ends: u64, now: Now) -> Option<OwnToken> {
        let expires_in = LIFE.min(session_ends.saturating_sub(now.unix));
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: format!("{}:{}", session.provider, session.identity.subject),
            sid: self.sealer.seal(Purpose::OwnToken, "", &session.id().0).ok()?,
            iat: now.unix,
            exp: now.unix + expires_in,
        };
        let header = Header { typ: Some(TYPE.into()), ..Header::new(Algorithm::HS256) };
        let token = jsonwebtoken::encode(&header, &claims, &self.issuing).ok()?;
        Some(OwnToken { token, expires_in })
    }

    /// What `token` is. Dead ones are recognised, so that they go no further either.
    #[must_use]
    pub fn read(&self, token: &str, now: Now) -> Read {
        // Most bearer tokens are not ours, and a look at the type tells.
        if !jsonwebtoken::decode_header(token).is_ok_and(|header| header.typ.as_deref() == Some(TYPE)) {
            return Read::Foreign;
        }
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_issuer(&[&self.issuer]);
        let claims = self
            .reading
            .iter()
            .find_map(|key| jsonwebtoken::decode::<Claims>(token, key, &validation).ok())
            .map(|data| data.claims);
        match claims {
            None => Read::Dead,
            Some(claims) if claims.exp <= now.unix => Read::Dead,
            Some(claims) => {
                let id = self.sealer.open(Purpose::OwnToken, "", &claims.sid);
                id.and_then(|id| id.try_into().ok()).map_or(Read::Dead, |id| Read::Session(SessionId(id)))
            }
        }
    }
}

fn derive(secret: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"latchgate own tokens v1")
}

/// SPEC §6: an hour.
const LIFE: u64 = 3600;
const TYPE: &str = "latchgate+jwt";

#[cfg(test)]
mod tests {
    use super::super::Mono;
    use super::super::tests::{opening, sessions};
    use super::*;
    use std::sync::Arc;

    const NOW: Now = Now { mono: Mono(0), unix: 1_800_000_000 };

    async fn session() -> Arc<Session> {
        sessions().0.open(opening("ada"), NOW).await.unwrap()
    }

    fn stands_for(read: &Read, session: &Session) -> bool {
        matches!(read, Read::Session(id) if id.key() == session.key)
    }

    fn tokens(secret: &str) -> OwnTokens {
        OwnTokens::new("http://gw.test".into(), &[secret.into()]).unwrap()
    }

    #[tokio::test]
    async fn it_stands_for_its_session_for_an_hour() {
        let (tokens, session) = (tokens("one secret of at least 32 bytes!!"), session().await);
        let own = tokens.issue(&session, NOW.unix + 9999, NOW).unwrap();
        assert_eq!(own.expires_in, 3600);
        assert!(stands_for(&tokens.read(&own.token, NOW), &session));
        assert!(stands_for(&tokens.read(&own.token, Now { unix: NOW.unix + 3599, ..NOW }), &session));
        assert!(matches!(tokens.read(&own.token, Now { unix: NOW.unix + 3600, ..NOW }), Read::Dead));
    }

    #[tokio::test]
    async fn it_never_outlives_the_session() {
        let own = tokens("one secret of at least 32 bytes!!").issue(&*session().await, NOW.unix + 60, NOW).unwrap();
        assert_eq!(own.expires_in, 60);
    }

    #[tokio::test]
    async fn nobody_else_can_make_one() {
        let own = tokens("one secret of at least 32 bytes!!").issue(&*session().await, NOW.unix + 60, NOW).unwrap();
        let others = tokens("another secret of at least 32 byte");
        assert!(matches!(others.read(&own.token, NOW), Read::Dead));
        let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoibGF0Y2hnYXRlK2p3dCJ9.e30.";
        for foreign in ["", "a.b.c", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.AAAA", unsigned] {
            assert!(matches!(others.read(foreign, NOW), Read::Foreign));
        }
    }
}
