//! Cases with a name: what happens when a move, a death and a deletion meet.

use roster_storage::names::{InstanceId, Revision, ShardId};
use roster_storage::shards::{Group, Released, Shard, Unplanned, Worker};

fn id(text: &str) -> InstanceId {
    text.parse().expect("a worker id")
}

fn shard(text: &str) -> ShardId {
    text.parse().expect("a shard id")
}

fn worker() -> Worker {
    Worker { weight: 1, zone: "".into(), available: true }
}

/// A group and the index of its newest entry.
struct Set {
    group: Group,
    at: u64,
}

impl Set {
    /// Two shards on `a`, one of which is to go to `b`.
    fn with_a_pending_move() -> Self {
        let mut set = Self { group: Group::new(0, 1), at: 0 };
        set.entry(|group, at| {
            group.up(&id("a"), worker());
            group.add(&shard("pay/1"));
            group.add(&shard("pay/2"));
            group.rebalance(at);
        });
        set.entry(|group, at| {
            group.up(&id("b"), worker());
            group.rebalance(at);
        });
        assert_eq!(set.group.counts().pending, 1);
        set
    }

    fn entry<T>(&mut self, change: impl FnOnce(&mut Group, Revision) -> T) -> T {
        self.at += 1;
        let answer = change(&mut self.group, Revision(self.at));
        self.group.finish(Revision(self.at));
        assert_eq!(self.group.verify(), Ok(()));
        answer
    }

    fn rebalance(&mut self) -> bool {
        self.entry(Group::rebalance)
    }

    /// The shard that is to move.
    fn pending(&self) -> ShardId {
        let mut awaited = ["a", "b", "c"].into_iter().flat_map(|w| self.group.awaited_by(&id(w)));
        awaited.next().expect("a pending move").clone()
    }

    fn record(&self, shard: &ShardId) -> Shard {
        self.group.shard(shard).expect("the shard's record").clone()
    }
}

fn held(holder: &str, grant: u64, next: Option<&str>) -> Shard {
    Shard { holder: Some(id(holder)), grant: Revision(grant), next: next.map(id), gone: false }
}

#[test]
fn a_release_hands_the_shard_over_under_a_new_grant() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    assert_eq!(set.record(&moving), held("a", 1, Some("b")));
    let released = set.entry(|group, at| group.release(at, &id("a"), &moving, Revision(1)));
    assert_eq!(released, Released::Freed);
    assert_eq!(set.record(&moving), held("b", 3, None));
    assert_eq!(set.group.epoch(), Revision(3));
    assert!(!set.rebalance());
}

#[test]
fn a_release_with_an_old_grant_changes_nothing_and_says_who_holds() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    set.entry(|group, at| group.release(at, &id("a"), &moving, Revision(1)));
    let again = set.entry(|group, at| group.release(at, &id("a"), &moving, Revision(1)));
    assert_eq!(again, Released::StaleToken { grant: Revision(3), holder: Some(id("b")) });
    assert_eq!(set.record(&moving), held("b", 3, None));
    let unknown = set.entry(|group, at| group.release(at, &id("a"), &shard("pay/9"), Revision(1)));
    assert_eq!(unknown, Released::Unknown);
}

#[test]
fn a_rebalance_during_a_pending_move_leaves_it_pending() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    assert!(!set.rebalance());
    assert_eq!(set.record(&moving), held("a", 1, Some("b")));
    assert_eq!(set.group.epoch(), Revision(2));
}

#[test]
fn a_pending_move_goes_to_a_third_worker_rather_than_a_shard_that_is_held() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    set.entry(|group, at| {
        group.add(&shard("pay/3"));
        group.add(&shard("pay/4"));
        group.rebalance(at);
    });
    assert_eq!((set.group.of_worker(&id("b")).len(), set.group.load(&id("b"))), (1, 2));
    set.entry(|group, at| {
        group.up(&id("c"), worker());
        group.rebalance(at);
    });
    assert_eq!(set.record(&moving), held("a", 1, Some("c")));
    assert_eq!(set.group.counts().pending, 1, "nothing else is to move");
}

#[test]
fn the_death_of_the_holder_completes_a_pending_move_at_once() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    set.entry(|group, at| group.down(at, &id("a")));
    assert_eq!(set.record(&moving), held("b", 3, None));
    assert_eq!(set.group.unplanned(), Some(Unplanned::Loss), "its other shard has nobody");
    assert_eq!(set.group.counts().orphaned, 1);
    assert!(set.rebalance());
    assert_eq!(set.group.of_worker(&id("b")).len(), 2);
    assert_eq!(set.group.unplanned(), None);
}

#[test]
fn the_death_of_the_next_holder_calls_a_pending_move_off() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    set.entry(|group, at| group.down(at, &id("b")));
    assert_eq!(set.record(&moving), held("a", 1, None));
    assert_eq!(set.group.unplanned(), Some(Unplanned::Gain), "nothing is without a holder");
    assert!(!set.rebalance());
}

