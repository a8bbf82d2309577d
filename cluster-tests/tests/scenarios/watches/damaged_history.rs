//! A history that was deleted or damaged between two runs: the node starts, says so, and tells
//! nobody less than everything.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use cluster_tests::cluster::{Cluster, Plan};
use cluster_tests::faults::{files_in, flip_a_bit};
use cluster_tests::seed::Seed;
use cluster_tests::watch::Chronicle;

use super::{ask_every_revision, reference, register};
use crate::three_nodes;

/// Changes of each round: many times what memory keeps.
const CHANGES: usize = 120;

fn little_in_memory() -> Plan {
    three_nodes().set("--event-log", 64).set("--checkpoint-every", 40).set("--log-keep", 5)
}

fn history_of(cluster: &Cluster, node: u64) -> PathBuf {
    cluster.data_dir(node).join("history")
}

#[tokio::test]
async fn what_memory_does_not_keep_is_told_from_the_history_also_after_a_restart() {
    let mut cluster = little_in_memory().start().await;
    let (client, chronicle) = (cluster.client(), Chronicle::new());
    let (writer, followers) = cluster.leader_and_followers().await;
    let reference = reference(&client, writer, &chronicle).await;
    let (mut first, mut last) = (0, 0);
    for i in 0..CHANGES {
        last = register(&client, writer, "pay", &format!("i{}", i % 9)).await;
        first = if i == 0 { last } else { first };
    }
    reference.ends_at(last).await;
    cluster.settled().await;
    for node in [followers[0], writer] {
        let refused = ask_every_revision(&client, node, first..=last, &chronicle).await;
        assert_eq!(refused, 0, "node {node}");
    }
    cluster.stop(followers[0]).await;
    cluster.start(followers[0], &[]);
    cluster.ready().await;
    let refused = ask_every_revision(&client, followers[0], first..=last, &chronicle).await;
    assert_eq!(refused, 0, "after the restart");
    chronicle.check();
}

#[tokio::test]
async fn a_damaged_history_stops_no_node_and_is_never_a_gap() {
    let mut seed = Seed::of_this_run("a_damaged_history");
    let mut cluster = little_in_memory().start().await;
    let (client, chronicle) = (cluster.client(), Chronicle::new());
    let (writer, followers) = cluster.leader_and_followers().await;
    let hit = followers[0];
    let reference = reference(&client, writer, &chronicle).await;
    let mut last = 0;
    for damage in ["deleted", "flipped", "cut"] {
        let first = register(&client, writer, "pay", damage).await;
        for i in 0..CHANGES {
            last = register(&client, writer, "pay", &format!("i{}", i % 9)).await;
        }
        cluster.settled().await;
        cluster.stop(hit).await;
        do_damage(&history_of(&cluster, hit), damage, &mut seed);
        cluster.start(hit, &[]);
        cluster.ready().await;
        let refused = ask_every_revision(&client, hit, first..=last, &chronicle).await;
        println!("{damage}: {refused} of {} revisions are refused", last - first + 1);
        let log = cluster.last_log(hit);
        let said: Vec<_> = log.lines().filter(|line| speaks_of_history(line)).collect();
        said.iter().for_each(|line| println!("  {line}"));
        match damage {
            "deleted" => assert!(refused > CHANGES / 4, "{refused} of what is gone"),
            _ => assert!(refused == 0 || !said.is_empty(), "{damage}: the log says nothing of it"),
        }
    }
    reference.ends_at(last).await;
    chronicle.check();
}

fn do_damage(history: &Path, damage: &str, seed: &mut Seed) {
    if damage == "deleted" {
        return fs::remove_dir_all(history).expect("it goes");
    }
    let files = files_in(history).into_iter().filter(|file| file.is_file());
    let largest = files.max_by_key(|file| length(file)).expect("a file");
    let cut_to = |bytes: u64| {
        let file = OpenOptions::new().write(true).open(&largest).expect("it can be opened");
        file.set_len(bytes).expect("it can be cut");
    };
    // Behind its beginning: without that it is an empty one.
    let written = written(&largest);
    let place = written / 4 + seed.below(written * 3 / 4);
    match damage {
        "flipped" => flip_a_bit(&largest, place),
        _ => cut_to(place as u64),
    }
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).expect("its length").len()
}

/// Up to where there is something in a file that is longer than what was written.
fn written(file: &Path) -> usize {
    let bytes = fs::read(file).expect("it can be read");
    bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1)
}

fn speaks_of_history(line: &str) -> bool {
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let warns = line["level"] == "WARN" || line["level"] == "ERROR";
    warns && line["message"].as_str().is_some_and(|message| message.contains("history"))
}
