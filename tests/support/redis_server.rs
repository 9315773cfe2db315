//! A `redis-server` (or `valkey-server`) of a test's own: no port, a unix socket in a directory that goes with it.

#![allow(dead_code, reason = "each suite uses a part of it")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UnixStream;

/// Ends when this is dropped.
pub struct RedisServer {
    process: Child,
    directory: TempDir,
    appendonly: &'static str,
}

impl RedisServer {
    /// Starts one and waits until it listens. It keeps nothing on disk.
    ///
    /// # Panics
    /// When there is none: `apt-get install redis-server`.
    pub async fn start() -> RedisServer {
        RedisServer::start_in(tempfile::tempdir().expect("a directory"), "no").await
    }

    /// As [`RedisServer::start`], and what it has acknowledged is there again after [`RedisServer::restart`].
    ///
    /// # Panics
    /// When there is none.
    pub async fn start_durable() -> RedisServer {
        RedisServer::start_in(tempfile::tempdir().expect("a directory"), "yes").await
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again where it was, after it was killed.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.process = launch(&self.directory, self.appendonly);
        self.wait_until_up().await;
    }

    /// `STOP`, `CONT`.
    ///
    /// # Panics
    /// When there is no such process any more.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status();
        assert!(status.expect("kill").success(), "redis-server is gone");
    }

    /// For `[session.redis] url`.
    pub fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    async fn start_in(directory: TempDir, appendonly: &'static str) -> RedisServer {
        let mut server = RedisServer { process: launch(&directory, appendonly), directory, appendonly };
        server.wait_until_up().await;
        server
    }

    async fn wait_until_up(&mut self) {
        for _ in 0..1000 {
            if UnixStream::connect(self.socket()).await.is_ok() {
                return;
            }
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!("redis-server ended at once: {status}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server does not listen");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(directory: &TempDir, appendonly: &str) -> Child {
    let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    Command::new(&program)
        .current_dir(directory.path())
        .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", appendonly])
        .args(["--appendfsync", "always"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; install redis-server or set REDIS_SERVER"))
}
