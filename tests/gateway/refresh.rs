//! One refresh flight, whoever waits for it: crowds, hang-ups, shutdown, bodies, guards.

use crate::harness::expect::{error_json, login_after_refusal, login_status, relayed};
use crate::harness::inspect::Expectations;
use crate::harness::provider::CLIENT_ID;
use crate::harness::{Answer, Browser, Endpoint, Fault, Gate, Provider, Reply, Request, Site, eventually, together};
use latchgate::app::Drained;
use latchgate::clock::Clock;
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::timeout;

/// Past the life of an access token.
const LIFE: Duration = Duration::from_secs(3700);

// ---------------------------------------------------------------------------------- one flight

// RF-02
#[tokio::test]
async fn two_hundred_401s_of_one_session_make_one_token_call() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    site.provider.next(Endpoint::Token, Fault::Delay(Duration::from_millis(200)));
    let replies = fetch_together(&browser, 200).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (1, 0));
    let received = site.upstream.received();
    let tokens: HashSet<_> = received.iter().map(|request| request.bearer().unwrap()).collect();
    assert!(tokens.len() == 2 && received.len() <= 400, "{} requests", received.len());
}

// TN-26
#[tokio::test]
async fn forced_refreshes_at_once_share_one_token_call() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    let gate = Gate::closed();
    site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    let opener = async {
        gate.arrivals(1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        gate.open();
    };
    let forced = together(2, |_| {
        let browser = browser.clone();
        async move { browser.fetch("POST", "/auth/refresh").await }
    });
    let (replies, ()) = tokio::join!(forced, opener);
    for reply in &replies {
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.json()["expiresIn"].is_u64());
    }
    assert_eq!(site.provider.refreshes(), 1);
}

// TX-24, X-36, X-38, X-39
#[tokio::test]
async fn a_front_end_may_be_given_a_token_that_is_good_for_a_while() {
    let site = Site::plan().login("expose_access_token = true").route("/*", "auth = true").start().await;
    let browser = site.signed_in().await;
    let first = browser.fetch("GET", "/auth/access-token").await;
    assert_eq!((first.status, first.header("cache-control")), (200, "no-store"));
    let first = first.json();
    assert_eq!(first["token_type"], "Bearer");
    assert!(first["token"].is_string() && first["expires_in"].is_u64() && first["expires_at"].is_u64());
    assert_eq!(browser.fetch("GET", "/auth/access-token").await.json()["token"], first["token"]);
    assert_eq!(site.provider.refreshes(), 0);

    site.clock.advance(LIFE);
    let second = browser.fetch("GET", "/auth/access-token").await.json();
    assert!(second["token"].is_string() && second["token"] != first["token"]);
    assert_eq!(site.provider.refreshes(), 1);

    for wrong in ["?audience=api", "?scope=more-than-there-is"] {
        assert_eq!(browser.fetch("GET", &format!("/auth/access-token{wrong}")).await.status, 400);
    }
    let foreign = Request::fetch("GET", "/auth/access-token").with("Sec-Fetch-Site", "cross-site");
    assert_eq!(browser.send(foreign).await.status, 403);

    site.clock.advance(LIFE);
    site.provider.revoke_grants();
    let refused = browser.fetch("GET", "/auth/access-token").await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (401, Some("failed_to_refresh_token")));
    let nobody = browser.fetch("GET", "/auth/access-token").await;
    assert_eq!((nobody.status, nobody.json()["code"].as_str()), (401, Some("missing_session")));
}

// TX-25
#[tokio::test]
async fn a_front_end_is_given_no_token_unless_the_operator_says_so() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    assert_eq!(browser.fetch("GET", "/auth/access-token").await.status, 404);
}

// RF-21, RF-22
#[tokio::test]
async fn many_users_refresh_at_once_and_nobody_gets_anothers_token() {
    let site = expiring_site().await;
    let mut browsers = Vec::new();
    for number in 0..12 {
        let user = format!("user-{number}");
        site.provider.add_user(&user, json!({}));
        browsers.push((user.clone(), site.signed_in_as(&user).await));
    }
    for round in 0..4 {
        if round % 2 == 0 {
            site.provider.revoke_access_tokens()
        } else {
            site.clock.advance(LIFE)
        }
        site.clock.advance(Duration::from_secs(60));
        let replies = together(browsers.len() * 4, |number| {
            let (user, browser) = browsers[number % browsers.len()].clone();
            async move {
                if number % 7 == 6 {
                    drop(browser.dispatch(Request::fetch("GET", "/hang-up")).await);
                }
                (user, browser.fetch("GET", "/x").await)
            }
        });
        for (user, reply) in replies.await {
            relayed(&reply, 200);
            assert_eq!(reply.header("x-seen-user"), user);
        }
    }
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (4 * 12, 0));
}

