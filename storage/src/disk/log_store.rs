//! The Raft log and the vote, over the crate `raft-log`: openraft's trait and nothing else.
//!
//! Log, vote, committed pointer and purges go into one sequence of records, so their order on disk
//! is the order of the calls. A writer thread of the crate writes and fsyncs; [`Ack`] tells openraft
//! when. After a failed write that thread ends: what waited is answered with the error, every later
//! call fails, and openraft stops the node.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use parking_lot::RwLock;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::chunked_wal::ChunkedWal;
use raft_log::{RaftLog, RaftWalTypes, Types};

use super::codec::{Ack, LogTypes, StoredLogId, StoredPayload, StoredVote};
use super::measures::log_times;
use super::repair::{self, Repair};
use super::{DiskError, ensure_dir};
use crate::histogram::Histogram;
use crate::raft_types::{Entry, LogId, TypeConfig, Vote};

/// Bytes of commands in one read for replication, so that a follower that lags is sent pieces that
/// fit into one heartbeat's time.
const READ_BYTES_MAX: u64 = 1024 * 1024;

/// For reading a chunk at start.
const READ_BUFFER_BYTES: usize = 1024 * 1024;

/// The cache is bounded by bytes; this only keeps the crate's own, lower default from deciding.
const CACHE_ENTRIES_MAX: usize = 1 << 22;

/// Sizes of the log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// A chunk is closed at this size. Only whole chunks are removed by a purge; each new one
    /// costs a sync of the folder.
    pub chunk_bytes: usize,
    /// Entries kept in memory for followers that lag. Readers of older ones go to the disk, a piece
    /// of [`READ_BYTES_MAX`] at a time, and hold writers up meanwhile, so it should take what a busy
    /// leader writes in a second. The entries of the newest chunk are always in memory.
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { chunk_bytes: 32 * 1024 * 1024, cache_bytes: 32 * 1024 * 1024 }
    }
}

/// The log of this node. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    log: Arc<RwLock<RaftLog<LogTypes>>>,
    times: Arc<Histogram>,
}

impl LogStore {
    /// Opens the log, making it if the folder is new, and says what had to be set aside.
    pub fn open(folder: &Path, options: LogOptions) -> Result<(Self, Vec<Repair>), DiskError> {
        ensure_dir(folder)?;
        let config = config(folder, options)?;
        let repairs = {
            let _lock = ChunkedWal::<RaftWalTypes<LogTypes>>::acquire_lock(&config.wal)
                .map_err(DiskError::io("lock", folder))?;
            repair::prepare(folder)?
        };
        let log = RaftLog::open(Arc::new(config)).map_err(|e| why_not_open(folder, e))?;
        ensure_no_hole(folder, &log)?;
        repair::note_newest(folder)?;
        let times = Arc::new(log_times());
        Ok((Self { log: Arc::new(RwLock::new(log)), times }, repairs))
    }

    /// The last entry that was purged.
    pub fn purged(&self) -> Option<LogId> {
        self.log.read().log_state().purged().map(|id| id.0)
    }

    /// What the log takes on disk.
    pub fn bytes(&self) -> u64 {
        self.log.read().on_disk_size()
    }

    /// How long appends and votes took until they were on the disk for good, nanoseconds.
    pub fn times(&self) -> &Histogram {
        &self.times
    }

    /// Gives back the memory of all entries but those of the newest chunk, which must stay there. They
    /// are read from the disk again if somebody asks.
    pub fn forget_cached(&self) {
        self.log.read().drain_cache_evictable();
    }

    /// Waits until all that was handed to the writer so far is done. For tests and for a clean stop.
    pub fn wait_until_written(&self) -> io::Result<()> {
        self.log.read().wait_worker_idle()
    }
}

