//! The texts and numbers of which requests and answers are made, each described once.

use roster_storage::catalog::State;
use roster_storage::events::Kind;
use roster_storage::limits::{
    CAMPAIGN_VALUE_BYTES_MAX, ID_BYTES_MAX, OWNER_BYTES_MAX, PAYLOAD_BYTES_MAX, REASON_BYTES_MAX,
    RING_KEY_BYTES_MAX, RING_KEYS_MAX, RING_REPLICAS_MAX, RING_SEED_MAX, SHARD_COPIES_MAX,
    SHARD_ID_BYTES_MAX, TEXT_BYTES_MAX, WEIGHT_MAX,
};
use roster_storage::names::LatchKind;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::wire::keys::Keys;
use crate::wire::scalar::{Base64, Hex, Millis, Moment};

/// Texts without control characters.
const NO_CONTROLS: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

/// Canonical base64 with its padding.
const BASE64: &str =
    r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

/// What may stand in a duration: numbers, each with a unit.
const DURATION: &str = "^ *([0-9]+ *(ns|nsec|us|usec|ms|msec|s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hrs|hour|hours|d|day|days|w|week|weeks) *)+$";

/// The longest duration, bytes.
const DURATION_BYTES_MAX: usize = 64;

macro_rules! schemas {
    ($($(#[doc = $doc:literal])+ $name:ident as $shown:expr, $schema:expr;)*) => {$(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let description = concat!($($doc),+).trim();
                $schema.description(Some(description)).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                $shown.into()
            }
        }
    )*};
}

macro_rules! described {
    ($($(#[doc = $doc:literal])+ $name:ident = $schema:expr;)*) => {
        $($(#[doc = $doc])+ pub(crate) enum $name {})*
        schemas! { $($(#[doc = $doc])+ $name as stringify!($name), $schema;)* }
    };
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn text_up_to(bytes: usize) -> ObjectBuilder {
    text().max_length(Some(bytes))
}

fn words(words: impl IntoIterator<Item = &'static str>) -> ObjectBuilder {
    text().enum_values(Some(words))
}

fn integer(from: u64, to: u64) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(from)).maximum(Some(to))
}

described! {
    /// A name or an id: 1 to 1,024 bytes of UTF-8 without control characters. In a path it is one segment,
    /// percent-encoded (`/` as `%2F`).
    Name = text_up_to(ID_BYTES_MAX).min_length(Some(1)).pattern(Some(NO_CONTROLS)).examples(["pay"]);
    /// The id of a shard: `<app>/<instance>`, with `%` and `/` of the app written `%25` and `%2F`.
    ShardText = text_up_to(SHARD_ID_BYTES_MAX)
        .min_length(Some(1))
        .pattern(Some(NO_CONTROLS))
        .examples(["pay/10.0.0.1:8719"]);
    /// The id of a session: a number as text, since JSON readers lose digits of large numbers.
    SessionText = text_up_to(20).min_length(Some(1)).pattern(Some("^[0-9]{1,20}$")).examples(["1"]);
    /// At most 1,024 bytes without control characters.
    ShortText = text_up_to(TEXT_BYTES_MAX).pattern(Some(NO_CONTROLS));
    /// Why an operator does something: at most 1,024 bytes.
    ReasonText = text_up_to(REASON_BYTES_MAX).examples(["disk is replaced"]);
    /// A span of time to come (`"2h"`), or the moment itself, RFC 3339.
    Expires = text().min_length(Some(1)).examples(["2h"]);
    /// Tells claims of one session apart: at most 1,024 bytes.
    OwnerText = text_up_to(OWNER_BYTES_MAX).examples(["nightly"]);
    /// What a candidate publishes while it leads: at most 4,096 bytes.
    CandidateValue = text_up_to(CAMPAIGN_VALUE_BYTES_MAX).examples(["10.0.0.1:8719"]);
    /// A TCP port, 0 to 65,535.
    Port = integer(0, u16::MAX.into()).examples([8719]);
    /// An instance's share of work beside that of others, 1 to 1,024.
    Weight = integer(1, WEIGHT_MAX.into()).examples([1]);
    /// Texts by texts, at most 16 KiB of keys and values together.
    MetadataText = ObjectBuilder::new().additional_properties(Some(Schema::from(text().build())));
    /// Up to 64 KiB of any bytes, as base64 with its padding.
    Payload = text_up_to(PAYLOAD_BYTES_MAX.div_ceil(3) * 4)
        .pattern(Some(BASE64))
        .content_encoding("base64");
    /// How many workers hold a key, its owner counted: 1 to 16.
    Replicas = integer(1, RING_REPLICAS_MAX.into());
    /// What keys and ids are hashed with, 0 to 2^53-1.
    Seed = integer(0, RING_SEED_MAX);
    /// How many workers are to be ready for a shard, its holder counted: 1 to 16.
    Copies = integer(1, SHARD_COPIES_MAX.into());
    /// 0 to 4,294,967,295.
    Count = integer(0, u32::MAX.into());
    /// How an instance is: an operator's word comes before what its heartbeats say.
    InstanceState =
        words([State::Up, State::Suspect, State::Draining, State::Maintenance].map(State::word));
    /// What an event is about.
    EventKind = words(Kind::TOLD.map(Kind::word));
    /// Which kind of latch a claim is on.
    LatchWord = words([LatchKind::Lock, LatchKind::Election].map(LatchKind::word));
    /// Whether a write that failed may still take effect: nothing was done, or nobody knows.
    OutcomeWord = words(["none", "unknown"]);
    /// What a brake is about.
    BrakeScope = words(["all", "app", "node"]);
    /// Sentinel's app type.
    AppKind = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(i32::MIN))
        .maximum(Some(i32::MAX));
    /// The revision of an object's own last change, as `If-Match` takes it.
    Tag = text().pattern(Some("^\"r[0-9]+\"$")).examples(["\"r812\""]);
    /// A revision, an incarnation, an epoch or a token: the number of a log entry.
    Number = integer(0, u64::MAX);
}

schemas! {
    /// A span of time as text: numbers, each with its unit (`10s`, `500ms`, `1m30s`). Answers use `h`, `m`, `s`
    /// and `ms`.
    Millis as "Duration", text_up_to(DURATION_BYTES_MAX).pattern(Some(DURATION)).examples(["30s"]);
    /// A moment, RFC 3339 with milliseconds, UTC.
    Moment as "Moment", text()
        .pattern(Some(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$"))
        .examples(["2026-11-21T20:36:17.351Z"]);
    /// A hash of 64 bits, as 16 hexadecimal digits.
    Hex as "Hash", text().pattern(Some("^[0-9a-f]{16}$")).examples(["00000000000004d2"]);
    /// Keys of a ring: at most 10,000, each at most 65,536 bytes. In MessagePack each may be text or binary.
    Keys as "Keys", ArrayBuilder::new()
        .items(text_up_to(RING_KEY_BYTES_MAX))
        .max_items(Some(RING_KEYS_MAX));
}

impl PartialSchema for Base64<'_> {
    fn schema() -> RefOr<Schema> {
        Payload::schema()
    }
}

impl ToSchema for Base64<'_> {
    fn name() -> std::borrow::Cow<'static, str> {
        Payload::name()
    }
}
