//! Identity providers: discovery, the code flow, ID tokens, refresh, revocation.
//!
//! Everything here runs in owned tasks on the control runtime; nothing knows of sessions or requests.
//!
//! | file | is about |
//! |---|---|
//! | `metadata` | what a provider says about itself, fetched and kept |
//! | `token_endpoint` | client authentication, and what an answer means |
//! | `verify` | signed tokens; ID tokens, in the steps of OIDC Core §3.1.3.7 |
//! | `logout_token` | logout tokens, in the steps of OIDC Back-Channel Logout §2.6 |
//! | `keys` | the keys to verify them with, fetched and kept |
//! | `userinfo` | claims the ID token does not have |
//! | `dialect` | where a provider goes its own way |
//! | `github` | the one with APIs of its own |
//! | `backend` | what speaks no OAuth: backends with a login of their own |
//! | `error` | what can go wrong, and whose fault it is |
//! | `http`, `turns`, `breaker` | the way out, whose turn it is to take it, when not to take it |
//! | `json`, `random` | reading answers, making secrets |
//!
//! Plain OAuth 2.0 providers differ in two things: their endpoints are configured, and who signed in comes from userinfo. The mock
//! provider differs in nothing but the transport ([`HttpClient::in_process`]).

pub mod backend;
mod breaker;
mod dialect;
mod error;
mod github;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod keys;
mod logout_token;
pub(crate) mod metadata;
pub mod mock;
pub(crate) mod random;
pub(crate) mod token_endpoint;
pub(crate) mod turns;
mod userinfo;
pub(crate) mod verify;

#[cfg(test)]
pub(crate) mod test_provider;
#[cfg(test)]
mod tests;

pub use self::breaker::Breaker;
pub use self::dialect::{ClaimSource, Dialect, Quirk, TENANT_PLACEHOLDER, is_guid, is_reserved_claim};
pub use self::error::{LogoutTokenError, ProviderError, RefreshError};
pub use self::http::HttpClient;
pub use self::json::is_json_path;
pub use self::logout_token::LogoutToken;
pub use self::random::{code_challenge, random_fraction, random_token};
pub use self::token_endpoint::TokenResponse;
pub use self::turns::Turn;

use self::backend::{Backend, BackendSettings, Credentials};
use self::dialect::Issuer;
use self::http::HttpError;
use self::keys::{KeyCache, KeySet};
use self::logout_token::Recipient;
use self::metadata::{Metadata, MetadataSource};
use self::token_endpoint::Client;
use self::turns::{Refresher, Turns};
use self::verify::{Expectations, Jws, Occasion, Purpose, TokenError};
use crate::clock::Clock;
use crate::fault;
use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use std::time::Duration;
use url::Url;

/// One `[providers.NAME]` table, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The table's name; it is also the path segment of the callback, `{prefix}/{name}`.
    pub name: String,
    /// What kind of provider this is and what only that kind needs.
    pub kind: Kind,
    /// `client_id`. Empty for the mock provider.
    pub client_id: String,
    /// `client_secret`; none for public clients (`client_auth = "none"`).
    pub client_secret: Option<SecretString>,
    /// How the token endpoint is told who we are (RFC 6749 §2.3).
    pub client_auth: ClientAuth,
    /// `scopes`, in the order given. Default `openid profile email offline_access`.
    pub scopes: Vec<String>,
    /// `refresh.timeout`: one whole call to the provider.
    pub timeout: Duration,
    /// `title`, else what the preset is known as; none: its name.
    pub title: Option<String>,
    /// Where it goes its own way.
    pub dialect: Dialect,
}

impl Settings {
    /// Whether this client can have tokens in its own name: only one that proves who it is may (RFC 6749 §4.4).
    #[must_use]
    pub fn grants_client_credentials(&self) -> bool {
        match &self.kind {
            Kind::Oidc { .. } | Kind::OAuth2 { .. } => self.client_auth != ClientAuth::None,
            Kind::Mock(_) => true,
            Kind::Backend(_) => false,
        }
    }
}

/// `kind` of a provider.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are a handful, built once")]
pub enum Kind {
    /// OpenID Connect with discovery at `{issuer}/.well-known/openid-configuration`.
    Oidc {
        /// Exactly as the provider writes it, trailing slash or not (Discovery §4.3: compared as a string).
        issuer: String,
    },
    /// Plain OAuth 2.0: no ID token; who signed in comes from `userinfo_endpoint`.
    OAuth2 {
        /// Where the browser goes.
        authorization_endpoint: Url,
        /// Where codes and refresh tokens are redeemed.
        token_endpoint: Url,
        /// Who signed in.
        userinfo_endpoint: Url,
        /// RFC 7009, when there is one.
        revocation_endpoint: Option<Url>,
        /// The userinfo member that names the user for good, default `sub`, then `id`.
        subject: Option<String>,
    },
    /// The built-in provider for development.
    Mock(MockSettings),
    /// A backend with a login of its own, and no OAuth.
    Backend(BackendSettings),
}

