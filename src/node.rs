//! A node: first without a cluster, then running. [`Node`] is there from the first moment, so that
//! the API can say what it waits for; [`Running`] once Raft runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::future::join_all;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use roster_api::beats::{BeatsBody, BodyAnswer};
use roster_api::registry::{
    Alarm, Beat, BeatAnswers, BrakeSettings, Check, ClusterNode, ClusterNodeAnswer, ClusterStatus,
    Consistency, Exposition, Feed, Glance, Heard, IfBusy, NodeStatus, NotFollowed, Past,
    PastChanges, Registry, Role, Unavailable,
};
use roster_api::traffic::Traffic;
use roster_storage::command::{Command, EncodedCommand, Outcome};
use roster_storage::disk::{ApplyMeasures, Checkpoints, LogStore};
use roster_storage::events::Interest;
use roster_storage::names::{NodeId, Revision, SessionId};
use roster_storage::raft_types::PeerNode;
use roster_storage::version::{Published, Version};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::aside::Aside;
use crate::config::Config;
use crate::detour::Detour;
use crate::disk_guard::DiskGuard;
use crate::forward::{Beaten, Forward, asking, body_told, each_told};
use crate::identity::{ClusterIdentity, DataDir, Identity};
use crate::leaders::{self, Leaders, leads, told_leader, told_role};
use crate::leading::{Leading, known_leader};
use crate::leases::Leases;
use crate::loading::Loading;
use crate::metrics::Seen;
use crate::metrics::counts::Counts;
use crate::peers::{Peers, Purpose};
use crate::process;
use crate::raft::Raft;
use crate::raft::link::Badge;
use crate::raft::lookups::Lookups;
use crate::raft::refusals::Refusals;
use crate::raft::routes::Caller;
use crate::raft::rpc::{BeatsAsked, Form, Hello, HelloAnswer, Replace, StatusAnswer, path};
use crate::watch::Watches;

/// How long another node may take to tell its status.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// Sessions that the leader is asked about in one call: what it does then takes less than 2 ms.
const LAST_HEARD_AT_ONCE: usize = 4_096;

/// The version of this binary.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A node from its first moment.
pub struct Node {
    config: Config,
    data: Arc<DataDir>,
    identity: watch::Sender<Identity>,
    /// Held while the identity is read, changed and written.
    changing_identity: Mutex<()>,
    running: OnceLock<Arc<Running>>,
    /// Why it does not run yet, or has no members yet.
    waiting: Mutex<String>,
    /// How far it came with its state before it runs.
    loading: Arc<Loading>,
    /// The way of heartbeats before it runs.
    detour: OnceLock<Detour>,
    /// A question with another list, from before there was a cluster.
    other_list: Mutex<Option<Hello>>,
    refusals: Arc<Refusals>,
    lookups: Arc<Lookups>,
    aside: Aside,
    /// Clients that are connected.
    connections: TaskTracker,
    traffic: Traffic,
    counts: Arc<Counts>,
}

/// A node whose Raft runs.
pub struct Running {
    pub config: Config,
    pub data: Arc<DataDir>,
    pub identity: Identity,
    pub raft: Raft,
    pub log: LogStore,
    pub checkpoints: Checkpoints,
    pub applying: Arc<ApplyMeasures>,
    pub leaders: Leaders,
    pub published: Published,
    pub leases: Arc<Leases>,
    pub watches: Arc<Watches>,
    pub disk: Arc<DiskGuard>,
    pub peers: Arc<Peers>,
    pub leading: Arc<Leading>,
    pub forward: Forward,
    pub refusals: Arc<Refusals>,
    /// Set when the node was told to stop: it takes no leadership over any more.
    pub stopping: AtomicBool,
    pub since: Instant,
}

