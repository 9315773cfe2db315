//! The stage tells the truth: provider, upstream, jar and inspection without any gateway.

use crate::harness::inspect::{Expectations, inspect};
use crate::harness::jar::Jar;
use crate::harness::keys::{Algorithm, Signature, base64url};
use crate::harness::provider::{CLIENT_ID, CLIENT_SECRET};
use crate::harness::upstream::{REFUSAL, lax_path};
use crate::harness::wire::{Headers, bytes_of, chunk};
use crate::harness::{
    Answer, Browser, Connection, Endpoint, Fault, Gate, Provider, Reply, Request, Upstream, together,
};
use aws_lc_rs::digest;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode};
use latchgate::clock::Clock;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use url::Url;

const REDIRECT_URI: &str = "http://gw.test/auth/corp";

#[tokio::test]
async fn the_provider_runs_the_code_flow_and_signs_what_its_keys_verify() {
    let algorithms =
        [(Algorithm::Es256, jsonwebtoken::Algorithm::ES256), (Algorithm::Rs256, jsonwebtoken::Algorithm::RS256)];
    for (algorithm, expected) in algorithms {
        let (provider, _) = provider().await;
        provider.rotate_key(algorithm);
        let tokens = sign_in(&provider).await;
        let keys: JwkSet = serde_json::from_slice(&get(provider.address(), "/jwks").await.body).expect("a key set");
        let key = &keys.keys[0];
        let mut validation = Validation::new(expected);
        validation.set_audience(&[CLIENT_ID]);
        validation.set_issuer(&[provider.issuer()]);
        let token = tokens["id_token"].as_str().unwrap();
        let claims = decode::<Value>(token, &DecodingKey::from_jwk(key).unwrap(), &validation).unwrap().claims;
        assert_eq!((claims["sub"].as_str(), claims["nonce"].as_str()), (Some("ada"), Some("n-1")));
        assert_eq!(provider.user_of(tokens["access_token"].as_str().unwrap()).as_deref(), Some("ada"));
    }
}

#[tokio::test]
async fn the_provider_refuses_a_wrong_verifier_a_used_code_and_a_strange_client() {
    let (provider, _) = provider().await;
    let code = authorize(&provider).await;
    let wrong = token(&provider, &format!("{}&code_verifier=wrong", code_form(&code))).await;
    assert_eq!((wrong.status, wrong.json()["error"].as_str()), (400, Some("invalid_grant")));

    let code = authorize(&provider).await;
    let form = format!("{}&code_verifier={VERIFIER}", code_form(&code));
    let first = token(&provider, &form).await.json();
    assert_eq!(token(&provider, &form).await.status, 400);
    let refused = token(&provider, &refresh_form(&first)).await;
    assert_eq!(refused.status, 400, "replaying a code ends its grant");

    let stranger = token(&provider, "grant_type=refresh_token&client_id=other&client_secret=x").await;
    assert_eq!(stranger.status, 401);
}

#[tokio::test]
async fn the_provider_rotates_refresh_tokens_and_ends_the_family_on_reuse() {
    let (provider, _) = provider().await;
    let first = sign_in(&provider).await;
    let second = token(&provider, &refresh_form(&first)).await.json();
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    assert_eq!(token(&provider, &refresh_form(&first)).await.status, 400);
    assert_eq!(provider.reuses(), 1);
    assert_eq!(token(&provider, &refresh_form(&second)).await.status, 400, "the family is gone");
    assert_eq!((provider.refreshes(), provider.code_exchanges()), (3, 1));
}

#[tokio::test]
async fn the_provider_can_keep_refresh_tokens_and_revoke_everything() {
    let (provider, clock) = provider().await;
    provider.configure(|habits| habits.rotate = false);
    let first = sign_in(&provider).await;
    let second = token(&provider, &refresh_form(&first)).await.json();
    assert_eq!(second.get("refresh_token"), None);
    let third = token(&provider, &refresh_form(&first)).await.json();
    let access_token = third["access_token"].as_str().unwrap().to_owned();
    assert!(provider.user_of(&access_token).is_some());
    clock.advance(Duration::from_secs(3601));
    assert!(provider.user_of(&access_token).is_none(), "it has expired");
    provider.revoke_grants();
    assert!(provider.all_grants_revoked());
    assert_eq!(token(&provider, &refresh_form(&first)).await.status, 400);
}

