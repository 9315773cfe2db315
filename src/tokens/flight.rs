//! The refresh, step by step. There is one flight for each generation of a session in this process, and one lease on
//! it among all gateways that share the store; the record's version has the last word.
//!
//! 1. Is there a newer state than the one that was seen? Then somebody else has done it.
//! 2. Our turn at the provider, then the lease. Whoever does not get it looks again until the winner's result shows.
//! 3. The store once more, by now under the lease: is it still the generation that was seen?
//! 4. Is the lease still ours? A process that was stopped meanwhile starts over.
//! 5. The call. An answer that needs the network to be checked is stored first, marked; whoever finds it so checks it.
//! 6. Compare and swap, in the place of the generation that was sent and of no other. What cannot be stored is kept
//!    here, and tried again.
//! 7. Whoever waits is told.

use super::lease::{self, Held};
use super::single_flight::{Boarding, Pilot, Seat};
use super::{FlightKey, Outage, Renewal, Shared, token_set};
use crate::clock::{Mono, Now};
use crate::fault;
use crate::provider::{Provider, RefreshError, Renewed, TokenResponse};
use crate::session::store::StoreError;
use crate::session::{Session, TokenSet, Update};
use secrecy::ExposeSecret;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Waits for a state of the session that is newer than `seen`.
pub(super) async fn join(shared: &Arc<Shared>, seen: &Session) -> Renewal {
    let Some(seat) = start(shared, seen) else { return LATER };
    // A flight that waits for its turn keeps its place in the queue without those who gave up; when they ask again
    // they find it further on.
    match timeout(patience(shared), seat.landed()).await {
        Ok(Some(renewal)) => renewal,
        Ok(None) => Renewal::Outage(Outage::Broken),
        Err(_) => LATER,
    }
}

/// A seat in the flight for this generation, which is started unless it is under way. None when all are taken.
pub(super) fn start(shared: &Arc<Shared>, seen: &Session) -> Option<Seat<Renewal>> {
    let key = FlightKey::of(seen);
    let Boarding { seat, pilot } = shared.flights.board(key).ok()?;
    if let Some(pilot) = pilot {
        let flight = Flight { shared: Arc::clone(shared), seen: seen.clone(), started: shared.clock.mono() };
        shared.background.run(flight.fly(pilot));
    }
    Some(seat)
}

/// How many bytes a flight takes that waits its turn.
#[cfg(test)]
pub(super) fn size_of_one(shared: &Arc<Shared>, seen: &Session) -> usize {
    let key = FlightKey::of(seen);
    let pilot = shared.flights.board(key).ok().and_then(|boarding| boarding.pilot);
    let flight = Flight { shared: Arc::clone(shared), seen: seen.clone(), started: shared.clock.mono() };
    pilot.map_or(0, |pilot| size_of_val(&flight.fly(pilot)))
}

/// How long anyone waits: for the provider's answer, after somebody else's.
fn patience(shared: &Shared) -> Duration {
    shared.settings.timeout.saturating_mul(2)
}

struct Flight {
    shared: Arc<Shared>,
    /// To be replaced.
    seen: Session,
    started: Mono,
}

/// How a flight ends.
struct Landed {
    renewal: Renewal,
    /// What still has to be stored, and the lease that keeps others from spending the spent token again.
    unwritten: Option<(Unwritten, Held)>,
}

/// Why a round came to nothing.
enum Setback {
    /// Somebody else is at it, or was while we slept: look again.
    NotOurs,
    /// There is nothing to be done, or it cannot be done now.
    Landed(Renewal),
}

/// What the provider said.
struct Answer {
    tokens: TokenResponse,
    /// The one it begins.
    generation: u64,
    came: Now,
}

/// Whether an answer has been checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Unchecked,
    Checked,
}

/// What a refresh brought, on its way to the store.
struct Successor {
    provider: Arc<Provider>,
    /// The state that was sent, or the same answer before it was checked.
    from: Arc<Session>,
    tokens: Arc<TokenSet>,
    renewed: Renewed,
}

