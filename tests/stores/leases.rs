//! The right to refresh one generation of one session.

use crate::stage::{Stage, together};
use latchgate::session::SessionKey;
use latchgate::session::store::{Claim, Lease};
use std::sync::Arc;

const CLEAN: Lease = Lease::Granted { interrupted: false };
const INTERRUPTED: Lease = Lease::Granted { interrupted: true };

/// Session and claims of several owners on its first generation, each for four ticks.
async fn claims<const N: usize>(stage: &Stage) -> [Claim; N] {
    let key = stage.created(stage.record()).await;
    std::array::from_fn(|number| claim(stage, key, 1, number as u128 + 1))
}

fn claim(stage: &Stage, key: SessionKey, generation: u64, owner: u128) -> Claim {
    Claim { key, generation, owner: owner << 90 | owner, life: stage.ticks(4) }
}

async fn lease(stage: &Stage, claim: &Claim) -> Lease {
    stage.side(claim.owner as usize % 2).lease(claim, stage.now()).await.unwrap()
}

pub async fn a_lease_is_granted_to_one_of_fifty(stage: Stage) {
    let claims = claims::<50>(&stage).await;
    let stage = Arc::new(stage);
    let leases = together(50, |number| {
        let stage = Arc::clone(&stage);
        async move { stage.side(number).lease(&claims[number], stage.now()).await.unwrap() }
    })
    .await;
    assert_eq!(leases.iter().filter(|lease| **lease == CLEAN).count(), 1);
    assert_eq!(leases.iter().filter(|lease| **lease == Lease::Held).count(), 49);
}

pub async fn a_lease_is_asked_for_twice_by_its_owner(stage: Stage) {
    let [ours, theirs] = claims(&stage).await;
    assert_eq!(lease(&stage, &ours).await, CLEAN);
    assert_eq!(lease(&stage, &ours).await, CLEAN, "the answer to the first was lost");
    assert_eq!(lease(&stage, &theirs).await, Lease::Held);
}

pub async fn a_lease_that_was_given_back_is_free(stage: Stage) {
    let [ours, theirs] = claims(&stage).await;
    assert_eq!(lease(&stage, &ours).await, CLEAN);
    stage.here.release_lease(&ours, true).await.unwrap();
    assert_eq!(lease(&stage, &theirs).await, CLEAN);
    assert_eq!(lease(&stage, &ours).await, Lease::Held);
}

pub async fn a_lease_that_was_given_back_unresolved_was_interrupted(stage: Stage) {
    let [first, second, third] = claims(&stage).await;
    assert_eq!(lease(&stage, &first).await, CLEAN);
    stage.here.release_lease(&first, false).await.unwrap();
    assert_eq!(lease(&stage, &second).await, INTERRUPTED);
    stage.elsewhere.release_lease(&second, false).await.unwrap();
    assert_eq!(lease(&stage, &third).await, INTERRUPTED, "nobody has resolved it yet");
}

pub async fn a_lease_that_ran_out_was_interrupted(stage: Stage) {
    let [ours, theirs] = claims(&stage).await;
    assert_eq!(lease(&stage, &ours).await, CLEAN);
    stage.pass(2).await;
    assert_eq!(lease(&stage, &theirs).await, Lease::Held);
    stage.pass(3).await;
    stage.here.sweep(stage.now()).await.unwrap();
    assert_eq!(lease(&stage, &theirs).await, INTERRUPTED);
}

pub async fn a_lease_that_ran_out_and_was_resolved_by_the_next_is_clean(stage: Stage) {
    let [first, second, third] = claims(&stage).await;
    assert_eq!(lease(&stage, &first).await, CLEAN);
    stage.pass(5).await;
    assert_eq!(lease(&stage, &second).await, INTERRUPTED);
    stage.here.release_lease(&second, true).await.unwrap();
    assert_eq!(lease(&stage, &third).await, CLEAN);
}

pub async fn a_lease_is_prolonged_by_its_owner(stage: Stage) {
    let [ours, theirs] = claims(&stage).await;
    assert_eq!(lease(&stage, &ours).await, CLEAN);
    for _ in 0..3 {
        stage.pass(2).await;
        assert!(stage.elsewhere.renew_lease(&ours, stage.now()).await.unwrap());
    }
    stage.pass(2).await;
    assert_eq!(lease(&stage, &theirs).await, Lease::Held);
}

pub async fn a_lease_is_not_prolonged_by_others(stage: Stage) {
    let [ours, theirs] = claims(&stage).await;
    assert!(!stage.here.renew_lease(&ours, stage.now()).await.unwrap(), "there is none");
    assert_eq!(lease(&stage, &ours).await, CLEAN);
    assert!(!stage.elsewhere.renew_lease(&theirs, stage.now()).await.unwrap());
    stage.here.release_lease(&ours, true).await.unwrap();
    assert!(!stage.here.renew_lease(&ours, stage.now()).await.unwrap(), "it was given back");
}

pub async fn a_lease_is_not_given_back_by_others(stage: Stage) {
    let [ours, theirs] = claims(&stage).await;
    assert_eq!(lease(&stage, &ours).await, CLEAN);
    for resolved in [true, false] {
        stage.elsewhere.release_lease(&theirs, resolved).await.unwrap();
        assert_eq!(lease(&stage, &theirs).await, Lease::Held);
    }
    assert!(stage.here.renew_lease(&ours, stage.now()).await.unwrap());
}

pub async fn a_lease_that_was_taken_over_is_lost(stage: Stage) {
    let [ours, theirs] = claims(&stage).await;
    assert_eq!(lease(&stage, &ours).await, CLEAN);
    stage.pass(5).await;
    assert_eq!(lease(&stage, &theirs).await, INTERRUPTED);
    assert!(!stage.here.renew_lease(&ours, stage.now()).await.unwrap());
    stage.here.release_lease(&ours, true).await.unwrap();
    assert!(stage.here.renew_lease(&theirs, stage.now()).await.unwrap(), "the late release did nothing");
    assert_eq!(lease(&stage, &ours).await, Lease::Held);
}

pub async fn the_next_generation_was_not_interrupted(stage: Stage) {
    let [first] = claims(&stage).await;
    let second = claim(&stage, first.key, 2, 2);
    assert_eq!(lease(&stage, &first).await, CLEAN);
    stage.pass(5).await;
    assert_eq!(lease(&stage, &second).await, CLEAN, "what became of the first generation is known");
}

pub async fn sessions_have_leases_of_their_own(stage: Stage) {
    let [ours] = claims(&stage).await;
    let [other] = claims(&stage).await;
    let other = Claim { owner: ours.owner + 1, ..other };
    assert_eq!(lease(&stage, &ours).await, CLEAN);
    assert_eq!(lease(&stage, &other).await, CLEAN);
}
