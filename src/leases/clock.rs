//! The clock that leases are judged by: monotonic, and stopped while the delay is our own.
//!
//! Time in which the leader could not confirm that it leads, or in which its tick came late, is no
//! fault of the clients. Instead of lengthening every deadline by it, the clock leaves it out: what
//! was recorded before then simply looks younger.
//!
//! A delay is noticed only once it is over. What is recorded just before that must not stand as far
//! ahead as the delay was long, or its deadline would be that late too. So while leases are judged
//! the clock never runs further than to where the next tick may find it without being late. A TTL
//! only ever gets longer by this, by at most [`LATE_MS`] (invariants S4, L1): whoever is held at
//! the ceiling was heard in a delay, and the tick that ends the delay is judged below the ceiling.
//!
//! Wall clocks do not appear here. The one assumption is that the monotonic clocks of the nodes run
//! at nearly the same rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::SLOT_MS;

/// A tick that comes so much later than it should is a delay of our own, milliseconds.
pub const LATE_MS: u64 = 50;

/// Nobody judges, so nothing holds the clock.
const NO_CEILING: u64 = u64::MAX;

#[derive(Debug)]
pub struct LeaseClock {
    origin: Instant,
    held_ms: AtomicU64,
    ceiling: AtomicU64,
}

/// The ticks of one leadership: the clock waits for them. Dropped, it runs freely again.
#[derive(Debug)]
pub struct Ticks<'a> {
    clock: &'a LeaseClock,
    /// When the last tick was, delays included.
    last_ms: u64,
}

impl LeaseClock {
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            held_ms: AtomicU64::new(0),
            ceiling: AtomicU64::new(NO_CEILING),
        }
    }

    /// Milliseconds since the start, without what was held.
    pub fn now(&self) -> u64 {
        self.at(self.running_ms())
    }

    /// Own delays that were left out since the start, milliseconds.
    pub fn held_ms(&self) -> u64 {
        self.held_ms.load(Ordering::Relaxed)
    }

    fn at(&self, running_ms: u64) -> u64 {
        self.free(running_ms).min(self.ceiling.load(Ordering::Acquire))
    }

    fn free(&self, running_ms: u64) -> u64 {
        running_ms.saturating_sub(self.held_ms.load(Ordering::Acquire))
    }

    /// Milliseconds since the start, delays included.
    fn running_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    /// From now on the clock waits for ticks. Called before leases can be recorded.
    pub fn ticks(&self) -> Ticks<'_> {
        Ticks::new(self, self.running_ms())
    }
}

impl<'a> Ticks<'a> {
    fn new(clock: &'a LeaseClock, running_ms: u64) -> Self {
        let mut ticks = Self { clock, last_ms: running_ms };
        ticks.tick_at(running_ms);
        ticks
    }

    /// The time to judge by, from one look at the clock, with what passed since the last tick beyond
    /// a slot left out. A stall after this cannot make anybody late.
    pub fn tick(&mut self) -> u64 {
        self.tick_at(self.clock.running_ms())
    }

    fn tick_at(&mut self, running_ms: u64) -> u64 {
        let late = running_ms.saturating_sub(self.last_ms).saturating_sub(SLOT_MS);
        if late > LATE_MS {
            self.clock.held_ms.fetch_add(late, Ordering::AcqRel);
            tracing::debug!(late_ms = late, "own delay is left out of the leases");
        }
        self.last_ms = running_ms;
        let now = self.clock.free(running_ms);
        self.clock.ceiling.store(now + SLOT_MS + LATE_MS, Ordering::Release);
        now
    }
}

impl Drop for Ticks<'_> {
    fn drop(&mut self) {
        self.clock.ceiling.store(NO_CEILING, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: u64 = 600_000;

    #[test]
    fn what_is_recorded_before_a_long_delay_is_noticed_is_hardly_ahead() {
        let clock = LeaseClock::new();
        let mut ticks = Ticks::new(&clock, 1_000);
        // The majority was gone for long; the beats that waited are renewed before the tick.
        let heard = clock.at(1_000 + GAP);
        let judged = ticks.tick_at(1_000 + GAP);
        assert_eq!(judged, 1_000 + SLOT_MS);
        assert!(heard >= judged, "its TTL would be over too early");
        assert!(heard <= judged + LATE_MS, "heard {heard}, judged at {judged}");
    }

    #[test]
    fn a_ttl_is_never_shorter_than_the_time_without_delays() {
        // Whenever it was heard between two ticks, and however late the second one was.
        for late in 0..3 * (SLOT_MS + LATE_MS) {
            for heard_after in 0..=SLOT_MS + late {
                let clock = LeaseClock::new();
                let mut ticks = Ticks::new(&clock, 1_000);
                let heard = clock.at(1_000 + heard_after);
                let judged = ticks.tick_at(1_000 + SLOT_MS + late);
                let really_passed = SLOT_MS + late - heard_after;
                assert!(judged <= heard + really_passed, "{late} late, heard after {heard_after}");
            }
        }
    }

    #[test]
    fn a_clock_that_nobody_judges_by_runs_freely() {
        let clock = LeaseClock::new();
        assert_eq!(clock.at(GAP), GAP);
        let mut ticks = Ticks::new(&clock, GAP);
        assert_eq!(ticks.tick_at(GAP + SLOT_MS), GAP + SLOT_MS);
        drop(ticks);
        assert_eq!(clock.at(3 * GAP), 3 * GAP);
    }
}
