//! Backends that sign users in themselves, with JSON calls of their own (`kind = "backend"`): where their endpoints are, what they
//! are sent, and what their answers mean.
//!
//! The access token goes along as bearer, credentials and the refresh token in a JSON body; the refresh token in a header, where
//! the table says so. Of an answer only what the table names is believed to be a token.

use super::http::{self, HttpError};
use super::token_endpoint::lifetime;
use super::{HttpClient, ProviderError, RefreshError, Renewed, SignedIn, TokenResponse, json};
use crate::clock::{Clock, Now};
use ::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use std::time::Duration;
use url::Url;

/// The table of a `kind = "backend"` provider: a preset, with every cell that the table overrides.
#[derive(Debug, Clone)]
pub struct BackendSettings {
    /// `base_url`.
    pub base_url: Url,
    /// `login`.
    pub login: Call,
    /// `login.fields`: what the two credentials are called in the login's JSON.
    pub fields: Fields,
    /// `refresh`; none: tokens live as long as they live.
    pub refresh: Option<RefreshCall>,
    /// `logout`.
    pub logout: Option<Call>,
    /// `user`: whom an access token belongs to.
    pub user: Option<UserCall>,
    /// `user.sub`: where the subject stands in what is known of the user; none: `id`, then `sub`.
    pub subject: Option<String>,
    /// `token_property`: JSON path of the access token in the answers of login and refresh.
    pub token_property: String,
    /// `refresh_token_property`: JSON path of the refresh token there.
    pub refresh_token_property: String,
    /// `access_ttl`: a token's life when neither its answer nor itself says.
    pub access_ttl: Option<Duration>,
}

/// One endpoint of a backend.
#[derive(Debug, Clone)]
pub struct Call {
    /// `method`.
    pub method: Method,
    /// `url`, resolved against `base_url`.
    pub url: Url,
    /// `headers`, sent along; values are marked sensitive.
    pub headers: HeaderMap,
}

/// `login.fields`.
#[derive(Debug, Clone)]
pub struct Fields {
    /// Default `username`.
    pub username: String,
    /// Default `password`.
    pub password: String,
}

/// `refresh`.
#[derive(Debug, Clone)]
pub struct RefreshCall {
    /// Where.
    pub call: Call,
    /// `token_in`.
    pub token_in: TokenIn,
    /// `token_name`: the member of the JSON body, or the header, that the refresh token stands in.
    pub token_name: String,
}

/// `refresh.token_in`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenIn {
    /// A JSON body with one member.
    Body,
    /// A header, `<token_name>: Bearer <refresh token>`, and no body.
    Header,
}

/// `user`.
#[derive(Debug, Clone)]
pub struct UserCall {
    /// Where; the access token goes along as bearer.
    pub call: Call,
    /// `property`: JSON path of the user in the answer; none: all of it.
    pub property: Option<String>,
}

/// What a person typed into a login form.
pub struct Credentials {
    /// The account.
    pub username: String,
    /// Wiped on drop.
    pub password: SecretString,
}

/// A backend as a provider.
pub(super) struct Backend {
    pub(super) settings: BackendSettings,
    pub(super) http: HttpClient,
    pub(super) clock: Clock,
    pub(super) timeout: Duration,
}

impl BackendSettings {
    /// What an answer says, if it is a JSON object that no two readers can understand differently.
    #[must_use]
    pub fn read_object(answer: &[u8]) -> Option<Map<String, Value>> {
        json::object(answer)
    }

    /// An answer to a refresh, as this backend would give it: what [`BackendSettings::tokens`] reads.
    #[must_use]
    pub fn refresh_answer(&self, access_token: &str, refresh_token: Option<&str>, life: Option<Duration>) -> Value {
        let mut answer = Map::new();
        json::put_at_path(&mut answer, &self.token_property, access_token.into());
        if let Some(token) = refresh_token {
            json::put_at_path(&mut answer, &self.refresh_token_property, token.into());
        }
        if let Some(life) = life {
            let beside = self.token_property.rsplit_once('.').map_or(String::new(), |(object, _)| format!("{object}."));
            json::put_at_path(&mut answer, &format!("{beside}expires_in"), life.as_secs().into());
        }
        Value::Object(answer)
    }

