//! Signing in: the authorization request, the callback, what is believed of an ID token, where the
//! browser ends.

use crate::harness::expect::{error_json, error_page, login_status, relayed};
use crate::harness::keys::{Algorithm, IdToken, Signature, base64url};
use crate::harness::provider::{CLIENT_ID, CLIENT_SECRET};
use crate::harness::upstream::is_relayed;
use crate::harness::{Browser, Endpoint, Fault, Gate, Page, Provider, Request, Site, eventually, login_path, together};
use latchgate::clock::Clock;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;
use url::{Url, form_urlencoded};

// ------------------------------------------------------------------- the authorization request

// AZ-01, TX-01
#[tokio::test]
async fn the_authorization_request_has_all_it_needs_and_never_repeats_a_secret() {
    let site = Site::protected().await;
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let url = site.browser().authorization_request("/admin?x=1").await;
        assert_eq!(url.path(), "/authorize");
        assert_eq!(parameter(&url, "response_type"), ["code"]);
        assert_eq!(parameter(&url, "client_id"), [CLIENT_ID]);
        assert_eq!(parameter(&url, "redirect_uri"), ["http://gw.test/auth/corp"]);
        assert_eq!(parameter(&url, "code_challenge_method"), ["S256"]);
        let scope = parameter(&url, "scope").concat();
        assert_eq!(scope, "openid profile email offline_access");
        assert_eq!(parameter(&url, "code_challenge").concat().len(), 43);
        for name in ["state", "nonce", "code_challenge"] {
            let value = parameter(&url, name).concat();
            assert!(value.len() >= 22, "{name} has less than 128 bits: {value}");
            assert!(seen.insert(value), "{name} was used before");
        }
    }
}

// AZ-02
#[tokio::test]
async fn a_provider_that_does_not_mention_s256_never_gets_plain() {
    let clock = Clock::system();
    let provider = Provider::start(clock.clone()).await;
    provider.configure(|habits| {
        habits.metadata = |document| {
            document.insert("code_challenge_methods_supported".to_owned(), json!(["plain"]));
        };
    });
    let site = Site::plan().provider(&provider, &clock).route("/*", "auth = true").start().await;
    let page = site.browser().navigate("/x").await;
    for call in provider.calls(Endpoint::Authorize) {
        assert_eq!(call.parameter("code_challenge_method"), Some("S256"));
    }
    assert!(page.reply.status == 200 || provider.count(Endpoint::Authorize) == 0);
}

// AZ-12, TX-02
#[tokio::test]
async fn what_the_gateway_owns_cannot_be_set_from_outside() {
    let site = Site::protected().await;
    let evil = "/auth/login?return_to=%2F&client_id=evil&redirect_uri=https%3A%2F%2Fevil.test&scope=admin&request_uri=u&request=r&response_type=token&response_mode=fragment&state=evil&nonce=evil&code_challenge=evil&code_challenge_method=plain&login_hint=ada&ui_locales=de&prompt=login";
    let url = site.browser().authorization_request(evil).await;
    let text = url.as_str();
    assert!(!text.contains("evil") && !text.contains("admin"), "{text}");
    for name in [
        "client_id",
        "redirect_uri",
        "scope",
        "response_type",
        "state",
        "nonce",
        "code_challenge",
        "code_challenge_method",
    ] {
        assert_eq!(parameter(&url, name).len(), 1, "{name} once");
    }
    for name in ["request_uri", "request"] {
        assert!(parameter(&url, name).is_empty(), "{name}");
    }
    let passed = [("login_hint", "ada"), ("ui_locales", "de"), ("prompt", "login")];
    for (name, value) in passed {
        assert_eq!(parameter(&url, name), [value]);
    }
}

// TX-03
#[tokio::test]
async fn a_max_age_that_is_no_number_of_seconds_is_400() {
    let site = Site::protected().await;
    for max_age in ["-1", "1.5", "abc", ""] {
        let browser = site.browser();
        let reply = browser.send(Request::navigation(&format!("/auth/corp?max_age={max_age}"))).await;
        assert_eq!(reply.status, 400, "{max_age}");
        assert!(browser.cookies().is_empty(), "{max_age}");
    }
    let url = site.browser().authorization_request("/auth/corp?max_age=0").await;
    assert_eq!(parameter(&url, "max_age"), ["0"]);
}

// TX-04, IT-18
#[tokio::test]
async fn an_auth_time_older_than_max_age_is_refused() {
    for (age, accepted) in [(Some(10_000), false), (None, false), (Some(0), true)] {
        let site = Site::protected().await;
        site.provider.configure(|habits| {
            habits.id_token = Box::new(move |token| {
                if let Some(age) = age {
                    let iat = token.claims["iat"].as_u64().unwrap();
                    token.claims.insert("auth_time".to_owned(), json!(iat - age));
                }
            });
        });
        let browser = site.browser();
        browser.navigate("/auth/corp?max_age=300&return_to=%2Fx").await;
        assert_eq!(is_signed_in(&browser).await, accepted, "{age:?}");
    }
}

