//! What may pass between a client and an upstream: paths, hosts, headers, forwarded addresses, other
//! sites, and the shape of every error.

use crate::harness::expect::{error_json, error_page, login_status, relayed};
use crate::harness::site::parse;
use crate::harness::upstream::lax_path;
use crate::harness::{Answer, Reply, Request, Site};
use serde_json::json;

// --------------------------------------------------------------------------------------- paths

// PA-01, PA-04, PA-05, PA-07, PA-09, WB-15
#[tokio::test]
async fn a_path_that_two_readers_could_read_differently_is_400() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    let refused = [
        "/public/../admin",
        "/public/./admin",
        "/..",
        "/.",
        "/public/%2e%2e/admin",
        "/public/.%2E/admin",
        "/public/%2e/admin",
        "/public/%252e%252e/admin",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a%00b",
        "/a%0d%0ab",
        "/a%1fb",
        "/a%7fb",
        "/a%zzb",
        "/a%2",
        "/a%",
        "/a%u0041",
        "/public/..;/admin",
        "/public/..;x=1/admin",
        "/public/%2e%2e;/admin",
        "/a/..",
    ];
    for target in refused {
        let reply = get(&site, target).await;
        assert_eq!(reply.status, 400, "{target}");
        error_json(&reply, 400);
    }
    assert_eq!((site.upstream.hits(), site.upstream.connections()), (0, 0));
}

// PA-01, PA-05, PA-08, TX-44
#[tokio::test]
async fn what_is_matched_is_what_is_forwarded_and_the_query_is_never_touched() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    let forwarded = [
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("/a//b///c", "/a/b/c"),
        ("/%61dmin", "/admin"),
        ("/a%7Eb%2D", "/a~b-"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b%3fc", "/a%20b%3Fc"),
        ("/a;p=1/b;q", "/a;p=1/b;q"),
        ("/a...b/..c", "/a...b/..c"),
        ("/a?a=1&a=2&b=%2F&c=../..//x&%zz&=&?", "/a?a=1&a=2&b=%2F&c=../..//x&%zz&=&?"),
        ("/a?", "/a?"),
    ];
    for (target, expected) in forwarded {
        relayed(&get(&site, target).await, 200);
        assert_eq!(site.upstream.last().target, expected, "{target}");
    }
}

// PA-02, PA-03, PA-06, PA-08, PA-10
#[tokio::test]
async fn a_careless_upstream_never_serves_a_protected_path_to_a_stranger() {
    let site = Site::plan().route("/public/*", "auth = \"public\"").route("/admin/*", "auth = true").start().await;
    let mut asked = 0;
    for prefix in ["/public/", "/public/x/../", "/"] {
        for dots in ["..", "%2e%2e", ".%2e", "%252e%252e", "..;", "..;x=1", "%2e%2e;", "."] {
            for separator in ["/", "%2f", "%5c", "\\", "//", "/./", "%252f", ";/"] {
                for admin in ["admin", "%61dmin", "admin;x", "admin/", "admin?/public/", "admin#/public/"] {
                    get(&site, &format!("{prefix}{dots}{separator}{admin}")).await;
                    asked += 1;
                }
            }
        }
    }
    for direct in [
        "/admin",
        "/admin/",
        "/admin/x",
        "//admin",
        "/%61dmin/x",
        "/ADM%49N",
        "/admin;x",
        "/;/admin",
        "/admin%3b",
        "/public/../admin",
    ] {
        get(&site, direct).await;
        asked += 1;
    }
    assert!(asked > 1000);
    for received in site.upstream.received() {
        let read = lax_path(&received.target);
        assert!(read != "/admin" && !read.starts_with("/admin/"), "{} reads as {read}", received.target);
    }
}

// PA-05
#[tokio::test]
async fn an_encoded_slash_passes_where_a_route_allows_it() {
    let site = Site::plan().route("/files/*", "auth = \"public\"\nallow_encoded_slash = true").start().await;
    relayed(&get(&site, "/files/a%2Fb").await, 200);
    assert_eq!(site.upstream.last().target, "/files/a%2Fb");
    for target in ["/files/a%5cb", "/files/..%2Fb", "/files/%2e%2e%2Fb"] {
        error_json(&get(&site, target).await, 400);
    }
}

