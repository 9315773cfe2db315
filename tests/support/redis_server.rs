//! A `redis-server` (or `valkey-server`) of a test's own: no port, a unix socket in a directory that goes with it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UnixStream;

/// Ends when this is dropped.
pub struct RedisServer {
    process: Child,
    directory: TempDir,
}

impl RedisServer {
    /// Starts one and waits until it listens. It keeps nothing on disk.
    ///
    /// # Panics
    /// When there is none: `apt-get install redis-server`.
    pub async fn start() -> RedisServer {
        let directory = tempfile::tempdir().expect("a directory");
        let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let process = Command::new(&program)
            .current_dir(directory.path())
            .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; install redis-server or set REDIS_SERVER"));
        let mut server = RedisServer { process, directory };
        for _ in 0..1000 {
            if UnixStream::connect(server.socket()).await.is_ok() {
                return server;
            }
            if let Ok(Some(status)) = server.process.try_wait() {
                panic!("{program} ended at once: {status}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{program} does not listen");
    }

    /// For `[session.redis] url`.
    pub fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
