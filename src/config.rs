//! Settings: one list, from a TOML file, the environment (`ROSTER_*`) and flags, in rising order.
//! [`Settings::resolve`] checks all of them before any port is bound or any file is written.

pub mod effective;
mod file;
mod nearest;
pub mod variables;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use roster_storage::events::EventLogLimits;
use roster_storage::history::HistoryLimits;
use roster_storage::limits::{SENTINEL_TTL_MS, TTL_MS_MAX, TTL_MS_MIN};
use roster_storage::names::NodeId;
use serde::{Deserialize, Serialize};

use crate::leases::brake::BrakeSettings;
use crate::rebalance::{AFTER_GAIN, AFTER_LOSS, Delays};
use crate::telemetry;
use crate::threads::ThreadCounts;
use crate::watch::WatchLimits;

/// The longest window of the mass-loss brake, and the slowest pace, milliseconds.
const BRAKE_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// What is logged.
pub const LOG: &str = "info";

/// More instances than any cluster has: higher numbers mean the same.
const INSTANCES_MANY: u64 = 1_000_000_000;

/// The largest body of a client. A round to the leader may carry a last one beyond the
/// weight at which it is full, and other nodes take calls of at most twice this.
const BODY_LIMIT_KIB_MAX: usize = 32 * 1024;

/// Bytes of changes that wait for one watcher.
const WATCH_QUEUE_BYTES_MAX: u64 = 4 << 20;

/// Open files that are not for clients: the log, checkpoints, the history, the other nodes, and those
/// clients that are told that there are too many.
const FILES_RESERVED: u64 = 512;

/// A setting is wrong or missing. Always names the setting and says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    pub setting: String,
    pub problem: String,
}

fn wrong(setting: &str, problem: impl fmt::Display) -> ConfigError {
    ConfigError { setting: setting.into(), problem: problem.to_string() }
}

