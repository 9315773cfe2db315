//! Ending a session: here first, then at the provider as far as it will listen.

use super::login::is_fit_for_a_name;
use super::{Asked, Endpoints, Look, refresh};
use crate::body::Body;
use crate::policy::Client;
use crate::provider::random_token;
use crate::reply::{self, Outcome, Refusal};
use crate::session::cookie::Name;
use crate::session::store::StoreError;
use crate::session::{Found, Session};
use askama::Template;
use http::{Method, Response, StatusCode, header};
use secrecy::ExposeSecret;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// `POST {prefix}/logout` and `GET {prefix}/logout`.
pub(super) async fn logout(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    sign_out(endpoints, asked, asked.facts.method == Method::GET).await
}

/// As by `POST {prefix}/logout`, whatever the method.
pub(super) async fn by_script(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    sign_out(endpoints, asked, false).await
}

async fn sign_out(endpoints: &Endpoints, asked: &Asked<'_>, navigates: bool) -> Response<Body> {
    let is_foreign =
        if navigates { is_foreign_navigation(endpoints, asked) } else { endpoints.is_foreign(&asked.headers) };
    if is_foreign {
        return asked.refuse(&Refusal::CrossOrigin);
    }
    let ended = match end_shown(endpoints, asked).await {
        Ok(ended) => ended,
        // The cookies stay: whoever is not signed out must not think so.
        Err(error) => {
            tracing::warn!(target: "latchgate::audit", event = "logout_failed", reason = error.reason, request = %asked.facts.id, "the session store could not end a session");
            return asked.refuse(&Refusal::StoreUnavailable);
        }
    };
    let calls_nobody = asked.parameter("local").as_deref() == Some("1");
    for session in &ended {
        tracing::info!(target: "latchgate::audit", event = "logout", provider = %session.provider, session = %session.key, request = %asked.facts.id, "signed out");
        if !calls_nobody {
            endpoints.revoke_behind(session);
        }
    }
    let mut response = if navigates {
        let wanted = asked.parameter("return_to");
        let here = endpoints.return_to(wanted.as_deref(), &endpoints.settings.after_logout);
        match ended.into_iter().next().filter(|_| !calls_nobody) {
            Some(session) => go_on(&endpoints.settings.look, &here, &way_out(endpoints, &session).await),
            None => reply::redirect(StatusCode::FOUND, &here),
        }
    } else {
        reply::json(StatusCode::OK, &json!({"success": true}))
    };
    response.extensions_mut().insert(Outcome("signed_out"));
    expire_all_cookies(endpoints, asked, &mut response);
    response
}

/// Ends what the request shows: the session of its token, and of each cookie that the answer takes away. If another hand was faster
/// with one that lived when the request came, what follows does no harm twice.
async fn end_shown(endpoints: &Endpoints, asked: &Asked<'_>) -> Result<Vec<Arc<Session>>, StoreError> {
    let mut shown: Vec<Arc<Session>> = asked.session.iter().map(Arc::clone).collect();
    let presented = endpoints.sessions.presented(&endpoints.cookies, asked.cookies);
    if let Found::Live(by_cookie) = endpoints.sessions.find(presented, asked.facts.now).await? {
        shown.push(by_cookie);
    }
    shown.extend(refresh::shown(endpoints, asked).await?.map(|by_refresh_token| by_refresh_token.session));
    let mut seen = HashSet::new();
    shown.retain(|session| seen.insert(session.key));
    for session in &shown {
        endpoints.sessions.end(session.key).await?;
    }
    Ok(shown)
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

/// What is left to do at the provider.
enum WayOut {
    /// RP-initiated logout, which comes back to `login.after_logout`.
    At(String),
    /// It has no such thing.
    None,
    /// It cannot be asked.
    Unknown,
}

/// RP-initiated logout. The session here has ended already, so nothing depends on the way back: whatever `state` it carries, or none,
/// it leads to `login.after_logout` and does nothing else.
async fn way_out(endpoints: &Endpoints, session: &Arc<Session>) -> WayOut {
    let provider = endpoints.provider(&session.provider).cloned();
    let after_logout = endpoints.external_url.join(&endpoints.settings.after_logout).ok();
    let Some((provider, after_logout)) = provider.zip(after_logout) else {
        return WayOut::None;
    };
    let session = Arc::clone(session);
    let asking = endpoints.background.run(async move {
        let id_token = session.tokens.id_token.as_ref().map(ExposeSecret::expose_secret);
        provider.end_session_url(id_token, &after_logout, &random_token()).await
    });
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(Ok(Some(url)))) => WayOut::At(url.into()),
        Ok(Ok(Ok(None))) => WayOut::None,
        _ => WayOut::Unknown,
    }
}

fn go_on(look: &Look, here: &str, way_out: &WayOut) -> Response<Body> {
    match way_out {
        WayOut::At(provider) => reply::redirect(StatusCode::FOUND, provider),
        WayOut::None => reply::redirect(StatusCode::FOUND, here),
        WayOut::Unknown => reply::html(StatusCode::OK, &SignedOutPage { look, onward: here }),
    }
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct SignedOutPage<'a> {
    look: &'a Look,
    onward: &'a str,
}

fn expire_all_cookies(endpoints: &Endpoints, asked: &Asked<'_>, response: &mut Response<Body>) {
    endpoints.expire_session_cookies(asked, response);
    refresh::expire_shown(endpoints, asked, response);
    let headers = response.headers_mut();
    headers.append(header::SET_COOKIE, endpoints.cookies.expire(Name::Loop));
    for (label, _) in endpoints.cookies.logins(asked.cookies).take(8) {
        if is_fit_for_a_name(label) {
            headers.append(header::SET_COOKIE, endpoints.cookies.expire(Name::Login(label)));
        }
    }
}

/// A provider that does not answer in this time is left alone.
const PATIENCE: Duration = Duration::from_millis(800);

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    // LO-08, LO-09
    #[tokio::test]
    async fn the_way_out_leads_on_or_says_what_is_left_to_do() {
        let look = Look { brand: "Example & Co".to_owned(), theme: "--accent: #06c;".to_owned() };
        let to_provider = go_on(&look, "/bye", &WayOut::At("https://op.example/logout".to_owned()));
        assert_eq!(
            (to_provider.status().as_u16(), &to_provider.headers()["location"]),
            (302, &"https://op.example/logout".parse().unwrap())
        );
        let home = go_on(&look, "/bye", &WayOut::None);
        assert_eq!((home.status().as_u16(), &home.headers()["location"]), (302, &"/bye".parse().unwrap()));
        let page = go_on(&look, "/bye\"><script>", &WayOut::Unknown);
        assert_eq!(page.status(), 200);
        let text = page.into_body().collect().await.unwrap().to_bytes();
        let text = std::str::from_utf8(&text).unwrap();
        assert!(text.contains("you may still be signed in there") && text.contains("/bye"), "{text}");
        assert!(!text.contains("<script>"), "{text}");
        assert!(
            text.contains("Example &#38; Co") && text.contains("<style>:root { --accent: #06c; }</style>"),
            "{text}"
        );
    }
}
