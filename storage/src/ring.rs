//! Key rings: which worker of an app owns a key.
//!
//! Keys are unlimited and unknown. A worker of weight w holds w numbered *slots*, and jump
//! consistent hash finds a key's slot; a slot that nobody holds is passed over by looking again,
//! at most eight times, after which the best score among all workers decides. So the owners depend
//! on who holds which slot alone, and not on how it came to be; and a change moves no key but those
//! that the changed worker loses or gains.
//!
//! [`Ring`] is the replicated state and what look-ups run on in a node. [`Description`] is what
//! clients fetch, [`View`] what they compute with. `docs/ring.md` fixes all of it to the bit, for
//! those who write a client in another language.

pub mod arithmetic;
mod description;
mod fingerprint;
mod holes;
mod state;
mod table;
mod view;

use serde::{Deserialize, Serialize};

pub use description::{Description, Malformed, VERSION};
pub use view::View;

use self::holes::Holes;
use self::state::State;
use self::table::{END, Handle, Table, VACANT, push};
use crate::limits::{RING_REPLICAS_MAX, RING_SEED_MAX, RING_SLOTS_MAX, WEIGHT_MAX};
use crate::names::{InstanceId, Revision};

/// The name of the algorithm in descriptions: whoever knows another one must not compute owners.
pub const KIND: &str = "jump-probe-1";

/// A ring: its workers, who holds which slot, and since when slots are vacant.
///
/// Equal rings show the same state. Look-ups of equal rings give equal owners.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "State", try_from = "State")]
pub struct Ring {
    replicas: u8,
    epoch: Revision,
    table: Table,
    /// Chains the slots of each worker, in any order: for each held slot another one of its
    /// holder, or [`END`].
    chain: Vec<u32>,
    /// All handles by ascending id.
    by_id: Vec<Handle>,
    holes: Holes,
    /// The sum over the held slots.
    held_fingerprint: u64,
}

/// What became of a worker that joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The worker is new, or has another weight than before.
    Changed,
    /// The worker had this weight already, or the weight is not one of 1 to [`WEIGHT_MAX`].
    Unchanged,
    /// The total weight would pass [`RING_SLOTS_MAX`]; nothing changed.
    Full,
}

impl Ring {
    /// A ring without workers. `seed` is taken as at most [`RING_SEED_MAX`] and `replicas` as 1 to
    /// [`RING_REPLICAS_MAX`].
    pub fn new(seed: u64, replicas: u8) -> Self {
        Self {
            replicas: replicas.clamp(1, RING_REPLICAS_MAX),
            epoch: Revision(0),
            table: Table::new(seed.min(RING_SEED_MAX)),
            chain: Vec::new(),
            by_id: Vec::new(),
            holes: Holes::default(),
            held_fingerprint: 0,
        }
    }

    /// What keys and ids are hashed with.
    pub fn seed(&self) -> u64 {
        self.table.seed
    }

    /// How many workers hold a key if a request does not say, 1 to [`RING_REPLICAS_MAX`].
    pub fn replicas(&self) -> u8 {
        self.replicas
    }

    /// The revision of the last entry that changed the ring, 0 at first.
    pub fn epoch(&self) -> Revision {
        self.epoch
    }

    /// For the end of an entry in which an operation changed something.
    pub fn set_epoch(&mut self, epoch: Revision) {
        self.epoch = epoch;
    }

    /// Whether that changed the number. A number out of range changes nothing.
    pub fn set_replicas(&mut self, replicas: u8) -> bool {
        let changes = (1..=RING_REPLICAS_MAX).contains(&replicas) && replicas != self.replicas;
        if changes {
            self.replicas = replicas;
        }
        changes
    }

    /// Lets a worker take part with a weight, or changes the weight that it has.
    pub fn join(&mut self, id: &InstanceId, weight: u16) -> Joined {
        let old = self.weight_of(id).unwrap_or(0);
        if weight == old || !(1..=WEIGHT_MAX).contains(&weight) {
            return Joined::Unchanged;
        }
        if weight > old && self.held() + usize::from(weight - old) > RING_SLOTS_MAX {
            return Joined::Full;
        }
        let worker = self.find_or_add(id);
        if weight > old {
            for _ in old..weight {
                let slot = self.free_slot_for(id);
                self.hold(slot, worker);
            }
        } else {
            self.vacate(worker, usize::from(weight));
        }
        Joined::Changed
    }

    /// Forgets a worker; its slots become vacant. Whether it was there.
    pub fn leave(&mut self, id: &InstanceId) -> bool {
        let Ok(at) = self.place_of(id) else { return false };
        let worker = self.by_id[at];
        self.vacate(worker, 0);
        self.forget(at);
        true
    }

