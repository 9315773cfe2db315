//! Backends that sign users in themselves: the form, the credentials a script posts, and what becomes of their tokens. What holds
//! for every preset is tested with every preset.

use crate::harness::backend::{AXIOS, NUXT, SHAPES, SNEAT, Shape, VUEXY, password_of};
use crate::harness::expect::{error_json, login_after_refusal, login_status, relayed};
use crate::harness::upstream::deserted_address;
use crate::harness::{Answer, Backend, Browser, Fault, Gate, Page, Part, Reply, Request, Site, together};
use latchgate::clock::Clock;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;

/// Past the life of an access token.
const LIFE: Duration = Duration::from_secs(3700);
/// Past `refresh.cooldown`.
const A_WHILE: Duration = Duration::from_secs(10);

async fn site_of(shape: Shape) -> (Site, Backend) {
    site_with(shape, "").await
}

async fn site_with(shape: Shape, lines: &str) -> (Site, Backend) {
    let backend = Backend::start(shape, Clock::system()).await;
    let site = Site::plan()
        .backend(&backend, lines)
        .refresh("timeout = \"1s\"")
        .route("/*", "auth = true")
        .route("/maybe/*", "auth = \"optional\"")
        .start()
        .await;
    backend.guards(&site.upstream);
    (site, backend)
}

fn login_request(credentials: &Value) -> Request {
    Request::fetch("POST", "/auth/legacy").body("application/json", credentials.to_string())
}

fn credentials_of(user: &str) -> Value {
    json!({ "username": user, "password": password_of(user) })
}

async fn log_in(browser: &Browser, username: &str, password: &str) -> Reply {
    browser.send(login_request(&json!({ "username": username, "password": password }))).await
}

/// How many refresh tokens came so far, in order.
fn refresh_tokens_seen(backend: &Backend) -> Vec<Value> {
    backend.calls(Part::Refresh).iter().map(|call| call.json()).collect()
}

fn user_at_upstream(site: &Site) -> Option<String> {
    let last = site.upstream.last();
    last.bearer().map(str::to_owned)
}

// ------------------------------------------------------------------------------- JSON credentials

#[tokio::test]
async fn json_credentials_open_a_session_whatever_the_preset() {
    for shape in SHAPES {
        let (site, backend) = site_of(shape).await;
        let browser = site.browser();
        let reply = browser.send(login_request(&credentials_of("ada"))).await;
        assert_eq!((reply.status, reply.header("cache-control")), (200, "no-store"), "{}", reply.text());
        let expected = json!({
            "user": { "id": 1, "username": "ada", "name": "ADA", "email": "ada@corp.test", "sub": "1" }, "returnTo": "/",
        });
        assert_eq!(reply.json(), expected, "{}", shape.preset);

        let login = backend.last(Part::Login);
        assert_eq!((login.method.as_str(), login.target.as_str()), ("POST", shape.login));
        assert_eq!(login.headers.value("content-type"), Some("application/json"));
        assert_eq!(login.headers.value("accept"), Some("application/json"));
        assert_eq!(login.json(), credentials_of("ada"));
        assert_eq!(backend.count(Part::User), usize::from(shape.user.is_some()));

        let me = browser.fetch("GET", "/api/user/me").await.json();
        assert_eq!(
            (&me["provider"], &me["sub"], &me["email"]),
            (&json!("legacy"), &json!("1"), &json!("ada@corp.test"))
        );
        relayed(&browser.fetch("GET", "/x").await, 200);
        assert_eq!(backend.user_of(&user_at_upstream(&site).unwrap()).as_deref(), Some("ada"));
    }
}

// TN-30
#[tokio::test]
async fn every_cause_of_a_refusal_reads_the_same() {
    let (site, backend) = site_of(NUXT).await;
    let mut texts = HashSet::new();
    let mut check = |reply: Reply| {
        let mut body = error_json(&reply, 401);
        assert_eq!(body["code"], "credentials_refused");
        body.as_object_mut().unwrap().remove("requestId");
        texts.insert(body.to_string());
        assert!(reply.headers.values("set-cookie").is_empty());
    };
    let browser = site.browser();
    check(log_in(&browser, "ada", "wrong").await);
    check(log_in(&browser, "nobody", "wrong").await);
    for (number, status) in [400, 401, 403, 404, 409, 422].into_iter().enumerate() {
        backend.next(Part::Login, Fault::Json(status, json!({ "message": "The account is locked" })));
        check(log_in(&browser, &format!("user-{number}"), "x").await);
    }
    backend.next(Part::Login, Fault::Json(200, json!({ "error": "Wrong password" })));
    check(log_in(&browser, "user-x", "x").await);
    assert_eq!(texts.len(), 1);
}

