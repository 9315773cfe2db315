//! One connection of a client, from its first request to its last byte.

use super::lingering;
use super::parking::{self, Readable};
use super::stream::{self, Seated, Stream};
use super::timing::{Answer, Finding, Flow, Flowing, Marked, Marks, Open, Times, Watchdog};
use super::worker::{Door, stopped};
use crate::body::{Body, Pace, Upload};
use crate::facts::{RequestId, X_REQUEST_ID};
use crate::gateway::{Arrival, Gateway, Informational, Peer};
use crate::policy::Client;
use crate::reply::{self, Asker, Refusal};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower::Service;

/// Serves it until either side has enough. It was accepted at `since`.
///
/// The future is what an idle connection costs, so what it does not need while it waits is behind a pointer.
pub async fn serve<S: Stream + Readable>(
    stream: Seated<S>,
    version: stream::Version,
    peer: Peer,
    door: &Arc<Door>,
    since: Instant,
) {
    let peer = Arc::new(peer);
    match version {
        stream::Version::Http1 => serve_http1(stream, peer, door, since).await,
        stream::Version::Http2 => Box::pin(serve_http2(stream, peer, door, since)).await,
    }
}

/// As often as there is something to serve.
async fn serve_http1<S: Stream + Readable>(
    mut stream: Seated<S>,
    peer: Arc<Peer>,
    door: &Arc<Door>,
    mut since: Instant,
) {
    let marks = Arc::new(Marks::default());
    let informational = Informational::new(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
    stream = stream.telling(&informational);
    let mut ahead = Bytes::new();
    loop {
        let serving = serve_http1_until_it_rests(stream, ahead, Arc::clone(&peer), door, &marks, &informational, since);
        let Some(resting) = Box::pin(serving).await else { return };
        Resting { stream, ahead, since } = resting;
        let times = times(door, &stream.place);
        let deadline = since + times.until_a_request(&marks);
        if ahead.is_empty() && !parking::goes_on(&stream.stream, deadline, &door.stop).await {
            return;
        }
    }
}

/// A connection with nothing under way, taken apart.
struct Resting<S> {
    stream: Seated<S>,
    /// The beginning of a next request.
    ahead: Bytes,
    since: Instant,
}

async fn serve_http1_until_it_rests<S: Stream>(
    stream: Seated<S>,
    ahead: Bytes,
    peer: Arc<Peer>,
    door: &Arc<Door>,
    marks: &Arc<Marks>,
    informational: &Arc<Informational>,
    since: Instant,
) -> Option<Resting<S>> {
    if !ahead.is_empty() {
        marks.begin_head();
    }
    let place = stream.place.kind;
    let mut watchdog = Watchdog::new(marks, times(door, &stream.place), since);
    let service = {
        let (requests, informational) = (Requests::new(door, peer, marks, place), Arc::clone(informational));
        service_fn(move |request| requests.answer(request, None, Some(Arc::clone(&informational))))
    };
    let mut builder = http1::Builder::new();
    builder.max_buf_size((2 * door.limits.header_bytes).max(SMALLEST_BUFFER));
    if door.limits.header_count != HYPERS_HEADERS {
        builder.max_headers(door.limits.header_count);
    }
    let stream = TokioIo::new(Marked::http1(stream, ahead, marks));
    let mut connection = builder.serve_connection(stream, service).with_upgrades();
    // Who has not asked yet may be about to, and asks no second time when a first connection is closed.
    let grace = if marks.is_new() { FIRST_REQUEST_WITHIN } else { Duration::ZERO };
    let mut stop = StopSign::new(&door.stop, grace);
    loop {
        match next_event(Pin::new(&mut connection), &mut watchdog, &mut stop).await {
            Event::Over(ended) => {
                // None: it is a tunnel now, and not ours any more.
                let stream = connection.into_parts()?.io.into_inner().stream;
                let is_no_http = ended.is_err_and(|error| error.is_parse()) && !marks.has_ended();
                if is_no_http || marks.leaves_a_rest() {
                    lingering::close(stream).await;
                }
                return None;
            }
            Event::Stopping => Pin::new(&mut connection).graceful_shutdown(),
            Event::Found(Finding::Resting { since }) => {
                let parts = connection.into_parts()?;
                let begins = parts.read_buf.iter().any(|byte| !b"\r\n".contains(byte));
                let ahead = if begins { parts.read_buf } else { Bytes::new() };
                return Some(Resting { stream: parts.io.into_inner().stream, ahead, since });
            }
            Event::Found(Finding::HeadTooSlow) => {
                let mut stream = connection.into_parts()?.io.into_inner().stream;
                if write_refusal(&mut stream, &Refusal::RequestTimeout).await.is_ok() {
                    lingering::close(stream).await;
                }
                return None;
            }
            Event::Found(Finding::IdleTooLong | Finding::NotReading | Finding::Abused) => return None,
        }
    }
}

async fn serve_http2<S: Stream>(stream: Seated<S>, peer: Arc<Peer>, door: &Arc<Door>, since: Instant) {
    let marks = Arc::new(Marks::default());
    let (place, address) = (stream.place.kind, peer.address);
    let times = times(door, &stream.place).without_rest();
    let mut watchdog = Watchdog::new(&marks, times, since);
    let streams = Streams { next: Arc::default(), within: door.limits.write_timeout, marks: Arc::clone(&marks) };
    let service = {
        let (requests, next) = (Requests::new(door, peer, &marks, place), Arc::clone(&streams.next));
        service_fn(move |request| {
            let flow = Arc::new(Flow::default());
            *next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&flow));
            requests.answer(request, Some(flow), None)
        })
    };
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // WebSockets (RFC 8441).
        .enable_connect_protocol()
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MOST_RESETS_BY_CLIENT)
        .max_local_error_reset_streams(MOST_RESETS_BY_US)
        .max_header_list_size(u32::try_from(door.limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN);
    let stream = TokioIo::new(Marked::http2(stream, &marks));
    let mut connection = pin!(builder.serve_connection(stream, service));
    let mut stop = StopSign::new(&door.stop, Duration::ZERO);
    let mut is_leaving = false;
    loop {
        match next_event(connection.as_mut(), &mut watchdog, &mut stop).await {
            Event::Over(_) | Event::Found(Finding::NotReading) => return,
            Event::Found(Finding::Abused) => {
                tracing::warn!(client = ?address, "a connection is closed: most of its requests were cancelled");
                return;
            }
            Event::Found(_) if is_leaving => return,
            // What it asks for before it hears of this is answered, however long that takes.
            Event::Stopping | Event::Found(_) => {
                connection.as_mut().graceful_shutdown();
                watchdog = Watchdog::new(&marks, times.until_it_goes(FAREWELL_WITHIN), Instant::now());
                is_leaving = true;
            }
        }
    }
}

