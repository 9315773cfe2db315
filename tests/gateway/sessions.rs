//! Sessions: the cookie, its life, what the front end may know of it, and its end.

use crate::harness::expect::{error_json, login_redirect, relayed};
use crate::harness::inspect::is_ours;
use crate::harness::jar::SetCookie;
use crate::harness::upstream::deserted_address;
use crate::harness::{Answer, Browser, Endpoint, Fault, Gate, Reply, Request, Site, login_path, together};
use percent_encoding::percent_decode_str;
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use url::Url;

const HOUR: Duration = Duration::from_secs(3600);

// ---------------------------------------------------------------------------------- the cookie

// SC-01
#[tokio::test]
async fn the_session_cookie_is_bound_to_the_host_and_out_of_reach_of_scripts() {
    for (external_url, name) in [("https://gw.test", "__Host-latchgate"), ("http://gw.test", "latchgate")] {
        let site = Site::plan().external_url(external_url).route("/*", "auth = true").start().await;
        let cookie = session_cookie_of_a_login(&site).await;
        assert_eq!(cookie.name, name);
        assert_eq!(cookie.attribute("path"), Some("/"));
        assert_eq!(cookie.attribute("domain"), None);
        assert_eq!(cookie.attribute("samesite"), Some("Lax"));
        assert_eq!(cookie.attribute("httponly"), Some(""));
        assert_eq!(cookie.attribute("secure").is_some(), external_url.starts_with("https"));
    }
}

// SC-02
#[tokio::test]
async fn session_ids_have_256_bits_and_never_repeat() {
    let site = Site::protected().await;
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let value = session_cookie_of_a_login(&site).await.value;
        assert!(value.len() >= 43, "{value}");
        assert!(seen.insert(value));
    }
}

// TN-38
#[tokio::test]
async fn remember_0_makes_it_a_cookie_of_the_browser_session() {
    let site = Site::protected().await;
    let browser = site.browser();
    let callback = browser.stop_before_callback("/auth/corp?remember=0&return_to=%2Fx").await;
    let reply = browser.send(from_provider(&callback)).await;
    let cookie = session_cookie(&reply).expect("a session");
    assert_eq!((cookie.attribute("max-age"), cookie.attribute("expires")), (None, None));
}

// SC-03
#[tokio::test]
async fn of_two_session_cookies_the_only_live_one_counts() {
    let site = Site::protected().await;
    let (ada, bob) = (site.signed_in_as("ada").await, site.signed_in_as("bob").await);
    let (ada, bob) = (ada.session_cookie().unwrap(), bob.session_cookie().unwrap());
    let garbage = "A".repeat(43);
    let ask = |cookies: Vec<String>| {
        let browser = site.browser();
        async move {
            let mut request = Request::fetch("GET", "/auth/me");
            for cookie in cookies {
                request = request.header("Cookie", &cookie);
            }
            browser.send(request).await
        }
    };
    for cookies in [
        vec![format!("latchgate={ada}; latchgate={garbage}")],
        vec![format!("latchgate={garbage}; latchgate={ada}")],
        vec![format!("latchgate={garbage}"), format!("x=1; latchgate={ada}")],
        vec![format!("latchgate={ada}; latchgate=")],
    ] {
        let reply = ask(cookies.clone()).await;
        assert_eq!(reply.status, 200, "{cookies:?}");
        assert_eq!(reply.json()["sub"], "ada");
    }
    for cookies in [
        vec![format!("latchgate={ada}; latchgate={bob}")],
        vec![format!("latchgate={bob}; latchgate={ada}")],
        vec![format!("latchgate={ada}"), format!("latchgate={bob}")],
    ] {
        assert_eq!(ask(cookies).await.status, 401, "nobody guesses who it is");
    }
}

// SC-07, TX-15
#[tokio::test]
async fn a_cookie_that_names_no_session_is_no_session_and_no_error() {
    let site = Site::protected().await;
    let live = site.signed_in().await.session_cookie().unwrap();
    let flipped = format!("{}{}", if live.starts_with('A') { 'B' } else { 'A' }, &live[1..]);
    let wrong = [
        flipped,
        live[..live.len() - 1].to_owned(),
        format!("{live}x"),
        String::new(),
        "x".to_owned(),
        "\"quoted\"".to_owned(),
        "=====".to_owned(),
        "\u{e9}\u{ff}".to_owned(),
        "a".repeat(4000),
        "%00%0d%0a".to_owned(),
    ];
    for value in wrong {
        let request = Request::navigation("/x").header("Cookie", &format!("latchgate={value}"));
        let reply = site.browser().send(request).await;
        assert_eq!(reply.status, 302, "{value:.40}");
    }
    for odd in ["latchgate", "=", ";;;", "latchgate;=; latchgate", ",", " ", "latchgate=a=b; =c"] {
        let reply = site.browser().send(Request::navigation("/x").header("Cookie", odd)).await;
        assert_eq!(reply.status, 302, "{odd}");
    }
    assert_eq!(site.upstream.hits(), 0);
}

