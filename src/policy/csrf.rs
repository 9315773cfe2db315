//! Where an unsafe request comes from (SPEC §7 "CSRF", draft-ietf-oauth-browser-based-apps §6.1.3.3).
//!
//! | `Sec-Fetch-Site` | `Origin` | source |
//! |---|---|---|
//! | `same-origin`, `none` | any | same origin |
//! | other | allowed | allowed |
//! | other | other or none | foreign |
//! | absent | the external origin | same origin |
//! | absent | allowed | allowed |
//! | absent | other, `null` | foreign |
//! | absent | absent | unknown: no browser sends an unsafe request like this |

use http::{HeaderMap, Method, header};

/// Where a request was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// By a page of this origin, or by the person at the keyboard.
    SameOrigin,
    /// By a page of an origin that the route's `cors.allow_origins` names.
    Allowed,
    /// By a page of somebody else.
    Foreign,
    /// Nothing says.
    Unknown,
}

/// Judges `headers`; `is_own` and `is_allowed` are asked about the `Origin`.
#[must_use]
pub fn source(headers: &HeaderMap, is_own: impl Fn(&str) -> bool, is_allowed: impl Fn(&str) -> bool) -> Source {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => None,
        (Some(only), None) => Some(only.to_str().unwrap_or("null")),
        (Some(_), Some(_)) => Some("null"),
    };
    match (headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes), origin) {
        (Some(b"same-origin" | b"none"), _) => Source::SameOrigin,
        (_, Some(origin)) if origin != "null" && is_allowed(origin) => Source::Allowed,
        (Some(_), _) => Source::Foreign,
        (None, Some(origin)) if origin != "null" && is_own(origin) => Source::SameOrigin,
        (None, Some(_)) => Source::Foreign,
        (None, None) => Source::Unknown,
    }
}

/// Safe methods do nothing that another site could want done (RFC 9110 §9.2.1).
#[must_use]
pub fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_table() {
        const SITES: [Option<&str>; 6] =
            [None, Some("same-origin"), Some("none"), Some("same-site"), Some("cross-site"), Some("bogus")];
        let origins = [None, Some("https://gw"), Some("https://ally"), Some("https://evil"), Some("null")];
        use Source::{Allowed, Foreign, SameOrigin, Unknown};
        let expected = [
            [Unknown, SameOrigin, Allowed, Foreign, Foreign],
            [SameOrigin; 5],
            [SameOrigin; 5],
            [Foreign, Foreign, Allowed, Foreign, Foreign],
            [Foreign, Foreign, Allowed, Foreign, Foreign],
            [Foreign, Foreign, Allowed, Foreign, Foreign],
        ];
        for (site, row) in SITES.into_iter().zip(expected) {
            for (origin, expected) in origins.into_iter().zip(row) {
                let mut headers = HeaderMap::new();
                if let Some(site) = site {
                    headers.insert("sec-fetch-site", HeaderValue::from_static(site));
                }
                if let Some(origin) = origin {
                    headers.insert("origin", HeaderValue::from_static(origin));
                }
                let got = source(&headers, |origin| origin == "https://gw", |origin| origin == "https://ally");
                assert_eq!(got, expected, "{site:?} {origin:?}");
            }
        }
    }

    #[test]
    fn two_origins_are_nobodys() {
        let mut headers = HeaderMap::new();
        headers.append("origin", HeaderValue::from_static("https://gw"));
        headers.append("origin", HeaderValue::from_static("https://evil"));
        assert_eq!(source(&headers, |_| true, |_| true), Source::Foreign);
    }
}
