//! Which servers of an upstream can be counted on: what checks and answers say about each.
//!
//! A server is out while its checks fail (`checks`), or for a while after too many failures in a row (ejection). All workers share
//! this: atomics that the path of a request reads, and a lock that only an ejection takes.

use crate::clock::{Clock, Mono};
use http::StatusCode;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// `[upstreams.X.ejection]`
#[derive(Debug, Clone)]
pub struct Ejection {
    /// `failures`, default 5: so many in a row. No connection, a broken answer, no answer in time.
    pub failures: u32,
    /// `for`, default 10 s: the first time. It doubles, up to five minutes, until the server has held out for as long as it was out.
    pub pause: Duration,
    /// `most`, default 50: percent of the servers that may be out. Beyond, nobody is ejected.
    pub most: u8,
    /// `status`, default none: answers that count as failures too.
    pub status: Vec<StatusCode>,
}

/// All servers of an upstream.
#[derive(Debug)]
pub struct Group {
    upstream: String,
    servers: Vec<Server>,
    ejection: Ejection,
    slow_start: Duration,
    ejecting: Mutex<()>,
    clock: Clock,
}

/// Where a server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It gets its share, or with `slow_start` a growing part of it.
    Up,
    /// Its checks fail.
    Unhealthy,
    /// Too many failures in a row.
    Ejected,
}

impl Standing {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Up => "up",
            Standing::Unhealthy => "unhealthy",
            Standing::Ejected => "ejected",
        }
    }
}

#[derive(Debug)]
struct Server {
    name: String,
    unhealthy: AtomicBool,
    /// 0: it is not.
    ejected_until: AtomicU64,
    /// In a row.
    failures: AtomicU32,
    /// When its slow start began; 0: it has its share.
    back_since: AtomicU64,
    last_ejection: Mutex<Option<Spell>>,
}

/// A time that a server was out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spell {
    pause: Duration,
    until: Mono,
}

impl Group {
    /// All up. `servers` are names for the log.
    pub fn new(
        upstream: &str,
        servers: impl IntoIterator<Item = String>,
        ejection: Ejection,
        slow_start: Duration,
        clock: &Clock,
    ) -> Group {
        let servers = servers.into_iter().map(|name| Server {
            name,
            unhealthy: AtomicBool::default(),
            ejected_until: AtomicU64::default(),
            failures: AtomicU32::default(),
            back_since: AtomicU64::default(),
            last_ejection: Mutex::default(),
        });
        Group {
            upstream: upstream.to_owned(),
            servers: servers.collect(),
            ejection,
            slow_start,
            ejecting: Mutex::default(),
            clock: clock.clone(),
        }
    }

    /// Percent of its weight that server `at` takes now: 0 while it is out.
    pub fn share(&self, at: usize) -> u32 {
        let server = &self.servers[at];
        if server.unhealthy.load(Relaxed) {
            return 0;
        }
        let until = server.ejected_until.load(Relaxed);
        if until != 0 {
            if self.clock.mono() < Mono(until) {
                return 0;
            }
            if server.ejected_until.compare_exchange(until, 0, Relaxed, Relaxed).is_ok() {
                // On probation: the next failure ejects it again, an answer clears it.
                server.failures.store(self.ejection.failures.saturating_sub(1), Relaxed);
                self.begin_slowly(server);
                tracing::info!(target: LOG, upstream = self.upstream, server = server.name, "the server is used again after its ejection");
            }
        }
        match server.back_since.load(Relaxed) {
            0 => 100,
            since => {
                let share = slow_start_share(self.clock.mono().since(Mono(since)), self.slow_start);
                if share == 100 {
                    // One that came back once more meanwhile has begun anew.
                    let _ = server.back_since.compare_exchange(since, 0, Relaxed, Relaxed);
                }
                share
            }
        }
    }

    /// Whether an answer is none.
    pub fn counts(&self, status: StatusCode) -> bool {
        self.ejection.status.contains(&status)
    }

    /// Server `at` has answered.
    pub fn answered(&self, at: usize) {
        let failures = &self.servers[at].failures;
        // Reading is free where everyone reads; writing is not.
        if failures.load(Relaxed) != 0 {
            failures.store(0, Relaxed);
        }
    }

