//! `capture = true`: apps that know of no gateway, sign in at their backend by themselves and think that they hold its tokens.

use crate::harness::backend::{AXIOS, NUXT, SHAPES, SNEAT, Shape, VUEXY, password_of};
use crate::harness::expect::{error_json, relayed};
use crate::harness::provider::Fault;
use crate::harness::site::parse;
use crate::harness::upstream::{deserted_address, is_relayed};
use crate::harness::{Answer, Backend, Browser, Gate, Part, Reply, Request, Site, eventually, together};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use latchgate::clock::Clock;
use serde_json::{Value, json};
use std::time::Duration;

/// Past the life of an access token.
const LIFE: Duration = Duration::from_secs(3700);
const CAPTURE: &str = "methods = [\"POST\"]\nauth = \"public\"\nprovider = \"legacy\"\ncapture = true";
const API: &str = "auth = true\nprovider = \"legacy\"";

// ------------------------------------------------------------------------------- whole journeys

// A-C7, S-C7, TS-02, TS-03, TS-12, TN-34 (body)
#[tokio::test]
async fn an_app_of_every_preset_keeps_working_and_never_holds_a_token() {
    for shape in SHAPES {
        for jwt in [false, true] {
            let (backend, site) = captured_site(shape).await;
            backend.configure(|habits| habits.jwt = jwt);
            journey(shape, jwt, &backend, &site).await;
        }
    }
}

async fn journey(shape: Shape, jwt: bool, backend: &Backend, site: &Site) {
    let preset = shape.preset;
    let mut app = App::new(site, backend, shape);
    let wrong = app.log_in_with("ada", "wrong").await;
    relayed(&wrong, 401);
    assert_eq!(
        (wrong.json()["message"].as_str(), app.browser.cookies().len()),
        (Some("Wrong password"), 0),
        "{preset}"
    );

    let login = app.log_in("ada").await;
    assert!(app.browser.session_cookie().is_some(), "{preset}");
    assert_eq!((login.header("cache-control"), login.json()["expires_in"].as_u64()), ("no-store", Some(3600)));
    assert_eq!(app.access.starts_with("latchgate-stand-in."), !jwt, "{preset}");
    if jwt {
        let payload = URL_SAFE_NO_PAD.decode(app.access.split('.').nth(1).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap()["sub"], "ada", "{preset}");
    }
    let answer = app.fetch("GET", "/api/orders?x=1").await;
    assert_eq!((answer.status, answer.json()["user"].as_str()), (200, Some("ada")), "{preset}");
    assert_eq!(answer.json()["path"], "/api/orders?x=1");

    backend.revoke_access_tokens();
    relayed(&app.fetch("GET", "/api/orders").await, 200);
    let first = backend.last(Part::Refresh);
    assert_eq!(first.headers.value("content-type"), Some("application/json"), "{preset}");
    let first = first.json()[shape.refresh_member].as_str().unwrap().to_owned();
    assert_eq!(backend.count(Part::Refresh), 1, "{preset}");

    site.clock.advance(LIFE);
    relayed(&app.fetch("GET", "/api/orders").await, 200);
    assert_eq!(backend.count(Part::Refresh), 2, "{preset}");

    site.clock.advance(Duration::from_secs(60));
    let before = app.access.clone();
    let refreshed = app.refresh().await;
    assert_eq!((refreshed.status, refreshed.header("cache-control")), (200, "no-store"), "{}", refreshed.text());
    assert!((3590..=3600).contains(&refreshed.json()["expires_in"].as_u64().unwrap()), "{preset}");
    assert_ne!(app.access, before, "{preset}");
    assert_eq!((backend.count(Part::Refresh), backend.reuses()), (3, 0), "{preset}");
    assert_ne!(backend.last(Part::Refresh).json()[shape.refresh_member], first.as_str(), "{preset}");
    relayed(&app.fetch("GET", "/api/orders").await, 200);

    let out = app.log_out().await;
    assert_eq!((out.status, out.json()), (200, json!({"success": true})), "{preset}");
    assert_eq!(app.browser.session_cookie(), None, "{preset}");
    if shape.logout.is_some() {
        eventually(|| async { backend.all_grants_revoked() }).await;
        assert_eq!(backend.count(Part::Logout), 1, "{preset}");
    }
    assert_eq!(app.fetch("GET", "/api/orders").await.status, 401, "{preset}");
    error_json(&app.refresh().await, 401);
    assert_eq!(backend.count(Part::Refresh), 3, "{preset}");
    no_stand_in_reached(backend);
}

// TS-12
#[tokio::test]
async fn a_wrong_password_ends_no_session_whatever_the_route_does_with_sessions() {
    for auth in ["\"optional\"", "false", "\"guest\""] {
        let backend = Backend::start(VUEXY, Clock::system()).await;
        let site = Site::plan()
            .backend(&backend, "")
            .app(&format!("url = \"{}\"", backend.url()))
            .route(VUEXY.login, &format!("auth = {auth}\nprovider = \"legacy\"\ncapture = true"))
            .route("/*", API)
            .start()
            .await;
        let mut app = App::new(&site, &backend, VUEXY);
        app.log_in("ada").await;
        relayed(&app.log_in_with("bob", "wrong").await, 401);
        assert_eq!(app.fetch("GET", "/api/x").await.json()["user"], "ada", "{auth}");
        assert_eq!(backend.count(Part::Refresh), 0, "{auth}");
        app.log_in("bob").await;
        assert_eq!(app.fetch("GET", "/api/x").await.json()["user"], "bob", "{auth}");
    }
}

