//! What is true of a request, found out once and never again.

use crate::clock::Now;
use crate::policy::Client;
use crate::policy::path::NormalPath;
use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, HeaderValue, Method};
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
    /// The host the browser used, if a trusted proxy in front has changed it.
    pub forwarded_host: Option<HeaderValue>,
    /// The `Host` of the request, port included; its text is ASCII.
    pub authority: HeaderValue,
    /// The page that a script's request came from, if it is one of ours at all.
    pub referer: Option<HeaderValue>,
    /// Asks for an exchange that stays open: an upgrade, an event stream, gRPC.
    pub stays_open: bool,
}

impl Facts {
    /// The host as the browser knows it.
    #[must_use]
    pub fn public_host(&self) -> &HeaderValue {
        self.forwarded_host.as_ref().unwrap_or(&self.authority)
    }

    /// `Forwarded` (RFC 7239 §4) for this hop; None when the host cannot be quoted.
    #[must_use]
    pub fn forwarded(&self) -> Option<HeaderValue> {
        let host = self.public_host().to_str().ok()?;
        let proto = self.scheme.as_str();
        let text = match self.client_address {
            Some(IpAddr::V4(address)) => format!("for={address};host=\"{host}\";proto={proto}"),
            Some(IpAddr::V6(address)) => format!("for=\"[{address}]\";host=\"{host}\";proto={proto}"),
            None => format!("host=\"{host}\";proto={proto}"),
        };
        HeaderValue::try_from(text).ok()
    }
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
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The client's, when it is fit to be logged; else a new one of 128 random bits.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> RequestId {
        match headers.get("x-request-id") {
            Some(id) if is_sane(id.as_bytes()) => RequestId(id.clone()),
            _ => RequestId::random(),
        }
    }

    /// The header's value.
    #[must_use]
    pub fn as_header(&self) -> &HeaderValue {
        &self.0
    }

    /// `traceparent` (W3C Trace Context §3.2) of a trace that begins here, unsampled; the same for
    /// every attempt. Our own ids are trace ids; of a client's one is made.
    #[must_use]
    pub fn as_trace_parent(&self) -> Option<HeaderValue> {
        let id = self.0.to_str().ok()?;
        let text = if is_trace_id(id) {
            format!("00-{id}-{}-00", &id[..16])
        } else {
            let digest = digest(&SHA256, id.as_bytes());
            let (trace, rest) = digest.as_ref().split_first_chunk()?;
            format!("00-{:032x}-{:016x}-00", u128::from_be_bytes(*trace), u64::from_be_bytes(*rest.first_chunk()?))
        };
        HeaderValue::try_from(text).ok()
    }

    fn random() -> RequestId {
        let mut bytes = [0; 16];
        // An id only helps to find a log line; without randomness requests fail elsewhere.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        let text = format!("{:032x}", u128::from_be_bytes(bytes));
        RequestId(HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("-")))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or("-"))
    }
}

/// Whether the client asks for an exchange that cannot be sent again once it is open.
#[must_use]
pub fn stays_open(headers: &HeaderMap) -> bool {
    let says = |name: &str, wanted: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.starts_with(wanted))
    };
    headers.contains_key(http::header::UPGRADE)
        || says("accept", "text/event-stream")
        || says("content-type", "application/grpc")
}

/// Hexadecimal, and neither part of it all zeros (§3.2.2).
fn is_trace_id(id: &str) -> bool {
    id.len() == 32
        && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && id.bytes().take(16).any(|byte| byte != b'0')
}

fn is_sane(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

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
            assert_eq!(RequestId::of(&headers).as_header().as_bytes() == sent, kept, "{sent:?}");
        }
    }

    #[test]
    fn every_request_id_makes_one_trace_parent() {
        let parent = |id: &'static str| RequestId(HeaderValue::from_static(id)).as_trace_parent().unwrap();
        let own = parent("4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(own, "00-4bf92f3577b34da6a3ce929d0e0e4736-4bf92f3577b34da6-00");
        for id in ["job-17", "00000000000000000000000000000000", "4BF92F3577B34DA6A3CE929D0E0E4736"] {
            let made = parent(id);
            assert_eq!((made.len(), made.as_bytes()[2], made.as_bytes()[35]), (55, b'-', b'-'), "{made:?}");
            assert_eq!(made, parent(id), "the same for every attempt");
        }
    }
}
