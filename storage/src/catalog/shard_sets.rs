//! Shard sets: shards that come and go with the live instances of some apps, workers that come and
//! go with those of another, and who holds what (invariants S6, S11).
//!
//! What one entry changes is counted and told once, at its end: [`Catalog::settle_shard_sets`].

use std::sync::Arc;

use super::apps::check;
use super::{Applied, At, Catalog, Instance, Rules, ShardSet, ShardSetRecord, State};
use crate::command::{
    Covered, DeleteShardSet, PutShardSet, Rebalance, Refusal, Release, ReleasedBy, Reply,
    ShardSetConfig,
};
use crate::events::{Event, Held, Reason};
use crate::limits::SHARD_SETS_MAX;
use crate::names::{AppName, InstanceId, InstanceKey, Revision, ShardId, ShardSetName};
use crate::shards::scaling;
use crate::shards::{Changed, Group, Released, Shard, Worker};

/// Shard sets hash with this one.
const SEED: u64 = 0;

impl Catalog {
    pub(super) fn put_shard_set(&mut self, at: At, c: &PutShardSet) -> Applied {
        let known = self.shard_sets.get(&c.set);
        check(c.condition, known.map(|set| set.record.revision), || {
            Refusal::ShardSetExists(c.set.clone())
        })?;
        self.known_app(&c.config.workers)?;
        let created = known.is_none();
        let config = Arc::new(c.config.clone());
        if created && self.shard_sets.len() >= SHARD_SETS_MAX {
            return Err(Refusal::TooManyShardSets { limit: SHARD_SETS_MAX as u64 });
        }
        if created {
            let record = ShardSetRecord {
                config: config.clone(),
                revision: at.revision,
                // Not 0: a set of this name may have been here, and its epoch never goes back.
                epoch: at.revision,
                scaling: None,
                rules: Rules::V1,
            };
            let group = self.group_of(&record);
            self.insert_shard_set(c.set.clone(), record, group);
        }
        let old = self.shard_sets.get(&c.set).map(|set| set.record.config.clone());
        let old = old.filter(|_| !created);
        if let Some(old) = &old {
            self.configure_shard_set(&c.set, config, at.revision);
            self.reconfigure(at, &c.set, old, &c.config);
        }
        self.cover(&c.set, old.as_deref(), &c.config);
        self.touch_shard_set(&c.set);
        Ok(Reply::ShardSetPut { created })
    }

    pub(super) fn delete_shard_set(
        &mut self,
        c: &DeleteShardSet,
        events: &mut Vec<Event>,
    ) -> Applied {
        let revision = self.known_shard_set(&c.set)?.record.revision;
        check(c.condition, Some(revision), || Refusal::ShardSetExists(c.set.clone()))?;
        self.touched.shard_sets.remove(&c.set);
        // Nothing of the entry so far has touched a record, so all of them are counted as they are.
        let Some(gone) = self.remove_shard_set(&c.set) else { return Ok(Reply::ShardSetDeleted) };
        for (shard, value) in gone.group.shards() {
            if let Some(worker) = &value.holder {
                events.push(Event::WorkEnded {
                    set: c.set.clone(),
                    app: gone.record.config.workers.clone(),
                    worker: worker.clone(),
                    shard: shard.clone(),
                    grant: value.grant,
                    reason: Reason::Operator,
                });
            }
        }
        Ok(Reply::ShardSetDeleted)
    }

    pub(super) fn release(&mut self, at: At, c: &Release) -> Applied {
        self.known_shard_set(&c.set)?;
        let mut each = Vec::with_capacity(c.shards.len());
        self.change_group(&c.set, |group| {
            for (shard, grant) in &c.shards {
                let released = match &c.by {
                    ReleasedBy::Worker(worker) => group.release(at.revision, worker, shard, *grant),
                    ReleasedBy::Operator => take_away(group, at, shard, *grant),
                };
                each.push(match released {
                    Released::Freed => Ok(()),
                    Released::StaleToken { grant, holder } => {
                        Err(Refusal::StaleToken { current: grant, holder })
                    }
                    Released::Unknown => {
                        Err(Refusal::StaleToken { current: Revision(0), holder: None })
                    }
                });
            }
        });
        Ok(Reply::Released(each))
    }

    pub(super) fn rebalance(&mut self, at: At, c: &Rebalance) -> Reply {
        let mut changed = 0;
        for set in &c.sets {
            match self.shard_sets.get(set).map(|set| set.record.rules) {
                Some(Rules::V1) => self.change_group(set, |group| {
                    changed += u64::from(group.rebalance(at.revision));
                }),
                None => {}
            }
        }
        Reply::Rebalanced { changed }
    }

    /// A life begins: it may be a shard, and a worker.
    pub(super) fn begins_in_shard_sets(&mut self, key: &InstanceKey) {
        for set in self.sets_that(|config| config.covers(&key.app)) {
            self.change_group(&set, |group| group.add(&ShardId::from(key)));
        }
        self.changes_in_shard_sets(key);
    }

