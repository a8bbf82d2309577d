//! The few questions that a handler may ask of a node.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use roster_storage::command::{Command, Outcome, TooLarge};
use roster_storage::events::{Change, Interest};
use roster_storage::names::{AppName, Incarnation, InstanceKey, NodeId, Revision, SessionId};
use roster_storage::version::Version;

use crate::beats::{BeatsBody, BodyAnswer};

/// A running node, leader or not. Every node answers every question.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Decides a command through the log, forwarding to the leader if that is another node. An
    /// error says whether the command may still take effect; it is never sent twice.
    async fn propose(&self, command: Command) -> Result<Outcome, Unavailable>;

    /// A version of the state to read from, at least `min_revision` new.
    async fn read(
        &self,
        consistency: Consistency,
        min_revision: Option<Revision>,
    ) -> Result<Arc<Version>, Unavailable>;

    /// This node's newest version, to look at while a better one is waited for.
    fn newest(&self) -> Arc<Version>;

    /// Renews sessions. Answers are in the order of `beats`; each `Ok` was confirmed by the leader
    /// after it received the beat (invariant S4).
    async fn heartbeat(&self, beats: Vec<Beat>) -> Result<BeatAnswers, Unavailable>;

    /// Renews whom the body of a `POST /v1/heartbeats` names, which only the leader reads. The
    /// revision is that of [`BeatAnswers`].
    async fn heartbeats(&self, body: BeatsBody) -> Result<(Revision, BodyAnswer), Unavailable>;

    /// What the leader knows of the sessions' last heartbeats, in order; `None` for sessions that
    /// it does not know.
    async fn last_heard(&self, sessions: Vec<SessionId>)
    -> Result<Vec<Option<Heard>>, Unavailable>;

    /// Follows the changes with a revision above `after` that touch `interest`. Waits up to
    /// `patience` for this node to reach `after`.
    async fn follow(
        &self,
        interest: Interest,
        after: Revision,
        patience: Duration,
    ) -> Result<Box<dyn Feed>, NotFollowed>;

    /// One step through what this node keeps of the past.
    async fn past(&self, past: Past) -> Result<PastChanges, Unavailable>;

    /// The ranges of revisions of which this node keeps every change: the first and the last of
    /// each, in order.
    async fn covered(&self) -> Vec<(Revision, Revision)>;

    /// The last revision that was told before a wall time, milliseconds since 1970; 0 if none of
    /// those kept was.
    async fn revision_at(&self, wall_ms: u64) -> Revision;

    /// Does work that takes long where it holds nobody up, and returns when it is done. It ends at
    /// its next pause when this is dropped. An error that promises that nothing was done means that
    /// it was not begun.
    async fn aside(&self, work: BoxFuture<'static, ()>, if_busy: IfBusy)
    -> Result<(), Unavailable>;

    /// For the headers of every answer. Cheap.
    fn glance(&self) -> Glance;

    /// This node alone; works without a leader too.
    fn node(&self) -> NodeStatus;

    /// All that this node counts and measures. Works without a leader and while it loads. Looks at many
    /// things: not for a thread that heartbeats need.
    fn metrics(&self, form: Exposition) -> String;

    /// By what this node, as leader, slows removals down.
    fn brake_settings(&self) -> BrakeSettings;

    /// All nodes as this one sees them; asks the others, briefly.
    async fn cluster(&self) -> ClusterStatus;
}

/// A form in which metrics are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own text, version 0.0.4.
    Text,
}

