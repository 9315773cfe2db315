//! Bounds on what a client may cost.

use std::time::Duration;

/// `[limits]`, checked.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `replay_body`, default 256 KiB: what is kept of one body for REPLAY.
    pub replay_body: u64,
    /// `replay_memory`, default 64 MiB: what is kept of all of them.
    pub replay_memory: u64,
    /// `header_bytes`, default 32 KiB: request line and headers.
    pub header_bytes: usize,
    /// `header_count`, default 100: header lines of a request over HTTP/1.
    pub header_count: usize,
    /// `header_timeout`, default 10 s: from a request's first byte to its last header; for the first
    /// request of a connection also from its beginning to the first byte.
    pub header_timeout: Duration,
    /// `idle_timeout`, default 75 s: between two requests.
    pub idle_timeout: Duration,
    /// `body_timeout`, default 30 s: without a byte of a request's body while somebody waits for it.
    pub body_timeout: Duration,
    /// `write_timeout`, default 60 s: while a client does not take its answer.
    pub write_timeout: Duration,
    /// `request_timeout`, default none: from a request's last header to the end of its answer.
    pub request_timeout: Option<Duration>,
    /// `connections`, default 20000.
    pub connections: usize,
    /// `websocket_idle_timeout`, default 1 h: a tunnel that carries nothing for so long is closed.
    pub websocket_idle_timeout: Duration,
    /// `login_attempts`, default 10.
    pub login_attempts: u32,
}
