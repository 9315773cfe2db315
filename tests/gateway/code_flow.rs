//! The CODE flow (SPEC §6), for front ends that hold a token: the code, its exchange, refresh tokens and their rotation, logout;
//! and the mock provider as those front ends know it.

use crate::harness::expect::{error_json, error_page, relayed};
use crate::harness::jar::SetCookie;
use crate::harness::{Answer, Browser, Endpoint, Fault, Page, Reply, Request, Site, together};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use latchgate::session::code_flow::CODE_LIFE;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const WEEK: &str = "604800";
const START: &str = "/auth/corp?flow=code&login_hint=ada";
const INVALID_CODE: &str = "Invalid or expired authorization code";
const INVALID_REFRESH: &str = "Invalid or expired refresh token";
/// The mock provider beside `corp`.
const MOCK: &str = r#"
[providers.demo]
kind = "mock"
users = [
  { sub = "ada", name = "Ada Example", email = "ada@example.com", role = "admin" },
  { sub = "bob", name = "Bob Example", email = "bob@example.com" },
]
"#;

// ------------------------------------------------------------------------------------ the code

#[tokio::test]
async fn tg_03_a_login_ends_in_a_code_of_43_characters_and_no_session_cookie() {
    let site = Site::protected().await;
    let browser = site.browser();
    for start in [START, "/auth/login?provider=corp&flow=code&login_hint=ada", "/auth/login?flow=code&login_hint=ada"] {
        let page = browser.navigate(start).await;
        assert_eq!((page.reply.status, page.url.path()), (200, "/auth/callback"), "{:?}", page.trail);
        let redirect = page.trail.iter().rev().nth(1).unwrap();
        assert_eq!((redirect.0.path(), redirect.1), ("/auth/corp", 302));
        let code = code_of(&page);
        assert!(code.len() == 43 && URL_SAFE_NO_PAD.decode(&code).unwrap().len() == 32, "{code}");
        assert_eq!(page.url.query(), Some(format!("code={code}").as_str()), "nothing else when it ends at after_login");
        assert_eq!(browser.session_cookie(), None);
    }
    assert_eq!(browser.fetch("GET", "/x").await.status, 401, "and nobody is signed in before the exchange");
}

/// Front ends that know of one flow only do not ask for it. Whoever was sent to the login comes back to a page that needs the cookie.
#[tokio::test]
async fn login_flow_is_for_logins_that_begin_at_a_provider() {
    let site = Site::plan().login("flow = \"code\"").route("/*", "auth = true").start().await;
    let page = site.browser().navigate("/auth/corp?login_hint=ada").await;
    assert_eq!(code_of(&page).len(), 43);
    for start in ["/auth/corp?flow=cookie&login_hint=ada", "/page?login_hint=ada"] {
        let browser = site.browser();
        let page = browser.navigate(start).await;
        assert!(browser.session_cookie().is_some(), "{start}: {:?}", page.trail);
        relayed(&browser.fetch("GET", "/x").await, 200);
    }
    let site = Site::plan().login("flow = \"code\"").more(MOCK).route("/*", "auth = true").start().await;
    let list = site.browser().fetch("GET", "/auth/login?return_to=%2Fx").await.json();
    for provider in list["providers"].as_array().unwrap() {
        assert!(provider["loginUrl"].as_str().unwrap().contains("flow=cookie"), "{provider}");
    }
}

// TG-03
#[tokio::test]
async fn the_chooser_keeps_the_flow() {
    let site = Site::plan().more(MOCK).route("/*", "auth = true").start().await;
    let list = site.browser().fetch("GET", "/auth/login?flow=code&return_to=%2Fx").await.json();
    for provider in list["providers"].as_array().unwrap() {
        assert!(provider["loginUrl"].as_str().unwrap().contains("flow=code"), "{provider}");
    }
    let page = site.browser().navigate("/auth/demo?flow=code&user=ada").await;
    assert_eq!(code_of(&page).len(), 43);
}

#[tokio::test]
async fn tg_04_the_answer_to_another_browser_s_login_gives_no_code() {
    let site = Site::protected().await;
    let theirs = site.browser().stop_before_callback(START).await;
    let mut stateless = theirs.clone();
    stateless.set_query(Some("code=x"));
    for answer in [theirs, stateless] {
        let victim = site.browser();
        let page = victim.arrive_from_provider(&answer).await;
        error_page(&page.reply, 400);
        assert!(!page.url.as_str().contains("/auth/callback") && victim.cookies().is_empty(), "{:?}", page.trail);
    }
}

#[tokio::test]
async fn tg_05_a_refused_login_ends_at_the_page_with_a_word_of_ours() {
    let site = Site::plan().more(MOCK).route("/*", "auth = true").start().await;
    for (failure, word, status) in [
        ("access_denied", "access_denied", 401),
        ("server_error", "authentication_failed", 400),
        ("temporarily_unavailable", "authentication_failed", 400),
        ("token:invalid_grant", "authentication_failed", 400),
    ] {
        let browser = site.browser();
        let start = format!("/auth/demo?flow=code&user=ada&return_to=%2Fx&mock_error={failure}");
        let page = browser.navigate(&start).await;
        assert_eq!(page.url.path(), "/auth/callback", "{failure}: {:?}", page.trail);
        assert_eq!(page.url.query(), Some(format!("error={word}&return_to=%2Fx").as_str()), "{failure}");
        error_page(&page.reply, status);
        let text = page.reply.text();
        assert!(text.contains("Try again") && !text.contains("mock"), "{failure}: {text}");
        assert!(text.contains("/auth/login?return_to=%2Fx&#38;flow=code"), "{failure}: {text}");
        assert!(browser.cookies().is_empty(), "{failure}");
    }
}