    /// Moves workers from the highest slots into the vacant ones until no slot is vacant. Moves
    /// many keys: 19 % of them with a tenth of the slots vacant. Whether anything changed.
    pub fn compact(&mut self) -> bool {
        if self.holes.is_empty() {
            return false;
        }
        let held = self.held();
        let mut movers: Vec<Handle> = self.table.slots.split_off(held);
        movers.retain(|holder| *holder != VACANT);
        for slot in &mut self.table.slots {
            if *slot == VACANT {
                // As many are held above as are vacant below.
                *slot = movers.pop().unwrap_or(VACANT);
            }
        }
        self.table.slots.shrink_to_fit();
        self.holes = Holes::default();
        self.chain_anew();
        true
    }

    /// How many workers there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are no workers.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The weight of a worker, `None` if it is not there.
    pub fn weight_of(&self, id: &InstanceId) -> Option<u16> {
        let at = self.place_of(id).ok()?;
        Some(self.table.worker(self.by_id[at]).weight)
    }

    /// Ids and weights by ascending id.
    pub fn workers(&self) -> impl ExactSizeIterator<Item = (&InstanceId, u16)> {
        self.by_id.iter().map(|handle| {
            let worker = self.table.worker(*handle);
            (&worker.id, worker.weight)
        })
    }

    /// How many slots there are, held and vacant.
    pub fn slots(&self) -> usize {
        self.table.slots.len()
    }

    /// Who holds each slot, `None` where it is vacant.
    pub fn holders(&self) -> impl ExactSizeIterator<Item = Option<&InstanceId>> {
        self.table.slots.iter().map(|holder| match *holder {
            VACANT => None,
            holder => Some(&self.table.worker(holder).id),
        })
    }

    /// How many slots are vacant.
    pub fn vacant(&self) -> usize {
        self.holes.len()
    }

    /// The vacant slots with their last holders, the longest vacant first.
    pub fn holes(&self) -> impl Iterator<Item = (u32, &InstanceId)> {
        self.holes.iter()
    }

    /// The worker that owns a key, `None` only if there are no workers.
    pub fn owner(&self, key: &[u8]) -> Option<&InstanceId> {
        self.table.owner(key)
    }

    /// The owner of a key first, then those who hold its copies: `replicas` workers, or all if
    /// there are fewer. Meant for few replicas; each further one costs a little for all workers.
    pub fn owners(&self, key: &[u8], replicas: usize) -> Vec<&InstanceId> {
        self.table.owners(key, replicas)
    }

    /// What clients compute owners from. `group` is the name of the app.
    pub fn description(&self, group: &str) -> Description {
        Description {
            v: VERSION,
            kind: KIND.into(),
            group: group.into(),
            epoch: self.epoch,
            seed: self.seed(),
            replicas: u64::from(self.replicas),
            workers: self
                .workers()
                .map(|(id, weight)| (id.as_str().into(), weight.into()))
                .collect(),
            slots: self.places(),
        }
    }

    /// A number over all of the state but the epoch. Equal rings have equal fingerprints, whatever
    /// happened to them. Costs nothing: each operation keeps it up.
    pub fn fingerprint(&self) -> u64 {
        fingerprint::settings(self.seed(), self.replicas)
            .wrapping_add(self.held_fingerprint)
            .wrapping_add(self.holes.fingerprint())
    }

    /// The same number, worked out from the whole state: to check that nothing was forgotten.
    pub fn recomputed_fingerprint(&self) -> u64 {
        let hash = |id: &InstanceId| self.table.hash(id.as_str().as_bytes());
        let held = (0..).zip(self.holders()).filter_map(|(slot, holder)| Some((slot, holder?)));
        let held = held.map(|(slot, holder)| fingerprint::held(slot, hash(holder)));
        let before = std::iter::once(None).chain(self.holes().map(|(slot, _)| Some(slot)));
        let holes = before
            .zip(self.holes())
            .map(|(before, (slot, holder))| fingerprint::hole(before, slot, hash(holder)));
        held.chain(holes).fold(fingerprint::settings(self.seed(), self.replicas), u64::wrapping_add)
    }

