//! Stand-ins (SPEC §6 "Capture"): what an app that handles tokens itself is given in their place. They pass the checks that apps make
//! of a token, and are worth nothing: the session cookie is what counts. They are recognised by their form alone, and go no further
//! than this gateway.
//!
//! | the token is | its stand-in is |
//! |---|---|
//! | a JWT | a JWT with the same payload, under a header of our own and a signature that is none |
//! | anything else | a fixed prefix and 43 characters |

use super::cookie;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_decode_str, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

/// A new stand-in for `token`. Its characters are fit for headers, cookies, queries and JSON as they are.
#[must_use]
pub fn for_token(token: &SecretString) -> String {
    // Stand-ins have to differ, and need not be hard to guess: they open nothing.
    let random: [u128; 2] = [fastrand::u128(..), fastrand::u128(..)];
    let random = URL_SAFE_NO_PAD.encode(random.map(u128::to_be_bytes).as_flattened());
    match payload_of_jwt(token.expose_secret()) {
        Some(payload) => format!("{JWT_HEADER}.{payload}.{random}"),
        None => format!("{OPAQUE_PREFIX}{random}"),
    }
}

/// Whether there is a stand-in anywhere in `text`, percent-encoded or not.
#[must_use]
pub fn is_in(text: &[u8]) -> bool {
    let has_mark = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        text.contains(JWT_HEADER) || text.contains(OPAQUE_PREFIX)
    };
    has_mark(text) || (text.contains(&b'%') && has_mark(&percent_decode(text).collect::<Vec<u8>>()))
}

/// Takes every header out that has one, and of `Cookie` the pairs that do. Answers whether there were any.
pub fn strip(headers: &mut HeaderMap) -> bool {
    let mut with_one: Vec<HeaderName> = Vec::new();
    for (name, value) in &*headers {
        if is_in(value.as_bytes()) && with_one.last() != Some(name) {
            with_one.push(name.clone());
        }
    }
    for name in &with_one {
        if *name == header::COOKIE {
            cookie::strip_pairs(headers, is_in);
        } else {
            headers.remove(name);
        }
    }
    !with_one.is_empty()
}

/// `target` with `token` where a query parameter is a stand-in. Without a `token` the parameter goes, and so does one that has a
/// stand-in among other things; the others keep their order and bytes.
#[must_use]
pub fn replace_in_query(target: &PathAndQuery, token: Option<&SecretString>) -> Option<PathAndQuery> {
    let Some(query) = target.query().filter(|query| is_in(query.as_bytes())) else { return Some(target.clone()) };
    let parameters: Vec<String> = query.split('&').filter_map(|parameter| with_token(parameter, token)).collect();
    let separator = if parameters.is_empty() { "" } else { "?" };
    PathAndQuery::try_from(format!("{}{separator}{}", target.path(), parameters.join("&"))).ok()
}

/// Puts a stand-in back wherever `headers` have `token`: a redirect often repeats the query it has got.
pub fn put_back(headers: &mut HeaderMap, token: &SecretString) {
    let plain = token.expose_secret();
    let encoded = utf8_percent_encode(plain, QUERY_VALUE).to_string();
    for value in headers.values_mut() {
        let text = String::from_utf8_lossy(value.as_bytes());
        if text.contains(plain) || text.contains(&encoded) {
            let stand_in = for_token(token);
            let text = text.replace(plain, &stand_in).replace(&encoded, &stand_in);
            *value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        }
    }
}

fn with_token(parameter: &str, token: Option<&SecretString>) -> Option<String> {
    if !is_in(parameter.as_bytes()) {
        return Some(parameter.to_owned());
    }
    let (name, value) = parameter.split_once('=')?;
    let is_one = is_stand_in(&percent_decode_str(value).decode_utf8_lossy()) && !is_in(name.as_bytes());
    let token = token.filter(|_| is_one)?;
    Some(format!("{name}={}", utf8_percent_encode(token.expose_secret(), QUERY_VALUE)))
}

