//! How many requests a CPU-second of the gateway serves, as a ratio to nginx's `proxy_pass`, on the
//! same machine, in the same run, in turns.
//!
//! `cargo bench --bench end_to_end [-- --rounds 6 --seconds 2]`
//!
//! wrk and the upstream share core 0; the target has core 1 for itself and one worker. What a
//! target costs is `utime + stime` of its process tree for the requests wrk counted: that moves far
//! less than a rate does when something else runs beside it. The method, and what was measured, is
//! in docs/performance.md.

mod backend;
mod http;
mod process;
mod report;
mod sign_in;
mod target;
mod wrk;

use process::{Cores, Role};
use report::Table;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use target::Targets;
use wrk::Wrk;

/// Whatever ends the run. Nothing here can be made good, only said.
type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match Arguments::parse(&arguments) {
        Ok(Arguments::Backend) => backend::serve(),
        Ok(Arguments::Measure { rounds, seconds }) => measure(rounds, seconds),
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

fn measure(rounds: u32, seconds: u64) -> Result<(), Failure> {
    let missing: Vec<&str> = ["nginx", "wrk"].into_iter().filter(|program| !process::is_installed(program)).collect();
    if !missing.is_empty() {
        println!("skipped: {} not found; the figures are ratios to nginx, measured with wrk", missing.join(" and "));
        return Ok(());
    }
    let cores = Cores::available();
    let directory = tempfile::tempdir()?;
    let this = std::env::current_exe()?;
    let backend = cores.start(Role::Load, "backend", &this, &["--backend"], &[], directory.path())?;
    let backend_address = backend.announced_address(directory.path())?;
    let targets = Targets::start(&cores, directory.path(), backend_address)?;
    println!("{}", report::machine(&cores)?);
    println!("{rounds} rounds of {seconds} s for each target, 64 connections; one dot is one target once");
    let table = in_turns(&targets, &cores, directory.path(), rounds, Duration::from_secs(seconds))?;
    println!("\n{}\nload average afterwards {}", table, report::load_average()?);
    Ok(())
}

/// Every round takes all targets, forwards and then backwards (A B B A), so that what drifts drifts
/// for all of them.
fn in_turns(
    targets: &Targets,
    cores: &Cores,
    directory: &Path,
    rounds: u32,
    duration: Duration,
) -> Result<Table, Failure> {
    let wrk = Wrk { cores, directory };
    for target in targets.all() {
        target.measure(&wrk, targets.backend(), WARM_UP)?;
    }
    let mut table = Table::new(targets.all().iter().map(|target| target.label));
    let mut order: Vec<usize> = (0..targets.all().len()).collect();
    for _ in 0..rounds {
        for &index in &order {
            let sample = targets.all()[index].measure(&wrk, targets.backend(), duration)?;
            table.add(index, sample);
            report::progress()?;
        }
        order.reverse();
    }
    Ok(table)
}

enum Arguments {
    /// In a process of its own: what the gateway and nginx talk to.
    Backend,
    Measure {
        rounds: u32,
        seconds: u64,
    },
}

impl Arguments {
    /// cargo adds `--bench` when it measures. Without it (`cargo test --benches`) one short round
    /// shows that everything still fits together.
    fn parse(arguments: &[String]) -> Result<Arguments, Failure> {
        let for_real = arguments.iter().any(|argument| argument == "--bench");
        let (mut rounds, mut seconds) = if for_real { (6, 2) } else { (1, 1) };
        let mut left = arguments.iter();
        while let Some(argument) = left.next() {
            let mut number = || left.next().and_then(|text| text.parse().ok()).filter(|&number| number > 0);
            match argument.as_str() {
                "--backend" => return Ok(Arguments::Backend),
                "--bench" => {}
                "--rounds" => rounds = number().ok_or("--rounds takes a number")?,
                "--seconds" => seconds = number().ok_or("--seconds takes a number")?,
                other => return Err(format!("unknown argument {other}; there are --rounds and --seconds").into()),
            }
        }
        Ok(Arguments::Measure { rounds, seconds: seconds.into() })
    }
}

const WARM_UP: Duration = Duration::from_secs(1);
