//! Refreshes of several gateways ("replicas") that share one store, and a provider that revokes everything when a
//! refresh token comes twice. Time is tokio's paused one: it jumps to the next timer, and the clocks with it.

use super::*;
use crate::provider::test_provider::SigningKey;
use crate::provider::{ClientAuth, Dialect, HttpClient, Kind};
use crate::session::opened::Opened;
use crate::session::store::{
    Claim, Creation, Filter, Lease, Lookup, MemoryStore, OnceName, Page, Record, Replacement, SessionStore, StoreError,
};
use crate::session::{self, Found, Identity, Opening, SessionId, Update};
use crate::{clock::Mono, provider};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

const ISSUER: &str = "https://op.example";
const SECOND: Duration = Duration::from_secs(1);

// ------------------------------------------------------------------------------------ one flight

// RF-03
#[tokio::test(start_paused = true)]
async fn five_replicas_with_two_hundred_requests_each_make_one_call() {
    let world = World::new();
    world.op.latency_millis(0, 3000);
    let replicas: Vec<Replica> = (0..5).map(|_| world.replica()).collect();
    let session = world.sign_in("ada").await;
    for generation in 2..6 {
        let mut requests = JoinSet::new();
        for number in 0..1000 {
            let replica = replicas[number % 5].clone();
            let seen = replica.find(&session).await.unwrap();
            requests.spawn(async move {
                sleep(Duration::from_millis(fastrand::u64(0..500))).await;
                replica.tokens.renew(&seen).await
            });
        }
        while let Some(renewal) = requests.join_next().await {
            assert_eq!(generation_of(renewal.unwrap()), generation);
        }
        assert_eq!((world.op.refreshes(), world.op.reuses()), (generation as usize - 1, 0));
    }
}

// RF-04
#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_while_the_provider_is_slow() {
    let world = World::new();
    world.op.latency_millis(15_000, 15_000);
    let [one, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    let (first, second) = tokio::join!(one.tokens.renew(&session), async {
        sleep(SECOND).await;
        other.tokens.renew(&session).await
    });
    assert_eq!((generation_of(first), generation_of(second)), (2, 2));
    assert_eq!((world.op.refreshes(), world.op.reuses()), (1, 0));
}

// RF-05: as after SIGSTOP and SIGCONT
#[tokio::test(start_paused = true)]
async fn who_slept_past_its_lease_does_not_send() {
    // Just after the lease; and when it has asked the store once more, right before the request goes out.
    for (name, call) in [("lease", 1), ("find", 2)] {
        let world = World::new();
        let [sleeper, other] = [world.replica(), world.replica()];
        let session = world.sign_in("ada").await;
        sleeper.store.freeze_after_call(name, call);
        let asleep = spawn_renew(&sleeper, &session);
        sleeper.store.frozen().await;
        sleep(6 * SECOND).await;
        assert_eq!(generation_of(other.tokens.renew(&session).await), 2);
        sleeper.store.thaw();
        assert_eq!(generation_of(asleep.await.unwrap()), 2);
        assert_eq!((world.op.refreshes(), world.op.reuses()), (1, 0), "{name}");
    }
}

