//! Shortens the outage after a leader's death. A follower keeps a connection to the leader; when the
//! leader's process dies its kernel ends that connection at once, long before an election timeout.
//! The follower then asks for a pre-vote every few milliseconds until a leader is known. That is
//! harmless while the leader lives after all: nobody grants a vote while the lease holds.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use roster_storage::names::NodeId;
use tokio::time::{Instant, sleep};

use crate::leading::known_leader;
use crate::node::Running;
use crate::peers::Purpose;
use crate::raft::leader_becomes;
use crate::raft::link::{CallError, Link};

/// Between two pre-votes of the lowest node; the others wait a little longer, so that they do not
/// split the vote.
const STEP: Duration = Duration::from_millis(10);
const STAGGER: Duration = Duration::from_millis(5);

/// A leader that is not replaced within so long was not dead, or no majority is there to vote;
/// openraft's own timeouts take over.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3);

/// Between two tries to reach the leader again.
const RECONNECT: Duration = Duration::from_millis(100);

/// Runs until the node stops.
pub async fn watch_leader(running: Arc<Running>) {
    let mut metrics = running.raft.server_metrics();
    loop {
        let leader = known_leader(&running.raft);
        let link = leader
            .filter(|leader| *leader != running.config.node_id)
            .and_then(|leader| running.peers.link(&running.raft, leader, Purpose::Status));
        match (leader, link) {
            (Some(leader), Some(link)) => follow(&running, leader, &link).await,
            (None, _) | (_, None) => {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Returns when the leader changed or its connection ended.
async fn follow(running: &Running, leader: NodeId, link: &Link) {
    let mut endings = link.endings();
    match link.connect().await {
        Ok(()) => {
            tokio::select! {
                _ = endings.changed() => {}
                _ = leader_becomes(&running.raft, |known| known != Some(leader)) => return,
            }
            tracing::info!(leader, "the connection to the leader ended");
        }
        Err(CallError::NotSent(why)) => tracing::debug!("{why}"),
        Err(CallError::Refused(_) | CallError::Unknown(_) | CallError::Unanswered(_)) => {}
    }
    if running.since.elapsed() > running.config.timings.election_max {
        nudge(running, leader, link).await;
    } else {
        sleep(RECONNECT).await;
    }
}

async fn nudge(running: &Running, leader: NodeId, link: &Link) {
    let step = STEP + STAGGER * running.config.place() as u32;
    let begun = Instant::now();
    while begun.elapsed() < GIVE_UP_AFTER {
        match known_leader(&running.raft) {
            Some(known) if known != leader => return,
            Some(_) | None => {}
        }
        if link.connect().await.is_ok() {
            return sleep(RECONNECT).await;
        }
        if running.raft.trigger().elect(true).await.is_err() {
            return;
        }
        sleep(step).await;
    }
}
