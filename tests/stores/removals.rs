//! Removals by filter: what they select, and that no login under way survives them.

use crate::stage::{ISSUER, PLENTY, Stage, Standing, fresh_key, next, of_sid, of_subject, together};
use latchgate::clock::Mono;
use latchgate::session::SessionKey;
use latchgate::session::store::{About, Creation, Filter, Record, Replacement};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Removes by `filter` what should be `selected`; `kept` stays.
async fn removes(stage: &Stage, filter: &Filter, selected: &[SessionKey], kept: &[SessionKey]) {
    let removed = stage.here.remove_where(filter, stage.now()).await.unwrap();
    assert_eq!(removed.len(), selected.len(), "each is named once");
    assert_eq!(removed.iter().collect::<HashSet<_>>(), selected.iter().collect());
    for &key in selected {
        assert_eq!(stage.standing(key).await, Standing::Ended, "{filter:?}");
    }
    for &key in kept {
        assert_eq!(stage.standing(key).await, Standing::Live, "{filter:?}");
    }
    assert!(stage.elsewhere.remove_where(filter, stage.now()).await.unwrap().is_empty(), "there are no more");
}

pub async fn a_user_is_signed_out(stage: Stage) {
    let [first, second] = [stage.created(stage.record()).await, stage.created(stage.record()).await];
    let namesake = stage.created(stage.record_about("https://other.test", "ada", Some("s1"))).await;
    let bob = stage.created(stage.record_of("bob")).await;
    removes(&stage, &of_subject("ada"), &[first, second, namesake], &[bob]).await;
}

pub async fn a_user_of_one_issuer_is_signed_out(stage: Stage) {
    let ada = stage.created(stage.record()).await;
    let namesake = stage.created(stage.record_about("https://other.test", "ada", None)).await;
    let filter = Filter { issuer: Some(ISSUER.into()), ..of_subject("ada") };
    removes(&stage, &filter, &[ada], &[namesake]).await;
}

pub async fn a_provider_session_is_signed_out(stage: Stage) {
    let first = stage.created(stage.record_about(ISSUER, "ada", Some("s1"))).await;
    let second = stage.created(stage.record_about(ISSUER, "ada", Some("s2"))).await;
    let none = stage.created(stage.record()).await;
    let elsewhere = stage.created(stage.record_about("https://other.test", "ada", Some("s1"))).await;
    let filter = Filter { issuer: Some(ISSUER.into()), ..of_sid("s1") };
    removes(&stage, &filter, &[first], &[second, none, elsewhere]).await;
    removes(&stage, &of_sid("s1"), &[elsewhere], &[second, none]).await;
}

pub async fn a_user_and_provider_session_are_both_compared(stage: Stage) {
    let both = stage.created(stage.record_about(ISSUER, "ada", Some("s1"))).await;
    let subject = stage.created(stage.record_about(ISSUER, "ada", Some("s2"))).await;
    let sid = stage.created(stage.record_about(ISSUER, "bob", Some("s1"))).await;
    let filter = Filter { sid: Some("s1".into()), ..of_subject("ada") };
    removes(&stage, &filter, &[both], &[subject, sid]).await;
}

pub async fn a_filter_that_names_neither_removes_nothing(stage: Stage) {
    let key = stage.created(stage.record_about(ISSUER, "ada", Some("s1"))).await;
    removes(&stage, &Filter::default(), &[], &[key]).await;
    removes(&stage, &Filter { issuer: Some(ISSUER.into()), ..Filter::default() }, &[], &[key]).await;
    let began = Mono(stage.now().mono.0 - 1);
    let record = Record { about: About { began, ..stage.record().about }, ..stage.record() };
    stage.created(record).await;
}

pub async fn names_are_compared_byte_by_byte(stage: Stage) {
    let names =
        ["ada", "Ada", "ada ", "ada\0", "ada\0\0", "a\u{301}da", "\u{e1}da", "", "ad", "ada:", "*", "ad?", "{ada}"];
    for by_sid in [false, true] {
        let mut keys = Vec::new();
        for name in names {
            let (subject, sid) = if by_sid { ("same", Some(name)) } else { (name, None) };
            keys.push(stage.created(stage.record_about(ISSUER, subject, sid)).await);
        }
        for (number, name) in names.into_iter().enumerate() {
            let filter = if by_sid { of_sid(name) } else { of_subject(name) };
            removes(&stage, &filter, &keys[number..=number], &keys[number + 1..]).await;
        }
    }
    let colon = stage.created(stage.record_about("a:b", "c", None)).await;
    let other = stage.created(stage.record_about("a", "b:c", None)).await;
    let filter = |issuer: &str, subject: &str| Filter { issuer: Some(issuer.into()), ..of_subject(subject) };
    removes(&stage, &filter("a", "c"), &[], &[colon, other]).await;
    removes(&stage, &filter("A:b", "c"), &[], &[colon, other]).await;
    removes(&stage, &filter("a:b", "c"), &[colon], &[other]).await;
}

pub async fn a_login_that_was_under_way_is_revoked(stage: Stage) {
    let under_way = stage.record();
    stage.pass_a_moment().await;
    stage.here.remove_where(&of_subject("ada"), stage.now()).await.unwrap();
    stage.pass_a_moment().await;
    is_revoked(&stage, under_way).await;
}

