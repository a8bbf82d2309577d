//! Proposes, as leader, that shard sets are planned anew when what their plans rest on has changed.
//!
//! Changes are gathered: after the first loss (shards without a holder) one waits 200 ms, after the
//! first gain (a worker, a shard, a release) 1 s, so that a thousand registrations cost one plan. What
//! the plan is follows from the state alone, in apply; only *when* is decided here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use roster_storage::command::{Command, Rebalance};
use roster_storage::names::ShardSetName;
use roster_storage::shards::Unplanned;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::leading::leading_term;
use crate::node::Running;

/// How often a leader looks for changes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What [`Delays`] are by default.
pub const AFTER_LOSS: Duration = Duration::from_millis(200);
pub const AFTER_GAIN: Duration = Duration::from_secs(1);

/// Between the first change that a plan does not know and the next plan.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    pub after_loss: Duration,
    pub after_gain: Duration,
}

/// Runs until the node stops.
pub async fn keep(running: Arc<Running>) {
    let mut metrics = running.raft.server_metrics();
    loop {
        if let Some(term) = leading_term(&running.raft) {
            lead(&running, term).await;
        } else if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// One leadership: at most one plan is on its way.
async fn lead(running: &Running, term: u64) {
    let delays = running.config.rebalance;
    let mut waiting = Waiting::default();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while leading_term(&running.raft) == Some(term) {
        looks.tick().await;
        let version = running.published.load();
        let unplanned = version
            .catalog
            .shard_sets()
            .filter_map(|(name, set)| Some((name, set.group.unplanned()?)));
        let sets = waiting.due(Instant::now(), delays, unplanned);
        if sets.is_empty() {
            continue;
        }
        let command = Command::Rebalance(Rebalance { sets });
        if let Some(answer) = running.leading.submit(term, &command).await {
            // How it went shows in the next look.
            drop(answer.await);
        }
    }
}

/// Since when each set waits for a plan.
#[derive(Debug, Default)]
struct Waiting(BTreeMap<ShardSetName, Since>);

#[derive(Clone, Copy, Debug)]
struct Since {
    change: Instant,
    loss: Option<Instant>,
}

impl Waiting {
    /// The sets to plan now. They wait anew from the next look on, if they still have to.
    fn due<'a>(
        &mut self,
        now: Instant,
        delays: Delays,
        unplanned: impl Iterator<Item = (&'a ShardSetName, Unplanned)>,
    ) -> Vec<ShardSetName> {
        let before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for (name, what) in unplanned {
            let known = before.get(name).copied();
            let mut since = known.unwrap_or(Since { change: now, loss: None });
            match what {
                Unplanned::Loss => since.loss = since.loss.or(Some(now)),
                Unplanned::Gain => {}
            }
            let over = |since: Instant, delay| now.duration_since(since) >= delay;
            if over(since.change, delays.after_gain)
                || since.loss.is_some_and(|loss| over(loss, delays.after_loss))
            {
                due.push(name.clone());
            } else {
                self.0.insert(name.clone(), since);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAYS: Delays = Delays { after_loss: AFTER_LOSS, after_gain: AFTER_GAIN };

    fn looks(at_ms: &[(u64, Option<Unplanned>)]) -> Vec<u64> {
        let set: ShardSetName = "poll".parse().expect("a name");
        let (begin, mut waiting) = (Instant::now(), Waiting::default());
        let mut planned = Vec::new();
        for (ms, unplanned) in at_ms {
            let now = begin + Duration::from_millis(*ms);
            let each = unplanned.iter().map(|unplanned| (&set, *unplanned));
            if !waiting.due(now, DELAYS, each).is_empty() {
                planned.push(*ms);
            }
        }
        planned
    }

    #[test]
    fn gains_are_gathered_for_longer_than_losses() {
        let gains: Vec<_> = (0..1_100).step_by(20).map(|ms| (ms, Some(Unplanned::Gain))).collect();
        assert_eq!(looks(&gains), [1_000]);
        let losses: Vec<_> = (0..250).step_by(20).map(|ms| (ms, Some(Unplanned::Loss))).collect();
        assert_eq!(looks(&losses), [200]);
    }

    #[test]
    fn a_loss_hurries_a_gain_that_waits() {
        use Unplanned::{Gain, Loss};
        let mixed = [(0, Gain), (300, Loss), (480, Loss), (500, Loss)];
        assert_eq!(looks(&mixed.map(|(ms, what)| (ms, Some(what)))), [500]);
    }

    #[test]
    fn what_needs_no_plan_any_more_waits_for_none() {
        use Unplanned::Gain;
        let some = [(0, Some(Gain)), (500, None), (1_000, Some(Gain)), (1_900, Some(Gain))];
        assert_eq!(looks(&some), [0; 0]);
    }
}