/// What can be set, as given: a setting that is not there is `None`.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// This node's id, a number that is on the --cluster list
    #[arg(long, env = "ROSTER_NODE_ID", value_name = "ID")]
    pub node_id: Option<NodeId>,
    /// Folder for the log, the checkpoints and this node's identity
    #[arg(long, env = "ROSTER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the HTTP API [default: 127.0.0.1:7400]
    #[arg(long, env = "ROSTER_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address for the other nodes [default: 127.0.0.1:7500]
    #[arg(long, env = "ROSTER_PEER_LISTEN", value_name = "ADDR")]
    pub peer_listen: Option<SocketAddr>,
    /// How clients reach this API, HOST:PORT [default: the address of --listen, or the host of this node's entry on the --cluster list]
    #[arg(long, env = "ROSTER_ADVERTISE_API", value_name = "HOST:PORT")]
    pub advertise_api: Option<String>,
    /// How the other nodes reach this one, HOST:PORT [default: its entry on the --cluster list]
    #[arg(long, env = "ROSTER_ADVERTISE_PEER", value_name = "HOST:PORT")]
    pub advertise_peer: Option<String>,
    /// All nodes as ID=HOST:PORT,…: the same list on every node
    #[arg(long, env = "ROSTER_CLUSTER", value_name = "LIST")]
    pub cluster: Option<String>,
    /// Listen on addresses that other machines reach, without authentication
    #[arg(long, env = "ROSTER_ALLOW_UNAUTHENTICATED", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = truth)]
    pub allow_unauthenticated: Option<bool>,
    /// Take this node's place in its cluster with an empty disk: its old disk is given up for good
    #[arg(long, env = "ROSTER_REPLACE_DISK", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = truth)]
    pub replace_disk: Option<bool>,
    /// Period of Raft's own heartbeats [default: 100ms]
    #[arg(long, env = "ROSTER_RAFT_HEARTBEAT", value_name = "DURATION")]
    pub raft_heartbeat: Option<Span>,
    /// Shortest election timeout [default: 400ms]
    #[arg(long, env = "ROSTER_ELECTION_TIMEOUT_MIN", value_name = "DURATION")]
    pub election_timeout_min: Option<Span>,
    /// Longest election timeout, and the leader's lease [default: 500ms]
    #[arg(long, env = "ROSTER_ELECTION_TIMEOUT_MAX", value_name = "DURATION")]
    pub election_timeout_max: Option<Span>,
    /// false: a round to a majority per batch of heartbeats instead of the lease [default: true]
    #[arg(long, env = "ROSTER_LEASE_READS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = truth)]
    pub lease_reads: Option<bool>,
    /// Heartbeat calls per second, over all nodes, above which clients are asked to come less often;
    /// their TTLs are lengthened as much [default: 100000]
    #[arg(long, env = "ROSTER_HEARTBEAT_RATE", value_name = "CALLS")]
    pub heartbeat_rate: Option<u64>,
    /// How long there must be less to do before they are asked to come more often again, by a step
    /// [default: 60s]
    #[arg(long, env = "ROSTER_PACE_CALM", value_name = "DURATION")]
    pub pace_calm: Option<Span>,
    /// Log entries between two checkpoints [default: 100000]
    #[arg(long, env = "ROSTER_CHECKPOINT_EVERY", value_name = "ENTRIES")]
    pub checkpoint_every: Option<u64>,
    /// And so much log at most between two checkpoints, MiB, or as much as the last one took if that is
    /// more [default: 128]
    #[arg(long, env = "ROSTER_CHECKPOINT_EVERY_MIB", value_name = "MIB")]
    pub checkpoint_every_mib: Option<u64>,
    /// Log entries kept behind a checkpoint for slow nodes [default: 10000]
    #[arg(long, env = "ROSTER_LOG_KEEP", value_name = "ENTRIES")]
    pub log_keep: Option<u64>,
    /// Free space on the data folder's disk below which the node takes no writes, MiB [default: 256]
    #[arg(long, env = "ROSTER_DISK_RESERVE_MIB", value_name = "MIB")]
    pub disk_reserve_mib: Option<u64>,
    /// Threads that answer clients [default: half of the cores]
    #[arg(long, env = "ROSTER_WORKERS", value_name = "COUNT")]
    pub workers: Option<u64>,
    /// Threads for Raft and the other nodes, which clients never use; those that write to disk are
    /// apart [default: a quarter of the cores, at most 4]
    #[arg(long, env = "ROSTER_RAFT_WORKERS", value_name = "COUNT")]
    pub raft_workers: Option<u64>,
    /// Threads for searches, long lists and the history; all others come before them [default: a
    /// quarter of the cores]
    #[arg(long, env = "ROSTER_BACKGROUND_WORKERS", value_name = "COUNT")]
    pub background_workers: Option<u64>,
    /// Connections that clients may have to this node; those of the other nodes do not count
    /// [default: 50000, or what the limit of open files leaves]
    #[arg(long, env = "ROSTER_CONNECTIONS", value_name = "COUNT")]
    pub connections: Option<u64>,
    /// Watches and long polls that may be open on this node [default: 20000]
    #[arg(long, env = "ROSTER_WATCHES_MAX", value_name = "COUNT")]
    pub watches_max: Option<u64>,
    /// Changes that wait for one watcher before it must read them from the log [default: 1024]
    #[arg(long, env = "ROSTER_WATCH_QUEUE", value_name = "CHANGES")]
    pub watch_queue: Option<u64>,
    /// Changes kept in memory for watches that resume [default: 65536, least 64]
    #[arg(long, env = "ROSTER_EVENT_LOG", value_name = "CHANGES")]
    pub event_log: Option<u64>,
    /// And so much memory at most, MiB [default: 64]
    #[arg(long, env = "ROSTER_EVENT_LOG_MIB", value_name = "MIB")]
    pub event_log_mib: Option<u64>,
    /// History of all changes kept on disk, MiB; 0 keeps none [default: 512]
    #[arg(long, env = "ROSTER_HISTORY_MIB", value_name = "MIB")]
    pub history_mib: Option<u64>,
    /// And no longer than this [default: 7d]
    #[arg(long, env = "ROSTER_HISTORY_AGE", value_name = "DURATION")]
    pub history_age: Option<Span>,
    /// How long losses of workers are gathered before their shards are planned anew [default: 200ms]
    #[arg(long, env = "ROSTER_REBALANCE_AFTER_LOSS", value_name = "DURATION")]
    pub rebalance_after_loss: Option<Span>,
    /// The same for new workers and shards [default: 1s]
    #[arg(long, env = "ROSTER_REBALANCE_AFTER_GAIN", value_name = "DURATION")]
    pub rebalance_after_gain: Option<Span>,
    /// Mass loss: removals slow down when more of all instances than this would expire within a
    /// window, percent [default: 25]
    #[arg(long, env = "ROSTER_BRAKE_SHARE", value_name = "PERCENT")]
    pub brake_share: Option<u64>,
    /// The same for the instances of one app [default: 50]
    #[arg(long, env = "ROSTER_BRAKE_APP_SHARE", value_name = "PERCENT")]
    pub brake_app_share: Option<u64>,
    /// Losses within so long count together [default: 60s]
    #[arg(long, env = "ROSTER_BRAKE_WINDOW", value_name = "DURATION")]
    pub brake_window: Option<Span>,
    /// Losses of an app never slow down up to so many instances; three times as many of all
    /// [default: 10]
    #[arg(long, env = "ROSTER_BRAKE_EXEMPT", value_name = "INSTANCES")]
    pub brake_exempt: Option<u64>,
    /// Slowed down, all that fell silent is removed within so long [default: 15m]
    #[arg(long, env = "ROSTER_BRAKE_PACE", value_name = "DURATION")]
    pub brake_pace: Option<Span>,
    /// Most instances removed in a second while nothing is slowed down [default: 10000]
    #[arg(long, env = "ROSTER_EXPIRY_RATE", value_name = "INSTANCES")]
    pub expiry_rate: Option<u64>,
    /// How long a request may take before it is answered 503 or 504 [default: 5s]
    #[arg(long, env = "ROSTER_REQUEST_TIMEOUT", value_name = "DURATION")]
    pub request_timeout: Option<Span>,
    /// Largest request body, KiB [default: 4096]
    #[arg(long, env = "ROSTER_BODY_LIMIT_KIB", value_name = "KIB")]
    pub body_limit_kib: Option<usize>,
    /// Log level or filter, such as info or roster=debug [default: info]
    #[arg(long, env = "ROSTER_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Form of the log lines [default: text]
    #[arg(long, env = "ROSTER_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Sentinel: a machine is removed so long after its last beat [default: 60s]
    #[arg(long, env = "ROSTER_SENTINEL_TTL", value_name = "DURATION")]
    pub sentinel_ttl: Option<Span>,
    /// Sentinel: a machine is unhealthy after so long without a beat [default: 60s, least 30s]
    #[arg(long, env = "ROSTER_SENTINEL_UNHEALTHY", value_name = "DURATION")]
    pub sentinel_unhealthy: Option<Span>,
    /// Sentinel: a machine is shown as dead after so long [default: never, least 5m]
    #[arg(long, env = "ROSTER_SENTINEL_DEAD", value_name = "DURATION")]
    pub sentinel_dead: Option<Span>,
    /// Sentinel: hide an app without healthy machines after so long [default: never, least 1m]
    #[arg(long, env = "ROSTER_SENTINEL_HIDE_APP", value_name = "DURATION")]
    pub sentinel_hide_app: Option<Span>,
    /// Sentinel: an app without healthy machines is dead after so long [default: never, least 2m]
    #[arg(long, env = "ROSTER_SENTINEL_REMOVE_APP", value_name = "DURATION")]
    pub sentinel_remove_app: Option<Span>,
}

