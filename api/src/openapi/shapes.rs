//! Shapes of bodies that are not written or read as one value elsewhere, described as if they were.
#![expect(dead_code, reason = "only their shapes are of use: nobody makes one")]

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::openapi::schemas::OutcomeWord;
use crate::wire::event::{EventView, MarkView};
use crate::wire::heartbeat::RenewedView;
use crate::wire::instance::RegisteredView;
use crate::wire::sentinel::MachineInfo;

/// A document: any JSON value.
#[derive(ToSchema)]
#[schema(value_type = Value)]
pub(crate) struct AnyDocument(Value);

/// A page of the history.
#[derive(ToSchema)]
pub(crate) struct EventList<'a> {
    events: Vec<EventView<'a>>,
    /// Null at the end.
    #[schema(required)]
    next_cursor: Option<String>,
    /// The first and the last revision of each range of which this node keeps every change.
    covered: Vec<(u64, u64)>,
}

/// A line of a watch.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum WatchLine<'a> {
    Event(Box<EventLine<'a>>),
    Mark(MarkView),
}

/// An event of a watch.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventLine<'a> {
    #[serde(flatten)]
    event: EventView<'a>,
    /// There are more events of this revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<bool>,
}

/// The answer to a heartbeat, or to the registration that it came to.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum RenewedOrRegistered<'a> {
    Registered(RegisteredView<'a>),
    Renewed(RenewedView),
}

/// What clients compute owners from. All numbers are integers below 2^53.
#[derive(ToSchema)]
pub(crate) struct RingDescription {
    /// The version of this shape.
    v: u64,
    /// The version of how owners are computed.
    kind: String,
    /// The app.
    group: String,
    /// The revision of the last change, 0 if there was none.
    epoch: u64,
    /// What keys and ids are hashed with.
    seed: u64,
    /// How many workers hold a key if a request does not say.
    replicas: u64,
    /// Ids and weights, by ascending id.
    workers: Vec<(String, u64)>,
    /// Who holds each slot: a place in `workers`, counted from 0, or -1 where it is vacant.
    slots: Vec<i64>,
    /// Live instances that are up and not on the ring, since it is full.
    #[schema(required = false)]
    left_out: Vec<String>,
}

/// The owners of one of many keys.
#[derive(ToSchema)]
pub(crate) struct OwnersOfKey {
    /// Ids: the owner, then those who hold copies.
    owners: Vec<String>,
}

/// What became of one shard; with a code where it was not let go.
#[derive(ToSchema)]
pub(crate) struct Released {
    shard: String,
    code: Option<String>,
    detail: Option<String>,
    /// `none`, or `unknown`: it may be let go still.
    #[schema(value_type = Option<OutcomeWord>)]
    outcome: Option<String>,
    /// Who holds it now, where that is why.
    holder: Option<String>,
    /// Under which grant it is held now.
    grant: Option<u64>,
}

/// What Sentinel's transports send, each in the query or in the form.
#[derive(Deserialize, ToSchema)]
pub(crate) struct MachineForm {
    app: Option<String>,
    ip: Option<String>,
    port: Option<String>,
    hostname: Option<String>,
    v: Option<String>,
    version: Option<String>,
    app_type: Option<String>,
}

/// Which machine is to be removed, in the query or in the form.
#[derive(Deserialize, ToSchema)]
pub(crate) struct RemovedForm {
    ip: Option<String>,
    port: Option<String>,
}

/// What Sentinel's dashboard answers where there is nothing to show.
#[derive(ToSchema)]
pub(crate) struct Told {
    success: bool,
    /// 0, or why not.
    code: i32,
    msg: String,
    /// Null.
    #[schema(required)]
    data: Option<bool>,
}

/// Which version of Sentinel's dashboard this stands for.
#[derive(ToSchema)]
pub(crate) struct ToldVersion {
    success: bool,
    code: i32,
    msg: String,
    /// Null where there is none.
    #[schema(required)]
    data: Option<String>,
}

/// The machines of an app, as Sentinel's dashboard answers them.
#[derive(ToSchema)]
pub(crate) struct Machines<'a> {
    success: bool,
    code: i32,
    msg: String,
    /// Null where there is no such app.
    #[schema(required)]
    data: Option<Vec<MachineInfo<'a>>>,
}
