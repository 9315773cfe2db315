//! The gateway's own endpoints (SPEC §6): what path is which, who may call it how, and the answers.
//!
//! They are routes like any other, so every request has been through intake and authentication.

mod access_token;
mod app_calls;
mod backchannel;
mod callback;
pub mod code_flow;
mod credentials;
mod frontchannel;
pub mod impersonation;
mod jwks;
mod login;
mod logout;
mod me;
mod mock;
mod opening;
mod refresh;
mod session;
mod update_claims;

pub use self::app_calls::Granted;
pub use self::credentials::LoginAttempts;

use crate::attempts::Attempts;
use crate::background::Background;
use crate::body::Body;
use crate::clock::Clock;
use crate::facts::Facts;
use crate::policy::csrf::{self, Source};
use crate::policy::return_to::{self, ReturnTo};
use crate::policy::route::{HostPattern, PathPattern, PatternProblem, RoutePattern};
use crate::provider::mock::MockProvider;
use crate::provider::{Provider, ProviderError};
use crate::reply::{self, Asker, Refusal};
use crate::session::cookie::Cookies;
use crate::session::own_token::OwnTokens;
use crate::session::seal::Sealer;
use crate::session::{Session, Sessions, TokenSet};
use crate::tokens::Tokens;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use impersonation::Impersonators;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::{Url, form_urlencoded};

/// `[login]`, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `prefix`, default `/auth`; no trailing slash.
    pub prefix: String,
    /// `after_login`, default `/`.
    pub after_login: String,
    /// `after_logout`, default `/`.
    pub after_logout: String,
    /// `user_path`, default `/api/user/me`.
    pub user_path: String,
    /// `allowed_return_origins`: ASCII-serialised origins besides the external one.
    pub allowed_return_origins: Vec<String>,
    /// `expose_access_token`, default false: whether the front end may have the provider's token.
    pub expose_access_token: bool,
    /// `return_to_page`, default true; false always ends at `after_login`.
    pub return_to_page: bool,
    /// `flow`, default cookie: what a login gives that begins at `{prefix}/{provider}`.
    pub flow: code_flow::Flow,
    /// `brand` and `theme`.
    pub look: Look,
}

/// How the pages of a login look.
#[derive(Debug, Clone)]
pub struct Look {
    /// `brand`, default the gateway's name: whose login this is.
    pub brand: String,
    /// `theme`, as CSS declarations of custom properties: `--accent: #0066cc;`.
    pub theme: String,
}

/// One of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `{prefix}/login`
    Login,
    /// `{prefix}/{provider}`: starts a login, and takes the provider's answer.
    Provider(Arc<str>),
    /// `{prefix}/{provider}` of a backend: a form, and the credentials that are posted there.
    Credentials(Arc<str>),
    /// `{prefix}/callback`, the page of the CODE flow
    Callback,
    /// `{prefix}/token`
    Token,
    /// `{prefix}/impersonate`
    Impersonate,
    /// `{prefix}/unimpersonate`
    Unimpersonate,
    /// `{prefix}/logout`
    Logout,
    /// `{prefix}/backchannel-logout`
    BackchannelLogout,
    /// `{prefix}/frontchannel-logout`
    FrontchannelLogout,
    /// `{prefix}/me` and `login.user_path`
    Me,
    /// `{prefix}/refresh`
    Refresh,
    /// `{prefix}/access-token`, when `login.expose_access_token`
    AccessToken,
    /// `{prefix}/session`
    Session,
    /// The refresh of this backend, where its path is below the prefix.
    BackendRefresh(Arc<str>, Method),
    /// The logout of a backend, likewise.
    BackendLogout(Method),
    /// `{prefix}/update-claims`
    UpdateClaims,
    /// [`JWKS_PATH`]
    Jwks,
    /// `{prefix}/latchgate.js`
    Script,
    /// `/mock/*` and `{prefix}/mock/*`, while there is a mock provider
    Mock,
    /// Everything else under the prefix: never forwarded.
    Nothing,
}

