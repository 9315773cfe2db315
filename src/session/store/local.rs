//! What counts within one process: leases, removals, and names that were taken; and pages of what is there.

use super::{About, Claim, Filter, Lease, OnceName, Page, REMEMBER_REMOVALS, Record};
use crate::clock::{Mono, Now};
use crate::session::SessionKey;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Who may refresh which session.
#[derive(Default)]
pub(super) struct Leases {
    by_key: DashMap<SessionKey, Leased>,
}

struct Leased {
    generation: u64,
    owner: u128,
    until: Mono,
}

impl Leases {
    pub(super) fn lease(&self, claim: &Claim, now: Now) -> Lease {
        let leased = Leased { generation: claim.generation, owner: claim.owner, until: now.mono.after(claim.life) };
        match self.by_key.entry(claim.key) {
            Entry::Occupied(held) if held.get().owner != claim.owner && now.mono < held.get().until => Lease::Held,
            Entry::Occupied(mut lapsed) => {
                let interrupted = lapsed.get().owner != claim.owner && lapsed.get().generation == claim.generation;
                lapsed.insert(leased);
                Lease::Granted { interrupted }
            }
            Entry::Vacant(place) => {
                place.insert(leased);
                Lease::Granted { interrupted: false }
            }
        }
    }

    pub(super) fn renew(&self, claim: &Claim, now: Now) -> bool {
        let Some(mut held) = self.by_key.get_mut(&claim.key) else { return false };
        if held.owner != claim.owner {
            return false;
        }
        held.until = now.mono.after(claim.life);
        true
    }

    pub(super) fn release(&self, claim: &Claim, resolved: bool) {
        if let Entry::Occupied(mut held) = self.by_key.entry(claim.key)
            && held.get().owner == claim.owner
        {
            if resolved {
                held.remove();
            } else {
                held.get_mut().until = Mono::default();
            }
        }
    }

    pub(super) fn forget(&self, key: SessionKey) {
        self.by_key.remove(&key);
    }

    pub(super) fn retain(&self, lives: impl Fn(&SessionKey) -> bool) {
        self.by_key.retain(|key, _| lives(key));
    }
}

/// Who was signed out lately, for the logins that were under way.
#[derive(Default)]
pub(super) struct Removals {
    remembered: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    at: HashMap<Filter, Mono>,
    /// When others were forgotten: a login that is as old may be one of theirs.
    forgotten: Option<Mono>,
}

impl Removals {
    pub(super) fn note(&self, filter: &Filter, now: Now) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.at.len() >= MOST_REMOVALS {
            remembered.at.clear();
            remembered.forgotten = Some(now.mono);
        }
        remembered.at.insert(filter.clone(), now.mono);
    }

    /// Whether somebody whom this is about was signed out after the login began.
    pub(super) fn concern(&self, about: &About) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.forgotten.is_some_and(|at| at >= about.began) {
            return true;
        }
        any_concerns(&remembered.at, about)
    }

    pub(super) fn sweep(&self, now: Now) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.at.retain(|_, at| now.mono.since(*at) < REMEMBER_REMOVALS);
    }
}

/// Whether one of these removals is of somebody whom this is about, and after the login began. Every filter that
/// selects it is looked up by name.
pub(super) fn any_concerns(removals: &HashMap<Filter, Mono>, about: &About) -> bool {
    if removals.is_empty() {
        return false;
    }
    let (subject, sid) = (Some(about.subject.clone()), about.sid.clone());
    let users = [(subject.clone(), None), (None, sid.clone()), (subject, sid)];
    users.into_iter().any(|(subject, sid)| {
        let by = Filter { issuer: None, subject, sid };
        let at_its_issuer = Filter { issuer: Some(about.issuer.clone()), ..by.clone() };
        [by, at_its_issuer].iter().any(|filter| removals.get(filter).is_some_and(|&at| at >= about.began))
    })
}

/// The page after `cursor` of what these keys name, in the order of the keys.
pub(super) fn page(
    mut keys: Vec<SessionKey>,
    cursor: Option<&str>,
    record: impl Fn(SessionKey) -> Option<Record>,
) -> Page {
    let after = cursor.and_then(SessionKey::from_hex);
    keys.retain(|key| after.is_none_or(|after| key.as_bytes() > after.as_bytes()));
    keys.sort_unstable_by_key(|key| *key.as_bytes());
    let next = keys.get(PAGE).map(|_| keys[PAGE - 1].to_hex());
    keys.truncate(PAGE);
    let records = keys.into_iter().filter_map(|key| Some((key, record(key)?))).collect();
    Page { records, next }
}

/// What counts once, and until when it is known to be taken.
#[derive(Default)]
pub(super) struct TakenNames {
    until: DashMap<OnceName, Mono>,
}

impl TakenNames {
    pub(super) fn take(&self, name: OnceName, life: Duration, now: Now) -> bool {
        match self.until.entry(name) {
            Entry::Occupied(taken) if now.mono < *taken.get() => false,
            Entry::Occupied(mut forgotten) => {
                forgotten.insert(now.mono.after(life));
                true
            }
            Entry::Vacant(place) => {
                place.insert(now.mono.after(life));
                true
            }
        }
    }

    pub(super) fn sweep(&self, now: Now) {
        self.until.retain(|_, &mut until| now.mono < until);
    }
}

/// Users and provider sessions that were signed out within [`REMEMBER_REMOVALS`]; a provider, or an administrator, says so.
const MOST_REMOVALS: usize = 100_000;
const PAGE: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Now {
        Now { mono: Mono(millis), unix: 0 }
    }

    fn of_subject(subject: &str) -> Filter {
        Filter { subject: Some(subject.into()), ..Filter::default() }
    }

    fn login(subject: &str, began: u64) -> About {
        About {
            provider: "corp".into(),
            issuer: "https://idp".into(),
            subject: subject.into(),
            sid: None,
            started: Mono(began),
            ends: Mono(u64::MAX),
            began: Mono(began),
        }
    }

    #[test]
    fn removals_are_forgotten_after_a_while() {
        let removals = Removals::default();
        removals.note(&of_subject("ada"), at(1000));
        removals.sweep(at(1000 + 599_999));
        assert!(removals.concern(&login("ada", 1000)));
        removals.sweep(at(1000 + 600_000));
        assert!(!removals.concern(&login("ada", 1000)));
        assert!(removals.remembered.lock().unwrap().at.is_empty());
    }

    #[test]
    fn too_many_removals_let_no_login_slip_past() {
        let removals = Removals::default();
        for number in 0..=MOST_REMOVALS {
            removals.note(&of_subject(&number.to_string()), at(1000));
        }
        assert!(removals.remembered.lock().unwrap().at.len() < MOST_REMOVALS);
        assert!(removals.concern(&login("0", 1000)), "whose removal was forgotten");
        assert!(!removals.concern(&login("0", 1001)), "who began later");
    }
}
