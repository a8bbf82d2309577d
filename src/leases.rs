//! Leases: the leader's knowledge of who was heard when ([`table`]), the clock that it is judged by
//! ([`clock`]) and the loop that proposes expiries ([`keeper`]).
//!
//! The rules, each closing a hole (the numbers are those of ARCHITECTURE.md, "Heartbeats and
//! expiry"):
//!
//! 1. A heartbeat is received, then the leadership is confirmed, then it is renewed, then answered.
//! 2. A new leader opens its table after its first read index was applied, and gives every session a
//!    full TTL plus one lease.
//! 3. A session whose removal may have been proposed is not acknowledged.
//! 4. An expiry names what it saw and is dropped by apply if that moved on.
//! 5. The node's own delay is left out of the clock.

pub mod adoption;
pub mod bodies;
pub mod brake;
mod chunked;
pub mod clock;
pub mod keeper;
mod lease;
mod named;
pub mod pacer;
pub mod pacing;
mod removals;
mod sync;
mod table;
mod taking;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use roster_api::registry::{Beat, BeatTarget};
use roster_storage::brake::stretched;
use roster_storage::catalog::{Catalog, Session};
use roster_storage::events::{Change, Event};
use roster_storage::histogram::Histogram;
use roster_storage::names::{AppName, Revision, SessionId};
use roster_storage::version::{Observer, Published, Version};
use tokio::sync::watch;
use tokio::task::yield_now;

use adoption::Adoptions;
use clock::LeaseClock;
#[cfg(test)]
pub(crate) use table::PARTS;
pub use table::{
    Due, Ended, LeaseTable, Looked, NotRenewed, Overdue, Place, RenewedByName, SLOT_MS,
};

/// Sessions that are filled into a new table at a time: well below a millisecond.
const FILLED_AT_ONCE: usize = 1_024;

/// Between the deadline of a session and its removal, milliseconds. Single ones go within some tens of
/// them, those that a brake holds within a quarter of an hour.
const LATENESS_MS: &[u64] =
    &[20, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000];

/// A node's leases: a table while it leads, nothing else.
#[derive(Debug)]
pub struct Leases {
    pub clock: LeaseClock,
    table: ArcSwapOption<LeaseTable>,
    /// Taken by apply for each batch and while a table is opened, so that no change falls between.
    opening: Mutex<()>,
    /// Who has adopted which epoch of a ring; `None` while the node does not lead.
    adoptions: Mutex<Option<Adoptions>>,
    applied: watch::Sender<u64>,
    heartbeats: Rate,
    /// What answers to heartbeats tell, percent: never more than what deadlines are judged by.
    told_percent: AtomicU32,
    /// How long after their deadlines sessions were removed by this node, milliseconds.
    lateness: Histogram,
    /// Overdue sessions that the brake holds, as the last turn of the leader's loop left them.
    held_back: AtomicU64,
}

impl Leases {
    pub fn new() -> Self {
        Self {
            clock: LeaseClock::new(),
            table: ArcSwapOption::empty(),
            opening: Mutex::new(()),
            adoptions: Mutex::new(None),
            applied: watch::Sender::new(0),
            heartbeats: Rate::new(),
            told_percent: AtomicU32::new(pacing::UNSTRETCHED),
            lateness: Histogram::new(LATENESS_MS),
            held_back: AtomicU64::new(0),
        }
    }

    pub fn table(&self) -> Option<Arc<LeaseTable>> {
        self.table.load_full()
    }

    /// The state of this node begins here. Nothing may be applied for long after a start whose
    /// checkpoint holds all there is, and whoever waits for what it holds must not wait for more.
    pub fn begin(&self, revision: Revision) {
        self.applied.send_replace(revision.0);
    }

    /// The index of the last applied entry, as it moves.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Rule 2: every session gets its full TTL and one lease from now, since for up to one lease
    /// the old leader may still have acknowledged.
    ///
    /// Heartbeats and apply use the table from the first moment, and it is filled meanwhile, a piece
    /// at a time: a million sessions take a few hundred milliseconds, in which neither may wait.
    async fn open(&self, term: u64, published: &Published, lease_ms: u64) -> Arc<LeaseTable> {
        let (table, version) = self.begin_table(term, published, lease_ms);
        let mut sessions = version.catalog.sessions();
        while fill(&table, sessions.by_ref().take(FILLED_AT_ONCE)) == FILLED_AT_ONCE {
            yield_now().await;
        }
        table.opened();
        table
    }

    /// From here on apply tells the table of all that comes after the version that is returned.
    pub(crate) fn begin_table(
        &self,
        term: u64,
        published: &Published,
        lease_ms: u64,
    ) -> (Arc<LeaseTable>, Arc<Version>) {
        let _no_apply_meanwhile = self.opening.lock();
        let version = published.load();
        let heard = self.clock.now() + lease_ms;
        let table = Arc::new(LeaseTable::opening(term, heard, version.revision()));
        *self.adoptions.lock() = Some(Adoptions::open(&version.catalog));
        self.take_pace(&table, &version.catalog);
        self.table.store(Some(table.clone()));
        (table, version)
    }

