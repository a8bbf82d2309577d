//! `/v1/elections`

use axum::extract::State;
use roster_storage::names::{LatchKey, LatchKind, LatchName};

use super::latches::{Afterwards, Claimed, REPEATABLE};
use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::error::Invalid;
use crate::extract::{Content, Latch, Params, Reading, Unconditional};
use crate::lists::{Listed, Paging};
use crate::openapi::parameters::{Checking, Idempotent, UnderToken};
use crate::openapi::refusals::{
    BODY, LIST, LOCK_HELD, ONCE, RATE_LIMITED, READ, Refused, STALE_TOKEN, UNKNOWN_LATCH,
    UNKNOWN_SESSION, WRITE,
};
use crate::openapi::schemas::Tag;
use crate::poll::Poll;
use crate::wire::latch::{
    BrokenView, CANDIDATES_SHOWN, CampaignBody, CampaignView, CheckView, ElectionList,
    ElectionView, LatchChanged, ResignBody,
};

/// Lists elections, in the order of their names.
#[utoipa::path(
    get,
    path = "/v1/elections",
    operation_id = "listElections",
    tag = "elections",
    params(Reading, Paging),
    responses(
        (status = 200, description = "A page of elections.", body = ElectionList),
        Refused::<{ LIST }>,
    ),
)]
pub(super) async fn list(State(api): Shared, mut params: Params) -> Answered {
    let (reading, paging) = (params.reading()?, params.paging()?);
    params.end()?;
    let listed = Listed::new("elections", None);
    let page = api.page(&listed, reading, paging).await?;
    let after = page.after.as_deref().map(LatchName::new).transpose();
    let after = after.map_err(Invalid::name("cursor"))?;
    let mut lines = page.catalog().latches_after(LatchKind::Election, after.as_ref());
    let shown: Vec<_> = lines.by_ref().take(page.limit).collect();
    let last = lines.next().and(shown.last()).map(|(name, _)| name.as_str());
    let revision = page.version.revision();
    let list = ElectionList {
        next_cursor: last.map(|last| api.cursor(&page, &listed, last)),
        elections: shown.iter().map(|(name, latch)| ElectionView::new(name, latch, 0)).collect(),
        revision: revision.0,
    };
    Ok(Answer::json(&list).at(revision).read(page.consistency))
}

/// Reads an election: who leads, and who is next.
#[utoipa::path(
    get,
    path = "/v1/elections/{name}",
    operation_id = "readElection",
    tag = "elections",
    params(Latch, Reading, Poll),
    responses(
        (
            status = 200,
            description = "The election.",
            body = ElectionView,
            headers(("ETag" = Tag)),
        ),
        Refused::<{ READ | UNKNOWN_LATCH }>,
    ),
)]
pub(super) async fn read(State(api): Shared, Latch(name): Latch, params: Params) -> Answered {
    let key = LatchKey::new(LatchKind::Election, name);
    let (version, latch, consistency) = api.latch_version(&key, params).await?;
    let answer = Answer::json(&ElectionView::new(&key.name, &latch, CANDIDATES_SHOWN));
    Ok(answer.at(version.revision()).read(consistency).etag(latch.revision))
}

/// Stands in an election, and waits until it is won if asked to. A candidate stays one after the
/// wait.
#[utoipa::path(
    post,
    path = "/v1/elections/{name}/campaign",
    operation_id = "campaign",
    tag = "elections",
    params(Latch),
    request_body = CampaignBody,
    responses(
        (status = 200, description = "Whether it leads.", body = CampaignView),
        Refused::<{ WRITE | BODY | UNKNOWN_SESSION | LOCK_HELD | RATE_LIMITED }>,
    ),
)]
pub(super) async fn campaign(
    State(api): Shared,
    Latch(name): Latch,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    let latch = LatchKey::new(LatchKind::Election, name.clone());
    content.never_once(REPEATABLE)?;
    let claiming = content.json::<CampaignBody>()?.into_claiming(latch)?;
    let (token, at) = match api.claim(claiming, Afterwards::Stays).await? {
        Claimed::Won { token, at } => (Some(token.0), at),
        Claimed::Waits { at } => (None, at),
    };
    let view = CampaignView { name: &name, leader: token.is_some(), token, revision: at.0 };
    Ok(Answer::json(&view).at(at))
}

/// Leads no more, or stands no more.
#[utoipa::path(
    post,
    path = "/v1/elections/{name}/resign",
    operation_id = "resign",
    tag = "elections",
    params(Latch, Idempotent),
    request_body = ResignBody,
    responses(
        (status = 200, description = "It is done.", body = LatchChanged),
        Refused::<{ WRITE | BODY | ONCE | UNKNOWN_SESSION | STALE_TOKEN }>,
    ),
)]
pub(super) async fn resign(
    State(api): Shared,
    Latch(name): Latch,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    let request = content.once()?;
    let latch = LatchKey::new(LatchKind::Election, name);
    let letting = content.json::<ResignBody>()?.into_letting(latch.clone(), request)?;
    api.let_go(latch, letting).await
}

/// Whether a token still holds.
#[utoipa::path(
    get,
    path = "/v1/elections/{name}/check",
    operation_id = "checkElection",
    tag = "elections",
    params(Latch, Reading, Checking),
    responses(
        (status = 200, description = "Whether it holds.", body = CheckView),
        Refused::<{ READ }>,
    ),
)]
pub(super) async fn check(State(api): Shared, Latch(name): Latch, params: Params) -> Answered {
    api.check(&LatchKey::new(LatchKind::Election, name), params).await
}

/// Deposes the leader, who is no candidate then: an operator's word.
#[utoipa::path(
    delete,
    path = "/v1/elections/{name}",
    operation_id = "deposeLeader",
    tag = "elections",
    params(Latch, UnderToken),
    responses(
        (status = 200, description = "Who led.", body = BrokenView),
        Refused::<{ WRITE | UNKNOWN_LATCH | STALE_TOKEN }>,
    ),
)]
pub(super) async fn depose(
    State(api): Shared,
    Latch(name): Latch,
    _: Unconditional,
    params: Params,
) -> Answered {
    api.break_latch(LatchKey::new(LatchKind::Election, name), params).await
}
