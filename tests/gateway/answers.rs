//! The three answers a route can give (SPEC §2), cell by cell, and what overrides them.

use crate::harness::expect::{error_json, error_page, login_after_refusal, login_redirect, login_status, relayed};
use crate::harness::site::parse;
use crate::harness::upstream::deserted_address;
use crate::harness::{Answer, Browser, Endpoint, Fault, Gate, Received, Reply, Request, Site, eventually, together};
use serde_json::json;
use std::time::Duration;

// ------------------------------------------------------------------------------------ the table

#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// The upstream's answer.
    Relayed,
    /// LOGIN, before the upstream was asked.
    Refused(&'static str),
    /// LOGIN, because of the upstream's 401.
    SentToLogin(&'static str),
    /// 302 to `login.after_login`.
    SentHome,
}

struct Row {
    auth: &'static str,
    session: bool,
    upstream: u16,
    navigation: Outcome,
    fetch: Outcome,
    hits: (usize, usize),
    attached: bool,
    refreshes: usize,
}

/// The rows for 200, 403 and 500 are the same.
fn relay_rows(auth: &'static str, session: bool, attached: bool) -> impl Iterator<Item = Row> {
    [200, 403, 500].into_iter().map(move |upstream| Row {
        auth,
        session,
        upstream,
        navigation: Outcome::Relayed,
        fetch: Outcome::Relayed,
        hits: (1, 1),
        attached,
        refreshes: 0,
    })
}

fn login_row(auth: &'static str, session: bool, reason: &'static str, attached: bool) -> Row {
    Row {
        auth,
        session,
        upstream: 401,
        navigation: Outcome::SentToLogin(reason),
        fetch: Outcome::SentToLogin(reason),
        hits: (1, 1),
        attached,
        refreshes: 0,
    }
}

fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    for upstream in [200, 401, 403, 500] {
        rows.push(Row {
            auth: "required",
            session: false,
            upstream,
            navigation: Outcome::Refused("unauthorized"),
            fetch: Outcome::Refused("unauthorized"),
            hits: (0, 0),
            attached: false,
            refreshes: 0,
        });
    }
    rows.extend(relay_rows("required", true, true));
    rows.push(Row { hits: (2, 2), refreshes: 1, ..login_row("required", true, "expired", true) });

    rows.extend(relay_rows("optional", false, false));
    rows.push(login_row("optional", false, "unauthorized", false));
    rows.extend(relay_rows("optional", true, true));
    rows.push(login_row("optional", true, "expired", true));

    rows.extend(relay_rows("anonymous", false, false));
    rows.push(login_row("anonymous", false, "unauthorized", false));
    rows.extend(relay_rows("anonymous", true, false));
    rows.push(login_row("anonymous", true, "unauthorized", false));

    for auth in ["public", "guest"] {
        for session in [false, true] {
            let mut those: Vec<Row> = relay_rows(auth, session, false).collect();
            let relay_401 =
                Row { navigation: Outcome::Relayed, fetch: Outcome::Relayed, ..login_row(auth, session, "", false) };
            those.push(relay_401);
            if auth == "guest" && session {
                for row in &mut those {
                    (row.navigation, row.hits) = (Outcome::SentHome, (0, 1));
                }
            }
            rows.extend(those);
        }
    }
    rows
}

// TN-01, 03, 04, 06, 09, 11, 13, 14, 22, 23, 30; TS-06; TX-61
#[tokio::test]
async fn every_cell_of_the_table_answers_as_specified() {
    let site = Site::plan()
        .login("after_login = \"/home\"")
        .route("/required/*", "auth = true")
        .route("/optional/*", "auth = \"optional\"")
        .route("/anonymous/*", "auth = false")
        .route("/public/*", "auth = \"public\"")
        .route("/guest/*", "auth = \"guest\"")
        .start()
        .await;
    site.upstream.answer(status_in_path);
    for row in table() {
        for navigates in [true, false] {
            check_cell(&site, &row, navigates).await;
        }
    }
}

async fn check_cell(site: &Site, row: &Row, navigates: bool) {
    let browser = if row.session { site.signed_in().await } else { site.browser() };
    site.upstream.forget();
    let refreshes = site.provider.refreshes();
    let target = format!("/{}/{}?x=1", row.auth, row.upstream);
    let cell = format!("{target} session={} navigates={navigates}", row.session);

    let reply =
        if navigates { browser.send(Request::navigation(&target)).await } else { browser.fetch("GET", &target).await };

    let (outcome, hits) = if navigates { (row.navigation, row.hits.0) } else { (row.fetch, row.hits.1) };
    match (outcome, navigates) {
        (Outcome::Relayed, _) => relayed(&reply, row.upstream),
        (Outcome::Refused(reason) | Outcome::SentToLogin(reason), true) => {
            login_redirect(&reply, 302, reason, &target);
        }
        (Outcome::Refused(reason), false) => login_status(&reply, reason, "/page"),
        (Outcome::SentToLogin(reason), false) => login_after_refusal(&reply, reason, "/page"),
        (Outcome::SentHome, _) => {
            assert_eq!(reply.status, 302, "{cell}");
            assert_eq!(browser.url("/").join(reply.header("location")).unwrap(), browser.url("/home"), "{cell}");
        }
    }
    let received = site.upstream.received();
    assert_eq!(received.len(), hits, "{cell}: requests upstream");
    assert_eq!(site.provider.refreshes() - refreshes, row.refreshes, "{cell}: refreshes");
    for request in &received {
        let user = request.bearer().and_then(|token| site.provider.user_of(token));
        assert_eq!(user.as_deref(), row.attached.then_some("ada"), "{cell}: credential");
        assert!(!request.headers.contains("cookie"), "{cell}: our cookie went upstream");
    }
    if !navigates {
        assert!(browser.login_cookies().is_empty(), "{cell}: a script gets no login cookie");
    }
    if row.session {
        assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200, "{cell}: the session is kept");
    }
}

