//! Everything HTTP can do: trailers, 1xx, expectations, gRPC, WebSockets over both versions, and requests of HTTP/2 that no library
//! would send.

use crate::harness::expect::relayed;
use crate::harness::h2_frames::{Fate, Field, Frames};
use crate::harness::upstream::websocket_accept;
use crate::harness::wire::{Framing, Head, Headers, chunk, message};
use crate::harness::{Answer, Browser, Connection, PATIENCE, Request, Site};
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

// ------------------------------------------------------------------------------------- trailers

// H2-13, H1-11
#[tokio::test]
async fn h2_13_trailers_of_a_request_arrive_without_what_only_we_may_say() {
    let site = Site::plan().route("/*", "auth = true\nidentity = { X-User = \"sub\" }").start().await;
    let browser = site.signed_in().await;
    let request = with_trailers(
        "X-Sum, x_user, Authorization",
        "X-Sum: 1\r\nx_user: forged\r\nAuthorization: Bearer forged\r\nCookie: latchgate=x\r\nX-Forwarded-For: 1.1.1.1\r\n",
    );
    relayed(&browser.send(request).await, 200);
    let received = site.upstream.last();
    assert_eq!((received.body.as_slice(), received.header("trailer")), (&b"abc"[..], "X-Sum"));
    assert_eq!(received.trailers.0, [("x-sum".to_owned(), "1".to_owned())]);
    assert_eq!(received.header("x-user"), "ada");
    assert!(!received.headers.contains("x-sum"), "never merged into the headers");
}

#[tokio::test]
async fn a_request_with_trailers_is_sent_again_with_them() {
    let site = Site::protected().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    relayed(&browser.send(with_trailers("X-Sum", "X-Sum: 1\r\n")).await, 200);
    let received = site.upstream.received();
    assert_eq!((received.len(), site.provider.refreshes()), (2, 1));
    for attempt in received {
        assert_eq!((attempt.body.as_slice(), attempt.trailers.value("x-sum")), (&b"abc"[..], Some("1")));
    }
}

#[tokio::test]
async fn trailers_of_an_http2_request_arrive() {
    let site = open_site().await;
    let (pieces, body) = Pieces::new();
    pieces.send(Frame::data(Bytes::from_static(b"abc"))).unwrap();
    let fields = [("x-sum", "1"), ("authorization", "Bearer forged"), ("latchgate-cookie", "kept")];
    pieces.send(Frame::trailers(header_map(&fields))).unwrap();
    drop(pieces);
    let request = http::Request::post("http://gw.test/x").header("trailer", "x-sum, latchgate-cookie");
    let reply = http2(&site).await.send_request(request.body(body).unwrap()).await.unwrap();
    assert_eq!(reply.status(), 200);
    let received = site.upstream.last();
    assert_eq!(received.body, b"abc");
    assert_eq!((received.trailers.value("x-sum"), received.trailers.contains("authorization")), (Some("1"), false));
}

// H2-13
#[tokio::test]
async fn h2_13_trailers_of_an_answer_reach_who_asked_for_them() {
    let site = open_site().await;
    let answer = || {
        Answer::raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Latchgate-Login, Set-Cookie\r\nX-Scripted-Upstream: yes\r\n\r\n\
             3\r\nabc\r\n0\r\nX-Sum: 1\r\nLatchgate-Login: /evil\r\nSet-Cookie: latchgate=evil\r\nAuthorization: x\r\n\r\n",
        )
    };
    for (te, connection, expected) in [
        (Some("trailers"), Some("TE"), Some("1")),
        (Some("gzip, trailers"), None, Some("1")),
        (Some("gzip"), None, None),
        (None, None, None),
    ] {
        site.upstream.next(answer());
        let mut request = Request::fetch("GET", "/x");
        if let Some(te) = te {
            request = request.header("TE", te);
        }
        if let Some(connection) = connection {
            request = request.header("Connection", connection);
        }
        let (head, mut connection) = site.browser().open(request).await;
        assert_eq!(head.headers.value("trailer"), Some("X-Sum"));
        let (body, trailers) = connection.body(Framing::of_response(&head, "GET")).await.unwrap();
        assert_eq!((body.as_slice(), trailers.value("x-sum")), (&b"abc"[..], expected), "{te:?}");
        assert!(trailers.0.len() <= 1, "{trailers:?}");
    }

    site.upstream.next(answer());
    let request = http::Request::get("http://gw.test/x").body(Pieces::none()).unwrap();
    let collected = http2(&site).await.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&header_map(&[("x-sum", "1")])));
}

