//! An HTTP/1.1 client of our own behind [`Http1`]: polled by whoever waits for the response, without a task, a channel or a timer.
//!
//! It is strict: what two parsers might read in two ways is refused (RFC 9112 §11.2), and a connection is used again only when
//! both sides have said all and nothing more. A line ends with CRLF: a bare LF, which RFC 9112 §2.2 lets us take for one, is how a
//! value that was not checked becomes a field of its own.
//!
//! | the exchange ends with | the connection |
//! |---|---|
//! | the whole request sent, the whole response read, both keep it alive | goes back |
//! | bytes behind the response, or `Connection: close` of either side, or HTTP/1.0 without `keep-alive` | is closed |
//! | the response read before the request was sent, whether the server refused it or was just quick | is closed |
//! | an error, or the future or the body dropped | is closed |

mod arena;
mod body;
mod decode;
mod head;
mod request;
#[cfg(test)]
mod tests;

use super::super::connect::Io;
use super::super::{OnInformational, Switched, UpstreamError, retry};
use super::{Failure, Http1};
use crate::body::Body;
use body::ResponseBody;
use bytes::{Bytes, BytesMut};
use decode::Decoder;
use head::{Head, HeadEnd};
use http::{Request, Response, StatusCode};
use request::{Asked, Upload, UploadError, write_head};
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;

/// A connection and nothing else: while it waits in a pool, it takes no more memory than its socket.
pub struct OwnConnection {
    io: Io,
    /// Something came, or the end, when nobody had asked.
    spoilt: bool,
}

/// What was sent or received is no HTTP/1.1, or might be taken for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

impl Http1 for OwnConnection {
    async fn new(io: Io) -> io::Result<OwnConnection> {
        Ok(OwnConnection { io, spoilt: false })
    }

    /// Without a system call, unless the runtime was told that there is something.
    fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let read = poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte)));
        // A task that has found many closed has used up its budget, and would take the next one for open.
        let polled = pin!(unconstrained(read)).poll(&mut Context::from_waker(Waker::noop()));
        self.spoilt |= polled.is_ready();
        self.spoilt
    }

    fn is_ready(&mut self) -> bool {
        !self.spoilt
    }

    async fn exchange<R>(
        mut self,
        mut request: Request<Body>,
        told: Option<&OnInformational>,
        put_back: R,
    ) -> Result<Response<Body>, Failure>
    where
        R: FnOnce(Self) + Send + Unpin + 'static,
    {
        let is_repeatable = retry::is_repeatable(&request);
        let sent = poll_fn(|cx| Poll::Ready(send(&mut self.io, cx, &mut request))).await;
        let (asked, upload) = match sent {
            Ok(sent) => sent,
            Err(NotSent { error, is_untouched }) => {
                let unsent = is_untouched.then(|| Box::new(request));
                return Err(Failure { unsent, ..Failure::from(error) });
            }
        };
        // While the server thinks, nobody needs one that is not sent again.
        let spare = is_repeatable.then(|| Box::new(request));
        let mut exchange = Exchange {
            connection: self,
            asked,
            upload,
            told,
            spare,
            received: BytesMut::new(),
            head_end: HeadEnd::default(),
            head_bytes: 0,
            interim: 0,
            is_refused: false,
        };
        let head = poll_fn(|cx| exchange.poll_head(cx)).await?;
        exchange.respond(head, put_back)
    }
}

struct NotSent {
    error: UpstreamError,
    /// Not a byte of it went out.
    is_untouched: bool,
}

/// Writes the head, with a small body that is there already, and answers what is left to send.
fn send(
    io: &mut Io,
    cx: &mut Context<'_>,
    request: &mut Request<Body>,
) -> Result<(Asked, Option<Box<Upload>>), NotSent> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        scratch.shrink_to(MOST_SCRATCH);
        let asked = write_head(request, scratch)
            .map_err(|error| NotSent { error: UpstreamError::RequestBody(error.into()), is_untouched: false })?;
        let mut piece = match request.body() {
            Body::Full(piece) if !asked.expects_continue => piece.clone(),
            _ => Bytes::new(),
        };
        let whole = scratch.len() + piece.len();
        let written = match write(io, cx, scratch, &piece) {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(error)) => {
                // What TLS takes at once may be sent in several records, of which the first went out.
                let is_untouched = whole <= TLS_RECORD;
                return Err(NotSent { error: UpstreamError::Broken(error.into()), is_untouched });
            }
            Poll::Pending => 0,
        };
        let is_flushed = Pin::new(io).poll_flush(cx).is_ready();
        let head = Bytes::copy_from_slice(scratch.get(written..).unwrap_or_default());
        let body = mem::take(request.body_mut());
        let upload = if asked.framing.is_some() && piece.is_empty() {
            Some(Upload::new(head, body, &asked))
        } else if written < whole || !is_flushed {
            let of_piece = written.saturating_sub(scratch.len());
            Some(Upload::rest(head, piece.split_off(of_piece)))
        } else {
            None
        };
        Ok((asked, upload.map(Box::new)))
    })
}