fn status_in_path(received: &Received) -> Answer {
    let path = received.target.split('?').next().unwrap();
    match path.rsplit('/').next().unwrap().parse().unwrap() {
        401 => Answer::unauthorized(),
        status => Answer::status(status),
    }
}

// -------------------------------------------------------------------------- who counts as NAV

// AZ-08, TX-11, TX-62
#[tokio::test]
async fn the_shape_of_a_refusal_follows_what_the_client_is() {
    let site = Site::protected().await;
    let html = "text/html,application/xhtml+xml,*/*;q=0.8";
    let plain = |accept: &str| Request::new("GET", "/x").header("Accept", accept);
    let navigations = [
        Request::navigation("/x"),
        Request { method: "HEAD".to_owned(), ..Request::navigation("/x") },
        Request::navigation("/x").with("Accept", "*/*"),
        plain(html),
    ];
    for request in navigations {
        let reply = site.browser().send(request.clone()).await;
        assert_eq!(reply.status, 302, "{request:?}");
    }
    let others = [
        Request::fetch("GET", "/x"),
        Request::fetch("GET", "/x").with("Sec-Fetch-Mode", "no-cors").with("Sec-Fetch-Dest", "image"),
        Request::fetch("GET", "/x").with("Accept", html),
        Request::navigation("/x").header("Sec-Purpose", "prefetch"),
        Request::navigation("/x").header("Sec-Purpose", "prefetch;prerender"),
        Request::navigation("/x").header("Purpose", "prefetch"),
        Request::navigation("/x").header("RSC", "1"),
        Request::navigation("/x").header("Next-Action", "abc"),
        Request::navigation("/x").with("Accept", "text/event-stream"),
        Request::navigation("/x").header("Upgrade", "websocket").header("Connection", "Upgrade"),
        plain("application/json"),
        plain("*/*"),
        Request::new("GET", "/x"),
        plain(html).header("X-Requested-With", "XMLHttpRequest"),
    ];
    for request in others {
        let browser = site.browser();
        let reply = browser.send(request.clone()).await;
        assert_eq!(reply.status, 401, "{request:?}");
        error_json(&reply, 401);
        assert!(browser.cookies().is_empty(), "{request:?}");
    }
    assert_eq!(site.upstream.hits(), 0);
}

// AZ-09
#[tokio::test]
async fn a_form_post_without_a_session_becomes_a_get_of_the_same_place() {
    let site = Site::protected().await;
    let browser = site.browser();
    let post = Request { method: "POST".to_owned(), ..Request::navigation("/form?a=1") }
        .with("Sec-Fetch-Site", "same-origin")
        .header("Origin", &browser.origin())
        .body("application/x-www-form-urlencoded", "secret=1");
    login_redirect(&browser.send(post).await, 303, "unauthorized", "/form?a=1");
    assert_eq!(site.upstream.hits(), 0);

    let page = browser.submit("/form?a=1", "secret=1").await;
    assert_eq!((page.reply.status, page.url), (200, browser.url("/form?a=1")));
    let received = site.upstream.last();
    assert_eq!((received.method.as_str(), received.body.len()), ("GET", 0));
}

#[tokio::test]
async fn a_script_is_told_to_come_back_to_its_page_and_never_to_another_site() {
    let site = Site::protected().await;
    let browser = site.browser();
    let ask = |referer: String| {
        let browser = browser.clone();
        async move { browser.send(Request::fetch("GET", "/api").header("Referer", &referer)).await }
    };
    login_status(&ask(format!("{}/list", browser.origin())).await, "unauthorized", "/list");
    login_status(&ask(format!("{}/list?page=2", browser.origin())).await, "unauthorized", "/list?page=2");
    login_status(&ask("http://evil.test/x".to_owned()).await, "unauthorized", "/");
    login_status(&ask("not a url".to_owned()).await, "unauthorized", "/");
}

#[tokio::test]
async fn login_redirect_and_login_status_override_the_shape() {
    let site = Site::plan()
        .route("/status/*", "auth = true\nlogin = \"status\"")
        .route("/redirect/*", "auth = true\nlogin = \"redirect\"")
        .start()
        .await;
    let browser = site.browser();
    assert_eq!(browser.send(Request::navigation("/status/x")).await.status, 401);
    let redirected = browser.fetch("GET", "/redirect/x").await;
    assert_eq!(redirected.status, 302);
    assert!(redirected.header("location").contains("/auth/login?"));
}