// TA-09, TA-13, TS-11
#[tokio::test]
async fn five_401s_at_once_are_one_refresh_and_later_ones_another() {
    let (backend, site) = captured_site(AXIOS).await;
    backend.configure(|habits| habits.rotate = false);
    let mut app = App::new(&site, &backend, AXIOS);
    app.log_in("ada").await;
    for round in 1..=2 {
        site.clock.advance(Duration::from_secs(60));
        backend.revoke_access_tokens();
        let replies = together(5, |number| {
            let (browser, request) = (app.browser.clone(), app.request("GET", &format!("/api/{number}")));
            async move { browser.send(request).await }
        });
        assert!(replies.await.iter().all(|reply| reply.status == 200 && reply.json()["user"] == "ada"));
        assert_eq!(backend.count(Part::Refresh), round);
    }
    let sent: Vec<Value> = backend.calls(Part::Refresh).iter().map(|call| call.json()).collect();
    assert_eq!(sent[0], sent[1], "the old refresh token is kept");
    no_stand_in_reached(&backend);
}

// TS-13
#[tokio::test]
async fn another_refresh_path_and_other_names() {
    let shape = Shape { refresh: "/session/renew", refresh_member: "old", access_token: "jwt", ..NUXT };
    let lines = "refresh = { url = \"/session/renew\", token_name = \"old\" }\ntoken_property = \"jwt\"";
    let (backend, site) = site_with(shape, lines).await;
    let mut app = App::new(&site, &backend, shape);
    app.log_in("ada").await;
    site.clock.advance(LIFE);
    assert_eq!(app.refresh().await.status, 200);
    assert_eq!(backend.count(Part::Refresh), 1);
    assert!(backend.last(Part::Refresh).json()["old"].as_str().unwrap().starts_with("rt-"));
    no_stand_in_reached(&backend);
}

// TN-34 (header)
#[tokio::test]
async fn a_refresh_token_in_a_header_is_a_stand_in_there_too() {
    let lines = "refresh = { token_in = \"header\", token_name = \"X-Refresh\" }";
    let (backend, site) = site_with(NUXT, lines).await;
    backend.configure(|habits| habits.refresh_header = Some("X-Refresh"));
    let mut app = App::new(&site, &backend, NUXT);
    app.log_in("ada").await;
    let value = format!("Bearer {}", app.refresh);
    let refreshed = app.send(Request::fetch("POST", "/refresh_tokens").header("X-Refresh", &value)).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    let call = backend.last(Part::Refresh);
    assert!(call.body.is_empty() && call.headers.value("x-refresh").unwrap().starts_with("Bearer rt-"));
    no_stand_in_reached(&backend);
}

// TN-35
#[tokio::test]
async fn nested_tokens_are_found_and_answered_where_they_were() {
    let lines = "token_property = \"data.attributes.token\"\nrefresh_token_property = \"data.attributes.refresh\"";
    let (backend, site) = site_with(NUXT, lines).await;
    backend.configure(|habits| {
        let nest = |answer: &mut serde_json::Map<String, Value>| {
            let (token, refresh) = (answer.remove("token").unwrap(), answer.remove("refresh_token").unwrap());
            let copy = format!("Bearer {}", token.as_str().unwrap());
            answer
                .insert("data".into(), json!({"attributes": {"token": token, "refresh": refresh, "expires_in": 3600}}));
            answer.insert("copies".into(), json!([copy]));
        };
        habits.login_answer = Box::new(nest);
        habits.refresh_answer = Box::new(nest);
    });
    let app = App::new(&site, &backend, NUXT);
    let login = app.log_in_with("ada", &password_of("ada")).await.json();
    let stand_in = login["data"]["attributes"]["token"].as_str().unwrap();
    assert_eq!(login["copies"][0], format!("Bearer {stand_in}"));
    site.clock.advance(LIFE);
    let body = json!({"token": login["data"]["attributes"]["refresh"]}).to_string();
    let refreshed = app.send(Request::fetch("POST", "/refresh_tokens").body("application/json", body)).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    let attributes = &refreshed.json()["data"]["attributes"];
    assert!(attributes["token"].is_string() && attributes["refresh"].is_string() && attributes["expires_in"].is_u64());
    no_stand_in_reached(&backend);
}

// A-C7
#[tokio::test]
async fn our_own_endpoints_answer_where_the_paths_are_ours() {
    let shape = Shape { login: "/login", ..SNEAT };
    let backend = Backend::start(shape, Clock::system()).await;
    let site = Site::plan()
        .backend(&backend, "login = { url = \"/login\" }")
        .app(&format!("url = \"{}\"", backend.url()))
        .route("/login", CAPTURE)
        .route("/*", API)
        .start()
        .await;
    let mut app = App::new(&site, &backend, shape);
    let nobody = app.send(Request::fetch("POST", "/auth/refresh-token")).await;
    assert_eq!(error_json(&nobody, 401)["code"], "refresh_invalid");
    app.log_in("ada").await;
    site.clock.advance(LIFE);
    assert_eq!(app.refresh().await.status, 200);
    assert_eq!(app.send(Request::fetch("GET", "/auth/refresh-token")).await.status, 405);

    let own = app.send(Request::fetch("POST", "/auth/refresh")).await.json();
    for name in ["token", "accessToken", "access_token", "refreshToken", "refresh_token"] {
        assert!(own[name].is_string(), "{name}: {own}");
    }
    assert!(own["expiresIn"].is_u64() && own["expires_in"] == own["expiresIn"]);
    for name in ["token", "accessToken"] {
        let bearer = format!("Bearer {}", own[name].as_str().unwrap());
        relayed(&app.send(Request::fetch("GET", "/api/x").header("Authorization", &bearer)).await, 200);
    }
    assert_eq!(backend.count(Part::Refresh), 1);
    no_stand_in_reached(&backend);
}

