//! Access tokens that only their issuer can read: it is asked (RFC 7662).

use super::{Accepted, BearerSettings, Rejection, is_for_one_of, is_something_else};
use crate::clock::{Clock, Now};
use crate::provider::Breaker;
use crate::provider::http::{self, HttpError};
use crate::provider::json;
use crate::provider::random::random_fraction;
use crate::provider::token_endpoint::Client;
use crate::provider::turns::Turns;
use crate::provider::verify::{check_expiry, check_not_before};
use crate::provider::{ClientAuth, HttpClient};
use ::http::{Response, StatusCode};
use bytes::Bytes;
use secrecy::SecretString;
use serde_json::{Map, Value};
use std::time::Duration;
use url::Url;

/// `introspection` of a `[bearer.*]` table.
#[derive(Debug, Clone)]
pub struct IntrospectionSettings {
    /// `url`
    pub url: Url,
    /// `client_id`, for HTTP Basic.
    pub client_id: String,
    /// `client_secret`
    pub client_secret: SecretString,
    /// `cache`, default 60 s: how long an answer counts, and no longer than the token.
    pub cache: Duration,
}

/// An introspection endpoint, and what its answers must say.
pub(super) struct Introspection {
    name: String,
    url: Url,
    client: Client,
    issuer: Option<String>,
    audience: Vec<String>,
    /// How long an answer counts.
    pub(super) cache: Duration,
    http: HttpClient,
    timeout: Duration,
    clock: Clock,
    breaker: Breaker,
    turns: Turns,
}

impl Introspection {
    pub(super) fn new(
        settings: &BearerSettings,
        endpoint: &IntrospectionSettings,
        http: HttpClient,
        timeout: Duration,
        clock: Clock,
    ) -> Introspection {
        Introspection {
            name: settings.name.clone(),
            url: endpoint.url.clone(),
            client: Client {
                id: endpoint.client_id.clone(),
                secret: Some(endpoint.client_secret.clone()),
                auth: ClientAuth::ClientSecretBasic,
            },
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            cache: endpoint.cache,
            http,
            timeout,
            clock,
            breaker: Breaker::new(FAILURES_BEFORE_PAUSE, LONGEST_PAUSE),
            turns: Turns::new(MOST_CALLS, MOST_QUEUED),
        }
    }

    /// One call, when it is its turn.
    ///
    /// # Errors
    /// [`Rejection::InvalidToken`]; [`Rejection::Unavailable`] when there is no answer that means anything.
    pub(super) async fn ask(&self, token: &str) -> Result<Accepted, Rejection> {
        let _turn = self.turns.next().await.ok_or(unavailable("introspection_queue_full", None))?;
        let now = self.clock.now();
        let paused = |wait| unavailable("introspection_paused", Some(wait));
        self.breaker.admit(now.mono, self.timeout).map_err(paused)?;
        let answer = self.call(token).await;
        let now = self.clock.now();
        match &answer {
            Ok(_) => self.breaker.succeeded(),
            Err((reason, retry_after)) => {
                tracing::warn!(bearer = self.name, reason, "a token could not be introspected");
                self.breaker.failed(now.mono, *retry_after, random_fraction());
            }
        }
        let says = answer.map_err(|(reason, retry_after)| unavailable(reason, retry_after))?;
        read(says, self.issuer.as_deref(), &self.audience, now).map_err(|reason| Rejection::InvalidToken { reason })
    }

    async fn call(&self, token: &str) -> Result<Map<String, Value>, (&'static str, Option<Duration>)> {
        let failed = |error: HttpError| (error.reason(), None);
        let parameters = [("token", token), ("token_type_hint", "access_token")];
        let request = self.client.request(&self.url, &parameters).map_err(failed)?;
        let answer = self.http.send(request, self.timeout).await.map_err(failed)?;
        let reason = match answer.status() {
            StatusCode::OK => return json::object(answer.body()).ok_or(("introspection_not_json", None)),
            // §2.3: it is us that it does not know.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "introspection_client_refused",
            _ => "introspection_status",
        };
        Err((reason, self.retry_after(&answer)))
    }

    fn retry_after(&self, answer: &Response<Bytes>) -> Option<Duration> {
        http::retry_after(answer, self.clock.now())
    }
}