// RF-05
#[tokio::test(start_paused = true)]
async fn what_a_sleeper_brings_too_late_is_not_stored_and_given_back() {
    let world = World::new();
    world.op.change(|op| op.is_lenient = true);
    let [sleeper, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    world.op.latency_millis(1000, 1000);
    let asleep = spawn_renew(&sleeper, &session);
    world.op.called(1).await;
    sleeper.store.freeze();
    sleep(10 * SECOND).await;
    let winner = state_of(other.tokens.renew(&session).await);
    sleeper.store.thaw();
    let late = state_of(asleep.await.unwrap());
    let token = |session: &Session| session.tokens.access_token.expose_secret().to_owned();
    assert_eq!(token(&late), token(&winner), "the winner's result is everybody's");
    assert_eq!(token(&other.find(&session).await.unwrap()), token(&winner));
    sleep(SECOND).await;
    let revoked = world.op.change(|op| op.revoked.clone());
    assert_eq!(revoked.len(), 1);
    assert_ne!(revoked[0], winner.tokens.refresh_token.as_ref().unwrap().expose_secret());
}

// RF-17, and the predecessor generation: whoever still carries it gets the successor, without a call
#[tokio::test(start_paused = true)]
async fn a_newer_generation_is_taken_and_not_made() {
    let world = World::new();
    let [one, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    one.tokens.renew(&session).await;
    let second = one.find(&session).await.unwrap();
    one.tokens.renew(&second).await;
    assert_eq!(generation_of(other.tokens.renew(&session).await), 3);
    assert_eq!(generation_of(one.tokens.renew(&second).await), 3);
    assert_eq!(world.op.refreshes(), 2);
}

// RF-23
#[tokio::test(start_paused = true)]
async fn a_panic_frees_the_place_and_the_lease_at_once() {
    let world = World::new();
    let replica = world.replica();
    let session = world.sign_in("ada").await;
    world.op.next(Fault::Panic);
    let started = tokio::time::Instant::now();
    assert!(matches!(replica.tokens.renew(&session).await, Renewal::Outage(Outage::Broken)));
    assert_eq!(generation_of(replica.tokens.renew(&session).await), 2);
    assert!(started.elapsed() < SECOND);
}

// RF-24
#[tokio::test(start_paused = true)]
async fn waiters_have_their_own_deadline_and_a_bound() {
    let world = World::new();
    let replica = world.replica();
    let session = world.sign_in("ada").await;
    world.op.latency_millis(1_000_000, 1_000_000);
    let mut waiters = JoinSet::new();
    for _ in 0..MOST_WAITERS + 50 {
        let (replica, session) = (replica.clone(), Arc::clone(&session));
        waiters.spawn(async move {
            let started = tokio::time::Instant::now();
            let renewal = replica.tokens.renew(&session).await;
            assert!(matches!(renewal, Renewal::Outage(Outage::Provider { .. })));
            started.elapsed()
        });
    }
    let mut at_once = 0;
    while let Some(waited) = waiters.join_next().await {
        let waited = waited.unwrap();
        assert!(waited <= 2 * TIMEOUT + SECOND, "{waited:?}");
        at_once += usize::from(waited < SECOND);
    }
    assert_eq!(at_once, 50);
}

// RF-27
#[tokio::test(start_paused = true)]
async fn a_refresh_does_not_move_the_end_of_the_session() {
    let world = World::new();
    let replica = world.replica();
    let session = world.sign_in("ada").await;
    replica.clock.advance(Duration::from_secs(71 * 3600));
    let renewed = state_of(replica.tokens.renew(&session).await);
    assert_eq!((renewed.tokens.generation, renewed.started), (2, session.started));
    replica.clock.advance(Duration::from_secs(3600));
    assert!(replica.find(&session).await.is_none());
}

// RF-16: a forced refresh has the guard, too
#[tokio::test(start_paused = true)]
async fn a_refresh_on_demand_of_what_is_fresh_makes_no_call() {
    let world = World::new();
    let replica = world.replica();
    let session = world.sign_in("ada").await;
    let renewed = state_of(replica.tokens.renew_on_demand(&session).await);
    for _ in 0..100 {
        assert_eq!(generation_of(replica.tokens.renew_on_demand(&renewed).await), 2);
    }
    assert_eq!(world.op.refreshes(), 1);
    sleep(6 * SECOND).await;
    assert_eq!(generation_of(replica.tokens.renew_on_demand(&renewed).await), 3);
}

// ------------------------------------------------------------------ what the provider says, or not

// RF-11
#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_session_once() {
    let world = World::new();
    let [one, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    world.op.next(Fault::Status(400, json!({"error": "invalid_grant"})));
    world.op.latency_millis(500, 500);
    let (first, second) = tokio::join!(one.tokens.renew(&session), other.tokens.renew(&session));
    let refused = [&first, &second].into_iter().filter(|renewal| matches!(renewal, Renewal::Refused)).count();
    let gone = [&first, &second].into_iter().filter(|renewal| matches!(renewal, Renewal::Gone)).count();
    assert_eq!((refused, gone, world.op.refreshes()), (1, 1, 1));
    assert!(one.find(&session).await.is_none());
}

// RF-11
#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_count_when_somebody_else_was_faster() {
    let world = World::new();
    let [one, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    world.op.latency_millis(500, 500);
    world.op.next(Fault::Status(400, json!({"error": "invalid_grant"})));
    let renewal = spawn_renew(&one, &session);
    world.op.called(1).await;
    let newer = Arc::new(TokenSet::new("newer".into(), 2, Mono(0)).unwrap());
    let update = other
        .sessions
        .update(&session, move |session| Some(session.renewed(Arc::clone(&newer), session.identity.claims.clone())));
    assert!(matches!(update.await, Ok(Update::Stored(_))));
    assert_eq!(state_of(renewal.await.unwrap()).tokens.access_token.expose_secret(), "newer");
}

// RF-12, RF-15
#[tokio::test(start_paused = true)]
async fn what_is_not_the_users_fault_keeps_the_session() {
    for (status, body) in [
        (500, json!({})),
        (503, json!({})),
        (429, json!({})),
        (401, json!({"error": "invalid_client"})),
        (400, json!({"error": "unauthorized_client"})),
    ] {
        let world = World::new();
        let replica = world.replica();
        let session = world.sign_in("ada").await;
        world.op.next(Fault::Status(status, body));
        assert!(matches!(replica.tokens.renew(&session).await, Renewal::Outage(Outage::Provider { .. })), "{status}");
        sleep(3 * SECOND).await;
        assert_eq!(generation_of(replica.tokens.renew(&session).await), 2, "{status}");
    }
}

// RF-13
#[tokio::test(start_paused = true)]
async fn retry_after_holds_for_all_sessions() {
    let world = World::new();
    let replica = world.replica();
    let [ada, eve] = [world.sign_in("ada").await, world.sign_in("eve").await];
    world.op.next(Fault::RetryAfter("30"));
    let Renewal::Outage(Outage::Provider { retry_after }) = replica.tokens.renew(&ada).await else { panic!() };
    assert_eq!(retry_after, 30 * SECOND);
    sleep(28 * SECOND).await;
    assert!(matches!(replica.tokens.renew(&eve).await, Renewal::Outage(Outage::Provider { .. })));
    assert_eq!(world.op.refreshes(), 1);
    sleep(3 * SECOND).await;
    assert_eq!(generation_of(replica.tokens.renew(&eve).await), 2);
}

// RF-14
#[tokio::test]
async fn a_lost_connection_is_tried_once_more_and_no_oftener() {
    for (lost, expected_calls, is_renewed) in [(1, 2, true), (2, 2, false)] {
        let world = World::new();
        let replica = world.replica_over_tcp(lost).await;
        let session = world.sign_in("ada").await;
        let renewal = replica.tokens.renew(&session).await;
        assert_eq!(matches!(renewal, Renewal::Renewed(_)), is_renewed);
        assert_eq!(world.op.lost_calls() + world.op.refreshes(), expected_calls);
        assert!(replica.find(&session).await.is_some());
    }
}

// RF-14
#[tokio::test]
async fn after_a_lost_connection_the_store_is_asked_first() {
    let world = World::new();
    let [replica, other] = [world.replica_over_tcp(1).await, world.replica()];
    let session = world.sign_in("ada").await;
    replica.store.freeze_before_call("find", 3);
    let renewal = spawn_renew(&replica, &session);
    replica.store.frozen().await;
    let newer = Arc::new(TokenSet::new("newer".into(), 2, Mono(0)).unwrap());
    let update = other
        .sessions
        .update(&session, move |session| Some(session.renewed(Arc::clone(&newer), session.identity.claims.clone())));
    assert!(matches!(update.await, Ok(Update::Stored(_))));
    replica.store.thaw();
    assert!(!matches!(renewal.await.unwrap(), Renewal::Refused));
    assert_eq!((world.op.lost_calls(), world.op.refreshes()), (1, 0));
}

// -------------------------------------------------------------------------------------- the store

// RF-10
#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_is_served_and_tried_again() {
    let world = World::new();
    let [one, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    one.store.fail("replace");
    assert_eq!(generation_of(one.tokens.renew(&session).await), 2, "served at once");
    assert_eq!(generation_of(one.tokens.renew(&session).await), 2, "to whoever comes later, too");
    let elsewhere = spawn_renew(&other, &session);
    sleep(15 * SECOND).await;
    assert_eq!(world.op.refreshes(), 1, "nobody spends the old token again");
    one.store.heal();
    assert_eq!(generation_of(elsewhere.await.unwrap()), 2);
    assert_eq!((world.op.refreshes(), world.op.reuses()), (1, 0));
    assert_eq!(generation_of(one.tokens.renew(&other.find(&session).await.unwrap()).await), 3);
}

// RF-10: the store is gone for all
#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_costs_no_session() {
    let world = World::new();
    let [one, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    world.op.latency_millis(500, 500);
    let renewal = spawn_renew(&one, &session);
    world.op.called(1).await;
    one.store.fail("");
    other.store.fail("");
    assert_eq!(generation_of(renewal.await.unwrap()), 2);
    assert!(matches!(other.tokens.renew(&session).await, Renewal::Outage(Outage::Store)));
    sleep(50 * SECOND).await;
    one.store.heal();
    sleep(SECOND).await;
    other.store.heal();
    assert_eq!(generation_of(other.tokens.renew(&session).await), 2);
    assert_eq!((world.op.refreshes(), world.op.reuses()), (1, 0));
}

// RF-07: the answer is lost with the process that had it
#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_a_clean_end() {
    let world = World::new();
    let [dying, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    dying.store.freeze_before("replace");
    drop(spawn_renew(&dying, &session));
    dying.store.frozen().await;
    sleep(6 * SECOND).await;
    assert!(matches!(other.tokens.renew(&session).await, Renewal::Refused));
    assert!(other.find(&session).await.is_none());
    assert_eq!((world.op.refreshes(), world.op.reuses()), (2, 1), "the spent token came once more, and no oftener");
}

// RF-06: killed before the request went out
#[tokio::test(start_paused = true)]
async fn others_go_on_when_the_lease_of_the_dead_is_over() {
    let world = World::new();
    let [dying, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    dying.store.freeze_after("lease");
    drop(spawn_renew(&dying, &session));
    dying.store.frozen().await;
    let started = tokio::time::Instant::now();
    assert_eq!(generation_of(other.tokens.renew(&session).await), 2);
    assert!(started.elapsed() < 6 * SECOND);
    assert_eq!(world.op.reuses(), 0);
}

// RF-28
#[tokio::test(start_paused = true)]
async fn a_session_that_ends_meanwhile_stays_ended() {
    for point in ["lease", "call", "replace"] {
        let world = World::new();
        let [one, other] = [world.replica(), world.replica()];
        let session = world.sign_in("ada").await;
        world.op.latency_millis(500, 500);
        match point {
            "call" => {}
            "lease" => one.store.freeze_after("lease"),
            _ => one.store.freeze_before("replace"),
        }
        let renewal = spawn_renew(&one, &session);
        match point {
            "call" => world.op.called(1).await,
            _ => one.store.frozen().await,
        }
        other.sessions.end(session.key).await.unwrap();
        one.store.thaw();
        assert!(matches!(renewal.await.unwrap(), Renewal::Gone), "{point}");
        assert!(other.find(&session).await.is_none());
        sleep(SECOND).await;
        let revoked = world.op.change(|op| op.revoked.len());
        assert_eq!(revoked, usize::from(point != "lease"), "{point}: what came for nobody is given back");
    }
}

// ------------------------------------------------------------------------------------- the audit

// RF-34
#[tokio::test(start_paused = true)]
async fn each_outcome_is_one_line_without_a_token() {
    type Weather = fn() -> Option<Fault>;
    let outcomes: [(&str, &str, Weather); 5] = [
        ("refresh", "refreshed", || None),
        ("refresh_refused", "invalid_grant", || Some(Fault::Status(400, json!({"error": "invalid_grant"})))),
        ("refresh_failed", "server_error_status", || Some(Fault::Status(503, json!({})))),
        ("refresh_failed", "too_many_requests", || Some(Fault::RetryAfter("30"))),
        ("refresh_failed", "invalid_client", || Some(Fault::Status(401, json!({"error": "invalid_client"})))),
    ];
    for (event, reason, fault) in outcomes {
        let (world, log) = (World::new(), Log::of_this_thread());
        world.op.latency_millis(300, 300);
        let (replica, session) = (world.replica(), world.sign_in("ada").await);
        fault().into_iter().for_each(|fault| world.op.next(fault));
        replica.tokens.renew(&session).await;
        log.is_one_line(&session, event, reason, 250..=1000);
    }

    let (world, log) = (World::new(), Log::of_this_thread());
    let (replica, session) = (world.replica(), world.sign_in("ada").await);
    replica.store.freeze_before("replace");
    let renewal = spawn_renew(&replica, &session);
    replica.store.frozen().await;
    world.sessions.end(session.key).await.unwrap();
    replica.store.thaw();
    renewal.await.unwrap();
    log.is_one_line(&session, "refresh_superseded", "session_ended", 0..=1000);

    let (world, log) = (World::new(), Log::of_this_thread());
    let [dying, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    dying.store.freeze_before("replace");
    drop(spawn_renew(&dying, &session));
    dying.store.frozen().await;
    world.op.next(Fault::Status(400, json!({"error": "invalid_grant"})));
    other.tokens.renew(&session).await;
    log.is_one_line(&session, "refresh_lost", "invalid_grant", 4000..=8000);

    let (world, log) = (World::durable(), Log::of_this_thread());
    let (replica, session) = (world.replica(), world.sign_in("ada").await);
    world.op.change(|op| op.subject_of_id_tokens = Some("eve"));
    replica.tokens.renew(&session).await;
    log.is_one_line(&session, "refresh_other_subject", "token_other_sub", 0..=1000);
}

// ------------------------------------------------------------------------- answers not yet checked

#[tokio::test(start_paused = true)]
async fn an_answer_is_stored_before_its_keys_are_fetched_and_checked_by_whoever_finds_it() {
    let world = World::durable();
    let [dying, other] = [world.replica(), world.replica()];
    let session = world.sign_in("ada").await;
    world.op.change(|op| op.jwks_latency = Duration::from_secs(1000));
    drop(spawn_renew(&dying, &session));
    world.op.called(1).await;
    sleep(SECOND).await;
    let early = other.find(&session).await.unwrap();
    assert_eq!((early.tokens.generation, early.tokens.unchecked), (2, true));
    let now = other.clock.now();
    assert!(other.tokens.freshness(&early, now) == Freshness::Expired, "it is sent to nobody");
    dying.store.freeze();
    world.op.change(|op| op.jwks_latency = Duration::ZERO);
    sleep(6 * SECOND).await;
    for seen in [&session, &early] {
        let checked = state_of(other.tokens.renew(seen).await);
        assert_eq!((checked.tokens.generation, checked.tokens.unchecked), (2, false));
        assert_eq!(checked.identity.claims["name"], "ada, generation 2");
    }
    assert_eq!((world.op.refreshes(), world.op.reuses()), (1, 0), "no second call");
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_somebody_else_ends_the_session_also_when_it_was_stored() {
    let world = World::durable();
    let replica = world.replica();
    let session = world.sign_in("ada").await;
    world.op.change(|op| (op.jwks_latency, op.subject_of_id_tokens) = (SECOND, Some("eve")));
    assert!(matches!(replica.tokens.renew(&session).await, Renewal::Refused));
    assert!(replica.find(&session).await.is_none());
    sleep(SECOND).await;
    assert_eq!(world.op.change(|op| op.revoked.len()), 1);
}

// ------------------------------------------------------------------------------------ many at once

// RF-20
#[tokio::test(start_paused = true)]
async fn ten_thousand_sessions_that_expire_at_once_are_served_in_turn() {
    const SESSIONS: usize = 10_000;
    let world = World::new();
    let replica = world.replica();
    // 64 at a time, 1.28 s each: 50 a second.
    world.op.latency_millis(1280, 1280);
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        sessions.push(world.sign_in(&format!("user-{number}")).await);
    }
    for session in &sessions {
        replica.tokens.renew_behind(session);
        tokio::task::yield_now().await;
    }
    let Renewal::Outage(Outage::Provider { .. }) = replica.tokens.renew(&sessions[SESSIONS - 1]).await else {
        panic!("in time?")
    };
    assert!(world.op.refreshes() < SESSIONS / 5);
    sleep(200 * SECOND).await;
    assert_eq!((world.op.refreshes(), world.op.reuses()), (SESSIONS, 0));
    assert!(world.op.change(|op| op.most_running) <= 64);
    let served = world.op.change(|op| op.served.clone());
    let places: Vec<usize> = served.iter().map(|user| user["user-".len()..].parse().unwrap()).collect();
    let overtaken = places.iter().enumerate().map(|(at, &place)| at.abs_diff(place)).max();
    assert!(overtaken < Some(64), "first come, first served: {overtaken:?}");
    assert_eq!(replica.find(&sessions[SESSIONS - 1]).await.unwrap().tokens.generation, 2);
}

#[test]
fn a_waiting_flight_is_small() {
    // RF-20: 16,384 of them may wait.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new();
        let (replica, session) = (world.replica(), world.sign_in("ada").await);
        let size = flight::size_of_one(&replica.tokens.shared, &session);
        assert!(size < 8 * 1024, "{size} bytes");
    });
}

/// RF-03, RF-06, RF-22, RF-35: replicas at random, of which some sleep, at any point, for longer than their lease
/// holds. `LATCHGATE_SEED` runs one of the orders again.
#[test]
fn many_orders_of_everything() {
    let one = std::env::var("LATCHGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(0..150, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            fastrand::seed(seed);
            runtime.block_on(at_random(seed % 3 == 0));
        });
        assert!(run.is_ok(), "LATCHGATE_SEED={seed}");
    }
}

