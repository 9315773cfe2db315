//! How long the slowest hundredth waits, below saturation.

use super::forwarding::{NGINX, REQUESTS};
use super::{Effort, in_turns};
use crate::Failure;
use crate::backend::PLAIN;
use crate::load::{Contender, open_loop};
use crate::peers::{latchgate, nginx};
use crate::process::Role;
use crate::report;
use crate::site::Site;
use crate::table::{CONTROL, Goal, Sample, Table};
use std::rc::Rc;

/// Everybody gets 70 % of what the gateway can do.
pub fn at_seventy_percent(site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
    // 10 % above nginx.
    let goals = [Goal::Ratio { of: "latchgate", over: NGINX, at_least: 1.0 / 1.1 }];
    let nginx = nginx::start(site, Role::Target, 1)?;
    let own = latchgate::start(site, latchgate::Plan::ONE_WORKER)?;
    let (path, cookies) = (format!("{PLAIN}/items/42?page=1"), Rc::new(["theme=light".to_owned()]) as Rc<[String]>);
    let contenders = [
        Contender::new(NGINX, &nginx.plain, &path, &cookies),
        Contender::new("latchgate", &own, &path, &cookies),
        Contender::new(CONTROL, &nginx.again, &path, &cookies),
    ];
    let saturated = contenders[1].measure(site, REQUESTS, effort.duration)?;
    let rate = (saturated.load.map_or(0.0, |load| load.per_second) * 0.7).round();
    let mut table = Table::new(format!("{rate} requests a second, 200 B"), "ms, p99", &goals);
    let samples = in_turns(effort.rounds, contenders.len(), |index| {
        report::progress()?;
        let p99 = open_loop::p99(site.backend, contenders[index].port(), &path, rate, effort.duration)?;
        Ok(Sample { cost: p99, load: None })
    })?;
    for (contender, samples) in contenders.iter().zip(samples) {
        table.add(&contender.label, samples);
    }
    Ok(vec![table])
}