// --------------------------------------------------------------------------- hang-up, shutdown

// RF-08, TA-15
#[tokio::test]
async fn a_client_that_hangs_up_does_not_cancel_the_refresh() {
    let site = expiring_site().await;
    for expired in [true, false] {
        let browser = site.signed_in().await;
        let refreshes = site.provider.refreshes();
        if expired {
            site.clock.advance(LIFE)
        } else {
            site.provider.revoke_access_tokens()
        }
        let gate = Gate::closed();
        site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
        let leader = browser.dispatch(Request::fetch("GET", "/leader")).await;
        gate.arrivals(1).await;
        let waiter = {
            let browser = browser.clone();
            tokio::spawn(async move { browser.fetch("GET", "/waiter").await })
        };
        drop(leader);
        tokio::time::sleep(Duration::from_millis(200)).await;
        gate.open();
        relayed(&waiter.await.unwrap(), 200);
        relayed(&browser.fetch("GET", "/later").await, 200);
        assert_eq!((site.provider.refreshes() - refreshes, site.provider.reuses()), (1, 0));
    }
}

// RF-08
#[tokio::test]
async fn a_refresh_nobody_waits_for_any_more_is_kept() {
    let (site, browser, gate) = site_with_a_held_refresh().await;
    let lonely = browser.dispatch(Request::fetch("GET", "/x")).await;
    gate.arrivals(1).await;
    drop(lonely);
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.open();
    eventually(|| async { site.provider.secrets().iter().filter(|secret| secret.starts_with("rt-")).count() == 2 })
        .await;
    relayed(&browser.fetch("GET", "/later").await, 200);
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (1, 0));
}

// RF-09
#[tokio::test]
async fn shutting_down_waits_for_a_refresh_and_its_request() {
    let (site, browser, gate) = site_with_a_held_refresh().await;
    let request = tokio::spawn(async move { browser.fetch("GET", "/x").await });
    gate.arrivals(1).await;
    let gateway = site.gateway;
    let stopping = tokio::spawn(async move { gateway.shut_down().await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!stopping.is_finished(), "the refresh is in flight");
    gate.open();
    relayed(&request.await.unwrap(), 200);
    let drained = timeout(Duration::from_secs(10), stopping).await.expect("it drains").unwrap();
    assert!(matches!(drained, Drained::Complete));
}

// RF-09
#[tokio::test]
async fn shutting_down_waits_for_a_refresh_whose_client_is_gone() {
    let (site, browser, gate) = site_with_a_held_refresh().await;
    let lonely = browser.dispatch(Request::fetch("GET", "/x")).await;
    gate.arrivals(1).await;
    drop(lonely);
    let gateway = site.gateway;
    let stopping = tokio::spawn(async move { gateway.shut_down().await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!stopping.is_finished(), "the refresh is in flight");
    gate.open();
    let drained = timeout(Duration::from_secs(10), stopping).await.expect("it drains").unwrap();
    assert!(matches!(drained, Drained::Complete));
}

#[tokio::test]
async fn what_outlives_the_drain_timeout_is_cut_off() {
    let site = Site::plan().server("drain_timeout = \"1s\"").route("/*", "auth = \"public\"").start().await;
    let gate = Gate::closed();
    site.upstream.answer(move |_| Answer::status(200).behind(&gate));
    let _open = site.browser().dispatch(Request::fetch("GET", "/x")).await;
    eventually(|| async { site.upstream.hits() == 1 }).await;
    let drained = timeout(Duration::from_secs(10), site.gateway.shut_down()).await.expect("the timeout holds");
    assert!(matches!(drained, Drained::CutOff));
}

// -------------------------------------------------------------------------------------- faults

// RF-11
#[tokio::test]
async fn invalid_grant_ends_the_session_once_and_asks_no_more() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    site.provider.revoke_grants();
    for _ in 0..3 {
        assert_eq!(browser.fetch("GET", "/x").await.status, 401);
    }
    assert_eq!((site.provider.refreshes(), site.upstream.hits()), (1, 1));
}

// RF-13
#[tokio::test]
async fn retry_after_of_the_provider_is_honoured() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.clock.advance(LIFE);
    site.provider.always(Endpoint::Token, Fault::RetryAfter(429, 100));
    error_json(&browser.fetch("GET", "/x").await, 503);
    let calls = site.provider.refreshes();
    site.provider.recover(Endpoint::Token);
    site.clock.advance(Duration::from_secs(50));
    error_json(&browser.fetch("GET", "/x").await, 503);
    assert_eq!(site.provider.refreshes(), calls, "asked before Retry-After was over");
    site.clock.advance(Duration::from_secs(60));
    relayed(&browser.fetch("GET", "/x").await, 200);
}

