//! What all workers know of an upstream: which servers can be counted on, what is under way, whether it is asked at all.

use super::breaker::{Breaker, Call, Change};
use super::connect::Connector;
use super::health::{Group, Standing};
use super::limits::Gauges;
use super::pool::Pool;
use super::{Failure, ServerAddress, Settings, UpstreamError, checks};
use crate::background::Background;
use crate::body::Body;
use crate::clock::Clock;
use http::{Response, StatusCode};
use std::sync::Arc;

/// One upstream of this process.
pub struct UpstreamState {
    name: String,
    pub(super) servers: Arc<Group>,
    pub(super) gauges: Arc<Gauges>,
    breaker: Option<Breaker>,
    is_plain: bool,
    clock: Clock,
}

/// One server, as an administrator sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerReport<'a> {
    /// Its address.
    pub server: &'a str,
    /// Where it stands.
    pub standing: Standing,
    /// Requests that it works on; None where they are not counted.
    pub in_flight: Option<usize>,
}

impl UpstreamState {
    /// All servers up, nothing under way.
    #[must_use]
    pub fn new(settings: &Settings, clock: &Clock) -> UpstreamState {
        let names = settings.servers.iter().map(|server| server.address.to_string());
        let (ejection, slow_start) = (settings.ejection.clone(), settings.slow_start);
        UpstreamState {
            name: settings.name.clone(),
            servers: Arc::new(Group::new(&settings.name, names, ejection, slow_start, clock)),
            gauges: Arc::new(Gauges::new(settings.limits.clone(), settings.servers.len())),
            breaker: settings.breaker.clone().map(Breaker::new),
            is_plain: settings.is_plain(),
            clock: clock.clone(),
        }
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the breaker refuses requests.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.breaker.as_ref().is_some_and(Breaker::is_open)
    }

    /// Its servers, in file order.
    pub fn report(&self) -> impl Iterator<Item = ServerReport<'_>> {
        self.servers.standings().enumerate().map(|(at, (server, standing))| {
            let in_flight = (!self.is_plain).then(|| self.gauges.in_flight(at));
            ServerReport { server, standing, in_flight }
        })
    }

    /// Starts its checks, if there are to be some.
    pub fn start_checks(&self, settings: &Settings, tls: &Arc<rustls::ClientConfig>, background: &Background) {
        let Some(checks) = &settings.checks else { return };
        for (at, server) in settings.servers.iter().enumerate().filter(|(_, it)| it.address != ServerAddress::Demo) {
            let address = server.address.clone();
            let (connection, tls, clock, timeout) =
                (settings.connection.clone(), Arc::clone(tls), self.clock.clone(), checks.timeout);
            let way_to_it = move || {
                let connector = Connector::new(&address, &connection, &tls, &clock);
                Pool::new(connector, timeout, &connection, clock.clone())
            };
            let (address, group) = (server.address.clone(), Arc::clone(&self.servers));
            background.run_forever(checks::run(checks.clone(), address, way_to_it, at, group));
        }
    }

    /// Asks the breaker, if there is one.
    pub(super) fn admit(&self) -> Result<Option<Call<'_>>, UpstreamError> {
        let Some(breaker) = &self.breaker else { return Ok(None) };
        match breaker.admit(self.clock.mono()) {
            Ok(call) => Ok(Some(call)),
            Err(retry_after) => Err(UpstreamError::Overloaded { retry_after }),
        }
    }

    /// Notes what server `at` made of a request.
    ///
    /// | it | its failures in a row |
    /// |---|---|
    /// | answered, with none of `ejection.status` | none any more |
    /// | answered with one of them, broke off, could not be reached, did not answer in time | one more |
    /// | failed with the client's body, or while that was what was missing | as they were |
    pub(super) fn note(&self, at: usize, outcome: &Result<Response<Body>, Failure>) {
        match outcome {
            Ok(response) if self.servers.counts(response.status()) => self.servers.failed(at),
            Ok(_) => self.servers.answered(at),
            Err(failure) if failure.is_the_servers() => self.servers.failed(at),
            Err(_) => {}
        }
    }

    /// The verdict on a call that the breaker admitted, by the same table with `breaker.status`.
    pub(super) fn ended(&self, call: Call<'_>, outcome: &Result<Response<Body>, Failure>) {
        let failed = match outcome {
            Ok(response) => self.breaker_counts(response.status()),
            Err(failure) if failure.is_the_servers() => true,
            Err(_) => return,
        };
        match call.ended(failed, self.clock.mono()) {
            Some(Change::Opened) => {
                tracing::warn!(target: LOG, upstream = self.name, "the breaker is open: too many answers failed")
            }
            Some(Change::Closed) => tracing::info!(target: LOG, upstream = self.name, "the breaker is closed"),
            None => {}
        }
    }

    fn breaker_counts(&self, status: StatusCode) -> bool {
        self.breaker.as_ref().is_some_and(|breaker| breaker.counts(status))
    }
}

impl Failure {
    /// Whether it says something about the server.
    fn is_the_servers(&self) -> bool {
        match self.error {
            UpstreamError::Connect(_) | UpstreamError::Broken(_) => true,
            UpstreamError::Timeout => !self.awaits_client,
            UpstreamError::RequestBody(_) | UpstreamError::Overloaded { .. } => false,
        }
    }
}

const LOG: &str = "latchgate::upstream";