#[test]
fn a_release_that_crosses_a_called_off_move_counts_and_the_shard_is_granted_anew() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    set.entry(|group, at| group.down(at, &id("b")));
    let released = set.entry(|group, at| group.release(at, &id("a"), &moving, Revision(1)));
    assert_eq!(released, Released::Freed);
    assert_eq!(set.record(&moving).holder, None);
    assert!(set.rebalance());
    assert_eq!(set.record(&moving), held("a", 5, None));
}

#[test]
fn a_release_that_arrives_twice_does_not_take_the_shard_that_was_granted_anew() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    set.entry(|group, at| group.down(at, &id("b")));
    set.entry(|group, at| group.release(at, &id("a"), &moving, Revision(1)));
    set.rebalance();
    let again = set.entry(|group, at| group.release(at, &id("a"), &moving, Revision(1)));
    assert_eq!(again, Released::StaleToken { grant: Revision(5), holder: Some(id("a")) });
    assert_eq!(set.record(&moving), held("a", 5, None));
}

#[test]
fn a_shard_deleted_during_a_pending_move_stays_with_its_holder_until_let_go() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    set.entry(|group, _| group.del(&moving));
    assert_eq!(set.record(&moving), Shard { gone: true, ..held("a", 1, None) });
    assert_eq!(set.group.counts().shards, 1);
    assert!(set.group.gone().eq([&moving]));
    assert!(set.group.of_worker(&id("a")).contains(&&moving), "it has to learn of it");
    set.entry(|group, at| group.release(at, &id("a"), &moving, Revision(1)));
    assert_eq!(set.group.shard(&moving), None);
}

#[test]
fn a_shard_that_comes_back_during_its_deletion_is_held_on_and_planned_again() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    set.entry(|group, _| group.del(&moving));
    set.entry(|group, _| group.add(&moving));
    assert_eq!(set.record(&moving), held("a", 1, None), "the grant is the same one");
    assert!(set.rebalance());
    assert_eq!(set.group.counts().pending, 1);
}

#[test]
fn a_shard_deleted_and_added_within_one_entry_changed_nothing_but_the_epoch() {
    let mut set = Set::with_a_pending_move();
    let kept = set.group.of_worker(&id("a"))[0].clone();
    let at = Revision(set.at + 1);
    let before = set.group.shard(&kept).cloned();
    set.group.del(&kept);
    set.group.add(&kept);
    let changes = set.group.finish(at);
    let called_off = before.is_some_and(|shard| shard.next.is_some());
    assert_eq!(changes.len(), usize::from(called_off));
    assert_eq!(set.group.epoch(), at);
}

#[test]
fn a_draining_worker_keeps_its_shards_until_it_lets_them_go() {
    let mut set = Set::with_a_pending_move();
    set.entry(|group, at| {
        group.up(&id("a"), Worker { available: false, ..worker() });
        group.rebalance(at);
    });
    assert_eq!(set.group.of_worker(&id("a")).len(), 2);
    assert_eq!(set.group.awaited_by(&id("b")).len(), 2);
    assert_eq!(set.group.load(&id("a")), 0);
    assert_eq!(set.group.imbalance(), 2, "`b` lacks both");
}

#[test]
fn a_checkpoint_does_not_say_whether_a_rebalance_is_due_so_one_is() {
    let set = Set::with_a_pending_move();
    assert_eq!(set.group.unplanned(), None);
    let mut read = Group::new(0, 1);
    for (id, shard) in set.group.shards() {
        read.insert_record(id.clone(), shard.clone());
    }
    assert_eq!(read.unplanned(), Some(Unplanned::Gain));
}

#[test]
fn without_anybody_to_plan_moves_are_called_off() {
    let mut set = Set::with_a_pending_move();
    set.entry(|group, at| {
        group.up(&id("a"), Worker { available: false, ..worker() });
        group.up(&id("b"), Worker { available: false, ..worker() });
        group.rebalance(at);
    });
    let counts = set.group.counts();
    assert_eq!((counts.pending, counts.assigned, counts.available_workers), (0, 2, 0));
}

#[test]
fn an_operator_takes_a_shard_from_a_worker_that_does_not_let_go() {
    let mut set = Set::with_a_pending_move();
    let moving = set.pending();
    let released = set.entry(|group, at| group.force_release(at, &moving));
    assert_eq!(released, Released::Freed);
    assert_eq!(set.record(&moving), held("b", 3, None));
    let unknown = set.entry(|group, at| group.force_release(at, &shard("pay/9")));
    assert_eq!(unknown, Released::Unknown);
}

#[test]
fn a_worker_that_gets_no_weight_is_planned_with_the_least() {
    let mut set = Set::with_a_pending_move();
    set.entry(|group, at| {
        group.up(&id("b"), Worker { weight: 0, ..worker() });
        group.rebalance(at);
    });
    assert_eq!(set.group.load(&id("b")), 1);
}

#[test]
fn those_are_stopped_first_that_cost_the_fewest_moves() {
    let mut set = Set::with_a_pending_move();
    set.entry(|group, at| {
        group.add(&shard("pay/3"));
        group.rebalance(at);
        group.up(&id("c"), Worker { available: false, ..worker() });
        group.up(&id("d"), worker());
    });
    assert_eq!(set.group.victims(3), [id("c"), id("d"), id("b")]);
    assert_eq!(set.group.victims(9).len(), 4);
}