// RF-14
#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_at_most_once() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.clock.advance(LIFE);
    site.provider.next(Endpoint::Token, Fault::LoseAnswer);
    let reply = browser.fetch("GET", "/x").await;
    assert!(matches!(reply.status, 401 | 503), "{}", reply.status);
    assert!(site.provider.refreshes() <= 2, "{}", site.provider.refreshes());
}

// RF-12
#[tokio::test]
async fn a_provider_that_is_down_is_not_asked_by_every_request() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.clock.advance(LIFE);
    site.provider.always(Endpoint::Token, Fault::Json(503, json!({})));
    for _ in 0..50 {
        error_json(&browser.fetch("GET", "/x").await, 503);
    }
    assert!(site.provider.refreshes() <= 15, "no back-off: {} calls", site.provider.refreshes());
    assert!(browser.session_cookie().is_some());
}

// IP-06
#[tokio::test]
async fn a_provider_that_forgets_all_its_refresh_tokens_costs_each_user_one_login() {
    const USERS: usize = 30;
    let site = expiring_site().await;
    let mut browsers = Vec::new();
    for number in 0..USERS {
        let user = format!("user-{number}");
        site.provider.add_user(&user, json!({}));
        browsers.push(site.signed_in_as(&user).await);
    }
    site.clock.advance(LIFE);
    site.provider.revoke_grants();
    let crowd = together(USERS, |number| {
        let browser = browsers[number].clone();
        async move {
            let script = browser.fetch("GET", "/x").await;
            login_status(&script, "expired", "/page");
            let page = browser.navigate("/x").await;
            assert!(page.trail.iter().all(|(_, status)| *status < 400), "{:?}", page.trail);
            let login = page.trail.iter().filter(|(url, _)| url.path() == "/auth/login").count();
            (page.reply.status, login)
        }
    });
    assert!(crowd.await.iter().all(|outcome| *outcome == (200, 1)));
    assert_eq!((site.provider.refreshes(), site.provider.code_exchanges()), (USERS, 2 * USERS));
}

// IP-07
#[tokio::test]
async fn a_provider_that_is_down_holds_up_no_user_of_another() {
    let clock = Clock::system();
    let other = Provider::start(clock.clone()).await;
    other.register("http://gw.test/auth/other");
    let more = format!(
        "[providers.other]\nkind = \"oidc\"\nissuer = \"{}\"\nclient_id = \"{CLIENT_ID}\"\nclient_secret = {{ env = \"CLIENT_SECRET\" }}\n",
        other.issuer()
    );
    let provider = Provider::start(clock.clone()).await;
    let site = Site::plan()
        .provider(&provider, &clock)
        .more(&more)
        .route("/other/*", "auth = true\nprovider = \"other\"")
        .route("/*", "auth = true\nprovider = \"corp\"")
        .start()
        .await;
    let expected = Expectations {
        external: "http://gw.test".parse().unwrap(),
        login_prefix: "/auth".to_owned(),
        issuer: other.issuer(),
    };
    let theirs = Browser::new(site.gateway.address, other.clone(), expected, clock.clone());
    let ours = site.browser();
    ours.navigate("/auth/corp?return_to=/x").await;
    theirs.navigate("/auth/other?return_to=/other/x").await;
    assert!(ours.session_cookie().is_some() && theirs.session_cookie().is_some());

    clock.advance(LIFE);
    let gate = Gate::closed();
    other.always(Endpoint::Token, Fault::Held(gate.clone()));
    let held = {
        let theirs = theirs.clone();
        tokio::spawn(async move { theirs.fetch("GET", "/other/x").await })
    };
    gate.arrivals(1).await;
    relayed(&ours.fetch("GET", "/x").await, 200);
    assert_eq!((site.provider.refreshes(), held.is_finished()), (1, false));
    other.go_down();
    error_json(&held.await.unwrap(), 503);

    for _ in 0..20 {
        error_json(&theirs.fetch("GET", "/other/x").await, 503);
        clock.advance(LIFE);
        relayed(&ours.fetch("GET", "/x").await, 200);
    }
    assert_eq!(site.provider.refreshes(), 21);
    assert_eq!(site.browser().navigate("/auth/corp?return_to=/x").await.reply.status, 200);
    assert!(theirs.session_cookie().is_some(), "nobody is signed out");

    other.recover(Endpoint::Token);
    other.come_up();
    clock.advance(Duration::from_secs(60));
    relayed(&theirs.fetch("GET", "/other/x").await, 200);
}

