//! Bytes that flow: large bodies, event streams, WebSockets, early answers, HTTP/2, and upstreams that
//! are slow, gone or wrong.

use crate::harness::expect::{error_json, error_page, relayed};
use crate::harness::wire::{Framing, Headers, chunk};
use crate::harness::{Answer, Browser, Connection, Endpoint, Fault, Gate, Request, Site, eventually};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use latchgate::app::Drained;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

const MIB: u64 = 1024 * 1024;

/// More than all sockets and buffers on the way may hold, far less than the whole body.
const IN_FLIGHT: u64 = 48 * MIB;

// -------------------------------------------------------------------------------- large bodies

// RL-14
#[tokio::test]
async fn a_large_answer_streams_at_the_speed_of_the_client() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    site.upstream.next(Answer::zeros(1024 * MIB));
    let (head, connection) = browser.open(Request::fetch("GET", "/big")).await;
    assert_eq!((head.word(1), head.headers.value("content-length")), ("200", Some("1073741824")));
    let taken = plateau(|| site.upstream.zeros_written()).await;
    assert!(taken < IN_FLIGHT, "{} MiB were taken for a client that reads nothing", taken / MIB);
    drop(connection);

    site.upstream.next(Answer::zeros(24 * MIB));
    let (head, mut connection) = browser.open(Request::fetch("GET", "/big")).await;
    assert_eq!(length(&mut connection, Framing::of_response(&head, "GET")).await, 24 * MIB);
}

// RF-29, RL-14
#[tokio::test]
async fn a_large_upload_streams_at_the_speed_of_the_upstream() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let gate = Gate::closed();
    site.upstream.read_bodies_behind(&gate);
    let request = Request::fetch("POST", "/big").header("Content-Length", "1073741824");
    let mut connection = browser.dispatch(request).await;
    let block = vec![0; 256 * 1024];
    let mut sent = 0;
    while let Ok(Ok(())) = timeout(Duration::from_millis(500), connection.send(&block)).await {
        sent += block.len() as u64;
        assert!(sent < IN_FLIGHT, "{} MiB were taken for an upstream that reads nothing", sent / MIB);
    }
    gate.arrivals(1).await;
}

#[tokio::test]
async fn an_upload_larger_than_any_buffer_arrives_whole() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let body: Vec<u8> = (0..8 * MIB).map(|index| u8::try_from(index % 251).unwrap()).collect();
    let request = Request::fetch("POST", "/big").body("application/octet-stream", body.clone());
    relayed(&browser.send(request).await, 200);
    assert!(site.upstream.last().body == body);
}

// ------------------------------------------------------------------------------- event streams

#[tokio::test]
async fn events_arrive_one_by_one_as_they_are_sent() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let (steps, answer) = Answer::steps();
    site.upstream.next(answer.header("Content-Type", "text/event-stream").header("Cache-Control", "no-cache"));
    let request = Request::fetch("GET", "/events").with("Accept", "text/event-stream");
    let (head, mut connection) = browser.open(request).await;
    assert_eq!(head.headers.value("content-type"), Some("text/event-stream"));
    let (mut framing, mut trailers) = (Framing::of_response(&head, "GET"), Headers::default());
    for number in 0..3 {
        let event = format!("data: {number}\n\n").into_bytes();
        steps.send(event.clone()).unwrap();
        let data = timeout(Duration::from_secs(5), connection.data(&mut framing, &mut trailers)).await;
        assert_eq!(data.expect("held back").unwrap(), Some(event));
    }
    drop(steps);
    assert_eq!(connection.data(&mut framing, &mut trailers).await.unwrap(), None);
}

#[tokio::test]
async fn a_client_that_leaves_an_event_stream_frees_the_upstream() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let (steps, answer) = Answer::steps();
    site.upstream.next(answer.header("Content-Type", "text/event-stream"));
    let (_, connection) = browser.open(Request::fetch("GET", "/events")).await;
    drop(connection);
    eventually(|| async { steps.send(b"data: x\n\n".to_vec()).is_err() }).await;
}

