//! The double-submit check of a route with `xsrf` (SPEC §6): a page proves that it can read our cookies by repeating one in a header.
//! axios and Angular do that by themselves, under the default names.
//!
//! It comes on top of the check of where a request was made (SPEC §7). The pair is not a credential, and the upstream gets both as they came:
//! an application that has a check of its own goes on with it, and where it sets the cookie itself, its value is the one that counts.

use super::Xsrf;
use crate::body::Body;
use crate::policy::{self, csrf};
use crate::provider::random_token;
use crate::session::cookie::pairs;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq;

/// Whether an unsafe request fails to repeat the cookie. `cookies` are its `Cookie` lines.
#[must_use]
pub fn is_missing(xsrf: &Xsrf, method: &Method, headers: &HeaderMap, cookies: &[HeaderValue]) -> bool {
    if csrf::is_safe(method) {
        return false;
    }
    let mut said = headers.get_all(&xsrf.header).iter();
    let (Some(said), None) = (said.next(), said.next()) else { return true };
    !values(xsrf, cookies).any(|cookie| repeats(said.as_bytes(), cookie))
}

/// The cookie that a route's answers bring to a browser that has none.
pub struct Offer {
    set_cookie: HeaderValue,
    name: String,
}

impl Offer {
    /// None for who has one, and for preflights, which have none by nature.
    #[must_use]
    pub fn to(
        xsrf: &Xsrf,
        method: &Method,
        headers: &HeaderMap,
        cookies: &[HeaderValue],
        secure: bool,
    ) -> Option<Offer> {
        if policy::is_preflight(method, headers) || values(xsrf, cookies).next().is_some() {
            return None;
        }
        let (name, value) = (xsrf.cookie.clone(), random_token());
        let secure = if secure { "; Secure" } else { "" };
        let set_cookie = HeaderValue::try_from(format!("{name}={value}; SameSite=Lax{secure}; Path=/")).ok()?;
        Some(Offer { set_cookie, name })
    }

    /// Unless the upstream sets it. No cache is to keep the answer then: the next browser gets a value of its own.
    pub fn put_on(self, response: &mut Response<Body>) {
        let is_set = |line: &HeaderValue| {
            let name = line.as_bytes().split(|&byte| byte == b'=').next().unwrap_or_default();
            name.trim_ascii() == self.name.as_bytes()
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            || response.headers().get_all(header::SET_COOKIE).iter().any(is_set)
        {
            return;
        }
        response.headers_mut().append(header::SET_COOKIE, self.set_cookie);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// An empty value proves nothing.
fn values<'h>(xsrf: &Xsrf, cookies: &'h [HeaderValue]) -> impl Iterator<Item = &'h str> {
    pairs(cookies).filter(move |&(name, value)| name == xsrf.cookie && !value.is_empty()).map(|(_, value)| value)
}

/// Scripts decode a cookie before they repeat it, where its value was percent-encoded.
fn repeats(said: &[u8], cookie: &str) -> bool {
    let decoded: Vec<u8> = percent_decode_str(cookie).collect();
    bool::from(said.ct_eq(cookie.as_bytes()) | said.ct_eq(&decoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn xsrf() -> Xsrf {
        Xsrf { cookie: "XSRF-TOKEN".to_owned(), header: HeaderName::from_static("x-xsrf-token") }
    }

    fn lines(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn ta_23_the_header_repeats_the_cookie() {
        for (method, cookies, header, missing) in [
            (Method::POST, &["a=1; XSRF-TOKEN=abc"][..], &["abc"][..], false),
            (Method::DELETE, &["XSRF-TOKEN=abc"], &["abc"], false),
            (Method::POST, &["XSRF-TOKEN=a%3Db%2F"], &["a=b/"], false),
            (Method::POST, &["XSRF-TOKEN=a%3Db"], &["a%3Db"], false),
            (Method::POST, &["XSRF-TOKEN=old; XSRF-TOKEN=abc"], &["abc"], false),
            (Method::POST, &["XSRF-TOKEN=abc"], &[], true),
            (Method::POST, &["XSRF-TOKEN=abc"], &["abd"], true),
            (Method::POST, &["XSRF-TOKEN=abc"], &["ab"], true),
            (Method::POST, &["XSRF-TOKEN=abc"], &["abc", "abc"], true),
            (Method::POST, &["XSRF-TOKEN="], &[""], true),
            (Method::POST, &["xsrf-token=abc"], &["abc"], true),
            (Method::POST, &[], &["abc"], true),
            (Method::GET, &[], &[], false),
            (Method::OPTIONS, &["XSRF-TOKEN=abc"], &[], false),
        ] {
            let cookies: Vec<HeaderValue> = cookies.iter().map(|line| HeaderValue::from_static(line)).collect();
            let headers = lines(xsrf().header, header);
            assert_eq!(is_missing(&xsrf(), &method, &headers, &cookies), missing, "{method} {cookies:?} {header:?}");
        }
    }

    #[test]
    fn who_has_no_cookie_is_given_one_that_scripts_can_read() {
        let offer = |cookies: &[&'static str], secure| {
            let cookies: Vec<HeaderValue> = cookies.iter().map(|line| HeaderValue::from_static(line)).collect();
            Offer::to(&xsrf(), &Method::GET, &HeaderMap::new(), &cookies, secure)
        };
        assert!(offer(&["a=1; XSRF-TOKEN=abc"], true).is_none());
        let mut response = Response::new(Body::Empty);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        offer(&["a=1"], true).unwrap().put_on(&mut response);
        let line = response.headers()["set-cookie"].to_str().unwrap();
        let (value, attributes) = line.strip_prefix("XSRF-TOKEN=").unwrap().split_once("; ").unwrap();
        assert_eq!((value.len(), attributes), (43, "SameSite=Lax; Secure; Path=/"));
        assert_eq!(response.headers()["cache-control"], "no-store");

        let mut own = Response::new(Body::Empty);
        own.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_static("XSRF-TOKEN=theirs; Path=/"));
        offer(&[], false).unwrap().put_on(&mut own);
        assert_eq!(own.headers().get_all("set-cookie").iter().collect::<Vec<_>>(), ["XSRF-TOKEN=theirs; Path=/"]);
    }
}
