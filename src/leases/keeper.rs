//! The loop that keeps the leases of a leader: opens the table when a leadership begins, has removals
//! take their turn, and lets cluster time pass where nobody writes.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use roster_storage::command::Command;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::SLOT_MS;
use super::removals::Removals;
use crate::leading::leading_term;
use crate::node::Running;

/// Between two tries to confirm a leadership that just began.
const OPENING_RETRY: Duration = Duration::from_millis(10);

/// Runs until the node stops.
pub async fn keep(running: Arc<Running>) {
    let mut metrics = running.raft.server_metrics();
    loop {
        if let Some(term) = leading_term(&running.raft) {
            lead(&running, term).await;
            running.leases.close();
        } else if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// One leadership, from its first read index to its end.
async fn lead(running: &Arc<Running>, term: u64) {
    if !first_read_index_applied(running, term).await {
        return;
    }
    let mut clock = running.leases.clock.ticks();
    let lease_ms = running.config.timings.election_max.as_millis() as u64;
    let table = running.leases.open(term, &running.published, lease_ms).await;
    let applied = running.applied();
    tracing::info!(term, applied, sessions = table.len(), "leading; leases are open");
    let mut removals = Removals::resume(running, &table, running.leases.clock.now()).await;
    let mut ticks = interval(Duration::from_millis(SLOT_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while leading_term(&running.raft) == Some(term) {
        ticks.tick().await;
        // Rule 5: while the leadership is not confirmed the clock does not tick, so all that time
        // counts as our own delay once it is confirmed again.
        match running.leading.confirm().await {
            Ok(confirmed) if confirmed.term == term => {}
            Ok(_) => return,
            Err(_) => continue,
        }
        removals.turn(&mut clock).await;
        let_time_pass(running, term).await;
    }
}

/// Returns whether the node still leads once it is.
async fn first_read_index_applied(running: &Running, term: u64) -> bool {
    while leading_term(&running.raft) == Some(term) {
        if let Ok(linearizer) = running.leading.first_read_index().await
            && linearizer.read_log_id().committed_leader_id().term == term
            && linearizer.await_ready(&running.raft).await.is_ok()
        {
            return true;
        }
        sleep(OPENING_RETRY).await;
    }
    false
}

/// Proposes a tick when something falls due in cluster time and nobody else writes.
async fn let_time_pass(running: &Running, term: u64) {
    let Some(stamp) = running.leading.stamp() else { return };
    let version = running.published.load();
    if version.catalog.next_due_ms().is_some_and(|due| due <= stamp.cluster_ms)
        && let Some(answer) = running.leading.submit(term, &Command::Tick).await
    {
        // How it went shows in the next tick.
        drop(answer.await);
    }
}
