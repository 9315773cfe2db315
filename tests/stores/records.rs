//! A record is written under a key that nobody chose, once; a write replaces the version it has seen or nothing; what
//! was removed stays removed.

use crate::stage::{PLENTY, Stage, Standing, fresh_key, next, together};
use bytes::Bytes;
use latchgate::session::store::{Creation, Lookup, Replacement};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub async fn a_new_record_is_found_as_it_was_written(stage: Stage) {
    for sid in [None, Some("sid \u{1f512}\0")] {
        let mut record = stage.record_about("https://idp.test/ä:{}", "ada \"\\\r\n\0", sid);
        record.sealed = (0..=255).collect::<Vec<u8>>().into();
        record.about.provider = "corp \u{e9}".into();
        let key = fresh_key();
        let creation = stage.here.create(key, record.clone(), PLENTY, stage.now()).await.unwrap();
        assert_eq!(creation, Creation::Created { evicted: Vec::new() });
        assert_eq!(stage.live(key).await, record);
    }
}

pub async fn an_unknown_name_is_unknown(stage: Stage) {
    stage.created(stage.record()).await;
    assert_eq!(stage.standing(fresh_key()).await, Standing::Unknown);
}

pub async fn a_record_of_200_kib_is_kept_whole(stage: Stage) {
    let large = |seed: usize| Bytes::from_iter((0..200 * 1024).map(|byte| (byte % 251 + seed) as u8));
    let record = latchgate::session::store::Record { sealed: large(0), ..stage.record() };
    let key = stage.created(record.clone()).await;
    assert_eq!(stage.live(key).await, record);
    let newer = next(&record, large(3));
    let replaced = stage.here.replace(key, 1, newer.clone(), stage.now()).await.unwrap();
    assert!(matches!(replaced, Replacement::Replaced), "{replaced:?}");
    assert_eq!(stage.live(key).await, newer);
}

pub async fn a_write_replaces_the_version_it_has_seen(stage: Stage) {
    let first = stage.record();
    let key = stage.created(first.clone()).await;
    let second = next(&first, "second");
    let replaced = stage.here.replace(key, 1, second.clone(), stage.now()).await.unwrap();
    assert!(matches!(replaced, Replacement::Replaced), "{replaced:?}");
    assert_eq!(stage.live(key).await, second);
}

pub async fn a_write_that_has_seen_an_old_version_gets_the_newest(stage: Stage) {
    let first = stage.record();
    let key = stage.created(first.clone()).await;
    let second = next(&first, "second");
    stage.here.replace(key, 1, second.clone(), stage.now()).await.unwrap();
    for seen in [1, 3, 0, u64::MAX - 1] {
        let late = latchgate::session::store::Record { version: seen + 1, ..next(&first, "late") };
        let replaced = stage.elsewhere.replace(key, seen, late, stage.now()).await.unwrap();
        let Replacement::Conflict(newest) = replaced else { panic!("{seen}: {replaced:?}") };
        assert_eq!(newest, second);
    }
    assert_eq!(stage.live(key).await, second);
}

pub async fn a_record_that_never_was_cannot_be_replaced(stage: Stage) {
    let key = fresh_key();
    let replaced = stage.here.replace(key, 1, next(&stage.record(), "new"), stage.now()).await.unwrap();
    assert!(matches!(replaced, Replacement::Gone), "{replaced:?}");
    assert_eq!(stage.standing(key).await, Standing::Unknown);
}

pub async fn a_hundred_writers_lose_no_update(stage: Stage) {
    let key = stage.created(latchgate::session::store::Record { sealed: Bytes::new(), ..stage.record() }).await;
    let stage = Arc::new(stage);
    let rounds = together(WRITERS, |number| {
        let stage = Arc::clone(&stage);
        async move {
            let store = stage.side(number);
            let mut newest = stage.live(key).await;
            for round in 1.. {
                let mut sealed = newest.sealed.to_vec();
                sealed.push(u8::try_from(number).unwrap());
                match store.replace(key, newest.version, next(&newest, sealed), stage.now()).await.unwrap() {
                    Replacement::Replaced => return round,
                    Replacement::Conflict(newer) => {
                        assert!(newer.version > newest.version, "{} after {}", newer.version, newest.version);
                        newest = newer;
                    }
                    Replacement::Gone => panic!("nobody removed it"),
                }
            }
            unreachable!("each gets through")
        }
    })
    .await;
    let end = stage.live(key).await;
    assert_eq!(end.version, 1 + WRITERS as u64);
    assert_eq!(end.sealed.iter().collect::<HashSet<_>>().len(), WRITERS);
    assert!(rounds.into_iter().all(|rounds| rounds <= WRITERS), "one wins each round");
}

