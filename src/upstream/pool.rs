//! Connections to one server, kept while they are useful.
//!
//! HTTP/1.1 connections carry one exchange at a time and rest in between; the youngest goes first, so that those a burst has left behind
//! get old. HTTP/2 connections carry many, and stay where they are. A sweep closes what has become useless, requests or not.

use super::connect::{Connected, ConnectionSettings, Connector};
use super::http1::{Connection, Failure, Http1};
use super::http2::{self, Fate, Http2};
use super::{OnInformational, UpstreamError, retry};
use crate::body::{Body, BodyError};
use crate::clock::{Clock, Mono};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{sleep, timeout};

pub(super) struct Pool {
    connector: Connector,
    connect_timeout: Duration,
    limits: Limits,
    clock: Clock,
    kept: Mutex<Kept>,
    /// The server's last answer to "HTTP/2?"; true until it has said no.
    speaks_http2: AtomicBool,
    /// Many wait for one HTTP/2 connection instead of opening many.
    opening: tokio::sync::Mutex<()>,
}

struct Limits {
    idle_timeout: Duration,
    max_age: Duration,
    max_idle: usize,
}

#[derive(Default)]
struct Kept {
    /// HTTP/1.1, oldest first.
    idle: Vec<Idle>,
    http2: Vec<(Http2, Birth)>,
    is_swept: bool,
    /// The connector's count of address changes that this is up to date with.
    changes: u64,
}

struct Idle {
    connection: Connection,
    birth: Birth,
    since: Mono,
}

/// When and where a connection was opened.
#[derive(Clone, Copy)]
struct Birth {
    at: Mono,
    address: Option<SocketAddr>,
}

enum Opened {
    Http1(Connection, Birth),
    Http2(http2::Exchange),
}

impl Pool {
    pub(super) fn new(
        connector: Connector,
        connect_timeout: Duration,
        settings: &ConnectionSettings,
        clock: Clock,
    ) -> Pool {
        let limits = Limits {
            idle_timeout: settings.idle_timeout,
            max_age: settings.connection_max_age.unwrap_or(Duration::MAX),
            max_idle: settings.max_idle_connections,
        };
        let speaks_http2 = AtomicBool::new(connector.may_speak_http2());
        let kept = Mutex::default();
        Pool { connector, connect_timeout, limits, clock, kept, speaks_http2, opening: tokio::sync::Mutex::default() }
    }

    /// The `unsent` of a failure may go to another server: no server has seen it, or it may be sent twice.
    ///
    /// What is rare is boxed, here and below: a future is moved, and its size is paid for by every
    /// request.
    pub(super) async fn send(
        self: &Arc<Pool>,
        request: Request<Body>,
        told: Option<&OnInformational>,
        within: Duration,
    ) -> Result<Response<Body>, Failure> {
        // What is whole goes out in one piece.
        if request.body().is_end_stream() || matches!(request.body(), Body::Full(_)) {
            return timeout(within, self.exchange(request, told))
                .await
                .unwrap_or(Err(Failure::from(UpstreamError::Timeout)));
        }
        Box::pin(self.send_with_body(request, told, within)).await
    }

    async fn send_with_body(
        self: &Arc<Pool>,
        request: Request<Body>,
        told: Option<&OnInformational>,
        within: Duration,
    ) -> Result<Response<Body>, Failure> {
        let upload =
            Arc::new(Upload { moved: AtomicU64::new(self.clock.mono().0), awaits_client: AtomicBool::new(false) });
        let exchange = self.exchange(watch(request, &upload, &self.clock), told);
        tokio::pin!(exchange);
        loop {
            let quiet = self.clock.mono().since(Mono(upload.moved.load(Ordering::Relaxed)));
            let Some(left) = within.checked_sub(quiet).filter(|left| !left.is_zero()) else {
                let awaits_client = upload.awaits_client.load(Ordering::Relaxed);
                return Err(Failure { awaits_client, ..Failure::from(UpstreamError::Timeout) });
            };
            if let Ok(answer) = timeout(left, &mut exchange).await {
                return answer;
            }
        }
    }

