//! The plan: who should work on each shard. A pure function that keeps what it can, moves as few
//! shards as any plan with such loads must, and gives the same answer wherever it is worked out.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdSet;
use smol_str::SmolStr;

use super::ranking::{Ranking, hash};
use crate::limits::STANDBY_LOOKS_MAX;
use crate::names::{InstanceId, ShardId};

/// A shard's place in the order in which shards are planned: by the hash of its id, then the id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) hash: u64,
    pub(super) id: ShardId,
}

impl Place {
    pub(super) fn new(seed: u64, id: &ShardId) -> Self {
        Self { hash: hash(seed, id.as_str()), id: id.clone() }
    }
}

/// What [`plan`] is worked out from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    pub shards: BTreeSet<ShardId>,
    /// The workers that may be planned.
    pub workers: BTreeMap<InstanceId, Member>,
    /// Who has each shard or is about to get it. What names no worker or no shard of the above is
    /// ignored.
    pub planned: BTreeMap<ShardId, InstanceId>,
    /// The shards whose planned worker was not granted them yet: they move first.
    pub soft: BTreeSet<ShardId>,
    /// 1: the holder only. With more, an orphan goes to one of its standbys if one has room.
    pub copies: u8,
    pub seed: u64,
}

/// A worker as [`plan`] sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// At least 1; 0 is taken as 1.
    pub weight: u16,
    /// Equal text is the same zone, the empty text too.
    pub zone: SmolStr,
}

/// A worker for each shard; empty if there are no workers.
///
/// Each load is the worker's exact share by weight, rounded down or up, and no plan with such loads
/// keeps more shards where they are planned.
pub fn plan(input: &Input) -> BTreeMap<ShardId, InstanceId> {
    let (seats, loose) = input.seats();
    let mut target: BTreeMap<ShardId, InstanceId> = seats
        .iter()
        .flat_map(|seat| {
            seat.firm.iter().chain(&seat.soft).map(|place| (place.id.clone(), seat.id.clone()))
        })
        .collect();
    for (place, worker) in replan(&seats, loose, input.copies).placed {
        target.insert(place.id, worker);
    }
    target
}

/// The workers that follow `owner` for a shard, best first: `copies - 1` of them or as many as there
/// are, never `owner`, in as many zones as they can be.
pub fn standbys(input: &Input, shard: &ShardId, owner: Option<&InstanceId>) -> Vec<InstanceId> {
    let (seats, _) = input.seats();
    let owner = owner.and_then(|id| seats.binary_search_by(|seat| seat.id.cmp(id)).ok());
    let zone = owner.map(|seat| seats[seat].zone);
    let count = usize::from(input.copies).saturating_sub(1);
    ranking(&seats)
        .best(hash(input.seed, shard.as_str()), owner, zone, count)
        .map(|seat| seats[seat].id.clone())
        .collect()
}

impl Input {
    /// The workers with what is planned on them, and the shards planned on nobody.
    fn seats(&self) -> (Vec<Seat<'_>>, Vec<Place>) {
        let mut seats: Vec<Seat<'_>> = self
            .workers
            .iter()
            .map(|(id, member)| Seat::new(self.seed, id, member.weight, &member.zone))
            .collect();
        let mut loose = Vec::new();
        for shard in &self.shards {
            let place = Place::new(self.seed, shard);
            let seat = self
                .planned
                .get(shard)
                .and_then(|worker| seats.binary_search_by(|seat| seat.id.cmp(worker)).ok());
            match seat {
                Some(seat) if self.soft.contains(shard) => {
                    seats[seat].soft.insert(place);
                }
                Some(seat) => {
                    seats[seat].firm.insert(place);
                }
                None => loose.push(place),
            }
        }
        (seats, loose)
    }
}

/// A worker that may be planned, with what is planned on it.
pub(super) struct Seat<'a> {
    pub(super) id: &'a InstanceId,
    weight: u16,
    zone: &'a str,
    hash: u64,
    /// What it holds and may keep.
    pub(super) firm: OrdSet<Place>,
    /// What it is to get and was not granted yet.
    pub(super) soft: OrdSet<Place>,
}

impl<'a> Seat<'a> {
    pub(super) fn new(seed: u64, id: &'a InstanceId, weight: u16, zone: &'a str) -> Self {
        Self {
            id,
            weight: weight.max(1),
            zone,
            hash: hash(seed, id.as_str()),
            firm: OrdSet::new(),
            soft: OrdSet::new(),
        }
    }

    fn planned(&self) -> usize {
        self.firm.len() + self.soft.len()
    }
}

pub(super) fn ranking<'a>(seats: &[Seat<'a>]) -> Ranking<'a> {
    Ranking::new(seats.iter().map(|seat| (seat.hash, seat.weight, seat.zone)))
}

