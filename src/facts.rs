//! What is true of a request, found out once and never again.

use crate::clock::Now;
use crate::policy::Client;
use crate::policy::path::NormalPath;
use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::fmt;
use std::net::IpAddr;

/// Read from the request before anything is decided. Nothing below reads forwarded headers, the
/// host or the path again.
#[derive(Debug)]
pub struct Facts {
    /// `X-Request-Id`, ours or the client's.
    pub id: RequestId,
    /// The one clock reading of this request.
    pub now: Now,
    /// The method as it came.
    pub method: Method,
    /// What is matched and what is forwarded.
    pub path: NormalPath,
    /// What kind of answer suits.
    pub client: Client,
    /// Who is at the other end of the connection, or whom trusted proxies name; None on a unix socket.
    pub client_address: Option<IpAddr>,
    /// What goes upstream as `X-Forwarded-For`, the client first; None on a unix socket.
    pub forwarded_for: Option<HeaderValue>,
    /// `http` or `https`, as the browser sees it.
    pub scheme: Scheme,
    /// The host as the browser knows it: a trusted proxy in front may have changed `authority`.
    pub public_host: HeaderValue,
    /// What goes upstream as `Forwarded`; None when the host cannot be quoted.
    pub forwarded: Option<HeaderValue>,
    /// The `Host` of the request, port included; its text is ASCII.
    pub authority: HeaderValue,
    /// The page that a script's request came from, if it is one of ours at all.
    pub referer: Option<HeaderValue>,
    /// Asked for by htmx, which follows `HX-Redirect` whatever the status.
    pub htmx: bool,
    /// `HX-Current-URL`: the page that htmx works on, where it is htmx that asks.
    pub htmx_page: Option<HeaderValue>,
    /// Asks for an exchange that stays open: an upgrade, an event stream, gRPC.
    pub stays_open: bool,
}

/// `Forwarded` (RFC 7239 §4) for one hop; None when the host cannot be quoted.
#[must_use]
pub fn forwarded(client: Option<IpAddr>, host: &HeaderValue, scheme: Scheme) -> Option<HeaderValue> {
    let host = host.to_str().ok()?;
    let proto = scheme.as_str();
    let text = match client {
        Some(IpAddr::V4(address)) => format!("for={address};host=\"{host}\";proto={proto}"),
        Some(IpAddr::V6(address)) => format!("for=\"[{address}]\";host=\"{host}\";proto={proto}"),
        None => format!("host=\"{host}\";proto={proto}"),
    };
    HeaderValue::try_from(text).ok()
}

/// How the browser reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// With TLS, ours or a trusted proxy's.
    Https,
}

impl Scheme {
    /// As in a URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Follows a request through logs, answers and the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Origin);

/// Most ids are ours, and are copied for several who may need them: no allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// Hexadecimal digits, the first half of them not all zeros.
    Ours([u8; 32]),
    Client(HeaderValue),
}

impl RequestId {
    /// The client's, when it is fit to be logged; else a new one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> RequestId {
        match headers.get(&X_REQUEST_ID) {
            Some(id) if is_sane(id.as_bytes()) => RequestId(Origin::Client(id.clone())),
            _ => RequestId::random(),
        }
    }

    /// A new one of 128 random bits. An id only has to be another one than the others: it is no secret.
    #[must_use]
    pub fn random() -> RequestId {
        let mut text = [0; 32];
        write_hex(&fastrand::u128(1 << 64..).to_be_bytes(), &mut text);
        RequestId(Origin::Ours(text))
    }

    /// The header's value.
    #[must_use]
    pub fn to_header(&self) -> HeaderValue {
        match &self.0 {
            Origin::Ours(text) => HeaderValue::from_bytes(text).unwrap_or_else(|_| HeaderValue::from_static("-")),
            Origin::Client(value) => value.clone(),
        }
    }

    /// `traceparent` (W3C Trace Context §3.2) of a trace that begins here, unsampled; the same for
    /// every attempt. Our own ids are trace ids; of a client's one is made.
    #[must_use]
    pub fn as_trace_parent(&self) -> Option<HeaderValue> {
        let mut text = *b"00-................................-................-00";
        match &self.0 {
            Origin::Ours(id) => {
                text[3..35].copy_from_slice(id);
                text[36..52].copy_from_slice(&id[..16]);
            }
            Origin::Client(id) if is_trace_id(id.as_bytes()) => {
                text[3..35].copy_from_slice(id.as_bytes());
                text[36..52].copy_from_slice(&id.as_bytes()[..16]);
            }
            Origin::Client(id) => {
                let digest = digest(&SHA256, id.as_bytes());
                write_hex(&digest.as_ref()[..16], &mut text[3..35]);
                write_hex(&digest.as_ref()[16..24], &mut text[36..52]);
            }
        }
        HeaderValue::from_bytes(&text).ok()
    }

    fn as_str(&self) -> &str {
        match &self.0 {
            Origin::Ours(text) => std::str::from_utf8(text).unwrap_or("-"),
            Origin::Client(value) => value.to_str().unwrap_or("-"),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Hexadecimal, and neither part of it all zeros (§3.2.2).
fn is_trace_id(id: &[u8]) -> bool {
    id.len() == 32
        && id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && id[..16].iter().any(|&byte| byte != b'0')
}

/// Two digits for each byte; `text` is as long as that.
fn write_hex(bytes: &[u8], text: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (at, byte) in bytes.iter().enumerate() {
        text[2 * at] = DIGITS[usize::from(byte >> 4)];
        text[2 * at + 1] = DIGITS[usize::from(byte & 15)];
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// Follows a request from hop to hop.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_request_ids_are_replaced() {
        for (sent, kept) in [
            (&b"3f2a-abc.DEF_1:2"[..], true),
            (b"", false),
            (b"a b", false),
            (b"\x1b[31m", false),
            (b"caf\xc3\xa9", false),
            (&[b'a'; 129], false),
        ] {
            let value = HeaderValue::from_bytes(sent).unwrap_or_else(|_| HeaderValue::from_static(""));
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-request-id"), value)]);
            assert_eq!(RequestId::of(&headers).to_header().as_bytes() == sent, kept, "{sent:?}");
        }
    }

    #[test]
    fn every_request_id_makes_one_trace_parent() {
        let parent =
            |id: &'static str| RequestId(Origin::Client(HeaderValue::from_static(id))).as_trace_parent().unwrap();
        let own = parent("4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(own, "00-4bf92f3577b34da6a3ce929d0e0e4736-4bf92f3577b34da6-00");
        for id in ["job-17", "00000000000000000000000000000000", "4BF92F3577B34DA6A3CE929D0E0E4736"] {
            let made = parent(id);
            assert_eq!((made.len(), made.as_bytes()[2], made.as_bytes()[35]), (55, b'-', b'-'), "{made:?}");
            assert_eq!(made, parent(id), "the same for every attempt");
        }
    }
}
