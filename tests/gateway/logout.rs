//! Sessions that somebody else ends: the provider, by the back and the front channel, and an administrator; and what a sign-out says
//! when the provider is not there.

use crate::harness::expect::error_json;
use crate::harness::keys::{IdToken, Signature};
use crate::harness::{Browser, Endpoint, Fault, Reply, Request, Site, eventually, together};
use serde_json::{Value, json};
use std::time::Duration;
use url::Url;

// -------------------------------------------------------------------------------- back channel

const BACK: &str = "/auth/backchannel-logout";

async fn post(site: &Site, token: &str) -> Reply {
    let form = url::form_urlencoded::Serializer::new(String::new()).append_pair("logout_token", token).finish();
    send_form(site, &form).await
}

async fn send_form(site: &Site, form: &str) -> Reply {
    site.browser().send(Request::new("POST", BACK).body("application/x-www-form-urlencoded", form)).await
}

async fn is_signed_in(browser: &Browser) -> bool {
    browser.fetch("GET", "/auth/me").await.status == 200
}

/// A hand in the token before it is signed.
type Change = fn(&mut IdToken);

fn as_issued(_: &mut IdToken) {}

#[track_caller]
fn refused(reply: &Reply, case: &str) {
    assert_eq!(reply.status, 400, "{case}: {}", reply.text());
    assert!(reply.header("cache-control").contains("no-store"), "{case}");
    let body = reply.json();
    assert_eq!(body["error"], "invalid_request", "{case}");
    assert!(body["error_description"].is_string(), "{case}");
}

/// `ada` in three browsers, in the sessions `one`, `two` and `two` of the provider; and `bob` in `three`.
async fn four_browsers(site: &Site) -> [Browser; 4] {
    site.provider.start_session("one");
    let one = site.signed_in().await;
    site.provider.start_session("two");
    let two = [site.signed_in().await, site.signed_in().await];
    site.provider.start_session("three");
    let bob = site.signed_in_as("bob").await;
    let [second, third] = two;
    [one, second, third, bob]
}

async fn who_is_signed_in(browsers: &[Browser]) -> Vec<bool> {
    let mut signed_in = Vec::new();
    for browser in browsers {
        signed_in.push(is_signed_in(browser).await);
    }
    signed_in
}

// LO-12, LO-13
#[tokio::test]
async fn a_logout_token_ends_the_sessions_it_names_and_no_others() {
    for (claims, left) in [
        (json!({ "sid": "two" }), [true, false, false, true]),
        (json!({ "sid": "one", "sub": "ada", "unknown": [1] }), [false, true, true, true]),
        (json!({ "sid": "one", "sub": "bob" }), [true, true, true, true]),
        (json!({ "sub": "ada" }), [false, false, false, true]),
        (json!({ "sub": "nobody" }), [true, true, true, true]),
    ] {
        let site = Site::protected().await;
        let browsers = four_browsers(&site).await;
        let reply = post(&site, &site.provider.logout_token(claims.clone(), as_issued)).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, ""), "{claims}");
        assert!(reply.header("cache-control").contains("no-store"));
        assert_eq!(who_is_signed_in(&browsers).await, left, "{claims}");
    }
}

// LO-13
#[tokio::test]
async fn a_user_whose_oldest_session_is_over_is_signed_out_of_the_others() {
    let site = Site::plan().session("idle_timeout = \"1h\"").route("/*", "auth = true").start().await;
    let oldest = site.signed_in().await;
    site.clock.advance(Duration::from_secs(3590));
    let others = [site.signed_in().await, site.signed_in().await];
    site.clock.advance(Duration::from_secs(60));
    assert!(!is_signed_in(&oldest).await);
    assert_eq!(who_is_signed_in(&others).await, [true, true]);
    assert_eq!(post(&site, &site.provider.logout_token(json!({ "sub": "ada" }), as_issued)).await.status, 200);
    assert_eq!(who_is_signed_in(&others).await, [false, false]);
}

