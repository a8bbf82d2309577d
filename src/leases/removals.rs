//! One leadership's removals: asks the brake which overdue sessions go, and carries out what it
//! decides. What it proposes is proposed under that very leadership (invariant S5).
//!
//! An overdue session is not marked as ending before it is let go, so that whoever is held back can
//! still be renewed; then the table judges it once more.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use roster_storage::brake::Scope;
use roster_storage::catalog::Catalog;
use roster_storage::command::{
    BrakeChange, BrakeEnd, Command, Expire, SetBrake, Suspect, Suspicion,
};
use roster_storage::limits::{EXPIRY_SESSIONS_MAX, EXPIRY_THINGS_MAX, SUSPICIONS_MAX};
use roster_storage::names::{AppName, NodeId, Revision, SessionId};
use roster_storage::version::Version;
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use super::brake::{Brake, Loss, Mark, Turn};
use super::clock::Ticks;
use super::table::LateCount;
use super::taking::{PIECE, Taking, expected, missing};
use super::{Due, Ended, LeaseTable, Leases, Looked};
use crate::leading::Submitted;
use crate::node::Running;

/// Held sessions looked at in one turn, whether they were heard.
const LOOKS_PER_TURN: usize = 4_096;

/// Leases counted in one turn, whether they are late.
const COUNTED_PER_TURN: usize = 100_000;

/// Between two counts of who is late while a member is not reached.
const COUNT_EVERY: Duration = Duration::from_millis(500);

/// Suspects of the state, and held sessions, held against each other in one turn.
const COMPARED_PER_TURN: usize = 1_024;

/// Between two writings of what the brakes of the state say.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Numbers of a brake are told anew when they grew by this share, in percent.
const TOLD_AGAIN_PERCENT: u64 = 110;

pub struct Removals {
    running: Arc<Running>,
    table: Arc<LeaseTable>,
    brake: Brake,
    taking: Taking,
    chance: Rng,
    answers: JoinSet<Answer>,
    /// Sessions that have missed a beat, as they were counted last and are counted now.
    late: LateCount,
    counting: LateCount,
    counted_at: Instant,
    /// Members that were not reached at the last look.
    down: BTreeSet<NodeId>,
    /// Where the look at those held goes on.
    looked_at: Option<SessionId>,
    /// Where the look at the suspects of the state goes on.
    strays_after: Option<SessionId>,
    /// Where the comparison of those held with the state goes on.
    compared: Option<SessionId>,
    /// Marks are on their way; the next ones wait for them.
    marking: bool,
    /// Why scopes brake no more, until the state says so too.
    left: BTreeMap<Scope, BrakeEnd>,
    told_at: Instant,
    since: Instant,
}

/// What became of a proposal.
enum Answer {
    /// Applied, or nobody knows: they stay marked as ending.
    Ended(Vec<SessionId>),
    /// Certainly not appended.
    Spared(Vec<Due>),
    Marked,
    NotMarked(Vec<Mark>),
    Told,
}

impl Removals {
    /// Goes on from the brakes and the suspects that earlier leaders left.
    pub async fn resume(running: &Arc<Running>, table: &Arc<LeaseTable>, now: u64) -> Self {
        let version = running.published.load();
        let mut brake = Brake::new(running.config.brake, now);
        for (scope, on) in version.catalog.brakes() {
            let loss = Loss { missing: on.missing, peak: on.missing, of: on.of };
            brake.resume(scope.clone(), loss, now);
        }
        for (count, session) in version.catalog.suspects().enumerate() {
            if let Some(missing) = expected(&version.catalog, session, now) {
                brake.expect(missing, now);
            }
            if count % PIECE == PIECE - 1 {
                yield_now().await;
            }
        }
        let seed = fastrand::u64(..);
        tracing::debug!(seed, "removals are drawn by chance");
        Self {
            running: running.clone(),
            table: table.clone(),
            brake,
            taking: Taking::default(),
            chance: Rng::with_seed(seed),
            answers: JoinSet::new(),
            late: LateCount::default(),
            counting: LateCount::default(),
            counted_at: Instant::now(),
            down: BTreeSet::new(),
            looked_at: None,
            strays_after: None,
            compared: None,
            marking: false,
            left: BTreeMap::new(),
            told_at: Instant::now(),
            since: Instant::now(),
        }
    }