/// A request to one of ours.
pub struct Asked<'a> {
    /// What is true of it.
    pub facts: &'a Facts,
    /// Its `Cookie` lines, ours among them.
    pub cookies: &'a [HeaderValue],
    /// Who is asking.
    pub session: Option<Arc<Session>>,
    /// The other headers.
    pub headers: HeaderMap,
}

impl Asked<'_> {
    fn asker(&self) -> Asker<'_> {
        Asker { id: &self.facts.id, client: self.facts.client }
    }

    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        reply::refuse(self.asker(), refusal)
    }

    /// The first value of a query parameter.
    fn parameter(&self, name: &str) -> Option<String> {
        self.parameters().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn parameters(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(self.facts.path.query().unwrap_or_default().as_bytes()).into_owned().collect()
    }
}

/// What the endpoints work with.
pub struct Endpoints {
    /// `[login]`.
    pub settings: Settings,
    /// What browsers see.
    pub external_url: Url,
    /// In file order.
    pub providers: Vec<Arc<Provider>>,
    /// The built-in one, if it is configured.
    pub mock: Option<Arc<MockProvider>>,
    /// Names of our cookies.
    pub cookies: Cookies,
    /// Who is signed in.
    pub sessions: Sessions,
    /// Their tokens.
    pub tokens: Arc<Tokens>,
    /// For clients that want a token instead of a cookie.
    pub own_tokens: Arc<OwnTokens>,
    /// What the CODE flow goes by.
    pub code_flow: code_flow::Settings,
    /// Who may act as others.
    pub impersonators: Impersonators,
    /// Guesses at codes, by client.
    pub code_attempts: Attempts,
    /// For the records of logins under way.
    pub sealer: Arc<Sealer>,
    /// For the logouts that providers send: anybody may, so few are looked at at once.
    pub logout_turns: Arc<Semaphore>,
    /// Guesses at passwords.
    pub login_attempts: Arc<LoginAttempts>,
    /// Code exchanges and revocations end whoever hangs up.
    pub background: Background,
    /// The time.
    pub clock: Clock,
}

impl Endpoints {
    /// Every path that is ours, most specific or not; hosts and methods make no difference.
    ///
    /// # Errors
    /// When the prefix or `user_path` is no path; configuration has made sure that they are.
    pub fn patterns(&self) -> Result<Vec<(RoutePattern, Endpoint)>, PatternProblem> {
        let prefix = &self.settings.prefix;
        let mut paths = vec![
            (format!("{prefix}/login"), Endpoint::Login),
            (format!("{prefix}/callback"), Endpoint::Callback),
            (format!("{prefix}/token"), Endpoint::Token),
            (format!("{prefix}/impersonate"), Endpoint::Impersonate),
            (format!("{prefix}/unimpersonate"), Endpoint::Unimpersonate),
            (format!("{prefix}/logout"), Endpoint::Logout),
            (format!("{prefix}/backchannel-logout"), Endpoint::BackchannelLogout),
            (format!("{prefix}/frontchannel-logout"), Endpoint::FrontchannelLogout),
            (format!("{prefix}/me"), Endpoint::Me),
            (format!("{prefix}/refresh"), Endpoint::Refresh),
            (format!("{prefix}/session"), Endpoint::Session),
            (format!("{prefix}/update-claims"), Endpoint::UpdateClaims),
            (format!("{prefix}/latchgate.js"), Endpoint::Script),
            (format!("{prefix}/*"), Endpoint::Nothing),
            (JWKS_PATH.to_owned(), Endpoint::Jwks),
        ];
        if self.settings.user_path != format!("{prefix}/me") {
            paths.push((self.settings.user_path.clone(), Endpoint::Me));
        }
        paths.extend(self.providers.iter().map(|provider| {
            let name = provider.name().into();
            let is_backend = provider.backend().is_some();
            let endpoint = if is_backend { Endpoint::Credentials(name) } else { Endpoint::Provider(name) };
            (format!("{prefix}/{}", provider.name()), endpoint)
        }));
        if self.settings.expose_access_token {
            paths.push((format!("{prefix}/access-token"), Endpoint::AccessToken));
        }
        if self.mock.is_some() {
            paths.push(("/mock/*".to_owned(), Endpoint::Mock));
            paths.push((format!("{prefix}/mock/*"), Endpoint::Mock));
        }
        self.add_paths_of_backends(&mut paths);
        paths
            .into_iter()
            .map(|(path, endpoint)| {
                let path = PathPattern::parse(&path)?;
                Ok((RoutePattern { host: HostPattern::Any, path, methods: None }, endpoint))
            })
            .collect()
    }

