//! The crash matrix: at each point of a refresh, on each store, the gateway is killed, stopped for longer than its lease
//! and continued, told to end, or left by its client, between a provider that revokes all it gave when a spent
//! refresh token is presented and an upstream that accepts nothing else than live access tokens. What is left is a
//! session that works or a clean login, never a loop, and never a spent token presented twice (RF-05…RF-09).
//!
//! The points are in the binary only with the feature `fault-points`:
//! `cargo test --features fault-points --test crash`. `LATCHGATE_CRASH_CASE=redis/kill` runs the cases whose names
//! have that in them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "the soak needs the rest")]
#[path = "../support/gateway_process.rs"]
mod gateway_process;
#[allow(dead_code, unused_imports, reason = "the stage of the in-process suite, of which this one needs a part")]
#[path = "../gateway/harness/mod.rs"]
mod harness;
#[path = "../support/redis_server.rs"]
mod redis_server;
#[path = "../support/visitor.rs"]
mod visitor;

use gateway_process::{EXTERNAL_URL, GatewayProcess, Store};
use harness::{Endpoint, PATIENCE, Provider, Reply, Upstream};
use latchgate::clock::Clock;
use redis_server::RedisServer;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use visitor::Visitor;

/// The points in the order in which a refresh passes them, and whether a gateway that dies there may take the new
/// tokens with it: after the request is out and before the answer is stored nobody else can have them.
const POINTS: [(&str, Loss); 7] = [
    ("before_lease", Loss::None),
    ("after_lease", Loss::None),
    ("request_sent", Loss::Possible),
    ("response_received", Loss::Possible),
    ("before_write", Loss::Possible),
    ("after_write", Loss::None),
    ("before_waiters_wake", Loss::None),
];