    /// One turn of the leader's loop; the clock ticks for each piece of it.
    pub async fn turn(&mut self, clock: &mut Ticks<'_>) {
        self.take_answers();
        // After the answers, so that it shows what they tell.
        let version = self.running.published.load();
        self.hear_operators(&version);
        self.see_nodes(clock.tick());
        self.take_overdue(&version, clock);
        self.look_at_held(clock.tick());
        let turns = self.brake.judge(&version.catalog, clock.tick());
        self.tell(&version, turns).await;
        self.end_released(&version, clock).await;
        self.mark(&version).await;
        self.running.leases.hold_back(self.brake.len());
    }

    fn take_answers(&mut self) {
        while let Some(answer) = self.answers.try_join_next() {
            match answer.unwrap_or_else(|e| resume_unwind(e.into_panic())) {
                Answer::Ended(sessions) => {
                    sessions.into_iter().for_each(|session| self.brake.gone(session));
                }
                Answer::Spared(due) => {
                    for due in &due {
                        self.brake.spared(due.session);
                    }
                    self.table.spare(due, self.running.leases.clock.now());
                }
                Answer::Marked => self.marking = false,
                Answer::NotMarked(marks) => {
                    self.marking = false;
                    self.brake.not_marked(marks);
                }
                Answer::Told => {}
            }
        }
    }

    fn hear_operators(&mut self, version: &Version) {
        let words = version.catalog.brake_overrides();
        self.brake.set_words(words.map(|(scope, word)| (scope.clone(), word.mode)).collect());
    }

    // Nodes.

    /// Tells the brake which members are not reached, and who is late by them.
    fn see_nodes(&mut self, now: u64) {
        let down = self.not_reached();
        if !down.is_empty() {
            self.count_late(down != self.down, now);
        }
        let late = |node: &NodeId| self.late.by(*node);
        self.brake.reach(&down.iter().map(|node| (*node, late(node))).collect(), now);
        self.down = down;
    }

    /// Members that acknowledged nothing for as long as a leader may be silent.
    fn not_reached(&self) -> BTreeSet<NodeId> {
        let patience = self.running.config.timings.election_max;
        let own = self.running.config.node_id;
        let metrics = self.running.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let mut silent = BTreeSet::new();
        for (node, acked) in metrics.heartbeat.iter().flatten() {
            let for_long = acked.as_ref().map_or(self.since.elapsed(), |at| at.elapsed());
            if *node != own && for_long > patience {
                silent.insert(*node);
            }
        }
        silent
    }

    /// Counts a piece of the sessions that have missed a beat, from the beginning if `anew`.
    fn count_late(&mut self, anew: bool, now: u64) {
        if anew {
            self.counting = LateCount::default();
            self.late = LateCount::default();
        } else if self.counted_at.elapsed() < COUNT_EVERY {
            return;
        }
        if self.table.count_late(&mut self.counting, now, COUNTED_PER_TURN) {
            self.late = std::mem::take(&mut self.counting);
            self.counted_at = Instant::now();
        } else {
            self.late.raise_to(&self.counting);
        }
    }

    // Who is overdue.

    fn take_overdue(&mut self, version: &Version, clock: &mut Ticks<'_>) {
        let Self { table, brake, taking, .. } = self;
        let missing = |overdue| missing(table, &version.catalog, overdue);
        taking.take_up(table, brake, || clock.tick(), missing);
    }

    /// Whether some of those held were heard, in turn.
    fn look_at_held(&mut self, now: u64) {
        let held: Vec<_> = self.brake.held_after(self.looked_at).take(LOOKS_PER_TURN).collect();
        self.looked_at = if held.len() == LOOKS_PER_TURN { held.last().copied() } else { None };
        for session in held {
            let was_heard = match self.brake.is_overdue(session) {
                true => match self.table.look(session, now) {
                    Looked::Overdue(_) => Some(false),
                    Looked::Lives => Some(true),
                    Looked::Gone => None,
                },
                // Its deadline under this leader is still to come, and the wheel has it.
                false => self.table.was_heard(session),
            };
            match was_heard {
                Some(true) => self.brake.heard(session),
                Some(false) => {}
                None => self.brake.gone(session),
            }
        }
    }

