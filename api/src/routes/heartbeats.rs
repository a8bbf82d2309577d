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
use crate::registry::{Beat, BeatRefused, BeatTarget, Renewed};
use crate::wire::heartbeat::{HeartbeatsBody, RenewedView};
use crate::wire::instance::RegisterHow;
use crate::wire::session::SessionBeatBody;
use crate::{Api, Shared};

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
