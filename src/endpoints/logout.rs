//! Ending a session: here first, then at the provider as far as it will listen.

use super::login::is_fit_for_a_name;
use super::{Asked, Endpoints};
use crate::body::Body;
use crate::policy::Client;
use crate::reply::{self, Outcome, Refusal};
use crate::session::Session;
use crate::session::cookie::Name;
use http::{Method, Response, StatusCode, header};
use secrecy::ExposeSecret;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// `POST {prefix}/logout` and `GET {prefix}/logout`.
pub(super) async fn logout(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    let navigates = asked.facts.method == Method::GET;
    let is_foreign = if navigates { is_foreign_navigation(endpoints, asked) } else { endpoints.is_foreign(asked) };
    if is_foreign {
        return asked.refuse(&Refusal::CrossOrigin);
    }
    let mut ended = None;
    if let Some(session) = &asked.session {
        match endpoints.sessions.end(session.key).await {
            Ok(lived) => ended = lived.then(|| Arc::clone(session)),
            // The cookie stays: whoever is not signed out must not think so.
            Err(error) => {
                tracing::warn!(target: "latchgate::audit", event = "logout_failed", reason = error.reason, session = %session.key, "the session store could not end a session");
                return asked.refuse(&Refusal::StoreUnavailable);
            }
        }
    }
    let calls_nobody = asked.parameter("local").as_deref() == Some("1");
    if let Some(session) = &ended {
        tracing::info!(target: "latchgate::audit", event = "logout", provider = %session.provider, session = %session.key, request = %asked.facts.id, "signed out");
        if !calls_nobody {
            endpoints.revoke_behind(session);
        }
    }
    let mut response = if navigates {
        let wanted = asked.parameter("return_to");
        let here = endpoints.return_to(wanted.as_deref(), &endpoints.settings.after_logout);
        let at_provider = match ended.filter(|_| !calls_nobody) {
            Some(session) => end_session_url(endpoints, &session).await,
            None => None,
        };
        reply::redirect(StatusCode::FOUND, at_provider.as_deref().unwrap_or(&here))
    } else {
        reply::json(StatusCode::OK, &json!({"success": true}))
    };
    response.extensions_mut().insert(Outcome("signed_out"));
    expire_all_cookies(endpoints, asked, &mut response);
    response
}

/// Only a navigation signs out by GET, and no other site's: no image, frame, prefetch or link.
fn is_foreign_navigation(endpoints: &Endpoints, asked: &Asked<'_>) -> bool {
    if asked.facts.client != Client::Page {
        return true;
    }
    match asked.headers.get("sec-fetch-site") {
        Some(site) => !matches!(site.as_bytes(), b"same-origin" | b"same-site" | b"none"),
        None => asked.headers.get(header::REFERER).is_some_and(|referer| {
            let referer = referer.to_str().ok().and_then(|text| url::Url::parse(text).ok());
            referer.is_none_or(|url| url.origin() != endpoints.external_url.origin())
        }),
    }
}

/// RP-initiated logout. A provider that does not answer in time is left alone: the session here has
/// ended either way.
async fn end_session_url(endpoints: &Endpoints, session: &Arc<Session>) -> Option<String> {
    let provider = Arc::clone(endpoints.provider(&session.provider)?);
    let after_logout = endpoints.external_url.join(&endpoints.settings.after_logout).ok()?;
    let session = Arc::clone(session);
    let asking = endpoints.background.run(async move {
        let id_token = session.tokens.id_token.as_ref().map(ExposeSecret::expose_secret);
        provider.end_session_url(id_token, &after_logout, None).await
    });
    let url = tokio::time::timeout(PATIENCE, asking).await.ok()?.ok()??;
    Some(url.into())
}

fn expire_all_cookies(endpoints: &Endpoints, asked: &Asked<'_>, response: &mut Response<Body>) {
    endpoints.expire_session_cookies(asked, response);
    let headers = response.headers_mut();
    headers.append(header::SET_COOKIE, endpoints.cookies.expire(Name::Loop));
    for (label, _) in endpoints.cookies.logins(asked.cookies).take(8) {
        if is_fit_for_a_name(label) {
            headers.append(header::SET_COOKIE, endpoints.cookies.expire(Name::Login(label)));
        }
    }
}

const PATIENCE: Duration = Duration::from_millis(800);
