//! What went wrong, as clients see it. Only this file knows status codes.
//!
//! An [`ApiError`] becomes a response without a body; `conventions` writes the problem document
//! once it knows the request's id and what the node sees.

use std::borrow::Cow;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use roster_storage::catalog::Catalog;
use roster_storage::command::{Outcome, Refusal, Reply};
use roster_storage::names::{Incarnation, InvalidName, LatchKey, Revision, ShardSetName};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::Ref;

use crate::answer::Answer;
use crate::openapi::schemas::OutcomeWord;
use crate::registry::{BeatRefused, Glance, NotFollowed, Unavailable};
use crate::wire::sentinel::BadRequest;

macro_rules! codes {
    ($(#[doc = $meaning:literal] $name:ident = $word:literal, $status:ident;)*) => {
        /// What a problem is, in one word for programs. This table is the only one: answers are made
        /// from it, and so is what the OpenAPI document says of every operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As answers have it. That of [`Code::Invalid`] ends with the name of the field.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// For people.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning.trim_ascii(),)*
                }
            }

            pub fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)*
                }
            }
        }
    };
}

codes! {
    /// The body is not what its content type says, or did not arrive whole.
    Malformed = "malformed", BAD_REQUEST;
    /// There is no such field or query parameter.
    UnknownField = "unknown-field", BAD_REQUEST;
    /// A field, a parameter or a header is not as it must be; `errors` says which and why.
    Invalid = "invalid-<field>", BAD_REQUEST;
    /// There is no such app.
    UnknownApp = "unknown-app", NOT_FOUND;
    /// There is no such live instance.
    UnknownInstance = "unknown-instance", NOT_FOUND;
    /// There is no such session, or it is the private one of an instance.
    UnknownSession = "unknown-session", NOT_FOUND;
    /// No override is set for this instance.
    UnknownOverride = "unknown-override", NOT_FOUND;
    /// The app has no such document.
    UnknownDocument = "unknown-document", NOT_FOUND;
    /// The app has no ring.
    NoRing = "no-ring", NOT_FOUND;
    /// There is no such shard set.
    UnknownShardSet = "unknown-shard-set", NOT_FOUND;
    /// The shard set does not say how many workers there should be.
    NoScaling = "no-scaling", NOT_FOUND;
    /// Nobody holds this lock or waits for it, or nobody stands in this election.
    UnknownLatch = "unknown-latch", NOT_FOUND;
    /// There is nothing at this path.
    UnknownRoute = "unknown-route", NOT_FOUND;
    /// The path does not take this method; the Allow header names those it takes.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED;
    /// The app has instances or documents, and the request does not say `cascade=true`.
    AppNotEmpty = "app-not-empty", CONFLICT;
    /// The app gives the workers of a shard set, which `detail` names.
    AppInUse = "app-in-use", CONFLICT;
    /// Another life of the instance took over; `incarnation` says which.
    StaleIncarnation = "stale-incarnation", CONFLICT;
    /// The ring is at another epoch, which `epoch` says.
    StaleEpoch = "stale-epoch", CONFLICT;
    /// Nothing is held under this token or grant; `token` says under which it is, if it is.
    StaleToken = "stale-token", CONFLICT;
    /// Others hold the lock, or the claim on it was given up; `token` says under which token it is held.
    LockHeld = "lock-held", CONFLICT;
    /// What was asked for is not kept any more; `restart_from` says from where to go on.
    Compacted = "compacted", GONE;
    /// What `If-Match` names has changed since, or is not there.
    PreconditionFailed = "precondition-failed", PRECONDITION_FAILED;
    /// The app is there already.
    AppExists = "app-exists", PRECONDITION_FAILED;
    /// The instance is there already.
    InstanceExists = "instance-exists", PRECONDITION_FAILED;
    /// The document is there already.
    DocumentExists = "document-exists", PRECONDITION_FAILED;
    /// The app has a ring already.
    RingExists = "ring-exists", PRECONDITION_FAILED;
    /// The shard set is there already.
    ShardSetExists = "shard-set-exists", PRECONDITION_FAILED;
    /// The body, or what it asks for, is over a limit.
    TooLarge = "too-large", PAYLOAD_TOO_LARGE;
    /// The body is of a type that is not read here.
    ContentType = "invalid-content-type", UNSUPPORTED_MEDIA_TYPE;
    /// The idempotency key came with another request before.
    KeyReused = "key-reused", UNPROCESSABLE_ENTITY;
    /// There are as many of these as there may be.
    RateLimited = "rate-limited", TOO_MANY_REQUESTS;
    /// No leader is known or reachable.
    NoLeader = "no-leader", SERVICE_UNAVAILABLE;
    /// This node does not serve yet, or stops.
    NotReady = "not-ready", SERVICE_UNAVAILABLE;
    /// Too much is waiting, or too many connections are open.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE;
    /// The disk is nearly full: nothing is written.
    ReadOnly = "read-only", SERVICE_UNAVAILABLE;
    /// No answer in time; of a write, `outcome` says whether it may still take effect.
    Timeout = "timeout", GATEWAY_TIMEOUT;
}

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
        invalid_code(&self.field)
    }

    pub fn detail(&self) -> String {
        format!("{} {}", self.field, self.why)
    }
}

