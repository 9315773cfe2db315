//! Redis servers on ports of their own, gone with the test.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use redis::{ConnectionLike, FromRedisValue};
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;
use tempfile::TempDir;

pub struct Server {
    pub port: u16,
    process: Child,
    arguments: Vec<String>,
    directory: TempDir,
}

impl Server {
    /// Without persistence, on a port and a unix socket.
    pub fn start(arguments: &[&str]) -> Server {
        Server::start_on(free_port(), arguments)
    }

    pub fn start_on(port: u16, arguments: &[&str]) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let mut all: Vec<String> =
            ["--port", &port.to_string(), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
                .map(str::to_owned)
                .into();
        all.extend(["--unixsocket".into(), directory.path().join("redis.sock").display().to_string()]);
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Server::launch(port, all, directory)
    }

    /// One that watches `master` as `mymaster`; two of them decide.
    pub fn start_sentinel(master: u16) -> Server {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let file = directory.path().join("sentinel.conf");
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 3000\n"
        );
        fs::write(&file, settings).unwrap();
        Server::launch(port, vec![file.display().to_string(), "--sentinel".into()], directory)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// As SIGKILL does it.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.kill();
        self.process = spawn(&self.arguments, self.directory.path());
        self.wait_until_up();
    }

    /// Stops the process where it is, without closing anything.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success());
    }

    /// One command, its words separated by spaces.
    pub fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub fn try_ask<T: FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let mut words = command.split(' ');
        let mut question = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            question.arg(word);
        });
        self.send(&question)
    }

    pub fn send<T: FromRedisValue>(&self, question: &redis::Cmd) -> redis::RedisResult<T> {
        let mut connection = redis::Client::open(format!("unix://{}", self.socket().display()))
            .and_then(|client| client.get_connection())
            .or_else(|_| redis::Client::open(self.url())?.get_connection())?;
        redis::from_redis_value(connection.req_command(question)?.extract_error()?).map_err(Into::into)
    }

    fn launch(port: u16, arguments: Vec<String>, directory: TempDir) -> Server {
        let process = spawn(&arguments, directory.path());
        let server = Server { port, process, arguments, directory };
        server.wait_until_up();
        server
    }

    fn wait_until_up(&self) {
        for _ in 0..1000 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not start: {:?}", self.arguments);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(arguments: &[String], directory: &Path) -> Child {
    Command::new("redis-server")
        .args(arguments)
        .current_dir(directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server: {error}; install it with: apt-get install redis-server"))
}

/// One that nobody listens on, nor on the one that a cluster node takes beside it; both below those that the system hands out.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..22_000);
        if [port, port + 10_000].iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()) {
            return port;
        }
    }
}

/// Three primaries, and one replica of the first.
pub struct Cluster {
    pub nodes: Vec<Server>,
}

impl Cluster {
    pub fn start() -> Cluster {
        let node = || {
            Server::start(&[
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1000",
                "--cluster-replica-validity-factor",
                "0",
            ])
        };
        let nodes: Vec<Server> = (0..4).map(|_| node()).collect();
        let address = |node: &Server| format!("127.0.0.1:{}", node.port);
        let primaries: Vec<String> = nodes[..3].iter().map(address).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(primaries.iter().map(String::as_str));
        create.push("--cluster-yes");
        cli(&create);
        let cluster = Cluster { nodes };
        cluster.wait_until("all slots are served", |cluster| {
            cluster.nodes[..3].iter().all(|node| node.ask::<String>("CLUSTER INFO").contains("cluster_state:ok"))
        });
        let id: String = cluster.nodes[0].ask("CLUSTER MYID");
        cli(&[
            "--cluster",
            "add-node",
            &address(&cluster.nodes[3]),
            &primaries[0],
            "--cluster-slave",
            "--cluster-master-id",
            &id,
        ]);
        cluster.wait_until("the replica follows", |cluster| {
            cluster.nodes[3].ask::<String>("INFO replication").contains("master_link_status:up")
        });
        cluster
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Cluster) -> bool) {
        for _ in 0..300 {
            if is_so(self) {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("the cluster never got there: {what}");
    }
}

fn cli(arguments: &[&str]) {
    let output = Command::new("redis-cli").args(arguments).stdin(Stdio::null()).output();
    let output =
        output.unwrap_or_else(|error| panic!("redis-cli: {error}; install it with: apt-get install redis-tools"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "redis-cli {arguments:?}: {}", String::from_utf8_lossy(&said));
}

/// A certificate authority, and certificates of it for 127.0.0.1 and for a client.
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    pub fn new() -> Certificates {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        write("ca.pem", &authority.pem());
        for (name, subject) in [("server", "127.0.0.1"), ("client", "gateway")] {
            let key = KeyPair::generate().unwrap();
            let certificate =
                CertificateParams::new([subject.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
            write(&format!("{name}.pem"), &certificate.pem());
            write(&format!("{name}.key"), &key.serialize_pem());
        }
        Certificates { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Speaks TLS only, and wants a client certificate.
pub fn start_tls(certificates: &Certificates) -> Server {
    let port = free_port();
    let path = |name: &str| certificates.path(name).display().to_string();
    let (port_text, ca, certificate, key) = (port.to_string(), path("ca.pem"), path("server.pem"), path("server.key"));
    let arguments =
        ["--port", "0", "--tls-port", &port_text, "--tls-ca-cert-file", &ca, "--tls-cert-file", &certificate];
    Server::start_on(port, &[&arguments[..], &["--tls-key-file", &key, "--tls-auth-clients", "yes"]].concat())
}
