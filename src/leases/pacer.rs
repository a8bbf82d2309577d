//! The loop that paces the clients while this node leads: it asks all nodes each second what
//! heartbeats came in, has [`pacing`](super::pacing) say what clients should be told, and proposes
//! that. Nobody is told anything before it is applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use roster_storage::command::{Command, SetPace};
use roster_storage::limits::{HEARTBEATS_PER_TTL, STRETCHED_TTL_MS_MAX};
use roster_storage::names::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::pacing::{LATE_MS, Load, Pacing, PacingLimits};
use crate::config::Config;
use crate::leading::leading_term;
use crate::node::Running;

/// Between two looks at what came in.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Within this every client whose TTL can be lengthened beats once: the longest time between two
/// heartbeats, and a tenth for those who come later than asked, seconds.
const HEARD_BY_ALL_SECONDS: u64 =
    (STRETCHED_TTL_MS_MAX / HEARTBEATS_PER_TTL * 11 / 10).div_ceil(1_000);

/// The heartbeat calls that a node has taken since its start.
#[derive(Debug, Default)]
pub struct Calls {
    single: AtomicU64,
    batched: AtomicU64,
    late: AtomicU64,
    refused: AtomicU64,
}

/// How many heartbeats a call may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallForm {
    Single,
    Batched,
}

/// All that a node knows of its calls since its start; each only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    pub single: u64,
    pub batched: u64,
    /// Those that waited for long, or were refused.
    pub late: u64,
    pub refused: u64,
}

/// What a node tells of them; both only ever grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsSoFar {
    /// All, refused ones too. One call may carry many heartbeats.
    pub taken: u64,
    /// Those that waited for long, or were refused.
    pub late: u64,
}

impl Calls {
    /// A call has come.
    pub fn take(&self, form: CallForm) -> Taken<'_> {
        let counted = match form {
            CallForm::Single => &self.single,
            CallForm::Batched => &self.batched,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        Taken { calls: self, since: Instant::now(), refused: false }
    }

    pub fn so_far(&self) -> CallsSoFar {
        let CallCounts { single, batched, late, .. } = self.counts();
        CallsSoFar { taken: single + batched, late }
    }

    pub fn counts(&self) -> CallCounts {
        CallCounts {
            // Before the others, which are part of them.
            late: self.late.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            single: self.single.load(Ordering::Relaxed),
            batched: self.batched.load(Ordering::Relaxed),
        }
    }
}

/// A call that is on its way. It ends when this is dropped, where its client hangs up too: that alone
/// says nothing of how busy the cluster is, only how long it had waited by then.
#[derive(Debug)]
pub struct Taken<'a> {
    calls: &'a Calls,
    since: Instant,
    refused: bool,
}