pub async fn a_login_of_a_removed_provider_session_is_revoked(stage: Stage) {
    let under_way = stage.record_about(ISSUER, "ada", Some("s1"));
    stage.pass_a_moment().await;
    let filter = Filter { issuer: Some(ISSUER.into()), ..of_sid("s1") };
    stage.here.remove_where(&filter, stage.now()).await.unwrap();
    is_revoked(&stage, under_way).await;
}

async fn is_revoked(stage: &Stage, record: Record) {
    let key = fresh_key();
    let creation = stage.elsewhere.create(key, record.clone(), PLENTY, stage.now()).await.unwrap();
    assert_eq!(creation, Creation::Revoked);
    assert_ne!(stage.standing(key).await, Standing::Live);
    assert!(stage.listed_keys(&Filter::default()).await.is_empty());
    let replaced = stage.here.replace(key, 1, crate::stage::next(&record, "late"), stage.now()).await.unwrap();
    assert!(matches!(replaced, Replacement::Gone), "{replaced:?}");
}

pub async fn a_login_that_began_later_is_kept(stage: Stage) {
    stage.here.remove_where(&of_subject("ada"), stage.now()).await.unwrap();
    stage.here.remove_where(&of_sid("s1"), stage.now()).await.unwrap();
    stage.pass_a_moment().await;
    let key = stage.created(stage.record_about(ISSUER, "ada", Some("s1"))).await;
    assert_eq!(stage.standing(key).await, Standing::Live);
}

pub async fn a_login_of_somebody_else_is_kept(stage: Stage) {
    let others = [
        stage.record_of("bob"),
        stage.record_about("https://other.test", "ada", None),
        stage.record_about(ISSUER, "eve", Some("s2")),
        stage.record_about(ISSUER, "eve", None),
    ];
    stage.pass_a_moment().await;
    let ada = Filter { issuer: Some(ISSUER.into()), ..of_subject("ada") };
    let both = Filter { sid: Some("s2".into()), ..of_subject("ada") };
    for filter in [ada, both, of_sid("s1")] {
        stage.here.remove_where(&filter, stage.now()).await.unwrap();
    }
    for record in others {
        stage.created(record).await;
    }
}

pub async fn no_login_slips_past_a_removal_that_runs_meanwhile(stage: Stage) {
    let stage = Arc::new(stage);
    for round in 0..20 {
        let subject = format!("user {round}");
        let record = stage.record_of(&subject);
        let logins = tokio::spawn(together(16, {
            let stage = Arc::clone(&stage);
            move |number| {
                let (stage, record) = (Arc::clone(&stage), record.clone());
                async move {
                    tokio::time::sleep(Duration::from_micros(number as u64 * 200)).await;
                    let key = fresh_key();
                    let creation = stage.side(number).create(key, record, PLENTY, stage.now()).await.unwrap();
                    (key, creation)
                }
            }
        }));
        stage.pass_a_moment().await;
        let removed = stage.here.remove_where(&of_subject(&subject), stage.now()).await.unwrap();
        for (key, creation) in logins.await.unwrap() {
            let is_removed = removed.contains(&key);
            assert!(is_removed || creation == Creation::Revoked, "{creation:?}, named as removed: {is_removed}");
            assert_ne!(stage.standing(key).await, Standing::Live);
        }
    }
}

pub async fn a_user_is_found_after_one_of_their_sessions_has_ended(stage: Stage) {
    let record = stage.record_about(ISSUER, "ada", Some("s1"));
    let oldest = stage.created(Record { expires: stage.later(2), ..record.clone() }).await;
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(stage.created(record.clone()).await);
    }
    assert!(stage.here.remove(keys[0], stage.now()).await.unwrap());
    stage.pass(3).await;
    assert_eq!(stage.standing(oldest).await, Standing::Ended);
    stage.here.sweep(stage.now()).await.unwrap();
    assert_eq!(stage.listed_keys(&of_sid("s1")).await, keys[1..].iter().copied().collect());
    removes(&stage, &of_subject("ada"), &keys[1..], &[]).await;
}

pub async fn a_user_is_found_after_the_end_of_their_session_was_put_off(stage: Stage) {
    let record = stage.record_about(ISSUER, "ada", Some("s1"));
    let ends_soon = About { ends: stage.later(4), ..record.about.clone() };
    let soon = Record { expires: ends_soon.ends, about: ends_soon, ..record };
    let put_off = Record {
        expires: stage.later(100),
        about: About { ends: stage.later(100), ..soon.about.clone() },
        ..next(&soon, "put off")
    };
    let keys = [stage.created(soon.clone()).await, stage.created(soon.clone()).await];
    for key in keys {
        let replaced = stage.here.replace(key, 1, put_off.clone(), stage.now()).await.unwrap();
        assert!(matches!(replaced, Replacement::Replaced), "{replaced:?}");
    }
    // Nobody is signed out for a session that is named twice.
    let other = fresh_key();
    let created = stage.here.create(other, stage.record(), 3, stage.now()).await.unwrap();
    assert_eq!(created, Creation::Created { evicted: Vec::new() });
    stage.pass(5).await;
    stage.here.touch(keys[0], stage.now().mono, stage.later(90)).await.unwrap();
    assert_eq!(stage.listed_keys(&of_subject("ada")).await, [keys[0], keys[1], other].into());
    removes(&stage, &of_sid("s1"), &keys, &[other]).await;
    removes(&stage, &of_subject("ada"), &[other], &[]).await;
}
