//! A shard set without any index: each operation walks over all records, as its definition reads.
//! Slow, and hardly able to be wrong.

use std::collections::BTreeMap;

use roster_storage::names::{InstanceId, Revision, ShardId};
use roster_storage::shards::{Group, Input, Member, Shard, Worker, plan};

use crate::acts::Op;

#[derive(Clone, Debug, Default)]
pub struct Reference {
    seed: u64,
    copies: u8,
    pub epoch: Revision,
    pub workers: BTreeMap<InstanceId, Worker>,
    pub shards: BTreeMap<ShardId, Shard>,
}

impl Reference {
    pub fn new(seed: u64, copies: u8) -> Self {
        Self { seed, copies, ..Self::default() }
    }

    /// Carries out one entry.
    pub fn apply(&mut self, at: Revision, ops: &[Op]) {
        for op in ops {
            let before = self.shards.clone();
            self.carry_out(at, op);
            if self.shards != before {
                self.epoch = at;
            }
        }
    }

    fn carry_out(&mut self, at: Revision, op: &Op) {
        match op {
            Op::Up(id, worker) => {
                self.workers.insert(id.clone(), worker.clone());
            }
            Op::Down(id) => self.down(at, id),
            Op::Add(id) => self.shards.entry(id.clone()).or_default().gone = false,
            Op::Del(id) => match self.shards.get_mut(id) {
                Some(shard) if shard.holder.is_some() => {
                    shard.gone = true;
                    shard.next = None;
                }
                Some(_) => {
                    self.shards.remove(id);
                }
                None => {}
            },
            Op::Release(worker, id, grant) => {
                let record = self.shards.get(id);
                if record.is_some_and(|r| r.holder.as_ref() == Some(worker) && r.grant == *grant) {
                    self.free(at, id);
                }
            }
            Op::Force(id) => {
                if self.shards.get(id).is_some_and(|shard| shard.holder.is_some()) {
                    self.free(at, id);
                }
            }
            Op::Copies(copies) => self.copies = *copies,
            Op::Rebalance => self.rebalance(at),
        }
    }

    fn down(&mut self, at: Revision, worker: &InstanceId) {
        if self.workers.remove(worker).is_none() {
            return;
        }
        for id in self.shards.keys().cloned().collect::<Vec<_>>() {
            let shard = self.shards.get_mut(&id).expect("one of the keys");
            if shard.next.as_ref() == Some(worker) {
                shard.next = None;
            }
            if shard.holder.as_ref() == Some(worker) {
                self.free(at, &id);
            }
        }
    }

    fn free(&mut self, at: Revision, id: &ShardId) {
        let shard = self.shards.get_mut(id).expect("it is held");
        if shard.gone {
            self.shards.remove(id);
        } else if let Some(next) = shard.next.take() {
            (shard.holder, shard.grant) = (Some(next), at);
        } else {
            shard.holder = None;
        }
    }

    fn rebalance(&mut self, at: Revision) {
        let target = plan(&self.input());
        for (id, shard) in self.shards.iter_mut().filter(|(_, shard)| !shard.gone) {
            let target = target.get(id);
            if shard.holder.is_none() && target.is_some() {
                (shard.holder, shard.grant) = (target.cloned(), at);
            } else if shard.holder.as_ref() == target {
                shard.next = None;
            } else {
                shard.next = target.cloned();
            }
        }
    }

    fn input(&self) -> Input {
        let shards = || self.shards.iter().filter(|(_, shard)| !shard.gone);
        let planned = |(id, shard): (&ShardId, &Shard)| {
            Some((id.clone(), shard.next.clone().or(shard.holder.clone())?))
        };
        let member = |worker: &Worker| Member { weight: worker.weight, zone: worker.zone.clone() };
        Input {
            shards: shards().map(|(id, _)| id.clone()).collect(),
            workers: self
                .workers
                .iter()
                .filter(|(_, worker)| worker.available)
                .map(|(id, worker)| (id.clone(), member(worker)))
                .collect(),
            planned: shards().filter_map(planned).collect(),
            soft: shards().filter(|(_, s)| s.next.is_some()).map(|(id, _)| id.clone()).collect(),
            copies: self.copies,
            seed: self.seed,
        }
    }

    /// That `group` is in the same state.
    pub fn check(&self, group: &Group) {
        assert_eq!(records(group), self.shards);
        assert_eq!(group.epoch(), self.epoch);
        assert!(group.workers().eq(&self.workers));
    }
}

pub fn records(group: &Group) -> BTreeMap<ShardId, Shard> {
    group.shards().map(|(id, shard)| (id.clone(), shard.clone())).collect()
}
