//! The store in the cookies: browsers carry their sessions, and this process keeps what it must know
//! besides. It forgets all of it when it ends, and no other process knows it.
//!
//! What it knows of a session, and what is lost when it has to forget that (in this order):
//!
//! | it knows | without it |
//! |---|---|
//! | the record, which the browser has shown | nothing: the next request brings it again |
//! | the record, newer than what the browser has shown | tokens, if the browser never got the cookie: it signs in again |
//! | that there is a newer version, not the record | an outdated cookie would count, and spend a refresh token twice |
//! | that it has ended | a copy of its cookie would count again, for as long as it lives |
//!
//! Records are bounded in bytes, the rest in number. The last two go only when nothing else is left to
//! go, those first which end soonest, and the log says so.

use super::local::{Leases, TakenNames, any_concerns, page};
use super::{
    About, Claim, Creation, Filter, Lease, Lookup, OnceName, Page, Record, Replacement, SessionStore, StoreError,
};
use crate::clock::{Mono, Now};
use crate::session::SessionKey;
use async_trait::async_trait;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// See the module. Whoever holds a place in `known` may take `of_user` and `removals`, never the other way round.
pub struct CookieStore {
    bounds: Bounds,
    known: DashMap<SessionKey, Known>,
    /// Of the records kept: `(issuer, subject)`.
    of_user: DashMap<(String, String), Vec<SessionKey>>,
    /// When each was made. They count for as long as a cookie from before them can.
    removals: Mutex<HashMap<Filter, Mono>>,
    leases: Leases,
    taken: TakenNames,
    kept_bytes: AtomicU64,
    forgetting: Mutex<()>,
}

/// How much it may keep; at least what the requests need that are under way.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of how many sessions it knows anything.
    pub sessions: usize,
    /// What their records may take.
    pub bytes: u64,
    /// No session lives longer.
    pub longest_life: Duration,
}

/// What a record in a cookie is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The session lives; [`SessionStore::find`] has it.
    Live {
        /// Of the newest record: the cookie's, or a newer one.
        version: u64,
    },
    /// It has ended; or the cookie is outdated, and nobody here has what took its place.
    Ended,
}

struct Known {
    /// The newest there has been.
    version: u64,
    /// The newest that a browser has shown.
    shown: u64,
    expires: Mono,
    /// When the last of its versions is over, whatever happens.
    ends: Mono,
    used: Mono,
    state: State,
}

enum State {
    Kept(Record),
    Dropped,
    Ended,
}

impl CookieStore {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> CookieStore {
        CookieStore {
            bounds,
            known: DashMap::new(),
            of_user: DashMap::new(),
            removals: Mutex::default(),
            leases: Leases::default(),
            taken: TakenNames::default(),
            kept_bytes: AtomicU64::new(0),
            forgetting: Mutex::default(),
        }
    }

    /// A browser shows `carried`, which is genuine. It counts unless this process knows better.
    pub fn adopt(&self, key: SessionKey, carried: Record, now: Now) -> Adoption {
        let adoption = match self.known.entry(key) {
            Entry::Vacant(_) if now.mono >= carried.expires || self.was_removed(&carried.about) => Adoption::Ended,
            Entry::Vacant(place) => {
                let version = carried.version;
                place.insert(self.kept(key, carried, version, now));
                Adoption::Live { version }
            }
            Entry::Occupied(mut known) => self.meet(key, known.get_mut(), carried, now),
        };
        self.forget_what_is_too_much();
        adoption
    }

    fn meet(&self, key: SessionKey, known: &mut Known, carried: Record, now: Now) -> Adoption {
        let is_newest = carried.version >= known.version;
        match &mut known.state {
            State::Ended => return Adoption::Ended,
            State::Dropped if !is_newest => return Adoption::Ended,
            State::Kept(record) if carried.version < record.version => {}
            State::Kept(record) if carried.version == record.version => {
                record.last_seen = record.last_seen.max(carried.last_seen);
                record.expires = record.expires.max(carried.expires);
                known.expires = record.expires;
            }
            // Whoever removed it could not see whose it was.
            State::Dropped if self.was_removed(&carried.about) => {
                known.state = State::Ended;
                return Adoption::Ended;
            }
            State::Kept(_) | State::Dropped => {
                let mut carried = carried;
                if carried.version == known.version {
                    carried.expires = carried.expires.max(known.expires);
                }
                self.supersede(key, known, carried, now);
            }
        }
        if is_newest {
            known.shown = known.version;
        }
        known.used = now.mono;
        if now.mono < known.expires { Adoption::Live { version: known.version } } else { Adoption::Ended }
    }

