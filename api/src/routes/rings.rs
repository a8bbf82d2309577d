//! `/v1/apps/{app}/ring`: what clients compute the owners of keys from, and those owners.

use std::sync::Arc;

use axum::extract::State;
use roster_storage::catalog::{Catalog, State as Seen};
use roster_storage::command::{Command, CompactRing, DeleteRing, Refusal, Reply};
use roster_storage::names::{AppName, InstanceId, InstanceKey, Revision};
use roster_storage::ring::Ring;
use roster_storage::version::Version;

use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::aside::LIGHT;
use crate::error::{ApiError, Invalid, decided};
use crate::extract::{App, Content, Encoding, Params, Reading, When};
use crate::openapi::parameters::OneKey;
use crate::openapi::refusals::{
    BODY, NO_RING, PRECONDITION_FAILED, READ, RING_EXISTS, Refused, STALE_EPOCH, UNKNOWN_APP, WRITE,
};
use crate::openapi::schemas::Tag;
use crate::pace::Pace;
use crate::poll::{Poll, of_ring, ring_changed};
use crate::registry::Consistency;
use crate::wire::keys::{Keys, key_within_limit};
use crate::wire::ring::{
    OwnerView, Owners, OwnersBody, OwnersList, OwnersView, RingBody, RingChanged, RingView, Side,
    SimulateBody, SimulatedView, replicas,
};

/// Keys that a dry run looks at where none are named.
const PROBES: usize = 10_000;

/// The owners of so many keys are looked up at once; those of more, aside.
const LIGHT_KEYS: usize = 1_000;

/// Look-ups between two looks at the clock.
const LOOKED_UP_AT_ONCE: usize = 16;

/// Switches the ring of an app on, or changes it.
///
/// The seed is fixed while the ring is there (400 `invalid-seed`).
#[utoipa::path(
    put,
    path = "/v1/apps/{app}/ring",
    operation_id = "putRing",
    tag = "rings",
    params(App, When),
    request_body = Option<RingBody>,
    responses(
        (
            status = 200,
            description = "It was changed.",
            body = RingChanged,
            headers(("ETag" = Tag)),
        ),
        (
            status = 201,
            description = "It was switched on.",
            body = RingChanged,
            headers(("ETag" = Tag)),
        ),
        Refused::<{ WRITE | BODY | UNKNOWN_APP | RING_EXISTS | PRECONDITION_FAILED }>,
    ),
)]
pub(super) async fn put(
    State(api): Shared,
    App(app): App,
    When(condition): When,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    let body: RingBody = content.json_or_default()?;
    let command = Command::PutRing(body.into_command(app.clone(), condition)?);
    match decided(api.registry.propose(command).await?)? {
        (revision, Reply::RingPut { created, epoch }) => {
            Ok(changed(&app, Some(epoch), revision).created(created))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Switches the ring of an app off.
#[utoipa::path(
    delete,
    path = "/v1/apps/{app}/ring",
    operation_id = "deleteRing",
    tag = "rings",
    params(App, When),
    responses(
        (status = 200, description = "It is off.", body = RingChanged),
        Refused::<{ WRITE | UNKNOWN_APP | NO_RING | RING_EXISTS | PRECONDITION_FAILED }>,
    ),
)]
pub(super) async fn delete(
    State(api): Shared,
    App(app): App,
    When(condition): When,
    params: Params,
) -> Answered {
    params.end()?;
    let command = Command::DeleteRing(DeleteRing { app: app.clone(), condition });
    match decided(api.registry.propose(command).await?)? {
        (revision, Reply::RingDeleted) => Ok(changed(&app, None, revision)),
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Gives up vacant slots: look-ups get faster, and many keys move.
#[utoipa::path(
    post,
    path = "/v1/apps/{app}/ring/compact",
    operation_id = "compactRing",
    tag = "rings",
    params(App, When),
    responses(
        (
            status = 200,
            description = "It was compacted.",
            body = RingChanged,
            headers(("ETag" = Tag)),
        ),
        Refused::<{ WRITE | UNKNOWN_APP | NO_RING | RING_EXISTS | PRECONDITION_FAILED }>,
    ),
)]
pub(super) async fn compact(
    State(api): Shared,
    App(app): App,
    When(condition): When,
    params: Params,
) -> Answered {
    params.end()?;
    let command = Command::CompactRing(CompactRing { app: app.clone(), condition });
    match decided(api.registry.propose(command).await?)? {
        (revision, Reply::RingCompacted { epoch }) => Ok(changed(&app, Some(epoch), revision)),
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

fn changed(app: &AppName, epoch: Option<Revision>, revision: Revision) -> Answer {
    let view =
        RingChanged { app: app.as_str(), epoch: epoch.map(|epoch| epoch.0), revision: revision.0 };
    let answer = Answer::json(&view).at(revision);
    match epoch {
        Some(epoch) => answer.etag(epoch),
        None => answer,
    }
}

/// Reads the ring of an app: what clients compute owners from. Its `epoch` does as `index` too.
#[utoipa::path(
    get,
    path = "/v1/apps/{app}/ring",
    operation_id = "readRing",
    tag = "rings",
    params(App, Reading, Poll),
    responses(
        (
            status = 200,
            description = "The ring.",
            content((RingView = "application/json"), (RingView = "application/msgpack")),
            headers(("ETag" = Tag)),
        ),
        Refused::<{ READ | UNKNOWN_APP | NO_RING }>,
    ),
)]
pub(super) async fn read(
    State(api): Shared,
    App(app): App,
    encoding: Encoding,
    mut params: Params,
) -> Answered {
    let (reading, poll) = (params.reading()?, params.poll()?);
    params.end()?;
    if let Some(poll) = poll {
        let known = |version: &Version, _| ring_changed(version, &app);
        api.await_change(poll, of_ring(&app), |_| true, known).await?;
    }
    let version = api.read(reading).await?;
    if known(&version, &app)?.len() <= LIGHT {
        return describe(&version, &app, encoding, reading.consistency);
    }
    api.aside(async move { describe(&version, &app, encoding, reading.consistency) }).await?
}

fn describe(
    version: &Version,
    app: &AppName,
    encoding: Encoding,
    consistency: Consistency,
) -> Answered {
    let ring = known(version, app)?;
    let view = RingView {
        description: ring.description(app.as_str()),
        left_out: left_out(&version.catalog, app, ring),
    };
    let answer = Answer::encoded(encoding, &view).at(version.revision()).read(consistency);
    Ok(answer.etag(ring.epoch()))
}

fn known<'a>(version: &'a Version, app: &AppName) -> Result<&'a Arc<Ring>, Refusal> {
    let known = version.catalog.app(app).ok_or_else(|| Refusal::UnknownApp(app.clone()))?;
    known.ring.as_ref().ok_or_else(|| Refusal::NoRing(app.clone()))
}

