//! Who follows the changes, and how they are woken.
//!
//! Apply only adds to the event log and returns. One task, the dispatcher, hands each new change to
//! those whose interest it touches: a pointer in a bounded queue each, so that a change is held and
//! encoded once however many follow it, and unrelated changes wake nobody. A reader that falls out
//! of its queue reads on from the log, or from the history behind it; one that does not read at all
//! is told so and ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use roster_api::registry::{Feed, NotFollowed, Told, Unavailable};
use roster_storage::events::{Change, Event, EventLog, EventLogLimits, Interest, Kind, Kinds};
use roster_storage::history::{History, HistoryLimits};
use roster_storage::latch::Claimant;
use roster_storage::names::{AppName, LatchKey, Revision, SessionId};
use roster_storage::version::{Observer, Version};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::history::{HistoryHandle, HistoryWriter};

/// Changes that are read from the log at once.
const STEP: usize = 256;

/// Followers that are looked at for a change before others may run.
const LOOKED_AT_ONCE: usize = 1_000;

/// Followers that are woken before others may run: each has something to write then, about 10 us of
/// work, and a heartbeat that comes in meanwhile waits for no more than these.
const WOKEN_AT_ONCE: usize = 64;

/// A reader whose queue overflowed and who took nothing for so long does not read.
const STALLED: Duration = Duration::from_secs(10);

/// How long a reader waits for what memory has forgotten to be written, and between two looks.
const HISTORY_PATIENCE: Duration = Duration::from_secs(5);
const HISTORY_PAUSE: Duration = Duration::from_millis(20);

/// Reads of the history at once.
const HISTORY_READERS_MAX: usize = 4;

/// How many may follow, and what each may leave unread.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    pub followers_max: usize,
    /// Changes in one follower's queue, and the bytes that they keep alive. One change alone may be
    /// larger. Beyond, the queue is dropped and the follower reads from the log.
    pub queue_changes_max: usize,
    pub queue_bytes_max: u64,
    pub log: EventLogLimits,
}

/// The changes of this node, and all who follow them.
pub struct Watches {
    log: Arc<Mutex<EventLog>>,
    /// The log has grown.
    grown: Notify,
    /// All up to this revision was handed out.
    handed: AtomicU64,
    /// Readers of the history take turns: each read decodes blocks on a thread of its own.
    readers: Semaphore,
    followers: RwLock<Followers>,
    count: AtomicUsize,
    counts: Counts,
    limits: WatchLimits,
    /// The threads on which the history is read.
    background: Handle,
    stopping: CancellationToken,
    /// What memory has forgotten; not set where no history is kept.
    history: OnceLock<HistoryHandle>,
}

/// What became of those who follow, since the start.
#[derive(Debug, Default)]
struct Counts {
    changes: AtomicU64,
    overflows: AtomicU64,
    lagging: AtomicU64,
    compacted: AtomicU64,
}

/// How those who follow fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchLoad {
    /// Watches and long polls that are open, and how many may be.
    pub followers: usize,
    pub followers_max: usize,
    /// Changes that were handed to readers, once for each.
    pub changes: u64,
    /// Readers who found that their queue had overflowed.
    pub overflows: u64,
    /// Readers who were cut because they took nothing.
    pub lagging: u64,
    /// Readers who were cut because what came next was not kept.
    pub compacted: u64,
    /// Of the event log in memory.
    pub log_changes: usize,
    pub log_bytes: u64,
}

/// Who is to be woken by what.
#[derive(Default)]
struct Followers {
    last: u64,
    of_all: BTreeMap<u64, Arc<Follower>>,
    of_topic: HashMap<Topic, BTreeMap<u64, Arc<Follower>>>,
    /// Of what hangs off one session, and of its end.
    of_session: HashMap<SessionId, BTreeMap<u64, Arc<Follower>>>,
    /// Of what becomes of one claim.
    of_claim: HashMap<(LatchKey, Claimant), BTreeMap<u64, Arc<Follower>>>,
}

/// What a change may be about, and a follower interested in alone.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Topic {
    App(AppName),
    Latch(LatchKey),
}

struct Follower {
    interest: Interest,
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Default)]
struct Queue {
    changes: VecDeque<Arc<Change>>,
    bytes: u64,
    /// What came was dropped; it must be read from the log.
    overflowed: bool,
    /// All up to here was taken out of it before: where to read on from after an overflow.
    passed: Revision,
}

