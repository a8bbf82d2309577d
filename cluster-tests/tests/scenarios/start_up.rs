//! What a node does not start with: it ends with an exit code other than 0 and an error that names
//! the setting or the file.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cluster_tests::client::Client;
use cluster_tests::cluster::{Cluster, Plan, READY_WITHIN};
use cluster_tests::faults::{files_in, flip_a_bit};
use cluster_tests::ports;
use cluster_tests::wait::until;
use tempfile::TempDir;

use crate::{newest_checkpoint, newest_checkpoint_file, three_nodes};

const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// A wrong setting, as opposed to a start that failed.
const USAGE: Option<i32> = Some(2);
/// What may pass by itself: whoever looks after the process is to start it again.
const FAILED: Option<i32> = Some(1);

fn one_node() -> Plan {
    three_nodes().nodes(1).set("--checkpoint-every", 50).set("--log-keep", 10)
}

/// A node that is started by hand and must end by itself.
struct Lone {
    folder: TempDir,
    settings: Vec<(&'static str, String)>,
}

impl Lone {
    fn new() -> Self {
        let folder = TempDir::with_prefix("roster-test-").expect("a folder");
        let free = ports::free(ports::own_host(), 2);
        let settings = vec![
            ("--node-id", "1".into()),
            ("--data-dir", folder.path().join("data").display().to_string()),
            ("--listen", free[0].to_string()),
            ("--peer-listen", free[1].to_string()),
            ("--cluster", format!("1={}", free[1])),
        ];
        Self { folder, settings }
    }

    fn with(mut self, flag: &'static str, value: impl ToString) -> Self {
        self.settings.retain(|(known, _)| *known != flag);
        self.settings.push((flag, value.to_string()));
        self
    }

