//! What a worker of a shard set starts, stops and lets go: no sockets, no clock.

use std::collections::{BTreeMap, BTreeSet};

use roster_storage::names::Revision;

use super::shards::{Grant, WorkerView};

/// What goes on, and what was let go of.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// By shard, under which grant.
    running: BTreeMap<String, Revision>,
    /// Those of them that were told to stop and have not stopped yet.
    stopping: BTreeSet<String>,
    /// A release of these was sent, and whether the cluster is known to have it. They are not this
    /// worker's any more, whatever its view still says: the release may yet take effect.
    let_go: BTreeMap<Grant, bool>,
}

/// What is to be done, in any order. What follows from a stop comes once it has ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub stop: Vec<Grant>,
    pub start: Vec<Grant>,
    pub release: Vec<Grant>,
}

impl Work {
    /// What brings the work in line with what the cluster says. What must be let go and runs is
    /// stopped first, and released by the steps after that; so is what runs under another grant, and
    /// started anew after that. If a move is called off while its work stops, the shard is started
    /// again under the grant that it has.
    pub fn steps(&self, view: &WorkerView) -> Steps {
        let mut steps = Steps::default();
        let mut kept = BTreeSet::new();
        for shard in &view.shards {
            let held = &shard.held;
            match (self.let_go.get(held), self.running.get(&held.shard)) {
                (Some(true), _) => {}
                (Some(false), _) => steps.release.push(held.clone()),
                (None, Some(grant)) if *grant == held.grant && !shard.release => {
                    kept.insert(&held.shard);
                }
                (None, Some(_)) => {}
                (None, None) if shard.release => steps.release.push(held.clone()),
                (None, None) => steps.start.push(held.clone()),
            }
        }
        steps.stop = self.not_stopping().filter(|grant| !kept.contains(&grant.shard)).collect();
        steps
    }

    /// All that goes on, by shard.
    pub fn running(&self) -> impl Iterator<Item = Grant> {
        self.running.iter().map(|(shard, grant)| Grant { shard: shard.clone(), grant: *grant })
    }

    /// What goes on and was not told to stop.
    pub fn not_stopping(&self) -> impl Iterator<Item = Grant> {
        self.running().filter(|grant| !self.stopping.contains(&grant.shard))
    }

    /// Work has begun.
    pub fn started(&mut self, grant: &Grant) {
        self.running.insert(grant.shard.clone(), grant.grant);
    }

    /// It is told to stop: until it has, the shard is neither started nor let go.
    pub fn stopping(&mut self, grant: &Grant) {
        self.stopping.insert(grant.shard.clone());
    }

    /// No work goes on any more.
    pub fn stopped(&mut self, grant: &Grant) {
        self.stopping.remove(&grant.shard);
        self.running.remove(&grant.shard);
    }

    /// A release is sent.
    pub fn letting_go(&mut self, grants: &[Grant]) {
        self.let_go.extend(grants.iter().map(|grant| (grant.clone(), false)));
    }

    /// The cluster has the release.
    pub fn released(&mut self, grants: impl IntoIterator<Item = Grant>) {
        self.let_go.extend(grants.into_iter().map(|grant| (grant, true)));
    }

