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
use crate::extract::{Content, Params, Set, When};
use crate::lists::Listed;
use crate::wire::shard_set::{
    PlanBody, PlanView, ScalingView, ShardSetBody, ShardSetChanged, ShardSetList, ShardSetView,
};

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
