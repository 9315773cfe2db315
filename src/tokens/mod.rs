//! Which token a request gets, and the one refresh that renews it (SPEC §5); tokens of the gateway's own are in `machine`.
//!
//! A refresh is a flight: an owned task that calls the provider, stores what came and only then
//! tells whoever waits. It ends by itself whatever becomes of the requests that wanted it.

pub mod assertion;
mod flight;
mod lease;
mod machine;
mod single_flight;
#[cfg(test)]
mod test_flight;

pub use machine::{ClientCredentials, MachineTokens, Unobtainable};

use crate::background::Background;
use crate::clock::{Clock, Now};
use crate::policy::{Freshness, Renewable};
use crate::provider::{Provider, TokenResponse};
use crate::reply::Refusal;
use crate::session::{Session, SessionKey, Sessions, TokenSet};
use dashmap::DashMap;
use single_flight::Flights;
use std::collections::HashMap;
// `single_flight` takes its lock from here, so that the model checker can give it another.
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

/// `[refresh]`, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `early`, default 30 s: a still valid token is renewed behind the request (never more than a tenth of its life).
    pub early: Duration,
    /// `timeout`, default 10 s: one call to the provider.
    pub timeout: Duration,
    /// `grace`, default 60 s: the predecessor generation still gets the successor.
    pub grace: Duration,
    /// `cooldown`, default 5 s: a 401 on a token younger than this is not refreshed again.
    pub cooldown: Duration,
}

/// What came of a refresh.
#[derive(Clone)]
pub enum Renewal {
    /// The session's state with the new tokens, stored.
    Renewed(Arc<Session>),
    /// The provider refused for good: the session is gone.
    Refused,
    /// There is no refresh token.
    NothingToRenewWith,
    /// The session ended meanwhile, by other hands.
    Gone,
    /// It cannot be done now; the session is kept.
    Outage(Outage),
}

/// What is in the way of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// It broke down on our side.
    Broken,
    /// The store cannot be asked.
    Store,
    /// The provider does not answer, or is left alone for a while.
    Provider {
        /// When to try again.
        retry_after: Duration,
    },
}

impl Outage {
    /// What is said to whoever needs the token now.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Outage::Broken => Refusal::ProviderBroken,
            Outage::Store => Refusal::StoreUnavailable,
            Outage::Provider { retry_after } => Refusal::ProviderUnavailable { retry_after: retry_after.as_secs() },
        }
    }
}

/// Tokens of all sessions, and the gateway's own.
pub struct Tokens {
    shared: Arc<Shared>,
    machine: MachineTokens,
}

/// What a flight takes along.
struct Shared {
    settings: Settings,
    sessions: Sessions,
    providers: HashMap<Arc<str>, Arc<Provider>>,
    clock: Clock,
    background: Background,
    flights: Arc<Flights<FlightKey, Renewal>>,
    /// States that the store has missed so far.
    unwritten: DashMap<SessionKey, Arc<Session>>,
}

/// Two refreshes are the same one if they replace the same generation of the same session, or check it.
/// Structured, never text: no two users can share a result.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct FlightKey {
    session: SessionKey,
    generation: u64,
    unchecked: bool,
}

impl FlightKey {
    fn of(seen: &Session) -> FlightKey {
        FlightKey { session: seen.key, generation: seen.tokens.generation, unchecked: seen.tokens.unchecked }
    }
}

impl Tokens {
    /// Refreshes with `providers`, by name.
    #[must_use]
    pub fn new(
        settings: Settings,
        sessions: Sessions,
        providers: HashMap<Arc<str>, Arc<Provider>>,
        clock: Clock,
        background: Background,
    ) -> Tokens {
        let machine = MachineTokens::new(settings.clone(), providers.clone(), clock.clone(), background.clone());
        let (flights, unwritten) = (Flights::new(MOST_WAITERS), DashMap::new());
        let shared = Shared { settings, sessions, providers, clock, background, flights, unwritten };
        Tokens { shared: Arc::new(shared), machine }
    }

    /// Those of the gateway itself.
    #[must_use]
    pub fn machine(&self) -> &MachineTokens {
        &self.machine
    }

    /// How the session's access token stands.
    #[must_use]
    pub fn freshness(&self, session: &Session, now: Now) -> Freshness {
        freshness(&session.tokens, &self.shared.settings, now)
    }

