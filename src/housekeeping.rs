//! What a node does by itself every now and then: looks at the free space, hands the leadership on
//! when its disk is full, asks for checkpoints, and as leader makes voters of learners that have
//! caught up.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use roster_storage::names::NodeId;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::disk_guard::LOOK_EVERY;
use crate::leading::leading_term;
use crate::node::Running;

/// How often a node makes sure that a leader answers it.
const SERVICE_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

/// Election timeouts within which a leader must answer: an election is no reason to leave a node.
const SERVICE_WITHIN: u32 = 4;

/// How often a leader looks for learners to make voters.
const MEMBERS_EVERY: std::time::Duration = std::time::Duration::from_millis(250);

/// A learner that lacks fewer entries has caught up: a busy leader writes as many in under a second.
const CAUGHT_UP_WITHIN: u64 = 2_000;

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
        if running.ask_status(target).await.is_some_and(|answer| answer.writable) {
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
    if applied.saturating_sub(last) >= every + every / 10 * running.config.place()
        && let Err(fatal) = running.raft.trigger().snapshot().await
    {
        tracing::error!("Raft stopped: {fatal}");
    }
}

/// Runs until the node stops. A loop of its own, since a change waits for a majority.
pub async fn keep_members(running: Arc<Running>) {
    let mut looks = interval(MEMBERS_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(wanted) = voters_to_add(&running) else { continue };
        tracing::info!(nodes = ?wanted, "making voters of the members that have caught up");
        let change = ChangeMembers::AddVoterIds(wanted);
        if let Err(e) = running.raft.change_membership(change, false).await {
            tracing::warn!("the members could not be changed: {e}");
        }
    }
}

/// Runs until the node stops. Asks for a read index now and then: a leader that is known may be dead
/// or without a majority, and a node that it does not answer should get no requests.
pub async fn watch_service(running: Arc<Running>) {
    let mut looks = interval(SERVICE_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let limit = running.config.timings.election_max * SERVICE_WITHIN;
    loop {
        looks.tick().await;
        let answered = match timeout(limit, running.forward.read_index()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(why)) => Err(why.to_string()),
            Err(_) => Err(format!("no leader with a majority has answered within {limit:?}")),
        };
        *running.leader_answers.write() = answered;
    }
}

/// As leader: the learners that have caught up; none of them, but still a change to make, if an
/// earlier leader left one half done. `None`: nothing to do.
fn voters_to_add(running: &Running) -> Option<BTreeSet<NodeId>> {
    leading_term(&running.raft)?;
    let metrics = running.raft.metrics();
    let metrics = metrics.borrow_watched();
    if metrics.membership_config != metrics.committed_membership_config {
        return None;
    }
    let membership = metrics.membership_config.membership();
    let last = metrics.last_log_index.unwrap_or(0);
    let caught_up = |id: &NodeId| {
        let matched = metrics.replication.as_ref()?.get(id)?.as_ref()?.index;
        (last.saturating_sub(matched) < CAUGHT_UP_WITHIN).then_some(*id)
    };
    let learners: BTreeSet<_> = membership.learner_ids().filter_map(|id| caught_up(&id)).collect();
    let half_done = membership.get_joint_config().len() > 1;
    (half_done || !learners.is_empty()).then_some(learners)
}