impl Node {
    /// `background`: the threads for what takes long.
    pub fn new(config: Config, data: Arc<DataDir>, identity: Identity, background: Handle) -> Self {
        let count = config.threads.background;
        Self {
            aside: Aside::new(background, count, config.request_timeout),
            config,
            data,
            identity: watch::Sender::new(identity),
            changing_identity: Mutex::default(),
            running: OnceLock::new(),
            waiting: Mutex::new("the node is starting".into()),
            loading: Arc::default(),
            detour: OnceLock::new(),
            other_list: Mutex::default(),
            refusals: Arc::default(),
            lookups: Arc::default(),
            connections: TaskTracker::new(),
            traffic: Traffic::default(),
            counts: Arc::default(),
        }
    }

    /// Clients that are connected.
    pub fn connections(&self) -> &TaskTracker {
        &self.connections
    }

    /// Where requests of clients are counted.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn data(&self) -> &Arc<DataDir> {
        &self.data
    }

    pub fn identity(&self) -> Identity {
        self.identity.borrow().clone()
    }

    /// What this node shows when it calls others.
    pub fn badge(&self) -> Badge {
        Badge::new(self.identity.subscribe(), self.refusals.clone(), self.lookups.clone())
    }

    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    pub fn loading(&self) -> &Arc<Loading> {
        &self.loading
    }

    /// From now on heartbeats are taken to the leader of the cluster that this disk belongs to.
    /// Called once, on the threads of the core.
    pub fn begin_detour(&self) {
        drop(self.detour.set(Detour::new(&self.config, self.identity(), self.badge())));
    }

    /// This node as a member of a cluster.
    pub fn member(&self) -> PeerNode {
        PeerNode {
            peer: self.config.advertise_peer.clone(),
            api: self.config.advertise_api.clone(),
            disk_id: self.identity.borrow().disk_id.clone(),
        }
    }

    /// `Err` says what it waits for.
    pub fn running(&self) -> Result<&Arc<Running>, String> {
        let waits_for = || self.loading.told().unwrap_or_else(|| self.waiting.lock().clone());
        self.running.get().ok_or_else(waits_for)
    }

    pub fn set_running(&self, running: Arc<Running>) {
        // Set once, by the one start; a second value could only be the same.
        drop(self.running.set(running));
    }

    /// Says what it waits for, once for each reason.
    pub fn wait_because(&self, why: String) {
        let mut waiting = self.waiting.lock();
        if *waiting != why {
            tracing::info!("{why}");
            *waiting = why;
        }
    }

    /// Says why it takes no part, once for each reason.
    pub fn refuse_because(&self, why: String) {
        let mut waiting = self.waiting.lock();
        if *waiting != why {
            tracing::error!("{why}");
            *waiting = why;
        }
    }

    /// Writes down which cluster this disk belongs to, for good. Nothing changes if it belongs to
    /// that one already, and another one is refused.
    pub fn adopt_cluster(&self, cluster: ClusterIdentity) -> std::io::Result<()> {
        self.change_identity(|identity| match &identity.cluster {
            Some(known) if known.id == cluster.id => Ok(()),
            Some(known) => Err(std::io::Error::other(format!(
                "this disk belongs to cluster {} already",
                known.id
            ))),
            None => {
                identity.cluster = Some(cluster);
                Ok(())
            }
        })
    }

    /// Writes down that there is a log from now on.
    pub fn log_begins(&self) -> std::io::Result<()> {
        self.change_identity(|identity| {
            identity.log_begun = true;
            Ok(())
        })
    }

    fn change_identity(
        &self,
        change: impl FnOnce(&mut Identity) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let _one_at_a_time = self.changing_identity.lock();
        let known = self.identity();
        let mut identity = known.clone();
        change(&mut identity)?;
        if identity != known {
            self.data.save(&identity)?;
            self.identity.send_replace(identity);
        }
        Ok(())
    }

    /// Says who this node is. Before there is a cluster both nodes check the other's list.
    pub fn answer_hello(&self, question: Hello) -> HelloAnswer {
        let both_are_new = self.identity.borrow().cluster.is_none() && !question.member;
        if both_are_new && question.list != self.config.cluster {
            *self.other_list.lock() = Some(question);
        }
        let members = match self.running.get() {
            Some(running) => running.members(),
            None => BTreeMap::new(),
        };
        HelloAnswer {
            node: self.config.node_id,
            member: self.member(),
            list: self.config.cluster.clone(),
            cluster_id: self.identity.borrow().cluster.as_ref().map(|c| c.id.clone()),
            running: self.running.get().is_some(),
            members,
            leader: self.running.get().and_then(|running| known_leader(&running.raft)),
        }
    }

    pub fn hello_with_another_list(&self) -> Option<Hello> {
        self.other_list.lock().clone()
    }

    /// The maker of a new cluster tells this node to join. `Err` says why it does not.
    pub async fn answer_form(&self, form: Form) -> Result<(), String> {
        let me = form.members.get(&self.config.node_id);
        if me.is_none_or(|member| member.disk_id != self.identity.borrow().disk_id) {
            return Err("this node's disk changed while the cluster was made".into());
        }
        self.join_cluster(form.cluster_id).map_err(|e| e.to_string())
    }

    /// Belongs to a cluster that another node made.
    pub fn join_cluster(&self, id: String) -> std::io::Result<()> {
        let made_from = self.config.cluster.clone();
        self.adopt_cluster(ClusterIdentity { id, made_from, made_here: false })
    }
}

