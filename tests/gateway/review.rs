//! What a reader with bad intentions found: one test for each hole, so that it stays closed.

use crate::harness::expect::{error_json, relayed};
use crate::harness::site::parse;
use crate::harness::{Answer, Request, Site};
use serde_json::json;

// WB-06: an identity header is as good as a token to the backend that trusts it
#[tokio::test]
async fn other_sites_cannot_post_where_the_session_shows_in_another_way_than_a_token() {
    let site = Site::plan()
        .route("/headers/*", "auth = \"optional\"\nattach = \"never\"\nidentity = { \"X-User\" = \"sub\" }")
        .route("/admitted/*", "auth = true\nattach = { basic = { username = \"u\", password = \"a long password\" } }")
        .start()
        .await;
    let browser = site.signed_in().await;
    let cookies = browser.cookie_field();
    for path in ["/headers/x", "/admitted/x"] {
        let foreign = Request::new("POST", path)
            .header("Sec-Fetch-Site", "same-site")
            .header("Origin", "http://sub.gw.test")
            .header("Cookie", &cookies);
        error_json(&browser.send(foreign).await, 403);
        assert_eq!(site.upstream.hits(), 0, "{path}");
    }
    for path in ["/headers/x", "/admitted/x"] {
        relayed(&browser.fetch("POST", path).await, 200);
    }
}

// WB-06, WB-09: `*` is for answers that anyone may read, not for sessions that anyone may use
#[tokio::test]
async fn any_origin_in_cors_lets_no_origin_use_a_session() {
    let site = Site::plan().route("/*", "auth = true\ncors = { allow_origins = [\"*\"] }").start().await;
    let browser = site.signed_in().await;
    let foreign = Request::new("POST", "/x")
        .header("Sec-Fetch-Site", "same-site")
        .header("Origin", "http://sub.gw.test")
        .header("Cookie", &browser.cookie_field());
    assert_eq!(browser.send(foreign).await.status, 403);
    assert_eq!(site.upstream.hits(), 0);
}

// The key goes where the route's prefix leads
#[tokio::test]
async fn a_key_in_the_query_goes_to_the_rewritten_path() {
    let key = "attach = { api_key = { query = \"key\", value = \"a-long-api-key\" } }";
    let site = Site::plan()
        .route("/api/*", &format!("auth = \"public\"\nstrip_prefix = \"/api\"\nreplace_prefix = \"/v2\"\n{key}"))
        .start()
        .await;
    relayed(&site.browser().fetch("GET", "/api/x?a=1&key=mine&b=%2F").await, 200);
    assert_eq!(site.upstream.last().target, "/v2/x?a=1&b=%2F&key=a%2Dlong%2Dapi%2Dkey");
}

// HD-04, TX-47: a preflight shows no session, so it gets no credential of any kind
#[tokio::test]
async fn a_preflight_carries_no_credential_of_the_gateways_own() {
    let site = Site::plan()
        .route("/basic/*", "auth = true\nattach = { basic = { username = \"u\", password = \"a long password\" } }")
        .route("/header/*", "auth = true\nattach = { api_key = { header = \"X-Key\", value = \"a long api key\" } }")
        .route("/query/*", "auth = true\nattach = { api_key = { query = \"key\", value = \"a-long-api-key\" } }")
        .start()
        .await;
    for path in ["/basic/x", "/header/x", "/query/x"] {
        let preflight = Request::new("OPTIONS", path)
            .header("Origin", "https://evil.test")
            .header("Access-Control-Request-Method", "POST");
        relayed(&site.browser().send(preflight).await, 200);
        let received = site.upstream.last();
        assert!(!received.headers.contains("authorization") && !received.headers.contains("x-key"), "{path}");
        assert_eq!(received.target, path);
    }
}

// SC-17: a browser stores a cookie without a name under its value, and sends `latchgate=…` back
#[tokio::test]
async fn an_upstream_cannot_set_our_cookies_without_naming_them() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    site.upstream.next(
        Answer::status(200)
            .header("Set-Cookie", "=latchgate=planted; Path=/")
            .header("Set-Cookie", " = latchgate=planted")
            .header("Set-Cookie", "=other=1"),
    );
    let reply = site.browser().fetch("GET", "/x").await;
    assert_eq!(reply.headers.values("set-cookie"), ["=other=1"]);
}

