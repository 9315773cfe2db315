//! `GET {prefix}/access-token`: the session's access token, for front ends that call a resource server
//! themselves. Off unless `login.expose_access_token`: whoever can run a script in the page has it then.

use super::{Asked, Endpoints};
use crate::body::Body;
use crate::policy::Freshness;
use crate::reply::{self, Refusal};
use crate::session::Session;
use crate::tokens::Renewal;
use http::{Response, StatusCode};
use secrecy::ExposeSecret;
use serde_json::json;
use std::sync::Arc;

pub(super) async fn access_token(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    if endpoints.is_foreign(&asked.headers) {
        return asked.refuse(&Refusal::CrossOrigin);
    }
    let Some(session) = &asked.session else { return asked.refuse(&Refusal::NoAccessToken("missing_session")) };
    if session.impersonation.is_some() {
        // It is its owner's.
        return asked.refuse(&Refusal::NoAccessToken("impersonating"));
    }
    if asked.parameter("audience").is_some() {
        return asked.refuse(&Refusal::Malformed("there is no token for another audience"));
    }
    let session = match fit(endpoints, asked, session).await {
        Ok(session) => session,
        Err(refusal) => return refused(endpoints, asked, &refusal),
    };
    if asked.parameter("scope").is_some_and(|wanted| !covers(session.tokens.scope.as_deref(), &wanted)) {
        return asked.refuse(&Refusal::Malformed("the token does not have that scope"));
    }
    let expires_in = session.tokens.expires().map(|expires| expires.since(endpoints.clock.mono()).as_secs());
    let answer = json!({
        "token": session.tokens.access_token.expose_secret(),
        "scope": session.tokens.scope,
        "expires_at": expires_in.map(|seconds| endpoints.clock.now().unix + seconds),
        "expires_in": expires_in,
        "token_type": "Bearer",
    });
    reply::json(StatusCode::OK, &answer)
}

/// A state whose token can be used for a while. One that is still valid does when it cannot be renewed.
async fn fit(endpoints: &Endpoints, asked: &Asked<'_>, session: &Arc<Session>) -> Result<Arc<Session>, Refusal> {
    let is_valid = match endpoints.tokens.freshness(session, asked.facts.now) {
        Freshness::Fresh => return Ok(Arc::clone(session)),
        Freshness::Ageing => true,
        Freshness::Expired => false,
    };
    match endpoints.tokens.renew(session).await {
        Renewal::Renewed(session) => Ok(session),
        Renewal::Refused | Renewal::Gone => Err(Refusal::NoAccessToken("failed_to_refresh_token")),
        _ if is_valid => Ok(Arc::clone(session)),
        Renewal::NothingToRenewWith => Err(Refusal::NoAccessToken("missing_refresh_token")),
        Renewal::Outage(outage) => Err(outage.refusal()),
    }
}

/// A session that the provider has ended is gone, and so are its cookies.
fn refused(endpoints: &Endpoints, asked: &Asked<'_>, refusal: &Refusal) -> Response<Body> {
    let mut response = asked.refuse(refusal);
    if *refusal == Refusal::NoAccessToken("failed_to_refresh_token") {
        endpoints.expire_session_cookies(asked, &mut response);
    }
    response
}

/// RFC 6749 §3.3: names, separated by spaces. Without a word from the provider nobody knows what was granted.
fn covers(granted: Option<&str>, wanted: &str) -> bool {
    granted.is_some_and(|granted| {
        wanted.split(' ').all(|name| name.is_empty() || granted.split(' ').any(|one| one == name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_covers_the_scopes_it_was_granted() {
        for (granted, wanted, covered) in [
            (Some("openid email"), "email", true),
            (Some("openid email"), "email openid", true),
            (Some("openid email"), "", true),
            (Some("openid email"), "mail", false),
            (Some("openid email"), "email admin", false),
            (None, "email", false),
        ] {
            assert_eq!(covers(granted, wanted), covered, "{granted:?} {wanted:?}");
        }
    }
}