impl Counts {
    fn count(&self, told: &Told) {
        match told {
            Told::Changes(changes) => {
                self.changes.fetch_add(changes.len() as u64, Ordering::Relaxed);
            }
            Told::Lagging(_) => {
                self.lagging.fetch_add(1, Ordering::Relaxed);
            }
            Told::Compacted { .. } => {
                self.compacted.fetch_add(1, Ordering::Relaxed);
            }
            Told::UpTo(_) | Told::Stopping(_) => {}
        }
    }
}

impl Watches {
    /// `background`: the threads on which the history is read.
    pub fn new(limits: WatchLimits, background: Handle, stopping: CancellationToken) -> Self {
        let log = EventLog::starting_after(Revision(0), limits.log);
        Self {
            log: Arc::new(Mutex::new(log)),
            grown: Notify::new(),
            handed: AtomicU64::new(0),
            readers: Semaphore::new(HISTORY_READERS_MAX),
            followers: RwLock::default(),
            count: AtomicUsize::new(0),
            counts: Counts::default(),
            limits,
            background,
            stopping,
            history: OnceLock::new(),
        }
    }

    /// The state of this node begins here; entries after it will be applied.
    pub fn begin(&self, revision: Revision) {
        self.log.lock().jump(revision);
        self.handed.store(revision.0, Ordering::Release);
    }

    pub fn load(&self) -> WatchLoad {
        let (log_changes, log_bytes) = {
            let log = self.log.lock();
            (log.len(), log.bytes())
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WatchLoad {
            followers: self.count.load(Ordering::Relaxed),
            followers_max: self.limits.followers_max,
            changes: count(&self.counts.changes),
            overflows: count(&self.counts.overflows),
            lagging: count(&self.counts.lagging),
            compacted: count(&self.counts.compacted),
            log_changes,
            log_bytes,
        }
    }

    /// The history if it is open now.
    pub fn history_now(&self) -> Option<Arc<History>> {
        self.history.get()?.reader().filter(|history| history.working().is_ok())
    }

    /// Keeps a history in this folder from now on.
    pub fn keep_history(&self, folder: PathBuf, limits: HistoryLimits) {
        // Set once, by the one start.
        drop(self.history.set(HistoryWriter::start(folder, self.log.clone(), limits)));
    }

    pub fn log(&self) -> &Mutex<EventLog> {
        &self.log
    }

    /// The history, once it is open; `None` if there is none.
    pub async fn opened_history(&self) -> Option<Arc<History>> {
        let handle = self.history.get()?;
        while handle.is_opening() && !self.stopping.is_cancelled() {
            sleep(HISTORY_PAUSE).await;
        }
        handle.reader().filter(|history| history.working().is_ok())
    }

    /// Reads the history where waiting for the disk does no harm; `None` if there is none.
    pub async fn read_history<T: Send + 'static>(
        &self,
        read: impl FnOnce(&History) -> T + Send + 'static,
    ) -> Option<T> {
        let history = self.opened_history().await?;
        let _turn = self.readers.acquire().await.ok()?;
        self.background.spawn_blocking(move || read(&history)).await.ok()
    }

    /// Wakes all who follow, so that they see that the node stops.
    fn wake_all(&self) {
        let followers = self.followers.read();
        for follower in followers.all() {
            follower.wake.notify_one();
        }
    }

    /// Ends the history after a last sync. Waits for the disk.
    pub fn stop(&self) {
        if let Some(history) = self.history.get() {
            history.stop();
        }
    }

    /// Returns whether there may be more.
    async fn hand_out_some(&self) -> bool {
        let handed = Revision(self.handed.load(Ordering::Acquire));
        let (newest, step) = {
            let log = self.log.lock();
            (log.newest(), log.after(handed, STEP))
        };
        let Ok((changes, upto)) = step else {
            wake(&self.skip_what_is_forgotten()).await;
            return true;
        };
        let mut looked_at = 0;
        for change in &changes {
            let mut woken = Vec::new();
            looked_at += self.hand_out(change, &mut woken);
            self.handed.store(change.at.revision.0, Ordering::Release);
            wake(&woken).await;
            if looked_at >= LOOKED_AT_ONCE {
                looked_at = 0;
                yield_now().await;
            }
        }
        self.handed.store(upto.0, Ordering::Release);
        yield_now().await;
        upto < newest
    }

    /// The log was cut or jumped before all was handed out: everybody has to look for themselves.
    /// Returns who is to be woken.
    fn skip_what_is_forgotten(&self) -> Vec<Arc<Follower>> {
        let floor = self.log.lock().floor();
        let followers = self.followers.read();
        let all: Vec<_> = followers.all().cloned().collect();
        for follower in &all {
            follower.queue.lock().overflow();
        }
        self.handed.store(floor.0, Ordering::Release);
        all
    }

