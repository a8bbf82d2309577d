//! Events as watchers and the history show them, and the lines of a watch that are not events.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use roster_storage::brake::{Brake, Scope};
use roster_storage::catalog::{Document, Instance, State};
use roster_storage::command::AppPolicy;
use roster_storage::events::{Change, Event, Held, Kind, MASS_LOSS, Notice, Place, Reason, Seen};
use roster_storage::latch::Claim;
use roster_storage::names::{
    AppName, DocumentName, Incarnation, InstanceId, InstanceKey, LatchKey, Revision, ShardId,
    ShardSetName,
};
use roster_storage::ring::{Description, Ring};
use roster_storage::shards::Shard;
use serde::Serialize;
use smol_str::SmolStr;
use utoipa::ToSchema;

use super::app::AppView;
use super::brake::AlarmView;
use super::document::DocumentView;
use super::instance::InstanceView;
use super::latch::ClaimView;
use super::scalar::Moment;
use super::shard::ShardView;
use crate::filter::Wanted;
use crate::openapi::schemas::{EventKind, LatchWord};
use crate::openapi::shapes::RingDescription;

/// An event.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventView<'a> {
    event: &'static str,
    #[schema(value_type = EventKind)]
    kind: &'static str,
    /// Of a claim: whether on a lock or in an election.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<LatchWord>)]
    latch: Option<&'static str>,
    revision: u64,
    /// When it was decided, by the leader's wall clock; not in snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Moment>,
    /// A latch belongs to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<u64>,
    /// Of the work of a worker, and of a deleted shard that a set had.
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<&'a str>,
    /// Which of a worker's shards.
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<&'a str>,
    /// Who held a deleted shard in `set`.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<&'a str>,
    /// Other sets that had it, with who held it there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also_held: Vec<HeldView<'a>>,
    /// Under which it was held.
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<EventValue<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// Who deleted a document; who wrote it stands in its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum EventValue<'a> {
    App(AppView<'a>),
    Instance(Box<InstanceView<'a>>),
    Shard(ShardView<'a>),
    Document(DocumentView<'a>),
    #[schema(value_type = RingDescription)]
    Ring(Description),
    Work(WorkView<'a>),
    Claim(ClaimView<'a>),
    Alarm(AlarmView),
}

#[derive(Serialize, ToSchema)]
struct HeldView<'a> {
    set: &'a str,
    #[schema(required)]
    holder: Option<&'a str>,
}

/// What a worker holds: one shard.
#[derive(Serialize, ToSchema)]
struct WorkView<'a> {
    set: &'a str,
    worker: &'a str,
    shard: &'a str,
    grant: u64,
    release: bool,
}

/// Where and when something is told.
#[derive(Clone, Copy)]
struct Moved {
    revision: Revision,
    wall_ms: Option<u64>,
}

impl<'a> EventView<'a> {
    fn put(moved: Moved, kind: &'static str, app: &'a AppName, id: &'a str) -> Self {
        Self { app: Some(app.as_str()), ..Self::of_no_app(moved, kind, id) }
    }

    fn of_no_app(moved: Moved, kind: &'static str, id: &'a str) -> Self {
        Self {
            event: "put",
            kind,
            latch: None,
            revision: moved.revision.0,
            time: moved.wall_ms.map(Moment),
            app: None,
            id,
            incarnation: None,
            set: None,
            shard: None,
            holder: None,
            also_held: Vec::new(),
            grant: None,
            value: None,
            reason: None,
            detail: None,
            by: None,
        }
    }

    fn of(mut self, incarnation: Incarnation) -> Self {
        self.incarnation = Some(incarnation.0);
        self
    }

    fn with(mut self, value: EventValue<'a>) -> Self {
        self.value = Some(value);
        self
    }

    fn gone(mut self, reason: &'static str, detail: &'a str) -> Self {
        (self.event, self.reason, self.detail) = ("delete", Some(reason), Some(detail));
        self
    }

    fn held_by(mut self, held: &'a [Held]) -> Self {
        let mut views = held.iter().map(|held| HeldView {
            set: held.set.as_str(),
            holder: held.holder.as_ref().map(|holder| holder.as_str()),
        });
        if let Some(HeldView { set, holder }) = views.next() {
            (self.set, self.holder) = (Some(set), holder);
        }
        self.also_held = views.collect();
        self
    }

    /// `by_operator`: it was an operator's word that changed its state, and not its silence.
    fn in_another_state(mut self, detail: Option<&'a str>, by_operator: bool) -> Self {
        self.detail = detail;
        self.reason = (detail.is_some() && by_operator).then_some(Reason::Operator.word());
        self
    }

    fn because(self, reason: &Reason, detail: &'a str) -> Self {
        self.gone(reason.word(), detail)
    }

    /// The object without its last bracket.
    fn open(&self) -> Bytes {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.pop();
        bytes.into()
    }
}

/// How one thing that a change tells is shown to one watcher.
#[derive(Clone, Copy)]
pub(crate) enum Pick {
    /// As it is to everybody.
    Shown(Place),
    /// It matched the watcher's filter before and does not any more.
    Left(Place),
}

/// What a watcher's filter makes of a notice.
pub(crate) fn pick(notice: Notice<'_>, wanted: &Wanted) -> Option<Pick> {
    match matching(notice.event, wanted) {
        Matching::Now => Some(Pick::Shown(notice.place)),
        Matching::Before => Some(Pick::Left(notice.place)),
        Matching::Never => None,
    }
}

/// Whether an event matches a filter. What is not of an instance always does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matching {
    Now,
    /// It matched before and does not any more.
    Before,
    Never,
}

pub(crate) fn matching(event: &Event, wanted: &Wanted) -> Matching {
    let matches = |key: &InstanceKey, seen: &Seen| {
        wanted.matches(&key.app, &key.id, &seen.instance, seen.state.word())
    };
    let matched = match event {
        _ if wanted.is_all() => true,
        Event::InstancePut { key, now, before, .. } => {
            let is = matches(key, now);
            if !is && before.as_ref().is_some_and(|before| matches(key, before)) {
                return Matching::Before;
            }
            is
        }
        Event::InstanceDeleted { key, last, .. } => matches(key, last),
        Event::AppPut { .. }
        | Event::AppDeleted { .. }
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
    };
    if matched { Matching::Now } else { Matching::Never }
}

/// An event's object without its last bracket.
pub(crate) fn open_event(change: &Change, pick: &Pick) -> Bytes {
    match pick {
        Pick::Shown(place) => change
            .notice_at(*place)
            .map_or_else(Bytes::new, |notice| change.shown(notice, || encode(change, notice))),
        Pick::Left(place) => change.notice_at(*place).map_or_else(Bytes::new, |notice| {
            let Event::InstancePut { key, now, .. } = notice.event else { return Bytes::new() };
            EventView::put(moved(change), "instance", &key.app, key.id.as_str())
                .of(now.instance.incarnation)
                .gone("unmatched", "does not match the filter any more")
                .open()
        }),
    }
}

fn moved(change: &Change) -> Moved {
    Moved { revision: change.at.revision, wall_ms: Some(change.at.stamp.wall_ms) }
}

fn encode(change: &Change, notice: Notice<'_>) -> Bytes {
    let moved = moved(change);
    match notice.event {
        Event::InstancePut { key, now, .. } if notice.kind() == Kind::Shard => {
            shard_put(moved, key, &now.instance)
        }
        Event::AppPut { app, policy, .. } => app_put(moved, app, policy),
        Event::AppDeleted { app, reason } => {
            EventView::put(moved, "app", app, app.as_str()).because(reason, &reason.detail()).open()
        }
        Event::InstancePut { key, now, ttl_ms, before, said } => {
            let was = before.as_ref().map(|before| before.state).filter(|was| *was != now.state);
            instance_put(moved, key, now, *ttl_ms, was, said)
        }
        Event::InstanceDeleted { key, last, reason } => {
            EventView::put(moved, "instance", &key.app, key.id.as_str())
                .of(last.instance.incarnation)
                .because(reason, &reason.detail())
                .open()
        }
        Event::ShardDeleted { key, incarnation, reason, held } => {
            EventView::put(moved, "shard", &key.app, &key.shard_id())
                .of(*incarnation)
                .because(reason, &reason.detail())
                .held_by(held)
                .open()
        }
        Event::DocumentPut { app, name, document } => document_put(moved, app, name, document),
        Event::DocumentDeleted { app, name, reason, by } => {
            let view = EventView::put(moved, "document", app, name.as_str());
            let by = Some(by.as_str()).filter(|by| !by.is_empty());
            EventView { by, ..view.because(reason, &reason.detail()) }.open()
        }
        Event::RingPut { app, ring } => ring_put(moved, app, ring),
        Event::RingDeleted { app, reason } => EventView::put(moved, "ring", app, app.as_str())
            .because(reason, &reason.detail())
            .open(),
        Event::WorkPut { set, app, worker, shard, grant, release } => {
            work_put(moved, app, set, worker, shard, *grant, *release)
        }
        Event::WorkEnded { set, app, worker, shard, grant, reason } => {
            let view = EventView::put(moved, "worker", app, worker.as_str());
            EventView {
                set: Some(set.as_str()),
                shard: Some(shard.as_str()),
                grant: Some(grant.0),
                ..view.because(reason, &reason.detail())
            }
            .open()
        }
        Event::ClaimPut { latch, claim } => claimed(moved, latch, claim).open(),
        Event::ClaimEnded { latch, claim, reason } => {
            claimed(moved, latch, claim).because(reason, &reason.detail()).open()
        }
        Event::AlarmPut { scope, brake } => alarm(moved, scope, brake).open(),
        Event::AlarmEnded { scope, brake, reason } => {
            alarm(moved, scope, brake).because(reason, &reason.detail()).open()
        }
        // Nobody is told of these.
        Event::SessionPut { .. } | Event::SessionEnded { .. } => Bytes::new(),
    }
}

/// A brake that is on. Of a deleted one the value tells what it was last.
fn alarm<'a>(moved: Moved, scope: &'a Scope, brake: &Brake) -> EventView<'a> {
    let view = EventView::of_no_app(moved, Kind::Alarm.word(), MASS_LOSS);
    let app = scope.app().map(|app| app.as_str());
    EventView { app, ..view.with(EventValue::Alarm(AlarmView::new(scope, brake))) }
}

