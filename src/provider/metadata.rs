//! What a provider says about itself: OpenID Connect Discovery 1.0, RFC 8414.

use super::breaker::Breaker;
use super::http::{self, HttpClient};
use super::random::random_fraction;
use super::{Kind, ProviderError, Quirk, Settings, json};
use crate::clock::{Clock, Mono};
use ::http::StatusCode;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use url::{Host, Url};

/// The endpoints of a provider and what it can do.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    /// `issuer`. For plain OAuth 2.0 the origin of the token endpoint.
    pub(super) issuer: String,
    pub(super) authorization_endpoint: Url,
    pub(super) token_endpoint: Url,
    pub(super) userinfo_endpoint: Option<Url>,
    pub(super) revocation_endpoint: Option<Url>,
    pub(super) end_session_endpoint: Option<Url>,
    /// None for plain OAuth 2.0, which has no ID tokens.
    pub(super) jwks_uri: Option<Url>,
    /// What ID tokens may be signed with; never `none`, never an HMAC.
    pub(super) id_token_algorithms: Vec<Algorithm>,
    /// `code_challenge_methods_supported`, when the provider tells.
    pub(super) code_challenge_methods: Option<Vec<String>>,
    /// `scopes_supported`, when the provider tells.
    pub(super) scopes: Option<Vec<String>>,
    /// `authorization_response_iss_parameter_supported` (RFC 9207 §3).
    pub(super) response_carries_issuer: bool,
}

/// A provider's metadata: configured, or discovered and kept.
pub(super) enum MetadataSource {
    /// It speaks no OAuth.
    None,
    Configured(Arc<Metadata>),
    Discovered(Box<Discovery>),
}

impl MetadataSource {
    /// Does no I/O.
    pub(super) fn new(settings: &Settings, http: HttpClient, clock: Clock) -> MetadataSource {
        let (issuer, plain_http) = match &settings.kind {
            Kind::OAuth2 { authorization_endpoint, token_endpoint, userinfo_endpoint, revocation_endpoint, .. } => {
                return MetadataSource::Configured(Arc::new(Metadata {
                    issuer: token_endpoint.origin().ascii_serialization(),
                    authorization_endpoint: authorization_endpoint.clone(),
                    token_endpoint: token_endpoint.clone(),
                    userinfo_endpoint: Some(userinfo_endpoint.clone()),
                    revocation_endpoint: revocation_endpoint.clone(),
                    end_session_endpoint: None,
                    jwks_uri: None,
                    id_token_algorithms: Vec::new(),
                    code_challenge_methods: None,
                    scopes: None,
                    response_carries_issuer: false,
                }));
            }
            Kind::Backend(_) => return MetadataSource::None,
            Kind::Oidc { issuer } => (issuer.clone(), Url::parse(issuer).is_ok_and(|url| is_plain_loopback(&url))),
            // Answered in process, wherever the browser finds it.
            Kind::Mock(mock) => (mock.issuer.clone(), true),
        };
        MetadataSource::Discovered(Box::new(Discovery {
            provider: settings.name.clone(),
            says: match &settings.dialect.quirk {
                Quirk::Microsoft { issuer, .. } => issuer.clone(),
                _ => issuer.clone(),
            },
            issuer,
            plain_http,
            http,
            clock,
            timeout: settings.timeout,
            kept: Mutex::default(),
            flight: tokio::sync::Mutex::default(),
            breaker: Breaker::new(1, LONGEST_PAUSE),
        }))
    }

    /// The metadata to use now.
    ///
    /// # Errors
    /// There is none, and none can be had.
    pub(super) async fn current(&self) -> Result<Arc<Metadata>, ProviderError> {
        match self {
            MetadataSource::None => Err(ProviderError::Misconfigured { reason: "no_oauth" }),
            MetadataSource::Configured(metadata) => Ok(Arc::clone(metadata)),
            MetadataSource::Discovered(discovery) => discovery.current().await,
        }
    }
}

/// Metadata fetched on first use and again after an hour of use. A document that is missing or wrong never replaces a good one.
pub(super) struct Discovery {
    provider: String,
    /// Where the document is.
    issuer: String,
    /// What it says its issuer is.
    says: String,
    plain_http: bool,
    http: HttpClient,
    clock: Clock,
    timeout: Duration,
    kept: Mutex<Option<Kept>>,
    flight: tokio::sync::Mutex<()>,
    breaker: Breaker,
}

#[derive(Clone)]
struct Kept {
    metadata: Arc<Metadata>,
    fetched: Mono,
}