// AZ-07, TX-12
#[tokio::test]
async fn many_logins_at_once_leave_few_cookies_and_the_newest_can_finish() {
    let site = Site::protected().await;
    let browser = site.browser();
    let mut callbacks = Vec::new();
    for number in 0..20 {
        callbacks.push(browser.stop_before_callback(&login_path(&format!("/tab/{number}"), "ada")).await);
    }
    assert!(browser.login_cookies().len() <= 5, "{:?}", browser.login_cookies());
    assert!(browser.cookie_field().len() < 4096, "{}", browser.cookie_field().len());
    let newest = browser.arrive_from_provider(callbacks.last().unwrap()).await;
    assert_eq!((newest.reply.status, newest.url), (200, browser.url("/tab/19")));

    let scripts = together(100, |_| {
        let browser = site.browser();
        async move { (browser.fetch("GET", "/x").await.status, browser.cookies().len()) }
    });
    assert!(scripts.await.iter().all(|seen| *seen == (401, 0)));
}

// AZ-11, TX-01
#[tokio::test]
async fn every_redirect_of_a_login_is_302_and_the_way_leads_back() {
    let site = Site::protected().await;
    let browser = site.browser();
    let page = browser.navigate("/admin?x=1&y=%2F").await;
    assert_eq!((page.reply.status, page.url.as_str()), (200, "http://gw.test/admin?x=1&y=%2F"));
    let hops = &page.trail[..page.trail.len() - 1];
    assert!(hops.iter().all(|(_, status)| *status == 302), "{hops:?}");
    assert_eq!(site.upstream.hits(), 1);
    let user = site.provider.user_of(site.upstream.last().bearer().unwrap()); // TN-02
    assert_eq!(user.as_deref(), Some("ada"));
    assert_eq!((site.provider.code_exchanges(), site.provider.count(Endpoint::Authorize)), (1, 1));
    assert!(browser.login_cookies().is_empty(), "the login is over: {:?}", browser.login_cookies());
}

// ---------------------------------------------------------------------------------- return_to

// TX-07, TX-60
#[tokio::test]
async fn return_to_comes_back_exactly() {
    let site = Site::protected().await;
    for target in ["/a?b=c%26d", "/p?a=1&a=2", "/%C3%A9?q=%20+", "/?", "/a?url=https%3A%2F%2Fevil.test%2F"] {
        let browser = site.browser();
        let page = browser.navigate(&login_path(target, "ada")).await;
        assert_eq!(page.url, browser.url(target));
        assert_eq!(page.reply.status, 200, "{target}");
    }
}

// AZ-06, TX-13
#[tokio::test]
async fn five_tabs_end_where_each_began_in_any_order() {
    let site = Site::protected().await;
    let browser = site.browser();
    let mut callbacks = Vec::new();
    for tab in 0..5 {
        callbacks.push((tab, browser.stop_before_callback(&format!("/tab/{tab}?x")).await));
    }
    for order in [3, 0, 4, 1, 2] {
        let (tab, callback) = &callbacks[order];
        let page = browser.arrive_from_provider(callback).await;
        assert_eq!((page.reply.status, page.url), (200, browser.url(&format!("/tab/{tab}?x"))));
    }
}

// WB-01, WB-04, TX-05
#[tokio::test]
async fn no_known_trick_makes_a_login_end_on_another_site() {
    let site = Site::plan().route("/*", "auth = \"optional\"").start().await;
    let payloads: Vec<String> = open_redirects();
    assert!(payloads.len() > 500);
    let quarters = together(4, |quarter| {
        let browser = site.browser();
        let mine: Vec<String> = payloads.iter().skip(quarter).step_by(4).cloned().collect();
        async move {
            for payload in mine {
                let callback = browser.stop_before_callback(&login_path(&payload, "ada")).await;
                let reply =
                    browser.send(Request::navigation(target_of(&callback)).with("Sec-Fetch-Site", "cross-site")).await;
                assert!(matches!(reply.status, 302 | 303), "{payload:?}: {}", reply.status);
                let end = callback.join(reply.header("location")).unwrap();
                assert_eq!(end.origin(), callback.origin(), "{payload:?} ends at {end}");
            }
        }
    });
    quarters.await;
}

// WB-04
#[tokio::test]
async fn an_unreasonable_return_to_ends_at_after_login() {
    let site = Site::plan().login("after_login = \"/home\"").route("/*", "auth = \"optional\"").start().await;
    let odd = [
        "https://evil.test/".to_owned(),
        "//evil.test".to_owned(),
        "/\\evil.test".to_owned(),
        "\t//evil.test".to_owned(),
        "/a\r\nSet-Cookie: x=1".to_owned(),
        "javascript:alert(1)".to_owned(),
        "http://gw.test.evil.test/".to_owned(),
        "http://user@gw.test:81/".to_owned(),
        format!("/{}", "a".repeat(8_000)),
    ];
    for return_to in odd {
        let browser = site.browser();
        let page = browser.navigate(&login_path(&return_to, "ada")).await;
        assert_eq!(page.url, browser.url("/home"), "{return_to:.40}");
    }
    let browser = site.browser();
    assert_eq!(browser.navigate("/auth/login?login_hint=ada").await.url, browser.url("/home"));
}

