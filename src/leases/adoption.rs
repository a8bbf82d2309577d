//! Which epoch of a ring is settled: all who may be at work on its keys have stopped on what they
//! do not own under it, so who gained a key may begin.
//!
//! The leader keeps it in memory, from what heartbeats tell; nothing of it is in the log. It may be
//! late, never early. An epoch is settled when everyone has adopted it *while it is the ring's
//! newest*. The smallest adopted epoch would not do: a worker that goes from epoch 1 to 3 and owns a key
//! under both works on through 2, in which the key was another's.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use roster_storage::catalog::Catalog;
use roster_storage::events::{Change, Event};
use roster_storage::names::{AppName, InstanceId, Revision};
use roster_storage::ring::Ring;

/// Of all rings.
#[derive(Debug, Default)]
pub struct Adoptions {
    rings: HashMap<AppName, Adoption>,
}

#[derive(Debug)]
struct Adoption {
    epoch: Revision,
    settled: Revision,
    members: HashMap<InstanceId, Member>,
    /// Members that have not adopted `epoch`.
    missing: usize,
}

/// Somebody who may be at work on keys of the ring.
#[derive(Clone, Copy, Debug)]
struct Member {
    adopted: bool,
    on_ring: bool,
}

impl Adoptions {
    /// What a new leader knows: nothing of what anybody has adopted, until the next heartbeats. Who
    /// lives and is not on the ring may have been.
    pub fn open(catalog: &Catalog) -> Self {
        let mut adoptions = Self::default();
        for (name, app) in catalog.apps_after(None) {
            let Some(ring) = &app.ring else { continue };
            let mut adoption = Adoption::new(ring.epoch());
            for id in app.instances.keys() {
                let on_ring = ring.weight_of(id).is_some();
                adoption.members.insert(id.clone(), Member { adopted: false, on_ring });
            }
            adoption.count();
            adoptions.rings.insert(name.clone(), adoption);
        }
        adoptions
    }

    /// Takes up what an entry changed. Calls come in log order.
    pub fn take(&mut self, change: &Change, catalog: &Catalog) {
        let mut began: BTreeMap<&AppName, BTreeSet<&InstanceId>> = BTreeMap::new();
        for event in &change.events {
            match event {
                Event::InstancePut { key, before: None, .. } => {
                    began.entry(&key.app).or_default().insert(&key.id);
                }
                Event::InstanceDeleted { key, .. } => {
                    if let Some(ids) = began.get_mut(&key.app) {
                        ids.remove(&key.id);
                    }
                    if let Some(adoption) = self.rings.get_mut(&key.app) {
                        adoption.remove(&key.id);
                    }
                }
                Event::RingPut { app, ring } => {
                    let ids = began.get(app);
                    let fresh = |id: &InstanceId| ids.is_some_and(|ids| ids.contains(id));
                    let known = self
                        .rings
                        .entry(app.clone())
                        .or_insert_with(|| Adoption::of_lives(app, catalog));
                    known.turn(ring, fresh);
                }
                Event::RingDeleted { app, .. } => {
                    self.rings.remove(app);
                }
                Event::InstancePut { before: Some(_), .. }
                | Event::AppPut { .. }
                | Event::AppDeleted { .. }
                | Event::ShardDeleted { .. }
                | Event::SessionPut { .. }
                | Event::SessionEnded { .. }
                | Event::DocumentPut { .. }
                | Event::DocumentDeleted { .. }
                | Event::WorkPut { .. }
                | Event::WorkEnded { .. }
                | Event::ClaimPut { .. }
                | Event::ClaimEnded { .. }
                | Event::AlarmPut { .. }
                | Event::AlarmEnded { .. } => {}
            }
        }
    }

    /// A live instance tells the newest epoch whose losses it has carried out. Older ones are of no use,
    /// and newer ones than this leader has applied come again with the next heartbeat.
    pub fn adopt(&mut self, app: &AppName, id: &InstanceId, epoch: Revision) {
        if let Some(adoption) = self.rings.get_mut(app)
            && adoption.epoch == epoch
        {
            adoption.adopt(id);
        }
    }

