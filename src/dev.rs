//! `roster dev`: a whole cluster in one terminal. Each node is a process of its own, started with
//! `roster serve`, so that one of them can be killed to see what happens.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures::future::join_all;
use roster_storage::names::NodeId;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Child;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::bench::http::Connection;
use crate::cli::asking::{End, write_line};
use crate::cli::tied::tied;
use crate::shutdown;

/// The first API port; node 1 has this, node 2 the next.
const API_PORT: u16 = 7401;
const PEER_PORT: u16 = 7501;

const NODES_MAX: u16 = 9;

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
    /// The first API port; the nodes take this and the following ones
    #[arg(long, default_value_t = API_PORT, value_name = "PORT")]
    api_port: u16,
    /// The first peer port
    #[arg(long, default_value_t = PEER_PORT, value_name = "PORT")]
    peer_port: u16,
}

/// Runs until Ctrl-C.
pub(crate) async fn run(dev: Dev) -> Result<(), End> {
    let stop = shutdown::on_signal().map_err(|e| format!("cannot listen for signals: {e}"))?;
    let folder = Folder::new(dev.data_dir.as_deref())?;
    let mut nodes = Vec::new();
    for id in 1..=dev.nodes {
        nodes.push(start_node(&dev, id, folder.path())?);
    }
    let ready = tokio::select! {
        ready = wait_ready(&dev, &mut nodes) => ready.map(|()| true),
        () = stop.cancelled() => Ok(false),
    };
    if let Ok(true) = ready {
        print_welcome(&dev, &nodes, &folder);
        tokio::select! {
            () = stop.cancelled() => {}
            () = all_ended(&mut nodes) => eprintln!("all nodes have ended"),
        }
    }
    stop_all(nodes).await;
    ready.map(drop)
}

/// A cluster for another command, on ports that are free, with its data in a temporary folder. Its
/// nodes tell only what goes wrong. They are killed when this is dropped; [`LocalCluster::stop`]
/// stops them.
pub(crate) struct LocalCluster {
    dev: Dev,
    nodes: Vec<DevNode>,
    _folder: Folder,
}

impl LocalCluster {
    /// Returns when it serves.
    pub async fn start() -> Result<Self, End> {
        const NODES: u16 = 3;
        let first = free_ports(2 * NODES)?;
        let dev = Dev {
            nodes: NODES,
            data_dir: None,
            log: "error".into(),
            api_port: first,
            peer_port: first + NODES,
        };
        let folder = Folder::new(None)?;
        let mut nodes = Vec::new();
        for id in 1..=NODES {
            nodes.push(start_node(&dev, id, folder.path())?);
        }
        wait_ready(&dev, &mut nodes).await?;
        Ok(Self { dev, nodes, _folder: folder })
    }

    /// The API addresses, separated by commas.
    pub fn endpoints(&self) -> String {
        let all = (0..self.nodes.len()).map(|index| address(&self.dev, index));
        all.collect::<Vec<_>>().join(",")
    }

    pub async fn stop(self) {
        stop_all(self.nodes).await;
    }
}

/// The first of so many ports in a row on which nobody listens now.
pub(crate) fn free_ports(count: u16) -> Result<u16, String> {
    /// Below the ports that systems give to outgoing connections.
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    const TRIES: usize = 100;
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..TRIES)
        .map(|_| fastrand::u16(RANGE))
        .find(|first| (*first..*first + count).all(is_free))
        .ok_or_else(|| format!("found no {count} free ports in a row between {RANGE:?}"))
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
}

impl std::fmt::Display for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kept(path) => path.display().fmt(f),
            Self::Temporary(folder) => write!(f, "{} (temporary)", folder.path().display()),
        }
    }
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
    command.extend(["--data-dir".into(), folder.join(format!("node-{id}")).into()]);
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

fn address(dev: &Dev, index: usize) -> String {
    format!("127.0.0.1:{}", usize::from(dev.api_port) + index)
}

async fn wait_ready(dev: &Dev, nodes: &mut [DevNode]) -> Result<(), End> {
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut waiting: Vec<usize> = (0..nodes.len()).collect();
    while !waiting.is_empty() {
        for node in nodes.iter_mut() {
            if let Ok(Some(status)) = node.process.try_wait() {
                let why = format!("node {} ended ({status}); its reason is above", node.id);
                return Err(End::Failed(why));
            }
        }
        let mut still = Vec::new();
        for index in waiting {
            if !is_ready(&address(dev, index)).await {
                still.push(index);
            }
        }
        waiting = still;
        if Instant::now() > deadline {
            let why = "the cluster is not ready; the nodes' reasons are above";
            return Err(End::TooLate(why.into()));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn is_ready(address: &str) -> bool {
    let Ok(mut connection) = Connection::open(address).await else { return false };
    connection.get("/readyz").await.is_ok_and(|answer| answer.status.is_success())
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
async fn stop_all(mut nodes: Vec<DevNode>) {
    for node in &nodes {
        let pid = node.process.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        if let Some(Err(e)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
            eprintln!("node {}: {e}", node.id);
        }
    }
    for node in &mut nodes {
        if timeout(STOP_TIMEOUT, node.process.wait()).await.is_err() {
            eprintln!("node {} does not stop; it is killed", node.id);
            if let Err(e) = node.process.kill().await {
                eprintln!("node {}: {e}", node.id);
            }
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
