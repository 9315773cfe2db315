//! HTTP/2 towards upstreams (RFC 9113): hyper's client, many exchanges on one connection.
//!
//! Informational answers but 101 do not pass: hyper's HTTP/2 client reads over them.

use super::UpstreamError;
use super::connect::Io;
use crate::body::{Body, BodyError};
use crate::clock::{Clock, Mono};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::error::Error;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;

/// One connection. When it is dropped, its exchanges go on to their end, and then it is closed.
pub struct Http2 {
    sender: SendRequest<Body>,
    load: Arc<Load>,
}

/// What is under way on a connection.
struct Load {
    exchanges: AtomicUsize,
    /// What the server allows (SETTINGS_MAX_CONCURRENT_STREAMS), and never more than [`MOST_STREAMS`].
    most: AtomicUsize,
    quiet_since: AtomicU64,
    /// The first answer has come, and so the server's SETTINGS are known.
    answered: Notify,
    has_answered: AtomicBool,
    /// The server has refused an exchange although there was room, and is about to go; or nothing comes from it any more.
    refuses: AtomicBool,
    last_answer: AtomicU64,
    clock: Clock,
}

impl Http2 {
    /// On a connection that nothing was sent on.
    ///
    /// # Errors
    /// When it breaks at once.
    pub async fn new(io: Io, clock: &Clock) -> io::Result<Http2> {
        let (sender, mut connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(MOST_STREAMS)
            .max_header_list_size(MOST_HEADER_BYTES)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(io))
            .await
            .map_err(io::Error::other)?;
        let load = Arc::new(Load {
            exchanges: AtomicUsize::new(0),
            most: AtomicUsize::new(MOST_STREAMS),
            quiet_since: AtomicU64::new(clock.mono().0),
            answered: Notify::new(),
            has_answered: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            last_answer: AtomicU64::new(0),
            clock: clock.clone(),
        });
        let seen = Arc::clone(&load);
        tokio::spawn(async move {
            // hyper polls the connection elsewhere: only requests and the first answer wake this task.
            let carried = poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                seen.most.store(connection.current_max_send_streams().clamp(1, MOST_STREAMS), Ordering::Relaxed);
                polled
            });
            tokio::select! {
                // Its errors reach whoever waits for a response.
                _ = carried => {}
                () = async { seen.answered.notified().await; pending().await } => {}
            }
        });
        Ok(Http2 { sender, load })
    }

    /// It takes no more exchanges: the server has closed it or said that it is about to (GOAWAY), or refuses them.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.load.refuses.load(Ordering::Relaxed)
    }

    /// How many exchanges it could take besides those under way.
    pub fn room(&self) -> usize {
        self.load.most.load(Ordering::Relaxed).saturating_sub(self.load.exchanges.load(Ordering::Relaxed))
    }

    /// How long there has been no exchange.
    pub fn quiet_for(&self, now: Mono) -> Duration {
        match self.load.exchanges.load(Ordering::Relaxed) {
            0 => now.since(Mono(self.load.quiet_since.load(Ordering::Relaxed))),
            _ => Duration::ZERO,
        }
    }

    /// Takes room for one exchange.
    pub fn begin(&self) -> Exchange {
        self.load.exchanges.fetch_add(1, Ordering::Relaxed);
        let place = Place { load: Arc::clone(&self.load), since: self.load.clock.mono() };
        Exchange { sender: self.sender.clone(), place }
    }
}

/// Room for one exchange on a connection.
pub struct Exchange {
    sender: SendRequest<Body>,
    place: Place,
}

struct Place {
    load: Arc<Load>,
    since: Mono,
}

