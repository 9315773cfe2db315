//! CORS (Fetch §3.2) on a route that has it: on every answer, refusals included, and preflights
//! answered here.

use super::headers::LOGIN;
use super::{Cors, Parts, Route};
use crate::body::Body;
use crate::policy::csrf::{self, Source};
use crate::policy::return_to;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

/// The `Origin` as sent, if this route lets its pages read answers.
#[must_use]
pub fn allowed_origin<'h>(cors: &Cors, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let text = origin.to_str().ok()?;
    allows(cors, text).then_some(origin)
}

/// Whether pages of `origin` may read answers.
#[must_use]
pub fn allows(cors: &Cors, origin: &str) -> bool {
    cors.allow_origins.iter().any(|allowed| allowed == "*" || allowed == origin)
}

/// Whose page made a request to `route`. Allowed is who is listed by name: `*` lets everyone read, and nobody act for who is signed in.
#[must_use]
pub fn source(parts: &Parts, route: &Route, headers: &HeaderMap) -> Source {
    let is_own = |origin: &str| return_to::same_origin(origin, &parts.external_url);
    let is_allowed =
        |origin: &str| route.settings.cors.iter().flat_map(|cors| &cors.allow_origins).any(|allowed| allowed == origin);
    csrf::source(headers, is_own, is_allowed)
}

/// The answer to a preflight. Without the allowing headers when the origin is not allowed.
#[must_use]
pub fn preflight(cors: &Cors, origin: Option<&HeaderValue>) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    if origin.is_some() {
        let methods: Vec<&str> = cors.allow_methods.iter().map(Method::as_str).collect();
        insert_list(headers, header::ACCESS_CONTROL_ALLOW_METHODS, &methods);
        let names: Vec<&str> = cors.allow_headers.iter().map(HeaderName::as_str).collect();
        insert_list(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, &names);
        if let Some(max_age) = cors.max_age {
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(max_age.as_secs()));
        }
    }
    response
}

/// Puts this route's headers on an answer, in place of the upstream's own.
pub fn decorate(cors: &Cors, origin: Option<&HeaderValue>, response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
    headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin else { return };
    let for_all = !cors.allow_credentials && cors.allow_origins.iter().any(|allowed| allowed == "*");
    let answer = if for_all { HeaderValue::from_static("*") } else { origin.clone() };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, answer);
    if cors.allow_credentials {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    let mut exposed: Vec<&str> = cors.expose_headers.iter().map(HeaderName::as_str).collect();
    if headers.contains_key(LOGIN) {
        exposed.extend(["latchgate-login", "latchgate-reason"]);
    }
    insert_list(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, &exposed);
}

fn insert_list(headers: &mut HeaderMap, name: HeaderName, members: &[&str]) {
    if !members.is_empty()
        && let Ok(value) = HeaderValue::try_from(members.join(", "))
    {
        headers.insert(name, value);
    }
}
