//! One connection of a client, from its first request to its last byte.

use super::stream::{Seated, Stream, Version};
use super::worker::{Door, stopped};
use crate::body::Body;
use crate::gateway::{Arrival, Informational, Peer};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};
use tower::Service;

/// Serves it until either side has enough.
pub async fn serve<S: Stream>(stream: Seated<S>, version: Version, peer: Peer, door: &Arc<Door>) {
    match version {
        Version::Http1 => serve_http1(stream, Arc::new(peer), door).await,
        Version::Http2 => serve_http2(stream, Arc::new(peer), door).await,
    }
}

async fn serve_http1<S: Stream>(stream: Seated<S>, peer: Arc<Peer>, door: &Arc<Door>) {
    let begun = Arc::new(AtomicBool::new(false));
    let informational = Informational::new(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
    let stream = stream.telling(&informational);
    let service = {
        let (door, begun) = (Arc::clone(door), Arc::clone(&begun));
        service_fn(move |request| {
            begun.store(true, Ordering::Relaxed);
            answer(&door, &peer, request, Some(Arc::clone(&informational)))
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
        service_fn(move |request| answer(&door, &peer, request, None))
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // WebSockets (RFC 8441).
        .enable_connect_protocol()
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
    informational: Option<Arc<Informational>>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
    let mut gateway = door.gateway.clone();
    let arrival = Arrival { request, peer: Arc::clone(peer), informational };
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
pub struct Place(Arc<AtomicUsize>);

impl Place {
    /// None when all are taken.
    pub fn take(door: &Door) -> Option<Place> {
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

/// Shedding must cost next to nothing, so nothing is read.
pub async fn turn_away<S: Stream>(mut stream: S) {
    let _ = timeout(Duration::from_secs(1), async {
        let _ = stream.write_all(TURNED_AWAY).await;
        let _ = stream.shutdown().await;
    })
    .await;
}

const TURNED_AWAY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// Longer than proxies in front keep theirs, so that it is they who close.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// hyper's least.
const SMALLEST_BUFFER: usize = 16 * 1024;
const MOST_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);
