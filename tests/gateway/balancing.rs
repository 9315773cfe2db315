//! Several servers behind one upstream: who is asked, who is left alone, what is tried again and what is shed.

use crate::harness::expect::{error_json, relayed};
use crate::harness::site::Plan;
use crate::harness::upstream::deserted_address;
use crate::harness::{Answer, Gate, Reply, Request, Site, Upstream, eventually, together};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

// --------------------------------------------------------------------------------- the choice

#[tokio::test]
async fn servers_are_asked_in_proportion_to_their_weights() {
    let (light, heavy) = (Upstream::start().await, Upstream::start().await);
    let urls = format!(r#"urls = ["{}", {{ url = "{}", weight = 3 }}]"#, light.url(), heavy.url());
    let site = public(&urls).start().await;
    for _ in 0..40 {
        relayed(&site.browser().fetch("GET", "/x").await, 200);
    }
    assert_eq!((light.hits(), heavy.hits()), (10, 30));
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_less() {
    let (busy, idle) = (Upstream::start().await, Upstream::start().await);
    let site = public(&format!("{}\nbalance = \"least_requests\"", urls(&[&busy, &idle]))).start().await;
    let gate = Gate::closed();
    busy.answer({
        let gate = gate.clone();
        move |_| Answer::status(200).behind(&gate)
    });
    let mut stuck = Vec::new();
    while busy.hits() == 0 {
        stuck.push(site.browser().dispatch(Request::fetch("GET", "/x")).await);
        eventually(|| async { busy.hits() + idle.hits() == stuck.len() }).await;
    }
    assert_eq!(statuses(&site, 20).await, [200; 20]);
    assert_eq!(busy.hits(), 1);
    gate.open();
    let reply = stuck.pop().unwrap().reply("GET").await;
    relayed(&reply.expect("a reply"), 200);
}

#[tokio::test]
async fn a_session_stays_with_its_server_until_that_one_is_out() {
    let servers = [Upstream::start().await, Upstream::start().await, Upstream::start().await];
    let lines =
        format!("{}\nbalance = \"sticky\"\nejection = {{ failures = 1, status = [503] }}", urls(&servers.each_ref()));
    let site = one_worker().app(&lines).route("/*", "auth = true").start().await;
    let browsers = [site.signed_in().await, site.signed_in_as("bob").await];
    let home_of = async |browser: &crate::harness::Browser| {
        for server in &servers {
            server.forget();
        }
        for _ in 0..5 {
            relayed(&browser.fetch("GET", "/x").await, 200);
        }
        servers.iter().position(|server| server.hits() == 5).expect("one server for all of them")
    };
    let homes = [home_of(&browsers[0]).await, home_of(&browsers[1]).await];
    assert_eq!(home_of(&browsers[0]).await, homes[0]);
    servers[homes[0]].next(Answer::status(503));
    relayed(&browsers[0].fetch("GET", "/x").await, 503);
    assert_ne!(home_of(&browsers[0]).await, homes[0], "its server is out");
    if homes[1] != homes[0] {
        assert_eq!(home_of(&browsers[1]).await, homes[1], "nobody else moves");
    }
    site.clock.advance(Duration::from_secs(10));
    assert_eq!(home_of(&browsers[0]).await, homes[0], "and back");
}

// OU-03
#[tokio::test]
async fn nothing_in_a_request_or_an_answer_leads_to_a_server_that_is_not_configured() {
    let elsewhere = Upstream::start().await;
    let site = public("").start().await;
    let (other, own) = (elsewhere.address(), "Host: gw.test");
    site.upstream.answer(move |_| Answer::status(307).header("Location", &format!("http://{other}/moved")));
    for (target, headers) in [
        ("/x".to_owned(), format!("Host: {other}")),
        (format!("http://{other}/x"), format!("Host: {other}")),
        (format!("http://{other}/x"), own.to_owned()),
        (format!("//{other}/x"), own.to_owned()),
        (format!("/@{other}/x"), own.to_owned()),
        ("/x".to_owned(), format!("{own}\r\nX-Forwarded-Host: {other}\r\nX-Original-URL: http://{other}/x")),
        ("/x".to_owned(), format!("{own}\r\nForwarded: host=\"{other}\"\r\nX-Rewrite-URL: //{other}/x")),
    ] {
        let before = site.upstream.hits();
        let reply = site.raw(&format!("GET {target} HTTP/1.1\r\n{headers}\r\n\r\n")).await.expect("a reply");
        match reply.status {
            307 => assert_eq!(site.upstream.hits(), before + 1, "{target} {headers}"),
            status => assert_eq!((status, site.upstream.hits()), (400, before), "{target} {headers}"),
        }
    }
    assert!(site.upstream.hits() >= 4);
    assert_eq!(elsewhere.connections(), 0);
}

// ------------------------------------------------------------------------------------ retries

// RL-11
#[tokio::test]
async fn what_no_server_has_seen_goes_to_another_one() {
    let alive = Upstream::start().await;
    let lines =
        format!("urls = [\"http://{}\", \"{}\"]\nejection = {{ most = 0 }}", deserted_address().await, alive.url());
    let site = public(&lines).start().await;
    let body = vec![b'x'; 300_000];
    for _ in 0..4 {
        let upload = Request::fetch("POST", "/x").body("application/octet-stream", body.clone());
        relayed(&site.browser().send(upload).await, 200);
        assert!(alive.last().body == body);
    }
    assert_eq!(alive.hits(), 4);
}

#[tokio::test]
async fn retries_can_be_turned_off() {
    let alive = Upstream::start().await;
    let lines = format!("urls = [\"http://{}\", \"{}\"]\nretries = 0", deserted_address().await, alive.url());
    let site = public(&lines).start().await;
    let mut statuses = statuses(&site, 4).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
}

// RL-12
#[tokio::test]
async fn what_a_server_may_have_seen_goes_to_no_other_one() {
    let (broken, alive) = (Upstream::start().await, Upstream::start().await);
    broken.answer(|_| Answer::reset());
    let site = public(&format!("{}\nejection = {{ most = 0 }}", urls(&[&broken, &alive]))).start().await;
    for method in ["GET", "POST"] {
        let (before, mut statuses) = (broken.hits() + alive.hits(), Vec::new());
        for _ in 0..2 {
            statuses.push(site.browser().fetch(method, "/x").await.status);
        }
        statuses.sort_unstable();
        assert_eq!((statuses, broken.hits() + alive.hits() - before), (vec![200, 502], 2), "{method}");
    }
}

// RL-11
#[tokio::test]
async fn retries_are_a_fifth_of_the_requests_and_a_few() {
    let alive = Upstream::start().await;
    let lines =
        format!("urls = [\"http://{}\", \"{}\"]\nejection = {{ most = 0 }}", deserted_address().await, alive.url());
    let site = public(&lines).start().await;
    let begun = Instant::now();
    let statuses = statuses(&site, 200).await;
    let a_few = usize::try_from(begun.elapsed().as_secs()).unwrap() * 3 + 3;
    let answered = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(answered, alive.hits());
    // Half of them met the dead server.
    assert!((100 + 40..=100 + 40 + a_few + 3).contains(&answered), "{answered}");
}

// ---------------------------------------------------------------------- which servers are used

// RL-13
#[tokio::test]
async fn a_server_that_fails_is_left_alone_for_a_while() {
    let servers = [Upstream::start().await, Upstream::start().await, Upstream::start().await];
    let site = public(&urls(&servers.each_ref())).start().await;
    servers[1].answer(|_| Answer::reset());
    let failures = statuses(&site, 30).await.iter().filter(|status| **status == 502).count();
    assert_eq!((failures, servers[1].hits()), (5, 5));
    assert_eq!(states(&site).await, ["up", "ejected", "up"]);

    site.clock.advance(Duration::from_secs(10));
    let failures = statuses(&site, 12).await.iter().filter(|status| **status == 502).count();
    assert_eq!(failures, 1, "it is on probation");

    servers[1].answer(|_| Answer::status(200));
    site.clock.advance(Duration::from_secs(20));
    assert_eq!(statuses(&site, 12).await, [200; 12]);
    assert_eq!((servers[1].hits(), states(&site).await), (5 + 1 + 4, vec!["up".to_owned(); 3]));
}

// RL-13
#[tokio::test]
async fn when_all_fail_half_of_them_are_still_asked() {
    let servers = [Upstream::start().await, Upstream::start().await];
    let site =
        public(&format!("{}\nejection = {{ failures = 2, status = [503] }}", urls(&servers.each_ref()))).start().await;
    for server in &servers {
        server.answer(|_| Answer::status(503));
    }
    assert_eq!(statuses(&site, 20).await, [503; 20]);
    let mut states = states(&site).await;
    states.sort_unstable();
    assert_eq!(states, ["ejected", "up"]);
}

#[tokio::test]
async fn one_server_is_asked_whatever_it_answers() {
    let site = public("ejection = { failures = 1, status = [503] }").start().await;
    site.upstream.answer(|_| Answer::status(503));
    assert_eq!(statuses(&site, 10).await, [503; 10]);
    assert_eq!(site.upstream.hits(), 10);
}

// A client that is slow to send its body must not take servers away from everyone.
#[tokio::test]
async fn a_body_that_does_not_come_ejects_nobody() {
    let servers = [Upstream::start().await, Upstream::start().await];
    let lines = format!("{}\nresponse_timeout = \"200ms\"\nejection = {{ failures = 1 }}", urls(&servers.each_ref()));
    let site = public(&lines).start().await;
    for _ in 0..4 {
        let mut connection = site.connect().await;
        let head = "POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 5\r\n\r\nab";
        connection.send(head.as_bytes()).await.unwrap();
        assert_eq!(connection.reply("POST").await.expect("a reply").status, 504);
    }
    assert_eq!(states(&site).await, ["up", "up"]);
    for server in &servers {
        server.answer(|_| Answer::never());
    }
    assert_eq!(site.browser().fetch("GET", "/x").await.status, 504);
    let mut states = states(&site).await;
    states.sort_unstable();
    assert_eq!(states, ["ejected", "up"], "this one was the server's");
}

#[tokio::test]
async fn a_server_whose_checks_fail_is_not_used_until_they_succeed() {
    let servers = [Upstream::start().await, Upstream::start().await];
    let health =
        "health = { path = \"/healthz?full\", interval = \"50ms\", healthy = 2, unhealthy = 2, status = [200, 204] }";
    let site = public(&format!("{}\n{health}", urls(&servers.each_ref()))).start().await;
    let answer_checks_with = |status| {
        servers[0].answer(move |received| match received.target.as_str() {
            "/healthz?full" => Answer::status(status),
            _ => Answer::status(200),
        });
    };
    eventually(|| async { servers[0].hits() > 2 }).await;
    let check = servers[0].last();
    assert_eq!((check.method.as_str(), check.target.as_str()), ("GET", "/healthz?full"));
    assert_eq!(format!("http://{}", check.header("host")), servers[0].url());
    assert_eq!(states(&site).await, ["up", "up"]);

    answer_checks_with(500);
    eventually(|| async { states(&site).await == ["unhealthy", "up"] }).await;
    assert_eq!(statuses(&site, 10).await, [200; 10]);
    let used = |server: &Upstream| server.received().iter().filter(|received| received.target == "/x").count();
    assert_eq!((used(&servers[0]), used(&servers[1])), (0, 10));

    answer_checks_with(204);
    eventually(|| async { states(&site).await == ["up", "up"] }).await;
    assert_eq!(statuses(&site, 10).await, [200; 10]);
    assert_eq!(used(&servers[0]), 5);
}

#[tokio::test]
async fn checks_reach_unix_sockets_and_all_servers_are_used_when_none_is_healthy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let health = "health = { path = \"/\", interval = \"50ms\", healthy = 1, unhealthy = 1 }";
    let site = public(&format!("url = \"unix:{}\"\n{health}", path.display())).start().await;
    eventually(|| async { states(&site).await == ["unhealthy"] }).await;
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let served = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    });
    assert_eq!(site.browser().fetch("GET", "/x").await.status, 200, "it is the only one");
    eventually(|| async { states(&site).await == ["up"] }).await;
    served.abort();
}

