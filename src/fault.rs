//! Places where a test stops the process, to see what is left when it dies or sleeps there.
//!
//! Only with the feature `fault-points`; without it a point is nothing. `LATCHGATE_FAULT_POINT` names the point and
//! `LATCHGATE_FAULT_GATE` a path: whoever gets there first creates `<path>.reached` and goes on when `<path>.open`
//! exists. Whoever comes later passes.

/// A named place in the code.
#[cfg(not(feature = "fault-points"))]
#[inline]
pub async fn point(_name: &'static str) {}

/// A named place in the code.
#[cfg(feature = "fault-points")]
pub async fn point(name: &'static str) {
    static GATE: std::sync::LazyLock<Option<gate::Gate>> = std::sync::LazyLock::new(gate::Gate::from_environment);
    if let Some(gate) = &*GATE {
        gate.pass(name).await;
    }
}

#[cfg(feature = "fault-points")]
mod gate {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    pub(super) struct Gate {
        point: String,
        reached: PathBuf,
        open: PathBuf,
        was_reached: AtomicBool,
    }

    impl Gate {
        pub(super) fn from_environment() -> Option<Gate> {
            let point = std::env::var("LATCHGATE_FAULT_POINT").ok()?;
            Some(Gate::new(point, Path::new(&std::env::var_os("LATCHGATE_FAULT_GATE")?)))
        }

        fn new(point: String, path: &Path) -> Gate {
            let with = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
            Gate { point, reached: with(".reached"), open: with(".open"), was_reached: AtomicBool::new(false) }
        }

        pub(super) async fn pass(&self, name: &str) {
            if name != self.point || self.was_reached.swap(true, Ordering::AcqRel) {
                return;
            }
            if let Err(error) = std::fs::write(&self.reached, b"") {
                tracing::error!(%error, name, "the fault point's file cannot be written");
                return;
            }
            while !self.open.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn the_first_arrival_waits_until_the_gate_is_open() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("gate");
            let gate = std::sync::Arc::new(Gate::new("after_lease".into(), &path));
            gate.pass("before_lease").await;
            assert!(!path.with_extension("reached").exists());
            let first = tokio::spawn({
                let gate = std::sync::Arc::clone(&gate);
                async move { gate.pass("after_lease").await }
            });
            while !path.with_extension("reached").exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            gate.pass("after_lease").await;
            assert!(!first.is_finished());
            std::fs::write(path.with_extension("open"), b"").unwrap();
            first.await.unwrap();
        }
    }
}
