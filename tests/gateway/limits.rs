//! What a client may cost: its time, its connections, its floods. Times are short here, and what is configured to be short fires on
//! its own; everything else keeps its default.

use crate::harness::frames::{self, Frame, Frames};
use crate::harness::wire::{Framing, Headers};
use crate::harness::{Answer, Connection, Gate, Reply, Site, eventually};
use latchgate::app::Drained;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);

async fn site(limits: &str) -> Site {
    Site::plan().limits(limits).route("/*", "auth = \"public\"").start().await
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// How long the gateway needed; late is what no busy machine explains.
#[track_caller]
fn took(since: Instant, least: u64) {
    let passed = since.elapsed();
    assert!(passed >= millis(least) && passed < millis(least + 3_000), "{passed:?} instead of {least} ms");
}

/// Until the connection ends.
async fn end_of(connection: &mut Connection) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, connection.stream.read_to_end(&mut rest)).await.expect("the connection ends");
    rest
}

async fn ask(connection: &mut Connection) -> Reply {
    connection.send(GET).await.unwrap();
    connection.reply("GET").await.expect("a reply")
}

#[track_caller]
fn is_json(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.json()["code"].as_str()), (status, Some(code)));
}

// ------------------------------------------------------------------------------------- slow clients

#[tokio::test]
async fn h1_24_a_a_connection_without_a_byte_is_closed() {
    let site = site("header_timeout = \"500ms\"").await;
    let (mut connection, since) = (site.connect().await, Instant::now());
    assert!(end_of(&mut connection).await.is_empty());
    took(since, 500);
}

// RL-10: of every request of a connection, not of the first alone
#[tokio::test]
async fn h1_24_b_a_head_that_drips_is_408() {
    let site = site("header_timeout = \"500ms\"").await;
    for requests_before in [0, 1, 3] {
        let mut connection = site.connect().await;
        for _ in 0..requests_before {
            assert_eq!(ask(&mut connection).await.status, 200);
        }
        let since = Instant::now();
        for byte in GET.iter().cycle().take(40) {
            if connection.send(&[*byte]).await.is_err() || since.elapsed() > millis(3_000) {
                break;
            }
            sleep(millis(100)).await;
            if timeout(millis(1), connection.stream.readable()).await.is_ok() {
                break;
            }
        }
        took(since, 500);
        is_json(&connection.reply("GET").await.expect("an answer"), 408, "request_timeout");
        assert!(end_of(&mut connection).await.is_empty());
    }
    assert_eq!(site.upstream.hits(), 4);
}

#[tokio::test]
async fn h1_24_b_a_head_that_begins_behind_another_request_is_timed_as_well() {
    let site = site("header_timeout = \"500ms\"").await;
    let mut connection = site.connect().await;
    connection.send(&[GET, b"GET /y HT"].concat()).await.unwrap();
    assert_eq!(connection.reply("GET").await.unwrap().status, 200);
    is_json(&connection.reply("GET").await.expect("an answer"), 408, "request_timeout");
}

// RL-10, RL-27
#[tokio::test]
async fn h1_24_c_a_body_that_drips_is_408_and_the_upstream_is_let_go() {
    let site = site("body_timeout = \"500ms\"").await;
    for (head, piece) in [("Content-Length: 1000", "x"), ("Transfer-Encoding: chunked", "1\r\nx\r\n")] {
        for drips in [false, true] {
            let mut connection = site.connect().await;
            let head = format!("POST /x HTTP/1.1\r\nHost: gw.test\r\n{head}\r\n\r\n{piece}");
            let since = Instant::now();
            connection.send(head.as_bytes()).await.unwrap();
            let (mut from, mut to) = connection.stream.split();
            let dripping = async {
                while drips && to.write_all(piece.as_bytes()).await.is_ok() {
                    sleep(millis(100)).await;
                }
                std::future::pending::<()>().await;
            };
            let mut first = [0; 12];
            tokio::select! {
                read = from.read_exact(&mut first) => drop(read.unwrap()),
                () = dripping => {}
            }
            took(since, 500);
            assert_eq!(first, *b"HTTP/1.1 408");
            assert!(end_of(&mut connection).await.ends_with(b"}"));
        }
    }
    assert_eq!(site.upstream.hits(), 0, "no request was whole");
}

