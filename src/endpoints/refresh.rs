//! `POST {prefix}/refresh`: a forced refresh, for front ends that used to do it themselves. What
//! they get is a token of ours; the provider's stay here.
//!
//! | the request shows | whose it is | on success |
//! |---|---|---|
//! | the session cookie, or a token of ours in its place | that session | a token of ours |
//! | the refresh cookie of the CODE flow | the session that it names | a token of ours, and the refresh token's successor |
//! | only a token of ours, of the CODE flow | nobody's: its end is the end | – |
//!
//! The provider's tokens are renewed first. If that cannot be done now, no refresh token is used up.

use super::{Asked, Endpoints, code_flow};
use crate::body::Body;
use crate::reply::Refusal;
use crate::session::code_flow::{ByRefreshToken, RefreshUse};
use crate::session::cookie::Name;
use crate::session::store::StoreError;
use crate::session::{Session, Update};
use crate::tokens::Renewal;
use http::{Response, header};
use std::sync::Arc;

pub(super) async fn refresh(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    if endpoints.is_foreign(&asked.headers) {
        return asked.refuse(&Refusal::CrossOrigin);
    }
    let refreshed = match &asked.session {
        Some(session) if session.code_flow.is_none() => by_session(endpoints, session).await,
        _ => by_refresh_token(endpoints, asked).await,
    };
    match refreshed {
        Ok(session) => code_flow::token_answer(endpoints, asked, &session),
        Err(refusal) => refused(endpoints, asked, &refusal),
    }
}

/// An app's own refresh: the session of its cookie with new tokens, else the answer that says why not.
pub(super) async fn for_app(endpoints: &Endpoints, asked: &Asked<'_>) -> Result<Arc<Session>, Box<Response<Body>>> {
    let refreshed = match &asked.session {
        _ if endpoints.is_foreign(&asked.headers) => Err(Refusal::CrossOrigin),
        Some(session) => by_session(endpoints, session).await,
        None => Err(Refusal::RefreshInvalid),
    };
    refreshed.map_err(|refusal| Box::new(refused(endpoints, asked, &refusal)))
}

/// With CLEAR, where the session is over.
pub(super) fn refused(endpoints: &Endpoints, asked: &Asked<'_>, refusal: &Refusal) -> Response<Body> {
    let mut response = asked.refuse(refusal);
    if *refusal == Refusal::RefreshInvalid {
        endpoints.expire_session_cookies(asked, &mut response);
        expire_shown(endpoints, asked, &mut response);
    }
    response
}

/// The session that the refresh cookie names, if there is exactly one that lives.
///
/// # Errors
/// When the store cannot be asked.
pub(super) async fn shown(endpoints: &Endpoints, asked: &Asked<'_>) -> Result<Option<ByRefreshToken>, StoreError> {
    let mut shown: Option<ByRefreshToken> = None;
    for token in endpoints.cookies.values(asked.cookies, Name::Refresh).take(MOST_COOKIES) {
        let Some(one) = endpoints.sessions.find_by_refresh_token(token, asked.facts.now).await? else { continue };
        match &shown {
            Some(other) if other.session.key != one.session.key => return Ok(None),
            // Whoever has the newest has stolen nothing.
            Some(other) if other.rotation >= one.rotation => {}
            Some(_) | None => shown = Some(one),
        }
    }
    Ok(shown)
}

/// The same, for somebody who means to use it; a refresh token that was used up ends its session instead.
///
/// # Errors
/// When it names none.
pub(super) async fn redeem(endpoints: &Endpoints, asked: &Asked<'_>) -> Result<(ByRefreshToken, RefreshUse), Refusal> {
    let shown = shown(endpoints, asked).await.map_err(|error| unavailable(asked, error))?;
    let shown = shown.ok_or(Refusal::RefreshInvalid)?;
    match shown.session.use_of(shown.rotation, endpoints.code_flow.grace, asked.facts.now.mono) {
        RefreshUse::Stolen => Err(stolen(endpoints, asked, &shown.session).await),
        used @ (RefreshUse::Current | RefreshUse::Repeated) => Ok((shown, used)),
    }
}

