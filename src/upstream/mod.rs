//! Backends: which server, over which connection, within which time.
//!
//! Each worker has its own [`Upstream`]s, so no connection crosses a core. What is known of the servers is one for the process:
//! [`UpstreamState`].
//!
//! | file | is about |
//! |---|---|
//! | `resolve`, `connect`, `pool`, `http1`, `http2` | addresses, new connections, kept ones, exchanges on them |
//! | `balance` | which of several servers |
//! | `health`, `checks` | which servers can be counted on: by their answers, by asking them |
//! | `limits`, `retry`, `breaker` | how much is under way, how often once more, when not at all |
//! | `state` | the last three rows as all workers share them |

pub mod balance;
pub mod breaker;
pub mod checks;
mod connect;
pub mod demo;
pub mod health;
mod http1;
mod http2;
pub mod limits;
mod pool;
mod resolve;
mod retry;
mod state;

pub use state::{ServerReport, UpstreamState};

use crate::body::{Body, BodyError};
use crate::clock::Clock;
use balance::{Balance, Candidate, Turns};
use connect::Connector;
pub use connect::{ConnectionSettings, Protocol, TlsSettings};
use demo::DemoUpstream;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use http1::Failure;
use limits::Permit;
use pool::Pool;
use retry::RetryBudget;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// One `[upstreams.NAME]` table, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The table's name.
    pub name: String,
    /// `url` or `urls`
    pub servers: Vec<ServerSettings>,
    /// `balance`, default `"round_robin"`.
    pub balance: Balance,
    /// `retries`, default 1: at other servers, of requests that are safe to send again.
    pub retries: u32,
    /// `ejection`: by failures in a row.
    pub ejection: health::Ejection,
    /// `health`: checks, if there are to be some.
    pub checks: Option<checks::Settings>,
    /// `slow_start`, default none: until a server that came back has its share.
    pub slow_start: Duration,
    /// `max_connections`, `max_requests` and who waits for a place.
    pub limits: limits::Settings,
    /// `breaker`, if there is to be one.
    pub breaker: Option<breaker::Settings>,
    /// `connect_timeout`, default 3 s.
    pub connect_timeout: Duration,
    /// How connections are made and kept.
    pub connection: ConnectionSettings,
    /// `response_timeout`, default 60 s: until the response head.
    pub response_timeout: Duration,
    /// `unauthorized`: what else means "not signed in".
    pub unauthorized: Unauthorized,
}

/// One of `urls`: an address, or `{ url, weight }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// `url`
    pub address: ServerAddress,
    /// `weight`, default 1, at most 100: its share in proportion to the others'.
    pub weight: u32,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// `http://host:port` or `https://host:port`.
    Tcp {
        /// TLS or not.
        tls: bool,
        /// A name or an address, without brackets.
        host: String,
        /// 80 or 443 by default.
        port: u16,
    },
    /// `unix:/run/app.sock`
    Unix(PathBuf),
    /// `demo:`, the built-in one.
    Demo,
}

/// `upstreams.X.unauthorized`: answers that mean what a 401 means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unauthorized {
    /// Statuses, default `[401]`.
    pub status: Vec<StatusCode>,
    /// A redirect whose `Location` path begins like this.
    pub location_prefix: Option<String>,
}

impl Unauthorized {
    /// Whether this answer says "not signed in".
    #[must_use]
    pub fn matches(&self, response: &Response<Body>) -> bool {
        self.status.contains(&response.status())
            || self.location_prefix.as_deref().is_some_and(|prefix| {
                response.status().is_redirection()
                    && response
                        .headers()
                        .get(http::header::LOCATION)
                        .and_then(|location| location.to_str().ok())
                        .is_some_and(|location| path_of(location).starts_with(prefix))
            })
    }
}

