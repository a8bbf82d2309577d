//! `roster bench scale` with a small fleet: whether it measures everything and clears away.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// It takes half a minute on a machine of its own.
const LIMIT: Duration = Duration::from_secs(300);

fn bench_scale(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_roster"))
        .args(["bench", "scale", "--instances", "2000", "--duration", "300ms", "--no-etcd"])
        .args(["--kills", "1", "--tries", "5"])
        .args(arguments)
        .arg("--data-dir")
        .arg(folder)
        // The settings of whoever tests are none of the servers' business.
        .env("ROSTER_ELECTION_TIMEOUT_MIN", "no duration")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts")
}

async fn ended(process: Child) -> (Output, String) {
    let output = tokio::time::timeout(LIMIT, process.wait_with_output());
    let output = output.await.expect("in time").expect("a status");
    let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    (output, text)
}

/// Command lines of processes that have to do with a folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().expect("text");
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(folder))
        .collect()
}

fn assert_nothing_is_left(folder: &Path) {
    assert_eq!(processes_of(folder), Vec::<String>::new());
    let left: Vec<_> = fs::read_dir(folder).expect("the folder").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_small_fleet_is_measured_in_every_line_and_nothing_is_left_behind() {
    let (folder, result) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let file = result.path().join("figures.json");
    let json = ["--json", file.to_str().expect("text")];
    let (output, text) = ended(bench_scale(folder.path(), &json)).await;
    assert!(output.status.success(), "{text}");
    assert_nothing_is_left(folder.path());

    let document: Value =
        serde_json::from_slice(&fs::read(&file).expect("the figures")).expect("JSON");
    assert_eq!(document["instances"], 2_000);
    let figures = document["figures"].as_array().expect("a list");
    assert_eq!(figures.len(), 16, "{document:#}");
    for figure in figures {
        let what = figure["what"].as_str().expect("a name");
        assert!(text.contains(what), "{what} is not in {text}");
        assert!(figure["measured"].is_f64(), "{figure:#}");
        assert!(figure["reached"].is_boolean(), "{figure:#}");
        assert_eq!(figure["failure"], Value::Null);
    }
    let removal = figures.iter().find(|figure| figure["what"] == "removal after TTL, idle, p50");
    let late = removal.and_then(|figure| figure["measured"].as_f64()).expect("a number");
    assert!(late > 0.0, "removed {late} ms after its TTL, which is before it");
}

#[tokio::test]
async fn one_that_is_interrupted_shows_what_it_has_and_leaves_nothing_behind() {
    let folder = TempDir::new().expect("a folder");
    let mut process = bench_scale(folder.path(), &[]);
    let mut progress = BufReader::new(process.stderr.take().expect("its progress")).lines();
    let first = tokio::time::timeout(LIMIT, progress.next_line()).await.expect("in time");
    let first = first.expect("readable").expect("a line");
    assert!(first.contains("write outage"), "{first}");
    assert!(!processes_of(folder.path()).is_empty(), "it has no servers");

    let pid = process.id().and_then(|pid| Pid::from_raw(pid as i32)).expect("it runs");
    kill_process(pid, Signal::INT).expect("it can be told");
    let (output, text) = ended(process).await;
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("of 1 kills"), "{text}");
    assert_nothing_is_left(folder.path());
}

#[tokio::test]
async fn a_name_that_no_figure_has_is_an_error_with_all_names() {
    let folder = TempDir::new().expect("a folder");
    let (output, text) = ended(bench_scale(folder.path(), &["--only", "kubernetes"])).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("--only") && text.contains("memory per instance"), "{text}");
}
