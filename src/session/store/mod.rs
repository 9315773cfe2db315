//! Where sessions are kept: records by key, and what several gateways need in common to agree on them.
//!
//! A store knows nothing of cookies, tokens or sealing; [`super::Sessions`] does. It keeps its promises
//! for one process or for many, and one suite holds all of them to these:
//!
//! 1. A record is written under a key that nobody chose, once.
//! 2. A write replaces the version it has seen or nothing (compare and swap).
//! 3. What was removed stays removed: no write brings it back, and no login that was under way when its
//!    user was signed out survives.
//! 4. What was acknowledged is there: for the next reader, and for durable stores after a crash.
//! 5. A store that cannot be reached says so; it never says "nothing there" instead.

mod cookie;
#[cfg(test)]
pub(crate) mod failing;
mod file;
mod local;
mod memory;
mod record;
pub mod redis;

pub use cookie::{Adoption, Bounds, CookieStore};
pub use file::{FileProblem, FileSettings, FileStore};
pub use memory::MemoryStore;
pub use record::{About, Record};

use super::SessionKey;
use crate::clock::{Mono, Now};
use async_trait::async_trait;
use aws_lc_rs::digest::{Context, SHA256};
use std::fmt;
use std::time::Duration;

/// Records by key. Every future may be dropped at any point; what it has not acknowledged may or may
/// not have happened.
#[async_trait]
#[expect(clippy::len_without_is_empty, reason = "a number for operators, and nobody asks whether it is zero")]
pub trait SessionStore: Send + Sync + 'static {
    /// Keeps a new record, unless its user or its provider session was removed after the login began.
    /// The user's oldest records beyond `most_per_user` are removed.
    async fn create(
        &self,
        key: SessionKey,
        record: Record,
        most_per_user: usize,
        now: Now,
    ) -> Result<Creation, StoreError>;

    /// The newest record.
    async fn find(&self, key: SessionKey, now: Now) -> Result<Lookup, StoreError>;

    /// Puts `record` in the place of version `seen`. `record.version` is larger than `seen`.
    async fn replace(&self, key: SessionKey, seen: u64, record: Record, now: Now) -> Result<Replacement, StoreError>;

    /// Somebody used the session: it now lives until `expires`. No new version; may be lost in a crash.
    async fn touch(&self, key: SessionKey, seen_at: Mono, expires: Mono) -> Result<(), StoreError>;

    /// Removes a record. Whether it was there; Ok is only said when it is gone for all.
    async fn remove(&self, key: SessionKey, now: Now) -> Result<bool, StoreError>;

    /// Removes what `filter` selects, logins under way included, and names it.
    async fn remove_where(&self, filter: &Filter, now: Now) -> Result<Vec<SessionKey>, StoreError>;

    /// One page of what is there, in no particular order. `cursor` is None at first, then [`Page::next`].
    async fn list(&self, filter: &Filter, cursor: Option<&str>, now: Now) -> Result<Page, StoreError>;

    /// The right to refresh this generation of this session, for `claim.life`, for one of all gateways.
    async fn lease(&self, claim: &Claim, now: Now) -> Result<Lease, StoreError>;

    /// Prolongs a lease by `claim.life` from now. False when it is no longer ours.
    async fn renew_lease(&self, claim: &Claim, now: Now) -> Result<bool, StoreError>;

    /// Gives a lease back. `resolved`: it is known what became of the refresh token; else the next holder of a
    /// lease on the same generation learns that this one was interrupted.
    async fn release_lease(&self, claim: &Claim, resolved: bool) -> Result<(), StoreError>;

    /// Whether this is the first time anyone asks for `name` within `life`: for states, codes and `jti`s,
    /// each of which counts once.
    async fn take_once(&self, name: OnceName, life: Duration, now: Now) -> Result<bool, StoreError>;

    /// How many there are, if that is cheap to know.
    fn len(&self) -> Option<usize>;

    /// Whether it can be reached.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Drops what is over. Called every half minute.
    async fn sweep(&self, now: Now) -> Result<(), StoreError>;

    /// Whether what was acknowledged survives the process.
    fn is_durable(&self) -> bool;

    /// Writes what is still to be written. The last call.
    async fn close(&self) {}
}

/// What [`SessionStore::create`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// It is kept; these of the same user had to go for it.
    Created {
        /// The oldest ones.
        evicted: Vec<SessionKey>,
    },
    /// The user, or the provider session, was signed out after this login began.
    Revoked,
    /// No room: nobody else is signed out for it.
    Full,
}

/// What [`SessionStore::find`] found.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// A record that has not expired.
    Live(Record),
    /// There was one, and it is over.
    Ended,
    /// Nothing is known under this name.
    Unknown,
}

/// What [`SessionStore::replace`] did.
#[derive(Debug, Clone)]
pub enum Replacement {
    /// The new record is the newest.
    Replaced,
    /// Somebody was faster; this is the newest.
    Conflict(Record),
    /// It has ended.
    Gone,
}

/// Which records; what is None does not matter. To select anything at all, `subject` or `sid` must be given
/// for [`SessionStore::remove_where`]; for [`SessionStore::list`] both may be None.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// `iss`, byte by byte.
    pub issuer: Option<String>,
    /// `sub`, byte by byte.
    pub subject: Option<String>,
    /// The provider's `sid`, byte by byte.
    pub sid: Option<String>,
}

impl Filter {
    /// Whether it selects what this is about.
    #[must_use]
    pub fn selects(&self, about: &About) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        same(&self.issuer, &about.issuer)
            && same(&self.subject, &about.subject)
            && self.sid.as_deref().is_none_or(|wanted| about.sid.as_deref() == Some(wanted))
    }
}

/// Some of what is there.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In no particular order. Over all pages each one that was there all the time comes at least once.
    pub records: Vec<(SessionKey, Record)>,
    /// Where to go on; None at the end.
    pub next: Option<String>,
}

/// A wish to refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Which session.
    pub key: SessionKey,
    /// Which of its token sets is to be replaced.
    pub generation: u64,
    /// Who asks: random, fresh for every claim.
    pub owner: u128,
    /// How long the lease holds without being renewed.
    pub life: Duration,
}

/// What became of a [`Claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Ours. `interrupted`: an earlier holder of a lease on this generation never said what became of it.
    Granted {
        /// It may have been sent, and spent.
        interrupted: bool,
    },
    /// Somebody else's, for now.
    Held,
}

/// SHA-256 of what counts once, with its purpose: names of different purposes never meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OnceName([u8; 32]);

/// The store cannot be asked. That is never "signed out".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreError {
    /// A label for logs and metrics.
    pub reason: &'static str,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the session store cannot be reached: {}", self.reason)
    }
}

impl std::error::Error for StoreError {}

impl OnceName {
    /// `purpose` is one of ours and has no NUL in it.
    #[must_use]
    pub fn new(purpose: &'static str, name: &str) -> OnceName {
        let mut hash = Context::new(&SHA256);
        hash.update(purpose.as_bytes());
        hash.update(b"\0");
        hash.update(name.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.finish().as_ref());
        OnceName(bytes)
    }

    /// As a store writes it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// How long a removal by [`Filter`] is remembered, so that no login under way survives it: longer than a
/// code can be redeemed.
pub const REMEMBER_REMOVALS: Duration = Duration::from_secs(600);
