//! What tokens of the gateway say of a user besides the registered claims: rules from `gateway.toml`, applied to
//! what the provider said last.

use super::Session;
use crate::policy::require::claim;
use serde_json::{Map, Value};

/// One line of a `claims` table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimRule {
    /// What the claim is called in the token; none of [`RESERVED`].
    pub name: String,
    /// Where its value comes from.
    pub source: ClaimSource,
}

/// Where the value of a claim comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClaimSource {
    /// The user's claim at this path; dots go into objects.
    User(String),
    /// The same for everyone.
    Static(Value),
}

/// Names that mean something to whoever reads a token (RFC 7519 §4.1, RFC 7800, RFC 8693, OIDC Core), or to the gateway.
pub const RESERVED: &[&str] = &[
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "sid",
    "act",
    "may_act",
    "azp",
    "client_id",
    "cnf",
    "impersonation",
    "provider",
    "scope",
];

/// The most bytes that one claim may take as JSON.
pub const MOST_CLAIM_BYTES: usize = 1024;

/// `provider:sub`: the same user of two providers is two users.
#[must_use]
pub fn subject(session: &Session) -> String {
    format!("{}:{}", session.provider, session.identity.subject)
}

/// Who acts as the subject, if somebody else does (RFC 8693 §4.1). What a provider calls `act` says nothing of it.
#[must_use]
pub fn actor(session: &Session) -> Option<&Value> {
    session.impersonation.as_ref().and(session.identity.claims.get("act"))
}

/// Who it is, as far as the provider says: `name`, `email`, `picture`.
#[must_use]
pub fn profile(session: &Session) -> Map<String, Value> {
    let mut room = Room::of_one_token(session);
    let of_user = |name: &&str| session.identity.claims.get(*name).filter(|value| value.is_string());
    let known = ["name", "email", "picture"].into_iter().filter_map(|name| Some((name, of_user(&name)?)));
    known
        .filter(|(name, value)| room.takes(name, value))
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect()
}

/// The claims that `rules` choose. One that the user does not have is left out; so is one that would make the token
/// too large to travel in a header, and the log says which.
#[must_use]
pub fn chosen(session: &Session, rules: &[ClaimRule]) -> Map<String, Value> {
    let mut room = Room::of_one_token(session);
    let mut claims = Map::new();
    for ClaimRule { name, source } in rules {
        let value = match source {
            ClaimSource::User(path) => claim(&session.identity.claims, path),
            ClaimSource::Static(value) => Some(value),
        };
        if let Some(value) = value.filter(|value| !value.is_null() && room.takes(name, value)) {
            claims.insert(name.clone(), value.clone());
        }
    }
    claims
}

/// What is left for claims in a token.
struct Room<'a> {
    session: &'a Session,
    bytes: usize,
}

impl Room<'_> {
    fn of_one_token(session: &Session) -> Room<'_> {
        Room { session, bytes: MOST_BYTES }
    }

    fn takes(&mut self, name: &str, value: &Value) -> bool {
        let bytes = value.to_string().len();
        if bytes > MOST_CLAIM_BYTES || bytes > self.bytes {
            tracing::warn!(claim = name, bytes, session = %self.session.key, "a claim is too large for a token, and is left out");
            return false;
        }
        self.bytes -= bytes;
        true
    }
}

/// Of all chosen claims together: with the rest and in base64 a token stays below what servers take as one header.
const MOST_BYTES: usize = 3 * 1024;

#[cfg(test)]
mod tests {
    use super::super::tests::{opening, sessions};
    use super::*;
    use crate::clock::{Mono, Now};
    use serde_json::json;
    use std::sync::Arc;

    async fn session(claims: Value) -> Arc<Session> {
        let mut opening = opening("ada");
        opening.identity.claims = claims.as_object().unwrap().clone();
        sessions().0.open(opening, Now { mono: Mono(0), unix: 1_800_000_000 }).await.unwrap()
    }

    fn user(name: &str, path: &str) -> ClaimRule {
        ClaimRule { name: name.into(), source: ClaimSource::User(path.into()) }
    }

    #[tokio::test]
    async fn rules_choose_from_what_the_provider_says() {
        let session = session(json!({"role": "admin", "realm": {"groups": ["a", "b"]}, "off": null})).await;
        let tenant = ClaimRule { name: "tenant".into(), source: ClaimSource::Static(json!(7)) };
        let rules =
            [user("role", "role"), user("groups", "realm.groups"), user("x", "realm.x"), user("o", "off"), tenant];
        assert_eq!(
            Value::Object(chosen(&session, &rules)),
            json!({"role": "admin", "groups": ["a", "b"], "tenant": 7})
        );
        assert_eq!(subject(&session), "corp:ada");
    }

    #[tokio::test]
    async fn claims_that_are_too_large_are_left_out() {
        let fits = "x".repeat(MOST_CLAIM_BYTES - 2);
        let session = session(json!({"large": format!("{fits}y"), "a": fits, "picture": format!("data:{fits}"), "name": "Ada", "email": 7})).await;
        let rules =
            ["large", "a", "b", "c", "d", "name"].map(|name| user(name, if name.len() == 1 { "a" } else { name }));
        let names: Vec<String> = chosen(&session, &rules).keys().cloned().collect();
        assert_eq!(names, ["a", "b", "c"], "one by itself, and then all of them together");
        assert_eq!(Value::Object(profile(&session)), json!({"name": "Ada"}));
    }
}
