//! Our client and hyper's, with the same server before them; and ours alone where it does what hyper's does not.

use super::super::hyper::HyperConnection;
use super::super::{Failure, Http1};
use super::OwnConnection;
use crate::body::Body;
use crate::upstream::connect::Io;
use crate::upstream::{OnInformational, Switched, UpstreamError};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

// ------------------------------------------------------------------------------ the same answers

/// What a client makes of an answer.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    /// No head, or a body that broke off.
    Broken,
    Whole {
        status: u16,
        headers: Vec<(String, Vec<u8>)>,
        content: Vec<u8>,
        trailers: Vec<(String, Vec<u8>)>,
        /// The connection takes another request.
        reused: bool,
    },
}

/// How ours differs from hyper's, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Same,
    /// Ours gives no answer where hyper's gives one.
    Stricter(&'static str),
    /// The same answer without fields that make no sense.
    Cleaner(&'static str),
    /// Ours gives an answer where hyper's gives none.
    Kinder(&'static str),
}
use Verdict::{Cleaner, Kinder, Same, Stricter};

const BARE_LF: Verdict = Stricter("a value that was not checked for LF would become a field (RFC 9112 §2.2 leaves it to us)");
const OTHER_CODINGS: Verdict = Stricter("the coding ends at this hop, and the client would have coded bytes for plain ones");
const TE_AND_CL: Verdict = Stricter("two lengths: the mark of response splitting (RFC 9112 §6.3)");
const PADDED_SIZE: Verdict = Stricter("white space before nothing is no chunk-ext (RFC 9112 §7.1.1)");
const EMPTY_LINE_FIRST: Verdict = Stricter("left over from another response, most likely");
const LENGTH_OF_NOTHING: Verdict = Cleaner("204 has no Content-Length (RFC 9110 §8.6)");

const ANSWERS: &[(&str, &str, Verdict)] = &[
    // lengths
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length:\t5\t\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length:  5  \r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 005\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, world", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Same),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        Cleaner("several that say the same become one (RFC 9112 §6.3)"),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        Cleaner("several that say the same become one (RFC 9112 §6.3)"),
    ),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5;a\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 123\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 456\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nAAAHTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nBBBB", Same),
    ("GET", "HTTP/1.1 200 No content\r\nContent-Length: 5\r\nConnection: close\r\n\r\n2ad731e3-4dcd-4f70", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length-X: 0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n", Same),
    // until the connection closes
    ("GET", "HTTP/1.1 200 OK\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Same),
    ("GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nHTTP/1.0 200 OK\r\n\r\n", Same),
    // chunks
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding:\tchunked \r\n\r\n5\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0000005\r\nhello\r\n00\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 6\r\nx-sum: 7\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 6\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum : 6\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: a\0b\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nmore", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5_\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\rhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b;c=\"d e\"\r\nhello\r\n0;f\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 ;a\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b; c\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a\rb\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 erfrferferf\r\nhello\r\n0 rrrr\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5  \r\nhello\r\n0  \r\n\r\n", PADDED_SIZE),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\t\r\nhello\r\n0\r\n\r\n", PADDED_SIZE),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a\0b\r\nhello\r\n0\r\n\r\n",
        Stricter("a control character is no part of a chunk-ext"),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000005\r\nhello\r\n0\r\n\r\n",
        Stricter("more digits than a length has overflow elsewhere"),
    ),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 6\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n X-Sum: 6\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 6\r\n y\r\n\r\n", Same),
    // codings
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", OTHER_CODINGS),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", OTHER_CODINGS),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, deflate\r\n\r\nWorld", OTHER_CODINGS),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\nWorld", OTHER_CODINGS),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunkedchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", OTHER_CODINGS),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello", OTHER_CODINGS),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", OTHER_CODINGS),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello", OTHER_CODINGS),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\nhello", OTHER_CODINGS),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n  abc\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Same),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Stricter("chunked is said once (RFC 9112 §6.1)"),
    ),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n", TE_AND_CL),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", TE_AND_CL),
    ("GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Same),
    // no body
    ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Same),
    ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Same),
    ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Same),
    ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", Same),
    ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Stricter("the client would have it for a length")),
    ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", TE_AND_CL),
    ("GET", "HTTP/1.1 204 No Content\r\n\r\n", Same),
    ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", LENGTH_OF_NOTHING),
    ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", LENGTH_OF_NOTHING),
    ("GET", "HTTP/1.1 204 No content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Same),
    ("GET", "HTTP/1.1 204 No content\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Same),
    ("GET", "HTTP/1.0 204 No content\r\nConnection: keep-alive\r\n\r\nHTTP/1.0 200 OK\r\n\r\n", Same),
    ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", Same),
    ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", Same),
    ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", Same),
    // who keeps the connection
    ("GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\nContent-Length: 5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nConnection: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nProxy-Connection: close\r\nContent-Length: 11\r\n\r\nhello world", Same),
    ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", Same),
    ("GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Same),
    // status lines
    ("GET", "HTTP/1.1 301\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 301 MovedPermanently\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 500 Ori\u{eb}ntatieprobleem\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 2 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200  OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1\t200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/01.1 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.01 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTP/1.1 200 OK\r\n\r\n", Same),
    ("GET", "HTTPER/1.1 200 OK\r\n\r\n", Same),
    ("GET", "RTSP/1.1 200 OK\r\n\r\n", Same),
    ("GET", "ICY 200 OK\r\n\r\n", Same),
    ("GET", "<html>hello</html>", Same),
    ("GET", "\x16\x03\x01\x02\0\x01", Same),
    ("GET", "HTTP/1.1 200 OK", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Same),
    ("GET", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", EMPTY_LINE_FIRST),
    ("GET", "\r\n\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", EMPTY_LINE_FIRST),
    ("GET", "\rHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    (" GET", " HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    // lines and fields
    ("GET", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", BARE_LF),
    ("GET", "HTTP/1.1 200 OK\nFoo: abc\nBar: def\n\nBODY\n", BARE_LF),
    ("GET", "HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: sid=evil\r\nContent-Length: 0\r\n\r\n", BARE_LF),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n", BARE_LF),
    ("GET", "HTTP/1.1 200 OK\rContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\rContent-Length: 4\r\n\r\nEvil", Same),
    ("GET", "HTTP/1.1 200 OK\r\nFoo: 1\rBar: 2\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\n Host: foo\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nen-US Content-Type: text/xml\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX(y): a\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX\u{e9}: a\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX: a\x7fb\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX: caf\u{e9}\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nX:\r\nY: \t\r\nZ:a\tb\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX: y\r\nset-cookie: b=2\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nDCLK_imp: v7;x;~okv=\r\n.et-Cookie: a\r\n_onnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", Same),
    // 1xx
    ("GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", Same),
    ("GET", "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Same),
    ("GET", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Same),
    ("GET", "HTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
    ("GET", "HTTP/1.1 103 Early Hints\r\n\r\n", Same),
    ("GET", "HTTP/1.1 103 Early Hints\r\n\r\nnonsense\r\n\r\n", Same),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n", Same),
    (
        "GET",
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 5, 6\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        Stricter("whoever takes it for a length reads another response"),
    ),
    (
        "GET",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        Stricter("nobody had asked (RFC 9110 §7.8)"),
    ),
    ("GET", "HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nbody", Same),
    ("GET", "HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nbody", Same),
];

// H1-10, H1-12, H1-13, H1-20, RL-25
#[test]
fn h1_20_our_client_reads_what_hyper_s_reads_or_says_why_not() {
    assert!(ANSWERS.len() >= 160);
    let (ours, theirs) = (Observer::<OwnConnection>::new(), Observer::<HyperConnection>::new());
    let mut wrong = Vec::new();
    for &(method, answer, verdict) in ANSWERS {
        let answer = latin1(answer);
        let (ours, theirs) = (ours.observe(method, &answer), theirs.observe(method, &answer));
        if !agrees(&ours, &theirs, verdict) {
            wrong.push(format!("{method} {:?} {verdict:?}\n  ours  {ours:?}\n  hyper {theirs:?}", answer.escape_ascii().to_string()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn agrees(ours: &Seen, theirs: &Seen, verdict: Verdict) -> bool {
    match verdict {
        Same => ours == theirs,
        Stricter(_) => *ours == Seen::Broken && *theirs != Seen::Broken,
        Cleaner(_) => ours != theirs && without_length(ours) == without_length(theirs),
        Kinder(_) => *theirs == Seen::Broken && *ours != Seen::Broken,
    }
}

fn without_length(seen: &Seen) -> Seen {
    let mut seen = seen.clone();
    if let Seen::Whole { headers, .. } = &mut seen {
        headers.retain(|(name, _)| name != "content-length");
    }
    seen
}

// H1-23
#[test]
fn heads_have_bounds_as_hyper_s_have() {
    let (ours, theirs) = (Observer::<OwnConnection>::new(), Observer::<HyperConnection>::new());
    for (fields, verdict) in [
        ("a: b\r\n".repeat(99), Same),
        ("a: b\r\n".repeat(110), Kinder("128 fields, not 100")),
        ("a: b\r\n".repeat(200), Same),
        (format!("a: {}\r\n", "b".repeat(60_000)), Same),
        (format!("a: {}\r\n", "b".repeat(70_000)), Stricter("64 KiB of a head, not 400")),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n").into_bytes();
        let (ours, theirs) = (ours.observe("GET", &answer), theirs.observe("GET", &answer));
        assert!(agrees(&ours, &theirs, verdict), "{} bytes: {verdict:?}", answer.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 1_500 }))]

    // H1-20
    #[test]
    fn h1_20_nothing_passes_that_hyper_refuses_or_reads_in_another_way(
        (at, bytes, method) in (0..ANSWERS.len()).prop_flat_map(|at| {
            let answer = latin1(ANSWERS[at].1);
            let edit = (0..=answer.len(), 0..4_usize, proptest::collection::vec(telling_byte(), 0..4));
            (Just(at), proptest::collection::vec(edit, 1..4), prop_oneof![4 => Just("GET"), 1 => Just("HEAD")])
        })
    ) {
        let mut answer = latin1(ANSWERS[at].1);
        for (from, taken, put) in bytes {
            let from = from.min(answer.len());
            let to = (from + taken).min(answer.len());
            answer.splice(from..to, put);
        }
        let (ours, theirs) = OBSERVERS.with(|(ours, theirs)| (ours.observe(method, &answer), theirs.observe(method, &answer)));
        let shown = answer.escape_ascii().to_string();
        match (&ours, &theirs) {
            (Seen::Broken, _) => {}
            (Seen::Whole { .. }, Seen::Broken) => prop_assert!(false, "{shown}: {ours:?}"),
            (Seen::Whole { reused: ours_reused, .. }, Seen::Whole { reused, .. }) => {
                prop_assert!(*reused || !ours_reused, "{shown}: reused");
                prop_assert_eq!(as_if_closed(&without_length(&ours)), as_if_closed(&without_length(&theirs)), "{}", shown);
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(telling_byte(), 0..200), begins_well: bool) {
        let begin: &[u8] = if begins_well { b"HTTP/1.1 200 OK\r\n" } else { b"" };
        OBSERVERS.with(|(ours, _)| ours.observe("GET", &[begin, &bytes].concat()));
    }

    #[test]
    fn an_answer_is_the_same_however_its_bytes_arrive(
        at in 0..ANSWERS.len(),
        cuts in proptest::collection::vec(0..200_usize, 1..6),
    ) {
        let (method, answer, _) = ANSWERS[at];
        let answer = latin1(answer);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (answer.len() + 1)).collect();
        cuts.sort_unstable();
        OBSERVERS.with(|(ours, _)| {
            prop_assert_eq!(ours.observe_pieces(method, &answer, &cuts), ours.observe(method, &answer));
            Ok(())
        })?;
    }
}

/// Each byte of an answer in a read of its own, and each way to cut it in two.
#[test]
fn every_split_of_an_answer_is_read_alike() {
    let ours = Observer::<OwnConnection>::new();
    for answer in [
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n5;e=f\r\nhello\r\n1\r\n!\r\n0\r\nSum: 6\r\n\r\n",
        "HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nContent-Length: 12\r\nSet-Cookie: b=2\r\n\r\nhello, world",
    ] {
        let whole = ours.observe("GET", answer.as_bytes());
        assert!(matches!(&whole, Seen::Whole { reused: true, .. }), "{whole:?}");
        for cut in 1..answer.len() {
            assert_eq!(ours.observe_pieces("GET", answer.as_bytes(), &[cut]), whole, "cut at {cut}");
        }
        let each: Vec<usize> = (1..answer.len()).collect();
        assert_eq!(ours.observe_pieces("GET", answer.as_bytes(), &each), whole);
    }
}

fn as_if_closed(seen: &Seen) -> Seen {
    let mut seen = seen.clone();
    if let Seen::Whole { reused, .. } = &mut seen {
        *reused = false;
    }
    seen
}

fn telling_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => proptest::sample::select(&b"\r\n \t:;,0159afchunked\0\x7f\xe9HTTP/1."[..]),
        1 => any::<u8>(),
    ]
}

/// In the table `é` stands for the byte 0xe9.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin-1")).collect()
}

thread_local! {
    static OBSERVERS: (Observer<OwnConnection>, Observer<HyperConnection>) = (Observer::new(), Observer::new());
}

/// One client, with a server that answers what it is told, says nothing more for a second, and closes. Time passes at once.
struct Observer<C> {
    runtime: Runtime,
    client: std::marker::PhantomData<C>,
}

impl<C: Http1> Observer<C> {
    fn new() -> Observer<C> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        Observer { runtime, client: std::marker::PhantomData }
    }

    fn observe(&self, method: &str, answer: &[u8]) -> Seen {
        self.observe_pieces(method, answer, &[])
    }

    fn observe_pieces(&self, method: &str, answer: &[u8], cuts: &[usize]) -> Seen {
        self.runtime.block_on(async {
            let (io, mut server) = pair();
            let (answer, cuts) = (answer.to_vec(), cuts.to_vec());
            let serving = tokio::spawn(async move {
                read_head(&mut server).await;
                let mut from = 0;
                for to in cuts.into_iter().chain([answer.len()]) {
                    let _ = server.write_all(&answer[from..to]).await;
                    from = to;
                    tokio::task::yield_now().await;
                }
                sleep(Duration::from_secs(1)).await;
            });
            let method = Method::from_bytes(method.trim().as_bytes()).unwrap();
            let request = Request::builder().method(method).uri("/x").header("host", "a").body(Body::Empty).unwrap();
            let seen = see::<C>(C::new(io).await.unwrap(), request).await;
            serving.abort();
            seen
        })
    }
}

async fn see<C: Http1>(connection: C, request: Request<Body>) -> Seen {
    let (kept, put_back) = keep();
    let Ok(response) = connection.exchange(request, put_back).await else { return Seen::Broken };
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await else { return Seen::Broken };
    let trailers = body.trailers().map(fields).unwrap_or_default();
    sleep(Duration::from_millis(10)).await;
    let reused = kept.lock().unwrap().take().is_some_and(|mut kept: C| !kept.is_closed() && kept.is_ready());
    let (status, headers) = (head.status.as_u16(), fields(&head.headers));
    Seen::Whole { status, headers, content: body.to_bytes().to_vec(), trailers, reused }
}

fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

type Kept<C> = Arc<Mutex<Option<C>>>;

fn keep<C: Http1>() -> (Kept<C>, impl FnOnce(C) + Send + Unpin + 'static) {
    let kept: Kept<C> = Arc::default();
    let way_back = Arc::clone(&kept);
    (kept, move |connection| *way_back.lock().unwrap() = Some(connection))
}

fn pair() -> (Io, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Io::Unix(ours), theirs)
}

async fn read_head(server: &mut UnixStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match server.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    head
}
