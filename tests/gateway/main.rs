//! The in-process integration suite: a gateway between a scripted provider and a scripted upstream,
//! with a browser in front. One file per topic; `harness` is the stage.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod answers;
mod api_clients;
mod backend_login;
mod balancing;
mod capture;
mod code_flow;
mod cookie_store;
mod front_ends;
mod harness;
mod harness_itself;
mod hygiene;
mod impersonation;
mod limits;
mod login;
mod logout;
mod own_tokens;
mod protocols;
mod providers;
mod proxy_protocol;
mod refresh;
mod review;
mod sessions;
mod streaming;
mod tls;
mod upstreams;
