//! What stands behind the targets: an upstream that says the same 200 bytes to everybody, and the
//! three endpoints of an OAuth 2.0 provider that a sign-in needs.
//!
//! It runs in a process of its own, beside wrk, and must not be what limits a target: answers are
//! made beforehand, and no header is looked at.

use crate::Failure;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers with the request head it got.
pub const ECHO: &str = "/echo";
/// Answers with the number of requests under [`PLAIN`] and [`BEARER`] so far.
pub const COUNT: &str = "/count";
/// The route without sign-in.
pub const PLAIN: &str = "/plain";
/// The route that needs one.
pub const BEARER: &str = "/bearer";
/// The length of an access token: a JWT with a dozen claims and an RSA signature.
pub const TOKEN_LENGTH: usize = 900;

/// Says its address on standard output, and serves until it is ended.
pub fn serve() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let canned = canned_answer();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A connection that breaks is its client's affair.
            tokio::spawn(async move { answer_all(stream, canned).await.ok() });
        }
    })
}

async fn answer_all(mut stream: TcpStream, canned: &[u8]) -> Result<(), std::io::Error> {
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        buffer.clear();
        let length = loop {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            // Nobody here pipelines, so a request ends where the bytes do.
            if let Some(length) = whole_request(&buffer) {
                break length;
            }
        };
        let request = &buffer[..length];
        if starts_with(request, PLAIN) || starts_with(request, BEARER) {
            SERVED.fetch_add(1, Ordering::Relaxed);
            if !request_target(request).ends_with(ECHO.as_bytes()) {
                stream.write_all(canned).await?;
                continue;
            }
        }
        stream.write_all(&made_answer(request)).await?;
    }
}

/// The length of the request that `bytes` begins with, once all of it is there.
fn whole_request(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"GET ") {
        return bytes.ends_with(HEAD_END).then_some(bytes.len());
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    (body.len() >= length.unwrap_or(0)).then_some(bytes.len())
}

fn made_answer(request: &[u8]) -> Vec<u8> {
    let target = request_target(request);
    if target.ends_with(ECHO.as_bytes()) {
        answer("text/plain", &String::from_utf8_lossy(request))
    } else if target == COUNT.as_bytes() {
        answer("text/plain", &SERVED.load(Ordering::Relaxed).to_string())
    } else if target == b"/token" {
        let number = ISSUED.fetch_add(1, Ordering::Relaxed);
        let token = format!("{number:a>TOKEN_LENGTH$}");
        let json = format!(
            r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":86400,"refresh_token":"rt-{number}"}}"#
        );
        answer("application/json", &json)
    } else if target == b"/userinfo" {
        let number = ISSUED.load(Ordering::Relaxed);
        answer(
            "application/json",
            &format!(r#"{{"sub":"user-{number}","name":"Ada Example","email":"ada@example.com"}}"#),
        )
    } else {
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()
    }
}

fn answer(content_type: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

fn canned_answer() -> &'static [u8] {
    let body = format!(r#"{{"items":"{}"}}"#, "x".repeat(188));
    let head = "HTTP/1.1 200 OK\r\n\
        Date: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
        Server: upstream\r\n\
        Content-Type: application/json; charset=utf-8\r\n\
        Cache-Control: no-cache\r\n\
        ETag: \"5f1c-18b2f0a4c10\"\r\n\
        Vary: Accept-Encoding\r\n\
        X-Content-Type-Options: nosniff\r\n\
        Content-Length: 200\r\n\r\n";
    format!("{head}{body}").into_bytes().leak()
}

fn starts_with(request: &[u8], path: &str) -> bool {
    request.strip_prefix(b"GET ").is_some_and(|rest| rest.starts_with(path.as_bytes()))
}

fn request_target(request: &[u8]) -> &[u8] {
    request.split(|&byte| byte == b' ').nth(1).unwrap_or_default()
}

static SERVED: AtomicU64 = AtomicU64::new(0);
static ISSUED: AtomicU64 = AtomicU64::new(0);
const HEAD_END: &[u8] = b"\r\n\r\n";
