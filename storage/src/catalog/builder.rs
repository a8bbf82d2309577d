//! From the records of a checkpoint back to a catalogue, fast: records come in the order of their
//! keys, so the large maps are made of them in one piece, and each record is counted in the state hash
//! where it was decoded.

use std::sync::Arc;

use super::{App, Catalog, Clock, Inconsistent, Instance, Record, Session, StateHash};
use crate::compact_map::CompactMap;
use crate::latch::Latch;
use crate::names::{AppName, InstanceId, InstanceKey, SessionId};

/// Records, with what they count in the state hash. Made by whoever decoded them, on any thread.
#[derive(Debug, Default)]
pub struct Counted {
    records: Vec<Record>,
    hash: StateHash,
}

impl Counted {
    pub fn new(records: Vec<Record>) -> Self {
        let mut hash = StateHash::default();
        records.iter().for_each(|record| hash.add_record(record));
        Self { records, hash }
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Makes a catalogue from the records of a checkpoint.
#[derive(Debug, Default)]
pub struct CatalogBuilder {
    /// All that is neither a session nor an instance is put in its place at once.
    catalog: Catalog,
    /// Over the records that came.
    hash: StateHash,
    /// Those that came, in order.
    sessions: Vec<(SessionId, Session)>,
    /// Something else came.
    has_all_sessions: bool,
    /// The app that came last.
    app: Option<Arc<AppName>>,
    /// Its instances, until something else comes.
    instances: Vec<(InstanceId, Arc<Instance>)>,
    /// What hangs off each session, in the order in which it came.
    held: Vec<(SessionId, Arc<AppName>, InstanceId)>,
}

impl CatalogBuilder {
    /// Takes the next record. What it hangs off must have come before, and it only once. Whether an
    /// instance has its session is for [`Catalog::verify`] to say.
    pub fn add(&mut self, record: Record) -> Result<(), Inconsistent> {
        self.add_all(Counted::new(vec![record]))
    }

    /// Takes the next records, as [`Self::add`] does.
    pub fn add_all(&mut self, counted: Counted) -> Result<(), Inconsistent> {
        counted.records.into_iter().try_for_each(|record| self.place(record))?;
        self.hash.add_hash(counted.hash);
        Ok(())
    }

    fn place(&mut self, record: Record) -> Result<(), Inconsistent> {
        match record {
            Record::Session { id, value } => self.place_session(id, value),
            Record::Instance { key, value } => self.place_instance(key, value),
            other => {
                self.settle();
                self.fits(&other)?;
                self.place_other(other);
                Ok(())
            }
        }
    }

    /// Sessions come one after the other.
    fn place_session(&mut self, id: SessionId, value: Session) -> Result<(), Inconsistent> {
        let follows = self.sessions.last().is_none_or(|(last, _)| *last < id);
        if !follows || self.has_all_sessions {
            return Err(out_of_order(&Record::Session { id, value }));
        }
        self.sessions.push((id, value.without_what_is_derived()));
        Ok(())
    }

    /// Instances come one after the other behind their app and its ring.
    fn place_instance(
        &mut self,
        key: InstanceKey,
        value: Arc<Instance>,
    ) -> Result<(), Inconsistent> {
        let app = self.catalog.apps.get(&key.app);
        let app = app.filter(|_| self.app.as_deref() == Some(&key.app));
        let Some(app) = app else { return Err(missing(&Record::Instance { key, value })) };
        let follows = self.instances.last().is_none_or(|(last, _)| *last < key.id);
        if !follows || !app.instances.is_empty() {
            return Err(out_of_order(&Record::Instance { key, value }));
        }
        self.held.push((value.session, app.name.clone(), key.id.clone()));
        self.instances.push((key.id, value));
        Ok(())
    }

    /// Puts what was collected in its place.
    fn settle(&mut self) {
        let catalog = &mut self.catalog;
        if !self.has_all_sessions && !self.sessions.is_empty() {
            self.has_all_sessions = true;
            let suspects = self.sessions.iter().filter(|(_, session)| session.suspect);
            catalog.suspects = suspects.map(|(id, _)| *id).collect();
        }
        let mut instances = std::mem::take(&mut self.instances);
        let app = self.app.as_ref().and_then(|name| catalog.apps.get_mut(&**name));
        if let Some(app) = app.filter(|_| !instances.is_empty()) {
            let app = Arc::make_mut(app);
            instances.iter_mut().for_each(|(_, instance)| share(app, instance));
            let suspect =
                |(_, live): &&(_, Arc<Instance>)| catalog.suspects.contains(&live.session);
            app.suspects = instances.iter().filter(suspect).count() as u64;
            catalog.instances += instances.len() as u64;
            app.instances = CompactMap::from_sorted(instances);
        }
    }

    fn place_other(&mut self, record: Record) {
        let catalog = &mut self.catalog;
        match record {
            Record::Clock(clock) => {
                catalog.clock = clock;
                catalog.insert_pace(clock.pace);
            }
            Record::App { app, value } => {
                catalog.insert_app(app.clone(), value);
                self.app = catalog.apps.get(&app).map(|app| app.name.clone());
            }
            Record::Document { app, name, value } => {
                catalog.insert_document(&app, name, value);
            }
            Record::Override { key, value } => catalog.insert_override(key, value),
            Record::Ring { app, value } => catalog.set_ring(&app, Some(value)),
            Record::ShardSet { set, value } => {
                let group = catalog.group_of(&value);
                catalog.insert_shard_set(set, value, group);
            }
            Record::Shard { set, shard, value } => catalog.restore_shard(&set, shard, value),
            Record::Latch { latch, revision } => {
                catalog.insert_latch(latch.clone(), Latch::default());
                catalog.set_latch_revision(&latch, revision);
            }
            Record::Claim { latch, value } => catalog.insert_claim(&latch, value),
            Record::Brake { scope, value } => catalog.insert_brake(scope, value),
            Record::BrakeOverride { scope, value } => catalog.insert_brake_override(scope, value),
            Record::Kept { key, part, value } => catalog.insert_kept(key, part, value),
            Record::HashMark { index, hash } => catalog.hash_marks.push_back((index, hash)),
            // These have ways of their own.
            Record::Session { .. } | Record::Instance { .. } => {}
        }
    }

    fn fits(&self, record: &Record) -> Result<(), Inconsistent> {
        let catalog = &self.catalog;
        let (twice, whole) = match record {
            Record::Clock(_) => (catalog.clock != Clock::default(), true),
            // These are held against the one before them.
            Record::Session { .. } | Record::Instance { .. } => (false, true),
            Record::App { app, .. } => (catalog.apps.contains_key(app), true),
            Record::Document { app, name, .. } => {
                (catalog.document(app, name).is_some(), catalog.apps.contains_key(app))
            }
            Record::Override { key, .. } => {
                (catalog.overrides.contains_key(key), catalog.apps.contains_key(&key.app))
            }
            Record::Ring { app, .. } => {
                let known = catalog.apps.get(app);
                (known.is_some_and(|app| app.ring.is_some()), known.is_some())
            }
            Record::ShardSet { set, value } => (
                catalog.shard_sets.contains_key(set),
                catalog.apps.contains_key(&value.config.workers),
            ),
            Record::Shard { set, shard, .. } => {
                let known = catalog.shard_sets.get(set);
                (known.is_some_and(|set| set.group.shard(shard).is_some()), known.is_some())
            }
            Record::Latch { latch, .. } => (catalog.latches.contains_key(latch), true),
            Record::Claim { latch, value } => {
                let known = catalog.latches.get(latch);
                let claimed = catalog.claims.contains_key(&(value.by.clone(), latch.clone()));
                (
                    claimed || known.is_some_and(|known| known.claim(value.since).is_some()),
                    known.is_some() && self.has_session(value.by.session),
                )
            }
            Record::Kept { key, part, .. } => {
                (catalog.kept.contains_key(&(key.clone(), *part)), true)
            }
            Record::Brake { scope, .. } => {
                (catalog.brakes.contains_key(scope), catalog.has_scope(scope))
            }
            Record::BrakeOverride { scope, .. } => {
                (catalog.brake_overrides.contains_key(scope), catalog.has_scope(scope))
            }
            Record::HashMark { index, .. } => {
                (catalog.hash_marks.last().is_some_and(|(last, _)| index <= last), true)
            }
        };
        match (twice, whole) {
            (true, _) => Err(out_of_order(record)),
            (_, false) => Err(missing(record)),
            (false, true) => Ok(()),
        }
    }

    /// The catalogue as it stands. [`Catalog::verify`] says whether all records came.
    pub fn finish(mut self) -> Catalog {
        self.settle();
        self.held.sort_unstable();
        let mut sessions = self.sessions.iter_mut().peekable();
        let mut held = Vec::new();
        for (id, app, instance) in self.held {
            while sessions.next_if(|(known, _)| *known < id).is_some() {}
            let session = sessions.peek_mut().filter(|(known, _)| *known == id);
            let known = session.is_some_and(|(_, its)| its.set_instance(&app, &instance));
            if !known {
                held.push(((id, InstanceKey::new(AppName::clone(&app), instance)), ()));
            }
        }
        Catalog {
            sessions: CompactMap::from_sorted(self.sessions),
            held: CompactMap::from_sorted(held),
            hash: self.hash,
            ..self.catalog
        }
    }

    fn has_session(&self, session: SessionId) -> bool {
        self.sessions.binary_search_by_key(&session, |(id, _)| *id).is_ok()
    }
}

/// Lets an instance have in common with the app's others what it can.
fn share(app: &mut App, instance: &mut Arc<Instance>) {
    // It was just decoded, and is nobody else's.
    app.shapes.share(&mut Arc::make_mut(instance).profile);
}

fn out_of_order(record: &Record) -> Inconsistent {
    Inconsistent(format!("this came before, or is out of order: {record:?}"))
}

fn missing(record: &Record) -> Inconsistent {
    Inconsistent(format!("what this hangs off is missing: {record:?}"))
}
