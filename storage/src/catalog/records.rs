//! What the catalogue is made of: one record per thing, each counted in the state hash and written
//! to checkpoints with its field names.

use std::sync::Arc;

use imbl::OrdMap;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use smol_str::SmolStr;
use twox_hash::XxHash64;

use crate::brake::{Brake, BrakeOverride, Pace, Scope};
use crate::command::{AppPolicy, Outcome, Overridden, ShardSetConfig};
use crate::compact_map::CompactMap;
use crate::latch::Claim;
use crate::limits::{SESSION_THINGS_MAX, TTL_MS_MAX};
use crate::msgpack;
use crate::names::{
    AppName, DocumentName, IdempotencyKey, Incarnation, InstanceId, InstanceKey, LatchKey,
    Revision, SessionId, ShardId, ShardSetName,
};
use crate::profile::{PackedProfile, Shapes};
use crate::ring::Ring;
use crate::shards::scaling::ScalingState;
use crate::shards::{Group, Shard};

/// An app with its live instances and its documents.
#[derive(Clone, Debug)]
pub struct App {
    /// Derived: its name, for the private sessions of its instances.
    pub(super) name: Arc<AppName>,
    pub record: AppRecord,
    pub instances: CompactMap<InstanceId, Arc<Instance>>,
    pub documents: OrdMap<DocumentName, Arc<Document>>,
    /// Derived: what the documents count against `DOCUMENTS_BYTES_MAX`.
    pub document_bytes: u64,
    /// Of its live instances that are up, if it is switched on.
    pub ring: Option<Arc<Ring>>,
    /// Derived: shard sets whose workers its instances are.
    pub works_for: u32,
    /// Derived: live instances on sessions that are suspect.
    pub suspects: u64,
    /// Derived: what its instances have in common and share.
    pub(super) shapes: Shapes,
}

/// What is kept of an app besides its instances and documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppRecord {
    pub policy: AppPolicy,
    /// The last change of the app itself: its `ETag`.
    pub revision: Revision,
    /// The last change among its instances and their overrides: what a cached list is good for.
    pub members_changed: Revision,
    /// Cluster time, in milliseconds, since when it has no instance; `None` while it has one.
    pub empty_since_ms: Option<u64>,
    /// The last change among its documents, their deletions too; 0 if it never had any, and then not
    /// written. [`App::documents_changed`] is what to wait for.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub documents_changed: Revision,
}

fn is_none_yet(revision: &Revision) -> bool {
    *revision == Revision(0)
}

/// A live instance. Its shard lives and goes with it, so the shard is read from this record:
/// one per live instance, made at `incarnation`, and never left behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub profile: PackedProfile,
    pub session: SessionId,
    pub incarnation: Incarnation,
    /// Its own last change: its `ETag`.
    pub revision: Revision,
    /// Wall clock of the incarnation's begin, milliseconds since 1970, for display.
    pub registered_at_ms: u64,
}

/// What heartbeats. When its last heartbeat was is the leader's knowledge and is not here.
//
// There is one per instance, so its numbers are no larger than they can be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "StoredSession")]
pub struct Session {
    ttl_ms: u32,
    /// Things that hang off it, at most `SESSION_THINGS_MAX`.
    pub things: u16,
    /// The leader does not hear it, and the brake keeps it from being ended.
    pub suspect: bool,
    /// The last registration or update on it; an expiry that saw an older one is dropped.
    pub touched: Revision,
    owner: Owner,
}

const _: () = assert!(TTL_MS_MAX <= u32::MAX as u64 && SESSION_THINGS_MAX <= u16::MAX as usize);

/// Whose session it is.
#[derive(Clone, Debug)]
enum Owner {
    /// Opened by somebody for several things to hang off, with a name for people.
    Named(SessionName),
    /// Made by a registration that named no session; ends with its one instance. Derived: which one that
    /// is; `None` before that one is put in its place.
    Instance(Option<(Arc<AppName>, InstanceId)>),
}

impl Default for Owner {
    fn default() -> Self {
        Self::Named(SessionName::default())
    }
}

impl Session {
    /// With this TTL, at most `TTL_MS_MAX`, and nothing else.
    pub fn of_ttl(ttl_ms: u64) -> Self {
        let mut session = Self::default();
        session.set_ttl_ms(ttl_ms);
        session
    }

