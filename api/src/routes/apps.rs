//! `/v1/apps`

use axum::extract::State;
use roster_storage::command::{Command, DeleteApp, PutApp, Refusal, Reply};
use roster_storage::names::AppName;
use roster_storage::version::Version;

use crate::answer::{Answer, Answered};
use crate::aside::LIGHT;
use crate::error::{ApiError, Invalid, decided};
use crate::extract::{App, Content, Params, When};
use crate::lists::{Listed, Page};
use crate::poll::{app_changed, changes_app, of_app};
use crate::wire::app::{AppDeleted, AppLine, AppList, AppView, PolicyBody};
use crate::{Api, Shared};

pub(super) async fn list(State(api): Shared, mut params: Params) -> Answered {
    let (reading, paging) = (params.reading()?, params.paging()?);
    params.end()?;
    let listed = Listed::new("apps", None);
    let page = api.page(&listed, reading, paging).await?;
    let after = page.after.as_deref().map(AppName::new).transpose();
    let after = after.map_err(Invalid::name("cursor"))?;
    if page.limit.min(page.catalog().app_count()) <= LIGHT {
        return render(&api, &page, &listed, after.as_ref());
    }
    let here = api.clone();
    api.aside(async move { render(&here, &page, &listed, after.as_ref()) }).await?
}

/// One page, line by line.
fn render(api: &Api, page: &Page, listed: &Listed, after: Option<&AppName>) -> Answered {
    let catalog = page.catalog();
    let mut lines = catalog.apps_after(after);
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

pub(super) async fn read(State(api): Shared, App(name): App, mut params: Params) -> Answered {
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

pub(super) async fn put(
    State(api): Shared,
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

pub(super) async fn delete(
    State(api): Shared,
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
