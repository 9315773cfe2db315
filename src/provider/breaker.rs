//! When not to call a provider that does not answer.

use crate::clock::Mono;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Opens after `threshold` failures in a row, or at once for as long as the provider asks for (`Retry-After`). Then one call at
/// a time probes; each failed probe doubles the pause.
///
/// | state | `admit` | `failed` | `succeeded` |
/// |---|---|---|---|
/// | closed | go | count; at the threshold or with `Retry-After`: open | closed, count 0 |
/// | open until t | before t: wait; from t: probing, go | a straggler: only a later `Retry-After` counts | closed |
/// | probing until t | before t: wait; from t: the probe was lost, probe again | open, pause doubled | closed |
pub struct Breaker {
    threshold: u32,
    longest_pause: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { until: Mono, pause: Duration },
    Probing { until: Mono, pause: Duration },
}

impl Breaker {
    /// Closed. `threshold` failures open it; no pause is longer than `longest_pause`, but for what the provider asks for.
    #[must_use]
    pub fn new(threshold: u32, longest_pause: Duration) -> Breaker {
        Breaker { threshold, longest_pause, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Asks to make one call that takes at most `call`.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub fn admit(&self, now: Mono, call: Duration) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            State::Closed { .. } => Ok(()),
            State::Open { until, .. } | State::Probing { until, .. } if now < until => Err(until.since(now)),
            State::Open { pause, .. } | State::Probing { pause, .. } => {
                // A probe whose caller went away is given up after the time it could have taken.
                *state = State::Probing { until: now.after(call), pause };
                Ok(())
            }
        }
    }

    /// How long nobody may call, if that is so: to be asked before much is done for a call.
    #[must_use]
    pub fn pause(&self, now: Mono) -> Option<Duration> {
        match *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Open { until, .. } | State::Probing { until, .. } if now < until => Some(until.since(now)),
            State::Closed { .. } | State::Open { .. } | State::Probing { .. } => None,
        }
    }

    /// The call failed. `jitter` in 0..=1 spreads the next one over the second half of the pause.
    pub fn failed(&self, now: Mono, retry_after: Option<Duration>, jitter: f64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = retry_after.map(|wait| wait.min(LONGEST_RETRY_AFTER));
        let open = |pause: Duration| State::Open {
            until: now.after(asked.unwrap_or_default().max(pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))),
            pause,
        };
        *state = match *state {
            State::Closed { failures } if failures + 1 < self.threshold && asked.is_none() => {
                State::Closed { failures: failures + 1 }
            }
            State::Closed { .. } => open(FIRST_PAUSE),
            State::Probing { pause, .. } => open((pause * 2).min(self.longest_pause)),
            State::Open { until, pause } => {
                State::Open { until: until.max(now.after(asked.unwrap_or_default())), pause }
            }
        };
    }

    /// The provider answered.
    pub fn succeeded(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Closed { failures: 0 };
    }
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A provider may ask for a pause, not for an outage.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Duration = Duration::from_secs(10);

    fn second(n: u64) -> Mono {
        Mono(n * 1000)
    }

    #[test]
    fn one_probe_at_a_time_and_pauses_that_double() {
        let breaker = Breaker::new(2, Duration::from_secs(3));
        breaker.failed(second(0), None, 1.0);
        assert_eq!(breaker.admit(second(0), CALL), Ok(()), "one failure is below the threshold");
        breaker.failed(second(0), None, 1.0);
        assert_eq!(breaker.admit(second(0), CALL), Err(Duration::from_secs(1)));
        assert_eq!(breaker.admit(second(1), CALL), Ok(()));
        assert_eq!(breaker.admit(second(1), CALL), Err(CALL), "the probe is still out");
        breaker.failed(second(2), None, 1.0);
        assert_eq!(breaker.admit(second(2), CALL), Err(Duration::from_secs(2)));
        assert_eq!(breaker.admit(second(4), CALL), Ok(()));
        breaker.failed(second(4), None, 1.0);
        assert_eq!(breaker.admit(second(4), CALL), Err(Duration::from_secs(3)), "never longer than the longest pause");
        assert_eq!(breaker.admit(second(7), CALL), Ok(()));
        breaker.succeeded();
        assert_eq!(breaker.admit(second(7), CALL), Ok(()));
        assert_eq!(breaker.admit(second(7), CALL), Ok(()));
    }

    #[test]
    fn a_lost_probe_does_not_close_the_way_for_good() {
        let breaker = Breaker::new(1, Duration::from_secs(3));
        breaker.failed(second(0), None, 1.0);
        assert_eq!(breaker.admit(second(1), CALL), Ok(()));
        assert_eq!(breaker.admit(second(10), CALL), Err(Duration::from_secs(1)));
        assert_eq!(breaker.admit(second(11), CALL), Ok(()));
    }

    #[test]
    fn retry_after_is_obeyed_at_once_and_within_reason() {
        let breaker = Breaker::new(5, Duration::from_secs(30));
        breaker.failed(second(0), Some(Duration::from_secs(20)), 0.0);
        assert_eq!(breaker.admit(second(0), CALL), Err(Duration::from_secs(20)));
        breaker.failed(second(1), Some(Duration::from_secs(86_400)), 0.0);
        assert_eq!(breaker.admit(second(1), CALL), Err(LONGEST_RETRY_AFTER));
    }

    #[test]
    fn stragglers_do_not_stretch_the_pause() {
        let breaker = Breaker::new(1, Duration::from_secs(30));
        for _ in 0..100 {
            breaker.failed(second(0), None, 1.0);
        }
        assert_eq!(breaker.admit(second(0), CALL), Err(Duration::from_secs(1)));
    }
}