fn config(folder: &Path, options: LogOptions) -> Result<raft_log::Config, DiskError> {
    let text = folder.to_str().ok_or_else(|| {
        DiskError::io("use", folder)(io::Error::other("the path of the data folder must be UTF-8"))
    })?;
    let mut config = raft_log::Config::new(text);
    config.log_cache_max_items = Some(CACHE_ENTRIES_MAX);
    config.log_cache_capacity = Some(options.cache_bytes);
    config.wal.read_buffer_size = Some(READ_BUFFER_BYTES);
    config.wal.chunk_max_size = Some(options.chunk_bytes);
    // A torn tail was dealt with before; what the crate would cut off was acknowledged.
    config.wal.truncate_incomplete_record = Some(false);
    // openraft hands over batches; waiting for more would only add to every write's time.
    config.wal.flush_batch_wait = Some(Duration::ZERO);
    Ok(config)
}

/// The crate names neither file nor place, so look for them.
fn why_not_open(folder: &Path, error: io::Error) -> DiskError {
    match repair::find_damage(folder) {
        Err(damage) => damage,
        Ok(()) if error.kind() == io::ErrorKind::InvalidData => {
            DiskError::missing(folder, format!("a file of the log ({error})"))
        }
        Ok(()) => DiskError::io("open the log in", folder)(error),
    }
}

/// The entries must begin right after the purged ones; they do not if the oldest file is gone.
fn ensure_no_hole(folder: &Path, log: &RaftLog<LogTypes>) -> Result<(), DiskError> {
    let state = log.log_state();
    let first = LogTypes::next_log_index(state.purged());
    let expected = LogTypes::next_log_index(state.last()).saturating_sub(first);
    let found = log.read(first, first.saturating_add(expected)).count() as u64;
    if found == expected {
        return Ok(());
    }
    let what = format!("{} of the {expected} entries from {first} on", expected - found);
    Err(DiskError::missing(folder, what))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = half_open(&range);
        self.log.read().read(from, to).map(entry).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.read().log_state().vote().map(|vote| vote.0))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let log = self.log.read();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for record in log.read(start, end.max(start)) {
            bytes += record.as_ref().map_or(0, |(_, payload)| payload.cost());
            if bytes > READ_BYTES_MAX && !entries.is_empty() {
                break;
            }
            entries.push(entry(record)?);
        }
        Ok(entries)
    }
}

fn entry(record: io::Result<(StoredLogId, StoredPayload)>) -> io::Result<Entry> {
    record.map(|(id, payload)| Entry { log_id: id.0, payload: payload.0 })
}

/// A range as `from..to`, never one that ends before it begins.
fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (from, to.max(from))
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.log.read();
        let state = log.log_state();
        Ok(LogState {
            last_purged_log_id: state.purged().map(|id| id.0),
            last_log_id: state.last().map(|id| id.0),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (sender, written) = TypeConfig::oneshot();
        {
            let mut log = self.log.write();
            log.save_vote(StoredVote(*vote))?;
            log.flush(true, Some(Ack::new(IOFlushed::signal(sender), &self.times)))?;
        }
        written.await.map_err(io::Error::other)?
    }

    /// Not synced: the next entry's sync takes it along, and without it a restart only waits for
    /// the leader to tell it again. A pointer behind the log comes with an installed checkpoint,
    /// which says the same.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut log = self.log.write();
        match committed.map(StoredLogId) {
            Some(id) if Some(&id) <= log.log_state().last() => {
                log.commit(id)?;
                log.flush(false, None)
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.read().log_state().committed().map(|id| id.0))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let ack = Ack::new(callback, &self.times);
        let records =
            entries.into_iter().map(|e| (StoredLogId(e.log_id), StoredPayload(e.payload)));
        let mut log = self.log.write();
        log.append(records)?;
        log.flush(true, Some(ack))
    }

    /// Synced with the entries that replace the truncated ones. Until then a crash brings the old
    /// ones back, which the leader has truncated again.
    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let mut log = self.log.write();
        if last >= log.log_state().last().map(|id| id.0) {
            return Ok(());
        }
        log.truncate(last.map_or(0, |id| id.index + 1)).map(|_| ())
    }

    /// Synced, since only a synced purge unlinks its chunks.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut log = self.log.write();
        log.purge(StoredLogId(upto))?;
        log.flush(true, None)
    }
}
