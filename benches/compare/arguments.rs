//! The command line.

use crate::cases::{ALL, Effort};
use std::time::Duration;

pub enum Arguments {
    /// In a process of its own: what stands behind everybody.
    Backend,
    Compare(Run),
}

pub struct Run {
    pub effort: Effort,
    /// Names of cases; all when empty.
    pub only: Vec<String>,
    /// Shows that everything fits together.
    pub is_smoke: bool,
    pub installs: bool,
    pub publishes: bool,
}

impl Arguments {
    /// cargo adds `--bench` when it measures. Without it (`cargo test --benches`) it is a smoke run.
    pub fn parse(arguments: &[String]) -> Result<Arguments, String> {
        let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
        let is_smoke = has("--quick") || !has("--bench");
        let mut run = Run { effort: effort(is_smoke), only: Vec::new(), is_smoke, installs: false, publishes: false };
        let mut left = arguments.iter();
        while let Some(argument) = left.next() {
            let mut value = || left.next().ok_or_else(|| format!("{argument} takes a value"));
            let number = |text: &String| match text.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(format!("{argument} takes a number, not {text}")),
            };
            match argument.as_str() {
                "--backend" => return Ok(Arguments::Backend),
                "--bench" | "--quick" => {}
                "--install" => run.installs = true,
                "--publish" => run.publishes = true,
                "--rounds" => run.effort.rounds = number(value()?)?,
                "--seconds" => run.effort.duration = Duration::from_secs(number(value()?)? as u64),
                "--sessions" => run.effort.sessions = number(value()?)?,
                "--only" => run.only = names(value()?)?,
                other => return Err(format!("unknown argument {other}; {USAGE}")),
            }
        }
        Ok(Arguments::Compare(run))
    }
}

fn effort(is_smoke: bool) -> Effort {
    let (rounds, seconds, sessions, connections) = if is_smoke { (1, 1, 200, 100) } else { (6, 2, 100_000, 5_000) };
    Effort { rounds, duration: Duration::from_secs(seconds), sessions, connections }
}

fn names(list: &str) -> Result<Vec<String>, String> {
    let known = ALL.map(|case| case.name);
    match list.split(',').find(|name| !known.contains(name)) {
        Some(unknown) => Err(format!("no case is called {unknown}; there are {}", known.join(", "))),
        None => Ok(list.split(',').map(str::to_owned).collect()),
    }
}

const USAGE: &str = "there are --only, --rounds, --seconds, --sessions, --quick, --install and --publish";
