//! The work of a shard set: its shards, its workers, and who lets what go.

use roster_storage::catalog::{Instance, State};
use roster_storage::command::Refusal;
use roster_storage::names::{InstanceId, InstanceKey, ShardId};
use roster_storage::shards::{Group, Shard, Share};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::openapi::schemas::{InstanceState, Name, ShardText};
use crate::openapi::shapes::Released;

/// A shard of a set. One that is gone has no address any more.
#[derive(Serialize, ToSchema)]
pub(crate) struct SetShardView<'a> {
    shard: &'a str,
    #[schema(required)]
    app: Option<&'a str>,
    #[schema(required)]
    instance: Option<&'a str>,
    #[schema(required)]
    ip: Option<&'a str>,
    #[schema(required)]
    port: Option<u32>,
    #[schema(required)]
    holder: Option<&'a str>,
    /// 0: nobody ever had it.
    grant: u64,
    #[schema(required)]
    next: Option<&'a str>,
    gone: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Name>>)]
    pub standbys: Option<Vec<InstanceId>>,
}

impl<'a> SetShardView<'a> {
    /// `key`: the instance that the shard stands for, with what it says of itself if it lives.
    pub fn new(
        shard: &'a ShardId,
        key: Option<&'a InstanceKey>,
        instance: Option<&'a Instance>,
        record: &'a Shard,
    ) -> Self {
        let profile = instance.filter(|_| !record.gone).map(|instance| &instance.profile);
        Self {
            shard: shard.as_str(),
            app: key.map(|key| key.app.as_str()),
            instance: key.map(|key| key.id.as_str()),
            ip: profile.map(|profile| profile.ip()),
            port: profile.map(|profile| profile.port()),
            holder: record.holder.as_ref().map(|holder| holder.as_str()),
            grant: record.grant.0,
            next: record.next.as_ref().map(|next| next.as_str()),
            gone: record.gone,
            standbys: None,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SetShardList<'a> {
    pub shards: Vec<SetShardView<'a>>,
    #[schema(required)]
    pub next_cursor: Option<String>,
    pub revision: u64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct WorkerList<'a> {
    pub workers: Vec<WorkerLine<'a>>,
    #[schema(required)]
    pub next_cursor: Option<String>,
    pub revision: u64,
}

/// A worker, with how many shards it has to do with.
#[derive(Serialize, ToSchema)]
pub(crate) struct WorkerLine<'a> {
    id: &'a str,
    ip: &'a str,
    port: u32,
    weight: u16,
    zone: &'a str,
    #[schema(value_type = InstanceState)]
    state: &'static str,
    held: usize,
    incoming: usize,
    releasing: usize,
    load: usize,
}

impl<'a> WorkerLine<'a> {
    pub fn new(id: &'a InstanceId, instance: &'a Instance, state: State, share: Share) -> Self {
        let profile = &instance.profile;
        Self {
            id: id.as_str(),
            ip: profile.ip(),
            port: profile.port(),
            weight: profile.weight(),
            zone: profile.zone(),
            state: state.word(),
            held: share.held,
            incoming: share.incoming,
            releasing: share.releasing,
            load: share.planned,
        }
    }
}

/// What a worker holds, and which of it it must let go.
#[derive(Serialize, ToSchema)]
pub(crate) struct WorkerView<'a> {
    epoch: u64,
    worker: &'a str,
    shards: Vec<HeldShard<'a>>,
}

#[derive(Serialize, ToSchema)]
struct HeldShard<'a> {
    shard: &'a str,
    grant: u64,
    release: bool,
}

impl<'a> WorkerView<'a> {
    pub fn new(worker: &'a InstanceId, group: &'a Group) -> Self {
        let held = group.of_worker(worker).into_iter().filter_map(|shard| {
            let record = group.shard(shard)?;
            let release = record.next.is_some() || record.gone;
            Some(HeldShard { shard: shard.as_str(), grant: record.grant.0, release })
        });
        Self { epoch: group.epoch().0, worker: worker.as_str(), shards: held.collect() }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseBody {
    pub shards: Vec<Releasing>,
}

/// A shard, with the grant under which it is held.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Releasing {
    #[schema(value_type = ShardText)]
    pub shard: ShardId,
    pub grant: u64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ReleaseView<'a> {
    #[schema(value_type = Vec<Released>)]
    pub results: Vec<ReleasedView<'a>>,
    pub revision: u64,
}

/// What came of one shard; with a code where it was not let go.
#[derive(Serialize)]
pub(crate) struct ReleasedView<'a> {
    shard: &'a str,
    #[serde(flatten)]
    failed: Option<NotReleased>,
}

/// Why a shard was not let go, or may not have been.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NotReleased {
    code: String,
    detail: String,
    outcome: &'static str,
    /// Who holds it now, where that is why.
    #[serde(flatten)]
    token: Option<TokenView>,
}

#[derive(Clone, Debug, Serialize)]
struct TokenView {
    holder: Option<InstanceId>,
    grant: u64,
}

impl NotReleased {
    /// For shards behind one whose entry got no answer: they were not sent at all.
    pub fn never_sent(mut self) -> Self {
        self.outcome = "none";
        self
    }
}

impl From<&ApiError> for NotReleased {
    fn from(error: &ApiError) -> Self {
        Self {
            code: error.code().to_owned(),
            detail: error.detail().to_owned(),
            outcome: error.outcome(),
            token: None,
        }
    }
}

impl From<Refusal> for NotReleased {
    fn from(refusal: Refusal) -> Self {
        let mut failed = Self::from(&ApiError::from(refusal.clone()));
        if let Refusal::StaleToken { current, holder } = refusal {
            failed.token = Some(TokenView { holder, grant: current.0 });
        }
        failed
    }
}

impl<'a> ReleasedView<'a> {
    pub fn new(shard: &'a ShardId, failed: Option<NotReleased>) -> Self {
        Self { shard: shard.as_str(), failed }
    }
}