// PA-10, PA-11, PA-12
#[tokio::test]
async fn routes_match_on_boundaries_and_the_most_precise_one_wins() {
    let site = Site::plan()
        .route("/*", "auth = true")
        .route("/public/*", "auth = \"public\"")
        .route("/public/secret", "auth = true")
        .route("/users/{id}", "auth = \"public\"")
        .route("/users/me", "auth = true")
        .start()
        .await;
    for open in ["/public", "/public/", "/public/x", "/public/secret/x", "/users/7", "/users/7?me"] {
        assert_eq!(get(&site, open).await.status, 200, "{open}");
    }
    for closed in ["/publicx", "/Public/x", "/public/secret", "/users/me", "/users/7/x", "/users", "/"] {
        assert_eq!(get(&site, closed).await.status, 401, "{closed}");
    }
}

// PA-14, WB-18, WB-20
#[tokio::test]
async fn a_method_no_route_names_is_405_with_allow() {
    let site = Site::plan()
        .route("/get/*", "auth = \"public\"\nmethods = [\"GET\"]")
        .route("/all/*", "auth = true")
        .start()
        .await;
    for method in ["POST", "DELETE", "PURGE"] {
        let request = Request::fetch(method, "/get/x").header("X-HTTP-Method-Override", "GET");
        let reply = site.browser().send(request).await;
        error_json(&reply, 405);
        assert!(reply.header("allow").contains("GET"), "{:?}", reply.headers);
    }
    for method in ["HEAD", "OPTIONS", "PUT", "PURGE", "PROPFIND"] {
        assert_eq!(site.browser().fetch(method, "/all/x").await.status, 401, "{method} needs a session too");
    }
    let trace = site.browser().fetch("TRACE", "/all/x").await;
    assert!(matches!(trace.status, 401 | 405), "{}", trace.status);
    assert_eq!(site.upstream.hits(), 0);
}

// PA-15, PA-16, PA-17, TX-49
#[tokio::test]
async fn headers_that_name_another_path_decide_nothing() {
    let site = Site::plan().route("/public/*", "auth = \"public\"").route("/*", "auth = true").start().await;
    for name in [
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Forwarded-Uri",
        "X-Forwarded-Path",
        "X-Forwarded-Prefix",
        "x-middleware-subrequest",
    ] {
        let request = Request::fetch("GET", "/admin").header(name, "/public/x");
        login_status(&site.browser().send(request).await, "unauthorized", "/page");
    }
    let probe = Request::fetch("GET", "/healthz").header("User-Agent", "kube-probe/1.30");
    assert_eq!(site.browser().send(probe).await.status, 401);
    assert_eq!(site.upstream.hits(), 0);
}

// --------------------------------------------------------------------------------------- hosts

// PA-15
#[tokio::test]
async fn a_host_is_compared_in_one_spelling() {
    let site = Site::plan()
        .route("/*", "host = \"admin.test\"\nauth = true")
        .route("/*", "host = \"*.apps.test\"\nauth = true")
        .route("/*", "auth = \"public\"")
        .start()
        .await;
    for host in ["admin.test", "ADMIN.test", "admin.test.", "admin.test:8080", "a.apps.test", "A.B.Apps.Test:1"] {
        assert_eq!(get_from(&site, host).await.status, 401, "{host}");
    }
    for host in ["gw.test", "xadmin.test", "admin.test.evil.test", "apps.test"] {
        assert_eq!(get_from(&site, host).await.status, 200, "{host}");
    }
}

// H1-14
#[tokio::test]
async fn a_request_that_names_its_host_twice_or_not_at_all_is_400() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    for request in [
        "GET /x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: gw.test\r\nHost: gw.test\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: gw.test\r\nHost: evil.test\r\n\r\n",
        "GET http://evil.test/x HTTP/1.1\r\nHost: gw.test\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: user@gw.test\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: gw.test:port\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: gw.test/x\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: gw.test, evil.test\r\n\r\n",
    ] {
        let reply = site.raw(request).await;
        assert_eq!(reply.map(|reply| reply.status), Some(400), "{request:?}");
    }
    assert_eq!(site.upstream.hits(), 0);
}

// H1-15
#[tokio::test]
async fn other_forms_of_a_target_are_normalised_or_refused_and_never_a_tunnel() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    let absolute = site.raw("GET http://gw.test/x?y HTTP/1.1\r\nHost: gw.test\r\n\r\n").await.unwrap();
    relayed(&absolute, 200);
    assert_eq!(site.upstream.last().target, "/x?y");
    site.upstream.forget();
    for request in [
        "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
        "CONNECT gw.test:80 HTTP/1.1\r\nHost: gw.test:80\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: gw.test\r\n\r\n",
        "GET gw.test:80 HTTP/1.1\r\nHost: gw.test:80\r\n\r\n",
        "GET file:///etc/passwd HTTP/1.1\r\nHost: gw.test\r\n\r\n",
    ] {
        let status = site.raw(request).await.map_or(0, |reply| reply.status);
        assert!(matches!(status, 0 | 400 | 404 | 405 | 501), "{request:?}: {status}");
    }
    assert_eq!(site.upstream.hits(), 0);
}

