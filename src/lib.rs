//! An authentication gateway.
#![forbid(unsafe_code)]

pub mod app;
pub mod background;
pub mod body;
pub mod clock;
pub mod config;
pub mod endpoints;
pub mod facts;
pub mod gateway;
pub mod policy;
pub mod provider;
pub mod reply;
pub mod server;
pub mod session;
pub mod telemetry;
pub mod tls;
pub mod tokens;
pub mod upstream;
