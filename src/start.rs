//! How a node starts, runs and stops: settings are complete before this is called; ports are taken
//! before anything is written; what fails says which setting or file it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::storage::RaftLogStorage;
use openraft::{Config as RaftConfig, SnapshotPolicy};
use roster_storage::disk::{Disk, DiskError, LOG_DIR, LogOptions};
use roster_storage::events::Change;
use roster_storage::names::Revision;
use roster_storage::version::{Loaded, Observer, Version};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, ConfigError};
use crate::departures::Departures;
use crate::disk_guard::DiskGuard;
use crate::forward::Forward;
use crate::housekeeping::{hand_over, keep_house, keep_members, watch_service};
use crate::identity::{DataDir, IdentityError};
use crate::leaders::{self, Leaders};
use crate::leading::Leading;
use crate::leases::{Leases, keeper, pacer};
use crate::loading::Loading;
use crate::node::{Node, Running};
use crate::nudge::watch_leader;
use crate::peers::{Peers, Purpose};
use crate::raft::bootstrap::{BootstrapError, find_cluster, gather_members};
use crate::raft::network::{CommitsTold, Network};
use crate::raft::rpc::{Hello, HelloAnswer, path};
use crate::raft::{Raft, leader_becomes, routes};
use crate::rebalance;
use crate::serve::{Callers, Limit, bind, serve};
use crate::threads::Places;
use crate::watch::{Watches, dispatch, say_goodbye};

/// How long sending a whole checkpoint to a slow node may take.
const CHECKPOINT_TRANSFER: Duration = Duration::from_secs(600);

/// The folder of the history, in the data folder.
const HISTORY_DIR: &str = "history";

/// How long Raft's own reason may take to show after a task of the node ended.
const RAFT_REASON_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a leader that stops waits for another one, and for the others to know it.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two questions whom another node takes for the leader.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Why a node does not start, or stopped by itself. Always an exit code other than 0.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The setting may well be right: who has the address now may go, and one that is not there yet may come.
    #[error(transparent)]
    Listen(ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "{0}: the Raft log that was here is gone. Put it back, or move the data folder away and start \
         with an empty one and --replace-disk: the other nodes have the data"
    )]
    LogGone(String),
    #[error("cannot write to the data folder: {0}")]
    Io(#[from] std::io::Error),
    #[error("Raft stopped this node: {0}")]
    Raft(String),
}

/// Runs a node until `stop` or until it cannot go on. Called on the threads of the core.
pub async fn run(
    config: Config,
    places: Places,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let data = Arc::new(DataDir::open(&config.data_dir)?);
    let identity = data.identity(config.node_id)?;
    let api = bind("--listen", config.listen, &places.clients).await;
    let api = api.map_err(StartError::Listen)?;
    let peer = bind("--peer-listen", config.peer_listen, &Handle::current()).await;
    let peer = peer.map_err(StartError::Listen)?;
    tracing::info!(
        node = config.node_id,
        version = crate::node::VERSION,
        disk = identity.disk_id,
        api = %config.listen,
        peer = %config.peer_listen,
        "starting"
    );
    let node = Arc::new(Node::new(config, data, identity, places.background.clone()));
    let tasks = TaskTracker::new();
    let peers_stop = CancellationToken::new();
    let api_router = roster_api::router(node.clone(), api_options(&node));
    let limit = connection_limit(&node);
    tasks.spawn_on(serve(api, api_router, Callers::Clients(limit), stop.clone()), &places.clients);
    tasks.spawn(serve(peer, routes::router(node.clone()), Callers::Nodes, peers_stop.clone()));
    let ended = tokio::select! {
        ended = take_part(&node, &places, &stop) => ended.map(drop),
        () = stop.cancelled() => Ok(()),
    };
    stop.cancel();
    let running = node.running().ok();
    if let Some(running) = running {
        tracing::info!(term = running.term(), applied = running.applied(), "stopping");
        hand_leadership_on(running).await;
    }
    peers_stop.cancel();
    tasks.close();
    tasks.wait().await;
    if let Some(running) = running
        && let Err(e) = running.raft.shutdown().await
    {
        tracing::warn!("Raft did not stop cleanly: {e}");
    }
    if let Some(running) = running {
        let watches = running.watches.clone();
        // A history that cannot be stopped is left as it is; the next start looks at it.
        drop(tokio::task::spawn_blocking(move || watches.stop()).await);
    }
    let applied = running.map(|running| running.applied());
    tracing::info!(applied, "stopped");
    ended
}