// H2-13
#[tokio::test]
async fn h2_13_no_spelling_and_no_edit_of_the_route_is_got_round_by_a_trailer() {
    let route = "auth = \"public\"\nrequest_headers = { set = { X-Via = \"gate\" }, remove = [\"X-Debug\"] }\nresponse_headers = { set = { X-Frame = \"no\" }, remove = [\"X-Internal\"] }";
    let site = Site::plan().route("/*", route).start().await;
    let names =
        "X-Sum, X-Debug, X-Via, content_length, transfer_encoding, proxy_authorization, x_forwarded_for, X.Real.Ip";
    let fields: String = names.split(", ").map(|name| format!("{name}: 1\r\n")).collect();
    relayed(&site.browser().send(with_trailers(names, &fields)).await, 200);
    let received = site.upstream.last();
    assert_eq!((received.header("trailer"), received.header("x-via")), ("X-Sum", "gate"));
    assert_eq!(received.trailers.0, [("x-sum".to_owned(), "1".to_owned())]);

    site.upstream.next(Answer::raw(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Internal, X-Frame\r\nTE: trailers\r\nX-Scripted-Upstream: yes\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Internal: 10.0.0.7\r\nX-Frame: yes\r\n\r\n",
    ));
    let (head, mut connection) = site.browser().open(Request::fetch("GET", "/x").header("TE", "trailers")).await;
    assert_eq!((head.headers.value("trailer"), head.headers.value("x-frame")), (Some("X-Sum"), Some("no")));
    assert!(!head.headers.contains("te"), "it means nothing in an answer");
    let (_, trailers) = connection.body(Framing::of_response(&head, "GET")).await.unwrap();
    assert_eq!(trailers.0, [("x-sum".to_owned(), "1".to_owned())]);
}

// ------------------------------------------------------------------------------------------ 1xx

// H1-22
#[tokio::test]
async fn early_hints_arrive_before_the_answer() {
    let (listener, site) = bare_site("").await;
    let mut client = site.browser().dispatch(Request::fetch("GET", "/x")).await;
    let (_, mut upstream) = accept(&listener).await;
    upstream
        .send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\nLatchgate-Reason: x\r\n\r\n")
        .await
        .unwrap();
    let hint = client.reply_head().await;
    assert_eq!(hint.first_line, "HTTP/1.1 103 Early Hints");
    assert_eq!(hint.headers.values("link"), ["</a.css>; rel=preload", "</b.js>; rel=preload"]);
    assert_eq!(hint.headers.0.len(), 2, "{hint:?}");
    upstream.send(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.reply_head().await.word(1), "102");
    let head = client.reply_head().await;
    assert_eq!(head.word(1), "200");
    assert_eq!(client.body(Framing::of_response(&head, "GET")).await.unwrap().0, b"ok");
}

// H1-22
#[tokio::test]
async fn early_hints_stay_between_the_answers_of_a_pipeline() {
    let (listener, site) = bare_site("").await;
    let mut client = site.connect().await;
    let ask = "GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n".repeat(3);
    client.send(ask.as_bytes()).await.unwrap();
    let serve = async {
        let (_, mut upstream) = accept(&listener).await;
        let body = vec![b'x'; 4 << 20];
        for _ in 0..3 {
            upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            upstream.send(&[head.as_bytes(), &body].concat()).await.unwrap();
            if !matches!(timeout(Duration::from_secs(5), upstream.head()).await, Ok(Ok(Some(_)))) {
                return;
            }
        }
    };
    let read = async {
        // The socket is full before anything is read.
        sleep(Duration::from_millis(300)).await;
        let mut hints = 0;
        for _ in 0..3 {
            let mut head = client.reply_head().await;
            while head.word(1) == "103" {
                hints += 1;
                head = client.reply_head().await;
            }
            assert_eq!(head.word(1), "200", "{head:?}");
            let (body, _) = client.body(Framing::of_response(&head, "GET")).await.unwrap();
            assert!(body.len() == 4 << 20 && body.iter().all(|&byte| byte == b'x'), "a hint inside an answer");
        }
        assert!(hints >= 1);
    };
    tokio::join!(serve, read);
}

// H1-22
#[tokio::test]
async fn h1_22_a_flood_of_early_hints_is_bounded_and_the_answer_arrives() {
    let site = open_site().await;
    let flood = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(200);
    let huge = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(20_000));
    for (hints, expected) in [(flood, 8), (huge, 0)] {
        site.upstream.next(Answer::raw(&format!("{hints}{OK}")));
        let mut client = site.browser().dispatch(Request::fetch("GET", "/x")).await;
        let mut told = 0;
        let mut head = client.reply_head().await;
        while head.word(1) == "103" {
            told += 1;
            head = client.reply_head().await;
        }
        assert_eq!(head.word(1), "200", "{head:?}");
        assert_eq!(told, expected);
    }
}

