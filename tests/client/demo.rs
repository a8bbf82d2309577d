//! `roster demo` with a cluster of its own, and with one that stays.

use std::process::Stdio;
use std::time::Duration;

use roster::client::{Call, Client};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::scripted::{nobody, within};

/// The story may take 30 s on a machine of its own.
const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn the_demo_keeps_its_promises_and_leaves_nothing_behind() {
    let run = Command::new(env!("CARGO_BIN_EXE_roster"))
        .args([
            "demo",
            "--own-cluster",
            "--transports",
            "12",
            "--fetchers",
            "3",
            "--duration",
            "2s",
        ])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let run = tokio::time::timeout(LIMIT, run).await.expect("in time").expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&run.stdout), text(&run.stderr));
    assert!(run.status.success(), "{out}{error}");
    assert!(out.contains("A cluster of 3 nodes was started"), "{out}");
    assert!(out.contains("at work on all 7 remaining shards"), "{out}");
    assert!(out.contains("the same in the histories of 3 of 3 nodes"), "{out}");
    assert!(out.contains("For 2s things come and go; look at http://127.0.0.1:"), "{out}");
    assert!(out.contains("caches make a ring"), "{out}");
    assert!(out.contains("All that was made is deleted."), "{out}");
}

fn roster(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_roster"))
        .args(arguments)
        .env_remove("ROSTER_ENDPOINT")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts")
}

/// `roster dev`: told to stop at the end of a test, however that ends. Killed, it would leave its nodes
/// behind.
struct Dev(Child);

impl Dev {
    fn start(arguments: &[&str]) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_roster"))
            .arg("dev")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        Self(process.expect("it starts"))
    }

    async fn stop(mut self) {
        self.tell_to_stop();
        within("its end", self.0.wait()).await.expect("a status");
    }

    fn tell_to_stop(&self) {
        if let Some(pid) = self.0.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

/// Reads its output up to a line with this in it, and no further.
async fn read_up_to(process: &mut Child, text: &str) {
    let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
    let found = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.contains(text) {
                return;
            }
        }
        panic!("its output ends before {text:?}");
    };
    within(text, found).await;
}

#[tokio::test]
async fn a_demo_that_nobody_reads_any_more_ends_quietly_and_clears_away_what_it_made() {
    let (api, peer) = (nobody().await, nobody().await);
    let ports = [api.port().to_string(), peer.port().to_string()];
    let one_node = ["--nodes", "1", "--log", "error"];
    let ports = ["--api-port", &ports[0], "--peer-port", &ports[1]];
    let mut cluster = Dev::start(&[one_node.as_slice(), &ports].concat());
    read_up_to(&mut cluster.0, "Roster is ready.").await;

    let endpoint = api.to_string();
    let few = ["--transports", "10", "--fetchers", "2"];
    let mut demo = roster(&[["demo", "--endpoint", &endpoint].as_slice(), &few].concat());
    read_up_to(&mut demo, "A cluster of 1 nodes was found").await;
    let ended = within("its end", demo.wait_with_output()).await.expect("a status");
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && error.is_empty(), "{error}");
    let client = Client::new(&endpoint).expect("a client");
    for (path, list) in [("/v1/apps", "apps"), ("/v1/instances", "instances")] {
        let answer = client.send(Call::get(path.into())).await.expect("a list");
        let left: Value = answer.json().expect("JSON");
        assert_eq!(left[list], serde_json::json!([]), "left behind");
    }
    cluster.stop().await;
}