/// How a client authenticates at the token endpoint (OIDC Core §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// HTTP Basic with form-encoded id and secret (RFC 6749 §2.3.1).
    ClientSecretBasic,
    /// Id and secret in the form.
    ClientSecretPost,
    /// A public client: the id in the form, PKCE only.
    None,
}

/// The table of a `kind = "mock"` provider.
#[derive(Debug, Clone)]
pub struct MockSettings {
    /// Personas one can sign in as; each a JSON object with at least `sub`.
    pub users: Vec<Map<String, Value>>,
    /// Life of access tokens, default 60 s.
    pub access_ttl: Duration,
    /// `{external_url}/mock`.
    pub issuer: String,
}

/// One identity provider. Shared by everyone behind an `Arc`.
pub struct Provider {
    settings: Settings,
    client: Client,
    http: HttpClient,
    clock: Clock,
    metadata: MetadataSource,
    keys: KeyCache,
    logout_keys: KeyCache,
    refreshes: Breaker,
    turns: Turns,
    speaks: Protocol,
}

/// How a provider is spoken to.
enum Protocol {
    /// OAuth 2.0, with OpenID Connect or without.
    OAuth,
    /// JSON calls of its own.
    Backend(Box<Backend>),
}

/// What the browser is sent to the provider with.
pub struct AuthorizationRequest {
    /// Our callback; the same again in [`CodeRedemption`].
    pub redirect_uri: Url,
    /// Comes back with the code.
    pub state: String,
    /// Comes back in the ID token.
    pub nonce: String,
    /// [`code_challenge`] of the verifier.
    pub code_challenge: String,
    /// Further parameters, in order. Allow-listed by the caller; a name that this module sets itself is dropped. They come before
    /// [`Dialect::authorization_params`] of the same name.
    pub extra: Vec<(String, String)>,
}

/// A code that came back, and what the login it belongs to remembers.
pub struct CodeRedemption {
    /// Works once.
    pub code: SecretString,
    /// As in the [`AuthorizationRequest`].
    pub redirect_uri: Url,
    /// What the challenge was made of.
    pub code_verifier: SecretString,
    /// As in the [`AuthorizationRequest`].
    pub nonce: String,
    /// `max_age` in seconds, when the request had one: the ID token must then prove it.
    pub max_age: Option<u64>,
}

/// Somebody signed in.
pub struct SignedIn {
    /// To be kept on this side.
    pub tokens: TokenResponse,
    /// With the subject, what identifies the user (OIDC Core §5.7). For plain OAuth 2.0 the origin of the token endpoint.
    pub issuer: String,
    /// As the provider wrote it: never folded, trimmed or normalised.
    pub subject: String,
    /// The provider's session, for back-channel logout.
    pub sid: Option<String>,
    /// Of the ID token, completed from userinfo where it lacks what the scopes ask for; for plain OAuth 2.0 all of userinfo.
    pub claims: Map<String, Value>,
}

/// A refresh worked.
pub struct Renewed {
    /// Without a refresh token the old one stays in force (RFC 6749 §6).
    pub tokens: TokenResponse,
    /// The claims of a new ID token, if one came and could be verified.
    pub claims: Option<Map<String, Value>>,
    /// Whether these claims are all there is to say, with nothing left to userinfo.
    pub replaces_all: bool,
}

impl Renewed {
    /// The user's claims from now on. A new ID token replaces all earlier claims, so that a group the user lost is gone; one that
    /// leaves names and addresses to userinfo is laid over what userinfo said at the login.
    #[must_use]
    pub fn claims_after(&self, before: &Map<String, Value>) -> Map<String, Value> {
        match &self.claims {
            None => before.clone(),
            Some(claims) if self.replaces_all => claims.clone(),
            Some(claims) => {
                let mut merged = before.clone();
                merged.extend(claims.clone());
                merged
            }
        }
    }
}

impl Provider {
    /// Does no I/O: the gateway starts while a provider is down.
    #[must_use]
    pub fn new(settings: Settings, http: HttpClient, clock: Clock) -> Provider {
        let id = match settings.kind {
            // An empty audience would be no audience.
            Kind::Mock(_) if settings.client_id.is_empty() => MOCK_CLIENT_ID.to_owned(),
            _ => settings.client_id.clone(),
        };
        let client = Client { id, secret: settings.client_secret.clone(), auth: settings.client_auth };
        Provider {
            metadata: MetadataSource::new(&settings, http.clone(), clock.clone()),
            keys: KeyCache::new(&settings.name),
            // Of their own: made-up logout tokens must not spend the fetches that logins need.
            logout_keys: KeyCache::new(&settings.name),
            refreshes: Breaker::new(FAILURES_BEFORE_PAUSE, LONGEST_PAUSE),
            turns: Turns::new(MOST_REFRESHES, MOST_QUEUED),
            speaks: match &settings.kind {
                Kind::Backend(backend) => Protocol::Backend(Box::new(Backend {
                    settings: backend.clone(),
                    http: http.clone(),
                    clock: clock.clone(),
                    timeout: settings.timeout,
                })),
                Kind::Oidc { .. } | Kind::OAuth2 { .. } | Kind::Mock(_) => Protocol::OAuth,
            },
            settings,
            client,
            http,
            clock,
        }
    }

