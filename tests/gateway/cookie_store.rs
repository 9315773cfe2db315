//! `session.store = "cookie"`: browsers carry their sessions.

use crate::harness::expect::{error_page, login_redirect};
use crate::harness::jar::SetCookie;
use crate::harness::{Answer, Browser, Endpoint, Fault, Gate, Reply, Request, Site, login_path, together};
use serde_json::json;
use std::time::Duration;

const STORE: &str = "store = \"cookie\"";
const HOUR: Duration = Duration::from_secs(3600);

// ------------------------------------------------------------------------------ what is carried

// X.6, SC-16
#[tokio::test]
async fn a_session_travels_in_sealed_cookies_that_no_upstream_sees() {
    let site = site().await;
    let browser = site.signed_in().await;
    assert_eq!(chunks(&browser).len(), 1, "a small session is one cookie");
    let cookies = format!("theme=dark; {}; x=\"a b\"", browser.cookie_field());
    let reply = browser.send(Request::fetch("GET", "/x").header("Cookie", &cookies)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-seen-user"), "ada");
    assert_eq!(site.upstream.last().header("cookie"), "theme=dark; x=\"a b\"");
}

// X-24, TX-14
#[tokio::test]
async fn a_large_session_is_split_and_all_of_it_comes_back() {
    let site = site().await;
    grow(&site, 10 << 10);
    let browser = site.signed_in().await;
    let values = chunks(&browser);
    assert!((4..=6).contains(&values.len()), "{} cookies", values.len());
    assert!(values.iter().all(|value| value.len() <= 3500));
    assert_eq!(browser.fetch("GET", "/x").await.header("x-seen-user"), "ada");
}

// TX-14
#[tokio::test]
async fn twenty_kib_of_claims_fit_where_headers_may_be_that_long() {
    let plan = Site::plan().session(STORE).limits("header_bytes = \"128KiB\"");
    let site = plan.route("/*", "auth = true").start().await;
    site.provider.add_user("ada", json!({ "groups": ["g".repeat(20 << 10)] }));
    let browser = site.signed_in().await;
    assert_eq!(browser.fetch("GET", "/auth/me").await.json()["groups"][0], "g".repeat(20 << 10));
    assert!(chunks(&browser).len() > 6);
}

//
#[tokio::test]
async fn what_is_left_of_a_larger_session_is_taken_away() {
    let site = site().await;
    grow(&site, 10 << 10);
    let browser = site.signed_in().await;
    assert!(chunks(&browser).len() >= 4);
    shrink(&site);
    browser.sign_in_as("ada", "/x").await;
    assert_eq!(chunks(&browser).len(), 1, "{:?}", names(&browser));
    assert_eq!(browser.fetch("GET", "/x").await.status, 200);

    grow(&site, 10 << 10);
    site.provider.revoke_access_tokens();
    assert_eq!(browser.fetch("GET", "/x").await.status, 200);
    assert!(chunks(&browser).len() >= 4, "grown by a refresh");
    browser.fetch("POST", "/auth/logout").await;
    assert_eq!(names(&browser), [""; 0], "a logout leaves nothing");
}

// SC-13
#[tokio::test]
async fn a_session_that_is_too_large_is_refused_at_the_login() {
    let site = site().await;
    grow(&site, 20 << 10);
    let browser = site.browser();
    let page = browser.navigate(&login_path("/x", "ada")).await;
    error_page(&page.reply, 400);
    assert!(page.reply.text().contains("more than cookies hold"), "{}", page.reply.text());
    assert_eq!(chunks(&browser), [""; 0]);
}

#[tokio::test]
async fn the_largest_session_still_leaves_room_for_headers() {
    let site = site().await;
    let mut size = 16 << 10;
    let browser = loop {
        grow(&site, size);
        let browser = site.browser();
        browser.navigate(&login_path("/x", "ada")).await;
        if browser.session_cookie().is_some() {
            break browser;
        }
        size -= 256;
    };
    assert_eq!(chunks(&browser).len(), 6);
    let other = format!("{}; other={}", browser.cookie_field(), "o".repeat(6 << 10));
    assert_eq!(browser.send(Request::fetch("GET", "/x").header("Cookie", &other)).await.status, 200);
}

// --------------------------------------------------------------------------- how it is kept up

// RF-01, X-46
#[tokio::test]
async fn a_refresh_gives_the_browser_new_cookies() {
    let site = site().await;
    let browser = site.signed_in().await;
    let before = browser.cookie_field();
    site.provider.revoke_access_tokens();
    let reply = browser.fetch("GET", "/x").await;
    assert_eq!(reply.status, 200);
    assert_eq!(session_cookies(&reply).len(), 1);
    assert_ne!(browser.cookie_field(), before);
    assert_eq!(session_cookies(&browser.fetch("GET", "/x").await), [], "once");
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (1, 0));
}

