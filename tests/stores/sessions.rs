//! What [`Sessions`] promises on each store: to two gateways that share it, or twice to the only one.

use crate::stage::{Gateways, ISSUER, Stage, of_sid, of_subject, together};
use latchgate::clock::{Clock, Mono};
use latchgate::session::code_flow::{CODE_LIFE, Code, CodeExchange};
use latchgate::session::impersonation::IMPERSONATION_LIFE;
use latchgate::session::store::{Filter, OnceName};
use latchgate::session::{Found, Identity, Opening, OpeningFailed, Session, SessionId, Sessions, TokenSet, Update};
use secrecy::ExposeSecret;
use serde_json::{Map, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

fn opening(subject: &str, began: Mono) -> Opening {
    let identity = Identity {
        issuer: ISSUER.into(),
        subject: subject.into(),
        sid: Some(format!("sid of {subject}")),
        claims: Map::from_iter([("sub".into(), subject.into()), ("groups".into(), json!(["a", { "b": 1.5 }]))]),
    };
    let tokens = TokenSet::new(format!("at-{subject}").into(), 1, began).unwrap();
    let tokens = TokenSet {
        life: Some(Duration::from_secs(60)),
        refresh_token: Some("rt".into()),
        id_token: Some("idt".into()),
        scope: Some("openid x".into()),
        ..tokens
    };
    Opening { provider: "corp".into(), identity, tokens, began, transient: false }
}

async fn open(sessions: &Sessions, subject: &str, clock: &Clock) -> Arc<Session> {
    sessions.open(opening(subject, clock.now().mono), clock.now()).await.unwrap()
}

async fn find(sessions: &Sessions, session: &Session, clock: &Clock) -> Found {
    let id = SessionId::parse(&session.id().to_cookie_value()).unwrap();
    sessions.find(vec![id.into()], clock.now()).await.unwrap()
}

async fn is_live(sessions: &Sessions, session: &Session, clock: &Clock) -> bool {
    matches!(find(sessions, session, clock).await, Found::Live(_))
}

/// What one gateway does is seen by the others within a second (LO-05).
async fn within_a_second<F: Future<Output = bool>>(holds: impl Fn() -> F) -> bool {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), waiting).await.is_ok()
}

fn with_entry(session: &Session, name: &str) -> Session {
    let mut custom = Map::clone(&session.custom);
    custom.insert(name.into(), true.into());
    session.with_custom(custom)
}

pub async fn a_session_is_found_elsewhere_with_all_it_had(stage: Stage) {
    let Gateways { here, clock, .. } = stage.gateways().await;
    let session = open(&here, "ada", &clock).await;
    let cold = stage.gateway_just_started(&[SECRET]);
    let Found::Live(again) = find(&cold, &session, &clock).await else { panic!("it lives") };
    assert!(!Arc::ptr_eq(&session, &again));
    assert_eq!((again.key, again.version, again.started), (session.key, 1, session.started));
    assert_eq!(again.provider, session.provider);
    assert_eq!(again.identity.claims, session.identity.claims);
    assert_eq!(
        (&again.identity.issuer, &again.identity.subject, &again.identity.sid),
        (&session.identity.issuer, &session.identity.subject, &session.identity.sid)
    );
    let tokens = |session: &Session| {
        let tokens = Arc::clone(&session.tokens);
        let texts = [Some(&tokens.access_token), tokens.refresh_token.as_ref(), tokens.id_token.as_ref()];
        let texts = texts.map(|token| token.unwrap().expose_secret().to_owned());
        (texts, tokens.generation, tokens.obtained, tokens.life, tokens.scope.clone(), tokens.bearer.clone())
    };
    assert_eq!(tokens(&again), tokens(&session));
}

pub async fn a_hundred_updates_here_and_elsewhere_are_all_there(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    let session = open(&here, "ada", &clock).await;
    let updates = together(100, |number| {
        let sessions = if number % 2 == 0 { here.clone() } else { elsewhere.clone() };
        let session = Arc::clone(&session);
        async move { sessions.update(&session, move |session| Some(with_entry(session, &number.to_string()))).await }
    })
    .await;
    assert!(updates.into_iter().all(|update| matches!(update, Ok(Update::Stored(_)))));
    for sessions in [&here, &elsewhere] {
        let newest = sessions.newest(&session, clock.now()).await.unwrap().unwrap();
        assert_eq!((newest.custom.len(), newest.version), (100, 101));
    }
}

