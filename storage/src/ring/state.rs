//! A ring in a checkpoint.

use serde::{Deserialize, Serialize};

use super::description::{assemble, check_settings};
use super::table::VACANT;
use super::{Malformed, Ring};
use crate::names::{InstanceId, Revision};

/// The observable state: workers by ascending id, slots by places among them (-1: vacant), holes
/// oldest first.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    seed: u64,
    replicas: u8,
    epoch: Revision,
    workers: Vec<(InstanceId, u64)>,
    slots: Vec<i64>,
    holes: Vec<(u32, InstanceId)>,
}

impl From<Ring> for State {
    fn from(ring: Ring) -> Self {
        Self {
            seed: ring.seed(),
            replicas: ring.replicas,
            epoch: ring.epoch,
            workers: ring.workers().map(|(id, weight)| (id.clone(), weight.into())).collect(),
            slots: ring.places(),
            holes: ring.holes().map(|(slot, holder)| (slot, holder.clone())).collect(),
        }
    }
}

impl TryFrom<State> for Ring {
    type Error = Malformed;

    fn try_from(state: State) -> Result<Self, Malformed> {
        check_settings(state.epoch, state.seed, state.replicas.into())?;
        let table = assemble(state.seed, state.workers.into_iter().map(Ok), &state.slots)?;
        check_holes(&table.slots, &state.holes)?;
        let mut ring = Self::new(state.seed, state.replicas);
        ring.epoch = state.epoch;
        ring.by_id = (0..table.workers.len() as u32).collect();
        ring.table = table;
        ring.chain_anew();
        for run in state.holes.chunk_by(|(_, one), (_, next)| one == next) {
            let slots = run.iter().map(|(slot, _)| *slot).collect();
            let holder = &run[0].1;
            let holder_hash = ring.table.hash(holder.as_str().as_bytes());
            ring.holes.push(holder, holder_hash, slots);
        }
        Ok(ring)
    }
}

/// Checks that each vacant slot is listed once and no other slot is.
fn check_holes(slots: &[u32], holes: &[(u32, InstanceId)]) -> Result<(), Malformed> {
    let mut unlisted: Vec<bool> = slots.iter().map(|holder| *holder == VACANT).collect();
    let vacant = unlisted.iter().filter(|vacant| **vacant).count();
    for (slot, _) in holes {
        match unlisted.get_mut(*slot as usize) {
            Some(unlisted @ true) => *unlisted = false,
            _ => return Err(Malformed::Hole(*slot)),
        }
    }
    if holes.len() != vacant {
        return Err(Malformed::Holes { listed: holes.len(), vacant });
    }
    Ok(())
}
