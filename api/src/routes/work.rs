//! `/v1/shard-sets/{set}/shards` and `/workers`: who works on what, and who lets what go.

use std::collections::VecDeque;

use axum::extract::State;
use roster_storage::catalog::{App, Catalog, ShardSet};
use roster_storage::command::{Command, Covered, Refusal, Release, ReleasedBy, Reply};
use roster_storage::limits::{COMMAND_BYTES_MAX, RELEASES_MAX};
use roster_storage::names::{AppName, InstanceId, InstanceKey, Revision, ShardId, ShardSetName};
use roster_storage::shards::Group;
use roster_storage::version::Version;

use super::shard_sets::known;
use crate::answer::{Answer, Answered};
use crate::error::{ApiError, Invalid, decided};
use crate::extract::{Content, Params, Reading, Set, SetWorker};
use crate::lists::{Listed, Page, Paging};
use crate::openapi::parameters::{AfterShard, LongPaging, WhichShards};
use crate::openapi::refusals::{
    BODY, LIST, READ, Refused, TOO_LARGE, UNKNOWN_INSTANCE, UNKNOWN_SHARD_SET, WRITE,
};
use crate::pace::Pace;
use crate::poll::{Poll, changes_worker, of_worker, worker_changed};
use crate::wire::work::{
    NotReleased, ReleaseBody, ReleaseView, ReleasedView, SetShardList, SetShardView, WorkerLine,
    WorkerList, WorkerView,
};
use crate::{Api, Shared};

/// Room in an entry for what is around the shards: the command's own fields and two names.
const AROUND_BYTES: usize = 4 * 1024;

/// Lists the shards of a set with who holds them, in the order of their ids.
#[utoipa::path(
    get,
    path = "/v1/shard-sets/{set}/shards",
    operation_id = "listWork",
    tag = "shard sets",
    params(Set, Reading, Paging, AfterShard, WhichShards),
    responses(
        (status = 200, description = "A page of shards.", body = SetShardList),
        Refused::<{ LIST | TOO_LARGE | UNKNOWN_SHARD_SET | UNKNOWN_INSTANCE }>,
    ),
)]
pub(super) async fn shards(State(api): Shared, Set(name): Set, mut params: Params) -> Answered {
    let (reading, mut paging) = (params.reading()?, params.paging()?);
    let app = params.name("app", AppName::new)?;
    let worker = params.name("worker", InstanceId::new)?;
    let shard = params.name("shard", ShardId::new)?;
    let after = params.name("after", ShardId::new)?;
    paging.begin_after(after.map(|shard| shard.as_str().to_owned()))?;
    let gone = params.flag("gone")?.unwrap_or(false);
    let with_standbys = params.flag("standbys")?.unwrap_or(false);
    params.end()?;
    let listed =
        Listed { set: Some(name.clone()), worker, shard, gone, ..Listed::new("work", app) };
    let page = api.page(&listed, reading, paging).await?;
    let here = api.clone();
    let render = async move { render_shards(&here, &page, &name, &listed, with_standbys).await };
    api.aside(render).await?
}

async fn render_shards(
    api: &Api,
    page: &Page,
    name: &ShardSetName,
    listed: &Listed,
    with_standbys: bool,
) -> Answered {
    let set = known(&page.version, name)?;
    if let Some(worker) = &listed.worker {
        is_worker(set, worker)?;
    }
    let after = page.after.as_deref().map(ShardId::new).transpose();
    let after = after.map_err(Invalid::name("cursor"))?;
    let (found, more) = {
        let mut ids = ids(page.catalog(), set, listed, after.as_ref());
        let found: Vec<_> = ids.by_ref().take(page.limit).map(|id| (id.key(), id)).collect();
        (found, ids.next().is_some())
    };
    let mut views: Vec<_> = found
        .iter()
        .filter_map(|(key, shard)| {
            let instance = key.as_ref().and_then(|key| page.catalog().instance(key));
            let record = set.group.shard(shard)?;
            Some(SetShardView::new(shard, key.as_ref(), instance.map(|i| &**i), record))
        })
        .collect();
    if with_standbys {
        let standbys = standbys(&set.group, found.iter().map(|(_, shard)| shard)).await?;
        for (view, standbys) in views.iter_mut().zip(standbys) {
            view.standbys = Some(standbys);
        }
    }
    let last = found.last().filter(|_| more);
    let revision = page.version.revision();
    let list = SetShardList {
        next_cursor: last.map(|(_, shard)| api.cursor(page, listed, shard.as_str())),
        shards: views,
        revision: revision.0,
    };
    Ok(Answer::json(&list).at(revision).read(page.consistency))
}