// H1-01, H1-06, H1-07, H1-09, H1-12, H1-13
#[tokio::test]
async fn ambiguous_framing_is_refused_and_never_smuggles_a_request() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    let send = async |head: &str| {
        let request = format!(
            "POST /first HTTP/1.1\r\nHost: gw.test\r\n{head}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: gw.test\r\n\r\n"
        );
        site.raw(&request).await.map_or(0, |reply| reply.status)
    };
    for head in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5, 6",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: ",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: xchunked",
        "Content-Length : 5",
        " X: y\r\nContent-Length: 5",
        "X\r\nContent-Length: 5",
        "X: a\r\n b\r\nContent-Length: 5",
        "X: a\u{0}b\r\nContent-Length: 5",
    ] {
        let status = send(head).await;
        assert!(matches!(status, 0 | 400 | 501), "{head:?}: {status}");
    }
    assert_eq!(site.upstream.hits(), 0);
    send("Content-Length: 4\r\nTransfer-Encoding: chunked").await;
    for received in site.upstream.received() {
        assert_ne!(received.target, "/smuggled");
        let lengths = received.headers.values("content-length").len();
        assert!(lengths == 0 || !received.headers.contains("transfer-encoding"), "{:?}", received.headers);
    }
}

// H1-16
#[tokio::test]
async fn pipelined_requests_are_decided_one_by_one() {
    let site = Site::protected().await;
    site.upstream.accept_live_tokens(&site.provider);
    let (ada, bob) = (site.signed_in_as("ada").await, site.signed_in_as("bob").await);
    let stranger = site.browser();
    let mut connection = site.connect().await;
    let mut bytes = Vec::new();
    for browser in [&ada, &stranger, &bob, &ada] {
        bytes.extend(browser.serialise(Request::fetch("GET", "/x")));
    }
    connection.send(&bytes).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let reply = connection.reply("GET").await.expect("four answers");
        seen.push((reply.status, reply.header("x-seen-user").to_owned()));
    }
    let expected = [(200, "ada"), (401, ""), (200, "bob"), (200, "ada")];
    assert_eq!(seen, expected.map(|(status, user)| (status, user.to_owned())));
}

// ------------------------------------------------------------------------------------- headers

const IDENTITY: &str = "identity = { \"X-User\" = \"sub\", \"X-Email\" = \"email\", \"X-Groups\" = \"groups\" }";

// HD-01, HD-03, HD-04
#[tokio::test]
async fn identity_headers_come_from_the_gateway_or_not_at_all() {
    let site = Site::plan()
        .route("/public/*", &format!("auth = \"public\"\n{IDENTITY}"))
        .route("/optional/*", &format!("auth = \"optional\"\n{IDENTITY}"))
        .route("/*", &format!("auth = true\n{IDENTITY}"))
        .start()
        .await;
    let forged = |target: &str| {
        ["X-User", "x-user", "X-USER", "X_User", "x_user", "X-Groups", "X_GROUPS", "x-email"]
            .into_iter()
            .fold(Request::fetch("GET", target), |request, name| request.header(name, "forged"))
    };
    let browser = site.signed_in().await;
    for (browser, target, user) in [
        (site.browser(), "/public/x", None),
        (site.browser(), "/optional/x", None),
        (browser.clone(), "/optional/x", Some("ada")),
        (browser, "/x", Some("ada")),
    ] {
        relayed(&browser.send(forged(target)).await, 200);
        let received = site.upstream.last();
        assert!(!received.headers.0.iter().any(|(_, value)| value == "forged"), "{target}: {:?}", received.headers);
        assert_eq!(received.headers.value("x-user"), user, "{target}");
        assert_eq!(received.headers.value("x-email"), user.map(|_| "ada@corp.test"), "{target}");
        assert!(!received.headers.contains("x-groups"), "the claim is missing");
    }
}

