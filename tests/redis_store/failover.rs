//! The primary dies while it is written to.

use crate::harness::server::{Cluster, Server};
use crate::harness::{Gateway, eventually};
use latchgate::clock::Mono;
use latchgate::session::SessionKey;
use latchgate::session::store::redis::RedisSettings;
use latchgate::session::store::{Filter, Lookup, SessionStore};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);

/// Sessions that are created without end, each with the time at which that was acknowledged.
struct Load {
    acknowledged: Arc<Mutex<Vec<(SessionKey, Mono)>>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(gateway: &Arc<Gateway>) -> Load {
        let (acknowledged, stop): (Arc<Mutex<Vec<_>>>, Arc<AtomicBool>) = Default::default();
        let writer = |number: u32| {
            let (gateway, acknowledged, stop) = (Arc::clone(gateway), Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (key, mut record) = gateway.fresh();
                    record.about.subject = format!("user{number}-{round}");
                    if gateway.store.create(key, record, 100, gateway.clock.now()).await.is_ok() {
                        acknowledged.lock().unwrap().push((key, gateway.clock.mono()));
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        };
        let writers = (0..8).map(writer).collect();
        Load { acknowledged, stop, writers }
    }

    fn last(&self) -> Mono {
        self.acknowledged.lock().unwrap().last().map_or(Mono(0), |(_, at)| *at)
    }

    /// Ends; what was acknowledged is there, but for what may not have been replicated when the primary died.
    async fn check(self, gateway: &Gateway, died: Mono) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        let acknowledged = std::mem::take(&mut *self.acknowledged.lock().unwrap());
        let (mut lost, mut after) = (0, 0);
        for (key, at) in &acknowledged {
            after += usize::from(*at > died.after(SECOND));
            match gateway.find(*key).await {
                Lookup::Live(record) => assert_eq!(&record.sealed[..], &key.as_bytes()[..]),
                other => {
                    lost += 1;
                    let replicated = at.after(SECOND) < died || *at > died.after(SECOND);
                    assert!(!replicated, "{other:?}, acknowledged at {at:?}, the primary died at {died:?}");
                }
            }
        }
        println!(
            "{} sessions acknowledged, {after} of them after the failover; {lost} lost with the primary",
            acknowledged.len()
        );
        assert!(after > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn st_05_sentinel_names_another_primary_and_writes_go_on() {
    let mut primary = Server::start(&[]);
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
    let up = || replica.ask::<String>("INFO replication").contains("master_link_status:up");
    eventually("the replica follows", 10 * SECOND, async || up()).await;
    let sentinels: Vec<Server> = (0..3).map(|_| Server::start_sentinel(primary.port)).collect();
    let informed = |sentinel: &Server| {
        let state: std::collections::HashMap<String, String> = sentinel.ask("SENTINEL MASTER mymaster");
        state["num-other-sentinels"] == "2" && state["num-slaves"] == "1"
    };
    eventually("the sentinels know each other", 20 * SECOND, async || sentinels.iter().all(informed)).await;

    let nodes: Vec<String> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    let url = format!("redis-sentinel://{}/mymaster", nodes.join(","));
    let gateway = Arc::new(Gateway::with_defaults(&url).trusting().await);
    let load = Load::on(&gateway);
    tokio::time::sleep(2 * SECOND).await;
    assert!(load.last() > Mono(0));

    primary.kill();
    let died = gateway.clock.mono();
    let resumed = eventually("writes resume", 10 * SECOND, async || load.last() > died.after(SECOND / 2)).await;
    println!("ST-05: Sentinel: writes resume {resumed:?} after the primary died");
    eventually("invalidation comes from the new one", 5 * SECOND, async || gateway.trusts()).await;
    load.check(&gateway, died).await;
    assert_eq!(sentinels.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn st_05_a_cluster_promotes_a_replica_and_writes_go_on() {
    let mut cluster = Cluster::start();
    let gateway =
        Arc::new(Gateway::with(RedisSettings::from_urls(&cluster.urls()[1..2], true).unwrap()).trusting().await);
    let mut keys = Vec::new();
    for _ in 0..40 {
        keys.push(gateway.create("ada").await);
    }
    let (mut listed, mut cursor) = (0, None);
    loop {
        let page = gateway.store.list(&Filter::default(), cursor.as_deref(), gateway.clock.now()).await.unwrap();
        listed += page.records.len();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert!(listed >= 40, "across all primaries: {listed}");
    gives_away_a_slot(&cluster, &gateway, keys[0]).await;

    let load = Load::on(&gateway);
    tokio::time::sleep(2 * SECOND).await;
    cluster.nodes[0].kill();
    let died = gateway.clock.mono();
    let replica = &cluster.nodes[3];
    let promoted = async || replica.ask::<Vec<redis::Value>>("ROLE")[0] == redis::Value::BulkString("master".into());
    eventually("a replica is promoted", 10 * SECOND, promoted).await;
    let whole = async || {
        let of_nobody = gateway.store.find(crate::harness::random_key(), gateway.clock.now());
        of_nobody.await.is_ok() && gateway.store.ping().await.is_ok() && gateway.trusts()
    };
    eventually("the whole cluster is used again", 5 * SECOND, whole).await;
    let resumed = gateway.clock.mono().since(died);
    println!("ST-05: Cluster: whole again {resumed:?} after a primary died");
    assert!(resumed <= 10 * SECOND, "{resumed:?}");
    tokio::time::sleep(2 * SECOND).await;
    load.check(&gateway, died).await;
    let of_ada = Filter { subject: Some("ada".into()), ..Filter::default() };
    assert_eq!(gateway.store.remove_where(&of_ada, gateway.clock.now()).await.unwrap().len(), 40);
}

/// One slot is on its way from one primary to another: keys that are gone already are asked for there.
async fn gives_away_a_slot(cluster: &Cluster, gateway: &Gateway, key: SessionKey) {
    let tag = key.to_hex();
    let slot: u16 = cluster.nodes[0].ask(&format!("CLUSTER KEYSLOT {tag}"));
    let owner = cluster.nodes[..3].iter().position(|node| node.try_ask::<i64>(&format!("EXISTS {{{tag}}}")).is_ok());
    let from = &cluster.nodes[owner.unwrap()];
    let to = cluster.nodes[..3].iter().find(|node| node.port != from.port).unwrap();
    let (from_id, to_id): (String, String) = (from.ask("CLUSTER MYID"), to.ask("CLUSTER MYID"));
    to.ask::<String>(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"));
    from.ask::<String>(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"));
    let names: Vec<String> = from.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 100"));
    assert!(names.len() >= 2, "{names:?}");
    from.ask::<String>(&format!("MIGRATE 127.0.0.1 {}  0 5000 KEYS {}", to.port, names.join(" ")));
    gateway.live(key).await;
    for node in [to, from] {
        node.ask::<String>(&format!("CLUSTER SETSLOT {slot} NODE {to_id}"));
    }
    gateway.live(key).await;
    eventually("the new place is learnt", 2 * SECOND, async || gateway.trusts()).await;
}