// ------------------------------------------------------------------------------------- limits

// RL-06, RL-28
#[tokio::test]
async fn an_upstream_that_hangs_is_shed_and_its_neighbour_does_not_notice() {
    let hangs = Upstream::start().await;
    let gate = Gate::closed();
    hangs.answer({
        let gate = gate.clone();
        move |_| Answer::status(200).behind(&gate)
    });
    let limits = "max_requests = 2\nmax_pending = 1\npending_timeout = \"15s\"";
    let site = one_worker()
        .more(&format!("[upstreams.hangs]\nurl = \"{}\"\n{limits}", hangs.url()))
        .route("/hangs/*", "auth = \"public\"\nupstream = \"hangs\"")
        .route("/*", "auth = \"public\"")
        .start()
        .await;
    let ask = || {
        let browser = site.browser();
        tokio::spawn(async move { browser.fetch("GET", "/hangs/x").await })
    };
    let under_way = [ask(), ask()];
    gate.arrivals(2).await;
    let pending = ask();
    // The third waits for a place; whoever comes after it does not.
    let shed = loop {
        match tokio::time::timeout(Duration::from_millis(500), ask()).await {
            Ok(reply) => break reply.unwrap(),
            Err(_) => assert!(!pending.is_finished()),
        }
    };
    assert_eq!(error_json(&shed, 503)["code"], "upstream_overloaded");
    assert_eq!(shed.header("retry-after"), "1");
    for _ in 0..20 {
        let begun = Instant::now();
        error_json(&site.browser().fetch("GET", "/hangs/x").await, 503);
        relayed(&site.browser().fetch("GET", "/x").await, 200);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    assert_eq!(hangs.hits(), 2);
    gate.open();
    for reply in under_way {
        relayed(&reply.await.unwrap(), 200);
    }
    relayed(&pending.await.unwrap(), 200);
    assert_eq!(in_flight(&site).await, [None, Some(0)]);
}

// RL-28
#[tokio::test]
async fn a_place_comes_too_late_for_who_waited_too_long() {
    let site = public("max_connections = 1\nmax_pending = 5\npending_timeout = \"300ms\"").start().await;
    site.upstream.next(Answer::never());
    let first = site.browser().dispatch(Request::fetch("GET", "/x")).await;
    eventually(|| async { site.upstream.hits() == 1 }).await;
    let begun = Instant::now();
    error_json(&site.browser().fetch("GET", "/x").await, 503);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    drop(first);
    eventually(|| async { in_flight(&site).await == [Some(0)] }).await;
    relayed(&site.browser().fetch("GET", "/x").await, 200);
}

// RL-28
#[tokio::test]
async fn a_server_with_all_its_connections_in_use_leaves_the_rest_to_others() {
    let servers = [Upstream::start().await, Upstream::start().await];
    let site = public(&format!("{}\nmax_connections = 2", urls(&servers.each_ref()))).start().await;
    let gate = Gate::closed();
    servers[0].answer({
        let gate = gate.clone();
        move |_| Answer::status(200).behind(&gate)
    });
    let browser = site.browser();
    let stuck = tokio::spawn(together(4, move |_| {
        let browser = browser.clone();
        async move { browser.fetch("GET", "/x").await.status }
    }));
    gate.arrivals(2).await;
    assert_eq!(statuses(&site, 10).await, [200; 10]);
    assert_eq!(servers[0].hits(), 2);
    gate.open();
    assert_eq!(stuck.await.unwrap(), [200; 4]);
}

// RL-27
#[tokio::test]
async fn places_are_free_again_wherever_the_client_hangs_up() {
    let site = public("max_requests = 3\nmax_pending = 3\nresponse_timeout = \"15s\"").start().await;
    site.upstream.answer(|received| match received.target.as_str() {
        "/never" => Answer::never(),
        "/reset" => Answer::reset(),
        "/zeros" => Answer::zeros(64 << 20),
        "/socket" => Answer::websocket_echo(),
        "/broken" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        _ => Answer::status(200),
    });
    for round in 0..6 {
        for target in ["/never", "/reset", "/zeros", "/socket", "/broken", "/x"] {
            let mut connection = site.connect().await;
            let upgrade = if target == "/socket" {
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            } else {
                ""
            };
            let head = format!("GET {target} HTTP/1.1\r\nHost: gw.test\r\n{upgrade}\r\n");
            connection.send(head.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(round * 7)).await;
            if round % 2 == 1 && target != "/never" {
                let _ = connection.reply_head().await;
            }
        }
        let mut upload = site.connect().await;
        upload.send(b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
    }
    eventually(|| async { in_flight(&site).await == [Some(0)] }).await;
    assert_eq!(statuses(&site, 5).await, [200; 5]);
}

// RL-27
#[tokio::test]
async fn an_open_tunnel_and_an_unread_answer_have_their_places() {
    let site = public("max_requests = 2").start().await;
    site.upstream.next(Answer::websocket_echo());
    let mut socket = site.connect().await;
    let upgrade = "GET /x HTTP/1.1\r\nHost: gw.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.send(upgrade.as_bytes()).await.unwrap();
    assert_eq!(socket.reply_head().await.word(1), "101");
    site.upstream.next(Answer::zeros(64 << 20));
    let (head, unread) = site.browser().open(Request::fetch("GET", "/x")).await;
    assert_eq!((head.word(1), in_flight(&site).await), ("200", vec![Some(2)]));
    error_json(&site.browser().fetch("GET", "/x").await, 503);
    drop((socket, unread));
    eventually(|| async { in_flight(&site).await == [Some(0)] }).await;
}

#[tokio::test]
async fn a_replay_takes_the_place_of_the_first_attempt() {
    let site = one_worker().app("max_requests = 1").route("/*", "auth = true").start().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    relayed(&browser.fetch("GET", "/x").await, 200);
    assert_eq!((site.upstream.hits(), site.provider.refreshes()), (2, 1));
}

// ------------------------------------------------------------------------------------ breaker

#[tokio::test]
async fn the_breaker_opens_and_one_good_answer_closes_it() {
    let site = public("breaker = { answers = 4, failures = 50, pause = \"5s\", status = [500] }").start().await;
    site.upstream.answer(|_| Answer::status(500));
    assert_eq!(statuses(&site, 4).await, [500; 4]);
    let shed = site.browser().fetch("GET", "/x").await;
    assert_eq!(error_json(&shed, 503)["code"], "upstream_overloaded");
    assert!(["4", "5"].contains(&shed.header("retry-after")), "{:?}", shed.headers);
    assert_eq!(breaker(&site).await, "open");

    site.clock.advance(Duration::from_secs(5));
    assert_eq!(statuses(&site, 3).await, [500, 503, 503], "one goes through");
    site.clock.advance(Duration::from_secs(5));
    site.upstream.answer(|_| Answer::status(200));
    assert_eq!(statuses(&site, 6).await, [200; 6]);
    assert_eq!((breaker(&site).await.as_str(), site.upstream.hits()), ("closed", 11));
}

// ---------------------------------------------------------------------------------- the stage

/// Turns are each worker's own.
fn one_worker() -> Plan {
    Site::plan().server("workers = 1\nadmin_listen = \"127.0.0.1:0\"")
}

/// Everything goes to `[upstreams.app]` with these lines.
fn public(lines: &str) -> Plan {
    one_worker().app(lines).route("/*", "auth = \"public\"")
}

fn urls(servers: &[&Upstream]) -> String {
    format!("urls = {:?}", servers.iter().map(|server| server.url()).collect::<Vec<_>>())
}

/// Of so many requests, one after the other.
async fn statuses(site: &Site, count: usize) -> Vec<u16> {
    let (browser, mut statuses) = (site.browser(), Vec::new());
    for _ in 0..count {
        statuses.push(browser.fetch("GET", "/x").await.status);
    }
    statuses
}

async fn upstreams(site: &Site) -> Vec<serde_json::Value> {
    let reply: Reply = site.admin("GET", "/upstreams", &[]).await;
    assert_eq!(reply.status, 200);
    reply.json()["upstreams"].as_array().expect("a list").clone()
}

async fn states(site: &Site) -> Vec<String> {
    let app = &upstreams(site).await[0];
    app["servers"].as_array().unwrap().iter().map(|server| server["state"].as_str().unwrap().to_owned()).collect()
}

/// Of each upstream's first server; None where it is not counted.
async fn in_flight(site: &Site) -> Vec<Option<u64>> {
    upstreams(site).await.iter().map(|upstream| upstream["servers"][0]["inFlight"].as_u64()).collect()
}

async fn breaker(site: &Site) -> String {
    upstreams(site).await[0]["breaker"].as_str().unwrap().to_owned()
}