/// What became of a [`Successor`].
enum Stored {
    /// It is the newest state.
    Newest(Arc<Session>),
    /// It came too late: this is newer.
    Superseded(Arc<Session>),
    Ended,
}

impl Flight {
    async fn fly(self, pilot: Pilot<FlightKey, Renewal>) {
        let landed = self.rounds().await;
        fault::point("before_waiters_wake").await;
        pilot.land(landed.renewal);
        if let Some((unwritten, lease)) = landed.unwritten {
            self.store_later(unwritten, lease).await;
        }
    }

    /// Until there is a result, or the lease stays somebody else's for too long.
    async fn rounds(&self) -> Landed {
        let mut waiting_since = None;
        loop {
            match self.round(waiting_since.is_some()).await {
                Ok(landed) => return landed,
                Err(Setback::Landed(renewal)) => return renewal.into(),
                Err(Setback::NotOurs) => {}
            }
            let now = self.shared.clock.mono();
            if now.since(*waiting_since.get_or_insert(now)) >= patience(&self.shared) {
                self.report("refresh_failed", "lease_held");
                return LATER.into();
            }
            sleep(Duration::from_millis(fastrand::u64(WAIT_MILLIS))).await;
        }
    }

    async fn round(&self, again: bool) -> Result<Landed, Setback> {
        let session = self.look(again).await?;
        let provider = self.shared.providers.get(&session.provider).ok_or_else(|| {
            self.report("refresh_failed", "provider_unknown");
            Setback::Landed(LATER)
        })?;
        let turn = provider.turn().await.map_err(|error| Setback::Landed(self.for_now(&error)))?;
        fault::point("before_lease").await;
        let leased = lease::lease(&self.shared, &session).await.map_err(|error| self.without_store(error))?;
        let mut lease = leased.ok_or(Setback::NotOurs)?;
        fault::point("after_lease").await;
        let session = self.look(true).await?;
        if session.tokens.unchecked {
            return Ok(self.land(provider, &session, Answer::stored(&session, self.shared.clock.now()), lease).await);
        }
        let Some(refresh_token) = &session.tokens.refresh_token else {
            return Err(Setback::Landed(Renewal::NothingToRenewWith));
        };
        if !lease.is_ours() {
            return Err(Setback::NotOurs);
        }
        lease.is_resolved = false;
        let mut answer = provider.exchange(&turn, refresh_token).await;
        if answer.as_ref().is_err_and(|error| *error == RefreshError::ConnectionLost)
            && !lease.was_interrupted
            && self.look(true).await.is_ok_and(|newest| newest.version == session.version)
            && lease.is_ours()
        {
            self.report("refresh_resent", "connection_lost");
            answer = provider.exchange(&turn, refresh_token).await;
        }
        drop(turn);
        Ok(match answer {
            Ok(tokens) => {
                let answer =
                    Answer { tokens, generation: session.tokens.generation + 1, came: self.shared.clock.now() };
                self.land(provider, &session, answer, lease).await
            }
            Err(error) => self.give_up(&error, lease).await.into(),
        })
    }

    /// The newest state, if there is something to be done about it.
    async fn look(&self, ask_the_store: bool) -> Result<Arc<Session>, Setback> {
        let (sessions, now) = (&self.shared.sessions, self.shared.clock.now());
        let seen = self.seen.tokens.generation;
        if let Some(unwritten) = self.shared.unwritten.get(&self.seen.key).map(|state| Arc::clone(&state)) {
            let is_newer = unwritten.tokens.generation > seen;
            return Err(if is_newer { Setback::Landed(Renewal::Renewed(unwritten)) } else { Setback::NotOurs });
        }
        let found = match ask_the_store {
            true => sessions.newest(&self.seen, now).await,
            false => sessions.current(&self.seen, now).await,
        };
        let newest = found.map_err(|error| self.without_store(error))?;
        let session = newest.ok_or(Setback::Landed(Renewal::Gone))?;
        match &session.tokens {
            // It was seen here before it was stored, and then it never was.
            tokens if tokens.generation < seen => Err(Setback::NotOurs),
            tokens if tokens.unchecked => Ok(session),
            tokens if tokens.generation > seen || self.seen.tokens.unchecked => {
                Err(Setback::Landed(Renewal::Renewed(session)))
            }
            tokens if tokens.refresh_token.is_none() => Err(Setback::Landed(Renewal::NothingToRenewWith)),
            _ => Ok(session),
        }
    }

