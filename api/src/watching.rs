//! One watch: a snapshot if one is wanted, then the changes, as the pieces of an answer's body.
//!
//! A piece is made when the connection can take it, so a slow reader makes nothing pile up here.

use std::collections::VecDeque;
use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use roster_storage::brake::Scope;
use roster_storage::catalog::{App, Catalog};
use roster_storage::events::{Change, Event, Interest, Kind, Seen};
use roster_storage::latch::{Claim, Latch};
use roster_storage::names::{
    AppName, DocumentName, InstanceId, InstanceKey, LatchKey, Revision, ShardId, ShardSetName,
};
use roster_storage::version::Version;
use tokio::task::yield_now;

use crate::Api;
use crate::error::ApiError;
use crate::extract::Reading;
use crate::filter::Wanted;
use crate::registry::{Feed, NotFollowed, Told};
use crate::wire::event::{
    Format, Frames, Mark, Pick, Picked, event_name, open_event, pick, snapshot,
};

/// A watcher is told at least this often how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(8);

/// Those that begin one after the other are told in periods that differ by this, in so many steps:
/// else thousands that came back together would be told in the same moment for ever.
const BOOKMARK_STEP: Duration = Duration::from_millis(50);
const BOOKMARK_STEPS: u32 = 32;

/// A piece of the body is given on when it is this large.
const PIECE_BYTES: usize = 32 * 1024;

/// Instances or events that are looked at before others may run.
const LOOKED_AT_ONCE: usize = 500;

/// What was asked for.
pub(crate) struct Asked {
    pub interest: Interest,
    pub wanted: Wanted,
    /// Of what workers hold, only what they hold in this set.
    pub set: Option<ShardSetName>,
    pub format: Format,
    /// All after this; without it a snapshot comes first.
    pub from: Option<Revision>,
    /// Where `from` is not kept any more: a snapshot in the same stream.
    pub restart: bool,
    /// How the snapshot is read.
    pub reading: Reading,
    /// How long this node may take to reach `from`.
    pub patience: Duration,
}

impl Asked {
    /// Where a set is named, nothing but work is watched.
    fn is_of_set(&self, event: &Event) -> bool {
        let Some(wanted) = &self.set else { return true };
        match event {
            Event::WorkPut { set, .. } | Event::WorkEnded { set, .. } => set == wanted,
            Event::AppPut { .. }
            | Event::AppDeleted { .. }
            | Event::InstancePut { .. }
            | Event::InstanceDeleted { .. }
            | Event::ShardDeleted { .. }
            | Event::DocumentPut { .. }
            | Event::DocumentDeleted { .. }
            | Event::RingPut { .. }
            | Event::RingDeleted { .. }
            | Event::ClaimPut { .. }
            | Event::ClaimEnded { .. }
            | Event::AlarmPut { .. }
            | Event::AlarmEnded { .. }
            | Event::SessionPut { .. }
            | Event::SessionEnded { .. } => false,
        }
    }
}

pub(crate) struct Watching {
    api: Arc<Api>,
    asked: Arc<Asked>,
    frames: Frames,
    phase: Phase,
    bookmark_every: Duration,
    bookmark_due: Instant,
}

enum Phase {
    Snapshot { version: Arc<Version>, place: Box<Place>, feed: Box<dyn Feed> },
    Changes(Following),
    Ended,
}

struct Following {
    feed: Box<dyn Feed>,
    /// Not looked at yet.
    changes: VecDeque<Arc<Change>>,
    /// Looked at, and sent up to `sent` of its picks.
    current: Option<Picked>,
    sent: usize,
}

impl Following {
    fn new(feed: Box<dyn Feed>) -> Self {
        Self { feed, changes: VecDeque::new(), current: None, sent: 0 }
    }
}

/// How far a snapshot is: this app was sent, its instances and its documents up to these.
#[derive(Default)]
struct Place {
    app: Option<AppName>,
    ring: bool,
    id: Option<InstanceId>,
    document: Option<DocumentName>,
    work: Work,
    /// After all apps: up to this latch, but these claims on it.
    latch: Option<LatchKey>,
    claims: VecDeque<(LatchKey, Arc<Claim>)>,
    /// At the end: the alarms up to the one of this scope.
    alarm: Option<Scope>,
}

