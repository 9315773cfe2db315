//! Step 3: who is asking. Where the answer does not matter, nobody looks; what this process knows needs
//! no question to the store. On the way back, a browser that carries its session gets the newest state.

use super::accept::{self, Deciding};
use super::{Boxed, Credential, Exchange, Identified, Known, Parts, Step, Verdict};
use crate::body::Body;
use crate::clients::{BearerEntry, Entry};
use crate::facts::Facts;
use crate::session::own_token::{self, Read};
use crate::session::{Carried, Found, Presented, Session};
use http::{HeaderValue, Response, header};
use secrecy::SecretString;
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
    S: Step<Identified> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Verdict<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut known: Known) -> Self::Future {
        let own = take_own_token(&self.parts, &mut known);
        let shown = match known.exchange.route.acceptance {
            None => by_session(&self.parts, &known, own),
            Some(_) => by_acceptance(&self.parts, &mut known, own),
        };
        let credential = match shown {
            Shown::Nobody(credential) => credential,
            Shown::Token(entry, token) => {
                let (parts, mut inner) = (Arc::clone(&self.parts), self.inner.clone());
                let rest: Boxed = Box::pin(async move {
                    let judgement = parts.clients.judge(entry, token).await;
                    let credential = accept::credential(&parts, &known, Entry::Bearer(entry), judgement);
                    inner.call(Identified { known, credential }).await
                });
                return Verdict::Waiting { rest };
            }
            Shown::Sessions(presented, by) => match self.parts.sessions.peek(&presented, known.exchange.facts.now) {
                Some(found) => by.credential(found),
                None => {
                    let (parts, mut inner) = (Arc::clone(&self.parts), self.inner.clone());
                    let rest: Boxed = Box::pin(async move {
                        let exchange = Arc::clone(&known.exchange);
                        let carried: Vec<Carried> = presented.iter().filter_map(Presented::carried).collect();
                        let credential = ask(&parts, &exchange.facts, presented, by).await;
                        let carried = credential.among(&carried);
                        let mut response = inner.call(Identified { known, credential }).await?;
                        if let Some((session, carried)) = carried {
                            bring_up_to_date(&parts, &exchange, &session, carried, &mut response).await;
                        }
                        Ok(response)
                    });
                    return Verdict::Waiting { rest };
                }
            },
        };
        Verdict::Onward { rest: self.inner.call(Identified { known, credential }) }
    }
}

async fn ask(parts: &Parts, facts: &Facts, presented: Vec<Presented>, by: Means) -> Credential {
    match parts.sessions.find(presented, facts.now).await {
        Ok(found) => by.credential(found),
        Err(error) => {
            tracing::warn!(reason = error.reason, request = %facts.id, "a session could not be looked up");
            Credential::Unverifiable
        }
    }
}

/// A response that sets the session's cookies, or takes them away, has the last word.
async fn bring_up_to_date(
    parts: &Parts,
    exchange: &Exchange,
    session: &Session,
    carried: Carried,
    response: &mut Response<Body>,
) {
    if response.headers().get_all(header::SET_COOKIE).iter().any(|line| parts.cookies.is_for_session(line)) {
        return;
    }
    let lines = parts.sessions.catch_up(session, carried, &parts.cookies, &exchange.cookies).await;
    if !lines.is_empty() {
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        lines.into_iter().for_each(|line| {
            headers.append(header::SET_COOKIE, line);
        });
    }
}

impl Credential {
    /// Whose session it is, and which of `carried` is that one's newest.
    fn among(&self, carried: &[Carried]) -> Option<(Arc<Session>, Carried)> {
        let Credential::Cookie(session) = self else { return None };
        let carried = carried.iter().filter(|carried| carried.is_of(session)).max_by_key(|carried| carried.version());
        Some((Arc::clone(session), *carried?))
    }
}

/// What a request shows for itself.
enum Shown {
    /// Nothing that is worth another look.
    Nobody(Credential),
    /// Sessions, and where they stood.
    Sessions(Vec<Presented>, Means),
    /// A client's own bearer token, to ask about.
    Token(BearerEntry, SecretString),
}

enum Means {
    Cookie,
    /// One of ours, and whose it says it is.
    Token {
        subject: String,
    },
}

impl Means {
    fn credential(self, found: Found) -> Credential {
        match (found, self) {
            (Found::Live(session), Means::Cookie) => Credential::Cookie(session),
            (Found::Live(session), Means::Token { subject }) if own_token::stands_for(&subject, &session) => {
                Credential::Token(session)
            }
            // A token of ours has been a session's.
            (Found::Ended, _) | (Found::Live(_) | Found::Nothing, Means::Token { .. }) => Credential::Ended,
            (Found::Nothing, Means::Cookie) => Credential::Absent,
        }
    }
}

/// A token of ours goes no further, on any route, valid or not, whatever scheme it is sent under. It counts as a bearer token alone.
fn take_own_token(parts: &Parts, known: &mut Known) -> Option<Read> {
    let value = known.message.headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.rsplit_once([' ', '\t']).unwrap_or(("", value));
    let is_bearer = scheme.trim().eq_ignore_ascii_case("bearer");
    let read = parts.own_tokens.read(token, known.exchange.facts.now);
    if matches!(read, Read::Foreign) {
        return None;
    }
    known.message.headers.remove(header::AUTHORIZATION);
    is_bearer.then_some(read)
}

/// On a route that says what it accepts.
fn by_acceptance(parts: &Parts, known: &mut Known, own: Option<Read>) -> Shown {
    let route = Arc::clone(&known.exchange.route);
    // Read once: those that browsers carry have to be decrypted.
    let mut presented = None;
    let shows_session =
        |known: &Known| own.is_some() || !presented.insert(presented_by_cookies(parts, known)).is_empty();
    let deciding = route.acceptance.as_ref().map(|acceptance| acceptance.decide(parts, known, shows_session));
    match deciding {
        Some(Deciding::Session) | None => match (own, presented) {
            (None, Some(presented)) => Shown::Sessions(presented, Means::Cookie),
            (own, _) => by_session(parts, known, own),
        },
        Some(Deciding::Nothing) => Shown::Nobody(Credential::Absent),
        Some(Deciding::Judged(credential)) => Shown::Nobody(credential),
        Some(Deciding::Token(entry, token)) => Shown::Token(entry, token),
    }
}

fn by_session(parts: &Parts, known: &Known, own: Option<Read>) -> Shown {
    match own {
        Some(read) => by_own_token(known, read),
        None => by_cookie(parts, known),
    }
}

fn by_own_token(known: &Known, read: Read) -> Shown {
    match read {
        _ if !known.exchange.depends_on_session() => Shown::Nobody(Credential::Absent),
        Read::Session { id, subject } => Shown::Sessions(vec![id.into()], Means::Token { subject }),
        Read::Dead => Shown::Nobody(Credential::Ended),
        Read::Foreign => Shown::Nobody(Credential::Absent),
    }
}

fn by_cookie(parts: &Parts, known: &Known) -> Shown {
    let exchange = &known.exchange;
    if exchange.cookies.is_empty() || !exchange.depends_on_session() {
        return Shown::Nobody(Credential::Absent);
    }
    let presented = presented_by_cookies(parts, known);
    if presented.is_empty() { Shown::Nobody(Credential::Absent) } else { Shown::Sessions(presented, Means::Cookie) }
}

fn presented_by_cookies(parts: &Parts, known: &Known) -> Vec<Presented> {
    parts.sessions.presented(&parts.cookies, &known.exchange.cookies)
}