/// How many clients the API takes.
fn connection_limit(node: &Arc<Node>) -> Limit {
    let (connections, open) = (node.config().connections_max, node.connections().clone());
    let refusal = roster_api::too_many_connections(node.clone(), connections);
    Limit { connections, open, refusal: Arc::new(refusal) }
}

fn api_options(node: &Node) -> roster_api::ApiOptions {
    let config = node.config();
    roster_api::ApiOptions {
        traffic: node.traffic().clone(),
        body_bytes_max: config.body_limit,
        sentinel: config.sentinel,
        version: crate::node::VERSION.into(),
    }
}

/// Finds the cluster, starts Raft and goes on until Raft cannot.
async fn take_part(
    node: &Arc<Node>,
    places: &Places,
    stop: &CancellationToken,
) -> Result<std::convert::Infallible, StartError> {
    find_cluster(node).await?;
    node.begin_detour();
    let opened = open_disk(node, places, stop).await?;
    let running = start_raft(node, places, opened).await?;
    // Outlives the other tasks, which end with the node.
    places.clients.spawn(say_goodbye(running.watches.clone()));
    node.set_running(running.clone());
    tracing::info!(
        term = running.term(),
        applied = running.applied(),
        "the state is there; Raft runs"
    );
    say_what_changed(&running);
    // Dropped, and so ended, when the node is told to stop.
    let mut tasks = JoinSet::new();
    tasks.spawn_on(dispatch(running.watches.clone()), &places.clients);
    tasks.spawn(keeper::keep(running.clone()));
    tasks.spawn(pacer::keep(running.clone()));
    tasks.spawn(rebalance::keep(running.clone()));
    tasks.spawn(watch_leader(running.clone()));
    tasks.spawn(keep_house(running.clone()));
    tasks.spawn(keep_members(running.clone()));
    tasks.spawn(watch_service(running.clone()));
    tasks.spawn(leaders::follow(running.clone()));
    initialize_if_new(node, &running).await?;
    tokio::select! {
        why = raft_ends(&running) => Err(StartError::Raft(why)),
        ended = tasks.join_next() => {
            // They go on while Raft does, so Raft's own reason comes first.
            let why = timeout(RAFT_REASON_TIMEOUT, raft_ends(&running)).await;
            Err(StartError::Raft(why.unwrap_or_else(|_| format!("a task ended: {ended:?}"))))
        }
    }
}

/// Once a cluster is made its members are what the log says, whatever the settings say now.
fn say_what_changed(running: &Running) {
    if let Err(why) = running.check_addresses() {
        tracing::error!("{why}");
    }
    let ours = &running.config.cluster;
    if let Some(cluster) = running.identity.cluster.as_ref().filter(|c| c.made_from != *ours) {
        tracing::warn!(
            "--cluster: the list is {ours} and was {} when this node joined; its members are no \
             longer taken from it",
            cluster.made_from
        );
    }
}

/// Returns when Raft cannot go on, with the reason.
async fn raft_ends(running: &Running) -> String {
    // They close when the core ends, and change seldom: those that tell the reason are sent with all
    // that the core does, hundreds of times a second.
    let mut until_closed = running.raft.server_metrics();
    while until_closed.changed().await.is_ok() {}
    match &running.raft.metrics().borrow_watched().running_state {
        Err(fatal) => fatal.to_string(),
        Ok(()) => "its core ended".into(),
    }
}

/// All that watch apply, in their order.
struct Watching {
    leases: Arc<Leases>,
    departures: Arc<Departures>,
    watches: Arc<Watches>,
    loading: Arc<Loading>,
}

