//! What operations take beside their bodies: names in the path, query parameters, conditions in headers.
//! Extractors describe themselves here; what is read from the query by hand has a type that names it.

use roster_storage::events::Kind;

use serde_json::Value;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa::openapi::{Ref, RefOr, Required, Schema};
use utoipa::{IntoParams, ToSchema};

use super::schemas::{
    InstanceState, Name, Number, Replicas, SessionText, ShardText, ShortText, Tag,
};
use crate::extract::{App, DocumentKey, Key, Latch, Reading, Session, Set, SetWorker, When};
use crate::lists::{LIMIT_DEFAULT, LIMIT_MAX, Paging};
use crate::poll::Poll;
use crate::wire::scalar::Millis;

macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident [$($parameter:expr),* $(,)?])*) => {
        $($(#[$doc])* pub(crate) enum $name {})*
        params_of! { $($name [$($parameter),*])* }
    };
}

macro_rules! params_of {
    ($($name:ident [$($parameter:expr),* $(,)?])*) => {$(
        impl IntoParams for $name {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                vec![$($parameter),*]
            }
        }
    )*};
}

params_of! {
    App [path::<Name>("app", "The app.")]
    Key [path::<Name>("app", "The app."), path::<Name>("id", "The instance.")]
    DocumentKey [path::<Name>("app", "The app."), path::<Name>("name", "The document.")]
    Session [path::<SessionText>("session", "The session.")]
    Set [path::<Name>("set", "The shard set.")]
    SetWorker [path::<Name>("set", "The shard set."), path::<Name>("id", "The worker: an instance of the workers' app.")]
    Latch [path::<Name>("name", "The lock or the election.")]
    When [
        header("If-Match", reference::<Tag>(), "Only if the object's last change was at this revision (else 412 `precondition-failed`)."),
        header("If-None-Match", words(&["*"]), "Only if there is none yet (else 412). Not together with `If-Match`."),
    ]
    Reading [
        query("consistency", words(&["linearizable", "stale"]), "`linearizable` (the default): all that was acknowledged before the request is seen. `stale`: what this node has in memory."),
        query("min_revision", reference::<Number>(), "Waits until this node has reached the revision, else 504 `timeout`."),
    ]
    Poll [
        query("index", reference::<Number>(), "Answers when the result changed after this revision, or unchanged when `wait` is over. Give the `Roster-Revision` of the answer that you have."),
        query("wait", reference::<Millis>(), "How long to wait, at most 10m; 30s if left out. Needs `index`."),
    ]
    Paging [
        query("limit", limit(), "Lines of a page; 500 if left out."),
        query("cursor", text(), "Goes on behind the page whose `next_cursor` this was. It pins that page's revision for a minute, on the node that gave it (else 410 `compacted`)."),
    ]
}

