//! How long the disk and the applying of entries take, for those who watch a node. Nothing is decided
//! by it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::histogram::Histogram;

const MS: u64 = 1_000_000;

/// Of one append to the log, nanoseconds: a disk takes from a tenth of a millisecond to some ten.
const LOG_BOUNDS: &[u64] = &[
    MS / 4,
    MS / 2,
    MS,
    2 * MS,
    4 * MS,
    8 * MS,
    16 * MS,
    32 * MS,
    64 * MS,
    128 * MS,
    256 * MS,
    512 * MS,
    1_024 * MS,
    4_096 * MS,
];

/// Of one batch of entries, nanoseconds.
const APPLY_BOUNDS: &[u64] = &[
    MS / 50,
    MS / 20,
    MS / 10,
    MS / 4,
    MS / 2,
    MS,
    5 * MS / 2,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    1_000 * MS,
];

/// Of one batch, entries.
const BATCH_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// Of one checkpoint, nanoseconds: it is written slowly on purpose.
const CHECKPOINT_BOUNDS: &[u64] = &[
    10 * MS,
    50 * MS,
    100 * MS,
    500 * MS,
    1_000 * MS,
    2_000 * MS,
    5_000 * MS,
    10_000 * MS,
    30_000 * MS,
    60_000 * MS,
    300_000 * MS,
];

/// The time that something took so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch(Instant);

#[expect(
    clippy::disallowed_methods,
    reason = "it is only looked at from outside: no state and no order of events follows from it"
)]
impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// What applying entries took.
#[derive(Debug)]
pub struct ApplyMeasures {
    /// Of each batch, nanoseconds.
    pub times: Histogram,
    /// Of each batch, entries.
    pub entries: Histogram,
}

impl Default for ApplyMeasures {
    fn default() -> Self {
        Self { times: Histogram::new(APPLY_BOUNDS), entries: Histogram::new(BATCH_BOUNDS) }
    }
}

impl ApplyMeasures {
    pub(super) fn applied(&self, entries: usize, since: Stopwatch) {
        self.entries.add(entries as u64);
        self.times.add_time(since.elapsed());
    }
}

/// What checkpoints took.
#[derive(Debug)]
pub struct CheckpointMeasures {
    /// Of each that was written here, nanoseconds.
    pub times: Histogram,
    written_bytes: AtomicU64,
    installed: AtomicU64,
}

impl Default for CheckpointMeasures {
    fn default() -> Self {
        Self {
            times: Histogram::new(CHECKPOINT_BOUNDS),
            written_bytes: AtomicU64::new(0),
            installed: AtomicU64::new(0),
        }
    }
}

impl CheckpointMeasures {
    pub(super) fn wrote(&self, bytes: u64, since: Stopwatch) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.times.add_time(since.elapsed());
    }

    pub(super) fn installed_one(&self) {
        self.installed.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of all that were written here, since the start.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// Checkpoints that came from a leader and took the place of the state, since the start.
    pub fn installed(&self) -> u64 {
        self.installed.load(Ordering::Relaxed)
    }
}

/// Of each append and each vote, nanoseconds: from where it was handed to the log's writer until it was on
/// the disk for good.
pub(super) fn log_times() -> Histogram {
    Histogram::new(LOG_BOUNDS)
}
