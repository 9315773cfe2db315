//! 1xx answers of the upstream on their way to a client of HTTP/1.1 (RFC 9110 §15.2): `103 Early Hints` above all. A hyper server sends
//! none, so they go to the socket beside it, at moments when nothing of its own is half written. HTTP/2 frames cannot be written beside
//! hyper: there, and for HTTP/1.0 (§15.2), they are dropped.

use super::headers;
use crate::session::cookie;
use crate::upstream::OnInformational;
use http::{HeaderMap, HeaderName, StatusCode, header};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::AsyncWrite;

/// What one connection of HTTP/1 still has to tell its client. It takes one request at a time, so what is told is of that one.
pub struct Informational {
    queue: Mutex<Queue>,
    /// Whether there is anything in `queue`: asked at every write.
    waiting: AtomicBool,
    /// One more than are still taken for the request; 0 before and after an attempt.
    left: AtomicU32,
    connection: Waker,
    told: OnInformational,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    written: usize,
}

impl Informational {
    /// `connection` wakes the task that writes to the client.
    #[must_use]
    pub fn new(connection: Waker) -> Arc<Informational> {
        Arc::new_cyclic(|this: &Weak<Informational>| {
            let this = Weak::clone(this);
            let told = OnInformational(Arc::new(move |status, headers| {
                if let Some(this) = this.upgrade() {
                    this.tell(status, headers, &[]);
                }
            }));
            Informational {
                queue: Mutex::default(),
                waiting: AtomicBool::new(false),
                left: AtomicU32::new(0),
                connection,
                told,
            }
        })
    }

    /// An attempt begins. Its 1xx answers lose the fields `without`, as its final one does.
    pub(super) fn begin(self: &Arc<Self>, without: &[HeaderName]) -> OnInformational {
        self.left.store(MOST + 1, Ordering::Relaxed);
        if without.is_empty() {
            return self.told.clone();
        }
        let (this, without) = (Arc::clone(self), without.to_vec());
        OnInformational(Arc::new(move |status, headers| this.tell(status, headers, &without)))
    }

    /// The attempt has its final answer, or none. What has not been written by the time that goes out never is.
    pub(super) fn end(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// 100 is each hop's own, and hyper says it; 101 is not informational.
    fn tell(&self, status: StatusCode, headers: &HeaderMap, without: &[HeaderName]) {
        if !(102..200).contains(&status.as_u16()) {
            return;
        }
        let fewer = |left: u32| (left > 1).then(|| left - 1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_err() {
            return;
        }
        let mut headers = headers.clone();
        headers::strip_hop_by_hop_of_answer(&mut headers);
        // RFC 9110 §8.6: it has no body, and a client might wait for one.
        headers.remove(header::CONTENT_LENGTH);
        headers::strip_our_words(&mut headers);
        cookie::strip_foreign_claims(&mut headers);
        for name in without {
            headers.remove(name);
        }
        let head = head(status, &headers);
        if head.len() > LARGEST {
            return;
        }
        self.queue().bytes.extend_from_slice(&head);
        self.waiting.store(true, Ordering::Relaxed);
        self.connection.wake_by_ref();
    }

    /// Whether there is anything to write.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether a part has been written: nothing may come before the rest.
    pub fn has_begun(&self) -> bool {
        self.queue().written > 0
    }

    /// Whether the final answer may be on its way.
    pub fn has_ended(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Those of `stream`.
    pub fn poll_write<S: AsyncWrite + Unpin>(&self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.queue();
        while queue.written < queue.bytes.len() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &queue.bytes[queue.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.written += written;
        }
        self.forget(&mut queue);
        Poll::Ready(Ok(()))
    }

    /// It is too late for what waits.
    pub fn drop_waiting(&self) {
        self.forget(&mut self.queue());
    }

    fn forget(&self, queue: &mut Queue) {
        *queue = Queue::default();
        self.waiting.store(false, Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in headers {
        for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(piece);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// More for one attempt, and larger ones, nobody needs: a site that hints in steps sends two or three.
const MOST: u32 = 8;
const LARGEST: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn told(informational: &Informational) -> String {
        String::from_utf8(informational.queue().bytes.clone()).unwrap()
    }

    #[test]
    fn only_what_a_client_may_hear_during_an_attempt_is_told() {
        let informational = Informational::new(Waker::noop().clone());
        let hint = HeaderMap::from_iter([
            (http::header::LINK, HeaderValue::from_static("</a.css>; rel=preload")),
            (http::header::CONTENT_LENGTH, HeaderValue::from_static("5")),
            (http::header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
            (http::header::CONNECTION, HeaderValue::from_static("x-hop")),
            (HeaderName::from_static("x-hop"), HeaderValue::from_static("1")),
            (headers::LOGIN, HeaderValue::from_static("/evil")),
            (http::header::SERVER, HeaderValue::from_static("app")),
            (http::header::SET_COOKIE, HeaderValue::from_static("latchgate=evil")),
        ]);
        let on_informational = informational.begin(&[http::header::SERVER]);
        for status in [100, 103, 200] {
            (on_informational.0)(StatusCode::from_u16(status).unwrap(), &hint);
        }
        assert_eq!(told(&informational), "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
        informational.end();
        (on_informational.0)(StatusCode::EARLY_HINTS, &hint);
        assert_eq!(told(&informational).matches("103").count(), 1, "the final answer is there");
    }

    // H1-22
    #[test]
    fn a_flood_is_cut_off() {
        let informational = Informational::new(Waker::noop().clone());
        let on_informational = informational.begin(&[]);
        for _ in 0..1000 {
            (on_informational.0)(StatusCode::PROCESSING, &HeaderMap::new());
        }
        assert_eq!(told(&informational).matches("HTTP/1.1 102").count(), MOST as usize);
        assert!(!informational.has_ended(), "those are still to be written");
        let on_informational = informational.begin(&[]);
        let huge = HeaderValue::try_from("x".repeat(LARGEST)).unwrap();
        (on_informational.0)(StatusCode::EARLY_HINTS, &HeaderMap::from_iter([(http::header::LINK, huge)]));
        assert!(!told(&informational).contains("103"));
    }
}
