//! Who held what before and after, and how many shards had to move.

use std::collections::{BTreeMap, BTreeSet};

/// Who holds each shard.
pub(super) type Holders = BTreeMap<String, String>;

/// What became of the shards that were there before and after.
pub(super) struct Ledger<'a> {
    pub before: &'a Holders,
    pub after: &'a Holders,
}

impl Ledger<'_> {
    /// Shards that have another holder than before.
    pub fn moved(&self) -> usize {
        let elsewhere =
            |(shard, holder): &(&String, &String)| self.before.get(*shard) != Some(*holder);
        self.after.iter().filter(elsewhere).count()
    }

    /// The fewest that any plan moves in which the workers, all of the same weight, have as many
    /// shards as each other or one more.
    pub fn fewest(&self, workers: &[String]) -> usize {
        let shards = self.after.len();
        let (quota, extra) = (shards / workers.len().max(1), shards % workers.len().max(1));
        let had = workers.iter().map(|worker| {
            let stays = |(shard, holder): &(&String, &String)| {
                *holder == worker && self.after.contains_key(*shard)
            };
            self.before.iter().filter(stays).count()
        });
        let had: Vec<usize> = had.collect();
        let kept: usize = had.iter().map(|count| *count.min(&quota)).sum();
        let one_more = had.iter().filter(|count| **count > quota).count();
        shards - (kept + one_more.min(extra))
    }

    /// How many shards the worker held, holds, and kept.
    pub fn of(&self, worker: &str) -> (usize, usize, usize) {
        let of = |holders: &Holders| -> BTreeSet<String> {
            let own = holders.iter().filter(|(_, holder)| *holder == worker);
            own.map(|(shard, _)| shard.clone()).collect()
        };
        let (before, after) = (of(self.before), of(self.after));
        (before.len(), after.len(), before.intersection(&after).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(all: &[(&str, &str)]) -> Holders {
        all.iter().map(|(shard, holder)| ((*shard).into(), (*holder).into())).collect()
    }

    #[test]
    fn the_fewest_moves_are_the_orphans_and_what_is_too_much() {
        let before = holders(&[("1", "a"), ("2", "a"), ("3", "a"), ("4", "b"), ("5", "c")]);
        let after = holders(&[("1", "a"), ("2", "a"), ("3", "b"), ("4", "b"), ("5", "a")]);
        let ledger = Ledger { before: &before, after: &after };
        let workers = ["a", "b"].map(String::from);
        assert_eq!(ledger.fewest(&workers), 1, "5 must go somewhere; 3 may stay");
        assert_eq!(ledger.moved(), 2);
        assert_eq!(ledger.of("a"), (3, 3, 2));
    }

    #[test]
    fn what_is_gone_does_not_count() {
        let before = holders(&[("1", "a"), ("2", "b"), ("3", "b")]);
        let after = holders(&[("1", "a"), ("2", "b")]);
        let ledger = Ledger { before: &before, after: &after };
        assert_eq!((ledger.moved(), ledger.fewest(&["a".into(), "b".into()])), (0, 0));
    }
}
