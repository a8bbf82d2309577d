//! What holds of every ring, whatever happened to it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use roster_storage::names::{InstanceId, Revision};
use roster_storage::ring::arithmetic::xxh64;
use roster_storage::ring::{Description, Joined, Ring, View};

use crate::acts::{
    Act, IDS, acts, any_act, any_id, any_ring, apply, id, keys, owners, perform, texts,
};
use crate::model::{self, Model};

/// All that a ring shows but its epoch, settings and owners.
type Shown = (BTreeMap<String, u64>, Vec<Option<String>>, Vec<(usize, String)>);

fn shown(ring: &Ring) -> Shown {
    let workers = ring.workers().map(|(id, weight)| (id.to_string(), weight.into())).collect();
    let slots = ring.holders().map(|holder| holder.map(ToString::to_string)).collect();
    let holes = ring.holes().map(|(slot, last)| (slot as usize, last.to_string())).collect();
    (workers, slots, holes)
}

/// The model's answer to an act, `None` for what it does not model.
fn perform_on_model(model: &mut Model, act: &Act) -> Option<bool> {
    match act {
        Act::Join(id, weight) => Some(model.join(id, (*weight).into())),
        Act::Leave(id) => Some(model.leave(id)),
        Act::Compact => Some(model.compact()),
        Act::Replicas(_) => None,
    }
}

/// What is counted and derived against what it was derived from.
fn check_derived(ring: &Ring) {
    assert_eq!(ring.fingerprint(), ring.recomputed_fingerprint());
    let (workers, slots, holes) = shown(ring);
    assert_eq!(ring.len(), workers.len());
    assert_eq!(ring.is_empty(), workers.is_empty());
    assert_eq!(ring.slots(), slots.len());
    assert_eq!(ring.vacant(), holes.len());
    for name in IDS {
        let weight = ring.weight_of(&id(name)).map_or(0, usize::from);
        let held = slots.iter().flatten().filter(|holder| *holder == name).count();
        assert_eq!(held, weight, "the slots of {name}");
    }
    let vacant: BTreeSet<usize> = (0..slots.len()).filter(|slot| slots[*slot].is_none()).collect();
    assert_eq!(holes.iter().map(|(slot, _)| *slot).collect::<BTreeSet<_>>(), vacant);
}

/// The ids whose keys or copies an act may move.
fn name_of(act: &Act) -> &'static str {
    match act {
        Act::Join(name, _) | Act::Leave(name) => name,
        Act::Compact | Act::Replicas(_) => unreachable!("acts on one worker are asked for"),
    }
}

