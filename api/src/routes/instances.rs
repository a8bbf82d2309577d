//! `/v1/apps/{app}/instances` and `/v1/instances`

use std::sync::Arc;

use axum::extract::State;
use roster_storage::catalog::Instance;
use roster_storage::command::{Command, Deregister, Refusal, Reply};
use roster_storage::names::{AppName, Incarnation, InstanceId, InstanceKey};
use roster_storage::version::Version;

use crate::answer::{Answer, Answered};
use crate::aside::LIGHT;
use crate::error::{ApiError, decided, decided_with_session};
use crate::extract::{App, Content, Key, Params, Reading, When};
use crate::filter::Wanted;
use crate::lists::{Listed, Matches, Page, Paging, cursor_of_key, list_body};
use crate::openapi::parameters::{After, BecauseOf, IncarnationGuard, Registering, WhichInstances};
use crate::openapi::refusals::{
    BODY, INSTANCE_EXISTS, LIST, PRECONDITION_FAILED, RATE_LIMITED, READ, Refused,
    STALE_INCARNATION, UNKNOWN_APP, UNKNOWN_INSTANCE, UNKNOWN_SESSION, WRITE,
};
use crate::openapi::schemas::Tag;
use crate::poll::{Poll, changes_list, instance_changed, members_changed, of_app, of_instance};
use crate::registry::Consistency;
use crate::wire::instance::{
    ChangedView, InstanceBody, InstanceList, InstanceView, PatchBody, RegisterHow, RegisteredView,
    reason,
};
use crate::{Api, Shared};

/// Registers an instance, or updates it.
///
/// Without `session` a live instance is updated in place and keeps its session; a new one gets a
/// private session, that ends with it. Another `session`, or `takeover=true`, takes over from a
/// live one.
#[utoipa::path(
    put,
    path = "/v1/apps/{app}/instances/{id}",
    operation_id = "registerInstance",
    tag = "instances",
    params(Key, When, Registering),
    request_body = InstanceBody,
    responses(
        (
            status = 200,
            description = "It was updated in place.",
            body = RegisteredView,
            headers(("ETag" = Tag)),
        ),
        (
            status = 201,
            description = "A new life began.",
            body = RegisteredView,
            headers(("ETag" = Tag)),
        ),
        Refused::<{
            WRITE | BODY | UNKNOWN_APP | UNKNOWN_SESSION | INSTANCE_EXISTS
            | PRECONDITION_FAILED | RATE_LIMITED
        }>,
    ),
)]
pub(super) async fn register(
    State(api): Shared,
    Key(key): Key,
    When(condition): When,
    mut params: Params,
    content: Content,
) -> Answered {
    let create_app = params.flag("create_app")?.unwrap_or(true);
    let takeover = params.flag("takeover")?.unwrap_or(false);
    params.end()?;
    let how = RegisterHow { create_app, takeover, condition };
    propose(&api, key, content.json()?, how).await
}

