//! `POST {prefix}/refresh`: a forced refresh, for front ends that used to do it themselves. What
//! they get is a token of ours; the provider's stay here.

use super::{Asked, Endpoints};
use crate::body::Body;
use crate::reply::{self, Refusal};
use crate::tokens::Renewal;
use http::{Response, StatusCode};
use serde_json::json;

pub(super) async fn refresh(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    if endpoints.is_foreign(asked) {
        return asked.refuse(&Refusal::CrossOrigin);
    }
    let Some(session) = &asked.session else { return invalid(endpoints, asked) };
    match endpoints.tokens.renew_on_demand(session).await {
        Renewal::Renewed(session) => match endpoints.own_tokens.issue(&session, session.ends_at(), asked.facts.now) {
            Some(own) => reply::json(StatusCode::OK, &json!({"token": own.token, "expiresIn": own.expires_in})),
            None => asked.refuse(&Refusal::Internal),
        },
        Renewal::NothingToRenewWith => match endpoints.sessions.end(session.key).await {
            Ok(_) => invalid(endpoints, asked),
            Err(_) => asked.refuse(&Refusal::StoreUnavailable),
        },
        Renewal::Refused | Renewal::Gone => invalid(endpoints, asked),
        Renewal::Broken => asked.refuse(&Refusal::ProviderBroken),
        Renewal::StoreUnavailable => asked.refuse(&Refusal::StoreUnavailable),
        Renewal::Unavailable { retry_after } => {
            asked.refuse(&Refusal::ProviderUnavailable { retry_after: retry_after.as_secs() })
        }
    }
}

fn invalid(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    let mut response = asked.refuse(&Refusal::RefreshInvalid);
    endpoints.expire_session_cookies(asked, &mut response);
    response
}
