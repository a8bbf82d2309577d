//! The OpenAPI document, made from the code: operations are described where their handlers are, shapes where
//! they are written and read, parameters by what takes them, and problems by the codes of `error`.
//!
//! A route is registered together with its description (`routes`), so neither is there without the other.
//! What all operations have in common is added here, once: the headers of every answer and the answers to
//! what goes wrong.

mod finish;
pub(crate) mod parameters;
pub(crate) mod refusals;
pub(crate) mod schemas;
pub(crate) mod shapes;

use std::sync::LazyLock;

use bytes::Bytes;
use twox_hash::XxHash64;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Description;

use crate::error::ProblemDocument;
use crate::routes;
use schemas::{Name, Number, ReasonText, Replicas, SessionText, ShardText, Tag};
use shapes::WatchLine;

/// What stands at the head of the document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Roster",
        description = "A service registry on three nodes. Any node takes any request, and none redirects. A \
            field or a query parameter that is not known is an error (400 `unknown-field`). Durations are \
            text (`10s`), moments RFC 3339 in UTC. A revision is the number of the log entry that made a \
            change: it is in every answer and event."
    ),
    tags(
        (name = "apps", description = "Named sets of instances, and their policies."),
        (name = "instances", description = "Members of apps: register, read, search, change, leave."),
        (name = "heartbeats", description = "Staying: one, of a session, of many."),
        (name = "sessions", description = "What heartbeats; instances, locks and candidacies hang off it."),
        (name = "documents", description = "Small JSON documents of apps."),
        (name = "rings", description = "An app's instances as owners of keys."),
        (name = "shard sets", description = "Who works on which shard."),
        (name = "locks", description = "Exclusive and shared locks, with fencing tokens."),
        (name = "elections", description = "Who leads, and with what."),
        (name = "events", description = "What changed, and why: streams, long polls, the history."),
        (name = "cluster", description = "The cluster, a node, and the brake on removals."),
        (name = "health", description = "Whether a node lives and serves."),
        (name = "sentinel", description = "The paths of Sentinel's dashboard that its transports use."),
        (name = "dashboard", description = "Pages for people."),
    ),
    components(schemas(
        Name, Number, ReasonText, Replicas, SessionText, ShardText, Tag, ProblemDocument, WatchLine,
        crate::wire::scalar::Millis,
    )),
)]
struct Head;

/// The document as it is served.
pub(crate) struct Document {
    pub json: Bytes,
    /// Another one for another document.
    pub tag: String,
}

/// Made when it is first asked for.
pub(crate) static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
    let document = finish::finished(described());
    // Nothing of it comes from a client; an empty document would be worse than none.
    let json = serde_json::to_vec(&document).expect("a JSON value can be written");
    let json = Bytes::from(json);
    let tag = format!("\"{:016x}\"", XxHash64::oneshot(0, &json));
    Document { json, tag }
});

/// The head and what all routes say of themselves.
fn described() -> Description {
    let mut description = Head::openapi();
    description.merge(routes::all().into_openapi());
    description
}
