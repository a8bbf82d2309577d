//! What would move if workers came or went, and whom to stop when there are too many.

use std::collections::BTreeSet;

use super::{Changed, Group, Shard, Worker};
use crate::names::{InstanceId, ShardId};

/// What a change of workers would move. Nothing of it happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Simulation {
    /// In the order of shard ids.
    pub moves: Vec<Move>,
    /// How many shards workers that stay would have to give up.
    pub voluntary: usize,
    /// How many they must give up in any plan that is as even.
    pub fewest: usize,
    /// In the order of ids, all workers before and after.
    pub loads: Vec<LoadChange>,
}

/// A shard that would be planned on another worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub shard: ShardId,
    pub from: Option<InstanceId>,
    pub to: Option<InstanceId>,
}

/// How many shards are planned on a worker; 0 where it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadChange {
    pub worker: InstanceId,
    pub before: usize,
    pub after: usize,
}

impl Group {
    /// What the next plan would move if these workers left and joined now. Who joins and is here
    /// already changes its properties. Compared with what is planned now, so whatever waits for
    /// the next plan anyway is among the moves.
    pub fn simulate(&self, join: &[(InstanceId, Worker)], leave: &[InstanceId]) -> Simulation {
        let at = self.epoch();
        let mut after = self.clone();
        for worker in leave {
            after.down(at, worker);
        }
        for (id, worker) in join {
            after.up(id, worker.clone());
        }
        let replanned = after.replanned();
        after.rebalance(at);
        let moves = after.take_changes().into_iter().filter_map(moved).collect();
        Simulation {
            moves,
            voluntary: replanned.voluntary,
            fewest: replanned.fewest,
            loads: load_changes(self, &after),
        }
    }

    /// The workers to stop when there are `count` too many: those first that the plan does not see,
    /// then those with the fewest shards planned on them, then by id.
    pub fn victims(&self, count: usize) -> Vec<InstanceId> {
        let mut workers: Vec<(bool, usize, &InstanceId)> =
            self.workers().map(|(id, worker)| (worker.available, self.load(id), id)).collect();
        workers.sort_unstable();
        workers.into_iter().take(count).map(|(_, _, id)| id.clone()).collect()
    }
}

fn moved(changed: Changed) -> Option<Move> {
    let planned = |record: &Option<Shard>| record.as_ref().and_then(Shard::planned).cloned();
    let (from, to) = (planned(&changed.before), planned(&changed.now));
    (from != to).then_some(Move { shard: changed.shard, from, to })
}

fn load_changes(before: &Group, after: &Group) -> Vec<LoadChange> {
    let workers: BTreeSet<&InstanceId> =
        before.workers().chain(after.workers()).map(|(id, _)| id).collect();
    workers
        .into_iter()
        .map(|id| LoadChange { worker: id.clone(), before: before.load(id), after: after.load(id) })
        .collect()
}