    /// Whether a refused token can be renewed, and whether that could help.
    #[must_use]
    pub fn renewable(&self, session: &Session, now: Now) -> Renewable {
        if session.tokens.unchecked {
            return Renewable::Yes;
        }
        if session.tokens.refresh_token.is_none() {
            return Renewable::Never;
        }
        let guard = guard(self.shared.settings.cooldown, session.vitals.refusals());
        let renewed_before = session.tokens.generation > 1;
        let is_young = now.mono.since(session.tokens.obtained) < guard;
        if is_young && renewed_before { Renewable::NotYet } else { Renewable::Yes }
    }

    /// REFRESH: a newer state than `seen`, by the flight that is under way, or by a new one.
    pub async fn renew(&self, seen: &Session) -> Renewal {
        flight::join(&self.shared, seen).await
    }

    /// REFRESH because the client asks for it; a token that has just been renewed will do.
    pub async fn renew_on_demand(&self, seen: &Arc<Session>) -> Renewal {
        match self.renewable(seen, self.shared.clock.now()) {
            Renewable::NotYet => Renewal::Renewed(Arc::clone(seen)),
            Renewable::Yes | Renewable::Never => self.renew(seen).await,
        }
    }

    /// Starts a refresh that nobody waits for.
    pub fn renew_behind(&self, seen: &Session) {
        drop(flight::start(&self.shared, seen));
    }
}

/// A token answer becomes what a session holds. None when the access token cannot stand in a header.
#[must_use]
pub fn token_set(answer: TokenResponse, generation: u64, now: Now) -> Option<TokenSet> {
    let tokens = TokenSet::new(answer.access_token, generation, now.mono)?;
    Some(TokenSet {
        life: answer.expires_in,
        refresh_token: answer.refresh_token,
        id_token: answer.id_token,
        scope: answer.scope,
        ..tokens
    })
}

/// SPEC §5 "Before". What nobody has checked is as good as expired.
fn freshness(tokens: &TokenSet, settings: &Settings, now: Now) -> Freshness {
    if tokens.unchecked {
        return Freshness::Expired;
    }
    let (Some(expires), Some(life)) = (tokens.expires(), tokens.life) else {
        return Freshness::Fresh;
    };
    let early = settings.early.min(life / 10);
    if now.mono >= expires {
        Freshness::Expired
    } else if now.mono.after(early) >= expires {
        Freshness::Ageing
    } else {
        Freshness::Fresh
    }
}

/// How long after a refresh a refused token is not renewed again: `cooldown`, doubled for each
/// renewed token that was refused in a row, up to five minutes.
fn guard(cooldown: Duration, refusals: u32) -> Duration {
    let doublings = refusals.saturating_sub(1).min(16);
    cooldown.saturating_mul(1 << doublings).min(LONGEST_GUARD.max(cooldown))
}

/// Of one session, for one refresh; beyond it requests are turned away at once.
const MOST_WAITERS: usize = 10_000;
const LONGEST_GUARD: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;

    const SETTINGS: Settings = Settings {
        early: Duration::from_secs(30),
        timeout: Duration::from_secs(10),
        grace: Duration::from_secs(60),
        cooldown: Duration::from_secs(5),
    };

    fn at(millis: u64, life: Option<u64>) -> Freshness {
        let tokens = TokenSet::new("at".into(), 1, Mono(0)).unwrap();
        let tokens = TokenSet { life: life.map(Duration::from_secs), ..tokens };
        freshness(&tokens, &SETTINGS, Now { mono: Mono(millis), unix: 0 })
    }

    #[test]
    fn early_is_never_more_than_a_tenth_of_a_life() {
        use Freshness::{Ageing, Expired, Fresh};
        for (life, now, expected) in [
            (3600, 3_569_999, Fresh),
            (3600, 3_570_000, Ageing),
            (3600, 3_599_999, Ageing),
            (3600, 3_600_000, Expired),
            (60, 53_999, Fresh),
            (60, 54_000, Ageing),
            (60, 60_000, Expired),
            (0, 0, Expired),
        ] {
            assert_eq!(at(now, Some(life)), expected, "{life} s, at {now} ms");
        }
        assert_eq!(at(u64::MAX, None), Fresh, "of unknown life");
    }

    #[test]
    fn the_guard_doubles_up_to_five_minutes() {
        let seconds: Vec<u64> = (0..9).map(|n| guard(Duration::from_secs(5), n).as_secs()).collect();
        assert_eq!(seconds, [5, 5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(guard(Duration::from_secs(5), u32::MAX).as_secs(), 300);
    }
}
