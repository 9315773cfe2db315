//! The store in memory: for one process, and gone with it.

use super::local::{Leases, TakenNames};
use super::{
    About, Claim, Creation, Filter, Lease, Lookup, OnceName, Page, REMEMBER_REMOVALS, Record, Replacement,
    SessionStore, StoreError,
};
use crate::clock::{Mono, Now};
use crate::session::SessionKey;
use async_trait::async_trait;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Concurrent maps, and indices of users and provider sessions.
pub struct MemoryStore {
    most_sessions: usize,
    records: DashMap<SessionKey, Record>,
    /// Oldest first; `(issuer, subject)`.
    of_user: DashMap<(String, String), Vec<SessionKey>>,
    ended: DashMap<SessionKey, Mono>,
    removals: Mutex<Vec<(Filter, Mono)>>,
    leases: Leases,
    taken: TakenNames,
}

impl MemoryStore {
    /// For at most `most_sessions`.
    #[must_use]
    pub fn new(most_sessions: usize) -> MemoryStore {
        MemoryStore {
            most_sessions,
            records: DashMap::new(),
            of_user: DashMap::new(),
            ended: DashMap::new(),
            removals: Mutex::default(),
            leases: Leases::default(),
            taken: TakenNames::default(),
        }
    }

    fn take(&self, key: SessionKey, now: Mono) -> Option<Record> {
        let (_, record) = self.records.remove(&key)?;
        if self.ended.len() < MOST_ENDED {
            self.ended.insert(key, now);
        }
        self.leases.forget(key);
        if let Entry::Occupied(mut keys) = self.of_user.entry(user_of(&record.about)) {
            keys.get_mut().retain(|&other| other != key);
            if keys.get().is_empty() {
                keys.remove();
            }
        }
        Some(record)
    }

    fn was_revoked(&self, about: &About, now: Mono) -> bool {
        let mut removals = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        removals.retain(|&(_, at)| now.since(at) < REMEMBER_REMOVALS);
        removals.iter().any(|(filter, at)| *at >= about.began && filter.selects(about))
    }

