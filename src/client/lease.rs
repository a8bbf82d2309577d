//! How long what an instance holds is surely its own.
//!
//! A cluster removes an instance when it heard nothing of it for a whole TTL, and a heartbeat cannot
//! have been heard before it was sent. So from the sending of the last heartbeat that was answered,
//! less a margin for clocks that run at other rates and for the time that stopping takes, whatever
//! this process does for its instance it must stop by itself.

use std::time::Duration;

use roster_storage::names::{Incarnation, Revision};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// One part in so many of the TTL is the margin.
const MARGIN_PARTS: u32 = 5;

/// What the last answered heartbeat, or registration, tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The life that was heard of.
    pub life: Incarnation,
    /// From then on it may be removed.
    pub safe_until: Instant,
    /// The newest epoch of the ring of its app that is known to be settled, 0 if none is.
    pub settled: Revision,
}

impl Heard {
    /// `sent` is when the request was sent that was answered.
    pub fn new(life: Incarnation, sent: Instant, ttl: Duration) -> Self {
        Self { life, safe_until: sent + (ttl - ttl / MARGIN_PARTS), settled: Revision(0) }
    }

    fn is_safe(&self) -> bool {
        Instant::now() < self.safe_until
    }
}

/// The lease of a kept registration: until when this process may act for it. Clones follow the same
/// registration.
#[derive(Clone, Debug)]
pub struct Lease {
    heard: watch::Receiver<Heard>,
}

impl Lease {
    pub(super) fn of(heard: watch::Receiver<Heard>) -> Self {
        Self { heard }
    }

    /// Whether the instance is surely registered: the cluster cannot have removed it for silence.
    pub fn is_safe(&self) -> bool {
        self.heard.borrow().is_safe()
    }

    /// How much longer it is safe if no heartbeat is answered from now on: four fifths of the TTL
    /// after the last answered one was sent.
    pub fn left(&self) -> Duration {
        self.heard.borrow().safe_until.saturating_duration_since(Instant::now())
    }

    pub(super) fn heard(&self) -> Heard {
        *self.heard.borrow()
    }

    /// Waits for the next answer; for ever if no more heartbeats are sent.
    pub(super) async fn changed(&mut self) {
        if self.heard.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until it is safe, and tells for which life.
    pub(super) async fn safe(&mut self) -> Incarnation {
        loop {
            let heard = *self.heard.borrow_and_update();
            if heard.is_safe() {
                return heard.life;
            }
            self.changed().await;
        }
    }

    /// Waits until this life is not safe any more.
    pub(super) async fn over(&mut self, life: Incarnation) {
        loop {
            let heard = *self.heard.borrow_and_update();
            if heard.life != life || !heard.is_safe() {
                return;
            }
            tokio::select! {
                () = sleep_until(heard.safe_until) => {}
                () = self.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_a_fifth_of_the_ttl_before_the_cluster_may_take_it_away() {
        let (sent, ttl) = (Instant::now(), Duration::from_secs(15));
        let heard = Heard::new(Incarnation(7), sent, ttl);
        assert_eq!(sent + ttl - heard.safe_until, Duration::from_secs(3));
    }
}
