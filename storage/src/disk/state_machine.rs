//! openraft's state machine: hands entries to [`Catalog::carry_out`], publishes versions, writes and
//! installs checkpoints.
//!
//! The state is in memory. Entries are applied in batches; each batch makes one new [`Version`],
//! which is published whole, then shown to the [`Observer`], and only then are its writers
//! answered. So who was answered reads what it wrote, and a reader never sees a state apart from
//! its index (invariant S8).

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use futures::{Stream, StreamExt};
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::checkpoint::{Checkpoint, Spare};
use super::measures::{ApplyMeasures, CheckpointMeasures, Stopwatch};
use super::{DiskError, ensure_dir};
use crate::catalog::At;
use crate::command::{Outcome, Proposal, Reply};
use crate::events::Change;
use crate::names::Revision;
use crate::raft_types::{
    Entry, EntryPayload, LogId, SnapshotMeta, StoredMembership, TypeConfig, alias,
};
use crate::version::{Observer, Published, Version};

/// By how much the writing of a checkpoint gives way: it gets about a tenth of a core that others
/// want too.
const WRITING_NICE: i32 = 10;

/// By how much the reading of a leader's checkpoint gives way: this node lags until it is done, so its
/// threads get a quarter of a core that others want too.
const INSTALLING_NICE: i32 = 5;

/// Entries that become visible together. More would save little, and the first of them waits for
/// the last.
const APPLY_BATCH_MAX: usize = 512;

type CheckpointSnapshot = alias::SnapshotOf<TypeConfig, Checkpoint>;

/// The newest checkpoint of this node. Clones share it.
#[derive(Clone)]
pub struct Checkpoints {
    folder: Arc<Path>,
    newest: Arc<Mutex<Option<Checkpoint>>>,
    /// The file of the one before, which became the spare.
    retired: Arc<Mutex<Option<Arc<File>>>>,
    measures: Arc<CheckpointMeasures>,
}

impl Checkpoints {
    /// The newest checkpoint, for its index, its size and to send it.
    pub fn newest(&self) -> Option<Checkpoint> {
        self.newest.lock().clone()
    }

    /// What those that were written and installed since the start took.
    pub fn measures(&self) -> &CheckpointMeasures {
        &self.measures
    }

    /// Writes a version, unless there is a checkpoint of it or of a later one. The lock is not held
    /// meanwhile.
    fn write(&self, version: &Version) -> Result<Checkpoint, DiskError> {
        match self.newest() {
            Some(newest) if newest.meta.last_log_id >= version.applied => Ok(newest),
            Some(_) | None => {
                let since = Stopwatch::start();
                let spare = Spare::take(&self.folder, self.retired.lock().take())?;
                let written = Checkpoint::write_into(&self.folder, version, spare)?;
                self.measures.wrote(written.bytes, since);
                Ok(self.keep_newer(written))
            }
        }
    }

    /// Room that the next one takes without any more of the disk.
    pub fn spare_bytes(&self) -> u64 {
        Spare::bytes(&self.folder)
    }

    /// Gives the spare's room back to the disk.
    pub fn give_up_spare(&self) -> Result<(), DiskError> {
        self.retired.lock().take();
        Spare::remove(&self.folder)
    }

    fn install(&self, received: Checkpoint) -> Result<(), DiskError> {
        let installed = received.install(&self.folder)?;
        self.keep_newer(installed);
        self.measures.installed_one();
        Ok(())
    }

    /// A checkpoint may be installed while an older one is still being written.
    fn keep_newer(&self, checkpoint: Checkpoint) -> Checkpoint {
        let mut newest = self.newest.lock();
        if newest.as_ref().is_none_or(|n| n.meta.last_log_id <= checkpoint.meta.last_log_id) {
            let before = newest.replace(checkpoint.clone());
            *self.retired.lock() = before.map(|before| before.file);
        }
        checkpoint
    }
}

/// What openraft applies entries to.
pub struct StateMachine {
    published: Published,
    observer: Arc<dyn Observer>,
    checkpoints: Checkpoints,
    applying: Arc<ApplyMeasures>,
}

impl StateMachine {
    /// Loads the newest checkpoint of the folder, which is made if it is not there. The entries
    /// after it are applied again by openraft.
    pub fn open(folder: &Path, observer: Arc<dyn Observer>) -> Result<Self, DiskError> {
        ensure_dir(folder)?;
        let published = Published::default();
        let newest = Checkpoint::open_newest(folder, |loaded| observer.loading(loaded))?;
        let newest = newest.map(|(checkpoint, version)| {
            published.store(Arc::new(version));
            checkpoint
        });
        let checkpoints = Checkpoints {
            folder: folder.into(),
            newest: Arc::new(Mutex::new(newest)),
            retired: Arc::new(Mutex::new(Spare::left_behind(folder))),
            measures: Arc::default(),
        };
        Ok(Self { published, observer, checkpoints, applying: Arc::default() })
    }

    pub fn published(&self) -> Published {
        self.published.clone()
    }

