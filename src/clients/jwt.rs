//! Access tokens that are JWTs (RFC 9068 §4), and the keys of who issues them.

use super::{Accepted, BearerSettings, MOST_TOKEN_BYTES, Rejection, is_for_one_of, is_something_else};
use crate::clock::Now;
use crate::provider::HttpClient;
use crate::provider::http;
use crate::provider::json;
use crate::provider::keys::{KeyCache, KeySet};
use crate::provider::metadata::{is_plain_loopback, require_safe, well_known};
use crate::provider::verify::{Jws, Purpose, TokenError, check_expiry, check_not_before, issued_at};
use ::http::{Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use std::time::Duration;
use url::Url;

/// What a `[bearer.*]` table without `introspection` says besides.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// `jwks_url`; None: the issuer's metadata say where the keys are.
    pub jwks_url: Option<Url>,
    /// `algorithms`, default every asymmetric one.
    pub algorithms: Vec<Algorithm>,
}

/// Whose tokens count, and for whom they have to be.
pub(super) struct JwtIssuer {
    name: String,
    issuer: String,
    audience: Vec<String>,
    algorithms: Vec<Algorithm>,
    jwks_url: Option<Url>,
    keys: KeyCache,
    http: HttpClient,
    timeout: Duration,
}

/// What a token says; whether its issuer has said it remains to be seen.
pub(super) struct Claimed<'t> {
    token: Jws<'t>,
    claims: Map<String, Value>,
    expires: u64,
}

impl JwtIssuer {
    pub(super) fn new(settings: &BearerSettings, jwt: &JwtSettings, http: HttpClient, timeout: Duration) -> JwtIssuer {
        JwtIssuer {
            name: settings.name.clone(),
            issuer: settings.issuer.clone().unwrap_or_default(),
            audience: settings.audience.clone(),
            algorithms: jwt.algorithms.clone(),
            jwks_url: jwt.jwks_url.clone(),
            keys: KeyCache::new(&settings.name),
            http,
            timeout,
        }
    }

