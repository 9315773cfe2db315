//! What front ends meet: credentials of the gateway's own, CORS, the XSRF pair, htmx, the script, and no script at all.

use crate::harness::expect::{error_json, login_redirect, login_status, relayed};
use crate::harness::provider::{CLIENT_ID, CLIENT_SECRET};
use crate::harness::site::parse;
use crate::harness::upstream::deserted_address;
use crate::harness::{Answer, Browser, Call, Endpoint, Fault, Plan, Reply, Request, Site, eventually, together};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;

// -------------------------------------------------------------------------- client credentials

const MACHINE: &str = "attach = { client_credentials = { provider = \"corp\", audience = \"https://api.test\", scope = [\"read\", \"write\"] } }";
const COOLDOWN: Duration = Duration::from_secs(6);

#[tokio::test]
async fn the_gateways_own_token_goes_out_whoever_asks() {
    let site = Site::plan()
        .route("/public/*", &format!("auth = \"public\"\n{MACHINE}"))
        .route("/anonymous/*", &format!("auth = false\n{MACHINE}"))
        .route("/optional/*", &format!("auth = \"optional\"\n{MACHINE}"))
        .route("/required/*", &format!("auth = true\nidentity = {{ \"X-User\" = \"sub\" }}\n{MACHINE}"))
        .start()
        .await;
    site.upstream.accept_live_tokens(&site.provider);
    let ada = site.signed_in().await;
    for (browser, path) in [
        (site.browser(), "/public/x"),
        (site.browser(), "/anonymous/x"),
        (site.browser(), "/optional/x"),
        (ada.clone(), "/anonymous/x"),
        (ada.clone(), "/required/x"),
    ] {
        let reply = browser.send(Request::fetch("GET", path).header("Authorization", "Bearer own")).await;
        relayed(&reply, 200);
        assert_eq!(reply.header("x-seen-user"), CLIENT_ID, "{path}");
    }
    assert_eq!(site.upstream.last().header("x-user"), "ada", "who asks is told beside it");
    let calls = machine_calls(&site);
    assert_eq!(calls.len(), 1, "all routes that say the same share one token");
    assert_eq!(calls[0].parameter("audience"), Some("https://api.test"));
    assert_eq!(calls[0].parameter("scope"), Some("read write"));
    assert_eq!(calls[0].parameter("client_id"), None, "HTTP Basic says who it is");

    site.upstream.forget();
    login_status(&site.browser().fetch("GET", "/required/x").await, "unauthorized", "/page");
    assert_eq!(site.upstream.hits(), 0, "the gateway's token lets nobody in");
}

#[tokio::test]
async fn many_who_need_the_first_token_make_one_call_for_each_audience() {
    let other = "attach = { client_credentials = { provider = \"corp\", audience = \"other\" } }";
    let site = machine_plan().route("/other/*", &format!("auth = false\n{other}")).start().await;
    site.provider.next(Endpoint::Token, Fault::Delay(Duration::from_millis(200)));
    let browser = site.browser();
    let replies = together(40, |number| {
        let browser = browser.clone();
        async move { browser.fetch("GET", if number % 2 == 0 { "/api/x" } else { "/other/x" }).await.status }
    })
    .await;
    assert!(replies.iter().all(|status| *status == 200), "{replies:?}");
    assert_eq!(machine_calls(&site).len(), 2);
    let tokens: HashSet<(String, String)> = site
        .upstream
        .received()
        .iter()
        .map(|received| (received.target.clone(), received.bearer().unwrap().to_owned()))
        .collect();
    assert_eq!(tokens.len(), 2, "each audience has its own: {tokens:?}");
}

