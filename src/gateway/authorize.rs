//! Step 4: whether they may. [`policy::admit`] decides; then, for who is signed in, where the
//! request comes from (SPEC §7) and what `require` asks for.

use super::{
    AppCall, Credential, Exchange, Identified, Message, Parts, Permitted, Route, Shown, Step, Verdict, challenge, cors,
};
use crate::body::Body;
use crate::policy::csrf::{self, Source};
use crate::policy::{self, Admission, return_to};
use crate::reply::{self, Asker, Refusal};
use crate::session::Session;
use http::Response;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::Service;

#[derive(Clone)]
pub struct Authorize<S> {
    parts: Arc<Parts>,
    inner: S,
}

impl<S> Authorize<S> {
    pub fn new(parts: &Arc<Parts>, inner: S) -> Authorize<S> {
        Authorize { parts: Arc::clone(parts), inner }
    }
}

impl<S> Service<Identified> for Authorize<S>
where
    S: Step<Permitted>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Verdict<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, identified: Identified) -> Self::Future {
        match verdict(&self.parts, identified) {
            Ok(permitted) => Verdict::onward(self.inner.call(permitted)),
            Err(answer) => Verdict::answer(*answer),
        }
    }
}

fn verdict(parts: &Parts, identified: Identified) -> Result<Permitted, Box<Response<Body>>> {
    let Identified { known, credential } = identified;
    let (exchange, message) = (known.exchange, known.message);
    let facts = &exchange.facts;
    let asker = Asker { id: &facts.id, client: facts.client };
    if policy::is_preflight(&message.method, &message.headers) {
        return Ok(Permitted { exchange, message, session: None, shown: None });
    }
    let shown = match exchange.app_call {
        None => None,
        Some(_) if matches!(credential, Credential::Unverifiable) => {
            return Err(refuse(asker, &Refusal::StoreUnavailable));
        }
        Some(AppCall::Login) => {
            check_login_source(parts, &message).map_err(|refusal| refuse(asker, &refusal))?;
            Some(shown(&exchange, &credential))
        }
        Some(AppCall::Refresh | AppCall::Logout) => match shown(&exchange, &credential) {
            // Somebody else's session: the call is no business of ours.
            Shown::Session(session) if !is_of_route(&exchange.route, &session) => None,
            // Answered here, whoever the route is open to.
            shown @ (Shown::Session(_) | Shown::Remains) => {
                return Ok(Permitted { exchange, message, session: None, shown: Some(shown) });
            }
            Shown::Nothing => Some(Shown::Nothing),
        },
    };
    let session = match policy::admit(exchange.route.auth, credential.standing(), facts.client) {
        Admission::WithSession => match credential {
            Credential::Cookie(session) => {
                check_source(parts, &exchange, &message).map_err(|refusal| refuse(asker, &refusal))?;
                Some(session)
            }
            Credential::Token(session) => Some(session),
            Credential::Absent | Credential::Ended | Credential::Unverifiable => None,
        },
        Admission::WithoutSession => None,
        Admission::Login(reason) => return Err(Box::new(challenge::login(parts, &exchange, reason, None))),
        Admission::SendOn => {
            return Err(Box::new(reply::send_on(facts.client, &parts.endpoints.settings.after_login)));
        }
        Admission::Unavailable => return Err(refuse(asker, &Refusal::StoreUnavailable)),
    };
    if let Some(session) = &session {
        check_requirements(&exchange.route, session).map_err(|refusal| refuse(asker, &refusal))?;
    }
    Ok(Permitted { exchange, message, session, shown })
}

fn shown(exchange: &Exchange, credential: &Credential) -> Shown {
    match credential {
        Credential::Cookie(session) | Credential::Token(session) => Shown::Session(Arc::clone(session)),
        Credential::Ended => Shown::Remains,
        Credential::Absent | Credential::Unverifiable if exchange.shows_stand_in => Shown::Remains,
        Credential::Absent | Credential::Unverifiable => Shown::Nothing,
    }
}

fn is_of_route(route: &Route, session: &Session) -> bool {
    route.backend.as_ref().is_some_and(|backend| backend.name() == &*session.provider)
}

/// Only pages of our own origin sign people in here, so that nobody is signed in as somebody else by a page of theirs (RFC 6749
/// §10.12). A client that says nothing of the kind is no browser, and may.
fn check_login_source(parts: &Parts, message: &Message) -> Result<(), Refusal> {
    let is_own = |origin: &str| return_to::same_origin(origin, &parts.external_url);
    match csrf::source(&message.headers, is_own, |_| false) {
        Source::SameOrigin | Source::Unknown => Ok(()),
        Source::Allowed | Source::Foreign => Err(Refusal::CrossOrigin),
    }
}

/// The browser attaches our cookie whoever asks it to; we let it count only for requests that our
/// own pages, or those the route allows, have made.
fn check_source(parts: &Parts, exchange: &Exchange, message: &Message) -> Result<(), Refusal> {
    let has_effects = !csrf::is_safe(&message.method) || exchange.upgrade.is_some();
    if !(exchange.route.relies_on_session() && has_effects) {
        return Ok(());
    }
    let is_own = |origin: &str| return_to::same_origin(origin, &parts.external_url);
    let allowed = |origin: &str| exchange.route.settings.cors.as_ref().is_some_and(|cors| cors::names(cors, origin));
    match csrf::source(&message.headers, is_own, allowed) {
        Source::SameOrigin | Source::Allowed => Ok(()),
        Source::Foreign | Source::Unknown => Err(Refusal::CrossOrigin),
    }
}

fn refuse(asker: Asker<'_>, refusal: &Refusal) -> Box<Response<Body>> {
    Box::new(reply::refuse(asker, refusal))
}

fn check_requirements(route: &Route, session: &Session) -> Result<(), Refusal> {
    let (claims, granted) = (&session.identity.claims, session.tokens.scope.as_deref());
    if route.settings.require.iter().all(|requirement| requirement.is_met_by(claims, granted)) {
        Ok(())
    } else {
        Err(Refusal::NotAllowed)
    }
}
