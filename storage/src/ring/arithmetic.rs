//! The numbers that every implementation of rings must get alike, to the bit. `docs/ring.md` says
//! where implementations part.

use twox_hash::XxHash64;

/// The step between the probes of a key and between the copies of a worker.
pub const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// XXH64 of raw bytes.
pub fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// SplitMix64's output function: a permutation of the 64-bit numbers in which each bit of the input
/// reaches each bit of the output.
pub const fn mix64(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// Jump consistent hash: one of `0..buckets`, which must not be 0.
pub fn jump(hash: u64, buckets: u32) -> u32 {
    debug_assert!(buckets > 0, "nothing can be chosen among no buckets");
    jump_consistent_hash::hash(hash, buckets as usize)
}

/// What a key's hash is mixed with for one copy of a worker, counted from 0; a worker of weight w
/// has w copies. `id_hash` is XXH64 of the worker's id with the ring's seed.
pub const fn token(id_hash: u64, copy: u64) -> u64 {
    mix64(id_hash.wrapping_add(GAMMA.wrapping_mul(copy)))
}