    /// `None` where there is no ring.
    pub fn settled(&self, app: &AppName) -> Option<Revision> {
        self.rings.get(app).map(|adoption| adoption.settled)
    }
}

impl Adoption {
    fn new(epoch: Revision) -> Self {
        Self { epoch, settled: Revision(0), members: HashMap::new(), missing: 0 }
    }

    /// A ring that was just switched on: whoever lives may have worked under an earlier one.
    fn of_lives(app: &AppName, catalog: &Catalog) -> Self {
        let mut adoption = Self::new(Revision(0));
        let ids = catalog.app(app).into_iter().flat_map(|app| app.instances.keys());
        for id in ids {
            adoption.members.insert(id.clone(), Member { adopted: false, on_ring: false });
        }
        adoption
    }

    /// A new epoch. Who begins a life with it has nothing to stop.
    fn turn(&mut self, ring: &Ring, fresh: impl Fn(&InstanceId) -> bool) {
        self.epoch = ring.epoch();
        for member in self.members.values_mut() {
            *member = Member { adopted: false, on_ring: false };
        }
        for (id, _) in ring.workers() {
            let adopted = fresh(id) || !self.members.contains_key(id);
            self.members.insert(id.clone(), Member { adopted, on_ring: true });
        }
        self.count();
    }

    fn adopt(&mut self, id: &InstanceId) {
        let Some(member) = self.members.get_mut(id).filter(|member| !member.adopted) else {
            return;
        };
        member.adopted = true;
        self.missing -= 1;
        // Off the ring, with all of its work stopped: it comes back as one that has nothing to stop.
        if !member.on_ring {
            self.members.remove(id);
        }
        self.settle();
    }

    fn remove(&mut self, id: &InstanceId) {
        if let Some(member) = self.members.remove(id) {
            self.missing -= usize::from(!member.adopted);
            self.settle();
        }
    }

    fn count(&mut self) {
        self.missing = self.members.values().filter(|member| !member.adopted).count();
        self.settle();
    }

    fn settle(&mut self) {
        if self.missing == 0 {
            self.settled = self.epoch;
        }
    }
}

#[cfg(test)]
mod tests {
    use roster_storage::catalog::At;
    use roster_storage::command::{
        Command, Condition, DeleteRing, Deregister, Overridden, Profile, PutOverride, PutRing,
        Register, Stamp,
    };
    use roster_storage::names::InstanceKey;

    use super::*;

    /// A catalogue and what its leader knows.
    #[derive(Default)]
    struct World {
        catalog: Catalog,
        adoptions: Adoptions,
        at: At,
    }

    impl World {
        fn with_ring(ids: &[&str]) -> Self {
            let mut world = Self::default();
            ids.iter().for_each(|id| world.begins(id));
            world.switch_on();
            ids.iter().for_each(|id| world.adopts(id));
            assert_eq!(world.settled(), world.epoch());
            world
        }

        fn apply(&mut self, command: &Command) {
            self.at.revision.0 += 1;
            self.at.stamp = Stamp::default();
            let (outcome, events) = self.catalog.apply(self.at, command);
            outcome.result.expect("not refused");
            self.adoptions.take(&Change::new(self.at, events), &self.catalog);
        }

        fn switch_on(&mut self) {
            let condition = Condition::Any;
            self.apply(&Command::PutRing(PutRing { app: app(), seed: 0, replicas: 1, condition }));
        }

        fn registers(&mut self, id: &str, takeover: bool) {
            self.apply(&Command::Register(Register {
                key: key(id),
                profile: Profile { weight: 1, ..Profile::default() }.into(),
                session: None,
                ttl_ms: None,
                takeover,
                create_app: Some(0),
                condition: Condition::Any,
            }));
        }

        fn begins(&mut self, id: &str) {
            self.registers(id, false);
        }

        fn leaves(&mut self, id: &str) {
            let (incarnation, condition) = (None, Condition::Any);
            let key = key(id);
            let left = Deregister {
                key,
                incarnation,
                by_operator: false,
                reason: Default::default(),
                condition,
            };
            self.apply(&Command::Deregister(left));
        }

        fn drains(&mut self, id: &str) {
            let (state, reason) = (Overridden::Draining, "".into());
            let word = PutOverride { key: key(id), state, reason, expires_in_ms: None };
            self.apply(&Command::PutOverride(word));
        }

