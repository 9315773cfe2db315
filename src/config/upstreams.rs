//! `[upstreams.NAME]`

use super::raw::{Field, Table};
use super::values::{duration, file_path, path, positive_duration, web_url};
use crate::tls::{self, Unusable};
use crate::upstream::balance::Balance;
use crate::upstream::{
    ConnectionSettings, Protocol, ServerAddress, ServerSettings, Settings, TlsSettings, Unauthorized, breaker, checks,
    health, limits,
};
use http::{StatusCode, Uri};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use toml::de::DeValue;
use url::Host;

/// The checked tables, and the names of all of them: a route may refer to one that has a problem of its own.
pub(super) fn read(upstreams: &Table) -> (Vec<Settings>, Vec<String>) {
    let fields: Vec<Field> = upstreams.all().collect();
    let names = fields.iter().map(|field| field.key().to_owned()).collect();
    let checked = fields.iter().filter_map(|field| field.table(|table| upstream(field.key(), table))?).collect();
    (checked, names)
}

fn upstream(name: &str, table: &Table) -> Option<Settings> {
    let url = table.read("url", |field| Some(vec![ServerSettings { address: server(field)?, weight: 1 }]));
    let urls = table.read("urls", |field| field.nonempty_list(weighted_server));
    let connect_timeout = table.read("connect_timeout", positive_duration).unwrap_or(Duration::from_secs(3));
    let response_timeout = table.read("response_timeout", positive_duration).unwrap_or(Duration::from_secs(60));
    let unauthorized = table.table("unauthorized", unauthorized);
    let balance = table.read("balance", |field| {
        let words = [
            ("round_robin", Balance::RoundRobin),
            ("least_requests", Balance::LeastRequests),
            ("sticky", Balance::Sticky),
        ];
        field.choice(&words, &[])
    });
    let retries = table.read("retries", |field| number(field, 0, 10));
    let ejection = table.table("ejection", ejection);
    let checks = table.has("health").then(|| table.table("health", checks)).flatten();
    let slow_start = table.read("slow_start", duration).unwrap_or_default();
    let limits = limits(table);
    let breaker = table.has("breaker").then(|| table.table("breaker", breaker));
    let connection = connection(table);
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
    check_tls(table, &servers, &connection.tls);
    Some(Settings {
        name: name.to_owned(),
        servers,
        balance: balance.unwrap_or(Balance::RoundRobin),
        retries: retries.unwrap_or(1),
        ejection,
        checks,
        slow_start,
        limits,
        breaker,
        connect_timeout,
        connection,
        response_timeout,
        unauthorized,
    })
}

/// An address, or `{ url = "…", weight = 3 }`.
fn weighted_server(field: &Field) -> Option<ServerSettings> {
    if !matches!(field.value(), DeValue::Table(_)) {
        return Some(ServerSettings { address: server(field)?, weight: 1 });
    }
    field.table(|table| {
        let address = table.require("url", r#""http://127.0.0.1:3000""#, server);
        let weight = table.read("weight", |field| number(field, 1, 100)).unwrap_or(1);
        Some(ServerSettings { address: address?, weight })
    })?
}

fn ejection(table: &Table) -> health::Ejection {
    health::Ejection {
        failures: table.read("failures", |field| number(field, 1, 1000)).unwrap_or(5),
        pause: table.read("for", positive_duration).unwrap_or(Duration::from_secs(10)),
        most: table.read("most", |field| number(field, 0, 100)).unwrap_or(50),
        status: table.read("status", |field| field.nonempty_list(server_error)).unwrap_or_default(),
    }
}

fn checks(table: &Table) -> Option<checks::Settings> {
    let path = table.require("path", r#""/healthz""#, |field| match path(field)?.parse::<Uri>() {
        Ok(path) => Some(path),
        Err(_) => field.refuse("is not a path", "a path and a query as they stand on the wire"),
    });
    let settings = checks::Settings {
        path: Uri::default(),
        interval: table.read("interval", positive_duration).unwrap_or(Duration::from_secs(10)),
        timeout: table.read("timeout", positive_duration).unwrap_or(Duration::from_secs(3)),
        healthy: table.read("healthy", |field| number(field, 1, 100)).unwrap_or(2),
        unhealthy: table.read("unhealthy", |field| number(field, 1, 100)).unwrap_or(3),
        status: table
            .read("status", |field| field.nonempty_list(|field| any_status(field, 200, 599)))
            .unwrap_or_else(|| vec![StatusCode::OK]),
    };
    Some(checks::Settings { path: path?, ..settings })
}

