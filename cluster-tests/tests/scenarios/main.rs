//! Scenarios over three real processes. Each test starts a cluster of its own, so they run beside
//! each other. A failed test prints the ends of its nodes' logs.

mod brake;
mod checkpoints;
mod departures;
mod documents;
mod first_start;
mod full_disks;
mod heartbeats;
mod latches;
mod leader_death;
mod loading;
mod logs;
mod metrics;
mod minorities;
mod pauses;
mod priorities;
mod reads;
mod replaced_disks;
mod restarts;
mod rings;
mod sentinel;
mod shard_sets;
mod soak;
mod start_up;
mod storms;
mod takeovers;
mod watches;
mod wrong_disks;

use std::path::{Path, PathBuf};

use cluster_tests::client::Client;
use cluster_tests::cluster::{Plan, READY_WITHIN};
use cluster_tests::faults::files_in;
use cluster_tests::wait::until;
use serde_json::Value;

/// Three nodes with default settings.
fn three_nodes() -> Plan {
    Plan::new(env!("CARGO_BIN_EXE_roster-under-test"))
}

/// Waits until `asked` sees another node vote.
async fn wait_until_voter(client: &Client, asked: u64, id: u64) {
    until("it is a voter", READY_WITHIN, async || {
        let seen = role(client, asked, id).await;
        match seen.as_deref() {
            Some("follower" | "leader") => Ok(()),
            _ => Err(format!("{seen:?}")),
        }
    })
    .await;
}

async fn role(client: &Client, asked: u64, of: u64) -> Option<String> {
    let cluster = client.at(asked).get("/v1/cluster").await.ok()?.json();
    let nodes: &Vec<Value> = cluster["nodes"].as_array()?;
    let node = nodes.iter().find(|node| node["id"] == of.to_string().as_str())?;
    node["role"].as_str().map(str::to_owned)
}

/// Whether there is a whole checkpoint in the folder.
fn has_checkpoint(folder: &Path) -> bool {
    newest_checkpoint(folder).is_some()
}

/// The index of the newest whole checkpoint.
fn newest_checkpoint(folder: &Path) -> Option<u64> {
    index_of_whole(&newest_checkpoint_file(folder)?)
}

/// The newest whole checkpoint. The spare beside it, and what is still being written, are none.
fn newest_checkpoint_file(folder: &Path) -> Option<PathBuf> {
    let files = if folder.exists() { files_in(folder) } else { Vec::new() };
    files.into_iter().rfind(|file| index_of_whole(file).is_some())
}

fn index_of_whole(file: &Path) -> Option<u64> {
    let name = file.file_name()?.to_str()?;
    name.strip_prefix("checkpoint-")?.strip_suffix(".roster")?.parse().ok()
}
