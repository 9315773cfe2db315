//! What a contender is asked, and what that cost it.

mod h2load;
mod handshakes;
pub mod idle;
pub mod open_loop;
mod said;
mod wrk;

use crate::Failure;
use crate::backend::{BEARER, COUNT, ECHO};
use crate::http;
use crate::peers::Peer;
use crate::process::{Role, Server};
use crate::provider::TOKEN_LENGTH;
use crate::site::Site;
use crate::table::{Latency, Sample, UnderLoad};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// A line of a table: a server, and how it is asked.
#[derive(Clone)]
pub struct Contender {
    pub label: String,
    server: Rc<Server>,
    port: u16,
    /// Below [`crate::backend::PLAIN`] or [`BEARER`].
    path: String,
    /// Take turns, so that everybody has as much to read.
    cookies: Rc<[String]>,
}

/// What is asked.
#[derive(Clone, Copy)]
pub enum Load {
    /// By wrk, on 64 kept connections.
    Requests { is_tls: bool, body: usize },
    /// By h2load, on 8 kept connections with 16 streams each, over TLS.
    Http2,
    /// New connections with TLS 1.3 and no request, one after the other.
    Handshakes,
}

impl Contender {
    pub fn new(label: impl Into<String>, peer: &Peer, path: &str, cookies: &Rc<[String]>) -> Contender {
        let (label, path) = (label.into(), path.to_owned());
        Contender { label, server: Rc::clone(&peer.server), port: peer.port, path, cookies: Rc::clone(cookies) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Loads it for `duration`.
    ///
    /// # Errors
    /// When an answer was none of the backend's, or somebody else listens on the same port.
    pub fn measure(&self, site: &Site, load: Load, duration: Duration) -> Result<Sample, Failure> {
        self.server.check_listener(self.port)?;
        let served_before = served(site.backend)?;
        let (cpu_before, busy_before, begun) = (self.server.cpu()?, site.cores.busy(), Instant::now());
        let counted = match load {
            Load::Requests { is_tls, body } => {
                let request = wrk::Request { port: self.port, path: &self.path, cookies: &self.cookies, is_tls, body };
                wrk::run(site, &request, duration)
            }
            Load::Http2 => h2load::run(site, self.port, &self.path, &self.cookies[0], duration),
            Load::Handshakes => handshakes::run(site, self.port, duration),
        };
        let counted = counted.map_err(|error| format!("{}: {error}", self.label))?;
        let (cpu, busy, seconds) = (self.server.cpu()?, site.cores.busy(), begun.elapsed().as_secs_f64());
        // A redirect to the login is no failure for wrk, and would be quick.
        let served = served(site.backend)? - served_before;
        if !matches!(load, Load::Handshakes) && served < counted.requests {
            let (label, requests) = (&self.label, counted.requests);
            return Err(format!("{label}: {requests} answers, {served} of them from the backend").into());
        }
        let (user, system) = (cpu.user - cpu_before.user, cpu.system - cpu_before.system);
        let each = 1e6 / counted.requests;
        let strangers = busy.zip(busy_before).map(|(after, before)| (after - before - user - system) / seconds);
        let latency = counted.p50.zip(counted.p99).map(|(p50, p99)| Latency { p50, p99 });
        let under_load = UnderLoad {
            user: user * each,
            system: system * each,
            per_second: counted.requests / seconds,
            latency,
            strangers: strangers.unwrap_or_default().max(0.0),
        };
        Ok(Sample { cost: (user + system) * each, load: Some(under_load) })
    }

    /// Looks at what reaches the backend: the token of whoever asks where there is to be one, and nothing of it elsewhere.
    ///
    /// # Errors
    /// When that is something else.
    pub fn check_what_is_forwarded(&self) -> Result<(), Failure> {
        let is_bearer = self.path.starts_with(BEARER);
        let mut tokens = Vec::new();
        for cookie in self.cookies.iter().take(2) {
            let seen = self.echo(cookie)?;
            let token = http::headers(&seen, "authorization").find_map(|value| value.strip_prefix("Bearer "));
            let token = token.or_else(|| http::headers(&seen, "x-forwarded-access-token").next());
            let leaks_session = self.label.starts_with(OWN) && is_bearer && seen.contains(cookie.as_str());
            if token.map(str::len) != is_bearer.then_some(TOKEN_LENGTH) || leaks_session {
                return Err(format!("{}: not what it should forward:\n{seen}", self.label).into());
            }
            tokens.extend(token.map(str::to_owned));
        }
        if self.label.starts_with(OWN) && tokens.first() == tokens.get(1) && tokens.len() > 1 {
            return Err(format!("{}: one token for two users", self.label).into());
        }
        Ok(())
    }

    /// The request head that the backend gets with this cookie.
    fn echo(&self, cookie: &str) -> Result<String, Failure> {
        let route = if self.path.starts_with(BEARER) { BEARER } else { crate::backend::PLAIN };
        let asked = http::Connection::open(on_loopback(self.port))
            .and_then(|mut connection| connection.get(&format!("{route}{ECHO}"), &[("Cookie", cookie)]));
        let answer = asked.map_err(|error| format!("{}: {error}", self.label))?;
        Ok(http::body(&answer)?.to_owned())
    }
}

pub fn on_loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Requests that the backend has answered so far.
fn served(backend: SocketAddr) -> Result<f64, Failure> {
    Ok(http::body(&http::get(backend, COUNT, &[])?)?.parse()?)
}

/// Runs a program beside the backend; what it says on standard output.
fn said_by(site: &Site, program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let file = site.program(program).ok_or_else(|| format!("{program} is missing"))?;
    let output = site.cores.command(Role::Load, file).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("{program}: {said}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(said)
}

/// How the gateway's own lines begin.
pub const OWN: &str = "latchgate";