// SC-16, TX-46
#[tokio::test]
async fn only_our_cookies_are_taken_out_on_the_way_upstream() {
    let site = Site::plan().route("/public/*", "auth = \"public\"").route("/*", "auth = true").start().await;
    let browser = site.signed_in().await;
    browser.stop_before_callback(&login_path("/other", "ada")).await;
    let own = browser.cookie_field();
    for path in ["/x", "/public/x"] {
        for cookies in [
            format!("a=1; {own}; b=\"two\"; a=3; c"),
            format!("{own}; a=1; b=\"two\"; a=3; c"),
            format!("a=1; b=\"two\"; a=3; c; {own}"),
        ] {
            relayed(&browser.send(Request::fetch("GET", path).header("Cookie", &cookies)).await, 200);
            assert_eq!(site.upstream.last().headers.values("cookie"), ["a=1; b=\"two\"; a=3; c"]);
        }
        relayed(&browser.fetch("GET", path).await, 200);
        assert!(!site.upstream.last().headers.contains("cookie"), "{path}: an empty Cookie is none");
    }
}

// SC-17
#[tokio::test]
async fn an_upstream_cannot_set_our_cookies() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let session = browser.session_cookie();
    site.upstream.answer(|_| {
        Answer::status(200)
            .header("Set-Cookie", "app=1; Path=/")
            .header("Set-Cookie", "latchgate=stolen; Path=/")
            .header("Set-Cookie", "LatchGate=stolen; Path=/")
            .header("set-cookie", " latchgate =stolen; Path=/")
            .header("Set-Cookie", "__Host-latchgate=stolen; Secure; Path=/")
            .header("Set-Cookie", "latchgate-refresh=stolen; Max-Age=0")
            .header("Set-Cookie", "app2=2; HttpOnly")
    });
    let reply = browser.fetch("GET", "/x").await;
    relayed(&reply, 200);
    let from_upstream: Vec<&str> = reply
        .headers
        .values("set-cookie")
        .into_iter()
        .filter(|field| !is_ours(&SetCookie::parse(field).name))
        .collect();
    assert_eq!(from_upstream, ["app=1; Path=/", "app2=2; HttpOnly"]);
    assert!(!reply.headers.0.iter().any(|(_, value)| value.contains("stolen")));
    assert_eq!(browser.session_cookie(), session);
    relayed(&browser.fetch("GET", "/x").await, 200);
}

// SC-21
#[tokio::test]
async fn a_huge_cookie_header_is_431_or_bounded() {
    let site = Site::protected().await;
    let huge = "a=b; ".repeat(13_000);
    let request = format!("GET /x HTTP/1.1\r\nHost: gw.test\r\nCookie: {huge}\r\n\r\n");
    assert_eq!(site.raw(&request).await.expect("an answer").status, 431);
    let browser = site.signed_in().await;
    let many = format!("{}{}", "a=b; ".repeat(3_000), browser.cookie_field());
    assert_eq!(browser.send(Request::fetch("GET", "/auth/me").header("Cookie", &many)).await.status, 200);
}

// ------------------------------------------------------------------------------------ its life

// SC-06, TX-16, TX-17
#[tokio::test]
async fn a_session_slides_with_use_and_ends_when_idle() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let cookie = format!("latchgate={}", browser.session_cookie().unwrap());
    let ask = || async { browser.send(Request::fetch("GET", "/x").header("Cookie", &cookie)).await.status };
    site.clock.advance(12 * HOUR);
    assert_eq!(ask().await, 200);
    site.clock.advance(18 * HOUR);
    assert_eq!(ask().await, 200, "touched 18 h ago");
    site.clock.advance(24 * HOUR + Duration::from_secs(90));
    assert_eq!(ask().await, 401);
}

