//! One number per part of a ring's state. Their wrapping sum is the ring's fingerprint, so that a
//! change subtracts what was and adds what is.

use super::arithmetic::{GAMMA, mix64};

const SETTINGS: u64 = 1;
const HELD: u64 = 2;
const HOLE: u64 = 3;

pub(super) fn settings(seed: u64, replicas: u8) -> u64 {
    number([SETTINGS, seed, u64::from(replicas), 0])
}

/// A slot and the hash of its holder's id. All held slots together tell the workers and weights.
pub(super) fn held(slot: u32, holder_hash: u64) -> u64 {
    number([HELD, u64::from(slot), holder_hash, 0])
}

/// A vacant slot, the hash of its last holder's id, and the slot that became vacant before it: a
/// slot is vacant once, so these pairs tell the order of all of them.
pub(super) fn hole(before: Option<u32>, slot: u32, holder_hash: u64) -> u64 {
    number([HOLE, u64::from(slot), holder_hash, before.map_or(u64::MAX, u64::from)])
}

fn number(parts: [u64; 4]) -> u64 {
    parts.into_iter().fold(0, |mixed, part| mix64((mixed ^ part).wrapping_add(GAMMA)))
}
