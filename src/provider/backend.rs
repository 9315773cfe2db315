//! Backends that sign users in themselves, with JSON calls of their own (`kind = "backend"`): where their endpoints are, what they
//! are sent, and what their answers mean.

use super::json;
use super::{HttpClient, ProviderError, SignedIn, TokenResponse};
use http::{HeaderMap, Method};
use secrecy::SecretString;
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
    pub(super) timeout: Duration,
}

impl BackendSettings {
    /// What an answer says, if it is a JSON object that no two readers can understand differently.
    #[must_use]
    pub fn read_object(answer: &[u8]) -> Option<Map<String, Value>> {
        json::object(answer)
    }

    /// An answer to a refresh, as the backend would give it.
    #[must_use]
    pub fn refresh_answer(&self, access_token: &str, refresh_token: Option<&str>, life: Option<Duration>) -> Value {
        let mut answer = Map::new();
        if let Some(life) = life {
            answer.insert("expires_in".to_owned(), life.as_secs().into());
        }
        if let Some(token) = refresh_token {
            json::put_at_path(&mut answer, &self.refresh_token_property, token.into());
        }
        json::put_at_path(&mut answer, &self.token_property, access_token.into());
        Value::Object(answer)
    }

    /// The tokens in an answer to a login or refresh; None when there is no access token at `token_property`.
    #[must_use]
    pub fn tokens(&self, _answer: &Value) -> Option<TokenResponse> {
        None
    }
}

impl Backend {
    /// Signs in with what a person typed. The backend's 4xx other than 429 is [`ProviderError::Refused`].
    pub(super) async fn log_in(&self, _credentials: &Credentials) -> Result<SignedIn, ProviderError> {
        let _ = (&self.settings, &self.http, self.timeout);
        Err(ProviderError::Misconfigured { reason: "not_built" })
    }

    /// Who `tokens` belong to, found in `answer`, the login's, or asked of the backend. `username` is what the login was made with.
    pub(super) async fn identify(
        &self,
        _tokens: TokenResponse,
        _answer: &Map<String, Value>,
        _username: Option<&str>,
    ) -> Result<SignedIn, ProviderError> {
        Err(ProviderError::Misconfigured { reason: "not_built" })
    }
}
