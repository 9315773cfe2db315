//! What the gateway signs itself: tokens that stand for a session, and assertions for upstreams.

use super::harness::expect::{error_json, relayed};
use super::harness::{Answer, Browser, Endpoint, Fault, Reply, Request, Site};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const JWKS: &str = "/.well-known/latchgate/jwks.json";
const ASSERTION: &str = "attach = { assertion = { audience = \"api\" } }";

// ------------------------------------------------------------------------------------ assertions

// A.assertion (SPEC §4)
#[tokio::test]
async fn an_upstream_verifies_an_assertion_with_the_published_keys() {
    for (tokens, algorithm) in [
        ("algorithm = \"EdDSA\"".to_owned(), Algorithm::EdDSA),
        (key("EdDSA", &[&pem(&rcgen::PKCS_ED25519)]), Algorithm::EdDSA),
        (key("ES256", &[&pem(&rcgen::PKCS_ECDSA_P256_SHA256)]), Algorithm::ES256),
    ] {
        let site = with_tokens(&format!("{tokens}\nclaims = {{ mail = \"email\" }}")).await;
        let browser = site.signed_in().await;
        relayed(&browser.fetch("GET", "/api").await, 200);
        let seen = site.upstream.last();
        let claims = verified(seen.bearer().unwrap(), &jwks(&site).await, algorithm, "api").unwrap();
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("http://gw.test"), &json!("corp:ada")));
        assert_eq!((&claims["mail"], claims.get("sid")), (&json!("ada@corp.test"), None), "{claims}");
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
        assert_eq!(verified(seen.bearer().unwrap(), &jwks(&site).await, algorithm, "web"), None, "for nobody else");
        let whole = format!("{:?}", seen.headers);
        assert!(
            site.provider.secrets().iter().all(|secret| !whole.contains(secret.as_str())),
            "no token of the provider"
        );
    }
}

#[tokio::test]
async fn with_a_shared_key_an_upstream_verifies_by_that() {
    let secret = "shared with the upstream, and long enough";
    let site = with_tokens(&format!("key = \"{secret}\"")).await;
    site.signed_in().await.fetch("GET", "/api").await;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&["api"]);
    validation.validate_exp = false;
    let token = site.upstream.last().bearer().unwrap().to_owned();
    let key = DecodingKey::from_secret(secret.as_bytes());
    assert_eq!(jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap().claims["sub"], "corp:ada");
    assert_eq!(jwks(&site).await.keys, [], "a shared key is published to nobody");
}

#[tokio::test]
async fn an_assertion_goes_where_and_how_its_route_says() {
    let lines =
        "attach = { assertion = { audience = \"api\", header = \"X-Identity\", scheme = \"\", ttl = \"10s\" } }";
    let site = Site::plan()
        .more("[tokens]\nalgorithm = \"EdDSA\"\nissuer = \"the-gateway\"\n")
        .route("/api", lines)
        .route(
            "/open",
            "auth = \"optional\"\nattach = { assertion = { audience = \"open\", claims = { n = { value = 7 } } } }",
        )
        .start()
        .await;
    let browser = site.signed_in().await;
    let forged = Request::fetch("GET", "/api").header("x_identity", "forged").header("X-Identity", "forged");
    relayed(&browser.send(forged).await, 200);
    let seen = site.upstream.last();
    assert!(!format!("{:?}", seen.headers).contains("forged") && seen.bearer().is_none());
    let claims = payload(seen.header("x-identity"));
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("the-gateway"), &json!("api")));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 10);

    relayed(&browser.fetch("GET", "/open").await, 200);
    assert_eq!(payload(site.upstream.last().bearer().unwrap())["n"], 7);
    relayed(&site.browser().fetch("GET", "/open").await, 200);
    assert_eq!(site.upstream.last().bearer(), None, "without a session there is nothing to assert");
}

