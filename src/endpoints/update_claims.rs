//! `POST {prefix}/update-claims`: has the provider say once more who is signed in, after something about them has
//! changed there. Off unless `tokens.update_claims`.

use super::{Asked, Endpoints};
use crate::body::Body;
use crate::reply::{self, Refusal};
use crate::tokens::Renewal;
use http::{Response, StatusCode};
use serde_json::json;

/// Claims come with a refresh, so this is one; unlike `POST {prefix}/refresh` it is content with none that was made
/// before it was asked for.
pub(super) async fn update_claims(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    if !endpoints.own_tokens.settings().update_claims {
        return asked.refuse(&Refusal::ClaimsUpdateDisabled);
    }
    if endpoints.is_foreign(asked) {
        return asked.refuse(&Refusal::CrossOrigin);
    }
    let Some(session) = &asked.session else { return asked.refuse(&Refusal::NoRefreshToken) };
    match endpoints.tokens.renew(session).await {
        Renewal::Renewed(session) => {
            tracing::info!(target: "latchgate::audit", event = "claims_updated", provider = %session.provider, session = %session.key, request = %asked.facts.id, "claims read again on demand");
            reply::json(StatusCode::OK, &json!({"success": true, "message": UPDATED}))
        }
        Renewal::NothingToRenewWith => asked.refuse(&Refusal::NoRefreshToken),
        Renewal::Refused | Renewal::Gone => {
            let mut response = asked.refuse(&Refusal::RefreshInvalid);
            endpoints.expire_session_cookies(asked, &mut response);
            response
        }
        Renewal::Broken => asked.refuse(&Refusal::ProviderBroken),
        Renewal::StoreUnavailable => asked.refuse(&Refusal::StoreUnavailable),
        Renewal::Unavailable { retry_after } => {
            asked.refuse(&Refusal::ProviderUnavailable { retry_after: retry_after.as_secs() })
        }
    }
}

const UPDATED: &str = "Claims updated successfully. Call refresh() to receive a new access token with updated claims.";
