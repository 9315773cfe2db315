//! The outcomes of the specification, as assertions.

use super::upstream::{REFUSAL, is_relayed};
use super::wire::Reply;
use http::StatusCode;
use serde_json::Value;
use url::Url;

/// LOGIN for a navigation: `status` to the login, not to be cached.
#[track_caller]
pub fn login_redirect(reply: &Reply, status: u16, reason: &str, return_to: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert!(reply.header("cache-control").contains("no-store"), "{:?}", reply.headers);
    assert_eq!(login_target(reply.header("location")), (return_to.to_owned(), reason.to_owned()));
}

/// LOGIN for anything else, when the gateway refused: 401, the gateway's JSON, no cookie.
#[track_caller]
pub fn login_status(reply: &Reply, reason: &str, return_to: &str) {
    let body = error_json(reply, 401);
    login_headers(reply, reason, return_to);
    assert_eq!(login_target(body["loginUrl"].as_str().expect("loginUrl")).0, return_to);
    assert!(reply.header("www-authenticate").starts_with("Bearer"), "{:?}", reply.headers);
}

/// LOGIN for anything else, when the upstream refused: its own 401, with our two headers.
#[track_caller]
pub fn login_after_refusal(reply: &Reply, reason: &str, return_to: &str) {
    assert_eq!((reply.status, reply.text().as_str()), (401, REFUSAL));
    assert!(is_relayed(reply), "the upstream's headers are there: {:?}", reply.headers);
    assert_eq!(reply.headers.values("www-authenticate"), [r#"Bearer realm="api", error="invalid_token""#]);
    login_headers(reply, reason, return_to);
}

/// The gateway's error document (SPEC §8).
#[track_caller]
pub fn error_json(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert!(!is_relayed(reply), "the gateway answers: {}", reply.text());
    assert!(reply.header("content-type").starts_with("application/json"), "{:?}", reply.headers);
    let body = reply.json();
    let phrase = StatusCode::from_u16(status).unwrap().canonical_reason().unwrap();
    assert_eq!((body["statusCode"].as_u64(), body["error"].as_str()), (Some(u64::from(status)), Some(phrase)));
    for member in ["message", "code", "requestId"] {
        assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {body}");
    }
    body
}

/// The gateway's small page for a navigation.
#[track_caller]
pub fn error_page(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert!(!is_relayed(reply), "the gateway answers: {}", reply.text());
    assert!(reply.header("content-type").starts_with("text/html"), "{:?}", reply.headers);
}

/// The upstream's answer came through.
#[track_caller]
pub fn relayed(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert!(is_relayed(reply), "the upstream answers: {}", reply.text());
    assert!(!reply.headers.contains("latchgate-login"), "{:?}", reply.headers);
}

#[track_caller]
fn login_headers(reply: &Reply, reason: &str, return_to: &str) {
    assert_eq!(reply.header("latchgate-reason"), reason);
    assert_eq!(login_target(reply.header("latchgate-login")), (return_to.to_owned(), reason.to_owned()));
    assert!(!reply.headers.contains("location"), "a script is not redirected");
}

/// `return_to` and `status` of a login URL.
#[track_caller]
fn login_target(location: &str) -> (String, String) {
    let base = Url::parse("http://gw.test").expect("a URL");
    let url = base.join(location).expect("a URL reference");
    assert_eq!(url.path(), "/auth/login", "{location}");
    let parameter = |name: &str| {
        url.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    (parameter("return_to"), parameter("status"))
}
