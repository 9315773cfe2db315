//! `[impersonation]`: somebody acts as somebody else, for a quarter of an hour, and everybody below can tell.

use crate::harness::expect::{error_json, login_status, relayed};
use crate::harness::{Browser, Endpoint, Fault, Gate, Reply, Request, Site};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::time::Duration;

const PLAN: &str = r#"
[tokens]
update_claims = true
[impersonation]
require = { role = ["admin"] }
[providers.demo]
kind = "mock"
users = [
  { sub = "ada", name = "Ada Example", email = "ada@example.com", role = "admin" },
  { sub = "bob", name = "Bob Example", email = "bob@example.com", role = "user" },
  { sub = "eve", name = "Eve Example", email = "eve@example.com", role = "admin" },
]
"#;
const IDENTITY: &str = "auth = true\nidentity = { \"X-User\" = \"sub\", \"X-Actor\" = \"act.sub\" }";

#[tokio::test]
async fn tg_40_an_administrator_acts_as_a_user_for_900_seconds() {
    let site = site().await;
    let ada = signed_in(&site, "ada").await;
    let reply = impersonate(&ada, "bob").await;
    let body = reply.json();
    assert_eq!((reply.status, body["expiresIn"].as_u64()), (200, Some(900)), "{body}");
    assert_eq!(body["accessToken"], body["token"]);
    let me = ada.fetch("GET", "/auth/me").await.json();
    assert_eq!((&me["sub"], &me["email"], &me["role"]), (&json!("bob"), &json!("bob@example.com"), &json!("user")));
    assert_eq!(me["act"], json!({"sub": "ada", "email": "ada@example.com", "name": "Ada Example"}));
    assert_eq!(me["impersonation"], json!({"reason": "a ticket"}));

    relayed(&ada.fetch("GET", "/x").await, 200);
    let sent = site.upstream.last();
    assert_eq!((sent.headers.value("x-user"), sent.headers.value("x-actor")), (Some("bob"), Some("ada")));
    assert_eq!(sent.bearer(), None, "the provider's token is ada's");
    error_json(&ada.fetch("GET", "/admin/x").await, 403);
    relayed(&ada.fetch("GET", "/asserted/x").await, 200);
    let asserted = payload(site.upstream.last().bearer().unwrap());
    assert_eq!((&asserted["sub"], &asserted["act"]["sub"]), (&json!("demo:bob"), &json!("ada")));
    assert_eq!(payload(body["token"].as_str().unwrap())["act"]["sub"], "ada");
    let token = format!("Bearer {}", body["token"].as_str().unwrap());
    let by_token = site.browser().send(Request::fetch("GET", "/auth/me").header("Authorization", &token)).await;
    assert_eq!(by_token.json()["sub"], "bob");

    site.clock.advance(Duration::from_secs(899));
    relayed(&ada.fetch("GET", "/x").await, 200);
    site.clock.advance(Duration::from_secs(1));
    login_status(&ada.fetch("GET", "/x").await, "expired", "/page");
}

