//! The end of every login: somebody has signed in, and there is a session under an id that did not exist before.

use super::code_flow::{self, Flow};
use super::login::LoginRecord;
use super::{Asked, Endpoints, provider_refusal, refresh};
use crate::body::Body;
use crate::clock::{Mono, Now};
use crate::provider::{Provider, ProviderError, SignedIn};
use crate::reply::{self, Outcome, Refusal};
use crate::session::carried::NotCarried;
use crate::session::code_flow::Code;
use crate::session::store::StoreError;
use crate::session::{Identity, Opening, OpeningFailed, Session, Sessions};
use crate::tokens::token_set;
use http::{Response, StatusCode, header};
use std::future::Future;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a login has come to.
pub(super) struct Opened {
    pub(super) session: Arc<Session>,
    /// What the browser is to exchange for it; none: it gets the session's cookie.
    code: Option<Code>,
}

/// Everything from asking the provider to the session, in a task of its own: codes work once and refresh tokens are not to be
/// lost, so what was begun is finished, or undone when nobody is there any more to take the cookie.
pub(super) async fn open<F>(
    endpoints: &Endpoints,
    provider: &Arc<Provider>,
    transient: bool,
    flow: Flow,
    signing_in: F,
) -> Result<Opened, Refusal>
where
    F: Future<Output = Result<SignedIn, Refusal>> + Send + 'static,
{
    let (provider, sessions, clock) = (Arc::clone(provider), endpoints.sessions.clone(), endpoints.clock.clone());
    let (announce, result) = oneshot::channel();
    endpoints.background.run(async move {
        let began = clock.now().mono;
        let signed_in = match signing_in.await {
            Ok(signed_in) => signed_in,
            Err(refusal) => return drop(announce.send(Err(refusal))),
        };
        let tokens = signed_in.tokens.clone();
        let opened = open_session(&sessions, &provider, signed_in, transient, began, clock.now(), flow).await;
        let is_open = opened.is_ok();
        let announced = announce.send(opened);
        if let Err(Ok(opened)) = &announced {
            // A session whose id nobody has is over in time if it cannot be ended now.
            let _ = sessions.end(opened.session.key).await;
        }
        if (!is_open || announced.is_err()) && tokens.refresh_token.is_some() {
            // Best effort: the provider forgets it in time.
            let _ = provider.revoke(&tokens.access_token, tokens.refresh_token.as_ref()).await;
        }
    });
    result.await.unwrap_or(Err(Refusal::Internal))
}

/// On to where the login was to lead, with the session's cookies, or by way of the page that exchanges its code.
pub(super) async fn lead_on(
    endpoints: &Endpoints,
    asked: &Asked<'_>,
    record: &LoginRecord,
    opened: &Opened,
    status: StatusCode,
) -> Result<Response<Body>, Refusal> {
    let Some(code) = &opened.code else {
        let mut response = reply::redirect(status, &record.return_to);
        hand_over(endpoints, asked, &opened.session, &mut response).await?;
        return Ok(response);
    };
    replace_previous(endpoints, asked, &opened.session).await;
    let mut response = code_flow::hand_over(endpoints, asked, record, code, status);
    refresh::expire_shown(endpoints, asked, &mut response);
    Ok(response)
}

/// Puts the new session's cookies on the answer, in place of the session before.
pub(super) async fn hand_over(
    endpoints: &Endpoints,
    asked: &Asked<'_>,
    session: &Session,
    response: &mut Response<Body>,
) -> Result<(), Refusal> {
    replace_previous(endpoints, asked, session).await;
    response.extensions_mut().insert(Outcome("signed_in"));
    let cookies = endpoints.sessions.set_cookies(session, &endpoints.cookies, asked.cookies, asked.facts.now);
    for line in cookies.map_err(not_carried)? {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    refresh::expire_shown(endpoints, asked, response);
    Ok(())
}

/// Ends what was in this browser before, by cookie or by refresh token. Their cookies go in any case, and they will be over in time.
async fn replace_previous(endpoints: &Endpoints, asked: &Asked<'_>, session: &Session) {
    let by_refresh_token = refresh::shown(endpoints, asked).await.ok().flatten().map(|shown| shown.session);
    for previous in asked.session.iter().chain(&by_refresh_token) {
        if let Err(error) = endpoints.sessions.end(previous.key).await {
            tracing::warn!(reason = error.reason, session = %previous.key, "the session before this login could not be ended");
        }
    }
    tracing::info!(target: "latchgate::audit", event = "login", provider = %session.provider, session = %session.key, request = %asked.facts.id, "signed in");
}

/// The audit line of a login that failed at the provider, and what to say.
pub(super) fn login_failed(provider: &Provider, error: &ProviderError) -> Refusal {
    tracing::warn!(target: "latchgate::audit", event = "login_failed", provider = provider.name(), reason = error.reason(), "a login failed");
    provider_refusal(error)
}

/// The same at the session store.
pub(super) fn store_refusal(error: StoreError) -> Refusal {
    tracing::warn!(target: "latchgate::audit", event = "login_failed", reason = error.reason, "a login failed at the session store");
    Refusal::StoreUnavailable
}

pub(super) async fn open_session(
    sessions: &Sessions,
    provider: &Provider,
    signed_in: SignedIn,
    transient: bool,
    began: Mono,
    now: Now,
    flow: Flow,
) -> Result<Opened, Refusal> {
    let SignedIn { tokens, issuer, subject, sid, claims } = signed_in;
    let tokens = token_set(tokens, 1, now).ok_or(Refusal::ProviderBroken)?;
    let identity = Identity { issuer, subject, sid, claims };
    let opening = Opening { provider: provider.name().into(), identity, tokens, transient, began };
    let opened = match flow {
        Flow::Cookie => sessions.open(opening, now).await.map(|session| Opened { session, code: None }),
        Flow::Code => {
            sessions.open_for_code(opening, now).await.map(|(session, code)| Opened { session, code: Some(code) })
        }
    };
    opened.map_err(|failure| match failure {
        OpeningFailed::Full => {
            tracing::error!("session.max_sessions is reached: logins are turned away");
            Refusal::Overloaded
        }
        OpeningFailed::Revoked => Refusal::LoginInvalid("you were signed out while this sign-in was under way"),
        OpeningFailed::Over => Refusal::LoginInvalid("the identity provider says that this session is over"),
        OpeningFailed::TooLarge => not_carried(NotCarried::TooLarge),
        OpeningFailed::NoRandomness => Refusal::Internal,
        OpeningFailed::Store(error) => store_refusal(error),
    })
}

pub(super) fn not_carried(problem: NotCarried) -> Refusal {
    match problem {
        NotCarried::TooLarge => {
            tracing::error!(target: "latchgate::audit", event = "login_failed", reason = "too_large_for_cookies", "a login brought more than cookies hold: raise limits.header_bytes, or choose another session.store");
            Refusal::LoginInvalid(TOO_LARGE)
        }
        NotCarried::NoRandomness => Refusal::Internal,
    }
}

const TOO_LARGE: &str =
    "what the identity provider says about this account is more than cookies hold, and this site keeps sessions there";
