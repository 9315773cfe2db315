//! Assertions: short JWTs by which an upstream learns from the gateway itself who is asking (SPEC §4 `assertion`,
//! RFC 7519). Unlike the gateway's own tokens they name no session: whoever gets one has nothing that the gateway
//! would take. `typ` is `JWT`, `aud` the upstream.

use crate::clock::Now;
use crate::session::claims::{self, ClaimRule};
use crate::session::signing::KeySet;
use crate::session::{Session, SessionKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::time::Duration;

/// `attach = { assertion = … }`, checked.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// `audience`: whom it is for; never the issuer.
    pub audience: String,
    /// `claims`, default `tokens.claims`.
    pub claims: Vec<ClaimRule>,
    /// `ttl`, default 5 minutes; at least a second, at most `tokens.ttl`.
    pub ttl: Duration,
    /// `header`, default `Authorization`.
    pub header: HeaderName,
    /// `scheme`, default `Bearer`; empty for the bare token.
    pub scheme: String,
}

/// Signs them, and keeps what it has signed until half of its life is over.
pub struct Assertions {
    issuer: String,
    keys: Arc<KeySet>,
    signed: Cache<Use, Signed, Bytes>,
}

/// What one assertion is good for: a state of a session, since claims change with it, and one way of asserting it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Use {
    session: SessionKey,
    version: u64,
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Signed {
    value: HeaderValue,
    /// Seconds since 1970: from here on there is a new one.
    fresh_until: u64,
}

impl Assertions {
    /// Signed with the first of `keys`, in the name of `issuer`.
    #[must_use]
    pub fn new(issuer: String, keys: Arc<KeySet>) -> Assertions {
        Assertions { issuer, keys, signed: Cache::with_weighter(USUAL_COUNT, MOST_BYTES, Bytes) }
    }

    /// The value of `settings.header`, marked sensitive; at least half of its life is left. None when the session is
    /// over, or there are no random bytes.
    #[must_use]
    pub fn header_value(&self, settings: &Arc<Settings>, session: &Session, now: Now) -> Option<HeaderValue> {
        let used = Use { session: session.key, version: session.version, settings: Arc::clone(settings) };
        if let Some(signed) = self.signed.get(&used).filter(|signed| signed.fresh_until > now.unix) {
            return Some(signed.value);
        }
        let signed = self.sign(settings, session, now)?;
        self.signed.insert(used, signed.clone());
        Some(signed.value)
    }

    fn sign(&self, settings: &Settings, session: &Session, now: Now) -> Option<Signed> {
        let life = settings.ttl.as_secs().min(session.ends_at().saturating_sub(now.unix));
        if life == 0 {
            return None;
        }
        let mut jti = [0; JTI_LEN];
        aws_lc_rs::rand::fill(&mut jti).ok()?;
        let mut claims = claims::chosen(session, &settings.claims);
        claims.insert("iss".into(), self.issuer.as_str().into());
        claims.insert("sub".into(), claims::subject(session).into());
        if let Some(actor) = claims::actor(session) {
            claims.insert("act".into(), actor.clone());
        }
        claims.insert("aud".into(), settings.audience.as_str().into());
        claims.insert("iat".into(), now.unix.into());
        claims.insert("nbf".into(), now.unix.into());
        claims.insert("exp".into(), (now.unix + life).into());
        claims.insert("jti".into(), URL_SAFE_NO_PAD.encode(jti).into());
        let token = self.keys.sign(TYPE, &claims)?;
        let text = if settings.scheme.is_empty() { token } else { format!("{} {token}", settings.scheme) };
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(Signed { value, fresh_until: now.unix + life / 2 })
    }
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Use, Signed> for Bytes {
    fn weight(&self, _: &Use, signed: &Signed) -> u64 {
        (size_of::<Use>() + size_of::<Signed>() + signed.value.len()) as u64
    }
}

const TYPE: &str = "JWT";
const JTI_LEN: usize = 16;
/// Beyond it, sessions that have not been used for long are signed for once more.
const MOST_BYTES: u64 = 16 << 20;
const USUAL_COUNT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::session::claims::ClaimSource;
    use crate::session::own_token::{self, OwnTokens, Read};
    use crate::session::signing::Algorithm;
    use crate::session::tests::{opening, sessions};
    use serde_json::{Value, json};
    use std::collections::HashSet;

    const NOW: Now = Now { mono: Mono(0), unix: 1_800_000_000 };

    fn at(seconds: u64) -> Now {
        Now { unix: NOW.unix + seconds, ..NOW }
    }