#[tokio::test]
async fn an_allowed_return_origin_is_allowed_and_no_other() {
    let site = Site::plan()
        .login("after_login = \"/home\"\nallowed_return_origins = [\"https://app.corp.test\"]")
        .route("/*", "auth = \"optional\"")
        .start()
        .await;
    let end = |return_to: &'static str| {
        let browser = site.browser();
        async move { browser.navigate(&login_path(return_to, "ada")).await.url.to_string() }
    };
    assert_eq!(end("https://app.corp.test/a?b").await, "https://app.corp.test/a?b");
    for other in [
        "http://app.corp.test/",
        "https://app.corp.test:444/",
        "https://app.corp.test.evil.test/",
        "https://xapp.corp.test/",
        "https://sub.app.corp.test/",
        "https://app.corp.test@evil.test/",
    ] {
        assert_eq!(end(other).await, "http://gw.test/home", "{other}"); // WB-03
    }
}

// TN-33
#[tokio::test]
async fn return_to_page_false_always_ends_at_after_login() {
    let site =
        Site::plan().login("after_login = \"/home\"\nreturn_to_page = false").route("/*", "auth = true").start().await;
    let browser = site.browser();
    assert_eq!(browser.navigate("/deep?x").await.url, browser.url("/home"));
}

// WB-05, FW-04
#[tokio::test]
async fn every_url_comes_from_external_url_and_not_from_the_request() {
    let site = Site::protected().await;
    let spoofed = Request::navigation("/auth/corp?return_to=%2Fx")
        .header("Host", "evil.test")
        .header("X-Forwarded-Host", "evil.test")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Port", "444")
        .header("X-Forwarded-Prefix", "/evil")
        .header("Forwarded", "host=evil.test;proto=https");
    let reply = site.browser().send(spoofed).await;
    if reply.status == 302 {
        let url = Url::parse(reply.header("location")).unwrap();
        assert_eq!(parameter(&url, "redirect_uri"), ["http://gw.test/auth/corp"]);
    } else {
        assert!(matches!(reply.status, 400 | 404 | 421), "{}", reply.status);
    }
    assert!(!reply.text().contains("evil.test"));
}

// ------------------------------------------------------------------------------- the callback

// AZ-03, CB-03
#[tokio::test]
async fn a_callback_in_another_browser_is_refused() {
    let site = Site::protected().await;
    let attacker = site.browser();
    let callback = attacker.stop_before_callback("/x").await;
    for victim in [site.browser(), busy_browser(&site).await] {
        let page = victim.arrive_from_provider(&callback).await;
        error_page(&page.reply, 400);
        assert!(!is_signed_in(&victim).await);
    }
    assert_eq!(site.provider.code_exchanges(), 0);
}

// AZ-04, CB-03, TX-08
#[tokio::test]
async fn a_callback_works_once_and_its_replay_changes_nothing() {
    let site = Site::protected().await;
    let browser = site.browser();
    let callback = browser.stop_before_callback("/x").await;
    assert_eq!(browser.arrive_from_provider(&callback).await.reply.status, 200);
    let session = browser.session_cookie();
    let again = browser.send(Request::navigation(target_of(&callback)).with("Sec-Fetch-Site", "cross-site")).await;
    error_page(&again, 400);
    assert_eq!((site.provider.code_exchanges(), browser.session_cookie()), (1, session));
    assert!(is_signed_in(&browser).await);
}

// AZ-05
#[tokio::test]
async fn a_login_that_was_left_for_hours_restarts() {
    let site = Site::protected().await;
    let browser = site.browser();
    let callback = browser.stop_before_callback("/x").await;
    site.clock.advance(Duration::from_secs(2 * 3600));
    let page = browser.arrive_from_provider(&callback).await;
    error_page(&page.reply, 400);
    assert_eq!(site.provider.code_exchanges(), 0);
    assert_eq!(browser.navigate("/x").await.reply.status, 200, "a new one works");
}

// CB-02, CB-03, CB-07, CB-08, TX-08
#[tokio::test]
async fn a_malformed_callback_is_400_without_a_token_call_and_keeps_the_session() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let callback = browser.stop_before_callback(&login_path("/y", "ada")).await;
    let (code, state) = (parameter(&callback, "code").concat(), parameter(&callback, "state").concat());
    let exchanges = site.provider.code_exchanges();
    let malformed = [
        format!("code={code}"),
        format!("code={code}&state="),
        format!("code={code}&state=wrong"),
        format!("code={code}&state={state}x"),
        "error=access_denied".to_owned(),
        format!("code={code}&code={code}&state={state}&iss={}", site.provider.issuer()),
        format!("code={code}&state={state}&state={state}&iss={}", site.provider.issuer()),
        format!("access_token=x&id_token=y&code={code}"),
        format!("code={}&state=%00", "a".repeat(5000)),
        "code=%ff&state=%ff".to_owned(),
    ];
    for query in malformed {
        let reply = browser
            .send(Request::navigation(&format!("/auth/corp?{query}")).with("Sec-Fetch-Site", "cross-site"))
            .await;
        assert_eq!(reply.status, 400, "{query:.60}: {}", reply.text());
    }
    assert_eq!(site.provider.code_exchanges(), exchanges);
    assert!(is_signed_in(&browser).await);
}