// RF-02, RF-09: the predecessor gets the successor.
#[tokio::test]
async fn the_cookie_from_before_a_refresh_still_gets_what_came_of_it() {
    let site = site().await;
    let browser = site.signed_in().await;
    let before = browser.cookie_field();
    site.provider.revoke_access_tokens();
    site.provider.next(Endpoint::Token, Fault::Delay(Duration::from_millis(200)));
    let replies = together(50, |_| {
        let (browser, before) = (browser.clone(), before.clone());
        async move { browser.send(Request::fetch("GET", "/x").header("Cookie", &before)).await }
    })
    .await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let values = |reply| session_cookies(reply).into_iter().map(|cookie| cookie.value).collect::<Vec<_>>();
    let given: Vec<_> = replies.iter().map(values).collect();
    assert!(given.iter().all(|values| *values == given[0] && !values.is_empty()), "all the same cookies");

    site.clock.advance(HOUR / 2);
    let late = browser.send(Request::fetch("GET", "/x").header("Cookie", &before)).await;
    assert_eq!(late.status, 200);
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (1, 0));
}

#[tokio::test]
async fn data_of_the_front_end_is_carried_too_and_refused_when_it_does_not_fit() {
    let site = site().await;
    grow(&site, 4 << 10);
    let browser = site.signed_in().await;
    let patch = |data: String| {
        let request = Request::fetch("PATCH", "/auth/session").body("application/json", data);
        let browser = browser.clone();
        async move { browser.send(request).await }
    };
    let reply = patch(json!({"theme": "dark"}).to_string()).await;
    assert_eq!((reply.status, session_cookies(&reply).is_empty()), (200, false));
    assert_eq!(patch(json!({"large": "l".repeat(14 << 10)}).to_string()).await.status, 413);
    let again = restart(&site).await;
    let browser = moved(&browser, &again);
    let session = browser.fetch("GET", "/auth/session").await.json();
    assert_eq!(session["data"], json!({"theme": "dark"}));
}

#[tokio::test]
async fn a_session_that_outgrows_the_cookies_lives_as_long_as_the_process() {
    let site = site().await;
    let browser = site.signed_in().await;
    let before = browser.cookie_field();
    grow(&site, 20 << 10);
    site.provider.revoke_access_tokens();
    for _ in 0..3 {
        assert_eq!(browser.fetch("GET", "/x").await.status, 200);
    }
    assert_eq!(browser.cookie_field(), before);
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (1, 0));
}

// X-26, TX-16
#[tokio::test]
async fn visits_are_carried_now_and_then_and_the_absolute_end_stays() {
    let site = site().await;
    let browser = site.signed_in().await;
    let max_age = |reply: &Reply| session_cookies(reply)[0].attribute("max-age").unwrap().parse::<u64>().unwrap();
    assert_eq!(session_cookies(&browser.fetch("GET", "/auth/me").await), []);
    site.clock.advance(12 * HOUR);
    let left = max_age(&browser.fetch("GET", "/auth/me").await);
    assert!((60 * 3600 - 60..=60 * 3600).contains(&left), "{left}");
    assert_eq!(session_cookies(&browser.fetch("GET", "/auth/me").await), []);

    let again = restart(&site).await;
    let browser = moved(&browser, &again);
    site.clock.advance(18 * HOUR);
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200, "30 h after the login, 18 h after the last visit");
    site.clock.advance(23 * HOUR);
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200);
    site.clock.advance(20 * HOUR);
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 401, "73 h after the login");
}

// TX-17, TX-67, SC-06
#[tokio::test]
async fn a_copy_of_a_cookie_does_not_outlive_its_time() {
    let site = site().await;
    let browser = site.signed_in().await;
    let copy = browser.cookie_field();
    site.clock.advance(25 * HOUR);
    let again = restart(&site).await;
    for site in [&site, &again] {
        let request = Request::navigation("/x").header("Cookie", &copy);
        assert_eq!(site.browser().send(request).await.status, 302, "idle for too long");
    }
}

// TN-38
#[tokio::test]
async fn remember_0_stays_a_cookie_of_the_browser_session() {
    let site = site().await;
    let browser = site.browser();
    browser.navigate("/auth/corp?remember=0&return_to=%2Fx").await;
    site.clock.advance(3 * HOUR);
    let again = restart(&site).await;
    let browser = moved(&browser, &again);
    let cookies = session_cookies(&browser.fetch("GET", "/auth/me").await);
    assert_eq!(cookies.len(), 1);
    assert_eq!((cookies[0].attribute("max-age"), cookies[0].attribute("expires")), (None, None));
}