async fn at_random(some_sleep: bool) {
    let world = World::new();
    world.op.latency_millis(0, 3000);
    world.slow_store(200);
    let replicas: Vec<Replica> = (0..3).map(|_| world.replica()).collect();
    let sessions = [world.sign_in("ada").await, world.sign_in("eve").await];
    let mut requests = JoinSet::new();
    for number in 0..30 {
        let (replica, session) = (replicas[number % 3].clone(), Arc::clone(&sessions[number / 3 % 2]));
        requests.spawn(async move {
            sleep(Duration::from_millis(fastrand::u64(0..10_000))).await;
            let seen = replica.find(&session).await?;
            assert!(!seen.tokens.unchecked);
            match replica.tokens.renew(&seen).await {
                Renewal::Renewed(renewed) => {
                    assert!(renewed.tokens.generation > seen.tokens.generation);
                    let token = renewed.tokens.access_token.expose_secret().to_owned();
                    let owner = &session.identity.subject;
                    assert!(token.starts_with(&format!("at-{owner}-")), "{owner} has {token}");
                    Some(renewed.tokens.generation)
                }
                Renewal::NothingToRenewWith | Renewal::Outage(Outage::Broken) | Renewal::Outage(Outage::Store) => {
                    panic!("why?")
                }
                Renewal::Refused | Renewal::Gone | Renewal::Outage(Outage::Provider { .. }) => None,
            }
        });
    }
    let sleeps = if some_sleep { 2 } else { 0 };
    for _ in 0..sleeps {
        sleep(Duration::from_millis(fastrand::u64(0..5000))).await;
        let replica = &replicas[fastrand::usize(0..3)];
        replica.store.freeze();
        sleep(Duration::from_millis(fastrand::u64(0..10_000))).await;
        replica.store.thaw();
    }
    let mut renewed = 0;
    while let Some(generation) = requests.join_next().await {
        renewed += usize::from(generation.unwrap().is_some());
    }
    let most = sleeps * sessions.len();
    assert!(world.op.reuses() <= most, "a spent token comes again only after a sleep that outlived the lease");
    if !some_sleep {
        assert_eq!(renewed, 30);
        let generations: u64 =
            generations_of(&replicas[0], &sessions).await.into_iter().map(|generation| generation - 1).sum();
        assert_eq!(world.op.refreshes() as u64, generations, "each call is a generation");
    }
}

