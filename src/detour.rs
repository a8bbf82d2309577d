//! Heartbeats before this node's own Raft runs. Loading a large state takes seconds, in which clients
//! must not lose their sessions because they know this node only; so it asks the other nodes who
//! leads and takes the heartbeats there, gathered, as it does later by [`crate::forward`].
//!
//! Nothing else is forwarded: a read needs this node's state, and a write can be made elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use roster_api::registry::Unavailable;
use roster_storage::names::{NodeId, Revision};
use roster_storage::raft_types::PeerNode;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::forward::{
    Beaten, HEARTBEAT_TIMEOUT_MAX, HEARTBEATS, each_of, encode, not_gathered, weight,
};
use crate::gather::Gatherer;
use crate::identity::Identity;
use crate::peers::{Peers, Purpose};
use crate::raft::link::Badge;
use crate::raft::rpc::{BeatsAnswer, BeatsAsked, BeatsTold, Hello, HelloAnswer, path};

/// Between two tries to find a leader that takes the heartbeats.
const RETRY: Duration = Duration::from_millis(50);

/// How long a node may take to say who leads.
const HELLO_TIMEOUT: Duration = Duration::from_millis(500);

/// The way of heartbeats around this node's own Raft.
pub struct Detour {
    heartbeats: Gatherer<BeatsAsked, Beaten>,
    timeout: Duration,
}

impl Detour {
    /// Of a node that belongs to a cluster. Must be called where tasks can be started.
    pub fn new(config: &Config, identity: Identity, badge: Badge) -> Self {
        let leader = Arc::new(KnownLeader {
            question: Hello {
                node: config.node_id,
                disk_id: identity.disk_id,
                list: config.cluster.clone(),
                member: true,
            },
            cluster: identity.cluster.map(|cluster| cluster.id),
            peers: Peers::new(Arc::new(badge), Handle::current()),
            known: Mutex::default(),
        });
        Self {
            heartbeats: Gatherer::start(HEARTBEATS, move |asked, deadline| {
                let leader = leader.clone();
                async move { each_of(asked.len(), leader.renew(encode(&asked), deadline).await) }
            }),
            timeout: config.request_timeout.min(HEARTBEAT_TIMEOUT_MAX),
        }
    }

    /// Takes heartbeats to the leader, together with others.
    pub async fn beats(&self, asked: BeatsAsked) -> Beaten {
        let (weight, deadline) = (weight(&asked), Instant::now() + self.timeout);
        self.heartbeats.ask(asked, weight, deadline).await.map_err(not_gathered)?
    }
}

/// Who leads, as the other nodes say.
struct KnownLeader {
    question: Hello,
    /// The cluster of this node's disk: another one has other sessions.
    cluster: Option<String>,
    peers: Peers,
    known: Mutex<Option<(NodeId, PeerNode)>>,
}

impl KnownLeader {
    /// Renewing twice is harmless, so what fails is tried again with the leader of the next moment.
    async fn renew(
        &self,
        question: Bytes,
        deadline: Instant,
    ) -> Result<(Revision, Vec<BeatsTold>), Unavailable> {
        loop {
            let why = match self.find(deadline).await {
                Some((id, member)) => {
                    match self.try_at(id, member, question.clone(), deadline).await {
                        Ok(told) => return Ok(told),
                        Err(why) => why,
                    }
                }
                None => "this node loads its state, and no other node knows a leader".into(),
            };
            *self.known.lock() = None;
            if Instant::now() + RETRY >= deadline {
                return Err(Unavailable::NoLeader(why));
            }
            sleep(RETRY).await;
        }
    }

    async fn try_at(
        &self,
        leader: NodeId,
        member: PeerNode,
        question: Bytes,
        deadline: Instant,
    ) -> Result<(Revision, Vec<BeatsTold>), String> {
        let link = self.peers.link_to(leader, member, Purpose::Heartbeats);
        let left = deadline.saturating_duration_since(Instant::now());
        match link.call_encoded(path::BEATS, question, left / 2).await {
            Ok(BeatsAnswer::Confirmed(revision, told)) => Ok((revision, told)),
            Ok(BeatsAnswer::NotLeader(why)) => Err(why),
            Err(e) => Err(e.to_string()),
        }
    }

