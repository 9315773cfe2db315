//! Our client and hyper's, with the same server before them; and ours alone where it does what hyper's does not.

use super::super::Http1;
use super::super::hyper::HyperConnection;
use super::OwnConnection;
use crate::body::Body;
use crate::upstream::connect::Io;
use crate::upstream::{OnInformational, Switched, UpstreamError};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
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

const BARE_LF: Verdict =
    Stricter("a value that was not checked for LF would become a field (RFC 9112 §2.2 leaves it to us)");
const OTHER_CODINGS: Verdict =
    Stricter("the coding ends at this hop, and the client would have coded bytes for plain ones");
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
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nAAAHTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nBBBB",
        Same,
    ),
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
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 6\r\nx-sum: 7\r\n\r\n",
        Same,
    ),
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
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        OTHER_CODINGS,
    ),
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
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        TE_AND_CL,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        TE_AND_CL,
    ),
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
    (
        "GET",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        Same,
    ),
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
    ("GET", " HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Same),
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
    (
        "GET",
        "HTTP/1.1 200 OK\r\nDCLK_imp: v7;x;~okv=\r\n.et-Cookie: a\r\n_onnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n",
        Same,
    ),
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
            wrong.push(format!(
                "{method} {:?} {verdict:?}\n  ours  {ours:?}\n  hyper {theirs:?}",
                answer.escape_ascii().to_string()
            ));
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
    #![proptest_config(ProptestConfig::with_cases(1_500))]

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
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let request = Request::builder().method(method).uri("/x").header("host", "a").body(Body::Empty).unwrap();
            let seen = see::<C>(C::new(io).await.unwrap(), request).await;
            serving.abort();
            seen
        })
    }
}

async fn see<C: Http1>(connection: C, request: Request<Body>) -> Seen {
    let (kept, put_back) = keep();
    let Ok(response) = connection.exchange(request, None, put_back).await else { return Seen::Broken };
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

// --------------------------------------------------------------------------------- connections

#[tokio::test]
async fn an_answer_that_arrives_whole_is_one_piece_and_its_connection_is_back_at_once() {
    for (answer, content) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Some("hello")),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Some("hello")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", None),
    ] {
        let (io, mut server) = pair();
        let (kept, put_back) = keep();
        let exchange = tokio::spawn(own(io).exchange(get(), None, put_back));
        read_head(&mut server).await;
        server.write_all(answer.as_bytes()).await.unwrap();
        let response = exchange.await.unwrap().ok().unwrap();
        assert!(kept.lock().unwrap().is_some(), "{answer:?}");
        match (response.into_body(), content) {
            (Body::Full(bytes), Some(content)) => assert_eq!(bytes, content),
            (Body::Empty, None) => {}
            _ => panic!("{answer:?} is neither one piece nor empty"),
        }
    }
}

#[tokio::test]
async fn what_the_request_says_of_the_connection_counts_too() {
    let (io, mut server) = pair();
    let (kept, put_back) = keep();
    let request = Request::get("/").header("connection", "close").body(Body::Empty).unwrap();
    let exchange = tokio::spawn(own(io).exchange(request, None, put_back));
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(exchange.await.unwrap().is_ok());
    assert!(kept.lock().unwrap().is_none());
    assert_closed(&mut server).await;
}

