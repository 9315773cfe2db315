//! What the writer does within one transaction, and the index it keeps of it in memory.

use super::database::{Tables, decode_row, encode_row};
use crate::clock::{Mono, Now};
use crate::session::SessionKey;
use crate::session::store::{About, Creation, Filter, OnceName, REMEMBER_REMOVALS, Record, Replacement};
use dashmap::DashMap;
use redb::{ReadableTable, ReadableTableMetadata};
use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is known of the records without reading them. Made from the file when it is opened, so that it never
/// disagrees with it for longer than a process lives.
#[derive(Default)]
pub(super) struct Index {
    pub(super) vitals: DashMap<SessionKey, Vitals>,
    filed: Mutex<Filings>,
    /// Begun refreshes.
    pub(super) leases: Mutex<HashMap<SessionKey, Leased>>,
    hasher: RandomState,
    /// A [`Mono`].
    looked_for_room: AtomicU64,
}

/// What touching changes, and where the record is filed.
#[derive(Clone, Copy)]
pub(super) struct Vitals {
    pub(super) version: u64,
    pub(super) last_seen: Mono,
    pub(super) expires: Mono,
    /// Whether the file has these times.
    pub(super) is_written: bool,
    filing: Filing,
}

#[derive(Clone, Copy)]
pub(super) struct Leased {
    pub(super) generation: u64,
    pub(super) owner: u128,
    pub(super) until: Mono,
}

/// Hashes instead of names, with a secret of this process: whoever uses one compares the names in the record.
#[derive(Clone, Copy)]
struct Filing {
    subject: u64,
    issuer: u64,
    started: Mono,
    sid: Option<u64>,
}

#[derive(Default)]
struct Filings {
    /// Subject, issuer, start, key: the oldest of a user comes first.
    by_user: BTreeSet<(u64, u64, Mono, [u8; 32])>,
    by_sid: BTreeSet<(u64, [u8; 32])>,
}

impl Index {
    pub(super) fn add(&self, key: SessionKey, record: &Record) {
        let filing = self.filing_of(&record.about);
        {
            let mut filed = self.filed();
            filed.by_user.insert((filing.subject, filing.issuer, filing.started, *key.as_bytes()));
            filed.by_sid.extend(filing.sid.map(|sid| (sid, *key.as_bytes())));
        }
        self.vitals.insert(key, Vitals::of(record, filing));
    }

    pub(super) fn remove(&self, key: SessionKey) {
        let Some((_, Vitals { filing, .. })) = self.vitals.remove(&key) else { return };
        let mut filed = self.filed();
        filed.by_user.remove(&(filing.subject, filing.issuer, filing.started, *key.as_bytes()));
        if let Some(sid) = filing.sid {
            filed.by_sid.remove(&(sid, *key.as_bytes()));
        }
    }

    /// What touching changed in this version of the record.
    pub(super) fn freshen(&self, key: &SessionKey, record: &mut Record) {
        if let Some(vitals) = self.vitals.get(key)
            && vitals.version == record.version
        {
            record.last_seen = record.last_seen.max(vitals.last_seen);
            record.expires = record.expires.max(vitals.expires);
        }
    }

    /// Who may be meant by a filter that names a subject or a sid, and now and then somebody else; None for others.
    pub(super) fn candidates(&self, filter: &Filter) -> Option<Vec<SessionKey>> {
        let filed = self.filed();
        if let Some(sid) = &filter.sid {
            let sid = self.hasher.hash_one(sid);
            let keys = filed.by_sid.range((sid, [0; 32])..=(sid, [u8::MAX; 32]));
            return Some(keys.map(|(_, key)| SessionKey::from_bytes(*key)).collect());
        }
        let subject = self.hasher.hash_one(filter.subject.as_ref()?);
        let last = (subject, u64::MAX, Mono(u64::MAX), [u8::MAX; 32]);
        let keys = filed.by_user.range((subject, 0, Mono(0), [0; 32])..=last);
        Some(keys.map(|(.., key)| SessionKey::from_bytes(*key)).collect())
    }

