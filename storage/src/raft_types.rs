//! openraft's generics stop here: the rest of Roster uses these names.

use std::fmt;

use openraft::impls::leader_id_std;
use serde::{Deserialize, Serialize};

use crate::command::{Outcome, Proposal};
use crate::names::NodeId;

openraft::declare_raft_types!(
    /// One leader per term (`leader_id_std`): fencing by term needs it.
    pub TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = NodeId,
        Node = PeerNode,
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

/// A member of the cluster as the replicated membership knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerNode {
    /// `host:port` of the peer listener.
    pub peer: String,
    /// `host:port` of the API.
    pub api: String,
    /// The disk that votes under this id. A node whose disk has another id does not vote.
    pub disk_id: String,
}

impl fmt::Display for PeerNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (api {}, disk {})", self.peer, self.api, self.disk_id)
    }
}

pub use openraft::alias;

pub type LogId = alias::LogIdOf<TypeConfig>;
pub type Entry = alias::EntryOf<TypeConfig>;
pub type EntryPayload = alias::PayloadOf<TypeConfig>;
pub type Vote = alias::VoteOf<TypeConfig>;
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