// LO-07
#[tokio::test]
async fn an_event_stream_ends_with_its_session() {
    let site = Site::protected().await;
    let (events, answer) = Answer::steps();
    site.upstream.next(answer.header("Content-Type", "text/event-stream;charset=utf-8"));
    let browser = site.signed_in().await;
    let (head, mut connection) = browser.open(Request::fetch("GET", "/events")).await;
    let (mut framing, mut trailers) = (Framing::of_response(&head, "GET"), Headers::default());
    events.send(b"data: 1\n\n".to_vec()).unwrap();
    assert_eq!(connection.data(&mut framing, &mut trailers).await.unwrap().unwrap(), b"data: 1\n\n");
    assert_eq!(browser.fetch("POST", "/auth/logout?local=1").await.status, 200);
    let end = timeout(Duration::from_secs(5), connection.data(&mut framing, &mut trailers)).await;
    assert_eq!(end.expect("within five seconds").unwrap(), None, "in good order");
    error_json(&browser.fetch("GET", "/events").await, 401);
}

#[tokio::test]
async fn a_gateway_that_stops_ends_event_streams_and_waits_for_none() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    let (events, answer) = Answer::steps();
    site.upstream.next(answer.header("Content-Type", "text/event-stream"));
    let (head, mut connection) = site.browser().open(Request::fetch("GET", "/events")).await;
    let (mut framing, mut trailers) = (Framing::of_response(&head, "GET"), Headers::default());
    events.send(b"data: 1\n\n".to_vec()).unwrap();
    connection.data(&mut framing, &mut trailers).await.unwrap();
    let drained = timeout(Duration::from_secs(4), site.gateway.shut_down()).await;
    assert_eq!(drained.expect("before the drain timeout"), Drained::Complete);
    assert_eq!(connection.data(&mut framing, &mut trailers).await.unwrap(), None);
}

// --------------------------------------------------------------------------------- WebSockets

#[tokio::test]
async fn a_websocket_carries_the_token_in_its_handshake_and_bytes_both_ways() {
    let site = Site::protected().await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let browser = site.signed_in().await;
    let mut socket = websocket(&browser).await;
    let handshake = site.upstream.last();
    assert_eq!(site.provider.user_of(handshake.bearer().unwrap()).as_deref(), Some("ada"));
    assert!(!handshake.headers.contains("cookie"));
    assert_eq!(handshake.header("sec-websocket-protocol"), "chat");
    for text in [b"\x81\x85\0\0\0\0hello".as_slice(), b"\x81\x82\0\0\0\0ok"] {
        socket.send(text).await.unwrap();
        assert_eq!(socket.raw().await, text);
    }
}

// RF-31
#[tokio::test]
async fn a_websocket_is_opened_with_a_token_that_is_not_expired() {
    let site = Site::protected().await;
    let provider = site.provider.clone();
    site.upstream.answer(move |request| match request.bearer().and_then(|token| provider.user_of(token)) {
        Some(_) => Answer::websocket_echo(),
        None => Answer::unauthorized(),
    });
    let browser = site.signed_in().await;
    site.clock.advance(Duration::from_secs(3700));
    let mut socket = websocket(&browser).await;
    socket.send(b"ping").await.unwrap();
    assert_eq!(socket.raw().await, b"ping");
    assert_eq!((site.provider.refreshes(), site.upstream.hits()), (1, 1));
}

// LO-07, WB-10
#[tokio::test]
async fn a_websocket_is_closed_when_its_session_ends() {
    let site = Site::protected().await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let browser = site.signed_in().await;
    let mut socket = websocket(&browser).await;
    assert_eq!(browser.fetch("POST", "/auth/logout?local=1").await.status, 200);
    let frame = socket.raw().await;
    assert!(frame.len() >= 4 && frame[0] == 0x88, "a close frame (RFC 6455 §5.5.1): {frame:?}");
    assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), 1008);
}

