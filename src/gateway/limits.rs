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
    /// `header_timeout`, default 10 s: from the first byte to the last header.
    pub header_timeout: Duration,
    /// `connections`, default 20000.
    pub connections: usize,
    /// `websocket_idle_timeout`, default 1 h: a tunnel that carries nothing for so long is closed.
    pub websocket_idle_timeout: Duration,
    /// `login_attempts`, default 10.
    pub login_attempts: u32,
}