async fn generations_of(replica: &Replica, sessions: &[Arc<Session>]) -> Vec<u64> {
    let mut generations = Vec::new();
    for session in sessions {
        generations.push(replica.find(session).await.unwrap().tokens.generation);
    }
    generations
}

// -------------------------------------------------------------------------------------- the world

const TIMEOUT: Duration = Duration::from_secs(10);

fn generation_of(renewal: Renewal) -> u64 {
    state_of(renewal).tokens.generation
}

fn state_of(renewal: Renewal) -> Arc<Session> {
    match renewal {
        Renewal::Renewed(session) => session,
        Renewal::Refused => panic!("refused"),
        Renewal::NothingToRenewWith => panic!("nothing to renew with"),
        Renewal::Gone => panic!("gone"),
        Renewal::Outage(Outage::Broken) => panic!("broken"),
        Renewal::Outage(Outage::Store) => panic!("store unavailable"),
        Renewal::Outage(Outage::Provider { .. }) => panic!("unavailable"),
    }
}

fn spawn_renew(replica: &Replica, seen: &Arc<Session>) -> tokio::task::JoinHandle<Renewal> {
    let (replica, seen) = (replica.clone(), Arc::clone(seen));
    tokio::spawn(async move { replica.tokens.renew(&seen).await })
}