#[tokio::test]
async fn an_ageing_token_is_renewed_behind_the_request_and_an_expired_one_before_it() {
    let site = machine_plan().start().await;
    let browser = site.browser();
    relayed(&browser.fetch("GET", "/api/x").await, 200);
    let first = site.upstream.last().bearer().unwrap().to_owned();

    site.clock.advance(Duration::from_secs(3580));
    relayed(&browser.fetch("GET", "/api/x").await, 200);
    assert_eq!(site.upstream.last().bearer(), Some(first.as_str()), "still valid");
    eventually(|| async { machine_calls(&site).len() == 2 }).await;
    eventually(|| async {
        browser.fetch("GET", "/api/x").await;
        site.upstream.last().bearer() != Some(first.as_str())
    })
    .await;

    site.clock.advance(Duration::from_secs(3700));
    let second = site.upstream.last().bearer().unwrap().to_owned();
    relayed(&browser.fetch("GET", "/api/x").await, 200);
    assert_ne!(site.upstream.last().bearer(), Some(second.as_str()));
    assert_eq!(machine_calls(&site).len(), 3);
}

#[tokio::test]
async fn a_token_of_unknown_life_serves_until_it_is_refused() {
    let site = machine_plan().start().await;
    site.provider.configure(|habits| habits.token_answer = Box::new(|answer| drop(answer.remove("expires_in"))));
    let browser = site.browser();
    relayed(&browser.fetch("GET", "/api/x").await, 200);
    site.clock.advance(Duration::from_secs(30 * 24 * 3600));
    relayed(&browser.fetch("GET", "/api/x").await, 200);
    assert_eq!(machine_calls(&site).len(), 1);
    site.upstream.next(Answer::unauthorized());
    relayed(&browser.fetch("GET", "/api/x").await, 200);
    assert_eq!(machine_calls(&site).len(), 2);
}

#[tokio::test]
async fn while_the_provider_is_down_a_valid_token_serves_and_then_it_is_503() {
    let site = machine_plan().start().await;
    let browser = site.browser();
    relayed(&browser.fetch("GET", "/api/x").await, 200);
    site.provider.always(Endpoint::Token, Fault::RetryAfter(503, 20));
    site.clock.advance(Duration::from_secs(3580));
    for _ in 0..5 {
        relayed(&browser.fetch("GET", "/api/x").await, 200);
    }
    eventually(|| async { machine_calls(&site).len() == 2 }).await;

    site.clock.advance(Duration::from_secs(21));
    for _ in 0..5 {
        let reply = browser.fetch("GET", "/api/x").await;
        assert_eq!(error_json(&reply, 503)["code"], "provider_unavailable");
        let seconds: u64 = reply.header("retry-after").parse().unwrap();
        assert!((1..=20).contains(&seconds), "{seconds}");
    }
    assert_eq!(machine_calls(&site).len(), 3, "nobody asks before the provider wants to be asked");

    site.provider.recover(Endpoint::Token);
    site.clock.advance(Duration::from_secs(21));
    relayed(&browser.fetch("GET", "/api/x").await, 200);
}

#[tokio::test]
async fn a_client_that_is_refused_is_502_and_does_not_hammer_the_provider() {
    let site = machine_plan().start().await;
    for (status, error) in [(401, "invalid_client"), (400, "invalid_scope"), (400, "unauthorized_client")] {
        let before = machine_calls(&site).len();
        site.provider.always(Endpoint::Token, Fault::Json(status, json!({ "error": error })));
        site.clock.advance(Duration::from_secs(61));
        for _ in 0..10 {
            let reply = site.browser().fetch("GET", "/api/x").await;
            assert_eq!(error_json(&reply, 502)["code"], "provider_error", "{error}");
        }
        assert_eq!(machine_calls(&site).len(), before + 1, "{error}");
    }
    assert_eq!(site.upstream.hits(), 0);
    site.provider.recover(Endpoint::Token);
    site.clock.advance(Duration::from_secs(61));
    relayed(&site.browser().fetch("GET", "/api/x").await, 200);
}

