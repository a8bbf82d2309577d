//! What a node does as leader, for itself and for the followers that forward to it. Each of these
//! first makes sure that it leads; if not, it says so and has done nothing.

mod round;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardReason, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::raft::ReadPolicy;
use openraft::raft::linearizable_read::{Linearizer, LinearizerOption};
use parking_lot::Mutex;
use roster_api::registry::{Beat, BeatAnswers, Heard};
use roster_storage::command::{Command, EncodedCommand, Proposal, Stamp};
use roster_storage::names::{NodeId, Revision, SessionId};
use roster_storage::raft_types::{LogId, TypeConfig, alias};
use roster_storage::version::Published;
use round::Round;
use tokio::task::yield_now;
use tokio_util::task::TaskTracker;

use crate::disk_guard::DiskGuard;
use crate::forward::not_gathered;
use crate::gather::{Gatherer, Rounds};
use crate::leases::Leases;
use crate::raft::Raft;
use crate::raft::network::CommitsTold;
use crate::raft::rpc::{
    BeatsAnswer, BeatsAsked, BeatsTold, HeartbeatsAnswer, LastHeardAnswer, NotAppended, Proposed,
    ReadIndex,
};

/// Read indexes: all that wait share one; a second one lets reads that came during the first go ahead
/// without waiting for it.
const READS: Rounds =
    Rounds { at_once: 2, bytes: 8 << 20, pause: Duration::ZERO, waiting_max: usize::MAX };

/// What becomes of a command that a leader submitted.
pub type Submitted =
    alias::OneshotReceiverOf<TypeConfig, openraft::raft::ClientWriteResult<TypeConfig>>;

/// A leadership, confirmed at some moment after it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    pub term: u64,
    /// All that was committed at that moment has this revision or a lower one.
    pub revision: Revision,
}

pub struct Leading {
    raft: Raft,
    published: Published,
    leases: Arc<Leases>,
    disk: Arc<DiskGuard>,
    cluster_clock: ClusterClock,
    read_rounds: Gatherer<(), Result<LogId, String>>,
    /// The age up to which a majority's acknowledgement confirms heartbeats.
    confirm_within: Duration,
    /// What Raft last said of this node, and of who acknowledged it.
    server: alias::WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    data: alias::WatchReceiverOf<TypeConfig, RaftDataMetrics<TypeConfig>>,
    commits_told: CommitsTold,
    /// Proposals of which it is not known yet what becomes of them.
    proposing: TaskTracker,
    /// How often this node began to hand its leadership to another one.
    handovers: AtomicU64,
    /// How many of them were over when its last leadership began.
    handovers_over: AtomicU64,
    lease: Duration,
}

impl Leading {
    pub fn new(
        raft: Raft,
        published: Published,
        leases: Arc<Leases>,
        disk: Arc<DiskGuard>,
        commits_told: CommitsTold,
        lease: Duration,
        lease_reads: bool,
    ) -> Self {
        let reader = raft.clone();
        let read_rounds = Gatherer::start(READS, move |asked: Vec<()>, _| {
            let reader = reader.clone();
            async move {
                let answer = reader
                    .get_read_linearizer(ReadPolicy::ReadIndex)
                    .await
                    .map(|linearizer| *linearizer.read_log_id().log_id())
                    .map_err(|e| not_confirmed(&reader, e, lease));
                vec![answer; asked.len()]
            }
        });
        Self {
            server: raft.server_metrics(),
            data: raft.data_metrics(),
            commits_told,
            proposing: TaskTracker::new(),
            handovers: AtomicU64::new(0),
            handovers_over: AtomicU64::new(0),
            raft,
            published,
            leases,
            disk,
            cluster_clock: ClusterClock::default(),
            read_rounds,
            confirm_within: if lease_reads { lease / 2 } else { Duration::ZERO },
            lease,
        }
    }

    /// The term that this node leads, if it does. The stored vote alone does not tell: after a
    /// restart it may still name this node, which starts as a follower.
    pub fn term(&self) -> Option<u64> {
        leading_term(&self.raft)
    }

    /// The times for a command proposed now.
    pub fn stamp(&self) -> Option<Stamp> {
        let term = self.term()?;
        let applied_ms = self.published.load().catalog.clock().cluster_ms;
        Some(Stamp { cluster_ms: self.cluster_clock.now(term, applied_ms), wall_ms: wall_ms() })
    }

