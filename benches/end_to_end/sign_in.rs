//! Sessions as browsers get them: through a whole authorization code flow.

use crate::Failure;
use crate::http::{get, header};
use std::net::SocketAddr;

/// Signs in `count` times at `gateway`; answers the `Cookie` of each session.
pub fn sessions(gateway: SocketAddr, count: usize) -> Result<Vec<String>, Failure> {
    (0..count).map(|_| session(gateway)).collect()
}

/// The provider would ask nothing and send the browser back at once, so it is left out: its answer
/// is any code with the state it was given.
fn session(gateway: SocketAddr) -> Result<String, Failure> {
    let to_provider = get(gateway, "/auth/login", &NAVIGATION)?;
    let authorization_request = header(&to_provider, "location")?;
    let state = authorization_request
        .split(['?', '&'])
        .find_map(|pair| pair.strip_prefix("state="))
        .ok_or_else(|| format!("no state in {authorization_request}"))?;
    let login_cookie = cookie(&to_provider)?;
    let mut headers = NAVIGATION.to_vec();
    headers.push(("Cookie", login_cookie));
    let back = get(gateway, &format!("/auth/{PROVIDER}?code=c&state={state}"), &headers)?;
    let session_cookie = cookie(&back)?;
    Ok(session_cookie.to_owned())
}

fn cookie(response: &str) -> Result<&str, Failure> {
    let set_cookie = header(response, "set-cookie")?;
    Ok(set_cookie.split(';').next().unwrap_or_default())
}

/// The provider's name in the gateway's configuration.
pub const PROVIDER: &str = "bench";

const NAVIGATION: [(&str, &str); 3] =
    [("Accept", "text/html"), ("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate")];