#[tokio::test]
async fn the_provider_fails_as_scripted() {
    let (provider, _) = provider().await;
    provider.next(Endpoint::Jwks, Fault::Json(503, json!({})));
    provider.next(Endpoint::Jwks, Fault::Html);
    assert_eq!(get(provider.address(), "/jwks").await.status, 503);
    assert_eq!(get(provider.address(), "/jwks").await.header("content-type"), "text/html");
    assert_eq!(get(provider.address(), "/jwks").await.json()["keys"].as_array().unwrap().len(), 1);

    provider.always(Endpoint::Jwks, Fault::Reset);
    assert!(try_get(provider.address(), "/jwks").await.is_none());
    provider.recover(Endpoint::Jwks);
    provider.go_down();
    assert!(try_get(provider.address(), "/jwks").await.is_none());
    provider.come_up();
    assert_eq!(get(provider.address(), "/jwks").await.status, 200);

    let gate = Gate::closed();
    provider.next(Endpoint::Jwks, Fault::Held(gate.clone()));
    let address = provider.address();
    let held = tokio::spawn(async move { get(address, "/jwks").await });
    gate.arrivals(1).await;
    assert!(!held.is_finished());
    gate.open();
    assert_eq!(held.await.unwrap().status, 200);
    assert_eq!(provider.count(Endpoint::Jwks), 6, "what a provider that is down was asked does not count");
}