    /// Deadlines first: nobody may be told a TTL that is not held yet.
    fn take_pace(&self, table: &LeaseTable, catalog: &Catalog) {
        let pace = catalog.pace();
        table.set_stretch(pace.held_percent);
        self.told_percent.store(pace.told_percent, Ordering::Release);
    }

    /// A TTL in milliseconds as the answer to a heartbeat tells it.
    pub fn told(&self, ttl_ms: u64) -> u64 {
        stretched(ttl_ms, self.told_percent.load(Ordering::Acquire))
    }

    fn close(&self) {
        self.table.store(None);
        self.hold_back(0);
        *self.adoptions.lock() = None;
    }

    /// Takes up what a beat tells of adopted epochs: an instance's own speaks for that one alone, a
    /// session's for all that hang off it. Returns what is settled of those rings.
    pub fn adopt(
        &self,
        catalog: &Catalog,
        beat: &Beat,
        session: SessionId,
    ) -> Vec<(AppName, Revision)> {
        let mut adoptions = self.adoptions.lock();
        let Some(adoptions) = adoptions.as_mut() else { return Vec::new() };
        let mut settled = Vec::with_capacity(beat.adopted.len());
        for (app, epoch) in &beat.adopted {
            match &beat.target {
                BeatTarget::Instance { key, .. } => adoptions.adopt(&key.app, &key.id, *epoch),
                BeatTarget::Session(_) => catalog
                    .held_in(session, app)
                    .for_each(|key| adoptions.adopt(app, &key.id, *epoch)),
            }
            settled.extend(adoptions.settled(app).map(|epoch| (app.clone(), epoch)));
        }
        settled
    }

    pub fn count_heartbeats(&self, count: u64) {
        self.heartbeats.add(count);
    }

    /// All heartbeats that this node took as leader, since its start.
    pub fn heartbeats_so_far(&self) -> u64 {
        self.heartbeats.total()
    }

    /// How long after their deadlines sessions were removed by this node as leader, milliseconds.
    pub fn lateness(&self) -> &Histogram {
        &self.lateness
    }

    fn hold_back(&self, sessions: usize) {
        self.held_back.store(sessions as u64, Ordering::Relaxed);
    }

    /// Overdue sessions that the brake of this leader does not let go yet.
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Heartbeats in the last whole second.
    pub fn heartbeats_per_second(&self) -> u64 {
        self.heartbeats.last_second()
    }
}

/// Returns how many there were.
pub(crate) fn fill<'a>(
    table: &LeaseTable,
    sessions: impl Iterator<Item = (SessionId, &'a Session)>,
) -> usize {
    let fill = |(id, session): (SessionId, &Session)| {
        if table.fill(id, session.ttl_ms(), session.touched) {
            table.name(id, session, None);
        }
    };
    sessions.map(fill).count()
}

impl Observer for Leases {
    /// Before any of the writers is answered: who is told that it is registered has its lease.
    fn applied(&self, version: &Arc<Version>, changes: &[Arc<Change>]) {
        {
            let _no_opening_meanwhile = self.opening.lock();
            if let Some(table) = self.table.load().as_ref() {
                self.take_pace(table, &version.catalog);
                if let Some(adoptions) = self.adoptions.lock().as_mut() {
                    changes.iter().for_each(|change| adoptions.take(change, &version.catalog));
                }
                let now = self.clock.now();
                let events = changes.iter().flat_map(|change| {
                    change.events.iter().map(|event| (change.at.revision, event))
                });
                for (revision, event) in events {
                    match event {
                        Event::SessionPut { session, ttl_ms, touched } => {
                            table.touch(*session, *ttl_ms, *touched, now);
                        }
                        Event::InstancePut { now: began, ttl_ms, before: None, .. } => {
                            let began = &began.instance;
                            table.touch(began.session, *ttl_ms, revision, now);
                            // It may have ended in the same batch.
                            if let Some(session) = version.catalog.session(began.session) {
                                table.name(began.session, session, Some(began.incarnation));
                            }
                        }
                        Event::InstanceDeleted { key, last, .. } => {
                            table.unname(key, last.instance.session);
                        }
                        Event::SessionEnded { session, .. } => table.forget(*session),
                        Event::AppPut { .. }
                        | Event::AppDeleted { .. }
                        | Event::InstancePut { before: Some(_), .. }
                        | Event::ShardDeleted { .. }
                        | Event::DocumentPut { .. }
                        | Event::DocumentDeleted { .. }
                        | Event::RingPut { .. }
                        | Event::RingDeleted { .. }
                        | Event::WorkPut { .. }
                        | Event::WorkEnded { .. }
                        | Event::ClaimPut { .. }
                        | Event::ClaimEnded { .. }
                        | Event::AlarmPut { .. }
                        | Event::AlarmEnded { .. } => {}
                    }
                }
                table.told_up_to(version.revision());
            }
        }
        self.applied.send_replace(version.revision().0);
    }

    /// Only a follower gets here; a leader's state is never replaced.
    fn replaced(&self, version: &Arc<Version>) {
        self.applied.send_replace(version.revision().0);
    }
}