    async fn find(&self, deadline: Instant) -> Option<(NodeId, PeerNode)> {
        let known = self.known.lock().clone();
        if known.is_some() {
            return known;
        }
        let limit = deadline.saturating_duration_since(Instant::now()).min(HELLO_TIMEOUT);
        let list = self.question.list.0.iter();
        let others = list.filter(|(id, _)| **id != self.question.node);
        let asked = others.map(async |(id, address)| {
            let member = PeerNode { peer: address.clone(), ..PeerNode::default() };
            let link = self.peers.link_to(*id, member, Purpose::Status);
            link.call::<_, HelloAnswer>(path::HELLO, &self.question, limit).await.ok()
        });
        let found = self.leader_of(join_all(asked).await.into_iter().flatten());
        self.known.lock().clone_from(&found);
        found
    }

    /// The leader that one of them tells of; one that says so of itself before all others.
    fn leader_of(&self, answers: impl Iterator<Item = HelloAnswer>) -> Option<(NodeId, PeerNode)> {
        answers
            .filter(|answer| answer.cluster_id == self.cluster)
            .filter_map(|answer| {
                let leader = answer.leader.filter(|leader| *leader != self.question.node)?;
                Some((leader == answer.node, leader, answer.members.get(&leader)?.clone()))
            })
            .max_by_key(|(says_so_itself, ..)| *says_so_itself)
            .map(|(_, leader, member)| (leader, member))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::ClusterList;

    fn member(disk: &str) -> PeerNode {
        PeerNode { disk_id: disk.into(), ..PeerNode::default() }
    }

    /// What node `node` answers: a cluster, and who leads it.
    fn answer(node: NodeId, cluster: &str, leader: Option<NodeId>) -> HelloAnswer {
        HelloAnswer {
            node,
            member: member("d"),
            list: ClusterList(BTreeMap::new()),
            cluster_id: Some(cluster.into()),
            running: true,
            members: BTreeMap::from([(1, member("a")), (2, member("b")), (3, member("c"))]),
            leader,
        }
    }

    /// Node 1 of cluster "c".
    fn asking() -> KnownLeader {
        let badge = Badge::of_new_disk(Arc::default());
        KnownLeader {
            question: Hello {
                node: 1,
                disk_id: "a".into(),
                list: ClusterList(BTreeMap::new()),
                member: true,
            },
            cluster: Some("c".into()),
            peers: Peers::new(Arc::new(badge), Handle::current()),
            known: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn the_leader_is_who_says_so_itself_or_whom_another_names() {
        let asking = asking();
        let found = |answers: Vec<HelloAnswer>| asking.leader_of(answers.into_iter());
        let (two, three) = (Some((2, member("b"))), Some((3, member("c"))));
        assert_eq!(found(vec![answer(2, "c", Some(3)), answer(3, "c", None)]), three);
        assert_eq!(found(vec![answer(2, "c", Some(2)), answer(3, "c", Some(1))]), two);
        assert_eq!(found(vec![answer(3, "c", Some(3)), answer(2, "c", Some(3))]), three);
        assert_eq!(found(vec![answer(2, "c", Some(2)), answer(3, "c", Some(2))]), two);
    }

    #[tokio::test]
    async fn nobody_of_another_cluster_is_believed_and_this_node_does_not_lead_before_it_runs() {
        let asking = asking();
        let found = |answers: Vec<HelloAnswer>| asking.leader_of(answers.into_iter());
        assert_eq!(found(vec![answer(2, "another", Some(2)), answer(3, "c", None)]), None);
        assert_eq!(found(vec![answer(2, "c", Some(1)), answer(3, "c", Some(1))]), None);
        assert_eq!(found(Vec::new()), None);
    }
}
