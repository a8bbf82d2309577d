//! How long each node gets, and when nobody else is asked any more: no sockets, no clock.

use std::time::Duration;

use tokio::time::Instant;

use super::CONNECT_TIMEOUT;

/// A node that could still answer gets at least this, however many others there are. Beyond the
/// time for a connection: else one that is never made would look like a call of unknown outcome.
const SHARE_MIN: Duration = CONNECT_TIMEOUT.saturating_add(Duration::from_millis(500));

/// How long a call, or the beginning of a watch, may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Until a node begins to answer, while there are others to ask.
    pub share: Duration,
    /// At one node that nobody follows.
    pub each: Duration,
    /// Until no node is asked a second time.
    pub all: Duration,
}

impl Limits {
    /// Each of the nodes gets its share of `all`, so that one that hangs leaves time for the others.
    pub fn shared(nodes: usize, each: Duration, all: Duration) -> Self {
        let share = all / u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
        Self { share: share.max(SHARE_MIN).min(each), each, all }
    }
}

/// One walk from node to node.
#[derive(Debug)]
pub(super) struct Patience {
    limits: Limits,
    until: Instant,
    /// Nodes that were not asked yet: until there are none, the walk goes on.
    unasked: usize,
}

impl Patience {
    pub fn new(nodes: usize, limits: Limits, now: Instant) -> Self {
        Self { limits, until: now + limits.all, unasked: nodes }
    }

    /// The next node is asked: how long it gets to begin its answer. Who would be the last one
    /// anyway, or `is_alone` since no other could be reached, takes nothing from others and gets all
    /// the time that one node may take: without a leader a node says so only when its own limit is over.
    pub fn ask(&mut self, now: Instant, is_alone: bool) -> Duration {
        self.unasked = self.unasked.saturating_sub(1);
        match is_alone || self.is_over(now + self.limits.share) {
            true => self.limits.each,
            false => self.limits.share,
        }
    }

    /// Whether nobody is to be asked at this time.
    pub fn is_over(&self, at: Instant) -> bool {
        self.unasked == 0 && at >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: Duration = Duration::from_secs(10);
    const ALL: Duration = Duration::from_secs(6);

    fn walk(nodes: usize, now: Instant) -> Patience {
        Patience::new(nodes, Limits::shared(nodes, EACH, ALL), now)
    }

    #[test]
    fn nodes_that_hang_get_a_share_each_and_the_last_one_all_that_a_node_may_take() {
        let start = Instant::now();
        let mut patience = walk(3, start);
        let share = Duration::from_secs(2);
        assert_eq!(patience.ask(start, false), share);
        assert_eq!(patience.ask(start + share, false), share);
        assert_eq!(patience.ask(start + 2 * share, false), EACH);
        assert!(patience.is_over(start + ALL));
    }

    #[test]
    fn every_node_is_asked_once_however_late_it_is() {
        let start = Instant::now();
        let mut patience = walk(2, start);
        patience.ask(start, false);
        assert!(!patience.is_over(start + 2 * ALL), "the second was not asked");
        patience.ask(start + 2 * ALL, false);
        assert!(patience.is_over(start + 2 * ALL));
    }

    #[test]
    fn after_quick_refusals_a_node_that_hangs_leaves_time_for_a_second_round() {
        let start = Instant::now();
        let mut patience = walk(3, start);
        let asked = [0; 3].map(|_| patience.ask(start, false));
        assert_eq!(asked, [ALL / 3; 3]);
        assert!(!patience.is_over(start + ALL / 3));
    }

    #[test]
    fn the_only_node_gets_all_that_a_node_may_take() {
        let start = Instant::now();
        assert_eq!(walk(1, start).ask(start, false), EACH);
    }

    #[test]
    fn a_node_gets_all_the_time_where_no_other_could_be_reached() {
        let start = Instant::now();
        let mut patience = walk(3, start);
        assert_eq!([false, false].map(|alone| patience.ask(start, alone)), [ALL / 3; 2]);
        assert_eq!(patience.ask(start, true), EACH);
    }

    #[test]
    fn no_share_is_shorter_than_a_connection_may_take() {
        let limits = Limits::shared(64, EACH, ALL);
        assert!(limits.share > CONNECT_TIMEOUT, "{limits:?}");
    }
}