/// The live instances that belong on the ring and are not there, since it has no slots left.
fn left_out<'a>(catalog: &'a Catalog, app: &AppName, ring: &Ring) -> Vec<&'a str> {
    let Some(known) = catalog.app(app) else { return Vec::new() };
    if catalog.counts(app).up == ring.len() as u64 {
        return Vec::new();
    }
    let missing = known.instances.keys().filter(|id| ring.weight_of(id).is_none());
    let is_up = |id: &&InstanceId| {
        let key = InstanceKey::new(app.clone(), (*id).clone());
        catalog.state_of(&key) == Seen::Up
    };
    missing.filter(is_up).map(|id| id.as_str()).collect()
}

/// Who owns a key: the owner first, then those who hold copies.
#[utoipa::path(
    get,
    path = "/v1/apps/{app}/ring/owners",
    operation_id = "ownersOfKey",
    tag = "rings",
    params(App, Reading, OneKey),
    responses(
        (
            status = 200,
            description = "The owners.",
            content((OwnersView = "application/json"), (OwnersView = "application/msgpack")),
        ),
        Refused::<{ READ | UNKNOWN_APP | NO_RING | STALE_EPOCH }>,
    ),
)]
pub(super) async fn owners(
    State(api): Shared,
    App(app): App,
    encoding: Encoding,
    mut params: Params,
) -> Answered {
    let reading = params.reading()?;
    let (named, epoch) = (params.number("replicas")?, params.number("epoch")?);
    let key = params.bytes("key");
    params.end()?;
    let key =
        key.ok_or_else(|| Invalid::new("key", "is missing: give the key, percent-encoded"))?;
    key_within_limit(&key)?;
    let named = named.map(replicas).transpose()?;
    let version = api.read(reading).await?;
    let ring = known(&version, &app)?;
    epoch_is(ring, epoch)?;
    let owners = ring.owners(&key, named.unwrap_or(ring.replicas()).into());
    let instances = version.catalog.app(&app).map(|app| &app.instances);
    let view = |id| Some(OwnerView::new(id, instances?.get(id)?));
    let view = OwnersView::new(ring.epoch(), &key, owners.into_iter().filter_map(view).collect());
    Ok(Answer::encoded(encoding, &view).at(version.revision()).read(reading.consistency))
}