/// What happens to a gateway at a point, on which stores. Without a neighbour on the same store nobody goes on while it
/// is stopped, and what is in its memory alone dies with it.
const EVENTS: [(Event, &[StoreKind]); 4] = [
    (Event::Kill, &[StoreKind::File, StoreKind::Redis, StoreKind::Cookie]),
    (Event::StopPastTheLease, &[StoreKind::Redis]),
    (Event::Disconnect, &[StoreKind::Memory, StoreKind::File, StoreKind::Redis, StoreKind::Cookie]),
    (Event::Terminate, &[StoreKind::Memory, StoreKind::File, StoreKind::Redis, StoreKind::Cookie]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    None,
    Possible,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Kill,
    StopPastTheLease,
    Disconnect,
    Terminate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreKind {
    Memory,
    File,
    Redis,
    Cookie,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    point: &'static str,
    loss: Loss,
    event: Event,
    store: StoreKind,
}

/// What was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    SessionWorks,
    CleanLogin,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_at_whatever_point_ends_well() {
    let only = std::env::var("LATCHGATE_CRASH_CASE").unwrap_or_default();
    let redis = Arc::new(RedisServer::start().await);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (point, loss) in POINTS {
        for (event, stores) in EVENTS {
            for &store in stores {
                let case = Case { point, loss, event, store };
                if case.name().contains(&only) {
                    let (redis, places) = (Arc::clone(&redis), Arc::clone(&places));
                    running.spawn(async move {
                        let _place = places.acquire_owned().await.unwrap();
                        let running = tokio::spawn(async move { case.run(&redis).await });
                        (case, running.await)
                    });
                }
            }
        }
    }
    let (mut works, mut clean, mut failed) = (0, 0, Vec::new());
    while let Some(finished) = running.join_next().await {
        match finished.unwrap() {
            (_, Ok(End::SessionWorks)) => works += 1,
            (_, Ok(End::CleanLogin)) => clean += 1,
            (case, Err(_)) => failed.push(case.name()),
        }
    }
    println!("crash matrix: {works} sessions work, {clean} clean logins, {} failed", failed.len());
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A gateway, a neighbour if the store allows one, and what surrounds them.
struct Scene {
    provider: Provider,
    upstream: Upstream,
    gateway: GatewayProcess,
    neighbour: Option<GatewayProcess>,
    visitor: Visitor,
    gate: PathBuf,
    /// Last, so that it goes last.
    _directory: TempDir,
}

impl Case {
    fn name(&self) -> String {
        format!("{:?}/{:?}/{}", self.store, self.event, self.point).to_lowercase()
    }

    async fn run(self, redis: &RedisServer) -> End {
        let mut scene = self.stage(redis).await;
        let name = self.name();
        let visiting = scene.visit();
        scene.point_is_reached().await;
        match self.event {
            Event::Kill => {
                scene.gateway.kill();
                scene.open_gate();
                scene.gateway.restart(&[]).await;
            }
            Event::StopPastTheLease => {
                scene.gateway.signal("STOP");
                sleep(LONGER_THAN_A_LEASE).await;
                scene.neighbour_serves().await;
                scene.gateway.signal("CONT");
                scene.open_gate();
                let status = timeout(PATIENCE, visiting).await.unwrap().unwrap().map(|reply| reply.status);
                assert!(matches!(status, Some(200 | 401 | 503)), "{name}: {status:?} by who was stopped");
            }
            Event::Disconnect => {
                visiting.abort();
                sleep(Duration::from_millis(100)).await;
                scene.open_gate();
            }
            Event::Terminate => {
                scene.gateway.signal("TERM");
                sleep(Duration::from_millis(300)).await;
                assert!(scene.gateway.is_running(), "{name}: it waits for the refresh");
                scene.open_gate();
                let reply = timeout(PATIENCE, visiting).await.unwrap().unwrap().expect("an answer");
                assert_eq!(reply.status, 200, "{name}: the request that was under way is served");
                scene.visitor.take_cookies(&reply);
                assert!(scene.gateway.ended().await.success(), "{name}: {}", scene.gateway.log());
                scene.gateway.restart(&[]).await;
            }
        }
        let end = scene.arrive(&name).await;
        let loss = match self.store {
            // What the browser was not told is lost with the process.
            StoreKind::Cookie if ["after_write", "before_waiters_wake"].contains(&self.point) => Loss::Possible,
            _ => self.loss,
        };
        // A refresh that somebody interrupted may present the token once more, to learn that it is spent.
        let may_present_again = self.event == Event::Kill || self.event == Event::StopPastTheLease;
        let reuses = scene.provider.reuses();
        assert!(reuses <= usize::from(may_present_again && loss == Loss::Possible), "{name}: {reuses} reuses");
        assert!(scene.provider.count(Endpoint::Token) <= 5, "{name}: {} calls", scene.provider.count(Endpoint::Token));
        let may_be_lost = match self.event {
            Event::Kill | Event::StopPastTheLease => loss == Loss::Possible,
            Event::Terminate => self.store == StoreKind::Memory,
            Event::Disconnect => false,
        };
        assert!(end == End::SessionWorks || may_be_lost, "{name}: the session was lost\n{}", scene.gateway.log());
        end
    }

    /// Ada is signed in at a gateway that stops at the point, and her token is no longer good.
    async fn stage(self, redis: &RedisServer) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let provider = Provider::start(Clock::system()).await;
        provider.register(&format!("{EXTERNAL_URL}/auth/corp"));
        let upstream = Upstream::start().await;
        upstream.accept_live_tokens(&provider);
        let store = match self.store {
            StoreKind::Memory => Store::Memory,
            StoreKind::File => Store::File(directory.path().join("sessions")),
            StoreKind::Redis => Store::Redis { url: redis.url(), prefix: format!("{}:", self.name()), timeout: "2s" },
            StoreKind::Cookie => Store::Cookie,
        };
        let gate = directory.path().join("gate");
        let environment = [("LATCHGATE_FAULT_POINT", self.point), ("LATCHGATE_FAULT_GATE", gate.to_str().unwrap())];
        let start = async |name: &str, environment: &[(&str, &str)]| {
            let (issuer, upstream) = (provider.issuer(), upstream.url());
            GatewayProcess::start(directory.path(), name, &store, &issuer, &upstream, environment).await
        };
        let gateway = start("gateway", &environment).await;
        let neighbour = match self.store {
            StoreKind::Redis => Some(start("neighbour", &[]).await),
            StoreKind::Memory | StoreKind::File | StoreKind::Cookie => None,
        };
        let mut visitor = Visitor::new("ada", provider.address());
        assert!(visitor.sign_in(gateway.address).await, "{}", gateway.log());
        provider.revoke_access_tokens();
        Scene { provider, upstream, gateway, neighbour, visitor, gate, _directory: directory }
    }
}

impl Scene {
    /// A request that needs a refresh, and its answer.
    fn visit(&self) -> JoinHandle<Option<Reply>> {
        let (visitor, address) = (self.visitor.clone(), self.gateway.address);
        tokio::spawn(async move { visitor.fetch(address, "GET", "/x", "").await })
    }

    async fn point_is_reached(&self) {
        let reached = with_suffix(&self.gate, ".reached");
        let waiting = async {
            while !reached.exists() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "the point is never reached: {}", self.gateway.log());
    }

    fn open_gate(&self) {
        std::fs::write(with_suffix(&self.gate, ".open"), b"").unwrap();
    }

    /// The neighbour goes on where the gateway stopped: with the session, or with a login.
    async fn neighbour_serves(&mut self) {
        let address = self.neighbour.as_ref().unwrap().address;
        arrive_at(address, &mut self.visitor, "while the gateway is stopped").await;
    }

    /// What is left, for a browser: at the neighbour, at the gateway, and again without a redirect.
    async fn arrive(&mut self, name: &str) -> End {
        let addresses = self.neighbour.iter().map(|neighbour| neighbour.address).chain([self.gateway.address]);
        let addresses: Vec<_> = addresses.collect();
        let codes = self.provider.code_exchanges();
        for &address in addresses.iter().chain(&addresses) {
            arrive_at(address, &mut self.visitor, name).await;
        }
        let logins = self.provider.code_exchanges() - codes;
        assert!(logins <= 1, "{name}: {logins} logins");
        let seen = self.upstream.last();
        let user = seen.bearer().and_then(|token| self.provider.user_of(token));
        assert_eq!(user.as_deref(), Some("ada"), "{name}");
        // A login that happened while the gateway was stopped counts too.
        if self.provider.code_exchanges() == 1 { End::SessionWorks } else { End::CleanLogin }
    }
}

/// Follows redirects to a page, and comes back while it is told to come back later.
async fn arrive_at(address: std::net::SocketAddr, visitor: &mut Visitor, name: &str) {
    for _ in 0..30 {
        let arrival = visitor.navigate(address, "/x").await.unwrap_or_else(|| panic!("{name}: nobody answers"));
        match arrival.reply.status {
            200 => return,
            503 => sleep(Duration::from_millis(500)).await,
            status => panic!("{name}: {status} after {} redirects: {}", arrival.redirects, arrival.reply.text()),
        }
    }
    panic!("{name}: it is never the time");
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// Cases that run side by side.
const AT_ONCE: usize = 12;
/// A lease holds for five seconds.
const LONGER_THAN_A_LEASE: Duration = Duration::from_millis(5500);
