//! All that the cluster can decide, on one page: [`Command`] goes in, [`Outcome`] comes out.
//!
//! To add a decision: a variant here, an arm in [`crate::catalog::Catalog::apply`], a route, and a
//! script under `storage/tests/scripts`. Nothing matches with `_ =>`, so the compiler names every
//! place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::brake::{BrakeMode, Pace, Scope};
use crate::latch::{Claim, Claimant, Mode};
use crate::limits::{COMMAND_BYTES_MAX, DOCUMENT_BYTES_COUNTED_MIN};
use crate::msgpack;
use crate::names::{
    AppName, DocumentName, IdempotencyKey, Incarnation, InstanceId, InstanceKey, LatchKey,
    Revision, SessionId, ShardId, ShardSetName,
};
use crate::profile::PackedProfile;
use crate::shards::scaling::ScalingPolicy;

/// One decision. Encoded with field names, so that versions of the binary can be mixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Make an app or replace its policy.
    PutApp(PutApp),
    /// Delete an app; with `cascade`, its instances and documents too.
    DeleteApp(DeleteApp),
    /// Register an instance, update it in place, or take it over.
    Register(Register),
    /// Change metadata, weight or payload of a live instance. Not a sign of life.
    Patch(Patch),
    /// An instance leaves, with its shard.
    Deregister(Deregister),
    /// An operator's word about an instance; outlives its restarts.
    PutOverride(PutOverride),
    ClearOverride(ClearOverride),
    /// Write a whole document of an app.
    PutDocument(PutDocument),
    DeleteDocument(DeleteDocument),
    /// Switch the ring of an app on, or change it.
    PutRing(PutRing),
    DeleteRing(DeleteRing),
    /// Give up the vacant slots of a ring. Moves many keys, so only an operator asks for it.
    CompactRing(CompactRing),
    /// Make a shard set or replace what it covers and who works on it.
    PutShardSet(PutShardSet),
    DeleteShardSet(DeleteShardSet),
    /// A worker lets shards go, or an operator takes them away.
    Release(Release),
    /// Plan shard sets anew. The leader proposes it when what a plan rests on has changed.
    Rebalance(Rebalance),
    /// Open a session for several things to hang off.
    OpenSession(OpenSession),
    /// End a session and all that hangs off it.
    CloseSession(CloseSession),
    /// Take a latch, wait for it, or change what is published with it.
    ClaimLatch(ClaimLatch),
    /// Give up a claim, whether it waits or holds.
    WithdrawClaim(WithdrawClaim),
    /// Whoever holds a latch lets it go.
    ReleaseLatch(ReleaseLatch),
    /// Take a latch from whoever holds it.
    BreakLatch(BreakLatch),
    /// Registrations and deregistrations, each with an answer of its own.
    Batch(Batch),
    /// The leader ends sessions whose deadline passed (invariants S4 to S6).
    Expire(Expire),
    /// Nothing but the passing of cluster time, for what falls due while nobody writes.
    Tick,
    /// The leader marks sessions that it does not hear and does not end yet, or takes the mark from
    /// those that it hears again.
    Suspect(Suspect),
    /// The leader begins or ends to slow removals down (invariant L4).
    Brake(SetBrake),
    /// An operator decides about a scope's removals.
    OverrideBrake(OverrideBrake),
    ClearBrakeOverride(ClearBrakeOverride),
    /// The leader lengthens or shortens everybody's TTL and time between heartbeats.
    Pace(SetPace),
}

impl Command {
    /// The idempotency key, of the commands that a client can make happen at most once.
    pub fn request(&self) -> Option<&Request> {
        match self {
            Self::OpenSession(c) => c.request.as_ref(),
            Self::Batch(c) => c.request.as_ref(),
            Self::WithdrawClaim(c) => c.request.as_ref(),
            Self::ReleaseLatch(c) => c.request.as_ref(),
            Self::PutApp(_)
            | Self::DeleteApp(_)
            | Self::Register(_)
            | Self::Patch(_)
            | Self::Deregister(_)
            | Self::PutOverride(_)
            | Self::ClearOverride(_)
            | Self::PutDocument(_)
            | Self::DeleteDocument(_)
            | Self::PutRing(_)
            | Self::DeleteRing(_)
            | Self::CompactRing(_)
            | Self::PutShardSet(_)
            | Self::DeleteShardSet(_)
            | Self::Release(_)
            | Self::Rebalance(_)
            | Self::CloseSession(_)
            | Self::ClaimLatch(_)
            | Self::BreakLatch(_)
            | Self::Expire(_)
            | Self::Tick
            | Self::Suspect(_)
            | Self::Brake(_)
            | Self::OverrideBrake(_)
            | Self::ClearBrakeOverride(_)
            | Self::Pace(_) => None,
        }
    }
}