/// How far the work of an app's instances was sent: this set up to this worker.
#[derive(Default)]
struct Work {
    set: Option<ShardSetName>,
    /// Those of the set that come after `worker`.
    workers: VecDeque<InstanceId>,
    worker: Option<InstanceId>,
    /// What `worker` holds and was not sent.
    shards: VecDeque<ShardId>,
}

impl Watching {
    /// Refusals that are known before the answer begins are plain ones. Returns the revision from
    /// which the changes go on.
    pub async fn begin(api: Arc<Api>, asked: Asked) -> Result<(Self, Revision), ApiError> {
        let mut frames = Frames::new(asked.format);
        let (phase, revision) = match asked.from {
            None => snapshot_phase(&api, &asked, &mut frames).await?,
            Some(from) => {
                match api.registry.follow(asked.interest.clone(), from, asked.patience).await {
                    Ok(feed) => (Phase::Changes(Following::new(feed)), from),
                    Err(NotFollowed::Compacted { restart_from }) if asked.restart => {
                        frames.mark(&Mark::Compacted { restart_from });
                        snapshot_phase(&api, &asked, &mut frames).await?
                    }
                    Err(why) => return Err(ApiError::not_followed(why, from)),
                }
            }
        };
        let step = api.watches_begun.fetch_add(1, Ordering::Relaxed) % BOOKMARK_STEPS;
        let bookmark_every = BOOKMARK_EVERY - BOOKMARK_STEP * step;
        let bookmark_due = Instant::now() + bookmark_every;
        let asked = Arc::new(asked);
        Ok((Self { api, asked, frames, phase, bookmark_every, bookmark_due }, revision))
    }

    /// The next piece; `None` at the end.
    pub async fn piece(&mut self) -> Option<Bytes> {
        while self.frames.is_empty() {
            match &mut self.phase {
                Phase::Ended => return None,
                Phase::Snapshot { .. } => self.go_on_with_snapshot().await,
                Phase::Changes(_) => self.follow().await,
            }
        }
        Some(self.frames.take())
    }

    /// Writes the next piece aside: thousands may come for a snapshot at once.
    async fn go_on_with_snapshot(&mut self) {
        let Phase::Snapshot { version, place, .. } = &mut self.phase else { return };
        let (asked, version, mut place) = (self.asked.clone(), version.clone(), take(place));
        let mut frames = Frames::new(asked.format);
        let written = self.api.aside_in_turn(async move {
            let done = stand(&asked, &version.catalog, &mut place, &mut frames).await;
            (done, place, frames)
        });
        match written.await {
            Ok((true, _, frames)) => {
                self.frames = frames;
                self.end_snapshot();
            }
            Ok((false, now, frames)) => {
                self.frames = frames;
                if let Phase::Snapshot { place, .. } = &mut self.phase {
                    *place = now;
                }
            }
            // The stream breaks off before the end of the snapshot, which says that it is not whole.
            Err(_) => self.phase = Phase::Ended,
        }
    }

    fn end_snapshot(&mut self) {
        if let Phase::Snapshot { version, feed, .. } =
            std::mem::replace(&mut self.phase, Phase::Ended)
        {
            self.frames.mark(&Mark::SnapshotEnd(version.revision()));
            self.phase = Phase::Changes(Following::new(feed));
        }
    }

    /// Writes what comes next, or waits for it.
    async fn follow(&mut self) {
        let Phase::Changes(following) = &mut self.phase else { return };
        following.send(&self.asked, &mut self.frames).await;
        if !self.frames.is_empty() {
            return;
        }
        let patience = self.bookmark_due.saturating_duration_since(Instant::now());
        match following.feed.next(patience).await {
            Told::Changes(changes) => {
                let last = changes.last().map(|change| change.at.revision);
                following.changes.extend(changes);
                following.send(&self.asked, &mut self.frames).await;
                // Also while changes come one after the other, wanted ones or not.
                if let Some(last) = last.filter(|_| following.all_sent())
                    && self.bookmark_due <= Instant::now()
                {
                    self.bookmark(last);
                }
            }
            Told::UpTo(revision) => self.bookmark(revision),
            Told::Lagging(revision) => self.end(&Mark::Lagging(revision)),
            Told::Stopping(revision) => self.end(&Mark::Bye(revision)),
            Told::Compacted { restart_from } => {
                self.frames.mark(&Mark::Compacted { restart_from });
                self.phase = Phase::Ended;
                if self.asked.restart
                    && let Ok((phase, _)) =
                        snapshot_phase(&self.api, &self.asked, &mut self.frames).await
                {
                    self.phase = phase;
                }
            }
        }
    }

