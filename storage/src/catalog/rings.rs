//! Rings: switched on per app, changed in the entry that changes the members (invariant S11).

use std::sync::Arc;

use super::apps::check;
use super::{Applied, At, Catalog, State};
use crate::command::{CompactRing, DeleteRing, PutRing, Refusal, Reply};
use crate::events::{Event, Reason};
use crate::names::{AppName, InstanceKey, Revision};
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
        let members: Vec<_> =
            app.instances.iter().map(|(id, i)| (id.clone(), i.profile.weight)).collect();
        self.set_ring(&c.app, Some(Arc::new(ring)));
        self.change_ring(&c.app, |_| true);
        for (id, weight) in members {
            let key = InstanceKey::new(c.app.clone(), id);
            if self.state_of(&key) == State::Up {
                self.change_ring(&c.app, |ring| ring.join(&key.id, weight) == Joined::Changed);
            }
        }
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

    /// Takes into the ring, or out of it, what became of an instance.
    pub(super) fn member_on_ring(&mut self, key: &InstanceKey) {
        let Some(app) = self.apps.get(&key.app) else { return };
        let Some(ring) = &app.ring else { return };
        let live = app.instances.get(&key.id).filter(|_| self.state_of(key) == State::Up);
        let wanted = live.map(|instance| instance.profile.weight);
        if ring.weight_of(&key.id) == wanted {
            return;
        }
        self.change_ring(&key.app, |ring| match wanted {
            Some(weight) => ring.join(&key.id, weight) == Joined::Changed,
            None => ring.leave(&key.id),
        });
    }

    /// At the end of an entry: what it changed of rings gets its epoch and is told.
    pub(super) fn settle_rings(&mut self, at: At, events: &mut Vec<Event>) {
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

    /// The epoch of a ring that is there, and the revision to wait for where it is not.
    pub fn ring_changed(&self, app: &AppName) -> Option<Revision> {
        self.ring(app).map(|ring| ring.epoch())
    }
}
