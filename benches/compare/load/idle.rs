//! Connections that are kept and not used.

use crate::Failure;
use crate::http::{Connection, body};
use crate::process::Server;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

/// KiB that each of `count` connections takes after its first request, once it has rested for a while.
pub fn memory_each(server: &Server, address: SocketAddr, path: &str, count: usize) -> Result<f64, Failure> {
    // What a server keeps for its first work is not any connection's.
    hold(address, path, WARM_UP)?;
    sleep(REST);
    let before = server.memory()?;
    let held = hold(address, path, count)?;
    sleep(REST);
    let after = server.memory()?;
    drop(held);
    Ok((after - before) / count as f64)
}

fn hold(address: SocketAddr, path: &str, count: usize) -> Result<Vec<Connection>, Failure> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut connection = Connection::open(address)?;
        body(&connection.get(path, &[("Cookie", "theme=dark")])?)?;
        held.push(connection);
    }
    Ok(held)
}

const WARM_UP: usize = 64;
/// Longer than a server that parks idle connections takes to do so.
const REST: Duration = Duration::from_secs(5);
