//! What apply emitted: every change, with its reason, in the revision that made it.

mod log;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

pub use log::{EventLog, EventLogLimits, Forgotten};

use crate::brake::{Brake, Scope};
use crate::catalog::{At, Document, Instance, State};
use crate::command::AppPolicy;
use crate::latch::{Claim, Claimant};
use crate::names::{
    AppName, DocumentName, Incarnation, InstanceId, InstanceKey, LatchKey, Revision, SessionId,
    ShardId, ShardSetName,
};
use crate::ring::Ring;

/// The id of the one alarm that there is: a brake that is on.
pub const MASS_LOSS: &str = "mass-loss";

/// Why something is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    Deregistered,
    /// Its session's deadline passed; so long after its last heartbeat, in milliseconds.
    Expired {
        silent_ms: u64,
    },
    /// Another incarnation took over.
    Replaced {
        by: Incarnation,
    },
    Operator,
    /// Its session was closed by its owner.
    SessionClosed,
    /// An app without instances reached its `remove_when_empty_after`.
    Empty,
    /// A worker let it go.
    Released,
    /// The worker that held it is gone.
    WorkerGone,
    /// Whoever held a latch let it go.
    LetGo,
    /// Whoever waited for a latch did not want to wait any longer.
    GaveUp,
    /// Of a brake: those who were silent are heard again.
    Recovered,
    /// Of a brake: those who were silent are gone.
    Removed,
    /// As [`Self::Operator`], with what the operator said.
    OperatorBecause {
        why: SmolStr,
    },
}

impl Reason {
    /// The word that clients see.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Deregistered | Self::SessionClosed => "deregistered",
            Self::Expired { .. } | Self::Empty => "expired",
            Self::Replaced { .. } => "replaced",
            Self::Operator | Self::OperatorBecause { .. } => "operator",
            Self::Released | Self::LetGo | Self::GaveUp => "released",
            Self::WorkerGone => "worker-gone",
            Self::Recovered => "recovered",
            Self::Removed => "removed",
        }
    }

    /// What caused it, in words for people.
    pub fn detail(&self) -> SmolStr {
        match self {
            Self::Deregistered => "left by itself".into(),
            Self::SessionClosed => "its session was closed".into(),
            Self::Expired { silent_ms } => smol_str::format_smolstr!(
                "last heartbeat {}.{} s before",
                silent_ms / 1000,
                silent_ms % 1000 / 100
            ),
            Self::Replaced { by } => smol_str::format_smolstr!("replaced by incarnation {by}"),
            Self::Operator => "removed by an operator".into(),
            Self::OperatorBecause { why } => {
                smol_str::format_smolstr!("removed by an operator: {why}")
            }
            Self::Empty => "without instances for too long".into(),
            Self::Released => "let go by its worker".into(),
            Self::WorkerGone => "its worker is gone".into(),
            Self::LetGo => "let go by its holder".into(),
            Self::GaveUp => "did not wait any longer".into(),
            Self::Recovered => "who was silent is heard again".into(),
            Self::Removed => "who was silent is gone".into(),
        }
    }
}

/// An instance as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    pub instance: Arc<Instance>,
    pub state: State,
}