parameters! {
    /// The same where most want the whole list.
    LongPaging [
        query("limit", limit_of_long(), "Lines of a page; 10,000 if left out."),
        query("cursor", text(), "Goes on behind the page whose `next_cursor` this was. It pins that page's revision for a minute, on the node that gave it (else 410 `compacted`)."),
    ]
    /// Where a list begins.
    After [
        query("after", reference::<Name>(), "Begins behind this line, of the newest state. Not together with `cursor`."),
    ]
    /// Where a list of shards begins.
    AfterShard [
        query("after", reference::<ShardText>(), "Begins behind this shard, of the newest state. Not together with `cursor`."),
    ]
    /// Which apps are listed.
    WhichApps [
        query("q", text(), "Apps whose name has this text in it, whatever its case."),
        query("state", reference::<InstanceState>(), "Apps with at least one instance in this state."),
    ]
    /// Which instances are listed.
    WhichInstances [
        query("filter", text(), "A CEL expression over `app`, `id`, `ip`, `port`, `hostname`, `version`, `zone`, `weight`, `metadata` and `state`, such as `zone == \"a\" && metadata.build.startsWith(\"47\")`."),
        query("q", text(), "Instances with this text in any of their texts."),
        query("heartbeats", flag(), "Adds `last_heartbeat`, which the leader is asked for."),
    ]
    /// A guard against a successor.
    IncarnationGuard [
        query("incarnation", reference::<Number>(), "Only if this life is the current one (else 409 `stale-incarnation`)."),
    ]
    /// How an instance is registered.
    Registering [
        query("create_app", flag(), "Whether the app is made where it is not there; `true` if left out (`false`: 404 `unknown-app`)."),
        query("takeover", flag(), "Takes over from a live instance of the same id, with a new incarnation."),
    ]
    /// Whether an app is made.
    CreatingApp [
        query("create_app", flag(), "Whether the app is made where it is not there; `true` if left out (`false`: 404 `unknown-app`)."),
    ]
    /// The ring epoch of a heartbeat.
    Adopted [
        query("adopted", reference::<Number>(), "The epoch of the ring of the instance's own app that it has adopted."),
    ]
    /// An operator's word on a removal.
    BecauseOf [
        query("reason", reference::<super::schemas::ReasonText>(), "An operator removes it, and says why; who leaves by itself gives none."),
    ]
    /// Who changes a document.
    ChangedBy [
        query("by", short_not_empty(), "Who makes the change, at most 1,024 bytes; the address of the caller if left out."),
    ]
    /// Deleting what is in an app too.
    Cascade [
        query("cascade", flag(), "Deletes its instances and documents too."),
    ]
    /// A post that is made at most once.
    Idempotent [
        header("Idempotency-Key", reference::<Name>(), "Makes this happen at most once: the first answer is given again for 10 minutes, on every node."),
    ]
    /// Whose owners.
    OneKey [
        required(query("key", text(), "The key: any bytes, percent-encoded, at most 65,536.")),
        query("replicas", reference::<Replicas>(), "How many owners; the ring's own number if left out."),
        query("epoch", reference::<Number>(), "Only if the ring is at this epoch (else 409 `stale-epoch`)."),
    ]
    /// Whose shards.
    OfApp [query("app", reference::<Name>(), "Only of this app.")]
    /// Which shards of a set.
    WhichShards [
        query("app", reference::<Name>(), "Only of this app's instances."),
        query("worker", reference::<Name>(), "Only those that this worker holds."),
        query("shard", reference::<ShardText>(), "Only this one."),
        query("gone", flag(), "Deleted ones too that are still held."),
        query("standbys", flag(), "Adds who should follow the holder, best first."),
    ]
    /// Who holds a latch under which token.
    Checking [
        required(query("token", reference::<Number>(), "The token that is asked about.")),
        query("session", reference::<SessionText>(), "Only if it is this session that holds."),
        query("owner", text(), "Only if it is this owner of the session that holds. Needs `session`."),
    ]
    /// From whom a latch is taken.
    UnderToken [
        query("token", reference::<Number>(), "Only from those who hold it under this token (else 409 `stale-token`)."),
    ]
    /// Whose changes.
    Interesting [
        query("app", several(reference::<Name>()), "Only of these apps, at most 1,000; of all if left out."),
        query("kind", several(kind().into()), "Only of these kinds, also with commas in between; of all if left out."),
        query("lock", several(reference::<Name>()), "Only the claims on these locks, at most 1,000."),
        query("election", several(reference::<Name>()), "Only the claims in these elections, at most 1,000."),
    ]
    /// What is watched.
    Watched [
        query("id", reference::<Name>(), "Only the instance (and its shard), document or worker with this id."),
        query("set", reference::<Name>(), "Only what workers hold in this shard set."),
        query("filter", text(), "Only instances that match this CEL expression, as in lists."),
        query("from", reference::<Number>(), "All changes after this revision; a snapshot comes first if left out."),
        query("wait", reference::<Millis>(), "How long this node may take to reach `from`, at most 10m; 5s if left out."),
        query("restart", words(&["snapshot"]), "Where `from` is not kept any more: a snapshot in the same stream."),
        header("Last-Event-ID", reference::<Number>(), "As `from`, and before it: what an `EventSource` sends when it comes back."),
    ]
    /// The part of the history.
    WhichEvents [
        query("instance", reference::<Name>(), "Only events of the instances with this id, and of their shards."),
        query("since", text(), "Only later than this revision or moment (RFC 3339)."),
        query("until", text(), "Only up to this revision or moment (RFC 3339)."),
        query("order", words(&["asc", "desc"]), "`desc` (the default): the newest first."),
    ]
    /// Since when.
    SinceIndex [
        required(query("index", reference::<Number>(), "The revision after which changes are wanted.")),
        query("wait", reference::<Millis>(), "Waits so long for the first change, at most 10m; not at all if left out."),
    ]
    /// Whose brake.
    WhichBrake [
        query("scope", words(&["all", "app"]), "`all`, or one `app`."),
        query("app", reference::<Name>(), "The app."),
    ]
    /// What Sentinel's transports send.
    MachineFields [
        query("app", text(), "The app, at most 256 UTF-16 units."),
        query("ip", text(), "The transport's address, at most 128 UTF-16 units."),
        query("port", text(), "The transport's port: a number."),
        query("hostname", text(), "At most 256 UTF-16 units."),
        query("v", text(), "The client's version."),
        query("version", text(), "A number of the client's own, which it gets back as `heartbeatVersion`."),
        query("app_type", text(), "A number."),
    ]
    /// Which machine is to be removed.
    RemovedFields [
        query("ip", text(), "The transport's address."),
        query("port", text(), "The transport's port: a number."),
    ]
    /// More of a health check.
    Verbose [
        query("verbose", text(), "Lists every check, as text."),
    ]
    /// A file of the dashboard.
    DashboardFile [
        path::<Name>("file", "The file, with the folders in which it lies (`pages/app.js`)."),
    ]
    /// What the client has already.
    Cached [
        header("If-None-Match", text(), "The `ETag` of what the client has: 304 if it is still that."),
    ]
}