    /// Puts a change into the queues of those who want it; they are to be woken. Returns how many
    /// were looked at.
    fn hand_out(&self, change: &Arc<Change>, woken: &mut Vec<Arc<Follower>>) -> usize {
        let followers = self.followers.read();
        if followers.is_empty() {
            return 0;
        }
        let touched = touched(change);
        let all = change.events.iter().fold(Kinds::default(), |all, event| all | event.kinds());
        let mut count = 0;
        for follower in followers.of_all.values() {
            let narrow = follower.interest.is_narrow();
            count += self.hand(follower, change, all, narrow, woken);
        }
        for (topic, kinds) in touched {
            for follower in followers.of_topic.get(&topic).into_iter().flat_map(BTreeMap::values) {
                let narrow = follower.interest.is_narrow_in_its_place();
                count += self.hand(follower, change, kinds, narrow, woken);
            }
        }
        count
            + self.hand_out_by_session(change, &followers, woken)
            + self.hand_out_by_claim(change, &followers, woken)
    }

    /// Puts a change into a queue if it is wanted, once. `narrow`: its events must be looked at to
    /// tell. Returns how many were looked at, at least one.
    fn hand(
        &self,
        follower: &Arc<Follower>,
        change: &Arc<Change>,
        kinds: Kinds,
        narrow: bool,
        woken: &mut Vec<Arc<Follower>>,
    ) -> usize {
        let interest = &follower.interest;
        if interest.kinds.meets(kinds) && (!narrow || interest.touched_by(change)) {
            follower.queue.lock().push(change, &self.limits);
            woken.push(follower.clone());
        }
        if narrow { change.events.len().max(1) } else { 1 }
    }

    fn hand_out_by_session(
        &self,
        change: &Arc<Change>,
        followers: &Followers,
        woken: &mut Vec<Arc<Follower>>,
    ) -> usize {
        if followers.of_session.is_empty() {
            return 0;
        }
        // Once for all events of a session: it may end with thousands of things.
        let mut kinds: HashMap<SessionId, Kinds> = HashMap::new();
        for event in &change.events {
            if let Some(session) = event.ends_or_changes() {
                let known = kinds.entry(session).or_default();
                *known = *known | event.kinds();
            }
        }
        let mut count = kinds.len();
        for (session, kinds) in kinds {
            let of_session = followers.of_session.get(&session);
            for follower in of_session.into_iter().flat_map(BTreeMap::values) {
                count += self.hand(follower, change, kinds, false, woken);
            }
        }
        count
    }

    fn hand_out_by_claim(
        &self,
        change: &Arc<Change>,
        followers: &Followers,
        woken: &mut Vec<Arc<Follower>>,
    ) -> usize {
        if followers.of_claim.is_empty() {
            return 0;
        }
        let mut count = 0;
        for event in &change.events {
            let Some((latch, by)) = event.claim() else { continue };
            let of_claim = followers.of_claim.get(&(latch.clone(), by.clone()));
            for follower in of_claim.into_iter().flat_map(BTreeMap::values) {
                count += self.hand(follower, change, Kind::Latch.into(), false, woken);
            }
        }
        count
    }

    /// A place among those who follow.
    pub fn place(self: &Arc<Self>) -> Result<Place, Unavailable> {
        let max = self.limits.followers_max;
        let place = Place(self.clone());
        if self.count.fetch_add(1, Ordering::Relaxed) >= max {
            return Err(Unavailable::Overloaded(format!(
                "{max} watches and long polls are open on this node, its limit (--watches-max); try \
                 another node or later"
            )));
        }
        Ok(place)
    }
}

/// Wakes a few at a time and lets others run in between.
async fn wake(followers: &[Arc<Follower>]) {
    for (n, some) in followers.chunks(WOKEN_AT_ONCE).enumerate() {
        if n > 0 {
            yield_now().await;
        }
        some.iter().for_each(|follower| follower.wake.notify_one());
    }
}

/// Hands out what apply adds, for as long as the node runs.
pub async fn dispatch(watches: Arc<Watches>) {
    loop {
        watches.grown.notified().await;
        while watches.hand_out_some().await {}
    }
}

/// Tells all who follow when the node stops.
pub async fn say_goodbye(watches: Arc<Watches>) {
    watches.stopping.cancelled().await;
    watches.wake_all();
}

