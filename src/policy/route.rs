//! Which route a request takes (SPEC §3).

use http::Method;

/// `host`, `path` and `methods` of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePattern {
    /// `host`.
    pub host: HostPattern,
    /// `path`.
    pub path: PathPattern,
    /// `methods`; None when the route does not name any.
    pub methods: Option<Vec<Method>>,
}

/// `host`: lower-case, without port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `app.example.com`
    Exact(String),
    /// `*.example.com`, kept as `example.com`: one or more labels before it.
    Wildcard(String),
    /// No `host`.
    Any,
}

/// `path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    text: String,
}