// H1-22
#[tokio::test]
async fn who_cannot_take_1xx_gets_none() {
    let site = open_site().await;
    site.upstream.answer(|_| Answer::raw(&format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}")));
    let mut old = site.connect().await;
    old.send(b"GET /x HTTP/1.0\r\nHost: gw.test\r\n\r\n").await.unwrap();
    assert_eq!(old.reply_head().await.word(1), "200");

    let request = http::Request::get("http://gw.test/x").body(Pieces::none()).unwrap();
    assert_eq!(http2(&site).await.send_request(request).await.unwrap().status(), 200);
}

// ---------------------------------------------------------------------------------- expectations

// H1-18
#[tokio::test]
async fn h1_18_a_refusal_before_the_body_comes_without_a_100() {
    let site = Site::protected().await;
    let mut client = site.browser().dispatch(expecting(Request::fetch("POST", "/x"))).await;
    assert_eq!(client.reply_head().await.word(1), "401");
    assert_eq!(site.upstream.hits(), 0);
}

// H1-18
#[tokio::test]
async fn h1_18_an_upstream_that_will_not_have_it_is_heard_and_nothing_follows() {
    let site = open_site().await;
    site.upstream.answer_early(|received| {
        assert_eq!(received.header("expect"), "100-continue");
        Some(Answer::status(417).body(""))
    });
    let mut client = site.browser().dispatch(expecting(Request::fetch("POST", "/x"))).await;
    let mut heads = vec![client.reply_head().await];
    while heads.last().unwrap().word(1) == "100" {
        heads.push(client.reply_head().await);
    }
    assert_eq!(heads.last().unwrap().word(1), "417");
    assert!(heads.len() <= 2, "{heads:?}");
    client.send(b"hello").await.ok();
    let rest = timeout(Duration::from_millis(300), client.raw()).await.unwrap_or_default();
    assert!(rest.is_empty(), "after the final answer: {}", String::from_utf8_lossy(&rest));
}

// H1-18
#[tokio::test]
async fn h1_18_one_100_for_a_request_that_is_sent_twice() {
    let site = Site::protected().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.signed_in().await;
    site.provider.revoke_access_tokens();
    let mut client = browser.dispatch(expecting(Request::fetch("POST", "/x"))).await;
    assert_eq!(client.reply_head().await.word(1), "100");
    client.send(b"hello").await.unwrap();
    assert_eq!(client.reply_head().await.word(1), "200");
    let received = site.upstream.received();
    assert_eq!((received.len(), site.provider.refreshes()), (2, 1));
    for attempt in received {
        assert_eq!((attempt.header("expect"), attempt.body.as_slice()), ("100-continue", &b"hello"[..]));
    }
}

// H1-18
#[tokio::test]
async fn h1_18_other_expectations_go_no_further() {
    let site = open_site().await;
    for (expect, body) in [("y 100-continue", "hello"), ("100-continue, 100-continue", "hello"), ("100-continue", "")] {
        let request = Request::fetch("POST", "/x").header("Expect", expect);
        let mut request = request.header("Content-Length", &body.len().to_string());
        request.body = body.into();
        relayed(&site.browser().send(request).await, 200);
        assert!(!site.upstream.last().headers.contains("expect"), "{expect}");
    }
}

// ------------------------------------------------------------------------------------------ gRPC

#[tokio::test]
async fn a_grpc_call_flows_both_ways_while_it_is_open() {
    let (listener, site) = bare_site("").await;
    let (pieces, body) = Pieces::new();
    let request = http::Request::post("http://gw.test/echo.Echo/Talk")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "5S")
        .body(body)
        .unwrap();
    let call = tokio::spawn(http2(&site).await.send_request(request));
    let (head, mut upstream) = accept(&listener).await;
    assert_eq!((head.headers.value("te"), head.headers.value("grpc-timeout")), (Some("trailers"), Some("5S")));
    let (mut framing, mut trailers) = (Framing::of_request(&head), Headers::default());
    pieces.send(Frame::data(Bytes::from_static(b"ping"))).unwrap();
    assert_eq!(upstream.data(&mut framing, &mut trailers).await.unwrap().unwrap(), b"ping");
    upstream
        .send(b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npong\r\n")
        .await
        .unwrap();
    let mut answer = call.await.unwrap().unwrap().into_body();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "pong");
    for (asked, said) in [("a", "b"), ("c", "d")] {
        pieces.send(Frame::data(Bytes::from_static(asked.as_bytes()))).unwrap();
        assert_eq!(upstream.data(&mut framing, &mut trailers).await.unwrap().unwrap(), asked.as_bytes());
        upstream.send(&chunk(said.as_bytes())).await.unwrap();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), said);
    }
    drop(pieces);
    upstream.send(b"0\r\ngrpc-status: 0\r\ngrpc-message: fine\r\n\r\n").await.unwrap();
    let trailers = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"0".parse().unwrap(), &"fine".parse().unwrap())
    );
}

#[tokio::test]
async fn a_grpc_answer_of_trailers_alone_keeps_its_status() {
    let site = open_site().await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\ngrpc-status: 5\r\ngrpc-message: none\r\n\r\n";
    site.upstream.next(Answer::raw(head));
    let request = http::Request::post("http://gw.test/x").header("content-type", "application/grpc");
    let reply = http2(&site).await.send_request(request.body(Pieces::none()).unwrap()).await.unwrap();
    assert_eq!((reply.status().as_u16(), &reply.headers()["grpc-status"]), (200, &"5".parse().unwrap()));
    assert!(reply.body().is_end_stream());
}

// RF-31
#[tokio::test]
async fn a_grpc_call_has_a_fresh_token_before_it_opens_and_is_not_sent_twice() {
    let site = Site::protected().await;
    site.upstream.accept_live_tokens(&site.provider);
    let browser = site.signed_in().await;
    let call = |cookie: String| {
        http::Request::post("http://gw.test/x")
            .header("content-type", "application/grpc+proto")
            .header("origin", "http://gw.test")
            .header("cookie", cookie)
            .body(Pieces::of(b"abc"))
            .unwrap()
    };
    let mut client = http2(&site).await;
    site.clock.advance(Duration::from_secs(3700));
    assert_eq!(client.send_request(call(browser.cookie_field())).await.unwrap().status(), 200);
    assert_eq!((site.provider.refreshes(), site.upstream.hits()), (1, 1));

    site.clock.advance(Duration::from_secs(10));
    site.provider.revoke_access_tokens();
    let refused = client.send_request(call(browser.cookie_field())).await.unwrap();
    assert_eq!(refused.status(), 401, "no redirect, which no client of gRPC follows");
    assert_eq!(site.upstream.hits(), 2);
    assert_eq!(client.send_request(call(browser.cookie_field())).await.unwrap().status(), 200);
    assert_eq!(site.provider.refreshes(), 2);
}