    /// The answer came, or was found. It is stored before anyone replays, and before anything that could take long.
    async fn land(&self, provider: &Arc<Provider>, session: &Arc<Session>, answer: Answer, lease: Held) -> Landed {
        let mut check = pin!(provider.check_renewal(
            answer.tokens.clone(),
            &session.owner().subject,
            session.tokens.id_token.as_ref()
        ));
        let checked = match at_once(check.as_mut()).await {
            Some(checked) => checked,
            None => {
                if self.shared.sessions.store().is_durable() && !session.tokens.unchecked {
                    let unchanged = Renewed { tokens: answer.tokens.clone(), claims: None, replaces_all: false };
                    if let Some(early) = Successor::new(provider, session, &answer, unchanged, Trust::Unchecked) {
                        // If this does not work, the checked answer is tried again, and again.
                        let _ = self.put(&Arc::new(early)).await;
                    }
                }
                check.await
            }
        };
        let renewed = match checked {
            Ok(renewed) => renewed,
            Err(error) => {
                let renewal = self.end(&error, lease).await;
                if let Renewal::Refused = renewal
                    && answer.tokens.refresh_token.is_some()
                {
                    self.give_back(provider, answer.tokens);
                }
                return renewal.into();
            }
        };
        match Successor::new(provider, session, &answer, renewed, Trust::Checked) {
            Some(successor) => self.store(Arc::new(successor), lease).await,
            None => {
                self.report("refresh_failed", "access_token_unsendable");
                LATER.into()
            }
        }
    }

    async fn store(&self, successor: Arc<Successor>, mut lease: Held) -> Landed {
        fault::point("before_write").await;
        let stored = self.put(&successor).await;
        fault::point("after_write").await;
        match stored {
            Ok(stored) => {
                lease.is_resolved = true;
                self.stored(&successor, stored).into()
            }
            Err(error) => {
                self.report("refresh_unwritten", error.reason);
                let (unwritten, state) = Unwritten::new(&self.shared, successor);
                Landed { renewal: Renewal::Renewed(state), unwritten: Some((unwritten, lease)) }
            }
        }
    }

    /// The provider has forgotten the old token, and the new one is here alone: it is tried until the store is back,
    /// or nobody would wait for it any more.
    async fn store_later(&self, unwritten: Unwritten, mut lease: Held) {
        let since = self.shared.clock.mono();
        while self.shared.clock.mono().since(since) < KEEP_TRYING {
            sleep(Duration::from_millis(fastrand::u64(WAIT_MILLIS))).await;
            if let Ok(stored) = self.put(&unwritten.successor).await {
                lease.is_resolved = true;
                self.stored(&unwritten.successor, stored);
                return;
            }
        }
        self.report("refresh_lost", "store_unavailable");
    }

    async fn put(&self, successor: &Arc<Successor>) -> Result<Stored, StoreError> {
        let next = Arc::clone(successor);
        let update = self.shared.sessions.update(&successor.from, move |base| next.after(base)).await?;
        Ok(match update {
            Update::Stored(session) => Stored::Newest(session),
            // A write that seemed to fail had worked.
            Update::Declined(session) if successor.is(&session.tokens) && !session.tokens.unchecked => {
                Stored::Newest(session)
            }
            Update::Declined(session) => Stored::Superseded(session),
            Update::Ended => Stored::Ended,
        })
    }