#[tokio::test]
async fn a_body_may_take_long_as_long_as_it_comes() {
    let site = site("body_timeout = \"400ms\"").await;
    let mut connection = site.connect().await;
    connection.send(b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
    for _ in 0..10 {
        sleep(millis(100)).await;
        connection.send(&[b'x'; 100]).await.unwrap();
    }
    assert_eq!(connection.reply("POST").await.unwrap().status, 200);
    assert_eq!(site.upstream.last().body.len(), 1000);
}

#[tokio::test]
async fn an_upstream_that_takes_a_body_slowly_is_not_the_clients_fault() {
    let site = site("body_timeout = \"300ms\"").await;
    let gate = Gate::closed();
    site.upstream.read_bodies_behind(&gate);
    let mut connection = site.connect().await;
    let sending = async {
        connection.send(b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 16777216\r\n\r\n").await.unwrap();
        connection.send(&vec![b'x'; 16 << 20]).await.unwrap();
        connection.reply("POST").await.expect("a reply")
    };
    let opening = async {
        sleep(millis(1_000)).await;
        gate.open();
    };
    assert_eq!(tokio::join!(sending, opening).0.status, 200);
}

// RL-10
#[tokio::test]
async fn h1_24_d_a_client_that_does_not_read_loses_its_connection() {
    let site = site("write_timeout = \"500ms\"").await;
    for reads in [0, 1] {
        site.upstream.next(Answer::zeros(1 << 30));
        let mut connection = site.connect().await;
        connection.send(GET).await.unwrap();
        let mut sink = vec![0; reads];
        let before = site.upstream.zeros_written();
        // One byte now and then is no progress.
        let ended = timeout(PATIENCE, async {
            loop {
                sleep(millis(50)).await;
                if connection.stream.read_exact(&mut sink).await.is_err() || connection.send(b"x").await.is_err() {
                    break;
                }
            }
        });
        assert!(ended.await.is_ok(), "{reads} bytes at a time");
        assert!(site.upstream.zeros_written() - before < 1 << 29, "it was not sent to the end");
    }
}

// RL-07: what the gateway and the kernel hold of an endless answer that nobody reads; RL-14 in protocols.rs is the same over HTTP/2
#[tokio::test]
async fn rl_07_little_is_taken_for_a_client_that_reads_nothing() {
    let site = site("").await;
    site.upstream.next(Answer::zeros(1 << 30));
    let mut connection = site.connect().await;
    connection.send(GET).await.unwrap();
    let (mut seen, mut now) = (u64::MAX, 0);
    while now == 0 || now != seen {
        sleep(millis(400)).await;
        (seen, now) = (now, site.upstream.zeros_written());
    }
    assert!(now < 24 << 20, "{} MiB", now >> 20);
}

// RL-10
#[tokio::test]
async fn h1_24_e_an_idle_connection_is_closed() {
    for (idle_timeout, millis) in [("500ms", 500), ("2500ms", 2_500)] {
        // The second one rests by then.
        let site = site(&format!("idle_timeout = \"{idle_timeout}\"")).await;
        let mut connection = site.connect().await;
        assert_eq!(ask(&mut connection).await.status, 200);
        let since = Instant::now();
        assert!(end_of(&mut connection).await.is_empty());
        took(since, millis);
    }
}

// RL-10
#[tokio::test]
async fn a_request_may_take_so_long_in_all_and_no_longer() {
    let site = site("request_timeout = \"500ms\"").await;
    site.upstream.next(Answer::never());
    let since = Instant::now();
    is_json(&site.browser().fetch("GET", "/x").await, 504, "upstream_timeout");
    took(since, 500);
    let (steps, slow) = Answer::steps();
    site.upstream.next(slow);
    let mut connection = site.connect().await;
    let since = Instant::now();
    connection.send(GET).await.unwrap();
    steps.send(b"begun".to_vec()).unwrap();
    let rest = end_of(&mut connection).await;
    took(since, 500);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it is not told as a whole");
}

#[tokio::test]
async fn an_answer_that_takes_long_is_not_idle() {
    let site = site("idle_timeout = \"200ms\"\nheader_timeout = \"200ms\"\nwrite_timeout = \"200ms\"").await;
    let (steps, slow) = Answer::steps();
    site.upstream.next(slow);
    let mut connection = site.connect().await;
    connection.send(GET).await.unwrap();
    let head = connection.reply_head().await;
    let mut framing = Framing::of_response(&head, "GET");
    for _ in 0..4 {
        sleep(millis(400)).await;
        steps.send(b"piece".to_vec()).unwrap();
        let piece = connection.data(&mut framing, &mut Headers::default()).await.unwrap();
        assert_eq!(piece.as_deref(), Some(&b"piece"[..]));
    }
}

// ------------------------------------------------------------------------------------- resting connections

#[tokio::test]
async fn a_connection_that_has_rested_goes_on() {
    let site = site("").await;
    let mut connection = site.connect().await;
    for _ in 0..2 {
        assert_eq!(ask(&mut connection).await.status, 200);
        sleep(millis(2_500)).await;
    }
    // A head in two halves, with a rest before and none between.
    connection.send(&GET[..10]).await.unwrap();
    sleep(millis(1_500)).await;
    connection.send(&GET[10..]).await.unwrap();
    assert_eq!(connection.reply("GET").await.unwrap().status, 200);
    assert_eq!(site.upstream.hits(), 3);
}

#[tokio::test]
async fn what_was_read_ahead_survives_a_rest() {
    let site = site("").await;
    let mut connection = site.connect().await;
    connection.send(&[GET, &GET[..12]].concat()).await.unwrap();
    assert_eq!(connection.reply("GET").await.unwrap().status, 200);
    sleep(millis(2_500)).await;
    connection.send(&GET[12..]).await.unwrap();
    assert_eq!(connection.reply("GET").await.unwrap().status, 200);
}

#[tokio::test]
async fn empty_lines_between_requests_are_no_beginning() {
    let site = site("header_timeout = \"600ms\"").await;
    let mut connection = site.connect().await;
    connection.send(&[GET, b"\r\n"].concat()).await.unwrap();
    assert_eq!(connection.reply("GET").await.unwrap().status, 200);
    sleep(millis(2_500)).await;
    assert_eq!(ask(&mut connection).await.status, 200);
}

#[tokio::test]
async fn resting_connections_do_not_hold_up_the_end() {
    let site = site("").await;
    let mut connection = site.connect().await;
    assert_eq!(ask(&mut connection).await.status, 200);
    sleep(millis(2_500)).await;
    let since = Instant::now();
    site.gateway.shut_down().await;
    assert!(since.elapsed() < millis(1_500));
    assert!(end_of(&mut connection).await.is_empty());
}

// ------------------------------------------------------------------------------------- the end

// RL-01
#[tokio::test]
async fn rl_01_who_has_begun_to_ask_is_answered_when_the_gateway_stops() {
    let site = site("").await;
    let mut rested = site.connect().await;
    assert_eq!(ask(&mut rested).await.status, 200);
    sleep(millis(2_500)).await;
    let [mut fresh, mut halfway, mut known] = [site.connect().await, site.connect().await, site.connect().await];
    assert_eq!(ask(&mut known).await.status, 200);
    for connection in [&mut halfway, &mut known, &mut rested] {
        connection.send(&GET[..20]).await.unwrap();
    }
    sleep(millis(200)).await;
    let stopping = tokio::spawn(site.gateway.shut_down());
    sleep(millis(200)).await;
    fresh.send(&GET[..20]).await.unwrap();
    for (what, connection) in
        [("fresh", &mut fresh), ("halfway", &mut halfway), ("known", &mut known), ("rested", &mut rested)]
    {
        connection.send(&GET[20..]).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let reply = connection.reply("GET").await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(reply.status, 200, "{what}");
        assert!(end_of(connection).await.is_empty(), "{what}");
    }
    assert_eq!(timeout(PATIENCE, stopping).await.unwrap().unwrap(), Drained::Complete);
}

// RL-02
#[tokio::test]
async fn rl_02_an_http2_client_that_answers_no_ping_does_not_hold_up_the_end() {
    let site = site("").await;
    let mut connection = Frames::open(site.gateway.address, &[]).await;
    connection.send(&[Frame::get(1, "/x")]).await.unwrap();
    assert_eq!(connection.next_of(frames::HEADERS).await.unwrap().status(), 200);
    let since = Instant::now();
    assert_eq!(site.gateway.shut_down().await, Drained::Complete);
    assert!(since.elapsed() < millis(3_000), "{:?}", since.elapsed());
}

// ------------------------------------------------------------------------------------- heads

// H1-23
#[tokio::test]
async fn h1_23_heads_beyond_the_limits_are_refused() {
    let site = site("").await;
    let headers = |count: usize| (0..count).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    let request = |target: &str, more: &str| format!("GET {target} HTTP/1.1\r\nHost: gw.test\r\n{more}\r\n");
    let long = format!("/{}", "a".repeat(70_000));
    let big = format!("X-Big: {}\r\n", "x".repeat(64 << 10));
    for (what, bytes, statuses) in [
        ("101 headers", request("/x", &headers(100)), &[431][..]),
        ("64 KiB", request("/x", &big), &[431]),
        ("70,000 bytes", request(&long, ""), &[414, 431]),
    ] {
        let status = site.raw(&bytes).await.expect(what).status;
        assert!(statuses.contains(&status), "{what}: {status}");
    }
    assert_eq!(site.raw(&request("/x", &headers(99))).await.unwrap().status, 200);
    assert_eq!(site.upstream.hits(), 1);
}

// H1-23
#[tokio::test]
async fn h1_23_the_number_of_headers_is_configured() {
    let site = site("header_count = 150").await;
    for (count, status) in [(149, 200), (150, 431)] {
        let headers: String = (0..count).map(|number| format!("X-{number}: y\r\n")).collect();
        let reply = site.raw(&format!("GET /x HTTP/1.1\r\nHost: gw.test\r\n{headers}\r\n")).await.unwrap();
        assert_eq!(reply.status, status, "{count}");
    }
}

// H1-23
#[tokio::test]
async fn h1_23_headers_without_end_are_cut_off() {
    let site = site("").await;
    let mut connection = site.connect().await;
    connection.send(b"GET /x HTTP/1.1\r\nHost: gw.test\r\n").await.unwrap();
    let line = b"X-Drip: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(16);
    let mut sent = 0;
    while sent < 64 << 20 && connection.send(&line).await.is_ok() {
        sent += line.len();
    }
    // What is not looked at any more is taken for a while.
    assert!(sent < 64 << 20, "{sent} bytes were taken");
}

// ------------------------------------------------------------------------------------- lingering

#[tokio::test]
async fn rl_24_a_refusal_reaches_a_client_that_is_still_sending() {
    let site = Site::plan().route("/*", "auth = \"public\"\nmax_body = \"1KiB\"").start().await;
    for (target, head, status) in [
        ("/x", "Content-Length: 8388608".to_owned(), 413),
        ("/x%2F..", "Content-Length: 8388608".to_owned(), 400),
        ("/x", format!("Content-Length: 8388608\r\nX-Big: {}", "x".repeat(40_000)), 431),
        ("/x", "Content-Length: nonsense".to_owned(), 400),
    ] {
        let mut connection = site.connect().await;
        let head = format!("POST {target} HTTP/1.1\r\nHost: gw.test\r\n{head}\r\n\r\n");
        connection.send(head.as_bytes()).await.unwrap();
        connection.send(&vec![b'x'; 8 << 20]).await.unwrap_or_else(|error| panic!("{status}: {error}"));
        sleep(millis(200)).await;
        let reply = connection.reply("POST").await.unwrap_or_else(|| panic!("{status} was lost"));
        assert_eq!(reply.status, status);
    }
}

#[tokio::test]
async fn rl_24_nobody_is_listened_to_for_ever() {
    let site = Site::plan().route("/*", "auth = \"public\"\nmax_body = \"1KiB\"").start().await;
    let mut connection = site.connect().await;
    connection.send(b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 99999999999\r\n\r\n").await.unwrap();
    let block = vec![b'x'; 64 * 1024];
    let mut sent = 0_u64;
    while sent < 1 << 30 && connection.send(&block).await.is_ok() {
        sent += block.len() as u64;
    }
    assert!(sent < 1 << 30);
}

// ------------------------------------------------------------------------------------- shedding

async fn full_house() -> (Site, Vec<Connection>) {
    let site = Site::plan()
        .server("admin_listen = \"127.0.0.1:0\"")
        .limits("connections = 2")
        .route("/*", "auth = true")
        .start()
        .await;
    let mut guests = Vec::new();
    for _ in 0..2 {
        let mut guest = site.connect().await;
        assert_eq!(ask(&mut guest).await.status, 401);
        guests.push(guest);
    }
    (site, guests)
}

// RL-09, in small
#[tokio::test]
async fn rl_09_one_connection_more_is_503_and_those_that_are_there_go_on() {
    let (site, mut guests) = full_house().await;
    for _ in 0..200 {
        let mut connection = site.connect().await;
        let reply = ask(&mut connection).await;
        assert_eq!((reply.status, reply.header("retry-after")), (503, "1"));
        assert!(end_of(&mut connection).await.is_empty(), "it keeps no place");
    }
    for guest in &mut guests {
        assert_eq!(ask(guest).await.status, 401);
    }
    assert_eq!(site.admin("GET", "/healthz", &[]).await.status, 200);
    guests.clear();
    eventually(|| async { ask(&mut site.connect().await).await.status == 401 }).await;
}

#[tokio::test]
async fn rl_09_whoever_wants_to_sign_out_can_when_there_is_no_place() {
    let site = Site::plan().limits("connections = 3").route("/*", "auth = true").start().await;
    let browser = site.signed_in().await;
    let mut guests = Vec::new();
    // The browser's own connections may still be about to close.
    while ask(&mut site.connect().await).await.status != 503 {
        guests.push(site.connect().await);
    }
    let head = "POST /auth/logout?local=1 HTTP/1.1\r\nHost: gw.test\r\nOrigin: http://gw.test\r\nContent-Length: 0\r\n";
    let reply = site.raw(&format!("{head}Cookie: {}\r\n\r\n", browser.cookie_field())).await.expect("a reply");
    assert_eq!(reply.status, 200, "{}", reply.text());
    guests.clear();
    eventually(|| async { browser.fetch("GET", "/auth/me").await.status == 401 }).await;
}

#[tokio::test]
async fn rl_09_reserved_places_are_not_for_keeping() {
    let (site, _guests) = full_house().await;
    // As many as there are, and some beyond.
    let mut idlers = Vec::new();
    for _ in 0..200 {
        idlers.push(site.connect().await);
    }
    let since = Instant::now();
    let mut told = 0;
    for idler in &mut idlers {
        // Without a question: there is nobody to read one.
        if let Some(reply) = idler.reply("GET").await {
            assert_eq!((reply.status, reply.header("retry-after")), (503, "1"));
            told += 1;
        }
    }
    assert!((1..200).contains(&told), "{told} were told, the others had a reserved place");
    assert!(since.elapsed() < millis(4_000));
}

#[tokio::test]
async fn rl_09_http2_is_told_503_too() {
    let (site, _guests) = full_house().await;
    let mut connection = Frames::open(site.gateway.address, &[]).await;
    connection.send(&[Frame::get(1, "/x")]).await.unwrap();
    assert_eq!(connection.next_of(frames::HEADERS).await.expect("an answer").status(), 503);
    assert_eq!(connection.closed().await, Some(0), "and asked to go");
}

// ------------------------------------------------------------------------------------- HTTP/2

/// The gateway still answers others, and quickly.
async fn answers_others(site: &Site) {
    let reply = timeout(Duration::from_secs(5), site.browser().fetch("GET", "/other")).await.expect("at once");
    assert_eq!(reply.status, 200);
}

/// Sends until the connection ends, and is told why, or until `most` frames were sent.
async fn flood(connection: &mut Frames, most: usize, mut batch: impl FnMut(u32) -> Vec<Frame>) -> (usize, Option<u32>) {
    let (mut sent, mut round) = (0, 0);
    while sent < most {
        let frames = batch(round);
        round += 1;
        if !matches!(timeout(PATIENCE, connection.send(&frames)).await, Ok(Ok(()))) {
            break;
        }
        sent += frames.len();
        while let Ok(frame) = connection.next_within(Duration::from_micros(10)).await {
            match frame {
                Some(frame) if frame.kind == frames::GOAWAY => return (sent, Some(frame.error())),
                Some(_) => {}
                None => return (sent, None),
            }
        }
    }
    (sent, None)
}

fn stream(number: u32) -> u32 {
    2 * number + 1
}

// RL-27
#[tokio::test]
async fn h2_02_rapid_reset_ends_the_connection() {
    let site = site("").await;
    site.upstream.answer(|request| if request.target == "/x" { Answer::never() } else { Answer::status(200) });
    let mut connection = Frames::open(site.gateway.address, &[]).await;
    let (sent, error) = flood(&mut connection, 100_000, |round| {
        (round * 50..(round + 1) * 50).flat_map(|at| [Frame::get(stream(at), "/x"), Frame::reset(stream(at))]).collect()
    })
    .await;
    assert!(sent < 5_000, "{sent} frames");
    assert!(matches!(error, None | Some(frames::ENHANCE_YOUR_CALM)), "{error:?}");
    answers_others(&site).await;
}

// The same with pauses, which h2 does not count
#[tokio::test]
async fn h2_02_slow_rapid_reset_ends_the_connection_too() {
    let site = site("").await;
    site.upstream.answer(|request| if request.target == "/x" { Answer::never() } else { Answer::status(200) });
    let mut connection = Frames::open(site.gateway.address, &[]).await;
    let mut at = 0;
    while at < 2_000 && connection.send(&[Frame::get(stream(at), "/x")]).await.is_ok() {
        sleep(millis(1)).await;
        if connection.send(&[Frame::reset(stream(at))]).await.is_err() {
            break;
        }
        sleep(millis(1)).await;
        at += 1;
    }
    assert!(at < 1_000, "{at} streams");
    answers_others(&site).await;
}

// Every stream that a browser may have, cancelled at once, before the gateway has looked at them: that is a page which is left
#[tokio::test]
async fn h2_02_a_page_that_is_left_is_no_attack() {
    let site = site("").await;
    site.upstream.answer(|request| if request.target == "/x" { Answer::never() } else { Answer::status(200) });
    let mut connection = Frames::open(site.gateway.address, &[]).await;
    connection.next_of(frames::SETTINGS).await.unwrap();
    for round in 0..4 {
        let ids: Vec<u32> = (round * 100..(round + 1) * 100).map(stream).collect();
        let page = ids.iter().map(|id| Frame::get(*id, "/x"));
        connection.send(&page.chain(ids.iter().map(|id| Frame::reset(*id))).collect::<Vec<_>>()).await.unwrap();
        sleep(millis(200)).await;
    }
    connection.send(&[Frame::get(stream(400), "/other")]).await.unwrap();
    assert_eq!(connection.next_of(frames::HEADERS).await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn h2_03_made_you_reset_ends_the_connection() {
    let site = site("").await;
    site.upstream.answer(|request| if request.target == "/x" { Answer::never() } else { Answer::status(200) });
    // Each of these is an error of the stream, which the server has to reset.
    for mistake in [
        |id| Frame::window_update(id, 0),
        |id| Frame::window_update(id, 0x7fff_ffff),
        |id| Frame::new(frames::DATA, frames::END_STREAM, id, *b"after the end"),
    ] {
        let mut connection = Frames::open(site.gateway.address, &[]).await;
        let (sent, error) = flood(&mut connection, 20_000, |round| {
            (round * 20..(round + 1) * 20).flat_map(|at| [Frame::get(stream(at), "/x"), mistake(stream(at))]).collect()
        })
        .await;
        assert!(sent < 5_000, "{sent} frames");
        assert_ne!(error, Some(0), "it is an error");
    }
    answers_others(&site).await;
}

#[tokio::test]
async fn h2_04_continuation_flood_ends_the_connection() {
    let site = site("").await;
    for name in ["x-flood", ""] {
        let mut connection = Frames::open(site.gateway.address, &[]).await;
        let begin = Frame::new(frames::HEADERS, frames::END_STREAM, 1, frames::request("GET", "/x", &[]));
        connection.send(&[begin]).await.unwrap();
        let field = if name.is_empty() { Vec::new() } else { frames::literal(name, &"x".repeat(1_000)) };
        let (sent, _) =
            flood(&mut connection, 100_000, |_| vec![Frame::new(frames::CONTINUATION, 0, 1, field.clone()); 10]).await;
        assert!(sent < 5_000, "{sent} frames");
    }
    answers_others(&site).await;
    assert_eq!(site.upstream.hits(), 1);
}

#[tokio::test]
async fn h2_05_control_frames_in_masses_cost_others_nothing() {
    let site = site("write_timeout = \"1s\"").await;
    let floods = [
        ("SETTINGS", Frame::settings(&[(frames::SETTINGS_INITIAL_WINDOW_SIZE, 70_000)])),
        ("PING", Frame::new(frames::PING, 0, 0, [0; 8])),
        ("PRIORITY", Frame::new(frames::PRIORITY, 0, 3, [0, 0, 0, 1, 0])),
        ("WINDOW_UPDATE", Frame::window_update(0, 1)),
        ("unknown", Frame::new(0x42, 0, 0, [0; 16])),
    ];
    for (what, frame) in floods {
        // Whoever does not read the answers is not written to without end.
        let mut connection = Frames::open(site.gateway.address, &[]).await;
        let block = vec![frame; 1_000];
        let flooding = async { while connection.send(&block).await.is_ok() {} };
        let (others, _) = tokio::join!(
            async {
                for _ in 0..5 {
                    answers_others(&site).await;
                    sleep(millis(100)).await;
                }
                what
            },
            timeout(Duration::from_secs(1), flooding)
        );
        assert_eq!(others, what);
    }
}

#[tokio::test]
async fn h2_05_data_without_content_ends_the_connection() {
    let site = site("").await;
    let gate = Gate::closed();
    site.upstream.read_bodies_behind(&gate);
    for payload in [&b""[..], b"x"] {
        let mut connection = Frames::open(site.gateway.address, &[]).await;
        let head = Frame::new(frames::HEADERS, frames::END_HEADERS, 1, frames::request("POST", "/x", &[]));
        connection.send(&[head]).await.unwrap();
        let (sent, error) =
            flood(&mut connection, 500_000, |_| vec![Frame::new(frames::DATA, 0, 1, payload); 100]).await;
        assert!(sent < 500_000, "{sent} frames");
        assert_ne!(error, Some(0));
    }
    gate.open();
    answers_others(&site).await;
}

#[tokio::test]
async fn h2_06_decoded_headers_count_however_small_they_were() {
    let site = site("").await;
    // One long field in the dynamic table, and then one byte for each time it is meant.
    let mut bomb = frames::request("GET", "/x", &[]);
    bomb.push(0x40);
    bomb.extend(&frames::literal("x-bomb", &"x".repeat(3_000))[1..]);
    bomb.extend([0xbe; 1_000]);
    let crumbs: Vec<(&str, &str)> = vec![("cookie", "a=b"); 10_000];
    let megabyte: Vec<(&str, String)> = (0..16).map(|_| ("x-big", "x".repeat(64 << 10))).collect();
    let megabyte: Vec<(&str, &str)> = megabyte.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (what, block) in [
        ("bomb", bomb),
        ("crumbs", frames::request("GET", "/x", &crumbs)),
        ("1 MiB", frames::request("GET", "/x", &megabyte)),
    ] {
        let mut connection = Frames::open(site.gateway.address, &[]).await;
        let pieces: Vec<&[u8]> = block.chunks(16_000).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let kind = if at == 0 { frames::HEADERS } else { frames::CONTINUATION };
            let first = if at == 0 { frames::END_STREAM } else { 0 };
            let last = if at + 1 == pieces.len() { frames::END_HEADERS } else { 0 };
            if connection.send(&[Frame::new(kind, first | last, 1, *piece)]).await.is_err() {
                break;
            }
        }
        let status = loop {
            match connection.next().await {
                Some(frame) if frame.kind == frames::HEADERS => break Some(frame.status()),
                Some(frame) if frame.kind == frames::RST_STREAM || frame.kind == frames::GOAWAY => break None,
                Some(_) => {}
                None => break None,
            }
        };
        assert!(matches!(status, None | Some(431)), "{what}: {status:?}");
    }
    assert_eq!(site.upstream.hits(), 0);
    answers_others(&site).await;
}

// RL-27
#[tokio::test]
async fn h2_07_streams_without_a_window_are_reset() {
    let site = site("write_timeout = \"500ms\"").await;
    site.upstream.answer(|request| if request.target == "/x" { Answer::zeros(1 << 30) } else { Answer::status(200) });
    let mut connection = Frames::open(site.gateway.address, &[(frames::SETTINGS_INITIAL_WINDOW_SIZE, 0)]).await;
    let since = Instant::now();
    let streams = 20;
    connection.send(&(0..streams).map(|at| Frame::get(stream(at), "/x")).collect::<Vec<_>>()).await.unwrap();
    for _ in 0..streams {
        let reset = connection.next_of(frames::RST_STREAM).await.expect("a reset");
        assert_eq!(reset.error(), frames::CANCEL);
    }
    took(since, 500);
    answers_others(&site).await;
}

// Windows that open byte by byte
#[tokio::test]
async fn h2_07_a_window_of_a_byte_now_and_then_keeps_nothing_for_ever() {
    let site = site("write_timeout = \"500ms\"\nidle_timeout = \"1s\"").await;
    site.upstream.next(Answer::zeros(1 << 20));
    let mut connection = Frames::open(site.gateway.address, &[(frames::SETTINGS_INITIAL_WINDOW_SIZE, 1)]).await;
    connection.send(&[Frame::get(1, "/x")]).await.unwrap();
    let dripping = async {
        loop {
            if connection.send(&[Frame::window_update(1, 1)]).await.is_err() {
                return;
            }
            match connection.next_within(millis(100)).await {
                Ok(Some(frame)) if frame.kind == frames::RST_STREAM => return,
                Ok(None) => return,
                Ok(Some(_)) | Err(()) => {}
            }
        }
    };
    timeout(PATIENCE, dripping).await.expect("it ends");
}

// A connection whose client does not read at all
#[tokio::test]
async fn h2_07_a_client_that_never_reads_loses_its_connection() {
    let site = site("write_timeout = \"500ms\"").await;
    site.upstream.answer(|request| if request.target == "/x" { Answer::zeros(1 << 26) } else { Answer::status(200) });
    let mut connection =
        Frames::open(site.gateway.address, &[(frames::SETTINGS_INITIAL_WINDOW_SIZE, 0x7fff_ffff)]).await;
    let mut asked = vec![Frame::window_update(0, 0x7fff_0000)];
    asked.extend((0..20).map(|at| Frame::get(stream(at), "/x")));
    connection.send(&asked).await.unwrap();
    let pinging = async {
        while connection.send(&[Frame::new(frames::PING, 0, 0, [0; 8])]).await.is_ok() {
            sleep(millis(50)).await
        }
    };
    timeout(PATIENCE, pinging).await.expect("it ends");
    assert!(site.upstream.zeros_written() < 20 << 26);
}

#[tokio::test]
async fn h2_08_streams_beyond_the_most_are_refused() {
    let site = site("").await;
    site.upstream.answer(|request| if request.target == "/x" { Answer::never() } else { Answer::status(200) });
    let mut connection = Frames::open(site.gateway.address, &[]).await;
    // Its settings are known: what comes after is a client's mistake.
    connection.next_of(frames::SETTINGS).await.unwrap();
    connection.send(&[Frame::new(frames::SETTINGS, frames::ACK, 0, [])]).await.unwrap();
    connection.send(&(0..101).map(|at| Frame::get(stream(at), "/x")).collect::<Vec<_>>()).await.unwrap();
    let refused = connection.next_of(frames::RST_STREAM).await.expect("a reset");
    assert_eq!((refused.stream, refused.error()), (stream(100), frames::REFUSED_STREAM));
    answers_others(&site).await;
}

// H1-24, over HTTP/2
#[tokio::test]
async fn h2_connections_that_are_idle_are_asked_to_go() {
    let site = site("header_timeout = \"500ms\"\nidle_timeout = \"1s\"").await;
    for (asks, millis) in [(false, 500), (true, 1_000)] {
        let mut connection = Frames::open(site.gateway.address, &[]).await;
        if asks {
            connection.send(&[Frame::get(1, "/x")]).await.unwrap();
            assert_eq!(connection.next_of(frames::HEADERS).await.unwrap().status(), 200);
        }
        let since = Instant::now();
        assert_eq!(connection.closed().await, Some(0));
        took(since, millis);
    }
}

#[tokio::test]
async fn h2_a_request_that_crosses_the_farewell_is_answered() {
    let site = site("idle_timeout = \"500ms\"").await;
    let mut connection = Frames::open(site.gateway.address, &[]).await;
    connection.send(&[Frame::get(1, "/x")]).await.unwrap();
    assert_eq!(connection.next_of(frames::HEADERS).await.unwrap().status(), 200);
    connection.next_of(frames::GOAWAY).await.expect("a farewell");
    let gate = Gate::closed();
    site.upstream.next(Answer::status(200).behind(&gate));
    connection.send(&[Frame::get(3, "/x")]).await.unwrap();
    sleep(millis(2_500)).await;
    gate.open();
    assert_eq!(connection.next_of(frames::HEADERS).await.expect("an answer").status(), 200);
    assert_eq!(connection.closed().await, None, "and it goes, with nothing more to say");
}

// H1-24 c, over HTTP/2
#[tokio::test]
async fn h2_bodies_that_do_not_come_are_408() {
    let site = site("body_timeout = \"500ms\"").await;
    let mut connection = Frames::open(site.gateway.address, &[]).await;
    let post = |stream, content_type| {
        let block = frames::request("POST", "/x", &[("content-type", content_type)]);
        Frame::new(frames::HEADERS, frames::END_HEADERS, stream, block)
    };
    let since = Instant::now();
    connection.send(&[post(1, "text/plain"), post(3, "application/grpc")]).await.unwrap();
    let answer = connection.next_of(frames::HEADERS).await.expect("an answer");
    assert_eq!((answer.stream, answer.status()), (1, 408));
    took(since, 500);
    // A call may be silent.
    sleep(millis(500)).await;
    connection.send(&[Frame::new(frames::DATA, frames::END_STREAM, 3, [])]).await.unwrap();
    assert_eq!(connection.next_of(frames::HEADERS).await.expect("an answer").stream, 3);
}

// ------------------------------------------------------------------------------------- memory

/// RSS of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") * 1024
}

#[tokio::test]
#[ignore = "a measurement"]
async fn what_idle_connections_cost() {
    let site = site("idle_timeout = \"60s\"").await;
    let before = resident();
    let mut connections = Vec::new();
    for _ in 0..2_000 {
        let mut connection = site.connect().await;
        assert_eq!(ask(&mut connection).await.status, 200);
        connections.push(connection);
    }
    println!("with all of them open: {} bytes each", (resident() - before) / connections.len());
    sleep(Duration::from_secs(4)).await;
    println!("and after a rest: {} bytes each", (resident().saturating_sub(before)) / connections.len());
}
