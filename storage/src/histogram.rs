//! A histogram that may be counted in anywhere: fixed bounds, a relaxed addition to two numbers for
//! each value, no lock and no memory beyond the buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often values of which size came.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is above the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a [`Histogram`] had counted at some moment. Values that come meanwhile may be in the counts and
/// not in the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    pub sum: u64,
    /// Values up to each bound and above the one before it; the last has no bound.
    pub counts: Vec<(Option<u64>, u64)>,
}

impl Histogram {
    /// `bounds` rise; each is the largest value of its bucket. The unit is the caller's.
    pub fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    pub fn add(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Where the unit is the nanosecond.
    pub fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn read(&self) -> Distribution {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Distribution { sum: self.sum.load(Ordering::Relaxed), counts: bounds.zip(counts).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_first_bucket_that_takes_it() {
        let histogram = Histogram::new(&[10, 20]);
        [0, 10, 11, 20, 21, 1_000].into_iter().for_each(|value| histogram.add(value));
        let read = histogram.read();
        assert_eq!(read.counts, [(Some(10), 2), (Some(20), 2), (None, 2)]);
        assert_eq!(read.sum, 1_062);
    }
}
