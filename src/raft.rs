//! Raft between nodes: how calls go out ([`link`], [`network`]), how they come in ([`routes`]), and
//! how a cluster begins ([`bootstrap`]).

pub mod bootstrap;
pub mod link;
pub mod network;
pub mod routes;
pub mod rpc;

use roster_storage::disk::StateMachine;
use roster_storage::raft_types::TypeConfig;

pub type Raft = openraft::Raft<TypeConfig, StateMachine>;
