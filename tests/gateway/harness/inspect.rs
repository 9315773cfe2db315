//! What must be true of every reply of a gateway. The browser looks at each one.

use super::jar::SetCookie;
use super::upstream::is_relayed;
use super::wire::Reply;
use url::Url;

/// What the inspection has to know about the gateway.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// `external_url`.
    pub external: Url,
    /// `login.prefix`.
    pub login_prefix: String,
    /// The issuer, whose end-session endpoint may be given an ID token.
    pub issuer: String,
}

/// Checks one reply to a request for `url`.
///
/// # Panics
/// When the reply breaks a rule, with the rule.
pub fn inspect(url: &Url, reply: &Reply, secrets: &[String], expected: &Expectations) {
    for field in reply.headers.values("set-cookie") {
        let cookie = SetCookie::parse(field);
        if is_ours(&cookie.name) {
            check_cookie(&cookie, expected);
        }
    }
    if is_relayed(reply) {
        return;
    }
    for (name, _) in &reply.headers.0 {
        let known = KNOWN_HEADERS.contains(&name.to_ascii_lowercase().as_str());
        assert!(known, "{url}: the gateway made a header of an unexpected name: {name}");
    }
    let path = url.path();
    let below = path.strip_prefix(&expected.login_prefix);
    if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        let cache = reply.header("cache-control");
        assert!(cache.contains("no-store"), "{url}: {} may be cached: {cache:?}", reply.status);
    }
    check_redirect(url, reply);
    check_secrets(url, reply, secrets, expected);
}

/// Whether a cookie name belongs to the gateway.
pub fn is_ours(name: &str) -> bool {
    name.strip_prefix("__Host-").unwrap_or(name).starts_with("latchgate")
}

fn check_cookie(cookie: &SetCookie, expected: &Expectations) {
    let name = &cookie.name;
    let https = expected.external.scheme() == "https";
    assert!(cookie.attribute("httponly").is_some(), "{name}: scripts can read it");
    assert!(cookie.attribute("domain").is_none(), "{name}: goes to other hosts");
    assert_eq!(cookie.attribute("secure").is_some(), https, "{name}: Secure follows external_url");
    assert_eq!(name.starts_with("__Host-"), https, "{name}: the prefix follows external_url");
    assert_eq!(cookie.attribute("samesite"), Some("Lax"), "{name}");
    if https {
        assert_eq!(cookie.attribute("path"), Some("/"), "{name}: __Host- asks for it");
    }
}

/// 302 and 303 make a GET without a body; 307 is only for sending the same request again.
fn check_redirect(url: &Url, reply: &Reply) {
    if !matches!(reply.status, 301 | 302 | 303 | 307 | 308) {
        return;
    }
    let target = url.join(reply.header("location")).expect("Location is a URL reference");
    let same = target == *url && reply.status == 307;
    assert!(same || matches!(reply.status, 302 | 303), "{url}: {} to {target}", reply.status);
}

fn check_secrets(url: &Url, reply: &Reply, secrets: &[String], expected: &Expectations) {
    let body = reply.text();
    let logout = format!("{}/end-session?", expected.issuer);
    for secret in secrets {
        for (name, value) in &reply.headers.0 {
            let hint = name.eq_ignore_ascii_case("location") && value.starts_with(&logout);
            assert!(hint || !value.contains(secret.as_str()), "{url}: {name} gives away a secret");
        }
        let hands_out = url.path() == "/auth/access-token" && reply.status == 200 && secret.starts_with("at-");
        assert!(hands_out || !body.contains(secret.as_str()), "{url}: the body gives away a secret");
    }
}

const KNOWN_HEADERS: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "allow",
    "cache-control",
    "clear-site-data",
    "connection",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "date",
    "expires",
    "hx-redirect",
    "latchgate-login",
    "latchgate-reason",
    "location",
    "permissions-policy",
    "pragma",
    "referrer-policy",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
    "x-request-id",
];
