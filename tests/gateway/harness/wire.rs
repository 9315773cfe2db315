//! HTTP/1.1 as bytes: what was on the wire, in order, with nothing tidied up. The scripted provider,
//! the scripted upstream and the browser all speak through this, so that none of them shares a
//! parser with the gateway.

use super::PATIENCE;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Header fields in order, names as spelled, each byte of a value as one `char` (ISO 8859-1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of `name`, in any case.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).first().copied()
    }

    /// All values of `name`, in order.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// Whether `name` is there at all.
    pub fn contains(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }
}

/// A request or a response before its body: the first line and the header fields.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub first_line: String,
    pub headers: Headers,
}

impl Head {
    /// The `index`th word of the first line, empty when there are fewer.
    pub fn word(&self, index: usize) -> &str {
        self.first_line.splitn(3, ' ').nth(index).unwrap_or("")
    }
}

/// A response as received.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}), status {}: {}", self.status, self.text()))
    }

    /// The first value of `name`; the empty string when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.value(name).unwrap_or("")
    }
}

/// How the end of a body is told (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    /// What is left of the current chunk; `None` before the next size line.
    Chunked(Option<u64>),
    UntilClose,
    Ended,
}

impl Framing {
    /// The framing of a request.
    pub fn of_request(head: &Head) -> Framing {
        Framing::declared(&head.headers).unwrap_or(Framing::Ended)
    }

    /// The framing of a response to a request with `method`.
    pub fn of_response(head: &Head, method: &str) -> Framing {
        let status = head.word(1);
        if method == "HEAD" || status.starts_with('1') || status == "204" || status == "304" {
            return Framing::Ended;
        }
        Framing::declared(&head.headers).unwrap_or(Framing::UntilClose)
    }

    fn declared(headers: &Headers) -> Option<Framing> {
        if headers.value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Some(Framing::Chunked(None));
        }
        let length = headers.value("content-length")?.parse().expect("a Content-Length is a number");
        Some(if length == 0 { Framing::Ended } else { Framing::Length(length) })
    }
}

/// One connection, by TCP unless it says otherwise, and what was read from it ahead of need.
pub struct Connection<S = TcpStream> {
    pub stream: S,
    ahead: Vec<u8>,
}

impl Connection {
    /// Connects to `address`.
    pub async fn open(address: SocketAddr) -> Connection {
        let stream = timeout(PATIENCE, TcpStream::connect(address))
            .await
            .expect("connecting takes too long")
            .expect("nobody listens");
        Connection::over(stream)
    }

    /// Takes over an accepted connection.
    pub fn over(stream: TcpStream) -> Connection {
        stream.set_nodelay(true).expect("a TCP socket");
        Connection::on(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Speaks on what is open already.
    pub fn on(stream: S) -> Connection<S> {
        Connection { stream, ahead: Vec::new() }
    }

    /// Writes all of `bytes`.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next head; `None` when the peer has closed instead.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.ahead, b"\r\n\r\n") {
                let bytes: Vec<u8> = self.ahead.drain(..end + 4).collect();
                return Ok(Some(parse_head(&bytes[..end])));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// What has arrived of the body, as soon as anything has; `None` at its end.
    pub async fn data(&mut self, framing: &mut Framing, trailers: &mut Headers) -> io::Result<Option<Vec<u8>>> {
        loop {
            match *framing {
                Framing::Ended => return Ok(None),
                Framing::UntilClose => {
                    if self.ahead.is_empty() && !self.fill().await? {
                        *framing = Framing::Ended;
                        return Ok(None);
                    }
                    return Ok(Some(std::mem::take(&mut self.ahead)));
                }
                Framing::Length(left) => {
                    let part = self.part(left).await?;
                    let left = left - part.len() as u64;
                    *framing = if left == 0 { Framing::Ended } else { Framing::Length(left) };
                    return Ok(Some(part));
                }
                Framing::Chunked(None) => {
                    let line = self.line().await?;
                    let size = line.split(';').next().unwrap_or("").trim();
                    let size = u64::from_str_radix(size, 16)
                        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "bad chunk size"))?;
                    if size > 0 {
                        *framing = Framing::Chunked(Some(size));
                        continue;
                    }
                    loop {
                        let line = self.line().await?;
                        if line.is_empty() {
                            break;
                        }
                        trailers.0.push(parse_field(line.as_bytes()));
                    }
                    *framing = Framing::Ended;
                }
                Framing::Chunked(Some(left)) => {
                    let part = self.part(left).await?;
                    let left = left - part.len() as u64;
                    *framing = Framing::Chunked(Some(left));
                    if left == 0 {
                        self.line().await?;
                        *framing = Framing::Chunked(None);
                    }
                    return Ok(Some(part));
                }
            }
        }
    }

