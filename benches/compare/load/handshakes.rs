//! Full TLS 1.3 handshakes: no ticket is used again.

use super::said::{self, Counted};
use super::said_by;
use crate::Failure;
use crate::site::Site;
use std::time::Duration;

pub fn run(site: &Site, port: u16, duration: Duration) -> Result<Counted, Failure> {
    let (server, seconds) = (format!("127.0.0.1:{port}"), duration.as_secs().max(1).to_string());
    let arguments = ["s_time", "-connect", &server, "-new", "-tls1_3", "-time", &seconds];
    Ok(said::by_openssl(&said_by(site, "openssl", &arguments)?)?)
}
