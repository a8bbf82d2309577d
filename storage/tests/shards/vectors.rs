//! The published vectors of plans and groups. Whoever writes another implementation has the same.

use std::collections::{BTreeMap, BTreeSet};

use roster_storage::names::{InstanceId, Revision, ShardId};
use roster_storage::shards::{Group, Input, Member, Shard, Worker, plan, standbys};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    plans: Vec<PlanVector>,
    groups: Vec<GroupVector>,
}

#[derive(Deserialize)]
struct PlanVector {
    shards: BTreeSet<ShardId>,
    /// Weight and zone.
    workers: BTreeMap<InstanceId, (u16, String)>,
    planned: BTreeMap<ShardId, InstanceId>,
    soft: BTreeSet<ShardId>,
    copies: u8,
    seed: u64,
    expect: BTreeMap<ShardId, InstanceId>,
    moves: usize,
    standbys: BTreeMap<ShardId, Vec<InstanceId>>,
}

#[derive(Deserialize)]
struct GroupVector {
    copies: u8,
    seed: u64,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    index: Revision,
    ops: Vec<serde_json::Value>,
    epoch: Revision,
    shards: BTreeMap<ShardId, Record>,
}

/// Holder, grant, next, gone.
type Record = (Option<InstanceId>, Revision, Option<InstanceId>, bool);

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../vectors/ring.json")).expect("the vectors can be read")
}

/// How many shards a worker of the plan has to give up.
fn given_up(input: &Input, target: &BTreeMap<ShardId, InstanceId>) -> usize {
    let stays = |shard: &ShardId, worker: &InstanceId| target.get(shard) == Some(worker);
    let counts = |(shard, worker): &(&ShardId, &InstanceId)| {
        input.shards.contains(*shard)
            && input.workers.contains_key(*worker)
            && !stays(shard, worker)
    };
    input.planned.iter().filter(counts).count()
}

#[test]
fn plans_and_standbys_are_those_of_the_vectors() {
    let vectors = vectors();
    assert!(!vectors.plans.is_empty());
    for (n, vector) in vectors.plans.into_iter().enumerate() {
        let member = |(weight, zone): (u16, String)| Member { weight, zone: zone.into() };
        let input = Input {
            shards: vector.shards,
            workers: vector.workers.into_iter().map(|(id, w)| (id, member(w))).collect(),
            planned: vector.planned,
            soft: vector.soft,
            copies: vector.copies,
            seed: vector.seed,
        };
        let target = plan(&input);
        assert_eq!(target, vector.expect, "plan {n}");
        assert_eq!(given_up(&input, &target), vector.moves, "moves of plan {n}");
        for (shard, expected) in vector.standbys {
            let standbys = standbys(&input, &shard, target.get(&shard));
            assert_eq!(standbys, expected, "standbys of {shard} in plan {n}");
        }
    }
}

fn carry_out(group: &mut Group, at: Revision, op: &serde_json::Value) {
    let text = |n: usize| op[n].as_str().expect("a text");
    let worker = |n| text(n).parse::<InstanceId>().expect("a worker");
    let shard = |n| text(n).parse::<ShardId>().expect("a shard");
    let number = |n: usize| op[n].as_u64().expect("a number");
    match text(0) {
        "up" => {
            let weight = u16::try_from(number(2)).expect("a weight");
            group.up(&worker(1), Worker { weight, zone: text(3).into(), available: true });
        }
        "down" => group.down(at, &worker(1)),
        "add" => group.add(&shard(1)),
        "del" => group.del(&shard(1)),
        "release" => {
            group.release(at, &worker(1), &shard(2), Revision(number(3)));
        }
        "rebalance" => {
            group.rebalance(at);
        }
        other => panic!("there is no operation {other:?}"),
    }
}

#[test]
fn groups_go_step_by_step_as_the_vectors_do() {
    let vectors = vectors();
    assert!(!vectors.groups.is_empty());
    for (n, vector) in vectors.groups.into_iter().enumerate() {
        let mut group = Group::new(vector.seed, vector.copies);
        for step in vector.steps {
            let at = step.index;
            for op in &step.ops {
                carry_out(&mut group, at, op);
            }
            group.finish(at);
            assert_eq!(group.epoch(), step.epoch, "epoch of group {n} at {at}");
            assert_eq!(records(&group), step.shards, "records of group {n} at {at}");
            assert_eq!(group.verify(), Ok(()), "group {n} at {at}");
        }
    }
}

fn records(group: &Group) -> BTreeMap<ShardId, Record> {
    let record =
        |shard: &Shard| (shard.holder.clone(), shard.grant, shard.next.clone(), shard.gone);
    group.shards().map(|(id, shard)| (id.clone(), record(shard))).collect()
}
