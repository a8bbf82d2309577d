//! sled, kept at arm's length: what it says and does may fail in any way, and this tells of it.
//!
//! - A panic inside of sled is caught and told as damage. After it, sled is not entered again, not
//!   even to close it: it may wait for what never comes.
//! - `flush` writes sled's buffers with sync_file_range, which a power cut may still lose. So an
//!   fdatasync of its file follows, through a handle of our own. The names of its files, and `conf`,
//!   which it writes once and never syncs, are synced when it is opened.
//! - **One batch, one sync.** sled frees a segment of its file once newer copies of what it held
//!   were flushed, and then writes over it. Were the segment used again before the newer copies are
//!   synced, a power cut could lose both. Between two syncs here is one batch, and while a batch is
//!   written nothing of it counts as flushed. For the same reason sled's own flusher is off.
//! - A page of sled holds up to 17 values. Pages above a quarter of a segment would be written to
//!   files of their own, which nobody syncs; [`super::Sizes`] keeps them below.

use std::any::Any;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use sled::{Batch, Db, IVec};

use crate::disk::{ensure_dir, fsync_dir};

/// Of pages that sled keeps in memory. Newly written pages are there: rows, and blocks that grow.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Why sled did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("it is in use: {0}")]
    Busy(String),
    /// What is on the disk cannot be read.
    #[error("damaged: {0}")]
    Damaged(String),
    /// sled panicked, and is not to be entered again.
    #[error("sled panicked: {0}")]
    Panicked(String),
    #[error("{0}")]
    Io(String),
}

/// An open sled.
pub(super) struct Store {
    sled: ManuallyDrop<Db>,
    /// sled's log, where all of its data is.
    data: File,
}

impl Store {
    /// Opens the folder, making it if it is not there.
    pub fn open(folder: &Path, segment_bytes: usize) -> Result<Self, StoreError> {
        ensure_dir(folder).map_err(|e| StoreError::Io(e.to_string()))?;
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .segment_size(segment_bytes);
        let sled = caught(|| config.open())?;
        let sled = ManuallyDrop::new(sled);
        let data = sync_files(folder).map_err(|e| StoreError::Io(e.to_string()))?;
        Ok(Self { sled, data })
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        caught(|| self.sled.get(key))
    }

    /// All keys with this beginning, and their values.
    pub fn all(&self, prefix: &[u8]) -> Result<Vec<(IVec, IVec)>, StoreError> {
        caught(|| self.sled.scan_prefix(prefix).collect())
    }

    /// At most `count` keys of a range.
    pub fn keys(
        &self,
        range: RangeInclusive<Vec<u8>>,
        count: usize,
    ) -> Result<Vec<IVec>, StoreError> {
        caught(|| self.sled.range(range).keys().take(count).collect())
    }

    /// Writes a batch. When this returns, all of it outlasts a power cut.
    pub fn write(&self, batch: Batch) -> Result<(), StoreError> {
        caught(|| {
            self.sled.apply_batch(batch)?;
            self.sled.flush()
        })?;
        self.data.sync_data().map_err(|e| StoreError::Io(format!("cannot sync its file: {e}")))
    }

    /// Of all its files, in bytes.
    pub fn bytes_on_disk(&self) -> Result<u64, StoreError> {
        caught(|| self.sled.size_on_disk())
    }

    /// Closes it in order. A store that is only dropped leaves sled as it is.
    pub fn close(self) -> Result<(), StoreError> {
        let sled = ManuallyDrop::into_inner(self.sled);
        caught(move || {
            drop(sled);
            Ok(())
        })
    }
}

/// Makes the names of sled's files durable, and what was written to them so far.
fn sync_files(folder: &Path) -> io::Result<File> {
    File::open(folder.join("conf"))?.sync_all()?;
    let data = File::options().read(true).write(true).open(folder.join("db"))?;
    data.sync_all()?;
    fsync_dir(folder)?;
    folder.parent().map_or(Ok(()), fsync_dir)?;
    Ok(data)
}

/// Runs what enters sled.
fn caught<T>(enter: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(enter)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(e))) if e.to_string().contains("could not acquire lock") => {
            Err(StoreError::Busy(e.to_string()))
        }
        Ok(Err(sled::Error::Io(e))) if e.kind() != io::ErrorKind::UnexpectedEof => {
            Err(StoreError::Io(e.to_string()))
        }
        Ok(Err(e)) => Err(StoreError::Damaged(e.to_string())),
        Err(panic) => Err(StoreError::Panicked(words(&*panic))),
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without a word".to_owned())
}
