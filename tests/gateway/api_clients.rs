//! Clients with a credential of their own: `[bearer.*]`, `[api_keys.*]`, `accept` (SPEC §9, §11).

use crate::harness::expect::{error_json, error_page, login_redirect, login_status, relayed};
use crate::harness::keys::{Algorithm, IdToken, Signature};
use crate::harness::provider::{CLIENT_ID, CLIENT_SECRET};
use crate::harness::site::Plan;
use crate::harness::{Answer, Endpoint, Fault, Gate, Provider, Reply, Request, Site, eventually, together};
use aws_lc_rs::digest::{SHA256, digest};
use latchgate::clock::Clock;
use serde_json::json;
use std::fmt::Write;
use std::time::Duration;

const KEY: &str = "ci-key-8f1c27d0";
const NEXT_KEY: &str = "ci-key-55ab90e3";

/// Entries `jwt` and `reports` (by discovery, for different audiences), `opaque` and `strict` (by introspection, the latter for an
/// audience) and `ci` (keys in `X-API-Key`), `query` (keys in `?api_key=`).
async fn plan() -> Plan {
    let clock = Clock::system();
    let provider = Provider::start(clock.clone()).await;
    let issuer = provider.issuer();
    Site::plan().provider(&provider, &clock).more(&format!(
        r#"
[bearer.jwt]
issuer = "{issuer}"
audience = ["api"]
[bearer.reports]
issuer = "{issuer}"
audience = "reports"
[bearer.strict]
audience = "api"
introspection = {{ url = "{issuer}/introspect", client_id = "{CLIENT_ID}", client_secret = "{CLIENT_SECRET}" }}
[bearer.opaque]
introspection = {{ url = "{issuer}/introspect", client_id = "{CLIENT_ID}", client_secret = "{CLIENT_SECRET}", cache = "30s" }}
[api_keys.ci]
header = "X-API-Key"
keys = [
    {{ id = "old", sha256 = "{old}", claims = {{ role = "ci" }}, scope = "deploy" }},
    {{ id = "next", sha256 = "{next}", expires = "2100-01-01T00:00:00Z" }},
]
[api_keys.query]
query = "api_key"
keys = [{{ id = "a", sha256 = "{old}" }}]
"#,
        old = sha256(KEY),
        next = sha256(NEXT_KEY),
    ))
}

fn sha256(key: &str) -> String {
    digest(&SHA256, key.as_bytes()).as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

async fn ask(site: &Site, request: Request) -> Reply {
    site.browser().send(request).await
}

async fn with_bearer(site: &Site, target: &str, token: &str) -> Reply {
    ask(site, Request::new("POST", target).header("Authorization", &format!("Bearer {token}"))).await
}

async fn with_key(site: &Site, target: &str, key: &str) -> Reply {
    ask(site, Request::new("POST", target).header("X-API-Key", key)).await
}

#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str, challenge: &str) {
    let body = error_json(reply, status);
    assert_eq!(body["code"], code, "{body}");
    assert_eq!(reply.header("www-authenticate"), challenge);
    for name in ["location", "latchgate-login", "latchgate-reason", "set-cookie"] {
        assert!(!reply.headers.contains(name), "{name} in {:?}", reply.headers);
    }
}

const INVALID: &str = r#"Bearer error="invalid_token""#;

// ---------------------------------------------------------------------------------- bearer tokens

#[tokio::test]
async fn a_jwt_lets_its_client_in_and_goes_on_to_the_upstream() {
    let identity = "auth = true\naccept = [\"jwt\"]\nidentity = { \"X-User\" = \"sub\", \"X-Roles\" = \"roles\" }";
    let site = plan().await.route("/*", identity).start().await;
    let token = site.provider.access_token(json!({ "roles": ["a", "b"] }), |_| {});
    for scheme in ["Bearer", "bearer", "BEARER"] {
        // An unsafe request without any sign of a browser: no cookie, so no forgery.
        let request = Request::new("POST", "/x?y=1").header("Authorization", &format!("{scheme} {token}"));
        relayed(&ask(&site, request.header("X-User", "root")).await, 200);
        let received = site.upstream.received().pop().unwrap();
        assert_eq!(received.header("authorization"), format!("{scheme} {token}"));
        assert_eq!((received.header("x-user"), received.header("x-roles")), ("robot", "a,b"));
        assert_eq!(received.target, "/x?y=1");
    }
    assert_eq!((site.provider.count(Endpoint::Discovery), site.provider.count(Endpoint::Jwks)), (1, 1));
    assert_eq!(site.provider.count(Endpoint::Introspection), 0);
}