#[tokio::test]
async fn browsers_that_carry_their_sessions_have_no_such_flow() {
    let site = Site::plan().session("store = \"cookie\"").route("/*", "auth = true").start().await;
    error_json(&site.browser().fetch("GET", START).await, 400);
    assert_eq!(site.browser().fetch("GET", "/auth/corp?flow=hybrid").await.status, 400, "a flow that nobody knows");
}

// ------------------------------------------------------------------------------------ the page

#[tokio::test]
async fn the_page_has_one_script_and_no_code() {
    let site = Site::protected().await;
    let browser = site.browser();
    let page = browser.navigate(&format!("{START}&return_to=%2Fdeep%3Fa%3D1%26b%3D%22")).await;
    let (text, code) = (page.reply.text(), code_of(&page));
    assert!(!text.contains(&code), "the code is in the address alone");
    assert!(
        text.contains("data-onward=\"/deep?a=1&#38;b=%22\"") && text.contains("data-exchange=\"/auth/token\""),
        "{text}"
    );
    assert!(text.contains("<noscript>"));
    let script = text.split("<script").nth(1).unwrap().split_once('>').unwrap().1.split("</script>").next().unwrap();
    let hash = STANDARD.encode(digest(&SHA256, script.as_bytes()));
    let policy = page.reply.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && policy.contains(&format!("script-src 'sha256-{hash}'")),
        "{policy}"
    );
    assert!(policy.contains("connect-src 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(text.matches("<script").count(), 1);
}

// RFC 9700 §4.7: a link with the attacker's code must not sign the victim in as the attacker.
#[tokio::test]
async fn the_page_exchanges_no_code_of_another_browser() {
    let site = Site::protected().await;
    let attacker = site.browser();
    let page = attacker.navigate(START).await;
    let link = format!("/auth/callback?{}", page.url.query().unwrap());
    let victim = site.browser().navigate(&link).await;
    error_page(&victim.reply, 400);
    assert!(!victim.reply.text().contains("<script"));
    assert_eq!(attacker.navigate(&link).await.reply.status, 200, "where it was given, the page can be loaded again");
    for nonsense in ["/auth/callback", "/auth/callback?code=", "/auth/callback?code=x", "/auth/callback?error=%3Cb%3E"]
    {
        let page = attacker.navigate(nonsense).await;
        error_page(&page.reply, 400);
        assert!(!page.reply.text().contains("<b>"), "{nonsense}");
    }
}

#[tokio::test]
async fn tg_34_the_page_goes_on_to_this_site_alone() {
    let site = Site::protected().await;
    for (wanted, onward) in [
        ("/\\evil", "/"),
        ("//evil", "/"),
        ("https://evil", "/"),
        ("/\t/evil", "/"),
        ("javascript:alert(1)", "/"),
        ("/ok?x=1", "/ok?x=1"),
    ] {
        let browser = site.browser();
        let wanted: String = url::form_urlencoded::byte_serialize(wanted.as_bytes()).collect();
        let page = browser.navigate(&format!("{START}&return_to={wanted}")).await;
        assert!(page.reply.text().contains(&format!("data-onward=\"{onward}\"")), "{wanted}: {}", page.reply.text());
        // Whoever changes the address of the page gets no further.
        let page = browser.navigate(&format!("/auth/callback?code={}&return_to={wanted}", code_of(&page))).await;
        assert!(page.reply.text().contains(&format!("data-onward=\"{onward}\"")), "{wanted}: {}", page.reply.text());
    }
}

#[tokio::test]
async fn the_page_goes_on_to_after_login_where_no_login_leads_back() {
    let site = Site::plan().login("return_to_page = false").route("/*", "auth = true").start().await;
    let browser = site.browser();
    let page = browser.navigate(&format!("{START}&return_to=%2Fdeep")).await;
    assert!(page.reply.text().contains("data-onward=\"/\""), "{}", page.reply.text());
    let page = browser.navigate(&format!("/auth/callback?code={}&return_to=%2Fdeep", code_of(&page))).await;
    assert!(page.reply.text().contains("data-onward=\"/\""), "{}", page.reply.text());
}

// -------------------------------------------------------------------------------- the exchange

#[tokio::test]
async fn tg_07_a_code_is_exchanged_for_a_token_and_a_refresh_cookie() {
    for (external_url, name) in
        [("https://gw.test", "__Host-latchgate-refresh"), ("http://gw.test", "latchgate-refresh")]
    {
        let site = Site::plan().external_url(external_url).route("/*", "auth = true").start().await;
        let browser = site.browser();
        let reply = exchange(&browser, &code(&browser).await).await;
        assert_eq!((reply.status, reply.header("cache-control")), (200, "no-store"), "{}", reply.text());
        let body = reply.json();
        assert_eq!(body["expiresIn"], 3600);
        assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
        let cookie = refresh_cookie(&reply).expect("a refresh cookie");
        assert_eq!((cookie.name.as_str(), cookie.attribute("max-age")), (name, Some(WEEK)));
        assert_eq!((cookie.attribute("path"), cookie.attribute("samesite")), (Some("/"), Some("Lax")));
        assert_eq!((cookie.attribute("httponly"), cookie.attribute("domain")), (Some(""), None));
        assert_eq!(cookie.attribute("secure").is_some(), external_url.starts_with("https"));
        assert_eq!(browser.session_cookie(), None, "the token stands for it");
        let names: Vec<String> = browser.cookies().into_iter().map(|cookie| cookie.name).collect();
        assert_eq!(names, [name], "what told this browser from others is gone too");
    }
}

// TG-07, G-12
#[tokio::test]
async fn the_token_stands_for_the_session_and_reaches_no_upstream() {
    let site = Site::protected().await;
    let browser = site.browser();
    let token = token_of(&exchange(&browser, &code(&browser).await).await);
    let payload = token.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert_eq!(claims["sub"], "corp:ada");
    relayed(&bearing(&browser, "GET", "/x", &token).await, 200);
    let sent = site.upstream.last();
    let bearer = sent.bearer().unwrap().to_owned();
    assert_eq!(site.provider.user_of(&bearer).as_deref(), Some("ada"), "the provider's token");
    assert!(!sent.headers.contains("cookie"), "and no refresh token");
    assert_eq!(browser.fetch("GET", "/x").await.status, 401, "the refresh cookie alone opens nothing");
    assert_eq!(bearing(&browser, "GET", "/auth/me", &token).await.json()["sub"], "ada");
}

#[tokio::test]
async fn tg_08_a_code_works_once() {
    let site = Site::protected().await;
    let browser = site.browser();
    let code = code(&browser).await;
    let token = token_of(&exchange(&browser, &code).await);
    let again = exchange(&browser, &code).await;
    assert_eq!(error_json(&again, 401)["message"], INVALID_CODE);
    assert!(!again.headers.contains("set-cookie"));
    relayed(&bearing(&browser, "GET", "/x", &token).await, 200);
}

#[tokio::test]
async fn tg_09_a_code_lives_for_a_minute() {
    let site = Site::protected().await;
    let browser = site.browser();
    let used = code(&browser).await;
    site.clock.advance(CODE_LIFE - SECOND);
    assert_eq!(exchange(&browser, &used).await.status, 200, "59 s");
    let late = code(&browser).await;
    site.clock.advance(CODE_LIFE + SECOND);
    let unknown = "A".repeat(43);
    let mut bodies = HashSet::new();
    for code in [&late, &used, &unknown, &"x".to_owned(), &late[1..].to_owned()] {
        let mut body = error_json(&exchange(&browser, code).await, 401);
        assert_eq!(body["message"], INVALID_CODE);
        body["requestId"].take();
        bodies.insert(body.to_string());
    }
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

// With two gateways on one store: tests/processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tg_10_of_fifty_who_exchange_a_code_at_once_one_succeeds() {
    let site = Site::protected().await;
    let browser = site.browser();
    let code = code(&browser).await;
    let replies = together(50, |_| {
        let (browser, code) = (browser.clone(), code.clone());
        async move { exchange(&browser, &code).await }
    })
    .await;
    let made: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 200).collect();
    assert_eq!(made.len(), 1);
    assert!(replies.iter().all(|reply| matches!(reply.status, 200 | 401)));
    relayed(&bearing(&browser, "GET", "/x", &token_of(made[0])).await, 200);
}

