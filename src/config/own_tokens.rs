//! `[tokens]`: what the gateway's own tokens and its assertions say, and what they are signed with.

use super::raw::{Field, Table, quoted};
use super::values::{claim_path, positive_duration, secret};
use crate::session::StoreSettings;
use crate::session::claims::{ClaimRule, ClaimSource, MOST_CLAIM_BYTES, RESERVED};
use crate::session::own_token::Settings;
use crate::session::signing::{Algorithm, NotAKey, SigningKey};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::time::Duration;
use toml::de::DeValue;
use url::Url;

/// `[tokens]`
pub(super) fn read(table: &Table, store: &StoreSettings, external_url: &Url) -> Settings {
    let words = [("HS256", Algorithm::Hs256), ("ES256", Algorithm::Es256), ("EdDSA", Algorithm::EdDsa)];
    let algorithm = match table.field("algorithm") {
        Some(field) => field.choice(&words, &[]),
        None => Some(Algorithm::default()),
    };
    let keys = table.read("key", |field| {
        field.hide();
        keys(field, algorithm?)
    });
    let is_shared = matches!(store, StoreSettings::Redis(_) | StoreSettings::Cookie);
    if algorithm == Some(Algorithm::Es256) && is_shared && !table.has("key") {
        let message = "`tokens.key` is missing: with this `session.store` there may be several gateways, and each would \
                       make an ES256 key of its own";
        let help =
            format!("make one with `{}`, and add `key = {{ file = \"es256.pem\" }}`", how_to_make(Algorithm::Es256));
        table.refuse("key", message, &help);
    }
    let issuer = table.read("issuer", issuer);
    Settings {
        algorithm: algorithm.unwrap_or_default(),
        ttl: table.read("ttl", ttl).unwrap_or(Duration::from_secs(3600)),
        claims: table.table("claims", claims),
        issuer: issuer.unwrap_or_else(|| external_url.origin().ascii_serialization()),
        keys: keys.unwrap_or_default(),
        update_claims: table.read("update_claims", Field::boolean).unwrap_or(false),
    }
}

/// `tokens.aliases`
pub(super) fn aliases(table: &Table) -> bool {
    table.read("aliases", Field::boolean).unwrap_or(false)
}

/// A `claims` table: each claim of a token, and where it comes from.
pub(super) fn claims(table: &Table) -> Vec<ClaimRule> {
    let mut rules = Vec::new();
    for field in table.all() {
        let name = field.key().to_owned();
        let source = claim_source(&field);
        if RESERVED.contains(&name.as_str()) {
            let help = format!("another name than {}", quoted(RESERVED, ", "));
            field
                .refuse_key(format!("`{name}` is a claim that the gateway writes, or that means something else"), help);
            continue;
        }
        rules.extend(source.map(|source| ClaimRule { name, source }));
    }
    rules
}

/// How long a token lives: JWTs count in whole seconds (RFC 7519 §2).
pub(super) fn ttl(field: &Field) -> Option<Duration> {
    match positive_duration(field)? {
        ttl if ttl < Duration::from_secs(1) => field.refuse("is shorter than a second", "tokens count in seconds"),
        ttl => Some(ttl),
    }
}

/// Whether nobody but the gateway has what its tokens are verified with.
pub(super) fn is_unverifiable(tokens: &Settings) -> bool {
    tokens.algorithm == Algorithm::Hs256 && tokens.keys.is_empty()
}

/// One key or several: the first signs, all verify.
fn keys(field: &Field, algorithm: Algorithm) -> Option<Vec<SigningKey>> {
    let keys = field.one_or_more(|item| signing_key(item, algorithm))?;
    let is_twice = |(at, key): (usize, &SigningKey)| keys[..at].iter().any(|other| other.kid() == key.kid());
    if keys.iter().enumerate().any(is_twice) {
        return field.refuse("names a key twice", "take one of them out");
    }
    Some(keys)
}

fn signing_key(field: &Field, algorithm: Algorithm) -> Option<SigningKey> {
    let text = secret(field)?;
    let text = text.expose_secret();
    let help = || format!("make one with `{}`", how_to_make(algorithm));
    match algorithm {
        Algorithm::Hs256 if text.len() < 32 => field.refuse("is shorter than 32 bytes (RFC 7518 §3.2)", help()),
        Algorithm::Hs256 if text.trim_start().starts_with("-----BEGIN") => field.refuse(
            "is a PEM, and HS256 signs with a shared secret",
            r#"set `tokens.algorithm` to "ES256" or "EdDSA", or give it a random text"#,
        ),
        Algorithm::Hs256 => Some(SigningKey::shared(text.as_bytes())),
        Algorithm::Es256 | Algorithm::EdDsa => match SigningKey::from_pem(algorithm, text) {
            Ok(key) => Some(key),
            Err(NotAKey) => field.refuse("is no private key for this algorithm, in a PKCS#8 PEM", help()),
        },
    }
}

fn how_to_make(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Hs256 => "openssl rand -base64 48",
        Algorithm::Es256 => "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        Algorithm::EdDsa => "openssl genpkey -algorithm ed25519",
    }
}

/// A StringOrURI (RFC 7519 §2): a URL, or a name.
fn issuer(field: &Field) -> Option<String> {
    let text = field.string()?;
    let is_fit = text.bytes().all(|byte| byte.is_ascii_graphic()) && (!text.contains(':') || Url::parse(text).is_ok());
    if !is_fit {
        return field.refuse("is neither a URL nor a name", r#"as in "https://gateway.example.com" (RFC 7519 §2)"#);
    }
    Some(text.to_owned())
}

/// A path in the user's claims, or `{ value = … }` for the same in every token.
fn claim_source(field: &Field) -> Option<ClaimSource> {
    const HELP: &str = r#"a path in the user's claims, as in "address.country", or { value = … }"#;
    match field.value() {
        DeValue::String(_) => claim_path(field).map(ClaimSource::User),
        DeValue::Table(_) => {
            field.table(|table| table.require("value", r#""acme""#, static_value)).flatten().map(ClaimSource::Static)
        }
        _ => field.refuse_type(HELP),
    }
}

fn static_value(field: &Field) -> Option<Value> {
    let value = match field.value() {
        DeValue::Array(_) => Value::Array(field.list(scalar)?),
        _ => scalar(field)?,
    };
    if value.to_string().len() > MOST_CLAIM_BYTES {
        return field.refuse("is too large for a claim", format!("at most {MOST_CLAIM_BYTES} bytes as JSON"));
    }
    Some(value)
}

fn scalar(field: &Field) -> Option<Value> {
    match field.value() {
        DeValue::String(text) => Some(text.as_ref().into()),
        DeValue::Boolean(value) => Some((*value).into()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Some(number.into()),
            Err(_) => field.refuse("is out of range", "a whole number of 64 bits"),
        },
        _ => field.refuse_type("a string, a whole number, a boolean, or a list of them"),
    }
}
