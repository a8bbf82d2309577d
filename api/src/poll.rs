//! Long polls: a read that waits until its own result changed.

use std::time::{Duration, Instant};

use roster_storage::events::{Event, Interest, Kind};
use roster_storage::latch::Claimant;
use roster_storage::names::{
    AppName, DocumentName, InstanceId, InstanceKey, LatchKey, Revision, SessionId, ShardSetName,
};
use roster_storage::version::Version;

use crate::Api;
use crate::error::{ApiError, Invalid};
use crate::extract::Params;
use crate::filter::Wanted;
use crate::registry::{NotFollowed, Told};
use crate::wire::event::{Matching, matching};
use crate::wire::scalar::{Millis, parse_millis};

/// How long a long poll waits unless the request says.
const WAIT: Duration = Duration::from_secs(30);

/// The longest wait; more is `invalid-wait`.
pub(crate) const WAIT_MAX: Millis = Millis(10 * 60 * 1000);

/// `?index=` and `?wait=`.
#[derive(Clone, Copy)]
pub(crate) struct Poll {
    index: Revision,
    wait: Duration,
}

impl Params {
    /// `?wait=`: how long to wait for a change, or for this node to reach a revision.
    pub fn wait(&mut self) -> Result<Option<Duration>, Invalid> {
        let Some(text) = self.text("wait") else { return Ok(None) };
        match parse_millis(&text) {
            Ok(wait) if wait.0 <= WAIT_MAX.0 => Ok(Some(Duration::from_millis(wait.0))),
            Ok(_) => Err(Invalid::new("wait", format!("is over the limit of {WAIT_MAX}"))),
            Err(why) => Err(Invalid::new("wait", why)),
        }
    }

    pub fn poll(&mut self) -> Result<Option<Poll>, Invalid> {
        match (self.number("index")?.map(Revision), self.wait()?) {
            (None, None) => Ok(None),
            (None, Some(_)) => {
                Err(Invalid::new("wait", "needs index=, the revision of the answer you have"))
            }
            (Some(index), wait) => Ok(Some(Poll { index, wait: wait.unwrap_or(WAIT) })),
        }
    }
}

/// What the state knows of a result's last change.
pub(crate) enum LastChange {
    /// It was then, or before.
    At(Revision),
    /// It can only be told from the changes themselves.
    Unknown,
}

/// The last change of an app's policy or counts, as far as the state knows it. One that is not there
/// may have been there.
pub(crate) fn app_changed(version: &Version, name: &AppName, index: Revision) -> LastChange {
    match version.catalog.app(name).map(|app| &app.record) {
        Some(record) if record.revision > index || record.members_changed <= index => {
            LastChange::At(record.revision)
        }
        // A member may have changed without the counts.
        Some(_) | None => LastChange::Unknown,
    }
}

/// Whether an event changes the answer about an app: its policy, or how many of its instances are in
/// which state.
pub(crate) fn changes_app(event: &Event) -> bool {
    match event {
        Event::InstancePut { now, before, .. } => {
            before.as_ref().is_none_or(|before| before.state != now.state)
        }
        Event::AppPut { .. }
        | Event::AppDeleted { .. }
        | Event::InstanceDeleted { .. }
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
        | Event::AlarmEnded { .. }
        | Event::SessionPut { .. }
        | Event::SessionEnded { .. } => true,
    }
}

/// The last change among an app's instances. With a filter, it may have been of others.
pub(crate) fn members_changed(
    version: &Version,
    name: &AppName,
    wanted: &Wanted,
    index: Revision,
) -> LastChange {
    match version.catalog.app(name).map(|app| app.record.members_changed) {
        Some(changed) if wanted.is_all() || changed <= index => LastChange::At(changed),
        Some(_) | None => LastChange::Unknown,
    }
}

/// An instance's last change, as far as the state knows it.
pub(crate) fn instance_changed(
    version: &Version,
    key: &InstanceKey,
    index: Revision,
) -> LastChange {
    let Some(app) = version.catalog.app(&key.app) else { return LastChange::Unknown };
    let members = app.record.members_changed;
    match app.instances.get(&key.id) {
        _ if members <= index => LastChange::At(members),
        Some(instance) if instance.revision > index => LastChange::At(instance.revision),
        // Its override may have changed, or it may have gone.
        Some(_) | None => LastChange::Unknown,
    }
}

impl Api {
    /// Returns when something of interest that `matters` changed after the poll's index, when nobody
    /// can know whether it did, or when its time is over.
    pub async fn await_change(
        &self,
        poll: Poll,
        interest: Interest,
        matters: impl Fn(&Event) -> bool + Send,
        known: impl FnOnce(&Version, Revision) -> LastChange,
    ) -> Result<(), ApiError> {
        let deadline = Instant::now() + poll.wait;
        let after = match self.registry.newest() {
            // This node is behind what the client has seen; it waits for it below.
            version if version.revision() < poll.index => poll.index,
            version => match known(&version, poll.index) {
                LastChange::At(at) if at > poll.index => return Ok(()),
                // Nothing up to this version.
                LastChange::At(_) => version.revision(),
                LastChange::Unknown => poll.index,
            },
        };
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let mut feed = match self.registry.follow(interest.clone(), after, poll.wait).await {
            Ok(feed) => feed,
            // The answer tells where it is now.
            Err(NotFollowed::Compacted { .. }) => return Ok(()),
            Err(why) => return Err(ApiError::not_followed(why, after)),
        };
        loop {
            match feed.next(left(deadline)).await {
                Told::Changes(changes) => {
                    let mut events = changes.iter().flat_map(|change| &change.events);
                    if events.any(|event| interest.touched_by_event(event) && matters(event)) {
                        return Ok(());
                    }
                }
                Told::UpTo(_) if left(deadline).is_zero() => return Ok(()),
                Told::UpTo(_) => {}
                Told::Lagging(_) | Told::Compacted { .. } | Told::Stopping(_) => return Ok(()),
            }
        }
    }
}