impl Observer for Watches {
    fn applied(&self, version: &Arc<Version>, changes: &[Arc<Change>]) {
        let mut log = self.log.lock();
        for change in changes {
            log.push(change.clone());
        }
        log.pass(version.revision());
        drop(log);
        self.grown.notify_one();
        if let Some(history) = self.history.get() {
            history.wake();
        }
    }

    fn replaced(&self, version: &Arc<Version>) {
        self.log.lock().jump(version.revision());
        self.grown.notify_one();
        if let Some(history) = self.history.get() {
            history.jumped(version.revision());
        }
    }

    fn before_checkpoint(&self, upto: Revision) {
        if let Some(history) = self.history.get() {
            history.before_checkpoint(upto);
        }
    }
}

/// The topics that a change touches, with the kinds of its events there.
fn touched(change: &Change) -> Vec<(Topic, Kinds)> {
    let mut touched: Vec<(Topic, Kinds)> = Vec::new();
    let mut known: HashMap<Topic, usize> = HashMap::new();
    for event in &change.events {
        for topic in topics_of(event) {
            // Most changes touch one app, or one app after the other.
            let place = match touched.last() {
                Some((last, _)) if *last == topic => touched.len() - 1,
                Some(_) | None => *known.entry(topic.clone()).or_insert_with(|| {
                    touched.push((topic, Kinds::default()));
                    touched.len() - 1
                }),
            };
            touched[place].1 = touched[place].1 | event.kinds();
        }
    }
    touched
}

fn topics_of(event: &Event) -> impl Iterator<Item = Topic> {
    let app = event.app().map(|app| Topic::App(app.clone()));
    app.into_iter().chain(event.latch().map(|latch| Topic::Latch(latch.clone())))
}

/// The topics under which all that somebody wants is found; `None` if it may be anything.
fn topics_wanted(interest: &Interest) -> Option<Vec<Topic>> {
    let mut topics = Vec::new();
    if interest.kinds.has_any_of_apps() {
        topics.extend(interest.apps.as_ref()?.iter().cloned().map(Topic::App));
    }
    if interest.kinds.has(Kind::Latch) {
        topics.extend(interest.latches.as_ref()?.iter().cloned().map(Topic::Latch));
    }
    Some(topics)
}

impl Followers {
    /// Those of several topics come several times.
    fn all(&self) -> impl Iterator<Item = &Arc<Follower>> {
        let of_topics = self.of_topic.values().flat_map(BTreeMap::values);
        let of_sessions = self.of_session.values().flat_map(BTreeMap::values);
        let of_claims = self.of_claim.values().flat_map(BTreeMap::values);
        self.of_all.values().chain(of_topics).chain(of_sessions).chain(of_claims)
    }

    fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    fn add(&mut self, follower: &Arc<Follower>) -> u64 {
        self.last += 1;
        let number = self.last;
        if let Some(claim) = &follower.interest.claim {
            self.of_claim.entry(claim.clone()).or_default().insert(number, follower.clone());
            return number;
        }
        if let Some(session) = follower.interest.session {
            self.of_session.entry(session).or_default().insert(number, follower.clone());
            return number;
        }
        match topics_wanted(&follower.interest) {
            None => {
                self.of_all.insert(number, follower.clone());
            }
            Some(topics) => {
                for topic in topics {
                    self.of_topic.entry(topic).or_default().insert(number, follower.clone());
                }
            }
        }
        number
    }

    fn remove(&mut self, number: u64, follower: &Follower) {
        if let Some(claim) = &follower.interest.claim {
            remove_from(&mut self.of_claim, claim, number);
            return;
        }
        if let Some(session) = follower.interest.session {
            remove_from(&mut self.of_session, &session, number);
            return;
        }
        self.of_all.remove(&number);
        for topic in topics_wanted(&follower.interest).into_iter().flatten() {
            remove_from(&mut self.of_topic, &topic, number);
        }
    }
}

fn remove_from<K: Eq + Hash>(
    index: &mut HashMap<K, BTreeMap<u64, Arc<Follower>>>,
    key: &K,
    number: u64,
) {
    let Some(followers) = index.get_mut(key) else { return };
    followers.remove(&number);
    if followers.is_empty() {
        index.remove(key);
    }
}

