//! What went wrong, as clients see it. Only this file knows status codes.
//!
//! An [`ApiError`] becomes a response without a body; `conventions` writes the problem document
//! once it knows the request's id and what the node sees.

use std::borrow::Cow;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use roster_storage::command::{Outcome, Refusal, Reply};
use roster_storage::names::{Incarnation, InvalidName, LatchKey, Revision, ShardSetName};
use serde::Serialize;

use crate::answer::Answer;
use crate::registry::{BeatRefused, Glance, NotFollowed, Unavailable};
use crate::wire::sentinel::BadRequest;

/// A request that got no success.
#[derive(Clone, Debug)]
pub(crate) struct ApiError(Arc<Problem>);

#[derive(Clone, Debug)]
struct Problem {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: String,
    /// Whether a write may still take effect.
    unknown: bool,
    /// Where it was decided, if the log decided it.
    revision: Option<Revision>,
    /// The life that took over (invariant S12: a refusal says the current one).
    incarnation: Option<Incarnation>,
    /// The ring's epoch, where the request named another one.
    epoch: Option<Revision>,
    /// Under which a latch or a shard is held, where the request named another token or grant.
    token: Option<Revision>,
    /// From where to list again.
    restart_from: Option<Revision>,
    fields: Vec<FieldError>,
}

/// A request, or one item of it, that cannot be: it names what is wrong and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub field: Cow<'static, str>,
    pub why: String,
}

impl Invalid {
    pub fn new(field: impl Into<Cow<'static, str>>, why: impl ToString) -> Self {
        Self { field: field.into(), why: why.to_string() }
    }

    pub fn name(field: &'static str) -> impl FnOnce(InvalidName) -> Self {
        move |why| Self::new(field, why)
    }

    pub fn code(&self) -> String {
        format!("invalid-{}", self.field)
    }

    pub fn detail(&self) -> String {
        format!("{} {}", self.field, self.why)
    }
}

#[derive(Clone, Debug, Serialize)]
struct FieldError {
    field: Cow<'static, str>,
    code: Cow<'static, str>,
    detail: String,
}

impl ApiError {
    fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self(Arc::new(Problem {
            status,
            code: code.into(),
            detail: detail.into(),
            unknown: false,
            revision: None,
            incarnation: None,
            epoch: None,
            token: None,
            restart_from: None,
            fields: Vec::new(),
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut Problem)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    fn field(self, field: Cow<'static, str>, why: String) -> Self {
        self.with(|p| p.fields.push(FieldError { field, code: p.code.clone(), detail: why }))
    }

    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    pub fn unknown_field(field: String, why: String) -> Self {
        let detail = format!("there is no {field}: {why}");
        Self::new(StatusCode::BAD_REQUEST, "unknown-field", detail).field(field.into(), why)
    }

    pub fn unknown_parameter(name: String) -> Self {
        let detail = format!("there is no query parameter {name:?} here");
        let why = detail.clone();
        Self::new(StatusCode::BAD_REQUEST, "unknown-field", detail).field(name.into(), why)
    }

    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    pub fn content_type(wanted: &'static str) -> Self {
        let why = format!("must be {wanted}");
        let detail = format!("the content type {why}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid-content-type", detail)
            .field("content-type".into(), why)
    }

    pub fn unknown_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown-route", "there is nothing at this path")
    }

    pub fn method_not_allowed() -> Self {
        let detail = "this path does not take this method; the Allow header names those it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
    }

    pub fn unknown_override() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown-override", "no override is set for this instance")
    }

    /// The owners of keys were asked for under an epoch that is not the ring's.
    pub fn stale_epoch(asked: Revision, current: Revision) -> Self {
        let detail = format!("the ring is at epoch {current}, not {asked}; fetch it and ask again");
        Self::new(StatusCode::CONFLICT, "stale-epoch", detail).with(|p| p.epoch = Some(current))
    }

