//! `roster dev`: a whole cluster in one terminal. Each node is a process of its own, started with
//! `roster serve`, so that one of them can be killed to see what happens.

mod ports;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures::future::join_all;
use ports::Ports;
use roster_storage::names::NodeId;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::bench::http::Connection;
use crate::cli::asking::{End, write_line};
use crate::cli::tied::tied;
use crate::identity::Identity;
use crate::shutdown;

pub(crate) use ports::free_ports;

/// The first API port; node 1 has this, node 2 the next.
const API_PORT: u16 = 7401;
const PEER_PORT: u16 = 7501;

const NODES_MAX: u16 = 9;

/// Exit code of who was told to stop and did not finish.
pub(crate) const INTERRUPTED: u8 = 130;

/// How long a new cluster may take to be ready, and a node to stop.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Colours by node, as terminals number them.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

#[derive(Debug, clap::Args)]
pub struct Dev {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=NODES_MAX as i64))]
    nodes: u16,
    /// Keep the data here; without it a temporary folder, gone at the end
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Log level or filter of the nodes
    #[arg(long, default_value = "info", value_name = "FILTER")]
    log: String,
    /// The first API port; the nodes take this and the following ones, free ones for 0
    #[arg(long, default_value_t = API_PORT, value_name = "PORT")]
    api_port: u16,
    /// The first peer port, as the API's
    #[arg(long, default_value_t = PEER_PORT, value_name = "PORT")]
    peer_port: u16,
}

/// Runs until Ctrl-C, or until all nodes have ended.
pub(crate) async fn run(dev: Dev) -> Result<(), End> {
    let asked = shutdown::on_signals().map_err(|e| format!("cannot listen for signals: {e}"))?;
    let mut cluster = LocalCluster::launch(dev)?;
    let ready = tokio::select! {
        ready = cluster.wait_ready() => ready.map(|()| true),
        () = asked.stop.cancelled() => Ok(false),
    };
    let result = match ready {
        Ok(true) => {
            print_welcome(&cluster.dev, &cluster.nodes, &cluster.folder);
            tokio::select! {
                () = asked.stop.cancelled() => Ok(()),
                () = all_ended(&mut cluster.nodes) => {
                    Err(End::Failed("all nodes have ended".into()))
                }
            }
        }
        Ok(false) => Ok(()),
        Err(end) => Err(end),
    };
    let was_in_time = cluster.stop(&asked.hurry).await;
    match (result, was_in_time) {
        (Ok(()), false) => Err(End::Code(INTERRUPTED)),
        (result, _) => result,
    }
}

/// Nodes on this machine, with their data in a folder. They are killed when this is dropped;
/// [`LocalCluster::stop`] stops them.
pub(crate) struct LocalCluster {
    dev: Dev,
    nodes: Vec<DevNode>,
    folder: Folder,
}