/// A flag's or a variable's; a file has TOML's own `true` and `false` alone.
fn truth(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("write true or false, 1 or 0, yes or no".into()),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// A duration as text: `500ms`, `10s`, `5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl From<Span> for String {
    fn from(span: Span) -> Self {
        // `7days` for people, `7d` for files.
        humantime::format_duration(span.0).to_string().replace("days", "d").replace("day", "d")
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|_| format!("{text:?} is not a duration such as 500ms, 10s or 5m"))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Every setting, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_id: NodeId,
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub peer_listen: SocketAddr,
    pub advertise_api: String,
    pub advertise_peer: String,
    pub cluster: ClusterList,
    pub replace_disk: bool,
    pub timings: Timings,
    pub rebalance: Delays,
    pub brake: BrakeSettings,
    pub lease_reads: bool,
    /// Calls per second, over all nodes.
    pub heartbeat_rate: u64,
    pub pace_calm: Duration,
    pub checkpoint_every: u64,
    pub checkpoint_every_bytes: u64,
    pub threads: ThreadCounts,
    /// Of clients.
    pub connections_max: usize,
    pub watch: WatchLimits,
    /// `None`: none is kept.
    pub history: Option<HistoryLimits>,
    pub log_keep: u64,
    pub disk_reserve_bytes: u64,
    pub request_timeout: Duration,
    pub body_limit: usize,
    pub sentinel: roster_api::SentinelSettings,
}