    /// Tries kept connections first. One that the server closed meanwhile costs nothing: what was
    /// not sent goes to the next, and what may be sent twice goes to a new one.
    async fn exchange(
        self: &Arc<Pool>,
        mut request: Request<Body>,
        told: Option<&OnInformational>,
    ) -> Result<Response<Body>, Failure> {
        if request.headers().contains_key(header::UPGRADE) {
            return Box::pin(self.exchange_on_a_new_connection(request, told)).await;
        }
        if self.speaks_http2.load(Ordering::Relaxed) {
            return Box::pin(self.exchange_by_http2(request, told)).await;
        }
        while let Some(Idle { connection, birth, .. }) = self.take_idle() {
            match connection.exchange(request, told, self.way_back(birth)).await {
                Ok(response) => return Ok(response),
                Err(Failure { unsent: Some(unsent), .. }) => request = *unsent,
                Err(Failure { repeatable: Some(again), .. }) => {
                    return Box::pin(self.exchange_on_a_new_connection(*again, told)).await;
                }
                Err(failure) => return Err(failure),
            }
        }
        if self.connector.may_speak_http2() {
            return Box::pin(self.exchange_by_http2(request, told)).await;
        }
        Box::pin(self.exchange_on_a_new_connection(request, told)).await
    }

    /// On HTTP/1.1, whatever else the server speaks.
    async fn exchange_on_a_new_connection(
        self: &Arc<Pool>,
        request: Request<Body>,
        told: Option<&OnInformational>,
    ) -> Result<Response<Body>, Failure> {
        let connecting = self.in_time(async {
            let Connected { io, address, .. } = self.connector.connect_for_http1().await?;
            Ok((Connection::new(io).await?, self.birth(address)))
        });
        match connecting.await {
            Ok((connection, birth)) => connection.exchange(request, told, self.way_back(birth)).await,
            Err(error) => Err(unsent(error, request)),
        }
    }

    /// On HTTP/2, unless the server says no. What it has not processed (RFC 9113 §8.7) goes once more, to another connection.
    async fn exchange_by_http2(
        self: &Arc<Pool>,
        mut request: Request<Body>,
        told: Option<&OnInformational>,
    ) -> Result<Response<Body>, Failure> {
        let mut may_repeat = true;
        loop {
            let (exchange, is_new) = match self.take_room() {
                Some(exchange) => (exchange, false),
                None => match self.in_time(self.open()).await {
                    Ok(Opened::Http2(exchange)) => (exchange, true),
                    Ok(Opened::Http1(connection, birth)) => {
                        return connection.exchange(request, told, self.way_back(birth)).await;
                    }
                    Err(error) => return Err(unsent(error, request)),
                },
            };
            let spare = if may_repeat { retry::copy_if_whole(&request) } else { None };
            let http2::Failure { error, fate } = match exchange.send(request, self.connector.scheme()).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            request = match (fate, spare) {
                (Fate::Unsent(unsent), _) if !is_new => *unsent,
                (Fate::Unprocessed, Some(spare)) => spare,
                (Fate::Lost, Some(spare)) if !is_new && retry::is_repeatable(&spare) => spare,
                (Fate::Unsent(unsent), _) => return Err(Failure { unsent: Some(unsent), ..Failure::from(error) }),
                _ => return Err(Failure::from(error)),
            };
            may_repeat = false;
        }
    }

    /// A new connection, or room on one that somebody else has opened meanwhile.
    async fn open(self: &Arc<Pool>) -> io::Result<Opened> {
        let mut turn = None;
        if self.speaks_http2.load(Ordering::Relaxed) {
            turn = Some(self.opening.lock().await);
            if let Some(exchange) = self.take_room() {
                return Ok(Opened::Http2(exchange));
            }
        }
        if !self.speaks_http2.load(Ordering::Relaxed) {
            // Everyone needs a connection of their own.
            drop(turn.take());
        }
        let Connected { io, speaks_http2, address } = self.connector.connect().await?;
        self.speaks_http2.store(speaks_http2, Ordering::Relaxed);
        let birth = self.birth(address);
        if !speaks_http2 {
            return Ok(Opened::Http1(Connection::new(io).await?, birth));
        }
        let connection = Http2::new(io, &self.clock).await?;
        let exchange = connection.begin();
        let mut kept = self.kept();
        kept.http2.push((connection, birth));
        self.sweep_from_now_on(&mut kept);
        Ok(Opened::Http2(exchange))
    }

    async fn in_time<T>(&self, connecting: impl Future<Output = io::Result<T>>) -> Result<T, UpstreamError> {
        let too_late = |_| {
            let waited = format!("no connection within {:?}", self.connect_timeout);
            Err(io::Error::new(io::ErrorKind::TimedOut, waited))
        };
        timeout(self.connect_timeout, connecting).await.unwrap_or_else(too_late).map_err(UpstreamError::Connect)
    }

    fn birth(&self, address: Option<SocketAddr>) -> Birth {
        Birth { at: self.clock.mono(), address }
    }

