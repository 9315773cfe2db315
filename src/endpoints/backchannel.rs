//! `POST {prefix}/backchannel-logout` (OpenID Connect Back-Channel Logout 1.0 §2.5 to §2.8): the provider says that somebody has signed
//! out there, and what they opened here with that ends.
//!
//! It comes from server to server, with no cookie and from no page. What counts is the token: signed by the provider, meant for us, and
//! sent for the first time.
//!
//! | the token, the store | answer |
//! |---|---|
//! | counts; sessions ended, or there were none | 200 |
//! | does not count, or counted before | 400 `invalid_request` |
//! | cannot be verified now | 503, it did not count |
//! | cannot be remembered: whether it counted before is not known | 503, nothing ended |
//! | is remembered, and then the sessions could not be ended | tried again for a while, then 503 |

use super::{Asked, Endpoints, RETRY_AFTER, media_type, read_body};
use crate::body::Body;
use crate::provider::{LogoutToken, LogoutTokenError, Provider};
use crate::reply::{self, Outcome, Refusal};
use crate::session::Sessions;
use crate::session::store::{Filter, OnceName, StoreError};
use http::{Response, StatusCode};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use url::form_urlencoded;

pub(super) async fn logout(endpoints: &Endpoints, asked: &Asked<'_>, body: Body) -> Response<Body> {
    match end_sessions(endpoints, asked, body).await {
        Ok(ended) => {
            tracing::info!(target: "latchgate::audit", event = "backchannel_logout", provider = ended.provider.name(), by = ended.by(), sessions = ended.sessions, request = %asked.facts.id, "signed out by the provider");
            reply::empty(StatusCode::OK, Outcome("signed_out"))
        }
        Err(Failure::Invalid(reason)) => {
            tracing::info!(target: "latchgate::audit", event = "backchannel_logout_refused", reason, request = %asked.facts.id, "a logout token was refused");
            let body = json!({"error": "invalid_request", "error_description": reason});
            let mut response = reply::json(StatusCode::BAD_REQUEST, &body);
            response.extensions_mut().insert(Outcome("logout_token_refused"));
            response
        }
        Err(Failure::Unavailable(reason, refusal)) => {
            tracing::warn!(target: "latchgate::audit", event = "backchannel_logout_failed", reason, request = %asked.facts.id, "a logout token could not be acted upon");
            asked.refuse(&refusal)
        }
    }
}

struct Ended {
    provider: Arc<Provider>,
    token: LogoutToken,
    sessions: usize,
}

impl Ended {
    fn by(&self) -> &'static str {
        if self.token.sid.is_some() { "sid" } else { "sub" }
    }
}