// SC-06, RF-27
#[tokio::test]
async fn nothing_extends_a_session_beyond_its_absolute_life() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let cookie = format!("latchgate={}", browser.session_cookie().unwrap());
    let ask = || async { browser.send(Request::fetch("GET", "/x").header("Cookie", &cookie)).await.status };
    for _ in 0..7 {
        site.clock.advance(10 * HOUR);
        assert_eq!(ask().await, 200);
    }
    assert!(site.provider.refreshes() >= 7, "it was refreshed all along");
    site.clock.advance(2 * HOUR);
    assert_eq!(ask().await, 401, "72 h");
}

#[tokio::test]
async fn the_lives_of_a_session_can_be_configured() {
    let site = Site::plan()
        .session("idle_timeout = \"10m\"\nabsolute_timeout = \"1h\"")
        .route("/*", "auth = true")
        .start()
        .await;
    let browser = site.signed_in().await;
    site.clock.advance(Duration::from_secs(9 * 60));
    assert_eq!(browser.fetch("GET", "/x").await.status, 200);
    site.clock.advance(Duration::from_secs(12 * 60));
    let reply = browser.send(Request::navigation("/x")).await;
    assert_eq!(reply.status, 302);
}

// SC-13
#[tokio::test]
async fn a_user_with_many_claims_gets_in_or_an_error_and_never_a_loop() {
    let site = Site::protected().await;
    let groups: Vec<String> = (0..8_000).map(|number| format!("group-number-{number}")).collect();
    site.provider.add_user("ada", json!({ "groups": groups }));
    let browser = site.browser();
    let page = browser.navigate("/x").await;
    assert!(page.reply.status == 200 || page.reply.status >= 400, "{}", page.reply.status);
    assert!(browser.cookie_field().len() < 8192);
}

// TX-66
#[tokio::test]
async fn a_short_secret_is_refused_and_never_shown() {
    let source = "[server]\nlisten = \"127.0.0.1:0\"\n[session]\nsecret = \"too-short-secret\"\n[upstreams.app]\nurl = \"http://127.0.0.1:9\"\n[[routes]]\npath = \"/*\"\nauth = \"public\"\n";
    let report = crate::harness::site::parse(source).expect_err("fewer than 32 bytes");
    assert!(report.contains("secret") && !report.contains("too-short-secret"), "{report}");
}

// ------------------------------------------------------------------------ what a page may know

// TN-24
#[tokio::test]
async fn a_forced_refresh_renews_the_token() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    relayed(&browser.fetch("GET", "/x").await, 200);
    let before = site.upstream.last().bearer().unwrap().to_owned();
    let reply = browser.fetch("POST", "/auth/refresh").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    assert!(body["token"].is_string() && body["expiresIn"].is_u64(), "{body}");
    assert_eq!(site.provider.refreshes(), 1);
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_ne!(site.upstream.last().bearer().unwrap(), before);
}

// TN-25
#[tokio::test]
async fn a_forced_refresh_that_is_refused_ends_the_session() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    site.provider.revoke_grants();
    let reply = browser.fetch("POST", "/auth/refresh").await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.json()["message"], "Invalid or expired refresh token");
    assert_eq!(browser.session_cookie(), None);
    assert_eq!(site.provider.count(Endpoint::Revocation), 0);
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 401);

    let without = site.browser().fetch("POST", "/auth/refresh").await;
    assert_eq!((without.status, without.json()["message"].as_str()), (401, Some("Invalid or expired refresh token")));
}

#[tokio::test]
async fn a_forced_refresh_during_an_outage_is_503_and_keeps_the_session() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    site.provider.always(Endpoint::Token, Fault::Json(503, json!({})));
    error_json(&browser.fetch("POST", "/auth/refresh").await, 503);
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200);
}