/// What must hold of the thing that is written, or the command is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    #[default]
    Any,
    /// `If-None-Match: *`: it must not exist.
    Absent,
    /// `If-Match: "r<revision>"`: its last change must be this one.
    Unchanged(Revision),
}

impl Condition {
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

/// What an operator sets for an app. `None` leaves the default in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppPolicy {
    /// Sentinel's app type: 0 common; 1, 11 and 12 are gateways.
    pub kind: i32,
    /// TTL of instances that name none, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Bounds on the TTLs that instances may name, in milliseconds.
    pub ttl_min_ms: Option<u64>,
    pub ttl_max_ms: Option<u64>,
    /// The app goes when it had no instance for so long, in milliseconds of cluster time.
    pub remove_when_empty_after_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PutApp {
    pub app: AppName,
    pub policy: AppPolicy,
    pub condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeleteApp {
    pub app: AppName,
    pub cascade: bool,
    pub condition: Condition,
}

/// What an instance says of itself. Texts are at most `TEXT_BYTES_MAX` long, checked at the door.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    pub ip: SmolStr,
    /// 0 where there is none. REST takes 0 to 65,535, Sentinel's heartbeat any number from 0.
    pub port: u32,
    pub hostname: SmolStr,
    pub version: SmolStr,
    pub zone: SmolStr,
    /// 1 to `WEIGHT_MAX`.
    pub weight: u16,
    pub metadata: Arc<BTreeMap<SmolStr, SmolStr>>,
    /// Opaque bytes, base64 in JSON.
    pub payload: Vec<u8>,
}

/// What most registrations leave out is left out of their bytes too, as there may be thousands in an entry. Fields
/// have names there, so that any may be left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Register {
    pub key: InstanceKey,
    pub profile: PackedProfile,
    /// The session to hang off. Without one a live instance keeps its own and a new one gets a
    /// private session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// TTL of a private session, in milliseconds; the app's default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Replace a live instance by a new incarnation even without another session: a restart.
    #[serde(default, skip_serializing_if = "is_false")]
    pub takeover: bool,
    /// Make the app if it is not there, with this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_app: Option<i32>,
    #[serde(default, skip_serializing_if = "Condition::is_any")]
    pub condition: Condition,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    pub key: InstanceKey,
    /// Refused if another incarnation lives.
    pub incarnation: Option<Incarnation>,
    pub metadata: MetadataPatch,
    pub weight: Option<u16>,
    pub payload: Option<serde_bytes::ByteBuf>,
    pub condition: Condition,
}

/// A JSON merge patch (RFC 7396) of metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetadataPatch {
    /// Forget all that was there first (`"metadata": null`).
    pub clear: bool,
    /// `None` removes the key.
    pub entries: BTreeMap<SmolStr, Option<SmolStr>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deregister {
    pub key: InstanceKey,
    /// Refused if another incarnation lives, so that a retry cannot remove a successor.
    pub incarnation: Option<Incarnation>,
    /// Tells an operator's removal from the instance's own leaving.
    pub by_operator: bool,
    /// Why an operator removes it, for people; empty if nothing was said. At most
    /// `REASON_BYTES_MAX`, checked at the door.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub reason: SmolStr,
    pub condition: Condition,
}

