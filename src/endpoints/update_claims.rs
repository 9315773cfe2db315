//! `POST {prefix}/update-claims`: has the provider say once more who is signed in, after something about them has
//! changed there. Off unless `tokens.update_claims`.

use super::{Asked, Endpoints, refresh};
use crate::body::Body;
use crate::reply::{self, Refusal};
use crate::session::Session;
use http::{Response, StatusCode};
use serde_json::json;
use std::sync::Arc;

pub(super) async fn update_claims(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    if !endpoints.own_tokens.settings().update_claims {
        return asked.refuse(&Refusal::ClaimsUpdateDisabled);
    }
    if endpoints.is_foreign(&asked.headers) {
        return asked.refuse(&Refusal::CrossOrigin);
    }
    match update(endpoints, asked).await {
        Ok(session) => {
            tracing::info!(target: "latchgate::audit", event = "claims_updated", provider = %session.provider, session = %session.key, request = %asked.facts.id, "claims read again on demand");
            reply::json(StatusCode::OK, &json!({"success": true, "message": UPDATED}))
        }
        Err(refusal) => refresh::refused(endpoints, asked, &refusal),
    }
}

/// Claims come with a refresh, so this is one; unlike `POST {prefix}/refresh` it is content with none that was made
/// before it was asked for. The refresh cookie of the CODE flow will do, and is not used up.
async fn update(endpoints: &Endpoints, asked: &Asked<'_>) -> Result<Arc<Session>, Refusal> {
    let session = match &asked.session {
        Some(session) => Arc::clone(session),
        None if refresh::is_shown(endpoints, asked) => refresh::redeem(endpoints, asked).await?.0.session,
        None => return Err(Refusal::NoRefreshToken),
    };
    refresh::check_identity(&session)?;
    refresh::renewed(endpoints.tokens.renew(&session).await)?.ok_or(Refusal::NoRefreshToken)
}

const UPDATED: &str = "Claims updated successfully. Call refresh() to receive a new access token with updated claims.";