// LO-12
#[tokio::test]
async fn the_type_of_a_logout_token_may_be_left_out() {
    for typ in [None, Some("JWT"), Some("application/logout+jwt")] {
        let site = Site::protected().await;
        let browser = site.signed_in().await;
        let token = site.provider.logout_token(json!({ "sub": "ada" }), |token| {
            token.header.remove("typ");
            token.header.extend(typ.map(|typ| ("typ".to_owned(), json!(typ))));
        });
        assert_eq!((post(&site, &token).await.status, is_signed_in(&browser).await), (200, false), "{typ:?}");
    }
}

// LO-11, l01 to l19
#[tokio::test]
async fn a_token_that_does_not_count_ends_nothing() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let now = site.clock.now().unix;
    let event = |name: &str| json!({ "sub": "ada", "events": { name: {} } });
    let nonce = json!({ "sub": "ada", "events": null, "jti": null, "nonce": "n" });
    let cases: [(&str, Value, Change); 19] = [
        ("l01 alg none", json!({ "sub": "ada" }), |token| {
            token.header.insert("alg".into(), json!("none"));
            token.signature = Signature::Empty;
        }),
        ("l02 an HMAC of the client secret", json!({ "sub": "ada" }), |token| {
            token.header.insert("alg".into(), json!("HS256"));
            token.signature = Signature::Hmac(b"client-secret-f3b1c0de".to_vec());
        }),
        ("l02 another alg", json!({ "sub": "ada" }), |token| drop(token.header.insert("alg".into(), json!("RS256")))),
        ("l03 another audience", json!({ "sub": "ada", "aud": "other" }), as_issued),
        ("l04 another issuer", json!({ "sub": "ada", "iss": "https://evil.test" }), as_issued),
        ("l05 another event", event("http://schemas.openid.net/event/other"), as_issued),
        ("l06 no event", json!({ "sub": "ada", "events": null }), as_issued),
        ("l07 a nonce", json!({ "sub": "ada", "nonce": "n" }), as_issued),
        ("l08 nobody", json!({}), as_issued),
        ("l09 sub is a number", json!({ "sub": 7 }), as_issued),
        ("l10 no iat", json!({ "sub": "ada", "iat": null }), as_issued),
        ("l11 no jti", json!({ "sub": "ada", "jti": null }), as_issued),
        ("l12 no exp", json!({ "sub": "ada", "exp": null }), as_issued),
        ("l13 expired", json!({ "sub": "ada", "exp": now - 120 }), as_issued),
        ("l14 old", json!({ "sub": "ada", "iat": now - 3600 }), as_issued),
        ("l15 from the future", json!({ "sub": "ada", "iat": now + 3600 }), as_issued),
        ("l16 another key", json!({ "sub": "ada" }), |token| token.signature = Signature::OtherKey),
        ("l16 a flipped bit", json!({ "sub": "ada" }), |token| token.signature = Signature::Flipped),
        ("l18 an ID token", nonce, |token| drop(token.header.insert("typ".into(), json!("JWT")))),
    ];
    for (case, claims, change) in cases {
        refused(&post(&site, &site.provider.logout_token(claims, change)).await, case);
    }
    let access_token = site.provider.logout_token(json!({ "sub": "ada", "scope": "openid" }), |token| {
        token.header.insert("typ".into(), json!("at+jwt"));
    });
    refused(&post(&site, &access_token).await, "l19 an access token");
    for junk in ["", "x", "a.b.c", "a.b.c.d.e", "\u{1f512}"] {
        refused(&post(&site, junk).await, junk);
    }
    assert!(is_signed_in(&browser).await);
}

