//! The single flight. In the map of flights there is at most one for each session; who finds one
//! waits for it, who finds none starts it. The map entry goes when the result is stored and before
//! it is announced, so whoever comes later finds the new generation in the store.

use super::{FlightKey, Landing, Renewal, Shared, token_set};
use crate::provider::{Provider, RefreshError, Renewed, TokenResponse};
use crate::session::{Session, TokenSet, Update};
use dashmap::mapref::entry::Entry;
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Waits for a state of the session that is newer than `seen`.
pub(super) async fn join(shared: &Arc<Shared>, seen: &Session) -> Renewal {
    let mut landing = start(shared, seen);
    // A flight that waits its turn at a busy provider goes on without those who gave up.
    let patience = shared.settings.timeout.saturating_mul(2);
    match timeout(patience, landing.wait_for(Option::is_some)).await {
        Ok(Ok(result)) => result.clone().unwrap_or(LATER),
        // The sender goes without a word only if the flight panicked.
        Ok(Err(_)) | Err(_) => LATER,
    }
}

/// The flight for this session, started unless there is one.
pub(super) fn start(shared: &Arc<Shared>, seen: &Session) -> Landing {
    let key = FlightKey { session: seen.key };
    match shared.flights.entry(key) {
        Entry::Occupied(flight) => flight.get().clone(),
        Entry::Vacant(place) => {
            let (announce, landing) = watch::channel(None);
            place.insert(landing.clone());
            let seen = seen.clone();
            let flight = Flight { shared: Arc::clone(shared), key, seen_generation: seen.tokens.generation };
            shared.background.run(async move {
                let result = flight.fly(&seen).await;
                drop(flight);
                announce.send_replace(Some(result));
            });
            landing
        }
    }
}

struct Flight {
    shared: Arc<Shared>,
    key: FlightKey,
    seen_generation: u64,
}

/// Frees the place, also when the flight panics.
impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.flights.remove(&self.key);
    }
}

impl Flight {
    async fn fly(&self, seen: &Session) -> Renewal {
        let session = match self.shared.sessions.current(seen, self.shared.clock.now()).await {
            Ok(Some(session)) => session,
            Ok(None) => return Renewal::Gone,
            Err(_) => return LATER,
        };
        if session.tokens.generation > self.seen_generation {
            return Renewal::Renewed(session);
        }
        let Some(refresh_token) = &session.tokens.refresh_token else {
            return Renewal::NothingToRenewWith;
        };
        let Some(provider) = self.shared.providers.get(&session.provider) else {
            return LATER;
        };
        match provider.refresh(refresh_token, &session.identity.subject).await {
            Ok(renewed) => self.store(provider, &session, renewed).await,
            Err(error) => self.give_up(&session, &error).await,
        }
    }

    /// Stores before anyone replays. A session that ended meanwhile stays ended, and what the
    /// provider gave for it is given back.
    async fn store(&self, provider: &Arc<Provider>, session: &Session, renewed: Renewed) -> Renewal {
        let now = self.shared.clock.now();
        let fresh_refresh_token = renewed.tokens.refresh_token.clone();
        let generation = session.tokens.generation + 1;
        let claims = renewed.claims_after(&session.identity.claims);
        let tokens = with_what_was_not_replaced(renewed.tokens, &session.tokens);
        let Some(tokens) = token_set(tokens, generation, now) else {
            tracing::error!(target: "latchgate::audit", provider = provider.name(), session = %self.key.session, "refresh brought an access token that cannot stand in a header");
            return LATER;
        };
        let tokens = Arc::new(tokens);
        let update = move |session: &Session| Some(session.renewed(Arc::clone(&tokens), claims.clone()));
        match self.shared.sessions.update(session, update).await {
            Ok(Update::Stored(session) | Update::Declined(session)) => {
                tracing::info!(target: "latchgate::audit", event = "refresh", provider = provider.name(), session = %session.key, generation, "token refreshed");
                Renewal::Renewed(session)
            }
            Err(_) => LATER,
            Ok(Update::Ended) => {
                tracing::info!(target: "latchgate::audit", event = "refresh", provider = provider.name(), session = %self.key.session, "session ended during its refresh");
                if let Some(token) = fresh_refresh_token {
                    self.give_back(provider, token);
                }
                Renewal::Gone
            }
        }
    }

    async fn give_up(&self, session: &Session, error: &RefreshError) -> Renewal {
        match error {
            RefreshError::Refused { reason } => {
                let _ = self.shared.sessions.end(session.key).await;
                tracing::info!(target: "latchgate::audit", event = "refresh_refused", provider = %session.provider, session = %session.key, reason, "the provider refused to refresh; the session has ended");
                Renewal::Refused
            }
            RefreshError::OtherSubject => {
                let _ = self.shared.sessions.end(session.key).await;
                tracing::warn!(target: "latchgate::audit", event = "refresh_other_subject", provider = %session.provider, session = %session.key, "a refresh brought another user; the session has ended");
                Renewal::Refused
            }
            RefreshError::Misconfigured { reason } => {
                tracing::error!(target: "latchgate::audit", event = "refresh_misconfigured", provider = %session.provider, reason, "the provider does not accept this client; sessions are kept");
                LATER
            }
            RefreshError::Unavailable { reason, retry_after } => {
                tracing::warn!(target: "latchgate::audit", event = "refresh_failed", provider = %session.provider, session = %session.key, reason, "the provider could not refresh for now; the session is kept");
                Renewal::Unavailable { retry_after: retry_after.unwrap_or(RETRY_AFTER) }
            }
        }
    }

    fn give_back(&self, provider: &Arc<Provider>, token: SecretString) {
        let provider = Arc::clone(provider);
        self.shared.background.run(async move {
            // Best effort: the provider forgets it in time.
            let _ = provider.revoke(&token).await;
        });
    }
}

/// RFC 6749 §6: without a new refresh token the old one stays; so do the ID token and the scope.
fn with_what_was_not_replaced(answer: TokenResponse, previous: &TokenSet) -> TokenResponse {
    TokenResponse {
        refresh_token: answer.refresh_token.or_else(|| previous.refresh_token.clone()),
        id_token: answer.id_token.or_else(|| previous.id_token.clone()),
        scope: answer.scope.or_else(|| previous.scope.clone()),
        ..answer
    }
}

const RETRY_AFTER: Duration = Duration::from_secs(5);
const LATER: Renewal = Renewal::Unavailable { retry_after: RETRY_AFTER };
