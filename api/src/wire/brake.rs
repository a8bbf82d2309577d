//! The mass-loss brake as clients see it.

use roster_storage::brake::{Brake, Scope};
use serde::Serialize;

use super::scalar::Moment;

/// A brake that is on.
#[derive(Serialize)]
pub(crate) struct AlarmView {
    /// `all`, `app` or `node`.
    scope: &'static str,
    /// Of the scope `node`.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    since: Moment,
    /// Instances that were silent or removed when it was last told, and of how many.
    missing: u64,
    of: u64,
}

impl AlarmView {
    pub fn new(scope: &Scope, brake: &Brake) -> Self {
        Self {
            scope: scope.word(),
            node: scope.node().map(|node| node.to_string()),
            since: Moment(brake.since_ms),
            missing: brake.missing,
            of: brake.of,
        }
    }
}
