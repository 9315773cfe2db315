//! Response bodies on the wire (RFC 9112 §6, §7).

use super::Malformed;
use super::head::{Length, parse_trailers};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;

/// Takes a body out of bytes that come piece by piece.
#[derive(Debug)]
pub struct Decoder {
    at: At,
    /// What chunk extensions took so far: they are ignored, but not without end.
    extensions: usize,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// So many bytes of a body of known length.
    Body(u64),
    UntilClose,
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    End,
}

/// A step of a [`Decoder`].
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// It takes more bytes.
    NeedsMore,
    /// A piece, which is never empty.
    Data(Bytes),
    /// The last of it.
    Trailers(HeaderMap),
    /// There is no more.
    End,
}

impl Decoder {
    /// At the beginning of a body.
    pub fn new(length: Length) -> Decoder {
        let at = match length {
            Length::Known(0) => At::End,
            Length::Known(length) => At::Body(length),
            Length::Chunked => At::ChunkSize,
            Length::UntilClose => At::UntilClose,
        };
        Decoder { at, extensions: 0 }
    }

    /// Takes the next piece out of `bytes`.
    ///
    /// # Errors
    /// When they are no chunked body. There is no use in going on.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Decoded, Malformed> {
        loop {
            match self.at {
                At::End => return Ok(Decoded::End),
                _ if bytes.is_empty() => return Ok(Decoded::NeedsMore),
                At::UntilClose => return Ok(Decoded::Data(bytes.split().freeze())),
                At::Body(left) => {
                    let (piece, left) = take(bytes, left);
                    self.at = if left == 0 { At::End } else { At::Body(left) };
                    return Ok(Decoded::Data(piece));
                }
                At::Chunk(left) => {
                    let (piece, left) = take(bytes, left);
                    self.at = if left == 0 { At::ChunkEnd } else { At::Chunk(left) };
                    return Ok(Decoded::Data(piece));
                }
                At::ChunkEnd => {
                    if !b"\r\n".starts_with(&bytes[..bytes.len().min(2)]) {
                        return Err(Malformed("a chunk is longer than its size"));
                    }
                    if bytes.len() < 2 {
                        return Ok(Decoded::NeedsMore);
                    }
                    let _ = bytes.split_to(2);
                    self.at = At::ChunkSize;
                }
                At::ChunkSize => {
                    let Some(line) = line(bytes, MOST_EXTENSIONS)? else { return Ok(Decoded::NeedsMore) };
                    let size = self.chunk_size(&line)?;
                    self.at = if size == 0 { At::Trailers } else { At::Chunk(size) };
                }
                At::Trailers => {
                    if bytes.starts_with(b"\r\n") {
                        let _ = bytes.split_to(2);
                        self.at = At::End;
                        return Ok(Decoded::End);
                    }
                    let Some(length) = trailers_end(bytes)? else { return Ok(Decoded::NeedsMore) };
                    let trailers = parse_trailers(bytes.split_to(length))?;
                    self.at = At::End;
                    return Ok(Decoded::Trailers(trailers));
                }
            }
        }
    }

    /// The connection has closed.
    ///
    /// # Errors
    /// When something is missing.
    pub fn close(&mut self) -> Result<(), Malformed> {
        match self.at {
            At::End => Ok(()),
            At::UntilClose => {
                self.at = At::End;
                Ok(())
            }
            _ => Err(Malformed("the body broke off")),
        }
    }

    /// There is no more.
    pub fn is_at_end(&self) -> bool {
        self.at == At::End
    }

    /// Whether what comes next is no part of the content.
    pub fn is_between_pieces(&self) -> bool {
        matches!(self.at, At::ChunkEnd | At::ChunkSize | At::Trailers)
    }

    /// How many bytes are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self.at {
            At::Body(left) => Some(left),
            At::End => Some(0),
            _ => None,
        }
    }

    /// `chunk-size [ chunk-ext ]` (RFC 9112 §7.1). White space is allowed before `;` alone: what pads the size has misled parsers.
    fn chunk_size(&mut self, line: &[u8]) -> Result<u64, Malformed> {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, extension) = line.split_at(digits);
        let has_extension = extension.trim_ascii_start().starts_with(b";");
        let is_text = extension.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
        if !(1..=16).contains(&digits.len()) || !(extension.is_empty() || has_extension) || !is_text {
            return Err(Malformed("a chunk size is none"));
        }
        self.extensions += extension.len();
        if self.extensions > MOST_EXTENSIONS {
            return Err(Malformed("the chunk extensions are too large"));
        }
        Ok(digits.iter().fold(0, |size, &digit| (size << 4) | u64::from((digit as char).to_digit(16).unwrap_or(0))))
    }
}

fn take(bytes: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (bytes.split_to(length).freeze(), left - length as u64)
}

