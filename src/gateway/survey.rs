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

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, header};
    use proptest::prelude::*;

    /// Names that somebody here looks for, and values that make a difference.
    fn any_headers() -> impl Strategy<Value = HeaderMap> {
        let names = [
            "accept",
            "authorization",
            "cache-control",
            "connection",
            "content-length",
            "content-type",
            "cookie",
            "expect",
            "forwarded",
            "host",
            "hx-request",
            "keep-alive",
            "latchgate-login",
            "latchgate-reason",
            "next-action",
            "next-router-prefetch",
            "origin",
            "proxy-authorization",
            "proxy-connection",
            "purpose",
            "referer",
            "rsc",
            "sec-fetch-dest",
            "sec-fetch-mode",
            "sec-fetch-site",
            "sec-purpose",
            "server",
            "set-cookie",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "user-agent",
            "vary",
            "x-request-id",
            "x-requested-with",
            "x_forwarded_for",
        ];
        let values = [
            "1",
            "application/grpc",
            "application/x-www-form-urlencoded; charset=utf-8",
            "latchgate-login, x",
            "navigate",
            "prefetch",
            "text/event-stream",
            "text/html,*/*;q=0.1",
            "trailers",
            "true",
            "websocket",
            "XMLHttpRequest",
        ];
        let field = (proptest::sample::select(names.to_vec()), proptest::sample::select(values.to_vec()));
        proptest::collection::vec(field, 0..7).prop_map(|fields| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            headers
        })
    }

    /// NAV as SPEC §1 says it, one question after the other.
    fn navigation(method: &Method, headers: &HeaderMap) -> Client {
        let is = |name: &str, wanted: &str| {
            headers.get_all(name).iter().any(|value| {
                let text = value.to_str().unwrap();
                text.split(',').any(|member| member.split(';').next().unwrap().trim().eq_ignore_ascii_case(wanted))
            })
        };
        let has = |name: &str| headers.contains_key(name);
        let shape = match *method {
            Method::GET | Method::HEAD => Client::Page,
            Method::POST => Client::Form,
            _ => return Client::Script,
        };
        let is_script = is("accept", "text/event-stream")
            || ["sec-purpose", "next-action", "next-router-prefetch"].into_iter().any(has)
            || is("purpose", "prefetch")
            || is("upgrade", "websocket")
            || is("rsc", "1")
            || is("hx-request", "true");
        let navigates = if ["mode", "site", "dest"].into_iter().any(|part| has(&format!("sec-fetch-{part}"))) {
            headers.get_all("sec-fetch-mode").iter().next_back().is_some_and(|mode| mode == "navigate")
        } else {
            is("accept", "text/html")
                && !is("x-requested-with", "XMLHttpRequest")
                && (shape == Client::Page || is("content-type", "application/x-www-form-urlencoded"))
        };
        if navigates && !is_script { shape } else { Client::Script }
    }

    fn any_method() -> impl Strategy<Value = Method> {
        proptest::sample::select(vec![Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::CONNECT])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn one_pass_finds_what_asking_for_each_name_finds(headers in any_headers(), method in any_method()) {
            let survey = RequestSurvey::of(&headers);
            prop_assert_eq!(survey.client(&method), navigation(&method, &headers));
            prop_assert_eq!(Client::of(&method, &headers), navigation(&method, &headers));
            prop_assert_eq!(survey.hosts, headers.get_all(header::HOST).iter().count());
            prop_assert_eq!(survey.authorizations, headers.get_all(header::AUTHORIZATION).iter().count());
            for (found, name) in [
                (survey.cookies, "cookie"),
                (survey.referer, "referer"),
                (survey.upgrade, "upgrade"),
                (survey.htmx, "hx-request"),
                (survey.request_id, "x-request-id"),
            ] {
                prop_assert_eq!(found, headers.contains_key(name), "{}", name);
            }
            let begins = |name, start: &str| headers.get_all(name).iter().any(|value| value.as_bytes().starts_with(start.as_bytes()));
            let stays_open = headers.contains_key("upgrade")
                || begins(header::ACCEPT, "text/event-stream")
                || begins(header::CONTENT_TYPE, "application/grpc");
            prop_assert_eq!(survey.stays_open, stays_open);
        }

        #[test]
        fn what_an_answer_does_not_have_need_not_be_taken_out(headers in any_headers()) {
            let survey = AnswerSurvey::of(&headers);
            for (is_there, strip) in [
                (survey.hop_by_hop, headers::strip_hop_by_hop_of_answer as fn(&mut HeaderMap)),
                (survey.our_words, headers::strip_our_words),
                (survey.sets_cookies, |headers| { crate::session::cookie::strip_foreign_claims(headers); }),
            ] {
                let mut stripped = headers.clone();
                strip(&mut stripped);
                prop_assert!(is_there || stripped == headers);
            }
            prop_assert_eq!(survey.cache_control, headers.contains_key("cache-control"));
        }
    }
}
