//! Requests on the wire (RFC 9112 §3, §6, §7): the head, and the body as it comes.
//!
//! | the body | `Content-Length` of the request | what is sent |
//! |---|---|---|
//! | is empty | none, or 0 | the head as it is |
//! | is empty | another | refused |
//! | has a known size | none | with a `Content-Length` |
//! | has a known size | another | refused |
//! | any other | n | n bytes; refused when there are more or fewer |
//! | any other | none | chunked |

use super::super::super::connect::Io;
use super::Malformed;
use super::head::digits;
use crate::body::{Body, BodyError};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body::Body as HttpBody;
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};

/// What of a request matters for its response.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: Method,
    /// It has an `Upgrade`.
    pub upgrade: bool,
    /// It has a `Connection: close`.
    pub close: bool,
    /// It has an `Expect: 100-continue`.
    pub expects_continue: bool,
    /// None when there is no body.
    pub framing: Option<Framing>,
}

/// How the other side learns where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
}

/// Writes the head of `request`, whose target is in origin form, behind what `to` has.
///
/// # Errors
/// When its length is said wrongly.
pub fn write_head(request: &Request<Body>, to: &mut Vec<u8>) -> Result<Asked, Malformed> {
    let mut asked = Asked {
        method: request.method().clone(),
        upgrade: false,
        close: false,
        expects_continue: false,
        framing: None,
    };
    to.extend_from_slice(request.method().as_str().as_bytes());
    to.push(b' ');
    to.extend_from_slice(request.uri().path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    to.extend_from_slice(b" HTTP/1.1\r\n");

    let mut length = None;
    for (name, value) in request.headers() {
        if *name == header::CONTENT_LENGTH {
            let said = digits(value.as_bytes()).ok_or(Malformed("the Content-Length of the request is no number"))?;
            if length.replace(said).is_some_and(|other| other != said) {
                return Err(Malformed("the request has several Content-Lengths"));
            }
            continue;
        } else if *name == header::TRANSFER_ENCODING {
            // Ours to say.
            continue;
        } else if *name == header::UPGRADE {
            asked.upgrade = true;
        } else if *name == header::CONNECTION {
            asked.close |= value.as_bytes().split(|&byte| byte == b',').any(is_close);
        } else if *name == header::EXPECT {
            asked.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        }
        write_field(name, value, to);
    }
    asked.framing = framing(request.body(), length)?;
    match (length, asked.framing) {
        (Some(length), _) | (None, Some(Framing::Length(length))) => {
            // Into a vector nothing fails.
            let _ = write!(to, "content-length: {length}\r\n");
        }
        (None, Some(Framing::Chunked)) => to.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        (None, None) => {}
    }
    to.extend_from_slice(b"\r\n");
    Ok(asked)
}

fn framing(body: &Body, said: Option<u64>) -> Result<Option<Framing>, Malformed> {
    if body.is_end_stream() {
        return if said.unwrap_or(0) == 0 { Ok(None) } else { Err(DISAGREES) };
    }
    match (said, body.size_hint().exact()) {
        (Some(said), Some(known)) if said != known => Err(DISAGREES),
        (Some(length), _) | (None, Some(length)) => Ok(Some(Framing::Length(length))),
        (None, None) => Ok(Some(Framing::Chunked)),
    }
}

fn write_field(name: &HeaderName, value: &HeaderValue, to: &mut Vec<u8>) {
    to.extend_from_slice(name.as_str().as_bytes());
    to.extend_from_slice(b": ");
    to.extend_from_slice(value.as_bytes());
    to.extend_from_slice(b"\r\n");
}

fn is_close(option: &[u8]) -> bool {
    option.trim_ascii().eq_ignore_ascii_case(b"close")
}

/// What of a request is still to be sent.
pub struct Upload {
    body: Body,
    framing: Framing,
    /// `body` has nothing more to say.
    ended: bool,
    /// The server was asked whether it wants the body (RFC 9110 §10.1.1), and has not said so for this long.
    expecting: Option<Pin<Box<Sleep>>>,
    /// Taken and not yet written: bytes before a piece of the body, the piece, and bytes behind it.
    front: Bytes,
    piece: Bytes,
    back: &'static [u8],
    flushed: bool,
}

/// Why it could not be sent.
pub enum UploadError {
    /// The body broke off, or is not what the head says.
    Body(BodyError),
    /// The connection takes nothing more. What can be read from it says more than why.
    Connection,
}

impl Upload {
    /// `unsent` is what could not be written of the head.
    pub fn new(unsent: Bytes, body: Body, asked: &Asked) -> Upload {
        let framing = asked.framing.unwrap_or(Framing::Length(0));
        let expecting = asked.expects_continue && asked.framing.is_some();
        Upload {
            body,
            framing,
            ended: asked.framing.is_none(),
            expecting: expecting.then(|| Box::pin(sleep(EXPECT_WITHIN))),
            front: unsent,
            piece: Bytes::new(),
            back: b"",
            flushed: false,
        }
    }

    /// The rest of a body that was to go out at once with its head.
    pub fn rest(head: Bytes, piece: Bytes) -> Upload {
        Upload {
            body: Body::Empty,
            framing: Framing::Length(0),
            ended: true,
            expecting: None,
            front: head,
            piece,
            back: b"",
            flushed: false,
        }
    }

    /// The server wants the body.
    pub fn proceed(&mut self) {
        self.expecting = None;
    }

    /// Whether the body is held back until the server wants it.
    pub fn is_expecting(&self) -> bool {
        self.expecting.is_some()
    }

    /// Sends as much as the connection takes and the body gives; ready when all of it is out.
    pub fn poll(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        loop {
            ready!(self.poll_write(io, cx)).map_err(|_| UploadError::Connection)?;
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if let Some(expecting) = &mut self.expecting {
                ready!(expecting.as_mut().poll(cx));
                self.expecting = None;
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            match frame.transpose().map_err(UploadError::Body)? {
                None => self.end(None)?,
                Some(frame) => match frame.into_data() {
                    Ok(piece) => self.put(piece)?,
                    Err(frame) => self.end(frame.into_trailers().ok().as_ref())?,
                },
            }
        }
    }

    fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !(self.front.is_empty() && self.piece.is_empty() && self.back.is_empty()) {
            let pieces = [IoSlice::new(&self.front), IoSlice::new(&self.piece), IoSlice::new(self.back)];
            let mut written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &pieces))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.flushed = false;
            let mut advance = |part: &mut dyn Buf| {
                let of_this = written.min(part.remaining());
                part.advance(of_this);
                written -= of_this;
            };
            advance(&mut self.front);
            advance(&mut self.piece);
            advance(&mut self.back);
        }
        if !self.flushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn put(&mut self, piece: Bytes) -> Result<(), UploadError> {
        // A chunk of no bytes would be the last.
        if piece.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Length(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or_else(disagrees)?;
                self.piece = piece;
                if self.body.is_end_stream() {
                    self.end(None)?;
                }
            }
            Framing::Chunked => {
                self.front = Bytes::from(format!("{:x}\r\n", piece.len()));
                self.piece = piece;
                self.ended = self.body.is_end_stream();
                self.back = if self.ended { b"\r\n0\r\n\r\n" } else { b"\r\n" };
            }
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), UploadError> {
        self.ended = true;
        match (self.framing, trailers) {
            (Framing::Length(0), _) => {}
            (Framing::Length(_), _) => return Err(disagrees()),
            (Framing::Chunked, None) => self.back = b"0\r\n\r\n",
            (Framing::Chunked, Some(trailers)) => {
                let mut end = b"0\r\n".to_vec();
                trailers.iter().for_each(|(name, value)| write_field(name, value, &mut end));
                self.front = Bytes::from(end);
                self.back = b"\r\n";
            }
        }
        Ok(())
    }
}