/// One change. All events of one entry share its revision and are told together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    AppPut {
        app: AppName,
        policy: AppPolicy,
        /// It was not there before.
        created: bool,
    },
    AppDeleted {
        app: AppName,
        reason: Reason,
    },
    /// Made, changed, or seen in another state by an override. Clients who are told of shards learn of its
    /// shard from it too: see [`Self::puts_shard`].
    InstancePut {
        key: InstanceKey,
        now: Seen,
        /// Of its session, in milliseconds.
        ttl_ms: u64,
        /// The same life before, for those who watch only what matches a filter: it may have
        /// matched.
        before: Option<Seen>,
        /// What the operator said whose word changed it; empty without one. It comes last, and is left
        /// out where it is empty.
        #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
        said: SmolStr,
    },
    InstanceDeleted {
        key: InstanceKey,
        last: Seen,
        reason: Reason,
    },
    /// Always in the revision of its instance's removal (invariant S6).
    ShardDeleted {
        key: InstanceKey,
        incarnation: Incarnation,
        reason: Reason,
        /// The shard sets that had it, in name order, with who held it there.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        held: Vec<Held>,
    },
    /// Opened, or touched by what hangs off it: the leader renews its lease. Where an instance begins
    /// ([`Self::InstancePut`] without `before`) it is touched too, and has no event of its own. Not told to
    /// clients.
    SessionPut {
        session: SessionId,
        ttl_ms: u64,
        touched: Revision,
    },
    /// Not told to clients: what hung off it has events of its own.
    SessionEnded {
        session: SessionId,
        reason: Reason,
    },
    /// Made or written again, with the same value too.
    DocumentPut {
        app: AppName,
        name: DocumentName,
        document: Arc<Document>,
    },
    DocumentDeleted {
        app: AppName,
        name: DocumentName,
        reason: Reason,
        /// Who deleted it; empty where it went with its app.
        by: SmolStr,
    },
    /// Switched on, or changed: once for all that one entry changed of it.
    RingPut {
        app: AppName,
        ring: Arc<Ring>,
    },
    RingDeleted {
        app: AppName,
        reason: Reason,
    },
    /// A worker holds a shard, newly or under another grant, or is asked to let it go, or not any more.
    WorkPut {
        set: ShardSetName,
        /// The workers' app.
        app: AppName,
        worker: InstanceId,
        shard: ShardId,
        grant: Revision,
        /// To be stopped and let go.
        release: bool,
    },
    /// A worker holds a shard no more.
    WorkEnded {
        set: ShardSetName,
        app: AppName,
        worker: InstanceId,
        shard: ShardId,
        /// Under which it was held.
        grant: Revision,
        reason: Reason,
    },
    /// A claim on a latch began, won, or publishes something else.
    ClaimPut {
        latch: LatchKey,
        claim: Arc<Claim>,
    },
    /// A claim that waited or held is gone.
    ClaimEnded {
        latch: LatchKey,
        /// As it was last.
        claim: Arc<Claim>,
        reason: Reason,
    },
    /// The mass-loss brake of a scope is on, or tells newer numbers.
    AlarmPut {
        scope: Scope,
        brake: Brake,
    },
    AlarmEnded {
        scope: Scope,
        /// As it was last.
        brake: Brake,
        reason: Reason,
    },
}

/// Who held a shard of a set when it was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub set: ShardSetName,
    pub holder: Option<InstanceId>,
}

/// What an event is about, for those who watch only some of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    App,
    Instance,
    Shard,
    Document,
    /// Only for those who wait for the end of a session: clients are not told of it.
    Session,
    Ring,
    /// What a worker of a shard set holds.
    Worker,
    /// Who holds a lock or leads an election, and who waits for it.
    Latch,
    /// What operators should look at: a brake that is on.
    Alarm,
}

impl Kind {
    /// Those that clients are told of.
    pub const TOLD: [Self; 8] = [
        Self::App,
        Self::Instance,
        Self::Shard,
        Self::Document,
        Self::Ring,
        Self::Worker,
        Self::Latch,
        Self::Alarm,
    ];