#[tokio::test]
async fn a_refused_machine_token_is_replaced_once_and_the_request_sent_again() {
    let (site, browser) = with_a_revoked_machine_token().await;
    site.upstream.forget();
    let reply = browser.send(Request::fetch("POST", "/api/x?a=1").body("text/plain", "the body")).await;
    relayed(&reply, 200);
    let received = site.upstream.received();
    assert_eq!((received.len(), machine_calls(&site).len()), (2, 2));
    assert_ne!(received[0].bearer(), received[1].bearer());
    assert_eq!((&received[0].body, &received[0].target), (&received[1].body, &received[1].target));
    assert_eq!(received[1].body, b"the body");
}

#[tokio::test]
async fn many_refusals_of_one_machine_token_make_one_call() {
    let (site, browser) = with_a_revoked_machine_token().await;
    let replies = together(50, |_| {
        let browser = browser.clone();
        async move { browser.fetch("GET", "/api/x").await.status }
    })
    .await;
    assert!(replies.iter().all(|status| *status == 200), "{replies:?}");
    assert_eq!(machine_calls(&site).len(), 2);
}

#[tokio::test]
async fn a_refusal_that_no_new_token_ends_is_relayed_and_nobody_is_sent_to_the_login() {
    for auth in ["\"public\"", "false", "\"optional\"", "true"] {
        let site = Site::plan().route("/api/*", &format!("auth = {auth}\n{MACHINE}")).start().await;
        site.upstream.answer(|_| Answer::unauthorized());
        let browser = site.signed_in().await;
        let navigation = browser.send(Request::navigation("/api/x")).await;
        relayed(&navigation, 401);
        assert_eq!((site.upstream.hits(), machine_calls(&site).len()), (1, 1), "a new token is as good as another one");

        site.clock.advance(COOLDOWN);
        relayed(&browser.fetch("GET", "/api/x").await, 401);
        assert_eq!((site.upstream.hits(), machine_calls(&site).len()), (3, 2));
        relayed(&browser.fetch("GET", "/api/x").await, 401);
        assert_eq!((site.upstream.hits(), machine_calls(&site).len()), (4, 2));
        assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200, "the session has nothing to do with it");
    }
}

#[tokio::test]
async fn a_machine_tokens_401_is_relayed_at_once_where_the_route_says_so() {
    let site = Site::plan().route("/api/*", &format!("auth = false\non_401 = \"relay\"\n{MACHINE}")).start().await;
    relayed(&site.browser().fetch("GET", "/api/x").await, 200);
    site.clock.advance(COOLDOWN);
    site.upstream.next(Answer::unauthorized());
    relayed(&site.browser().fetch("GET", "/api/x").await, 401);
    assert_eq!((site.upstream.hits(), machine_calls(&site).len()), (2, 1));
}

#[tokio::test]
async fn a_preflight_gets_no_machine_token_and_asks_for_none() {
    let site = machine_plan().start().await;
    relayed(&site.browser().send(preflight("/api/x", "https://evil.test")).await, 200);
    assert!(!site.upstream.last().headers.contains("authorization"));
    assert_eq!(machine_calls(&site).len(), 0);
}

#[tokio::test]
async fn the_mock_provider_gives_machine_tokens_too() {
    let lines =
        "auth = false\nattach = { client_credentials = { provider = \"demo\", audience = \"api\", scope = \"read\" } }";
    let site = Site::plan().more("[providers.demo]\nkind = \"mock\"").route("/api/*", lines).start().await;
    relayed(&site.browser().fetch("GET", "/api/x").await, 200);
    let received = site.upstream.last();
    let payload = received.bearer().unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("latchgate"), &json!("latchgate")));
    assert_eq!((&claims["aud"], &claims["scope"]), (&json!("api"), &json!("read")));
    assert_eq!(claims.get("sid"), None, "nobody signed in");
}