    /// What the plan sees of a worker may have changed.
    pub(super) fn changes_in_shard_sets(&mut self, key: &InstanceKey) {
        let sets = self.sets_that(|config| config.workers == key.app);
        if sets.is_empty() {
            return;
        }
        let Some(instance) = self.instance(key) else { return };
        let worker = worker(instance, self.state_of(key));
        for set in sets {
            self.change_group(&set, |group| group.up(&key.id, worker.clone()));
        }
    }

    /// A life ends, and its shard with it. Returns who held that.
    pub(super) fn ends_in_shard_sets(&mut self, at: At, key: &InstanceKey) -> Vec<Held> {
        let shard = ShardId::from(key);
        let mut held = Vec::new();
        for set in self.sets_that(|config| config.covers(&key.app)) {
            let known = self.shard_sets.get(&set).and_then(|set| set.group.shard(&shard));
            held.push(Held {
                set: set.clone(),
                holder: known.and_then(|known| known.holder.clone()),
            });
            self.change_group(&set, |group| group.del(&shard));
        }
        for set in self.sets_that(|config| config.workers == key.app) {
            self.change_group(&set, |group| group.down(at.revision, &key.id));
            self.touched.ended.insert((set, key.id.clone()));
        }
        held
    }

    /// At the end of an entry: what it changed of shard sets gets its epoch and is told, each record
    /// once, as it was before and as it is now.
    pub(super) fn settle_shard_sets(&mut self, at: At, by_operator: bool, events: &mut Vec<Event>) {
        let ended = std::mem::take(&mut self.touched.ended);
        let dismissed = std::mem::take(&mut self.touched.dismissed);
        for name in std::mem::take(&mut self.touched.shard_sets) {
            let Some(set) = self.shard_sets.get_mut(&name) else { continue };
            let set = Arc::make_mut(set);
            let changes = set.group.finish(at.revision);
            let epoch = set.group.epoch();
            let workers = set.record.config.workers.clone();
            for Changed { shard, before, now } in &changes {
                self.shard_changed(&name, shard, before.as_ref(), now.as_ref());
            }
            let by_operator = by_operator || dismissed.contains_key(&name);
            let why = |worker: &InstanceId| {
                if ended.contains(&(name.clone(), worker.clone())) {
                    Reason::WorkerGone
                } else if by_operator {
                    Reason::Operator
                } else {
                    Reason::Released
                }
            };
            let before = dismissed.get(&name).unwrap_or(&workers);
            for change in changes {
                tell_work(&name, (before, &workers), change, why, events);
            }
            let scaling = self.scaled(&name);
            self.change_shard_set(&name, |record| {
                record.epoch = epoch;
                record.scaling = scaling;
            });
        }
    }

    /// What the number of workers should be now.
    fn scaled(&self, set: &ShardSetName) -> Option<scaling::ScalingState> {
        let set = self.shard_sets.get(set)?;
        let policy = set.record.config.scaling.as_ref()?;
        let shards = set.group.counts().shards as u64;
        Some(scaling::next(policy, set.record.scaling.as_ref(), shards, self.clock.cluster_ms))
    }

    /// Has the set looked at when the entry ends.
    pub(super) fn touch_shard_set(&mut self, set: &ShardSetName) {
        self.touched.shard_sets.insert(set.clone());
    }

    /// An operator names other workers, or another number of copies.
    fn reconfigure(
        &mut self,
        at: At,
        set: &ShardSetName,
        old: &ShardSetConfig,
        new: &ShardSetConfig,
    ) {
        self.change_group(set, |group| group.set_copies(new.copies));
        if old.workers == new.workers {
            return;
        }
        let workers = self.workers_in(&new.workers);
        self.change_group(set, |group| {
            let dismissed: Vec<_> = group.workers().map(|(id, _)| id.clone()).collect();
            dismissed.iter().for_each(|id| group.down(at.revision, id));
            workers.iter().for_each(|(id, worker)| group.up(id, worker.clone()));
        });
        self.touched.dismissed.insert(set.clone(), old.workers.clone());
    }

    /// Adds the shards that a configuration covers, and deletes those that it does not any more.
    fn cover(&mut self, set: &ShardSetName, old: Option<&ShardSetConfig>, new: &ShardSetConfig) {
        let mut apps: Vec<_> = self.covered_by(new);
        let mut deleted = Vec::new();
        if let Some(old) = old {
            deleted = self.covered_by(old);
            deleted.retain(|app| !new.covers(app));
            apps.retain(|app| !old.covers(app));
        }
        let shards = |catalog: &Self, apps: &[AppName]| -> Vec<ShardId> {
            apps.iter().flat_map(|app| catalog.shards_in(app)).collect()
        };
        let (added, deleted) = (shards(self, &apps), shards(self, &deleted));
        self.change_group(set, |group| {
            deleted.iter().for_each(|shard| group.del(shard));
            added.iter().for_each(|shard| group.add(shard));
        });
    }

    fn covered_by(&self, config: &ShardSetConfig) -> Vec<AppName> {
        match &config.apps {
            Covered::All => self.apps.keys().filter(|app| config.covers(app)).cloned().collect(),
            Covered::Apps(apps) => apps.iter().cloned().collect(),
        }
    }

