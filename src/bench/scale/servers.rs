//! Three server processes on this machine: started, killed, started again, and gone at the end with
//! all that they wrote.
//!
//! They are killed when [`Servers`] is dropped, and by the kernel if this process ends in any other
//! way; for that the main thread must start them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::sleep;

use super::system::{NODES, Place, System};
use crate::cli::tied::tied;
use crate::dev::free_ports;

/// How long servers may take until all of them serve, also with a million instances to load.
const READY_TIMEOUT: Duration = Duration::from_secs(180);

/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Lines of a server's log that are shown when it fails.
const LINES_SHOWN: usize = 5;

pub struct Servers<S: System> {
    pub system: S,
    places: Vec<Place>,
    /// What each was started with last; `None` while it does not run.
    processes: Vec<Option<Child>>,
    /// Added to the command of each that is started.
    settings: Vec<OsString>,
    /// Removed when this is dropped, after the processes were killed.
    folder: TempDir,
}

impl<S: System> Servers<S> {
    /// A new cluster with default settings, its data in a temporary folder under `under`. Returns
    /// when all nodes serve.
    pub async fn start(system: S, under: &Path) -> Result<Self, String> {
        let folder =
            tempfile::Builder::new().prefix("roster-bench-").tempdir_in(under).map_err(|e| {
                format!("cannot make a temporary folder under {}: {e}", under.display())
            })?;
        let first = free_ports(2 * NODES as u16)?;
        let places = (0..NODES)
            .map(|node| Place {
                node,
                ports: (first..).take(NODES).collect(),
                peer_ports: (first + NODES as u16..).take(NODES).collect(),
                data: folder.path().join(format!("node-{}", node + 1)),
            })
            .collect();
        let processes = (0..NODES).map(|_| None).collect();
        let mut servers = Self { system, places, processes, settings: Vec::new(), folder };
        servers.ensure_up().await?;
        Ok(servers)
    }

    /// HOST:PORT of each node's API.
    pub fn addresses(&self) -> Vec<String> {
        self.places.iter().map(Place::address).collect()
    }

    /// The folder that all of them are in, on the disk of their data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of a node's data.
    pub fn data(&self, node: usize) -> &Path {
        &self.places[node].data
    }

    /// Starts those that do not run, and waits until all serve.
    pub async fn ensure_up(&mut self) -> Result<(), String> {
        for node in 0..NODES {
            if self.has_ended(node) {
                self.start_node(node)?;
            }
        }
        let deadline = Instant::now() + READY_TIMEOUT;
        for node in 0..NODES {
            while !self.system.is_ready(&self.places[node].address()).await {
                if self.has_ended(node) {
                    return Err(self.failure(node, "has ended"));
                }
                if Instant::now() > deadline {
                    return Err(self.failure(node, "is not ready"));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    fn has_ended(&mut self, node: usize) -> bool {
        match &mut self.processes[node] {
            Some(process) => !matches!(process.try_wait(), Ok(None)),
            None => true,
        }
    }

    /// Starts one that does not run, and returns at once.
    pub fn start_node(&mut self, node: usize) -> Result<(), String> {
        let place = &self.places[node];
        let told = |e: std::io::Error| format!("cannot start {} {}: {e}", S::NAME, node + 1);
        let log = self.log(node);
        let log = File::options().create(true).append(true).open(log).map_err(told)?;
        let mut command = self.system.command(place);
        command.extend(self.settings.iter().cloned());
        let mut command = tied(&command).map_err(told)?;
        // The settings of this shell are none of the servers' business: they have the default ones.
        let settings = std::env::vars_os().map(|(name, _)| name);
        for name in settings.filter(|name| S::is_setting(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(told)?).stderr(log);
        // Ctrl-C reaches the whole process group; this process is to end the servers.
        let process = command.process_group(0).kill_on_drop(true).spawn().map_err(told)?;
        self.processes[node] = Some(process);
        Ok(())
    }

    /// `kill -9`; returns when the process is gone.
    pub async fn kill(&mut self, node: usize) -> Result<(), String> {
        let Some(mut process) = self.processes[node].take() else { return Ok(()) };
        process.kill().await.map_err(|e| format!("cannot kill {} {}: {e}", S::NAME, node + 1))
    }

    /// Kills all and starts them with these settings beside the default ones.
    pub async fn restart_with(&mut self, settings: &[&str]) -> Result<(), String> {
        self.settings = settings.iter().map(OsString::from).collect();
        for node in 0..NODES {
            self.kill(node).await?;
        }
        self.ensure_up().await
    }

    /// The node that leads.
    pub async fn leader(&self) -> Result<usize, String> {
        for node in 0..NODES {
            if self.system.leads(&self.places[node].address()).await? {
                return Ok(node);
            }
        }
        Err("no node leads".into())
    }

    /// CPU time of all processes as they run now, as the kernel counts it.
    pub fn cpu_seconds(&self) -> f64 {
        self.running().map(|pid| cpu_seconds(pid).unwrap_or(0.0)).sum()
    }

    /// Resident memory of each node; 0 for one that does not run.
    pub fn memory(&self) -> Vec<u64> {
        let of = |process: &Option<Child>| process.as_ref().and_then(Child::id).and_then(memory);
        self.processes.iter().map(|process| of(process).unwrap_or(0)).collect()
    }

    fn running(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().flatten().filter_map(Child::id)
    }

    fn log(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{}.log", node + 1))
    }

    fn failure(&self, node: usize, what: &str) -> String {
        let log = fs::read_to_string(self.log(node)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
        format!("{} {} {what}; the end of its log:\n{}", S::NAME, node + 1, last.join("\n"))
    }
}

impl<S: System> Drop for Servers<S> {
    /// Nobody may write any more when the folder is removed.
    fn drop(&mut self) {
        let mut processes: Vec<_> = self.processes.iter_mut().flatten().collect();
        for process in &mut processes {
            // One that has ended needs no signal.
            drop(process.start_kill());
        }
        let deadline = Instant::now() + KILL_TIMEOUT;
        for process in processes {
            while matches!(process.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

/// User and system time of a process.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything; utime and stime are the 12th
    // and 13th field after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Some(ticks.iter().sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident memory of a process, bytes.
fn memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