// LO-07
#[tokio::test]
async fn a_websocket_that_nobody_reads_is_not_waited_for() {
    let site = Site::protected().await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let browser = site.signed_in().await;
    let mut socket = websocket(&browser).await;
    // What comes back fills every buffer on the way, and each empty frame could be followed by a close frame.
    let empty_frames = [0x82, 0].repeat(32 * 1024);
    while timeout(Duration::from_millis(500), socket.send(&empty_frames)).await.is_ok() {}
    assert_eq!(browser.fetch("POST", "/auth/logout?local=1").await.status, 200);
    let drained = timeout(Duration::from_secs(10), site.gateway.shut_down()).await;
    assert_eq!(drained.unwrap(), Drained::Complete);
}

#[tokio::test]
async fn a_gateway_that_stops_says_so_to_websockets_and_waits_for_none() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let browser = site.browser();
    let mut socket = websocket(&browser).await;
    let drained = timeout(Duration::from_secs(10), site.gateway.shut_down()).await;
    assert_eq!(drained.unwrap(), Drained::Complete);
    let frame = socket.raw().await;
    assert!(frame.len() >= 4 && frame[0] == 0x88, "a close frame: {frame:?}");
    assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), 1001, "going away (RFC 6455 §7.4.1)");
}

// H1-19
#[tokio::test]
async fn only_an_upgrade_that_was_asked_for_and_granted_is_a_tunnel() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    let browser = site.browser();
    site.upstream.next(Answer::status(404));
    relayed(&browser.send(upgrade(&browser)).await, 404);

    site.upstream
        .next(Answer::raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
    error_json(&browser.fetch("GET", "/x").await, 502);

    let h2c = Request::new("GET", "/x")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    relayed(&browser.send(h2c).await, 200);
    assert!(!site.upstream.last().headers.contains("upgrade"));
}

// ------------------------------------------------------------------------ early and odd answers

// H1-17
#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_relayed_at_once() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    site.upstream.answer_early(|_| Some(Answer::status(422)));
    let request = Request::fetch("POST", "/x").header("Content-Length", "10000000");
    let mut connection = browser.dispatch(request).await;
    connection.send(&[b'x'; 1000]).await.unwrap();
    let head = connection.reply_head().await;
    assert_eq!(head.word(1), "422", "the rest of the body never comes");
}

// H1-17
#[tokio::test]
async fn the_body_of_a_refused_request_is_never_read_as_a_request() {
    let site = Site::plan().route("/public/*", "auth = \"public\"").route("/*", "auth = true").start().await;
    let smuggled = "GET /public/smuggled HTTP/1.1\r\nHost: gw.test\r\n\r\n";
    let length = smuggled.len();
    let mut connection = site.connect().await;
    let request =
        format!("POST /x HTTP/1.1\r\nHost: gw.test\r\nOrigin: http://gw.test\r\nContent-Length: {length}\r\n\r\n");
    connection.send(request.as_bytes()).await.unwrap();
    assert_eq!(connection.reply("POST").await.unwrap().status, 401);
    connection.send(smuggled.as_bytes()).await.ok();
    connection.send(b"GET /public/next HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\n\r\n").await.ok();
    connection.reply("GET").await;
    assert!(site.upstream.received().iter().all(|received| received.target == "/public/next"));
}

// H1-18
#[tokio::test]
async fn expect_100_continue_gets_its_continue_or_its_refusal() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let expecting = || Request::fetch("POST", "/x").header("Expect", "100-continue").header("Content-Length", "5");
    let mut connection = browser.dispatch(expecting()).await;
    assert_eq!(connection.reply_head().await.word(1), "100");
    connection.send(b"hello").await.unwrap();
    relayed(&connection.reply("POST").await.unwrap(), 200);
    assert_eq!(site.upstream.last().body, b"hello");

    let mut refused = site.browser().dispatch(expecting()).await;
    assert_eq!(refused.reply_head().await.word(1), "401", "nobody wants the body");
}

// H1-22
#[tokio::test]
async fn interim_answers_do_not_hide_the_final_one() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    site.upstream.next(Answer::raw(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Scripted-Upstream: yes\r\n\r\nok",
    ));
    let reply = site.browser().fetch("GET", "/x").await;
    relayed(&reply, 200);
    assert_eq!(reply.text(), "ok");
}