// ------------------------------------------------------------------------ WebSockets over HTTP/2

#[tokio::test]
async fn a_websocket_over_http2_becomes_an_upgrade() {
    let site = Site::protected().await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let browser = site.signed_in().await;
    let mut client = http2(&site).await;
    let request = websocket(&browser).header("sec-websocket-protocol", "chat").body(Pieces::none()).unwrap();
    let mut reply = client.send_request(request).await.unwrap();
    assert_eq!(reply.status(), 200);
    assert!(!reply.headers().contains_key("sec-websocket-accept"));
    let handshake = site.upstream.last();
    assert_eq!((handshake.method.as_str(), handshake.header("upgrade")), ("GET", "websocket"));
    assert_eq!((handshake.header("sec-websocket-version"), handshake.header("sec-websocket-key").len()), ("13", 24));
    assert_eq!(handshake.header("sec-websocket-protocol"), "chat");
    assert_eq!(site.provider.user_of(handshake.bearer().unwrap()).as_deref(), Some("ada"));

    let mut socket = TokioIo::new(hyper::upgrade::on(&mut reply).await.unwrap());
    for text in [b"\x81\x85\0\0\0\0hello".as_slice(), b"\x88\x82\0\0\0\0\x03\xe8"] {
        socket.write_all(text).await.unwrap();
        let mut echoed = vec![0; text.len()];
        timeout(PATIENCE, socket.read_exact(&mut echoed)).await.unwrap().unwrap();
        assert_eq!(echoed, text);
    }

    // LO-07
    assert_eq!(browser.fetch("POST", "/auth/logout?local=1").await.status, 200);
    let mut farewell = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut farewell)).await.unwrap().unwrap();
    assert_eq!(farewell, b"\x88\x02\x03\xf0", "1008, as over HTTP/1.1");
}

#[tokio::test]
async fn a_connection_of_http2_is_not_idle_while_a_websocket_is_open_on_it() {
    let site = Site::plan().limits("idle_timeout = \"1s\"").route("/*", "auth = \"public\"").start().await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let mut client = http2(&site).await;
    let request = websocket(&site.browser()).body(Pieces::none()).unwrap();
    let mut reply = client.send_request(request).await.unwrap();
    let mut socket = TokioIo::new(hyper::upgrade::on(&mut reply).await.unwrap());
    sleep(Duration::from_millis(2500)).await;
    let text = b"\x81\x85\0\0\0\0hello";
    socket.write_all(text).await.unwrap();
    let mut echoed = vec![0; text.len()];
    timeout(PATIENCE, socket.read_exact(&mut echoed)).await.unwrap().unwrap();
    drop(socket);
    timeout(PATIENCE, async {
        while client.ready().await.is_ok() {
            sleep(Duration::from_millis(50)).await
        }
    })
    .await
    .expect("and idle again when that is closed");
}

// H2-14, WB-10
#[tokio::test]
async fn h2_14_only_a_websocket_of_our_own_pages_is_connected() {
    let site = Site::plan().route("/open/*", "auth = \"public\"").route("/*", "auth = true").start().await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let browser = site.signed_in().await;
    let mut client = http2(&site).await;
    let mut status = async |request: http::request::Builder| {
        client.send_request(request.body(Pieces::none()).unwrap()).await.unwrap().status().as_u16()
    };
    let extended = |uri: &str, protocol: &'static str| {
        http::Request::connect(uri.to_owned())
            .extension(Protocol::from_static(protocol))
            .header("cookie", browser.cookie_field())
    };
    let uri = "http://gw.test/socket";
    assert_eq!(status(extended(uri, "websocket").header("origin", "http://evil.test")).await, 403);
    assert_eq!(status(extended(uri, "websocket")).await, 403, "a browser says where it comes from");
    assert_eq!(status(extended(uri, "connect-udp").header("origin", "http://gw.test")).await, 405);
    assert_eq!(status(http::Request::connect("internal.test:443")).await, 405);
    assert_eq!(status(extended("http://gw.test/auth/session", "websocket")).await, 405, "nobody would be at the end");
    let signed_out = http::Request::connect(uri).extension(Protocol::from_static("websocket"));
    assert_eq!(status(signed_out.header("origin", "http://gw.test")).await, 401);
    assert_eq!(site.upstream.hits(), 0);
    let open = http::Request::connect("http://gw.test/open/x").extension(Protocol::from_static("websocket"));
    assert_eq!(status(open).await, 200);
}

// H1-19
#[tokio::test]
async fn h1_19_over_http2_only_an_upgrade_that_was_granted_is_a_tunnel() {
    let site = Site::protected().await;
    let browser = site.signed_in().await;
    let mut client = http2(&site).await;
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    for (answer, expected) in [
        (Answer::status(404), 404),
        (Answer::status(200), 502),
        (Answer::raw(wrong), 502),
        (Answer::raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), 502),
    ] {
        site.upstream.next(answer);
        let reply = client.send_request(websocket(&browser).body(Pieces::none()).unwrap()).await.unwrap();
        assert_eq!(reply.status(), expected);
    }
}

// ------------------------------------------------------------------------------------- tunnels

