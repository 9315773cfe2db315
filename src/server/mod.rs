//! Listeners and connections: sockets, HTTP/1.1 and HTTP/2 by detection, limits, drain.

pub mod admin;
mod listen;
mod worker;

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

/// `[limits]`, checked.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `replay_body`, default 256 KiB: what is kept of one body for REPLAY.
    pub replay_body: u64,
    /// `replay_memory`, default 64 MiB: what is kept of all of them.
    pub replay_memory: u64,
    /// `header_bytes`, default 32 KiB: request line and headers.
    pub header_bytes: usize,
    /// `header_timeout`, default 10 s: from the first byte to the last header.
    pub header_timeout: Duration,
    /// `connections`, default 20000.
    pub connections: usize,
    /// `login_attempts`, default 10.
    pub login_attempts: u32,
}