impl Config {
    /// How many nodes of the list come before this one: what all nodes do at times, each does so
    /// much later than the first.
    pub fn place(&self) -> u64 {
        self.cluster.0.keys().filter(|id| **id < self.node_id).count() as u64
    }
}

/// Raft's timings. The leader's lease is `election_max`: no vote is granted against a leader that
/// was heard within it, so the outage after a leader's death is at least that long.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
}

/// The nodes that make the cluster at its first start: id and peer address of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterList(pub BTreeMap<NodeId, String>);

impl ClusterList {
    /// The node that makes the cluster.
    pub fn lowest(&self) -> Option<NodeId> {
        self.0.keys().next().copied()
    }
}

impl fmt::Display for ClusterList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<_> = self.0.iter().map(|(id, peer)| format!("{id}={peer}")).collect();
        f.write_str(&entries.join(","))
    }
}

impl FromStr for ClusterList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut nodes = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let (id, address) =
                entry.split_once('=').ok_or_else(|| format!("{entry:?} is not ID=HOST:PORT"))?;
            let id =
                id.trim().parse().map_err(|_| format!("{id:?} is not a node id (a number)"))?;
            let address = host_and_port(address.trim())?;
            if nodes.insert(id, address).is_some() {
                return Err(format!("node {id} is on the list twice"));
            }
        }
        let mut addresses: Vec<_> = nodes.values().collect();
        addresses.sort();
        if let Some(pair) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("{} is on the list twice; each node needs its own", pair[0]));
        }
        match nodes.len() {
            0 => Err("the list is empty; write 1=HOST:7500,2=HOST:7500,3=HOST:7500".into()),
            _ => Ok(Self(nodes)),
        }
    }
}

