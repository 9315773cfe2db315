//! Step 5: a token that is fit to be sent, and what happens when the upstream will not have it.
//!
//! [`policy::prepare`] decides before the request goes out, [`policy::recover`] when it came back
//! with "not signed in". The request is sent twice at most. Requests with a token of the gateway's own are in `machine`.

mod machine;

use super::replay::{self, Kept};
use super::{Attach, Attempted, Boxed, Exchange, Message, Parts, Permitted, Step, TokenChoice, challenge};
use crate::body::Body;
use crate::policy::{self, Attempt, On401, Preparation, Reason, Recovery, Renewable, TokenUse};
use crate::reply::{self, Outcome, Refusal};
use crate::session::Session;
use crate::session::store::StoreError;
use crate::tokens::Renewal;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::Service;

#[derive(Clone)]
pub struct Recover<S> {
    parts: Arc<Parts>,
    inner: S,
}

impl<S> Recover<S> {
    pub fn new(parts: &Arc<Parts>, inner: S) -> Recover<S> {
        Recover { parts: Arc::clone(parts), inner }
    }
}

impl<S> Service<Permitted> for Recover<S>
where
    S: Step<Attempted> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Boxed;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, permitted: Permitted) -> Boxed {
        let recovery = Recovering { parts: Arc::clone(&self.parts), inner: self.inner.clone() };
        Box::pin(recovery.run(permitted))
    }
}

struct Recovering<S> {
    parts: Arc<Parts>,
    inner: S,
}

impl<S: Step<Attempted>> Recovering<S> {
    async fn run(mut self, permitted: Permitted) -> Result<Response<Body>, Infallible> {
        let Permitted { exchange, message, session, client, .. } = permitted;
        if exchange.route.upstream().is_none() {
            return Ok(self.send(&exchange, message, session, TokenChoice::Send).await);
        }
        if let Attach::ClientCredentials(which) = &exchange.route.settings.attach
            && !policy::is_preflight(&message.method, &message.headers)
        {
            let first =
                Attempted { exchange: Arc::clone(&exchange), message, session, client, token: TokenChoice::Send };
            return Ok(Box::pin(self.run_as_machine(first, which)).await);
        }
        if client.is_some() {
            // Nobody here can get it another credential, and no login would help it.
            return Ok(self.attempt(Attempted { exchange, message, session, client, token: TokenChoice::Send }).await);
        }
        let prepared = match self.prepare(&exchange, session).await {
            Ok(prepared) => prepared,
            Err(answer) => return Ok(*answer),
        };
        let carries_token = matches!(prepared.token, TokenChoice::Send)
            && prepared.session.is_some()
            && exchange.route.settings.attach.needs_session();
        let (message, spare) = if carries_token && exchange.route.on_401 == On401::Refresh {
            self.keep_a_spare(message)
        } else {
            (message, None)
        };
        let first = self.send(&exchange, message, prepared.session.clone(), prepared.token).await;
        let sent = prepared.session.filter(|_| carries_token);
        if !is_refused(&exchange, &first) {
            if let (Some(spare), Some(session)) = (spare, &sent)
                && !spare.release()
            {
                session.vitals.was_sent_again(fingerprint(&exchange));
            }
            return Ok(self.with_cleared_cookie(&exchange, first, prepared.cleared));
        }
        let answer = Box::pin(self.recover(&exchange, first, sent, spare)).await;
        Ok(self.with_cleared_cookie(&exchange, answer, prepared.cleared))
    }

    /// SPEC §5 "Before".
    async fn prepare(
        &self,
        exchange: &Exchange,
        session: Option<Arc<Session>>,
    ) -> Result<Prepared, Box<Response<Body>>> {
        let route = &exchange.route;
        let Some(session) = session else {
            return Ok(Prepared { session: None, token: TokenChoice::Send, cleared: false });
        };
        let is_impersonation = session.impersonation.is_some();
        // What the gateway asserts does not expire with a token that nothing can renew, and says who acts for whom.
        let asserts_alone = matches!(route.settings.attach, Attach::Assertion(_))
            && (is_impersonation || self.parts.tokens.renewable(&session, exchange.facts.now) == Renewable::Never);
        if !route.settings.attach.needs_session() || asserts_alone {
            return Ok(Prepared::with(session, TokenChoice::Send));
        }
        if is_impersonation {
            // The provider's tokens are those of somebody else than `require` and the identity headers speak of.
            return Ok(Prepared::with(session, TokenChoice::Withhold));
        }
        let freshness = self.parts.tokens.freshness(&session, exchange.facts.now);
        match policy::prepare(route.auth, route.on_401, freshness, exchange.facts.stays_open) {
            Preparation::Send => Ok(Prepared::with(session, TokenChoice::Send)),
            Preparation::SendWithout => Ok(Prepared::with(session, TokenChoice::Withhold)),
            Preparation::SendAndRenewBehind => {
                if self.parts.tokens.renewable(&session, exchange.facts.now) != Renewable::Never {
                    self.parts.tokens.renew_behind(&session);
                }
                Ok(Prepared::with(session, TokenChoice::Send))
            }
            Preparation::RenewFirst => Box::pin(self.renew_first(exchange, session)).await,
        }
    }

