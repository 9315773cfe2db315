//! HTTP/2 over TLS.

use super::said::{self, Counted};
use super::said_by;
use crate::Failure;
use crate::site::Site;
use std::time::Duration;

/// # Errors
/// When anything but a 2xx came, or HTTP/2 was not agreed on.
pub fn run(site: &Site, port: u16, path: &str, cookie: &str, duration: Duration) -> Result<Counted, Failure> {
    let (seconds, cookie) = (duration.as_secs().max(1).to_string(), format!("cookie: theme=dark; {cookie}"));
    let url = format!("https://127.0.0.1:{port}{path}");
    let arguments = ["-t1", "-c8", "-m16", "-D", &seconds, "-H", &cookie, "-H", "accept: */*", &url];
    Ok(said::by_h2load(&said_by(site, "h2load", &arguments)?)?)
}
