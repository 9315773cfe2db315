//! How much an upstream may have under way, and who waits for a place.
//!
//! A [`Permit`] is one request's place. It goes back when the permit is dropped, so it does whatever becomes of the request; [`hold`]
//! makes it travel with the answer until that has ended.

use super::{Duplex, Switched};
use crate::body::{Body, BodyError};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::timeout;

/// What stands in `[upstreams.X]` about it. No bounds by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `max_connections`: in use at the same time, for each server. Kept idle ones come on top.
    pub max_connections: Option<usize>,
    /// `max_requests`: under way at the same time.
    pub max_requests: Option<usize>,
    /// `max_pending`, default 0: wait for a place beyond those.
    pub max_pending: usize,
    /// `pending_timeout`, default 1 s: how long.
    pub pending_timeout: Duration,
}

/// What is under way at one upstream, for all workers.
#[derive(Debug)]
pub struct Gauges {
    limits: Settings,
    in_flight: AtomicUsize,
    of_server: Vec<AtomicUsize>,
    pending: AtomicUsize,
    freed: Notify,
}

/// A request's place at the upstream, and at one of its servers.
#[derive(Debug)]
pub struct Permit {
    gauges: Arc<Gauges>,
    server: usize,
}

impl Gauges {
    /// Nothing is under way.
    pub fn new(limits: Settings, servers: usize) -> Gauges {
        Gauges {
            limits,
            in_flight: AtomicUsize::default(),
            of_server: (0..servers).map(|_| AtomicUsize::default()).collect(),
            pending: AtomicUsize::default(),
            freed: Notify::new(),
        }
    }

    /// A place at the upstream and at server `at`, if both have one.
    pub fn admit(self: &Arc<Gauges>, at: usize) -> Option<Permit> {
        if !take(&self.in_flight, self.limits.max_requests) {
            return None;
        }
        if !take(&self.of_server[at], self.limits.max_connections) {
            self.in_flight.fetch_sub(1, SeqCst);
            self.tell_who_waits();
            return None;
        }
        Some(Permit { gauges: Arc::clone(self), server: at })
    }

    /// Whether the upstream takes no more.
    pub fn is_full(&self) -> bool {
        self.limits.max_requests.is_some_and(|most| self.in_flight.load(SeqCst) >= most)
    }

    /// What server `at` works on.
    pub fn in_flight(&self, at: usize) -> usize {
        self.of_server[at].load(SeqCst)
    }

    /// Whether server `at` takes no more.
    pub fn is_server_full(&self, at: usize) -> bool {
        self.limits.max_connections.is_some_and(|most| self.in_flight(at) >= most)
    }

    /// Waits until `attempt` gets what it wants: it is called again when something may have become free, and must look before it
    /// takes, lest what it gives back wake itself. None when too many wait, or it takes too long. Who comes later may be lucky earlier.
    pub async fn wait<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        let _pending = Pending::among(self)?;
        let attempts = async {
            loop {
                let mut freed = pin!(self.freed.notified());
                // First be told, then look: what is freed in between is not missed.
                freed.as_mut().enable();
                if let Some(got) = attempt() {
                    return got;
                }
                freed.await;
            }
        };
        timeout(self.limits.pending_timeout, attempts).await.ok()
    }

    fn tell_who_waits(&self) {
        if self.pending.load(SeqCst) > 0 {
            self.freed.notify_one();
        }
    }
}

impl Permit {
    /// The server.
    pub fn server(&self) -> usize {
        self.server
    }

    /// Takes a place at server `at`, in exchange for the one it has. Whether there is one.
    pub fn move_to(&mut self, at: usize) -> bool {
        let taken = take(&self.gauges.of_server[at], self.gauges.limits.max_connections);
        if taken {
            self.gauges.of_server[self.server].fetch_sub(1, SeqCst);
            self.gauges.tell_who_waits();
            self.server = at;
        }
        taken
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gauges.of_server[self.server].fetch_sub(1, SeqCst);
        self.gauges.in_flight.fetch_sub(1, SeqCst);
        self.gauges.tell_who_waits();
    }
}

/// One that waits.
struct Pending<'a>(&'a Gauges);

impl Pending<'_> {
    fn among(gauges: &Gauges) -> Option<Pending<'_>> {
        take(&gauges.pending, Some(gauges.limits.max_pending)).then(|| Pending(gauges))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, SeqCst);
    }
}

fn take(gauge: &AtomicUsize, most: Option<usize>) -> bool {
    match most {
        None => {
            gauge.fetch_add(1, SeqCst);
            true
        }
        Some(most) => gauge.fetch_update(SeqCst, SeqCst, |taken| (taken < most).then_some(taken + 1)).is_ok(),
    }
}

/// The permit goes back when the answer has ended: its body, or the tunnel that it opens. An answer that is complete is no longer
/// than it was.
pub fn hold(mut response: Response<Body>, permit: Permit) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(connection) = Switched::take(&mut response)
    {
        Switched::put(&mut response, Box::new(HeldConnection { connection, _permit: permit }));
        return response;
    }
    if matches!(response.body(), Body::Empty | Body::Full(_)) || response.body().is_end_stream() {
        return response;
    }
    response.map(|body| Body::boxed(HeldBody { body, permit: Some(permit) }))
}

