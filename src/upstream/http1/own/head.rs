//! Response heads (RFC 9112 §4 to §6): what is refused, and how long the body is.
//!
//! | the head has | answer to HEAD, 204, 304 | any other |
//! |---|---|---|
//! | `Transfer-Encoding` and `Content-Length` (§6.3 rule 3) | refused | refused |
//! | a `Transfer-Encoding` that is not `chunked` alone, or any in HTTP/1.0 (§6.1) | refused | refused |
//! | `Content-Length`s that differ, or no number (§6.3 rule 5) | refused | refused |
//! | `Transfer-Encoding: chunked` | no body | chunked |
//! | `Content-Length`, the same each time | no body | so many bytes |
//! | neither | no body | until the connection closes |

use super::Malformed;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;
use std::mem::MaybeUninit;

/// What a server says before the body.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub version: Version,
    /// Where it is not the one that everybody knows.
    pub reason: Option<ReasonPhrase>,
    pub headers: HeaderMap,
    pub length: Length,
    /// Whether the server goes on with the connection after this response (RFC 9112 §9.3).
    pub keeps_alive: bool,
}

/// Where the body of a response ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Known(u64),
    Chunked,
    UntilClose,
}

/// Finds the end of a head in bytes that come piece by piece, looking at each byte once.
#[derive(Debug, Default)]
pub struct HeadEnd {
    seen: usize,
}

impl HeadEnd {
    /// The length of the first head in `bytes`, which are those of the last call and more; None while its end is to come.
    ///
    /// # Errors
    /// When they are no head for certain: another protocol, a line that ends with a bare LF, more than [`MOST_BYTES`].
    pub fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let known = bytes.len().min(PROTOCOL.len());
        if bytes[..known] != PROTOCOL[..known] {
            return Err(Malformed("the answer is not HTTP/1"));
        }
        for at in memchr::memchr_iter(b'\n', &bytes[self.seen..]).map(|at| at + self.seen) {
            if at >= MOST_BYTES {
                break;
            }
            if bytes[at - 1] != b'\r' {
                return Err(Malformed("a line ends without a CR"));
            }
            if bytes[..at - 1].ends_with(b"\r\n") {
                self.seen = 0;
                return Ok(Some(at + 1));
            }
        }
        self.seen = bytes.len();
        if bytes.len() >= MOST_BYTES { Err(Malformed("the head is too large")) } else { Ok(None) }
    }
}

impl Head {
    /// From the bytes of one head, as [`HeadEnd`] found it. The values share them.
    ///
    /// # Errors
    /// When anybody might read it in another way.
    pub fn parse(bytes: BytesMut, asked: &Method) -> Result<Head, Malformed> {
        let bytes = bytes.freeze();
        let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let status = config.parse_response_with_uninit_headers(&mut parsed, &bytes, &mut fields).map_err(malformed)?;
        let (true, Some(code), Some(minor)) = (status.is_complete(), parsed.code, parsed.version) else {
            return Err(Malformed("the head is incomplete"));
        };
        let status = StatusCode::from_u16(code).map_err(|_| Malformed("the status is none"))?;
        let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        let reason = reason(status, parsed.reason.unwrap_or_default(), &bytes);

        let mut headers = HeaderMap::with_capacity(parsed.headers.len());
        let mut framing = Framing::default();
        for field in parsed.headers.iter() {
            let (name, value) = field_of(field, &bytes)?;
            framing.note(&name, &value, version)?;
            // Several that say the same become one.
            if name == header::CONTENT_LENGTH {
                headers.insert(name, value);
            } else {
                headers.append(name, value);
            }
        }
        if let Some(length) = framing.content_length.filter(|_| framing.repeated) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        if status == StatusCode::NO_CONTENT || status.is_informational() {
            // It may not be there (RFC 9110 §8.6), and a client that believes it waits for bytes that are of the next response.
            headers.remove(header::CONTENT_LENGTH);
        }
        let length = framing.length(status, asked)?;
        Ok(Head { status, version, reason, headers, length, keeps_alive: framing.keeps_alive(version) })
    }
}

/// Fields after a chunked body (RFC 9112 §7.1.2), with the empty line behind them.
///
/// # Errors
/// When they are none.
pub fn parse_trailers(bytes: BytesMut) -> Result<HeaderMap, Malformed> {
    let bytes = bytes.freeze();
    let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
    let httparse::Status::Complete((_, fields)) = httparse::parse_headers(&bytes, &mut fields).map_err(malformed)?
    else {
        return Err(Malformed("the trailers are incomplete"));
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let (name, value) = field_of(field, &bytes)?;
        trailers.append(name, value);
    }
    Ok(trailers)
}

