//! Decisions without I/O: which path, which route, who may pass, what a 401 means, where a login
//! may return to.

pub mod path;
pub mod return_to;
pub mod route;

/// `auth` of a route (SPEC §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Auth {
    /// `true`, `"required"`, `"protected"`: no session, no upstream.
    Required,
    /// `"optional"`, `"auto"`: the token when there is one.
    Optional,
    /// `false`: never the token; a 401 leads to the login.
    Anonymous,
    /// `"public"`, `"skip"`: never the token; a 401 is relayed.
    Public,
    /// `"guest"`: as public, but who is signed in is sent on.
    Guest,
}

/// `on_401` of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum On401 {
    /// Renew the token, send again, then log in.
    Refresh,
    /// Log in.
    Login,
    /// Hand it through.
    Relay,
}
