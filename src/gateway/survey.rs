//! One pass over the headers of a message: which of those that the steps look for are there at all. Most are not, and a look-up that
//! finds nothing costs as much as one that finds something.

use super::headers;
use crate::policy::{Client, Signs};
use http::{HeaderMap, HeaderValue, Method};

/// What a request has. Headers are only taken out afterwards, so what is false stays false.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestSurvey {
    signs: Signs,
    /// Names, values and what separates them, as `limits.header_bytes` counts.
    pub bytes: usize,
    /// Lines of `Host`.
    pub hosts: usize,
    /// Lines of `Authorization`.
    pub authorizations: usize,
    /// It asks for an exchange that stays open and cannot be sent again: an upgrade, an event stream, gRPC.
    pub stays_open: bool,
    /// `Cookie`.
    pub cookies: bool,
    /// `Referer`.
    pub referer: bool,
    /// `Upgrade`.
    pub upgrade: bool,
    /// `HX-Request`.
    pub htmx: bool,
    /// `X-Request-Id`.
    pub request_id: bool,
    /// Something for this hop alone: see [`headers::strip_hop_by_hop`].
    pub hop_by_hop: bool,
    /// Something that [`headers::strip_claims_of_proxies`] may have to take out.
    pub claims_of_proxies: bool,
}

impl RequestSurvey {
    /// Of a request as it came.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> RequestSurvey {
        let mut survey = RequestSurvey::default();
        for (name, value) in headers {
            survey.note(name.as_str(), value);
        }
        survey
    }

    /// What kind of client asks.
    #[must_use]
    pub fn client(&self, method: &Method) -> Client {
        self.signs.client(method)
    }

    fn note(&mut self, name: &str, value: &HeaderValue) {
        self.bytes += name.len() + value.len() + 4;
        match name {
            "host" => self.hosts += 1,
            "cookie" => self.cookies = true,
            "referer" => self.referer = true,
            "authorization" => self.authorizations += 1,
            "x-request-id" => self.request_id = true,
            "accept" => {
                self.stays_open |= value.as_bytes().starts_with(b"text/event-stream");
                self.signs.note(name, value);
            }
            "content-type" => {
                self.stays_open |= value.as_bytes().starts_with(b"application/grpc");
                self.signs.note(name, value);
            }
            "upgrade" => {
                (self.upgrade, self.stays_open, self.hop_by_hop) = (true, true, true);
                self.signs.note(name, value);
            }
            "hx-request" => {
                self.htmx = true;
                self.signs.note(name, value);
            }
            "sec-fetch-mode" | "sec-fetch-site" | "sec-fetch-dest" | "sec-fetch-user" => self.signs.note(name, value),
            // What nearly every request has, and nobody here asks about.
            "user-agent" | "accept-language" | "accept-encoding" | "content-length" | "origin" | "cache-control" => {}
            _ => {
                self.signs.note(name, value);
                self.hop_by_hop |= headers::is_hop_by_hop(name);
                self.claims_of_proxies |= headers::may_claim(name);
            }
        }
    }
}

/// What an upstream's answer has.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnswerSurvey {
    /// Something for this hop alone.
    pub hop_by_hop: bool,
    /// What only we may say: see [`headers::strip_our_words`].
    pub our_words: bool,
    /// `Set-Cookie`.
    pub sets_cookies: bool,
    /// `Cache-Control`.
    pub cache_control: bool,
    /// `Content-Type: text/event-stream`, whatever its parameters.
    pub is_event_stream: bool,
}

impl AnswerSurvey {
    /// Of an answer's headers as they are.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> AnswerSurvey {
        let mut survey = AnswerSurvey::default();
        for (name, value) in headers {
            match name.as_str() {
                "content-type" => survey.is_event_stream |= is_event_stream(value),
                "cache-control" => survey.cache_control = true,
                "set-cookie" => survey.sets_cookies = true,
                // What nearly every answer has, and nobody here asks about.
                "date" | "server" | "etag" | "vary" | "content-length" | "last-modified" | "x-content-type-options" => {
                }
                name => {
                    survey.hop_by_hop |= headers::is_hop_by_hop(name);
                    survey.our_words |= name == headers::LOGIN.as_str() || name == headers::REASON.as_str();
                }
            }
        }
        survey
    }
}

fn is_event_stream(content_type: &HeaderValue) -> bool {
    let essence = content_type.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}