/// The ids of the shards that are listed, in their order, from `after` (exclusive) on.
fn ids<'a>(
    catalog: &'a Catalog,
    set: &'a ShardSet,
    listed: &'a Listed,
    after: Option<&'a ShardId>,
) -> Box<dyn Iterator<Item = ShardId> + 'a> {
    let of_app = |id: &&ShardId| {
        listed.app.as_ref().is_none_or(|app| id.key().is_some_and(|key| key.app == *app))
    };
    let beyond = move |id: &&ShardId| after.is_none_or(|after| *id > after);
    let is_gone = |id: &ShardId| set.group.shard(id).is_some_and(|record| record.gone);
    if let Some(shard) = &listed.shard {
        let record = set.group.shard(shard);
        let held_by = |worker| record.is_some_and(|record| record.holder.as_ref() == Some(worker));
        let there = record.is_some() && listed.worker.as_ref().is_none_or(held_by);
        let shown = there && (listed.gone || !is_gone(shard));
        return Box::new(shown.then_some(shard).filter(beyond).filter(of_app).cloned().into_iter());
    }
    if let Some(worker) = &listed.worker {
        let held = set.group.of_worker(worker).into_iter();
        let held = held.filter(beyond).filter(of_app);
        return Box::new(held.filter(move |id| listed.gone || !is_gone(id)).cloned());
    }
    let live = live(catalog, set, listed.app.as_ref(), after);
    if !listed.gone {
        return Box::new(live);
    }
    let gone = set.group.gone().filter(beyond).filter(of_app);
    Box::new(merged(live, gone.cloned()))
}

/// The shards of the live instances of the covered apps. They are walked app by app, so that a page
/// costs what it shows; an app's shards share what stands before their instances' ids.
fn live<'a>(
    catalog: &'a Catalog,
    set: &ShardSet,
    app: Option<&AppName>,
    after: Option<&ShardId>,
) -> impl Iterator<Item = ShardId> + use<'a> {
    let mut apps: Vec<_> = covered(catalog, set)
        .into_iter()
        .filter(|(name, _)| app.is_none_or(|app| app == *name))
        .filter_map(|(name, app)| Some((shard_prefix(name, app)?, name, app)))
        .filter_map(|(prefix, name, app)| {
            let from = match after.map(|after| after.as_str()) {
                Some(after) if after.starts_with(&prefix) => {
                    Some(InstanceId::new(&after[prefix.len()..]).ok()?)
                }
                Some(after) if *prefix < *after => return None,
                Some(_) | None => None,
            };
            Some((prefix, name, app, from))
        })
        .collect();
    apps.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
    apps.into_iter().flat_map(|(_, name, app, from)| {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = from.as_ref().map_or(Unbounded, Excluded);
        let instances = app.instances.starting(from);
        instances.map(|(id, _)| ShardId::from(&InstanceKey::new(name.clone(), id.clone())))
    })
}

/// The apps of a set that are there.
fn covered<'a>(catalog: &'a Catalog, set: &ShardSet) -> Vec<(&'a AppName, &'a App)> {
    let config = &set.record.config;
    match &config.apps {
        Covered::All => catalog
            .apps_after(None)
            .filter(|(name, _)| config.covers(name))
            .map(|(name, app)| (name, &**app))
            .collect(),
        Covered::Apps(apps) => apps
            .iter()
            .filter_map(|name| catalog.app_entry(name))
            .map(|(name, app)| (name, &**app))
            .collect(),
    }
}

/// What the ids of an app's shards begin with; `None` where it has none.
fn shard_prefix(name: &AppName, app: &App) -> Option<String> {
    let first = app.instances.keys().next()?;
    let mut shard = InstanceKey::new(name.clone(), first.clone()).shard_id();
    shard.truncate(shard.len() - first.as_str().len());
    Some(shard)
}

/// Two ascending lists as one.
fn merged(
    one: impl Iterator<Item = ShardId>,
    other: impl Iterator<Item = ShardId>,
) -> impl Iterator<Item = ShardId> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(next), Some(rival)) if rival < next => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}

