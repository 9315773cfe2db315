//! Tokens of the gateway's own (RFC 6749 §4.4), for routes with `attach = { client_credentials = … }`.
//!
//! Each [`ClientCredentials`] has one token at a time, whoever asks. What a request finds:
//!
//! | the token is | the request | the provider |
//! |---|---|---|
//! | fresh, or of unknown life | goes out with it | – |
//! | inside `refresh.early` | goes out with it | is asked behind it |
//! | expired, or there is none | waits | is asked |
//!
//! The provider is asked in an owned task, by one for all who wait. After a failure nobody asks for a while, and for longer after
//! each further one; whoever needs a token meanwhile learns what the last call came to.

use super::single_flight::{Boarding, Flights, Seat};
use super::{Settings, freshness, guard, token_set};
use crate::background::Background;
use crate::clock::{Clock, Now};
use crate::policy::{Freshness, Renewable};
use crate::provider::{Breaker, Provider, ProviderError, random_fraction};
use crate::session::TokenSet;
use dashmap::DashMap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// Which token: `client_credentials`, checked. Routes that say the same share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCredentials {
    /// `provider`
    pub provider: Arc<str>,
    /// `audience`
    pub audience: Option<String>,
    /// `scope`: one or several, with spaces between.
    pub scope: Option<String>,
}

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unobtainable {
    /// The provider does not answer.
    Unavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// The provider answers, and gives none: to this client, for this audience or scope. A person has to see to it.
    Refused,
}

/// All of them.
pub struct MachineTokens {
    shared: Arc<Shared>,
}

/// What a flight takes along.
struct Shared {
    settings: Settings,
    providers: HashMap<Arc<str>, Arc<Provider>>,
    clock: Clock,
    background: Background,
    flights: Arc<Flights<ClientCredentials, Outcome>>,
    /// As many as the configuration names.
    held: DashMap<ClientCredentials, Arc<Held>>,
}

type Outcome = Result<Arc<TokenSet>, Unobtainable>;

/// What there is for one [`ClientCredentials`].
struct Held {
    breaker: Breaker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<TokenSet>>,
    /// What the last call came to, if it brought none.
    failure: Option<Unobtainable>,
    /// Tokens in a row that replaced a refused one and were refused as well.
    refusals: u32,
}

impl MachineTokens {
    pub(super) fn new(
        settings: Settings,
        providers: HashMap<Arc<str>, Arc<Provider>>,
        clock: Clock,
        background: Background,
    ) -> MachineTokens {
        let (flights, held) = (Flights::new(super::MOST_WAITERS), DashMap::new());
        MachineTokens { shared: Arc::new(Shared { settings, providers, clock, background, flights, held }) }
    }

    /// A token that is fit to be sent.
    ///
    /// # Errors
    /// There is none, and none is to be had now.
    pub async fn current(&self, which: &ClientCredentials) -> Result<Arc<TokenSet>, Unobtainable> {
        let held = self.shared.held(which);
        let Some(token) = held.token() else { return self.successor(which, held, 0).await };
        match freshness(&token, &self.shared.settings, self.shared.clock.now()) {
            Freshness::Fresh => Ok(token),
            Freshness::Ageing => {
                drop(self.start(which, held, token.generation));
                Ok(token)
            }
            Freshness::Expired => self.successor(which, held, token.generation).await,
        }
    }

    /// Whether another token than `refused` could help: not when it is itself as good as new, for `refresh.cooldown` and twice as
    /// long for each further one that is refused.
    #[must_use]
    pub fn renewable(&self, which: &ClientCredentials, refused: &TokenSet, now: Now) -> Renewable {
        let held = self.shared.held(which);
        let state = held.state();
        let is_newest = state.token.as_ref().is_none_or(|token| token.generation == refused.generation);
        let is_young = now.mono.since(refused.obtained) < guard(self.shared.settings.cooldown, state.refusals);
        if is_newest && is_young { Renewable::NotYet } else { Renewable::Yes }
    }

    /// A token in place of `refused`: the one that has replaced it already, or a new one.
    ///
    /// # Errors
    /// As for [`MachineTokens::current`].
    pub async fn renew(&self, which: &ClientCredentials, refused: &TokenSet) -> Result<Arc<TokenSet>, Unobtainable> {
        let held = self.shared.held(which);
        self.successor(which, held, refused.generation).await
    }

    /// How the request went that was sent again with a renewed token.
    pub fn replayed(&self, which: &ClientCredentials, refused: bool) {
        let held = self.shared.held(which);
        let mut state = held.state();
        state.refusals = if refused { state.refusals.saturating_add(1) } else { 0 };
    }

