//! The demo upstream (`url = "demo:"`): an ordinary site with an API that has never heard of
//! latchgate. It looks only at the request it gets, shows it, and can be told to refuse a token, so
//! that a visitor sees a 401 turn into a refresh and a replay.
//!
//! | path | method | answer |
//! |---|---|---|
//! | `/`, `/open/*` | GET | a page that shows what reached the backend |
//! | `/private/*` | GET | the same page, for requests with a good token |
//! | `/api/demo/hello` | GET | a greeting |
//! | `/api/demo/echo` | POST | length and SHA-256 of the body |
//! | `/api/demo/expire` | POST | from now on this token gets a 401 |
//! | `/api/demo/calls` | GET | the last 20 calls of this subject |
//! | `/api/demo/events` | GET | ten server-sent events, one a second |
//!
//! Everything under `/api` and `/private` wants a bearer token: not one that is to be refused, not
//! a JWT whose `exp` has passed. Signatures are not checked, so never put this backend where anyone
//! but the gateway can reach it.

mod bearer;
mod body;
mod memory;

pub use self::body::{DemoBody, Events};

use self::bearer::{Bearer, Refusal, admit, hex, sha256};
use self::memory::{Call, Memory};
use crate::clock::{Clock, Now};
use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, PROXY_AUTHORIZATION,
    REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One demo backend; what it remembers dies with the process.
pub struct DemoUpstream {
    clock: Clock,
    memory: Mutex<Memory>,
}

impl DemoUpstream {
    /// A backend that nobody called yet.
    #[must_use]
    pub fn new(clock: Clock) -> DemoUpstream {
        DemoUpstream { clock, memory: Mutex::default() }
    }

    /// Answers any request. Only `/api/demo/events` answers with a stream.
    pub fn handle(&self, request: Request<Bytes>) -> Response<DemoBody> {
        let now = self.clock.now();
        let bearer = Bearer::of(request.headers());
        let mut memory = self.memory();
        let refused = bearer.as_ref().is_some_and(|bearer| memory.is_refused(bearer.hash()));
        let outcome = decide(request.method(), request.uri().path(), admit(bearer.as_ref(), refused, now.unix));

        if let (Outcome::Expire, Some(bearer)) = (&outcome, &bearer) {
            memory.refuse(bearer.hash());
        }
        let subject = bearer.as_ref().and_then(Bearer::subject);
        if let (Some(bearer), Some(subject)) = (&bearer, subject)
            && !matches!(outcome, Outcome::Calls)
        {
            memory.record(
                subject,
                Call {
                    id: 0,
                    time: time_of_day(now.unix),
                    method: request.method().to_string(),
                    path: request.uri().path().to_owned(),
                    token: bearer.fingerprint(),
                    status: outcome.status().as_u16(),
                },
            );
        }
        let calls = subject.map(|subject| memory.calls(subject)).unwrap_or_default();
        drop(memory);
        let seen = Seen { request, bearer, calls, now };
        seen.answer(&outcome)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A list of calls that misses one is still a list of calls.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Page(Area),
    Hello,
    Echo,
    Expire,
    Calls,
    Events,
    Unauthorized(Refusal, Shape),
    MethodNotAllowed(&'static str, Shape),
    NotFound(Shape),
}

/// A part of the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Area {
    Start,
    Open,
    Private,
}

/// Whom an error is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Json,
    Html,
}

