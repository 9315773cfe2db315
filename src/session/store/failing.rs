//! A store in memory that fails when it is told to.

use super::{
    Claim, Creation, Filter, Lease, Lookup, MemoryStore, OnceName, Page, Record, Replacement, SessionStore, StoreError,
};
use crate::background::Background;
use crate::clock::{Clock, Mono, Now};
use crate::session::opened::Opened;
use crate::session::tests::settings;
use crate::session::{SessionKey, Sessions};
use async_trait::async_trait;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) struct FailingStore {
    inner: MemoryStore,
    /// How many calls succeed, and how many fail after those.
    plan: Mutex<(usize, usize)>,
    /// How long a look-up takes.
    delay: Mutex<Duration>,
}

/// Sessions in such a store, and the clock they go by.
pub(crate) fn sessions() -> (Sessions, Arc<FailingStore>, Clock) {
    let (settings, clock) = (settings(), Clock::system());
    let store = Arc::new(FailingStore {
        inner: MemoryStore::new(settings.max_sessions),
        plan: Mutex::default(),
        delay: Mutex::default(),
    });
    let opened = Opened::new(settings.cache_memory);
    let (kept, background) = (Arc::clone(&store), Background::on_current_runtime());
    (Sessions::new(settings, kept, opened, background, clock.clone()).unwrap(), store, clock)
}

impl FailingStore {
    /// The next `calls` fail with `down`.
    pub(crate) fn fail(&self, calls: usize) {
        self.fail_after(0, calls);
    }

    /// `good` calls succeed, then `calls` fail.
    pub(crate) fn fail_after(&self, good: usize, calls: usize) {
        *self.plan.lock().unwrap() = (good, calls);
    }

    /// Look-ups take so long from now on.
    pub(crate) fn answer_after(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    fn next(&self) -> Result<&MemoryStore, StoreError> {
        let mut plan = self.plan.lock().unwrap();
        match &mut *plan {
            (good @ 1.., _) => *good -= 1,
            (0, bad @ 1..) => {
                *bad -= 1;
                return Err(StoreError { reason: "down" });
            }
            (0, 0) => {}
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl SessionStore for FailingStore {
    async fn create(&self, key: SessionKey, record: Record, most: usize, now: Now) -> Result<Creation, StoreError> {
        self.next()?.create(key, record, most, now).await
    }

    async fn find(&self, key: SessionKey, now: Now) -> Result<Lookup, StoreError> {
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.next()?.find(key, now).await
    }

    async fn replace(&self, key: SessionKey, seen: u64, record: Record, now: Now) -> Result<Replacement, StoreError> {
        self.next()?.replace(key, seen, record, now).await
    }

    async fn touch(&self, key: SessionKey, seen_at: Mono, expires: Mono) -> Result<(), StoreError> {
        self.next()?.touch(key, seen_at, expires).await
    }

    async fn remove(&self, key: SessionKey, now: Now) -> Result<bool, StoreError> {
        self.next()?.remove(key, now).await
    }

    async fn remove_where(&self, filter: &Filter, now: Now) -> Result<Vec<SessionKey>, StoreError> {
        self.next()?.remove_where(filter, now).await
    }

    async fn list(&self, filter: &Filter, cursor: Option<&str>, now: Now) -> Result<Page, StoreError> {
        self.next()?.list(filter, cursor, now).await
    }

    async fn lease(&self, claim: &Claim, now: Now) -> Result<Lease, StoreError> {
        self.next()?.lease(claim, now).await
    }

    async fn renew_lease(&self, claim: &Claim, now: Now) -> Result<bool, StoreError> {
        self.next()?.renew_lease(claim, now).await
    }

    async fn release_lease(&self, claim: &Claim, resolved: bool) -> Result<(), StoreError> {
        self.next()?.release_lease(claim, resolved).await
    }

    async fn take_once(&self, name: OnceName, life: Duration, now: Now) -> Result<bool, StoreError> {
        self.next()?.take_once(name, life, now).await
    }

    fn len(&self) -> Option<usize> {
        self.inner.len()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.next()?.ping().await
    }

    async fn sweep(&self, now: Now) -> Result<(), StoreError> {
        self.next()?.sweep(now).await
    }

    fn is_durable(&self) -> bool {
        false
    }
}
