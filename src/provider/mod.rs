//! Identity providers: discovery, the code flow, ID tokens, refresh, revocation.
//!
//! Everything here runs in owned tasks on the control runtime; nothing knows of sessions or requests.

pub mod mock;

use secrecy::SecretString;
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
}

/// `kind` of a provider.
#[derive(Debug, Clone)]
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

/// A successful answer of the token endpoint (RFC 6749 §5.1).
pub struct TokenResponse {
    pub access_token: SecretString,
    pub expires_in: Option<Duration>,
    pub refresh_token: Option<SecretString>,
    pub id_token: Option<SecretString>,
    pub scope: Option<String>,
}
