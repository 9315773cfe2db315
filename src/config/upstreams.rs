//! `[upstreams.NAME]`

use super::raw::{Field, Table};
use super::values::{path, positive_duration, web_url};
use crate::upstream::{ServerAddress, Settings, Unauthorized};
use http::StatusCode;
use std::path::PathBuf;
use std::time::Duration;
use url::Host;

/// The checked tables, and the names of all of them: a route may refer to one that has a problem of its own.
pub(super) fn read(upstreams: &Table) -> (Vec<Settings>, Vec<String>) {
    let fields: Vec<Field> = upstreams.all().collect();
    let names = fields.iter().map(|field| field.key().to_owned()).collect();
    let checked = fields.iter().filter_map(|field| field.table(|table| upstream(field.key(), table))?).collect();
    (checked, names)
}

fn upstream(name: &str, table: &Table) -> Option<Settings> {
    let url = table.read("url", |field| Some(vec![server(field)?]));
    let urls = table.read("urls", |field| field.nonempty_list(server));
    let connect_timeout = table.read("connect_timeout", positive_duration).unwrap_or(Duration::from_secs(3));
    let response_timeout = table.read("response_timeout", positive_duration).unwrap_or(Duration::from_secs(60));
    let unauthorized = table.table("unauthorized", unauthorized);
    let servers = match (table.has("url"), table.has("urls")) {
        (true, true) => {
            table.refuse("urls", format!("`upstreams.{name}` has both `url` and `urls`"), "keep one of them");
            None
        }
        (false, false) => {
            table.refuse(
                "url",
                format!("`upstreams.{name}.url` is missing"),
                r#"add `url = "http://127.0.0.1:3000"`, or `urls` for several"#,
            );
            None
        }
        _ => url.or(urls),
    }?;
    Some(Settings { name: name.to_owned(), servers, connect_timeout, response_timeout, unauthorized })
}

fn server(field: &Field) -> Option<ServerAddress> {
    let text = field.string()?;
    if text == "demo:" {
        return Some(ServerAddress::Demo);
    }
    match text.strip_prefix("unix:") {
        Some("") => {
            return field.refuse("names no socket", r#"a path after `unix:`, as in "unix:/run/app.sock""#);
        }
        Some(path) => return Some(ServerAddress::Unix(PathBuf::from(path))),
        None => {}
    }
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return field.refuse(
            "is not the address of an upstream",
            r#"as in "http://127.0.0.1:3000", "https://app.internal", "unix:/run/app.sock" or "demo:""#,
        );
    }
    let url = web_url(field)?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return field.refuse(
            "is more than scheme, host and port",
            "the path of a request goes through as it is; `replace_prefix` on a route changes it",
        );
    }
    let host = match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    Some(ServerAddress::Tcp { tls: url.scheme() == "https", host, port: url.port_or_known_default()? })
}

fn unauthorized(table: &Table) -> Unauthorized {
    let status = table.read("status", |field| field.nonempty_list(status));
    Unauthorized {
        status: status.unwrap_or_else(|| vec![StatusCode::UNAUTHORIZED]),
        location_prefix: table.read("location_prefix", path),
    }
}

fn status(field: &Field) -> Option<StatusCode> {
    StatusCode::from_u16(u16::try_from(field.integer(400, 599)?).ok()?).ok()
}
