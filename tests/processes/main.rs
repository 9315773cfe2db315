//! Gateways as processes of their own: before a Redis that goes away and comes back, side by side on the same one, and
//! started again with another secret or yesterday's file.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "the soak and the crash matrix need the rest")]
#[path = "../support/gateway_process.rs"]
mod gateway_process;
#[allow(dead_code, unused_imports, reason = "the stage of the in-process suite, of which this one needs a part")]
#[path = "../gateway/harness/mod.rs"]
mod harness;
#[path = "../support/redis_server.rs"]
mod redis_server;
#[allow(dead_code, reason = "the soak and the crash matrix need the rest")]
#[path = "../support/visitor.rs"]
mod visitor;

use gateway_process::{EXTERNAL_URL, GatewayProcess, Store};
use harness::wire::Connection;
use harness::{Answer, Endpoint, Fault, Gate, Provider, Reply, Upstream, together};
use latchgate::clock::Clock;
use redis_server::RedisServer;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use visitor::{FETCH, NAVIGATION, Visitor};

const SECOND: Duration = Duration::from_secs(1);

// ------------------------------------------------------------------------------------- the store

// ST-01
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redis_that_is_killed_signs_nobody_out() {
    let mut redis = RedisServer::start_durable().await;
    let town = Town::on_redis(&redis, 1).await;
    let ada = town.signed_in("ada").await;
    redis.kill();
    town.turns_sessions_away_and_nobody_else(&ada).await;
    redis.restart().await;
    town.serves_again(&ada).await;
}

// ST-02
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redis_that_never_answers_signs_nobody_out() {
    let redis = RedisServer::start().await;
    let town = Town::on_redis(&redis, 1).await;
    let ada = town.signed_in("ada").await;
    redis.signal("STOP");
    town.turns_sessions_away_and_nobody_else(&ada).await;
    redis.signal("CONT");
    town.serves_again(&ada).await;
}

// --------------------------------------------------------------------------------- side by side