#[tokio::test]
async fn one_assertion_serves_many_requests_until_half_of_its_life_is_over() {
    let site = with_tokens("algorithm = \"EdDSA\"").await;
    let (ada, bob) = (site.signed_in().await, site.signed_in_as("bob").await);
    let asserted = async |browser: &Browser| {
        relayed(&browser.fetch("GET", "/api").await, 200);
        site.upstream.last().bearer().unwrap().to_owned()
    };
    let first = asserted(&ada).await;
    assert_eq!(asserted(&ada).await, first);
    assert_eq!(payload(&asserted(&bob).await)["sub"], "corp:bob");
    assert_eq!(asserted(&ada).await, first);
    site.clock.advance(Duration::from_secs(151));
    assert_ne!(asserted(&ada).await, first);
}

#[tokio::test]
async fn a_refused_assertion_is_made_anew_from_newer_claims() {
    let site = with_tokens("algorithm = \"EdDSA\"\nclaims = { role = \"role\" }").await;
    site.provider.add_user("ada", json!({"role": "reader"}));
    let browser = site.signed_in().await;
    relayed(&browser.fetch("GET", "/api").await, 200);
    assert_eq!(payload(site.upstream.last().bearer().unwrap())["role"], "reader");
    site.provider.add_user("ada", json!({"role": "writer"}));
    site.upstream.next(Answer::unauthorized());
    relayed(&browser.fetch("GET", "/api").await, 200);
    assert_eq!(site.provider.refreshes(), 1);
    assert_eq!(payload(site.upstream.last().bearer().unwrap())["role"], "writer");
}

#[tokio::test]
async fn what_is_asserted_does_not_expire_with_a_token_that_nothing_can_renew() {
    let site = with_tokens("algorithm = \"EdDSA\"").await;
    site.provider.configure(|habits| (habits.offline, habits.access_ttl) = (false, 60));
    let browser = site.signed_in().await;
    site.clock.advance(Duration::from_secs(3600));
    relayed(&browser.fetch("GET", "/api").await, 200);
    assert!(site.upstream.last().bearer().is_some());
}

#[tokio::test]
async fn an_assertion_opens_nothing_at_the_gateway_and_an_own_token_stays_there() {
    let site = with_tokens("algorithm = \"EdDSA\"").await;
    let browser = site.signed_in().await;
    browser.fetch("GET", "/api").await;
    let assertion = site.upstream.last().bearer().unwrap().to_owned();
    let own = own_token(&browser).await;
    let hits = site.upstream.hits();
    error_json(&bearer(&site, "/x", &assertion).await, 401);
    assert_eq!(bearer(&site, "/auth/me", &assertion).await.status, 401);
    assert_eq!(site.upstream.hits(), hits);
    for path in ["/x", "/api", "/public"] {
        relayed(&bearer(&site, path, &own).await, 200);
        assert!(!format!("{:?}", site.upstream.last().headers).contains(&own), "{path}");
    }
    assert_eq!(verified(&own, &jwks(&site).await, Algorithm::EdDSA, "api"), None, "an upstream's check refuses it");
}

// ------------------------------------------------------------------------------------------ keys

#[tokio::test]
async fn the_keys_are_for_everybody_to_read() {
    let site = with_tokens("algorithm = \"EdDSA\"").await;
    let reply = site.browser().fetch("GET", JWKS).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), "*");
    assert_eq!(reply.header("cache-control"), "public, max-age=300");
    assert_eq!(reply.header("content-type"), "application/json");
    let key = &reply.json()["keys"][0];
    assert_eq!(
        (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
        (&json!("OKP"), &json!("Ed25519"), &json!("EdDSA"), &json!("sig"))
    );
    assert!(key["kid"].is_string() && key.get("d").is_none(), "{key}");
    let head = site.browser().fetch("HEAD", JWKS).await;
    assert_eq!((head.status, head.text().as_str()), (200, ""));
    for method in ["POST", "OPTIONS", "DELETE"] {
        let refused = site.browser().fetch(method, JWKS).await;
        error_json(&refused, 405);
        assert_eq!(refused.header("allow"), "GET, HEAD");
    }
    assert_eq!(site.browser().fetch("GET", &format!("{JWKS};x")).await.status, 404);
    assert_eq!(site.upstream.hits(), 0, "none of it is forwarded");
    assert_eq!(with_tokens("").await.browser().fetch("GET", JWKS).await.json(), json!({"keys": []}));
}

