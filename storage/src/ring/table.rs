//! What look-ups run on, in a node and in a client alike: slots, and the workers that hold them.

use super::arithmetic::{GAMMA, jump, mix64, token, xxh64};
use crate::names::InstanceId;

/// How often a vacant slot is passed over before the best score among all workers decides.
const PROBES: u64 = 8;

/// A place in [`Table::workers`]. It may change when any worker leaves.
pub(super) type Handle = u32;

/// Stands for a handle where nobody holds the slot.
pub(super) const VACANT: Handle = Handle::MAX;

/// Stands for a slot where there is none.
pub(super) const END: u32 = u32::MAX;

/// The part of a ring that decides who owns a key.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// What keys and ids are hashed with.
    pub seed: u64,
    /// Who holds each slot: a handle, or [`VACANT`].
    pub slots: Vec<Handle>,
    /// By handle, in any order.
    pub workers: Vec<Worker>,
    /// By handle: the token of the worker's first copy. Apart from the rest, since ranking the
    /// workers of a key reads all of them.
    first_tokens: Vec<u64>,
}

/// Who holds slots, as many as the weight.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub id: InstanceId,
    /// XXH64 of the id with the ring's seed.
    pub id_hash: u64,
    /// How many slots it holds.
    pub weight: u16,
    /// A slot of the worker, from which [`super::Ring`] finds the others. [`END`] if it holds none,
    /// and in what clients compute with.
    pub any_slot: u32,
}

impl Table {
    pub fn new(seed: u64) -> Self {
        Self { seed, slots: Vec::new(), workers: Vec::new(), first_tokens: Vec::new() }
    }

    pub fn hash(&self, text: &[u8]) -> u64 {
        xxh64(text, self.seed)
    }

    /// Adds a worker that holds no slot yet.
    pub fn add_worker(&mut self, id: InstanceId) -> Handle {
        let id_hash = self.hash(id.as_str().as_bytes());
        let handle = self.workers.len() as Handle;
        push(&mut self.workers, Worker { id, id_hash, weight: 0, any_slot: END });
        push(&mut self.first_tokens, token(id_hash, 0));
        handle
    }

    /// Removes a worker that holds no slot any more. The worker with the highest handle gets its
    /// handle; the slots are the caller's to correct.
    pub fn remove_worker(&mut self, handle: Handle) -> Worker {
        self.first_tokens.swap_remove(handle as usize);
        self.workers.swap_remove(handle as usize)
    }

    pub fn worker(&self, handle: Handle) -> &Worker {
        &self.workers[handle as usize]
    }

    pub fn worker_mut(&mut self, handle: Handle) -> &mut Worker {
        &mut self.workers[handle as usize]
    }

    /// `None` only if there are no workers.
    pub fn owner(&self, key: &[u8]) -> Option<&InstanceId> {
        let owner = self.owner_of(self.hash(key))?;
        Some(&self.worker(owner).id)
    }

    /// The owner, then the best of the others: at most `replicas` workers, none twice.
    pub fn owners(&self, key: &[u8], replicas: usize) -> Vec<&InstanceId> {
        let hash = self.hash(key);
        let Some(further) = replicas.checked_sub(1) else { return Vec::new() };
        let Some(owner) = self.owner_of(hash) else { return Vec::new() };
        let mut owners = Vec::with_capacity(replicas.min(self.workers.len()));
        owners.push(&self.worker(owner).id);
        if further > 0 {
            let others = self.ranked(hash, further, owner);
            owners.extend(others.into_iter().map(|(_, handle)| &self.worker(handle).id));
        }
        owners
    }

    fn owner_of(&self, hash: u64) -> Option<Handle> {
        if self.workers.is_empty() {
            return None;
        }
        self.probed(hash).or_else(|| {
            let best = self.ranked(hash, 1, VACANT);
            best.first().map(|(_, handle)| *handle)
        })
    }

    /// The holder of the first held slot among those that jump finds.
    fn probed(&self, hash: u64) -> Option<Handle> {
        let slots = self.slots.len() as u32;
        let first = self.slots[jump(hash, slots) as usize];
        if first != VACANT {
            return Some(first);
        }
        (1..PROBES)
            .map(|probe| mix64(hash.wrapping_add(GAMMA.wrapping_mul(probe))))
            .map(|hash| self.slots[jump(hash, slots) as usize])
            .find(|holder| *holder != VACANT)
    }

    /// The workers of the highest scores with their scores, best first, without `except`.
    fn ranked(&self, hash: u64, count: usize, except: Handle) -> Vec<(u64, Handle)> {
        let mut best = Vec::with_capacity(count.min(self.workers.len()) + 1);
        let mut least = 0;
        for (handle, worker) in (0..).zip(&self.workers) {
            let score = self.score(hash, handle, worker);
            if score < least || handle == except {
                continue;
            }
            let at = best.partition_point(|(other, rival)| {
                *other > score || (*other == score && self.worker(*rival).id < worker.id)
            });
            best.insert(at, (score, handle));
            best.truncate(count);
            if best.len() == count {
                least = best[count - 1].0;
            }
        }
        best
    }

    /// The largest draw of the worker's copies.
    fn score(&self, hash: u64, handle: Handle, worker: &Worker) -> u64 {
        let first = mix64(hash ^ self.first_tokens[handle as usize]);
        (1..u64::from(worker.weight))
            .map(|copy| mix64(hash ^ token(worker.id_hash, copy)))
            .fold(first, u64::max)
    }

    /// An estimate of the memory held, without the texts of ids, which are shared.
    pub fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Handle>()
            + self.workers.capacity() * size_of::<Worker>()
            + self.first_tokens.capacity() * size_of::<u64>()
    }
}

/// `Vec::push` that leaves a sixteenth of room, not as much again: a ring is copied exactly before
/// most changes, so doubling would leave half of the memory of each unused.
pub(super) fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 16 + 4);
    }
    list.push(item);
}
