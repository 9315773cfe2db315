//! The tables that exist once: server, session, login, refresh, limits, telemetry.

use super::raw::{Field, Table, quoted};
use super::tls;
use super::values::{
    duration, file_path, is_loopback, origin, path, path_prefix, positive_duration, secret, size, web_url,
};
use crate::endpoints::code_flow::Flow;
use crate::session::StoreSettings;
use crate::session::store::redis::{Mode, RedisSettings};
use crate::telemetry::LogFormat;
use crate::{endpoints, gateway, server, session, telemetry, tokens};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// `[server]`
pub(super) fn server(table: &Table) -> server::Settings {
    let listen = table.read("listen", |field| field.one_or_more(listen)).unwrap_or_else(|| vec![default_listen()]);
    if listen.iter().enumerate().any(|(at, address)| listen[..at].contains(address)) {
        table.refuse("listen", "`server.listen` names an address twice", "take one of them out");
    }
    let admin_listen = table.read("admin_listen", admin_listen).unwrap_or(Some(DEFAULT_ADMIN_LISTEN));
    if let Some(admin) = admin_listen
        && admin.port() != 0
        && listen.contains(&server::Listen::Tcp(admin))
    {
        table.refuse(
            "admin_listen",
            "`server.admin_listen` is the address of `server.listen`",
            r#"give it a port of its own, or "off""#,
        );
    }
    let external_url = table.read("external_url", external_url).unwrap_or_else(default_external_url);
    let tls = table.read("tls", |field| field.table(tls::read)).flatten();
    if table.has("tls") && external_url.scheme() == "http" {
        let help = "what browsers see is https now, and the cookies go by it";
        table.refuse("external_url", "`server.external_url` is http, and `server.tls` is there", help);
    }
    let trusted_proxies = table.read("trusted_proxies", |field| field.list(trusted_proxy)).unwrap_or_default();
    let proxy_protocol = table.read("proxy_protocol", Field::boolean).unwrap_or(false);
    if proxy_protocol && trusted_proxies.is_empty() {
        let message = "`server.proxy_protocol` is on, and nobody is in `server.trusted_proxies`";
        table.refuse("proxy_protocol", message, "name the load balancers that may say where a connection is from");
    }
    let no_tcp = !listen.iter().any(|place| matches!(place, server::Listen::Tcp(_)));
    for key in ["tls", "proxy_protocol"].into_iter().filter(|key| no_tcp && table.has(key)) {
        let message = format!("`server.{key}` has no effect: it is for TCP, and `server.listen` has unix sockets only");
        table.warn(key, message, "take it out, or listen on an address");
    }
    server::Settings {
        listen,
        external_url,
        admin_listen,
        trusted_proxies,
        proxy_protocol,
        tls,
        drain_timeout: table.read("drain_timeout", duration).unwrap_or(Duration::from_secs(30)),
        workers: table
            .read("workers", |field| field.integer(1, 1024))
            .and_then(|workers| usize::try_from(workers).ok())
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        case_insensitive_paths: table.read("case_insensitive_paths", Field::boolean).unwrap_or(false),
    }
}

/// `[session]`
pub(super) fn session(table: &Table) -> session::Settings {
    let path = table.table("file", |table| table.read("path", file_path));
    let redis = table.table("redis", redis);
    let kind = [("memory", Store::Memory), ("file", Store::File), ("redis", Store::Redis), ("cookie", Store::Cookie)];
    let kind = table.read("store", |field| field.choice(&kind, &[])).unwrap_or(Store::Memory);
    let secrets: Vec<SecretString> =
        table.read("secret", |field| field.one_or_more(session_secret)).unwrap_or_default();
    if kind != Store::Memory && !table.has("secret") {
        let help = r#"add `secret = { env = "LATCHGATE_SECRET" }`, made with `openssl rand -base64 48`"#;
        table.refuse("secret", "`session.secret` is missing: this store keeps sessions sealed with it", help);
    }
    let settings = session::Settings {
        store: match kind {
            Store::Memory => StoreSettings::Memory,
            Store::File => StoreSettings::File(path.unwrap_or_else(|| "latchgate.db".into())),
            Store::Redis => redis.map_or(StoreSettings::Memory, StoreSettings::Redis),
            Store::Cookie => StoreSettings::Cookie,
        },
        idle_timeout: table.read("idle_timeout", positive_duration).unwrap_or(Duration::from_secs(24 * 3600)),
        absolute_timeout: table.read("absolute_timeout", positive_duration).unwrap_or(Duration::from_secs(72 * 3600)),
        cache_memory: table.read("cache_memory", size).unwrap_or(64 << 20),
        max_sessions: count(table, "max_sessions", 1_000_000),
        max_sessions_per_user: count(table, "max_sessions_per_user", 100),
        secrets,
    };
    if table.has("idle_timeout") && settings.idle_timeout > settings.absolute_timeout {
        table.warn(
            "idle_timeout",
            "`session.idle_timeout` is longer than `session.absolute_timeout` and never takes effect",
            "make it shorter, or the other longer",
        );
    }
    settings
}