    fn settings(audience: &str) -> Arc<Settings> {
        let claims = vec![ClaimRule { name: "mail".into(), source: ClaimSource::User("email".into()) }];
        let ttl = Duration::from_secs(300);
        let (header, scheme) = (http::header::AUTHORIZATION, "Bearer".to_owned());
        Arc::new(Settings { audience: audience.into(), claims, ttl, header, scheme })
    }

    async fn session() -> Arc<Session> {
        let mut opening = opening("ada");
        opening.identity.claims = json!({"email": "ada@corp.test", "role": "x"}).as_object().unwrap().clone();
        sessions().0.open(opening, NOW).await.unwrap()
    }

    fn signing() -> (Assertions, OwnTokens) {
        let settings = own_token::Settings { algorithm: Algorithm::Es256, ..own_token::tests::settings() };
        let own = OwnTokens::new(settings.clone(), &[]).unwrap();
        (Assertions::new(settings.issuer, Arc::clone(own.keys())), own)
    }

    fn payload(value: &HeaderValue) -> Value {
        let part = value.to_str().unwrap().split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn it_says_who_is_asking_and_names_no_session() {
        let (assertions, session) = (signing().0, session().await);
        let value = assertions.header_value(&settings("api"), &session, NOW).unwrap();
        assert!(value.is_sensitive());
        let mut claims = payload(&value);
        assert_eq!(claims.as_object_mut().unwrap().remove("jti").unwrap().as_str().unwrap().len(), 22);
        assert_eq!(
            claims,
            json!({
                "iss": "http://gw.test", "sub": "corp:ada", "aud": "api", "mail": "ada@corp.test",
                "iat": NOW.unix, "nbf": NOW.unix, "exp": NOW.unix + 300,
            })
        );
    }

    #[tokio::test]
    async fn it_is_signed_again_when_half_of_its_life_is_over() {
        let (assertions, session, settings) = (signing().0, session().await, settings("api"));
        let value = |now| assertions.header_value(&settings, &session, now).unwrap();
        let first = value(NOW);
        assert_eq!(first, value(at(149)));
        let next = value(at(150));
        assert_ne!(first, next);
        assert_eq!(next, value(at(299)));
        assert_eq!(payload(&next)["exp"], NOW.unix + 450);
    }

    #[tokio::test]
    async fn each_state_of_a_session_and_each_audience_has_its_own() {
        let (assertions, ada) = (signing().0, session().await);
        let mut newer = Session::clone(&ada);
        newer.version += 1;
        let other_header = Arc::new(Settings {
            header: HeaderName::from_static("x-user"),
            claims: Vec::new(),
            ..Arc::into_inner(settings("api")).unwrap()
        });
        let (api, web) = (settings("api"), settings("web"));
        let sessions = [&*ada, &newer, &*session().await].map(|session| {
            [&api, &web, &other_header].map(|settings| assertions.header_value(settings, session, NOW).unwrap())
        });
        assert_eq!(sessions.iter().flatten().collect::<HashSet<_>>().len(), 9);
        assert_eq!(assertions.header_value(&settings("api"), &ada, NOW).unwrap(), sessions[0][0], "by what it says");
    }

    #[tokio::test]
    async fn it_never_outlives_the_session() {
        let (assertions, session) = (signing().0, session().await);
        let left = session.ends_at() - NOW.unix;
        let value = assertions.header_value(&settings("api"), &session, at(left - 10)).unwrap();
        assert_eq!(payload(&value)["exp"], session.ends_at());
        assert_eq!(assertions.header_value(&settings("api"), &session, at(left)), None);
    }

    #[tokio::test]
    async fn neither_kind_of_token_passes_for_the_other() {
        let ((assertions, own), session) = (signing(), session().await);
        // Configuration refuses this audience; the type alone has to do.
        let value = assertions.header_value(&settings("http://gw.test"), &session, NOW).unwrap();
        let assertion = value.to_str().unwrap().strip_prefix("Bearer ").unwrap();
        assert!(matches!(own.read(assertion, NOW), Read::Foreign));
        let token = own.issue(&session, session.ends_at(), NOW).unwrap().token;
        for (typ, audience) in [(TYPE, "http://gw.test"), ("latchgate+jwt", "api"), (TYPE, "api")] {
            assert!(own.keys().verify(&token, typ, "http://gw.test", audience).is_none(), "{typ} {audience}");
        }
    }

    #[tokio::test]
    async fn there_is_one_bound_for_all_of_them() {
        let (assertions, session) = (signing().0, session().await);
        let long = "x".repeat(2000);
        for number in 0..8000 {
            let value = HeaderValue::try_from(format!("{long}{number}")).unwrap();
            let used = Use { session: session.key, version: number, settings: settings("api") };
            assertions.signed.insert(used, Signed { value, fresh_until: 0 });
        }
        assert!(assertions.signed.weight() <= MOST_BYTES);
    }
}