async fn with_a_revoked_machine_token() -> (Site, Browser) {
    let site = machine_plan().start().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.browser();
    relayed(&browser.fetch("GET", "/api/x").await, 200);
    site.clock.advance(COOLDOWN);
    site.provider.revoke_access_tokens();
    (site, browser)
}

fn machine_plan() -> Plan {
    Site::plan().route("/api/*", &format!("auth = false\n{MACHINE}"))
}

fn machine_calls(site: &Site) -> Vec<Call> {
    let calls = site.provider.calls(Endpoint::Token);
    calls.into_iter().filter(|call| call.parameter("grant_type") == Some("client_credentials")).collect()
}

// TA-03, TA-06, TA-07: what they are attached with is shown by nothing that shows a configuration
#[test]
fn credentials_of_the_gateways_own_are_never_shown() {
    let file = std::env::temp_dir().join(format!("latchgate-api-key-{}", std::process::id()));
    std::fs::write(&file, "canary-of-a-file\n").unwrap();
    let source = format!(
        r#"
        [providers.corp]
        kind = "oidc"
        issuer = "https://login.test"
        client_id = "app"
        client_secret = {{ env = "CLIENT_SECRET" }}
        [upstreams.app]
        url = "http://127.0.0.1:9"
        [[routes]]
        path = "/basic"
        attach = {{ basic = {{ username = "u", password = "canary-written-out" }} }}
        [[routes]]
        path = "/header"
        attach = {{ api_key = {{ header = "X-Key", value = {{ file = "{}" }} }} }}
        [[routes]]
        path = "/query"
        attach = {{ api_key = {{ query = "key", value = {{ env = "CLIENT_SECRET" }} }} }}
        [[routes]]
        path = "/machine"
        attach = {{ client_credentials = {{ provider = "corp" }} }}
        [session]
        secret = {{ env = "SESSION_SECRET" }}
        "#,
        file.display()
    );
    let config = parse(&source);
    std::fs::remove_file(&file).unwrap();
    let config = config.unwrap_or_else(|report| panic!("{report}"));
    let (routes, debug) = (config.routes_table(), format!("{config:?}"));
    for kind in ["basic", "api_key in x-key", "api_key in ?key", "client_credentials of corp"] {
        assert!(routes.contains(kind), "{kind}:\n{routes}");
    }
    let report = parse(&format!("{source}\nunknown = 1")).unwrap_err();
    for shown in [routes, debug, report] {
        for secret in ["canary", CLIENT_SECRET, &STANDARD.encode("u:canary-written-out")] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

// ---------------------------------------------------------------------------------------- CORS

const CORS: &str = "cors = { allow_origins = [\"https://app.test\"], allow_credentials = true, allow_methods = [\"GET\", \"POST\", \"PUT\"] }";

// TA-18, TA-20: pages of an allowed origin can read what became of their request, whoever refused it
#[tokio::test]
async fn ta_20_every_refusal_on_a_route_with_cors_can_be_read() {
    let gone = deserted_address().await;
    let site = Site::plan()
        .more(&format!("[upstreams.gone]\nurl = \"http://{gone}\""))
        .route("/x", &format!("auth = true\n{CORS}"))
        .route("/admin", &format!("auth = true\nrequire = {{ groups = [\"admin\"] }}\n{CORS}"))
        .route("/get", &format!("auth = \"public\"\nmethods = [\"GET\"]\n{CORS}"))
        .route("/in/*", &format!("auth = \"public\"\nmax_body = \"1KiB\"\n{CORS}"))
        .route("/gone", &format!("auth = \"public\"\nupstream = \"gone\"\n{CORS}"))
        .route("/machine", &format!("auth = \"public\"\n{CORS}\n{MACHINE}"))
        .start()
        .await;
    site.provider.always(Endpoint::Token, Fault::RetryAfter(503, 20));
    let anonymous = site.browser();
    site.provider.recover(Endpoint::Token);
    let ada = site.signed_in().await;
    site.provider.always(Endpoint::Token, Fault::RetryAfter(503, 20));
    let large = vec![b'x'; 2048];
    for (browser, request, status) in [
        (&ada, from_app("GET", "/x"), 200),
        (&ada, from_app("POST", "/x"), 200),
        (&anonymous, from_app("GET", "/x"), 401),
        (&ada, from_app("GET", "/admin"), 403),
        (&ada, from_app("POST", "/get"), 405),
        (&anonymous, from_app("POST", "/in/x").body("text/plain", large), 413),
        (&anonymous, from_app("GET", "/gone"), 502),
        (&anonymous, from_app("GET", "/machine"), 503),
        (&anonymous, preflight("/x", "https://app.test"), 204),
    ] {
        let target = request.target.clone();
        let reply = send_with_cookies(browser, request).await;
        assert_eq!(reply.status, status, "{target}: {}", reply.text());
        assert_eq!(reply.header("access-control-allow-origin"), "https://app.test", "{target} {status}");
        assert_eq!(reply.header("access-control-allow-credentials"), "true", "{target} {status}");
        assert!(reply.header("vary").contains("Origin"), "{target} {status}");
    }
    let refused = send_with_cookies(&anonymous, from_app("GET", "/x")).await;
    assert_eq!(refused.header("access-control-expose-headers"), "latchgate-login, latchgate-reason");
}

// TA-19: an origin that is not allowed reads nothing, refusals included; caches learn that it depends on the origin
#[tokio::test]
async fn ta_19_strangers_read_nothing() {
    let site = Site::plan().route("/x", &format!("auth = \"public\"\nmethods = [\"GET\"]\n{CORS}")).start().await;
    for origin in ["https://evil.test", "https://app.test.evil.test", "http://app.test", "null"] {
        for request in [from_app("GET", "/x"), from_app("POST", "/x"), preflight("/x", origin)] {
            let reply = site.browser().send(request.with("Origin", origin)).await;
            for name in
                ["access-control-allow-origin", "access-control-allow-credentials", "access-control-allow-methods"]
            {
                assert!(!reply.headers.contains(name), "{origin}: {name}");
            }
            assert!(reply.header("vary").contains("Origin"), "{origin} {}", reply.status);
        }
    }
}

fn from_app(method: &str, target: &str) -> Request {
    Request::fetch(method, target).with("Sec-Fetch-Site", "cross-site").header("Origin", "https://app.test")
}

fn preflight(target: &str, origin: &str) -> Request {
    Request::new("OPTIONS", target)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "GET")
        .header("Sec-Fetch-Mode", "cors")
        .header("Sec-Fetch-Site", "cross-site")
}

/// As a browser does whose cookies go to other sites.
async fn send_with_cookies(browser: &Browser, request: Request) -> Reply {
    let cookies = browser.cookie_field();
    if cookies.is_empty() || request.method == "OPTIONS" {
        return browser.send(request).await;
    }
    browser.send(request.with("Cookie", &cookies)).await
}

// ---------------------------------------------------------------------------------------- XSRF

// TA-23
#[tokio::test]
async fn ta_23_unsafe_requests_repeat_the_xsrf_cookie_in_their_header() {
    let site = Site::plan()
        .route("/*", "auth = true\nxsrf = true")
        .route("/free/*", "auth = true")
        .route("/named/*", "auth = \"public\"\nxsrf = { cookie = \"csrf\", header = \"X-CSRF\" }")
        .start()
        .await;
    let browser = site.signed_in().await;
    let refused = browser.fetch("POST", "/x").await;
    assert_eq!(error_json(&refused, 403)["code"], "xsrf_mismatch");
    assert_eq!(site.upstream.hits(), 0);

    let token = cookie(&browser, "XSRF-TOKEN").expect("even the refusal brought it");
    let line = refused.header("set-cookie").to_owned();
    assert_eq!(line, format!("XSRF-TOKEN={token}; SameSite=Lax; Path=/"), "scripts can read it");
    let post = |value: &str| Request::fetch("POST", "/x").header("X-XSRF-TOKEN", value);
    for forged in ["", "x", &token[1..], &format!("{token}x")] {
        error_json(&browser.send(post(forged)).await, 403);
    }
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let request = Request { method: method.to_owned(), ..post(&token) };
        relayed(&browser.send(request).await, 200);
    }
    let received = site.upstream.last();
    assert_eq!(received.header("x-xsrf-token"), token, "an application may look at the pair as well");
    assert_eq!(received.header("cookie"), format!("XSRF-TOKEN={token}"));
    for method in ["GET", "HEAD", "OPTIONS"] {
        relayed(&browser.fetch(method, "/x").await, 200);
    }
    relayed(&browser.fetch("POST", "/free/x").await, 200);
    assert_eq!(cookie(&browser, "XSRF-TOKEN").unwrap(), token, "it is set once");

    let stranger = site.browser();
    relayed(&stranger.fetch("GET", "/named/x").await, 200);
    let named = cookie(&stranger, "csrf").unwrap();
    error_json(&stranger.fetch("POST", "/named/x").await, 403);
    relayed(&stranger.send(Request::fetch("POST", "/named/x").header("x-csrf", &named)).await, 200);

    // Who is not signed in is sent to the login, and not told about cookies.
    assert_eq!(error_json(&site.browser().fetch("POST", "/x").await, 401)["code"], "unauthorized");
}