fn host_and_port(text: &str) -> Result<String, String> {
    let problem = || format!("{text:?} is not HOST:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
    let port: u16 = port.parse().map_err(|_| problem())?;
    if host.is_empty() || port == 0 || host.contains(['/', ' ', ',']) {
        return Err(problem());
    }
    Ok(text.into())
}

impl Settings {
    /// These settings, and those of `below` where they say nothing.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        macro_rules! first_of {
            ($($field:ident),* $(,)?) => { Self { $($field: self.$field.or(below.$field)),* } };
        }
        first_of!(
            node_id,
            data_dir,
            listen,
            peer_listen,
            advertise_api,
            advertise_peer,
            cluster,
            allow_unauthenticated,
            replace_disk,
            raft_heartbeat,
            election_timeout_min,
            election_timeout_max,
            lease_reads,
            heartbeat_rate,
            pace_calm,
            checkpoint_every,
            checkpoint_every_mib,
            log_keep,
            workers,
            raft_workers,
            background_workers,
            connections,
            watches_max,
            watch_queue,
            event_log,
            event_log_mib,
            history_mib,
            history_age,
            disk_reserve_mib,
            rebalance_after_loss,
            rebalance_after_gain,
            brake_share,
            brake_app_share,
            brake_window,
            brake_exempt,
            brake_pace,
            expiry_rate,
            request_timeout,
            body_limit_kib,
            log,
            log_format,
            sentinel_ttl,
            sentinel_unhealthy,
            sentinel_dead,
            sentinel_hide_app,
            sentinel_remove_app,
        )
    }

    /// Completes and checks everything.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        telemetry::filter(self.log.as_deref().unwrap_or(LOG))?;
        let node_id = self.node_id.ok_or_else(|| {
            wrong("--node-id", "is missing; give this node's number on the --cluster list")
        })?;
        let data_dir = self
            .data_dir
            .ok_or_else(|| wrong("--data-dir", "is missing; name a folder for this node's data"))?;
        let listen = self.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7400)));
        let peer_listen = self.peer_listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7500)));
        let allowed = self.allow_unauthenticated.unwrap_or(false);
        exposed("--listen", listen.ip(), allowed)?;
        exposed("--peer-listen", peer_listen.ip(), allowed)?;
        let cluster = self.cluster.ok_or_else(|| {
            wrong("--cluster", "is missing; write all nodes as 1=HOST:7500,2=HOST:7500,3=HOST:7500")
        })?;
        let cluster: ClusterList = cluster.parse().map_err(|e| wrong("--cluster", e))?;
        let entry = cluster.0.get(&node_id).ok_or_else(|| {
            wrong("--cluster", format!("node {node_id} (--node-id) is not on the list"))
        })?;
        let advertise_peer = match self.advertise_peer {
            Some(peer) => host_and_port(&peer).map_err(|e| wrong("--advertise-peer", e))?,
            None => entry.clone(),
        };
        let advertise_api = match self.advertise_api {
            Some(api) => host_and_port(&api).map_err(|e| wrong("--advertise-api", e))?,
            None => reachable(listen, &advertise_peer),
        };
        Ok(Config {
            node_id,
            data_dir,
            listen,
            peer_listen,
            advertise_api,
            advertise_peer,
            cluster,
            replace_disk: self.replace_disk.unwrap_or(false),
            timings: timings(
                self.raft_heartbeat,
                self.election_timeout_min,
                self.election_timeout_max,
            )?,
            rebalance: rebalance(self.rebalance_after_loss, self.rebalance_after_gain)?,
            brake: BrakeSettings {
                share_percent: percent("--brake-share", self.brake_share, 25)?,
                app_share_percent: percent("--brake-app-share", self.brake_app_share, 50)?,
                window_ms: brake_span("--brake-window", self.brake_window, 60)?,
                exempt: self.brake_exempt.unwrap_or(10).min(INSTANCES_MANY),
                pace_ms: brake_span("--brake-pace", self.brake_pace, 15 * 60)?,
                rate: at_least("--expiry-rate", self.expiry_rate, 10_000, 1)?.min(INSTANCES_MANY),
            },
            lease_reads: self.lease_reads.unwrap_or(true),
            heartbeat_rate: at_least("--heartbeat-rate", self.heartbeat_rate, 100_000, 1)?
                .min(INSTANCES_MANY),
            pace_calm: pace_calm(self.pace_calm)?,
            checkpoint_every: at_least("--checkpoint-every", self.checkpoint_every, 100_000, 10)?,
            checkpoint_every_bytes: at_least(
                "--checkpoint-every-mib",
                self.checkpoint_every_mib,
                128,
                1,
            )? << 20,
            log_keep: self.log_keep.unwrap_or(10_000),
            threads: ThreadCounts {
                core: count("--raft-workers", self.raft_workers, cores(4).min(4), 1)?,
                clients: count("--workers", self.workers, cores(2), 1)?,
                background: count("--background-workers", self.background_workers, cores(4), 1)?,
            },
            connections_max: connections(self.connections, crate::process::file_limit())?,
            history: history(self.history_mib, self.history_age),
            watch: WatchLimits {
                followers_max: count("--watches-max", self.watches_max, 20_000, 1)?,
                queue_changes_max: count("--watch-queue", self.watch_queue, 1_024, 1)?,
                queue_bytes_max: WATCH_QUEUE_BYTES_MAX,
                log: EventLogLimits {
                    changes_max: count("--event-log", self.event_log, 65_536, 64)?,
                    bytes_max: at_least("--event-log-mib", self.event_log_mib, 64, 1)? << 20,
                },
            },
            disk_reserve_bytes: self.disk_reserve_mib.unwrap_or(256) << 20,
            request_timeout: request_timeout(self.request_timeout)?,
            body_limit: body_limit(self.body_limit_kib)?,
            sentinel: roster_api::SentinelSettings::new(
                millis(self.sentinel_unhealthy),
                millis(self.sentinel_dead),
                millis(self.sentinel_hide_app),
                millis(self.sentinel_remove_app),
            )
            .with_ttl(sentinel_ttl(self.sentinel_ttl)?),
        })
    }
}

