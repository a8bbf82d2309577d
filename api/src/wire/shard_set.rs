//! Shard sets: what they cover, how far their work is shared out, how many workers they should have.

use std::collections::BTreeSet;

use roster_storage::catalog::ShardSet;
use roster_storage::command::{Condition, Covered, PutShardSet, ShardSetConfig};
use roster_storage::limits::{SHARD_COPIES_MAX, SHARD_SET_APPS_MAX};
use roster_storage::names::{AppName, InstanceId, Revision, ShardSetName};
use roster_storage::shards::scaling::{ScalingPolicy, ScalingState, reason};
use roster_storage::shards::{Counts, Group, Simulation, Worker};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use utoipa::ToSchema;

use super::ring::{SIMULATED_MAX, weight};
use super::scalar::{Millis, short_text};
use crate::error::{ApiError, Invalid};
use crate::openapi::schemas::{Copies, Count, Name, ShortText, Weight};

/// Stands for all apps but the workers' own.
const ALL: &str = "*";

/// How long fewer workers must be enough before there are fewer, where nobody says.
const COOLDOWN: Millis = Millis(5 * 60 * 1000);

/// Moves of a dry run that are told one by one; all are counted.
const MOVES_MAX: usize = 10_000;

/// What `PUT` takes; what is left out is the default again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "workers": "fetchers", "apps": ["pay", "search"], "copies": 1,
    "scaling": {"shards_per_worker": 34, "min": 1, "max": 10, "cooldown": "5m"},
})))]
pub(crate) struct ShardSetBody {
    #[schema(value_type = Name)]
    workers: AppName,
    #[schema(value_type = Vec<Name>)]
    apps: Vec<SmolStr>,
    #[schema(value_type = Option<Copies>)]
    copies: Option<u64>,
    scaling: Option<ScalingBody>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ScalingBody {
    #[schema(value_type = Option<Count>)]
    shards_per_worker: Option<u32>,
    #[schema(value_type = Option<Count>)]
    min: Option<u32>,
    #[schema(value_type = Option<Count>)]
    max: Option<u32>,
    cooldown: Option<Millis>,
}

impl ShardSetBody {
    pub fn into_command(
        self,
        set: ShardSetName,
        condition: Condition,
    ) -> Result<PutShardSet, Invalid> {
        let config = ShardSetConfig {
            workers: self.workers,
            apps: covered(self.apps)?,
            copies: copies(self.copies.unwrap_or(1))?,
            scaling: self.scaling.map(ScalingBody::into_policy).transpose()?,
        };
        Ok(PutShardSet { set, config, condition })
    }
}

fn covered(apps: Vec<SmolStr>) -> Result<Covered, Invalid> {
    let invalid = |why: String| Err(Invalid::new("apps", why));
    let all = apps.iter().any(|app| app == ALL);
    match apps.len() {
        0 => invalid("must not be empty; [\"*\"] is for all apps but the workers' own".into()),
        1 if all => Ok(Covered::All),
        _ if all => invalid("has \"*\" among others; it is for all apps, alone".into()),
        count if count > SHARD_SET_APPS_MAX => {
            invalid(format!("names {count} apps; the limit is {SHARD_SET_APPS_MAX}"))
        }
        _ => {
            let apps = apps.into_iter().map(AppName::new).collect::<Result<BTreeSet<_>, _>>();
            apps.map(Covered::Apps).map_err(Invalid::name("apps"))
        }
    }
}

fn copies(number: u64) -> Result<u8, Invalid> {
    u8::try_from(number)
        .ok()
        .filter(|copies| (1..=SHARD_COPIES_MAX).contains(copies))
        .ok_or_else(|| Invalid::new("copies", format!("must be 1 to {SHARD_COPIES_MAX}")))
}

impl ScalingBody {
    fn into_policy(self) -> Result<ScalingPolicy, Invalid> {
        let invalid = |why| Invalid::new("scaling", why);
        let policy = ScalingPolicy {
            shards_per_worker: self.shards_per_worker.ok_or(invalid("needs shards_per_worker"))?,
            min: self.min.unwrap_or(1),
            max: self.max.ok_or(invalid("needs max, the most workers that there may be"))?,
            cooldown_ms: self.cooldown.unwrap_or(COOLDOWN).0,
        };
        if policy.shards_per_worker == 0 {
            return Err(invalid("needs a shards_per_worker of 1 or more"));
        }
        if policy.max == 0 || policy.min > policy.max {
            return Err(invalid("needs a max of 1 or more, and not below min"));
        }
        Ok(policy)
    }
}

/// The answer to a write.
#[derive(Serialize, ToSchema)]
pub(crate) struct ShardSetChanged<'a> {
    pub set: &'a str,
    pub revision: u64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ShardSetList<'a> {
    pub shard_sets: Vec<ShardSetView<'a>>,
    #[schema(required)]
    pub next_cursor: Option<String>,
    pub revision: u64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ShardSetView<'a> {
    set: &'a str,
    workers: &'a str,
    apps: Vec<&'a str>,
    copies: u8,
    #[schema(required)]
    scaling: Option<PolicyView>,
    counts: CountsView,
    /// By how many shards what is held is off an even share, at the worker where that is most.
    imbalance: usize,
    epoch: u64,
    revision: u64,
}

#[derive(Serialize, ToSchema)]
struct PolicyView {
    shards_per_worker: u32,
    min: u32,
    max: u32,
    cooldown: Millis,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ShardSetCounts)]
