//! Memory, time to start, and the size of the binary.

use super::forwarding::NGINX;
use super::{Effort, in_turns};
use crate::Failure;
use crate::backend::PLAIN;
use crate::load::{idle, on_loopback};
use crate::peers::latchgate::{self, Plan};
use crate::peers::{Peer, caddy, haproxy, nginx, oauth2_proxy};
use crate::process::Role;
use crate::report;
use crate::site::Site;
use crate::table::{Goal, Sample, Table};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::time::Instant;

/// Each in a process that has done nothing else.
pub fn idle(site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
    let goals = [Goal::Most { of: OWN, at_most: 2.0 }];
    let title = format!("{} connections that rest after a request", effort.connections);
    let mut table = Table::new(title, "KiB each", &goals);
    let starts: [(&str, Starter); 4] = [
        (NGINX, |site| Ok(Some(nginx::start(site, Role::Target, 1)?.plain))),
        (OWN, |site| Ok(Some(latchgate::start(site, Plan::ONE_WORKER)?))),
        ("HAProxy", haproxy::start),
        ("Caddy", |site| Ok(caddy::start(site)?.map(|caddy| caddy.plain))),
    ];
    for (label, start) in starts {
        let mut samples = Vec::new();
        for _ in 0..effort.rounds.min(MOST_FILLS) {
            let Some(peer) = start(site)? else { break };
            report::progress()?;
            let path = format!("{PLAIN}/items/42?page=1");
            let cost = idle::memory_each(&peer.server, on_loopback(peer.port), &path, effort.connections)?;
            samples.push(Sample { cost, load: None });
        }
        if !samples.is_empty() {
            table.add(label, samples);
        }
    }
    Ok(vec![table])
}

pub fn start(site: &Site, effort: &Effort) -> Result<Vec<Table>, Failure> {
    let mut memory = Table::new("Memory after the first answer", "MiB of RSS", &[most(10.0)]);
    let mut time = Table::new("From start to the first answer", "ms", &[most(30.0)]);
    let mut sizes = Table::new("The binary, stripped", "MiB", &[most(15.0)]);
    let mut starters: Vec<(&str, Starter)> = vec![(OWN, start_own)];
    if site.program("oauth2-proxy").is_some() {
        starters.push((OAUTH2_PROXY, start_oauth2_proxy));
    }
    let mut resident = vec![Vec::new(); starters.len()];
    let times = in_turns(effort.rounds, starters.len(), |index| {
        report::progress()?;
        let begun = Instant::now();
        let peer = starters[index].1(site)?.ok_or("it was there a moment ago")?;
        let cost = begun.elapsed().as_secs_f64() * 1e3;
        resident[index].push(Sample { cost: peer.server.resident()? / 1024.0, load: None });
        Ok(Sample { cost, load: None })
    })?;
    for (((label, _), times), resident) in starters.iter().zip(times).zip(resident) {
        time.add(*label, times);
        memory.add(*label, resident);
    }
    sizes.add(OWN, vec![size(site, latchgate::PROGRAM.as_ref())?]);
    if let Some(program) = site.program("oauth2-proxy") {
        sizes.add(OAUTH2_PROXY, vec![size(site, &program)?]);
    }
    Ok(vec![memory, time, sizes])
}

/// None when it is not there.
type Starter = fn(&Site) -> Result<Option<Peer>, Failure>;

fn start_own(site: &Site) -> Result<Option<Peer>, Failure> {
    let plan = Plan { workers: None, role: Role::Anywhere, ..Plan::ONE_WORKER };
    let peer = latchgate::start_at_once(site, plan)?;
    first_answer(&peer, &format!("{PLAIN}/items/42?page=1"))?;
    Ok(Some(peer))
}

fn start_oauth2_proxy(site: &Site) -> Result<Option<Peer>, Failure> {
    let Some((peer, _)) = oauth2_proxy::start_signed_out(site, oauth2_proxy::Store::Cookie)? else { return Ok(None) };
    first_answer(&peer, "/ping")?;
    Ok(Some(peer))
}

fn first_answer(peer: &Peer, path: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    while TcpStream::connect(on_loopback(peer.port)).is_err() {
        if begun.elapsed() > PATIENCE {
            return Err("it does not answer".into());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    crate::http::body(&crate::http::get(on_loopback(peer.port), path, &[])?)?;
    Ok(())
}

fn size(site: &Site, program: &Path) -> Result<Sample, Failure> {
    let stripped = site.directory.join("stripped");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(program).status();
    // Without binutils it is as it was built.
    let file = if strip.is_ok_and(|status| status.success()) { &stripped } else { program };
    Ok(Sample { cost: fs::metadata(file)?.len() as f64 / f64::from(1 << 20), load: None })
}

fn most(at_most: f64) -> Goal {
    Goal::Most { of: OWN, at_most }
}

const OWN: &str = "latchgate";
const OAUTH2_PROXY: &str = "oauth2-proxy";
/// Memory is the same every time, or nearly.
const MOST_FILLS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(10);
