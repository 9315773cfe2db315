//! Step 3: who is asking. Where the answer does not matter, nobody asks the store.

use super::{Credential, Identified, Known, Parts, Step};
use crate::session::cookie::Name;
use crate::session::own_token::Read;
use crate::session::{Found, SessionId};
use http::header;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::Service;

#[derive(Clone)]
pub struct Authenticate<S> {
    parts: Arc<Parts>,
    inner: S,
}

impl<S> Authenticate<S> {
    pub fn new(parts: &Arc<Parts>, inner: S) -> Authenticate<S> {
        Authenticate { parts: Arc::clone(parts), inner }
    }
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

    fn call(&mut self, mut known: Known) -> Self::Future {
        let credential = match take_own_token(&self.parts, &mut known) {
            Some(read) => by_own_token(&self.parts, &known, read),
            None => by_cookie(&self.parts, &known),
        };
        self.inner.call(Identified { known, credential })
    }
}

/// A bearer token of ours goes no further, on any route, valid or not.
fn take_own_token(parts: &Parts, known: &mut Known) -> Option<Read> {
    let value = known.message.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once([' ', '\t'])?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let read = parts.own_tokens.read(token.trim(), known.exchange.facts.now);
    if read == Read::Foreign {
        return None;
    }
    known.message.headers.remove(header::AUTHORIZATION);
    Some(read)
}

fn by_own_token(parts: &Parts, known: &Known, read: Read) -> Credential {
    match read {
        _ if !known.exchange.route.auth.depends_on_session() => Credential::Absent,
        Read::Session(key) => match parts.sessions.visit(key, known.exchange.facts.now) {
            Some(session) => Credential::Token(session),
            None => Credential::Ended,
        },
        Read::Dead => Credential::Ended,
        Read::Foreign => Credential::Absent,
    }
}

fn by_cookie(parts: &Parts, known: &Known) -> Credential {
    let exchange = &known.exchange;
    if exchange.cookies.is_empty() || !exchange.route.auth.depends_on_session() {
        return Credential::Absent;
    }
    let ids = parts.cookies.values(&exchange.cookies, Name::Session).filter_map(SessionId::parse);
    match parts.sessions.find(ids, exchange.facts.now) {
        Found::Live(session) => Credential::Cookie(session),
        Found::Ended => Credential::Ended,
        Found::Nothing => Credential::Absent,
    }
}
