//! The gateway under a program that counts.

use crate::Failure;
use crate::backend::{self, BEARER, PLAIN};
use crate::http::{self, Connection};
use crate::sign_in;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

#[derive(Clone, Copy)]
pub enum Tracer {
    /// Instructions.
    Callgrind,
    /// System calls.
    Strace,
}

impl Tracer {
    pub fn program(self) -> &'static str {
        match self {
            Tracer::Callgrind => "valgrind",
            Tracer::Strace => "strace",
        }
    }

    pub fn is_installed(self) -> bool {
        Command::new(self.program()).arg("--version").output().is_ok()
    }

    /// What one request for `path` takes, on a connection that has served some.
    pub fn counts(self, gateway: &Path, path: &str, requests: u32) -> Result<f64, Failure> {
        let once = self.counts_of_all(gateway, path, requests)?;
        let twice = self.counts_of_all(gateway, path, 2 * requests)?;
        Ok(((twice - once) / f64::from(requests)).round())
    }

    /// From the start of the process to its end.
    fn counts_of_all(self, gateway: &Path, path: &str, requests: u32) -> Result<f64, Failure> {
        let directory = tempfile::tempdir()?;
        let (config, output) = (directory.path().join("gateway.toml"), directory.path().join("counted"));
        fs::write(&config, configuration(backend::start()?))?;
        let mut process = self.start(gateway, &config, &output)?;
        // Kept until the end: whoever writes to a pipe that nobody has open is ended.
        let mut said = BufReader::new(process.stderr.take().ok_or("no pipe")?);
        let asked = announced_address(&mut said).and_then(|address| ask(address, path, requests));
        let ended = stop(&mut process);
        asked?;
        ended?;
        self.read(&output)
    }

    fn start(self, gateway: &Path, config: &Path, output: &Path) -> Result<Child, Failure> {
        let output = output.to_string_lossy();
        let options = match self {
            Tracer::Callgrind => vec!["--tool=callgrind".to_owned(), format!("--callgrind-out-file={output}")],
            // -D: the gateway, and not strace, is the process that is started and ended here.
            Tracer::Strace => ["-D", "-f", "-c", "-o", &output].map(str::to_owned).to_vec(),
        };
        let child = Command::new(self.program())
            .args(options)
            .arg(gateway)
            .args(["run", "--config"])
            .arg(config)
            .env("LATCHGATE_LOG", "latchgate=info,latchgate::access=off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(child)
    }

    fn read(self, output: &Path) -> Result<f64, Failure> {
        // strace ends after the gateway does.
        for _ in 0..PATIENCE {
            let text = fs::read_to_string(output).unwrap_or_default();
            let counted = match self {
                Tracer::Callgrind => instructions(&text),
                Tracer::Strace => system_calls(&text),
            };
            if let Some(counted) = counted {
                return Ok(counted);
            }
            sleep(MOMENT);
        }
        Err(format!("{} wrote nothing to read", self.program()).into())
    }
}

/// The last line of callgrind's file: `totals: 123456`.
fn instructions(text: &str) -> Option<f64> {
    text.lines().rev().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
}

/// Of `% time, seconds, usecs/call, calls, errors, syscall`: all calls but epoll_wait, of which one serves many
/// connections where there are many.
fn system_calls(text: &str) -> Option<f64> {
    let mut counted = 0.0;
    for line in text.lines().skip(2) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [.., "total"] => return Some(counted),
            [.., name] if *name == "epoll_wait" || *name == "epoll_pwait" => {}
            [_, _, _, calls, ..] => counted += calls.parse::<f64>().unwrap_or_default(),
            _ => {}
        }
    }
    None
}

/// Signs in, and asks on one connection, as a page in a browser does.
fn ask(gateway: SocketAddr, path: &str, requests: u32) -> Result<(), Failure> {
    let session = sign_in::sessions(gateway, "/auth/login", 1)?.pop().ok_or("no session")?;
    let cookie = format!("theme=dark; {session}");
    let headers = [&HEADERS[..], &[("Cookie", &cookie)]].concat();
    let mut connection = Connection::open(gateway)?;
    for _ in 0..WARM_UP + requests {
        http::body(&connection.get(&format!("{path}/items/42?page=1"), &headers)?)?;
    }
    Ok(())
}

/// Where it listens, by its own word: a port chosen before it starts may be somebody else's by then.
fn announced_address(said: &mut impl BufRead) -> Result<SocketAddr, Failure> {
    let mut everything = String::new();
    while said.read_line(&mut everything)? > 0 {
        let address = everything.rsplit_once("listen=[").and_then(|(_, rest)| rest.split(']').next());
        if let Some(address) = address {
            return Ok(address.parse()?);
        }
    }
    Err(format!("the gateway does not start:\n{everything}").into())
}

/// By SIGTERM, so that what was counted is written.
fn stop(process: &mut Child) -> Result<(), Failure> {
    Command::new("kill").arg(process.id().to_string()).status()?;
    for _ in 0..PATIENCE {
        if process.try_wait()?.is_some() {
            return Ok(());
        }
        sleep(MOMENT);
    }
    process.kill()?;
    Err("the gateway does not end".into())
}

fn configuration(backend: SocketAddr) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
external_url = "http://127.0.0.1"
admin_listen = "off"
workers = 1

[providers.bench]
kind = "oauth2"
authorization_endpoint = "http://{backend}/authorize"
token_endpoint = "http://{backend}/token"
userinfo_endpoint = "http://{backend}/userinfo"
client_id = "bench"
client_auth = "none"

[upstreams.app]
url = "http://{backend}"

[[routes]]
path = "{PLAIN}/*"
auth = false

[[routes]]
path = "{BEARER}/*"
auth = true
attach = "bearer"
"#
    )
}

const HEADERS: [(&str, &str); 7] = [
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("Accept", "*/*"),
    ("Accept-Language", "en-GB,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Referer", "http://127.0.0.1/items"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Mode", "cors"),
];
/// Buffers and pools are then as large as they get.
const WARM_UP: u32 = 100;
const MOMENT: Duration = Duration::from_millis(50);
const PATIENCE: u32 = 1200;