    // What is decided.

    /// Logs who begins and ends to brake, and has the state say what the brake says.
    async fn tell(&mut self, version: &Version, turns: Vec<Turn>) {
        let changed = !turns.is_empty();
        for turn in turns {
            self.log(&turn, version.revision());
            if let Turn::Left(scope, reason) = turn {
                self.left.insert(scope, reason);
            }
        }
        if changed || self.told_at.elapsed() >= TELL_EVERY {
            self.told_at = Instant::now();
            self.compare_marks(version);
            for (scope, change) in self.untold(&version.catalog) {
                let command = Command::Brake(SetBrake { term: self.table.term(), scope, change });
                if let Some(answer) = self.submit(&command).await {
                    self.answers.spawn(async move {
                        // How it went shows in the next look at the state.
                        drop(answer.await);
                        Answer::Told
                    });
                }
            }
        }
    }

    /// Holds who is suspect by the state against who is held, both ways: nobody stays suspect for ever
    /// because an answer was lost, and whoever is held is suspect.
    fn compare_marks(&mut self, version: &Version) {
        if self.marking {
            return;
        }
        let suspects: Vec<_> =
            version.catalog.suspects_after(self.strays_after).take(COMPARED_PER_TURN).collect();
        self.strays_after = next_piece_after(&suspects);
        for session in suspects {
            if let Some(known) = version.catalog.session(session) {
                self.brake.unmark_stray(session, known.touched);
            }
        }
        let held: Vec<_> = self.brake.held_after(self.compared).take(COMPARED_PER_TURN).collect();
        self.compared = next_piece_after(&held);
        for session in held {
            if version.catalog.session(session).is_some_and(|known| !known.suspect) {
                self.brake.mark_again(session);
            }
        }
    }

    /// Where the state says another thing than the brake.
    fn untold(&mut self, catalog: &Catalog) -> Vec<(Scope, BrakeChange)> {
        let mut changes = Vec::new();
        for scope in self.brake.scopes().filter(|scope| is_there(catalog, scope)) {
            let loss = self.brake.loss(scope, catalog);
            let told = catalog.brake(scope).map(|on| on.missing);
            if told
                .is_none_or(|told| loss.peak * 100 >= told * TOLD_AGAIN_PERCENT && loss.peak > told)
            {
                let change = BrakeChange::On { missing: loss.peak, of: loss.of };
                changes.push((scope.clone(), change));
            }
        }
        let brakes: BTreeSet<_> = self.brake.scopes().collect();
        let over = catalog.brakes().map(|(scope, _)| scope).filter(|scope| !brakes.contains(scope));
        let because = |scope: &Scope| self.left.get(scope).copied().unwrap_or(BrakeEnd::Recovered);
        changes.extend(over.map(|s| (s.clone(), BrakeChange::Off { because: because(s) })));
        self.left.retain(|scope, _| catalog.brake(scope).is_some());
        changes
    }

    fn log(&self, turn: &Turn, revision: Revision) {
        let term = self.table.term();
        match turn {
            Turn::Entered(scope, Loss { missing, of, .. }) => tracing::warn!(
                scope = scope.word(),
                app = scope.app().map(AppName::as_str),
                by_node = scope.node(),
                missing,
                of,
                term,
                revision = revision.0,
                "mass loss of heartbeats: who is silent is suspect and is removed slowly; \
                 `roster cluster brake` shows it, and lets an operator release or hold them"
            ),
            Turn::Left(scope, reason) => tracing::info!(
                scope = scope.word(),
                app = scope.app().map(AppName::as_str),
                by_node = scope.node(),
                because = ?reason,
                term,
                revision = revision.0,
                "the mass loss is over; removals go on at the ordinary rate"
            ),
        }
    }