#[derive(Clone, Copy, PartialEq)]
enum Store {
    Memory,
    File,
    Redis,
    Cookie,
}

fn text(field: &Field) -> Option<String> {
    field.string().map(str::to_owned)
}

/// `[session.redis]`. The URLs may hold a password, so none is ever shown.
fn redis(table: &Table) -> Option<RedisSettings> {
    let cluster = table.read("cluster", Field::boolean).unwrap_or(false);
    let from_urls = |field: &Field| {
        let urls: Vec<SecretString> = field.one_or_more(secret)?;
        let urls: Vec<&str> = urls.iter().map(ExposeSecret::expose_secret).collect();
        match RedisSettings::from_urls(&urls, cluster) {
            Ok(settings) => Some(settings),
            Err(problem) => field.refuse(format!("cannot be used: {problem}"), "as in \"redis://127.0.0.1:6379/\""),
        }
    };
    let username = table.read("username", text);
    let password = table.read("password", secret);
    let sentinel_login = (table.read("sentinel_username", text), table.read("sentinel_password", secret));
    let key_prefix = table.read("key_prefix", text);
    let timeout = table.read("timeout", positive_duration);
    let connect_timeout = table.read("connect_timeout", positive_duration);
    let ca_file = table.read("ca_file", file_path);
    let client = (table.read("client_certificate", file_path), table.read("client_key", file_path));
    let url = table.read("url", from_urls);
    let mut settings = if table.has("url") { url } else { RedisSettings::from_urls(&[DEFAULT_REDIS], cluster).ok() }?;
    settings.username = username.or(settings.username);
    settings.password = password.or(settings.password);
    settings.key_prefix = key_prefix.unwrap_or(settings.key_prefix);
    settings.timeout = timeout.unwrap_or(settings.timeout);
    settings.connect_timeout = connect_timeout.unwrap_or(settings.connect_timeout);
    match (&mut settings.mode, sentinel_login) {
        (Mode::Sentinel { username, password, .. }, login) => (*username, *password) = login,
        (_, (None, None)) => {}
        _ => {
            let help = "write `redis-sentinel://` in `session.redis.url`";
            table.refuse("sentinel_password", "`session.redis.sentinel_…` is for sentinels", help);
        }
    }
    if ca_file.is_some() || client != (None, None) {
        let Some(tls) = settings.tls.as_mut() else {
            let key = ["ca_file", "client_certificate", "client_key"].into_iter().find(|key| table.has(key))?;
            table.refuse(key, format!("`session.redis.{key}` is for TLS"), "write `rediss://` in `session.redis.url`");
            return None;
        };
        tls.ca_file = ca_file;
        tls.client = match client {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                table.refuse(
                    "client_certificate",
                    "`client_certificate` and `client_key` go together",
                    "add the other",
                );
                return None;
            }
        };
    }
    match settings.check() {
        Ok(()) => Some(settings),
        Err(problem) => {
            let key = if table.has("key_prefix") { "key_prefix" } else { "url" };
            table.refuse(key, problem.to_string(), "see `[session.redis]` in docs/configuration.md");
            None
        }
    }
}

