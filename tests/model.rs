//! What several tasks do at once, run in many orders of their steps by a model checker (RF-35, ST-21).
//!
//! The single flight is compiled here once more, with the checker's `Mutex` in the place of the standard one: every
//! locking and every await is a point at which any other task may go on. A failing order is printed, and
//! `shuttle::replay` runs it again.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use latchgate::clock::{Clock, Now};
use latchgate::session::SessionKey;
use latchgate::session::store::{
    About, Claim, Creation, Lease, Lookup, MemoryStore, Record, Replacement, SessionStore,
};
use shuttle::future::{block_on, spawn, yield_now};
use shuttle::sync::Mutex;
use single_flight::{Boarding, Flights, Pilot};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[path = "../src/tokens/single_flight.rs"]
mod single_flight;

/// Orders tried for each test, each with a scheduler of its own kind.
const ORDERS: usize = 1_000;

// ------------------------------------------------------------------------------ the single flight

/// Two users' sessions, and a provider that renews them. Counts what must never happen.
#[derive(Default)]
struct World {
    generations: [AtomicU64; 2],
    calls: [AtomicU64; 2],
    calling: [AtomicU64; 2],
}

/// User and generation, as in `tokens::FlightKey`.
type Key = (usize, u64);
/// A result says whose it is, so that a mix-up shows.
type Result = (usize, u64);

impl World {
    fn generation(&self, user: usize) -> u64 {
        self.generations[user].load(Ordering::SeqCst)
    }

    /// What `tokens::flight` does: look, call, store, and only then land.
    async fn fly(&self, pilot: Pilot<Key, Result>, (user, seen): Key) {
        yield_now().await;
        if self.generation(user) == seen {
            assert_eq!(self.calling[user].fetch_add(1, Ordering::SeqCst), 0, "two calls at once");
            self.calls[user].fetch_add(1, Ordering::SeqCst);
            yield_now().await;
            self.generations[user].store(seen + 1, Ordering::SeqCst);
            self.calling[user].fetch_sub(1, Ordering::SeqCst);
            yield_now().await;
        }
        pilot.land((user, self.generation(user)));
    }
}

async fn renew(world: &Arc<World>, flights: &Arc<Flights<Key, Result>>, key: Key) -> Option<Result> {
    let Boarding { seat, pilot } = flights.board(key).unwrap();
    if let Some(pilot) = pilot {
        let world = Arc::clone(world);
        spawn(async move { world.fly(pilot, key).await });
    }
    seat.landed().await
}

#[test]
fn one_call_for_each_generation_and_a_newer_one_for_everybody() {
    in_many_orders(|| {
        let (world, flights) = (Arc::new(World::default()), Flights::new(100));
        let requests: Vec<_> = (0..6)
            .map(|number| {
                let (world, flights) = (Arc::clone(&world), Arc::clone(&flights));
                spawn(async move {
                    let user = number % 2;
                    for _ in 0..2 {
                        let seen = world.generation(user);
                        let (owner, generation) = renew(&world, &flights, (user, seen)).await.unwrap();
                        assert_eq!(owner, user, "another session's result");
                        assert!(generation > seen, "{generation} is not newer than {seen}");
                    }
                })
            })
            .collect();
        block_on(for_each_in_turn(requests));
        for user in 0..2 {
            assert_eq!(world.calls[user].load(Ordering::SeqCst), world.generation(user), "a token was spent twice");
        }
    });
}

#[test]
fn who_gives_up_waiting_takes_nobody_along() {
    in_many_orders(|| {
        let (world, flights) = (Arc::new(World::default()), Flights::new(100));
        let patient = spawn({
            let (world, flights) = (Arc::clone(&world), Arc::clone(&flights));
            async move { renew(&world, &flights, (0, 0)).await }
        });
        let impatient = spawn({
            let (world, flights) = (Arc::clone(&world), Arc::clone(&flights));
            async move { renew(&world, &flights, (0, 0)).await }
        });
        block_on(async {
            yield_now().await;
            impatient.abort();
            assert_eq!(patient.await.unwrap(), Some((0, 1)));
        });
        assert_eq!(world.calls[0].load(Ordering::SeqCst), 1);
    });
}

// RF-23
#[test]
fn a_flight_that_ends_without_a_result_tells_everybody_and_frees_the_place() {
    in_many_orders(|| {
        let flights: Arc<Flights<(), u64>> = Flights::new(100);
        let Boarding { seat, pilot } = flights.board(()).unwrap();
        let crash = spawn(async move {
            yield_now().await;
            drop(pilot);
        });
        let waiter = spawn({
            let flights = Arc::clone(&flights);
            async move {
                let Boarding { seat, pilot } = flights.board(()).unwrap();
                let was_first = pilot.is_none();
                if let Some(pilot) = pilot {
                    pilot.land(7);
                }
                (was_first, seat.landed().await)
            }
        });
        block_on(async {
            assert_eq!(seat.landed().await, None);
            let (was_first, result) = waiter.await.unwrap();
            assert_eq!(result, if was_first { None } else { Some(7) });
            crash.await.unwrap();
            assert!(flights.board(()).unwrap().pilot.is_some(), "the place is free");
        });
    });
}