// LO-11, l20 to l22
#[tokio::test]
async fn a_request_that_is_no_form_with_one_token_ends_nothing() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let token = site.provider.logout_token(json!({ "sub": "ada" }), as_issued);
    refused(&send_form(&site, &format!("logout_token={token}&logout_token={token}")).await, "two");
    refused(&send_form(&site, &format!("token={token}")).await, "none");
    refused(&send_form(&site, "").await, "nothing");
    let as_json = Request::new("POST", BACK).body("application/json", json!({ "logout_token": token }).to_string());
    refused(&site.browser().send(as_json).await, "JSON");
    let untyped = Request { body: format!("logout_token={token}").into_bytes(), ..Request::new("POST", BACK) };
    refused(&site.browser().send(untyped).await, "no content type");
    let in_query = Request::new("POST", &format!("{BACK}?logout_token={token}"));
    refused(&site.browser().send(in_query).await, "in the query");
    let get = site.browser().fetch("GET", &format!("{BACK}?logout_token={token}")).await;
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
    assert_eq!(send_form(&site, &format!("logout_token={token}&x={}", "x".repeat(64 << 10))).await.status, 413);
    assert!(is_signed_in(&browser).await, "and none of these has used the token up");
    assert_eq!(send_form(&site, &format!("a=b&logout_token={token}")).await.status, 200);
    assert!(!is_signed_in(&browser).await);
}

// LO-11
#[tokio::test]
async fn a_logout_token_counts_once() {
    let site = Site::protected().await;
    let token = site.provider.logout_token(json!({ "sub": "ada" }), as_issued);
    let replies = together(10, |_| {
        let (browser, form) = (site.browser(), format!("logout_token={token}"));
        async move {
            let request = Request::new("POST", BACK).body("application/x-www-form-urlencoded", form);
            browser.send(request).await.status
        }
    });
    let mut statuses = replies.await;
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![200], vec![400; 9]].concat());
    let browser = site.signed_in().await;
    refused(&post(&site, &token).await, "replayed");
    site.clock.advance(Duration::from_secs(3600));
    refused(&post(&site, &token).await, "replayed when nobody remembers it any more");
    assert!(is_signed_in(&browser).await);
}

// LO-15
#[tokio::test]
async fn a_provider_that_is_down_is_asked_again_when_the_token_comes_again() {
    let site = Site::protected().await;
    site.provider.always(Endpoint::Discovery, Fault::Json(503, json!({})));
    let token = site.provider.logout_token(json!({ "sub": "ada" }), as_issued);
    for _ in 0..20 {
        let reply = post(&site, &token).await;
        error_json(&reply, 503);
        assert!(reply.headers.contains("retry-after"));
    }
    assert_eq!(site.provider.count(Endpoint::Discovery), 1, "not for every token");
    site.provider.recover(Endpoint::Discovery);
    site.clock.advance(Duration::from_secs(30));
    assert_eq!(post(&site, &token).await.status, 200);
}

// LO-15
#[tokio::test]
async fn junk_costs_the_provider_nothing_and_the_users_little() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let fetches = site.provider.count(Endpoint::Jwks);
    let statuses = together(200, |number| {
        let token = site.provider.logout_token(json!({ "sub": "ada" }), |token| {
            token.header.insert("kid".into(), json!(format!("made-up-{number}")));
        });
        let browser = site.browser();
        async move {
            let form = format!("logout_token={token}");
            browser.send(Request::new("POST", BACK).body("application/x-www-form-urlencoded", form)).await.status
        }
    });
    assert!(statuses.await.iter().all(|status| matches!(status, 400 | 503)));
    assert!(site.provider.count(Endpoint::Jwks) <= fetches + 2);
    assert!(is_signed_in(&browser).await);
}

// LO-07, LO-12
#[tokio::test]
async fn what_a_logout_token_ends_stays_ended_for_a_request_that_is_refreshing() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let gate = crate::harness::Gate::closed();
    site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    site.clock.advance(Duration::from_secs(3700));
    let waiting = tokio::spawn({
        let browser = browser.clone();
        async move { browser.fetch("GET", "/x").await.status }
    });
    gate.arrivals(1).await;
    assert_eq!(post(&site, &site.provider.logout_token(json!({ "sub": "ada" }), as_issued)).await.status, 200);
    gate.open();
    assert_eq!(waiting.await.unwrap(), 401);
    assert!(!is_signed_in(&browser).await);
    assert_eq!(site.upstream.hits(), 0);
}