    /// The youngest connection that is ready. One may not be, although its response was read: the
    /// server answered before it had the whole request, which still goes out.
    fn take_idle(&self) -> Option<Idle> {
        let now = self.clock.mono();
        let mut kept = self.kept();
        self.forget_vanished_addresses(&mut kept);
        let idle = &mut kept.idle;
        while let Some(at) = idle.iter_mut().rposition(|kept| kept.connection.is_closed() || kept.connection.is_ready())
        {
            let mut kept = idle.remove(at);
            if self.limits.keep(now, &kept) && kept.connection.is_ready() {
                return Some(kept);
            }
        }
        None
    }

    /// Room on the HTTP/2 connection that has most of it. When there is none and no more connections may be opened, it waits in line there.
    fn take_room(&self) -> Option<http2::Exchange> {
        let now = self.clock.mono();
        let mut kept = self.kept();
        self.forget_vanished_addresses(&mut kept);
        kept.http2.retain(|(connection, birth)| self.limits.keep_http2(now, connection, birth));
        let may_open = kept.http2.len() < MOST_HTTP2;
        let (widest, _) = kept.http2.iter().max_by_key(|(connection, _)| connection.room())?;
        (widest.room() > 0 || !may_open).then(|| widest.begin())
    }

    /// The connection returns when the response has been read to its end, and not before.
    fn way_back(self: &Arc<Pool>, birth: Birth) -> impl FnOnce(Connection) + Send + Unpin + use<> {
        let pool = Arc::clone(self);
        move |mut connection| {
            let mut kept = pool.kept();
            let is_of_use = kept.idle.len() < pool.limits.max_idle
                && (pool.connector.address_changes() == 0 || pool.connector.leads_to(birth.address));
            if is_of_use && !connection.is_closed() {
                kept.idle.push(Idle { connection, birth, since: pool.clock.mono() });
                pool.sweep_from_now_on(&mut kept);
            }
        }
    }

    fn forget_vanished_addresses(&self, kept: &mut Kept) {
        let changes = self.connector.address_changes();
        if kept.changes != changes {
            kept.changes = changes;
            kept.idle.retain(|idle| self.connector.leads_to(idle.birth.address));
            kept.http2.retain(|(_, birth)| self.connector.leads_to(birth.address));
        }
    }

