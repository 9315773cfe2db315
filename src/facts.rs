//! What is true of a request, found out once and never again.

use crate::clock::Now;
use crate::policy::Client;
use crate::policy::path::NormalPath;
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
    /// `Forwarded` (RFC 7239 §4) for this hop; None when the host cannot be quoted.
    #[must_use]
    pub fn forwarded(&self) -> Option<HeaderValue> {
        let host = self.authority.to_str().ok()?;
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

    /// `traceparent` (W3C Trace Context §3.2) of a trace that begins here; None when the id is the
    /// client's and no trace id.
    #[must_use]
    pub fn as_trace_parent(&self) -> Option<HeaderValue> {
        let id = self.0.to_str().ok()?;
        let is_trace_id = id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_trace_id {
            return None;
        }
        HeaderValue::try_from(format!("00-{id}-{}-00", &id[..16])).ok()
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
}
