//! HTTP/1.1 connections to one server, kept while they are useful.

use super::UpstreamError;
use super::connect::Connector;
use super::http1::{Connection, Failure, Http1};
use crate::body::{Body, BodyError};
use crate::clock::{Clock, Mono};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::timeout;

pub(super) struct Pool {
    connector: Connector,
    connect_timeout: Duration,
    clock: Clock,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Mono,
}

impl Pool {
    pub(super) fn new(connector: Connector, connect_timeout: Duration, clock: Clock) -> Pool {
        Pool { connector, connect_timeout, clock, idle: Mutex::default() }
    }

    /// What is rare is boxed, here and below: a future is moved, and its size is paid for by every
    /// request.
    pub(super) async fn send(
        self: &Arc<Pool>,
        request: Request<Body>,
        within: Duration,
    ) -> Result<Response<Body>, UpstreamError> {
        // What is there already goes out at once; the rest, by and by.
        if matches!(request.body(), Body::Full(_)) || request.body().is_end_stream() {
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
        while let Some(Idle { connection, since }) = self.take_idle() {
            let has_rested = self.clock.mono().since(since) >= RESTED;
            let spare = if has_rested { copy_if_repeatable(&request) } else { None };
            match connection.exchange(request, self.way_back()).await {
                Ok(response) => return Ok(response),
                Err(Failure { unsent: Some(unsent), .. }) => request = *unsent,
                Err(Failure { error, was_closed, .. }) => match spare.filter(|_| was_closed) {
                    Some(spare) => return Box::pin(self.exchange_on_a_new_connection(spare)).await,
                    None => return Err(error),
                },
            }
        }
        Box::pin(self.exchange_on_a_new_connection(request)).await
    }

    async fn exchange_on_a_new_connection(
        self: &Arc<Pool>,
        request: Request<Body>,
    ) -> Result<Response<Body>, UpstreamError> {
        let connect = async { Connection::new(self.connector.connect().await?).await };
        let connection = match timeout(self.connect_timeout, connect).await {
            Ok(connected) => connected.map_err(UpstreamError::Connect)?,
            Err(_) => return Err(UpstreamError::Timeout),
        };
        connection.exchange(request, self.way_back()).await.map_err(|failure| failure.error)
    }

    /// The youngest connection that is ready. One may not be, although its response was read: the
    /// server answered before it had the whole request, which still goes out.
    fn take_idle(&self) -> Option<Idle> {
        let now = self.clock.mono();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.last().is_some_and(|youngest| now.since(youngest.since) >= KEEP_IDLE) {
            idle.clear();
        }
        while let Some(at) = idle.iter_mut().rposition(|kept| kept.connection.is_closed() || kept.connection.is_ready())
        {
            let mut kept = idle.remove(at);
            if !kept.connection.is_closed() && now.since(kept.since) < KEEP_IDLE {
                return Some(kept);
            }
        }
        None
    }

    /// The connection returns when the response has been read to its end, and not before.
    fn way_back(self: &Arc<Pool>) -> impl FnOnce(Connection) + Send + Unpin + use<> {
        let pool = Arc::clone(self);
        move |mut connection| {
            let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MOST_IDLE && !connection.is_closed() {
                idle.push(Idle { connection, since: pool.clock.mono() });
            }
        }
    }
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