// TX-58
#[tokio::test]
async fn the_session_endpoint_tells_what_a_page_may_know_and_keeps_custom_data() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let session = browser.fetch("GET", "/auth/session").await;
    assert_eq!(session.status, 200);
    assert!(session.text().contains("corp"), "{}", session.text());

    for patch in [json!({ "theme": "dark", "n": 1 }), json!({ "n": 2 })] {
        let reply = browser.send(patch_session(&patch)).await;
        assert!(matches!(reply.status, 200 | 204), "{}", reply.status);
    }
    let merged = browser.fetch("GET", "/auth/session").await.text();
    assert!(merged.contains("\"theme\":\"dark\"") && merged.contains("\"n\":2"), "{merged}");

    let evil = json!({ "sub": "mallory", "access_token": "evil", "user": { "sub": "mallory" }, "claims": { "sub": "mallory" } });
    browser.send(patch_session(&evil)).await;
    assert_eq!(browser.fetch("GET", "/auth/me").await.json()["sub"], "ada");
    relayed(&browser.fetch("GET", "/x").await, 200);
    let token = site.upstream.last().bearer().unwrap().to_owned();
    assert_eq!(site.provider.user_of(&token).as_deref(), Some("ada"));

    for request in [Request::fetch("GET", "/auth/session"), patch_session(&json!({ "x": 1 }))] {
        assert_eq!(site.browser().send(request).await.status, 401);
    }
    let strange = patch_session(&json!({ "theme": "evil" }))
        .with("Sec-Fetch-Site", "cross-site")
        .header("Origin", "https://evil.test")
        .header("Cookie", &browser.cookie_field());
    assert_eq!(browser.send(strange).await.status, 403);
}

// SC-20, TX-59
#[tokio::test]
async fn custom_data_and_new_tokens_do_not_overwrite_each_other() {
    let site = Site::protected().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    let gate = Gate::closed();
    site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    let refreshing = {
        let browser = browser.clone();
        tokio::spawn(async move { browser.fetch("GET", "/x").await })
    };
    gate.arrivals(1).await;
    browser.send(patch_session(&json!({ "kept": "yes" }))).await;
    gate.open();
    relayed(&refreshing.await.unwrap(), 200);
    assert!(browser.fetch("GET", "/auth/session").await.text().contains("\"kept\":\"yes\""));
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!(site.provider.refreshes(), 1, "the new tokens were kept");
}

// SC-05; the browser of the harness looks for secrets in every reply
#[tokio::test]
async fn no_endpoint_shows_a_token() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    for path in [
        "/auth/me",
        "/api/user/me",
        "/auth/session",
        "/auth/access-token",
        "/auth/verify",
        "/auth/login",
        "/auth/unknown",
    ] {
        let reply = browser.fetch("GET", path).await;
        assert!(!reply.text().contains(&browser.session_cookie().unwrap()), "{path}");
    }
    // TX-25
    assert_eq!(browser.fetch("GET", "/auth/access-token").await.status, 404, "off by default");
}

// SC-18
#[tokio::test]
async fn other_origins_learn_nothing_of_the_session() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    for path in ["/auth/me", "/auth/session", "/api/user/me"] {
        let request = Request::fetch("GET", path)
            .with("Sec-Fetch-Site", "cross-site")
            .header("Origin", "https://evil.test")
            .header("Cookie", &browser.cookie_field());
        let reply = browser.send(request).await;
        assert!(!reply.headers.contains("access-control-allow-origin"), "{path}");
    }
}

// -------------------------------------------------------------------------------------- its end

// LO-01, LO-04, LO-05
#[tokio::test]
async fn a_logout_ends_the_session_here_and_revokes_it_there() {
    for external_url in ["http://gw.test", "https://gw.test"] {
        let site = Site::plan().external_url(external_url).route("/*", "auth = true").start().await;
        let browser = site.signed_in().await;
        let set = session_cookie_of_a_login(&site).await;
        let old = browser.cookie_field();
        let reply = browser.fetch("POST", "/auth/logout").await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "success": true })));
        let gone = session_cookie(&reply).expect("the cookie is taken back");
        assert!(gone.deletes());
        for attribute in ["path", "domain", "secure", "httponly", "samesite"] {
            assert_eq!(gone.attribute(attribute), set.attribute(attribute), "{attribute}");
        }
        assert_eq!(browser.session_cookie(), None);
        let replayed = browser.send(Request::fetch("GET", "/x").header("Cookie", &old)).await;
        assert_eq!((replayed.status, site.upstream.hits()), (401, 0));
        crate::harness::eventually(|| async { site.provider.count(Endpoint::Revocation) >= 1 }).await;
    }
}

// TN-28, LO-08
#[tokio::test]
async fn a_logout_needs_no_provider() {
    for fault in [Fault::Json(500, json!({})), Fault::Hang, Fault::Reset] {
        let site = Site::protected().await;
        let browser = site.signed_in().await;
        site.provider.always(Endpoint::Revocation, fault);
        let logout = tokio::time::timeout(Duration::from_secs(12), browser.fetch("POST", "/auth/logout")).await;
        assert_eq!(logout.expect("no longer than refresh.timeout").status, 200);
        assert_eq!(browser.fetch("GET", "/auth/me").await.status, 401);
    }
}

