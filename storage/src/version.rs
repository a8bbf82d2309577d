//! Versions of the state: what apply publishes and readers hold.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::catalog::Catalog;
use crate::events::Change;
use crate::names::Revision;
use crate::raft_types::{LogId, StoredMembership};

/// The state after one entry, with the entry's place: never one without the other (invariant S8).
#[derive(Clone, Debug, Default)]
pub struct Version {
    pub catalog: Catalog,
    /// The last applied entry, of whatever kind.
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
}

impl Version {
    /// The index of the last applied entry, 0 before the first.
    pub fn revision(&self) -> Revision {
        Revision(self.applied.as_ref().map_or(0, |id| id.index))
    }
}

/// The newest version. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Published(Arc<ArcSwap<Version>>);

impl Published {
    /// The newest version, to hold as long as one likes.
    pub fn load(&self) -> Arc<Version> {
        self.0.load_full()
    }

    pub(crate) fn store(&self, version: Arc<Version>) {
        self.0.store(version);
    }

    /// Gives the version before, which may be the last that holds all of its records.
    pub(crate) fn swap(&self, version: Arc<Version>) -> Arc<Version> {
        self.0.swap(version)
    }
}

/// How far the reading of a checkpoint came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Records that are in their places.
    pub records: u64,
    /// All that the checkpoint says it has.
    pub of: u64,
}

/// Is told of changes inside apply, after their version was published and before any of their
/// writers is answered. Must be quick: apply waits for it.
pub trait Observer: Send + Sync + 'static {
    fn applied(&self, version: &Arc<Version>, changes: &[Arc<Change>]);

    /// The state jumped to a leader's checkpoint; what changed in between is not known.
    fn replaced(&self, version: &Arc<Version>);

    /// Called now and then while the state is read at a start, from one thread.
    fn loading(&self, loaded: Loaded) {
        let _ = loaded;
    }

    /// Called before a checkpoint is written, where waiting does no harm. A start replays the log
    /// from the newest checkpoint, so what is derived of the entries up to `upto` must be kept when
    /// this returns.
    fn before_checkpoint(&self, upto: Revision) {
        let _ = upto;
    }
}

/// For tests and tools that only want the state.
impl Observer for () {
    fn applied(&self, _: &Arc<Version>, _: &[Arc<Change>]) {}

    fn replaced(&self, _: &Arc<Version>) {}
}