    fn bookmark(&mut self, revision: Revision) {
        self.frames.mark(&Mark::Bookmark(revision));
        self.bookmark_due = Instant::now() + self.bookmark_every;
    }

    fn end(&mut self, mark: &Mark) {
        self.frames.mark(mark);
        self.phase = Phase::Ended;
    }
}

async fn snapshot_phase(
    api: &Api,
    asked: &Asked,
    frames: &mut Frames,
) -> Result<(Phase, Revision), ApiError> {
    let version = api.read(asked.reading).await?;
    let revision = version.revision();
    // From here on nothing is missed, however long the snapshot takes to read.
    let feed = api.registry.follow(asked.interest.clone(), revision, asked.patience).await;
    let feed = feed.map_err(|why| ApiError::not_followed(why, revision))?;
    frames.mark(&Mark::SnapshotBegin(revision));
    Ok((Phase::Snapshot { version, place: Box::default(), feed }, revision))
}

/// Writes the next things that stand in the catalogue; returns whether they were the last.
async fn stand(asked: &Asked, catalog: &Catalog, place: &mut Place, frames: &mut Frames) -> bool {
    let mut looked_at = 0;
    while frames.len() < PIECE_BYTES {
        looked_at += 1;
        if looked_at % LOOKED_AT_ONCE == 0 {
            yield_now().await;
        }
        let written = ring_stands(asked, catalog, place, frames)
            || instance_stands(asked, catalog, place, frames)
            || document_stands(asked, catalog, place, frames)
            || work_stands(asked, catalog, place, frames)
            || app_stands(asked, catalog, place, frames)
            || claim_stands(asked, catalog, place, frames)
            || alarm_stands(asked, catalog, place, frames);
        if !written {
            return true;
        }
    }
    false
}

fn next_app<'a>(
    interest: &Interest,
    catalog: &'a Catalog,
    after: Option<&AppName>,
) -> Option<(&'a AppName, &'a Arc<App>)> {
    use std::ops::Bound::{Excluded, Unbounded};
    let Some(apps) = &interest.apps else { return catalog.apps_after(after).next() };
    let from = after.map_or(Unbounded, Excluded);
    // An app that is not there is an empty snapshot.
    apps.range::<AppName, _>((from, Unbounded)).find_map(|name| catalog.app_entry(name))
}

/// Writes the next app itself; returns whether there was one.
fn app_stands(asked: &Asked, catalog: &Catalog, place: &mut Place, frames: &mut Frames) -> bool {
    if !asked.interest.kinds.has_any_of_apps() {
        return false;
    }
    let next = next_app(&asked.interest, catalog, place.app.as_ref());
    let Some((name, app)) = next else { return false };
    if asked.interest.kinds.has(Kind::App) {
        frames.standing(&snapshot::app(name, &app.record.policy, app.record.revision));
    }
    *place = Place { app: Some(name.clone()), ..Place::default() };
    true
}

/// Writes the ring of the app; returns whether there was one that was not written.
fn ring_stands(asked: &Asked, catalog: &Catalog, place: &mut Place, frames: &mut Frames) -> bool {
    let current = place.app.as_ref().filter(|_| asked.interest.kinds.has(Kind::Ring));
    let Some(name) = current.filter(|_| !place.ring) else { return false };
    let Some(ring) = catalog.ring(name) else { return false };
    frames.standing(&snapshot::ring(name, ring));
    place.ring = true;
    true
}

