//! Step 2: what is true of this request. Ambiguity is refused here, so that nobody below has to
//! wonder which of two readings a backend will take.
//!
//! Only this file reads forwarded headers, and only for peers in `server.trusted_proxies`.

use super::survey::RequestSurvey;
use super::trailers::{self, Screen};
use super::{
    Arrival, Exchange, InUse, Known, Message, Numbered, Parts, Route, Step, Verdict, cors, headers, observe, xsrf,
};
use crate::body::Body;
use crate::facts::{self, Facts, RequestId, Scheme};
use crate::policy::path::NormalPath;
use crate::policy::route::{Found, host_of};
use crate::policy::{self, Client};
use crate::reply::{self, Asker, Refusal};
use crate::session::{cookie, stand_in};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tower::Service;

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// None on a unix socket.
    pub address: Option<IpAddr>,
    /// Whether its forwarded headers count.
    pub trusted: bool,
    /// Its address as a header value, made once.
    forwarded_for: Option<HeaderValue>,
    /// The last `Forwarded` and what it was made of: a connection rarely changes hosts.
    forwarded: Mutex<Option<(Hop, Option<HeaderValue>)>>,
}

/// What a `Forwarded` is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hop {
    client: Option<IpAddr>,
    host: HeaderValue,
    scheme: Scheme,
}

impl Peer {
    /// Someone on the network.
    #[must_use]
    pub fn at(address: IpAddr, trusted_proxies: &[ipnet::IpNet]) -> Peer {
        let address = address.to_canonical();
        Peer {
            address: Some(address),
            trusted: trusted_proxies.iter().any(|net| net.contains(&address)),
            forwarded_for: HeaderValue::try_from(address.to_string()).ok(),
            forwarded: Mutex::default(),
        }
    }

    /// Someone on this machine, through a unix socket. Believed when any proxy is.
    #[must_use]
    pub fn on_a_unix_socket(trusted: bool) -> Peer {
        Peer { address: None, trusted, forwarded_for: None, forwarded: Mutex::default() }
    }

    fn forwarded(&self, hop: Hop) -> Option<HeaderValue> {
        let mut last = self.forwarded.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((made_of, forwarded)) if *made_of == hop => forwarded.clone(),
            _ => {
                let forwarded = facts::forwarded(hop.client, &hop.host, hop.scheme);
                // The client's own bytes would keep all that was read with them, for as long as the connection is there.
                *last = HeaderValue::from_bytes(hop.host.as_bytes())
                    .ok()
                    .map(|host| (Hop { host, ..hop }, forwarded.clone()));
                forwarded
            }
        }
    }
}

#[derive(Clone)]
pub struct Intake<S> {
    parts: Arc<Parts>,
    inner: S,
}

impl<S> Intake<S> {
    pub fn new(parts: &Arc<Parts>, inner: S) -> Intake<S> {
        Intake { parts: Arc::clone(parts), inner }
    }
}

impl<S> Service<Numbered> for Intake<S>
where
    S: Step<Known>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Decorated<Verdict<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, Numbered { arrival, survey, id, client }: Numbered) -> Self::Future {
        match read(&self.parts, arrival, &survey, id.clone(), client) {
            Ok((known, preflight)) => {
                let decoration = Decoration::of(&known);
                let verdict = match preflight {
                    Some(answer) => Verdict::answer(answer),
                    None => Verdict::Onward { rest: self.inner.call(known) },
                };
                Decorated { verdict, decoration }
            }
            Err(Rejection { refusal, readable_by }) => {
                let mut answer = reply::refuse(Asker { id: &id, client }, &refusal);
                if let Some((route, origin)) = &readable_by
                    && let Some(settings) = &route.settings.cors
                {
                    cors::decorate(settings, origin.as_ref(), &mut answer);
                }
                Decorated { verdict: Verdict::answer(answer), decoration: None }
            }
        }
    }
}

/// A refusal before there is anything to know.
struct Rejection {
    refusal: Refusal,
    /// The route whose CORS applies all the same, and the origin it allows.
    readable_by: Option<(Arc<Route>, Option<HeaderValue>)>,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Rejection {
        Rejection { refusal, readable_by: None }
    }
}