// AZ-10
#[tokio::test]
async fn nothing_of_the_upstream_reaches_a_client_without_a_session() {
    let site = Site::protected().await;
    site.upstream.answer(|_| Answer::status(304).header("ETag", "\"secret\""));
    for (name, value) in [
        ("If-None-Match", "\"secret\""),
        ("Range", "bytes=0-1"),
        ("If-Modified-Since", "Sat, 01 Jan 2022 00:00:00 GMT"),
    ] {
        for request in [Request::navigation("/x"), Request::fetch("GET", "/x"), Request::fetch("HEAD", "/x")] {
            let reply = site.browser().send(request.header(name, value)).await;
            assert!(matches!(reply.status, 302 | 401), "{}", reply.status);
            assert!(!reply.headers.contains("etag"));
        }
    }
    assert_eq!((site.upstream.hits(), site.upstream.connections()), (0, 0));
}

// ------------------------------------------------------------------------- refresh and replay

// TN-05, TA-08, TS-15, RF-01
#[tokio::test]
async fn an_upstream_401_is_answered_with_a_new_token_and_the_client_sees_one_200() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    let reply = browser.send(Request::fetch("POST", "/orders?a=1").body("application/json", r#"{"text":"é\n"}"#)).await;
    relayed(&reply, 200);
    let received = site.upstream.received();
    assert_eq!((received.len(), site.provider.refreshes()), (2, 1));
    assert_ne!(received[0].bearer(), received[1].bearer());
    assert_eq!(without_credential(&received[0]), without_credential(&received[1]));
    assert_eq!(received[1].body, r#"{"text":"é\n"}"#.as_bytes());

    relayed(&browser.fetch("GET", "/next").await, 200);
    assert_eq!(site.upstream.last().bearer(), received[1].bearer(), "the new token was kept");
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (1, 0));
}

// TN-20
#[tokio::test]
async fn a_replay_repeats_query_and_headers_byte_for_byte() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    let request = Request::fetch("GET", "/x?a=1&a=2&b=%2f%2F&c&=&%zz")
        .header("X-Twice", "1")
        .header("x-other", "caf\u{e9}")
        .header("X-Twice", "2");
    relayed(&browser.send(request).await, 200);
    let received = site.upstream.received();
    assert_eq!(received.len(), 2);
    assert_eq!(without_credential(&received[0]), without_credential(&received[1]));
    assert_eq!(received[1].target, "/x?a=1&a=2&b=%2f%2F&c&=&%zz");
    assert_eq!(received[1].headers.values("x-twice"), ["1", "2"]);
    assert_eq!(received[1].header("x-other"), "caf\u{e9}");
}

// TN-19
#[tokio::test]
async fn a_multipart_body_is_replayed_byte_for_byte() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    let content_type = "multipart/form-data; boundary=----gw";
    let mut body = b"------gw\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\n".to_vec();
    body.extend((0..200_000_u32).map(|number| number.to_le_bytes()[0]));
    body.extend(b"\r\n------gw--\r\n");
    relayed(&browser.send(Request::fetch("POST", "/upload").body(content_type, body.clone())).await, 200);
    let received = site.upstream.received();
    assert_eq!(received.len(), 2);
    for request in received {
        assert!(request.body == body, "{} bytes arrived", request.body.len());
        assert_eq!(request.header("content-type"), content_type);
    }
}

// TN-22, TS-06
#[tokio::test]
async fn what_a_replay_answers_is_relayed() {
    for status in [200, 403, 404, 500] {
        let site = Site::protected().await;
        let browser = site.signed_in().await;
        site.upstream.next(Answer::unauthorized());
        site.upstream.next(Answer::status(status));
        relayed(&browser.fetch("GET", "/x").await, status);
        assert_eq!((site.upstream.hits(), site.provider.refreshes()), (2, 1));
    }
}

// TS-06
#[tokio::test]
async fn other_answers_are_relayed_byte_for_byte_and_refresh_nothing() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    for status in [400, 402, 403, 404, 407, 409, 422, 429, 500, 502, 503] {
        let body = format!("{{\"status\":{status},\"odd\":\"\u{0}\"}}");
        site.upstream.next(
            Answer::status(status)
                .header("X-Odd", "  caf\u{e9}  ")
                .header("WWW-Authenticate", "Basic realm=\"other\"")
                .header("Set-Cookie", "a=1; Path=/x")
                .header("Set-Cookie", "b=2")
                .body(body.clone()),
        );
        let reply = browser.fetch("GET", "/x").await;
        relayed(&reply, status);
        assert_eq!(reply.text(), body);
        assert_eq!(reply.headers.values("set-cookie"), ["a=1; Path=/x", "b=2"]);
        assert_eq!(reply.header("x-odd"), "caf\u{e9}");
        assert_eq!(reply.header("www-authenticate"), "Basic realm=\"other\"");
    }
    assert_eq!(site.provider.refreshes(), 0);
}

