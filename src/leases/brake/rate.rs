//! How fast removals may go.

/// Millionths: the pace of few is far below one in a tick.
const WHOLE: u64 = 1_000_000;

/// What may be removed now, filled up as time passes.
#[derive(Clone, Debug)]
pub struct Bucket {
    millionths: u64,
    owed: u64,
    at: u64,
}

impl Bucket {
    /// Empty, from `now` on.
    pub fn new(now: u64) -> Self {
        Self { millionths: 0, owed: 0, at: now }
    }

    /// Fills it at the rate of `count` in `over_ms`, up to `full`.
    pub fn fill(&mut self, now: u64, count: u64, over_ms: u64, full: u64) {
        let passed = now.saturating_sub(self.at);
        self.at = now.max(self.at);
        let more = u128::from(count) * u128::from(passed) * u128::from(WHOLE);
        let more = u64::try_from(more / u128::from(over_ms.max(1))).unwrap_or(u64::MAX);
        let owed = self.owed.min(more);
        self.owed -= owed;
        let full = full.saturating_mul(WHOLE);
        self.millionths = self.millionths.saturating_add(more - owed).min(full);
    }

    /// The time until `now` gives nothing.
    pub fn wait(&mut self, now: u64) {
        self.at = now.max(self.at);
    }

    /// Whether so much may go now.
    pub fn holds(&self, count: u64) -> bool {
        self.owed == 0 && self.millionths >= count.saturating_mul(WHOLE)
    }

    /// Takes it out; what is not there is owed to the time to come.
    pub fn take(&mut self, count: u64) {
        let taken = count.saturating_mul(WHOLE);
        self.owed = self.owed.saturating_add(taken.saturating_sub(self.millionths));
        self.millionths = self.millionths.saturating_sub(taken);
    }

    /// So much of what was taken out did not go after all.
    pub fn give_back(&mut self, count: u64) {
        let given = count.saturating_mul(WHOLE);
        let paid = given.min(self.owed);
        self.owed -= paid;
        self.millionths = self.millionths.saturating_add(given - paid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_pace_gives_one_after_the_time_of_one() {
        let mut bucket = Bucket::new(0);
        for now in (0..9_000).step_by(20) {
            bucket.fill(now, 100, 900_000, 1);
            assert!(!bucket.holds(1), "at {now}");
        }
        bucket.fill(9_020, 100, 900_000, 1);
        assert!(bucket.holds(1));
        bucket.take(1);
        assert!(!bucket.holds(1));
    }

    #[test]
    fn what_is_given_back_is_as_if_it_had_not_been_taken() {
        let mut bucket = Bucket::new(0);
        bucket.fill(100, 10_000, 1_000, 1_000);
        bucket.take(3_000);
        bucket.give_back(3_000);
        assert!(bucket.holds(1_000));
        assert!(!bucket.holds(1_001));
    }

    #[test]
    fn what_was_taken_too_much_is_owed() {
        let mut bucket = Bucket::new(0);
        bucket.fill(100, 10_000, 1_000, 1_000);
        bucket.take(3_000);
        bucket.fill(300, 10_000, 1_000, 1_000);
        assert!(!bucket.holds(1));
        bucket.fill(301, 10_000, 1_000, 1_000);
        assert!(bucket.holds(10));
    }
}