/// Reads the request once. A preflight on a route with CORS is answered at once.
fn read(
    parts: &Parts,
    arrival: Arrival,
    survey: &RequestSurvey,
    id: RequestId,
    client: Client,
) -> Result<(Known, Option<Response<Body>>), Rejection> {
    let Arrival { mut request, peer, pace, informational } = arrival;
    if survey.bytes + line_bytes(&request) > parts.limits.header_bytes {
        return Err(Refusal::HeadersTooLarge.into());
    }
    let is_websocket_over_http2 = take_websocket_over_http2(&mut request);
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refusal::MethodNotAllowed(vec![Method::GET, Method::HEAD, Method::POST]).into());
    }
    if request.version() == Version::HTTP_2 && request.headers().get_all(header::CONTENT_LENGTH).iter().nth(1).is_some()
    {
        // h2 compares the body with the first of them; in HTTP/1.1 hyper has seen to it.
        return Err(Refusal::Malformed("the request has two Content-Lengths").into());
    }
    let authority = authority_of(&request, survey.hosts)?;
    let host = host_of(authority.to_str().map_err(|_| Refusal::Host)?).map_err(|_| Refusal::Host)?;
    let path = normal_path(&request)?;
    if survey.authorizations > 1 {
        return Err(Refusal::Malformed("the request has two Authorization headers").into());
    }
    let is_preflight = policy::is_preflight(request.method(), request.headers());
    let route = find_route(parts, &host, &request, &path, is_preflight)?;
    if is_websocket_over_http2 && route.upstream().is_none() {
        // Any answer of success would open a tunnel to nobody.
        return Err(Refusal::MethodNotAllowed(vec![Method::GET]).into());
    }
    if path.has_encoded_slash() && !route.settings.allow_encoded_slash {
        return Err(Refusal::EncodedSlash.into());
    }
    let client_address = client_address(parts, &peer, request.headers());
    let scheme = scheme(parts, &peer, request.headers());
    let public_host = forwarded_host(&peer, request.headers()).unwrap_or(&authority).clone();
    let htmx = survey.htmx && request.headers().get(HX_REQUEST).is_some_and(|value| value == "true");
    let facts = Facts {
        id,
        now: parts.clock.now(),
        method: request.method().clone(),
        path,
        client,
        client_address,
        forwarded_for: forwarded_for(&peer, request.headers()),
        scheme,
        forwarded: peer.forwarded(Hop { client: client_address, host: public_host.clone(), scheme }),
        public_host,
        authority,
        referer: if survey.referer { request.headers().get(header::REFERER).cloned() } else { None },
        htmx,
        htmx_page: if htmx { request.headers().get(HX_CURRENT_URL).cloned() } else { None },
        stays_open: is_websocket_over_http2 || survey.stays_open,
    };
    let version = request.version();
    if version == Version::HTTP_2 {
        join_cookie_crumbs(request.headers_mut());
    }
    let cookies: Vec<HeaderValue> = match survey.cookies {
        true => request.headers().get_all(header::COOKIE).iter().cloned().collect(),
        false => Vec::new(),
    };
    let asks_for_a_websocket = is_websocket_over_http2 || (survey.upgrade && asks_for_a_websocket(&request));
    let upgrade = asks_for_a_websocket.then(|| hyper::upgrade::on(&mut request));
    let in_use = if is_websocket_over_http2 { request.extensions_mut().remove::<InUse>() } else { None };
    let has_trailers = trailers::may_follow(request.body(), version);

    let (head, body) = request.into_parts();
    let mut headers = head.headers;
    let announced: Vec<HeaderValue> =
        if has_trailers { headers.get_all(header::TRAILER).iter().cloned().collect() } else { Vec::new() };
    if survey.hop_by_hop {
        headers::strip_hop_by_hop(&mut headers);
    }
    if survey.claims_of_proxies {
        headers::strip_claims_of_proxies(&mut headers);
    }
    route.owned.strip(&mut headers);
    if survey.cookies {
        cookie::strip_ours(&mut headers);
    }
    let shows_stand_in = parts.captures && {
        let in_query = facts.path.query().is_some_and(|query| stand_in::is_in(query.as_bytes()));
        stand_in::strip(&mut headers) || in_query
    };
    let app_call =
        if is_preflight || is_websocket_over_http2 { None } else { route.app_call(&head.method, &facts.path) };

    let preflight = match &route.settings.cors {
        Some(settings) if is_preflight => Some(cors::preflight(settings, cors::allowed_origin(settings, &headers))),
        _ => None,
    };
    let body = match pace {
        Some(pace) if has_trailers => {
            let screen = Screen::Request(Arc::clone(&route));
            screen.announce(&announced, &mut headers);
            screen.put_on(Body::paced(body, pace))
        }
        Some(pace) => Body::paced(body, pace),
        None => Body::Empty,
    };
    let message = Message { method: head.method, headers, body };
    let exchange = Arc::new(Exchange {
        facts,
        route,
        cookies,
        over_http2: version == Version::HTTP_2,
        informational: informational.filter(|_| version == Version::HTTP_11),
        upgrade,
        in_use,
        app_call,
        shows_stand_in,
    });
    Ok((Known { exchange, message }, preflight))
}