// --------------------------------------------------------------------- where stand-ins must not go

#[tokio::test]
async fn stand_ins_are_dropped_or_replaced_wherever_an_app_sends_them() {
    let (backend, site) = site_before_an_upstream().await;
    let mut app = App::new(&site, &backend, NUXT);
    app.log_in("ada").await;
    let encoded = format!("%7B%22t%22%3A%22{}%22%7D", app.access);
    app.browser.plant(&format!("auth.access_token={}; Path=/", app.access));
    app.browser.plant("theme=dark; Path=/");
    app.browser.plant(&format!("auth={encoded}; Path=/"));
    for (path, attached) in [("/api/x", true), ("/open/x", false)] {
        for header in ["Authorization", "X-Token"] {
            let request = Request::fetch("GET", &format!("{path}?a=%7e&token={}&b", app.access))
                .header(header, &format!("Token {}", app.access));
            assert_eq!(app.send(request).await.status, 200);
            let received = site.upstream.last();
            let token = received.bearer();
            assert_eq!(token.and_then(|token| backend.user_of(token)).is_some(), attached, "{received:?}");
            let target = token.map_or(format!("{path}?a=%7e&b"), |token| format!("{path}?a=%7e&token={token}&b"));
            assert_eq!(received.target, target);
            assert_eq!((received.header("cookie"), received.header("x-token")), ("theme=dark", ""));
        }
    }
    no_stand_in_reached(&backend);
    assert!(!mentions_stand_in(&format!("{:?}", site.upstream.received())));
}

#[tokio::test]
async fn a_websocket_with_a_stand_in_in_its_query_gets_the_token() {
    let (backend, site) = site_before_an_upstream().await;
    let mut app = App::new(&site, &backend, NUXT);
    app.log_in("ada").await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let upgrade = Request::new("GET", &format!("/api/socket?token={}&v=1", app.access))
        .header("Origin", &app.browser.origin())
        .header("Sec-Fetch-Site", "same-origin")
        .header("Sec-Fetch-Mode", "websocket")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let (head, _connection) = app.browser.open(upgrade).await;
    assert_eq!(head.word(1), "101", "{head:?}");
    let target = site.upstream.last().target;
    let token = target.strip_prefix("/api/socket?token=").unwrap().strip_suffix("&v=1").unwrap();
    assert_eq!(backend.user_of(token).as_deref(), Some("ada"));
}

#[tokio::test]
async fn a_token_put_into_a_query_does_not_come_back_in_a_header() {
    let (backend, site) = site_before_an_upstream().await;
    backend.configure(|habits| habits.jwt = true);
    let mut app = App::new(&site, &backend, NUXT);
    app.log_in("ada").await;
    site.upstream.answer(|received| {
        let to = received.target.replacen("/file?", "/file/?", 1);
        Answer::status(302).header("Location", &to).header("Set-Cookie", &format!("last={to}")).header("X-A", "kept")
    });
    let reply = app.send(Request::fetch("GET", &format!("/api/file?token={}&b=%7e", app.access))).await;
    assert!(site.upstream.last().target.contains(site.upstream.last().bearer().unwrap()));
    let location = reply.header("location").to_owned();
    let stand_in = location.strip_prefix("/api/file/?token=").and_then(|rest| rest.strip_suffix("&b=%7e"));
    assert!(stand_in.is_some_and(mentions_stand_in), "{location}");
    assert_eq!(reply.header("x-a"), "kept");
    app.send(Request::fetch("GET", &location)).await;
    assert!(!mentions_stand_in(&site.upstream.last().target), "the browser gets where it was sent");
}

/// Its form is no secret: another site could make up a stand-in, and a backend copy its query to who knows where.
#[tokio::test]
async fn other_sites_get_no_token_put_into_a_query() {
    let (backend, site) = site_before_an_upstream().await;
    let mut app = App::new(&site, &backend, NUXT);
    app.log_in("ada").await;
    let target = format!("/api/go?token={}&to=x", app.access);
    for foreign in ["cross-site", "same-site"] {
        app.send(Request::navigation(&target).with("Sec-Fetch-Site", foreign)).await;
        assert_eq!(site.upstream.last().target, "/api/go?to=x", "{foreign}");
        assert!(site.upstream.last().bearer().is_some());
    }
}