/// Registers or updates; also what a heartbeat with a full record comes to.
pub(super) async fn propose(
    api: &Api,
    key: InstanceKey,
    body: InstanceBody<'_>,
    how: RegisterHow,
) -> Answered {
    let command = Command::Register(body.into_register(key.clone(), how)?);
    let outcome = api.registry.propose(command).await?;
    match decided_with_session(outcome, &api.registry.newest().catalog)? {
        (revision, Reply::Registered(registered)) => {
            let view = RegisteredView::new(&key, registered, revision);
            Ok(Answer::json(&view).created(registered.created).at(revision).etag(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Reads an instance.
#[utoipa::path(
    get,
    path = "/v1/apps/{app}/instances/{id}",
    operation_id = "readInstance",
    tag = "instances",
    params(Key, Reading, Poll),
    responses(
        (
            status = 200,
            description = "The instance.",
            body = InstanceView,
            headers(("ETag" = Tag)),
        ),
        Refused::<{ READ | UNKNOWN_APP | UNKNOWN_INSTANCE }>,
    ),
)]
pub(super) async fn read(State(api): Shared, Key(key): Key, mut params: Params) -> Answered {
    let (reading, poll) = (params.reading()?, params.poll()?);
    params.end()?;
    if let Some(poll) = poll {
        let known = |version: &Version, index| instance_changed(version, &key, index);
        api.await_change(poll, of_instance(&key), |_| true, known).await?;
    }
    let version = api.read(reading).await?;
    let instance = live(&version.catalog, &key)?;
    // Who reads what may be old wants an answer without the leader.
    let heard = match reading.consistency {
        Consistency::Stale => None,
        Consistency::Linearizable => heard_of(&api, [instance].into_iter()).await?.pop().flatten(),
    };
    let view = InstanceView::new(&version.catalog, &key.app, &key.id, instance).heard(heard);
    let answer = Answer::json(&view).at(version.revision()).read(reading.consistency);
    Ok(answer.etag(instance.revision))
}

fn live<'a>(
    catalog: &'a roster_storage::catalog::Catalog,
    key: &InstanceKey,
) -> Result<&'a Arc<Instance>, Refusal> {
    let InstanceKey { app, id } = key;
    let known = catalog.app(app).ok_or_else(|| Refusal::UnknownApp(app.clone()))?;
    let unknown = || Refusal::UnknownInstance { app: app.clone(), id: id.clone() };
    known.instances.get(id).ok_or_else(unknown)
}

/// Wall clocks of the last heartbeats, in order. It asks the leader.
async fn heard_of(
    api: &Api,
    instances: impl Iterator<Item = &Arc<Instance>>,
) -> Result<Vec<Option<u64>>, ApiError> {
    let sessions = instances.map(|instance| instance.session).collect();
    let heard = api.registry.last_heard(sessions).await.map_err(ApiError::of_read)?;
    Ok(heard.into_iter().map(|heard| heard.map(|heard| heard.wall_ms)).collect())
}

/// Changes metadata, weight or payload, by a JSON merge patch. It is no sign of life.
#[utoipa::path(
    patch,
    path = "/v1/apps/{app}/instances/{id}",
    operation_id = "patchInstance",
    tag = "instances",
    params(Key, When, IncarnationGuard),
    request_body = PatchBody,
    responses(
        (
            status = 200,
            description = "It was changed.",
            body = ChangedView,
            headers(("ETag" = Tag)),
        ),
        Refused::<{
            WRITE | BODY | UNKNOWN_APP | UNKNOWN_INSTANCE | STALE_INCARNATION
            | INSTANCE_EXISTS | PRECONDITION_FAILED
        }>,
    ),
)]
pub(super) async fn patch(
    State(api): Shared,
    Key(key): Key,
    When(condition): When,
    mut params: Params,
    content: Content,
) -> Answered {
    let incarnation = params.number("incarnation")?.map(Incarnation);
    params.end()?;
    let body: PatchBody = content.json()?;
    let command = Command::Patch(body.into_patch(key.clone(), incarnation, condition)?);
    match decided(api.registry.propose(command).await?)? {
        (revision, Reply::Patched { incarnation }) => {
            let view = ChangedView::new(&key, incarnation, revision);
            Ok(Answer::json(&view).at(revision).etag(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Leaves: the instance goes, with its shard.
#[utoipa::path(
    delete,
    path = "/v1/apps/{app}/instances/{id}",
    operation_id = "deregisterInstance",
    tag = "instances",
    params(Key, When, IncarnationGuard, BecauseOf),
    responses(
        (status = 200, description = "It is gone.", body = ChangedView),
        Refused::<{
            WRITE | UNKNOWN_APP | UNKNOWN_INSTANCE | STALE_INCARNATION | INSTANCE_EXISTS
            | PRECONDITION_FAILED
        }>,
    ),
)]
pub(super) async fn deregister(
    State(api): Shared,
    Key(key): Key,
    When(condition): When,
    mut params: Params,
) -> Answered {
    let incarnation = params.number("incarnation")?.map(Incarnation);
    // Only an operator has to say why: who leaves by itself is asked nothing.
    let said = params.text("reason").map(reason).transpose()?;
    params.end()?;
    let (by_operator, reason) = (said.is_some(), said.unwrap_or_default());
    let command = Deregister { key: key.clone(), incarnation, by_operator, reason, condition };
    match decided(api.registry.propose(Command::Deregister(command)).await?)? {
        (revision, Reply::Deregistered { incarnation }) => {
            Ok(Answer::json(&ChangedView::new(&key, incarnation, revision)).at(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// What a list of instances was asked for.
struct Asked {
    reading: Reading,
    paging: Paging,
    heartbeats: bool,
    listed: Listed,
    wanted: Wanted,
}

fn asked(mut params: Params, app: Option<AppName>) -> Result<Asked, ApiError> {
    let (reading, paging) = (params.reading()?, params.paging()?);
    let heartbeats = params.flag("heartbeats")?.unwrap_or(false);
    let (filter, search) = (params.text("filter"), params.text("q"));
    params.end()?;
    let wanted = Wanted::new(filter.as_deref(), search.as_deref())?;
    let listed = Listed { filter, search, ..Listed::new("instances", app) };
    Ok(Asked { reading, paging, heartbeats, listed, wanted })
}

/// Lists the instances of an app, in the order of their ids.
#[utoipa::path(
    get,
    path = "/v1/apps/{app}/instances",
    operation_id = "listInstances",
    tag = "instances",
    params(App, Reading, Poll, Paging, After, WhichInstances),
    responses(
        (status = 200, description = "A page of instances.", body = InstanceList),
        Refused::<{ LIST | UNKNOWN_APP }>,
    ),
)]
pub(super) async fn list(State(api): Shared, App(name): App, mut params: Params) -> Answered {
    let poll = params.poll()?;
    let after = params.name("after", InstanceId::new)?;
    let mut asked = asked(params, Some(name.clone()))?;
    let after = after.map(|id| cursor_of_key(&InstanceKey::new(name.clone(), id)));
    asked.paging.begin_after(after)?;
    if let Some(poll) = poll {
        asked.paging.is_first()?;
        let wanted = &asked.wanted;
        let known = |version: &Version, index| members_changed(version, &name, wanted, index);
        api.await_change(poll, of_app(&name), |event| changes_list(event, wanted), known).await?;
    }
    let page = api.page(&asked.listed, asked.reading, asked.paging).await?;
    let catalog = page.catalog();
    let app = catalog.app(&name).ok_or_else(|| Refusal::UnknownApp(name.clone()))?;
    let (count, all) = (app.instances.len(), asked.wanted.is_all());
    if page.after.is_none() && count <= page.limit && all && !asked.heartbeats {
        return whole(&api, name, page).await;
    }
    let looked_at = if all { count.min(page.limit) } else { count };
    let (listed, wanted, heartbeats) = (asked.listed, asked.wanted, asked.heartbeats);
    if looked_at > LIGHT {
        return render_aside(&api, page, listed, wanted, heartbeats).await;
    }
    let matches = page.matches(&listed, &wanted).await?;
    let heard = if heartbeats { Some(last_heard(&api, &page, &matches).await?) } else { None };
    Ok(render(&api, &page, &listed, &matches, heard))
}

/// The list of an app in one page.
async fn whole(api: &Arc<Api>, name: AppName, page: Page) -> Answered {
    let (revision, consistency) = (page.version.revision(), page.consistency);
    let app = page.catalog().app(&name).ok_or_else(|| Refusal::UnknownApp(name.clone()))?;
    let encoded = match api.lists.known(&name, app) {
        Some(known) => known,
        None if app.instances.len() <= LIGHT => api.lists.encoded(page.catalog(), &name, app),
        None => {
            let here = api.clone();
            let encode = async move {
                let app = page.catalog().app(&name)?;
                Some(here.lists.encoded(page.catalog(), &name, app))
            };
            // It is there: the version does not change.
            api.aside(encode).await?.unwrap_or_default()
        }
    };
    let body = list_body(encoded, revision);
    Ok(Answer::json_body(body).at(revision).read(consistency))
}

/// Searches the instances of all apps. A page takes a second at most: it may be short and not the
/// last.
#[utoipa::path(
    get,
    path = "/v1/instances",
    operation_id = "searchInstances",
    tag = "instances",
    params(Reading, Paging, WhichInstances),
    responses(
        (status = 200, description = "A page of instances.", body = InstanceList),
        Refused::<{ LIST }>,
    ),
)]
pub(super) async fn search(State(api): Shared, params: Params) -> Answered {
    let asked = asked(params, None)?;
    let page = api.page(&asked.listed, asked.reading, asked.paging).await?;
    render_aside(&api, page, asked.listed, asked.wanted, asked.heartbeats).await
}

/// One page of what takes long. No turn is held while the leader is asked who was heard.
async fn render_aside(
    api: &Arc<Api>,
    page: Page,
    listed: Listed,
    wanted: Wanted,
    heartbeats: bool,
) -> Answered {
    let here = api.clone();
    if !heartbeats {
        return api
            .aside(async move { find_and_render(&here, &page, &listed, &wanted).await })
            .await?;
    }
    let find = async move {
        let matches = page.matches(&listed, &wanted).await;
        (page, listed, matches)
    };
    let (page, listed, matches) = api.aside(find).await?;
    let matches = matches?;
    let heard = last_heard(api, &page, &matches).await?;
    api.aside(async move { render(&here, &page, &listed, &matches, Some(heard)) }).await
}

async fn find_and_render(api: &Api, page: &Page, listed: &Listed, wanted: &Wanted) -> Answered {
    let matches = page.matches(listed, wanted).await?;
    Ok(render(api, page, listed, &matches, None))
}

/// One page, line by line; `heard` are the last heartbeats of what is [`found`], if they are wanted.
fn render(
    api: &Api,
    page: &Page,
    listed: &Listed,
    matches: &Matches,
    heard: Option<Vec<Option<u64>>>,
) -> Answer {
    let catalog = page.catalog();
    let mut instances: Vec<_> = found(page, matches)
        .map(|(key, instance)| InstanceView::new(catalog, &key.app, &key.id, instance))
        .collect();
    if let Some(heard) = heard {
        instances = instances.into_iter().zip(heard).map(|(view, at)| view.heard(at)).collect();
    }
    let revision = page.version.revision();
    let list = InstanceList {
        next_cursor: matches
            .go_on_after
            .as_ref()
            .map(|key| api.cursor(page, listed, &cursor_of_key(key))),
        instances,
        revision: revision.0,
    };
    Answer::json(&list).at(revision).read(page.consistency)
}

fn found<'a>(
    page: &'a Page,
    matches: &'a Matches,
) -> impl Iterator<Item = (&'a InstanceKey, &'a Arc<Instance>)> {
    matches.keys.iter().filter_map(|key| Some((key, page.catalog().instance(key)?)))
}

/// Wall clocks of the last heartbeats of what is [`found`], in order.
async fn last_heard(
    api: &Api,
    page: &Page,
    matches: &Matches,
) -> Result<Vec<Option<u64>>, ApiError> {
    heard_of(api, found(page, matches).map(|(_, instance)| instance)).await
}
