//! The cluster and its nodes.

use roster_storage::catalog::Catalog;
use serde::Serialize;
use utoipa::ToSchema;

use super::app::CountsView;
use super::brake::{self, BrakesView};
use super::scalar::{Hex, Moment};
use crate::registry::{Alarm, BrakeSettings, ClusterNode, ClusterStatus, NodeStatus, Role};

#[derive(Serialize, ToSchema)]
pub(crate) struct NodeView {
    id: String,
    #[schema(required)]
    cluster_id: Option<String>,
    role: Role,
    #[schema(required)]
    leader: Option<String>,
    term: u64,
    commit: u64,
    applied: u64,
    state_hash: Hex,
    state_hashes: Vec<(u64, Hex)>,
    version: &'static str,
    cpu_seconds: f64,
    memory_bytes: u64,
    /// How far it came with its state, while it loads that.
    #[serde(skip_serializing_if = "Option::is_none")]
    loading: Option<String>,
}

impl From<NodeStatus> for NodeView {
    fn from(node: NodeStatus) -> Self {
        Self {
            id: node.id.to_string(),
            cluster_id: node.cluster_id,
            role: node.role,
            leader: node.leader.map(|id| id.to_string()),
            term: node.term,
            commit: node.commit,
            applied: node.applied,
            state_hash: Hex(node.state_hash),
            state_hashes: node.state_hashes.into_iter().map(|(i, h)| (i, Hex(h))).collect(),
            version: node.version,
            cpu_seconds: node.cpu_seconds,
            memory_bytes: node.memory_bytes,
            loading: node.loading,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ClusterView<'a> {
    #[schema(required)]
    cluster_id: Option<String>,
    #[schema(required)]
    leader: Option<String>,
    term: u64,
    nodes: Vec<MemberView>,
    alarms: Vec<AlarmView>,
    /// What is slowed down because much falls silent at once; null while nothing is.
    #[schema(required)]
    brake: Option<BrakesView<'a>>,
    counts: CountsView,
    #[schema(required)]
    heartbeats_per_second: Option<u64>,
    pace: PaceView,
}

impl<'a> ClusterView<'a> {
    /// `catalog`: of a node that serves; counts of another one are zero, and the rest is worth showing
    /// all the same.
    pub fn new(
        cluster: ClusterStatus,
        catalog: Option<&'a Catalog>,
        settings: BrakeSettings,
    ) -> Self {
        let mass_losses = catalog.into_iter().flat_map(brake::alarms);
        let pace = catalog.map(Catalog::pace).unwrap_or_default();
        let answers = cluster.nodes.iter().filter_map(|node| node.answer.as_ref());
        let commit = answers.map(|answer| answer.commit).max().unwrap_or(0);
        Self {
            cluster_id: cluster.cluster_id,
            leader: cluster.leader.map(|id| id.to_string()),
            term: cluster.term,
            nodes: cluster.nodes.into_iter().map(|n| MemberView::new(n, commit)).collect(),
            alarms: cluster.alarms.into_iter().chain(mass_losses).map(AlarmView::from).collect(),
            brake: catalog.and_then(|catalog| BrakesView::new(catalog, settings).unless_idle()),
            counts: catalog.map(|catalog| catalog.total_counts().into()).unwrap_or_default(),
            heartbeats_per_second: cluster.heartbeats_per_second,
            pace: PaceView { told: pace.told_percent, held: pace.held_percent },
        }
    }
}

/// By how much TTLs and the time between heartbeats are lengthened, percent.
#[derive(Serialize, ToSchema)]
struct PaceView {
    /// What answers tell.
    told: u32,
    /// What deadlines are judged by.
    held: u32,
}

/// A member; what only its own answer tells is null if it did not answer.
#[derive(Serialize, ToSchema)]
struct MemberView {
    id: String,
    api: String,
    peer: String,
    #[schema(required)]
    role: Option<Role>,
    #[schema(required)]
    commit: Option<u64>,
    #[schema(required)]
    applied: Option<u64>,
    /// How many entries it is behind the highest commit that any member knows.
    #[schema(required)]
    lag: Option<u64>,
    #[schema(required)]
    state_hash: Option<Hex>,
    #[schema(required)]
    state_hash_at: Option<u64>,
    #[schema(required)]
    version: Option<String>,
}

impl MemberView {
    fn new(node: ClusterNode, commit: u64) -> Self {
        let (id, api, peer) = (node.id.to_string(), node.api, node.peer);
        match node.answer {
            None => Self {
                id,
                api,
                peer,
                role: None,
                commit: None,
                applied: None,
                lag: None,
                state_hash: None,
                state_hash_at: None,
                version: None,
            },
            Some(answer) => Self {
                id,
                api,
                peer,
                role: Some(answer.role),
                commit: Some(answer.commit),
                applied: Some(answer.applied),
                lag: Some(commit.saturating_sub(answer.applied)),
                state_hash: Some(Hex(answer.state_hash)),
                state_hash_at: Some(answer.applied),
                version: Some(answer.version),
            },
        }
    }
}

#[derive(Serialize, ToSchema)]
struct AlarmView {
    code: &'static str,
    since: Moment,
    detail: String,
}

impl From<Alarm> for AlarmView {
    fn from(alarm: Alarm) -> Self {
        Self { code: alarm.code, since: Moment(alarm.since_ms), detail: alarm.detail }
    }
}
