//! What a client computes owners with.

use smol_str::SmolStr;

use super::table::Table;
use super::{Description, Malformed};
use crate::names::Revision;

/// A ring as it was at one epoch: never changes, needs no node, answers like a node.
#[derive(Clone, Debug)]
pub struct View {
    group: SmolStr,
    epoch: Revision,
    replicas: u64,
    table: Table,
}

impl View {
    /// The app whose ring it is.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The revision of the last change that it shows, 0 if there was none.
    pub fn epoch(&self) -> Revision {
        self.epoch
    }

    /// How many workers hold a key if nothing else is asked for.
    pub fn replicas(&self) -> usize {
        self.replicas as usize
    }

    /// Ids and weights by ascending id.
    pub fn workers(&self) -> impl ExactSizeIterator<Item = (&str, u16)> {
        self.table.workers.iter().map(|worker| (worker.id.as_str(), worker.weight))
    }

    /// The worker that owns a key, `None` only if there are no workers.
    pub fn owner(&self, key: &[u8]) -> Option<&str> {
        self.table.owner(key).map(|id| id.as_str())
    }

    /// The owner of a key first, then those who hold its copies: `replicas` workers, or all if
    /// there are fewer.
    pub fn owners(&self, key: &[u8], replicas: usize) -> Vec<&str> {
        self.table.owners(key, replicas).into_iter().map(|id| id.as_str()).collect()
    }
}

impl TryFrom<Description> for View {
    type Error = Malformed;

    fn try_from(description: Description) -> Result<Self, Malformed> {
        let table = description.table()?;
        let Description { group, epoch, replicas, .. } = description;
        Ok(Self { group, epoch, replicas, table })
    }
}
