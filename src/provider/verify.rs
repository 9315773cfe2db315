//! Signed tokens, and ID Token validation in the steps of OpenID Connect Core §3.1.3.7.
//!
//! Pure: keys and time are arguments. Signatures are checked by the library; claims are checked here, to the second.

use super::dialect::Issuer;
use super::json;
use super::keys::{Key, KeySet};
use crate::clock::Now;
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

/// What an ID token must say.
pub(super) struct Expectations<'a> {
    pub(super) issuer: Issuer<'a>,
    pub(super) client_id: &'a str,
    /// What the provider may sign with.
    pub(super) algorithms: &'a [Algorithm],
    /// The token that came along, for `at_hash`.
    pub(super) access_token: &'a str,
    pub(super) occasion: Occasion<'a>,
}

/// Where an ID token came from.
pub(super) enum Occasion<'a> {
    /// A code was redeemed.
    Login {
        /// What the authorization request said.
        nonce: &'a str,
        code: &'a str,
        max_age: Option<u64>,
    },
    /// A token was refreshed (§12.2): no nonce, and the same user.
    Refresh { subject: &'a str },
}

/// Why an ID token or a logout token does not count. One variant for each check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenError {
    TooLarge,
    NotAJws,
    Encrypted,
    Header,
    CriticalExtension,
    Type,
    Algorithm,
    Signature,
    Payload,
    Issuer,
    Subject,
    OtherSubject,
    Audience,
    AuthorizedParty,
    Expired,
    NotYetValid,
    IssuedAt,
    Nonce,
    AuthTime,
    AccessTokenHash,
    CodeHash,
    TokenId,
    Events,
    SessionId,
    Nobody,
    HostedDomain,
    Tenant,
}

impl TokenError {
    /// A label for logs and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            TokenError::TooLarge => "token_too_large",
            TokenError::NotAJws => "token_not_a_jws",
            TokenError::Encrypted => "token_encrypted",
            TokenError::Header => "token_header",
            TokenError::CriticalExtension => "token_crit",
            TokenError::Type => "token_typ",
            TokenError::Algorithm => "token_alg",
            TokenError::Signature => "token_signature",
            TokenError::Payload => "token_payload",
            TokenError::Issuer => "token_iss",
            TokenError::Subject => "token_sub",
            TokenError::OtherSubject => "token_other_sub",
            TokenError::Audience => "token_aud",
            TokenError::AuthorizedParty => "token_azp",
            TokenError::Expired => "token_exp",
            TokenError::NotYetValid => "token_nbf",
            TokenError::IssuedAt => "token_iat",
            TokenError::Nonce => "token_nonce",
            TokenError::AuthTime => "token_auth_time",
            TokenError::AccessTokenHash => "token_at_hash",
            TokenError::CodeHash => "token_c_hash",
            TokenError::TokenId => "token_jti",
            TokenError::Events => "token_events",
            TokenError::SessionId => "token_sid",
            TokenError::Nobody => "token_without_sub_and_sid",
            TokenError::HostedDomain => "token_hd",
            TokenError::Tenant => "token_tid",
        }
    }

    /// Whether clocks that disagree can be the cause.
    pub(super) fn is_about_time(self) -> bool {
        matches!(self, TokenError::Expired | TokenError::NotYetValid | TokenError::IssuedAt)
    }

    /// Whether there is nothing wrong with the token but whose it is.
    pub(super) fn is_about_the_user(self) -> bool {
        matches!(self, TokenError::HostedDomain | TokenError::Tenant)
    }
}