        fn epoch(&self) -> Revision {
            self.catalog.ring(&app()).expect("a ring").epoch()
        }

        fn adopts(&mut self, id: &str) {
            let epoch = self.epoch();
            self.adoptions.adopt(&app(), &key(id).id, epoch);
        }

        fn settled(&self) -> Revision {
            self.adoptions.settled(&app()).expect("a ring")
        }
    }

    fn app() -> AppName {
        AppName::new("fetchers").expect("a name")
    }

    fn key(id: &str) -> InstanceKey {
        InstanceKey::new(app(), InstanceId::new(id).expect("an id"))
    }

    #[test]
    fn an_epoch_is_settled_when_all_who_were_there_have_adopted_it() {
        let mut world = World::with_ring(&["a", "b"]);
        let before = world.epoch();
        world.begins("c");
        assert_eq!(world.settled(), before);
        world.adopts("a");
        assert_eq!(world.settled(), before);
        // The new one has nothing to stop.
        world.adopts("b");
        assert_eq!(world.settled(), world.epoch());
    }

    #[test]
    fn who_is_gone_is_not_waited_for() {
        let mut world = World::with_ring(&["a", "b", "c"]);
        world.leaves("c");
        world.adopts("a");
        assert!(world.settled() < world.epoch());
        world.leaves("b");
        world.adopts("a");
        assert_eq!(world.settled(), world.epoch());
    }

    #[test]
    fn who_drains_is_waited_for_since_it_may_be_at_work_still() {
        let mut world = World::with_ring(&["a", "b"]);
        world.drains("b");
        world.adopts("a");
        assert!(world.settled() < world.epoch(), "b may work on keys that a gained");
        world.adopts("b");
        assert_eq!(world.settled(), world.epoch());
        // Later epochs do not wait for it.
        world.begins("c");
        world.adopts("a");
        assert_eq!(world.settled(), world.epoch());
    }

    #[test]
    fn an_epoch_that_was_skipped_by_one_and_adopted_by_another_is_never_settled() {
        let mut world = World::with_ring(&["a", "b"]);
        let first = world.epoch();
        world.begins("c");
        let skipped = world.epoch();
        world.adopts("b");
        world.leaves("c");
        // a goes from the first epoch to the third, and keeps what it owns in both.
        world.adopts("a");
        assert_eq!(world.settled(), first, "b may begin on what a never stopped: {skipped}");
        world.adopts("b");
        assert_eq!(world.settled(), world.epoch());
    }

    #[test]
    fn epochs_that_are_not_the_newest_are_no_adoption() {
        let mut world = World::with_ring(&["a"]);
        let old = world.epoch();
        world.begins("b");
        world.adoptions.adopt(&app(), &key("a").id, old);
        world.adoptions.adopt(&app(), &key("a").id, Revision(u64::MAX));
        assert_eq!(world.settled(), old);
    }

    #[test]
    fn a_successor_has_nothing_to_stop() {
        let mut world = World::with_ring(&["a", "b"]);
        world.registers("b", true);
        world.adopts("a");
        assert_eq!(world.settled(), world.epoch());
    }

    #[test]
    fn a_new_leader_knows_of_no_adoption() {
        let mut world = World::with_ring(&["a", "b"]);
        world.drains("b");
        world.adoptions = Adoptions::open(&world.catalog);
        assert_eq!(world.settled(), Revision(0));
        world.adopts("a");
        assert_eq!(world.settled(), Revision(0), "b may be at work still");
        world.adopts("b");
        assert_eq!(world.settled(), world.epoch());
    }

    #[test]
    fn a_ring_that_is_made_again_waits_for_who_worked_under_the_one_before() {
        let mut world = World::with_ring(&["a", "b"]);
        let condition = Condition::Any;
        world.apply(&Command::DeleteRing(DeleteRing { app: app(), condition }));
        assert_eq!(world.adoptions.settled(&app()), None);
        world.switch_on();
        world.adopts("a");
        assert_eq!(world.settled(), Revision(0));
        world.adopts("b");
        assert_eq!(world.settled(), world.epoch());
    }
}