    /// Appends the commands in order and waits for what becomes of each.
    pub async fn propose(&self, commands: Vec<EncodedCommand>) -> Vec<Proposed> {
        self.proposing.track_future(self.propose_now(commands)).await
    }

    /// Waits until all is answered that was proposed here. Of what a leader appended before it handed the
    /// leadership on, it hears from the next one.
    pub async fn proposals_end(&self) {
        self.proposing.close();
        self.proposing.wait().await;
    }

    async fn propose_now(&self, commands: Vec<EncodedCommand>) -> Vec<Proposed> {
        let count = commands.len();
        let none = |why: NotAppended| vec![Proposed::NotAppended(why); count];
        let Some(stamp) = self.stamp() else {
            return none(NotAppended::NotLeader(self.raft.current_leader().await));
        };
        if let Err(why) = self.disk.writable() {
            return none(NotAppended::ReadOnly(why));
        }
        let proposals = commands.into_iter().map(|command| Proposal { stamp, command });
        let mut results = match self.raft.client_write_many(proposals).await {
            Ok(results) => results,
            Err(fatal) => return vec![raft_stopped(&fatal); count],
        };
        let mut proposed = Vec::with_capacity(count);
        while let Some(result) = results.next().await {
            proposed.push(match result {
                Ok(Ok(written)) => Proposed::Decided(written.response),
                Ok(Err(error)) => not_written(*self.raft.node_id(), error),
                Err(fatal) => raft_stopped(&fatal),
            });
        }
        proposed.resize(count, Proposed::Unknown("this node is stopping".into()));
        proposed
    }

    /// Whether the disk takes entries: else [`Self::submit`] appends nothing.
    pub fn may_propose(&self) -> bool {
        self.disk.writable().is_ok()
    }

    /// Proposes a command of this leader's own under this very term, never forwarded (invariant S5).
    /// `None` if it certainly was not appended.
    pub async fn submit(&self, term: u64, command: &Command) -> Option<Submitted> {
        let stamp = self.stamp()?;
        self.disk.writable().ok()?;
        let command = EncodedCommand::new(command)
            .inspect_err(|e| tracing::error!("an entry of the leader's own is too large: {e}"))
            .ok()?;
        let (responder, answer) = ProgressResponder::complete_only();
        let leader = alias::CommittedLeaderIdOf::<TypeConfig>::new(term);
        let submitted = self
            .raft
            .write(Proposal { stamp, command })
            .with_leader(leader)
            .responder(responder)
            .await;
        match submitted {
            Ok(()) => Some(answer),
            Err(fatal) => {
                tracing::error!("Raft stopped: {fatal}");
                None
            }
        }
    }

    /// A log id such that a state that has applied it reflects all that was acknowledged before
    /// this was asked. Confirmed by a majority, never by the lease; shared by all who ask together.
    pub async fn read_index(&self) -> ReadIndex {
        // A round takes a lease at most; whoever waits for longer has asked elsewhere by then.
        let deadline = tokio::time::Instant::now() + self.lease * 2;
        match self.read_rounds.ask((), 0, deadline).await {
            Ok(Ok(log_id)) => ReadIndex::At(log_id),
            Ok(Err(why)) => ReadIndex::NotLeader(why),
            Err(why) => ReadIndex::NotLeader(not_gathered(why).to_string()),
        }
    }

    /// Confirms that this node leads *now*, and in which term. Whatever was received before this was
    /// called may be acknowledged once it returns.
    pub async fn confirm(&self) -> Result<Confirmed, String> {
        let option =
            LinearizerOption::new(Some(self.confirm_within), true).with_wait_timeout(self.lease);
        let linearizer = self.raft.get_read_linearizer(option).await;
        let linearizer = linearizer.map_err(|e| not_confirmed(&self.raft, e, self.lease))?;
        let read = linearizer.read_log_id();
        Ok(Confirmed { term: read.committed_leader_id().term, revision: Revision(read.index()) })
    }

    /// A read index of a new leadership, to be applied before its lease table opens.
    pub async fn first_read_index(&self) -> Result<Linearizer<TypeConfig>, String> {
        let handovers = self.handovers.load(Ordering::Acquire);
        let linearizer = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
        let linearizer = linearizer.map_err(|e| not_confirmed(&self.raft, e, self.lease))?;
        // Raft takes things up in their order, and answers none while it hands a leadership on.
        self.handovers_over.store(handovers, Ordering::Release);
        Ok(linearizer)
    }

    /// How this node is heard as a leader.
    pub fn hearing(&self) -> Hearing {
        Hearing::of(&self.raft, self.lease)
    }