/// The claims of an ID token that passed every check.
///
/// # Errors
/// The first check that failed.
pub(super) fn id_token(
    token: &Jws<'_>,
    keys: &KeySet,
    expected: &Expectations<'_>,
    now: Now,
) -> Result<Map<String, Value>, TokenError> {
    // Step 1, decryption: no keys were agreed upon for it; `Jws::parse` refused an encrypted token.
    // Steps 6, 7 and 8. Core lets TLS stand in for the signature of a token from the token endpoint; we do not.
    let said = token.claims();
    let may = |key: &Key| said.as_ref().map_or(true, |claims| expected.issuer.owns(key.issuer.as_deref(), claims));
    token.check_signature_by(keys, expected.algorithms, may)?;
    let claims = said?;

    // Step 2. The issuer is the provider's, byte for byte.
    expected.issuer.check(&claims)?;
    // §2: `sub` is required.
    let subject = short_text(&claims, "sub").ok_or(TokenError::Subject)?;
    // Step 3. We are the audience, and nobody else is: there is no list of other audiences to trust.
    check_audience(&claims, expected.client_id)?;
    // Steps 4 and 5. Whoever else asked for the token did not get it for us.
    if claims.get("azp").is_some_and(|azp| azp != expected.client_id) {
        return Err(TokenError::AuthorizedParty);
    }
    // Step 9. The current time is before `exp`.
    check_expiry(&claims, now)?;
    check_not_before(&claims, now)?;
    // Step 10. A token older than any login we remember the nonce of is not from a login of ours.
    let issued = issued_at(&claims, now)?;
    match expected.occasion {
        Occasion::Login { nonce, code, max_age } => {
            if is_older_than(LONGEST_LOGIN, issued, now) {
                return Err(TokenError::IssuedAt);
            }
            // Step 11.
            let carried = json::text(&claims, "nonce").ok_or(TokenError::Nonce)?;
            if !bool::from(carried.as_bytes().ct_eq(nonce.as_bytes())) {
                return Err(TokenError::Nonce);
            }
            // Step 12, `acr`: a route's `require` judges it, on the claims returned here.
            // Step 13.
            if let Some(max_age) = max_age {
                let authenticated = numeric_date(&claims, "auth_time").ok_or(TokenError::AuthTime)?;
                if authenticated.saturating_add(max_age).saturating_add(SKEW) < now.unix {
                    return Err(TokenError::AuthTime);
                }
            }
            // §3.3.2.11: not asked for here, but what is there must be right.
            check_hash(&claims, "c_hash", code, token.algorithm).map_err(|()| TokenError::CodeHash)?;
        }
        // §12.2.
        Occasion::Refresh { subject: known } if subject != known => {
            return Err(TokenError::OtherSubject);
        }
        Occasion::Refresh { .. } => {}
    }
    // §3.1.3.8.
    check_hash(&claims, "at_hash", expected.access_token, token.algorithm).map_err(|()| TokenError::AccessTokenHash)?;
    Ok(claims)
}

/// A JWS in compact serialization (RFC 7515 §7.1), decoded, its signature not checked yet.
pub(crate) struct Jws<'a> {
    signed: &'a str,
    signature: &'a str,
    algorithm: Algorithm,
    kid: Option<String>,
    payload: Vec<u8>,
}

/// What a token is for, as `typ` may say (RFC 8725 §3.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "as the specifications call them")]
pub(crate) enum Purpose {
    IdToken,
    LogoutToken,
    /// At an API (RFC 9068 §4).
    AccessToken,
}

