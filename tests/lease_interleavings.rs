//! Walks through every interleaving of what happens to one lease. The lease is the real one, built
//! here with atomics and a lock that the model checker schedules.

#![allow(dead_code, reason = "the lease has more to it than what races")]

#[path = "../src/leases/lease.rs"]
mod lease;

/// What `src/leases/sync.rs` is to the node.
mod sync {
    pub use loom::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
    use loom::sync::{Mutex as Checked, MutexGuard};

    #[derive(Debug)]
    pub struct Mutex<T>(Checked<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(Checked::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("nobody panicked with it")
        }
    }
}

use std::thread::Result;

use lease::{Due, Judgement, Lease, Marked, Stretch, Via};
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread::{JoinHandle, spawn};
use roster_storage::names::{Revision, SessionId};

const TTL: u64 = 100;
/// The deadline has passed since the lease was made.
const NOW: u64 = 150;
const PLAIN: Stretch = Stretch(100);
const FIRST: Revision = Revision(1);
const SECOND: Revision = Revision(2);

fn lease() -> Arc<Lease> {
    Arc::new(Lease::new(SessionId(1), TTL, FIRST, 0))
}

/// Whether it was acknowledged.
fn beats(lease: &Arc<Lease>) -> JoinHandle<bool> {
    let lease = lease.clone();
    spawn(move || lease.renew(None, Via::numbered(0), NOW).is_some())
}

fn touches(lease: &Arc<Lease>) -> JoinHandle<u64> {
    let lease = lease.clone();
    spawn(move || lease.touch(TTL, SECOND, NOW, PLAIN))
}

/// What is proposed.
fn ends(lease: &Arc<Lease>) -> JoinHandle<Option<Due>> {
    let lease = lease.clone();
    spawn(move || due(lease.end(NOW, PLAIN)))
}

fn due(marked: Marked) -> Option<Due> {
    match marked {
        Marked::Due(due) => Some(due),
        Marked::Lives { .. } | Marked::Before => None,
    }
}

fn result<T>(thread: JoinHandle<T>) -> T {
    let result: Result<T> = thread.join();
    result.expect("it ran")
}

/// Nobody will propose it any more, and it is looked at when a TTL has passed since it was heard.
fn lives(lease: &Lease) -> bool {
    lease.look(NOW, PLAIN) == Judgement::Lives { deadline: NOW + TTL }
}

/// Three threads beside the test's own have too many interleavings: all those in which one is
/// interrupted three times at most, which is where mistakes are found.
fn of_three(story: impl Fn() + Sync + Send + 'static) {
    let mut model = Builder::new();
    model.preemption_bound = Some(3);
    model.check(story);
}

#[test]
fn a_beat_that_is_acknowledged_is_never_proposed() {
    loom::model(|| {
        let lease = lease();
        let (beats, ends) = (beats(&lease), ends(&lease));
        let (acknowledged, proposed) = (result(beats), result(ends).is_some());
        assert_ne!(acknowledged, proposed, "one of them, and not both");
        assert_eq!(acknowledged, lives(&lease));
    });
}

#[test]
fn two_who_end_a_session_do_not_both_propose_it() {
    of_three(|| {
        let lease = lease();
        let (one, other, beats) = (ends(&lease), ends(&lease), beats(&lease));
        let proposed = [result(one), result(other)].iter().flatten().count();
        assert_eq!(proposed + usize::from(result(beats)), 1);
    });
}

#[test]
fn a_proposal_names_the_last_touch_or_is_dropped_and_its_mark_is_gone() {
    loom::model(|| {
        let lease = lease();
        let (touches, ends) = (touches(&lease), ends(&lease));
        let (deadline, proposed) = (result(touches), result(ends));
        assert_eq!(deadline, NOW + TTL);
        if let Some(due) = proposed {
            assert_eq!(due.touched, FIRST, "it would remove what was just registered");
        }
        assert!(lives(&lease));
        assert!(lease.renew(None, Via::NONE, NOW).is_some(), "the mark is left behind");
    });
}

#[test]
fn a_touch_that_leaves_a_session_late_is_named_or_takes_the_mark_away() {
    loom::model(|| {
        let lease = lease();
        let (touched, ends) = (lease.clone(), ends(&lease));
        // Apply was held up: what it saw was registered long before.
        touched.touch(TTL, SECOND, 0, PLAIN);
        let proposed = result(ends).expect("it is late all the time");
        let marked = lease.look(NOW, PLAIN) == Judgement::Ending;
        assert_eq!(proposed.touched == SECOND, marked, "apply drops what names the first touch");
    });
}

#[test]
fn a_touch_loses_no_beat_and_a_beat_no_touch() {
    of_three(|| {
        let lease = lease();
        let later = lease.clone();
        let beats = spawn(move || later.renew(None, Via::NONE, NOW + 50).is_some());
        let (touches, ends) = (touches(&lease), ends(&lease));
        let (acknowledged, proposed) = (result(beats), result(ends));
        result(touches);
        let heard = if acknowledged { NOW + 50 } else { NOW };
        assert_eq!(lease.last_heard().0, heard);
        assert!(proposed.is_none_or(|due| due.touched == FIRST));
        assert_eq!(lease.look(NOW, PLAIN), Judgement::Lives { deadline: heard + TTL });
    });
}

#[test]
fn what_is_spared_does_not_take_the_mark_of_a_later_proposal_away() {
    loom::model(|| {
        let lease = lease();
        let dropped = due(lease.end(NOW, PLAIN)).expect("it is late");
        let other = lease.clone();
        let again = spawn(move || {
            // Touched as it was, so that only the touch tells the two marks apart.
            other.touch(TTL, SECOND, 0, PLAIN);
            due(other.end(NOW, PLAIN))
        });
        let spared = lease.spare(&dropped, PLAIN).is_some();
        let proposed = result(again);
        assert!(proposed.is_some_and(|due| due.touched == SECOND));
        assert_eq!(lease.look(NOW, PLAIN), Judgement::Ending, "spared before: {spared}");
        assert!(lease.renew(None, Via::NONE, NOW).is_none());
    });
}