// H1-20
#[tokio::test]
async fn answers_without_a_body_keep_their_headers() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    site.upstream.answer(|_| Answer::status(200).body("twelve bytes"));
    let head = site.browser().fetch("HEAD", "/x").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "12", 0));
    for status in ["204 No Content", "304 Not Modified"] {
        site.upstream
            .next(Answer::raw(&format!("HTTP/1.1 {status}\r\nETag: \"x\"\r\nX-Scripted-Upstream: yes\r\n\r\n")));
        let reply = site.browser().fetch("GET", "/x").await;
        assert_eq!(reply.status.to_string(), status[..3]);
        assert_eq!((reply.header("etag"), reply.body.len()), ("\"x\"", 0));
    }
}

// H1-20
#[tokio::test]
async fn an_answer_that_breaks_off_is_not_made_to_look_whole() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    for broken in ["Content-Length: 100\r\n\r\nonly this", "Transfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n"] {
        site.upstream.next(Answer::raw(&format!("HTTP/1.1 200 OK\r\n{broken}")));
        let mut connection = site.browser().dispatch(Request::fetch("GET", "/x")).await;
        assert!(connection.reply("GET").await.is_none(), "{broken:?}");
    }
    site.upstream.next(Answer::raw("this is not HTTP\r\n\r\n"));
    error_json(&site.browser().fetch("GET", "/x").await, 502);
    relayed(&site.browser().fetch("GET", "/x").await, 200);
}

#[tokio::test]
async fn an_upstream_that_closes_idle_connections_is_not_an_error() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    site.upstream.answer(|_| Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Scripted-Upstream: yes\r\n\r\nok"));
    for _ in 0..10 {
        relayed(&site.browser().fetch("GET", "/x").await, 200);
    }
}

#[tokio::test]
async fn a_body_of_the_client_that_breaks_off_is_not_the_upstream_s_fault() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    for kept_alive in [false, true] {
        if kept_alive {
            relayed(&site.browser().fetch("GET", "/x").await, 200);
        }
        let request = "POST /x HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\nzz\r\n";
        let reply = site.raw(request).await.unwrap();
        assert_eq!((reply.status, reply.json()["code"].as_str()), (400, Some("bad_request")));
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_in_time_is_504() {
    let site = Site::plan()
        .app("response_timeout = \"1s\"")
        .route("/quick/*", "auth = true\nresponse_timeout = \"200ms\"")
        .route("/*", "auth = true")
        .start()
        .await;
    site.upstream.answer(|_| Answer::never());
    let browser = site.signed_in().await;
    for target in ["/quick/x", "/x"] {
        error_json(&browser.fetch("GET", target).await, 504);
        error_page(&browser.send(Request::navigation(target)).await, 504);
    }
    assert_eq!(site.provider.refreshes(), 0);
}

#[tokio::test]
async fn the_response_timeout_is_for_the_head_and_not_for_the_body() {
    let site = Site::plan().app("response_timeout = \"500ms\"").route("/*", "auth = \"public\"").start().await;
    let (steps, answer) = Answer::steps();
    site.upstream.next(answer);
    let (head, mut connection) = site.browser().open(Request::fetch("GET", "/x")).await;
    let (mut framing, mut trailers) = (Framing::of_response(&head, "GET"), Headers::default());
    tokio::time::sleep(Duration::from_millis(900)).await;
    steps.send(b"late".to_vec()).unwrap();
    assert_eq!(connection.data(&mut framing, &mut trailers).await.unwrap(), Some(b"late".to_vec()));
}

// -------------------------------------------------------------------------------------- HTTP/2

#[tokio::test]
async fn http2_with_prior_knowledge_meets_the_same_rules() {
    let site = Site::protected().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.signed_in().await;
    let mut client = http2(&site).await;
    let ask = |client: &mut SendRequest<Full<Bytes>>, cookies: &[String]| {
        let mut request = http::Request::get("http://gw.test/x?a=1&a=2").header("sec-fetch-mode", "cors");
        for cookie in cookies {
            request = request.header("cookie", cookie);
        }
        client.send_request(request.body(Full::default()).unwrap())
    };
    let refused = ask(&mut client, &[]).await.unwrap();
    assert_eq!(refused.status(), 401);
    assert!(refused.headers().contains_key("latchgate-login"));

    // RFC 9113 §8.2.3: a client may send each cookie in a field of its own
    let cookies = ["a=1".to_owned(), browser.cookie_field(), "b=2".to_owned()];
    let (first, second) = (ask(&mut client, &cookies), ask(&mut client, &cookies));
    let (first, second) = tokio::join!(first, second);
    for reply in [first.unwrap(), second.unwrap()] {
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.headers()["x-seen-user"], "ada");
    }
    let received = site.upstream.last();
    assert_eq!((received.target.as_str(), received.header("cookie")), ("/x?a=1&a=2", "a=1; b=2"));

    site.provider.revoke_access_tokens();
    assert_eq!(ask(&mut client, &cookies).await.unwrap().status(), 200);
    assert_eq!(site.provider.refreshes(), 1);
}

