//! `[providers.NAME]`

use super::backend::backend;
use super::presets::{self, Preset};
use super::raw::{Field, Table, quoted};
use super::report::Problem;
use super::values::{claim_path, positive_duration, provider_url, secret};
use crate::provider::{ClientAuth, Dialect, Kind, MockSettings, Settings};
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use std::time::Duration;
use toml::de::DeValue;
use url::Url;

/// The checked tables, and what routes must know of all of them, wrong ones included.
pub(super) fn read(providers: &Table, external_url: &Url, timeout: Duration) -> (Vec<Settings>, Known) {
    let fields: Vec<Field> = providers.all().collect();
    let mut known = Known { names: Vec::new(), without_own_tokens: Vec::new(), backends: Vec::new(), mock: false };
    let mut first_mock: Option<&Field> = None;
    let mut checked = Vec::new();
    for field in &fields {
        check_name(field);
        known.names.push(field.key().to_owned());
        let mut title = None;
        let settings = field.table(|table| {
            let kind = table.require("kind", r#""oidc""#, |kind| kind.choice(KINDS, &[]));
            if matches!(kind, Some(KindName::Mock)) {
                known.mock = true;
                match first_mock {
                    None => first_mock = Some(field),
                    Some(first) => table.check().report(
                        Problem::error(field.key_span(), "there are two mock providers")
                            .related(first.key_span(), "the first one")
                            .help("keep one, and give it more `users`"),
                    ),
                }
            }
            if matches!(kind, Some(KindName::Backend) | None) {
                known.backends.push(field.key().to_owned());
            }
            let client = match kind {
                Some(KindName::Oidc) => presets::customized(table, oidc(table)),
                Some(KindName::OAuth2) => presets::customized(table, oauth2(table)),
                Some(KindName::Preset(preset)) => presets::customized(table, presets::read(preset, table)),
                Some(KindName::Mock) => presets::customized(table, mock(table, external_url)),
                Some(KindName::Backend) => backend(table).map(|settings| Client::none(Kind::Backend(settings))),
                None => {
                    table.accept_any_key();
                    None
                }
            };
            title = table.read("title", |title| Some(title.string()?.to_owned()));
            if let (None, Some(KindName::Preset(preset))) = (&title, kind) {
                title = Some(preset.title().to_owned());
            }
            client
        });
        if let Some(Client { kind, client_id, client_secret, client_auth, scopes, dialect }) = settings.flatten() {
            let name = field.key().to_owned();
            let settings =
                Settings { name, kind, client_id, client_secret, client_auth, scopes, timeout, title, dialect };
            if !settings.grants_client_credentials() {
                known.without_own_tokens.push(settings.name.clone());
            }
            checked.push(settings);
        }
    }
    (checked, known)
}

/// What a route may refer to.
pub(super) struct Known {
    /// In file order.
    pub(super) names: Vec<String>,
    /// Those of which the gateway cannot have a token in its own name.
    pub(super) without_own_tokens: Vec<String>,
    /// Those of kind `backend`, and those whose kind is a problem by itself.
    pub(super) backends: Vec<String>,
    /// Whether `/mock` is taken.
    pub(super) mock: bool,
}

/// A provider is called at `{prefix}/{name}`: these are other endpoints there.
const RESERVED_NAMES: &[&str] = &[
    "login",
    "logout",
    "callback",
    "token",
    "refresh",
    "me",
    "session",
    "access-token",
    "connect",
    "ciba",
    "verify",
    "backchannel-logout",
    "frontchannel-logout",
    "impersonate",
    "unimpersonate",
    "update-claims",
    "latchgate.js",
];

#[derive(Clone, Copy)]
enum KindName {
    Oidc,
    OAuth2,
    Mock,
    Backend,
    Preset(Preset),
}

const KINDS: &[(&str, KindName)] = &[
    ("oidc", KindName::Oidc),
    ("oauth2", KindName::OAuth2),
    ("google", KindName::Preset(Preset::Google)),
    ("github", KindName::Preset(Preset::GitHub)),
    ("auth0", KindName::Preset(Preset::Auth0)),
    ("microsoft", KindName::Preset(Preset::Microsoft)),
    ("gitlab", KindName::Preset(Preset::GitLab)),
    ("keycloak", KindName::Preset(Preset::Keycloak)),
    ("okta", KindName::Preset(Preset::Okta)),
    ("discord", KindName::Preset(Preset::Discord)),
    ("mock", KindName::Mock),
    ("backend", KindName::Backend),
];

/// What all kinds come down to.
pub(super) struct Client {
    pub(super) kind: Kind,
    pub(super) client_id: String,
    pub(super) client_secret: Option<SecretString>,
    pub(super) client_auth: ClientAuth,
    pub(super) scopes: Vec<String>,
    pub(super) dialect: Dialect,
}

impl Client {
    /// Who speaks no OAuth knows no clients.
    fn none(kind: Kind) -> Client {
        Client {
            kind,
            client_id: String::new(),
            client_secret: None,
            client_auth: ClientAuth::None,
            scopes: Vec::new(),
            dialect: Dialect::default(),
        }
    }
}

fn check_name(field: &Field) {
    let name = field.key();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || !name.bytes().all(plain) && name != "latchgate.js" {
        field.refuse_key(
            format!("`{name}` cannot be the name of a provider"),
            "lower-case letters, digits and `-`: it is part of a URL",
        );
    } else if RESERVED_NAMES.contains(&name) {
        field.refuse_key(
            format!("`{name}` cannot be the name of a provider: an endpoint is called like that"),
            format!("another name than {}", quoted(RESERVED_NAMES, ", ")),
        );
    }
}

fn oidc(table: &Table) -> Option<Client> {
    let issuer = table.require("issuer", r#""https://login.example.com""#, issuer);
    let scopes = oidc_scopes(table, &DEFAULT_OIDC_SCOPES);
    let client = registered_client(table, ClientAuth::ClientSecretBasic);
    let (client_id, client_secret, client_auth) = client?;
    let kind = Kind::Oidc { issuer: issuer? };
    Some(Client { kind, client_id, client_secret, client_auth, scopes, dialect: Dialect::default() })
}

/// `scopes` of a provider with ID tokens.
pub(super) fn oidc_scopes(table: &Table, default: &[&str]) -> Vec<String> {
    let scopes = table.read("scopes", scopes).unwrap_or_else(|| owned(default));
    if !scopes.iter().any(|scope| scope == "openid") {
        table.refuse(
            "scopes",
            "`scopes` lacks `openid`",
            r#"add "openid" (OIDC Core §3.1.2.1), or use `kind = "oauth2"`"#,
        );
    }
    scopes
}

fn oauth2(table: &Table) -> Option<Client> {
    let endpoint = |key| table.require(key, r#""https://login.example.com/…""#, provider_url);
    let authorization_endpoint = endpoint("authorization_endpoint");
    let token_endpoint = endpoint("token_endpoint");
    let userinfo_endpoint = endpoint("userinfo_endpoint");
    let revocation_endpoint = table.read("revocation_endpoint", provider_url);
    let subject = table.read("subject", claim_path);
    // without OpenID Connect there is no scope that every provider knows
    let scopes = table.read("scopes", scopes).unwrap_or_default();
    let client = registered_client(table, ClientAuth::ClientSecretBasic);
    let (client_id, client_secret, client_auth) = client?;
    let kind = Kind::OAuth2 {
        authorization_endpoint: authorization_endpoint?,
        token_endpoint: token_endpoint?,
        userinfo_endpoint: userinfo_endpoint?,
        revocation_endpoint,
        subject,
    };
    Some(Client { kind, client_id, client_secret, client_auth, scopes, dialect: Dialect::default() })
}

fn mock(table: &Table, external_url: &Url) -> Option<Client> {
    let users = table.read("users", users).unwrap_or_else(default_users);
    let access_ttl = table.read("access_ttl", positive_duration).unwrap_or(Duration::from_secs(60));
    let allow_in_production = table.read("allow_in_production", Field::boolean).unwrap_or(false);
    if external_url.scheme() == "https" && !allow_in_production {
        table.refuse(
            "kind",
            "the mock provider lets anybody in as anybody, and `server.external_url` is https",
            "use a real provider; `allow_in_production = true` if this is meant",
        );
    }
    let issuer = format!("{}/mock", external_url.origin().ascii_serialization());
    Some(Client {
        kind: Kind::Mock(MockSettings { users, access_ttl, issuer }),
        client_id: String::new(),
        client_secret: None,
        client_auth: ClientAuth::None,
        scopes: table.read("scopes", scopes).unwrap_or_else(|| owned(&DEFAULT_OIDC_SCOPES)),
        dialect: Dialect::default(),
    })
}

/// Who we are at the token endpoint: `client_id`, `client_secret`, `client_auth`.
pub(super) fn registered_client(
    table: &Table,
    default_auth: ClientAuth,
) -> Option<(String, Option<SecretString>, ClientAuth)> {
    const METHODS: &[(&str, ClientAuth)] = &[
        ("client_secret_basic", ClientAuth::ClientSecretBasic),
        ("client_secret_post", ClientAuth::ClientSecretPost),
        ("none", ClientAuth::None),
    ];
    let client_id = table.require("client_id", r#""app""#, |field| Some(field.string()?.to_owned()));
    let client_secret = table.read("client_secret", secret);
    let client_auth = match table.field("client_auth") {
        Some(field) => field.choice(METHODS, &["private_key_jwt", "tls_client_auth"])?,
        None => default_auth,
    };
    match (client_auth, table.has("client_secret")) {
        (ClientAuth::None, true) => {
            table.refuse(
                "client_auth",
                "a public client has no secret: `client_auth` is \"none\", and there is a `client_secret`",
                "take one of them out",
            );
        }
        (ClientAuth::ClientSecretBasic | ClientAuth::ClientSecretPost, false) => {
            table.refuse(
                "client_secret",
                "`client_secret` is missing",
                r#"add `client_secret = { env = "OIDC_SECRET" }`, or `client_auth = "none"` for a public client"#,
            );
        }
        _ => {}
    }
    Some((client_id?, client_secret, client_auth))
}

/// Kept exactly as written (Discovery §4.3 compares it as a string).
pub(super) fn issuer(field: &Field) -> Option<String> {
    if provider_url(field)?.query().is_some() {
        return field.refuse("has a query", "an issuer is scheme, host and path (OIDC Discovery §3)");
    }
    Some(field.string()?.to_owned())
}

pub(super) fn scopes(field: &Field) -> Option<Vec<String>> {
    field.list(scope)
}

/// A scope-token (RFC 6749 §3.3).
pub(super) fn scope(item: &Field) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    match item.string()? {
        scope if scope.bytes().all(allowed) => Some(scope.to_owned()),
        _ => item.refuse("has an item that is not a scope", r#"one scope an item, as in ["openid", "profile"]"#),
    }
}

/// Without `offline_access` there is no refresh token (OIDC Core §11).
pub(super) const DEFAULT_OIDC_SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];

pub(super) fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn users(field: &Field) -> Option<Vec<Map<String, Value>>> {
    let users = field.nonempty_list(user)?;
    let mut subjects: Vec<&Value> = Vec::new();
    for (user, item) in users.iter().zip(field.items()) {
        let subject = &user["sub"];
        if subjects.contains(&subject) {
            return item.refuse("has two personas with the same `sub`", "give each its own");
        }
        subjects.push(subject);
    }
    Some(users)
}

fn user(field: &Field) -> Option<Map<String, Value>> {
    field.table(|table| {
        table.accept_any_key();
        table.require("sub", r#""ada""#, |sub| Some(sub.string()?.to_owned()))?;
        json_object(table)
    })?
}

pub(super) fn json_object(table: &Table) -> Option<Map<String, Value>> {
    table.all().map(|member| Some((member.key().to_owned(), json_value(&member)?))).collect()
}

fn json_value(field: &Field) -> Option<Value> {
    match field.value() {
        DeValue::String(text) => Some(json!(text)),
        DeValue::Boolean(value) => Some(json!(value)),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Some(json!(number)),
            Err(_) => field.refuse("is out of range", "a claim is a JSON value"),
        },
        DeValue::Float(float) => match float.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => Some(json!(number)),
            _ => field.refuse("is not a JSON number", "a claim is a JSON value"),
        },
        DeValue::Datetime(date) => Some(json!(date.to_string())),
        DeValue::Array(_) => field.list(json_value).map(Value::Array),
        DeValue::Table(_) => field.table(json_object)?.map(Value::Object),
    }
}

fn default_users() -> Vec<Map<String, Value>> {
    let ada = [("sub", "ada"), ("name", "Ada Example"), ("email", "ada@example.com")];
    vec![ada.into_iter().map(|(claim, value)| (claim.to_owned(), json!(value))).collect()]
}
