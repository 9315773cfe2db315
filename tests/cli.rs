//! The binary from outside: commands, exit codes, what it prints and where, signals.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use tempfile::TempDir;

#[test]
fn help_and_version_are_there() {
    let help = latchgate(&["--help"]);
    assert_eq!(code(&help), 0);
    for word in ["run", "check", "routes", "--config", "gateway.toml"] {
        assert!(stdout(&help).contains(word), "{word} is missing in\n{}", stdout(&help));
    }
    let version = latchgate(&["--version"]);
    assert_eq!((code(&version), stdout(&version)), (0, format!("latchgate {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn what_is_no_command_is_refused_with_the_usage() {
    for arguments in [&["serve"][..], &["--port", "80"], &["check", "gateway.toml"]] {
        let refused = latchgate(arguments);
        assert_eq!((code(&refused), stdout(&refused)), (2, String::new()), "{arguments:?}");
        assert!(stderr(&refused).contains("Usage: latchgate"), "{}", stderr(&refused));
    }
}

#[test]
fn a_missing_file_is_named_by_every_command() {
    for command in ["run", "check", "routes"] {
        let refused = latchgate(&[command, "--config", "/nowhere/gateway.toml"]);
        assert_eq!((code(&refused), stdout(&refused)), (1, String::new()), "{command}");
        let text = stderr(&refused);
        assert!(text.starts_with("error: `/nowhere/gateway.toml` cannot be read: "), "{text}");
        assert!(text.contains("`--config` names another file"), "{text}");
    }
}

#[test]
fn a_good_file_is_fine() {
    let file = File::new(&format!("{PUBLIC}\n[[routes]]\npath = \"/b\"\nauth = false\n"));
    let checked = file.run("check");
    assert_eq!(
        (code(&checked), stdout(&checked), stderr(&checked)),
        (0, format!("{} is fine: 2 routes\n", file.path.display()), String::new())
    );
    let routes = file.run("routes");
    let table = "\
METHODS  HOST  PATH  AUTH    ATTACH  ON 401  UPSTREAM
*        *     /*    public  never   relay   app
*        *     /b    false   never   login   app
";
    assert_eq!((code(&routes), stdout(&routes), stderr(&routes)), (0, table.to_owned(), String::new()));
}

#[test]
fn a_bad_file_is_told_all_its_problems_with_lines_and_carets() {
    let file = File::new(
        "\
[server]
lissten = \"127.0.0.1:8080\"
drain_timeout = \"30\"

[upstreams.app]
url = \"http://127.0.0.1:3000\"

[[routes]]
path = \"/*\"
auth = \"public\"
upstream = \"ap\"
",
    );
    let name = file.path.display();
    let expected = format!(
        "\
error: unknown key `lissten` in `server`
 --> {name}:2:1
  |
2 | lissten = \"**************\"
  | ^^^^^^^
  |
  = help: did you mean `listen`?

error: `server.drain_timeout` is not a duration
 --> {name}:3:17
  |
3 | drain_timeout = \"30\"
  |                 ^^^^
  |
  = help: a whole number and a unit: \"500ms\", \"30s\", \"5m\", \"24h\" or \"7d\"

error: `routes.upstream` names the upstream `ap`, which does not exist
  --> {name}:11:12
   |
11 | upstream = \"ap\"
   |            ^^^^
   |
   = help: did you mean `app`?"
    );
    for command in ["check", "run", "routes"] {
        let refused = file.run(command);
        assert_eq!((code(&refused), stdout(&refused)), (1, String::new()), "{command}");
        assert_eq!(stderr(&refused).trim_end(), expected, "{command}");
    }
}

#[test]
fn a_warning_is_told_and_does_not_fail_the_check() {
    let file = File::new(&PUBLIC.replace("[server]", "[server]\nexternal_url = \"http://app.example.com\""));
    let checked = file.run("check");
    assert_eq!(code(&checked), 0);
    assert!(stdout(&checked).ends_with(" is fine: 1 route\n"), "{}", stdout(&checked));
    assert!(stderr(&checked).starts_with("warning: `server.external_url` is plain http"), "{}", stderr(&checked));
}

#[test]
fn a_port_in_use_fails_at_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let first = Gateway::start(PUBLIC);
    for (place, listen, admin) in [
        (address.to_string(), address.to_string(), "off".to_owned()),
        (first.address.to_string(), first.address.to_string(), "off".to_owned()),
        (format!("{address} (server.admin_listen)"), "127.0.0.1:0".to_owned(), address.to_string()),
    ] {
        let file = File::new(&PUBLIC.replace("127.0.0.1:0", &listen).replace("off", &admin));
        let refused = file.run("run");
        assert_eq!(code(&refused), 1);
        let text = stderr(&refused);
        assert!(text.starts_with(&format!("error: cannot listen on {place}: ")), "{text}");
    }
}

#[test]
fn signals_drain_and_end_it() {
    for signal in ["TERM", "INT"] {
        let gateway = Gateway::start(PUBLIC);
        let kept_alive = TcpStream::connect(gateway.address).unwrap();
        gateway.signal(signal);
        let (status, log) = gateway.wait();
        assert_eq!(status.code(), Some(0), "SIG{signal}: {log}");
        drop(kept_alive);
    }
}

#[test]
fn a_terminal_that_goes_away_does_not_end_it() {
    let gateway = Gateway::start(PUBLIC);
    gateway.signal("HUP");
    std::thread::sleep(Duration::from_millis(100));
    gateway.signal("TERM");
    let (status, log) = gateway.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("SIGHUP"), "{log}");
}

#[test]
fn a_hang_up_reads_certificates_again() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(path("a.pem"), certificate.pem()).unwrap();
    fs::write(path("a.key"), key.serialize_pem()).unwrap();
    let server = "[server]\nexternal_url = \"https://a.test\"";
    let tls = format!("[server.tls]\ncertificate = \"{}\"\nprivate_key = \"{}\"\n", path("a.pem"), path("a.key"));
    let gateway = Gateway::start(&(PUBLIC.replace("[server]", server) + &tls));
    gateway.signal("HUP");
    std::thread::sleep(Duration::from_millis(300));
    fs::write(path("a.key"), "").unwrap();
    gateway.signal("HUP");
    std::thread::sleep(Duration::from_millis(300));
    gateway.signal("TERM");
    let (status, log) = gateway.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(log.matches("certificate in use for TLS").count(), 2, "{log}");
    assert!(log.contains("a.key` has no private key in it"), "{log}");
}

#[test]
fn a_request_under_way_is_finished_before_the_end() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start(&to_upstream(&upstream));
    let mut client = get(gateway.address);
    let (mut backend, _) = upstream.accept().unwrap();
    gateway.signal("TERM");
    until_refused(gateway.address);
    backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("done"), "{answer}");
    let (status, log) = gateway.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn what_the_drain_timeout_cuts_off_is_an_error() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = to_upstream(&upstream).replace("[server]", "[server]\ndrain_timeout = \"200ms\"");
    let gateway = Gateway::start(&file);
    let _client = get(gateway.address);
    let _backend = upstream.accept().unwrap();
    gateway.signal("TERM");
    let (status, log) = gateway.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("something was cut off"), "{log}");
}

#[test]
fn secrets_are_in_no_output() {
    /// Of `hush-api-key`.
    const HASH: &str = "a40263fe71e37f9b7449943e3d5faa4b9d66102086bf4f5027143a6768c276b0";
    const SECRETS: [&str; 10] = [
        "hush-from-the-environment-0123456789abcdef",
        "hush-from-a-file-0123456789abcdef012345678",
        "hush-in-the-clear-0123456789abcdef01234567",
        "hush-client",
        "hush-basic",
        "hush-key",
        "hush-introspection",
        "hush-api-key",
        "hush-token",
        HASH,
    ];
    let file = File::new(&format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "off"
[session]
secret = [{{ env = "HUSH" }}, {{ file = "hush" }}, "{}"]
[providers.corp]
kind = "oidc"
issuer = "http://127.0.0.1:9"
client_id = "app"
client_secret = "{}"
[upstreams.app]
url = "http://127.0.0.1:9"
[bearer.opaque]
introspection = {{ url = "http://127.0.0.1:9/i", client_id = "c", client_secret = "{}" }}
[api_keys.ci]
query = "api_key"
keys = [{{ id = "a", sha256 = "{HASH}" }}]
[[routes]]
path = "/clients"
accept = ["opaque", "ci"]
[[routes]]
path = "/basic"
attach = {{ basic = {{ username = "u", password = "{}" }} }}
auth = false
[[routes]]
path = "/key"
attach = {{ api_key = {{ query = "k", value = "{}" }} }}
auth = false
"#,
        SECRETS[2], SECRETS[3], SECRETS[6], SECRETS[4], SECRETS[5],
    ));
    fs::write(file.directory.path().join("hush"), SECRETS[1]).unwrap();
    let with_environment = |command: &mut Command| {
        command.env("HUSH", SECRETS[0]).env("LATCHGATE_LOG", "trace");
    };
    let mut said = String::new();
    for source in
        [file.text.clone(), file.text.replace("auth = false", "auth = fals"), file.text.replace("/key", "key")]
    {
        fs::write(&file.path, source).unwrap();
        for command in ["check", "routes"] {
            let output = file.run_with(command, with_environment);
            said += &(stdout(&output) + &stderr(&output));
        }
    }
    fs::write(&file.path, &file.text).unwrap();
    let gateway = Gateway::start_with(file, with_environment);
    let address = gateway.address;
    for path in ["/basic", "/key", "/auth/login"] {
        let mut answer = String::new();
        request(address, path).read_to_string(&mut answer).unwrap();
        said += &answer;
    }
    for target in ["/clients?api_key=hush-api-key", "/clients?api_key=wrong-hush-api-key"] {
        let mut answer = String::new();
        request(address, target).read_to_string(&mut answer).unwrap();
        said += &answer;
    }
    let mut connection = TcpStream::connect(address).unwrap();
    let head =
        "GET /clients HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer hush-token\r\n\r\n";
    connection.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    said += &answer;
    gateway.signal("TERM");
    said += &gateway.wait().1;
    assert!(said.contains("api_key_unknown") && said.contains("a token could not be introspected"), "{said}");
    assert!(said.contains("is fine: 3 routes") && said.contains("error: ") && said.contains("path=\"/key\""), "{said}");
    for secret in SECRETS {
        assert!(!said.contains(secret), "{secret} was printed:\n{said}");
    }
}

/// One route for everyone, any free port.
const PUBLIC: &str = r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "off"

[upstreams.app]
url = "http://127.0.0.1:9"

[[routes]]
path = "/*"
auth = "public"
"#;

fn to_upstream(upstream: &TcpListener) -> String {
    PUBLIC.replace("127.0.0.1:9", &upstream.local_addr().unwrap().to_string())
}

/// A configuration in a directory of its own, where the process starts.
struct File {
    directory: TempDir,
    path: PathBuf,
    text: String,
}

impl File {
    fn new(text: &str) -> File {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.toml");
        fs::write(&path, text).unwrap();
        File { directory, path, text: text.to_owned() }
    }

    fn run(&self, command: &str) -> Output {
        self.run_with(command, |_| {})
    }

    fn run_with(&self, command: &str, configure: impl FnOnce(&mut Command)) -> Output {
        let mut command = self.command(command);
        configure(&mut command);
        command.output().unwrap()
    }

    fn command(&self, command: &str) -> Command {
        let mut process = binary(self.directory.path());
        process.arg(command).arg("--config").arg(&self.path);
        process
    }
}

/// A gateway at work; it dies with this value.
struct Gateway {
    process: Child,
    address: SocketAddr,
    log: Receiver<String>,
    read: String,
    _file: File,
}

impl Gateway {
    fn start(text: &str) -> Gateway {
        Gateway::start_with(File::new(text), |_| {})
    }

    fn start_with(file: File, configure: impl FnOnce(&mut Command)) -> Gateway {
        let mut command = file.command("run");
        configure(&mut command);
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (say, log) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| say.send(line + "\n")));
        let mut read = String::new();
        let address = loop {
            let line = log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it did not start:\n{read}"));
            read += &line;
            if line.contains("latchgate is up") {
                let (_, rest) = line.split_once("listen=[").unwrap();
                break rest.split(']').next().unwrap().parse().unwrap();
            }
        };
        Gateway { process, address, log, read, _file: file }
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Its end, and all it wrote to standard error.
    fn wait(mut self) -> (ExitStatus, String) {
        let mut log = std::mem::take(&mut self.read);
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => log += &line,
                // The log ends with the process.
                Err(RecvTimeoutError::Disconnected) => return (self.process.wait().unwrap(), log),
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{log}"),
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Until nobody listens there any more.
fn until_refused(address: SocketAddr) {
    for _ in 0..1000 {
        if TcpStream::connect(address).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it still listens on {address}");
}

fn get(address: SocketAddr) -> TcpStream {
    request(address, "/")
}

fn request(address: SocketAddr, path: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    connection
}

fn latchgate(arguments: &[&str]) -> Output {
    binary(Path::new(env!("CARGO_MANIFEST_DIR"))).args(arguments).output().unwrap()
}

fn binary(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchgate"));
    command.current_dir(directory).env_remove("LATCHGATE_LOG").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const PATIENCE: Duration = Duration::from_secs(20);