impl Discovery {
    async fn current(&self) -> Result<Arc<Metadata>, ProviderError> {
        let _flight = match self.kept() {
            Some(kept) if self.is_fresh(&kept) => return Ok(kept.metadata),
            // One caller pays for the refresh; the document it replaces is good enough for everyone else.
            Some(kept) => match self.flight.try_lock() {
                Ok(flight) => flight,
                Err(_) => return Ok(kept.metadata),
            },
            None => self.flight.lock().await,
        };
        let kept = self.kept();
        if let Some(kept) = kept.as_ref().filter(|kept| self.is_fresh(kept)) {
            return Ok(Arc::clone(&kept.metadata));
        }
        match (self.refetch().await, kept) {
            (Ok(metadata), _) => Ok(metadata),
            (Err(_), Some(kept)) => Ok(kept.metadata),
            (Err(error), None) => Err(error),
        }
    }

    async fn refetch(&self) -> Result<Arc<Metadata>, ProviderError> {
        self.breaker
            .admit(self.clock.now().mono, self.timeout)
            .map_err(|wait| ProviderError::Unavailable { reason: "discovery_paused", retry_after: Some(wait) })?;
        match self.discover().await {
            Ok(metadata) => {
                self.breaker.succeeded();
                let metadata = Arc::new(metadata);
                let kept = Kept { metadata: Arc::clone(&metadata), fetched: self.clock.now().mono };
                *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
                Ok(metadata)
            }
            Err(error) => {
                self.breaker.failed(self.clock.now().mono, error.retry_after(), random_fraction());
                tracing::warn!(provider = self.provider, reason = error.reason(), "discovery failed");
                Err(error)
            }
        }
    }

    async fn discover(&self) -> Result<Metadata, ProviderError> {
        let url = well_known(&self.issuer)?;
        require_safe(&url, self.plain_http)?;
        let answer = self.http.send(http::get(&url, None)?, self.timeout).await?;
        if answer.status() != StatusCode::OK {
            let retry_after = http::retry_after(&answer, self.clock.now());
            return Err(ProviderError::Unavailable { reason: "discovery_status", retry_after });
        }
        let document = json::object(answer.body()).ok_or(ProviderError::Invalid { reason: "metadata_not_json" })?;
        check(&document, &self.says, self.plain_http)
    }

    fn kept(&self) -> Option<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_fresh(&self, kept: &Kept) -> bool {
        self.clock.now().mono.since(kept.fetched) < REFRESH_AFTER
    }
}

/// Where the document is (Discovery §4): a terminating slash of the issuer goes first.
pub(crate) fn well_known(issuer: &str) -> Result<Url, ProviderError> {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    Url::parse(&format!("{issuer}/.well-known/openid-configuration"))
        .map_err(|_| ProviderError::Misconfigured { reason: "issuer_not_a_url" })
}

/// Accepts a document only as a whole.
///
/// | member | must be | else |
/// |---|---|---|
/// | `issuer` | the configured one, byte for byte (Discovery §4.3), Microsoft's template included | refused |
/// | `authorization_endpoint`, `token_endpoint`, `jwks_uri` | a URL over TLS | refused |
/// | `userinfo_`, `revocation_`, `end_session_endpoint` | absent, or a URL over TLS | refused |
/// | `id_token_signing_alg_values_supported` | names one we accept; absent means RS256 (Core §3.1.3.7, step 7) | refused |
fn check(document: &Map<String, Value>, issuer: &str, plain_http: bool) -> Result<Metadata, ProviderError> {
    if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
        return Err(ProviderError::Invalid { reason: "metadata_issuer_mismatch" });
    }
    let optional = |name: &str| match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let url = value.as_str().and_then(|text| Url::parse(text).ok());
            let url = url.ok_or(ProviderError::Invalid { reason: "metadata_endpoint_not_a_url" })?;
            require_safe(&url, plain_http).map(|()| Some(url))
        }
    };
    let required = |name: &str| optional(name)?.ok_or(ProviderError::Invalid { reason: "metadata_endpoint_missing" });
    let texts = |name: &str| -> Option<Vec<String>> {
        let values = document.get(name)?.as_array()?;
        Some(values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect())
    };
    let id_token_algorithms = match texts("id_token_signing_alg_values_supported") {
        None => vec![Algorithm::RS256],
        Some(named) => SIGNATURE_ALGORITHMS
            .iter()
            .filter(|(name, _)| named.iter().any(|n| n == name))
            .map(|(_, alg)| *alg)
            .collect(),
    };
    if id_token_algorithms.is_empty() {
        return Err(ProviderError::Invalid { reason: "metadata_without_usable_algorithm" });
    }
    Ok(Metadata {
        issuer: issuer.to_owned(),
        authorization_endpoint: required("authorization_endpoint")?,
        token_endpoint: required("token_endpoint")?,
        userinfo_endpoint: optional("userinfo_endpoint")?,
        revocation_endpoint: optional("revocation_endpoint")?,
        end_session_endpoint: optional("end_session_endpoint")?,
        jwks_uri: Some(required("jwks_uri")?),
        id_token_algorithms,
        code_challenge_methods: texts("code_challenge_methods_supported"),
        scopes: texts("scopes_supported"),
        response_carries_issuer: document.get("authorization_response_iss_parameter_supported")
            == Some(&Value::Bool(true)),
    })
}

