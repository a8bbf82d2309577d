//! What a node does as leader, for itself and for the followers that forward to it. Each of these
//! first makes sure that it leads; if not, it says so and has done nothing.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ReadPolicy;
use openraft::raft::linearizable_read::{Linearizer, LinearizerOption};
use parking_lot::Mutex;
use roster_api::registry::{Beat, BeatAnswers, BeatRefused, BeatTarget, Heard, Renewed};
use roster_storage::catalog::Catalog;
use roster_storage::command::{Command, EncodedCommand, Proposal, Stamp};
use roster_storage::names::{NodeId, Revision, SessionId};
use roster_storage::raft_types::{LogId, TypeConfig, alias};
use roster_storage::version::Published;

use crate::disk_guard::DiskGuard;
use crate::gather::{Gatherer, Rounds};
use crate::leases::{LeaseTable, Leases, NotRenewed};
use crate::raft::Raft;
use crate::raft::rpc::{HeartbeatsAnswer, LastHeardAnswer, NotAppended, Proposed, ReadIndex};

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
    /// The age up to which a majority's acknowledgement confirms a batch of heartbeats.
    confirm_within: Duration,
    lease: Duration,
}

impl Leading {
    pub fn new(
        raft: Raft,
        published: Published,
        leases: Arc<Leases>,
        disk: Arc<DiskGuard>,
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
                    .map_err(|e| e.to_string());
                vec![answer; asked.len()]
            }
        });
        Self {
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
            Err(fatal) => return vec![Proposed::Unknown(fatal.to_string()); count],
        };
        let mut proposed = Vec::with_capacity(count);
        while let Some(result) = results.next().await {
            proposed.push(match result {
                Ok(Ok(written)) => Proposed::Decided(written.response),
                Ok(Err(error)) => not_written(error),
                Err(fatal) => Proposed::Unknown(fatal.to_string()),
            });
        }
        proposed.resize(count, Proposed::Unknown("this node is stopping".into()));
        proposed
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
            Err(stopped) => ReadIndex::NotLeader(format!("{stopped:?}")),
        }
    }

    /// Confirms that this node leads *now*, and in which term. Whatever was received before this was
    /// called may be acknowledged once it returns.
    pub async fn confirm(&self) -> Result<Confirmed, String> {
        let option =
            LinearizerOption::new(Some(self.confirm_within), true).with_wait_timeout(self.lease);
        let linearizer = self.raft.get_read_linearizer(option).await.map_err(|e| e.to_string())?;
        let read = linearizer.read_log_id();
        Ok(Confirmed { term: read.committed_leader_id().term, revision: Revision(read.index()) })
    }

    /// A read index of a new leadership, to be applied before its lease table opens.
    pub async fn first_read_index(&self) -> Result<Linearizer<TypeConfig>, String> {
        self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|e| e.to_string())
    }

    /// Receive, confirm, renew, answer, in that order (invariant S4).
    pub async fn heartbeats(&self, beats: &[Beat], via: NodeId) -> HeartbeatsAnswer {
        let confirmed = match self.confirm().await {
            Ok(confirmed) => confirmed,
            Err(why) => return HeartbeatsAnswer::NotLeader(why),
        };
        let Some(table) = self.leases.table().filter(|table| table.term() == confirmed.term) else {
            return HeartbeatsAnswer::NotLeader("the new leader is not ready yet".into());
        };
        let version = self.published.load();
        let now = self.leases.clock.now();
        let mut each: Vec<_> =
            beats.iter().map(|beat| renew(&table, &version.catalog, beat, via, now)).collect();
        for renewed in each.iter_mut().flatten() {
            renewed.ttl_ms = self.leases.told(renewed.ttl_ms);
        }
        for (beat, answer) in beats.iter().zip(&mut each) {
            if let (Ok(renewed), false) = (answer, beat.adopted.is_empty()) {
                renewed.settled = self.leases.adopt(&version.catalog, beat, renewed.session);
            }
        }
        self.leases.count_heartbeats(beats.len() as u64);
        // What a refusal is based on may be newer than what was confirmed.
        let revision = confirmed.revision.max(version.revision());
        HeartbeatsAnswer::Confirmed(BeatAnswers { revision, each })
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

fn renew(
    table: &LeaseTable,
    catalog: &Catalog,
    beat: &Beat,
    via: NodeId,
    now: u64,
) -> Result<Renewed, BeatRefused> {
    let session = match &beat.target {
        BeatTarget::Session(session) => *session,
        BeatTarget::Instance { key, incarnation } => {
            let app = catalog
                .app(&key.app)
                .ok_or_else(|| BeatRefused::UnknownApp(key.app.to_string()))?;
            let live = app.instances.get(&key.id).ok_or(BeatRefused::UnknownInstance)?;
            if incarnation.is_some_and(|wanted| wanted != live.incarnation) {
                return Err(BeatRefused::StaleIncarnation { current: live.incarnation });
            }
            live.session
        }
    };
    match renew_session(table, catalog, session, beat.mark, via, now) {
        Ok(ttl_ms) => Ok(Renewed { session, ttl_ms, settled: Vec::new() }),
        Err(refused) => Err(refused),
    }
}

/// Returns the TTL.
fn renew_session(
    table: &LeaseTable,
    catalog: &Catalog,
    session: SessionId,
    mark: Option<i64>,
    via: NodeId,
    now: u64,
) -> Result<u64, BeatRefused> {
    let mut renewed = table.renew(session, mark, via, now);
    if renewed == Err(NotRenewed::Unknown) {
        let Some(known) = catalog.session(session) else {
            return Err(BeatRefused::UnknownSession(session));
        };
        // A new leader's table is still being filled. Else apply has published the session and is
        // about to make its lease.
        if table.fill(session, known.ttl_ms, known.touched) {
            renewed = table.renew(session, mark, via, now);
        }
    }
    renewed.map_err(|_| BeatRefused::Ending)
}

fn not_written(error: ClientWriteError<TypeConfig>) -> Proposed {
    match error {
        ClientWriteError::ForwardToLeader(to) => {
            Proposed::NotAppended(NotAppended::NotLeader(to.leader_id))
        }
        // Discarded here, but another leader may still commit it.
        other => Proposed::Unknown(other.to_string()),
    }
}

/// The term that the node leads, if it does. From the server metrics, as all who wait for a change
/// of it wait for those: Raft sends its other metrics later, and they may not tell of it yet.
pub fn leading_term(raft: &Raft) -> Option<u64> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
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
    use roster_storage::catalog::At;
    use roster_storage::command::{Command, OpenSession};

    use super::*;

    #[test]
    fn a_session_that_is_published_and_has_no_lease_yet_is_not_told_to_be_unknown() {
        let mut catalog = Catalog::default();
        let at = At { revision: Revision(1), term: 1, stamp: Stamp { cluster_ms: 0, wall_ms: 0 } };
        let open = OpenSession { ttl_ms: None, name: "s".into(), request: None };
        catalog.apply(at, &Command::OpenSession(open));
        let table = LeaseTable::new(1);
        let beat = |session| Beat::of(BeatTarget::Session(session));
        let (published, none) = (SessionId(1), SessionId(2));
        let renewed = |session| renew(&table, &catalog, &beat(session), 1, 0);
        assert_eq!(renewed(published), Err(BeatRefused::Ending));
        assert_eq!(renewed(none), Err(BeatRefused::UnknownSession(none)));
        table.touch(published, 1_000, Revision(1), 0);
        assert_eq!(
            renewed(published),
            Ok(Renewed { session: published, ttl_ms: 1_000, settled: Vec::new() })
        );
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
