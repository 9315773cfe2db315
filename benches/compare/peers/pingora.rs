//! The package beside this file, which `--install` builds.

use super::Peer;
use crate::Failure;
use crate::backend::PLAIN;
use crate::http;
use crate::load::on_loopback;
use crate::process::{Role, free_port};
use crate::site::Site;

pub fn start(site: &Site) -> Result<Option<Peer>, Failure> {
    let Some(program) = site.program("pingora-peer") else { return Ok(None) };
    let port = free_port()?;
    let (listen, upstream) = (format!("127.0.0.1:{port}"), site.backend.to_string());
    let arguments = [listen.as_str(), &upstream];
    let server = site.cores.start(Role::Target, "pingora", &program, &arguments, &[], &site.directory)?;
    server.wait_for(port, &site.directory)?;
    // One that was built with another tokio listens, and panics at each connection.
    if http::get(on_loopback(port), PLAIN, &[]).is_err() {
        site.leave_out("Pingora (it does not forward: build it anew)");
        return Ok(None);
    }
    Ok(Some(Peer { server: server.into(), port }))
}