impl Place {
    fn note_answer(&self) {
        let load = &self.load;
        load.last_answer.store(load.clock.mono().0, Ordering::Relaxed);
        if !load.has_answered.swap(true, Ordering::Relaxed) {
            load.answered.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (load, now) = (&self.load, self.load.clock.mono());
        if load.exchanges.fetch_sub(1, Ordering::Relaxed) == 1 {
            load.quiet_since.store(now.0, Ordering::Relaxed);
        }
        // A network that drops packets says nothing, and a connection that many share is not closed with one exchange: those that
        // come are not sent after those that waited in vain.
        if Mono(load.last_answer.load(Ordering::Relaxed)) < self.since && now.since(self.since) >= SILENT {
            load.refuses.store(true, Ordering::Relaxed);
        }
    }
}

/// Why there is no response head.
pub struct Failure {
    /// What happened.
    pub error: UpstreamError,
    /// What is known of the request.
    pub fate: Fate,
}

/// What became of a request without an answer.
pub enum Fate {
    /// Not a byte of it was sent; here it is again.
    Unsent(Box<Request<Body>>),
    /// The server has said that it did nothing with it (RFC 9113 §8.7): a refused stream, or one above what a GOAWAY names.
    Unprocessed,
    /// The connection broke.
    Lost,
    /// It failed for a reason of its own.
    Failed,
}

impl Exchange {
    /// Sends `request`, whose target is in origin form, and waits for the response head.
    ///
    /// # Errors
    /// When there is no head.
    pub async fn send(mut self, request: Request<Body>, scheme: Scheme) -> Result<Response<Body>, Failure> {
        let request = match in_http2_form(request, scheme) {
            Ok(request) => request,
            Err(error) => return Err(Failure { error: UpstreamError::RequestBody(error), fate: Fate::Failed }),
        };
        match self.sender.try_send_request(request).await {
            Ok(response) => {
                self.place.note_answer();
                Ok(response.map(|body| match body.is_end_stream() {
                    true => Body::Empty,
                    false => Body::boxed(Placed { body, _place: self.place }),
                }))
            }
            Err(mut failure) => Err(match failure.take_message() {
                Some(unsent) => Failure {
                    error: UpstreamError::Broken(failure.into_error().into()),
                    fate: Fate::Unsent(Box::new(in_origin_form(unsent))),
                },
                None => {
                    let failure = without_answer(failure.into_error());
                    if matches!(failure.fate, Fate::Unprocessed) {
                        self.place.load.refuses.store(true, Ordering::Relaxed);
                    }
                    failure
                }
            }),
        }
    }
}

/// Pseudo-header fields instead of `Host`, and nothing that is about one connection (RFC 9113 §8.2.2, §8.3.1). `te: trailers` stays.
fn in_http2_form(request: Request<Body>, scheme: Scheme) -> Result<Request<Body>, BodyError> {
    let (mut head, body) = request.into_parts();
    let host = head.headers.remove(header::HOST).ok_or("the request has no Host")?;
    let mut target = head.uri.into_parts();
    target.scheme = Some(scheme);
    target.authority = Some(Authority::try_from(host.as_bytes())?);
    target.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    head.uri = Uri::from_parts(target)?;
    head.version = http::Version::HTTP_2;
    for name in CONNECTION_SPECIFIC {
        head.headers.remove(name);
    }
    if head.headers.get(header::TE).is_some_and(|te| te != "trailers") {
        head.headers.remove(header::TE);
    }
    Ok(Request::from_parts(head, body))
}

/// As it came, for another connection.
fn in_origin_form(request: Request<Body>) -> Request<Body> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().and_then(|authority| authority.as_str().parse().ok());
    if let Some(host) = authority {
        head.headers.insert(header::HOST, host);
    }
    head.uri = head.uri.into_parts().path_and_query.map(Uri::from).unwrap_or_default();
    head.version = http::Version::HTTP_11;
    Request::from_parts(head, body)
}

fn without_answer(error: hyper::Error) -> Failure {
    let cause = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    let fate = match cause {
        Some(cause)
            if cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM)) =>
        {
            Fate::Unprocessed
        }
        Some(cause) if cause.is_reset() && !cause.is_remote() && !cause.is_library() => {
            // Our side reset the stream: the body that was to be sent broke off.
            return Failure { error: UpstreamError::RequestBody(error.into()), fate: Fate::Failed };
        }
        Some(_) => Fate::Failed,
        None => Fate::Lost,
    };
    Failure { error: UpstreamError::Broken(error.into()), fate }
}

/// A response body that holds its place on the connection until its end.
struct Placed {
    body: Incoming,
    _place: Place,
}

impl HttpBody for Placed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

const CONNECTION_SPECIFIC: [header::HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HeaderName::from_static("keep-alive"),
    header::HeaderName::from_static("proxy-connection"),
];

const MOST_STREAMS: usize = 100;
/// The connection's window holds a full one of every stream: a client that reads nothing stops its own exchange and none beside it.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MOST_STREAMS as u32;
const SEND_BUFFER: usize = 128 * 1024;
const MOST_HEADER_BYTES: u32 = 64 * 1024;
/// gRPC servers take more than one in five minutes for an attack, on a stream that is silent.
const PING_EVERY: Duration = Duration::from_secs(310);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// An exchange that ends after this long, while the connection has brought no answer to any, takes the connection out of use. If the
/// server was just slow, that costs another connection.
const SILENT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_one_connection_is_not_sent_on_another() {
        let request = Request::get("/a?b=c")
            .header("host", "app.test:8443")
            .header("connection", "close")
            .header("keep-alive", "timeout=5")
            .header("proxy-connection", "close")
            .header("transfer-encoding", "chunked")
            .header("upgrade", "h2c")
            .header("te", "trailers")
            .header("x-kept", "yes")
            .body(Body::Empty)
            .unwrap();
        let sent = in_http2_form(request, Scheme::HTTPS).unwrap();
        assert_eq!(sent.uri(), "https://app.test:8443/a?b=c");
        let mut names: Vec<&str> = sent.headers().keys().map(header::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x-kept"]);

        let back = in_origin_form(sent);
        assert_eq!(
            (back.uri().to_string().as_str(), &back.headers()["host"]),
            ("/a?b=c", &"app.test:8443".parse().unwrap())
        );
    }

    #[test]
    fn a_target_of_one_star_and_a_host_that_is_none() {
        let options = |host: &str| Request::options("*").header("host", host).body(Body::Empty).unwrap();
        let sent = in_http2_form(options("app.test"), Scheme::HTTP).unwrap();
        assert_eq!(sent.uri().path(), "*");
        assert!(in_http2_form(options("a b"), Scheme::HTTP).is_err());
    }
}
