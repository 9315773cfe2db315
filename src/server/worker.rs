//! One worker: one thread, one runtime, its own sockets, its own connections to upstreams.

use super::Bound;
use crate::body::Body;
use crate::gateway::{Arrival, Gateway, Limits, Peer, Tunnels};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ipnet::IpNet;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tower::Service;

/// What every connection of a worker shares.
pub struct Door {
    /// The request path.
    pub gateway: Gateway,
    /// Whose forwarded headers count.
    pub trusted_proxies: Vec<IpNet>,
    /// Bounds.
    pub limits: Limits,
    /// WebSockets, which have left HTTP behind.
    pub tunnels: Tunnels,
    /// Open connections of all workers.
    pub open: Arc<AtomicUsize>,
    /// Turns true when the process is to stop.
    pub stop: watch::Receiver<bool>,
}

/// Accepts until told to stop, then lets requests finish; no longer than `drain`. Answers whether
/// all did.
pub async fn serve(sockets: Vec<Bound>, door: Door, drain: Duration) -> io::Result<bool> {
    let door = Arc::new(door);
    let connections = TaskTracker::new();
    let mut accepting = Vec::new();
    for socket in sockets {
        let (door, connections) = (Arc::clone(&door), connections.clone());
        accepting.push(match socket {
            Bound::Tcp(socket) => {
                let socket = TcpListener::from_std(socket)?;
                tokio::spawn(async move { accept_tcp(&socket, &door, &connections).await })
            }
            Bound::Unix(socket) => {
                let socket = UnixListener::from_std(socket)?;
                tokio::spawn(async move { accept_unix(&socket, &door, &connections).await })
            }
        });
    }
    for accept_loop in accepting {
        // An accept loop ends when it is told to; it does not panic.
        let _ = accept_loop.await;
    }
    connections.close();
    let finished = async {
        connections.wait().await;
        door.tunnels.closed().await;
    };
    Ok(timeout(drain, finished).await.is_ok())
}

async fn accept_tcp(socket: &TcpListener, door: &Arc<Door>, connections: &TaskTracker) {
    while let Some(accepted) = unless_stopped(&door.stop, socket.accept()).await {
        match accepted {
            Ok((stream, address)) => {
                // Without it small answers wait for the client's acknowledgement.
                let _ = stream.set_nodelay(true);
                give_up_on_clients_that_take_nothing(&stream, TAKE_WITHIN);
                let peer = Peer::at(address.ip(), &door.trusted_proxies);
                connections.spawn(welcome(stream, peer, Arc::clone(door)));
            }
            Err(error) => recover_from(&error).await,
        }
    }
}

/// What was sent and is not acknowledged, or not wanted, for so long ends the connection. A client
/// that is gone, or that asks and never reads, would keep it and the upstream's for ever.
fn give_up_on_clients_that_take_nothing(stream: &TcpStream, within: Duration) {
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(within));
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, within);
}

async fn accept_unix(socket: &UnixListener, door: &Arc<Door>, connections: &TaskTracker) {
    while let Some(accepted) = unless_stopped(&door.stop, socket.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let peer = Peer::on_a_unix_socket(!door.trusted_proxies.is_empty());
                connections.spawn(welcome(stream, peer, Arc::clone(door)));
            }
            Err(error) => recover_from(&error).await,
        }
    }
}

