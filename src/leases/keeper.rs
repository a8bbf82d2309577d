//! The loop that keeps the leases of a leader: opens the table when a leadership begins, looks at
//! what is due, proposes expiries, and lets cluster time pass where nobody writes.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use parking_lot::Mutex;
use roster_storage::command::{Command, Expire};
use roster_storage::limits::{EXPIRY_SESSIONS_MAX, EXPIRY_THINGS_MAX};
use roster_storage::names::SessionId;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Due, Ended, LeaseTable, SLOT_MS};
use crate::leading::leading_term;
use crate::node::Running;

/// Leases looked at by one judgement of the time, so that a long tick is not judged by an old one.
const PIECE: usize = 1_024;

/// Between two tries to confirm a leadership that just began.
const OPENING_RETRY: Duration = Duration::from_millis(10);

/// Runs until the node stops.
pub async fn keep(running: Arc<Running>) {
    let mut metrics = running.raft.server_metrics();
    loop {
        if let Some(term) = leading_term(&running.raft) {
            lead(&running, term).await;
            running.leases.close();
        } else if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// One leadership, from its first read index to its end.
async fn lead(running: &Arc<Running>, term: u64) {
    if !first_read_index_applied(running, term).await {
        return;
    }
    let mut clock = running.leases.clock.ticks();
    let lease_ms = running.config.timings.election_max.as_millis() as u64;
    let table = running.leases.open(term, &running.published, lease_ms).await;
    tracing::info!(term, sessions = table.len(), "leading; leases are open");
    let mut ticks = interval(Duration::from_millis(SLOT_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let answers = Mutex::new(JoinSet::new());
    while leading_term(&running.raft) == Some(term) {
        ticks.tick().await;
        while let Some(ended) = answers.lock().try_join_next() {
            ended.unwrap_or_else(|e| resume_unwind(e.into_panic()));
        }
        // Rule 5: while the leadership is not confirmed the clock does not tick, so all that time
        // counts as our own delay once it is confirmed again.
        match running.leading.confirm().await {
            Ok(confirmed) if confirmed.term == term => {}
            Ok(_) => return,
            Err(_) => continue,
        }
        let things_of = |session| {
            let version = running.published.load();
            version.catalog.session(session).map_or(0, |session| session.things as usize)
        };
        let propose = |due| propose(running, &table, &answers, due);
        expire_due(&table, || clock.tick(), things_of, propose).await;
        let_time_pass(running, term).await;
    }
}

/// Returns whether the node still leads once it is.
async fn first_read_index_applied(running: &Running, term: u64) -> bool {
    while leading_term(&running.raft) == Some(term) {
        if let Ok(linearizer) = running.leading.first_read_index().await
            && linearizer.read_log_id().committed_leader_id().term == term
            && linearizer.await_ready(&running.raft).await.is_ok()
        {
            return true;
        }
        sleep(OPENING_RETRY).await;
    }
    false
}

/// Proposes what is due, entry by entry, until nothing is or until one is not appended: what hinders
/// one hinders the others, and the next tick tries again.
async fn expire_due<P>(
    table: &LeaseTable,
    mut now: impl FnMut() -> u64,
    things_of: impl Fn(SessionId) -> usize,
    mut propose: impl FnMut(Vec<Due>) -> P,
) where
    P: Future<Output = bool>,
{
    let mut entry = Entry::default();
    while let Some(piece) = table.take_due(now(), PIECE) {
        let mut piece = piece.into_iter();
        while let Some(overdue) = piece.next() {
            let things = things_of(overdue.session);
            if !entry.has_room_for(things) && !propose(std::mem::take(&mut entry).sessions).await {
                let left = std::iter::once(overdue).chain(piece);
                left.for_each(|overdue| table.keep(overdue.session, now()));
                return;
            }
            match table.end(overdue.session, now()) {
                Ended::Due(due) => entry.add(due, things),
                Ended::Lives | Ended::Gone => {}
            }
        }
    }
    if !entry.sessions.is_empty() {
        propose(entry.sessions).await;
    }
}

/// The sessions of one expiry entry.
#[derive(Default)]
struct Entry {
    sessions: Vec<Due>,
    things: usize,
}

impl Entry {
    fn has_room_for(&self, things: usize) -> bool {
        self.sessions.is_empty()
            || (self.sessions.len() < EXPIRY_SESSIONS_MAX
                && self.things + things <= EXPIRY_THINGS_MAX)
    }

    fn add(&mut self, due: Due, things: usize) {
        self.sessions.push(due);
        self.things += things;
    }
}

/// Proposes under this very leadership, never forwarded (invariant S5). Who is named stays marked
/// until apply tells, unless nothing was appended. Returns whether something was, as far as is known
/// at once; the rest is awaited beside, for as long as the leadership lasts.
async fn propose(
    running: &Arc<Running>,
    table: &Arc<LeaseTable>,
    answers: &Mutex<JoinSet<()>>,
    due: Vec<Due>,
) -> bool {
    let sessions = due.iter().map(|due| (*due).into()).collect();
    let command = Command::Expire(Expire { term: table.term(), sessions });
    let Some(answer) = running.leading.submit(table.term(), &command).await else {
        table.spare(due, running.leases.clock.now());
        return false;
    };
    let (running, table) = (running.clone(), table.clone());
    answers.lock().spawn(async move {
        match answer.await {
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => {
                table.spare(due, running.leases.clock.now());
            }
            Ok(Err(e)) => tracing::warn!("what became of an expiry is not known: {e}"),
            Ok(Ok(_)) | Err(_) => {}
        }
    });
    true
}

/// Proposes a tick when something falls due in cluster time and nobody else writes.
async fn let_time_pass(running: &Running, term: u64) {
    let Some(stamp) = running.leading.stamp() else { return };
    let version = running.published.load();
    if version.catalog.next_due_ms().is_some_and(|due| due <= stamp.cluster_ms)
        && let Some(answer) = running.leading.submit(term, &Command::Tick).await
    {
        // How it went shows in the next tick.
        drop(answer.await);
    }
}

#[cfg(test)]
mod tests {
    use roster_storage::names::Revision;

    use super::*;

    #[tokio::test]
    async fn expiries_that_are_not_appended_are_not_tried_again_in_the_same_tick() {
        let table = LeaseTable::new(1);
        let sessions = || (0..3 * EXPIRY_SESSIONS_MAX as u64).map(SessionId);
        for session in sessions() {
            table.touch(session, 1_000, Revision(1), 0);
        }
        let mut tries = 0;
        let refuse = |due: Vec<Due>| {
            tries += 1;
            assert!(tries < 10, "it goes on for ever");
            table.spare(due, 5_000);
            std::future::ready(false)
        };
        expire_due(&table, || 5_000, |_| 1, refuse).await;
        assert_eq!(tries, 1);
        for session in sessions() {
            assert_eq!(table.renew(session, None, 1, 5_000), Ok(1_000), "{session} was not spared");
        }
    }

    #[tokio::test]
    async fn all_that_is_due_is_proposed_in_entries_of_bounded_size() {
        let table = LeaseTable::new(1);
        let sessions = 2 * EXPIRY_SESSIONS_MAX + 1;
        for session in 0..sessions as u64 {
            table.touch(SessionId(session), 1_000, Revision(1), 0);
        }
        let mut sizes = Vec::new();
        let take = |due: Vec<Due>| {
            sizes.push(due.len());
            std::future::ready(true)
        };
        expire_due(&table, || 5_000, |_| 1, take).await;
        assert_eq!(sizes, [EXPIRY_SESSIONS_MAX, EXPIRY_SESSIONS_MAX, 1]);
    }
}