impl Queue {
    fn push(&mut self, change: &Arc<Change>, limits: &WatchLimits) {
        let known = self.changes.back().is_some_and(|last| last.at.revision >= change.at.revision);
        if self.overflowed || known {
            return;
        }
        let full = self.changes.len() >= limits.queue_changes_max
            || (self.bytes > 0 && self.bytes + change.bytes() > limits.queue_bytes_max);
        if full {
            return self.overflow();
        }
        if self.changes.is_empty() {
            self.passed = Revision(change.at.revision.0.saturating_sub(1));
        }
        self.bytes += change.bytes();
        self.changes.push_back(change.clone());
    }

    fn overflow(&mut self) {
        *self = Self { overflowed: true, passed: self.passed, ..Self::default() };
    }

    /// All that lies in it. If something was dropped, where to read on from.
    fn take(&mut self) -> Result<VecDeque<Arc<Change>>, Revision> {
        let Self { changes, overflowed, passed, .. } = std::mem::take(self);
        if overflowed { Err(passed) } else { Ok(changes) }
    }
}

/// A place among those who follow; given back when dropped.
pub struct Place(Arc<Watches>);

impl Place {
    /// Follows from a revision that this node has reached.
    pub async fn follow(
        self,
        interest: Interest,
        after: Revision,
    ) -> Result<Box<dyn Feed>, NotFollowed> {
        let follower =
            Arc::new(Follower { interest, queue: Mutex::default(), wake: Notify::new() });
        let number = self.0.followers.write().add(&follower);
        let following = Following {
            place: self,
            number,
            follower,
            position: after,
            behind: true,
            told_at: None,
            away: Duration::ZERO,
            missing_since: None,
            alarm: Box::pin(sleep(Duration::ZERO)),
        };
        // Known before the answer begins, so that it can be a plain refusal.
        following.is_kept().await?;
        Ok(Box::new(following))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One reader's way through the changes.
struct Following {
    place: Place,
    number: u64,
    follower: Arc<Follower>,
    /// All up to here was told.
    position: Revision,
    /// It reads from the log and not from its queue.
    behind: bool,
    /// When it was told something last, if it was.
    told_at: Option<Instant>,
    /// How long it did not ask for more, before this time.
    away: Duration,
    /// Since when what comes next is neither in memory nor in the history.
    missing_since: Option<Instant>,
    /// Set again only when it has gone off: most waits end before.
    alarm: Pin<Box<Sleep>>,
}

/// What one look at the past gave.
enum Step {
    Told(Told),
    /// Nothing of interest.
    Nothing,
    /// Memory does not have it any more.
    Forgotten,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.watches().followers.write().remove(self.number, &self.follower);
    }
}

impl Following {
    fn watches(&self) -> &Watches {
        &self.place.0
    }

    /// Whether all from its position on is kept, in memory or in the history behind it.
    async fn is_kept(&self) -> Result<(), NotFollowed> {
        let (floor, restart_from) = {
            let log = self.watches().log.lock();
            (log.floor(), log.newest())
        };
        if self.position >= floor {
            return Ok(());
        }
        let kept = match self.has_no_history() {
            true => None,
            false => {
                let position = self.position;
                self.watches().read_history(move |history| history.leads(position, floor)).await
            }
        };
        match kept {
            Some(true) => Ok(()),
            Some(false) | None => Err(NotFollowed::Compacted { restart_from }),
        }
    }

    /// What clients are not told of is not in the history.
    fn has_no_history(&self) -> bool {
        self.follower.interest.kinds.has(Kind::Session)
    }

    /// The next changes from memory.
    fn read_log(&mut self) -> Step {
        // Whatever is handed out from now on is above what is read here.
        self.follower.queue.lock().overflowed = false;
        let (newest, read) = {
            let log = self.watches().log.lock();
            (log.newest(), log.after(self.position, STEP))
        };
        let Ok((changes, upto)) = read else { return Step::Forgotten };
        self.behind = upto < newest;
        self.missing_since = None;
        self.told(changes, upto)
    }

    /// The next changes from the history.
    async fn read_history(&mut self) -> Step {
        if self.has_no_history() {
            return Step::Told(self.compacted());
        }
        let (follower, position) = (self.follower.clone(), self.position);
        let read = move |history: &History| history.after(position, &follower.interest, STEP);
        let read = self.watches().read_history(read).await;
        match read {
            Some(Ok((changes, upto))) if upto > position => {
                self.missing_since = None;
                self.told(changes, upto)
            }
            // It is not written yet.
            Some(Ok(_)) => match self.missing_since.get_or_insert_with(Instant::now).elapsed() {
                waited if waited > HISTORY_PATIENCE => Step::Told(self.compacted()),
                _ => {
                    sleep(HISTORY_PAUSE).await;
                    Step::Nothing
                }
            },
            Some(Err(_)) | None => Step::Told(self.compacted()),
        }
    }

