//! Operations in a small universe, so that workers leave, come back and take each other's slots.

use proptest::prelude::*;
use roster_storage::names::{InstanceId, Revision};
use roster_storage::ring::{Joined, Ring};

/// Ids that sort apart by bytes, by UTF-16 units and by length; one is longer than small strings.
pub const IDS: [&str; 8] =
    ["a", "b", "ab", "é", "\u{ffee}", "\u{1f600}", "fetcher-00001@10.20.0.1:8719", "0"];

#[derive(Clone, Debug)]
pub enum Act {
    Join(&'static str, u16),
    Leave(&'static str),
    Compact,
    Replicas(u8),
}

pub fn id(text: &str) -> InstanceId {
    text.parse().expect("an id")
}

pub fn any_id() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&IDS[..])
}

pub fn any_weight() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 1_u16..4, 3 => 4_u16..12, 1 => prop::sample::select(vec![0, 1025, u16::MAX])]
}

pub fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (any_id(), any_weight()).prop_map(|(id, weight)| Act::Join(id, weight)),
        10 => any_id().prop_map(Act::Leave),
        1 => Just(Act::Compact),
        1 => (0_u8..20).prop_map(Act::Replicas),
    ]
}

pub fn acts(count: usize) -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(any_act(), 0..count)
}

/// A ring with a past, and so with holes in an order of their own.
pub fn any_ring() -> impl Strategy<Value = Ring> {
    (0_u64..3, 1_u8..4, acts(40)).prop_map(|(seed, replicas, acts)| {
        let mut ring = Ring::new(seed, replicas);
        for act in &acts {
            perform(&mut ring, act);
        }
        ring
    })
}

/// Whether it changed anything.
pub fn perform(ring: &mut Ring, act: &Act) -> bool {
    match act {
        Act::Join(name, weight) => ring.join(&id(name), *weight) == Joined::Changed,
        Act::Leave(name) => ring.leave(&id(name)),
        Act::Compact => ring.compact(),
        Act::Replicas(replicas) => ring.set_replicas(*replicas),
    }
}

/// What an entry does: all acts in order, and the epoch if any of them changed something.
pub fn apply(ring: &mut Ring, index: u64, acts: &[Act]) -> bool {
    let changes = acts.iter().filter(|act| perform(ring, act)).count();
    if changes > 0 {
        ring.set_epoch(Revision(index));
    }
    changes > 0
}

pub fn keys(count: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|number| format!("key-{number}").into_bytes())
}

/// The owner lists of some keys, as texts.
pub fn owners(ring: &Ring, replicas: usize) -> Vec<Vec<String>> {
    keys(60).map(|key| texts(ring.owners(&key, replicas))).collect()
}

pub fn texts(ids: Vec<&InstanceId>) -> Vec<String> {
    ids.into_iter().map(ToString::to_string).collect()
}