// CVE-2022-29226, GHSA-wcvh-g65p-v576, GHSA-gv94-wp4h-vv8p, IT-06, IT-07, IT-23
#[tokio::test]
async fn what_is_no_good_token_is_401_and_reaches_nobody() {
    let site = plan()
        .await
        .route("/true", "auth = true\naccept = [\"jwt\"]")
        .route("/optional", "auth = \"optional\"\naccept = [\"session\", \"jwt\"]")
        .start()
        .await;
    let token = |claims: serde_json::Value| site.provider.access_token(claims, |_| {});
    let signed = |signature: Signature| site.provider.access_token(json!({}), |token| token.signature = signature);
    let now = site.clock.now().unix;
    let tokens = [
        "garbage".to_owned(),
        token(json!({ "aud": "other" })),
        token(json!({ "aud": null })),
        token(json!({ "iss": "https://other.example" })),
        token(json!({ "exp": null })),
        token(json!({ "exp": now - 61 })),
        token(json!({ "nbf": now + 90 })),
        signed(Signature::OtherKey),
        signed(Signature::Flipped),
        signed(Signature::Empty),
        site.provider.access_token(json!({}), |token| drop(token.header.insert("alg".into(), json!("none")))),
        site.provider.access_token(json!({}), |token| drop(token.header.insert("typ".into(), json!("dpop+jwt")))),
        "x".repeat(9000),
        format!(" {}", token(json!({}))),
        format!("{} {}", token(json!({})), token(json!({}))),
    ];
    for target in ["/true", "/optional"] {
        for token in &tokens {
            refused(&with_bearer(&site, target, token).await, 401, "invalid_token", INVALID);
        }
        let navigation = Request::navigation(target).header("Authorization", "Bearer garbage");
        let page = ask(&site, navigation).await;
        error_page(&page, 401);
        assert!(!page.headers.contains("location") && !page.text().contains("/auth/login"), "{}", page.text());
        let tab = Request::new("GET", target).header("Authorization", "Bearer\tgarbage");
        refused(&ask(&site, tab).await, 401, "invalid_token", INVALID);
    }
    let query = ask(&site, Request::new("GET", &format!("/true?access_token={}", token(json!({}))))).await;
    refused(&query, 401, "unauthorized", "Bearer");
    assert_eq!(site.upstream.received().len(), 0);
    let huge = format!("Bearer {}", "x".repeat(1 << 20));
    let raw = format!("GET /true HTTP/1.1\r\nHost: gw.test\r\nAuthorization: {huge}\r\n\r\n");
    assert!(site.raw(&raw).await.is_none_or(|reply| reply.status == 431));
}

#[tokio::test]
async fn without_a_credential_a_route_without_sessions_says_so_and_offers_no_login() {
    let site = plan()
        .await
        .route("/true", "auth = true\naccept = [\"jwt\", \"ci\"]")
        .route("/optional", "auth = \"optional\"\naccept = [\"jwt\"]")
        .route("/both", "auth = true\naccept = [\"session\", \"jwt\"]")
        .start()
        .await;
    refused(&ask(&site, Request::fetch("GET", "/true")).await, 401, "unauthorized", "Bearer");
    let page = ask(&site, Request::navigation("/true")).await;
    error_page(&page, 401);
    assert!(!page.headers.contains("location") && !page.text().contains("/auth/login"), "{}", page.text());
    // A session is no credential there.
    refused(&site.signed_in().await.fetch("GET", "/true").await, 401, "unauthorized", "Bearer");
    assert_eq!(site.upstream.received().len(), 0);

    site.upstream.answer(|_| Answer::unauthorized());
    relayed(&ask(&site, Request::navigation("/optional")).await, 401);
    login_redirect(&ask(&site, Request::navigation("/both")).await, 302, "unauthorized", "/both");
    login_status(&ask(&site, Request::fetch("GET", "/both")).await, "unauthorized", "/page");
}