/// A store, a provider, a clock that follows tokio's.
struct World {
    store: Arc<MemoryStore>,
    /// Of nobody's gateway: for logins.
    sessions: Sessions,
    is_durable: bool,
    slowness_millis: AtomicU64,
    op: Op,
    clock: Clock,
}

/// A gateway: what it shares with others is the store.
#[derive(Clone)]
struct Replica {
    tokens: Arc<Tokens>,
    sessions: Sessions,
    store: Arc<Gated>,
    clock: Clock,
}

impl World {
    fn new() -> World {
        let clock = Clock::system();
        let ticking = clock.clone();
        tokio::spawn(async move {
            loop {
                sleep(TICK).await;
                ticking.advance(TICK);
            }
        });
        let store = Arc::new(MemoryStore::new(20_000));
        let shared: Arc<dyn SessionStore> = Arc::clone(&store) as _;
        let background = Background::on_current_runtime();
        let sessions = Sessions::new(session_settings(), shared, Opened::new(1), background, clock.clone());
        World {
            store,
            sessions: sessions.unwrap(),
            is_durable: false,
            slowness_millis: AtomicU64::new(0),
            op: Op::new(clock.clone()),
            clock,
        }
    }

    /// With a store that survives, and a provider that sends ID tokens.
    fn durable() -> World {
        let world = World { is_durable: true, ..World::new() };
        world.op.change(|op| op.sends_id_tokens = true);
        world
    }

    fn slow_store(&self, most_millis: u64) {
        self.slowness_millis.store(most_millis, SeqCst);
    }