impl LocalCluster {
    /// A cluster for another command, on ports that are free, with its data in a temporary folder. Its
    /// nodes tell only what goes wrong. Returns when it serves.
    pub async fn start() -> Result<Self, End> {
        const NODES: u16 = 3;
        let log = "error".into();
        let dev = Dev { nodes: NODES, data_dir: None, log, api_port: 0, peer_port: 0 };
        let mut cluster = Self::launch(dev)?;
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    /// Starts the processes.
    fn launch(mut dev: Dev) -> Result<Self, End> {
        let asked = Ports { api: dev.api_port, peer: dev.peer_port };
        if let Some(folder) = dev.data_dir.as_deref().filter(|folder| has_cluster(folder)) {
            asked.must_be_given(folder)?;
        }
        let ports = Ports::choose(asked, dev.nodes)?;
        (dev.api_port, dev.peer_port) = (ports.api, ports.peer);
        let folder = Folder::new(dev.data_dir.as_deref())?;
        let mut cluster = Self { dev, nodes: Vec::new(), folder };
        for id in 1..=cluster.dev.nodes {
            let node = start_node(&cluster.dev, id, cluster.folder.path())?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    async fn wait_ready(&mut self) -> Result<(), End> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let is_ready = self.is_ready().await;
            // After the answers: a node that has ended gave none of them.
            for node in &mut self.nodes {
                if let Ok(Some(status)) = node.process.try_wait() {
                    let why = format!("node {} ended ({status}); its reason is above", node.id);
                    return Err(End::Failed(why));
                }
            }
            if is_ready {
                return Ok(());
            }
            if Instant::now() > deadline {
                let why = "the cluster is not ready; the nodes' reasons are above";
                return Err(End::TooLate(why.into()));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_ready(&self) -> bool {
        for (index, node) in self.nodes.iter().enumerate() {
            let folder = node_folder(self.folder.path(), node.id);
            if !is_ready(&address(&self.dev, index), &folder).await {
                return false;
            }
        }
        true
    }

    /// The API addresses, separated by commas.
    pub fn endpoints(&self) -> String {
        let all = (0..self.nodes.len()).map(|index| address(&self.dev, index));
        all.collect::<Vec<_>>().join(",")
    }

    /// Asks all to stop, and kills those that do not in time, or at once when it is to be hurried. False
    /// if it was hurried: the temporary folder is gone all the same.
    pub async fn stop(mut self, hurry: &CancellationToken) -> bool {
        let was_in_time = tokio::select! {
            () = stop_all(&mut self.nodes) => true,
            () = hurry.cancelled() => false,
        };
        if !was_in_time {
            kill_all(&mut self.nodes).await;
            eprintln!(
                "asked once more to stop: the nodes were killed; {}",
                self.folder.afterwards()
            );
        }
        was_in_time
    }
}

impl Drop for LocalCluster {
    /// A node that has not ended yet would write into the folder while it is removed.
    fn drop(&mut self) {
        const LOOKS_MAX: u32 = 200;
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        for node in &mut self.nodes {
            // Who has ended already needs no signal.
            drop(node.process.start_kill());
        }
        let has_ended = |node: &mut DevNode| !matches!(node.process.try_wait(), Ok(None));
        for _ in 0..LOOKS_MAX {
            if self.nodes.iter_mut().all(has_ended) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Where the nodes' data is.
enum Folder {
    Kept(PathBuf),
    /// Removed when this is dropped.
    Temporary(TempDir),
}

impl Folder {
    fn new(given: Option<&Path>) -> Result<Self, String> {
        match given {
            Some(path) => std::fs::create_dir_all(path)
                .map(|()| Self::Kept(path.to_owned()))
                .map_err(|e| format!("--data-dir {}: {e}", path.display())),
            None => tempfile::Builder::new()
                .prefix("roster-dev-")
                .tempdir()
                .map(Self::Temporary)
                .map_err(|e| format!("cannot make a temporary folder: {e}")),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// What is left of it when this is dropped.
    fn afterwards(&self) -> String {
        match self {
            Self::Kept(path) => format!("their data stays in {}", path.display()),
            Self::Temporary(_) => {
                "their temporary folder is removed, nothing is left behind".into()
            }
        }
    }
}

impl std::fmt::Display for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kept(path) => path.display().fmt(f),
            Self::Temporary(folder) => write!(f, "{} (temporary)", folder.path().display()),
        }
    }
}

/// Whether the nodes with these folders are known to each other already, by their addresses.
fn has_cluster(folder: &Path) -> bool {
    Identity::seen_in(&node_folder(folder, 1)).is_some_and(|node| node.cluster.is_some())
}

struct DevNode {
    id: NodeId,
    process: Child,
}

fn start_node(dev: &Dev, id: u16, folder: &Path) -> Result<DevNode, String> {
    let binary = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
    let list: Vec<_> =
        (1..=dev.nodes).map(|n| format!("{n}=127.0.0.1:{}", dev.peer_port + n - 1)).collect();
    let listen = format!("127.0.0.1:{}", dev.api_port + id - 1);
    let peer_listen = format!("127.0.0.1:{}", dev.peer_port + id - 1);
    let mut command: Vec<OsString> = vec![binary.into(), "serve".into()];
    for (flag, value) in [
        ("--node-id", id.to_string()),
        ("--listen", listen),
        ("--peer-listen", peer_listen),
        ("--cluster", list.join(",")),
        ("--log", dev.log.clone()),
    ] {
        command.extend([flag.into(), value.into()]);
    }
    command.extend(["--data-dir".into(), node_folder(folder, id.into()).into()]);
    // Killed, this process could not stop them, and they would hold the ports.
    let mut process = tied(&command)
        .map_err(|e| format!("cannot find this program: {e}"))?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C reaches the whole process group; the nodes are to be stopped by this process.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("cannot start node {id}: {e}"))?;
    if let (Some(out), Some(err)) = (process.stdout.take(), process.stderr.take()) {
        tokio::spawn(pass_on(id, out));
        tokio::spawn(pass_on(id, err));
    }
    Ok(DevNode { id: id.into(), process })
}

/// Prints a node's lines with its name before each, in its colour on a terminal.
async fn pass_on(id: u16, stream: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(stream).lines();
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let coloured = std::io::stderr().is_terminal() && !refused;
    while let Ok(Some(line)) = lines.next_line().await {
        let mut out = std::io::stderr().lock();
        let written = if coloured {
            let colour = COLOURS[usize::from(id - 1) % COLOURS.len()];
            writeln!(out, "\x1b[{colour}mnode {id} |\x1b[0m {line}")
        } else {
            writeln!(out, "node {id} | {line}")
        };
        if written.is_err() {
            return;
        }
    }
}

fn node_folder(folder: &Path, id: NodeId) -> PathBuf {
    folder.join(format!("node-{id}"))
}

fn address(dev: &Dev, index: usize) -> String {
    format!("127.0.0.1:{}", usize::from(dev.api_port) + index)
}

/// What the API tells of a node, as far as it is looked at here.
#[derive(serde::Deserialize)]
struct NodeAnswer {
    id: String,
    cluster_id: Option<String>,
}

/// Whether the node with this folder serves at this address: a node of another cluster may listen there.
async fn is_ready(address: &str, folder: &Path) -> bool {
    let asked = async {
        let mut connection = Connection::open(address).await?;
        let ready = connection.get("/readyz").await?;
        if !ready.status.is_success() {
            return Ok(None);
        }
        connection.get("/v1/node").await?.json::<NodeAnswer>().map(Some)
    };
    let (Ok::<_, String>(Some(answer)), Some(own)) = (asked.await, Identity::seen_in(folder))
    else {
        return false;
    };
    let cluster = own.cluster.map(|cluster| cluster.id);
    answer.id == own.node_id.to_string() && cluster.is_some() && answer.cluster_id == cluster
}

fn print_welcome(dev: &Dev, nodes: &[DevNode], folder: &Folder) {
    let (first, last) = (address(dev, 0), address(dev, nodes.len() - 1));
    let endpoints = (0..nodes.len()).map(|index| address(dev, index)).collect::<Vec<_>>().join(",");
    let program = invocation(std::env::var_os("CARGO").is_some());
    // What runs without options asks the ports that `dev` takes without options.
    let usual = dev.api_port == API_PORT && (1..=3).contains(&dev.nodes);
    let at = if usual { String::new() } else { format!(" --endpoint {endpoints}") };
    let mut text = format!(
        "\nRoster is ready.\n\n  Dashboard  http://{first}/ui/\n\n\
         In a second terminal, to see something happen there:\n\n  \
         {program} demo{at}\n\n\
         In a third one, the same as text:\n\n  \
         {program} top{at}\n\n"
    );
    for (index, node) in nodes.iter().enumerate() {
        let pid = node.process.id().unwrap_or_default();
        text += &format!("  node {}  http://{}   (pid {pid})\n", node.id, address(dev, index));
    }
    text += &format!(
        "\nRegister an instance on one node, and see it on another:\n\n  \
         curl -X PUT http://{first}/v1/apps/pay/instances/a -H 'content-type: application/json' \
         -d '{{\"ip\":\"10.0.0.1\",\"port\":8080,\"ttl\":\"30s\"}}'\n  \
         curl http://{last}/v1/apps/pay/instances\n\n\
         Data: {folder}. Stop with Ctrl-C.\n"
    );
    // The cluster serves, whether anybody reads this or not.
    let _ = write_line(&text);
}

/// How this program can be run once more from another terminal: through cargo, if it was run so, else
/// by its own path.
fn invocation(by_cargo: bool) -> String {
    let program = std::env::current_exe().ok();
    let program = program.as_deref().unwrap_or_else(|| Path::new("roster"));
    let is_release = program.parent().is_some_and(|folder| folder.ends_with("release"));
    match (by_cargo, is_release) {
        (true, true) => "cargo run --release --".into(),
        (true, false) => "cargo run --".into(),
        (false, _) => shell_word(&program.display().to_string()),
    }
}

/// As a shell takes it for one word.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.into(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Tells of each node that ends; returns when none is left.
async fn all_ended(nodes: &mut [DevNode]) {
    let ends = nodes.iter_mut().map(async |node| {
        if let Ok(status) = node.process.wait().await {
            eprintln!("node {} ended: {status}", node.id);
        }
    });
    join_all(ends).await;
}

/// Asks all to stop, and ends those that do not in time.
async fn stop_all(nodes: &mut [DevNode]) {
    for node in &*nodes {
        let pid = node.process.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        if let Some(Err(e)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
            eprintln!("node {}: {e}", node.id);
        }
    }
    for node in nodes {
        if timeout(STOP_TIMEOUT, node.process.wait()).await.is_err() {
            eprintln!("node {} does not stop; it is killed", node.id);
            if let Err(e) = node.process.kill().await {
                eprintln!("node {}: {e}", node.id);
            }
        }
    }
}

/// Ends all, and waits for that: nobody writes into the folder any more.
async fn kill_all(nodes: &mut [DevNode]) {
    for node in nodes {
        if let Err(e) = node.process.kill().await {
            eprintln!("node {}: {e}", node.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_the_second_terminal_can_be_typed_as_it_stands() {
        assert_eq!(shell_word("/opt/roster-1.0/roster"), "/opt/roster-1.0/roster");
        assert_eq!(shell_word("/home/a b/it's"), r"'/home/a b/it'\''s'");
        assert_eq!(invocation(true), "cargo run --", "this test is no release build");
        let program = std::env::current_exe().expect("a path").display().to_string();
        assert_eq!(invocation(false), shell_word(&program));
    }
}