/// With a label.
enum Failure {
    /// 400
    Invalid(&'static str),
    /// Not our sender's fault.
    Unavailable(&'static str, Refusal),
}

async fn end_sessions(endpoints: &Endpoints, asked: &Asked<'_>, body: Body) -> Result<Ended, Failure> {
    let token = read_token(asked, body).await?;
    let Some(turn) = endpoints.logout_turn().await else {
        return Err(Failure::Unavailable("too_many_logout_tokens", Refusal::Overloaded));
    };
    let (providers, sessions) = (endpoints.providers.clone(), endpoints.sessions.clone());
    // Signatures are not checked where requests pass, and what has begun to count is seen through.
    let ending = endpoints.background.run(async move {
        let _turn = turn;
        let (provider, token) = verify(&providers, &token).await?;
        let ended = act_upon(&sessions, &token).await?;
        Ok(Ended { provider, token, sessions: ended })
    });
    ending.await.unwrap_or(Err(Failure::Unavailable("stopping", Refusal::Internal)))
}

/// §2.5: a form with `logout_token`, once. What else is in it is ignored.
async fn read_token(asked: &Asked<'_>, body: Body) -> Result<String, Failure> {
    if media_type(&asked.headers).as_deref() != Some(FORM) {
        return Err(Failure::Invalid("not_a_form"));
    }
    let form = read_body(body, MOST_FORM).await.map_err(|refusal| Failure::Unavailable("body", refusal))?;
    let mut tokens = form_urlencoded::parse(&form).filter(|(name, _)| name == "logout_token");
    match (tokens.next(), tokens.next()) {
        (Some((_, token)), None) => Ok(token.into_owned()),
        (None, _) => Err(Failure::Invalid("logout_token_missing")),
        (Some(_), Some(_)) => Err(Failure::Invalid("logout_token_twice")),
    }
}

/// Whose token it is: no two clients at providers share an issuer and an audience.
async fn verify(providers: &[Arc<Provider>], token: &str) -> Result<(Arc<Provider>, LogoutToken), Failure> {
    for provider in providers {
        match provider.verify_logout_token(token).await {
            Ok(token) => return Ok((Arc::clone(provider), token)),
            Err(LogoutTokenError::Foreign) => {}
            Err(LogoutTokenError::Invalid { reason }) => return Err(Failure::Invalid(reason)),
            Err(LogoutTokenError::Unverifiable { reason, retry_after }) => {
                let retry_after = retry_after.unwrap_or(RETRY_AFTER).as_secs();
                return Err(Failure::Unavailable(reason, Refusal::ProviderUnavailable { retry_after }));
            }
        }
    }
    Err(Failure::Invalid("token_iss_or_aud"))
}

/// §2.6, step 8, and §2.7. A `sid` names one session of the provider, a `sub` alone all sessions of the user.
async fn act_upon(sessions: &Sessions, token: &LogoutToken) -> Result<usize, Failure> {
    let unavailable = |error: StoreError| Failure::Unavailable(error.reason, Refusal::StoreUnavailable);
    let name = OnceName::new("logout token", &format!("{}\0{}", token.issuer, token.id));
    if !sessions.take_once(name, token.remaining).await.map_err(unavailable)? {
        return Err(Failure::Invalid("token_jti_used"));
    }
    let filter = Filter { issuer: Some(token.issuer.clone()), subject: token.subject.clone(), sid: token.sid.clone() };
    // From here on the provider cannot send it again.
    for pause in PAUSES {
        match sessions.end_where(filter.clone()).await {
            Ok(ended) => return Ok(ended),
            Err(error) => tracing::warn!(reason = error.reason, "sessions could not be ended yet"),
        }
        sleep(pause).await;
    }
    sessions.end_where(filter).await.map_err(unavailable)
}

const FORM: &str = "application/x-www-form-urlencoded";
const MOST_FORM: usize = 64 * 1024;
/// Between attempts: a store that fails over is back within seconds.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::store::failing;
    use crate::session::tests::opening;

    fn token(sub: &str) -> LogoutToken {
        LogoutToken {
            issuer: "https://idp".to_owned(),
            subject: Some(sub.to_owned()),
            sid: None,
            id: "j".to_owned(),
            remaining: Duration::from_secs(120),
        }
    }

    // LO-14
    #[tokio::test(start_paused = true)]
    async fn while_nobody_can_tell_whether_it_counted_before_a_token_ends_nothing() {
        let (sessions, store, clock) = failing::sessions();
        let session = sessions.open(opening("ada"), clock.now()).await.unwrap();
        store.fail(1);
        assert!(matches!(act_upon(&sessions, &token("ada")).await, Err(Failure::Unavailable("down", _))));
        assert!(sessions.newest(&session, clock.now()).await.unwrap().is_some());
        assert!(matches!(act_upon(&sessions, &token("ada")).await, Ok(1)), "the provider sends it again");
        assert!(sessions.newest(&session, clock.now()).await.unwrap().is_none());
        assert!(matches!(act_upon(&sessions, &token("ada")).await, Err(Failure::Invalid("token_jti_used"))));
    }

    // LO-14
    #[tokio::test(start_paused = true)]
    async fn a_token_that_has_counted_is_acted_upon_though_the_store_fails_for_a_moment() {
        for (failures, ended) in [(PAUSES.len(), true), (PAUSES.len() + 1, false)] {
            let (sessions, store, clock) = failing::sessions();
            sessions.open(opening("ada"), clock.now()).await.unwrap();
            store.fail_after(1, failures);
            assert_eq!(matches!(act_upon(&sessions, &token("ada")).await, Ok(1)), ended, "{failures}");
        }
    }
}