// IT-28, IT-29
#[tokio::test]
async fn claims_become_one_header_value_whatever_they_hold() {
    let site = Site::plan().route("/*", &format!("auth = true\n{IDENTITY}")).start().await;
    site.provider
        .add_user("ada", json!({ "email": "a\r\nX-Admin: 1\r\n\r\nGET /evil", "groups": ["staff", "é\n", "admins"] }));
    let browser = site.signed_in().await;
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!(site.upstream.hits(), 1);
    let received = site.upstream.last();
    assert!(!received.headers.contains("x-admin"));
    for name in ["x-email", "x-groups"] {
        assert!(received.headers.values(name).len() <= 1, "{name}");
    }

    site.provider.add_user("bob", json!({ "groups": ["staff", "dev"] }));
    relayed(&site.signed_in_as("bob").await.fetch("GET", "/x").await, 200);
    assert_eq!(site.upstream.last().header("x-groups"), "staff,dev");
}

// HD-02, HD-07
#[tokio::test]
async fn hop_by_hop_headers_go_first_and_cannot_remove_ours() {
    let site = Site::plan().route("/*", &format!("auth = true\n{IDENTITY}")).start().await;
    let browser = site.signed_in().await;
    for connection in [
        "X-User, Authorization, X-Forwarded-For, X-Private",
        "close, x-user,AUTHORIZATION , x-private",
        "keep-alive,\tx-private",
    ] {
        let request = Request::fetch("GET", "/x")
            .header("Connection", connection)
            .header("X-Private", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Connection", "keep-alive")
            .header("Proxy-Authorization", "Basic eDp5")
            .header("TE", "gzip")
            .header("Upgrade", "h2c")
            .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
        relayed(&browser.send(request).await, 200);
        let received = site.upstream.last();
        assert_eq!(received.header("x-user"), "ada");
        assert_eq!(site.provider.user_of(received.bearer().unwrap()).as_deref(), Some("ada"));
        assert!(received.headers.contains("x-forwarded-for"));
        for gone in ["x-private", "keep-alive", "proxy-connection", "proxy-authorization", "upgrade"] {
            assert!(!received.headers.contains(gone), "{gone}: {:?}", received.headers);
        }
        assert_ne!(received.header("te"), "gzip");
    }
}

// HD-11, TX-44, TX-45
#[tokio::test]
async fn headers_and_bodies_arrive_as_sent_both_ways() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    site.upstream.answer(|_| {
        Answer::status(203)
            .header("X-Order", "1")
            .header("Set-Cookie", "a=1; Path=/; Expires=Wed, 21 Oct 2037 07:28:00 GMT")
            .header("X-Order", "2")
            .header("Set-Cookie", "b=2")
            .header("Set-Cookie", "a=3")
            .header("X-Empty", "")
            .header("X-Latin", "caf\u{e9}")
            .header("Content-Encoding", "gzip")
            .header("ETag", "W/\"x\"")
            .header("Cache-Control", "public, max-age=60")
            .header("Server", "app/1")
            .body(vec![0x1f, 0x8b, 0, 255, 10, 13])
    });
    let request = Request::fetch("POST", "/x")
        .header("X-Order", "1")
        .header("x-latin", "\u{e9}\u{ff}")
        .header("X-Order", "2, 3")
        .header("X-Empty", "")
        .header("Accept-Encoding", "br, zstd;q=0.5")
        .header("Range", "bytes=0-1")
        .header("If-None-Match", "\"a\", W/\"b\"")
        .body("text/plain; charset=x", vec![0, 255, 13, 10]);
    let reply = site.browser().send(request).await;
    relayed(&reply, 203);
    assert_eq!(reply.headers.values("x-order"), ["1", "2"]);
    assert_eq!(
        reply.headers.values("set-cookie"),
        ["a=1; Path=/; Expires=Wed, 21 Oct 2037 07:28:00 GMT", "b=2", "a=3"]
    );
    for (name, value) in [
        ("x-empty", ""),
        ("x-latin", "caf\u{e9}"),
        ("content-encoding", "gzip"),
        ("etag", "W/\"x\""),
        ("cache-control", "public, max-age=60"),
        ("server", "app/1"),
    ] {
        assert_eq!(reply.headers.values(name), [value], "{name}");
    }
    assert_eq!(reply.body, [0x1f, 0x8b, 0, 255, 10, 13]);

    let received = site.upstream.last();
    assert_eq!(received.headers.values("x-order"), ["1", "2, 3"]);
    for (name, value) in [
        ("x-latin", "\u{e9}\u{ff}"),
        ("x-empty", ""),
        ("accept", "*/*"),
        ("accept-encoding", "br, zstd;q=0.5"),
        ("range", "bytes=0-1"),
        ("if-none-match", "\"a\", W/\"b\""),
        ("content-type", "text/plain; charset=x"),
    ] {
        assert_eq!(received.headers.values(name), [value], "{name}");
    }
    assert_eq!(received.body, [0, 255, 13, 10]);
}