/// Whether there is a refresh cookie, whatever it is worth.
pub(super) fn is_shown(endpoints: &Endpoints, asked: &Asked<'_>) -> bool {
    endpoints.cookies.values(asked.cookies, Name::Refresh).next().is_some()
}

/// Takes the refresh cookie away, if there is one.
pub(super) fn expire_shown(endpoints: &Endpoints, asked: &Asked<'_>, response: &mut Response<Body>) {
    if is_shown(endpoints, asked) {
        response.headers_mut().append(header::SET_COOKIE, endpoints.cookies.expire(Name::Refresh));
    }
}

async fn by_session(endpoints: &Endpoints, session: &Arc<Session>) -> Result<Arc<Session>, Refusal> {
    check_identity(session)?;
    match renewed(endpoints.tokens.renew_on_demand(session).await)? {
        Some(session) => Ok(session),
        None => Err(end(endpoints, session).await),
    }
}

async fn by_refresh_token(endpoints: &Endpoints, asked: &Asked<'_>) -> Result<Arc<Session>, Refusal> {
    let (ByRefreshToken { session, rotation }, used) = redeem(endpoints, asked).await?;
    check_identity(&session)?;
    if used == RefreshUse::Repeated {
        return Ok(session);
    }
    // A provider without refresh tokens does not end a session of the CODE flow: its own token is all the front end asks for.
    let session = renewed(endpoints.tokens.renew_on_demand(&session).await)?.unwrap_or(session);
    if !endpoints.code_flow.rotation {
        return Ok(session);
    }
    let now = endpoints.clock.now();
    match endpoints.sessions.rotate(&session, rotation, now).await {
        Ok(Update::Stored(session)) => Ok(session),
        Ok(Update::Declined(session)) => match session.use_of(rotation, endpoints.code_flow.grace, now.mono) {
            RefreshUse::Current | RefreshUse::Repeated => Ok(session),
            RefreshUse::Stolen => Err(stolen(endpoints, asked, &session).await),
        },
        Ok(Update::Ended) => Err(Refusal::RefreshInvalid),
        Err(error) => Err(unavailable(asked, error)),
    }
}

/// An impersonation is not prolonged, and does not end unnoticed.
pub(super) fn check_identity(session: &Session) -> Result<(), Refusal> {
    match session.impersonation {
        None => Ok(()),
        Some(_) => Err(Refusal::Forbidden(
            "Cannot refresh impersonated session. Please call unimpersonate to restore your original session.",
        )),
    }
}

/// The state with the provider's new tokens; None when there is nothing to renew them with.
pub(super) fn renewed(renewal: Renewal) -> Result<Option<Arc<Session>>, Refusal> {
    match renewal {
        Renewal::Renewed(session) => Ok(Some(session)),
        Renewal::NothingToRenewWith => Ok(None),
        Renewal::Refused | Renewal::Gone => Err(Refusal::RefreshInvalid),
        Renewal::Outage(outage) => Err(outage.refusal()),
    }
}

/// RFC 9700 §4.14.2: nobody can tell which of the two who have the refresh token is the thief, so the whole family ends.
async fn stolen(endpoints: &Endpoints, asked: &Asked<'_>, session: &Session) -> Refusal {
    tracing::warn!(target: "latchgate::audit", event = "refresh_token_reused", provider = %session.provider, session = %session.key, request = %asked.facts.id, "a refresh token was used that had been replaced: its session ends");
    let refusal = end(endpoints, session).await;
    if refusal == Refusal::RefreshInvalid {
        endpoints.revoke_behind(session);
    }
    refusal
}

async fn end(endpoints: &Endpoints, session: &Session) -> Refusal {
    match endpoints.sessions.end(session.key).await {
        Ok(_) => Refusal::RefreshInvalid,
        Err(_) => Refusal::StoreUnavailable,
    }
}

fn unavailable(asked: &Asked<'_>, error: StoreError) -> Refusal {
    tracing::warn!(reason = error.reason, request = %asked.facts.id, "a refresh token could not be looked up");
    Refusal::StoreUnavailable
}

/// A browser sends one.
const MOST_COOKIES: usize = 8;