// WB-11: what only a session opens is nobody else's, whatever the upstream saw of it
#[tokio::test]
async fn what_a_session_opened_is_not_for_shared_caches() {
    let site = Site::plan()
        .route("/headers/*", "auth = \"optional\"\nattach = \"never\"\nidentity = { \"X-User\" = \"sub\" }")
        .route("/admitted/*", "auth = true\nattach = \"never\"")
        .route("/token/*", "auth = true")
        .route("/open/*", "auth = \"public\"")
        .start()
        .await;
    let browser = site.signed_in().await;
    site.upstream.answer(|_| Answer::status(200).header("Cache-Control", "max-age=60, must-revalidate"));
    for (path, private) in [("/headers/x", true), ("/admitted/x", true), ("/token/x", true), ("/open/x", false)] {
        let reply = browser.fetch("GET", path).await;
        let said = reply.headers.values("cache-control").join(", ");
        assert_eq!(said.contains("private"), private, "{path}: {said}");
    }
}

// HD-01, FW-01
#[tokio::test]
async fn forwarded_headers_of_a_stranger_go_in_every_spelling() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    let request = Request::fetch("GET", "/x")
        .header("X.Forwarded.Host", "evil.test")
        .header("X!Real!IP", "203.0.113.1")
        .header("X_Original_URL", "/admin")
        .header("True~Client~IP", "203.0.113.1");
    relayed(&site.browser().send(request).await, 200);
    for (name, value) in &site.upstream.last().headers.0 {
        assert!(!["evil.test", "203.0.113.1", "/admin"].contains(&value.as_str()), "{name}");
    }
}

// IT-28, IT-33: spaces at the ends of a header value get lost on the way
#[tokio::test]
async fn users_who_differ_by_a_space_at_the_end_stay_different_upstream() {
    let site = Site::plan()
        .route("/*", "auth = true\nidentity = { \"X-Name\" = \"nickname\", \"X-Groups\" = \"groups\" }")
        .start()
        .await;
    site.provider.add_user("ada", json!({ "nickname": " root ", "groups": ["staff", " admins", "a b"] }));
    relayed(&site.signed_in().await.fetch("GET", "/x").await, 200);
    let received = site.upstream.last();
    assert_eq!(received.header("x-name"), "%20root%20");
    assert_eq!(received.header("x-groups"), "staff,%20admins,a b");
}

// LO-03: SPEC §6, "same-site NAV only"; on plain http browsers send no fetch metadata
#[tokio::test]
async fn only_a_navigation_signs_out_by_get() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let image = Request::new("GET", "/auth/logout").header("Accept", "image/*");
    let prefetch = Request::new("GET", "/auth/logout").header("Accept", "text/html").header("Purpose", "prefetch");
    for request in [image, prefetch] {
        let reply = browser.send(request.clone().header("Cookie", &browser.cookie_field())).await;
        assert_eq!(reply.status, 403, "{request:?}");
        assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200, "{request:?}");
    }
}

// A configuration that passes must start
#[tokio::test]
async fn user_path_may_be_the_one_it_has_anyway_and_no_other_endpoint() {
    let site = Site::plan().login("user_path = \"/auth/me\"").route("/*", "auth = true").start().await;
    assert_eq!(site.browser().fetch("GET", "/auth/me").await.status, 401);
    for path in ["/auth/login", "/auth/corp", "/auth"] {
        let source = format!(
            "[login]\nuser_path = \"{path}\"\n[upstreams.app]\nurl = \"http://127.0.0.1:9\"\n[[routes]]\npath = \"/*\"\nauth = \"public\"\n"
        );
        assert!(parse(&source).is_err(), "{path}");
    }
}

// RL-15: a tunnel is a connection
#[tokio::test]
async fn open_websockets_count_as_connections() {
    let site = Site::plan().limits("connections = 2").route("/*", "auth = \"public\"").start().await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = site.connect().await;
        let upgrade = "GET /x HTTP/1.1\r\nHost: gw.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        connection.send(upgrade.as_bytes()).await.unwrap();
        assert_eq!(connection.reply_head().await.word(1), "101");
        open.push(connection);
    }
    let third = site.raw("GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n").await;
    assert_eq!(third.expect("an answer").status, 503);
    open.clear();
    crate::harness::eventually(|| async {
        site.raw("GET /auth/me HTTP/1.1\r\nHost: gw.test\r\n\r\n").await.is_some_and(|reply| reply.status == 401)
    })
    .await;
}

// CB-13
#[tokio::test]
async fn our_endpoints_answer_to_their_exact_paths_alone() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    for path in ["/auth/me;x", "/auth/me%3Bx", "/auth/me%3bx=1", "/auth/corp%3Bx", "/auth/corp;x"] {
        error_json(&browser.fetch("GET", path).await, 404);
    }
    assert_eq!(site.upstream.hits(), 0);
}
