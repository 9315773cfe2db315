//! `GET {prefix}/me` and `login.user_path`: who is signed in.

use super::{Asked, Endpoints, not_signed_in};
use crate::body::Body;
use crate::reply;
use http::{Response, StatusCode};
use serde_json::Value;

/// The claims, the ones that `tokens.claims` chooses among them, with the session's own `iat` and `exp`, and the provider's name.
pub(super) fn me(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    let Some(session) = &asked.session else { return not_signed_in() };
    let mut claims = session.identity.claims.clone();
    claims.extend(endpoints.own_tokens.claims_of(session));
    claims.insert("iat".into(), session.started.unix.into());
    claims.insert("exp".into(), session.ends_at().into());
    claims.insert("provider".into(), session.provider.as_ref().into());
    reply::json(StatusCode::OK, &Value::Object(claims))
}