#[tokio::test]
async fn answers_that_cannot_be_used_open_no_session_and_end_none() {
    let (site, backend) = site_of(NUXT).await;
    let browser = site.signed_in_at_backend("bob").await;
    let stranger = site.browser();
    let long = vec![b' '; 2 << 20];
    for (fault, status) in [
        (Fault::Html, 503),
        (Fault::Bytes(200, "application/json", Vec::new()), 503),
        (Fault::Bytes(200, "application/json", long), 503),
        (Fault::Bytes(200, "application/json", br#"{"token":"a","token":"b"}"#.to_vec()), 503),
        (Fault::Bytes(200, "application/json", b"[\"a\"]".to_vec()), 503),
        (Fault::Bytes(204, "application/json", Vec::new()), 503),
        (Fault::Json(200, json!({})), 401),
        (Fault::Json(200, json!({ "data": { "token": "elsewhere" } })), 401),
        (Fault::Json(200, json!({ "token": "a\r\nX-Admin: 1" })), 401),
        (Fault::Json(200, json!({ "token": 7 })), 401),
        (Fault::Json(200, json!({ "token": "" })), 401),
        (Fault::Json(500, json!({ "token": "a" })), 503),
        (Fault::Redirect("/elsewhere".to_owned()), 503),
        (Fault::RetryAfter(429, 7), 503),
        (Fault::Reset, 503),
        (Fault::Hang, 503),
    ] {
        let what: String = format!("{fault:?}").chars().take(60).collect();
        for browser in [&browser, &stranger] {
            backend.next(Part::Login, fault.clone());
            let reply = browser.send(login_request(&json!({ "username": what, "password": "x" }))).await;
            assert_eq!(reply.status, status, "{what}: {}", reply.text());
            assert!(reply.headers.values("set-cookie").is_empty(), "{what}");
            assert_eq!(reply.headers.contains("retry-after"), status == 503, "{what}");
        }
    }
    assert_eq!(stranger.fetch("GET", "/api/user/me").await.status, 401);
    assert_eq!(browser.fetch("GET", "/api/user/me").await.json()["sub"], "2", "bob is signed in still");
}

#[tokio::test]
async fn a_user_endpoint_that_does_not_say_who_it_is_opens_no_session() {
    let (site, backend) = site_with(NUXT, "user = { property = \"data.user\" }").await;
    let browser = site.browser();
    for (fault, status) in [
        (Fault::Json(401, json!({})), 502),
        (Fault::Json(200, json!({ "data": {} })), 502),
        (Fault::Json(200, json!({ "data": { "user": "ada" } })), 502),
        (Fault::Html, 502),
        (Fault::Json(503, json!({})), 503),
        (Fault::Reset, 503),
    ] {
        let what = format!("{fault:?}");
        backend.next(Part::User, fault);
        let reply = browser.send(login_request(&credentials_of("ada"))).await;
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
        assert!(browser.session_cookie().is_none(), "{what}");
    }
    backend.next(Part::User, Fault::Json(200, json!({ "data": { "user": { "id": 7 } } })));
    let reply = browser.send(login_request(&credentials_of("ada"))).await;
    assert_eq!(reply.json()["user"], json!({ "id": 7, "sub": "7" }));
}

#[tokio::test]
async fn what_is_no_credential_is_refused_before_the_backend_hears_of_it() {
    let (site, backend) = site_of(SNEAT).await;
    let browser = site.browser();
    let post = |content_type: &str, body: &str| Request::fetch("POST", "/auth/legacy").body(content_type, body);
    let good = credentials_of("ada").to_string();
    for (request, status) in [
        (post("application/json", "{}"), 400),
        (post("application/json", r#"{"username":"ada"}"#), 400),
        (post("application/json", r#"{"username":"ada","password":""}"#), 400),
        (post("application/json", r#"{"username":"ada","password":7}"#), 400),
        (post("application/json", "[]"), 400),
        (post("application/json", "<html>"), 400),
        (post("text/plain", &good), 400),
        (post("multipart/form-data; boundary=x", &good), 400),
        (Request { body: good.clone().into(), ..Request::fetch("POST", "/auth/legacy") }, 400),
        (post("application/json", &json!({ "username": "a", "password": "x".repeat(17_000) }).to_string()), 413),
        (post("application/json", &good).with("Sec-Fetch-Site", "cross-site"), 403),
        (post("application/json", &good).without("Sec-Fetch-Site").header("Origin", "https://evil.test"), 403),
        (Request::fetch("PUT", "/auth/legacy"), 405),
        (Request::navigation("/auth/legacy").header("Sec-Purpose", "prefetch"), 400),
    ] {
        let what: String = format!("{request:?}").chars().take(300).collect();
        assert_eq!(browser.send(request).await.status, status, "{what}");
    }
    assert_eq!(backend.count(Part::Login), 0);
    let script = Request::new("POST", "/auth/legacy").body("application/json; charset=utf-8", good);
    assert_eq!(browser.send(script).await.status, 200, "a client that is no browser");
}

#[tokio::test]
async fn fields_have_the_names_that_the_backend_has_for_them() {
    let lines = "login = { fields = { username = \"email\", password = \"pass\" }, headers = { X-Tenant = \"acme\" } }";
    let (site, backend) = site_with(AXIOS, lines).await;
    backend.configure(|habits| habits.fields = ("email", "pass"));
    for (username, password) in [("email", "pass"), ("username", "password")] {
        let reply = site.browser().send(login_request(&json!({ username: "ada", password: password_of("ada") }))).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let login = backend.last(Part::Login);
        assert_eq!(login.json(), json!({ "email": "ada", "pass": password_of("ada") }));
        assert_eq!(login.headers.value("x-tenant"), Some("acme"));
    }
}

// TN-33, TN-38
#[tokio::test]
async fn where_a_login_ends_and_how_long_it_is_remembered() {
    let (site, _backend) = site_of(NUXT).await;
    let post =
        |query: &str| Request { target: format!("/auth/legacy{query}"), ..login_request(&credentials_of("ada")) };
    for (query, return_to) in [
        ("", "/"),
        ("?return_to=/orders?x=1", "/orders?x=1"),
        ("?return_to=https://evil.test/", "/"),
        ("?return_to=//evil.test", "/"),
    ] {
        assert_eq!(site.browser().send(post(query)).await.json()["returnTo"], return_to, "{query}");
    }
    for (query, remembered) in [("", true), ("?remember=1", true), ("?remember=0", false)] {
        let reply = site.browser().send(post(query)).await;
        assert_eq!(reply.header("set-cookie").contains("Max-Age="), remembered, "{query}");
    }
}

#[tokio::test]
async fn every_login_has_a_session_of_its_own_and_ends_the_one_before() {
    let (site, _backend) = site_of(NUXT).await;
    let browser = site.signed_in_at_backend("ada").await;
    let (before, field) = (browser.session_cookie(), browser.cookie_field());
    assert_eq!(browser.send(login_request(&credentials_of("bob"))).await.status, 200);
    assert!(browser.session_cookie() != before);
    assert_eq!(browser.fetch("GET", "/api/user/me").await.json()["sub"], "2");
    let old = Request::fetch("GET", "/api/user/me").header("Cookie", &field);
    assert_eq!(site.browser().send(old).await.status, 401);
}

#[tokio::test]
async fn a_login_nobody_waits_for_is_undone() {
    let (site, backend) = site_of(VUEXY).await;
    let gate = Gate::closed();
    backend.next(Part::Login, Fault::Held(gate.clone()));
    let lonely = site.browser().dispatch(login_request(&credentials_of("ada"))).await;
    gate.arrivals(1).await;
    drop(lonely);
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.open();
    crate::harness::eventually(|| async { backend.count(Part::Logout) == 1 && backend.all_grants_revoked() }).await;
}

// ------------------------------------------------------------------------------- limits

#[tokio::test]
async fn an_account_can_be_guessed_at_ten_times_in_five_minutes() {
    let (site, backend) = site_of(SNEAT).await;
    for number in 0..10 {
        let username = if number % 2 == 0 { "ada" } else { " ADA " };
        assert_eq!(log_in(&site.browser(), username, "wrong").await.status, 401);
    }
    for password in ["wrong", &password_of("ada")] {
        let reply = log_in(&site.browser(), "Ada", password).await;
        let wait: u64 = reply.header("retry-after").parse().unwrap();
        assert!((200..=301).contains(&wait), "{wait}");
        assert_eq!(error_json(&reply, 429)["code"], "too_many_attempts");
    }
    assert_eq!(backend.count(Part::Login), 10, "the backend is spared");
    assert_eq!(log_in(&site.browser(), "bob", &password_of("bob")).await.status, 200);
    site.clock.advance(Duration::from_secs(301));
    assert_eq!(log_in(&site.browser(), "ada", &password_of("ada")).await.status, 200);
}

#[tokio::test]
async fn a_client_can_guess_at_six_times_as_many() {
    let backend = Backend::start(SNEAT, Clock::system()).await;
    let site = Site::plan().backend(&backend, "").limits("login_attempts = 2").route("/*", "auth = true").start().await;
    for number in 0..12 {
        assert_eq!(log_in(&site.browser(), &format!("user-{number}"), "wrong").await.status, 401);
    }
    let reply = log_in(&site.browser(), "ada", &password_of("ada")).await;
    assert_eq!((reply.status, backend.count(Part::Login)), (429, 12));
}

#[tokio::test]
async fn outages_are_no_guesses_and_a_success_forgives() {
    let backend = Backend::start(SNEAT, Clock::system()).await;
    let site = Site::plan().backend(&backend, "").limits("login_attempts = 2").route("/*", "auth = true").start().await;
    for _ in 0..4 {
        backend.next(Part::Login, Fault::Json(503, json!({})));
        assert_eq!(log_in(&site.browser(), "ada", "wrong").await.status, 503);
    }
    for _ in 0..4 {
        assert_eq!(log_in(&site.browser(), "ada", "wrong").await.status, 401);
        assert_eq!(log_in(&site.browser(), "ada", &password_of("ada")).await.status, 200);
    }
}

// ------------------------------------------------------------------------------- the form

fn hidden_state(page: &Reply) -> String {
    let text = page.text();
    let (_, rest) = text.split_once("name=\"state\" value=\"").unwrap_or_else(|| panic!("no form: {text}"));
    rest.split('"').next().unwrap().to_owned()
}

fn form(state: &str, username: &str, password: &str) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("state", state).append_pair("username", username).append_pair("password", password);
    form.finish()
}

async fn submit(browser: &Browser, page: &Page, username: &str, password: &str) -> Page {
    let action = &page.url[url::Position::BeforePath..];
    browser.submit(action, &form(&hidden_state(&page.reply), username, password)).await
}

#[tokio::test]
async fn the_form_signs_in_and_leads_back_to_the_page() {
    let (site, _backend) = site_of(NUXT).await;
    let browser = site.browser();
    let page = browser.navigate("/auth/login?provider=legacy&return_to=/orders?x=1").await;
    assert_eq!((page.reply.status, page.url.path()), (200, "/auth/legacy"));
    let text = page.reply.text();
    for part in [
        "<label for=\"username\">User name</label>",
        "id=\"username\" name=\"username\" value=\"\" autocomplete=\"username\"",
        "<label for=\"password\">Password</label>",
        "id=\"password\" name=\"password\" type=\"password\" autocomplete=\"current-password\"",
        "autofocus",
        "<html lang=\"en\">",
        "--accent:",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(!text.contains("<script") && !text.contains("role=\"alert\""));
    assert!(page.reply.header("content-security-policy").contains("form-action 'self';"));

    let wrong = submit(&browser, &page, "ada", "wrong").await;
    assert_eq!((wrong.reply.status, wrong.url.path()), (401, "/auth/legacy"));
    let text = wrong.reply.text();
    assert!(text.contains("role=\"alert\" id=\"problem\">The user name or password is not right."), "{text}");
    assert!(text.contains("value=\"ada\"") && !text.contains("wrong"), "{text}");

    let right = submit(&browser, &wrong, "ada", &password_of("ada")).await;
    assert_eq!(right.trail[0].1, 303);
    assert_eq!(&right.url[url::Position::BeforePath..], "/orders?x=1");
    relayed(&right.reply, 200);
    assert!(browser.login_cookies().len() <= 1, "of the logins that were begun, one was finished");
}

#[tokio::test]
async fn the_form_is_where_a_protected_page_leads() {
    let backend = Backend::start(AXIOS, Clock::system()).await;
    let lines = "login = { fields = { username = \"email\" } }";
    let site = Site::plan().backend(&backend, lines).route("/*", "auth = true\nprovider = \"legacy\"").start().await;
    backend.guards(&site.upstream);
    backend.configure(|habits| habits.fields = ("email", "password"));
    let browser = site.browser();
    let page = browser.navigate("/admin?tab=2").await;
    assert_eq!(page.url.path(), "/auth/legacy");
    assert!(page.reply.text().contains("E-mail address"));
    let landed = submit(&browser, &page, "ada", &password_of("ada")).await;
    assert_eq!(&landed.url[url::Position::BeforePath..], "/admin?tab=2");
    relayed(&landed.reply, 200);
}

#[tokio::test]
async fn the_chooser_leads_to_the_form() {
    let (site, _backend) = site_of(NUXT).await;
    let page = site.browser().navigate("/auth/login?return_to=/orders&status=expired").await;
    assert!(
        page.reply.text().contains("href=\"/auth/legacy?return_to=%2Forders&#38;status=expired\""),
        "{}",
        page.reply.text()
    );
}

#[tokio::test]
async fn a_form_of_another_browser_or_site_signs_nobody_in() {
    let (site, backend) = site_of(NUXT).await;
    let (eve, ada) = (site.browser(), site.browser());
    let page = eve.navigate("/auth/legacy").await;
    let posted = form(&hidden_state(&page.reply), "eve", &password_of("eve"));
    let elsewhere = ada.submit("/auth/legacy", &posted).await;
    assert_eq!(elsewhere.reply.status, 400);
    assert!(elsewhere.reply.text().contains("open for too long") && ada.session_cookie().is_none());
    let foreign = Request { method: "POST".to_owned(), ..Request::navigation("/auth/legacy") }
        .with("Sec-Fetch-Site", "cross-site")
        .header("Origin", "https://evil.test")
        .body("application/x-www-form-urlencoded", posted.clone());
    assert_eq!(eve.send(foreign).await.status, 403);
    assert_eq!(backend.count(Part::Login), 0);
    let again = submit(&ada, &elsewhere, "ada", &password_of("ada")).await;
    assert_eq!(again.trail[0].1, 303, "the form that was shown instead works");
    site.clock.advance(Duration::from_secs(601));
    assert_eq!(eve.submit("/auth/legacy", &posted).await.reply.status, 400, "too late");
}

#[tokio::test]
async fn the_form_says_what_is_wrong_and_keeps_what_was_typed() {
    let (site, backend) = site_of(NUXT).await;
    let browser = site.browser();
    let mut page = browser.navigate("/auth/legacy?login_hint=%22%3E%3Cscript%3E&remember=0").await;
    assert!(!page.reply.text().contains("<script"), "{}", page.reply.text());
    backend.next(Part::Login, Fault::Reset);
    for (username, password, status, text) in [
        ("ada", "", 400, "The user name or the password is missing"),
        ("ada", "x", 503, "cannot be reached"),
        ("\"><script>", "x", 401, "is not right"),
    ] {
        page = submit(&browser, &page, username, password).await;
        assert_eq!(page.reply.status, status, "{}", page.reply.text());
        assert!(page.reply.text().contains(text) && !page.reply.text().contains("<script"), "{}", page.reply.text());
    }
    for _ in 0..10 {
        page = submit(&browser, &page, "ada", "wrong").await;
    }
    page = submit(&browser, &page, "ada", &password_of("ada")).await;
    assert_eq!(page.reply.status, 429);
    assert!(page.reply.headers.contains("retry-after") && page.reply.text().contains("too many attempts"));
    let posted = form(&hidden_state(&page.reply), "bob", &password_of("bob"));
    let last = Request { method: "POST".to_owned(), ..Request::navigation(&page.url[url::Position::BeforePath..]) }
        .with("Sec-Fetch-Site", "same-origin")
        .body("application/x-www-form-urlencoded", posted);
    let done = browser.send(last).await;
    assert_eq!((done.status, done.header("location")), (303, "/"));
    assert!(!done.header("set-cookie").contains("Max-Age"), "remember=0 was kept");
}

// ------------------------------------------------------------------------------- refresh and replay

// TN-05, TS-02, TS-03, TA-08, TA-24
#[tokio::test]
async fn a_401_is_answered_with_one_refresh_and_one_replay() {
    for shape in SHAPES {
        let (site, backend) = site_of(shape).await;
        let browser = site.signed_in_at_backend("ada").await;
        let first = backend.secrets();
        backend.revoke_access_tokens();
        relayed(&browser.fetch("GET", "/x").await, 200);
        let refresh = backend.last(Part::Refresh);
        assert_eq!((refresh.method.as_str(), refresh.target.as_str()), ("POST", shape.refresh));
        assert_eq!(refresh.headers.value("content-type"), Some("application/json"));
        let first_refresh_token = first.iter().find(|secret| secret.starts_with("rt-")).unwrap();
        assert_eq!(refresh.json(), json!({ shape.refresh_member: first_refresh_token }));
        let tokens: HashSet<_> =
            site.upstream.received().iter().map(|sent| sent.bearer().unwrap().to_owned()).collect();
        assert_eq!((site.upstream.hits(), tokens.len()), (2, 2));

        relayed(&browser.fetch("GET", "/y").await, 200);
        assert_eq!(backend.count(Part::Refresh), 1);
        site.clock.advance(A_WHILE);
        backend.revoke_access_tokens();
        relayed(&browser.fetch("GET", "/z").await, 200);
        let seen = refresh_tokens_seen(&backend);
        assert!(seen.len() == 2 && seen[0] != seen[1], "the second refresh sends the second refresh token");
        assert_eq!(backend.reuses(), 0);
    }
}

// TN-06, TN-23, TS-07, TA-12
#[tokio::test]
async fn a_replay_that_is_refused_is_the_last() {
    for shape in SHAPES {
        let (site, backend) = site_of(shape).await;
        let browser = site.signed_in_at_backend("ada").await;
        site.upstream.answer(|_| Answer::unauthorized());
        login_after_refusal(&browser.fetch("GET", "/x").await, "expired", "/page");
        assert_eq!((site.upstream.hits(), backend.count(Part::Refresh)), (2, 1));
        assert_eq!(browser.fetch("GET", "/api/user/me").await.status, 200, "the session stays");
    }
}

// TN-07, TS-04, TS-05, TA-17
#[tokio::test]
async fn a_refused_refresh_ends_the_session_and_calls_nobody() {
    for shape in SHAPES {
        for fault in [
            Fault::Json(400, json!({ "error": "invalid_grant" })),
            Fault::Json(401, json!({})),
            Fault::Json(403, json!({})),
            Fault::Json(200, json!({})),
            Fault::Json(200, json!({ "error": "expired" })),
        ] {
            let (site, backend) = site_of(shape).await;
            let browser = site.signed_in_at_backend("ada").await;
            backend.revoke_access_tokens();
            backend.next(Part::Refresh, fault);
            login_after_refusal(&browser.fetch("GET", "/x").await, "expired", "/page");
            assert_eq!((backend.count(Part::Refresh), backend.count(Part::Logout)), (1, 0));
            assert!(browser.session_cookie().is_none(), "the cookie is gone");
            assert_eq!(browser.fetch("GET", "/api/user/me").await.status, 401);
        }
    }
}

// TS-10, TA-14
#[tokio::test]
async fn a_refresh_that_fails_for_now_keeps_the_session() {
    for fault in [
        Fault::Json(500, json!({})),
        Fault::Json(503, json!({})),
        Fault::RetryAfter(429, 2),
        Fault::Html,
        Fault::Bytes(200, "application/json", vec![b' '; 2 << 20]),
        Fault::Hang,
    ] {
        let (site, backend) = site_of(SNEAT).await;
        let browser = site.signed_in_at_backend("ada").await;
        site.clock.advance(LIFE);
        let what: String = format!("{fault:?}").chars().take(60).collect();
        backend.always(Part::Refresh, fault);
        let replies = together(3, |_| {
            let browser = browser.clone();
            async move { browser.fetch("GET", "/x").await }
        });
        // Who waits for a refresh gives up after twice its timeout.
        let replies = tokio::time::timeout(Duration::from_secs(8), replies).await.unwrap_or_else(|_| panic!("{what}"));
        for reply in replies {
            assert_eq!(reply.status, 503, "{what}");
            assert!(reply.headers.contains("retry-after"), "{what}");
        }
        backend.recover(Part::Refresh);
        site.clock.advance(A_WHILE);
        relayed(&browser.fetch("GET", "/x").await, 200);
    }
}

// TN-08, TS-14
#[tokio::test]
async fn without_a_refresh_token_a_401_ends_the_session() {
    for shape in SHAPES {
        let (site, backend) = site_of(shape).await;
        backend.configure(|habits| habits.offline = false);
        let browser = site.signed_in_at_backend("ada").await;
        backend.revoke_access_tokens();
        login_after_refusal(&browser.fetch("GET", "/x").await, "expired", "/page");
        assert_eq!((backend.count(Part::Refresh), site.upstream.hits()), (0, 1));
        assert!(browser.session_cookie().is_none());
    }
    let (site, backend) = site_with(NUXT, "refresh = false").await;
    let browser = site.signed_in_at_backend("ada").await;
    backend.revoke_access_tokens();
    login_after_refusal(&browser.fetch("GET", "/x").await, "expired", "/page");
    assert_eq!(backend.count(Part::Refresh), 0, "the preset's refresh was taken out");
}

// TN-16, TS-08, TA-09
#[tokio::test]
async fn a_hundred_401s_share_one_refresh() {
    for shape in SHAPES {
        let (site, backend) = site_of(shape).await;
        let browser = site.signed_in_at_backend("ada").await;
        backend.revoke_access_tokens();
        backend.next(Part::Refresh, Fault::Delay(Duration::from_millis(150)));
        let replies = together(100, |_| {
            let browser = browser.clone();
            async move { browser.fetch("GET", "/x").await }
        });
        assert!(replies.await.iter().all(|reply| reply.status == 200));
        assert_eq!((backend.count(Part::Refresh), backend.reuses()), (1, 0));
    }
}

// TN-17, TA-10
#[tokio::test]
async fn a_refused_refresh_fails_everyone_who_waits_for_it() {
    let (site, backend) = site_of(AXIOS).await;
    let browser = site.signed_in_at_backend("ada").await;
    backend.revoke_access_tokens();
    backend.revoke_grants();
    let gate = Gate::closed();
    backend.next(Part::Refresh, Fault::Held(gate.clone()));
    let crowd = together(20, |_| {
        let browser = browser.clone();
        async move { browser.fetch("GET", "/x").await }
    });
    let opener = async {
        gate.arrivals(1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        gate.open();
    };
    let (replies, ()) = tokio::join!(crowd, opener);
    assert!(replies.iter().all(|reply| reply.status == 401));
    assert_eq!(backend.count(Part::Refresh), 1);
    let first_generation: HashSet<_> =
        site.upstream.received().iter().map(|sent| sent.bearer().unwrap().to_owned()).collect();
    assert_eq!(first_generation.len(), 1, "no other token was ever sent");
}

// TN-21
#[tokio::test]
async fn a_body_too_long_to_keep_is_sent_again_by_the_client() {
    let (site, backend) = site_of(VUEXY).await;
    let browser = site.signed_in_at_backend("ada").await;
    backend.revoke_access_tokens();
    let upload = || Request::fetch("POST", "/upload").body("application/octet-stream", vec![7; 300 << 10]);
    let refused = browser.send(upload()).await;
    assert_eq!((refused.status, refused.header("location")), (307, "/upload"));
    relayed(&browser.send(upload()).await, 200);
    assert_eq!((backend.count(Part::Refresh), site.upstream.last().body.len()), (1, 300 << 10));
}

// TN-22, TS-01, TS-06
#[tokio::test]
async fn answers_other_than_401_are_relayed() {
    let (site, backend) = site_of(SNEAT).await;
    let browser = site.signed_in_at_backend("ada").await;
    for status in [200, 204, 403, 404, 422, 500, 503] {
        site.upstream.next(Answer::status(status));
        relayed(&browser.fetch("GET", "/x").await, status);
    }
    assert_eq!(backend.count(Part::Refresh), 0);
    for status in [403, 500] {
        site.clock.advance(A_WHILE);
        site.upstream.next(Answer::unauthorized());
        site.upstream.next(Answer::status(status));
        relayed(&browser.fetch("GET", "/x").await, status);
    }
    assert_eq!(backend.count(Part::Refresh), 2);
}

// TN-24, TN-25, TN-26
#[tokio::test]
async fn a_forced_refresh() {
    for shape in SHAPES {
        let (site, backend) = site_of(shape).await;
        let browser = site.signed_in_at_backend("ada").await;
        let gate = Gate::closed();
        backend.next(Part::Refresh, Fault::Held(gate.clone()));
        let forced = together(2, |_| {
            let browser = browser.clone();
            async move { browser.fetch("POST", "/auth/refresh").await }
        });
        let opener = async {
            gate.arrivals(1).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            gate.open();
        };
        let (replies, ()) = tokio::join!(forced, opener);
        assert!(replies.iter().all(|reply| reply.status == 200));
        assert_eq!(backend.count(Part::Refresh), 1);

        site.clock.advance(A_WHILE);
        backend.revoke_grants();
        let refused = browser.fetch("POST", "/auth/refresh").await;
        assert_eq!(error_json(&refused, 401)["message"], "Invalid or expired refresh token");
        assert!(browser.session_cookie().is_none());
        assert_eq!(backend.count(Part::Logout), 0);
    }
}

// TN-27, TS-11
#[tokio::test]
async fn a_refresh_token_that_is_not_replaced_stays() {
    for shape in SHAPES {
        let (site, backend) = site_of(shape).await;
        backend.configure(|habits| habits.rotate = false);
        let browser = site.signed_in_at_backend("ada").await;
        for round in 1..=2 {
            backend.revoke_access_tokens();
            relayed(&browser.fetch("GET", "/x").await, 200);
            assert_eq!(backend.count(Part::Refresh), round);
            site.clock.advance(A_WHILE);
        }
        let seen = refresh_tokens_seen(&backend);
        assert_eq!(seen[0], seen[1]);
    }
}

// TN-34
#[tokio::test]
async fn a_refresh_token_goes_into_a_header_where_the_table_says_so() {
    let lines = "refresh = { token_in = \"header\", token_name = \"X-Refresh\", headers = { X-Tenant = \"acme\" } }";
    let (site, backend) = site_with(NUXT, lines).await;
    backend.configure(|habits| habits.refresh_header = Some("x-refresh"));
    let browser = site.signed_in_at_backend("ada").await;
    backend.revoke_access_tokens();
    relayed(&browser.fetch("GET", "/x").await, 200);
    let refresh = backend.last(Part::Refresh);
    assert!(refresh.headers.value("x-refresh").unwrap().starts_with("Bearer rt-"));
    assert_eq!((refresh.body.len(), refresh.headers.contains("content-type")), (0, false));
    assert_eq!(refresh.headers.value("x-tenant"), Some("acme"));
}

// TN-35
#[tokio::test]
async fn tokens_are_found_where_the_table_says() {
    let lines = "token_property = \"data.attributes.token\"\nrefresh_token_property = \"data.tokens[1]\"\nuser = false";
    let (site, backend) = site_with(NUXT, lines).await;
    let nest = |answer: &mut serde_json::Map<String, Value>| {
        let (token, refresh_token) = (answer.remove("token"), answer.remove("refresh_token"));
        let life = answer.remove("expires_in");
        let data = json!({
            "id": "ada-7", "attributes": { "token": token, "name": "Ada", "expires_in": life }, "tokens": ["x", refresh_token],
        });
        answer.insert("data".to_owned(), data);
    };
    backend.configure(|habits| {
        habits.login_answer = Box::new(nest);
        habits.refresh_answer = Box::new(nest);
    });
    let reply = site.browser().send(login_request(&credentials_of("ada"))).await.json();
    let expected = json!({ "id": "ada-7", "attributes": { "name": "Ada" }, "tokens": ["x"], "sub": "ada-7" });
    assert_eq!(reply["user"], expected, "without the tokens");
    let browser = site.signed_in_at_backend("ada").await;
    let session = browser.fetch("GET", "/auth/session").await.json();
    assert!((3500..=3600).contains(&session["tokenExpiresIn"].as_u64().unwrap()), "{session}");
    backend.revoke_access_tokens();
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!(backend.count(Part::Refresh), 1);
}

// TS-13
#[tokio::test]
async fn every_cell_can_be_overridden() {
    let shape = Shape {
        preset: "custom",
        login: "/api/v2/session",
        refresh: "/api/v2/session/renew",
        logout: Some(("DELETE", "/api/v2/session/end")),
        user: Some("/api/v2/profile"),
        refresh_member: "renewal",
        access_token: "jeton",
        refresh_token: "jeton_de_rechange",
    };
    let lines = r#"
login = { url = "/api/v2/session" }
refresh = { url = "/api/v2/session/renew", token_name = "renewal" }
logout = { method = "DELETE", url = "/api/v2/session/end" }
user = { url = "/api/v2/profile", sub = "username" }
token_property = "jeton"
refresh_token_property = "jeton_de_rechange"
"#;
    let over_sneat = format!("preset = \"sneat\"{lines}");
    for lines in [lines, &over_sneat] {
        let (site, backend) = site_with(shape, lines).await;
        let browser = site.signed_in_at_backend("ada").await;
        assert_eq!(browser.fetch("GET", "/auth/session").await.json()["sub"], "ada");
        backend.revoke_access_tokens();
        relayed(&browser.fetch("GET", "/x").await, 200);
        assert_eq!(browser.fetch("POST", "/auth/logout").await.status, 200);
        crate::harness::eventually(|| async { backend.all_grants_revoked() }).await;
        assert_eq!((backend.count(Part::Refresh), backend.count(Part::Logout)), (1, 1));
    }
}

// TS-15
#[tokio::test]
async fn a_json_body_is_replayed_as_it_was() {
    let (site, backend) = site_of(SNEAT).await;
    let browser = site.signed_in_at_backend("ada").await;
    backend.revoke_access_tokens();
    let body = r#"{ "a": [1, 2], "text": "\u00fc \"quoted\"" }"#;
    relayed(&browser.send(Request::fetch("POST", "/x?a=1&a=2").body("application/json", body)).await, 200);
    let received = site.upstream.received();
    assert_eq!(
        (received[0].body.clone(), received[0].target.clone()),
        (received[1].body.clone(), received[1].target.clone())
    );
    assert_eq!((received[1].body.as_slice(), received[1].header("content-length")), (body.as_bytes(), "44"));
}

// TS-16, TA-11
#[tokio::test]
async fn a_401_that_comes_late_is_replayed_with_the_token_there_is() {
    let (site, backend) = site_of(AXIOS).await;
    let browser = site.signed_in_at_backend("ada").await;
    let gate = Gate::closed();
    site.upstream.next(Answer::unauthorized().behind(&gate));
    let slow = {
        let browser = browser.clone();
        tokio::spawn(async move { browser.fetch("GET", "/slow").await })
    };
    gate.arrivals(1).await;
    backend.revoke_access_tokens();
    relayed(&browser.fetch("GET", "/fast").await, 200);
    gate.open();
    relayed(&slow.await.unwrap(), 200);
    assert_eq!(backend.count(Part::Refresh), 1);
}

// TS-09, TA-16
#[tokio::test]
async fn an_upstream_that_is_down_says_nothing_about_a_token() {
    let backend = Backend::start(SNEAT, Clock::system()).await;
    let url = format!("url = \"http://{}\"", deserted_address().await);
    let site = Site::plan().backend(&backend, "").app(&url).route("/*", "auth = true").start().await;
    let browser = site.signed_in_at_backend("ada").await;
    assert_eq!(browser.fetch("GET", "/x").await.status, 502);
    assert_eq!(backend.count(Part::Refresh), 0);
    assert_eq!(browser.fetch("GET", "/api/user/me").await.status, 200);
}

// TS-12
#[tokio::test]
async fn a_401_of_the_backends_own_login_is_relayed() {
    let backend = Backend::start(SNEAT, Clock::system()).await;
    let site = Site::plan()
        .backend(&backend, "")
        .app(&format!("url = \"{}\"", backend.url()))
        .login("prefix = \"/_auth\"")
        .route("/auth/login", "auth = \"public\"\nmethods = [\"POST\"]")
        .start()
        .await;
    let wrong = Request::fetch("POST", "/auth/login").body("application/json", r#"{"username":"ada"}"#);
    relayed(&site.browser().send(wrong).await, 401);
    assert_eq!(backend.count(Part::Refresh), 0);
}

// TA-01
#[tokio::test]
async fn the_token_is_looked_up_for_every_request_of_a_connection() {
    let (site, backend) = site_of(AXIOS).await;
    let browser = site.signed_in_at_backend("ada").await;
    let mut connection = site.connect().await;
    for _ in 0..2 {
        connection.send(&browser.serialise(Request::fetch("GET", "/x"))).await.unwrap();
        relayed(&connection.reply("GET").await.unwrap(), 200);
        assert_eq!(browser.fetch("POST", "/auth/refresh").await.status, 200);
        site.clock.advance(A_WHILE);
    }
    let received = site.upstream.received();
    assert!(received[0].bearer() != received[1].bearer());
    assert_eq!((received.len(), backend.count(Part::Refresh)), (2, 2));
}

// TA-02
#[tokio::test]
async fn without_a_session_no_authorization_is_sent() {
    let (site, backend) = site_of(AXIOS).await;
    site.upstream.answer(|_| Answer::status(200));
    relayed(&site.browser().fetch("GET", "/maybe/x").await, 200);
    assert!(!site.upstream.last().headers.contains("authorization"));
    login_status(&site.browser().fetch("GET", "/x").await, "unauthorized", "/page");
    assert_eq!(backend.count(Part::Refresh), 0);
}

// TA-13
#[tokio::test]
async fn after_a_refresh_there_can_be_another() {
    let (site, backend) = site_of(AXIOS).await;
    let browser = site.signed_in_at_backend("ada").await;
    for round in 1..=3 {
        backend.revoke_access_tokens();
        relayed(&browser.fetch("GET", "/x").await, 200);
        assert_eq!(backend.count(Part::Refresh), round);
        site.clock.advance(A_WHILE);
    }
}

// TA-15
#[tokio::test]
async fn a_leader_that_hangs_up_does_not_cancel_the_refresh() {
    let (site, backend) = site_of(AXIOS).await;
    let browser = site.signed_in_at_backend("ada").await;
    site.clock.advance(LIFE);
    let gate = Gate::closed();
    backend.next(Part::Refresh, Fault::Held(gate.clone()));
    let leader = browser.dispatch(Request::fetch("GET", "/leader")).await;
    gate.arrivals(1).await;
    drop(leader);
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.open();
    relayed(&browser.fetch("GET", "/later").await, 200);
    assert_eq!((backend.count(Part::Refresh), backend.reuses()), (1, 0));
}

#[tokio::test]
async fn a_refresh_whose_answer_was_lost_is_sent_once_more() {
    let (site, backend) = site_of(SNEAT).await;
    backend.configure(|habits| habits.rotate = false);
    let browser = site.signed_in_at_backend("ada").await;
    backend.revoke_access_tokens();
    backend.next(Part::Refresh, Fault::LoseAnswer);
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!(backend.count(Part::Refresh), 2);
}

// ------------------------------------------------------------------------------- lives, claims

// N-24
#[tokio::test]
async fn a_token_lives_as_long_as_its_answer_says_or_itself_or_the_table() {
    let hour = 3595..=3600;
    let quarter = 895..=900;
    for (jwt, tell_life, lines, expected) in [
        (false, true, "access_ttl = \"15m\"", Some(hour.clone())),
        (true, true, "access_ttl = \"15m\"", Some(hour.clone())),
        (true, false, "access_ttl = \"15m\"", Some(hour)),
        (false, false, "access_ttl = \"15m\"", Some(quarter)),
        (false, false, "", None),
    ] {
        let (site, backend) = site_with(SNEAT, lines).await;
        backend.configure(|habits| (habits.jwt, habits.tell_life) = (jwt, tell_life));
        let browser = site.browser();
        assert_eq!(browser.send(login_request(&credentials_of("ada"))).await.status, 200);
        let left = browser.fetch("GET", "/auth/session").await.json()["tokenExpiresIn"].as_u64();
        match &expected {
            Some(range) => assert!(left.is_some_and(|left| range.contains(&left)), "{jwt} {tell_life}: {left:?}"),
            None => assert_eq!(left, None),
        }
    }
}

// N-25
#[tokio::test]
async fn an_expired_token_is_refreshed_before_the_request_and_never_sent() {
    let (site, backend) = site_of(VUEXY).await;
    let browser = site.signed_in_at_backend("ada").await;
    site.clock.advance(LIFE);
    site.upstream.next(Answer::status(200));
    relayed(&browser.fetch("GET", "/maybe/x").await, 200);
    assert!(!site.upstream.last().headers.contains("authorization"), "an optional route goes without");
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!((backend.count(Part::Refresh), site.upstream.hits()), (1, 2));
}

#[tokio::test]
async fn who_signed_in_is_said_by_the_user_the_token_or_the_login() {
    let jwt_subject = |habits: &mut crate::harness::backend::Habits| habits.jwt = true;
    let (site, backend) = site_with(SNEAT, "").await;
    backend.configure(|habits| {
        jwt_subject(habits);
        habits.user_member = None;
    });
    let reply = site.browser().send(login_request(&credentials_of("ada"))).await;
    assert_eq!(reply.json()["user"], json!({ "sub": "ada" }), "the token's");
    backend.configure(|habits| habits.jwt = false);
    let reply = site.browser().send(login_request(&credentials_of("bob"))).await;
    assert_eq!(reply.json()["user"], json!({ "sub": "bob" }), "the user name");
}

#[tokio::test]
async fn claims_are_read_again_with_every_refresh_and_must_be_the_same_users() {
    let (site, backend) = site_of(NUXT).await;
    let browser = site.signed_in_at_backend("ada").await;
    backend.add_user("ada", json!({ "id": 1, "name": "Ada Lovelace", "token": "api-token-of-hers" }));
    backend.revoke_access_tokens();
    relayed(&browser.fetch("GET", "/x").await, 200);
    let me = browser.fetch("GET", "/api/user/me").await.json();
    assert_eq!((&me["name"], me.get("email"), me.get("token")), (&json!("Ada Lovelace"), None, None));

    site.clock.advance(A_WHILE);
    backend.next(Part::User, Fault::Json(500, json!({})));
    backend.revoke_access_tokens();
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!(browser.fetch("GET", "/api/user/me").await.json()["name"], "Ada Lovelace", "what was known stays");

    site.clock.advance(A_WHILE);
    backend.add_user("ada", json!({ "id": 3, "name": "Eve" }));
    backend.revoke_access_tokens();
    login_after_refusal(&browser.fetch("GET", "/x").await, "expired", "/page");
    assert_eq!(browser.fetch("GET", "/api/user/me").await.status, 401);
}

// ------------------------------------------------------------------------------- logout

// TN-28, TN-29, N-19
#[tokio::test]
async fn a_logout_tells_the_backend_unless_it_is_local() {
    for shape in SHAPES {
        let (site, backend) = site_of(shape).await;
        let browser = site.signed_in_at_backend("ada").await;
        assert_eq!(browser.fetch("POST", "/auth/logout?local=1").await.status, 200);
        assert!(browser.session_cookie().is_none());
        let browser = site.signed_in_at_backend("ada").await;
        assert_eq!(browser.fetch("POST", "/auth/logout").await.json(), json!({ "success": true }));
        let Some((method, path)) = shape.logout else { continue };
        crate::harness::eventually(|| async { backend.count(Part::Logout) == 1 }).await;
        let logout = backend.last(Part::Logout);
        assert_eq!((logout.method.as_str(), logout.target.as_str()), (method, path));
        assert!(logout.bearer().unwrap().starts_with("at-"));
        let refresh_token = logout.json()[shape.refresh_member].as_str().map(|token| token.starts_with("rt-"));
        assert_eq!(refresh_token, (method == "POST").then_some(true), "a body means something to POST");
    }
}

// TN-28
#[tokio::test]
async fn a_backend_that_fails_to_sign_out_stops_nobody() {
    let (site, backend) = site_of(NUXT).await;
    for fault in [Fault::Json(500, json!({})), Fault::Reset, Fault::Hang] {
        let browser = site.signed_in_at_backend("ada").await;
        backend.next(Part::Logout, fault);
        let page = browser.navigate("/auth/logout").await;
        assert_eq!((page.trail[0].1, page.trail[1].0.path()), (302, "/"));
        assert!(browser.session_cookie().is_none());
    }
}