// TN-31, TX-26
#[tokio::test]
async fn an_expired_token_is_refreshed_before_the_upstream_is_asked() {
    let site = expiring_site().await;
    for navigates in [true, false] {
        let browser = site.signed_in().await;
        let refreshes = site.provider.refreshes();
        site.upstream.forget();
        site.clock.advance(Duration::from_secs(3700));
        let request = if navigates { Request::navigation("/x") } else { Request::fetch("GET", "/x") };
        relayed(&browser.send(request).await, 200);
        assert_eq!((site.upstream.hits(), site.provider.refreshes() - refreshes), (1, 1));
    }
}

// TX-26, RF-19
#[tokio::test]
async fn a_token_close_to_its_end_is_used_while_a_new_one_is_fetched() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    relayed(&browser.fetch("GET", "/x").await, 200);
    let first = site.upstream.last().bearer().unwrap().to_owned();
    site.clock.advance(Duration::from_secs(3575));

    let gate = Gate::closed();
    site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!(site.upstream.last().bearer(), Some(first.as_str()), "nobody waits");
    gate.arrivals(1).await;
    gate.open();
    eventually(|| async {
        browser.fetch("GET", "/x").await.status == 200 && site.upstream.last().bearer() != Some(first.as_str())
    })
    .await;
    assert_eq!(site.provider.refreshes(), 1);
}

// TN-07, TN-25, TS-04, TS-05, TA-17, S-7
#[tokio::test]
async fn a_refused_refresh_ends_the_session_and_calls_no_logout_endpoint() {
    let refusals = [
        Fault::Json(400, json!({ "error": "invalid_grant" })),
        Fault::Json(400, json!({ "error": "something_else" })),
        Fault::Json(401, json!({ "error": "invalid_grant" })),
        Fault::Json(403, json!({ "error": "access_denied" })),
        Fault::Json(200, json!({})),
        Fault::Json(200, json!({ "access_token": "" })),
    ];
    for refusal in refusals {
        for navigates in [true, false] {
            let site = expiring_site().await;
            let browser = site.signed_in().await;
            site.provider.revoke_access_tokens();
            site.provider.always(Endpoint::Token, refusal.clone());
            if navigates {
                login_redirect(&browser.send(Request::navigation("/x?y")).await, 302, "expired", "/x?y");
            } else {
                login_after_refusal(&browser.fetch("GET", "/x").await, "expired", "/page");
            }
            assert_eq!((site.upstream.hits(), site.provider.refreshes()), (1, 1), "{refusal:?}");
            assert_signed_out(&site, &browser).await;
        }
    }
}

// TN-32
#[tokio::test]
async fn an_expired_token_that_cannot_be_renewed_stops_only_the_routes_that_need_it() {
    let site = Site::plan()
        .route("/required/*", "auth = true")
        .route("/optional/*", "auth = \"optional\"")
        .route("/anonymous/*", "auth = false")
        .start()
        .await;
    let browser = site.signed_in().await;
    site.clock.advance(Duration::from_secs(3700));
    site.provider.revoke_grants();
    for path in ["/optional/x", "/anonymous/x"] {
        relayed(&browser.fetch("GET", path).await, 200); // TN-15
        assert!(!site.upstream.last().headers.contains("authorization"), "{path}");
    }
    assert_eq!(site.provider.refreshes(), 0);

    site.upstream.forget();
    login_status(&browser.fetch("GET", "/required/x").await, "expired", "/page");
    assert_eq!((site.upstream.hits(), site.provider.refreshes()), (0, 1));
    assert_signed_out(&site, &browser).await;
}

// TN-08, TS-14
#[tokio::test]
async fn nothing_to_refresh_with_ends_the_session() {
    let site = Site::protected().await;
    site.provider.configure(|habits| habits.offline = false);
    site.upstream.answer(|_| Answer::unauthorized());
    let browser = site.signed_in().await;
    login_after_refusal(&browser.fetch("GET", "/x").await, "expired", "/page");
    assert_eq!((site.upstream.hits(), site.provider.refreshes()), (1, 0));
    assert_signed_out(&site, &browser).await;
}

// TS-10, TX-30, RF-12
#[tokio::test]
async fn a_refresh_that_fails_for_now_keeps_the_session() {
    let failures = [
        Fault::Json(500, json!({})),
        Fault::Json(503, json!({ "error": "temporarily_unavailable" })),
        Fault::Json(429, json!({})),
        Fault::Reset,
    ];
    for failure in failures {
        let site = expiring_site().await;
        let browser = site.signed_in().await;
        site.clock.advance(Duration::from_secs(3700));
        site.provider.always(Endpoint::Token, failure.clone());
        let reply = browser.fetch("GET", "/x").await;
        error_json(&reply, 503);
        assert!(reply.header("retry-after").parse::<u64>().is_ok(), "{failure:?}: {:?}", reply.headers);
        assert_eq!(site.upstream.hits(), 0);
        let page = browser.send(Request::navigation("/x")).await;
        error_page(&page, 503);
        assert!(browser.session_cookie().is_some(), "{failure:?}");

        site.provider.recover(Endpoint::Token);
        site.clock.advance(Duration::from_secs(120));
        relayed(&browser.fetch("GET", "/x").await, 200);
    }
}