#[tokio::test]
async fn tg_11_what_is_no_exchange_is_400() {
    let site = Site::protected().await;
    let browser = site.browser();
    let live = code(&browser).await;
    for (content_type, body, message) in [
        ("application/json", String::new(), "Missing authorization code"),
        ("application/json", "{}".to_owned(), "Missing authorization code"),
        ("application/json", r#"{"code":""}"#.to_owned(), "Missing authorization code"),
        ("application/json", r#"{"code":7}"#.to_owned(), "Missing authorization code"),
        ("application/json", "{".to_owned(), "The body must be a JSON object"),
        ("application/json", "[]".to_owned(), "The body must be a JSON object"),
        (
            "application/x-www-form-urlencoded",
            format!("code={live}"),
            "The body must be JSON, and Content-Type must say so",
        ),
        ("text/plain", json!({"code": live}).to_string(), "The body must be JSON, and Content-Type must say so"),
    ] {
        let reply = browser.send(Request::fetch("POST", "/auth/token").body(content_type, body.as_str())).await;
        assert_eq!(error_json(&reply, 400)["message"], message, "{content_type} {body}");
    }
    let charset = Request::fetch("POST", "/auth/token")
        .body("application/json; charset=utf-8", json!({"code": live}).to_string());
    let foreign = charset.clone().with("Sec-Fetch-Site", "cross-site").with("Origin", "https://evil.test");
    error_json(&browser.send(foreign).await, 403);
    assert_eq!(browser.fetch("GET", "/auth/token").await.status, 405);
    assert_eq!(browser.send(charset).await.status, 200, "none of them has used it up");
}

#[tokio::test]
async fn tg_12_who_guesses_is_told_to_wait() {
    let site = Site::protected().await;
    let browser = site.browser();
    let mut statuses = Vec::new();
    for guess in 0..200u32 {
        let code = URL_SAFE_NO_PAD.encode(digest(&SHA256, &guess.to_be_bytes()));
        let reply = exchange(&browser, &code).await;
        if reply.status == 429 {
            assert_eq!(error_json(&reply, 429)["code"], "too_many_attempts");
            assert!(reply.header("retry-after").parse::<u64>().unwrap() <= 300);
        }
        statuses.push(reply.status);
    }
    let answered = statuses.iter().take_while(|status| **status == 401).count();
    assert_eq!(answered, 60);
    assert!(statuses[answered..].iter().all(|status| *status == 429), "{statuses:?}");
    let code = code(&browser).await;
    assert_eq!(exchange(&browser, &code).await.status, 429);
    site.clock.advance(Duration::from_secs(300));
    assert_eq!(exchange(&browser, &self::code(&browser).await).await.status, 200);
}

// G-C1
#[tokio::test]
async fn the_token_has_its_other_names_where_they_are_wanted() {
    let site = Site::plan().more("[tokens]\naliases = true").route("/*", "auth = true").start().await;
    let browser = site.browser();
    let exchanged = exchange(&browser, &code(&browser).await).await;
    site.clock.advance(10 * SECOND);
    for reply in [exchanged, refresh(&browser).await] {
        let body = reply.json();
        assert!(body["token"].is_string());
        assert_eq!((&body["accessToken"], &body["access_token"]), (&body["token"], &body["token"]));
        assert_eq!(body["tokenType"], "Bearer");
    }
}

#[tokio::test]
async fn a_new_login_ends_the_session_before_it_whatever_the_flow() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let cookie = browser.session_cookie().unwrap();
    let code = code(&browser).await;
    assert_eq!(browser.session_cookie(), None);
    let old = Request::fetch("GET", "/x").header("Cookie", &format!("latchgate={cookie}"));
    assert_eq!(browser.send(old).await.status, 401);
    let token = token_of(&exchange(&browser, &code).await);
    browser.sign_in_as("ada", "/auth/me").await;
    assert_eq!(refresh_value(&browser), None);
    assert_eq!(bearing(&browser, "GET", "/x", &token).await.status, 401);
}

// --------------------------------------------------------------------------------- the refresh

#[tokio::test]
async fn tg_13_a_refresh_gives_a_token_and_another_refresh_token() {
    let site = Site::protected().await;
    let browser = signed_in(&site).await;
    let first = refresh_value(&browser).unwrap();
    let reply = refresh(&browser).await;
    assert_eq!((reply.status, reply.header("cache-control")), (200, "no-store"), "{}", reply.text());
    let body = reply.json();
    assert_eq!((body["expiresIn"].as_u64(), body.as_object().unwrap().len()), (Some(3600), 2));
    let cookie = refresh_cookie(&reply).unwrap();
    assert_eq!(cookie.attribute("max-age"), Some(WEEK));
    assert_ne!(cookie.value, first);
    relayed(&bearing(&browser, "GET", "/x", &token_of(&reply)).await, 200);
    assert_eq!(site.provider.refreshes(), 1, "the provider's tokens are new as well");
    for _ in 0..3 {
        site.clock.advance(10 * SECOND);
        assert_eq!(refresh(&browser).await.status, 200);
    }
}

#[tokio::test]
async fn tg_14_what_names_no_session_is_401_with_one_body() {
    let site = Site::protected().await;
    let mut bodies = HashSet::new();
    let ended = signed_in(&site).await;
    let token = refresh_value(&ended).unwrap();
    assert_eq!(ended.fetch("POST", "/auth/logout").await.status, 200);
    let expired = signed_in(&site).await;
    site.clock.advance(Duration::from_secs(73 * 3600));
    let unknown = site.browser();
    for cookies in [
        None,
        Some("latchgate-refresh=".to_owned()),
        Some(format!("latchgate-refresh={}", "A".repeat(91))),
        Some(format!("latchgate-refresh={}x", &token[1..])),
        Some(format!("latchgate-refresh={token}")),
        Some(expired.cookie_field()),
    ] {
        let request = Request::fetch("POST", "/auth/refresh");
        let reply =
            unknown.send(cookies.iter().fold(request, |request, cookies| request.header("Cookie", cookies))).await;
        let mut body = error_json(&reply, 401);
        assert_eq!(body["message"], INVALID_REFRESH);
        let expires = reply.headers.values("set-cookie").into_iter().map(SetCookie::parse);
        assert_eq!(expires.filter(|it| it.name == "latchgate-refresh" && it.deletes()).count(), cookies.iter().count());
        body["requestId"].take();
        bodies.insert(body.to_string());
    }
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tg_15_two_tabs_that_refresh_at_once_get_the_same_successor() {
    let site = Site::protected().await;
    let browser = signed_in(&site).await;
    let before = browser.cookie_field();
    let replies = together(8, |_| {
        let (browser, before) = (browser.clone(), before.clone());
        async move { browser.send(Request::fetch("POST", "/auth/refresh").header("Cookie", &before)).await }
    })
    .await;
    assert!(
        replies.iter().all(|reply| reply.status == 200),
        "{:?}",
        replies.iter().map(|it| it.status).collect::<Vec<_>>()
    );
    let successors: HashSet<String> = replies.iter().map(|reply| refresh_cookie(reply).unwrap().value).collect();
    assert_eq!((successors.len(), site.provider.refreshes()), (1, 1));
    site.clock.advance(59 * SECOND);
    let late = browser.send(Request::fetch("POST", "/auth/refresh").header("Cookie", &before)).await;
    assert_eq!(late.status, 200, "within refresh.grace");
    assert!(successors.contains(&refresh_cookie(&late).unwrap().value));
    assert_eq!(refresh(&browser).await.status, 200, "and who has the successor goes on");
}

#[tokio::test]
async fn tg_16_a_replaced_refresh_token_ends_the_family_after_grace() {
    for (rotations, pause) in [(1, 60), (2, 10)] {
        let site = Site::protected().await;
        let browser = signed_in(&site).await;
        let stolen = browser.cookie_field();
        let mut token = String::new();
        for _ in 0..rotations {
            let reply = refresh(&browser).await;
            token = token_of(&reply);
            site.clock.advance(Duration::from_secs(pause));
        }
        relayed(&bearing(&browser, "GET", "/x", &token).await, 200);
        let thief = site.browser();
        let reply = thief.send(Request::fetch("POST", "/auth/refresh").header("Cookie", &stolen)).await;
        assert_eq!(error_json(&reply, 401)["message"], INVALID_REFRESH);
        assert_eq!(error_json(&refresh(&browser).await, 401)["message"], INVALID_REFRESH, "the newest one too");
        assert_eq!(refresh_value(&browser), None);
        assert_eq!(bearing(&browser, "GET", "/x", &token).await.status, 401, "and the token");
    }
}

#[tokio::test]
async fn tg_17_without_rotation_the_token_stays_and_nothing_lives_longer() {
    let site = Site::plan().refresh("rotation = false").route("/*", "auth = true").start().await;
    let browser = signed_in(&site).await;
    let first = refresh_value(&browser).unwrap();
    for _ in 0..7 {
        site.clock.advance(Duration::from_secs(10 * 3600));
        let reply = refresh(&browser).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let cookie = refresh_cookie(&reply).unwrap();
        assert_eq!((&cookie.value, cookie.attribute("max-age")), (&first, Some(WEEK)));
    }
    site.clock.advance(Duration::from_secs(2 * 3600));
    assert_eq!(refresh(&browser).await.status, 401, "72 h after the login, as ever");
}

#[tokio::test]
async fn tg_18_a_session_of_the_flow_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let session = format!("store = \"file\"\nfile = {{ path = \"{}\" }}", directory.path().join("sessions").display());
    let site = Site::plan().session(&session).route("/*", "auth = true").start().await;
    let browser = signed_in(&site).await;
    let waiting = site.browser();
    let code = code(&waiting).await;
    let (provider, clock) = (site.provider.clone(), site.clock.clone());
    site.gateway.shut_down().await;
    let again = Site::plan().session(&session).provider(&provider, &clock).route("/*", "auth = true").start().await;
    let moved = again.browser();
    moved.plant(&format!("{}; Path=/; HttpOnly; SameSite=Lax", browser.cookie_field()));
    let reply = refresh(&moved).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    relayed(&bearing(&moved, "GET", "/x", &token_of(&reply)).await, 200);
    assert_eq!(exchange(&again.browser(), &code).await.status, 200, "and so does a code");
}

// How the file is sealed: `session/seal`.
#[tokio::test]
async fn tg_19_the_store_shows_no_token_and_nothing_of_the_user() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions");
    let session = format!("store = \"file\"\nfile = {{ path = \"{}\" }}", path.display());
    let site = Site::plan().session(&session).route("/*", "auth = true").start().await;
    let browser = site.browser();
    let code = code(&browser).await;
    let token = token_of(&exchange(&browser, &code).await);
    let refresh_token = refresh_value(&browser).unwrap();
    let mut secrets = site.provider.secrets();
    assert!(!secrets.is_empty());
    secrets.extend([code, token, refresh_token, "ada@corp.test".to_owned()]);
    site.gateway.shut_down().await;
    let dump = std::fs::read(&path).unwrap();
    assert!(dump.windows(3).any(|bytes| bytes == b"ada"), "the session is there");
    for secret in secrets {
        assert!(!dump.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "{secret}");
    }
}

