//! `[upstreams.NAME]`

use super::raw::{Field, Table};
use super::values::{duration, path, positive_duration, web_url};
use crate::upstream::balance::Balance;
use crate::upstream::{ServerAddress, ServerSettings, Settings, Unauthorized, breaker, checks, health, limits};
use http::{StatusCode, Uri};
use std::path::PathBuf;
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