fn limits(table: &Table) -> limits::Settings {
    let bound = |key| table.read(key, |field| number(field, 1, 1_000_000));
    let (max_connections, max_requests) = (bound("max_connections"), bound("max_requests"));
    let max_pending = table.read("max_pending", |field| number(field, 0, 1_000_000));
    let pending_timeout = table.read("pending_timeout", positive_duration);
    let is_bounded = table.has("max_connections") || table.has("max_requests");
    if max_pending.is_some_and(|most| most > 0) && !is_bounded {
        table.refuse(
            "max_pending",
            "`max_pending` has nothing to wait for",
            "set `max_requests` or `max_connections` as well",
        );
    }
    limits::Settings {
        max_connections,
        max_requests,
        max_pending: max_pending.unwrap_or(0),
        pending_timeout: pending_timeout.unwrap_or(Duration::from_secs(1)),
    }
}

fn breaker(table: &Table) -> breaker::Settings {
    breaker::Settings {
        answers: table.read("answers", |field| number(field, 1, 1000)).unwrap_or(20),
        failures: table.read("failures", |field| number(field, 1, 100)).unwrap_or(50),
        pause: table.read("pause", positive_duration).unwrap_or(Duration::from_secs(5)),
        status: table.read("status", |field| field.nonempty_list(server_error)).unwrap_or_default(),
    }
}

fn number<T: TryFrom<u64>>(field: &Field, least: u64, most: u64) -> Option<T> {
    T::try_from(field.integer(least, most)?).ok()
}

fn connection(table: &Table) -> ConnectionSettings {
    let protocols = [("auto", Protocol::Auto), ("http1", Protocol::Http1), ("http2", Protocol::Http2)];
    ConnectionSettings {
        protocol: table.read("protocol", |field| field.choice(&protocols, &[])).unwrap_or(Protocol::Auto),
        tls: table.table("tls", tls),
        idle_timeout: table.read("idle_timeout", positive_duration).unwrap_or(Duration::from_secs(30)),
        connection_max_age: table.read("connection_max_age", positive_duration),
        max_idle_connections: table
            .read("max_idle_connections", |field| field.integer(0, 100_000))
            .and_then(|most| usize::try_from(most).ok())
            .unwrap_or(256),
        dns_refresh: table.read("dns_refresh", positive_duration).unwrap_or(Duration::from_secs(30)),
    }
}

/// The files are read here, so that a bad one stops the start.
fn tls(table: &Table) -> TlsSettings {
    let certificate = table.read("client_certificate", |field| from_file(field, tls::certificates));
    let key = table.read("client_key", |field| from_file(field, tls::private_key));
    if let (Some(missing), present) = match (table.has("client_certificate"), table.has("client_key")) {
        (true, false) => (Some("client_key"), "client_certificate"),
        (false, true) => (Some("client_certificate"), "client_key"),
        _ => (None, ""),
    } {
        table.refuse(present, "`client_certificate` and `client_key` go together", &format!("add `{missing}`"));
    }
    let client = certificate.zip(key).and_then(|(chain, key)| match tls::certified_key(chain, key) {
        Ok(client) => Some(Arc::<CertifiedKey>::new(client)),
        Err(unusable) => {
            table.refuse("client_key", format!("`client_key` {unusable}"), "the key of `client_certificate`, in PEM");
            None
        }
    });
    TlsSettings {
        roots: table.read("ca_file", |field| from_file(field, tls::roots)).map(Arc::new),
        server_name: table.read("server_name", server_name),
        client,
    }
}

fn from_file<T>(field: &Field, read: impl FnOnce(&Path) -> Result<T, Unusable>) -> Option<T> {
    match read(&file_path(field)?) {
        Ok(content) => Some(content),
        Err(unusable) => field
            .refuse(unusable.to_string(), "a PEM file; the path is relative to the directory the process starts in"),
    }
}

fn server_name(field: &Field) -> Option<ServerName<'static>> {
    match ServerName::try_from(field.string()?.to_owned()) {
        Ok(name) => Some(name),
        Err(_) => field.refuse("is not a name that a certificate can be for", r#"a host name, as in "app.internal""#),
    }
}

fn check_tls(table: &Table, servers: &[ServerSettings], tls: &TlsSettings) {
    let hosts = || {
        servers.iter().filter_map(|server| match &server.address {
            ServerAddress::Tcp { tls: true, host, .. } => Some(host),
            _ => None,
        })
    };
    if table.has("tls") && hosts().next().is_none() {
        table.refuse("tls", "`tls` is for upstreams that are reached by https", "write `https://` in the URL");
    }
    let key = if table.has("url") { "url" } else { "urls" };
    let nameless = hosts().find(|host| ServerName::try_from(host.as_str()).is_err());
    if let (Some(host), None) = (nameless, &tls.server_name) {
        let message = format!("`{host}` is not a name that a certificate can be for");
        table.refuse(key, message, "set `tls.server_name` to the name in the server's certificate");
    }
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
    any_status(field, 400, 599)
}

fn server_error(field: &Field) -> Option<StatusCode> {
    any_status(field, 500, 599)
}

fn any_status(field: &Field, least: u64, most: u64) -> Option<StatusCode> {
    StatusCode::from_u16(number(field, least, most)?).ok()
}