/// First the token, where one is wanted, then the address, then the method.
fn decide(method: &Method, path: &str, admission: Result<(), Refusal>) -> Outcome {
    let api = is_under(path, "/api");
    let shape = if api { Shape::Json } else { Shape::Html };
    if let (true, Err(refusal)) = (api || is_under(path, "/private"), admission) {
        return Outcome::Unauthorized(refusal, shape);
    }
    let (allow, outcome) = match path {
        "/api/demo/hello" => (GET, Outcome::Hello),
        "/api/demo/calls" => (GET, Outcome::Calls),
        "/api/demo/events" => (GET, Outcome::Events),
        "/api/demo/echo" => (POST, Outcome::Echo),
        "/api/demo/expire" => (POST, Outcome::Expire),
        "/" => (GET, Outcome::Page(Area::Start)),
        _ if is_under(path, "/open") => (GET, Outcome::Page(Area::Open)),
        _ if is_under(path, "/private") => (GET, Outcome::Page(Area::Private)),
        _ => return Outcome::NotFound(shape),
    };
    if allow.split(", ").any(|allowed| allowed == method.as_str()) {
        outcome
    } else {
        Outcome::MethodNotAllowed(allow, shape)
    }
}

const GET: &str = "GET, HEAD";
const POST: &str = "POST";