// LO-16
#[tokio::test]
async fn a_login_that_is_under_way_does_not_survive_a_logout_token() {
    let site = Site::protected().await;
    site.provider.start_session("one");
    let browser = site.browser();
    let callback = browser.stop_before_callback("/auth/login?login_hint=ada").await;
    let gate = crate::harness::Gate::closed();
    site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    let arriving = tokio::spawn({
        let browser = browser.clone();
        async move { browser.arrive_from_provider(&callback).await.reply.status }
    });
    gate.arrivals(1).await;
    assert_eq!(post(&site, &site.provider.logout_token(json!({ "sid": "one" }), as_issued)).await.status, 200);
    gate.open();
    assert_eq!(arriving.await.unwrap(), 400);
    assert!(!is_signed_in(&browser).await);
    eventually(|| async { site.provider.all_grants_revoked() }).await;
}

// ------------------------------------------------------------------------------- front channel

fn framed(query: &str) -> Request {
    Request::navigation(&format!("/auth/frontchannel-logout{query}"))
        .with("Sec-Fetch-Site", "cross-site")
        .with("Sec-Fetch-Dest", "iframe")
}

fn named(site: &Site, sid: &str) -> String {
    format!(
        "?{}",
        url::form_urlencoded::Serializer::new(String::new())
            .append_pair("iss", &site.provider.issuer())
            .append_pair("sid", sid)
            .finish()
    )
}

// LO-17
#[tokio::test]
async fn a_frame_of_the_provider_ends_the_session_it_names() {
    let site = Site::protected().await;
    let browsers = four_browsers(&site).await;
    let reply = browsers[0].send(framed(&named(&site, "one"))).await;
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").starts_with("text/html"));
    assert!(reply.header("cache-control").contains("no-store"));
    let policy = reply.header("content-security-policy");
    assert!(policy.contains(&format!("frame-ancestors {}", site.provider.issuer())), "{policy}");
    assert!(!reply.headers.contains("x-frame-options"));
    assert_eq!(browsers[0].session_cookie(), None, "its own");
    assert_eq!(who_is_signed_in(&browsers).await, [false, true, true, true]);

    let elsewhere = site.browser().send(framed(&named(&site, "two"))).await;
    assert_eq!((elsewhere.status, elsewhere.headers.contains("set-cookie")), (200, false), "without our cookie");
    assert_eq!(who_is_signed_in(&browsers).await, [false, false, false, true]);

    let unknown = browsers[3].send(framed(&named(&site, "unknown"))).await;
    assert_eq!((unknown.status, unknown.headers.contains("set-cookie")), (200, false));
    assert!(is_signed_in(&browsers[3]).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(site.provider.count(Endpoint::Revocation), 0, "nobody has proven anything");
}

// LO-17
#[tokio::test]
async fn a_frame_that_names_no_session_of_the_provider_ends_nothing() {
    let site = Site::protected().await;
    site.provider.start_session("one");
    let browser = site.signed_in().await;
    let issuer = site.provider.issuer();
    for query in [
        String::new(),
        "?sid=one".to_owned(),
        format!("?iss={issuer}"),
        format!("?iss={issuer}&sid="),
        "?iss=https://evil.test&sid=one".to_owned(),
        format!("?iss={issuer}/&sid=one"),
        format!("?iss={issuer}&sid=one&sid=one"),
        format!("?iss={issuer}&iss={issuer}&sid=one"),
    ] {
        let reply = browser.send(framed(&query)).await;
        assert_eq!((reply.status, reply.headers.contains("set-cookie")), (400, false), "{query}");
    }
    assert_eq!(browser.fetch("POST", "/auth/frontchannel-logout").await.status, 405);
    assert!(is_signed_in(&browser).await);
}

// ----------------------------------------------------------------------------- RP-initiated

fn logout_link() -> Request {
    Request::navigation("/auth/logout").with("Sec-Fetch-Site", "same-origin")
}

// LO-01, LO-02
#[tokio::test]
async fn the_way_back_from_the_provider_leads_home_whatever_it_carries() {
    let site = Site::plan().login("after_logout = \"/bye\"").route("/*", "auth = \"optional\"").start().await;
    let reply = site.signed_in().await.send(logout_link()).await;
    let there = Url::parse(reply.header("location")).unwrap();
    let state = there.query_pairs().find(|(name, _)| name == "state").expect("state").1.into_owned();
    assert_eq!(state.len(), 43);
    let other = site.signed_in().await;
    for back in [format!("/bye?state={state}"), "/bye?state=another".to_owned(), "/bye".to_owned()] {
        assert_eq!(other.navigate(&back).await.reply.status, 200);
        assert!(is_signed_in(&other).await, "a way back ends nothing");
    }
}

// LO-08
#[tokio::test]
async fn a_sign_out_does_not_wait_for_a_provider_that_hangs() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    for endpoint in [Endpoint::Discovery, Endpoint::Revocation] {
        site.provider.always(endpoint, Fault::Hang);
    }
    // What is known of the provider is an hour old, so it is asked again.
    site.clock.advance(Duration::from_secs(3700));
    let reply = tokio::time::timeout(Duration::from_secs(1), browser.send(logout_link())).await.expect("no longer");
    assert!(matches!(reply.status, 200 | 302), "{}", reply.status);
    assert_eq!(browser.session_cookie(), None);
    assert!(!is_signed_in(&browser).await);
}