// CB-04, CB-05
#[tokio::test]
async fn an_answer_of_another_issuer_is_refused_before_the_token_call() {
    let site = Site::protected().await;
    let issuer = site.provider.issuer();
    let wrong = [
        Some("http://evil.test".to_owned()),
        Some(format!("{issuer}/")),
        Some(issuer.replace("http:", "HTTP:")),
        Some(issuer.replace("127.0.0.1", "localhost")),
        Some(String::new()),
        None,
    ];
    for iss in wrong {
        let browser = site.browser();
        let mut callback = browser.stop_before_callback("/x").await;
        let others: Vec<(String, String)> =
            callback.query_pairs().into_owned().filter(|(name, _)| name != "iss").collect();
        callback.query_pairs_mut().clear().extend_pairs(others).extend_pairs(iss.iter().map(|iss| ("iss", iss)));
        let page = browser.arrive_from_provider(&callback).await;
        assert!(page.reply.status >= 400 && !is_relayed(&page.reply), "{iss:?}: {}", page.reply.status);
        assert!(!is_signed_in(&browser).await, "{iss:?}");
    }
    assert_eq!(site.provider.code_exchanges(), 0);
}

// CB-10, TX-09
#[tokio::test]
async fn what_the_provider_says_in_an_error_is_never_markup() {
    let descriptions = [
        "<script>alert(1)</script>".to_owned(),
        "\"><img src=x>".to_owned(),
        "a\r\nX-Evil: 1".to_owned(),
        "x".repeat(6000),
    ];
    for description in descriptions {
        let site = Site::protected().await;
        let refusal = ("access_denied".to_owned(), description.clone());
        site.provider.configure(|habits| habits.refuse = Some(refusal));
        let browser = site.browser();
        let page = browser.navigate(&login_path("/x", "ada")).await;
        assert!((400..500).contains(&page.reply.status), "{}", page.reply.status);
        assert!(!is_relayed(&page.reply));
        let text = page.reply.text();
        assert!(!text.contains("<script>alert") && !text.contains("<img src=x"), "{text}");
        assert!(!page.reply.headers.contains("x-evil") && text.len() < 20_000);
        assert!(browser.login_cookies().is_empty(), "the login is over");
        assert_eq!(site.provider.code_exchanges(), 0);
    }
}

// CB-11
#[tokio::test]
async fn the_callback_leaves_nothing_in_the_address_bar() {
    let site = Site::protected().await;
    let browser = site.browser();
    let callback = browser.stop_before_callback("/x?y=1").await;
    let reply = browser.send(Request::navigation(target_of(&callback)).with("Sec-Fetch-Site", "cross-site")).await;
    assert_eq!(reply.status, 302);
    assert_eq!(callback.join(reply.header("location")).unwrap(), browser.url("/x?y=1"));
    assert_eq!(reply.header("referrer-policy"), "no-referrer");
    assert!(reply.header("cache-control").contains("no-store"));
}

// CB-12
#[tokio::test]
async fn a_callback_that_is_not_navigated_to_does_not_spend_the_code() {
    let site = Site::protected().await;
    let browser = site.browser();
    let callback = browser.stop_before_callback("/x").await;
    let target = target_of(&callback);
    for method in ["HEAD", "PUT", "DELETE"] {
        let reply = browser.send(Request { method: method.to_owned(), ..Request::navigation(target) }).await;
        assert!(reply.status >= 400 || method == "HEAD", "{method}: {}", reply.status);
    }
    assert_eq!(site.provider.code_exchanges(), 0, "HEAD, PUT, DELETE");
    browser.send(Request::navigation(target).header("Sec-Purpose", "prefetch")).await;
    assert_eq!(site.provider.code_exchanges(), 0, "prefetch");
    assert_eq!(browser.arrive_from_provider(&callback).await.reply.status, 200);
}

// CB-13, PA-10
#[tokio::test]
async fn only_the_exact_callback_path_is_public() {
    let site = Site::protected().await;
    for path in [
        "/authx",
        "/auth/corp/../../admin",
        "/auth/corpx",
        "/auth/corp/x",
        "/auth/corp;x/admin",
        "/auth/%2e%2e/admin",
        "/auth/unknown?code=a&state=b",
    ] {
        let reply = site.browser().fetch("GET", path).await;
        assert!(matches!(reply.status, 400 | 401 | 404), "{path}: {}", reply.status);
    }
    assert_eq!((site.upstream.hits(), site.provider.code_exchanges()), (0, 0));
}

