//! Who leads, as this node sees it: told to whoever asks, told in the log, and counted.
//!
//! Raft goes on knowing a leader that is dead or that lost its majority, until another one is elected;
//! a leader without a majority even goes on being one. Requests have to be taken to it all the same
//! ([`crate::leading::known_leader`]), but nobody is served by it, so it is not told of:
//! [`told_leader`] and [`told_role`] are for all that leaves this node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use parking_lot::RwLock;
use roster_api::registry::{Alarm, ClusterNodeAnswer, Role};
use roster_storage::names::NodeId;

use crate::leading::{known_leader, leading_term, wall_ms};
use crate::node::Running;

/// What this node saw of leaders.
#[derive(Debug)]
pub struct Leaders {
    changes: AtomicU64,
    service: RwLock<Service>,
}

/// Whether a leader with a majority answered this node lately.
#[derive(Clone, Debug)]
struct Service {
    /// `Err` says why none did.
    answered: Result<(), String>,
    /// When it was first so; milliseconds since 1970.
    since_ms: u64,
}

impl Default for Leaders {
    fn default() -> Self {
        let answered = Err("no leader has answered yet".into());
        let service = RwLock::new(Service { answered, since_ms: wall_ms() });
        Self { changes: AtomicU64::new(0), service }
    }
}

impl Leaders {
    /// Since the start, the first leader that was seen among them.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether a leader with a majority answered this node lately; `Err` says why not.
    pub fn answered(&self) -> Result<(), String> {
        self.service.read().answered.clone()
    }

    fn answers(&self) -> bool {
        self.service.read().answered.is_ok()
    }

    /// Notes what became of the last question to a leader; a change is told in the log.
    pub fn note(&self, answered: Result<(), String>) {
        let mut service = self.service.write();
        match (&service.answered, &answered) {
            (Ok(()), Err(why)) => tracing::warn!("no leader with a majority answers: {why}"),
            (Err(_), Ok(())) => tracing::info!("a leader with a majority answers"),
            (Ok(()), Ok(())) | (Err(_), Err(_)) => {}
        }
        if service.answered.is_ok() != answered.is_ok() {
            service.since_ms = wall_ms();
        }
        service.answered = answered;
    }
}

/// The leader that this node tells of. Itself only while a majority acknowledged it at most a lease
/// ago; another one only while that answers this node's questions, as it does while it has a majority.
pub fn told_leader(running: &Running) -> Option<NodeId> {
    let leader = known_leader(&running.raft)?;
    let serves = match leader == running.config.node_id {
        true => running.leading.is_heard(),
        false => running.leaders.answers(),
    };
    serves.then_some(leader)
}

/// Whether this node leads, and a majority acknowledged that at most a lease ago.
pub fn leads(running: &Running) -> bool {
    leading_term(&running.raft).is_some() && running.leading.is_heard()
}

/// What this node tells that it is. A leader that no majority hears is a candidate: it leads once a
/// majority hears it again, unless another one was elected.
pub fn told_role(running: &Running) -> Role {
    let state = running.raft.server_metrics().borrow_watched().state;
    match state {
        openraft::ServerState::Leader if leads(running) => Role::Leader,
        openraft::ServerState::Leader | openraft::ServerState::Candidate => Role::Candidate,
        openraft::ServerState::Follower => Role::Follower,
        openraft::ServerState::Learner => Role::Learner,
        openraft::ServerState::Shutdown => Role::Outside,
    }
}

/// The alarm of a node that has no leader to tell of. `answers`: what the members said, of which it
/// asked each, itself among them.
pub fn alarm(running: &Running, answers: &[Option<ClusterNodeAnswer>]) -> Option<Alarm> {
    if answers.is_empty() || told_leader(running).is_some() {
        return None;
    }
    let (heard, all) = (answers.iter().flatten().count(), answers.len());
    let id = running.config.node_id;
    let code = if heard * 2 > all { "no-leader" } else { "no-quorum" };
    Some(Alarm {
        code,
        since_ms: without_leader_since_ms(running),
        detail: format!(
            "{heard} of {all} nodes answer node {id}, itself among them, and none of them leads with \
             a majority: nothing can be written, and only stale reads are answered. Start the nodes \
             that are down, or mend the network between them"
        ),
    })
}

/// Milliseconds since 1970.
fn without_leader_since_ms(running: &Running) -> u64 {
    let lately = |ago: Duration| wall_ms().saturating_sub(ago.as_millis() as u64);
    match running.leading.hearing().majority_ago() {
        Some(ago) => lately(ago),
        None => {
            let service = running.leaders.service.read();
            if service.answered.is_ok() { wall_ms() } else { service.since_ms }
        }
    }
}

/// Runs until the node stops.
pub async fn follow(running: Arc<Running>) {
    let mut metrics = running.raft.server_metrics();
    let mut known: Option<(NodeId, u64)> = None;
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            metrics.current_leader.map(|leader| (leader, metrics.vote.leader_id.term))
        };
        if now != known {
            tell(&running, known, now);
            known = now;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

fn tell(running: &Running, before: Option<(NodeId, u64)>, now: Option<(NodeId, u64)>) {
    let applied = running.applied();
    match now {
        Some((leader, term)) => {
            running.leaders.changes.fetch_add(1, Ordering::Relaxed);
            tracing::info!(leader, term, applied, "a node leads");
        }
        None => {
            let before = before.map(|(leader, _)| leader);
            tracing::info!(before, applied, "no leader is known");
        }
    }
}