// TA-23: the pair says nothing where a request was made; that check stays
#[tokio::test]
async fn the_xsrf_pair_does_not_open_the_door_to_foreign_pages() {
    let site = Site::plan().route("/*", "auth = true\nxsrf = true").start().await;
    let browser = site.signed_in().await;
    relayed(&browser.fetch("GET", "/x").await, 200);
    let token = cookie(&browser, "XSRF-TOKEN").unwrap();
    let foreign = Request::fetch("POST", "/x")
        .with("Sec-Fetch-Site", "cross-site")
        .header("Origin", "https://evil.test")
        .header("X-XSRF-TOKEN", &token)
        .header("Cookie", &browser.cookie_field());
    assert_eq!(error_json(&browser.send(foreign).await, 403)["code"], "cross_origin");
}

// TA-23
#[tokio::test]
async fn preflights_and_requests_with_a_token_of_ours_need_no_xsrf_header() {
    let site = Site::plan().route("/*", &format!("auth = true\nxsrf = true\n{CORS}")).start().await;
    let reply = site.browser().send(preflight("/x", "https://app.test")).await;
    assert_eq!(reply.status, 204);
    assert!(!reply.headers.contains("set-cookie"));
    let token =
        site.signed_in().await.fetch("POST", "/auth/refresh").await.json()["token"].as_str().unwrap().to_owned();
    let own = Request::new("POST", "/x").header("Authorization", &format!("Bearer {token}"));
    relayed(&site.browser().send(own).await, 200);
}