async fn standbys(
    group: &Group,
    shards: impl Iterator<Item = &ShardId>,
) -> Result<Vec<Vec<InstanceId>>, ApiError> {
    if group.copies() <= 1 {
        return Ok(shards.map(|_| Vec::new()).collect());
    }
    let ranking = group.standby_ranking();
    let mut pace = Pace::new();
    let mut standbys = Vec::new();
    for shard in shards {
        standbys.push(ranking.standbys(shard));
        if pace.keep().await.is_err() {
            let detail = "the standbys of so many shards take too long; ask for a smaller limit";
            return Err(ApiError::too_large(detail));
        }
    }
    Ok(standbys)
}

/// Lists the workers of a set, with how much each has to do.
#[utoipa::path(
    get,
    path = "/v1/shard-sets/{set}/workers",
    operation_id = "listWorkers",
    tag = "shard sets",
    params(Set, Reading, LongPaging),
    responses(
        (status = 200, description = "A page of workers.", body = WorkerList),
        Refused::<{ LIST | UNKNOWN_SHARD_SET }>,
    ),
)]
pub(super) async fn workers(State(api): Shared, Set(name): Set, mut params: Params) -> Answered {
    let (reading, paging) = (params.reading()?, params.paging_by_most()?);
    params.end()?;
    let listed = Listed { set: Some(name.clone()), ..Listed::new("workers", None) };
    let page = api.page(&listed, reading, paging).await?;
    let here = api.clone();
    api.aside(async move { render_workers(&here, &page, &name, &listed) }).await?
}

fn render_workers(api: &Api, page: &Page, name: &ShardSetName, listed: &Listed) -> Answered {
    let set = known(&page.version, name)?;
    let after = page.after.as_deref().map(InstanceId::new).transpose();
    let after = after.map_err(Invalid::name("cursor"))?;
    let ids = set.group.workers().map(|(id, _)| id);
    let mut ids = ids.filter(|id| after.as_ref().is_none_or(|after| *id > after));
    let shown: Vec<_> = ids.by_ref().take(page.limit).collect();
    let last = ids.next().and(shown.last()).map(|id| id.as_str());
    let line = |id: &&'_ InstanceId| worker_line(page.catalog(), set, id);
    let revision = page.version.revision();
    let list = WorkerList {
        next_cursor: last.map(|last| api.cursor(page, listed, last)),
        workers: shown.iter().filter_map(line).collect(),
        revision: revision.0,
    };
    Ok(Answer::json(&list).at(revision).read(page.consistency))
}

fn worker_line<'a>(
    catalog: &'a Catalog,
    set: &ShardSet,
    id: &InstanceId,
) -> Option<WorkerLine<'a>> {
    let app = catalog.app(&set.record.config.workers)?;
    let (id, instance) = app.instances.get_key_value(id)?;
    let key = InstanceKey::new(set.record.config.workers.clone(), id.clone());
    Some(WorkerLine::new(id, instance, catalog.state_of(&key), set.group.share(id)))
}

/// What a worker holds, and must let go. Its `epoch` does as `index` too.
#[utoipa::path(
    get,
    path = "/v1/shard-sets/{set}/workers/{id}",
    operation_id = "readWork",
    tag = "shard sets",
    params(SetWorker, Reading, Poll),
    responses(
        (status = 200, description = "The work.", body = WorkerView),
        Refused::<{ READ | UNKNOWN_SHARD_SET | UNKNOWN_INSTANCE }>,
    ),
)]
pub(super) async fn worker(
    State(api): Shared,
    SetWorker { set: name, worker }: SetWorker,
    mut params: Params,
) -> Answered {
    let (reading, poll) = (params.reading()?, params.poll()?);
    params.end()?;
    if let Some(poll) = poll {
        let version = api.read(reading).await?;
        let app = known(&version, &name)?.record.config.workers.clone();
        let known = |version: &Version, index| worker_changed(version, &name, &worker, index);
        let matters = |event: &_| changes_worker(event, &name);
        api.await_change(poll, of_worker(&app, &worker), matters, known).await?;
    }
    let version = api.read(reading).await?;
    let set = known(&version, &name)?;
    is_worker(set, &worker)?;
    let answer = Answer::json(&WorkerView::new(&worker, &set.group));
    Ok(answer.at(version.revision()).read(reading.consistency))
}

fn is_worker(set: &ShardSet, id: &InstanceId) -> Result<(), Refusal> {
    let app = &set.record.config.workers;
    let unknown = || Refusal::UnknownInstance { app: app.clone(), id: id.clone() };
    set.group.worker(id).map(|_| ()).ok_or_else(unknown)
}

