//! What the timers of a client's connection go by.
//!
//! Requests do not pay for timers: whoever reads, writes and answers leaves [`Marks`], which are counters, and looks at no clock. A
//! [`Watchdog`] wakes up a few times in the shortest time that is allowed, looks at the marks and at the clock, and says what has
//! taken too long.

use crate::body::{Body, BodyError, Upload};
use crate::gateway::Limits;
use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What has happened on a connection.
#[derive(Debug, Default)]
pub struct Marks {
    requests: AtomicU32,
    /// Requests whose answer, or whose own body, is not over.
    open: AtomicU32,
    /// Bytes of a next request are there. HTTP/1 only: HTTP/2 has frames without a request.
    begun: AtomicBool,
    written: AtomicU64,
    /// The client does not take what is written.
    blocked: AtomicBool,
    /// The client has closed its side, or is gone.
    ended: AtomicBool,
    /// The body of the last request was not read to its end.
    unread: AtomicBool,
    /// Requests that the client gave up before they were answered.
    cancelled: AtomicU32,
}

impl Marks {
    /// A request has come; it is open until what is returned is gone.
    pub fn begin(self: &Arc<Marks>) -> Open {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.store(false, Ordering::Relaxed);
        self.unread.store(false, Ordering::Relaxed);
        Open { marks: Arc::clone(self), answered: false }
    }

    /// The request just begun may become a tunnel on its stream, which is open until what is returned is gone.
    pub fn begin_tunnel(self: &Arc<Marks>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open { marks: Arc::clone(self), answered: true }
    }

