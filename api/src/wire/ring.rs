//! Rings, and who owns the keys that they spread.

use std::collections::{BTreeMap, BTreeSet};

use roster_storage::catalog::Instance;
use roster_storage::command::{Condition, PutRing};
use roster_storage::limits::{RING_REPLICAS_MAX, RING_SEED_MAX, WEIGHT_MAX};
use roster_storage::names::{AppName, InstanceId, Revision};
use roster_storage::ring::{Description, Joined, Ring};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::keys::{KeyView, Keys};
use crate::error::{ApiError, Invalid};
use crate::openapi::schemas::{Name, Replicas, Seed, Weight};
use crate::openapi::shapes::{OwnersOfKey, RingDescription};

/// Workers that one dry run may have leave and join. Beyond: `too-large`.
pub(crate) const SIMULATED_MAX: usize = 10_000;

/// Moved keys that are told one by one; all are counted.
const MOVES_MAX: usize = 1_000;

/// What `PUT` takes; what is left out is the default again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"seed": 0, "replicas": 2})))]
pub(crate) struct RingBody {
    #[schema(value_type = Option<Seed>)]
    seed: Option<u64>,
    #[schema(value_type = Option<Replicas>)]
    replicas: Option<u64>,
}

impl RingBody {
    pub fn into_command(self, app: AppName, condition: Condition) -> Result<PutRing, Invalid> {
        let seed = self.seed.unwrap_or(0);
        if seed > RING_SEED_MAX {
            return Err(Invalid::new("seed", format!("must be 0 to {RING_SEED_MAX}")));
        }
        let replicas = self.replicas.map_or(Ok(1), replicas)?;
        Ok(PutRing { app, seed, replicas, condition })
    }
}

/// How many workers are to hold a key.
pub(crate) fn replicas(number: u64) -> Result<u8, Invalid> {
    u8::try_from(number)
        .ok()
        .filter(|replicas| (1..=RING_REPLICAS_MAX).contains(replicas))
        .ok_or_else(|| Invalid::new("replicas", format!("must be 1 to {RING_REPLICAS_MAX}")))
}

/// The answer to a write.
#[derive(Serialize, ToSchema)]
pub(crate) struct RingChanged<'a> {
    pub app: &'a str,
    /// Not where the ring is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    pub revision: u64,
}

/// What clients compute owners from.
#[derive(Serialize, ToSchema)]
pub(crate) struct RingView<'a> {
    #[serde(flatten)]
    #[schema(value_type = RingDescription)]
    pub description: Description,
    /// Live instances that are up and not on the ring, since it is full.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<&'a str>,
}

/// The owners of one key.
#[derive(Serialize, ToSchema)]
pub(crate) struct OwnersView<'a> {
    epoch: u64,
    #[serde(flatten)]
    key: KeyView<'a>,
    owners: Vec<OwnerView<'a>>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OwnerView<'a> {
    id: &'a str,
    ip: &'a str,
    port: u32,
    incarnation: u64,
}

impl<'a> OwnersView<'a> {
    pub fn new(epoch: Revision, key: &'a [u8], owners: Vec<OwnerView<'a>>) -> Self {
        Self { epoch: epoch.0, key: KeyView::new(key), owners }
    }
}

impl<'a> OwnerView<'a> {
    pub fn new(id: &'a InstanceId, instance: &'a Instance) -> Self {
        let profile = &instance.profile;
        let incarnation = instance.incarnation.0;
        Self { id: id.as_str(), ip: profile.ip(), port: profile.port(), incarnation }
    }
}

/// Whose owners are asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnersBody {
    pub keys: Keys,
    #[schema(value_type = Option<Replicas>)]
    pub replicas: Option<u64>,
    pub epoch: Option<u64>,
}

/// The owners of many keys, in their order.
#[derive(Serialize, ToSchema)]
pub(crate) struct OwnersList<'a> {
    pub epoch: u64,
    #[schema(value_type = Vec<OwnersOfKey>)]
    pub results: Owners<'a>,
}

/// The owners of keys one behind the other, as many of each.
#[derive(Default)]
pub(crate) struct Owners<'a> {
    ids: Vec<&'a str>,
    keys: usize,
}

impl<'a> Owners<'a> {
    pub fn with_capacity(keys: usize, replicas: usize) -> Self {
        Self { ids: Vec::with_capacity(keys * replicas), keys: 0 }
    }

    /// Looks up the next key. All calls are to be on one ring with one number of replicas, so that
    /// each key gets as many owners.
    pub fn look_up(&mut self, ring: &'a Ring, key: &[u8], replicas: usize) {
        self.keys += 1;
        match replicas {
            1 => self.ids.extend(ring.owner(key).map(|id| id.as_str())),
            _ => self.ids.extend(ring.owners(key, replicas).into_iter().map(|id| id.as_str())),
        }
    }

    /// The owners of each key.
    pub fn each(&self) -> impl ExactSizeIterator<Item = &[&'a str]> {
        let of_each = self.ids.len().checked_div(self.keys).unwrap_or(0);
        (0..self.keys).map(move |n| &self.ids[n * of_each..(n + 1) * of_each])
    }
}

