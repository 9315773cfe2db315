//! Lists, page by page.

use crate::stage::{ISSUER, Stage, fresh_key, of_sid, of_subject, together};
use latchgate::session::store::{Filter, Record};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub async fn a_list_says_what_it_knows_in_the_open(stage: Stage) {
    let record = stage.record_about(ISSUER, "ada", Some("s1"));
    let key = stage.created(record.clone()).await;
    let (seen_at, expires) = (stage.later(1), stage.later(200));
    stage.here.touch(key, seen_at, expires).await.unwrap();
    let listed = stage.listed(&Filter::default()).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].0, &listed[0].1.about), (key, &record.about));
    assert_eq!((listed[0].1.version, listed[0].1.last_seen, listed[0].1.expires), (1, seen_at, expires));
}

pub async fn a_list_selects(stage: Stage) {
    let ada = stage.created(stage.record_about(ISSUER, "ada", Some("s1"))).await;
    let namesake = stage.created(stage.record_about("https://other.test", "ada", None)).await;
    let bob = stage.created(stage.record_about(ISSUER, "bob", Some("s1"))).await;
    let issuer = Some(ISSUER.to_owned());
    for (filter, expected) in [
        (Filter::default(), vec![ada, namesake, bob]),
        (Filter { issuer: issuer.clone(), ..Filter::default() }, vec![ada, bob]),
        (of_subject("ada"), vec![ada, namesake]),
        (Filter { issuer, ..of_subject("ada") }, vec![ada]),
        (of_sid("s1"), vec![ada, bob]),
        (Filter { sid: Some("s1".into()), ..of_subject("ada") }, vec![ada]),
        (of_subject("Ada"), vec![]),
        (of_sid("s"), vec![]),
    ] {
        assert_eq!(stage.listed_keys(&filter).await, expected.into_iter().collect(), "{filter:?}");
    }
}

pub async fn a_list_has_nothing_that_is_over(stage: Stage) {
    let kept = stage.created(stage.record()).await;
    let removed = stage.created(stage.record()).await;
    stage.created(Record { expires: stage.later(2), ..stage.record() }).await;
    stage.here.remove(removed, stage.now()).await.unwrap();
    stage.pass(3).await;
    assert_eq!(stage.listed_keys(&Filter::default()).await, HashSet::from([kept]));
    assert_eq!(stage.listed_keys(&of_subject("ada")).await, HashSet::from([kept]));
}

pub async fn pages_are_complete_while_others_come_and_go(stage: Stage) {
    let stage = Arc::new(stage);
    let stay: HashSet<_> = together(250, |_| {
        let stage = Arc::clone(&stage);
        async move { stage.created(stage.record_of("ada")).await }
    })
    .await
    .into_iter()
    .collect();
    let listed = Arc::new(AtomicBool::new(false));
    let churn = tokio::spawn({
        let (stage, listed) = (Arc::clone(&stage), Arc::clone(&listed));
        async move {
            while !listed.load(Ordering::SeqCst) {
                let keys = [stage.created(stage.record_of("ada")).await, stage.created(stage.record_of("bob")).await];
                tokio::time::sleep(Duration::from_millis(1)).await;
                for key in keys {
                    stage.here.remove(key, stage.now()).await.unwrap();
                }
            }
        }
    });
    for filter in [Filter::default(), of_subject("ada"), Filter { issuer: Some(ISSUER.into()), ..Filter::default() }] {
        let mut cursor = None;
        let mut seen = HashSet::new();
        for page in 0.. {
            assert!(page < 1000, "the pages have no end");
            let page = stage.elsewhere.list(&filter, cursor.as_deref(), stage.now()).await.unwrap();
            seen.extend(page.records.iter().map(|(key, _)| *key));
            tokio::time::sleep(Duration::from_millis(3)).await;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(stay.difference(&seen).count(), 0, "{filter:?}: each that stayed is there");
    }
    listed.store(true, Ordering::SeqCst);
    churn.await.unwrap();
}

pub async fn a_cursor_that_nobody_gave_is_no_disaster(stage: Stage) {
    let key = stage.created(stage.record()).await;
    for cursor in ["", "x", "0", "-1", "\u{1f512}", "99999999999999999999", &fresh_key().to_hex(), &"f".repeat(64)] {
        for filter in [Filter::default(), of_subject("ada")] {
            let page = stage.here.list(&filter, Some(cursor), stage.now()).await.unwrap();
            assert!(page.records.iter().all(|(listed, _)| *listed == key), "{cursor:?}");
        }
    }
}
