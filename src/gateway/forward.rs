//! Step 7: to one of our endpoints, or to the upstream and back. Only this file writes forwarded
//! headers.

use super::survey::AnswerSurvey;
use super::trailers::{self, Screen};
use super::{Boxed, Complete, Exchange, HeaderEdits, Informational, Parts, RouteSettings, Target, headers, websocket};
use crate::body::{Body, Stalled};
use crate::endpoints;
use crate::facts::{Facts, X_REQUEST_ID};
use crate::reply::{self, Asker, Refusal};
use crate::session::{Session, cookie};
use crate::upstream::{Switched, Upstream, UpstreamError};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::IpAddr;
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
                Box::pin(to_upstream(Arc::clone(upstream), Arc::clone(&self.parts), complete))
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

async fn to_upstream(
    upstream: Arc<Upstream>,
    parts: Arc<Parts>,
    complete: Complete,
) -> Result<Response<Body>, Infallible> {
    let Complete { exchange, message, session, client, target } = complete;
    let (facts, settings) = (&exchange.facts, &exchange.route.settings);
    let asker = Asker { id: &facts.id, client: facts.client };

    let mut too_large = None;
    let body = match settings.max_body {
        Some(limit) if message.body.size_hint().lower() > limit => {
            return Ok(reply::refuse(asker, &Refusal::BodyTooLarge));
        }
        Some(limit) if !message.body.is_end_stream() => {
            let tripped = Arc::clone(too_large.insert(Arc::new(AtomicBool::new(false))));
            message.body.limited(limit, tripped)
        }
        _ => message.body,
    };
    let mut request = Request::new(body);
    *request.method_mut() = message.method;
    let Some(target) = target else {
        return Ok(reply::refuse(asker, &Refusal::NotFound));
    };
    *request.uri_mut() = Uri::from(target);
    *request.headers_mut() = message.headers;
    edit(request.headers_mut(), &settings.request_headers);
    write_forwarded(request.headers_mut(), facts);
    let mut own_key = None;
    if exchange.upgrade.is_some() {
        ask_for_a_websocket(request.headers_mut());
        if exchange.over_http2 {
            let key = websocket::key();
            request.headers_mut().insert(header::SEC_WEBSOCKET_KEY, key.clone());
            request.headers_mut().entry(header::SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
            own_key = Some(key);
        }
    }

    let begin = |informational: &Arc<Informational>| informational.begin(&settings.response_headers.remove);
    let told = exchange.informational.as_ref().map(begin);
    let key = sticky_key(session.as_deref(), facts.client_address);
    let answer = upstream.send(request, told.as_ref(), exchange.route.response_timeout(), key).await;
    if let Some(informational) = &exchange.informational {
        informational.end();
    }
    Ok(match answer {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            switch(&parts, &exchange, session.as_deref(), own_key.as_ref(), response)
        }
        // Over HTTP/2 it would open the tunnel that the upstream has not opened.
        Ok(response) if own_key.is_some() && response.status().is_success() => {
            reply::refuse(asker, &Refusal::UpstreamBroken)
        }
        Ok(mut response) => {
            let has_trailers = trailers::may_follow(response.body(), response.version());
            // The version is each connection's own.
            *response.version_mut() = Version::HTTP_11;
            let announced: Vec<HeaderValue> = match has_trailers {
                true => response.headers().get_all(header::TRAILER).iter().cloned().collect(),
                false => Vec::new(),
            };
            let cleaned = clean(response.headers_mut(), settings);
            if has_trailers {
                response = with_trailers(response, &announced, &exchange);
            }
            if (session.is_some() || client.is_some()) && exchange.route.relies_on_session() {
                keep_out_of_shared_caches(response.headers_mut(), &cleaned);
            }
            if cleaned.is_event_stream {
                // It never ends of itself. When its session ends it does, in good order: the browser connects again and learns that
                // nobody is signed in; when the gateway stops, it meets another one.
                let end = parts.tunnels.end(session.map(|session| parts.sessions.hold(&session)));
                response = response.map(|body| body.until(async { _ = end.await }));
            }
            response
        }
        Err(_) if too_large.is_some_and(|tripped| tripped.load(Ordering::Relaxed)) => {
            reply::refuse(asker, &Refusal::BodyTooLarge)
        }
        Err(error) => {
            // Shedding has to be cheap, and the access line says it.
            if !matches!(error, UpstreamError::Overloaded { .. }) {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(upstream = upstream.settings().name, request = %facts.id, cause, "{error}");
            }
            let refusal = match error {
                UpstreamError::RequestBody(cause) if Stalled::caused(cause.as_ref()) => Refusal::RequestTimeout,
                UpstreamError::RequestBody(_) => {
                    Refusal::Malformed("the body of the request broke off, or is malformed")
                }
                UpstreamError::Timeout => Refusal::UpstreamTimeout,
                UpstreamError::Connect(error) if error.kind() == ErrorKind::TimedOut => Refusal::UpstreamTimeout,
                UpstreamError::Connect(_) | UpstreamError::Broken(_) => Refusal::UpstreamBroken,
                UpstreamError::Overloaded { retry_after } => {
                    let seconds = retry_after.as_millis().div_ceil(1000);
                    Refusal::UpstreamOverloaded { retry_after: u64::try_from(seconds).unwrap_or(u64::MAX) }
                }
            };
            reply::refuse(asker, &refusal)
        }
    })
}