    /// The word that clients use.
    pub fn word(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Instance => "instance",
            Self::Shard => "shard",
            Self::Document => "document",
            Self::Session => "session",
            Self::Ring => "ring",
            Self::Worker => "worker",
            Self::Latch => "latch",
            Self::Alarm => "alarm",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds(u16);

impl Kinds {
    /// All that clients are told of.
    pub fn told() -> Self {
        Kind::TOLD.into_iter().collect()
    }

    pub fn has(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn add(&mut self, kind: Kind) {
        self.0 |= kind.bit();
    }

    /// Whether anything of it belongs to an app: latches and sessions do not.
    pub fn has_any_of_apps(self) -> bool {
        self.0 & !(Kind::Latch.bit() | Kind::Session.bit()) != 0
    }

    /// Whether the two have a kind in common.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Kinds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        let mut set = Self::default();
        kinds.into_iter().for_each(|kind| set.add(kind));
        set
    }
}

impl From<Kind> for Kinds {
    fn from(kind: Kind) -> Self {
        Self(kind.bit())
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = Kind::TOLD.into_iter().chain([Kind::Session]);
        f.debug_set().entries(kinds.filter(|kind| self.has(*kind))).finish()
    }
}

impl Event {
    /// What it is about.
    pub fn kind(&self) -> Kind {
        match self {
            Self::AppPut { .. } | Self::AppDeleted { .. } => Kind::App,
            Self::InstancePut { .. } | Self::InstanceDeleted { .. } => Kind::Instance,
            Self::ShardDeleted { .. } => Kind::Shard,
            Self::DocumentPut { .. } | Self::DocumentDeleted { .. } => Kind::Document,
            Self::SessionPut { .. } | Self::SessionEnded { .. } => Kind::Session,
            Self::RingPut { .. } | Self::RingDeleted { .. } => Kind::Ring,
            Self::WorkPut { .. } | Self::WorkEnded { .. } => Kind::Worker,
            Self::ClaimPut { .. } | Self::ClaimEnded { .. } => Kind::Latch,
            Self::AlarmPut { .. } | Self::AlarmEnded { .. } => Kind::Alarm,
        }
    }

    /// Whether clients are told of it.
    pub fn is_told(&self) -> bool {
        self.kind() != Kind::Session
    }

    /// Whether it puts the instance's shard too: the shard begins with the instance, and takes its new
    /// address. There is one for each instance, so it has no event of its own.
    pub fn puts_shard(&self) -> bool {
        let Self::InstancePut { now, before, .. } = self else { return false };
        before.as_ref().is_none_or(|before| {
            let (was, is) = (&before.instance.profile, &now.instance.profile);
            (was.ip(), was.port()) != (is.ip(), is.port())
        })
    }

    /// The kinds of all that it tells.
    pub fn kinds(&self) -> Kinds {
        let mut kinds = Kinds::from(self.kind());
        if self.puts_shard() {
            kinds.add(Kind::Shard);
        }
        kinds
    }

    /// What clients may be told of it, in this order, if it stands at this place of its change.
    fn notices(&self, place: usize) -> impl Iterator<Item = Notice<'_>> {
        let notice = |shard| Notice { event: self, place: Place { event: place, shard } };
        let own = self.is_told().then(|| notice(false));
        own.into_iter().chain(self.puts_shard().then(|| notice(true)))
    }

    /// The session that ends, or that something begins or ceases to hang off; of a claim any change.
    pub fn ends_or_changes(&self) -> Option<SessionId> {
        match self {
            Self::InstancePut { now, before: None, .. } => Some(now.instance.session),
            Self::InstanceDeleted { last, .. } => Some(last.instance.session),
            Self::SessionEnded { session, .. } => Some(*session),
            Self::ClaimPut { claim, .. } | Self::ClaimEnded { claim, .. } => Some(claim.by.session),
            Self::InstancePut { before: Some(_), .. }
            | Self::AppPut { .. }
            | Self::AppDeleted { .. }
            | Self::ShardDeleted { .. }
            | Self::DocumentPut { .. }
            | Self::DocumentDeleted { .. }
            | Self::RingPut { .. }
            | Self::RingDeleted { .. }
            | Self::WorkPut { .. }
            | Self::WorkEnded { .. }
            | Self::AlarmPut { .. }
            | Self::AlarmEnded { .. }
            | Self::SessionPut { .. } => None,
        }
    }

    /// The app that it belongs to.
    pub fn app(&self) -> Option<&AppName> {
        match self {
            Self::AppPut { app, .. }
            | Self::AppDeleted { app, .. }
            | Self::DocumentPut { app, .. }
            | Self::DocumentDeleted { app, .. }
            | Self::RingPut { app, .. }
            | Self::RingDeleted { app, .. }
            | Self::WorkPut { app, .. }
            | Self::WorkEnded { app, .. } => Some(app),
            Self::InstancePut { key, .. }
            | Self::InstanceDeleted { key, .. }
            | Self::ShardDeleted { key, .. } => Some(&key.app),
            Self::AlarmPut { scope, .. } | Self::AlarmEnded { scope, .. } => scope.app(),
            Self::SessionPut { .. }
            | Self::SessionEnded { .. }
            | Self::ClaimPut { .. }
            | Self::ClaimEnded { .. } => None,
        }
    }

    /// The claim that it is about: on which latch, and whose.
    pub fn claim(&self) -> Option<(&LatchKey, &Claimant)> {
        match self {
            Self::ClaimPut { latch, claim } | Self::ClaimEnded { latch, claim, .. } => {
                Some((latch, &claim.by))
            }
            Self::AppPut { .. }
            | Self::AppDeleted { .. }
            | Self::InstancePut { .. }
            | Self::InstanceDeleted { .. }
            | Self::ShardDeleted { .. }
            | Self::SessionPut { .. }
            | Self::SessionEnded { .. }
            | Self::DocumentPut { .. }
            | Self::DocumentDeleted { .. }
            | Self::RingPut { .. }
            | Self::RingDeleted { .. }
            | Self::WorkPut { .. }
            | Self::WorkEnded { .. }
            | Self::AlarmPut { .. }
            | Self::AlarmEnded { .. } => None,
        }
    }

    /// The latch that it is about.
    pub fn latch(&self) -> Option<&LatchKey> {
        self.claim().map(|(latch, _)| latch)
    }

    fn is_of_claim(&self, latch: &LatchKey, by: &Claimant) -> bool {
        self.claim() == Some((latch, by))
    }

    /// Which one of its kind in its app, where that is more than the app itself. A shard goes by
    /// its instance's id, work by its worker's, a claim by its latch's name.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::InstancePut { key, .. }
            | Self::InstanceDeleted { key, .. }
            | Self::ShardDeleted { key, .. } => Some(key.id.as_str()),
            Self::DocumentPut { name, .. } | Self::DocumentDeleted { name, .. } => {
                Some(name.as_str())
            }
            Self::WorkPut { worker, .. } | Self::WorkEnded { worker, .. } => Some(worker.as_str()),
            Self::ClaimPut { latch, .. } | Self::ClaimEnded { latch, .. } => {
                Some(latch.name.as_str())
            }
            Self::AlarmPut { .. } | Self::AlarmEnded { .. } => Some(MASS_LOSS),
            Self::AppPut { .. }
            | Self::AppDeleted { .. }
            | Self::RingPut { .. }
            | Self::RingDeleted { .. }
            | Self::SessionPut { .. }
            | Self::SessionEnded { .. } => None,
        }
    }

    /// About how many bytes of memory it keeps alive, shown to clients or not.
    fn bytes(&self) -> u64 {
        /// What an event and its shown form take without texts.
        const FIXED: usize = 512;
        /// What a shard takes that is shown.
        const SHARD: usize = 256;
        /// There may be one per shard in one entry, and few are shown to anybody.
        const WORK: u64 = 256;
        let seen = |seen: &Seen| seen.instance.profile.memory_bytes();
        let own = match self {
            Self::InstancePut { now, before, .. } => {
                let shard = if self.puts_shard() { SHARD } else { 0 };
                2 * seen(now) + before.as_ref().map_or(0, seen) + shard
            }
            Self::InstanceDeleted { last, .. } => seen(last),
            Self::DocumentPut { document, .. } => 2 * document.value.len(),
            Self::RingPut { ring, .. } => ring.memory_bytes(),
            Self::WorkPut { .. } | Self::WorkEnded { .. } => return WORK,
            Self::ClaimPut { claim, .. } | Self::ClaimEnded { claim, .. } => {
                2 * (claim.value.len() + claim.by.owner.len())
            }
            Self::RingDeleted { .. }
            | Self::AppPut { .. }
            | Self::AppDeleted { .. }
            | Self::ShardDeleted { .. }
            | Self::DocumentDeleted { .. }
            | Self::AlarmPut { .. }
            | Self::AlarmEnded { .. }
            | Self::SessionPut { .. }
            | Self::SessionEnded { .. } => 0,
        };
        (FIXED + own) as u64
    }
}

