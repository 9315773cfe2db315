//! The mock provider (`kind = "mock"`): a small, truthful OpenID provider inside the gateway, so
//! that a first run, a demo and a test need nothing else. For development only.
//!
//! It speaks the authorization code flow with PKCE, signs ID tokens, rotates refresh tokens and
//! ends a family whose used token comes back. It asks for no password and knows no clients: any
//! `client_id` will do, but a code stays bound to the one it was issued for. What it is told in the
//! authorization request beyond the standards:
//!
//! | parameter | does |
//! |---|---|
//! | `user=ada` | signs in as that persona without asking; `login_hint=ada` likewise, by `sub` or `email` |
//! | `ttl=5` | life of the access tokens of this login, in seconds |
//! | `mock_error=access_denied` | comes back with that error; any code of RFC 6749 §4.1.2.1 |
//! | `mock_error=token:invalid_grant` | fails when the code is redeemed; `server_error`, `temporarily_unavailable` and the codes of RFC 6749 §5.2 |
//! | `mock_error=refresh:invalid_grant` | fails at every refresh, with the same codes |
//!
//! A persona may have a `mock_error` of its own; the request's comes first.

mod authorize;
mod grants;
mod keys;
mod pages;
mod persona;
mod request;
mod response;
mod token;

use self::grants::{FamilyId, Grants};
use self::keys::{SigningKey, TokenType};
use self::pages::{message_page, problem_page};
use self::persona::Persona;
use self::request::{Parameters, bearer, client_id};
use self::response::{TokenError, found, header_value, json_response, respond, unauthorized};
use super::MockSettings;
use crate::clock::Clock;
use bytes::Bytes;
use http::header::ALLOW;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use url::{Origin, Url};

/// One mock provider with its key, codes and token families; all of them die with the process.
pub struct MockProvider {
    issuer: String,
    /// Where redirect URIs may point; None: nowhere.
    origin: Option<Origin>,
    personas: Vec<Arc<Persona>>,
    access_life: Duration,
    clock: Clock,
    /// Made for the first token: a start need not wait for it.
    key: LazyLock<SigningKey>,
    grants: Mutex<Grants>,
}

impl MockProvider {
    /// A provider with a signing key of its own.
    #[must_use]
    pub fn new(settings: MockSettings, clock: Clock) -> MockProvider {
        MockProvider {
            origin: Url::parse(&settings.issuer).ok().map(|issuer| issuer.origin()),
            issuer: settings.issuer,
            personas: settings.users.iter().filter_map(Persona::new).map(Arc::new).collect(),
            access_life: settings.access_ttl,
            clock,
            key: LazyLock::new(SigningKey::generate),
            grants: Mutex::new(Grants::new()),
        }
    }