    /// The name of its table.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What people know it as.
    #[must_use]
    pub fn title(&self) -> &str {
        self.settings.title.as_deref().unwrap_or(&self.settings.name)
    }

    /// The value that an authorization parameter has when the caller gives none.
    #[must_use]
    pub fn authorization_param(&self, name: &str) -> Option<&str> {
        self.settings.dialect.authorization_params.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Whether `issuer` is an `iss` of this provider. Never so for plain OAuth 2.0, which has no tokens that would name it.
    #[must_use]
    pub fn is_issuer(&self, issuer: &str) -> bool {
        self.issuer().is_some_and(|own| own.is(issuer))
    }

    fn issuer(&self) -> Option<Issuer<'_>> {
        match (&self.settings.kind, &self.settings.dialect.quirk) {
            (Kind::Oidc { .. }, Quirk::Microsoft { issuer, allowed_tenants }) => {
                Some(Issuer::OfTenant { template: issuer, allowed: allowed_tenants })
            }
            (Kind::Oidc { issuer }, _) => Some(Issuer::Exact(issuer)),
            (Kind::Mock(mock), _) => Some(Issuer::Exact(&mock.issuer)),
            (Kind::OAuth2 { .. } | Kind::Backend(_), _) => None,
        }
    }

    /// What there is to know of a backend, if it is one.
    #[must_use]
    pub fn backend(&self) -> Option<&BackendSettings> {
        match &self.speaks {
            Protocol::Backend(backend) => Some(&backend.settings),
            Protocol::OAuth => None,
        }
    }

    /// Signs in at a backend with what a person typed.
    ///
    /// # Errors
    /// The backend refuses or does not answer, its answer has no token, or nobody knows whose it is. [`ProviderError::Misconfigured`] where
    /// this is no backend.
    pub async fn log_in(&self, credentials: &Credentials) -> Result<SignedIn, ProviderError> {
        match &self.speaks {
            Protocol::Backend(backend) => backend.log_in(credentials).await,
            Protocol::OAuth => Err(NO_BACKEND),
        }
    }

    /// Whose `tokens` are that a backend gave in `answer`, to somebody who signed in there by themselves as `username`.
    ///
    /// # Errors
    /// As for [`Provider::log_in`].
    pub async fn identify(
        &self,
        tokens: TokenResponse,
        answer: &Map<String, Value>,
        username: Option<&str>,
    ) -> Result<SignedIn, ProviderError> {
        match &self.speaks {
            Protocol::Backend(backend) => backend.identify(tokens, answer, username).await,
            Protocol::OAuth => Err(NO_BACKEND),
        }
    }

    /// Where to send the browser: the code flow with PKCE `S256`, always (RFC 9700 §2.1.1).
    ///
    /// # Errors
    /// No metadata, or metadata that excludes `S256`.
    pub async fn authorization_url(&self, request: &AuthorizationRequest) -> Result<Url, ProviderError> {
        let metadata = self.metadata.current().await?;
        if metadata
            .code_challenge_methods
            .as_ref()
            .is_some_and(|methods| !methods.iter().any(|method| method == "S256"))
        {
            return Err(ProviderError::Misconfigured { reason: "provider_without_pkce_s256" });
        }
        let scope = self.scopes(&metadata).join(" ");
        let mut owned = vec![
            ("response_type", "code"),
            ("client_id", &self.client.id),
            ("redirect_uri", request.redirect_uri.as_str()),
            ("scope", &scope),
            ("state", &request.state),
            ("code_challenge", &request.code_challenge),
            ("code_challenge_method", "S256"),
        ];
        if self.speaks_oidc() {
            owned.push(("nonce", &request.nonce));
        }
        let mut url = metadata.authorization_endpoint.clone();
        let configured: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let foreign = |pair: &&(String, String)| !is_owned_parameter(&pair.0);
        url.query_pairs_mut()
            .clear()
            .extend_pairs(configured.iter().filter(foreign))
            .extend_pairs(owned)
            .extend_pairs(self.settings.dialect.parameters(&request.extra).filter(foreign));
        Ok(url)
    }

    /// Whether a callback comes from this provider, by its `iss` parameter (RFC 9207 §2.4). Before the code is used.
    ///
    /// # Errors
    /// Another issuer, compared as a string; none, though the provider promised to send it; or no metadata.
    pub async fn check_callback_issuer(&self, iss: Option<&str>) -> Result<(), ProviderError> {
        if !self.speaks_oidc() {
            // Its issuer is not configured. What keeps providers apart is that each has its own redirect URI (RFC 9700 §4.4.2.2).
            return Ok(());
        }
        let metadata = self.metadata.current().await?;
        match iss {
            Some(iss) if self.is_issuer(iss) => Ok(()),
            Some(_) => Err(ProviderError::Invalid { reason: "callback_other_issuer" }),
            None if metadata.response_carries_issuer => {
                Err(ProviderError::Invalid { reason: "callback_without_issuer" })
            }
            None => Ok(()),
        }
    }