#[tokio::test]
async fn tg_40_everybody_else_is_refused() {
    let site = site().await;
    let (ada, bob) = (signed_in(&site, "ada").await, signed_in(&site, "bob").await);
    let said = |reply: &Reply, status| error_json(reply, status)["message"].as_str().unwrap().to_owned();
    assert_eq!(impersonate(&site.browser(), "bob").await.status, 401);
    assert_eq!(said(&impersonate(&bob, "eve").await, 403), "Insufficient permissions to impersonate users");
    assert_eq!(said(&impersonate(&ada, "nobody").await, 404), "Target user not found");
    for body in ["", "{}", r#"{"reason":"x"}"#, r#"{"targetUserId":""}"#] {
        assert_eq!(said(&wish(&ada, body).await, 400), "targetUserId is required", "{body}");
    }
    error_json(&wish(&ada, r#"{"targetUserId":7}"#).await, 400);
    let foreign = request(r#"{"targetUserId":"bob"}"#).with("Sec-Fetch-Site", "cross-site");
    error_json(&ada.send(foreign.header("Cookie", &ada.cookie_field())).await, 403);

    assert_eq!(impersonate(&ada, "eve").await.status, 200);
    let nested = impersonate(&ada, "bob").await;
    assert_eq!(said(&nested, 403), "Cannot impersonate while already impersonating another user", "though eve may");

    let without = Site::protected().await;
    let reply = impersonate(&without.signed_in().await, "bob").await;
    assert_eq!(said(&reply, 404), "Impersonation feature is not enabled");
    assert_eq!(
        said(&without.browser().fetch("POST", "/auth/unimpersonate").await, 404),
        "Impersonation feature is not enabled"
    );
}

#[tokio::test]
async fn tg_41_an_impersonated_session_is_not_refreshed() {
    const REFUSAL: &str =
        "Cannot refresh impersonated session. Please call unimpersonate to restore your original session.";
    let site = site().await;
    let by_cookie = signed_in(&site, "ada").await;
    let by_token = site.browser();
    let page = by_token.navigate("/auth/demo?flow=code&user=ada").await;
    let code = page.url.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    let exchange = Request::fetch("POST", "/auth/token").body("application/json", json!({"code": code}).to_string());
    let token = by_token.send(exchange).await.json()["token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    let as_bob = request(r#"{"targetUserId":"bob"}"#).header("Authorization", &bearer);
    assert_eq!(by_token.send(as_bob).await.status, 200);
    assert_eq!(impersonate(&by_cookie, "bob").await.status, 200);
    for browser in [&by_cookie, &by_token] {
        let before = browser.cookie_field();
        let reply = browser.fetch("POST", "/auth/refresh").await;
        assert_eq!(error_json(&reply, 403)["message"], REFUSAL);
        assert_eq!(browser.cookie_field(), before, "and stays what it is");
    }
    let restore = Request::fetch("POST", "/auth/unimpersonate").header("Authorization", &bearer);
    assert_eq!(by_token.send(restore).await.status, 200);
    assert_eq!(by_token.fetch("POST", "/auth/refresh").await.status, 200, "the refresh cookie is good again");
}

#[tokio::test]
async fn tg_42_who_gives_it_up_is_who_they_were() {
    let site = site().await;
    let ada = signed_in(&site, "ada").await;
    let before: Value = ada.fetch("GET", "/auth/me").await.json();
    let early = ada.fetch("POST", "/auth/unimpersonate").await;
    assert_eq!(error_json(&early, 400)["message"], "Current session is not impersonated");
    assert_eq!(impersonate(&ada, "bob").await.status, 200);
    let restored = ada.fetch("POST", "/auth/unimpersonate").await;
    assert_eq!((restored.status, restored.json()["expiresIn"].as_u64()), (200, Some(3600)));
    assert_eq!(ada.fetch("GET", "/auth/me").await.json(), before, "with the life it had");
    relayed(&ada.fetch("GET", "/admin/x").await, 200);
    assert!(site.upstream.last().bearer().is_some());
    assert_eq!(ada.fetch("POST", "/auth/unimpersonate").await.status, 400);
}

#[tokio::test]
async fn a_token_for_somebody_else_is_worth_nothing_when_that_is_over() {
    let site = site().await;
    let ada = signed_in(&site, "ada").await;
    let token_of = |reply: Reply| format!("Bearer {}", reply.json()["token"].as_str().unwrap());
    let own = token_of(ada.fetch("POST", "/auth/refresh").await);
    let as_bob = token_of(impersonate(&ada, "bob").await);
    let me = async |token: &str| {
        let reply = site.browser().send(Request::fetch("GET", "/auth/me").header("Authorization", token)).await;
        (reply.status == 200).then(|| reply.json()["sub"].as_str().unwrap().to_owned())
    };
    assert_eq!((me(&own).await.as_deref(), me(&as_bob).await.as_deref()), (Some("bob"), Some("bob")));
    assert_eq!(ada.fetch("POST", "/auth/unimpersonate").await.status, 200);
    assert_eq!(me(&as_bob).await, None, "bob's is not an administrator's");
    let admin = Request::fetch("GET", "/admin/x").header("Authorization", &as_bob);
    error_json(&site.browser().send(admin).await, 401);
    assert_eq!(me(&own).await.as_deref(), Some("ada"), "whoever opened the session keeps theirs");
    assert_eq!(impersonate(&ada, "eve").await.status, 200);
    assert_eq!((me(&as_bob).await, me(&own).await.as_deref()), (None, Some("eve")));
}

#[tokio::test]
async fn scopes_of_the_owner_s_token_are_not_the_other_person_s() {
    let site = site().await;
    let ada = signed_in(&site, "ada").await;
    relayed(&ada.fetch("GET", "/scoped/x").await, 200);
    assert_eq!(impersonate(&ada, "bob").await.status, 200);
    error_json(&ada.fetch("GET", "/scoped/x").await, 403);
    assert_eq!(ada.fetch("POST", "/auth/unimpersonate").await.status, 200);
    relayed(&ada.fetch("GET", "/scoped/x").await, 200);
}

/// The owner's token is being renewed for a request of theirs when they become somebody else.
#[tokio::test]
async fn no_upstream_gets_the_owner_s_token_under_another_name() {
    let plan = Site::plan().more("[impersonation]\nrequire = { role = [\"admin\"] }\n");
    let site = plan.route("/*", IDENTITY).start().await;
    site.provider.add_user("ada", json!({"role": "admin"}));
    let ada = site.signed_in().await;
    site.clock.advance(Duration::from_secs(3600));
    let gate = Gate::closed();
    site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    let become_bob = async {
        gate.arrivals(1).await;
        assert_eq!(impersonate(&ada, "bob").await.status, 200);
        gate.open();
    };
    let (reply, ()) = tokio::join!(ada.fetch("GET", "/x"), become_bob);
    relayed(&reply, 200);
    let sent = site.upstream.last();
    assert_eq!((sent.headers.value("x-user"), sent.headers.value("x-actor")), (Some("bob"), Some("ada")));
    assert_eq!(sent.bearer(), None);
}

#[tokio::test]
async fn tg_41_claims_are_not_read_again_for_somebody_else() {
    let site = site().await;
    let ada = signed_in(&site, "ada").await;
    assert_eq!(impersonate(&ada, "bob").await.status, 200);
    let reply = ada.fetch("POST", "/auth/update-claims").await;
    let message = error_json(&reply, 403)["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Cannot refresh impersonated session."), "{message}");
    assert_eq!(ada.fetch("GET", "/auth/me").await.json()["sub"], "bob");
}

// ------------------------------------------------------------------------------------ the stage

async fn site() -> Site {
    let admin = "auth = true\nrequire = { claims = { role = \"admin\" } }";
    let asserted = "auth = true\nattach = { assertion = { audience = \"api\" } }";
    let scoped = "auth = true\nrequire = { scope = [\"openid\"] }";
    let plan = Site::plan().more(PLAN).route("/admin/*", admin).route("/asserted/*", asserted);
    plan.route("/scoped/*", scoped).route("/*", IDENTITY).start().await
}

fn payload(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

async fn signed_in(site: &Site, user: &str) -> Browser {
    let browser = site.browser();
    let page = browser.navigate(&format!("/auth/demo?user={user}&return_to=%2Fapi%2Fuser%2Fme")).await;
    assert!(browser.session_cookie().is_some(), "{:?}", page.trail);
    browser
}

async fn impersonate(browser: &Browser, target: &str) -> Reply {
    wish(browser, &json!({"targetUserId": target, "reason": "a\r\n ticket"}).to_string()).await
}

async fn wish(browser: &Browser, body: &str) -> Reply {
    browser.send(request(body)).await
}

fn request(body: &str) -> Request {
    Request::fetch("POST", "/auth/impersonate").body("application/json", body)
}
