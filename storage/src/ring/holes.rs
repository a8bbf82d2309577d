//! The vacant slots of a ring, oldest first, each with the worker that held it last.

use std::ops::Range;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::fingerprint;
use crate::names::InstanceId;

/// When slots became vacant: counted up, known to this structure alone.
type Age = u64;

/// Slots are kept by the run in which one worker left them, so that the departure of a heavy worker
/// is one entry. Copies share everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Holes {
    runs: OrdMap<Age, Run>,
    by_holder: OrdSet<(InstanceId, Age)>,
    next_age: Age,
    count: usize,
    fingerprint: u64,
}

/// Slots that one worker held last, oldest first.
#[derive(Clone, Debug)]
struct Run {
    holder: InstanceId,
    holder_hash: u64,
    slots: Arc<[u32]>,
    /// The part of `slots` that is still vacant; never empty in [`Holes::runs`].
    vacant: Range<usize>,
}

/// What tells a hole from another, for the fingerprint.
#[derive(Clone, Copy)]
struct Mark {
    slot: u32,
    holder_hash: u64,
}

impl Holes {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &InstanceId)> {
        self.runs.values().flat_map(|run| run.rest().iter().map(|slot| (*slot, &run.holder)))
    }

    /// Adds slots as the newest, the last of them newest of all. `holder_hash` is the ring's hash
    /// of the holder's id.
    pub fn push(&mut self, holder: &InstanceId, holder_hash: u64, slots: Vec<u32>) {
        if slots.is_empty() {
            return;
        }
        let mut before = self.runs.get_max().map(|(_, run)| run.newest());
        for slot in &slots {
            let mark = Mark { slot: *slot, holder_hash };
            self.count_in(before, mark);
            before = Some(mark);
        }
        self.count += slots.len();
        self.by_holder.insert((holder.clone(), self.next_age));
        let vacant = 0..slots.len();
        let run = Run { holder: holder.clone(), holder_hash, slots: slots.into(), vacant };
        self.runs.insert(self.next_age, run);
        self.next_age += 1;
    }

    /// Takes the newest hole that `holder` held last.
    pub fn take_newest_of(&mut self, holder: &InstanceId) -> Option<u32> {
        let (_, age) = self.by_holder.get_prev(&(holder.clone(), Age::MAX))?;
        let age = *age;
        let run = self.runs.get(&age).filter(|run| run.holder == *holder)?.clone();
        let taken = run.newest();
        let before = match run.rest() {
            [.., before, _] => Some(run.mark(*before)),
            _ => self.newest_before(age),
        };
        let after = self.oldest_after(age);
        self.unlink(before, taken, after);
        let vacant = run.vacant.start..run.vacant.end - 1;
        self.keep(age, Run { vacant, ..run });
        Some(taken.slot)
    }

    /// Takes the hole that has been vacant for longest.
    pub fn take_oldest(&mut self) -> Option<u32> {
        let (age, run) = self.runs.get_min()?;
        let (age, run) = (*age, run.clone());
        let taken = run.oldest();
        let after = match run.rest() {
            [_, after, ..] => Some(run.mark(*after)),
            _ => self.oldest_after(age),
        };
        self.unlink(None, taken, after);
        let vacant = run.vacant.start + 1..run.vacant.end;
        self.keep(age, Run { vacant, ..run });
        Some(taken.slot)
    }

    /// The wrapping sum over all holes of what [`fingerprint::hole`] makes of each and of the slot
    /// before it, so that it depends on the order and yet follows each change.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// An estimate, without the texts of ids.
    pub fn memory_bytes(&self) -> usize {
        let run = size_of::<(Age, Run)>() + size_of::<(InstanceId, Age)>();
        // Nodes of the maps are about two thirds full; each list of slots has two counters.
        let runs = self.runs.len() * (run * 3 / 2 + 2 * size_of::<usize>());
        runs + self.count * size_of::<u32>()
    }

    /// Puts back a run from which one slot was taken, or forgets it with its last slot.
    fn keep(&mut self, age: Age, run: Run) {
        self.count -= 1;
        if run.vacant.is_empty() {
            self.runs.remove(&age);
            self.by_holder.remove(&(run.holder, age));
        } else {
            self.runs.insert(age, run);
        }
    }

    fn newest_before(&self, age: Age) -> Option<Mark> {
        let before = age.checked_sub(1)?;
        self.runs.get_prev(&before).map(|(_, run)| run.newest())
    }

    fn oldest_after(&self, age: Age) -> Option<Mark> {
        self.runs.get_next(&(age + 1)).map(|(_, run)| run.oldest())
    }

    fn unlink(&mut self, before: Option<Mark>, taken: Mark, after: Option<Mark>) {
        self.count_out(before, taken);
        if let Some(after) = after {
            self.count_out(Some(taken), after);
            self.count_in(before, after);
        }
    }

    fn count_in(&mut self, before: Option<Mark>, mark: Mark) {
        self.fingerprint = self.fingerprint.wrapping_add(mark.after(before));
    }

    fn count_out(&mut self, before: Option<Mark>, mark: Mark) {
        self.fingerprint = self.fingerprint.wrapping_sub(mark.after(before));
    }
}

impl Run {
    fn rest(&self) -> &[u32] {
        &self.slots[self.vacant.clone()]
    }

    fn mark(&self, slot: u32) -> Mark {
        Mark { slot, holder_hash: self.holder_hash }
    }

    fn oldest(&self) -> Mark {
        self.mark(self.slots[self.vacant.start])
    }

    fn newest(&self) -> Mark {
        self.mark(self.slots[self.vacant.end - 1])
    }
}

impl Mark {
    fn after(self, before: Option<Self>) -> u64 {
        fingerprint::hole(before.map(|hole| hole.slot), self.slot, self.holder_hash)
    }
}
