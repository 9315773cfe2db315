//! When the server is down, slow, full, or does not let us in.

use crate::harness::proxy::{Behaviour, Proxy};
use crate::harness::server::{Certificates, Server, free_port, start_tls};
use crate::harness::{Gateway, eventually, logs, random_key, timed};
use latchgate::background::Background;
use latchgate::clock::Clock;
use latchgate::session::opened::Opened;
use latchgate::session::store::redis::{RedisSettings, RedisStore, TlsSettings};
use latchgate::session::store::{Lookup, OnceName, Record, Replacement, SessionStore};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

async fn reason(gateway: &Gateway) -> &'static str {
    gateway.store.find(random_key(), gateway.clock.now()).await.map_or_else(|error| error.reason, |_| "none")
}

#[tokio::test(flavor = "multi_thread")]
async fn st_01_a_server_that_is_down_is_an_error_at_once_and_never_nothing_there() {
    let port = free_port();
    let gateway = Gateway::with_defaults(&format!("redis://127.0.0.1:{port}"));
    let (first, took) = timed(reason(&gateway)).await;
    assert!(first == "unreachable" && took < SECOND, "{first} after {took:?}");
    for _ in 0..10 {
        reason(&gateway).await;
    }
    let (_, took) = timed(async {
        for _ in 0..1000 {
            assert!(matches!(reason(&gateway).await, "backing_off" | "unreachable" | "timeout"));
        }
    })
    .await;
    assert!(took < SECOND, "a thousand refusals cost nothing: {took:?}");
    assert!(gateway.store.ping().await.is_err());

    let _server = Server::start_on(port, &[]);
    let back = eventually("back without a restart", 3 * SECOND, async || reason(&gateway).await == "none").await;
    println!("ST-01: used again {back:?} after it came up");
    eventually("well", SECOND, async || gateway.store.ping().await.is_ok()).await;
    let said = |words: &[&str]| logs::lines_with(&[words, &[&format!("127.0.0.1:{port}")]].concat()).len();
    assert_eq!(said(&["WARN", "unreachable"]), 1, "once, whatever the number of attempts");
    assert_eq!(said(&["INFO", "can be used again"]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn st_02_a_server_that_never_answers_costs_half_a_second_and_then_nothing() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let gateway = Arc::new(Gateway::with_defaults(&proxy.url()));
    let key = gateway.create("ada").await;
    proxy.set(Behaviour::Stall);
    let (answer, took) = timed(gateway.store.find(key, gateway.clock.now())).await;
    assert_eq!(answer.unwrap_err().reason, "timeout");
    assert!(took < Duration::from_millis(700), "{took:?}");

    let mut crowd = JoinSet::new();
    for _ in 0..3000 {
        let gateway = Arc::clone(&gateway);
        crowd.spawn(async move { timed(reason(&gateway)).await });
    }
    let answers = crowd.join_all().await;
    let longest = answers.iter().map(|(_, took)| *took).max().unwrap();
    assert!(longest < SECOND, "{longest:?}");
    let busy = answers.iter().filter(|(reason, _)| *reason == "busy").count();
    assert!(busy >= 1900, "no more than so many wait: {busy}");
    // One probe at a time: all others are refused at once.
    let mut waited = 0;
    for _ in 0..100 {
        let (_, took) = timed(reason(&gateway)).await;
        waited += usize::from(took > Duration::from_millis(100));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(waited <= 5, "{waited} of 100 waited");

    proxy.set(Behaviour::Delay(Duration::from_secs(30)));
    tokio::time::sleep(SECOND).await;
    let (_, took) = timed(reason(&gateway)).await;
    assert!(took < Duration::from_millis(700), "{took:?}");
    proxy.set(Behaviour::Pass);
    eventually("back", 5 * SECOND, async || {
        matches!(gateway.store.find(key, gateway.clock.now()).await, Ok(Lookup::Live(_)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn st_03_no_reply_reaches_another_request() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let gateway = Arc::new(Gateway::with_defaults(&proxy.url()));
    let mut keys = Vec::new();
    for _ in 0..50 {
        keys.push(gateway.create("ada").await);
    }
    let keys: Arc<[_]> = keys.into();
    let counts: Arc<[AtomicUsize; 3]> = Arc::default();
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        let (gateway, keys, counts) = (Arc::clone(&gateway), Arc::clone(&keys), Arc::clone(&counts));
        clients.spawn(async move {
            for _ in 0..400 {
                let key = keys[fastrand::usize(..keys.len())];
                let reading = async {
                    if fastrand::u8(..4) > 0 {
                        return gateway.store.find(key, gateway.clock.now()).await;
                    }
                    let Ok(Lookup::Live(seen)) = gateway.store.find(key, gateway.clock.now()).await else {
                        return Ok(Lookup::Unknown);
                    };
                    let record = Record { version: seen.version + 1, ..seen.clone() };
                    let replaced = gateway.store.replace(key, seen.version, record, gateway.clock.now()).await;
                    Ok(match replaced? {
                        Replacement::Conflict(newest) => Lookup::Live(newest),
                        Replacement::Replaced => Lookup::Live(seen),
                        Replacement::Gone => panic!("nobody removes these"),
                    })
                };
                // A third of the callers go away at some point.
                let patience = if fastrand::u8(..3) == 0 { fastrand::u64(0..1500) } else { 2_000_000 };
                let outcome = match tokio::time::timeout(Duration::from_micros(patience), reading).await {
                    Ok(Ok(Lookup::Live(record))) => {
                        assert_eq!(&record.sealed[..], &key.as_bytes()[..], "somebody else's session");
                        0
                    }
                    Ok(Ok(_)) | Ok(Err(_)) => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        1
                    }
                    Err(_) => 2,
                };
                counts[outcome].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let faults = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(50..200))).await;
            proxy.set(Behaviour::Cut(fastrand::usize(1..4000)));
            tokio::time::sleep(Duration::from_millis(20)).await;
            proxy.set(Behaviour::Pass);
        }
    });
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    faults.abort();
    let [answered, failed, abandoned] = [0, 1, 2].map(|outcome: usize| counts[outcome].load(Ordering::Relaxed));
    println!("ST-03: {answered} answered, {failed} failed, {abandoned} abandoned");
    assert_eq!(answered + failed + abandoned, 16_000);
    assert!(answered > 5_000 && abandoned > 500 && failed > 0, "all three happened often");
}

#[tokio::test(flavor = "multi_thread")]
async fn st_03_the_next_request_after_an_abandoned_one_gets_its_own_answer() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let gateway = Gateway::with_defaults(&proxy.url());
    let (a, b) = (gateway.create("ada").await, gateway.create("bob").await);
    proxy.set(Behaviour::Delay(Duration::from_millis(50)));
    for _ in 0..6 {
        let abandoned = tokio::time::timeout(Duration::from_millis(20), gateway.find(a)).await;
        assert!(abandoned.is_err(), "it was under way");
        assert_eq!(&gateway.live(b).await.sealed[..], &b.as_bytes()[..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn st_03_what_was_done_before_the_connection_broke_is_done_once() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let gateway = Gateway::with_defaults(&proxy.url());
    let now = || gateway.clock.now();
    gateway.create("ada").await;
    for round in 0..30 {
        proxy.set(Behaviour::CutOnce);
        let name = OnceName::new("state", &round.to_string());
        assert!(gateway.store.take_once(name, SECOND, now()).await.unwrap(), "the first, though its answer was lost");
        assert!(!gateway.store.take_once(name, SECOND, now()).await.unwrap());

        proxy.set(Behaviour::CutOnce);
        let key = gateway.create("ada").await;
        let seen = gateway.live(key).await;
        let next = Record { version: 2, sealed: vec![round; 9].into(), ..seen };
        proxy.set(Behaviour::CutOnce);
        let replaced = gateway.store.replace(key, 1, next.clone(), now()).await.unwrap();
        assert!(matches!(replaced, Replacement::Replaced), "{replaced:?}");
        assert_eq!(gateway.live(key).await, next);
        assert!(gateway.store.remove(key, now()).await.unwrap());
    }
    assert!(proxy.cuts() > 45, "most of the ninety hit a request: {}", proxy.cuts());
}

#[tokio::test(flavor = "multi_thread")]
async fn st_04_the_first_request_after_a_restart_works() {
    let mut server = Server::start(&[]);
    let gateway = Gateway::with_defaults(&server.url()).trusting().await;
    for _ in 0..3 {
        let key = gateway.create("ada").await;
        server.restart();
        assert!(matches!(gateway.find(key).await, Lookup::Unknown), "nothing was saved");
    }
    let key = gateway.create("ada").await;
    gateway.live(key).await;
    // As `timeout` in redis.conf does it to idle connections.
    for _ in 0..3 {
        server.ask::<i64>("CLIENT KILL TYPE normal");
        gateway.live(key).await;
        let record = gateway.live(key).await;
        let next = Record { version: record.version + 1, ..record.clone() };
        server.ask::<i64>("CLIENT KILL TYPE normal");
        let replaced = gateway.store.replace(key, record.version, next, gateway.clock.now()).await.unwrap();
        assert!(matches!(replaced, Replacement::Replaced));
    }
    server.ask::<String>("SCRIPT FLUSH");
    gateway.live(key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn st_07_only_a_primary_is_asked() {
    let (primary, replica) = (Server::start(&[]), Server::start(&[]));
    let gateway = Gateway::with_defaults(&replica.url()).trusting().await;
    gateway.create("ada").await;
    replica.ask::<String>(&format!("REPLICAOF 127.0.0.1 {}", primary.port));
    let delay = eventually("a primary no more", SECOND, async || !gateway.trusts()).await;
    println!("ST-07: a demotion is noticed after {delay:?}");
    assert_eq!(reason(&gateway).await, "not_primary", "nothing is read there");
    let (key, record) = gateway.fresh();
    let refused = gateway.store.create(key, record, 100, gateway.clock.now()).await.unwrap_err();
    assert_eq!(refused.reason, "not_primary");
    assert_eq!(reason(&Gateway::with_defaults(&replica.url())).await, "not_primary");
    replica.ask::<String>("REPLICAOF NO ONE");
    eventually("promoted", 3 * SECOND, async || reason(&gateway).await == "none").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn st_08_a_full_server_refuses_writes_and_a_careless_policy_is_warned_of() {
    let server = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let gateway = Gateway::with_defaults(&server.url()).trusting().await;
    let warned = || logs::lines_with(&["WARN", "maxmemory-policy", &server.port.to_string(), "allkeys-lru"]).len();
    eventually("a warning", 2 * SECOND, async || warned() == 1).await;

    let key = gateway.create("ada").await;
    server.ask::<String>("CONFIG SET maxmemory-policy noeviction maxmemory 1mb");
    let (fresh, record) = gateway.fresh();
    let refused = gateway.store.create(fresh, record.clone(), 100, gateway.clock.now()).await.unwrap_err();
    assert_eq!(refused.reason, "store_full");
    let seen = gateway.live(key).await;
    let next = Record { version: 2, sealed: vec![7; 5000].into(), ..seen };
    let refused = gateway.store.replace(key, 1, next, gateway.clock.now()).await.unwrap_err();
    assert_eq!(refused.reason, "store_full");
    assert_eq!(gateway.live(key).await.version, 1, "what is there stays, and is read");
    assert!(gateway.store.remove(key, gateway.clock.now()).await.unwrap(), "signing out needs no memory");
    server.ask::<String>("CONFIG SET maxmemory 0");
    gateway.store.create(fresh, record, 100, gateway.clock.now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn st_09_who_is_not_let_in_says_why_and_no_secret() {
    let server = Server::start(&["--requirepass", "right-horse"]);
    let mut admin = redis::Client::open(format!("redis://:right-horse@127.0.0.1:{}", server.port)).unwrap();
    let acl = |rules: &str| {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(rules.split(' ').collect::<Vec<_>>());
        command
    };
    for rules in ["weak on >wrong-staple ~other:* +@all", MINIMAL] {
        let _: () = acl(rules).query(&mut admin).unwrap();
    }
    let url = |login: &str| format!("redis://{login}@127.0.0.1:{}", server.port);
    let logged = |reason: &str| logs::lines_with(&["WARN", &format!("127.0.0.1:{}", server.port), reason]);
    for login in [":wrong-staple", "nobody:wrong-staple"] {
        let gateway = Gateway::with_defaults(&url(login));
        assert_eq!(reason(&gateway).await, "credentials", "{login}");
        let (_, took) = timed(reason(&gateway)).await;
        assert!(took < SECOND);
    }
    assert_eq!(reason(&Gateway::with_defaults(&server.url())).await, "credentials", "no password at all");
    assert!(!logged("credentials").is_empty());
    assert_eq!(reason(&Gateway::with_defaults(&url("weak:wrong-staple"))).await, "forbidden");
    assert!(!logged("forbidden").is_empty());

    let gateway = Gateway::with_defaults(&url("gateway:right-horse")).trusting().await;
    let key = gateway.create("ada").await;
    gateway.store.list(&Default::default(), None, gateway.clock.now()).await.unwrap();
    assert!(gateway.store.remove(key, gateway.clock.now()).await.unwrap());
    gateway.store.ping().await.unwrap();
    for secret in ["wrong-staple", "right-horse"] {
        assert!(logs::lines_with(&[secret]).is_empty());
    }
}

/// All that is needed, as the documentation should say it.
const MINIMAL: &str = "gateway on >right-horse ~latchgate:* +eval +evalsha +type +exists +hset +hget +hmget +hstrlen \
    +pexpire +pttl +set +get +getrange +del +unlink +zadd +zrem +zscore +zrange +zrevrange +zrangebyscore \
    +zremrangebyscore +scan +ping +role +info +hello +client|tracking";

#[tokio::test(flavor = "multi_thread")]
async fn st_09_tls_with_a_ca_and_a_client_certificate_of_its_own() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let server = start_tls(&certificates);
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let with = |ca: Option<&Certificates>, client: bool| {
        let mut settings = RedisSettings::from_urls(&[&url], false).unwrap();
        let client = client.then(|| (certificates.path("client.pem"), certificates.path("client.key")));
        settings.tls = Some(TlsSettings { ca_file: ca.map(|ca| ca.path("ca.pem")), client });
        Gateway::with(settings)
    };
    let gateway = with(Some(&certificates), true).trusting().await;
    let key = gateway.create("ada").await;
    gateway.live(key).await;

    for distrusting in [with(Some(&others), true), with(None, true)] {
        assert_eq!(reason(&distrusting).await, "tls");
    }
    assert!(!logs::lines_with(&["WARN", &server.port.to_string(), "tls", "UnknownIssuer"]).is_empty());
    // With TLS 1.3 the server says so after the handshake.
    assert_ne!(reason(&with(Some(&certificates), false)).await, "none", "the server wants a certificate");

    let mut settings = RedisSettings::from_urls(&[&url], false).unwrap();
    settings.tls = Some(TlsSettings { ca_file: Some("/nowhere/ca.pem".into()), client: None });
    let background = Background::on_current_runtime();
    let problem = RedisStore::new(settings, Opened::new(1 << 20), background, Clock::system()).err().unwrap();
    assert!(problem.to_string().contains("/nowhere/ca.pem"), "{problem}");
}

/// Not a test of anything but speed; what it prints goes into the documentation.
#[tokio::test(flavor = "multi_thread")]
async fn how_long_things_take() {
    let server = Server::start(&[]);
    let gateway = Gateway::with_defaults(&server.url()).trusting().await;
    let key = gateway.create_with(|record| record.sealed = vec![7; 3000].into()).await;
    let mut medians = HashMap::new();
    for what in ["read", "write", "touch"] {
        let mut times = Vec::new();
        let mut record = gateway.live(key).await;
        for _ in 0..500 {
            let started = tokio::time::Instant::now();
            match what {
                "read" => drop(gateway.find(key).await),
                "write" => {
                    let seen = record.version;
                    record.version += 1;
                    gateway.store.replace(key, seen, record.clone(), gateway.clock.now()).await.unwrap();
                }
                _ => gateway.store.touch(key, record.last_seen, record.expires).await.unwrap(),
            }
            times.push(started.elapsed());
        }
        times.sort_unstable();
        medians.insert(what, (times[250], times[495]));
    }
    println!("median and 99th percentile of a round trip: {medians:?}");
    assert!(medians.values().all(|(median, _)| *median < Duration::from_millis(100)));
}