    /// What is to be known of a record that is kept from now on.
    fn kept(&self, key: SessionKey, record: Record, shown: u64, now: Now) -> Known {
        self.kept_bytes.fetch_add(weight_of(&record), Ordering::Relaxed);
        self.of_user.entry(user_of(&record.about)).or_default().push(key);
        let Record { version, expires, .. } = record;
        Known { version, shown, expires, ends: record.about.ends, used: now.mono, state: State::Kept(record) }
    }

    /// Whatever is known makes room for `record`.
    fn supersede(&self, key: SessionKey, known: &mut Known, record: Record, now: Now) {
        self.drop_record(key, known, State::Dropped);
        let Known { shown, ends, .. } = *known;
        *known = self.kept(key, record, shown, now);
        known.ends = known.ends.max(ends);
    }

    /// The record goes, if it is there, and `instead` is what is known.
    fn drop_record(&self, key: SessionKey, known: &mut Known, instead: State) {
        if let State::Kept(record) = std::mem::replace(&mut known.state, instead) {
            self.kept_bytes.fetch_sub(weight_of(&record), Ordering::Relaxed);
            if let Entry::Occupied(mut keys) = self.of_user.entry(user_of(&record.about)) {
                keys.get_mut().retain(|&other| other != key);
                if keys.get().is_empty() {
                    keys.remove();
                }
            }
        }
    }

    /// Ends a session, known or not. Whether it lived.
    fn end(&self, key: SessionKey, now: Now) -> bool {
        let lived = match self.known.entry(key) {
            Entry::Vacant(place) => {
                let ends = now.mono.after(self.bounds.longest_life);
                place.insert(Known { version: 0, shown: 0, expires: ends, ends, used: now.mono, state: State::Ended });
                false
            }
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                let lived = !matches!(known.state, State::Ended) && now.mono < known.expires;
                self.drop_record(key, known, State::Ended);
                lived
            }
        };
        self.leases.forget(key);
        lived
    }

    fn was_removed(&self, about: &About) -> bool {
        let removals = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        any_concerns(&removals, about)
    }

    fn note_removal(&self, filter: &Filter, now: Now) {
        let mut removals = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        if removals.len() >= MOST_REMOVALS
            && let Some(oldest) = removals.iter().min_by_key(|&(_, &at)| at).map(|(filter, _)| filter.clone())
        {
            removals.remove(&oldest);
        }
        removals.insert(filter.clone(), now.mono);
    }

    /// Keys of the records that are kept and live.
    fn keys_where(&self, now: Now, selects: impl Fn(&Record) -> bool) -> Vec<SessionKey> {
        let is_wanted = |known: &Known| match &known.state {
            State::Kept(record) => now.mono < known.expires && selects(record),
            State::Dropped | State::Ended => false,
        };
        self.known.iter().filter(|known| is_wanted(known)).map(|known| *known.key()).collect()
    }

    fn record(&self, key: SessionKey) -> Option<Record> {
        match &self.known.get(&key)?.state {
            State::Kept(record) => Some(record.clone()),
            State::Dropped | State::Ended => None,
        }
    }

    /// The oldest beyond `most`, the new one counted: of several logins at once each names the same ones.
    fn user_has_too_many(&self, about: &About, most: usize, now: Now) -> Vec<SessionKey> {
        let keys = self.of_user.get(&user_of(about)).map(|keys| keys.clone()).unwrap_or_default();
        if keys.len() <= most {
            return Vec::new();
        }
        let live = keys.into_iter().filter_map(|key| Some((key, self.record(key)?)));
        let mut live: Vec<_> = live
            .filter(|(_, record)| now.mono < record.expires)
            .map(|(key, record)| (record.about.started, key))
            .collect();
        live.sort_unstable_by_key(|&(started, key)| (started, *key.as_bytes()));
        live.truncate(live.len().saturating_sub(most));
        live.into_iter().map(|(_, key)| key).collect()
    }

    /// A tenth more than needed, so that it is seldom done.
    fn forget_what_is_too_much(&self) {
        let too_many_bytes = || self.kept_bytes.load(Ordering::Relaxed) > self.bounds.bytes;
        let too_many_sessions = || self.known.len() > self.bounds.sessions;
        if !too_many_bytes() && !too_many_sessions() {
            return;
        }
        let Ok(_one_at_a_time) = self.forgetting.try_lock() else { return };
        if too_many_bytes() {
            self.drop_records();
        }
        if too_many_sessions() {
            self.forget_sessions();
        }
    }

    fn drop_records(&self) {
        let price = |known: &Known| (known.shown < known.version, known.used);
        let kept = self.known.iter().filter(|known| matches!(known.state, State::Kept(_)));
        let mut candidates: Vec<_> = kept.map(|known| (price(&known), *known.key())).collect();
        candidates.sort_unstable_by_key(|&(price, _)| price);
        let mut lost = 0;
        for ((is_loss, _), key) in candidates {
            if self.kept_bytes.load(Ordering::Relaxed) <= self.bounds.bytes - self.bounds.bytes / 10 {
                break;
            }
            if let Some(mut known) = self.known.get_mut(&key)
                && matches!(known.state, State::Kept(_))
            {
                lost += usize::from(is_loss);
                self.drop_record(key, &mut known, State::Dropped);
            }
        }
        if lost > 0 {
            tracing::warn!(
                lost,
                "no room for renewed sessions: session.cache_memory is too small for the cookie store"
            );
        }
    }

    fn forget_sessions(&self) {
        let price = |known: &Known| match known.state {
            State::Ended => (2, known.ends),
            // Nothing has ever taken the place of version 1.
            State::Kept(_) | State::Dropped if known.version <= 1 => (0, known.used),
            State::Kept(_) | State::Dropped => (1, known.ends),
        };
        let mut candidates: Vec<_> = self.known.iter().map(|known| (price(&known), *known.key())).collect();
        candidates.sort_unstable_by_key(|&(price, _)| price);
        let surplus = candidates.len().saturating_sub(self.bounds.sessions - self.bounds.sessions / 10);
        candidates.truncate(surplus);
        let lost = candidates.iter().filter(|((price, _), _)| *price > 0).count();
        for (_, key) in candidates {
            if let Entry::Occupied(mut known) = self.known.entry(key) {
                self.drop_record(key, known.get_mut(), State::Dropped);
                known.remove();
            }
        }
        if lost > 0 {
            tracing::warn!(
                lost,
                "outdated or ended sessions are forgotten before their time: session.max_sessions is too small for the cookie store"
            );
        }
    }
}