    /// A backend may have its refresh and logout where no route can lead, below our prefix. What we have there already goes first.
    fn add_paths_of_backends(&self, paths: &mut Vec<(String, Endpoint)>) {
        for provider in &self.providers {
            let Some(backend) = provider.backend() else { continue };
            let refresh = backend.refresh.as_ref().map(|refresh| {
                (&refresh.call, Endpoint::BackendRefresh(provider.name().into(), refresh.call.method.clone()))
            });
            let logout = backend.logout.as_ref().map(|call| (call, Endpoint::BackendLogout(call.method.clone())));
            for (call, endpoint) in refresh.into_iter().chain(logout) {
                let path = call.url.path();
                let is_below = path.strip_prefix(&self.settings.prefix).is_some_and(|rest| rest.starts_with('/'));
                // Braces and asterisks would be patterns.
                if is_below && !path.contains(['{', '}', '*']) && !paths.iter().any(|(taken, _)| taken == path) {
                    paths.push((path.to_owned(), endpoint));
                }
            }
        }
    }

    /// Whether a path, in its form for matching, can be one of [`Endpoints::patterns`] at all: a cheap
    /// look that spares all the others a search.
    #[must_use]
    pub fn may_be_ours(&self, path: &str) -> bool {
        let Settings { prefix, user_path, .. } = &self.settings;
        path.starts_with(prefix)
            || path == user_path
            || path == JWKS_PATH
            || (self.mock.is_some() && path.starts_with("/mock"))
            // Which escapes are the same is for the search to say.
            || prefix.contains('%')
            || user_path.contains('%')
    }

    /// The answer of one of ours.
    pub async fn answer(&self, endpoint: &Endpoint, asked: Asked<'_>, body: Body) -> Response<Body> {
        let methods = endpoint.methods();
        if !methods.is_empty() && !methods.contains(&asked.facts.method) {
            return asked.refuse(&Refusal::MethodNotAllowed(methods.to_vec()));
        }
        // `;params` and their escapes are ignored when routes are matched; our own paths have none.
        let is_exact = asked.facts.path.for_matching() == asked.facts.path.path();
        if *endpoint == Endpoint::Nothing || !is_exact {
            return asked.refuse(&Refusal::NotFound);
        }
        match endpoint {
            Endpoint::Login | Endpoint::Provider(_) | Endpoint::Credentials(_) if is_prefetch(&asked.headers) => {
                asked.refuse(&Refusal::Malformed("a sign-in cannot be fetched beforehand"))
            }
            Endpoint::Login => login::choose_or_start(self, &asked).await,
            Endpoint::Provider(name) => match self.provider(name) {
                Some(provider) if callback::is_one(&asked) => callback::finish(self, &asked, provider).await,
                Some(provider) => login::start(self, &asked, provider).await,
                None => asked.refuse(&Refusal::NotFound),
            },
            Endpoint::Credentials(name) => match self.provider(name) {
                Some(provider) => credentials::credentials(self, &asked, provider, body).await,
                None => asked.refuse(&Refusal::NotFound),
            },
            Endpoint::Callback => code_flow::page(self, &asked),
            Endpoint::Token => code_flow::exchange(self, &asked, body).await,
            Endpoint::Impersonate => impersonation::begin(self, &asked, body).await,
            Endpoint::Unimpersonate => impersonation::end(self, &asked).await,
            Endpoint::Logout => logout::logout(self, &asked).await,
            Endpoint::BackchannelLogout => backchannel::logout(self, &asked, body).await,
            Endpoint::FrontchannelLogout => frontchannel::logout(self, &asked).await,
            Endpoint::Me => me::me(self, &asked),
            Endpoint::Refresh => refresh::refresh(self, &asked).await,
            Endpoint::AccessToken => access_token::access_token(self, &asked).await,
            Endpoint::BackendRefresh(name, _) => match self.provider(name).and_then(|provider| provider.backend()) {
                Some(backend) => self.refresh_for_app(asked, backend).await,
                None => asked.refuse(&Refusal::NotFound),
            },
            Endpoint::BackendLogout(_) => self.log_out_for_app(asked).await,
            Endpoint::Session => session::session(self, &asked, body).await,
            Endpoint::UpdateClaims => update_claims::update_claims(self, &asked).await,
            Endpoint::Jwks => jwks::jwks(self),
            Endpoint::Script => reply::script(include_str!("../pages/latchgate.js")),
            Endpoint::Mock => mock::mock(self, &asked, body).await,
            Endpoint::Nothing => asked.refuse(&Refusal::NotFound),
        }
    }

    fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|provider| provider.name() == name)
    }

    /// Where to go after a login or logout; the default for anything that leads elsewhere.
    fn return_to(&self, wanted: Option<&str>, otherwise: &str) -> String {
        wanted
            .and_then(|wanted| ReturnTo::parse(wanted, &self.external_url, &self.settings.allowed_return_origins))
            .map_or_else(|| otherwise.to_owned(), |return_to| return_to.as_location().to_owned())
    }

    /// An unsafe request made by a page of somebody else. Clients that are no browsers say nothing
    /// of the kind, and may.
    #[must_use]
    pub fn is_foreign(&self, headers: &HeaderMap) -> bool {
        let is_own = |origin: &str| return_to::same_origin(origin, &self.external_url);
        csrf::source(headers, is_own, |_| false) == Source::Foreign
    }

    fn login_url(&self, return_to: &str) -> String {
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("return_to", return_to).finish();
        format!("{}/login?{query}", self.settings.prefix)
    }

    fn expire_session_cookies(&self, asked: &Asked<'_>, response: &mut Response<Body>) {
        for line in self.cookies.expire_session(asked.cookies) {
            response.headers_mut().append(header::SET_COOKIE, line);
        }
    }

    /// The right to act upon one of the logouts that anybody may send; None when too many wait for it.
    async fn logout_turn(&self) -> Option<OwnedSemaphorePermit> {
        timeout(TURN_WITHIN, Arc::clone(&self.logout_turns).acquire_owned()).await.ok()?.ok()
    }

    /// As after a logout, for sessions that were over by themselves: best effort, one after the other, and no more once the provider
    /// does not answer. A shutdown does not wait for it.
    pub fn revoke_over(&self, sessions: Vec<Arc<Session>>) {
        let sessions: Vec<_> = sessions
            .into_iter()
            .filter_map(|session| Some((self.provider(&session.provider)?.clone(), session)))
            .collect();
        self.background.run_forever(async move {
            for (provider, session) in sessions {
                if let Err(ProviderError::Unavailable { .. }) = revoke(&provider, &session.tokens).await {
                    return;
                }
            }
        });
    }

    /// Revokes what the session can be used with, best effort and in its own time.
    fn revoke_behind(&self, session: &Session) {
        let Some(provider) = self.provider(&session.provider).cloned() else { return };
        let tokens = Arc::clone(&session.tokens);
        self.background.run(async move { revoke(&provider, &tokens).await });
    }
}

