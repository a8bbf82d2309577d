//! Running the program, alone and with a cluster.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// No step takes as long, also on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(90);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let late = |_| panic!("waited {LIMIT:?} in vain for {what}");
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(late)
}

/// Nothing of the environment counts.
pub fn roster(arguments: &[&str], endpoints: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roster"));
    command
        .args(arguments)
        .env("ROSTER_ENDPOINT", endpoints)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub error: String,
}

pub async fn ended(arguments: &[&str], endpoints: &str) -> Ended {
    let output = within("its end", roster(arguments, endpoints).output()).await.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended { code: output.status.code(), out: text(output.stdout), error: text(output.stderr) }
}

/// What a command that must succeed prints.
pub async fn out(arguments: &[&str], endpoints: &str) -> String {
    let ended = ended(arguments, endpoints).await;
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    ended.out
}

async fn next_with(lines: &mut Lines<impl AsyncBufRead + Unpin>, text: &str) -> String {
    let found = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.contains(text) {
                return line;
            }
        }
        panic!("its output ends before {text:?}");
    };
    within(text, found).await
}

/// A command that runs, line by line.
pub struct Running {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
}

impl Running {
    pub fn start(arguments: &[&str], endpoints: &str) -> Self {
        let mut process = roster(arguments, endpoints).spawn().expect("it starts");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let errors = BufReader::new(process.stderr.take().expect("its notes")).lines();
        Self { process, lines, errors }
    }

    /// The next line that has this in it.
    pub async fn line_with(&mut self, text: &str) -> String {
        next_with(&mut self.lines, text).await
    }

    /// The next line of its notes that has this in it.
    pub async fn error_with(&mut self, text: &str) -> String {
        next_with(&mut self.errors, text).await
    }

    /// The exit code after a signal.
    pub async fn signal(mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_raw(self.process.id().expect("it runs") as i32).expect("a pid");
        kill_process(pid, signal).expect("it gets the signal");
        within("its end", self.process.wait()).await.expect("a status").code()
    }
}

/// `roster dev`: told to stop when this is dropped; its nodes end with it, however it ends.
pub struct Cluster {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The API addresses.
    pub nodes: Vec<String>,
    pids: Vec<Pid>,
    pub welcome: Vec<String>,
}

impl Cluster {
    /// A ready one.
    pub async fn start(nodes: u16) -> Self {
        for _ in 0..5 {
            if let Some(cluster) = Self::try_start(nodes).await {
                return cluster;
            }
        }
        panic!("no free ports in five tries");
    }

    /// `None` if a port was lost meanwhile.
    async fn try_start(nodes: u16) -> Option<Self> {
        let (api, peer) = (free_ports(nodes), free_ports(nodes));
        let count = nodes.to_string();
        let (api_port, peer_port) = (api.to_string(), peer.to_string());
        let ports = ["--api-port", &api_port, "--peer-port", &peer_port];
        let few = ["dev", "--nodes", &count, "--log", "error"];
        let mut command = roster(&[few.as_slice(), &ports].concat(), "");
        let mut process = command.stderr(Stdio::null()).spawn().expect("it starts");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let nodes = (api..api + nodes).map(|port| format!("127.0.0.1:{port}")).collect();
        let (pids, welcome) = (Vec::new(), Vec::new());
        let mut cluster = Self { process, lines, nodes, pids, welcome };
        within("a ready cluster", cluster.read_welcome()).await.then_some(cluster)
    }

    async fn read_welcome(&mut self) -> bool {
        while let Ok(Some(line)) = self.lines.next_line().await {
            if let Some((_, pid)) = line.split_once("(pid ") {
                let pid = pid.trim_end_matches(')').parse().expect("a pid");
                self.pids.push(Pid::from_raw(pid).expect("a pid"));
            }
            let is_last = line.contains("Stop with Ctrl-C");
            self.welcome.push(line);
            if is_last {
                return true;
            }
        }
        false
    }

    pub fn endpoints(&self) -> String {
        self.nodes.join(",")
    }

    /// The nodes count from 0.
    pub fn kill(&self, node: usize) {
        kill_process(self.pids[node], Signal::KILL).expect("it runs");
    }

    /// Kills `dev` itself, and waits until its nodes have ended.
    #[cfg(target_os = "linux")]
    pub async fn kill_all_at_once(mut self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::process::{PidfdFlags, pidfd_open};

        // Readable when its process has ended.
        let opened = |pid: &Pid| pidfd_open(*pid, PidfdFlags::empty()).expect("it runs");
        let nodes: Vec<_> = self.pids.iter().map(opened).collect();
        self.process.kill().await.expect("it ends");
        let ended = tokio::task::spawn_blocking(move || {
            let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
            nodes.iter().all(|node| {
                let mut fds = [PollFd::new(node, PollFlags::IN)];
                poll(&mut fds, Some(&limit)).expect("a descriptor") == 1
            })
        });
        assert!(ended.await.expect("no panic"), "a node goes on");
    }

    pub async fn stop(mut self) {
        self.tell_to_stop();
        within("its end", self.process.wait()).await.expect("a status");
    }

    fn tell_to_stop(&self) {
        if let Some(pid) = self.process.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

/// The first of so many free ports in a row.
fn free_ports(count: u16) -> u16 {
    let bound = |port| std::net::TcpListener::bind(("127.0.0.1", port));
    loop {
        let first = bound(0).and_then(|it| it.local_addr()).expect("a port").port();
        if first < u16::MAX - count && (first..first + count).all(|port| bound(port).is_ok()) {
            return first;
        }
    }
}