impl Settings {
    /// One server and no limits: there is nothing to choose or to count.
    fn is_plain(&self) -> bool {
        let limits = &self.limits;
        self.servers.len() == 1
            && limits.max_connections.is_none()
            && limits.max_requests.is_none()
            && self.breaker.is_none()
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = |tls: &bool| if *tls { "https" } else { "http" };
        match self {
            ServerAddress::Tcp { tls, host, port } if host.contains(':') => {
                write!(f, "{}://[{host}]:{port}", scheme(tls))
            }
            ServerAddress::Tcp { tls, host, port } => write!(f, "{}://{host}:{port}", scheme(tls)),
            ServerAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            ServerAddress::Demo => f.write_str("demo:"),
        }
    }
}

/// One backend, as one worker sees it.
pub struct Upstream {
    settings: Settings,
    servers: Vec<Server>,
    state: Arc<UpstreamState>,
    /// What tells the servers apart where a key has a home.
    names: Vec<u64>,
    /// None: there is one server, and nothing to count.
    choosing: Option<Mutex<Choosing>>,
    clock: Clock,
}

/// This worker's part in balancing.
struct Choosing {
    turns: Turns,
    budget: RetryBudget,
    /// Memory for one choice.
    candidates: Vec<Candidate>,
}

enum Server {
    Network(Arc<Pool>),
    Demo(Arc<DemoUpstream>),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum UpstreamError {
    /// No connection; in time, when it is [`io::ErrorKind::TimedOut`].
    Connect(io::Error),
    /// The client's body broke off, or was no HTTP, while it was passed on.
    RequestBody(BodyError),
    /// The connection broke before the response head was complete, or the head was no HTTP.
    Broken(BodyError),
    /// No response head in time.
    Timeout,
    /// Nothing was sent: it has as much to do as it may have, or the breaker is open.
    Overloaded {
        /// When to ask again.
        retry_after: Duration,
    },
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamError::Connect(_) => f.write_str("no connection to the upstream"),
            UpstreamError::RequestBody(_) => f.write_str("the client's body broke off or was no HTTP"),
            UpstreamError::Broken(_) => f.write_str("the upstream's answer broke off or was no HTTP"),
            UpstreamError::Timeout => f.write_str("the upstream did not answer in time"),
            UpstreamError::Overloaded { .. } => f.write_str("the upstream takes no more requests at the moment"),
        }
    }
}

impl std::error::Error for UpstreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UpstreamError::Connect(error) => Some(error),
            UpstreamError::RequestBody(error) | UpstreamError::Broken(error) => Some(&**error),
            UpstreamError::Timeout | UpstreamError::Overloaded { .. } => None,
        }
    }
}

/// Both directions of a connection that has left HTTP behind.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// The upstream's side of a tunnel: an extension of a 101.
#[derive(Clone)]
pub struct Switched(Arc<Mutex<Option<Box<dyn Duplex>>>>);

impl Switched {
    fn put(response: &mut Response<Body>, connection: Box<dyn Duplex>) {
        response.extensions_mut().insert(Switched(Arc::new(Mutex::new(Some(connection)))));
    }