    async fn ends(&self) -> Output {
        let mut process = Command::new(env!("CARGO_BIN_EXE_roster-under-test"))
            .arg("serve")
            .args(self.settings.iter().flat_map(|(flag, value)| [flag, value.as_str()]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        until("it ends", ENDS_WITHIN, async || match process.try_wait().expect("its state") {
            Some(_) => Ok(()),
            None => Err("it runs"),
        })
        .await;
        process.wait_with_output().expect("its output")
    }

    /// It ends and its error has all of these words.
    async fn is_refused(&self, words: &[&str]) -> Option<i32> {
        let output = self.ends().await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "it ended well: {error}");
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
        output.status.code()
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_by_its_setting() {
    let taken = TcpListener::bind((ports::own_host(), 0)).expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let api = Lone::new().with("--listen", &address);
    assert_eq!(api.is_refused(&["--listen", &address, "in use"]).await, FAILED);
    assert!(!api.folder.path().join("data/log").exists(), "nothing was written for Raft");
    let peer = Lone::new().with("--peer-listen", &address);
    assert_eq!(peer.is_refused(&["--peer-listen", &address, "in use"]).await, FAILED);
}

#[tokio::test]
async fn settings_that_cannot_be_are_named() {
    let cases: [(&str, &str, &[&str]); 9] = [
        ("--cluster", "2=127.0.0.1:7501,3=127.0.0.1:7502", &["--cluster", "node 1", "--node-id"]),
        ("--cluster", "1=127.0.0.1:7500,1=127.0.0.1:7501", &["--cluster", "twice"]),
        ("--cluster", "1=127.0.0.1:7500,2=127.0.0.1:7500", &["--cluster", "twice"]),
        ("--cluster", "1=nowhere", &["--cluster", "HOST:PORT"]),
        ("--cluster", "", &["--cluster", "empty"]),
        ("--listen", "0.0.0.0:0", &["--listen", "--allow-unauthenticated"]),
        ("--peer-listen", "0.0.0.0:0", &["--peer-listen", "--allow-unauthenticated"]),
        ("--election-timeout-max", "100ms", &["--election-timeout-max"]),
        ("--sentinel-ttl", "10ms", &["--sentinel-ttl", "1s"]),
    ];
    for (flag, value, words) in cases {
        let lone = Lone::new().with(flag, value);
        assert_eq!(lone.is_refused(words).await, USAGE, "{flag} {value}");
        assert!(!lone.folder.path().join("data").exists(), "{flag} {value}: a folder was made");
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let lone = Lone::new();
    let file = lone.folder.path().join("file");
    fs::write(&file, b"x").expect("written");
    let under_a_file = file.join("data");
    let lone = lone.with("--data-dir", under_a_file.display());
    lone.is_refused(&["--data-dir", &under_a_file.display().to_string()]).await;

    let foreign = Lone::new();
    let data = foreign.folder.path().join("data");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("holiday.jpg"), b"x").expect("written");
    foreign.is_refused(&["--data-dir", "identity.json"]).await;
    assert_eq!(fs::read(data.join("holiday.jpg")).expect("it is untouched"), b"x");

    let read_only = Lone::new();
    let data = read_only.folder.path().join("data");
    fs::create_dir(&data).expect("made");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o500)).expect("set");
    if fs::write(data.join("probe"), b"x").is_ok() {
        return println!("this user may write anywhere: a read-only folder is not tried");
    }
    read_only.is_refused(&["--data-dir", "write"]).await;
}

#[tokio::test]
async fn nodes_with_different_lists_do_not_make_a_cluster() {
    let mut cluster = three_nodes().lay_out();
    let longer = format!("{},4=127.0.0.1:9", cluster.list());
    cluster.start(1, &[]);
    let client = cluster.client();
    until("node 1 waits for the others", READY_WITHIN, async || {
        match client.at(1).ready().await.expect_err("it is not ready") {
            e if e.problem().detail.contains("waits for node 2 and node 3") => Ok(()),
            e => Err(e.to_string()),
        }
    })
    .await;
    cluster.start_instead(3, "--cluster", &longer);
    // Node 3 sees it first, and the node that it asked does not go on waiting for it.
    for id in [3, 1] {
        let (status, log) = cluster.ends(id, ENDS_WITHIN).await;
        assert!(!status.success());
        let error = log.lines().last().unwrap_or_default();
        for word in ["--cluster", "was started with the list", &cluster.list(), &longer] {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    }
}

#[tokio::test]
async fn a_folder_of_another_node_is_refused() {
    let mut cluster = three_nodes().start().await;
    let (_, followers) = cluster.leader_and_followers().await;
    let (one, other) = (followers[0], followers[1]);
    cluster.stop(one).await;
    cluster.stop(other).await;
    let foreign = cluster.data_dir(other).display().to_string();
    cluster.start_instead(one, "--data-dir", &foreign);
    let (status, log) = cluster.ends(one, ENDS_WITHIN).await;
    assert!(!status.success());
    let belongs = format!("belongs to node {other}, not to node {one}");
    assert!(log.contains("--data-dir") && log.contains(&belongs), "{log}");
    cluster.start(one, &[]);
    cluster.start(other, &[]);
    cluster.ready().await;
}

/// One node with some data, stopped, with a checkpoint and a log that begins after the first entry:
/// what a checkpoint makes superfluous is gone at the latest when there is a newer one.
async fn with_data() -> Cluster {
    let mut cluster = one_node().start().await;
    let client = cluster.client();
    for i in 0..120 {
        client.at(1).register("pay", &format!("i{i}"), "10m").await.expect("registered");
    }
    let checkpoints = cluster.data_dir(1).join("checkpoints");
    let first = until("there is a checkpoint", ENDS_WITHIN, async || {
        newest_checkpoint(&checkpoints).ok_or("there is none")
    })
    .await;
    until("there is a newer one", ENDS_WITHIN, async || {
        client.at(1).register("pay", "i0", "10m").await.expect("updated");
        if newest_checkpoint(&checkpoints) > Some(first) { Ok(()) } else { Err("there is none") }
    })
    .await;
    cluster.stop(1).await;
    cluster
}

/// It does not start and says of which file and what to do; it never serves an empty registry.
async fn does_not_start(cluster: &mut Cluster, file: &Path, problem: &str) {
    cluster.start(1, &[]);
    let (status, log) = cluster.ends(1, ENDS_WITHIN).await;
    assert!(!status.success());
    let error = log.lines().last().unwrap_or_default();
    for word in [&file.display().to_string(), problem, "ove the data folder away"] {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[tokio::test]
async fn a_damaged_checkpoint_is_named_and_refused() {
    let mut cluster = with_data().await;
    let checkpoints = cluster.data_dir(1).join("checkpoints");
    let newest = newest_checkpoint_file(&checkpoints).expect("a checkpoint");
    let size = fs::metadata(&newest).expect("its size").len() as usize;
    for offset in [0, size / 3, size / 2, size - 1] {
        flip_a_bit(&newest, offset);
        does_not_start(&mut cluster, &newest, "is damaged").await;
        flip_a_bit(&newest, offset);
    }
    let aside = newest.with_extension("aside");
    fs::rename(&newest, &aside).expect("it is moved");
    // It cannot know which was the last one, only that there was one.
    does_not_start(&mut cluster, &checkpoints, "is missing").await;
    fs::rename(&aside, &newest).expect("it is moved back");
    starts_with_everything(&mut cluster).await;
}

#[tokio::test]
async fn a_damaged_log_is_named_and_refused() {
    let mut cluster = with_data().await;
    let chunk = files_in(&cluster.data_dir(1).join("log"))
        .into_iter()
        .max_by_key(|file| fs::metadata(file).expect("its size").len())
        .expect("a chunk");
    let size = fs::metadata(&chunk).expect("its size").len() as usize;
    for offset in [size / 10, size / 2] {
        flip_a_bit(&chunk, offset);
        does_not_start(&mut cluster, &chunk, "is damaged").await;
        flip_a_bit(&chunk, offset);
    }
    // Without its log it is not a new node either.
    let log = cluster.data_dir(1).join("log");
    let aside = cluster.data_dir(1).join("aside");
    fs::rename(&log, &aside).expect("it is moved");
    does_not_start(&mut cluster, &log, "is gone").await;
    if log.exists() {
        fs::remove_dir_all(&log).expect("it goes");
    }
    fs::rename(&aside, &log).expect("it is moved back");
    starts_with_everything(&mut cluster).await;
}

async fn starts_with_everything(cluster: &mut Cluster) {
    cluster.start(1, &[]);
    cluster.ready().await;
    let (_, listed) = cluster.client().at(1).list("pay").await.expect("listed");
    assert_eq!(listed.len(), 120);
}

#[tokio::test]
async fn whoever_takes_the_peers_port_for_that_of_the_api_is_told_where_the_api_is() {
    let cluster = three_nodes().start().await;
    let list = cluster.list();
    let (_, peer) = list.split(',').next().and_then(|entry| entry.split_once('=')).expect("a node");
    let peers = Client::new([(1, peer.parse().expect("an address"))].into());
    for path in ["/v1/node", "/raft/append"] {
        let refused = peers.at(1).get(path).await.expect_err("it is not the API");
        assert_eq!(refused.status(), Some(421), "{refused}");
        let api = cluster.api(1).to_string();
        assert!(refused.problem().detail.contains(&format!("its API is at {api}")), "{refused}");
    }
    let log = cluster.last_log(1);
    assert!(!log.contains("this node refuses"), "a stranger is no node that is refused:\n{log}");
}
