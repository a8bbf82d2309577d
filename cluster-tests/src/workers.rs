//! Workers of a shard set as processes: started, stopped, killed, frozen and thawed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::ledger::{Entry, Life};
use crate::locks::now_us;

/// How long a worker stays registered without a heartbeat.
pub const TTL: Duration = Duration::from_secs(2);

/// Of which shard set, and where.
#[derive(Clone, Debug)]
pub struct Employer {
    pub binary: PathBuf,
    /// The nodes, as the client takes them.
    pub nodes: String,
    pub set: String,
    /// The app of the workers.
    pub app: String,
    /// Where the locks are.
    pub locks: PathBuf,
    /// Where the logs are.
    pub logs: PathBuf,
}

/// One process. It is killed when this is dropped.
pub struct Worker {
    pub id: String,
    process: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
    killed_us: Option<u64>,
    frozen_us: Option<u64>,
    frozen: Vec<(u64, u64)>,
}

impl Employer {
    /// `life` tells this process from earlier ones of the same id.
    pub fn start(&self, id: &str, zone: &str, life: usize) -> Worker {
        let log = self.logs.join(format!("{id}-life-{life}.log"));
        let said = File::create(self.logs.join(format!("{id}-life-{life}.said"))).expect("a file");
        let process = Command::new(&self.binary)
            .args([&self.nodes, &self.set, &self.app, id, zone])
            .args([&self.locks, &log])
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("the file again"))
            .stderr(said)
            .spawn()
            .expect("the worker starts");
        Worker {
            id: id.into(),
            process,
            log,
            ended: None,
            killed_us: None,
            frozen_us: None,
            frozen: Vec::new(),
        }
    }
}

impl Worker {
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).unwrap_or_else(|e| panic!("cannot signal {}: {e}", self.id));
    }

    /// kill -9
    pub fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.ended = Some(self.process.wait().expect("it is gone"));
        self.killed_us = Some(now_us());
    }

    /// SIGTERM: it stops its work, deregisters and ends.
    pub fn tell_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP, and wait until it stands still.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
        let pid = Pid::from_child(&self.process);
        let stands = waitpid(Some(pid), WaitOptions::UNTRACED).expect("the state of a child");
        assert!(
            stands.is_some_and(|(_, status)| status.stopped()),
            "{} ended: {stands:?}",
            self.id
        );
        self.frozen_us = Some(now_us());
    }

    /// SIGCONT
    pub fn thaw(&mut self) {
        let since = self.frozen_us.take().expect("it is frozen");
        self.frozen.push((since, now_us()));
        self.signal(Signal::CONT);
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait().expect("the state of a child");
        }
        self.ended
    }

    /// What it has written down.
    pub fn entries(&self) -> Vec<Entry> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.split_inclusive('\n').filter_map(Entry::parse).collect()
    }

    /// All that is known of this process.
    pub fn life(&self) -> Life {
        let name = self.log.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        Life {
            who: name.to_owned(),
            entries: self.entries(),
            killed_us: self.killed_us,
            frozen: self.frozen.clone(),
        }
    }

    /// What it said in words.
    pub fn said(&self) -> String {
        fs::read_to_string(said_beside(&self.log)).unwrap_or_default()
    }
}

fn said_beside(log: &Path) -> PathBuf {
    log.with_extension("said")
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself; a frozen one dies of this too.
        drop(self.process.kill());
        drop(self.process.wait());
        if std::thread::panicking() {
            println!("--- {}:\n{}", self.id, self.said());
        }
    }
}