// RF-16
#[tokio::test]
async fn an_upstream_that_never_likes_a_token_does_not_make_a_refresh_storm() {
    let site = Site::protected().await;
    site.upstream.answer(|_| Answer::unauthorized());
    let browser = site.signed_in().await;
    for _ in 0..20 {
        login_after_refusal(&browser.fetch("GET", "/x").await, "expired", "/page");
    }
    assert_eq!(site.provider.refreshes(), 1, "refresh.cooldown");
    for _ in 0..100 {
        site.clock.advance(Duration::from_secs(6));
        assert_eq!(browser.fetch("GET", "/x").await.status, 401);
    }
    assert!(site.provider.refreshes() <= 12, "the guard doubles: {} in ten minutes", site.provider.refreshes());
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200, "the session is kept");

    site.upstream.answer(|_| Answer::status(200));
    relayed(&browser.fetch("GET", "/x").await, 200);
}

// RF-18
#[tokio::test]
async fn only_a_401_starts_a_refresh() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    for status in [403, 407, 419, 440] {
        site.upstream.next(Answer::status(status).header("WWW-Authenticate", "Bearer error=\"invalid_token\""));
        relayed(&browser.fetch("GET", "/x").await, status);
    }
    assert_eq!(site.provider.refreshes(), 0);
}

// RF-26, TX-69
#[tokio::test]
async fn odd_lives_of_tokens_do_not_make_a_busy_refresh() {
    for expires_in in [
        None,
        Some(json!(0)),
        Some(json!(1)),
        Some(json!(-1)),
        Some(json!(1e12)),
        Some(json!("300")),
        Some(json!(null)),
    ] {
        let site = Site::protected().await;
        let odd = expires_in.clone();
        site.provider.configure(|habits| {
            habits.token_answer = Box::new(move |answer| match &odd {
                Some(value) => drop(answer.insert("expires_in".to_owned(), value.clone())),
                None => drop(answer.remove("expires_in")),
            });
        });
        let browser = site.signed_in().await;
        for _ in 0..10 {
            relayed(&browser.fetch("GET", "/x").await, 200);
        }
        assert!(site.provider.refreshes() <= 2, "{expires_in:?}: {}", site.provider.refreshes());
    }
}

// RF-33
#[tokio::test]
async fn a_replay_does_not_wait_for_the_end_of_the_refusal() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let (steps, slow) = Answer::steps();
    site.upstream.next(slow.with_status(401));
    steps.send(vec![b'x'; 1000]).unwrap();
    let reply = timeout(Duration::from_secs(5), browser.fetch("GET", "/x")).await;
    relayed(&reply.expect("the 401 never ends"), 200);
    drop(steps);
}

// -------------------------------------------------------------------------------------- logout

// RF-28, LO-06, TN-37
#[tokio::test]
async fn a_refresh_that_comes_back_after_the_logout_brings_nobody_back() {
    let (site, browser, gate) = site_with_a_held_refresh().await;
    let waiting = {
        let browser = browser.clone();
        tokio::spawn(async move { browser.fetch("GET", "/x").await })
    };
    gate.arrivals(1).await;
    let cookie = format!("latchgate={}", browser.session_cookie().unwrap());
    assert_eq!(browser.fetch("POST", "/auth/logout").await.status, 200);
    gate.open();
    let late = waiting.await.unwrap();
    assert_eq!(late.status, 401, "{}", late.text());
    assert_eq!(browser.session_cookie(), None, "no answer brings the cookie back");
    let replayed = browser.send(Request::fetch("GET", "/auth/me").header("Cookie", &cookie)).await;
    assert_eq!(replayed.status, 401);
    eventually(|| async { site.provider.all_grants_revoked() }).await;
}

// -------------------------------------------------------------------------------------- bodies

