//! `[bearer.NAME]` and `[api_keys.NAME]`: clients of an API with a credential of their own. Both kinds share their names with each
//! other, and with `session`, in `accept` of routes.

use super::headers::{Use, own};
use super::providers::{issuer, json_object};
use super::raw::{Field, Table};
use super::report::Problem;
use super::values::{duration, header_name, provider_url, secret};
use crate::clients::{
    ApiKeySettings, BearerSettings, Carrier, IntrospectionSettings, JwtSettings, KeyHash, KeySettings, Settings,
    Verification,
};
use crate::provider::metadata::SIGNATURE_ALGORITHMS;
use aws_lc_rs::digest::{SHA256, digest};
use http::header::AUTHORIZATION;
use jsonwebtoken::Algorithm;
use std::ops::Range;
use std::time::Duration;
use toml::de::DeValue;
use toml::value::{Datetime, Offset};

/// The name in `accept` that is no client's.
pub(super) const SESSION: &str = "session";

/// An entry, wrong or not, that routes may name.
pub(super) struct Named {
    pub(super) name: String,
    /// Where the name stands.
    pub(super) span: Range<usize>,
}

/// Both tables, and the names in them.
pub(super) fn read(document: &Table) -> (Settings, Vec<Named>) {
    let mut named: Vec<Named> = Vec::new();
    let bearer = document.table("bearer", |table| entries(table, &mut named, bearer));
    let api_keys = document.table("api_keys", |table| entries(table, &mut named, api_keys));
    (Settings { bearer, api_keys }, named)
}

fn entries<T>(tables: &Table, named: &mut Vec<Named>, read: impl Fn(String, &Table) -> Option<T>) -> Vec<T> {
    let fields: Vec<Field> = tables.all().collect();
    fields
        .iter()
        .filter_map(|field| {
            check_name(tables, field, named);
            named.push(Named { name: field.key().to_owned(), span: field.key_span() });
            field.table(|table| read(field.key().to_owned(), table))?
        })
        .collect()
}

fn check_name(tables: &Table, field: &Field, named: &[Named]) {
    let name = field.key();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name == SESSION {
        field.refuse_key("`session` in `accept` means a session", "give this one another name");
    } else if name.is_empty() || !name.bytes().all(plain) {
        field.refuse_key(format!("`{name}` cannot be a name"), "letters, digits, `-`, `_` and `.`");
    } else if let Some(first) = named.iter().find(|named| named.name == name) {
        tables.check().report(
            Problem::error(field.key_span(), "another entry has this name, and `accept` could mean either")
                .related(first.span.clone(), "the first one")
                .help("give one of them another name"),
        );
    }
}