    async fn end_released(&mut self, version: &Version, clock: &mut Ticks<'_>) {
        let now = clock.tick();
        // What would not be appended is not let go: it would only come back, turn after turn.
        if !self.taking.has_seen_all(now) || !self.running.leading.may_propose() {
            self.brake.wait(now);
            return;
        }
        let released = self.brake.release(&mut self.chance, now);
        let things_of =
            |session| version.catalog.session(session).map_or(0, |known| known.things as usize);
        let mut ending = end(&self.table, released, clock.tick(), things_of);
        let mut entries = std::mem::take(&mut ending.entries).into_iter();
        let mut spared = Vec::new();
        while let Some(due) = entries.next() {
            if let Some(due) = self.propose(due, version).await {
                // What hinders one hinders the others, and the next turn tries again.
                for due in std::iter::once(due).chain(entries) {
                    spared.extend(due.iter().map(|due| due.session));
                    self.table.spare(due, clock.tick());
                }
                break;
            }
        }
        ending.gone.into_iter().for_each(|session| self.brake.gone(session));
        ending.heard.into_iter().for_each(|session| self.brake.heard_in_time(session));
        spared.into_iter().for_each(|session| self.brake.spared(session));
    }

    /// Proposes the sessions of one entry. Returns them if that was certainly not appended, as far as
    /// is known at once; the rest is awaited beside, for as long as the leadership lasts.
    async fn propose(&mut self, due: Vec<Due>, version: &Version) -> Option<Vec<Due>> {
        let late_ms: Vec<_> = due.iter().map(|due| self.late_ms(due, version)).collect();
        let sessions = due.iter().map(|due| (*due).into()).collect();
        let command = Command::Expire(Expire { term: self.table.term(), sessions });
        match self.submit(&command).await {
            Some(answer) => {
                let removed = Removed { leases: self.running.leases.clone(), late_ms };
                self.answers.spawn(expired(answer, due, removed));
                None
            }
            None => Some(due),
        }
    }

    /// By how much a session is silent for longer than it may be.
    fn late_ms(&self, due: &Due, version: &Version) -> u64 {
        let ttl_ms = version.catalog.session(due.session).map_or(0, |known| known.ttl_ms());
        due.silent_ms.saturating_sub(self.table.counted(ttl_ms))
    }

    /// Has the state say who is suspect, one entry at a time.
    async fn mark(&mut self, version: &Version) {
        if self.marking {
            return;
        }
        let mut marks = self.brake.marks(SUSPICIONS_MAX);
        let things = marks.iter().scan(0, |things, mark| {
            *things += version.catalog.session(mark.session).map_or(0, |s| s.things as usize);
            Some(*things)
        });
        let fitting = things.take_while(|things| *things <= EXPIRY_THINGS_MAX).count();
        self.brake.not_marked(marks.split_off(fitting.max(1).min(marks.len())));
        if marks.is_empty() {
            return;
        }
        let suspicion =
            |m: &Mark| Suspicion { session: m.session, touched: m.touched, suspect: m.suspect };
        let sessions = marks.iter().map(suspicion).collect();
        let command = Command::Suspect(Suspect { term: self.table.term(), sessions });
        match self.submit(&command).await {
            Some(answer) => {
                self.marking = true;
                self.answers.spawn(marked(answer, marks));
            }
            None => self.brake.not_marked(marks),
        }
    }

    async fn submit(&mut self, command: &Command) -> Option<Submitted> {
        self.running.leading.submit(self.table.term(), command).await
    }
}

/// Counts sessions once they are removed.
struct Removed {
    leases: Arc<Leases>,
    /// How late each was when its removal was proposed.
    late_ms: Vec<u64>,
}

impl Removed {
    fn count(self, since: Instant) {
        let more = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let late = self.late_ms.into_iter().map(|late| late.saturating_add(more));
        late.for_each(|late| self.leases.lateness().add(late));
    }
}

async fn expired(answer: Submitted, due: Vec<Due>, removed: Removed) -> Answer {
    let since = Instant::now();
    let answered = answer.await;
    if let Ok(Ok(_)) = &answered {
        removed.count(since);
    }
    match answered {
        Ok(Err(ClientWriteError::ForwardToLeader(_))) => Answer::Spared(due),
        Ok(Err(e)) => {
            tracing::warn!("what became of an expiry is not known: {e}");
            Answer::Ended(due.iter().map(|due| due.session).collect())
        }
        Ok(Ok(_)) | Err(_) => Answer::Ended(due.iter().map(|due| due.session).collect()),
    }
}

