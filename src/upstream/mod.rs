//! Backends.
pub mod demo;

use std::path::PathBuf;
use std::time::Duration;

/// One `[upstreams.NAME]` table, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The table's name.
    pub name: String,
    /// `url` or `urls`; round robin when there are several.
    pub servers: Vec<ServerAddress>,
    /// `connect_timeout`, default 3 s.
    pub connect_timeout: Duration,
    /// `response_timeout`, default 60 s: until the response head.
    pub response_timeout: Duration,
    /// `unauthorized`: what else means "not signed in".
    pub unauthorized: Unauthorized,
}

/// Where an upstream listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// `http://host:port` or `https://host:port`.
    Tcp {
        /// TLS or not.
        tls: bool,
        /// A name or an address, without brackets.
        host: String,
        /// 80 or 443 by default.
        port: u16,
    },
    /// `unix:/run/app.sock`
    Unix(PathBuf),
    /// `demo:`, the built-in one.
    Demo,
}

/// `upstreams.X.unauthorized`: answers that mean what a 401 means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unauthorized {
    /// Statuses, default `[401]`.
    pub status: Vec<http::StatusCode>,
    /// A redirect whose `Location` path begins like this.
    pub location_prefix: Option<String>,
}