    pub(super) fn leases(&self) -> MutexGuard<'_, HashMap<SessionKey, Leased>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Oldest first.
    fn of_user(&self, about: &About) -> Vec<SessionKey> {
        let Filing { subject, issuer, .. } = self.filing_of(about);
        let last = (subject, issuer, Mono(u64::MAX), [u8::MAX; 32]);
        let filed = self.filed();
        let keys = filed.by_user.range((subject, issuer, Mono(0), [0; 32])..=last);
        keys.map(|(.., key)| SessionKey::from_bytes(*key)).collect()
    }

    fn filing_of(&self, about: &About) -> Filing {
        Filing {
            subject: self.hasher.hash_one(&about.subject),
            issuer: self.hasher.hash_one(&about.issuer),
            started: about.started,
            sid: about.sid.as_ref().map(|sid| self.hasher.hash_one(sid)),
        }
    }

    fn filed(&self) -> MutexGuard<'_, Filings> {
        self.filed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vitals {
    fn of(record: &Record, filing: Filing) -> Vitals {
        Vitals {
            version: record.version,
            last_seen: record.last_seen,
            expires: record.expires,
            is_written: true,
            filing,
        }
    }

    /// False for a session that is over: nobody brings it back by using it.
    pub(super) fn touch(&mut self, seen_at: Mono, expires: Mono) -> bool {
        let is_news = seen_at < self.expires && (seen_at > self.last_seen || expires > self.expires);
        if is_news {
            self.last_seen = self.last_seen.max(seen_at);
            self.expires = self.expires.max(expires);
            self.is_written = false;
        }
        is_news
    }
}

/// Removals by filter, youngest last.
pub(super) type Removals = Vec<(Filter, Mono)>;

/// One transaction. What it does to the index counts at once; when the transaction fails, the index is made anew.
pub(super) struct Ledger<'a, 'txn> {
    pub(super) tables: Tables<'txn>,
    pub(super) index: &'a Index,
    pub(super) removals: &'a mut Removals,
    pub(super) most_sessions: usize,
    /// Whether there is anything to commit.
    pub(super) has_changed: bool,
    /// Rows that could not be decoded.
    pub(super) undecodable: u64,
}

impl Ledger<'_, '_> {
    pub(super) fn create(
        &mut self,
        key: SessionKey,
        record: &Record,
        most_per_user: usize,
        now: Now,
    ) -> Result<Creation, redb::Error> {
        if self.was_revoked(&record.about, now.mono) {
            return Ok(Creation::Revoked);
        }
        if self.is_full() {
            self.make_room(now.mono)?;
            if self.is_full() {
                return Ok(Creation::Full);
            }
        }
        let mut evicted = Vec::new();
        let mut others = self.index.of_user(&record.about);
        // What has expired and was not swept yet takes nobody's place.
        others.retain(|key| self.index.vitals.get(key).is_some_and(|vitals| now.mono < vitals.expires));
        let surplus = (others.len() + 1).saturating_sub(most_per_user.max(1));
        for &other in &others[..surplus] {
            if self.read(other)?.is_some_and(|other| is_same_user(&other.about, &record.about)) {
                self.take(other, now.mono)?;
                evicted.push(other);
            }
        }
        self.put(key, record)?;
        Ok(Creation::Created { evicted })
    }

    pub(super) fn replace(
        &mut self,
        key: SessionKey,
        seen: u64,
        record: &Record,
        now: Now,
    ) -> Result<Replacement, redb::Error> {
        let Some(mut newest) = self.read(key)? else { return Ok(Replacement::Gone) };
        self.index.freshen(&key, &mut newest);
        if now.mono >= newest.expires {
            return Ok(Replacement::Gone);
        }
        if newest.version != seen {
            return Ok(Replacement::Conflict(newest));
        }
        self.put(key, record)?;
        Ok(Replacement::Replaced)
    }