#[tokio::test]
async fn the_provider_signs_what_a_test_wants_signed() {
    let (provider, _) = provider().await;
    provider.configure(|habits| {
        habits.id_token = Box::new(|token| {
            token.claims.insert("iss".to_owned(), json!("http://elsewhere.test"));
            token.header.insert("alg".to_owned(), json!("none"));
            token.signature = Signature::Empty;
        });
    });
    let tokens = sign_in(&provider).await;
    let id_token = tokens["id_token"].as_str().unwrap();
    let head = base64url(br#"{"alg":"none""#);
    assert!(id_token.starts_with(&head[..16]) && id_token.ends_with('.'), "{id_token}");
    assert!(provider.secrets().contains(&id_token.to_owned()));
}

#[tokio::test]
async fn the_upstream_records_what_it_receives() {
    let upstream = Upstream::start().await;
    let mut connection = Connection::open(upstream.address()).await;
    let mut bytes = bytes_of(
        "POST /a?b=%2f&b HTTP/1.1\r\nHost: x\r\nx-UP: 1\r\nX-Up: \u{e9}\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    bytes.extend(chunk(b"hello "));
    bytes.extend(chunk(b"you"));
    bytes.extend(chunk(b""));
    connection.send(&bytes).await.unwrap();
    assert_eq!(connection.reply("POST").await.unwrap().text(), "upstream 200");
    let received = upstream.last();
    assert_eq!((received.method.as_str(), received.target.as_str()), ("POST", "/a?b=%2f&b"));
    assert_eq!(received.body, b"hello you");
    assert_eq!(received.headers.0[1..3], [field("x-UP", "1"), field("X-Up", "\u{e9}")]);

    connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    connection.reply("GET").await.unwrap();
    assert_eq!((upstream.hits(), upstream.connections(), upstream.last().connection), (2, 1, 0));
}

#[tokio::test]
async fn the_upstream_knows_live_tokens() {
    let (provider, _) = provider().await;
    let upstream = Upstream::start().await;
    upstream.accept_live_tokens(&provider);
    assert_eq!(get(upstream.address(), "/").await.text(), REFUSAL);
    let tokens = sign_in(&provider).await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        tokens["access_token"].as_str().unwrap()
    );
    let ask = || async {
        let mut connection = Connection::open(upstream.address()).await;
        connection.send(request.as_bytes()).await.unwrap();
        connection.reply("GET").await.unwrap()
    };
    assert_eq!(ask().await.header("x-seen-user"), "ada");
    provider.revoke_access_tokens();
    assert_eq!(ask().await.status, 401);
}

#[tokio::test]
async fn the_upstream_streams_stepwise_and_echoes() {
    let upstream = Upstream::start().await;
    let (steps, answer) = Answer::steps();
    upstream.next(answer);
    let mut connection = Connection::open(upstream.address()).await;
    connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(connection.reply_head().await.word(1), "200");
    steps.send(b"one".to_vec()).unwrap();
    assert_eq!(connection.raw().await, chunk(b"one"));
    drop(steps);
    assert_eq!(connection.raw().await, chunk(b""));

    upstream.next(Answer::websocket_echo());
    connection.send(b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await.unwrap();
    let head = connection.reply_head().await;
    assert_eq!(head.headers.value("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    connection.send(b"ping").await.unwrap();
    assert_eq!(connection.raw().await, b"ping");
}

#[test]
fn the_lax_reading_finds_what_is_hidden() {
    for hidden in [
        "/admin",
        "/public/../admin",
        "/x/%2e%2e/ADMIN",
        "/public/..;/admin",
        "/%2561dmin",
        "/public\\..\\admin",
        "//admin;x?y",
    ] {
        assert_eq!(lax_path(hidden), "/admin", "{hidden}");
    }
    assert_eq!(lax_path("/public/admin"), "/public/admin");
}

#[test]
fn the_jar_keeps_a_browsers_rules() {
    let clock = Clock::system();
    let https = Url::parse("https://gw.test/a").unwrap();
    let http = Url::parse("http://gw.test/a").unwrap();
    let mut jar = Jar::empty(clock.clone());
    for broken in [
        "__Host-a=1; Path=/",
        "__Host-a=1; Secure; Path=/x",
        "__Host-a=1; Secure; Path=/; Domain=gw.test",
        "a=1; Domain=other.test",
    ] {
        jar.store(&https, broken);
    }
    jar.store(&http, "a=1; Secure");
    assert_eq!(jar.field(&https, false), None);

    jar.store(&https, "__Host-a=1; Secure; Path=/; Max-Age=10; SameSite=Lax");
    jar.store(&https, "b=2; Path=/deep");
    assert_eq!(jar.field(&https, false).as_deref(), Some("__Host-a=1"));
    assert_eq!(jar.field(&https.join("/deep/er").unwrap(), false).as_deref(), Some("b=2; __Host-a=1"));
    assert_eq!(jar.field(&https.join("/deeper").unwrap(), false).as_deref(), Some("__Host-a=1"));
    assert_eq!(jar.field(&https, true), None, "SameSite");
    assert_eq!(jar.field(&http, false), None, "Secure");
    clock.advance(Duration::from_secs(11));
    assert_eq!(jar.field(&https, false), None, "Max-Age");
    jar.store(&https, "c=3");
    jar.store(&https, "c=; Max-Age=0");
    assert!(jar.cookies().iter().all(|cookie| cookie.name != "c"));
}

#[test]
fn the_inspection_sees_leaks_strange_headers_caching_and_weak_cookies() {
    assert!(passes("/x", &[("Content-Type", "text/html")], "fine"));
    assert!(!passes("/x", &[], "token at-secret"));
    assert!(!passes("/x", &[("Location", "/?t=at-secret")], ""));
    assert!(!passes("/x", &[("X-Debug", "1")], ""));
    assert!(!passes("/auth/me", &[("Content-Type", "text/html")], ""));
    assert!(passes("/auth/me", &[("Cache-Control", "no-store")], ""));
    assert!(!passes("/x", &[("Set-Cookie", "latchgate=1; Path=/; SameSite=Lax")], ""), "HttpOnly");
    assert!(!passes("/x", &[("Set-Cookie", "latchgate=1; HttpOnly; SameSite=Lax; Secure")], ""), "http");
    assert!(passes("/x", &[("X-Scripted-Upstream", "yes"), ("X-Debug", "1")], "at-secret"), "relayed");
}

#[tokio::test]
async fn the_browser_walks_through_the_provider_and_keeps_cookies() {
    let (provider, clock) = provider().await;
    let application = Upstream::start().await;
    let authorize =
        format!("{}/authorize?client_id={CLIENT_ID}&redirect_uri={REDIRECT_URI}&state=s", provider.issuer());
    application.answer(move |request| match request.target.split('?').next().unwrap() {
        "/start" => Answer::status(302).header("Location", &authorize),
        "/auth/corp" => Answer::status(302)
            .header("Location", "/x")
            .header("Set-Cookie", "latchgate=1; Path=/; HttpOnly; SameSite=Lax"),
        "/away" => Answer::status(302).header("Location", "https://evil.test/a"),
        _ => Answer::status(200),
    });
    let expected = Expectations {
        external: Url::parse("http://gw.test").unwrap(),
        login_prefix: "/auth".to_owned(),
        issuer: provider.issuer(),
    };
    let browser = Browser::new(application.address(), provider.clone(), expected, clock);

    let page = browser.navigate("/start").await;
    assert_eq!((page.url, page.reply.status), (browser.url("/x"), 200));
    let paths: Vec<&str> = page.trail.iter().map(|(url, _)| url.path()).collect();
    assert_eq!(paths, ["/start", "/authorize", "/auth/corp", "/x"]);
    let received = application.received();
    let sites: Vec<&str> = received.iter().map(|request| request.header("sec-fetch-site")).collect();
    assert_eq!(sites, ["none", "cross-site", "cross-site"]);
    assert_eq!(received[2].header("cookie"), "latchgate=1");
    assert_eq!(browser.session_cookie().as_deref(), Some("1"));

    browser.send(Request::fetch("POST", "/x").body("text/plain", "x")).await;
    let post = application.last();
    assert_eq!((post.header("origin"), post.header("cookie")), ("http://gw.test", "latchgate=1"));
    browser.send(Request::fetch("POST", "/x").with("Sec-Fetch-Site", "cross-site")).await;
    assert!(!application.last().headers.contains("cookie"), "SameSite=Lax");

    assert_eq!(browser.navigate("/away").await.url.as_str(), "https://evil.test/a");
    let callback = browser.stop_before_callback("/start").await;
    assert_eq!(callback.path(), "/auth/corp");
    assert_eq!(application.received().iter().filter(|request| request.target.starts_with("/auth/corp")).count(), 1);
}

#[tokio::test]
async fn together_runs_all_at_once() {
    let gate = Gate::closed();
    let crowd = together(3, |number| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            number
        }
    });
    let opener = async {
        gate.arrivals(3).await;
        gate.open();
    };
    let (mut numbers, ()) = tokio::join!(crowd, opener);
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2]);
}