#[async_trait]
impl SessionStore for CookieStore {
    async fn create(
        &self,
        key: SessionKey,
        record: Record,
        most_per_user: usize,
        now: Now,
    ) -> Result<Creation, StoreError> {
        let (about, version) = (record.about.clone(), record.version);
        match self.known.entry(key) {
            _ if self.was_removed(&about) => return Ok(Creation::Revoked),
            Entry::Occupied(_) => return Err(StoreError { reason: "key_in_use" }),
            // Whoever gets an answer to the login has it in a cookie.
            Entry::Vacant(place) => place.insert(self.kept(key, record, version, now)),
        };
        let mut evicted = self.user_has_too_many(&about, most_per_user.max(1), now);
        evicted.retain(|&key| self.end(key, now));
        self.forget_what_is_too_much();
        Ok(Creation::Created { evicted })
    }

    async fn find(&self, key: SessionKey, now: Now) -> Result<Lookup, StoreError> {
        let Some(mut known) = self.known.get_mut(&key) else { return Ok(Lookup::Unknown) };
        known.used = now.mono;
        match &known.state {
            State::Ended => Ok(Lookup::Ended),
            _ if now.mono >= known.expires => Ok(Lookup::Ended),
            State::Kept(record) => Ok(Lookup::Live(record.clone())),
            State::Dropped => Err(NOT_KEPT),
        }
    }

    async fn replace(&self, key: SessionKey, seen: u64, record: Record, now: Now) -> Result<Replacement, StoreError> {
        let replacement = {
            let known = self.known.get_mut(&key).filter(|known| now.mono < known.expires);
            let Some(mut known) = known else { return Ok(Replacement::Gone) };
            match &known.state {
                State::Ended => Replacement::Gone,
                State::Kept(newest) if newest.version != seen => Replacement::Conflict(newest.clone()),
                State::Dropped if known.version != seen => return Err(NOT_KEPT),
                // As in `meet`: whoever removed it could not see whose it was.
                State::Dropped if self.was_removed(&record.about) => {
                    known.state = State::Ended;
                    Replacement::Gone
                }
                State::Kept(_) | State::Dropped => {
                    self.supersede(key, &mut known, record, now);
                    Replacement::Replaced
                }
            }
        };
        self.forget_what_is_too_much();
        Ok(replacement)
    }