// RL-15
#[tokio::test]
async fn rl_15_close_codes_propagate_both_ways() {
    let (listener, site) = bare_site("").await;
    for (client_first, code) in [(true, 4001_u16), (false, 4002)] {
        let (mut client, mut upstream) = tunnel(&listener, &site).await;
        let [high, low] = code.to_be_bytes();
        let (close, answer) = (vec![0x88, 0x82, 0, 0, 0, 0, high, low], vec![0x88, 2, high, low]);
        let (first, second) = if client_first { (&mut client, &mut upstream) } else { (&mut upstream, &mut client) };
        first.send(&close).await.unwrap();
        assert_eq!(second.raw().await, close);
        second.send(&answer).await.unwrap();
        assert_eq!(first.raw().await, answer);
        drop(upstream);
        assert_eq!(client.raw().await, b"", "the end is passed on");
    }
}

// RL-15
#[tokio::test]
async fn rl_15_a_websocket_is_closed_when_neither_side_says_anything_and_not_before() {
    let (listener, site) = bare_site("websocket_idle_timeout = \"1s\"").await;
    let (mut client, mut upstream) = tunnel(&listener, &site).await;
    // One side is enough to keep it.
    for number in 0..8 {
        sleep(Duration::from_millis(250)).await;
        let (from, to) = if number < 4 { (&mut upstream, &mut client) } else { (&mut client, &mut upstream) };
        from.send(b"\x89\0").await.unwrap();
        assert_eq!(to.raw().await, b"\x89\0");
    }
    assert_eq!(client.raw().await, [0x88, 2, 0x03, 0xe9], "1001");
    assert_eq!(client.raw().await, b"");
    assert_eq!(upstream.raw().await, b"");
}

// RL-23
#[tokio::test]
async fn rl_23_half_a_tunnel_stays_open_while_the_other_half_has_something_to_say() {
    let (listener, site) = bare_site("").await;
    for client_first in [true, false] {
        let (mut client, mut upstream) = tunnel(&listener, &site).await;
        let (first, second) = if client_first { (&mut client, &mut upstream) } else { (&mut upstream, &mut client) };
        first.send(b"last words").await.unwrap();
        first.stream.shutdown().await.unwrap();
        assert_eq!(second.raw().await, b"last words");
        assert_eq!(second.raw().await, b"", "FIN");
        second.send(b"still here").await.unwrap();
        assert_eq!(first.raw().await, b"still here");
        second.stream.shutdown().await.unwrap();
        assert_eq!(first.raw().await, b"");
    }
}

// RL-23
#[tokio::test]
async fn rl_23_a_client_that_is_gone_takes_the_upstream_s_connection_along() {
    let (listener, site) = bare_site("").await;
    let (client, mut upstream) = tunnel(&listener, &site).await;
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(upstream.raw().await, b"");
}

// ------------------------------------------------------------------------------------ streaming

// RL-16
#[tokio::test]
async fn rl_16_events_of_one_byte_are_not_held_back() {
    let site = open_site().await;
    let (steps, answer) = Answer::steps();
    site.upstream.next(answer.header("Content-Type", "text/event-stream"));
    let (head, mut connection) = site.browser().open(Request::fetch("GET", "/events")).await;
    let (mut framing, mut trailers) = (Framing::of_response(&head, "GET"), Headers::default());
    for byte in b"data: 1\n\n" {
        steps.send(vec![*byte]).unwrap();
        let data = timeout(PATIENCE, connection.data(&mut framing, &mut trailers)).await.expect("held back");
        assert_eq!(data.unwrap(), Some(vec![*byte]));
    }
}

// RL-14
#[tokio::test]
async fn rl_14_a_stream_of_http2_takes_no_more_than_its_client_reads() {
    const MIB: u64 = 1024 * 1024;
    let site = open_site().await;
    site.upstream.next(Answer::zeros(1024 * MIB));
    let mut client = http2(&site).await;
    let request = http::Request::get("http://gw.test/big").body(Pieces::none()).unwrap();
    let unread = client.send_request(request).await.unwrap();
    let mut seen = 0;
    loop {
        sleep(Duration::from_millis(400)).await;
        let now = site.upstream.zeros_written();
        if now > 0 && now == seen {
            break;
        }
        seen = now;
    }
    assert!(seen < 24 * MIB, "{} MiB were taken for a client that reads nothing", seen / MIB);
    drop(unread);

    site.upstream.next(Answer::zeros(64 * MIB));
    let request = http::Request::get("http://gw.test/big").body(Pieces::none()).unwrap();
    let mut body = client.send_request(request).await.unwrap().into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().into_data().unwrap().len() as u64;
    }
    assert_eq!(length, 64 * MIB);

    let (pieces, body) = Pieces::new();
    let upload = tokio::spawn(client.send_request(http::Request::post("http://gw.test/big").body(body).unwrap()));
    for _ in 0..64 {
        pieces.send(Frame::data(Bytes::from(vec![7; 1 << 20]))).unwrap();
    }
    drop(pieces);
    assert_eq!(upload.await.unwrap().unwrap().status(), 200);
    assert_eq!(site.upstream.last().body.len(), 64 << 20);
}

// ---------------------------------------------------------------------------------- transparency

