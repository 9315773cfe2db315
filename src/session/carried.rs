//! Sessions that their browsers carry: the id and the record, sealed as one text and spread over cookies.
//!
//! The first cookie begins with the number of cookies, a base-36 digit. The rest is base64url of what
//! [`CarriedSealer`] makes of the id and [`Record::encode`]; chunks that are missing, of another version
//! or in another order do not open.

use super::cookie::{MOST_CHUNKS, SessionValues};
use super::seal::{CarriedSealer, NoRandomness};
use super::store::Record;
use super::{MOST_COOKIES, SessionId, SessionKey};
use crate::clock::Mono;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Reads and writes them.
pub(super) struct Carrier {
    sealer: CarriedSealer,
    most_chunks: usize,
    /// Answers at the same time set the same cookies: in whatever order a browser takes them, they fit together.
    lately: Cache<State, Arc<[String]>, Bytes>,
}

/// States with the same name are the same but for visits within one period.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    key: SessionKey,
    version: u64,
    period: u64,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<State, Arc<[String]>> for Bytes {
    fn weight(&self, _: &State, values: &Arc<[String]>) -> u64 {
        values.iter().map(|value| value.len() as u64).sum::<u64>() + 128
    }
}

/// Why a session cannot be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotCarried {
    /// It does not fit into the cookies that `limits.header_bytes` has room for.
    TooLarge,
    /// No random bytes to seal it.
    NoRandomness,
}

/// How many cookies of a session fit into headers of `header_bytes`, and leave room for the others.
#[must_use]
pub fn chunks_within(header_bytes: usize) -> usize {
    (header_bytes.saturating_sub(OTHER_HEADERS) / (CHUNK + COOKIE_NAME)).min(MOST_CHUNKS)
}

impl Carrier {
    /// The first secret seals, all open.
    pub(super) fn new(secrets: &[SecretString], most_chunks: usize) -> Result<Carrier, NoRandomness> {
        let lately = Cache::with_weighter(1024, LATELY, Bytes);
        Ok(Carrier { sealer: CarriedSealer::new(secrets)?, most_chunks: most_chunks.min(MOST_CHUNKS), lately })
    }

    /// Whether it fits.
    pub(super) fn fits(&self, record: &Record) -> bool {
        let sealed = ID + record.encode().len() + CarriedSealer::OVERHEAD;
        base64::encoded_len(sealed, false).is_some_and(|length| length < self.most_chunks * CHUNK)
    }

    /// The values of its cookies. `record` is asked for unless they were written lately, in the same period of
    /// this length.
    pub(super) fn write(
        &self,
        id: &SessionId,
        version: u64,
        last_seen: Mono,
        period: Duration,
        record: impl FnOnce() -> Result<Record, NoRandomness>,
    ) -> Result<Arc<[String]>, NotCarried> {
        let millis = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
        let state = State { key: id.key(), version, period: last_seen.0 / millis };
        self.lately.get_or_insert_with(&state, || {
            let record = record().map_err(|NoRandomness| NotCarried::NoRandomness)?;
            if !self.fits(&record) {
                return Err(NotCarried::TooLarge);
            }
            let plain = Zeroizing::new([&id.0[..], &record.encode()].concat());
            let sealed = self.sealer.seal(&plain).map_err(|NoRandomness| NotCarried::NoRandomness)?;
            Ok(split(&URL_SAFE_NO_PAD.encode(sealed)).into())
        })
    }

    /// The sessions that these cookies carry; one, unless somebody tries to confuse us.
    pub(super) fn read(&self, values: &SessionValues<'_>) -> Vec<(SessionId, Record)> {
        // Each beginning costs an attempt at all the chunks.
        values.first.iter().take(MOST_COOKIES).filter_map(|first| self.open(&join(first, values)?)).collect()
    }

    fn open(&self, text: &str) -> Option<(SessionId, Record)> {
        let plain = self.sealer.open(&URL_SAFE_NO_PAD.decode(text).ok()?)?;
        let (&id, record) = plain.split_first_chunk()?;
        Some((SessionId(id), Record::decode(record)?))
    }
}

