//! What a signed-in user must have to pass (`require`), and how claims are read.

use serde_json::{Map, Value};

/// One line of `require`; the user needs any of the values at the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// `claims.NAME`, `groups`: a claim path and the values one of which must be there.
    Claim {
        /// Dots go into objects.
        path: String,
        /// A string claim must equal one; an array claim must contain one.
        any_of: Vec<String>,
    },
    /// `scope`: one of these among the scopes of the access token.
    Scope(Vec<String>),
    /// `email_domain`: lower-case ASCII domains; `email_verified = false` never passes.
    EmailDomain(Vec<String>),
}

impl Requirement {
    /// Whether these claims and this `scope` of the token answer fulfil it. What is missing or of
    /// another shape does not. Without a `scope` in the answer a claim of that name counts.
    #[must_use]
    pub fn is_met_by(&self, claims: &Map<String, Value>, granted: Option<&str>) -> bool {
        match self {
            Requirement::Scope(any_of) => granted
                .or_else(|| claims.get("scope").and_then(Value::as_str))
                .is_some_and(|scopes| scopes.split(' ').any(|one| is_one_of(one, any_of))),
            Requirement::Claim { path, any_of } => match claim(claims, path) {
                Some(Value::Array(members)) => members.iter().any(|one| is_value_of(one, any_of)),
                Some(value) => is_value_of(value, any_of),
                None => false,
            },
            Requirement::EmailDomain(domains) => {
                let verified = claims.get("email_verified").is_none_or(|value| value == &Value::Bool(true));
                let email = claims.get("email").and_then(Value::as_str).unwrap_or_default();
                verified && domain_of(email).is_some_and(|domain| is_one_of(&domain, domains))
            }
        }
    }
}

/// The claim at `path`: the member of that very name, else dots go into objects.
#[must_use]
pub fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut steps = path.split('.');
    let first = claims.get(steps.next()?)?;
    steps.try_fold(first, |value, step| value.as_object()?.get(step))
}

/// The lower-cased domain of an address with exactly one `@`, in ASCII, without a trailing dot.
fn domain_of(email: &str) -> Option<String> {
    let (local, domain) = email.split_once('@')?;
    let plain = !local.is_empty()
        && !domain.is_empty()
        && domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        && !domain.ends_with('.');
    plain.then(|| domain.to_ascii_lowercase())
}

fn is_value_of(value: &Value, any_of: &[String]) -> bool {
    match value {
        Value::String(text) => is_one_of(text, any_of),
        Value::Bool(_) | Value::Number(_) => is_one_of(&value.to_string(), any_of),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

fn is_one_of(text: &str, any_of: &[String]) -> bool {
    any_of.iter().any(|wanted| wanted == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn met(requirement: &Requirement, claims: &Value) -> bool {
        requirement.is_met_by(claims.as_object().unwrap(), None)
    }

    #[test]
    fn claims_of_every_shape() {
        let admin = Requirement::Claim { path: "realm.roles".into(), any_of: vec!["admin".into(), "root".into()] };
        assert!(met(&admin, &json!({"realm": {"roles": ["user", "admin"]}})));
        assert!(met(&admin, &json!({"realm": {"roles": "root"}})));
        assert!(met(&admin, &json!({"realm.roles": "root"})));
        assert!(!met(&admin, &json!({"realm": {"roles": "root admin"}})));
        assert!(!met(&admin, &json!({"realm": {"roles": []}})));
        assert!(!met(&admin, &json!({"realm": "admin"})));
        assert!(!met(&admin, &json!({})));
        let flag = Requirement::Claim { path: "beta".into(), any_of: vec!["true".into()] };
        assert!(met(&flag, &json!({"beta": true})));
    }

    #[test]
    fn scopes_are_those_of_the_token() {
        let scope = Requirement::Scope(vec!["write".into(), "admin".into()]);
        for (granted, claims, met) in [
            (Some("read write"), json!({}), true),
            (Some("read writer"), json!({}), false),
            (Some("read"), json!({"scope": "admin"}), false),
            (None, json!({"scope": "read admin"}), true),
            (None, json!({}), false),
        ] {
            assert_eq!(scope.is_met_by(claims.as_object().unwrap(), granted), met, "{granted:?} {claims}");
        }
    }

    #[test]
    fn e_mail_domains_are_not_fooled() {
        let corp = Requirement::EmailDomain(vec!["corp.com".into()]);
        assert!(met(&corp, &json!({"email": "ada@corp.com"})));
        assert!(met(&corp, &json!({"email": "ada@CORP.com", "email_verified": true})));
        for email in
            ["attacker@evil.com@corp.com", "a@corp.com.", "a@xcorp.com", "@corp.com", "corp.com", "", "a@cörp.com"]
        {
            assert!(!met(&corp, &json!({ "email": email })), "{email}");
        }
        assert!(!met(&corp, &json!({"email": "ada@corp.com", "email_verified": false})));
        assert!(!met(&corp, &json!({"email": "ada@corp.com", "email_verified": "false"})));
    }
}
