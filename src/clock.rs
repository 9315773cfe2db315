//! One clock: a monotonic reading for lives and limits, a wall reading for what the outside world
//! dates (JWT claims, logs). Tests move both together.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A cheap handle on the time. Clones share the same time.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    started_at: Mono,
    ahead_millis: Arc<AtomicU64>,
}

/// One reading of a [`Clock`]. Every pure function that cares about time takes one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Never goes backwards.
    pub mono: Mono,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub unix: u64,
}

/// A point on the monotonic clock, in milliseconds. It starts with the wall clock's reading, in
/// milliseconds since 1970, so that points survive the process and mean the same to its neighbours;
/// from then on no step of the wall clock moves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mono(pub u64);

impl Mono {
    /// The point `life` later; saturates instead of wrapping.
    #[must_use]
    pub fn after(self, life: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(life.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is still to come.
    #[must_use]
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Clock {
    /// The time of this machine.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clocks")]
    pub fn system() -> Clock {
        let started_at = Mono::default().after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        Clock { started: Instant::now(), started_at, ahead_millis: Arc::default() }
    }

    /// Reads both clocks.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clocks")]
    pub fn now(&self) -> Now {
        let ahead = Duration::from_millis(self.ahead_millis.load(Ordering::Relaxed));
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + ahead;
        Now { mono: self.mono(), unix: wall.as_secs() }
    }

    /// Reads the monotonic clock alone, for those who read it often.
    #[must_use]
    pub fn mono(&self) -> Mono {
        let ahead = Duration::from_millis(self.ahead_millis.load(Ordering::Relaxed));
        self.started_at.after(self.started.elapsed() + ahead)
    }

    /// Moves the time forward for everyone who shares this clock. For tests: hours pass at once.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.ahead_millis.fetch_add(millis, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_readings_move_together() {
        let clock = Clock::system();
        let before = clock.now();
        clock.clone().advance(Duration::from_secs(3600));
        let after = clock.now();
        assert!(after.mono.since(before.mono) >= Duration::from_secs(3600));
        assert!(after.unix - before.unix >= 3600);
    }

    #[test]
    fn lives_saturate() {
        assert_eq!(Mono(5).after(Duration::MAX), Mono(u64::MAX));
        assert_eq!(Mono(5).since(Mono(9)), Duration::ZERO);
    }
}
