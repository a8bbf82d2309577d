//! `/v1/elections`

use axum::extract::State;
use roster_storage::names::{LatchKey, LatchKind, LatchName};

use super::latches::{Afterwards, Claimed, REPEATABLE};
use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::error::Invalid;
use crate::extract::{Content, Latch, Params, Unconditional};
use crate::lists::Listed;
use crate::wire::latch::{
    CANDIDATES_SHOWN, CampaignBody, CampaignView, ElectionList, ElectionView, ResignBody,
};

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

pub(super) async fn read(State(api): Shared, Latch(name): Latch, params: Params) -> Answered {
    let key = LatchKey::new(LatchKind::Election, name);
    let (version, latch, consistency) = api.latch_version(&key, params).await?;
    let answer = Answer::json(&ElectionView::new(&key.name, &latch, CANDIDATES_SHOWN));
    Ok(answer.at(version.revision()).read(consistency).etag(latch.revision))
}

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

pub(super) async fn check(State(api): Shared, Latch(name): Latch, params: Params) -> Answered {
    api.check(&LatchKey::new(LatchKind::Election, name), params).await
}

pub(super) async fn depose(
    State(api): Shared,
    Latch(name): Latch,
    _: Unconditional,
    params: Params,
) -> Answered {
    api.break_latch(LatchKey::new(LatchKind::Election, name), params).await
}