fn invalid_code(field: &str) -> String {
    Code::Invalid.word().replace("<field>", field)
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FieldError {
    #[schema(value_type = String)]
    field: Cow<'static, str>,
    #[schema(value_type = String)]
    code: Cow<'static, str>,
    detail: String,
}

impl ApiError {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Arc::new(Problem {
            status: code.status(),
            code: code.word().into(),
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

    /// Names the field in the code too.
    fn invalid(self, field: Cow<'static, str>, why: String) -> Self {
        self.with(|p| p.code = invalid_code(&field).into()).field(field, why)
    }

    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Code::Malformed, detail)
    }

    pub fn unknown_field(field: String, why: String) -> Self {
        let detail = format!("there is no {field}: {why}");
        Self::new(Code::UnknownField, detail).field(field.into(), why)
    }

    pub fn unknown_parameter(name: String) -> Self {
        let detail = format!("there is no query parameter {name:?} here");
        let why = detail.clone();
        Self::new(Code::UnknownField, detail).field(name.into(), why)
    }

    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(Code::TooLarge, detail)
    }

    pub fn content_type(wanted: &'static str) -> Self {
        let why = format!("must be {wanted}");
        let detail = format!("the content type {why}");
        Self::new(Code::ContentType, detail).field("content-type".into(), why)
    }

    pub fn unknown_route() -> Self {
        Self::new(Code::UnknownRoute, "there is nothing at this path")
    }

    pub fn method_not_allowed() -> Self {
        let detail = "this path does not take this method; the Allow header names those it takes";
        Self::new(Code::MethodNotAllowed, detail)
    }

    pub fn unknown_override() -> Self {
        Self::new(Code::UnknownOverride, "no override is set for this instance")
    }

    /// The owners of keys were asked for under an epoch that is not the ring's.
    pub fn stale_epoch(asked: Revision, current: Revision) -> Self {
        let detail = format!("the ring is at epoch {current}, not {asked}; fetch it and ask again");
        Self::new(Code::StaleEpoch, detail).with(|p| p.epoch = Some(current))
    }

    /// Nobody said how many workers there should be.
    pub fn no_scaling(set: &ShardSetName) -> Self {
        let detail = format!(
            "shard set \"{set}\" has no scaling; switch it on with PUT /v1/shard-sets/{{set}} and \
             \"scaling\":{{\"shards_per_worker\":…,\"max\":…}}"
        );
        Self::new(Code::NoScaling, detail)
    }

    /// The pinned revision of a cursor is gone, or never was on this node.
    pub fn compacted(restart_from: Revision) -> Self {
        let detail = "this cursor's revision is not kept here any more; list again from the start";
        Self::new(Code::Compacted, detail).with(|p| p.restart_from = Some(restart_from))
    }

    /// The changes after `from` cannot be told.
    pub fn not_followed(why: NotFollowed, from: Revision) -> Self {
        match why {
            NotFollowed::Unavailable(why) => Self::of_read(why),
            NotFollowed::Compacted { restart_from } => Self::changes_compacted(from, restart_from),
            NotFollowed::Ahead { current } => {
                let detail = format!("this node is at revision {current}, not yet at {from}");
                Self::new(Code::Timeout, detail).at(current)
            }
        }
    }

    pub fn changes_compacted(from: Revision, restart_from: Revision) -> Self {
        let detail = format!(
            "not all changes after revision {from} are kept on this node any more; list again, or \
             watch without from= or with restart=snapshot"
        );
        Self::new(Code::Compacted, detail).with(|p| p.restart_from = Some(restart_from))
    }

    pub fn too_much_changed(from: Revision, max: usize, restart_from: Revision) -> Self {
        let detail = format!("more than {max} things changed after revision {from}; list again");
        Self::new(Code::Compacted, detail).with(|p| p.restart_from = Some(restart_from))
    }

    /// A claimant has neither a latch nor a place in its queue.
    pub fn nothing_to_let_go(latch: &LatchKey) -> Self {
        let detail = format!("this owner neither holds {latch} nor waits for it");
        Self::new(Code::StaleToken, detail)
    }

    /// A claim that waited was given up by another request of the same claimant.
    pub fn claim_given_up(latch: &LatchKey) -> Self {
        let detail = format!("the place in the queue of {latch} was given up by another request");
        Self::new(Code::LockHeld, detail)
    }

    /// Another request of the same claimant asked for the latch since, and has the place now.
    pub fn asked_again(latch: &LatchKey) -> Self {
        let detail = format!(
            "another request of this owner asked for {latch} since, and keeps its place in the queue"
        );
        Self::new(Code::LockHeld, detail).unknown()
    }

    /// It may have an effect still.
    pub fn unknown(self) -> Self {
        self.with(|p| p.unknown = true)
    }

    pub fn not_ready(detail: impl Into<String>) -> Self {
        Self::new(Code::NotReady, detail)
    }

    /// Why a command was refused that may name a session. One that belongs to one instance alone is
    /// not there for anybody else; `catalog` tells whose it is.
    pub fn refused(why: Refusal, catalog: &Catalog) -> Self {
        let Refusal::UnknownSession(id) = why else { return Self::from(why) };
        let private = catalog.session(id).filter(|session| session.is_private());
        let error = Self::from(why);
        match private.and_then(|_| catalog.held_by(id).next()) {
            None => error,
            Some(owner) => error.with(|p| {
                p.detail = format!(
                    "session {id} belongs to instance {owner} alone; open one to share with POST \
                     /v1/sessions"
                );
            }),
        }
    }

    /// An answer that no request of this kind can get: it would be a bug in this binary or in the
    /// leader's. The write may have happened.
    pub fn unexpected(reply: &Reply) -> Self {
        let detail = format!("the cluster gave another kind of answer: {reply:?}");
        Self::new(Code::Timeout, detail).with(|p| p.unknown = true)
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
        let document = ProblemDocument {
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
#[derive(Serialize, ToSchema)]
#[schema(as = Problem, examples(json!({
    "type": "urn:roster:problem:unknown-app", "title": "unknown app", "status": 404,
    "detail": "there is no app \"pay\"", "code": "unknown-app", "outcome": "none", "retryable": false,
    "leader": "2", "revision": 812, "request_id": "7c1f0e", "errors": [],
})))]
pub(crate) struct ProblemDocument<'a> {
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: std::fmt::Arguments<'a>,
    title: String,
    status: u16,
    detail: &'a str,
    #[schema(schema_with = any_code)]
    code: &'a str,
    #[schema(value_type = OutcomeWord)]
    outcome: &'static str,
    retryable: bool,
    #[schema(required)]
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