#[tokio::test]
async fn keys_are_rotated_without_anybody_noticing() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (pem(&rcgen::PKCS_ECDSA_P256_SHA256), pem(&rcgen::PKCS_ECDSA_P256_SHA256));
    let mut site = on_disk(directory.path(), &key("ES256", &[&old])).await;
    let browser = site.signed_in().await;
    let by_old = own_token(&browser).await;
    relayed(&browser.fetch("GET", "/api").await, 200);
    let asserted_by_old = site.upstream.last().bearer().unwrap().to_owned();

    site = restarted(site, directory.path(), &key("ES256", &[&new, &old])).await;
    relayed(&bearer(&site, "/api", &by_old).await, 200);
    let published = jwks(&site).await;
    let asserted_by_new = site.upstream.last().bearer().unwrap().to_owned();
    for token in [&asserted_by_old, &asserted_by_new] {
        assert!(verified(token, &published, Algorithm::ES256, "api").is_some());
    }
    assert_ne!(kid(&asserted_by_old), kid(&asserted_by_new));
    let by_new = own_token_of(&bearer_post(&site, "/auth/refresh", &by_old).await);

    site = restarted(site, directory.path(), &key("ES256", &[&new])).await;
    assert_eq!(bearer(&site, "/x", &by_old).await.status, 401, "retired");
    relayed(&bearer(&site, "/x", &by_new).await, 200);
    assert_eq!(verified(&asserted_by_old, &jwks(&site).await, Algorithm::ES256, "api"), None);
}

#[tokio::test]
async fn derived_keys_survive_a_restart_and_generated_ones_do_not() {
    for (algorithm, status) in [("HS256", 200), ("EdDSA", 200), ("ES256", 401)] {
        let directory = tempfile::tempdir().unwrap();
        let tokens = format!("algorithm = \"{algorithm}\"");
        let site = on_disk(directory.path(), &tokens).await;
        let token = own_token(&site.signed_in().await).await;
        let site = restarted(site, directory.path(), &tokens).await;
        assert_eq!(bearer(&site, "/x", &token).await.status, status, "{algorithm}");
    }
}

#[tokio::test]
async fn replicas_with_one_secret_publish_one_key() {
    let here = with_tokens("algorithm = \"EdDSA\"").await;
    let there = with_tokens("algorithm = \"EdDSA\"").await;
    here.signed_in().await.fetch("GET", "/api").await;
    let token = here.upstream.last().bearer().unwrap().to_owned();
    assert!(verified(&token, &jwks(&there).await, Algorithm::EdDSA, "api").is_some());
    assert_eq!(jwks(&here).await, jwks(&there).await);
}

// ------------------------------------------------------------------------------------ own tokens

// TG-24, G-28
#[tokio::test]
async fn tg_24_the_profile_is_there_for_an_own_token() {
    let site = with_tokens("claims = { role = \"role\", tenant = { value = \"acme\" } }").await;
    site.provider.add_user("ada", json!({"name": "Ada", "email": "ada@corp.test", "role": "admin"}));
    let browser = site.signed_in().await;
    let token = own_token(&browser).await;
    for path in ["/api/user/me", "/auth/me"] {
        let reply = bearer(&site, path, &token).await;
        assert_eq!(reply.status, 200);
        let me = reply.json();
        assert_eq!((&me["sub"], &me["name"], &me["email"]), (&json!("ada"), &json!("Ada"), &json!("ada@corp.test")));
        assert_eq!((&me["provider"], &me["role"], &me["tenant"]), (&json!("corp"), &json!("admin"), &json!("acme")));
        assert!(me["iat"].as_u64().unwrap() < me["exp"].as_u64().unwrap(), "{me}");
        assert_eq!(me, browser.fetch("GET", path).await.json(), "as with the cookie");
    }
    let said = payload(&token);
    assert_eq!(
        (&said["sub"], &said["provider"], &said["iss"]),
        (&json!("corp:ada"), &json!("corp"), &json!("http://gw.test"))
    );
    assert_eq!((&said["role"], &said["tenant"], &said["name"]), (&json!("admin"), &json!("acme"), &json!("Ada")));
    assert_eq!(said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap(), 3600);
}