/// Whose request it is, for an upstream that keeps people at one server: the session's, else the address's.
fn sticky_key(session: Option<&Session>, client_address: Option<IpAddr>) -> Option<u64> {
    if let Some(session) = session {
        return session.key.as_bytes().first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    }
    client_address.map(|address| match address {
        IpAddr::V4(address) => address.to_bits().into(),
        // The network: the other half of an address changes every day (RFC 8981).
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    })
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
    headers.insert(X_REQUEST_ID, facts.id.to_header());
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
    own_key: Option<&HeaderValue>,
    mut response: Response<Body>,
) -> Response<Body> {
    let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    let is_accepted = own_key.is_none_or(|key| accept.is_some_and(|accept| websocket::accepts(key, accept)));
    let switches_to_websocket = response
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let client = exchange.upgrade.clone().filter(|_| switches_to_websocket && is_accepted);
    let (Some(client), Some(upstream)) = (client, Switched::take(&mut response)) else {
        let asker = Asker { id: &exchange.facts.id, client: exchange.facts.client };
        return reply::refuse(asker, &Refusal::UpstreamBroken);
    };
    let hold = session.map(|session| parts.sessions.hold(session));
    parts.tunnels.open(client, upstream, hold);
    clean(response.headers_mut(), &exchange.route.settings);
    if own_key.is_some() {
        // RFC 8441 §5: no 101, and no key that is answered.
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
    } else {
        ask_for_a_websocket(response.headers_mut());
    }
    response
}

/// hyper sends an HTTP/1.1 client the trailer fields that it said it takes, and that `Trailer` names; an HTTP/2 client all of them.
fn with_trailers(mut response: Response<Body>, announced: &[HeaderValue], exchange: &Exchange) -> Response<Body> {
    if announced.is_empty() && !exchange.over_http2 {
        return response;
    }
    let screen = Screen::Response(Arc::clone(&exchange.route));
    screen.announce(announced, response.headers_mut());
    response.map(|body| screen.put_on(body))
}

/// The upstream's answer goes back as it is, without what ends at this hop and what only we say. Answers what it has then.
fn clean(response: &mut HeaderMap, settings: &RouteSettings) -> AnswerSurvey {
    let survey = AnswerSurvey::of(response);
    if survey.hop_by_hop {
        headers::strip_hop_by_hop_of_answer(response);
    }
    if survey.our_words {
        headers::strip_our_words(response);
    }
    if survey.sets_cookies {
        cookie::strip_foreign_claims(response);
    }
    if settings.response_headers.is_empty() {
        return survey;
    }
    edit(response, &settings.response_headers);
    AnswerSurvey::of(response)
}

/// `Authorization` keeps shared caches away (RFC 9111 §3.5), and the upstream may count on it. The
/// caches between us and the browser see a cookie, which does not.
fn keep_out_of_shared_caches(response: &mut HeaderMap, survey: &AnswerSurvey) {
    if !(survey.cache_control && speaks_of_shared_caches(response)) {
        response.append(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

fn speaks_of_shared_caches(headers: &HeaderMap) -> bool {
    headers.get_all(header::CACHE_CONTROL).iter().any(|value| {
        value.as_bytes().split(|&byte| byte == b',').any(|directive| {
            let name = directive.split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii();
            SHARED_CACHE_DIRECTIVES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
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