    fn replica(&self) -> Replica {
        let op = self.op.clone();
        let http = HttpClient::in_process(move |request| {
            let op = op.clone();
            async move { op.answer(request).await }
        });
        let endpoint = |path: &str| format!("{ISSUER}{path}").parse().unwrap();
        let kind = match self.is_durable {
            true => Kind::Oidc { issuer: ISSUER.to_owned() },
            false => Kind::OAuth2 {
                authorization_endpoint: endpoint("/authorize"),
                token_endpoint: endpoint("/token"),
                userinfo_endpoint: endpoint("/userinfo"),
                revocation_endpoint: Some(endpoint("/revoke")),
                subject: None,
            },
        };
        self.replica_with(kind, http)
    }

    /// The provider is on a port, and loses its first connections when it has read what came.
    async fn replica_over_tcp(&self, lost: usize) -> Replica {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let op = self.op.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if op.lost_calls() < lost {
                    stream.readable().await.unwrap();
                    let _ = stream.try_read(&mut [0; 4096]);
                    op.0.lost_calls.fetch_add(1, SeqCst);
                    continue;
                }
                let op = op.clone();
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let op = op.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let body = http_body_util::BodyExt::collect(body).await?.to_bytes();
                        let answer = op.answer(Request::from_parts(head, body)).await;
                        Ok::<_, hyper::Error>(answer.map(http_body_util::Full::new))
                    }
                });
                let stream = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
            }
        });
        let endpoint = |path: &str| format!("http://{address}{path}").parse().unwrap();
        let kind = Kind::OAuth2 {
            authorization_endpoint: endpoint("/authorize"),
            token_endpoint: endpoint("/token"),
            userinfo_endpoint: endpoint("/userinfo"),
            revocation_endpoint: None,
            subject: None,
        };
        self.replica_with(kind, HttpClient::network(crate::tls::client_config()))
    }

    fn replica_with(&self, kind: Kind, http: HttpClient) -> Replica {
        let store = Arc::new(Gated {
            inner: Arc::clone(&self.store),
            is_durable: self.is_durable,
            slowness_millis: self.slowness_millis.load(SeqCst),
            frozen: watch::Sender::new(false),
            freeze_at: Mutex::default(),
            failing: Mutex::default(),
        });
        let opened = Opened::new(1 << 20);
        // Nobody tells this replica what the others write.
        opened.trust(false);
        let background = Background::on_current_runtime();
        let shared_store: Arc<dyn SessionStore> = Arc::clone(&store) as _;
        let sessions =
            Sessions::new(session_settings(), shared_store, opened, background.clone(), self.clock.clone()).unwrap();
        let settings = provider::Settings {
            name: "corp".to_owned(),
            kind,
            client_id: "app".to_owned(),
            client_secret: None,
            client_auth: ClientAuth::None,
            scopes: Vec::new(),
            timeout: 2 * TIMEOUT,
            title: None,
            dialect: Dialect::default(),
        };
        let provider = Arc::new(Provider::new(settings, http, self.clock.clone()));
        let settings = Settings {
            early: Duration::from_secs(30),
            timeout: TIMEOUT,
            grace: Duration::from_secs(60),
            cooldown: Duration::from_secs(5),
        };
        let providers = HashMap::from([(Arc::from("corp"), provider)]);
        let tokens = Tokens::new(settings, sessions.clone(), providers, self.clock.clone(), background);
        Replica { tokens: Arc::new(tokens), sessions, store, clock: self.clock.clone() }
    }

    async fn sign_in(&self, user: &str) -> Arc<Session> {
        let tokens = TokenSet::new(format!("at-{user}-1").into(), 1, self.clock.mono()).unwrap();
        let opening = Opening {
            provider: "corp".into(),
            identity: Identity { issuer: ISSUER.into(), subject: user.into(), sid: None, claims: Map::new() },
            tokens: TokenSet { refresh_token: Some(format!("rt-{user}-1").into()), ..tokens },
            began: self.clock.mono(),
            transient: false,
        };
        self.sessions.open(opening, self.clock.now()).await.unwrap()
    }
}

fn session_settings() -> session::Settings {
    session::Settings {
        store: session::StoreSettings::Memory,
        idle_timeout: Duration::from_secs(72 * 3600),
        absolute_timeout: Duration::from_secs(72 * 3600),
        max_sessions: 20_000,
        cache_memory: 1 << 20,
        max_sessions_per_user: 10,
        secrets: vec!["0123456789abcdef0123456789abcdef".into()],
    }
}

impl Replica {
    async fn find(&self, session: &Session) -> Option<Arc<Session>> {
        let id = SessionId::parse(&session.id().to_cookie_value()).unwrap();
        match self.sessions.find(vec![id.into()], self.clock.now()).await.unwrap() {
            Found::Live(session) => Some(session),
            Found::Ended | Found::Nothing => None,
        }
    }
}

/// What this thread logs, at every level, as long as this lives.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guards: [tracing::subscriber::DefaultGuard; 2],
}

impl Log {
    fn of_this_thread() -> Log {
        let text = Arc::default();
        let writer = {
            let text = Arc::clone(&text);
            move || Writer(Arc::clone(&text))
        };
        // With a single subscriber an event that other threads come to first is switched off for all.
        let other = tracing::subscriber::set_default(tracing_subscriber::registry());
        let subscriber = tracing_subscriber::fmt().json().with_max_level(tracing::Level::TRACE).with_writer(writer);
        Log { text, _guards: [tracing::subscriber::set_default(subscriber.finish()), other] }
    }