/// Whether `path` is `prefix` or below it.
fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Outcome {
    fn status(&self) -> StatusCode {
        match self {
            Outcome::Unauthorized(..) => StatusCode::UNAUTHORIZED,
            Outcome::MethodNotAllowed(..) => StatusCode::METHOD_NOT_ALLOWED,
            Outcome::NotFound(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::OK,
        }
    }
}

/// One request, and what is known when it is answered.
struct Seen {
    request: Request<Bytes>,
    bearer: Option<Bearer>,
    calls: Vec<Call>,
    now: Now,
}

impl Seen {
    fn answer(&self, outcome: &Outcome) -> Response<DemoBody> {
        let mut response = match outcome {
            Outcome::Page(area) => self.page(area.title(), area.introduction(), false),
            Outcome::Hello => self.json(json!({ "message": format!("Hello, {}.", self.name()) })),
            Outcome::Echo => self.json(json!({
                "bytes": self.request.body().len(),
                "sha256": hex(&sha256(self.request.body())),
            })),
            Outcome::Expire => self.json(json!({ "refused": self.bearer.as_ref().map(Bearer::fingerprint) })),
            Outcome::Calls => self.json(json!({})),
            Outcome::Events => {
                let events = DemoBody::Events(Events::every(Duration::from_secs(1)));
                respond("text/event-stream", events)
            }
            Outcome::Unauthorized(refusal, shape) => self.error(*shape, "A token is needed here", refusal.sentence()),
            Outcome::MethodNotAllowed(_, shape) => self.error(
                *shape,
                "Another method is needed here",
                "This address does not take the method of the request.",
            ),
            Outcome::NotFound(shape) => self.error(*shape, "Nothing here", "This backend has no page at this address."),
        };
        *response.status_mut() = outcome.status();
        match outcome {
            Outcome::Unauthorized(refusal, _) => {
                let challenge = HeaderValue::from_static(refusal.challenge());
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            Outcome::MethodNotAllowed(allow, _) => {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            }
            _ => {}
        }
        response
    }

    /// `answer` with what the page shows beside it: the token and the calls.
    fn json(&self, mut answer: Value) -> Response<DemoBody> {
        answer["token"] = json!(self.bearer.as_ref().map(|bearer| json!({
            "fingerprint": bearer.fingerprint(),
            "secondsLeft": bearer.seconds_left(self.now.unix),
        })));
        answer["calls"] = json!(self.calls);
        respond("application/json", DemoBody::Full(answer.to_string().into()))
    }

    fn error(&self, shape: Shape, title: &'static str, sentence: &'static str) -> Response<DemoBody> {
        match shape {
            Shape::Json => {
                let body = json!({ "message": sentence }).to_string();
                respond("application/json", DemoBody::Full(body.into()))
            }
            Shape::Html => self.page(title, sentence, true),
        }
    }

    fn page(&self, title: &'static str, introduction: &'static str, is_problem: bool) -> Response<DemoBody> {
        let headers = self.request.headers();
        let target = self.request.uri().path_and_query().map_or("/", |target| target.as_str());
        let page = DemoPage {
            title,
            introduction,
            is_problem,
            path: self.request.uri().path(),
            login: format!("/auth/login?return_to={}", utf8_percent_encode(target, QUERY_VALUE)),
            person: self.person(),
            token: self.bearer.as_ref().map(|bearer| TokenChip {
                fingerprint: bearer.fingerprint(),
                seconds_left: bearer.seconds_left(self.now.unix),
            }),
            claims: self.bearer.iter().flat_map(Bearer::claims).map(|(name, value)| (&**name, plain(value))).collect(),
            identity: headers
                .iter()
                .filter(|(name, _)| IDENTITY_HEADERS.contains(&name.as_str()))
                .map(|(name, value)| (name.as_str(), lossy(value)))
                .collect(),
            calls: &self.calls,
            method: self.request.method().as_str(),
            target,
            version: format!("{:?}", self.request.version()),
            headers: headers.iter().map(|(name, value)| (name.as_str(), self.shown(name, value))).collect(),
        };
        let Ok(html) = page.render() else {
            return respond("text/plain; charset=utf-8", DemoBody::Full(Bytes::new()));
        };
        let mut response = respond("text/html; charset=utf-8", DemoBody::Full(html.into()));
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, PAGE_POLICY.clone());
        response
    }

    /// Who this is, as far as the request says.
    fn person(&self) -> Option<Person> {
        let claim = |name: &str| {
            let value = self.bearer.as_ref()?.claims().get(name)?.as_str()?;
            Some(value.to_owned())
        };
        let header = |name: &str| self.request.headers().get(name).map(lossy);
        let email = claim("email").or_else(|| header("x-email"));
        let name = claim("name")
            .or_else(|| claim("preferred_username"))
            .or_else(|| header("x-name"))
            .or_else(|| email.clone())
            .or_else(|| claim("sub"))
            .or_else(|| header("x-user"))?;
        Some(Person {
            initials: name.split_whitespace().take(2).filter_map(|word| word.chars().next()).collect(),
            email: email.filter(|email| *email != name),
            role: claim("role"),
            name,
        })
    }

    fn name(&self) -> String {
        self.person().map_or_else(|| "whoever you are".to_owned(), |person| person.name)
    }

    /// A header's value as the page may show it.
    ///
    /// | header | shown |
    /// |---|---|
    /// | credentials, by name or marked sensitive | scheme, fingerprint, time left |
    /// | `cookie` | names |
    /// | any other | as it came |
    fn shown(&self, name: &HeaderName, value: &HeaderValue) -> String {
        if name == COOKIE {
            let cookies = lossy(value);
            let names: Vec<&str> =
                cookies.split(';').map(|pair| pair.split('=').next().unwrap_or_default().trim()).collect();
            return format!("{} (values not shown)", names.join(", "));
        }
        if !value.is_sensitive() && !CREDENTIAL_HEADERS.contains(name) {
            return lossy(value);
        }
        let text = value.as_bytes();
        let space = text.iter().position(|byte| *byte == b' ');
        let (scheme, credential) = space.map_or((&text[..0], text), |at| (&text[..=at], text[at..].trim_ascii()));
        let mut shown = format!("{}…", String::from_utf8_lossy(scheme));
        shown += &format!(" (SHA-256 {}…", hex(&sha256(credential)[..4]));
        let left = self
            .bearer
            .as_ref()
            .filter(|_| name == AUTHORIZATION)
            .and_then(|bearer| bearer.seconds_left(self.now.unix));
        if let Some(seconds) = left {
            shown += &format!(", {seconds} s left");
        }
        shown + ")"
    }
}

impl Area {
    fn title(self) -> &'static str {
        match self {
            Area::Start => "Start",
            Area::Open => "Open page",
            Area::Private => "Private page",
        }
    }

    fn introduction(self) -> &'static str {
        match self {
            Area::Start => "This page is for everyone. Who is signed in is welcomed by name.",
            Area::Open => "No token ever reaches this page, even when you are signed in.",
            Area::Private => "Only requests with a good token get here.",
        }
    }
}