// TG-25
#[tokio::test]
async fn tg_25_the_profile_without_a_good_token_is_401_to_the_letter() {
    let site = with_tokens("ttl = \"10m\"").await;
    let expired = own_token(&site.signed_in().await).await;
    site.clock.advance(Duration::from_secs(601));
    for path in ["/api/user/me", "/auth/me"] {
        let without = site.browser().fetch("GET", path).await;
        for reply in [without, bearer(&site, path, "bad").await, bearer(&site, path, &expired).await] {
            assert_eq!(reply.status, 401);
            assert_eq!(reply.json(), json!({"statusCode": 401, "message": "Unauthorized", "error": "Unauthorized"}));
        }
    }
}

// TG-26
#[tokio::test]
async fn tg_26_forged_tokens_are_401() {
    for (tokens, algorithm) in [
        (String::new(), Algorithm::HS256),
        (key("ES256", &[&pem(&rcgen::PKCS_ECDSA_P256_SHA256)]), Algorithm::ES256),
        ("algorithm = \"EdDSA\"".to_owned(), Algorithm::EdDSA),
    ] {
        let site = with_tokens(&tokens).await;
        let good = own_token(&site.signed_in().await).await;
        relayed(&bearer(&site, "/x", &good).await, 200);
        let (head, rest) = good.split_once('.').unwrap();
        let (body, signature) = rest.split_once('.').unwrap();
        let typ = "latchgate+jwt";
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let with_header = |alg: &str, typ: &str| part(json!({"alg": alg, "typ": typ, "kid": kid(&good)}));
        let with_claim = |name: &str, value: Value| {
            let mut claims = payload(&good);
            claims[name] = value;
            format!("{head}.{}.{signature}", part(claims))
        };
        let public = site.browser().fetch("GET", JWKS).await.json()["keys"][0].to_string();
        let mut header = Header::new(Algorithm::HS256);
        (header.typ, header.kid) = (Some(typ.to_owned()), Some(kid(&good)));
        let by =
            |secret: &[u8]| jsonwebtoken::encode(&header, &payload(&good), &EncodingKey::from_secret(secret)).unwrap();
        for forged in [
            format!("{}.{body}.", with_header("none", typ)),
            format!("{}.{body}.", with_header("nOnE", "application/latchgate+jwt")),
            format!("{}.{body}.{signature}", with_header("none", "JWT")),
            format!("{}.{body}.{signature}", with_header("HS512", typ)),
            format!("{head}.{body}."),
            by(public.as_bytes()),
            by(b""),
            with_claim("iss", json!("http://evil.test")),
            with_claim("aud", json!("api")),
            with_claim("exp", json!(9_999_999_999_u64)),
            with_claim("sub", json!("corp:bob")),
        ] {
            let hits = site.upstream.hits();
            assert_eq!(bearer(&site, "/x", &forged).await.status, 401, "{algorithm:?}: {forged}");
            assert_eq!(bearer(&site, "/auth/me", &forged).await.status, 401, "{algorithm:?}: {forged}");
            assert_eq!(site.upstream.hits(), hits);
            if !forged.starts_with(&with_header("none", "JWT")) {
                relayed(&bearer(&site, "/public", &forged).await, 200);
                assert_eq!(site.upstream.last().bearer(), None, "what looks like ours goes no further: {forged}");
            }
        }
    }
}

