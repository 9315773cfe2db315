//! The real binary as a process of its own, to be killed, stopped and started again.

use super::harness::PATIENCE;
use super::harness::provider::{CLIENT_ID, CLIENT_SECRET};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;

/// One gateway. It is killed when this is dropped; its log is `<name>.log`.
pub struct GatewayProcess {
    pub address: SocketAddr,
    pub admin_address: SocketAddr,
    directory: PathBuf,
    name: String,
    child: Child,
    _ports: [Socket; 2],
}

/// Where it keeps sessions: lines for `[session]`, and tables.
#[derive(Clone, Debug)]
pub enum Store {
    Memory,
    /// In this file.
    File(PathBuf),
    /// `timeout` is long where a busy machine must not look like an outage.
    Redis {
        url: String,
        prefix: String,
        timeout: &'static str,
    },
    Cookie,
}

impl GatewayProcess {
    /// Starts `name` in `directory`, with these environment variables besides, and waits until it listens.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(
        directory: &Path,
        name: &str,
        store: &Store,
        issuer: &str,
        upstream: &str,
        environment: &[(&str, &str)],
    ) -> GatewayProcess {
        let ports = [reserved_port(), reserved_port()];
        let [address, admin_address] =
            ports.each_ref().map(|port| port.local_addr().expect("an address").as_socket().expect("of a TCP socket"));
        let store = match store {
            Store::Memory => "store = \"memory\"".to_owned(),
            Store::Cookie => "store = \"cookie\"".to_owned(),
            Store::File(path) => format!("store = \"file\"\n[session.file]\npath = \"{}\"", path.display()),
            Store::Redis { url, prefix, timeout } => format!(
                "store = \"redis\"\n[session.redis]\nurl = \"{url}\"\nkey_prefix = \"{prefix}\"\ntimeout = \"{timeout}\""
            ),
        };
        let config = format!(
            r#"
[server]
listen = "{address}"
admin_listen = "{admin_address}"
external_url = "{EXTERNAL_URL}"
drain_timeout = "15s"
workers = 1
[session]
secret = {{ env = "SESSION_SECRET" }}
{store}
[refresh]
cooldown = "1s"
timeout = "5s"
[providers.corp]
kind = "oidc"
issuer = "{issuer}"
client_id = "{CLIENT_ID}"
client_secret = {{ env = "CLIENT_SECRET" }}
[upstreams.app]
url = "{upstream}"
[[routes]]
path = "/public/*"
upstream = "app"
auth = "public"
[[routes]]
path = "/*"
upstream = "app"
auth = true
"#
        );
        fs::write(directory.join(format!("{name}.toml")), config).expect("the configuration is written");
        let child = launch(directory, name, environment);
        let mut gateway = GatewayProcess {
            address,
            admin_address,
            directory: directory.to_owned(),
            name: name.to_owned(),
            child,
            _ports: ports,
        };
        gateway.wait_until_up().await;
        gateway
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Puts `to` in the place of `from` in its configuration, for the next start.
    ///
    /// # Panics
    /// When `from` is not there.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let path = self.directory.join(format!("{}.toml", self.name));
        let config = fs::read_to_string(&path).expect("the configuration");
        assert!(config.contains(from), "{config}");
        fs::write(path, config.replace(from, to)).expect("the configuration is written");
    }

    /// Starts it again where it was, after it has ended, with these environment variables besides.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self, environment: &[(&str, &str)]) {
        self.child = launch(&self.directory, &self.name, environment);
        self.wait_until_up().await;
    }

    /// `STOP`, `CONT`, `TERM`.
    ///
    /// # Panics
    /// When there is no such process any more.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("kill").success(), "{} is gone", self.name);
    }

    /// How it ended, after it was told to.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        let waiting = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("a child of ours") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("it drains in time")
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Resident memory in KiB, as the kernel says.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    }

    /// All it has logged so far, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join(format!("{}.log", self.name))).unwrap_or_default()
    }

    async fn wait_until_up(&mut self) {
        let waiting = async {
            while TcpStream::connect(self.address).await.is_err() {
                if let Ok(Some(status)) = self.child.try_wait() {
                    panic!("{} ended with {status}: {}", self.name, self.log());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let is_up = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(is_up.is_ok(), "{} does not listen: {}", self.name, self.log());
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(directory: &Path, name: &str, environment: &[(&str, &str)]) -> Child {
    let log = |name: &str| -> File {
        let path = directory.join(format!("{name}.log"));
        OpenOptions::new().create(true).append(true).open(path).expect("a log")
    };
    Command::new(env!("CARGO_BIN_EXE_latchgate"))
        .args(["run", "--config", &format!("{name}.toml")])
        .current_dir(directory)
        .env("SESSION_SECRET", "a session secret of more than thirty-two bytes")
        .env("CLIENT_SECRET", CLIENT_SECRET)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(log(name))
        .stderr(log(name))
        .spawn()
        .expect("the binary starts")
}

/// A port that stays ours while nobody listens there: the gateway may take it (SO_REUSEADDR), nobody is given it.
fn reserved_port() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a socket option");
    socket.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).expect("a port");
    socket
}

/// What browsers see.
pub const EXTERNAL_URL: &str = "http://gw.test";
