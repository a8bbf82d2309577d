//! Who leads, as this node sees it: told in the log and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::async_runtime::WatchReceiver;
use roster_storage::names::NodeId;

use crate::node::Running;

/// How often another leader, or none, was seen.
#[derive(Debug, Default)]
pub struct Leaders {
    changes: AtomicU64,
}

impl Leaders {
    /// Since the start, the first leader that was seen among them.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }
}

/// Runs until the node stops.
pub async fn follow(running: Arc<Running>) {
    let mut metrics = running.raft.server_metrics();
    let mut known: Option<(NodeId, u64)> = None;
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            metrics.current_leader.map(|leader| (leader, metrics.vote.leader_id.term))
        };
        if now != known {
            tell(&running, known, now);
            known = now;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

fn tell(running: &Running, before: Option<(NodeId, u64)>, now: Option<(NodeId, u64)>) {
    let applied = running.applied();
    match now {
        Some((leader, term)) => {
            running.leaders.changes.fetch_add(1, Ordering::Relaxed);
            tracing::info!(leader, term, applied, "a node leads");
        }
        None => {
            let before = before.map(|(leader, _)| leader);
            tracing::info!(before, applied, "no leader is known");
        }
    }
}
