//! When not to ask an upstream at all.

use crate::clock::Mono;
use http::StatusCode;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// `[upstreams.X.breaker]`
#[derive(Debug, Clone)]
pub struct Settings {
    /// `answers`, default 20: so many of the last ones are looked at.
    pub answers: usize,
    /// `failures`, default 50: percent of them.
    pub failures: u8,
    /// `pause`, default 5 s.
    pub pause: Duration,
    /// `status`, default none: answers that count as failures too.
    pub status: Vec<StatusCode>,
}

/// Of one upstream, for all workers.
///
/// | state | `admit` | `ended(failed)` | `ended(answered)` |
/// |---|---|---|---|
/// | closed | go | noted; when enough of the last answers failed: open | noted |
/// | open until t | before t: wait; from t: half-open, go | of a call from before: nothing | nothing |
/// | half-open | wait | of the call that tries: open, for another pause | closed, all forgotten |
///
/// A call that ends without a verdict (its client went away) is nothing; if it was the one that tries, the next one does.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed(Answers),
    Open { until: Mono },
    HalfOpen,
}

/// The last answers, the oldest first; true is a failure.
#[derive(Debug, Default)]
struct Answers {
    last: VecDeque<bool>,
    failed: usize,
}

/// A call that was admitted.
#[derive(Debug)]
pub struct Call<'a> {
    breaker: &'a Breaker,
    tries: bool,
}

/// What became of the breaker, to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nobody is admitted for a while.
    Opened,
    /// Everyone is.
    Closed,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: Settings) -> Breaker {
        Breaker { settings, state: Mutex::new(State::Closed(Answers::default())) }
    }

    /// What else is a failure.
    pub fn counts(&self, status: StatusCode) -> bool {
        self.settings.status.contains(&status)
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub fn admit(&self, now: Mono) -> Result<Call<'_>, Duration> {
        let mut state = self.lock();
        match *state {
            State::Closed(_) => Ok(Call { breaker: self, tries: false }),
            State::Open { until } if now < until => Err(until.since(now)),
            State::Open { .. } => {
                *state = State::HalfOpen;
                Ok(Call { breaker: self, tries: true })
            }
            State::HalfOpen => Err(self.settings.pause),
        }
    }

    /// Whether calls are refused.
    pub fn is_open(&self) -> bool {
        !matches!(*self.lock(), State::Closed(_))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call<'_> {
    /// The verdict on it.
    pub fn ended(mut self, failed: bool, now: Mono) -> Option<Change> {
        let Settings { answers: of, failures, pause, .. } = self.breaker.settings;
        let mut state = self.breaker.lock();
        if std::mem::take(&mut self.tries) {
            *state = if failed { State::Open { until: now.after(pause) } } else { State::Closed(Answers::default()) };
            return Some(if failed { Change::Opened } else { Change::Closed });
        }
        let State::Closed(answers) = &mut *state else { return None };
        answers.note(failed, of);
        if answers.last.len() < of || answers.failed * 100 < of * usize::from(failures) {
            return None;
        }
        *state = State::Open { until: now.after(pause) };
        Some(Change::Opened)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.tries {
            *self.breaker.lock() = State::Open { until: Mono::default() };
        }
    }
}

impl Answers {
    fn note(&mut self, failed: bool, most: usize) {
        if self.last.len() == most && self.last.pop_front() == Some(true) {
            self.failed -= 1;
        }
        self.last.push_back(failed);
        self.failed += usize::from(failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn breaker() -> Breaker {
        Breaker::new(Settings { answers: 4, failures: 50, pause: PAUSE, status: Vec::new() })
    }

    fn call(breaker: &Breaker, failed: bool, now: u64) -> Option<Change> {
        breaker.admit(Mono(now)).unwrap().ended(failed, Mono(now))
    }

    #[test]
    fn opens_by_the_share_of_the_last_answers() {
        let breaker = breaker();
        for failed in [true, true, true] {
            assert_eq!(call(&breaker, failed, 0), None, "too few to say");
        }
        assert_eq!(call(&breaker, false, 0), Some(Change::Opened));
        assert_eq!(breaker.admit(Mono(1000)).unwrap_err(), Duration::from_secs(4));

        let breaker = super::tests::breaker();
        for failed in [true, false, false, false, true, false, false, false] {
            assert_eq!(call(&breaker, failed, 0), None, "the oldest are forgotten");
        }
        assert_eq!(call(&breaker, true, 0), None);
        assert_eq!(call(&breaker, true, 0), Some(Change::Opened));
    }

    #[test]
    fn half_open_lets_one_through_and_its_verdict_counts() {
        let breaker = breaker();
        let straggler = breaker.admit(Mono(0)).unwrap();
        for failed in [true, true, true, true] {
            call(&breaker, failed, 0);
        }
        assert_eq!(straggler.ended(false, Mono(1)), None, "it was asked before");
        let first = breaker.admit(Mono(5000)).unwrap();
        assert_eq!(breaker.admit(Mono(5000)).unwrap_err(), PAUSE);
        assert_eq!(first.ended(true, Mono(6000)), Some(Change::Opened));
        assert_eq!(breaker.admit(Mono(10_999)).unwrap_err(), Duration::from_millis(1));
        drop(breaker.admit(Mono(11_000)).unwrap());
        let next = breaker.admit(Mono(11_000)).expect("the one before came to nothing");
        assert!(breaker.is_open());
        assert_eq!(next.ended(false, Mono(11_000)), Some(Change::Closed));
        assert!(!breaker.is_open());
        for failed in [true, false, false] {
            assert_eq!(call(&breaker, failed, 11_000), None, "what was before is forgotten");
        }
    }

    proptest! {
        #[test]
        fn never_shut_for_longer_than_a_pause_and_never_more_than_one_tries(
            steps in proptest::collection::vec((0u64..3000, proptest::option::of(proptest::bool::ANY)), 1..100)
        ) {
            let breaker = breaker();
            let mut now = 0;
            for (millis, verdict) in steps {
                now += millis;
                let open = breaker.is_open();
                let Ok(call) = breaker.admit(Mono(now)) else {
                    now += 5000;
                    prop_assert!(breaker.admit(Mono(now)).is_ok());
                    continue;
                };
                prop_assert_eq!(call.tries, open);
                prop_assert!(!open || breaker.admit(Mono(now)).is_err());
                match verdict {
                    Some(failed) => drop(call.ended(failed, Mono(now))),
                    None => drop(call),
                }
            }
        }
    }
}
