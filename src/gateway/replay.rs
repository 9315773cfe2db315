//! Keeping a request body for REPLAY while it streams through.
//!
//! Nothing waits: each piece goes upstream as it comes, and a copy is kept as long as it fits into
//! `limits.replay_body` and, with all others, into `limits.replay_memory`. A replay sends what was
//! kept and goes on with what the client has not sent yet.

use crate::body::{Body, BodyError};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

/// What all kept bodies together may take.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
}

impl Budget {
    /// `limits.replay_memory`.
    #[must_use]
    pub fn new(bytes: u64) -> Budget {
        Budget { left: AtomicU64::new(bytes) }
    }

    fn take(&self, bytes: u64) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The kept part of a body that is under way.
pub struct Kept {
    state: Arc<Mutex<State>>,
}

/// Splits `body` into what goes upstream now and what can be sent again.
#[must_use]
pub fn keep(body: Body, limit: u64, budget: &Arc<Budget>) -> (Body, Kept) {
    let hint = body.size_hint();
    let too_large = hint.lower() > limit;
    let state = Arc::new(Mutex::new(State {
        source: Some(body),
        kept: Store {
            pieces: VecDeque::new(),
            tail: BytesMut::new(),
            trailers: None,
            bytes: 0,
            budget: Arc::clone(budget),
        },
        limit,
        whole: !too_large,
    }));
    let recording = Recording { state: Arc::clone(&state), hint };
    (Body::boxed(recording), Kept { state })
}

impl Kept {
    /// The same bytes again, or None when they were too many to keep. The first sending, should it
    /// still be going on, is broken off.
    #[must_use]
    pub fn replay(self) -> Option<Body> {
        let mut state = lock(&self.state);
        if !state.whole {
            return None;
        }
        state.kept.end_tail();
        let pieces = std::mem::take(&mut state.kept.pieces);
        let trailers = state.kept.trailers.take();
        let bytes = std::mem::take(&mut state.kept.bytes);
        let budget = Arc::clone(&state.kept.budget);
        let kept = Store { pieces, tail: BytesMut::new(), trailers, bytes, budget };
        Some(Body::boxed(Replaying { kept, source: state.source.take() }))
    }

    /// It will not be sent again: the memory is free, the sending goes on. Answers whether it could
    /// have been.
    pub fn release(self) -> bool {
        let mut state = lock(&self.state);
        let was_whole = state.whole;
        state.forget();
        was_whole
    }
}

struct State {
    /// None when a replay has taken over.
    source: Option<Body>,
    kept: Store,
    limit: u64,
    /// Whether `kept` holds all that has been sent.
    whole: bool,
}

struct Store {
    pieces: VecDeque<Bytes>,
    /// Small pieces that came after them, in one.
    tail: BytesMut,
    trailers: Option<HeaderMap>,
    bytes: u64,
    budget: Arc<Budget>,
}

impl State {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(piece) = frame.data_ref() {
            if self.makes_room_for(piece.len()) {
                self.kept.push(piece);
            }
        } else if let Some(trailers) = frame.trailers_ref()
            && self.makes_room_for(size_of_fields(trailers))
        {
            self.kept.trailers = Some(trailers.clone());
        }
    }

    fn makes_room_for(&mut self, more: usize) -> bool {
        let more = more as u64;
        if !self.whole {
            return false;
        }
        if self.kept.bytes.saturating_add(more) > self.limit || !self.kept.budget.take(more) {
            self.forget();
            return false;
        }
        self.kept.bytes += more;
        true
    }

    fn forget(&mut self) {
        self.whole = false;
        self.kept.empty();
    }
}

impl Store {
    /// The first piece and large ones as they are. Small ones are copied: each keeps all that was read together with it, and a body may
    /// come byte by byte, so that what is kept would take many times what it counts for.
    fn push(&mut self, piece: &Bytes) {
        if piece.len() >= LARGE || (self.pieces.is_empty() && !piece.is_empty()) {
            self.end_tail();
            self.pieces.push_back(piece.clone());
        } else {
            self.tail.extend_from_slice(piece);
        }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes as u64;
        self.budget.give_back(bytes as u64);
    }

    fn empty(&mut self) {
        self.pieces.clear();
        self.tail = BytesMut::new();
        self.trailers = None;
        self.budget.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.empty();
    }
}

/// The first sending.
struct Recording {
    state: Arc<Mutex<State>>,
    hint: SizeHint,
}

impl HttpBody for Recording {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = lock(&self.state);
        let Some(source) = state.source.as_mut() else {
            return Poll::Ready(Some(Err(Superseded.into())));
        };
        let frame = ready!(Pin::new(source).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => state.keep(frame),
            Some(Err(_)) => state.forget(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.state).source.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// The second sending.
struct Replaying {
    kept: Store,
    source: Option<Body>,
}

impl HttpBody for Replaying {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(piece) = this.kept.pieces.pop_front() {
            this.kept.give_back(piece.len());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        // They were the last that came.
        if let Some(trailers) = this.kept.trailers.take() {
            this.kept.give_back(size_of_fields(&trailers));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match &mut this.source {
            Some(source) => Pin::new(source).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.kept.pieces.is_empty()
            && self.kept.trailers.is_none()
            && self.source.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.source.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint);
        let kept: u64 = self.kept.pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + kept);
        // A length would leave trailers no place in HTTP/1.1.
        if let Some(upper) = rest.upper().filter(|_| self.kept.trailers.is_none()) {
            hint.set_upper(upper + kept);
        }
        hint
    }
}

/// The request is being sent again; this sending is over.
#[derive(Debug)]
struct Superseded;

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request is sent again with a new token")
    }
}