/// How a plan differs from what was planned before.
pub(super) struct Replanned {
    /// The shards that get another worker, or a first one.
    pub(super) placed: Vec<(Place, InstanceId)>,
    /// How many of them a worker of the plan had to give up.
    pub(super) voluntary: usize,
    /// How many the workers must give up in any plan with such loads.
    pub(super) fewest: usize,
}

/// Plans the shards of `seats`, in the order of ids, and the `loose` ones, which nobody has. What is
/// not among the answer stays where it is. Costs what moves, not what there is.
pub(super) fn replan(seats: &[Seat<'_>], mut loose: Vec<Place>, copies: u8) -> Replanned {
    if seats.is_empty() {
        return Replanned { placed: Vec::new(), voluntary: 0, fewest: 0 };
    }
    let planned: usize = seats.iter().map(Seat::planned).sum();
    let shares = shares(planned + loose.len(), seats);
    let loose_before = loose.len();
    let mut room = Vec::with_capacity(seats.len());
    for (seat, share) in seats.iter().zip(&shares.loads) {
        room.push(share - keep(seat, *share, &mut loose));
    }
    let voluntary = loose.len() - loose_before;
    loose.sort_unstable();
    let placed = place(seats, loose, room, copies);
    Replanned { placed, voluntary, fewest: planned - shares.kept_at_most }
}

/// How many shards each worker gets.
struct Shares {
    /// In the order of workers; together all shards.
    loads: Vec<usize>,
    /// How many shards can stay where they are planned under any loads that are exact shares
    /// rounded down or up.
    kept_at_most: usize,
}

/// Rounds each worker's share down, then gives what is left, one each, to those who save a move by
/// it, then to those who lose most by the rounding, then by id.
fn shares(shards: usize, seats: &[Seat<'_>]) -> Shares {
    let weights: u64 = seats.iter().map(|seat| u64::from(seat.weight)).sum();
    let exact = |seat: &Seat<'_>| shards as u64 * u64::from(seat.weight);
    let mut loads: Vec<usize> = seats.iter().map(|seat| (exact(seat) / weights) as usize).collect();
    let kept: usize =
        seats.iter().zip(&loads).map(|(seat, quota)| seat.planned().min(*quota)).sum();

    // Ascending by what comes first; sorting keeps workers that are equal in the order of ids.
    let mut rounded: Vec<(bool, u64, usize)> = seats
        .iter()
        .enumerate()
        .map(|(n, seat)| (seat.planned() <= loads[n], exact(seat) % weights, n))
        .filter(|(_, remainder, _)| *remainder > 0)
        .collect();
    rounded.sort_by_key(|(saves_nothing, remainder, _)| (*saves_nothing, u64::MAX - remainder));
    let extra = shards - loads.iter().sum::<usize>();
    let saving = rounded.iter().filter(|(saves_nothing, ..)| !saves_nothing).count();
    for (_, _, n) in rounded.into_iter().take(extra) {
        loads[n] += 1;
    }
    Shares { loads, kept_at_most: kept + saving.min(extra) }
}

/// Keeps up to `share` shards of a worker, those that it holds first, and adds the others to
/// `loose`. Returns how many stay.
fn keep(seat: &Seat<'_>, share: usize, loose: &mut Vec<Place>) -> usize {
    let firm = seat.firm.len().min(share);
    let soft = seat.soft.len().min(share - firm);
    loose.extend(seat.firm.iter().rev().take(seat.firm.len() - firm).cloned());
    loose.extend(seat.soft.iter().rev().take(seat.soft.len() - soft).cloned());
    firm + soft
}

/// Gives the loose shards, in their order, to workers with room: each to one of its standbys, if
/// there are any and they have room, the others to workers in the order of ids. Only the first of very
/// many look for standbys, see [`STANDBY_LOOKS_MAX`].
fn place(
    seats: &[Seat<'_>],
    loose: Vec<Place>,
    mut room: Vec<usize>,
    copies: u8,
) -> Vec<(Place, InstanceId)> {
    let mut placed = Vec::with_capacity(loose.len());
    let loose = if copies > 1 && !loose.is_empty() {
        let standbys = usize::from(copies) - 1;
        let weights: u64 = seats.iter().map(|seat| u64::from(seat.weight)).sum();
        let ranked = STANDBY_LOOKS_MAX / (weights + (seats.len() * standbys * standbys) as u64);
        let ranking = ranking(if ranked == 0 { &[] } else { seats });
        let mut loose = loose.into_iter();
        let mut left = Vec::new();
        for place in loose.by_ref().take(ranked as usize) {
            let mut preferred = ranking.best(place.hash, None, None, standbys);
            match preferred.find(|seat| room[*seat] > 0) {
                Some(seat) => {
                    room[seat] -= 1;
                    placed.push((place, seats[seat].id.clone()));
                }
                None => left.push(place),
            }
        }
        left.extend(loose);
        left
    } else {
        loose
    };
    let free = seats.iter().zip(room).flat_map(|(seat, room)| std::iter::repeat_n(seat.id, room));
    placed.extend(loose.into_iter().zip(free.cloned()));
    placed
}