impl<'a> Jws<'a> {
    /// Reads the header and refuses what no key could make acceptable. `jwk`, `jku`, `x5u` and `x5c` are not looked at: a token
    /// does not choose the key that vouches for it.
    pub(crate) fn parse(token: &'a str, purpose: Purpose) -> Result<Jws<'a>, TokenError> {
        if token.len() > TOKEN_LIMIT {
            return Err(TokenError::TooLarge);
        }
        // One part more than a JWE has is enough to know that it is neither.
        let parts: Vec<&str> = token.splitn(6, '.').collect();
        let (header, payload, signature) = match parts[..] {
            [header, payload, signature] => (header, payload, signature),
            [_, _, _, _, _] => return Err(TokenError::Encrypted),
            _ => return Err(TokenError::NotAJws),
        };
        let signed = &token[..header.len() + 1 + payload.len()];
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Header)?;
        let header = json::object(&header).ok_or(TokenError::Header)?;
        // RFC 7515 §4.1.11: we understand no extension, `b64` (RFC 7797) included.
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(TokenError::CriticalExtension);
        }
        if header.contains_key("zip") || header.contains_key("enc") {
            return Err(TokenError::Encrypted);
        }
        if header.get("typ").is_some_and(|typ| !purpose.allows(typ)) {
            return Err(TokenError::Type);
        }
        let algorithm = json::text(&header, "alg").and_then(|alg| alg.parse().ok()).ok_or(TokenError::Algorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str().filter(|kid| kid.len() <= KID_LIMIT).ok_or(TokenError::Header)?.to_owned()),
        };
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Payload)?;
        Ok(Jws { signed, signature, algorithm, kid, payload })
    }

    /// Whether a key set holds the key this token is signed with. A token that does not name its key has to be tried.
    pub(crate) fn is_signed_by_one_of(&self, keys: &KeySet) -> bool {
        match &self.kid {
            Some(kid) => keys.names(kid),
            None => self.check_signature(keys, &[self.algorithm]).is_ok(),
        }
    }

    /// By how much the token's `iat` is ahead of our clock; negative when it is behind.
    pub(super) fn seconds_ahead_of(&self, now: Now) -> Option<i64> {
        let issued = numeric_date(&self.claims().ok()?, "iat")?;
        Some(i64::try_from(issued).ok()? - i64::try_from(now.unix).ok()?)
    }

    /// What the payload says. Whoever reads it before [`Jws::check_signature`] must not believe it.
    pub(crate) fn claims(&self) -> Result<Map<String, Value>, TokenError> {
        json::object(&self.payload).ok_or(TokenError::Payload)
    }

    /// Whether it is signed in a way that the provider may sign.
    pub(crate) fn check_algorithm(&self, allowed: &[Algorithm]) -> Result<(), TokenError> {
        allowed.contains(&self.algorithm).then_some(()).ok_or(TokenError::Algorithm)
    }

    /// Whether one of the keys has made the signature.
    pub(crate) fn check_signature(&self, keys: &KeySet, allowed: &[Algorithm]) -> Result<(), TokenError> {
        self.check_signature_by(keys, allowed, |_| true)
    }

    /// Whether one of the keys that `may` has made the signature.
    fn check_signature_by(
        &self,
        keys: &KeySet,
        allowed: &[Algorithm],
        may: impl Fn(&Key) -> bool,
    ) -> Result<(), TokenError> {
        self.check_algorithm(allowed)?;
        keys.candidates(self.kid.as_deref(), self.algorithm)
            .filter(|key| may(key))
            .any(|key| {
                jsonwebtoken::crypto::verify(self.signature, self.signed.as_bytes(), &key.decoding, self.algorithm)
                    .unwrap_or(false)
            })
            .then_some(())
            .ok_or(TokenError::Signature)
    }
}

impl Purpose {
    /// A token made for another purpose says so (`at+jwt`, `dpop+jwt`). Media types have no case, and may leave out `application/`
    /// (RFC 7515 §4.1.9).
    fn allows(self, typ: &Value) -> bool {
        typ.as_str().is_some_and(|typ| {
            let typ = typ.to_ascii_lowercase();
            let name = typ.strip_prefix("application/").unwrap_or(&typ);
            match self {
                Purpose::IdToken => !name.ends_with("+jwt"),
                Purpose::LogoutToken => !name.ends_with("+jwt") || name == "logout+jwt",
                Purpose::AccessToken => matches!(name, "jwt" | "at+jwt"),
            }
        })
    }
}

pub(super) fn check_audience(claims: &Map<String, Value>, client_id: &str) -> Result<(), TokenError> {
    let ours = match claims.get("aud") {
        Some(Value::String(audience)) => audience == client_id,
        Some(Value::Array(audiences)) => {
            !audiences.is_empty() && audiences.iter().all(|audience| audience == client_id)
        }
        _ => false,
    };
    ours.then_some(()).ok_or(TokenError::Audience)
}

/// `exp`, which is still to come.
pub(crate) fn check_expiry(claims: &Map<String, Value>, now: Now) -> Result<u64, TokenError> {
    numeric_date(claims, "exp").filter(|expires| now.unix < expires + SKEW).ok_or(TokenError::Expired)
}

/// `nbf` (RFC 7519 §4.1.5), which has come, if there is one.
pub(crate) fn check_not_before(claims: &Map<String, Value>, now: Now) -> Result<(), TokenError> {
    if !claims.contains_key("nbf") {
        return Ok(());
    }
    numeric_date(claims, "nbf").filter(|begins| *begins <= now.unix + SKEW).map(drop).ok_or(TokenError::NotYetValid)
}

/// `iat`, which is not still to come.
pub(crate) fn issued_at(claims: &Map<String, Value>, now: Now) -> Result<u64, TokenError> {
    numeric_date(claims, "iat").filter(|issued| *issued <= now.unix + SKEW).ok_or(TokenError::IssuedAt)
}

pub(super) fn is_older_than(seconds: u64, issued: u64, now: Now) -> bool {
    issued + seconds + SKEW < now.unix
}

/// `sub` and `sid`: at most 255 ASCII characters (Core §2). We are lenient about the characters only.
pub(super) fn short_text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    json::text(claims, name).filter(|text| text.len() <= 255)
}

