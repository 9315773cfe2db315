//! A record is live until it expires and never after; visits prolong it.

use crate::stage::{Stage, Standing, fresh_key, next};
use latchgate::session::store::{Filter, Record, Replacement};

/// A record that lives for so many ticks.
fn short(stage: &Stage, ticks: u32) -> Record {
    Record { expires: stage.later(ticks), ..stage.record() }
}

pub async fn a_record_is_over_when_it_expires(stage: Stage) {
    let key = stage.created(short(&stage, 4)).await;
    assert_eq!(stage.standing(key).await, Standing::Live);
    stage.pass(2).await;
    assert_eq!(stage.standing(key).await, Standing::Live);
    stage.pass(2).await;
    assert_eq!(stage.standing(key).await, Standing::Ended);
    assert_eq!(stage.standing(key).await, Standing::Ended, "and stays so");
    assert!(stage.listed_keys(&Filter::default()).await.is_empty());
}

pub async fn what_has_expired_cannot_be_written(stage: Stage) {
    let record = short(&stage, 2);
    let key = stage.created(record.clone()).await;
    stage.pass(3).await;
    let newer = Record { expires: stage.later(100), ..next(&record, "newer") };
    let replaced = stage.here.replace(key, 1, newer, stage.now()).await.unwrap();
    assert!(matches!(replaced, Replacement::Gone), "{replaced:?}");
    assert_eq!(stage.standing(key).await, Standing::Ended);
}

pub async fn a_visit_prolongs(stage: Stage) {
    let key = stage.created(short(&stage, 4)).await;
    for _ in 0..3 {
        stage.pass(2).await;
        let (seen_at, expires) = (stage.now().mono, stage.later(4));
        stage.elsewhere.touch(key, seen_at, expires).await.unwrap();
        let record = stage.live(key).await;
        assert_eq!((record.last_seen, record.expires), (seen_at, expires));
    }
}

pub async fn a_visit_never_shortens(stage: Stage) {
    let record = short(&stage, 50);
    let key = stage.created(record.clone()).await;
    stage.elsewhere.touch(key, stage.now().mono, stage.later(2)).await.unwrap();
    assert_eq!(stage.live(key).await.expires, record.expires);
    stage.here.touch(key, latchgate::clock::Mono(1), stage.later(2)).await.unwrap();
    assert!(stage.live(key).await.last_seen >= record.last_seen, "nor does one that is reported late");
    stage.pass(3).await;
    assert_eq!(stage.standing(key).await, Standing::Live);
}

pub async fn a_visit_prolongs_no_further_than_it_says(stage: Stage) {
    let key = stage.created(short(&stage, 2)).await;
    stage.here.touch(key, stage.now().mono, stage.later(4)).await.unwrap();
    stage.pass(5).await;
    assert_eq!(stage.standing(key).await, Standing::Ended);
}

pub async fn a_visit_makes_no_new_version(stage: Stage) {
    let record = stage.record();
    let key = stage.created(record.clone()).await;
    let (seen_at, expires) = (stage.later(1), stage.later(200));
    stage.elsewhere.touch(key, seen_at, expires).await.unwrap();
    assert_eq!(stage.live(key).await, Record { last_seen: seen_at, expires, ..record.clone() });
    let replaced = stage.here.replace(key, 1, next(&record, "second"), stage.now()).await.unwrap();
    assert!(matches!(replaced, Replacement::Replaced), "{replaced:?}");
}

pub async fn a_visit_revives_nothing_that_has_expired(stage: Stage) {
    let key = stage.created(short(&stage, 2)).await;
    stage.pass(3).await;
    stage.here.touch(key, stage.now().mono, stage.later(100)).await.unwrap();
    assert_eq!(stage.standing(key).await, Standing::Ended);
}

pub async fn a_visit_of_nothing_is_nothing(stage: Stage) {
    let key = fresh_key();
    stage.here.touch(key, stage.now().mono, stage.later(100)).await.unwrap();
    assert_eq!(stage.standing(key).await, Standing::Unknown);
}
