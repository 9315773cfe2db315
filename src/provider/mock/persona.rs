//! Who can sign in at the mock provider, and which failures can be rehearsed there.

use serde_json::{Map, Value};

/// One entry of `users`.
pub(super) struct Persona {
    sub: String,
    claims: Map<String, Value>,
    /// `mock_error` in the entry: what fails whenever this persona signs in.
    pub(super) failure: Option<Failure>,
}

/// An error the provider was asked to give, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    /// An OAuth error code.
    pub(super) code: &'static str,
}

/// Which request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The authorization request: the browser comes back with the error.
    Authorization,
    /// The redemption of the code.
    Code,
    /// Every refresh.
    Refresh,
}

impl Persona {
    /// None without a `sub`.
    pub(super) fn new(user: &Map<String, Value>) -> Option<Persona> {
        let sub = match user.get("sub")? {
            Value::String(sub) => sub.clone(),
            other => other.to_string(),
        };
        let failure = user.get("mock_error").and_then(Value::as_str).and_then(Failure::named);
        let claims = user
            .iter()
            .filter(|(name, _)| *name != "mock_error" && !PROTOCOL_CLAIMS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Some(Persona { sub, claims, failure })
    }

    pub(super) fn sub(&self) -> &str {
        &self.sub
    }

    /// The claim as text, if it is a string.
    pub(super) fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    /// What this scope shows of the person (OIDC Core §5.4): the standard claims by their scope,
    /// everything else, such as `role`, always.
    pub(super) fn claims(&self, scope: &str) -> Map<String, Value> {
        let granted = |wanted: &str| scope.split(' ').any(|token| token == wanted);
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), self.sub.clone().into());
        for (name, value) in &self.claims {
            let shown = CLAIMS_OF_SCOPES
                .iter()
                .find(|(_, members)| members.contains(&name.as_str()))
                .is_none_or(|(scope, _)| granted(scope));
            if shown {
                claims.insert(name.clone(), value.clone());
            }
        }
        claims
    }
}

impl Failure {
    /// Reads `mock_error`:
    ///
    /// | value | fails |
    /// |---|---|
    /// | a code of RFC 6749 §4.1.2.1, such as `access_denied` | the authorization request |
    /// | `invalid_grant`, `invalid_client` | the redemption of the code |
    /// | `token:<code>` | the redemption of the code, e.g. `token:temporarily_unavailable` |
    /// | `refresh:<code>` | every refresh, e.g. `refresh:invalid_grant` |
    /// | anything else | nothing: None |
    pub(super) fn named(value: &str) -> Option<Failure> {
        let (stage, name, codes) = match value.split_once(':') {
            Some(("token", name)) => (Stage::Code, name, &TOKEN_ERRORS[..]),
            Some(("refresh", name)) => (Stage::Refresh, name, &TOKEN_ERRORS[..]),
            Some(_) => return None,
            None if AUTHORIZATION_ERRORS.contains(&value) => (Stage::Authorization, value, &AUTHORIZATION_ERRORS[..]),
            None => (Stage::Code, value, &["invalid_grant", "invalid_client"][..]),
        };
        let code = codes.iter().find(|code| **code == name)?;
        Some(Failure { stage, code })
    }
}

/// RFC 6749 §4.1.2.1
const AUTHORIZATION_ERRORS: [&str; 7] = [
    "invalid_request",
    "unauthorized_client",
    "access_denied",
    "unsupported_response_type",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
];

/// RFC 6749 §5.2, and the two that stand for a provider in trouble.
const TOKEN_ERRORS: [&str; 8] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
];

/// What the provider alone says in its tokens.
const PROTOCOL_CLAIMS: [&str; 15] = [
    "sub",
    "iss",
    "aud",
    "azp",
    "exp",
    "nbf",
    "iat",
    "jti",
    "nonce",
    "at_hash",
    "c_hash",
    "auth_time",
    "sid",
    "client_id",
    "scope",
];

const CLAIMS_OF_SCOPES: [(&str, &[&str]); 4] = [
    (
        "profile",
        &[
            "name",
            "family_name",
            "given_name",
            "middle_name",
            "nickname",
            "preferred_username",
            "profile",
            "picture",
            "website",
            "gender",
            "birthdate",
            "zoneinfo",
            "locale",
            "updated_at",
        ],
    ),
    ("email", &["email", "email_verified"]),
    ("address", &["address"]),
    ("phone", &["phone_number", "phone_number_verified"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn persona(user: Value) -> Persona {
        Persona::new(user.as_object().unwrap()).unwrap()
    }

    #[test]
    fn mock_error_names_a_stage_and_a_code() {
        let failure = |stage, code| Some(Failure { stage, code });
        for (value, expected) in [
            ("access_denied", failure(Stage::Authorization, "access_denied")),
            ("server_error", failure(Stage::Authorization, "server_error")),
            ("invalid_grant", failure(Stage::Code, "invalid_grant")),
            ("invalid_client", failure(Stage::Code, "invalid_client")),
            ("token:server_error", failure(Stage::Code, "server_error")),
            ("refresh:invalid_grant", failure(Stage::Refresh, "invalid_grant")),
            ("token:access_denied", None),
            ("logout:server_error", None),
            ("no_such_code", None),
            ("", None),
        ] {
            assert_eq!(Failure::named(value), expected, "{value:?}");
        }
    }

    #[test]
    fn scopes_decide_which_claims_are_shown() {
        let ada = persona(json!({ "sub": "ada", "name": "Ada", "email": "ada@example.com", "role": "admin" }));
        let shown = |scope| Value::Object(ada.claims(scope));
        assert_eq!(shown("openid"), json!({ "sub": "ada", "role": "admin" }));
        assert_eq!(shown("openid email"), json!({ "sub": "ada", "email": "ada@example.com", "role": "admin" }));
        assert_eq!(shown("profile"), json!({ "sub": "ada", "name": "Ada", "role": "admin" }));
    }

    #[test]
    fn an_entry_cannot_speak_for_the_provider() {
        let eve = persona(json!({ "sub": 7, "iss": "https://evil.example", "exp": 1, "mock_error": "access_denied" }));
        assert_eq!(Value::Object(eve.claims("openid profile")), json!({ "sub": "7" }));
        assert_eq!(eve.failure, Failure::named("access_denied"));
    }

    #[test]
    fn an_entry_without_sub_is_nobody() {
        assert!(Persona::new(json!({ "name": "Nobody" }).as_object().unwrap()).is_none());
    }
}