pub async fn an_update_elsewhere_is_seen_here(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    let session = open(&here, "ada", &clock).await;
    for round in 0..20 {
        let name = round.to_string();
        assert!(is_live(&here, &session, &clock).await, "and is at hand here");
        let update = elsewhere.update(&session, {
            let name = name.clone();
            move |session| Some(with_entry(session, &name))
        });
        assert!(matches!(update.await.unwrap(), Update::Stored(_)));
        let seen = within_a_second(|| async {
            matches!(find(&here, &session, &clock).await, Found::Live(session) if session.custom.contains_key(&name))
        });
        assert!(seen.await, "round {round}");
    }
}

pub async fn an_ended_session_is_ended_elsewhere(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    for round in 0..20 {
        let session = open(&here, "ada", &clock).await;
        assert!(is_live(&elsewhere, &session, &clock).await);
        assert!(here.end(session.key).await.unwrap());
        assert!(!here.end(session.key).await.unwrap());
        assert!(matches!(find(&here, &session, &clock).await, Found::Ended), "here at once");
        assert!(within_a_second(|| async { !is_live(&elsewhere, &session, &clock).await }).await, "round {round}");
        assert!(matches!(find(&elsewhere, &session, &clock).await, Found::Ended));
    }
}

pub async fn an_update_brings_back_nothing(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    for _ in 0..10 {
        let session = open(&here, "ada", &clock).await;
        assert!(is_live(&elsewhere, &session, &clock).await);
        let writers = tokio::spawn(together(10, {
            let (elsewhere, session) = (elsewhere.clone(), Arc::clone(&session));
            move |number| {
                let (elsewhere, session) = (elsewhere.clone(), Arc::clone(&session));
                async move {
                    let name = number.to_string();
                    elsewhere.update(&session, move |session| Some(with_entry(session, &name))).await.unwrap();
                }
            }
        }));
        here.end(session.key).await.unwrap();
        writers.await.unwrap();
        for sessions in [&here, &elsewhere] {
            assert!(sessions.newest(&session, clock.now()).await.unwrap().is_none());
            let update = sessions.update(&session, |session| Some(with_entry(session, "late"))).await.unwrap();
            assert!(matches!(update, Update::Ended));
        }
    }
}

pub async fn a_user_is_signed_out_everywhere(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    let ada = [open(&here, "ada", &clock).await, open(&elsewhere, "ada", &clock).await];
    let bob = open(&here, "bob", &clock).await;
    for session in [&ada[0], &ada[1], &bob] {
        assert!(is_live(&here, session, &clock).await && is_live(&elsewhere, session, &clock).await);
    }
    assert_eq!(elsewhere.end_where(of_subject("ada")).await.unwrap(), 2);
    assert_eq!(here.end_where(of_subject("ada")).await.unwrap(), 0);
    for session in &ada {
        for sessions in [&here, &elsewhere] {
            assert!(within_a_second(|| async { !is_live(sessions, session, &clock).await }).await);
        }
    }
    assert!(is_live(&here, &bob, &clock).await && is_live(&elsewhere, &bob, &clock).await);
    assert_eq!(here.end_where(of_sid("sid of bob")).await.unwrap(), 1);
    assert!(within_a_second(|| async { !is_live(&elsewhere, &bob, &clock).await }).await);
}

pub async fn a_login_under_way_does_not_survive_the_sign_out(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    let began = clock.now().mono;
    stage.pass_a_moment().await;
    assert_eq!(elsewhere.end_where(of_subject("ada")).await.unwrap(), 0);
    let late = here.open(opening("ada", began), clock.now()).await;
    assert_eq!(late.err(), Some(OpeningFailed::Revoked));
    stage.pass_a_moment().await;
    let session = open(&here, "ada", &clock).await;
    assert!(is_live(&elsewhere, &session, &clock).await, "a login that began later is another one");
}

pub async fn what_is_held_open_hears_of_the_end(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    for sessions in [&here, &elsewhere] {
        let sessions = sessions.clone();
        tokio::spawn(async move { sessions.watch_held().await });
    }
    let (session, other) = (open(&here, "ada", &clock).await, open(&here, "eve", &clock).await);
    assert!(is_live(&elsewhere, &session, &clock).await);
    let holds = [here.hold(&session), elsewhere.hold(&session)];
    let hold_of_other = elsewhere.hold(&other);
    for hold in &holds {
        assert!(tokio::time::timeout(Duration::from_millis(20), hold.ended()).await.is_err());
    }
    here.end(session.key).await.unwrap();
    for hold in &holds {
        tokio::time::timeout(Duration::from_secs(1), hold.ended()).await.unwrap();
    }
    let late = elsewhere.hold(&session);
    tokio::time::timeout(Duration::from_secs(1), late.ended()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), hold_of_other.ended()).await.is_err());
}