/// Lets go of shards, at most 10,000.
#[utoipa::path(
    post,
    path = "/v1/shard-sets/{set}/workers/{id}/release",
    operation_id = "releaseByWorker",
    tag = "shard sets",
    params(SetWorker),
    request_body = ReleaseBody,
    responses(
        (
            status = 200,
            description = "What became of each shard, in their order.",
            body = ReleaseView,
        ),
        Refused::<{ WRITE | BODY | UNKNOWN_SHARD_SET }>,
    ),
)]
pub(super) async fn release_by_worker(
    State(api): Shared,
    SetWorker { set, worker }: SetWorker,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    release(&api, set, ReleasedBy::Worker(worker), content.json()?).await
}

/// Takes shards from whoever holds them: an operator's word.
#[utoipa::path(
    post,
    path = "/v1/shard-sets/{set}/release",
    operation_id = "releaseByOperator",
    tag = "shard sets",
    params(Set),
    request_body = ReleaseBody,
    responses(
        (
            status = 200,
            description = "What became of each shard, in their order.",
            body = ReleaseView,
        ),
        Refused::<{ WRITE | BODY | UNKNOWN_SHARD_SET }>,
    ),
)]
pub(super) async fn release_by_operator(
    State(api): Shared,
    Set(set): Set,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    release(&api, set, ReleasedBy::Operator, content.json()?).await
}

async fn release(api: &Api, set: ShardSetName, by: ReleasedBy, body: ReleaseBody) -> Answered {
    let count = body.shards.len();
    if count > RELEASES_MAX {
        let detail = format!("{count} shards are over the limit of {RELEASES_MAX}");
        return Err(ApiError::too_large(detail));
    }
    let shards: Vec<_> =
        body.shards.into_iter().map(|item| (item.shard, Revision(item.grant))).collect();
    let (revision, each) = decide(api, &set, &by, shards.clone().into()).await?;
    let results = shards.iter().zip(each);
    let results = results.map(|((shard, _), result)| ReleasedView::new(shard, result.err()));
    let view = ReleaseView { results: results.collect(), revision: revision.0 };
    Ok(Answer::json(&view).at(revision))
}

/// Proposes entry after entry, at least one. An error in the first is the whole answer; in a later
/// one, it is told shard by shard, since the entries before it hold.
async fn decide(
    api: &Api,
    set: &ShardSetName,
    by: &ReleasedBy,
    mut left: VecDeque<(ShardId, Revision)>,
) -> Result<(Revision, Vec<Result<(), NotReleased>>), ApiError> {
    let mut decided_at = None;
    let mut results = Vec::with_capacity(left.len());
    while decided_at.is_none() || !left.is_empty() {
        let shards = next_entry(&mut left);
        let in_doubt = shards.len();
        let command = Release { set: set.clone(), by: by.clone(), shards };
        match decide_one(api, command).await {
            Ok((revision, each)) => {
                decided_at = Some(revision);
                results.extend(each.into_iter().map(|result| result.map_err(NotReleased::from)));
            }
            Err(error) if decided_at.is_none() => return Err(error),
            Err(error) => {
                let failed = NotReleased::from(&error);
                results.extend(std::iter::repeat_n(Err(failed.clone()), in_doubt));
                results.extend(std::iter::repeat_n(Err(failed.never_sent()), left.len()));
                break;
            }
        }
    }
    Ok((decided_at.unwrap_or_default(), results))
}

async fn decide_one(
    api: &Api,
    command: Release,
) -> Result<(Revision, Vec<Result<(), Refusal>>), ApiError> {
    match decided(api.registry.propose(Command::Release(command)).await?)? {
        (revision, Reply::Released(each)) => Ok((revision, each)),
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Takes as many shards as one entry holds; one always fits.
fn next_entry(left: &mut VecDeque<(ShardId, Revision)>) -> Vec<(ShardId, Revision)> {
    let mut bytes = AROUND_BYTES;
    let mut count = 0;
    for item in left.iter() {
        bytes += rmp_serde::to_vec_named(item).map_or(COMMAND_BYTES_MAX, |bytes| bytes.len());
        if bytes > COMMAND_BYTES_MAX && count > 0 {
            break;
        }
        count += 1;
    }
    left.drain(..count).collect()
}
