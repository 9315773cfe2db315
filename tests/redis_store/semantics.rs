//! What the store promises, on a server that is well.

use crate::harness::server::Server;
use crate::harness::{Gateway, eventually, random_key};
use latchgate::clock::Mono;
use latchgate::session::SessionKey;
use latchgate::session::store::{Claim, Creation, Filter, Lease, Lookup, OnceName, Record, Replacement, SessionStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

fn of_subject(subject: &str) -> Filter {
    Filter { subject: Some(subject.into()), ..Filter::default() }
}

fn of_sid(sid: &str) -> Filter {
    Filter { sid: Some(sid.into()), ..Filter::default() }
}

fn next(record: &Record) -> Record {
    Record { version: record.version + 1, ..record.clone() }
}

fn hex_name(kind: char, key: SessionKey) -> String {
    format!("latchgate:{kind}:{{{}}}", key.to_hex())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_from_its_first_write_to_its_end() {
    let server = Server::start(&[]);
    let (here, there) = (Gateway::new(&server.url()), Gateway::new(&format!("unix:{}", server.socket().display())));
    let key = here.create("ada").await;
    let first = there.live(key).await;
    assert_eq!((first.version, &first.sealed[..]), (1, &key.as_bytes()[..]));

    let now = there.clock.now();
    assert!(matches!(there.store.replace(key, 1, next(&first), now).await.unwrap(), Replacement::Replaced));
    match here.store.replace(key, 1, next(&Record { sealed: "other".into(), ..first.clone() }), now).await.unwrap() {
        Replacement::Conflict(newest) => assert_eq!(newest, next(&first)),
        other => panic!("{other:?}"),
    }

    assert!(here.store.remove(key, now).await.unwrap());
    assert!(matches!(there.find(key).await, Lookup::Ended));
    assert!(matches!(there.store.replace(key, 2, next(&first), now).await.unwrap(), Replacement::Gone));
    there.store.touch(key, now.mono, now.mono.after(SECOND)).await.unwrap();
    assert!(matches!(here.find(key).await, Lookup::Ended), "no write brings it back");
    assert!(!there.store.remove(key, now).await.unwrap());
    assert!(there.store.create(key, first, 100, now).await.is_err(), "a name is used once");
    assert!(matches!(here.find(random_key()).await, Lookup::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn sc_06_use_prolongs_a_session_and_never_beyond_its_absolute_end() {
    let server = Server::start(&[]);
    let gateway = Gateway::new(&server.url());
    let now = gateway.clock.mono();
    let after = |millis| now.after(Duration::from_millis(millis));
    let used = gateway.create_with(|record| record.expires = after(700)).await;
    let idle = gateway.create_with(|record| record.expires = after(700)).await;
    let capped = gateway
        .create_with(|record| {
            record.about.ends = after(1500);
            record.expires = after(700);
        })
        .await;
    gateway.store.touch(used, after(100), after(60_000)).await.unwrap();
    gateway.store.touch(used, after(50), after(1000)).await.unwrap();
    gateway.store.touch(capped, after(100), after(60_000)).await.unwrap();
    let record = gateway.live(used).await;
    assert_eq!((record.version, record.last_seen, record.expires), (1, after(100), after(60_000)), "only ever more");
    assert_eq!(gateway.live(capped).await.expires, after(1500));
    let ttl = |key| server.ask::<i64>(&format!("PTTL {}", hex_name('s', key)));
    assert!((50_000..=60_000).contains(&ttl(used)), "{}", ttl(used));
    assert!((1..=1500).contains(&ttl(capped)), "{}", ttl(capped));

    eventually("idle", 2 * SECOND, async || server.ask::<i64>(&format!("EXISTS {}", hex_name('s', idle))) == 0).await;
    assert!(matches!(gateway.find(idle).await, Lookup::Ended));
    assert!(matches!(gateway.find(used).await, Lookup::Live(_)));
    eventually("at its absolute end nothing is left", 3 * SECOND, async || {
        matches!(gateway.find(capped).await, Lookup::Unknown)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn st_12_what_has_expired_here_is_never_live_whatever_the_server_thinks() {
    let server = Server::start(&[]);
    let gateway = Gateway::new(&server.url());
    let key = gateway.create("ada").await;
    gateway.clock.advance(Duration::from_secs(1801));
    assert_eq!(server.ask::<i64>(&format!("EXISTS {}", hex_name('s', key))), 1);
    assert!(matches!(gateway.find(key).await, Lookup::Ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn st_21_of_a_hundred_writers_one_wins_each_version() {
    let server = Server::start(&[]);
    let gateways = [Arc::new(Gateway::new(&server.url())), Arc::new(Gateway::new(&server.url()))];
    let key = gateways[0].create("ada").await;
    let mut writers = JoinSet::new();
    for number in 0..100u32 {
        let gateway = Arc::clone(&gateways[number as usize % 2]);
        writers.spawn(async move {
            let (mut seen, mut conflicts) = (gateway.live(key).await, 0);
            loop {
                let mut wanted = next(&seen);
                wanted.sealed = [&seen.sealed[..], &number.to_be_bytes()].concat().into();
                match gateway.store.replace(key, seen.version, wanted, gateway.clock.now()).await.unwrap() {
                    Replacement::Replaced => return conflicts,
                    Replacement::Conflict(newest) => (seen, conflicts) = (newest, conflicts + 1),
                    Replacement::Gone => panic!("gone"),
                }
            }
        });
    }
    let conflicts: u32 = writers.join_all().await.into_iter().sum();
    let last = gateways[1].live(key).await;
    assert_eq!(last.version, 101);
    let mut marks: Vec<_> = last.sealed[32..].chunks(4).collect();
    marks.sort_unstable();
    marks.dedup();
    assert_eq!(marks.len(), 100, "no write is lost");
    assert!(conflicts > 0, "they did meet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_for_one_of_all_gateways_and_remembers_who_did_not_come_back() {
    let server = Server::start(&[]);
    let (here, there) = (Gateway::new(&server.url()), Gateway::new(&server.url()));
    let key = here.create("ada").await;
    let now = here.clock.now();
    let claim = |owner, generation| Claim { key, generation, owner, life: Duration::from_millis(300) };
    let granted = |interrupted| Lease::Granted { interrupted };
    let (a, b, c) = (claim(u128::MAX, 1), claim(2, 1), claim(3, 1));

    assert_eq!(here.store.lease(&a, now).await.unwrap(), granted(false));
    assert_eq!(there.store.lease(&b, now).await.unwrap(), Lease::Held);
    assert_eq!(here.store.lease(&a, now).await.unwrap(), granted(false), "its own is no other's");
    assert!(!there.store.renew_lease(&b, now).await.unwrap());
    there.store.release_lease(&b, true).await.unwrap();
    assert_eq!(there.store.lease(&b, now).await.unwrap(), Lease::Held, "only the owner gives it back");
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(here.store.renew_lease(&a, now).await.unwrap());
    }
    assert_eq!(there.store.lease(&b, now).await.unwrap(), Lease::Held, "renewed beyond its first life");

    here.store.release_lease(&a, false).await.unwrap();
    assert_eq!(there.store.lease(&b, now).await.unwrap(), granted(true), "nobody knows what became of it");
    assert!(!here.store.renew_lease(&a, now).await.unwrap());
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(here.store.lease(&c, now).await.unwrap(), granted(true), "lapsed");
    assert!(!there.store.renew_lease(&b, now).await.unwrap(), "a later holder has it");
    here.store.release_lease(&c, true).await.unwrap();
    assert_eq!(there.store.lease(&b, now).await.unwrap(), granted(false), "resolved");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(here.store.lease(&claim(4, 2), now).await.unwrap(), granted(false), "another generation");

    let mark: i64 = server.ask(&format!("PTTL {}", hex_name('g', key)));
    assert!((3_000_000..=3_600_000).contains(&mark), "as long as the session can live: {mark}");
    here.store.remove(key, now).await.unwrap();
    assert_eq!(server.ask::<i64>(&format!("EXISTS {} {}", hex_name('g', key), hex_name('l', key))), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_counts_once_counts_for_one_of_many_who_ask() {
    let server = Server::start(&[]);
    let gateways = [Arc::new(Gateway::new(&server.url())), Arc::new(Gateway::new(&server.url()))];
    let take = |number: usize, life| {
        let gateway = Arc::clone(&gateways[number % 2]);
        async move {
            let name = OnceName::new("state", "x");
            gateway.store.take_once(name, life, gateway.clock.now()).await.unwrap()
        }
    };
    let mut takers = JoinSet::new();
    (0..100).for_each(|number| drop(takers.spawn(take(number, Duration::from_millis(400)))));
    assert_eq!(takers.join_all().await.into_iter().filter(|first| *first).count(), 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(take(0, SECOND).await, "forgotten after its life");
}

#[tokio::test(flavor = "multi_thread")]
async fn lo_13_all_sessions_of_a_user_end_though_the_oldest_has_expired() {
    let server = Server::start(&[]);
    let (here, there) = (Gateway::new(&server.url()), Gateway::new(&server.url()));
    let now = here.clock.mono();
    let short = now.after(Duration::from_millis(50));
    let oldest = here
        .create_with(|record| {
            record.about.sid = Some("one".into());
            (record.expires, record.about.ends) = (short, short);
        })
        .await;
    let (second, third) = (there.create("ada").await, here.create("ada").await);
    let by_sid = here.create_with(|record| record.about.sid = Some("one".into())).await;
    let stranger = there.create("eve").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(matches!(there.find(oldest).await, Lookup::Unknown | Lookup::Ended));

    assert_eq!(there.store.remove_where(&of_sid("one"), there.clock.now()).await.unwrap(), [by_sid]);
    let elsewhere = Filter { issuer: Some("https://other.example".into()), ..of_subject("ada") };
    assert!(there.store.remove_where(&elsewhere, there.clock.now()).await.unwrap().is_empty());
    let mut removed = there.store.remove_where(&of_subject("ada"), there.clock.now()).await.unwrap();
    removed.sort_unstable_by_key(|key| *key.as_bytes());
    let mut both = [second, third];
    both.sort_unstable_by_key(|key| *key.as_bytes());
    assert_eq!(removed, both);
    for key in [second, third, by_sid] {
        assert!(matches!(here.find(key).await, Lookup::Ended));
    }
    assert!(matches!(here.find(stranger).await, Lookup::Live(_)));
    assert!(here.store.remove_where(&Filter::default(), here.clock.now()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn lo_16_no_login_survives_the_sign_out_that_it_began_before() {
    let server = Server::start(&[]);
    let (here, there) = (Gateway::new(&server.url()), Gateway::new(&server.url()));
    // Two clocks agree to the millisecond, no better.
    let began = Mono(here.clock.mono().0 - 5);
    for filter in [of_subject("ada"), of_sid("s1")] {
        there.store.remove_where(&filter, there.clock.now()).await.unwrap();
        let (key, mut record) = here.fresh();
        (record.about.sid, record.about.began) = (Some("s1".into()), began);
        let creation = here.store.create(key, record, 100, here.clock.now()).await.unwrap();
        assert_eq!(creation, Creation::Revoked, "{filter:?}");
        assert!(!matches!(there.find(key).await, Lookup::Live(_)));
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    here.create_with(|record| record.about.sid = Some("s1".into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lo_16_neither_in_any_order_of_events() {
    let server = Server::start(&[]);
    let (here, there) = (Gateway::new(&server.url()), Gateway::new(&server.url()));
    let (mut revoked, mut removed_after) = (0, 0);
    for round in 0..400 {
        let subject = format!("user{round}");
        let (key, mut record) = here.fresh();
        record.about.subject.clone_from(&subject);
        record.about.sid = Some(format!("sid{round}"));
        record.about.began = Mono(record.about.began.0 - 5);
        let filter = if round % 2 == 0 { of_subject(&subject) } else { of_sid(&format!("sid{round}")) };
        let creating = here.store.create(key, record, 100, here.clock.now());
        let removing = async {
            tokio::time::sleep(Duration::from_micros(fastrand::u64(0..2000))).await;
            there.store.remove_where(&filter, there.clock.now()).await
        };
        let (creation, removed) = tokio::join!(creating, removing);
        match creation.unwrap() {
            Creation::Revoked => revoked += 1,
            Creation::Created { .. } => {
                assert_eq!(removed.unwrap(), [key], "round {round}: created, so the removal has found it");
                removed_after += 1;
            }
            Creation::Full => panic!("full"),
        }
        assert!(!matches!(here.find(key).await, Lookup::Live(_)), "round {round}");
    }
    println!("LO-16: {revoked} logins were revoked, {removed_after} removed after they were created");
    assert!(revoked > 0 && removed_after > 0, "both orders occurred");
}

#[tokio::test(flavor = "multi_thread")]
async fn sc_14_a_users_oldest_live_session_makes_room() {
    let server = Server::start(&[]);
    let (here, there) = (Gateway::new(&server.url()), Gateway::new(&server.url()));
    let create = async |gateway: &Gateway, issuer: &str, expires: Option<Mono>| {
        let (key, mut record) = gateway.fresh();
        record.about.issuer = issuer.into();
        record.expires = expires.unwrap_or(record.expires);
        match gateway.store.create(key, record, 3, gateway.clock.now()).await.unwrap() {
            Creation::Created { evicted } => (key, evicted),
            other => panic!("{other:?}"),
        }
    };
    let soon = here.clock.mono().after(Duration::from_millis(50));
    create(&here, "https://one", Some(soon)).await;
    let (oldest, _) = create(&here, "https://one", None).await;
    let (of_other, _) = create(&there, "https://two", None).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (second, _) = create(&there, "https://one", None).await;
    assert!(create(&here, "https://one", None).await.1.is_empty(), "neither the dead nor another issuer's count");
    assert_eq!(create(&there, "https://one", None).await.1, [oldest]);
    assert_eq!(create(&here, "https://one", None).await.1, [second]);
    assert!(matches!(here.find(of_other).await, Lookup::Live(_)));
    let index: Vec<String> = server.ask("KEYS latchgate:i:*");
    assert_eq!(server.ask::<i64>(&format!("ZCARD {}", index[0])), 4, "who is over is not in the index");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_is_on_some_page() {
    let server = Server::start(&[]);
    let gateway = Gateway::new(&server.url());
    let mut keys = Vec::new();
    for number in 0..250 {
        keys.push(gateway.create(&format!("user{}", number % 25)).await);
    }
    let (mut listed, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = gateway.store.list(&Filter::default(), cursor.as_deref(), gateway.clock.now()).await.unwrap();
        listed.extend(page.records.into_iter().map(|(key, _)| key));
        (cursor, pages) = (page.next, pages + 1);
        if cursor.is_none() {
            break;
        }
    }
    assert!(pages > 1);
    for list in [&mut keys, &mut listed] {
        list.sort_unstable_by_key(|key| *key.as_bytes());
        list.dedup();
    }
    assert_eq!(listed, keys);
    let of_one = gateway.store.list(&of_subject("user7"), None, gateway.clock.now()).await.unwrap();
    assert_eq!((of_one.records.len(), of_one.next), (10, None));
    let nonsense = gateway.store.list(&Filter::default(), Some("x'1"), gateway.clock.now()).await.unwrap();
    assert!(nonsense.records.is_empty() && nonsense.next.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn st_10_every_key_has_a_ttl_within_the_absolute_life() {
    let server = Server::start(&[]);
    let gateway = Arc::new(Gateway::new(&server.url()));
    let mut soak = JoinSet::new();
    for number in 0..300 {
        let gateway = Arc::clone(&gateway);
        soak.spawn(async move {
            let subject = format!("user{}", number % 20);
            let key = gateway.create_with(|record| {
                record.about.subject = subject.clone();
                record.about.sid = (number % 2 == 0).then(|| format!("sid{}", number % 30));
            });
            let key = key.await;
            let now = gateway.clock.now();
            let claim = Claim { key, generation: 1, owner: number, life: Duration::from_secs(10) };
            gateway.store.lease(&claim, now).await.unwrap();
            gateway.store.renew_lease(&claim, now).await.unwrap();
            let record = gateway.find(key).await;
            if let Lookup::Live(record) = record {
                gateway.store.replace(key, 1, next(&record), now).await.unwrap();
            }
            gateway.store.touch(key, now.mono, now.mono.after(Duration::from_secs(1_000_000))).await.unwrap();
            let name = OnceName::new("code", &number.to_string());
            gateway.store.take_once(name, Duration::from_secs(60), now).await.unwrap();
            gateway.store.release_lease(&claim, number % 3 == 0).await.unwrap();
            match number % 10 {
                0 => drop(gateway.store.remove(key, now).await.unwrap()),
                1 => drop(gateway.store.remove_where(&of_subject(&subject), now).await.unwrap()),
                _ => {}
            }
        });
    }
    soak.join_all().await;
    let keys: Vec<String> = server.ask("KEYS *");
    assert!(keys.len() > 600, "{}", keys.len());
    for key in keys {
        let ttl: i64 = server.ask(&format!("PTTL {key}"));
        assert!((1..=3_600_000).contains(&ttl), "{key}: {ttl}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn st_11_what_is_no_record_is_no_session_and_is_not_read() {
    let server = Server::start(&[]);
    let gateway = Gateway::new(&server.url());
    let spoil: [fn(&str) -> redis::Cmd; 6] = [
        |name| redis::cmd("SET").arg(name).arg("garbage").to_owned(),
        |name| redis::cmd("HSET").arg(name).arg("record").arg(vec![1u8; 8 << 20]).to_owned(),
        |name| redis::cmd("HSET").arg(name).arg("version").arg(vec![b'1'; 2 << 20]).to_owned(),
        |name| redis::cmd("HSET").arg(name).arg("record").arg("\u{1}trunc").to_owned(),
        |name| redis::cmd("HSET").arg(name).arg("version").arg("7").to_owned(),
        |name| redis::cmd("HDEL").arg(name).arg("expires").to_owned(),
    ];
    for (number, spoil) in spoil.iter().enumerate() {
        let key = gateway.create("ada").await;
        let good = gateway.live(key).await;
        let name = hex_name('s', key);
        server.send::<redis::Value>(&spoil(&name)).unwrap();
        assert!(matches!(gateway.find(key).await, Lookup::Unknown), "{number}");
        let now = gateway.clock.now();
        assert!(
            matches!(gateway.store.replace(key, 3, next(&good), now).await.unwrap(), Replacement::Gone),
            "{number}"
        );
        gateway.store.touch(key, now.mono, now.mono.after(SECOND)).await.unwrap();
        gateway.store.list(&of_subject("ada"), None, now).await.unwrap();
        assert!(gateway.store.remove(key, now).await.unwrap());
        assert!(matches!(gateway.find(key).await, Lookup::Ended), "{number}");
    }
    assert!(gateway.store.unreadable() >= 12);

    for index in server.ask::<Vec<String>>("KEYS latchgate:i:*") {
        server.ask::<String>(&format!("SET {index} garbage"));
    }
    let key = gateway.create("ada").await;
    assert_eq!(gateway.store.remove_where(&of_subject("ada"), gateway.clock.now()).await.unwrap(), [key]);
}