fn app_put(moved: Moved, app: &AppName, policy: &AppPolicy) -> Bytes {
    let value = AppView::new(app, policy, None, moved.revision);
    EventView::put(moved, "app", app, app.as_str()).with(EventValue::App(value)).open()
}

/// `was`: its state before, if that changed; `said`: what the operator said who changed it.
fn instance_put(
    moved: Moved,
    key: &InstanceKey,
    now: &Seen,
    ttl_ms: u64,
    was: Option<State>,
    said: &str,
) -> Bytes {
    let silent = |state| matches!(state, State::Up | State::Suspect);
    let by_operator = was.map_or(!said.is_empty(), |was| !(silent(was) && silent(now.state)));
    let detail = match (was, now.state.word()) {
        (None, _) if said.is_empty() => None,
        (None, state) => Some(format!("{state}: {said}")),
        (Some(was), state) if said.is_empty() => Some(format!("{state}, was {}", was.word())),
        (Some(was), state) => Some(format!("{state}, was {}: {said}", was.word())),
    };
    let value = InstanceView::seen(&key.app, &key.id, &now.instance, now.state, ttl_ms);
    EventView::put(moved, "instance", &key.app, key.id.as_str())
        .of(now.instance.incarnation)
        .with(EventValue::Instance(Box::new(value)))
        .in_another_state(detail.as_deref(), by_operator)
        .open()
}