    /// Nobody said how many workers there should be.
    pub fn no_scaling(set: &ShardSetName) -> Self {
        let detail = format!(
            "shard set \"{set}\" has no scaling; switch it on with PUT /v1/shard-sets/{{set}} and \
             \"scaling\":{{\"shards_per_worker\":…,\"max\":…}}"
        );
        Self::new(StatusCode::NOT_FOUND, "no-scaling", detail)
    }

    /// The pinned revision of a cursor is gone, or never was on this node.
    pub fn compacted(restart_from: Revision) -> Self {
        let detail = "this cursor's revision is not kept here any more; list again from the start";
        Self::new(StatusCode::GONE, "compacted", detail)
            .with(|p| p.restart_from = Some(restart_from))
    }

    /// The changes after `from` cannot be told.
    pub fn not_followed(why: NotFollowed, from: Revision) -> Self {
        match why {
            NotFollowed::Unavailable(why) => Self::of_read(why),
            NotFollowed::Compacted { restart_from } => Self::changes_compacted(from, restart_from),
            NotFollowed::Ahead { current } => {
                let detail = format!("this node is at revision {current}, not yet at {from}");
                Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail).at(current)
            }
        }
    }

    pub fn changes_compacted(from: Revision, restart_from: Revision) -> Self {
        let detail = format!(
            "not all changes after revision {from} are kept on this node any more; list again, or \
             watch without from= or with restart=snapshot"
        );
        Self::new(StatusCode::GONE, "compacted", detail)
            .with(|p| p.restart_from = Some(restart_from))
    }

    pub fn too_much_changed(from: Revision, max: usize, restart_from: Revision) -> Self {
        let detail = format!("more than {max} things changed after revision {from}; list again");
        Self::new(StatusCode::GONE, "compacted", detail)
            .with(|p| p.restart_from = Some(restart_from))
    }

    /// A claimant has neither a latch nor a place in its queue.
    pub fn nothing_to_let_go(latch: &LatchKey) -> Self {
        let detail = format!("this owner neither holds {latch} nor waits for it");
        Self::new(StatusCode::CONFLICT, "stale-token", detail)
    }

    /// A claim that waited was given up by another request of the same claimant.
    pub fn claim_given_up(latch: &LatchKey) -> Self {
        let detail = format!("the place in the queue of {latch} was given up by another request");
        Self::new(StatusCode::CONFLICT, "lock-held", detail)
    }

    /// Another request of the same claimant asked for the latch since, and has the place now.
    pub fn asked_again(latch: &LatchKey) -> Self {
        let detail = format!(
            "another request of this owner asked for {latch} since, and keeps its place in the queue"
        );
        Self::new(StatusCode::CONFLICT, "lock-held", detail).unknown()
    }

    /// It may have an effect still.
    pub fn unknown(self) -> Self {
        self.with(|p| p.unknown = true)
    }

    pub fn not_ready(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail)
    }

    /// An answer that no request of this kind can get: it would be a bug in this binary or in the
    /// leader's. The write may have happened.
    pub fn unexpected(reply: &Reply) -> Self {
        let detail = format!("the cluster gave another kind of answer: {reply:?}");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail).with(|p| p.unknown = true)
    }

    /// A read that failed did nothing, whatever the reason.
    pub fn of_read(why: Unavailable) -> Self {
        Self::from(why).with(|p| p.unknown = false)
    }

    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub fn code(&self) -> &str {
        &self.0.code
    }

    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    pub fn outcome(&self) -> &'static str {
        if self.0.unknown { "unknown" } else { "none" }
    }

    /// Says what the refusal is based on.
    pub fn at(self, revision: Revision) -> Self {
        self.with(|p| p.revision = Some(revision))
    }

    pub fn revision(&self) -> Option<Revision> {
        self.0.revision
    }

    /// Whether it passes by itself, as overload and absence do, so that the client is told when to
    /// come back.
    pub fn passes(&self) -> bool {
        [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&self.0.status)
    }

    /// The problem document.
    pub fn body(&self, request_id: &str, glance: &Glance) -> Vec<u8> {
        let p = &*self.0;
        let document = Document {
            kind: format_args!("urn:roster:problem:{}", p.code),
            title: p.code.replace('-', " "),
            status: p.status.as_u16(),
            detail: &p.detail,
            code: &p.code,
            outcome: self.outcome(),
            retryable: self.passes() || p.status == StatusCode::GATEWAY_TIMEOUT,
            leader: glance.leader.map(|id| id.to_string()),
            revision: p.revision.unwrap_or(glance.applied).0,
            request_id,
            incarnation: p.incarnation.map(|i| i.0),
            epoch: p.epoch.map(|epoch| epoch.0),
            token: p.token.map(|token| token.0),
            restart_from: p.restart_from.map(|r| r.0),
            errors: &p.fields,
        };
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

/// RFC 9457, with Roster's own members.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: std::fmt::Arguments<'a>,
    title: String,
    status: u16,
    detail: &'a str,
    code: &'a str,
    outcome: &'static str,
    retryable: bool,
    leader: Option<String>,
    revision: u64,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_from: Option<u64>,
    errors: &'a [FieldError],
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// What the framework of Sentinel's dashboard answers where it wants a number.
pub(crate) fn sentinel_bad_request(path: &str) -> Response {
    let status = StatusCode::BAD_REQUEST;
    (status, Answer::json(&BadRequest::at(path, status.as_u16()))).into_response()
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::new(StatusCode::BAD_REQUEST, invalid.code(), invalid.detail())
            .field(invalid.field, invalid.why)
    }
}

