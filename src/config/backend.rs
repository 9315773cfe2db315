//! `[providers.NAME]` with `kind = "backend"`: presets, and what the table says otherwise.

use super::raw::{Field, Table};
use super::values::{header_name, header_name_of_key, method, positive_duration, secret, web_url};
use crate::provider::backend::{BackendSettings, Call, Fields, RefreshCall, TokenIn, UserCall, takes_body};
use crate::provider::is_json_path;
use http::{HeaderMap, HeaderValue, Method};
use secrecy::ExposeSecret;
use toml::de::DeValue;
use url::Url;

/// Reads the table, and what its preset says where it is silent.
pub(super) fn backend(table: &Table) -> Option<BackendSettings> {
    let presets: Vec<_> = PRESETS.iter().chain([&CUSTOM]).map(|preset| (preset.name, preset)).collect();
    let preset = match table.field("preset") {
        Some(field) => field.choice(&presets, &[]),
        None => Some(&CUSTOM),
    };
    let base = table.require("base_url", r#""http://127.0.0.1:3000""#, base_url);
    let (Some(preset), Some(base)) = (preset, base) else {
        // what else is wrong depends on them
        table.accept_any_key();
        return None;
    };
    let login = if table.has("login") || preset.login.is_some() {
        table.table("login", |table| login(table, &base, preset.login.as_ref()))
    } else {
        table.require("login", r#"{ url = "/login" }"#, |_| None)
    };
    let refresh = cell(table, "refresh", preset.refresh.is_some(), |table| refresh(table, &base, preset));
    let logout =
        cell(table, "logout", preset.logout.is_some(), |table| call(table, &base, preset.logout.as_ref(), &LOGOUT));
    let user = cell(table, "user", preset.user.is_some(), |table| user(table, &base, preset.user.as_ref()));
    let token_property = table.read("token_property", json_path).unwrap_or_else(|| preset.token_property.to_owned());
    let refresh_token_property =
        table.read("refresh_token_property", json_path).unwrap_or_else(|| preset.refresh_token_property.to_owned());
    if token_property == refresh_token_property {
        table.refuse(
            "refresh_token_property",
            format!("the access token and the refresh token cannot both stand at `{token_property}`"),
            "give each a path of its own",
        );
    }
    let access_ttl = table.read("access_ttl", positive_duration);
    let (login, fields) = login?;
    let (user, subject) = user?.unzip();
    Some(BackendSettings {
        base_url: base,
        login,
        fields,
        refresh: refresh?,
        logout: logout?,
        user,
        subject: subject.flatten(),
        token_property,
        refresh_token_property,
        access_ttl,
    })
}

/// What a backend of this name does when the table does not say otherwise (SPEC §6).
struct Preset {
    name: &'static str,
    login: Option<Endpoint>,
    refresh: Option<(Endpoint, &'static str)>,
    logout: Option<Endpoint>,
    user: Option<Endpoint>,
    token_property: &'static str,
    refresh_token_property: &'static str,
}

/// Method and path.
type Endpoint = (Method, &'static str);

static PRESETS: [Preset; 4] = [
    Preset {
        name: "nuxt",
        login: Some((Method::POST, "/login")),
        refresh: Some(((Method::POST, "/refresh_tokens"), "token")),
        logout: Some((Method::DELETE, "/logout")),
        user: Some((Method::GET, "/me")),
        token_property: "token",
        refresh_token_property: "refresh_token",
    },
    Preset {
        name: "sneat",
        login: Some((Method::POST, "/auth/login")),
        refresh: Some(((Method::POST, "/auth/refresh-token"), "refreshToken")),
        logout: None,
        user: None,
        token_property: "accessToken",
        refresh_token_property: "refreshToken",
    },
    Preset {
        name: "vuexy",
        login: Some((Method::POST, "/jwt/login")),
        refresh: Some(((Method::POST, "/jwt/refresh-token"), "refreshToken")),
        logout: Some((Method::POST, "/jwt/logout")),
        user: None,
        token_property: "accessToken",
        refresh_token_property: "refreshToken",
    },
    Preset {
        name: "axios",
        login: Some((Method::POST, "/auth/login")),
        refresh: Some(((Method::POST, "/auth/refresh"), "refreshToken")),
        logout: None,
        user: None,
        token_property: "access_token",
        refresh_token_property: "refresh_token",
    },
];

/// Nothing is known of it; answers are read as those of RFC 6749 §5.1.
static CUSTOM: Preset = Preset {
    name: "custom",
    login: None,
    refresh: None,
    logout: None,
    user: None,
    token_property: "access_token",
    refresh_token_property: "refresh_token",
};

/// What a call may look like.
struct Rules {
    /// Unless the preset has one.
    method: Method,
    may_be: fn(&Method) -> bool,
    why: &'static str,
    help: &'static str,
    /// The header that the token goes into.
    taken: Option<&'static str>,
}

const LOGIN: Rules = Rules {
    method: Method::POST,
    may_be: takes_body,
    why: "would put the password into a URL, which logs keep",
    help: "POST, PUT or PATCH",
    taken: None,
};
const REFRESH_IN_BODY: Rules = Rules {
    why: "has no body that the refresh token could stand in",
    help: r#"POST, PUT or PATCH, or `token_in = "header"`"#,
    ..LOGIN
};
const REFRESH_IN_HEADER: Rules = Rules { may_be: |_| true, ..LOGIN };
const LOGOUT: Rules = Rules { may_be: |_| true, taken: Some("authorization"), ..LOGIN };
const USER: Rules = Rules {
    method: Method::GET,
    may_be: |method| matches!(*method, Method::GET | Method::POST),
    why: "asks for nothing",
    help: "GET or POST",
    taken: Some("authorization"),
};

/// A cell of the preset that the table may lay its own over, or take out with `false`. The outer None: it was refused.
fn cell<T>(
    table: &Table,
    key: &'static str,
    is_in_preset: bool,
    read: impl FnOnce(&Table) -> Option<T>,
) -> Option<Option<T>> {
    if is_in_preset && !table.has(key) {
        return table.table(key, read).map(Some);
    }
    let Some(field) = table.field(key) else { return Some(None) };
    match field.value() {
        DeValue::Boolean(false) => Some(None),
        DeValue::Table(_) => field.table(read)?.map(Some),
        _ => field.refuse_type("a table, or `false` where there is no such endpoint"),
    }
}

fn login(table: &Table, base: &Url, preset: Option<&Endpoint>) -> Option<(Call, Fields)> {
    let call = call(table, base, preset, &LOGIN);
    let fields = table.table("fields", |table| {
        let name = |key: &'static str| match table.field(key) {
            Some(field) => Some(field.string()?.to_owned()),
            None => Some(key.to_owned()),
        };
        let (username, password) = (name("username"), name("password"));
        if username.is_some() && username == password {
            table.refuse(
                "password",
                "the user name and the password are called the same",
                "give each a name of its own",
            );
        }
        Some(Fields { username: username?, password: password? })
    });
    Some((call?, fields?))
}

fn refresh(table: &Table, base: &Url, preset: &Preset) -> Option<RefreshCall> {
    let (endpoint, default_name) = preset.refresh.as_ref().map(|(endpoint, name)| (endpoint, *name)).unzip();
    let places = [("body", TokenIn::Body), ("header", TokenIn::Header)];
    let token_in = match table.field("token_in") {
        Some(field) => field.choice(&places, &[]),
        None => Some(TokenIn::Body),
    };
    let name = |field: &Field| match token_in {
        Some(TokenIn::Header) => header_name(field).map(|name| name.as_str().to_owned()),
        _ => field.string().map(str::to_owned),
    };
    let token_name = match table.field("token_name") {
        Some(field) => name(&field),
        None => Some(default_name.unwrap_or(CUSTOM.refresh_token_property).to_owned()),
    };
    let rules = if token_in == Some(TokenIn::Header) { REFRESH_IN_HEADER } else { REFRESH_IN_BODY };
    let call = call(table, base, endpoint, &rules);
    Some(RefreshCall { call: call?, token_in: token_in?, token_name: token_name? })
}

fn user(table: &Table, base: &Url, preset: Option<&Endpoint>) -> Option<(UserCall, Option<String>)> {
    let property = table.read("property", json_path);
    let subject = table.read("sub", json_path);
    let call = call(table, base, preset, &USER)?;
    Some((UserCall { call, property }, subject))
}

/// `method`, `url` and `headers`.
fn call(table: &Table, base: &Url, preset: Option<&Endpoint>, rules: &Rules) -> Option<Call> {
    let method = match table.field("method") {
        Some(field) => method(&field).and_then(|method| match (rules.may_be)(&method) {
            true => Some(method),
            false => field.refuse(format!("is `{method}`, which {}", rules.why), rules.help),
        }),
        None => Some(preset.map_or(&rules.method, |(method, _)| method).clone()),
    };
    let url = match preset {
        Some((_, path)) if !table.has("url") => {
            table.field("url");
            below(base, path)
        }
        _ => table.require("url", r#""/login""#, |field| url(field, base)),
    };
    let headers = table.table("headers", |table| headers(table, rules));
    Some(Call { method: method?, url: url?, headers })
}

/// A path below `base_url`, or a whole URL.
fn url(field: &Field, base: &Url) -> Option<Url> {
    const HELP: &str = r#"a path below `base_url`, as in "/login", or a whole URL"#;
    let text = field.string()?;
    if !text.starts_with('/') {
        return if text.contains("://") { whole_url(field) } else { field.refuse("is neither a path nor a URL", HELP) };
    }
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\#".contains(&byte));
    let path = text.split('?').next().unwrap_or_default();
    // the parser would take such segments out, and two readers would see two URLs
    let leads_away = path.starts_with("//") || path.split('/').any(|segment| matches!(segment, "." | ".."));
    match below(base, text) {
        Some(url) if is_plain && !leads_away => Some(url),
        _ => field.refuse("is not a path", HELP),
    }
}

/// A path of `base` is kept: `/login` below `http://h/api` is `http://h/api/login`.
fn below(base: &Url, path: &str) -> Option<Url> {
    Url::parse(&format!("{}{path}", base.as_str().trim_end_matches('/'))).ok()
}

fn base_url(field: &Field) -> Option<Url> {
    let url = whole_url(field)?;
    match url.query() {
        Some(_) => field.refuse("has a query", "scheme, host and path only"),
        None => Some(url),
    }
}

/// Plain http is fine: backends are mostly next door, as upstreams are.
fn whole_url(field: &Field) -> Option<Url> {
    let url = web_url(field)?;
    match url.fragment() {
        Some(_) => field.refuse("has a fragment", "take the `#…` off"),
        None => Some(url),
    }
}

/// Sent along with a call; any of them may be a secret.
fn headers(table: &Table, rules: &Rules) -> HeaderMap {
    let read = |field: Field| {
        let value = secret(&field).and_then(|secret| match HeaderValue::from_str(secret.expose_secret()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                Some(value)
            }
            Err(_) => field.refuse("cannot be the value of a header", "visible ASCII characters, spaces and tabs"),
        });
        let name = header_name_of_key(&field)?;
        if FRAMING.contains(&name.as_str()) || rules.taken == Some(name.as_str()) {
            field.refuse_key(format!("`{name}` is written by the gateway"), "take it out");
            return None;
        }
        Some((name, value?))
    };
    table.all().filter_map(read).collect()
}

fn json_path(field: &Field) -> Option<String> {
    match field.string()? {
        path if is_json_path(path) => Some(path.to_owned()),
        _ => field.refuse(
            "is not a JSON path",
            r#"names with dots between them, as in "data.attributes.token" or "tokens[0].value""#,
        ),
    }
}

const FRAMING: [&str; 6] = ["connection", "content-length", "content-type", "host", "te", "transfer-encoding"];