impl Running {
    /// The members that this node knows, voters and learners.
    pub fn members(&self) -> BTreeMap<NodeId, PeerNode> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().nodes().map(|(id, n)| (*id, n.clone())).collect()
    }

    pub fn other_voters(&self) -> Vec<NodeId> {
        self.raft.voter_ids().filter(|id| *id != self.config.node_id).collect()
    }

    /// `Err` says why the caller is refused: another cluster, another disk than the members have.
    pub fn check_caller(&self, caller: &Caller<'_>) -> Result<(), String> {
        let own = self.identity.cluster.as_ref().map_or("", |cluster| cluster.id.as_str());
        if caller.cluster != own {
            return Err(format!(
                "this node's data folder is of cluster {own:?}, the caller's of {:?}",
                caller.cluster
            ));
        }
        if caller.to_disk != self.identity.disk_id {
            return Err(format!(
                "this node's disk is {}, the caller means {}: the disk was replaced or emptied",
                self.identity.disk_id, caller.to_disk
            ));
        }
        let from = caller.node()?;
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        match metrics.membership_config.membership().get_node(&from) {
            Some(member) if member.disk_id != caller.from_disk => Err(format!(
                "node {from} is known with disk {}, the caller has {}: that disk was replaced. Put \
                 the newer data folder back, or start with an empty one and --replace-disk",
                member.disk_id, caller.from_disk
            )),
            // A member that this node has not heard of yet; its cluster id is right.
            Some(_) | None => Ok(()),
        }
    }

    /// As leader: removes the old disk's membership and takes the new disk in as a learner, which
    /// becomes a voter once it has caught up.
    pub async fn replace_member(&self, replace: Replace) -> Result<(), String> {
        let id = replace.node;
        let own = self.identity.cluster.as_ref().map_or("", |cluster| cluster.id.as_str());
        if replace.cluster_id != own {
            return Err(format!("this node belongs to cluster {own}, not {}", replace.cluster_id));
        }
        if id == self.config.node_id {
            return Err("a leader cannot replace itself".into());
        }
        match self.members().get(&id) {
            Some(member) if *member == replace.member => return Ok(()),
            Some(old) if self.answers(id, old).await => {
                return Err(format!(
                    "node {id} runs at {} with disk {}; stop it first, or see whether the --cluster \
                     list and --node-id are meant for another cluster",
                    old.peer, old.disk_id
                ));
            }
            Some(old) => {
                let (term, applied) = (self.term(), self.applied());
                let new = &replace.member;
                tracing::warn!(node = id, %old, %new, term, applied, "replacing a member");
                let ids = || [id].into();
                if self.raft.voter_ids().any(|voter| voter == id) {
                    let removal = ChangeMembers::RemoveVoters(ids());
                    self.raft.change_membership(removal, false).await.map_err(|e| e.to_string())?;
                }
                if self.members().contains_key(&id) {
                    let removal = ChangeMembers::RemoveNodes(ids());
                    self.raft.change_membership(removal, false).await.map_err(|e| e.to_string())?;
                }
            }
            None => {}
        }
        let added = self.raft.add_learner(id, replace.member, false).await;
        added.map(drop).map_err(|e| e.to_string())
    }

    /// Whether a member runs with the disk that it is known with.
    async fn answers(&self, id: NodeId, member: &PeerNode) -> bool {
        let link = self.peers.link_to(id, member.clone(), Purpose::Status);
        link.call::<_, StatusAnswer>(path::STATUS, &(), STATUS_TIMEOUT).await.is_ok()
    }

    pub fn status_answer(&self) -> StatusAnswer {
        StatusAnswer {
            node: self.own_answer(),
            can_lead: self.disk.writable().is_ok() && !self.stopping.load(Ordering::Relaxed),
            heartbeats_per_second: leads(self).then(|| self.leases.heartbeats_per_second()),
            heartbeat_calls: Some(self.forward.heartbeat_calls()),
        }
    }

    fn own_answer(&self) -> ClusterNodeAnswer {
        let version = self.published.load();
        ClusterNodeAnswer {
            role: told_role(self),
            commit: self.commit(),
            applied: version.revision().0,
            state_hash: version.catalog.state_hash(),
            version: VERSION.into(),
        }
    }

    /// Up to where this node knows entries to be committed.
    pub fn commit(&self) -> u64 {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.cluster_committed.max(metrics.local_committed).map_or(0, |id| id.index)
    }

    /// The index of the last entry that this node has applied: its revision.
    pub fn applied(&self) -> u64 {
        self.published.load().revision().0
    }

    pub fn term(&self) -> u64 {
        self.raft.server_metrics().borrow_watched().vote.leader_id.term
    }

    pub async fn ask_status(&self, id: NodeId) -> Option<StatusAnswer> {
        if id == self.config.node_id {
            return Some(self.status_answer());
        }
        let link = self.peers.link(&self.raft, id, Purpose::Status)?;
        link.call(path::STATUS, &(), STATUS_TIMEOUT).await.ok()
    }

    /// Waits until this node has applied `index`, at most for `limit`.
    async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), Unavailable> {
        let mut applied = self.leases.applied();
        match timeout(limit, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Unavailable::NotReady("this node is stopping".into())),
            Err(_) => Err(Unavailable::Timeout(limit)),
        }
    }

    /// The members reach this node, and tell clients of it, as the membership says; `Err` if that
    /// is not what this life was started with.
    pub fn check_addresses(&self) -> Result<(), String> {
        let members = self.members();
        let known = members.get(&self.config.node_id);
        let Some(known) = known.filter(|known| known.disk_id == self.identity.disk_id) else {
            return Ok(());
        };
        let differs = |setting, known: &str, given: &str| {
            Err(format!(
                "{setting}: the cluster knows this node at {known}, it was started with {given}. \
                 Start it with what is known; to give it another address, take it in anew with an \
                 empty data folder and --replace-disk"
            ))
        };
        if known.peer != self.config.advertise_peer {
            return differs("--advertise-peer", &known.peer, &self.config.advertise_peer);
        }
        if known.api != self.config.advertise_api {
            return differs("--advertise-api", &known.api, &self.config.advertise_api);
        }
        Ok(())
    }

    /// `waiting` is what the start waits for while there are no members.
    fn check_cluster(&self, waiting: String, leader: &Result<(), String>) -> Result<(), String> {
        if self.members().is_empty() {
            return Err(waiting);
        }
        match (leader, self.refusals.lately()) {
            // A node that has a leader is not the one that is wrong.
            (Err(_), Some(refused)) => Err(refused),
            (Ok(()), _) | (Err(_), None) => self.check_addresses(),
        }
    }

    fn checks(&self, waiting: String) -> Vec<Check> {
        let leader = match known_leader(&self.raft) {
            Some(_) => self.leaders.answered(),
            None => Err("no leader is known".into()),
        };
        let (applied, commit) = (self.published.load().revision().0, self.commit());
        let caught_up = match commit.saturating_sub(applied) {
            0..=CAUGHT_UP_WITHIN => Ok(()),
            lag => Err(format!("{lag} committed entries are not applied yet")),
        };
        vec![
            Check { name: "cluster", result: self.check_cluster(waiting, &leader) },
            Check { name: "leader", result: leader },
            Check { name: "caught_up", result: caught_up },
            Check { name: "disk", result: self.disk.writable() },
        ]
    }
}

