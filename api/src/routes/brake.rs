//! `/v1/cluster/brake`: how removals are slowed down when much falls silent at once, and an operator's
//! word about it.

use axum::extract::State;
use roster_storage::command::{ClearBrakeOverride, Command, Reply};

use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::error::{ApiError, decided};
use crate::extract::{Content, Params, Reading, Unconditional};
use crate::openapi::parameters::WhichBrake;
use crate::openapi::refusals::{BODY, READ, Refused, UNKNOWN_APP, WRITE};
use crate::wire::brake::{BrakeOverrideBody, BrakeOverrideChanged, BrakeStatus, scope_named};

/// How removals are slowed down when much falls silent at once.
#[utoipa::path(
    get,
    path = "/v1/cluster/brake",
    operation_id = "readBrake",
    tag = "cluster",
    params(Reading),
    responses(
        (status = 200, description = "The brake.", body = BrakeStatus),
        Refused::<{ READ }>,
    ),
)]
pub(super) async fn read(State(api): Shared, mut params: Params) -> Answered {
    let reading = params.reading()?;
    params.end()?;
    let version = api.read(reading).await?;
    let settings = api.registry.brake_settings();
    let status = BrakeStatus::new(&version.catalog, settings, version.revision().0);
    Ok(Answer::json(&status).at(version.revision()).read(reading.consistency))
}

/// Sets an operator's word about the brake.
#[utoipa::path(
    put,
    path = "/v1/cluster/brake",
    operation_id = "putBrakeOverride",
    tag = "cluster",
    request_body = BrakeOverrideBody,
    responses(
        (status = 200, description = "It is set.", body = BrakeOverrideChanged),
        Refused::<{ WRITE | BODY | UNKNOWN_APP }>,
    ),
)]
pub(super) async fn put(
    State(api): Shared,
    _: Unconditional,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    let command = content.json::<BrakeOverrideBody>()?.into_override()?;
    let (scope, mode) = (command.scope.clone(), command.mode);
    match decided(api.registry.propose(Command::OverrideBrake(command)).await?)? {
        (revision, Reply::BrakeOverridePut) => {
            let view = BrakeOverrideChanged::new(&scope, Some(mode), revision.0);
            Ok(Answer::json(&view).at(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Takes an operator's word about the brake back; what is not there is no failure.
#[utoipa::path(
    delete,
    path = "/v1/cluster/brake",
    operation_id = "clearBrakeOverride",
    tag = "cluster",
    params(WhichBrake),
    responses(
        (status = 200, description = "It is gone.", body = BrakeOverrideChanged),
        Refused::<{ WRITE | UNKNOWN_APP }>,
    ),
)]
pub(super) async fn clear(State(api): Shared, _: Unconditional, mut params: Params) -> Answered {
    let scope = scope_named(params.text("scope").as_deref(), params.text("app"))?;
    params.end()?;
    let command = Command::ClearBrakeOverride(ClearBrakeOverride { scope: scope.clone() });
    match decided(api.registry.propose(command).await?)? {
        (revision, Reply::BrakeOverrideCleared | Reply::Done) => {
            let view = BrakeOverrideChanged::new(&scope, None, revision.0);
            Ok(Answer::json(&view).at(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}
