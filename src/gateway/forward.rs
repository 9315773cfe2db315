//! Step 7: to one of our endpoints, or to the upstream and back. Only this file writes forwarded
//! headers.

use super::{Boxed, Complete, Exchange, HeaderEdits, Parts, RouteSettings, Target, headers};
use crate::body::{Body, Stalled};
use crate::endpoints;
use crate::facts::{Facts, X_REQUEST_ID};
use crate::reply::{self, Asker, Refusal};
use crate::session::{Session, cookie};
use crate::upstream::{Switched, Upstream, UpstreamError};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tower::Service;

#[derive(Clone)]
pub struct Forward {
    parts: Arc<Parts>,
}

impl Forward {
    pub fn new(parts: &Arc<Parts>) -> Forward {
        Forward { parts: Arc::clone(parts) }
    }
}

impl Service<Complete> for Forward {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Boxed;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, complete: Complete) -> Boxed {
        let exchange = Arc::clone(&complete.exchange);
        match &exchange.route.target {
            Target::Endpoint(endpoint) => {
                let (parts, endpoint) = (Arc::clone(&self.parts), endpoint.clone());
                Box::pin(async move { Ok(to_endpoint(&parts, &endpoint, complete).await) })
            }
            Target::Upstream(upstream) => {
                let upstream = Arc::clone(upstream);
                let parts = Arc::clone(&self.parts);
                Box::pin(async move { Ok(to_upstream(&upstream, &parts, complete).await) })
            }
        }
    }
}

async fn to_endpoint(parts: &Parts, endpoint: &endpoints::Endpoint, complete: Complete) -> Response<Body> {
    let Complete { exchange, message, session, .. } = complete;
    let asked =
        endpoints::Asked { facts: &exchange.facts, cookies: &exchange.cookies, session, headers: message.headers };
    parts.endpoints.answer(endpoint, asked, message.body).await
}

async fn to_upstream(upstream: &Upstream, parts: &Parts, complete: Complete) -> Response<Body> {
    let Complete { exchange, message, session, client, target } = complete;
    let (facts, settings) = (&exchange.facts, &exchange.route.settings);
    let asker = Asker { id: &facts.id, client: facts.client };

    let too_large = Arc::new(AtomicBool::new(false));
    let body = match settings.max_body {
        Some(limit) if message.body.size_hint().lower() > limit => {
            return reply::refuse(asker, &Refusal::BodyTooLarge);
        }
        Some(limit) if !message.body.is_end_stream() => message.body.limited(limit, Arc::clone(&too_large)),
        _ => message.body,
    };
    let mut request = Request::new(body);
    *request.method_mut() = message.method;
    let Some(target) = target else {
        return reply::refuse(asker, &Refusal::NotFound);
    };
    *request.uri_mut() = Uri::from(target);
    *request.headers_mut() = message.headers;
    edit(request.headers_mut(), &settings.request_headers);
    write_forwarded(request.headers_mut(), facts);
    if exchange.upgrade.is_some() {
        ask_for_a_websocket(request.headers_mut());
    }

    match upstream.send(request, exchange.route.response_timeout()).await {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            switch(parts, &exchange, session.as_deref(), response)
        }
        Ok(mut response) => {
            // The version is each connection's own.
            *response.version_mut() = Version::HTTP_11;
            clean(response.headers_mut(), settings);
            if (session.is_some() || client.is_some()) && exchange.route.relies_on_session() {
                keep_out_of_shared_caches(response.headers_mut());
            }
            if is_event_stream(response.headers()) {
                let end = parts.tunnels.end(session.map(|session| parts.sessions.hold(&session)));
                response = response.map(|body| body.until(async { _ = end.await }));
            }
            response
        }
        Err(_) if too_large.load(Ordering::Relaxed) => reply::refuse(asker, &Refusal::BodyTooLarge),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(upstream = upstream.settings().name, request = %facts.id, cause, "{error}");
            let refusal = match error {
                UpstreamError::RequestBody(cause) if Stalled::caused(cause.as_ref()) => Refusal::RequestTimeout,
                UpstreamError::RequestBody(_) => {
                    Refusal::Malformed("the body of the request broke off, or is malformed")
                }
                UpstreamError::Timeout => Refusal::UpstreamTimeout,
                UpstreamError::Connect(_) | UpstreamError::Broken(_) => Refusal::UpstreamBroken,
            };
            reply::refuse(asker, &refusal)
        }
    }
}

fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in &edits.set {
        headers.insert(name, value.clone());
    }
}

fn write_forwarded(headers: &mut HeaderMap, facts: &Facts) {
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, facts.authority.clone());
    }
    if let Some(chain) = &facts.forwarded_for {
        headers.insert(X_FORWARDED_FOR, chain.clone());
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(facts.scheme.as_str()));
    headers.insert(X_FORWARDED_HOST, facts.public_host.clone());
    if let Some(forwarded) = &facts.forwarded {
        headers.insert(header::FORWARDED, forwarded.clone());
    }
    headers.insert(X_REQUEST_ID, facts.id.as_header().clone());
    if !headers.contains_key(TRACEPARENT)
        && let Some(parent) = facts.id.as_trace_parent()
    {
        headers.insert(TRACEPARENT, parent);
    }
}

fn ask_for_a_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// A 101 counts only when a WebSocket was asked for and is what comes (RFC 9110 §7.8).
fn switch(
    parts: &Parts,
    exchange: &Exchange,
    session: Option<&Session>,
    mut response: Response<Body>,
) -> Response<Body> {
    let switches_to_websocket = response
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let client = exchange.upgrade.clone().filter(|_| switches_to_websocket);
    let (Some(client), Some(upstream)) = (client, Switched::take(&mut response)) else {
        let asker = Asker { id: &exchange.facts.id, client: exchange.facts.client };
        return reply::refuse(asker, &Refusal::UpstreamBroken);
    };
    let hold = session.map(|session| parts.sessions.hold(session));
    parts.tunnels.open(client, upstream, hold);
    clean(response.headers_mut(), &exchange.route.settings);
    ask_for_a_websocket(response.headers_mut());
    response
}

/// The upstream's answer goes back as it is, without what ends at this hop and what only we say.
fn clean(response: &mut HeaderMap, settings: &RouteSettings) {
    headers::strip_hop_by_hop(response);
    headers::strip_our_words(response);
    cookie::strip_foreign_claims(response);
    edit(response, &settings.response_headers);
}

/// Server-sent events never end of themselves. When their session ends they do, in good order: the browser connects again and learns
/// that nobody is signed in; when the gateway stops, it meets another one.
fn is_event_stream(response: &HeaderMap) -> bool {
    let content_type = response.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
}

/// `Authorization` keeps shared caches away (RFC 9111 §3.5), and the upstream may count on it. The
/// caches between us and the browser see a cookie, which does not.
fn keep_out_of_shared_caches(response: &mut HeaderMap) {
    if !speaks_of_shared_caches(response) {
        response.append(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

fn speaks_of_shared_caches(headers: &HeaderMap) -> bool {
    headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|directive| {
            let name = directive.split('=').next().unwrap_or_default().trim();
            SHARED_CACHE_DIRECTIVES.iter().any(|known| name.eq_ignore_ascii_case(known))
        })
    })
}

/// With one of these the upstream has said what shared caches may do. `must-revalidate` would say it
/// too, but is in use for another thing: what to do when the answer is stale.
const SHARED_CACHE_DIRECTIVES: [&str; 4] = ["public", "private", "no-store", "s-maxage"];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
