//! The gateway beside its peers: what a request costs, as a ratio to nginx's `proxy_pass` on the same machine, in the
//! same run, in turns; and what is to be reached.
//!
//! `cargo bench --bench compare [-- --install --only plain,bearer --rounds 6 --seconds 2 --sessions 100000 --publish]`
//!
//! wrk and the backend share core 0; the target has core 1 for itself and one worker. What a target costs is
//! `utime + stime` of its process tree for the requests that were counted: that moves far less than a rate does when
//! something else runs beside it. A run that was too noisy all the same is refused. The method is in
//! docs/performance.md.

mod arguments;
mod backend;
mod cases;
mod chart;
mod http;
mod install;
mod load;
mod peers;
mod process;
mod provider;
mod report;
mod sign_in;
mod site;
mod statistics;
mod table;

use arguments::{Arguments, Run};
use report::Report;
use site::Site;
use std::error::Error;
use std::process::{Command, ExitCode};

/// Whatever ends the run. Nothing here can be made good, only said.
type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match Arguments::parse(&arguments) {
        Ok(Arguments::Backend) => backend::serve(),
        Ok(Arguments::Compare(run)) => compare(&run),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(run: &Run) -> Result<(), Failure> {
    if run.installs {
        install::all()?;
    }
    let missing: Vec<&str> =
        ["nginx", "wrk"].into_iter().filter(|program| process::installed(program).is_none()).collect();
    if !missing.is_empty() {
        println!("skipped: {} not found; --install brings them", missing.join(" and "));
        return Ok(());
    }
    allow_many_files();
    let site = Site::open()?;
    let mut report = Report::begin(&site, run.is_smoke)?;
    for case in cases::ALL.iter().filter(|case| run.only.is_empty() || run.only.iter().any(|name| name == case.name)) {
        let tables = case.run(&site, &run.effort).map_err(|error| format!("{}: {error}", case.name))?;
        for table in tables {
            report.add(table);
        }
    }
    report.end(&site, run.publishes)
}

/// Thousands of connections rest at once, here and at every target, which inherits this.
fn allow_many_files() {
    let this = std::process::id().to_string();
    // Where it is not allowed, opening them says so.
    let _ = Command::new("prlimit").args(["--pid", &this, "--nofile=20000:"]).status();
}