/// Committed entries that a ready node may still have to apply: under load there always are some.
const CAUGHT_UP_WITHIN: u64 = 10_000;

impl Node {
    fn serving(&self) -> Result<&Arc<Running>, Unavailable> {
        self.running().map_err(Unavailable::NotReady)
    }

    async fn take_proposal(&self, command: &Command) -> Result<Outcome, Unavailable> {
        let running = self.serving()?;
        running.disk.writable().map_err(Unavailable::ReadOnly)?;
        running.forward.propose(EncodedCommand::new(command)?).await
    }

    fn checks(&self) -> Vec<Check> {
        match self.running() {
            Ok(running) => running.checks(self.waiting.lock().clone()),
            Err(why) => vec![Check { name: "cluster", result: Err(why) }],
        }
    }

    async fn beats(&self, asked: BeatsAsked) -> Beaten {
        match (self.running(), self.detour.get()) {
            (Ok(running), _) => running.forward.beats(asked).await,
            (Err(_), Some(detour)) => {
                self.counts.detoured();
                detour.beats(asked).await
            }
            // A disk that belongs to no cluster yet knows nobody to take a heartbeat to.
            (Err(why), None) => Err(Unavailable::NotReady(why)),
        }
    }
}

#[async_trait]
impl Registry for Node {
    async fn propose(&self, command: Command) -> Result<Outcome, Unavailable> {
        let told = self.take_proposal(&command).await;
        self.counts.proposed(&told);
        told
    }