    /// The tokens in an answer to a login or refresh; None when there is no access token at `token_property`. Their life is what
    /// stands beside the access token, else what it says itself (a JWT with `iat` and `exp`, which nobody verifies here).
    #[must_use]
    pub fn tokens(&self, answer: &Value) -> Option<TokenResponse> {
        let members = answer.as_object()?;
        let token = |path: &str| {
            let token = json::at_path(members, path)?.as_str()?;
            is_token(token).then(|| SecretString::from(token))
        };
        let access_token = token(&self.token_property)?;
        let beside = json::around(members, &self.token_property).unwrap_or(members);
        let told = LIFE_MEMBERS.iter().find_map(|name| lifetime(beside.get(*name)?));
        let expires_in = told.or_else(|| {
            let claims = unverified_claims(access_token.expose_secret())?;
            life_until(&claims, claims.get("iat").and_then(Value::as_u64)?)
        });
        let refresh_token = token(&self.refresh_token_property);
        Some(TokenResponse { access_token, expires_in, refresh_token, id_token: None, scope: None })
    }

    /// What identities of this backend are known by: the origin of `base_url`.
    #[must_use]
    pub fn issuer(&self) -> String {
        self.base_url.origin().ascii_serialization()
    }
}

impl Backend {
    /// Signs in with what a person typed.
    ///
    /// # Errors
    /// [`ProviderError::Refused`] for wrong credentials, and as [`Backend::identify`].
    pub(super) async fn log_in(&self, credentials: &Credentials) -> Result<SignedIn, ProviderError> {
        let Fields { username, password } = &self.settings.fields;
        let body = [
            (username.clone(), credentials.username.as_str().into()),
            (password.clone(), credentials.password.expose_secret().into()),
        ];
        let request = request(&self.settings.login, None, Some(body.into_iter().collect()))?;
        let answer = read(&self.http.send(request, self.timeout).await?, self.clock.now())?;
        let Some(tokens) = self.settings.tokens(&answer) else {
            return Err(self.without_token(&answer));
        };
        let Value::Object(answer) = answer else {
            return Err(ProviderError::Invalid { reason: "login_not_an_object" });
        };
        self.identify(tokens, &answer, Some(&credentials.username)).await
    }

    /// Who `tokens` belong to, found in `answer`, the login's, or asked of the backend. `username` is what the login was made with.
    ///
    /// # Errors
    /// The backend does not say who it is, or the user endpoint does not answer.
    pub(super) async fn identify(
        &self,
        tokens: TokenResponse,
        answer: &Map<String, Value>,
        username: Option<&str>,
    ) -> Result<SignedIn, ProviderError> {
        let tokens = self.complete(tokens);
        let user = match &self.settings.user {
            Some(call) => self.user(call, &tokens.access_token).await?,
            None => user_within(answer).clone(),
        };
        let subject = self
            .subject(&user)
            .or_else(|| json::text(&unverified_claims(tokens.access_token.expose_secret())?, "sub").map(str::to_owned))
            .or_else(|| username.map(str::to_owned))
            .ok_or(ProviderError::Invalid { reason: "user_without_subject" })?;
        let claims = claims(user, &tokens, &subject);
        Ok(SignedIn { issuer: self.settings.issuer(), subject, sid: None, claims, tokens })
    }

    /// The call that exchanges a refresh token.
    pub(super) fn refresh_request(&self, refresh_token: &SecretString) -> Result<Request<Bytes>, HttpError> {
        let Some(RefreshCall { call, token_in, token_name }) = &self.settings.refresh else {
            return Err(HttpError::Unsendable);
        };
        match token_in {
            TokenIn::Body => request(call, None, Some(member(token_name, refresh_token))),
            TokenIn::Header => {
                let name = HeaderName::try_from(token_name).map_err(|_| HttpError::Unsendable)?;
                request(call, Some((name, refresh_token)), None)
            }
        }
    }

    /// The tokens in the answer to [`Backend::refresh_request`].
    pub(super) fn read_refresh(&self, answer: &Response<Bytes>) -> Result<TokenResponse, ProviderError> {
        let answer = read(answer, self.clock.now())?;
        self.settings.tokens(&answer).map(|tokens| self.complete(tokens)).ok_or_else(|| self.without_token(&answer))
    }

