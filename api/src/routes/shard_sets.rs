//! `/v1/shard-sets`: the sets themselves, what a change of workers would move, and how many there
//! should be.

use std::sync::Arc;

use axum::extract::State;
use roster_storage::catalog::ShardSet;
use roster_storage::command::{Command, DeleteShardSet, Refusal, Reply};
use roster_storage::names::{Revision, ShardSetName};
use roster_storage::shards::scaling;
use roster_storage::version::Version;

use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::error::{ApiError, Invalid, decided};
use crate::extract::{Content, Params, Reading, Set, When};
use crate::lists::{Listed, Paging};
use crate::openapi::refusals::{
    BODY, LIST, NO_SCALING, PRECONDITION_FAILED, RATE_LIMITED, READ, Refused, SHARD_SET_EXISTS,
    UNKNOWN_APP, UNKNOWN_SHARD_SET, WRITE,
};
use crate::openapi::schemas::Tag;
use crate::wire::shard_set::{
    PlanBody, PlanView, ScalingView, ShardSetBody, ShardSetChanged, ShardSetList, ShardSetView,
};

/// Lists shard sets, in the order of their names.
#[utoipa::path(
    get,
    path = "/v1/shard-sets",
    operation_id = "listShardSets",
    tag = "shard sets",
    params(Reading, Paging),
    responses(
        (status = 200, description = "A page of shard sets.", body = ShardSetList),
        Refused::<{ LIST }>,
    ),
)]
pub(super) async fn list(State(api): Shared, mut params: Params) -> Answered {
    let (reading, paging) = (params.reading()?, params.paging()?);
    params.end()?;
    let listed = Listed::new("shard-sets", None);
    let page = api.page(&listed, reading, paging).await?;
    let after = page.after.as_deref().map(ShardSetName::new).transpose();
    let after = after.map_err(Invalid::name("cursor"))?;
    let mut lines =
        page.catalog().shard_sets().filter(|(name, _)| after.as_ref().is_none_or(|a| *name > a));
    let shown: Vec<_> = lines.by_ref().take(page.limit).collect();
    let last = lines.next().and(shown.last()).map(|(name, _)| name.as_str());
    let revision = page.version.revision();
    let list = ShardSetList {
        next_cursor: last.map(|last| api.cursor(&page, &listed, last)),
        shard_sets: shown.iter().map(|(name, set)| ShardSetView::new(name, set)).collect(),
        revision: revision.0,
    };
    Ok(Answer::json(&list).at(revision).read(page.consistency))
}

/// Reads a shard set, and how far its work is shared out.
#[utoipa::path(
    get,
    path = "/v1/shard-sets/{set}",
    operation_id = "readShardSet",
    tag = "shard sets",
    params(Set, Reading),
    responses(
        (
            status = 200,
            description = "The shard set.",
            body = ShardSetView,
            headers(("ETag" = Tag)),
        ),
        Refused::<{ READ | UNKNOWN_SHARD_SET }>,
    ),
)]
pub(super) async fn read(State(api): Shared, Set(name): Set, mut params: Params) -> Answered {
    let reading = params.reading()?;
    params.end()?;
    let version = api.read(reading).await?;
    let set = known(&version, &name)?;
    let answer = Answer::json(&ShardSetView::new(&name, set));
    Ok(answer.at(version.revision()).read(reading.consistency).etag(set.record.revision))
}

pub(super) fn known<'a>(
    version: &'a Version,
    name: &ShardSetName,
) -> Result<&'a Arc<ShardSet>, Refusal> {
    version.catalog.shard_set(name).ok_or_else(|| Refusal::UnknownShardSet(name.clone()))
}

