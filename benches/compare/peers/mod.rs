//! Who is compared. Each file starts one, on one core and with one worker, configured as its manual recommends for a
//! reverse proxy with kept connections.

pub mod apache;
pub mod caddy;
pub mod haproxy;
pub mod latchgate;
pub mod nginx;
pub mod oauth2_proxy;
pub mod pingora;

use crate::process::Server;
use std::rc::Rc;

/// A server at work.
#[derive(Clone)]
pub struct Peer {
    pub server: Rc<Server>,
    pub port: u16,
}