// CB-14
#[tokio::test]
async fn a_token_endpoint_that_fails_gives_a_page_and_no_session() {
    let failures = [
        Fault::Json(400, json!({ "error": "invalid_grant" })),
        Fault::Json(401, json!({ "error": "invalid_client" })),
        Fault::Json(500, json!({})),
        Fault::Html,
        Fault::Json(200, json!([])),
        Fault::Json(200, json!({ "access_token": "a", "token_type": "Bearer" })),
        Fault::Redirect("http://127.0.0.1:9/token".to_owned()),
        Fault::Reset,
        Fault::LoseAnswer,
    ];
    for failure in failures {
        let site = Site::protected().await;
        let browser = site.browser();
        site.provider.always(Endpoint::Token, failure.clone());
        let page = browser.navigate("/x").await;
        assert!(page.reply.status >= 400 && !is_relayed(&page.reply), "{failure:?}: {}", page.reply.status);
        assert!(page.reply.header("content-type").starts_with("text/html"), "{failure:?}");
        assert!(!is_signed_in(&browser).await, "{failure:?}");
        assert_eq!(site.upstream.hits(), 0);
        site.provider.recover(Endpoint::Token);
        site.clock.advance(Duration::from_secs(120));
        assert_eq!(browser.navigate("/y").await.reply.status, 200, "{failure:?}: a new login works");
    }
}

// CB-15, TX-21
#[tokio::test]
async fn a_second_login_replaces_the_first_user_wholly() {
    let site = Site::protected().await;
    let browser = site.signed_in_as("ada").await;
    let before = browser.session_cookie().unwrap();
    browser.sign_in_as("bob", "/api/user/me").await;
    assert_ne!(browser.session_cookie().unwrap(), before);
    let claims = browser.fetch("GET", "/auth/me").await.json();
    assert_eq!((claims["sub"].as_str(), claims["email"].as_str()), (Some("bob"), Some("bob@corp.test")));
    let old = Request::fetch("GET", "/auth/me").header("Cookie", &format!("latchgate={before}"));
    assert_eq!(browser.send(old).await.status, 401, "the first session is over");
}

// CB-16, WB-21
#[tokio::test]
async fn a_planted_cookie_never_becomes_a_session() {
    let site = Site::plan().external_url("https://gw.test").route("/*", "auth = true").start().await;
    let someone_else = site.signed_in_as("eve").await.session_cookie().unwrap();
    for planted in ["A".repeat(43), someone_else, "x".to_owned(), String::new()] {
        let browser = site.browser();
        browser.plant(&format!("__Host-latchgate={planted}; Secure; Path=/"));
        browser.plant(&format!("latchgate={planted}; Domain=gw.test; Secure"));
        browser.sign_in_as("ada", "/api/user/me").await;
        let session = browser.session_cookie().unwrap();
        assert_ne!(session, planted);
        assert_eq!(browser.fetch("GET", "/auth/me").await.json()["sub"], "ada");
    }
}

// CB-17
#[tokio::test]
async fn a_code_of_one_provider_never_goes_to_another() {
    let clock = Clock::system();
    let other = Provider::start(clock.clone()).await;
    let more = format!(
        "[providers.other]\nkind = \"oidc\"\nissuer = \"{}\"\nclient_id = \"{CLIENT_ID}\"\nclient_secret = {{ env = \"CLIENT_SECRET\" }}\n",
        other.issuer()
    );
    let site = Site::plan().more(&more).route("/*", "auth = true\nprovider = \"corp\"").start().await;
    let browser = site.browser();
    let callback = browser.stop_before_callback("/auth/corp?return_to=%2Fx").await;
    let mut mixed = callback.clone();
    mixed.set_path("/auth/other");
    error_page(&browser.arrive_from_provider(&mixed).await.reply, 400);
    assert_eq!((other.count(Endpoint::Token), site.provider.count(Endpoint::Token)), (0, 0));
    assert!(!is_signed_in(&browser).await);
}

// CB-18, RF-22
#[tokio::test]
async fn a_crowd_signs_in_at_once_and_everyone_is_themselves() {
    let site = Site::protected().await;
    site.upstream.accept_live_tokens(&site.provider);
    let crowd = together(40, |number| {
        let (browser, provider) = (site.browser(), site.provider.clone());
        async move {
            let user = format!("user-{number}");
            provider.add_user(&user, json!({ "email": format!("{user}@corp.test") }));
            browser.sign_in_as(&user, "/api/user/me").await;
            let reply = browser.fetch("GET", "/x").await;
            relayed(&reply, 200);
            assert_eq!(reply.header("x-seen-user"), user);
            assert_eq!(browser.fetch("GET", "/auth/me").await.json()["sub"], user.as_str());
        }
    });
    crowd.await;
}

// CB-19
#[tokio::test]
async fn a_client_that_hangs_up_during_the_code_exchange_leaves_nothing_broken() {
    let site = Site::protected().await;
    let browser = site.browser();
    let callback = browser.stop_before_callback("/x").await;
    let gate = Gate::closed();
    site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    let connection =
        browser.dispatch(Request::navigation(target_of(&callback)).with("Sec-Fetch-Site", "cross-site")).await;
    gate.arrivals(1).await;
    drop(connection);
    gate.open();
    assert_eq!(browser.navigate("/x").await.reply.status, 200);
    assert!(is_signed_in(&browser).await);
}

