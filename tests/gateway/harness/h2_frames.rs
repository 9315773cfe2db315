//! HTTP/2 frame by frame, so that what no library would send can be sent.

use super::PATIENCE;
use super::wire::Connection;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One field of a request; pseudo-fields are fields like others here.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A connection after the preface.
pub struct Frames {
    stream: TcpStream,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A response head with this status.
    Answered(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, or just the end of the connection.
    Closed(Option<u32>),
}

impl Frames {
    /// Connects and sends the preface and empty SETTINGS.
    pub async fn open(address: SocketAddr) -> Frames {
        let stream = Connection::open(address).await.stream;
        let mut frames = Frames { stream };
        frames.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("a connection");
        frames.send(SETTINGS, 0, 0, b"").await;
        frames
    }

    /// HEADERS, in one frame, nothing compressed.
    pub async fn headers(&mut self, stream: u32, fields: &[Field<'_>], end_stream: bool) {
        let mut block = Vec::new();
        for (name, value) in fields {
            // Literal without indexing, new name (RFC 7541 §6.2.2).
            block.push(0);
            push_string(&mut block, name);
            push_string(&mut block, value);
        }
        self.send(HEADERS, END_HEADERS | u8::from(end_stream), stream, &block).await;
    }

    /// DATA.
    pub async fn data(&mut self, stream: u32, bytes: &[u8], end_stream: bool) {
        self.send(DATA, u8::from(end_stream), stream, bytes).await;
    }

    /// What becomes of `stream`.
    ///
    /// # Panics
    /// When nothing does in time.
    pub async fn fate(&mut self, stream: u32) -> Fate {
        let reading = async {
            loop {
                let Some((kind, of, payload)) = self.next().await else { return Fate::Closed(None) };
                match kind {
                    HEADERS if of == stream => return Fate::Answered(status(&payload)),
                    RST_STREAM if of == stream => return Fate::Reset(code(&payload)),
                    GOAWAY => return Fate::Closed(Some(code(&payload[4..]))),
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("nothing became of the stream in time")
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // It may have been closed for what came before.
        let _ = self.stream.write_all(&frame).await;
    }

    async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).ok()?];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }
}

fn push_string(block: &mut Vec<u8>, text: &[u8]) {
    match u8::try_from(text.len()) {
        Ok(length) if length < 127 => block.push(length),
        _ => {
            block.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                block.push(128 | u8::try_from(rest % 128).expect("seven bits"));
                rest /= 128;
            }
            block.push(u8::try_from(rest).expect("seven bits"));
        }
    }
    block.extend(text);
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().expect("a code"))
}

/// The first field of a response head is `:status`: one of the static table (RFC 7541 Appendix A), or three digits.
fn status(block: &[u8]) -> u16 {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [indexed @ 0x88..=0x8e, ..] => STATIC[usize::from(indexed - 0x88)],
        [0x08 | 0x48, length, rest @ ..] if length & 0x80 != 0 => huffman_digits(rest),
        [0x08 | 0x48, 3, digits @ ..] => {
            std::str::from_utf8(&digits[..3]).expect("digits").parse().expect("three digits")
        }
        other => panic!("no status: {other:?}"),
    }
}

/// RFC 7541 Appendix B: `0`, `1`, `2` have five bits, the other digits six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut take = |count: usize| bits.by_ref().take(count).fold(0, |code, bit| code << 1 | bit);
    (0..3).fold(0, |status, _| {
        let five = take(5);
        status * 10 + if five < 3 { five } else { (five << 1 | take(1)) - 0b01_1001 + 3 }
    })
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;
