//! Providers that everybody knows: their endpoints, scopes and quirks, from a few keys. What a preset fills in, its table overrides
//! where it has the key.

use super::providers::{Client, DEFAULT_OIDC_SCOPES, oidc_scopes, owned, registered_client, scopes};
use super::raw::{Field, Table};
use super::values::{claim_path, provider_url};
use crate::provider::{
    ClaimSource, ClientAuth, Dialect, Kind, Quirk, TENANT_PLACEHOLDER, is_guid, is_owned_parameter, is_reserved_claim,
};
use url::{Host, Url};

/// A `kind` that is short for an `oidc` or `oauth2` provider.
#[derive(Clone, Copy)]
pub(super) enum Preset {
    Google,
    GitHub,
    Auth0,
    Microsoft,
    GitLab,
    Keycloak,
    Okta,
    Discord,
}

impl Preset {
    /// What people know it as.
    pub(super) fn title(self) -> &'static str {
        match self {
            Preset::Google => "Google",
            Preset::GitHub => "GitHub",
            Preset::Auth0 => "Auth0",
            Preset::Microsoft => "Microsoft",
            Preset::GitLab => "GitLab",
            Preset::Keycloak => "Keycloak",
            Preset::Okta => "Okta",
            Preset::Discord => "Discord",
        }
    }

    /// What is asked for when the table does not say. Google, GitLab and Keycloak give refresh tokens without `offline_access`;
    /// Google refuses a login over it, and Keycloak would make of it a session that outlives a logout.
    fn scopes(self) -> &'static [&'static str] {
        match self {
            Preset::Google | Preset::GitLab | Preset::Keycloak => &["openid", "profile", "email"],
            Preset::Auth0 | Preset::Microsoft | Preset::Okta => &DEFAULT_OIDC_SCOPES,
            Preset::GitHub => &["read:user", "user:email"],
            Preset::Discord => &["identify", "email"],
        }
    }

    /// How its token endpoint expects a secret, by its documentation.
    fn client_auth(self) -> ClientAuth {
        match self {
            Preset::GitHub | Preset::Auth0 | Preset::Microsoft => ClientAuth::ClientSecretPost,
            _ => ClientAuth::ClientSecretBasic,
        }
    }
}

/// The table of a preset.
pub(super) fn read(preset: Preset, table: &Table) -> Option<Client> {
    let described = match preset {
        Preset::Google => google(table),
        Preset::GitHub => github(table),
        Preset::Auth0 => auth0(table),
        Preset::Microsoft => microsoft(table),
        Preset::GitLab => gitlab(table),
        Preset::Keycloak => keycloak(table),
        Preset::Okta => okta(table),
        Preset::Discord => discord(),
    };
    let scopes = match preset {
        Preset::GitHub | Preset::Discord => table.read("scopes", scopes).unwrap_or_else(|| owned(preset.scopes())),
        _ => oidc_scopes(table, preset.scopes()),
    };
    let client = registered_client(table, preset.client_auth());
    let (client_id, client_secret, client_auth) = client?;
    let (kind, dialect) = described?;
    Some(Client { kind, client_id, client_secret, client_auth, scopes, dialect })
}

/// `authorization_params` and `claims`, which all providers with OAuth have, laid over what a preset says.
pub(super) fn customized(table: &Table, client: Option<Client>) -> Option<Client> {
    let parameters = table.read("authorization_params", authorization_params).unwrap_or_default();
    let claims = table.read("claims", claims).unwrap_or_default();
    let mut client = client?;
    let Dialect { authorization_params: preset, claims: sources, .. } = &mut client.dialect;
    preset.retain(|(name, _)| !parameters.iter().any(|(own, _)| own == name));
    preset.extend(parameters);
    sources.retain(|source| !claims.iter().any(|own| own.claim == source.claim));
    sources.extend(claims);
    Some(client)
}

fn google(table: &Table) -> Option<(Kind, Dialect)> {
    let hosted_domain = table.read("hosted_domain", domain);
    // A refresh token comes with both, and with the first alone only when somebody consents for the first time.
    let mut authorization_params = parameters(&[("access_type", "offline"), ("prompt", "consent")]);
    let quirk = match hosted_domain {
        Some(domain) => {
            authorization_params.push(("hd".to_owned(), domain.clone()));
            Quirk::HostedDomain(domain)
        }
        None => Quirk::None,
    };
    let kind = Kind::Oidc { issuer: "https://accounts.google.com".to_owned() };
    Some((kind, Dialect { authorization_params, claims: Vec::new(), quirk }))
}

