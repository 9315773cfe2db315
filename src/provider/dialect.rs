//! Where a provider goes its own way: what it is sent beyond the standards, whose tokens it signs, and how what it says of a user
//! becomes claims. A provider that keeps to the standards has the default.

use super::json;
use super::verify::TokenError;
use crate::policy::require;
use serde_json::{Map, Value};
use url::Url;

/// How to talk to one provider.
#[derive(Debug, Clone, Default)]
pub struct Dialect {
    /// Parameters of the authorization request, for what the caller does not say. No name twice, none that the gateway sets itself.
    pub authorization_params: Vec<(String, String)>,
    /// Claims that come from a place of their own, and from nowhere else. No claim twice.
    pub claims: Vec<ClaimSource>,
    /// What only this kind does.
    pub quirk: Quirk,
}

/// Where a claim comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimSource {
    /// Its name here.
    pub claim: String,
    /// Claim paths in what the provider says; the first that leads to something other than null counts.
    pub paths: Vec<String>,
}

/// What one kind of provider does as no other.
#[derive(Debug, Clone, Default)]
pub enum Quirk {
    /// Nothing.
    #[default]
    None,
    /// Google Workspace: accounts of this domain only, which ID tokens prove with `hd`.
    HostedDomain(String),
    /// GitHub: addresses have an endpoint of their own, scopes are divided by commas, access tokens are revoked by another API.
    GitHub {
        /// `https://api.github.com`, or `{base_url}/api/v3`; no trailing slash.
        api: String,
    },
    /// Auth0: a logout of its own where the metadata names none.
    Auth0 {
        /// `https://{domain}/v2/logout`.
        logout_endpoint: Url,
    },
    /// Microsoft for more than one tenant: the metadata has a template for an issuer, each ID token the issuer of its tenant.
    Microsoft {
        /// As the metadata has it, with [`TENANT_PLACEHOLDER`] in it.
        issuer: String,
        /// Tenant ids, lower-case; empty: any.
        allowed_tenants: Vec<String>,
    },
    /// Discord: a picture is the hash of one.
    Discord,
}

/// Where Microsoft's template has the id of a tenant.
pub const TENANT_PLACEHOLDER: &str = "{tenantid}";

/// Which `iss` is the provider's.
#[derive(Clone, Copy)]
pub(super) enum Issuer<'a> {
    /// This one, byte for byte.
    Exact(&'a str),
    /// That of the token's own tenant.
    OfTenant { template: &'a str, allowed: &'a [String] },
}

impl Dialect {
    /// The parameters of an authorization request: what the caller gives, then what it leaves out.
    pub(super) fn parameters<'a>(
        &'a self,
        given: &'a [(String, String)],
    ) -> impl Iterator<Item = &'a (String, String)> {
        let left_out = move |pair: &&(String, String)| !given.iter().any(|(name, _)| *name == pair.0);
        given.iter().chain(self.authorization_params.iter().filter(left_out))
    }

    /// Whether all claims with a place of their own are in `said`.
    pub(super) fn finds_all_in(&self, said: &Map<String, Value>) -> bool {
        self.claims.iter().all(|source| source.find(said).is_some())
    }

    /// The user's claims, by what the provider says.
    pub(super) fn claims_from(&self, mut said: Map<String, Value>) -> Map<String, Value> {
        self.quirk.prepare(&mut said);
        let mut claims = said.clone();
        if let Quirk::GitHub { .. } = self.quirk {
            // Two dozen links, half of the profile: a session does not carry them.
            claims.retain(|name, _| name != "url" && !name.ends_with("_url"));
        }
        for source in &self.claims {
            match source.find(&said) {
                Some(value) => claims.insert(source.claim.clone(), value.clone()),
                None => claims.shift_remove(&source.claim),
            };
        }
        self.keep_verified_apart(&said, &mut claims);
        claims
    }

    /// What makes one address verified says nothing of another that was put in its place.
    fn keep_verified_apart(&self, said: &Map<String, Value>, claims: &mut Map<String, Value>) {
        let is_mapped = self.claims.iter().any(|source| source.claim == "email_verified");
        let is_another = claims.get("email") != said.get("email");
        if is_another && !is_mapped && claims.get("email_verified") == Some(&Value::Bool(true)) {
            claims.shift_remove("email_verified");
        }
    }
}

