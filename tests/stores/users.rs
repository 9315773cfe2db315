//! How many sessions there may be, of one user and of all.

use crate::stage::{ISSUER, MOST_SESSIONS, PLENTY, Stage, Standing, fresh_key, of_subject, together};
use latchgate::session::store::{Creation, Filter, Record};
use std::sync::Arc;

pub async fn the_oldest_of_the_same_user_goes(stage: Stage) {
    let bob = stage.created(stage.record_of("bob")).await;
    let namesake = stage.created(stage.record_about("https://other.test", "ada", None)).await;
    let mut keys = Vec::new();
    for number in 0..5 {
        let key = fresh_key();
        let creation = stage.side(number).create(key, stage.record(), 3, stage.now()).await.unwrap();
        let gone: Vec<_> = number.checked_sub(3).map(|oldest| keys[oldest]).into_iter().collect();
        assert_eq!(creation, Creation::Created { evicted: gone });
        keys.push(key);
        stage.pass_a_moment().await;
    }
    for (number, &key) in keys.iter().enumerate() {
        let expected = if number < 2 { Standing::Ended } else { Standing::Live };
        assert_eq!(stage.standing(key).await, expected, "number {number}");
    }
    assert_eq!(stage.standing(bob).await, Standing::Live);
    assert_eq!(stage.standing(namesake).await, Standing::Live, "another issuer's ada is somebody else");
}

pub async fn logins_at_once_keep_the_bound(stage: Stage) {
    let stage = Arc::new(stage);
    for _ in 0..10 {
        together(20, |number| {
            let stage = Arc::clone(&stage);
            async move {
                let created = stage.side(number).create(fresh_key(), stage.record(), 3, stage.now()).await.unwrap();
                assert!(matches!(created, Creation::Created { .. }), "{created:?}");
            }
        })
        .await;
        assert_eq!(stage.listed(&of_subject("ada")).await.len(), 3);
    }
}

pub async fn a_store_that_is_full_turns_logins_away_and_nobody_out(stage: Stage) {
    let stage = Arc::new(stage);
    let keys = together(MOST_SESSIONS, |number| {
        let stage = Arc::clone(&stage);
        async move { stage.created(stage.record_of(&number.to_string())).await }
    })
    .await;
    let late = fresh_key();
    let creation = stage.here.create(late, stage.record_of("late"), PLENTY, stage.now()).await.unwrap();
    assert_eq!(creation, Creation::Full);
    assert_eq!(stage.standing(late).await, Standing::Unknown);
    assert_eq!(stage.listed_keys(&Filter::default()).await, keys.iter().copied().collect());
    assert!(stage.here.remove(keys[0], stage.now()).await.unwrap());
    stage.created(stage.record_of("late")).await;
}

pub async fn what_is_over_makes_room(stage: Stage) {
    let stage = Arc::new(stage);
    together(MOST_SESSIONS, |number| {
        let stage = Arc::clone(&stage);
        async move {
            let record = Record { expires: stage.later(2), ..stage.record_about(ISSUER, &number.to_string(), None) };
            stage.created(record).await
        }
    })
    .await;
    stage.pass(3).await;
    stage.created(stage.record_of("late")).await;
}