    /// The whole body and its trailers.
    pub async fn body(&mut self, mut framing: Framing) -> io::Result<(Vec<u8>, Headers)> {
        let (mut body, mut trailers) = (Vec::new(), Headers::default());
        while let Some(part) = self.data(&mut framing, &mut trailers).await? {
            body.extend_from_slice(&part);
        }
        Ok((body, trailers))
    }

    /// The final response to a request with `method`, past any 1xx; `None` when the peer closed
    /// instead.
    ///
    /// # Panics
    /// When nothing comes for too long.
    pub async fn reply(&mut self, method: &str) -> Option<Reply> {
        let reading = async {
            loop {
                let head = self.head().await.ok()??;
                let status = head.word(1).parse().expect("a status line");
                if (100..200).contains(&status) && status != 101 {
                    continue;
                }
                let (body, _) = self.body(Framing::of_response(&head, method)).await.ok()?;
                return Some(Reply { status, headers: head.headers, body });
            }
        };
        timeout(PATIENCE, reading).await.expect("no reply in time")
    }

    /// The head of the final response; its body is still to be read.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn reply_head(&mut self) -> Head {
        timeout(PATIENCE, self.head())
            .await
            .expect("no reply in time")
            .expect("a connection that lives")
            .expect("a reply, not an end")
    }

    /// Whatever arrives next, of any protocol; empty at the end.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub async fn raw(&mut self) -> Vec<u8> {
        if self.ahead.is_empty() {
            let filled = timeout(PATIENCE, self.fill()).await.expect("no bytes in time");
            if !filled.unwrap_or(false) {
                return Vec::new();
            }
        }
        std::mem::take(&mut self.ahead)
    }

    async fn part(&mut self, most: u64) -> io::Result<Vec<u8>> {
        if self.ahead.is_empty() && !self.fill().await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let take = self.ahead.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(self.ahead.drain(..take).collect())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.ahead, b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
                return Ok(latin1(&line[..end]));
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn fill(&mut self) -> io::Result<bool> {
        let mut room = [0; 16 * 1024];
        let read = self.stream.read(&mut room).await?;
        self.ahead.extend_from_slice(&room[..read]);
        Ok(read > 0)
    }
}

/// Each byte as one `char`.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The reverse of [`latin1`].
///
/// # Panics
/// On a `char` beyond U+00FF.
pub fn bytes_of(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(char).expect("one byte for each char")).collect()
}

/// A head and a body as they go on the wire.
pub fn message(first_line: &str, headers: &Headers, body: &[u8]) -> Vec<u8> {
    let mut text = format!("{first_line}\r\n");
    for (name, value) in &headers.0 {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = bytes_of(&text);
    bytes.extend_from_slice(body);
    bytes
}

/// One chunk of a chunked body; the empty one ends it.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn parse_head(bytes: &[u8]) -> Head {
    let text = latin1(bytes);
    let mut lines = text.split("\r\n");
    let first_line = lines.next().unwrap_or("").to_owned();
    Head { first_line, headers: Headers(lines.map(|line| parse_field(&bytes_of(line))).collect()) }
}

fn parse_field(line: &[u8]) -> (String, String) {
    let text = latin1(line);
    let (name, value) = text.split_once(':').expect("a header field has a colon");
    (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