// RL-25
#[tokio::test]
async fn rl_25_a_request_arrives_as_it_was_sent() {
    let site = open_site().await;
    for (head, body) in [
        ("GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n", ""),
        ("GET /x?a=%7e&b=%2F&&c HTTP/1.1\r\nHost: gw.test\r\nAccept: */*\r\n\r\n", ""),
        ("HEAD /x HTTP/1.1\r\nHost: gw.test\r\n\r\n", ""),
        ("OPTIONS /x HTTP/1.1\r\nHost: gw.test\r\n\r\n", ""),
        ("DELETE /x HTTP/1.1\r\nHost: gw.test\r\n\r\n", ""),
        ("PROPFIND /x HTTP/1.1\r\nHost: gw.test\r\nDepth: 1\r\n\r\n", ""),
        ("POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 0\r\n\r\n", ""),
        ("PUT /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 3\r\nContent-Type: a/b\r\n\r\n", "abc"),
        ("POST /x HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        ("GET /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 3\r\n\r\n", "abc"),
        ("GET /x HTTP/1.1\r\nHost: gw.test\r\nX-A: 1\r\nX-B: 2\r\nX-A: 3\r\nx-a:  4 \r\nX-Empty:\r\n\r\n", ""),
        ("GET /x HTTP/1.1\r\nHost: gw.test\r\nX-Latin: caf\u{e9}\r\nCookie: a=1; b=2\r\nCookie: c=3\r\n\r\n", ""),
        (
            "GET /x HTTP/1.1\r\nHost: gw.test\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nRange: bytes=0-1\r\nIf-None-Match: \"x\"\r\n\r\n",
            "",
        ),
        ("GET /x HTTP/1.0\r\nHost: gw.test\r\n\r\n", ""),
    ] {
        let bytes = [crate::harness::wire::bytes_of(head), body.as_bytes().to_vec()].concat();
        let mut seen = Vec::new();
        for address in [site.upstream.address(), site.gateway.address] {
            let mut connection = Connection::open(address).await;
            connection.send(&bytes).await.unwrap();
            assert_eq!(connection.reply(head.split(' ').next().unwrap()).await.unwrap().status, 200, "{head}");
            let received = site.upstream.last();
            let headers = sorted(&received.headers, &ADDED_TO_REQUESTS);
            seen.push((received.method, received.target, headers, received.body, received.trailers));
        }
        assert_eq!(seen[1], seen[0], "{head}");
    }
}

// RL-25
#[tokio::test]
async fn rl_25_an_answer_arrives_as_it_was_sent() {
    let site = open_site().await;
    let date = "Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n";
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK\r\n{date}Content-Length: 2\r\n\r\nok".to_owned()),
        ("GET", "HTTP/1.1 200 OK\r\n{date}Content-Length: 0\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 200 OK\r\n{date}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 200 OK\r\n{date}\r\nuntil the end".to_owned()),
        ("GET", "HTTP/1.0 200 OK\r\n{date}\r\nuntil the end".to_owned()),
        ("GET", "HTTP/1.0 200 OK\r\n{date}Content-Length: 2\r\n\r\nok".to_owned()),
        ("HEAD", "HTTP/1.1 200 OK\r\n{date}Content-Length: 1234\r\n\r\n".to_owned()),
        ("HEAD", "HTTP/1.1 200 OK\r\n{date}ETag: \"x\"\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 204 No Content\r\n{date}ETag: \"x\"\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 304 Not Modified\r\n{date}ETag: \"x\"\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 304 Not Modified\r\n{date}Content-Length: 1234\r\nETag: \"x\"\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 206 Partial Content\r\n{date}Content-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nok".to_owned()),
        ("GET", "HTTP/1.1 200 OK\r\n{date}Set-Cookie: a=1\r\nX-A: 1\r\nSet-Cookie: b=2\r\nx-a: 2\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 200 OK\r\n{date}X-Latin: caf\u{e9}\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\u{8b}\x00".to_owned()),
        ("GET", "HTTP/1.1 418 I'm a teapot\r\n{date}Content-Length: 0\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 599 Odd\r\n{date}Content-Length: 0\r\n\r\n".to_owned()),
        ("POST", "HTTP/1.1 201 Created\r\n{date}Location: /y\r\nContent-Length: 0\r\n\r\n".to_owned()),
    ] {
        let answer = answer.replace("{date}", date);
        for version in ["1.1", "1.0"] {
            let mut seen = Vec::new();
            for address in [site.upstream.address(), site.gateway.address] {
                site.upstream.next(Answer::raw(&answer));
                let mut connection = Connection::open(address).await;
                let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
                let request = format!("{method} /x HTTP/{version}\r\nHost: gw.test\r\n{length}\r\n");
                connection.send(request.as_bytes()).await.unwrap();
                let reply = connection.reply(method).await.unwrap();
                let chunked = reply.headers.contains("transfer-encoding");
                assert!(!(chunked && version == "1.0" && address == site.gateway.address), "HTTP/1.0 has no chunks");
                // hyper sends no Content-Length with a 304, where it is but a hint to caches (RFC 9110 §8.6).
                // A chunked body that came whole with its head has a length by then (RFC 9112 §6.3).
                let own: &[&str] = match reply.status == 304 || answer.contains("chunked") {
                    true => &[FRAMING[0], FRAMING[1], "content-length"],
                    false => &FRAMING,
                };
                seen.push((reply.status, sorted(&reply.headers, own), reply.body));
            }
            assert_eq!(seen[1], seen[0], "HTTP/{version} {method}: {answer}");
        }
    }
}

// RL-25
#[tokio::test]
async fn rl_25_an_answer_without_a_date_gets_one() {
    let site = open_site().await;
    site.upstream.next(Answer::raw(OK));
    assert!(site.browser().fetch("GET", "/x").await.headers.contains("date"), "RFC 9110 §6.6.1");
}

