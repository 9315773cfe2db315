//! Where everything runs: the cores, a directory, the backend, a certificate, and the programs that were found.

use crate::Failure;
use crate::process::{Cores, Role, Server, installed};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub struct Site {
    pub cores: Cores,
    pub directory: PathBuf,
    pub backend: SocketAddr,
    /// For 127.0.0.1, with a P-256 key; PEM.
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    absent: RefCell<BTreeSet<String>>,
    _backend: Server,
    _directory: TempDir,
}

impl Site {
    /// Starts the backend, which is this program once more.
    pub fn open() -> Result<Site, Failure> {
        let cores = Cores::available();
        let temporary = tempfile::tempdir()?;
        let directory = temporary.path().to_owned();
        let (certificate, private_key) = (directory.join("certificate.pem"), directory.join("key.pem"));
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        fs::write(&certificate, cert.pem())?;
        fs::write(&private_key, signing_key.serialize_pem())?;
        let this = std::env::current_exe()?;
        let server = cores.start(Role::Load, "backend", &this, &["--backend"], &[], &directory)?;
        let backend = server.announced_address(&directory)?;
        let absent = RefCell::default();
        Ok(Site {
            cores,
            directory,
            backend,
            certificate,
            private_key,
            absent,
            _backend: server,
            _directory: temporary,
        })
    }

    /// Where a program is; one that is not there is left out, and the report says so.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let own = TOOLS.iter().map(|place| place_of_tools().join(place).join(name));
        let found = installed(name).or_else(|| own.into_iter().find(|file| file.is_file()));
        if found.is_none() {
            self.leave_out(name);
        }
        found
    }

    /// That something takes no part, and why.
    pub fn leave_out(&self, what: impl Into<String>) {
        self.absent.borrow_mut().insert(what.into());
    }

    pub fn left_out(&self) -> Vec<String> {
        self.absent.borrow().iter().cloned().collect()
    }
}

/// Where `--install` puts what is no package of the system, and where reports are written.
pub fn place_of_tools() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    target.parent().unwrap_or(target).join("compare")
}

/// Below [`place_of_tools`].
pub const CADDY: &str = "caddy";
pub const GO_PROGRAMS: &str = "go";
pub const PINGORA: &str = "pingora";
const TOOLS: [&str; 3] = ["caddy/bin", GO_PROGRAMS, "pingora/release"];
