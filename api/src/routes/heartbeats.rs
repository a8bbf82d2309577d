//! Heartbeats: of one instance, of one session, of many.

use axum::extract::State;
use roster_storage::command::Condition;
use roster_storage::limits::{ADOPTED_MAX, HEARTBEATS_MAX};
use roster_storage::names::{Incarnation, Revision};

use super::instances;
use crate::answer::{Answer, Answered};
use crate::beats::{BeatsBody, BodyAnswer, HEARTBEATS_BYTES_MAX, Summary};
use crate::error::{ApiError, Invalid};
use crate::extract::{Content, Encoding, Key, Params, Session};
use crate::openapi::parameters::{Adopted, CreatingApp, IncarnationGuard};
use crate::openapi::refusals::{
    BODY, RATE_LIMITED, Refused, STALE_INCARNATION, UNKNOWN_APP, UNKNOWN_INSTANCE, UNKNOWN_SESSION,
    WRITE,
};
use crate::openapi::schemas::Tag;
use crate::openapi::shapes::RenewedOrRegistered;
use crate::registry::{Beat, BeatRefused, BeatTarget, Renewed};
use crate::wire::heartbeat::{HeartbeatsBody, HeartbeatsView, RenewedView};
use crate::wire::instance::{InstanceBody, RegisterHow, RegisteredView};
use crate::wire::session::SessionBeatBody;
use crate::{Api, Shared};

/// Renews the session of an instance.
///
/// With the full record as its body it registers an instance that is not there in the same call.
#[utoipa::path(
    put,
    path = "/v1/apps/{app}/instances/{id}/heartbeat",
    operation_id = "heartbeatInstance",
    tag = "heartbeats",
    params(Key, IncarnationGuard, CreatingApp, Adopted),
    request_body = Option<InstanceBody>,
    responses(
        (
            status = 200,
            description = "It was renewed; or, if it was not there and came with its record, registered over a life that began meanwhile.",
            body = RenewedOrRegistered,
        ),
        (
            status = 201,
            description = "It was not there and came with its full record: it is registered.",
            body = RegisteredView,
            headers(("ETag" = Tag)),
        ),
        Refused::<{
            WRITE | BODY | UNKNOWN_APP | UNKNOWN_INSTANCE | UNKNOWN_SESSION
            | STALE_INCARNATION | RATE_LIMITED
        }>,
    ),
)]
pub(super) async fn one(
    State(api): Shared,
    Key(key): Key,
    mut params: Params,
    content: Content,
) -> Answered {
    let incarnation = params.number("incarnation")?.map(Incarnation);
    let create_app = params.flag("create_app")?.unwrap_or(true);
    let adopted = params.number("adopted")?.map(|epoch| (key.app.clone(), Revision(epoch)));
    params.end()?;
    let adopted: Vec<_> = adopted.into_iter().collect();
    let adopts = !adopted.is_empty();
    let record = if content.is_empty() { None } else { Some(content.json()?) };
    let target = BeatTarget::Instance { key: key.clone(), incarnation };
    let (revision, answer) = beat(&api, Beat { adopted, ..Beat::of(target) }).await?;
    match (answer, record) {
        (Ok(renewed), _) => {
            Ok(Answer::json(&RenewedView::new(renewed, revision, adopts)).at(revision))
        }
        (Err(BeatRefused::UnknownApp(_) | BeatRefused::UnknownInstance), Some(record)) => {
            let how = RegisterHow { create_app, takeover: false, condition: Condition::Any };
            instances::propose(&api, key, record, how).await
        }
        (Err(refused), _) => Err(ApiError::from(refused).at(revision)),
    }
}