/// Our own endpoints come first: no route can shadow them. A preflight takes the route of the
/// request it asks about.
fn find_route(
    parts: &Parts,
    host: &str,
    request: &Request<Incoming>,
    path: &NormalPath,
    is_preflight: bool,
) -> Result<Arc<Route>, Rejection> {
    if parts.endpoints.may_be_ours(&path.for_matching())
        && let Found::Route(index) = parts.endpoint_table.find(host, request.method(), path)
    {
        return Ok(Arc::clone(&parts.endpoint_routes[index]));
    }
    let asked_about = if is_preflight { request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD) } else { None };
    let asked_about = asked_about
        .map(|asked| Method::from_bytes(asked.as_bytes()))
        .transpose()
        .map_err(|_| Refusal::Malformed("the preflight asks about a method that is none"))?;
    match parts.table.find(host, asked_about.as_ref().unwrap_or(request.method()), path) {
        Found::Route(index) => Ok(Arc::clone(&parts.routes[index])),
        Found::MethodNotAllowed(methods) => {
            let readable_by = readable_by(parts, host, request, path, methods.first());
            Err(Rejection { refusal: Refusal::MethodNotAllowed(methods), readable_by })
        }
        Found::NotFound => Err(Refusal::NotFound.into()),
    }
}

/// Who may read that a path takes other methods: whoever may read what `method` gets there.
fn readable_by(
    parts: &Parts,
    host: &str,
    request: &Request<Incoming>,
    path: &NormalPath,
    method: Option<&Method>,
) -> Option<(Arc<Route>, Option<HeaderValue>)> {
    let Found::Route(index) = parts.table.find(host, method?, path) else { return None };
    let route = &parts.routes[index];
    let origin = cors::allowed_origin(route.settings.cors.as_ref()?, request.headers()).cloned();
    Some((Arc::clone(route), origin))
}

/// One authority, wherever it is written (RFC 9112 §3.2, RFC 9113 §8.3.1).
fn authority_of(request: &Request<Incoming>, hosts: usize) -> Result<HeaderValue, Refusal> {
    if hosts > 1 {
        return Err(Refusal::Host);
    }
    let host = request.headers().get(header::HOST);
    match (request.uri().authority(), host) {
        (Some(target), Some(host)) if !target.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) => {
            Err(Refusal::Host)
        }
        (Some(target), _) => HeaderValue::from_str(target.as_str()).map_err(|_| Refusal::Host),
        (None, Some(host)) => Ok(host.clone()),
        (None, None) => Err(Refusal::Host),
    }
}

fn normal_path(request: &Request<Incoming>) -> Result<NormalPath, Refusal> {
    let target = request.uri().path_and_query().ok_or(Refusal::Malformed("the request target has no path"))?;
    NormalPath::from_target(target).map_err(Refusal::Path)
}

/// HTTP/2 may split the one `Cookie` line; HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookie_crumbs(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// What the request line adds to the bytes of the headers.
fn line_bytes(request: &Request<Incoming>) -> usize {
    request.uri().path_and_query().map_or(1, |target| target.as_str().len())
}

/// The right-most address that is no trusted proxy's: everything left of it is hearsay.
fn client_address(parts: &Parts, peer: &Peer, headers: &HeaderMap) -> Option<IpAddr> {
    if !peer.trusted {
        return peer.address;
    }
    let mut nearest = peer.address;
    for hop in headers
        .get_all("x-forwarded-for")
        .iter()
        .rev()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.rsplit(','))
    {
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        let address = address.to_canonical();
        nearest = Some(address);
        if !parts.trusted_proxies.iter().any(|net| net.contains(&address)) {
            break;
        }
    }
    nearest
}

fn forwarded_host<'h>(peer: &Peer, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
    if peer.trusted { headers.get("x-forwarded-host") } else { None }
}