#[tokio::test]
async fn a_stand_in_without_a_session_is_worth_nothing() {
    let (backend, site) = captured_site(NUXT).await;
    let mut app = App::new(&site, &backend, NUXT);
    app.log_in("ada").await;
    let mut thief = App::new(&site, &backend, NUXT);
    (thief.access, thief.refresh) = (app.access.clone(), app.refresh.clone());
    assert_eq!(thief.fetch("GET", "/api/x").await.status, 401);
    assert_eq!(error_json(&thief.refresh().await, 401)["code"], "unauthorized");
    let shown = thief.fetch("POST", "/refresh_tokens").await;
    assert_eq!(error_json(&shown, 401)["code"], "refresh_invalid");
    assert_eq!(thief.log_out().await.status, 200);
    assert_eq!((backend.count(Part::Refresh), backend.count(Part::Logout), backend.count(Part::Api)), (0, 0, 0));
    relayed(&app.fetch("GET", "/api/x").await, 200);
}

/// On a route that anybody may use the stand-in may stand in the body alone.
#[tokio::test]
async fn refresh_and_logout_without_session_and_stand_in_are_the_backends_business() {
    let backend = Backend::start(NUXT, Clock::system()).await;
    let site = Site::plan()
        .backend(&backend, "")
        .app(&format!("url = \"{}\"", backend.url()))
        .route("/login", CAPTURE)
        .route("/*", "auth = \"public\"\nprovider = \"legacy\"")
        .start()
        .await;
    let mut app = App::new(&site, &backend, NUXT);
    app.refresh = "something-of-the-app".to_owned();
    relayed(&app.refresh().await, 401);
    assert_eq!(backend.last(Part::Refresh).json(), json!({"token": "something-of-the-app"}));
    relayed(&app.send(Request::fetch("DELETE", "/logout")).await, 401);
    let much = Request::fetch("POST", "/refresh_tokens").body("application/json", vec![b' '; 20_000]);
    assert_eq!(app.send(much).await.status, 413);

    app.log_in("ada").await;
    let (cookies, stand_in) = (app.browser.cookies().len(), app.refresh.clone());
    assert_eq!(cookies, 1);
    let mut elsewhere = App::new(&site, &backend, NUXT);
    elsewhere.refresh = stand_in;
    error_json(&elsewhere.refresh().await, 401);
    assert_eq!((backend.count(Part::Refresh), backend.count(Part::Logout)), (1, 1));
    assert_eq!(app.refresh().await.status, 200, "the session makes the difference");
    assert_eq!(backend.count(Part::Refresh), 2);

    // Somebody who signed in elsewhere is none of this backend's users.
    let other = site.browser();
    other.navigate("/auth/corp?login_hint=bob").await;
    assert_eq!(other.fetch("GET", "/api/user/me").await.status, 200);
    let body = json!({"token": "something-of-the-app"}).to_string();
    let answer = other.send(Request::fetch("POST", "/refresh_tokens").body("application/json", body)).await;
    relayed(&answer, 401);
    assert_eq!(other.fetch("GET", "/api/user/me").await.status, 200);
}

/// Many backends take all of these for the same (Express does); what they would answer are tokens.
#[tokio::test]
async fn other_spellings_of_the_refresh_path_do_not_reach_the_backend() {
    let (backend, site) = captured_site(NUXT).await;
    let mut app = App::new(&site, &backend, NUXT);
    app.log_in("ada").await;
    let body = json!({"token": app.refresh}).to_string();
    for (count, target) in [
        "/refresh_tokens/",
        "/Refresh_Tokens",
        "//refresh_tokens",
        "/refresh%5Ftokens",
        "/refresh_tokens;x=1",
        "/refresh_tokens?a=b",
    ]
    .into_iter()
    .enumerate()
    {
        site.clock.advance(Duration::from_secs(60));
        let answer = app.send(Request::fetch("POST", target).body("application/json", body.clone())).await;
        assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"), "{target}: {}", answer.text());
        assert_eq!(backend.count(Part::Refresh), count + 1, "{target}");
    }
    assert_eq!(backend.count(Part::Api), 0);
    for target in ["/refresh_tokens/x", "/api/refresh_tokens", "/refresh_token"] {
        app.send(Request::fetch("POST", target).body("application/json", "{}")).await;
    }
    assert_eq!(backend.count(Part::Api), 3);
    let out = app.send(Request::fetch("DELETE", "/logout/")).await;
    assert_eq!(out.json(), json!({"success": true}));
}

#[tokio::test]
async fn an_apps_own_refresh_and_logout_keep_the_routes_xsrf_check() {
    let backend = Backend::start(NUXT, Clock::system()).await;
    let site = Site::plan()
        .backend(&backend, "")
        .app(&format!("url = \"{}\"", backend.url()))
        .route("/login", CAPTURE)
        .route("/*", &format!("{API}\nxsrf = true"))
        .start()
        .await;
    let mut app = App::new(&site, &backend, NUXT);
    app.log_in("ada").await;
    for (method, target) in [("POST", "/refresh_tokens"), ("DELETE", "/logout")] {
        let refused = app.send(Request::fetch(method, target)).await;
        assert_eq!(error_json(&refused, 403)["code"], "xsrf_mismatch", "{target}");
    }
    relayed(&app.fetch("GET", "/api/x").await, 200);
}

// -------------------------------------------------------------------------------- who may sign in

