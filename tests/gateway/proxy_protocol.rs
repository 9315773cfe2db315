//! `server.proxy_protocol`: who a connection is from, as a load balancer tells it.

use crate::harness::{Connection, Plan, Site};
use crate::tls::{Papers, ask, handshake, http2};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

#[tokio::test]
async fn the_source_is_the_client() {
    let site = site("127.0.0.1").start().await;
    let mapped = v2(0x21, 0x21, &[&ipv6_mapped([203, 0, 113, 7])[..], &[0; 20]].concat());
    for (header, client) in [
        (v1("TCP4 203.0.113.7 192.0.2.1 56324 443"), "203.0.113.7"),
        (v1("TCP6 2001:db8::7 2001:db8::1 56324 443"), "2001:db8::7"),
        (v1("TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 1 2"), "203.0.113.7"),
        (v2(0x21, 0x11, &[203, 0, 113, 7, 192, 0, 2, 1, 0xdc, 4, 1, 0xbb]), "203.0.113.7"),
        (mapped, "203.0.113.7"),
        (v2(0x21, 0x11, &[&[203, 0, 113, 7, 192, 0, 2, 1, 0, 1, 0, 2][..], &[4; 4000]].concat()), "203.0.113.7"),
        (v1("UNKNOWN"), "127.0.0.1"),
        (v1("UNKNOWN ff::1 whatever else"), "127.0.0.1"),
        (v2(0x20, 0x00, &[]), "127.0.0.1"),
        (v2(0x20, 0x11, &[203, 0, 113, 7, 192, 0, 2, 1, 0, 1, 0, 2]), "127.0.0.1"),
        (v2(0x21, 0x00, &[]), "127.0.0.1"),
        (v2(0x21, 0x31, &[0; 216]), "127.0.0.1"),
    ] {
        // at once with the request, and as slowly as a network may bring it
        for pieces in [usize::MAX, 1] {
            let mut connection = site.connect().await;
            let bytes = [&header[..], REQUEST].concat();
            for piece in bytes.chunks(pieces.max(bytes.len() / 100)) {
                connection.send(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert_eq!(connection.reply("GET").await.unwrap().status, 200, "{header:?}");
            assert_eq!(site.upstream.last().header("x-forwarded-for"), client, "{header:?}");
        }
    }
}

#[tokio::test]
async fn forwarded_headers_count_by_the_address_in_the_header() {
    let site = site("127.0.0.1").start().await;
    for (header, seen) in [
        (v1("TCP4 203.0.113.7 192.0.2.1 56324 443"), "203.0.113.7"),
        (v1("TCP4 127.0.0.1 192.0.2.1 56324 443"), "198.51.100.9, 127.0.0.1"),
        (v1("UNKNOWN"), "198.51.100.9, 127.0.0.1"),
    ] {
        let mut connection = site.connect().await;
        connection.send(&header).await.unwrap();
        let request = b"GET /public HTTP/1.1\r\nHost: gw.test\r\nX-Forwarded-For: 198.51.100.9\r\n\r\n";
        connection.send(request).await.unwrap();
        assert_eq!(connection.reply("GET").await.unwrap().status, 200);
        assert_eq!(site.upstream.last().header("x-forwarded-for"), seen);
    }
}

#[tokio::test]
async fn fw_03_only_a_trusted_proxy_speaks() {
    let site = site("10.0.0.1").start().await;
    for bytes in [[&v1("TCP4 10.0.0.1 192.0.2.1 1 2"), REQUEST].concat(), REQUEST.to_vec(), Vec::new()] {
        let mut connection = site.connect().await;
        let _ = connection.send(&bytes).await;
        assert!(connection.raw().await.is_empty());
    }
    assert_eq!(site.upstream.hits(), 0);
}

#[tokio::test]
async fn fw_03_what_cannot_be_read_is_closed() {
    let site = site("127.0.0.1").limits("header_timeout = \"10s\"").start().await;
    let addresses = [203, 0, 113, 7, 192, 0, 2, 1, 0, 1, 0, 2];
    let long = format!("UNKNOWN {}", "x".repeat(100));
    let mut cases: Vec<Vec<u8>> = vec![
        REQUEST.to_vec(),
        v2(0x21, 0x11, &addresses[..11]),
        v2(0x21, 0x21, &[0; 35]),
        v2(0x21, 0x12, &addresses),
        v2(0x21, 0x41, &addresses),
        v2(0x22, 0x11, &addresses),
        v2(0x11, 0x11, &addresses),
        v2(0x21, 0x11, &[0; 65_535]),
        v2(0x20, 0x00, &[0; 5_000]),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        b"proxy TCP4 203.0.113.7 192.0.2.1 1 2\r\n".to_vec(),
    ];
    for line in [
        "TCP4 203.0.113.7 192.0.2.1 1",
        "TCP4 203.0.113.7 192.0.2.1 1 2 3",
        "TCP4  203.0.113.7 192.0.2.1 1 2",
        "TCP4 203.0.113.7 192.0.2.1 1 65536",
        "TCP4 203.0.113.7 192.0.2.1 +1 2",
        "TCP4 203.0.113.07 192.0.2.1 1 2",
        "TCP4 2001:db8::7 2001:db8::1 1 2",
        "TCP6 203.0.113.7 192.0.2.1 1 2",
        "TCP4 203.0.113.7\0 192.0.2.1 1 2",
        "TCP5 203.0.113.7 192.0.2.1 1 2",
        "",
        &long,
    ] {
        cases.push(v1(line));
    }
    for header in &cases {
        let mut connection = site.connect().await;
        let _ = connection.send(&[&header[..], REQUEST].concat()).await;
        assert!(connection.raw().await.is_empty(), "{:?}", String::from_utf8_lossy(&header[..header.len().min(80)]));
    }
    assert_eq!(site.upstream.hits(), 0);
}

// FW-03, RL-10: within `limits.header_timeout`
#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let site = site("127.0.0.1").limits("header_timeout = \"500ms\"").start().await;
    for bytes in [&b""[..], b"PROXY TCP4 203", &v2(0x21, 0x11, &[0; 12])[..20]] {
        let mut connection = TcpStream::connect(site.gateway.address).await.unwrap();
        connection.write_all(bytes).await.unwrap();
        let begun = site.clock.mono();
        assert_eq!(connection.read(&mut [0; 8]).await.unwrap_or(0), 0);
        let taken = site.clock.mono().since(begun);
        assert!((450..2000).contains(&taken.as_millis()), "{taken:?}");
    }
}

#[tokio::test]
async fn it_comes_before_tls() {
    let papers = Papers::new();
    let lines =
        "certificate = \"server.pem\"\nprivate_key = \"server.key\"".replace("server.", &papers.path("server."));
    let server = format!("proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\n[server.tls]\n{lines}");
    let site =
        Site::plan().external_url("https://gw.test").server(&server).route("/public", "auth = false").start().await;
    for header in [v1("TCP4 203.0.113.7 192.0.2.1 1 2"), v2(0x21, 0x11, &[203, 0, 113, 7, 192, 0, 2, 1, 0, 1, 0, 2])] {
        let open = async |alpn: &[&str]| {
            let mut stream = TcpStream::connect(site.gateway.address).await.unwrap();
            stream.write_all(&header).await.unwrap();
            handshake(stream, "gw.test", Arc::new(papers.client(alpn))).await.unwrap()
        };
        assert_eq!(ask(open(&[]).await, "/public", "gw.test").await.unwrap().status, 200);
        assert_eq!(http2(open(&["h2"]).await, "https://gw.test/public").await, 200);
        assert_eq!(site.upstream.last().header("x-forwarded-for"), "203.0.113.7");
    }
    let bare = TcpStream::connect(site.gateway.address).await.unwrap();
    assert!(handshake(bare, "gw.test", Arc::new(papers.client(&[]))).await.is_err(), "no header, no handshake");
}

#[tokio::test]
async fn http2_with_prior_knowledge_follows_it() {
    let site = site("127.0.0.1").start().await;
    let mut connection: Connection = site.connect().await;
    connection.send(&v1("TCP4 203.0.113.7 192.0.2.1 1 2")).await.unwrap();
    sleep(Duration::from_millis(20)).await;
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let settings = connection.raw().await;
    assert_eq!(settings.get(3), Some(&4), "a SETTINGS frame: {settings:?}");
}

fn site(trusted: &str) -> Plan {
    let server = format!("proxy_protocol = true\ntrusted_proxies = [\"{trusted}\"]");
    Site::plan().server(&server).route("/public", "auth = false")
}

fn v1(words: &str) -> Vec<u8> {
    format!("PROXY {words}\r\n").into_bytes()
}

fn v2(version_and_command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[version_and_command, family][..], &length, addresses].concat()
}

fn ipv6_mapped(address: [u8; 4]) -> [u8; 16] {
    std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets()
}

const REQUEST: &[u8] = b"GET /public HTTP/1.1\r\nHost: gw.test\r\n\r\n";
