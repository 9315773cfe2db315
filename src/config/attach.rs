//! `attach`: the credential of a route (SPEC §4).

use super::headers::{Use, own};
use super::own_tokens::{claims, is_unverifiable, ttl};
use super::providers::{Known, scope};
use super::raw::{Field, Table};
use super::routes::reference;
use super::values::{header_name, secret};
use crate::gateway::Attach;
use crate::session::own_token;
use crate::tokens::{ClientCredentials, assertion};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use std::time::Duration;
use toml::de::DeValue;

/// `attach`
pub(super) fn attach(field: &Field, tokens: &own_token::Settings, providers: &Known) -> Option<Attach> {
    const FORMS: &str = r#"it must be "bearer", "id_token", "never", or a table with `bearer`, `assertion`, `basic`, `api_key` or `client_credentials`"#;
    match field.value() {
        DeValue::String(_) => {
            let words = [("bearer", bearer()), ("id_token", Attach::IdToken), ("never", Attach::Never)];
            field.choice(&words, &["dpop"])
        }
        DeValue::Table(entries) if entries.len() != 1 => {
            field.hide();
            field.refuse("does not say one thing", FORMS)
        }
        DeValue::Table(_) => field.table(|table| {
            table.unavailable(&["exchange", "connection"]);
            let bearer = table.read("bearer", |field| field.table(attach_bearer)?);
            let assertion = table.read("assertion", |field| field.table(|table| attach_assertion(table, tokens))?);
            let basic = table.read("basic", |field| field.table(attach_basic)?);
            let api_key = table.read("api_key", |field| field.table(attach_api_key)?);
            let client_credentials =
                table.read("client_credentials", |field| field.table(|table| client_credentials(table, providers))?);
            bearer.or(assertion).or(basic).or(api_key).or(client_credentials)
        })?,
        _ => field.refuse_type(FORMS),
    }
}

/// `attach = "bearer"`, the default of routes that use a session.
pub(super) fn bearer() -> Attach {
    Attach::Bearer { header: AUTHORIZATION, scheme: "Bearer".to_owned() }
}

fn attach_bearer(table: &Table) -> Option<Attach> {
    let (header, scheme) = header_and_scheme(table);
    Some(Attach::Bearer { header: header?, scheme: scheme? })
}

fn attach_assertion(table: &Table, tokens: &own_token::Settings) -> Option<Attach> {
    let audience = table.require("audience", r#""https://api.internal""#, |field| audience(field, tokens));
    let claims = match table.field("claims") {
        Some(field) => field.table(claims),
        None => Some(tokens.claims.clone()),
    };
    let ttl = match table.field("ttl") {
        Some(field) => assertion_ttl(&field, tokens),
        None => Some(tokens.ttl.min(DEFAULT_ASSERTION_TTL)),
    };
    let (header, scheme) = header_and_scheme(table);
    if is_unverifiable(tokens) {
        let message =
            "nobody can verify `routes.attach.assertion`: it is signed with a secret that only the gateway has";
        table.warn("audience", message, r#"set `tokens.algorithm` to "EdDSA" or "ES256", or share a `tokens.key`"#);
    }
    let (audience, claims, ttl, header, scheme) = (audience?, claims?, ttl?, header?, scheme?);
    Some(Attach::Assertion(Arc::new(assertion::Settings { audience, claims, ttl, header, scheme })))
}

/// The issuer as its own audience is what tells the gateway's own tokens.
fn audience(field: &Field, tokens: &own_token::Settings) -> Option<String> {
    let audience = field.string()?;
    if audience == tokens.issuer {
        return field.refuse("is `tokens.issuer`: its own tokens are for the gateway itself", "name the upstream");
    }
    Some(audience.to_owned())
}

fn assertion_ttl(field: &Field, tokens: &own_token::Settings) -> Option<Duration> {
    let ttl = ttl(field)?;
    if ttl > tokens.ttl {
        return field.refuse("is longer than `tokens.ttl`", "make it shorter, or the other longer");
    }
    Some(ttl)
}

fn header_and_scheme(table: &Table) -> (Option<HeaderName>, Option<String>) {
    let header = match table.field("header") {
        Some(field) => header_name(&field).and_then(|name| own(&field, name, Use::Credential)),
        None => Some(AUTHORIZATION),
    };
    let scheme = match table.field("scheme") {
        Some(field) => scheme(&field),
        None => Some("Bearer".to_owned()),
    };
    (header, scheme)
}

const DEFAULT_ASSERTION_TTL: Duration = Duration::from_secs(300);

/// A token (RFC 9110 §11.1), or nothing for the bare access token.
fn scheme(field: &Field) -> Option<String> {
    let text = field.string_or_empty()?;
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+".contains(&byte)) {
        return field
            .refuse("is not an authentication scheme", r#"one word, as in "Bearer", or "" for the bare token"#);
    }
    Some(text.to_owned())
}

fn attach_basic(table: &Table) -> Option<Attach> {
    let username = table.require("username", r#""app""#, username);
    let password = table.require("password", r#"{ env = "PASSWORD" }"#, secret);
    let (username, password) = (username?, password?);
    let credentials = STANDARD.encode(format!("{username}:{}", password.expose_secret()));
    let mut value = HeaderValue::try_from(format!("Basic {credentials}")).ok()?;
    value.set_sensitive(true);
    Some(Attach::Basic(value))
}

/// RFC 7617 §2: no colon, no control characters.
fn username(field: &Field) -> Option<String> {
    let text = field.string()?;
    if text.contains(|char: char| char == ':' || char.is_control()) {
        return field.refuse("cannot be a user name", "no colon and no control characters (RFC 7617 §2)");
    }
    Some(text.to_owned())
}

fn attach_api_key(table: &Table) -> Option<Attach> {
    let header = table.read("header", |field| header_name(field).and_then(|name| own(field, name, Use::Credential)));
    let query = table.read("query", |field| Some(field.string()?.to_owned()));
    let value = table.require("value", r#"{ env = "API_KEY" }"#, |field| api_key(field, table.has("header")));
    match (table.has("header"), table.has("query")) {
        (true, false) => {
            let mut value = HeaderValue::from_str(value?.expose_secret()).ok()?;
            value.set_sensitive(true);
            Some(Attach::ApiKeyHeader(header?, value))
        }
        (false, true) => Some(Attach::ApiKeyQuery(query?, value?)),
        _ => {
            table.refuse(
                "query",
                "`routes.attach.api_key` needs either `header` or `query`",
                r#"as in `header = "X-API-Key"`"#,
            );
            None
        }
    }
}

fn client_credentials(table: &Table, providers: &Known) -> Option<Attach> {
    let provider = table.require("provider", r#""corp""#, |field| reference(field, "provider", &providers.names));
    let audience = table.read("audience", |field| Some(field.string()?.to_owned()));
    let scope = table.read("scope", |field| field.one_or_more(scope));
    let provider = provider?;
    if providers.without_own_tokens.contains(&provider) {
        let message = format!("`{provider}` gives the gateway no tokens in its own name");
        table.refuse("provider", message, "an OAuth provider where the gateway has a secret (RFC 6749 §4.4)");
    }
    Some(Attach::ClientCredentials(ClientCredentials {
        provider: provider.into(),
        audience,
        scope: scope.map(|scope| scope.join(" ")),
    }))
}

fn api_key(field: &Field, for_header: bool) -> Option<SecretString> {
    let value = secret(field)?;
    if for_header && HeaderValue::from_str(value.expose_secret()).is_err() {
        return field.refuse("cannot be the value of a header", "visible ASCII characters, spaces and tabs");
    }
    Some(value)
}