// TN-29, N-18
#[tokio::test]
async fn a_local_logout_calls_nobody() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    assert_eq!(browser.fetch("POST", "/auth/logout?local=1").await.json(), json!({ "success": true }));
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 401);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((site.provider.count(Endpoint::Revocation), site.provider.count(Endpoint::EndSession)), (0, 0));
}

// LO-18
#[tokio::test]
async fn a_second_logout_is_no_error() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    for _ in 0..2 {
        assert_eq!(browser.fetch("POST", "/auth/logout").await.json(), json!({ "success": true }));
    }
    assert_eq!(site.browser().fetch("POST", "/auth/logout").await.json(), json!({ "success": true }));
    let page = site.browser().send(logout_link("/auth/logout")).await;
    assert!(matches!(page.status, 200 | 302 | 303), "{}", page.status);
}

// LO-01
#[tokio::test]
async fn a_logout_link_goes_through_the_provider_and_back() {
    let site = Site::plan().login("after_logout = \"/bye\"").route("/*", "auth = \"optional\"").start().await;
    let browser = site.signed_in().await;
    let reply = browser.send(logout_link("/auth/logout")).await;
    assert!(matches!(reply.status, 302 | 303));
    let there = Url::parse(reply.header("location")).expect("the provider's URL");
    assert!(there.as_str().starts_with(&format!("{}/end-session", site.provider.issuer())), "{there}");
    let parameter =
        |name: &str| there.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned());
    assert_eq!(parameter("id_token_hint").expect("id_token_hint").split('.').count(), 3);
    let back = parameter("post_logout_redirect_uri").expect("post_logout_redirect_uri");
    assert_eq!(Url::parse(&back).unwrap().origin(), browser.url("/").origin());
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 401, "it is over before the provider is asked");
}

// LO-03, TX-52, N-20
#[tokio::test]
async fn another_site_cannot_sign_anyone_out() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let cookies = browser.cookie_field();
    let image = Request::fetch("GET", "/auth/logout").with("Sec-Fetch-Mode", "no-cors").with("Sec-Fetch-Dest", "image");
    let form = Request { method: "POST".to_owned(), ..Request::navigation("/auth/logout") }
        .header("Origin", "https://evil.test")
        .body("application/x-www-form-urlencoded", "");
    let attempts = [
        image.clone().with("Sec-Fetch-Site", "cross-site"),
        image,
        Request::navigation("/auth/logout").with("Sec-Fetch-Site", "cross-site"),
        Request::navigation("/auth/logout").with("Sec-Fetch-Site", "same-origin").header("Sec-Purpose", "prefetch"),
        form.clone().with("Sec-Fetch-Site", "cross-site"),
        form.with("Sec-Fetch-Site", "same-site").with("Origin", "https://sub.gw.test"),
        Request::new("POST", "/auth/logout").header("Origin", "https://evil.test"),
        Request::new("POST", "/auth/logout").header("Origin", "null"),
    ];
    for attempt in attempts {
        let reply = browser.send(attempt.clone().header("Cookie", &cookies)).await;
        assert!(
            !reply.headers.values("set-cookie").iter().any(|field| SetCookie::parse(field).deletes()),
            "{attempt:?}"
        );
        assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200, "{attempt:?}");
    }
}

// LO-10, TX-06
#[tokio::test]
async fn no_known_trick_makes_a_logout_end_on_another_site() {
    let site = Site::protected().await;
    let lines = include_str!("corpora/open-redirects.txt").lines().filter(|line| !line.is_empty());
    let payloads: Vec<String> = lines.map(|line| percent_decode_str(line).decode_utf8_lossy().into_owned()).collect();
    let browser = site.browser();
    for payload in payloads {
        let query: String = url::form_urlencoded::byte_serialize(payload.as_bytes()).collect();
        let reply = browser.send(logout_link(&format!("/auth/logout?return_to={query}"))).await;
        if reply.headers.contains("location") {
            let end = browser.url("/auth/logout").join(reply.header("location")).unwrap();
            assert_eq!(end.origin(), browser.url("/").origin(), "{payload:?} ends at {end}");
        }
    }
}

