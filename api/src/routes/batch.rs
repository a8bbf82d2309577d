//! `POST /v1/instances:batch`: cut into log entries of bounded size, decided one after the other.

use std::collections::{HashSet, VecDeque};

use axum::extract::State;
use roster_storage::catalog::Catalog;
use roster_storage::command::{Batch, BatchItem, Command, Refusal, Reply, Request};
use roster_storage::limits::{BATCH_ITEMS_MAX, COMMAND_BYTES_MAX};
use roster_storage::names::{InstanceKey, Revision};

use crate::answer::{Answer, Answered};
use crate::error::{ApiError, decided};
use crate::extract::{Content, Params};
use crate::openapi::parameters::Idempotent;
use crate::openapi::refusals::{BODY, ONCE, Refused, WRITE};
use crate::wire::batch::{BatchBody, BatchView, ItemFailed, ItemView, items};
use crate::{Api, Shared};

/// Room in an entry for what is around the items: the command's own fields and the longest
/// idempotency key.
const AROUND_BYTES: usize = 4 * 1024;

/// Registers and deregisters up to 5,000 instances, each with an answer of its own.
#[utoipa::path(
    post,
    path = "/v1/instances:batch",
    operation_id = "batchInstances",
    tag = "instances",
    params(Idempotent),
    request_body = BatchBody,
    responses(
        (
            status = 200,
            description = "What became of each item, in their order.",
            body = BatchView,
        ),
        Refused::<{ WRITE | BODY | ONCE }>,
    ),
)]
pub(super) async fn batch(State(api): Shared, params: Params, content: Content) -> Answered {
    params.end()?;
    let request = content.once()?;
    let read = items(&content)?;
    if read.len() > BATCH_ITEMS_MAX {
        let detail = format!("{} items are over the limit of {BATCH_ITEMS_MAX}", read.len());
        return Err(ApiError::too_large(detail));
    }
    let mut good = VecDeque::with_capacity(read.len());
    let mut keys = Vec::with_capacity(read.len());
    for item in read {
        keys.push(item.map(|item| {
            let key = key_of(&item).clone();
            good.push_back(item);
            key
        }));
    }
    let mut decided = decide(&api, good, request).await?;
    let revision = decided.revision.unwrap_or(api.registry.glance().applied);
    let newest = api.registry.newest();
    let results = keys.iter().map(|key| match key {
        Ok(key) => decided.next(key, &newest.catalog),
        Err(failed) => ItemView::Failed(failed.clone()),
    });
    let view = BatchView { results: results.collect(), revision: revision.0 };
    Ok(Answer::json(&view).at(revision))
}

fn key_of(item: &BatchItem) -> &InstanceKey {
    match item {
        BatchItem::Register(c) => &c.key,
        BatchItem::Deregister(c) => &c.key,
    }
}

/// What was decided, item by item; and why it went no further, if something came in between.
#[derive(Default)]
struct Decided {
    revision: Option<Revision>,
    results: VecDeque<(Revision, Result<Reply, Refusal>)>,
    /// Items whose entry got no answer, and what to say of them.
    stopped: Option<(usize, ItemFailed)>,
}

impl Decided {
    fn next<'a>(&mut self, key: &'a InstanceKey, catalog: &Catalog) -> ItemView<'a> {
        if let Some((revision, result)) = self.results.pop_front() {
            let result = result.map_err(|why| ApiError::refused(why, catalog));
            return ItemView::new(key, revision, result);
        }
        match &mut self.stopped {
            Some((in_doubt, failed)) if *in_doubt > 0 => {
                *in_doubt -= 1;
                ItemView::Failed(failed.clone())
            }
            Some((_, failed)) => ItemView::Failed(failed.clone().never_sent()),
            None => ItemView::Failed(ItemFailed::missing()),
        }
    }
}

/// Proposes entry after entry. An error in the first is the whole answer; in a later one, it is
/// told item by item, since the entries before it hold.
async fn decide(
    api: &Api,
    mut items: VecDeque<BatchItem>,
    request: Option<Request>,
) -> Result<Decided, ApiError> {
    let mut so_far = Decided::default();
    for part in 0.. {
        let items = next_entry(&mut items);
        if items.is_empty() {
            break;
        }
        let count = items.len();
        let request = request.clone().map(|request| Request { part, ..request });
        match decide_one(api, Batch { items, request }).await {
            Ok((revision, results)) => {
                so_far.revision = Some(revision);
                so_far.results.extend(results.into_iter().map(|result| (revision, result)));
            }
            Err(error) if part == 0 => return Err(error),
            Err(error) => {
                so_far.stopped = Some((count, ItemFailed::from(&error)));
                break;
            }
        }
    }
    Ok(so_far)
}

async fn decide_one(
    api: &Api,
    batch: Batch,
) -> Result<(Revision, Vec<Result<Reply, Refusal>>), ApiError> {
    match decided(api.registry.propose(Command::Batch(batch)).await?)? {
        (revision, Reply::Batch(results)) => Ok((revision, results)),
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Takes as many items as one entry holds; the limits on an item see to it that one always fits.
/// No instance comes twice: two lives that began in one entry would have one incarnation.
fn next_entry(items: &mut VecDeque<BatchItem>) -> Vec<BatchItem> {
    let mut entry = Vec::new();
    let mut keys = HashSet::new();
    let mut bytes = AROUND_BYTES;
    while let Some(item) = items.pop_front() {
        bytes += item.encoded_bytes_max();
        let fits = bytes <= COMMAND_BYTES_MAX || entry.is_empty();
        if !fits || !keys.insert(key_of(&item).clone()) {
            items.push_front(item);
            break;
        }
        entry.push(item);
    }
    entry
}