#[tokio::test]
async fn a_route_sets_and_removes_headers_and_prefixes() {
    let site = Site::plan()
        .route("/strip/*", "auth = \"public\"\nstrip_prefix = \"/strip\"\nrequest_headers = { set = { \"X-Set\" = \"1\" }, remove = [\"X-Gone\"] }\nresponse_headers = { set = { \"X-Answer\" = \"1\" }, remove = [\"X-Secret\"] }")
        .route("/old/*", "auth = \"public\"\nstrip_prefix = \"/old\"\nreplace_prefix = \"/new\"")
        .start()
        .await;
    site.upstream.answer(|_| Answer::status(200).header("X-Secret", "1").header("X-Answer", "upstream"));
    let request = Request::fetch("GET", "/strip/a?b").header("X-Gone", "1").header("X-Set", "client");
    let reply = site.browser().send(request).await;
    let received = site.upstream.last();
    assert_eq!((received.target.as_str(), received.header("x-set")), ("/a?b", "1"));
    assert!(!received.headers.contains("x-gone") && !reply.headers.contains("x-secret"));
    assert_eq!(reply.headers.values("x-answer"), ["1"]);
    relayed(&get(&site, "/old/a").await, 200);
    assert_eq!(site.upstream.last().target, "/new/a");
    relayed(&get(&site, "/strip").await, 200);
    assert_eq!(site.upstream.last().target, "/");
}

// HD-12
#[tokio::test]
async fn request_ids_are_passed_on_or_made() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    let with = |name: &'static str, value: String| {
        let browser = site.browser();
        async move { browser.send(Request::fetch("GET", "/x").header(name, &value)).await }
    };
    with("X-Request-Id", "abc-123".to_owned()).await;
    assert_eq!(site.upstream.last().header("x-request-id"), "abc-123");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    with("traceparent", trace.to_owned()).await;
    assert!(site.upstream.last().header("traceparent").contains("4bf92f3577b34da6a3ce929d0e0e4736"));
    site.browser().fetch("GET", "/x").await;
    let made = site.upstream.last().header("x-request-id").to_owned();
    site.browser().fetch("GET", "/x").await;
    assert!(!made.is_empty() && made != site.upstream.last().header("x-request-id"));
    for hostile in ["x".repeat(10_000), "a b\u{1b}[31m".to_owned(), "\u{e9}".to_owned()] {
        with("X-Request-Id", hostile.clone()).await;
        assert_ne!(site.upstream.last().header("x-request-id"), hostile);
    }
}

// ------------------------------------------------------------------------ forwarded addresses

// FW-01, FW-04, FW-05, HD-08
#[tokio::test]
async fn forwarded_headers_of_a_stranger_are_rewritten() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    let request = [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Uri",
        "X-Forwarded-Method",
        "X-Forwarded-Server",
        "X-Real-IP",
    ]
    .into_iter()
    .fold(Request::fetch("GET", "/x"), |request, name| request.header(name, "evil.test"))
    .header("Forwarded", "for=evil.test;host=evil.test;proto=https");
    relayed(&site.browser().send(request).await, 200);
    let received = site.upstream.last();
    assert_eq!(received.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(received.header("x-forwarded-proto"), "http");
    assert_eq!(received.header("x-forwarded-host"), "gw.test");
    assert!(!received.headers.0.iter().any(|(_, value)| value.contains("evil")), "{:?}", received.headers);
}

// FW-02
#[tokio::test]
async fn forwarded_headers_of_a_trusted_proxy_are_believed() {
    let site =
        Site::plan().server("trusted_proxies = [\"127.0.0.0/8\"]").route("/*", "auth = \"public\"").start().await;
    let request = Request::fetch("GET", "/x")
        .header("X-Forwarded-For", "203.0.113.7, 198.51.100.9")
        .header("X-Forwarded-Proto", "https");
    relayed(&site.browser().send(request).await, 200);
    let received = site.upstream.last();
    assert!(received.header("x-forwarded-for").contains("198.51.100.9"), "{:?}", received.headers);
    assert_eq!(received.header("x-forwarded-proto"), "https");
}

