//! Every cap, with its reason and with what happens at it. Times are in milliseconds, sizes in
//! bytes. A limit on what clients send is answered with a 4xx that names the field.

/// An app, instance, document or session name and an idempotency key. Longer: `invalid-<field>`.
pub const ID_BYTES_MAX: usize = 1024;

/// `ip`, `hostname`, `version`, `zone`, a session's `name` and who changed a document. Sentinel's dashboard allows 256.
pub const TEXT_BYTES_MAX: usize = 1024;

/// All keys and values of an instance's metadata together, so that a list of 10,000 stays readable.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;

/// An instance's opaque payload, decoded.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// A document as its writer sent it, so that one always fits into a log entry. Beyond: `too-large`.
pub const DOCUMENT_BYTES_MAX: usize = 128 * 1024;

/// All documents of an app together, so that a list of them stays one answer that can be read at
/// once. Beyond: `too-large`.
pub const DOCUMENTS_BYTES_MAX: u64 = 1024 * 1024;

/// What a shorter document counts against `DOCUMENTS_BYTES_MAX`, so that there are at most 8,192 of
/// an app: deleting the app is one entry that tells of each.
pub const DOCUMENT_BYTES_COUNTED_MIN: u64 = 128;

/// How deep arrays and objects of a document may be nested: common readers of JSON stop at 128, and
/// answers put the document some levels deeper. Beyond: `invalid-value`.
pub const DOCUMENT_DEPTH_MAX: usize = 100;

/// The reason that an operator gives with an override.
pub const REASON_BYTES_MAX: usize = 1024;

/// The shortest TTL. Below it, an election alone could take longer than a life.
pub const TTL_MS_MIN: u64 = 1_000;

/// The longest TTL.
pub const TTL_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The TTL of who names none.
pub const TTL_MS_DEFAULT: u64 = 15_000;

/// The longest TTL that a busy cluster makes of a shorter one, so that what was told to everybody before
/// is over by then.
pub const STRETCHED_TTL_MS_MAX: u64 = 120_000;

/// The most by which TTLs are lengthened, in percent.
pub const STRETCH_PERCENT_MAX: u32 = 800;

/// How many heartbeats a client is asked to send within one TTL.
pub const HEARTBEATS_PER_TTL: u64 = 3;

/// The TTL of an instance that came through Sentinel's heartbeat: the dashboard's own
/// `unhealthyMachineMillis`, for transports that beat each 5 or 10 s and never retry.
pub const SENTINEL_TTL_MS: u64 = 60_000;

/// An instance's weight, 1 to this.
pub const WEIGHT_MAX: u16 = 1024;

/// Things on one session, so that its end stays one bounded log entry. Beyond: 429 `rate-limited`.
pub const SESSION_THINGS_MAX: usize = 10_000;

/// Sessions that one expiry entry may end; more go into the next one.
pub const EXPIRY_SESSIONS_MAX: usize = 1_000;

/// Instances that one expiry entry may end; more go into the next one.
pub const EXPIRY_THINGS_MAX: usize = 10_000;

/// Sessions whose suspicion one entry may change; more go into the next one.
pub const SUSPICIONS_MAX: usize = 1_000;

/// An encoded command. Batches are cut to stay below; a single larger one is `too-large`.
pub const COMMAND_BYTES_MAX: usize = 256 * 1024;

/// Items of one `POST /v1/instances:batch`.
pub const BATCH_ITEMS_MAX: usize = 5_000;

/// Targets of one `POST /v1/heartbeats`.
pub const HEARTBEATS_MAX: usize = 10_000;

/// How long a first answer is kept for its idempotency key, in cluster time.
pub const IDEMPOTENCY_MS: u64 = 10 * 60 * 1000;

/// Kept answers (a batch keeps one per entry). Beyond: 429 `rate-limited`.
pub const IDEMPOTENCY_ENTRIES_MAX: usize = 262_144;

/// Bytes of all kept answers and their keys, so that batches cannot make the limit above worth gigabytes. Beyond:
/// 429 `rate-limited`.
pub const IDEMPOTENCY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Timed things (kept answers, overrides, empty apps, cool-downs) that one entry clears away; the rest waits
/// for the next entry, so that no entry takes long.
pub const DUE_PER_ENTRY_MAX: usize = 1_000;

/// The state hash is published at log indexes divisible by this, so that nodes can be compared.
pub const STATE_HASH_EVERY: u64 = 1_024;

/// How many published state hashes are kept.
pub const STATE_HASHES_KEPT: usize = 64;

// Rings.

/// A key whose owner is asked for, as raw bytes. Keys are hashed, not kept: the limit only bounds a
/// request. Longer: `invalid-key`.
pub const RING_KEY_BYTES_MAX: usize = 64 * 1024;

/// Keys whose owners are asked for in one request, so that its answer stays bounded. More:
/// `too-large`.
pub const RING_KEYS_MAX: usize = 10_000;

/// Copies of a key, 1 to this. Beyond: `invalid-replicas`.
pub const RING_REPLICAS_MAX: u8 = 16;

/// Slots of a ring, which is the total weight of its workers: 4 MiB of slots on every node and in
/// every client. A worker that would pass it does not join.
pub const RING_SLOTS_MAX: usize = 1 << 20;

/// The largest seed of a ring: the largest integer that every reader of JSON keeps exactly. Beyond:
/// `invalid-seed`.
pub const RING_SEED_MAX: u64 = (1 << 53) - 1;

/// Rings of which one heartbeat tells an adopted epoch. Beyond: `invalid-adopted`.
pub const ADOPTED_MAX: usize = 100;

// Shard sets.

/// A shard's id: an app of which each byte may be escaped to three, a `/`, and an instance.
pub const SHARD_ID_BYTES_MAX: usize = 3 * ID_BYTES_MAX + 1 + ID_BYTES_MAX;

/// Copies of a shard, its holder counted. Beyond: `invalid-value`.
pub const SHARD_COPIES_MAX: u8 = 16;

/// Shard sets. Each change of an instance looks at all of them. Beyond: 429 `rate-limited`.
pub const SHARD_SETS_MAX: usize = 64;

/// Apps that a shard set may name. Beyond: `invalid-apps`.
pub const SHARD_SET_APPS_MAX: usize = 1_000;

/// Shards of one release. Beyond: `too-large`.
pub const RELEASES_MAX: usize = 10_000;

/// What one plan spends on giving loose shards to their standbys: for each of them the sum of the
/// workers' weights, and the workers times the square of the standbys. A plan is made inside apply, so it
/// must not take long; beyond, shards go to whoever has room. A loss of 500 shards among 10,000
/// workers stays within. Part of the plan: nodes with another number would come to other states.
pub const STANDBY_LOOKS_MAX: u64 = 10_000_000;

// Latches.

/// What tells two holders of one session apart. Longer: `invalid-owner`.
pub const OWNER_BYTES_MAX: usize = 1024;

/// What a candidate publishes while it leads, an address for example. Longer: `invalid-value`.
pub const CAMPAIGN_VALUE_BYTES_MAX: usize = 4 * 1024;

/// Claims on one latch, those that hold and those that wait. Beyond: 429 `rate-limited`.
pub const LATCH_CLAIMS_MAX: usize = 10_000;