fn act_on_one_worker() -> impl Strategy<Value = Act> {
    any_act().prop_filter("on one worker", |act| matches!(act, Act::Join(..) | Act::Leave(_)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_is_what_the_specification_says(seed in 0_u64..3, acts in acts(60)) {
        let mut ring = Ring::new(seed, 1);
        let mut model = Model { seed, ..Model::default() };
        for act in &acts {
            let changed = perform(&mut ring, act);
            if let Some(expected) = perform_on_model(&mut model, act) {
                prop_assert_eq!(changed, expected, "{:?}", act);
            }
            let expected = (model.workers.clone(), model.slots.clone(), model.holes.clone());
            prop_assert_eq!(shown(&ring), expected, "after {:?}", act);
            check_derived(&ring);
        }
        for key in keys(40) {
            prop_assert_eq!(ring.owner(&key).map(InstanceId::as_str), model.owner(&key));
            for replicas in [0, 1, 2, 3, 20] {
                let owners = texts(ring.owners(&key, replicas));
                prop_assert_eq!(owners, model.owners(&key, replicas), "{} copies", replicas);
            }
        }
    }

    /// R1.
    #[test]
    fn without_vacant_slots_the_owner_is_the_holder_of_the_jump(ring in any_ring()) {
        let mut ring = ring;
        ring.compact();
        let holders: Vec<_> = ring.holders().collect();
        for key in keys(60) {
            let hash = xxh64(&key, ring.seed());
            let holder = (!holders.is_empty()).then(|| holders[model::jump(hash, holders.len())]);
            prop_assert_eq!(ring.owner(&key), holder.flatten());
        }
    }

    /// R2, R3, R4: keys move from the worker that leaves or becomes lighter, and to the one that
    /// joins or becomes heavier.
    #[test]
    fn a_change_of_one_worker_moves_only_its_own_keys(ring in any_ring(), act in act_on_one_worker()) {
        let name = name_of(&act);
        let (before, mut after) = (ring.clone(), ring);
        perform(&mut after, &act);
        let weight = |ring: &Ring| ring.weight_of(&id(name)).unwrap_or(0);
        for key in keys(300) {
            let (old, new) = (before.owner(&key), after.owner(&key));
            if old == new {
                continue;
            }
            let mover = if weight(&after) > weight(&before) { new } else { old };
            prop_assert_eq!(mover.map(InstanceId::as_str), Some(name), "{:?}", act);
        }
    }

    /// R5.
    #[test]
    fn who_leaves_and_comes_back_finds_the_same_ring(
        ring in any_ring(),
        leavers in prop::collection::btree_set(any_id(), 0..8),
        order in any::<prop::sample::Index>(),
    ) {
        let before = ring.clone();
        let mut ring = ring;
        let mut leavers: Vec<_> = leavers.into_iter().filter_map(|name| {
            Some((id(name), ring.weight_of(&id(name))?))
        }).collect();
        for (id, _) in &leavers {
            prop_assert!(ring.leave(id));
        }
        if !leavers.is_empty() {
            let middle = order.index(leavers.len());
            leavers.rotate_left(middle);
            leavers[middle..].reverse();
        }
        for (id, weight) in &leavers {
            prop_assert_eq!(ring.join(id, *weight), Joined::Changed);
        }
        prop_assert_eq!(ring.fingerprint(), before.fingerprint());
        prop_assert_eq!(ring, before);
    }

    /// R6.
    #[test]
    fn copies_are_distinct_and_move_one_at_a_time(
        ring in any_ring(),
        act in act_on_one_worker(),
        replicas in 1_usize..6,
    ) {
        let name = name_of(&act).to_owned();
        let (before, mut after) = (ring.clone(), ring);
        perform(&mut after, &act);
        let weight = |ring: &Ring| ring.weight_of(&id(&name)).unwrap_or(0);
        for (old, new) in owners(&before, replicas).into_iter().zip(owners(&after, replicas)) {
            let distinct: BTreeSet<_> = new.iter().collect();
            prop_assert_eq!(distinct.len(), new.len());
            prop_assert_eq!(new.len(), replicas.min(after.len()));
            let gained: Vec<_> = new.iter().filter(|id| !old.contains(id)).collect();
            let lost: Vec<_> = old.iter().filter(|id| !new.contains(id)).collect();
            if weight(&after) == 0 {
                prop_assert!(lost.iter().all(|lost| **lost == name), "{:?} to {:?}", old, new);
                prop_assert!(old.contains(&name) || old == new, "{:?} to {:?}", old, new);
            } else if weight(&before) == 0 {
                prop_assert!(gained.iter().all(|gained| **gained == name), "{:?} to {:?}", old, new);
            }
            prop_assert!(gained.len() <= 1 && lost.len() <= 1, "{:?} to {:?}", old, new);
        }
    }

    /// R7.
    #[test]
    fn a_client_computes_what_the_nodes_compute(ring in any_ring(), epoch in 0_u64..1 << 53) {
        let mut ring = ring;
        ring.set_epoch(Revision(epoch));
        let description = ring.description("pay");
        let json = serde_json::to_string(&description).expect("encodes");
        let from_json: Description = serde_json::from_str(&json).expect("decodes");
        let bytes = rmp_serde::to_vec_named(&description).expect("encodes");
        let from_bytes: Description = rmp_serde::from_slice(&bytes).expect("decodes");
        prop_assert_eq!(&from_json, &description);
        prop_assert_eq!(&from_bytes, &description);
        let view = View::try_from(from_bytes).expect("well formed");
        prop_assert_eq!((view.group(), view.epoch()), ("pay", Revision(epoch)));
        let workers = ring.workers().map(|(id, weight)| (id.as_str(), weight));
        prop_assert!(view.workers().eq(workers));
        for (key, owners) in keys(60).zip(owners(&ring, 3)) {
            prop_assert_eq!(view.owners(&key, 3), owners);
            prop_assert_eq!(view.owner(&key), ring.owner(&key).map(InstanceId::as_str));
        }
    }

    /// R9.
    #[test]
    fn what_changes_nothing_leaves_the_epoch(ring in any_ring(), acts in acts(4)) {
        let mut ring = ring;
        ring.set_epoch(Revision(5));
        let before = ring.clone();
        let changed = apply(&mut ring, 9, &acts);
        prop_assert_eq!(ring.epoch(), Revision(if changed { 9 } else { 5 }));
        if !changed {
            prop_assert_eq!(&ring, &before);
            prop_assert_eq!(ring.fingerprint(), before.fingerprint());
        }
    }

    /// R10. What follows is the same too: the order of the holes came along.
    #[test]
    fn a_ring_from_a_checkpoint_goes_on_like_the_one_that_was_kept(
        ring in any_ring(),
        acts in acts(30),
    ) {
        let mut kept = ring;
        let bytes = rmp_serde::to_vec_named(&kept).expect("a ring encodes");
        let mut read: Ring = rmp_serde::from_slice(&bytes).expect("a ring decodes");
        for (index, act) in (1..).zip(&acts) {
            prop_assert_eq!(&read, &kept);
            prop_assert_eq!(read.fingerprint(), kept.fingerprint());
            let one = std::slice::from_ref(act);
            prop_assert_eq!(apply(&mut read, index, one), apply(&mut kept, index, one));
        }
        prop_assert_eq!(read.description("g"), kept.description("g"));
        prop_assert_eq!(owners(&read, 3), owners(&kept, 3));
        check_derived(&read);
    }

    /// After few acts a ring is often what it was, or differs in little.
    #[test]
    fn fingerprints_are_equal_where_rings_are(ring in any_ring(), acts in acts(6)) {
        let mut other = ring.clone();
        acts.iter().for_each(|act| { perform(&mut other, act); });
        prop_assert_eq!(ring == other, ring.fingerprint() == other.fingerprint());
    }

    /// R13.
    #[test]
    fn a_replacement_moves_exactly_one_workers_keys(
        ring in any_ring(),
        gone in any::<prop::sample::Index>(),
    ) {
        let mut ring = ring;
        ring.compact();
        prop_assume!(!ring.is_empty());
        let before = ring.clone();
        let (gone, weight) = before.workers().nth(gone.index(before.len())).expect("a worker");
        let new = id("the new one");
        prop_assert!(ring.leave(gone));
        prop_assert_eq!(ring.join(&new, weight), Joined::Changed);
        prop_assert_eq!(ring.vacant(), 0);
        for key in keys(200) {
            let expected = before.owner(&key).map(|owner| if owner == gone { &new } else { owner });
            prop_assert_eq!(ring.owner(&key), expected);
        }
    }
}

/// The order of holes decides who gets which slot next, so it is a part of the state.
#[test]
fn the_order_of_holes_tells_rings_apart() {
    let ring = |first: &str, second: &str| {
        let mut ring = Ring::new(0, 1);
        for name in ["a", "b", "c"] {
            ring.join(&id(name), 1);
        }
        ring.leave(&id(first));
        ring.leave(&id(second));
        ring
    };
    let (one, other) = (ring("a", "b"), ring("b", "a"));
    assert_eq!(one.description("g"), other.description("g"));
    assert_ne!(one, other);
    assert_ne!(one.fingerprint(), other.fingerprint());
}

#[test]
fn a_worker_takes_back_its_newest_hole_and_strangers_the_oldest_of_all() {
    let mut ring = Ring::new(0, 1);
    ring.join(&id("a"), 2);
    ring.join(&id("b"), 2);
    ring.leave(&id("a"));
    ring.leave(&id("b"));
    ring.join(&id("b"), 1);
    ring.join(&id("c"), 1);
    let holders: Vec<_> = ring.holders().map(|holder| holder.map(InstanceId::as_str)).collect();
    assert_eq!(holders, [Some("c"), None, None, Some("b")]);
    let holes: Vec<_> = ring.holes().map(|(slot, last)| (slot, last.as_str())).collect();
    assert_eq!(holes, [(1, "a"), (2, "b")]);
}