#[tokio::test]
async fn a_token_that_is_still_valid_is_used_when_the_refresh_fails_for_now() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.clock.advance(Duration::from_secs(3575));
    site.provider.always(Endpoint::Token, Fault::Json(503, json!({})));
    for _ in 0..5 {
        relayed(&browser.fetch("GET", "/x").await, 200);
    }
}

#[tokio::test]
async fn an_upstream_401_during_a_provider_outage_signs_nobody_out() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    site.provider.go_down();
    let reply = browser.fetch("GET", "/x").await;
    assert!(matches!(reply.status, 401 | 503), "{}", reply.status);
    assert!(browser.session_cookie().is_some());
    site.provider.come_up();
    site.clock.advance(Duration::from_secs(120));
    relayed(&browser.fetch("GET", "/x").await, 200);
}

// TN-16, TX-27
#[tokio::test]
async fn a_hundred_requests_with_an_expired_token_make_one_token_call() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.clock.advance(Duration::from_secs(3700));
    let replies = fetch_together(&browser, 100).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!((site.provider.refreshes(), site.upstream.hits(), site.provider.reuses()), (1, 100, 0));
    let first = site.upstream.last();
    assert!(site.upstream.received().iter().all(|request| request.bearer() == first.bearer()));
}

// TN-17, TA-10
#[tokio::test]
async fn a_hundred_requests_share_one_refusal() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.clock.advance(Duration::from_secs(3700));
    let gate = Gate::closed();
    site.provider.revoke_grants();
    site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    let opener = async {
        gate.arrivals(1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        gate.open();
    };
    let (replies, ()) = tokio::join!(fetch_together(&browser, 100), opener);
    assert!(replies.iter().all(|reply| reply.status == 401));
    assert_eq!((site.provider.refreshes(), site.upstream.hits()), (1, 0));
    assert_signed_out(&site, &browser).await;
}

// TA-09, TS-08
#[tokio::test]
async fn parallel_401s_make_one_token_call_and_each_is_replayed() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    let replies = fetch_together(&browser, 20).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (1, 0));
}

// TS-16, TA-11, RF-17
#[tokio::test]
async fn a_401_for_a_token_that_was_replaced_meanwhile_is_replayed_without_a_token_call() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let gate = Gate::closed();
    site.upstream.next(Answer::unauthorized().behind(&gate));
    site.upstream.next(Answer::unauthorized());
    let slow = {
        let browser = browser.clone();
        tokio::spawn(async move { browser.fetch("GET", "/slow").await })
    };
    gate.arrivals(1).await;
    relayed(&browser.fetch("GET", "/quick").await, 200);
    assert_eq!(site.provider.refreshes(), 1);
    gate.open();
    relayed(&slow.await.unwrap(), 200);
    assert_eq!(site.provider.refreshes(), 1);
    let received = site.upstream.received();
    let quick = received.iter().rfind(|request| request.target == "/quick").unwrap();
    let again = received.iter().rfind(|request| request.target == "/slow").unwrap();
    assert_eq!(quick.bearer(), again.bearer());
}

// TA-12
#[tokio::test]
async fn a_replay_that_meets_401_fails_alone() {
    let site = expiring_site().await;
    let provider = site.provider.clone();
    site.upstream.answer(move |request| {
        let live = request.bearer().is_some_and(|token| provider.user_of(token).is_some());
        if live && request.target != "/never" { Answer::status(200) } else { Answer::unauthorized() }
    });
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    let replies = together(5, |number| {
        let browser = browser.clone();
        async move {
            let target = if number == 0 { "/never" } else { "/x" };
            (number, browser.fetch("GET", target).await)
        }
    });
    for (number, reply) in replies.await {
        assert_eq!(reply.status, if number == 0 { 401 } else { 200 });
    }
    assert_eq!(site.provider.refreshes(), 1);
    assert_eq!(browser.fetch("GET", "/x").await.status, 200);
}

// TA-13
#[tokio::test]
async fn each_further_401_after_the_cooldown_may_refresh_again() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    for round in 1..=3 {
        site.provider.revoke_access_tokens();
        relayed(&browser.fetch("GET", "/x").await, 200);
        assert_eq!(site.provider.refreshes(), round);
        site.clock.advance(Duration::from_secs(20));
    }
    assert_eq!(site.provider.reuses(), 0);
}

// TN-27, TS-11, TA-24, TX-31
#[tokio::test]
async fn refresh_tokens_are_replaced_when_rotated_and_kept_when_not() {
    for rotate in [true, false] {
        let site = expiring_site().await;
        site.provider.configure(|habits| habits.rotate = rotate);
        let browser = site.signed_in().await;
        for _ in 0..3 {
            site.clock.advance(Duration::from_secs(3700));
            relayed(&browser.fetch("GET", "/x").await, 200);
        }
        let calls = site.provider.calls(Endpoint::Token);
        let mut presented: Vec<&str> = calls.iter().filter_map(|call| call.parameter("refresh_token")).collect();
        assert_eq!(presented.len(), 3);
        presented.dedup();
        assert_eq!(presented.len(), if rotate { 3 } else { 1 });
    }
}