    /// Whether it was there.
    pub(super) fn take(&mut self, key: SessionKey, now: Mono) -> Result<bool, redb::Error> {
        if self.tables.records.remove(key.as_bytes())?.is_none() {
            return Ok(false);
        }
        self.has_changed = true;
        self.tables.touched.remove(key.as_bytes())?;
        self.tables.refreshes.remove(key.as_bytes())?;
        if self.tables.ended.len()? < MOST_ENDED {
            self.tables.ended.insert(key.as_bytes(), now.0)?;
        }
        self.index.remove(key);
        self.index.leases().remove(&key);
        Ok(true)
    }

    pub(super) fn remove_where(&mut self, filter: &Filter, now: Mono) -> Result<Vec<SessionKey>, redb::Error> {
        let Some(candidates) = self.index.candidates(filter) else { return Ok(Vec::new()) };
        self.has_changed = true;
        let number = self.tables.removals.last()?.map_or(0, |(number, _)| number.value() + 1);
        self.tables.removals.insert(number, (encode_filter(filter).as_slice(), now.0))?;
        self.removals.push((filter.clone(), now));
        let mut removed = Vec::new();
        for key in candidates {
            if self.read(key)?.is_some_and(|record| filter.selects(&record.about)) && self.take(key, now)? {
                removed.push(key);
            }
        }
        Ok(removed)
    }

    pub(super) fn mark_refresh(&mut self, key: SessionKey, generation: u64, owner: u128) -> Result<(), redb::Error> {
        self.has_changed = true;
        self.tables.refreshes.insert(key.as_bytes(), (generation, owner))?;
        Ok(())
    }

    /// Forgets the mark of this owner, unless another has put its own there since.
    pub(super) fn unmark_refresh(&mut self, key: SessionKey, owner: u128) -> Result<(), redb::Error> {
        let marked = self.tables.refreshes.get(key.as_bytes())?.map(|mark| mark.value().1);
        if marked == Some(owner) {
            self.has_changed = true;
            self.tables.refreshes.remove(key.as_bytes())?;
        }
        Ok(())
    }

    pub(super) fn take_once(&mut self, name: &OnceName, life: Duration, now: Mono) -> Result<bool, redb::Error> {
        if self.tables.is_taken(name, now.0)? {
            return Ok(false);
        }
        self.has_changed = true;
        self.tables.taken.insert(name.as_bytes(), now.after(life).0)?;
        Ok(true)
    }

    /// Drops what is over, `most` records of it at once, and writes up to `most` touches. Whether all is done.
    pub(super) fn sweep(&mut self, now: Mono, most: usize) -> Result<bool, redb::Error> {
        let expired = self.remove_expired(now, most)?;
        let touches = self.write_touches(most)?;
        let over = |at: u64, life: Duration| now.since(Mono(at)) >= life;
        let mut dropped = 0;
        let tables = &mut self.tables;
        let mut keep = |is_over: bool| {
            dropped += usize::from(is_over);
            !is_over
        };
        if tables.ended.iter()?.any(|row| row.is_ok_and(|(_, at)| over(at.value(), REMEMBER_ENDED))) {
            tables.ended.retain(|_, at| keep(over(at, REMEMBER_ENDED)))?;
        }
        if tables.removals.iter()?.any(|row| row.is_ok_and(|(_, row)| over(row.value().1, REMEMBER_REMOVALS))) {
            tables.removals.retain(|_, (_, at)| keep(over(at, REMEMBER_REMOVALS)))?;
        }
        if tables.taken.iter()?.any(|row| row.is_ok_and(|(_, until)| now.0 >= until.value())) {
            tables.taken.retain(|_, until| keep(now.0 >= until))?;
        }
        self.has_changed |= dropped > 0;
        self.removals.retain(|&(_, at)| now.since(at) < REMEMBER_REMOVALS);
        self.drop_stray_refreshes()?;
        Ok(expired < most && touches < most)
    }