#[tokio::test]
async fn an_upstream_s_401_is_the_client_s_own_business() {
    let site = plan().await.route("/*", "auth = true\naccept = [\"session\", \"jwt\", \"ci\"]").start().await;
    site.upstream.answer(|_| Answer::unauthorized());
    let token = site.provider.access_token(json!({}), |_| {});
    for reply in [with_bearer(&site, "/x", &token).await, with_key(&site, "/x", KEY).await] {
        relayed(&reply, 401);
        assert_eq!(reply.text(), crate::harness::upstream::REFUSAL);
    }
    let navigation = Request::navigation("/x").header("Authorization", &format!("Bearer {token}"));
    relayed(&ask(&site, navigation).await, 401);
    assert_eq!((site.upstream.received().len(), site.provider.refreshes()), (3, 0));
}

#[tokio::test]
async fn keys_that_are_rotated_are_fetched_again() {
    let site = plan().await.route("/*", "auth = true\naccept = [\"jwt\"]").start().await;
    let old = site.provider.access_token(json!({}), |_| {});
    relayed(&with_bearer(&site, "/", &old).await, 200);
    site.provider.rotate_key(Algorithm::Rs256);
    let new = site.provider.access_token(json!({}), |_| {});
    relayed(&with_bearer(&site, "/", &new).await, 200);
    assert_eq!(site.provider.count(Endpoint::Jwks), 2);
    // A verdict is looked at again after five minutes, and then the key is gone.
    relayed(&with_bearer(&site, "/", &old).await, 200);
    site.clock.advance(Duration::from_secs(301));
    refused(&with_bearer(&site, "/", &old).await, 401, "invalid_token", INVALID);
    relayed(&with_bearer(&site, "/", &new).await, 200);
    // And no longer than the token says, with a minute for clocks that disagree.
    site.clock.advance(Duration::from_secs(360));
    refused(&with_bearer(&site, "/", &new).await, 401, "invalid_token", INVALID);
}

#[tokio::test]
async fn an_issuer_that_is_down_is_503_and_those_who_are_known_pass() {
    let site = plan().await.route("/*", "auth = true\naccept = [\"jwt\"]").start().await;
    let token = || site.provider.access_token(json!({}), |_| {});
    site.provider.go_down();
    let reply = with_bearer(&site, "/", &token()).await;
    error_json(&reply, 503);
    assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
    // What is no token of theirs at all needs nobody's word.
    refused(&with_bearer(&site, "/", "garbage").await, 401, "invalid_token", INVALID);
    site.provider.come_up();
    site.clock.advance(Duration::from_secs(61));
    relayed(&with_bearer(&site, "/", &token()).await, 200);
    site.provider.go_down();
    relayed(&with_bearer(&site, "/", &token()).await, 200);
}

// ------------------------------------------------------------------------------- introspection

// TK-14
#[tokio::test]
async fn tk_14_an_opaque_token_is_worth_what_its_issuer_says() {
    let identity = "auth = true\naccept = [\"opaque\"]\nidentity = { \"X-User\" = \"sub\" }";
    let site = plan().await.route("/*", identity).start().await;
    let now = site.clock.now().unix;
    for (token, answer, good) in [
        ("good", json!({ "active": true, "sub": "robot", "exp": now + 300 }), true),
        ("no-exp", json!({ "active": true, "sub": "robot" }), true),
        ("inactive", json!({ "active": false, "sub": "robot" }), false),
        ("silent", json!({ "sub": "robot" }), false),
        ("expired", json!({ "active": true, "sub": "robot", "exp": now - 61 }), false),
        ("early", json!({ "active": true, "sub": "robot", "nbf": now + 90 }), false),
    ] {
        site.provider.says_of(token, answer);
        let reply = with_bearer(&site, "/", token).await;
        if good {
            relayed(&reply, 200);
            let received = site.upstream.received().pop().unwrap();
            assert_eq!((received.header("x-user"), received.bearer()), ("robot", Some(token)));
        } else {
            refused(&reply, 401, "invalid_token", INVALID);
        }
    }
    let call = site.provider.calls(Endpoint::Introspection).swap_remove(0);
    assert_eq!((call.method.as_str(), call.parameter("token")), ("POST", Some("good")));
    assert_eq!(call.parameter("token_type_hint"), Some("access_token"));
    assert!(call.headers.value("authorization").unwrap().starts_with("Basic "));
    assert!(call.query.is_empty() && call.parameter("client_secret").is_none());
}

