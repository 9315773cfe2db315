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

mod grants;
mod keys;
mod persona;

use self::grants::{Code, Consent, FamilyId, Grants, Redeemed, Refusal};
use self::keys::{SigningKey, TokenType};
use self::persona::{Failure, Persona, Stage};
use super::MockSettings;
use crate::clock::{Clock, Now};
use askama::Template;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION,
    REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use url::{Origin, Url, form_urlencoded};

/// One mock provider with its key, codes and token families; all of them die with the process.
pub struct MockProvider {
    issuer: String,
    /// Where redirect URIs may point; None: nowhere.
    origin: Option<Origin>,
    personas: Vec<Arc<Persona>>,
    access_life: Duration,
    clock: Clock,
    key: SigningKey,
    grants: Mutex<Grants>,
}

impl MockProvider {
    /// A provider with a new signing key.
    ///
    /// # Panics
    /// When the system has no random bytes to give.
    #[must_use]
    pub fn new(settings: MockSettings, clock: Clock) -> MockProvider {
        MockProvider {
            origin: Url::parse(&settings.issuer)
                .ok()
                .map(|issuer| issuer.origin()),
            issuer: settings.issuer,
            personas: settings
                .users
                .iter()
                .filter_map(Persona::new)
                .map(Arc::new)
                .collect(),
            access_life: settings.access_ttl,
            clock,
            key: SigningKey::generate(),
            grants: Mutex::new(Grants::new()),
        }
    }

    /// Answers a request for a path under `/mock`. The browser's and the gateway's own requests
    /// come here alike; only the path, the query, the body and `Authorization` are looked at.
    pub fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let Some((_, methods, endpoint)) = ENDPOINTS
            .iter()
            .find(|(path, ..)| *path == request.uri().path())
        else {
            return Message::page(
                StatusCode::NOT_FOUND,
                "There is nothing at this address of the mock provider.",
            );
        };
        let method = if request.method() == Method::HEAD {
            &Method::GET
        } else {
            request.method()
        };
        if !methods.contains(method) {
            let allow: Vec<&str> = methods.iter().map(Method::as_str).collect();
            let mut response = json_response(
                StatusCode::METHOD_NOT_ALLOWED,
                &json!({ "error": "invalid_request" }),
            );
            response
                .headers_mut()
                .insert(ALLOW, header_value(&allow.join(", ")));
            return response;
        }
        match endpoint {
            Endpoint::Discovery => json_response(StatusCode::OK, &self.metadata()),
            Endpoint::Jwks => json_response(StatusCode::OK, &self.key.jwks()),
            Endpoint::Authorize => self
                .authorize(&request)
                .unwrap_or_else(AuthorizationError::into_response),
            Endpoint::Token => self
                .token(&request)
                .unwrap_or_else(TokenError::into_response),
            Endpoint::UserInfo => self.userinfo(&request),
            Endpoint::Revoke => self
                .revoke(&request)
                .unwrap_or_else(TokenError::into_response),
            Endpoint::EndSession => self.end_session(&request),
        }
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
            "grant_types_supported": ["authorization_code", "refresh_token"],
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

