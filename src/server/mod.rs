//! Listeners and connections: sockets, the PROXY protocol, TLS, HTTP/1.1 and HTTP/2 by detection, limits, drain.

pub mod admin;
mod connection;
mod lingering;
mod listen;
mod opening;
mod parking;
mod proxy_protocol;
mod stream;
mod timing;
pub mod tls;
mod worker;

pub use connection::Places;
pub use listen::{Bound, Sockets, bind};
pub use worker::{Door, serve};

use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `[server]`, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `listen`, default `127.0.0.1:8080`; a string or a list.
    pub listen: Vec<Listen>,
    /// `external_url`: what browsers see; scheme, host and port only. Default `http://localhost:8080`.
    pub external_url: url::Url,
    /// `admin_listen`, default `127.0.0.1:9901`; `"off"` for none.
    pub admin_listen: Option<SocketAddr>,
    /// `trusted_proxies`: addresses or CIDR blocks whose forwarded headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `proxy_protocol`, default false: connections by TCP come from `trusted_proxies` and begin with a PROXY header.
    pub proxy_protocol: bool,
    /// `[server.tls]`: connections by TCP are TLS.
    pub tls: Option<tls::Settings>,
    /// `drain_timeout`, default 30 s.
    pub drain_timeout: Duration,
    /// `workers`, default one for each core.
    pub workers: usize,
    /// `case_insensitive_paths`, default false.
    pub case_insensitive_paths: bool,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `"127.0.0.1:8080"`, `"[::1]:8080"`.
    Tcp(SocketAddr),
    /// `"unix:/run/latchgate.sock"`.
    Unix(PathBuf),
}