    fn is_one_line(&self, session: &Session, event: &str, reason: &str, millis: std::ops::RangeInclusive<u64>) {
        let text = String::from_utf8(self.text.lock().unwrap().clone()).unwrap();
        assert!(!["at-ada", "rt-ada"].iter().any(|token| text.contains(token)), "{text}");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let audit: Vec<Value> = lines.filter(|line| line["target"] == "latchgate::audit").collect();
        let [line] = audit.as_slice() else { panic!("{event}: {audit:?}") };
        let fields = &line["fields"];
        assert_eq!((&fields["event"], &fields["reason"]), (&json!(event), &json!(reason)));
        assert_eq!((&fields["provider"], &fields["generation"]), (&json!("corp"), &json!(1)), "{event}");
        assert_eq!(fields["session"], session.key.to_string(), "{event}");
        assert!(fields["latency_ms"].as_u64().is_some_and(|took| millis.contains(&took)), "{line}");
    }
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A provider that rotates refresh tokens: `rt-ada-2` follows `rt-ada-1`.
#[derive(Clone)]
struct Op(Arc<OpInner>);

struct OpInner {
    state: std::sync::Mutex<OpState>,
    calls: watch::Sender<usize>,
    lost_calls: AtomicUsize,
    running: AtomicUsize,
    clock: Clock,
    key: SigningKey,
}

#[derive(Default)]
struct OpState {
    latency_millis: (u64, u64),
    jwks_latency: Duration,
    sends_id_tokens: bool,
    subject_of_id_tokens: Option<&'static str>,
    /// A spent token is answered with new ones, as within the grace of many providers.
    is_lenient: bool,
    newest: HashMap<String, u64>,
    dead: HashSet<String>,
    reuses: usize,
    revoked: Vec<String>,
    served: Vec<String>,
    most_running: usize,
    faults: VecDeque<Fault>,
}

/// What happens to the next call, instead of a refresh.
enum Fault {
    Panic,
    Status(u16, Value),
    RetryAfter(&'static str),
}

impl Op {
    fn new(clock: Clock) -> Op {
        Op(Arc::new(OpInner {
            state: std::sync::Mutex::default(),
            calls: watch::Sender::new(0),
            lost_calls: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            clock,
            key: SigningKey::es256("key-1"),
        }))
    }

    fn change<T>(&self, change: impl FnOnce(&mut OpState) -> T) -> T {
        change(&mut self.0.state.lock().unwrap())
    }

    fn latency_millis(&self, least: u64, most: u64) {
        self.change(|op| op.latency_millis = (least, most));
    }

    fn next(&self, fault: Fault) {
        self.change(|op| op.faults.push_back(fault));
    }

    fn refreshes(&self) -> usize {
        *self.0.calls.borrow()
    }

    fn lost_calls(&self) -> usize {
        self.0.lost_calls.load(SeqCst)
    }

    fn reuses(&self) -> usize {
        self.change(|op| op.reuses)
    }

    async fn called(&self, times: usize) {
        self.0.calls.subscribe().wait_for(|calls| *calls >= times).await.unwrap();
    }

    async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        let form: HashMap<String, String> = url::form_urlencoded::parse(request.body()).into_owned().collect();
        let at = |path: &str| format!("{ISSUER}{path}");
        match request.uri().path() {
            "/token" => self.refresh(&form["refresh_token"]).await,
            "/revoke" => {
                self.change(|op| op.revoked.push(form["token"].clone()));
                answer(200, &json!({}))
            }
            "/jwks" => {
                sleep(self.change(|op| op.jwks_latency)).await;
                answer(200, &json!({"keys": [self.0.key.jwk()]}))
            }
            "/userinfo" => {
                let token = request.headers()["authorization"].to_str().unwrap();
                let user = token.trim_start_matches("Bearer at-").rsplit_once('-').unwrap().0;
                answer(200, &json!({"sub": user}))
            }
            _ => answer(
                200,
                &json!({
                    "issuer": ISSUER, "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token"),
                    "jwks_uri": at("/jwks"), "revocation_endpoint": at("/revoke"),
                    "id_token_signing_alg_values_supported": ["ES256"],
                }),
            ),
        }
    }

    /// The token is spent when it comes; the answer takes its time.
    async fn refresh(&self, token: &str) -> Response<Bytes> {
        let fault = self.change(|op| op.faults.pop_front());
        let [_, user @ .., generation] = &token.split('-').collect::<Vec<_>>()[..] else { panic!("{token}") };
        let (user, generation) = (user.join("-"), generation.parse::<u64>().unwrap());
        let answered = match fault {
            Some(Fault::Panic) => panic!("as the test wants it"),
            Some(Fault::Status(status, body)) => answer(status, &body),
            Some(Fault::RetryAfter(seconds)) => {
                let mut answer = answer(429, &json!({}));
                answer.headers_mut().insert("retry-after", seconds.parse().unwrap());
                answer
            }
            None => self.change(|op| self.exchange(op, &user, generation)),
        };
        let running = self.0.running.fetch_add(1, SeqCst) + 1;
        let (least, most) = self.change(|op| {
            op.served.push(user);
            op.most_running = op.most_running.max(running);
            op.latency_millis
        });
        self.0.calls.send_modify(|calls| *calls += 1);
        sleep(Duration::from_millis(fastrand::u64(least..=most))).await;
        self.0.running.fetch_sub(1, SeqCst);
        answered
    }

