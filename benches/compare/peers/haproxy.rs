use super::Peer;
use crate::Failure;
use crate::process::{Role, free_port};
use crate::site::Site;
use std::fs;

pub fn start(site: &Site) -> Result<Option<Peer>, Failure> {
    let Some(program) = site.program("haproxy") else { return Ok(None) };
    let (port, backend) = (free_port()?, site.backend);
    let config = site.directory.join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n  nbthread 1\n  maxconn 8000\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
             option http-keep-alive\n  http-reuse always\n\
             frontend in\n  bind 127.0.0.1:{port}\n  default_backend app\n\
             backend app\n  server app {backend}\n"
        ),
    )?;
    let arguments = ["-db", "-f", &config.to_string_lossy()];
    let server = site.cores.start(Role::Target, "haproxy", &program, &arguments, &[], &site.directory)?;
    server.wait_for(port, &site.directory)?;
    Ok(Some(Peer { server: server.into(), port }))
}