    /// A newer token than generation `seen`.
    async fn successor(&self, which: &ClientCredentials, held: Arc<Held>, seen: u64) -> Outcome {
        let Some(seat) = self.start(which, held, seen) else { return Err(LATER) };
        match timeout(self.shared.settings.timeout.saturating_mul(2), seat.landed()).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Err(LATER),
        }
    }

    /// A seat in the flight that asks the provider, which is started unless it is under way. None when all are taken.
    fn start(&self, which: &ClientCredentials, held: Arc<Held>, seen: u64) -> Option<Seat<Outcome>> {
        let Boarding { seat, pilot } = self.shared.flights.board(which.clone()).ok()?;
        if let Some(pilot) = pilot {
            let shared = Arc::clone(&self.shared);
            let which = which.clone();
            self.shared.background.run(async move { pilot.land(shared.fly(&which, &held, seen).await) });
        }
        Some(seat)
    }
}

impl Shared {
    fn held(&self, which: &ClientCredentials) -> Arc<Held> {
        if let Some(held) = self.held.get(which) {
            return Arc::clone(&held);
        }
        let new = || Arc::new(Held { breaker: Breaker::new(1, LONGEST_PAUSE), state: Mutex::default() });
        Arc::clone(&self.held.entry(which.clone()).or_insert_with(new))
    }

    async fn fly(&self, which: &ClientCredentials, held: &Held, seen: u64) -> Outcome {
        if let Some(token) = held.token().filter(|token| token.generation > seen) {
            return Ok(token);
        }
        if let Err(wait) = held.breaker.admit(self.clock.mono(), self.settings.timeout) {
            return Err(held.failure_during(wait));
        }
        match self.call(which, seen + 1).await {
            Ok(token) => {
                let token = Arc::new(token);
                held.breaker.succeeded();
                let mut state = held.state();
                (state.token, state.failure) = (Some(Arc::clone(&token)), None);
                Ok(token)
            }
            Err(error) => {
                held.breaker.failed(self.clock.mono(), error.retry_after(), random_fraction());
                let failure = meaning(&error);
                held.state().failure = Some(failure);
                report(which, &error, failure);
                Err(failure)
            }
        }
    }

    async fn call(&self, which: &ClientCredentials, generation: u64) -> Result<TokenSet, ProviderError> {
        let provider = self.providers.get(&which.provider).ok_or(NO_PROVIDER)?;
        let answer = provider.client_credentials(which.audience.as_deref(), which.scope.as_deref()).await?;
        token_set(answer, generation, self.clock.now()).ok_or(NO_TOKEN)
    }
}

impl Held {
    fn token(&self) -> Option<Arc<TokenSet>> {
        self.state().token.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last call came to, while nobody asks for another `wait`.
    fn failure_during(&self, wait: Duration) -> Unobtainable {
        match self.state().failure {
            Some(Unobtainable::Refused) => Unobtainable::Refused,
            Some(Unobtainable::Unavailable { .. }) | None => Unobtainable::Unavailable { retry_after: wait },
        }
    }
}

fn meaning(error: &ProviderError) -> Unobtainable {
    match error {
        ProviderError::Unavailable { retry_after, .. } => {
            Unobtainable::Unavailable { retry_after: retry_after.unwrap_or(RETRY_AFTER) }
        }
        ProviderError::Refused { .. } | ProviderError::Invalid { .. } | ProviderError::Misconfigured { .. } => {
            Unobtainable::Refused
        }
    }
}

fn report(which: &ClientCredentials, error: &ProviderError, failure: Unobtainable) {
    let ClientCredentials { provider, audience, scope } = which;
    let (audience, scope) = (audience.as_deref().unwrap_or_default(), scope.as_deref().unwrap_or_default());
    let reason = error.reason();
    match failure {
        Unobtainable::Refused => {
            tracing::error!(%provider, audience, scope, reason, "the provider gives the gateway no token of its own");
        }
        Unobtainable::Unavailable { .. } => {
            tracing::warn!(%provider, audience, scope, reason, "no token of the gateway's own for now");
        }
    }
}

const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// When a provider does not say.
const RETRY_AFTER: Duration = Duration::from_secs(5);
const LATER: Unobtainable = Unobtainable::Unavailable { retry_after: RETRY_AFTER };
/// Configuration has made sure that there is one.
const NO_PROVIDER: ProviderError = ProviderError::Misconfigured { reason: "no_provider" };
const NO_TOKEN: ProviderError = ProviderError::Refused { reason: "no_access_token" };
