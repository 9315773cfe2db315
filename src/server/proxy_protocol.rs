//! Who a connection is from, as the proxy in front tells it: the PROXY protocol, versions 1 and 2
//! (HAProxy, `doc/proxy-protocol.txt`, revision 2020/03/05). It comes before anything else, TLS included.
//!
//! Its header has no other end than its own, so nothing behind it is read.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Reads the header. None when the proxy speaks for itself (`LOCAL`), or does not know whom for (`UNKNOWN`).
///
/// # Errors
/// When there is none, or one that cannot be read.
pub async fn read(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    // The shortest header of either version is longer.
    let mut first = [0; SIGNATURE.len()];
    stream.read_exact(&mut first).await?;
    if first == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let [version_and_command, family, length @ ..] = rest;
        let length = usize::from(u16::from_be_bytes(length));
        if length > MOST_BYTES {
            return Err(malformed());
        }
        let mut addresses = vec![0; length];
        stream.read_exact(&mut addresses).await?;
        source_in_block(version_and_command, family, &addresses)
    } else if first.starts_with(LINE_BEGINS) {
        source_in_line(&read_line(stream, &first).await?)
    } else {
        Err(malformed())
    }
}

/// The line without its end. `first` has been read of it.
async fn read_line(stream: &mut TcpStream, first: &[u8]) -> io::Result<Vec<u8>> {
    let mut line = first.to_vec();
    while !line.ends_with(b"\r\n") {
        let mut seen = [0; LONGEST_LINE];
        let room = LONGEST_LINE - line.len();
        let count = stream.peek(&mut seen[..room]).await?;
        // All of what has come belongs to the line, unless the line ends in it.
        let ours = seen[..count].iter().position(|byte| *byte == b'\n').map_or(count, |end| end + 1);
        if ours == 0 {
            return Err(malformed());
        }
        stream.read_exact(&mut seen[..ours]).await?;
        line.extend_from_slice(&seen[..ours]);
    }
    line.truncate(line.len() - 2);
    Ok(line)
}

/// §2.1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443`, one space between words.
fn source_in_line(line: &[u8]) -> io::Result<Option<IpAddr>> {
    let line = std::str::from_utf8(line).map_err(|_| malformed())?;
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        // What follows is to be ignored.
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4", addresses @ ..] => source::<Ipv4Addr>(addresses),
        ["PROXY", "TCP6", addresses @ ..] => source::<Ipv6Addr>(addresses),
        _ => Err(malformed()),
    }
}

fn source<A: FromStr + Into<IpAddr>>(words: &[&str]) -> io::Result<Option<IpAddr>> {
    let [source, destination, ports @ ..] = words else { return Err(malformed()) };
    let is_port = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit()) && word.parse::<u16>().is_ok();
    match (source.parse::<A>(), destination.parse::<A>()) {
        (Ok(source), Ok(_)) if ports.len() == 2 && ports.iter().all(is_port) => Ok(Some(source.into())),
        _ => Err(malformed()),
    }
}

/// §2.2. What follows the addresses (TLVs) is passed over.
///
/// | command | family | |
/// |---|---|---|
/// | `LOCAL` | any | the proxy itself |
/// | `PROXY` | TCP over IPv4, IPv6 | the source address |
/// | `PROXY` | unspecified, a unix stream | not known |
/// | `PROXY` | others: datagrams | refused, as is any other version or command |
fn source_in_block(version_and_command: u8, family: u8, addresses: &[u8]) -> io::Result<Option<IpAddr>> {
    match (version_and_command, family) {
        (0x20, _) | (0x21, 0x00) => Ok(None),
        (0x21, 0x11) => match addresses.first_chunk::<12>() {
            Some([a, b, c, d, ..]) => Ok(Some(Ipv4Addr::new(*a, *b, *c, *d).into())),
            None => Err(malformed()),
        },
        (0x21, 0x21) => match (addresses.first_chunk::<16>(), addresses.len()) {
            (Some(source), 36..) => Ok(Some(Ipv6Addr::from(*source).into())),
            _ => Err(malformed()),
        },
        (0x21, 0x31) if addresses.len() >= 216 => Ok(None),
        _ => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY header that can be read")
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LINE_BEGINS: &[u8] = b"PROXY ";
/// §2.1: with the end of the line.
const LONGEST_LINE: usize = 107;
/// Far more than addresses and the TLVs that are in use; nginx takes as many.
const MOST_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_versions_name_the_same_source(source: IpAddr, ports: (u16, u16)) {
            let (line, family, block) = match source {
                IpAddr::V4(v4) => (format!("TCP4 {v4} 192.0.2.1"), 0x11, [&v4.octets()[..], &[0; 8]].concat()),
                IpAddr::V6(v6) => (format!("TCP6 {v6} 2001:db8::1"), 0x21, [&v6.octets()[..], &[0; 20]].concat()),
            };
            let line = format!("PROXY {line} {} {}", ports.0, ports.1);
            prop_assert_eq!(source_in_line(line.as_bytes()).unwrap(), Some(source));
            prop_assert_eq!(source_in_block(0x21, family, &block).unwrap(), Some(source));
        }

        #[test]
        fn any_line_gets_an_answer(line in "PROXY (TCP4|TCP6|UNKNOWN)?[ 0-9a-f.:\\r\u{0}]{0,80}") {
            if let Ok(Some(source)) = source_in_line(line.as_bytes()) {
                prop_assert_eq!(line.starts_with("PROXY TCP4 "), source.is_ipv4());
            }
        }

        #[test]
        fn any_block_gets_an_answer(command: u8, family: u8, addresses in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(source)) = source_in_block(command, family, &addresses) {
                let expected = if source.is_ipv4() { (0x21, 0x11) } else { (0x21, 0x21) };
                prop_assert_eq!((command, family), expected);
            }
        }
    }
}
