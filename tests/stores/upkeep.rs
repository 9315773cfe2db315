//! Ping, sweep, count, close.

use crate::stage::{Stage, Standing};
use latchgate::session::store::{Filter, Record};

pub async fn a_store_answers_when_it_is_well(stage: Stage) {
    stage.here.ping().await.unwrap();
}

pub async fn sweeping_drops_what_is_over_and_nothing_else(stage: Stage) {
    let kept = stage.created(stage.record()).await;
    let over = stage.created(Record { expires: stage.later(2), ..stage.record() }).await;
    stage.pass(3).await;
    for store in [&stage.here, &stage.elsewhere] {
        store.sweep(stage.now()).await.unwrap();
    }
    assert_eq!(stage.standing(kept).await, Standing::Live);
    assert_ne!(stage.standing(over).await, Standing::Live);
    assert_eq!(stage.listed_keys(&Filter::default()).await.len(), 1);
    assert!(stage.here.len().is_none_or(|count| count == 1));
}

pub async fn a_store_that_counts_counts_right(stage: Stage) {
    let Some(none) = stage.here.len() else { return };
    assert_eq!(none, 0);
    let key = stage.created(stage.record()).await;
    stage.created(stage.record()).await;
    assert_eq!(stage.here.len(), Some(2));
    stage.here.remove(key, stage.now()).await.unwrap();
    stage.here.remove(key, stage.now()).await.unwrap();
    assert_eq!(stage.here.len(), Some(1));
}

pub async fn a_store_can_be_closed(stage: Stage) {
    stage.created(stage.record()).await;
    stage.here.close().await;
}
