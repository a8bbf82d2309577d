//! What a node does by itself every now and then: looks at the free space, hands the leadership on
//! when its disk is full, asks for checkpoints, and as leader makes voters of learners that have
//! caught up.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use roster_storage::names::NodeId;
use roster_storage::raft_types::{LogId, TypeConfig};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::disk_guard::LOOK_EVERY;
use crate::leading::leading_term;
use crate::node::Running;

type Fatal = openraft::errors::Fatal<TypeConfig>;

/// How often a node makes sure that a leader answers it.
const SERVICE_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

/// Election timeouts within which a leader must answer: an election is no reason to leave a node.
const SERVICE_WITHIN: u32 = 4;

/// How often a leader looks for learners to make voters.
const MEMBERS_EVERY: std::time::Duration = std::time::Duration::from_millis(250);

/// A learner that lacks fewer entries has caught up: a busy leader writes as many in under a second.
const CAUGHT_UP_WITHIN: u64 = 2_000;

/// A log that grows by less from look to look, for so many looks, is not worth its memory: whoever
/// lags then reads it from the disk, and holds nobody up.
const QUIET_BYTES: u64 = 64 << 10;
const QUIET_LOOKS: u32 = 40;

/// Of the room that is left to a node that takes no writes, so much is not for a checkpoint: votes
/// are written too.
const VOTES_ROOM: u64 = 16 << 20;

/// Runs until the node stops.
pub async fn keep_house(running: Arc<Running>) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut growth = Growth::default();
    let mut was_writable = true;
    let mut newest = running.checkpoints.newest().map(|checkpoint| checkpoint.index());
    loop {
        looks.tick().await;
        running.disk.look();
        growth.look(running.log.bytes());
        tell_of_checkpoint(&running, &mut newest);
        if growth.quiet_looks == QUIET_LOOKS {
            running.log.forget_cached();
        }
        let writable = running.disk.writable().is_ok();
        let done = if writable {
            checkpoint_if_due(&running, &mut growth).await
        } else {
            hand_over(&running).await;
            make_room(&running, &mut growth, was_writable).await
        };
        was_writable = writable;
        if let Err(fatal) = done {
            // The node ends with this reason; see the start.
            tracing::debug!("Raft stopped: {fatal}");
        }
    }
}

/// `told`: the index of the last one that was told of.
fn tell_of_checkpoint(running: &Running, told: &mut Option<u64>) {
    let Some(newest) = running.checkpoints.newest() else { return };
    let index = newest.index();
    if *told != Some(index) {
        *told = Some(index);
        let (term, applied) = (running.term(), running.applied());
        tracing::info!(index, bytes = newest.bytes, term, applied, "there is a new checkpoint");
    }
}

/// What the log grew by since a checkpoint was asked for, added up look by look: a purge takes off
/// what is older.
#[derive(Debug, Default)]
struct Growth {
    bytes: u64,
    seen: u64,
    /// Looks in a row that found little new.
    quiet_looks: u32,
}

impl Growth {
    fn look(&mut self, log_bytes: u64) {
        let new = log_bytes.saturating_sub(self.seen);
        self.bytes += new;
        self.seen = log_bytes;
        self.quiet_looks = if new < QUIET_BYTES { self.quiet_looks.saturating_add(1) } else { 0 };
    }
}

/// Indexes that say what a checkpoint would hold and what a purge would remove.
struct Progress {
    applied: u64,
    checkpoint: u64,
    purged: u64,
}

impl Progress {
    fn of(running: &Running) -> Self {
        let metrics = running.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        Self {
            applied: index(metrics.last_applied),
            checkpoint: index(metrics.snapshot),
            purged: index(metrics.purged),
        }
    }
}

/// A leader that cannot go on asks the others and hands the leadership to one that can. `false` if there
/// is none.
pub async fn hand_over(running: &Running) -> bool {
    if leading_term(&running.raft).is_none() {
        return false;
    }
    for target in running.other_voters() {
        if running.ask_status(target).await.is_some_and(|answer| answer.can_lead) {
            let (term, applied) = (running.term(), running.applied());
            tracing::info!(to = target, term, applied, "handing the leadership on");
            running.leading.hand_to(target).await;
            return true;
        }
    }
    false
}

