//! Why this node and others do not talk: another cluster, another disk (invariant S14). Each reason
//! is logged once; the last one is what a node without a leader answers when asked what is wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a refusal tells how things are: peers call each other more often than that.
const LATELY: Duration = Duration::from_secs(10);

/// Reasons that are remembered as logged. They hold what strangers send, so they are bounded;
/// beyond that nothing is logged.
const SAID_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Refusals {
    last: Mutex<Option<(Instant, String)>>,
    said: Mutex<BTreeSet<String>>,
}

impl Refusals {
    pub fn note(&self, why: String) {
        let mut said = self.said.lock();
        if said.len() < SAID_MAX && said.insert(why.clone()) {
            tracing::warn!("{why}");
        }
        *self.last.lock() = Some((Instant::now(), why));
    }

    /// The last one, unless it is long ago.
    pub fn lately(&self) -> Option<String> {
        let last = self.last.lock();
        last.as_ref().filter(|(at, _)| at.elapsed() < LATELY).map(|(_, why)| why.clone())
    }
}