// ------------------------------------------------------------------- malformed HTTP/2 (H2-09 to H2-12)

// H2-09
#[tokio::test]
async fn h2_09_nothing_that_http1_would_read_otherwise_gets_through() {
    let paths: [&[u8]; 9] =
        [b"/a b", b"/a\r\nX: 1", b"/a\nX", b"/a\0", b"", b"a", b"*", b"/a\x7f", b"/x HTTP/1.1\r\nHost: evil\r\n\r\n"];
    for path in paths {
        refused(&[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"gw.test"), (b":path", path)], b"")
            .await;
    }
    for method in [&b"GE T"[..], b"GET\r\nX: 1", b"GET /x HTTP/1.1", b"", b"G\0T"] {
        refused(&[(b":method", method), (b":scheme", b"http"), (b":authority", b"gw.test"), (b":path", b"/x")], b"")
            .await;
    }
    for authority in [&b"gw test"[..], b"gw.test\r\nX: 1", b"gw.test\0", b"a@gw.test", b"gw.test/x", b"gw.test:x", b""]
    {
        refused(&[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", authority), (b":path", b"/x")], b"")
            .await;
    }
    for name in [&b"X-Upper"[..], b"", b"x y", b"x:y", b"x\r\ny", b"x\0", b"x\n", b" x", b"x ", b"\xff"] {
        refused(&with(&[(name, b"1")]), b"").await;
    }
    for value in [&b"1\r\nX-Smuggled: 1"[..], b"1\n", b"\r", b"1\0", b"a\x01"] {
        refused(&with(&[(b"x-a", value)]), b"").await;
    }
}

// H2-10
#[tokio::test]
async fn h2_10_fields_of_a_connection_have_no_place() {
    for (name, value) in [
        (&b"transfer-encoding"[..], &b"chunked"[..]),
        (b"transfer-encoding", b"identity"),
        (b"connection", b"close"),
        (b"connection", b"x-user"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
    ] {
        refused(&with(&[(name, value)]), b"").await;
        refused(&with(&[(name, value), (b"content-length", b"3")]), b"abc").await;
    }
}

// H2-11
#[tokio::test]
async fn h2_11_a_length_that_is_not_the_body_s_reaches_nobody_as_a_request() {
    for (lengths, body) in [
        (&[&b"5"[..]][..], &b"abc"[..]),
        (&[b"2"], b"abc"),
        (&[b"0"], b"abc"),
        (&[b"5"], b""),
        (&[b"3", b"5"], b"abc"),
        (&[b"5", b"3"], b"abc"),
        (&[b"3", b"3"], b"abc"),
        (&[b"3, 3"], b"abc"),
        (&[b"+3"], b"abc"),
        (&[b"-3"], b"abc"),
        (&[b"0x3"], b"abc"),
        (&[b""], b"abc"),
        (&[b"18446744073709551619"], b"abc"),
    ] {
        let fields: Vec<Field<'_>> = lengths.iter().map(|length| (&b"content-length"[..], *length)).collect();
        refused(&with(&fields), body).await;
    }
}

// H2-12
#[tokio::test]
async fn h2_12_one_set_of_pseudo_fields_and_one_authority() {
    const METHOD: Field<'_> = (b":method", b"GET");
    const SCHEME: Field<'_> = (b":scheme", b"http");
    const AUTHORITY: Field<'_> = (b":authority", b"gw.test");
    const PATH: Field<'_> = (b":path", b"/x");
    for fields in [
        &[SCHEME, AUTHORITY, PATH][..],
        &[METHOD, AUTHORITY, PATH],
        &[METHOD, SCHEME, AUTHORITY],
        &[METHOD, SCHEME, PATH],
        &[METHOD, METHOD, SCHEME, AUTHORITY, PATH],
        &[METHOD, SCHEME, SCHEME, AUTHORITY, PATH],
        &[METHOD, SCHEME, AUTHORITY, AUTHORITY, PATH],
        &[METHOD, SCHEME, AUTHORITY, PATH, (b":path", b"/y")],
        &[METHOD, SCHEME, AUTHORITY, (b"x-a", b"1"), PATH],
        &[METHOD, SCHEME, AUTHORITY, PATH, (b":status", b"200")],
        &[METHOD, SCHEME, AUTHORITY, PATH, (b":odd", b"1")],
        &[METHOD, SCHEME, AUTHORITY, PATH, (b":protocol", b"websocket")],
        &[METHOD, SCHEME, AUTHORITY, PATH, (b"host", b"evil.test")],
        &[METHOD, SCHEME, PATH, (b"host", b"gw.test"), (b"host", b"evil.test")],
        &[METHOD, (b":scheme", b"ht tp"), AUTHORITY, PATH],
        &[(b":method", b"CONNECT"), AUTHORITY, PATH],
        &[(b":method", b"CONNECT"), AUTHORITY, (b":protocol", b"websocket")],
    ] {
        refused(fields, b"").await;
    }
}

// H2-09 to H2-12: what is refused is refused for what is wrong with it.
#[tokio::test]
async fn well_formed_frames_are_answered() {
    let site = open_site().await;
    let mut frames = Frames::open(site.gateway.address).await;
    frames.headers(1, &with(&[(b"x-a", b"1"), (b"te", b"trailers"), (b"host", b"gw.test")]), true).await;
    assert_eq!(frames.fate(1).await, Fate::Answered(200));
    frames.headers(3, &with(&[(b"content-length", b"3")]), false).await;
    frames.data(3, b"abc", true).await;
    assert_eq!(frames.fate(3).await, Fate::Answered(200));
    assert_eq!(site.upstream.last().body, b"abc");
    let other = open_site().await;
    let mut frames = Frames::open(other.gateway.address).await;
    frames.headers(1, &[(b":method", b"CONNECT"), (b":authority", b"gw.test:443")], false).await;
    assert_eq!(frames.fate(1).await, Fate::Answered(405));
}

// ---------------------------------------------------------------------------------- the stage

/// Sends it on a connection of its own: no request arrives upstream.
async fn refused(fields: &[Field<'_>], body: &[u8]) {
    let site = open_site().await;
    let mut frames = Frames::open(site.gateway.address).await;
    frames.headers(1, fields, body.is_empty()).await;
    if !body.is_empty() {
        frames.data(1, body, true).await;
    }
    let fate = frames.fate(1).await;
    let shown: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())).collect();
    let is_refusal = matches!(fate, Fate::Reset(_) | Fate::Closed(_) | Fate::Answered(400 | 405));
    assert!(is_refusal, "{fate:?} {shown:?} {}", body.escape_ascii());
    assert_eq!(site.upstream.hits(), 0, "{fate:?} {shown:?}");
}

/// A good request for `/x`, and these.
fn with<'a>(fields: &[Field<'a>]) -> Vec<Field<'a>> {
    let good: [Field<'_>; 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"gw.test"), (b":path", b"/x")];
    [&good, fields].concat()
}

