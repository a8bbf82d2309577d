//! Writes the history: a thread of its own follows the event log, behind apply.
//!
//! Nobody waits for it but the one who writes a checkpoint: a start replays the log from the newest
//! checkpoint, so what happened before it must be in the history by then, or be a gap for good.
//! What memory forgets before it was written is a gap with a name. An error turns the history off
//! and the node goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use roster_storage::events::{EventLog, Forgotten};
use roster_storage::history::{GapReason, History, HistoryError, HistoryLimits};
use roster_storage::names::Revision;

use crate::leading::wall_ms;

/// How old a change may be before it is written: what a crash may take from the history until the
/// log was replayed.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// So much is written at once, at most. It bounds what a batch takes in memory.
const SYNC_BYTES: usize = 1 << 20;

/// Changes that are taken from the event log at once; it is locked meanwhile.
const TAKE_MAX: usize = 1_024;

/// After each so many wakes the writer looks at the log though nothing is due yet: memory may forget.
const WAKES_MAX: u64 = 16;

/// How often it looks whether something has grown too old.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Blocks that are checked at once, after the start.
const CHECK_BLOCKS: usize = 16;

/// Between two pieces of what goes on in the background.
const SHORT_PAUSE: Duration = Duration::from_millis(20);

/// How long a checkpoint waits for the history. Then what is missing may become a gap.
const CHECKPOINT_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a stop waits for the last sync.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long the folder may be in use by an earlier run.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// The shared event log.
pub type SharedLog = Arc<Mutex<EventLog>>;

/// Starts the writer of a node's history.
pub struct HistoryWriter;

impl HistoryWriter {
    /// Opens the history in the folder and follows the log, both on a thread of its own.
    pub fn start(folder: PathBuf, log: SharedLog, limits: HistoryLimits) -> HistoryHandle {
        let shared = Arc::new(Shared::default());
        let handle = HistoryHandle { shared: shared.clone() };
        // Whatever happens to the thread, nobody waits for it in vain.
        let ending = Ending(shared.clone());
        let writer = Writer { shared: shared.clone(), log, began: false, unwritten_since: None };
        let started = thread::Builder::new().name("history".into()).spawn(move || {
            let _ending = ending;
            writer.run(folder, limits);
        });
        match started {
            Ok(thread) => {
                // Set once, here.
                let _ = shared.thread.set(thread.thread().clone());
            }
            Err(e) => tracing::error!("there is no history: its thread cannot be started: {e}"),
        }
        handle
    }
}

/// A node's history, to be read, and its writer. Clones share it.
#[derive(Clone)]
pub struct HistoryHandle {
    shared: Arc<Shared>,
}

impl HistoryHandle {
    /// The history; `None` while it is being opened, and when there is none because of an error.
    pub fn reader(&self) -> Option<Arc<History>> {
        match &self.shared.state.lock().stage {
            Stage::Open(history) => Some(history.clone()),
            Stage::Opening | Stage::Off => None,
        }
    }

    /// Whether there may be a history soon.
    pub fn is_opening(&self) -> bool {
        matches!(self.shared.state.lock().stage, Stage::Opening)
    }

    /// Tells that the log grew. Cheap, and never waits for the disk.
    pub fn wake(&self) {
        let wakes = self.shared.wakes.fetch_add(1, Ordering::Relaxed) + 1;
        if self.shared.idle.load(Ordering::Relaxed) || wakes.is_multiple_of(WAKES_MAX) {
            self.shared.unpark();
        }
    }

    /// Tells that the state jumped to a checkpoint of this revision: what the history does not have
    /// yet up to there will be missing for this reason.
    pub fn jumped(&self, upto: Revision) {
        self.shared.jumped.fetch_max(upto.0, Ordering::Relaxed);
        self.wake();
    }

    /// Waits until all up to this revision is in the history for good, or is a gap. Not for ever:
    /// at most half a minute, and not when there is no history.
    pub fn before_checkpoint(&self, upto: Revision) {
        let deadline = Instant::now() + CHECKPOINT_WAIT_MAX;
        let mut state = self.shared.state.lock();
        state.wanted = state.wanted.max(upto);
        self.shared.unpark();
        while state.settled < upto && !state.is_off() {
            if self.shared.moved.wait_until(&mut state, deadline).timed_out() {
                tracing::warn!(
                    "the history was written up to revision {} only when the checkpoint at {upto} \
                     was; it may get a gap there",
                    state.settled
                );
                return;
            }
        }
    }