/// After so many entries or so much log, each node a little later than the one before it, so that
/// they do not all write at once. So much log is at least as much as the newest checkpoint is large: a
/// large state that grows is written about twice in all, and not again for each part of it. Entries that
/// are kept behind a checkpoint for slow nodes go too if they alone are larger than what is written
/// between two.
async fn checkpoint_if_due(running: &Running, growth: &mut Growth) -> Result<(), Fatal> {
    let progress = Progress::of(running);
    let staggered = |every: u64| every + every / 10 * running.config.place();
    let newest = running.checkpoints.newest().map_or(0, |checkpoint| checkpoint.bytes);
    let limit = running.config.checkpoint_every_bytes.max(newest);
    let new = progress.applied.saturating_sub(progress.checkpoint);
    if new >= staggered(running.config.checkpoint_every)
        || (new > 0 && growth.bytes >= staggered(limit))
    {
        growth.bytes = 0;
        running.raft.trigger().snapshot().await?;
    }
    if growth.seen >= limit.saturating_mul(2) {
        purge(running, &progress).await?;
    }
    Ok(())
}

/// A node that takes no writes: one checkpoint if there is room for it, and neither log nor spare room
/// behind it.
async fn make_room(
    running: &Running,
    growth: &mut Growth,
    was_writable: bool,
) -> Result<(), Fatal> {
    let progress = Progress::of(running);
    if was_writable && progress.applied > progress.checkpoint {
        let newest = running.checkpoints.newest().map_or(0, |checkpoint| checkpoint.bytes);
        // The state is the last checkpoint and what the log added to it, or less.
        let needed = newest.saturating_add(growth.bytes).saturating_add(VOTES_ROOM);
        let spare = running.checkpoints.spare_bytes();
        if running.disk.free_bytes().is_ok_and(|free| free.saturating_add(spare) >= needed) {
            growth.bytes = 0;
            running.raft.trigger().snapshot().await?;
        } else {
            tracing::warn!(
                needed_mib = needed >> 20,
                "there is no room for a checkpoint, so the log cannot be made shorter"
            );
        }
    }
    // The last checkpoint needed the room of the one before it; the next one is far off.
    if !was_writable && let Err(e) = running.checkpoints.give_up_spare() {
        tracing::warn!("the room of an old checkpoint cannot be given back: {e}");
    }
    purge(running, &progress).await
}

/// Removes the log up to the checkpoint.
async fn purge(running: &Running, progress: &Progress) -> Result<(), Fatal> {
    if progress.purged < progress.checkpoint {
        running.raft.trigger().purge_log(progress.checkpoint).await?;
    }
    Ok(())
}

/// Runs until the node stops. A loop of its own, since a change waits for a majority.
pub async fn keep_members(running: Arc<Running>) {
    let mut looks = interval(MEMBERS_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(wanted) = voters_to_add(&running) else { continue };
        let (term, applied) = (running.term(), running.applied());
        tracing::info!(nodes = ?wanted, term, applied, "making voters of the members that have caught up");
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
        running.leaders.note(answered);
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

#[cfg(test)]
mod tests {
    use super::{Growth, QUIET_BYTES, QUIET_LOOKS};

    #[test]
    fn a_purge_takes_nothing_off_what_was_written_since() {
        let mut growth = Growth::default();
        growth.look(100);
        assert_eq!(growth.bytes, 100);
        growth.bytes = 0;
        growth.look(150);
        // The 100 from before the checkpoint go.
        growth.look(50);
        growth.look(70);
        assert_eq!(growth.bytes, 70);
    }

    #[test]
    fn a_log_is_quiet_when_little_came_for_many_looks_in_a_row() {
        let mut growth = Growth::default();
        (0..QUIET_LOOKS).for_each(|_| growth.look(100));
        assert_eq!(growth.quiet_looks, QUIET_LOOKS);
        growth.look(100 + QUIET_BYTES);
        assert_eq!(growth.quiet_looks, 0);
    }
}
