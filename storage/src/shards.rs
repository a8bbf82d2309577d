//! Shard sets: who works on which shard, and how a shard goes from one worker to the next.
//!
//! A [`Group`] is the state of one shard set: its workers and a record per shard. Its operations are
//! carried out in log entries. [`Group::rebalance`] works out the plan ([`plan`]) and changes only
//! the records that differ from it: a shard that nobody holds is granted at once, one that another
//! worker holds gets a `next` and goes over when its holder lets go or dies. So no two workers are
//! ever granted one shard at a time, and shards that stay are not touched.
//!
//! A grant is the log index at which a worker got the shard: it only rises, and names one holder
//! for ever, so whatever a worker writes to can refuse the holders of the past.
//!
//! [`scaling`] decides how many workers there should be.

mod index;
mod plan;
mod ranking;
pub mod scaling;
mod simulate;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::names::{InstanceId, Revision, ShardId};
use index::Index;
pub use plan::{Input, Member, plan, standbys};
use plan::{Place, Replanned, Seat, replan};
use ranking::{Ranking, hash};
pub use simulate::{LoadChange, Move, Simulation};

/// A worker of a shard set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its share is in proportion to it. At least 1; 0 is taken as 1.
    pub weight: u16,
    /// Standbys are spread over zones; equal text is the same zone, the empty text too.
    pub zone: SmolStr,
    /// False while it drains or is in maintenance: it keeps what it holds until it lets go, and the
    /// plan does not see it.
    pub available: bool,
}

/// The record of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Who works on it and nobody else. None: nobody, it is an orphan.
    pub holder: Option<InstanceId>,
    /// The log index at which the last holder got it; 0: nobody ever had it.
    pub grant: Revision,
    /// Who gets it when its holder lets go. Never set without a holder.
    pub next: Option<InstanceId>,
    /// Deleted, and kept only until its holder lets go.
    pub gone: bool,
}

impl Shard {
    /// Who has it or is about to get it.
    pub fn planned(&self) -> Option<&InstanceId> {
        self.next.as_ref().or(self.holder.as_ref())
    }
}

/// What became of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// The worker has the shard no more.
    Freed,
    /// The worker does not hold the shard under that grant; nothing changed. The record's own grant
    /// and holder say who does.
    StaleToken { grant: Revision, holder: Option<InstanceId> },
    /// There is no such shard, nor one that waits to be let go.
    Unknown,
}

/// A record that an entry changed. Both `None` never occur.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub shard: ShardId,
    /// Before the entry.
    pub before: Option<Shard>,
    /// After the entry.
    pub now: Option<Shard>,
}

/// How many there are of what. A shard counts from its first `add` until its `del`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Not counting those that are gone.
    pub shards: usize,
    /// Shards with a holder.
    pub assigned: usize,
    /// Shards that wait for their holder to let go for another worker.
    pub pending: usize,
    /// Shards without a holder.
    pub orphaned: usize,
    /// Deleted, and not let go yet. In none of the numbers above.
    pub gone: usize,
    pub workers: usize,
    /// Workers that the plan sees.
    pub available_workers: usize,
}

/// How many shards one worker has to do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Held, those that it has to let go too.
    pub held: usize,
    /// Of these, those that it has to let go: for another worker, or because they are deleted.
    pub releasing: usize,
    /// Those that it gets when their holders let go.
    pub incoming: usize,
    /// Those that are planned on it: what it holds and keeps, and what it is to get.
    pub planned: usize,
}

/// Why a rebalance should follow, the least pressing first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unplanned {
    /// Something changed that the plan depends on; shards are worked on as before, or are new.
    Gain,
    /// A worker died and left shards that nobody works on.
    Loss,
}

/// The state of one shard set. A clone is a version of its own and costs next to nothing.
#[derive(Clone, Debug)]
pub struct Group {
    seed: u64,
    copies: u8,
    epoch: Revision,
    workers: OrdMap<InstanceId, Worker>,
    /// In the order of the plan, so that nothing is sorted to make one.
    shards: OrdMap<Place, Shard>,
    // Derived from the maps above.
    index: Index,
    /// How many of the workers the plan sees.
    available: usize,
    /// What this entry touched, with the record before each change; empty between entries.
    journal: Vec<(Place, Option<Shard>)>,
    /// On this node only: it says when to propose a rebalance, not what is true.
    unplanned: Option<Unplanned>,
}