    /// A session that ended meanwhile stays ended, a newer state stays the newest; what the provider gave for it is
    /// given back.
    fn stored(&self, successor: &Successor, stored: Stored) -> Renewal {
        let tokens = &successor.renewed.tokens;
        let is_useless = |kept: Option<&TokenSet>| {
            // A provider that does not rotate gives the same one again.
            let kept = kept.and_then(|kept| kept.refresh_token.as_ref()).map(ExposeSecret::expose_secret);
            tokens.refresh_token.as_ref().is_some_and(|token| kept != Some(token.expose_secret()))
        };
        match stored {
            Stored::Newest(session) => {
                self.report("refresh", "refreshed");
                Renewal::Renewed(session)
            }
            Stored::Superseded(newest) => {
                self.report("refresh_superseded", "newer_generation_stored");
                if is_useless(Some(&newest.tokens)) {
                    self.give_back(&successor.provider, tokens.clone());
                }
                if newest.tokens.unchecked { LATER } else { Renewal::Renewed(newest) }
            }
            Stored::Ended => {
                self.report("refresh_superseded", "session_ended");
                if is_useless(None) {
                    self.give_back(&successor.provider, tokens.clone());
                }
                Renewal::Gone
            }
        }
    }

    async fn give_up(&self, error: &RefreshError, mut lease: Held) -> Renewal {
        lease.is_resolved = !error.is_outcome_unknown();
        match error {
            RefreshError::Refused { reason } => match self.look(true).await {
                // Somebody else may have been faster, with this token.
                Err(Setback::Landed(renewal @ (Renewal::Renewed(_) | Renewal::Gone))) => {
                    self.report("refresh_superseded", reason);
                    renewal
                }
                Err(Setback::Landed(renewal)) => renewal,
                Ok(newest) if newest.tokens.generation == self.seen.tokens.generation => self.end(error, lease).await,
                Ok(_) | Err(Setback::NotOurs) => self.for_now(error),
            },
            RefreshError::OtherSubject => self.end(error, lease).await,
            RefreshError::Misconfigured { .. }
            | RefreshError::Unavailable { .. }
            | RefreshError::ConnectionLost
            | RefreshError::Unanswered { .. } => self.for_now(error),
        }
    }

    /// Ends the session, unless the lease is lost: then somebody else may know better.
    async fn end(&self, error: &RefreshError, lease: Held) -> Renewal {
        if !lease.is_ours() {
            self.report("refresh_failed", "lease_lost");
            return LATER;
        }
        match self.shared.sessions.end(self.seen.key).await {
            Ok(_) => {
                self.report(
                    match error {
                        RefreshError::OtherSubject => "refresh_other_subject",
                        // An earlier holder of the lease may have had the answer, and died with it.
                        _ if lease.was_interrupted => "refresh_lost",
                        _ => "refresh_refused",
                    },
                    error.reason(),
                );
                Renewal::Refused
            }
            Err(error) => {
                self.report("refresh_failed", error.reason);
                Renewal::Outage(Outage::Store)
            }
        }
    }

    fn for_now(&self, error: &RefreshError) -> Renewal {
        self.report("refresh_failed", error.reason());
        Renewal::Outage(Outage::Provider { retry_after: error.retry_after().unwrap_or(RETRY_AFTER) })
    }

    fn without_store(&self, error: StoreError) -> Setback {
        self.report("refresh_failed", error.reason);
        Setback::Landed(Renewal::Outage(Outage::Store))
    }

    /// Revokes what nobody will use.
    fn give_back(&self, provider: &Arc<Provider>, tokens: TokenResponse) {
        let provider = Arc::clone(provider);
        self.shared.background.run(async move {
            // Best effort: the provider forgets them in time.
            let _ = provider.revoke(&tokens.access_token, tokens.refresh_token.as_ref()).await;
        });
    }

    /// One line for each outcome.
    fn report(&self, event: &'static str, reason: &'static str) {
        let latency = self.shared.clock.mono().since(self.started);
        let (session, generation) = (self.seen.key, self.seen.tokens.generation);
        let latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(target: "latchgate::audit", event, reason, provider = %self.seen.provider, %session, generation, latency_ms);
    }
}