/// TLS, or plain HTTP where that was allowed (RFC 9700 §2.6); no credentials in the URL and no fragment.
pub(crate) fn require_safe(url: &Url, plain_http: bool) -> Result<(), ProviderError> {
    let safe = match url.scheme() {
        "https" => true,
        "http" => plain_http,
        _ => false,
    };
    if !safe {
        return Err(ProviderError::Invalid { reason: "metadata_endpoint_without_tls" });
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(ProviderError::Invalid { reason: "metadata_endpoint_not_a_url" });
    }
    Ok(())
}

pub(crate) fn is_plain_loopback(url: &Url) -> bool {
    url.scheme() == "http"
        && match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
}

/// Every signature a public key can check and the cryptography library can do. An HMAC would turn the public key, or the client
/// secret, into a signing key (RFC 8725 §3.1).
pub(crate) const SIGNATURE_ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

const REFRESH_AFTER: Duration = Duration::from_secs(3600);
/// A provider that was down is asked again within this time of its return.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ISSUER: &str = "https://op.example";

    fn document(change: Value) -> Map<String, Value> {
        let mut document = json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://op.example/authorize",
            "token_endpoint": "https://op.example/token",
            "jwks_uri": "https://op.example/jwks",
        });
        let members = document.as_object_mut().unwrap();
        members.extend(change.as_object().unwrap().clone());
        members.clone()
    }

    fn reason(change: Value) -> &'static str {
        check(&document(change), ISSUER, false).map_or_else(|error| error.reason(), |_| "accepted")
    }

    #[test]
    fn dm_16_well_known_is_below_the_issuer() {
        for (issuer, expected) in [
            ("https://op.example", "https://op.example/.well-known/openid-configuration"),
            ("https://op.example/", "https://op.example/.well-known/openid-configuration"),
            ("https://op.example:8443/realms/a", "https://op.example:8443/realms/a/.well-known/openid-configuration"),
            ("https://op.example/a/", "https://op.example/a/.well-known/openid-configuration"),
        ] {
            assert_eq!(well_known(issuer).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn dm_01_another_issuer_is_another_provider() {
        for issuer in ["https://op.example/", "https://OP.example", "http://op.example", "https://op.example:443", ""] {
            assert_eq!(reason(json!({ "issuer": issuer })), "metadata_issuer_mismatch", "{issuer}");
        }
        assert_eq!(reason(json!({ "issuer": [ISSUER] })), "metadata_issuer_mismatch");
        assert_eq!(reason(json!({})), "accepted");
    }

    #[test]
    fn dm_02_endpoints_need_tls() {
        for name in
            ["authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint"]
        {
            assert_eq!(reason(json!({ name: "http://op.example/x" })), "metadata_endpoint_without_tls", "{name}");
            assert_eq!(reason(json!({ name: "file:///etc/passwd" })), "metadata_endpoint_without_tls", "{name}");
            assert_eq!(reason(json!({ name: "https://u:p@op.example/" })), "metadata_endpoint_not_a_url", "{name}");
            assert_eq!(reason(json!({ name: 7 })), "metadata_endpoint_not_a_url", "{name}");
        }
        assert_eq!(reason(json!({ "token_endpoint": null })), "metadata_endpoint_missing");
        let over_http = document(json!({ "token_endpoint": "http://127.0.0.1:8080/token" }));
        assert!(check(&over_http, ISSUER, true).is_ok());
    }

    #[test]
    fn dm_02_plain_http_only_for_a_loopback_issuer() {
        for (issuer, loopback) in [
            ("http://localhost:8080", true),
            ("http://op.localhost", true),
            ("http://127.1.2.3", true),
            ("http://[::1]:80", true),
            ("http://op.example", false),
            ("http://localhost.example", false),
            ("http://10.0.0.1", false),
            ("https://localhost", false),
        ] {
            assert_eq!(is_plain_loopback(&Url::parse(issuer).unwrap()), loopback, "{issuer}");
        }
    }

    #[test]
    fn it_07_it_08_neither_none_nor_hmac_is_ever_accepted() {
        let algorithms = |names: Value| {
            check(&document(json!({ "id_token_signing_alg_values_supported": names })), ISSUER, false)
                .map(|metadata| metadata.id_token_algorithms)
        };
        assert_eq!(algorithms(json!(["none", "HS256", "ES256"])).unwrap(), [Algorithm::ES256]);
        assert_eq!(algorithms(json!(["none", "HS256"])).unwrap_err().reason(), "metadata_without_usable_algorithm");
        assert_eq!(check(&document(json!({})), ISSUER, false).unwrap().id_token_algorithms, [Algorithm::RS256]);
    }
}
