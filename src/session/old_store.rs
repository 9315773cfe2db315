//! The store in memory: a concurrent map, an index of each user's sessions, and the names of those
//! that have ended.

use super::{Session, SessionKey};
use crate::clock::Mono;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct MemoryStore {
    sessions: DashMap<SessionKey, Arc<Session>>,
    /// Keys of one user's sessions, oldest first; `(issuer, subject)`.
    of_user: DashMap<(String, String), Vec<SessionKey>>,
    ended: DashMap<SessionKey, Mono>,
}

impl MemoryStore {
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Keeps a new session and ends the user's oldest ones beyond `most_per_user`.
    pub(super) fn create(&self, session: Arc<Session>, most_per_user: usize, now: Mono) {
        let surplus = {
            let mut keys = self.of_user.entry(user_of(&session)).or_default();
            keys.push(session.key);
            let surplus = keys.len().saturating_sub(most_per_user.max(1));
            keys[..surplus].to_vec()
        };
        self.sessions.insert(session.key, session);
        for key in surplus {
            self.remove(key, now);
        }
    }

    pub(super) fn find(&self, key: SessionKey) -> Option<Arc<Session>> {
        self.sessions.get(&key).map(|session| Arc::clone(&session))
    }

    pub(super) fn update(&self, key: SessionKey, change: impl FnOnce(&Session) -> Session) -> Option<Arc<Session>> {
        let mut slot = self.sessions.get_mut(&key)?;
        *slot = Arc::new(change(&slot));
        Some(Arc::clone(&slot))
    }

    pub(super) fn remove(&self, key: SessionKey, now: Mono) -> Option<Arc<Session>> {
        let (_, session) = self.sessions.remove(&key)?;
        session.vitals.ended().cancel();
        if self.ended.len() < MOST_ENDED {
            self.ended.insert(key, now);
        }
        if let Entry::Occupied(mut keys) = self.of_user.entry(user_of(&session)) {
            keys.get_mut().retain(|&other| other != key);
            if keys.get().is_empty() {
                keys.remove();
            }
        }
        Some(session)
    }

    pub(super) fn remove_where(&self, now: Mono, is_over: impl Fn(&Session) -> bool) {
        let over: Vec<SessionKey> =
            self.sessions.iter().filter(|session| is_over(session)).map(|session| session.key).collect();
        for key in over {
            self.remove(key, now);
        }
    }

    pub(super) fn has_ended(&self, key: SessionKey) -> bool {
        self.ended.contains_key(&key)
    }

    pub(super) fn forget_ended_before(&self, limit: Mono) {
        self.ended.retain(|_, &mut at| at >= limit);
    }
}

fn user_of(session: &Session) -> (String, String) {
    (session.identity.issuer.clone(), session.identity.subject.clone())
}

/// Names of ended sessions are a courtesy (`status=expired`), so they are dropped rather than kept without bound.
const MOST_ENDED: usize = 100_000;