    pub fn checkpoints(&self) -> Checkpoints {
        self.checkpoints.clone()
    }

    /// How long applying takes.
    pub fn applying(&self) -> Arc<ApplyMeasures> {
        self.applying.clone()
    }

    fn apply_batch(&self, batch: Vec<io::Result<EntryResponder<TypeConfig>>>) -> io::Result<()> {
        let (since, entries) = (Stopwatch::start(), batch.len());
        let mut version = Version::clone(&self.published.load());
        let mut changes = Vec::with_capacity(batch.len());
        let mut answers: Vec<(ApplyResponder<TypeConfig>, Outcome)> = Vec::new();
        for item in batch {
            let (entry, responder) = item?;
            let outcome = apply_entry(&mut version, entry, &mut changes)?;
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        let version = Arc::new(version);
        self.published.store(version.clone());
        self.observer.applied(&version, &changes);
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        self.applying.applied(entries, since);
        Ok(())
    }
}

/// Applies one entry, of whatever kind, and moves the applied index with it.
fn apply_entry(
    version: &mut Version,
    entry: Entry,
    changes: &mut Vec<Arc<Change>>,
) -> io::Result<Outcome> {
    let id = entry.log_id;
    let outcome = match entry.payload {
        EntryPayload::Blank => nothing_to_tell(id),
        EntryPayload::Normal(proposal) => apply_command(version, id, &proposal, changes)?,
        EntryPayload::Membership(membership) => {
            version.membership = StoredMembership::new(Some(id), membership);
            nothing_to_tell(id)
        }
    };
    version.applied = Some(id);
    version.catalog.passed(id.index);
    Ok(outcome)
}

/// A command that this binary cannot read stops the node: the others may have applied it.
fn apply_command(
    version: &mut Version,
    id: LogId,
    proposal: &Proposal,
    changes: &mut Vec<Arc<Change>>,
) -> io::Result<Outcome> {
    let command = proposal
        .command
        .decode()
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("entry {id}: {e}")))?;
    let at = At {
        revision: Revision(id.index),
        term: id.committed_leader_id().term,
        stamp: proposal.stamp,
    };
    let (outcome, events) = version.catalog.carry_out(at, command);
    changes.push(Arc::new(Change::new(at, events)));
    Ok(outcome)
}

fn nothing_to_tell(id: LogId) -> Outcome {
    Outcome { revision: Revision(id.index), result: Ok(Reply::Done) }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Checkpoint;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let version = self.published.load();
        Ok((version.applied, version.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut batches = entries.ready_chunks(APPLY_BATCH_MAX);
        while let Some(batch) = batches.next().await {
            self.apply_batch(batch)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            version: Some(self.published.load()),
            checkpoints: self.checkpoints(),
            observer: self.observer.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Checkpoint,
    ) -> io::Result<()> {
        if *meta != snapshot.meta {
            return Err(io::Error::other(format!("the checkpoint is of {}", snapshot.meta)));
        }
        let checkpoints = self.checkpoints();
        let version = in_background(INSTALLING_NICE, move || {
            let version = snapshot.read()?;
            checkpoints.install(snapshot)?;
            Ok(Arc::new(version))
        })
        .await?;
        let before = self.published.swap(version.clone());
        self.observer.replaced(&version);
        // A million records take a while to drop, and nobody has to wait for it.
        drop(tokio::task::spawn_blocking(move || drop(before)));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<CheckpointSnapshot>> {
        Ok(self.checkpoints.newest().map(snapshot))
    }
}

/// Writes one version to disk while apply goes on, once.
pub struct SnapshotBuilder {
    /// Goes to the thread that writes it: whoever drops it last may have a million records to drop.
    version: Option<Arc<Version>>,
    checkpoints: Checkpoints,
    observer: Arc<dyn Observer>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Checkpoint;

    async fn build_snapshot(&mut self) -> io::Result<CheckpointSnapshot> {
        let version = self.version.take();
        let version = version.ok_or_else(|| io::Error::other("this checkpoint was written"))?;
        let (checkpoints, observer) = (self.checkpoints.clone(), self.observer.clone());
        in_background(WRITING_NICE, move || {
            observer.before_checkpoint(version.revision());
            checkpoints.write(&version)
        })
        .await
        .map(snapshot)
    }
}

fn snapshot(checkpoint: Checkpoint) -> CheckpointSnapshot {
    Snapshot { meta: checkpoint.meta.clone(), snapshot: checkpoint }
}

/// Runs what takes long, on the processor and on the disk, in a thread of its own that gives way to
/// all others of this node.
async fn in_background<T: Send + 'static>(
    nice: i32,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    thread::Builder::new().name("checkpoint".into()).spawn(move || {
        // Of this thread alone, on Linux, and of those that it starts. Refused, it only takes more.
        let _ = rustix::process::nice(nice);
        // Who asked may have gone: the node stops.
        drop(done.send(work()));
    })?;
    Ok(result.await.map_err(io::Error::other)??)
}