// X-27, TX-18
#[tokio::test]
async fn an_answer_that_sets_our_cookie_is_kept_by_no_cache() {
    let site = site().await;
    let browser = site.signed_in().await;
    site.upstream.answer(|_| Answer::status(200).header("Cache-Control", "public, max-age=3600"));
    assert_eq!(browser.fetch("GET", "/x").await.headers.values("cache-control"), ["public, max-age=3600"]);
    site.clock.advance(2 * HOUR);
    let reply = browser.fetch("GET", "/x").await;
    assert_eq!(session_cookies(&reply).len(), 1);
    assert_eq!(reply.headers.values("cache-control"), ["no-store"]);
}

// ------------------------------------------------------------------------------- how it ends

// TX-20, LO-05
#[tokio::test]
async fn a_copied_cookie_is_worth_nothing_after_the_logout() {
    let site = site().await;
    let browser = site.signed_in().await;
    let first = browser.cookie_field();
    site.provider.revoke_access_tokens();
    browser.fetch("GET", "/x").await;
    let second = browser.cookie_field();
    assert_eq!(browser.fetch("POST", "/auth/logout").await.status, 200);
    assert_eq!(names(&browser), [""; 0]);
    site.upstream.forget();
    for copy in [first, second] {
        let reply = site.browser().send(Request::navigation("/x").header("Cookie", &copy)).await;
        login_redirect(&reply, 302, "expired", "/x");
        assert_eq!(session_cookies(&reply), []);
    }
    assert_eq!(site.upstream.hits(), 0);
}

// TX-19
#[tokio::test]
async fn no_answer_after_a_logout_revives_the_session() {
    let site = site().await;
    let browser = site.signed_in().await;
    site.clock.advance(2 * HOUR);
    let gate = Gate::closed();
    let held = gate.clone();
    site.upstream.answer(move |_| Answer::status(200).behind(&held));
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let browser = browser.clone();
            tokio::spawn(async move { browser.fetch("GET", "/x").await })
        })
        .collect();
    gate.arrivals(20).await;
    assert_eq!(browser.fetch("POST", "/auth/logout").await.status, 200);
    gate.open();
    for reply in asking {
        assert_eq!(session_cookies(&reply.await.unwrap()), []);
    }
    assert_eq!(names(&browser), [""; 0]);
}

// RF-11
#[tokio::test]
async fn a_refused_refresh_takes_all_cookies_away() {
    let site = site().await;
    grow(&site, 10 << 10);
    let browser = site.signed_in().await;
    site.provider.revoke_grants();
    site.provider.revoke_access_tokens();
    login_redirect(&browser.send(Request::navigation("/x")).await, 302, "expired", "/x");
    assert_eq!(chunks(&browser), [""; 0]);
    assert!(names(&browser).iter().all(|name| name == "latchgate-loop"), "{:?}", names(&browser));
}

// ------------------------------------------------------------------------- without the process

#[tokio::test]
async fn sessions_survive_the_process_and_are_refreshed_in_the_next() {
    let site = site().await;
    grow(&site, 10 << 10);
    let browser = site.signed_in().await;
    let again = restart(&site).await;
    let browser = moved(&browser, &again);
    assert_eq!(browser.fetch("GET", "/x").await.header("x-seen-user"), "ada");
    again.provider.revoke_access_tokens();
    assert_eq!(browser.fetch("GET", "/x").await.header("x-seen-user"), "ada");
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (1, 0));
    assert_eq!(browser.fetch("POST", "/auth/logout").await.status, 200);
    assert_eq!(names(&browser), [""; 0]);
}

#[tokio::test]
async fn a_token_of_ours_works_where_its_session_has_been_seen() {
    let site = site().await;
    let browser = site.signed_in().await;
    let token = browser.fetch("POST", "/auth/refresh").await.json()["token"].as_str().unwrap().to_owned();
    let ask = |browser: Browser| {
        let request = Request::fetch("GET", "/x").header("Authorization", &format!("Bearer {token}"));
        async move { browser.send(request).await }
    };
    assert_eq!(ask(site.browser()).await.status, 200);
    let again = restart(&site).await;
    assert_eq!(ask(again.browser()).await.status, 401, "its session is in a browser");
    assert_eq!(moved(&browser, &again).fetch("GET", "/x").await.status, 200);
    assert_eq!(ask(again.browser()).await.status, 200);
}

// ------------------------------------------------------------------------------------- harm