fn field_of(field: &httparse::Header<'_>, bytes: &Bytes) -> Result<(HeaderName, HeaderValue), Malformed> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed("a field name is none"))?;
    let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
        .map_err(|_| Malformed("a field value has bytes that none may have"))?;
    Ok((name, value))
}

fn reason(status: StatusCode, reason: &str, bytes: &Bytes) -> Option<ReasonPhrase> {
    if status.canonical_reason() == Some(reason) {
        return None;
    }
    ReasonPhrase::try_from(bytes.slice_ref(reason.as_bytes())).ok()
}

fn malformed(error: httparse::Error) -> Malformed {
    Malformed(match error {
        httparse::Error::HeaderName => "a field name has bytes that none may have",
        httparse::Error::HeaderValue => "a field value has bytes that none may have",
        httparse::Error::NewLine => "a line ends in the wrong way",
        httparse::Error::Status | httparse::Error::Token => "the status line is none",
        httparse::Error::TooManyHeaders => "there are too many fields",
        httparse::Error::Version => "the version is not HTTP/1.0 or HTTP/1.1",
    })
}

/// The fields that say where the message ends and whether the connection goes on.
#[derive(Default)]
struct Framing {
    content_length: Option<u64>,
    /// More than one number was said, each the same.
    repeated: bool,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Framing {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue, version: Version) -> Result<(), Malformed> {
        if name == header::CONTENT_LENGTH {
            for number in value.as_bytes().split(|&byte| byte == b',') {
                let number = digits(number.trim_ascii()).ok_or(Malformed("the Content-Length is no number"))?;
                self.repeated |= self.content_length.is_some();
                if self.content_length.replace(number).is_some_and(|other| other != number) {
                    return Err(Malformed("there are several Content-Lengths"));
                }
            }
        } else if name == header::TRANSFER_ENCODING {
            let is_chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            if self.chunked || !is_chunked || version == Version::HTTP_10 {
                return Err(Malformed("the Transfer-Encoding is not chunked alone, or not of HTTP/1.1"));
            }
            self.chunked = true;
        } else if name == header::CONNECTION {
            for option in value.as_bytes().split(|&byte| byte == b',') {
                self.close |= option.trim_ascii().eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.trim_ascii().eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    fn length(&self, status: StatusCode, asked: &Method) -> Result<Length, Malformed> {
        if self.chunked && self.content_length.is_some() {
            return Err(Malformed("there are a Transfer-Encoding and a Content-Length"));
        }
        if asked == Method::CONNECT && status.is_success() {
            return Err(Malformed("a tunnel was granted that nobody asked for"));
        }
        let is_bodiless = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || asked == Method::HEAD;
        Ok(match self.content_length {
            _ if is_bodiless => Length::Known(0),
            _ if self.chunked => Length::Chunked,
            Some(length) => Length::Known(length),
            None => Length::UntilClose,
        })
    }

    fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }
}

/// Digits and nothing else: a number in Rust may have a sign.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// What one head may take, and all heads of one exchange together.
pub const MOST_BYTES: usize = 64 * 1024;
const MOST_FIELDS: usize = 128;
const MOST_TRAILERS: usize = 64;
const PROTOCOL: &[u8] = b"HTTP/1.";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(asked: Method, head: &str) -> Result<Head, Malformed> {
        let length = HeadEnd::default().find(head.as_bytes())?.expect("a whole head");
        assert_eq!(length, head.len());
        Head::parse(BytesMut::from(head), &asked)
    }

    // H1-20
    #[test]
    fn where_a_response_ends() {
        use Length::{Chunked, Known, UntilClose};
        for (asked, status, fields, length) in [
            ("GET", 200, "Content-Length: 5\r\n", Some(Known(5))),
            ("GET", 200, "content-length:5 \r\nContent-Length: 5\r\n", Some(Known(5))),
            ("GET", 200, "Content-Length: 5, 5\r\n", Some(Known(5))),
            ("GET", 200, "Content-Length: 5\r\nContent-Length: 6\r\n", None),
            ("GET", 200, "Content-Length: 5, 6\r\n", None),
            ("GET", 200, "Content-Length: 5,\r\n", None),
            ("GET", 200, "Content-Length:\r\n", None),
            ("GET", 200, "Content-Length: +5\r\n", None),
            ("GET", 200, "Content-Length: -5\r\n", None),
            ("GET", 200, "Content-Length: 0x5\r\n", None),
            ("GET", 200, "Content-Length: 5 5\r\n", None),
            ("GET", 200, "Content-Length: 18446744073709551615\r\n", Some(Known(u64::MAX))),
            ("GET", 200, "Content-Length: 18446744073709551616\r\n", None),
            ("GET", 200, "Transfer-Encoding: chunked\r\n", Some(Chunked)),
            ("GET", 200, "transfer-encoding:\tCHUNKED\t\r\n", Some(Chunked)),
            ("GET", 200, "Transfer-Encoding: gzip, chunked\r\n", None),
            ("GET", 200, "Transfer-Encoding: chunked, gzip\r\n", None),
            ("GET", 200, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", None),
            ("GET", 200, "Transfer-Encoding: identity\r\n", None),
            ("GET", 200, "Transfer-Encoding:\r\n", None),
            ("GET", 200, "Transfer-Encoding: xchunked\r\n", None),
            ("GET", 200, "Transfer-Encoding: \"chunked\"\r\n", None),
            ("GET", 200, "Transfer-Encoding: chunked;q=1\r\n", None),
            ("GET", 200, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", None),
            ("GET", 200, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", None),
            ("GET", 200, "", Some(UntilClose)),
            ("HEAD", 200, "Content-Length: 5\r\n", Some(Known(0))),
            ("HEAD", 200, "Transfer-Encoding: chunked\r\n", Some(Known(0))),
            ("HEAD", 200, "Content-Length: x\r\n", None),
            ("HEAD", 200, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", None),
            ("GET", 204, "", Some(Known(0))),
            ("GET", 204, "Transfer-Encoding: chunked\r\n", Some(Known(0))),
            ("GET", 304, "Content-Length: 5\r\n", Some(Known(0))),
            ("GET", 103, "", Some(Known(0))),
            ("GET", 205, "Content-Length: 0\r\n", Some(Known(0))),
            ("CONNECT", 200, "", None),
            ("CONNECT", 405, "Content-Length: 0\r\n", Some(Known(0))),
        ] {
            let asked = Method::from_bytes(asked.as_bytes()).unwrap();
            let parsed = parse(asked.clone(), &format!("HTTP/1.1 {status} X\r\n{fields}\r\n"));
            assert_eq!(parsed.map(|head| head.length).ok(), length, "{asked} {status} {fields:?}");
        }
        assert!(parse(Method::GET, "HTTP/1.0 200 X\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn which_connections_go_on() {
        for (version, connection, keeps_alive) in [
            ("1.1", "", true),
            ("1.1", "Connection: keep-alive\r\n", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: keep-alive, Close\r\n", false),
            ("1.1", "Connection: x\r\nConnection: CLOSE\r\nConnection: keep-alive\r\n", false),
            ("1.1", "Connection: closed\r\n", true),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = parse(Method::GET, &format!("HTTP/{version} 200 OK\r\n{connection}\r\n")).unwrap();
            assert_eq!(head.keeps_alive, keeps_alive, "{version} {connection:?}");
        }
    }

    #[test]
    fn lengths_that_say_the_same_arrive_as_one() {
        for said in ["Content-Length: 5, 5\r\n", "Content-Length: 05\r\nContent-Length: 5\r\n"] {
            let head = parse(Method::GET, &format!("HTTP/1.1 200 OK\r\n{said}\r\n")).unwrap();
            let lengths: Vec<_> = head.headers.get_all("content-length").iter().collect();
            assert_eq!(lengths, ["5"]);
        }
        let head = parse(Method::GET, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n").unwrap();
        assert!(head.headers.is_empty());
    }

    #[test]
    fn a_head_has_bounds() {
        let fields = |count: usize| "a: b\r\n".repeat(count);
        assert!(parse(Method::GET, &format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(MOST_FIELDS))).is_ok());
        assert!(parse(Method::GET, &format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(MOST_FIELDS + 1))).is_err());
        let head = |length: usize| format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(length - 24));
        assert!(parse(Method::GET, &head(MOST_BYTES)).is_ok());
        assert!(parse(Method::GET, &head(MOST_BYTES + 1)).is_err());
        let endless = head(2 * MOST_BYTES);
        assert!(HeadEnd::default().find(&endless.as_bytes()[..MOST_BYTES]).is_err());
    }

    #[test]
    fn a_reason_of_its_own_is_kept() {
        let reason = |line: &str| {
            let head = parse(Method::GET, &format!("HTTP/1.1 {line}\r\n\r\n")).unwrap();
            head.reason.map(|reason| String::from_utf8(reason.as_bytes().to_vec()).unwrap())
        };
        assert_eq!(reason("200 OK"), None);
        assert_eq!(reason("200 Fine").as_deref(), Some("Fine"));
        assert_eq!(reason("299 Odd").as_deref(), Some("Odd"));
        assert_eq!(reason("200").as_deref(), Some(""));
    }
}