/// Of what is replicated; two groups that are equal go on equally.
impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        self.seed == other.seed
            && self.copies == other.copies
            && self.epoch == other.epoch
            && self.workers == other.workers
            && self.shards == other.shards
    }
}

/// Empty, with seed 0 and no standbys.
impl Default for Group {
    fn default() -> Self {
        Self::new(0, 1)
    }
}

impl Group {
    /// An empty group. `seed` is below 2^53; `copies` is 1 to
    /// [`SHARD_COPIES_MAX`](crate::limits::SHARD_COPIES_MAX), the holder counted.
    pub fn new(seed: u64, copies: u8) -> Self {
        Self {
            seed,
            copies,
            epoch: Revision(0),
            workers: OrdMap::new(),
            shards: OrdMap::new(),
            index: Index::default(),
            available: 0,
            journal: Vec::new(),
            unplanned: None,
        }
    }

    // Operations. An entry may carry out several; `finish` ends it.

    /// A worker that is here from now, or has other properties from now.
    pub fn up(&mut self, id: &InstanceId, worker: Worker) {
        let available = worker.available;
        let before = self.workers.insert(id.clone(), worker);
        if self.workers.get(id) == before.as_ref() {
            return;
        }
        if before.is_some_and(|before| before.available) {
            self.available -= 1;
        }
        if available {
            self.available += 1;
        }
        self.note(Unplanned::Gain);
    }

    /// A worker that is dead or left, and has stopped: its shards go to their `next`, the others
    /// are orphans, and nobody waits to give it any.
    pub fn down(&mut self, at: Revision, id: &InstanceId) {
        let Some(worker) = self.workers.remove(id) else { return };
        if worker.available {
            self.available -= 1;
        }
        self.note(Unplanned::Gain);
        for place in self.awaited_places(id) {
            self.change(&place, |shard| shard.next = None);
        }
        for place in self.held_places(id) {
            if self.free(at, &place) == Freed::Orphaned {
                self.note(Unplanned::Loss);
            }
        }
    }

    /// A shard that is to be worked on, also if it was deleted and is still held.
    pub fn add(&mut self, id: &ShardId) {
        let place = self.place(id);
        match self.shards.get(&place) {
            None => self.put(place, Some(Shard::default())),
            Some(shard) if shard.gone => self.change(&place, |shard| shard.gone = false),
            Some(_) => return,
        }
        self.note(Unplanned::Gain);
    }

    /// A shard that is to be worked on no more. While it is held, its record stays as `gone`.
    pub fn del(&mut self, id: &ShardId) {
        let place = self.place(id);
        match self.shards.get(&place) {
            None => return,
            Some(shard) if shard.gone => return,
            Some(shard) if shard.holder.is_none() => self.put(place, None),
            Some(_) => self.change(&place, |shard| {
                shard.gone = true;
                shard.next = None;
            }),
        }
        self.note(Unplanned::Gain);
    }

    /// A worker lets a shard go that it got under `grant`.
    pub fn release(
        &mut self,
        at: Revision,
        worker: &InstanceId,
        shard: &ShardId,
        grant: Revision,
    ) -> Released {
        let place = self.place(shard);
        match self.shards.get(&place) {
            None => Released::Unknown,
            Some(record) if record.holder.as_ref() == Some(worker) && record.grant == grant => {
                self.let_go(at, &place);
                Released::Freed
            }
            Some(record) => {
                Released::StaleToken { grant: record.grant, holder: record.holder.clone() }
            }
        }
    }

    /// An operator takes a shard away from whoever holds it: what that worker does from now on it
    /// does without a right to. A shard that nobody holds is left as it is.
    pub fn force_release(&mut self, at: Revision, shard: &ShardId) -> Released {
        let place = self.place(shard);
        match self.shards.get(&place) {
            None => Released::Unknown,
            Some(record) => {
                if record.holder.is_some() {
                    self.let_go(at, &place);
                }
                Released::Freed
            }
        }
    }

    /// Brings the records in line with the plan: grants what nobody holds, asks for what is held
    /// by another than planned, calls off what is not asked for any more. True if a record changed.
    /// Costs what moves and what there are of workers, not what there is of shards.
    pub fn rebalance(&mut self, at: Revision) -> bool {
        let touched = self.journal.len();
        if self.available == 0 {
            self.call_off_all();
        } else {
            for (place, target) in self.replanned().placed {
                self.aim(at, &place, target);
            }
        }
        self.unplanned = None;
        self.journal.len() > touched
    }