impl Observer for Watching {
    fn loading(&self, loaded: Loaded) {
        self.loading.checkpoint(loaded);
    }

    fn applied(&self, version: &Arc<Version>, changes: &[Arc<Change>]) {
        self.loading.applied(version.revision());
        // The log first: who is told by the leases that an index was applied finds it there.
        self.watches.applied(version, changes);
        Observer::applied(&*self.leases, version, changes);
        self.departures.tell(changes);
    }

    fn replaced(&self, version: &Arc<Version>) {
        self.watches.replaced(version);
        self.leases.replaced(version);
    }

    fn before_checkpoint(&self, upto: Revision) {
        self.watches.before_checkpoint(upto);
    }
}

/// What was opened, and what watches apply from its first entry on.
struct Opened {
    disk: Disk,
    leases: Arc<Leases>,
    watches: Arc<Watches>,
}

async fn open_disk(
    node: &Arc<Node>,
    places: &Places,
    stop: &CancellationToken,
) -> Result<Opened, StartError> {
    let folder = node.data().path().to_owned();
    let log_dir = folder.join(LOG_DIR);
    if node.identity().log_begun && is_empty(&log_dir) {
        return Err(StartError::LogGone(log_dir.display().to_string()));
    }
    let leases = Arc::new(Leases::new());
    let departures = Arc::new(Departures::default());
    let watches =
        Arc::new(Watches::new(node.config().watch, places.background.clone(), stop.clone()));
    let observer = Arc::new(Watching {
        leases: leases.clone(),
        departures: departures.clone(),
        watches: watches.clone(),
        loading: node.loading().clone(),
    });
    let opened =
        tokio::task::spawn_blocking(move || Disk::open(&folder, LogOptions::default(), observer));
    let mut disk = opened.await.map_err(|e| StartError::Raft(e.to_string()))??;
    // Its first file is there and durable by now, and nothing was voted yet: a crash on either side
    // of this leaves a folder that starts again.
    node.log_begins()?;
    let end = disk.log.get_log_state().await?.last_log_id;
    let end = Revision(end.map_or(0, |id| id.index));
    departures.replayed_to(end);
    for repair in &disk.repairs {
        tracing::warn!(
            file = %repair.file.display(),
            at = repair.offset,
            bytes = repair.bytes,
            saved_as = %repair.saved_as.display(),
            "the log ended in a torn write that nobody was told of; it was set aside"
        );
    }
    let begins_at = disk.state_machine.published().load().revision();
    node.loading().log(begins_at, end);
    leases.begin(begins_at);
    watches.begin(begins_at);
    if let Some(limits) = node.config().history {
        watches.keep_history(node.data().path().join(HISTORY_DIR), limits);
    }
    Ok(Opened { disk, leases, watches })
}

