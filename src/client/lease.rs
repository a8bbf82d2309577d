//! How long what an instance holds is surely its own.
//!
//! A cluster removes an instance when it heard nothing of it for a whole TTL, and a heartbeat cannot
//! have been heard before it was sent. So from the sending of the last heartbeat that was answered,
//! less a margin for clocks that run at other rates and for the time that stopping takes, whatever
//! this process does for its instance it must stop by itself.
//!
//! The cluster's time goes on while this machine is suspended. So this is measured by a clock that
//! goes on too, and not by the runtime's, which stands still meanwhile.

use std::time::Duration;

use roster_storage::names::{Incarnation, Revision};
use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::sync::watch;
use tokio::time::sleep;

/// One part in so many of the TTL is the margin.
const MARGIN_PARTS: u32 = 5;

/// A lease may end while the runtime's timers stand still: it is looked at as often as this.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What goes on while the machine is suspended. Linux's monotonic clock does not.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// A moment of this machine's life, suspended or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Duration);

impl Moment {
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    pub fn now() -> Self {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(CLOCK);
        // The clock begins at 0 and its parts of a second are below one.
        let (seconds, nanos) = (tv_sec.try_into().unwrap_or(0), tv_nsec.try_into().unwrap_or(0));
        Self(Duration::new(seconds, nanos))
    }
}

/// What the last answered heartbeat, or registration, tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The life that was heard of.
    pub life: Incarnation,
    /// From then on work is to stop.
    pub safe_until: Moment,
    /// So much later it may be removed.
    pub margin: Duration,
    /// The newest epoch of the ring of its app that is known to be settled, 0 if none is.
    pub settled: Revision,
}

impl Heard {
    /// `sent` is when the request was sent that was answered.
    pub fn new(life: Incarnation, sent: Moment, ttl: Duration) -> Self {
        let margin = ttl / MARGIN_PARTS;
        let safe_until = Moment(sent.0.saturating_add(ttl - margin));
        Self { life, safe_until, margin, settled: Revision(0) }
    }

    /// How much longer it is safe if nothing more is heard.
    pub fn safe_for(&self) -> Duration {
        self.safe_until.0.saturating_sub(Moment::now().0)
    }
}

/// The lease of a kept registration: until when this process may act for it. Clones follow the same
/// registration.
#[derive(Clone, Debug)]
pub struct Lease {
    heard: watch::Receiver<Heard>,
    now: fn() -> Moment,
}

impl Lease {
    pub(super) fn of(heard: watch::Receiver<Heard>) -> Self {
        Self { heard, now: Moment::now }
    }

    /// Whether the instance is surely registered: the cluster cannot have removed it for silence.
    /// After it was removed and registered again this is so again, but what it held before may be
    /// another's.
    pub fn is_safe(&self) -> bool {
        !self.left().is_zero()
    }

    /// How much longer it is safe if no heartbeat is answered from now on: four fifths of the TTL
    /// after the last answered one was sent. Time in which the machine is suspended counts.
    pub fn left(&self) -> Duration {
        self.left_of(&self.heard())
    }

    fn left_of(&self, heard: &Heard) -> Duration {
        heard.safe_until.0.saturating_sub((self.now)().0)
    }

    /// Whether this very life is surely registered: what it was given is still its own.
    pub(super) fn is_safe_in(&self, life: Incarnation) -> bool {
        let heard = self.heard();
        heard.life == life && !self.left_of(&heard).is_zero()
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
            if !self.left_of(&heard).is_zero() {
                return heard.life;
            }
            self.changed().await;
        }
    }

    /// Waits until this life is not safe any more.
    pub(super) async fn over(&mut self, life: Incarnation) {
        loop {
            let heard = *self.heard.borrow_and_update();
            let left = self.left_of(&heard);
            if heard.life != life || left.is_zero() {
                return;
            }
            tokio::select! {
                () = sleep(left.min(LOOK_EVERY)) => {}
                () = self.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    thread_local! {
        static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// A clock that was suspended for so long, as far as this test's thread sees it.
    fn after_suspension() -> Moment {
        Moment(Moment::now().0 + SUSPENDED.get())
    }

    #[test]
    fn work_ends_a_fifth_of_the_ttl_before_the_cluster_may_take_it_away() {
        let sent = Moment::now();
        let heard = Heard::new(Incarnation(7), sent, TTL);
        assert_eq!(sent.0 + TTL - heard.safe_until.0, Duration::from_secs(3));
        assert_eq!(heard.margin, Duration::from_secs(3));
    }

    #[tokio::test]
    async fn a_machine_that_was_suspended_for_longer_than_the_ttl_does_not_wake_as_safe() {
        let life = Incarnation(7);
        let (_tell, heard) = watch::channel(Heard::new(life, Moment::now(), TTL));
        let mut lease = Lease { heard, now: after_suspension };
        assert!(lease.is_safe() && lease.is_safe_in(life));
        let watching = lease.clone();
        let over = tokio::spawn({
            let mut lease = lease.clone();
            async move { lease.over(life).await }
        });
        tokio::task::yield_now().await;
        // The runtime's clock knows nothing of it.
        SUSPENDED.set(TTL);
        assert!(!watching.is_safe() && !watching.is_safe_in(life) && watching.left().is_zero());
        let soon = tokio::time::timeout(TTL / 3, over).await;
        soon.expect("noticed long before the runtime's time is over").expect("no panic");
        lease.heard = watch::channel(Heard::new(life, after_suspension(), TTL)).1;
        assert_eq!(lease.safe().await, life);
    }

    #[test]
    fn another_life_is_safe_for_itself_alone() {
        let (_tell, heard) = watch::channel(Heard::new(Incarnation(9), Moment::now(), TTL));
        let lease = Lease::of(heard);
        assert!(lease.is_safe() && lease.is_safe_in(Incarnation(9)));
        assert!(!lease.is_safe_in(Incarnation(7)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_clock_counts_from_the_machines_start_as_its_uptime_does() {
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").expect("an uptime");
            let seconds = text.split(' ').next().expect("a number").parse().expect("a number");
            Duration::from_secs_f64(seconds)
        };
        // It is told in hundredths of a second.
        let hundredth = Duration::from_millis(10);
        let (before, now, after) = (uptime(), Moment::now().0, uptime());
        assert!(before <= now + hundredth && now <= after + hundredth * 2, "{before:?} {now:?}");
    }
}