#[test]
fn who_asks_again_does_not_hear_the_old_answer() {
    in_many_orders(|| {
        let flights: Arc<Flights<(), u64>> = Flights::new(100);
        let attempts = Arc::new(AtomicU64::new(0));
        let requests: Vec<_> = (0..3)
            .map(|_| {
                let (flights, attempts) = (Arc::clone(&flights), Arc::clone(&attempts));
                spawn(async move {
                    let mut before = None;
                    for _ in 0..2 {
                        let Boarding { seat, pilot } = flights.board(()).unwrap();
                        if let Some(pilot) = pilot {
                            let attempts = Arc::clone(&attempts);
                            spawn(async move { pilot.land(attempts.fetch_add(1, Ordering::SeqCst)) });
                        }
                        let attempt = seat.landed().await;
                        assert!(attempt > before, "the answer of attempt {attempt:?} came twice");
                        before = attempt;
                    }
                })
            })
            .collect();
        block_on(for_each_in_turn(requests));
    });
}

// RF-24
#[test]
fn no_more_wait_than_may() {
    in_many_orders(|| {
        let flights: Arc<Flights<(), u64>> = Flights::new(2);
        let Boarding { seat, pilot } = flights.board(()).unwrap();
        let requests: Vec<_> = (0..4)
            .map(|_| {
                let flights = Arc::clone(&flights);
                spawn(async move { flights.board(()).map(|boarding| boarding.seat) })
            })
            .collect();
        block_on(async {
            let mut seats = vec![seat];
            for request in requests {
                seats.extend(request.await.unwrap());
            }
            assert_eq!(seats.len(), 2);
            pilot.unwrap().land(7);
            for seat in seats {
                assert_eq!(seat.landed().await, Some(7));
            }
        });
    });
}

// --------------------------------------------------------------- compare and swap, and the lease

const KEY: [u8; 32] = [7; 32];

async fn a_store() -> (Arc<MemoryStore>, Now) {
    let (store, now) = (Arc::new(MemoryStore::new(10)), Clock::system().now());
    let expires = now.mono.after(Duration::from_secs(3600));
    let about = About {
        provider: "corp".into(),
        issuer: "https://idp".into(),
        subject: "ada".into(),
        sid: None,
        started: now.mono,
        ends: expires,
        began: now.mono,
    };
    let record = Record { version: 1, last_seen: now.mono, expires, about, sealed: Vec::new().into() };
    let created = store.create(SessionKey::from_bytes(KEY), record, 10, now).await;
    assert!(matches!(created, Ok(Creation::Created { .. })));
    (store, now)
}

/// The newest record with one more byte in it, as often as it takes. Whether it is there still.
async fn append(store: &MemoryStore, byte: u8, now: Now) -> bool {
    let key = SessionKey::from_bytes(KEY);
    let mut found = store.find(key, now).await.unwrap();
    loop {
        let Lookup::Live(seen) = found else { return false };
        yield_now().await;
        let sealed = [&seen.sealed[..], &[byte]].concat().into();
        let next = Record { version: seen.version + 1, sealed, ..seen.clone() };
        match store.replace(key, seen.version, next, now).await.unwrap() {
            Replacement::Replaced => return true,
            Replacement::Conflict(newest) => found = Lookup::Live(newest),
            Replacement::Gone => return false,
        }
        yield_now().await;
    }
}

// SC-20, ST-21
#[test]
fn no_update_is_lost_however_many_write() {
    in_many_orders(|| {
        block_on(async {
            let (store, now) = a_store().await;
            let writers: Vec<_> = (0..5)
                .map(|byte| {
                    let store = Arc::clone(&store);
                    spawn(async move {
                        assert!(append(&store, byte, now).await);
                    })
                })
                .collect();
            for_each_in_turn(writers).await;
            let Lookup::Live(record) = store.find(SessionKey::from_bytes(KEY), now).await.unwrap() else { panic!() };
            let mut written = record.sealed.to_vec();
            written.sort_unstable();
            assert_eq!((written, record.version), ((0..5).collect(), 6));
        });
    });
}

// RF-28
#[test]
fn what_was_removed_stays_removed() {
    in_many_orders(|| {
        block_on(async {
            let (store, now) = a_store().await;
            let writers: Vec<_> = (0..3)
                .map(|byte| {
                    let store = Arc::clone(&store);
                    spawn(async move {
                        append(&store, byte, now).await;
                    })
                })
                .collect();
            yield_now().await;
            store.remove(SessionKey::from_bytes(KEY), now).await.unwrap();
            for_each_in_turn(writers).await;
            assert!(matches!(store.find(SessionKey::from_bytes(KEY), now).await, Ok(Lookup::Ended)));
        });
    });
}

// RF-03
#[test]
fn one_holder_of_a_lease_at_a_time() {
    in_many_orders(|| {
        block_on(async {
            let (store, now) = a_store().await;
            let holders = Arc::new(AtomicU64::new(0));
            let replicas: Vec<_> = (1..5)
                .map(|owner| {
                    let (store, holders) = (Arc::clone(&store), Arc::clone(&holders));
                    let life = Duration::from_secs(5);
                    let claim = Claim { key: SessionKey::from_bytes(KEY), generation: 1, owner, life };
                    spawn(async move {
                        while store.lease(&claim, now).await.unwrap() == Lease::Held {
                            yield_now().await;
                        }
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        yield_now().await;
                        assert!(store.renew_lease(&claim, now).await.unwrap());
                        yield_now().await;
                        holders.fetch_sub(1, Ordering::SeqCst);
                        store.release_lease(&claim, true).await.unwrap();
                    })
                })
                .collect();
            for_each_in_turn(replicas).await;
        });
    });
}

// ------------------------------------------------------------------------------------ the checker

/// At random, and by few and early preemptions, which find other mistakes.
fn in_many_orders(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), ORDERS);
    shuttle::check_pct(test, ORDERS, 3);
}

async fn for_each_in_turn<T: 'static>(tasks: Vec<shuttle::future::JoinHandle<T>>) {
    for task in tasks {
        task.await.unwrap();
    }
}
