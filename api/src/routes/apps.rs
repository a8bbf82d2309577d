//! `/v1/apps`

use axum::extract;
use roster_storage::catalog::{Catalog, Counts, State};
use roster_storage::command::{Command, DeleteApp, PutApp, Refusal, Reply};
use roster_storage::names::AppName;
use roster_storage::version::Version;

use crate::answer::{Answer, Answered};
use crate::aside::LIGHT;
use crate::error::{ApiError, Invalid, decided};
use crate::extract::{App, Content, Params, Reading, When};
use crate::lists::{Listed, Page, Paging};
use crate::openapi::parameters::{After, Cascade, WhichApps};
use crate::openapi::refusals::{
    APP_EXISTS, APP_IN_USE, APP_NOT_EMPTY, BODY, LIST, PRECONDITION_FAILED, READ, Refused,
    UNKNOWN_APP, WRITE,
};
use crate::openapi::schemas::Tag;
use crate::poll::{Poll, app_changed, changes_app, of_app};
use crate::wire::app::{AppDeleted, AppLine, AppList, AppView, PolicyBody};
use crate::{Api, Shared};

/// Lists apps, in the order of their names.
#[utoipa::path(
    get,
    path = "/v1/apps",
    operation_id = "listApps",
    tag = "apps",
    params(Reading, Paging, After, WhichApps),
    responses(
        (status = 200, description = "A page of apps.", body = AppList),
        Refused::<{ LIST }>,
    ),
)]
pub(super) async fn list(extract::State(api): Shared, mut params: Params) -> Answered {
    let (reading, mut paging) = (params.reading()?, params.paging()?);
    let after = params.name("after", AppName::new)?;
    paging.begin_after(after.map(|app| app.as_str().to_owned()))?;
    let (search, state) = (params.text("q"), params.text("state"));
    params.end()?;
    let wanted = Wanted::new(search.as_deref(), state.as_deref())?;
    let listed = Listed { search, filter: state, ..Listed::new("apps", None) };
    let page = api.page(&listed, reading, paging).await?;
    let after = page.after.as_deref().map(AppName::new).transpose();
    let after = after.map_err(Invalid::name("cursor"))?;
    let count = page.catalog().app_count();
    let looked_at = if wanted.is_all() { count.min(page.limit) } else { count };
    if looked_at <= LIGHT {
        return render(&api, &page, &listed, &wanted, after.as_ref());
    }
    let here = api.clone();
    api.aside(async move { render(&here, &page, &listed, &wanted, after.as_ref()) }).await?
}

/// Which apps are listed.
struct Wanted {
    /// In the name, in lower case.
    text: Option<String>,
    /// That at least one instance is in.
    state: Option<State>,
}

impl Wanted {
    fn new(search: Option<&str>, state: Option<&str>) -> Result<Self, Invalid> {
        let state = state.map(state_named).transpose()?;
        Ok(Self { text: search.map(str::to_lowercase), state })
    }

    fn is_all(&self) -> bool {
        self.text.is_none() && self.state.is_none()
    }

    fn matches(&self, catalog: &Catalog, name: &AppName) -> bool {
        let in_name = |text: &String| name.as_str().to_lowercase().contains(text);
        self.text.as_ref().is_none_or(in_name)
            && self.state.is_none_or(|state| count_of(&catalog.counts(name), state) > 0)
    }
}

fn state_named(word: &str) -> Result<State, Invalid> {
    let states = [State::Up, State::Suspect, State::Draining, State::Maintenance];
    states.into_iter().find(|state| state.word() == word).ok_or_else(|| {
        let words = states.map(State::word).join(", ");
        Invalid::new("state", format!("{word:?} is not known; there are {words}"))
    })
}

fn count_of(counts: &Counts, state: State) -> u64 {
    match state {
        State::Up => counts.up,
        State::Suspect => counts.suspect,
        State::Draining => counts.draining,
        State::Maintenance => counts.maintenance,
    }
}