fn shard_put(moved: Moved, key: &InstanceKey, instance: &Instance) -> Bytes {
    let (profile, incarnation) = (&instance.profile, instance.incarnation);
    let value = ShardView::of(&key.app, &key.id, profile.ip(), profile.port(), incarnation);
    EventView::put(moved, "shard", &key.app, &key.shard_id())
        .of(incarnation)
        .with(EventValue::Shard(value))
        .open()
}

fn document_put(moved: Moved, app: &AppName, name: &DocumentName, document: &Document) -> Bytes {
    let value = EventValue::Document(DocumentView::new(app, name, document));
    EventView::put(moved, "document", app, name.as_str()).with(value).open()
}

fn ring_put(moved: Moved, app: &AppName, ring: &Ring) -> Bytes {
    let value = EventValue::Ring(ring.description(app.as_str()));
    EventView::put(moved, "ring", app, app.as_str()).with(value).open()
}

fn work_put(
    moved: Moved,
    app: &AppName,
    set: &ShardSetName,
    worker: &InstanceId,
    shard: &ShardId,
    grant: Revision,
    release: bool,
) -> Bytes {
    let (set, worker_id, shard) = (set.as_str(), worker.as_str(), shard.as_str());
    let value = WorkView { set, worker: worker_id, shard, grant: grant.0, release };
    let view = EventView::put(moved, "worker", app, worker_id).with(EventValue::Work(value));
    EventView { set: Some(set), shard: Some(shard), ..view }.open()
}

