//! What is derived from the records of a shard set, so that nothing has to walk over all of them.

use imbl::{OrdMap, OrdSet};

use super::Shard;
use super::plan::Place;
use crate::names::{InstanceId, ShardId};

/// A shard stands in each of these sets in the order of the plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    hands: OrdMap<InstanceId, Hand>,
    /// Without a holder.
    pub(super) orphans: OrdSet<Place>,
    /// Deleted, and held until their holders let go; in the order of ids.
    pub(super) gone: OrdSet<ShardId>,
    /// How many have a `next`.
    pub(super) pending: usize,
}

/// What one worker has to do with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hand {
    /// Held, and nobody else is to get it.
    pub(super) firm: OrdSet<Place>,
    /// Held, and to be let go for another worker.
    pub(super) leaving: OrdSet<Place>,
    /// Held, and to be let go because it is deleted.
    pub(super) gone: OrdSet<Place>,
    /// Another worker's, to be got from it.
    pub(super) awaited: OrdSet<Place>,
}

impl Hand {
    fn is_empty(&self) -> bool {
        self.firm.is_empty()
            && self.leaving.is_empty()
            && self.gone.is_empty()
            && self.awaited.is_empty()
    }

    /// The set that a shard of this worker stands in.
    fn held_like(&mut self, shard: &Shard) -> &mut OrdSet<Place> {
        if shard.gone {
            &mut self.gone
        } else if shard.next.is_some() {
            &mut self.leaving
        } else {
            &mut self.firm
        }
    }

    /// What it holds, whatever is to become of it; in no particular order.
    pub(super) fn held(&self) -> impl Iterator<Item = &Place> {
        self.firm.iter().chain(&self.leaving).chain(&self.gone)
    }

    /// How many it holds, whatever is to become of them.
    pub(super) fn held_count(&self) -> usize {
        self.firm.len() + self.leaving.len() + self.gone.len()
    }

    /// How many of the shards that are not deleted it holds.
    pub(super) fn load(&self) -> usize {
        self.firm.len() + self.leaving.len()
    }

    /// How many shards are planned on it.
    pub(super) fn planned(&self) -> usize {
        self.firm.len() + self.awaited.len()
    }
}

impl Index {
    pub(super) fn hand(&self, worker: &InstanceId) -> Option<&Hand> {
        self.hands.get(worker)
    }

    pub(super) fn insert(&mut self, place: &Place, shard: &Shard) {
        match &shard.holder {
            None => {
                self.orphans.insert(place.clone());
            }
            Some(holder) => {
                let hand = self.hands.entry(holder.clone()).or_default();
                hand.held_like(shard).insert(place.clone());
            }
        }
        if let Some(next) = &shard.next {
            self.hands.entry(next.clone()).or_default().awaited.insert(place.clone());
            self.pending += 1;
        }
        if shard.gone {
            self.gone.insert(place.id.clone());
        }
    }

    pub(super) fn remove(&mut self, place: &Place, shard: &Shard) {
        match &shard.holder {
            None => {
                self.orphans.remove(place);
            }
            Some(holder) => self.change_hand(holder, |hand| {
                hand.held_like(shard).remove(place);
            }),
        }
        if let Some(next) = &shard.next {
            self.change_hand(next, |hand| {
                hand.awaited.remove(place);
            });
            self.pending -= 1;
        }
        if shard.gone {
            self.gone.remove(&place.id);
        }
    }

    fn change_hand(&mut self, worker: &InstanceId, change: impl FnOnce(&mut Hand)) {
        if let Some(hand) = self.hands.get_mut(worker) {
            change(hand);
            if hand.is_empty() {
                self.hands.remove(worker);
            }
        }
    }
}