    fn keys_where(&self, selects: impl Fn(&Record) -> bool) -> Vec<SessionKey> {
        self.records.iter().filter(|record| selects(record)).map(|record| *record.key()).collect()
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn create(
        &self,
        key: SessionKey,
        record: Record,
        most_per_user: usize,
        now: Now,
    ) -> Result<Creation, StoreError> {
        if self.records.len() >= self.most_sessions {
            self.sweep(now).await?;
            if self.records.len() >= self.most_sessions {
                return Ok(Creation::Full);
            }
        }
        let about = record.about.clone();
        let evicted = {
            // Inserted under the user's lock: whoever evicts it finds it.
            let mut keys = self.of_user.entry(user_of(&about)).or_default();
            let is_live = |key: &&SessionKey| self.records.get(key).is_some_and(|record| now.mono < record.expires);
            let live: Vec<SessionKey> = keys.iter().filter(is_live).copied().collect();
            keys.push(key);
            self.records.insert(key, record);
            let surplus = (live.len() + 1).saturating_sub(most_per_user.max(1));
            live[..surplus].to_vec()
        };
        // After the insertion: a removal that runs meanwhile sees the record, or is seen here.
        if self.was_revoked(&about, now.mono) {
            self.take(key, now.mono);
            return Ok(Creation::Revoked);
        }
        for &key in &evicted {
            self.take(key, now.mono);
        }
        Ok(Creation::Created { evicted })
    }

    async fn find(&self, key: SessionKey, now: Now) -> Result<Lookup, StoreError> {
        let found = self.records.get(&key).map(|record| record.clone());
        Ok(match found {
            Some(record) if now.mono < record.expires => Lookup::Live(record),
            Some(_) => {
                self.take(key, now.mono);
                Lookup::Ended
            }
            None if self.ended.contains_key(&key) => Lookup::Ended,
            None => Lookup::Unknown,
        })
    }

    async fn replace(&self, key: SessionKey, seen: u64, record: Record, now: Now) -> Result<Replacement, StoreError> {
        let slot = self.records.get_mut(&key).filter(|slot| now.mono < slot.expires);
        let Some(mut slot) = slot else { return Ok(Replacement::Gone) };
        if slot.version != seen {
            return Ok(Replacement::Conflict(slot.clone()));
        }
        *slot = record;
        Ok(Replacement::Replaced)
    }

    async fn touch(&self, key: SessionKey, seen_at: Mono, expires: Mono) -> Result<(), StoreError> {
        // What has expired and was not swept yet is over all the same.
        if let Some(mut record) = self.records.get_mut(&key).filter(|record| seen_at < record.expires) {
            record.last_seen = record.last_seen.max(seen_at);
            record.expires = record.expires.max(expires);
        }
        Ok(())
    }

    async fn remove(&self, key: SessionKey, now: Now) -> Result<bool, StoreError> {
        Ok(self.take(key, now.mono).is_some())
    }

    async fn remove_where(&self, filter: &Filter, now: Now) -> Result<Vec<SessionKey>, StoreError> {
        if filter.subject.is_none() && filter.sid.is_none() {
            return Ok(Vec::new());
        }
        self.removals.lock().unwrap_or_else(PoisonError::into_inner).push((filter.clone(), now.mono));
        let mut keys = self.keys_where(|record| filter.selects(&record.about));
        keys.retain(|&key| self.take(key, now.mono).is_some());
        Ok(keys)
    }

    async fn list(&self, filter: &Filter, cursor: Option<&str>, now: Now) -> Result<Page, StoreError> {
        let after = cursor.and_then(SessionKey::from_hex);
        let mut keys = self.keys_where(|record| now.mono < record.expires && filter.selects(&record.about));
        keys.retain(|key| after.is_none_or(|after| key.as_bytes() > after.as_bytes()));
        keys.sort_unstable_by_key(|key| *key.as_bytes());
        let next = keys.get(PAGE).map(|_| keys[PAGE - 1].to_hex());
        keys.truncate(PAGE);
        let records = keys.into_iter().filter_map(|key| Some((key, self.records.get(&key)?.clone()))).collect();
        Ok(Page { records, next })
    }

    async fn lease(&self, claim: &Claim, now: Now) -> Result<Lease, StoreError> {
        Ok(self.leases.lease(claim, now))
    }

    async fn renew_lease(&self, claim: &Claim, now: Now) -> Result<bool, StoreError> {
        Ok(self.leases.renew(claim, now))
    }

    async fn release_lease(&self, claim: &Claim, resolved: bool) -> Result<(), StoreError> {
        self.leases.release(claim, resolved);
        Ok(())
    }

    async fn take_once(&self, name: OnceName, life: Duration, now: Now) -> Result<bool, StoreError> {
        Ok(self.taken.take(name, life, now))
    }

    fn len(&self) -> Option<usize> {
        Some(self.records.len())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn sweep(&self, now: Now) -> Result<(), StoreError> {
        for key in self.keys_where(|record| now.mono >= record.expires) {
            self.take(key, now.mono);
        }
        self.ended.retain(|_, &mut at| now.mono.since(at) < REMEMBER_ENDED);
        self.taken.sweep(now);
        self.leases.retain(|key| self.records.contains_key(key));
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }
}

fn user_of(about: &About) -> (String, String) {
    (about.issuer.clone(), about.subject.clone())
}

/// Names of ended sessions are a courtesy (`status=expired`), so they are dropped rather than kept without bound.
const MOST_ENDED: usize = 100_000;
/// After this an ended session is as good as one that never was.
const REMEMBER_ENDED: Duration = Duration::from_secs(24 * 3600);
const PAGE: usize = 100;