fn is_empty(dir: &std::path::Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

async fn start_raft(
    node: &Arc<Node>,
    places: &Places,
    opened: Opened,
) -> Result<Arc<Running>, StartError> {
    let config = node.config().clone();
    let Opened { disk, leases, watches } = opened;
    let published = disk.state_machine.published();
    let (log, checkpoints) = (disk.log.clone(), disk.state_machine.checkpoints());
    let applying = disk.state_machine.applying();
    let badge = Arc::new(node.badge());
    let raft_config = raft_config(&config)?;
    let commits_told = CommitsTold::default();
    let network = Network::new(badge.clone(), commits_told.clone());
    let stopped = |e: &dyn std::fmt::Display| StartError::Raft(e.to_string());
    let raft = Raft::new(config.node_id, raft_config, network, disk.log, disk.state_machine)
        .await
        .map_err(|e| stopped(&e))?;
    // An answer of the core: from now on its metrics tell what the disk knows of the members.
    raft.is_initialized().await.map_err(|e| stopped(&e))?;
    let lease = config.timings.election_max;
    let guard = Arc::new(DiskGuard::new(config.data_dir.clone(), config.disk_reserve_bytes));
    let peers = Arc::new(Peers::new(badge, places.clients.clone()));
    let leading = Arc::new(Leading::new(
        raft.clone(),
        published.clone(),
        leases.clone(),
        guard.clone(),
        commits_told,
        lease,
        config.lease_reads,
    ));
    let forward = Forward::new(
        config.node_id,
        raft.clone(),
        leading.clone(),
        peers.clone(),
        config.request_timeout,
        &places.clients,
    );
    Ok(Arc::new(Running {
        config,
        data: node.data().clone(),
        identity: node.identity(),
        raft,
        log,
        checkpoints,
        applying,
        leaders: Leaders::default(),
        published,
        leases,
        watches,
        disk: guard,
        peers,
        leading,
        forward,
        refusals: node.refusals().clone(),
        stopping: AtomicBool::new(false),
        since: Instant::now(),
    }))
}

fn raft_config(config: &Config) -> Result<Arc<RaftConfig>, ConfigError> {
    let ms = |d: Duration| d.as_millis() as u64;
    let raft = RaftConfig {
        cluster_name: "roster".into(),
        heartbeat_interval: ms(config.timings.heartbeat),
        election_timeout_min: ms(config.timings.election_min),
        election_timeout_max: ms(config.timings.election_max),
        install_snapshot_timeout: ms(CHECKPOINT_TRANSFER),
        // Checkpoints are triggered by housekeeping, staggered by node.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.log_keep,
        // No more at once than between two checkpoints, or nothing would go in a small log.
        purge_batch_size: config.checkpoint_every.min(1_024),
        enable_pre_vote: Some(true),
        // A leader that restarts must win an election: its state machine is not the leader's yet.
        enable_leader_restore: Some(false),
        ..RaftConfig::default()
    };
    raft.validate().map(Arc::new).map_err(|e| ConfigError {
        setting: "--raft-heartbeat, --election-timeout-min, --election-timeout-max".into(),
        problem: e.to_string(),
    })
}

/// The disk that made the cluster makes its first entry, once.
async fn initialize_if_new(node: &Arc<Node>, running: &Running) -> Result<(), StartError> {
    let stopped = |e: &dyn std::fmt::Display| StartError::Raft(e.to_string());
    if !node.identity().cluster.is_some_and(|cluster| cluster.made_here)
        || running.raft.is_initialized().await.map_err(|e| stopped(&e))?
    {
        return Ok(());
    }
    let members = gather_members(node).await?;
    running.raft.initialize(members).await.map_err(|e| stopped(&e))
}

/// A leader that stops waits until another one is known, so that nobody waits for a timeout.
async fn hand_leadership_on(running: &Running) {
    running.stopping.store(true, Ordering::Relaxed);
    if !hand_over(running).await {
        return;
    }
    let id = running.config.node_id;
    let another = leader_becomes(&running.raft, |leader| leader.is_some_and(|leader| leader != id));
    let deadline = Instant::now() + HAND_OVER_TIMEOUT;
    match timeout_at(deadline, another).await {
        Err(_) => tracing::warn!("no other node took the leadership over"),
        // Who still takes this node for the leader brings requests here, and would find a closed door; so
        // would the next leader, of whom this node hears what became of those that it has.
        Ok(_) => {
            drop(timeout_at(deadline, others_know_another_leader(running)).await);
            drop(timeout_at(deadline, running.leading.proposals_end()).await);
        }
    }
}

/// Returns once no other node that answers takes this one for the leader.
async fn others_know_another_leader(running: &Running) {
    let id = running.config.node_id;
    let question = Hello {
        node: id,
        disk_id: running.identity.disk_id.clone(),
        list: running.config.cluster.clone(),
        member: true,
    };
    for other in running.members().into_keys().filter(|other| *other != id) {
        let Some(link) = running.peers.link(&running.raft, other, Purpose::Status) else {
            continue;
        };
        let known = || link.call::<_, HelloAnswer>(path::HELLO, &question, HAND_OVER_TIMEOUT);
        while known().await.is_ok_and(|answer| answer.leader == Some(id)) {
            sleep(ASK_AGAIN).await;
        }
    }
}