/// The chain as the upstream gets it.
fn forwarded_for(peer: &Peer, headers: &HeaderMap) -> Option<HeaderValue> {
    if !peer.trusted || !headers.contains_key("x-forwarded-for") {
        return peer.forwarded_for.clone();
    }
    let hops = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok());
    let mut chain: Vec<String> = hops
        .flat_map(|line| line.split(','))
        .filter_map(|hop| hop.trim().parse::<IpAddr>().ok())
        .map(|hop| hop.to_canonical().to_string())
        .collect();
    chain.extend(peer.address.map(|address| address.to_string()));
    HeaderValue::try_from(chain.join(", ")).ok()
}

fn scheme(parts: &Parts, peer: &Peer, headers: &HeaderMap) -> Scheme {
    let said = if peer.trusted { headers.get("x-forwarded-proto") } else { None };
    match said.map(HeaderValue::as_bytes) {
        Some(b"https") => Scheme::Https,
        Some(b"http") => Scheme::Http,
        _ if parts.external_url.scheme() == "https" => Scheme::Https,
        _ => Scheme::Http,
    }
}

/// A WebSocket over HTTP/2 (RFC 8441 §4) is a GET that switches, in other words; from here on it is one. Whether it was.
fn take_websocket_over_http2(request: &mut Request<Incoming>) -> bool {
    let is_one = request.method() == Method::CONNECT
        && request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    if is_one {
        *request.method_mut() = Method::GET;
    }
    is_one
}

/// RFC 6455 §4.1. Other upgrades are not passed on, h2c least of all.
fn asks_for_a_websocket(request: &Request<Incoming>) -> bool {
    let says = |name: header::HeaderName, wanted: &str| {
        request
            .headers()
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|member| member.trim().eq_ignore_ascii_case(wanted)))
    };
    request.method() == Method::GET && says(header::UPGRADE, "websocket") && says(header::CONNECTION, "upgrade")
}

/// What is added to the answer, whoever gives it.
struct Decoration {
    exchange: Arc<Exchange>,
    origin: Option<HeaderValue>,
    xsrf: Option<xsrf::Offer>,
}

impl Decoration {
    fn of(Known { exchange, message }: &Known) -> Option<Decoration> {
        let settings = &exchange.route.settings;
        if settings.cors.is_none() && settings.xsrf.is_none() && !observe::is_wanted() {
            return None;
        }
        let headers = &message.headers;
        let origin = settings.cors.as_ref().and_then(|cors| cors::allowed_origin(cors, headers)).cloned();
        let secure = exchange.facts.scheme == Scheme::Https;
        let offer = |xsrf| xsrf::Offer::to(xsrf, &message.method, headers, &exchange.cookies, secure);
        let xsrf = settings.xsrf.as_ref().and_then(offer);
        Some(Decoration { exchange: Arc::clone(exchange), origin, xsrf })
    }

    /// CORS and the XSRF cookie, refusals included; and what the access line needs to know.
    fn put_on(self, response: &mut Response<Body>) {
        let route = &self.exchange.route;
        if let Some(settings) = &route.settings.cors {
            cors::decorate(settings, self.origin.as_ref(), response);
        }
        if let Some(offer) = self.xsrf {
            offer.put_on(response);
        }
        let client = self.exchange.facts.client_address;
        response.extensions_mut().insert(Taken { route: Arc::clone(&route.name), client });
    }
}

/// What intake found out, for the access line. Travels as an extension of the response.
#[derive(Clone)]
pub struct Taken {
    /// The path of the route, as configured.
    pub route: Arc<str>,
    /// Who is asking, by trusted accounts.
    pub client: Option<IpAddr>,
}

pin_project_lite::pin_project! {
    /// An answer with its decoration.
    pub struct Decorated<F> {
        #[pin]
        verdict: F,
        decoration: Option<Decoration>,
    }
}

impl<F> Future for Decorated<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut outcome = ready!(this.verdict.poll(cx));
        if let (Some(decoration), Ok(response)) = (this.decoration.take(), &mut outcome) {
            decoration.put_on(response);
        }
        Poll::Ready(outcome)
    }
}

/// What htmx says of itself, and of the page it works on (htmx 2 and 4).
const HX_REQUEST: HeaderName = HeaderName::from_static("hx-request");
const HX_CURRENT_URL: HeaderName = HeaderName::from_static("hx-current-url");
