//! The stage for the suite: a scripted provider, a scripted upstream and a browser, all in this
//! process, every port chosen by the system, every wait bounded.
//!
//! ```text
//! let site = Site::plan().route("/*", "auth = true").start().await;
//! let browser = site.signed_in().await;          // a whole code flow, then past refresh.cooldown
//! site.provider.revoke_access_tokens();          // the upstream will say 401
//! assert_eq!(browser.fetch("GET", "/x").await.status, 200);
//! assert_eq!(site.provider.refreshes(), 1);
//! ```

pub mod backend;
pub mod browser;
pub mod expect;
pub mod frames;
pub mod gate;
pub mod h2_frames;
pub mod inspect;
pub mod jar;
pub mod keys;
pub mod provider;
pub mod site;
pub mod upstream;
pub mod wire;

pub use backend::{Backend, Part};
pub use browser::{Browser, Page, Request, login_path};
pub use gate::Gate;
pub use provider::{Call, Endpoint, Fault, Provider};
pub use site::{Plan, Site, eventually, together};
pub use upstream::{Answer, Received, Upstream};
pub use wire::{Connection, Reply};

use std::time::Duration;

/// How long anything may take before the test fails. Far more than anything needs on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