    fn shards_in(&self, app: &AppName) -> Vec<ShardId> {
        let ids = self.apps.get(app).into_iter().flat_map(|known| known.instances.keys());
        ids.map(|id| ShardId::from(&InstanceKey::new(app.clone(), id.clone()))).collect()
    }

    fn workers_in(&self, app: &AppName) -> Vec<(InstanceId, Worker)> {
        let instances = self.apps.get(app).into_iter().flat_map(|known| &known.instances);
        instances
            .map(|(id, instance)| {
                let state = self.state_of(&InstanceKey::new(app.clone(), id.clone()));
                (id.clone(), worker(instance, state))
            })
            .collect()
    }

    /// A group with the set's workers and no shard yet.
    pub(super) fn group_of(&self, record: &ShardSetRecord) -> Group {
        let mut group = Group::new(SEED, record.config.copies);
        for (id, worker) in self.workers_in(&record.config.workers) {
            group.up(&id, worker);
        }
        group.set_epoch(record.epoch);
        group
    }

    /// A shard as a checkpoint has it.
    pub(super) fn restore_shard(&mut self, set: &ShardSetName, shard: ShardId, value: Shard) {
        self.shard_changed(set, &shard, None, Some(&value));
        if let Some(known) = self.shard_sets.get_mut(set) {
            Arc::make_mut(known).group.insert_record(shard, value);
        }
    }

    fn change_group(&mut self, set: &ShardSetName, change: impl FnOnce(&mut Group)) {
        if let Some(known) = self.shard_sets.get_mut(set) {
            change(&mut Arc::make_mut(known).group);
            self.touch_shard_set(set);
        }
    }

    fn sets_that(&self, wanted: impl Fn(&ShardSetConfig) -> bool) -> Vec<ShardSetName> {
        // Every registration asks, mostly where there are none. imbl's iterator takes longer to make.
        if self.shard_sets.is_empty() {
            return Vec::new();
        }
        let sets = self.shard_sets.iter().filter(|(_, set)| wanted(&set.record.config));
        sets.map(|(name, _)| name.clone()).collect()
    }

    /// The first set, by name, whose workers an app's instances are.
    pub(super) fn set_worked_by(&self, app: &AppName) -> Option<&ShardSetName> {
        let mut sets = self.shard_sets.iter();
        sets.find(|(_, set)| set.record.config.workers == *app).map(|(name, _)| name)
    }

    fn known_shard_set(&self, set: &ShardSetName) -> Result<&Arc<ShardSet>, Refusal> {
        self.shard_sets.get(set).ok_or_else(|| Refusal::UnknownShardSet(set.clone()))
    }

    pub fn shard_set(&self, set: &ShardSetName) -> Option<&Arc<ShardSet>> {
        self.shard_sets.get(set)
    }

    /// All shard sets in name order.
    pub fn shard_sets(&self) -> impl Iterator<Item = (&ShardSetName, &Arc<ShardSet>)> {
        self.shard_sets.iter()
    }
}

fn worker(instance: &Instance, state: State) -> Worker {
    let profile = &instance.profile;
    let (weight, zone) = (profile.weight(), profile.zone().into());
    Worker { weight, zone, available: state.takes_part() }
}

/// Only under the grant that the operator saw, so that nobody loses what was granted since.
fn take_away(group: &mut Group, at: At, shard: &ShardId, grant: Revision) -> Released {
    match group.shard(shard) {
        Some(known) if known.grant == grant && known.holder.is_some() => {
            group.force_release(at.revision, shard)
        }
        Some(known) => Released::StaleToken { grant: known.grant, holder: known.holder.clone() },
        None => Released::Unknown,
    }
}

/// What a worker must know of a record: that it holds the shard, under which grant, and whether it is
/// to let it go.
fn work(shard: Option<&Shard>) -> Option<(&InstanceId, Revision, bool)> {
    let shard = shard?;
    Some((shard.holder.as_ref()?, shard.grant, shard.next.is_some() || shard.gone))
}

/// Tells the workers what a changed record means for them: the former holder by the name of the app
/// that the workers were of before the entry, the present one by that of now.
fn tell_work(
    set: &ShardSetName,
    (app_before, app): (&AppName, &AppName),
    change: Changed,
    why: impl Fn(&InstanceId) -> Reason,
    events: &mut Vec<Event>,
) {
    let Changed { shard, before, now } = change;
    let (before, now) = (work(before.as_ref()), work(now.as_ref()));
    if before == now {
        return;
    }
    if let Some((worker, grant, _)) = before
        && now.is_none_or(|(holder, ..)| holder != worker)
    {
        events.push(Event::WorkEnded {
            set: set.clone(),
            app: app_before.clone(),
            worker: worker.clone(),
            shard: shard.clone(),
            grant,
            reason: why(worker),
        });
    }
    if let Some((worker, grant, release)) = now {
        events.push(Event::WorkPut {
            set: set.clone(),
            app: app.clone(),
            worker: worker.clone(),
            shard,
            grant,
            release,
        });
    }
}