pub async fn a_removal_is_said_once(stage: Stage) {
    let key = stage.created(stage.record()).await;
    assert!(stage.here.remove(key, stage.now()).await.unwrap());
    assert_eq!(stage.standing(key).await, Standing::Ended);
    assert!(!stage.here.remove(key, stage.now()).await.unwrap());
    assert!(!stage.elsewhere.remove(key, stage.now()).await.unwrap());
    assert_eq!(stage.standing(key).await, Standing::Ended);
    let unknown = fresh_key();
    assert!(!stage.here.remove(unknown, stage.now()).await.unwrap());
    assert_ne!(stage.standing(unknown).await, Standing::Live);
}

pub async fn what_is_removed_stays_removed(stage: Stage) {
    let record = stage.record();
    let key = stage.created(record.clone()).await;
    assert!(stage.here.remove(key, stage.now()).await.unwrap());
    let replaced = stage.elsewhere.replace(key, 1, next(&record, "late"), stage.now()).await.unwrap();
    assert!(matches!(replaced, Replacement::Gone), "{replaced:?}");
    stage.elsewhere.touch(key, stage.later(1), stage.later(200)).await.unwrap();
    assert_eq!(stage.standing(key).await, Standing::Ended);
    assert!(stage.listed_keys(&Default::default()).await.is_empty());
}

pub async fn what_is_removed_stays_removed_while_others_write(stage: Stage) {
    let stage = Arc::new(stage);
    for _ in 0..20 {
        let key = stage.created(stage.record()).await;
        let removed = Arc::new(AtomicBool::new(false));
        let writers = (0..8).map(|number| {
            let (stage, removed) = (Arc::clone(&stage), Arc::clone(&removed));
            tokio::spawn(async move {
                let store = stage.side(number);
                let mut newest = stage.record();
                while !removed.load(Ordering::SeqCst) {
                    store.touch(key, stage.now().mono, stage.later(100)).await.unwrap();
                    match store.replace(key, newest.version, next(&newest, "newer"), stage.now()).await.unwrap() {
                        Replacement::Replaced => newest = next(&newest, "newer"),
                        Replacement::Conflict(newer) => newest = newer,
                        Replacement::Gone => return,
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        tokio::task::yield_now().await;
        assert!(stage.here.remove(key, stage.now()).await.unwrap());
        for store in [&stage.here, &stage.elsewhere] {
            let found = store.find(key, stage.now()).await.unwrap();
            assert!(matches!(found, Lookup::Ended), "{found:?}");
        }
        removed.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(stage.standing(key).await, Standing::Ended);
    }
}

pub async fn what_was_acknowledged_is_there_after_a_restart(stage: Stage) {
    if !stage.here.is_durable() {
        return;
    }
    let kept = stage.record_about("https://idp.test", "ada", Some("s1"));
    let kept_key = stage.created(kept.clone()).await;
    let newer = next(&kept, "newer");
    stage.here.replace(kept_key, 1, newer.clone(), stage.now()).await.unwrap();
    let removed_key = stage.created(stage.record()).await;
    stage.here.remove(removed_key, stage.now()).await.unwrap();
    let stage = stage.restarted().await;
    assert_eq!(stage.live(kept_key).await, newer);
    assert_ne!(stage.standing(removed_key).await, Standing::Live);
    let removed = stage.here.remove_where(&crate::stage::of_sid("s1"), stage.now()).await.unwrap();
    assert_eq!(removed, [kept_key], "indices come back too");
}

const WRITERS: usize = 100;
