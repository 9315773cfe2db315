//! What sessions and refreshes cost on each store, and whether that is within the goals of docs/performance.md.
//!
//! `cargo bench --bench sessions [-- --rounds 200 --sessions 100000]`
//!
//! Everything runs in this process, on the stores themselves: no HTTP towards a browser. What is compared is measured
//! in turns; memory is measured in processes of their own. It starts a `redis-server`, or the one that `REDIS_SERVER`
//! names; without one it says so and ends well.

mod figures;
mod memory;
mod provider;
mod reads;
#[path = "../../tests/support/redis_server.rs"]
mod redis_server;
mod refresh;
mod stage;

use figures::load_average;
use stage::{CACHE_MEMORY, Kind};
use std::error::Error;
use std::process::ExitCode;

/// As in the gateway: what a session takes depends on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whatever ends the run. Nothing here can be made good, only said.
type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match Arguments::parse(&arguments) {
        Ok(Arguments::Open { kind, sessions, cache_memory }) => memory::open_and_say(kind, sessions, cache_memory),
        Ok(Arguments::Measure(effort)) => measure(&effort),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How much is measured.
struct Effort {
    /// Pairs, refreshes for each store; a tenth of them flights with a thousand waiters.
    rounds: usize,
    /// Opened for the memory of one.
    sessions: usize,
}

fn measure(effort: &Effort) -> Result<(), Failure> {
    let redis = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    if !stage::is_installed(&redis) {
        println!("skipped: {redis} not found; install redis-server, or name one in REDIS_SERVER");
        return Ok(());
    }
    let cores = std::thread::available_parallelism()?;
    println!("{cores} cores, load average before {}", load_average()?);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(cores.get().min(2)).enable_all().build()?;
    runtime.block_on(async {
        println!("\n{}", reads::measure(effort.rounds).await?);
        println!("{}", refresh::measure(effort.rounds).await?);
        Ok::<(), Failure>(())
    })?;
    println!("{}", memory::measure(effort.sessions)?);
    println!("load average afterwards {}", load_average()?);
    Ok(())
}

enum Arguments {
    /// In a process of its own: opens sessions and says what they took.
    Open {
        kind: Kind,
        sessions: usize,
        cache_memory: u64,
    },
    Measure(Effort),
}

impl Arguments {
    /// cargo adds `--bench` when it measures. Without it (`cargo test --benches`) a few rounds show that everything
    /// still fits together.
    fn parse(arguments: &[String]) -> Result<Arguments, Failure> {
        let for_real = arguments.iter().any(|argument| argument == "--bench");
        let (mut rounds, mut sessions) = if for_real { (200, 100_000) } else { (5, 500) };
        let (mut kind, mut cache_memory) = (None, CACHE_MEMORY);
        let mut left = arguments.iter();
        while let Some(argument) = left.next() {
            let mut number = || left.next().and_then(|text| text.parse().ok()).filter(|&number| number > 0);
            match argument.as_str() {
                "--bench" => {}
                "--rounds" => rounds = number().ok_or("--rounds takes a number")?,
                "--sessions" => sessions = number().ok_or("--sessions takes a number")?,
                "--cache-memory" => cache_memory = number().ok_or("--cache-memory takes a number")? as u64,
                "--open" => kind = left.next().and_then(|name| Kind::named(name)),
                other => return Err(format!("unknown argument {other}; there are --rounds and --sessions").into()),
            }
        }
        Ok(match kind {
            Some(kind) => Arguments::Open { kind, sessions, cache_memory },
            None => Arguments::Measure(Effort { rounds, sessions }),
        })
    }
}