    /// Server `at` has not.
    pub fn failed(&self, at: usize) {
        let server = &self.servers[at];
        let failures = server.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures < self.ejection.failures {
            return;
        }
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.mono();
        let out = (0..self.servers.len()).filter(|at| self.is_out(*at, now)).count();
        if server.ejected_until.load(Relaxed) != 0 || !may_eject(out, self.servers.len(), self.ejection.most) {
            return;
        }
        let mut last = server.last_ejection.lock().unwrap_or_else(PoisonError::into_inner);
        let spell = next_spell(*last, self.ejection.pause, now);
        *last = Some(spell);
        server.ejected_until.store(spell.until.0, Relaxed);
        let seconds = spell.pause.as_secs();
        tracing::warn!(target: LOG, upstream = self.upstream, server = server.name, failures, seconds, "the server is ejected");
    }

    /// What the checks of server `at` say from now on. `why` it is not healthy, for the log.
    pub fn checked(&self, at: usize, healthy: bool, why: &str) {
        let server = &self.servers[at];
        if healthy {
            self.begin_slowly(server);
            server.unhealthy.store(false, Relaxed);
            tracing::info!(target: LOG, upstream = self.upstream, server = server.name, "the server is healthy");
        } else {
            server.unhealthy.store(true, Relaxed);
            tracing::warn!(target: LOG, upstream = self.upstream, server = server.name, why, "the server is not healthy");
        }
    }

    /// Each server's name and where it stands, in file order.
    pub fn standings(&self) -> impl Iterator<Item = (&str, Standing)> {
        let now = self.clock.mono();
        self.servers.iter().map(move |server| {
            let standing = match () {
                () if server.unhealthy.load(Relaxed) => Standing::Unhealthy,
                () if now < Mono(server.ejected_until.load(Relaxed)) => Standing::Ejected,
                () => Standing::Up,
            };
            (server.name.as_str(), standing)
        })
    }

    fn is_out(&self, at: usize, now: Mono) -> bool {
        let server = &self.servers[at];
        server.unhealthy.load(Relaxed) || now < Mono(server.ejected_until.load(Relaxed))
    }

    fn begin_slowly(&self, server: &Server) {
        if !self.slow_start.is_zero() {
            server.back_since.store(self.clock.mono().0, Relaxed);
        }
    }
}

/// One server more may go: `out` of `servers` are out already. The last one stays, whatever `most` says.
fn may_eject(out: usize, servers: usize, most: u8) -> bool {
    let then = out + 1;
    then < servers && then * 100 <= servers * usize::from(most)
}

/// | last time | this time |
/// |---|---|
/// | none, or it has held out since for as long as it was out | `first` |
/// | it failed again before that | twice as long, five minutes at most (or `first`, if that is longer) |
fn next_spell(last: Option<Spell>, first: Duration, now: Mono) -> Spell {
    let pause = match last {
        Some(last) if now.since(last.until) < last.pause => (last.pause * 2).min(LONGEST.max(first)),
        _ => first,
    };
    Spell { pause, until: now.after(pause) }
}

/// From a tenth to all of it, in a straight line.
fn slow_start_share(back_for: Duration, slow_start: Duration) -> u32 {
    let percent = back_for.as_millis().saturating_mul(100) / slow_start.as_millis().max(1);
    u32::try_from(percent).unwrap_or(100).clamp(10, 100)
}