// H1-21
#[tokio::test]
async fn h1_21_bytes_that_nobody_asked_for_spoil_a_kept_connection() {
    for unasked in [Some(&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"[..]), Some(b"x"), None] {
        let (mut connection, mut server) = kept_connection().await;
        assert!(!connection.is_closed() && connection.is_ready());
        match unasked {
            Some(bytes) => server.write_all(bytes).await.unwrap(),
            None => server.shutdown().await.unwrap(),
        }
        sleep(Duration::from_millis(20)).await;
        assert!(connection.is_closed(), "{unasked:?}");
        // The byte that was taken to find out does not make it good.
        assert!(connection.is_closed() && !connection.is_ready());
    }
}

// H1-21, RL-12
#[tokio::test]
async fn h1_21_of_many_connections_that_were_closed_none_is_taken_for_open() {
    let mut connections = Vec::new();
    for _ in 0..300 {
        let (io, server) = pair();
        connections.push((own(io), server));
    }
    let (mut connections, servers): (Vec<_>, Vec<_>) = connections.into_iter().unzip();
    drop(servers);
    sleep(Duration::from_millis(20)).await;
    // In one turn of the task, as the pool looks at them.
    assert_eq!(connections.iter_mut().filter_map(|it| (!it.is_closed()).then_some(())).count(), 0);
}

// RL-12
#[tokio::test]
async fn rl_12_a_request_with_a_body_is_not_repeated_after_a_close_without_a_word() {
    for (method, body) in [("POST", Body::Empty), ("GET", Body::from("hello".to_owned())), ("GET", pieces().1)] {
        let (io, mut server) = pair();
        let request = Request::builder().method(method).uri("/").body(body).unwrap();
        let exchange = tokio::spawn(own(io).exchange(request, None, drop));
        read_head(&mut server).await;
        drop(server);
        let failure = exchange.await.unwrap().err().unwrap();
        assert!(failure.unsent.is_none() && failure.repeatable.is_none(), "{method}");
    }
}

// RL-12
#[tokio::test]
async fn rl_12_a_request_of_which_nothing_was_sent_comes_back_whole() {
    let (connection, server) = kept_connection().await;
    drop(server);
    let request = Request::post("/x").header("x-a", "b").body(Body::from("hello".to_owned())).unwrap();
    let failure = connection.exchange(request, None, drop).await.err().unwrap();
    let unsent = failure.unsent.expect("nothing was sent");
    assert_eq!(
        (unsent.method(), unsent.uri().path(), &unsent.headers()["x-a"]),
        (&Method::POST, "/x", &"b".parse().unwrap())
    );
    assert_eq!(unsent.into_body().collect().await.unwrap().to_bytes(), "hello");
}

// RL-12
#[tokio::test]
async fn rl_12_a_server_that_closed_without_a_word_is_told_from_one_that_broke_off() {
    for (said, is_repeatable) in [("", true), ("H", false), ("HTTP/1.1 103 Early Hints\r\n\r\n", false)] {
        let (io, mut server) = pair();
        let exchange = tokio::spawn(own(io).exchange(get(), None, drop));
        read_head(&mut server).await;
        server.write_all(said.as_bytes()).await.unwrap();
        drop(server);
        let failure = exchange.await.unwrap().err().unwrap();
        assert!(failure.unsent.is_none() && matches!(failure.error, UpstreamError::Broken(_)));
        assert_eq!(failure.repeatable.is_some(), is_repeatable, "{said:?}");
    }
}

// RL-27
#[tokio::test]
async fn rl_27_whoever_leaves_closes_the_connection() {
    let (io, mut server) = pair();
    let (kept, put_back) = keep();
    let exchange = tokio::spawn(own(io).exchange(get(), None, put_back));
    read_head(&mut server).await;
    exchange.abort();
    assert_closed(&mut server).await;
    assert!(kept.lock().unwrap().is_none());

    let (io, mut server) = pair();
    let (kept, put_back) = keep();
    let exchange = tokio::spawn(own(io).exchange(get(), None, put_back));
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello").await.unwrap();
    let mut response = exchange.await.unwrap().ok().unwrap();
    assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
    drop(response);
    assert_closed(&mut server).await;
    assert!(kept.lock().unwrap().is_none());
}

#[tokio::test]
async fn an_exchange_takes_little_memory() {
    let (io, _server) = pair();
    let exchange = own(io).exchange(get(), None, drop);
    assert!(size_of_val(&exchange) <= 1024, "{} bytes", size_of_val(&exchange));
    assert!(size_of::<OwnConnection>() <= size_of::<Io>() + 8);
}

#[tokio::test]
async fn a_server_is_read_no_faster_than_the_client_reads() {
    let (io, mut server) = pair();
    let exchange = tokio::spawn(own(io).exchange(get(), None, drop));
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
    let response = exchange.await.unwrap().ok().unwrap();
    let mut written = 0;
    while let Ok(Ok(bytes)) = timeout(Duration::from_millis(100), server.write(&[0; 65536])).await {
        written += bytes;
        assert!(written < 4 << 20, "{written} bytes for a client that reads nothing");
    }
    drop(response);
}

// ------------------------------------------------------------------------------------------ 1xx

// H1-22
#[test]
fn h1_22_interim_answers_are_told_and_bounded() {
    fn told<C: Http1>(count: usize, length: usize) -> (bool, Vec<(u16, usize)>) {
        let observer = Observer::<C>::new();
        observer.runtime.block_on(async {
            let (io, mut server) = pair();
            let heard: Arc<Mutex<Vec<(u16, usize)>>> = Arc::default();
            let told = Arc::clone(&heard);
            let told = OnInformational(Arc::new(move |status, headers: &HeaderMap| {
                told.lock().unwrap().push((status.as_u16(), headers["link"].len()));
            }));
            let interim = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "l".repeat(length)).repeat(count);
            let answer = format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            tokio::spawn(async move {
                read_head(&mut server).await;
                let _ = server.write_all(answer.as_bytes()).await;
                sleep(Duration::from_secs(1)).await;
            });
            let answered = C::new(io).await.unwrap().exchange(get(), Some(&told), drop).await.is_ok();
            let heard = heard.lock().unwrap().clone();
            (answered, heard)
        })
    }
    assert_eq!(told::<OwnConnection>(2, 3), (true, vec![(103, 3), (103, 3)]));
    assert_eq!(told::<HyperConnection>(2, 3), (true, vec![(103, 3), (103, 3)]));
    assert_eq!(told::<OwnConnection>(200, 3), (true, vec![(103, 3); 16]), "the others are left out");
    assert!(!told::<OwnConnection>(2_000, 3).0, "too many");
    assert!(!told::<OwnConnection>(14, 5_000).0, "too large together");
}