// LO-09
#[tokio::test]
async fn a_provider_without_a_logout_of_its_own_is_left_alone() {
    let site = Site::plan().login("after_logout = \"/bye\"").route("/*", "auth = true").start().await;
    site.provider.configure(|habits| habits.metadata = |metadata| drop(metadata.remove("end_session_endpoint")));
    let browser = site.signed_in().await;
    let reply = browser.send(logout_link()).await;
    assert_eq!((reply.status, reply.header("location")), (302, "/bye"));
    assert!(!is_signed_in(&browser).await);
}

// TK-13
#[tokio::test]
async fn without_a_refresh_token_the_access_token_is_revoked() {
    let site = Site::protected().await;
    site.provider.configure(|habits| habits.offline = false);
    let browser = site.signed_in().await;
    assert_eq!(browser.fetch("POST", "/auth/logout").await.status, 200);
    eventually(|| async { site.provider.count(Endpoint::Revocation) == 1 }).await;
    let call = &site.provider.calls(Endpoint::Revocation)[0];
    assert_eq!(call.parameter("token_type_hint"), Some("access_token"));
    let token = call.parameter("token").unwrap();
    assert_eq!(site.provider.user_of(token), None, "it was live, and is no more");
}

// LO-19, TK-13
#[tokio::test]
async fn the_tokens_of_a_session_that_was_over_by_itself_are_revoked_too() {
    let site = Site::protected().await;
    let _idle = site.signed_in().await;
    site.clock.advance(Duration::from_secs(23 * 3600));
    let active = site.signed_in_as("bob").await;
    sweep().await;
    assert_eq!(site.provider.count(Endpoint::Revocation), 0);
    site.clock.advance(Duration::from_secs(3 * 3600));
    sweep().await;
    eventually(|| async { site.provider.count(Endpoint::Revocation) == 1 }).await;
    sweep().await;
    assert_eq!(site.provider.count(Endpoint::Revocation), 1, "once");
    let revoked = site.provider.calls(Endpoint::Revocation)[0].parameter("token_type_hint").map(str::to_owned);
    assert_eq!(revoked.as_deref(), Some("refresh_token"));
    assert!(is_signed_in(&active).await);
}

/// Half a minute passes for the sweeper.
async fn sweep() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    tokio::time::sleep(Duration::from_millis(100)).await;
}

// -------------------------------------------------------------------------------------- admin

async fn administered() -> Site {
    Site::plan().server("admin_listen = \"127.0.0.1:0\"").route("/*", "auth = true").start().await
}

