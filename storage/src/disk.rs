//! What a node keeps on disk: the Raft log with the vote, and checkpoints of the state. Thin
//! openraft traits; nothing here decides anything about the registry.
//!
//! # What is synced, and when
//!
//! - **Entries and votes** ([`LogStore`]): written to the newest chunk of the log and fsynced before
//!   anyone counts them. An entry is readable before it is durable, but acknowledged only after.
//!   The name of a new chunk is fsynced with its folder before the chunk is written.
//! - **The committed pointer** rides along with the next sync. Losing it costs nothing: openraft
//!   learns it again from the leader.
//! - **Checkpoints** ([`Checkpoint`]): written aside under a `.tmp` name, fsynced, renamed, the folder
//!   fsynced; only then does the older checkpoint give up its name, and only later does openraft purge
//!   the log up to the new one. The older file stays as the spare that the next one is written into.
//! - **The state itself** is memory: a checkpoint and the entries after it make it again.
//!
//! # What a crash leaves behind
//!
//! | the crash comes | and the next start finds |
//! |---|---|
//! | while entries are written | a torn, never acknowledged tail: set aside and reported |
//! | after a sync, before the answer | the entry; whoever asked does not know, and asks again |
//! | between a new chunk's name and its first record | an empty last chunk: set aside |
//! | while a checkpoint is written | a `.tmp` file, removed; the old checkpoint is whole |
//! | between its rename and that of the older one | two checkpoints; the newer one counts |
//! | before the log was purged up to the checkpoint | more log than needed |
//! | between the purge and the unlinking of its chunks | chunks that the next sync unlinks |
//!
//! # What refuses to start
//!
//! Everything else: a flipped byte, a chunk or a checkpoint that is gone, a log that begins after
//! its checkpoint. Going on would forget acknowledged writes or votes, or serve an empty registry
//! (invariant S8), while the other nodes have the data. A failed write or fsync stops the node for
//! the same reason: after it, nobody knows what the disk holds, so it is never tried again.

mod checkpoint;
mod checkpoint_format;
mod codec;
mod log_scan;
mod log_store;
mod measures;
mod repair;
mod state_machine;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use checkpoint::{Checkpoint, Incoming};
pub use log_store::{LogOptions, LogStore};
pub use measures::{ApplyMeasures, CheckpointMeasures};
pub use repair::Repair;
pub use state_machine::{Checkpoints, SnapshotBuilder, StateMachine};

use crate::version::Observer;

/// The subfolder of the Raft log and the vote.
pub const LOG_DIR: &str = "log";

/// The subfolder of the checkpoints.
pub const CHECKPOINTS_DIR: &str = "checkpoints";

/// What to do about damage, for the operator who reads the message.
const ADVICE: &str = "Nothing was changed. Do not restore an old copy of the folder: this node \
    could then vote twice in one term. Move the data folder away and let the node join again as a \
    replaced node; the other nodes have the data";

/// Why the disk cannot be used. All of these stop the node.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged at byte {offset}: {what}. {ADVICE}", path.display())]
    Damaged { path: PathBuf, offset: u64, what: String },
    #[error("{} is missing: {what}. {ADVICE}", path.display())]
    Missing { path: PathBuf, what: String },
    #[error(
        "{} has format {found}; this binary reads {known}. Start the version of Roster that wrote it, \
         or a newer one", path.display()
    )]
    Format { path: PathBuf, found: u32, known: u32 },
    #[error("{} was not received as it was sent: {what}; it is thrown away", path.display())]
    Transfer { path: PathBuf, what: String },
}

impl DiskError {
    /// Turns an I/O error into one that says what was done to which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), offset, what: what.to_string() }
    }

    pub(crate) fn missing(path: &Path, what: impl ToString) -> Self {
        Self::Missing { path: path.to_owned(), what: what.to_string() }
    }
}

/// openraft takes I/O errors only.
impl From<DiskError> for io::Error {
    fn from(e: DiskError) -> Self {
        Self::other(e)
    }
}

/// Both halves of a node's disk, checked against each other.
pub struct Disk {
    pub log: LogStore,
    pub state_machine: StateMachine,
    /// What was set aside at this start, for the node to report.
    pub repairs: Vec<Repair>,
}

impl Disk {
    /// Opens the two subfolders, making them if they are not there.
    pub fn open(
        folder: &Path,
        options: LogOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, DiskError> {
        let (log, repairs) = LogStore::open(&folder.join(LOG_DIR), options)?;
        let checkpoints = folder.join(CHECKPOINTS_DIR);
        let state_machine = StateMachine::open(&checkpoints, observer)?;
        ensure_no_gap(&log, &state_machine, &checkpoints)?;
        Ok(Self { log, state_machine, repairs })
    }
}

/// Entries are purged only up to a checkpoint, so a log that begins later has lost it. Without this
/// check a lost checkpoint would give an empty registry.
fn ensure_no_gap(
    log: &LogStore,
    state_machine: &StateMachine,
    checkpoints: &Path,
) -> Result<(), DiskError> {
    let applied = state_machine.published().load().applied;
    match log.purged() {
        Some(purged) if applied.is_none_or(|applied| applied.index < purged.index) => {
            let path = checkpoints.join(checkpoint::file_name(purged.index));
            Err(DiskError::missing(
                &path,
                "the log begins after it, so it, or a newer one, was here",
            ))
        }
        Some(_) | None => Ok(()),
    }
}

/// Makes names in a folder durable: files that were created, renamed or removed in it.
pub(crate) fn fsync_dir(folder: &Path) -> Result<(), DiskError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(DiskError::io("sync the folder", folder))
}

/// Makes a folder, and its name durable, unless it is there.
pub(crate) fn ensure_dir(folder: &Path) -> Result<(), DiskError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure_dir(parent)?;
    match std::fs::create_dir(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(DiskError::io("make the folder", folder)(e))
        }
        Ok(()) | Err(_) => fsync_dir(parent),
    }
}