    /// The private one of an instance, which its registration makes.
    pub(super) fn of_instance(ttl_ms: u64, app: Arc<AppName>, id: InstanceId) -> Self {
        Self { owner: Owner::Instance(Some((app, id))), ..Self::of_ttl(ttl_ms) }
    }

    /// With a name for people.
    pub fn named(self, name: SmolStr) -> Self {
        Self { owner: Owner::Named(name.into()), ..self }
    }

    pub fn ttl_ms(&self) -> u64 {
        self.ttl_ms.into()
    }

    pub fn set_ttl_ms(&mut self, ttl_ms: u64) {
        self.ttl_ms = u32::try_from(ttl_ms).unwrap_or(u32::MAX);
    }

    /// For people; empty if it has none.
    pub fn name(&self) -> &str {
        match &self.owner {
            Owner::Named(name) => name.as_str(),
            Owner::Instance(_) => "",
        }
    }

    /// Whether it was made by a registration that named no session, and ends with that one instance.
    pub fn is_private(&self) -> bool {
        matches!(self.owner, Owner::Instance(_))
    }

    /// The one instance of a private session.
    pub fn instance(&self) -> Option<(&AppName, &InstanceId)> {
        match &self.owner {
            Owner::Instance(Some((app, id))) => Some((app, id)),
            Owner::Instance(None) | Owner::Named(_) => None,
        }
    }

    /// Without what is derived.
    pub(super) fn without_what_is_derived(mut self) -> Self {
        if let Owner::Instance(instance) = &mut self.owner {
            *instance = None;
        }
        self
    }

    /// Notes the one instance of a private session. `false` if it is none, or has one already.
    pub(super) fn set_instance(&mut self, app: &Arc<AppName>, id: &InstanceId) -> bool {
        let is_free = matches!(self.owner, Owner::Instance(None));
        if is_free {
            self.owner = Owner::Instance(Some((app.clone(), id.clone())));
        }
        is_free
    }
}

/// As it is written: without what is derived.
impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        let Self { ttl_ms, things, suspect, touched, owner: _ } = other;
        (self.ttl_ms, self.things, self.suspect, self.touched)
            == (*ttl_ms, *things, *suspect, *touched)
            && (self.is_private(), self.name()) == (other.is_private(), other.name())
    }
}

impl Serialize for Session {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Session", 5 + usize::from(self.suspect))?;
        fields.serialize_field("ttl_ms", &self.ttl_ms)?;
        fields.serialize_field("name", self.name())?;
        fields.serialize_field("private", &self.is_private())?;
        fields.serialize_field("touched", &self.touched)?;
        fields.serialize_field("things", &self.things)?;
        if self.suspect {
            fields.serialize_field("suspect", &true)?;
        }
        fields.end()
    }
}

/// A session as it is read: what [`Session`] writes.
#[derive(Deserialize)]
struct StoredSession {
    ttl_ms: u32,
    name: SmolStr,
    private: bool,
    touched: Revision,
    things: u16,
    #[serde(default)]
    suspect: bool,
}

impl From<StoredSession> for Session {
    fn from(stored: StoredSession) -> Self {
        let StoredSession { ttl_ms, name, private, touched, things, suspect } = stored;
        let owner = if private { Owner::Instance(None) } else { Owner::Named(name.into()) };
        Self { ttl_ms, things, suspect, touched, owner }
    }
}

/// Behind a pointer, and none if it is empty.
#[derive(Clone, Debug, Default)]
struct SessionName(Option<Arc<SmolStr>>);

impl SessionName {
    fn as_str(&self) -> &str {
        self.0.as_ref().map_or("", |name| name.as_str())
    }
}

impl From<SmolStr> for SessionName {
    fn from(name: SmolStr) -> Self {
        Self((!name.is_empty()).then(|| Arc::new(name)))
    }
}

/// An operator's word about an instance id, kept whether the instance lives or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Override {
    pub state: Overridden,
    pub reason: SmolStr,
    /// Cluster time at which it ends, in milliseconds; `None`: when it is cleared.
    pub expires_at_ms: Option<u64>,
    /// The same moment by the wall clock of the leader that took it, for display.
    pub expires_wall_ms: Option<u64>,
    pub revision: Revision,
}

/// A small JSON document of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// JSON as its writer sent it, without whitespace between its parts: no line ends in it.
    pub value: Arc<str>,
    /// Who wrote it, for people.
    pub by: SmolStr,
    /// Its last change: its `ETag`.
    pub revision: Revision,
    /// Wall clock of that change, milliseconds since 1970, for display.
    pub changed_at_ms: u64,
}