// With the wrong key: tests/processes, `a_new_secret_signs_nobody_out_until_the_old_one_is_taken_away`. A short key:
// `a_short_secret_is_refused_and_never_shown`.
#[tokio::test]
async fn tg_20_a_damaged_refresh_token_is_401_and_a_store_without_a_key_does_not_start() {
    let site = Site::protected().await;
    let browser = signed_in(&site).await;
    let good = refresh_value(&browser).unwrap();
    for at in 0..good.len() {
        let mut damaged = good.clone().into_bytes();
        damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
        let cookie = format!("latchgate-refresh={}", String::from_utf8(damaged).unwrap());
        let reply = site.browser().send(Request::fetch("POST", "/auth/refresh").header("Cookie", &cookie)).await;
        assert_eq!(error_json(&reply, 401)["message"], INVALID_REFRESH, "{at}");
    }
    assert_eq!(refresh(&browser).await.status, 200);
    let report = crate::harness::site::parse("[session]\nstore = \"file\"\n").expect_err("no key");
    assert!(report.contains("`session.secret` is missing"), "{report}");
}

#[tokio::test]
async fn a_provider_that_is_down_uses_no_refresh_token_up() {
    let site = Site::plan().refresh("timeout = \"1s\"").route("/*", "auth = true").start().await;
    let browser = signed_in(&site).await;
    let before = refresh_value(&browser);
    site.provider.always(Endpoint::Token, Fault::Json(503, json!({})));
    let reply = refresh(&browser).await;
    error_json(&reply, 503);
    assert!(reply.headers.contains("retry-after") && !reply.headers.contains("set-cookie"));
    assert_eq!(refresh_value(&browser), before);
    site.provider.recover(Endpoint::Token);
    site.clock.advance(Duration::from_secs(120));
    assert_eq!(refresh(&browser).await.status, 200, "{before:?}");
}

