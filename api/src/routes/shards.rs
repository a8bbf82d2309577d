//! `GET /v1/shards`: every live instance's shard, with or without a shard set.

use axum::extract::State;
use roster_storage::command::Refusal;
use roster_storage::names::AppName;

use crate::answer::{Answer, Answered};
use crate::error::Invalid;
use crate::extract::{Params, Reading};
use crate::filter::Wanted;
use crate::lists::{Listed, Page, Paging, cursor_of_key};
use crate::openapi::parameters::OfApp;
use crate::openapi::refusals::{LIST, Refused, UNKNOWN_APP};
use crate::wire::shard::{ShardList, ShardView};
use crate::{Api, Shared};

/// Lists the shards of all live instances, with or without a shard set.
#[utoipa::path(
    get,
    path = "/v1/shards",
    operation_id = "listShards",
    tag = "shard sets",
    params(Reading, Paging, OfApp),
    responses(
        (status = 200, description = "A page of shards.", body = ShardList),
        Refused::<{ LIST | UNKNOWN_APP }>,
    ),
)]
pub(super) async fn list(State(api): Shared, mut params: Params) -> Answered {
    let (reading, paging) = (params.reading()?, params.paging()?);
    let app = params.text("app").map(AppName::new).transpose().map_err(Invalid::name("app"))?;
    params.end()?;
    let listed = Listed::new("shards", app);
    let page = api.page(&listed, reading, paging).await?;
    let here = api.clone();
    api.aside(async move { render(&here, &page, &listed).await }).await?
}

async fn render(api: &Api, page: &Page, listed: &Listed) -> Answered {
    let catalog = page.catalog();
    if let Some(app) = listed.app.as_ref().filter(|app| catalog.app(app).is_none()) {
        return Err(Refusal::UnknownApp(app.clone()).into());
    }
    let matches = page.matches(listed, &Wanted::default()).await?;
    let found = matches.keys.iter().filter_map(|key| Some((key, catalog.instance(key)?)));
    let revision = page.version.revision();
    let list = ShardList {
        next_cursor: matches
            .go_on_after
            .as_ref()
            .map(|key| api.cursor(page, listed, &cursor_of_key(key))),
        shards: found.map(|(key, i)| ShardView::new(&key.app, &key.id, i)).collect(),
        revision: revision.0,
    };
    Ok(Answer::json(&list).at(revision).read(page.consistency))
}