/// What a connection is looked at for.
enum Event<T> {
    Over(T),
    Found(Finding),
    /// The gateway stops. Comes once.
    Stopping,
}

async fn next_event<C: Future>(
    mut connection: Pin<&mut C>,
    watchdog: &mut Watchdog,
    stop: &mut StopSign<'_>,
) -> Event<C::Output> {
    poll_fn(|cx| {
        if let Poll::Ready(output) = connection.as_mut().poll(cx) {
            return Poll::Ready(Event::Over(output));
        }
        // hyper would close on a request that has arrived in part.
        if !watchdog.waits_for_a_head() && stop.poll(cx).is_ready() {
            return Poll::Ready(Event::Stopping);
        }
        watchdog.poll(cx).map(Event::Found)
    })
    .await
}

/// The gateway's stopping, once.
struct StopSign<'a> {
    sign: &'a watch::Receiver<bool>,
    stopped: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
    state: StopState,
}

#[derive(PartialEq, Eq)]
enum StopState {
    New,
    Waiting,
    Told,
}

impl<'a> StopSign<'a> {
    /// `grace` later than the gateway's.
    fn new(sign: &'a watch::Receiver<bool>, grace: Duration) -> StopSign<'a> {
        let stopped = async move {
            stopped(sign).await;
            sleep(grace).await;
        };
        StopSign { sign, stopped: Box::pin(stopped), state: StopState::New }
    }

    /// To be polled by one task only: it is known since the first time, and after that this is one load.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let may_be = match self.state {
            StopState::New => true,
            StopState::Waiting => self.sign.has_changed().unwrap_or(true),
            StopState::Told => false,
        };
        if !may_be || self.stopped.as_mut().poll(cx).is_pending() {
            self.state = if self.state == StopState::Told { StopState::Told } else { StopState::Waiting };
            return Poll::Pending;
        }
        self.state = StopState::Told;
        Poll::Ready(())
    }
}

