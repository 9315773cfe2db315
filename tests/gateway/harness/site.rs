//! A gateway between a provider and an upstream, from a few lines of `gateway.toml`.

use super::PATIENCE;
use super::backend::{Backend, password_of};
use super::browser::{Browser, Request};
use super::inspect::Expectations;
use super::provider::{CLIENT_ID, CLIENT_SECRET, Provider};
use super::upstream::Upstream;
use super::wire::{Connection, Reply};
use latchgate::app::{self, Drained, Running};
use latchgate::clock::Clock;
use latchgate::config::Config;
use serde_json::json;
use std::fmt::Write;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use url::Url;

/// A running gateway with what surrounds it.
pub struct Site {
    pub provider: Provider,
    pub upstream: Upstream,
    pub gateway: Gateway,
    pub clock: Clock,
    expected: Expectations,
}

/// A site to be.
pub struct Plan {
    external_url: String,
    server: String,
    session: String,
    login: String,
    refresh: String,
    limits: String,
    app: String,
    more: String,
    routes: String,
    provider: Option<Provider>,
    backends: Vec<(Backend, String)>,
    clock: Clock,
}

impl Site {
    /// `http://gw.test`, provider `corp`, upstream `app`, no routes yet.
    pub fn plan() -> Plan {
        Plan {
            external_url: "http://gw.test".to_owned(),
            server: String::new(),
            session: String::new(),
            login: String::new(),
            refresh: String::new(),
            limits: String::new(),
            app: String::new(),
            more: String::new(),
            routes: String::new(),
            provider: None,
            backends: Vec::new(),
            clock: Clock::system(),
        }
    }

    /// Every path needs a session.
    pub async fn protected() -> Site {
        Site::plan().route("/*", "auth = true").start().await
    }

    /// A browser without cookies.
    pub fn browser(&self) -> Browser {
        Browser::new(self.gateway.address, self.provider.clone(), self.expected.clone(), self.clock.clone())
    }

    /// A browser where `ada` is signed in, for longer than `refresh.cooldown`. The upstream has not been
    /// asked for it.
    pub async fn signed_in(&self) -> Browser {
        self.signed_in_as("ada").await
    }

    /// As [`Site::signed_in`], at the backend `legacy`.
    ///
    /// # Panics
    /// When the login does not work.
    pub async fn signed_in_at_backend(&self, user: &str) -> Browser {
        let browser = self.browser();
        let credentials = json!({ "username": user, "password": password_of(user) });
        let login = Request::fetch("POST", "/auth/legacy").body("application/json", credentials.to_string());
        let reply = browser.send(login).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        self.clock.advance(Duration::from_secs(10));
        browser
    }

    /// As [`Site::signed_in`], with another user.
    pub async fn signed_in_as(&self, user: &str) -> Browser {
        let browser = self.browser();
        browser.sign_in_as(user, "/api/user/me").await;
        self.clock.advance(Duration::from_secs(10));
        browser
    }

    /// Asks with these bytes on a connection of their own; `None` when it is closed without a reply.
    pub async fn raw(&self, bytes: &str) -> Option<Reply> {
        let method = bytes.split(' ').next().unwrap_or("");
        let mut connection = self.connect().await;
        connection.send(&super::wire::bytes_of(bytes)).await.ok();
        connection.reply(method).await
    }

    /// Asks the admin listener, with `headers` besides `Host`.
    ///
    /// # Panics
    /// When there is none.
    pub async fn admin(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        let address = self.gateway.admin_address.expect("an admin listener");
        let host = if headers.iter().any(|(name, _)| *name == "Host") { None } else { Some(address.to_string()) };
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in host.as_deref().map(|host| ("Host", host)).iter().chain(headers) {
            write!(head, "{name}: {value}\r\n").expect("memory");
        }
        let mut connection = Connection::open(address).await;
        connection.send(format!("{head}\r\n").as_bytes()).await.expect("the listener takes the request");
        connection.reply(method).await.expect("a reply")
    }

    /// A bare connection to the gateway.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.gateway.address).await
    }
}

impl Plan {
    /// Another `external_url`.
    pub fn external_url(mut self, url: &str) -> Plan {
        self.external_url = url.to_owned();
        self
    }

    /// Lines for `[server]`.
    pub fn server(mut self, lines: &str) -> Plan {
        self.server = lines.to_owned();
        self
    }

    /// Lines for `[session]`.
    pub fn session(mut self, lines: &str) -> Plan {
        self.session = lines.to_owned();
        self
    }

    /// Lines for `[login]`.
    pub fn login(mut self, lines: &str) -> Plan {
        self.login = lines.to_owned();
        self
    }

    /// Lines for `[refresh]`.
    pub fn refresh(mut self, lines: &str) -> Plan {
        self.refresh = lines.to_owned();
        self
    }

    /// Lines for `[limits]`.
    pub fn limits(mut self, lines: &str) -> Plan {
        self.limits = lines.to_owned();
        self
    }

    /// Lines for `[upstreams.app]`; a `url` here replaces the scripted one.
    pub fn app(mut self, lines: &str) -> Plan {
        self.app = lines.to_owned();
        self
    }

