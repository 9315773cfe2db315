//! oauth2-proxy: sessions in cookies or in Redis, the access token as `X-Forwarded-Access-Token`.

use super::Peer;
use crate::Failure;
use crate::load::on_loopback;
use crate::process::{Role, Server, free_port};
use crate::provider::{CLIENT_ID, CLIENT_SECRET};
use crate::sign_in;
use crate::site::Site;
use std::rc::Rc;

/// With the `Cookie` of each session.
pub struct OAuth2Proxy {
    pub peer: Peer,
    pub cookies: Rc<[String]>,
    _redis: Option<Server>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Store {
    Cookie,
    /// Beside the load: what Redis costs is not counted.
    Redis,
}

pub fn start(site: &Site, store: Store, sessions: usize) -> Result<Option<OAuth2Proxy>, Failure> {
    let Some((peer, redis)) = start_signed_out(site, store)? else { return Ok(None) };
    let cookies = sign_in::sessions(on_loopback(peer.port), "/oauth2/start?rd=%2F", sessions)?;
    Ok(Some(OAuth2Proxy { peer, cookies: cookies.into(), _redis: redis }))
}

/// Without sessions.
pub fn start_signed_out(site: &Site, store: Store) -> Result<Option<(Peer, Option<Server>)>, Failure> {
    let Some(program) = site.program("oauth2-proxy") else { return Ok(None) };
    let port = free_port()?;
    let mut arguments = vec![
        format!("--http-address=127.0.0.1:{port}"),
        format!("--upstream=http://{}/", site.backend),
        "--provider=oidc".to_owned(),
        format!("--oidc-issuer-url=http://{}", site.backend),
        format!("--redirect-url=http://127.0.0.1:{port}/oauth2/callback"),
        format!("--client-id={CLIENT_ID}"),
        format!("--client-secret={CLIENT_SECRET}"),
        format!("--cookie-secret={}", "s".repeat(32)),
    ];
    arguments.extend(SETTINGS.map(str::to_owned));
    let mut redis = None;
    if store == Store::Redis {
        let Some(program) = site.program("redis-server") else { return Ok(None) };
        let at = free_port()?;
        let options = ["--port", &at.to_string(), "--bind", "127.0.0.1", "--save", ""];
        let server = site.cores.start(Role::Load, "redis", &program, &options, &[], &site.directory)?;
        server.wait_for(at, &site.directory)?;
        arguments.push("--session-store-type=redis".to_owned());
        arguments.push(format!("--redis-connection-url=redis://127.0.0.1:{at}"));
        redis = Some(server);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let one_core = [("GOMAXPROCS", "1")];
    let server = site.cores.start(Role::Target, "oauth2-proxy", &program, &arguments, &one_core, &site.directory)?;
    server.wait_for(port, &site.directory)?;
    Ok(Some((Peer { server: server.into(), port }, redis)))
}

const SETTINGS: [&str; 7] = [
    "--cookie-secure=false",
    "--email-domain=*",
    "--skip-provider-button=true",
    "--pass-access-token=true",
    "--standard-logging=false",
    "--request-logging=false",
    "--auth-logging=false",
];