/// A claim as it is, or as it was last.
fn claimed<'a>(moved: Moved, latch: &'a LatchKey, claim: &'a Claim) -> EventView<'a> {
    let value = EventValue::Claim(ClaimView::new(latch.kind, claim));
    let view = EventView::of_no_app(moved, "latch", latch.name.as_str()).with(value);
    EventView { latch: Some(latch.kind.word()), ..view }
}

/// The puts of a snapshot: what stands there, each with the revision of its own last change.
pub(crate) mod snapshot {
    use super::*;

    pub fn app(app: &AppName, policy: &AppPolicy, revision: Revision) -> Bytes {
        app_put(Moved { revision, wall_ms: None }, app, policy)
    }

    pub fn instance(key: &InstanceKey, now: &Seen, ttl_ms: u64) -> Bytes {
        let moved = Moved { revision: now.instance.revision, wall_ms: None };
        instance_put(moved, key, now, ttl_ms, None, "")
    }

    pub fn shard(key: &InstanceKey, instance: &Instance) -> Bytes {
        let moved = Moved { revision: Revision(instance.incarnation.0), wall_ms: None };
        shard_put(moved, key, instance)
    }

    pub fn document(app: &AppName, name: &DocumentName, document: &Document) -> Bytes {
        let moved = Moved { revision: document.revision, wall_ms: None };
        document_put(moved, app, name, document)
    }

    pub fn ring(app: &AppName, ring: &Ring) -> Bytes {
        ring_put(Moved { revision: ring.epoch(), wall_ms: None }, app, ring)
    }

    /// A claim, at the revision at which it won or, while it waits, began.
    pub fn claim(latch: &LatchKey, claim: &Claim) -> Bytes {
        let revision = claim.token.unwrap_or(claim.since);
        claimed(Moved { revision, wall_ms: None }, latch, claim).open()
    }

    /// A brake that is on, at the revision at which it began.
    pub fn alarm(scope: &Scope, brake: &Brake) -> Bytes {
        super::alarm(Moved { revision: brake.since, wall_ms: None }, scope, brake).open()
    }

    /// A shard that a worker holds, at the revision of its grant.
    pub fn work(
        app: &AppName,
        set: &ShardSetName,
        worker: &InstanceId,
        shard: &ShardId,
        value: &Shard,
    ) -> Bytes {
        let moved = Moved { revision: value.grant, wall_ms: None };
        work_put(moved, app, set, worker, shard, value.grant, value.next.is_some() || value.gone)
    }
}

/// How the lines of a watch are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Server-Sent Events.
    Sse,
    /// One JSON object per line.
    Lines,
}

