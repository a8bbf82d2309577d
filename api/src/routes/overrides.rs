//! `/v1/apps/{app}/instances/{id}/override`

use axum::extract::State;
use roster_storage::command::{ClearOverride, Command, Overridden, Refusal, Reply};

use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::error::{ApiError, decided};
use crate::extract::{Content, Key, Params, Reading, Unconditional};
use crate::openapi::refusals::{BODY, READ, Refused, UNKNOWN_APP, UNKNOWN_OVERRIDE, WRITE};
use crate::openapi::schemas::{ReasonText, Tag};
use crate::wire::instance::{OverrideBody, OverrideChanged, OverrideView, reason};

/// Reads an operator's word on an instance.
#[utoipa::path(
    get,
    path = "/v1/apps/{app}/instances/{id}/override",
    operation_id = "readOverride",
    tag = "instances",
    params(Key, Reading),
    responses(
        (status = 200, description = "The word.", body = OverrideView, headers(("ETag" = Tag))),
        Refused::<{ READ | UNKNOWN_APP | UNKNOWN_OVERRIDE }>,
    ),
)]
pub(super) async fn read(State(api): Shared, Key(key): Key, mut params: Params) -> Answered {
    let reading = params.reading()?;
    params.end()?;
    let version = api.read(reading).await?;
    if version.catalog.app(&key.app).is_none() {
        return Err(Refusal::UnknownApp(key.app).into());
    }
    let word = version.catalog.override_of(&key).ok_or_else(ApiError::unknown_override)?;
    let answer = Answer::json(&OverrideView::new(&key, word)).at(version.revision());
    Ok(answer.read(reading.consistency).etag(word.revision))
}

/// Sets an operator's word on an instance, apart from what it says of itself.
#[utoipa::path(
    put,
    path = "/v1/apps/{app}/instances/{id}/override",
    operation_id = "putOverride",
    tag = "instances",
    params(Key),
    request_body = OverrideBody,
    responses(
        (
            status = 200,
            description = "It is set.",
            body = OverrideChanged,
            headers(("ETag" = Tag)),
        ),
        Refused::<{ WRITE | BODY | UNKNOWN_APP }>,
    ),
)]
pub(super) async fn put(
    State(api): Shared,
    Key(key): Key,
    _: Unconditional,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    let command = content.json::<OverrideBody>()?.into_override(key.clone())?;
    let state = match command.state {
        Overridden::Draining => "draining",
        Overridden::Maintenance => "maintenance",
    };
    match decided(api.registry.propose(Command::PutOverride(command)).await?)? {
        (revision, Reply::OverridePut) => {
            let (app, id) = (key.app.as_str(), key.id.as_str());
            let view = OverrideChanged { app, id, state: Some(state), revision: revision.0 };
            Ok(Answer::json(&view).at(revision).etag(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Takes an operator's word back.
#[utoipa::path(
    delete,
    path = "/v1/apps/{app}/instances/{id}/override",
    operation_id = "clearOverride",
    tag = "instances",
    params(
        Key,
        ("reason" = inline(Option<ReasonText>), Query, description = "Why, for the history."),
    ),
    responses(
        (status = 200, description = "It is gone.", body = OverrideChanged),
        Refused::<{ WRITE | UNKNOWN_APP }>,
    ),
)]
pub(super) async fn clear(
    State(api): Shared,
    Key(key): Key,
    _: Unconditional,
    mut params: Params,
) -> Answered {
    let said = params.text("reason").map(reason).transpose()?;
    params.end()?;
    let reason = said.unwrap_or_default();
    let command = Command::ClearOverride(ClearOverride { key: key.clone(), reason });
    match decided(api.registry.propose(command).await?)? {
        (revision, Reply::OverrideCleared) => {
            let (app, id) = (key.app.as_str(), key.id.as_str());
            let view = OverrideChanged { app, id, state: None, revision: revision.0 };
            Ok(Answer::json(&view).at(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}
