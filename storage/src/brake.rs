//! The mass-loss brake and the pace of heartbeats, as far as they are replicated. What the leader
//! decides from its own memory (who is silent, when a scope brakes) is not here; what every leader and
//! every watcher must know alike is.
//!
//! When many heartbeats fail at once, that is more likely our fault than theirs (invariant L4). So
//! the leader slows removals down and says so: with a [`Brake`] per [`Scope`], which is also an alarm.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::limits::STRETCHED_TTL_MS_MAX;
use crate::names::{AppName, NodeId, Revision};

/// Whose removals are slowed down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Everybody's.
    All,
    /// The instances of one app.
    App(AppName),
    /// The sessions whose last heartbeat came by this node.
    Node(NodeId),
}

impl Scope {
    /// The word that clients see.
    pub fn word(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::App(_) => "app",
            Self::Node(_) => "node",
        }
    }

    pub fn app(&self) -> Option<&AppName> {
        match self {
            Self::App(app) => Some(app),
            Self::All | Self::Node(_) => None,
        }
    }

    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node(node) => Some(*node),
            Self::All | Self::App(_) => None,
        }
    }
}

/// A brake that is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brake {
    /// When it went on.
    pub since: Revision,
    /// The same by the leader's wall clock, milliseconds since 1970, for display.
    pub since_ms: u64,
    /// Instances that were silent or already removed when this was last written, and of how many.
    pub missing: u64,
    pub of: u64,
}

/// What an operator decided about a scope, against what the leader would do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrakeMode {
    /// Removals go on as if nothing had happened.
    Release,
    /// Nobody is removed for being silent.
    Hold,
}

impl BrakeMode {
    /// The word that clients use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Hold => "hold",
        }
    }
}

/// An operator's word about a scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrakeOverride {
    pub mode: BrakeMode,
    pub reason: SmolStr,
    /// Cluster time at which it ends, in milliseconds; `None`: when it is cleared.
    pub expires_at_ms: Option<u64>,
    /// The same moment by the wall clock of the leader that took it, for display.
    pub expires_wall_ms: Option<u64>,
    pub revision: Revision,
}

/// By how much TTLs and the time between heartbeats are lengthened, one factor for all: a busy cluster
/// asks everybody to come less often, and waits for them as much longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// What answers carry, in percent of what was asked for; at least 100.
    pub told_percent: u32,
    /// What deadlines are judged by: at least what anybody was told who may still rely on it.
    pub held_percent: u32,
    /// Cluster time at which `held_percent` falls to `told_percent`, in milliseconds; 0 while they are
    /// the same.
    pub held_until_ms: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { told_percent: 100, held_percent: 100, held_until_ms: 0 }
    }
}

impl Pace {
    /// A TTL as clients are told it.
    pub fn told(self, ttl_ms: u64) -> u64 {
        stretched(ttl_ms, self.told_percent)
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A TTL in milliseconds, lengthened to so many percent, to at most `STRETCHED_TTL_MS_MAX`; one that
/// is longer by itself stays as it is. The one place that knows.
pub fn stretched(ttl_ms: u64, percent: u32) -> u64 {
    (ttl_ms * u64::from(percent) / 100).min(STRETCHED_TTL_MS_MAX).max(ttl_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_never_shortened_and_only_short_ones_are_lengthened() {
        assert_eq!(stretched(15_000, 100), 15_000);
        assert_eq!(stretched(15_000, 300), 45_000);
        assert_eq!(stretched(60_000, 800), STRETCHED_TTL_MS_MAX);
        assert_eq!(stretched(24 * 3_600_000, 800), 24 * 3_600_000);
        assert_eq!(stretched(15_000, 50), 15_000);
    }
}