impl From<Unavailable> for ApiError {
    fn from(why: Unavailable) -> Self {
        let (status, code) = match &why {
            Unavailable::NoLeader(_) => (StatusCode::SERVICE_UNAVAILABLE, "no-leader"),
            Unavailable::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
            Unavailable::Overloaded(_) => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Unavailable::ReadOnly(_) => (StatusCode::SERVICE_UNAVAILABLE, "read-only"),
            Unavailable::Unknown(_) | Unavailable::Timeout(_) => {
                (StatusCode::GATEWAY_TIMEOUT, "timeout")
            }
            Unavailable::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
        };
        Self::new(status, code, why.to_string()).with(|p| p.unknown = !why.nothing_was_done())
    }
}

impl From<BeatRefused> for ApiError {
    fn from(why: BeatRefused) -> Self {
        let (status, code) = match &why {
            BeatRefused::UnknownApp(_) => (StatusCode::NOT_FOUND, "unknown-app"),
            BeatRefused::UnknownInstance => (StatusCode::NOT_FOUND, "unknown-instance"),
            BeatRefused::UnknownSession(_) => (StatusCode::NOT_FOUND, "unknown-session"),
            BeatRefused::StaleIncarnation { .. } => (StatusCode::CONFLICT, "stale-incarnation"),
            BeatRefused::Ending => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
        };
        Self::new(status, code, why.to_string()).with(|p| {
            if let BeatRefused::StaleIncarnation { current } = why {
                p.incarnation = Some(current);
            }
        })
    }
}