// TX-19
#[tokio::test]
async fn requests_around_a_logout_do_not_bring_the_session_back() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let cookies = browser.cookie_field();
    site.clock.advance(12 * HOUR);
    let crowd = together(50, |number| {
        let (browser, cookies) = (browser.clone(), cookies.clone());
        async move {
            if number == 25 {
                browser.fetch("POST", "/auth/logout").await.status
            } else {
                browser.send(Request::fetch("GET", "/x").header("Cookie", &cookies)).await.status
            }
        }
    });
    let statuses = crowd.await;
    assert!(statuses.iter().all(|status| matches!(status, 200 | 401)), "{statuses:?}");
    let after = browser.send(Request::fetch("GET", "/x").header("Cookie", &cookies)).await;
    assert_eq!(after.status, 401);
}

// LO-05
#[tokio::test]
async fn one_logout_leaves_other_browsers_signed_in() {
    let site = Site::protected().await;
    let (here, there) = (site.signed_in().await, site.signed_in().await);
    here.fetch("POST", "/auth/logout?local=1").await;
    assert_eq!(there.fetch("GET", "/auth/me").await.status, 200);
    login_redirect(&here.send(Request::navigation("/x")).await, 302, "unauthorized", "/x");
}

// ---------------------------------------------------------------------------------- the stage

async fn session_cookie_of_a_login(site: &Site) -> SetCookie {
    let browser: Browser = site.browser();
    let callback = browser.stop_before_callback(&login_path("/x", "ada")).await;
    session_cookie(&browser.send(from_provider(&callback)).await).expect("a session")
}

// ------------------------------------------------------------------------ a store that is away

// ST-01, ST-02
#[tokio::test]
async fn a_store_that_is_away_signs_nobody_out_and_keeps_nobody_waiting() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for redis in [deserted_address().await, silent.local_addr().unwrap()] {
        let site = Site::plan()
            .session(&format!("store = \"redis\"\n[session.redis]\nurl = \"redis://{redis}/\""))
            .route("/public/*", "auth = false")
            .route("/shared/*", "auth = \"optional\"")
            .route("/*", "auth = true")
            .start()
            .await;
        let browser = site.browser();
        let cookie = format!("latchgate={}", "A".repeat(43));
        relayed(&browser.send(Request::fetch("GET", "/public/x").header("Cookie", &cookie)).await, 200);
        relayed(&browser.fetch("GET", "/shared/x").await, 200);
        error_json(&browser.fetch("GET", "/x").await, 401);
        site.upstream.forget();

        let callback = browser.stop_before_callback(&login_path("/x", "ada")).await;
        let same_origin = |method: &str, path: &str| {
            Request::fetch(method, path).with("Sec-Fetch-Site", "same-origin").header("Cookie", &cookie)
        };
        for request in [
            same_origin("GET", "/x"),
            same_origin("POST", "/x"),
            same_origin("GET", "/shared/x"),
            same_origin("GET", "/auth/me"),
            same_origin("GET", "/auth/session"),
            same_origin("PATCH", "/auth/session"),
            same_origin("POST", "/auth/refresh"),
            same_origin("POST", "/auth/logout"),
            logout_link("/auth/logout").header("Cookie", &cookie),
            Request::navigation("/x").header("Cookie", &cookie),
            from_provider(&callback),
        ] {
            let (asked, reply) = (Instant::now(), browser.send(request.clone()).await);
            assert_eq!(reply.status, 503, "{request:?}: {}", reply.text());
            assert!(reply.header("retry-after").parse::<u64>().unwrap() > 0, "{request:?}");
            assert!(session_cookie(&reply).is_none(), "{request:?}");
            assert!(asked.elapsed() < Duration::from_secs(1), "{request:?}: {:?}", asked.elapsed());
        }
        assert_eq!((site.upstream.hits(), site.provider.code_exchanges()), (0, 0));
    }
}

/// What a reply does to the session cookie.
fn session_cookie(reply: &Reply) -> Option<SetCookie> {
    let set = reply.headers.values("set-cookie").into_iter().map(SetCookie::parse);
    set.into_iter().find(|cookie| matches!(cookie.name.as_str(), "latchgate" | "__Host-latchgate"))
}

fn from_provider(callback: &Url) -> Request {
    Request::navigation(&callback[url::Position::BeforePath..]).with("Sec-Fetch-Site", "cross-site")
}

/// A click on a link of the application.
fn logout_link(target: &str) -> Request {
    Request::navigation(target).with("Sec-Fetch-Site", "same-origin")
}

fn patch_session(data: &serde_json::Value) -> Request {
    Request::fetch("PATCH", "/auth/session").body("application/json", data.to_string())
}
