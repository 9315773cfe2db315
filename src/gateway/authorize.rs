//! Step 4: whether they may. [`policy::admit`] decides; then, for who is signed in, where the
//! request comes from (SPEC §7) and what `require` asks for; for everyone, the route's `xsrf`.

use super::{
    AppCall, Credential, Exchange, Identified, Message, Parts, Permitted, Route, ShownByApp, Step, Verdict, challenge,
    cors, xsrf,
};
use crate::body::Body;
use crate::clients::{ApiClient, Shown};
use crate::policy::csrf::{self, Source};
use crate::policy::require::Requirement;
use crate::policy::{self, Admission};
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
            Ok(permitted) => Verdict::Onward { rest: self.inner.call(permitted) },
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
        return Ok(Permitted { exchange, message, session: None, client: None, shown: None });
    }
    // No other site can make a browser send a token.
    let is_ambient = !matches!(credential, Credential::Token(_) | Credential::Client(_));
    let shown = shown_by_app(parts, &exchange, &message, &credential).map_err(|refusal| refuse(asker, &refusal))?;
    if exchange.app_call != Some(AppCall::Login) && matches!(shown, Some(ShownByApp::Session(_) | ShownByApp::Remains))
    {
        // Answered here, whoever the route is open to.
        if is_ambient {
            check_xsrf(&exchange, &message).map_err(|refusal| refuse(asker, &refusal))?;
        }
        return Ok(Permitted { exchange, message, session: None, client: None, shown });
    }
    let credential = credential.where_it_counts(&exchange.route);
    let mut client = None;
    let session = match policy::admit(exchange.route.auth, credential.standing(), facts.client) {
        Admission::WithSession => match credential {
            Credential::Cookie(session) => {
                check_source(parts, &exchange, &message).map_err(|refusal| refuse(asker, &refusal))?;
                Some(session)
            }
            Credential::Token(session) => Some(session),
            Credential::Client(known) => {
                check_client(&exchange.route, &known).map_err(|refusal| refuse(asker, &refusal))?;
                client = Some(known);
                None
            }
            Credential::Absent | Credential::Ended | Credential::Unverifiable | Credential::Rejected(_) => None,
        },
        Admission::WithoutSession => None,
        Admission::Login(_) if !exchange.route.takes_sessions() => {
            return Err(refuse(asker, &Refusal::CredentialMissing));
        }
        Admission::Login(reason) => return Err(Box::new(challenge::login(parts, &exchange, reason, None))),
        Admission::SendOn => {
            return Err(Box::new(reply::send_on(facts.client, &parts.endpoints.settings.after_login)));
        }
        Admission::Unavailable => return Err(refuse(asker, &Refusal::StoreUnavailable)),
        Admission::Refuse => match credential {
            Credential::Rejected(refusal) => return Err(refuse(asker, &refusal)),
            _ => return Err(refuse(asker, &Refusal::Internal)),
        },
    };
    if is_ambient {
        check_xsrf(&exchange, &message).map_err(|refusal| refuse(asker, &refusal))?;
    }
    if let Some(session) = &session {
        check_requirements(&exchange.route, session).map_err(|refusal| refuse(asker, &refusal))?;
    }
    Ok(Permitted { exchange, message, session, client, shown })
}

impl Credential {
    /// A session of another provider than the route names is none there: its token was not made for this upstream, and who signed in
    /// elsewhere is somebody else. A login at the right one replaces it.
    fn where_it_counts(self, route: &Route) -> Credential {
        match (&self, &route.settings.provider) {
            (Credential::Cookie(session) | Credential::Token(session), Some(provider))
                if *session.provider != **provider =>
            {
                Credential::Absent
            }
            _ => self,
        }
    }
}

/// What a call of an app's shows, if the request is one and any business of ours.
fn shown_by_app(
    parts: &Parts,
    exchange: &Exchange,
    message: &Message,
    credential: &Credential,
) -> Result<Option<ShownByApp>, Refusal> {
    let Some(call) = exchange.app_call else { return Ok(None) };
    let shown = match credential {
        Credential::Unverifiable => return Err(Refusal::StoreUnavailable),
        Credential::Cookie(session) | Credential::Token(session) => ShownByApp::Session(Arc::clone(session)),
        Credential::Ended => ShownByApp::Remains,
        _ if exchange.shows_stand_in => ShownByApp::Remains,
        _ => ShownByApp::Nothing,
    };
    if call == AppCall::Login {
        check_login_source(parts, message)?;
        return Ok(Some(shown));
    }
    let is_somebody_else_s = matches!(&shown, ShownByApp::Session(session) if !is_of_route(&exchange.route, session));
    Ok((!is_somebody_else_s).then_some(shown))
}

fn is_of_route(route: &Route, session: &Session) -> bool {
    route.backend.as_ref().is_some_and(|backend| backend.name() == &*session.provider)
}

/// Only pages of our own origin sign people in here, so that nobody is signed in as somebody else by a page of theirs (RFC 6749
/// §10.12). A client that says nothing of the kind is no browser, and may.
fn check_login_source(parts: &Parts, message: &Message) -> Result<(), Refusal> {
    if parts.endpoints.is_foreign(&message.headers) { Err(Refusal::CrossOrigin) } else { Ok(()) }
}

/// The browser attaches our cookie whoever asks it to; we let it count only for requests that our
/// own pages, or those the route allows, have made.
fn check_source(parts: &Parts, exchange: &Exchange, message: &Message) -> Result<(), Refusal> {
    let has_effects = !csrf::is_safe(&message.method) || exchange.upgrade.is_some();
    if !(exchange.route.relies_on_session() && has_effects) {
        return Ok(());
    }
    match cors::source(parts, &exchange.route, &message.headers) {
        Source::SameOrigin | Source::Allowed => Ok(()),
        Source::Foreign | Source::Unknown => Err(Refusal::CrossOrigin),
    }
}

fn check_xsrf(exchange: &Exchange, message: &Message) -> Result<(), Refusal> {
    match &exchange.route.settings.xsrf {
        Some(xsrf) if xsrf::is_missing(xsrf, &message.method, &message.headers, &exchange.cookies) => {
            Err(Refusal::XsrfMismatch)
        }
        Some(_) | None => Ok(()),
    }
}

fn refuse(asker: Asker<'_>, refusal: &Refusal) -> Box<Response<Body>> {
    Box::new(reply::refuse(asker, refusal))
}

fn check_requirements(route: &Route, session: &Session) -> Result<(), Refusal> {
    let (claims, granted) = (&session.identity.claims, session.granted_scope());
    if route.settings.require.iter().all(|requirement| requirement.is_met_by(claims, granted)) {
        Ok(())
    } else {
        Err(Refusal::NotAllowed)
    }
}

/// As for a session; who has shown a bearer token learns which scope it lacks (RFC 6750 §3.1).
fn check_client(route: &Route, client: &ApiClient) -> Result<(), Refusal> {
    let is_met = |requirement: &&Requirement| requirement.is_met_by(&client.claims, client.scope.as_deref());
    let mut unmet = route.settings.require.iter().filter(|requirement| !is_met(requirement)).peekable();
    if unmet.peek().is_none() {
        return Ok(());
    }
    let scope = unmet.find_map(|requirement| match requirement {
        Requirement::Scope(any_of) if client.shown == Shown::BearerToken => Some(any_of.join(" ")),
        _ => None,
    });
    Err(scope.map_or(Refusal::NotAllowed, Refusal::InsufficientScope))
}
