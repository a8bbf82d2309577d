//! Links to the other members for what is forwarded to a leader: one per member and purpose, made
//! anew when the membership gives a member another address or disk.

use std::collections::HashMap;
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use roster_storage::names::NodeId;
use roster_storage::raft_types::PeerNode;
use tokio::runtime::Handle;

use crate::raft::Raft;
use crate::raft::link::{Badge, Carries, Link};

/// What a link is for; each has a connection of its own, so that none waits behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    Writes,
    Reads,
    Heartbeats,
    Status,
}

impl Purpose {
    /// Heartbeats go in one round after the other, and may be sent twice.
    fn carries(self) -> Carries {
        match self {
            Self::Heartbeats => Carries::One,
            Self::Writes | Self::Reads | Self::Status => Carries::Many,
        }
    }
}

#[derive(Debug)]
pub struct Peers {
    badge: Arc<Badge>,
    /// Where the links are served, whoever asks for one first.
    threads: Handle,
    heartbeat_threads: Handle,
    links: Mutex<HashMap<(NodeId, Purpose), Arc<Link>>>,
}

impl Peers {
    /// Its links are served by the threads on which this is called, but for those of heartbeats.
    pub fn new(badge: Arc<Badge>, heartbeat_threads: Handle) -> Self {
        Self { badge, threads: Handle::current(), heartbeat_threads, links: Mutex::default() }
    }

    /// The link to a member. `None` if it is not one.
    pub fn link(&self, raft: &Raft, target: NodeId, purpose: Purpose) -> Option<Arc<Link>> {
        let node = {
            let metrics = raft.server_metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().get_node(&target)?.clone()
        };
        Some(self.link_to(target, node, purpose))
    }

    pub fn link_to(&self, target: NodeId, node: PeerNode, purpose: Purpose) -> Arc<Link> {
        let mut links = self.links.lock();
        match links.get(&(target, purpose)) {
            Some(link) if *link.node() == node => link.clone(),
            _ => {
                let _made_there = self.threads_of(purpose).enter();
                let link = Link::new(target, node, self.badge.clone(), purpose.carries());
                let link = Arc::new(link);
                links.insert((target, purpose), link.clone());
                link
            }
        }
    }

    fn threads_of(&self, purpose: Purpose) -> &Handle {
        match purpose {
            Purpose::Heartbeats => &self.heartbeat_threads,
            Purpose::Writes | Purpose::Reads | Purpose::Status => &self.threads,
        }
    }
}
