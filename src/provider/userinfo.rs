//! Who signed in, by the userinfo endpoint (OIDC Core §5.3; the profile endpoint of a plain OAuth 2.0 provider).

use super::http::{self, HttpClient};
use super::{ProviderError, json};
use crate::clock::Now;
use crate::policy::require;
use ::http::StatusCode;
use secrecy::SecretString;
use serde_json::{Map, Value};
use std::time::Duration;
use url::Url;

/// Asks the endpoint. An answer that is not plain JSON, a signed one included, is [`ProviderError::Invalid`].
pub(super) async fn userinfo(
    http: &HttpClient,
    endpoint: &Url,
    access_token: &SecretString,
    timeout: Duration,
    now: Now,
) -> Result<Map<String, Value>, ProviderError> {
    let answer = http.send(http::get(endpoint, Some(access_token))?, timeout).await?;
    match answer.status() {
        StatusCode::OK => json::object(answer.body()).ok_or(ProviderError::Invalid { reason: "userinfo_not_json" }),
        status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
            Err(ProviderError::Refused { reason: "userinfo_refused" })
        }
        _ => {
            Err(ProviderError::Unavailable { reason: "userinfo_status", retry_after: http::retry_after(&answer, now) })
        }
    }
}

/// Whether an ID token says all that the scopes ask for (OIDC Core §5.4): some providers put names and addresses only into userinfo.
pub(super) fn is_complete(claims: &Map<String, Value>, scopes: &[String]) -> bool {
    SCOPE_CLAIMS
        .iter()
        .all(|(scope, claim)| claims.contains_key(*claim) || !scopes.iter().any(|requested| requested == scope))
}

/// Adds what userinfo says of the same user. The ID token has the last word, and the only one on how the user was authenticated.
///
/// # Errors
/// It is about somebody else, or does not say about whom (§5.3.2).
pub(super) fn complete(claims: &mut Map<String, Value>, userinfo: Map<String, Value>) -> Result<(), ProviderError> {
    if json::text(&userinfo, "sub").is_none() || userinfo.get("sub") != claims.get("sub") {
        return Err(ProviderError::Invalid { reason: OTHER_SUBJECT });
    }
    for (name, value) in userinfo {
        if !ID_TOKEN_ONLY.contains(&name.as_str()) {
            claims.entry(name).or_insert(value);
        }
    }
    Ok(())
}

/// What names a user of a plain OAuth 2.0 provider for good, at a claim path; a number is written out.
pub(super) fn subject(profile: &Map<String, Value>, member: Option<&str>) -> Option<String> {
    let names: &[&str] = match &member {
        Some(name) => std::slice::from_ref(name),
        None => &["sub", "id"],
    };
    names.iter().find_map(|path| json::identifier(require::claim(profile, path)?))
}

/// It is about somebody else.
pub(super) const OTHER_SUBJECT: &str = "userinfo_other_sub";
const SCOPE_CLAIMS: [(&str, &str); 2] = [("profile", "name"), ("email", "email")];
const ID_TOKEN_ONLY: [&str; 14] =
    ["iss", "aud", "exp", "iat", "nbf", "jti", "azp", "nonce", "auth_time", "acr", "amr", "sid", "at_hash", "c_hash"];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn dm_11_userinfo_of_another_user_is_refused() {
        for userinfo in [
            json!({ "sub": "eve" }),
            json!({ "sub": "ADA" }),
            json!({}),
            json!({ "sub": ["ada"] }),
            json!({ "sub": "" }),
        ] {
            let mut claims = map(json!({ "sub": "ada" }));
            let error = complete(&mut claims, map(userinfo)).unwrap_err();
            assert_eq!(error.reason(), "userinfo_other_sub");
        }
    }

    #[test]
    fn userinfo_adds_and_never_overrides() {
        let mut claims = map(json!({ "sub": "ada", "name": "Ada" }));
        let userinfo = json!({ "sub": "ada", "name": "Eve", "email": "ada@example.com", "acr": "mfa", "sid": "1" });
        complete(&mut claims, map(userinfo)).unwrap();
        assert_eq!(Value::Object(claims), json!({ "sub": "ada", "name": "Ada", "email": "ada@example.com" }));
    }

    #[test]
    fn asked_for_only_what_was_requested() {
        let scopes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let claims = map(json!({ "sub": "ada", "name": "Ada" }));
        assert!(is_complete(&claims, &scopes(&["openid", "profile"])));
        assert!(!is_complete(&claims, &scopes(&["openid", "profile", "email"])));
        assert!(is_complete(&map(json!({})), &scopes(&["openid"])));
    }

    #[test]
    fn subjects_are_strings_or_whole_numbers() {
        let profile = map(json!({ "sub": "", "id": 123_456, "login": "ada", "f": 1.5, "n": null }));
        assert_eq!(subject(&profile, None).as_deref(), Some("123456"));
        assert_eq!(subject(&profile, Some("login")).as_deref(), Some("ada"));
        assert_eq!(subject(&profile, Some("f")), None);
        assert_eq!(subject(&profile, Some("n")), None);
        let nested = map(json!({ "user": { "id": 7 } }));
        assert_eq!(subject(&nested, Some("user.id")).as_deref(), Some("7"));
        assert_eq!(subject(&profile, Some("uid")), None, "another member is no substitute for the configured one");
    }
}