/// `[login]`
pub(super) fn login(table: &Table, store: &StoreSettings) -> endpoints::Settings {
    let flow = table.read("flow", |field| field.choice(&[("cookie", Flow::Cookie), ("code", Flow::Code)], &[]));
    if flow == Some(Flow::Code) && matches!(store, StoreSettings::Cookie) {
        let message = "`login.flow` is \"code\", and browsers carry their sessions in cookies";
        table.refuse("flow", message, "choose another `session.store`");
    }
    let allowed_return_origins: Vec<String> = table
        .read("allowed_return_origins", |field| field.list(|item| Some(origin(item)?.origin().ascii_serialization())))
        .unwrap_or_default();
    let target = |field: &Field| return_target(field, &allowed_return_origins);
    let prefix = table.read("prefix", login_prefix).unwrap_or_else(|| "/auth".to_owned());
    let user_path = table.read("user_path", path_prefix).unwrap_or_else(|| "/api/user/me".to_owned());
    let below_prefix = user_path.strip_prefix(&prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    if below_prefix.is_some_and(|rest| rest != "/me") {
        let message = format!("`login.user_path` is inside `login.prefix` (`{prefix}`), where other endpoints are");
        table.refuse("user_path", message, "choose another path; `/me` is there in any case");
    }
    if user_path == endpoints::JWKS_PATH {
        table.refuse("user_path", "`login.user_path` is where the gateway publishes its keys", "choose another path");
    }
    endpoints::Settings {
        prefix,
        after_login: table.read("after_login", target).unwrap_or_else(|| "/".to_owned()),
        after_logout: table.read("after_logout", target).unwrap_or_else(|| "/".to_owned()),
        user_path,
        expose_access_token: table.read("expose_access_token", Field::boolean).unwrap_or(false),
        return_to_page: table.read("return_to_page", Field::boolean).unwrap_or(true),
        allowed_return_origins,
        flow: flow.unwrap_or_default(),
        look: endpoints::Look {
            brand: table.read("brand", text).unwrap_or_else(|| "latchgate".to_owned()),
            theme: table.table("theme", theme),
        },
    }
}

/// `[login.theme]`: the colours of `src/pages/style.css` by name.
fn theme(table: &Table) -> String {
    let declared = COLOURS.iter().filter_map(|&name| {
        let value = table.read(name, colour)?;
        Some(format!("--{}: {value};", name.replace('_', "-")))
    });
    declared.collect::<Vec<_>>().join(" ")
}

/// A CSS colour, and nothing that could end the declaration.
fn colour(field: &Field) -> Option<String> {
    let text = field.string()?;
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"#%.,()/- ".contains(&byte)) {
        return field.refuse("is not a colour", r##"as in "#0b6e58", "teal" or "rgb(11 110 88)""##);
    }
    Some(text.to_owned())
}

const COLOURS: [&str; 12] = [
    "ground",
    "surface",
    "sunken",
    "raised",
    "line",
    "text",
    "quiet",
    "accent",
    "accent_soft",
    "on_accent",
    "warn",
    "warn_soft",
];

/// `[refresh]`
pub(super) fn refresh(table: &Table) -> tokens::Settings {
    tokens::Settings {
        early: table.read("early", duration).unwrap_or(Duration::from_secs(30)),
        timeout: table.read("timeout", positive_duration).unwrap_or(Duration::from_secs(10)),
        grace: table.read("grace", duration).unwrap_or(Duration::from_secs(60)),
        cooldown: table.read("cooldown", duration).unwrap_or(Duration::from_secs(5)),
    }
}

/// `refresh.rotation`: of the refresh tokens that are ours.
pub(super) fn rotation(table: &Table) -> bool {
    table.read("rotation", Field::boolean).unwrap_or(true)
}

/// `[limits]`
pub(super) fn limits(table: &Table, store: &StoreSettings) -> gateway::Limits {
    let limits = gateway::Limits {
        replay_body: table.read("replay_body", size).unwrap_or(256 << 10),
        replay_memory: table.read("replay_memory", size).unwrap_or(64 << 20),
        header_bytes: table.read("header_bytes", header_bytes).unwrap_or(32 << 10),
        header_count: count(table, "header_count", 100),
        header_timeout: table.read("header_timeout", positive_duration).unwrap_or(Duration::from_secs(10)),
        idle_timeout: table.read("idle_timeout", positive_duration).unwrap_or(Duration::from_secs(75)),
        body_timeout: table.read("body_timeout", positive_duration).unwrap_or(Duration::from_secs(30)),
        write_timeout: table.read("write_timeout", positive_duration).unwrap_or(Duration::from_secs(60)),
        request_timeout: table.read("request_timeout", positive_duration),
        connections: count(table, "connections", 20_000),
        websocket_idle_timeout: table
            .read("websocket_idle_timeout", positive_duration)
            .unwrap_or(Duration::from_secs(3600)),
        login_attempts: table
            .read("login_attempts", |field| field.integer(1, u64::from(u32::MAX)))
            .and_then(|attempts| u32::try_from(attempts).ok())
            .unwrap_or(10),
    };
    if matches!(store, StoreSettings::Cookie) && session::carried::chunks_within(limits.header_bytes) < 2 {
        table.refuse(
            "header_bytes",
            "`limits.header_bytes` leaves no room for sessions in cookies",
            r#"at least "16KiB" with `session.store = "cookie"`"#,
        );
    }
    if limits.replay_body > limits.replay_memory {
        table.refuse(
            "replay_body",
            "`limits.replay_body` is more than `limits.replay_memory`",
            "one body must fit into what is kept of all of them",
        );
    }
    limits
}

/// `[telemetry]`
pub(super) fn telemetry(table: &Table) -> telemetry::Settings {
    table.unavailable(&["otlp_endpoint"]);
    let log = table.read("log", |field| field.choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)], &[]));
    telemetry::Settings { log: log.unwrap_or_default() }
}

