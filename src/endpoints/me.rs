//! `GET {prefix}/me` and `login.user_path`: who is signed in.

use super::{Asked, not_signed_in};
use crate::body::Body;
use crate::reply;
use http::{Response, StatusCode};
use serde_json::Value;

/// The claims, with the session's own `iat` and `exp`, and the provider's name.
pub(super) fn me(asked: &Asked<'_>) -> Response<Body> {
    let Some(session) = &asked.session else { return not_signed_in() };
    let mut claims = session.identity.claims.clone();
    claims.insert("iat".into(), session.started.unix.into());
    claims.insert("exp".into(), session.ends_at().into());
    claims.insert("provider".into(), session.provider.as_ref().into());
    reply::json(StatusCode::OK, &Value::Object(claims))
}