// TA-23: an application that has the pair already keeps its own
#[tokio::test]
async fn an_xsrf_cookie_of_the_upstreams_own_is_the_one_that_counts() {
    let site = Site::plan().external_url("https://gw.test").route("/*", "auth = \"public\"\nxsrf = true").start().await;
    let browser = site.browser();
    site.upstream.next(Answer::status(200).header("Set-Cookie", "XSRF-TOKEN=its%3Down; Path=/"));
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!(cookie(&browser, "XSRF-TOKEN").as_deref(), Some("its%3Down"));
    relayed(&browser.send(Request::fetch("POST", "/x").header("X-XSRF-TOKEN", "its=own")).await, 200);

    let line = site.browser().fetch("GET", "/x").await.header("set-cookie").to_owned();
    assert!(line.ends_with("; SameSite=Lax; Secure; Path=/"), "{line}");
}

fn cookie(browser: &Browser, name: &str) -> Option<String> {
    browser.cookies().into_iter().find(|cookie| cookie.name == name).map(|cookie| cookie.value)
}

// ---------------------------------------------------------------------------------------- htmx

#[tokio::test]
async fn htmx_is_told_where_to_lead_the_page() {
    let site = Site::plan().route("/*", "auth = true").route("/free/*", "auth = false").start().await;
    let htmx = |target: &str| Request::fetch("GET", target).header("HX-Request", "true");
    let on = |page: &str| htmx("/part").header("HX-Current-URL", page);
    for (request, return_to) in [
        (on("http://gw.test/list?a=1#top"), "/list?a=1"),
        (on("https://evil.test/list"), "/page"),
        (on("%"), "/page"),
        (htmx("/part"), "/page"),
        (on("http://gw.test/list").with("Referer", "https://evil.test/"), "/list"),
    ] {
        let reply = site.browser().send(request).await;
        login_status(&reply, "unauthorized", return_to);
        assert_eq!(reply.header("hx-redirect"), reply.header("latchgate-login"));
    }

    // The upstream's own refusal likewise; where browsers send no metadata, what htmx accepts looks like a navigation.
    site.upstream.answer(|_| Answer::unauthorized());
    let bare = Request::new("GET", "/free/x").header("Accept", "text/html").header("HX-Request", "true");
    let reply = site.browser().send(bare.header("HX-Current-URL", "http://gw.test/free/list")).await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.header("hx-redirect"), "/auth/login?return_to=/free/list&status=unauthorized");
}

