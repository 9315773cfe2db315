//! The store in memory: for one process, and gone with it.

use super::local::{Leases, Removals, TakenNames, page};
use super::{
    About, Claim, Creation, Filter, Lease, Lookup, OnceName, Page, Record, Replacement, SessionStore, StoreError,
};
use crate::clock::{Mono, Now};
use crate::session::SessionKey;
use async_trait::async_trait;
use dashmap::DashMap;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A concurrent map, and an index of users and provider sessions. Whoever holds the index may take a place in
/// `records`, never the other way round.
pub struct MemoryStore {
    most_sessions: usize,
    /// Boxed, since a map has many more places than it has entries.
    records: DashMap<SessionKey, Box<Kept>>,
    index: Mutex<Index>,
    ended: DashMap<SessionKey, Mono>,
    removals: Removals,
    leases: Leases,
    taken: TakenNames,
}

struct Kept {
    /// Of all sessions, in the order of their logins.
    number: u64,
    record: Record,
}

impl MemoryStore {
    /// For at most `most_sessions`.
    #[must_use]
    pub fn new(most_sessions: usize) -> MemoryStore {
        MemoryStore {
            most_sessions,
            records: DashMap::new(),
            index: Mutex::default(),
            ended: DashMap::new(),
            removals: Removals::default(),
            leases: Leases::default(),
            taken: TakenNames::default(),
        }
    }

    /// Whether it was there.
    fn take(&self, key: SessionKey, now: Mono) -> bool {
        let Some((_, kept)) = self.records.remove(&key) else { return false };
        if self.ended.len() < MOST_ENDED {
            self.ended.insert(key, now);
        }
        self.leases.forget(key);
        self.index().remove(kept.number, &kept.record.about);
        true
    }

    fn keys_where(&self, selects: impl Fn(&Record) -> bool) -> Vec<SessionKey> {
        self.records.iter().filter(|kept| selects(&kept.record)).map(|kept| *kept.key()).collect()
    }

    /// What `filter` selects, without a look at everything where it names somebody.
    fn selected(&self, filter: &Filter) -> Vec<SessionKey> {
        let candidates = self.index().candidates(filter);
        let Some(mut keys) = candidates else { return self.keys_where(|record| filter.selects(&record.about)) };
        keys.retain(|key| self.records.get(key).is_some_and(|kept| filter.selects(&kept.record.about)));
        keys
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
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
            // Inserted while the index is held: whoever finds it there finds its record.
            let mut index = self.index();
            let mut others = index.of_user(&about);
            others.retain(|other| {
                self.records.get(other).is_some_and(|other| {
                    let other = &other.record;
                    let is_same_user = other.about.subject == about.subject && other.about.issuer == about.issuer;
                    is_same_user && now.mono < other.expires
                })
            });
            let number = index.add(key, &about);
            self.records.insert(key, Box::new(Kept { number, record }));
            let surplus = (others.len() + 1).saturating_sub(most_per_user.max(1));
            others.truncate(surplus);
            others
        };
        // After the insertion: a removal that runs meanwhile sees the record, or is seen here.
        if self.removals.concern(&about) {
            self.take(key, now.mono);
            return Ok(Creation::Revoked);
        }
        for &key in &evicted {
            self.take(key, now.mono);
        }
        Ok(Creation::Created { evicted })
    }

    async fn find(&self, key: SessionKey, now: Now) -> Result<Lookup, StoreError> {
        let found = self.records.get(&key).map(|kept| kept.record.clone());
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
        let kept = self.records.get_mut(&key).filter(|kept| now.mono < kept.record.expires);
        let Some(mut kept) = kept else { return Ok(Replacement::Gone) };
        if kept.record.version != seen {
            return Ok(Replacement::Conflict(kept.record.clone()));
        }
        kept.record = record;
        Ok(Replacement::Replaced)
    }

    async fn touch(&self, key: SessionKey, seen_at: Mono, expires: Mono) -> Result<(), StoreError> {
        // What has expired and was not swept yet is over all the same.
        if let Some(mut kept) = self.records.get_mut(&key).filter(|kept| seen_at < kept.record.expires) {
            let record = &mut kept.record;
            record.last_seen = record.last_seen.max(seen_at);
            record.expires = record.expires.max(expires);
        }
        Ok(())
    }

    async fn remove(&self, key: SessionKey, now: Now) -> Result<bool, StoreError> {
        Ok(self.take(key, now.mono))
    }

    async fn remove_where(&self, filter: &Filter, now: Now) -> Result<Vec<SessionKey>, StoreError> {
        if filter.subject.is_none() && filter.sid.is_none() {
            return Ok(Vec::new());
        }
        // Before the search: a login that is under way is found here, or finds this.
        self.removals.note(filter, now);
        let mut keys = self.selected(filter);
        keys.retain(|&key| self.take(key, now.mono));
        Ok(keys)
    }

    async fn list(&self, filter: &Filter, cursor: Option<&str>, now: Now) -> Result<Page, StoreError> {
        let is_live = |key: &SessionKey| self.records.get(key).is_some_and(|kept| now.mono < kept.record.expires);
        let mut keys = self.selected(filter);
        keys.retain(is_live);
        Ok(page(keys, cursor, |key| Some(self.records.get(&key)?.record.clone())))
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
        self.removals.sweep(now);
        self.taken.sweep(now);
        self.leases.retain(|key| self.records.contains_key(key));
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }
}