#[tokio::test]
async fn a_refused_refresh_token_of_the_provider_ends_the_session() {
    let site = Site::protected().await;
    let browser = signed_in(&site).await;
    site.provider.revoke_grants();
    assert_eq!(error_json(&refresh(&browser).await, 401)["message"], INVALID_REFRESH);
    assert_eq!(refresh_value(&browser), None);
}

#[tokio::test]
async fn a_token_of_the_flow_does_not_renew_itself() {
    let site = Site::protected().await;
    let browser = site.browser();
    let token = token_of(&exchange(&browser, &code(&browser).await).await);
    let bare = site.browser();
    assert_eq!(bearing(&bare, "POST", "/auth/refresh", &token).await.status, 401, "who stole it has an hour");
    relayed(&bearing(&browser, "GET", "/x", &token).await, 200);
    site.clock.advance(10 * SECOND);
    assert_eq!(bearing(&browser, "POST", "/auth/refresh", &token).await.status, 200, "with the cookie");
    let foreign = Request::fetch("POST", "/auth/refresh")
        .with("Sec-Fetch-Site", "cross-site")
        .with("Origin", "https://evil.test");
    error_json(&browser.send(foreign.header("Cookie", &browser.cookie_field())).await, 403);
}

#[tokio::test]
async fn of_two_refresh_cookies_of_one_session_the_newest_counts() {
    for newest_first in [true, false] {
        let site = Site::protected().await;
        let browser = signed_in(&site).await;
        let old = browser.cookie_field();
        assert_eq!(refresh(&browser).await.status, 200);
        site.clock.advance(Duration::from_secs(120));
        let newest = browser.cookie_field();
        let both = if newest_first { format!("{newest}; {old}") } else { format!("{old}; {newest}") };
        let reply = site.browser().send(Request::fetch("POST", "/auth/refresh").header("Cookie", &both)).await;
        assert_eq!(reply.status, 200, "who has the newest is no thief: {}", reply.text());
    }
}

