//! Shard sets: every shard has one worker, and no shard has two.

mod handoff;
mod mass;
mod story;

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_tests::client::At;
use cluster_tests::sets::{Counts, SetShard, counts, shards};
use cluster_tests::wait::until;

/// How long a plan may take to come and to be carried out, on a busy machine.
const PLANNED_WITHIN: Duration = Duration::from_secs(20);

/// Waits until each shard is held, and nothing is to be moved or let go.
async fn all_is_held(at: &At<'_>, set: &str, shards: usize, workers: usize) {
    let wanted = Counts { shards, assigned: shards, pending: 0, orphaned: 0, gone: 0, workers };
    until("all shards are held", PLANNED_WITHIN, async || {
        let now = counts(at, set).await.map_err(|e| e.to_string())?;
        if now == wanted { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

/// How many shards each worker holds.
fn loads(shards: &[SetShard]) -> BTreeMap<&str, usize> {
    let mut loads = BTreeMap::new();
    for holder in shards.iter().filter_map(|shard| shard.holder.as_deref()) {
        *loads.entry(holder).or_default() += 1;
    }
    loads
}

/// Whether each of so many workers has its share of the shards, rounded down or up.
fn are_even(shards: &[SetShard], workers: usize) -> bool {
    let loads = loads(shards);
    let (least, most) = (shards.len() / workers, shards.len().div_ceil(workers));
    loads.len() == workers && loads.values().all(|load| (least..=most).contains(load))
}

/// The shards of a set by id.
async fn by_id(at: &At<'_>, set: &str) -> BTreeMap<String, SetShard> {
    let shards = shards(at, set).await.expect("shards");
    shards.into_iter().map(|shard| (shard.shard.clone(), shard)).collect()
}