// LO-20
#[tokio::test]
async fn an_administrator_sees_sessions_and_ends_them() {
    let site = administered().await;
    let browsers = four_browsers(&site).await;
    let list = site.admin("GET", "/sessions", &[]).await;
    assert_eq!((list.status, list.header("cache-control")), (200, "no-store"));
    let document = list.json();
    assert_eq!((document["sessions"].as_array().unwrap().len(), &document["next"]), (4, &Value::Null));

    let bobs = site.admin("GET", "/sessions?user=bob", &[]).await.json();
    let [session] = bobs["sessions"].as_array().unwrap().as_slice() else { panic!("{bobs}") };
    assert_eq!(
        (&session["user"], &session["sid"], &session["provider"]),
        (&json!("bob"), &json!("three"), &json!("corp"))
    );
    assert_eq!(session["issuer"], site.provider.issuer());
    let now = site.clock.now().unix;
    for time in ["started", "lastSeen"] {
        assert!(session[time].as_u64().is_some_and(|time| (now - 600..=now).contains(&time)), "{time}: {session}");
    }
    assert!(session["expires"].as_u64() > Some(now));
    let everything = format!("{} {}", list.text(), bobs);
    assert!(site.provider.secrets().iter().all(|secret| !everything.contains(secret.as_str())));
    assert!(browsers.iter().all(|browser| !everything.contains(&browser.session_cookie().unwrap())));

    let one = format!("/sessions/{}", session["id"].as_str().unwrap());
    assert_eq!(site.admin("DELETE", &one, &[]).await.status, 204);
    assert_eq!(site.admin("DELETE", &one, &[]).await.status, 404);
    assert_eq!(who_is_signed_in(&browsers).await, [true, true, true, false]);
    let ended = site.admin("DELETE", "/sessions?user=ada&sid=two", &[]).await;
    assert_eq!((ended.status, ended.json()), (200, json!({ "ended": 2 })));
    assert_eq!(who_is_signed_in(&browsers).await, [true, false, false, false]);
    let elsewhere = site.admin("DELETE", "/sessions?user=ada&issuer=https://evil.test", &[]).await;
    assert_eq!(elsewhere.json(), json!({ "ended": 0 }));
    assert_eq!(site.admin("DELETE", "/sessions?user=ada", &[]).await.json(), json!({ "ended": 1 }));
    assert_eq!(who_is_signed_in(&browsers).await, [false; 4]);
}

#[tokio::test]
async fn an_administrator_who_misspells_ends_nothing() {
    let site = administered().await;
    let browser = site.signed_in().await;
    for query in ["", "?", "?issuer=x", "?usr=ada", "?user=", "?user=ada&user=bob", "?sid=x&all=1"] {
        assert_eq!(site.admin("DELETE", &format!("/sessions{query}"), &[]).await.status, 400, "{query}");
    }
    for id in ["", "x", &"0".repeat(64), &"0".repeat(63), "../sessions"] {
        assert_eq!(site.admin("DELETE", &format!("/sessions/{id}"), &[]).await.status, 404, "{id}");
    }
    assert_eq!(site.admin("POST", "/sessions", &[]).await.status, 405);
    assert_eq!(site.admin("GET", "/sessions/x", &[]).await.status, 405);
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn no_page_in_a_browser_reaches_the_admin_listener() {
    let site = administered().await;
    let browser = site.signed_in().await;
    for header in [("Host", "rebound.evil.test"), ("Origin", "https://evil.test"), ("Sec-Fetch-Site", "cross-site")] {
        for method in ["GET", "DELETE"] {
            assert_eq!(site.admin(method, "/sessions?user=ada", &[header]).await.status, 403, "{method} {header:?}");
            assert_eq!(site.admin(method, &format!("/sessions/{}", "0".repeat(64)), &[header]).await.status, 403);
        }
        assert_eq!(site.admin("GET", "/healthz", &[header]).await.status, 200, "probes call us what they like");
    }
    assert!(is_signed_in(&browser).await);
    let reached = site.browser().send(Request::new("GET", "/sessions").header("Accept", "*/*")).await;
    assert_eq!(reached.status, 401, "and on the other listener it is a path like any other");
}

// IP-01
#[tokio::test]
async fn a_gateway_is_ready_while_the_provider_is_down() {
    let site = administered().await;
    site.provider.go_down();
    let reply = site.admin("GET", "/readyz", &[]).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "ready\n"));
}
