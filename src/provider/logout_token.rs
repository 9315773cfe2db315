//! Logout Token validation, in the steps of OpenID Connect Back-Channel Logout 1.0 §2.6.
//!
//! Pure: keys and time are arguments. Anyone can send such a token, so everything that costs nothing comes before the signature, and
//! the keys are asked for last.

use super::dialect::Issuer;
use super::json;
use super::keys::KeySet;
use super::verify::{Jws, SKEW, TokenError, check_audience, check_expiry, is_older_than, issued_at, short_text};
use crate::clock::Now;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use std::time::Duration;

/// The provider says that somebody has signed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogoutToken {
    /// `iss`.
    pub issuer: String,
    /// `sub`: whose sessions end.
    pub subject: Option<String>,
    /// `sid`: which one. At least one of the two is there.
    pub sid: Option<String>,
    /// `jti`: it counts once.
    pub id: String,
    /// How long it could be sent again and still count.
    pub remaining: Duration,
}

/// Whose token it has to be.
pub(super) struct Recipient<'a> {
    pub(super) issuer: Issuer<'a>,
    pub(super) client_id: &'a str,
}

/// What a logout token says; whether the provider has said it remains to be seen.
pub(super) struct Claimed<'a> {
    token: &'a Jws<'a>,
    says: LogoutToken,
}

/// Every check that needs no key.
///
/// # Errors
/// The first check that failed; [`TokenError::Issuer`] and [`TokenError::Audience`] come first.
pub(super) fn read<'a>(token: &'a Jws<'a>, recipient: &Recipient<'_>, now: Now) -> Result<Claimed<'a>, TokenError> {
    // Step 1, decryption: no keys were agreed upon for it; `Jws::parse` refused an encrypted token.
    let claims = token.claims()?;
    // Step 4. As in an ID token; and not older than any way from the provider to us.
    let issuer = json::text(&claims, "iss").filter(|issuer| recipient.issuer.is(issuer)).ok_or(TokenError::Issuer)?;
    check_audience(&claims, recipient.client_id)?;
    let issued = issued_at(&claims, now)?;
    if is_older_than(LONGEST_WAY, issued, now) {
        return Err(TokenError::IssuedAt);
    }
    let expires = check_expiry(&claims, now)?;
    // Step 5. A `sub`, a `sid`, or both.
    let subject = optional_text(&claims, "sub").ok_or(TokenError::Subject)?;
    let sid = optional_text(&claims, "sid").ok_or(TokenError::SessionId)?;
    if subject.is_none() && sid.is_none() {
        return Err(TokenError::Nobody);
    }
    // Step 6. The event is a logout, and its value an object.
    let event = claims.get("events").and_then(|events| events.get(LOGOUT_EVENT));
    if !event.is_some_and(Value::is_object) {
        return Err(TokenError::Events);
    }
    // Step 7. An ID token has a nonce, and so is none of these.
    if claims.contains_key("nonce") {
        return Err(TokenError::Nonce);
    }
    // §2.4: `jti` is required. Step 8, whether it was seen before, needs a memory: the caller's.
    let id = short_text(&claims, "jti").ok_or(TokenError::TokenId)?.to_owned();
    let remaining = Duration::from_secs((expires + SKEW).min(issued + LONGEST_WAY + 2 * SKEW) - now.unix);
    let says = LogoutToken { issuer: issuer.to_owned(), subject, sid, id, remaining };
    Ok(Claimed { token, says })
}

impl Claimed<'_> {
    /// Steps 2 and 3: the provider has signed it, as it signs ID tokens.
    ///
    /// # Errors
    /// It has not.
    pub(super) fn vouched_for_by(self, keys: &KeySet, algorithms: &[Algorithm]) -> Result<LogoutToken, TokenError> {
        self.token.check_signature(keys, algorithms)?;
        Ok(self.says)
    }
}

/// None when it is there and no short text.
fn optional_text(claims: &Map<String, Value>, name: &str) -> Option<Option<String>> {
    match claims.get(name) {
        None => Some(None),
        Some(_) => short_text(claims, name).map(|text| Some(text.to_owned())),
    }
}

const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// Providers that try again do so within minutes; §2.6 leaves it to us.
const LONGEST_WAY: u64 = 600;