fn is_stand_in(text: &str) -> bool {
    (text.starts_with(JWT_HEADER) || text.starts_with(OPAQUE_PREFIX))
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// The middle segment of a JWS in compact serialisation (RFC 7515 §7.1) whose header and payload are JSON objects.
fn payload_of_jwt(token: &str) -> Option<&str> {
    let mut segments = token.split('.');
    let [header, payload, _signature] = [segments.next()?, segments.next()?, segments.next()?];
    let is_object = |segment: &str| {
        let decoded = URL_SAFE_NO_PAD.decode(segment).ok();
        decoded.is_some_and(|decoded| serde_json::from_slice::<Map<String, Value>>(&decoded).is_ok())
    };
    (segments.next().is_none() && is_object(header) && is_object(payload)).then_some(payload)
}

/// `{"alg":"latchgate","typ":"stand-in"}`
const JWT_HEADER: &str = "eyJhbGciOiJsYXRjaGdhdGUiLCJ0eXAiOiJzdGFuZC1pbiJ9";
const OPAQUE_PREFIX: &str = "latchgate-stand-in.";
/// Everything but what is unreserved (RFC 3986 §2.3).
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn jwt(payload: &Value) -> String {
        let segment = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2lnbmF0dXJl", segment(&json!({"alg": "HS256"})), segment(payload))
    }

    #[test]
    fn the_stand_in_of_a_jwt_passes_for_one_with_the_same_claims() {
        let token = jwt(&json!({"sub": "ada", "exp": 1_900_000_000}));
        let stand_in = for_token(&token.clone().into());
        let segments: Vec<&str> = stand_in.split('.').collect();
        let decoded =
            |segment: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segment).unwrap()).unwrap() };
        assert_eq!(segments.len(), 3);
        assert_eq!(decoded(segments[0]), json!({"alg": "latchgate", "typ": "stand-in"}));
        assert_eq!(decoded(segments[1]), json!({"sub": "ada", "exp": 1_900_000_000}));
        assert!(!token.contains(segments[2]));
    }

    #[test]
    fn what_is_no_jwt_gets_an_opaque_one_and_no_two_are_the_same() {
        let encrypted = format!("{}.e.e", jwt(&json!({})));
        for token in ["", "opaque", "a.b.c", "e30.e30", "e30.W10.c2ln", encrypted.as_str()] {
            let token = SecretString::from(token);
            let stand_in = for_token(&token);
            assert!(stand_in.starts_with(OPAQUE_PREFIX) && is_stand_in(&stand_in), "{stand_in}");
            assert_ne!(stand_in, for_token(&token));
        }
    }

    proptest! {
        #[test]
        fn every_stand_in_is_recognised_and_fit_for_a_header(token: String) {
            let stand_in = for_token(&token.into());
            let among_others = ["a", &stand_in, "b"].concat();
            prop_assert!(is_stand_in(&stand_in) && is_in(among_others.as_bytes()));
            prop_assert!(HeaderValue::try_from(&stand_in).is_ok());
            let encoded: String = stand_in.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert!(is_in(encoded.as_bytes()));
        }
    }

    #[test]
    fn other_tokens_are_none() {
        for text in ["", "Bearer abc", "latchgate", "eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "%"] {
            assert!(!is_in(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn headers_and_cookies_lose_them() {
        let (jwt, opaque) = (for_token(&jwt(&json!({})).into()), for_token(&"opaque".into()));
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", format!("Token \"{jwt}\"")),
            ("x-refresh", format!("Bearer {opaque}")),
            ("x-list", "harmless".to_owned()),
            ("x-list", opaque.clone()),
            ("cookie", format!("a=1; auth.access_token={jwt}; auth=%7B%22t%22%3A%22{opaque}%22%7D; b=2")),
            ("cookie", format!("c={opaque}")),
            ("accept", "*/*".to_owned()),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::try_from(value).unwrap());
        }
        assert!(strip(&mut headers));
        assert!(!strip(&mut headers));
        let mut left: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, [("accept", "*/*"), ("cookie", "a=1; b=2")]);
    }

    #[test]
    fn headers_of_an_answer_get_stand_ins_for_the_token() {
        let token = SecretString::from("re/al");
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("location", "/x?a=%7e&token=re%2Fal&b#re/al"),
            ("set-cookie", "a=re%2Fal"),
            ("set-cookie", "b=real"),
            ("etag", "\"1\""),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        put_back(&mut headers, &token);
        let location = headers["location"].to_str().unwrap();
        assert!(location.starts_with("/x?a=%7e&token=latchgate-stand-in.") && is_in(location.as_bytes()), "{location}");
        assert!(headers.values().all(|value| !value.to_str().unwrap().contains("re/al")));
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert!(is_in(cookies[0].as_bytes()) && cookies[1] == "b=real" && headers["etag"] == "\"1\"");
    }

    #[test]
    fn queries_get_the_token_or_lose_the_parameter() {
        let stand_in = for_token(&"opaque".into());
        let token = SecretString::from("re al");
        let target = |query: &str| PathAndQuery::try_from(format!("/ws?{query}")).unwrap();
        for (query, with, without) in [
            (format!("a=%7e&token={stand_in}&a&&b=1"), "/ws?a=%7e&token=re%20al&a&&b=1", "/ws?a=%7e&a&&b=1"),
            (format!("token={stand_in}"), "/ws?token=re%20al", "/ws"),
            (format!("u=%2Fx%3Ft%3D{stand_in}&b"), "/ws?b", "/ws?b"),
            (stand_in.clone(), "/ws", "/ws"),
            ("token=other".to_owned(), "/ws?token=other", "/ws?token=other"),
        ] {
            assert_eq!(replace_in_query(&target(&query), Some(&token)).unwrap(), with, "{query}");
            assert_eq!(replace_in_query(&target(&query), None).unwrap(), without, "{query}");
        }
    }
}
