//! What a stored session takes of the gateway's memory: resident set size, in a process of its own for each store.

use crate::Failure;
use crate::figures::verdict;
use crate::stage::{CACHE_MEMORY, Kind, Stage};
use std::fmt;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use tokio::task::JoinSet;

/// KiB for one session.
pub struct Memory {
    sessions: usize,
    lines: Vec<Line>,
}

struct Line {
    kind: Kind,
    stored: f64,
    /// With those at hand, of which there are as many as `session.cache_memory` has room for.
    in_all: f64,
}

/// Without cookies: what they keep here is bounded, whatever the number of sessions.
pub fn measure(sessions: usize) -> Result<Memory, Failure> {
    let mut lines = Vec::new();
    for kind in [Kind::Memory, Kind::File, Kind::Redis] {
        let stored = of_one(kind, sessions, LEAST_CACHE)?;
        lines.push(Line { kind, stored, in_all: of_one(kind, sessions, CACHE_MEMORY)? });
    }
    Ok(Memory { sessions, lines })
}

fn of_one(kind: Kind, sessions: usize, cache_memory: u64) -> Result<f64, Failure> {
    let numbers = [sessions.to_string(), cache_memory.to_string()];
    let arguments = ["--open", kind.name(), "--sessions", &numbers[0], "--cache-memory", &numbers[1]];
    let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let cause = || format!("{}: {said}{}", kind.name(), String::from_utf8_lossy(&output.stderr));
    Ok(said.trim().parse().map_err(|_| cause())?)
}

/// The other process: what each of `sessions` took, in KiB.
pub fn open_and_say(kind: Kind, sessions: usize, cache_memory: u64) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stage = Arc::new(Stage::of(kind).await?);
        let gateway = stage.gateway_with(cache_memory).await?;
        stage.open(&gateway, 0).await?;
        let before = resident_kib()?;
        let mut logins = JoinSet::new();
        for number in 1..=sessions {
            let (stage, gateway) = (Arc::clone(&stage), gateway.clone());
            logins
                .spawn(async move { stage.open(&gateway, number).await.map(drop).map_err(|error| error.to_string()) });
            if logins.len() >= AT_ONCE
                && let Some(login) = logins.join_next().await
            {
                login??;
            }
        }
        for login in logins.join_all().await {
            login?;
        }
        println!("{:.3}", (resident_kib()? - before) / sessions as f64);
        Ok(())
    })
}

/// proc_pid_status(5).
fn resident_kib() -> Result<f64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = "KiB of the gateway each | with those at hand";
        writeln!(f, "| {} sessions with 5 KiB of tokens | {head} |\n|---|---|---|", self.sessions)?;
        for Line { kind, stored, in_all } in &self.lines {
            writeln!(f, "| {} | {stored:.2} | {in_all:.2} |", kind.name())?;
        }
        let in_memory = self.lines.iter().find(|line| line.kind == Kind::Memory).map_or(f64::NAN, |line| line.in_all);
        writeln!(f, "\nin memory: {in_memory:.2} KiB; the goal is {MOST_KIB}: {}", verdict(in_memory < MOST_KIB))
    }
}

const MOST_KIB: f64 = 8.0;
/// Room for a few sessions.
const LEAST_CACHE: u64 = 64 << 10;
/// Logins: enough to share an fsync, few enough for a store that answers one after the other.
const AT_ONCE: usize = 64;