#[cfg(test)]
mod tests {
    use super::super::test_provider::{CLIENT_ID, SigningKey, changed};
    use super::super::verify::Purpose;
    use super::*;
    use crate::clock::Mono;
    use serde_json::json;
    use std::sync::LazyLock;

    const ISSUER: &str = "https://op.example";
    const NOW: u64 = 1_800_000_000;
    static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::es256("k"));

    fn claims(changes: &Value) -> Value {
        let claims = json!({
            "iss": ISSUER, "aud": CLIENT_ID, "iat": NOW, "exp": NOW + 120, "jti": "j1", "sub": "ada", "sid": "s1",
            "events": { LOGOUT_EVENT: {} },
        });
        changed(claims, changes)
    }

    fn judge(token: &str) -> Result<LogoutToken, TokenError> {
        let keys = KeySet::parse(json!({ "keys": [KEY.jwk()] }).to_string().as_bytes()).unwrap();
        let token = Jws::parse(token, Purpose::LogoutToken)?;
        let recipient = Recipient { issuer: Issuer::Exact(ISSUER), client_id: CLIENT_ID };
        read(&token, &recipient, Now { mono: Mono(0), unix: NOW })?
            .vouched_for_by(&keys, &[Algorithm::RS256, Algorithm::ES256])
    }

    fn with_claims(changes: &Value) -> Result<LogoutToken, TokenError> {
        judge(&KEY.sign_claims(&claims(changes)))
    }

    fn with_header(changes: &Value) -> Result<LogoutToken, TokenError> {
        let header = changed(KEY.header(), changes).to_string();
        judge(&KEY.sign(header.as_bytes(), claims(&json!({})).to_string().as_bytes()))
    }

    #[test]
    fn lo_12_a_token_names_a_session_a_user_or_both() {
        for (changes, subject, sid) in [
            (json!({}), Some("ada"), Some("s1")),
            (json!({ "sid": null }), Some("ada"), None),
            (json!({ "sub": null }), None, Some("s1")),
            (json!({ "extra": { "of": "no concern" }, "auth_time": "?" }), Some("ada"), Some("s1")),
        ] {
            let token = with_claims(&changes).unwrap();
            assert_eq!((token.subject.as_deref(), token.sid.as_deref()), (subject, sid), "{changes}");
            assert_eq!((token.issuer.as_str(), token.id.as_str()), (ISSUER, "j1"));
        }
    }

    #[test]
    fn lo_12_its_type_may_be_left_out() {
        for typ in
            [json!(null), json!("JWT"), json!("logout+jwt"), json!("Logout+JWT"), json!("application/logout+jwt")]
        {
            assert!(with_header(&json!({ "typ": typ })).is_ok(), "{typ}");
        }
        for typ in ["at+jwt", "dpop+jwt", "application/at+jwt", "xlogout+jwt", "logout+jwt+jwt"] {
            assert_eq!(with_header(&json!({ "typ": typ })), Err(TokenError::Type), "{typ}");
        }
        assert_eq!(with_header(&json!({ "typ": 7 })), Err(TokenError::Type));
    }

    #[test]
    fn lo_11_every_claim_is_checked() {
        let event = |name: &str, value: Value| json!({ "events": { name: value } });
        for (case, changes, error) in [
            ("l03 another audience", json!({ "aud": "other" }), TokenError::Audience),
            ("l03 one audience too many", json!({ "aud": [CLIENT_ID, "other"] }), TokenError::Audience),
            ("l03 no audience", json!({ "aud": null }), TokenError::Audience),
            ("l04 another issuer", json!({ "iss": "https://op.example/" }), TokenError::Issuer),
            ("l04 no issuer", json!({ "iss": null }), TokenError::Issuer),
            ("l05 another event", event("http://schemas.openid.net/event/other", json!({})), TokenError::Events),
            ("l05 an event like ours", event(&LOGOUT_EVENT.to_uppercase(), json!({})), TokenError::Events),
            ("l05 an event of another type", event(LOGOUT_EVENT, json!(true)), TokenError::Events),
            ("l05 an event that is null", event(LOGOUT_EVENT, json!(null)), TokenError::Events),
            ("l05 an event that is an array", event(LOGOUT_EVENT, json!([])), TokenError::Events),
            ("l05 events in an array", json!({ "events": [LOGOUT_EVENT] }), TokenError::Events),
            ("l05 events in a string", json!({ "events": LOGOUT_EVENT }), TokenError::Events),
            ("l06 no events", json!({ "events": null }), TokenError::Events),
            ("l07 a nonce", json!({ "nonce": "n" }), TokenError::Nonce),
            ("l07 an empty nonce", json!({ "nonce": "" }), TokenError::Nonce),
            ("l08 neither sub nor sid", json!({ "sub": null, "sid": null }), TokenError::Nobody),
            ("l09 sub is a number", json!({ "sub": 7 }), TokenError::Subject),
            ("l09 sub is empty", json!({ "sub": "" }), TokenError::Subject),
            ("l09 sub is endless", json!({ "sub": "x".repeat(256) }), TokenError::Subject),
            ("l09 sid is an array", json!({ "sid": ["s1"] }), TokenError::SessionId),
            ("l09 sid is empty", json!({ "sid": "" }), TokenError::SessionId),
            ("l10 no iat", json!({ "iat": null }), TokenError::IssuedAt),
            ("l10 iat is a string", json!({ "iat": NOW.to_string() }), TokenError::IssuedAt),
            ("l11 no jti", json!({ "jti": null }), TokenError::TokenId),
            ("l11 jti is empty", json!({ "jti": "" }), TokenError::TokenId),
            ("l11 jti is a number", json!({ "jti": 7 }), TokenError::TokenId),
            ("l12 no exp", json!({ "exp": null }), TokenError::Expired),
            ("l13 expired", json!({ "exp": NOW - 60 }), TokenError::Expired),
            ("l14 old", json!({ "iat": NOW - 661 }), TokenError::IssuedAt),
            ("l15 from the future", json!({ "iat": NOW + 61 }), TokenError::IssuedAt),
        ] {
            assert_eq!(with_claims(&changes), Err(error), "{case}");
        }
        for within in [json!({ "iat": NOW - 660 }), json!({ "iat": NOW + 60 }), json!({ "exp": NOW - 59 })] {
            assert!(with_claims(&within).is_ok(), "{within}");
        }
    }

    #[test]
    fn lo_11_every_signature_is_checked() {
        for alg in ["none", "NONE", "", "HS256", "ES384", "EdDSA"] {
            assert!(matches!(with_header(&json!({ "alg": alg })), Err(TokenError::Algorithm)), "l01 l02 {alg}");
        }
        assert_eq!(with_header(&json!({ "alg": "RS256" })), Err(TokenError::Signature), "l02");
        assert_eq!(with_header(&json!({ "kid": "other" })), Err(TokenError::Signature), "l16");
        assert_eq!(with_header(&json!({ "crit": ["x"] })), Err(TokenError::CriticalExtension), "l16");
        let stranger = SigningKey::es256("k").sign_claims(&claims(&json!({})));
        assert_eq!(judge(&stranger), Err(TokenError::Signature), "l16");
        let unsigned = stranger.rsplit_once('.').map(|(signed, _)| format!("{signed}.")).unwrap();
        assert_eq!(judge(&unsigned), Err(TokenError::Signature), "l16");
        assert_eq!(judge("a.b.c.d.e"), Err(TokenError::Encrypted), "l17");
        assert_eq!(judge(&"x".repeat(65 << 10)), Err(TokenError::TooLarge), "l22");
    }

    #[test]
    fn lo_11_tokens_for_other_purposes_are_none() {
        let id_token = json!({ "events": null, "jti": null, "nonce": "n" });
        assert_eq!(with_claims(&id_token), Err(TokenError::Events), "l18 an ID token");
        let access_token = json!({ "events": null, "scope": "openid" });
        assert_eq!(with_claims(&access_token), Err(TokenError::Events), "l19 an access token");
    }

    #[test]
    fn a_jti_is_remembered_as_long_as_its_token_counts() {
        for (iat, exp, remaining) in [(NOW, NOW + 120, 180), (NOW, NOW + 86_400, 720), (NOW - 660, NOW + 86_400, 60)] {
            let token = with_claims(&json!({ "iat": iat, "exp": exp })).unwrap();
            assert_eq!(token.remaining, Duration::from_secs(remaining), "{iat} {exp}");
        }
    }
}
