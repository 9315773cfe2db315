//! What GitHub has APIs of its own for: a user's addresses, and the end of a token.

use super::http::{self, HttpClient};
use super::token_endpoint::Client;
use super::{ProviderError, json};
use crate::clock::Now;
use ::http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use std::time::Duration;
use url::Url;

/// The user's addresses, `GET /user/emails`; None when the token may not read them, which needs the scope `user:email`, or a GitHub App
/// with that permission.
pub(super) async fn emails(
    http: &HttpClient,
    api: &str,
    access_token: &SecretString,
    timeout: Duration,
    now: Now,
) -> Result<Option<Vec<Map<String, Value>>>, ProviderError> {
    let url = endpoint(&format!("{api}/user/emails"))?;
    let answer = http.send(http::get(&url, Some(access_token))?, timeout).await?;
    match answer.status() {
        StatusCode::OK => {
            json::objects(answer.body()).map(Some).ok_or(ProviderError::Invalid { reason: "emails_not_json" })
        }
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(None),
        _ => Err(ProviderError::Unavailable { reason: "emails_status", retry_after: http::retry_after(&answer, now) }),
    }
}

/// Gives a profile its address, and says whether it is verified where that is known.
///
/// | profile's `email` | the list | `email` | `email_verified` |
/// |---|---|---|---|
/// | any | none | as it is | not said |
/// | an address | has it | as it is | as the list says |
/// | an address | lacks it | as it is | false |
/// | null | has a primary, verified one | that | true |
/// | null | has none | null | not said |
pub(super) fn complete(profile: &mut Map<String, Value>, emails: Option<&[Map<String, Value>]>) {
    // A member of that name in a profile would be somebody's own word.
    profile.shift_remove("email_verified");
    let Some(emails) = emails else { return };
    let says = |entry: &Map<String, Value>, name: &str| entry.get(name) == Some(&Value::Bool(true));
    let (email, is_verified) = match json::text(profile, "email") {
        Some(shown) => {
            let is_verified =
                |entry: &Map<String, Value>| json::text(entry, "email") == Some(shown) && says(entry, "verified");
            (shown.to_owned(), emails.iter().any(is_verified))
        }
        None => {
            let primary = emails.iter().find(|entry| says(entry, "primary") && says(entry, "verified"));
            let Some(address) = primary.and_then(|entry| json::text(entry, "email")) else { return };
            (address.to_owned(), true)
        }
    };
    profile.insert("email".to_owned(), email.into());
    profile.insert("email_verified".to_owned(), is_verified.into());
}

/// Ends an access token, `DELETE /applications/{client_id}/token`. One that is over already (404, 422) is as good.
pub(super) async fn revoke(
    http: &HttpClient,
    api: &str,
    client: &Client,
    access_token: &SecretString,
    timeout: Duration,
) -> Result<(), ProviderError> {
    // The API knows who asks by Basic alone.
    let Some(secret) = &client.secret else { return Ok(()) };
    let url = endpoint(&format!("{api}/applications/{}/token", client.id))?;
    let body = json!({ "access_token": access_token.expose_secret() }).to_string();
    let answer = http.send(http::delete(&url, client.basic(secret)?, body)?, timeout).await?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => Ok(()),
        status if status.is_client_error() => Err(ProviderError::Misconfigured { reason: "revocation_refused" }),
        _ => Err(ProviderError::Unavailable { reason: "revocation_status", retry_after: None }),
    }
}

fn endpoint(url: &str) -> Result<Url, ProviderError> {
    Url::parse(url).map_err(|_| ProviderError::Misconfigured { reason: "api_not_a_url" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_verified_when_the_list_says_so() {
        let list = json!([
            { "email": "old@example.com", "primary": false, "verified": false },
            { "email": "ada@example.com", "primary": true, "verified": true },
        ]);
        let unverified = json!([{ "email": "new@example.com", "primary": true, "verified": false }]);
        for (shown, list, email, verified) in [
            (json!(null), Some(&list), json!("ada@example.com"), json!(true)),
            (json!("ada@example.com"), Some(&list), json!("ada@example.com"), json!(true)),
            (json!("old@example.com"), Some(&list), json!("old@example.com"), json!(false)),
            (json!("eve@example.com"), Some(&list), json!("eve@example.com"), json!(false)),
            (json!(null), Some(&unverified), json!(null), json!(null)),
            (json!(null), None, json!(null), json!(null)),
            (json!("eve@example.com"), None, json!("eve@example.com"), json!(null)),
        ] {
            let mut profile = json!({ "email": shown, "email_verified": true }).as_object().unwrap().clone();
            let entries = list.map(|list| json::objects(list.to_string().as_bytes()).unwrap());
            complete(&mut profile, entries.as_deref());
            let found = profile.get("email_verified").cloned().unwrap_or_default();
            assert_eq!((&profile["email"], found), (&email, verified), "{shown} {list:?}");
        }
    }
}