// TA-01
#[tokio::test]
async fn the_token_is_looked_up_for_each_request_of_a_connection() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    let mut connection = site.connect().await;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        connection.send(&browser.serialise(Request::fetch("GET", "/x"))).await.unwrap();
        relayed(&connection.reply("GET").await.unwrap(), 200);
        tokens.push(site.upstream.last().bearer().unwrap().to_owned());
        site.clock.advance(Duration::from_secs(3700));
    }
    assert_ne!(tokens[0], tokens[1]);
}

// TA-14, RF-24
#[tokio::test]
async fn waiters_of_a_refresh_that_hangs_give_up_together_and_the_next_try_works() {
    let site = Site::plan().refresh("timeout = \"1s\"").route("/*", "auth = true").start().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.signed_in().await;
    site.clock.advance(Duration::from_secs(3700));
    site.provider.always(Endpoint::Token, Fault::Hang);
    let replies = tokio::time::timeout(Duration::from_secs(6), fetch_together(&browser, 50)).await;
    assert!(replies.expect("one timeout for all").iter().all(|reply| reply.status == 503));
    site.provider.recover(Endpoint::Token);
    site.clock.advance(Duration::from_secs(120));
    relayed(&browser.fetch("GET", "/x").await, 200);
}

// ------------------------------------------------------------------------------- broken upstreams

// TS-09, TA-15, TA-16
#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_502_and_refreshes_nothing() {
    let deserted = format!("url = \"http://{}\"", deserted_address().await);
    let site = Site::plan().app(&deserted).route("/*", "auth = true").start().await;
    let browser = site.signed_in().await;
    error_json(&browser.fetch("GET", "/x").await, 502);
    error_page(&browser.send(Request::navigation("/x")).await, 502);

    let site = Site::protected().await;
    let browser = site.signed_in().await;
    site.upstream.answer(|_| Answer::reset());
    error_json(&browser.send(Request::fetch("POST", "/x").body("text/plain", "x")).await, 502);
    assert_eq!(site.upstream.hits(), 1, "a POST that may have arrived is not sent twice");
    assert_eq!(site.provider.refreshes(), 0);
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200);
}

// TN-40, WB-19
#[tokio::test]
async fn redirects_of_the_upstream_are_relayed_and_not_followed() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    site.upstream.next(Answer::status(302).header("Location", "https://elsewhere.test/x?y"));
    let reply = browser.fetch("GET", "/x").await;
    relayed(&reply, 302);
    assert_eq!(reply.header("location"), "https://elsewhere.test/x?y");
    assert_eq!(site.upstream.hits(), 1);
}

// TS-12
#[tokio::test]
async fn a_backends_own_login_may_say_401() {
    let site = Site::plan()
        .route("/login", "methods = [\"POST\"]\nauth = \"public\"")
        .route("/*", "auth = true")
        .start()
        .await;
    site.upstream.answer(|_| Answer::unauthorized());
    for browser in [site.browser(), site.signed_in().await] {
        let reply = browser.send(Request::fetch("POST", "/login").body("application/json", "{}")).await;
        relayed(&reply, 401);
        assert!(!reply.headers.contains("latchgate-reason"));
        assert!(!site.upstream.last().headers.contains("authorization"));
    }
    assert_eq!(site.provider.refreshes(), 0);
}

// ------------------------------------------------------------------------------------- overrides

#[tokio::test]
async fn on_401_login_sends_to_the_login_without_a_refresh() {
    let site = Site::plan().route("/*", "auth = true\non_401 = \"login\"").start().await;
    site.upstream.answer(|_| Answer::unauthorized());
    let browser = site.signed_in().await;
    login_after_refusal(&browser.fetch("GET", "/x").await, "expired", "/page");
    login_redirect(&browser.send(Request::navigation("/x")).await, 302, "expired", "/x");
    assert_eq!((site.upstream.hits(), site.provider.refreshes()), (2, 0));
}

#[tokio::test]
async fn on_401_relay_hands_it_through() {
    let site = Site::plan().route("/*", "auth = true\non_401 = \"relay\"").start().await;
    site.upstream.answer(|_| Answer::unauthorized());
    let browser = site.signed_in().await;
    relayed(&browser.fetch("GET", "/x").await, 401);
    relayed(&browser.send(Request::navigation("/x")).await, 401);
    assert_eq!((site.upstream.hits(), site.provider.refreshes()), (2, 0));
}

#[tokio::test]
async fn on_401_refresh_lets_an_optional_route_refresh() {
    let site = Site::plan().route("/*", "auth = \"optional\"\non_401 = \"refresh\"").start().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!((site.upstream.hits(), site.provider.refreshes()), (2, 1));

    site.clock.advance(Duration::from_secs(3700));
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!((site.upstream.hits(), site.provider.refreshes()), (3, 2), "refreshed before it was sent");
    login_after_refusal(&site.browser().fetch("GET", "/x").await, "unauthorized", "/page");
}

