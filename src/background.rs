//! Work that must finish. hyper drops a request's future when the client hangs up; what is started
//! here goes on, and shutdown waits for it.

use std::future::Future;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Starts owned tasks on the control runtime, apart from the workers that move bytes.
#[derive(Clone, Debug)]
pub struct Background {
    runtime: Handle,
    tracker: TaskTracker,
}

impl Background {
    /// Tasks will run on the runtime of the caller.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn on_current_runtime() -> Background {
        Background { runtime: Handle::current(), tracker: TaskTracker::new() }
    }

    /// Runs `work` to its end, whether or not anyone awaits the handle.
    pub fn run<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn_on(work, &self.runtime)
    }

    /// Runs `work` until the process ends; shutdown does not wait for it.
    pub fn run_forever<F>(&self, work: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.runtime.spawn(work)
    }

    /// Resolves when all tasks of [`Background::run`] have ended.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