    /// Whether a majority acknowledged this node as leader at most a lease ago. A leader that is not
    /// heard does not step down by itself: it takes no reads and no heartbeats, and nothing it
    /// appends is committed.
    pub fn is_heard(&self) -> bool {
        let metrics = self.raft.metrics();
        let acked = metrics.borrow_watched().last_quorum_acked;
        acked.is_some_and(|acked| acked.elapsed() < self.lease) || self.hearing().is_majority()
    }

    /// Receive, confirm, renew, answer, in that order (invariant S4). They came in at the node `via`.
    pub async fn beats(&self, asked: &[BeatsAsked], via: NodeId) -> BeatsAnswer {
        let (revision, round) = match self.confirmed_round(via).await {
            Ok(confirmed) => confirmed,
            Err(why) => return BeatsAnswer::NotLeader(why),
        };
        let mut told = Vec::with_capacity(asked.len());
        let mut ones = 0;
        for asked in asked {
            told.push(match asked {
                BeatsAsked::One(beat) => {
                    ones += 1;
                    BeatsTold::One(round.renew(beat))
                }
                BeatsAsked::Many(beats) => BeatsTold::Many(round.renew_all(beats)),
                BeatsAsked::Body(body) => {
                    // Up to some thousands: the other tasks of this node have their turn between.
                    yield_now().await;
                    BeatsTold::Body(round.renew_body(body))
                }
            });
        }
        self.leases.count_heartbeats(ones);
        BeatsAnswer::Confirmed(revision, told)
    }

    /// As [`Leading::beats`] for a single one, if the leadership is confirmed already; else it is to be
    /// asked for.
    pub fn beat_at_once(&self, beat: &Beat, via: NodeId) -> Option<(Revision, BeatsTold)> {
        let (revision, round) = self.round_at_once(via)?;
        self.leases.count_heartbeats(1);
        Some((revision, BeatsTold::One(round.renew(beat))))
    }

    /// As nodes of earlier versions ask.
    pub async fn heartbeats(&self, beats: &[Beat], via: NodeId) -> HeartbeatsAnswer {
        match self.confirmed_round(via).await {
            Ok((revision, round)) => {
                let each = round.renew_all(beats);
                HeartbeatsAnswer::Confirmed(BeatAnswers { revision, each })
            }
            Err(why) => HeartbeatsAnswer::NotLeader(why),
        }
    }

    /// Confirms that this node leads and may renew what was received before; `Err` says why it may
    /// not. The revision is that of [`BeatAnswers`].
    async fn confirmed_round(&self, via: NodeId) -> Result<(Revision, Round<'_>), String> {
        if let Some(round) = self.round_at_once(via) {
            return Ok(round);
        }
        let confirmed = self.confirm().await?;
        // Its client knows of it from now on, which none that is confirmed at once may fall behind.
        self.commits_told.tell(confirmed.revision);
        let table = self.leases.table().filter(|table| table.term() == confirmed.term);
        let table = table.ok_or("the new leader is not ready yet")?;
        let version = self.published.load();
        // What a refusal is based on may be newer than what was confirmed.
        let revision = confirmed.revision.max(version.revision());
        let now = self.leases.clock.now();
        Ok((revision, Round { leases: &self.leases, table, version, via, now }))
    }

    /// As [`Self::confirmed_round`], where what Raft said last is enough. The revision is as high as any
    /// that was answered before: others answer what this node told them to be committed, this one what it
    /// applied or what its other heartbeats were told.
    fn round_at_once(&self, via: NodeId) -> Option<(Revision, Round<'_>)> {
        let term = self.standing().confirmed_within(self.confirm_within)?;
        let table = self.leases.table().filter(|table| table.term() == term)?;
        let version = self.published.load();
        let revision = self.commits_told.highest().max(version.revision());
        let now = self.leases.clock.now();
        Some((revision, Round { leases: &self.leases, table, version, via, now }))
    }

    fn standing(&self) -> Standing {
        let acked = self.data.borrow_watched().last_quorum_acked;
        Standing {
            leads: term_led(&self.server.borrow_watched()),
            has_its_lease: self.handovers.load(Ordering::Acquire)
                == self.handovers_over.load(Ordering::Acquire),
            acked_ago: acked.map(|acked| acked.elapsed()),
        }
    }