const VERIFIER: &str = "a-verifier-of-forty-three-characters-or-more";

async fn provider() -> (Provider, Clock) {
    let clock = Clock::system();
    let provider = Provider::start(clock.clone()).await;
    provider.register(REDIRECT_URI);
    (provider, clock)
}

async fn authorize(provider: &Provider) -> String {
    let challenge = base64url(digest::digest(&digest::SHA256, VERIFIER.as_bytes()).as_ref());
    let target = format!(
        "/authorize?client_id={CLIENT_ID}&redirect_uri={REDIRECT_URI}&state=s&nonce=n-1&scope=openid&code_challenge={challenge}"
    );
    let reply = get(provider.address(), &target).await;
    let location = Url::parse(reply.header("location")).expect("a redirect");
    let parameter = |name: &str| location.query_pairs().find(|(found, _)| found == name).unwrap().1.into_owned();
    assert_eq!((parameter("state"), parameter("iss")), ("s".to_owned(), provider.issuer()));
    parameter("code")
}

async fn sign_in(provider: &Provider) -> Value {
    let code = authorize(provider).await;
    token(provider, &format!("{}&code_verifier={VERIFIER}", code_form(&code))).await.json()
}

fn code_form(code: &str) -> String {
    format!(
        "grant_type=authorization_code&client_id={CLIENT_ID}&client_secret={CLIENT_SECRET}&code={code}&redirect_uri={REDIRECT_URI}"
    )
}

fn refresh_form(tokens: &Value) -> String {
    format!(
        "grant_type=refresh_token&client_id={CLIENT_ID}&client_secret={CLIENT_SECRET}&refresh_token={}",
        tokens["refresh_token"].as_str().expect("a refresh token")
    )
}

async fn token(provider: &Provider, form: &str) -> Reply {
    let mut connection = Connection::open(provider.address()).await;
    let request = format!("POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{form}", form.len());
    connection.send(request.as_bytes()).await.unwrap();
    connection.reply("POST").await.expect("an answer")
}

async fn get(address: SocketAddr, target: &str) -> Reply {
    try_get(address, target).await.expect("an answer")
}

async fn try_get(address: SocketAddr, target: &str) -> Option<Reply> {
    let mut connection = Connection::open(address).await;
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.ok()?;
    connection.reply("GET").await
}

fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn passes(path: &str, headers: &[(&str, &str)], body: &str) -> bool {
    let external = Url::parse("http://gw.test").unwrap();
    let url = external.join(path).unwrap();
    let expected = Expectations { external, login_prefix: "/auth".to_owned(), issuer: "http://op.test".to_owned() };
    let headers = Headers(headers.iter().map(|(name, value)| field(name, value)).collect());
    let reply = Reply { status: 200, headers, body: body.as_bytes().to_vec() };
    catch_unwind(AssertUnwindSafe(|| inspect(&url, &reply, &["at-secret".to_owned()], &expected))).is_ok()
}