// RF-08
#[tokio::test]
async fn an_http2_stream_that_is_reset_does_not_cancel_the_refresh() {
    let site = Site::protected().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.signed_in().await;
    site.clock.advance(Duration::from_secs(3700));
    let gate = Gate::closed();
    site.provider.next(Endpoint::Token, Fault::Held(gate.clone()));
    let mut client = http2(&site).await;
    let request = http::Request::get("http://gw.test/x").header("cookie", browser.cookie_field());
    let pending = tokio::spawn(client.send_request(request.body(Full::default()).unwrap()));
    gate.arrivals(1).await;
    pending.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.open();
    relayed(&browser.fetch("GET", "/later").await, 200);
    assert_eq!((site.provider.refreshes(), site.provider.reuses()), (1, 0));
}

#[tokio::test]
async fn trailers_of_the_upstream_reach_an_http2_client() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    site.upstream.next(Answer::raw(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n3\r\nabc\r\n0\r\ngrpc-status: 7\r\n\r\n",
    ));
    let mut client = http2(&site).await;
    let request = http::Request::post("http://gw.test/x").header("te", "trailers").body(Full::default()).unwrap();
    let reply = client.send_request(request).await.unwrap();
    let collected = reply.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().expect("trailers")["grpc-status"], "7");
    assert_eq!(collected.to_bytes(), "abc");
}

#[tokio::test]
async fn trailers_of_a_client_reach_the_upstream_or_nobody() {
    let site = Site::plan().route("/*", "auth = \"public\"").start().await;
    let mut request = Request::fetch("POST", "/x").header("Transfer-Encoding", "chunked").header("Trailer", "X-Sum");
    request.body = chunk(b"abc");
    request.body.extend(b"0\r\nX-Sum: 1\r\nX-User: forged\r\n\r\n");
    relayed(&site.browser().send(request).await, 200);
    let received = site.upstream.last();
    assert_eq!(received.body, b"abc");
    assert!(!received.headers.contains("x-sum"), "a trailer is never merged into the headers");
}

// ---------------------------------------------------------------------------------- the stage

/// What `count` says once it has stopped growing.
async fn plateau(count: impl Fn() -> u64) -> u64 {
    let mut seen = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let now = count();
        if now > 0 && now == seen {
            return now;
        }
        seen = now;
    }
}

async fn length(connection: &mut Connection, mut framing: Framing) -> u64 {
    let (mut length, mut trailers) = (0, Headers::default());
    while let Some(data) = connection.data(&mut framing, &mut trailers).await.unwrap() {
        length += data.len() as u64;
    }
    length
}

fn upgrade(browser: &Browser) -> Request {
    Request::new("GET", "/socket")
        .header("Origin", &browser.origin())
        .header("Sec-Fetch-Site", "same-origin")
        .header("Sec-Fetch-Mode", "websocket")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Protocol", "chat")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

async fn websocket(browser: &Browser) -> Connection {
    let (head, connection) = browser.open(upgrade(browser)).await;
    assert_eq!(head.word(1), "101", "{head:?}");
    assert_eq!(head.headers.value("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    connection
}

async fn http2(site: &Site) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(site.gateway.address).await.unwrap();
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}
