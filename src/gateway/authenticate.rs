//! Step 3: who is asking. Where the answer does not matter, nobody asks the store.

use super::{Credential, Identified, Known, Parts, Step};
use crate::session::cookie::Name;
use crate::session::{Found, SessionId};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::{Layer, Service};

pub struct AuthenticateLayer {
    parts: Arc<Parts>,
}

impl AuthenticateLayer {
    pub fn new(parts: &Arc<Parts>) -> AuthenticateLayer {
        AuthenticateLayer { parts: Arc::clone(parts) }
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate { parts: Arc::clone(&self.parts), inner }
    }
}

#[derive(Clone)]
pub struct Authenticate<S> {
    parts: Arc<Parts>,
    inner: S,
}

impl<S> Service<Known> for Authenticate<S>
where
    S: Step<Identified>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, known: Known) -> Self::Future {
        let credential = who_is_asking(&self.parts, &known);
        self.inner.call(Identified { known, credential })
    }
}

fn who_is_asking(parts: &Parts, known: &Known) -> Credential {
    let exchange = &known.exchange;
    if exchange.cookies.is_empty() || !exchange.route.auth.depends_on_session() {
        return Credential::Absent;
    }
    let ids = parts.cookies.values(&exchange.cookies, Name::Session).filter_map(SessionId::parse);
    match parts.sessions.find(ids, exchange.facts.now) {
        Found::Live(session) => Credential::Session(session),
        Found::Ended => Credential::Ended,
        Found::Nothing => Credential::Absent,
    }
}