#[tokio::test]
async fn tg_43_the_refresh_cookie_is_enough_to_have_the_claims_read_again() {
    let site = Site::plan().more("[tokens]\nupdate_claims = true\n").route("/*", "auth = true").start().await;
    let browser = signed_in(&site).await;
    let (old, refreshes) = (browser.cookie_field(), site.provider.refreshes());
    let reply = browser.fetch("POST", "/auth/update-claims").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(site.provider.refreshes(), refreshes + 1);
    assert_eq!(browser.cookie_field(), old, "that one is not used up");
    assert_eq!(refresh(&browser).await.status, 200);
    site.clock.advance(Duration::from_secs(60));
    let thief = site.browser().send(Request::fetch("POST", "/auth/update-claims").header("Cookie", &old)).await;
    assert_eq!(error_json(&thief, 401)["message"], INVALID_REFRESH);
    assert_eq!(refresh(&browser).await.status, 401, "reuse ends the family here as well");

    let browser = signed_in(&site).await;
    site.provider.revoke_grants();
    assert_eq!(error_json(&browser.fetch("POST", "/auth/update-claims").await, 401)["message"], INVALID_REFRESH);
    assert_eq!(refresh_value(&browser), None);
}

// ------------------------------------------------------------------------- what a token opens

#[tokio::test]
async fn tg_27_a_path_that_begins_like_the_prefix_is_protected() {
    let site = Site::protected().await;
    for path in ["/x", "/authors", "/auth-x", "/api/user/meeting"] {
        error_json(&site.browser().fetch("GET", path).await, 401);
    }
    assert_eq!(site.upstream.hits(), 0);
}

#[tokio::test]
async fn tg_28_no_spelling_of_a_path_is_less_protected() {
    let plan = Site::plan().route("/admin", "auth = true").route("/admin/*", "auth = true");
    let site = plan.route("/*", "auth = false").start().await;
    for (path, status) in
        [("/AUTH/..;/admin", 400), ("//admin", 401), ("/%61dmin", 401), ("/admin/.", 400), ("/admin;x", 401)]
    {
        error_json(&site.browser().fetch("GET", path).await, status);
    }
    assert_eq!(site.upstream.hits(), 0);
}