/// Whether an event changes the list of an app's documents, or of its instances that match. A policy
/// does not.
pub(crate) fn changes_list(event: &Event, wanted: &Wanted) -> bool {
    let policy = matches!(event, Event::AppPut { created: false, .. });
    !policy && matching(event, wanted) != Matching::Never
}

/// A document's last change, as far as the state knows it.
pub(crate) fn document_changed(
    version: &Version,
    app: &AppName,
    name: &DocumentName,
    index: Revision,
) -> LastChange {
    let Some(app) = version.catalog.app(app) else { return LastChange::Unknown };
    match app.documents.get(name) {
        _ if app.documents_changed() <= index => LastChange::At(app.documents_changed()),
        Some(document) => LastChange::At(document.revision),
        None => LastChange::Unknown,
    }
}

/// The last change among an app's documents.
pub(crate) fn documents_changed(version: &Version, app: &AppName) -> LastChange {
    let known = version.catalog.app(app).map(|app| app.documents_changed());
    known.map_or(LastChange::Unknown, LastChange::At)
}

/// What changes the list of an app's documents.
pub(crate) fn of_documents(app: &AppName) -> Interest {
    let kinds = [Kind::App, Kind::Document].into_iter().collect();
    Interest { apps: Some([app.clone()].into()), kinds, ..Interest::default() }
}

/// What changes a document's own answer.
pub(crate) fn of_document(app: &AppName, name: &DocumentName) -> Interest {
    Interest {
        apps: Some([app.clone()].into()),
        kinds: [Kind::Document].into_iter().collect(),
        id: Some(name.as_str().into()),
        ..Interest::default()
    }
}

/// What changes the answer about an app, or the list of its instances: also that the app comes or
/// goes.
pub(crate) fn of_app(name: &AppName) -> Interest {
    let kinds = [Kind::App, Kind::Instance].into_iter().collect();
    Interest { apps: Some([name.clone()].into()), kinds, ..Interest::default() }
}

/// What changes an instance's own answer.
pub(crate) fn of_instance(key: &InstanceKey) -> Interest {
    Interest {
        apps: Some([key.app.clone()].into()),
        kinds: [Kind::Instance].into_iter().collect(),
        id: Some(key.id.as_str().into()),
        ..Interest::default()
    }
}

/// A ring's last change. One that is not there may have been there.
pub(crate) fn ring_changed(version: &Version, app: &AppName) -> LastChange {
    version.catalog.ring(app).map_or(LastChange::Unknown, |ring| LastChange::At(ring.epoch()))
}

/// What changes a ring's own answer.
pub(crate) fn of_ring(app: &AppName) -> Interest {
    let kinds = [Kind::Ring].into_iter().collect();
    Interest { apps: Some([app.clone()].into()), kinds, ..Interest::default() }
}

/// The last change of what a worker of a set holds, as far as the state knows it: whatever changed
/// in the set may have been of others, and a worker that is not there may have been there.
pub(crate) fn worker_changed(
    version: &Version,
    set: &ShardSetName,
    worker: &InstanceId,
    index: Revision,
) -> LastChange {
    let group = version.catalog.shard_set(set).map(|set| &set.group);
    match group.filter(|group| group.worker(worker).is_some()).map(|group| group.epoch()) {
        Some(epoch) if epoch <= index => LastChange::At(epoch),
        Some(_) | None => LastChange::Unknown,
    }
}

/// What may change the answer about a worker, of the app that gives the workers.
pub(crate) fn of_worker(app: &AppName, worker: &InstanceId) -> Interest {
    Interest {
        apps: Some([app.clone()].into()),
        kinds: [Kind::Worker, Kind::Instance].into_iter().collect(),
        id: Some(worker.as_str().into()),
        ..Interest::default()
    }
}

/// Whether an event changes the answer about a worker of this set: what it holds there, or that it is
/// there.
pub(crate) fn changes_worker(event: &Event, set: &ShardSetName) -> bool {
    match event {
        Event::WorkPut { set: of, .. } | Event::WorkEnded { set: of, .. } => of == set,
        Event::InstancePut { before, .. } => before.is_none(),
        Event::InstanceDeleted { .. } => true,
        Event::AppPut { .. }
        | Event::AppDeleted { .. }
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

/// What changes what hangs off a session, and its end.
pub(crate) fn of_session(session: SessionId) -> Interest {
    let kinds = [Kind::Instance, Kind::Latch, Kind::Session].into_iter().collect();
    Interest { kinds, session: Some(session), ..Interest::default() }
}

/// What changes the answer about a latch.
pub(crate) fn of_latch(latch: &LatchKey) -> Interest {
    let kinds = [Kind::Latch].into_iter().collect();
    Interest { kinds, latches: Some([latch.clone()].into()), ..Interest::default() }
}

/// A latch's last change. One that nobody claims may have been claimed.
pub(crate) fn latch_changed(version: &Version, latch: &LatchKey) -> LastChange {
    let known = version.catalog.latch(latch);
    known.map_or(LastChange::Unknown, |latch| LastChange::At(latch.revision))
}

/// What becomes of a claim, also with its session.
pub(crate) fn of_claim(latch: &LatchKey, by: &Claimant) -> Interest {
    Interest {
        kinds: Kind::Latch.into(),
        latches: Some([latch.clone()].into()),
        claim: Some((latch.clone(), by.clone())),
        ..Interest::default()
    }
}