    async fn read(
        &self,
        consistency: Consistency,
        min_revision: Option<Revision>,
    ) -> Result<Arc<Version>, Unavailable> {
        let running = self.serving()?;
        let index = match consistency {
            Consistency::Linearizable => running.forward.read_index().await?,
            Consistency::Stale => 0,
        };
        let wanted = index.max(min_revision.map_or(0, |revision| revision.0));
        let version = running.published.load();
        if version.revision().0 >= wanted {
            return Ok(version);
        }
        running.wait_applied(wanted, self.config.request_timeout).await?;
        Ok(running.published.load())
    }

    fn newest(&self) -> Arc<Version> {
        self.running.get().map_or_else(Arc::default, |running| running.published.load())
    }

    async fn follow(
        &self,
        interest: Interest,
        after: Revision,
        patience: Duration,
    ) -> Result<Box<dyn Feed>, NotFollowed> {
        let running = self.serving()?;
        let place = running.watches.place()?;
        if running.wait_applied(after.0, patience).await.is_err() {
            let current = running.published.load().revision();
            return Err(NotFollowed::Ahead { current });
        }
        place.follow(interest, after).await
    }

    async fn past(&self, past: Past) -> Result<PastChanges, Unavailable> {
        Ok(self.serving()?.watches.past(past).await)
    }

    async fn covered(&self) -> Vec<(Revision, Revision)> {
        match self.running.get() {
            Some(running) => running.watches.covered().await,
            None => Vec::new(),
        }
    }

    async fn revision_at(&self, wall_ms: u64) -> Revision {
        match self.running.get() {
            Some(running) => running.watches.revision_at(wall_ms).await,
            None => Revision(0),
        }
    }

    async fn heartbeat(&self, beats: Vec<Beat>) -> Result<BeatAnswers, Unavailable> {
        each_told(self.beats(asking(beats)).await?)
    }

