//! Tokens and the refresh flight.

use std::time::Duration;

/// `[refresh]`, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `early`, default 30 s: a still valid token is renewed behind the request (never more than a tenth of its life).
    pub early: Duration,
    /// `timeout`, default 10 s: one call to the provider.
    pub timeout: Duration,
    /// `grace`, default 60 s: the predecessor generation still gets the successor.
    pub grace: Duration,
    /// `cooldown`, default 5 s: a 401 on a token younger than this is not refreshed again.
    pub cooldown: Duration,
}