// H1-19
#[tokio::test]
async fn h1_19_a_tunnel_begins_with_what_came_behind_the_101() {
    for behind in ["", "hello"] {
        let (io, mut server) = pair();
        let (kept, put_back) = keep();
        let request = Request::get("/").header("connection", "upgrade").header("upgrade", "websocket");
        let exchange = tokio::spawn(own(io).exchange(request.body(Body::Empty).unwrap(), None, put_back));
        read_head(&mut server).await;
        let answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n{behind}");
        server.write_all(answer.as_bytes()).await.unwrap();
        let mut response = exchange.await.unwrap().ok().unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut tunnel = Switched::take(&mut response).unwrap();
        server.write_all(b" there").await.unwrap();
        let mut read = vec![0; behind.len() + 6];
        tunnel.read_exact(&mut read).await.unwrap();
        assert_eq!(read, format!("{behind} there").as_bytes());
        tunnel.write_all(b"back").await.unwrap();
        tunnel.flush().await.unwrap();
        let mut read = [0; 4];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"back");
        assert!(kept.lock().unwrap().is_none());
    }
}

// H1-19
#[tokio::test]
async fn h1_19_a_tunnel_does_not_begin_in_the_middle_of_a_request() {
    let (io, mut server) = pair();
    let (_pieces, body) = pieces();
    let request = Request::post("/").header("upgrade", "websocket").body(body).unwrap();
    let exchange = tokio::spawn(own(io).exchange(request, None, drop));
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    assert!(exchange.await.unwrap().is_err());
}

// --------------------------------------------------------------------------------------- uploads

#[tokio::test]
async fn a_small_body_goes_out_with_its_head() {
    let (io, mut server) = pair();
    let request = Request::post("/x").body(Body::from("hello".to_owned())).unwrap();
    let _exchange = tokio::spawn(own(io).exchange(request, None, drop));
    let mut bytes = [0; 1024];
    let read = server.read(&mut bytes).await.unwrap();
    assert_eq!(&bytes[..read], b"POST /x HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello");
}

// RL-25
#[tokio::test]
async fn a_body_of_unknown_size_is_sent_in_chunks_with_its_trailers() {
    let (io, mut server) = pair();
    let (kept, put_back) = keep();
    let (send, body) = pieces();
    let exchange = tokio::spawn(own(io).exchange(Request::put("/x").body(body).unwrap(), None, put_back));
    assert_eq!(read_head(&mut server).await, b"PUT /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n");
    for piece in ["hello", "", "0123456789abcdef"] {
        send.send(Frame::data(Bytes::from(piece))).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "6".parse().unwrap());
    send.send(Frame::trailers(trailers)).unwrap();
    drop(send);
    assert_read(&mut server, b"5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nx-sum: 6\r\n\r\n").await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(exchange.await.unwrap().is_ok());
    assert!(kept.lock().unwrap().is_some());
}