/// Writes lines into one piece of the answer's body.
pub(crate) struct Frames {
    format: Format,
    bytes: BytesMut,
}

impl Frames {
    pub fn new(format: Format) -> Self {
        Self { format, bytes: BytesMut::new() }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn take(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }

    /// An event of a snapshot: nothing to resume from.
    pub fn standing(&mut self, put: &[u8]) {
        self.frame("put", Id::Keep, put, b"}");
    }

    /// An event of a change. Only the last one of its revision is something to resume from, so
    /// that no part of a revision is passed over; all others say that more come.
    pub fn event(&mut self, open: &[u8], name: &str, revision: Revision, last: bool) {
        if last {
            self.frame(name, Id::Set(revision), open, b"}");
        } else {
            self.frame(name, Id::Keep, open, b",\"more\":true}");
        }
    }

    pub fn mark(&mut self, mark: &Mark) {
        let line = serde_json::to_vec(&mark.view()).unwrap_or_default();
        self.frame(mark.name(), mark.id(), &line, b"");
    }

    fn frame(&mut self, name: &str, id: Id, open: &[u8], end: &[u8]) {
        /// What stands around the object, and the longest number.
        const AROUND: usize = 64;
        self.bytes.reserve(open.len() + end.len() + name.len() + AROUND);
        if self.format == Format::Sse {
            self.bytes.put_slice(b"event: ");
            self.bytes.put_slice(name.as_bytes());
            match id {
                Id::Set(revision) => self.bytes.put_slice(format!("\nid: {revision}").as_bytes()),
                Id::Reset => self.bytes.put_slice(b"\nid:"),
                Id::Keep => {}
            }
            self.bytes.put_slice(b"\ndata: ");
        }
        self.bytes.put_slice(open);
        self.bytes.put_slice(end);
        self.bytes.put_slice(if self.format == Format::Sse { b"\n\n" } else { b"\n" });
    }
}

/// What an `EventSource` is to send as `Last-Event-ID` when it comes back.
#[derive(Clone, Copy)]
enum Id {
    Set(Revision),
    Keep,
    /// Nothing.
    Reset,
}

/// A line of a watch that tells how far it is, or why it ends.
pub(crate) enum Mark {
    SnapshotBegin(Revision),
    SnapshotEnd(Revision),
    Bookmark(Revision),
    Lagging(Revision),
    Compacted { restart_from: Revision },
    Bye(Revision),
}

#[derive(Serialize, ToSchema)]
pub(crate) struct MarkView {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
}

impl Mark {
    fn name(&self) -> &'static str {
        match self {
            Self::SnapshotBegin(_) => "snapshot-begin",
            Self::SnapshotEnd(_) => "snapshot-end",
            Self::Bookmark(_) => "bookmark",
            Self::Lagging(_) => "lagging",
            Self::Compacted { .. } => "compacted",
            Self::Bye(_) => "bye",
        }
    }

    /// Up to where everything was sent when this line is. From the begin of a snapshot to its end
    /// there is nothing to resume from: an id from before would skip what the snapshot tells.
    fn id(&self) -> Id {
        match self {
            Self::SnapshotEnd(at) | Self::Bookmark(at) | Self::Lagging(at) | Self::Bye(at) => {
                Id::Set(*at)
            }
            Self::SnapshotBegin(_) | Self::Compacted { .. } => Id::Reset,
        }
    }

    fn view(&self) -> MarkView {
        let view = |revision: &Revision, detail| MarkView {
            event: self.name(),
            revision: Some(revision.0),
            restart_from: None,
            detail,
        };
        match self {
            Self::SnapshotBegin(at) | Self::SnapshotEnd(at) | Self::Bookmark(at) => view(at, None),
            Self::Lagging(at) => MarkView {
                restart_from: Some(at.0),
                ..view(
                    at,
                    Some(
                        "read too slowly: what came meanwhile is not held for this watch; \
                     resume with from=<restart_from>",
                    ),
                )
            },
            Self::Bye(at) => view(at, Some("this node stops; resume on another one")),
            Self::Compacted { restart_from } => MarkView {
                event: self.name(),
                revision: None,
                restart_from: Some(restart_from.0),
                detail: Some(
                    "what comes next is not kept on this node any more; list again, or \
                     watch without from=, and go on from there",
                ),
            },
        }
    }
}