/// One page, line by line.
fn render(
    api: &Api,
    page: &Page,
    listed: &Listed,
    wanted: &Wanted,
    after: Option<&AppName>,
) -> Answered {
    let catalog = page.catalog();
    let mut lines = catalog.apps_after(after).filter(|(name, _)| wanted.matches(catalog, name));
    let shown: Vec<_> = lines.by_ref().take(page.limit).collect();
    let last = lines.next().and(shown.last()).map(|(name, _)| name.as_str());
    let revision = page.version.revision();
    let list = AppList {
        next_cursor: last.map(|last| api.cursor(page, listed, last)),
        apps: shown.iter().map(|(name, app)| AppLine::of(catalog, name, app)).collect(),
        revision: revision.0,
    };
    Ok(Answer::json(&list).at(revision).read(page.consistency))
}

/// Reads an app: its policy, and how many of its instances are in which state.
#[utoipa::path(
    get,
    path = "/v1/apps/{app}",
    operation_id = "readApp",
    tag = "apps",
    params(App, Reading, Poll),
    responses(
        (status = 200, description = "The app.", body = AppView, headers(("ETag" = Tag))),
        Refused::<{ READ | UNKNOWN_APP }>,
    ),
)]
pub(super) async fn read(
    extract::State(api): Shared,
    App(name): App,
    mut params: Params,
) -> Answered {
    let (reading, poll) = (params.reading()?, params.poll()?);
    params.end()?;
    if let Some(poll) = poll {
        let known = |version: &Version, index| app_changed(version, &name, index);
        api.await_change(poll, of_app(&name), changes_app, known).await?;
    }
    let version = api.read(reading).await?;
    let app = version.catalog.app(&name).ok_or_else(|| Refusal::UnknownApp(name.clone()))?;
    let counts = version.catalog.counts(&name);
    let own = app.record.revision;
    let view = AppView::new(&name, &app.record.policy, Some(counts), own);
    Ok(Answer::json(&view).at(version.revision()).read(reading.consistency).etag(own))
}

/// Makes an app or replaces its policy; what is left out of the body is the default again.
#[utoipa::path(
    put,
    path = "/v1/apps/{app}",
    operation_id = "putApp",
    tag = "apps",
    params(App, When),
    request_body = Option<PolicyBody>,
    responses(
        (
            status = 200,
            description = "Its policy was replaced.",
            body = AppView,
            headers(("ETag" = Tag)),
        ),
        (status = 201, description = "It was made.", body = AppView, headers(("ETag" = Tag))),
        Refused::<{ WRITE | BODY | APP_EXISTS | PRECONDITION_FAILED }>,
    ),
)]
pub(super) async fn put(
    extract::State(api): Shared,
    App(app): App,
    When(condition): When,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    let policy = content.json_or_default::<PolicyBody>()?.into_policy()?;
    let command = PutApp { app: app.clone(), policy: policy.clone(), condition };
    match decided(api.registry.propose(Command::PutApp(command)).await?)? {
        (revision, Reply::AppPut { created }) => {
            let view = AppView::new(&app, &policy, None, revision);
            Ok(Answer::json(&view).created(created).at(revision).etag(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Deletes an app.
#[utoipa::path(
    delete,
    path = "/v1/apps/{app}",
    operation_id = "deleteApp",
    tag = "apps",
    params(App, When, Cascade),
    responses(
        (status = 200, description = "It is gone.", body = AppDeleted),
        Refused::<{
            WRITE | UNKNOWN_APP | APP_NOT_EMPTY | APP_IN_USE | APP_EXISTS
            | PRECONDITION_FAILED
        }>,
    ),
)]
pub(super) async fn delete(
    extract::State(api): Shared,
    App(app): App,
    When(condition): When,
    mut params: Params,
) -> Answered {
    let cascade = params.flag("cascade")?.unwrap_or(false);
    params.end()?;
    let command = DeleteApp { app: app.clone(), cascade, condition };
    match decided(api.registry.propose(Command::DeleteApp(command)).await?)? {
        (revision, Reply::AppDeleted { instances }) => {
            let view = AppDeleted { app: app.as_str(), instances, revision: revision.0 };
            Ok(Answer::json(&view).at(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}
