//! Operations over a small universe, so that the same shards and workers meet again and again.

use proptest::prelude::*;
use roster_storage::names::{InstanceId, Revision, ShardId};
use roster_storage::shards::{Group, Worker};

/// An operation of a shard set.
#[derive(Clone, Debug)]
pub enum Op {
    Up(InstanceId, Worker),
    Down(InstanceId),
    Add(ShardId),
    Del(ShardId),
    Release(InstanceId, ShardId, Revision),
    Force(ShardId),
    Copies(u8),
    Rebalance,
}

impl Op {
    pub fn carry_out(&self, group: &mut Group, at: Revision) {
        match self {
            Self::Up(id, worker) => group.up(id, worker.clone()),
            Self::Down(id) => group.down(at, id),
            Self::Add(id) => group.add(id),
            Self::Del(id) => group.del(id),
            Self::Release(worker, shard, grant) => {
                group.release(at, worker, shard, *grant);
            }
            Self::Force(id) => {
                group.force_release(at, id);
            }
            Self::Copies(copies) => group.set_copies(*copies),
            Self::Rebalance => {
                group.rebalance(at);
            }
        }
    }
}

pub fn worker(n: usize) -> InstanceId {
    format!("w{n}").parse().expect("a worker id")
}

pub fn shard(n: usize) -> ShardId {
    format!("pay/{n}").parse().expect("a shard id")
}

pub fn some_worker() -> impl Strategy<Value = InstanceId> {
    (0..5_usize).prop_map(worker)
}

pub fn some_shard() -> impl Strategy<Value = ShardId> {
    (0..12_usize).prop_map(shard)
}

pub fn up() -> impl Strategy<Value = Op> {
    let zone = prop_oneof!["", "a", "b"];
    (some_worker(), 1..=3_u16, zone, prop::bool::weighted(0.8)).prop_map(
        |(id, weight, zone, available)| Op::Up(id, Worker { weight, zone: zone.into(), available }),
    )
}

/// What the cluster decides about shards and plans, without its workers.
pub fn decision() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => some_shard().prop_map(Op::Add),
        2 => some_shard().prop_map(Op::Del),
        1 => (1..=3_u8).prop_map(Op::Copies),
        5 => Just(Op::Rebalance),
    ]
}
