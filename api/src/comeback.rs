//! When clients that were refused are told to come back (`Retry-After`).
//!
//! A crowd that is refused at one moment and told to come back after the same time is the same crowd
//! again. So each is told another second out of a span, and the span grows with how many were told of
//! late and are still to come, so that each second brings back no more than a node refuses cheaply. It
//! ends where a lease would: who obeys must be back within the time that a new leader gives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use roster_storage::limits::TTL_MS_DEFAULT;

/// How many are told to come back within one second.
const PER_SECOND: u64 = 5_000;

/// What passes by itself has mostly passed after this, seconds; a few are told no more.
const SPAN_MIN: u64 = 2;

/// Nobody is told to stay away for longer than this, seconds. After an outage every lease has its TTL
/// from the moment at which a leader is there: who was refused just before it must come well within
/// that, or a whole crowd is overdue at one moment. What is refused may always be a heartbeat.
const SPAN_MAX: u64 = 12;

const _: () = assert!(SPAN_MAX * 1_000 < TTL_MS_DEFAULT, "who obeys would lose its lease by it");

/// A step that is a fraction of all 64-bit numbers, the golden ratio: wherever a row of multiples of
/// it begins, they lie evenly over the whole.
const GOLDEN_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Spreads those who are refused. One for a node.
#[derive(Debug)]
pub(crate) struct Comebacks {
    since: Instant,
    /// When the last of those who were told so far would come back if they came one after the other,
    /// [`PER_SECOND`] in each second; in such parts of a second since `since`.
    last: AtomicU64,
    count: AtomicU64,
}

impl Comebacks {
    pub fn new() -> Self {
        Self { since: Instant::now(), last: AtomicU64::new(0), count: AtomicU64::new(0) }
    }

    /// Seconds after which somebody who is refused now is to try again.
    pub fn next(&self) -> u64 {
        let now = self.since.elapsed().as_millis() as u64 * (PER_SECOND / 1_000);
        self.next_at(now)
    }

    fn next_at(&self, now: u64) -> u64 {
        let longest = now + SPAN_MAX * PER_SECOND;
        let after = |last: u64| (last.max(now) + 1).min(longest);
        let queue = |last| Some(after(last));
        let last = match self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, queue) {
            Ok(last) | Err(last) => after(last),
        };
        let span = (last - now).div_ceil(PER_SECOND).clamp(SPAN_MIN, SPAN_MAX);
        let turn = self.count.fetch_add(1, Ordering::Relaxed).wrapping_mul(GOLDEN_STEP);
        1 + ((u128::from(turn) * u128::from(span)) >> u64::BITS) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// How many of a crowd come back in which second.
    fn told(comebacks: &Comebacks, now: u64, crowd: u64) -> BTreeMap<u64, u64> {
        (0..crowd).fold(BTreeMap::new(), |mut told, _| {
            *told.entry(comebacks.next_at(now)).or_default() += 1;
            told
        })
    }

    #[test]
    fn a_few_come_back_soon_and_not_all_in_the_same_second() {
        let told = told(&Comebacks::new(), 0, 10);
        assert_eq!(told, [(1, 5), (2, 5)].into());
    }

    #[test]
    fn a_crowd_is_spread_over_as_many_seconds_as_it_is_large() {
        let told = told(&Comebacks::new(), 0, 10 * PER_SECOND);
        assert_eq!((told.keys().min(), told.keys().max()), (Some(&1), Some(&10)));
        let most = told.values().max().expect("some");
        assert!(*most < 4 * PER_SECOND, "{told:?}");
    }

    #[test]
    fn nobody_is_sent_away_for_as_long_as_a_lease_lasts_however_many_there_are() {
        let told = told(&Comebacks::new(), 0, 1_000_000);
        assert_eq!(told.keys().max(), Some(&SPAN_MAX));
        assert!(told.keys().all(|seconds| seconds * 1_000 < TTL_MS_DEFAULT), "{told:?}");
    }

    #[test]
    fn once_the_crowd_has_come_back_a_few_are_a_few_again() {
        let comebacks = Comebacks::new();
        told(&comebacks, 0, 1_000_000);
        let told = told(&comebacks, (SPAN_MAX + 1) * PER_SECOND, 10);
        assert!(told.keys().all(|seconds| *seconds <= SPAN_MIN), "{told:?}");
    }
}