#[tokio::test]
async fn answers_are_kept_for_their_time_and_no_longer_than_the_token() {
    let site = plan().await.route("/*", "auth = true\naccept = [\"opaque\"]").start().await;
    let calls = || site.provider.count(Endpoint::Introspection);
    let now = site.clock.now().unix;
    site.provider.says_of("long", json!({ "active": true, "exp": now + 3600 }));
    for _ in 0..3 {
        relayed(&with_bearer(&site, "/", "long").await, 200);
    }
    assert_eq!(calls(), 1);
    // Withdrawn: noticed when its time is over.
    site.provider.says_of("long", json!({ "active": false }));
    site.clock.advance(Duration::from_secs(29));
    relayed(&with_bearer(&site, "/", "long").await, 200);
    site.clock.advance(Duration::from_secs(2));
    refused(&with_bearer(&site, "/", "long").await, 401, "invalid_token", INVALID);
    assert_eq!(calls(), 2);
    // A refusal is kept for five seconds.
    site.provider.says_of("long", json!({ "active": true }));
    refused(&with_bearer(&site, "/", "long").await, 401, "invalid_token", INVALID);
    assert_eq!(calls(), 2);
    site.clock.advance(Duration::from_secs(5));
    relayed(&with_bearer(&site, "/", "long").await, 200);
    assert_eq!(calls(), 3);

    let now = site.clock.now().unix;
    site.provider.says_of("short", json!({ "active": true, "exp": now - 50 }));
    relayed(&with_bearer(&site, "/", "short").await, 200);
    site.clock.advance(Duration::from_secs(11));
    refused(&with_bearer(&site, "/", "short").await, 401, "invalid_token", INVALID);
}

// PA-20, GHSA-qvp4-rpmr-xwrr = CVE-2021-32701
#[tokio::test]
async fn pa_20_what_is_kept_is_who_it_is_and_each_route_asks_for_more() {
    let site = plan()
        .await
        .route("/read", "auth = true\naccept = [\"opaque\", \"jwt\"]\nrequire = { scope = [\"read\"] }")
        .route("/write", "auth = true\naccept = [\"opaque\", \"jwt\"]\nrequire = { scope = [\"write\", \"admin\"] }")
        .route(
            "/admins",
            "auth = true\naccept = [\"opaque\", \"jwt\", \"ci\"]\nrequire = { claims = { role = \"admin\" } }",
        )
        .route("/deploy", "auth = true\naccept = [\"ci\"]\nrequire = { scope = [\"deploy\"] }")
        .start()
        .await;
    let claims = json!({ "active": true, "scope": "openid read", "role": "user" });
    site.provider.says_of("opaque", claims);
    let jwt = site.provider.access_token(json!({ "scp": ["openid", "read"], "role": ["user"] }), |_| {});
    for token in ["opaque", jwt.as_str()] {
        for _ in 0..2 {
            relayed(&with_bearer(&site, "/read", token).await, 200);
            let scope = r#"Bearer error="insufficient_scope", scope="write admin""#;
            refused(&with_bearer(&site, "/write", token).await, 403, "insufficient_scope", scope);
            refused(&with_bearer(&site, "/admins", token).await, 403, "not_allowed", "");
        }
    }
    assert_eq!(site.provider.count(Endpoint::Introspection), 1);
    relayed(&with_key(&site, "/deploy", KEY).await, 200);
    refused(&with_key(&site, "/deploy", NEXT_KEY).await, 403, "not_allowed", "");
    refused(&with_key(&site, "/admins", KEY).await, 403, "not_allowed", "");
}