impl Exposition {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What becomes of work that takes long while too much of it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfBusy {
    /// It waits a little if not many do, else it is [`Unavailable::Overloaded`].
    Refuse,
    /// It waits for its turn, since it is part of an answer that has begun.
    Wait,
}

/// The changes that somebody follows, in order, each once and whole (invariant S10).
#[async_trait]
pub trait Feed: Send {
    /// What comes next, or how far nothing came when `patience` is over.
    async fn next(&mut self, patience: Duration) -> Told;
}

/// What a [`Feed`] tells.
#[derive(Clone, Debug)]
pub enum Told {
    /// In order, each with at least one event of interest. Nothing of interest lies between them or
    /// before them.
    Changes(Vec<Arc<Change>>),
    /// Everything up to this revision was told.
    UpTo(Revision),
    /// The reader was too slow; everything up to this revision was told. The end.
    Lagging(Revision),
    /// What comes next is not kept here any more. The end.
    Compacted { restart_from: Revision },
    /// The node stops; everything up to this revision was told. The end.
    Stopping(Revision),
}

/// Why a node does not tell what came after a revision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFollowed {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Not all that came after it is kept here.
    #[error("not all changes after this revision are kept on this node")]
    Compacted { restart_from: Revision },
    /// The node did not get there in time.
    #[error("this node is at revision {current}, not yet at the one asked for")]
    Ahead { current: Revision },
}

/// What is wanted of the past.
#[derive(Clone, Debug)]
pub struct Past {
    pub interest: Interest,
    /// Exclusive.
    pub after: Revision,
    /// Inclusive.
    pub upto: Revision,
    pub newest_first: bool,
    /// About how many changes to read in one step.
    pub count: usize,
}

/// One step through the past.
#[derive(Clone, Debug)]
pub struct PastChanges {
    /// In the order asked for, each with at least one event of interest; may be none.
    pub changes: Vec<Arc<Change>>,
    /// All that is kept from the start up to this revision was read, or down to it (exclusive) if
    /// the newest came first. It may be where the step began, if what comes next is about to be
    /// written: ask again.
    pub reached: Revision,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// By read index: reflects all that was acknowledged before it was asked (invariant S1).
    Linearizable,
    /// From this node's memory, however old (invariant S3: only who asks for it gets it).
    Stale,
}

impl Consistency {
    pub fn word(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Stale => "stale",
        }
    }
}

/// One sign of life.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Beat {
    pub target: BeatTarget,
    /// A client's own mark, kept by the leader beside the time (Sentinel's `heartbeatVersion`).
    pub mark: Option<i64>,
    /// Of the rings of these apps, the newest epoch whose losses its instances there have carried out:
    /// they have stopped on every key that they do not own under it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<(AppName, Revision)>,
}

impl Beat {
    /// With nothing but the sign of life.
    pub fn of(target: BeatTarget) -> Self {
        Self { target, mark: None, adopted: Vec::new() }
    }
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum BeatTarget {
    Session(SessionId),
    /// The session of an instance; with an incarnation, only if that one lives.
    Instance {
        key: InstanceKey,
        incarnation: Option<Incarnation>,
    },
}

/// What became of beats that came in together.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BeatAnswers {
    /// What the leader had applied, or told anybody to be committed, when it confirmed the beats: at least
    /// as high as any revision that was answered before (invariant S2), wherever the beats came in, and whether
    /// they were refused or not.
    pub revision: Revision,
    /// In the order of the beats.
    pub each: Vec<Result<Renewed, BeatRefused>>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Renewed {
    pub session: SessionId,
    /// As the client is told it: lengthened by the pace that the leader knows of.
    pub ttl_ms: u64,
    /// Of the rings that the beat told adoptions of: the newest epoch that everyone has adopted, so
    /// that who gained keys by then may begin on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settled: Vec<(AppName, Revision)>,
}

/// Why a beat was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum BeatRefused {
    #[error("there is no app {0:?}; register the instance again")]
    UnknownApp(String),
    #[error("there is no such live instance; register it again")]
    UnknownInstance,
    #[error("there is no session {0}; open a new one")]
    UnknownSession(SessionId),
    #[error("incarnation {current} took over; stay away")]
    StaleIncarnation { current: Incarnation },
    /// The leader may already have proposed its removal, or has not taken it up yet; the next try
    /// tells.
    #[error("the session is being opened or ended; try again")]
    Ending,
}

/// The leader's knowledge of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Heard {
    /// Wall clock of the last heartbeat by the leader, milliseconds since 1970. A new leader reports its own
    /// start until the first beat.
    pub wall_ms: u64,
    /// How long ago that was, by the leader's monotonic clock, milliseconds.
    pub ago_ms: u64,
    /// The client's own mark of that beat.
    pub mark: Option<i64>,
}

