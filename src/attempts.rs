//! How often somebody may be wrong: guesses at a password or a key, counted by account and by client.
//!
//! Counts are this process's own, and bounded: whoever tries with ever new names only pushes out counts of others like it.

use crate::clock::Mono;
use quick_cache::sync::Cache;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Counts failures within a window of time.
pub struct Attempts {
    most: u32,
    window: Duration,
    counts: Cache<u64, Arc<Mutex<Count>>>,
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Count {
    since: Mono,
    attempts: u32,
}

impl Attempts {
    /// `most` failures within `window`, for each name.
    #[must_use]
    pub fn new(most: u32, window: Duration) -> Attempts {
        Attempts { most, window, counts: Cache::new(MOST_NAMES), hasher: RandomState::new() }
    }

    /// One more attempt under `name`, which counts as a failure until it turns out to be none.
    ///
    /// # Errors
    /// How long to wait, when there were too many.
    pub fn begin(&self, name: &str, now: Mono) -> Result<(), Duration> {
        let fresh = Count { since: now, attempts: 0 };
        let count = self.counts.get_or_insert_with(&self.key(name), || Ok::<_, ()>(Arc::new(Mutex::new(fresh))));
        let Ok(count) = count else { return Ok(()) };
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(count.since) >= self.window {
            *count = fresh;
        }
        if count.attempts >= self.most {
            return Err(count.since.after(self.window).since(now));
        }
        count.attempts += 1;
        Ok(())
    }

    /// The attempt was no guess: it succeeded, or nobody could say. It is not counted, those before it still are.
    pub fn withdraw(&self, name: &str) {
        if let Some(count) = self.counts.get(&self.key(name)) {
            let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
            count.attempts = count.attempts.saturating_sub(1);
        }
    }

    /// Nothing counts any more under `name`.
    pub fn forget(&self, name: &str) {
        self.counts.remove(&self.key(name));
    }

    fn key(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }
}

/// What a client is counted under: its address, or the /64 that an IPv6 client has to itself. None where addresses tell nobody apart,
/// as behind a unix socket.
#[must_use]
pub fn client(address: Option<IpAddr>) -> Option<String> {
    Some(match address?.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).to_string(),
    })
}

const MOST_NAMES: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1000)
    }

    #[test]
    fn as_many_as_are_allowed_and_then_a_pause() {
        let attempts = Attempts::new(2, WINDOW);
        assert_eq!(attempts.begin("ada", at(0)), Ok(()));
        assert_eq!(attempts.begin("ada", at(10)), Ok(()));
        assert_eq!(attempts.begin("ada", at(20)), Err(Duration::from_secs(280)));
        assert_eq!(attempts.begin("eve", at(20)), Ok(()));
        assert_eq!(attempts.begin("ada", at(299)), Err(Duration::from_secs(1)));
        assert_eq!(attempts.begin("ada", at(300)), Ok(()));
    }

    #[test]
    fn what_was_no_guess_is_not_counted() {
        let attempts = Attempts::new(1, WINDOW);
        for _ in 0..3 {
            assert_eq!(attempts.begin("ada", at(0)), Ok(()));
            attempts.withdraw("ada");
        }
        assert_eq!(attempts.begin("ada", at(0)), Ok(()));
        assert!(attempts.begin("ada", at(0)).is_err());
        attempts.forget("ada");
        assert_eq!(attempts.begin("ada", at(0)), Ok(()));
    }

    #[test]
    fn clients_of_one_network_count_as_one() {
        let of = |text: &str| client(Some(text.parse().unwrap())).unwrap();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(client(None), None);
    }

    #[test]
    fn ever_new_names_take_no_more_memory() {
        let attempts = Attempts::new(1, WINDOW);
        for name in 0..MOST_NAMES * 2 {
            let _ = attempts.begin(&name.to_string(), at(0));
        }
        assert!(attempts.counts.len() <= MOST_NAMES);
    }
}
