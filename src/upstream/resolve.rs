//! The addresses behind a name, asked for again while the name is in use.
//!
//! | known | last lookup | whoever opens a connection |
//! |---|---|---|
//! | nothing | failed less than 5 s ago | fails at once |
//! | nothing | – | waits for a lookup |
//! | addresses | younger than `dns_refresh`, or failed less than 5 s ago | takes them |
//! | addresses | older | waits for a lookup, but not for a slow one; takes what is known then |

use crate::clock::{Clock, Mono};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How a name becomes addresses.
pub type Lookup =
    Arc<dyn Fn(&str, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync>;

/// What this machine is configured with: `/etc/hosts`, DNS.
pub fn system() -> Lookup {
    Arc::new(|host, port| {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    })
}

/// One name, and where it leads.
pub struct Resolver {
    host: String,
    port: u16,
    refresh: Duration,
    lookup: Lookup,
    clock: Clock,
    state: Mutex<State>,
    changes: AtomicU64,
    /// Counts the lookups that have ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    addresses: Vec<SocketAddr>,
    resolved: Mono,
    failed: Option<(Mono, io::ErrorKind, String)>,
    /// Since when a lookup is under way.
    looking: Option<Mono>,
}

enum Standing {
    Good,
    Old,
    Unknown,
    Failed(io::Error),
}

impl Resolver {
    /// Nothing is looked up yet.
    pub fn new(host: String, port: u16, refresh: Duration, lookup: Lookup, clock: Clock) -> Arc<Resolver> {
        Arc::new(Resolver {
            host,
            port,
            refresh,
            lookup,
            clock,
            state: Mutex::default(),
            changes: AtomicU64::new(0),
            ended: watch::Sender::new(0),
        })
    }

    /// Where the name leads, in the order to try.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub async fn addresses(self: &Arc<Resolver>) -> io::Result<Vec<SocketAddr>> {
        let mut ended = self.ended.subscribe();
        let now = self.clock.mono();
        let patience = {
            let mut state = self.state();
            match state.standing(now, self.refresh) {
                Standing::Good => return Ok(state.addresses.clone()),
                Standing::Failed(error) => return Err(error),
                Standing::Old => {
                    let since = self.look_up(&mut state, now);
                    Some(PATIENCE.saturating_sub(now.since(since)))
                }
                Standing::Unknown => {
                    self.look_up(&mut state, now);
                    None
                }
            }
        };
        // The sender is ours: it cannot be gone.
        match patience {
            Some(patience) => drop(timeout(patience, ended.changed()).await),
            None => drop(ended.changed().await),
        }
        let state = self.state();
        match state.standing(self.clock.mono(), self.refresh) {
            Standing::Failed(error) => Err(error),
            _ => Ok(state.addresses.clone()),
        }
    }

    /// Asks again, behind the back of everyone, when it is time to.
    pub fn keep_fresh(self: &Arc<Resolver>) {
        let now = self.clock.mono();
        let mut state = self.state();
        if matches!(state.standing(now, self.refresh), Standing::Old) {
            self.look_up(&mut state, now);
        }
    }

    /// How often the set of addresses has changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether the name leads there, as far as is known.
    pub fn leads_to(&self, address: SocketAddr) -> bool {
        self.state().addresses.contains(&address)
    }

    /// One lookup at a time, however many wait for it: a resolver that hangs holds one thread, not all. Since when it is under way.
    fn look_up(self: &Arc<Resolver>, state: &mut State, now: Mono) -> Mono {
        if let Some(since) = state.looking {
            return since;
        }
        state.looking = Some(now);
        let resolver = Arc::clone(self);
        tokio::spawn(async move {
            let found = (resolver.lookup)(&resolver.host, resolver.port).await;
            resolver.learn(found);
            resolver.ended.send_modify(|count| *count += 1);
        });
        now
    }

    fn learn(&self, found: io::Result<Vec<SocketAddr>>) {
        let now = self.clock.mono();
        let mut state = self.state();
        state.looking = None;
        let found = found.and_then(|found| match distinct(found) {
            found if found.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "no addresses")),
            found => Ok(found),
        });
        match found {
            Ok(addresses) => {
                if !is_same_set(&state.addresses, &addresses) && !state.addresses.is_empty() {
                    tracing::info!(host = self.host, count = addresses.len(), "the name leads to other addresses now");
                    self.changes.fetch_add(1, Ordering::Relaxed);
                }
                *state = State { addresses, resolved: now, ..State::default() };
            }
            Err(error) => {
                if !state.addresses.is_empty() {
                    tracing::warn!(host = self.host, %error, "cannot resolve the name; using the addresses known before");
                }
                state.failed = Some((now, error.kind(), error.to_string()));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn standing(&self, now: Mono, refresh: Duration) -> Standing {
        let failed = self.failed.as_ref().filter(|(at, ..)| now.since(*at) < REMEMBER_FAILURE);
        match failed {
            Some((_, kind, text)) if self.addresses.is_empty() => Standing::Failed(io::Error::new(*kind, text.clone())),
            Some(_) => Standing::Good,
            None if self.addresses.is_empty() => Standing::Unknown,
            None if now.since(self.resolved) < refresh => Standing::Good,
            None => Standing::Old,
        }
    }
}

/// In the resolver's order (RFC 6724), without what was said twice.
fn distinct(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut distinct = Vec::new();
    for address in found {
        if distinct.len() < MOST_ADDRESSES && !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct
}

fn is_same_set(old: &[SocketAddr], new: &[SocketAddr]) -> bool {
    old.len() == new.len() && old.iter().all(|address| new.contains(address))
}

/// A name that leads nowhere is asked for again soon: it may just have been made.
const REMEMBER_FAILURE: Duration = Duration::from_secs(5);
/// Old addresses are most likely right, and better than none.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST_ADDRESSES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::Semaphore;

    const REFRESH: Duration = Duration::from_secs(30);

    /// A name server whose answers are set by the test.
    struct Script {
        answer: Mutex<Result<Vec<SocketAddr>, io::ErrorKind>>,
        asked: AtomicUsize,
        turns: Semaphore,
        clock: Clock,
    }

    impl Script {
        fn start(answer: Result<Vec<SocketAddr>, io::ErrorKind>) -> (Arc<Script>, Arc<Resolver>) {
            let script = Arc::new(Script {
                answer: Mutex::new(answer),
                asked: AtomicUsize::new(0),
                turns: Semaphore::new(Semaphore::MAX_PERMITS),
                clock: Clock::system(),
            });
            let asked = Arc::clone(&script);
            let lookup: Lookup = Arc::new(move |host, port| {
                assert_eq!((host, port), ("app.test", 80));
                let script = Arc::clone(&asked);
                script.asked.fetch_add(1, Ordering::Relaxed);
                Box::pin(async move {
                    drop(script.turns.acquire().await);
                    script.answer.lock().unwrap().clone().map_err(io::Error::from)
                })
            });
            let resolver = Resolver::new("app.test".into(), 80, REFRESH, lookup, script.clock.clone());
            (script, resolver)
        }

        fn answer(&self, answer: Result<Vec<SocketAddr>, io::ErrorKind>) {
            *self.answer.lock().unwrap() = answer;
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }

        /// Answers nothing any more.
        fn hang(&self) {
            self.turns.forget_permits(Semaphore::MAX_PERMITS);
        }
    }

    fn address(last: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, u8::try_from(last / 250).unwrap(), u8::try_from(last % 250).unwrap()], 80))
    }

    // OU-09
    #[tokio::test]
    async fn ou_09_a_name_is_looked_up_again_and_its_change_is_noticed() {
        let (script, resolver) = Script::start(Ok(vec![address(1)]));
        for _ in 0..3 {
            assert_eq!(resolver.addresses().await.unwrap(), [address(1)]);
        }
        assert_eq!((script.asked(), resolver.changes()), (1, 0));

        script.answer(Ok(vec![address(2), address(1), address(2)]));
        script.clock.advance(REFRESH);
        assert_eq!(resolver.addresses().await.unwrap(), [address(2), address(1)]);
        assert_eq!((script.asked(), resolver.changes()), (2, 1));

        script.answer(Ok(vec![address(1), address(2)]));
        script.clock.advance(REFRESH);
        assert_eq!(resolver.addresses().await.unwrap(), [address(1), address(2)]);
        assert_eq!(resolver.changes(), 1, "the order is no change");

        script.answer(Ok(vec![address(2)]));
        script.clock.advance(REFRESH);
        resolver.keep_fresh();
        resolver.ended.subscribe().changed().await.unwrap();
        assert!(resolver.leads_to(address(2)) && !resolver.leads_to(address(1)));
        assert_eq!(resolver.changes(), 2);
    }

    // OU-09
    #[tokio::test]
    async fn ou_09_a_name_that_leads_nowhere_is_remembered_for_five_seconds() {
        let (script, resolver) = Script::start(Err(io::ErrorKind::NotFound));
        for _ in 0..3 {
            assert_eq!(resolver.addresses().await.unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(script.asked(), 1);
        script.answer(Ok(vec![address(1)]));
        script.clock.advance(REMEMBER_FAILURE);
        assert_eq!(resolver.addresses().await.unwrap(), [address(1)]);

        for failure in [Err(io::ErrorKind::NotFound), Ok(Vec::new())] {
            script.answer(failure);
            script.clock.advance(REFRESH);
            let asked = script.asked();
            for _ in 0..3 {
                assert_eq!(resolver.addresses().await.unwrap(), [address(1)], "what was known is better than nothing");
            }
            assert_eq!((script.asked(), resolver.changes()), (asked + 1, 0));
        }
    }

    // OU-09
    #[tokio::test(start_paused = true)]
    async fn ou_09_a_slow_resolver_is_asked_once_and_waited_for_a_second() {
        let (script, resolver) = Script::start(Ok(vec![address(1)]));
        resolver.addresses().await.unwrap();
        script.hang();
        script.clock.advance(REFRESH);
        let began = tokio::time::Instant::now();
        assert_eq!(resolver.addresses().await.unwrap(), [address(1)]);
        assert_eq!(began.elapsed(), PATIENCE);
        script.clock.advance(PATIENCE);
        for _ in 0..10 {
            assert_eq!(resolver.addresses().await.unwrap(), [address(1)]);
            resolver.keep_fresh();
        }
        assert_eq!((began.elapsed(), script.asked()), (PATIENCE, 2));
    }

    // OU-09
    #[tokio::test]
    async fn ou_09_a_thousand_records_are_bounded() {
        let (_, resolver) = Script::start(Ok((0..1000).map(address).collect()));
        assert_eq!(resolver.addresses().await.unwrap().len(), MOST_ADDRESSES);
    }
}