    /// An estimate of the memory held, without the texts of ids: the instances' own records share
    /// them.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.table.memory_bytes()
            + self.chain.capacity() * size_of::<u32>()
            + self.by_id.capacity() * size_of::<Handle>()
            + self.holes.memory_bytes()
    }

    /// How many slots are held: the total weight.
    fn held(&self) -> usize {
        self.slots() - self.vacant()
    }

    /// Where an id is in `by_id`, or where it belongs.
    fn place_of(&self, id: &InstanceId) -> Result<usize, usize> {
        self.by_id.binary_search_by(|handle| self.table.worker(*handle).id.cmp(id))
    }

    /// For each slot, its holder's place among the ascending ids, or -1.
    fn places(&self) -> Vec<i64> {
        let mut places = vec![-1; self.by_id.len()];
        for (place, handle) in (0..).zip(&self.by_id) {
            places[*handle as usize] = place;
        }
        let place = |holder: &Handle| places.get(*holder as usize).copied().unwrap_or(-1);
        self.table.slots.iter().map(place).collect()
    }

    fn find_or_add(&mut self, id: &InstanceId) -> Handle {
        match self.place_of(id) {
            Ok(at) => self.by_id[at],
            Err(at) => {
                let worker = self.table.add_worker(id.clone());
                push(&mut self.by_id, worker);
                self.by_id[at..].rotate_right(1);
                worker
            }
        }
    }

    /// Its own newest hole, or else the oldest of anybody, or else a new slot.
    fn free_slot_for(&mut self, id: &InstanceId) -> u32 {
        self.holes.take_newest_of(id).or_else(|| self.holes.take_oldest()).unwrap_or_else(|| {
            push(&mut self.table.slots, VACANT);
            push(&mut self.chain, END);
            self.table.slots.len() as u32 - 1
        })
    }

    fn hold(&mut self, slot: u32, handle: Handle) {
        self.table.slots[slot as usize] = handle;
        let worker = self.table.worker_mut(handle);
        self.chain[slot as usize] = std::mem::replace(&mut worker.any_slot, slot);
        worker.weight += 1;
        self.held_fingerprint =
            self.held_fingerprint.wrapping_add(fingerprint::held(slot, worker.id_hash));
    }

    /// Leaves a worker its `keep` lowest slots. The others become vacant in ascending order.
    fn vacate(&mut self, handle: Handle, keep: usize) {
        let mut slots = self.slots_of(handle);
        slots.sort_unstable();
        let vacated = slots.split_off(keep.min(slots.len()));
        for slot in &vacated {
            self.table.slots[*slot as usize] = VACANT;
        }
        let worker = self.table.worker_mut(handle);
        worker.weight = 0;
        worker.any_slot = END;
        let (id, id_hash) = (worker.id.clone(), worker.id_hash);
        let all = slots.iter().chain(&vacated);
        let sum = all.fold(0, |sum: u64, slot| sum.wrapping_add(fingerprint::held(*slot, id_hash)));
        self.held_fingerprint = self.held_fingerprint.wrapping_sub(sum);
        for slot in slots {
            self.hold(slot, handle);
        }
        self.holes.push(&id, id_hash, vacated);
    }

    /// In any order.
    fn slots_of(&self, handle: Handle) -> Vec<u32> {
        let worker = self.table.worker(handle);
        let mut slots = Vec::with_capacity(worker.weight.into());
        let mut slot = worker.any_slot;
        while slot != END {
            slots.push(slot);
            slot = self.chain[slot as usize];
        }
        slots
    }

    /// Removes a worker that holds no slot; `at` is its place in `by_id`. The worker with the
    /// highest handle takes its handle over.
    fn forget(&mut self, at: usize) {
        let gone = self.by_id[at];
        let last = self.table.workers.len() as Handle - 1;
        if gone != last {
            if let Ok(place) = self.place_of(&self.table.worker(last).id) {
                self.by_id[place] = gone;
            }
            for slot in self.slots_of(last) {
                self.table.slots[slot as usize] = gone;
            }
        }
        self.by_id.remove(at);
        self.table.remove_worker(gone);
    }

    /// Builds from the slots what is derived from them: chains, weights, the fingerprint.
    fn chain_anew(&mut self) {
        for worker in &mut self.table.workers {
            worker.weight = 0;
            worker.any_slot = END;
        }
        self.held_fingerprint = 0;
        self.chain = vec![END; self.table.slots.len()];
        for slot in 0..self.table.slots.len() {
            let holder = self.table.slots[slot];
            if holder != VACANT {
                self.hold(slot as u32, holder);
            }
        }
    }
}

impl PartialEq for Ring {
    fn eq(&self, other: &Self) -> bool {
        (self.seed(), self.replicas, self.epoch) == (other.seed(), other.replicas, other.epoch)
            && self.workers().eq(other.workers())
            && self.holders().eq(other.holders())
            && self.holes().eq(other.holes())
    }
}