impl Refusal {
    fn sentence(self) -> &'static str {
        match self {
            Refusal::Absent => "The request brought no token.",
            Refusal::Refused => "The token is one that this backend was told to refuse.",
            Refusal::Expired => "The token has expired.",
        }
    }

    /// RFC 6750 §3.1: no error code for who brought nothing.
    fn challenge(self) -> &'static str {
        match self {
            Refusal::Absent => "Bearer",
            Refusal::Refused | Refusal::Expired => r#"Bearer error="invalid_token""#,
        }
    }
}

#[derive(Template)]
#[template(path = "demo_page.html")]
struct DemoPage<'a> {
    title: &'static str,
    introduction: &'static str,
    is_problem: bool,
    path: &'a str,
    login: String,
    person: Option<Person>,
    token: Option<TokenChip>,
    claims: Vec<(&'a str, String)>,
    identity: Vec<(&'a str, String)>,
    calls: &'a [Call],
    method: &'a str,
    target: &'a str,
    version: String,
    headers: Vec<(&'a str, String)>,
}

struct Person {
    name: String,
    initials: String,
    email: Option<String>,
    role: Option<String>,
}

struct TokenChip {
    fingerprint: String,
    seconds_left: Option<u64>,
}

impl DemoPage<'_> {
    fn is_at(&self, prefix: &str) -> bool {
        if prefix == "/" { self.path == "/" } else { is_under(self.path, prefix) }
    }
}

/// The claim as text: strings as they are, anything else as JSON.
fn plain(claim: &Value) -> String {
    claim.as_str().map_or_else(|| claim.to_string(), str::to_owned)
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// `HH:MM:SS`, UTC.
fn time_of_day(unix: u64) -> String {
    let second = unix % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

fn respond(content_type: &'static str, body: DemoBody) -> Response<DemoBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Not `no-referrer`: a login that a script's call needs should lead back to its page.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// The one script is named by its hash.
static PAGE_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let script = STANDARD.encode(sha256(SCRIPT.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("the policy is ASCII")
});

const SCRIPT: &str = include_str!("../pages/demo.js");

/// Headers whose value is a credential even when nobody marked it as one.
const CREDENTIAL_HEADERS: [HeaderName; 6] = [
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("x-auth"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("dpop"),
];

/// Names that gateways commonly give to headers that say who the user is.
const IDENTITY_HEADERS: [&str; 12] = [
    "x-user",
    "x-user-id",
    "x-name",
    "x-email",
    "x-groups",
    "x-role",
    "x-roles",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "remote-user",
    "remote-groups",
];

/// What stands for itself in a query value.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use http::request::Builder;

    struct Demo {
        upstream: DemoUpstream,
        clock: Clock,
    }

    impl Demo {
        fn new() -> Demo {
            let clock = Clock::system();
            Demo { upstream: DemoUpstream::new(clock.clone()), clock }
        }

        /// A JWT for `sub`; `jti` tells two of them apart.
        fn token(&self, sub: &str, jti: u32) -> String {
            self.jwt(&json!({ "sub": sub, "jti": jti, "exp": self.clock.now().unix + 60 }))
        }

        fn jwt(&self, claims: &Value) -> String {
            format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()))
        }

        fn send(&self, request: Builder, body: &str) -> (Response<()>, String) {
            let request = request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap();
            let (parts, body) = self.upstream.handle(request).into_parts();
            assert_eq!(parts.headers[CACHE_CONTROL], "no-store");
            assert_eq!(parts.headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
            let DemoBody::Full(body) = body else { panic!("a stream") };
            (Response::from_parts(parts, ()), String::from_utf8(body.to_vec()).unwrap())
        }

        fn get(&self, path: &str) -> (Response<()>, String) {
            self.send(Request::get(path), "")
        }

        fn call(&self, method: &str, path: &str, token: &str) -> (u16, Value) {
            let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {token}"));
            let (response, body) = self.send(request, "");
            (response.status().as_u16(), serde_json::from_str(&body).unwrap())
        }

        fn page(&self, path: &str, token: &str) -> (Response<()>, String) {
            self.send(Request::get(path).header(AUTHORIZATION, format!("Bearer {token}")), "")
        }
    }

    #[test]
    fn the_table_of_decide() {
        let get = Method::GET;
        for (path, outcome) in [
            ("/", Outcome::Page(Area::Start)),
            ("/open", Outcome::Page(Area::Open)),
            ("/open/a/b", Outcome::Page(Area::Open)),
            ("/private/", Outcome::Page(Area::Private)),
            ("/api/demo/hello", Outcome::Hello),
            ("/api/demo/calls", Outcome::Calls),
            ("/api/demo/events", Outcome::Events),
            ("/api/demo/echo", Outcome::MethodNotAllowed(POST, Shape::Json)),
            ("/api/other", Outcome::NotFound(Shape::Json)),
            ("/opening", Outcome::NotFound(Shape::Html)),
        ] {
            assert_eq!(decide(&get, path, Ok(())), outcome, "{path}");
        }
        for path in ["/api", "/api/demo/hello", "/api/other", "/private", "/private/a"] {
            let outcome = decide(&get, path, Err(Refusal::Expired));
            assert!(matches!(outcome, Outcome::Unauthorized(Refusal::Expired, _)), "{path}");
        }
        for path in ["/", "/open/", "/apiary", "/privateer"] {
            let outcome = decide(&get, path, Err(Refusal::Absent));
            assert!(!matches!(outcome, Outcome::Unauthorized(..)), "{path}");
        }
        assert_eq!(decide(&Method::HEAD, "/", Ok(())), Outcome::Page(Area::Start));
        assert_eq!(decide(&Method::POST, "/", Ok(())), Outcome::MethodNotAllowed(GET, Shape::Html));
    }

    #[test]
    fn the_api_wants_a_good_token() {
        let demo = Demo::new();
        let (response, _) = demo.get("/api/demo/hello");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");

        let token = demo.token("ada", 1);
        assert_eq!(demo.call("GET", "/api/demo/hello", &token).0, 200);
        assert_eq!(demo.call("GET", "/api/demo/hello", "opaque").0, 200);
        demo.clock.advance(Duration::from_secs(61));
        let (response, _) = demo.page("/api/demo/hello", &token);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], r#"Bearer error="invalid_token""#);
    }

    #[test]
    fn a_token_is_refused_when_told_and_only_that_one() {
        let demo = Demo::new();
        let (first, second) = (demo.token("ada", 1), demo.token("ada", 2));
        let (status, answer) = demo.call("POST", "/api/demo/expire", &first);
        assert_eq!(status, 200);
        assert_eq!(answer["refused"], answer["token"]["fingerprint"]);
        assert_eq!(demo.call("GET", "/api/demo/hello", &first).0, 401);
        assert_eq!(demo.page("/private/", &first).0.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(demo.page("/", &first).0.status(), StatusCode::OK, "the start page asks for no token");
        assert_eq!(demo.call("GET", "/api/demo/hello", &second).0, 200);
    }

    #[test]
    fn the_calls_show_the_401_and_the_replay() {
        let demo = Demo::new();
        let (first, second) = (demo.token("ada", 1), demo.token("ada", 2));
        demo.call("GET", "/api/demo/hello", &demo.token("bob", 1));
        demo.call("POST", "/api/demo/expire", &first);
        demo.call("GET", "/api/demo/hello?secret=1", &first);
        let (_, answer) = demo.call("GET", "/api/demo/hello", &second);
        let calls = answer["calls"].as_array().unwrap();
        let seen: Vec<(&str, &str, u64)> = calls
            .iter()
            .map(|call| {
                let text = |name: &str| call[name].as_str().unwrap();
                (text("method"), text("path"), call["status"].as_u64().unwrap())
            })
            .collect();
        let path = "/api/demo/hello";
        assert_eq!(seen, [("POST", "/api/demo/expire", 200), ("GET", path, 401), ("GET", path, 200)]);
        assert_eq!(calls[0]["token"], calls[1]["token"]);
        assert_ne!(calls[1]["token"], calls[2]["token"]);

        let (_, again) = demo.call("GET", "/api/demo/calls", &second);
        assert_eq!(again["calls"], answer["calls"], "looking is not a call");
    }

    #[test]
    fn echo_tells_what_arrived() {
        let demo = Demo::new();
        let authorization = format!("Bearer {}", demo.token("ada", 1));
        let (_, body) = demo.send(Request::post("/api/demo/echo").header(AUTHORIZATION, authorization), "abc");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["bytes"], 3);
        // FIPS 180-4
        assert_eq!(answer["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn the_page_shows_the_request_and_none_of_its_credentials() {
        let demo = Demo::new();
        let token = demo.jwt(&json!({ "sub": "ada", "name": "Ada Example", "exp": demo.clock.now().unix + 60 }));
        let mut marked = HeaderValue::from_static("Basic marked-credential");
        marked.set_sensitive(true);
        let request = Request::get("/open/x?page=2")
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(COOKIE, "theme=dark; sid=cookie-value")
            .header("x-api-key", "key-value")
            .header("x-custom", marked)
            .header("x-groups", "staff");
        let (_, html) = demo.send(request, "");
        for shown in ["Hello, Ada Example", "GET /open/x?page=2 HTTP/1.1", "theme, sid (values not shown)", "staff"] {
            assert!(html.contains(shown), "{shown}");
        }
        assert!(html.contains(&format!("Bearer … (SHA-256 {}…, 60 s left)", hex(&sha256(token.as_bytes())[..4]))));
        for hidden in [&token[..], "cookie-value", "key-value", "marked-credential"] {
            assert!(!html.contains(hidden), "{hidden}");
        }
    }

    #[test]
    fn signing_in_leads_back_here() {
        let (_, html) = Demo::new().get("/open/x?page=2&a=b");
        assert!(html.contains("\"/auth/login?return_to=/open/x%3Fpage%3D2%26a%3Db\""), "{html}");
    }

    #[test]
    fn nothing_from_the_request_becomes_markup() {
        let demo = Demo::new();
        let evil = "<img src=x onerror=alert(1)>\"'";
        let token = demo.jwt(&json!({ "sub": evil, "name": evil, "email": evil, "role": evil, "<b>": [evil] }));
        for (path, scripts) in [("/", 1), ("/private/\"'?'", 1), ("/nowhere/\"'", 0)] {
            let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {token}"));
            let (_, html) = demo.send(request.header("x-user", evil).header("x-other", evil).header(COOKIE, evil), "");
            assert!(!html.contains("<img") && !html.contains("<b>"), "{path}");
            assert!(!html.contains(path) || path == "/", "{path}");
            assert_eq!(html.matches("<script").count(), scripts, "{path}");
        }
    }

    #[test]
    fn the_policy_names_the_script_on_the_page() {
        let demo = Demo::new();
        let (response, html) = demo.get("/");
        let script = html.split("<script>").nth(1).unwrap().split("</script>").next().unwrap();
        let hash = format!("'sha256-{}'", STANDARD.encode(sha256(script.as_bytes())));
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains(&hash), "{policy}");
        assert!(policy.starts_with("default-src 'none';") && policy.ends_with("frame-ancestors 'none'"));
    }

    #[test]
    fn other_addresses_and_methods_are_refused_in_the_callers_language() {
        let demo = Demo::new();
        let token = demo.token("ada", 1);
        let (response, html) = demo.get("/nowhere");
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert!(html.starts_with("<!doctype html>"));
        assert_eq!(demo.call("GET", "/api/nowhere", &token).0, 404);
        let (response, _) = demo.page("/api/demo/expire", &token);
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[ALLOW], "POST");
        assert_eq!(demo.call("GET", "/api/demo/hello", &token).0, 200, "a GET expires nothing");
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(time_of_day(0), "00:00:00");
        assert_eq!(time_of_day(1_700_000_000), "22:13:20");
    }
}