#[tokio::test]
async fn only_htmx_gets_its_header_and_an_upstreams_own_passes() {
    let site = Site::protected().await;
    let plain = Request::fetch("GET", "/x").header("HX-Current-URL", "http://gw.test/elsewhere");
    let reply = site.browser().send(plain).await;
    login_status(&reply, "unauthorized", "/page");
    assert!(!reply.headers.contains("hx-redirect"));

    let browser = site.signed_in().await;
    site.upstream.next(Answer::status(200).header("HX-Redirect", "/done"));
    let reply = browser.send(Request::fetch("POST", "/x").header("HX-Request", "true")).await;
    relayed(&reply, 200);
    assert_eq!(reply.header("hx-redirect"), "/done");
}

// ---------------------------------------------------------------------------------- latchgate.js

#[tokio::test]
async fn the_script_is_small_and_served_as_one() {
    let site = Site::protected().await;
    let reply = site.browser().fetch("GET", "/auth/latchgate.js").await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.len() < 2048, "{} bytes", reply.body.len());
    assert_eq!(reply.header("content-type"), "text/javascript; charset=utf-8");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(site.browser().fetch("HEAD", "/auth/latchgate.js").await.status, 200);
    assert_eq!(
        error_json(&site.browser().fetch("POST", "/auth/latchgate.js").await, 405)["code"],
        "method_not_allowed"
    );
    assert_eq!(site.upstream.hits(), 0);
}

// --------------------------------------------------------------------------------- without script

#[tokio::test]
async fn without_any_script_pages_and_forms_sign_in_by_redirects_alone() {
    let site = Site::protected().await;
    let browser = site.browser();
    let page = browser.navigate("/list?a=1").await;
    assert_eq!((page.url.as_str(), page.reply.status), ("http://gw.test/list?a=1", 200));
    let statuses: Vec<u16> = page.trail.iter().map(|(_, status)| *status).collect();
    assert_eq!(statuses, [302, 302, 302, 302, 200], "{:?}", page.trail);

    let form = Request { method: "POST".to_owned(), ..Request::navigation("/order") }
        .with("Sec-Fetch-Site", "same-origin")
        .body("application/x-www-form-urlencoded", "a=1");
    login_redirect(&site.browser().send(form).await, 303, "unauthorized", "/order");
}