    /// How many workers know of a shard, its holder counted; 1 to
    /// [`SHARD_COPIES_MAX`](crate::limits::SHARD_COPIES_MAX).
    pub fn set_copies(&mut self, copies: u8) {
        if self.copies != copies {
            self.copies = copies;
            self.note(Unplanned::Gain);
        }
    }

    /// Ends the entry at `at`: what it changed in the end, in the order of ids. The epoch becomes
    /// `at` if an operation changed a record, even if a later one changed it back.
    pub fn finish(&mut self, at: Revision) -> Vec<Changed> {
        if self.journal.is_empty() {
            return Vec::new();
        }
        self.epoch = at;
        self.take_changes()
    }

    /// The net changes since the last call, in the order of ids.
    fn take_changes(&mut self) -> Vec<Changed> {
        let mut journal = std::mem::take(&mut self.journal);
        // Sorting keeps the order of changes of one record: the first tells what was before all.
        journal.sort_by(|(one, _), (other, _)| one.id.cmp(&other.id));
        journal.dedup_by(|(later, _), (first, _)| later.id == first.id);
        journal
            .into_iter()
            .map(|(place, before)| {
                let now = self.shards.get(&place).cloned();
                Changed { shard: place.id, before, now }
            })
            .filter(|changed| changed.before != changed.now)
            .collect()
    }

    // Checkpoints.

    /// Puts in a record that a checkpoint kept.
    pub fn insert_record(&mut self, id: ShardId, shard: Shard) {
        let place = self.place(&id);
        if let Some(before) = self.shards.remove(&place) {
            self.index.remove(&place, &before);
        }
        self.index.insert(&place, &shard);
        self.shards.insert(place, shard);
        // The plan may have been due when the checkpoint was written: it does not say.
        self.note(Unplanned::Gain);
    }

    /// The epoch that a checkpoint kept.
    pub fn set_epoch(&mut self, epoch: Revision) {
        self.epoch = epoch;
        self.note(Unplanned::Gain);
    }

    // Reading.

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn copies(&self) -> u8 {
        self.copies
    }

    /// The log index of the last entry that changed a record; 0: none did.
    pub fn epoch(&self) -> Revision {
        self.epoch
    }

    /// The record of a shard, also of one that is gone and still held.
    pub fn shard(&self, id: &ShardId) -> Option<&Shard> {
        self.shards.get(&self.place(id))
    }

    /// All records, those that are gone too, in the order of the plan, which is no order for people.
    pub fn shards(&self) -> impl Iterator<Item = (&ShardId, &Shard)> {
        self.shards.iter().map(|(place, shard)| (&place.id, shard))
    }

    /// The deleted shards that are still held, in the order of ids.
    pub fn gone(&self) -> impl Iterator<Item = &ShardId> {
        self.index.gone.iter()
    }

