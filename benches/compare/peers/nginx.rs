use super::Peer;
use crate::Failure;
use crate::backend::CHECK;
use crate::process::{Role, free_port};
use crate::provider::TOKEN_LENGTH;
use crate::site::Site;
use std::fs;
use std::path::Path;
use std::rc::Rc;

/// One process tree, a listener for each thing it does.
pub struct Nginx {
    /// `proxy_pass`, and nothing else: the anchor.
    pub plain: Peer,
    /// The same: the control.
    pub again: Peer,
    /// Adds as many bytes as a route that attaches a token.
    pub with_header: Peer,
    /// And asks a backend that says yes before.
    pub with_check: Peer,
    /// Writes a line for each request.
    pub logging: Peer,
    /// TLS, HTTP/1.1 and HTTP/2.
    pub tls: Peer,
    pub tls_again: Peer,
}

/// # Errors
/// When it is not there, too: nothing can be compared without the anchor.
pub fn start(site: &Site, role: Role, workers: u32) -> Result<Nginx, Failure> {
    let program = site.program("nginx").ok_or("nginx is missing")?;
    let name = format!("nginx-{}", free_port()?);
    let config = site.directory.join(format!("{name}.conf"));
    let mut ports = [0; 7];
    for port in &mut ports {
        *port = free_port()?;
    }
    fs::write(&config, configuration(site, &name, workers, ports))?;
    let errors = site.directory.join(format!("{name}.err"));
    let arguments = ["-e", &errors.to_string_lossy(), "-c", &config.to_string_lossy()];
    let server = Rc::new(site.cores.start(role, &name, Path::new(&program), &arguments, &[], &site.directory)?);
    for port in ports {
        server.wait_for(port, &site.directory)?;
    }
    let [plain, again, with_header, with_check, logging, tls, tls_again] =
        ports.map(|port| Peer { server: Rc::clone(&server), port });
    Ok(Nginx { plain, again, with_header, with_check, logging, tls, tls_again })
}

fn configuration(site: &Site, name: &str, workers: u32, ports: [u16; 7]) -> String {
    let [plain, again, with_header, with_check, logging, tls, tls_again] = ports;
    let (place, backend) = (site.directory.display(), site.backend);
    let (certificate, key) = (site.certificate.display(), site.private_key.display());
    let token = "a".repeat(TOKEN_LENGTH);
    // Bodies pass through memory: a file for each would be compared with none.
    format!(
        r#"
daemon off;
worker_processes {workers};
worker_rlimit_nofile 20000;
pid {place}/{name}.pid;
error_log {place}/{name}.err;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {place}/client_body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  client_max_body_size 16m;
  keepalive_requests 1000000000;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_request_buffering off;
  proxy_max_temp_file_size 0;
  ssl_certificate {certificate};
  ssl_certificate_key {key};
  ssl_protocols TLSv1.3;
  upstream app {{
    server {backend};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{plain};
    listen 127.0.0.1:{again};
    listen 127.0.0.1:{tls} ssl http2;
    listen 127.0.0.1:{tls_again} ssl http2;
    location / {{ proxy_pass http://app; }}
  }}
  server {{
    listen 127.0.0.1:{with_header};
    location / {{
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
      proxy_pass http://app;
    }}
  }}
  server {{
    listen 127.0.0.1:{with_check};
    location / {{
      auth_request {CHECK};
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
      proxy_pass http://app;
    }}
    location = {CHECK} {{
      internal;
      proxy_pass_request_body off;
      proxy_set_header Connection "";
      proxy_set_header Content-Length "";
      proxy_pass http://app{CHECK};
    }}
  }}
  server {{
    listen 127.0.0.1:{logging};
    access_log {place}/{name}.log;
    location / {{ proxy_pass http://app; }}
  }}
}}
"#
    )
}