/// What one entry changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    pub at: At,
    /// In the order in which they happened; may be empty.
    pub events: Vec<Event>,
    shown: Shown,
    /// About how many bytes of memory all of it keeps alive.
    bytes: u64,
}

impl Change {
    pub fn new(at: At, events: Vec<Event>) -> Self {
        let bytes = events.iter().map(Event::bytes).sum();
        Self { at, events, shown: Shown::default(), bytes }
    }

    /// The events that clients may be told.
    pub fn told(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(|event| event.is_told())
    }

    /// All that clients may be told, in the order in which they are.
    pub fn notices(&self) -> impl Iterator<Item = Notice<'_>> {
        self.events.iter().enumerate().flat_map(|(place, event)| event.notices(place))
    }

    /// The notice at this place; `None` if there is none.
    pub fn notice_at(&self, place: Place) -> Option<Notice<'_>> {
        let event = self.events.get(place.event)?;
        event.notices(place.event).find(|notice| notice.place == place)
    }

    /// The bytes in which clients are shown a notice of it; `make` makes them for the first who asks.
    pub fn shown(&self, notice: Notice<'_>, make: impl FnOnce() -> Bytes) -> Bytes {
        self.shown.get(&self.events, notice, make)
    }

    /// About how many bytes of memory it keeps alive, with its shown form.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// One thing that clients may be told of a change: an event, or the shard that it puts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Notice<'a> {
    pub event: &'a Event,
    pub place: Place,
}