/// The SSE name of an event.
pub(crate) fn event_name(event: &Event, pick: &Pick) -> &'static str {
    match (pick, event) {
        (Pick::Left(_), _)
        | (
            Pick::Shown(_),
            Event::AppDeleted { .. }
            | Event::InstanceDeleted { .. }
            | Event::ShardDeleted { .. }
            | Event::DocumentDeleted { .. }
            | Event::RingDeleted { .. }
            | Event::WorkEnded { .. }
            | Event::ClaimEnded { .. }
            | Event::AlarmEnded { .. }
            | Event::SessionEnded { .. },
        ) => "delete",
        (
            Pick::Shown(_),
            Event::AppPut { .. }
            | Event::InstancePut { .. }
            | Event::DocumentPut { .. }
            | Event::RingPut { .. }
            | Event::WorkPut { .. }
            | Event::ClaimPut { .. }
            | Event::AlarmPut { .. }
            | Event::SessionPut { .. },
        ) => "put",
    }
}

/// `GET /v1/events`, put together from the events' own bytes.
#[derive(Default)]
pub(crate) struct HistoryView {
    events: Vec<u8>,
    count: usize,
}

impl HistoryView {
    /// Events so far.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn add(&mut self, change: &Change, pick: &Pick) {
        if self.count > 0 {
            self.events.push(b',');
        }
        self.events.extend_from_slice(&open_event(change, pick));
        self.events.push(b'}');
        self.count += 1;
    }

    /// `covered`: the first and the last revision of each range of which all is kept.
    pub fn body(self, next_cursor: Option<String>, covered: &[(Revision, Revision)]) -> Vec<u8> {
        let mut body = b"{\"events\":[".to_vec();
        body.extend_from_slice(&self.events);
        body.extend_from_slice(b"],\"next_cursor\":");
        // Text and numbers; writing to memory does not fail.
        let _ = serde_json::to_writer(&mut body, &next_cursor);
        body.extend_from_slice(b",\"covered\":");
        let _ = serde_json::to_writer(&mut body, covered);
        body.push(b'}');
        body
    }
}

/// `GET /v1/changes`
#[derive(Serialize, ToSchema)]
pub(crate) struct ChangesView {
    pub revision: u64,
    pub changed: BTreeSet<Changed>,
}

/// A thing that changed, or is gone.
#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub(crate) struct Changed {
    #[schema(value_type = EventKind)]
    kind: &'static str,
    /// Of a claim: whether on a lock or in an election.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<LatchWord>)]
    latch: Option<&'static str>,
    /// A latch belongs to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    app: Option<SmolStr>,
    #[schema(value_type = String)]
    id: SmolStr,
}

impl Changed {
    /// Never `None` for what clients are told of.
    pub fn of(notice: Notice<'_>) -> Option<Self> {
        let event = notice.event;
        let app = event.app().map(|app| SmolStr::from(app.clone()));
        let id = match event {
            Event::InstancePut { key, .. } if notice.kind() == Kind::Shard => {
                Some(key.shard_id().into())
            }
            Event::ShardDeleted { key, .. } => Some(key.shard_id().into()),
            Event::AppPut { .. }
            | Event::AppDeleted { .. }
            | Event::InstancePut { .. }
            | Event::InstanceDeleted { .. }
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
            | Event::SessionEnded { .. } => event.id().map(SmolStr::from),
        };
        let latch = event.latch().map(|latch| latch.kind.word());
        let id = id.or_else(|| app.clone())?;
        Some(Self { kind: notice.kind().word(), latch, app, id })
    }
}

/// A change with those of its events that one watcher gets.
pub(crate) struct Picked {
    pub change: Arc<Change>,
    pub picks: Vec<Pick>,
}
