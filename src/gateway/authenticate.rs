//! Step 3: who is asking. Where the answer does not matter, nobody looks; what this process knows needs
//! no question to the store.

use super::{Boxed, Credential, Identified, Known, Parts, Step};
use crate::body::Body;
use crate::facts::Facts;
use crate::session::cookie::Name;
use crate::session::own_token::Read;
use crate::session::{Found, Session, SessionId};
use http::{Response, header};
use pin_project_lite::pin_project;
use std::convert::Infallible;
use std::pin::Pin;
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
    S: Step<Identified> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Authenticating<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut known: Known) -> Self::Future {
        let shown = match take_own_token(&self.parts, &mut known) {
            Some(read) => by_own_token(&known, read),
            None => by_cookie(&self.parts, &known),
        };
        let credential = match shown {
            Shown::Nobody(credential) => credential,
            Shown::Ids(ids, by) => match self.parts.sessions.peek(&ids, known.exchange.facts.now) {
                Some(found) => by.credential(found),
                None => {
                    let (parts, mut inner) = (Arc::clone(&self.parts), self.inner.clone());
                    let asking = Box::pin(async move {
                        let exchange = Arc::clone(&known.exchange);
                        let credential = ask(&parts, &exchange.facts, ids, by).await;
                        inner.call(Identified { known, credential }).await
                    });
                    return Authenticating::Asking { asking };
                }
            },
        };
        Authenticating::Known { rest: self.inner.call(Identified { known, credential }) }
    }
}

async fn ask(parts: &Parts, facts: &Facts, ids: Vec<SessionId>, by: Means) -> Credential {
    match parts.sessions.find(ids, facts.now).await {
        Ok(found) => by.credential(found),
        Err(error) => {
            tracing::warn!(reason = error.reason, request = %facts.id, "a session could not be looked up");
            Credential::Unverifiable
        }
    }
}

pin_project! {
    /// The rest of the way, behind a question to the store or not.
    #[project = Progress]
    pub enum Authenticating<F> {
        Known { #[pin] rest: F },
        Asking { asking: Boxed },
    }
}

impl<F> Future for Authenticating<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Progress::Known { rest } => rest.poll(cx),
            Progress::Asking { asking } => asking.as_mut().poll(cx),
        }
    }
}

/// What a request shows for itself.
enum Shown {
    /// Nothing that is worth a look.
    Nobody(Credential),
    /// Names of sessions, and where they stood.
    Ids(Vec<SessionId>, Means),
}

#[derive(Clone, Copy)]
enum Means {
    Cookie,
    Token,
}

impl Means {
    fn credential(self, found: Found) -> Credential {
        let valid: fn(Arc<Session>) -> Credential = match self {
            Means::Cookie => Credential::Cookie,
            Means::Token => Credential::Token,
        };
        match (found, self) {
            (Found::Live(session), _) => valid(session),
            // A token of ours has been a session's.
            (Found::Ended, _) | (Found::Nothing, Means::Token) => Credential::Ended,
            (Found::Nothing, Means::Cookie) => Credential::Absent,
        }
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
    if matches!(read, Read::Foreign) {
        return None;
    }
    known.message.headers.remove(header::AUTHORIZATION);
    Some(read)
}

fn by_own_token(known: &Known, read: Read) -> Shown {
    match read {
        _ if !known.exchange.route.auth.depends_on_session() => Shown::Nobody(Credential::Absent),
        Read::Session(id) => Shown::Ids(vec![id], Means::Token),
        Read::Dead => Shown::Nobody(Credential::Ended),
        Read::Foreign => Shown::Nobody(Credential::Absent),
    }
}

fn by_cookie(parts: &Parts, known: &Known) -> Shown {
    let exchange = &known.exchange;
    if exchange.cookies.is_empty() || !exchange.route.auth.depends_on_session() {
        return Shown::Nobody(Credential::Absent);
    }
    let ids: Vec<SessionId> =
        parts.cookies.values(&exchange.cookies, Name::Session).filter_map(SessionId::parse).collect();
    if ids.is_empty() { Shown::Nobody(Credential::Absent) } else { Shown::Ids(ids, Means::Cookie) }
}