    /// Hands the leadership to another node. From then on the lease that others gave this one confirms
    /// nothing: the other one need not wait for its end.
    pub async fn hand_to(&self, target: NodeId) {
        self.handovers.fetch_add(1, Ordering::AcqRel);
        if let Err(fatal) = self.raft.trigger().transfer_leader(target).await {
            tracing::error!("Raft stopped: {fatal}");
        }
    }

    /// What this leader knows of the sessions' last heartbeats; for display, so not confirmed.
    pub async fn last_heard(&self, sessions: &[SessionId]) -> LastHeardAnswer {
        let Some(table) = self.leases.table() else {
            return LastHeardAnswer::NotLeader("this node does not lead".into());
        };
        let (now, wall_ms) = (self.leases.clock.now(), wall_ms());
        let heard = |session: &SessionId| {
            let heard = table.last_heard(*session, now)?;
            Some(Heard {
                wall_ms: wall_ms.saturating_sub(heard.ago_ms),
                ago_ms: heard.ago_ms,
                mark: heard.mark,
            })
        };
        LastHeardAnswer::Known(sessions.iter().map(heard).collect())
    }
}

/// What Raft said last of this node. That may be of a moment ago.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// The term.
    leads: Option<u64>,
    /// Whether it kept the leadership to itself since that began.
    has_its_lease: bool,
    /// Since when a majority follows it, at least.
    acked_ago: Option<Duration>,
}

impl Standing {
    /// The term in which this node leads now, if that is certain without a turn of Raft's core. It may
    /// lead no more, but no other node leads as long as the lease lasts that a majority gave it, unless it
    /// handed the leadership on: the other one does not wait for that lease to end.
    fn confirmed_within(self, limit: Duration) -> Option<u64> {
        let term = self.leads.filter(|_| self.has_its_lease)?;
        self.acked_ago.is_some_and(|ago| ago < limit).then_some(term)
    }
}

fn raft_stopped(fatal: &Fatal<TypeConfig>) -> Proposed {
    Proposed::Unknown(format!("Raft stopped on the leader: {fatal}"))
}

/// `own`: the node that was to append it.
fn not_written(own: NodeId, error: ClientWriteError<TypeConfig>) -> Proposed {
    match error {
        ClientWriteError::ForwardToLeader(to) => {
            let leader = match to.reason {
                // Nobody else is known to lead: no majority hears this one.
                ForwardReason::LeaseExpired => Some(own),
                ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => to.leader_id,
            };
            Proposed::NotAppended(NotAppended::NotLeader(leader))
        }
        ClientWriteError::LogEntryDiscarded(_) => Proposed::Unknown(
            "another leader began before a majority had it; that one may still carry it out".into(),
        ),
        // These are of membership changes, which are no proposals.
        other @ (ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_)) => Proposed::Unknown(other.to_string()),
    }
}

/// By whom a leader is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hearing {
    /// The leader.
    node: NodeId,
    /// The voters that acknowledged it at most a lease ago, itself among them.
    heard_by: BTreeSet<NodeId>,
    /// One set of voters; two while they are being changed.
    voters: Vec<BTreeSet<NodeId>>,
    /// How long ago a majority acknowledged it; `None` if none has in this leadership.
    majority_ago: Option<Duration>,
}

impl Hearing {
    fn of(raft: &Raft, lease: Duration) -> Self {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let acknowledged = metrics.heartbeat.iter().flatten();
        let lately =
            acknowledged.filter(|(_, at)| at.as_ref().is_some_and(|at| at.elapsed() < lease));
        Self {
            node: metrics.id,
            heard_by: lately.map(|(id, _)| *id).chain([metrics.id]).collect(),
            voters: metrics.membership_config.membership().get_joint_config().clone(),
            majority_ago: metrics.last_quorum_acked.map(|at| at.elapsed()),
        }
    }

    /// Of each set of voters.
    fn is_majority(&self) -> bool {
        self.voters
            .iter()
            .all(|voters| voters.intersection(&self.heard_by).count() * 2 > voters.len())
    }

    /// How long ago a majority acknowledged the leader; `None` if none has in this leadership.
    pub fn majority_ago(&self) -> Option<Duration> {
        self.majority_ago
    }
}

impl fmt::Display for Hearing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let voters: BTreeSet<_> = self.voters.iter().flatten().collect();
        let heard = voters.iter().filter(|id| self.heard_by.contains(id)).count();
        write!(
            f,
            "node {} leads but is heard by {heard} of {} nodes only, itself among them; a majority \
             must be up and reach each other",
            self.node,
            voters.len()
        )
    }
}

