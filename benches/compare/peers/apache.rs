//! Apache with mod_auth_openidc: sessions in its shared memory, the access token as `Authorization`.

use super::Peer;
use crate::Failure;
use crate::load::on_loopback;
use crate::process::{Role, free_port};
use crate::provider::{CLIENT_ID, CLIENT_SECRET};
use crate::sign_in;
use crate::site::Site;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::rc::Rc;

pub struct Apache {
    pub peer: Peer,
    /// Of each session.
    pub cookies: Rc<[String]>,
}

pub fn start(site: &Site, sessions: usize) -> Result<Option<Apache>, Failure> {
    let Some(program) = site.program("apache2") else { return Ok(None) };
    if !Path::new(MODULES).join("mod_auth_openidc.so").is_file() {
        site.leave_out("mod_auth_openidc");
        return Ok(None);
    }
    let (port, backend, place) = (free_port()?, site.backend, site.directory.display());
    let mut text = String::new();
    for module in LOADED {
        writeln!(text, "LoadModule {module}_module {MODULES}/mod_{module}.so")?;
    }
    write!(
        text,
        r#"
ServerRoot {place}
ServerName 127.0.0.1
PidFile {place}/apache.pid
DefaultRuntimeDir {place}
ErrorLog {place}/apache.log
Mutex sysvsem default
Listen 127.0.0.1:{port}
User www-data
Group www-data
StartServers 1
ServerLimit 1
ThreadLimit 128
ThreadsPerChild 128
MaxRequestWorkers 128
MaxKeepAliveRequests 0
KeepAliveTimeout 60

OIDCProviderMetadataURL http://{backend}/.well-known/openid-configuration
OIDCClientID {CLIENT_ID}
OIDCClientSecret {CLIENT_SECRET}
OIDCRedirectURI http://127.0.0.1:{port}{CALLBACK}
OIDCCryptoPassphrase not-a-secret-of-anybody
OIDCIDTokenSignedResponseAlg ES256
OIDCPassClaimsAs environment
OIDCSessionInactivityTimeout 86400

<Location />
  AuthType openid-connect
  Require valid-user
  RequestHeader set Authorization "Bearer %{{OIDC_access_token}}e"
  ProxyPass http://{backend}/ keepalive=On
</Location>
"#
    )?;
    let config = site.directory.join("apache.conf");
    fs::write(&config, text)?;
    let arguments = ["-DFOREGROUND", "-f", &config.to_string_lossy()];
    let server = site.cores.start(Role::Target, "apache", &program, &arguments, &[], &site.directory)?;
    server.wait_for(port, &site.directory)?;
    let cookies = sign_in::sessions(on_loopback(port), "/", sessions)?;
    Ok(Some(Apache { peer: Peer { server: server.into(), port }, cookies: cookies.into() }))
}

/// Debian's.
const MODULES: &str = "/usr/lib/apache2/modules";
const LOADED: [&str; 9] =
    ["mpm_event", "authn_core", "authz_core", "authz_user", "headers", "env", "proxy", "proxy_http", "auth_openidc"];
const CALLBACK: &str = "/callback";