    async fn heartbeats(&self, body: BeatsBody) -> Result<(Revision, BodyAnswer), Unavailable> {
        body_told(self.beats(BeatsAsked::Body(body)).await?)
    }

    async fn last_heard(
        &self,
        sessions: Vec<SessionId>,
    ) -> Result<Vec<Option<Heard>>, Unavailable> {
        let running = self.serving()?;
        let mut heard = Vec::with_capacity(sessions.len());
        // A leader has other things to do in between.
        for some in sessions.chunks(LAST_HEARD_AT_ONCE) {
            heard.extend(running.forward.last_heard(some.to_vec()).await?);
        }
        Ok(heard)
    }

    async fn aside(
        &self,
        work: BoxFuture<'static, ()>,
        if_busy: IfBusy,
    ) -> Result<(), Unavailable> {
        self.aside.run(work, if_busy).await
    }

    fn glance(&self) -> Glance {
        let node = self.config.node_id;
        match self.running.get() {
            Some(running) => Glance {
                node,
                term: running.term(),
                leader: told_leader(running),
                applied: running.published.load().revision(),
            },
            None => Glance { node, term: 0, leader: None, applied: Revision(0) },
        }
    }

    fn node(&self) -> NodeStatus {
        let usage = process::usage();
        let mut status = NodeStatus {
            id: self.config.node_id,
            cluster_id: self.identity.borrow().cluster.as_ref().map(|c| c.id.clone()),
            role: Role::Outside,
            leader: None,
            term: 0,
            commit: 0,
            applied: 0,
            state_hash: 0,
            state_hashes: Vec::new(),
            version: VERSION,
            checks: self.checks(),
            cpu_seconds: usage.cpu_seconds,
            memory_bytes: usage.memory_bytes,
            loading: None,
        };
        match self.running() {
            Ok(running) => {
                let version = running.published.load();
                status.role = told_role(running);
                status.leader = told_leader(running);
                status.term = running.term();
                status.commit = running.commit();
                status.applied = version.revision().0;
                status.state_hash = version.catalog.state_hash();
                status.state_hashes = version.catalog.hash_marks().collect();
            }
            Err(_) => status.loading = self.loading.told(),
        }
        status
    }

    fn metrics(&self, form: Exposition) -> String {
        let seen = Seen {
            running: self.running.get().cloned(),
            checks: self.checks(),
            traffic: self.traffic.clone(),
            aside: self.aside.load(),
            connections: self.connections.len(),
            connections_max: self.config.connections_max,
            counts: self.counts.clone(),
        };
        seen.tell(form)
    }

    fn brake_settings(&self) -> BrakeSettings {
        self.config.brake
    }

    async fn cluster(&self) -> ClusterStatus {
        let cluster_id = self.identity.borrow().cluster.as_ref().map(|c| c.id.clone());
        let Some(running) = self.running.get() else {
            return ClusterStatus {
                cluster_id,
                leader: None,
                term: 0,
                nodes: Vec::new(),
                alarms: Vec::new(),
                heartbeats_per_second: None,
            };
        };
        let members = running.members();
        let answers = join_all(members.keys().map(|id| running.ask_status(*id))).await;
        let heartbeats_per_second =
            answers.iter().flatten().find_map(|answer| answer.heartbeats_per_second);
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.map(|a| a.node)).collect();
        let disk_full = running.disk.full().map(|full| Alarm {
            code: "disk-full",
            since_ms: full.since_ms,
            detail: full.why,
        });
        let alarms = leaders::alarm(running, &answers).into_iter().chain(disk_full).collect();
        let nodes = members
            .into_iter()
            .zip(answers)
            .map(|((id, member), answer)| ClusterNode {
                id,
                api: member.api,
                peer: member.peer,
                answer,
            })
            .collect();
        ClusterStatus {
            cluster_id,
            leader: told_leader(running),
            term: running.term(),
            nodes,
            alarms,
            heartbeats_per_second,
        }
    }
}