// LO-05, LO-12, LO-20
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_that_is_ended_at_one_gateway_is_over_at_all_within_a_second() {
    let redis = RedisServer::start().await;
    let town = Town::on_redis(&redis, 2).await;
    let [here, there] = [&town.gateways[0], &town.gateways[1]];
    let mut visitors = Vec::new();
    for user in ["ada", "bob", "eve", "eva"] {
        town.provider.add_user(user, json!({}));
        let visitor = town.signed_in(user).await;
        assert_eq!(town.status(there, &visitor).await, 200, "{user} is known there");
        visitors.push(visitor);
    }

    let logout = visitors[0].fetch(here.address, "POST", "/auth/logout", "").await.unwrap();
    let host = format!("Host: {}\r\n", here.admin_address);
    let ended = ask(here.admin_address, "DELETE", "/sessions?user=bob", &host, "").await;
    let form = format!("logout_token={}", town.provider.logout_token(json!({ "sub": "eve" }), |_| {}));
    let headers = "Host: gw.test\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    let backchannel = ask(here.address, "POST", "/auth/backchannel-logout", headers, &form).await;
    assert_eq!((logout.status, ended.status, backchannel.status), (200, 200, 200));
    assert_eq!(ended.json(), json!({ "ended": 1 }));

    sleep(SECOND).await;
    for visitor in &visitors[..3] {
        for gateway in [there, here] {
            assert_eq!(town.status(gateway, visitor).await, 401, "{}", visitor.user);
            let page = visitor.ask(gateway.address, "GET", "/x", NAVIGATION).await.unwrap();
            assert_eq!(page.status, 302, "{}", visitor.user);
            assert!(page.header("location").starts_with("/auth/login?"), "{:?}", page.headers);
        }
    }
    assert_eq!(town.status(there, &visitors[3]).await, 200, "nobody asked for that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tg_10_of_fifty_who_exchange_a_code_at_two_gateways_one_succeeds() {
    let redis = RedisServer::start().await;
    let town = Town::on_redis(&redis, 2).await;
    // More would be taken for guesses.
    for _ in 0..2 {
        let body = json!({ "code": town.code("ada").await }).to_string();
        let replies = together(50, |number| {
            let (address, body) = (town.gateways[number % 2].address, body.clone());
            async move {
                ask(address, "POST", "/auth/token", "Host: gw.test\r\nContent-Type: application/json\r\n", &body).await
            }
        })
        .await;
        let made: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert_eq!(made.len(), 1, "{:?}", replies.iter().map(|reply| reply.status).collect::<Vec<_>>());
        assert!(replies.iter().all(|reply| matches!(reply.status, 200 | 401)));

        // The session is known at both, and a refresh token that was used at one is used up at the other.
        let mut ada = Visitor::new("ada", town.provider.address());
        ada.take_cookies(made[0]);
        let bearer = format!("Authorization: Bearer {}\r\n", made[0].json()["token"].as_str().unwrap());
        let [here, there] = [&town.gateways[0], &town.gateways[1]];
        for gateway in [here, there] {
            assert_eq!(ada.fetch(gateway.address, "GET", "/x", &bearer).await.unwrap().status, 200);
        }
        let refreshed = together(2, |number| {
            let (ada, address) = (ada.clone(), town.gateways[number].address);
            async move { ada.fetch(address, "POST", "/auth/refresh", "").await.unwrap() }
        })
        .await;
        let cookies: Vec<&str> = refreshed.iter().map(|reply| reply.header("set-cookie")).collect();
        assert_eq!(refreshed.iter().map(|reply| reply.status).collect::<Vec<_>>(), [200, 200]);
        assert_eq!(cookies[0], cookies[1], "one rotation, the same successor");
    }
}

// TX-28
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_that_is_killed_while_it_refreshes_leaves_the_refresh_to_the_others() {
    let redis = RedisServer::start().await;
    let mut town = Town::on_redis(&redis, 3).await;
    let ada = town.signed_in("ada").await;
    town.provider.revoke_access_tokens();
    // It never opens: the first call gets no answer, and spends no token.
    let gate = Gate::closed();
    town.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    let calls = town.provider.refreshes();

    let first = {
        let (ada, address) = (ada.clone(), town.gateways[0].address);
        tokio::spawn(async move { ada.fetch(address, "GET", "/x", "").await })
    };
    gate.arrivals(1).await;
    let mut waiting = JoinSet::new();
    for number in 0..99 {
        let (ada, address) = (ada.clone(), town.gateways[number % 3].address);
        waiting.spawn(async move { (number % 3, ada.fetch(address, "GET", "/x", "").await) });
    }
    sleep(Duration::from_millis(300)).await;
    town.gateways[0].kill();
    assert!(first.await.unwrap().is_none(), "it broke off");
    for (gateway, reply) in waiting.join_all().await {
        match reply {
            Some(reply) => assert_eq!(reply.status, 200, "at gateway {gateway}: {}", reply.text()),
            None => assert_eq!(gateway, 0, "only there"),
        }
    }
    assert_eq!((town.provider.refreshes() - calls, town.provider.reuses()), (2, 0));
}

// ---------------------------------------------------------------------------------- started again

// SC-11
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_secret_signs_nobody_out_until_the_old_one_is_taken_away() {
    let mut town = Town::on_a_file().await;
    let [ada, bob] = [town.signed_in("ada").await, town.signed_in("bob").await];

    let only_the_old = "secret = { env = \"SESSION_SECRET\" }";
    let both = "secret = [{ env = \"NEW_SECRET\" }, { env = \"SESSION_SECRET\" }]";
    let only_the_new = "secret = { env = \"NEW_SECRET\" }";
    town.restart_with(only_the_old, both).await;
    for visitor in [&ada, &bob] {
        assert_eq!(town.status(&town.gateways[0], visitor).await, 200, "{}", visitor.user);
    }
    let eve = town.signed_in("eve").await;
    town.provider.revoke_access_tokens();
    for visitor in [&bob, &eve] {
        assert_eq!(town.status(&town.gateways[0], visitor).await, 200, "{}: renewed", visitor.user);
    }

    town.restart_with(both, only_the_new).await;
    let statuses = [&ada, &bob, &eve].map(|visitor| town.status(&town.gateways[0], visitor));
    let [ada, bob, eve] = statuses;
    assert_eq!(
        (ada.await, bob.await, eve.await),
        (401, 200, 200),
        "what was last written under the old secret is over"
    );
    assert_eq!((town.provider.refreshes(), town.provider.reuses()), (2, 0));
}

// ST-20
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_old_file_means_one_clean_login_and_a_spent_token_sent_once() {
    let mut town = Town::on_a_file().await;
    let (file, backup) = (town.directory.path().join("sessions"), town.directory.path().join("backup"));
    let mut ada = town.signed_in("ada").await;
    town.gateways[0].kill();
    std::fs::copy(&file, &backup).unwrap();
    town.gateways[0].restart(&[]).await;
    town.provider.revoke_access_tokens();
    assert_eq!(town.status(&town.gateways[0], &ada).await, 200, "renewed after the backup");

    town.gateways[0].kill();
    std::fs::copy(&backup, &file).unwrap();
    town.gateways[0].restart(&[]).await;
    let crowd = together(20, |_| {
        let (ada, address) = (ada.clone(), town.gateways[0].address);
        async move { ada.fetch(address, "GET", "/x", "").await.unwrap().status }
    });
    assert!(crowd.await.iter().all(|status| *status == 401));
    assert_eq!((town.provider.refreshes(), town.provider.reuses()), (2, 1));
    let arrival = ada.navigate(town.gateways[0].address, "/x").await.unwrap();
    assert_eq!((arrival.reply.status, town.provider.code_exchanges()), (200, 2));
    assert_eq!(town.provider.reuses(), 1);
}

// ------------------------------------------------------------------------------------- the stage

/// Gateways between one provider and an upstream that takes live tokens only.
struct Town {
    provider: Provider,
    gateways: Vec<GatewayProcess>,
    upstream: Upstream,
    directory: TempDir,
}

impl Town {
    async fn on_redis(redis: &RedisServer, gateways: usize) -> Town {
        let store = Store::Redis { url: redis.url(), prefix: "town:".to_owned(), timeout: "500ms" };
        Town::new(|_| store, gateways).await
    }

    async fn on_a_file() -> Town {
        Town::new(|directory| Store::File(directory.path().join("sessions")), 1).await
    }

    async fn new(store: impl FnOnce(&TempDir) -> Store, gateways: usize) -> Town {
        let directory = tempfile::tempdir().unwrap();
        let provider = Provider::start(Clock::system()).await;
        provider.register(&format!("{EXTERNAL_URL}/auth/corp"));
        let upstream = Upstream::start().await;
        let live = provider.clone();
        upstream.answer(move |received| {
            let is_live = received.bearer().is_some_and(|token| live.user_of(token).is_some());
            if is_live || received.target.starts_with("/public/") {
                Answer::status(200)
            } else {
                Answer::unauthorized()
            }
        });
        let store = store(&directory);
        let mut town = Town { provider, gateways: Vec::new(), upstream, directory };
        for number in 0..gateways {
            let (name, issuer, url) = (format!("gateway-{number}"), town.provider.issuer(), town.upstream.url());
            let gateway = GatewayProcess::start(town.directory.path(), &name, &store, &issuer, &url, &[]).await;
            town.gateways.push(gateway);
        }
        town
    }

    /// Signed in at the first gateway.
    async fn signed_in(&self, user: &str) -> Visitor {
        let mut visitor = Visitor::new(user, self.provider.address());
        assert!(visitor.sign_in(self.gateways[0].address).await, "{}", self.gateways[0].log());
        visitor
    }

    /// A code of the CODE flow, by way of the first gateway.
    async fn code(&self, user: &str) -> String {
        let (gateway, mut browser) = (self.gateways[0].address, Visitor::new(user, self.provider.address()));
        let start = format!("/auth/corp?flow=code&login_hint={user}");
        let leaving = browser.ask(gateway, "GET", &start, NAVIGATION).await.unwrap();
        browser.take_cookies(&leaving);
        let at_provider = url::Url::parse(leaving.header("location")).unwrap();
        let target = format!("{}?{}", at_provider.path(), at_provider.query().unwrap());
        let back = ask(self.provider.address(), "GET", &target, "Host: provider\r\n", "").await;
        let answer = back.header("location").strip_prefix(EXTERNAL_URL).unwrap().to_owned();
        let page = browser.ask(gateway, "GET", &answer, NAVIGATION).await.unwrap();
        page.header("location").strip_prefix("/auth/callback?code=").unwrap().to_owned()
    }

    async fn status(&self, gateway: &GatewayProcess, visitor: &Visitor) -> u16 {
        visitor.fetch(gateway.address, "GET", "/x", "").await.unwrap().status
    }

    async fn restart_with(&mut self, from: &str, to: &str) {
        let gateway = &mut self.gateways[0];
        gateway.kill();
        gateway.reconfigure(from, to);
        gateway.restart(&[("NEW_SECRET", "another secret, of more than thirty-two bytes")]).await;
    }

    /// The store is gone: 503 and nothing else for whoever has a session, at once; the rest goes on.
    async fn turns_sessions_away_and_nobody_else(&self, visitor: &Visitor) {
        let gateway = &self.gateways[0];
        // What was read less than a second before is believed.
        sleep(SECOND).await;
        let endpoints = [
            ("GET", "/x", NAVIGATION),
            ("GET", "/x", FETCH),
            ("GET", "/auth/me", FETCH),
            ("GET", "/auth/session", FETCH),
            ("POST", "/auth/refresh", FETCH),
            ("POST", "/auth/logout", FETCH),
        ];
        for (method, target, headers) in endpoints {
            let what = format!("{method} {target}");
            let reply = self.at_once(&what, visitor.ask(gateway.address, method, target, headers)).await;
            assert_eq!(reply.status, 503, "{what}: {}", reply.text());
            assert!(reply.header("retry-after").parse::<u64>().is_ok(), "{what}: {:?}", reply.headers);
            assert!(!reply.headers.contains("set-cookie") && !reply.headers.contains("location"), "{what}");
        }
        let crowd = together(50, |_| {
            let (visitor, address) = (visitor.clone(), gateway.address);
            async move { visitor.fetch(address, "GET", "/x", "").await.unwrap().status }
        });
        assert!(crowd.await.iter().all(|status| *status == 503));

        let stranger = Visitor::new("nobody", self.provider.address());
        for (who, target, status) in [
            (&stranger, "/public/x", 200),
            (visitor, "/public/x", 200),
            (&stranger, "/x", 401),
            (&stranger, "/auth/me", 401),
        ] {
            let reply = self.at_once(target, who.fetch(gateway.address, "GET", target, "")).await;
            assert_eq!(reply.status, status, "{target} for {}", who.user);
        }
    }

    async fn at_once(&self, what: &str, reply: impl Future<Output = Option<Reply>>) -> Reply {
        let started = Instant::now();
        let reply = reply.await.unwrap();
        assert!(started.elapsed() < SECOND, "{what} took {:?}", started.elapsed());
        reply
    }

    /// The store is back: the same cookie, the same gateway, no login.
    async fn serves_again(&self, visitor: &Visitor) {
        let waiting = async {
            while self.status(&self.gateways[0], visitor).await != 200 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(timeout(10 * SECOND, waiting).await.is_ok(), "{}", self.gateways[0].log());
        assert_eq!(self.provider.code_exchanges(), 1);
        self.signed_in("bob").await;
    }
}

/// Asks as a machine does: these header fields and this body.
async fn ask(address: SocketAddr, method: &str, target: &str, headers: &str, body: &str) -> Reply {
    let mut connection = Connection::open(address).await;
    let length = body.len();
    let request = format!("{method} {target} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    connection.send(request.as_bytes()).await.unwrap();
    connection.reply(method).await.unwrap()
}