/// Why a leadership was not confirmed, for people.
fn not_confirmed(
    raft: &Raft,
    error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>,
    lease: Duration,
) -> String {
    match error {
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => {
            Hearing::of(raft, lease).to_string()
        }
        RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => match to.leader_id {
            Some(leader) => format!("the asked node does not lead; node {leader} may"),
            None => "the asked node does not lead and knows no leader".into(),
        },
        RaftError::Fatal(fatal) => format!("Raft stopped on the asked node: {fatal}"),
    }
}

/// The term that the node leads, if it does. From the server metrics, as all who wait for a change
/// of it wait for those: Raft sends its other metrics later, and they may not tell of it yet.
pub fn leading_term(raft: &Raft) -> Option<u64> {
    term_led(&raft.server_metrics().borrow_watched())
}

fn term_led(metrics: &RaftServerMetrics<TypeConfig>) -> Option<u64> {
    metrics.state.is_leader().then_some(metrics.vote.leader_id.term)
}

/// The leader if the node knows one.
pub fn known_leader(raft: &Raft) -> Option<NodeId> {
    raft.server_metrics().borrow_watched().current_leader
}

/// Milliseconds since 1970 by this machine's wall clock; for display only.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Cluster time: what was applied, plus the monotonic time since then under one leadership.
#[derive(Debug, Default)]
struct ClusterClock(Mutex<Option<Base>>);

#[derive(Clone, Copy, Debug)]
struct Base {
    term: u64,
    since: Instant,
    applied_ms: u64,
}

impl Base {
    fn now(&self) -> u64 {
        self.applied_ms + self.since.elapsed().as_millis() as u64
    }
}

impl ClusterClock {
    /// A new leader may not have applied all that earlier ones stamped when it is first asked, so
    /// it goes on from what was applied whenever that is ahead.
    fn now(&self, term: u64, applied_ms: u64) -> u64 {
        let mut known = self.0.lock();
        let base = match *known {
            Some(base) if base.term == term && base.now() >= applied_ms => base,
            Some(_) | None => Base { term, since: Instant::now(), applied_ms },
        };
        *known = Some(base);
        base.now()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use roster_api::registry::BeatTarget;
    use roster_storage::command::{Command, OpenSession};
    use roster_storage::disk::{Disk, LogOptions};
    use roster_storage::events::Change;
    use roster_storage::raft_types::PeerNode;
    use roster_storage::version::{Observer, Version};

    use super::*;
    use crate::raft::leader_becomes;
    use crate::raft::link::Badge;
    use crate::raft::network::Network;

    #[test]
    fn a_leader_confirms_at_once_while_the_lease_is_young_that_it_has_not_given_away() {
        let limit = Duration::from_millis(100);
        let ms = |ms| Some(Duration::from_millis(ms));
        let standing =
            |leads, has_its_lease, acked_ago| Standing { leads, has_its_lease, acked_ago };
        for (standing, confirmed) in [
            (standing(Some(7), true, ms(0)), Some(7)),
            (standing(Some(7), true, ms(99)), Some(7)),
            (standing(Some(7), true, ms(100)), None),
            (standing(Some(7), true, None), None),
            (standing(None, true, ms(0)), None),
            (standing(Some(7), false, ms(0)), None),
        ] {
            assert_eq!(standing.confirmed_within(limit), confirmed, "{standing:?}");
        }
        // Where no lease is trusted.
        assert_eq!(standing(Some(7), true, ms(0)).confirmed_within(Duration::ZERO), None);
    }

    /// Feeds the leases; nothing more is applied while it is held.
    #[derive(Clone)]
    struct Held {
        leases: Arc<Leases>,
        held: Arc<AtomicBool>,
    }

    impl Observer for Held {
        fn applied(&self, version: &Arc<Version>, changes: &[Arc<Change>]) {
            Observer::applied(&*self.leases, version, changes);
            while self.held.load(Ordering::Acquire) {
                thread::yield_now();
            }
        }

        fn replaced(&self, version: &Arc<Version>) {
            Observer::replaced(&*self.leases, version);
        }
    }

    impl Held {
        fn hold(&self) -> Holding<'_> {
            self.held.store(true, Ordering::Release);
            Holding(self)
        }
    }

