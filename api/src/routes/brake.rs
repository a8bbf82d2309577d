//! `/v1/cluster/brake`: how removals are slowed down when much falls silent at once, and an operator's
//! word about it.

use axum::extract::State;
use roster_storage::command::{ClearBrakeOverride, Command, Reply};

use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::error::{ApiError, decided};
use crate::extract::{Content, Params, Unconditional};
use crate::wire::brake::{BrakeOverrideBody, BrakeOverrideChanged, BrakeStatus, scope_named};

pub(super) async fn read(State(api): Shared, mut params: Params) -> Answered {
    let reading = params.reading()?;
    params.end()?;
    let version = api.read(reading).await?;
    let settings = api.registry.brake_settings();
    let status = BrakeStatus::new(&version.catalog, settings, version.revision().0);
    Ok(Answer::json(&status).at(version.revision()).read(reading.consistency))
}

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

/// Clearing what is not there is no failure, so that it may be repeated.
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