    /// Every check that needs no key: anyone can send a token, and what costs nothing comes first.
    ///
    /// | step | what | source |
    /// |---|---|---|
    /// | 1 | at most 8 KiB; a JWS with strict base64url, no member twice, no `crit`, `b64`, `zip` or `enc` | RFC 7515, RFC 8725 §3 |
    /// | 2 | `typ` is `at+jwt` or `JWT`, or missing | RFC 9068 §4 |
    /// | 3 | `alg` is one of ours, of which none is `none` or an HMAC | RFC 8725 §3.1 |
    /// | 4 | `iss` is ours, byte for byte | RFC 9068 §4 |
    /// | 5 | `aud` names one of ours | RFC 9068 §4 |
    /// | 6 | `exp` is there and to come, `nbf` and `iat` are not, all to the second with 60 s for clocks | RFC 7519 §4.1 |
    /// | 7 | it is no ID token, refresh token or logout token, and bound to nobody's key | RFC 8725 §3.12, RFC 7800 §3.1 |
    ///
    /// # Errors
    /// The first check that failed.
    pub(super) fn read<'t>(&self, token: &'t str, now: Now) -> Result<Claimed<'t>, TokenError> {
        if token.len() > MOST_TOKEN_BYTES {
            return Err(TokenError::TooLarge);
        }
        let token = Jws::parse(token, Purpose::AccessToken)?;
        token.check_algorithm(&self.algorithms)?;
        let claims = token.claims()?;
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(TokenError::Issuer);
        }
        if !is_for_one_of(&self.audience, &claims) {
            return Err(TokenError::Audience);
        }
        let expires = check_expiry(&claims, now)?;
        check_not_before(&claims, now)?;
        if claims.contains_key("iat") {
            issued_at(&claims, now)?;
        }
        if claims.get("sub").is_some_and(|subject| !subject.is_string()) {
            return Err(TokenError::Subject);
        }
        if is_something_else(&claims).is_some() {
            return Err(TokenError::Type);
        }
        Ok(Claimed { token, claims, expires })
    }

    /// [`JwtIssuer::read`], and step 8: the issuer has signed it.
    ///
    /// # Errors
    /// [`Rejection::InvalidToken`]; [`Rejection::Unavailable`] when the keys cannot be had.
    pub(super) async fn verify(&self, token: &str, now: Now) -> Result<Accepted, Rejection> {
        let invalid = |error: TokenError| Rejection::InvalidToken { reason: error.reason() };
        let Claimed { token, claims, expires } = self.read(token, now).map_err(invalid)?;
        let keys = self.keys.keys(|keys| token.is_signed_by_one_of(keys), now.mono, self.fetch_keys()).await;
        let keys = keys.map_err(|_| match self.keys.is_up_to_date(now.mono) {
            true => invalid(TokenError::Signature),
            false => Rejection::Unavailable { reason: "keys_unavailable", retry_after: WITHOUT_KEYS },
        })?;
        token.check_signature(&keys, &self.algorithms).map_err(invalid)?;
        Ok(Accepted { claims, expires: Some(expires) })
    }

    async fn fetch_keys(&self) -> Option<KeySet> {
        let keys = self.try_to_fetch_keys().await;
        if let Err(reason) = keys {
            tracing::warn!(bearer = self.name, reason, "the issuer's keys could not be fetched");
        }
        keys.ok()
    }

    async fn try_to_fetch_keys(&self) -> Result<KeySet, &'static str> {
        let url = match &self.jwks_url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let answer = self.get(&url).await?;
        KeySet::parse(answer.body()).ok_or("jwks_not_a_key_set")
    }

    /// Where the issuer's metadata say that its keys are: OIDC Discovery §4, else RFC 8414 §3.
    async fn discover(&self) -> Result<Url, &'static str> {
        let plain_http = Url::parse(&self.issuer).is_ok_and(|url| is_plain_loopback(&url));
        let openid = well_known(&self.issuer).map_err(|error| error.reason())?;
        let answer = match self.get(&openid).await {
            Err(NOT_FOUND) => self.get(&oauth_metadata(&self.issuer).ok_or("issuer_not_a_url")?).await?,
            answer => answer?,
        };
        let document = json::object(answer.body()).ok_or("metadata_not_json")?;
        // RFC 8414 §3.3: byte for byte.
        if document.get("issuer").and_then(Value::as_str) != Some(&self.issuer) {
            return Err("metadata_issuer_mismatch");
        }
        let url = json::text(&document, "jwks_uri")
            .and_then(|url| Url::parse(url).ok())
            .ok_or("metadata_without_jwks_uri")?;
        require_safe(&url, plain_http).map_err(|error| error.reason())?;
        Ok(url)
    }

    async fn get(&self, url: &Url) -> Result<Response<Bytes>, &'static str> {
        let request = http::get(url, None).map_err(http::HttpError::reason)?;
        let answer = self.http.send(request, self.timeout).await.map_err(http::HttpError::reason)?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::NOT_FOUND => Err(NOT_FOUND),
            _ => Err("unexpected_status"),
        }
    }
}