/// Counts per second, read at any time.
#[derive(Debug)]
struct Rate {
    origin: Instant,
    /// The second that is being counted, and its count; then the one before.
    current: AtomicU64,
    seconds: Mutex<(u64, u64)>,
    /// In all seconds before the one that is being counted.
    past: AtomicU64,
}

impl Rate {
    fn new() -> Self {
        Self {
            origin: Instant::now(),
            current: AtomicU64::new(0),
            seconds: Mutex::new((0, 0)),
            past: AtomicU64::new(0),
        }
    }

    fn add(&self, count: u64) {
        self.turn();
        self.current.fetch_add(count, Ordering::Relaxed);
    }

    fn last_second(&self) -> u64 {
        self.turn();
        self.seconds.lock().1
    }

    /// Since the start.
    fn total(&self) -> u64 {
        let _no_turn_meanwhile = self.seconds.lock();
        self.past.load(Ordering::Relaxed) + self.current.load(Ordering::Relaxed)
    }

    /// Closes the second that is over, if one is.
    fn turn(&self) {
        let now = self.origin.elapsed().as_secs();
        let mut seconds = self.seconds.lock();
        if seconds.0 != now {
            let counted = self.current.swap(0, Ordering::Relaxed);
            self.past.fetch_add(counted, Ordering::Relaxed);
            *seconds = (now, if seconds.0 + 1 == now { counted } else { 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use roster_storage::catalog::At;
    use roster_storage::command::{
        Command, Condition, OpenSession, Profile, PutRing, Register, SetPace, Stamp,
    };
    use roster_storage::names::{InstanceId, InstanceKey};

    use super::*;

    fn key(id: &str) -> InstanceKey {
        let app = AppName::new("fetchers").expect("a name");
        InstanceKey::new(app, InstanceId::new(id).expect("an id"))
    }

    /// A ring of two on one session.
    fn two_on_one_session() -> (Catalog, SessionId, Revision) {
        let mut catalog = Catalog::default();
        let session = SessionId(1);
        let register = |id| {
            Command::Register(Register {
                key: key(id),
                profile: Profile { weight: 1, ..Profile::default() }.into(),
                session: Some(session),
                ttl_ms: None,
                takeover: false,
                create_app: Some(0),
                condition: Condition::Any,
            })
        };
        let open = OpenSession { ttl_ms: None, name: "both".into(), request: None };
        let condition = Condition::Any;
        let ring = PutRing { app: key("a").app, seed: 0, replicas: 1, condition };
        let commands =
            [Command::OpenSession(open), register("a"), register("b"), Command::PutRing(ring)];
        for (revision, command) in (1..).zip(&commands) {
            let at = At { revision: Revision(revision), term: 1, stamp: Stamp::default() };
            let (outcome, _) = catalog.apply(at, command);
            outcome.result.expect("not refused");
        }
        (catalog, session, Revision(commands.len() as u64))
    }

    #[test]
    fn a_longer_ttl_is_held_when_it_is_told_and_for_as_long_as_somebody_was_told_it() {
        let (mut catalog, session, revision) = two_on_one_session();
        let published = Published::default();
        let leases = Leases::new();
        let (table, _) = leases.begin_table(1, &published, 0);
        let ttl_ms = catalog.session(session).expect("it is there").ttl_ms();
        table.touch(session, ttl_ms, revision, 0);
        let mut set = |revision, percent| {
            let at = At { revision: Revision(revision), term: 1, stamp: Stamp::default() };
            catalog.apply(at, &Command::Pace(SetPace { term: 1, percent }));
            let version = Version { catalog: catalog.clone(), ..Version::default() };
            Observer::applied(&leases, &Arc::new(version), &[]);
        };
        assert_eq!(leases.told(ttl_ms), ttl_ms);
        for (revision, percent) in [(11, 300), (12, 100)] {
            set(revision, percent);
            assert_eq!(leases.told(ttl_ms), ttl_ms * u64::from(percent) / 100);
            let overdue = |now| table.take_due(now, 10).is_some_and(|due| !due.is_empty());
            assert!(!overdue(ttl_ms * 2), "{percent} %: removed within what was told");
        }
    }

    #[test]
    fn an_instances_beat_adopts_for_itself_and_a_sessions_for_all_on_it() {
        let (catalog, session, epoch) = two_on_one_session();
        let leases = Leases::new();
        *leases.adoptions.lock() = Some(Adoptions::open(&catalog));
        let app = key("a").app;
        let settled = |target| {
            let beat = Beat { adopted: vec![(app.clone(), epoch)], ..Beat::of(target) };
            leases.adopt(&catalog, &beat, session)
        };
        let own = |id| BeatTarget::Instance { key: key(id), incarnation: None };
        let not_yet = [(app.clone(), Revision(0))];
        assert_eq!(settled(own("a")), not_yet, "b is at work still");
        assert_eq!(settled(own("b")), [(app.clone(), epoch)]);
        *leases.adoptions.lock() = Some(Adoptions::open(&catalog));
        assert_eq!(settled(BeatTarget::Session(session)), [(app.clone(), epoch)]);
    }
}