/// A client that went away before it was accepted is nothing; a process out of descriptors needs a
/// moment.
async fn recover_from(error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        tracing::error!(%error, "cannot accept connections");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn welcome<S: Stream>(stream: S, peer: Peer, door: Arc<Door>) {
    let Some(place) = Place::take(&door) else { return turn_away(stream).await };
    let deadline = sleep(door.limits.header_timeout);
    let version = tokio::select! {
        version = stream.version() => version,
        () = deadline => return,
        () = stopped(&door.stop) => return,
    };
    let stream = Seated { stream, _place: place };
    match version {
        Ok(Version::Http1) => serve_http1(stream, Arc::new(peer), &door).await,
        Ok(Version::Http2) => serve_http2(stream, Arc::new(peer), &door).await,
        Err(_) => {}
    }
}

async fn serve_http1<S: Stream>(stream: Seated<S>, peer: Arc<Peer>, door: &Arc<Door>) {
    let begun = Arc::new(AtomicBool::new(false));
    let service = {
        let (door, begun) = (Arc::clone(door), Arc::clone(&begun));
        service_fn(move |request| {
            begun.store(true, Ordering::Relaxed);
            answer(&door, &peer, request)
        })
    };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .max_buf_size((2 * door.limits.header_bytes).max(SMALLEST_BUFFER));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    tokio::select! {
        // Its errors are the client's: broken off, or no HTTP, which hyper has answered with a 400.
        _ = connection.as_mut() => return,
        () = too_slow(&begun, door.limits.header_timeout) => return,
        () = stopped(&door.stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn serve_http2<S: Stream>(stream: Seated<S>, peer: Arc<Peer>, door: &Arc<Door>) {
    let service = {
        let door = Arc::clone(door);
        service_fn(move |request| answer(&door, &peer, request))
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(door.limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stopped(&door.stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

fn answer(
    door: &Door,
    peer: &Arc<Peer>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
    let mut gateway = door.gateway.clone();
    let arrival = Arrival { request, peer: Arc::clone(peer) };
    async move { gateway.call(arrival).await }
}

/// Resolves when the first request has not begun in time. Later ones are under hyper's own timer.
async fn too_slow(begun: &AtomicBool, within: Duration) {
    sleep(within).await;
    if begun.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

/// One of `limits.connections`.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(door: &Door) -> Option<Place> {
        let most = door.limits.connections;
        let taken =
            door.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < most).then_some(open + 1));
        taken.is_ok().then(|| Place(Arc::clone(&door.open)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection with its place, which it keeps when it becomes a tunnel and leaves HTTP behind.
struct Seated<S> {
    stream: S,
    _place: Place,
}

impl<S: AsyncRead + Unpin> AsyncRead for Seated<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Seated<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Shedding must cost next to nothing, so nothing is read.
async fn turn_away<S: Stream>(mut stream: S) {
    let _ = timeout(Duration::from_secs(1), async {
        let _ = stream.write_all(TURNED_AWAY).await;
        let _ = stream.shutdown().await;
    })
    .await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// A connection that can be looked at before it is read.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// HTTP/2 begins with a preface that no HTTP/1 request begins with (RFC 9113 §3.4).
    fn version(&self) -> impl Future<Output = io::Result<Version>> + Send;
}

impl Stream for TcpStream {
    async fn version(&self) -> io::Result<Version> {
        let mut seen = [0; PREFACE.len()];
        let mut pause = Duration::from_millis(1);
        loop {
            let count = self.peek(&mut seen).await?;
            pause = (2 * pause).min(Duration::from_secs(1));
            match recognise(&seen[..count]) {
                Some(version) => return Ok(version),
                // What was seen stays readable, so readiness says nothing about more of it. Longer
                // and longer: clients that send one byte and wait must not cost a core.
                None => sleep(pause).await,
            }
        }
    }
}

impl Stream for UnixStream {
    /// Whoever is on this machine speaks HTTP/1.1 to us.
    async fn version(&self) -> io::Result<Version> {
        Ok(Version::Http1)
    }
}

/// None while it could still become either.
fn recognise(seen: &[u8]) -> Option<Version> {
    let length = seen.len().min(PREFACE.len());
    match seen[..length] == PREFACE[..length] {
        _ if seen.is_empty() => Some(Version::Http1),
        false => Some(Version::Http1),
        true if length == PREFACE.len() => Some(Version::Http2),
        true => None,
    }
}

async fn stopped(stop: &watch::Receiver<bool>) {
    // The sender goes only when the process does.
    let _ = stop.clone().wait_for(|stop| *stop).await;
}

async fn unless_stopped<T>(stop: &watch::Receiver<bool>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = stopped(stop) => None,
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TURNED_AWAY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// Longer than proxies in front keep theirs, so that it is they who close.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// As nginx has it (`send_timeout`).
const TAKE_WITHIN: Duration = Duration::from_secs(60);
/// hyper's least.
const SMALLEST_BUFFER: usize = 16 * 1024;
const MOST_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_by_the_first_bytes() {
        assert_eq!(recognise(PREFACE), Some(Version::Http2));
        assert_eq!(recognise(b"GET / HTTP/1.1\r\n"), Some(Version::Http1));
        assert_eq!(recognise(b"PRI * HTTP/1.1\r\n"), Some(Version::Http1));
        assert_eq!(recognise(b"PRI"), None);
        assert_eq!(recognise(b""), Some(Version::Http1), "it was closed");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_client_that_never_reads_loses_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        give_up_on_clients_that_take_nothing(&server, Duration::from_millis(500));
        let endless = async { while server.write_all(&[0; 64 * 1024]).await.is_ok() {} };
        assert!(timeout(Duration::from_secs(15), endless).await.is_ok());
        drop(client);
    }
}
