//! `/v1/locks`

use axum::extract::State;
use roster_storage::names::{LatchKey, LatchKind, LatchName};

use super::latches::{Afterwards, Claimed, REPEATABLE};
use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::error::{ApiError, Invalid};
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
    AcquireBody, AcquiredView, BrokenView, CheckView, LatchChanged, LockList, LockView, ReleaseBody,
};

/// Lists locks, in the order of their names.
#[utoipa::path(
    get,
    path = "/v1/locks",
    operation_id = "listLocks",
    tag = "locks",
    params(Reading, Paging),
    responses(
        (status = 200, description = "A page of locks.", body = LockList),
        Refused::<{ LIST }>,
    ),
)]
pub(super) async fn list(State(api): Shared, mut params: Params) -> Answered {
    let (reading, paging) = (params.reading()?, params.paging()?);
    params.end()?;
    let listed = Listed::new("locks", None);
    let page = api.page(&listed, reading, paging).await?;
    let after = page.after.as_deref().map(LatchName::new).transpose();
    let after = after.map_err(Invalid::name("cursor"))?;
    let mut lines = page.catalog().latches_after(LatchKind::Lock, after.as_ref());
    let shown: Vec<_> = lines.by_ref().take(page.limit).collect();
    let last = lines.next().and(shown.last()).map(|(name, _)| name.as_str());
    let revision = page.version.revision();
    let list = LockList {
        next_cursor: last.map(|last| api.cursor(&page, &listed, last)),
        locks: shown.iter().map(|(name, latch)| LockView::new(name, latch)).collect(),
        revision: revision.0,
    };
    Ok(Answer::json(&list).at(revision).read(page.consistency))
}

/// Reads a lock: who holds it, and how many wait.
#[utoipa::path(
    get,
    path = "/v1/locks/{name}",
    operation_id = "readLock",
    tag = "locks",
    params(Latch, Reading, Poll),
    responses(
        (status = 200, description = "The lock.", body = LockView, headers(("ETag" = Tag))),
        Refused::<{ READ | UNKNOWN_LATCH }>,
    ),
)]
pub(super) async fn read(State(api): Shared, Latch(name): Latch, params: Params) -> Answered {
    let key = LatchKey::new(LatchKind::Lock, name);
    let (version, latch, consistency) = api.latch_version(&key, params).await?;
    let answer = Answer::json(&LockView::new(&key.name, &latch));
    Ok(answer.at(version.revision()).read(consistency).etag(latch.revision))
}

/// Acquires a lock, and waits for it if asked to. Who hangs up leaves the queue.
#[utoipa::path(
    post,
    path = "/v1/locks/{name}/acquire",
    operation_id = "acquireLock",
    tag = "locks",
    params(Latch),
    request_body = AcquireBody,
    responses(
        (status = 200, description = "It is held.", body = AcquiredView),
        Refused::<{ WRITE | BODY | UNKNOWN_SESSION | LOCK_HELD | RATE_LIMITED }>,
    ),
)]
pub(super) async fn acquire(
    State(api): Shared,
    Latch(name): Latch,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    let latch = LatchKey::new(LatchKind::Lock, name.clone());
    content.never_once(REPEATABLE)?;
    let claiming = content.json::<AcquireBody>()?.into_claiming(latch)?;
    let mode = claiming.command.mode.word();
    match api.claim(claiming, Afterwards::Leaves).await? {
        Claimed::Won { token, at } => {
            let view = AcquiredView { name: &name, token: token.0, mode, revision: at.0 };
            Ok(Answer::json(&view).at(at))
        }
        // Whoever does not want to wait gets no place, so this cannot be.
        Claimed::Waits { at } => {
            Err(ApiError::not_ready("the lock was not decided; ask again").unknown().at(at))
        }
    }
}

/// Lets a lock go: what is held under a token, or all that an owner has of it.
#[utoipa::path(
    post,
    path = "/v1/locks/{name}/release",
    operation_id = "releaseLock",
    tag = "locks",
    params(Latch, Idempotent),
    request_body = ReleaseBody,
    responses(
        (status = 200, description = "It is let go.", body = LatchChanged),
        Refused::<{ WRITE | BODY | ONCE | UNKNOWN_SESSION | STALE_TOKEN }>,
    ),
)]
pub(super) async fn release(
    State(api): Shared,
    Latch(name): Latch,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    let request = content.once()?;
    let latch = LatchKey::new(LatchKind::Lock, name);
    let letting = content.json::<ReleaseBody>()?.into_letting(latch.clone(), request)?;
    api.let_go(latch, letting).await
}

/// Whether a token still holds.
#[utoipa::path(
    get,
    path = "/v1/locks/{name}/check",
    operation_id = "checkLock",
    tag = "locks",
    params(Latch, Reading, Checking),
    responses(
        (status = 200, description = "Whether it holds.", body = CheckView),
        Refused::<{ READ }>,
    ),
)]
pub(super) async fn check(State(api): Shared, Latch(name): Latch, params: Params) -> Answered {
    api.check(&LatchKey::new(LatchKind::Lock, name), params).await
}

/// Takes a lock from whoever holds it: an operator's word.
#[utoipa::path(
    delete,
    path = "/v1/locks/{name}",
    operation_id = "breakLock",
    tag = "locks",
    params(Latch, UnderToken),
    responses(
        (status = 200, description = "Who lost it.", body = BrokenView),
        Refused::<{ WRITE | UNKNOWN_LATCH | STALE_TOKEN }>,
    ),
)]
pub(super) async fn break_it(
    State(api): Shared,
    Latch(name): Latch,
    _: Unconditional,
    params: Params,
) -> Answered {
    api.break_latch(LatchKey::new(LatchKind::Lock, name), params).await
}