/// Why a node could not serve. Always 503 or 504, but for [`Unavailable::TooLarge`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Nothing was done.
    #[error("no leader is known or reachable: {0}")]
    NoLeader(String),
    /// Nothing was done. The node is starting, joining or refused to vote.
    #[error("this node does not serve yet: {0}")]
    NotReady(String),
    /// Nothing was done.
    #[error("too much is waiting: {0}")]
    Overloaded(String),
    /// Nothing was done. The disk is nearly full.
    #[error("this node takes no writes: {0}")]
    ReadOnly(String),
    /// The leader changed or the connection broke under way: it may still take effect, once.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// Not in time; for a write the outcome is unknown.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Nothing was done.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl Unavailable {
    /// Whether a write that got this answer certainly did nothing and never will.
    pub fn nothing_was_done(&self) -> bool {
        match self {
            Self::NoLeader(_)
            | Self::NotReady(_)
            | Self::Overloaded(_)
            | Self::ReadOnly(_)
            | Self::TooLarge(_) => true,
            Self::Unknown(_) | Self::Timeout(_) => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    pub node: NodeId,
    pub term: u64,
    pub leader: Option<NodeId>,
    /// The last applied revision.
    pub applied: Revision,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
    /// Not a member yet, or refused to take part.
    Outside,
}

/// One check of `/readyz?verbose`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    /// `Err` says why not.
    pub result: Result<(), String>,
}

#[derive(Clone, Debug)]
pub struct NodeStatus {
    pub id: NodeId,
    pub cluster_id: Option<String>,
    pub role: Role,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub state_hash: u64,
    /// The hashes at the last indexes divisible by 1,024, oldest first.
    pub state_hashes: Vec<(u64, u64)>,
    pub version: &'static str,
    /// What `/readyz` looks at; all must be `Ok` for the node to be ready.
    pub checks: Vec<Check>,
    /// CPU time of this process so far, seconds.
    pub cpu_seconds: f64,
    /// Resident memory of this process, bytes.
    pub memory_bytes: u64,
    /// How far it came with its state, for people, while it loads that after a start.
    pub loading: Option<String>,
}

impl NodeStatus {
    pub fn is_ready(&self) -> bool {
        self.checks.iter().all(|check| check.result.is_ok())
    }
}

#[derive(Clone, Debug)]
pub struct ClusterStatus {
    pub cluster_id: Option<String>,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub nodes: Vec<ClusterNode>,
    pub alarms: Vec<Alarm>,
    /// Live heartbeats that the leader took in the last second; `None` where it could not be asked.
    pub heartbeats_per_second: Option<u64>,
}

/// A member as seen from this node. What its own answer would tell is `None` if it did not answer.
#[derive(Clone, Debug)]
pub struct ClusterNode {
    pub id: NodeId,
    pub api: String,
    pub peer: String,
    pub answer: Option<ClusterNodeAnswer>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ClusterNodeAnswer {
    pub role: Role,
    pub commit: u64,
    pub applied: u64,
    pub state_hash: u64,
    pub version: String,
}

/// When removals slow down since much falls silent at once, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrakeSettings {
    /// More than this share of all instances lost within a window slows all removals down.
    pub share_percent: u64,
    /// The same for the instances of one app.
    pub app_share_percent: u64,
    pub window_ms: u64,
    /// Instances of one app that may be lost within a window without being too much.
    pub exempt: u64,
    /// After so long the last one that was slowed down is gone.
    pub pace_ms: u64,
    /// Instances removed in a second while nothing is slowed down, at most.
    pub rate: u64,
}

impl BrakeSettings {
    /// Instances of all apps together that may be lost within a window.
    pub fn exempt_of_all(&self) -> u64 {
        self.exempt * 3
    }
}

impl Default for BrakeSettings {
    fn default() -> Self {
        Self {
            share_percent: 25,
            app_share_percent: 50,
            window_ms: 60_000,
            exempt: 10,
            pace_ms: 15 * 60_000,
            rate: 10_000,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Alarm {
    pub code: &'static str,
    /// Wall clock, milliseconds since 1970.
    pub since_ms: u64,
    pub detail: String,
}
