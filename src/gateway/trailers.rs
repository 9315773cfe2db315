//! Trailer fields (RFC 9110 §6.5): passed on in both directions, and never merged into headers. What means something before the body
//! alone stays behind, and so does what only the gateway, or the route's `request_headers` and `response_headers`, may say.

use super::{Route, headers};
use crate::body::{Body, BodyError};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Which fields may not pass.
pub enum Screen {
    /// Of a request on this route.
    Request(Arc<Route>),
    /// Of an answer on this route.
    Response(Arc<Route>),
}

/// Whether fields can follow `body`: in HTTP/1.1 not when its length was said, in HTTP/2 even then.
pub fn may_follow(body: &impl HttpBody, version: Version) -> bool {
    !body.is_end_stream() && (version == Version::HTTP_2 || body.size_hint().exact().is_none())
}

impl Screen {
    /// `body` without the fields that may not pass.
    pub fn put_on(self, body: Body) -> Body {
        Body::boxed(Screened { body, screen: self })
    }

    /// Says in `headers` which of the fields that `announced` names will come (`Trailer`, RFC 9110 §6.6.2).
    pub fn announce(&self, announced: &[HeaderValue], headers: &mut HeaderMap) {
        let names: Vec<&str> = announced
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|name| HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| self.passes(&name)))
            .collect();
        if let Ok(value) = HeaderValue::try_from(names.join(", "))
            && !names.is_empty()
        {
            headers.insert(header::TRAILER, value);
        }
    }

    fn passes(&self, name: &HeaderName) -> bool {
        let is_never = NEVER.iter().any(|never| headers::is_spelling_of(name.as_str(), never.as_str()));
        !is_never
            && match self {
                Screen::Request(route) => {
                    !route.owned.contain(name)
                        && !headers::is_claim_of_a_proxy(name.as_str())
                        && !route.acceptance.as_ref().is_some_and(|accepts| accepts.reads(name))
                        && !route.settings.request_headers.speak_of(name)
                }
                Screen::Response(route) => {
                    !headers::is_our_word(name) && !route.settings.response_headers.speak_of(name)
                }
            }
    }

    fn strip(&self, fields: &mut HeaderMap) {
        let unwanted: Vec<HeaderName> = fields.keys().filter(|name| !self.passes(name)).cloned().collect();
        for name in unwanted {
            fields.remove(name);
        }
    }
}

struct Screened {
    body: Body,
    screen: Screen,
}

impl HttpBody for Screened {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_trailers() {
                Err(data) => return Poll::Ready(Some(Ok(data))),
                Ok(mut fields) => {
                    this.screen.strip(&mut fields);
                    if !fields.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::trailers(fields))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Framing, routing, modifiers of requests, authentication, how content is to be read (RFC 9110 §6.5.1), and what ends at this hop.
const NEVER: [HeaderName; 29] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::FORWARDED,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
