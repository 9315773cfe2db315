use super::Peer;
use crate::Failure;
use crate::process::{Role, free_port};
use crate::site::Site;
use std::fs;
use std::rc::Rc;

/// One process, a listener without TLS and one with.
pub struct Caddy {
    pub plain: Peer,
    pub tls: Peer,
}

pub fn start(site: &Site) -> Result<Option<Caddy>, Failure> {
    let Some(program) = site.program("caddy") else { return Ok(None) };
    let (plain, tls, backend) = (free_port()?, free_port()?, site.backend);
    let (certificate, key) = (site.certificate.display(), site.private_key.display());
    let config = site.directory.join("Caddyfile");
    let proxy = format!("reverse_proxy {backend} {{\n transport http {{\n keepalive_idle_conns_per_host 256\n }}\n }}");
    fs::write(
        &config,
        format!(
            "{{\n admin off\n auto_https off\n persist_config off\n servers {{\n protocols h1 h2\n }}\n}}\n\
             http://127.0.0.1:{plain} {{\n bind 127.0.0.1\n {proxy}\n}}\n\
             https://127.0.0.1:{tls} {{\n bind 127.0.0.1\n tls {certificate} {key}\n {proxy}\n}}\n"
        ),
    )?;
    let home = site.directory.to_string_lossy().into_owned();
    let environment = [("GOMAXPROCS", "1"), ("XDG_DATA_HOME", &home), ("XDG_CONFIG_HOME", &home)];
    let arguments = ["run", "--adapter", "caddyfile", "--config", &config.to_string_lossy()];
    let server =
        Rc::new(site.cores.start(Role::Target, "caddy", &program, &arguments, &environment, &site.directory)?);
    server.wait_for(plain, &site.directory)?;
    server.wait_for(tls, &site.directory)?;
    let [plain, tls] = [plain, tls].map(|port| Peer { server: Rc::clone(&server), port });
    Ok(Some(Caddy { plain, tls }))
}