/// Whom a session is of, by hashes with a secret of this process: whoever finds one compares the names in the record.
#[derive(Default)]
struct Index {
    hasher: RandomState,
    logins: u64,
    /// Subject, issuer, number of the session: the oldest of a user comes first.
    by_user: BTreeMap<(u64, u64, u64), SessionKey>,
    /// Provider session, number of the session.
    by_sid: BTreeMap<(u64, u64), SessionKey>,
}

impl Index {
    /// The number it has from now on.
    fn add(&mut self, key: SessionKey, about: &About) -> u64 {
        self.logins += 1;
        let (subject, issuer) = self.user_of(about);
        self.by_user.insert((subject, issuer, self.logins), key);
        if let Some(sid) = &about.sid {
            self.by_sid.insert((self.hasher.hash_one(sid), self.logins), key);
        }
        self.logins
    }

    fn remove(&mut self, number: u64, about: &About) {
        let (subject, issuer) = self.user_of(about);
        self.by_user.remove(&(subject, issuer, number));
        if let Some(sid) = &about.sid {
            self.by_sid.remove(&(self.hasher.hash_one(sid), number));
        }
    }

    /// Oldest first.
    fn of_user(&self, about: &About) -> Vec<SessionKey> {
        let (subject, issuer) = self.user_of(about);
        self.by_user.range((subject, issuer, 0)..=(subject, issuer, u64::MAX)).map(|(_, &key)| key).collect()
    }

    /// Who may be meant by a filter that names a subject or a sid; None for others.
    fn candidates(&self, filter: &Filter) -> Option<Vec<SessionKey>> {
        if let Some(sid) = &filter.sid {
            let sid = self.hasher.hash_one(sid);
            return Some(self.by_sid.range((sid, 0)..=(sid, u64::MAX)).map(|(_, &key)| key).collect());
        }
        let subject = self.hasher.hash_one(filter.subject.as_ref()?);
        let keys = self.by_user.range((subject, 0, 0)..=(subject, u64::MAX, u64::MAX));
        Some(keys.map(|(_, &key)| key).collect())
    }

    fn user_of(&self, about: &About) -> (u64, u64) {
        (self.hasher.hash_one(&about.subject), self.hasher.hash_one(&about.issuer))
    }
}

/// Names of ended sessions are a courtesy (`status=expired`), so they are dropped rather than kept without bound.
const MOST_ENDED: usize = 100_000;
/// After this an ended session is as good as one that never was.
const REMEMBER_ENDED: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;
    use bytes::Bytes;

    const NOW: Now = Now { mono: Mono(1_000_000), unix: 1_800_000_000 };

    async fn created(store: &MemoryStore, subject: &str, sid: Option<&str>, expires: Mono) -> SessionKey {
        let key = SessionId::random().unwrap().key();
        let about = About {
            provider: "corp".into(),
            issuer: "https://idp".into(),
            subject: subject.into(),
            sid: sid.map(str::to_owned),
            started: NOW.mono,
            ends: expires,
            began: NOW.mono,
        };
        let record = Record { version: 1, last_seen: NOW.mono, expires, about, sealed: Bytes::new() };
        store.create(key, record, 2, NOW).await.unwrap();
        key
    }

    #[tokio::test]
    async fn the_index_has_what_there_is_and_nothing_else() {
        let store = MemoryStore::new(100);
        let later = NOW.mono.after(Duration::from_secs(60));
        for number in 0..3 {
            created(&store, "ada", Some("s1"), later).await;
            created(&store, "bob", Some(&number.to_string()), later).await;
            created(&store, "eve", None, NOW.mono.after(Duration::from_secs(1))).await;
        }
        let sizes = |store: &MemoryStore| {
            let index = store.index();
            (store.records.len(), index.by_user.len(), index.by_sid.len())
        };
        assert_eq!(sizes(&store), (6, 6, 4), "two of each user");
        store.sweep(Now { mono: NOW.mono.after(Duration::from_secs(2)), ..NOW }).await.unwrap();
        assert_eq!(sizes(&store), (4, 4, 4));
        let filter = Filter { sid: Some("s1".into()), ..Filter::default() };
        assert_eq!(store.remove_where(&filter, NOW).await.unwrap().len(), 2);
        assert_eq!(sizes(&store), (2, 2, 2));
        let bob = store.selected(&Filter { subject: Some("bob".into()), ..Filter::default() });
        for key in bob {
            assert!(store.remove(key, NOW).await.unwrap());
        }
        assert_eq!(sizes(&store), (0, 0, 0));
    }
}
