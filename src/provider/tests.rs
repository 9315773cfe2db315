//! Whole flows against a provider that answers as each test says, named after what they keep out.

use super::test_provider::{ACCESS_TOKEN, Answer, CLIENT_ID, NONCE, SigningKey, TestProvider, changed};
use super::*;
use crate::tls;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

fn callback() -> Url {
    Url::parse("https://app.example/auth/corp").unwrap()
}

fn request(extra: &[(&str, &str)]) -> AuthorizationRequest {
    AuthorizationRequest {
        redirect_uri: callback(),
        state: "the-state".to_owned(),
        nonce: NONCE.to_owned(),
        code_challenge: code_challenge(VERIFIER),
        extra: extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}

fn redemption() -> CodeRedemption {
    CodeRedemption {
        code: SecretString::from("the-code"),
        redirect_uri: callback(),
        code_verifier: SecretString::from(VERIFIER),
        nonce: NONCE.to_owned(),
        max_age: None,
    }
}

fn refresh_token() -> SecretString {
    SecretString::from("refresh-0")
}

fn parameters(url: &Url) -> Vec<(String, String)> {
    url.query_pairs().into_owned().collect()
}

async fn login_error(op: &TestProvider) -> ProviderError {
    op.provider().redeem_code(&redemption()).await.err().expect("the login is refused")
}

async fn exchange(provider: &Provider) -> TokenResponse {
    let turn = provider.turn().await.ok().unwrap();
    provider.exchange(&turn, &refresh_token()).await.ok().unwrap()
}

async fn refresh(provider: &Provider, subject: &str) -> Result<Renewed, RefreshError> {
    let turn = provider.turn().await?;
    let answer = provider.exchange(&turn, &refresh_token()).await?;
    provider.check_renewal(answer, subject, None).await
}

async fn refresh_error(op: &TestProvider) -> RefreshError {
    refresh(&op.provider(), "ada").await.err().expect("the refresh fails")
}

#[tokio::test]
async fn az_01_the_authorization_request_is_complete() {
    let url = TestProvider::new().provider().authorization_url(&request(&[])).await.unwrap();
    assert!(url.as_str().starts_with("https://op.example/authorize?"));
    let found: HashMap<String, String> = parameters(&url).into_iter().collect();
    let expected = [
        ("response_type", "code"),
        ("client_id", CLIENT_ID),
        ("redirect_uri", "https://app.example/auth/corp"),
        ("scope", "openid profile email offline_access"),
        ("state", "the-state"),
        ("nonce", NONCE),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
    ];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert!(!url.as_str().contains(VERIFIER));
}

#[tokio::test]
async fn az_02_a_provider_without_s256_is_refused_and_a_silent_one_is_not() {
    for (methods, expected) in [
        (json!(["plain"]), Some("provider_without_pkce_s256")),
        (json!([]), Some("provider_without_pkce_s256")),
        (json!(null), None),
    ] {
        let op = TestProvider::new();
        op.script(|script| script.metadata = json!({ "code_challenge_methods_supported": methods }));
        let outcome = op.provider().authorization_url(&request(&[])).await;
        assert_eq!(outcome.err().map(|error| error.reason()), expected);
    }
}

#[tokio::test]
async fn az_12_az_13_owned_parameters_are_said_once_and_by_us() {
    let op = TestProvider::new();
    op.script(|script| {
        script.metadata =
            json!({ "authorization_endpoint": "https://op.example/authorize?p=tenant&client_id=evil&scope=admin" });
    });
    let extra = [
        ("login_hint", "ada&x=y"),
        ("client_id", "evil"),
        ("redirect_uri", "https://evil"),
        ("request_uri", "urn:x"),
        ("response_mode", "fragment"),
        ("state", "evil"),
        ("resource", "a"),
        ("resource", "b"),
    ];
    let url = op.provider().authorization_url(&request(&extra)).await.unwrap();
    let found = parameters(&url);
    for name in OWNED_PARAMETERS {
        assert!(found.iter().filter(|pair| pair.0 == name).count() <= 1, "{name}");
    }
    assert!(!url.as_str().contains("evil") && !url.as_str().contains("request_uri"));
    for (name, value) in [("p", "tenant"), ("login_hint", "ada&x=y"), ("resource", "a"), ("resource", "b")] {
        assert!(found.contains(&(name.to_owned(), value.to_owned())), "{name}={value}");
    }
}

#[tokio::test]
async fn scopes_the_provider_would_choke_on_are_left_out() {
    let op = TestProvider::new();
    op.script(|script| script.metadata = json!({ "scopes_supported": ["openid", "email"] }));
    let settings = Settings { scopes: vec!["profile".to_owned(), "offline_access".to_owned()], ..op.settings() };
    let url = op.provider_with(settings).authorization_url(&request(&[])).await.unwrap();
    assert!(parameters(&url).contains(&("scope".to_owned(), "openid profile".to_owned())), "{url}");
}

#[tokio::test]
async fn cb_04_cb_06_the_callback_of_another_issuer() {
    let provider = TestProvider::new().provider();
    assert_eq!(provider.check_callback_issuer(Some("https://op.example")).await, Ok(()));
    assert_eq!(provider.check_callback_issuer(None).await, Ok(()), "it never promised to send one");
    for iss in
        ["https://op.example/", "https://OP.example", "https://op.example:443", "http://op.example", "https://evil", ""]
    {
        let error = provider.check_callback_issuer(Some(iss)).await.unwrap_err();
        assert_eq!(error.reason(), "callback_other_issuer", "{iss}");
    }
}

#[tokio::test]
async fn cb_05_a_callback_without_the_promised_issuer() {
    let op = TestProvider::new();
    op.script(|script| script.metadata = json!({ "authorization_response_iss_parameter_supported": true }));
    let error = op.provider().check_callback_issuer(None).await.unwrap_err();
    assert_eq!(error.reason(), "callback_without_issuer");
}

#[tokio::test]
async fn a_login() {
    let op = TestProvider::new();
    op.script(|script| script.claims = json!({ "sid": "op-session", "groups": ["a"] }));
    let signed_in = op.provider().redeem_code(&redemption()).await.ok().unwrap();
    assert_eq!(signed_in.issuer, "https://op.example");
    assert_eq!(signed_in.subject, "ada");
    assert_eq!(signed_in.sid.as_deref(), Some("op-session"));
    assert_eq!(signed_in.claims["groups"], json!(["a"]));
    assert!(!signed_in.claims.contains_key("nonce"));
    assert_eq!(signed_in.tokens.access_token.expose_secret(), ACCESS_TOKEN);
    assert_eq!(signed_in.tokens.expires_in, Some(Duration::from_secs(300)));
    assert!(op.asked("/userinfo").is_empty(), "the ID token said it all");
    let asked = op.asked("/token");
    let expected = [
        ("grant_type", "authorization_code"),
        ("code", "the-code"),
        ("redirect_uri", "https://app.example/auth/corp"),
        ("code_verifier", VERIFIER),
    ];
    assert_eq!(asked[0].form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert!(asked[0].authorization.as_deref().unwrap().starts_with("Basic "));
    assert_eq!(asked[0].query, "");
}

#[tokio::test]
async fn dm_01_nothing_of_another_issuers_document_is_used() {
    let op = TestProvider::new();
    op.script(|script| script.metadata = json!({ "issuer": "https://evil.example" }));
    assert_eq!(login_error(&op).await.reason(), "metadata_issuer_mismatch");
    assert!(op.asked("/token").is_empty());
}

#[tokio::test]
async fn dm_02_plain_http_beyond_loopback_is_never_asked() {
    let op = TestProvider::new();
    op.script(|script| script.issuer = "http://op.example".to_owned());
    assert_eq!(login_error(&op).await.reason(), "metadata_endpoint_without_tls");
    assert!(op.asked("/.well-known/openid-configuration").is_empty());
}

#[tokio::test]
async fn dm_04_dm_05_a_rotated_key_is_fetched_once() {
    let op = TestProvider::new();
    let provider = op.provider();
    for kid in ["key-1", "key-2"] {
        op.script(|script| script.key = SigningKey::es256(kid));
        assert!(provider.redeem_code(&redemption()).await.is_ok(), "{kid}");
    }
    assert_eq!(op.asked("/jwks").len(), 2);
    assert_eq!(op.asked("/.well-known/openid-configuration").len(), 1);
}

#[tokio::test]
async fn dm_05_a_key_without_a_name_is_rotated() {
    let op = TestProvider::new();
    let provider = op.provider();
    for _ in 0..2 {
        let key = SigningKey::es256("unnamed");
        let header = json!({ "alg": "ES256" }).to_string();
        let now = op.clock.now().unix;
        let claims = json!({
            "iss": "https://op.example", "sub": "ada", "aud": CLIENT_ID, "exp": now + 9, "iat": now, "nonce": NONCE,
            "name": "Ada", "email": "ada@example.com",
        });
        let token = key.sign(header.as_bytes(), claims.to_string().as_bytes());
        op.script(|script| {
            script.key = key;
            script.tokens = json!({ "id_token": token });
        });
        assert!(provider.redeem_code(&redemption()).await.is_ok());
    }
    assert_eq!(op.asked("/jwks").len(), 2);
}

// IP-12
#[tokio::test]
async fn dm_09_a_changed_document_counts_after_an_hour_and_a_broken_one_never() {
    let op = TestProvider::new();
    let provider = op.provider();
    let host = async || provider.authorization_url(&request(&[])).await.unwrap().host_str().unwrap().to_owned();
    assert_eq!(host().await, "op.example");
    op.script(|script| script.metadata = json!({ "authorization_endpoint": "https://new.example/authorize" }));
    assert_eq!(host().await, "op.example");
    op.clock.advance(Duration::from_secs(3600));
    assert_eq!(host().await, "new.example");
    op.script(|script| script.metadata = json!({ "issuer": "https://evil.example" }));
    op.clock.advance(Duration::from_secs(3600));
    assert_eq!(host().await, "new.example");
}

#[tokio::test]
async fn ip_02_slow_metadata_holds_up_one_caller_and_no_more() {
    let op = TestProvider::new();
    let slow = Arc::new(AtomicBool::new(false));
    let http = HttpClient::in_process({
        let (op, slow) = (op.clone(), Arc::clone(&slow));
        move |request| {
            let (op, slow) = (op.clone(), slow.load(SeqCst));
            async move {
                if slow {
                    std::future::pending::<()>().await;
                }
                op.answer(&request)
            }
        }
    });
    let settings = Settings { timeout: Duration::from_secs(600), ..op.settings() };
    let provider = Arc::new(Provider::new(settings, http, op.clock.clone()));
    assert!(provider.authorization_url(&request(&[])).await.is_ok());
    op.clock.advance(Duration::from_secs(3600));
    slow.store(true, SeqCst);
    let held_up = tokio::spawn({
        let provider = Arc::clone(&provider);
        async move { provider.authorization_url(&request(&[])).await.is_ok() }
    });
    tokio::task::yield_now().await;
    let other = request(&[]);
    let other = tokio::time::timeout(Duration::from_secs(5), provider.authorization_url(&other)).await;
    assert!(other.expect("the document at hand is used").is_ok());
    assert!(!held_up.is_finished());
    held_up.abort();
}

// IP-12
#[tokio::test]
async fn dm_10_ip_01_a_provider_that_was_down_comes_back_without_a_restart() {
    let op = TestProvider::new();
    op.script(|script| {
        script.instead = [("/.well-known/openid-configuration", Answer::new(503, ""))].into();
    });
    let provider = op.provider();
    for _ in 0..20 {
        let error = provider.authorization_url(&request(&[])).await.unwrap_err();
        assert!(matches!(error, ProviderError::Unavailable { .. }), "{error}");
    }
    assert_eq!(op.asked("/.well-known/openid-configuration").len(), 1, "callers are answered without a call");
    op.script(|script| script.instead.clear());
    op.clock.advance(Duration::from_secs(1));
    assert!(provider.authorization_url(&request(&[])).await.is_ok());
}

#[tokio::test]
async fn dm_11_userinfo_of_somebody_else_refuses_the_login() {
    for userinfo in [json!({ "sub": "eve", "email": "eve@example.com" }), json!({ "email": "eve@example.com" })] {
        let op = TestProvider::new();
        op.script(|script| {
            script.claims = json!({ "email": null });
            script.userinfo = userinfo;
        });
        assert_eq!(login_error(&op).await.reason(), "userinfo_other_sub");
    }
}

#[tokio::test]
async fn dm_12_userinfo_completes_and_the_token_goes_into_the_header_only() {
    let op = TestProvider::new();
    op.script(|script| {
        script.claims = json!({ "email": null });
        script.userinfo = json!({ "sub": "ada", "name": "Someone Else", "email": "ada@example.com" });
    });
    let signed_in = op.provider().redeem_code(&redemption()).await.ok().unwrap();
    assert_eq!(signed_in.claims["email"], "ada@example.com");
    assert_eq!(signed_in.claims["name"], "Ada Example");
    let asked = op.asked("/userinfo");
    assert_eq!(asked[0].authorization.as_deref(), Some("Bearer access-1"));
    assert_eq!(asked[0].query, "");
}

#[tokio::test]
async fn dm_13_dm_14_userinfo_that_fails() {
    for (answer, expected) in [
        (Answer::new(401, ""), None),
        (Answer::new(403, ""), None),
        (Answer::new(500, ""), Some("userinfo_status")),
        (Answer::new(429, ""), Some("userinfo_status")),
        (Answer::new(302, "").with("location", "https://evil/"), Some("userinfo_status")),
        (Answer::new(200, "[]"), Some("userinfo_not_json")),
        (Answer::new(200, "eyJ.eyJ.sig").with("content-type", "application/jwt"), Some("userinfo_not_json")),
    ] {
        let op = TestProvider::new();
        op.script(|script| {
            script.claims = json!({ "email": null });
            script.instead = [("/userinfo", answer)].into();
        });
        let outcome = op.provider().redeem_code(&redemption()).await;
        assert_eq!(outcome.err().map(|error| error.reason()), expected);
        assert_eq!(op.asked("/token").len(), 1, "no refresh token is spent on it");
    }
}

#[tokio::test]
async fn dm_15_a_login_without_an_id_token() {
    let op = TestProvider::new();
    op.script(|script| script.tokens = json!({ "id_token": null }));
    assert_eq!(login_error(&op).await.reason(), "id_token_missing");
}

#[tokio::test]
async fn it_16_the_nonce_reaches_the_check() {
    let op = TestProvider::new();
    op.script(|script| script.claims = json!({ "nonce": "other" }));
    assert_eq!(login_error(&op).await, ProviderError::Invalid { reason: "token_nonce" });
}

#[tokio::test]
async fn cb_14_each_way_the_token_endpoint_fails_is_told_apart() {
    for (answer, expected) in [
        (Answer::new(400, r#"{"error":"invalid_grant"}"#), ProviderError::Refused { reason: "invalid_grant" }),
        (Answer::new(401, r#"{"error":"invalid_client"}"#), ProviderError::Misconfigured { reason: "invalid_client" }),
        (
            Answer::new(503, "").with("retry-after", "7"),
            ProviderError::Unavailable { reason: "server_error_status", retry_after: Some(Duration::from_secs(7)) },
        ),
        (Answer::new(200, "<html>"), ProviderError::Unavailable { reason: "token_answer_not_json", retry_after: None }),
    ] {
        let op = TestProvider::new();
        op.script(|script| script.instead = [("/token", answer)].into());
        assert_eq!(login_error(&op).await, expected);
        assert_eq!(op.asked("/token").len(), 1);
    }
}

#[tokio::test]
async fn cb_18_logins_at_once_do_not_mix() {
    let op = TestProvider::new();
    op.script(|script| script.user_is_code = true);
    let provider = Arc::new(op.provider());
    let mut logins = tokio::task::JoinSet::new();
    for n in 0..200 {
        let provider = Arc::clone(&provider);
        logins.spawn(async move {
            let user = format!("user-{n}");
            let code = SecretString::from(user.as_str());
            let nonce = format!("{NONCE}-{user}");
            let signed_in = provider.redeem_code(&CodeRedemption { code, nonce, ..redemption() }).await.ok().unwrap();
            (user, signed_in)
        });
    }
    while let Some(login) = logins.join_next().await {
        let (user, signed_in) = login.unwrap();
        assert_eq!(signed_in.subject, user);
        assert_eq!(signed_in.tokens.access_token.expose_secret(), format!("{ACCESS_TOKEN}-{user}"));
    }
    assert_eq!(op.asked("/.well-known/openid-configuration").len(), 1);
    assert_eq!(op.asked("/jwks").len(), 1);
}

#[tokio::test]
async fn tk_18_a_refresh_with_and_without_rotation() {
    for (rotated, expected) in [(json!("refresh-2"), Some("refresh-2")), (json!(null), None), (json!(""), None)] {
        let op = TestProvider::new();
        op.script(|script| script.tokens = json!({ "refresh_token": rotated }));
        let renewed = refresh(&op.provider(), "ada").await.ok().unwrap();
        assert_eq!(renewed.tokens.refresh_token.as_ref().map(|token| token.expose_secret()), expected);
        let form = &op.asked("/token")[0].form;
        assert_eq!(form["grant_type"], "refresh_token");
        assert_eq!(form["refresh_token"], "refresh-0");
    }
}

#[tokio::test]
async fn tk_19_a_refreshed_id_token_of_somebody_else_or_nobody() {
    let eve = SigningKey::es256("key-1");
    for (claims, key, expected) in [
        (json!({ "sub": "eve" }), None, RefreshError::OtherSubject),
        (json!({ "iss": "https://evil" }), None, RefreshError::Refused { reason: "token_iss" }),
        (json!({ "aud": null }), None, RefreshError::Refused { reason: "token_aud" }),
        (json!({}), Some(eve), RefreshError::Refused { reason: "token_signature" }),
    ] {
        let op = TestProvider::new();
        let provider = op.provider();
        assert!(provider.redeem_code(&redemption()).await.is_ok());
        op.script(|script| {
            script.claims = claims;
            script.key = key.unwrap_or_else(|| script.key.clone());
        });
        assert_eq!(refresh(&provider, "ada").await.err(), Some(expected));
    }
}

#[tokio::test]
async fn it_32_what_userinfo_said_at_the_login_is_asked_for_again() {
    let op = TestProvider::new();
    op.script(|script| script.claims = json!({ "email": null, "name": null }));
    op.script(|script| script.userinfo = json!({ "sub": "ada", "email": "new@example.com", "groups": ["staff"] }));
    let provider = op.provider();
    let new = refresh(&provider, "ada").await.ok().unwrap();
    let before = json!({ "sub": "ada", "email": "old@example.com", "groups": ["admin"], "lost": 1 });
    let after = new.claims_after(before.as_object().unwrap());
    assert_eq!((&after["email"], &after["groups"]), (&json!("new@example.com"), &json!(["staff"])));
    assert!(!after.contains_key("lost"));

    let earlier = new.tokens.id_token.unwrap();
    op.script(|script| script.tokens = json!({ "id_token": null }));
    let answer = exchange(&provider).await;
    let renewed = provider.check_renewal(answer, "ada", Some(&earlier)).await.ok().unwrap();
    assert_eq!(renewed.claims.unwrap()["email"], "new@example.com", "without a new ID token, too");

    op.script(|script| script.userinfo = json!({ "sub": "eve", "email": "eve@example.com" }));
    let answer = exchange(&provider).await;
    let refused = provider.check_renewal(answer, "ada", Some(&earlier)).await;
    assert_eq!(refused.err(), Some(RefreshError::OtherSubject));
}

// IP-09
#[tokio::test]
async fn rf_25_clocks_that_disagree_sign_nobody_out() {
    let op = TestProvider::new();
    op.script(|script| script.claims = json!({ "exp": 1_000_000_000, "nonce": null }));
    let renewed = refresh(&op.provider(), "ada").await.ok().unwrap();
    assert!(renewed.claims.is_none() && renewed.tokens.id_token.is_none());
    assert_eq!(renewed.tokens.access_token.expose_secret(), ACCESS_TOKEN);
    assert_eq!(login_error(&op).await.reason(), "token_exp", "a login has no such excuse");
}

#[tokio::test]
async fn dm_07_keys_that_cannot_be_fetched_sign_nobody_out() {
    let op = TestProvider::new();
    op.script(|script| script.instead = [("/jwks", Answer::new(500, ""))].into());
    let renewed = refresh(&op.provider(), "ada").await.ok().unwrap();
    assert!(renewed.claims.is_none() && renewed.tokens.id_token.is_none());
    assert_eq!(login_error(&op).await.reason(), "keys_unavailable");
}

#[tokio::test]
async fn it_32_a_group_the_user_lost_is_gone_after_the_refresh() {
    let claims = |value: Value| value.as_object().unwrap().clone();
    let before = claims(json!({ "sub": "ada", "groups": ["admin"], "email": "ada@example.com" }));
    let op = TestProvider::new();
    let renewed = refresh(&op.provider(), "ada").await.ok().unwrap();
    assert!(!renewed.claims_after(&before).contains_key("groups"));

    op.script(|script| {
        script.claims = json!({ "email": null, "groups": [] });
        script.instead = [("/userinfo", Answer::new(500, ""))].into();
    });
    let renewed = refresh(&op.provider(), "ada").await.ok().unwrap();
    let after = renewed.claims_after(&before);
    assert_eq!(after["email"], "ada@example.com", "userinfo said it at the login, and says nothing now");
    assert_eq!(after["groups"], json!([]));

    op.script(|script| script.tokens = json!({ "id_token": null }));
    let renewed = refresh(&op.provider(), "ada").await.ok().unwrap();
    assert_eq!(renewed.claims_after(&before), before);
}

#[tokio::test]
async fn rf_11_rf_12_rf_15_only_a_refusal_ends_a_session() {
    for (status, body, expected) in [
        (400, r#"{"error":"invalid_grant"}"#, RefreshError::Refused { reason: "invalid_grant" }),
        (403, "", RefreshError::Refused { reason: "client_error_status" }),
        (200, "{}", RefreshError::Refused { reason: "no_access_token" }),
        (401, r#"{"error":"invalid_client"}"#, RefreshError::Misconfigured { reason: "invalid_client" }),
        (400, r#"{"error":"unauthorized_client"}"#, RefreshError::Misconfigured { reason: "unauthorized_client" }),
        (500, "", RefreshError::Unavailable { reason: "server_error_status", retry_after: None }),
        (429, "", RefreshError::Unavailable { reason: "too_many_requests", retry_after: None }),
        (200, "<html>", RefreshError::Unavailable { reason: "token_answer_not_json", retry_after: None }),
    ] {
        let op = TestProvider::new();
        op.script(|script| script.instead = [("/token", Answer::new(status, body))].into());
        assert_eq!(refresh_error(&op).await, expected, "{status} {body}");
        assert_eq!(op.asked("/token").len(), 1, "never sent twice");
    }
    let op = TestProvider::new();
    op.script(|script| script.metadata = json!({ "issuer": "https://evil.example" }));
    assert!(matches!(refresh_error(&op).await, RefreshError::Unavailable { .. }));
}

// IP-05
#[tokio::test]
async fn what_is_not_plain_json_is_no_answer_and_ends_no_session() {
    type Spoil = fn(&str) -> String;
    let spoil: [(&str, Spoil); 6] = [
        ("a page", |_| "<!doctype html><h1>Maintenance</h1>".to_owned()),
        ("nothing", |_| String::new()),
        ("a part", |good| good[..good.len() - 1].to_owned()),
        ("depth", |good| good.replacen('{', &format!("{{\"x\":{}{},", "[".repeat(10_000), "]".repeat(10_000)), 1)),
        ("a member twice", |good| good.replacen('{', "{\"x\":1,\"x\":1,", 1)),
        ("a byte order mark", |good| format!("\u{feff}{good}")),
    ];
    for (path, reason, refresh_reason) in [
        ("/.well-known/openid-configuration", "metadata_not_json", Some("metadata_not_json")),
        ("/token", "token_answer_not_json", Some("token_answer_not_json")),
        ("/jwks", "keys_unavailable", None),
        ("/userinfo", "userinfo_not_json", None),
    ] {
        for (what, spoilt) in spoil {
            let op = TestProvider::new();
            op.script(|script| script.claims = json!({ "email": null }));
            let good = op.answer(&::http::Request::get(path).body(Bytes::new()).unwrap()).into_body();
            let bad = spoilt(std::str::from_utf8(&good).unwrap());
            op.script(|script| script.instead = [(path, Answer::new(200, bad))].into());
            assert_eq!(login_error(&op).await.reason(), reason, "{what} at {path}");
            let refreshed = refresh(&op.provider(), "ada").await;
            let expected = refresh_reason.map(|reason| RefreshError::Unavailable { reason, retry_after: None });
            assert_eq!(refreshed.err(), expected, "{what} at {path}");
        }
    }
}

#[tokio::test]
async fn rf_13_retry_after_holds_for_every_session() {
    let op = TestProvider::new();
    op.script(|script| script.instead = [("/token", Answer::new(429, "").with("retry-after", "30"))].into());
    let provider = op.provider();
    assert!(refresh(&provider, "ada").await.is_err());
    op.script(|script| script.instead.clear());
    for _ in 0..10 {
        let error = refresh(&provider, "ada").await.err().unwrap();
        assert!(matches!(error, RefreshError::Unavailable { reason: "refresh_paused", retry_after: Some(_) }));
    }
    assert_eq!(op.asked("/token").len(), 1);
    op.clock.advance(Duration::from_secs(30));
    assert!(refresh(&provider, "ada").await.is_ok());
}

#[tokio::test]
async fn ip_04_a_provider_that_keeps_failing_is_probed_by_one() {
    let op = TestProvider::new();
    op.script(|script| script.instead = [("/token", Answer::new(500, ""))].into());
    let provider = Arc::new(op.provider());
    for _ in 0..20 {
        assert!(refresh(&provider, "ada").await.is_err());
    }
    assert_eq!(op.asked("/token").len(), 5);
    op.clock.advance(Duration::from_secs(1));
    let refreshes = (0..20).map(|_| {
        let provider = Arc::clone(&provider);
        tokio::spawn(async move { refresh(&provider, "ada").await.is_err() })
    });
    for refresh in refreshes.collect::<Vec<_>>() {
        assert!(refresh.await.unwrap());
    }
    assert_eq!(op.asked("/token").len(), 6);
}

#[tokio::test]
async fn rf_20_sessions_that_expire_at_once_take_turns() {
    let op = TestProvider::new();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let http = HttpClient::in_process({
        let (op, running, most) = (op.clone(), Arc::clone(&running), Arc::clone(&most));
        move |request| {
            let (op, running, most) = (op.clone(), Arc::clone(&running), Arc::clone(&most));
            async move {
                if request.uri().path() == "/token" {
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    running.fetch_sub(1, SeqCst);
                }
                op.answer(&request)
            }
        }
    });
    let provider = Arc::new(Provider::new(op.settings(), http, op.clock.clone()));
    let mut refreshes = tokio::task::JoinSet::new();
    for _ in 0..2 * MOST_REFRESHES {
        let provider = Arc::clone(&provider);
        refreshes.spawn(async move { refresh(&provider, "ada").await.is_ok() });
    }
    while let Some(refresh) = refreshes.join_next().await {
        assert!(refresh.unwrap());
    }
    assert!(most.load(SeqCst) <= MOST_REFRESHES);
}

#[tokio::test]
async fn a_revocation_names_the_token_and_the_client() {
    let op = TestProvider::new();
    assert_eq!(op.provider().revoke(&"access-0".into(), Some(&refresh_token())).await, Ok(()));
    let asked = op.asked("/revoke");
    assert_eq!(asked[0].form["token"], "refresh-0");
    assert_eq!(asked[0].form["token_type_hint"], "refresh_token");
    assert!(asked[0].authorization.is_some());
    assert_eq!(op.provider().revoke(&"access-0".into(), None).await, Ok(()));
    assert_eq!(op.asked("/revoke")[1].form["token_type_hint"], "access_token");
    op.script(|script| script.instead = [("/revoke", Answer::new(503, "").with("retry-after", "1"))].into());
    let retry_after = op.provider().revoke(&"access-0".into(), Some(&refresh_token())).await.unwrap_err().retry_after();
    assert_eq!(retry_after, Some(Duration::from_secs(1)));
    op.script(|script| {
        script.instead = [("/revoke", Answer::new(400, r#"{"error":"unsupported_token_type"}"#))].into()
    });
    assert_eq!(
        op.provider().revoke(&"access-0".into(), Some(&refresh_token())).await.unwrap_err().reason(),
        "unsupported_token_type"
    );
    op.script(|script| script.metadata = json!({ "revocation_endpoint": null }));
    assert_eq!(op.provider().revoke(&"access-0".into(), Some(&refresh_token())).await, Ok(()));
}

#[tokio::test]
async fn lo_01_the_way_out() {
    let op = TestProvider::new();
    let home = Url::parse("https://app.example/").unwrap();
    let url = op.provider().end_session_url(Some("the.id.token"), &home, "s").await.unwrap().unwrap();
    assert!(url.as_str().starts_with("https://op.example/logout?tenant=a&"));
    for (name, value) in [
        ("client_id", CLIENT_ID),
        ("post_logout_redirect_uri", "https://app.example/"),
        ("id_token_hint", "the.id.token"),
        ("state", "s"),
    ] {
        assert!(parameters(&url).contains(&(name.to_owned(), value.to_owned())), "{name}");
    }
    op.script(|script| script.metadata = json!({ "end_session_endpoint": null }));
    assert_eq!(op.provider().end_session_url(None, &home, "s").await, Ok(None), "lo_09");
}

fn logout_token(op: &TestProvider, header: Value, claims: Value) -> String {
    let now = op.clock.now().unix;
    let good = json!({
        "iss": "https://op.example", "aud": CLIENT_ID, "iat": now, "exp": now + 60, "jti": "j", "sub": "ada",
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
    });
    let mut token = String::new();
    op.script(|script| {
        let header = changed(script.key.header(), &header).to_string();
        token = script.key.sign(header.as_bytes(), changed(good, &claims).to_string().as_bytes());
    });
    token
}

#[tokio::test]
async fn lo_15_a_logout_token_that_cannot_count_costs_the_provider_nothing() {
    let op = TestProvider::new();
    let provider = op.provider();
    for (claims, error) in [
        (json!({ "iss": "https://evil" }), LogoutTokenError::Foreign),
        (json!({ "aud": "other" }), LogoutTokenError::Foreign),
        (json!({ "events": null }), LogoutTokenError::Invalid { reason: "token_events" }),
    ] {
        assert_eq!(provider.verify_logout_token(&logout_token(&op, json!({}), claims)).await, Err(error));
    }
    assert_eq!(op.asked("/jwks").len() + op.asked("/.well-known/openid-configuration").len(), 0);
    assert!(provider.verify_logout_token(&logout_token(&op, json!({}), json!({}))).await.is_ok());
    for n in 0..50 {
        let made_up = logout_token(&op, json!({ "kid": format!("made-up-{n}") }), json!({}));
        assert!(provider.verify_logout_token(&made_up).await.is_err());
    }
    assert_eq!(op.asked("/jwks").len(), 2, "the first, and one for all unknown keys");
    assert!(provider.verify_logout_token(&logout_token(&op, json!({}), json!({}))).await.is_ok());
}

#[tokio::test]
async fn lo_15_made_up_logout_tokens_do_not_spend_the_fetches_of_logins() {
    let op = TestProvider::new();
    let provider = op.provider();
    assert!(provider.redeem_code(&redemption()).await.is_ok());
    for n in 0..3 {
        let made_up = logout_token(&op, json!({ "kid": format!("made-up-{n}") }), json!({}));
        assert!(provider.verify_logout_token(&made_up).await.is_err());
    }
    op.script(|script| script.key = SigningKey::es256("rotated"));
    assert!(provider.redeem_code(&redemption()).await.is_ok());
}

#[tokio::test]
async fn a_logout_token_that_cannot_be_verified_now_is_not_refused_for_good() {
    let op = TestProvider::new();
    let token = logout_token(&op, json!({}), json!({}));
    op.script(|script| script.instead = [("/jwks", Answer::new(503, ""))].into());
    let verdict = op.provider().verify_logout_token(&token).await;
    assert_eq!(verdict, Err(LogoutTokenError::Unverifiable { reason: "keys_unavailable", retry_after: None }));
    op.script(|script| script.instead = [("/.well-known/openid-configuration", Answer::new(503, ""))].into());
    let verdict = op.provider().verify_logout_token(&token).await;
    assert!(matches!(verdict, Err(LogoutTokenError::Unverifiable { reason: "discovery_status", .. })), "{verdict:?}");
}

fn oauth2(op: &TestProvider, subject: Option<&str>) -> Settings {
    let at = |path: &str| Url::parse(&format!("https://op.example{path}")).unwrap();
    Settings {
        kind: Kind::OAuth2 {
            authorization_endpoint: at("/authorize"),
            token_endpoint: at("/token"),
            userinfo_endpoint: at("/userinfo"),
            revocation_endpoint: None,
            subject: subject.map(str::to_owned),
        },
        scopes: vec!["user:email".to_owned()],
        ..op.settings()
    }
}

#[tokio::test]
async fn plain_oauth2_takes_the_user_from_userinfo_and_believes_no_id_token() {
    let op = TestProvider::new();
    op.script(|script| script.userinfo = json!({ "id": 583_231, "login": "ada" }));
    let provider = op.provider_with(oauth2(&op, None));
    let url = provider.authorization_url(&request(&[])).await.unwrap();
    assert!(parameters(&url).contains(&("scope".to_owned(), "user:email".to_owned())));
    assert!(!url.as_str().contains("nonce"));
    assert_eq!(provider.check_callback_issuer(Some("https://github.com/login/oauth")).await, Ok(()));
    let signed_in = provider.redeem_code(&redemption()).await.ok().unwrap();
    assert_eq!((signed_in.issuer.as_str(), signed_in.subject.as_str()), ("https://op.example", "583231"));
    assert_eq!(signed_in.claims["login"], "ada");
    assert!(signed_in.tokens.id_token.is_none());
    let renewed = refresh(&provider, "583231").await.ok().unwrap();
    assert!(renewed.tokens.id_token.is_none());
    assert_eq!(renewed.claims.as_ref(), Some(&signed_in.claims), "read again");
    assert!(op.asked("/.well-known/openid-configuration").is_empty() && op.asked("/jwks").is_empty());

    let provider = op.provider_with(oauth2(&op, Some("uid")));
    assert_eq!(provider.redeem_code(&redemption()).await.err().unwrap().reason(), "userinfo_without_subject");
    op.script(|script| script.instead = [("/userinfo", Answer::new(401, ""))].into());
    assert_eq!(provider.redeem_code(&redemption()).await.err().unwrap().reason(), "userinfo_refused");
}

#[tokio::test]
async fn over_a_network_it_is_the_same() {
    let op = TestProvider::new();
    op.listen().await;
    let provider = Provider::new(op.settings(), HttpClient::network(tls::client_config()), op.clock.clone());
    assert_eq!(provider.redeem_code(&redemption()).await.ok().unwrap().subject, "ada");
    assert!(refresh(&provider, "ada").await.is_ok());
}

#[tokio::test]
async fn dm_03_redirects_are_not_followed() {
    let elsewhere = TestProvider::new();
    let target = elsewhere.listen().await;
    for (path, reason) in [
        ("/.well-known/openid-configuration", "discovery_status"),
        ("/token", "redirect"),
        ("/jwks", "keys_unavailable"),
        ("/userinfo", "userinfo_status"),
    ] {
        for status in [301, 302, 307, 308] {
            let op = TestProvider::new();
            op.listen().await;
            let redirect = Answer::new(status, "").with("location", &format!("http://{target}{path}"));
            op.script(|script| {
                script.instead = [(path, redirect)].into();
                script.claims = json!({ "email": null });
            });
            let provider = Provider::new(op.settings(), HttpClient::network(tls::client_config()), op.clock.clone());
            let error = provider.redeem_code(&redemption()).await.err().unwrap();
            assert_eq!(error.reason(), reason);
            assert!(elsewhere.asked(path).is_empty());
        }
    }
}

#[tokio::test]
async fn tk_21_answers_without_end_are_cut_off() {
    for path in ["/.well-known/openid-configuration", "/token", "/jwks", "/userinfo"] {
        let op = TestProvider::new();
        op.listen().await;
        op.script(|script| {
            script.instead = [(path, Answer::new(200, " ".repeat(http::BODY_LIMIT + 1)))].into();
            script.claims = json!({ "email": null });
        });
        let provider = Provider::new(op.settings(), HttpClient::network(tls::client_config()), op.clock.clone());
        let error = provider.redeem_code(&redemption()).await.err().unwrap();
        assert!(["answer_too_large", "keys_unavailable"].contains(&error.reason()), "{error}");
    }
}

/// A listener that reads a request and then does as `behave` says.
async fn raw<F, A>(behave: F) -> Settings
where
    F: Fn(tokio::net::TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            tokio::spawn(behave(stream));
        }
    });
    Settings { kind: Kind::Oidc { issuer }, timeout: Duration::from_millis(300), ..TestProvider::new().settings() }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the deadline of a network call is real time")]
async fn ip_02_ip_03_a_provider_that_drips_hangs_or_hangs_up() {
    let drip = raw(async |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let hang = raw(async |stream| {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    });
    let reset = raw(async |stream| drop(stream));
    let noise = raw(async |mut stream| stream.write_all(b"220 smtp ready\r\n").await.unwrap_or_default());
    let nobody = async {
        Settings { kind: Kind::Oidc { issuer: "http://127.0.0.1:1".to_owned() }, ..TestProvider::new().settings() }
    };
    for (settings, reason) in [
        (drip.await, "timeout"),
        (hang.await, "timeout"),
        (reset.await, "connection_lost"),
        (noise.await, "connection_lost"),
        (nobody.await, "connect"),
    ] {
        let started = Instant::now();
        let provider = Provider::new(settings, HttpClient::network(tls::client_config()), Clock::system());
        let error = provider.authorization_url(&request(&[])).await.unwrap_err();
        assert_eq!(error.reason(), reason);
        assert!(started.elapsed() < Duration::from_secs(2), "{reason}");
    }
}

#[tokio::test]
async fn tk_02_a_code_is_never_sent_twice() {
    let op = TestProvider::new();
    op.listen().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let broken = raw(move |stream| {
        counted.fetch_add(1, SeqCst);
        async move { drop(stream) }
    })
    .await;
    let Kind::Oidc { issuer } = broken.kind else { unreachable!() };
    op.script(|script| script.metadata = json!({ "token_endpoint": issuer }));
    let provider = Provider::new(op.settings(), HttpClient::network(tls::client_config()), op.clock.clone());
    assert_eq!(provider.redeem_code(&redemption()).await.err().unwrap().reason(), "connection_lost");
    assert!(refresh(&provider, "ada").await.is_err());
    assert_eq!(calls.load(SeqCst), 2, "one call for the code, one for the refresh token");
}

#[tokio::test]
async fn the_mock_provider_is_an_oidc_provider_without_a_client() {
    let op = TestProvider::new();
    op.script(|script| {
        script.issuer = "http://192.168.1.5:8080".to_owned();
        script.claims = json!({ "aud": MOCK_CLIENT_ID });
    });
    let settings = Settings {
        kind: Kind::Mock(MockSettings {
            users: Vec::new(),
            access_ttl: Duration::from_secs(60),
            issuer: "http://192.168.1.5:8080".to_owned(),
        }),
        client_id: String::new(),
        client_secret: None,
        ..op.settings()
    };
    let signed_in = op.provider_with(settings).redeem_code(&redemption()).await.ok().unwrap();
    assert_eq!(signed_in.subject, "ada");
    assert_eq!(op.asked("/token")[0].form["client_id"], MOCK_CLIENT_ID);
}
