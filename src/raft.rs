//! Raft between nodes: how calls go out ([`link`], [`connection`], [`network`]) and where to ([`lookups`]), how they
//! come in ([`routes`]), why some are refused ([`refusals`]), and how a cluster begins
//! ([`bootstrap`]).

pub mod bootstrap;
pub mod connection;
pub mod link;
pub mod lookups;
pub mod network;
pub mod refusals;
pub mod routes;
pub mod rpc;

use openraft::async_runtime::WatchReceiver;
use roster_storage::disk::StateMachine;
use roster_storage::names::NodeId;
use roster_storage::raft_types::TypeConfig;

pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Waits until the leader that this node knows is as wanted. `Err`: Raft stopped.
pub async fn leader_becomes(
    raft: &Raft,
    wanted: impl Fn(Option<NodeId>) -> bool,
) -> Result<(), openraft::async_runtime::RecvError> {
    let mut metrics = raft.server_metrics();
    while !wanted(metrics.borrow_and_update().current_leader) {
        metrics.changed().await?;
    }
    Ok(())
}