    /// The authorization endpoint (RFC 6749 §4.1.1, OIDC Core §3.1.2). Until the redirect URI is
    /// known to be ours, an error is a page; after that it goes back to the client.
    fn authorize(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, AuthorizationError> {
        let refuse = AuthorizationError::Page;
        let text = if request.method() == Method::POST {
            &request.body()[..]
        } else {
            query(request)
        };
        let parameters = Parameters::parse(text).map_err(refuse)?;

        // RFC 6749 would send a wrong response_type back to the client. A page says it to the person who wrote the URL.
        let client_id = parameters
            .given("client_id")
            .ok_or(refuse("The request has no client_id."))?;
        if client_id.len() > CLIENT_ID_MAX {
            return Err(refuse("The client_id is too long."));
        }
        let redirect_uri = parameters
            .get("redirect_uri")
            .ok_or(refuse("The request has no redirect_uri."))?;
        let target = self.own_url(redirect_uri).ok_or(refuse(
            "The redirect_uri is not on the origin of this gateway, so the browser is not sent there.",
        ))?;
        if parameters.get("response_type") != Some("code") {
            return Err(refuse(
                "The response_type is not \"code\", the only one there is here.",
            ));
        }
        let persona = match parameters.get("user") {
            Some(sub) => Some(
                self.persona(|persona| persona.sub() == sub)
                    .ok_or(refuse("There is no such persona; see `users`."))?,
            ),
            None => parameters.get("login_hint").and_then(|hint| {
                self.persona(|persona| persona.sub() == hint || persona.text("email") == Some(hint))
            }),
        };
        let access_life = match parameters.get("ttl").map(str::parse) {
            None => self.access_life,
            Some(Ok(seconds @ 1..=ACCESS_LIFE_MAX)) => Duration::from_secs(seconds),
            Some(_) => return Err(refuse("ttl is a whole number of seconds, from 1 to 86400.")),
        };

        let back = |code: &'static str, description: &'static str| AuthorizationError::Redirect {
            location: self.callback(
                &target,
                &parameters,
                &[("error", code), ("error_description", description)],
            ),
        };
        let code_challenge = parameters
            .get("code_challenge")
            .filter(|challenge| {
                URL_SAFE_NO_PAD
                    .decode(challenge)
                    .is_ok_and(|hash| hash.len() == SHA256.output_len)
            })
            .ok_or_else(|| {
                back(
                    "invalid_request",
                    "code_challenge is missing or is not a SHA-256",
                )
            })?;
        if parameters.get("code_challenge_method") != Some("S256") {
            return Err(back(
                "invalid_request",
                "code_challenge_method must be S256",
            ));
        }
        if parameters
            .get("response_mode")
            .is_some_and(|mode| mode != "query")
        {
            return Err(back("invalid_request", "response_mode must be query"));
        }
        let scope = parameters.get("scope").unwrap_or_default();
        if !is_scope(scope) {
            return Err(back("invalid_scope", "scope is not a list of scope tokens"));
        }
        let prompts: Vec<&str> = parameters
            .get("prompt")
            .unwrap_or_default()
            .split(' ')
            .collect();
        if prompts.contains(&"none") && prompts.len() > 1 {
            return Err(back("invalid_request", "prompt=none stands alone"));
        }

        let asked = parameters.get("mock_error");
        let failure = asked.and_then(Failure::named);
        if let (Some(value), None) = (asked, failure) {
            tracing::warn!(
                ?value,
                "mock_error names no error the mock provider can give; going on without"
            );
        }
        let failure = failure.or_else(|| persona.as_ref().and_then(|persona| persona.failure));
        if let Some(Failure {
            stage: Stage::Authorization,
            code,
        }) = failure
        {
            return Err(back(code, "the mock provider was asked for this error"));
        }
        let Some(persona) = persona else {
            if prompts.contains(&"none") {
                return Err(back("login_required", "prompt=none, and nobody was named"));
            }
            return Ok(self.choose_page(&parameters, client_id, scope, access_life));
        };

        let now = self.clock.now();
        let code = self.grants().issue_code(
            Code {
                consent: Consent {
                    persona: Arc::clone(persona),
                    client_id: client_id.to_owned(),
                    scope: scope.to_owned(),
                    auth_time: now.unix,
                    acr: parameters
                        .get("acr_values")
                        .and_then(|values| values.split(' ').next())
                        .map(str::to_owned),
                    access_life,
                    failure,
                },
                redirect_uri: redirect_uri.to_owned(),
                nonce: parameters.get("nonce").map(str::to_owned),
                code_challenge: code_challenge.to_owned(),
            },
            now.mono,
        );
        Ok(found(&self.callback(
            &target,
            &parameters,
            &[("code", &code)],
        )))
    }

    /// The token endpoint (RFC 6749 §3.2).
    fn token(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, TokenError> {
        let parameters = Parameters::of_form(request)?;
        let client_id = client_id(request, &parameters)?;
        let now = self.clock.now();
        match parameters.get("grant_type") {
            Some("authorization_code") => self.token_for_code(&parameters, &client_id, now),
            Some("refresh_token") => self.token_for_refresh_token(&parameters, &client_id, now),
            Some(_) => Err(TokenError::unsupported_grant_type()),
            None => Err(TokenError::invalid_request("grant_type is missing")),
        }
    }

    /// RFC 6749 §4.1.3, RFC 7636 §4.6
    fn token_for_code(
        &self,
        parameters: &Parameters<'_>,
        client_id: &str,
        now: Now,
    ) -> Result<Response<Bytes>, TokenError> {
        let code = parameters
            .get("code")
            .ok_or(TokenError::invalid_request("code is missing"))?;
        let verifier = parameters
            .get("code_verifier")
            .ok_or(TokenError::invalid_request("code_verifier is missing"))?;
        let redeemed = self.grants().redeem_code(code, now.mono, |code| {
            if code.consent.client_id != client_id {
                return Err(TokenError::invalid_client());
            }
            if parameters.get("redirect_uri") != Some(&code.redirect_uri) {
                return Err(TokenError::invalid_grant(
                    "redirect_uri is not the one of the authorization request",
                ));
            }
            if !is_code_verifier(verifier)
                || sha256_base64url(verifier.as_bytes()) != code.code_challenge
            {
                return Err(TokenError::invalid_grant(
                    "code_verifier does not match code_challenge",
                ));
            }
            TokenError::rehearsed(code.consent.failure, Stage::Code)
        })?;
        let scope = redeemed.consent.scope.clone();
        self.issue(&redeemed, &scope, now)
    }

    /// RFC 6749 §6; OIDC Core §12
    fn token_for_refresh_token(
        &self,
        parameters: &Parameters<'_>,
        client_id: &str,
        now: Now,
    ) -> Result<Response<Bytes>, TokenError> {
        let refresh_token = parameters
            .get("refresh_token")
            .ok_or(TokenError::invalid_request("refresh_token is missing"))?;
        let redeemed =
            self.grants()
                .redeem_refresh_token(refresh_token, now.mono, |consent| {
                    if consent.client_id != client_id {
                        return Err(TokenError::invalid_client());
                    }
                    let granted: Vec<&str> = consent.scope.split(' ').collect();
                    if parameters.get("scope").is_some_and(|scope| {
                        scope.split(' ').any(|token| !granted.contains(&token))
                    }) {
                        return Err(TokenError::invalid_scope());
                    }
                    TokenError::rehearsed(consent.failure, Stage::Refresh)
                })?;
        let scope = parameters.get("scope").unwrap_or(&redeemed.consent.scope);
        self.issue(&redeemed, scope, now)
    }

    /// RFC 6749 §5.1, with an ID token when `openid` was granted (OIDC Core §3.1.3.3).
    fn issue(
        &self,
        redeemed: &Redeemed,
        scope: &str,
        now: Now,
    ) -> Result<Response<Bytes>, TokenError> {
        let expires_in = redeemed.consent.access_life.as_secs();
        let access_token = self.access_token(redeemed, scope, now)?;
        let mut answer = json!({
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": expires_in,
            "scope": scope,
        });
        if scope.split(' ').any(|token| token == "openid") {
            answer["id_token"] = self.id_token(redeemed, scope, &access_token, now)?.into();
        }
        if let Some(refresh_token) = &redeemed.refresh_token {
            answer["refresh_token"] = refresh_token.as_str().into();
        }
        Ok(json_response(StatusCode::OK, &answer))
    }

    /// RFC 9068 §2.2
    fn access_token(
        &self,
        redeemed: &Redeemed,
        scope: &str,
        now: Now,
    ) -> Result<String, TokenError> {
        let Redeemed {
            consent, family, ..
        } = redeemed;
        let mut claims = consent.persona.claims(scope);
        claims.insert("iss".to_owned(), self.issuer.as_str().into());
        claims.insert("aud".to_owned(), self.issuer.as_str().into());
        claims.insert("client_id".to_owned(), consent.client_id.as_str().into());
        claims.insert("iat".to_owned(), now.unix.into());
        claims.insert(
            "exp".to_owned(),
            (now.unix + consent.access_life.as_secs()).into(),
        );
        claims.insert("jti".to_owned(), jti().into());
        claims.insert("scope".to_owned(), scope.into());
        claims.insert("sid".to_owned(), family.to_sid().into());
        Ok(self.key.sign(TokenType::Access, &claims)?)
    }

    /// OIDC Core §2, §3.1.3.6; after a refresh without `nonce` and with the first `auth_time` (§12.2)
    fn id_token(
        &self,
        redeemed: &Redeemed,
        scope: &str,
        access_token: &str,
        now: Now,
    ) -> Result<String, TokenError> {
        let Redeemed {
            consent,
            family,
            nonce,
            ..
        } = redeemed;
        let mut claims = consent.persona.claims(scope);
        claims.insert("iss".to_owned(), self.issuer.as_str().into());
        claims.insert("aud".to_owned(), consent.client_id.as_str().into());
        claims.insert("iat".to_owned(), now.unix.into());
        claims.insert(
            "exp".to_owned(),
            (now.unix + ID_TOKEN_LIFE.as_secs()).into(),
        );
        claims.insert("auth_time".to_owned(), consent.auth_time.into());
        claims.insert("sid".to_owned(), family.to_sid().into());
        claims.insert(
            "at_hash".to_owned(),
            left_half_of_sha256(access_token).into(),
        );
        if let Some(nonce) = nonce {
            claims.insert("nonce".to_owned(), nonce.as_str().into());
        }
        if let Some(acr) = &consent.acr {
            claims.insert("acr".to_owned(), acr.as_str().into());
        }
        Ok(self.key.sign(TokenType::Id, &claims)?)
    }

    /// OIDC Core §5.3; refusals after RFC 6750 §3.
    fn userinfo(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let Some(token) = bearer(request) else {
            return unauthorized(
                r#"Bearer realm="mock""#,
                &json!({ "error": "invalid_request" }),
            );
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
            None => unauthorized(
                r#"Bearer realm="mock", error="invalid_token""#,
                &json!({ "error": "invalid_token" }),
            ),
        }
    }

    /// RFC 7009. Either token ends the whole family; a token nobody knows is fine (§2.2).
    fn revoke(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, TokenError> {
        let parameters = Parameters::of_form(request)?;
        let client_id = client_id(request, &parameters)?;
        let token = parameters
            .get("token")
            .ok_or(TokenError::invalid_request("token is missing"))?;
        let now = self.clock.now();
        let mut grants = self.grants();
        let family = grants.family_of(token).or_else(|| {
            let claims = self.key.open(TokenType::Access, token)?;
            FamilyId::from_sid(claims.get("sid")?.as_str()?)
        });
        if let Some(family) = family
            && grants
                .consent(family, now.mono)
                .is_some_and(|consent| consent.client_id == client_id)
        {
            grants.end(family);
        }
        Ok(respond(StatusCode::OK, Bytes::new()))
    }

    /// OpenID Connect RP-Initiated Logout 1.0 §2. The only session here is the token family that the hint names.
    fn end_session(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let text = if request.method() == Method::POST {
            &request.body()[..]
        } else {
            query(request)
        };
        let parameters = match Parameters::parse(text) {
            Ok(parameters) => parameters,
            Err(problem) => return Message::page(StatusCode::BAD_REQUEST, problem),
        };
        if let Some(hint) = parameters.get("id_token_hint") {
            let Some(claims) = self.key.open(TokenType::Id, hint) else {
                return Message::page(
                    StatusCode::BAD_REQUEST,
                    "The id_token_hint is not an ID token of this provider.",
                );
            };
            if let Some(family) = claims
                .get("sid")
                .and_then(Value::as_str)
                .and_then(FamilyId::from_sid)
            {
                self.grants().end(family);
            }
        }
        let Some(uri) = parameters.get("post_logout_redirect_uri") else {
            return Message::signed_out_page();
        };
        let Some(mut target) = self.own_url(uri) else {
            return Message::page(
                StatusCode::BAD_REQUEST,
                "The post_logout_redirect_uri is not on the origin of this gateway, so the browser is not sent there.",
            );
        };
        if let Some(state) = parameters.get("state") {
            target.query_pairs_mut().append_pair("state", state);
        }
        found(&target)
    }

    fn choose_page(
        &self,
        parameters: &Parameters<'_>,
        client_id: &str,
        scope: &str,
        access_life: Duration,
    ) -> Response<Bytes> {
        let lives = ACCESS_LIVES.map(|seconds| Choice {
            label: format!("{seconds} s"),
            href: parameters.link("ttl", &seconds.to_string()),
            current: parameters.get("ttl") == Some(&seconds.to_string()),
        });
        let default = Choice {
            label: format!("Default ({} s)", self.access_life.as_secs()),
            href: parameters.link("ttl", ""),
            current: parameters.get("ttl").is_none(),
        };
        page(
            StatusCode::OK,
            &ChoosePage {
                client_id,
                scopes: scope.split(' ').filter(|token| !token.is_empty()).collect(),
                personas: self
                    .personas
                    .iter()
                    .map(|persona| PersonaCard::new(persona, parameters))
                    .collect(),
                lives: lives.into_iter().chain([default]).collect(),
                access_life: access_life.as_secs(),
                failures: REHEARSALS
                    .iter()
                    .map(|(value, outcome)| Rehearsal {
                        value,
                        outcome,
                        href: parameters.link("mock_error", value),
                    })
                    .collect(),
                rehearsed: parameters
                    .get("mock_error")
                    .filter(|value| Failure::named(value).is_some()),
                without_failure: parameters.link("mock_error", ""),
                cancel: parameters.link("mock_error", "access_denied"),
            },
        )
    }

    /// The redirect back to the client, with `state` and `iss` (RFC 9207).
    fn callback(&self, target: &Url, parameters: &Parameters<'_>, answer: &[(&str, &str)]) -> Url {
        let mut location = target.clone();
        let mut pairs = location.query_pairs_mut();
        pairs.extend_pairs(answer);
        if let Some(state) = parameters.given("state") {
            pairs.append_pair("state", state);
        }
        pairs.append_pair("iss", &self.issuer);
        drop(pairs);
        location
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

    fn persona(&self, wanted: impl Fn(&Persona) -> bool) -> Option<&Arc<Persona>> {
        self.personas.iter().find(|persona| wanted(persona))
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

/// GET stands for HEAD too.
const ENDPOINTS: [(&str, &[Method], Endpoint); 7] = [
    (
        "/mock/.well-known/openid-configuration",
        &[Method::GET],
        Endpoint::Discovery,
    ),
    ("/mock/jwks", &[Method::GET], Endpoint::Jwks),
    (
        "/mock/authorize",
        &[Method::GET, Method::POST],
        Endpoint::Authorize,
    ),
    ("/mock/token", &[Method::POST], Endpoint::Token),
    (
        "/mock/userinfo",
        &[Method::GET, Method::POST],
        Endpoint::UserInfo,
    ),
    ("/mock/revoke", &[Method::POST], Endpoint::Revoke),
    (
        "/mock/logout",
        &[Method::GET, Method::POST],
        Endpoint::EndSession,
    ),
];

/// The parameters of a query or a form. One that is repeated is an error, and one without a value
/// was not sent (RFC 6749 §3.1).
struct Parameters<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Parameters<'a> {
    fn parse(text: &'a [u8]) -> Result<Parameters<'a>, &'static str> {
        if text.len() > PARAMETERS_MAX {
            return Err("The request is too long.");
        }
        let pairs: Vec<_> = form_urlencoded::parse(text).collect();
        let repeated = pairs
            .iter()
            .enumerate()
            .any(|(at, (name, _))| pairs[..at].iter().any(|(one, _)| one == name));
        if repeated {
            Err("The request has a parameter twice.")
        } else {
            Ok(Parameters(pairs))
        }
    }

    fn of_form(request: &'a Request<Bytes>) -> Result<Parameters<'a>, TokenError> {
        let content_type = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(TokenError::invalid_request(
                "the body is not application/x-www-form-urlencoded",
            ));
        }
        Parameters::parse(request.body()).map_err(TokenError::invalid_request)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.given(name).filter(|value| !value.is_empty())
    }

    /// Also when it is empty: the mock provider's own client may have an empty `client_id`.
    fn given(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(one, _)| one == name)
            .map(|(_, value)| &**value)
    }

    /// The same request with one parameter changed; an empty value takes it out.
    fn link(&self, name: &str, value: &str) -> String {
        let mut query = form_urlencoded::Serializer::for_suffix("?".to_owned(), 1);
        for (one, old) in self.0.iter().filter(|(one, _)| one != name) {
            query.append_pair(one, old);
        }
        if !value.is_empty() {
            query.append_pair(name, value);
        }
        query.finish()
    }
}

enum AuthorizationError {
    /// What is wrong, for the person at the browser.
    Page(&'static str),
    Redirect {
        location: Url,
    },
}

impl AuthorizationError {
    fn into_response(self) -> Response<Bytes> {
        match self {
            AuthorizationError::Page(problem) => Message::page(StatusCode::BAD_REQUEST, problem),
            AuthorizationError::Redirect { location } => found(&location),
        }
    }
}

/// RFC 6749 §5.2
#[derive(Debug)]
struct TokenError {
    status: StatusCode,
    code: &'static str,
    description: &'static str,
}

impl TokenError {
    fn invalid_request(description: &'static str) -> TokenError {
        TokenError {
            status: StatusCode::BAD_REQUEST,
            code: "invalid_request",
            description,
        }
    }

    fn invalid_client() -> TokenError {
        let description = "client_id is missing, or another than the one the token was issued to";
        TokenError {
            status: StatusCode::UNAUTHORIZED,
            code: "invalid_client",
            description,
        }
    }

    fn invalid_grant(description: &'static str) -> TokenError {
        TokenError {
            status: StatusCode::BAD_REQUEST,
            code: "invalid_grant",
            description,
        }
    }

    fn invalid_scope() -> TokenError {
        let description = "scope is more than was granted";
        TokenError {
            status: StatusCode::BAD_REQUEST,
            code: "invalid_scope",
            description,
        }
    }

    fn unsupported_grant_type() -> TokenError {
        let description = "grant_type is neither authorization_code nor refresh_token";
        TokenError {
            status: StatusCode::BAD_REQUEST,
            code: "unsupported_grant_type",
            description,
        }
    }

    /// Fails if a failure was asked for at this stage.
    fn rehearsed(failure: Option<Failure>, stage: Stage) -> Result<(), TokenError> {
        let Some(Failure { code, .. }) = failure.filter(|failure| failure.stage == stage) else {
            return Ok(());
        };
        let status = match code {
            "invalid_client" => StatusCode::UNAUTHORIZED,
            "server_error" => StatusCode::INTERNAL_SERVER_ERROR,
            "temporarily_unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Err(TokenError {
            status,
            code,
            description: "the mock provider was asked for this error",
        })
    }

    fn into_response(self) -> Response<Bytes> {
        let body = json!({ "error": self.code, "error_description": self.description });
        let mut response = json_response(self.status, &body);
        match self.status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(
                    WWW_AUTHENTICATE,
                    HeaderValue::from_static(r#"Basic realm="mock""#),
                );
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response
                    .headers_mut()
                    .insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<Refusal<TokenError>> for TokenError {
    fn from(refusal: Refusal<TokenError>) -> TokenError {
        match refusal {
            Refusal::Dead => TokenError::invalid_grant("it is unknown, expired, used or revoked"),
            Refusal::Unacceptable(error) => error,
        }
    }
}

impl From<jsonwebtoken::errors::Error> for TokenError {
    fn from(_: jsonwebtoken::errors::Error) -> TokenError {
        let description = "a token could not be signed";
        TokenError {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "server_error",
            description,
        }
    }
}

/// The client that calls, by HTTP Basic or by the form (RFC 6749 §2.3.1); its secret is not looked at.
fn client_id(request: &Request<Bytes>, parameters: &Parameters<'_>) -> Result<String, TokenError> {
    let Some(authorization) = request.headers().get(AUTHORIZATION) else {
        return parameters
            .given("client_id")
            .map(str::to_owned)
            .ok_or(TokenError::invalid_client());
    };
    let id = || {
        let (scheme, credentials) = authorization.to_str().ok()?.split_once(' ')?;
        let credentials = STANDARD
            .decode(
                scheme
                    .eq_ignore_ascii_case("basic")
                    .then_some(credentials.trim())?,
            )
            .ok()?;
        let id = credentials.split(|byte| *byte == b':').next()?;
        // The id is form-encoded: parsed as the name of a field without value.
        Some(
            form_urlencoded::parse(id)
                .next()
                .map_or_else(String::new, |(id, _)| id.into_owned()),
        )
    };
    id().ok_or(TokenError::invalid_client())
}

fn bearer(request: &Request<Bytes>) -> Option<&str> {
    let (scheme, token) = request
        .headers()
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

fn query(request: &Request<Bytes>) -> &[u8] {
    request.uri().query().unwrap_or_default().as_bytes()
}

/// RFC 6749 §3.3; none at all is fine.
fn is_scope(scope: &str) -> bool {
    let token = |token: &str| {
        !token.is_empty()
            && token
                .bytes()
                .all(|byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E))
    };
    scope.is_empty() || scope.split(' ').all(token)
}

/// RFC 7636 §4.1
fn is_code_verifier(verifier: &str) -> bool {
    (43..=128).contains(&verifier.len())
        && verifier
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

fn sha256_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}

/// `at_hash` for ES256 (OIDC Core §3.1.3.6)
fn left_half_of_sha256(token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    URL_SAFE_NO_PAD.encode(&hash.as_ref()[..SHA256.output_len / 2])
}

fn jti() -> String {
    URL_SAFE_NO_PAD.encode(grants::random::<16>())
}

fn found(location: &Url) -> Response<Bytes> {
    let mut response = respond(StatusCode::FOUND, Bytes::new());
    response
        .headers_mut()
        .insert(LOCATION, header_value(location.as_str()));
    response
}

fn unauthorized(challenge: &'static str, body: &Value) -> Response<Bytes> {
    let mut response = json_response(StatusCode::UNAUTHORIZED, body);
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

fn json_response(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = respond(status, body.to_string().into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn page(status: StatusCode, template: &impl Template) -> Response<Bytes> {
    let Ok(html) = template.render() else {
        return respond(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new());
    };
    let mut response = respond(status, html.into());
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(PAGE_POLICY),
    );
    response
}

fn respond(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The address of a page holds state and nonce.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn header_value(text: &str) -> HeaderValue {
    // Serialised URLs and lists of methods are ASCII without controls.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

#[derive(Template)]
#[template(path = "mock_choose.html")]
struct ChoosePage<'a> {
    client_id: &'a str,
    scopes: Vec<&'a str>,
    personas: Vec<PersonaCard<'a>>,
    lives: Vec<Choice>,
    /// Seconds.
    access_life: u64,
    failures: Vec<Rehearsal>,
    rehearsed: Option<&'a str>,
    without_failure: String,
    cancel: String,
}

struct PersonaCard<'a> {
    name: &'a str,
    initials: String,
    email: Option<&'a str>,
    role: Option<&'a str>,
    fails: bool,
    href: String,
}

struct Choice {
    label: String,
    href: String,
    current: bool,
}

struct Rehearsal {
    value: &'static str,
    outcome: &'static str,
    href: String,
}

/// A page that says one thing.
#[derive(Template)]
#[template(path = "mock_message.html")]
struct Message {
    title: &'static str,
    text: &'static str,
}

impl<'a> PersonaCard<'a> {
    fn new(persona: &'a Persona, parameters: &Parameters<'_>) -> PersonaCard<'a> {
        let name = persona.text("name").unwrap_or(persona.sub());
        PersonaCard {
            name,
            initials: name
                .split_whitespace()
                .take(2)
                .filter_map(|word| word.chars().next())
                .collect(),
            email: persona.text("email"),
            role: persona.text("role"),
            fails: persona.failure.is_some(),
            href: parameters.link("user", persona.sub()),
        }
    }
}

impl Message {
    fn page(status: StatusCode, problem: &'static str) -> Response<Bytes> {
        page(
            status,
            &Message {
                title: "This cannot go on",
                text: problem,
            },
        )
    }

    fn signed_out_page() -> Response<Bytes> {
        page(
            StatusCode::OK,
            &Message {
                title: "You are signed out",
                text: "The mock provider has ended your session.",
            },
        )
    }
}

/// Only links lead on, so no form may be sent from here.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Access-token lives one can choose on the page, in seconds.
const ACCESS_LIVES: [u64; 3] = [5, 15, 60];
/// What `ttl` may ask for, in seconds.
const ACCESS_LIFE_MAX: u64 = 24 * 3600;
const ID_TOKEN_LIFE: Duration = Duration::from_secs(3600);
const CLIENT_ID_MAX: usize = 256;
/// Bytes of a query or a form: what is remembered of a request is part of this.
const PARAMETERS_MAX: usize = 8 * 1024;
/// Failures offered on the page.
const REHEARSALS: [(&str, &str); 6] = [
    ("access_denied", "the person says no"),
    ("temporarily_unavailable", "the provider is busy"),
    ("token:invalid_grant", "the code is refused"),
    ("token:server_error", "the code meets a broken provider"),
    ("refresh:invalid_grant", "every refresh is refused"),
    (
        "refresh:temporarily_unavailable",
        "every refresh meets a provider that is down",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

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
                users: users
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|user| user.as_object().unwrap().clone())
                    .collect(),
                access_ttl: Duration::from_secs(60),
                issuer: "http://localhost:8080/mock".to_owned(),
            };
            Mock {
                provider: MockProvider::new(settings, clock.clone()),
                clock,
            }
        }

        fn get(&self, target: &str) -> Response<Bytes> {
            self.provider
                .handle(Request::get(target).body(Bytes::new()).unwrap())
        }

        fn post(&self, path: &str, form: &[(&str, &str)]) -> Response<Bytes> {
            let body = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(form)
                .finish();
            let request =
                Request::post(path).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            self.provider.handle(request.body(body.into()).unwrap())
        }

        fn userinfo(&self, access_token: &str) -> Response<Bytes> {
            let request = Request::get("/mock/userinfo")
                .header(AUTHORIZATION, format!("Bearer {access_token}"));
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
            let query = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(parameters)
                .finish();
            self.get(&format!("/mock/authorize?{query}"))
        }

        fn code(&self, changes: &[(&str, &str)]) -> String {
            callback(&self.authorize(changes))["code"]
                .as_str()
                .unwrap()
                .to_owned()
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
            let mut form = vec![
                ("grant_type", "refresh_token"),
                ("refresh_token", refresh_token),
                ("client_id", "gateway"),
            ];
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
        (
            response.status().as_u16(),
            text(&body(response)["error"]).to_owned(),
        )
    }

    fn invalid_grant() -> (u16, String) {
        (400, "invalid_grant".to_owned())
    }

    /// The query of the redirect back to the client, as an object.
    fn callback(response: &Response<Bytes>) -> Value {
        assert_eq!(
            response.status(),
            StatusCode::FOUND,
            "{:?}",
            response.body()
        );
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        let location = Url::parse(response.headers()[LOCATION].to_str().unwrap()).unwrap();
        assert_eq!(location[..url::Position::AfterPath], *REDIRECT_URI);
        location
            .query_pairs()
            .map(|(name, value)| (name.into_owned(), Value::from(&*value)))
            .collect()
    }

    fn claims(mock: &Mock, kind: TokenType, token: &Value) -> Map<String, Value> {
        mock.provider.key.open(kind, text(token)).unwrap()
    }

    #[test]
    fn metadata_names_endpoints_that_exist() {
        let mock = Mock::new();
        let metadata = body(&mock.get("/mock/.well-known/openid-configuration"));
        assert_eq!(metadata["issuer"], "http://localhost:8080/mock");
        let endpoints = metadata
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| name.ends_with("_endpoint") || *name == "jwks_uri");
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
            (
                "at_hash",
                json!(left_half_of_sha256(text(&tokens["access_token"]))),
            ),
        ] {
            assert_eq!(id[claim], expected, "{claim}");
        }
        assert!(id["exp"].as_u64().unwrap() > now && id["auth_time"].as_u64().unwrap() <= now);

        let access = claims(&mock, TokenType::Access, &tokens["access_token"]);
        assert_eq!(access["sub"], "ada");
        assert_eq!(
            access["exp"].as_u64().unwrap() - access["iat"].as_u64().unwrap(),
            60
        );
        assert_eq!(access["sid"], id["sid"]);

        let userinfo = body(&mock.userinfo(text(&tokens["access_token"])));
        let expected = json!({ "sub": "ada", "name": "Ada Example", "email": "ada@example.com", "role": "admin" });
        assert_eq!(userinfo, expected);
    }

    #[test]
    fn at_hash_is_the_left_half() {
        // OIDC Core, appendix A.3
        assert_eq!(
            left_half_of_sha256("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"),
            "77QmUPtjPfzWtF2AnpK9RQ"
        );
    }

    #[test]
    fn scopes_decide_what_is_issued() {
        let mock = Mock::new();
        let tokens = mock.sign_in(&[("user", "ada"), ("scope", "openid")]);
        assert_eq!(
            tokens.get("refresh_token"),
            None,
            "offline_access was not asked for"
        );
        assert_eq!(
            claims(&mock, TokenType::Id, &tokens["id_token"]).get("email"),
            None
        );
        let tokens = mock.sign_in(&[("user", "ada"), ("scope", "")]);
        assert_eq!(tokens.get("id_token"), None, "this is plain OAuth");
    }

    #[test]
    fn people_do_not_leak_into_each_other() {
        let mock = Mock::new();
        let codes: Vec<_> = ["ada", "bob", "eve"]
            .map(|user| (user, mock.code(&[("user", user)])))
            .into();
        for (user, code) in codes.into_iter().rev() {
            let tokens = body(&mock.redeem(&code));
            assert_eq!(
                claims(&mock, TokenType::Id, &tokens["id_token"])["sub"],
                user
            );
        }
    }

    #[test]
    fn the_page_offers_personas_and_changes_nothing_else() {
        let mock = Mock::new();
        let response = mock.authorize(&[("ttl", "5")]);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert!(
            response.headers()[CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .contains("frame-ancestors 'none'")
        );
        let html = std::str::from_utf8(response.body()).unwrap();
        assert!(
            !html.contains("<b>Example") && html.contains("Bob &#60;b&#62;Example"),
            "{html}"
        );
        assert!(!html.contains("<script") && !html.contains("<form"));

        let links: Vec<String> = html
            .split("href=\"?")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().replace("&#38;", "&"))
            .collect();
        let ada = links.iter().find(|link| link.contains("user=ada")).unwrap();
        let tokens = body(&mock.redeem(text(
            &callback(&mock.get(&format!("/mock/authorize?{ada}")))["code"],
        )));
        assert_eq!(tokens["expires_in"], 5, "the chosen life is kept");
        let cancel = links
            .iter()
            .rev()
            .find(|link| link.contains("mock_error=access_denied"))
            .unwrap();
        assert_eq!(
            callback(&mock.get(&format!("/mock/authorize?{cancel}")))["error"],
            "access_denied"
        );
    }

    #[test]
    fn hints_sign_in_only_who_is_known() {
        let mock = Mock::new();
        for hint in ["ada", "ada@example.com"] {
            let tokens = mock.sign_in(&[("login_hint", hint)]);
            assert_eq!(
                claims(&mock, TokenType::Id, &tokens["id_token"])["sub"],
                "ada"
            );
        }
        assert_eq!(
            mock.authorize(&[("login_hint", "zoe")]).status(),
            StatusCode::OK,
            "the page to choose"
        );
        assert_eq!(
            mock.authorize(&[("user", "zoe")]).status(),
            StatusCode::BAD_REQUEST
        );
    }

    #[test]
    fn prompt_none_shows_no_page() {
        let mock = Mock::new();
        assert_eq!(
            callback(&mock.authorize(&[("prompt", "none")]))["error"],
            "login_required"
        );
        assert!(
            callback(&mock.authorize(&[("prompt", "none"), ("user", "ada")]))
                .get("code")
                .is_some()
        );
        assert_eq!(
            callback(&mock.authorize(&[("prompt", "none login")]))["error"],
            "invalid_request"
        );
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

    #[test]
    fn a_code_works_once_and_its_second_use_ends_the_family() {
        let mock = Mock::new();
        let code = mock.code(&[("user", "ada")]);
        let tokens = body(&mock.redeem(&code));
        assert_eq!(refused(&mock.redeem(&code)), invalid_grant());
        assert_eq!(
            refused(&mock.refresh(text(&tokens["refresh_token"]))),
            invalid_grant()
        );
        assert_eq!(
            mock.userinfo(text(&tokens["access_token"])).status(),
            StatusCode::UNAUTHORIZED
        );
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

    #[test]
    fn a_code_is_bound_to_what_it_was_issued_for() {
        let mock = Mock::new();
        let other_verifier = "x".repeat(43);
        for (change, expected) in [
            (
                ("redirect_uri", "http://localhost:8080/auth/demo/"),
                invalid_grant(),
            ),
            (("redirect_uri", ""), invalid_grant()),
            (("code_verifier", &other_verifier[..]), invalid_grant()),
            (("code_verifier", "too-short"), invalid_grant()),
            (("client_id", "another"), (401, "invalid_client".to_owned())),
        ] {
            let code = mock.code(&[("user", "ada")]);
            assert_eq!(
                refused(&mock.redeem_with(&code, &[change])),
                expected,
                "{change:?}"
            );
            assert_eq!(
                refused(&mock.redeem(&code)),
                invalid_grant(),
                "a failed try spends the code: {change:?}"
            );
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
        let json = Request::post("/mock/token")
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from("{}"));
        assert_eq!(
            refused(&mock.provider.handle(json.unwrap())),
            (400, "invalid_request".to_owned())
        );
        assert_eq!(
            mock.redeem(&code).status(),
            StatusCode::OK,
            "none of them was about this code"
        );
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
            .header(
                CONTENT_TYPE,
                "application/x-www-form-urlencoded; charset=UTF-8",
            )
            .header(
                AUTHORIZATION,
                format!("Basic {}", STANDARD.encode("my+app%3A1:any secret")),
            );
        assert_eq!(
            mock.provider
                .handle(request.body(form.into()).unwrap())
                .status(),
            StatusCode::OK
        );
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
        assert_eq!(
            refused(&mock.refresh(text(&first["refresh_token"]))),
            invalid_grant()
        );
        assert_eq!(
            refused(&mock.refresh(text(&second["refresh_token"]))),
            invalid_grant(),
            "the successor died too"
        );
        assert_eq!(
            mock.userinfo(text(&second["access_token"])).status(),
            StatusCode::UNAUTHORIZED
        );
        assert_eq!(
            mock.refresh(text(&other["refresh_token"])).status(),
            StatusCode::OK,
            "another login lives on"
        );
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
        assert_eq!(
            refused(&mock.post("/mock/token", &form)),
            (401, "invalid_client".to_owned())
        );
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
        assert_eq!(
            expired.headers()[WWW_AUTHENTICATE],
            r#"Bearer realm="mock", error="invalid_token""#
        );
        for token in [
            text(&tokens["id_token"]),
            text(&tokens["refresh_token"]),
            "nonsense",
            "",
        ] {
            assert_eq!(mock.userinfo(token).status(), StatusCode::UNAUTHORIZED);
        }
        let absent = mock.get("/mock/userinfo");
        assert_eq!(absent.headers()[WWW_AUTHENTICATE], r#"Bearer realm="mock""#);
    }

    #[test]
    fn authorization_errors_can_be_rehearsed() {
        let mock = Mock::new();
        for code in [
            "access_denied",
            "invalid_scope",
            "server_error",
            "temporarily_unavailable",
        ] {
            let answer = callback(&mock.authorize(&[("mock_error", code)]));
            assert_eq!(answer["error"], code);
            assert_eq!(answer["state"], "a state&more");
        }
        let unknown = callback(&mock.authorize(&[("mock_error", "no_such_code"), ("user", "ada")]));
        assert!(
            unknown.get("code").is_some(),
            "a value that names no error changes nothing"
        );
    }

    #[test]
    fn token_errors_can_be_rehearsed() {
        let mock = Mock::new();
        for (value, status, error) in [
            ("invalid_grant", 400, "invalid_grant"),
            ("invalid_client", 401, "invalid_client"),
            ("token:server_error", 500, "server_error"),
            (
                "token:temporarily_unavailable",
                503,
                "temporarily_unavailable",
            ),
        ] {
            let response = mock.redeem(&mock.code(&[("user", "ada"), ("mock_error", value)]));
            assert_eq!(refused(&response), (status, error.to_owned()), "{value}");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), status == 503);
        }
    }

    #[test]
    fn refresh_errors_can_be_rehearsed() {
        let mock = Mock::new();
        let down = mock.sign_in(&[
            ("user", "ada"),
            ("mock_error", "refresh:temporarily_unavailable"),
        ]);
        for _ in 0..2 {
            assert_eq!(
                mock.refresh(text(&down["refresh_token"])).status(),
                StatusCode::SERVICE_UNAVAILABLE
            );
        }
        let eve = mock.sign_in(&[("user", "eve")]);
        assert_eq!(
            refused(&mock.refresh(text(&eve["refresh_token"]))),
            invalid_grant()
        );
    }

    #[test]
    fn revoking_either_token_ends_the_family() {
        for which in ["access_token", "refresh_token"] {
            let mock = Mock::new();
            let tokens = mock.sign_in(&[("user", "ada")]);
            let foreign = [("token", text(&tokens[which])), ("client_id", "another")];
            assert_eq!(mock.post("/mock/revoke", &foreign).status(), StatusCode::OK);
            assert_eq!(
                mock.userinfo(text(&tokens["access_token"])).status(),
                StatusCode::OK,
                "not its token"
            );

            let own = [("token", text(&tokens[which])), ("client_id", "gateway")];
            assert_eq!(mock.post("/mock/revoke", &own).status(), StatusCode::OK);
            assert_eq!(
                mock.userinfo(text(&tokens["access_token"])).status(),
                StatusCode::UNAUTHORIZED
            );
            assert_eq!(
                refused(&mock.refresh(text(&tokens["refresh_token"]))),
                invalid_grant()
            );
            assert_eq!(
                mock.post("/mock/revoke", &own).status(),
                StatusCode::OK,
                "idempotent"
            );
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
        assert_eq!(
            response.headers()[LOCATION],
            "http://localhost:8080/bye?state=s"
        );
        assert_eq!(
            refused(&mock.refresh(text(&tokens["refresh_token"]))),
            invalid_grant()
        );

        assert_eq!(mock.get("/mock/logout").status(), StatusCode::OK);
        let elsewhere = mock.get("/mock/logout?post_logout_redirect_uri=https://evil.example/");
        assert_eq!(elsewhere.status(), StatusCode::BAD_REQUEST);
        assert_eq!(
            mock.get("/mock/logout?id_token_hint=forged").status(),
            StatusCode::BAD_REQUEST
        );
    }
}