    /// Answers a request for a path under `/mock`. The browser's and the gateway's own requests
    /// come here alike; only the path, the query, the body and `Authorization` are looked at.
    pub fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let Some((_, methods, endpoint)) = ENDPOINTS.iter().find(|(path, ..)| *path == request.uri().path()) else {
            return message_page(
                StatusCode::NOT_FOUND,
                "Nothing here",
                "There is nothing at this address of the mock provider.",
            );
        };
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        if !methods.contains(method) {
            let allow: Vec<&str> = methods.iter().map(Method::as_str).collect();
            let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "invalid_request" }));
            response.headers_mut().insert(ALLOW, header_value(&allow.join(", ")));
            return response;
        }
        match endpoint {
            Endpoint::Discovery => json_response(StatusCode::OK, &self.metadata()),
            Endpoint::Jwks => json_response(StatusCode::OK, &self.key.jwks()),
            Endpoint::Authorize => self.authorize(&request),
            Endpoint::Token => self.token(&request).unwrap_or_else(TokenError::into_response),
            Endpoint::UserInfo => self.userinfo(&request),
            Endpoint::Revoke => self.revoke(&request).unwrap_or_else(TokenError::into_response),
            Endpoint::EndSession => self.end_session(&request),
        }
    }

    /// What it calls itself.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// All there is to know of the persona with this `sub`.
    #[must_use]
    pub fn persona_claims(&self, sub: &str) -> Option<Map<String, Value>> {
        let persona = self.personas.iter().find(|persona| persona.sub() == sub)?;
        Some(persona.claims(ALL_SCOPES))
    }

    /// OpenID Connect Discovery §3, RFC 8414 §2.
    fn metadata(&self) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        json!({
            "issuer": self.issuer,
            "authorization_endpoint": at("/authorize"),
            "token_endpoint": at("/token"),
            "userinfo_endpoint": at("/userinfo"),
            "jwks_uri": at("/jwks"),
            "revocation_endpoint": at("/revoke"),
            "end_session_endpoint": at("/logout"),
            "scopes_supported": ["openid", "profile", "email", "address", "phone", "offline_access"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true,
            "claims_parameter_supported": false,
            "request_parameter_supported": false,
            "request_uri_parameter_supported": false,
        })
    }

    /// OIDC Core §5.3; refusals after RFC 6750 §3.
    fn userinfo(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let Some(token) = bearer(request) else {
            return unauthorized(r#"Bearer realm="mock""#, &json!({ "error": "invalid_request" }));
        };
        let now = self.clock.now();
        let claims = self.key.open(TokenType::Access, token).and_then(|token| {
            let family = FamilyId::from_sid(token.get("sid")?.as_str()?)?;
            let live = token.get("exp")?.as_u64()? > now.unix;
            let mut grants = self.grants();
            let consent = grants.consent(family, now.mono).filter(|_| live)?;
            Some(consent.persona.claims(token.get("scope")?.as_str()?))
        });
        match claims {
            Some(claims) => json_response(StatusCode::OK, &Value::Object(claims)),
            None => unauthorized(r#"Bearer realm="mock", error="invalid_token""#, &json!({ "error": "invalid_token" })),
        }
    }

    /// RFC 7009. Either token ends the whole family; a token nobody knows is fine (§2.2).
    fn revoke(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, TokenError> {
        let parameters = Parameters::of_form(request)?;
        let client_id = client_id(request, &parameters)?;
        let token = parameters.get("token").ok_or(TokenError::invalid_request("token is missing"))?;
        let now = self.clock.now();
        let mut grants = self.grants();
        let family = grants.family_of(token).or_else(|| {
            let claims = self.key.open(TokenType::Access, token)?;
            FamilyId::from_sid(claims.get("sid")?.as_str()?)
        });
        if let Some(family) = family
            && grants.consent(family, now.mono).is_some_and(|consent| consent.client_id == client_id)
        {
            grants.end(family);
        }
        Ok(respond(StatusCode::OK, Bytes::new()))
    }

    /// OpenID Connect RP-Initiated Logout 1.0 §2. The only session here is the token family that the hint names.
    fn end_session(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let parameters = match Parameters::of_browser(request) {
            Ok(parameters) => parameters,
            Err(problem) => return problem_page(problem),
        };
        if let Some(hint) = parameters.get("id_token_hint") {
            let Some(claims) = self.key.open(TokenType::Id, hint) else {
                return problem_page("The id_token_hint is not an ID token of this provider.");
            };
            if let Some(family) = claims.get("sid").and_then(Value::as_str).and_then(FamilyId::from_sid) {
                self.grants().end(family);
            }
        }
        let Some(uri) = parameters.get("post_logout_redirect_uri") else {
            return message_page(StatusCode::OK, "You are signed out", "The mock provider has ended your session.");
        };
        let Some(mut target) = self.own_url(uri) else {
            return problem_page(
                "The post_logout_redirect_uri is not on the origin of this gateway, so the browser is not sent there.",
            );
        };
        if let Some(state) = parameters.get("state") {
            target.query_pairs_mut().append_pair("state", state);
        }
        found(&target)
    }

    /// A URL on the gateway's own origin, without fragment (RFC 6749 §3.1.2) or user.
    fn own_url(&self, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok()?;
        let ours = self.origin.as_ref() == Some(&url.origin())
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        ours.then_some(url)
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        // Every change of `Grants` is whole before anything could panic.
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Endpoint {
    Discovery,
    Jwks,
    Authorize,
    Token,
    UserInfo,
    Revoke,
    EndSession,
}

/// Those that show claims (OIDC Core §5.4).
const ALL_SCOPES: &str = "profile email address phone";

/// GET stands for HEAD too.
const ENDPOINTS: [(&str, &[Method], Endpoint); 7] = [
    ("/mock/.well-known/openid-configuration", &[Method::GET], Endpoint::Discovery),
    ("/mock/jwks", &[Method::GET], Endpoint::Jwks),
    ("/mock/authorize", &[Method::GET, Method::POST], Endpoint::Authorize),
    ("/mock/token", &[Method::POST], Endpoint::Token),
    ("/mock/userinfo", &[Method::GET, Method::POST], Endpoint::UserInfo),
    ("/mock/revoke", &[Method::POST], Endpoint::Revoke),
    ("/mock/logout", &[Method::GET, Method::POST], Endpoint::EndSession),
];

#[cfg(test)]
mod tests {
    use super::request::PARAMETERS_MAX;
    use super::token::{ID_TOKEN_LIFE, left_half_of_sha256, sha256_base64url};
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use http::header::{
        AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
    };
    use url::form_urlencoded;

    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const REDIRECT_URI: &str = "http://localhost:8080/auth/demo";

    struct Mock {
        provider: MockProvider,
        clock: Clock,
    }

    impl Mock {
        fn new() -> Mock {
            let users = json!([
                { "sub": "ada", "name": "Ada Example", "email": "ada@example.com", "role": "admin" },
                { "sub": "bob", "name": "Bob <b>Example</b>", "email": "bob@example.com" },
                { "sub": "eve", "name": "Eve Example", "mock_error": "refresh:invalid_grant" },
            ]);
            let clock = Clock::system();
            let settings = MockSettings {
                users: users.as_array().unwrap().iter().map(|user| user.as_object().unwrap().clone()).collect(),
                access_ttl: Duration::from_secs(60),
                issuer: "http://localhost:8080/mock".to_owned(),
            };
            Mock { provider: MockProvider::new(settings, clock.clone()), clock }
        }

        fn get(&self, target: &str) -> Response<Bytes> {
            self.provider.handle(Request::get(target).body(Bytes::new()).unwrap())
        }

        fn post(&self, path: &str, form: &[(&str, &str)]) -> Response<Bytes> {
            let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
            let request = Request::post(path).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            self.provider.handle(request.body(body.into()).unwrap())
        }

        fn userinfo(&self, access_token: &str) -> Response<Bytes> {
            let request = Request::get("/mock/userinfo").header(AUTHORIZATION, format!("Bearer {access_token}"));
            self.provider.handle(request.body(Bytes::new()).unwrap())
        }

        /// An authorization request; `changes` replace its parameters, an empty value takes one out.
        fn authorize(&self, changes: &[(&str, &str)]) -> Response<Bytes> {
            let challenge = sha256_base64url(VERIFIER.as_bytes());
            let mut parameters = vec![
                ("client_id", "gateway"),
                ("response_type", "code"),
                ("redirect_uri", REDIRECT_URI),
                ("scope", "openid profile email offline_access"),
                ("state", "a state&more"),
                ("nonce", "n-1"),
                ("code_challenge", &challenge),
                ("code_challenge_method", "S256"),
            ];
            parameters.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
            parameters.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
            let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
            self.get(&format!("/mock/authorize?{query}"))
        }

        fn code(&self, changes: &[(&str, &str)]) -> String {
            callback(&self.authorize(changes))["code"].as_str().unwrap().to_owned()
        }

        fn redeem(&self, code: &str) -> Response<Bytes> {
            self.redeem_with(code, &[])
        }

        fn redeem_with(&self, code: &str, changes: &[(&str, &str)]) -> Response<Bytes> {
            let mut form = vec![
                ("grant_type", "authorization_code"),
                ("code", code),
                ("redirect_uri", REDIRECT_URI),
                ("client_id", "gateway"),
                ("code_verifier", VERIFIER),
            ];
            form.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
            form.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
            self.post("/mock/token", &form)
        }

        fn refresh(&self, refresh_token: &str) -> Response<Bytes> {
            self.refresh_with(refresh_token, &[])
        }

        fn refresh_with(&self, refresh_token: &str, more: &[(&str, &str)]) -> Response<Bytes> {
            let mut form =
                vec![("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("client_id", "gateway")];
            form.extend(more);
            self.post("/mock/token", &form)
        }

        fn sign_in(&self, changes: &[(&str, &str)]) -> Value {
            let response = self.redeem(&self.code(changes));
            assert_eq!(response.status(), StatusCode::OK, "{:?}", response.body());
            body(&response)
        }
    }

    fn body(response: &Response<Bytes>) -> Value {
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        serde_json::from_slice(response.body()).unwrap()
    }

    fn text(value: &Value) -> &str {
        value.as_str().unwrap()
    }

    fn refused(response: &Response<Bytes>) -> (u16, String) {
        (response.status().as_u16(), text(&body(response)["error"]).to_owned())
    }

    fn invalid_grant() -> (u16, String) {
        (400, "invalid_grant".to_owned())
    }

    /// The query of the redirect back to the client, as an object.
    fn callback(response: &Response<Bytes>) -> Value {
        assert_eq!(response.status(), StatusCode::FOUND, "{:?}", response.body());
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        let location = Url::parse(response.headers()[LOCATION].to_str().unwrap()).unwrap();
        assert_eq!(location[..url::Position::AfterPath], *REDIRECT_URI);
        location.query_pairs().map(|(name, value)| (name.into_owned(), Value::from(&*value))).collect()
    }

    fn claims(mock: &Mock, kind: TokenType, token: &Value) -> Map<String, Value> {
        mock.provider.key.open(kind, text(token)).unwrap()
    }

    #[test]
    fn metadata_names_endpoints_that_exist() {
        let mock = Mock::new();
        let metadata = body(&mock.get("/mock/.well-known/openid-configuration"));
        assert_eq!(metadata["issuer"], "http://localhost:8080/mock");
        let endpoints =
            metadata.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_endpoint") || *name == "jwks_uri");
        let mut count = 0;
        for (name, address) in endpoints {
            let path = Url::parse(text(address)).unwrap().path().to_owned();
            assert_ne!(mock.get(&path).status(), StatusCode::NOT_FOUND, "{name}");
            count += 1;
        }
        assert_eq!(count, 6);
        assert_eq!(body(&mock.get("/mock/jwks"))["keys"][0]["alg"], "ES256");
    }

    #[test]
    fn other_methods_and_paths_are_refused() {
        let mock = Mock::new();
        let response = mock.get("/mock/token");
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[ALLOW], "POST");
        assert_eq!(mock.get("/mock/nothing").status(), StatusCode::NOT_FOUND);
        let head = Request::head("/mock/jwks").body(Bytes::new()).unwrap();
        assert_eq!(mock.provider.handle(head).status(), StatusCode::OK);
    }

    #[test]
    fn the_code_flow_ends_in_tokens_that_say_who() {
        let mock = Mock::new();
        let answer = callback(&mock.authorize(&[("user", "ada"), ("acr_values", "mfa pwd")]));
        assert_eq!(answer["state"], "a state&more");
        assert_eq!(answer["iss"], "http://localhost:8080/mock");
        let tokens = body(&mock.redeem(text(&answer["code"])));
        assert_eq!(tokens["token_type"], "Bearer");
        assert_eq!(tokens["expires_in"], 60);
        assert_eq!(tokens["scope"], "openid profile email offline_access");

        let id = claims(&mock, TokenType::Id, &tokens["id_token"]);
        let now = mock.clock.now().unix;
        for (claim, expected) in [
            ("iss", json!("http://localhost:8080/mock")),
            ("aud", json!("gateway")),
            ("sub", json!("ada")),
            ("nonce", json!("n-1")),
            ("name", json!("Ada Example")),
            ("email", json!("ada@example.com")),
            ("role", json!("admin")),
            ("acr", json!("mfa")),
            ("at_hash", json!(left_half_of_sha256(text(&tokens["access_token"])))),
        ] {
            assert_eq!(id[claim], expected, "{claim}");
        }
        assert!(id["exp"].as_u64().unwrap() > now && id["auth_time"].as_u64().unwrap() <= now);

        let access = claims(&mock, TokenType::Access, &tokens["access_token"]);
        assert_eq!(access["sub"], "ada");
        assert_eq!(access["exp"].as_u64().unwrap() - access["iat"].as_u64().unwrap(), 60);
        assert_eq!(access["sid"], id["sid"]);

        let userinfo = body(&mock.userinfo(text(&tokens["access_token"])));
        let expected = json!({ "sub": "ada", "name": "Ada Example", "email": "ada@example.com", "role": "admin" });
        assert_eq!(userinfo, expected);
    }

    #[test]
    fn at_hash_is_the_left_half() {
        // OIDC Core, appendix A.3
        assert_eq!(left_half_of_sha256("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"), "77QmUPtjPfzWtF2AnpK9RQ");
    }

    #[test]
    fn scopes_decide_what_is_issued() {
        let mock = Mock::new();
        let tokens = mock.sign_in(&[("user", "ada"), ("scope", "openid")]);
        assert_eq!(tokens.get("refresh_token"), None, "offline_access was not asked for");
        assert_eq!(claims(&mock, TokenType::Id, &tokens["id_token"]).get("email"), None);
        let tokens = mock.sign_in(&[("user", "ada"), ("scope", "")]);
        assert_eq!(tokens.get("id_token"), None, "this is plain OAuth");
    }

    // TG-35
    #[test]
    fn people_do_not_leak_into_each_other() {
        let mock = Mock::new();
        let codes: Vec<_> = ["ada", "bob", "eve"].map(|user| (user, mock.code(&[("user", user)]))).into();
        for (user, code) in codes.into_iter().rev() {
            let tokens = body(&mock.redeem(&code));
            assert_eq!(claims(&mock, TokenType::Id, &tokens["id_token"])["sub"], user);
        }
    }

    #[test]
    fn the_page_offers_personas_and_changes_nothing_else() {
        let mock = Mock::new();
        let response = mock.authorize(&[("ttl", "5")]);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert!(response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("frame-ancestors 'none'"));
        let html = std::str::from_utf8(response.body()).unwrap();
        assert!(!html.contains("<b>Example") && html.contains("Bob &#60;b&#62;Example"), "{html}");
        assert!(!html.contains("<script") && !html.contains("<form"));

        let links: Vec<String> =
            html.split("href=\"?").skip(1).map(|rest| rest.split('"').next().unwrap().replace("&#38;", "&")).collect();
        let ada = links.iter().find(|link| link.contains("user=ada")).unwrap();
        let tokens = body(&mock.redeem(text(&callback(&mock.get(&format!("/mock/authorize?{ada}")))["code"])));
        assert_eq!(tokens["expires_in"], 5, "the chosen life is kept");
        let cancel = links.iter().rev().find(|link| link.contains("mock_error=access_denied")).unwrap();
        assert_eq!(callback(&mock.get(&format!("/mock/authorize?{cancel}")))["error"], "access_denied");
    }

    #[test]
    fn hints_sign_in_only_who_is_known() {
        let mock = Mock::new();
        for hint in ["ada", "ada@example.com"] {
            let tokens = mock.sign_in(&[("login_hint", hint)]);
            assert_eq!(claims(&mock, TokenType::Id, &tokens["id_token"])["sub"], "ada");
        }
        assert_eq!(mock.authorize(&[("login_hint", "zoe")]).status(), StatusCode::OK, "the page to choose");
        assert_eq!(mock.authorize(&[("user", "zoe")]).status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn prompt_none_shows_no_page() {
        let mock = Mock::new();
        assert_eq!(callback(&mock.authorize(&[("prompt", "none")]))["error"], "login_required");
        assert!(callback(&mock.authorize(&[("prompt", "none"), ("user", "ada")])).get("code").is_some());
        assert_eq!(callback(&mock.authorize(&[("prompt", "none login")]))["error"], "invalid_request");
    }

    #[test]
    fn requests_that_cannot_be_answered_are_pages_and_never_redirects() {
        let mock = Mock::new();
        for changes in [
            [("client_id", "")],
            [("redirect_uri", "")],
            [("redirect_uri", "https://localhost:8080/auth/demo")],
            [("redirect_uri", "http://localhost:8081/auth/demo")],
            [("redirect_uri", "http://localhost:8080@evil.example/")],
            [("redirect_uri", "http://evil.example/http://localhost:8080/")],
            [("redirect_uri", "http://user@localhost:8080/auth/demo")],
            [("redirect_uri", "http://localhost:8080/auth/demo#fragment")],
            [("redirect_uri", "//localhost:8080/auth/demo")],
            [("redirect_uri", "javascript:alert(1)")],
            [("response_type", "token")],
            [("response_type", "")],
            [("ttl", "0")],
            [("ttl", "86401")],
            [("ttl", "soon")],
        ] {
            let response = mock.authorize(&[&changes[..], &[("user", "ada")]].concat());
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{changes:?}");
            assert!(!response.headers().contains_key(LOCATION), "{changes:?}");
        }
        let twice = mock.get("/mock/authorize?client_id=a&client_id=b");
        assert_eq!(twice.status(), StatusCode::BAD_REQUEST);
        let long = mock.authorize(&[("user", "ada"), ("nonce", &"n".repeat(PARAMETERS_MAX))]);
        assert_eq!(long.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn other_mistakes_go_back_to_the_client() {
        let mock = Mock::new();
        for (changes, error) in [
            ([("code_challenge", "")], "invalid_request"),
            ([("code_challenge", "short")], "invalid_request"),
            ([("code_challenge_method", "plain")], "invalid_request"),
            ([("code_challenge_method", "")], "invalid_request"),
            ([("response_mode", "fragment")], "invalid_request"),
            ([("scope", "openid \"x\"")], "invalid_scope"),
        ] {
            let answer = callback(&mock.authorize(&[&changes[..], &[("user", "ada")]].concat()));
            assert_eq!(answer["error"], error, "{changes:?}");
            assert_eq!(answer["state"], "a state&more");
            assert_eq!(answer["iss"], "http://localhost:8080/mock");
            assert_eq!(answer.get("code"), None);
        }
    }

    // TG-38
    #[test]
    fn a_code_works_once_and_its_second_use_ends_the_family() {
        let mock = Mock::new();
        let code = mock.code(&[("user", "ada")]);
        let tokens = body(&mock.redeem(&code));
        assert_eq!(refused(&mock.redeem(&code)), invalid_grant());
        assert_eq!(refused(&mock.refresh(text(&tokens["refresh_token"]))), invalid_grant());
        assert_eq!(mock.userinfo(text(&tokens["access_token"])).status(), StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn a_code_lives_sixty_seconds() {
        let mock = Mock::new();
        let (early, late) = (mock.code(&[("user", "ada")]), mock.code(&[("user", "ada")]));
        mock.clock.advance(Duration::from_secs(59));
        assert_eq!(mock.redeem(&early).status(), StatusCode::OK);
        mock.clock.advance(Duration::from_secs(1));
        assert_eq!(refused(&mock.redeem(&late)), invalid_grant());
    }

    // TG-38
    #[test]
    fn a_code_is_bound_to_what_it_was_issued_for() {
        let mock = Mock::new();
        let other_verifier = "x".repeat(43);
        for (change, expected) in [
            (("redirect_uri", "http://localhost:8080/auth/demo/"), invalid_grant()),
            (("redirect_uri", ""), invalid_grant()),
            (("code_verifier", &other_verifier[..]), invalid_grant()),
            (("code_verifier", "too-short"), invalid_grant()),
            (("client_id", "another"), (401, "invalid_client".to_owned())),
        ] {
            let code = mock.code(&[("user", "ada")]);
            assert_eq!(refused(&mock.redeem_with(&code, &[change])), expected, "{change:?}");
            assert_eq!(refused(&mock.redeem(&code)), invalid_grant(), "a failed try spends the code: {change:?}");
        }
    }

    #[test]
    fn malformed_token_requests_are_refused() {
        let mock = Mock::new();
        let code = mock.code(&[("user", "ada")]);
        for (change, expected) in [
            (("grant_type", ""), (400, "invalid_request")),
            (("grant_type", "password"), (400, "unsupported_grant_type")),
            (("code", ""), (400, "invalid_request")),
            (("code", "no-such-code"), (400, "invalid_grant")),
            (("code_verifier", ""), (400, "invalid_request")),
            (("client_id", ""), (401, "invalid_client")),
        ] {
            let (status, error) = refused(&mock.redeem_with(&code, &[change]));
            assert_eq!((status, &error[..]), expected, "{change:?}");
        }
        let json = Request::post("/mock/token").header(CONTENT_TYPE, "application/json").body(Bytes::from("{}"));
        assert_eq!(refused(&mock.provider.handle(json.unwrap())), (400, "invalid_request".to_owned()));
        assert_eq!(mock.redeem(&code).status(), StatusCode::OK, "none of them was about this code");
    }

    #[test]
    fn a_client_may_name_itself_in_the_header() {
        let mock = Mock::new();
        let code = mock.code(&[("user", "ada"), ("client_id", "my app:1")]);
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("grant_type", "authorization_code"),
                ("code", &code),
                ("redirect_uri", REDIRECT_URI),
                ("code_verifier", VERIFIER),
            ])
            .finish();
        let request = Request::post("/mock/token")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded; charset=UTF-8")
            .header(AUTHORIZATION, format!("Basic {}", STANDARD.encode("my+app%3A1:any secret")));
        assert_eq!(mock.provider.handle(request.body(form.into()).unwrap()).status(), StatusCode::OK);
    }

    #[test]
    fn an_empty_client_id_is_a_client_id() {
        let mock = Mock::new();
        let query = format!(
            "client_id=&response_type=code&redirect_uri={REDIRECT_URI}&user=ada&code_challenge={}&code_challenge_method=S256",
            sha256_base64url(VERIFIER.as_bytes())
        );
        let answer = callback(&mock.get(&format!("/mock/authorize?{query}")));
        let form = [
            ("grant_type", "authorization_code"),
            ("code", text(&answer["code"])),
            ("redirect_uri", REDIRECT_URI),
            ("code_verifier", VERIFIER),
            ("client_id", ""),
        ];
        assert_eq!(mock.post("/mock/token", &form).status(), StatusCode::OK);
    }

    #[test]
    fn refreshing_rotates() {
        let mock = Mock::new();
        let first = mock.sign_in(&[("user", "ada"), ("ttl", "5")]);
        mock.clock.advance(Duration::from_secs(10));
        let second = body(&mock.refresh(text(&first["refresh_token"])));
        assert_ne!(first["refresh_token"], second["refresh_token"]);
        assert_ne!(first["access_token"], second["access_token"]);
        assert_eq!(second["expires_in"], 5, "the chosen life stays");

        let before = claims(&mock, TokenType::Id, &first["id_token"]);
        let after = claims(&mock, TokenType::Id, &second["id_token"]);
        assert_eq!(after.get("nonce"), None);
        assert!(after["iat"].as_u64() > before["iat"].as_u64());
        for claim in ["iss", "sub", "aud", "auth_time", "sid"] {
            assert_eq!(before[claim], after[claim], "{claim}");
        }
        let third = mock.refresh(text(&second["refresh_token"]));
        assert_eq!(third.status(), StatusCode::OK);
    }

    #[test]
    fn a_used_refresh_token_ends_the_family() {
        let mock = Mock::new();
        let first = mock.sign_in(&[("user", "ada")]);
        let other = mock.sign_in(&[("user", "ada")]);
        let second = body(&mock.refresh(text(&first["refresh_token"])));
        assert_eq!(refused(&mock.refresh(text(&first["refresh_token"]))), invalid_grant());
        assert_eq!(refused(&mock.refresh(text(&second["refresh_token"]))), invalid_grant(), "the successor died too");
        assert_eq!(mock.userinfo(text(&second["access_token"])).status(), StatusCode::UNAUTHORIZED);
        assert_eq!(mock.refresh(text(&other["refresh_token"])).status(), StatusCode::OK, "another login lives on");
    }

    #[test]
    fn a_refused_refresh_does_not_use_the_token_up() {
        let mock = Mock::new();
        let tokens = mock.sign_in(&[("user", "ada"), ("scope", "openid offline_access")]);
        let refresh_token = text(&tokens["refresh_token"]);
        let more = mock.refresh_with(refresh_token, &[("scope", "openid admin")]);
        assert_eq!(refused(&more), (400, "invalid_scope".to_owned()));
        let less = body(&mock.refresh_with(refresh_token, &[("scope", "openid")]));
        assert_eq!(less["scope"], "openid");
    }

    #[test]
    fn a_refresh_token_is_bound_to_its_client() {
        let mock = Mock::new();
        let tokens = mock.sign_in(&[("user", "ada")]);
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", text(&tokens["refresh_token"])),
            ("client_id", "another"),
        ];
        assert_eq!(refused(&mock.post("/mock/token", &form)), (401, "invalid_client".to_owned()));
    }

    #[test]
    fn userinfo_needs_a_live_access_token() {
        let mock = Mock::new();
        let tokens = mock.sign_in(&[("user", "ada"), ("ttl", "5")]);
        let access_token = text(&tokens["access_token"]);
        mock.clock.advance(Duration::from_secs(3));
        assert_eq!(mock.userinfo(access_token).status(), StatusCode::OK);
        mock.clock.advance(Duration::from_secs(3));
        let expired = mock.userinfo(access_token);
        assert_eq!(expired.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(expired.headers()[WWW_AUTHENTICATE], r#"Bearer realm="mock", error="invalid_token""#);
        for token in [text(&tokens["id_token"]), text(&tokens["refresh_token"]), "nonsense", ""] {
            assert_eq!(mock.userinfo(token).status(), StatusCode::UNAUTHORIZED);
        }
        let absent = mock.get("/mock/userinfo");
        assert_eq!(absent.headers()[WWW_AUTHENTICATE], r#"Bearer realm="mock""#);
    }

    // TG-36
    #[test]
    fn authorization_errors_can_be_rehearsed() {
        let mock = Mock::new();
        for code in ["access_denied", "invalid_scope", "server_error", "temporarily_unavailable"] {
            let answer = callback(&mock.authorize(&[("mock_error", code)]));
            assert_eq!(answer["error"], code);
            assert_eq!(answer["state"], "a state&more");
        }
        let unknown = callback(&mock.authorize(&[("mock_error", "no_such_code"), ("user", "ada")]));
        assert!(unknown.get("code").is_some(), "a value that names no error changes nothing");
    }

    #[test]
    fn token_errors_can_be_rehearsed() {
        let mock = Mock::new();
        for (value, status, error) in [
            ("invalid_grant", 400, "invalid_grant"),
            ("invalid_client", 401, "invalid_client"),
            ("token:server_error", 500, "server_error"),
            ("token:temporarily_unavailable", 503, "temporarily_unavailable"),
        ] {
            let response = mock.redeem(&mock.code(&[("user", "ada"), ("mock_error", value)]));
            assert_eq!(refused(&response), (status, error.to_owned()), "{value}");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), status == 503);
        }
    }

    #[test]
    fn refresh_errors_can_be_rehearsed() {
        let mock = Mock::new();
        let down = mock.sign_in(&[("user", "ada"), ("mock_error", "refresh:temporarily_unavailable")]);
        for _ in 0..2 {
            assert_eq!(mock.refresh(text(&down["refresh_token"])).status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        let eve = mock.sign_in(&[("user", "eve")]);
        assert_eq!(refused(&mock.refresh(text(&eve["refresh_token"]))), invalid_grant());
    }

    #[test]
    fn revoking_either_token_ends_the_family() {
        for which in ["access_token", "refresh_token"] {
            let mock = Mock::new();
            let tokens = mock.sign_in(&[("user", "ada")]);
            let foreign = [("token", text(&tokens[which])), ("client_id", "another")];
            assert_eq!(mock.post("/mock/revoke", &foreign).status(), StatusCode::OK);
            assert_eq!(mock.userinfo(text(&tokens["access_token"])).status(), StatusCode::OK, "not its token");

            let own = [("token", text(&tokens[which])), ("client_id", "gateway")];
            assert_eq!(mock.post("/mock/revoke", &own).status(), StatusCode::OK);
            assert_eq!(mock.userinfo(text(&tokens["access_token"])).status(), StatusCode::UNAUTHORIZED);
            assert_eq!(refused(&mock.refresh(text(&tokens["refresh_token"]))), invalid_grant());
            assert_eq!(mock.post("/mock/revoke", &own).status(), StatusCode::OK, "idempotent");
        }
    }

    #[test]
    fn logging_out_ends_the_family_and_leads_back() {
        let mock = Mock::new();
        let tokens = mock.sign_in(&[("user", "ada")]);
        mock.clock.advance(2 * ID_TOKEN_LIFE);
        let hint = text(&tokens["id_token"]);
        let response = mock.get(&format!(
            "/mock/logout?id_token_hint={hint}&post_logout_redirect_uri=http://localhost:8080/bye&state=s"
        ));
        assert_eq!(response.status(), StatusCode::FOUND);
        assert_eq!(response.headers()[LOCATION], "http://localhost:8080/bye?state=s");
        assert_eq!(refused(&mock.refresh(text(&tokens["refresh_token"]))), invalid_grant());

        assert_eq!(mock.get("/mock/logout").status(), StatusCode::OK);
        let elsewhere = mock.get("/mock/logout?post_logout_redirect_uri=https://evil.example/");
        assert_eq!(elsewhere.status(), StatusCode::BAD_REQUEST);
        assert_eq!(mock.get("/mock/logout?id_token_hint=forged").status(), StatusCode::BAD_REQUEST);
    }
}
