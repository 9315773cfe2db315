//! The Redis store against real servers, which these tests start and end themselves: `redis-server` and `redis-cli` have to
//! be installed. Faults come from a proxy in this process.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod failover;
mod harness;
mod invalidation;
mod outages;
mod semantics;
