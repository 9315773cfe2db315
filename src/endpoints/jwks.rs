//! `GET /.well-known/latchgate/jwks.json`: what assertions and tokens of the gateway are verified with (RFC 7517 §5).

use super::Endpoints;
use crate::body::Body;
use crate::reply;
use http::{HeaderValue, Response, StatusCode, header};

/// For everybody, and for a while: a new key is published before it signs.
pub(super) fn jwks(endpoints: &Endpoints) -> Response<Body> {
    let mut response = reply::json(StatusCode::OK, &endpoints.own_tokens.keys().jwks());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}