    /// How many were written.
    pub(super) fn write_touches(&mut self, most: usize) -> Result<usize, redb::Error> {
        let is_news = |vitals: &Vitals| !vitals.is_written;
        let keys: Vec<SessionKey> =
            self.index.vitals.iter().filter(|one| is_news(one.value())).map(|one| *one.key()).take(most).collect();
        for key in &keys {
            let Some(mut vitals) = self.index.vitals.get_mut(key) else { continue };
            vitals.is_written = true;
            let row = (vitals.version, vitals.last_seen.0, vitals.expires.0);
            drop(vitals);
            self.tables.touched.insert(key.as_bytes(), row)?;
            self.has_changed = true;
        }
        Ok(keys.len())
    }

    fn is_full(&self) -> bool {
        self.index.vitals.len() >= self.most_sessions
    }

    fn was_revoked(&self, about: &About, now: Mono) -> bool {
        let is_remembered = |at: Mono| now.since(at) < REMEMBER_REMOVALS;
        self.removals.iter().any(|(filter, at)| is_remembered(*at) && *at >= about.began && filter.selects(about))
    }

    fn read(&mut self, key: SessionKey) -> Result<Option<Record>, redb::Error> {
        let Some(row) = self.tables.records.get(key.as_bytes())? else { return Ok(None) };
        let record = decode_row(&key, row.value());
        self.undecodable += u64::from(record.is_none());
        Ok(record)
    }

    fn put(&mut self, key: SessionKey, record: &Record) -> Result<(), redb::Error> {
        self.has_changed = true;
        self.tables.records.insert(key.as_bytes(), encode_row(&key, record).as_slice())?;
        self.index.add(key, record);
        Ok(())
    }

    /// Looks at all sessions, so no crowd of logins makes it do that for each of them.
    fn make_room(&mut self, now: Mono) -> Result<(), redb::Error> {
        let looked = Mono(self.index.looked_for_room.load(Ordering::Relaxed));
        if looked == Mono::default() || now.since(looked) >= LOOK_FOR_ROOM_EVERY {
            self.index.looked_for_room.store(now.0, Ordering::Relaxed);
            self.remove_expired(now, usize::MAX)?;
        }
        Ok(())
    }

    fn remove_expired(&mut self, now: Mono, most: usize) -> Result<usize, redb::Error> {
        let is_over = |vitals: &Vitals| now >= vitals.expires;
        let keys: Vec<SessionKey> =
            self.index.vitals.iter().filter(|one| is_over(one.value())).map(|one| *one.key()).take(most).collect();
        for &key in &keys {
            self.take(key, now)?;
        }
        Ok(keys.len())
    }

    /// Those of sessions that ended while the refresh was going on.
    fn drop_stray_refreshes(&mut self) -> Result<(), redb::Error> {
        let is_stray = |key: &SessionKey| !self.index.vitals.contains_key(key);
        let mut leases = self.index.leases();
        let stray: Vec<SessionKey> = leases.keys().filter(|key| is_stray(key)).copied().collect();
        leases.retain(|key, _| !stray.contains(key));
        drop(leases);
        for key in stray {
            self.has_changed |= self.tables.refreshes.remove(key.as_bytes())?.is_some();
        }
        Ok(())
    }
}

pub(super) fn decode_filter(bytes: &[u8]) -> Option<Filter> {
    let (issuer, subject, sid) = serde_json::from_slice(bytes).ok()?;
    Some(Filter { issuer, subject, sid })
}

fn encode_filter(filter: &Filter) -> Vec<u8> {
    serde_json::to_vec(&(&filter.issuer, &filter.subject, &filter.sid)).unwrap_or_default()
}

fn is_same_user(one: &About, other: &About) -> bool {
    one.issuer == other.issuer && one.subject == other.subject
}

/// Names of ended sessions are a courtesy (`status=expired`), so they are dropped rather than kept without bound.
const MOST_ENDED: u64 = 100_000;
/// After this an ended session is as good as one that never was.
const REMEMBER_ENDED: Duration = Duration::from_secs(24 * 3600);
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(1);