impl std::error::Error for Superseded {}

/// Pieces from this size on are kept as they came.
const LARGE: usize = 1024;

fn size_of_fields(trailers: &HeaderMap) -> usize {
    trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use proptest::prelude::*;

    fn in_pieces(pieces: &[Vec<u8>]) -> Body {
        let frames: Vec<Result<Frame<Bytes>, BodyError>> =
            pieces.iter().map(|piece| Ok(Frame::data(Bytes::from(piece.clone())))).collect();
        Body::boxed(StreamBody::new(Frames(frames.into())))
    }

    struct Frames(VecDeque<Result<Frame<Bytes>, BodyError>>);

    impl futures_core::Stream for Frames {
        type Item = Result<Frame<Bytes>, BodyError>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    proptest! {
        #[test]
        fn a_replay_is_byte_identical_wherever_the_first_sending_stopped(
            pieces in proptest::collection::vec(
                (any::<u8>(), prop_oneof![0..50_usize, LARGE - 1..LARGE + 2]).prop_map(|(byte, length)| vec![byte; length]),
                0..8,
            ),
            stop in 0..9_usize,
        ) {
            let whole: Vec<u8> = pieces.concat();
            let budget = Arc::new(Budget::new(10_000));
            let (mut first, kept) = keep(in_pieces(&pieces), 10_000, &budget);
            run(async {
                for _ in 0..stop {
                    let _ = first.frame().await;
                }
            });
            let again = run(kept.replay().unwrap().collect()).unwrap().to_bytes();
            prop_assert_eq!(again.to_vec(), whole);
            prop_assert!(stop > pieces.len() || run(first.frame()).is_some_and(|frame| frame.is_err()));
            prop_assert_eq!(budget.left.load(Ordering::Relaxed), 10_000, "the memory is free again");
        }
    }

    // RF-30
    #[test]
    fn a_body_that_comes_byte_by_byte_keeps_no_more_than_its_bytes() {
        let budget = Arc::new(Budget::new(10_000));
        let mut pieces = vec![vec![b'x'; 1]; 5000];
        pieces.extend(vec![Vec::new(); 5000]);
        let (first, kept) = keep(in_pieces(&pieces), 10_000, &budget);
        run(first.collect()).unwrap();
        let state = lock(&kept.state);
        assert!(state.kept.pieces.len() <= 1, "{} pieces", state.kept.pieces.len());
        assert!(state.kept.tail.capacity() < 10_000, "{}", state.kept.tail.capacity());
    }

    #[test]
    fn trailers_are_sent_again_and_count() {
        for (limit, replays) in [(3 + 5, true), (3 + 4, false)] {
            let budget = Arc::new(Budget::new(1000));
            let trailers = HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
            let frames = [Ok(Frame::data(Bytes::from_static(b"abc"))), Ok(Frame::trailers(trailers.clone()))];
            let body = Body::boxed(StreamBody::new(Frames(frames.into())));
            let (first, kept) = keep(body, limit, &budget);
            assert_eq!(run(first.collect()).unwrap().trailers(), Some(&trailers));
            let again = kept.replay();
            assert_eq!(again.is_some(), replays);
            if let Some(again) = again {
                assert_eq!(again.size_hint().exact(), None, "they need chunks");
                let again = run(again.collect()).unwrap();
                assert_eq!(again.trailers(), Some(&trailers));
                assert_eq!(again.to_bytes(), "abc");
            }
            assert_eq!(budget.left.load(Ordering::Relaxed), 1000);
        }
    }

    #[test]
    fn at_the_limit_it_is_kept_and_one_byte_more_is_not() {
        for (limit, replays) in [(6, true), (5, false)] {
            let budget = Arc::new(Budget::new(1000));
            let (first, kept) = keep(in_pieces(&[b"abc".to_vec(), b"def".to_vec()]), limit, &budget);
            assert_eq!(run(first.collect()).unwrap().to_bytes(), "abcdef", "it went upstream either way");
            assert_eq!(kept.replay().is_some(), replays);
            assert_eq!(budget.left.load(Ordering::Relaxed), 1000);
        }
    }

    #[test]
    fn all_bodies_share_one_budget() {
        let budget = Arc::new(Budget::new(4));
        let (one, kept_one) = keep(in_pieces(&[b"abc".to_vec()]), 100, &budget);
        let (two, kept_two) = keep(in_pieces(&[b"abc".to_vec()]), 100, &budget);
        run(one.collect()).unwrap();
        run(two.collect()).unwrap();
        assert!(kept_two.replay().is_none());
        kept_one.release();
        assert_eq!(budget.left.load(Ordering::Relaxed), 4);
    }
}