// RF-29, RF-32, TN-21
#[tokio::test]
async fn bodies_up_to_the_limit_are_replayed_and_larger_ones_are_sent_again_by_the_client() {
    let site = Site::plan().limits("replay_body = \"1KiB\"").route("/*", "auth = true").start().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.signed_in().await;
    for size in [0, 1, 1024] {
        prepare(&site);
        relayed(&post(&browser, size).await, 200);
        let received = site.upstream.received();
        assert_eq!(received.len(), 2, "{size}");
        assert!(received.iter().all(|request| request.body == body(size)), "{size}");
    }
    for size in [1025, 300_000] {
        prepare(&site);
        let first = post(&browser, size).await;
        assert_eq!(first.status, 307, "{size}");
        assert_eq!(
            browser.url("/upload").join(first.header("location")).unwrap(),
            browser.url(&format!("/upload?n={size}"))
        );
        assert_eq!(site.upstream.hits(), 1, "{size}: no replay of a part");
        relayed(&post(&browser, size).await, 200);
        assert!(site.upstream.last().body == body(size));
    }
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (5, 0));
}

// RF-29
#[tokio::test]
async fn a_large_body_that_meets_401_again_gets_the_401() {
    let site = Site::plan().limits("replay_body = \"1KiB\"").route("/*", "auth = true").start().await;
    site.upstream.answer(|_| Answer::unauthorized());
    let browser = site.signed_in().await;
    assert_eq!(post(&browser, 5000).await.status, 307);
    login_after_refusal(&post(&browser, 5000).await, "expired", "/page");
    assert_eq!((site.upstream.hits(), site.provider.refreshes()), (2, 1));
}

// RF-29
#[tokio::test]
async fn a_chunked_body_is_replayed_too() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    let mut request = Request::fetch("POST", "/x").header("Transfer-Encoding", "chunked");
    for part in [b"hello ".as_slice(), b"you", b""] {
        request.body.extend(crate::harness::wire::chunk(part));
    }
    relayed(&browser.send(request).await, 200);
    let received = site.upstream.received();
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|request| request.body == b"hello you"));
}

// RF-30
#[tokio::test]
async fn all_kept_bodies_together_stay_under_a_limit() {
    let site = Site::plan()
        .limits("replay_body = \"64KiB\"\nreplay_memory = \"64KiB\"")
        .route("/*", "auth = true")
        .start()
        .await;
    let browser = site.signed_in().await;
    let gate = Gate::closed();
    site.upstream.next(Answer::status(200).behind(&gate));
    let first = {
        let browser = browser.clone();
        tokio::spawn(async move { post(&browser, 60_000).await })
    };
    gate.arrivals(1).await;
    site.upstream.next(Answer::unauthorized());
    assert_eq!(post(&browser, 60_000).await.status, 307, "there is no room to keep it");
    gate.open();
    relayed(&first.await.unwrap(), 200);
    site.clock.advance(Duration::from_secs(60));
    site.upstream.next(Answer::unauthorized());
    relayed(&post(&browser, 60_000).await, 200);
}

// RF-31
#[tokio::test]
async fn an_upgrade_and_an_event_stream_are_refreshed_before_they_open() {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    let upgrade = Request::fetch("GET", "/socket")
        .with("Sec-Fetch-Mode", "websocket")
        .header("Origin", &browser.origin())
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let events = Request::fetch("GET", "/events").with("Accept", "text/event-stream");
    for (rounds, request) in [(1, upgrade), (2, events)] {
        site.clock.advance(LIFE);
        site.upstream.forget();
        let (head, _connection) = browser.open(request).await;
        assert_eq!(head.word(1), "200", "{head:?}");
        assert_eq!((site.upstream.hits(), site.provider.refreshes()), (1, rounds));
    }
}

// ---------------------------------------------------------------------------------- the stage

/// Needs a session everywhere; the upstream takes live tokens only.
async fn expiring_site() -> Site {
    let site = Site::protected().await;
    site.upstream.accept_live_tokens(&site.provider);
    site
}

/// Somebody whose token is over, and a provider that keeps the refresh waiting at the gate.
async fn site_with_a_held_refresh() -> (Site, Browser, Gate) {
    let site = expiring_site().await;
    let browser = site.signed_in().await;
    site.clock.advance(LIFE);
    let gate = Gate::closed();
    site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    (site, browser, gate)
}

/// The next request meets 401 and may be refreshed.
fn prepare(site: &Site) {
    site.clock.advance(Duration::from_secs(60));
    site.provider.revoke_access_tokens();
    site.upstream.forget();
}

async fn post(browser: &Browser, size: usize) -> Reply {
    browser
        .send(Request::fetch("POST", &format!("/upload?n={size}")).body("application/octet-stream", body(size)))
        .await
}

fn body(size: usize) -> Vec<u8> {
    (0..size).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

async fn fetch_together(browser: &Browser, count: usize) -> Vec<Reply> {
    together(count, |_| {
        let browser = browser.clone();
        async move { browser.fetch("GET", "/x").await }
    })
    .await
}