    async fn touch(&self, key: SessionKey, seen_at: Mono, expires: Mono) -> Result<(), StoreError> {
        // What has expired and was not swept yet is over all the same.
        if let Some(mut known) = self.known.get_mut(&key).filter(|known| seen_at < known.expires) {
            known.expires = known.expires.max(expires);
            let expires = known.expires;
            if let State::Kept(record) = &mut known.state {
                record.last_seen = record.last_seen.max(seen_at);
                record.expires = expires;
            }
        }
        Ok(())
    }

    async fn remove(&self, key: SessionKey, now: Now) -> Result<bool, StoreError> {
        let lived = self.end(key, now);
        self.forget_what_is_too_much();
        Ok(lived)
    }

    async fn remove_where(&self, filter: &Filter, now: Now) -> Result<Vec<SessionKey>, StoreError> {
        if filter.subject.is_none() && filter.sid.is_none() {
            return Ok(Vec::new());
        }
        // Before the search: a cookie that comes meanwhile is found here, or finds this.
        self.note_removal(filter, now);
        let mut keys = self.keys_where(now, |record| filter.selects(&record.about));
        keys.retain(|&key| self.end(key, now));
        Ok(keys)
    }

    async fn list(&self, filter: &Filter, cursor: Option<&str>, now: Now) -> Result<Page, StoreError> {
        let keys = self.keys_where(now, |record| filter.selects(&record.about));
        Ok(page(keys, cursor, |key| self.record(key)))
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

    /// Nobody knows how many browsers carry one.
    fn len(&self) -> Option<usize> {
        None
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn sweep(&self, now: Now) -> Result<(), StoreError> {
        self.known.retain(|&key, known| {
            let is_over = now.mono >= known.expires;
            if is_over && matches!(known.state, State::Kept(_)) {
                self.drop_record(key, known, State::Dropped);
            }
            match known.state {
                // Nothing has ever taken the place of version 1.
                State::Kept(_) | State::Dropped if known.version <= 1 => !is_over,
                State::Kept(_) | State::Dropped | State::Ended => now.mono < known.ends,
            }
        });
        self.removals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, at| now.mono.since(*at) < self.bounds.longest_life);
        self.taken.sweep(now);
        self.leases.retain(|key| self.known.contains_key(key));
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }
}

fn user_of(about: &About) -> (String, String) {
    (about.issuer.clone(), about.subject.clone())
}

fn weight_of(record: &Record) -> u64 {
    record.sealed.len() as u64 + BESIDES
}

/// What the open part of a record takes, and its places in the maps.
const BESIDES: u64 = 768;
/// Users and provider sessions that were signed out at once; a provider, or an administrator, says so.
const MOST_REMOVALS: usize = 100_000;
const NOT_KEPT: StoreError = StoreError { reason: "record_not_kept" };

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { mono: Mono(1_000_000), unix: 1_800_000_000 };
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const BOUNDS: Bounds = Bounds { sessions: 100, bytes: 1 << 20, longest_life: Duration::from_secs(72 * 3600) };

    fn key(number: u8) -> SessionKey {
        SessionKey::from_bytes([number; 32])
    }

    fn record(subject: &str, version: u64) -> Record {
        let about = About {
            provider: "corp".into(),
            issuer: "https://idp".into(),
            subject: subject.into(),
            sid: Some(format!("sid of {subject}")),
            started: NOW.mono,
            ends: NOW.mono.after(3 * DAY),
            began: NOW.mono,
        };
        let sealed = vec![version as u8; 100].into();
        Record { version, last_seen: NOW.mono, expires: NOW.mono.after(DAY), about, sealed }
    }

    fn later(by: Duration) -> Now {
        Now { mono: NOW.mono.after(by), ..NOW }
    }

    fn of(subject: &str) -> Filter {
        Filter { issuer: Some("https://idp".into()), subject: Some(subject.into()), sid: None }
    }

    async fn found(store: &CookieStore, number: u8) -> Option<u64> {
        match store.find(key(number), NOW).await {
            Ok(Lookup::Live(record)) => Some(record.version),
            _ => None,
        }
    }

    async fn write(store: &CookieStore, number: u8, version: u64) {
        let replacement = store.replace(key(number), version - 1, record("ada", version), NOW).await;
        assert!(matches!(replacement, Ok(Replacement::Replaced)), "{replacement:?}");
    }