/// Written out from the table, with what each means.
fn any_code() -> Ref {
    Ref::from_schema_name("Code")
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
        Self::new(Code::Invalid, invalid.detail()).invalid(invalid.field, invalid.why)
    }
}

impl From<Unavailable> for ApiError {
    fn from(why: Unavailable) -> Self {
        let code = match &why {
            Unavailable::NoLeader(_) => Code::NoLeader,
            Unavailable::NotReady(_) => Code::NotReady,
            Unavailable::Overloaded(_) => Code::Overloaded,
            Unavailable::ReadOnly(_) => Code::ReadOnly,
            Unavailable::Unknown(_) | Unavailable::Timeout(_) => Code::Timeout,
            Unavailable::TooLarge(_) => Code::TooLarge,
        };
        Self::new(code, why.to_string()).with(|p| p.unknown = !why.nothing_was_done())
    }
}

impl From<BeatRefused> for ApiError {
    fn from(why: BeatRefused) -> Self {
        let code = match &why {
            BeatRefused::UnknownApp(_) => Code::UnknownApp,
            BeatRefused::UnknownInstance => Code::UnknownInstance,
            BeatRefused::UnknownSession(_) => Code::UnknownSession,
            BeatRefused::StaleIncarnation { .. } => Code::StaleIncarnation,
            BeatRefused::Ending => Code::NotReady,
        };
        Self::new(code, why.to_string()).with(|p| {
            if let BeatRefused::StaleIncarnation { current } = why {
                p.incarnation = Some(current);
            }
        })
    }
}