// TX-15, SC-04, SC-07, SC-08, SC-10
#[tokio::test]
async fn damaged_cookies_are_no_session_and_no_error() {
    let site = site().await;
    grow(&site, 10 << 10);
    let browser = site.signed_in().await;
    let whole = chunks(&browser);
    let other = chunks(&site.signed_in_as("bob").await);
    let mut wrong: Vec<Vec<(usize, String)>> = Vec::new();
    for at in 0..whole.len() {
        let numbered = || whole.iter().cloned().enumerate().collect::<Vec<_>>();
        let mut missing = numbered();
        missing.remove(at);
        let mut swapped = numbered();
        swapped[at].1.clone_from(&whole[(at + 1) % whole.len()]);
        let mut mixed = numbered();
        mixed[at].1.clone_from(&other[at]);
        let mut flipped = numbered();
        let byte = if flipped[at].1.ends_with('A') { "B" } else { "A" };
        flipped[at].1.pop();
        flipped[at].1.push_str(byte);
        let mut cut = numbered();
        cut[at].1.truncate(17);
        wrong.extend([missing, swapped, mixed, flipped, cut]);
    }
    for value in ["", "1", "z", "0AAAA", "1AAAA", "6", "\u{e9}", "9999999999", "%00", "1====", "A"] {
        wrong.push(vec![(0, value.to_owned())]);
    }
    for values in wrong {
        let cookies = field(&values);
        let reply = site.browser().send(Request::navigation("/x").header("Cookie", &cookies)).await;
        login_redirect(&reply, 302, "unauthorized", "/x");
        let reply = site.browser().send(Request::fetch("GET", "/auth/me").header("Cookie", &cookies)).await;
        assert_eq!(reply.status, 401);
        let reply = site.browser().send(Request::fetch("POST", "/auth/logout").header("Cookie", &cookies)).await;
        assert_eq!(reply.status, 200);
    }
    assert_eq!(browser.fetch("GET", "/x").await.status, 200);
}

// SC-03
#[tokio::test]
async fn a_planted_cookie_does_not_hide_the_session_and_two_sessions_are_none() {
    let site = site().await;
    let (ada, bob) = (site.signed_in().await, site.signed_in_as("bob").await);
    let (ada, bob) = (ada.cookie_field(), bob.cookie_field());
    let ask = |cookies: String| {
        let browser = site.browser();
        async move { browser.send(Request::fetch("GET", "/auth/me").header("Cookie", &cookies)).await.status }
    };
    assert_eq!(ask(format!("latchgate=planted; {ada}")).await, 200);
    assert_eq!(ask(format!("{ada}; latchgate=planted")).await, 200);
    assert_eq!(ask(format!("{ada}; {ada}")).await, 200);
    assert_eq!(ask(format!("{ada}; {bob}")).await, 401);
}

// ------------------------------------------------------------------------------------- the stage

async fn site() -> Site {
    let site = Site::plan().session(STORE).route("/*", "auth = true").start().await;
    site.upstream.accept_live_tokens(&site.provider);
    site
}

/// Another process with the same file, beside the same provider.
async fn restart(site: &Site) -> Site {
    let plan = Site::plan().session(STORE).provider(&site.provider, &site.clock);
    let again = plan.route("/*", "auth = true").start().await;
    again.upstream.accept_live_tokens(&again.provider);
    again
}

/// The same browser, which now finds the other process at the same address.
fn moved(browser: &Browser, site: &Site) -> Browser {
    let moved = site.browser();
    for cookie in browser.cookies() {
        moved.plant(&format!("{}={}; Path=/; HttpOnly; SameSite=Lax", cookie.name, cookie.value));
    }
    moved
}

/// From now on tokens come with about as much besides.
fn grow(site: &Site, bytes: usize) {
    let scope = format!("openid {}", "s".repeat(bytes));
    site.provider.configure(|habits| {
        habits.token_answer = Box::new(move |answer| {
            answer.insert("scope".to_owned(), json!(scope));
        });
    });
}

fn shrink(site: &Site) {
    site.provider.configure(|habits| habits.token_answer = Box::new(|_| {}));
}

fn names(browser: &Browser) -> Vec<String> {
    browser.cookies().into_iter().map(|cookie| cookie.name).collect()
}

/// The values of the session's cookies, in order.
fn chunks(browser: &Browser) -> Vec<String> {
    let cookies = browser.cookies();
    let value = |name: &str| cookies.iter().find(|cookie| cookie.name == name).map(|cookie| cookie.value.clone());
    let rest = (1..).map_while(|number| value(&format!("latchgate-{number}")));
    value("latchgate").into_iter().chain(rest).collect()
}

fn field(values: &[(usize, String)]) -> String {
    let name = |number: usize| if number == 0 { "latchgate".to_owned() } else { format!("latchgate-{number}") };
    values.iter().map(|(number, value)| format!("{}={value}", name(*number))).collect::<Vec<_>>().join("; ")
}

/// What a reply does to the session's cookies.
fn session_cookies(reply: &Reply) -> Vec<SetCookie> {
    let is_chunk = |name: &str| {
        let rest = name.strip_prefix("latchgate").unwrap_or("x");
        rest.is_empty() || rest.strip_prefix('-').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let set = reply.headers.values("set-cookie").into_iter().map(SetCookie::parse);
    set.filter(|cookie| is_chunk(&cookie.name)).collect()
}
