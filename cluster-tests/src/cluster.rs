//! Real processes on this machine: started, killed, paused, woken and ended by their own pid.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::{Client, NodeStatus};
use crate::ports;
use crate::wait::until;

/// How long a cluster may take to be ready, on a busy machine with a debug build.
pub const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a node that was told to stop may take.
const STOPS_WITHIN: Duration = Duration::from_secs(15);

/// Lines of a node's log shown when a test fails.
const LINES_SHOWN: usize = 40;

/// Tries to start a cluster with other ports when one was taken meanwhile.
const START_TRIES: usize = 5;

/// A cluster as it is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    binary: PathBuf,
    nodes: u64,
    settings: Vec<String>,
    own_settings: BTreeMap<u64, Vec<String>>,
    data_under: BTreeMap<u64, PathBuf>,
}

impl Plan {
    /// Three nodes with the settings that everybody gets.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            nodes: 3,
            settings: Vec::new(),
            own_settings: BTreeMap::new(),
            data_under: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn nodes(mut self, count: u64) -> Self {
        self.nodes = count;
        self
    }

    #[must_use]
    pub fn set(mut self, flag: &str, value: impl ToString) -> Self {
        self.settings.extend([flag.to_owned(), value.to_string()]);
        self
    }

    #[must_use]
    pub fn set_at(mut self, node: u64, flag: &str, value: impl ToString) -> Self {
        let own = self.own_settings.entry(node).or_default();
        own.extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// Puts a node's data into a folder under this one.
    #[must_use]
    pub fn data_under(mut self, node: u64, path: &Path) -> Self {
        self.data_under.insert(node, path.to_owned());
        self
    }

    /// Everything but the processes.
    pub fn lay_out(self) -> Cluster {
        let folder = TempDir::with_prefix("roster-test-").expect("a folder");
        let count = self.nodes as usize;
        let addresses = ports::free(ports::own_host(), count * 2);
        let nodes = (1..=self.nodes)
            .zip(addresses.chunks(2))
            .map(|(id, pair)| Node {
                id,
                api: pair[0],
                peer: pair[1],
                data: self.data_under.get(&id).map_or(folder.path(), PathBuf::as_path).join(
                    format!(
                        "{}-node-{id}",
                        folder.path().file_name().and_then(|n| n.to_str()).unwrap_or_default()
                    ),
                ),
                logs: Vec::new(),
                process: None,
            })
            .collect();
        Cluster { plan: self, folder, nodes }
    }

    /// A ready cluster.
    pub async fn start(self) -> Cluster {
        for _ in 1..START_TRIES {
            let mut cluster = self.clone().lay_out();
            cluster.start_all();
            match cluster.wait_ready().await {
                Ok(()) => return cluster,
                Err(lost) => println!("a port was lost, trying others: {lost}"),
            }
        }
        panic!("no free ports in {START_TRIES} tries");
    }
}

/// The nodes, their folders and their processes; all end with it.
pub struct Cluster {
    plan: Plan,
    folder: TempDir,
    nodes: Vec<Node>,
}

struct Node {
    id: u64,
    api: SocketAddr,
    peer: SocketAddr,
    data: PathBuf,
    /// One file per life.
    logs: Vec<PathBuf>,
    process: Option<Child>,
}

impl Cluster {
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub fn client(&self) -> Client {
        Client::new(self.nodes.iter().map(|node| (node.id, node.api)).collect())
    }

    pub fn api(&self, id: u64) -> SocketAddr {
        self.node(id).api
    }

    /// The nodes' addresses as the client takes them, another one first each time.
    pub fn endpoints(&self, first: usize) -> String {
        let mut addresses: Vec<_> = self.nodes.iter().map(|node| node.api.to_string()).collect();
        let count = addresses.len();
        addresses.rotate_left(first % count);
        addresses.join(",")
    }

    pub fn data_dir(&self, id: u64) -> &Path {
        &self.node(id).data
    }

    /// The `--cluster` list.
    pub fn list(&self) -> String {
        let entries: Vec<_> = self.nodes.iter().map(|n| format!("{}={}", n.id, n.peer)).collect();
        entries.join(",")
    }

    fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|node| node.id == id).expect("a node of this cluster")
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node of this cluster")
    }

    pub fn start_all(&mut self) {
        for id in self.ids() {
            self.start(id, &[]);
        }
    }

    /// Starts a node that does not run, with `more` settings for this life.
    pub fn start(&mut self, id: u64, more: &[&str]) {
        self.start_with(id, &self.usual(id), more);
    }

    /// Starts a node with another value of one of its usual settings.
    pub fn start_instead(&mut self, id: u64, flag: &str, value: &str) {
        let mut settings = self.usual(id);
        let usual = settings.iter_mut().find(|(known, _)| *known == flag);
        usual.expect("a usual setting").1 = value.to_owned();
        self.start_with(id, &settings, &[]);
    }

    /// What every life of a node is started with.
    fn usual(&self, id: u64) -> Vec<(&'static str, String)> {
        let node = self.node(id);
        vec![
            ("--node-id", id.to_string()),
            ("--cluster", self.list()),
            ("--data-dir", node.data.display().to_string()),
            ("--listen", node.api.to_string()),
            ("--peer-listen", node.peer.to_string()),
            ("--log-format", "json".into()),
            // Each departure has its line, however many go together.
            ("--log", "info,roster::departures=debug".into()),
        ]
    }

    fn start_with(&mut self, id: u64, usual: &[(&str, String)], more: &[&str]) {
        let plan = self.plan.clone();
        let own = plan.own_settings.get(&id).cloned().unwrap_or_default();
        let log_dir = self.folder.path().to_owned();
        let node = self.node_mut(id);
        assert!(node.process.is_none(), "node {id} runs already");
        let log = log_dir.join(format!("node-{id}-life-{}.log", node.logs.len() + 1));
        let file = File::create(&log).expect("a log file");
        let process = Command::new(&plan.binary)
            .arg("serve")
            .args(usual.iter().flat_map(|(flag, value)| [flag, value.as_str()]))
            .args(plan.settings.iter().chain(&own))
            .args(more)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the log file again"))
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        node.process = Some(process);
        node.logs.push(log);
    }

    pub fn runs(&self, id: u64) -> bool {
        self.node(id).process.is_some()
    }

    /// `Err`: a node ended because a port was taken.
    async fn wait_ready(&mut self) -> Result<(), String> {
        let client = self.client();
        let ids: Vec<_> = self.ids().into_iter().filter(|id| self.runs(*id)).collect();
        until("all nodes are ready", READY_WITHIN, async || {
            for id in &ids {
                if let Some(status) = self.ended(*id) {
                    let log = self.last_log(*id);
                    assert!(
                        log.contains("cannot listen on"),
                        "node {id} ended with {status}:\n{log}"
                    );
                    return Ok(Err(log));
                }
                client.at(*id).ready().await.map_err(|e| format!("node {id}: {e}"))?;
            }
            Ok::<_, String>(Ok(()))
        })
        .await
    }

    /// Waits until every running node is ready.
    pub async fn ready(&mut self) {
        if let Err(lost) = self.wait_ready().await {
            panic!("a node lost its port: {lost}");
        }
    }

    /// How a started process ended, if it did.
    fn ended(&mut self, id: u64) -> Option<ExitStatus> {
        let process = self.node_mut(id).process.as_mut()?;
        process.try_wait().expect("the state of a child")
    }

    /// Waits until a node has ended by itself, and tells how and what it said.
    pub async fn ends(&mut self, id: u64, limit: Duration) -> (ExitStatus, String) {
        let status = until(&format!("node {id} ends"), limit, async || {
            self.ended(id).ok_or("it still runs")
        })
        .await;
        self.node_mut(id).process = None;
        (status, self.last_log(id))
    }

    /// What a node's present or last life has written.
    pub fn last_log(&self, id: u64) -> String {
        let log = self.node(id).logs.last().expect("it was started");
        String::from_utf8_lossy(&fs::read(log).expect("its log")).into_owned()
    }

    /// What each life of a node has written.
    pub fn logs(&self, id: u64) -> Vec<String> {
        let read = |log| String::from_utf8_lossy(&fs::read(log).expect("its log")).into_owned();
        self.node(id).logs.iter().map(read).collect()
    }

    fn signal(&self, id: u64, signal: Signal) {
        let process = self.node(id).process.as_ref().expect("it runs");
        let pid = Pid::from_child(process);
        kill_process(pid, signal).unwrap_or_else(|e| panic!("cannot signal node {id}: {e}"));
    }

    /// kill -9
    pub fn kill(&mut self, id: u64) {
        let mut process = self.node_mut(id).process.take().expect("it runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it is gone");
    }

    pub fn kill_all(&mut self) {
        let running: Vec<_> = self.ids().into_iter().filter(|id| self.runs(*id)).collect();
        // All at once, and only then wait for each.
        for id in &running {
            self.signal(*id, Signal::KILL);
        }
        for id in running {
            self.kill(id);
        }
    }

    /// SIGTERM, and wait for a clean end.
    pub async fn stop(&mut self, id: u64) {
        self.signal(id, Signal::TERM);
        let (status, log) = self.ends(id, STOPS_WITHIN).await;
        assert!(status.success(), "node {id} ended with {status}:\n{log}");
    }

    /// SIGSTOP
    pub fn pause(&self, id: u64) {
        self.signal(id, Signal::STOP);
    }

    /// SIGCONT
    pub fn wake(&self, id: u64) {
        self.signal(id, Signal::CONT);
    }

    /// Removes the data of a node that does not run.
    pub fn wipe(&self, id: u64) {
        assert!(!self.runs(id), "node {id} still runs");
        fs::remove_dir_all(&self.node(id).data).expect("its data goes");
    }

    /// The leader that the running nodes, but for `except`, agree upon.
    pub async fn leader_but(&self, except: &[u64]) -> u64 {
        let client = self.client().patient(Duration::from_secs(1));
        let asked: Vec<_> =
            self.ids().into_iter().filter(|id| self.runs(*id) && !except.contains(id)).collect();
        until("there is a leader that all know", READY_WITHIN, async || {
            let mut known = Vec::new();
            for id in &asked {
                let status = client.at(*id).node().await.map_err(|e| e.to_string())?;
                known.push((status.leader.clone(), status.role, status.id));
            }
            let leader = known.first().and_then(|(leader, ..)| leader.clone());
            let leads =
                known.iter().any(|(_, role, id)| role == "leader" && Some(id) == leader.as_ref());
            match leader.and_then(|id| id.parse().ok()) {
                Some(id) if leads && known.iter().all(|(l, ..)| *l == known[0].0) => Ok(id),
                _ => Err(format!("{known:?}")),
            }
        })
        .await
    }

    pub async fn leader(&self) -> u64 {
        self.leader_but(&[]).await
    }

    /// Two nodes that do not lead.
    pub async fn leader_and_followers(&self) -> (u64, Vec<u64>) {
        let leader = self.leader().await;
        (leader, self.ids().into_iter().filter(|id| *id != leader && self.runs(*id)).collect())
    }

    /// Waits until all running nodes have applied the same index, and gives what they say of it.
    pub async fn settled(&self) -> Vec<NodeStatus> {
        let client = self.client();
        let running: Vec<_> = self.ids().into_iter().filter(|id| self.runs(*id)).collect();
        until("all nodes have applied the same", READY_WITHIN, async || {
            let mut statuses = Vec::new();
            for id in &running {
                statuses.push(client.at(*id).node().await.map_err(|e| e.to_string())?);
            }
            let same = statuses.iter().all(|s| s.applied == statuses[0].applied);
            let applied: Vec<_> = statuses.iter().map(|s| s.applied).collect();
            if same { Ok(statuses) } else { Err(format!("{applied:?}")) }
        })
        .await
    }

    fn show_logs(&self) {
        for node in &self.nodes {
            for log in &node.logs {
                let text = fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let from = lines.len().saturating_sub(LINES_SHOWN);
                println!("--- {} (the last of {} lines)", log.display(), lines.len());
                lines[from..].iter().for_each(|line| println!("{line}"));
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            // It may have ended by itself; a paused one dies of this too.
            drop(process.kill());
            drop(process.wait());
        }
        if std::thread::panicking() {
            self.show_logs();
        }
        for node in self.nodes.iter().filter(|node| !node.data.starts_with(self.folder.path())) {
            drop(fs::remove_dir_all(&node.data));
        }
    }
}