    /// Ends the writer after a last sync.
    pub fn stop(&self) {
        let deadline = Instant::now() + STOP_WAIT_MAX;
        let mut state = self.shared.state.lock();
        state.stopping = true;
        self.shared.unpark();
        while !state.is_off() {
            if self.shared.moved.wait_until(&mut state, deadline).timed_out() {
                return tracing::warn!("the history did not stop in time; it is left as it is");
            }
        }
    }
}

#[derive(Default)]
struct Shared {
    /// Never held while something is read or written.
    state: Mutex<State>,
    /// The state moved.
    moved: Condvar,
    thread: OnceLock<Thread>,
    /// The writer sleeps until it is woken, since nothing was left to write. Set before it looks at
    /// the log: who adds to that later sees it.
    idle: AtomicBool,
    /// Since the start.
    wakes: AtomicU64,
    /// The revision of the newest checkpoint that was installed.
    jumped: AtomicU64,
}

#[derive(Default)]
struct State {
    stage: Stage,
    /// All up to this one is on the disk, or a gap.
    settled: Revision,
    /// Somebody waits for this one to be settled.
    wanted: Revision,
    stopping: bool,
}

#[derive(Default)]
enum Stage {
    #[default]
    Opening,
    Open(Arc<History>),
    Off,
}

impl State {
    fn is_off(&self) -> bool {
        matches!(self.stage, Stage::Off)
    }
}

impl Shared {
    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn show(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.moved.notify_all();
    }
}

/// Lets everybody go who waits for a writer that has ended.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.show(|state| state.stage = Stage::Off);
    }
}

struct Writer {
    shared: Arc<Shared>,
    log: SharedLog,
    /// The log was looked at since the start.
    began: bool,
    /// Since when there is something to write.
    unwritten_since: Option<Instant>,
}

impl Writer {
    fn run(mut self, folder: PathBuf, limits: HistoryLimits) {
        let Some(history) = self.open(folder.clone(), limits) else { return };
        let floor = self.log.lock().floor();
        if history.newest().is_none() && floor > Revision(0) {
            tracing::warn!(
                "the history in {} is empty: it begins after revision {floor}, and nothing before \
                 that is kept on this node",
                folder.display()
            );
        }
        let history = Arc::new(history);
        self.shared.show(|state| state.stage = Stage::Open(history.clone()));
        // Its error is among what the history has to tell.
        let _ = self.follow(&history);
        tell(&history);
    }

    fn open(&self, folder: PathBuf, limits: HistoryLimits) -> Option<History> {
        let deadline = Instant::now() + BUSY_MAX;
        loop {
            match History::open(&folder, limits) {
                Ok(history) => {
                    tell(&history);
                    return Some(history);
                }
                Err(HistoryError::Busy { .. })
                    if Instant::now() < deadline && !self.shared.state.lock().stopping =>
                {
                    thread::sleep(SHORT_PAUSE);
                }
                Err(error) => {
                    tracing::error!("{error}");
                    return None;
                }
            }
        }
    }

    /// Runs until the node stops or the history fails.
    fn follow(&mut self, history: &History) -> Result<(), HistoryError> {
        let mut unchecked = Some(Revision(0));
        loop {
            self.shared.idle.store(self.unwritten_since.is_none(), Ordering::Relaxed);
            let (stopping, asked, settled) = {
                let state = self.shared.state.lock();
                (state.stopping, state.wanted > state.settled, state.settled)
            };
            self.take(history)?;
            let more = history.appended().is_some_and(|appended| appended > settled);
            let due = (more && (stopping || asked)) || self.is_due();
            let due = due || history.has_outlived(wall_ms());
            if due {
                self.sync(history)?;
            }
            tell(history);
            // A reader may have found out.
            history.working()?;
            if stopping {
                return Ok(());
            }
            if due {
                // Something may have come meanwhile, and nobody woke a writer that was not idle.
                continue;
            }
            self.shared.idle.store(self.unwritten_since.is_none(), Ordering::Relaxed);
            unchecked = unchecked.and_then(|from| history.check(from, CHECK_BLOCKS));
            // Who asks may know of an entry before the log does.
            self.rest(if asked || unchecked.is_some() { SHORT_PAUSE } else { LOOK_EVERY });
        }
    }

