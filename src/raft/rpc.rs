//! What nodes say to each other: paths, headers and bodies (msgpack with field names) of the peer
//! port.
//!
//! Every call names the cluster, the caller and its disk, and the disk that is meant; a node that
//! finds another one refuses and says why, so a wiped or foreign node takes no part (invariant S14).

use std::collections::BTreeMap;

use roster_api::beats::{BeatsBody, BodyAnswer};
use roster_api::registry::{Beat, BeatAnswers, BeatRefused, ClusterNodeAnswer, Heard, Renewed};
use roster_storage::command::{EncodedCommand, Outcome};
use roster_storage::names::{NodeId, Revision, SessionId};
use roster_storage::raft_types::{LogId, PeerNode, SnapshotMeta, Vote};
use serde::{Deserialize, Serialize};

use crate::config::ClusterList;
use crate::leases::pacer::CallsSoFar;

/// Paths of the peer port.
pub mod path {
    pub const APPEND: &str = "/raft/append";
    pub const VOTE: &str = "/raft/vote";
    pub const PRE_VOTE: &str = "/raft/pre-vote";
    pub const SNAPSHOT: &str = "/raft/snapshot";
    pub const TRANSFER: &str = "/raft/transfer";
    pub const HELLO: &str = "/peer/hello";
    pub const FORM: &str = "/peer/form";
    pub const REPLACE: &str = "/peer/replace";
    pub const STATUS: &str = "/peer/status";
    pub const PROPOSE: &str = "/leader/propose";
    pub const READ_INDEX: &str = "/leader/read-index";
    /// As nodes sent them before [`BEATS`].
    pub const HEARTBEATS: &str = "/leader/heartbeats";
    pub const BEATS: &str = "/leader/beats";
    pub const LAST_HEARD: &str = "/leader/last-heard";
}

/// Headers of every call.
pub mod header {
    /// The caller's cluster id; left out before it has one.
    pub const CLUSTER: &str = "roster-cluster";
    /// The caller's node id and disk id.
    pub const FROM: &str = "roster-from";
    pub const FROM_DISK: &str = "roster-from-disk";
    /// The disk id that the caller's membership has for the called node.
    pub const TO_DISK: &str = "roster-to-disk";
}

/// Asked before there is a cluster, and by a member whose Raft does not run yet: who are you?
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub node: NodeId,
    pub disk_id: String,
    pub list: ClusterList,
    /// Whether the asking node belongs to a cluster: its list is of the past then, and need not agree.
    #[serde(default)]
    pub member: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HelloAnswer {
    pub node: NodeId,
    pub member: PeerNode,
    pub list: ClusterList,
    /// The cluster that the answering node belongs to, if it was made.
    pub cluster_id: Option<String>,
    /// Whether its Raft runs, so that it knows of members if its disk does.
    pub running: bool,
    /// The members that it knows; empty before the first.
    pub members: BTreeMap<NodeId, PeerNode>,
    pub leader: Option<NodeId>,
}

/// The lowest node tells the others which cluster they make together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Form {
    pub cluster_id: String,
    pub members: BTreeMap<NodeId, PeerNode>,
}

/// A node asks the leader to take it back with a new disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replace {
    /// The cluster that it means.
    pub cluster_id: String,
    pub node: NodeId,
    pub member: PeerNode,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Propose {
    pub commands: Vec<EncodedCommand>,
}

/// What became of one forwarded command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Proposed {
    Decided(Outcome),
    /// It was not appended and never will be.
    NotAppended(NotAppended),
    /// It may still be decided.
    Unknown(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum NotAppended {
    /// The asked node does not lead (any more); the one that may.
    NotLeader(Option<NodeId>),
    ReadOnly(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ReadIndex {
    /// Read at this log id or later.
    At(LogId),
    NotLeader(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeats {
    pub beats: Vec<Beat>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum HeartbeatsAnswer {
    Confirmed(BeatAnswers),
    NotLeader(String),
}

/// Heartbeats that reached one node together. Encoded without field names, since there are many:
/// what is added to one must come last, with a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum BeatsAsked {
    One(Beat),
    Many(Vec<Beat>),
    Body(BeatsBody),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum BeatsAnswer {
    /// Of the revision that [`BeatAnswers`] tells of.
    Confirmed(Revision, Vec<BeatsTold>),
    NotLeader(String),
}

/// The answer to one [`BeatsAsked`], of the same kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum BeatsTold {
    One(Result<Renewed, BeatRefused>),
    Many(Vec<Result<Renewed, BeatRefused>>),
    Body(BodyAnswer),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastHeard {
    pub sessions: Vec<SessionId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum LastHeardAnswer {
    Known(Vec<Option<Heard>>),
    NotLeader(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusAnswer {
    pub node: ClusterNodeAnswer,
    /// Whether the leadership may be handed to it: its disk has room, and it is not stopping.
    pub can_lead: bool,
    /// Told by the leader only.
    pub heartbeats_per_second: Option<u64>,
    /// The heartbeat calls that clients made to it; an older version does not tell.
    #[serde(default)]
    pub heartbeat_calls: Option<CallsSoFar>,
}

/// Goes ahead of a checkpoint's bytes, with its own length in four bytes before it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotHead {
    pub vote: Vote,
    pub meta: SnapshotMeta,
    pub bytes: u64,
    pub checksum: u64,
}
