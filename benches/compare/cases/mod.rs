//! What is compared, row by row, and what the gateway is to reach in each: `--only` names them.

mod footprint;
mod forwarding;
mod latency;

pub use forwarding::MICROSECONDS;

use crate::Failure;
use crate::load::{Contender, Load};
use crate::report;
use crate::site::Site;
use crate::table::{Sample, Table};
use std::time::Duration;

pub struct Case {
    pub name: &'static str,
    run: fn(&Site, &Effort) -> Result<Vec<Table>, Failure>,
}

/// How much is measured.
pub struct Effort {
    pub rounds: usize,
    /// Of one contender in one round.
    pub duration: Duration,
    /// Open while the cold ones are asked for.
    pub sessions: usize,
    /// Idle connections.
    pub connections: usize,
}

/// In the order of the report.
pub const ALL: [Case; 10] = [
    Case { name: "plain", run: forwarding::plain },
    Case { name: "bearer", run: forwarding::bearer },
    Case { name: "cold", run: forwarding::cold },
    Case { name: "bodies", run: forwarding::bodies },
    Case { name: "tls", run: forwarding::tls },
    Case { name: "routes", run: forwarding::routes },
    Case { name: "cores", run: forwarding::cores },
    Case { name: "latency", run: latency::at_seventy_percent },
    Case { name: "idle", run: footprint::idle },
    Case { name: "start", run: footprint::start },
];

impl Case {
    /// # Errors
    /// When a figure would be of something else than what its line says.
    pub fn run(&self, site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
        (self.run)(site, effort)
    }
}

/// Adds a line for each contender. Every round takes all of them, and the next one in the opposite order (A B B A), so
/// that what drifts drifts for all; what is forwarded is looked at before and after.
fn measure(
    table: &mut Table,
    site: &Site,
    effort: &Effort,
    load: Load,
    contenders: &[Contender],
) -> Result<(), Failure> {
    let check = || match load {
        Load::Requests { is_tls: false, .. } => contenders.iter().try_for_each(Contender::check_what_is_forwarded),
        // What is forwarded from under TLS is counted, and is the same code.
        _ => Ok(()),
    };
    check()?;
    for contender in contenders {
        contender.measure(site, load, WARM_UP.min(effort.duration))?;
    }
    let samples = in_turns(effort.rounds, contenders.len(), |index| {
        report::progress()?;
        contenders[index].measure(site, load, effort.duration)
    })?;
    check()?;
    for (contender, samples) in contenders.iter().zip(samples) {
        table.add(&contender.label, samples);
    }
    Ok(())
}

/// The samples of each of `count`, by round.
fn in_turns(
    rounds: usize,
    count: usize,
    mut measure: impl FnMut(usize) -> Result<Sample, Failure>,
) -> Result<Vec<Vec<Sample>>, Failure> {
    let mut samples = vec![Vec::with_capacity(rounds); count];
    let mut order: Vec<usize> = (0..count).collect();
    for _ in 0..rounds {
        for &index in &order {
            samples[index].push(measure(index)?);
        }
        order.reverse();
    }
    Ok(samples)
}

const WARM_UP: Duration = Duration::from_secs(1);