#[tokio::test]
async fn only_pages_of_this_origin_capture() {
    let (backend, site) = captured_site(NUXT).await;
    let app = App::new(&site, &backend, NUXT);
    for (site, origin) in [("cross-site", "https://evil.test"), ("same-site", "http://sub.gw.test")] {
        let foreign =
            app.login_request("ada", &password_of("ada")).with("Sec-Fetch-Site", site).header("Origin", origin);
        let refused = app.send(foreign).await;
        assert_eq!(error_json(&refused, 403)["code"], "cross_origin");
    }
    let old = app.login_request("ada", &password_of("ada")).without("Sec-Fetch-Site").header("Origin", "null");
    assert_eq!(app.send(old.without("Sec-Fetch-Mode")).await.status, 403);
    assert_eq!(backend.count(Part::Login), 0);

    let credentials = json!({"username": "ada", "password": password_of("ada")}).to_string();
    let script = Request::new("POST", "/login").body("application/json", credentials);
    assert_eq!(app.send(script).await.status, 200);
    assert!(app.browser.session_cookie().is_some(), "what is no browser may");

    for (method, target) in [("POST", "/refresh_tokens"), ("DELETE", "/logout")] {
        let foreign =
            Request::fetch(method, target).with("Sec-Fetch-Site", "same-site").header("Origin", "http://sub.gw.test");
        assert_eq!(app.send(foreign).await.status, 403, "{target}");
    }
    assert_eq!((backend.count(Part::Refresh), backend.count(Part::Logout)), (0, 0));
}

#[tokio::test]
async fn a_new_login_ends_the_session_before_and_two_at_once_both_work() {
    let (backend, site) = captured_site(VUEXY).await;
    let mut app = App::new(&site, &backend, VUEXY);
    app.log_in("ada").await;
    let first = app.browser.cookie_field();
    app.log_in("bob").await;
    assert_ne!(app.browser.cookie_field(), first);
    assert_eq!(app.fetch("GET", "/api/x").await.json()["user"], "bob");
    eventually(|| async {
        app.browser.send(Request::fetch("GET", "/api/x").header("Cookie", &first)).await.status == 401
    })
    .await;

    let fresh = App::new(&site, &backend, VUEXY);
    let replies = together(2, |_| {
        let (browser, request) = (fresh.browser.clone(), fresh.login_request("eve", &password_of("eve")));
        async move { browser.send(request).await }
    });
    assert!(replies.await.iter().all(|reply| reply.status == 200));
    assert_eq!(fresh.fetch("GET", "/api/x").await.json()["user"], "eve");
}