/// Renews a session.
#[utoipa::path(
    put,
    path = "/v1/sessions/{session}/heartbeat",
    operation_id = "heartbeatSession",
    tag = "heartbeats",
    params(Session),
    request_body = Option<SessionBeatBody>,
    responses(
        (status = 200, description = "It was renewed.", body = RenewedView),
        Refused::<{ WRITE | BODY | UNKNOWN_SESSION }>,
    ),
)]
pub(super) async fn session(
    State(api): Shared,
    Session(session): Session,
    params: Params,
    content: Content,
) -> Answered {
    params.end()?;
    let body: SessionBeatBody = content.json_or_default()?;
    let adopts = body.adopted.is_some();
    if body.adopted.as_ref().is_some_and(|adopted| adopted.len() > ADOPTED_MAX) {
        let problem = format!("must not name more than {ADOPTED_MAX} apps");
        return Err(Invalid::new("adopted", problem).into());
    }
    let adopted = body.adopted.into_iter().flatten();
    let adopted = adopted.map(|(app, epoch)| (app, Revision(epoch))).collect();
    let sign = Beat { adopted, ..Beat::of(BeatTarget::Session(session)) };
    let (revision, answer) = beat(&api, sign).await?;
    let renewed = answer.map_err(|refused| ApiError::from(refused).at(revision))?;
    Ok(Answer::json(&RenewedView::new(renewed, revision, adopts)).at(revision))
}

/// One sign of life: the outer error is the node's; the inner result is the leader's word on this
/// beat, which is of that revision.
pub(super) async fn beat(
    api: &Api,
    sign: Beat,
) -> Result<(Revision, Result<Renewed, BeatRefused>), ApiError> {
    let mut answers = api.registry.heartbeat(vec![sign]).await?;
    let answer = answers.each.pop();
    let answer =
        answer.ok_or_else(|| ApiError::not_ready("the leader gave no answer to the beat"))?;
    Ok((answers.revision, answer))
}

/// Renews up to 10,000 sessions and instances, in at most 3,200,000 bytes.
#[utoipa::path(
    post,
    path = "/v1/heartbeats",
    operation_id = "heartbeatMany",
    tag = "heartbeats",
    request_body(content((HeartbeatsBody = "application/json"), (HeartbeatsBody = "application/msgpack"))),
    responses(
        (
            status = 200,
            description = "How many were renewed, and who was not.",
            content((HeartbeatsView = "application/json"), (HeartbeatsView = "application/msgpack")),
        ),
        Refused::<{ WRITE | BODY }>,
    ),
)]
pub(super) async fn many(State(api): Shared, params: Params, content: Content) -> Answered {
    params.end()?;
    let encoding = content.encoding()?;
    if content.bytes.len() > HEARTBEATS_BYTES_MAX {
        let length = content.bytes.len();
        let detail = format!(
            "{length} bytes of heartbeats are over the limit of {HEARTBEATS_BYTES_MAX}; send them in \
             several calls"
        );
        return Err(ApiError::too_large(detail));
    }
    let body = BeatsBody { encoding, bytes: content.bytes.clone() };
    if !body.begins_as_a_batch() {
        // What is wrong is told here; the leader has more to do.
        content.json_or_msgpack::<HeartbeatsBody>()?;
    }
    let (revision, answer) = api.registry.heartbeats(body).await?;
    match answer {
        BodyAnswer::Renewed(body) => Ok(Answer::encoded_body(encoding, body.into()).at(revision)),
        BodyAnswer::NotRead => one_by_one(&api, &content, encoding).await,
    }
}

/// Tells what is wrong with a body that the leader could not read. If nothing is, it leads in an
/// earlier version, which takes beats that were read already.
async fn one_by_one(api: &Api, content: &Content, encoding: Encoding) -> Answered {
    let body: HeartbeatsBody = content.json_or_msgpack()?;
    if body.len() > HEARTBEATS_MAX {
        let detail = format!("{} heartbeats are over the limit of {HEARTBEATS_MAX}", body.len());
        return Err(ApiError::too_large(detail));
    }
    let beats = body.into_beats()?;
    let answers = api.registry.heartbeat(beats.clone()).await?;
    let body = summary(beats, answers.each).write(encoding);
    Ok(Answer::encoded_body(encoding, body.into()).at(answers.revision))
}

fn summary(beats: Vec<Beat>, answers: Vec<Result<Renewed, BeatRefused>>) -> Summary {
    let mut summary = Summary::default();
    for (beat, answer) in beats.into_iter().zip(answers) {
        match answer {
            Ok(renewed) => {
                summary.renewed(renewed.ttl_ms);
                summary.settled(renewed.settled);
            }
            Err(why) => summary.failed(&beat.target, why),
        }
    }
    summary
}