    /// Whole tables.
    pub fn more(mut self, tables: &str) -> Plan {
        self.more = tables.to_owned();
        self
    }

    /// A provider that runs already.
    pub fn provider(mut self, provider: &Provider, clock: &Clock) -> Plan {
        self.provider = Some(provider.clone());
        self.clock = clock.clone();
        self
    }

    /// `[providers.legacy]` with these lines, at a backend that runs already; its clock is the site's.
    pub fn backend(mut self, backend: &Backend, lines: &str) -> Plan {
        self.clock = backend.clock();
        self.backends.push((backend.clone(), backend.table("legacy", lines)));
        self
    }

    /// One more route to the upstream `app`.
    pub fn route(mut self, path: &str, lines: &str) -> Plan {
        let upstream = if lines.contains("upstream =") { "" } else { "upstream = \"app\"\n" };
        writeln!(self.routes, "[[routes]]\npath = \"{path}\"\n{upstream}{lines}").expect("memory");
        self
    }

    /// Starts everything.
    ///
    /// # Panics
    /// When the configuration is refused or the gateway does not start.
    pub async fn start(self) -> Site {
        let provider = match &self.provider {
            Some(provider) => provider.clone(),
            None => Provider::start(self.clock.clone()).await,
        };
        let upstream = Upstream::start().await;
        let external = Url::parse(&self.external_url).expect("a URL");
        for (backend, _) in &self.backends {
            backend.tell_secrets_to(&provider);
        }
        provider.register(&format!("{}/auth/corp", self.external_url));
        let source = self.source(&provider.issuer(), &upstream.url());
        let gateway = Gateway::start(&source, self.clock.clone()).await;
        let expected = Expectations { external, login_prefix: "/auth".to_owned(), issuer: provider.issuer() };
        Site { provider, upstream, gateway, clock: self.clock, expected }
    }

    fn source(&self, issuer: &str, upstream: &str) -> String {
        let url = if self.app.contains("url =") || self.app.contains("urls =") {
            String::new()
        } else {
            format!("url = \"{upstream}\"")
        };
        let admin = if self.server.contains("admin_listen") { "" } else { "admin_listen = \"off\"" };
        // The whole suite, with another store.
        let store = match std::env::var("LATCHGATE_TEST_STORE") {
            Ok(store) if !self.session.contains("store =") => format!("store = \"{store}\""),
            _ => String::new(),
        };
        let drain = if self.server.contains("drain_timeout") { "" } else { "drain_timeout = \"5s\"" };
        format!(
            r#"
[server]
listen = "127.0.0.1:0"
{admin}
external_url = "{external_url}"
{drain}
{server}
[session]
secret = {{ env = "SESSION_SECRET" }}
{store}
{session}
[login]
{login}
[refresh]
{refresh}
[limits]
{limits}
[providers.corp]
kind = "oidc"
issuer = "{issuer}"
client_id = "{CLIENT_ID}"
client_secret = {{ env = "CLIENT_SECRET" }}
{backends}
[upstreams.app]
{url}
{app}
{more}
{routes}"#,
            external_url = self.external_url,
            server = self.server,
            session = self.session,
            login = self.login,
            refresh = self.refresh,
            limits = self.limits,
            app = self.app,
            backends = self.backends.iter().map(|(_, table)| table.as_str()).collect::<String>(),
            more = self.more,
            routes = self.routes,
        )
    }
}

/// A gateway under test.
pub struct Gateway {
    pub address: SocketAddr,
    pub admin_address: Option<SocketAddr>,
    running: Running,
}

impl Gateway {
    /// Starts what `source` describes.
    ///
    /// # Panics
    /// When the configuration is refused or the gateway does not start.
    pub async fn start(source: &str, clock: Clock) -> Gateway {
        let config = parse(source).unwrap_or_else(|report| panic!("{report}"));
        let running = app::start(config, clock).await.unwrap_or_else(|error| panic!("{error}"));
        let address = *running.addresses().first().expect("one listener");
        Gateway { address, admin_address: running.admin_address(), running }
    }

    /// As SIGHUP does.
    pub fn reload_certificates(&self) {
        self.running.reload_certificates();
    }

    /// Drains, as SIGTERM does.
    pub async fn shut_down(self) -> Drained {
        self.running.shut_down().await
    }
}

/// Reads a configuration; the problems as text when it is refused.
pub fn parse(source: &str) -> Result<Config, String> {
    let env = |name: &str| match name {
        "SESSION_SECRET" => Some("a session secret of more than thirty-two bytes".to_owned()),
        "CLIENT_SECRET" => Some(CLIENT_SECRET.to_owned()),
        _ => None,
    };
    Config::parse(source, "gateway.toml", &env).map_err(|report| report.to_string())
}

/// Runs `count` of them at once; the results in no particular order.
///
/// # Panics
/// When one of them panics.
pub async fn together<F, T>(count: usize, mut one: impl FnMut(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let mut running = JoinSet::new();
    for number in 0..count {
        running.spawn(one(number));
    }
    running.join_all().await
}

/// Waits until `holds`.
///
/// # Panics
/// When it does not come about in time.
pub async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it never came about");
}