/// What a JWT says that nobody has checked yet.
pub(super) fn unverified_claims(token: &str) -> Option<Map<String, Value>> {
    if token.len() > MOST_TOKEN_BYTES {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    json::object(&payload)
}

/// RFC 8414 §3.1: between the host and the path of the issuer.
fn oauth_metadata(issuer: &str) -> Option<Url> {
    let mut url = Url::parse(issuer).ok()?;
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    Some(url)
}

const NOT_FOUND: &str = "not_found";
/// They are fetched once a minute at most.
const WITHOUT_KEYS: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::super::{BearerEntry, BearerSettings, Clients, Settings, Verification};
    use super::*;
    use crate::background::Background;
    use crate::clock::{Clock, Mono};
    use crate::provider::metadata::SIGNATURE_ALGORITHMS;
    use crate::provider::test_provider::{SigningKey, changed};
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, LazyLock, Mutex};

    const ISSUER: &str = "https://op.example";
    const NOW: Now = Now { mono: Mono(0), unix: 1_800_000_000 };
    static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::es256("k"));

    fn settings(algorithms: &[Algorithm], jwks_url: Option<&str>) -> (BearerSettings, JwtSettings) {
        let jwks_url = jwks_url.map(|url| Url::parse(url).unwrap());
        let jwt = JwtSettings { jwks_url, algorithms: algorithms.to_vec() };
        let settings = BearerSettings {
            name: "corp".into(),
            issuer: Some(ISSUER.into()),
            audience: vec!["api".into(), "https://api.example".into()],
            verification: Verification::Jwt(jwt.clone()),
        };
        (settings, jwt)
    }

    /// An issuer with these keys, at `/jwks`.
    fn issuer(algorithms: &[Algorithm], keys: Vec<Value>) -> JwtIssuer {
        let (settings, jwt) = settings(algorithms, Some("https://op.example/jwks"));
        let keys = json!({ "keys": keys }).to_string();
        let http = HttpClient::in_process(move |_| std::future::ready(Response::new(Bytes::from(keys.clone()))));
        JwtIssuer::new(&settings, &jwt, http, Duration::from_secs(1))
    }

    fn all() -> Vec<Algorithm> {
        SIGNATURE_ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect()
    }

    fn claims(changes: &Value) -> Value {
        let claims = json!({
            "iss": ISSUER, "aud": "api", "sub": "robot", "iat": NOW.unix, "exp": NOW.unix + 300, "scope": "read",
        });
        changed(claims, changes)
    }

    async fn judge(token: &str) -> Result<Map<String, Value>, &'static str> {
        match issuer(&all(), vec![KEY.jwk()]).verify(token, NOW).await {
            Ok(accepted) => Ok(accepted.claims),
            Err(Rejection::InvalidToken { reason }) => Err(reason),
            Err(other) => panic!("{other:?}"),
        }
    }

    async fn with_claims(changes: Value) -> Result<(), &'static str> {
        judge(&KEY.sign_claims(&claims(&changes))).await.map(drop)
    }

    async fn with_header(changes: Value) -> Result<(), &'static str> {
        let header = changed(KEY.header(), &changes).to_string();
        judge(&KEY.sign(header.as_bytes(), claims(&json!({})).to_string().as_bytes())).await.map(drop)
    }

    #[tokio::test]
    async fn a_good_token_is_accepted_with_every_key_type() {
        for key in [KEY.clone(), SigningKey::rs256("r"), SigningKey::ed25519("e")] {
            let issuer = issuer(&all(), vec![KEY.jwk(), key.jwk()]);
            let accepted = issuer.verify(&key.sign_claims(&claims(&json!({}))), NOW).await.unwrap();
            assert_eq!((accepted.claims["sub"].as_str(), accepted.expires), (Some("robot"), Some(NOW.unix + 300)));
        }
    }

    // GHSA-wcvh-g65p-v576
    #[tokio::test]
    async fn it_01_it_02_it_13_it_14_it_15_every_claim_is_checked() {
        for (changes, reason) in [
            (json!({ "iss": "https://op.example/" }), "token_iss"),
            (json!({ "iss": "https://OP.example" }), "token_iss"),
            (json!({ "iss": [ISSUER] }), "token_iss"),
            (json!({ "iss": null }), "token_iss"),
            (json!({ "aud": "ap" }), "token_aud"),
            (json!({ "aud": "API" }), "token_aud"),
            (json!({ "aud": "api " }), "token_aud"),
            (json!({ "aud": [] }), "token_aud"),
            (json!({ "aud": [""] }), "token_aud"),
            (json!({ "aud": ["other"] }), "token_aud"),
            (json!({ "aud": { "api": true } }), "token_aud"),
            (json!({ "aud": null }), "token_aud"),
            (json!({ "exp": null }), "token_exp"),
            (json!({ "exp": NOW.unix - 60 }), "token_exp"),
            (json!({ "exp": (NOW.unix + 300).to_string() }), "token_exp"),
            (json!({ "exp": 1e300 }), "token_exp"),
            (json!({ "exp": -1 }), "token_exp"),
            (json!({ "exp": u64::MAX }), "token_exp"),
            (json!({ "nbf": NOW.unix + 61 }), "token_nbf"),
            (json!({ "nbf": "soon" }), "token_nbf"),
            (json!({ "iat": NOW.unix + 61 }), "token_iat"),
            (json!({ "iat": true }), "token_iat"),
            (json!({ "sub": 7 }), "token_sub"),
            (json!({ "cnf": { "jkt": "x" } }), "token_typ"),
            (json!({ "at_hash": "x" }), "token_typ"),
            (json!({ "c_hash": "x" }), "token_typ"),
            (json!({ "events": {} }), "token_typ"),
            (json!({ "token_use": "id" }), "token_typ"),
            (json!({ "typ": "Refresh" }), "token_typ"),
        ] {
            assert_eq!(with_claims(changes.clone()).await, Err(reason), "{changes}");
        }
        for changes in [
            json!({ "aud": ["other", "https://api.example"] }),
            json!({ "exp": NOW.unix - 59 }),
            json!({ "exp": NOW.unix as f64 + 0.5 }),
            json!({ "nbf": NOW.unix + 60 }),
            json!({ "iat": NOW.unix + 60 }),
            json!({ "iat": null, "sub": null }),
            json!({ "typ": "Bearer", "token_use": "access", "azp": "app" }),
        ] {
            assert_eq!(with_claims(changes.clone()).await, Ok(()), "{changes}");
        }
    }

    #[tokio::test]
    async fn it_07_it_08_it_19_it_20_it_21_every_header_is_checked() {
        for (changes, reason) in [
            (json!({ "alg": "none" }), "token_alg"),
            (json!({ "alg": "nOnE" }), "token_alg"),
            (json!({ "alg": "" }), "token_alg"),
            (json!({ "alg": null }), "token_alg"),
            (json!({ "alg": "HS256" }), "token_alg"),
            (json!({ "alg": "HS512" }), "token_alg"),
            (json!({ "alg": "RS256" }), "token_signature"),
            (json!({ "alg": "ES384" }), "token_signature"),
            (json!({ "kid": "other" }), "token_signature"),
            (json!({ "kid": 7 }), "token_header"),
            (json!({ "kid": "x".repeat(2000) }), "token_header"),
            (json!({ "crit": ["exp"] }), "token_crit"),
            (json!({ "crit": [] }), "token_crit"),
            (json!({ "b64": false }), "token_crit"),
            (json!({ "zip": "DEF" }), "token_encrypted"),
            (json!({ "enc": "A128GCM" }), "token_encrypted"),
            (json!({ "typ": "latchgate+jwt" }), "token_typ"),
            (json!({ "typ": "logout+jwt" }), "token_typ"),
            (json!({ "typ": "dpop+jwt" }), "token_typ"),
            (json!({ "typ": "JOSE" }), "token_typ"),
            (json!({ "typ": ["JWT"] }), "token_typ"),
        ] {
            assert_eq!(with_header(changes.clone()).await, Err(reason), "{changes}");
        }
        let attackers = SigningKey::es256("k");
        for changes in [
            json!({}),
            json!({ "typ": null }),
            json!({ "typ": "at+jwt" }),
            json!({ "typ": "application/AT+JWT" }),
            json!({ "kid": null }),
            json!({ "jwk": attackers.jwk(), "jku": "https://evil.example/jwks", "x5u": "https://evil.example" }),
        ] {
            assert_eq!(with_header(changes.clone()).await, Ok(()), "{changes}");
        }
        let embedded = changed(attackers.header(), &json!({ "jwk": attackers.jwk() })).to_string();
        let forged = attackers.sign(embedded.as_bytes(), claims(&json!({})).to_string().as_bytes());
        assert_eq!(judge(&forged).await, Err("token_signature"));
    }

    #[tokio::test]
    async fn it_06_it_08_the_public_key_is_no_secret() {
        use aws_lc_rs::hmac;
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"k","typ":"at+jwt"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims(&json!({})).to_string()));
        let jwk = KEY.jwk();
        for secret in [jwk.to_string(), jwk["x"].as_str().unwrap().to_owned(), String::new()] {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
            assert_eq!(judge(&token).await, Err("token_alg"));
        }
        let good = KEY.sign_claims(&claims(&json!({})));
        let (signed, signature) = good.rsplit_once('.').unwrap();
        for broken in
            ["".to_owned(), "AAAA".to_owned(), format!("{signature}="), signature[1..].to_owned(), "A".repeat(86)]
        {
            assert_eq!(judge(&format!("{signed}.{broken}")).await, Err("token_signature"), "{broken}");
        }
    }

    #[tokio::test]
    async fn it_09_only_the_configured_algorithms_count() {
        let issuer = issuer(&[Algorithm::RS256], vec![KEY.jwk()]);
        let refused = issuer.verify(&KEY.sign_claims(&claims(&json!({}))), NOW).await;
        assert_eq!(refused.unwrap_err(), Rejection::InvalidToken { reason: "token_alg" });
    }

    #[tokio::test]
    async fn it_22_it_23_it_26_what_is_no_token_is_refused_before_any_key() {
        let header = KEY.header().to_string();
        let payload = claims(&json!({})).to_string();
        let sign = |header: &str, payload: &[u8]| KEY.sign(header.as_bytes(), payload);
        let twice = payload.replacen('{', r#"{"aud":"api","#, 1);
        let deep = format!(r#"{{"iss":{}1{}}}"#, "[".repeat(2000), "]".repeat(2000));
        for (token, reason) in [
            (String::new(), "token_not_a_jws"),
            ("opaque".to_owned(), "token_not_a_jws"),
            ("..".to_owned(), "token_header"),
            ("a.b.c.d.e".to_owned(), "token_encrypted"),
            (".".repeat(5000), "token_not_a_jws"),
            ("x".repeat(1 << 20), "token_too_large"),
            (sign(&header, format!("{payload}{}", " ".repeat(9000)).as_bytes()), "token_too_large"),
            (sign(&header, twice.as_bytes()), "token_payload"),
            (sign(&header.replacen('{', r#"{"alg":"ES256","#, 1), payload.as_bytes()), "token_header"),
            (sign(&header, b"[]"), "token_payload"),
            (sign(&header, b"{\"sub\":\"\xff\"}"), "token_payload"),
            (sign(&header, deep.as_bytes()), "token_payload"),
            (sign(&header, payload.as_bytes()).replacen('.', "=.", 1), "token_header"),
        ] {
            let read = issuer(&all(), Vec::new()).read(&token, NOW).map(drop);
            assert_eq!(read.map_err(TokenError::reason), Err(reason), "{}", &token[..token.len().min(60)]);
        }
    }

    /// What the issuer serves at each path, and how often it was asked.
    #[derive(Clone, Default)]
    struct Served(Arc<Mutex<Vec<(&'static str, String)>>>, Arc<AtomicUsize>);

    impl Served {
        fn with(self, path: &'static str, body: &Value) -> Served {
            self.0.lock().unwrap().push((path, body.to_string()));
            self
        }

        fn issuer(&self) -> JwtIssuer {
            let (settings, jwt) = settings(&all(), None);
            JwtIssuer::new(&settings, &jwt, self.http(), Duration::from_secs(1))
        }

        fn http(&self) -> HttpClient {
            let served = self.clone();
            HttpClient::in_process(move |request| {
                served.1.fetch_add(1, Ordering::SeqCst);
                let files = served.0.lock().unwrap();
                let found = files.iter().rev().find(|(path, _)| *path == request.uri().path());
                let mut response = Response::new(Bytes::from(found.map(|(_, body)| body.clone()).unwrap_or_default()));
                *response.status_mut() = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
                std::future::ready(response)
            })
        }
    }

    #[tokio::test]
    async fn keys_are_found_through_either_kind_of_metadata() {
        let token = KEY.sign_claims(&claims(&json!({})));
        let jwks = json!({ "keys": [KEY.jwk()] });
        let metadata = json!({ "issuer": ISSUER, "jwks_uri": "https://op.example/jwks" });
        for path in ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"] {
            let served = Served::default().with(path, &metadata).with("/jwks", &jwks);
            assert!(served.issuer().verify(&token, NOW).await.is_ok(), "{path}");
        }
        for (changes, case) in [
            (json!({ "issuer": "https://op.example/" }), "another issuer"),
            (json!({ "jwks_uri": "http://op.example/jwks" }), "without TLS"),
            (json!({ "jwks_uri": null }), "nowhere"),
        ] {
            let metadata = changed(metadata.clone(), &changes);
            let served = Served::default().with("/.well-known/openid-configuration", &metadata).with("/jwks", &jwks);
            let refused = served.issuer().verify(&token, NOW).await.unwrap_err();
            assert!(
                matches!(refused, Rejection::Unavailable { reason: "keys_unavailable", .. }),
                "{case}: {refused:?}"
            );
        }
        assert_eq!(
            oauth_metadata("https://op.example/t/1/").unwrap().path(),
            "/.well-known/oauth-authorization-server/t/1"
        );
    }

    #[tokio::test]
    async fn it_12_unknown_keys_are_refused_after_one_fetch() {
        let served = Served::default()
            .with(
                "/.well-known/openid-configuration",
                &json!({ "issuer": ISSUER, "jwks_uri": "https://op.example/jwks" }),
            )
            .with("/jwks", &json!({ "keys": [KEY.jwk()] }));
        let issuer = served.issuer();
        assert!(issuer.verify(&KEY.sign_claims(&claims(&json!({}))), NOW).await.is_ok());
        for n in 0..10 {
            let token = SigningKey::es256(&format!("../{n}")).sign_claims(&claims(&json!({})));
            let refused = issuer.verify(&token, NOW).await.unwrap_err();
            assert_eq!(refused, Rejection::InvalidToken { reason: "token_signature" });
        }
        assert_eq!(served.1.load(Ordering::SeqCst), 4, "each of two fetches asks for the metadata and the keys");
    }

    #[tokio::test]
    async fn the_entry_whose_issuer_and_audience_the_token_names_judges_it() {
        let (corp, _) = settings(&all(), None);
        let partner =
            BearerSettings { name: "partner".into(), issuer: Some("https://partner.example".into()), ..corp.clone() };
        let opaque = BearerSettings {
            name: "opaque".into(),
            issuer: None,
            audience: Vec::new(),
            verification: Verification::Introspection(crate::clients::IntrospectionSettings {
                url: Url::parse("https://op.example/introspect").unwrap(),
                client_id: "api".into(),
                client_secret: "secret".into(),
                cache: Duration::ZERO,
            }),
        };
        let reports = BearerSettings { name: "reports".into(), audience: vec!["reports".into()], ..corp.clone() };
        let settings = Settings { bearer: vec![corp, partner, opaque, reports], api_keys: Vec::new() };
        let (clock, background) = (Clock::system(), Background::on_current_runtime());
        let http = Served::default().http();
        let clients = Clients::new(&settings, &http, Duration::from_secs(1), clock, background);
        let [corp, partner, opaque, reports] = [0, 1, 2, 3].map(BearerEntry);
        let for_corp = KEY.sign_claims(&claims(&json!({})));
        let for_reports = KEY.sign_claims(&claims(&json!({ "aud": ["x", "reports"] })));
        let for_others = KEY.sign_claims(&claims(&json!({ "aud": "others" })));
        let of_partner = KEY.sign_claims(&claims(&json!({ "iss": "https://partner.example" })));
        let of_nobody = KEY.sign_claims(&claims(&json!({ "iss": "https://nobody.example" })));
        for (among, token, judge) in [
            (&[corp, partner, opaque][..], of_partner.as_str(), partner),
            (&[corp, partner, opaque], &of_nobody, opaque),
            (&[corp, partner, opaque], "opaque", opaque),
            (&[corp, partner], "opaque", corp),
            (&[partner, corp], &of_nobody, partner),
            (&[corp], &of_partner, corp),
            (&[opaque, corp, reports], &for_reports, reports),
            (&[opaque, reports, corp], &for_corp, corp),
            (&[opaque, reports, corp], &for_others, reports),
        ] {
            assert_eq!(clients.choose(among, token), judge, "{among:?} {token}");
        }
    }
}