    fn exchange(&self, op: &mut OpState, user: &str, generation: u64) -> Response<Bytes> {
        let newest = op.newest.entry(user.to_owned()).or_insert(1);
        if generation != *newest {
            op.reuses += 1;
            if !op.is_lenient {
                op.dead.insert(user.to_owned());
            }
        }
        if op.dead.contains(user) {
            return answer(400, &json!({"error": "invalid_grant"}));
        }
        *newest += 1;
        let generation = *newest;
        let now = self.0.clock.now().unix;
        let mut tokens = json!({
            "access_token": format!("at-{user}-{generation}"), "refresh_token": format!("rt-{user}-{generation}"),
            "token_type": "Bearer", "expires_in": 3600,
        });
        if op.sends_id_tokens {
            let claims = json!({
                "iss": ISSUER, "sub": op.subject_of_id_tokens.unwrap_or(user), "aud": "app", "exp": now + 300,
                "iat": now, "name": format!("{user}, generation {generation}"),
            });
            tokens["id_token"] = self.0.key.sign_claims(&claims).into();
        }
        answer(200, &tokens)
    }
}

fn answer(status: u16, body: &Value) -> Response<Bytes> {
    Response::builder().status(status).body(body.to_string().into()).unwrap()
}

/// The common store as one replica reaches it: it may freeze, as all of a process does when it is stopped, or fail.
struct Gated {
    inner: Arc<MemoryStore>,
    is_durable: bool,
    slowness_millis: u64,
    frozen: watch::Sender<bool>,
    freeze_at: std::sync::Mutex<Option<FreezeAt>>,
    failing: std::sync::Mutex<Option<&'static str>>,
}

struct FreezeAt {
    name: &'static str,
    call: usize,
    is_before: bool,
}

impl Gated {
    fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    fn freeze_after(&self, name: &'static str) {
        self.freeze_after_call(name, 1);
    }

    fn freeze_after_call(&self, name: &'static str, call: usize) {
        *self.freeze_at.lock().unwrap() = Some(FreezeAt { name, call, is_before: false });
    }

    fn freeze_before(&self, name: &'static str) {
        self.freeze_before_call(name, 1);
    }

    fn freeze_before_call(&self, name: &'static str, call: usize) {
        *self.freeze_at.lock().unwrap() = Some(FreezeAt { name, call, is_before: true });
    }

    async fn frozen(&self) {
        self.frozen.subscribe().wait_for(|frozen| *frozen).await.unwrap();
    }

    /// These calls, or all for "", do not get through.
    fn fail(&self, name: &'static str) {
        *self.failing.lock().unwrap() = Some(name);
    }

    fn heal(&self) {
        *self.failing.lock().unwrap() = None;
    }

    async fn way(&self, name: &str, is_before: bool) -> Result<(), StoreError> {
        let mut freeze_at = self.freeze_at.lock().unwrap().take();
        if let Some(at) = freeze_at.as_mut().filter(|at| at.name == name && at.is_before == is_before) {
            at.call -= 1;
            if at.call == 0 {
                self.freeze();
                freeze_at = None;
            }
        }
        *self.freeze_at.lock().unwrap() = freeze_at;
        if self.slowness_millis > 0 {
            sleep(Duration::from_millis(fastrand::u64(0..=self.slowness_millis))).await;
        }
        self.frozen.subscribe().wait_for(|frozen| !frozen).await.unwrap();
        let fails = self.failing.lock().unwrap().is_some_and(|failing| failing.is_empty() || failing == name);
        if fails { Err(StoreError { reason: "test" }) } else { Ok(()) }
    }
}

/// There and back.
macro_rules! through {
    ($self:ident, $name:ident ( $($argument:expr),* )) => {{
        $self.way(stringify!($name), true).await?;
        let answer = $self.inner.$name($($argument),*).await;
        $self.way(stringify!($name), false).await?;
        answer
    }};
}

#[async_trait]
impl SessionStore for Gated {
    async fn create(&self, key: SessionKey, record: Record, most: usize, now: Now) -> Result<Creation, StoreError> {
        through!(self, create(key, record, most, now))
    }

    async fn find(&self, key: SessionKey, now: Now) -> Result<Lookup, StoreError> {
        through!(self, find(key, now))
    }

    async fn replace(&self, key: SessionKey, seen: u64, record: Record, now: Now) -> Result<Replacement, StoreError> {
        through!(self, replace(key, seen, record, now))
    }

    async fn touch(&self, key: SessionKey, seen_at: Mono, expires: Mono) -> Result<(), StoreError> {
        through!(self, touch(key, seen_at, expires))
    }

    async fn remove(&self, key: SessionKey, now: Now) -> Result<bool, StoreError> {
        through!(self, remove(key, now))
    }

    async fn remove_where(&self, filter: &Filter, now: Now) -> Result<Vec<SessionKey>, StoreError> {
        through!(self, remove_where(filter, now))
    }

    async fn list(&self, filter: &Filter, cursor: Option<&str>, now: Now) -> Result<Page, StoreError> {
        through!(self, list(filter, cursor, now))
    }

    async fn lease(&self, claim: &Claim, now: Now) -> Result<Lease, StoreError> {
        through!(self, lease(claim, now))
    }

    async fn renew_lease(&self, claim: &Claim, now: Now) -> Result<bool, StoreError> {
        through!(self, renew_lease(claim, now))
    }

    async fn release_lease(&self, claim: &Claim, resolved: bool) -> Result<(), StoreError> {
        through!(self, release_lease(claim, resolved))
    }

    async fn take_once(&self, name: OnceName, life: Duration, now: Now) -> Result<bool, StoreError> {
        through!(self, take_once(name, life, now))
    }

    fn len(&self) -> Option<usize> {
        self.inner.len()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        through!(self, ping())
    }

    async fn sweep(&self, now: Now) -> Result<(), StoreError> {
        through!(self, sweep(now))
    }

    fn is_durable(&self) -> bool {
        self.is_durable
    }
}

const TICK: Duration = Duration::from_millis(10);