#[tokio::test]
async fn an_own_token_reaches_no_upstream_whatever_it_is_sent_as() {
    let site = with_tokens("").await;
    let token = own_token(&site.signed_in().await).await;
    for value in ["Token {}", "DPoP {}", "{}", "JWT {}", "Bearer  {}", "bearer {} "] {
        let value = value.replace("{}", &token);
        let sent = Request::fetch("GET", "/public").header("Authorization", &value);
        relayed(&site.browser().send(sent).await, 200);
        assert!(!format!("{:?}", site.upstream.last().headers).contains(&token), "{value:.10}");
    }
    let other_scheme = Request::fetch("GET", "/x").header("Authorization", &format!("Token {token}"));
    assert_eq!(site.browser().send(other_scheme).await.status, 401, "it counts as a bearer token alone");
}

// TG-33, G-21
#[tokio::test]
async fn tg_33_claims_follow_the_provider_at_each_refresh() {
    let site = with_tokens("claims = { role = \"role\" }").await;
    site.provider.add_user("ada", json!({"role": "reader"}));
    let browser = site.signed_in().await;
    assert_eq!(payload(&own_token(&browser).await)["role"], "reader");
    site.provider.add_user("ada", json!({"role": "writer"}));
    site.clock.advance(Duration::from_secs(10));
    assert_eq!(payload(&own_token(&browser).await)["role"], "writer");
    site.provider.add_user("ada", json!({}));
    site.clock.advance(Duration::from_secs(10));
    assert_eq!(payload(&own_token(&browser).await).get("role"), None);
}

#[tokio::test]
async fn a_token_ends_with_its_session() {
    let site = with_tokens("ttl = \"100h\"").await;
    let browser = site.signed_in().await;
    let token = own_token(&browser).await;
    let (exp, session_ends) =
        (payload(&token)["exp"].clone(), browser.fetch("GET", "/auth/me").await.json()["exp"].clone());
    assert!(exp.as_u64() <= session_ends.as_u64(), "{exp} {session_ends}");
    browser.fetch("POST", "/auth/logout").await;
    assert_eq!(bearer(&site, "/x", &token).await.status, 401);
}

// --------------------------------------------------------------------------------- update-claims

// TG-43, G-22
#[tokio::test]
async fn tg_43_claims_are_read_again_on_demand() {
    let site = with_tokens("").await;
    let off = site.signed_in().await.fetch("POST", "/auth/update-claims").await;
    assert_eq!(error_json(&off, 403)["message"], "Claims update feature is disabled");
    let nobody = site.browser().fetch("POST", "/auth/update-claims").await;
    assert_eq!(error_json(&nobody, 403)["message"], "Claims update feature is disabled");

    let site = with_tokens("update_claims = true\nclaims = { role = \"role\" }").await;
    let browser = site.signed_in().await;
    for role in ["reader", "writer"] {
        site.provider.add_user("ada", json!({ "role": role }));
        let reply = browser.fetch("POST", "/auth/update-claims").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let message = "Claims updated successfully. Call refresh() to receive a new access token with updated claims.";
        assert_eq!(reply.json(), json!({"success": true, "message": message}));
        assert_eq!(browser.fetch("GET", "/auth/me").await.json()["role"], role, "at once, however often");
        assert_eq!(payload(&own_token(&browser).await)["role"], role);
    }
    let without = site.browser().fetch("POST", "/auth/update-claims").await;
    assert_eq!(error_json(&without, 401)["message"], "No refresh token found");
    assert_eq!(browser.fetch("GET", "/auth/update-claims").await.status, 405);
    let foreign = Request::fetch("POST", "/auth/update-claims")
        .with("Sec-Fetch-Site", "cross-site")
        .header("Origin", "https://evil.test")
        .header("Cookie", &browser.cookie_field());
    assert_eq!(browser.send(foreign).await.status, 403);
}