impl Taken<'_> {
    /// When it came.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// It was not served, however soon that was told.
    pub fn refused(mut self) {
        self.refused = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.refused {
            self.calls.refused.fetch_add(1, Ordering::Relaxed);
        }
        if self.refused || self.since.elapsed() > Duration::from_millis(LATE_MS) {
            self.calls.late.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Runs until the node stops.
pub async fn keep(running: Arc<Running>) {
    let mut metrics = running.raft.server_metrics();
    loop {
        if let Some(term) = leading_term(&running.raft) {
            pace(&running, term).await;
        } else if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// One leadership.
async fn pace(running: &Running, term: u64) {
    let mut pacing = Pacing::new(limits(&running.config), told(running));
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut seen = calls_of_all(running).await;
    let mut looked = Instant::now();
    while leading_term(&running.raft) == Some(term) {
        ticks.tick().await;
        let now = calls_of_all(running).await;
        let load = load(&seen, &now, looked.elapsed());
        (seen, looked) = (now, Instant::now());
        let told = told(running);
        let wanted = pacing.second(load, told);
        if wanted != told {
            tracing::info!(
                term,
                told,
                wanted,
                calls = load.calls,
                late = load.late,
                "pacing clients"
            );
            propose(running, term, wanted).await;
        }
    }
}

fn limits(config: &Config) -> PacingLimits {
    PacingLimits {
        calls_per_second: config.heartbeat_rate,
        calm_seconds: config.pace_calm.as_secs().max(1),
        heard_by_all_seconds: HEARD_BY_ALL_SECONDS as usize,
    }
}

/// What clients are told now, percent.
fn told(running: &Running) -> u32 {
    running.published.load().catalog.pace().told_percent
}

/// How it went shows in what clients are told from then on.
async fn propose(running: &Running, term: u64, percent: u32) {
    let command = Command::Pace(SetPace { term, percent });
    if let Some(answer) = running.leading.submit(term, &command).await {
        drop(answer.await);
    }
}

/// Of the nodes that answer.
async fn calls_of_all(running: &Running) -> BTreeMap<NodeId, CallsSoFar> {
    let members: Vec<_> = running.members().into_keys().collect();
    let answers = join_all(members.iter().map(|id| running.ask_status(*id))).await;
    let told = members.into_iter().zip(answers);
    told.filter_map(|(id, answer)| Some((id, answer?.heartbeat_calls?))).collect()
}

/// What came in between two looks, per second. A node that did not answer both of them, or has
/// started in between, tells nothing of that time.
fn load(
    before: &BTreeMap<NodeId, CallsSoFar>,
    now: &BTreeMap<NodeId, CallsSoFar>,
    between: Duration,
) -> Load {
    let (taken, late) = now.iter().fold((0, 0), |(taken, late), (id, now)| {
        let before = before.get(id).copied().unwrap_or(*now);
        let more = now.taken.saturating_sub(before.taken);
        (taken + more, late + now.late.saturating_sub(before.late))
    });
    let per_second = |count: u64| (count as f64 / between.as_secs_f64().max(0.001)).ceil() as u64;
    Load { calls: per_second(taken), late: per_second(late) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(node: NodeId, taken: u64, late: u64) -> (NodeId, CallsSoFar) {
        (node, CallsSoFar { taken, late })
    }

    #[test]
    fn what_came_in_is_counted_over_all_nodes_and_per_second() {
        let before = [told(1, 1_000, 10), told(2, 500, 0)].into();
        let now = [told(1, 1_600, 20), told(2, 700, 0)].into();
        let load = load(&before, &now, Duration::from_secs(2));
        assert_eq!(load, Load { calls: 400, late: 5 });
    }

    #[test]
    fn a_node_that_started_or_was_silent_meanwhile_adds_nothing() {
        let before = [told(1, 1_000, 10), told(3, 9, 9)].into();
        let now = [told(1, 5, 0), told(2, 1_000_000, 0)].into();
        assert_eq!(load(&before, &now, LOOK_EVERY), Load::default());
    }

    #[test]
    fn a_call_is_late_that_waits_for_long_or_is_refused() {
        let calls = Calls::default();
        drop(calls.take(CallForm::Single));
        assert_eq!(calls.so_far(), CallsSoFar { taken: 1, late: 0 });
        calls.take(CallForm::Batched).refused();
        assert_eq!(calls.so_far(), CallsSoFar { taken: 2, late: 1 });
        let counts = CallCounts { single: 1, batched: 1, late: 1, refused: 1 };
        assert_eq!(calls.counts(), counts);
    }

    #[test]
    fn a_client_that_hangs_up_makes_a_call_late_only_if_it_had_waited_for_long() {
        let calls = Calls::default();
        for _ in 0..11 {
            drop(calls.take(CallForm::Single));
        }
        assert_eq!(calls.so_far(), CallsSoFar { taken: 11, late: 0 });
        let mut waited = calls.take(CallForm::Single);
        waited.since = Instant::now() - Duration::from_millis(LATE_MS + 1);
        drop(waited);
        assert_eq!(calls.so_far(), CallsSoFar { taken: 12, late: 1 });
    }
}