    /// Takes what the log has more.
    fn take(&mut self, history: &History) -> Result<(), HistoryError> {
        loop {
            let more = self.take_some(history);
            self.began = true;
            if history.pending_bytes() >= SYNC_BYTES {
                self.sync(history)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Takes some of what the log has more; tells whether there may be more still.
    fn take_some(&mut self, history: &History) -> bool {
        let appended = history.appended();
        let (from, newest, read) = {
            let log = self.log.lock();
            let from = appended.unwrap_or(log.floor());
            (from, log.newest(), log.after(from, TAKE_MAX))
        };
        match read {
            Ok((changes, upto)) => {
                history.append(from, upto, &changes);
                if !changes.is_empty() {
                    self.unwritten_since.get_or_insert_with(Instant::now);
                }
                upto < newest
            }
            Err(Forgotten { kept_after }) => {
                history.note_gap(kept_after, self.reason(kept_after));
                true
            }
        }
    }

    /// Why the log does not have what comes before a revision.
    fn reason(&self, kept_after: Revision) -> GapReason {
        if kept_after.0 <= self.shared.jumped.load(Ordering::Relaxed) {
            GapReason::CheckpointInstalled
        } else if self.began {
            GapReason::Overflow
        } else {
            GapReason::Failed
        }
    }

    fn is_due(&self) -> bool {
        self.unwritten_since.is_some_and(|since| since.elapsed() >= WRITTEN_WITHIN)
    }

    fn sync(&mut self, history: &History) -> Result<(), HistoryError> {
        history.sync(wall_ms())?;
        self.unwritten_since = None;
        let settled = history.appended().unwrap_or_default();
        self.shared.show(|state| state.settled = settled);
        Ok(())
    }

    /// Sleeps until it is woken or something is due, and at most so long.
    fn rest(&self, at_most: Duration) {
        let until_due = self.unwritten_since.map(|s| WRITTEN_WITHIN.saturating_sub(s.elapsed()));
        thread::park_timeout(until_due.unwrap_or(at_most).min(at_most));
    }
}

fn tell(history: &History) {
    for note in history.take_notes() {
        tracing::warn!("{note}");
    }
}

#[cfg(test)]
mod tests {
    use roster_storage::catalog::At;
    use roster_storage::command::AppPolicy;
    use roster_storage::events::{Change, Event, EventLogLimits, Interest};
    use roster_storage::history::Gap;
    use roster_storage::names::AppName;

    use super::*;

    const LIMITS: HistoryLimits = HistoryLimits { bytes_max: u64::MAX, age_max_ms: u64::MAX };

    fn log(after: u64, changes_max: usize) -> SharedLog {
        let limits = EventLogLimits { changes_max, bytes_max: u64::MAX };
        Arc::new(Mutex::new(EventLog::starting_after(Revision(after), limits)))
    }

    fn push(log: &SharedLog, revisions: std::ops::RangeInclusive<u64>) {
        for revision in revisions {
            let app = AppName::new("pay").expect("a name");
            let at = At { revision: Revision(revision), ..At::default() };
            let event = Event::AppPut { app, policy: AppPolicy::default(), created: true };
            log.lock().push(Arc::new(Change::new(at, vec![event])));
        }
    }

    /// Waits, without a limit of its own.
    fn reader(handle: &HistoryHandle) -> Arc<History> {
        loop {
            match handle.reader() {
                Some(history) => return history,
                None => thread::yield_now(),
            }
        }
    }

    fn revisions(history: &History, after: u64) -> Vec<u64> {
        let (changes, _) =
            history.after(Revision(after), &Interest::all(), 1_000).expect("covered");
        changes.iter().map(|change| change.at.revision.0).collect()
    }

    #[test]
    fn what_happened_before_a_checkpoint_is_kept_when_it_is_written_and_after_a_restart() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("history");
        let shared = log(10, 100);
        let handle = HistoryWriter::start(folder.clone(), shared.clone(), LIMITS);
        push(&shared, 11..=30);
        handle.wake();
        handle.before_checkpoint(Revision(30));
        assert_eq!(reader(&handle).covered(), [(Revision(11), Revision(30))]);
        push(&shared, 31..=40);
        handle.stop();
        assert!(handle.reader().is_none());
        // It was started from the checkpoint, and the log was replayed from there.
        let shared = log(30, 100);
        push(&shared, 31..=50);
        let handle = HistoryWriter::start(folder, shared, LIMITS);
        handle.before_checkpoint(Revision(50));
        let history = reader(&handle);
        assert_eq!(history.covered(), [(Revision(11), Revision(50))]);
        assert_eq!(revisions(&history, 10), (11..=50).collect::<Vec<_>>());
    }

    #[test]
    fn a_gap_that_nothing_follows_is_told_to_readers_and_not_waited_for() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("history");
        let shared = log(10, 100);
        let handle = HistoryWriter::start(folder.clone(), shared.clone(), LIMITS);
        push(&shared, 11..=30);
        handle.stop();
        // The log was replayed from a later checkpoint, and nothing was written since.
        let handle = HistoryWriter::start(folder, log(60, 100), LIMITS);
        let history = reader(&handle);
        while history.appended() < Some(Revision(60)) {
            thread::yield_now();
        }
        let (after, upto) = (Revision(30), Revision(60));
        let gap = Gap { after, upto, reason: GapReason::Failed };
        assert_eq!(history.after(after, &Interest::all(), 1_000), Err(gap));
        assert_eq!(history.before(Revision(61), &Interest::all(), 1_000), Err(gap));
        assert!(!history.leads(after, upto));
        assert!(!history.leads(Revision(45), upto));
    }

    #[test]
    fn a_checkpoint_waits_for_what_the_log_is_told_a_moment_later() {
        let home = tempfile::tempdir().expect("a folder");
        let shared = log(0, 100);
        let handle = HistoryWriter::start(home.path().join("history"), shared.clone(), LIMITS);
        let history = reader(&handle);
        let waiting = {
            let handle = handle.clone();
            thread::spawn(move || handle.before_checkpoint(Revision(10)))
        };
        while handle.shared.state.lock().wanted < Revision(10) {
            thread::yield_now();
        }
        assert_eq!(history.newest(), None);
        push(&shared, 1..=9);
        // The last entry told nothing.
        shared.lock().pass(Revision(10));
        waiting.join().expect("it returns");
        assert_eq!(history.newest(), Some(Revision(10)));
    }

    #[test]
    fn a_stop_writes_what_is_left() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("history");
        let shared = log(0, 100);
        let handle = HistoryWriter::start(folder.clone(), shared.clone(), LIMITS);
        // Until it is open there is nothing to write to.
        drop(reader(&handle));
        push(&shared, 1..=40);
        handle.stop();
        let handle = HistoryWriter::start(folder, log(40, 100), LIMITS);
        assert_eq!(reader(&handle).covered(), [(Revision(1), Revision(40))]);
    }

