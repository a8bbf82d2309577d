//! A ring as clients fetch it, and why one can be refused.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::KIND;
use super::table::{Table, VACANT};
use crate::limits::{RING_REPLICAS_MAX, RING_SEED_MAX, RING_SLOTS_MAX, WEIGHT_MAX};
use crate::names::{InstanceId, InvalidName, Revision};

/// The version of the description's shape.
pub const VERSION: u64 = 1;

/// All that is needed to compute owners, as JSON or as the same map in MessagePack. All numbers are
/// integers below 2^53. Fields that this program does not know are ignored when one is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// [`VERSION`].
    pub v: u64,
    /// [`KIND`].
    pub kind: SmolStr,
    /// Whose ring this is: the name of the app.
    pub group: SmolStr,
    /// The revision of the last change, 0 if there was none.
    pub epoch: Revision,
    /// What keys and ids are hashed with.
    pub seed: u64,
    /// How many workers hold a key if a request does not say.
    pub replicas: u64,
    /// Ids and weights, by strictly ascending id.
    pub workers: Vec<(SmolStr, u64)>,
    /// Who holds each slot: a place in `workers`, counted from 0, or -1 where it is vacant.
    pub slots: Vec<i64>,
}

/// Why a description, or the state in a checkpoint, is not that of a ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error(
        "the ring's description has version {0}; this program reads version {VERSION}: update it"
    )]
    Version(u64),
    #[error("the ring is of kind {0:?}; this program computes {KIND:?} only: update it")]
    Kind(SmolStr),
    #[error("the ring's {field} must be {min} to {max}, not {value}")]
    Number { field: &'static str, value: u64, min: u64, max: u64 },
    #[error("the id of worker {place} of the ring {why}")]
    Id { place: usize, why: InvalidName },
    #[error(
        "worker {id:?} of the ring is not above the one before it: ids must be ascending bytes, none twice"
    )]
    Order { id: InstanceId },
    #[error("worker {id:?} of the ring has weight {weight}; it must be 1 to {WEIGHT_MAX}")]
    Weight { id: InstanceId, weight: u64 },
    #[error("the ring has {0} slots; the limit is {RING_SLOTS_MAX}")]
    TooManySlots(usize),
    #[error(
        "slot {slot} of the ring says {says}; it must be -1 or a place among its {workers} workers"
    )]
    Slot { slot: usize, says: i64, workers: usize },
    #[error("worker {id:?} of the ring holds {slots} slots, but its weight is {weight}")]
    Share { id: InstanceId, weight: u64, slots: u64 },
    #[error("slot {0} is listed as vacant, but it is held, not there, or listed twice")]
    Hole(u32),
    #[error("{listed} of {vacant} vacant slots of the ring are listed; all must be")]
    Holes { listed: usize, vacant: usize },
}

impl Description {
    /// Checks all of it, and gives what look-ups run on; handles are in the order of ids.
    pub(super) fn table(&self) -> Result<Table, Malformed> {
        if self.v != VERSION {
            return Err(Malformed::Version(self.v));
        }
        if self.kind != KIND {
            return Err(Malformed::Kind(self.kind.clone()));
        }
        check_settings(self.epoch, self.seed, self.replicas)?;
        let workers = (0..).zip(&self.workers).map(|(place, (id, weight))| {
            match InstanceId::new(id.clone()) {
                Ok(id) => Ok((id, *weight)),
                Err(why) => Err(Malformed::Id { place, why }),
            }
        });
        assemble(self.seed, workers, &self.slots)
    }
}

pub(super) fn check_settings(epoch: Revision, seed: u64, replicas: u64) -> Result<(), Malformed> {
    let check = |field, value, min, max| match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(Malformed::Number { field, value, min, max }),
    };
    check("epoch", epoch.0, 0, (1 << 53) - 1)?;
    check("seed", seed, 0, RING_SEED_MAX)?;
    check("replicas", replicas, 1, RING_REPLICAS_MAX.into())
}

/// A table of workers with their weights by ascending id, and of slots by places among them.
pub(super) fn assemble(
    seed: u64,
    workers: impl Iterator<Item = Result<(InstanceId, u64), Malformed>>,
    slots: &[i64],
) -> Result<Table, Malformed> {
    if slots.len() > RING_SLOTS_MAX {
        return Err(Malformed::TooManySlots(slots.len()));
    }
    let mut table = Table::new(seed);
    let mut weights = Vec::new();
    for worker in workers {
        let (id, weight) = worker?;
        if table.workers.last().is_some_and(|before| before.id >= id) {
            return Err(Malformed::Order { id });
        }
        if !(1..=u64::from(WEIGHT_MAX)).contains(&weight) {
            return Err(Malformed::Weight { id, weight });
        }
        table.add_worker(id);
        weights.push(weight);
    }
    let mut held = vec![0; weights.len()];
    table.slots.reserve_exact(slots.len());
    for (slot, says) in slots.iter().enumerate() {
        table.slots.push(match usize::try_from(*says) {
            Ok(place) if place < held.len() => {
                held[place] += 1;
                place as u32
            }
            _ if *says == -1 => VACANT,
            _ => return Err(Malformed::Slot { slot, says: *says, workers: held.len() }),
        });
    }
    for ((worker, weight), slots) in table.workers.iter_mut().zip(weights).zip(held) {
        if slots != weight {
            return Err(Malformed::Share { id: worker.id.clone(), weight, slots });
        }
        worker.weight = weight as u16;
    }
    Ok(table)
}