/// The tasks of a connection's HTTP/2 streams. The service leaves what its answer is watched by, and the task made of it comes next.
#[derive(Clone)]
struct Streams {
    next: Arc<Mutex<Option<Arc<Flow>>>>,
    within: Duration,
    marks: Arc<Marks>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, task: F) {
        match self.next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(flow) => tokio::spawn(Flowing::new(task, flow, self.within)),
            // What hyper spawns besides writes to a tunnel, as long as there is one.
            None => {
                let open = self.marks.begin_tunnel();
                tokio::spawn(async move {
                    task.await;
                    drop(open);
                })
            }
        };
    }
}

/// What the requests of one connection have in common.
struct Requests {
    door: Arc<Door>,
    /// The connection's own, so that a request counts no references to what the path works with.
    path: RefCell<Gateway>,
    peer: Arc<Peer>,
    marks: Arc<Marks>,
    place: PlaceKind,
}

impl Requests {
    fn new(door: &Arc<Door>, peer: Arc<Peer>, marks: &Arc<Marks>, place: PlaceKind) -> Requests {
        let path = RefCell::new(door.gateway.clone());
        Requests { door: Arc::clone(door), path, peer, marks: Arc::clone(marks), place }
    }

    fn answer(
        &self,
        request: Request<Incoming>,
        flow: Option<Arc<Flow>>,
        informational: Option<Arc<Informational>>,
    ) -> Answering {
        let open = self.marks.begin();
        let limits = &self.door.limits;
        let pace = (!request.body().is_end_stream()).then(|| {
            self.marks.begin_body();
            let within = (!is_a_call(&request)).then_some(limits.body_timeout);
            Pace::new(within, Arc::clone(&self.marks) as Arc<dyn Upload>)
        });
        let has_reserved = self.place == PlaceKind::Reserved;
        let is_last = has_reserved && request.version() < Version::HTTP_2;
        let is_shed = has_reserved && request.uri().path() != self.door.logout_path;
        let arrival = Arrival { request, peer: Arc::clone(&self.peer), pace, informational };
        let mut path = self.path.borrow_mut();
        let progress = match limits.request_timeout {
            _ if is_shed => {
                let refusal = refuse(arrival.request.headers(), &Refusal::Overloaded);
                Progress::Within { limited: Box::pin(async { (refusal, None) }) }
            }
            None => Progress::Unlimited { path: path.call(arrival) },
            Some(limit) => Progress::Within { limited: Box::pin(pass_within(limit, &mut path, arrival)) },
        };
        Answering { progress, is_last, watched: Some((open, flow)) }
    }
}

pin_project! {
    /// A request on its path. Not an `async` block, which would hold what it waits for twice, and be moved with it.
    struct Answering {
        #[pin]
        progress: Progress,
        // The connection closes after it.
        is_last: bool,
        // None when it is done.
        watched: Option<(Open, Option<Arc<Flow>>)>,
    }
}

pin_project! {
    #[project = ProgressOf]
    enum Progress {
        Unlimited { #[pin] path: <Gateway as Service<Arrival>>::Future },
        // With when the answer has to be complete.
        Within { limited: Pin<Box<dyn Future<Output = (Response<Body>, Option<Instant>)> + Send>> },
    }
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut response, deadline) = match this.progress.project() {
            ProgressOf::Unlimited { path } => {
                let Ok(response) = ready!(path.poll(cx));
                (response, None)
            }
            ProgressOf::Within { limited } => ready!(limited.as_mut().poll(cx)),
        };
        if *this.is_last {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let (open, flow) = this.watched.take().expect("a future is not polled after it is done");
        Poll::Ready(Ok(response.map(|body| Answer::new(body, open.answered(), flow, deadline))))
    }
}