    async fn renew_first(&self, exchange: &Exchange, session: Arc<Session>) -> Result<Prepared, Box<Response<Body>>> {
        let needs_one = exchange.route.auth == policy::Auth::Required;
        let is_still_valid =
            || self.parts.tokens.freshness(&session, self.parts.clock.now()) != policy::Freshness::Expired;
        match self.parts.tokens.renew(&session).await {
            Renewal::Renewed(renewed) => Ok(Prepared::with(renewed, TokenChoice::Send)),
            Renewal::Outage(_) | Renewal::NothingToRenewWith if is_still_valid() => {
                Ok(Prepared::with(session, TokenChoice::Send))
            }
            Renewal::Outage(outage) if needs_one => Err(Box::new(exchange.refuse(&outage.refusal()))),
            Renewal::Outage(_) => Ok(Prepared::with(session, TokenChoice::Withhold)),
            Renewal::Gone if needs_one => Err(Box::new(challenge::login(&self.parts, exchange, Reason::Expired, None))),
            Renewal::NothingToRenewWith | Renewal::Refused if needs_one => {
                Err(Box::new(self.clear_and_login(exchange, &session, None).await))
            }
            Renewal::NothingToRenewWith => Ok(Prepared::with(session, TokenChoice::Withhold)),
            Renewal::Refused | Renewal::Gone => Ok(Prepared { session: None, token: TokenChoice::Send, cleared: true }),
        }
    }

    /// SPEC §5 "After": `first` says "not signed in".
    async fn recover(
        &mut self,
        exchange: &Arc<Exchange>,
        first: Response<Body>,
        sent: Option<Arc<Session>>,
        spare: Option<Spare>,
    ) -> Response<Body> {
        let now = self.parts.clock.now();
        let (sent_use, renewable, current) = match &sent {
            None => (TokenUse::Nothing, Renewable::Never, None),
            Some(sent) => match self.parts.sessions.current(sent, now).await {
                Err(error) => return store_unavailable(exchange, error),
                Ok(None) => (TokenUse::Orphaned, Renewable::Never, None),
                Ok(Some(current)) => {
                    let is_newer = current.tokens.generation > sent.tokens.generation;
                    let is_superseded = is_newer && !current.tokens.unchecked;
                    let sent_use = if is_superseded { TokenUse::Superseded } else { TokenUse::Current };
                    (sent_use, self.parts.tokens.renewable(&current, now), Some(current))
                }
            },
        };
        match (policy::recover(exchange.route.on_401, Attempt::First, sent_use, renewable), current) {
            (Recovery::Relay, _) => first,
            (Recovery::Login(reason), _) => challenge::login(&self.parts, exchange, reason, Some(first)),
            (Recovery::ClearAndLogin, Some(session)) => self.clear_and_login(exchange, &session, Some(first)).await,
            (Recovery::Replay, Some(current)) => self.replay(exchange, first, current, spare).await,
            (Recovery::RefreshAndReplay, Some(current)) => match self.parts.tokens.renew(&current).await {
                Renewal::Renewed(renewed) => self.replay(exchange, first, renewed, spare).await,
                Renewal::Refused | Renewal::NothingToRenewWith => {
                    self.clear_and_login(exchange, &current, Some(first)).await
                }
                Renewal::Gone => challenge::login(&self.parts, exchange, Reason::Expired, Some(first)),
                Renewal::Outage(outage) => exchange.refuse(&outage.refusal()),
            },
            (Recovery::ClearAndLogin | Recovery::Replay | Recovery::RefreshAndReplay, None) => {
                challenge::login(&self.parts, exchange, Reason::Expired, Some(first))
            }
        }
    }

    /// REPLAY, once; a body that could not be kept is the client's to send again, once.
    async fn replay(
        &mut self,
        exchange: &Arc<Exchange>,
        first: Response<Body>,
        session: Arc<Session>,
        spare: Option<Spare>,
    ) -> Response<Body> {
        if spare.as_ref().is_some_and(|spare| matches!(spare.body, SpareBody::Streams)) {
            // Clients of gRPC follow no redirect; a 401 they know, and the next call finds the new token.
            return challenge::login(&self.parts, exchange, Reason::Expired, Some(first));
        }
        let Some(message) = spare.and_then(|spare| spare.into_message(exchange)) else {
            return self.ask_again(exchange, first, &session);
        };
        drop(first);
        let second = self.send(exchange, message, Some(Arc::clone(&session)), TokenChoice::Send).await;
        let refused = is_refused(exchange, &second);
        session.vitals.replayed(refused);
        if !refused {
            return second;
        }
        match policy::recover(exchange.route.on_401, Attempt::Replay, TokenUse::Current, Renewable::NotYet) {
            Recovery::Login(reason) => challenge::login(&self.parts, exchange, reason, Some(second)),
            _ => second,
        }
    }

