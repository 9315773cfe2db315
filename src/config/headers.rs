//! The headers that a route writes: `identity`, `request_headers`, `response_headers`.

use super::raw::{Field, Table};
use super::values::{claim_path, header_name, header_name_of_key, header_value};
use crate::gateway::{Attach, HeaderEdits};
use http::HeaderName;
use http::header::AUTHORIZATION;

/// `identity`
pub(super) fn identity(table: &Table) -> Vec<(HeaderName, String)> {
    let mut identity: Vec<(HeaderName, String)> = Vec::new();
    for field in table.all() {
        let claim = claim_path(&field);
        let Some(name) = header_name_of_key(&field).and_then(|name| own(&field, name, Use::Identity)) else {
            continue;
        };
        // upstreams that read `_` as `-` see one header
        if identity.iter().any(|(other, _)| spelling(other) == spelling(&name)) {
            field.refuse_key(format!("`{name}` is in `identity` twice"), "case and `-` or `_` make no difference");
            continue;
        }
        identity.extend(claim.map(|claim| (name, claim)));
    }
    identity
}

/// `request_headers` and `response_headers`
pub(super) fn header_edits(table: &Table, uses: (Use, Use)) -> HeaderEdits {
    let (set, remove) = uses;
    let set = table.table("set", |table| {
        let edits = table.all().map(|field| {
            let name = header_name_of_key(&field).and_then(|name| own(&field, name, set));
            let mut value = header_value(&field)?;
            // it may well be a shared secret
            value.set_sensitive(matches!(set, Use::SetOnRequest));
            Some((name?, value))
        });
        edits.flatten().collect()
    });
    let remove =
        table.read("remove", |field| field.list(|item| header_name(item).and_then(|name| own(item, name, remove))));
    HeaderEdits { set, remove: remove.unwrap_or_default() }
}

/// What a route wants to do with a header.
#[derive(Clone, Copy)]
pub(super) enum Use {
    Credential,
    Identity,
    ReadFromRequest,
    SetOnRequest,
    RemoveFromRequest,
    SetOnResponse,
    RemoveFromResponse,
}

pub(super) const REQUEST: (Use, Use) = (Use::SetOnRequest, Use::RemoveFromRequest);
pub(super) const RESPONSE: (Use, Use) = (Use::SetOnResponse, Use::RemoveFromResponse);

/// Refuses headers that are not the route's to touch: those of one connection (RFC 9110 §7.6.1), those
/// that frame and route the message, and those that the gateway writes.
pub(super) fn own(field: &Field, name: HeaderName, used: Use) -> Option<HeaderName> {
    const CONNECTION: &[&str] = &[
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    const WRITTEN_ON_REQUESTS: &[&str] = &[
        "content-length",
        "expect",
        "forwarded",
        "host",
        "traceparent",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ];
    let text = spelling(&name);
    let text = text.as_str();
    let reason = if CONNECTION.contains(&text) {
        "belongs to one connection (RFC 9110 §7.6.1)"
    } else if text.starts_with("latchgate-") {
        "is the gateway's own"
    } else {
        match (used, text) {
            (Use::SetOnResponse | Use::RemoveFromResponse, "content-length") => "says where the message ends",
            (Use::SetOnResponse, "set-cookie") => "could overwrite the session cookie",
            (Use::SetOnResponse | Use::RemoveFromResponse, _) => return Some(name),
            (_, text) if WRITTEN_ON_REQUESTS.contains(&text) => "is written by the gateway",
            (Use::Credential | Use::Identity | Use::ReadFromRequest | Use::SetOnRequest, "cookie") => {
                "is written by the gateway"
            }
            (Use::Identity | Use::ReadFromRequest | Use::SetOnRequest, "authorization") => {
                "carries credentials, which `attach` puts in"
            }
            _ => return Some(name),
        }
    };
    field.refuse(format!("names `{name}`, which {reason}"), "use another header")
}

/// The header that carries the credential is not to be written twice.
pub(super) fn check_credential_header(
    table: &Table,
    attach: &Attach,
    identity: &[(HeaderName, String)],
    edits: &HeaderEdits,
) {
    let header = match attach {
        Attach::Bearer { header, .. } | Attach::ApiKeyHeader(header, _) => header,
        Attach::Assertion(assertion) => &assertion.header,
        Attach::IdToken | Attach::Basic(_) | Attach::ClientCredentials(_) => &AUTHORIZATION,
        Attach::ApiKeyQuery(..) | Attach::Never => return,
    };
    let same = |name: &HeaderName| spelling(name) == spelling(header);
    if identity.iter().any(|(name, _)| same(name)) {
        let message = format!("`routes.identity` writes `{header}`, which carries the credential");
        table.refuse("identity", message, "use another header");
    }
    if edits.set.iter().map(|(name, _)| name).chain(&edits.remove).any(same) {
        let message = format!("`routes.request_headers` changes `{header}`, which carries the credential");
        table.refuse("request_headers", message, "`attach` says what goes into it");
    }
}

/// A header as upstreams read it that take `_` for `-`.
fn spelling(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}