async fn open_site() -> Site {
    Site::plan().route("/*", "auth = \"public\"").start().await
}

/// A site whose upstream the test speaks for itself.
async fn bare_site(limits: &str) -> (TcpListener, Site) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("url = \"http://{}\"", listener.local_addr().unwrap());
    let site = Site::plan().app(&url).limits(limits).route("/*", "auth = \"public\"").start().await;
    (listener, site)
}

/// The next request that comes to the upstream.
async fn accept(listener: &TcpListener) -> (Head, Connection) {
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("nobody comes").unwrap();
    let mut connection = Connection::over(stream);
    let head = connection.head().await.unwrap().expect("a request");
    (head, connection)
}

/// Both ends of a WebSocket over HTTP/1.1.
async fn tunnel(listener: &TcpListener, site: &Site) -> (Connection, Connection) {
    let upgrade = Request::new("GET", "/socket")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut client = site.browser().dispatch(upgrade).await;
    let (head, mut upstream) = accept(listener).await;
    let headers = Headers(vec![
        ("Connection".to_owned(), "Upgrade".to_owned()),
        ("Upgrade".to_owned(), "websocket".to_owned()),
        ("Sec-WebSocket-Accept".to_owned(), websocket_accept(head.headers.value("sec-websocket-key").unwrap())),
    ]);
    upstream.send(&message("HTTP/1.1 101 Switching Protocols", &headers, b"")).await.unwrap();
    assert_eq!(client.reply_head().await.word(1), "101");
    (client, upstream)
}

/// Extended CONNECT (RFC 8441 §4), as a browser sends it.
fn websocket(browser: &Browser) -> http::request::Builder {
    http::Request::connect("http://gw.test/socket")
        .extension(Protocol::from_static("websocket"))
        .header("origin", "http://gw.test")
        .header("sec-websocket-version", "13")
        .header("cookie", browser.cookie_field())
}

async fn http2(site: &Site) -> SendRequest<Pieces> {
    let stream = TcpStream::connect(site.gateway.address).await.unwrap();
    let (mut client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // Extended CONNECT may be used when the server's SETTINGS are there.
    let request = http::Request::get("http://gw.test/auth/session").body(Pieces::none()).unwrap();
    client.send_request(request).await.unwrap();
    client
}

/// A body that comes as the test sends it.
struct Pieces(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl Pieces {
    fn new() -> (mpsc::UnboundedSender<Frame<Bytes>>, Pieces) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Pieces(receiver))
    }

    fn none() -> Pieces {
        Pieces::new().1
    }

    fn of(bytes: &'static [u8]) -> Pieces {
        let (sender, pieces) = Pieces::new();
        sender.send(Frame::data(Bytes::from_static(bytes))).unwrap();
        pieces
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

fn header_map(fields: &[(&'static str, &'static str)]) -> http::HeaderMap {
    fields.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

fn with_trailers(announced: &str, trailers: &str) -> Request {
    let mut request = Request::fetch("POST", "/x").header("Transfer-Encoding", "chunked").header("Trailer", announced);
    request.body = chunk(b"abc");
    request.body.extend(format!("0\r\n{trailers}\r\n").bytes());
    request
}

fn expecting(request: Request) -> Request {
    request.header("Expect", "100-continue").header("Content-Length", "5")
}

/// By name, in lower case; fields of one name keep their order.
fn sorted(headers: &Headers, without: &[&str]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> =
        headers.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    fields.retain(|(name, _)| !without.contains(&name.as_str()));
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

/// What every upstream learns besides (docs, "What the upstream gets").
const ADDED_TO_REQUESTS: [&str; 6] =
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-request-id", "traceparent"];

/// Each hop's own.
const FRAMING: [&str; 2] = ["transfer-encoding", "connection"];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Scripted-Upstream: yes\r\n\r\nok";