fn split(text: &str) -> Vec<String> {
    // One more than the text, for the digit.
    let count = text.len() / CHUNK + 1;
    let digit = u32::try_from(count).ok().and_then(|count| char::from_digit(count, 36)).unwrap_or_default();
    let (first, mut rest) = text.split_at(text.len().min(CHUNK - 1));
    let mut values = vec![format!("{digit}{first}")];
    while !rest.is_empty() {
        let (value, after) = rest.split_at(rest.len().min(CHUNK));
        values.push(value.to_owned());
        rest = after;
    }
    values
}

fn join(first: &str, values: &SessionValues<'_>) -> Option<String> {
    let digit = first.chars().next().filter(|digit| !digit.is_ascii_uppercase())?;
    let count = usize::try_from(digit.to_digit(36)?).ok().filter(|count| (1..=MOST_CHUNKS).contains(count))?;
    let mut text = first[1..].to_owned();
    for number in 1..count {
        text.push_str(values.chunk(number)?);
    }
    Some(text)
}

/// Name and attributes fit beside it into the 4096 bytes that browsers take (RFC 6265 §6.1).
const CHUNK: usize = 3500;
/// `__Host-latchgate-31=`, and `; ` after it.
const COOKIE_NAME: usize = 22;
/// Cookies of others, logins under way, and everything else that a request says.
const OTHER_HEADERS: usize = 8 << 10;
const ID: usize = 32;
/// Cookies that were written lately.
const LATELY: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::super::cookie::Cookies;
    use super::super::store::About;
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn carrier(secrets: &[&str]) -> Carrier {
        let secrets: Vec<SecretString> = secrets.iter().map(|&secret| secret.into()).collect();
        Carrier::new(&secrets, 6).unwrap()
    }

    const OLD: &str = "the old secret, which is long enough";
    const NEW: &str = "the new secret, which is long enough";

    fn record(length: usize) -> Record {
        let about = About {
            provider: "corp".into(),
            issuer: "https://idp".into(),
            subject: "ada".into(),
            sid: None,
            started: Mono(3),
            ends: Mono(9),
            began: Mono(2),
        };
        let sealed = (0..length).map(|at| (at * 31 % 251) as u8).collect::<Vec<u8>>();
        Record { version: 7, last_seen: Mono(5), expires: Mono(8), about, sealed: sealed.into() }
    }

    fn write(carrier: &Carrier, length: usize) -> Vec<String> {
        let id = SessionId::random().unwrap();
        carrier.write(&id, 7, Mono(5), Duration::ZERO, || Ok(record(length))).unwrap().to_vec()
    }

    fn cookies_of(values: &[(usize, &str)]) -> Vec<HeaderValue> {
        let name = |number: usize| if number == 0 { "latchgate".to_owned() } else { format!("latchgate-{number}") };
        let pairs: Vec<String> = values.iter().map(|(number, value)| format!("{}={value}", name(*number))).collect();
        vec![HeaderValue::try_from(pairs.join("; ")).unwrap()]
    }

    fn read(carrier: &Carrier, values: &[(usize, &str)]) -> Option<Record> {
        let lines = cookies_of(values);
        carrier.read(&Cookies::new(false).session_values(&lines)).pop().map(|(_, record)| record)
    }

    fn numbered(values: &[String]) -> Vec<(usize, &str)> {
        values.iter().map(String::as_str).enumerate().collect()
    }

    proptest! {
        #[test]
        fn what_is_split_is_joined_again(length in 0..MOST_CHUNKS * CHUNK) {
            let text: String = ('a'..='z').cycle().take(length).collect();
            let values = split(&text);
            prop_assert!(values.iter().all(|value| value.len() <= CHUNK));
            let lines = cookies_of(&numbered(&values));
            let shown = Cookies::new(false).session_values(&lines);
            prop_assert_eq!(join(shown.first[0], &shown), Some(text));
        }

        #[test]
        fn any_harm_makes_it_no_session(at in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>()) {
            let carrier = carrier(&[OLD]);
            let values = write(&carrier, 10_000);
            let (whole, at) = (numbered(&values), at.index(values.len()));
            prop_assert_eq!(read(&carrier, &whole), Some(record(10_000)));

            let mut dropped = whole.clone();
            dropped.remove(at);
            prop_assert_eq!(read(&carrier, &dropped), None);

            let mut swapped = whole.clone();
            let other = (at + 1) % values.len();
            (swapped[at].1, swapped[other].1) = (swapped[other].1, swapped[at].1);
            prop_assert_eq!(read(&carrier, &swapped), None);

            let of_another = write(&carrier, 10_000);
            let mut mixed = whole.clone();
            mixed[at].1 = &of_another[at];
            prop_assert_eq!(read(&carrier, &mixed), None);

            let byte = byte.index(values[at].len());
            let mut flipped = values[at].clone().into_bytes();
            flipped[byte] = if flipped[byte] == b'A' { b'B' } else { b'A' };
            let flipped = String::from_utf8(flipped).unwrap();
            let mut damaged = whole.clone();
            damaged[at].1 = &flipped;
            prop_assert_eq!(read(&carrier, &damaged), None);

            let mut cut = whole.clone();
            cut[at].1 = &values[at][..byte];
            prop_assert_eq!(read(&carrier, &cut), None);
        }

        #[test]
        fn garbage_is_no_session(first in "[ -:<-~]{0,50}", second in "[ -:<-~]{0,50}") {
            let values = [(0, first.as_str()), (1, second.as_str())];
            prop_assert_eq!(read(&carrier(&[OLD]), &values), None);
        }
    }

    #[test]
    fn a_chunk_that_comes_twice_is_no_session_and_a_second_beginning_does_no_harm() {
        let carrier = carrier(&[OLD]);
        let values = write(&carrier, 5_000);
        let twice = [numbered(&values), vec![(1, "planted")]].concat();
        assert_eq!(read(&carrier, &twice), None);
        let planted = [vec![(0, "planted")], numbered(&values), vec![(0, "3AAAA")]].concat();
        assert_eq!(read(&carrier, &planted), Some(record(5_000)));
        let leftover = [numbered(&values), vec![(5, "older")]].concat();
        assert_eq!(read(&carrier, &leftover), Some(record(5_000)));
    }

    #[test]
    fn a_secret_can_be_rotated() {
        let values = write(&carrier(&[OLD]), 100);
        assert_eq!(read(&carrier(&[NEW, OLD]), &numbered(&values)), Some(record(100)));
        assert_eq!(read(&carrier(&[NEW]), &numbered(&values)), None);
        let again = write(&carrier(&[NEW, OLD]), 100);
        assert_eq!(read(&carrier(&[NEW]), &numbered(&again)), Some(record(100)));
    }

    #[test]
    fn what_fits_is_what_can_be_written() {
        let carrier = carrier(&[OLD]);
        let most = (0..20_000).rev().find(|&length| carrier.fits(&record(length))).unwrap();
        assert_eq!(write(&carrier, most).len(), 6);
        let id = SessionId::random().unwrap();
        let written = carrier.write(&id, 7, Mono(5), Duration::ZERO, || Ok(record(most + 1)));
        assert_eq!(written, Err(NotCarried::TooLarge));
    }

    #[test]
    fn answers_at_the_same_time_set_the_same_cookies() {
        let (carrier, id) = (carrier(&[OLD]), SessionId::random().unwrap());
        let write = |version, last_seen| {
            carrier.write(&id, version, Mono(last_seen), Duration::from_millis(10), || Ok(record(1))).unwrap()
        };
        let first = write(1, 100);
        assert_eq!(write(1, 109), first);
        assert_ne!(write(1, 110), first);
        assert_ne!(write(2, 110), write(1, 110));
    }

    #[test]
    fn the_number_of_cookies_follows_the_room_for_headers() {
        let within = [8, 12, 16, 32, 48, 1024].map(|kib| chunks_within(kib << 10));
        assert_eq!(within, [0, 1, 2, 6, 11, 32]);
    }
}