    #[tokio::test]
    async fn the_newest_that_is_known_counts() {
        let store = CookieStore::new(BOUNDS);
        assert_eq!(store.adopt(key(1), record("ada", 3), NOW), Adoption::Live { version: 3 });
        write(&store, 1, 4).await;
        assert_eq!(store.adopt(key(1), record("ada", 3), NOW), Adoption::Live { version: 4 }, "the predecessor");
        assert_eq!(found(&store, 1).await, Some(4));
        assert_eq!(store.adopt(key(1), record("ada", 6), NOW), Adoption::Live { version: 6 }, "written elsewhere");
        assert_eq!(found(&store, 1).await, Some(6));
        let outdated = store.replace(key(1), 4, record("ada", 5), NOW).await;
        assert!(matches!(outdated, Ok(Replacement::Conflict(newest)) if newest.version == 6));
    }

    #[tokio::test]
    async fn no_cookie_brings_back_what_has_ended() {
        let store = CookieStore::new(BOUNDS);
        store.adopt(key(1), record("ada", 1), NOW);
        assert_eq!(store.remove(key(1), NOW).await, Ok(true));
        assert_eq!(store.remove(key(2), NOW).await, Ok(false), "never seen here, and ended all the same");
        for number in [1, 2] {
            assert_eq!(store.adopt(key(number), record("ada", 9), NOW), Adoption::Ended);
            assert!(matches!(store.find(key(number), NOW).await, Ok(Lookup::Ended)));
            assert!(matches!(store.replace(key(number), 9, record("ada", 10), NOW).await, Ok(Replacement::Gone)));
        }
        store.sweep(later(2 * DAY)).await.unwrap();
        let rolled = Record { expires: NOW.mono.after(3 * DAY), ..record("ada", 9) };
        assert_eq!(store.adopt(key(1), rolled, later(2 * DAY)), Adoption::Ended);
    }

    #[tokio::test]
    async fn an_earlier_version_that_would_live_longer_does_not_come_back() {
        let store = CookieStore::new(BOUNDS);
        let shortened = |version| {
            let mut record = record("ada", version);
            (record.about.ends, record.expires) = (later(DAY / 24).mono, later(DAY / 24).mono);
            record
        };
        for number in [1, 2, 3] {
            store.adopt(key(number), record("ada", 1), NOW);
            assert!(matches!(store.replace(key(number), 1, shortened(2), NOW).await, Ok(Replacement::Replaced)));
        }
        store.remove(key(2), NOW).await.unwrap();
        assert_eq!(store.adopt(key(3), record("ada", 1), later(DAY / 12)), Adoption::Ended, "not swept yet");
        store.sweep(later(DAY / 12)).await.unwrap();
        for number in [1, 2, 3] {
            assert_eq!(store.adopt(key(number), record("ada", 1), later(DAY / 12)), Adoption::Ended, "{number}");
        }
    }

    #[tokio::test]
    async fn a_user_who_was_signed_out_is_so_in_browsers_that_come_later() {
        let store = CookieStore::new(BOUNDS);
        store.adopt(key(1), record("ada", 1), NOW);
        store.adopt(key(2), record("bob", 1), NOW);
        assert_eq!(store.remove_where(&of("ada"), NOW).await, Ok(vec![key(1)]));
        let by_sid = Filter { sid: Some("sid of eve".into()), ..Filter::default() };
        store.remove_where(&by_sid, NOW).await.unwrap();
        store.sweep(later(DAY / 2)).await.unwrap();
        for (number, subject, expected) in [
            (1, "ada", Adoption::Ended),
            (2, "bob", Adoption::Live { version: 1 }),
            (3, "ada", Adoption::Ended),
            (4, "eve", Adoption::Ended),
            (5, "bob", Adoption::Live { version: 1 }),
        ] {
            assert_eq!(store.adopt(key(number), record(subject, 1), NOW), expected, "{number} of {subject}");
        }
        let mut anew = record("ada", 1);
        anew.about.began = later(Duration::from_secs(1)).mono;
        assert_eq!(store.adopt(key(6), anew, NOW), Adoption::Live { version: 1 }, "signed in again");
        assert_eq!(store.create(key(7), record("ada", 1), 5, NOW).await, Ok(Creation::Revoked), "under way");
    }