    /// What a refresh brought: the tokens, and the user's claims once more where the login had them from the user endpoint, unless
    /// they do not come `within` a short time. Nobody is signed out over a name.
    ///
    /// # Errors
    /// [`RefreshError::OtherSubject`].
    pub(super) async fn check_renewal(
        &self,
        tokens: TokenResponse,
        subject: &str,
        within: Duration,
    ) -> Result<Renewed, RefreshError> {
        let unchanged = |tokens| Ok(Renewed { tokens, claims: None, replaces_all: false });
        let Some(call) = &self.settings.user else { return unchanged(tokens) };
        let reason = match tokio::time::timeout(within, self.user(call, &tokens.access_token)).await {
            Ok(Ok(user)) if self.subject(&user).is_some_and(|said| said != subject) => {
                return Err(RefreshError::OtherSubject);
            }
            Ok(Ok(user)) => {
                let claims = Some(claims(user, &tokens, subject));
                return Ok(Renewed { tokens, claims, replaces_all: true });
            }
            Ok(Err(error)) => error.reason(),
            Err(_) => "user_slow",
        };
        tracing::warn!(backend = %self.settings.issuer(), reason, "refreshed without asking again who the user is");
        unchanged(tokens)
    }

    /// Signs out at the backend: the access token as bearer, and the refresh token where a refresh sends it in a body, unless the
    /// method is one whose body means nothing (RFC 9110 §9.3.5). Nothing happens at a backend without the endpoint.
    pub(super) async fn log_out(
        &self,
        access_token: &SecretString,
        refresh_token: Option<&SecretString>,
    ) -> Result<(), ProviderError> {
        let Some(call) = &self.settings.logout else { return Ok(()) };
        let body = match (&self.settings.refresh, refresh_token) {
            (Some(RefreshCall { token_in: TokenIn::Body, token_name, .. }), Some(token))
                if takes_body(&call.method) =>
            {
                Some(member(token_name, token))
            }
            _ => None,
        };
        let request = request(call, Some((AUTHORIZATION, access_token)), body)?;
        let answer = self.http.send(request, self.timeout).await?;
        if answer.status().is_success() { Ok(()) } else { Err(refusal(&answer, self.clock.now())) }
    }

    async fn user(&self, user: &UserCall, access_token: &SecretString) -> Result<Map<String, Value>, ProviderError> {
        let request = request(&user.call, Some((AUTHORIZATION, access_token)), None)?;
        let answer = self.http.send(request, self.timeout).await?;
        if !answer.status().is_success() {
            return Err(match refusal(&answer, self.clock.now()) {
                // The credentials were right, so this is not about them.
                ProviderError::Refused { .. } => ProviderError::Invalid { reason: "user_refused" },
                error => error,
            });
        }
        let body = json::object(answer.body()).ok_or(ProviderError::Invalid { reason: "user_not_json" })?;
        match &user.property {
            None => Ok(body),
            Some(path) => {
                let user = json::at_path(&body, path).and_then(Value::as_object);
                user.cloned().ok_or(ProviderError::Invalid { reason: "user_property_missing" })
            }
        }
    }

    fn subject(&self, user: &Map<String, Value>) -> Option<String> {
        match &self.settings.subject {
            Some(path) => json::at_path(user, path).and_then(json::identifier),
            None => ["id", "sub"].iter().find_map(|name| json::identifier(user.get(*name)?)),
        }
    }

    /// What does not follow from the answer alone: a life, if nothing else says one, and whether a refresh token is of any use.
    fn complete(&self, tokens: TokenResponse) -> TokenResponse {
        let now = self.clock.now().unix;
        let says_itself = || life_until(&unverified_claims(tokens.access_token.expose_secret())?, now);
        TokenResponse {
            expires_in: tokens.expires_in.or_else(says_itself).or(self.settings.access_ttl),
            refresh_token: tokens.refresh_token.filter(|_| self.settings.refresh.is_some()),
            ..tokens
        }
    }

    /// A success that is none: some backends say so with `error`, all others have their token elsewhere.
    fn without_token(&self, answer: &Value) -> ProviderError {
        if answer.get("error").is_some() {
            return ProviderError::Refused { reason: "error_in_answer" };
        }
        tracing::warn!(
            backend = %self.settings.issuer(),
            token_property = self.settings.token_property,
            "a backend's answer has no token that could be used at token_property"
        );
        ProviderError::Refused { reason: "no_access_token" }
    }
}