pub async fn what_counts_once_counts_once_everywhere(stage: Stage) {
    let Gateways { here, elsewhere, .. } = stage.gateways().await;
    let first = together(50, |number| {
        let sessions = if number % 2 == 0 { here.clone() } else { elsewhere.clone() };
        async move { sessions.take_once(OnceName::new("code", "c"), Duration::from_secs(60)).await.unwrap() }
    })
    .await;
    assert_eq!(first.into_iter().filter(|first| *first).count(), 1);
}

pub async fn a_session_awaits_its_exchange_for_a_minute(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    let (waiting, code) = here.open_for_code(opening("ada", clock.now().mono), clock.now()).await.unwrap();
    assert_eq!(stage.live(waiting.key).await.expires, waiting.started.mono.after(CODE_LIFE));
    assert!(!is_live(&here, &waiting, &clock).await && !is_live(&elsewhere, &waiting, &clock).await);
    let (exchanged, code_of_exchanged) =
        elsewhere.open_for_code(opening("bob", clock.now().mono), clock.now()).await.unwrap();
    assert!(matches!(here.exchange(&code_of_exchanged, clock.now()).await.unwrap(), CodeExchange::Made(_)));

    clock.advance(CODE_LIFE);
    for sessions in [&here, &elsewhere] {
        assert!(matches!(sessions.exchange(&code, clock.now()).await.unwrap(), CodeExchange::Unknown));
        assert!(is_live(sessions, &exchanged, &clock).await, "it is a session like any other now");
    }
    assert_eq!(elsewhere.end_where(of_subject("bob")).await.unwrap(), 1, "and is found by its user");
}

pub async fn a_code_is_exchanged_once_among_fifty(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    for _ in 0..5 {
        let (session, code) = here.open_for_code(opening("ada", clock.now().mono), clock.now()).await.unwrap();
        let exchanges = together(50, |number| {
            let sessions = if number % 2 == 0 { here.clone() } else { elsewhere.clone() };
            let (code, now) = (Code::parse(&code.to_text()).unwrap(), clock.now());
            async move { sessions.exchange(&code, now).await.unwrap() }
        })
        .await;
        let made = exchanges.iter().filter(|exchange| matches!(exchange, CodeExchange::Made(_))).count();
        let repeated = exchanges.iter().filter(|exchange| matches!(exchange, CodeExchange::Repeated(_))).count();
        assert_eq!((made, repeated), (1, 49));
        assert!(is_live(&here, &session, &clock).await && is_live(&elsewhere, &session, &clock).await);
    }
}

pub async fn a_refresh_token_has_one_successor_everywhere(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    let (_, code) = here.open_for_code(opening("ada", clock.now().mono), clock.now()).await.unwrap();
    let CodeExchange::Made(session) = elsewhere.exchange(&code, clock.now()).await.unwrap() else {
        panic!("nobody had the code before")
    };
    let first = elsewhere.refresh_token(&session).unwrap();
    let updates = together(20, |number| {
        let sessions = if number % 2 == 0 { here.clone() } else { elsewhere.clone() };
        let (first, now) = (first.clone(), clock.now());
        async move {
            let found = sessions.find_by_refresh_token(&first, now).await.unwrap().unwrap();
            sessions.rotate(&found.session, found.rotation, now).await.unwrap()
        }
    })
    .await;
    assert_eq!(updates.iter().filter(|update| matches!(update, Update::Stored(_))).count(), 1);
    let successors = updates.iter().map(|update| match update {
        Update::Stored(session) | Update::Declined(session) => here.refresh_token(session).unwrap(),
        Update::Ended => panic!("nobody ended it"),
    });
    let successors: HashSet<String> = successors.collect();
    assert!(successors.len() == 1 && !successors.contains(&first), "{}", successors.len());

    let cold = stage.gateway_just_started(&[SECRET]);
    let found = cold.find_by_refresh_token(successors.iter().next().unwrap(), clock.now()).await.unwrap().unwrap();
    assert_eq!((found.session.key, found.rotation), (session.key, 2));
}

