//! `gateway.toml`: read, checked, and handed out as everyone's `Settings`.

use crate::{endpoints, gateway, provider, server, session, telemetry, tokens, upstream};

/// The whole file, checked: what is here can be started.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`
    pub server: server::Settings,
    /// `[limits]`
    pub limits: server::Limits,
    /// `[session]`
    pub session: session::Settings,
    /// `[login]`
    pub login: endpoints::Settings,
    /// `[refresh]`
    pub refresh: tokens::Settings,
    /// `[telemetry]`
    pub telemetry: telemetry::Settings,
    /// `[providers.*]`, in file order
    pub providers: Vec<provider::Settings>,
    /// `[upstreams.*]`, in file order
    pub upstreams: Vec<upstream::Settings>,
    /// `[[routes]]`, in file order
    pub routes: Vec<gateway::RouteSettings>,
}
