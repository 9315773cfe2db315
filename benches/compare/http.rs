//! As much of an HTTP client as signing in and counting take.

use crate::Failure;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A kept connection; one request after the other.
pub struct Connection {
    server: SocketAddr,
    stream: TcpStream,
}

impl Connection {
    pub fn open(server: SocketAddr) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { server, stream })
    }

    /// One GET: the whole response, as text.
    pub fn get(&mut self, target: &str, headers: &[(&str, &str)]) -> Result<String, Failure> {
        let mut request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n", self.server);
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        self.stream.write_all(format!("{request}\r\n").as_bytes())?;
        let mut response = Vec::new();
        let mut piece = [0; 16 * 1024];
        while !is_whole(&response)? {
            match self.stream.read(&mut piece)? {
                0 => break,
                length => response.extend_from_slice(&piece[..length]),
            }
        }
        Ok(String::from_utf8(response)?)
    }
}

/// One GET on a connection of its own.
pub fn get(server: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<String, Failure> {
    Connection::open(server)?.get(target, &[headers, &[("Connection", "close")]].concat())
}

/// The value of the first `wanted` header of a response.
pub fn header<'a>(response: &'a str, wanted: &str) -> Result<&'a str, Failure> {
    let found = headers(response, wanted).next();
    found.ok_or_else(|| format!("an answer has no {wanted}:\n{response}").into())
}

/// The values of all `wanted` headers of a response.
pub fn headers<'a>(response: &'a str, wanted: &str) -> impl Iterator<Item = &'a str> {
    let (head, _) = response.split_once(HEAD_END).unwrap_or((response, ""));
    let pairs = head.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(move |(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
}

/// The body of a 200.
pub fn body(response: &str) -> Result<&str, Failure> {
    match response.split_once(HEAD_END) {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body),
        _ => Err(format!("not a 200:\n{response}").into()),
    }
}

/// By `Content-Length`, or by the last chunk, or by a status without a body; else the end of the connection is the end
/// of the body.
pub fn is_whole(response: &[u8]) -> Result<bool, Failure> {
    let Some(end) = response.windows(4).position(|window| window == HEAD_END.as_bytes()) else { return Ok(false) };
    let (head, body) = response.split_at(end + HEAD_END.len());
    let head = std::str::from_utf8(head)?;
    if head.starts_with("HTTP/1.1 204") || head.starts_with("HTTP/1.1 304") {
        return Ok(true);
    }
    match headers(head, "content-length").next() {
        Some(length) => Ok(body.len() >= length.parse()?),
        None => Ok(headers(head, "transfer-encoding").next().is_some() && body.ends_with(b"0\r\n\r\n")),
    }
}

const HEAD_END: &str = "\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);
