//! What holds of a shard set for every sequence of operations.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use roster_storage::names::{InstanceId, Revision, ShardId};
use roster_storage::shards::{Changed, Group, Shard, Worker};

use crate::acts::{Op, decision, shard, some_shard, some_worker, up, worker};
use crate::reference::{Reference, records};

/// An operation whose release, if it is one, is still to be fitted to a record: `true` to the
/// holder and grant that it has.
fn op() -> impl Strategy<Value = (Op, bool)> {
    let release = (some_worker(), some_shard(), 0..40_u64)
        .prop_map(|(worker, shard, grant)| Op::Release(worker, shard, Revision(grant)));
    prop_oneof![
        3 => up().prop_map(|op| (op, false)),
        1 => some_worker().prop_map(|id| (Op::Down(id), false)),
        10 => decision().prop_map(|op| (op, false)),
        4 => release.prop_flat_map(|op| (Just(op), prop::bool::weighted(0.8))),
        1 => some_shard().prop_map(|id| (Op::Force(id), false)),
    ]
}

/// Entries of one to four operations each.
fn entries() -> impl Strategy<Value = Vec<Vec<(Op, bool)>>> {
    vec(vec(op(), 1..=4), 1..60)
}

/// The operation as it is carried out on `group`.
fn fitted((op, fit): (Op, bool), group: &Group) -> Op {
    match op {
        Op::Release(worker, shard, grant) if fit => match group.shard(&shard) {
            Some(record) => {
                Op::Release(record.holder.clone().unwrap_or(worker), shard, record.grant)
            }
            None => Op::Release(worker, shard, grant),
        },
        other => other,
    }
}

/// Carries out one entry on both.
fn apply(
    group: &mut Group,
    reference: &mut Reference,
    at: Revision,
    ops: Vec<(Op, bool)>,
) -> Vec<Changed> {
    let mut fitted_ops = Vec::new();
    for op in ops {
        let op = fitted(op, group);
        op.carry_out(group, at);
        fitted_ops.push(op);
    }
    reference.apply(at, &fitted_ops);
    group.finish(at)
}

/// What changed between two states, as walking over both tells it.
fn difference(before: &BTreeMap<ShardId, Shard>, now: &BTreeMap<ShardId, Shard>) -> Vec<Changed> {
    let mut ids: Vec<_> = before.keys().chain(now.keys()).collect();
    ids.sort();
    ids.dedup();
    ids.into_iter()
        .map(|id| Changed {
            shard: id.clone(),
            before: before.get(id).cloned(),
            now: now.get(id).cloned(),
        })
        .filter(|changed| changed.before != changed.now)
        .collect()
}

/// What a checkpoint gives back.
fn reopened(group: &Group) -> Group {
    let mut read = Group::new(group.seed(), group.copies());
    for (id, shard) in group.shards() {
        let bytes = rmp_serde::to_vec_named(shard).expect("a record encodes");
        read.insert_record(id.clone(), rmp_serde::from_slice(&bytes).expect("it decodes"));
    }
    for (id, worker) in group.workers() {
        read.up(id, worker.clone());
    }
    read.set_epoch(group.epoch());
    read
}

/// The state after these entries, each with an index of its own.
fn after(entries: Vec<Vec<(Op, bool)>>, seed: u64) -> (Group, Reference, Revision) {
    let (mut group, mut reference) = (Group::new(seed, 2), Reference::new(seed, 2));
    let mut at = Revision(0);
    for entry in entries {
        at.0 += 1;
        apply(&mut group, &mut reference, at, entry);
    }
    at.0 += 1;
    (group, reference, at)
}

