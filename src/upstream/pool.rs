//! HTTP/1.1 connections to one server, kept while they are useful.

use super::{ServerAddress, UpstreamError};
use crate::body::{Body, BodyError};
use crate::clock::{Clock, Mono};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

pub(super) struct Pool {
    address: ServerAddress,
    connect_timeout: Duration,
    tls: Arc<rustls::ClientConfig>,
    clock: Clock,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: SendRequest<Body>,
    since: Mono,
}

impl Pool {
    pub(super) fn new(
        address: ServerAddress,
        connect_timeout: Duration,
        tls: Arc<rustls::ClientConfig>,
        clock: Clock,
    ) -> Pool {
        Pool { address, connect_timeout, tls, clock, idle: Mutex::default() }
    }

    /// What is rare is boxed, here and below: a future is moved, and its size is paid for by every
    /// request.
    pub(super) async fn send(
        self: &Arc<Pool>,
        request: Request<Body>,
        within: Duration,
    ) -> Result<Response<Body>, UpstreamError> {
        if request.body().is_end_stream() {
            return timeout(within, self.exchange(request)).await.unwrap_or(Err(UpstreamError::Timeout));
        }
        Box::pin(self.send_with_body(request, within)).await
    }

    async fn send_with_body(
        self: &Arc<Pool>,
        request: Request<Body>,
        within: Duration,
    ) -> Result<Response<Body>, UpstreamError> {
        let sent = Arc::new(AtomicU64::new(self.clock.mono().0));
        let exchange = self.exchange(watch(request, &sent, &self.clock));
        tokio::pin!(exchange);
        loop {
            let quiet = self.clock.mono().since(Mono(sent.load(Ordering::Relaxed)));
            let Some(left) = within.checked_sub(quiet).filter(|left| !left.is_zero()) else {
                return Err(UpstreamError::Timeout);
            };
            if let Ok(answer) = timeout(left, &mut exchange).await {
                return answer;
            }
        }
    }

    /// Tries kept connections first. One that the server closed meanwhile costs nothing: what was
    /// not sent goes to the next, and what is safe to send twice (RFC 9110 §9.2.2) goes to a new one.
    async fn exchange(self: &Arc<Pool>, mut request: Request<Body>) -> Result<Response<Body>, UpstreamError> {
        if request.headers().contains_key(header::UPGRADE) {
            return Box::pin(self.exchange_on_a_new_connection(request)).await;
        }
        while let Some(Idle { mut connection, since }) = self.take_idle() {
            let has_rested = self.clock.mono().since(since) >= RESTED;
            let spare = if has_rested { copy_if_repeatable(&request) } else { None };
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(self.keep_after(response, connection)),
                Err(mut failure) => match (failure.take_message(), spare) {
                    (Some(unsent), _) => request = unsent,
                    (None, Some(spare)) if is_closing(failure.error()) => {
                        return Box::pin(self.exchange_on_a_new_connection(spare)).await;
                    }
                    (None, _) => return Err(broken(failure.into_error())),
                },
            }
        }
        Box::pin(self.exchange_on_a_new_connection(request)).await
    }

    async fn exchange_on_a_new_connection(
        self: &Arc<Pool>,
        request: Request<Body>,
    ) -> Result<Response<Body>, UpstreamError> {
        let mut connection = match timeout(self.connect_timeout, self.connect()).await {
            Ok(connected) => connected.map_err(UpstreamError::Connect)?,
            Err(_) => return Err(UpstreamError::Timeout),
        };
        let response = connection.send_request(request).await.map_err(broken)?;
        Ok(self.keep_after(response, connection))
    }

    async fn connect(&self) -> io::Result<SendRequest<Body>> {
        match &self.address {
            ServerAddress::Tcp { tls, host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                if *tls {
                    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                    shake_hands(TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?).await
                } else {
                    shake_hands(stream).await
                }
            }
            ServerAddress::Unix(path) => shake_hands(UnixStream::connect(path).await?).await,
            ServerAddress::Demo => Err(io::Error::other("the built-in upstream has no connections")),
        }
    }

    /// The youngest connection that is ready. One may not be, although its response was read: the
    /// server answered before it had the whole request, which still goes out.
    fn take_idle(&self) -> Option<Idle> {
        let now = self.clock.mono();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.last().is_some_and(|youngest| now.since(youngest.since) >= KEEP_IDLE) {
            idle.clear();
        }
        while let Some(at) = idle.iter().rposition(|kept| kept.connection.is_closed() || kept.connection.is_ready()) {
            let kept = idle.remove(at);
            if !kept.connection.is_closed() && now.since(kept.since) < KEEP_IDLE {
                return Some(kept);
            }
        }
        None
    }

    fn put_back(&self, connection: SendRequest<Body>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE && !connection.is_closed() {
            idle.push(Idle { connection, since: self.clock.mono() });
        }
    }

    /// The connection returns when the response has been read to its end, and not before.
    fn keep_after(self: &Arc<Pool>, response: Response<Incoming>, connection: SendRequest<Body>) -> Response<Body> {
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return response.map(Body::Incoming);
        }
        response.map(|body| {
            if body.is_end_stream() {
                self.put_back(connection);
                return Body::Empty;
            }
            Body::boxed(Returning { body, way_back: Some((Arc::clone(self), connection)) })
        })
    }
}

async fn shake_hands<I>(io: I) -> io::Result<SendRequest<Body>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(false)
        .handshake(TokioIo::new(io))
        .await
        .map_err(io::Error::other)?;
    // Its errors reach whoever waits for the response.
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

/// A copy of a request that may be sent twice: safe, and without a body.
fn copy_if_repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    let repeatable =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) && request.body().is_end_stream();
    repeatable.then(|| {
        let mut copy = Request::new(Body::Empty);
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        copy.headers_mut().clone_from(request.headers());
        copy
    })
}

/// The server closed the connection without a word, as it may do at any time.
/// What the body of a request fails with is the only error of ours that hyper meets.
fn broken(error: hyper::Error) -> UpstreamError {
    if error.is_user() { UpstreamError::RequestBody(error) } else { UpstreamError::Broken(error) }
}

fn is_closing(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_closed() || error.is_canceled()
}

/// A response body that hands its connection back at its end.
struct Returning {
    body: Incoming,
    way_back: Option<(Arc<Pool>, SendRequest<Body>)>,
}

impl HttpBody for Returning {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => this.body.is_end_stream(),
            Poll::Ready(Some(Err(_))) => {
                this.way_back = None;
                false
            }
            Poll::Pending => false,
        };
        if ended && let Some((pool, connection)) = this.way_back.take() {
            pool.put_back(connection);
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Notes when the last piece of the body went out: an upload may take as long as it moves.
fn watch(request: Request<Body>, sent: &Arc<AtomicU64>, clock: &Clock) -> Request<Body> {
    let (sent, clock) = (Arc::clone(sent), clock.clone());
    request.map(|body| Body::boxed(Watched { body, sent, clock }))
}

struct Watched {
    body: Body,
    sent: Arc<AtomicU64>,
    clock: Clock,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_ready() {
            this.sent.store(this.clock.mono().0, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Servers close idle connections after a minute or so; better not to race them.
const KEEP_IDLE: Duration = Duration::from_secs(30);
const MOST_IDLE: usize = 256;
/// Servers close connections that have been idle for a while. One that was in use a moment ago is not
/// worth a copy of every request.
const RESTED: Duration = Duration::from_millis(100);
