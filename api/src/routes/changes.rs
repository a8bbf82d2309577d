//! `GET /v1/changes`: what changed after a revision, in one small answer for many apps.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::extract::State;
use roster_storage::events::{Change, Interest};
use roster_storage::names::Revision;

use crate::answer::{Answer, Answered};
use crate::error::{ApiError, Invalid};
use crate::extract::{Params, Reading};
use crate::openapi::parameters::{Interesting, SinceIndex};
use crate::openapi::refusals::{LIST, Refused};
use crate::registry::Told;
use crate::wire::event::{Changed, ChangesView};
use crate::{Api, Shared};

/// More changed things than this are not told one by one: who has missed so much lists again.
const CHANGED_MAX: usize = 10_000;

/// How long to wait for the log of a node to be where its state is.
const A_MOMENT: Duration = Duration::from_millis(5);

/// How long that is waited for altogether: it is a matter of milliseconds.
const LAG_MAX: Duration = Duration::from_secs(5);

/// What changed after a revision, in one small answer for many apps.
#[utoipa::path(
    get,
    path = "/v1/changes",
    operation_id = "listChanges",
    tag = "events",
    params(Reading, Interesting, SinceIndex),
    responses(
        (status = 200, description = "What changed.", body = ChangesView),
        Refused::<{ LIST }>,
    ),
)]
pub(super) async fn changes(State(api): Shared, mut params: Params) -> Answered {
    let (mut reading, interest) = (params.reading()?, params.interest()?);
    let index = params.number("index")?.map(Revision);
    let index = index.ok_or_else(|| {
        Invalid::new("index", "is missing: give the revision after which the changes are wanted")
    })?;
    let wait = params.wait()?.unwrap_or_default();
    params.end()?;
    // All that was acknowledged before this request is told.
    reading.min_revision = reading.min_revision.max(Some(index));
    let upto = api.read(reading).await?.revision();
    let (changed, revision) = collect(&api, interest, index, upto, wait).await?;
    let view = ChangesView { revision: revision.0, changed };
    Ok(Answer::json(&view).at(revision).read(reading.consistency))
}

async fn collect(
    api: &Api,
    interest: Interest,
    after: Revision,
    upto: Revision,
    wait: Duration,
) -> Result<(BTreeSet<Changed>, Revision), ApiError> {
    let deadline = Instant::now() + wait;
    let given_up = deadline + LAG_MAX;
    let followed = api.registry.follow(interest.clone(), after, wait).await;
    let mut feed = followed.map_err(|why| ApiError::not_followed(why, after))?;
    let mut changed = BTreeSet::new();
    let mut revision = after;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = match (revision < upto, changed.is_empty()) {
            (true, _) if Instant::now() >= given_up => {
                let detail = "this node's events lag behind its state; ask again, or another node";
                return Err(ApiError::not_ready(detail));
            }
            (true, _) => A_MOMENT,
            (false, true) if !left.is_zero() => left,
            (false, _) => return Ok((changed, revision)),
        };
        match feed.next(patience).await {
            Told::Changes(changes) => {
                for change in &changes {
                    changed.extend(of_interest(change, &interest));
                    revision = change.at.revision;
                }
                if changed.len() > CHANGED_MAX {
                    return Err(ApiError::too_much_changed(after, CHANGED_MAX, revision));
                }
            }
            Told::UpTo(told) => revision = revision.max(told),
            Told::Stopping(_) => {
                return Err(ApiError::not_ready("this node stops; ask another one"));
            }
            Told::Lagging(restart_from) | Told::Compacted { restart_from } => {
                return Err(ApiError::changes_compacted(after, restart_from));
            }
        }
    }
}

fn of_interest(change: &Change, interest: &Interest) -> impl Iterator<Item = Changed> {
    change.notices().filter(|notice| interest.wants(*notice)).filter_map(Changed::of)
}
