//! The first start of a cluster, and what may come in between.

use std::fs;
use std::time::{Duration, Instant};

use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::faults::files_in;
use cluster_tests::seed::Seed;
use cluster_tests::wait::until;
use serde_json::Value;

use crate::three_nodes;

/// Times that all three are killed before they may make their cluster.
const KILLS: usize = 8;

/// A first start takes less, so a kill comes before, in the middle of or just after it.
const KILLED_WITHIN_MS: usize = 900;

#[tokio::test]
async fn nodes_that_are_killed_again_and_again_at_first_start_make_one_cluster() {
    let mut seed = Seed::of_this_run("killed_at_first_start");
    let mut cluster = three_nodes().lay_out();
    for _ in 0..KILLS {
        cluster.start_all();
        let after = Duration::from_millis(seed.below(KILLED_WITHIN_MS) as u64);
        tokio::time::sleep(after).await;
        println!("killed after {after:?}, of a cluster: {:?}", cluster_ids(&cluster));
        cluster.kill_all();
    }
    cluster.start_all();
    cluster.ready().await;
    let ids = cluster_ids(&cluster);
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    cluster.client().at(2).register("pay", "i1", "1m").await.expect("it takes writes");
}

/// From the moment that a node says that it has a log a folder without one is refused; so the log
/// must be there by then.
#[tokio::test]
async fn a_node_that_is_killed_when_its_log_begins_starts_again() {
    for _ in 0..5 {
        let mut cluster = three_nodes().nodes(1).lay_out();
        cluster.start(1, &[]);
        let begun = Instant::now();
        while identity(&cluster, 1).is_none_or(|identity| identity["log_begun"] != true) {
            assert!(begun.elapsed() < READY_WITHIN, "no log:\n{}", cluster.last_log(1));
        }
        cluster.kill(1);
        let log = cluster.data_dir(1).join("log");
        assert!(log.is_dir() && !files_in(&log).is_empty(), "it has no log");
        cluster.start(1, &[]);
        cluster.ready().await;
    }
}

/// Nobody else may make the first entry, so waiting would be for ever.
#[tokio::test]
async fn a_maker_whose_disk_is_emptied_before_the_first_entry_says_what_to_do() {
    let mut cluster = three_nodes().start().await;
    cluster.kill_all();
    cluster.wipe(1);
    for id in [2, 3] {
        without_log(&cluster, id);
    }
    for id in [2, 3] {
        cluster.start(id, &[]);
    }
    cluster.start(1, &["--replace-disk"]);
    let client = cluster.client();
    until("it says what to do", READY_WITHIN, async || {
        let not_ready = client.at(1).ready().await.expect_err("it is not ready");
        let detail = &not_ready.problem().detail;
        match detail.contains("move their data folders away") {
            true => Ok(()),
            false => Err(detail.clone()),
        }
    })
    .await;
    cluster.kill_all();
    for id in cluster.ids() {
        cluster.wipe(id);
    }
    cluster.start_all();
    cluster.ready().await;
}

/// A node that wrote the cluster down and had no entry yet.
fn without_log(cluster: &Cluster, id: u64) {
    let mut identity = identity(cluster, id).expect("it has one");
    identity["log_begun"] = false.into();
    let folder = cluster.data_dir(id);
    fs::write(folder.join("identity.json"), identity.to_string()).expect("it is written");
    for part in ["log", "checkpoints"] {
        fs::remove_dir_all(folder.join(part)).expect("it goes");
    }
}

fn identity(cluster: &Cluster, id: u64) -> Option<Value> {
    let bytes = fs::read(cluster.data_dir(id).join("identity.json")).ok()?;
    Some(serde_json::from_slice(&bytes).expect("an identity is whole or not there"))
}

fn cluster_ids(cluster: &Cluster) -> Vec<Option<String>> {
    let id = |node| Some(identity(cluster, node)?["cluster"]["id"].as_str()?.to_owned());
    cluster.ids().into_iter().map(id).collect()
}
