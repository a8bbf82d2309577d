//! Which workers a shard prefers: a ranking by score that is the same wherever it is worked out, and
//! the choice of further copies from it, spread over zones.

use std::collections::BTreeMap;

use crate::ring::arithmetic::{mix64, token, xxh64};

/// The hash of a shard's or a worker's id, as the whole plan uses it.
pub(super) fn hash(seed: u64, id: &str) -> u64 {
    xxh64(id.as_bytes(), seed)
}

/// One worker of a ranking.
struct Candidate {
    /// A number for each text, so that choosing compares no texts.
    zone: usize,
    /// As many draws as its weight, so that it comes first in proportion to it. The first is kept
    /// apart from the others: most workers have no more, and the ranking reads them in a row.
    token: u64,
    tokens: Vec<u64>,
}

impl Candidate {
    fn score(&self, shard_hash: u64) -> u64 {
        let first = mix64(shard_hash ^ self.token);
        self.tokens.iter().fold(first, |best, token| best.max(mix64(shard_hash ^ token)))
    }
}

/// Workers, ready to be ranked for any number of shards. A worker is named by its place in the
/// order in which it was given, which must be the order of ids: equal scores go by it.
pub(super) struct Ranking<'a> {
    candidates: Vec<Candidate>,
    zones: BTreeMap<&'a str, usize>,
}

impl<'a> Ranking<'a> {
    /// From each worker's hash, weight and zone.
    pub(super) fn new(workers: impl Iterator<Item = (u64, u16, &'a str)>) -> Self {
        let mut zones = BTreeMap::new();
        let candidates = workers
            .map(|(hash, weight, zone)| {
                let zones_before = zones.len();
                Candidate {
                    zone: *zones.entry(zone).or_insert(zones_before),
                    token: token(hash, 0),
                    tokens: (1..u64::from(weight)).map(|copy| token(hash, copy)).collect(),
                }
            })
            .collect();
        Self { candidates, zones }
    }

    /// The `count` best workers for the shard with this hash, `owner` left out: first the best of
    /// zones not used yet, `owner_zone` counted as used, then the best of the others. Each is looked
    /// for when it is asked for.
    pub(super) fn best(
        &self,
        shard_hash: u64,
        owner: Option<usize>,
        owner_zone: Option<&str>,
        count: usize,
    ) -> impl Iterator<Item = usize> {
        let scores: Vec<u64> =
            self.candidates.iter().map(|candidate| candidate.score(shard_hash)).collect();
        let mut chosen: Vec<usize> = Vec::with_capacity(count);
        let mut used: Vec<usize> =
            owner_zone.and_then(|zone| self.zones.get(zone)).copied().into_iter().collect();
        std::iter::from_fn(move || {
            if chosen.len() == count {
                return None;
            }
            let zone = |worker: usize| self.candidates[worker].zone;
            let free = |worker: &usize| Some(*worker) != owner && !chosen.contains(worker);
            let next = highest(&scores, |worker| free(worker) && !used.contains(&zone(*worker)))
                .or_else(|| highest(&scores, free))?;
            used.push(zone(next));
            chosen.push(next);
            Some(next)
        })
    }
}

/// The worker with the highest score among those that `admits`; the first of equals.
fn highest(scores: &[u64], admits: impl Fn(&usize) -> bool) -> Option<usize> {
    (0..scores.len())
        .filter(admits)
        .reduce(|best, worker| if scores[worker] > scores[best] { worker } else { best })
}