impl Answer {
    /// That somebody got and stored, and did not live to check.
    fn stored(session: &Session, now: Now) -> Answer {
        let tokens = TokenResponse {
            access_token: session.tokens.access_token.clone(),
            expires_in: session.tokens.life,
            refresh_token: session.tokens.refresh_token.clone(),
            id_token: session.tokens.id_token.clone(),
            scope: session.tokens.scope.clone(),
        };
        let came = Now { mono: session.tokens.obtained, ..now };
        Answer { tokens, generation: session.tokens.generation, came }
    }
}

impl Successor {
    /// None when the access token cannot stand in a header.
    fn new(
        provider: &Arc<Provider>,
        from: &Arc<Session>,
        answer: &Answer,
        renewed: Renewed,
        trust: Trust,
    ) -> Option<Successor> {
        let tokens = with_what_was_not_replaced(renewed.tokens.clone(), &from.tokens);
        let tokens = token_set(tokens, answer.generation, answer.came)?;
        let tokens = Arc::new(TokenSet { unchecked: trust == Trust::Unchecked, ..tokens });
        Some(Successor { provider: Arc::clone(provider), from: Arc::clone(from), tokens, renewed })
    }

    /// The state after `base`; None where this does not belong.
    fn after(&self, base: &Session) -> Option<Session> {
        let was_sent = base.tokens.generation + 1 == self.tokens.generation;
        let was_stored_unchecked = base.tokens.unchecked && self.is(&base.tokens);
        let belongs = was_sent || was_stored_unchecked;
        belongs.then(|| base.renewed(Arc::clone(&self.tokens), self.renewed.claims_after(&base.owner().claims)))
    }

    /// Whether these are the tokens of this answer.
    fn is(&self, tokens: &TokenSet) -> bool {
        tokens.generation == self.tokens.generation
            && tokens.access_token.expose_secret() == self.tokens.access_token.expose_secret()
    }
}

/// As long as this lives, requests of this process find the state that the store has missed.
struct Unwritten {
    shared: Arc<Shared>,
    successor: Arc<Successor>,
}

impl Unwritten {
    fn new(shared: &Arc<Shared>, successor: Arc<Successor>) -> (Unwritten, Arc<Session>) {
        let from = &successor.from;
        let claims = successor.renewed.claims_after(&from.owner().claims);
        let state = Arc::new(from.renewed(Arc::clone(&successor.tokens), claims));
        shared.unwritten.insert(from.key, Arc::clone(&state));
        (Unwritten { shared: Arc::clone(shared), successor }, state)
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        self.shared.unwritten.remove(&self.successor.from.key);
    }
}

impl From<Renewal> for Landed {
    fn from(renewal: Renewal) -> Landed {
        Landed { renewal, unwritten: None }
    }
}

/// RFC 6749 §6: without a new refresh token the old one stays; so do the ID token, if it was believed, and the scope.
fn with_what_was_not_replaced(answer: TokenResponse, previous: &TokenSet) -> TokenResponse {
    let believed_id_token = || previous.id_token.clone().filter(|_| !previous.unchecked);
    TokenResponse {
        refresh_token: answer.refresh_token.or_else(|| previous.refresh_token.clone()),
        id_token: answer.id_token.or_else(believed_id_token),
        scope: answer.scope.or_else(|| previous.scope.clone()),
        ..answer
    }
}

/// What `future` gives without waiting for anything.
async fn at_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

/// Between two looks at what somebody else does.
const WAIT_MILLIS: std::ops::RangeInclusive<u64> = 25..=250;
/// A store that is gone for longer loses the answer; the session then ends with the next refresh.
const KEEP_TRYING: Duration = Duration::from_secs(60);
const RETRY_AFTER: Duration = Duration::from_secs(5);
const LATER: Renewal = Renewal::Outage(Outage::Provider { retry_after: RETRY_AFTER });
