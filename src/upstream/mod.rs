//! Backends: which server, over which connection, within which time.
//!
//! Each worker has its own [`Upstream`]s, so no connection crosses a core.

mod connect;
pub mod demo;
mod http1;
mod http2;
mod pool;
mod resolve;

use crate::body::{Body, BodyError};
use crate::clock::Clock;
use connect::Connector;
pub use connect::{ConnectionSettings, Protocol, TlsSettings};
use demo::DemoUpstream;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use pool::Pool;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// One `[upstreams.NAME]` table, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The table's name.
    pub name: String,
    /// `url` or `urls`; round robin when there are several.
    pub servers: Vec<ServerAddress>,
    /// `connect_timeout`, default 3 s.
    pub connect_timeout: Duration,
    /// How connections are made and kept.
    pub connection: ConnectionSettings,
    /// `response_timeout`, default 60 s: until the response head.
    pub response_timeout: Duration,
    /// `unauthorized`: what else means "not signed in".
    pub unauthorized: Unauthorized,
}

/// Where an upstream listens.
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

/// One backend, as one worker sees it.
pub struct Upstream {
    settings: Settings,
    servers: Vec<Server>,
    turn: AtomicUsize,
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
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamError::Connect(_) => f.write_str("no connection to the upstream"),
            UpstreamError::RequestBody(_) => f.write_str("the client's body broke off or was no HTTP"),
            UpstreamError::Broken(_) => f.write_str("the upstream's answer broke off or was no HTTP"),
            UpstreamError::Timeout => f.write_str("the upstream did not answer in time"),
        }
    }
}

impl std::error::Error for UpstreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UpstreamError::Connect(error) => Some(error),
            UpstreamError::RequestBody(error) | UpstreamError::Broken(error) => Some(&**error),
            UpstreamError::Timeout => None,
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

/// Who is told of 1xx answers (RFC 9110 §15.2): an extension of a request. 101 is none of them.
#[derive(Clone)]
pub struct OnInformational(pub Arc<dyn Fn(StatusCode, &HeaderMap) + Send + Sync>);

impl Upstream {
    /// No connection yet. `demo` answers for `demo:` servers; `tls` is used for `https://`.
    #[must_use]
    pub fn new(
        settings: Settings,
        demo: &Arc<DemoUpstream>,
        tls: &Arc<rustls::ClientConfig>,
        clock: &Clock,
    ) -> Upstream {
        let servers = settings
            .servers
            .iter()
            .map(|address| match address {
                ServerAddress::Demo => Server::Demo(Arc::clone(demo)),
                network => Server::Network(Arc::new(Pool::new(
                    Connector::new(network, &settings.connection, tls, clock),
                    settings.connect_timeout,
                    &settings.connection,
                    clock.clone(),
                ))),
            })
            .collect();
        Upstream { settings, servers, turn: AtomicUsize::new(0) }
    }

    /// The settings it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends `request`, whose target must be in origin form, and waits for the response head; no
    /// longer than `within` after the last piece of the body went out.
    ///
    /// # Errors
    /// When there is no head. The request may have arrived all the same.
    pub async fn send(&self, request: Request<Body>, within: Duration) -> Result<Response<Body>, UpstreamError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match &self.servers[turn % self.servers.len()] {
            Server::Network(pool) => pool.send(request, within).await,
            Server::Demo(demo) => Ok(answer_in_process(demo, request).await),
        }
    }
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
