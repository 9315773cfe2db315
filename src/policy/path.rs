//! One reading of a path, for us and for the upstream (SPEC §3).

use http::uri::PathAndQuery;

/// A path in normal form, with the query exactly as sent. What is matched is what is forwarded:
/// a [`super::route::RouteTable`] takes nothing else, and the same object becomes the upstream's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath {
    target: PathAndQuery,
}

/// Why a path is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathProblem {}