    fn compacted(&self) -> Told {
        Told::Compacted { restart_from: self.watches().log.lock().newest() }
    }

    fn told(&mut self, mut changes: Vec<Arc<Change>>, upto: Revision) -> Step {
        self.position = upto;
        changes.retain(|change| self.follower.interest.touched_by(change));
        if changes.is_empty() { Step::Nothing } else { Step::Told(Told::Changes(changes)) }
    }

    /// What lies in the queue; `None` if that is nothing new.
    fn read_queue(&mut self) -> Option<Told> {
        // First: what was handed out by then lies in the queue.
        let handed = Revision(self.watches().handed.load(Ordering::Acquire));
        let taken = self.follower.queue.lock().take();
        let changes = match taken {
            Ok(changes) => changes,
            Err(passed) => return self.fall_behind(passed),
        };
        let new: Vec<_> =
            changes.into_iter().filter(|change| change.at.revision > self.position).collect();
        let last = new.last().map_or(handed, |last| last.at.revision);
        self.position = self.position.max(last);
        (!new.is_empty()).then_some(Told::Changes(new))
    }

    /// The queue overflowed: on from the log, unless nobody reads.
    fn fall_behind(&mut self, passed: Revision) -> Option<Told> {
        self.watches().counts.overflows.fetch_add(1, Ordering::Relaxed);
        self.behind = true;
        self.position = self.position.max(passed);
        (self.away > STALLED).then_some(Told::Lagging(self.position))
    }

    async fn read(&mut self, patience: Duration) -> Told {
        let deadline = Instant::now() + patience;
        loop {
            if self.watches().stopping.is_cancelled() {
                return Told::Stopping(self.position);
            }
            if self.behind {
                let mut step = self.read_log();
                if let Step::Forgotten = step {
                    step = self.read_history().await;
                }
                if let Step::Told(told) = step {
                    return told;
                }
                if Instant::now() >= deadline {
                    return Told::UpTo(self.position);
                }
                yield_now().await;
                continue;
            }
            if let Some(told) = self.read_queue() {
                return told;
            }
            if self.behind {
                continue;
            }
            self.away = Duration::ZERO;
            if Instant::now() >= deadline {
                return Told::UpTo(self.position);
            }
            self.wait(deadline).await;
        }
    }

    /// Waits until there is something to see, or until about this moment.
    async fn wait(&mut self, deadline: Instant) {
        if self.alarm.is_elapsed() || self.alarm.deadline() > deadline {
            self.alarm.as_mut().reset(deadline);
        }
        tokio::select! {
            biased;
            () = self.follower.wake.notified() => {}
            () = &mut self.alarm => {}
        }
    }
}

#[async_trait]
impl Feed for Following {
    async fn next(&mut self, patience: Duration) -> Told {
        self.away = self.told_at.map_or(Duration::ZERO, |at| at.elapsed());
        let told = self.read(patience).await;
        self.told_at = Some(Instant::now());
        self.watches().counts.count(&told);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn thousands_who_are_woken_at_once_let_others_run_in_between() {
        const FOLLOWERS: usize = 2_000;
        let (waiting, written) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let followers: Vec<_> = (0..FOLLOWERS)
            .map(|_| {
                let (interest, queue) = (Interest::default(), Mutex::default());
                Arc::new(Follower { interest, queue, wake: Notify::new() })
            })
            .collect();
        for follower in followers.clone() {
            let (waiting, written) = (waiting.clone(), written.clone());
            tokio::spawn(async move {
                waiting.fetch_add(1, Ordering::Relaxed);
                follower.wake.notified().await;
                written.fetch_add(1, Ordering::Relaxed);
            });
        }
        while waiting.load(Ordering::Relaxed) < FOLLOWERS {
            yield_now().await;
        }
        let heartbeat = tokio::spawn({
            let written = written.clone();
            async move {
                let (mut before, mut longest_wait) = (0, 0);
                while before < FOLLOWERS {
                    yield_now().await;
                    let now = written.load(Ordering::Relaxed);
                    longest_wait = longest_wait.max(now - before);
                    before = now;
                }
                longest_wait
            }
        });
        wake(&followers).await;
        let longest_wait = heartbeat.await.expect("it ran");
        assert!(longest_wait <= 2 * WOKEN_AT_ONCE, "{longest_wait} went first");
    }
}
