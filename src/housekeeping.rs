//! What a node does by itself every now and then: looks at the free space, hands the leadership on
//! when its disk is full, and asks for checkpoints.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use tokio::time::{MissedTickBehavior, interval};

use crate::disk_guard::LOOK_EVERY;
use crate::leading::leading_term;
use crate::node::Running;
use crate::peers::Purpose;
use crate::raft::rpc::{StatusAnswer, path};

/// How long another node may take to say whether it has room.
const STATUS_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(500);

/// Runs until the node stops.
pub async fn keep_house(running: Arc<Running>) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        running.disk.look();
        if running.disk.writable().is_err() {
            hand_over(&running).await;
        } else {
            checkpoint_if_due(&running).await;
        }
    }
}

/// A leader without room asks the others and hands the leadership to one that has it.
pub async fn hand_over(running: &Running) {
    if leading_term(&running.raft).is_none() {
        return;
    }
    for target in running.other_voters() {
        let Some(link) = running.peers.link(&running.raft, target, Purpose::Status) else {
            continue;
        };
        let answer: Result<StatusAnswer, _> = link.call(path::STATUS, &(), STATUS_TIMEOUT).await;
        if answer.is_ok_and(|answer| answer.writable) {
            tracing::info!(to = target, "handing the leadership on");
            if let Err(fatal) = running.raft.trigger().transfer_leader(target).await {
                tracing::error!("Raft stopped: {fatal}");
            }
            return;
        }
    }
}

/// Each node a little later than the one before it, so that they do not all write at once.
async fn checkpoint_if_due(running: &Running) {
    let (applied, last) = {
        let metrics = running.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<_>| id.map_or(0, |id: roster_storage::raft_types::LogId| id.index);
        (index(metrics.last_applied), index(metrics.snapshot))
    };
    let every = running.config.checkpoint_every;
    let place = running.config.cluster.0.keys().filter(|id| **id < running.config.node_id).count();
    if applied.saturating_sub(last) >= every + every / 10 * place as u64
        && let Err(fatal) = running.raft.trigger().snapshot().await
    {
        tracing::error!("Raft stopped: {fatal}");
    }
}
