//! How long to wait before the next node is tried.

use std::time::Duration;

use super::Options;

/// No node's `Retry-After` is followed beyond this.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// The pauses of one row of failures. Each is a random part of its limit, so that the clients of a
/// node that died do not all come to the next one at once; the limit grows with each round over all
/// nodes.
#[derive(Debug)]
pub(super) struct Pauses {
    failures: usize,
    /// How many nodes make a round.
    nodes: usize,
    min: Duration,
    max: Duration,
}

impl Pauses {
    pub fn new(nodes: usize, options: &Options) -> Self {
        Self { failures: 0, nodes, min: options.pause_min, max: options.pause_max }
    }

    /// Things go well again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Whether some node was not tried yet since things went well.
    pub fn in_first_round(&self) -> bool {
        self.failures < self.nodes
    }

    /// The pause after one more failure. What a node asked for counts once all were tried: until
    /// then the next one may be better off.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        self.failures += 1;
        let rounds = self.failures / self.nodes;
        let limit = self.limit(rounds);
        let pause = limit.mul_f64(0.5 + fastrand::f64() / 2.0);
        match retry_after {
            Some(asked) if rounds > 0 => pause.max(asked.min(RETRY_AFTER_MAX)),
            Some(_) | None => pause,
        }
    }

    fn limit(&self, rounds: usize) -> Duration {
        let doublings = u32::try_from(rounds).unwrap_or(u32::MAX).min(16);
        self.min.saturating_mul(1 << doublings).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_each_round_up_to_their_limit_and_begin_again() {
        let mut pauses = Pauses::new(2, &Options::default());
        let second = Duration::from_secs(1);
        assert!(pauses.next(Some(second)) <= Duration::from_millis(100), "another node first");
        assert!(pauses.next(Some(second)) >= second, "all nodes were asked");
        for _ in 0..100 {
            assert!(pauses.next(None) <= Duration::from_secs(5));
        }
        assert!(pauses.next(None) >= Duration::from_millis(2_500));
        assert!(pauses.next(Some(Duration::MAX)) <= RETRY_AFTER_MAX);
        pauses.reset();
        assert!(pauses.next(None) <= Duration::from_millis(100));
    }
}