/// The next line without its CRLF.
fn line(bytes: &mut BytesMut, most: usize) -> Result<Option<BytesMut>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        return if bytes.len() > most { Err(Malformed("a line is too long")) } else { Ok(None) };
    };
    let mut line = bytes.split_to(end + 1);
    if !line.ends_with(b"\r\n") {
        return Err(Malformed("a line ends without a CR"));
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

/// The length of the trailers and the empty line behind them.
fn trailers_end(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    for at in memchr::memchr_iter(b'\n', bytes) {
        if !bytes[..at].ends_with(b"\r") {
            return Err(Malformed("a line ends without a CR"));
        }
        if bytes[..at - 1].ends_with(b"\r\n") && at < MOST_OF_TRAILERS {
            return Ok(Some(at + 1));
        }
    }
    if bytes.len() >= MOST_OF_TRAILERS { Err(Malformed("the trailers are too large")) } else { Ok(None) }
}

const MOST_EXTENSIONS: usize = 16 * 1024;
const MOST_OF_TRAILERS: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a body says, when its bytes arrive in pieces of these lengths, and the bytes behind it.
    fn decode(
        length: Length,
        bytes: &[u8],
        pieces: &[usize],
    ) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Malformed> {
        let (mut decoder, mut buffer) = (Decoder::new(length), BytesMut::new());
        let (mut content, mut trailers, mut rest) = (Vec::new(), None, bytes);
        let mut lengths = pieces.iter().copied().chain(std::iter::repeat(usize::MAX));
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(piece) => {
                    assert!(!piece.is_empty());
                    content.extend_from_slice(&piece);
                }
                Decoded::Trailers(fields) => trailers = Some(fields),
                Decoded::End => return Ok((content, trailers, buffer.len() + rest.len())),
                Decoded::NeedsMore if rest.is_empty() => {
                    decoder.close()?;
                    return Ok((content, trailers, 0));
                }
                Decoded::NeedsMore => {
                    let (piece, left) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
                    buffer.extend_from_slice(piece);
                    rest = left;
                }
            }
        }
    }

    // H1-10, H1-11
    #[test]
    fn chunks() {
        for (bytes, content) in [
            ("0\r\n\r\n", Some("")),
            ("3\r\nabc\r\n0\r\n\r\n", Some("abc")),
            ("3\r\nabc\r\n2\r\nde\r\n000\r\n\r\n", Some("abcde")),
            ("A\r\n0123456789\r\n0\r\n\r\n", Some("0123456789")),
            ("a\r\n0123456789\r\n0\r\n\r\n", Some("0123456789")),
            ("0000000000000003\r\nabc\r\n0\r\n\r\n", Some("abc")),
            ("00000000000000003\r\nabc\r\n0\r\n\r\n", None),
            ("3;a=b\r\nabc\r\n0;c\r\n\r\n", Some("abc")),
            ("3 ; a=\"b c\"\r\nabc\r\n0\r\n\r\n", Some("abc")),
            ("3 \r\nabc\r\n0\r\n\r\n", None),
            ("3\t\r\nabc\r\n0\r\n\r\n", None),
            (" 3\r\nabc\r\n0\r\n\r\n", None),
            ("3 a\r\nabc\r\n0\r\n\r\n", None),
            ("0x3\r\nabc\r\n0\r\n\r\n", None),
            ("+3\r\nabc\r\n0\r\n\r\n", None),
            ("-3\r\nabc\r\n0\r\n\r\n", None),
            ("1_0\r\nabc\r\n0\r\n\r\n", None),
            ("\r\nabc\r\n0\r\n\r\n", None),
            (";a\r\nabc\r\n0\r\n\r\n", None),
            ("g\r\nabc\r\n0\r\n\r\n", None),
            ("3\nabc\r\n0\r\n\r\n", None),
            ("3\rabc\r\n0\r\n\r\n", None),
            ("3\r\r\nabc\r\n0\r\n\r\n", None),
            ("3;a\nabc\r\n0\r\n\r\n", None),
            ("3;a\rb\r\nabc\r\n0\r\n\r\n", None),
            ("3;a\0b\r\nabc\r\n0\r\n\r\n", None),
            ("3\r\nabcd\r\n0\r\n\r\n", None),
            ("3\r\nabc\n0\r\n\r\n", None),
            ("3\r\nabc0\r\n\r\n", None),
            ("3\r\nabc\r0\r\n\r\n", None),
            ("3\r\nab\r\n0\r\n\r\n", None),
            ("FFFFFFFFFFFFFFFF\r\nabc", None),
            ("10000000000000000\r\nabc", None),
            ("3\r\nabc\r\n0\r\n", None),
            ("3\r\nabc\r\n0\r\n\r", None),
            ("3\r\nabc\r\n0\r\n\n", None),
            ("3\r\nabc\r\n", None),
            ("3\r\nab", None),
            ("3", None),
            ("", None),
            ("3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n", Some("abc")),
            ("3\r\nabc\r\n0\r\nX-Sum: 6\n\r\n", None),
            ("3\r\nabc\r\n0\r\nX-Sum : 6\r\n\r\n", None),
            ("3\r\nabc\r\n0\r\n X-Sum: 6\r\n\r\n", None),
            ("3\r\nabc\r\n0\r\nX-Sum: a\0b\r\n\r\n", None),
            ("3\r\nabc\r\n0\r\nX-Sum: a\r\n b\r\n\r\n", None),
            ("3\r\nabc\r\n0\r\nX-Sum\r\n\r\n", None),
            ("3\r\nabc\r\n0\r\nX-Sum: 6\r\n", None),
        ] {
            let decoded = decode(Length::Chunked, bytes.as_bytes(), &[]);
            assert_eq!(
                decoded.ok().map(|(content, ..)| content),
                content.map(|text| text.as_bytes().to_vec()),
                "{bytes:?}"
            );
        }
    }

    // H1-11
    #[test]
    fn extensions_and_trailers_have_bounds() {
        let extension = |length: usize| format!("1;{}\r\nx\r\n", "e".repeat(length));
        let many = |count: usize| format!("{}0\r\n\r\n", extension(100).repeat(count));
        assert!(decode(Length::Chunked, many(100).as_bytes(), &[]).is_ok());
        assert!(decode(Length::Chunked, many(200).as_bytes(), &[]).is_err());
        let endless = format!("1;{}", "e".repeat(20_000));
        assert!(decode(Length::Chunked, endless.as_bytes(), &[20_002]).is_err());
        let trailers = |count: usize, length: usize| {
            format!("0\r\n{}\r\n", format!("a: {}\r\n", "b".repeat(length)).repeat(count))
        };
        assert!(decode(Length::Chunked, trailers(64, 8).as_bytes(), &[]).is_ok());
        assert!(decode(Length::Chunked, trailers(65, 8).as_bytes(), &[]).is_err());
        assert!(decode(Length::Chunked, trailers(1, 16_000).as_bytes(), &[]).is_ok());
        assert!(decode(Length::Chunked, trailers(1, 17_000).as_bytes(), &[]).is_err());
    }

    // RL-25
    #[test]
    fn trailers_come_with_every_value() {
        let bytes = b"1\r\nx\r\n0\r\nX-Sum: 6\r\nx-sum:  7 \r\nGrpc-Status:\r\n\r\nbehind";
        let (content, trailers, behind) = decode(Length::Chunked, bytes, &[]).unwrap();
        let trailers = trailers.unwrap();
        assert_eq!((content.as_slice(), behind), (&b"x"[..], 6));
        assert_eq!(trailers.get_all("x-sum").iter().collect::<Vec<_>>(), ["6", "7"]);
        assert_eq!(trailers["grpc-status"], "");
    }

    #[test]
    fn bodies_of_known_length_and_bodies_until_the_close() {
        assert_eq!(decode(Length::Known(3), b"abcd", &[]), Ok((b"abc".to_vec(), None, 1)));
        assert_eq!(decode(Length::Known(0), b"abcd", &[]), Ok((Vec::new(), None, 4)));
        assert!(decode(Length::Known(5), b"abcd", &[]).is_err());
        assert_eq!(decode(Length::UntilClose, b"abcd", &[1]), Ok((b"abcd".to_vec(), None, 0)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_body_says_the_same_however_its_bytes_arrive(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            extension in "(;[a-z]{1,5}(=[a-z]{1,5})?)?",
            trailer in proptest::option::of("[a-z ]{0,20}"),
            pieces in proptest::collection::vec(1..30_usize, 0..60),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n");
            if let Some(trailer) = &trailer {
                bytes.extend_from_slice(format!("x: {trailer}\r\n").as_bytes());
            }
            bytes.extend_from_slice(b"\r\nbehind");
            let (content, trailers, behind) = decode(Length::Chunked, &bytes, &pieces).unwrap();
            prop_assert_eq!(content, chunks.concat());
            prop_assert_eq!(behind, 6);
            let said = trailers.map(|trailers| trailers["x"].to_str().unwrap().to_owned());
            prop_assert_eq!(said, trailer.map(|trailer| trailer.trim().to_owned()));
        }

        #[test]
        fn no_bytes_make_it_panic_and_pieces_make_no_difference(
            bytes in "([0-9a-f;]{0,3}(\r\n|\n|\r|)|x{1,5}|\r\n|0\r\n|\r\n\r\n|a: b\r\n){0,20}",
            pieces in proptest::collection::vec(1..10_usize, 0..60),
        ) {
            let whole = decode(Length::Chunked, bytes.as_bytes(), &[]).ok();
            prop_assert_eq!(decode(Length::Chunked, bytes.as_bytes(), &pieces).ok(), whole);
        }
    }
}
