//! What stands behind the targets: an upstream that gives everybody the same answers, and a small OpenID provider
//! ([`Provider`]).
//!
//! It runs in a process of its own, beside wrk, and must not be what limits a target: answers are made beforehand, and
//! no header is looked at. The load of an even rate ([`open_loop`]) comes from this process too, so that the two do not
//! wait for each other's turn on one core.

use crate::Failure;
use crate::load::open_loop;
use crate::provider::{Provider, TOKEN_LENGTH};
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The route without sign-in.
pub const PLAIN: &str = "/plain";
/// The route that needs one.
pub const BEARER: &str = "/bearer";
/// Below a route: answers with the request head it got.
pub const ECHO: &str = "/echo";
/// Below a route: 10 KiB.
pub const TEN_KIB: &str = "/10k";
/// Below a route: 1 MiB.
pub const ONE_MIB: &str = "/1m";
/// An empty 200: yes to whoever asks whether a request may pass.
pub const CHECK: &str = "/check";
/// Answers with the number of requests under [`PLAIN`], and of those under [`BEARER`] that had room for a token.
pub const COUNT: &str = "/count";

/// Says its address on standard output, and serves until it is ended.
pub fn serve() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        println!("{address}");
        let backend = Rc::new(Backend::new(Provider::at(address)?));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let backend = Rc::clone(&backend);
            // A connection that breaks is its client's affair.
            tokio::task::spawn_local(async move { backend.answer_all(stream).await.ok() });
        }
    })
}

struct Backend {
    provider: Provider,
    served: AtomicU64,
    small: Vec<u8>,
    ten_kib: Vec<u8>,
    one_mib: Vec<u8>,
}

impl Backend {
    fn new(provider: Provider) -> Backend {
        let answer = |length: usize| canned_answer(&format!(r#"{{"items":"{}"}}"#, "x".repeat(length - 12)));
        let (small, ten_kib, one_mib) = (answer(200), answer(10 << 10), answer(1 << 20));
        Backend { provider, served: AtomicU64::new(0), small, ten_kib, one_mib }
    }

    async fn answer_all(&self, mut stream: TcpStream) -> Result<(), Failure> {
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            buffer.clear();
            let Some(head) = read_head(&mut stream, &mut buffer).await? else { return Ok(()) };
            let (is_plain, is_bearer) = (target(&buffer).starts_with(PLAIN), target(&buffer).starts_with(BEARER));
            let body = if is_get(&buffer) { 0 } else { content_length(&buffer[..head])? };
            if is_plain || is_bearer {
                let answer = self.canned(&buffer, is_bearer, head);
                skip(&mut stream, &mut buffer, head + body).await?;
                stream.write_all(answer.as_deref().unwrap_or(&self.small)).await?;
            } else {
                read_up_to(&mut stream, &mut buffer, head + body).await?;
                let answer = self.made_answer(&buffer, head).await;
                stream.write_all(&answer).await?;
            }
        }
    }

    /// None for the small one.
    fn canned<'a>(&'a self, request: &[u8], is_bearer: bool, head: usize) -> Option<Cow<'a, [u8]>> {
        if !is_bearer || head > TOKEN_LENGTH {
            self.served.fetch_add(1, Ordering::Relaxed);
        }
        let path = &target(request)[if is_bearer { BEARER } else { PLAIN }.len()..];
        match path {
            path if path.starts_with(TEN_KIB) => Some((&self.ten_kib[..]).into()),
            path if path.starts_with(ONE_MIB) => Some((&self.one_mib[..]).into()),
            path if path.starts_with(ECHO) => {
                Some(answer("text/plain", &String::from_utf8_lossy(&request[..head])).into())
            }
            _ => None,
        }
    }

    async fn made_answer(&self, request: &[u8], head: usize) -> Vec<u8> {
        let (path, query) = target(request).split_once('?').unwrap_or((target(request), ""));
        let text = std::str::from_utf8(&request[..head]).unwrap_or_default();
        let authorization = crate::http::headers(text, "authorization").next();
        let now = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        match path {
            CHECK => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
            COUNT => answer("text/plain", &self.served.load(Ordering::Relaxed).to_string()),
            open_loop::PATH => match open_loop::run(query).await {
                Ok(said) => answer("text/plain", &said),
                Err(error) => format!("HTTP/1.1 500 {error}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
            },
            _ => match self.provider.answer(path, authorization, &request[head..], now) {
                Some(json) => answer("application/json", &json.to_string()),
                None => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            },
        }
    }
}

/// Reads until `buffer` begins with a whole head; its length, or None at the end of the connection.
async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<usize>, Failure> {
    while stream.read_buf(buffer).await? > 0 {
        // Nobody here pipelines, so a GET ends where the bytes do.
        if is_get(buffer) {
            if buffer.ends_with(HEAD_END) {
                return Ok(Some(buffer.len()));
            }
        } else if let Some(end) = buffer.windows(HEAD_END.len()).position(|window| window == HEAD_END) {
            return Ok(Some(end + HEAD_END.len()));
        }
    }
    Ok(None)
}

async fn read_up_to(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> Result<(), Failure> {
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Err("the body ends early".into());
        }
    }
    Ok(())
}

/// The same, without keeping what was read.
async fn skip(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> Result<(), Failure> {
    let mut left = length.saturating_sub(buffer.len());
    while left > 0 {
        buffer.clear();
        match stream.read_buf(buffer).await? {
            0 => return Err("the body ends early".into()),
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

fn content_length(head: &[u8]) -> Result<usize, Failure> {
    let length = crate::http::headers(std::str::from_utf8(head)?, "content-length").next();
    Ok(length.ok_or("a body without Content-Length")?.parse()?)
}

fn is_get(request: &[u8]) -> bool {
    request.starts_with(b"GET ")
}

fn target(request: &[u8]) -> &str {
    let target = request.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    std::str::from_utf8(target).unwrap_or_default()
}

fn answer(content_type: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

fn canned_answer(body: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\n\
        Date: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
        Server: upstream\r\n\
        Content-Type: application/json; charset=utf-8\r\n\
        Cache-Control: no-cache\r\n\
        ETag: \"5f1c-18b2f0a4c10\"\r\n\
        Vary: Accept-Encoding\r\n\
        X-Content-Type-Options: nosniff\r\n\
        Content-Length: {}\r\n\r\n",
        body.len()
    );
    format!("{head}{body}").into_bytes()
}

const HEAD_END: &[u8] = b"\r\n\r\n";