/// Writes the next instance of the app, and its shard; returns whether there was one.
fn instance_stands(
    asked: &Asked,
    catalog: &Catalog,
    place: &mut Place,
    frames: &mut Frames,
) -> bool {
    use std::ops::Bound::{Excluded, Unbounded};
    let kinds = asked.interest.kinds;
    let current = place.app.as_ref().and_then(|name| catalog.app_entry(name));
    let wanted = kinds.has(Kind::Instance) || kinds.has(Kind::Shard);
    let Some((name, app)) = current.filter(|_| wanted) else { return false };
    let from = place.id.as_ref().map_or(Unbounded, Excluded);
    let next = match &asked.interest.id {
        None => app.instances.starting(from).next(),
        Some(id) => app.instances.get_key_value(id.as_str()).filter(|_| place.id.is_none()),
    };
    let Some((id, instance)) = next else { return false };
    let key = InstanceKey::new(name.clone(), id.clone());
    let state = catalog.state_of(&key);
    let matches = asked.wanted.is_all() || asked.wanted.matches(name, id, instance, state.word());
    if kinds.has(Kind::Instance) && matches {
        let ttl_ms = catalog.session(instance.session).map_or(0, |session| session.ttl_ms());
        let now = Seen { instance: instance.clone(), state };
        frames.standing(&snapshot::instance(&key, &now, ttl_ms));
    }
    if kinds.has(Kind::Shard) {
        frames.standing(&snapshot::shard(&key, instance));
    }
    place.id = Some(key.id);
    true
}

/// Writes the next document of the app; returns whether there was one.
fn document_stands(
    asked: &Asked,
    catalog: &Catalog,
    place: &mut Place,
    frames: &mut Frames,
) -> bool {
    let current = place.app.as_ref().and_then(|name| catalog.app_entry(name));
    let wanted = asked.interest.kinds.has(Kind::Document);
    let Some((app_name, app)) = current.filter(|_| wanted) else { return false };
    let next = match &asked.interest.id {
        None => app.documents_after(place.document.as_ref()).next(),
        Some(id) => app.documents.get_key_value(id.as_str()).filter(|_| place.document.is_none()),
    };
    let Some((name, document)) = next else { return false };
    frames.standing(&snapshot::document(app_name, name, document));
    place.document = Some(name.clone());
    true
}

/// After all apps: writes the next claim on a latch; returns whether there was one.
fn claim_stands(asked: &Asked, catalog: &Catalog, place: &mut Place, frames: &mut Frames) -> bool {
    if !asked.interest.kinds.has(Kind::Latch) {
        return false;
    }
    loop {
        if let Some((latch, claim)) = place.claims.pop_front() {
            frames.standing(&snapshot::claim(&latch, &claim));
            return true;
        }
        let Some((key, latch)) = next_latch(asked, catalog, place.latch.as_ref()) else {
            return false;
        };
        place.claims = latch.claims().map(|claim| (key.clone(), claim.clone())).collect();
        place.latch = Some(key);
    }
}

/// At the very end: writes the next alarm; returns whether there was one.
fn alarm_stands(asked: &Asked, catalog: &Catalog, place: &mut Place, frames: &mut Frames) -> bool {
    let mut rest = catalog.brakes_after(place.alarm.as_ref());
    let next = rest.find_map(|(scope, brake)| {
        let put = Event::AlarmPut { scope: scope.clone(), brake: brake.clone() };
        asked.interest.touched_by_event(&put).then_some((scope, brake))
    });
    let Some((scope, brake)) = next else { return false };
    frames.standing(&snapshot::alarm(scope, brake));
    place.alarm = Some(scope.clone());
    true
}

fn next_latch(
    asked: &Asked,
    catalog: &Catalog,
    after: Option<&LatchKey>,
) -> Option<(LatchKey, Arc<Latch>)> {
    use std::ops::Bound::{Excluded, Unbounded};
    let wanted = |key: &LatchKey| {
        let id = asked.interest.id.as_ref();
        id.is_none_or(|id| *id == key.name.as_str())
    };
    let found = |key: &LatchKey| Some((key.clone(), catalog.latch(key)?.clone()));
    match &asked.interest.latches {
        Some(latches) => {
            let from = after.map_or(Unbounded, Excluded);
            let mut rest = latches.range::<LatchKey, _>((from, Unbounded));
            rest.find_map(|key| found(key).filter(|_| wanted(key)))
        }
        None => catalog.all_latches_after(after).find_map(|key| found(key).filter(|_| wanted(key))),
    }
}

