//! How a cluster begins, and how a node finds out that it may not take part.
//!
//! A node with a cluster in its identity simply starts. A new one asks all nodes of its list who
//! they are:
//!
//! - None belongs to a cluster: when *all* have answered, the lowest id writes a new cluster id into
//!   its own identity, tells it to the others, who write it down too, and initializes Raft once.
//!   After a crash in between it goes on with the same cluster id.
//! - Some belong to a cluster that knows this node with this disk: it joins.
//! - Some belong to a cluster that knows this node id with *another* disk: this disk was emptied. It
//!   takes no part, since it may have forgotten a vote (invariant S14), and says so until an operator
//!   decides, by `--replace-disk`, that the old disk is gone for good; then the leader is asked to
//!   remove the old member and to take this one in as a learner first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use roster_storage::names::NodeId;
use roster_storage::raft_types::PeerNode;
use tokio::time::sleep;

use super::link::{Carries, Link};
use super::rpc::{Form, Hello, HelloAnswer, Replace, path};
use crate::config::ClusterList;
use crate::identity::{ClusterIdentity, random_id};
use crate::node::Node;

/// Between two rounds of asking.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// How long a node may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a node may take to write the cluster id down.
const FORM_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a membership change may take, with the transfer of a checkpoint.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(60);

/// A reason to give up: the setting is wrong, and waiting cannot mend it.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(
        "--cluster: node {other} at {address} was started with the list {theirs}, this one with \
         {ours}; give all nodes the same list"
    )]
    ListsDiffer { other: NodeId, address: String, theirs: ClusterList, ours: ClusterList },
    #[error("--cluster: {address} answered as node {found}, the list says node {expected}")]
    OtherNode { address: String, found: NodeId, expected: NodeId },
    #[error(
        "cluster {0} already exists, but this node's log is empty: its data was lost. Move the data \
         folder away and start with an empty one and --replace-disk; the other nodes have the data"
    )]
    LogLost(String),
    #[error("cannot write this node's identity: {0}")]
    Identity(#[from] std::io::Error),
}

type Answers = BTreeMap<NodeId, HelloAnswer>;

/// Returns when this node's identity has a cluster.
pub async fn find_cluster(node: &Arc<Node>) -> Result<(), BootstrapError> {
    while node.identity().cluster.is_none() {
        let answers = ask_all(node).await?;
        ensure_lists_agree(node)?;
        match formed(&answers) {
            Some((cluster_id, answer)) => join(node, cluster_id, answer, &answers).await?,
            None => form(node, &answers).await?,
        }
        sleep(ASK_EVERY).await;
    }
    Ok(())
}

/// The answer of the node that knows most of a cluster that was made, if one was.
fn formed(answers: &Answers) -> Option<(&str, &HelloAnswer)> {
    answers
        .values()
        .filter_map(|answer| Some((answer.cluster_id.as_deref()?, answer)))
        .max_by_key(|(_, answer)| (!answer.members.is_empty(), answer.leader.is_some()))
}

/// Asks all other nodes of the list; whoever does not answer is left out.
async fn ask_all(node: &Arc<Node>) -> Result<Answers, BootstrapError> {
    let config = node.config();
    let question = Hello {
        node: config.node_id,
        disk_id: node.identity().disk_id,
        list: config.cluster.clone(),
        member: false,
    };
    let others = config.cluster.0.iter().filter(|(id, _)| **id != config.node_id);
    let asked = others.map(async |(id, address)| {
        let link = link_to(node, *id, address);
        let answer = link.call::<_, HelloAnswer>(path::HELLO, &question, HELLO_TIMEOUT).await;
        answer.ok().map(|answer| (*id, address, answer))
    });
    // All are asked before an answer is judged, so that all hear of a list that differs.
    let mut answers = BTreeMap::new();
    for (id, address, answer) in join_all(asked).await.into_iter().flatten() {
        check_answer(&config.cluster, id, address, &answer)?;
        answers.insert(id, answer);
    }
    Ok(answers)
}

/// A node that has another list gives up when this one answers it; so this one does the same.
fn ensure_lists_agree(node: &Arc<Node>) -> Result<(), BootstrapError> {
    match node.hello_with_another_list() {
        None => Ok(()),
        Some(Hello { node: other, list: theirs, .. }) => Err(BootstrapError::ListsDiffer {
            other,
            address: theirs.0.get(&other).cloned().unwrap_or_default(),
            theirs,
            ours: node.config().cluster.clone(),
        }),
    }
}

fn link_to(node: &Arc<Node>, id: NodeId, address: &str) -> Link {
    let member = PeerNode { peer: address.into(), ..PeerNode::default() };
    Link::new(id, member, Arc::new(node.badge()), Carries::Many)
}

fn check_answer(
    ours: &ClusterList,
    expected: NodeId,
    address: &str,
    answer: &HelloAnswer,
) -> Result<(), BootstrapError> {
    if answer.node != expected {
        return Err(BootstrapError::OtherNode {
            address: address.into(),
            found: answer.node,
            expected,
        });
    }
    // Once a cluster was made its members are what the log says, not what a list says.
    if answer.cluster_id.is_none() && answer.list != *ours {
        return Err(BootstrapError::ListsDiffer {
            other: expected,
            address: address.into(),
            theirs: answer.list.clone(),
            ours: ours.clone(),
        });
    }
    Ok(())
}