/// Makes a shard set or replaces it; what is left out of the body is the default again.
#[utoipa::path(
    put,
    path = "/v1/shard-sets/{set}",
    operation_id = "putShardSet",
    tag = "shard sets",
    params(Set, When),
    request_body = ShardSetBody,
    responses(
        (
            status = 200,
            description = "It was replaced.",
            body = ShardSetChanged,
            headers(("ETag" = Tag)),
        ),
        (
            status = 201,
            description = "It was made.",
            body = ShardSetChanged,
            headers(("ETag" = Tag)),
        ),
        Refused::<{
            WRITE | BODY | UNKNOWN_APP | SHARD_SET_EXISTS | PRECONDITION_FAILED
            | RATE_LIMITED
        }>,
    ),
)]
pub(super) async fn put(
    State(api): Shared,
    Set(set): Set,
    When(condition): When,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    let body: ShardSetBody = content.json()?;
    let command = Command::PutShardSet(body.into_command(set.clone(), condition)?);
    match decided(api.registry.propose(command).await?)? {
        (revision, Reply::ShardSetPut { created }) => {
            Ok(changed(&set, revision).created(created).etag(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Deletes a shard set, with all grants.
#[utoipa::path(
    delete,
    path = "/v1/shard-sets/{set}",
    operation_id = "deleteShardSet",
    tag = "shard sets",
    params(Set, When),
    responses(
        (status = 200, description = "It is gone.", body = ShardSetChanged),
        Refused::<{ WRITE | UNKNOWN_SHARD_SET | SHARD_SET_EXISTS | PRECONDITION_FAILED }>,
    ),
)]
pub(super) async fn delete(
    State(api): Shared,
    Set(set): Set,
    When(condition): When,
    params: Params,
) -> Answered {
    params.end()?;
    let command = Command::DeleteShardSet(DeleteShardSet { set: set.clone(), condition });
    match decided(api.registry.propose(command).await?)? {
        (revision, Reply::ShardSetDeleted) => Ok(changed(&set, revision)),
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

fn changed(set: &ShardSetName, revision: Revision) -> Answer {
    Answer::json(&ShardSetChanged { set: set.as_str(), revision: revision.0 }).at(revision)
}

/// How many workers there should be, and why.
#[utoipa::path(
    get,
    path = "/v1/shard-sets/{set}/scaling",
    operation_id = "readScaling",
    tag = "shard sets",
    params(Set, Reading),
    responses(
        (status = 200, description = "The signal.", body = ScalingView),
        Refused::<{ READ | UNKNOWN_SHARD_SET | NO_SCALING }>,
    ),
)]
pub(super) async fn scaling(State(api): Shared, Set(name): Set, mut params: Params) -> Answered {
    let reading = params.reading()?;
    params.end()?;
    let version = api.read(reading).await?;
    let ShardSet { record, group } = &**known(&version, &name)?;
    let policy = record.config.scaling.as_ref().ok_or_else(|| ApiError::no_scaling(&name))?;
    let now_ms = version.catalog.clock().cluster_ms;
    let shards = group.counts().shards as u64;
    let state = record.scaling.unwrap_or_else(|| scaling::next(policy, None, shards, now_ms));
    let view = ScalingView::new(group, policy, &state, now_ms);
    Ok(Answer::json(&view).at(version.revision()).read(reading.consistency))
}

/// What the next plan would move if workers joined and left. Nothing changes.
#[utoipa::path(
    post,
    path = "/v1/shard-sets/{set}/plan",
    operation_id = "planShards",
    tag = "shard sets",
    params(Set, Reading),
    request_body = Option<PlanBody>,
    responses(
        (status = 200, description = "What would move.", body = PlanView),
        Refused::<{ READ | BODY | UNKNOWN_SHARD_SET }>,
    ),
)]
pub(super) async fn plan(
    State(api): Shared,
    Set(name): Set,
    mut params: Params,
    content: Content,
) -> Answered {
    let reading = params.reading()?;
    params.end()?;
    let body: PlanBody = content.json_or_default()?;
    let version = api.read(reading).await?;
    let answer = async move {
        let group = &known(&version, &name)?.group;
        let simulation = body.simulate(group)?;
        let view = PlanView::new(group.epoch(), &simulation);
        Ok(Answer::json(&view).at(version.revision()).read(reading.consistency))
    };
    api.aside(answer).await?
}