    /// What is not in the view any more need not be remembered.
    pub fn forget(&mut self, view: &WorkerView) {
        if !self.let_go.is_empty() {
            let listed: BTreeSet<&Grant> = view.shards.iter().map(|shard| &shard.held).collect();
            self.let_go.retain(|grant, _| listed.contains(grant));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::WorkerShard;

    fn grant(shard: &str, grant: u64) -> Grant {
        Grant { shard: shard.into(), grant: Revision(grant) }
    }

    /// Shards with their grants; a `!` asks for the release.
    fn view(shards: &[(&str, u64)]) -> WorkerView {
        let shards = shards.iter().map(|(name, since)| WorkerShard {
            held: grant(name.trim_end_matches('!'), *since),
            release: name.ends_with('!'),
        });
        WorkerView { epoch: Revision(9), shards: shards.collect() }
    }

    fn at_work(shards: &[(&str, u64)]) -> Work {
        let mut work = Work::default();
        shards.iter().for_each(|(name, since)| work.started(&grant(name, *since)));
        work
    }

    #[test]
    fn what_is_new_starts_and_what_stays_is_not_touched() {
        let steps = at_work(&[("a/1", 5)]).steps(&view(&[("a/1", 5), ("a/2", 6)]));
        assert_eq!(steps, Steps { start: vec![grant("a/2", 6)], ..Steps::default() });
    }

    #[test]
    fn what_must_go_is_stopped_before_it_is_let_go() {
        let mut work = at_work(&[("a/1", 5)]);
        let asked = view(&[("a/1!", 5)]);
        assert_eq!(work.steps(&asked), Steps { stop: vec![grant("a/1", 5)], ..Steps::default() });
        work.stopped(&grant("a/1", 5));
        let release = Steps { release: vec![grant("a/1", 5)], ..Steps::default() };
        assert_eq!(work.steps(&asked), release);
        work.letting_go(&[grant("a/1", 5)]);
        work.released([grant("a/1", 5)]);
        assert_eq!(work.steps(&asked), Steps::default(), "told once");
    }

    #[test]
    fn a_shard_under_another_grant_is_stopped_and_started_anew() {
        let mut work = at_work(&[("a/1", 5)]);
        let anew = view(&[("a/1", 8)]);
        assert_eq!(work.steps(&anew), Steps { stop: vec![grant("a/1", 5)], ..Steps::default() });
        work.stopped(&grant("a/1", 5));
        assert_eq!(work.steps(&anew), Steps { start: vec![grant("a/1", 8)], ..Steps::default() });
    }

    #[test]
    fn what_is_stopping_is_not_touched_and_holds_nothing_else_up() {
        let mut work = at_work(&[("a/1", 5), ("a/2", 6)]);
        work.stopping(&grant("a/1", 5));
        let asked = view(&[("a/1!", 5), ("a/2!", 6), ("a/3", 7)]);
        let (stop, start) = (vec![grant("a/2", 6)], vec![grant("a/3", 7)]);
        assert_eq!(work.steps(&asked), Steps { stop, start, ..Steps::default() });
        for (name, since) in [("a/1!", 5), ("a/1", 5), ("a/1", 9), ("a/1!", 9)] {
            let asked = view(&[(name, since), ("a/2", 6)]);
            assert_eq!(work.steps(&asked), Steps::default(), "{name} {since}");
        }
        work.stopped(&grant("a/1", 5));
        let called_off = view(&[("a/1", 5), ("a/2", 6)]);
        assert_eq!(work.steps(&called_off).start, [grant("a/1", 5)]);
    }

    #[test]
    fn what_is_not_held_any_more_is_stopped_and_not_let_go() {
        let steps = at_work(&[("a/1", 5)]).steps(&view(&[]));
        assert_eq!(steps, Steps { stop: vec![grant("a/1", 5)], ..Steps::default() });
    }

    #[test]
    fn a_move_that_is_called_off_keeps_the_shard_until_it_was_let_go() {
        let mut work = at_work(&[("a/1", 5)]);
        work.stopped(&grant("a/1", 5));
        let called_off = view(&[("a/1", 5)]);
        assert_eq!(work.steps(&called_off).start, [grant("a/1", 5)], "it was only stopped");
        work.released([grant("a/1", 5)]);
        assert_eq!(work.steps(&called_off), Steps::default(), "it is not ours any more");
        work.forget(&view(&[("a/1", 9)]));
        assert_eq!(work.steps(&view(&[("a/1", 9)])).start, [grant("a/1", 9)]);
    }

    #[test]
    fn a_release_of_unknown_outcome_is_sent_again_and_never_taken_back() {
        let mut work = at_work(&[]);
        work.letting_go(&[grant("a/1", 5)]);
        for asked in [view(&[("a/1!", 5)]), view(&[("a/1", 5)])] {
            let release = Steps { release: vec![grant("a/1", 5)], ..Steps::default() };
            assert_eq!(work.steps(&asked), release);
        }
    }
}