// FW-02
#[tokio::test]
async fn the_client_is_the_right_most_address_that_is_no_trusted_proxy() {
    let trusted = "trusted_proxies = [\"127.0.0.0/8\", \"198.51.100.0/24\"]";
    let site = Site::plan().server(trusted).route("/*", "auth = \"public\"").start().await;
    for (chain, client) in [
        ("203.0.113.7, 198.51.100.9", "203.0.113.7"),
        ("192.0.2.1, 203.0.113.7, 198.51.100.9, ::ffff:198.51.100.8", "203.0.113.7"),
        ("203.0.113.7, nonsense, 198.51.100.9", "198.51.100.9"),
        ("nonsense", "127.0.0.1"),
    ] {
        relayed(&site.browser().send(Request::fetch("GET", "/x").header("X-Forwarded-For", chain)).await, 200);
        let forwarded = site.upstream.last().header("forwarded").to_owned();
        assert!(forwarded.starts_with(&format!("for={client};")), "{chain}: {forwarded}");
    }
}

// -------------------------------------------------------------------------------- other sites

// WB-06, WB-07
#[tokio::test]
async fn an_unsafe_request_with_a_session_must_come_from_the_same_origin() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let with_cookies = |request: Request| request.header("Cookie", &browser.cookie_field()).body("text/plain", "x=1");
    let plain = || Request::new("POST", "/x");
    let refused = [
        Request::fetch("POST", "/x").with("Sec-Fetch-Site", "cross-site").header("Origin", "https://evil.test"),
        Request::fetch("POST", "/x")
            .with("Sec-Fetch-Site", "cross-site")
            .with("Sec-Fetch-Mode", "no-cors")
            .header("Origin", "https://evil.test"),
        Request::fetch("DELETE", "/x").with("Sec-Fetch-Site", "same-site").header("Origin", "http://sub.gw.test"),
        Request { method: "POST".to_owned(), ..Request::navigation("/x") }
            .with("Sec-Fetch-Site", "cross-site")
            .header("Origin", "null"),
        plain().header("Origin", "null"),
        plain().header("Origin", "https://gw.test"),
        plain().header("Origin", "http://gw.test:81"),
        plain().header("Origin", "http://sub.gw.test"),
        plain().header("Origin", "http://gw.test.evil.test"),
        plain().header("Origin", "http://evil.test"),
        plain(),
    ];
    for request in refused {
        let reply = browser.send(with_cookies(request.clone())).await;
        assert_eq!(reply.status, 403, "{request:?}");
    }
    assert_eq!(site.upstream.hits(), 0);
    error_json(&browser.send(with_cookies(plain())).await, 403);
    for request in [
        Request::fetch("POST", "/x"),
        plain().header("Origin", "http://gw.test"),
        Request::fetch("GET", "/x").with("Sec-Fetch-Site", "cross-site"),
    ] {
        assert_eq!(browser.send(with_cookies(request.clone())).await.status, 200, "{request:?}");
    }
}

#[tokio::test]
async fn where_no_session_is_attached_other_sites_may_post() {
    let site = Site::plan().route("/public/*", "auth = \"public\"").route("/anonymous/*", "auth = false").start().await;
    let browser = site.signed_in().await;
    for path in ["/public/x", "/anonymous/x"] {
        let request =
            Request::fetch("POST", path).with("Sec-Fetch-Site", "cross-site").header("Origin", "https://hooks.test");
        relayed(&browser.send(request.header("Cookie", &browser.cookie_field())).await, 200);
    }
}

// WB-09
#[tokio::test]
async fn a_websocket_of_another_origin_is_refused_before_the_upstream_is_asked() {
    let site = Site::protected().await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let browser = site.signed_in().await;
    let upgrade = || {
        Request::new("GET", "/socket")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Cookie", &browser.cookie_field())
    };
    for origin in ["https://evil.test", "null", "http://sub.gw.test", "http://gw.test:81"] {
        assert_eq!(browser.send(upgrade().header("Origin", origin)).await.status, 403, "{origin}");
    }
    assert_eq!(browser.send(upgrade()).await.status, 403, "no Origin");
    assert_eq!((site.upstream.hits(), site.upstream.connections()), (0, 0));
    let (head, _connection) = browser.open(upgrade().header("Origin", "http://gw.test")).await;
    assert_eq!(head.word(1), "101");
}

const CORS: &str = "cors = { allow_origins = [\"https://app.test\"], allow_credentials = true, allow_methods = [\"GET\", \"POST\"], allow_headers = [\"content-type\", \"x-own\"], max_age = \"1h\" }";

