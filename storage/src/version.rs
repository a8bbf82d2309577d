//! Versions of the state: what apply publishes and readers hold.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::catalog::{At, Catalog};
use crate::events::Event;
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
}

/// What one entry changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub at: At,
    /// In the order in which they happened; may be empty.
    pub events: Vec<Event>,
}

/// Is told of changes inside apply, after their version was published and before any of their
/// writers is answered. Must be quick: apply waits for it.
pub trait Observer: Send + Sync + 'static {
    fn applied(&self, version: &Arc<Version>, changes: &[Change]);

    /// The state jumped to a leader's checkpoint; what changed in between is not known.
    fn replaced(&self, version: &Arc<Version>);
}

/// For tests and tools that only want the state.
impl Observer for () {
    fn applied(&self, _: &Arc<Version>, _: &[Change]) {}

    fn replaced(&self, _: &Arc<Version>) {}
}
