//! The soak: a thousand users on three gateways, two of which share a Redis and one has a file, while upstreams refuse
//! tokens at random, clients hang up, the provider fails now and then, users sign out, and gateways are killed.
//!
//! | always | id |
//! |---|---|
//! | the token at the upstream is that of the user whose cookie came | RF-22, I4 |
//! | a second after a sign-out was acknowledged no gateway forwards a request of that session | LO-05, I1 |
//! | a spent refresh token is presented again only when a gateway was killed in between | RF-03, I2 |
//! | in the end each session works or leads to a login that does; no gateway has grown without bound | RF-06 |
//!
//! `LATCHGATE_SOAK_SECONDS` says for how long things go wrong.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "the crash matrix needs the rest")]
#[path = "../support/gateway_process.rs"]
mod gateway_process;
#[allow(dead_code, unused_imports, reason = "the stage of the in-process suite, of which this one needs a part")]
#[path = "../gateway/harness/mod.rs"]
mod harness;
#[path = "../support/redis_server.rs"]
mod redis_server;
#[allow(dead_code, reason = "the crash matrix needs the rest")]
#[path = "../support/visitor.rs"]
mod visitor;

use gateway_process::{EXTERNAL_URL, GatewayProcess, Store};
use harness::upstream::is_relayed;
use harness::{Answer, Endpoint, Fault, Provider, Received, Upstream, together};
use latchgate::clock::{Clock, Mono};
use redis_server::RedisServer;
use serde_json::json;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;
use visitor::Visitor;

/// What everybody sees.
struct Town {
    clock: Clock,
    provider: Provider,
    /// Those on Redis, and the one on a file.
    addresses: [Vec<SocketAddr>; 2],
    counts: Counts,
    sessions: AtomicU64,
    /// When the sign-out of a session was acknowledged.
    ended: Mutex<HashMap<u64, Mono>>,
    violations: Mutex<Vec<String>>,
    is_calm: AtomicBool,
}

#[derive(Default)]
struct Counts {
    forwarded: AtomicU64,
    refused: AtomicU64,
    served: AtomicU64,
    passed_through: AtomicU64,
    logins: AtomicU64,
    logouts: AtomicU64,
    hang_ups: AtomicU64,
    unavailable: AtomicU64,
    broken_off: AtomicU64,
}

/// One user with a browser.
#[derive(Clone)]
struct User {
    visitor: Visitor,
    /// Index into [`Town::addresses`].
    side: usize,
    session: Option<u64>,
}