// TA-18, TA-19, TA-20
#[tokio::test]
async fn an_allowed_origin_may_read_answers_and_refusals() {
    let site = Site::plan().route("/*", &format!("auth = true\n{CORS}")).start().await;
    let browser = site.signed_in().await;
    let from = |origin: &str, method: &str| {
        Request::fetch(method, "/x")
            .with("Sec-Fetch-Site", "cross-site")
            .header("Origin", origin)
            .header("Cookie", &browser.cookie_field())
    };
    for request in [from("https://app.test", "GET"), from("https://app.test", "POST")] {
        let reply = browser.send(request).await;
        relayed(&reply, 200);
        readable(&reply);
    }
    let refused = browser.send(from("https://app.test", "GET").with("Cookie", "x=1")).await;
    assert_eq!(refused.status, 401);
    readable(&refused);

    let stranger = browser.send(from("https://evil.test", "GET")).await;
    assert!(!stranger.headers.contains("access-control-allow-origin"));
    assert_eq!(browser.send(from("https://evil.test", "POST")).await.status, 403);
}

// TA-21, TX-47, WB-08
#[tokio::test]
async fn preflights_never_meet_auth_and_carry_no_credential() {
    let site =
        Site::plan().route("/cors/*", &format!("auth = true\n{CORS}")).route("/plain/*", "auth = true").start().await;
    let preflight = |path: &str, origin: &str| {
        Request::new("OPTIONS", path)
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "content-type,x-own")
            .header("Sec-Fetch-Mode", "cors")
            .header("Sec-Fetch-Site", "cross-site")
    };
    let reply = site.browser().send(preflight("/cors/x", "https://app.test")).await;
    assert!(matches!(reply.status, 200 | 204), "{}", reply.status);
    readable(&reply);
    assert!(reply.header("access-control-allow-methods").contains("POST"));
    assert!(reply.header("access-control-allow-headers").to_ascii_lowercase().contains("x-own"));
    assert_eq!(reply.header("access-control-max-age"), "3600");
    let stranger = site.browser().send(preflight("/cors/x", "https://evil.test")).await;
    assert!(!stranger.headers.contains("access-control-allow-origin"));

    let browser = site.signed_in().await;
    let plain =
        browser.send(preflight("/plain/x", "https://evil.test").header("Cookie", &browser.cookie_field())).await;
    assert!(!matches!(plain.status, 301..=308 | 401), "{}", plain.status);
    for received in site.upstream.received() {
        assert!(!received.headers.contains("authorization") && !received.headers.contains("cookie"));
    }
}

// TA-22
#[test]
fn any_origin_with_credentials_is_refused_at_start() {
    let source = "[upstreams.app]\nurl = \"http://127.0.0.1:9\"\n[[routes]]\npath = \"/*\"\nauth = \"public\"\ncors = { allow_origins = [\"*\"], allow_credentials = true }\n";
    assert!(parse(source).is_err());
}

// -------------------------------------------------------------------------------------- errors

#[tokio::test]
async fn who_may_not_is_403_and_is_never_sent_to_the_login() {
    let site = Site::plan()
        .route("/groups/*", "auth = true\nrequire = { groups = [\"admin\"] }")
        .route("/mail/*", "auth = true\nrequire = { email_domain = [\"corp.test\"] }")
        .start()
        .await;
    site.provider.add_user("ada", json!({ "groups": ["admin"], "email": "ada@corp.test" }));
    let wrong = [
        json!({ "groups": [], "email": "x@evil.test" }),
        json!({ "groups": "https://graph.test/more", "email": "x@corp.test@evil.test" }),
        json!({ "email": "x@corp.test.evil.test", "groups": ["Admin"] }),
        json!({ "email": "x@corp.test", "email_verified": false, "groups": ["adm", "in"] }),
        json!({}),
    ];
    for claims in wrong {
        site.provider.add_user("bob", claims.clone());
        let browser = site.signed_in_as("bob").await;
        for path in ["/groups/x", "/mail/x"] {
            error_json(&browser.fetch("GET", path).await, 403); // IT-30, IT-31
            error_page(&browser.send(Request::navigation(path)).await, 403);
        }
    }
    assert_eq!(site.upstream.hits(), 0);
    let ada = site.signed_in().await;
    for path in ["/groups/x", "/mail/x"] {
        relayed(&ada.fetch("GET", path).await, 200);
    }
}

#[tokio::test]
async fn a_body_over_the_limit_of_its_route_is_413() {
    let site = Site::plan().route("/*", "auth = \"public\"\nmax_body = \"1KiB\"").start().await;
    let post = |size: usize| Request::fetch("POST", "/x").body("text/plain", vec![b'x'; size]);
    relayed(&site.browser().send(post(1024)).await, 200);
    error_json(&site.browser().send(post(1025)).await, 413);
    let mut chunked = Request::fetch("POST", "/x").header("Transfer-Encoding", "chunked");
    chunked.body = crate::harness::wire::chunk(&[b'x'; 2000]);
    chunked.body.extend(crate::harness::wire::chunk(b""));
    assert_eq!(site.browser().send(chunked).await.status, 413);
    assert_eq!(site.upstream.hits(), 1);
}