struct HeldBody {
    body: Body,
    permit: Option<Permit>,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) || this.body.is_end_stream() {
            this.permit = None;
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

struct HeldConnection {
    connection: Box<dyn Duplex>,
    _permit: Permit,
}

impl AsyncRead for HeldConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(cx, buf)
    }
}

impl AsyncWrite for HeldConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    fn gauges(max_connections: usize, max_requests: usize, max_pending: usize) -> Arc<Gauges> {
        let limits = Settings {
            max_connections: Some(max_connections),
            max_requests: Some(max_requests),
            max_pending,
            pending_timeout: Duration::from_secs(1),
        };
        Arc::new(Gauges::new(limits, 2))
    }

    /// At the upstream, at its servers, waiting.
    fn readings(gauges: &Gauges) -> (usize, [usize; 2], usize) {
        (gauges.in_flight.load(SeqCst), [gauges.in_flight(0), gauges.in_flight(1)], gauges.pending.load(SeqCst))
    }

    fn answer(body: Body) -> Response<Body> {
        Response::new(body)
    }

    struct Pieces(usize, bool);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            let piece = match (self.0, self.1) {
                (0, true) => Some(Err("it broke off".into())),
                (0, false) => None,
                _ => Some(Ok(Frame::data(Bytes::from_static(b"piece")))),
            };
            self.0 = self.0.saturating_sub(1);
            Poll::Ready(piece)
        }
    }

    #[test]
    fn a_complete_answer_needs_no_box_and_holds_nothing() {
        let gauges = gauges(1, 1, 0);
        for body in [Body::Empty, Body::from(Bytes::from_static(b"all"))] {
            let held = hold(answer(body), gauges.admit(0).unwrap());
            assert!(matches!(held.body(), Body::Empty | Body::Full(_)));
            assert_eq!(readings(&gauges), (0, [0, 0], 0));
        }
    }

    #[tokio::test]
    async fn a_tunnel_has_its_place_until_it_is_closed() {
        let gauges = gauges(1, 1, 0);
        let mut switching = answer(Body::Empty);
        *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let (ours, _theirs) = tokio::io::duplex(64);
        Switched::put(&mut switching, Box::new(ours));
        let mut held = hold(switching, gauges.admit(0).unwrap());
        let tunnel = Switched::take(&mut held).unwrap();
        drop(held);
        assert!(gauges.admit(0).is_none());
        drop(tunnel);
        assert!(gauges.admit(0).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_next_place_and_not_longer_than_allowed() {
        let gauges = gauges(9, 1, 1);
        let first = gauges.admit(0).unwrap();
        let waiting = tokio::spawn({
            let gauges = Arc::clone(&gauges);
            async move { gauges.wait(|| gauges.admit(0)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(readings(&gauges), (1, [1, 0], 1));
        assert!(gauges.wait(|| gauges.admit(0)).await.is_none(), "one too many");
        drop(first);
        let second = waiting.await.unwrap().expect("the place that became free");
        assert!(gauges.wait(|| gauges.admit(0)).await.is_none(), "too long");
        drop(second);
        assert_eq!(readings(&gauges), (0, [0, 0], 0));
    }

    // RL-27
    proptest! {
        #[test]
        fn every_gauge_returns_to_zero_whatever_becomes_of_the_requests(
            requests in proptest::collection::vec((0usize..2, 0usize..8, 0usize..4, proptest::bool::ANY), 1..60)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let gauges = gauges(2, 3, 2);
                let mut under_way = Vec::new();
                for (server, end, pieces, breaks) in requests {
                    under_way.push(tokio::spawn(request(Arc::clone(&gauges), server, end, pieces, breaks)));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if end == 7 {
                        // Its client hangs up, wherever it is.
                        under_way[pieces % under_way.len()].abort();
                    }
                    let (in_flight, of_server, pending) = readings(&gauges);
                    prop_assert!(in_flight <= 3 && of_server.iter().all(|it| *it <= 2) && pending <= 2);
                    prop_assert!(of_server.iter().sum::<usize>() <= in_flight);
                }
                for request in under_way {
                    prop_assert!(!request.await.is_err_and(|error| error.is_panic()));
                }
                prop_assert_eq!(readings(&gauges), (0, [0, 0], 0));
                Ok(())
            })?;
        }
    }

    /// Ends in one of the ways a request can end.
    async fn request(gauges: Arc<Gauges>, server: usize, end: usize, pieces: usize, breaks: bool) {
        let enter =
            || [server, 1 - server].into_iter().find(|at| !gauges.is_server_full(*at)).and_then(|at| gauges.admit(at));
        let permit = match enter() {
            Some(permit) => Some(permit),
            None => gauges.wait(enter).await,
        };
        let Some(mut permit) = permit else { return };
        tokio::time::sleep(Duration::from_millis(300)).await;
        if end == 1 {
            // No connection: another server, if it has a place.
            permit.move_to(1 - permit.server());
        }
        let mut response = hold(answer(Body::boxed(Pieces(pieces, breaks))), permit);
        for _ in 0..end {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let _ = response.body_mut().frame().await;
        }
    }
}