fn parameter(name: &str, place: ParameterIn, schema: RefOr<Schema>, told: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .schema(Some(schema))
        .description(Some(told))
        .build()
}

fn query(name: &str, schema: RefOr<Schema>, told: &str) -> Parameter {
    parameter(name, ParameterIn::Query, schema, told)
}

fn header(name: &str, schema: RefOr<Schema>, told: &str) -> Parameter {
    parameter(name, ParameterIn::Header, schema, told)
}

fn path<T: ToSchema>(name: &str, told: &str) -> Parameter {
    required(parameter(name, ParameterIn::Path, reference::<T>(), told))
}

fn required(mut parameter: Parameter) -> Parameter {
    parameter.required = Required::True;
    parameter
}

fn reference<T: ToSchema>() -> RefOr<Schema> {
    Ref::from_schema_name(T::name()).into()
}

fn text() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).into()
}

fn short_not_empty() -> RefOr<Schema> {
    let RefOr::T(Schema::Object(mut schema)) = <ShortText as utoipa::PartialSchema>::schema()
    else {
        return reference::<ShortText>();
    };
    schema.min_length = Some(1);
    schema.into()
}

fn flag() -> RefOr<Schema> {
    words(&["true", "false", "1", "0"])
}

fn words(words: &[&str]) -> RefOr<Schema> {
    let words = words.iter().map(|word| Value::from(*word));
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}

fn limit() -> RefOr<Schema> {
    limit_with_default(LIMIT_DEFAULT)
}

fn limit_of_long() -> RefOr<Schema> {
    limit_with_default(LIMIT_MAX)
}

fn limit_with_default(default: usize) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(LIMIT_MAX))
        .default(Some(default.into()))
        .into()
}

fn several(item: RefOr<Schema>) -> RefOr<Schema> {
    ArrayBuilder::new().items(item).max_items(Some(1_000)).into()
}

fn kind() -> ObjectBuilder {
    let kinds = Kind::TOLD.map(Kind::word);
    let one = format!("({})", kinds.join("|"));
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^{one}(,{one})*$")))
}