#[tokio::test]
async fn tg_29_the_most_specific_route_counts() {
    let plan = Site::plan().route("/*", "auth = true").route("/open/*", "auth = false");
    let site = plan.route("/open/closed/*", "auth = true").start().await;
    for (path, status) in [("/x", 401), ("/open/x", 200), ("/open/closed/x", 401), ("/open", 200)] {
        assert_eq!(site.browser().fetch("GET", path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn tg_30_a_public_route_knows_who_has_a_good_token_and_serves_everybody() {
    let site = Site::plan().route("/*", "auth = \"optional\"\nidentity = { \"X-User\" = \"sub\" }").start().await;
    let browser = site.browser();
    let token = token_of(&exchange(&browser, &code(&browser).await).await);
    let mut damaged = token.clone();
    damaged.replace_range(token.len() - 4.., "AAAA");
    for (shown, user) in [(&token, Some("ada")), (&damaged, None)] {
        relayed(&bearing(&site.browser(), "GET", "/x", shown).await, 200);
        assert_eq!(site.upstream.last().headers.value("x-user"), user);
    }
}

#[tokio::test]
async fn tg_31_who_lacks_a_claim_is_403() {
    let plan = Site::plan().more(MOCK).route("/*", "auth = true\nrequire = { claims = { role = \"admin\" } }");
    let site = plan.start().await;
    for (user, status) in [("ada", 200), ("bob", 403)] {
        let browser = site.browser();
        let page = browser.navigate(&format!("/auth/demo?flow=code&user={user}")).await;
        let token = token_of(&exchange(&browser, &code_of(&page)).await);
        let reply = bearing(&browser, "GET", "/x", &token).await;
        assert_eq!(reply.status, status, "{user}");
        if status == 403 {
            error_json(&reply, 403);
        }
    }
}

#[tokio::test]
async fn tg_39_nothing_is_replayed_when_the_refresh_fails() {
    let site = Site::protected().await;
    let browser = signed_in(&site).await;
    let token = token_of(&refresh(&browser).await);
    site.clock.advance(10 * SECOND);
    site.provider.revoke_grants();
    let hits = site.upstream.hits();
    site.upstream.next(Answer::unauthorized());
    assert_eq!(bearing(&browser, "GET", "/x", &token).await.status, 401);
    assert_eq!(site.upstream.hits(), hits + 1);
    assert_eq!(bearing(&browser, "GET", "/x", &token).await.status, 401, "the session is over");
    assert_eq!(site.upstream.hits(), hits + 1);
}

// ---------------------------------------------------------------------------------- the logout

#[tokio::test]
async fn tg_21_a_logout_ends_it_with_or_without_a_cookie() {
    let site = Site::protected().await;
    let browser = signed_in(&site).await;
    let (before, token) = (browser.cookie_field(), token_of(&refresh(&browser).await));
    let reply = browser.fetch("POST", "/auth/logout").await;
    assert_eq!((reply.status, reply.json()), (200, json!({"success": true})));
    assert_eq!(refresh_value(&browser), None);
    let old = Request::fetch("POST", "/auth/refresh").header("Cookie", &before);
    assert_eq!(browser.send(old).await.status, 401);
    assert_eq!(bearing(&browser, "GET", "/x", &token).await.status, 401);
    assert_eq!(browser.fetch("POST", "/auth/logout").await.json(), json!({"success": true}), "once more, without");

    let browser = signed_in(&site).await;
    let token = token_of(&refresh(&browser).await);
    assert_eq!(bearing(&site.browser(), "POST", "/auth/logout", &token).await.status, 200, "by the token alone");
    assert_eq!(refresh(&browser).await.status, 401);
}

#[tokio::test]
async fn a_logout_ends_all_that_the_browser_shows() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let cookie = browser.cookie_field();
    let other = signed_in(&site).await;
    let token = token_of(&refresh(&other).await);
    let out = Request::fetch("POST", "/auth/logout")
        .header("Authorization", &format!("Bearer {token}"))
        .header("Cookie", &cookie);
    assert_eq!(browser.send(out).await.status, 200);
    assert_eq!(bearing(&site.browser(), "GET", "/x", &token).await.status, 401);
    let kept = Request::fetch("GET", "/x").header("Cookie", &cookie);
    assert_eq!(site.browser().send(kept).await.status, 401, "its cookie was taken away, so it must not live on");
}

#[tokio::test]
async fn tg_22_another_site_s_link_signs_nobody_out() {
    let site = Site::protected().await;
    let browser = signed_in(&site).await;
    let link = Request::navigation("/auth/logout").with("Sec-Fetch-Site", "cross-site");
    error_page(&browser.send(link).await, 403);
    let post =
        Request::fetch("POST", "/auth/logout").with("Sec-Fetch-Site", "cross-site").with("Origin", "https://evil.test");
    error_json(&browser.send(post.header("Cookie", &browser.cookie_field())).await, 403);
    assert_eq!(refresh(&browser).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tg_23_no_refresh_survives_a_logout_that_it_races() {
    let site = Site::protected().await;
    for _ in 0..5 {
        let browser = signed_in(&site).await;
        let cookies = browser.cookie_field();
        let replies = together(8, |number| {
            let (browser, cookies) = (browser.clone(), cookies.clone());
            let target = if number == 3 { "/auth/logout" } else { "/auth/refresh" };
            async move { (number, browser.send(Request::fetch("POST", target).header("Cookie", &cookies)).await) }
        })
        .await;
        for (number, reply) in replies {
            assert!(reply.status == 200 || number != 3 && reply.status == 401, "{number}: {}", reply.text());
            if let Some(cookie) = refresh_cookie(&reply).filter(|cookie| !cookie.deletes()) {
                let later = Request::fetch("POST", "/auth/refresh")
                    .header("Cookie", &format!("latchgate-refresh={}", cookie.value));
                assert_eq!(browser.send(later).await.status, 401);
                assert_eq!(bearing(&browser, "GET", "/x", &token_of(&reply)).await.status, 401);
            }
        }
    }
}

// ----------------------------------------------------------------------------- the mock, errors

// G-C3
#[tokio::test]
async fn the_mock_answers_below_the_prefix_too() {
    let site = Site::plan().more(MOCK).route("/*", "auth = true").start().await;
    let browser = site.browser();
    for path in ["/mock", "/auth/mock"] {
        let metadata = browser.fetch("GET", &format!("{path}/.well-known/openid-configuration")).await;
        assert_eq!(metadata.json()["issuer"], "http://gw.test/mock", "{path}");
        assert_eq!(browser.fetch("GET", &format!("{path}/userinfo")).await.status, 401, "{path}");
        assert_eq!(browser.fetch("GET", &format!("{path}/authorize")).await.status, 400, "{path}");
        let token = Request::fetch("POST", &format!("{path}/token"))
            .body("application/x-www-form-urlencoded", "client_id=x&grant_type=password");
        assert_eq!(browser.send(token).await.status, 400, "{path}");
        assert_eq!(browser.fetch("GET", &format!("{path}/nothing")).await.status, 404, "{path}");
    }
    let none = Site::protected().await;
    assert_eq!(none.browser().fetch("GET", "/auth/mock/authorize").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tg_35_a_persona_is_picked_and_leaks_to_nobody() {
    let site = Site::plan().more(MOCK).route("/*", "auth = true").start().await;
    let users = together(20, |number| {
        let browser = site.browser();
        let user = if number % 2 == 0 { "ada" } else { "bob" };
        async move {
            let page = browser.navigate(&format!("/auth/demo?flow=code&user={user}")).await;
            let token = token_of(&exchange(&browser, &code_of(&page)).await);
            (user, bearing(&browser, "GET", "/auth/me", &token).await.json()["sub"].as_str().unwrap().to_owned())
        }
    })
    .await;
    assert!(users.iter().all(|(wanted, is)| wanted == is), "{users:?}");
    let unknown = site.browser().navigate("/auth/demo?flow=code&user=nope").await;
    assert_eq!((unknown.reply.status, unknown.url.path()), (400, "/mock/authorize"));
}

#[tokio::test]
async fn tg_36_each_mock_error_ends_at_the_page_and_others_pass() {
    let site = Site::plan().more(MOCK).route("/*", "auth = true").start().await;
    for failure in [
        "access_denied",
        "invalid_request",
        "unauthorized_client",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
    ] {
        let page = site.browser().navigate(&format!("/auth/demo?flow=code&user=ada&mock_error={failure}")).await;
        assert_eq!(page.url.path(), "/auth/callback", "{failure}: {:?}", page.trail);
        assert!(page.url.query().unwrap().starts_with("error="), "{failure}");
    }
    let page = site.browser().navigate("/auth/demo?flow=code&user=ada&mock_error=no_such_error").await;
    assert_eq!(code_of(&page).len(), 43);
}

#[tokio::test]
async fn tg_44_every_error_has_one_shape() {
    let site =
        Site::plan().route("/only-get", "auth = false\nmethods = [\"GET\"]").route("/a/*", "auth = true").start().await;
    let browser = site.browser();
    let json_body = |target: &str, body: &str| Request::fetch("POST", target).body("application/json", body);
    for (request, status) in [
        (json_body("/auth/token", "{}"), 400),
        (json_body("/auth/token", r#"{"code":"x"}"#), 401),
        (Request::fetch("POST", "/auth/refresh"), 401),
        (Request::fetch("GET", "/a/x"), 401),
        (Request::fetch("POST", "/auth/token").with("Sec-Fetch-Site", "cross-site"), 403),
        (Request::fetch("GET", "/nowhere"), 404),
        (Request::fetch("GET", "/auth/nobody"), 404),
        (Request::fetch("DELETE", "/auth/token"), 405),
        (Request::fetch("POST", "/only-get"), 405),
        (json_body("/auth/token", &" ".repeat(5000)), 413),
        (Request::fetch("GET", "/auth/callback?error=x"), 400),
    ] {
        let target = format!("{} {}", request.method, request.target);
        let reply = browser.send(request).await;
        let body = error_json(&reply, status);
        let text = reply.text();
        assert!(!text.contains("panicked") && !text.contains(".rs") && !text.contains("127.0.0.1"), "{target}: {body}");
    }
}

#[tokio::test]
async fn tg_45_the_pages_of_the_flow_need_no_login() {
    let site = Site::protected().await;
    let browser = site.browser();
    for target in ["/auth/callback?error=access_denied", "/auth/callback", "/auth/login?flow=code"] {
        let page = browser.navigate(target).await;
        assert!(page.trail.len() <= 4, "{target}: {:?}", page.trail);
    }
    let page = browser.navigate("/x").await;
    assert!(page.trail.len() < 8, "{:?}", page.trail);
}

// ------------------------------------------------------------------------------------ the stage

fn code_of(page: &Page) -> String {
    let code = page.url.query_pairs().find(|(name, _)| name == "code");
    code.unwrap_or_else(|| panic!("no code: {:?} {}", page.trail, page.reply.text())).1.into_owned()
}

/// `ada`'s, fresh.
async fn code(browser: &Browser) -> String {
    code_of(&browser.navigate(START).await)
}

async fn exchange(browser: &Browser, code: &str) -> Reply {
    browser
        .send(Request::fetch("POST", "/auth/token").body("application/json", json!({"code": code}).to_string()))
        .await
}

async fn refresh(browser: &Browser) -> Reply {
    browser.fetch("POST", "/auth/refresh").await
}

/// `ada`, for longer than `refresh.cooldown`.
async fn signed_in(site: &Site) -> Browser {
    let browser = site.browser();
    assert_eq!(exchange(&browser, &code(&browser).await).await.status, 200);
    site.clock.advance(10 * SECOND);
    browser
}

async fn bearing(browser: &Browser, method: &str, target: &str, token: &str) -> Reply {
    browser.send(Request::fetch(method, target).header("Authorization", &format!("Bearer {token}"))).await
}

#[track_caller]
fn token_of(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["token"].as_str().unwrap().to_owned()
}

fn refresh_cookie(reply: &Reply) -> Option<SetCookie> {
    let set = reply.headers.values("set-cookie").into_iter().map(SetCookie::parse);
    set.into_iter().find(|cookie| cookie.name.ends_with("latchgate-refresh"))
}

fn refresh_value(browser: &Browser) -> Option<String> {
    browser.cookies().into_iter().find(|cookie| cookie.name == "latchgate-refresh").map(|cookie| cookie.value)
}
