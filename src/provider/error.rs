//! What can go wrong with a provider, and whose fault it is.

use super::http::HttpError;
use super::verify::TokenError;
use std::fmt;
use std::time::Duration;

/// Why something with a provider did not work. `reason` is one of a fixed set of labels, fit for logs and metrics: never text that
/// the provider wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderError {
    /// The provider does not answer, is overloaded or broken; trying again later may work (503).
    Unavailable {
        /// Label.
        reason: &'static str,
        /// When to try again, if that is known.
        retry_after: Option<Duration>,
    },
    /// The provider says no, to this code, token or user.
    Refused {
        /// Label: the OAuth error code where it is a known one.
        reason: &'static str,
    },
    /// The provider's answer is not to be believed (502).
    Invalid {
        /// Label.
        reason: &'static str,
    },
    /// The provider does not accept this client, or cannot do what we need. Somebody has to change a configuration.
    Misconfigured {
        /// Label.
        reason: &'static str,
    },
}

impl ProviderError {
    /// The label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            ProviderError::Unavailable { reason, .. }
            | ProviderError::Refused { reason }
            | ProviderError::Invalid { reason }
            | ProviderError::Misconfigured { reason } => reason,
        }
    }

    /// When to try again, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ProviderError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            ProviderError::Unavailable { .. } => "provider unavailable",
            ProviderError::Refused { .. } => "provider refused",
            ProviderError::Invalid { .. } => "provider answered wrongly",
            ProviderError::Misconfigured { .. } => "provider does not accept this client",
        };
        write!(f, "{what}: {}", self.reason())
    }
}

impl std::error::Error for ProviderError {}

impl From<HttpError> for ProviderError {
    fn from(error: HttpError) -> ProviderError {
        ProviderError::Unavailable { reason: error.reason(), retry_after: None }
    }
}

/// Why there are no new tokens. Only [`RefreshError::Refused`] and [`RefreshError::OtherSubject`] end a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshError {
    /// This refresh token will never work again, or what came for it must not be used.
    Refused {
        /// Label.
        reason: &'static str,
    },
    /// Not now: network, timeout, 429, 5xx, or a pause after several of those.
    Unavailable {
        /// Label.
        reason: &'static str,
        /// When to try again, if that is known.
        retry_after: Option<Duration>,
    },
    /// The provider does not accept this client any more; no user can help it.
    Misconfigured {
        /// Label.
        reason: &'static str,
    },
    /// The connection broke after the request went out: the token may be spent.
    ConnectionLost,
    /// No whole answer in time: the token may be spent.
    Unanswered {
        /// Label.
        reason: &'static str,
    },
    /// The new ID token is somebody else's (OIDC Core §12.2).
    OtherSubject,
}

impl RefreshError {
    /// The label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            RefreshError::Refused { reason }
            | RefreshError::Unavailable { reason, .. }
            | RefreshError::Unanswered { reason }
            | RefreshError::Misconfigured { reason } => reason,
            RefreshError::ConnectionLost => HttpError::Broken.reason(),
            RefreshError::OtherSubject => TokenError::OtherSubject.reason(),
        }
    }

    /// When to try again, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            RefreshError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether nobody knows what became of the refresh token.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, RefreshError::ConnectionLost | RefreshError::Unanswered { .. })
    }
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refresh failed: {}", self.reason())
    }
}

impl std::error::Error for RefreshError {}

/// Why a logout token ends nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoutTokenError {
    /// Its issuer is not this provider, or its audience not this client.
    Foreign,
    /// It does not count and never will.
    Invalid {
        /// Label.
        reason: &'static str,
    },
    /// It may count, and that cannot be found out now: the provider's keys are missing.
    Unverifiable {
        /// Label.
        reason: &'static str,
        /// When to try again, if that is known.
        retry_after: Option<Duration>,
    },
}

impl From<TokenError> for LogoutTokenError {
    fn from(error: TokenError) -> LogoutTokenError {
        match error {
            TokenError::Issuer | TokenError::Audience => LogoutTokenError::Foreign,
            error => LogoutTokenError::Invalid { reason: error.reason() },
        }
    }
}

impl From<ProviderError> for RefreshError {
    fn from(error: ProviderError) -> RefreshError {
        match error {
            ProviderError::Refused { reason } => RefreshError::Refused { reason },
            ProviderError::Unavailable { reason, retry_after } => RefreshError::Unavailable { reason, retry_after },
            // Wrong metadata says nothing about a session.
            ProviderError::Invalid { reason } => RefreshError::Unavailable { reason, retry_after: None },
            ProviderError::Misconfigured { reason } => RefreshError::Misconfigured { reason },
        }
    }
}