// ------------------------------------------------------------------------------- the ID token

/// What a test does to an ID token, with words for it.
type NamedChange = (&'static str, fn(&mut IdToken));

// IT-01, 02, 03, 04, 05, 06, 07, 08, 09, 14, 15, 16, 17, 19, 20, 21; TX-10
#[tokio::test]
async fn an_id_token_with_anything_wrong_gives_no_session() {
    let refused: Vec<NamedChange> = vec![
        ("iss of another", |token| set(token, "iss", json!("http://evil.test"))),
        ("iss missing", |token| drop(token.claims.remove("iss"))),
        ("iss with a slash", |token| {
            let slashed = format!("{}/", token.claims["iss"].as_str().unwrap());
            set(token, "iss", json!(slashed));
        }),
        ("iss in an array", |token| {
            let issuer = token.claims["iss"].clone();
            set(token, "iss", json!([issuer]));
        }),
        ("aud of another", |token| set(token, "aud", json!("other"))),
        ("aud missing", |token| drop(token.claims.remove("aud"))),
        ("aud empty", |token| set(token, "aud", json!([]))),
        ("aud prefix", |token| set(token, "aud", json!(&CLIENT_ID[..5]))),
        ("aud with a stranger", |token| set(token, "aud", json!([CLIENT_ID, "other"]))),
        ("azp of another", |token| set(token, "azp", json!("other"))),
        ("nonce wrong", |token| set(token, "nonce", json!("wrong"))),
        ("nonce missing", |token| drop(token.claims.remove("nonce"))),
        ("nonce in an array", |token| {
            let nonce = token.claims["nonce"].clone();
            set(token, "nonce", json!([nonce]));
        }),
        ("sub missing", |token| drop(token.claims.remove("sub"))),
        ("sub null", |token| set(token, "sub", Value::Null)),
        ("sub empty", |token| set(token, "sub", json!(""))),
        ("sub a number", |token| set(token, "sub", json!(7))),
        ("iat missing", |token| drop(token.claims.remove("iat"))),
        ("exp missing", |token| drop(token.claims.remove("exp"))),
        ("exp text", |token| set(token, "exp", json!("tomorrow"))),
        ("exp negative", |token| set(token, "exp", json!(-1))),
        ("exp endless", |token| set(token, "exp", json!(1e300))),
        ("expired", |token| shift(token, "exp", -3600 - 300)),
        ("issued tomorrow", |token| shift(token, "iat", 86_400)),
        ("not yet valid", |token| {
            let iat = token.claims["iat"].clone();
            set(token, "nbf", iat);
            shift(token, "nbf", 600);
        }),
        ("at_hash wrong", |token| set(token, "at_hash", json!("AAAAAAAAAAAAAAAAAAAAAA"))),
        ("signature flipped", |token| token.signature = Signature::Flipped),
        ("signature empty", |token| token.signature = Signature::Empty),
        ("key never published", |token| token.signature = Signature::OtherKey),
        ("alg none", |token| unsigned(token, "none")),
        ("alg None", |token| unsigned(token, "None")),
        ("alg NONE", |token| unsigned(token, "NONE")),
        ("alg empty", |token| unsigned(token, "")),
        ("alg missing", |token| drop(token.header.remove("alg"))),
        ("HS256 under the client secret", |token| {
            token.header.insert("alg".to_owned(), json!("HS256"));
            token.signature = Signature::Hmac(CLIENT_SECRET.as_bytes().to_vec());
        }),
        ("kid unknown", |token| drop(token.header.insert("kid".to_owned(), json!("../../etc/passwd")))),
        ("crit unknown", |token| drop(token.header.insert("crit".to_owned(), json!(["x"])))),
        ("crit empty", |token| drop(token.header.insert("crit".to_owned(), json!([])))),
        ("access token", |token| drop(token.header.insert("typ".to_owned(), json!("at+jwt")))),
        ("logout token", |token| drop(token.header.insert("typ".to_owned(), json!("logout+jwt")))),
        ("own key in the header", |token| {
            token.header.insert("jwk".to_owned(), json!({ "kty": "EC", "crv": "P-256" }));
            token.signature = Signature::OtherKey;
        }),
    ];
    let site = Site::protected().await;
    for (what, spoil) in refused {
        site.provider.configure(|habits| habits.id_token = Box::new(spoil));
        let (browser, page) = sign_in(&site).await;
        assert!(page.reply.status >= 400 && !is_relayed(&page.reply), "{what}: {}", page.reply.status);
        assert!(!is_signed_in(&browser).await, "{what}");
        site.clock.advance(Duration::from_secs(120));
    }
    assert_eq!(site.upstream.hits(), 0);
}

// IT-03, 04, 10, 13, 15
#[tokio::test]
async fn an_id_token_that_is_merely_unusual_is_accepted() {
    let accepted: Vec<NamedChange> = vec![
        ("as it is", |_| {}),
        ("aud in an array", |token| set(token, "aud", json!([CLIENT_ID]))),
        ("azp is ours", |token| set(token, "azp", json!(CLIENT_ID))),
        ("kid absent", |token| drop(token.header.remove("kid"))),
        ("typ absent", |token| drop(token.header.remove("typ"))),
        ("exp with a fraction", |token| {
            let exp = token.claims["exp"].as_f64().unwrap() + 0.5;
            set(token, "exp", json!(exp));
        }),
        ("expired within the skew", |token| shift(token, "exp", -3600 - 30)),
        ("issued within the skew", |token| shift(token, "iat", 30)),
    ];
    let site = Site::protected().await;
    for (what, change) in accepted {
        site.provider.configure(|habits| habits.id_token = Box::new(change));
        let (browser, page) = sign_in(&site).await;
        assert_eq!(page.reply.status, 200, "{what}: {}", page.reply.text());
        assert!(is_signed_in(&browser).await, "{what}");
    }
}

// IT-16
#[tokio::test]
async fn the_nonce_of_another_pending_login_is_refused() {
    let site = Site::protected().await;
    let browser = site.browser();
    let first = browser.authorization_request("/a").await;
    let nonce = parameter(&first, "nonce").concat();
    site.provider.configure(|habits| habits.id_token = Box::new(move |token| set(token, "nonce", json!(nonce))));
    browser.navigate("/b").await;
    assert!(!is_signed_in(&browser).await);
}

// DM-04, DM-05
#[tokio::test]
async fn a_new_signing_key_is_found_when_it_is_needed() {
    let site = Site::protected().await;
    for algorithm in [Algorithm::Es256, Algorithm::Es256, Algorithm::Rs256] {
        let (browser, page) = sign_in(&site).await;
        assert_eq!(page.reply.status, 200, "{algorithm:?}");
        assert!(is_signed_in(&browser).await);
        site.provider.rotate_key(algorithm);
        site.clock.advance(Duration::from_secs(120));
    }
    assert!(sign_in(&site).await.1.reply.status == 200, "RS256");
}

// DM-06, IT-12
#[tokio::test]
async fn unknown_key_ids_do_not_hammer_the_key_set() {
    let site = Site::protected().await;
    site.provider.configure(|habits| {
        habits.id_token = Box::new(|token| {
            let kid = base64url(token.claims["nonce"].as_str().unwrap().as_bytes());
            token.header.insert("kid".to_owned(), json!(kid));
        });
    });
    for _ in 0..10 {
        let (browser, _) = sign_in(&site).await;
        assert!(!is_signed_in(&browser).await);
    }
    assert!(site.provider.count(Endpoint::Jwks) <= 2, "{}", site.provider.count(Endpoint::Jwks));
}

// DM-11, DM-12
#[tokio::test]
async fn userinfo_about_someone_else_is_never_believed() {
    let site = Site::protected().await;
    site.provider.configure(|habits| {
        habits.userinfo = |claims| {
            claims.insert("sub".to_owned(), json!("mallory"));
            claims.insert("email".to_owned(), json!("mallory@evil.test"));
        };
    });
    let (browser, _) = sign_in(&site).await;
    let me = browser.fetch("GET", "/auth/me").await;
    assert!(!me.text().contains("mallory"), "{}", me.text());
    for call in site.provider.calls(Endpoint::Userinfo) {
        assert!(call.headers.value("authorization").is_some_and(|value| value.starts_with("Bearer ")));
        assert!(call.query.is_empty());
        assert_eq!(me.status, 401, "a login whose userinfo contradicts it is refused");
    }
}

// DM-01
#[tokio::test]
async fn a_discovery_document_of_another_issuer_is_not_used() {
    let clock = Clock::system();
    let provider = Provider::start(clock.clone()).await;
    provider.configure(|habits| {
        habits.metadata = |document| drop(document.insert("issuer".to_owned(), json!("http://evil.test")));
    });
    let site = Site::plan().provider(&provider, &clock).route("/*", "auth = true").start().await;
    let page = site.browser().navigate("/x").await;
    assert!(page.reply.status >= 500, "{}", page.reply.status);
    assert_eq!((provider.count(Endpoint::Authorize), provider.count(Endpoint::Token)), (0, 0));
}

// DM-10
#[tokio::test]
async fn the_gateway_starts_while_the_provider_is_down_and_recovers_by_itself() {
    let clock = Clock::system();
    let provider = Provider::start(clock.clone()).await;
    provider.go_down();
    let site = Site::plan()
        .provider(&provider, &clock)
        .route("/public/*", "auth = \"public\"")
        .route("/*", "auth = true")
        .start()
        .await;
    relayed(&site.browser().fetch("GET", "/public/x").await, 200);
    login_status(&site.browser().fetch("GET", "/x").await, "unauthorized", "/page");
    let page = site.browser().navigate("/auth/corp?return_to=%2Fx").await;
    error_page(&page.reply, 503);

    provider.come_up();
    let browser = site.browser();
    eventually(|| async {
        clock.advance(Duration::from_secs(30));
        browser.navigate("/auth/corp?return_to=%2Fx").await.reply.status == 200
    })
    .await;
    assert!(is_signed_in(&browser).await);
}

// ------------------------------------------------------------------------ endpoints of a login

// TX-68
#[tokio::test]
async fn a_wrong_method_on_an_endpoint_is_405_and_goes_nowhere() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    for (method, path) in [
        ("POST", "/auth/login"),
        ("DELETE", "/auth/login"),
        ("PUT", "/auth/corp"),
        ("DELETE", "/auth/logout"),
        ("GET", "/auth/refresh"),
        ("POST", "/auth/me"),
        ("DELETE", "/auth/session"),
    ] {
        let reply = site.browser().fetch(method, path).await;
        error_json(&reply, 405);
        assert!(!reply.header("allow").is_empty(), "{method} {path}");
    }
    assert_eq!(site.upstream.hits(), 0);
}