/// Until there is authentication, only who says so listens beyond this machine.
fn exposed(setting: &str, ip: IpAddr, allowed: bool) -> Result<(), ConfigError> {
    if ip.is_loopback() || allowed {
        return Ok(());
    }
    Err(wrong(
        setting,
        format!(
            "{ip} can be reached from other machines and there is no authentication yet; add \
             --allow-unauthenticated if the network is trusted, or use a loopback address"
        ),
    ))
}

/// The API's address for clients: an address that stands for all of the machine's is no use to them,
/// so the host that the other nodes use takes its place.
fn reachable(listen: SocketAddr, advertise_peer: &str) -> String {
    match advertise_peer.rsplit_once(':') {
        Some((host, _)) if listen.ip().is_unspecified() => format!("{host}:{}", listen.port()),
        Some(_) | None => listen.to_string(),
    }
}

/// Sentinel's own form: 0 stands for its default.
fn millis(span: Option<Span>) -> i64 {
    span.map_or(0, |span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX))
}

fn sentinel_ttl(given: Option<Span>) -> Result<u64, ConfigError> {
    let ms = given.map_or(u128::from(SENTINEL_TTL_MS), |span| span.0.as_millis());
    match u64::try_from(ms) {
        Ok(ms) if (TTL_MS_MIN..=TTL_MS_MAX).contains(&ms) => Ok(ms),
        Ok(_) | Err(_) => Err(wrong("--sentinel-ttl", "must be between 1s and 24h")),
    }
}

fn timings(
    heartbeat: Option<Span>,
    min: Option<Span>,
    max: Option<Span>,
) -> Result<Timings, ConfigError> {
    let or = |span: Option<Span>, ms| span.map_or(Duration::from_millis(ms), |s| s.0);
    let timings = Timings {
        heartbeat: or(heartbeat, 100),
        election_min: or(min, 400),
        election_max: or(max, 500),
    };
    if timings.heartbeat < Duration::from_millis(5) {
        return Err(wrong("--raft-heartbeat", "must be at least 5ms"));
    }
    if timings.election_min < timings.heartbeat * 2 {
        return Err(wrong("--election-timeout-min", "must be at least twice --raft-heartbeat"));
    }
    if timings.election_max <= timings.election_min {
        return Err(wrong("--election-timeout-max", "must be above --election-timeout-min"));
    }
    Ok(timings)
}

fn rebalance(loss: Option<Span>, gain: Option<Span>) -> Result<Delays, ConfigError> {
    let after_gain = gain.map_or(AFTER_GAIN, |span| span.0);
    let after_loss = loss.map_or(AFTER_LOSS.min(after_gain), |span| span.0);
    if after_loss > after_gain {
        return Err(wrong("--rebalance-after-loss", "must not be above --rebalance-after-gain"));
    }
    Ok(Delays { after_loss, after_gain })
}

/// 100 never brakes: no more than all can be lost.
fn percent(setting: &str, given: Option<u64>, default: u64) -> Result<u64, ConfigError> {
    let value = at_least(setting, given, default, 1)?;
    if value > 100 {
        return Err(wrong(setting, format!("{value} is too high; a share is at most 100 percent")));
    }
    Ok(value)
}

fn brake_span(setting: &str, given: Option<Span>, seconds: u64) -> Result<u64, ConfigError> {
    let span = given.map_or(Duration::from_secs(seconds), |span| span.0);
    match u64::try_from(span.as_millis()) {
        Ok(ms) if (1_000..=BRAKE_MS_MAX).contains(&ms) => Ok(ms),
        Ok(_) | Err(_) => Err(wrong(setting, "must be between 1s and 24h")),
    }
}