    #[tokio::test]
    async fn a_write_under_way_brings_back_nobody_whose_record_was_dropped_and_who_was_signed_out() {
        let store = CookieStore::new(BOUNDS);
        for number in [1, 2] {
            store.adopt(key(number), record("ada", 1), NOW);
            store.drop_record(key(number), &mut store.known.get_mut(&key(number)).unwrap(), State::Dropped);
        }
        write(&store, 2, 2).await;
        assert_eq!(store.remove_where(&of("ada"), NOW).await, Ok(vec![key(2)]));
        let late = store.replace(key(1), 1, record("ada", 2), NOW).await;
        assert!(matches!(late, Ok(Replacement::Gone)), "{late:?}");
        assert_eq!(store.adopt(key(1), record("ada", 1), NOW), Adoption::Ended);
    }

    #[tokio::test]
    async fn time_that_the_cookie_has_not_heard_of_counts() {
        let store = CookieStore::new(BOUNDS);
        store.adopt(key(1), record("ada", 1), NOW);
        store.touch(key(1), later(DAY / 2).mono, later(DAY * 3 / 2).mono).await.unwrap();
        assert_eq!(store.adopt(key(1), record("ada", 1), later(DAY)), Adoption::Live { version: 1 });
        assert_eq!(store.adopt(key(1), record("ada", 1), later(DAY * 3 / 2)), Adoption::Ended);
        assert_eq!(store.adopt(key(2), record("ada", 1), later(DAY)), Adoption::Ended);
    }

    #[tokio::test]
    async fn records_that_browsers_have_go_first_and_outdated_cookies_stay_outdated() {
        let weight = weight_of(&record("ada", 1));
        let store = CookieStore::new(Bounds { bytes: 10 * weight, ..BOUNDS });
        for number in 1..=10 {
            store.adopt(key(number), record("ada", 1), later(Duration::from_secs(number.into())));
        }
        // The browser has not shown this one yet; it is the one that was not used for longest.
        write(&store, 1, 2).await;
        // This one it has.
        write(&store, 2, 2).await;
        store.adopt(key(2), record("ada", 2), NOW);
        store.adopt(key(11), record("ada", 1), later(Duration::from_secs(11)));
        assert!(store.kept_bytes.load(Ordering::Relaxed) <= 9 * weight);
        assert_eq!(found(&store, 1).await, Some(2));
        assert_eq!(store.find(key(2), NOW).await.unwrap_err(), NOT_KEPT);
        assert_eq!(store.adopt(key(2), record("ada", 1), NOW), Adoption::Ended, "its refresh token is spent");
        write(&store, 2, 3).await;
        assert_eq!(store.adopt(key(2), record("ada", 2), NOW), Adoption::Live { version: 3 });
    }

    #[tokio::test]
    async fn what_protects_nobody_is_forgotten_first() {
        let store = CookieStore::new(Bounds { sessions: 10, ..BOUNDS });
        store.remove(key(1), NOW).await.unwrap();
        store.adopt(key(2), record("ada", 1), NOW);
        write(&store, 2, 2).await;
        for number in 3..=30 {
            store.adopt(key(number), record("ada", 1), NOW);
        }
        assert!(store.known.len() <= 10);
        assert_eq!(store.adopt(key(1), record("ada", 1), NOW), Adoption::Ended);
        assert_eq!(store.adopt(key(2), record("ada", 1), NOW), Adoption::Live { version: 2 });
    }

    #[tokio::test]
    async fn what_is_over_takes_no_room() {
        let store = CookieStore::new(BOUNDS);
        for number in 0..20 {
            store.adopt(key(number), record("ada", 1), NOW);
            if number % 2 == 0 {
                store.remove(key(number), NOW).await.unwrap();
            }
        }
        store.sweep(later(DAY)).await.unwrap();
        assert_eq!(store.known.len(), 10, "what has ended is known for as long as a cookie lives");
        assert_eq!((store.kept_bytes.load(Ordering::Relaxed), store.of_user.len()), (0, 0));
        store.sweep(later(3 * DAY)).await.unwrap();
        assert!(store.known.is_empty());
    }

    #[tokio::test]
    async fn a_user_with_too_many_sessions_loses_the_oldest_of_those_seen_here() {
        let store = CookieStore::new(BOUNDS);
        for number in 1..=3 {
            let mut record = record("ada", 1);
            record.about.started = later(Duration::from_secs(10 - u64::from(number))).mono;
            store.adopt(key(number), record, NOW);
        }
        let mut newest = record("ada", 1);
        newest.about.started = later(DAY).mono;
        let created = store.create(key(4), newest, 2, NOW).await;
        assert_eq!(created, Ok(Creation::Created { evicted: vec![key(3), key(2)] }));
        assert_eq!(store.adopt(key(3), record("ada", 1), NOW), Adoption::Ended);
    }
}
