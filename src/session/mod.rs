//! Sessions.

use std::time::Duration;

/// `[session]`, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `idle_timeout`, default 24 h; slides with use.
    pub idle_timeout: Duration,
    /// `absolute_timeout`, default 72 h; nothing extends it.
    pub absolute_timeout: Duration,
    /// `max_sessions`, default 1,000,000: a login beyond it is a 503, nobody is signed out for it.
    pub max_sessions: usize,
    /// `max_sessions_per_user`, default 100: a login beyond it ends that user's oldest session.
    pub max_sessions_per_user: usize,
    /// Keys for sealing, first seals, all open; empty: one is made at random when the process starts.
    pub secrets: Vec<secrecy::SecretString>,
}
