//! What is measured: nginx as the anchor, and the gateway, each in front of the same backend.

use crate::Failure;
use crate::backend::{BEARER, COUNT, ECHO, PLAIN, TOKEN_LENGTH};
use crate::http;
use crate::process::{Cores, Role, Server, free_port};
use crate::report::Sample;
use crate::sign_in::{self, PROVIDER};
use crate::wrk::Wrk;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// All of them, at work.
pub struct Targets {
    backend: SocketAddr,
    all: Vec<Target>,
}

/// One line of the table.
pub struct Target {
    pub label: &'static str,
    server: Rc<Server>,
    port: u16,
    path: String,
    cookies: Rc<[String]>,
}

impl Targets {
    /// Starts nginx and the gateway, signs in, and looks once at what reaches the backend.
    pub fn start(cores: &Cores, directory: &Path, backend: SocketAddr) -> Result<Targets, Failure> {
        let nginx = Nginx::start(cores, directory, backend)?;
        let quiet = Gateway::start(cores, directory, backend, "gateway", &[("LATCHGATE_LOG", "warn")])?;
        let default = Gateway::start(cores, directory, backend, "gateway-default-log", &[])?;
        // The same cookies for everybody, so that everybody has as much to read.
        let target = |label, server: &Rc<Server>, port, path, cookies: &Rc<[String]>| Target {
            label,
            server: server.clone(),
            port,
            path: format!("{path}/items/42?page=1"),
            cookies: cookies.clone(),
        };
        // What is compared first stands next to the anchor, in time too.
        let all = vec![
            target("nginx proxy_pass", &nginx.server, nginx.plain, PLAIN, &quiet.cookies),
            target("latchgate bearer", &quiet.server, quiet.port, BEARER, &quiet.cookies),
            target("latchgate auth = false", &quiet.server, quiet.port, PLAIN, &quiet.cookies),
            target("latchgate bearer, default log", &default.server, default.port, BEARER, &default.cookies),
            target("nginx + static Authorization", &nginx.server, nginx.authorization, BEARER, &quiet.cookies),
            target("nginx + access_log", &nginx.server, nginx.logging, PLAIN, &quiet.cookies),
        ];
        for target in &all {
            target.check_what_is_forwarded()?;
        }
        Ok(Targets { backend, all })
    }

    /// The anchor first.
    pub fn all(&self) -> &[Target] {
        &self.all
    }

    /// What stands behind them.
    pub fn backend(&self) -> SocketAddr {
        self.backend
    }
}

impl Target {
    /// Loads it for `duration`.
    ///
    /// # Errors
    /// When an answer was none of the backend's, or somebody else listens on the same port.
    pub fn measure(&self, wrk: &Wrk<'_>, backend: SocketAddr, duration: Duration) -> Result<Sample, Failure> {
        self.server.check_listener(self.port)?;
        let (served_before, cpu_before) = (served(backend)?, self.server.cpu()?);
        let counted = wrk.run(self.port, &self.path, &self.cookies, duration)?;
        let (cpu, served) = (self.server.cpu()?, served(backend)? - served_before);
        // A redirect to the login is no failure for wrk, and would be quick.
        if served < counted.requests {
            return Err(
                format!("{}: {} answers, {served} of them from the backend", self.label, counted.requests).into()
            );
        }
        Ok(Sample::new(&counted, cpu_before, cpu))
    }

    fn check_what_is_forwarded(&self) -> Result<(), Failure> {
        let is_bearer = self.path.starts_with(BEARER);
        let path = if is_bearer { BEARER } else { PLAIN };
        let cookie = &self.cookies[0];
        let answer = http::get(on_loopback(self.port), &format!("{path}{ECHO}"), &[("Cookie", cookie)])?;
        let seen = http::body(&answer)?;
        let token = seen.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("authorization").then(|| value.strip_prefix("Bearer "))?
        });
        let expected = is_bearer.then_some(TOKEN_LENGTH);
        let keeps_session = !self.label.starts_with("latchgate") || !seen.contains(cookie.as_str());
        if token.map(str::len) == expected && keeps_session {
            Ok(())
        } else {
            Err(format!("{}: not what it should forward:\n{seen}", self.label).into())
        }
    }
}

fn served(backend: SocketAddr) -> Result<f64, Failure> {
    Ok(http::body(&http::get(backend, COUNT, &[])?)?.parse()?)
}

fn on_loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

struct Gateway {
    server: Rc<Server>,
    port: u16,
    cookies: Rc<[String]>,
}

impl Gateway {
    fn start(
        cores: &Cores,
        directory: &Path,
        backend: SocketAddr,
        name: &'static str,
        environment: &[(&str, &str)],
    ) -> Result<Gateway, Failure> {
        let port = free_port()?;
        let config = directory.join(format!("{name}.toml"));
        fs::write(
            &config,
            format!(
                r#"
[server]
listen = "127.0.0.1:{port}"
external_url = "http://127.0.0.1:{port}"
admin_listen = "off"
workers = 1

[providers.{PROVIDER}]
kind = "oauth2"
authorization_endpoint = "http://{backend}/authorize"
token_endpoint = "http://{backend}/token"
userinfo_endpoint = "http://{backend}/userinfo"
client_id = "bench"
client_auth = "none"

[upstreams.app]
url = "http://{backend}"

[[routes]]
path = "{PLAIN}/*"
auth = false

[[routes]]
path = "{BEARER}/*"
auth = true
attach = "bearer"
"#
            ),
        )?;
        let program = Path::new(env!("CARGO_BIN_EXE_latchgate"));
        let arguments = ["run", "--config", &config.to_string_lossy()];
        let server = cores.start(Role::Target, name, program, &arguments, environment, directory)?;
        server.wait_for(port, directory)?;
        let cookies = sign_in::sessions(on_loopback(port), SESSIONS)?;
        Ok(Gateway { server: server.into(), port, cookies: cookies.into() })
    }
}

/// One process tree, three listeners.
struct Nginx {
    server: Rc<Server>,
    plain: u16,
    authorization: u16,
    logging: u16,
}

impl Nginx {
    fn start(cores: &Cores, directory: &Path, backend: SocketAddr) -> Result<Nginx, Failure> {
        let (plain, authorization, logging) = (free_port()?, free_port()?, free_port()?);
        let config = directory.join("nginx.conf");
        let place = directory.display();
        let token = "a".repeat(TOKEN_LENGTH);
        fs::write(
            &config,
            format!(
                r#"
daemon off;
worker_processes 1;
pid {place}/nginx.pid;
error_log {place}/nginx.err;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {place}/client_body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  keepalive_requests 1000000000;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  upstream app {{
    server {backend};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{plain};
    location / {{ proxy_pass http://app; }}
  }}
  server {{
    listen 127.0.0.1:{authorization};
    location / {{
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
      proxy_pass http://app;
    }}
  }}
  server {{
    listen 127.0.0.1:{logging};
    access_log {place}/access.log;
    location / {{ proxy_pass http://app; }}
  }}
}}
"#
            ),
        )?;
        let arguments = ["-e", &format!("{place}/nginx.err"), "-c", &config.to_string_lossy()];
        let server = cores.start(Role::Target, "nginx", Path::new("nginx"), &arguments, &[], directory)?;
        for port in [plain, authorization, logging] {
            server.wait_for(port, directory)?;
        }
        Ok(Nginx { server: server.into(), plain, authorization, logging })
    }
}

/// Enough that no two requests in a row are one user's, few enough to stay in the cache.
const SESSIONS: usize = 64;