    /// While anything is kept. It would be closed by the next request anyway, but there may be none.
    fn sweep_from_now_on(self: &Arc<Pool>, kept: &mut Kept) {
        if kept.is_swept {
            return;
        }
        kept.is_swept = true;
        let every = (self.limits.idle_timeout / 4).clamp(SWEEP_AT_MOST_EVERY, SWEEP_AT_LEAST_EVERY);
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                sleep(every).await;
                let Some(pool) = pool.upgrade() else { return };
                if !pool.sweep() {
                    return;
                }
            }
        });
    }

    /// Whether anything is left.
    fn sweep(&self) -> bool {
        self.connector.keep_addresses_fresh();
        let now = self.clock.mono();
        let mut kept = self.kept();
        self.forget_vanished_addresses(&mut kept);
        kept.idle.retain_mut(|idle| self.limits.keep(now, idle) && !idle.connection.is_closed());
        kept.http2.retain(|(connection, birth)| self.limits.keep_http2(now, connection, birth));
        kept.is_swept = !(kept.idle.is_empty() && kept.http2.is_empty());
        kept.is_swept
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limits {
    fn keep(&self, now: Mono, idle: &Idle) -> bool {
        now.since(idle.since) < self.idle_timeout && now.since(idle.birth.at) < self.max_age
    }

    fn keep_http2(&self, now: Mono, connection: &Http2, birth: &Birth) -> bool {
        !connection.is_closed() && connection.quiet_for(now) < self.idle_timeout && now.since(birth.at) < self.max_age
    }
}

fn unsent(error: UpstreamError, request: Request<Body>) -> Failure {
    Failure { unsent: Some(Box::new(request)), ..Failure::from(error) }
}

/// How a body goes out.
struct Upload {
    /// When the last piece of it did: it may take as long as it moves.
    moved: AtomicU64,
    /// The next piece has not come from the client.
    awaits_client: AtomicBool,
}

fn watch(request: Request<Body>, upload: &Arc<Upload>, clock: &Clock) -> Request<Body> {
    let (upload, clock) = (Arc::clone(upload), clock.clone());
    request.map(|body| Body::boxed(Watched { body, upload, clock }))
}

struct Watched {
    body: Body,
    upload: Arc<Upload>,
    clock: Clock,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        this.upload.awaits_client.store(polled.is_pending(), Ordering::Relaxed);
        if polled.is_ready() {
            this.upload.moved.store(this.clock.mono().0, Ordering::Relaxed);
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

/// Each carries up to a hundred exchanges at once.
const MOST_HTTP2: usize = 8;
const SWEEP_AT_MOST_EVERY: Duration = Duration::from_millis(50);
const SWEEP_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::super::connect::{Protocol, TlsSettings};
    use super::super::resolve::{Lookup, Resolver};
    use super::*;
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers every request with `text`.
    async fn server(text: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        address
    }

    fn settings(protocol: Protocol, dns_refresh: Duration) -> ConnectionSettings {
        ConnectionSettings {
            protocol,
            tls: TlsSettings::default(),
            idle_timeout: Duration::from_secs(3600),
            connection_max_age: None,
            max_idle_connections: 8,
            dns_refresh,
        }
    }

    fn pool(address: SocketAddr, protocol: Protocol, clock: &Clock) -> Arc<Pool> {
        let lookup: Lookup = Arc::new(move |_, _| Box::pin(async move { Ok(vec![address]) }));
        let settings = settings(protocol, Duration::from_secs(30));
        let resolver = Resolver::new("app.test".into(), 80, settings.dns_refresh, lookup, clock.clone());
        let connector = Connector::to_name(resolver, protocol);
        Arc::new(Pool::new(connector, Duration::from_secs(3), &settings, clock.clone()))
    }

    // RL-12
    #[tokio::test]
    async fn rl_12_a_connection_that_closes_right_after_its_use_costs_no_get() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            // Each connection answers one request, and closes when it has read another.
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    let _ = stream.read(&mut request).await;
                });
            }
        });
        let pool = pool(address, Protocol::Http1, &Clock::system());
        for _ in 0..20 {
            assert_eq!(ask(&pool).await, "ok");
        }
    }

    // RL-13
    #[tokio::test]
    async fn rl_13_a_server_that_hangs_is_told_from_a_client_that_does() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = pool(listener.local_addr().unwrap(), Protocol::Http1, &Clock::system());
        let whole = Body::boxed(Body::from("hello".to_owned()));
        let begun = Body::boxed(Stuck);
        for (body, awaits_client) in [(whole, false), (begun, true)] {
            let request = Request::post("/").header("host", "app.test").body(body).unwrap();
            let failure = pool.send(request, None, Duration::from_millis(200)).await.unwrap_err();
            assert!(matches!(failure.error, UpstreamError::Timeout));
            assert_eq!(failure.awaits_client, awaits_client);
        }
    }

    /// A body that never comes.
    struct Stuck;

    impl HttpBody for Stuck {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Pending
        }
    }

    // H2-16
    #[tokio::test]
    async fn h2_16_a_connection_that_went_silent_takes_no_more_requests() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, clock) = (listener.local_addr().unwrap(), Clock::system());
        let pool = pool(address, Protocol::Http2, &clock);
        let mut streams = Vec::new();
        for _ in 0..2 {
            let request = Request::get("/").header("host", "app.test").body(Body::Empty).unwrap();
            let sending = tokio::spawn({
                let pool = Arc::clone(&pool);
                async move { pool.send(request, None, Duration::from_millis(300)).await }
            });
            streams.push(timeout(Duration::from_secs(2), listener.accept()).await.expect("a new connection").unwrap());
            sleep(Duration::from_millis(50)).await;
            clock.advance(Duration::from_secs(60));
            assert!(sending.await.unwrap().is_err());
        }
    }

    async fn ask(pool: &Arc<Pool>) -> Bytes {
        let request = Request::get("/").header("host", "app.test").body(Body::Empty).unwrap();
        let answer = pool.send(request, None, Duration::from_secs(5)).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    }

    // OU-09, RL-28
    #[tokio::test]
    async fn ou_09_a_connection_to_an_address_that_has_vanished_is_not_used_again() {
        let (old, new) = (server("old").await, server("new").await);
        let address = Arc::new(Mutex::new(old));
        let leads_to = Arc::clone(&address);
        let lookup: Lookup = Arc::new(move |_, _| {
            let address = *leads_to.lock().unwrap();
            Box::pin(async move { Ok(vec![address]) })
        });
        let (clock, refresh) = (Clock::system(), Duration::from_secs(30));
        let settings = settings(Protocol::Http1, refresh);
        let resolver = Resolver::new("app.test".into(), 80, refresh, lookup, clock.clone());
        let connector = Connector::to_name(resolver, settings.protocol);
        let pool = Arc::new(Pool::new(connector, Duration::from_secs(3), &settings, clock.clone()));

        assert_eq!(ask(&pool).await, "old");
        *address.lock().unwrap() = new;
        assert_eq!(ask(&pool).await, "old", "known for less than `dns_refresh`");
        clock.advance(refresh);
        let changed = async {
            while pool.connector.address_changes() == 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), changed).await.expect("the sweep looks it up, requests or not");
        assert_eq!(ask(&pool).await, "new");
    }
}
