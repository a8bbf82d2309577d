//! Which problems an operation may answer, declared as a set of codes where its other answers are.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{Ref, RefOr, Response};

use crate::error::Code;

/// The problems of an operation, in its `responses`: those of a set of codes, one answer for each status.
pub(crate) enum Refused<const CODES: u64> {}

macro_rules! sets {
    ($($set:ident = $code:ident,)*) => {
        $(pub(crate) const $set: u64 = 1 << Code::$code as u64;)*
    };
}

sets! {
    MALFORMED = Malformed,
    UNKNOWN_FIELD = UnknownField,
    INVALID = Invalid,
    UNKNOWN_APP = UnknownApp,
    UNKNOWN_INSTANCE = UnknownInstance,
    UNKNOWN_SESSION = UnknownSession,
    UNKNOWN_OVERRIDE = UnknownOverride,
    UNKNOWN_DOCUMENT = UnknownDocument,
    NO_RING = NoRing,
    UNKNOWN_SHARD_SET = UnknownShardSet,
    NO_SCALING = NoScaling,
    UNKNOWN_LATCH = UnknownLatch,
    UNKNOWN_ROUTE = UnknownRoute,
    APP_NOT_EMPTY = AppNotEmpty,
    APP_IN_USE = AppInUse,
    STALE_INCARNATION = StaleIncarnation,
    STALE_EPOCH = StaleEpoch,
    STALE_TOKEN = StaleToken,
    LOCK_HELD = LockHeld,
    COMPACTED = Compacted,
    PRECONDITION_FAILED = PreconditionFailed,
    APP_EXISTS = AppExists,
    INSTANCE_EXISTS = InstanceExists,
    DOCUMENT_EXISTS = DocumentExists,
    RING_EXISTS = RingExists,
    SHARD_SET_EXISTS = ShardSetExists,
    TOO_LARGE = TooLarge,
    CONTENT_TYPE = ContentType,
    KEY_REUSED = KeyReused,
    RATE_LIMITED = RateLimited,
    NO_LEADER = NoLeader,
    NOT_READY = NotReady,
    OVERLOADED = Overloaded,
    READ_ONLY = ReadOnly,
    TIMEOUT = Timeout,
}

/// Of every operation with parameters: a node may have too many connections, a parameter be wrong.
pub(crate) const ANY: u64 = UNKNOWN_FIELD | INVALID | OVERLOADED;

/// Of what asks the node: whatever keeps it from serving.
pub(crate) const READ: u64 = ANY | NO_LEADER | NOT_READY | READ_ONLY | TIMEOUT;

/// Of lists with cursors.
pub(crate) const LIST: u64 = READ | COMPACTED;

/// Of what goes through the log.
pub(crate) const WRITE: u64 = READ | TOO_LARGE;

/// Of what takes a body.
pub(crate) const BODY: u64 = MALFORMED | CONTENT_TYPE | TOO_LARGE;

/// Of what may be made at most once.
pub(crate) const ONCE: u64 = KEY_REUSED | RATE_LIMITED;

impl<const CODES: u64> IntoResponses for Refused<CODES> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut of_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        for code in Code::ALL.iter().filter(|code| CODES & (1 << **code as u64) != 0) {
            of_status.entry(code.status().as_u16()).or_default().push(name(*code));
        }
        let named = |(status, codes): (u16, Vec<&str>)| {
            let name = Ref::from_response_name(codes.join("."));
            (status.to_string(), RefOr::Ref(name))
        };
        of_status.into_iter().map(named).collect()
    }
}

/// What stands for a code in the name of a response.
fn name(code: Code) -> &'static str {
    match code {
        Code::Invalid => "invalid",
        named => named.word(),
    }
}

/// The codes of a response that [`Refused`] named.
pub(super) fn codes_of(response: &str) -> impl Iterator<Item = Code> {
    response
        .split('.')
        .filter_map(|word| Code::ALL.iter().copied().find(|code| name(*code) == word))
}