// H1-23
#[tokio::test]
async fn too_many_header_bytes_are_431() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    for size in [40_000, 200_000] {
        let request = format!("GET /x HTTP/1.1\r\nHost: gw.test\r\nX-Big: {}\r\n\r\n", "x".repeat(size));
        assert_eq!(site.raw(&request).await.map(|reply| reply.status), Some(431), "{size}");
    }
    relayed(&site.browser().send(Request::fetch("GET", "/x").header("X-Big", &"x".repeat(8_000))).await, 200);
}

// WB-14
#[tokio::test]
async fn every_page_of_the_gateway_is_locked_down() {
    for external_url in ["http://gw.test", "https://gw.test"] {
        let site = Site::plan()
            .external_url(external_url)
            .route("/known/*", "auth = true\nrequire = { groups = [\"nobody\"] }")
            .start()
            .await;
        let browser = site.signed_in().await;
        for target in ["/unknown", "/known/x", "/auth/unknown", "/auth/corp?code=x&state=y"] {
            let reply = browser.send(Request::navigation(target)).await;
            assert!(reply.header("content-type").starts_with("text/html"), "{target}: {}", reply.status);
            let policy = reply.header("content-security-policy");
            assert!(
                policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
                "{target}: {policy}"
            );
            assert_eq!(reply.header("x-content-type-options"), "nosniff", "{target}");
            assert_eq!(reply.header("referrer-policy"), "no-referrer", "{target}");
            assert!(reply.header("cache-control").contains("no-store"), "{target}");
            let https = external_url.starts_with("https");
            assert_eq!(reply.headers.contains("strict-transport-security"), https, "{target}");
        }
    }
}

// WB-16, CR
#[tokio::test]
async fn errors_reflect_nothing_and_name_no_upstream() {
    let site = Site::plan().route("/down/*", "auth = \"public\"").start().await;
    site.upstream.answer(|_| Answer::reset());
    let port = site.upstream.address().port().to_string();
    for request in [
        Request::fetch("GET", "/down/reflectme"),
        Request::navigation("/down/reflectme"),
        Request::fetch("GET", "/reflectme?reflectme"),
        Request::navigation("/reflectme"),
        Request::fetch("GET", "/auth/reflectme"),
    ] {
        let reply =
            site.browser().send(request.header("X-Reflect", "reflectme").header("User-Agent", "reflectme")).await;
        assert!(reply.status >= 400);
        let text = reply.text();
        assert!(!text.contains("reflectme") && !text.contains(&port), "{text}");
    }
}

// WB-17
#[tokio::test]
async fn a_401_of_ours_challenges_with_bearer_and_never_with_basic() {
    let site = Site::protected().await;
    let reply = site.browser().fetch("GET", "/x").await;
    let challenges = reply.headers.values("www-authenticate");
    assert_eq!(challenges.len(), 1);
    assert!(challenges[0].starts_with("Bearer") && !challenges[0].contains("error="), "{challenges:?}");
}

// TX-18, WB-11
#[tokio::test]
async fn an_answer_that_carries_our_cookie_is_not_cached() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    for _ in 0..4 {
        site.clock.advance(std::time::Duration::from_secs(12 * 3600));
        site.upstream.next(Answer::status(200).header("Cache-Control", "public, max-age=3600"));
        let reply = browser.fetch("GET", "/x").await;
        if reply.headers.values("set-cookie").iter().any(|field| crate::harness::inspect::is_ours(field)) {
            assert!(reply.header("cache-control").contains("no-store"), "{:?}", reply.headers);
        }
    }
}

// ---------------------------------------------------------------------------------- the stage

async fn get(site: &Site, target: &str) -> Reply {
    let request = format!("GET {target} HTTP/1.1\r\nHost: gw.test\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    site.raw(&request).await.unwrap_or_else(|| panic!("{target}: closed without a reply"))
}

async fn get_from(site: &Site, host: &str) -> Reply {
    site.raw(&format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.expect("a reply")
}

/// A page at `https://app.test` may read this.
#[track_caller]
fn readable(reply: &Reply) {
    assert_eq!(reply.headers.values("access-control-allow-origin"), ["https://app.test"]);
    assert_eq!(reply.headers.values("access-control-allow-credentials"), ["true"]);
    let vary = reply.headers.values("vary").join(",").to_ascii_lowercase();
    assert!(vary.contains("origin"), "{vary}");
}