struct CountsView {
    shards: usize,
    assigned: usize,
    pending: usize,
    orphaned: usize,
    gone: usize,
    workers: usize,
    available_workers: usize,
}

impl<'a> ShardSetView<'a> {
    pub fn new(name: &'a ShardSetName, set: &'a ShardSet) -> Self {
        let config = &set.record.config;
        Self {
            set: name.as_str(),
            workers: config.workers.as_str(),
            apps: match &config.apps {
                Covered::All => vec![ALL],
                Covered::Apps(apps) => apps.iter().map(|app| app.as_str()).collect(),
            },
            copies: config.copies,
            scaling: config.scaling.as_ref().map(PolicyView::from),
            counts: set.group.counts().into(),
            imbalance: set.group.imbalance(),
            epoch: set.group.epoch().0,
            revision: set.record.revision.0,
        }
    }
}

impl From<&ScalingPolicy> for PolicyView {
    fn from(policy: &ScalingPolicy) -> Self {
        Self {
            shards_per_worker: policy.shards_per_worker,
            min: policy.min,
            max: policy.max,
            cooldown: Millis(policy.cooldown_ms),
        }
    }
}

impl From<Counts> for CountsView {
    fn from(counts: Counts) -> Self {
        let Counts { shards, assigned, pending, orphaned, gone, workers, available_workers } =
            counts;
        Self { shards, assigned, pending, orphaned, gone, workers, available_workers }
    }
}

/// How many workers there should be. `desired` is a plain number, for what can read nothing else.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScalingView {
    desired: u32,
    /// Workers that are up.
    current: usize,
    min: u32,
    max: u32,
    reason: String,
    /// Whom to stop, as many of `current` as are too many: those first that have least to move.
    #[schema(value_type = Vec<Name>)]
    victims: Vec<InstanceId>,
    shards: usize,
}

impl ScalingView {
    /// `now_ms`: cluster time.
    pub fn new(group: &Group, policy: &ScalingPolicy, state: &ScalingState, now_ms: u64) -> Self {
        let Counts { shards, workers, available_workers: current, .. } = group.counts();
        let too_many = current.saturating_sub(state.desired as usize);
        // Those that the plan does not see come first, and are none of the current ones.
        let unavailable = workers - current;
        let victims = match too_many {
            0 => Vec::new(),
            _ => group.victims(unavailable + too_many).split_off(unavailable),
        };
        Self {
            desired: state.desired,
            current,
            min: policy.min,
            max: policy.max,
            reason: reason(policy, state, shards as u64, now_ms),
            victims,
            shards,
        }
    }
}

/// Who would join and leave.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanBody {
    #[serde(default)]
    join: Vec<JoiningWorker>,
    #[serde(default)]
    #[schema(value_type = Vec<Name>)]
    leave: Vec<InstanceId>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct JoiningWorker {
    #[schema(value_type = Name)]
    id: InstanceId,
    #[schema(value_type = Option<Weight>)]
    weight: Option<u64>,
    #[serde(default)]
    #[schema(value_type = ShortText)]
    zone: SmolStr,
}

impl PlanBody {
    pub fn simulate(self, group: &Group) -> Result<Simulation, ApiError> {
        let named = self.join.len() + self.leave.len();
        if named > SIMULATED_MAX {
            let detail = format!("{named} workers are over the limit of {SIMULATED_MAX}");
            return Err(ApiError::too_large(detail));
        }
        if let Some(id) = self.leave.iter().find(|id| group.worker(id).is_none()) {
            let why = format!("names {id:?}, which is not a worker of the set");
            return Err(Invalid::new("leave", why).into());
        }
        let join = self.join.into_iter().map(JoiningWorker::into_worker);
        let join = join.collect::<Result<Vec<_>, _>>()?;
        Ok(group.simulate(&join, &self.leave))
    }
}

impl JoiningWorker {
    fn into_worker(self) -> Result<(InstanceId, Worker), Invalid> {
        let zone = short_text("zone", self.zone)?;
        Ok((self.id, Worker { weight: weight(self.weight)?, zone, available: true }))
    }
}

/// What would move.
#[derive(Serialize, ToSchema)]
pub(crate) struct PlanView<'a> {
    epoch: u64,
    moves: Vec<MoveView<'a>>,
    moves_left_off: usize,
    /// Shards that workers that stay would give up, and how many they have to in any even plan.
    voluntary: usize,
    fewest: usize,
    loads: Vec<LoadView<'a>>,
}

#[derive(Serialize, ToSchema)]
struct MoveView<'a> {
    shard: &'a str,
    #[schema(required)]
    from: Option<&'a str>,
    #[schema(required)]
    to: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
struct LoadView<'a> {
    worker: &'a str,
    before: usize,
    after: usize,
}

impl<'a> PlanView<'a> {
    pub fn new(epoch: Revision, simulation: &'a Simulation) -> Self {
        let id = |worker: &'a Option<InstanceId>| worker.as_ref().map(|id| id.as_str());
        let Simulation { moves, voluntary, fewest, loads } = simulation;
        Self {
            epoch: epoch.0,
            moves: moves
                .iter()
                .take(MOVES_MAX)
                .map(|m| MoveView { shard: m.shard.as_str(), from: id(&m.from), to: id(&m.to) })
                .collect(),
            moves_left_off: moves.len().saturating_sub(MOVES_MAX),
            voluntary: *voluntary,
            fewest: *fewest,
            loads: loads
                .iter()
                .map(|load| LoadView {
                    worker: load.worker.as_str(),
                    before: load.before,
                    after: load.after,
                })
                .collect(),
        }
    }
}
