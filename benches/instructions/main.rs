//! The guard of the hot path: how many instructions and system calls a request takes. Times are not repeatable on a
//! machine that does something else; these are, to within a percent.
//!
//! `cargo bench --profile dev --bench instructions [-- --record]`
//!
//! What is counted is optimised (the profile `counted`, built here); what counts is not, so that of all dependencies only
//! those of the gateway are built once more.
//!
//! The gateway runs under callgrind, and answers N requests on one kept connection; then it starts anew, and answers 2N.
//! The difference, divided by N, is one request: what starting and signing in takes is in both. The same with strace.
//! More than [`SLACK`] times what is written in `measured.toml` is an error; `--record` writes it anew.

mod backend;
#[path = "../compare/http.rs"]
#[allow(dead_code, reason = "the rest is for benches/compare")]
mod http;
#[path = "../compare/provider.rs"]
#[allow(dead_code, reason = "the rest is for benches/compare")]
mod provider;
#[path = "../compare/sign_in.rs"]
mod sign_in;
mod tracer;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tracer::Tracer;

/// Whatever ends the run.
type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    // cargo adds `--bench` when it measures; `cargo test --benches` only shows that everything still fits together.
    let outcome = if has("--bench") {
        counted_build().and_then(|gateway| count(&gateway, 1_000, !has("--record"), has("--record")))
    } else {
        count(env!("CARGO_BIN_EXE_latchgate").as_ref(), 20, false, false)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the gateway in the profile `counted`; where it is.
fn counted_build() -> Result<PathBuf, Failure> {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = temporary.parent().ok_or("no target directory")?;
    let status = Command::new(env!("CARGO"))
        .args(["build", "--profile", "counted", "--bin", "latchgate", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .status()?;
    if status.success() { Ok(target.join("counted/latchgate")) } else { Err(format!("cargo build: {status}").into()) }
}

fn count(gateway: &Path, requests: u32, guards: bool, records: bool) -> Result<(), Failure> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/measured.toml");
    let written = fs::read_to_string(&file)?;
    let measured: BTreeMap<String, f64> = toml::from_str(&written)?;
    let (mut text, mut excess) = (written.clone(), Vec::new());
    for (name, tracer, path, slack) in LINES {
        if !tracer.is_installed() {
            println!("skipped: {name}, {} not found", tracer.program());
            continue;
        }
        let each = tracer.counts(gateway, path, requests)?;
        let before = *measured.get(name).ok_or_else(|| format!("measured.toml has no {name}"))?;
        println!("{name}: {each} for a request (before {before})");
        text = text.replace(&format!("{name} = {before}\n"), &format!("{name} = {each}\n"));
        if each > before * slack {
            excess.push(format!("{name} takes {each} for a request, more than {slack} times {before}"));
        }
    }
    if records {
        fs::write(&file, text)?;
    }
    if guards && !excess.is_empty() {
        return Err(format!("{}; if that is meant, --record it", excess.join("; ")).into());
    }
    Ok(())
}

/// What is counted by whom, and how many times what is written it may be.
const LINES: [(&str, Tracer, &str, f64); 3] = [
    ("plain_instructions", Tracer::Callgrind, backend::PLAIN, SLACK),
    ("bearer_instructions", Tracer::Callgrind, backend::BEARER, SLACK),
    // Two reads and two writes: one more would be a quarter more. Counts are rounded, which is slack enough.
    ("bearer_syscalls", Tracer::Strace, backend::BEARER, 1.0),
];
/// Generous: the guard keeps out what doubles the cost of a request, not what adds a header.
const SLACK: f64 = 1.25;
