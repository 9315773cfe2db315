//! Processes: on which core they run, what they cost, and that they are the ones that listen.

use crate::Failure;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// What a process is here for, and so where it runs.
#[derive(Clone, Copy)]
pub enum Role {
    /// Makes load, or answers it: core 0.
    Load,
    /// Is measured: core 1.
    Target,
    /// Wherever the kernel likes.
    Anywhere,
}

/// Whether there is a core for each role.
pub struct Cores {
    /// False on one core, and without taskset: everything runs anywhere, and ratios are worth less.
    pub are_pinned: bool,
}

impl Cores {
    /// Of this machine.
    pub fn available() -> Cores {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Cores { are_pinned: count > 1 && installed("taskset").is_some() }
    }

    /// A command that will run on the core of its role.
    pub fn command(&self, role: Role, program: impl AsRef<OsStr>) -> Command {
        let core = match role {
            Role::Load if self.are_pinned => LOAD_CORE,
            Role::Target if self.are_pinned => TARGET_CORE,
            _ => return Command::new(program),
        };
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", core]).arg(program);
        command
    }

    /// Starts a server. What it says goes to `{name}.out` and `{name}.err` in `directory`.
    pub fn start(
        &self,
        role: Role,
        name: &str,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        directory: &Path,
    ) -> Result<Server, Failure> {
        let child = self
            .command(role, program)
            .args(arguments)
            .env_remove("LATCHGATE_LOG")
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(File::create(directory.join(format!("{name}.out")))?)
            .stderr(File::create(directory.join(format!("{name}.err")))?)
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok(Server { name: name.to_owned(), child })
    }

    /// Seconds that the target's core was at work, for whomever; None when there is no such core.
    pub fn busy(&self) -> Option<f64> {
        if !self.are_pinned {
            return None;
        }
        let text = fs::read_to_string("/proc/stat").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("cpu")?.strip_prefix(TARGET_CORE))?;
        let ticks: Vec<f64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guests are in user already.
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some((ticks.iter().take(8).sum::<f64>() - idle) / TICKS_PER_SECOND)
    }
}

/// A process that is ended with the run.
pub struct Server {
    name: String,
    child: Child,
}

/// CPU time of a process tree, in seconds.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Server {
    /// The first line of its standard output.
    pub fn announced_address(&self, directory: &Path) -> Result<SocketAddr, Failure> {
        let output = directory.join(format!("{}.out", self.name));
        for _ in 0..PATIENCE {
            let said = fs::read_to_string(&output)?;
            if let Some((line, _)) = said.split_once('\n') {
                return Ok(line.parse()?);
            }
            sleep(MOMENT);
        }
        Err(format!("{} does not say where it listens", self.name).into())
    }

    /// Waits until it, and nobody else, listens on `port`.
    pub fn wait_for(&self, port: u16, directory: &Path) -> Result<(), Failure> {
        for _ in 0..PATIENCE {
            if !listeners(port)?.is_empty() {
                return self.check_listener(port);
            }
            sleep(MOMENT);
        }
        let said = fs::read_to_string(directory.join(format!("{}.err", self.name)))?;
        Err(format!("{} does not start:\n{said}", self.name).into())
    }

    /// With `SO_REUSEPORT` a forgotten process can take half of the connections, and then the CPU
    /// time of this one says nothing.
    pub fn check_listener(&self, port: u16) -> Result<(), Failure> {
        let own: HashSet<PathBuf> = self.tree()?.into_iter().flat_map(open_files).collect();
        // A server may have one for each of its workers.
        match listeners(port)?.iter().filter(|socket| !own.contains(Path::new(socket))).count() {
            0 => Ok(()),
            others => Err(format!("{others} sockets on port {port} are not of {}", self.name).into()),
        }
    }

    /// What it and its children have used so far, all threads together.
    pub fn cpu(&self) -> Result<Cpu, Failure> {
        let mut total = Cpu::default();
        for pid in self.tree()? {
            let Some(stat) = Stat::of(pid) else { continue };
            total.user += stat.user;
            total.system += stat.system;
        }
        Ok(total)
    }

    /// Memory of the process tree, with what processes share divided among them (PSS), in KiB.
    pub fn memory(&self) -> Result<f64, Failure> {
        let mut total = 0.0;
        for pid in self.tree()? {
            let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
            let pss = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
            total += pss.and_then(|pss| pss.parse::<f64>().ok()).ok_or("smaps_rollup has no Pss")?;
        }
        Ok(total)
    }

    /// Resident set size of its first process, in KiB.
    pub fn resident(&self) -> Result<f64, Failure> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let rss = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(rss.and_then(|rss| rss.trim().parse().ok()).ok_or("status has no VmRSS")?)
    }

    fn tree(&self) -> Result<Vec<u32>, Failure> {
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may be gone by now.
            if let Some(stat) = Stat::of(pid) {
                all.push((pid, stat.parent));
            }
        }
        let mut tree = vec![self.child.id()];
        let mut next = 0;
        while let Some(&parent) = tree.get(next) {
            tree.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        Ok(tree)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, since nginx's master takes its worker along only when asked.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        for _ in 0..PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(MOMENT);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `program` is: on PATH, or where root has it.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// `/proc/PID/stat`, as far as it matters (proc_pid_stat(5)).
struct Stat {
    parent: u32,
    user: f64,
    system: f64,
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is a name in parentheses, which may contain anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let seconds = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
        Some(Stat { parent: fields.get(1)?.parse().ok()?, user: seconds(11)?, system: seconds(12)? })
    }
}

/// The sockets that listen on `port`, as `/proc/PID/fd` shows them.
fn listeners(port: u16) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // A machine without IPv6 has no second table.
        let Ok(text) = fs::read_to_string(table) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else {
                return Err(format!("cannot read {table}").into());
            };
            if state == LISTEN && local.ends_with(&format!(":{port:04X}")) {
                found.push(format!("socket:[{inode}]"));
            }
        }
    }
    Ok(found)
}

fn open_files(pid: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

const LOAD_CORE: &str = "0";
const TARGET_CORE: &str = "1";
/// `TCP_LISTEN`.
const LISTEN: &str = "0A";
/// `USER_HZ`, which is 100 wherever Linux runs today.
const TICKS_PER_SECOND: f64 = 100.0;
const MOMENT: Duration = Duration::from_millis(20);
const PATIENCE: u32 = 500;