fn disagrees() -> UploadError {
    UploadError::Body(DISAGREES.into())
}

const DISAGREES: Malformed = Malformed("the body of the request is longer or shorter than its Content-Length");
/// Servers that know nothing of `Expect` stay silent until they have the body.
const EXPECT_WITHIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;

    fn head(request: http::request::Builder, body: Body) -> Result<(String, Asked), Malformed> {
        let mut bytes = Vec::new();
        let asked = write_head(&request.body(body).unwrap(), &mut bytes)?;
        Ok((String::from_utf8(bytes).unwrap(), asked))
    }

    fn of_unknown_size() -> Body {
        Body::boxed(
            StreamBody::new(Pieces(vec![Bytes::from_static(b"abc")].into_iter())).map_err(|never| match never {}),
        )
    }

    struct Pieces(std::vec::IntoIter<Bytes>);

    impl futures_core::Stream for Pieces {
        type Item = Result<Frame<Bytes>, Infallible>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
        }
    }

    #[test]
    fn how_the_body_is_framed() {
        use Framing::{Chunked, Length};
        let full = || Body::from("abc".to_owned());
        for (body, said, framing, line) in [
            (Body::Empty, None, Ok(None), ""),
            (Body::Empty, Some("0"), Ok(None), "content-length: 0\r\n"),
            (Body::Empty, Some("3"), Err(()), ""),
            (full(), None, Ok(Some(Length(3))), "content-length: 3\r\n"),
            (full(), Some("3"), Ok(Some(Length(3))), "content-length: 3\r\n"),
            (full(), Some("4"), Err(()), ""),
            (full(), Some("+3"), Err(()), ""),
            (full(), Some(""), Err(()), ""),
            (of_unknown_size(), None, Ok(Some(Chunked)), "transfer-encoding: chunked\r\n"),
            (of_unknown_size(), Some("7"), Ok(Some(Length(7))), "content-length: 7\r\n"),
        ] {
            let mut request = Request::post("/a?b=c").header("transfer-encoding", "gzip");
            if let Some(said) = said {
                request = request.header("content-length", said);
            }
            match (head(request, body), framing) {
                (Ok((written, asked)), Ok(framing)) => {
                    assert_eq!(asked.framing, framing);
                    assert_eq!(written, format!("POST /a?b=c HTTP/1.1\r\n{line}\r\n"));
                }
                (written, framing) => assert_eq!(written.map(drop).is_ok(), framing.is_ok(), "{said:?}"),
            }
        }
    }

    #[test]
    fn what_of_a_request_matters_for_its_response() {
        let request = Request::put("*")
            .header("expect", "100-Continue")
            .header("connection", "upgrade, Close")
            .header("upgrade", "websocket");
        let (written, asked) = head(request, Body::Empty).unwrap();
        assert!(written.starts_with("PUT * HTTP/1.1\r\nexpect: 100-Continue\r\n"), "{written}");
        assert!(asked.expects_continue && asked.close && asked.upgrade);
        let (_, asked) = head(Request::get("/").header("connection", "closed"), Body::Empty).unwrap();
        assert!(!asked.expects_continue && !asked.close && !asked.upgrade);
    }

    #[test]
    fn lengths_that_differ_are_refused() {
        let request = Request::post("/").header("content-length", "3").header("content-length", "4");
        assert!(head(request, Body::from("abc".to_owned())).is_err());
    }
}