#[tokio::test]
async fn claims_that_cannot_be_read_again_change_nothing_and_a_refusal_ends_the_session() {
    let site = with_tokens("update_claims = true").await;
    let browser = site.signed_in().await;
    site.provider.always(Endpoint::Token, Fault::Json(503, json!({})));
    let down = browser.fetch("POST", "/auth/update-claims").await;
    error_json(&down, 503);
    assert!(down.headers.contains("retry-after"));
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200);

    let site = with_tokens("update_claims = true").await;
    let browser = site.signed_in().await;
    site.provider.revoke_grants();
    let refused = browser.fetch("POST", "/auth/update-claims").await;
    assert_eq!(error_json(&refused, 401)["message"], "Invalid or expired refresh token");
    assert_eq!(browser.session_cookie(), None);

    let site = with_tokens("update_claims = true").await;
    site.provider.configure(|habits| habits.offline = false);
    let browser = site.signed_in().await;
    let nothing = browser.fetch("POST", "/auth/update-claims").await;
    assert_eq!(error_json(&nothing, 401)["message"], "No refresh token found");
    assert_eq!(browser.fetch("GET", "/auth/me").await.status, 200, "the session is kept");
}

// ------------------------------------------------------------------------------------- the stage

/// `[tokens]` with these lines; `/api` asserts, `/public` asks for nothing, all else needs a session.
async fn with_tokens(lines: &str) -> Site {
    Site::plan()
        .more(&format!("[tokens]\n{lines}\n"))
        .route("/api", ASSERTION)
        .route("/public", "auth = false")
        .route("/*", "auth = true")
        .start()
        .await
}

/// The same, with sessions in a file of `directory`.
async fn on_disk(directory: &Path, lines: &str) -> Site {
    plan_on_disk(directory, lines).start().await
}

async fn restarted(site: Site, directory: &Path, lines: &str) -> Site {
    let Site { provider, gateway, clock, .. } = site;
    gateway.shut_down().await;
    plan_on_disk(directory, lines).provider(&provider, &clock).start().await
}

fn plan_on_disk(directory: &Path, lines: &str) -> super::harness::site::Plan {
    let path = directory.join("sessions.db");
    Site::plan()
        .session(&format!("store = \"file\"\nfile = {{ path = \"{}\" }}", path.display()))
        .more(&format!("[tokens]\n{lines}\n"))
        .route("/api", ASSERTION)
        .route("/*", "auth = true")
}

/// A new private key in a PKCS#8 PEM.
fn pem(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
    rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem()
}

/// Lines of `[tokens]` with these keys.
fn key(algorithm: &str, pems: &[&str]) -> String {
    let pems: Vec<String> = pems.iter().map(|pem| format!("'''{pem}'''")).collect();
    format!("algorithm = \"{algorithm}\"\nkey = [{}]", pems.join(", "))
}

async fn jwks(site: &Site) -> JwkSet {
    serde_json::from_value(site.browser().fetch("GET", JWKS).await.json()).unwrap()
}

/// What an upstream makes of an assertion: its claims, if the key that it names is published and fits.
fn verified(token: &str, published: &JwkSet, algorithm: Algorithm, audience: &str) -> Option<Value> {
    let key = DecodingKey::from_jwk(published.find(&kid(token))?).unwrap();
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[audience]);
    validation.set_issuer(&["http://gw.test"]);
    // The clock of the site is ahead.
    validation.validate_exp = false;
    validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
    let read = jsonwebtoken::decode::<Value>(token, &key, &validation).ok()?;
    (read.header.typ.as_deref() == Some("JWT")).then_some(read.claims)
}

fn kid(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

fn payload(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap_or_else(|| panic!("no JWT: {token}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

async fn own_token(browser: &Browser) -> String {
    own_token_of(&browser.fetch("POST", "/auth/refresh").await)
}

fn own_token_of(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["token"].as_str().unwrap().to_owned()
}

/// Asks without a cookie.
async fn bearer(site: &Site, path: &str, token: &str) -> Reply {
    site.browser().send(Request::fetch("GET", path).header("Authorization", &format!("Bearer {token}"))).await
}

async fn bearer_post(site: &Site, path: &str, token: &str) -> Reply {
    site.browser().send(Request::fetch("POST", path).header("Authorization", &format!("Bearer {token}"))).await
}