fn github(table: &Table) -> Option<(Kind, Dialect)> {
    let base = base_url(table, "https://github.com")?;
    let api = match Url::parse(&base).ok()?.host_str()? {
        "github.com" => "https://api.github.com".to_owned(),
        // GitHub Enterprise Cloud with data residency
        host if host.ends_with(".ghe.com") => format!("https://api.{host}"),
        // GitHub Enterprise Server
        _ => format!("{base}/api/v3"),
    };
    let kind = oauth2(&OAuth2Endpoints {
        authorization: format!("{base}/login/oauth/authorize"),
        token: format!("{base}/login/oauth/access_token"),
        userinfo: format!("{api}/user"),
        revocation: None,
    })?;
    let claims = sources(&[
        ("name", &["name", "login"]),
        ("preferred_username", &["login"]),
        ("picture", &["avatar_url"]),
        ("profile", &["html_url"]),
    ]);
    Some((kind, Dialect { authorization_params: Vec::new(), claims, quirk: Quirk::GitHub { api } }))
}

fn auth0(table: &Table) -> Option<(Kind, Dialect)> {
    let domain = table.require("domain", r#""example.eu.auth0.com""#, domain);
    let audience = table.read("audience", |audience| Some(audience.string()?.to_owned()));
    let domain = domain?;
    let authorization_params = audience.map(|audience| ("audience".to_owned(), audience)).into_iter().collect();
    let logout_endpoint = Url::parse(&format!("https://{domain}/v2/logout")).ok()?;
    // The slash belongs to it.
    let kind = Kind::Oidc { issuer: format!("https://{domain}/") };
    Some((kind, Dialect { authorization_params, claims: Vec::new(), quirk: Quirk::Auth0 { logout_endpoint } }))
}

fn microsoft(table: &Table) -> Option<(Kind, Dialect)> {
    let base = base_url(table, "https://login.microsoftonline.com");
    let tenant = match table.field("tenant") {
        Some(field) => tenant(&field),
        None => Some("common".to_owned()),
    };
    let allowed_tenants = table.read("allowed_tenants", |field| field.nonempty_list(tenant_id));
    let (base, tenant) = (base?, tenant?);
    let issuer = format!("{base}/{tenant}/v2.0");
    let quirk = match is_guid(&tenant) {
        true => {
            if table.has("allowed_tenants") {
                table.refuse(
                    "allowed_tenants",
                    "`allowed_tenants` has nothing to choose from: `tenant` is one",
                    r#"take it out, or make it `tenant = "organizations"`"#,
                );
            }
            Quirk::None
        }
        false => Quirk::Microsoft {
            issuer: format!("{base}/{TENANT_PLACEHOLDER}/v2.0"),
            allowed_tenants: allowed_tenants.unwrap_or_default(),
        },
    };
    Some((Kind::Oidc { issuer }, Dialect { quirk, ..Dialect::default() }))
}

fn gitlab(table: &Table) -> Option<(Kind, Dialect)> {
    let issuer = base_url(table, "https://gitlab.com")?;
    Some((Kind::Oidc { issuer }, Dialect::default()))
}

fn keycloak(table: &Table) -> Option<(Kind, Dialect)> {
    let base = table.require("base_url", r#""https://sso.example.com""#, without_slash);
    let realm = table.require("realm", r#""staff""#, segment);
    let issuer = format!("{}/realms/{}", base?, realm?);
    Some((Kind::Oidc { issuer }, Dialect::default()))
}

fn okta(table: &Table) -> Option<(Kind, Dialect)> {
    let domain = table.require("domain", r#""example.okta.com""#, domain);
    let server = table.read("authorization_server", segment);
    let domain = domain?;
    let issuer = match (server, table.has("authorization_server")) {
        (Some(server), _) => format!("https://{domain}/oauth2/{server}"),
        (None, false) => format!("https://{domain}"),
        (None, true) => return None,
    };
    Some((Kind::Oidc { issuer }, Dialect::default()))
}

fn discord() -> Option<(Kind, Dialect)> {
    let kind = oauth2(&OAuth2Endpoints {
        authorization: "https://discord.com/oauth2/authorize".to_owned(),
        token: "https://discord.com/api/oauth2/token".to_owned(),
        userinfo: "https://discord.com/api/v10/users/@me".to_owned(),
        revocation: Some("https://discord.com/api/oauth2/token/revoke".to_owned()),
    })?;
    let claims = sources(&[
        ("name", &["global_name", "username"]),
        ("preferred_username", &["username"]),
        ("email_verified", &["verified"]),
    ]);
    Some((kind, Dialect { authorization_params: Vec::new(), claims, quirk: Quirk::Discord }))
}

struct OAuth2Endpoints {
    authorization: String,
    token: String,
    userinfo: String,
    revocation: Option<String>,
}

/// A provider that names its users by `id`.
fn oauth2(endpoints: &OAuth2Endpoints) -> Option<Kind> {
    Some(Kind::OAuth2 {
        authorization_endpoint: Url::parse(&endpoints.authorization).ok()?,
        token_endpoint: Url::parse(&endpoints.token).ok()?,
        userinfo_endpoint: Url::parse(&endpoints.userinfo).ok()?,
        revocation_endpoint: match &endpoints.revocation {
            Some(url) => Some(Url::parse(url).ok()?),
            None => None,
        },
        subject: Some("id".to_owned()),
    })
}

fn parameters(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn sources(claims: &[(&str, &[&str])]) -> Vec<ClaimSource> {
    claims.iter().map(|(claim, paths)| ClaimSource { claim: (*claim).to_owned(), paths: owned(paths) }).collect()
}

/// `authorization_params`: strings by name. What the gateway says itself is left out, with a warning.
fn authorization_params(field: &Field) -> Option<Vec<(String, String)>> {
    field.table(|table| {
        let parameter = |field: Field| {
            let (name, value) = (field.key().to_owned(), field.string()?.to_owned());
            if name == "max_age" && !value.bytes().all(|byte| byte.is_ascii_digit()) {
                return field.refuse("is not a number of seconds", r#"digits, as in "300""#);
            }
            if is_owned_parameter(&name) {
                field.warn("is ignored: the gateway sets this parameter itself", "take it out");
                return Some(None);
            }
            Some(Some((name, value)))
        };
        let read: Vec<_> = table.all().map(parameter).collect();
        let read: Option<Vec<_>> = read.into_iter().collect();
        read.map(|parameters| parameters.into_iter().flatten().collect())
    })?
}

/// `claims`: the path of each in what the provider says.
fn claims(field: &Field) -> Option<Vec<ClaimSource>> {
    field.table(|table| {
        let source = |field: Field| {
            if is_reserved_claim(field.key()) {
                field.refuse_key(
                    format!("`{}` cannot come from elsewhere: it says who signed in, where or how", field.key()),
                    r#"another name; with `kind = "oauth2"`, `subject` says which member names the user"#,
                );
                return None;
            }
            Some(ClaimSource { claim: field.key().to_owned(), paths: vec![claim_path(&field)?] })
        };
        let read: Vec<_> = table.all().map(source).collect();
        read.into_iter().collect()
    })?
}

/// `base_url`, without the slash at its end.
fn base_url(table: &Table, default: &str) -> Option<String> {
    match table.field("base_url") {
        Some(field) => without_slash(&field),
        None => Some(default.to_owned()),
    }
}

fn without_slash(field: &Field) -> Option<String> {
    if provider_url(field)?.query().is_some() {
        return field.refuse("has a query", "scheme, host and path only");
    }
    Some(field.string()?.trim_end_matches('/').to_owned())
}

/// A host name, as in `example.okta.com`.
fn domain(field: &Field) -> Option<String> {
    let text = field.string()?;
    match Url::parse(&format!("https://{text}/")) {
        Ok(url) if matches!(url.host(), Some(Host::Domain(host)) if host == text) && url.path() == "/" => {
            Some(text.to_owned())
        }
        _ => field.refuse("is not a host name", r#"lower-case, without scheme and path, as in "login.example.com""#),
    }
}

/// One segment of a path, unreserved characters only (RFC 3986 §2.3).
fn segment(field: &Field) -> Option<String> {
    let text = field.string()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    match text.bytes().all(plain) && text != "." && text != ".." {
        true => Some(text.to_owned()),
        false => field.refuse(
            "does not fit into an issuer",
            r#"letters, digits, `-`, `.`, `_` and `~`; else `kind = "oidc"` with the whole issuer"#,
        ),
    }
}

/// The last stands for one tenant, that of personal accounts.
fn tenant(field: &Field) -> Option<String> {
    match field.string()? {
        several @ ("common" | "organizations") => Some(several.to_owned()),
        "consumers" => Some(PERSONAL_ACCOUNTS.to_owned()),
        _ => tenant_id(field),
    }
}

/// By its domain a tenant can be found, but its tokens name it by its id.
fn tenant_id(field: &Field) -> Option<String> {
    let text = field.string()?.to_ascii_lowercase();
    if !is_guid(&text) {
        return field.refuse(
            "is not the id of a tenant",
            r#"the directory (tenant) id, 32 hexadecimal digits in five groups; `tenant` may also be "common", "organizations" or "consumers""#,
        );
    }
    Some(text)
}

/// The tenant of all personal Microsoft accounts.
const PERSONAL_ACCOUNTS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

#[cfg(test)]
mod tests;
