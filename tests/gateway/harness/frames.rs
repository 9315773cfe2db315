//! HTTP/2 as frames: what a client sends that no library would.

use super::PATIENCE;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;

/// One frame (RFC 9113 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { kind, flags, stream, payload: payload.into() }
    }

    /// The head of a `GET` that is complete.
    pub fn get(stream: u32, path: &str) -> Frame {
        Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, request("GET", path, &[]))
    }

    /// `SETTINGS` with these.
    pub fn settings(settings: &[(u16, u32)]) -> Frame {
        let entries = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        Frame::new(SETTINGS, 0, 0, entries.collect::<Vec<u8>>())
    }

    pub fn reset(stream: u32) -> Frame {
        Frame::new(RST_STREAM, 0, stream, CANCEL.to_be_bytes())
    }

    pub fn window_update(stream: u32, by: u32) -> Frame {
        Frame::new(WINDOW_UPDATE, 0, stream, by.to_be_bytes())
    }

    /// The error code of a `GOAWAY` or `RST_STREAM`.
    pub fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }

    /// The status, in the first head of a connection (RFC 7541 A: later ones may be in the dynamic table).
    pub fn status(&self) -> u16 {
        match self.payload[0] {
            0x88 => 200,
            0x89 => 204,
            0x8b => 304,
            0x8c => 400,
            0x8d => 404,
            0x8e => 500,
            _ => {
                let coded = &self.payload[2..];
                match self.payload[1] {
                    // Three digits of five or six bits, Huffman-coded (RFC 7541 B).
                    0x82 => huffman_digits(&coded[..2]),
                    0x83 => huffman_digits(&coded[..3]),
                    _ => String::from_utf8_lossy(&coded[..3]).parse().expect("a status"),
                }
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = u32::try_from(self.payload.len()).expect("a frame").to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

fn huffman_digits(coded: &[u8]) -> u16 {
    let bits: String = coded.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut rest, mut digits) = (bits.as_str(), String::new());
    while digits.len() < 3 {
        let short = u8::from_str_radix(&rest[..5], 2).expect("bits");
        let (digit, length) = match short {
            0..3 => (short, 5),
            _ => (u8::from_str_radix(&rest[..6], 2).expect("bits") - 0b011_001 + 3, 6),
        };
        digits.push(char::from(b'0' + digit));
        rest = &rest[length..];
    }
    digits.parse().expect("a status")
}

/// A header block of literals that are not indexed (RFC 7541 §6.2.2).
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "gw.test"), (":path", path)];
    pseudo.iter().chain(more).flat_map(|(name, value)| literal(name, value)).collect()
}

pub fn literal(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &text(name), &text(value)].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&integer(text.len())[..], text.as_bytes()].concat()
}

/// With a prefix of seven bits (RFC 7541 §5.1).
fn integer(number: usize) -> Vec<u8> {
    if number < 127 {
        return vec![number as u8];
    }
    let (mut bytes, mut rest) = (vec![127], number - 127);
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

/// A connection that is past its preface.
pub struct Frames {
    stream: TcpStream,
}

impl Frames {
    /// Sends the preface and these settings.
    pub async fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Frames {
        let mut stream = TcpStream::connect(address).await.expect("somebody listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it is taken");
        let mut frames = Frames { stream };
        frames.send(&[Frame::settings(settings)]).await.expect("it is taken");
        frames
    }

    pub async fn send(&mut self, frames: &[Frame]) -> io::Result<()> {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        self.stream.write_all(&bytes).await
    }

    /// The next frame; None at the end.
    ///
    /// # Panics
    /// When nothing comes for too long.
    pub async fn next(&mut self) -> Option<Frame> {
        self.next_within(PATIENCE).await.expect("a frame in time, or the end")
    }

    /// As [`Frames::next`]; Err when nothing comes.
    pub async fn next_within(&mut self, within: Duration) -> Result<Option<Frame>, ()> {
        timeout(within, self.read()).await.map(Result::ok).map_err(|_| ())
    }

    async fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this kind; None when the connection ends without.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads to the end; the error code of the last `GOAWAY`.
    pub async fn closed(&mut self) -> Option<u32> {
        let mut error = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                error = Some(frame.error());
            }
        }
        error
    }
}
