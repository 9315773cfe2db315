//! The right to refresh one generation of one session, for one of all gateways that share the store. It is
//! renewed for as long as it is held.

use super::Shared;
use crate::clock::{Clock, Mono};
use crate::session::Session;
use crate::session::store::{Claim, Lease, SessionStore, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A lease that we hold; dropped, as in a panic, it is given back.
pub(super) struct Held {
    shared: Arc<Shared>,
    claim: Claim,
    until: Arc<AtomicU64>,
    renewing: JoinHandle<()>,
    /// An earlier holder never said what became of the refresh token.
    pub(super) was_interrupted: bool,
    /// Whether it is known what became of the refresh token: not while it is out.
    pub(super) is_resolved: bool,
}

/// The lease on this generation of this session; None while it is somebody else's.
pub(super) async fn lease(shared: &Arc<Shared>, session: &Session) -> Result<Option<Held>, StoreError> {
    let mut owner = [0; 16];
    aws_lc_rs::rand::fill(&mut owner).map_err(|_| StoreError { reason: "no_randomness" })?;
    let claim = Claim {
        key: session.key,
        generation: session.tokens.generation,
        owner: u128::from_be_bytes(owner),
        life: LIFE,
    };
    // Counted from before the question, so that it ends here first.
    let asked = shared.clock.now();
    match shared.sessions.store().lease(&claim, asked).await? {
        Lease::Held => Ok(None),
        Lease::Granted { interrupted } => {
            let until = Arc::new(AtomicU64::new(asked.mono.after(LIFE).0));
            let store = Arc::clone(shared.sessions.store());
            let renewing = keep_renewed(store, shared.clock.clone(), claim, Arc::clone(&until));
            Ok(Some(Held {
                shared: Arc::clone(shared),
                claim,
                until,
                renewing: shared.background.run_forever(renewing),
                was_interrupted: interrupted,
                is_resolved: true,
            }))
        }
    }
}

impl Held {
    /// Whether it is still ours, by the monotonic clock: a process that was stopped and goes on finds that it is not.
    pub(super) fn is_ours(&self) -> bool {
        self.shared.clock.mono() < Mono(self.until.load(Ordering::Acquire))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
        let (store, claim, is_resolved) = (Arc::clone(self.shared.sessions.store()), self.claim, self.is_resolved);
        self.shared.background.run(async move {
            // Without the store's answer it runs out by itself.
            let _ = store.release_lease(&claim, is_resolved).await;
        });
    }
}

async fn keep_renewed(store: Arc<dyn SessionStore>, clock: Clock, claim: Claim, until: Arc<AtomicU64>) {
    loop {
        tokio::time::sleep(LIFE / 3).await;
        let asked = clock.now();
        match store.renew_lease(&claim, asked).await {
            Ok(true) => until.store(asked.mono.after(LIFE).0, Ordering::Release),
            Ok(false) => return until.store(0, Ordering::Release),
            // As long as the lease lasts there is another try.
            Err(_) => {}
        }
    }
}

/// After a crash others go on when this is over.
const LIFE: Duration = Duration::from_secs(5);
