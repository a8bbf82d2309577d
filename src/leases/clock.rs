//! The clock that leases are judged by: monotonic, and stopped while the delay is our own.
//!
//! Time in which the leader could not confirm that it leads, or in which its tick came late, is no
//! fault of the clients. Instead of lengthening every deadline by it, the clock leaves it out: what
//! was recorded before then simply looks younger. What is recorded before a delay was noticed stands
//! a little in the future, so a TTL only ever gets longer by this (invariant S4).
//!
//! Wall clocks do not appear here. The one assumption is that the monotonic clocks of the nodes run
//! at nearly the same rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[derive(Debug)]
pub struct LeaseClock {
    origin: Instant,
    held_ms: AtomicU64,
}

impl LeaseClock {
    pub fn new() -> Self {
        Self { origin: Instant::now(), held_ms: AtomicU64::new(0) }
    }

    /// Milliseconds since the start, without what was held.
    pub fn now(&self) -> u64 {
        self.at(self.running_ms())
    }

    /// The lease time of a moment read from [`Self::running_ms`].
    pub fn at(&self, running_ms: u64) -> u64 {
        running_ms.saturating_sub(self.held_ms.load(Ordering::Acquire))
    }

    /// Milliseconds since the start, delays included.
    pub fn running_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    /// Leaves `ms` that have just passed out of the count.
    pub fn hold(&self, ms: u64) {
        self.held_ms.fetch_add(ms, Ordering::AcqRel);
    }
}