    /// The request just begun has a body. It is open until [`Upload::over`].
    pub fn begin_body(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of a next request are there already.
    pub fn begin_head(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether what was written is on its way.
    pub fn is_flushed(&self) -> bool {
        !self.blocked.load(Ordering::Relaxed)
    }

    /// Whether the client may still be sending what nobody will read.
    pub fn leaves_a_rest(&self) -> bool {
        self.unread.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed)
    }

    /// Whether the client has closed its side, or is gone.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether the client asks in order to cancel (CVE-2023-44487): more often than not, and often.
    fn is_abused(&self) -> bool {
        let cancelled = self.cancelled.load(Ordering::Relaxed);
        cancelled > MOST_CANCELLED && cancelled > self.requests.load(Ordering::Relaxed) / 2
    }

    fn phase(&self) -> Phase {
        if self.open.load(Ordering::Relaxed) > 0 {
            Phase::Answering
        } else if self.begun.load(Ordering::Relaxed) {
            Phase::Head
        } else {
            Phase::Idle
        }
    }

    fn seen(&self) -> Seen {
        Seen { phase: self.phase(), requests: self.requests.load(Ordering::Relaxed) }
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        self.blocked.store(polled.is_pending(), Ordering::Relaxed);
        match polled {
            Poll::Ready(Ok(count)) => _ = self.written.fetch_add(*count as u64, Ordering::Relaxed),
            Poll::Ready(Err(_)) => self.ended.store(true, Ordering::Relaxed),
            Poll::Pending => {}
        }
    }
}

impl Upload for Marks {
    fn over(&self, complete: bool) {
        self.unread.store(!complete, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Open {
    marks: Arc<Marks>,
    answered: bool,
}

impl Open {
    /// The answer is known, and is only to be sent.
    pub fn answered(mut self) -> Open {
        self.answered = true;
        self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.answered {
            self.marks.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        self.marks.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Answering,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    phase: Phase,
    requests: u32,
}

/// How long things may take on a connection.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From the first byte of a head to its last; and from the beginning of the connection to the first byte.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// While the client takes next to nothing of what is written.
    pub write: Duration,
    /// When a connection counts as resting; None: never.
    rest: Option<Duration>,
}

impl Times {
    /// As configured.
    pub fn of(limits: &Limits) -> Times {
        Times {
            head: limits.header_timeout,
            idle: limits.idle_timeout,
            write: limits.write_timeout,
            rest: Some(REST_AFTER),
        }
    }

    /// A connection that has nothing to gain from a rest.
    pub fn without_rest(self) -> Times {
        Times { rest: None, ..self }
    }

    /// None is longer than `most`.
    pub fn at_most(self, most: Duration) -> Times {
        Times { head: self.head.min(most), idle: self.idle.min(most), write: self.write.min(most), ..self }
    }

    /// How long a connection may be idle.
    pub fn until_a_request(self, marks: &Marks) -> Duration {
        if marks.requests.load(Ordering::Relaxed) == 0 { self.head } else { self.idle }
    }

    fn tick(self) -> Duration {
        let shortest = self.head.min(self.idle).min(self.write);
        (shortest / 10).clamp(SHORTEST_TICK, LONGEST_TICK)
    }
}

/// What a watchdog has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Nothing has happened for a while, and nothing is under way.
    Resting {
        /// Since when, about.
        since: Instant,
    },
    /// A head has not been complete in time.
    HeadTooSlow,
    /// No request has begun in time.
    IdleTooLong,
    /// The client does not take its answer.
    NotReading,
    /// Requests come in order to be cancelled.
    Abused,
}

/// Looks at the marks of a connection from time to time.
pub struct Watchdog {
    marks: Arc<Marks>,
    times: Times,
    seen: Seen,
    since: Instant,
    /// Since when the client does not take what is written, and how much it had taken then.
    blocked: Option<(Instant, u64)>,
    tick: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl Watchdog {
    /// For a connection on which nothing has happened since `since`.
    pub fn new(marks: &Arc<Marks>, times: Times, since: Instant) -> Watchdog {
        Watchdog {
            marks: Arc::clone(marks),
            times,
            seen: marks.seen(),
            since,
            blocked: None,
            tick: Box::pin(sleep_until(Instant::now() + times.tick())),
            is_waiting: false,
        }
    }

    /// To be polled by one task only, whenever it wakes up: between two ticks this is one load.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Finding> {
        if self.marks.is_abused() {
            return Poll::Ready(Finding::Abused);
        }
        // The timer knows the task since it was first polled, and need not be told again.
        if self.is_waiting && !self.tick.is_elapsed() {
            return Poll::Pending;
        }
        while self.tick.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(finding) = self.look(now) {
                return Poll::Ready(finding);
            }
            let next = self.next_look(now);
            self.tick.as_mut().reset(next);
        }
        self.is_waiting = true;
        Poll::Pending
    }

    fn look(&mut self, now: Instant) -> Option<Finding> {
        let seen = self.marks.seen();
        if seen != self.seen {
            self.seen = seen;
            self.since = now;
        }
        if self.is_stuck(now) {
            return Some(Finding::NotReading);
        }
        let passed = now - self.since;
        match seen.phase {
            Phase::Answering => None,
            _ if self.blocked.is_some() => None,
            Phase::Head => (passed >= self.times.head).then_some(Finding::HeadTooSlow),
            Phase::Idle if passed >= self.times.until_a_request(&self.marks) => Some(Finding::IdleTooLong),
            Phase::Idle => {
                let rests = self.times.rest.is_some_and(|rest| passed >= rest);
                rests.then_some(Finding::Resting { since: self.since })
            }
        }
    }

    /// Progress is only what is worth the name: a client may read one byte at a time.
    fn is_stuck(&mut self, now: Instant) -> bool {
        let written = self.marks.written.load(Ordering::Relaxed);
        self.blocked = match self.blocked {
            _ if self.marks.is_flushed() => None,
            Some((since, before)) if written - before < LEAST_PROGRESS => Some((since, before)),
            _ => Some((now, written)),
        };
        self.blocked.is_some_and(|(since, _)| now - since >= self.times.write)
    }

    fn next_look(&self, now: Instant) -> Instant {
        let end = match (self.blocked, self.seen.phase) {
            (Some((since, _)), _) => since + self.times.write,
            (None, Phase::Head) => self.since + self.times.head,
            (None, Phase::Idle) => self.since + self.times.until_a_request(&self.marks),
            (None, Phase::Answering) => return now + self.times.tick(),
        };
        end.min(now + self.times.tick())
    }
}

/// A connection that leaves marks.
pub struct Marked<S> {
    /// What arrives and is sent.
    pub stream: S,
    marks: Arc<Marks>,
    /// Read before, and not used.
    ahead: Bytes,
    marks_heads: bool,
}

impl<S> Marked<S> {
    /// HTTP/1, where the bytes between two requests are a next one's; `ahead` has been read already.
    pub fn http1(stream: S, ahead: Bytes, marks: &Arc<Marks>) -> Marked<S> {
        Marked { stream, marks: Arc::clone(marks), ahead, marks_heads: true }
    }

    /// HTTP/2.
    pub fn http2(stream: S, marks: &Arc<Marks>) -> Marked<S> {
        Marked { stream, marks: Arc::clone(marks), ahead: Bytes::new(), marks_heads: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Marked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..count]);
            self.ahead.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        let has_bytes = buf.filled().len() > before;
        if !has_bytes {
            self.marks.ended.store(true, Ordering::Relaxed);
        } else if self.marks_heads && self.marks.open.load(Ordering::Relaxed) == 0 {
            self.marks.begun.store(true, Ordering::Relaxed);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Marked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.marks.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.marks.wrote(&polled);
        polled
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

/// Whether the client or the upstream is waited for, while an answer is sent over HTTP/2: there one stream can stand still while the
/// connection does not.
#[derive(Debug, Default)]
pub struct Flow {
    /// How often a piece was asked for.
    asked: AtomicU32,
    /// A piece was handed out, and the next one has not been asked for.
    is_the_clients_turn: AtomicBool,
}

/// An answer on its way; the request is open until it is over.
pub struct Answer {
    body: Body,
    _open: Open,
    flow: Option<Arc<Flow>>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Answer {
    /// All of it is to be sent by `deadline`.
    pub fn new(body: Body, open: Open, flow: Option<Arc<Flow>>, deadline: Option<Instant>) -> Answer {
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        Answer { body, _open: open, flow, deadline }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Some(flow) = &this.flow {
            flow.asked.fetch_add(1, Ordering::Relaxed);
            flow.is_the_clients_turn.store(polled.is_ready(), Ordering::Relaxed);
        }
        if let Some(deadline) = &mut this.deadline
            && !matches!(polled, Poll::Ready(None))
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(TookTooLong.into())));
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

/// `limits.request_timeout` is over.
#[derive(Debug)]
struct TookTooLong;

impl fmt::Display for TookTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer was not complete in time")
    }
}

impl std::error::Error for TookTooLong {}

pin_project_lite::pin_project! {
    /// The task of one HTTP/2 stream, which is given up, and reset by that, when the client does not take the answer.
    pub struct Flowing<F> {
        #[pin]
        task: F,
        flow: Arc<Flow>,
        within: Duration,
        // Made when the client has been waited for at all.
        wait: Option<Pin<Box<Sleep>>>,
        asked: u32,
    }
}

impl<F> Flowing<F> {
    pub fn new(task: F, flow: Arc<Flow>, within: Duration) -> Flowing<F> {
        Flowing { task, flow, within, wait: None, asked: 0 }
    }
}

impl<F: Future<Output = ()>> Future for Flowing<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.task.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !this.flow.is_the_clients_turn.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let within = *this.within;
        let wait = this.wait.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + within)));
        let asked = this.flow.asked.load(Ordering::Relaxed);
        if std::mem::replace(this.asked, asked) != asked {
            wait.as_mut().reset(Instant::now() + within);
        }
        wait.as_mut().poll(cx)
    }
}

/// Bytes that count as progress.
const LEAST_PROGRESS: u64 = 1024;
const MOST_CANCELLED: u32 = 200;
const REST_AFTER: Duration = Duration::from_secs(1);
const SHORTEST_TICK: Duration = Duration::from_millis(10);
const LONGEST_TICK: Duration = Duration::from_secs(1);
