//! Each preset against the shapes its provider documents: discovery, token answers, ID tokens, user info. The values are examples.

use crate::clock::Clock;
use crate::config::{Config, Severity};
use crate::provider::test_provider::{CLIENT_ID, NONCE, SigningKey, changed};
use crate::provider::{
    AuthorizationRequest, CodeRedemption, HttpClient, Provider, ProviderError, RefreshError, Renewed, SignedIn,
    code_challenge,
};
use bytes::Bytes;
use http::{Request, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use url::Url;

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const TENANT: &str = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490";
const OTHER_TENANT: &str = "b9419818-09af-49c2-b0c3-653adc1f376e";
const PERSONAL: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

// ------------------------------------------------------------------------------ the whole way

/// What a provider with OpenID Connect documents.
struct Documented {
    keys: &'static str,
    issuer: &'static str,
    /// The issuer of its tokens, where that is another.
    signs_as: Option<String>,
    metadata: Value,
    /// Of an ID token, besides `iss`, `aud`, `iat`, `exp` and `nonce`.
    claims: Value,
    /// Of a token answer, besides `id_token`.
    tokens: Value,
    /// Laid over the claims of the ID token that comes with a refresh.
    renewed: Value,
    userinfo: Value,
    /// What the authorization request says beyond what it always says.
    request: &'static [(&'static str, &'static str)],
    /// Claims a session ends up with.
    expected: Value,
}

fn documented() -> Vec<Documented> {
    vec![google(), microsoft(), auth0(), gitlab(), keycloak(), okta()]
}

fn google() -> Documented {
    Documented {
        keys: "kind = \"google\"",
        issuer: "https://accounts.google.com",
        signs_as: None,
        metadata: json!({
            "issuer": "https://accounts.google.com",
            "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth",
            "device_authorization_endpoint": "https://oauth2.googleapis.com/device/code",
            "token_endpoint": "https://oauth2.googleapis.com/token",
            "userinfo_endpoint": "https://openidconnect.googleapis.com/v1/userinfo",
            "revocation_endpoint": "https://oauth2.googleapis.com/revoke",
            "jwks_uri": "https://www.googleapis.com/oauth2/v3/certs",
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "email", "profile"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "code_challenge_methods_supported": ["plain", "S256"],
        }),
        claims: json!({
            "azp": CLIENT_ID, "sub": "118211432000000000001", "hd": "example.com", "email": "ada@example.com",
            "email_verified": true, "name": "Ada Example", "picture": "https://lh3.example/a/ada",
            "given_name": "Ada", "family_name": "Example",
        }),
        tokens: json!({
            "access_token": "ya29.example", "expires_in": 3599, "token_type": "Bearer", "refresh_token": "1//example",
            "scope": "openid https://www.googleapis.com/auth/userinfo.email https://www.googleapis.com/auth/userinfo.profile",
        }),
        renewed: json!({ "name": null, "picture": null, "given_name": null, "family_name": null }),
        userinfo: json!({
            "sub": "118211432000000000001", "name": "Ada Example", "picture": "https://lh3.example/a/ada",
            "email": "ada@example.com", "email_verified": true, "hd": "example.com",
        }),
        request: &[("scope", "openid profile email"), ("access_type", "offline"), ("prompt", "consent")],
        expected: json!({ "email": "ada@example.com", "email_verified": true, "name": "Ada Example" }),
    }
}

fn microsoft() -> Documented {
    Documented {
        keys: "kind = \"microsoft\"",
        issuer: "https://login.microsoftonline.com/common/v2.0",
        signs_as: Some(format!("https://login.microsoftonline.com/{TENANT}/v2.0")),
        metadata: json!({
            "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0",
            "authorization_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
            "token_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
            "jwks_uri": "https://login.microsoftonline.com/common/discovery/v2.0/keys",
            "userinfo_endpoint": "https://graph.microsoft.com/oidc/userinfo",
            "end_session_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/logout",
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        }),
        claims: json!({
            "ver": "2.0", "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ", "tid": TENANT, "name": "Ada Example",
            "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474", "preferred_username": "ada@corp.example",
            "email": "ada@corp.example", "uti": "fqiBqXLPj0eQa82S-IYFAA", "rh": "0.AAA.",
        }),
        tokens: json!({
            "token_type": "Bearer", "scope": "openid profile email", "expires_in": 3736, "ext_expires_in": 3736,
            "access_token": "EwB-example", "refresh_token": "M.C5-example",
        }),
        renewed: json!({}),
        userinfo: json!({ "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ", "name": "Ada Example" }),
        request: &[("scope", "openid profile email offline_access")],
        expected: json!({ "email": "ada@corp.example", "email_verified": false, "tid": TENANT }),
    }
}

fn auth0() -> Documented {
    Documented {
        keys: "kind = \"auth0\"\ndomain = \"example.eu.auth0.com\"\naudience = \"https://api.example.com\"",
        issuer: "https://example.eu.auth0.com/",
        signs_as: None,
        metadata: json!({
            "issuer": "https://example.eu.auth0.com/",
            "authorization_endpoint": "https://example.eu.auth0.com/authorize",
            "token_endpoint": "https://example.eu.auth0.com/oauth/token",
            "userinfo_endpoint": "https://example.eu.auth0.com/userinfo",
            "jwks_uri": "https://example.eu.auth0.com/.well-known/jwks.json",
            "revocation_endpoint": "https://example.eu.auth0.com/oauth/revoke",
            "scopes_supported": ["openid", "profile", "offline_access", "name", "email", "phone"],
            "code_challenge_methods_supported": ["S256", "plain"],
            "id_token_signing_alg_values_supported": ["HS256", "RS256", "PS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt"],
        }),
        claims: json!({
            "sub": "auth0|507f1f77bcf86cd799439020", "nickname": "ada", "name": "Ada Example", "sid": "s-1",
            "picture": "https://s.gravatar.example/ada", "updated_at": "2026-01-02T03:04:05.678Z",
            "email": "ada@example.com", "email_verified": true,
        }),
        tokens: json!({
            "access_token": "eyJhbGciOiJSUzI1NiJ9.e30.x", "refresh_token": "v1.example", "token_type": "Bearer",
            "scope": "openid profile email offline_access", "expires_in": 86_400,
        }),
        renewed: json!({}),
        userinfo: json!({ "sub": "auth0|507f1f77bcf86cd799439020" }),
        request: &[("scope", "openid profile email offline_access"), ("audience", "https://api.example.com")],
        expected: json!({ "nickname": "ada", "email_verified": true }),
    }
}

fn gitlab() -> Documented {
    Documented {
        keys: "kind = \"gitlab\"",
        issuer: "https://gitlab.com",
        signs_as: None,
        metadata: json!({
            "issuer": "https://gitlab.com",
            "authorization_endpoint": "https://gitlab.com/oauth/authorize",
            "token_endpoint": "https://gitlab.com/oauth/token",
            "revocation_endpoint": "https://gitlab.com/oauth/revoke",
            "introspection_endpoint": "https://gitlab.com/oauth/introspect",
            "userinfo_endpoint": "https://gitlab.com/oauth/userinfo",
            "jwks_uri": "https://gitlab.com/oauth/discovery/keys",
            "scopes_supported": ["api", "read_api", "read_user", "openid", "profile", "email"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["plain", "S256"],
        }),
        claims: json!({ "sub": "1234", "auth_time": 1_700_000_000, "groups_direct": ["crew"] }),
        tokens: json!({
            "access_token": "glat-example", "token_type": "Bearer", "expires_in": 7200, "refresh_token": "glrt-example",
            "scope": "openid profile email", "created_at": 1_700_000_000,
        }),
        renewed: json!({}),
        userinfo: json!({
            "sub": "1234", "name": "Ada Example", "nickname": "ada", "preferred_username": "ada",
            "email": "ada@example.com", "email_verified": true, "profile": "https://gitlab.com/ada",
            "picture": "https://gitlab.com/uploads/ada.png", "groups": ["crew", "crew/deck"],
        }),
        request: &[("scope", "openid profile email")],
        expected: json!({ "preferred_username": "ada", "groups": ["crew", "crew/deck"], "email_verified": true }),
    }
}

fn keycloak() -> Documented {
    Documented {
        keys: "kind = \"keycloak\"\nbase_url = \"https://sso.example.com/\"\nrealm = \"staff\"",
        issuer: "https://sso.example.com/realms/staff",
        signs_as: None,
        metadata: json!({
            "issuer": "https://sso.example.com/realms/staff",
            "authorization_endpoint": "https://sso.example.com/realms/staff/protocol/openid-connect/auth",
            "token_endpoint": "https://sso.example.com/realms/staff/protocol/openid-connect/token",
            "userinfo_endpoint": "https://sso.example.com/realms/staff/protocol/openid-connect/userinfo",
            "jwks_uri": "https://sso.example.com/realms/staff/protocol/openid-connect/certs",
            "end_session_endpoint": "https://sso.example.com/realms/staff/protocol/openid-connect/logout",
            "revocation_endpoint": "https://sso.example.com/realms/staff/protocol/openid-connect/revoke",
            "scopes_supported": ["openid", "offline_access", "profile", "email", "roles"],
            "id_token_signing_alg_values_supported": ["PS384", "RS384", "EdDSA", "ES384", "HS256", "RS256"],
            "code_challenge_methods_supported": ["plain", "S256"],
            "authorization_response_iss_parameter_supported": true,
        }),
        claims: json!({
            "typ": "ID", "azp": CLIENT_ID, "sub": "f9b1a0de-7d3a-4a0e-9a43-3c2a1f3b7c11", "acr": "1", "sid": "s-1",
            "session_state": "s-1", "name": "Ada Example", "given_name": "Ada", "family_name": "Example",
            "preferred_username": "ada", "email": "ada@example.com", "email_verified": true,
        }),
        tokens: json!({
            "access_token": "eyJhbGciOiJSUzI1NiJ9.e30.y", "expires_in": 300, "refresh_expires_in": 1800,
            "refresh_token": "eyJhbGciOiJIUzUxMiJ9.e30.z", "token_type": "Bearer", "not-before-policy": 0,
            "session_state": "s-1", "scope": "openid profile email",
        }),
        renewed: json!({}),
        userinfo: json!({ "sub": "f9b1a0de-7d3a-4a0e-9a43-3c2a1f3b7c11" }),
        request: &[("scope", "openid profile email")],
        expected: json!({ "preferred_username": "ada", "sid": "s-1" }),
    }
}

fn okta() -> Documented {
    Documented {
        keys: "kind = \"okta\"\ndomain = \"example.okta.com\"\nauthorization_server = \"default\"",
        issuer: "https://example.okta.com/oauth2/default",
        signs_as: None,
        metadata: json!({
            "issuer": "https://example.okta.com/oauth2/default",
            "authorization_endpoint": "https://example.okta.com/oauth2/default/v1/authorize",
            "token_endpoint": "https://example.okta.com/oauth2/default/v1/token",
            "userinfo_endpoint": "https://example.okta.com/oauth2/default/v1/userinfo",
            "jwks_uri": "https://example.okta.com/oauth2/default/v1/keys",
            "revocation_endpoint": "https://example.okta.com/oauth2/default/v1/revoke",
            "end_session_endpoint": "https://example.okta.com/oauth2/default/v1/logout",
            "scopes_supported": ["openid", "profile", "email", "address", "phone", "offline_access"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }),
        claims: json!({
            "ver": 1, "sub": "00u1example0example4x7", "jti": "ID.example", "amr": ["pwd"], "idp": "00o1example",
            "auth_time": 1_700_000_000, "name": "Ada Example", "preferred_username": "ada@example.com",
        }),
        tokens: json!({
            "token_type": "Bearer", "expires_in": 3600, "access_token": "eyJhbGciOiJSUzI1NiJ9.e30.w",
            "scope": "openid profile email offline_access", "refresh_token": "okrt-example",
        }),
        renewed: json!({}),
        userinfo: json!({
            "sub": "00u1example0example4x7", "name": "Ada Example", "locale": "en-US", "zoneinfo": "America/New_York",
            "preferred_username": "ada@example.com", "email": "ada@example.com", "email_verified": true,
        }),
        request: &[("scope", "openid profile email offline_access")],
        expected: json!({ "email": "ada@example.com", "zoneinfo": "America/New_York" }),
    }
}

// G-1, G-6
#[tokio::test]
async fn tg_01_every_preset_with_openid_connect_signs_in_and_refreshes() {
    for it in documented() {
        let net = Net::new();
        net.serve(&it, json!({}));
        let provider = net.provider(it.keys);
        let url = provider.authorization_url(&request(&[])).await.unwrap();
        assert!(url.as_str().starts_with(it.metadata["authorization_endpoint"].as_str().unwrap()), "{url}");
        for (name, value) in it.request.iter().chain(&ALWAYS) {
            assert_eq!(parameter(&url, name).as_deref(), Some(*value), "{}: {name}", it.keys);
        }
        assert_eq!(url.query_pairs().count(), it.request.len() + ALWAYS.len(), "{url}");

        let signed_in = sign_in(&provider).await.unwrap_or_else(|error| panic!("{}: {error}", it.keys));
        let issuer = it.signs_as.as_deref().unwrap_or(it.issuer);
        assert_eq!(
            (signed_in.issuer.as_str(), signed_in.subject.as_str()),
            (issuer, it.claims["sub"].as_str().unwrap())
        );
        assert_has(&signed_in.claims, &it.expected, it.keys);
        assert!(provider.is_issuer(issuer), "{issuer}");

        net.serve(&it, it.renewed.clone());
        let renewed =
            refresh(&provider, &signed_in.subject).await.unwrap_or_else(|error| panic!("{}: {error}", it.keys));
        assert!(renewed.tokens.id_token.is_some());
        assert_has(&renewed.claims_after(&signed_in.claims), &it.expected, it.keys);
        assert_eq!(
            renewed.tokens.expires_in.map(|life| life.as_secs()),
            it.tokens["expires_in"].as_u64(),
            "{}",
            it.keys
        );
    }
}

/// What [`request`] always comes to.
const ALWAYS: [(&str, &str); 7] = [
    ("response_type", "code"),
    ("client_id", CLIENT_ID),
    ("redirect_uri", "https://app.example/auth/x"),
    ("state", "the-state"),
    ("nonce", NONCE),
    ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
    ("code_challenge_method", "S256"),
];

#[tokio::test]
async fn presets_are_known_by_their_names() {
    for (keys, title) in [
        ("kind = \"google\"", "Google"),
        ("kind = \"github\"", "GitHub"),
        ("kind = \"github\"\ntitle = \"Sign in at the forge\"", "Sign in at the forge"),
        ("kind = \"discord\"", "Discord"),
        ("kind = \"oidc\"\nissuer = \"https://op.example\"", "x"),
        ("kind = \"oidc\"\nissuer = \"https://op.example\"\ntitle = \"Staff\"", "Staff"),
    ] {
        assert_eq!(Net::new().provider(keys).title(), title);
    }
}

// ---------------------------------------------------------------------------- one of a kind

#[tokio::test]
async fn google_admits_one_domain_by_what_the_id_token_says() {
    let it = google();
    let keys = format!("{}\nhosted_domain = \"example.com\"", it.keys);
    for (hd, refused) in [
        (json!("example.com"), None),
        (json!("evil.example"), Some("token_hd")),
        (json!("EXAMPLE.com"), Some("token_hd")),
        (json!(["example.com"]), Some("token_hd")),
        (json!(null), Some("token_hd")),
    ] {
        let net = Net::new();
        net.serve(&it, json!({ "hd": hd }));
        let provider = net.provider(&keys);
        let url = provider.authorization_url(&request(&[])).await.unwrap();
        assert_eq!(parameter(&url, "hd").as_deref(), Some("example.com"));
        let outcome = sign_in(&provider).await.map(drop);
        assert_eq!(outcome, refused.map_or(Ok(()), |reason| Err(ProviderError::Refused { reason })), "{hd}");
        let renewed = refresh(&provider, "118211432000000000001").await.map(drop);
        assert_eq!(renewed, refused.map_or(Ok(()), |reason| Err(RefreshError::Refused { reason })), "{hd}");
    }
}

#[tokio::test]
async fn microsoft_believes_a_tenant_by_its_own_id_only() {
    let at = |tenant: &str| format!("https://login.microsoftonline.com/{tenant}/v2.0");
    let other = Err(ProviderError::Invalid { reason: "token_iss" });
    let not_allowed = Err(ProviderError::Refused { reason: "token_tid" });
    for (keys, iss, tid, expected) in [
        ("", at(TENANT), TENANT, Ok(())),
        ("", at(OTHER_TENANT), OTHER_TENANT, Ok(())),
        ("", at(TENANT), OTHER_TENANT, other),
        ("", at("{tenantid}"), "{tenantid}", other),
        ("", at("common"), "common", other),
        ("", "https://evil.example/v2.0".to_owned(), TENANT, other),
        ("allowed_tenants = [\"8EAEF023-2b34-4da1-9baa-8bc8c9d6a490\"]", at(TENANT), TENANT, Ok(())),
        ("allowed_tenants = [\"8EAEF023-2b34-4da1-9baa-8bc8c9d6a490\"]", at(OTHER_TENANT), OTHER_TENANT, not_allowed),
    ] {
        let net = Net::new();
        net.serve(&microsoft(), json!({ "iss": iss, "tid": tid }));
        let outcome = sign_in(&net.provider(&format!("kind = \"microsoft\"\n{keys}"))).await.map(drop);
        assert_eq!(outcome, expected, "{keys} {iss} {tid}");
    }
}

#[tokio::test]
async fn microsoft_refreshes_within_the_tenant_of_the_login() {
    let net = Net::new();
    net.serve(&microsoft(), json!({}));
    let provider = net.provider("kind = \"microsoft\"");
    let signed_in = sign_in(&provider).await.unwrap();
    for (tenant, expected) in [(TENANT, Ok(())), (OTHER_TENANT, Err(RefreshError::OtherSubject))] {
        let issuer = format!("https://login.microsoftonline.com/{tenant}/v2.0");
        net.serve(&microsoft(), json!({ "iss": issuer, "tid": tenant }));
        let turn = provider.turn().await.unwrap();
        let answer = provider.exchange(&turn, &SecretString::from("refresh-0")).await.unwrap();
        let earlier = signed_in.tokens.id_token.as_ref();
        assert_eq!(provider.check_renewal(answer, &signed_in.subject, earlier).await.map(drop), expected, "{tenant}");
    }
}

#[tokio::test]
async fn microsoft_signs_for_a_tenant_with_that_tenants_keys() {
    for (signs_for, expected) in [
        (format!("https://login.microsoftonline.com/{TENANT}/v2.0"), None),
        ("https://login.microsoftonline.com/{tenantid}/v2.0".to_owned(), None),
        (format!("https://login.microsoftonline.com/{PERSONAL}/v2.0"), Some("token_signature")),
    ] {
        let net = Net::new();
        net.serve(&microsoft(), json!({}));
        let keys = json!({ "keys": [changed(net.key.jwk(), &json!({ "issuer": signs_for }))] });
        net.answer("https://login.microsoftonline.com/common/discovery/v2.0/keys", 200, &keys);
        let outcome = sign_in(&net.provider("kind = \"microsoft\"")).await;
        assert_eq!(outcome.err().map(|error| error.reason()), expected, "{signs_for}");
    }
}

#[tokio::test]
async fn a_single_tenant_of_microsoft_is_an_issuer_like_any_other() {
    for (tenant, id) in [(TENANT, TENANT), ("consumers", PERSONAL)] {
        let net = Net::new();
        let mut it = microsoft();
        let own = format!("https://login.microsoftonline.com/{id}/v2.0");
        it.metadata["issuer"] = json!(own);
        net.serve(&it, json!({ "iss": own, "tid": id }));
        net.answer(&format!("{own}/.well-known/openid-configuration"), 200, &it.metadata);
        let provider = net.provider(&format!("kind = \"microsoft\"\ntenant = \"{tenant}\""));
        assert_eq!(sign_in(&provider).await.unwrap().issuer, own);
        net.serve(&it, json!({ "iss": format!("https://login.microsoftonline.com/{OTHER_TENANT}/v2.0") }));
        assert_eq!(sign_in(&provider).await.err(), Some(ProviderError::Invalid { reason: "token_iss" }));
    }
}

// LO-08
#[tokio::test]
async fn auth0_has_a_logout_where_it_does_not_say_so() {
    let mut it = auth0();
    let after = Url::parse("https://app.example/bye").unwrap();
    let net = Net::new();
    net.serve(&it, json!({}));
    let url = net.provider(it.keys).end_session_url(None, &after, "s").await.unwrap().unwrap();
    assert!(url.as_str().starts_with("https://example.eu.auth0.com/v2/logout?"), "{url}");
    assert_eq!(parameter(&url, "client_id").as_deref(), Some(CLIENT_ID));
    assert_eq!(parameter(&url, "returnTo").as_deref(), Some("https://app.example/bye"));

    it.metadata["end_session_endpoint"] = json!("https://example.eu.auth0.com/oidc/logout");
    net.serve(&it, json!({}));
    let url = net.provider(it.keys).end_session_url(Some("hint"), &after, "s").await.unwrap().unwrap();
    assert!(url.as_str().starts_with("https://example.eu.auth0.com/oidc/logout?"), "{url}");
    assert_eq!(parameter(&url, "id_token_hint").as_deref(), Some("hint"));
}

const GITHUB_TOKEN: &str = "https://github.com/login/oauth/access_token";
const GITHUB_EMAILS: &str = "https://api.github.com/user/emails";

fn github_profile() -> Value {
    json!({
        "login": "ada", "id": 583_231, "node_id": "MDQ6VXNlcjU4MzIzMQ==", "name": null, "email": null,
        "avatar_url": "https://avatars.example/u/583231?v=4", "gravatar_id": "", "url": "https://api.github.com/users/ada",
        "html_url": "https://github.com/ada", "repos_url": "https://api.github.com/users/ada/repos", "type": "User",
        "site_admin": false, "company": "@example", "two_factor_authentication": true,
    })
}

/// GitHub as an OAuth app sees it: tokens that do not expire, and are not renewed.
fn github() -> Net {
    let net = Net::new();
    let tokens = json!({ "access_token": "gho_example", "scope": "read:user,user:email", "token_type": "bearer" });
    net.answer(GITHUB_TOKEN, 200, &tokens);
    net.answer("https://api.github.com/user", 200, &github_profile());
    let emails = json!([
        { "email": "ada@users.noreply.example", "verified": true, "primary": false, "visibility": null },
        { "email": "ada@example.com", "verified": true, "primary": true, "visibility": "private" },
    ]);
    net.answer(GITHUB_EMAILS, 200, &emails);
    net
}

// G-6
#[tokio::test]
async fn github_signs_in_with_an_address_from_its_list() {
    let net = github();
    let provider = net.provider("kind = \"github\"");
    let url = provider.authorization_url(&request(&[("prompt", "select_account")])).await.unwrap();
    assert!(url.as_str().starts_with("https://github.com/login/oauth/authorize?"), "{url}");
    assert_eq!(parameter(&url, "scope").as_deref(), Some("read:user user:email"));
    assert_eq!(parameter(&url, "code_challenge_method").as_deref(), Some("S256"));
    assert_eq!(parameter(&url, "prompt").as_deref(), Some("select_account"));

    let signed_in = sign_in(&provider).await.unwrap();
    assert_eq!((signed_in.issuer.as_str(), signed_in.subject.as_str()), ("https://github.com", "583231"));
    assert_eq!(
        Value::Object(signed_in.claims.clone()),
        json!({
            "sub": "583231", "name": "ada", "preferred_username": "ada", "email": "ada@example.com",
            "email_verified": true, "picture": "https://avatars.example/u/583231?v=4",
            "profile": "https://github.com/ada", "login": "ada", "id": 583_231, "node_id": "MDQ6VXNlcjU4MzIzMQ==",
            "gravatar_id": "", "type": "User", "site_admin": false, "company": "@example",
            "two_factor_authentication": true,
        })
    );
    assert_eq!(signed_in.tokens.expires_in, None, "it does not expire");
    assert_eq!(signed_in.tokens.scope.as_deref(), Some("read:user user:email"));

    let asked = net.asked();
    assert!(asked.iter().all(|it| it.header("accept") == "application/json"));
    assert!(asked.iter().all(|it| it.header("user-agent").starts_with("latchgate/")));
    let token = asked.iter().find(|it| it.url == GITHUB_TOKEN).unwrap();
    assert!(token.body.contains("client_secret=") && token.header("authorization").is_empty());
    let emails = asked.iter().find(|it| it.url == GITHUB_EMAILS).unwrap();
    assert_eq!(emails.header("authorization"), "Bearer gho_example");
}

#[tokio::test]
async fn github_without_the_right_to_read_addresses() {
    for (status, expected) in [(403, None), (404, None), (500, Some("emails_status")), (200, Some("emails_not_json"))] {
        let net = github();
        net.answer(GITHUB_EMAILS, status, &json!({ "message": "no" }));
        match sign_in(&net.provider("kind = \"github\"")).await {
            Ok(signed_in) => {
                assert_eq!(expected, None, "{status}");
                assert_eq!(signed_in.claims["email"], json!(null));
                assert!(!signed_in.claims.contains_key("email_verified"));
            }
            Err(error) => assert_eq!(Some(error.reason()), expected, "{status}"),
        }
    }
}

#[tokio::test]
async fn github_says_no_with_200() {
    for (error, expected) in [
        ("bad_verification_code", ProviderError::Refused { reason: "bad_verification_code" }),
        ("incorrect_client_credentials", ProviderError::Misconfigured { reason: "incorrect_client_credentials" }),
        ("redirect_uri_mismatch", ProviderError::Misconfigured { reason: "redirect_uri_mismatch" }),
        ("unverified_user_email", ProviderError::Refused { reason: "unverified_user_email" }),
    ] {
        let net = github();
        let answer = json!({ "error": error, "error_description": "some words", "error_uri": "/apps/x" });
        net.answer(GITHUB_TOKEN, 200, &answer);
        assert_eq!(sign_in(&net.provider("kind = \"github\"")).await.err(), Some(expected));
    }
    let net = github();
    net.answer(GITHUB_TOKEN, 200, &json!({ "error": "bad_refresh_token" }));
    let refused = refresh(&net.provider("kind = \"github\""), "583231").await.map(drop);
    assert_eq!(refused, Err(RefreshError::Refused { reason: "bad_refresh_token" }));
    net.answer(GITHUB_TOKEN, 200, &json!({ "error": "incorrect_client_credentials" }));
    let kept = refresh(&net.provider("kind = \"github\""), "583231").await.map(drop);
    assert_eq!(kept, Err(RefreshError::Misconfigured { reason: "incorrect_client_credentials" }));
}

/// A GitHub App with tokens that expire.
#[tokio::test]
async fn a_github_app_refreshes() {
    let net = github();
    let tokens = json!({
        "access_token": "ghu_example", "expires_in": 28_800, "refresh_token": "ghr_example", "scope": "",
        "refresh_token_expires_in": 15_811_200, "token_type": "bearer",
    });
    net.answer(GITHUB_TOKEN, 200, &tokens);
    let provider = net.provider("kind = \"github\"");
    let signed_in = sign_in(&provider).await.unwrap();
    net.answer("https://api.github.com/user", 200, &changed(github_profile(), &json!({ "name": "Ada Example" })));
    let renewed = refresh(&provider, "583231").await.unwrap();
    assert_eq!(renewed.tokens.expires_in.unwrap().as_secs(), 28_800);
    assert_eq!(renewed.tokens.refresh_token.as_ref().unwrap().expose_secret(), "ghr_example");
    let claims = renewed.claims_after(&signed_in.claims);
    assert_eq!((&claims["name"], &claims["sub"]), (&json!("Ada Example"), &json!("583231")));
    assert_eq!(refresh(&provider, "1").await.map(drop), Err(RefreshError::OtherSubject));
}

#[tokio::test]
async fn github_ends_access_tokens_by_its_own_api() {
    let url = format!("https://api.github.com/applications/{CLIENT_ID}/token");
    for (status, expected) in
        [(204, None), (404, None), (422, None), (401, Some("revocation_refused")), (500, Some("revocation_status"))]
    {
        let net = github();
        net.answer(&url, status, &json!({}));
        let provider = net.provider("kind = \"github\"");
        let (access_token, refresh_token) = (SecretString::from("gho_example"), SecretString::from("ghr_example"));
        let outcome = provider.revoke(&access_token, Some(&refresh_token)).await;
        assert_eq!(outcome.err().map(|error| error.reason()), expected, "{status}");
        let asked = net.asked();
        assert_eq!(asked.len(), 1, "there is no such call for refresh tokens");
        assert_eq!((asked[0].method.as_str(), asked[0].url.as_str()), ("DELETE", url.as_str()));
        assert_eq!(asked[0].body, r#"{"access_token":"gho_example"}"#);
        assert!(asked[0].header("authorization").starts_with("Basic "));
    }
}

#[tokio::test]
async fn github_enterprise_has_its_api_below_or_beside_it() {
    for (base, api) in [
        ("https://github.example.com/", "https://github.example.com/api/v3"),
        ("https://octocorp.ghe.com", "https://api.octocorp.ghe.com"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000/api/v3"),
    ] {
        let net = github();
        let root = base.trim_end_matches('/');
        net.answer(&format!("{root}/login/oauth/access_token"), 200, &json!({ "access_token": "gho_example" }));
        net.answer(&format!("{api}/user"), 200, &github_profile());
        net.answer(&format!("{api}/user/emails"), 404, &json!({}));
        let provider = net.provider(&format!("kind = \"github\"\nbase_url = \"{base}\""));
        assert_eq!(sign_in(&provider).await.unwrap().subject, "583231", "{base}");
    }
}

// G-6
#[tokio::test]
async fn discord_signs_in_and_refreshes() {
    let user = json!({
        "id": "80351110224678912", "username": "ada", "discriminator": "0", "global_name": "Ada Example",
        "avatar": "8342729096ea3675442027381ff50dfe", "verified": true, "email": "ada@example.com", "flags": 64,
        "mfa_enabled": true, "locale": "en-US",
    });
    let tokens = json!({
        "access_token": "6qrZcUqja7812RVdnEKjpzOL4CvHBFG", "token_type": "Bearer", "expires_in": 604_800,
        "refresh_token": "D43f5y0ahjqew82jZ4NViEr2YafMKhue", "scope": "identify email",
    });
    let net = Net::new();
    net.answer("https://discord.com/api/oauth2/token", 200, &tokens);
    net.answer("https://discord.com/api/v10/users/@me", 200, &user);
    net.answer("https://discord.com/api/oauth2/token/revoke", 200, &json!({}));
    let provider = net.provider("kind = \"discord\"");
    let url = provider.authorization_url(&request(&[])).await.unwrap();
    assert!(url.as_str().starts_with("https://discord.com/oauth2/authorize?"), "{url}");
    assert_eq!(parameter(&url, "scope").as_deref(), Some("identify email"));
    let signed_in = sign_in(&provider).await.unwrap();
    assert_eq!((signed_in.issuer.as_str(), signed_in.subject.as_str()), ("https://discord.com", "80351110224678912"));
    let picture = "https://cdn.discordapp.com/avatars/80351110224678912/8342729096ea3675442027381ff50dfe.png";
    let expected = json!({
        "sub": "80351110224678912", "name": "Ada Example", "preferred_username": "ada", "picture": picture,
        "email": "ada@example.com", "email_verified": true,
    });
    assert_has(&signed_in.claims, &expected, "discord");
    assert_eq!(signed_in.tokens.expires_in.unwrap().as_secs(), 604_800);

    let bare = json!({ "global_name": null, "avatar": null, "verified": false });
    net.answer("https://discord.com/api/v10/users/@me", 200, &changed_to(&user, &bare));
    let renewed = refresh(&provider, "80351110224678912").await.unwrap();
    let claims = renewed.claims_after(&signed_in.claims);
    assert_eq!((&claims["name"], &claims["email_verified"]), (&json!("ada"), &json!(false)));
    assert!(!claims.contains_key("picture"), "a picture that was taken away is gone");
    net.answer("https://discord.com/api/v10/users/@me", 200, &changed_to(&user, &json!({ "avatar": "a_1269" })));
    assert!(sign_in(&provider).await.unwrap().claims["picture"].as_str().unwrap().ends_with("/a_1269.gif"));

    let tokens =
        (SecretString::from("6qrZcUqja7812RVdnEKjpzOL4CvHBFG"), SecretString::from("D43f5y0ahjqew82jZ4NViEr2YafMKhue"));
    provider.revoke(&tokens.0, Some(&tokens.1)).await.unwrap();
    assert_eq!(net.asked().last().unwrap().url, "https://discord.com/api/oauth2/token/revoke");
}

// -------------------------------------------------------------- what every provider's table has

// G-3
#[tokio::test]
async fn tg_06_what_the_gateway_sets_itself_is_ignored_with_a_warning() {
    let table = "kind = \"google\"\nauthorization_params = { client_id = \"evil\", redirect_uri = \"https://evil.example\", code = \"evil\", grant_type = \"evil\", state = \"evil\", prompt = \"select_account\", hl = \"de\" }";
    let config = parse(table).unwrap();
    let warnings = config.warnings.to_string();
    for name in ["client_id", "redirect_uri", "code", "grant_type", "state"] {
        assert!(warnings.contains(&format!("`providers.x.authorization_params.{name}` is ignored")), "{warnings}");
    }
    assert!(config.warnings.problems().iter().all(|problem| problem.severity() == Severity::Warning));
    assert_eq!(config.warnings.problems().len(), 5);

    let net = Net::new();
    net.serve(&google(), json!({}));
    let url = net.provider(table).authorization_url(&request(&[])).await.unwrap();
    assert!(!url.as_str().contains("evil"), "{url}");
    assert_eq!(parameter(&url, "client_id").as_deref(), Some(CLIENT_ID));
    assert_eq!(parameter(&url, "prompt").as_deref(), Some("select_account"), "over the preset's");
    assert_eq!(parameter(&url, "hl").as_deref(), Some("de"));
    let url = net.provider(table).authorization_url(&request(&[("prompt", "none")])).await.unwrap();
    assert_eq!(parameter(&url, "prompt").as_deref(), Some("none"), "the caller's comes first");
}

// G-5
#[tokio::test]
async fn mapped_claims_are_read_at_login_and_at_every_refresh() {
    let mut it = okta();
    it.claims = changed(it.claims, &json!({ "email": "typed@by.hand" }));
    it.userinfo = changed(it.userinfo, &json!({ "work": { "mail": "ada@corp.example" }, "dept": "deck" }));
    let net = Net::new();
    net.serve(&it, json!({}));
    let keys = format!("{}\nclaims = {{ email = \"work.mail\", department = \"dept\" }}", it.keys);
    let provider = net.provider(&keys);
    let signed_in = sign_in(&provider).await.unwrap();
    assert_has(&signed_in.claims, &json!({ "email": "ada@corp.example", "department": "deck" }), "login");

    it.userinfo = changed(it.userinfo, &json!({ "dept": "bridge" }));
    net.serve(&it, json!({}));
    let renewed = refresh(&provider, &signed_in.subject).await.unwrap();
    let claims = renewed.claims_after(&signed_in.claims);
    assert_has(&claims, &json!({ "email": "ada@corp.example", "department": "bridge" }), "refresh");

    // Without userinfo the claims stay what they were; what was typed by hand does not take their place.
    net.answer("https://example.okta.com/oauth2/default/v1/userinfo", 500, &json!({}));
    let renewed = refresh(&provider, &signed_in.subject).await.unwrap();
    assert_has(
        &renewed.claims_after(&claims),
        &json!({ "email": "ada@corp.example", "department": "bridge" }),
        "outage",
    );
}

#[test]
#[rustfmt::skip] // a table
fn wrong_tables_are_refused() {
    for (table, problem) in [
        ("kind = \"google\"\nclaims = { sub = \"email\" }", "`sub` cannot come from elsewhere"),
        ("kind = \"github\"\nclaims = { iss = \"login\" }", "`iss` cannot come from elsewhere"),
        ("kind = \"github\"\nclaims = { email = \"a..b\" }", "is not the path of a claim"),
        ("kind = \"google\"\nissuer = \"https://evil.example\"", "unknown key `issuer`"),
        ("kind = \"google\"\nscopes = [\"email\"]", "`scopes` lacks `openid`"),
        ("kind = \"google\"\nhosted_domain = \"https://example.com\"", "is not a host name"),
        ("kind = \"google\"\nhosted_domain = \"Example.com\"", "is not a host name"),
        ("kind = \"google\"\nauthorization_params = { max_age = \"soon\" }", "is not a number of seconds"),
        ("kind = \"google\"\nauthorization_params = { hl = 7 }", "has the wrong type"),
        ("kind = \"google\"\ntitle = \"\"", "`providers.x.title` is empty"),
        ("kind = \"auth0\"", "`providers.x.domain` is missing"),
        ("kind = \"auth0\"\ndomain = \"example.auth0.com/x\"", "is not a host name"),
        ("kind = \"auth0\"\ndomain = \"user@example.auth0.com\"", "is not a host name"),
        ("kind = \"okta\"\ndomain = \"example.okta.com\"\nauthorization_server = \"a/b\"", "does not fit into an issuer"),
        ("kind = \"keycloak\"\nbase_url = \"https://sso.example.com\"", "`providers.x.realm` is missing"),
        ("kind = \"keycloak\"\nrealm = \"..\"\nbase_url = \"https://sso.example.com\"", "does not fit into an issuer"),
        ("kind = \"gitlab\"\nbase_url = \"http://gitlab.example.com\"", "is not https"),
        ("kind = \"github\"\nbase_url = \"https://github.example.com?x\"", "has a query"),
        ("kind = \"microsoft\"\ntenant = \"corp.onmicrosoft.com\"", "is not the id of a tenant"),
        ("kind = \"microsoft\"\nallowed_tenants = [\"common\"]", "is not the id of a tenant"),
        ("kind = \"microsoft\"\nallowed_tenants = []", "is empty"),
        ("kind = \"microsoft\"\ntenant = \"consumers\"\nallowed_tenants = [\"8eaef023-2b34-4da1-9baa-8bc8c9d6a490\"]", "has nothing to choose from"),
    ] {
        match parse(table) {
            Ok(_) => panic!("accepted: {table}"),
            Err(report) => assert!(report.contains(problem), "{table}\n{report}"),
        }
    }
}

// -------------------------------------------------------------------------------- the stage

fn parse(table: &str) -> Result<Config, String> {
    let source = format!(
        "[providers.x]\n{table}\nclient_id = \"{CLIENT_ID}\"\nclient_secret = \"a-secret\"\n\
         [upstreams.app]\nurl = \"http://127.0.0.1:3000\"\n[[routes]]\npath = \"/*\"\n"
    );
    Config::parse(&source, "gateway.toml", &|_| None).map_err(|report| report.to_string())
}

fn request(extra: &[(&str, &str)]) -> AuthorizationRequest {
    AuthorizationRequest {
        redirect_uri: Url::parse("https://app.example/auth/x").unwrap(),
        state: "the-state".to_owned(),
        nonce: NONCE.to_owned(),
        code_challenge: code_challenge(VERIFIER),
        extra: extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}

async fn sign_in(provider: &Provider) -> Result<SignedIn, ProviderError> {
    let redemption = CodeRedemption {
        code: SecretString::from("the-code"),
        redirect_uri: Url::parse("https://app.example/auth/x").unwrap(),
        code_verifier: SecretString::from(VERIFIER),
        nonce: NONCE.to_owned(),
        max_age: None,
    };
    provider.redeem_code(&redemption).await
}

async fn refresh(provider: &Provider, subject: &str) -> Result<Renewed, RefreshError> {
    let turn = provider.turn().await?;
    let answer = provider.exchange(&turn, &SecretString::from("refresh-0")).await?;
    provider.check_renewal(answer, subject, None).await
}

fn parameter(url: &Url, name: &str) -> Option<String> {
    let values: Vec<String> = url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into()).collect();
    assert!(values.len() <= 1, "{name} twice: {url}");
    values.into_iter().next()
}

fn assert_has(claims: &serde_json::Map<String, Value>, expected: &Value, place: &str) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(claims.get(name), Some(value), "{place}: {name}");
    }
}

/// As [`changed`], and null is a value.
fn changed_to(base: &Value, changes: &Value) -> Value {
    let mut members = base.as_object().unwrap().clone();
    members.extend(changes.as_object().unwrap().clone());
    Value::Object(members)
}

/// The servers of all providers: a URL without its query, and what it answers.
#[derive(Clone)]
struct Net {
    answers: Arc<Mutex<HashMap<String, (u16, String)>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    key: SigningKey,
    clock: Clock,
}

#[derive(Clone)]
struct Asked {
    method: String,
    url: String,
    headers: http::HeaderMap,
    body: String,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Net {
    fn new() -> Net {
        Net { answers: Arc::default(), asked: Arc::default(), key: SigningKey::rs256("k"), clock: Clock::system() }
    }

    fn answer(&self, url: &str, status: u16, body: &Value) {
        self.answers.lock().unwrap().insert(url.to_owned(), (status, body.to_string()));
    }

    /// Everything that a provider documents, with `changes` laid over the claims of its ID tokens.
    fn serve(&self, it: &Documented, changes: Value) {
        let issuer = it.issuer.strip_suffix('/').unwrap_or(it.issuer);
        self.answer(&format!("{issuer}/.well-known/openid-configuration"), 200, &it.metadata);
        self.answer(it.metadata["jwks_uri"].as_str().unwrap(), 200, &json!({ "keys": [self.key.jwk()] }));
        self.answer(it.metadata["userinfo_endpoint"].as_str().unwrap(), 200, &it.userinfo);
        let now = self.clock.now().unix;
        let issuer = it.signs_as.as_deref().unwrap_or(it.issuer);
        let claims = json!({ "iss": issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 3600, "nonce": NONCE });
        let id_token = self.key.sign_claims(&changed(changed(claims, &it.claims), &changes));
        let tokens = changed(it.tokens.clone(), &json!({ "id_token": id_token }));
        self.answer(it.metadata["token_endpoint"].as_str().unwrap(), 200, &tokens);
    }

    fn provider(&self, table: &str) -> Provider {
        let mut config = parse(table).unwrap_or_else(|report| panic!("{report}"));
        let this = self.clone();
        let http = HttpClient::in_process(move |request| {
            let answer = this.respond(&request);
            async move { answer }
        });
        Provider::new(config.providers.remove(0), http, self.clock.clone())
    }

    fn respond(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let url = request.uri().to_string();
        let url = url.split('?').next().unwrap().to_owned();
        let (status, body) =
            self.answers.lock().unwrap().get(&url).cloned().unwrap_or_else(|| panic!("{url} is not documented"));
        self.asked.lock().unwrap().push(Asked {
            method: request.method().to_string(),
            url,
            headers: request.headers().clone(),
            body: String::from_utf8(request.body().to_vec()).unwrap(),
        });
        Response::builder().status(status).body(Bytes::from(body)).unwrap()
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}
