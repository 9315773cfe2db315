//! When not to ask a server that does not answer.

use crate::clock::Mono;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// After [`THRESHOLD`] failures in a row nobody asks for a while; then one at a time probes, and each failed probe doubles the pause.
///
/// | state | `admit` | `failed` | `succeeded` |
/// |---|---|---|---|
/// | closed | go | count; at the threshold: open | closed, count 0 |
/// | open until t | before t: no; from t: probing, go | a straggler: nothing | closed |
/// | probing until t | before t: no; from t: the probe was lost, probe again | open, pause doubled | closed |
#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

enum State {
    Closed { failures: u32 },
    Open { until: Mono, pause: Duration },
    Probing { until: Mono, pause: Duration },
}

impl Default for State {
    fn default() -> State {
        State::Closed { failures: 0 }
    }
}

impl Breaker {
    /// Whether to ask, for at most `call`.
    pub(super) fn admit(&self, now: Mono, call: Duration) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            State::Closed { .. } => true,
            State::Open { until, .. } | State::Probing { until, .. } if now < until => false,
            State::Open { pause, .. } | State::Probing { pause, .. } => {
                *state = State::Probing { until: now.after(call), pause };
                true
            }
        }
    }

    /// It did not answer.
    pub(super) fn failed(&self, now: Mono) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open =
            |pause: Duration| State::Open { until: now.after(pause.mul_f64(0.5 + fastrand::f64() / 2.0)), pause };
        match *state {
            State::Closed { failures } if failures + 1 < THRESHOLD => *state = State::Closed { failures: failures + 1 },
            State::Closed { .. } => *state = open(FIRST_PAUSE),
            State::Probing { pause, .. } => *state = open((pause * 2).min(LONGEST_PAUSE)),
            State::Open { .. } => {}
        }
    }

    /// It answered, whatever it said.
    pub(super) fn succeeded(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

const THRESHOLD: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A failover is over within ten seconds, and it should be noticed at once.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Duration = Duration::from_millis(500);

    #[test]
    fn one_probe_at_a_time_and_pauses_that_double_up_to_a_limit() {
        let breaker = Breaker::default();
        for _ in 0..THRESHOLD {
            assert!(breaker.admit(Mono(0), CALL));
            breaker.failed(Mono(0));
        }
        assert!(!breaker.admit(Mono(49), CALL), "at least half of the pause");
        let mut now = Mono(0);
        for pause in [100, 200, 400, 800, 1600, 2000, 2000] {
            now = Mono(now.0 + pause);
            assert!(breaker.admit(now, CALL), "the pause of {pause} ms is over");
            assert!(!breaker.admit(now, CALL), "a probe is under way");
            breaker.failed(now);
            breaker.failed(now);
        }
        now = Mono(now.0 + 2000);
        assert!(breaker.admit(now, CALL));
        assert!(breaker.admit(now.after(CALL), CALL), "the probe was lost");
        breaker.succeeded();
        assert!(breaker.admit(now, CALL) && breaker.admit(now, CALL));
    }
}