#[tokio::test]
async fn a_large_body_arrives_whole_and_no_faster_than_the_server_reads() {
    let whole: Bytes = (0..3 << 20).map(|index| (index % 251) as u8).collect::<Vec<_>>().into();
    let (io, mut server) = pair();
    let (kept, put_back) = keep();
    let request = Request::post("/x").body(Body::from(whole.clone())).unwrap();
    let exchange = tokio::spawn(own(io).exchange(request, None, put_back));
    read_head(&mut server).await;
    assert_read(&mut server, &whole).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(exchange.await.unwrap().is_ok());
    assert!(kept.lock().unwrap().is_some());

    let (io, _server) = pair();
    let taken = Arc::new(Mutex::new(0));
    let endless = Body::boxed(Endless(Arc::clone(&taken)));
    let exchange = tokio::spawn(own(io).exchange(Request::post("/x").body(endless).unwrap(), None, drop));
    sleep(Duration::from_millis(100)).await;
    let taken = *taken.lock().unwrap();
    assert!(taken < 4 << 20, "{taken} bytes for a server that reads nothing");
    exchange.abort();
}

#[tokio::test]
async fn a_body_that_is_not_what_its_length_says_breaks_the_exchange() {
    for (said, sent) in [("5", "hell"), ("5", "hello!"), ("0", "h")] {
        let (io, mut server) = pair();
        let (send, body) = pieces();
        let request = Request::post("/").header("content-length", said).body(body).unwrap();
        let exchange = tokio::spawn(own(io).exchange(request, None, drop));
        read_head(&mut server).await;
        send.send(Frame::data(Bytes::from(sent))).unwrap();
        drop(send);
        let failure = exchange.await.unwrap().err().unwrap();
        assert!(matches!(failure.error, UpstreamError::RequestBody(_)), "{said} {sent}");
        assert!(failure.unsent.is_none());
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() < 6, "closed, and nothing beyond the length: {rest:?}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_its_body_breaks_the_exchange() {
    let (io, mut server) = pair();
    let body = Body::boxed(StreamBody::new(Failing).map_err(|()| "gone".into()));
    let failure = own(io).exchange(Request::post("/").body(body).unwrap(), None, drop).await.err().unwrap();
    assert!(matches!(failure.error, UpstreamError::RequestBody(_)));
    read_head(&mut server).await;
    assert_closed(&mut server).await;
}

// H1-17
#[tokio::test]
async fn h1_17_an_early_answer_is_given_at_once_and_the_rest_of_the_request_goes_on() {
    let (io, mut server) = pair();
    let (kept, put_back) = keep();
    let (send, body) = pieces();
    let exchange = tokio::spawn(own(io).exchange(Request::post("/").body(body).unwrap(), None, put_back));
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").await.unwrap();
    let mut response = exchange.await.unwrap().ok().unwrap();
    assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "he");
    let rest = tokio::spawn(response.into_body().collect());
    send.send(Frame::data(Bytes::from("late"))).unwrap();
    drop(send);
    assert_read(&mut server, b"4\r\nlate\r\n0\r\n\r\n").await;
    assert!(kept.lock().unwrap().is_none());
    server.write_all(b"llo").await.unwrap();
    assert_eq!(rest.await.unwrap().unwrap().to_bytes(), "llo");
    assert!(kept.lock().unwrap().is_some(), "both have said all");
}

// H1-17
#[tokio::test]
async fn h1_17_a_connection_that_a_request_is_owed_to_is_not_used_again() {
    for answer in [
        "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    ] {
        let (io, mut server) = pair();
        let (kept, put_back) = keep();
        let (_send, body) = pieces();
        let exchange = tokio::spawn(own(io).exchange(Request::post("/").body(body).unwrap(), None, put_back));
        read_head(&mut server).await;
        server.write_all(answer.as_bytes()).await.unwrap();
        let response = exchange.await.unwrap().ok().unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "no");
        assert!(kept.lock().unwrap().is_none());
        assert_closed(&mut server).await;
    }
}

