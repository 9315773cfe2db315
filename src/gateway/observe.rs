//! Step 1: an id for the request and one line about it; a panic below becomes a 500 that touches
//! nobody else.

use super::intake::Taken;
use super::survey::RequestSurvey;
use super::{Arrival, Numbered, Parts, Step};
use crate::body::Body;
use crate::clock::{Clock, Mono};
use crate::facts::RequestId;
use crate::policy::Client;
use crate::reply::{self, Asker, Outcome, Refusal};
use http::{HeaderValue, Method, Response, header};
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tower::Service;

#[derive(Clone)]
pub struct Observe<S> {
    parts: Arc<Parts>,
    inner: S,
}

impl<S> Observe<S> {
    pub fn new(parts: &Arc<Parts>, inner: S) -> Observe<S> {
        Observe { parts: Arc::clone(parts), inner }
    }
}

impl<S> Service<Arrival> for Observe<S>
where
    S: Step<Numbered>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Observed<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, arrival: Arrival) -> Self::Future {
        let survey = RequestSurvey::of(arrival.request.headers());
        let id = if survey.request_id { RequestId::of(arrival.request.headers()) } else { RequestId::random() };
        let client = survey.client(arrival.request.method());
        let line = Line {
            id: id.clone(),
            client,
            https: self.parts.external_url.scheme() == "https",
            access: is_wanted().then(|| Access::of(&arrival, &self.parts.clock)),
        };
        let inner = catch_unwind(AssertUnwindSafe(|| self.inner.call(Numbered { arrival, survey, id, client }))).ok();
        Observed { inner, line }
    }
}

/// Whether anyone reads access lines.
pub fn is_wanted() -> bool {
    tracing::enabled!(target: "latchgate::access", tracing::Level::INFO)
}

/// What is needed to write about a request when it is gone.
struct Line {
    id: RequestId,
    client: Client,
    https: bool,
    access: Option<Access>,
}

struct Access {
    method: Method,
    path: String,
    peer: Option<IpAddr>,
    began: Mono,
    clock: Clock,
}

impl Access {
    /// The query is left out: codes and keys travel in it.
    fn of(arrival: &Arrival, clock: &Clock) -> Access {
        Access {
            method: arrival.request.method().clone(),
            path: arrival.request.uri().path().to_owned(),
            peer: arrival.peer.address,
            began: clock.mono(),
            clock: clock.clone(),
        }
    }
}

impl Line {
    fn write(&self, response: &Response<Body>) {
        let Some(access) = &self.access else { return };
        let intake = response.extensions().get::<Taken>();
        let outcome = response.extensions().get::<Outcome>().map_or("relayed", |outcome| outcome.0);
        tracing::info!(
            target: "latchgate::access",
            request = %self.id,
            method = %access.method,
            path = ?access.path,
            route = intake.map(|intake| tracing::field::display(&intake.route)),
            status = response.status().as_u16(),
            outcome,
            client = intake.map_or(access.peer, |intake| intake.client).map(tracing::field::display),
            millis = access.clock.mono().since(access.began).as_millis() as u64,
            "request"
        );
    }
}

pin_project_lite::pin_project! {
    /// The answer, watched.
    pub struct Observed<F> {
        #[pin]
        inner: Option<F>,
        line: Line,
    }
}

impl<F> Future for Observed<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = match this.inner.as_pin_mut() {
            Some(inner) => catch_unwind(AssertUnwindSafe(|| inner.poll(cx))).ok(),
            None => None,
        };
        let mut outcome = match polled {
            Some(poll) => ready!(poll),
            None => {
                tracing::error!(request = %this.line.id, "a request ended in a panic");
                Ok(reply::refuse(Asker { id: &this.line.id, client: this.line.client }, &Refusal::Internal))
            }
        };
        if let Ok(response) = &mut outcome {
            if this.line.https && response.extensions().get::<Outcome>().is_some() {
                // Ours alone: for the rest of the site its upstreams decide.
                response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
            }
            this.line.write(response);
        }
        Poll::Ready(outcome)
    }
}

/// A year (RFC 6797 §6.1.1).
const HSTS: &str = "max-age=31536000";