fn pace_calm(given: Option<Span>) -> Result<Duration, ConfigError> {
    let calm = given.map_or(Duration::from_secs(60), |span| span.0);
    if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&calm) {
        return Err(wrong("--pace-calm", "must be between 1s and 1h"));
    }
    Ok(calm)
}

/// What was gathered goes on to the leader in one call, whose body the other nodes bound too.
fn body_limit(given: Option<usize>) -> Result<usize, ConfigError> {
    let kib = given.unwrap_or(4096).max(1);
    if kib > BODY_LIMIT_KIB_MAX {
        let why = format!("{kib} is too high; the most is {BODY_LIMIT_KIB_MAX}");
        return Err(wrong("--body-limit-kib", why));
    }
    Ok(kib << 10)
}

fn request_timeout(given: Option<Span>) -> Result<Duration, ConfigError> {
    let timeout = given.map_or(Duration::from_secs(5), |s| s.0);
    if timeout < Duration::from_millis(100) {
        return Err(wrong("--request-timeout", "must be at least 100ms"));
    }
    Ok(timeout)
}

/// This share of the cores, at least one. On few cores more threads wake each other more than they
/// do: with three nodes on two cores, one each for all requests takes a quarter less CPU time per
/// registration than two each.
fn cores(share: u64) -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores as u64 / share).max(1)
}

/// Those of clients must leave files to the log, the history and the other nodes.
fn connections(given: Option<u64>, files: Option<u64>) -> Result<usize, ConfigError> {
    const DEFAULT: u64 = 50_000;
    let setting = "--connections";
    let possible = files.map_or(u64::MAX, |files| files.saturating_sub(FILES_RESERVED).max(1));
    if let Some(given) = given.filter(|given| *given > possible) {
        return Err(wrong(
            setting,
            format!(
                "{given} is too high: this process may open {} files and keeps {FILES_RESERVED} for \
                 itself; take at most {possible}, or raise the limit (ulimit -n)",
                files.unwrap_or_default()
            ),
        ));
    }
    count(setting, given, DEFAULT.min(possible), 1)
}

fn history(mib: Option<u64>, age: Option<Span>) -> Option<HistoryLimits> {
    let bytes_max = mib.unwrap_or(512) << 20;
    let age = age.map_or(Duration::from_secs(7 * 24 * 3600), |age| age.0);
    let age_max_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    (bytes_max > 0).then_some(HistoryLimits { bytes_max, age_max_ms })
}

fn count(
    setting: &str,
    given: Option<u64>,
    default: u64,
    least: u64,
) -> Result<usize, ConfigError> {
    let value = at_least(setting, given, default, least)?;
    usize::try_from(value).map_err(|_| wrong(setting, format!("{value} is too high")))
}

fn at_least(
    setting: &str,
    given: Option<u64>,
    default: u64,
    least: u64,
) -> Result<u64, ConfigError> {
    let value = given.unwrap_or(default);
    if value < least {
        return Err(wrong(setting, format!("{value} is too low; the least is {least}")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Settings {
        Settings {
            node_id: Some(1),
            data_dir: Some("data".into()),
            cluster: Some("1=one:7500,2=two:7500,3=three:7500".into()),
            ..Settings::default()
        }
    }

    #[test]
    fn a_number_that_stands_for_no_limit_is_one_that_can_be_counted_with() {
        let settings = Settings { heartbeat_rate: Some(u64::MAX), ..given() };
        let rate = settings.resolve().expect("complete").heartbeat_rate;
        assert!(rate.checked_mul(1_000).is_some(), "{rate}");
    }

    #[test]
    fn a_body_that_other_nodes_would_refuse_is_refused_by_the_settings() {
        let with = |kib| Settings { body_limit_kib: Some(kib), ..given() }.resolve();
        assert_eq!(with(BODY_LIMIT_KIB_MAX).expect("it fits").body_limit, 32 << 20);
        for too_much in [BODY_LIMIT_KIB_MAX + 1, usize::MAX] {
            let error = with(too_much).expect_err("it does not fit").to_string();
            assert!(error.contains("--body-limit-kib") && error.contains("32768"), "{error}");
        }
    }
}
