//! A place where scripted calls wait until the test says go.

use super::PATIENCE;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::timeout;

/// Holds whoever reaches it until [`Gate::open`]. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    arrived: Arc<watch::Sender<usize>>,
    opened: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// A closed gate.
    pub fn closed() -> Gate {
        Gate { arrived: Arc::new(watch::Sender::new(0)), opened: Arc::new(watch::Sender::new(false)) }
    }

    /// Lets everyone through, now and later.
    pub fn open(&self) {
        self.opened.send_replace(true);
    }

    /// Waits until `count` calls have reached the gate.
    ///
    /// # Panics
    /// When they do not come in time.
    pub async fn arrivals(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        timeout(PATIENCE, arrived.wait_for(|arrived| *arrived >= count))
            .await
            .unwrap_or_else(|_| panic!("{count} calls expected at the gate"))
            .expect("the gate outlives its watchers");
    }

    /// Reaches the gate and waits for it to open.
    pub async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        let mut opened = self.opened.subscribe();
        opened.wait_for(|opened| *opened).await.expect("the gate outlives its watchers");
    }
}