// H1-17
#[tokio::test]
async fn h1_17_a_server_that_refuses_a_body_and_closes_is_heard() {
    let (io, mut server) = pair();
    let (kept, put_back) = keep();
    let endless = Body::boxed(Endless(Arc::default()));
    let exchange = tokio::spawn(own(io).exchange(Request::post("/").body(endless).unwrap(), None, put_back));
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    drop(server);
    let response = exchange.await.unwrap().ok().unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "no");
    assert!(kept.lock().unwrap().is_none());
}

// H1-18
#[tokio::test]
async fn h1_18_a_body_waits_for_the_100_or_for_a_second() {
    for says_so in [true, false] {
        let (io, mut server) = pair();
        let (kept, put_back) = keep();
        let exchange = tokio::spawn(own(io).exchange(expecting(), None, put_back));
        read_head(&mut server).await;
        let silence = timeout(Duration::from_millis(300), server.read_u8()).await;
        assert!(silence.is_err(), "nobody has asked for the body");
        if says_so {
            server.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        }
        let within = Duration::from_millis(if says_so { 500 } else { 2_000 });
        timeout(within, assert_read(&mut server, b"hello")).await.expect("the body in time");
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert!(exchange.await.unwrap().is_ok());
        assert!(kept.lock().unwrap().is_some());
    }
}

// H1-18
#[tokio::test]
async fn h1_18_a_final_answer_in_place_of_the_100_keeps_the_body_back() {
    let (io, mut server) = pair();
    let (kept, put_back) = keep();
    let exchange = tokio::spawn(own(io).exchange(expecting(), None, put_back));
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 5\r\n\r\nno").await.unwrap();
    let response = exchange.await.unwrap().ok().unwrap();
    assert_eq!(response.status(), StatusCode::EXPECTATION_FAILED);
    server.write_all(b" no").await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "no no");
    assert!(kept.lock().unwrap().is_none(), "the server may take the next request for the body");
    assert_closed(&mut server).await;
}

fn own(io: Io) -> OwnConnection {
    OwnConnection { io, spoilt: false }
}

fn get() -> Request<Body> {
    Request::get("/").body(Body::Empty).unwrap()
}

fn expecting() -> Request<Body> {
    Request::post("/").header("expect", "100-continue").body(Body::from("hello".to_owned())).unwrap()
}

/// After one exchange.
async fn kept_connection() -> (OwnConnection, UnixStream) {
    let (io, mut server) = pair();
    let (kept, put_back) = keep();
    let exchange = tokio::spawn(own(io).exchange(get(), None, put_back));
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(exchange.await.unwrap().is_ok());
    let connection = kept.lock().unwrap().take().unwrap();
    (connection, server)
}

async fn assert_read(server: &mut UnixStream, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    server.read_exact(&mut read).await.unwrap();
    assert!(read == expected, "{}", read.escape_ascii());
}

async fn assert_closed(server: &mut UnixStream) {
    let rest = timeout(Duration::from_secs(5), server.read(&mut [0])).await.expect("closed");
    assert!(matches!(rest, Ok(0) | Err(_)), "{rest:?}");
}

/// A body of the pieces that are sent to it.
fn pieces() -> (mpsc::UnboundedSender<Frame<Bytes>>, Body) {
    let (send, pieces) = mpsc::unbounded_channel();
    (send, Body::boxed(StreamBody::new(Pieces(pieces)).map_err(|never| match never {})))
}

struct Pieces(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl futures_core::Stream for Pieces {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|piece| piece.map(Ok))
    }
}

struct Failing;

impl futures_core::Stream for Failing {
    type Item = Result<Frame<Bytes>, ()>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Err(())))
    }
}

/// Counts what is taken of it.
struct Endless(Arc<Mutex<usize>>);

impl HttpBody for Endless {
    type Data = Bytes;
    type Error = crate::body::BodyError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        *self.0.lock().unwrap() += 16 * 1024;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 16 * 1024])))))
    }
}