    struct Holding<'a>(&'a Held);

    impl Drop for Holding<'_> {
        fn drop(&mut self) {
            self.0.held.store(false, Ordering::Release);
        }
    }

    async fn wait_until(condition: impl AsyncFn() -> bool) {
        let waiting = async {
            while !condition().await {
                yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .expect("it comes true in time");
    }

    /// A cluster of one node, which leads and has its lease table open.
    async fn alone(held: &Held, folder: &Path) -> Leading {
        let disk = Disk::open(folder, LogOptions::default(), Arc::new(held.clone()));
        let disk = disk.expect("an empty folder");
        let (published, told) = (disk.state_machine.published(), CommitsTold::default());
        let network = Network::new(Arc::new(Badge::of_new_disk(Arc::default())), told.clone());
        // Alone, a node is acknowledged by its election, once: it is confirmed at once for half a lease.
        let (lease, heartbeat_interval) = (Duration::from_secs(3_600), 50);
        let config = Arc::new(openraft::Config { heartbeat_interval, ..Default::default() });
        let raft = Raft::new(1, config, network, disk.log, disk.state_machine);
        let raft = raft.await.expect("it starts");
        raft.initialize(BTreeMap::from([(1, PeerNode::default())])).await.expect("it is new");
        leader_becomes(&raft, |leader| leader == Some(1)).await.expect("it runs");
        let guard = Arc::new(DiskGuard::new(folder.to_owned(), 0));
        let leases = held.leases.clone();
        let leading = Leading::new(raft, published.clone(), leases, guard, told, lease, true);
        drop(leading.first_read_index().await.expect("it leads"));
        let term = leading.term().expect("it leads");
        held.leases.begin_table(term, &published, 0).0.opened();
        leading
    }

    /// The revisions of answers never go back (invariant S2), also where Raft has committed what is not applied
    /// yet: of that this node knows only by a heartbeat for which it asked Raft.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_heartbeat_is_answered_with_an_older_revision_than_the_one_before_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = Held { leases: Arc::new(Leases::new()), held: Arc::default() };
        let leading = Arc::new(alone(&held, folder.path()).await);
        let open = OpenSession { ttl_ms: None, name: "s".into(), request: None };
        let open = EncodedCommand::new(&Command::OpenSession(open)).expect("it is small");
        let opened = leading.propose(vec![open.clone()]).await;
        let [Proposed::Decided(opened)] = opened.as_slice() else { panic!("{opened:?}") };
        let beat = Beat::of(BeatTarget::Session(SessionId(opened.revision.0)));

        let holding = held.hold();
        let write = || {
            let (leading, open) = (leading.clone(), vec![open.clone()]);
            tokio::spawn(async move { leading.propose(open).await })
        };
        // One that is published and holds those up that come after it, and one of those.
        let applied = write();
        wait_until(async || leading.published.load().revision() > opened.revision).await;
        let waiting = write();
        let committed = Revision(opened.revision.0 + 2);
        wait_until(async || leading.confirm().await.expect("it leads").revision >= committed).await;
        // As after a leadership that was handed on: Raft is asked.
        leading.handovers.fetch_add(1, Ordering::AcqRel);
        let asked = leading.beats(&[BeatsAsked::One(beat.clone())], 1).await;
        let BeatsAnswer::Confirmed(by_raft, _) = asked else { panic!("{asked:?}") };
        assert_eq!(by_raft, committed);
        leading.handovers_over.fetch_add(1, Ordering::AcqRel);
        let (at_once, told) = leading.beat_at_once(&beat, 1).expect("the leadership is confirmed");
        assert!(matches!(told, BeatsTold::One(Ok(_))), "{told:?}");
        assert_eq!(at_once, committed);
        assert!(leading.published.load().revision() < at_once, "it was applied");
        drop(holding);
        for write in [applied, waiting] {
            let written = write.await.expect("it is answered");
            assert!(matches!(written.as_slice(), [Proposed::Decided(_)]), "{written:?}");
        }
        leading.raft.shutdown().await.expect("it stops");
    }

    #[test]
    fn cluster_time_goes_on_from_what_earlier_leaders_stamped_though_it_is_applied_late() {
        let clock = ClusterClock::default();
        let before_the_backlog = clock.now(2, 100);
        assert!((100..5_000).contains(&before_the_backlog));
        let after = clock.now(2, 5_000);
        assert!(after >= 5_000);
        assert!(clock.now(2, 5_000) >= after, "it went back");
    }

    #[test]
    fn time_without_this_leader_is_not_counted_by_it() {
        let clock = ClusterClock::default();
        assert!(clock.now(2, 900_000) >= 900_000);
        // What another leader has applied since counts.
        assert!((100..900_000).contains(&clock.now(4, 100)));
    }
}
