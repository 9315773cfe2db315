//! The package beside this file, which `--install` builds.

use super::Peer;
use crate::Failure;
use crate::process::{Role, free_port};
use crate::site::Site;

pub fn start(site: &Site) -> Result<Option<Peer>, Failure> {
    let Some(program) = site.program("pingora-peer") else { return Ok(None) };
    let port = free_port()?;
    let (listen, upstream) = (format!("127.0.0.1:{port}"), site.backend.to_string());
    let arguments = [listen.as_str(), &upstream];
    let server = site.cores.start(Role::Target, "pingora", &program, &arguments, &[], &site.directory)?;
    server.wait_for(port, &site.directory)?;
    Ok(Some(Peer { server: server.into(), port }))
}