async fn marked(answer: Submitted, marks: Vec<Mark>) -> Answer {
    match answer.await {
        Ok(Err(ClientWriteError::ForwardToLeader(_))) => Answer::NotMarked(marks),
        // Whoever takes over reads from the state who is marked.
        Ok(_) | Err(_) => Answer::Marked,
    }
}

/// Where the next piece begins, if this one was whole.
fn next_piece_after(piece: &[SessionId]) -> Option<SessionId> {
    piece.last().copied().filter(|_| piece.len() == COMPARED_PER_TURN)
}

/// A brake of an app that is gone has nothing to hold, and the state takes none.
fn is_there(catalog: &Catalog, scope: &Scope) -> bool {
    scope.app().is_none_or(|app| catalog.app(app).is_some())
}

/// What became of sessions that were let go.
#[derive(Debug, Default)]
struct Ending {
    /// Marked as ending, as they are proposed together.
    entries: Vec<Vec<Due>>,
    /// Gone already.
    gone: Vec<SessionId>,
    /// Heard meanwhile: the table has them again.
    heard: Vec<SessionId>,
}

/// Marks sessions as ending, in entries of bounded size.
fn end(
    table: &LeaseTable,
    sessions: Vec<SessionId>,
    now: u64,
    things_of: impl Fn(SessionId) -> usize,
) -> Ending {
    let mut ending = Ending::default();
    let (mut entry, mut things) = (Vec::new(), 0);
    for session in sessions {
        match table.end(session, now) {
            Ended::Due(due) => {
                let more = things_of(session);
                let is_full =
                    entry.len() == EXPIRY_SESSIONS_MAX || things + more > EXPIRY_THINGS_MAX;
                if is_full && !entry.is_empty() {
                    ending.entries.push(std::mem::take(&mut entry));
                    things = 0;
                }
                things += more;
                entry.push(due);
            }
            Ended::Lives => ending.heard.push(session),
            Ended::Gone => ending.gone.push(session),
        }
    }
    if !entry.is_empty() {
        ending.entries.push(entry);
    }
    ending
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSIONS: u64 = 2 * EXPIRY_SESSIONS_MAX as u64 + 1;

    /// All overdue at 5,000, and taken out of the wheel.
    fn overdue(table: &LeaseTable) -> Vec<SessionId> {
        for session in 0..SESSIONS {
            table.touch(SessionId(session), 1_000, Revision(1), 0);
        }
        let pieces = std::iter::from_fn(|| table.take_due(5_000, PIECE));
        pieces.flatten().map(|overdue| overdue.session).collect()
    }

    #[test]
    fn all_that_is_let_go_is_proposed_in_entries_of_bounded_size() {
        let table = LeaseTable::new(1);
        let overdue = overdue(&table);
        let sizes = |things: usize| {
            let table = LeaseTable::new(1);
            let ending = end(&table, self::overdue(&table), 5_000, |_| things);
            assert!(ending.heard.is_empty() && ending.gone.is_empty());
            ending.entries.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(overdue.len() as u64, SESSIONS);
        assert_eq!(sizes(1), [EXPIRY_SESSIONS_MAX, EXPIRY_SESSIONS_MAX, 1]);
        assert!(sizes(100).iter().all(|size| size * 100 <= EXPIRY_THINGS_MAX));
        assert!(sizes(2 * EXPIRY_THINGS_MAX).iter().all(|size| *size == 1), "one is never cut");
    }

    #[test]
    fn who_is_heard_before_it_is_ended_stays() {
        let table = LeaseTable::new(1);
        let overdue = overdue(&table);
        table.renew(SessionId(7), None, 1, 4_999).expect("it can still be renewed");
        let ending = end(&table, overdue, 5_000, |_| 1);
        assert_eq!(ending.heard, [SessionId(7)]);
        assert_eq!(table.renew(SessionId(7), None, 1, 5_001), Ok(1_000));
    }
}