const LONGEST: Duration = Duration::from_secs(300);
const LOG: &str = "latchgate::upstream";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn group(servers: usize, most: u8, slow_start: Duration, clock: &Clock) -> Group {
        let ejection = Ejection { failures: 3, pause: seconds(10), most, status: Vec::new() };
        Group::new("app", (0..servers).map(|at| at.to_string()), ejection, slow_start, clock)
    }

    fn shares(group: &Group) -> Vec<u32> {
        (0..group.servers.len()).map(|at| group.share(at)).collect()
    }

    #[test]
    fn so_many_may_be_out_and_the_last_one_never() {
        for (servers, most, expected) in [
            (1, 100, 0),
            (2, 50, 1),
            (2, 49, 0),
            (2, 100, 1),
            (3, 50, 1),
            (4, 50, 2),
            (5, 0, 0),
            (10, 100, 9),
            (10, 10, 1),
        ] {
            let out = (0..servers).take_while(|out| may_eject(*out, servers, most)).count();
            assert_eq!(out, expected, "{servers} servers, {most} %");
        }
    }

    #[test]
    fn a_server_that_fails_again_soon_is_out_for_longer() {
        let mut now = Mono(1000);
        let mut last = None;
        for (held_out_for, expected) in
            [(0, 10), (9, 20), (19, 40), (40, 10), (0, 20), (0, 40), (0, 80), (0, 160), (0, 300), (0, 300)]
        {
            now = now.after(seconds(held_out_for));
            let spell = next_spell(last, seconds(10), now);
            assert_eq!(spell, Spell { pause: seconds(expected), until: now.after(seconds(expected)) });
            now = spell.until;
            last = Some(spell);
        }
        let long = Spell { pause: seconds(600), until: now };
        assert_eq!(next_spell(Some(long), seconds(600), now).pause, seconds(600));
    }

    #[test]
    fn a_slow_start_is_a_straight_line() {
        for (back_for, expected) in [(0, 10), (2, 10), (15, 50), (29, 96), (30, 100), (3000, 100)] {
            assert_eq!(slow_start_share(seconds(back_for), seconds(30)), expected, "{back_for} s");
        }
        assert_eq!(slow_start_share(Duration::ZERO, Duration::MAX), 10);
    }

    #[test]
    fn failures_in_a_row_eject_and_one_more_afterwards_ejects_again() {
        let clock = Clock::system();
        let group = group(2, 50, Duration::ZERO, &clock);
        for failed in [true, true, false, true, true] {
            if failed { group.failed(0) } else { group.answered(0) }
        }
        assert_eq!(shares(&group), [100, 100], "not in a row");
        group.failed(0);
        assert_eq!(shares(&group), [0, 100]);
        assert_eq!(
            group.standings().map(|(_, standing)| standing).collect::<Vec<_>>(),
            [Standing::Ejected, Standing::Up]
        );
        for _ in 0..10 {
            group.failed(0);
            group.failed(1);
        }
        assert_eq!(shares(&group), [0, 100], "the rest is never ejected");
        group.answered(1);
        clock.advance(seconds(10));
        assert_eq!(shares(&group), [100, 100], "stragglers do not stretch it");
        group.failed(0);
        assert_eq!(shares(&group), [0, 100]);
        clock.advance(seconds(19));
        assert_eq!(shares(&group), [0, 100]);
        clock.advance(seconds(1));
        assert_eq!(shares(&group), [100, 100]);
        group.answered(0);
        group.failed(0);
        assert_eq!(shares(&group), [100, 100], "an answer clears it");
    }

    #[test]
    fn one_server_is_never_ejected() {
        let group = group(1, 100, Duration::ZERO, &Clock::system());
        for _ in 0..100 {
            group.failed(0);
        }
        assert_eq!(shares(&group), [100]);
    }

    #[test]
    fn who_comes_back_begins_slowly() {
        let clock = Clock::system();
        let group = group(2, 50, seconds(100), &clock);
        assert_eq!(shares(&group), [100, 100], "not at the beginning");
        group.checked(0, false, "status 503");
        assert_eq!(shares(&group), [0, 100]);
        group.checked(0, true, "");
        assert_eq!(shares(&group), [10, 100]);
        clock.advance(seconds(50));
        assert_eq!(shares(&group), [50, 100]);
        clock.advance(seconds(50));
        assert_eq!(shares(&group), [100, 100]);
        for _ in 0..3 {
            group.failed(1);
        }
        clock.advance(seconds(10));
        assert_eq!(shares(&group), [100, 10]);
    }

    proptest! {
        // RL-13
        #[test]
        fn never_more_than_the_bound_are_ejected_and_nobody_stays_out(
            servers in 1usize..8, most in 0u8..=100,
            steps in proptest::collection::vec((0usize..8, proptest::bool::weighted(0.8), 0u64..5000), 1..200)
        ) {
            let clock = Clock::system();
            let group = group(servers, most, Duration::ZERO, &clock);
            for (at, failed, millis) in steps {
                clock.advance(Duration::from_millis(millis));
                let at = at % servers;
                if failed { group.failed(at) } else { group.answered(at) }
                let out = shares(&group).iter().filter(|share| **share == 0).count();
                prop_assert!(out * 100 <= servers * usize::from(most) && out < servers);
            }
            clock.advance(LONGEST);
            prop_assert!(shares(&group).iter().all(|share| *share == 100));
        }
    }
}