fn write(io: &mut Io, cx: &mut Context<'_>, head: &[u8], piece: &[u8]) -> Poll<io::Result<usize>> {
    let io = Pin::new(io);
    let written = if piece.is_empty() {
        ready!(io.poll_write(cx, head))?
    } else {
        ready!(io.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(piece)]))?
    };
    Poll::Ready(if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) })
}

/// A request that was sent, as far as it could be, and has no answer yet.
struct Exchange<'t> {
    connection: OwnConnection,
    asked: Asked,
    upload: Option<Box<Upload>>,
    told: Option<&'t OnInformational>,
    /// The request, if it may be sent twice.
    spare: Option<Box<Request<Body>>>,
    received: BytesMut,
    head_end: HeadEnd,
    head_bytes: usize,
    interim: usize,
    /// The server took no more of the request. It may have said why.
    is_refused: bool,
}

impl Exchange<'_> {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        loop {
            self.drive_upload(cx)?;
            if let Some(head) = self.next_head().map_err(broken)? {
                if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
                self.pass_on(&head);
                continue;
            }
            let is_first = self.received.is_empty() && self.head_bytes == 0;
            let error = match ready!(arena::poll_read(&mut self.connection.io, cx, &mut self.received)) {
                Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
                Ok(_) => continue,
                Err(error) => error,
            };
            let repeatable = self.spare.take().filter(|_| is_first && is_closing(&error));
            return Poll::Ready(Err(Failure { repeatable, ..Failure::from(UpstreamError::Broken(error.into())) }));
        }
    }

    fn drive_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        match upload.poll(&mut self.connection.io, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(UploadError::Connection)) => self.is_refused = true,
            Poll::Ready(Err(UploadError::Body(error))) => {
                return Err(Failure::from(UpstreamError::RequestBody(error)));
            }
        }
        self.upload = None;
        Ok(())
    }

    fn next_head(&mut self) -> Result<Option<Head>, Malformed> {
        let Some(length) = self.head_end.find(&self.received)? else { return Ok(None) };
        self.head_bytes += length;
        if self.head_bytes > head::MOST_BYTES {
            return Err(Malformed("the heads are too large together"));
        }
        Head::parse(self.received.split_to(length), &self.asked.method).map(Some)
    }

    fn pass_on(&mut self, interim: &Head) {
        if interim.status == StatusCode::CONTINUE
            && let Some(upload) = &mut self.upload
        {
            upload.proceed();
        }
        self.interim += 1;
        if let Some(told) = self.told.filter(|_| self.interim <= MOST_INTERIM) {
            (told.0)(interim.status, &interim.headers);
        }
    }

    fn respond<R>(self, head: Head, put_back: R) -> Result<Response<Body>, Failure>
    where
        R: FnOnce(OwnConnection) + Send + Unpin + 'static,
    {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.headers;
        if let Some(reason) = head.reason {
            response.extensions_mut().insert(reason);
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(response).map_err(broken);
        }
        // A final answer to `Expect` says that the body is not wanted. The server still counts on it, or on the end of the connection.
        let (upload, is_owed) = match self.upload {
            Some(upload) if upload.is_expecting() => (None, true),
            upload => (upload, false),
        };
        let source = body::Source {
            connection: self.connection,
            put_back,
            decoder: Decoder::new(head.length),
            received: self.received,
            upload,
            reusable: head.keeps_alive && !self.asked.close && !self.is_refused && !is_owed,
        };
        *response.body_mut() = ResponseBody::begin(source).map_err(broken)?;
        Ok(response)
    }

    fn switch(self, mut response: Response<Body>) -> Result<Response<Body>, Malformed> {
        if !self.asked.upgrade || self.upload.is_some() {
            return Err(Malformed("the protocol was switched, and nobody had asked for it"));
        }
        let io = self.connection.io;
        if self.received.is_empty() {
            Switched::put(&mut response, Box::new(io));
        } else {
            Switched::put(&mut response, Box::new(Begun { received: self.received.freeze(), io }));
        }
        Ok(response)
    }
}

fn broken(error: Malformed) -> Failure {
    Failure::from(UpstreamError::Broken(error.into()))
}

fn is_closing(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// A tunnel whose first bytes arrived with the 101.
struct Begun {
    received: Bytes,
    io: Io,
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.received.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, to);
        }
        let length = self.received.len().min(to.remaining());
        to.put_slice(&self.received.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

thread_local! {
    /// Where heads of requests are written: each is out, or copied, before the next begins.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::default();
}

const MOST_SCRATCH: usize = 64 * 1024;
const TLS_RECORD: usize = 16 * 1024;
/// Of one exchange; the bytes of all heads are bounded besides.
const MOST_INTERIM: usize = 16;
