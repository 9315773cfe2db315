//! `POST {prefix}/refresh`: a forced refresh, for front ends that used to do it themselves. What
//! they get is a token of ours; the provider's stay here.

use super::{Asked, Endpoints};
use crate::body::Body;
use crate::reply::{self, Refusal};
use crate::session::{Session, stand_in};
use crate::tokens::Renewal;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn refresh(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    let session = match renewed(endpoints, asked).await {
        Ok(session) => session,
        Err(refused) => return *refused,
    };
    let Some(own) = endpoints.own_tokens.issue(&session, session.ends_at(), asked.facts.now) else {
        return asked.refuse(&Refusal::Internal);
    };
    let mut answer = json!({"token": own.token, "expiresIn": own.expires_in});
    if endpoints.provider(&session.provider).is_some_and(|provider| provider.backend().is_some()) {
        add_names_of_backends(&mut answer, &session, own.expires_in);
    }
    reply::json(StatusCode::OK, &answer)
}

/// The session with new tokens; else the answer that says why not, with CLEAR where it is over.
pub(super) async fn renewed(endpoints: &Endpoints, asked: &Asked<'_>) -> Result<Arc<Session>, Box<Response<Body>>> {
    if endpoints.is_foreign(asked) {
        return Err(Box::new(asked.refuse(&Refusal::CrossOrigin)));
    }
    let Some(session) = &asked.session else { return Err(invalid(endpoints, asked)) };
    let refusal = match endpoints.tokens.renew_on_demand(session).await {
        Renewal::Renewed(session) => return Ok(session),
        Renewal::NothingToRenewWith => match endpoints.sessions.end(session.key).await {
            Ok(_) => return Err(invalid(endpoints, asked)),
            Err(_) => Refusal::StoreUnavailable,
        },
        Renewal::Refused | Renewal::Gone => return Err(invalid(endpoints, asked)),
        Renewal::Broken => Refusal::ProviderBroken,
        Renewal::StoreUnavailable => Refusal::StoreUnavailable,
        Renewal::Unavailable { retry_after } => Refusal::ProviderUnavailable { retry_after: retry_after.as_secs() },
    };
    Err(Box::new(asked.refuse(&refusal)))
}

/// Whatever an app's backend calls its tokens, it finds them here. They are stand-ins: only `token` stands for the session.
fn add_names_of_backends(answer: &mut Value, session: &Session, expires_in: u64) {
    let access_token = stand_in::for_token(&session.tokens.access_token);
    answer["accessToken"] = access_token.as_str().into();
    answer["access_token"] = access_token.into();
    if let Some(refresh_token) = session.tokens.refresh_token.as_ref().map(stand_in::for_token) {
        answer["refreshToken"] = refresh_token.as_str().into();
        answer["refresh_token"] = refresh_token.into();
    }
    answer["expires_in"] = expires_in.into();
}

fn invalid(endpoints: &Endpoints, asked: &Asked<'_>) -> Box<Response<Body>> {
    let mut response = asked.refuse(&Refusal::RefreshInvalid);
    endpoints.expire_session_cookies(asked, &mut response);
    Box::new(response)
}
