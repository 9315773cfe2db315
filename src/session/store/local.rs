//! What counts within one process: leases, and names that were taken.

use super::{Claim, Lease, OnceName};
use crate::clock::{Mono, Now};
use crate::session::SessionKey;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
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
