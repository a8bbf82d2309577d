//! On which keys a worker of a ring may start: no sockets, no clock.
//!
//! What matters of a key is since which epoch the worker has owned it without a break: once that
//! epoch is settled, nobody else is at work on the key any more. So the rings are kept back to the
//! newest settled one.

use std::collections::VecDeque;
use std::sync::Arc;

use roster_storage::names::{Incarnation, Revision};
use roster_storage::ring::View;

/// More rings than this come only while one worker does not adopt them for long. Who has forgotten
/// one may start later than it could.
const VIEWS_MAX: usize = 256;

/// What one worker knows of a ring under one lease.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    id: Arc<str>,
    /// The life of the worker that all of this is about: another one may own other keys.
    life: Incarnation,
    /// By epoch: the newest settled one, if it was seen, and all that were seen after it.
    views: VecDeque<Arc<View>>,
    settled: Revision,
}

impl Standing {
    /// Nothing is known of what this worker owned before `view`, and it works on nothing.
    pub fn new(id: &str, life: Incarnation, view: Arc<View>) -> Self {
        Self { id: id.into(), life, views: VecDeque::from([view]), settled: Revision(0) }
    }

    /// Whose standing it is.
    pub fn life(&self) -> Incarnation {
        self.life
    }

    /// The newest ring that it has adopted.
    pub fn newest(&self) -> Option<&Arc<View>> {
        self.views.back()
    }

    /// Work has stopped on what this ring takes away.
    pub fn adopt(&mut self, view: Arc<View>) {
        self.views.push_back(view);
        if self.views.len() > VIEWS_MAX {
            self.views.pop_front();
        }
        self.forget();
    }

    /// Whether it was not known.
    pub fn settle(&mut self, epoch: Revision) -> bool {
        let more = epoch > self.settled;
        self.settled = self.settled.max(epoch);
        self.forget();
        more
    }

    fn forget(&mut self) {
        while self.views.get(1).is_some_and(|view| view.epoch() <= self.settled) {
            self.views.pop_front();
        }
    }

    /// Whether the worker owns the key and nobody else is at work on it any more.
    pub fn may_start(&self, key: &[u8]) -> bool {
        let owned = |view: &&Arc<View>| view.owner(key) == Some(&*self.id);
        let since = self.views.iter().rev().take_while(owned).last();
        since.is_some_and(|view| view.epoch() <= self.settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster_storage::ring::Description;

    /// A ring in which one worker owns every key.
    fn owned_by(id: &str, epoch: u64) -> Arc<View> {
        let description = Description {
            v: 1,
            kind: "jump-probe-1".into(),
            group: "a".into(),
            epoch: Revision(epoch),
            seed: 0,
            replicas: 1,
            workers: vec![(id.into(), 1)],
            slots: vec![0],
        };
        Arc::new(View::try_from(description).expect("a ring"))
    }

    #[test]
    fn a_first_ring_is_worked_on_once_it_is_settled() {
        let mut standing = Standing::new("me", Incarnation(4), owned_by("me", 5));
        assert!(!standing.may_start(b"key"));
        standing.settle(Revision(4));
        assert!(!standing.may_start(b"key"), "others may still be at work");
        standing.settle(Revision(5));
        assert!(standing.may_start(b"key"));
    }

    #[test]
    fn a_key_that_was_kept_may_be_started_before_the_new_ring_is_settled() {
        let mut standing = Standing::new("me", Incarnation(4), owned_by("me", 5));
        standing.settle(Revision(5));
        standing.adopt(owned_by("me", 6));
        assert!(standing.may_start(b"key"));
    }

    #[test]
    fn a_key_that_was_lost_between_must_be_settled_anew() {
        let mut standing = Standing::new("me", Incarnation(4), owned_by("me", 5));
        standing.settle(Revision(5));
        standing.adopt(owned_by("other", 6));
        assert!(!standing.may_start(b"key"));
        standing.adopt(owned_by("me", 7));
        assert!(!standing.may_start(b"key"), "the other may still be at work");
        standing.settle(Revision(6));
        assert!(!standing.may_start(b"key"), "the other may have begun under epoch 6");
        standing.settle(Revision(7));
        assert!(standing.may_start(b"key"));
        assert_eq!(standing.views.len(), 1, "what is settled is forgotten");
    }
}