    /// The connection, once.
    #[must_use]
    pub fn take(response: &mut Response<Body>) -> Option<Box<dyn Duplex>> {
        let Switched(connection) = response.extensions_mut().remove()?;
        connection.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Who is told of 1xx answers (RFC 9110 §15.2). 101 is none of them.
#[derive(Clone)]
pub struct OnInformational(pub Arc<Tell>);

/// Takes the status and the headers of a 1xx.
pub type Tell = dyn Fn(StatusCode, &HeaderMap) + Send + Sync;

impl Upstream {
    /// No connection yet. `state` is made of the same settings; `demo` answers for `demo:` servers; `tls` is used for `https://`.
    #[must_use]
    pub fn new(
        settings: Settings,
        state: &Arc<UpstreamState>,
        demo: &Arc<DemoUpstream>,
        tls: &Arc<rustls::ClientConfig>,
        clock: &Clock,
    ) -> Upstream {
        let servers = settings
            .servers
            .iter()
            .map(|server| match &server.address {
                ServerAddress::Demo => Server::Demo(Arc::clone(demo)),
                network => Server::Network(Arc::new(Pool::new(
                    Connector::new(network, &settings.connection, tls, clock),
                    settings.connect_timeout,
                    &settings.connection,
                    clock.clone(),
                ))),
            })
            .collect();
        let names = settings.servers.iter().map(|server| balance::name(&server.address.to_string())).collect();
        let choosing = (!settings.is_plain()).then(|| Mutex::new(Choosing::new(&settings.servers, clock)));
        Upstream { settings, servers, state: Arc::clone(state), names, choosing, clock: clock.clone() }
    }

    /// The settings it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends `request`, whose target must be in origin form, and waits for the response head; no
    /// longer than `within` after the last piece of the body went out. `key` is whose request it is,
    /// for `balance = "sticky"`; without one it is as with `"round_robin"`. `told` is told of 1xx answers, where the
    /// upstream's protocol lets us see them.
    ///
    /// # Errors
    /// When there is no head. The request may have arrived all the same.
    pub async fn send(
        &self,
        request: Request<Body>,
        told: Option<&OnInformational>,
        within: Duration,
        key: Option<u64>,
    ) -> Result<Response<Body>, UpstreamError> {
        match &self.choosing {
            None => self.servers[0].send(request, told, within).await.map_err(|failure| failure.error),
            Some(choosing) => Box::pin(self.send_to_one_of_them(choosing, request, told, within, key)).await,
        }
    }

    /// What was not sent, or may be sent twice, goes to another server when one fails: [`Failure::unsent`] is all that qualifies.
    async fn send_to_one_of_them(
        &self,
        choosing: &Mutex<Choosing>,
        mut request: Request<Body>,
        told: Option<&OnInformational>,
        within: Duration,
        key: Option<u64>,
    ) -> Result<Response<Body>, UpstreamError> {
        let call = self.state.admit()?;
        let until = self.clock.mono().after(within);
        lock(choosing).budget.deposit();
        let mut permit = self.enter(choosing, key).await?;
        let mut tried = Vec::new();
        let mut outcome = self.servers[permit.server()].send(request, told, within).await;
        loop {
            self.state.note(permit.server(), &outcome);
            request = match outcome {
                Err(Failure { unsent: Some(unsent), error, .. }) => {
                    tried.push(permit.server());
                    if !self.moves_on(choosing, key, &tried, &mut permit) {
                        outcome = Err(Failure::from(error));
                        break;
                    }
                    *unsent
                }
                _ => break,
            };
            let left = until.since(self.clock.mono());
            outcome = self.servers[permit.server()].send(request, told, left).await;
        }
        if let Some(call) = call {
            self.state.ended(call, &outcome);
        }
        outcome.map(|response| limits::hold(response, permit)).map_err(|failure| failure.error)
    }

    async fn enter(&self, choosing: &Mutex<Choosing>, key: Option<u64>) -> Result<Permit, UpstreamError> {
        let gauges = &self.state.gauges;
        let attempt = || if gauges.is_full() { None } else { gauges.admit(self.choose(choosing, key, &[])?) };
        if let Some(permit) = attempt() {
            return Ok(permit);
        }
        gauges.wait(attempt).await.ok_or(UpstreamError::Overloaded { retry_after: RETRY_SHED_AFTER })
    }

    /// Whether there is another server to try, a place at it, and a retry to spend.
    fn moves_on(&self, choosing: &Mutex<Choosing>, key: Option<u64>, tried: &[usize], permit: &mut Permit) -> bool {
        tried.len() <= self.settings.retries as usize
            && self
                .choose(choosing, key, tried)
                .is_some_and(|at| lock(choosing).budget.withdraw(self.clock.mono()) && permit.move_to(at))
    }

    /// A server that can be counted on, has a place and was not tried. Where none can be counted on, all are: better a server that
    /// may fail than none.
    fn choose(&self, choosing: &Mutex<Choosing>, key: Option<u64>, tried: &[usize]) -> Option<usize> {
        let state = &self.state;
        let mut choosing = lock(choosing);
        let Choosing { turns, candidates, .. } = &mut *choosing;
        candidates.clear();
        candidates.extend(self.settings.servers.iter().enumerate().map(|(at, server)| Candidate {
            weight: server.weight * state.servers.share(at),
            in_flight: state.gauges.in_flight(at),
        }));
        if candidates.iter().all(|candidate| candidate.weight == 0) {
            for (candidate, server) in candidates.iter_mut().zip(&self.settings.servers) {
                candidate.weight = server.weight * ALL_OF_IT;
            }
        }
        for (at, candidate) in candidates.iter_mut().enumerate() {
            if tried.contains(&at) || state.gauges.is_server_full(at) {
                candidate.weight = 0;
            }
        }
        match (self.settings.balance, key) {
            (Balance::Sticky, Some(key)) => balance::home(candidates, &self.names, key),
            (Balance::LeastRequests, _) => balance::less_busy(candidates, |below| fastrand::u64(..below)),
            (Balance::RoundRobin, _) | (Balance::Sticky, None) => turns.next(candidates),
        }
    }
}

impl Choosing {
    /// Begins at a random turn, or all workers would begin with the same server.
    fn new(servers: &[ServerSettings], clock: &Clock) -> Choosing {
        let candidates: Vec<Candidate> =
            servers.iter().map(|server| Candidate { weight: server.weight * ALL_OF_IT, in_flight: 0 }).collect();
        let mut turns = Turns::new(servers.len());
        let round: u32 = servers.iter().map(|server| server.weight).sum();
        for _ in 0..fastrand::u32(..round) {
            turns.next(&candidates);
        }
        Choosing { turns, budget: RetryBudget::new(clock.mono()), candidates }
    }
}

impl Server {
    async fn send(
        &self,
        request: Request<Body>,
        told: Option<&OnInformational>,
        within: Duration,
    ) -> Result<Response<Body>, Failure> {
        match self {
            Server::Network(pool) => pool.send(request, told, within).await,
            Server::Demo(demo) => Ok(answer_in_process(demo, request).await),
        }
    }
}

fn lock(choosing: &Mutex<Choosing>) -> MutexGuard<'_, Choosing> {
    choosing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The built-in upstream takes whole requests, and small ones.
async fn answer_in_process(demo: &DemoUpstream, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    match Limited::new(body, MOST_FOR_DEMO).collect().await {
        Ok(body) => demo.handle(Request::from_parts(head, body.to_bytes())).map(Body::boxed),
        Err(_) => {
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            response
        }
    }
}

/// The path of a `Location`, which may be a whole URL.
fn path_of(location: &str) -> &str {
    match location.parse::<Uri>() {
        Ok(uri) if uri.authority().is_some() => {
            location.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or("/")
        }
        _ => location,
    }
}

const MOST_FOR_DEMO: usize = 1024 * 1024;
/// Percent of its weight.
const ALL_OF_IT: u32 = 100;
const RETRY_SHED_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, location: Option<&str>) -> Response<Body> {
        let mut response = Response::builder().status(status);
        if let Some(location) = location {
            response = response.header("location", location);
        }
        response.body(Body::Empty).unwrap()
    }

    #[test]
    fn other_ways_to_say_not_signed_in() {
        let declared = Unauthorized {
            status: vec![StatusCode::UNAUTHORIZED, StatusCode::from_u16(419).unwrap()],
            location_prefix: Some("/signin".into()),
        };
        for (status, location, says_so) in [
            (401, None, true),
            (419, None, true),
            (403, None, false),
            (302, Some("/signin?next=/"), true),
            (302, Some("https://app.example.com/signin"), true),
            (302, Some("/home"), false),
            (302, Some("https://signin.example.com/"), false),
            (200, Some("/signin"), false),
        ] {
            assert_eq!(declared.matches(&answer(status, location)), says_so, "{status} {location:?}");
        }
    }
}
