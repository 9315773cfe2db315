//! `GET {prefix}/frontchannel-logout?iss=&sid=` (OpenID Connect Front-Channel Logout 1.0 §2): a page of the provider loads it in a frame
//! while the user signs out there.
//!
//! In that frame the browser may keep our cookie to itself, so what ends is what `iss` and `sid` name, and nothing else: a request that
//! does not name both ends nothing, even though a cookie may be there. Nobody has proven anything here, so no token is revoked.

use super::{Asked, Endpoints};
use crate::body::Body;
use crate::reply::{self, Outcome, Refusal};
use crate::session::Sessions;
use crate::session::store::{Filter, StoreError};
use http::Response;
use url::Url;

pub(super) async fn logout(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    let (Some(issuer), Some(sid)) = (only(asked, "iss"), only(asked, "sid")) else {
        return asked.refuse(&Refusal::Malformed("iss and sid must each be given once"));
    };
    let Some(provider) = endpoints.providers.iter().find(|provider| provider.is_issuer(&issuer)) else {
        return asked.refuse(&Refusal::Malformed("iss is not an identity provider of this site"));
    };
    let Some(turn) = endpoints.logout_turn().await else {
        return asked.refuse(&Refusal::Overloaded);
    };
    let is_own = asked.session.as_ref().is_some_and(|session| {
        session.owner().issuer == issuer && session.owner().sid.as_deref() == Some(sid.as_str())
    });
    let framed_by = Url::parse(&issuer).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    let filter = Filter { issuer: Some(issuer), sid: Some(sid), subject: None };
    let sessions = endpoints.sessions.clone();
    let ending = endpoints.background.run(async move {
        let _turn = turn;
        // A removal is remembered, for logins under way. That is more than a name deserves that anybody may have made up.
        if is_own || exists(&sessions, &filter).await? { sessions.end_where(filter).await } else { Ok(0) }
    });
    match ending.await {
        Ok(Ok(ended)) => {
            tracing::info!(target: "latchgate::audit", event = "frontchannel_logout", provider = provider.name(), sessions = ended, request = %asked.facts.id, "signed out at the provider");
        }
        Ok(Err(error)) => {
            tracing::warn!(target: "latchgate::audit", event = "frontchannel_logout_failed", provider = provider.name(), reason = error.reason, request = %asked.facts.id, "sessions could not be ended");
            return asked.refuse(&Refusal::StoreUnavailable);
        }
        Err(_) => return asked.refuse(&Refusal::Internal),
    }
    let mut response = reply::empty_frame(&framed_by);
    response.extensions_mut().insert(Outcome("signed_out"));
    if is_own {
        endpoints.expire_session_cookies(asked, &mut response);
    }
    response
}

async fn exists(sessions: &Sessions, filter: &Filter) -> Result<bool, StoreError> {
    let mut cursor = None;
    loop {
        let page = sessions.list(filter, cursor.as_deref()).await?;
        if !page.records.is_empty() || page.next.is_none() {
            return Ok(!page.records.is_empty());
        }
        cursor = page.next;
    }
}

/// A query parameter that is there once and says something, no longer than what we take from tokens.
fn only(asked: &Asked<'_>, name: &str) -> Option<String> {
    let mut values = asked.parameters().into_iter().filter(|(key, _)| key == name).map(|(_, value)| value);
    values.next().filter(|value| (1..=255).contains(&value.len()) && values.next().is_none())
}