impl Notice<'_> {
    /// What it is about: the event's kind, or the shard of the instance that the event puts.
    pub fn kind(&self) -> Kind {
        if self.place.shard { Kind::Shard } else { self.event.kind() }
    }
}

/// Where a notice stands in its change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    event: usize,
    /// It is the put of the shard of the instance that the event puts.
    shard: bool,
}

/// The bytes in which a change's events are shown to clients: made by the first who shows one,
/// shared by all others. Whoever makes them decides what they are; here they are only kept.
#[derive(Default)]
struct Shown(OnceLock<Box<[ShownEvent]>>);

/// What is shown of one event: itself, and the shard that it puts.
#[derive(Default)]
struct ShownEvent {
    own: OnceLock<Bytes>,
    shard: OnceLock<Bytes>,
}

impl Shown {
    /// The bytes of a notice of one of `of`, the events that this belongs to.
    fn get(&self, of: &[Event], notice: Notice<'_>, make: impl FnOnce() -> Bytes) -> Bytes {
        let each = self.0.get_or_init(|| of.iter().map(|_| ShownEvent::default()).collect());
        let Some(shown) = each.get(notice.place.event) else { return make() };
        let shown = if notice.place.shard { &shown.shard } else { &shown.own };
        shown.get_or_init(make).clone()
    }
}

/// What is shown follows from the events.
impl PartialEq for Shown {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

/// Which events somebody wants to be told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// `None`: of all apps.
    pub apps: Option<BTreeSet<AppName>>,
    pub kinds: Kinds,
    /// Of latches only these; `None`: of all, whatever `apps` says, since latches belong to none.
    pub latches: Option<BTreeSet<LatchKey>>,
    /// Only what becomes of this claim; all else is left out.
    pub claim: Option<(LatchKey, Claimant)>,
    /// Only of the thing with this id in its app; see [`Event::id`].
    pub id: Option<SmolStr>,
    /// Only what changes what hangs off this session.
    pub session: Option<SessionId>,
}

impl Interest {
    /// In all that clients are told of.
    pub fn all() -> Self {
        Self { kinds: Kinds::told(), ..Self::default() }
    }

    pub fn wants(&self, notice: Notice<'_>) -> bool {
        self.kinds.has(notice.kind()) && self.covers(notice.event)
    }

    /// Whether anything that the event tells is wanted.
    pub fn touched_by_event(&self, event: &Event) -> bool {
        self.kinds.meets(event.kinds()) && self.covers(event)
    }

    /// Whether the event is of the apps and things of the interest, whatever its kind.
    fn covers(&self, event: &Event) -> bool {
        let of_apps = |apps: &BTreeSet<_>| event.app().is_some_and(|app| apps.contains(app));
        let in_place = match event.latch() {
            Some(latch) => self.latches.as_ref().is_none_or(|latches| latches.contains(latch)),
            None => self.apps.as_ref().is_none_or(of_apps),
        };
        in_place
            && self.id.as_ref().is_none_or(|id| event.id() == Some(id))
            && self.session.is_none_or(|session| event.ends_or_changes() == Some(session))
            && self.claim.as_ref().is_none_or(|(latch, by)| event.is_of_claim(latch, by))
    }

    /// Whether one has to look at the events to tell, and not at their apps and kinds alone.
    pub fn is_narrow(&self) -> bool {
        self.is_narrow_in_its_place() || self.session.is_some() || self.latches.is_some()
    }

    /// The same of events of which one knows that they are of its apps, latches, session or claim.
    pub fn is_narrow_in_its_place(&self) -> bool {
        self.id.is_some()
    }

    /// Whether anything of the change is wanted.
    pub fn touched_by(&self, change: &Change) -> bool {
        change.events.iter().any(|event| self.touched_by_event(event))
    }
}