fn bearer(name: String, table: &Table) -> Option<BearerSettings> {
    let introspection = table.read("introspection", |field| field.table(introspection));
    if table.has("introspection") {
        for key in ["jwks_url", "algorithms"] {
            if table.field(key).is_some() {
                let message =
                    format!("`{key}` is for tokens that are read here, and `introspection` asks their issuer");
                table.refuse(key, message, "take one of them out");
            }
        }
        let issuer = table.read("issuer", text);
        let audience = table.read("audience", |field| field.one_or_more(text)).unwrap_or_default();
        let verification = Verification::Introspection(introspection??);
        return Some(BearerSettings { name, issuer, audience, verification });
    }
    let jwks_url = table.read("jwks_url", provider_url);
    let discovers = !table.has("jwks_url");
    let issuer =
        table.require(
            "issuer",
            r#""https://login.example.com""#,
            |field| if discovers { issuer(field) } else { text(field) },
        );
    // without it every token of the issuer would do, whomever it was made for
    let audience = table.require("audience", r#"["api"]"#, |field| field.one_or_more(text));
    let algorithms = match table.field("algorithms") {
        Some(field) => field.nonempty_list(|item| item.choice(&SIGNATURE_ALGORITHMS, &[])),
        None => Some(SIGNATURE_ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect::<Vec<Algorithm>>()),
    };
    let verification = Verification::Jwt(JwtSettings { jwks_url, algorithms: algorithms? });
    Some(BearerSettings { name, issuer: Some(issuer?), audience: audience?, verification })
}

fn introspection(table: &Table) -> Option<IntrospectionSettings> {
    let url = table.require("url", r#""https://login.example.com/introspect""#, provider_url);
    let client_id = table.require("client_id", r#""api""#, text);
    let client_secret = table.require("client_secret", r#"{ env = "INTROSPECTION_SECRET" }"#, secret);
    let cache = table.read("cache", cache).unwrap_or(Duration::from_secs(60));
    Some(IntrospectionSettings { url: url?, client_id: client_id?, client_secret: client_secret?, cache })
}

/// A token that its issuer has withdrawn still counts for so long (RFC 7662 §4).
fn cache(field: &Field) -> Option<Duration> {
    let longest = Duration::from_secs(3600);
    match duration(field)? {
        cache if cache > longest => field.refuse("is longer than an hour", "a withdrawn token counts for so long"),
        cache => Some(cache),
    }
}

fn api_keys(name: String, table: &Table) -> Option<ApiKeySettings> {
    let header = table.read("header", key_header);
    let query = table.read("query", text);
    let keys = table.require("keys", r#"[{ id = "build", sha256 = "…" }]"#, keys);
    let carrier = match (table.has("header"), table.has("query")) {
        (true, false) => Carrier::Header(header?),
        (false, true) => Carrier::Query(query?),
        _ => {
            let message = format!("`api_keys.{name}` needs either `header` or `query`");
            table.refuse("query", message, r#"as in `header = "X-API-Key"`"#);
            return None;
        }
    };
    Some(ApiKeySettings { name, carrier, keys: keys? })
}

fn key_header(field: &Field) -> Option<http::HeaderName> {
    let name = header_name(field).and_then(|name| own(field, name, Use::Credential))?;
    if name == AUTHORIZATION {
        return field.refuse("is where bearer tokens stand", r#"another header, as in "X-API-Key""#);
    }
    Some(name)
}

fn keys(field: &Field) -> Option<Vec<KeySettings>> {
    let keys = field.nonempty_list(|item| item.table(key)?)?;
    for (at, (key, item)) in keys.iter().zip(field.items()).enumerate() {
        if keys[..at].iter().any(|other| other.id == key.id) {
            return item.refuse("has two keys with the same `id`", "give each its own: it is what tells them apart");
        }
        if keys[..at].iter().any(|other| other.hash.0 == key.hash.0) {
            return item.refuse("has the same key twice", "nobody could say whose it is");
        }
    }
    Some(keys)
}

fn key(table: &Table) -> Option<KeySettings> {
    let id = table.require("id", r#""build""#, text);
    let hash = table.require("sha256", "the output of `printf %s KEY | sha256sum`", hash);
    let claims = table.read("claims", |field| field.table(json_object)?).unwrap_or_default();
    if claims.contains_key("sub") {
        table.refuse("claims", "`sub` of a key is the name of its table and its `id`", "take `sub` out");
    }
    let scope = table.read("scope", text);
    let expires = match table.field("expires") {
        Some(field) => Some(time(&field)?),
        None => None,
    };
    Some(KeySettings { id: id?, hash: hash?, claims, scope, expires })
}

fn hash(field: &Field) -> Option<KeyHash> {
    const HELP: &str = "64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them";
    let text = field.string()?;
    let mut hash = [0; 32];
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex {
        return field.refuse("is not a SHA-256", HELP);
    }
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    if hash == digest(&SHA256, b"").as_ref() {
        return field.refuse("is the SHA-256 of nothing at all", HELP);
    }
    Some(KeyHash(hash))
}

/// A point in time (RFC 3339), in seconds since 1970.
fn time(field: &Field) -> Option<u64> {
    const HELP: &str = r#"date, time and zone, as in "2027-01-01T00:00:00Z""#;
    let time = match field.value() {
        DeValue::String(text) => text.parse().ok().and_then(seconds_since_1970),
        DeValue::Datetime(time) => seconds_since_1970(*time),
        _ => return field.refuse_type(HELP),
    };
    match time {
        Some(time) => Some(time),
        None => field.refuse("is not a point in time", HELP),
    }
}

/// None without a date, a time or a zone, and before 1970.
fn seconds_since_1970(time: Datetime) -> Option<u64> {
    let (date, clock) = (time.date?, time.time?);
    let offset = match time.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes) * 60,
    };
    // months are counted from March, so that the day that comes and goes is the last of a year
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - DAYS_BEFORE_1970;
    let of_day = i64::from(clock.hour) * 3600 + i64::from(clock.minute) * 60 + i64::from(clock.second.unwrap_or(0));
    u64::try_from(days * 86_400 + of_day - offset).ok()
}

/// From the first of March of the year 0.
const DAYS_BEFORE_1970: i64 = 719_468;

fn text(field: &Field) -> Option<String> {
    field.string().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2027-01-01T00:00:00Z", Some(1_798_761_600)),
            ("2027-01-01T02:00:00+02:00", Some(1_798_761_600)),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400)),
            ("1969-12-31T23:59:59Z", None),
            ("2027-01-01", None),
            ("2027-01-01T00:00:00", None),
        ] {
            assert_eq!(text.parse().ok().and_then(seconds_since_1970), seconds, "{text}");
        }
    }
}
