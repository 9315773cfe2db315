//! argv, exit code, signals.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use latchgate::app::{self, Drained};
use latchgate::clock::Clock;
use latchgate::config::Config;
use latchgate::telemetry;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An authentication gateway for backends nobody wants to change.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file.
    #[arg(long, short, global = true, default_value = "gateway.toml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Serve; this is the default.
    Run,
    /// Say everything that is wrong with the configuration, and where.
    Check,
    /// Print the compiled routes.
    Routes,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(report) => {
            eprintln!("{}", report.render(std::io::stderr().is_terminal()).trim_end());
            return ExitCode::FAILURE;
        }
    };
    match arguments.command.unwrap_or(Command::Run) {
        Command::Run => run(config),
        Command::Check => {
            check(&config, &arguments.config);
            ExitCode::SUCCESS
        }
        Command::Routes => {
            print!("{}", config.routes_table());
            ExitCode::SUCCESS
        }
    }
}

fn check(config: &Config, file: &Path) {
    warn(config);
    let routes = if config.routes.len() == 1 { "route" } else { "routes" };
    println!("{} is fine: {} {routes}", file.display(), config.routes.len());
}

fn warn(config: &Config) {
    if !config.warnings.is_empty() {
        eprintln!("{}", config.warnings.render(std::io::stderr().is_terminal()).trim_end());
    }
}

fn run(config: Config) -> ExitCode {
    telemetry::init(config.telemetry);
    // Workers have runtimes of their own. This one is for what must finish, and that is little.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    warn(&config);
    take_all_descriptors();
    runtime.block_on(serve(config))
}

/// The soft limit is low for programs that use `select`, which this one does not. A client takes one descriptor, and its request
/// another one, towards the upstream.
fn take_all_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Nothing is lost when it fails: it is as it was.
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn serve(config: Config) -> ExitCode {
    let external_url = config.server.external_url.clone();
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: cannot listen for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let running = match app::start(config, Clock::system()).await {
        Ok(running) => running,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(listen = ?running.addresses(), admin = ?running.admin_address(), "latchgate is up: open {external_url}");
    while signals.next().await == Wish::Reload {
        tracing::warn!("SIGHUP: certificates are read again; this version reads everything else at the start only");
        running.reload_certificates();
    }
    tracing::info!("draining");
    match running.shut_down().await {
        Drained::Complete => ExitCode::SUCCESS,
        Drained::CutOff => {
            tracing::warn!("server.drain_timeout is over; something was cut off");
            ExitCode::FAILURE
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// A terminal that goes away is no reason to stop.
    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }
}

#[derive(PartialEq)]
enum Wish {
    Stop,
    Reload,
}