/// A shard set: what it covers, and who holds what.
#[derive(Clone, Debug)]
pub struct ShardSet {
    pub record: ShardSetRecord,
    /// Its workers follow from the live instances of the workers' app.
    pub group: Group,
}

/// What is kept of a shard set besides its shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardSetRecord {
    pub config: Arc<ShardSetConfig>,
    /// Its own last change, not that of its shards: its `ETag`.
    pub revision: Revision,
    /// The last change of any shard's record.
    pub epoch: Revision,
    /// How many workers there should be, if the configuration asks for that.
    pub scaling: Option<ScalingState>,
    /// By which rules it is planned and scaled. A set keeps the ones that it was made under, so that
    /// nodes of different versions come to the same state.
    #[serde(default)]
    pub rules: Rules,
}

/// The rules of plans and of the wanted number of workers, with all their constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rules {
    /// As `docs/shards.md` tells them.
    #[default]
    V1,
}

impl ShardSetRecord {
    /// Adds it to a hash, or takes it away: what seldom changes apart from what often does.
    pub(super) fn count(
        &self,
        set: &ShardSetName,
        mut each: impl FnMut(u8, &ShardSetName, Part<'_>),
    ) {
        each(kind::SHARD_SET, set, Part::Set(&self.config, self.revision, self.rules));
        each(kind::SHARD_SET_EPOCH, set, Part::Epoch(self.epoch, self.scaling.as_ref()));
    }
}

/// One of the two parts of a shard set's record that are counted in the state hash.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Part<'a> {
    Set(&'a ShardSetConfig, Revision, Rules),
    Epoch(Revision, Option<&'a ScalingState>),
}

/// A first answer, kept for its idempotency key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Of the request that was answered; another one with the key is refused.
    pub digest: (u64, u64),
    pub outcome: Outcome,
    /// Cluster time at which it is forgotten, in milliseconds.
    pub until_ms: u64,
    /// Bytes of the key and of the encoded answer, counted against `IDEMPOTENCY_BYTES_MAX`.
    pub bytes: u64,
}

/// State of an instance as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Up,
    Draining,
    Maintenance,
    /// Not heard, and kept from being removed by the mass-loss brake. It keeps its place on rings, its
    /// shards and its locks: nobody knows whether it is gone.
    Suspect,
}

impl State {
    /// Whether it takes part: an operator's word takes an instance off its ring, silence alone does not.
    pub fn takes_part(self) -> bool {
        match self {
            Self::Up | Self::Suspect => true,
            Self::Draining | Self::Maintenance => false,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Suspect => "suspect",
        }
    }
}

impl From<Overridden> for State {
    fn from(word: Overridden) -> Self {
        match word {
            Overridden::Draining => Self::Draining,
            Overridden::Maintenance => Self::Maintenance,
        }
    }
}

/// One record of a checkpoint, in the order in which [`super::Catalog::records`] gives them: an app
/// before its ring, instances and documents, sessions before what hangs off them, a shard set before
/// its shards, a latch before its claims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    Clock(Clock),
    Session {
        id: SessionId,
        value: Session,
    },
    App {
        app: AppName,
        value: AppRecord,
    },
    Instance {
        key: InstanceKey,
        value: Arc<Instance>,
    },
    Document {
        app: AppName,
        name: DocumentName,
        value: Arc<Document>,
    },
    Override {
        key: InstanceKey,
        value: Override,
    },
    Ring {
        app: AppName,
        value: Arc<Ring>,
    },
    /// After the instances and the overrides, which tell its workers.
    ShardSet {
        set: ShardSetName,
        value: ShardSetRecord,
    },
    Shard {
        set: ShardSetName,
        shard: ShardId,
        value: Shard,
    },
    /// With its last change; before its claims.
    Latch {
        latch: LatchKey,
        revision: Revision,
    },
    Claim {
        latch: LatchKey,
        value: Arc<Claim>,
    },
    Kept {
        key: IdempotencyKey,
        part: u32,
        value: Kept,
    },
    /// A published state hash: (log index, hash).
    HashMark {
        index: u64,
        hash: u64,
    },
    /// After the apps.
    Brake {
        scope: Scope,
        value: Brake,
    },
    /// After the apps.
    BrakeOverride {
        scope: Scope,
        value: BrakeOverride,
    },
}