/// What a worker holds or has to let go is let go.
fn let_all_go(group: &mut Group, at: Revision) {
    let leaving = |(_, shard): &(&ShardId, &Shard)| shard.gone || shard.next.is_some();
    let pending: Vec<_> =
        group.shards().filter(leaving).map(|(id, s)| (id.clone(), s.clone())).collect();
    for (id, shard) in pending {
        let holder = shard.holder.expect("somebody has to let it go");
        group.release(at, &holder, &id, shard.grant);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_group_does_what_the_definition_says(entries in entries(), seed in 0..3_u64) {
        let (mut group, mut reference) = (Group::new(seed, 1), Reference::new(seed, 1));
        for (n, entry) in entries.into_iter().enumerate() {
            let before = reference.shards.clone();
            let changes = apply(&mut group, &mut reference, Revision(n as u64 + 1), entry);
            reference.check(&group);
            prop_assert_eq!(changes, difference(&before, &reference.shards));
            prop_assert_eq!(group.verify(), Ok(()));
        }
    }

    #[test]
    fn what_is_read_by_worker_is_what_the_records_say(entries in entries()) {
        let (group, reference, _) = after(entries, 0);
        for n in 0..5 {
            let id = worker(n);
            let all = |is: &dyn Fn(&Shard) -> bool| -> Vec<&ShardId> {
                reference.shards.iter().filter(|(_, s)| is(s)).map(|(id, _)| id).collect()
            };
            prop_assert_eq!(group.of_worker(&id), all(&|s| s.holder.as_ref() == Some(&id)));
            prop_assert_eq!(group.awaited_by(&id), all(&|s| s.next.as_ref() == Some(&id)));
            let planned = all(&|s| !s.gone && s.planned() == Some(&id));
            prop_assert_eq!(group.load(&id), planned.len());
        }
        let count = |is: &dyn Fn(&Shard) -> bool| {
            reference.shards.values().filter(|shard| is(shard)).count()
        };
        let counts = group.counts();
        prop_assert_eq!(counts.shards, count(&|s| !s.gone));
        prop_assert_eq!(counts.assigned, count(&|s| !s.gone && s.holder.is_some()));
        prop_assert_eq!(counts.pending, count(&|s| s.next.is_some()));
        prop_assert_eq!(counts.orphaned, count(&|s| s.holder.is_none()));
        prop_assert_eq!(counts.gone, count(&|s| s.gone));
        prop_assert_eq!(group.gone().count(), counts.gone);
        prop_assert_eq!(counts.workers, reference.workers.len());
        let available = reference.workers.values().filter(|worker| worker.available).count();
        prop_assert_eq!(counts.available_workers, available);
    }

    #[test]
    fn a_checkpoint_anywhere_makes_no_difference(
        before in entries(),
        later in entries(),
        seed in 0..3_u64,
    ) {
        let (mut group, mut reference, at) = after(before, seed);
        let mut read = reopened(&group);
        prop_assert!(read == group);
        prop_assert_eq!(read.verify(), Ok(()));
        for (n, entry) in later.into_iter().enumerate() {
            let at = Revision(at.0 + n as u64);
            let other = apply(&mut read, &mut reference.clone(), at, entry.clone());
            prop_assert_eq!(apply(&mut group, &mut reference, at, entry), other);
        }
        prop_assert!(read == group);
    }

    /// G1, and that a shard and a grant name one holder for ever.
    #[test]
    fn grants_of_a_shard_rise_and_name_one_holder(entries in entries()) {
        let (mut group, mut reference) = (Group::new(0, 1), Reference::new(0, 1));
        let mut newest: BTreeMap<ShardId, (Revision, InstanceId)> = BTreeMap::new();
        for (n, entry) in entries.into_iter().enumerate() {
            let at = Revision(n as u64 + 1);
            for changed in apply(&mut group, &mut reference, at, entry) {
                let Some(Shard { holder: Some(holder), grant, .. }) = changed.now else { continue };
                if let Some((before, of)) = newest.get(&changed.shard) {
                    prop_assert!(grant > *before || (grant == *before && holder == *of));
                }
                newest.insert(changed.shard, (grant, holder));
            }
        }
    }

    /// G3.
    #[test]
    fn after_quiet_everything_is_where_the_plan_wants_it(entries in entries()) {
        let (mut group, _, at) = after(entries, 1);
        prop_assume!(group.counts().available_workers > 0);
        for round in 0..2 {
            let at = Revision(at.0 + 2 * round);
            group.rebalance(at);
            let_all_go(&mut group, Revision(at.0 + 1));
        }
        let counts = group.counts();
        prop_assert_eq!((counts.pending, counts.gone, counts.orphaned), (0, 0, 0));
        prop_assert_eq!(group.imbalance(), 0);
        let available = |id: &InstanceId| group.worker(id).is_some_and(|worker| worker.available);
        prop_assert!(group.shards().all(|(_, shard)| shard.holder.as_ref().is_some_and(available)));
    }

    /// G4.
    #[test]
    fn a_rebalance_with_nothing_to_do_changes_nothing(entries in entries()) {
        let (mut group, _, at) = after(entries, 1);
        group.rebalance(at);
        group.finish(at);
        let before = group.clone();
        let later = Revision(at.0 + 1);
        prop_assert!(!group.rebalance(later));
        prop_assert_eq!(group.finish(later), vec![]);
        prop_assert!(group == before, "the epoch too");
    }

    /// P4.
    #[test]
    fn the_order_in_which_workers_and_shards_came_makes_no_difference(
        order in Just((0..40_usize).collect::<Vec<_>>()).prop_shuffle(),
        copies in 1..=3_u8,
    ) {
        let build = |order: &[usize]| {
            let mut group = Group::new(7, copies);
            for n in order {
                let zone = ["", "a", "b"][n % 3].into();
                let weight = 1 + u16::try_from(n % 4).expect("small");
                if *n < 8 {
                    group.up(&worker(*n), Worker { weight, zone, available: n % 5 != 0 });
                } else {
                    group.add(&shard(*n));
                }
            }
            group.rebalance(Revision(1));
            group.finish(Revision(1));
            group
        };
        let sorted: Vec<usize> = (0..40).collect();
        prop_assert!(build(&order) == build(&sorted));
    }

    /// What `unplanned` is for: without it, a rebalance has nothing to do.
    #[test]
    fn nobody_forgets_a_rebalance(entries in entries()) {
        let (mut group, mut reference) = (Group::new(0, 1), Reference::new(0, 1));
        for (n, entry) in entries.into_iter().enumerate() {
            let at = Revision(n as u64 + 1);
            apply(&mut group, &mut reference, at, entry);
            if group.unplanned().is_none() {
                let mut planned = group.clone();
                prop_assert!(!planned.rebalance(at));
            }
        }
    }

    #[test]
    fn a_simulation_tells_what_then_happens(
        entries in entries(),
        join in vec(up(), 0..3),
        leave in vec(some_worker(), 0..3),
    ) {
        let (mut group, _, at) = after(entries, 0);
        let joins: Vec<_> = join
            .iter()
            .filter_map(|op| match op {
                Op::Up(id, worker) => Some((id.clone(), worker.clone())),
                _ => None,
            })
            .collect();
        let simulation = group.simulate(&joins, &leave);
        prop_assert_eq!(simulation.voluntary, simulation.fewest);

        let before = records(&group);
        for id in &leave {
            group.down(at, id);
        }
        for op in &join {
            op.carry_out(&mut group, at);
        }
        group.rebalance(at);
        let now = records(&group);
        let planned = |records: &BTreeMap<ShardId, Shard>, id| {
            records.get(id).and_then(Shard::planned).cloned()
        };
        for id in before.keys() {
            let (from, to) = (planned(&before, id), planned(&now, id));
            let told = simulation.moves.iter().find(|m| m.shard == *id);
            prop_assert_eq!(told.is_some(), from != to);
            prop_assert!(told.is_none_or(|m| m.from == from && m.to == to));
        }
        for load in &simulation.loads {
            prop_assert_eq!(load.after, group.load(&load.worker));
        }
    }
}