/// A call of gRPC may have nothing to say for long; it brings a deadline of its own, and the connection's pings.
fn is_a_call(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && content_type.is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"))
}

/// With when the answer has to be complete. Too late, the request is given up, here and upstream.
fn pass_within(
    limit: Duration,
    path: &mut Gateway,
    mut arrival: Arrival,
) -> impl Future<Output = (Response<Body>, Option<Instant>)> + Send + use<> {
    let deadline = Instant::now() + limit;
    let id = RequestId::of(arrival.request.headers());
    // One id, whoever answers.
    arrival.request.headers_mut().insert(X_REQUEST_ID, id.to_header());
    let client = Client::of(arrival.request.method(), arrival.request.headers());
    let answered = path.call(arrival);
    async move {
        match timeout_at(deadline, answered).await {
            Ok(Ok(response)) => (response, Some(deadline)),
            Err(_) => {
                tracing::warn!(request = %id, "given up: limits.request_timeout");
                (reply::refuse(Asker { id: &id, client }, &Refusal::UpstreamTimeout), None)
            }
        }
    }
}

fn refuse(headers: &HeaderMap, refusal: &Refusal) -> Response<Body> {
    reply::refuse(Asker { id: &RequestId::of(headers), client: Client::Script }, refusal)
}

/// To a client whose request never became one.
async fn write_refusal<S: AsyncWrite + Unpin>(stream: &mut S, refusal: &Refusal) -> io::Result<()> {
    let (head, body) = refuse(&HeaderMap::new(), refusal).into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut bytes = format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", head.status, body.len()).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    timeout(FAREWELL_WITHIN, stream.write_all(&bytes)).await?
}

pub fn times(door: &Door, place: &Place) -> Times {
    let times = Times::of(&door.limits);
    match place.kind {
        PlaceKind::Regular => times,
        PlaceKind::Reserved => times.at_most(RESERVED_FOR),
    }
}

/// Open connections of all workers.
#[derive(Debug, Default)]
pub struct Places {
    regular: AtomicUsize,
    reserved: AtomicUsize,
}

impl Places {
    /// One of `most`; or one of a few more, which are for signing out; or None.
    pub fn take(self: &Arc<Places>, most: usize) -> Option<Place> {
        let kinds = [(PlaceKind::Regular, most), (PlaceKind::Reserved, RESERVED)];
        kinds.into_iter().find_map(|(kind, most)| {
            let free = |taken| (taken < most).then_some(taken + 1);
            self.taken(kind).fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
            Some(Place { places: Arc::clone(self), kind })
        })
    }

    fn taken(&self, kind: PlaceKind) -> &AtomicUsize {
        match kind {
            PlaceKind::Regular => &self.regular,
            PlaceKind::Reserved => &self.reserved,
        }
    }
}

/// One of [`Places`].
pub struct Place {
    places: Arc<Places>,
    kind: PlaceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlaceKind {
    /// One of `limits.connections`.
    Regular,
    /// Only to sign out, and not for long.
    Reserved,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken(self.kind).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Shedding must cost next to nothing, so nothing is looked at.
pub async fn turn_away<S: Stream>(mut stream: S) {
    let _ = timeout(TURNED_AWAY_WITHIN, async {
        if stream.write_all(TURNED_AWAY).await.is_ok() {
            lingering::close(stream).await;
        }
    })
    .await;
}

const TURNED_AWAY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const TURNED_AWAY_WITHIN: Duration = Duration::from_secs(1);
/// Places beyond `limits.connections`.
const RESERVED: usize = 64;
const RESERVED_FOR: Duration = Duration::from_secs(1);
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);
/// When the gateway stops.
pub const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(500);
/// hyper's least.
const SMALLEST_BUFFER: usize = 16 * 1024;
/// What hyper has room for without an allocation.
const HYPERS_HEADERS: usize = 100;
const MOST_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Of one stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams opened and reset before we have looked at them (CVE-2023-44487): a page that is left, seen by a worker that was busy.
const MOST_RESETS_BY_CLIENT: usize = MOST_STREAMS as usize;
/// Streams that a client made us reset (CVE-2025-8671).
const MOST_RESETS_BY_US: usize = 200;
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);
