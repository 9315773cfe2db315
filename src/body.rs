//! One body type for both directions, so that a frame passes through without a box of its own.

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// What is sent, in either direction.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// One piece, known beforehand.
    Full(Bytes),
    /// As it comes from the other side.
    Incoming(Incoming),
    /// Anything else.
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>),
}

/// Why a body broke off.
pub type BodyError = Box<dyn Error + Send + Sync>;

impl Body {
    /// Wraps a body of another type.
    pub fn boxed<B>(body: B) -> Body
    where
        B: HttpBody<Data = Bytes, Error = BodyError> + Send + 'static,
    {
        Body::Boxed(Box::pin(body))
    }

    /// As it comes from a client, which may not keep the one who reads it waiting.
    #[must_use]
    pub fn paced(incoming: Incoming, pace: Pace) -> Body {
        Body::boxed(Paced { incoming, pace, wait: None, waiting_since: None, waited: Duration::ZERO, received: 0 })
    }

    /// Stops with [`TooLarge`] beyond `limit` bytes; `tripped` tells the one who waits for the answer.
    #[must_use]
    pub fn limited(self, limit: u64, tripped: Arc<AtomicBool>) -> Body {
        Body::boxed(Limited { inner: self, left: limit, tripped })
    }

    /// Is over when `end` resolves, as if it were complete.
    #[must_use]
    pub fn until(self, end: impl Future<Output = ()> + Send + 'static) -> Body {
        Body::boxed(Until { inner: self, end: Box::pin(end) })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::from(Bytes::from(text))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Body::Empty => Poll::Ready(None),
            full @ Body::Full(_) => match std::mem::take(full) {
                Body::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Body::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Body::Boxed(boxed) => boxed.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(_) => false,
            Body::Incoming(incoming) => incoming.is_end_stream(),
            Body::Boxed(boxed) => boxed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Incoming(incoming) => incoming.size_hint(),
            Body::Boxed(boxed) => boxed.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

/// The body was larger than the route allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body is larger than the route allows")
    }
}

impl Error for TooLarge {}

/// How the body of a request may come in.
pub struct Pace {
    within: Option<Duration>,
    upload: Arc<dyn Upload>,
    complete: bool,
}

/// Who wants to know what became of a request's body.
pub trait Upload: Send + Sync {
    /// It has been read to its end; or not, and nobody will read the rest.
    fn over(&self, complete: bool);
}

impl Pace {
    /// [`Stalled`] when what was waited for did not come `within` that time, or was next to nothing; None: never. `upload` hears of the end, once.
    #[must_use]
    pub fn new(within: Option<Duration>, upload: Arc<dyn Upload>) -> Pace {
        Pace { within, upload, complete: false }
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.upload.over(self.complete);
    }
}

/// The client was too slow in sending the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled;

impl Stalled {
    /// Whether it is what is behind `error`.
    #[must_use]
    pub fn caused(error: &(dyn Error + 'static)) -> bool {
        error.is::<Stalled>() || error.source().is_some_and(Stalled::caused)
    }
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body did not come in time")
    }
}

impl Error for Stalled {}

struct Paced {
    incoming: Incoming,
    pace: Pace,
    /// Made when there is something to wait for: most bodies are there before anybody reads them.
    wait: Option<Pin<Box<Sleep>>>,
    waiting_since: Option<Instant>,
    /// How long the client has been waited for, and how much has come of it, since it last made progress.
    waited: Duration,
    received: usize,
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.pace.complete = match &frame {
                None => true,
                Some(Ok(_)) => this.incoming.is_end_stream(),
                Some(Err(_)) => false,
            };
            if let Some(since) = this.waiting_since.take() {
                this.waited += Instant::now() - since;
            }
            if let Some(Ok(frame)) = &frame {
                this.received += frame.data_ref().map_or(0, Bytes::len);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(within) = this.pace.within else { return Poll::Pending };
        let wait = this.wait.get_or_insert_with(|| Box::pin(sleep(within)));
        if this.waiting_since.is_none() {
            if this.received >= LEAST_PROGRESS {
                (this.waited, this.received) = (Duration::ZERO, 0);
            }
            let now = Instant::now();
            this.waiting_since = Some(now);
            wait.as_mut().reset(now + within.saturating_sub(this.waited));
        }
        ready!(wait.as_mut().poll(cx));
        Poll::Ready(Some(Err(Stalled.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

struct Limited {
    inner: Body,
    left: u64,
    tripped: Arc<AtomicBool>,
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match this.left.checked_sub(data.len() as u64) {
                Some(left) => this.left = left,
                None => {
                    this.tripped.store(true, Ordering::Relaxed);
                    this.inner = Body::Empty;
                    return Poll::Ready(Some(Err(TooLarge.into())));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

struct Until {
    inner: Body,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        // Once it is over the body is empty, and `end` is not polled again.
        if !this.inner.is_end_stream() && this.end.as_mut().poll(cx).is_ready() {
            this.inner = Body::Empty;
        }
        Pin::new(&mut this.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Bytes in the time of a [`Pace`]. One now and then is no progress.
const LEAST_PROGRESS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_body_is_over_when_it_is_told_to_be() {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let mut body = Body::boxed(Endless).until(async { drop(ended.await) });
        assert!(body.frame().await.unwrap().is_ok());
        end.send(()).unwrap();
        assert!(body.frame().await.is_none());
        assert!(body.frame().await.is_none());
    }

    struct Endless;

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: 1\n\n")))))
        }
    }

    #[tokio::test]
    async fn a_body_at_the_limit_passes_and_one_byte_more_does_not() {
        for (limit, passes) in [(5, true), (4, false)] {
            let tripped = Arc::new(AtomicBool::new(false));
            let body = Body::from(Bytes::from_static(b"12345")).limited(limit, Arc::clone(&tripped));
            assert_eq!(body.collect().await.is_ok(), passes);
            assert_eq!(tripped.load(Ordering::Relaxed), !passes);
        }
    }
}