/// Writes the next shard that an instance of the app holds as a worker; returns whether there was
/// one.
fn work_stands(asked: &Asked, catalog: &Catalog, place: &mut Place, frames: &mut Frames) -> bool {
    let current = place.app.as_ref().filter(|_| asked.interest.kinds.has(Kind::Worker));
    let Some(app) = current else { return false };
    let work = &mut place.work;
    loop {
        let set = work.set.as_ref().and_then(|name| Some((name, catalog.shard_set(name)?)));
        if let (Some((name, set)), Some(worker), Some(shard)) =
            (set, &work.worker, work.shards.pop_front())
        {
            let Some(value) = set.group.shard(&shard) else { continue };
            frames.standing(&snapshot::work(app, name, worker, &shard, value));
            return true;
        }
        if !work.go_on(asked, catalog, app) {
            return false;
        }
    }
}

impl Work {
    /// Goes on to the next worker, of the next set if there is none in this one; returns whether
    /// there was one.
    fn go_on(&mut self, asked: &Asked, catalog: &Catalog, app: &AppName) -> bool {
        let set = self.set.as_ref().and_then(|name| catalog.shard_set(name));
        if let (Some(set), Some(worker)) = (set, self.workers.pop_front()) {
            self.shards = set.group.of_worker(&worker).into_iter().cloned().collect();
            self.worker = Some(worker);
            return true;
        }
        let wanted = |name: &ShardSetName| {
            asked.set.as_ref().is_none_or(|set| set == name)
                && self.set.as_ref().is_none_or(|last| name > last)
        };
        let mut sets = catalog.shard_sets();
        let next = sets.find(|(name, set)| set.record.config.workers == *app && wanted(name));
        let Some((name, set)) = next else { return false };
        let asked_for = |worker: &&InstanceId| {
            asked.interest.id.as_ref().is_none_or(|id| *id == worker.as_str())
        };
        let workers = set.group.workers().map(|(worker, _)| worker);
        self.workers = workers.filter(asked_for).cloned().collect();
        self.set = Some(name.clone());
        true
    }
}

impl Following {
    fn all_sent(&self) -> bool {
        self.changes.is_empty() && self.current.is_none()
    }

    /// Writes what was told already, until the piece is large enough.
    async fn send(&mut self, asked: &Asked, frames: &mut Frames) {
        while frames.len() < PIECE_BYTES {
            if self.current.is_none() {
                let Some(change) = self.changes.pop_front() else { return };
                self.current = Some(picked(change, asked).await);
                self.sent = 0;
            }
            if self.send_current(frames) {
                self.current = None;
            }
        }
    }

    /// Returns whether all of the current change is written.
    fn send_current(&mut self, frames: &mut Frames) -> bool {
        let Some(Picked { change, picks }) = &self.current else { return true };
        while let Some(pick) = picks.get(self.sent) {
            self.sent += 1;
            let (Pick::Shown(place) | Pick::Left(place)) = pick;
            let Some(notice) = change.notice_at(*place) else { continue };
            let last = self.sent == picks.len();
            let name = event_name(notice.event, pick);
            frames.event(&open_event(change, pick), name, change.at.revision, last);
            if frames.len() >= PIECE_BYTES {
                return last;
            }
        }
        true
    }
}

/// Looks for what is wanted among a change's events, in steps.
async fn picked(change: Arc<Change>, asked: &Asked) -> Picked {
    let mut picks = Vec::new();
    for (looked_at, notice) in change.notices().enumerate() {
        if asked.interest.wants(notice) && asked.is_of_set(notice.event) {
            picks.extend(pick(notice, &asked.wanted));
        }
        if looked_at % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1 {
            yield_now().await;
        }
    }
    Picked { change, picks }
}