#[tokio::test]
async fn an_unknown_provider_is_404() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    error_json(&site.browser().fetch("GET", "/auth/unknown").await, 404);
    error_page(&site.browser().send(Request::navigation("/auth/unknown")).await, 404);
    assert_eq!(site.upstream.hits(), 0);
}

#[tokio::test]
async fn several_providers_give_a_choice_that_keeps_return_to() {
    let site = Site::plan()
        .more("[providers.demo]\nkind = \"mock\"\nusers = [{ sub = \"mia\" }]\n")
        .route("/*", "auth = true")
        .start()
        .await;
    let browser = site.browser();
    let page = browser.navigate("/deep?x=1").await;
    assert_eq!((page.reply.status, page.url.path()), (200, "/auth/login"));
    let text = page.reply.text();
    assert!(text.contains("/auth/corp") && text.contains("/auth/demo"), "{text}");

    let list = site.browser().fetch("GET", "/auth/login?return_to=%2Fdeep").await;
    assert_eq!(list.status, 200);
    assert!(list.header("content-type").starts_with("application/json"));
    assert!(list.text().contains("corp") && list.text().contains("demo"), "{}", list.text());

    let chosen = browser.navigate("/auth/login?provider=corp&return_to=%2Fdeep%3Fx%3D1").await;
    assert_eq!((chosen.reply.status, chosen.url), (200, browser.url("/deep?x=1")));
}