impl ClaimSource {
    fn find<'a>(&self, said: &'a Map<String, Value>) -> Option<&'a Value> {
        self.paths.iter().find_map(|path| require::claim(said, path).filter(|value| !value.is_null()))
    }
}

impl Quirk {
    /// Whether the user of a verified ID token is one of those who may come.
    pub(super) fn admit(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        match self {
            Quirk::HostedDomain(domain) if claims.get("hd").and_then(Value::as_str) != Some(domain) => {
                Err(TokenError::HostedDomain)
            }
            _ => Ok(()),
        }
    }

    /// Says in OpenID Connect's words what this kind says in its own.
    fn prepare(&self, said: &mut Map<String, Value>) {
        match self {
            // Any tenant's administrator writes any address there; `xms_edov` tells whether the domain is the tenant's.
            Quirk::Microsoft { .. } if said.contains_key("email") => {
                let is_verified = match said.get("xms_edov") {
                    Some(Value::Bool(owned)) => *owned,
                    Some(Value::Number(owned)) => owned.as_u64() == Some(1),
                    Some(Value::String(owned)) => owned == "1" || owned.eq_ignore_ascii_case("true"),
                    _ => false,
                };
                said.insert("email_verified".to_owned(), is_verified.into());
            }
            Quirk::Discord => {
                if let (Some(id), Some(hash)) = (json::text(said, "id"), json::text(said, "avatar")) {
                    let format = if hash.starts_with("a_") { "gif" } else { "png" };
                    let picture = format!("https://cdn.discordapp.com/avatars/{id}/{hash}.{format}");
                    said.insert("picture".to_owned(), picture.into());
                }
            }
            _ => {}
        }
    }
}

impl Issuer<'_> {
    /// Whether a token with these claims is from the provider. A tenant's token says twice whose it is, and means the same.
    pub(super) fn check(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        let issuer = claims.get("iss").and_then(Value::as_str).ok_or(TokenError::Issuer)?;
        match self {
            Issuer::Exact(own) if issuer == *own => Ok(()),
            Issuer::Exact(_) => Err(TokenError::Issuer),
            Issuer::OfTenant { template, allowed } => {
                let tenant = tenant_of(issuer, template).ok_or(TokenError::Issuer)?;
                if json::text(claims, "tid") != Some(tenant) {
                    return Err(TokenError::Issuer);
                }
                is_allowed(tenant, allowed).then_some(()).ok_or(TokenError::Tenant)
            }
        }
    }

    /// Whether a key whose JWKS entry has this `issuer` may sign for who a token says it is from: the keys of several tenants stand in
    /// one set, and Microsoft says whose is whose.
    pub(super) fn owns(&self, key_issuer: Option<&str>, claims: &Map<String, Value>) -> bool {
        match (self, key_issuer) {
            (Issuer::Exact(_), _) | (Issuer::OfTenant { .. }, None) => true,
            (Issuer::OfTenant { .. }, Some(signs_for)) => {
                let tenant = json::text(claims, "tid").unwrap_or_default();
                json::text(claims, "iss").is_some_and(|issuer| signs_for.replace(TENANT_PLACEHOLDER, tenant) == issuer)
            }
        }
    }

    /// Whether something that names its issuer alone is from the provider.
    pub(super) fn is(&self, issuer: &str) -> bool {
        match self {
            Issuer::Exact(own) => issuer == *own,
            Issuer::OfTenant { template, allowed } => {
                tenant_of(issuer, template).is_some_and(|tenant| is_allowed(tenant, allowed))
            }
        }
    }
}