    fn ask_again(&self, exchange: &Exchange, first: Response<Body>, session: &Session) -> Response<Body> {
        let target = exchange.facts.path.path_and_query().as_str();
        if !session.vitals.may_ask_again(fingerprint(exchange), self.parts.clock.now().mono) {
            return challenge::login(&self.parts, exchange, Reason::Expired, Some(first));
        }
        let mut response = reply::redirect(StatusCode::TEMPORARY_REDIRECT, target);
        response.extensions_mut().insert(Outcome("send_again"));
        response
    }

    /// CLEAR, LOGIN(expired). The store may have forgotten the session already.
    async fn clear_and_login(
        &self,
        exchange: &Exchange,
        session: &Session,
        first: Option<Response<Body>>,
    ) -> Response<Body> {
        if let Err(error) = self.parts.sessions.end(session.key).await {
            return store_unavailable(exchange, error);
        }
        let mut response = challenge::login(&self.parts, exchange, Reason::Expired, first);
        challenge::clear_cookie(&self.parts, exchange, &mut response);
        response
    }

    fn with_cleared_cookie(&self, exchange: &Exchange, mut response: Response<Body>, cleared: bool) -> Response<Body> {
        if cleared {
            challenge::clear_cookie(&self.parts, exchange, &mut response);
        }
        response
    }

    fn keep_a_spare(&self, message: Message) -> (Message, Option<Spare>) {
        let headers = message.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        if message.body.is_end_stream() {
            return (message, Some(Spare { headers, body: SpareBody::Empty }));
        }
        if is_grpc(&message.headers) {
            return (message, Some(Spare { headers, body: SpareBody::Streams }));
        }
        let limits = &self.parts.limits;
        let (body, kept) = replay::keep(message.body, limits.replay_body, &self.parts.replay_budget);
        (Message { body, ..message }, Some(Spare { headers, body: SpareBody::Kept(kept) }))
    }

    /// The call is made at once: the message is not kept by the future.
    fn send(
        &mut self,
        exchange: &Arc<Exchange>,
        message: Message,
        session: Option<Arc<Session>>,
        token: TokenChoice,
    ) -> impl Future<Output = Response<Body>> + use<S> {
        // It may have begun since the request was let in.
        let is_impersonation = session.as_ref().is_some_and(|session| session.impersonation.is_some());
        let lends_token = !matches!(exchange.route.settings.attach, Attach::Assertion(_));
        let token = if is_impersonation && lends_token { TokenChoice::Withhold } else { token };
        self.attempt(Attempted { exchange: Arc::clone(exchange), message, session, client: None, token })
    }

    fn attempt(&mut self, attempted: Attempted) -> impl Future<Output = Response<Body>> + use<S> {
        let answer = self.inner.call(attempted);
        async {
            match answer.await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    }
}

/// What goes upstream first.
struct Prepared {
    session: Option<Arc<Session>>,
    token: TokenChoice,
    /// The session ended while its token was renewed; the request goes on without.
    cleared: bool,
}

impl Prepared {
    fn with(session: Arc<Session>, token: TokenChoice) -> Prepared {
        Prepared { session: Some(session), token, cleared: false }
    }
}

/// What is needed to send the request once more.
struct Spare {
    /// No map yet: hardly any request is sent once more.
    headers: Vec<(HeaderName, HeaderValue)>,
    body: SpareBody,
}

enum SpareBody {
    Empty,
    Kept(Kept),
    /// A call of gRPC, which may stay open for hours: its body is nobody's to keep (SPEC §5).
    Streams,
}

impl Spare {
    fn into_message(self, exchange: &Exchange) -> Option<Message> {
        let body = match self.body {
            SpareBody::Empty => Body::Empty,
            SpareBody::Kept(kept) => kept.replay()?,
            SpareBody::Streams => return None,
        };
        Some(Message { method: exchange.facts.method.clone(), headers: self.headers.into_iter().collect(), body })
    }

    /// It is not needed any more. Answers whether it could have been used.
    fn release(self) -> bool {
        match self.body {
            SpareBody::Empty | SpareBody::Streams => true,
            SpareBody::Kept(kept) => kept.release(),
        }
    }
}

/// Not gRPC-Web, whose requests are whole and come from browsers.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
}

/// Whether the upstream says "not signed in".
fn is_refused(exchange: &Exchange, answer: &Response<Body>) -> bool {
    exchange.route.upstream().is_some_and(|upstream| upstream.settings().unauthorized.matches(answer))
}

/// Tells requests apart that the client is asked to send again.
fn fingerprint(exchange: &Exchange) -> u64 {
    let mut hasher = DefaultHasher::new();
    (exchange.facts.method.as_str(), exchange.facts.path.path_and_query().as_str()).hash(&mut hasher);
    hasher.finish()
}

/// Whoever cannot be looked up is not signed out for it.
fn store_unavailable(exchange: &Exchange, error: StoreError) -> Response<Body> {
    tracing::warn!(reason = error.reason, request = %exchange.facts.id, "a session could not be looked up or ended");
    exchange.refuse(&Refusal::StoreUnavailable)
}

fn unavailable(exchange: &Exchange, retry_after: Duration) -> Response<Body> {
    exchange.refuse(&Refusal::ProviderUnavailable { retry_after: retry_after.as_secs() })
}