#[tokio::test]
async fn attach_never_needs_the_session_and_keeps_the_token() {
    let site = Site::plan().route("/*", "auth = true\nattach = \"never\"").start().await;
    login_status(&site.browser().fetch("GET", "/x").await, "unauthorized", "/page");
    let browser = site.signed_in().await;
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert!(!site.upstream.last().headers.contains("authorization"));
}

// TN-36
#[tokio::test]
async fn the_token_goes_under_the_header_and_scheme_of_the_route() {
    let site = Site::plan()
        .route("/named/*", "auth = true\nattach = { bearer = { header = \"X-Auth\", scheme = \"Token\" } }")
        .route("/id/*", "auth = true\nattach = \"id_token\"")
        .start()
        .await;
    let browser = site.signed_in().await;
    relayed(&browser.send(Request::fetch("GET", "/named/x").header("x-auth", "forged")).await, 200);
    let received = site.upstream.last();
    let token = received.header("x-auth").strip_prefix("Token ").expect("the scheme");
    assert_eq!(site.provider.user_of(token).as_deref(), Some("ada"));
    assert!(!received.headers.contains("authorization"));

    relayed(&browser.fetch("GET", "/id/x").await, 200);
    let received = site.upstream.last();
    let token = received.bearer().unwrap();
    assert_eq!(token.split('.').count(), 3, "a JWT");
    assert!(site.provider.secrets().iter().any(|secret| secret == token));
}

// TA-03, TA-04, TA-05, TA-06, TA-07
#[tokio::test]
async fn credentials_of_the_gateways_own_go_out_whoever_asks() {
    let site = Site::plan()
        .route(
            "/basic/*",
            "auth = \"public\"\nattach = { basic = { username = \"myUser\", password = \"myPassword\" } }",
        )
        .route("/utf8/*", "auth = \"public\"\nattach = { basic = { username = \"üser\", password = \"pässwörd\" } }")
        .route("/key/*", "auth = \"public\"\nattach = { api_key = { header = \"X-API-Key\", value = \"k-1\" } }")
        .route("/query/*", "auth = \"public\"\nattach = { api_key = { query = \"apiKey\", value = \"k 2&\" } }")
        .start()
        .await;
    for browser in [site.browser(), site.signed_in().await] {
        let forged = |target: &str| {
            Request::fetch("GET", target).header("Authorization", "Bearer evil").header("x-api-key", "forged")
        };
        relayed(&browser.send(forged("/basic/x")).await, 200);
        assert_eq!(site.upstream.last().header("authorization"), "Basic bXlVc2VyOm15UGFzc3dvcmQ=");
        relayed(&browser.send(forged("/utf8/x")).await, 200);
        assert_eq!(site.upstream.last().header("authorization"), "Basic w7xzZXI6cMOkc3N3w7ZyZA==");
        relayed(&browser.send(forged("/key/x")).await, 200);
        assert_eq!(site.upstream.last().header("x-api-key"), "k-1");
        relayed(&browser.send(forged("/query/p?a=1&a=2&apiKey=forged&b=%2f")).await, 200);
        let target = site.upstream.last().target;
        assert!(
            matches!(
                target.as_str(),
                "/query/p?a=1&a=2&b=%2f&apiKey=k%202%26" | "/query/p?a=1&a=2&b=%2f&apiKey=k+2%26"
            ),
            "{target}"
        );
    }
}

// TN-02, TA-02, TX-46, HD-05, TN-10 as SPEC §9 has it
#[tokio::test]
async fn the_clients_own_authorization_is_replaced_where_a_credential_goes_in_and_forwarded_elsewhere() {
    let site = Site::plan()
        .route("/required/*", "auth = true")
        .route("/optional/*", "auth = \"optional\"")
        .route("/anonymous/*", "auth = false")
        .route("/public/*", "auth = \"public\"")
        .start()
        .await;
    let signed_in = site.signed_in().await;
    let own = |target: &str| Request::fetch("GET", target).header("authorization", "Bearer own");
    for path in ["/required/x", "/optional/x"] {
        relayed(&signed_in.send(own(path)).await, 200);
        let received = site.upstream.last();
        assert_eq!(site.provider.user_of(received.bearer().unwrap()).as_deref(), Some("ada"), "{path}");
    }
    for path in ["/anonymous/x", "/public/x"] {
        relayed(&signed_in.send(own(path)).await, 200);
        assert_eq!(site.upstream.last().bearer(), Some("own"), "{path}");
    }
    relayed(&site.browser().send(own("/optional/x")).await, 200);
    assert_eq!(site.upstream.last().bearer(), Some("own"));
    relayed(&site.browser().fetch("GET", "/optional/x").await, 200);
    assert!(!site.upstream.last().headers.contains("authorization"));
}