/// What a visit came to.
#[derive(Debug, PartialEq, Eq)]
enum Visit {
    Served,
    /// The upstream's own 401.
    PassedThrough,
    SignedOut,
    Unavailable(u16),
    BrokenOff,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_user_gets_their_own_token_whatever_goes_wrong() {
    let seconds = std::env::var("LATCHGATE_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let (clock, redis, directory) = (Clock::system(), RedisServer::start().await, tempfile::tempdir().unwrap());
    let provider = Provider::start(clock.clone()).await;
    provider.register(&format!("{EXTERNAL_URL}/auth/corp"));
    provider.configure(|habits| habits.access_ttl = 30);
    let upstream = Upstream::start().await;
    let shared = Store::Redis { url: redis.url(), prefix: "soak:".to_owned(), timeout: "2s" };
    let file = Store::File(directory.path().join("sessions"));
    let mut gateways = Vec::new();
    for (name, store) in [("first", &shared), ("second", &shared), ("third", &file)] {
        let (issuer, upstream) = (provider.issuer(), upstream.url());
        gateways.push(GatewayProcess::start(directory.path(), name, store, &issuer, &upstream, &[]).await);
    }
    let town = Arc::new(Town {
        clock,
        provider,
        addresses: [vec![gateways[0].address, gateways[1].address], vec![gateways[2].address]],
        counts: Counts::default(),
        sessions: AtomicU64::new(0),
        ended: Mutex::default(),
        violations: Mutex::default(),
        is_calm: AtomicBool::new(false),
    });
    upstream.answer({
        let town = Arc::clone(&town);
        move |received| town.answer(received)
    });

    let mut groups: Vec<Vec<User>> = (0..AT_ONCE).map(|_| Vec::new()).collect();
    for number in 0..USERS {
        let name = format!("user-{number}");
        town.provider.add_user(&name, json!({ "name": name }));
        let visitor = Visitor::new(&name, town.provider.address());
        let side = usize::from(number % 5 == 0);
        groups[number % AT_ONCE].push(User { visitor, side, session: None });
    }
    let mut signing_in = JoinSet::new();
    for group in groups {
        signing_in.spawn(Arc::clone(&town).all_sign_in(group));
    }
    let groups = signing_in.join_all().await;

    town.provider.always(Endpoint::Token, Fault::Delay(Duration::from_millis(20)));
    let mut walking = JoinSet::new();
    for group in groups {
        walking.spawn(Arc::clone(&town).walk(group));
    }
    let kills = town.go_wrong(&mut gateways, &upstream, Duration::from_secs(seconds)).await;
    town.is_calm.store(true, Ordering::SeqCst);
    let groups = walking.join_all().await;
    town.provider.recover(Endpoint::Token);
    // Leases run out, breakers close.
    sleep(Duration::from_secs(6)).await;

    let mut settling = JoinSet::new();
    for group in groups {
        settling.spawn(Arc::clone(&town).settle(group));
    }
    let (mut work, mut again) = (0, 0);
    for (group_works, group_again) in settling.join_all().await {
        (work, again) = (work + group_works, again + group_again);
    }
    let resident: Vec<u64> = gateways.iter().map(|gateway| gateway.resident_kib() / 1024).collect();
    town.report(seconds, &kills, work, again, &resident);

    let violations = town.violations.lock().unwrap();
    assert!(
        violations.is_empty(),
        "{} violations, the first ones: {:#?}",
        violations.len(),
        &violations[..violations.len().min(10)]
    );
    town.check_reuses(&kills);
    assert_eq!(work + again, USERS);
    assert!(town.counts.forwarded.load(Ordering::SeqCst) > USERS as u64, "there was something to see");
    assert!(resident.iter().all(|mib| *mib < MOST_MIB), "{resident:?} MiB");
}

impl Town {
    /// What the upstream says; it looks at everything that comes.
    fn answer(&self, received: &Received) -> Answer {
        self.counts.forwarded.fetch_add(1, Ordering::Relaxed);
        let target = url::Url::parse(&format!("{EXTERNAL_URL}{}", received.target)).unwrap();
        let user = target.path().trim_start_matches("/u/");
        let number = |name: &str| {
            let found = target.query_pairs().find(|(found, _)| found == name);
            found.unwrap().1.parse::<u64>().unwrap()
        };
        let token = received.bearer().unwrap_or_default();
        match self.provider.owner_of(token) {
            Some(owner) if owner == user => {}
            owner => self.violated(format!("{user}'s request came with the token of {owner:?}")),
        }
        let (session, asked) = (number("session"), Mono(number("asked")));
        if let Some(ended) = self.ended.lock().unwrap().get(&session)
            && asked > ended.after(Duration::from_secs(1))
        {
            self.violated(format!("{user}: forwarded {:?} after the sign-out", asked.since(*ended)));
        }
        let is_refused = !self.is_calm.load(Ordering::Relaxed) && fastrand::u8(..100) < 3;
        if is_refused || self.provider.user_of(token).is_none() {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Answer::unauthorized();
        }
        Answer::status(200)
    }

    fn violated(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }

    /// Kills gateways and starts them again, lets the provider fail now and then. When gateways were killed.
    async fn go_wrong(&self, gateways: &mut [GatewayProcess], upstream: &Upstream, how_long: Duration) -> Vec<Mono> {
        let (begun, mut kills) = (self.clock.mono(), Vec::new());
        for second in 1.. {
            sleep(Duration::from_secs(1)).await;
            upstream.forget();
            if self.clock.mono().since(begun) >= how_long {
                break;
            }
            if second % 3 == 1 {
                self.provider.next(Endpoint::Token, Fault::Json(503, json!({ "error": "temporarily_unavailable" })));
            }
            if second % 4 == 0 {
                let victim = &mut gateways[fastrand::usize(..3)];
                kills.push(self.clock.mono());
                victim.kill();
                victim.restart(&[]).await;
            }
        }
        kills
    }

    async fn all_sign_in(self: Arc<Town>, mut group: Vec<User>) -> Vec<User> {
        for user in &mut group {
            assert!(self.sign_in(user).await, "{} cannot sign in while all is well", user.visitor.user);
        }
        group
    }

    async fn sign_in(&self, user: &mut User) -> bool {
        let gateway = self.some_gateway(user.side);
        let has_worked = user.visitor.sign_in(gateway).await;
        user.session = has_worked.then(|| self.sessions.fetch_add(1, Ordering::SeqCst));
        self.counts.logins.fetch_add(u64::from(has_worked), Ordering::Relaxed);
        has_worked
    }

    fn some_gateway(&self, side: usize) -> SocketAddr {
        self.addresses[side][fastrand::usize(..self.addresses[side].len())]
    }

    /// Users do this and that until all is calm.
    async fn walk(self: Arc<Town>, mut group: Vec<User>) -> Vec<User> {
        while !self.is_calm.load(Ordering::Relaxed) {
            let which = fastrand::usize(..group.len());
            let user = &mut group[which];
            match fastrand::u8(..100) {
                _ if user.session.is_none() => {
                    if !self.sign_in(user).await {
                        sleep(Duration::from_millis(50)).await;
                    }
                }
                0..8 => self.hang_up(user).await,
                8..10 => self.sign_out(user).await,
                _ => self.visit_at_once(user, fastrand::usize(1..4)).await,
            }
        }
        group
    }

    async fn visit_at_once(self: &Arc<Town>, user: &mut User, count: usize) {
        let visits = together(count, |_| {
            let (town, user, gateway) = (Arc::clone(self), user.clone(), self.some_gateway(user.side));
            async move { town.visit(&user, gateway).await }
        });
        let visits = visits.await;
        if visits.contains(&Visit::SignedOut) {
            user.session = None;
        }
    }

    async fn visit(&self, user: &User, gateway: SocketAddr) -> Visit {
        let reply = user.visitor.fetch(gateway, "GET", &self.target_of(user), "").await;
        let counts = &self.counts;
        let (visit, count) = match reply {
            None => (Visit::BrokenOff, &counts.broken_off),
            Some(reply) if reply.status == 200 => (Visit::Served, &counts.served),
            Some(reply) if reply.status == 401 && is_relayed(&reply) => (Visit::PassedThrough, &counts.passed_through),
            Some(reply) if reply.status == 401 => return Visit::SignedOut,
            Some(reply) => (Visit::Unavailable(reply.status), &counts.unavailable),
        };
        count.fetch_add(1, Ordering::Relaxed);
        visit
    }

    async fn hang_up(&self, user: &User) {
        let gateway = self.some_gateway(user.side);
        let connection = user.visitor.send(gateway, "GET", &self.target_of(user), "").await;
        sleep(Duration::from_millis(fastrand::u64(..30))).await;
        drop(connection);
        self.counts.hang_ups.fetch_add(1, Ordering::Relaxed);
    }

    /// Signs out, and sends what an attacker with a copy of the cookie would send, to every gateway.
    async fn sign_out(self: &Arc<Town>, user: &mut User) {
        let Some(session) = user.session.take() else { return };
        let thief = User { session: Some(session), ..user.clone() };
        let gateway = self.some_gateway(user.side);
        let headers = format!("Origin: {EXTERNAL_URL}\r\n");
        let reply = user.visitor.fetch(gateway, "POST", "/auth/logout", &headers).await;
        if reply.is_none_or(|reply| reply.status >= 400) {
            return;
        }
        self.counts.logouts.fetch_add(1, Ordering::Relaxed);
        self.ended.lock().unwrap().insert(session, self.clock.mono());
        let town = Arc::clone(self);
        tokio::spawn(async move {
            sleep(Duration::from_millis(1005)).await;
            for &gateway in &town.addresses[thief.side] {
                let visit = town.visit(&thief, gateway).await;
                if matches!(visit, Visit::Served | Visit::PassedThrough) {
                    town.violated(format!("{}: {visit:?} after the sign-out", thief.visitor.user));
                }
            }
        });
    }

    fn target_of(&self, user: &User) -> String {
        let session = user.session.unwrap_or(u64::MAX);
        format!("/u/{}?session={session}&asked={}", user.visitor.user, self.clock.mono().0)
    }

    /// All is well again: sessions that work, and users who had to sign in again.
    async fn settle(self: Arc<Town>, mut group: Vec<User>) -> (usize, usize) {
        let (mut work, mut again) = (0, 0);
        for user in &mut group {
            let mut had_to_sign_in = user.session.is_none();
            if had_to_sign_in {
                assert!(self.sign_in(user).await, "{} cannot sign in again", user.visitor.user);
            }
            for &gateway in &self.addresses[user.side] {
                let mut visit = self.visit(user, gateway).await;
                if visit == Visit::SignedOut && !had_to_sign_in {
                    had_to_sign_in = true;
                    assert!(self.sign_in(user).await, "{} cannot sign in again", user.visitor.user);
                    visit = self.visit(user, gateway).await;
                }
                if visit != Visit::Served {
                    self.violated(format!("{}: {visit:?} when all is well again", user.visitor.user));
                }
            }
            if had_to_sign_in { again += 1 } else { work += 1 }
        }
        (work, again)
    }

    /// Between two times that a spent token was presented somebody was killed who could not say that it is spent.
    fn check_reuses(&self, kills: &[Mono]) {
        let mut presented_last = HashMap::new();
        for reuse in self.provider.reuse_log() {
            let before = presented_last.insert(reuse.token, reuse.presented).unwrap_or(reuse.spent);
            // The provider may answer a request whose sender is dead.
            let since = Mono(before.0.saturating_sub(1000));
            let is_excused = kills.iter().any(|kill| since <= *kill && *kill <= reuse.presented);
            let presented = reuse.presented;
            assert!(
                is_excused,
                "spent at {:?}, presented at {before:?} and {presented:?}, kills {kills:?}",
                reuse.spent
            );
        }
    }

    fn report(&self, seconds: u64, kills: &[Mono], work: usize, again: usize, resident: &[u64]) {
        let count = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let counts = &self.counts;
        println!(
            "soak: {seconds} s, {USERS} users, {} requests forwarded ({} refused at random or expired), {} served, \
             {} passed through, {} unavailable, {} broken off, {} hang-ups, {} logins, {} logouts, {} refreshes, \
             {} kills, {} reuses; at the end {work} sessions work and {again} users signed in again; {resident:?} MiB",
            count(&counts.forwarded),
            count(&counts.refused),
            count(&counts.served),
            count(&counts.passed_through),
            count(&counts.unavailable),
            count(&counts.broken_off),
            count(&counts.hang_ups),
            count(&counts.logins),
            count(&counts.logouts),
            self.provider.refreshes(),
            kills.len(),
            self.provider.reuses(),
        );
    }
}

const USERS: usize = 1000;
/// Users who do something at the same time.
const AT_ONCE: usize = 25;
/// A debug build, five hundred sessions in its cache.
const MOST_MIB: u64 = 256;
