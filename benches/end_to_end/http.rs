//! As much of an HTTP client as signing in and counting take.

use crate::Failure;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// One GET on a connection of its own: the whole response, as text.
pub fn get(server: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<String, Failure> {
    let mut request = format!("GET {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(format!("{request}\r\n").as_bytes())?;
    let mut response = Vec::new();
    let mut piece = [0; 4096];
    while !is_whole(&response) {
        match stream.read(&mut piece)? {
            0 => break,
            length => response.extend_from_slice(&piece[..length]),
        }
    }
    Ok(String::from_utf8(response)?)
}

/// The value of the first `wanted` header of a response.
pub fn header<'a>(response: &'a str, wanted: &str) -> Result<&'a str, Failure> {
    let (head, _) = response.split_once(HEAD_END).unwrap_or((response, ""));
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find_map(|(name, value)| name.eq_ignore_ascii_case(wanted).then_some(value))
        .ok_or_else(|| format!("an answer has no {wanted}:\n{head}").into())
}

/// The body of a 200.
pub fn body(response: &str) -> Result<&str, Failure> {
    match response.split_once(HEAD_END) {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body),
        _ => Err(format!("not a 200:\n{response}").into()),
    }
}

/// By `Content-Length`; without one the end of the connection is the end of the body.
fn is_whole(response: &[u8]) -> bool {
    let text = String::from_utf8_lossy(response);
    let Some((_, body)) = text.split_once(HEAD_END) else { return false };
    header(&text, "content-length").is_ok_and(|length| length.parse() == Ok(body.len()))
}

const HEAD_END: &str = "\r\n\r\n";