impl Endpoint {
    /// What it takes; empty: anything.
    fn methods(&self) -> &[Method] {
        match self {
            Endpoint::Login => &[Method::GET, Method::HEAD],
            // A code is not spent on a HEAD.
            Endpoint::Provider(_) | Endpoint::Callback => &[Method::GET],
            Endpoint::Token | Endpoint::Impersonate | Endpoint::Unimpersonate => &[Method::POST],
            Endpoint::Credentials(_) => &[Method::GET, Method::HEAD, Method::POST],
            Endpoint::Logout => &[Method::GET, Method::POST],
            Endpoint::BackchannelLogout => &[Method::POST],
            Endpoint::FrontchannelLogout => &[Method::GET],
            Endpoint::Me | Endpoint::AccessToken | Endpoint::Jwks | Endpoint::Script => &[Method::GET, Method::HEAD],
            Endpoint::Refresh | Endpoint::UpdateClaims => &[Method::POST],
            Endpoint::BackendRefresh(_, method) | Endpoint::BackendLogout(method) => std::slice::from_ref(method),
            Endpoint::Session => &[Method::GET, Method::HEAD, Method::PATCH],
            Endpoint::Mock | Endpoint::Nothing => &[],
        }
    }
}

/// The refresh token, or the access token when there is none (RFC 7009).
async fn revoke(provider: &Provider, tokens: &TokenSet) -> Result<(), ProviderError> {
    let revoked = provider.revoke(&tokens.access_token, tokens.refresh_token.as_ref()).await;
    if let Err(error) = &revoked {
        tracing::info!(provider = provider.name(), reason = error.reason(), "token not revoked");
    }
    revoked
}

/// All of a body, if it comes soon and is no longer than `limit`.
async fn read_body(body: Body, limit: usize) -> Result<Bytes, Refusal> {
    let whole = timeout(BODY_WITHIN, Limited::new(body, limit).collect());
    Ok(whole.await.map_err(|_| TOO_SLOW)?.map_err(|_| Refusal::BodyTooLarge)?.to_bytes())
}

/// What a body is said to be: without parameters, in lower case.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

fn json_object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    serde_json::from_slice(body).map_err(|_| Refusal::Malformed("the body must be a JSON object"))
}

/// Fetched by the browser on a guess, not by the person.
fn is_prefetch(headers: &HeaderMap) -> bool {
    headers.contains_key("sec-purpose") || headers.get("purpose").is_some_and(|purpose| purpose == "prefetch")
}

/// `/auth/me` without a session, to the letter.
fn not_signed_in() -> Response<Body> {
    let body = json!({"statusCode": 401, "message": "Unauthorized", "error": "Unauthorized"});
    let mut response = reply::json(StatusCode::UNAUTHORIZED, &body);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// What a failure at the provider means for the one who waits.
fn provider_refusal(error: &ProviderError) -> Refusal {
    match error {
        ProviderError::Unavailable { retry_after, .. } => {
            Refusal::ProviderUnavailable { retry_after: retry_after.unwrap_or(RETRY_AFTER).as_secs() }
        }
        ProviderError::Refused { .. } => {
            Refusal::LoginInvalid("the identity provider did not accept this sign-in. Please start again")
        }
        ProviderError::Invalid { .. } | ProviderError::Misconfigured { .. } => Refusal::ProviderBroken,
    }
}

/// The public halves of the keys that the gateway signs with.
pub const JWKS_PATH: &str = "/.well-known/latchgate/jwks.json";

const TURN_WITHIN: Duration = Duration::from_secs(2);
const BODY_WITHIN: Duration = Duration::from_secs(10);
const TOO_SLOW: Refusal = Refusal::Malformed("the body did not arrive in time");
/// When a provider does not say.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long a login may take.
const LOGIN_LIFE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_not_waited_for() {
        assert_eq!(read_body(Body::boxed(Never), 1).await.unwrap_err(), TOO_SLOW);
    }

    struct Never;

    impl http_body::Body for Never {
        type Data = bytes::Bytes;
        type Error = crate::body::BodyError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
            Poll::Pending
        }
    }
}