impl From<Refusal> for ApiError {
    fn from(why: Refusal) -> Self {
        let (status, code) = match &why {
            Refusal::UnknownApp(_) => (StatusCode::NOT_FOUND, "unknown-app"),
            Refusal::UnknownInstance { .. } => (StatusCode::NOT_FOUND, "unknown-instance"),
            Refusal::UnknownSession(_) => (StatusCode::NOT_FOUND, "unknown-session"),
            Refusal::AppExists(_) => (StatusCode::PRECONDITION_FAILED, "app-exists"),
            Refusal::InstanceExists { .. } => (StatusCode::PRECONDITION_FAILED, "instance-exists"),
            Refusal::UnknownDocument { .. } => (StatusCode::NOT_FOUND, "unknown-document"),
            Refusal::DocumentExists { .. } => (StatusCode::PRECONDITION_FAILED, "document-exists"),
            Refusal::DocumentsTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            Refusal::PreconditionFailed { .. } => {
                (StatusCode::PRECONDITION_FAILED, "precondition-failed")
            }
            Refusal::AppNotEmpty { .. } => (StatusCode::CONFLICT, "app-not-empty"),
            Refusal::StaleIncarnation { .. } => (StatusCode::CONFLICT, "stale-incarnation"),
            Refusal::TtlOutOfBounds { .. } => (StatusCode::BAD_REQUEST, "invalid-ttl"),
            Refusal::MetadataTooLarge { .. } => (StatusCode::BAD_REQUEST, "invalid-metadata"),
            Refusal::SessionFull { .. } | Refusal::TooManyKeys => {
                (StatusCode::TOO_MANY_REQUESTS, "rate-limited")
            }
            Refusal::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "key-reused"),
            Refusal::NoRing(_) => (StatusCode::NOT_FOUND, "no-ring"),
            Refusal::UnknownShardSet(_) => (StatusCode::NOT_FOUND, "unknown-shard-set"),
            Refusal::RingExists(_) => (StatusCode::PRECONDITION_FAILED, "ring-exists"),
            Refusal::ShardSetExists(_) => (StatusCode::PRECONDITION_FAILED, "shard-set-exists"),
            Refusal::RingSeedFixed { .. } => (StatusCode::BAD_REQUEST, "invalid-seed"),
            Refusal::TooManyShardSets { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate-limited"),
            Refusal::AppInUse { .. } => (StatusCode::CONFLICT, "app-in-use"),
            Refusal::StaleToken { .. } | Refusal::StaleLatchToken { .. } => {
                (StatusCode::CONFLICT, "stale-token")
            }
            Refusal::LatchHeld { .. } => (StatusCode::CONFLICT, "lock-held"),
            Refusal::UnknownLatch { .. } => (StatusCode::NOT_FOUND, "unknown-latch"),
            Refusal::TokenShared { .. } => (StatusCode::BAD_REQUEST, "invalid-owner"),
            Refusal::LatchFull { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate-limited"),
        };
        let error = Self::new(status, code, why.to_string());
        match &why {
            Refusal::StaleIncarnation { current } => {
                let current = *current;
                error.with(|p| p.incarnation = Some(current))
            }
            Refusal::StaleLatchToken { current, .. }
            | Refusal::LatchHeld { token: current, .. } => {
                let current = *current;
                error.with(|p| p.token = Some(current).filter(|current| *current > Revision(0)))
            }
            Refusal::TtlOutOfBounds { .. } => error.field("ttl".into(), why.to_string()),
            Refusal::RingSeedFixed { .. } => error.field("seed".into(), why.to_string()),
            Refusal::MetadataTooLarge { .. } => error.field("metadata".into(), why.to_string()),
            Refusal::TokenShared { .. } => error.field("owner".into(), why.to_string()),
            Refusal::UnknownApp(_)
            | Refusal::UnknownInstance { .. }
            | Refusal::UnknownSession(_)
            | Refusal::AppExists(_)
            | Refusal::InstanceExists { .. }
            | Refusal::UnknownDocument { .. }
            | Refusal::DocumentExists { .. }
            | Refusal::DocumentsTooLarge { .. }
            | Refusal::PreconditionFailed { .. }
            | Refusal::AppNotEmpty { .. }
            | Refusal::SessionFull { .. }
            | Refusal::KeyReused
            | Refusal::NoRing(_)
            | Refusal::UnknownShardSet(_)
            | Refusal::RingExists(_)
            | Refusal::ShardSetExists(_)
            | Refusal::TooManyShardSets { .. }
            | Refusal::AppInUse { .. }
            | Refusal::StaleToken { .. }
            | Refusal::UnknownLatch { .. }
            | Refusal::LatchFull { .. }
            | Refusal::TooManyKeys => error,
        }
    }
}

/// The reply of a decided command and where it was decided, or why it was refused there.
pub(crate) fn decided(outcome: Outcome) -> Result<(Revision, Reply), ApiError> {
    let revision = outcome.revision;
    match outcome.result {
        Ok(reply) => Ok((revision, reply)),
        Err(refusal) => Err(ApiError::from(refusal).at(revision)),
    }
}