    pub fn worker(&self, id: &InstanceId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// In the order of ids.
    pub fn workers(&self) -> impl Iterator<Item = (&InstanceId, &Worker)> {
        self.workers.iter()
    }

    /// The shards that a worker holds, also those that it has to let go, in the order of ids.
    pub fn of_worker(&self, worker: &InstanceId) -> Vec<&ShardId> {
        let mut held: Vec<&ShardId> = self
            .index
            .hand(worker)
            .into_iter()
            .flat_map(index::Hand::held)
            .map(|p| &p.id)
            .collect();
        held.sort_unstable();
        held
    }

    /// The shards that a worker gets when their holders let go, in the order of ids.
    pub fn awaited_by(&self, worker: &InstanceId) -> Vec<&ShardId> {
        let mut awaited: Vec<&ShardId> = self
            .index
            .hand(worker)
            .into_iter()
            .flat_map(|hand| &hand.awaited)
            .map(|p| &p.id)
            .collect();
        awaited.sort_unstable();
        awaited
    }

    pub fn counts(&self) -> Counts {
        let (gone, orphaned) = (self.index.gone.len(), self.index.orphans.len());
        let shards = self.shards.len() - gone;
        Counts {
            shards,
            assigned: shards - orphaned,
            pending: self.index.pending,
            orphaned,
            gone,
            workers: self.workers.len(),
            available_workers: self.available,
        }
    }

    /// How many shards are planned on a worker: what it holds and keeps, and what it is to get.
    pub fn load(&self, worker: &InstanceId) -> usize {
        self.index.hand(worker).map_or(0, index::Hand::planned)
    }

    /// What a worker has to do with, in numbers; all 0 where it is not here.
    pub fn share(&self, worker: &InstanceId) -> Share {
        self.index.hand(worker).map_or_else(Share::default, |hand| Share {
            held: hand.held_count(),
            releasing: hand.leaving.len() + hand.gone.len(),
            incoming: hand.awaited.len(),
            planned: hand.planned(),
        })
    }

    /// How far what is *held* is from a balanced plan: the most shards that any worker the plan
    /// sees has above its share rounded up, or lacks of its share rounded down. 0: as even as whole
    /// shards can be. Moves that wait for their holders show here, since these still work.
    pub fn imbalance(&self) -> usize {
        let shards = self.counts().shards as u64;
        let weights: u64 = self.available_workers().map(|(_, worker)| weight(worker)).sum();
        let distance = |(id, worker): (&InstanceId, &Worker)| {
            let load = self.index.hand(id).map_or(0, index::Hand::load) as u64;
            let exact = shards * weight(worker);
            let (low, high) = (exact / weights, exact.div_ceil(weights));
            load.saturating_sub(high).max(low.saturating_sub(load)) as usize
        };
        self.available_workers().map(distance).max().unwrap_or(0)
    }

    /// Who should follow the planned worker of this shard, best first: `copies - 1` workers or as
    /// many as there are, in as many zones as they can be. To ask for many shards at once, see
    /// [`Group::standby_ranking`].
    pub fn standbys(&self, shard: &ShardId) -> Vec<InstanceId> {
        self.standby_ranking().standbys(shard)
    }

    /// The workers as they stand, ready to rank them for many shards.
    pub fn standby_ranking(&self) -> StandbyRanking<'_> {
        let ids: Vec<&InstanceId> = self.available_workers().map(|(id, _)| id).collect();
        let ranking = Ranking::new(self.available_workers().map(|(id, worker)| {
            (hash(self.seed, id.as_str()), worker.weight.max(1), worker.zone.as_str())
        }));
        StandbyRanking { group: self, ids, ranking }
    }

    /// Whether a rebalance should follow, as far as this node knows. `Some` after a checkpoint was
    /// read; in no comparison and no hash.
    pub fn unplanned(&self) -> Option<Unplanned> {
        self.unplanned
    }

    /// Checks what is derived from the records against them, and the records themselves.
    pub fn verify(&self) -> Result<(), String> {
        let mut index = Index::default();
        for (place, shard) in &self.shards {
            index.insert(place, shard);
            self.verify_record(place, shard).map_err(|why| format!("shard {}: {why}", place.id))?;
        }
        if index != self.index {
            return Err("the index of shards is not what the records give".to_owned());
        }
        if self.available_workers().count() != self.available {
            return Err(format!("{} workers are not available", self.available));
        }
        if !self.journal.is_empty() {
            return Err("the last entry was not finished".to_owned());
        }
        Ok(())
    }