/// Seconds since 1970 (RFC 7519 §2), a fraction cut off. `None` for what no clock will show: other types, negative numbers, years
/// beyond 9999.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Option<u64> {
    let value = claims.get(name)?;
    let seconds = match value.as_u64() {
        Some(seconds) => seconds,
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked just before")]
        None => value.as_f64().filter(|seconds| (0.0..=LAST_DATE as f64).contains(seconds))? as u64,
    };
    (seconds <= LAST_DATE).then_some(seconds)
}

/// `at_hash`, `c_hash`: the left half of the hash that belongs to the signature algorithm (§3.1.3.6).
fn check_hash(claims: &Map<String, Value>, name: &str, value: &str, algorithm: Algorithm) -> Result<(), ()> {
    let Some(claimed) = claims.get(name) else {
        return Ok(());
    };
    let hash = match algorithm {
        Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384 => &digest::SHA384,
        Algorithm::RS512 | Algorithm::PS512 | Algorithm::EdDSA => &digest::SHA512,
        _ => &digest::SHA256,
    };
    let full = digest::digest(hash, value.as_bytes());
    let half = URL_SAFE_NO_PAD.encode(&full.as_ref()[..full.as_ref().len() / 2]);
    (*claimed == half).then_some(()).ok_or(())
}

/// How far clocks may be apart.
pub(crate) const SKEW: u64 = 60;
/// How long a started login is remembered.
const LONGEST_LOGIN: u64 = 600;
/// 9999-12-31T23:59:59Z
const LAST_DATE: u64 = 253_402_300_799;
const TOKEN_LIMIT: usize = 64 << 10;
const KID_LIMIT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::super::metadata::SIGNATURE_ALGORITHMS;
    use super::super::test_provider::{ACCESS_TOKEN, CLIENT_ID, NONCE, SigningKey, changed};
    use super::*;
    use crate::clock::{Clock, Mono};
    use serde_json::json;
    use std::sync::LazyLock;
    use std::time::Duration;

    const ISSUER: &str = "https://op.example";
    const CODE: &str = "the-code";
    const NOW: u64 = 1_800_000_000;
    static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::es256("k"));

    fn key_set(keys: &[&SigningKey]) -> KeySet {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn expectations(occasion: Occasion<'_>) -> Expectations<'_> {
        Expectations {
            issuer: Issuer::Exact(ISSUER),
            client_id: CLIENT_ID,
            algorithms: &[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA],
            access_token: ACCESS_TOKEN,
            occasion,
        }
    }

    fn claims(changes: &Value) -> Value {
        let claims = json!({
            "iss": ISSUER, "sub": "ada", "aud": CLIENT_ID, "exp": NOW + 300, "iat": NOW, "nonce": NONCE,
        });
        changed(claims, changes)
    }

    fn judge(token: &str, keys: &KeySet, expected: &Expectations<'_>) -> Result<Map<String, Value>, TokenError> {
        id_token(&Jws::parse(token, Purpose::IdToken)?, keys, expected, Now { mono: Mono(0), unix: NOW })
    }

    fn login(token: &str) -> Result<(), TokenError> {
        let occasion = Occasion::Login { nonce: NONCE, code: CODE, max_age: None };
        judge(token, &key_set(&[&KEY]), &expectations(occasion)).map(drop)
    }

    fn with_claims(changes: &Value) -> Result<(), TokenError> {
        login(&KEY.sign_claims(&claims(changes)))
    }

    fn with_header(changes: &Value) -> Result<(), TokenError> {
        login(
            &KEY.sign(changed(KEY.header(), changes).to_string().as_bytes(), claims(&json!({})).to_string().as_bytes()),
        )
    }

    #[test]
    fn a_good_token_is_accepted_with_every_key_type() {
        assert_eq!(with_claims(&json!({})), Ok(()));
        for key in [SigningKey::rs256("r"), SigningKey::ed25519("e")] {
            let occasion = Occasion::Login { nonce: NONCE, code: CODE, max_age: None };
            let token = key.sign_claims(&claims(&json!({})));
            assert!(judge(&token, &key_set(&[&KEY, &key]), &expectations(occasion)).is_ok());
        }
    }

    #[test]
    fn it_01_another_issuer() {
        for iss in [
            json!("https://op.example/"),
            json!("https://OP.example"),
            json!("https://evil"),
            json!([ISSUER]),
            json!(""),
        ] {
            assert_eq!(with_claims(&json!({ "iss": iss })), Err(TokenError::Issuer), "{iss}");
        }
        assert_eq!(with_claims(&json!({ "iss": null })), Err(TokenError::Issuer));
    }

    #[test]
    fn it_02_it_03_it_04_another_audience() {
        assert_eq!(with_claims(&json!({ "aud": [CLIENT_ID] })), Ok(()));
        for aud in [
            json!("other"),
            json!("ap"),
            json!("app2"),
            json!(""),
            json!([]),
            json!([""]),
            json!([[CLIENT_ID]]),
            json!(7),
            json!([CLIENT_ID, "other"]),
            json!({ CLIENT_ID: true }),
        ] {
            assert_eq!(with_claims(&json!({ "aud": aud })), Err(TokenError::Audience), "{aud}");
            assert_eq!(with_claims(&json!({ "aud": aud, "azp": CLIENT_ID })), Err(TokenError::Audience), "{aud}");
        }
        assert_eq!(with_claims(&json!({ "aud": null })), Err(TokenError::Audience));
    }

    #[test]
    fn it_05_another_authorized_party() {
        assert_eq!(with_claims(&json!({ "azp": CLIENT_ID })), Ok(()));
        for azp in [json!("other"), json!(""), json!([CLIENT_ID])] {
            assert_eq!(with_claims(&json!({ "azp": azp })), Err(TokenError::AuthorizedParty), "{azp}");
        }
    }

    #[test]
    fn it_06_bad_signatures() {
        let token = KEY.sign_claims(&claims(&json!({})));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let mut flipped = bytes.clone();
        flipped[10] ^= 1;
        let der = [&[0x30, 0x44, 0x02, 0x20][..], &bytes[..32], &[0x02, 0x20], &bytes[32..]].concat();
        for bad in [&flipped[..], &bytes[..63], &[], &[0; 64], &der] {
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bad));
            assert_eq!(login(&token), Err(TokenError::Signature));
        }
        assert_eq!(login(&format!("{token}=")), Err(TokenError::Signature));
        assert_eq!(login(&SigningKey::es256("k").sign_claims(&claims(&json!({})))), Err(TokenError::Signature));
    }

    #[test]
    fn it_07_no_signature_at_all() {
        for alg in ["none", "None", "NONE", "nOnE", "", " none"] {
            assert_eq!(with_header(&json!({ "alg": alg })), Err(TokenError::Algorithm), "{alg}");
        }
        assert_eq!(with_header(&json!({ "alg": null })), Err(TokenError::Algorithm));
        assert_eq!(with_header(&json!({ "alg": ["ES256"] })), Err(TokenError::Algorithm));
    }

    #[test]
    fn it_08_public_keys_and_client_secrets_are_no_hmac_keys() {
        let rsa = SigningKey::rs256("k");
        let header = json!({ "alg": "HS256", "kid": "k" }).to_string();
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims(&json!({})).to_string()));
        for secret in [rsa.jwk().to_string(), rsa.jwk()["n"].as_str().unwrap().to_owned(), "client-secret".to_owned()] {
            let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
            let mac = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
            let occasion = Occasion::Login { nonce: NONCE, code: CODE, max_age: None };
            let verdict = judge(&format!("{signed}.{mac}"), &key_set(&[&rsa]), &expectations(occasion));
            assert_eq!(verdict.err(), Some(TokenError::Algorithm));
        }
    }

    #[test]
    fn it_09_an_algorithm_that_was_not_agreed_on() {
        let rsa = SigningKey::rs256("k");
        let occasion = Occasion::Login { nonce: NONCE, code: CODE, max_age: None };
        let pinned = Expectations { algorithms: &[Algorithm::ES256], ..expectations(occasion) };
        let verdict = judge(&rsa.sign_claims(&claims(&json!({}))), &key_set(&[&rsa, &KEY]), &pinned);
        assert_eq!(verdict.err(), Some(TokenError::Algorithm));
    }

    #[test]
    fn it_08_an_algorithm_that_does_not_fit_the_key() {
        assert_eq!(with_header(&json!({ "alg": "RS256" })), Err(TokenError::Signature));
        assert_eq!(with_header(&json!({ "alg": "EdDSA" })), Err(TokenError::Signature));
    }

    #[test]
    fn it_10_it_11_without_kid_the_keys_that_fit_are_tried() {
        let token = KEY.sign(br#"{"alg":"ES256"}"#, claims(&json!({})).to_string().as_bytes());
        let others = [SigningKey::es256("a"), SigningKey::es256("b"), SigningKey::rs256("c")];
        let occasion = || expectations(Occasion::Login { nonce: NONCE, code: CODE, max_age: None });
        assert!(judge(&token, &key_set(&[&KEY]), &occasion()).is_ok());
        assert!(judge(&token, &key_set(&[&others[0], &others[1], &others[2], &KEY]), &occasion()).is_ok());
        let verdict = judge(&token, &key_set(&[&others[0], &others[1]]), &occasion());
        assert_eq!(verdict.err(), Some(TokenError::Signature));
    }

    #[test]
    fn it_12_a_kid_is_a_name_and_nothing_else() {
        for kid in ["unknown", "../../etc/passwd", "' OR 1=1 --", "", "K"] {
            assert_eq!(with_header(&json!({ "kid": kid })), Err(TokenError::Signature), "{kid}");
        }
        for kid in [json!(7), json!(["k"]), json!("k".repeat(2000))] {
            assert_eq!(with_header(&json!({ "kid": kid })), Err(TokenError::Header));
        }
    }

    #[test]
    fn it_13_times_are_exact_to_the_second() {
        let at = |offset: i64| NOW.checked_add_signed(offset).unwrap();
        for (name, offset, verdict) in [
            ("exp", -3600, Err(TokenError::Expired)),
            ("exp", -61, Err(TokenError::Expired)),
            ("exp", -60, Err(TokenError::Expired)),
            ("exp", -59, Ok(())),
            ("exp", 0, Ok(())),
            ("exp", 600, Ok(())),
            ("iat", -86_400, Err(TokenError::IssuedAt)),
            ("iat", -661, Err(TokenError::IssuedAt)),
            ("iat", -660, Ok(())),
            ("iat", -59, Ok(())),
            ("iat", 0, Ok(())),
            ("iat", 60, Ok(())),
            ("iat", 61, Err(TokenError::IssuedAt)),
            ("iat", 600, Err(TokenError::IssuedAt)),
            ("nbf", -3600, Ok(())),
            ("nbf", 59, Ok(())),
            ("nbf", 60, Ok(())),
            ("nbf", 61, Err(TokenError::NotYetValid)),
            ("nbf", 600, Err(TokenError::NotYetValid)),
        ] {
            assert_eq!(with_claims(&json!({ name: at(offset) })), verdict, "{name} {offset}");
        }
    }

    #[test]
    fn it_14_required_claims() {
        for wrong in [json!(null), json!([]), json!({}), json!(true)] {
            assert_eq!(with_claims(&json!({ "exp": wrong })), Err(TokenError::Expired), "{wrong}");
            assert_eq!(with_claims(&json!({ "iat": wrong })), Err(TokenError::IssuedAt), "{wrong}");
            assert_eq!(with_claims(&json!({ "sub": wrong })), Err(TokenError::Subject), "{wrong}");
        }
        for sub in [json!(7), json!(""), json!("x".repeat(256))] {
            assert_eq!(with_claims(&json!({ "sub": sub })), Err(TokenError::Subject));
        }
    }

    #[test]
    fn it_15_times_no_clock_will_show() {
        assert_eq!(with_claims(&json!({ "exp": 1_800_000_300.75 })), Ok(()));
        for exp in [
            json!(1e300),
            json!(-1),
            json!(-0.5),
            json!("1800000300"),
            json!(1u64 << 63),
            json!(u64::MAX),
            json!(LAST_DATE + 1),
        ] {
            assert_eq!(with_claims(&json!({ "exp": exp })), Err(TokenError::Expired), "{exp}");
        }
        assert_eq!(with_claims(&json!({ "nbf": "x" })), Err(TokenError::NotYetValid));
    }

    #[test]
    fn it_16_the_nonce_of_another_login() {
        for nonce in [json!(null), json!(""), json!("other"), json!([NONCE]), json!(NONCE.to_uppercase())] {
            assert_eq!(with_claims(&json!({ "nonce": nonce })), Err(TokenError::Nonce), "{nonce}");
        }
    }

    #[test]
    fn it_17_hashes_of_other_tokens() {
        let half =
            |text: &str| URL_SAFE_NO_PAD.encode(&digest::digest(&digest::SHA256, text.as_bytes()).as_ref()[..16]);
        assert_eq!(with_claims(&json!({ "at_hash": half(ACCESS_TOKEN), "c_hash": half(CODE) })), Ok(()));
        for wrong in [json!(half("other")), json!(""), json!(7)] {
            assert_eq!(with_claims(&json!({ "at_hash": wrong })), Err(TokenError::AccessTokenHash));
            assert_eq!(with_claims(&json!({ "c_hash": wrong })), Err(TokenError::CodeHash));
        }
        // The example of OIDC Core appendix A.3 (RS256).
        let claims = json!({ "at_hash": "77QmUPtjPfzWtF2AnpK9RQ" });
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(check_hash(claims.as_object().unwrap(), "at_hash", token, Algorithm::RS256), Ok(()));
    }

    #[test]
    fn it_18_an_authentication_too_long_ago() {
        for (auth_time, verdict) in [
            (json!(null), Err(TokenError::AuthTime)),
            (json!("now"), Err(TokenError::AuthTime)),
            (json!(NOW - 361), Err(TokenError::AuthTime)),
            (json!(NOW - 360), Ok(())),
        ] {
            let token = KEY.sign_claims(&claims(&json!({ "auth_time": auth_time })));
            let expected = expectations(Occasion::Login { nonce: NONCE, code: CODE, max_age: Some(300) });
            assert_eq!(judge(&token, &key_set(&[&KEY]), &expected).map(drop), verdict, "{auth_time}");
        }
        assert_eq!(with_claims(&json!({ "auth_time": null })), Ok(()));
    }

    #[test]
    fn it_19_a_token_does_not_bring_its_own_key() {
        let attacker = SigningKey::es256("k");
        let brought =
            json!({ "jwk": attacker.jwk(), "jku": "https://evil/jwks", "x5u": "https://evil/x5u", "x5c": ["AA=="] });
        let header = changed(attacker.header(), &brought).to_string();
        let token = attacker.sign(header.as_bytes(), claims(&json!({})).to_string().as_bytes());
        assert_eq!(login(&token), Err(TokenError::Signature));
        assert_eq!(with_header(&brought), Ok(()), "ignored, not refused");
    }

    #[test]
    fn it_20_extensions_nobody_understands() {
        for changes in [
            json!({ "crit": ["x"], "x": 1 }),
            json!({ "crit": [] }),
            json!({ "crit": ["b64"], "b64": false }),
            json!({ "b64": false }),
        ] {
            assert_eq!(with_header(&changes), Err(TokenError::CriticalExtension), "{changes}");
        }
    }

    #[test]
    fn it_21_tokens_made_for_another_purpose() {
        for typ in [json!("at+jwt"), json!("application/at+JWT"), json!("logout+jwt"), json!("dpop+jwt"), json!(7)] {
            assert_eq!(with_header(&json!({ "typ": typ })), Err(TokenError::Type), "{typ}");
        }
        for typ in [json!("jwt"), json!(null)] {
            assert_eq!(with_header(&json!({ "typ": typ })), Ok(()), "{typ}");
        }
    }

    #[test]
    fn it_22_payloads_that_can_be_read_in_two_ways() {
        let good = claims(&json!({})).to_string();
        let twice = good.replacen('{', r#"{"sub":"eve","#, 1);
        let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        for payload in [twice.as_bytes(), b"[]", b"\"x\"", b"", b"{\"sub\":\"\xff\"}", &utf16, deep.as_bytes()] {
            let token = KEY.sign(KEY.header().to_string().as_bytes(), payload);
            assert_eq!(login(&token), Err(TokenError::Payload));
        }
        let header = br#"{"alg":"none","alg":"ES256","kid":"k"}"#;
        assert_eq!(login(&KEY.sign(header, good.as_bytes())), Err(TokenError::Header));
    }

    #[test]
    fn it_23_size_is_bounded_before_any_work() {
        assert_eq!(login(&"a".repeat(10 << 20)), Err(TokenError::TooLarge));
        assert_eq!(login(&".".repeat(10_000)), Err(TokenError::NotAJws));
        assert_eq!(login(""), Err(TokenError::NotAJws));
        assert_eq!(login(".."), Err(TokenError::Header));
        assert_eq!(with_header(&json!({ "x": "y".repeat(1 << 20) })), Err(TokenError::TooLarge));
    }

    #[test]
    fn it_26_encrypted_and_compressed_tokens() {
        assert_eq!(login("a.b.c.d.e"), Err(TokenError::Encrypted));
        assert_eq!(with_header(&json!({ "zip": "DEF" })), Err(TokenError::Encrypted));
        assert_eq!(
            with_header(&json!({ "enc": "A128GCM", "alg": "PBES2-HS256+A128KW", "p2c": 1u64 << 31 })),
            Err(TokenError::Encrypted)
        );
        assert_eq!(with_header(&json!({ "alg": "RSA1_5" })), Err(TokenError::Algorithm));
    }

    #[test]
    fn tk_19_refreshed_tokens_are_the_same_users() {
        let judge_refresh = |changes: &Value| {
            let expected = expectations(Occasion::Refresh { subject: "ada" });
            judge(&KEY.sign_claims(&claims(changes)), &key_set(&[&KEY]), &expected).map(drop)
        };
        assert_eq!(judge_refresh(&json!({ "nonce": null, "iat": NOW - 86_400 })), Ok(()));
        assert_eq!(judge_refresh(&json!({ "sub": "Ada" })), Err(TokenError::OtherSubject));
        assert_eq!(judge_refresh(&json!({ "iss": "https://evil" })), Err(TokenError::Issuer));
        assert_eq!(judge_refresh(&json!({ "aud": null })), Err(TokenError::Audience));
        assert_eq!(judge_refresh(&json!({ "exp": NOW - 60 })), Err(TokenError::Expired));
    }

    /// The vectors of Wycheproof: set `LATCHGATE_CORPORA` to the directory that has them.
    fn wycheproof(file: &str) -> Option<Value> {
        let Some(directory) = std::env::var_os("LATCHGATE_CORPORA") else {
            eprintln!("SKIPPED: {file} is not checked, LATCHGATE_CORPORA is not set");
            return None;
        };
        let text = std::fs::read_to_string(std::path::Path::new(&directory).join(file)).unwrap();
        Some(serde_json::from_str(&text).unwrap())
    }

    /// Figure 20 of RFC 7520 is signed with PS384; these vectors publish its key with `"alg":"PS256"`, and RFC 7517 §4.4 makes that
    /// the algorithm of the key.
    fn is_excepted(test: &Value) -> bool {
        test["comment"] == "Figure20"
    }

    fn check_vectors(vectors: &Value) -> usize {
        let every: Vec<Algorithm> = SIGNATURE_ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect();
        let mut accepted = 0;
        for group in vectors["testGroups"].as_array().unwrap() {
            let published = group.get("public").unwrap_or(&group["private"]);
            let keys = match published.get("keys") {
                Some(keys) => keys.clone(),
                None => json!([published]),
            };
            // HMACs are refused on purpose, and P-521 (here as "ES521") is no algorithm of the library.
            let supported = keys.as_array().unwrap().iter().all(|key| key["kty"] != "oct" && key["crv"] != "P-521");
            let set = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
            for test in group["tests"].as_array().unwrap() {
                let token = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), str::to_owned);
                let good =
                    Jws::parse(&token, Purpose::IdToken).and_then(|jws| jws.check_signature(&set, &every)).is_ok();
                let expected = test["result"] == "valid" && supported && !is_excepted(test);
                assert_eq!(good, expected, "tcId {}: {} {}", test["tcId"], group["comment"], test["comment"]);
                accepted += usize::from(good);
            }
        }
        accepted
    }

    #[test]
    fn it_24_wycheproof_signatures() {
        if let Some(vectors) = wycheproof("json_web_signature_test.json") {
            assert_eq!(vectors["numberOfTests"], 401);
            assert!(check_vectors(&vectors) > 20);
        }
    }

    #[test]
    fn it_25_wycheproof_keys() {
        if let Some(vectors) = wycheproof("json_web_key_test.json") {
            assert_eq!(vectors["numberOfTests"], 26);
            assert_eq!(check_vectors(&vectors), 1);
        }
    }

    // IP-09
    #[test]
    fn the_clock_of_the_process_serves() {
        let clock = Clock::system();
        let now = clock.now();
        let token = KEY.sign_claims(&claims(&json!({ "iat": now.unix, "exp": now.unix + 10 })));
        let token = Jws::parse(&token, Purpose::IdToken).unwrap();
        let verdict = |now| {
            let expected = expectations(Occasion::Refresh { subject: "ada" });
            id_token(&token, &key_set(&[&KEY]), &expected, now).err()
        };
        assert_eq!(verdict(clock.now()), None);
        clock.advance(Duration::from_secs(70));
        assert_eq!(verdict(clock.now()), Some(TokenError::Expired));
        assert!(token.seconds_ahead_of(clock.now()).unwrap() <= -70);
    }
}