    #[test]
    fn a_change_is_written_soon_without_anybody_asking_for_it() {
        let home = tempfile::tempdir().expect("a folder");
        let shared = log(0, 100);
        let handle = HistoryWriter::start(home.path().join("history"), shared.clone(), LIMITS);
        let history = reader(&handle);
        for revision in 1..=3 {
            push(&shared, revision..=revision);
            handle.wake();
            while history.newest() != Some(Revision(revision)) {
                thread::yield_now();
            }
        }
        assert_eq!(revisions(&history, 0), [1, 2, 3]);
    }

    #[test]
    fn what_memory_forgot_is_a_gap_with_the_reason_why() {
        let home = tempfile::tempdir().expect("a folder");
        let shared = log(0, 100);
        let handle = HistoryWriter::start(home.path().join("history"), shared.clone(), LIMITS);
        push(&shared, 1..=10);
        handle.before_checkpoint(Revision(10));
        {
            // Nothing is taken while this is held, as if the writer were slow.
            let mut log = shared.lock();
            log.jump(Revision(20));
            handle.jumped(Revision(20));
        }
        push(&shared, 21..=30);
        handle.before_checkpoint(Revision(30));
        *shared.lock() = EventLog::starting_after(
            Revision(40),
            EventLogLimits { changes_max: 100, bytes_max: u64::MAX },
        );
        push(&shared, 41..=50);
        handle.before_checkpoint(Revision(50));
        let gap =
            |after, upto, reason| Gap { after: Revision(after), upto: Revision(upto), reason };
        let history = reader(&handle);
        let expected =
            [gap(10, 20, GapReason::CheckpointInstalled), gap(30, 40, GapReason::Overflow)];
        assert_eq!(history.gaps(), expected);
        assert_eq!(revisions(&history, 40), (41..=50).collect::<Vec<_>>());
    }

    #[test]
    fn a_history_that_cannot_be_opened_holds_nobody_up() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("history");
        std::fs::write(&folder, "not a folder").expect("it is written");
        let handle = HistoryWriter::start(folder, log(0, 100), LIMITS);
        handle.before_checkpoint(Revision(5));
        assert!(handle.reader().is_none());
        handle.wake();
        handle.stop();
    }
}