    fn verify_record(&self, place: &Place, shard: &Shard) -> Result<(), &'static str> {
        let known = |worker: &Option<InstanceId>| {
            worker.as_ref().is_none_or(|id| self.workers.contains_key(id))
        };
        if *place != self.place(&place.id) {
            return Err("stands in the wrong place");
        }
        if !known(&shard.holder) || !known(&shard.next) {
            return Err("names a worker that is not here");
        }
        if shard.holder.is_none() && (shard.next.is_some() || shard.gone) {
            return Err("has no holder that could let it go");
        }
        if shard.next.is_some() && (shard.gone || shard.next == shard.holder) {
            return Err("is to go to nobody new");
        }
        Ok(())
    }

    /// What the next rebalance would give to whom, in no order for people. Nothing of it happens.
    pub fn next_moves(&self) -> Vec<(ShardId, InstanceId)> {
        self.replanned().placed.into_iter().map(|(place, worker)| (place.id, worker)).collect()
    }

    // Helpers.

    fn place(&self, id: &ShardId) -> Place {
        Place::new(self.seed, id)
    }

    fn note(&mut self, unplanned: Unplanned) {
        self.unplanned = self.unplanned.max(Some(unplanned));
    }

    fn available_workers(&self) -> impl Iterator<Item = (&InstanceId, &Worker)> {
        self.workers.iter().filter(|(_, worker)| worker.available)
    }

    fn held_places(&self, worker: &InstanceId) -> Vec<Place> {
        self.index.hand(worker).into_iter().flat_map(index::Hand::held).cloned().collect()
    }

    fn awaited_places(&self, worker: &InstanceId) -> Vec<Place> {
        self.index.hand(worker).into_iter().flat_map(|hand| &hand.awaited).cloned().collect()
    }

    /// The plan's difference from what is planned now.
    fn replanned(&self) -> Replanned {
        let seats: Vec<Seat<'_>> = self
            .available_workers()
            .map(|(id, worker)| {
                let mut seat = Seat::new(self.seed, id, worker.weight, &worker.zone);
                if let Some(hand) = self.index.hand(id) {
                    (seat.firm, seat.soft) = (hand.firm.clone(), hand.awaited.clone());
                }
                seat
            })
            .collect();
        replan(&seats, self.loose(), self.copies)
    }

    /// The shards that are planned on nobody whom the plan sees.
    fn loose(&self) -> Vec<Place> {
        let unavailable = self.workers.iter().filter(|(_, worker)| !worker.available);
        self.index
            .orphans
            .iter()
            .chain(
                unavailable
                    .filter_map(|(id, _)| self.index.hand(id))
                    .flat_map(|hand| hand.firm.iter().chain(&hand.awaited)),
            )
            .cloned()
            .collect()
    }

    /// Turns a shard towards the worker that the plan gives it.
    fn aim(&mut self, at: Revision, place: &Place, target: InstanceId) {
        self.change(place, |shard| {
            if shard.holder.is_none() {
                (shard.holder, shard.grant) = (Some(target), at);
                shard.next = None;
            } else if shard.holder.as_ref() == Some(&target) {
                shard.next = None;
            } else {
                shard.next = Some(target);
            }
        });
    }

    /// Without anybody to plan, whoever holds a shard keeps it.
    fn call_off_all(&mut self) {
        let workers: Vec<InstanceId> = self.workers.keys().cloned().collect();
        for place in
            workers.iter().flat_map(|worker| self.awaited_places(worker)).collect::<Vec<_>>()
        {
            self.change(&place, |shard| shard.next = None);
        }
    }

    /// Frees a shard whose holder lives.
    fn let_go(&mut self, at: Revision, place: &Place) {
        if self.free(at, place) == Freed::Orphaned {
            self.note(Unplanned::Gain);
        }
    }

    fn free(&mut self, at: Revision, place: &Place) -> Freed {
        let Some(shard) = self.shards.get(place) else { return Freed::Removed };
        if shard.gone {
            self.put(place.clone(), None);
            return Freed::Removed;
        }
        let Some(next) = shard.next.clone() else {
            self.change(place, |shard| shard.holder = None);
            return Freed::Orphaned;
        };
        self.change(place, |shard| {
            *shard = Shard { holder: Some(next), grant: at, next: None, gone: false };
        });
        Freed::HandedOver
    }

    /// Changes a record in its place.
    fn change(&mut self, place: &Place, change: impl FnOnce(&mut Shard)) {
        let Some(shard) = self.shards.get_mut(place) else { return };
        let before = shard.clone();
        change(shard);
        if *shard == before {
            return;
        }
        self.index.remove(place, &before);
        self.index.insert(place, shard);
        self.journal.push((place.clone(), Some(before)));
    }

    /// Makes a record or removes one.
    fn put(&mut self, place: Place, now: Option<Shard>) {
        if let Some(now) = &now {
            self.index.insert(&place, now);
        }
        let before = match now {
            Some(now) => self.shards.insert(place.clone(), now),
            None => self.shards.remove(&place),
        };
        if let Some(before) = &before {
            self.index.remove(&place, before);
        }
        self.journal.push((place, before));
    }
}

/// What became of a shard whose holder has it no more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Freed {
    HandedOver,
    Orphaned,
    Removed,
}

fn weight(worker: &Worker) -> u64 {
    u64::from(worker.weight.max(1))
}

/// The workers of a group, ranked for any number of its shards.
pub struct StandbyRanking<'a> {
    group: &'a Group,
    /// In the order of ids, as the ranking has them.
    ids: Vec<&'a InstanceId>,
    ranking: Ranking<'a>,
}

impl StandbyRanking<'_> {
    /// As [`Group::standbys`].
    pub fn standbys(&self, shard: &ShardId) -> Vec<InstanceId> {
        let owner = self.group.shard(shard).and_then(Shard::planned);
        let zone = owner.and_then(|id| self.group.worker(id)).map(|worker| worker.zone.as_str());
        let owner = owner.and_then(|id| self.ids.binary_search(&id).ok());
        let count = usize::from(self.group.copies).saturating_sub(1);
        self.ranking
            .best(hash(self.group.seed, shard.as_str()), owner, zone, count)
            .map(|worker| self.ids[worker].clone())
            .collect()
    }
}
