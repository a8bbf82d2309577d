//! What rings are worth at their limits, and what they cost.

use roster_storage::limits::{RING_REPLICAS_MAX, RING_SEED_MAX, RING_SLOTS_MAX, WEIGHT_MAX};
use roster_storage::ring::{Joined, Ring, View};

use crate::acts::id;

/// Workers with ids of 29 bytes, as an address and a number make them.
fn ring_of(workers: u32) -> Ring {
    let mut ring = Ring::new(0, 1);
    for number in 0..workers {
        ring.join(&id(&format!("fetcher-{number:05}@10.20.0.1:87190")), 1);
    }
    ring
}

#[test]
fn a_full_ring_refuses_more_weight_and_goes_on() {
    let mut ring = Ring::new(0, 1);
    let heavy = RING_SLOTS_MAX / usize::from(WEIGHT_MAX);
    for number in 1..heavy {
        assert_eq!(ring.join(&id(&format!("w{number}")), WEIGHT_MAX), Joined::Changed);
    }
    assert_eq!(ring.join(&id("last"), WEIGHT_MAX - 1), Joined::Changed);
    let (before, epoch) = (ring.fingerprint(), ring.epoch());
    assert_eq!(ring.join(&id("new"), 2), Joined::Full);
    assert_eq!((ring.fingerprint(), ring.epoch()), (before, epoch));
    assert_eq!(ring.weight_of(&id("new")), None);
    assert_eq!(ring.join(&id("new"), 1), Joined::Changed);
    assert_eq!(ring.slots(), RING_SLOTS_MAX);
    assert_eq!(ring.join(&id("last"), WEIGHT_MAX), Joined::Full);
    assert!(ring.leave(&id("w7")));
    assert_eq!(ring.join(&id("last"), WEIGHT_MAX), Joined::Changed);
    assert_eq!(ring.slots(), RING_SLOTS_MAX);
    assert_eq!(ring.fingerprint(), ring.recomputed_fingerprint());
    assert!(View::try_from(ring.description("g")).is_ok());
}

#[test]
fn weights_and_copies_out_of_range_change_nothing() {
    let mut ring = Ring::new(u64::MAX, 0);
    assert_eq!((ring.seed(), ring.replicas()), (RING_SEED_MAX, 1));
    assert_eq!(Ring::new(0, 200).replicas(), RING_REPLICAS_MAX);
    assert_eq!(ring.join(&id("a"), 0), Joined::Unchanged);
    assert_eq!(ring.join(&id("a"), WEIGHT_MAX + 1), Joined::Unchanged);
    assert!(ring.is_empty());
    assert!(!ring.set_replicas(0));
    assert!(!ring.set_replicas(RING_REPLICAS_MAX + 1));
    assert!(ring.set_replicas(RING_REPLICAS_MAX));
    assert!(!ring.leave(&id("a")));
    assert_eq!(ring.owners(b"key", 3), Vec::<&_>::new());
}

#[test]
fn a_ring_of_a_thousand_workers_is_small() {
    let ring = ring_of(1_000);
    assert!(ring.memory_bytes() <= 64_000, "{} bytes in memory", ring.memory_bytes());
    let description = ring.description("fetchers");
    let json = serde_json::to_vec(&description).expect("encodes").len();
    let msgpack = rmp_serde::to_vec_named(&description).expect("encodes").len();
    println!("{} bytes in memory, {json} as JSON, {msgpack} as MessagePack", ring.memory_bytes());
    assert!(json <= 45_000, "{json} bytes of JSON");
    assert!(msgpack <= 38_000, "{msgpack} bytes of MessagePack");
}
