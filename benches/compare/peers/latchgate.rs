//! The gateway itself.

use super::Peer;
use crate::Failure;
use crate::backend::{BEARER, PLAIN};
use crate::load::on_loopback;
use crate::process::{Role, free_port};
use crate::sign_in;
use crate::site::Site;
use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::rc::Rc;

/// What one instance is like.
#[derive(Clone, Copy)]
pub struct Plan {
    pub role: Role,
    /// None: one for each core.
    pub workers: Option<u32>,
    /// Besides [`PLAIN`] and [`BEARER`]: `/plain/r0/*` and so on.
    pub routes: usize,
    pub is_tls: bool,
    /// `LATCHGATE_LOG`; empty for what is logged by default.
    pub log: &'static str,
}

impl Plan {
    pub const ONE_WORKER: Plan = Plan { role: Role::Target, workers: Some(1), routes: 0, is_tls: false, log: "warn" };
}

pub fn start(site: &Site, plan: Plan) -> Result<Peer, Failure> {
    let peer = start_at_once(site, plan)?;
    peer.server.wait_for(peer.port, &site.directory)?;
    Ok(peer)
}

/// Does not wait until it listens.
pub fn start_at_once(site: &Site, plan: Plan) -> Result<Peer, Failure> {
    let port = free_port()?;
    let name = format!("latchgate-{port}");
    let config = site.directory.join(format!("{name}.toml"));
    fs::write(&config, configuration(site, plan, port)?)?;
    let arguments = ["run", "--config", &config.to_string_lossy()];
    let environment = [("LATCHGATE_LOG", plan.log)];
    let environment = if plan.log.is_empty() { &[] } else { &environment[..] };
    let server = site.cores.start(plan.role, &name, PROGRAM.as_ref(), &arguments, environment, &site.directory)?;
    Ok(Peer { server: server.into(), port })
}

/// One that speaks TLS; None when this version does not take it.
pub fn start_with_tls(site: &Site) -> Result<Option<Peer>, Failure> {
    let plan = Plan { is_tls: true, ..Plan::ONE_WORKER };
    let config = site.directory.join("latchgate-tls.toml");
    fs::write(&config, configuration(site, plan, free_port()?)?)?;
    let check = Command::new(PROGRAM).args(["check", "--config"]).arg(&config).output()?;
    if !check.status.success() {
        site.leave_out("latchgate with TLS (`latchgate check` refuses `server.tls`)");
        return Ok(None);
    }
    start(site, plan).map(Some)
}

/// Signs in so many users; their `Cookie` lines.
pub fn sessions(peer: &Peer, count: usize) -> Result<Rc<[String]>, Failure> {
    Ok(sign_in::sessions(on_loopback(peer.port), "/auth/login", count)?.into())
}

fn configuration(site: &Site, plan: Plan, port: u16) -> Result<String, Failure> {
    let backend = site.backend;
    let scheme = if plan.is_tls { "https" } else { "http" };
    let workers = plan.workers.map(|count| format!("workers = {count}")).unwrap_or_default();
    let mut text = format!(
        r#"
[server]
listen = "127.0.0.1:{port}"
external_url = "{scheme}://127.0.0.1:{port}"
admin_listen = "off"
{workers}

[session]
max_sessions = 2000000

[providers.bench]
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
    );
    if plan.is_tls {
        let (certificate, key) = (site.certificate.display(), site.private_key.display());
        write!(text, "\n[server.tls]\ncertificate = \"{certificate}\"\nprivate_key = \"{key}\"\n")?;
    }
    for number in 0..plan.routes {
        write!(text, "\n[[routes]]\npath = \"{PLAIN}/r{number}/*\"\nauth = false\n")?;
    }
    Ok(text)
}

/// Built in the bench's own profile.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_latchgate");