/// What an answer to a login or refresh means; the first row that fits counts. It is that of
/// [`token_endpoint::read`](super::token_endpoint::read), without the codes of OAuth.
///
/// | status | body | outcome |
/// |---|---|---|
/// | 2xx | JSON | to be searched for tokens; without them refused |
/// | 2xx | anything else: somebody else answered | unavailable |
/// | 429 | any | unavailable, `Retry-After` |
/// | 4xx | any | refused |
/// | any other, redirects included | any | unavailable, `Retry-After` |
fn read(answer: &Response<Bytes>, now: Now) -> Result<Value, ProviderError> {
    if !answer.status().is_success() {
        return Err(refusal(answer, now));
    }
    let not_json =
        ProviderError::Unavailable { reason: "answer_not_json", retry_after: http::retry_after(answer, now) };
    json::object(answer.body()).map(Value::Object).ok_or(not_json)
}

fn refusal(answer: &Response<Bytes>, now: Now) -> ProviderError {
    let unavailable = |reason| ProviderError::Unavailable { reason, retry_after: http::retry_after(answer, now) };
    match answer.status() {
        StatusCode::TOO_MANY_REQUESTS => unavailable("too_many_requests"),
        status if status.is_client_error() => ProviderError::Refused { reason: "client_error_status" },
        status if status.is_redirection() => unavailable("redirect"),
        _ => unavailable("server_error_status"),
    }
}

/// A call with what the table sends along, a bearer token in one header, and a body.
fn request(
    call: &Call,
    bearer: Option<(HeaderName, &SecretString)>,
    body: Option<Map<String, Value>>,
) -> Result<Request<Bytes>, HttpError> {
    let mut request = http::get(&call.url, None)?;
    *request.method_mut() = call.method.clone();
    let headers = request.headers_mut();
    headers.insert(ACCEPT, JSON);
    if body.is_some() {
        headers.insert(CONTENT_TYPE, JSON);
    }
    for (name, value) in &call.headers {
        headers.insert(name, value.clone());
    }
    if let Some((name, token)) = bearer {
        let value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()));
        let mut value = value.map_err(|_| HttpError::Unsendable)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    if let Some(body) = body {
        *request.body_mut() = Bytes::from(Value::Object(body).to_string());
    }
    Ok(request)
}

fn member(name: &str, token: &SecretString) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), token.expose_secret().into())])
}

/// Whether a body means something to whoever takes this method.
pub(crate) fn takes_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Fit for a header, and for nothing to end it early (RFC 6750 §2.1 takes less).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Where a login's answer says who the user is, when no endpoint does.
fn user_within(answer: &Map<String, Value>) -> &Map<String, Value> {
    USER_MEMBERS.iter().find_map(|name| answer.get(*name)?.as_object()).unwrap_or(answer)
}

/// What is known of the user, without what must not be told: members that are called like tokens, or are some.
fn claims(mut user: Map<String, Value>, tokens: &TokenResponse, subject: &str) -> Map<String, Value> {
    let refresh_token = tokens.refresh_token.as_ref().map(ExposeSecret::expose_secret);
    let known: Vec<&str> = [Some(tokens.access_token.expose_secret()), refresh_token].into_iter().flatten().collect();
    remove_tokens(&mut user, &known);
    user.entry("sub").or_insert_with(|| subject.into());
    user
}

/// Whether a member of this name is a token, as backends call theirs.
pub(crate) fn is_name_of_token(name: &str) -> bool {
    TOKEN_MEMBERS.contains(&plain_name(name).as_str())
}

/// Whether a member of this name is a refresh token.
pub(crate) fn is_name_of_refresh_token(name: &str) -> bool {
    plain_name(name) == "refreshtoken"
}