pub async fn who_acts_for_whom_is_known_elsewhere_and_after_a_restart(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    let session = open(&here, "ada", &clock).await;
    let claims = Map::from_iter([("sub".into(), json!("bob")), ("act".into(), json!({ "sub": "ada" }))]);
    let bob = Arc::new(Identity { issuer: ISSUER.into(), subject: "bob".into(), sid: None, claims });
    let (as_bob, now) = (Arc::clone(&bob), clock.now().mono);
    let update = here.update(&session, move |session| session.impersonating(Arc::clone(&as_bob), now)).await.unwrap();
    assert!(matches!(update, Update::Stored(_)));
    drop((here, elsewhere));

    let is_durable = stage.here.is_durable();
    let stage = if is_durable { stage.restarted().await } else { stage };
    let cold = stage.gateway_just_started(&[SECRET]);
    let Found::Live(again) = find(&cold, &session, &clock).await else { panic!("it lives") };
    assert_eq!((again.identity.subject.as_str(), &again.identity.claims), ("bob", &bob.claims));
    assert_eq!((again.owner().subject.as_str(), &again.owner().claims), ("ada", &session.identity.claims));
    assert_eq!(again.owner().sid, session.identity.sid);
    assert_eq!(
        again.impersonation.as_ref().map(|impersonation| impersonation.until),
        Some(now.after(IMPERSONATION_LIFE))
    );
    let Update::Stored(restored) = cold.update(&again, Session::restored).await.unwrap() else { panic!("it lives") };
    assert_eq!(restored.identity.claims, session.identity.claims);
    assert_eq!(cold.end_where(of_subject("bob")).await.unwrap(), 0, "the session was never bob's");
    assert_eq!(cold.end_where(of_sid("sid of ada")).await.unwrap(), 1);
}

pub async fn a_list_has_what_is_open(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    let (ada, bob) = (open(&here, "ada", &clock).await, open(&elsewhere, "bob", &clock).await);
    let keys = async |filter: Filter| {
        let page = here.list(&filter, None).await.unwrap();
        page.records.into_iter().map(|(key, _)| key).collect::<HashSet<_>>()
    };
    assert_eq!(keys(Filter::default()).await, HashSet::from([ada.key, bob.key]));
    assert_eq!(keys(of_subject("bob")).await, HashSet::from([bob.key]));
    here.end(ada.key).await.unwrap();
    assert_eq!(keys(Filter::default()).await, HashSet::from([bob.key]));
}

pub async fn idle_slides_and_absolute_does_not(stage: Stage) {
    const IDLE: u32 = 6;
    const ABSOLUTE: u32 = 19;
    let gateways = stage.gateways_with(stage.ticks(IDLE), stage.ticks(ABSOLUTE)).await;
    let Gateways { here, elsewhere, clock } = gateways;
    let session = open(&here, "ada", &clock).await;
    for number in 0..4 {
        stage.pass(IDLE - 2).await;
        let sessions = if number % 2 == 0 { &here } else { &elsewhere };
        assert!(is_live(sessions, &session, &clock).await, "visit {number}");
        // A visit is written behind the request.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.pass(IDLE - 2).await;
    for sessions in [&here, &elsewhere] {
        assert!(!is_live(sessions, &session, &clock).await, "its absolute end has come");
    }
    let session = open(&here, "ada", &clock).await;
    assert!(is_live(&elsewhere, &session, &clock).await);
    stage.pass(IDLE + 1).await;
    for sessions in [&here, &elsewhere] {
        assert!(matches!(find(sessions, &session, &clock).await, Found::Ended), "nobody came for too long");
    }
}

pub async fn another_secret_opens_nothing(stage: Stage) {
    let Gateways { here, clock, .. } = stage.gateways().await;
    let session = open(&here, "ada", &clock).await;
    let stranger = stage.gateway_just_started(&["another secret of more than thirty-two bytes"]);
    assert!(matches!(find(&stranger, &session, &clock).await, Found::Ended));
    assert!(is_live(&here, &session, &clock).await, "and ends nothing");
}

pub async fn the_second_of_two_secrets_opens(stage: Stage) {
    let Gateways { here, clock, .. } = stage.gateways().await;
    let session = open(&here, "ada", &clock).await;
    let rotated = stage.gateway_just_started(&["another secret of more than thirty-two bytes", SECRET]);
    assert!(is_live(&rotated, &session, &clock).await);
    let update = rotated.update(&session, |session| Some(with_entry(session, "x"))).await.unwrap();
    assert!(matches!(update, Update::Stored(_)));
    assert!(is_live(&rotated, &session, &clock).await, "sealed with the first one now");
}

pub async fn a_user_with_too_many_sessions_loses_the_oldest_everywhere(stage: Stage) {
    let Gateways { here, elsewhere, clock } = stage.gateways().await;
    let mut sessions = Vec::new();
    for number in 0..MOST_PER_USER + 1 {
        let side = if number % 2 == 0 { &here } else { &elsewhere };
        let session = open(side, "ada", &clock).await;
        assert!(is_live(&here, &session, &clock).await && is_live(&elsewhere, &session, &clock).await);
        sessions.push(session);
        stage.pass_a_moment().await;
    }
    for side in [&here, &elsewhere] {
        assert!(within_a_second(|| async { !is_live(side, &sessions[0], &clock).await }).await);
        for session in &sessions[1..] {
            assert!(is_live(side, session, &clock).await);
        }
    }
}

pub const SECRET: &str = "a session secret of more than thirty-two bytes";
pub const MOST_PER_USER: usize = 4;