impl Serialize for Owners<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct OwnersOfKey<'a> {
            owners: &'a [&'a str],
        }
        serializer.collect_seq(self.each().map(|owners| OwnersOfKey { owners }))
    }
}

/// Who would leave and join.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SimulateBody {
    #[serde(default)]
    #[schema(value_type = Vec<Name>)]
    leave: Vec<InstanceId>,
    #[serde(default)]
    join: Vec<Joiner>,
    pub keys: Option<Keys>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Joiner {
    #[schema(value_type = Name)]
    id: InstanceId,
    #[schema(value_type = Option<Weight>)]
    weight: Option<u64>,
}

/// The weight of who joins, 1 where it is not named.
pub(crate) fn weight(named: Option<u64>) -> Result<u16, Invalid> {
    u16::try_from(named.unwrap_or(1))
        .ok()
        .filter(|weight| (1..=WEIGHT_MAX).contains(weight))
        .ok_or_else(|| Invalid::new("weight", format!("must be between 1 and {WEIGHT_MAX}")))
}

impl SimulateBody {
    /// The ring after all that, leaves first. The one that is there stays as it is.
    pub fn after(&self, ring: &Ring) -> Result<Ring, ApiError> {
        let named = self.leave.len() + self.join.len();
        if named > SIMULATED_MAX {
            let detail = format!("{named} workers are over the limit of {SIMULATED_MAX}");
            return Err(ApiError::too_large(detail));
        }
        let mut after = ring.clone();
        for id in &self.leave {
            if !after.leave(id) {
                let why = format!("names {id:?}, which is not on the ring or is there twice");
                return Err(Invalid::new("leave", why).into());
            }
        }
        for Joiner { id, weight: named } in &self.join {
            if after.join(id, weight(*named)?) == Joined::Full {
                let why = format!("names {id:?}, and with it the ring's slots would not suffice");
                return Err(Invalid::new("join", why).into());
            }
        }
        Ok(after)
    }
}

/// What would move.
#[derive(Serialize, ToSchema)]
pub(crate) struct SimulatedView<'a> {
    epoch: u64,
    /// How many were looked at.
    keys: usize,
    moved: usize,
    moves: Vec<KeyMoved<'a>>,
    moves_left_off: usize,
    workers: Vec<WorkerShare<'a>>,
}

#[derive(Serialize, ToSchema)]
struct KeyMoved<'a> {
    #[serde(flatten)]
    key: KeyView<'a>,
    #[schema(required)]
    from: Option<&'a str>,
    #[schema(required)]
    to: Option<&'a str>,
}

/// Weights are 0 where a worker is not there. A share is a part of the keys that were looked at.
#[derive(Serialize, ToSchema)]
struct WorkerShare<'a> {
    id: &'a str,
    weight_before: u16,
    weight_after: u16,
    share_before: f64,
    share_after: f64,
}

/// A ring and who owns the keys on it.
pub(crate) struct Side<'a> {
    pub ring: &'a Ring,
    pub owners: Owners<'a>,
}

impl<'a> Side<'a> {
    fn weights(&self) -> BTreeMap<&'a str, u16> {
        self.ring.workers().map(|(id, weight)| (id.as_str(), weight)).collect()
    }

    /// How many of the keys each worker owns.
    fn owned(&self) -> BTreeMap<&'a str, usize> {
        let mut owned = BTreeMap::new();
        for id in self.owners.each().filter_map(|owners| owners.first()) {
            *owned.entry(*id).or_insert(0) += 1;
        }
        owned
    }
}

impl<'a> SimulatedView<'a> {
    /// `listed`: the keys are the caller's own, so it is told which of them move.
    pub fn new(keys: &'a Keys, listed: bool, before: &Side<'a>, after: &Side<'a>) -> Self {
        let owners = before.owners.each().zip(after.owners.each());
        let moves = keys.iter().zip(owners).filter_map(|(key, (from, to))| {
            let (from, to) = (from.first().copied(), to.first().copied());
            (from != to).then(|| KeyMoved { key: KeyView::new(key), from, to })
        });
        let mut moves: Vec<_> = moves.collect();
        let moved = moves.len();
        moves.truncate(if listed { MOVES_MAX } else { 0 });
        Self {
            epoch: before.ring.epoch().0,
            keys: keys.len(),
            moved,
            moves_left_off: moved - moves.len(),
            moves,
            workers: worker_shares(keys.len(), before, after),
        }
    }
}

/// All workers before and after, in the order of ids.
fn worker_shares<'a>(keys: usize, before: &Side<'a>, after: &Side<'a>) -> Vec<WorkerShare<'a>> {
    let weights = (before.weights(), after.weights());
    let owned = (before.owned(), after.owned());
    let share = |owned: &BTreeMap<&str, usize>, id| {
        owned.get(id).map_or(0.0, |count| *count as f64 / keys as f64)
    };
    let ids: BTreeSet<&'a str> = weights.0.keys().chain(weights.1.keys()).copied().collect();
    ids.into_iter()
        .map(|id| WorkerShare {
            id,
            weight_before: weights.0.get(id).copied().unwrap_or(0),
            weight_after: weights.1.get(id).copied().unwrap_or(0),
            share_before: share(&owned.0, id),
            share_after: share(&owned.1, id),
        })
        .collect()
}
