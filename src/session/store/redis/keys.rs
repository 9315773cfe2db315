//! The names of keys, and their hash slots.
//!
//! | key | type | holds | lives |
//! |---|---|---|---|
//! | `{prefix}s:{SESSION}` | hash | the record | until it expires |
//! | `{prefix}m:{SESSION}` | string | there was one | until the session's absolute end |
//! | `{prefix}l:{SESSION}` | string | who holds the lease | as long as the lease |
//! | `{prefix}g:{SESSION}` | string | whose refresh of which generation is not known to have ended | until the absolute end |
//! | `{prefix}i:{INDEX}` | sorted set | sessions of a user or a provider session, oldest first | until the last one's absolute end |
//! | `{prefix}r:{INDEX}` | sorted set | removals, by time | [`REMEMBER_REMOVALS`](super::super::REMEMBER_REMOVALS) |
//! | `{prefix}o:{NAME}` | string | what counts once | as long as it counts |
//!
//! SESSION, INDEX and NAME are SHA-256 in hex and stand in braces (the hash tag of a cluster), so that the
//! keys of one session are in one slot, and those of one index in one slot.

use crate::session::SessionKey;
use crate::session::store::{About, OnceName};
use std::fmt::Write;

/// All names begin with the same prefix.
pub(super) struct Keys {
    prefix: String,
}

/// The keys of one session.
pub(super) struct SessionKeys {
    pub(super) slot: u16,
    pub(super) record: String,
    pub(super) marker: String,
    pub(super) lease: String,
    pub(super) refresh: String,
}

/// The keys of one index.
pub(super) struct IndexKeys {
    pub(super) slot: u16,
    pub(super) members: String,
    pub(super) removals: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Keys {
        Keys { prefix: prefix.to_owned() }
    }

    pub(super) fn session(&self, key: SessionKey) -> SessionKeys {
        let tag = key.to_hex();
        SessionKeys {
            slot: slot(tag.as_bytes()),
            record: self.name('s', &tag),
            marker: self.name('m', &tag),
            lease: self.name('l', &tag),
            refresh: self.name('g', &tag),
        }
    }

    /// Of all sessions of a subject, whoever issued it.
    pub(super) fn of_subject(&self, subject: &str) -> IndexKeys {
        self.index(&OnceName::new("subject", subject))
    }

    /// Of all sessions that come from one session at the provider, whoever issued it.
    pub(super) fn of_sid(&self, sid: &str) -> IndexKeys {
        self.index(&OnceName::new("sid", sid))
    }

    /// Every index that a session is in.
    pub(super) fn indices_of(&self, about: &About) -> Vec<IndexKeys> {
        let of_sid = about.sid.as_deref().map(|sid| self.of_sid(sid));
        [self.of_subject(&about.subject)].into_iter().chain(of_sid).collect()
    }

    pub(super) fn once(&self, name: &OnceName) -> (u16, String) {
        let tag = hex(name.as_bytes());
        (slot(tag.as_bytes()), self.name('o', &tag))
    }

    /// What the names of all records, and of nothing else, begin with.
    pub(super) fn record_prefix(&self) -> String {
        format!("{}s:", self.prefix)
    }

    /// Whose record has this name.
    pub(super) fn session_of(&self, record: &[u8]) -> Option<SessionKey> {
        let tag =
            std::str::from_utf8(record).ok()?.strip_prefix(&self.prefix)?.strip_prefix("s:{")?.strip_suffix('}')?;
        SessionKey::from_hex(tag)
    }

    fn index(&self, name: &OnceName) -> IndexKeys {
        let tag = hex(name.as_bytes());
        IndexKeys { slot: slot(tag.as_bytes()), members: self.name('i', &tag), removals: self.name('r', &tag) }
    }

    fn name(&self, kind: char, tag: &str) -> String {
        format!("{}{kind}:{{{tag}}}", self.prefix)
    }
}

/// One line of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) key: SessionKey,
    /// Tells users of different issuers with the same subject apart.
    issuer: String,
    /// The session's absolute end, in milliseconds.
    pub(super) ends: u64,
}

impl Member {
    pub(super) fn new(key: SessionKey, about: &About) -> Member {
        let issuer = hex(&OnceName::new("issuer", &about.issuer).as_bytes()[..8]);
        Member { key, issuer, ends: about.ends.0 }
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Member> {
        let mut parts = std::str::from_utf8(bytes).ok()?.split(':');
        let (key, issuer, ends) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Member { key: SessionKey::from_hex(key)?, issuer: issuer.to_owned(), ends: ends.parse().ok()? })
    }

    pub(super) fn is_of_same_issuer(&self, other: &Member) -> bool {
        self.issuer == other.issuer
    }

    pub(super) fn text(&self) -> String {
        format!("{}:{}:{}", self.key.to_hex(), self.issuer, self.ends)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The hash slot of what stands in the braces: CRC-16/XMODEM modulo 16384 (Redis Cluster specification,
/// "Key distribution model").
fn slot(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 { shifted } else { shifted ^ 0x1021 }
        })
    });
    crc % SLOTS
}

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot(b"123456789"), 0x31c3, "the check value of CRC-16/XMODEM");
        assert_eq!(slot(b"somekey"), 11058, "as the documentation of CLUSTER KEYSLOT says");
        assert_eq!(slot(b""), 0);
    }

    #[test]
    fn a_name_leads_back_to_its_session() {
        let keys = Keys::new("latchgate:");
        let key = SessionKey::from_bytes([7; 32]);
        let names = keys.session(key);
        assert_eq!(keys.session_of(names.record.as_bytes()), Some(key));
        assert!(names.record.starts_with(&keys.record_prefix()));
        for other in [&names.marker, &names.lease, &names.refresh] {
            assert_eq!(keys.session_of(other.as_bytes()), None);
            assert!(!other.starts_with(&keys.record_prefix()), "its changes are no changes of the session");
        }
        assert_eq!(keys.session_of(b"latchgate:s:{\xff}"), None);
    }

    #[test]
    fn a_member_is_read_as_it_was_written() {
        let about = About {
            provider: "corp".into(),
            issuer: "https://idp:8080".into(),
            subject: "ada".into(),
            sid: None,
            started: Mono(1),
            began: Mono(1),
            ends: Mono(3),
        };
        let member = Member::new(SessionKey::from_bytes([9; 32]), &about);
        assert_eq!(Member::parse(member.text().as_bytes()), Some(member.clone()));
        let elsewhere = Member::new(member.key, &About { issuer: "https://idp:8081".into(), ..about });
        assert!(!member.is_of_same_issuer(&elsewhere));
        assert_eq!(Member::parse(b"nonsense"), None);
    }
}
