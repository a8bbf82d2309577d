//! `/v1/sessions`

use axum::extract::State;
use roster_storage::command::{CloseSession, Command, Refusal, Reply};
use roster_storage::names::{Revision, SessionId};
use roster_storage::version::Version;

use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::aside::LIGHT;
use crate::error::{ApiError, decided};
use crate::extract::{Content, Params, Reading, Session};
use crate::openapi::parameters::Idempotent;
use crate::openapi::refusals::{BODY, ONCE, READ, Refused, UNKNOWN_SESSION, WRITE};
use crate::openapi::schemas::Tag;
use crate::poll::{LastChange, Poll, of_session};
use crate::registry::Consistency;
use crate::wire::scalar::Text;
use crate::wire::session::{SessionBody, SessionClosed, SessionOpened, SessionView};

/// Opens a session, off which instances, locks and candidacies may hang.
#[utoipa::path(
    post,
    path = "/v1/sessions",
    operation_id = "openSession",
    tag = "sessions",
    params(Idempotent),
    request_body = Option<SessionBody>,
    responses(
        (status = 201, description = "It is open.", body = SessionOpened),
        Refused::<{ WRITE | BODY | ONCE }>,
    ),
)]
pub(super) async fn open(State(api): Shared, params: Params, content: Content) -> Answered {
    params.end()?;
    let request = content.once()?;
    let command = content.json_or_default::<SessionBody>()?.into_command(request)?;
    match decided(api.registry.propose(Command::OpenSession(command)).await?)? {
        (revision, Reply::SessionOpened { session, ttl_ms }) => {
            let view = SessionOpened::new(session, ttl_ms, revision.0);
            Ok(Answer::json(&view).created(true).at(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Reads a session with what hangs off it.
#[utoipa::path(
    get,
    path = "/v1/sessions/{session}",
    operation_id = "readSession",
    tag = "sessions",
    params(Session, Reading, Poll),
    responses(
        (
            status = 200,
            description = "The session.",
            body = SessionView,
            headers(("ETag" = Tag)),
        ),
        Refused::<{ READ | UNKNOWN_SESSION }>,
    ),
)]
pub(super) async fn read(State(api): Shared, Session(id): Session, mut params: Params) -> Answered {
    let (reading, poll) = (params.reading()?, params.poll()?);
    params.end()?;
    if let Some(poll) = poll {
        // One that is not there ended, whenever that was; the answer says so.
        let known = |version: &Version, _| match version.catalog.session(id) {
            Some(_) => LastChange::Unknown,
            None => LastChange::At(Revision(u64::MAX)),
        };
        api.await_change(poll, of_session(id), |_| true, known).await?;
    }
    let version = api.read(reading).await?;
    if version.catalog.held_by(id).nth(LIGHT).is_none() {
        return show(&version, id, reading.consistency);
    }
    api.aside(async move { show(&version, id, reading.consistency) }).await?
}

fn show(version: &Version, id: SessionId, consistency: Consistency) -> Answered {
    let catalog = &version.catalog;
    let session = catalog.session(id).ok_or(Refusal::UnknownSession(id))?;
    let held = catalog.held_by(id).map(|key| {
        let incarnation = catalog.instance(&key).map(|instance| instance.incarnation.0);
        (key, incarnation)
    });
    let answer = Answer::json(&SessionView::new(id, session, held, catalog.claims_of(id)))
        .at(version.revision());
    Ok(answer.read(consistency).etag(session.touched))
}

/// Closes a session: all that hangs off it is gone when this answers.
#[utoipa::path(
    delete,
    path = "/v1/sessions/{session}",
    operation_id = "closeSession",
    tag = "sessions",
    params(Session),
    responses(
        (status = 200, description = "It is closed.", body = SessionClosed),
        Refused::<{ WRITE | UNKNOWN_SESSION }>,
    ),
)]
pub(super) async fn close(
    State(api): Shared,
    Session(session): Session,
    params: Params,
) -> Answered {
    params.end()?;
    let command = Command::CloseSession(CloseSession { session });
    match decided(api.registry.propose(command).await?)? {
        (revision, Reply::SessionClosed { instances }) => {
            let view = SessionClosed { session: Text(session), instances, revision: revision.0 };
            Ok(Answer::json(&view).at(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}