fn is_allowed(tenant: &str, allowed: &[String]) -> bool {
    allowed.is_empty() || allowed.iter().any(|one| one == tenant)
}

/// What stands for [`TENANT_PLACEHOLDER`] in an issuer: a GUID in lower case, or it is none.
fn tenant_of<'a>(issuer: &'a str, template: &str) -> Option<&'a str> {
    let (before, after) = template.split_once(TENANT_PLACEHOLDER)?;
    issuer.strip_prefix(before)?.strip_suffix(after).filter(|tenant| is_guid(tenant))
}

/// 32 hexadecimal digits, lower-case, in groups of 8, 4, 4, 4 and 12.
#[must_use]
pub fn is_guid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.concat().bytes().all(is_hex)
}

/// Claims that no mapping may set: who the user is, what the token is, how and where the user was authenticated.
#[must_use]
pub fn is_reserved_claim(name: &str) -> bool {
    RESERVED_CLAIMS.contains(&name)
}

const RESERVED_CLAIMS: [&str; 16] = [
    "sub",
    "iss",
    "aud",
    "exp",
    "iat",
    "nbf",
    "jti",
    "azp",
    "nonce",
    "auth_time",
    "acr",
    "amr",
    "sid",
    "at_hash",
    "c_hash",
    "provider",
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEMPLATE: &str = "https://login.microsoftonline.com/{tenantid}/v2.0";
    const TENANT_A: &str = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490";
    const TENANT_B: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn at(tenant: &str) -> String {
        TEMPLATE.replace(TENANT_PLACEHOLDER, tenant)
    }

    #[test]
    fn g_6_an_issuer_is_that_of_the_tokens_own_tenant() {
        for (iss, tid, expected) in [
            (at(TENANT_A), json!(TENANT_A), Ok(())),
            (at(TENANT_B), json!(TENANT_B), Err(TokenError::Tenant)),
            (at(TENANT_A), json!(TENANT_B), Err(TokenError::Issuer)),
            (at(TENANT_A), json!(null), Err(TokenError::Issuer)),
            (at("common"), json!("common"), Err(TokenError::Issuer)),
            (at(""), json!(""), Err(TokenError::Issuer)),
            (at(TENANT_PLACEHOLDER), json!(TENANT_PLACEHOLDER), Err(TokenError::Issuer)),
            (at("a/b"), json!("a/b"), Err(TokenError::Issuer)),
            (format!("https://evil.example/{TENANT_A}/v2.0"), json!(TENANT_A), Err(TokenError::Issuer)),
            (at(&TENANT_A.to_uppercase()), json!(TENANT_A.to_uppercase()), Err(TokenError::Issuer)),
        ] {
            let allowed = [TENANT_A.to_owned()];
            let issuer = Issuer::OfTenant { template: TEMPLATE, allowed: &allowed };
            assert_eq!(issuer.check(&map(json!({ "iss": iss, "tid": tid }))), expected, "{iss} {tid}");
        }
        let anybody = Issuer::OfTenant { template: TEMPLATE, allowed: &[] };
        assert_eq!(anybody.check(&map(json!({ "iss": at(TENANT_B), "tid": TENANT_B }))), Ok(()));
        assert!(anybody.is(&at(TENANT_B)) && !anybody.is(TEMPLATE));
    }

    #[test]
    fn a_key_of_one_tenant_signs_for_no_other() {
        let issuer = Issuer::OfTenant { template: TEMPLATE, allowed: &[] };
        let claims = map(json!({ "iss": at(TENANT_A), "tid": TENANT_A }));
        for (key, signs) in [
            (None, true),
            (Some(TEMPLATE.to_owned()), true),
            (Some(at(TENANT_A)), true),
            (Some(at(TENANT_B)), false),
            (Some("https://sts.example/{tenantid}/".to_owned()), false),
        ] {
            assert_eq!(issuer.owns(key.as_deref(), &claims), signs, "{key:?}");
        }
        assert!(Issuer::Exact("https://op.example").owns(Some("anything"), &claims));
    }

    #[test]
    fn g_5_a_mapped_claim_comes_from_its_place_and_from_nowhere_else() {
        let source = |claim: &str, paths: &[&str]| ClaimSource {
            claim: claim.to_owned(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        };
        let dialect = Dialect {
            claims: vec![
                source("email", &["mail"]),
                source("name", &["profile.display", "nick"]),
                source("nick", &["name"]),
            ],
            ..Dialect::default()
        };
        for (said, claims) in [
            (
                json!({ "mail": "ada@corp.example", "email": "typed@by.hand", "profile": { "display": "Ada" } }),
                json!({ "mail": "ada@corp.example", "email": "ada@corp.example", "profile": { "display": "Ada" }, "name": "Ada" }),
            ),
            (json!({ "email": "typed@by.hand" }), json!({})),
            (json!({ "mail": null, "email": "typed@by.hand" }), json!({ "mail": null })),
            (json!({ "name": "A", "nick": "B" }), json!({ "name": "B", "nick": "A" })),
        ] {
            assert_eq!(Value::Object(dialect.claims_from(map(said.clone()))), claims, "{said}");
        }
        assert!(dialect.finds_all_in(&map(json!({ "mail": "a", "nick": "b", "name": "c" }))));
        assert!(!dialect.finds_all_in(&map(json!({ "mail": "a", "nick": "b" }))));
    }

    #[test]
    fn a_verified_address_vouches_for_no_other() {
        let source = |claim: &str, path: &str| ClaimSource { claim: claim.to_owned(), paths: vec![path.to_owned()] };
        let email = || source("email", "preferred_username");
        for (sources, username, said, verified) in [
            (vec![], "ceo@bank.example", json!(true), json!(true)),
            (vec![email()], "ceo@bank.example", json!(true), json!(null)),
            (vec![email()], "ada@corp.example", json!(true), json!(true)),
            (vec![email()], "ceo@bank.example", json!(false), json!(false)),
            (vec![email(), source("email_verified", "owned")], "ceo@bank.example", json!(false), json!(true)),
        ] {
            let said = json!({ "email": "ada@corp.example", "email_verified": said, "preferred_username": username, "owned": true });
            let claims = Dialect { claims: sources.clone(), ..Dialect::default() }.claims_from(map(said.clone()));
            assert_eq!(claims.get("email_verified").cloned().unwrap_or_default(), verified, "{sources:?} {said}");
        }
    }

    #[test]
    fn an_address_at_microsoft_is_the_users_when_the_domain_is_the_tenants() {
        let quirk = Quirk::Microsoft { issuer: TEMPLATE.to_owned(), allowed_tenants: Vec::new() };
        let dialect = Dialect { quirk, ..Dialect::default() };
        for (owned, verified) in [
            (json!(null), false),
            (json!(true), true),
            (json!("1"), true),
            (json!(1), true),
            (json!("True"), true),
            (json!("0"), false),
            (json!(false), false),
        ] {
            let claims = map(json!({ "email": "ceo@bank.example", "email_verified": true, "xms_edov": owned }));
            assert_eq!(dialect.claims_from(claims)["email_verified"], json!(verified), "{owned}");
        }
        assert!(!dialect.claims_from(map(json!({ "sub": "a" }))).contains_key("email_verified"));
    }

    #[test]
    fn what_the_caller_says_comes_before_what_the_file_says() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let authorization_params = vec![pair("prompt", "consent"), pair("access_type", "offline")];
        let dialect = Dialect { authorization_params, ..Dialect::default() };
        let given = [pair("prompt", "none"), pair("login_hint", "ada")];
        let all: Vec<_> = dialect.parameters(&given).cloned().collect();
        assert_eq!(all, [pair("prompt", "none"), pair("login_hint", "ada"), pair("access_type", "offline")]);
    }
}
