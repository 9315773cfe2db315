//! States, codes and `jti`s count once.

use crate::stage::{Stage, together};
use latchgate::session::store::OnceName;
use std::sync::Arc;

pub async fn a_name_counts_once_among_fifty(stage: Stage) {
    let stage = Arc::new(stage);
    for round in 0..10 {
        let name = OnceName::new("state", &round.to_string());
        let first = together(50, |number| {
            let stage = Arc::clone(&stage);
            async move { stage.side(number).take_once(name, stage.ticks(100), stage.now()).await.unwrap() }
        })
        .await;
        assert_eq!(first.into_iter().filter(|first| *first).count(), 1);
    }
}

pub async fn a_name_counts_again_after_its_life(stage: Stage) {
    let name = OnceName::new("jti", "1");
    let take = async || stage.here.take_once(name, stage.ticks(4), stage.now()).await.unwrap();
    assert!(take().await);
    stage.pass(2).await;
    assert!(!take().await, "nor does asking prolong it");
    stage.here.sweep(stage.now()).await.unwrap();
    assert!(!take().await, "nor sweeping end it");
    stage.pass(3).await;
    assert!(take().await);
    assert!(!take().await);
}

pub async fn names_of_different_purposes_never_meet(stage: Stage) {
    for (purpose, name) in [("state", "1"), ("code", "1"), ("state", "11"), ("state1", "1"), ("state", "1\0")] {
        assert!(stage.here.take_once(OnceName::new(purpose, name), stage.ticks(100), stage.now()).await.unwrap());
    }
}