#[tokio::test]
async fn a_form_names_the_user_as_well_as_json() {
    let (backend, site) = site_before_an_upstream_as(SNEAT, "upstream = \"app\"").await;
    for (content_type, body) in [
        ("application/x-www-form-urlencoded", "password=x&username=zo%C3%AB+z".to_owned()),
        ("application/json; charset=utf-8", json!({"username": "zoë z", "password": "x"}).to_string()),
    ] {
        let app = App::new(&site, &backend, SNEAT);
        site.upstream.next(Answer::status(200).body(r#"{"accessToken":"opaque-1"}"#));
        let reply = app.send(Request::fetch("POST", "/auth/login").body(content_type, body.clone())).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(site.upstream.last().body, body.as_bytes());
        assert_eq!(site.upstream.last().header("accept-encoding"), "identity");
        assert_eq!(app.send(Request::fetch("GET", "/_auth/me")).await.json()["sub"], "zoë z");
    }
    let app = App::new(&site, &backend, SNEAT);
    site.upstream.next(Answer::status(200).body(r#"{"accessToken":"opaque-1"}"#));
    let nameless = app.send(Request::fetch("POST", "/auth/login").body("text/plain", "username=ada")).await;
    assert_eq!(error_json(&nameless, 502)["code"], "provider_error");
    assert!(app.browser.session_cookie().is_none() && !nameless.text().contains("opaque-1"));
}

// -------------------------------------------------------------------------------------- bad answers

#[tokio::test]
async fn what_may_hold_tokens_and_cannot_be_read_is_kept_back() {
    let (backend, site) = site_before_an_upstream_as(NUXT, "upstream = \"app\"\nresponse_timeout = \"1s\"").await;
    let tokens = r#"{"token":"secret-token","refresh_token":"secret-refresh"}"#;
    let huge = format!(r#"{{"token":"secret-token","x":"{}"}}"#, "x".repeat(2 << 20));
    let (slow, endless) = Answer::steps();
    slow.send(br#"{"token":"#.to_vec()).unwrap();
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"token\":\"secret-token\"";
    for (case, answer) in [
        ("html", Answer::status(200).header("Content-Type", "text/html").body("<p>secret-token</p>")),
        ("2 MiB", Answer::status(200).body(huge)),
        ("compressed", Answer::status(200).header("Content-Encoding", "gzip").body(tokens)),
        ("twice", Answer::status(200).body(r#"{"token":"a","token":"secret-token"}"#)),
        ("a text", Answer::status(200).body("\"secret-token\"")),
        ("a list", Answer::status(200).body(r#"[{"token":"secret-token"}]"#)),
        ("elsewhere", Answer::status(201).body(r#"{"data":{"access_token":"secret-token"}}"#)),
        ("another refresh name", Answer::status(200).body(r#"{"token":"a-token","refreshToken":"secret-refresh"}"#)),
        ("other words for it", Answer::status(200).body(r#"{"data":{"Auth-Token":"secret-token"}}"#)),
        ("a JWT by name", Answer::status(200).body(r#"{"jwt":"secret-token"}"#)),
        ("two words", Answer::status(200).body(r#"{"token":"secret-token secret"}"#)),
        ("slow", endless),
        ("broken off", Answer::raw(broken)),
    ] {
        let app = App::new(&site, &backend, NUXT);
        site.upstream.next(answer.header("Set-Cookie", "t=secret-token"));
        let reply = app.log_in_with("ada", "x").await;
        assert_eq!(error_json(&reply, 502)["code"], "login_answer_unusable", "{case}");
        assert!(!format!("{reply:?}").contains("secret"), "{case}");
        assert_eq!(app.browser.cookies().len(), 0, "{case}");
    }
}

#[tokio::test]
async fn answers_that_sign_nobody_in_are_relayed_untouched() {
    let (backend, site) = site_before_an_upstream_as(NUXT, "upstream = \"app\"").await;
    let app = App::new(&site, &backend, NUXT);
    for (status, body) in [
        (200, r#"{ "error": "wrong password", "n": 1.0 }"#),
        (200, r#"{"mfa_required":true,"mfaToken":"m"}"#),
        (200, ""),
        (204, ""),
        (302, "moved"),
        (401, r#"{"token":"x"}"#),
        (422, "<p>no</p>"),
        (500, "down"),
    ] {
        site.upstream.next(Answer::status(status).header("ETag", "\"1\"").header("Set-Cookie", "a=1").body(body));
        let reply = app.log_in_with("ada", "x").await;
        assert!(is_relayed(&reply), "{status}");
        assert_eq!((reply.status, reply.text().as_str(), reply.header("etag")), (status, body, "\"1\""));
        assert_eq!(app.browser.session_cookie(), None);
    }
    // Another path, or a method that is not the login's, is no login.
    site.upstream.next(Answer::status(200).body(r#"{"token":"not-a-login"}"#));
    assert_eq!(app.send(Request::fetch("POST", "/open/login")).await.json()["token"], "not-a-login");
}

#[tokio::test]
async fn a_captured_answer_keeps_what_is_not_the_tokens() {
    let (backend, site) = site_before_an_upstream_as(SNEAT, "upstream = \"app\"").await;
    let app = App::new(&site, &backend, SNEAT);
    let body =
        "{ \"z\": 1.0, \"accessToken\": \"opaque-1\",\n \"a\": [\"Bearer opaque-1\", \"caf\\u00e9\"], \"id\": 7 }";
    let answer = Answer::status(201)
        .header("Content-Type", "application/vnd.api+json")
        .header("ETag", "\"1\"")
        .header("X-Access-Token", "opaque-1")
        .header("Set-Cookie", "a=1; Path=/")
        .header("Set-Cookie", "jwt=opaque-1; HttpOnly")
        .header("Set-Cookie", "b=2; Path=/")
        .body(body);
    site.upstream.next(answer);
    let reply = app.log_in_with("ada", "x").await;
    let stand_in = reply.json()["accessToken"].as_str().unwrap().to_owned();
    assert_eq!(reply.text(), body.replace("opaque-1", &stand_in));
    assert_eq!((reply.status, reply.header("content-type")), (201, "application/vnd.api+json"));
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    assert!(!reply.headers.contains("etag") && !reply.headers.contains("x-access-token"));
    let cookies = reply.headers.values("set-cookie");
    assert_eq!(&cookies[..2], ["a=1; Path=/", "b=2; Path=/"]);
    assert!(cookies.len() == 3 && cookies[2].starts_with("latchgate="), "{cookies:?}");
}

/// What is called like a token and is neither of the two is one for some other purpose; the browser does not get it either.
#[tokio::test]
async fn further_tokens_in_a_captured_answer_become_stand_ins_too() {
    let (backend, site) = site_before_an_upstream_as(SNEAT, "upstream = \"app\"").await;
    let app = App::new(&site, &backend, SNEAT);
    let body = json!({
        "accessToken": "opaque-access", "id": 7, "idToken": "opaque-id-token", "note": "opaque-id-token", "token": "7",
        "userData": {"token": "opaque-copy", "refresh_token": "opaque-third"}, "refreshToken": "opaque-refresh",
    });
    site.upstream.next(Answer::status(200).header("X-Id", "opaque-id-token").body(body.to_string()));
    let reply = app.log_in_with("ada", "x").await;
    assert_eq!((reply.status, reply.json()["id"].as_u64(), reply.json()["token"].as_str()), (200, Some(7), Some("7")));
    assert!(!format!("{:?} {}", reply.headers, reply.text()).contains("opaque-"), "{}", reply.text());
    assert_eq!(reply.json()["note"], reply.json()["idToken"]);
}

/// Where only the login's own words say who signs in, gateway and backend must not read two names out of them.
#[tokio::test]
async fn a_login_that_two_readers_could_understand_differently_names_nobody() {
    const FORM: &str = "application/x-www-form-urlencoded";
    const JSON: &str = "application/json";
    let (backend, site) = site_before_an_upstream_as(SNEAT, "upstream = \"app\"").await;
    for (target, content_types, body) in [
        ("/auth/login", [FORM, ""], "username=admin&username=ada"),
        ("/auth/login", [FORM, ""], "username=admin&username[]=ada"),
        ("/auth/login", [FORM, ""], "username=admin&User%2Ename=ada"),
        ("/auth/login", [JSON, ""], r#"{"username":"admin","username":"ada"}"#),
        ("/auth/login", [JSON, ""], r#"{"username":"admin","userName":"ada"}"#),
        ("/auth/login", [JSON, ""], r#"{"username":"admin","u\u017fername":"ada"}"#),
        ("/auth/login?username=ada", [JSON, ""], r#"{"username":"admin"}"#),
        ("/auth/login", [JSON, FORM], r#"{"username":"admin","x":"&username=ada&"}"#),
        (
            "/auth/login",
            ["application/x-www-form-urlencoded, x/json", ""],
            r#"{"username":"admin","x":"&username=ada&"}"#,
        ),
    ] {
        let app = App::new(&site, &backend, SNEAT);
        site.upstream.next(Answer::status(200).body(r#"{"accessToken":"opaque-1"}"#));
        let mut login = Request::fetch("POST", target).body(content_types[0], body);
        if !content_types[1].is_empty() {
            login = login.header("Content-Type", content_types[1]);
        }
        let reply = app.send(login).await;
        assert_eq!(error_json(&reply, 502)["code"], "provider_error", "{target} {content_types:?} {body}");
        assert_eq!(app.browser.session_cookie(), None);
    }
}

// ----------------------------------------------------------------------- what was begun is finished

#[tokio::test]
async fn a_store_that_is_down_gives_the_tokens_back() {
    let redis = deserted_address().await;
    let backend = Backend::start(NUXT, Clock::system()).await;
    let site = plan(&backend, NUXT, "")
        .session(&format!("store = \"redis\"\n[session.redis]\nurl = \"redis://{redis}/\""))
        .start()
        .await;
    let app = App::new(&site, &backend, NUXT);
    let reply = app.log_in_with("ada", &password_of("ada")).await;
    assert_eq!(error_json(&reply, 503)["code"], "store_unavailable");
    assert_eq!(app.browser.session_cookie(), None);
    eventually(|| async { backend.count(Part::Logout) == 1 && backend.all_grants_revoked() }).await;

    // Who shows a session that cannot be looked up is not signed in over it.
    app.browser.plant(&format!("latchgate={}; Path=/", "A".repeat(43)));
    assert_eq!(app.log_in_with("ada", &password_of("ada")).await.status, 503);
    assert_eq!(backend.count(Part::Login), 1);
}

#[tokio::test]
async fn a_backend_that_does_not_say_who_it_is_gives_no_session() {
    let (backend, site) = captured_site(NUXT).await;
    for (fault, status) in [(Fault::Html, 502), (Fault::Json(401, json!({})), 502), (Fault::Json(500, json!({})), 503)]
    {
        let app = App::new(&site, &backend, NUXT);
        backend.next(Part::User, fault);
        error_json(&app.log_in_with("ada", &password_of("ada")).await, status);
        assert_eq!(app.browser.session_cookie(), None);
    }
    eventually(|| async { backend.count(Part::Logout) == 3 && backend.all_grants_revoked() }).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_neither_session_nor_tokens() {
    for held in [Part::Login, Part::User] {
        let backend = Backend::start(NUXT, Clock::system()).await;
        let site = plan(&backend, NUXT, "").server("admin_listen = \"127.0.0.1:0\"").start().await;
        let app = App::new(&site, &backend, NUXT);
        let gate = Gate::closed();
        backend.next(held, Fault::Held(gate.clone()));
        let connection = app.browser.dispatch(app.login_request("ada", &password_of("ada"))).await;
        gate.arrivals(1).await;
        drop(connection);
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.open();
        eventually(|| async { backend.count(Part::Logout) == 1 && backend.all_grants_revoked() }).await;
        let sessions = site.admin("GET", "/sessions", &[]).await.json();
        assert_eq!(sessions["sessions"], json!([]), "{held:?}");
    }
}

// ------------------------------------------------------------------------------------ configuration

#[test]
fn capture_is_refused_where_it_means_nothing() {
    let provider = "[providers.legacy]\nkind = \"backend\"\npreset = \"nuxt\"\nbase_url = \"http://127.0.0.1:1\"\n";
    let corp =
        "[providers.corp]\nkind = \"oidc\"\nissuer = \"https://i.test\"\nclient_id = \"c\"\nclient_secret = \"s\"\n";
    let file = |providers: &str, route: &str| {
        parse(&format!(
            "{providers}[upstreams.app]\nurl = \"http://127.0.0.1:1\"\n[[routes]]\npath = \"/login\"\ncapture = true\n{route}"
        ))
        .map(drop)
    };
    let both = format!("{provider}{corp}");
    assert_eq!(file(provider, "auth = \"public\""), Ok(()));
    assert_eq!(file(&both, "auth = false\nprovider = \"legacy\"\nmethods = [\"GET\", \"POST\"]"), Ok(()));
    for (providers, route, problem) in [
        (both.as_str(), "auth = \"public\"", "`routes.capture` needs a `provider`"),
        (corp, "auth = \"public\"", "`routes.capture` needs a `provider`"),
        (&both, "auth = \"public\"\nprovider = \"corp\"", "and `corp` is none"),
        (provider, "auth = true", "cannot go with `auth = true`"),
        (provider, "auth = \"public\"\nmethods = [\"GET\"]", "needs the method of the login"),
    ] {
        let report = file(providers, route).unwrap_err();
        assert!(report.contains(problem), "{route}: {report}");
    }
}

// --------------------------------------------------------------------------------------- the stage

/// A page of the app, with what it thinks are its tokens.
struct App {
    browser: Browser,
    backend: Backend,
    shape: Shape,
    access: String,
    refresh: String,
}

impl App {
    fn new(site: &Site, backend: &Backend, shape: Shape) -> App {
        let (access, refresh) = Default::default();
        App { browser: site.browser(), backend: backend.clone(), shape, access, refresh }
    }

    fn login_request(&self, user: &str, password: &str) -> Request {
        let credentials = json!({"username": user, "password": password}).to_string();
        Request::fetch("POST", self.shape.login).body("application/json", credentials)
    }

    async fn log_in_with(&self, user: &str, password: &str) -> Reply {
        self.send(self.login_request(user, password)).await
    }

    /// Signs in and keeps what it is given.
    async fn log_in(&mut self, user: &str) -> Reply {
        let reply = self.log_in_with(user, &password_of(user)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.keep(&reply);
        reply
    }

    fn keep(&mut self, reply: &Reply) {
        let token =
            |name: &str| reply.json()[name].as_str().unwrap_or_else(|| panic!("{name}: {}", reply.text())).to_owned();
        self.access = token(self.shape.access_token);
        self.refresh = token(self.shape.refresh_token);
    }

    /// As its interceptor does.
    fn request(&self, method: &str, target: &str) -> Request {
        Request::fetch(method, target).header("Authorization", &format!("Bearer {}", self.access))
    }

    async fn fetch(&self, method: &str, target: &str) -> Reply {
        self.send(self.request(method, target)).await
    }

    /// As axios' page has it: without the interceptor.
    async fn refresh(&mut self) -> Reply {
        let body = json!({self.shape.refresh_member: self.refresh}).to_string();
        let reply = self.send(Request::fetch("POST", self.shape.refresh).body("application/json", body)).await;
        if reply.status == 200 {
            self.keep(&reply);
        }
        reply
    }

    /// At its backend, or, where that has none, with us.
    async fn log_out(&self) -> Reply {
        let (method, path) = self.shape.logout.unwrap_or(("POST", "/_auth/logout"));
        self.fetch(method, path).await
    }

    /// Whatever comes back, there is no token in it.
    async fn send(&self, request: Request) -> Reply {
        let what = format!("{} {}", request.method, request.target);
        let reply = self.browser.send(request).await;
        let shown = format!("{:?} {}", reply.headers, reply.text());
        for secret in self.backend.secrets() {
            assert!(!shown.contains(&secret), "{what} gives away a token: {shown}");
        }
        reply
    }
}

/// A backend that is the app's only upstream, with an API.
async fn captured_site(shape: Shape) -> (Backend, Site) {
    site_with(shape, "").await
}

async fn site_with(shape: Shape, lines: &str) -> (Backend, Site) {
    let backend = Backend::start(shape, Clock::system()).await;
    let site = plan(&backend, shape, lines).start().await;
    (backend, site)
}

fn plan(backend: &Backend, shape: Shape, lines: &str) -> crate::harness::site::Plan {
    Site::plan()
        .login("prefix = \"/_auth\"")
        .backend(backend, lines)
        .app(&format!("url = \"{}\"", backend.url()))
        .route(shape.login, CAPTURE)
        .route("/*", API)
}

/// The backend signs in; all else goes to the scripted upstream.
async fn site_before_an_upstream() -> (Backend, Site) {
    let (backend, site) = site_before_an_upstream_as(NUXT, "upstream = \"backend\"").await;
    site.upstream.answer(|_| Answer::status(200));
    (backend, site)
}

async fn site_before_an_upstream_as(shape: Shape, login: &str) -> (Backend, Site) {
    let backend = Backend::start(shape, Clock::system()).await;
    // Whom a scripted answer signs in is not asked: there is nobody who knows.
    let lines = if login.contains("\"app\"") && shape.user.is_some() { "user = { url = \"/nobody\" }" } else { "" };
    let site = Site::plan()
        .login("prefix = \"/_auth\"")
        .backend(&backend, lines)
        .more(&format!("[upstreams.backend]\nurl = \"{}\"", backend.url()))
        .route(shape.login, &format!("{CAPTURE}\n{login}"))
        .route("/api/*", API)
        .route("/open/*", "auth = \"public\"")
        .start()
        .await;
    (backend, site)
}

fn mentions_stand_in(text: &str) -> bool {
    // The beginning of `{"alg":"latchgate"` in base64url.
    text.contains("latchgate-stand-in") || text.contains("eyJhbGciOiJsYXRjaGdhdGUi")
}

/// Over everything that the backend has ever received.
fn no_stand_in_reached(backend: &Backend) {
    for part in [Part::Login, Part::Refresh, Part::Logout, Part::User, Part::Api] {
        for call in backend.calls(part) {
            let received = format!("{} {:?} {}", call.target, call.headers, String::from_utf8_lossy(&call.body));
            assert!(!mentions_stand_in(&received), "{part:?}: {received}");
            let cookies = call.headers.values("cookie");
            assert!(!cookies.iter().any(|line| line.contains("latchgate")), "{part:?}: {received}");
        }
    }
}