// TX-23
#[tokio::test]
async fn the_profile_is_there_with_a_session_and_401_without() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    for path in ["/auth/me", "/api/user/me"] {
        let reply = browser.fetch("GET", path).await;
        assert_eq!(reply.status, 200);
        let claims = reply.json();
        assert_eq!((claims["sub"].as_str(), claims["email"].as_str()), (Some("ada"), Some("ada@corp.test")));
        assert_eq!(claims["provider"], "corp");
        assert!(claims["iat"].is_u64() && claims["exp"].is_u64(), "{claims}");

        let without = site.browser().fetch("GET", path).await;
        assert_eq!(without.status, 401);
        let body = without.json();
        assert_eq!(
            (body["statusCode"].as_u64(), body["message"].as_str(), body["error"].as_str()),
            (Some(401), Some("Unauthorized"), Some("Unauthorized"))
        );
    }
    assert_eq!(site.upstream.hits(), 0);
}

// ---------------------------------------------------------------------------------- the stage

async fn sign_in(site: &Site) -> (Browser, Page) {
    let browser = site.browser();
    let page = browser.navigate(&login_path("/api/user/me", "ada")).await;
    (browser, page)
}

async fn is_signed_in(browser: &Browser) -> bool {
    browser.fetch("GET", "/auth/me").await.status == 200
}

/// A browser in the middle of a login of its own.
async fn busy_browser(site: &Site) -> Browser {
    let browser = site.browser();
    browser.stop_before_callback("/own").await;
    browser
}

/// All values of a query parameter.
fn parameter(url: &Url, name: &str) -> Vec<String> {
    form_urlencoded::parse(url.query().unwrap_or("").as_bytes())
        .filter(|(found, _)| found == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

fn target_of(url: &Url) -> &str {
    &url[url::Position::BeforePath..url::Position::AfterQuery]
}

/// The corpus, each line decoded once.
fn open_redirects() -> Vec<String> {
    let lines = include_str!("corpora/open-redirects.txt").lines().filter(|line| !line.is_empty());
    lines.map(|line| percent_decode_str(line).decode_utf8_lossy().into_owned()).collect()
}

fn set(token: &mut IdToken, claim: &str, value: Value) {
    token.claims.insert(claim.to_owned(), value);
}

fn shift(token: &mut IdToken, claim: &str, by: i64) {
    let seconds = token.claims[claim].as_i64().unwrap() + by;
    set(token, claim, json!(seconds));
}

fn unsigned(token: &mut IdToken, algorithm: &str) {
    token.header.insert("alg".to_owned(), json!(algorithm));
    token.signature = Signature::Empty;
}
