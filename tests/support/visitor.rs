//! A browser that takes nothing amiss: gateways go away under it, and it comes again.

use super::gateway_process::EXTERNAL_URL;
use super::harness::login_path;
use super::harness::wire::{Connection, Reply};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// One user's browser. A clone has the same cookies, and its own jar from then on.
#[derive(Clone, Debug)]
pub struct Visitor {
    pub user: String,
    provider: SocketAddr,
    cookies: BTreeMap<String, String>,
}

/// Where a navigation ended.
#[derive(Debug)]
pub struct Arrival {
    pub reply: Reply,
    pub redirects: usize,
}

impl Visitor {
    /// Without cookies.
    pub fn new(user: &str, provider: SocketAddr) -> Visitor {
        Visitor { user: user.to_owned(), provider, cookies: BTreeMap::new() }
    }

    /// Whether there is a session cookie, or the first of several.
    pub fn has_session(&self) -> bool {
        ["latchgate", "latchgate.0", "latchgate.1"].iter().any(|name| self.cookies.contains_key(*name))
    }

    /// A `fetch()` by a page of the gateway's; None when the gateway was not there, or went away.
    pub async fn fetch(&self, gateway: SocketAddr, method: &str, target: &str, headers: &str) -> Option<Reply> {
        self.ask(gateway, method, target, &format!("{FETCH}{headers}")).await
    }

    /// A request with these header fields and our cookies; None when the gateway was not there, or went away.
    pub async fn ask(&self, gateway: SocketAddr, method: &str, target: &str, headers: &str) -> Option<Reply> {
        self.send(gateway, method, target, headers).await?.reply(method).await
    }

    /// The request is on its way, its answer to be read or not.
    pub async fn send(&self, gateway: SocketAddr, method: &str, target: &str, headers: &str) -> Option<Connection> {
        let mut connection = Connection::over(TcpStream::connect(gateway).await.ok()?);
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = if cookies.is_empty() { String::new() } else { format!("Cookie: {}\r\n", cookies.join("; ")) };
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\n{length}{cookies}{headers}\r\n"
        );
        connection.send(request.as_bytes()).await.ok()?;
        Some(connection)
    }

    /// Keeps the cookies of an answer.
    pub fn take_cookies(&mut self, reply: &Reply) {
        for cookie in reply.headers.values("set-cookie") {
            let Some((name, rest)) = cookie.split_once('=') else { continue };
            let value = rest.split(';').next().unwrap_or_default();
            if value.is_empty() || rest.to_ascii_lowercase().contains("max-age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// Types `target` into the address bar and follows every redirect, of which there are not many: more than
    /// [`MOST_REDIRECTS`] are a loop. None when the gateway went away.
    pub async fn navigate(&mut self, gateway: SocketAddr, target: &str) -> Option<Arrival> {
        let mut at = format!("{EXTERNAL_URL}{target}");
        for redirects in 0..=MOST_REDIRECTS {
            let reply = match at.strip_prefix(EXTERNAL_URL) {
                Some(target) => {
                    let reply = self.ask(gateway, "GET", target, NAVIGATION).await?;
                    self.take_cookies(&reply);
                    reply
                }
                None => {
                    let url = url::Url::parse(&at).ok()?;
                    let target = format!("{}?{}", url.path(), url.query().unwrap_or_default());
                    let stranger = Visitor { cookies: BTreeMap::new(), ..self.clone() };
                    stranger.ask(self.provider, "GET", &target, "").await?
                }
            };
            match reply.headers.value("location") {
                Some(next) if (300..400).contains(&reply.status) => {
                    at = if next.starts_with('/') { format!("{EXTERNAL_URL}{next}") } else { next.to_owned() };
                }
                _ => return Some(Arrival { reply, redirects }),
            }
        }
        panic!("{}: a loop of redirects, the last one to {}", self.user, at.split('?').next().unwrap_or_default());
    }

    /// Signs in, and whether there is a session afterwards.
    pub async fn sign_in(&mut self, gateway: SocketAddr) -> bool {
        self.cookies.clear();
        let arrival = self.navigate(gateway, &login_path("/auth/me", &self.user)).await;
        arrival.is_some() && self.has_session()
    }
}

/// Header fields of a `fetch()` by a page of the gateway's.
pub const FETCH: &str =
    "Accept: */*\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n";
/// Header fields of a navigation that the user typed in.
pub const NAVIGATION: &str =
    "Accept: text/html\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
/// Page, login, provider, callback, page.
const MOST_REDIRECTS: usize = 5;