#[tokio::test]
async fn many_who_ask_about_one_token_share_one_call() {
    let site = plan().await.server("workers = 2").route("/*", "auth = true\naccept = [\"opaque\"]").start().await;
    site.provider.says_of("shared", json!({ "active": true }));
    let gate = Gate::closed();
    site.provider.next(Endpoint::Introspection, Fault::Held(gate.clone()));
    let browser = site.browser();
    let asking = tokio::spawn(together(40, move |_| {
        let browser = browser.clone();
        async move { browser.send(Request::new("GET", "/").header("Authorization", "Bearer shared")).await.status }
    }));
    eventually(|| async { site.provider.count(Endpoint::Introspection) == 1 }).await;
    gate.open();
    assert_eq!(asking.await.unwrap(), [200; 40]);
    assert_eq!(site.provider.count(Endpoint::Introspection), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_take_the_answer_along() {
    let site = plan().await.route("/*", "auth = true\naccept = [\"opaque\"]").start().await;
    site.provider.says_of("shared", json!({ "active": true }));
    let gate = Gate::closed();
    site.provider.next(Endpoint::Introspection, Fault::Held(gate.clone()));
    let request = Request::new("GET", "/").header("Authorization", "Bearer shared");
    // Whoever leaves before the request was read has asked nothing.
    let client = site.browser().dispatch(request.clone()).await;
    eventually(|| async { site.provider.count(Endpoint::Introspection) == 1 }).await;
    drop(client);
    gate.open();
    relayed(&ask(&site, request).await, 200);
    assert_eq!(site.provider.count(Endpoint::Introspection), 1);
}

// TK-14: AS down
#[tokio::test]
async fn tk_14_an_introspection_that_has_no_answer_is_503_and_never_401() {
    let site =
        plan().await.refresh("timeout = \"300ms\"").route("/*", "auth = true\naccept = [\"opaque\"]").start().await;
    site.provider.says_of("good", json!({ "active": true }));
    let faults = [
        Fault::Json(500, json!({})),
        Fault::Json(401, json!({ "error": "invalid_client" })),
        Fault::Json(400, json!({ "active": true })),
        Fault::Json(200, json!(["active"])),
        Fault::Html,
        Fault::Redirect(format!("{}/introspect", site.provider.issuer())),
        Fault::Reset,
        Fault::Hang,
        Fault::RetryAfter(503, 7),
    ];
    for fault in faults {
        let said = format!("{fault:?}");
        site.provider.always(Endpoint::Introspection, fault);
        let reply = with_bearer(&site, "/", "good").await;
        assert_eq!(error_json(&reply, 503)["code"], "provider_unavailable", "{said}");
        assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1, "{said}");
        assert!(!reply.headers.contains("www-authenticate"), "{said}");
        site.provider.recover(Endpoint::Introspection);
        site.clock.advance(Duration::from_secs(20));
        relayed(&with_bearer(&site, "/", "good").await, 200);
        site.clock.advance(Duration::from_secs(31));
    }
    assert_eq!(site.upstream.received().len(), 9);
}

// ------------------------------------------------------------------------------------ API keys

// CR-05
#[tokio::test]
async fn cr_05_a_key_lets_its_owner_in_and_goes_no_further() {
    let identity =
        "auth = true\naccept = [\"ci\", \"query\"]\nidentity = { \"X-User\" = \"sub\", \"X-Role\" = \"role\" }";
    let site = plan().await.route("/*", identity).start().await;
    for (key, user, role) in [(KEY, "ci:old", "ci"), (NEXT_KEY, "ci:next", "")] {
        let request = Request::new("POST", "/x").header("X-API-Key", key).header("X_API_KEY", "another spelling");
        let reply = ask(&site, request.header("Authorization", "Basic b3duOm93bg==")).await;
        relayed(&reply, 200);
        assert_eq!(reply.header("cache-control"), "private");
        let received = site.upstream.received().pop().unwrap();
        assert_eq!((received.header("x-user"), received.header("x-role")), (user, role));
        assert_eq!((received.header("x-api-key"), received.header("x_api_key")), ("", ""));
        assert_eq!(received.header("authorization"), "Basic b3duOm93bg==", "it is between the client and the upstream");
    }
    relayed(&ask(&site, Request::new("POST", &format!("/x?b=%7e&api%5Fkey={KEY}&a=1&a=2"))).await, 200);
    let received = site.upstream.received().pop().unwrap();
    assert_eq!((received.header("x-user"), received.target.as_str()), ("query:a", "/x?b=%7e&a=1&a=2"));
    // Also where another one has decided.
    relayed(&ask(&site, Request::new("POST", "/x?api_key=wrong").header("X-API-Key", KEY)).await, 200);
    assert_eq!(site.upstream.received().pop().unwrap().target, "/x");
}

#[tokio::test]
async fn a_wrong_key_is_401_and_so_are_two() {
    let site = plan()
        .await
        .route("/true", "auth = true\naccept = [\"ci\", \"query\"]")
        .route("/optional", "auth = \"optional\"\naccept = [\"session\", \"ci\", \"query\"]")
        .start()
        .await;
    for target in ["/true", "/optional"] {
        for request in [
            Request::new("GET", target).header("X-API-Key", "wrong"),
            Request::new("GET", target).header("X-API-Key", ""),
            Request::new("GET", target).header("X-API-Key", &sha256(KEY)),
            Request::new("GET", target).header("X-API-Key", KEY).header("X-API-Key", KEY),
            Request::new("GET", &format!("{target}?api_key=wrong")),
            Request::new("GET", &format!("{target}?api_key")),
            Request::new("GET", &format!("{target}?api_key={KEY}&api_key={KEY}")),
        ] {
            refused(&ask(&site, request).await, 401, "invalid_api_key", INVALID);
        }
    }
    assert_eq!(site.upstream.received().len(), 0);
    relayed(&ask(&site, Request::new("GET", "/optional")).await, 200);
}

// CR-05
#[tokio::test]
async fn cr_05_keys_expire_and_guessing_is_slow() {
    let site = plan().await.route("/*", "auth = true\naccept = [\"ci\"]").start().await;
    relayed(&with_key(&site, "/", NEXT_KEY).await, 200);
    for _ in 0..60 {
        assert_eq!(with_key(&site, "/", "guess").await.status, 401);
    }
    let reply = with_key(&site, "/", KEY).await;
    assert_eq!(error_json(&reply, 429)["code"], "too_many_attempts");
    assert!((1..=301).contains(&reply.header("retry-after").parse::<u64>().unwrap()));
    site.clock.advance(Duration::from_secs(301));
    relayed(&with_key(&site, "/", KEY).await, 200);
    site.clock.advance(Duration::from_secs(80 * 365 * 86_400));
    refused(&with_key(&site, "/", NEXT_KEY).await, 401, "invalid_api_key", INVALID);
    relayed(&with_key(&site, "/", KEY).await, 200);
}

// ---------------------------------------------------------------------------------------- order

#[tokio::test]
async fn the_first_credential_of_the_list_that_is_there_decides() {
    let site = plan()
        .await
        .route(
            "/session-first",
            "auth = true\naccept = [\"session\", \"jwt\", \"ci\"]\nidentity = { \"X-User\" = \"sub\" }",
        )
        .route(
            "/token-first",
            "auth = true\naccept = [\"jwt\", \"ci\", \"session\"]\nidentity = { \"X-User\" = \"sub\" }",
        )
        .route(
            "/key-first",
            "auth = \"optional\"\naccept = [\"ci\", \"jwt\", \"session\"]\nidentity = { \"X-User\" = \"sub\" }",
        )
        .start()
        .await;
    let browser = site.signed_in().await;
    let good = format!("Bearer {}", site.provider.access_token(json!({}), |_| {}));
    let (good, bad) = (good.as_str(), "Bearer bad");
    for (target, authorization, key, decided) in [
        ("/session-first", good, KEY, Some("ada")),
        ("/session-first", bad, "bad", Some("ada")),
        ("/token-first", good, "bad", Some("robot")),
        ("/token-first", bad, KEY, None),
        ("/key-first", bad, KEY, Some("ci:old")),
        ("/key-first", good, "bad", None),
    ] {
        let request = Request::fetch("POST", target).header("Authorization", authorization).header("X-API-Key", key);
        let reply = browser.send(request).await;
        let Some(user) = decided else {
            assert_eq!(error_json(&reply, 401)["loginUrl"], json!(null), "{target} {authorization} {key}");
            continue;
        };
        relayed(&reply, 200);
        let received = site.upstream.received().pop().unwrap();
        assert_eq!((received.header("x-user"), received.header("x-api-key")), (user, ""), "{target}");
        match user {
            // The session's own token, and no other beside it.
            "ada" => assert!(received.bearer().is_some_and(|token| site.provider.user_of(token).is_some())),
            "robot" => assert_eq!(received.header("authorization"), good),
            // A token that nobody has looked at goes no further.
            _ => assert_eq!(received.header("authorization"), ""),
        }
    }
    assert!(browser.session_cookie().is_some());
    // A session that has ended decides as well.
    let stale = Request::fetch("GET", "/session-first").header("Cookie", &browser.cookie_field());
    browser.fetch("POST", "/auth/logout?local=1").await;
    let reply = ask(&site, stale.header("Authorization", good)).await;
    assert_eq!(error_json(&reply, 401)["loginUrl"].as_str().map(|url| url.starts_with("/auth/login")), Some(true));
}

#[tokio::test]
async fn the_entry_that_the_token_names_judges_it_and_opaque_ones_are_asked_about() {
    let site = plan().await.route("/*", "auth = true\naccept = [\"opaque\", \"jwt\"]").start().await;
    let jwt = site.provider.access_token(json!({}), |_| {});
    relayed(&with_bearer(&site, "/", &jwt).await, 200);
    assert_eq!(site.provider.count(Endpoint::Introspection), 0);
    site.provider.says_of("opaque", json!({ "active": true }));
    relayed(&with_bearer(&site, "/", "opaque").await, 200);
    let stranger = site.provider.access_token(json!({ "iss": "https://other.example" }), |_| {});
    refused(&with_bearer(&site, "/", &stranger).await, 401, "invalid_token", INVALID);
    assert_eq!(site.provider.count(Endpoint::Introspection), 2);
}

#[tokio::test]
async fn two_entries_of_one_issuer_divide_its_tokens_by_audience() {
    let site = plan().await.route("/*", "auth = true\naccept = [\"jwt\", \"reports\"]").start().await;
    for (audience, status) in [("api", 200), ("reports", 200), ("other", 401)] {
        let token = site.provider.access_token(json!({ "aud": audience }), |_| {});
        assert_eq!(with_bearer(&site, "/", &token).await.status, status, "{audience}");
    }
}

#[tokio::test]
async fn tk_14_an_opaque_token_that_is_for_nobody_in_particular_is_not_for_us() {
    let site = plan().await.route("/*", "auth = true\naccept = [\"strict\"]").start().await;
    site.provider.says_of("anyone", json!({ "active": true }));
    refused(&with_bearer(&site, "/", "anyone").await, 401, "invalid_token", INVALID);
    site.provider.says_of("ours", json!({ "active": true, "aud": ["api"] }));
    relayed(&with_bearer(&site, "/", "ours").await, 200);
    assert_eq!(site.upstream.hits(), 1);
}

#[tokio::test]
async fn tokens_of_the_gateway_s_own_are_sessions_and_never_a_client_s() {
    let site = plan()
        .await
        .route("/both", "auth = true\naccept = [\"jwt\", \"session\"]\nidentity = { \"X-User\" = \"sub\" }")
        .route("/clients", "auth = true\naccept = [\"jwt\", \"opaque\"]")
        .start()
        .await;
    let browser = site.signed_in().await;
    let token = browser.fetch("POST", "/auth/refresh").await.json()["token"].as_str().unwrap().to_owned();
    relayed(&with_bearer(&site, "/both", &token).await, 200);
    let received = site.upstream.received().pop().unwrap();
    assert_eq!(received.header("x-user"), "ada");
    assert_ne!(received.bearer(), Some(token.as_str()));
    let like_ours = |token: &mut IdToken| drop(token.header.insert("typ".into(), json!("latchgate+jwt")));
    let like_ours = site.provider.access_token(json!({}), like_ours);
    for token in [&token, &like_ours] {
        refused(&with_bearer(&site, "/clients", token).await, 401, "unauthorized", "Bearer");
    }
    assert_eq!(site.provider.count(Endpoint::Introspection), 0, "nobody else gets to see it");
}

// -------------------------------------------------------------------- what the upstream gets

#[tokio::test]
async fn a_credential_of_the_gateway_s_own_replaces_the_client_s() {
    let site = plan()
        .await
        .route("/basic", "accept = [\"jwt\"]\nattach = { basic = { username = \"u\", password = \"p\" } }")
        .route("/key", "accept = [\"jwt\"]\nattach = { api_key = { header = \"X-Up\", value = \"up\" } }")
        .route("/same", "accept = [\"ci\"]\nattach = { api_key = { header = \"X-API-Key\", value = \"up\" } }")
        .route("/query", "accept = [\"query\"]\nattach = { api_key = { query = \"api_key\", value = \"up\" } }")
        .route("/never", "accept = [\"jwt\"]\nattach = \"never\"")
        .route("/bearer", "accept = [\"session\", \"jwt\"]\nattach = \"bearer\"")
        .route("/id", "accept = [\"session\", \"jwt\"]\nattach = \"id_token\"")
        .start()
        .await;
    let token = site.provider.access_token(json!({}), |_| {});
    let own = format!("Bearer {token}");
    for (target, authorization, key) in [
        ("/basic", "Basic dTpw", ""),
        ("/key", "", "up"),
        ("/never", own.as_str(), ""),
        ("/bearer", &own, ""),
        ("/id", &own, ""),
    ] {
        relayed(&with_bearer(&site, target, &token).await, 200);
        let received = site.upstream.received().pop().unwrap();
        assert_eq!((received.header("authorization"), received.header("x-up")), (authorization, key), "{target}");
    }
    relayed(&with_key(&site, "/same", KEY).await, 200);
    assert_eq!(site.upstream.received().pop().unwrap().header("x-api-key"), "up");
    relayed(&ask(&site, Request::new("GET", &format!("/query?a=1&api_key={KEY}"))).await, 200);
    assert_eq!(site.upstream.received().pop().unwrap().target, "/query?a=1&api%5Fkey=up");
}

#[tokio::test]
async fn other_routes_do_not_look_and_preflights_meet_nobody() {
    let site = plan()
        .await
        .route("/plain", "auth = \"optional\"")
        .route("/public", "auth = \"public\"\naccept = [\"session\", \"jwt\", \"ci\"]")
        .route("/cors", "accept = [\"jwt\"]\ncors = { allow_origins = [\"https://app.test\"], allow_headers = [\"authorization\"] }")
        .route("/closed", "accept = [\"jwt\", \"ci\"]")
        .start()
        .await;
    let request =
        |target: &str| Request::new("GET", target).header("Authorization", "Bearer x").header("X-API-Key", "x");
    for (target, key) in [("/plain", "x"), ("/public", "")] {
        relayed(&ask(&site, request(target)).await, 200);
        let received = site.upstream.received().pop().unwrap();
        assert_eq!((received.header("authorization"), received.header("x-api-key")), ("Bearer x", key), "{target}");
    }
    let preflight = |target: &str| {
        Request::new("OPTIONS", target)
            .header("Origin", "https://app.test")
            .header("Access-Control-Request-Method", "GET")
            .header("Access-Control-Request-Headers", "authorization")
    };
    let reply = ask(&site, preflight("/cors")).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (204, "https://app.test"));
    let reply = ask(&site, Request::new("GET", "/cors").header("Origin", "https://app.test")).await;
    refused(&reply, 401, "unauthorized", "Bearer");
    assert_eq!(reply.header("access-control-allow-origin"), "https://app.test");
    // What only looks like a preflight gets no credential past us.
    let smuggled = preflight("/closed").header("Authorization", "Bearer forged").header("X-API-Key", "forged");
    relayed(&ask(&site, smuggled).await, 200);
    let received = site.upstream.received().pop().unwrap();
    assert_eq!((received.header("authorization"), received.header("x-api-key")), ("", ""));
}