/// What an answer says of a token (RFC 7662 §2.2). What it says must be right. It may leave out who issued the token, since its issuer
/// was asked, but not whom a token is for where that matters here: one that does not say is for anybody (RFC 9068 §4).
fn read(
    mut says: Map<String, Value>,
    issuer: Option<&str>,
    audience: &[String],
    now: Now,
) -> Result<Accepted, &'static str> {
    if says.get("active") != Some(&Value::Bool(true)) {
        return Err("token_inactive");
    }
    let expires = match says.contains_key("exp") {
        true => Some(check_expiry(&says, now).map_err(|error| error.reason())?),
        false => None,
    };
    check_not_before(&says, now).map_err(|error| error.reason())?;
    if let (Some(issuer), Some(claimed)) = (issuer, says.get("iss"))
        && claimed != issuer
    {
        return Err("token_iss");
    }
    if !audience.is_empty() && !is_for_one_of(audience, &says) {
        return Err("token_aud");
    }
    if let Some(reason) = is_something_else(&says) {
        return Err(reason);
    }
    says.shift_remove("active");
    Ok(Accepted { claims: says, expires })
}

fn unavailable(reason: &'static str, retry_after: Option<Duration>) -> Rejection {
    Rejection::Unavailable { reason, retry_after: retry_after.unwrap_or(Duration::from_secs(1)) }
}

const FAILURES_BEFORE_PAUSE: u32 = 5;
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// At the same time; more of them wait, and beyond that are turned away.
const MOST_CALLS: usize = 64;
const MOST_QUEUED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::provider::test_provider::changed;
    use serde_json::json;

    const NOW: Now = Now { mono: Mono(0), unix: 1_800_000_000 };

    fn judge(changes: &Value, issuer: Option<&str>, audience: &[&str]) -> Result<Accepted, &'static str> {
        let answer = json!({ "active": true, "sub": "robot", "scope": "read", "exp": NOW.unix + 300 });
        let audience: Vec<String> = audience.iter().map(|one| (*one).to_owned()).collect();
        let Value::Object(answer) = changed(answer, changes) else { unreachable!() };
        read(answer, issuer, &audience, NOW)
    }

    #[test]
    fn tk_14_only_what_is_active_counts() {
        for active in [json!(false), json!("true"), json!(1), json!(null), json!([true])] {
            assert_eq!(judge(&json!({ "active": active }), None, &[]).unwrap_err(), "token_inactive");
        }
        let accepted = judge(&json!({}), None, &[]).unwrap();
        assert_eq!(accepted.expires, Some(NOW.unix + 300));
        assert_eq!(Value::Object(accepted.claims), json!({ "sub": "robot", "scope": "read", "exp": NOW.unix + 300 }));
    }

    #[test]
    fn tk_14_what_is_said_must_be_right() {
        let ours = (Some("https://op.example"), &["api"][..]);
        for (changes, (issuer, audience), reason) in [
            (json!({ "exp": NOW.unix - 60 }), (None, &[][..]), Some("token_exp")),
            (json!({ "exp": "soon" }), (None, &[]), Some("token_exp")),
            (json!({ "exp": null }), (None, &[]), None),
            (json!({ "nbf": NOW.unix + 61 }), (None, &[]), Some("token_nbf")),
            (json!({ "iss": "https://other.example", "aud": "other" }), (None, &[]), None),
            (json!({}), ours, Some("token_aud")),
            (json!({ "aud": "api" }), ours, None),
            (json!({ "iss": "https://op.example", "aud": ["x", "api"] }), ours, None),
            (json!({ "iss": "https://op.example/" }), ours, Some("token_iss")),
            (json!({ "aud": null }), ours, Some("token_aud")),
            (json!({ "iss": ["https://op.example"] }), ours, Some("token_iss")),
            (json!({ "aud": "other" }), ours, Some("token_aud")),
            (json!({ "aud": [] }), ours, Some("token_aud")),
            (json!({ "token_type": "Bearer" }), (None, &[]), None),
            (json!({ "token_type": "DPoP" }), (None, &[]), Some("token_not_for_access")),
            (json!({ "token_use": "refresh_token" }), (None, &[]), Some("token_not_for_access")),
            (json!({ "typ": "ID" }), (None, &[]), Some("token_not_for_access")),
            (json!({ "typ": "Offline" }), (None, &[]), Some("token_not_for_access")),
            (json!({ "cnf": { "x5t#S256": "x" } }), (None, &[]), Some("token_cnf")),
        ] {
            assert_eq!(judge(&changes, issuer, audience).err(), reason, "{changes}");
        }
    }
}