/// The same for all spellings: `access_token`, `accessToken`, `Access-Token`.
fn plain_name(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

fn remove_tokens(members: &mut Map<String, Value>, known: &[&str]) {
    members.retain(|name, value| {
        let is_secret = is_name_of_token(name) || SECRET_MEMBERS.contains(&plain_name(name).as_str());
        !is_secret && !is_one_of(value, known)
    });
    members.values_mut().for_each(|value| remove_tokens_within(value, known));
}

fn remove_tokens_within(value: &mut Value, known: &[&str]) {
    match value {
        Value::Object(members) => remove_tokens(members, known),
        Value::Array(items) => {
            items.retain(|item| !is_one_of(item, known));
            items.iter_mut().for_each(|item| remove_tokens_within(item, known));
        }
        _ => {}
    }
}

/// A text with a token in it that was given out, or that ends with another JWT.
fn is_one_of(value: &Value, known: &[&str]) -> bool {
    value.as_str().is_some_and(|text| {
        known.iter().any(|token| text == *token || token.len() >= UNLIKELY_WORD && text.contains(token))
            || text.split_whitespace().last().is_some_and(|word| unverified_claims(word).is_some())
    })
}

/// What a JWT says. Nothing is decided by it but how long it lives and whose it is, and that by those who gave it to us.
fn unverified_claims(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_, claims, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
    json::object(&URL_SAFE_NO_PAD.decode(claims).ok()?)
}

/// `exp`, counted from `start` (RFC 7519 §4.1.4). A token that is over already lives for no time that could be told.
fn life_until(claims: &Map<String, Value>, start: u64) -> Option<Duration> {
    let end = claims.get("exp")?.as_u64()?;
    lifetime(&end.checked_sub(start)?.into())
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const LIFE_MEMBERS: [&str; 2] = ["expires_in", "expiresIn"];
const USER_MEMBERS: [&str; 3] = ["user", "userData", "data"];
const TOKEN_MEMBERS: [&str; 8] =
    ["token", "accesstoken", "refreshtoken", "idtoken", "authtoken", "bearertoken", "jwt", "jwttoken"];
/// Further ones. `expires_in` and its kin belong to a token, not to a person.
const SECRET_MEMBERS: [&str; 5] = ["apitoken", "remembertoken", "password", "expiresin", "tokentype"];
/// So many characters in a row are no word that a name has in common with a token.
const UNLIKELY_WORD: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(token_property: &str, refresh_token_property: &str) -> BackendSettings {
        let url = Url::parse("http://backend.test/api").unwrap();
        BackendSettings {
            login: Call { method: Method::POST, url: url.clone(), headers: HeaderMap::new() },
            base_url: url,
            fields: Fields { username: "username".to_owned(), password: "password".to_owned() },
            refresh: None,
            logout: None,
            user: None,
            subject: None,
            token_property: token_property.to_owned(),
            refresh_token_property: refresh_token_property.to_owned(),
            access_ttl: None,
        }
    }

    fn jwt(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    // N-22, TN-35
    #[test]
    fn tokens_stand_where_the_table_says_and_nowhere_else() {
        for (token, refresh_token, answer, expected) in [
            ("token", "refresh_token", json!({ "token": "a", "refresh_token": "r" }), Some(("a", Some("r")))),
            ("token", "refresh_token", json!({ "access_token": "a" }), None),
            ("data.token", "data.rt", json!({ "data": { "token": "a", "rt": "r" } }), Some(("a", Some("r")))),
            ("data.token", "rt", json!({ "data.token": "a", "data": { "token": "b" } }), Some(("a", None))),
            ("t[1].v", "t[0].v", json!({ "t": [{ "v": "r" }, { "v": "a" }] }), Some(("a", Some("r")))),
            ("token", "rt", json!({ "token": "a", "rt": "r\r\nX: 1" }), Some(("a", None))),
            ("token", "rt", json!({ "token": "a b" }), None),
            ("token", "rt", json!({ "token": "" }), None),
            ("token", "rt", json!({ "token": 7 }), None),
            ("token", "rt", json!({ "token": null }), None),
            ("token", "rt", json!(["a"]), None),
        ] {
            let tokens = settings(token, refresh_token).tokens(&answer);
            let found = tokens.as_ref().map(|tokens| {
                let refresh_token = tokens.refresh_token.as_ref().map(ExposeSecret::expose_secret);
                (tokens.access_token.expose_secret(), refresh_token)
            });
            assert_eq!(found, expected, "{token} in {answer}");
        }
    }

    // N-24
    #[test]
    fn a_life_is_told_beside_the_token_or_in_it() {
        let told = jwt(&json!({ "iat": 1000, "exp": 1300 }));
        for (answer, seconds) in [
            (json!({ "d": { "token": "a", "expires_in": 60 }, "expires_in": 5 }), Some(60)),
            (json!({ "d": { "token": "a", "expiresIn": "60" } }), Some(60)),
            (json!({ "d": { "token": told, "expires_in": 60 } }), Some(60)),
            (json!({ "d": { "token": told } }), Some(300)),
            (json!({ "d": { "token": told, "expires_in": 0 } }), Some(300)),
            (json!({ "d": { "token": "a" }, "expires_in": 5 }), None),
            (json!({ "d": { "token": jwt(&json!({ "exp": 1300 })) } }), None),
            (json!({ "d": { "token": jwt(&json!({ "iat": 1300, "exp": 1000 })) } }), None),
            (json!({ "d": { "token": "not.base64!.jwt" } }), None),
        ] {
            let tokens = settings("d.token", "d.rt").tokens(&answer).unwrap();
            assert_eq!(tokens.expires_in.map(|life| life.as_secs()), seconds, "{answer}");
        }
    }

    #[test]
    fn what_is_told_of_a_user_has_no_token_in_it() {
        let other = jwt(&json!({ "sub": "ada" }));
        let user = json!({
            "id": 1, "name": "Ada at-1", "email": "ada@corp.test", "token": "x", "accessToken": "x", "refresh-token": "x",
            "avatar": "https://cdn.test/1?t=access-token-1", "session": { "id": "refresh-token-1", "jwt": other, "since": 5 },
            "devices": ["phone", "access-token-1", { "password": "x", "kind": "tablet" }], "auth": format!("Bearer {other}"),
        });
        let tokens = TokenResponse {
            access_token: "access-token-1".into(),
            expires_in: None,
            refresh_token: Some("refresh-token-1".into()),
            id_token: None,
            scope: None,
        };
        let expected = json!({
            "id": 1, "name": "Ada at-1", "email": "ada@corp.test", "session": { "since": 5 },
            "devices": ["phone", { "kind": "tablet" }], "sub": "1",
        });
        let claims = claims(user.as_object().unwrap().clone(), &tokens, "1");
        assert_eq!(Value::Object(claims), expected);
    }

    #[test]
    fn every_answer_has_its_meaning() {
        let outcome = |status: u16, body: &'static str| {
            let answer = Response::builder().status(status).body(Bytes::from(body)).unwrap();
            match read(&answer, Clock::system().now()) {
                Ok(_) => "read".to_owned(),
                Err(ProviderError::Refused { reason }) => format!("refused {reason}"),
                Err(ProviderError::Unavailable { reason, .. }) => format!("unavailable {reason}"),
                Err(error) => error.to_string(),
            }
        };
        for (status, body, expected) in [
            (200, r#"{"token":"a"}"#, "read"),
            (201, "{}", "read"),
            (200, "<html>", "unavailable answer_not_json"),
            (204, "", "unavailable answer_not_json"),
            (200, r#"{"token":"a","token":"b"}"#, "unavailable answer_not_json"),
            (302, r#"{"token":"a"}"#, "unavailable redirect"),
            (400, "<html>", "refused client_error_status"),
            (401, r#"{"token":"a"}"#, "refused client_error_status"),
            (422, "", "refused client_error_status"),
            (429, "", "unavailable too_many_requests"),
            (500, r#"{"token":"a"}"#, "unavailable server_error_status"),
        ] {
            assert_eq!(outcome(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn headers_of_the_table_go_along_and_never_in_place_of_the_token() {
        let headers = [("accept", "text/plain"), ("x-tenant", "acme"), ("authorization", "Basic eDp5")];
        let headers = headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let call = Call { headers: headers.into_iter().collect(), ..settings("a", "b").login };
        let token = SecretString::from("a");
        let request = request(&call, Some((AUTHORIZATION, &token)), Some(member("token", &token))).unwrap();
        let sent = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((sent("accept"), sent("x-tenant")), (Some("text/plain"), Some("acme")));
        assert_eq!((sent("authorization"), sent("content-type")), (Some("Bearer a"), Some("application/json")));
        assert!(request.headers()["authorization"].is_sensitive());
        assert_eq!(request.body(), r#"{"token":"a"}"#);
    }
}