/// What an operator can make of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overridden {
    Draining,
    Maintenance,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PutOverride {
    pub key: InstanceKey,
    pub state: Overridden,
    pub reason: SmolStr,
    /// Ends after so long, in milliseconds of cluster time.
    pub expires_in_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClearOverride {
    pub key: InstanceKey,
    /// Why, in the operator's words; empty where none were given.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub reason: SmolStr,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PutDocument {
    pub app: AppName,
    pub name: DocumentName,
    /// JSON without whitespace between its parts, at most `DOCUMENT_BYTES_MAX`, checked at the door.
    pub value: Arc<str>,
    /// Who writes it, for people.
    pub by: SmolStr,
    /// Make the app if it is not there.
    pub create_app: bool,
    pub condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeleteDocument {
    pub app: AppName,
    pub name: DocumentName,
    /// Who deletes it, for people.
    pub by: SmolStr,
    pub condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PutRing {
    pub app: AppName,
    /// Seeds the hashes of keys and workers; fixed once the ring is there. At most `RING_SEED_MAX`.
    pub seed: u64,
    /// Owners of a key, for those who do not say how many they want: 1 to `RING_REPLICAS_MAX`.
    pub replicas: u8,
    pub condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeleteRing {
    pub app: AppName,
    pub condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompactRing {
    pub app: AppName,
    pub condition: Condition,
}

/// Which shards a set has and who works on them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSetConfig {
    /// The app whose live instances are the workers. It stays as long as the set does.
    pub workers: AppName,
    /// The apps whose live instances are the shards.
    pub apps: Covered,
    /// The holder and its standbys: 1 to `SHARD_COPIES_MAX`.
    pub copies: u8,
    /// How many workers there should be; without it nobody is told.
    pub scaling: Option<ScalingPolicy>,
}

/// The apps of a shard set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Covered {
    /// All but the workers' own.
    All,
    /// These, whether they are there yet or not. At most `SHARD_SET_APPS_MAX`.
    Apps(BTreeSet<AppName>),
}

impl ShardSetConfig {
    /// Whether an app's instances are shards of the set.
    pub fn covers(&self, app: &AppName) -> bool {
        match &self.apps {
            Covered::All => *app != self.workers,
            Covered::Apps(apps) => apps.contains(app),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PutShardSet {
    pub set: ShardSetName,
    pub config: ShardSetConfig,
    pub condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeleteShardSet {
    pub set: ShardSetName,
    pub condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    pub set: ShardSetName,
    pub by: ReleasedBy,
    /// With the grants under which they are held: another grant is refused, item by item.
    pub shards: Vec<(ShardId, Revision)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleasedBy {
    /// The holder itself, which has stopped its work on them.
    Worker(InstanceId),
    /// Whoever holds them may be at work on them still; only the grant tells the two apart.
    Operator,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rebalance {
    /// Those that are not there any more are passed over.
    pub sets: Vec<ShardSetName>,
}

/// Makes a POST happen at most once (invariant S13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub key: IdempotencyKey,
    /// XXH64 of the request's path and body under two seeds; another one with the key is refused.
    pub digest: (u64, u64),
    /// Which entry of a batch that was cut into several.
    pub part: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenSession {
    pub ttl_ms: Option<u64>,
    pub name: SmolStr,
    pub request: Option<Request>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloseSession {
    pub session: SessionId,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimLatch {
    pub latch: LatchKey,
    pub by: Claimant,
    pub mode: Mode,
    /// What a candidate publishes; empty for locks.
    pub value: Arc<str>,
    /// Take a place in the queue if it is not free; else it is refused.
    pub waits: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WithdrawClaim {
    pub latch: LatchKey,
    pub by: Claimant,
    /// Only if it was not asked for again after this revision; `None` whoever asked for it last.
    pub asked: Option<Revision>,
    /// Let it go too if it has won meanwhile; else whoever has won keeps it.
    pub even_won: bool,
    pub request: Option<Request>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReleaseLatch {
    pub latch: LatchKey,
    pub token: Revision,
    /// Which one of those that share it under this token.
    pub by: Option<Claimant>,
    pub request: Option<Request>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakLatch {
    pub latch: LatchKey,
    /// Only from those who hold it under this token.
    pub token: Option<Revision>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    pub items: Vec<BatchItem>,
    pub request: Option<Request>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BatchItem {
    Register(Register),
    Deregister(Deregister),
}

impl BatchItem {
    /// As many bytes as it takes in an encoded [`Batch`], or a few more: enough to cut batches by, so
    /// that nobody has to encode an item only to see how long it is.
    pub fn encoded_bytes_max(&self) -> usize {
        /// The names of all fields, with the longest numbers and lengths.
        const NAMES_AND_NUMBERS: usize = 256;
        let (key, texts) = match self {
            Self::Register(c) => (&c.key, c.profile.memory_bytes()),
            Self::Deregister(c) => (&c.key, c.reason.len()),
        };
        NAMES_AND_NUMBERS + key.app.as_str().len() + key.id.as_str().len() + texts
    }
}

/// Sessions that the leader of `term` saw pass their deadline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expire {
    /// Dropped by apply unless it is the term of the entry itself (invariant S5).
    pub term: u64,
    pub sessions: Vec<Expiry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expiry {
    pub session: SessionId,
    /// The last register or update that the leader saw; a later one saves the session.
    pub touched: Revision,
    /// How long before the proposal the last heartbeat was, for the history, in milliseconds.
    pub silent_ms: u64,
}

/// What the leader of `term` found out about sessions that the brake keeps from being removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    /// Dropped by apply unless it is the term of the entry itself (invariant S5).
    pub term: u64,
    /// At most `SUSPICIONS_MAX`.
    pub sessions: Vec<Suspicion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suspicion {
    pub session: SessionId,
    /// The last register or update that the leader saw; a later one is a sign of life.
    pub touched: Revision,
    /// Whether it is suspect from now on.
    pub suspect: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetBrake {
    /// Dropped by apply unless it is the term of the entry itself.
    pub term: u64,
    pub scope: Scope,
    pub change: BrakeChange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrakeChange {
    /// It goes on, or is on already and tells newer numbers: so many are missing of so many.
    On {
        missing: u64,
        of: u64,
    },
    Off {
        because: BrakeEnd,
    },
}

/// Why a brake goes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrakeEnd {
    /// Those who were silent are heard again.
    Recovered,
    /// Those who were silent are gone.
    Removed,
    /// An operator said so.
    Released,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverrideBrake {
    pub scope: Scope,
    pub mode: BrakeMode,
    pub reason: SmolStr,
    /// Ends after so long, in milliseconds of cluster time.
    pub expires_in_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClearBrakeOverride {
    pub scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetPace {
    /// Dropped by apply unless it is the term of the entry itself.
    pub term: u64,
    /// 100 to `STRETCH_PERCENT_MAX`.
    pub percent: u32,
}

/// What apply made of a command: the same on every node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Where it was decided; of the first time, if it is an answer given again.
    pub revision: Revision,
    pub result: Result<Reply, Refusal>,
}

impl Outcome {
    /// Makes the TTLs in it those that clients are told at this pace.
    pub(crate) fn lengthen_ttls(&mut self, pace: Pace) {
        if let Ok(reply) = &mut self.result {
            reply.lengthen_ttls(pace);
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing to tell: a tick, or an entry of Raft's own.
    Done,
    AppPut {
        created: bool,
    },
    AppDeleted {
        instances: u64,
    },
    Registered(Registered),
    Patched {
        incarnation: Incarnation,
    },
    Deregistered {
        incarnation: Incarnation,
    },
    OverridePut,
    OverrideCleared,
    DocumentPut {
        created: bool,
    },
    DocumentDeleted,
    RingPut {
        created: bool,
        /// Of its last change: this one, unless nothing changed.
        epoch: Revision,
    },
    RingDeleted,
    RingCompacted {
        epoch: Revision,
    },
    ShardSetPut {
        created: bool,
    },
    ShardSetDeleted,
    /// In the order of the release's shards.
    Released(Vec<Result<(), Refusal>>),
    /// How many sets changed.
    Rebalanced {
        changed: u64,
    },
    SessionOpened {
        session: SessionId,
        ttl_ms: u64,
    },
    SessionClosed {
        instances: u64,
    },
    /// The token if it holds, `None` if it waits.
    Claimed {
        token: Option<Revision>,
    },
    Withdrawn(Withdrawn),
    LatchReleased,
    /// Who held it, in the order of their places.
    LatchBroken(Vec<Arc<Claim>>),
    /// In the order of the batch's items.
    Batch(Vec<Result<Reply, Refusal>>),
    /// Sessions ended, and those that were dropped since they had moved on.
    Expired {
        ended: u64,
        dropped: u64,
    },
    /// Sessions whose suspicion changed, and those that were dropped since they had moved on.
    Suspected {
        changed: u64,
        dropped: u64,
    },
    /// A brake went on or off, or tells newer numbers.
    BrakeSet,
    BrakeOverridePut,
    BrakeOverrideCleared,
    PaceSet,
}

impl Reply {
    fn lengthen_ttls(&mut self, pace: Pace) {
        match self {
            Self::Registered(Registered { ttl_ms, .. }) | Self::SessionOpened { ttl_ms, .. } => {
                *ttl_ms = pace.told(*ttl_ms);
            }
            Self::Batch(items) => {
                items.iter_mut().flatten().for_each(|item| item.lengthen_ttls(pace));
            }
            Self::Done
            | Self::AppPut { .. }
            | Self::AppDeleted { .. }
            | Self::Patched { .. }
            | Self::Deregistered { .. }
            | Self::OverridePut
            | Self::OverrideCleared
            | Self::DocumentPut { .. }
            | Self::DocumentDeleted
            | Self::RingPut { .. }
            | Self::RingDeleted
            | Self::RingCompacted { .. }
            | Self::ShardSetPut { .. }
            | Self::ShardSetDeleted
            | Self::Released(_)
            | Self::Rebalanced { .. }
            | Self::SessionClosed { .. }
            | Self::Claimed { .. }
            | Self::Withdrawn(_)
            | Self::LatchReleased
            | Self::LatchBroken(_)
            | Self::Expired { .. }
            | Self::Suspected { .. }
            | Self::BrakeSet
            | Self::BrakeOverridePut
            | Self::BrakeOverrideCleared
            | Self::PaceSet => {}
        }
    }
}

/// What became of a claim that was to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Withdrawn {
    /// It is gone.
    Gone,
    /// It has won, perhaps for another request of the same claimant, and was kept.
    Won { token: Revision },
    /// There is none.
    NotThere,
    /// It waits still: somebody asked for it again since.
    Kept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// A new life: a first registration or a takeover.
    pub created: bool,
    pub incarnation: Incarnation,
    pub session: SessionId,
    pub ttl_ms: u64,
}

/// Why apply changed nothing. Every node says the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("there is no app \"{0}\"")]
    UnknownApp(AppName),
    #[error("app \"{app}\" has no live instance \"{id}\"; register it again")]
    UnknownInstance { app: AppName, id: InstanceId },
    #[error("there is no session {0}; it ended or was never opened")]
    UnknownSession(SessionId),
    #[error("app \"{0}\" exists already")]
    AppExists(AppName),
    #[error("instance \"{id}\" of app \"{app}\" exists already")]
    InstanceExists { app: AppName, id: InstanceId },
    #[error("app \"{app}\" has no document \"{name}\"")]
    UnknownDocument { app: AppName, name: DocumentName },
    #[error("document \"{name}\" of app \"{app}\" exists already")]
    DocumentExists { app: AppName, name: DocumentName },
    /// `bytes` as they count: a small document counts `DOCUMENT_BYTES_COUNTED_MIN`.
    #[error(
        "the app's documents would count {bytes} bytes, each at least {DOCUMENT_BYTES_COUNTED_MIN}; \
         the limit is {limit}; delete some first"
    )]
    DocumentsTooLarge { bytes: u64, limit: u64 },
    /// `current` is 0 where there is nothing.
    #[error("{}", failed_precondition(*current))]
    PreconditionFailed { current: Revision },
    #[error(
        "app \"{app}\" has {instances} instances and {documents} documents; delete them first or \
         use ?cascade=true"
    )]
    AppNotEmpty {
        app: AppName,
        instances: u64,
        /// Not told by older versions.
        #[serde(default)]
        documents: u64,
    },
    #[error("incarnation {current} took over; stay away")]
    StaleIncarnation { current: Incarnation },
    #[error("the TTL must be between {min_ms} and {max_ms} ms for this app")]
    TtlOutOfBounds { min_ms: u64, max_ms: u64 },
    #[error("the metadata would be {bytes} bytes; the limit is {limit}")]
    MetadataTooLarge { bytes: u64, limit: u64 },
    #[error("session {session} holds {limit} things, its limit; open another one")]
    SessionFull { session: SessionId, limit: u64 },
    #[error("app \"{0}\" has no ring; switch it on with PUT /v1/apps/{{app}}/ring")]
    NoRing(AppName),
    #[error("app \"{0}\" has a ring already")]
    RingExists(AppName),
    #[error("the ring's seed is {seed} and cannot be changed; delete the ring and make another")]
    RingSeedFixed { seed: u64 },
    #[error("there is no shard set \"{0}\"")]
    UnknownShardSet(ShardSetName),
    #[error("shard set \"{0}\" exists already")]
    ShardSetExists(ShardSetName),
    #[error("there are {limit} shard sets, the limit; delete one first")]
    TooManyShardSets { limit: u64 },
    #[error(
        "the instances of app \"{app}\" are the workers of shard set \"{set}\"; delete that first"
    )]
    AppInUse { app: AppName, set: ShardSetName },
    /// `holder` and `current` of who holds it now; nobody and 0 if it is free or not there.
    #[error("{}", stale_token(*current, holder.as_ref()))]
    StaleToken { current: Revision, holder: Option<InstanceId> },
    /// `holder` and `token` of the first one that holds it.
    #[error("{}", latch_held(latch, holder.as_ref(), *token, *waiting))]
    LatchHeld { latch: LatchKey, holder: Option<Claimant>, token: Revision, waiting: u64 },
    #[error("nobody holds {latch} and nobody waits for it")]
    UnknownLatch { latch: LatchKey },
    /// `current` of who holds it now; 0 if nobody does.
    #[error("{}", stale_latch_token(latch, *current))]
    StaleLatchToken { latch: LatchKey, current: Revision },
    #[error("{holders} share {latch} under token {token}; name the session and the owner too")]
    TokenShared { latch: LatchKey, token: Revision, holders: u64 },
    #[error("{latch} has {limit} holders and waiters, its limit; try again later")]
    LatchFull { latch: LatchKey, limit: u64 },
    #[error("this idempotency key was used with another request")]
    KeyReused,
    #[error("too many idempotency keys are kept; try again later")]
    TooManyKeys,
}

fn failed_precondition(current: Revision) -> String {
    match current {
        Revision(0) => "it does not exist, so its last change is not the one named".into(),
        _ => format!("its last change is r{current}, not the one that the condition names"),
    }
}

fn stale_token(current: Revision, holder: Option<&InstanceId>) -> String {
    match holder {
        Some(holder) => format!("{holder:?} holds it under grant {current}"),
        None => "nobody holds it under this grant any more".into(),
    }
}

fn latch_held(
    latch: &LatchKey,
    holder: Option<&Claimant>,
    token: Revision,
    waiting: u64,
) -> String {
    match holder {
        Some(Claimant { session, owner }) => format!(
            "{latch} is held by {owner:?} of session {session} under token {token}; {waiting} wait \
             for it"
        ),
        None => format!("{waiting} wait for {latch}"),
    }
}

fn stale_latch_token(latch: &LatchKey, current: Revision) -> String {
    match current {
        Revision(0) => format!("nobody holds {latch}"),
        _ => format!("{latch} is not held like that; it is held under token {current}"),
    }
}

/// A command is too large for one log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request takes {0} bytes of the log; the limit is {COMMAND_BYTES_MAX}")]
pub struct TooLarge(pub usize);

/// A [`Command`] as bytes, encoded once where it was made and decoded once per node, in apply: the
/// log, the network and a forwarding follower only pass it on.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedCommand(Bytes);

/// First byte of every encoded command; raised when old binaries could not read new bytes, or misread them.
const FORMAT: u8 = 3;

/// The oldest format that is read. Registrations spelled out there what they leave out now.
const FORMAT_OLDEST: u8 = 2;

impl EncodedCommand {
    pub fn new(command: &Command) -> Result<Self, TooLarge> {
        let mut bytes = Vec::new();
        if let Command::Batch(batch) = command {
            // The log keeps them in memory for a while, so they are not to lie in twice the room.
            let most: usize = batch.items.iter().map(BatchItem::encoded_bytes_max).sum();
            bytes.reserve(most);
        }
        bytes.push(FORMAT);
        msgpack::write_named(&mut bytes, command)
            .expect("a command holds only what msgpack can hold, and memory takes it");
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(TooLarge(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    pub fn decode(&self) -> Result<Command, UnreadableCommand> {
        match self.0.split_first() {
            Some((FORMAT_OLDEST..=FORMAT, body)) => {
                rmp_serde::from_slice(body).map_err(|e| UnreadableCommand(e.to_string()))
            }
            Some((format, _)) => Err(UnreadableCommand(format!(
                "it has format {format}; this binary reads {FORMAT_OLDEST} to {FORMAT}. Start the version of Roster that wrote \
                 it, or a newer one"
            ))),
            None => Err(UnreadableCommand("it is empty".into())),
        }
    }

    /// The bytes as the log keeps them.
    pub(crate) fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Bytes that the log kept; [`Self::decode`] says whether they are a command.
    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Bytes that this binary cannot read as a command: damage, or a newer version's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log entry cannot be read as a command: {0}")]
pub struct UnreadableCommand(String);

impl fmt::Debug for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decode() {
            Ok(command) => command.fmt(f),
            Err(e) => write!(f, "<{e}>"),
        }
    }
}

impl Serialize for EncodedCommand {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for EncodedCommand {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        Ok(Self(Bytes::from(bytes.into_vec())))
    }
}

/// The times that the leader gives a command when it proposes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Cluster time: milliseconds that passed while some leader led. Only this decides anything.
    pub cluster_ms: u64,
    /// The leader's wall clock, milliseconds since 1970, for display. Apply never lets it go back.
    pub wall_ms: u64,
}

/// What the Raft log carries: a command, and when it was proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub stamp: Stamp,
    pub command: EncodedCommand,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command.decode() {
            Ok(command) => command.fmt(f),
            Err(e) => write!(f, "<{e}>"),
        }
    }
}

/// A line for logs; long lists are counted.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutApp(c) => write!(f, "put-app {}", c.app),
            Self::DeleteApp(c) => write!(f, "delete-app {}", c.app),
            Self::Register(c) => write!(f, "register {}", c.key),
            Self::Patch(c) => write!(f, "patch {}", c.key),
            Self::Deregister(c) => write!(f, "deregister {}", c.key),
            Self::PutOverride(c) => write!(f, "put-override {} {:?}", c.key, c.state),
            Self::ClearOverride(c) => write!(f, "clear-override {}", c.key),
            Self::PutDocument(c) => write!(f, "put-document {}/{}", c.app, c.name),
            Self::DeleteDocument(c) => write!(f, "delete-document {}/{}", c.app, c.name),
            Self::PutRing(c) => write!(f, "put-ring {}", c.app),
            Self::DeleteRing(c) => write!(f, "delete-ring {}", c.app),
            Self::CompactRing(c) => write!(f, "compact-ring {}", c.app),
            Self::PutShardSet(c) => write!(f, "put-shard-set {}", c.set),
            Self::DeleteShardSet(c) => write!(f, "delete-shard-set {}", c.set),
            Self::Release(c) => write!(f, "release {} shards of {}", c.shards.len(), c.set),
            Self::Rebalance(c) => write!(f, "rebalance {:?}", c.sets),
            Self::OpenSession(c) => write!(f, "open-session {:?}", c.name),
            Self::CloseSession(c) => write!(f, "close-session {}", c.session),
            Self::ClaimLatch(c) => write!(f, "claim {} by session {}", c.latch, c.by.session),
            Self::WithdrawClaim(c) => write!(f, "withdraw {} by session {}", c.latch, c.by.session),
            Self::ReleaseLatch(c) => write!(f, "release {} under {}", c.latch, c.token),
            Self::BreakLatch(c) => write!(f, "break {}", c.latch),
            Self::Batch(c) => write!(f, "batch of {}", c.items.len()),
            Self::Expire(c) => write!(f, "expire {} sessions, term {}", c.sessions.len(), c.term),
            Self::Tick => f.write_str("tick"),
            Self::Suspect(c) => write!(f, "suspect {} sessions, term {}", c.sessions.len(), c.term),
            Self::Brake(c) => write!(f, "brake {:?} {:?}", c.scope, c.change),
            Self::OverrideBrake(c) => write!(f, "override-brake {:?} {:?}", c.scope, c.mode),
            Self::ClearBrakeOverride(c) => write!(f, "clear-brake-override {:?}", c.scope),
            Self::Pace(c) => write!(f, "pace {} %", c.percent),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(reply) => write!(f, "r{} {reply:?}", self.revision),
            Err(refusal) => write!(f, "r{} refused: {refusal}", self.revision),
        }
    }
}