/// The numbers that move with every command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Milliseconds during which some leader led.
    pub cluster_ms: u64,
    /// The largest wall clock seen in a command, milliseconds since 1970.
    pub wall_ms: u64,
    /// The last session id given out.
    pub last_session: u64,
    /// How much TTLs are lengthened.
    #[serde(default, skip_serializing_if = "Pace::is_default")]
    pub pace: Pace,
}

/// Raised with every change of what a record's bytes mean, so that nodes that run different
/// versions do not take equal hashes for equal states.
const HASH_SCHEMA: u64 = 2;

/// A wrapping sum over all records of XXH64(kind, key, bytes): a change subtracts the old record
/// and adds the new one, so it costs no walk over the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateHash(u64);

impl StateHash {
    pub(super) fn add<K: Serialize, V: Serialize>(&mut self, kind: u8, key: &K, value: &V) {
        self.0 = self.0.wrapping_add(hash_of(kind, key, value));
    }

    pub(super) fn subtract<K: Serialize, V: Serialize>(&mut self, kind: u8, key: &K, value: &V) {
        self.0 = self.0.wrapping_sub(hash_of(kind, key, value));
    }

    /// The sum with the clock, which moves with every command and is added only when asked for.
    pub(super) fn with_clock(mut self, clock: &Clock) -> u64 {
        self.add(kind::CLOCK, &(), clock);
        self.0
    }
}

/// The kinds of hashed records. Numbers stay; hash marks are not part of the state they describe.
pub(super) mod kind {
    pub const CLOCK: u8 = 0;
    pub const SESSION: u8 = 1;
    pub const APP: u8 = 2;
    pub const INSTANCE: u8 = 3;
    pub const OVERRIDE: u8 = 4;
    pub const KEPT: u8 = 5;
    pub const DOCUMENT: u8 = 6;
    pub const RING: u8 = 7;
    pub const SHARD_SET: u8 = 8;
    pub const SHARD_SET_EPOCH: u8 = 9;
    pub const SHARD: u8 = 10;
    pub const LATCH: u8 = 11;
    pub const CLAIM: u8 = 12;
    pub const BRAKE: u8 = 13;
    pub const BRAKE_OVERRIDE: u8 = 14;
}

fn hash_of<K: Serialize, V: Serialize>(kind: u8, key: &K, value: &V) -> u64 {
    thread_local! {
        static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|bytes| {
        bytes.clear();
        msgpack::write(bytes, &(kind, key, value))
            .expect("a record holds only what msgpack can hold, and memory takes it");
        XxHash64::oneshot(HASH_SCHEMA, bytes)
    })
}

/// The hash of a state, counted from nothing: what the incremental one must equal.
pub fn recomputed_hash(records: impl Iterator<Item = Record>) -> u64 {
    let mut hash = StateHash::default();
    let mut clock = Clock::default();
    for record in records {
        hash.add_record(&record);
        if let Record::Clock(found) = record {
            clock = found;
        }
    }
    hash.with_clock(&clock)
}

impl StateHash {
    /// Counts a record; the clock is added by who asks for the hash.
    pub(super) fn add_record(&mut self, record: &Record) {
        match record {
            Record::Session { id, value } => self.add(kind::SESSION, id, value),
            Record::App { app, value } => self.add(kind::APP, app, value),
            Record::Instance { key, value } => self.add(kind::INSTANCE, key, value),
            Record::Document { app, name, value } => {
                self.add(kind::DOCUMENT, &(app, name), value);
            }
            Record::Override { key, value } => self.add(kind::OVERRIDE, key, value),
            Record::Ring { app, value } => {
                self.add(kind::RING, app, &(value.epoch(), value.recomputed_fingerprint()));
            }
            Record::ShardSet { set, value } => {
                value.count(set, |kind, set, part| self.add(kind, set, &part));
            }
            Record::Shard { set, shard, value } => self.add(kind::SHARD, &(set, shard), value),
            Record::Latch { latch, revision } => self.add(kind::LATCH, latch, revision),
            Record::Claim { latch, value } => self.add(kind::CLAIM, latch, value),
            Record::Brake { scope, value } => self.add(kind::BRAKE, scope, value),
            Record::BrakeOverride { scope, value } => {
                self.add(kind::BRAKE_OVERRIDE, scope, value);
            }
            Record::Kept { key, part, value } => self.add(kind::KEPT, &(key, part), value),
            Record::Clock(_) | Record::HashMark { .. } => {}
        }
    }

    /// Counts what another one counted.
    pub(super) fn add_hash(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}
