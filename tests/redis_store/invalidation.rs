//! What one gateway changes, the others know within a second.

use crate::harness::proxy::{Behaviour, Proxy};
use crate::harness::server::{Cluster, Server};
use crate::harness::{Gateway, eventually, logs, session, timed};
use latchgate::session::SessionKey;
use latchgate::session::store::redis::RedisSettings;
use latchgate::session::store::{Lookup, Record, Replacement, SessionStore};
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// How long until `gateway` no longer vouches for what it has opened.
async fn until_forgotten(gateway: &Gateway, key: SessionKey) -> Duration {
    eventually("forgotten", 2 * SECOND, async || gateway.opened.peek(key).is_none()).await
}

fn keep(gateway: &Gateway, key: SessionKey) {
    gateway.opened.keep(gateway.opened.ticket(key), &session(key));
    assert!(gateway.opened.peek(key).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn lo_05_a_logout_is_known_to_every_gateway_within_a_second() {
    let server = Server::start(&[]);
    let here = Gateway::with_defaults(&server.url()).trusting().await;
    let there = Gateway::with_defaults(&server.url()).trusting().await;
    let mut delays = Vec::new();
    for _ in 0..50 {
        let key = here.create("ada").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        keep(&there, key);
        let started = Instant::now();
        here.store.remove(key, here.clock.now()).await.unwrap();
        while there.opened.peek(key).is_some() {
            tokio::task::yield_now().await;
            assert!(started.elapsed() < SECOND);
        }
        delays.push(started.elapsed());
        assert!(there.trusts(), "by what the server said, not by distrust");
    }
    delays.sort_unstable();
    println!(
        "LO-05: a logout elsewhere is known {:?} (median), {:?} (longest) after it was asked for",
        delays[25], delays[49]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn st_12_every_kind_of_change_is_told_and_nothing_else() {
    let server = Server::start(&[]);
    let here = Gateway::with_defaults(&server.url()).trusting().await;
    let there = Gateway::with_defaults(&server.url()).trusting().await;
    let key = here.create("ada").await;
    let other = here.create("eve").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    keep(&there, other);

    keep(&there, key);
    let record = here.live(key).await;
    let next = Record { version: 2, ..record.clone() };
    assert!(matches!(here.store.replace(key, 1, next, here.clock.now()).await.unwrap(), Replacement::Replaced));
    until_forgotten(&there, key).await;

    keep(&there, key);
    here.store.touch(key, here.clock.mono(), record.expires.after(SECOND)).await.unwrap();
    until_forgotten(&there, key).await;

    keep(&there, key);
    server.ask::<i64>(&format!("PEXPIRE latchgate:s:{{{}}} 1", key.to_hex()));
    until_forgotten(&there, key).await;
    assert!(there.opened.peek(other).is_some(), "the others are kept");

    server.ask::<String>("FLUSHALL");
    until_forgotten(&there, other).await;
    assert!(matches!(there.find(other).await, Lookup::Unknown), "ST-08");
    assert!(there.trusts());
}

#[tokio::test(flavor = "multi_thread")]
async fn st_12_a_link_that_dies_without_a_word_is_not_believed_for_a_second() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let here = Gateway::with_defaults(&server.url()).trusting().await;
    let there = Gateway::with_defaults(&proxy.url()).trusting().await;
    for _ in 0..3 {
        let key = here.create("ada").await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..300))).await;
        keep(&there, key);
        proxy.set(Behaviour::Stall);
        let (removed, _) = timed(here.store.remove(key, here.clock.now())).await;
        assert!(removed.unwrap());
        let delay = until_forgotten(&there, key).await;
        println!("LO-05: with a silent link a logout elsewhere counts after {delay:?}");
        assert!(delay < SECOND, "{delay:?}");
        assert!(!there.trusts());
        proxy.set(Behaviour::Pass);
        eventually("it is believed again", 5 * SECOND, async || there.trusts()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_is_noticed_at_once_and_mended() {
    let server = Server::start(&[]);
    let there = Gateway::with_defaults(&server.url()).trusting().await;
    let key = there.create("ada").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    keep(&there, key);
    server.ask::<i64>("CLIENT KILL TYPE normal");
    let delay = until_forgotten(&there, key).await;
    assert!(delay < Duration::from_millis(200), "{delay:?}");
    eventually("mended", 2 * SECOND, async || there.trusts()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_every_primary_is_listened_to() {
    let cluster = Cluster::start();
    let settings = || RedisSettings::from_urls(&cluster.urls(), true).unwrap();
    let (here, there) = (Gateway::with(settings()).trusting().await, Gateway::with(settings()).trusting().await);
    let mut keys = Vec::new();
    for _ in 0..30 {
        keys.push(here.create("ada").await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    for &key in &keys {
        keep(&there, key);
    }
    for &key in &keys {
        here.store.remove(key, here.clock.now()).await.unwrap();
        assert!(until_forgotten(&there, key).await < SECOND);
        assert!(there.trusts());
    }
    let counts = cluster.nodes[..3].iter().map(|node| node.ask::<i64>("DBSIZE"));
    assert!(counts.into_iter().all(|count| count > 0), "every primary had some of them");

    cluster.nodes[2].freeze(true);
    eventually("one silent primary is one too many", SECOND, async || !there.trusts()).await;
    cluster.nodes[2].freeze(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_listen_asks_the_server_every_time() {
    let server = Server::start(&[]);
    server.ask::<String>("ACL SETUSER deaf on >hunter2 ~latchgate:* +@all -client|tracking");
    let gateway = Gateway::with_defaults(&format!("redis://deaf:hunter2@127.0.0.1:{}", server.port));
    let key = gateway.create("ada").await;
    let warned = || logs::lines_with(&["WARN", &server.port.to_string(), "no_invalidation"]).len();
    eventually("a warning", 2 * SECOND, async || warned() == 1).await;
    assert!(!gateway.trusts());
    assert!(matches!(gateway.find(key).await, Lookup::Live(_)));
    assert_eq!(warned(), 1);
}