#[tokio::test]
async fn other_ways_to_say_not_signed_in_can_be_declared() {
    let app = "unauthorized = { status = [401, 419], location_prefix = \"/signin\" }";
    let site = Site::plan().app(app).route("/*", "auth = true").start().await;
    let refusals: [fn() -> Answer; 3] = [
        || Answer::unauthorized(),
        || Answer::status(419),
        || Answer::status(302).header("Location", "/signin?next=/x"),
    ];
    for refusal in refusals {
        let browser = site.signed_in().await;
        let refreshes = site.provider.refreshes();
        site.upstream.next(refusal());
        relayed(&browser.fetch("GET", "/x").await, 200);
        assert_eq!(site.provider.refreshes(), refreshes + 1);

        let browser = site.signed_in().await;
        site.upstream.next(refusal());
        site.upstream.next(refusal());
        login_redirect(&browser.send(Request::navigation("/x")).await, 302, "expired", "/x");
    }
    let browser = site.signed_in().await;
    site.upstream.next(Answer::status(302).header("Location", "/elsewhere"));
    relayed(&browser.fetch("GET", "/x").await, 302);
}

// TN-39
#[tokio::test]
async fn every_spelling_of_auth_means_what_it_says() {
    let site = Site::plan()
        .route("/required/*", "auth = \"required\"")
        .route("/protected/*", "auth = \"protected\"")
        .route("/auto/*", "auth = \"auto\"")
        .route("/skip/*", "auth = \"skip\"")
        .route("/unset/*", "")
        .start()
        .await;
    site.upstream.answer(|_| Answer::unauthorized());
    let browser = site.browser();
    for path in ["/required/x", "/protected/x", "/unset/x"] {
        login_status(&browser.fetch("GET", path).await, "unauthorized", "/page");
    }
    login_after_refusal(&browser.fetch("GET", "/auto/x").await, "unauthorized", "/page");
    relayed(&browser.fetch("GET", "/skip/x").await, 401);
    assert_eq!(site.upstream.hits(), 2);
}

// TN-39
#[test]
fn an_unknown_value_of_auth_is_refused_at_start() {
    let source = |auth: &str| {
        format!(
            "[upstreams.app]\nurl = \"http://127.0.0.1:9\"\n[providers.demo]\nkind = \"mock\"\nusers = [{{ sub = \"ada\" }}]\n[[routes]]\npath = \"/*\"\nauth = {auth}\n"
        )
    };
    assert!(parse(&source("true")).is_ok());
    let report = parse(&source("\"bogus\"")).expect_err("it is no value of auth");
    assert!(report.contains("gateway.toml") && report.contains("bogus"), "{report}");
}

#[tokio::test]
async fn the_default_of_auth_can_be_changed() {
    let site = Site::plan().more("[defaults]\nauth = \"optional\"\n").route("/*", "").start().await;
    relayed(&site.browser().fetch("GET", "/x").await, 200);
}

#[tokio::test]
async fn a_path_without_a_route_is_404_from_the_gateway() {
    let site = Site::plan().route("/known/*", "auth = \"public\"").start().await;
    error_json(&site.browser().fetch("GET", "/unknown").await, 404);
    error_page(&site.browser().send(Request::navigation("/unknown")).await, 404);
    error_json(&site.browser().fetch("GET", "/knownx").await, 404);
    assert_eq!(site.upstream.hits(), 0);
}

// ------------------------------------------------------------------------------------- no loops

// TN-12
#[tokio::test]
async fn a_login_that_does_not_help_ends_on_a_page_and_not_in_a_loop() {
    let site = Site::plan().route("/*", "auth = false").start().await;
    site.upstream.answer(|_| Answer::unauthorized());
    let browser = site.browser();
    let page = browser.navigate("/home").await;
    error_page(&page.reply, 401);
    assert_eq!(page.url, browser.url("/home"));
    let logins = page.trail.iter().filter(|(url, _)| url.path() == "/auth/login").count();
    assert_eq!(logins, 2, "{:?}", page.trail);
    let text = page.reply.text();
    assert!(text.contains("/auth/login") && text.contains("/auth/logout"), "{text}");
    assert!(browser.session_cookie().is_some());

    let other = browser.send(Request::navigation("/other")).await;
    assert_eq!(other.status, 302, "another target has a count of its own");
    site.clock.advance(Duration::from_secs(31));
    let later = browser.send(Request::navigation("/home")).await;
    assert_eq!(later.status, 302, "30 s later the login may have become useful");
}

// ------------------------------------------------------------------------------------- the stage

/// Needs a session everywhere; the upstream takes live tokens only.
async fn expiring_site() -> Site {
    let site = Site::protected().await;
    site.upstream.accept_live_tokens(&site.provider);
    site
}

async fn fetch_together(browser: &Browser, count: usize) -> Vec<Reply> {
    together(count, |_| {
        let browser = browser.clone();
        async move { browser.fetch("GET", "/x").await }
    })
    .await
}

/// The session is gone here and in the store, and nobody was told.
async fn assert_signed_out(site: &Site, browser: &Browser) {
    assert_eq!(browser.session_cookie(), None, "the cookie is expired");
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 401);
    assert_eq!((site.provider.count(Endpoint::Revocation), site.provider.count(Endpoint::EndSession)), (0, 0));
}

/// All a replay must repeat.
fn without_credential(request: &Received) -> Received {
    let mut request = Received { connection: 0, ..request.clone() };
    request.headers.0.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
    request
}
