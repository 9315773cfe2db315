//! `POST {prefix}/impersonate` and `POST {prefix}/unimpersonate`: whoever `[impersonation] require` lets is somebody else for a quarter
//! of an hour. The session stays the same one; its `act` claim (RFC 8693 §4.1) says who is behind it, and the log who, whom and why.
//!
//! A mock provider knows its personas; other providers have no directory to ask, so what is known there is the `sub` and nothing else.

use super::{Asked, Endpoints, not_signed_in, read_body};
use crate::body::Body;
use crate::policy::require::Requirement;
use crate::reply::{self, Refusal};
use crate::session::{Identity, Session, Update};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Who may; None: nobody.
pub type Impersonators = Option<Vec<Requirement>>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wish {
    #[serde(default)]
    target_user_id: String,
    #[serde(default)]
    reason: String,
}

/// `POST {prefix}/impersonate`
pub(super) async fn begin(endpoints: &Endpoints, asked: &Asked<'_>, body: Body) -> Response<Body> {
    let session = match signed_in(endpoints, asked) {
        Ok(session) => session,
        Err(answer) => return *answer,
    };
    let wish = match read_wish(body).await {
        Ok(wish) => wish,
        Err(refusal) => return asked.refuse(&refusal),
    };
    if session.impersonation.is_some() {
        return asked.refuse(&NESTED);
    }
    if !is_allowed(endpoints, session) {
        let (actor, target) = (clean(&session.identity.subject), clean(&wish.target_user_id));
        tracing::warn!(target: "latchgate::audit", event = "impersonation_refused", provider = %session.provider, session = %session.key, actor, target, request = %asked.facts.id, "somebody may not act as somebody else");
        return asked.refuse(&Refusal::Forbidden("Insufficient permissions to impersonate users"));
    }
    let Some(target) = target(endpoints, session, &wish) else {
        return asked.refuse(&Refusal::Missing("Target user not found"));
    };
    let (target, now) = (Arc::new(target), asked.facts.now.mono);
    let becoming = Arc::clone(&target);
    match endpoints.sessions.update(session, move |session| session.impersonating(Arc::clone(&becoming), now)).await {
        Ok(Update::Stored(session)) => {
            let (actor, target, reason) = (&session.owner().subject, &target.subject, clean(&wish.reason));
            tracing::info!(target: "latchgate::audit", event = "impersonation_begun", provider = %session.provider, session = %session.key, actor = %clean(actor), target = %clean(target), reason, request = %asked.facts.id, "somebody acts as somebody else");
            answer(endpoints, asked, &session)
        }
        Ok(Update::Declined(_)) => asked.refuse(&NESTED),
        Ok(Update::Ended) => not_signed_in(),
        Err(_) => asked.refuse(&Refusal::StoreUnavailable),
    }
}

/// `POST {prefix}/unimpersonate`
pub(super) async fn end(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    let session = match signed_in(endpoints, asked) {
        Ok(session) => session,
        Err(answer) => return *answer,
    };
    match endpoints.sessions.update(session, Session::restored).await {
        Ok(Update::Stored(restored)) => {
            let (actor, target) = (clean(&restored.identity.subject), clean(&session.identity.subject));
            tracing::info!(target: "latchgate::audit", event = "impersonation_ended", provider = %restored.provider, session = %restored.key, actor, target, request = %asked.facts.id, "somebody acts as themselves again");
            answer(endpoints, asked, &restored)
        }
        Ok(Update::Declined(_)) => asked.refuse(&Refusal::Malformed("Current session is not impersonated")),
        Ok(Update::Ended) => not_signed_in(),
        Err(_) => asked.refuse(&Refusal::StoreUnavailable),
    }
}

/// Who asks, unless this is nothing that they could ask for.
fn signed_in<'a>(endpoints: &Endpoints, asked: &'a Asked<'_>) -> Result<&'a Arc<Session>, Box<Response<Body>>> {
    if endpoints.impersonators.is_none() {
        return Err(Box::new(asked.refuse(&Refusal::Missing("Impersonation feature is not enabled"))));
    }
    if endpoints.is_foreign(&asked.headers) {
        return Err(Box::new(asked.refuse(&Refusal::CrossOrigin)));
    }
    asked.session.as_ref().ok_or_else(|| Box::new(not_signed_in()))
}

fn is_allowed(endpoints: &Endpoints, session: &Session) -> bool {
    let (claims, granted) = (&session.identity.claims, session.granted_scope());
    endpoints
        .impersonators
        .as_ref()
        .is_some_and(|required| required.iter().all(|requirement| requirement.is_met_by(claims, granted)))
}

async fn read_wish(body: Body) -> Result<Wish, Refusal> {
    let body = read_body(body, MOST_WISH).await?;
    let wish = if body.is_empty() { br"{}" } else { &body[..] };
    let wish: Wish = serde_json::from_slice(wish)
        .map_err(|_| Refusal::Malformed("the body must be JSON: targetUserId and reason, both strings"))?;
    if wish.target_user_id.is_empty() { Err(Refusal::Malformed("targetUserId is required")) } else { Ok(wish) }
}

/// None when nobody is called that.
fn target(endpoints: &Endpoints, session: &Session, wish: &Wish) -> Option<Identity> {
    let subject = wish.target_user_id.as_str();
    let directory = endpoints.mock.as_ref().filter(|mock| mock.issuer() == session.identity.issuer);
    let mut claims = match directory {
        Some(mock) => mock.persona_claims(subject)?,
        // OIDC Core §2: "sub … MUST NOT exceed 255 ASCII characters".
        None if subject.len() > 255 || !subject.bytes().all(|byte| matches!(byte, b' '..=b'~')) => return None,
        None => Map::from_iter([("sub".to_owned(), subject.into())]),
    };
    let mut actor = Map::from_iter([("sub".to_owned(), Value::from(session.identity.subject.as_str()))]);
    for name in ["email", "name"] {
        actor.extend(session.identity.claims.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    claims.insert("act".to_owned(), actor.into());
    claims.insert("impersonation".to_owned(), json!({"reason": clean(&wish.reason)}));
    Some(Identity { issuer: session.identity.issuer.clone(), subject: subject.to_owned(), sid: None, claims })
}

/// Text of a client's, fit for a line of the log.
fn clean(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MOST_REASON).collect()
}

/// Not with a refresh token: the one that the browser has is good for whoever opened the session, once it is theirs again.
fn answer(endpoints: &Endpoints, asked: &Asked<'_>, session: &Session) -> Response<Body> {
    match endpoints.own_tokens.issue(session, session.ends_at(), asked.facts.now) {
        Some(own) => {
            let body = json!({"token": own.token, "accessToken": own.token, "expiresIn": own.expires_in});
            reply::json(StatusCode::OK, &body)
        }
        None => asked.refuse(&Refusal::Internal),
    }
}

const NESTED: Refusal = Refusal::Forbidden("Cannot impersonate while already impersonating another user");
const MOST_WISH: usize = 4 * 1024;
const MOST_REASON: usize = 200;