/// All are new: the lowest node makes the cluster when all have answered.
async fn form(node: &Arc<Node>, answers: &Answers) -> Result<(), BootstrapError> {
    let config = node.config();
    if !all_answered(node, answers) {
        return Ok(());
    }
    if config.cluster.lowest() != Some(config.node_id) {
        node.wait_because("waiting for the lowest node to make the cluster".into());
        return Ok(());
    }
    let made_from = config.cluster.clone();
    let cluster = ClusterIdentity { id: random_id()?, made_from, made_here: true };
    tracing::info!(cluster = %cluster.id, "making a new cluster");
    node.adopt_cluster(cluster)?;
    Ok(())
}

/// Says whom a new cluster waits for, if anybody is missing.
fn all_answered(node: &Arc<Node>, answers: &Answers) -> bool {
    let config = node.config();
    let others = config.cluster.0.keys().filter(|id| **id != config.node_id);
    let missing: Vec<_> =
        others.filter(|id| !answers.contains_key(id)).map(NodeId::to_string).collect();
    if !missing.is_empty() {
        node.wait_because(format!("a new cluster waits for node {}", missing.join(" and node ")));
    }
    missing.is_empty()
}

/// The maker, once its identity has a cluster whose Raft was never initialized: tells the others and
/// returns the members when all have written it down.
pub async fn gather_members(
    node: &Arc<Node>,
) -> Result<BTreeMap<NodeId, PeerNode>, BootstrapError> {
    loop {
        let answers = ask_all(node).await?;
        if let Some(cluster) = node.identity().cluster
            && answers.values().any(|answer| !answer.members.is_empty())
        {
            return Err(BootstrapError::LogLost(cluster.id));
        }
        if all_answered(node, &answers) {
            let mut members = BTreeMap::from([(node.config().node_id, node.member())]);
            members.extend(answers.into_iter().map(|(id, answer)| (id, answer.member)));
            if tell_all(node, &members).await {
                return Ok(members);
            }
        }
        sleep(ASK_EVERY).await;
    }
}

async fn tell_all(node: &Arc<Node>, members: &BTreeMap<NodeId, PeerNode>) -> bool {
    let Some(cluster) = node.identity().cluster else { return false };
    let question = Form { cluster_id: cluster.id, members: members.clone() };
    for (id, member) in members.iter().filter(|(id, _)| **id != node.config().node_id) {
        let link = link_to(node, *id, &member.peer);
        if let Err(e) = link.call::<_, ()>(path::FORM, &question, FORM_TIMEOUT).await {
            node.wait_because(format!("node {id} does not join the new cluster: {e}"));
            return false;
        }
    }
    true
}

/// Some belong to a cluster: does it know this node with this disk?
async fn join(
    node: &Arc<Node>,
    cluster_id: &str,
    answer: &HelloAnswer,
    answers: &Answers,
) -> Result<(), BootstrapError> {
    let config = node.config();
    let disk_id = node.identity().disk_id;
    match answer.members.get(&config.node_id) {
        Some(member) if member.disk_id == disk_id => {
            node.join_cluster(cluster_id.into())?;
        }
        None if answer.members.is_empty() => wait_for_members(node, cluster_id, answers),
        known if config.replace_disk => {
            ask_to_be_replaced(node, cluster_id, known.is_some(), answer).await;
        }
        Some(member) => node.refuse_because(format!(
            "this node's disk is empty, but cluster {cluster_id} knows node {} with disk {}. It \
             takes no part, since it may have forgotten votes and entries. If the old disk is gone \
             for good, start with --replace-disk; otherwise put its data folder back",
            config.node_id, member.disk_id
        )),
        None => node.refuse_because(format!(
            "cluster {cluster_id} has no member {}; start with --replace-disk to have it taken in",
            config.node_id
        )),
    }
    Ok(())
}

/// The cluster is just being made and its maker will tell this node, or its nodes are just starting.
/// Unless this node is the maker, with another disk: then nobody will make the first entry.
fn wait_for_members(node: &Arc<Node>, cluster_id: &str, answers: &Answers) {
    let config = node.config();
    let all_are_new = config.cluster.0.len() == answers.len() + 1
        && answers.values().all(|a| a.members.is_empty() && (a.running || a.cluster_id.is_none()));
    if config.cluster.lowest() == Some(config.node_id) && all_are_new {
        node.refuse_because(format!(
            "this node was making cluster {cluster_id} when its disk was emptied, and no node has an \
             entry of it, so there is nothing to join and nothing to lose. Stop all nodes, move \
             their data folders away and start them again"
        ));
    } else {
        node.wait_because(format!("cluster {cluster_id} is being made, or is just starting"));
    }
}

async fn ask_to_be_replaced(node: &Arc<Node>, cluster_id: &str, known: bool, answer: &HelloAnswer) {
    let Some(leader) = answer.leader.and_then(|id| Some((id, answer.members.get(&id)?.clone())))
    else {
        return node.wait_because("the cluster has no leader that could take this node in".into());
    };
    tracing::info!(leader = leader.0, known, "asking to be taken in with this disk");
    let link = Link::new(leader.0, leader.1, Arc::new(node.badge()), Carries::Many);
    let question = Replace {
        cluster_id: cluster_id.into(),
        node: node.config().node_id,
        member: node.member(),
    };
    if let Err(e) = link.call::<_, ()>(path::REPLACE, &question, REPLACE_TIMEOUT).await {
        node.wait_because(format!("the leader does not take this node in: {e}"));
    }
}