impl From<Refusal> for ApiError {
    fn from(why: Refusal) -> Self {
        let code = match &why {
            Refusal::UnknownApp(_) => Code::UnknownApp,
            Refusal::UnknownInstance { .. } => Code::UnknownInstance,
            Refusal::UnknownSession(_) => Code::UnknownSession,
            Refusal::AppExists(_) => Code::AppExists,
            Refusal::InstanceExists { .. } => Code::InstanceExists,
            Refusal::UnknownDocument { .. } => Code::UnknownDocument,
            Refusal::DocumentExists { .. } => Code::DocumentExists,
            Refusal::DocumentsTooLarge { .. } => Code::TooLarge,
            Refusal::PreconditionFailed { .. } => Code::PreconditionFailed,
            Refusal::AppNotEmpty { .. } => Code::AppNotEmpty,
            Refusal::StaleIncarnation { .. } => Code::StaleIncarnation,
            Refusal::TtlOutOfBounds { .. } => Code::Invalid,
            Refusal::MetadataTooLarge { .. } => Code::Invalid,
            Refusal::SessionFull { .. } | Refusal::TooManyKeys => Code::RateLimited,
            Refusal::KeyReused => Code::KeyReused,
            Refusal::NoRing(_) => Code::NoRing,
            Refusal::UnknownShardSet(_) => Code::UnknownShardSet,
            Refusal::RingExists(_) => Code::RingExists,
            Refusal::ShardSetExists(_) => Code::ShardSetExists,
            Refusal::RingSeedFixed { .. } => Code::Invalid,
            Refusal::TooManyShardSets { .. } => Code::RateLimited,
            Refusal::AppInUse { .. } => Code::AppInUse,
            Refusal::StaleToken { .. } | Refusal::StaleLatchToken { .. } => Code::StaleToken,
            Refusal::LatchHeld { .. } => Code::LockHeld,
            Refusal::UnknownLatch { .. } => Code::UnknownLatch,
            Refusal::TokenShared { .. } => Code::Invalid,
            Refusal::LatchFull { .. } => Code::RateLimited,
        };
        let error = Self::new(code, why.to_string());
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
            Refusal::TtlOutOfBounds { .. } => error.invalid("ttl".into(), why.to_string()),
            Refusal::RingSeedFixed { .. } => error.invalid("seed".into(), why.to_string()),
            Refusal::MetadataTooLarge { .. } => error.invalid("metadata".into(), why.to_string()),
            Refusal::TokenShared { .. } => error.invalid("owner".into(), why.to_string()),
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

/// As [`decided`], of a command that may name a session. `catalog`: as this node knows it by now.
pub(crate) fn decided_with_session(
    outcome: Outcome,
    catalog: &Catalog,
) -> Result<(Revision, Reply), ApiError> {
    let revision = outcome.revision;
    outcome
        .result
        .map(|reply| (revision, reply))
        .map_err(|why| ApiError::refused(why, catalog).at(revision))
}
