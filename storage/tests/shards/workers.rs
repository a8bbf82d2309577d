//! Workers that learn late, whose messages come late, twice or never, and that die: no two ever act
//! on one shard, as long as each stops before it lets go and before it is declared dead.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use roster_storage::names::{InstanceId, Revision, ShardId};
use roster_storage::shards::{Group, Worker};

use crate::acts::{Op, decision, some_worker, up, worker};

/// What happens next, in the cluster or to a worker.
#[derive(Clone, Debug)]
enum Act {
    /// A worker starts, or a running one gets other properties.
    Start(InstanceId, Worker),
    /// A worker stops all its work, as it does when its lease ends, and does nothing more.
    Die(InstanceId),
    /// The cluster declares a worker dead that did stop.
    Declare(InstanceId),
    Decide(Op),
    /// A worker sees the state as it was some entries ago, never older than what it saw before.
    Learn(InstanceId, usize),
    /// One of the messages that are under way arrives, and perhaps once more later.
    Deliver(usize, bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => up().prop_filter_map("a start", |op| match op {
            Op::Up(id, worker) => Some(Act::Start(id, worker)),
            _ => None,
        }),
        1 => some_worker().prop_map(Act::Die),
        1 => some_worker().prop_map(Act::Declare),
        6 => decision().prop_map(Act::Decide),
        8 => (some_worker(), 0..4_usize).prop_map(|(id, lag)| Act::Learn(id, lag)),
        4 => (0..8_usize, any::<bool>()).prop_map(|(n, again)| Act::Deliver(n, again)),
    ]
}

/// A worker's own memory.
#[derive(Debug)]
struct Process {
    /// The newest version that it saw.
    seen: usize,
    acting: BTreeMap<ShardId, Revision>,
    /// What it let go: under that grant it never begins again, whatever it is told, since its
    /// message may still arrive.
    let_go: BTreeSet<(ShardId, Revision)>,
}

#[derive(Debug)]
struct Message {
    from: InstanceId,
    let_go: Vec<(ShardId, Revision)>,
}

#[derive(Default)]
struct World {
    group: Group,
    /// The state after each entry.
    versions: Vec<Group>,
    running: BTreeMap<InstanceId, Process>,
    under_way: Vec<Message>,
}

impl World {
    fn entry(&mut self, change: impl FnOnce(&mut Group, Revision)) {
        let at = Revision(self.versions.len() as u64 + 1);
        change(&mut self.group, at);
        self.group.finish(at);
        self.versions.push(self.group.clone());
    }

    fn happens(&mut self, act: Act) {
        match act {
            Act::Start(id, worker) => self.start(id, worker),
            Act::Die(id) => {
                self.running.remove(&id);
            }
            Act::Declare(id) if !self.running.contains_key(&id) => {
                self.entry(|group, at| group.down(at, &id));
            }
            Act::Declare(_) => {}
            Act::Decide(op) => self.entry(|group, at| op.carry_out(group, at)),
            Act::Learn(id, lag) => self.learn(&id, lag),
            Act::Deliver(n, again) => self.deliver(n, again),
        }
    }

    /// A dead worker's id begins again only after it was declared dead.
    fn start(&mut self, id: InstanceId, worker: Worker) {
        if self.running.contains_key(&id) == self.group.worker(&id).is_some() {
            self.entry(|group, _| group.up(&id, worker));
            let seen = self.versions.len() - 1;
            self.running.entry(id).or_insert(Process {
                seen,
                acting: BTreeMap::new(),
                let_go: BTreeSet::new(),
            });
        }
    }

    fn learn(&mut self, id: &InstanceId, lag: usize) {
        let Some(process) = self.running.get_mut(id) else { return };
        process.seen = process.seen.max(self.versions.len().saturating_sub(1 + lag));
        let let_go = process.follow(id, &self.versions[process.seen]);
        if !let_go.is_empty() {
            self.under_way.push(Message { from: id.clone(), let_go });
        }
    }

    fn deliver(&mut self, n: usize, again: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let message = self.under_way.remove(n % self.under_way.len());
        self.entry(|group, at| {
            for (shard, grant) in &message.let_go {
                group.release(at, &message.from, shard, *grant);
            }
        });
        if again {
            self.under_way.push(message);
        }
    }

    /// Whoever acts holds the shard, under the grant that it knows.
    fn check(&self) -> Result<(), TestCaseError> {
        let mut acting = BTreeMap::new();
        for (id, process) in &self.running {
            for (shard, grant) in &process.acting {
                let other = acting.insert(shard, id);
                prop_assert_eq!(other, None, "{} and another act on {}", id, shard);
                let record = self.group.shard(shard);
                let holds =
                    record.is_some_and(|r| r.holder.as_ref() == Some(id) && r.grant == *grant);
                prop_assert!(holds, "{id} acts on {shard} under {grant}, but {record:?}");
            }
        }
        Ok(())
    }
}

impl Process {
    /// Does what a version of the state says, and returns what to let go.
    fn follow(&mut self, id: &InstanceId, version: &Group) -> Vec<(ShardId, Revision)> {
        let mut acting = BTreeMap::new();
        let mut let_go = Vec::new();
        for shard in version.of_worker(id) {
            let Some(record) = version.shard(shard) else { continue };
            let held = (shard.clone(), record.grant);
            if record.gone || record.next.is_some() || self.let_go.contains(&held) {
                self.let_go.insert(held.clone());
                let_go.push(held);
            } else {
                acting.insert(held.0, held.1);
            }
        }
        self.acting = acting;
        let_go
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// G2.
    #[test]
    fn no_two_workers_ever_act_on_one_shard(acts in vec(act(), 1..150)) {
        let mut world = World::default();
        for act in acts {
            world.happens(act);
            world.check()?;
        }
    }

    /// What was let go is granted anew, and nobody waits for ever.
    #[test]
    fn when_messages_arrive_every_shard_is_worked_on(acts in vec(act(), 1..100)) {
        let mut world = World::default();
        for act in acts {
            world.happens(act);
        }
        settle(&mut world);
        let available = world.group.workers().any(|(_, worker)| worker.available);
        if available {
            let acted: BTreeSet<&ShardId> =
                world.running.values().flat_map(|process| process.acting.keys()).collect();
            prop_assert!(acted.into_iter().eq(all_shards(&world.group)));
        }
    }
}

/// The dead are declared, all messages arrive, everybody learns all.
fn settle(world: &mut World) {
    for id in (0..5).map(worker) {
        world.happens(Act::Declare(id));
    }
    for _ in 0..4 {
        world.happens(Act::Decide(Op::Rebalance));
        for id in (0..5).map(worker) {
            world.happens(Act::Learn(id, 0));
        }
        while !world.under_way.is_empty() {
            world.happens(Act::Deliver(0, false));
        }
    }
}

fn all_shards(group: &Group) -> BTreeSet<&ShardId> {
    group.shards().map(|(id, _)| id).collect()
}
