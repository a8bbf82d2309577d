//! Rings: switched on per app, changed in the entry that changes the members (invariant S11).

use std::sync::Arc;

use super::apps::check;
use super::{Applied, At, Catalog};
use crate::command::{CompactRing, DeleteRing, PutRing, Refusal, Reply};
use crate::events::{Event, Reason};
use crate::limits::{RING_SLOTS_MAX, WEIGHT_MAX};
use crate::names::{AppName, InstanceKey};
use crate::ring::{Joined, Ring};

impl Catalog {
    /// A new ring takes the live instances in ascending order of their ids.
    pub(super) fn put_ring(&mut self, at: At, c: &PutRing) -> Applied {
        let app = self.known_app(&c.app)?;
        let current = app.ring.as_ref().map(|ring| ring.epoch());
        check(c.condition, current, || Refusal::RingExists(c.app.clone()))?;
        if let Some(ring) = &app.ring {
            if ring.seed() != c.seed {
                return Err(Refusal::RingSeedFixed { seed: ring.seed() });
            }
            let changed = self.change_ring(&c.app, |ring| ring.set_replicas(c.replicas));
            let epoch = if changed { at.revision } else { current.unwrap_or_default() };
            return Ok(Reply::RingPut { created: false, epoch });
        }
        let mut ring = Ring::new(c.seed, c.replicas);
        ring.set_epoch(at.revision);
        self.set_ring(&c.app, Some(Arc::new(ring)));
        self.change_ring(&c.app, |_| true);
        self.fill_ring(&c.app);
        Ok(Reply::RingPut { created: true, epoch: at.revision })
    }

    pub(super) fn delete_ring(&mut self, c: &DeleteRing, events: &mut Vec<Event>) -> Applied {
        let epoch = self.known_ring(&c.app)?.epoch();
        check(c.condition, Some(epoch), || Refusal::RingExists(c.app.clone()))?;
        self.drop_ring(&c.app, &Reason::Operator, events);
        Ok(Reply::RingDeleted)
    }

    pub(super) fn compact_ring(&mut self, at: At, c: &CompactRing) -> Applied {
        let epoch = self.known_ring(&c.app)?.epoch();
        check(c.condition, Some(epoch), || Refusal::RingExists(c.app.clone()))?;
        let changed = self.change_ring(&c.app, Ring::compact);
        Ok(Reply::RingCompacted { epoch: if changed { at.revision } else { epoch } })
    }

    /// Takes the ring of an app away, if it has one.
    pub(super) fn drop_ring(&mut self, app: &AppName, reason: &Reason, events: &mut Vec<Event>) {
        if self.ring(app).is_some() {
            self.set_ring(app, None);
            events.push(Event::RingDeleted { app: app.clone(), reason: reason.clone() });
        }
    }

    /// Takes into the ring, or out of it, what became of an instance. Who finds it full waits for
    /// room: [`Self::settle_rings`].
    pub(super) fn member_on_ring(&mut self, key: &InstanceKey) {
        let Some(app) = self.apps.get(&key.app) else { return };
        let Some(ring) = &app.ring else { return };
        let live = app.instances.get(&key.id).filter(|_| self.state_of(key).takes_part());
        let (old, wanted) = (ring.weight_of(&key.id), live.map(|live| live.profile.weight()));
        if old == wanted {
            return;
        }
        // Who waits needs no more than the largest weight, so nobody does while there is so much room.
        if wanted < old && held(ring) + usize::from(WEIGHT_MAX) > RING_SLOTS_MAX {
            self.touched.roomier.insert(key.app.clone());
        }
        self.change_ring(&key.app, |ring| match wanted {
            Some(weight) => ring.join(&key.id, weight) == Joined::Changed,
            None => ring.leave(&key.id),
        });
    }

    /// Takes in, in the order of ids, those who are up and not on the ring, as far as there is room.
    fn fill_ring(&mut self, name: &AppName) {
        let Some(app) = self.apps.get(name).cloned() else { return };
        for (id, instance) in &app.instances {
            let key = InstanceKey::new(name.clone(), id.clone());
            if self.state_of(&key).takes_part() {
                let weight = instance.profile.weight();
                self.change_ring(name, |ring| ring.join(id, weight) == Joined::Changed);
            }
        }
    }

    /// At the end of an entry: what it changed of rings gets its epoch and is told.
    pub(super) fn settle_rings(&mut self, at: At, events: &mut Vec<Event>) {
        for name in std::mem::take(&mut self.touched.roomier) {
            self.fill_ring(&name);
        }
        for (name, before) in std::mem::take(&mut self.touched.rings) {
            let ring = self.apps.get_mut(&name).and_then(|app| Arc::make_mut(app).ring.as_mut());
            let Some(ring) = ring else { continue };
            Arc::make_mut(ring).set_epoch(at.revision);
            let ring = ring.clone();
            self.count_ring(&name, before, &ring);
            events.push(Event::RingPut { app: name, ring });
        }
    }

    pub fn ring(&self, app: &AppName) -> Option<&Arc<Ring>> {
        self.apps.get(app)?.ring.as_ref()
    }

    fn known_ring(&self, app: &AppName) -> Result<&Arc<Ring>, Refusal> {
        self.known_app(app)?.ring.as_ref().ok_or_else(|| Refusal::NoRing(app.clone()))
    }
}

/// How many slots are held: the total weight of those on the ring.
pub(super) fn held(ring: &Ring) -> usize {
    ring.slots() - ring.vacant()
}