    /// Redeems a code, once: it is never sent a second time, whatever happens (RFC 6749 §4.1.2).
    ///
    /// May call the token endpoint, the JWKS and userinfo, one after the other, each within the timeout.
    ///
    /// # Errors
    /// The provider refuses or does not answer, or what it says of the user cannot be verified.
    pub async fn redeem_code(&self, redemption: &CodeRedemption) -> Result<SignedIn, ProviderError> {
        let metadata = self.metadata.current().await?;
        let parameters = [
            ("grant_type", "authorization_code"),
            ("code", redemption.code.expose_secret()),
            ("redirect_uri", redemption.redirect_uri.as_str()),
            ("code_verifier", redemption.code_verifier.expose_secret()),
        ];
        let tokens = self.call_token_endpoint(&metadata, &parameters).await?;
        match &self.settings.kind {
            Kind::OAuth2 { .. } => self.identify_by_userinfo(&metadata, tokens).await,
            Kind::Oidc { .. } | Kind::Mock(_) => self.identify_by_id_token(&metadata, tokens, redemption).await,
            Kind::Backend(_) => Err(NO_OAUTH),
        }
    }

    /// Waits until it is our turn to refresh here, with everything at hand that a refresh needs. Turns are given in the order they
    /// were asked for.
    ///
    /// # Errors
    /// A pause after failures, a full queue, no metadata: [`RefreshError::Unavailable`].
    pub async fn turn(&self) -> Result<Turn<'_>, RefreshError> {
        let with = match &self.speaks {
            Protocol::OAuth => Refresher::TokenEndpoint(self.metadata.current().await?),
            Protocol::Backend(backend) => Refresher::Backend(backend),
        };
        let full = RefreshError::Unavailable { reason: "refresh_queue_full", retry_after: None };
        let ahead = self.turns.next().await.ok_or(full)?;
        match self.refreshes.pause(self.clock.now().mono) {
            Some(wait) => Err(paused(wait)),
            None => Ok(Turn::new(with, ahead)),
        }
    }

    /// Exchanges a refresh token, once. Between this call and the request there is nothing but connecting.
    ///
    /// # Errors
    /// [`RefreshError`].
    pub async fn exchange(&self, turn: &Turn<'_>, refresh_token: &SecretString) -> Result<TokenResponse, RefreshError> {
        self.refreshes.admit(self.clock.now().mono, self.settings.timeout).map_err(paused)?;
        let request = self.refresh_request(turn, refresh_token).map_err(ProviderError::from)?;
        let (answer, ()) = tokio::join!(self.http.send(request, self.settings.timeout), fault::point("request_sent"));
        fault::point("response_received").await;
        let outcome = match answer {
            Ok(answer) => self.read_refresh_answer(&answer).map_err(RefreshError::from),
            Err(HttpError::Broken) => Err(RefreshError::ConnectionLost),
            Err(error @ (HttpError::Timeout | HttpError::TooLarge)) => {
                Err(RefreshError::Unanswered { reason: error.reason() })
            }
            Err(error) => Err(ProviderError::from(error).into()),
        };
        match &outcome {
            Ok(_) | Err(RefreshError::Refused { .. } | RefreshError::OtherSubject) => self.refreshes.succeeded(),
            Err(error) => self.refreshes.failed(self.clock.now().mono, error.retry_after(), random_fraction()),
        }
        outcome
    }

    /// A token for this client in its own name (RFC 6749 §4.4). `audience` goes out under that name, as providers that issue tokens
    /// for several APIs take it.
    ///
    /// # Errors
    /// The provider refuses or does not answer. [`ProviderError::Misconfigured`] where this is a backend.
    pub async fn client_credentials(
        &self,
        audience: Option<&str>,
        scope: Option<&str>,
    ) -> Result<TokenResponse, ProviderError> {
        let metadata = self.metadata.current().await?;
        let mut parameters = vec![("grant_type", "client_credentials")];
        parameters.extend(audience.map(|audience| ("audience", audience)));
        parameters.extend(scope.map(|scope| ("scope", scope)));
        let request = self.client.request(&metadata.token_endpoint, &parameters)?;
        self.read_token_answer(&self.http.send(request, self.settings.timeout).await?)
    }

    /// What is to be believed of a token answer, `subject` being the user it is for, and what the user's claims are from now on:
    /// read again wherever the login had them from. `earlier` is the ID token that was believed before.
    ///
    /// A new ID token must be the same user's, from the same issuer (OIDC Core §12.2). If only clocks or missing keys are in the way, it is left out instead: the refresh
    /// token is spent, and giving up its successor would sign the user out. So it is with userinfo that does not come.
    ///
    /// Answers at once, unless keys or userinfo have to be fetched.
    ///
    /// # Errors
    /// [`RefreshError::OtherSubject`], and [`RefreshError::Refused`] for an ID token that is not to be believed.
    pub async fn check_renewal(
        &self,
        tokens: TokenResponse,
        subject: &str,
        earlier: Option<&SecretString>,
    ) -> Result<Renewed, RefreshError> {
        if let Protocol::Backend(backend) = &self.speaks {
            return backend.check_renewal(tokens, subject, USERINFO_WITHIN).await;
        }
        let Some(id_token) = tokens.id_token.as_ref().filter(|_| self.speaks_oidc()) else {
            let tokens = TokenResponse { id_token: None, ..tokens };
            return self.renewed(tokens, None, earlier.and_then(said_before), subject).await;
        };
        let verified = match self.metadata.current().await {
            Ok(metadata) => self.verify(&metadata, id_token, &tokens.access_token, Occasion::Refresh { subject }).await,
            Err(_) => Err(Unverified::ForLackOfKeys),
        };
        let reason = match verified {
            Ok(claims) if earlier.and_then(said_before).is_some_and(|said| said.get("iss") != claims.get("iss")) => {
                return Err(RefreshError::OtherSubject);
            }
            Ok(claims) => return self.renewed(tokens, Some(claims.clone()), Some(claims), subject).await,
            Err(Unverified::Because(TokenError::OtherSubject)) => return Err(RefreshError::OtherSubject),
            Err(Unverified::Because(error)) if !error.is_about_time() => {
                return Err(RefreshError::Refused { reason: error.reason() });
            }
            Err(Unverified::Because(error)) => error.reason(),
            Err(Unverified::ForLackOfKeys) => "keys_unavailable",
        };
        tracing::warn!(provider = self.name(), reason, "refreshed without the new ID token");
        Ok(Renewed { tokens: TokenResponse { id_token: None, ..tokens }, claims: None, replaces_all: false })
    }

    /// With the claims of a new ID token, if there is one, and `base`, what an ID token has said last; the rest from userinfo, if the
    /// login had it from there.
    async fn renewed(
        &self,
        tokens: TokenResponse,
        new: Option<Map<String, Value>>,
        base: Option<Map<String, Value>>,
        subject: &str,
    ) -> Result<Renewed, RefreshError> {
        let is_complete = base.as_ref().is_some_and(|claims| self.is_complete(claims));
        let new = new.map(|claims| self.settings.dialect.claims_from(claims));
        let says_all = is_complete || (self.speaks_oidc() && base.is_none());
        if says_all {
            return Ok(Renewed { tokens, replaces_all: is_complete, claims: new });
        }
        match self.profile(&tokens.access_token, base, subject).await {
            Ok(Some(claims)) => Ok(Renewed { tokens, claims: Some(claims), replaces_all: true }),
            Ok(None) => Ok(Renewed { tokens, claims: new, replaces_all: false }),
            Err(ProviderError::Invalid { reason }) if reason == userinfo::OTHER_SUBJECT => {
                Err(RefreshError::OtherSubject)
            }
            Err(error) => {
                tracing::warn!(provider = self.name(), reason = error.reason(), "refreshed without new userinfo");
                Ok(Renewed { tokens, claims: new, replaces_all: false })
            }
        }
    }

    /// All claims, with those of userinfo; None where there is no such endpoint.
    async fn profile(
        &self,
        access_token: &SecretString,
        base: Option<Map<String, Value>>,
        subject: &str,
    ) -> Result<Option<Map<String, Value>>, ProviderError> {
        let metadata = self.metadata.current().await?;
        let Some(endpoint) = &metadata.userinfo_endpoint else { return Ok(None) };
        let userinfo = tokio::time::timeout(USERINFO_WITHIN, self.userinfo(endpoint, access_token)).await;
        let userinfo =
            userinfo.map_err(|_| ProviderError::Unavailable { reason: "userinfo_slow", retry_after: None })??;
        if let Kind::OAuth2 { subject: member, .. } = &self.settings.kind {
            return match userinfo::subject(&userinfo, member.as_deref()).as_deref() == Some(subject) {
                true => Ok(Some(self.oauth2_claims(userinfo, subject))),
                false => Err(ProviderError::Invalid { reason: userinfo::OTHER_SUBJECT }),
            };
        }
        let Some(mut claims) = base else { return Ok(None) };
        userinfo::complete(&mut claims, userinfo)?;
        Ok(Some(self.settings.dialect.claims_from(claims)))
    }

    /// What userinfo says, and under the name of OpenID Connect who it is.
    fn oauth2_claims(&self, userinfo: Map<String, Value>, subject: &str) -> Map<String, Value> {
        let mut claims = self.settings.dialect.claims_from(userinfo);
        claims.insert("sub".to_owned(), subject.into());
        claims
    }

    /// Whether an ID token says all there is to say, with nothing left to userinfo.
    fn is_complete(&self, claims: &Map<String, Value>) -> bool {
        userinfo::is_complete(claims, &self.settings.scopes) && self.settings.dialect.finds_all_in(claims)
    }

    /// Whether there is a way to: if not, the access token is revoked itself.
    fn revokes_refresh_tokens(&self) -> bool {
        !matches!(self.settings.dialect.quirk, Quirk::GitHub { .. })
    }

    /// Revokes what a session could be used with: the refresh token, and with it what was made from it, or the access token where
    /// there is nothing else (RFC 7009). At a backend that is its logout, which takes both. Nothing happens at a provider without
    /// the endpoint.
    ///
    /// # Errors
    /// The provider does not answer or refuses.
    pub async fn revoke(
        &self,
        access_token: &SecretString,
        refresh_token: Option<&SecretString>,
    ) -> Result<(), ProviderError> {
        match (&self.speaks, refresh_token) {
            (Protocol::Backend(backend), _) => backend.log_out(access_token, refresh_token).await,
            (Protocol::OAuth, Some(token)) if self.revokes_refresh_tokens() => {
                self.call_revocation_endpoint(token, "refresh_token").await
            }
            (Protocol::OAuth, _) => self.call_revocation_endpoint(access_token, "access_token").await,
        }
    }

    /// Where RP-initiated logout goes (OpenID Connect RP-Initiated Logout §2). None when the provider has no such endpoint.
    ///
    /// # Errors
    /// No metadata: whether there is such an endpoint is not known.
    pub async fn end_session_url(
        &self,
        id_token_hint: Option<&str>,
        post_logout_redirect_uri: &Url,
        state: &str,
    ) -> Result<Option<Url>, ProviderError> {
        if let Protocol::Backend(_) = &self.speaks {
            return Ok(None);
        }
        let metadata = self.metadata.current().await?;
        let Some(mut url) = metadata.end_session_endpoint.clone() else {
            return Ok(match &self.settings.dialect.quirk {
                Quirk::Auth0 { logout_endpoint } => {
                    let mut url = logout_endpoint.clone();
                    url.query_pairs_mut()
                        .append_pair("client_id", &self.client.id)
                        .append_pair("returnTo", post_logout_redirect_uri.as_str());
                    Some(url)
                }
                _ => None,
            });
        };
        url.query_pairs_mut()
            .append_pair("client_id", &self.client.id)
            .append_pair("post_logout_redirect_uri", post_logout_redirect_uri.as_str())
            .append_pair("state", state)
            .extend_pairs(id_token_hint.map(|hint| ("id_token_hint", hint)));
        Ok(Some(url))
    }

    /// What a logout token says, if this provider has said it to this client (Back-Channel Logout §2.6). Whether it says so for the
    /// first time is for the caller to find out.
    ///
    /// # Errors
    /// [`LogoutTokenError`].
    pub async fn verify_logout_token(&self, token: &str) -> Result<LogoutToken, LogoutTokenError> {
        let issuer = self.issuer().ok_or(LogoutTokenError::Foreign)?;
        let token = Jws::parse(token, Purpose::LogoutToken)?;
        let now = self.clock.now();
        let claimed = logout_token::read(&token, &Recipient { issuer, client_id: &self.client.id }, now)?;
        let metadata = self.metadata.current().await.map_err(|error| LogoutTokenError::Unverifiable {
            reason: error.reason(),
            retry_after: error.retry_after(),
        })?;
        token.check_algorithm(&metadata.id_token_algorithms)?;
        let keys = self
            .logout_keys
            .keys(|keys| token.is_signed_by_one_of(keys), now.mono, self.fetch_keys(&metadata))
            .await
            .map_err(|_| LogoutTokenError::Unverifiable { reason: "keys_unavailable", retry_after: None })?;
        Ok(claimed.vouched_for_by(&keys, &metadata.id_token_algorithms)?)
    }

    async fn call_revocation_endpoint(&self, token: &SecretString, hint: &str) -> Result<(), ProviderError> {
        if let Quirk::GitHub { api } = &self.settings.dialect.quirk {
            return match hint {
                "access_token" => github::revoke(&self.http, api, &self.client, token, self.settings.timeout).await,
                _ => Ok(()),
            };
        }
        let metadata = self.metadata.current().await?;
        let Some(endpoint) = &metadata.revocation_endpoint else {
            return Ok(());
        };
        let parameters = [("token", token.expose_secret()), ("token_type_hint", hint)];
        let request = self.client.request(endpoint, &parameters)?;
        let answer = self.http.send(request, self.settings.timeout).await?;
        if answer.status().is_success() {
            return Ok(());
        }
        // §2.2.1: errors are those of the token endpoint, of which a status without success is never a token.
        token_endpoint::read(&answer, self.clock.now()).map(drop)
    }

    async fn call_token_endpoint(
        &self,
        metadata: &Metadata,
        parameters: &[(&str, &str)],
    ) -> Result<TokenResponse, ProviderError> {
        let request = self.client.request(&metadata.token_endpoint, parameters)?;
        let (answer, ()) = tokio::join!(self.http.send(request, self.settings.timeout), fault::point("code_sent"));
        fault::point("code_redeemed").await;
        self.read_token_answer(&answer?)
    }

    fn refresh_request(&self, turn: &Turn<'_>, refresh_token: &SecretString) -> Result<Request<Bytes>, HttpError> {
        match &turn.with {
            Refresher::TokenEndpoint(metadata) => {
                let parameters = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose_secret())];
                self.client.request(&metadata.token_endpoint, &parameters)
            }
            Refresher::Backend(backend) => backend.refresh_request(refresh_token),
        }
    }

    fn read_refresh_answer(&self, answer: &Response<Bytes>) -> Result<TokenResponse, ProviderError> {
        match &self.speaks {
            Protocol::OAuth => self.read_token_answer(answer),
            Protocol::Backend(backend) => backend.read_refresh(answer),
        }
    }

    fn read_token_answer(&self, answer: &Response<Bytes>) -> Result<TokenResponse, ProviderError> {
        let mut outcome = token_endpoint::read(answer, self.clock.now());
        if let (Quirk::GitHub { .. }, Ok(tokens)) = (&self.settings.dialect.quirk, &mut outcome) {
            tokens.scope = tokens.scope.take().map(|scope| scope.replace(',', " "));
        }
        if let Err(ProviderError::Misconfigured { reason }) = outcome {
            tracing::error!(
                provider = self.name(),
                reason,
                "the provider does not accept this client: check client_id and client_secret"
            );
        }
        outcome
    }

    async fn identify_by_id_token(
        &self,
        metadata: &Metadata,
        tokens: TokenResponse,
        redemption: &CodeRedemption,
    ) -> Result<SignedIn, ProviderError> {
        let id_token = tokens.id_token.as_ref().ok_or(ProviderError::Invalid { reason: "id_token_missing" })?;
        let occasion = Occasion::Login {
            nonce: &redemption.nonce,
            code: redemption.code.expose_secret(),
            max_age: redemption.max_age,
        };
        let mut claims = match self.verify(metadata, id_token, &tokens.access_token, occasion).await {
            Ok(claims) => claims,
            Err(Unverified::ForLackOfKeys) => {
                return Err(ProviderError::Unavailable { reason: "keys_unavailable", retry_after: None });
            }
            Err(Unverified::Because(error)) if error.is_about_the_user() => {
                return Err(ProviderError::Refused { reason: error.reason() });
            }
            Err(Unverified::Because(error)) => {
                return Err(ProviderError::Invalid { reason: error.reason() });
            }
        };
        let text = |name: &str| json::text(&claims, name).map(str::to_owned);
        let subject = text("sub").ok_or(ProviderError::Invalid { reason: TokenError::Subject.reason() })?;
        let issuer = text("iss").ok_or(ProviderError::Invalid { reason: TokenError::Issuer.reason() })?;
        let sid = text("sid");
        if !self.is_complete(&claims)
            && let Some(endpoint) = &metadata.userinfo_endpoint
        {
            match self.userinfo(endpoint, &tokens.access_token).await {
                Ok(userinfo) => userinfo::complete(&mut claims, userinfo)?,
                // An access token for another audience never opens userinfo. Who the user is, the ID token has said.
                Err(error @ ProviderError::Refused { .. }) => {
                    tracing::warn!(provider = self.name(), reason = error.reason(), "signed in without userinfo");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(SignedIn { issuer, subject, sid, claims: self.settings.dialect.claims_from(claims), tokens })
    }

    async fn identify_by_userinfo(
        &self,
        metadata: &Metadata,
        tokens: TokenResponse,
    ) -> Result<SignedIn, ProviderError> {
        let Kind::OAuth2 { subject, .. } = &self.settings.kind else { return Err(NO_OAUTH) };
        let endpoint = metadata
            .userinfo_endpoint
            .as_ref()
            .ok_or(ProviderError::Misconfigured { reason: "no_userinfo_endpoint" })?;
        let userinfo = self.userinfo(endpoint, &tokens.access_token).await?;
        let subject = userinfo::subject(&userinfo, subject.as_deref())
            .ok_or(ProviderError::Invalid { reason: "userinfo_without_subject" })?;
        let claims = self.oauth2_claims(userinfo, &subject);
        let tokens = TokenResponse { id_token: None, ..tokens };
        Ok(SignedIn { issuer: metadata.issuer.clone(), subject, sid: None, claims, tokens })
    }

    async fn verify(
        &self,
        metadata: &Metadata,
        id_token: &SecretString,
        access_token: &SecretString,
        occasion: Occasion<'_>,
    ) -> Result<Map<String, Value>, Unverified> {
        let token = Jws::parse(id_token.expose_secret(), Purpose::IdToken).map_err(Unverified::Because)?;
        let now = self.clock.now();
        let keys = self
            .keys
            .keys(|keys| token.is_signed_by_one_of(keys), now.mono, self.fetch_keys(metadata))
            .await
            .map_err(|_| Unverified::ForLackOfKeys)?;
        let expected = Expectations {
            issuer: self.issuer().ok_or(Unverified::Because(TokenError::Issuer))?,
            client_id: &self.client.id,
            algorithms: &metadata.id_token_algorithms,
            access_token: access_token.expose_secret(),
            occasion,
        };
        let verified = verify::id_token(&token, &keys, &expected, now)
            .and_then(|claims| self.settings.dialect.quirk.admit(&claims).map(|()| claims));
        if let Err(error) = &verified
            && error.is_about_time()
        {
            tracing::warn!(
                provider = self.name(),
                reason = error.reason(),
                skew_seconds = token.seconds_ahead_of(now),
                "an ID token from another time: compare the clocks"
            );
        }
        verified.map(about_the_user).map_err(Unverified::Because)
    }

    async fn fetch_keys(&self, metadata: &Metadata) -> Option<KeySet> {
        let request = http::get(metadata.jwks_uri.as_ref()?, None).ok()?;
        let answer = self.http.send(request, self.settings.timeout).await.ok()?;
        KeySet::parse(Some(answer).filter(|answer| answer.status() == StatusCode::OK)?.body())
    }

    async fn userinfo(&self, endpoint: &Url, access_token: &SecretString) -> Result<Map<String, Value>, ProviderError> {
        let (timeout, now) = (self.settings.timeout, self.clock.now());
        let mut userinfo = userinfo::userinfo(&self.http, endpoint, access_token, timeout, now).await?;
        if let Quirk::GitHub { api } = &self.settings.dialect.quirk {
            let emails = github::emails(&self.http, api, access_token, timeout, now).await?;
            github::complete(&mut userinfo, emails.as_deref());
        }
        Ok(userinfo)
    }

    /// What to ask for: `openid` in any case with OIDC, and no `offline_access` from a provider that lists its scopes without it,
    /// for several refuse the whole login over a scope they do not know.
    fn scopes(&self, metadata: &Metadata) -> Vec<&str> {
        let known =
            |scope: &str| metadata.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(|listed| listed == scope));
        let openid = self.speaks_oidc() && !self.settings.scopes.iter().any(|scope| scope == "openid");
        openid
            .then_some("openid")
            .into_iter()
            .chain(
                self.settings
                    .scopes
                    .iter()
                    .map(String::as_str)
                    .filter(|scope| *scope != "offline_access" || known(scope)),
            )
            .collect()
    }

    fn speaks_oidc(&self) -> bool {
        matches!(self.settings.kind, Kind::Oidc { .. } | Kind::Mock(_))
    }
}

/// The claims of an ID token that was verified when it came.
fn said_before(id_token: &SecretString) -> Option<Map<String, Value>> {
    let token = Jws::parse(id_token.expose_secret(), Purpose::IdToken).ok()?;
    token.claims().ok().map(about_the_user)
}

fn about_the_user(mut claims: Map<String, Value>) -> Map<String, Value> {
    for name in EXCHANGE_CLAIMS {
        claims.shift_remove(name);
    }
    claims
}

fn paused(wait: Duration) -> RefreshError {
    RefreshError::Unavailable { reason: "refresh_paused", retry_after: Some(wait) }
}

/// Why there are no claims from an ID token.
enum Unverified {
    ForLackOfKeys,
    Because(TokenError),
}

/// Whether an authorization request says this by itself, whatever anybody wants it to say.
#[must_use]
pub fn is_owned_parameter(name: &str) -> bool {
    OWNED_PARAMETERS.contains(&name)
}

/// Set here and by nobody else (RFC 6749 §4.1.1 and §4.1.3, OIDC Core §3.1.2.1 and §6, RFC 7636 §4.3 and §4.5, RFC 9126 §2.2,
/// RFC 9449 §10).
const OWNED_PARAMETERS: [&str; 19] = [
    "response_type",
    "response_mode",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
    "registration",
    "dpop_jkt",
    "code",
    "code_verifier",
    "grant_type",
];
/// Claims about the exchange the token came from, not about the user.
const EXCHANGE_CLAIMS: [&str; 3] = ["nonce", "at_hash", "c_hash"];
/// Whoever waits for a token does not wait long for a name.
const USERINFO_WITHIN: Duration = Duration::from_secs(2);
const NO_BACKEND: ProviderError = ProviderError::Misconfigured { reason: "no_backend" };
const NO_OAUTH: ProviderError = ProviderError::Misconfigured { reason: "no_oauth" };
const MOCK_CLIENT_ID: &str = "latchgate";
const FAILURES_BEFORE_PAUSE: u32 = 5;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What a provider that does 50 refreshes a second answers well within `refresh.timeout`; one that needs 100 ms for each gives
/// 640 a second.
const MOST_REFRESHES: usize = 64;
/// Waiting for the turn costs a few kilobytes.
const MOST_QUEUED: usize = 16_384;