const DEFAULT_ADMIN_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

fn default_listen() -> server::Listen {
    server::Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080))
}

fn default_external_url() -> Url {
    #[expect(clippy::unwrap_used, reason = "a constant")]
    Url::parse("http://localhost:8080").unwrap()
}

fn listen(field: &Field) -> Option<server::Listen> {
    const HELP: &str =
        r#"an address and a port, as in "127.0.0.1:8080" or "[::1]:8080", or "unix:/run/latchgate.sock""#;
    let text = field.string()?;
    match text.strip_prefix("unix:") {
        Some("") => field.refuse("names no socket", HELP),
        Some(path) => Some(server::Listen::Unix(PathBuf::from(path))),
        None => match text.parse() {
            Ok(address) => Some(server::Listen::Tcp(address)),
            Err(_) => field.refuse("is not an address to listen on", HELP),
        },
    }
}

fn admin_listen(field: &Field) -> Option<Option<SocketAddr>> {
    const HELP: &str = r#"an address and a port, as in "127.0.0.1:9901", or "off""#;
    match field.string()? {
        "off" => Some(None),
        text => match text.parse::<SocketAddr>() {
            Ok(address) => {
                if !address.ip().is_loopback() {
                    field.warn(
                        "can be reached from other machines, and nobody has to sign in there",
                        "listen on a loopback address, or keep others out by other means",
                    );
                }
                Some(Some(address))
            }
            Err(_) => field.refuse("is not an address to listen on", HELP),
        },
    }
}

fn external_url(field: &Field) -> Option<Url> {
    let url = origin(field)?;
    if url.scheme() == "http" && !is_loopback(&url) {
        field.warn("is plain http: others on the way can read the session cookie", "use https where others can listen");
    }
    Some(url)
}

fn trusted_proxy(field: &Field) -> Option<IpNet> {
    let text = field.string()?;
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    match net {
        Ok(net) => {
            if net.prefix_len() == 0 {
                field.warn("trusts everybody: any client can forge its address", "name the proxies in front");
            }
            Some(net.trunc())
        }
        Err(_) => field.refuse(
            "is neither an address nor a block of them",
            r#"an address or a CIDR block, as in "10.0.0.7" or "10.0.0.0/8""#,
        ),
    }
}

fn session_secret(field: &Field) -> Option<SecretString> {
    let secret = secret(field)?;
    if secret.expose_secret().len() < 32 {
        return field.refuse("is shorter than 32 bytes", "make one with `openssl rand -base64 48`");
    }
    Some(secret)
}

fn login_prefix(field: &Field) -> Option<String> {
    let prefix = path_prefix(field)?;
    if prefix == "/mock" || prefix.starts_with("/mock/") {
        return field.refuse("is where the mock provider answers", "choose another prefix");
    }
    Some(prefix)
}

/// A path here, or a URL whose origin a login may return to as well.
fn return_target(field: &Field, allowed_return_origins: &[String]) -> Option<String> {
    if !field.string()?.contains("://") {
        return path(field);
    }
    let url = web_url(field)?;
    if !allowed_return_origins.contains(&url.origin().ascii_serialization()) {
        let help = match allowed_return_origins {
            [] => "write a path, or add the origin to `login.allowed_return_origins`".to_owned(),
            origins => format!("write a path, or a URL on one of {}", quoted(origins, ", ")),
        };
        return field.refuse("leads to another origin", help);
    }
    Some(url.into())
}

/// What is on this machine already, without a word about it.
const DEFAULT_REDIS: &str = "redis://127.0.0.1/";

/// hyper's HTTP/1 buffer cannot be smaller than 8 KiB.
fn header_bytes(field: &Field) -> Option<usize> {
    let range = 8 << 10..=16 << 20;
    match size(field)? {
        bytes if range.contains(&bytes) => usize::try_from(bytes).ok(),
        _ => field.refuse("is out of range", r#"at least "8KiB" and at most "16MiB""#),
    }
}

fn count(table: &Table, key: &'static str, default: usize) -> usize {
    let read = table.read(key, |field| field.integer(1, u64::from(u32::MAX)));
    read.and_then(|count| usize::try_from(count).ok()).unwrap_or(default)
}
