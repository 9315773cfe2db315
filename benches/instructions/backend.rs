//! What stands behind the gateway: 200 bytes for everybody, and a provider to sign in at.

use crate::Failure;
use crate::http;
use crate::provider::Provider;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::UNIX_EPOCH;

/// The route without sign-in.
pub const PLAIN: &str = "/plain";
/// The route that needs one.
pub const BEARER: &str = "/bearer";

/// Serves on threads of its own until the process ends.
pub fn start() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let provider = Arc::new(Provider::at(address)?);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let provider = Arc::clone(&provider);
            // A connection that breaks is the gateway's affair.
            thread::spawn(move || answer_all(stream, &provider).ok());
        }
    });
    Ok(address)
}

fn answer_all(mut stream: TcpStream, provider: &Provider) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        request.clear();
        while !is_whole(&request)? {
            match stream.read(&mut piece)? {
                0 => return Ok(()),
                length => request.extend_from_slice(&piece[..length]),
            }
        }
        stream.write_all(answer(&request, provider)?.as_bytes())?;
    }
}

/// A request without `Content-Length` has no body.
fn is_whole(request: &[u8]) -> Result<bool, Failure> {
    let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(false) };
    let length = http::headers(std::str::from_utf8(&request[..end + 4])?, "content-length").next();
    Ok(request.len() >= end + 4 + length.map_or(Ok(0), str::parse::<usize>)?)
}

fn answer(request: &[u8], provider: &Provider) -> Result<String, Failure> {
    let text = std::str::from_utf8(request)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let path = head.split(' ').nth(1).unwrap_or_default();
    if path.starts_with(PLAIN) || path.starts_with(BEARER) {
        return Ok(with_body("Cache-Control: no-cache\r\nETag: \"5f1c-18b2f0a4c10\"\r\n", &"x".repeat(200)));
    }
    let authorization = http::headers(text, "authorization").next();
    let now = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let said = provider.answer(path, authorization, body.as_bytes(), now).ok_or("not a provider's path")?;
    Ok(with_body("", &said.to_string()))
}

fn with_body(headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nServer: upstream\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