/// Who owns many keys, at most 10,000, in their order.
#[utoipa::path(
    post,
    path = "/v1/apps/{app}/ring/owners",
    operation_id = "ownersOfKeys",
    tag = "rings",
    params(App, Reading),
    request_body(content((OwnersBody = "application/json"), (OwnersBody = "application/msgpack"))),
    responses(
        (
            status = 200,
            description = "The owners of each key.",
            content((OwnersList = "application/json"), (OwnersList = "application/msgpack")),
        ),
        Refused::<{ READ | BODY | UNKNOWN_APP | NO_RING | STALE_EPOCH }>,
    ),
)]
pub(super) async fn owners_of_many(
    State(api): Shared,
    App(app): App,
    encoding: Encoding,
    mut params: Params,
    content: Content,
) -> Answered {
    let reading = params.reading()?;
    params.end()?;
    let body: OwnersBody = content.json_or_msgpack()?;
    body.keys.within_limits()?;
    let named = body.replicas.map(replicas).transpose()?;
    let version = api.read(reading).await?;
    epoch_is(known(&version, &app)?, body.epoch)?;
    let count = body.keys.len();
    let answer = async move {
        let ring = known(&version, &app)?;
        let results = look_up(ring, &body.keys, named.unwrap_or(ring.replicas()).into()).await?;
        let list = OwnersList { epoch: ring.epoch().0, results };
        Ok(Answer::encoded(encoding, &list).at(version.revision()).read(reading.consistency))
    };
    if count <= LIGHT_KEYS { answer.await } else { api.aside(answer).await? }
}

fn epoch_is(ring: &Ring, asked: Option<u64>) -> Result<(), ApiError> {
    match asked.map(Revision) {
        Some(asked) if asked != ring.epoch() => Err(ApiError::stale_epoch(asked, ring.epoch())),
        Some(_) | None => Ok(()),
    }
}

/// Many keys of a ring with many heavy workers can take long, if there are copies too.
async fn look_up<'a>(ring: &'a Ring, keys: &Keys, replicas: usize) -> Result<Owners<'a>, ApiError> {
    let mut pace = Pace::new();
    let mut owners = Owners::with_capacity(keys.len(), replicas.min(ring.len()));
    for (n, key) in keys.iter().enumerate() {
        owners.look_up(ring, key, replicas);
        if n % LOOKED_UP_AT_ONCE == 0 && pace.keep().await.is_err() {
            let detail = "these keys take too long on this ring; ask for fewer, or fewer replicas";
            return Err(ApiError::too_large(detail));
        }
    }
    Ok(owners)
}

/// What would move if workers left and joined. Nothing changes.
///
/// Without `keys` it looks at 10,000 of its own and lists no moves.
#[utoipa::path(
    post,
    path = "/v1/apps/{app}/ring/simulate",
    operation_id = "simulateRing",
    tag = "rings",
    params(App, Reading),
    request_body(content((Option<SimulateBody> = "application/json"), (Option<SimulateBody> = "application/msgpack"))),
    responses(
        (
            status = 200,
            description = "What would move.",
            content((SimulatedView = "application/json"), (SimulatedView = "application/msgpack")),
        ),
        Refused::<{ READ | BODY | UNKNOWN_APP | NO_RING }>,
    ),
)]
pub(super) async fn simulate(
    State(api): Shared,
    App(app): App,
    encoding: Encoding,
    mut params: Params,
    content: Content,
) -> Answered {
    let reading = params.reading()?;
    params.end()?;
    let mut body: SimulateBody = content.json_or_msgpack_or_default()?;
    let named = body.keys.take();
    let listed = named.is_some();
    let keys = named.unwrap_or_else(|| Keys::probes(PROBES));
    keys.within_limits()?;
    let version = api.read(reading).await?;
    let answer = async move {
        let ring = known(&version, &app)?;
        let after = body.after(ring)?;
        let before = Side { ring, owners: look_up(ring, &keys, 1).await? };
        let after = Side { ring: &after, owners: look_up(&after, &keys, 1).await? };
        let view = SimulatedView::new(&keys, listed, &before, &after);
        Ok(Answer::encoded(encoding, &view).at(version.revision()).read(reading.consistency))
    };
    api.aside(answer).await?
}
