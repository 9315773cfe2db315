//! The figures.

use crate::Failure;
use crate::process::{Cores, Cpu};
use crate::wrk::Counted;
use std::fmt;
use std::fs;
use std::io::Write;

/// One target in one round. Microseconds of CPU for a request, milliseconds of latency.
#[derive(Clone, Copy)]
pub struct Sample {
    user: f64,
    system: f64,
    per_second: f64,
    p50: f64,
    p99: f64,
}

impl Sample {
    /// From what was used before and after.
    pub fn new(counted: &Counted, before: Cpu, after: Cpu) -> Sample {
        let each = |before: f64, after: f64| (after - before) * 1e6 / counted.requests;
        Sample {
            user: each(before.user, after.user),
            system: each(before.system, after.system),
            per_second: counted.per_second,
            p50: counted.p50,
            p99: counted.p99,
        }
    }

    fn cpu(&self) -> f64 {
        self.user + self.system
    }
}

/// All samples; the first line is what the others are compared with.
pub struct Table {
    lines: Vec<(&'static str, Vec<Sample>)>,
}

impl Table {
    /// Without samples.
    pub fn new(labels: impl Iterator<Item = &'static str>) -> Table {
        Table { lines: labels.map(|label| (label, Vec::new())).collect() }
    }

    /// A round's sample; each line gets one a round.
    pub fn add(&mut self, line: usize, sample: Sample) {
        self.lines[line].1.push(sample);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| target | req/CPU-s | ratio to nginx (min-max) | us/req | user | system | req/s | p50 ms | p99 ms |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        let Some((_, anchor)) = self.lines.first() else { return Ok(()) };
        for (label, samples) in &self.lines {
            let column = |of: fn(&Sample) -> f64| median(samples.iter().map(of).collect());
            // More than one is better than the anchor in the same round.
            let ratios: Vec<f64> = anchor.iter().zip(samples).map(|(nginx, it)| nginx.cpu() / it.cpu()).collect();
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            writeln!(
                f,
                "| {label} | {:.0} | {:.2} ({least:.2}-{most:.2}) | {:.1} | {:.1} | {:.1} | {:.0} | {:.2} | {:.2} |",
                1e6 / column(Sample::cpu),
                median(ratios),
                column(Sample::cpu),
                column(|it| it.user),
                column(|it| it.system),
                column(|it| it.per_second),
                column(|it| it.p50),
                column(|it| it.p99),
            )?;
        }
        Ok(())
    }
}

/// Where this runs.
pub fn machine(cores: &Cores) -> Result<String, Failure> {
    let count = std::thread::available_parallelism()?;
    let pinned = if cores.are_pinned { "wrk and backend on core 0, target on core 1" } else { "NOT PINNED" };
    Ok(format!("{count} cores, {pinned}, load average before {}", load_average()?))
}

/// Of the last minute.
pub fn load_average() -> Result<String, Failure> {
    Ok(fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned())
}

/// A run takes minutes.
pub fn progress() -> Result<(), Failure> {
    print!(".");
    Ok(std::io::stdout().flush()?)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => numbers[count / 2],
        count => f64::midpoint(numbers[count / 2 - 1], numbers[count / 2]),
    }
}
