//! What a store keeps of a session: in the open only what lists and filters need.

use crate::clock::Mono;
use crate::session::SessionKey;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One version of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Counts the writes; the first is 1.
    pub version: u64,
    /// When it was last used, to the minute.
    pub last_seen: Mono,
    /// When it is over, unless it is used before.
    pub expires: Mono,
    /// In the open.
    pub about: About,
    /// Everything else. Bound to the key, to `version` and to `about`.
    pub sealed: Bytes,
}

/// What is written in the open. Only `ends` may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The provider's name.
    pub provider: String,
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// The provider's own session.
    pub sid: Option<String>,
    /// When the session was opened.
    pub started: Mono,
    /// When it is over whatever happens.
    pub ends: Mono,
    /// When the login that it comes from began to redeem its code: a sign-out after this ends it.
    pub began: Mono,
}

/// As it stands in a file or a database: a format number, the version, two times, the length of the
/// JSON of [`About`], that JSON, the sealed rest. Numbers are big-endian.
impl Record {
    /// Bytes that [`Record::decode`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let about = serde_json::to_vec(&self.about).unwrap_or_default();
        let mut bytes = Vec::with_capacity(HEAD + about.len() + self.sealed.len());
        bytes.push(FORMAT);
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(self.last_seen.0.to_be_bytes());
        bytes.extend(self.expires.0.to_be_bytes());
        bytes.extend(u32::try_from(about.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(&about);
        bytes.extend(&self.sealed);
        bytes
    }

    /// What [`Record::sealed`] is bound to besides the session's id: it opens in no other record.
    #[must_use]
    pub fn seal_context(key: SessionKey, version: u64, about: &About) -> Vec<u8> {
        let about = serde_json::to_vec(about).unwrap_or_default();
        [key.as_bytes().as_slice(), &version.to_be_bytes(), &about].concat()
    }

    /// None for anything that this version has not written: a format of the future is no session.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let (&format, rest) = bytes.split_first()?;
        if format != FORMAT {
            return None;
        }
        let (&version, rest) = rest.split_first_chunk()?;
        let (&last_seen, rest) = rest.split_first_chunk()?;
        let (&expires, rest) = rest.split_first_chunk()?;
        let (&about, rest) = rest.split_first_chunk()?;
        let (about, sealed) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(about)).ok()?)?;
        Some(Record {
            version: u64::from_be_bytes(version),
            last_seen: Mono(u64::from_be_bytes(last_seen)),
            expires: Mono(u64::from_be_bytes(expires)),
            about: serde_json::from_slice(about).ok()?,
            sealed: Bytes::copy_from_slice(sealed),
        })
    }
}

const FORMAT: u8 = 1;
const HEAD: usize = 1 + 8 + 8 + 8 + 4;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        Record {
            version: 7,
            last_seen: Mono(1_700_000_000_000),
            expires: Mono(1_700_000_100_000),
            about: About {
                provider: "corp".into(),
                issuer: "https://idp".into(),
                subject: "ada\u{1f512}".into(),
                sid: None,
                started: Mono(3),
                ends: Mono(9),
                began: Mono(2),
            },
            sealed: Bytes::from_static(b"\0\x01sealed"),
        }
    }

    #[test]
    fn a_record_survives_the_way_there_and_back() {
        assert_eq!(Record::decode(&record().encode()), Some(record()));
    }

    // SC-12
    #[test]
    fn a_format_of_the_future_is_no_session() {
        let mut bytes = record().encode();
        bytes[0] = FORMAT + 1;
        assert_eq!(Record::decode(&bytes), None);
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_no_reason_to_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), cut in 0..200usize) {
            let _ = Record::decode(&bytes);
            let whole = record().encode();
            let _ = Record::decode(&whole[..cut.min(whole.len())]);
        }
    }
}
