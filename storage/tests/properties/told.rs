//! What a watcher knows from events alone, held against the state.
//!
//! What is told must give the state after every entry. So whoever takes the state at any revision
//! and follows the events from there knows it too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use roster_storage::brake::{Brake, Scope};
use roster_storage::catalog::{At, Catalog, Document};
use roster_storage::events::{Event, Seen};
use roster_storage::latch::{Claim, Latch, Mode};
use roster_storage::names::{
    AppName, DocumentName, Incarnation, InstanceId, InstanceKey, LatchKey, LatchKind, Revision,
    ShardId, ShardSetName,
};
use roster_storage::ring::Ring;
use roster_storage::shards::Shard;

/// What a watcher knows of documents from events alone.
pub type Documents = BTreeMap<(AppName, DocumentName), Arc<Document>>;

pub fn documents_of(catalog: &Catalog) -> Documents {
    let each = |(app, name, document): (&AppName, &DocumentName, &Arc<Document>)| {
        ((app.clone(), name.clone()), document.clone())
    };
    catalog
        .apps_after(None)
        .flat_map(|(app, known)| known.documents_after(None).map(move |(n, d)| (app, n, d)))
        .map(each)
        .collect()
}

pub fn follow_documents(told: &mut Documents, events: &[Event]) {
    for event in events {
        match event {
            Event::DocumentPut { app, name, document } => {
                told.insert((app.clone(), name.clone()), document.clone());
            }
            Event::DocumentDeleted { app, name, .. } => {
                let gone = told.remove(&(app.clone(), name.clone()));
                assert!(gone.is_some(), "{app}/{name} was deleted twice");
            }
            Event::AppDeleted { app, .. } => {
                assert!(told.keys().all(|(of, _)| of != app), "{app} went before its documents");
            }
            Event::AppPut { .. }
            | Event::InstancePut { .. }
            | Event::InstanceDeleted { .. }
            | Event::ShardDeleted { .. }
            | Event::SessionPut { .. }
            | Event::SessionEnded { .. }
            | Event::RingPut { .. }
            | Event::RingDeleted { .. }
            | Event::WorkPut { .. }
            | Event::WorkEnded { .. }
            | Event::ClaimPut { .. }
            | Event::ClaimEnded { .. }
            | Event::AlarmPut { .. }
            | Event::AlarmEnded { .. } => {}
        }
    }
}

/// What a watcher knows of lives from events alone.
#[derive(Default)]
pub struct Lives {
    living: BTreeMap<InstanceKey, Incarnation>,
    last: BTreeMap<InstanceKey, Seen>,
    alarms: BTreeMap<Scope, Brake>,
    begun: BTreeSet<(InstanceKey, Incarnation)>,
}

impl Lives {
    pub fn follow(&mut self, events: &[Event]) {
        let mut shards_gone = Vec::new();
        let mut gone = Vec::new();
        for event in events {
            match event {
                Event::InstancePut { key, now, before, .. } => {
                    assert_eq!(before.as_ref(), self.last.get(key), "{key} as it was told last");
                    let instance = &now.instance;
                    let life = *self.living.entry(key.clone()).or_insert(instance.incarnation);
                    assert_eq!(life, instance.incarnation, "{key} was replaced without an end");
                    self.last.insert(key.clone(), now.clone());
                    if event.puts_shard() {
                        // Once more where its instance has a new address.
                        self.begun.insert((key.clone(), life));
                    }
                }
                Event::InstanceDeleted { key, last, .. } => {
                    let incarnation = &last.instance.incarnation;
                    assert_eq!(self.living.remove(key), Some(*incarnation), "{key} ended twice");
                    assert_eq!(self.last.remove(key).as_ref(), Some(last), "{key} was last told");
                    gone.push((key, incarnation));
                }
                Event::AlarmPut { scope, brake } => {
                    let known = self.alarms.insert(scope.clone(), brake.clone());
                    assert_ne!(known.as_ref(), Some(brake), "{scope:?} was told twice");
                }
                Event::AlarmEnded { scope, brake, .. } => {
                    assert_eq!(self.alarms.remove(scope).as_ref(), Some(brake));
                }
                Event::ShardDeleted { key, incarnation, .. } => {
                    shards_gone.push((key, incarnation));
                }
                Event::AppPut { .. }
                | Event::AppDeleted { .. }
                | Event::SessionPut { .. }
                | Event::SessionEnded { .. }
                | Event::DocumentPut { .. }
                | Event::DocumentDeleted { .. }
                | Event::RingPut { .. }
                | Event::RingDeleted { .. }
                | Event::WorkPut { .. }
                | Event::WorkEnded { .. }
                | Event::ClaimPut { .. }
                | Event::ClaimEnded { .. } => {}
            }
        }
        assert_eq!(gone, shards_gone, "instances and shards go together");
    }

    /// The events tell the state.
    pub fn hold_against(&self, catalog: &Catalog) {
        let mut count = 0;
        for (name, app) in catalog.apps_after(None) {
            for (id, instance) in &app.instances {
                let key = InstanceKey::new(name.clone(), id.clone());
                assert_eq!(self.living.get(&key), Some(&instance.incarnation), "{key}");
                let seen = Seen { instance: instance.clone(), state: catalog.state_of(&key) };
                assert_eq!(self.last.get(&key), Some(&seen), "{key}");
                assert!(self.begun.contains(&(key, instance.incarnation)), "a life without begin");
                count += 1;
            }
        }
        assert_eq!(self.living.len(), count, "a life that nobody ended");
        let on: BTreeMap<_, _> =
            catalog.brakes().map(|(scope, brake)| (scope.clone(), brake.clone())).collect();
        assert_eq!(self.alarms, on);
    }
}

/// What a watcher knows of rings from events alone.
#[derive(Default)]
pub struct Rings {
    rings: BTreeMap<AppName, Arc<Ring>>,
    /// The last epoch of each app's ring, kept when the ring is deleted.
    epochs: BTreeMap<AppName, Revision>,
}

impl Rings {
    /// Takes the events of the entry at `at`.
    pub fn follow(&mut self, at: At, events: &[Event]) {
        for event in events {
            match event {
                Event::RingPut { app, ring } => {
                    assert_eq!(ring.epoch(), at.revision, "{app}");
                    let last = self.epochs.insert(app.clone(), ring.epoch());
                    assert!(last < Some(ring.epoch()), "the ring of {app} was told twice");
                    self.rings.insert(app.clone(), ring.clone());
                }
                Event::RingDeleted { app, .. } => {
                    assert!(self.rings.remove(app).is_some(), "{app} had no ring");
                }
                Event::AppDeleted { app, .. } => {
                    assert!(!self.rings.contains_key(app), "{app} went before its ring");
                }
                Event::AppPut { .. }
                | Event::InstancePut { .. }
                | Event::InstanceDeleted { .. }
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

    /// The events tell the state.
    pub fn hold_against(&self, catalog: &Catalog) {
        let apps = catalog.apps_after(None);
        let rings: BTreeMap<_, _> =
            apps.filter_map(|(name, app)| Some((name.clone(), app.ring.clone()?))).collect();
        assert_eq!(self.rings, rings);
    }
}

/// A shard as its holder knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Task {
    /// The workers' app.
    app: AppName,
    worker: InstanceId,
    grant: Revision,
    release: bool,
}

/// What a watcher knows of shard sets from events alone, and what it saw of their epochs.
#[derive(Default)]
pub struct Work {
    tasks: BTreeMap<(ShardSetName, ShardId), Task>,
    /// The last grant of each shard, kept when it ends.
    grants: BTreeMap<(ShardSetName, ShardId), Revision>,
    /// What each set last was, kept when it is deleted.
    assigned: BTreeMap<ShardSetName, (Revision, Vec<(ShardId, Shard)>)>,
}

impl Work {
    /// Takes the events of the entry at `at`.
    pub fn follow(&mut self, at: At, events: &[Event]) {
        for event in events {
            match event {
                Event::WorkPut { set, app, worker, shard, grant, release } => {
                    let task = Task {
                        app: app.clone(),
                        worker: worker.clone(),
                        grant: *grant,
                        release: *release,
                    };
                    self.put(at, (set.clone(), shard.clone()), task);
                }
                Event::WorkEnded { set, app, worker, shard, grant, .. } => {
                    let known = self.tasks.remove(&(set.clone(), shard.clone()));
                    let known = known.unwrap_or_else(|| panic!("{shard} of {set} ended twice"));
                    let ended = (app, worker, grant);
                    assert_eq!((&known.app, &known.worker, &known.grant), ended, "{shard}");
                }
                Event::AppPut { .. }
                | Event::AppDeleted { .. }
                | Event::InstancePut { .. }
                | Event::InstanceDeleted { .. }
                | Event::ShardDeleted { .. }
                | Event::SessionPut { .. }
                | Event::SessionEnded { .. }
                | Event::DocumentPut { .. }
                | Event::DocumentDeleted { .. }
                | Event::RingPut { .. }
                | Event::RingDeleted { .. }
                | Event::ClaimPut { .. }
                | Event::ClaimEnded { .. }
                | Event::AlarmPut { .. }
                | Event::AlarmEnded { .. } => {}
            }
        }
    }

    /// One holder at a time, and a grant that names it for ever.
    fn put(&mut self, at: At, key: (ShardSetName, ShardId), task: Task) {
        let known = self.tasks.get(&key);
        assert_ne!(known, Some(&task), "{key:?} was told twice");
        if let Some(known) = known {
            assert_eq!((&known.app, &known.worker), (&task.app, &task.worker), "{key:?}");
        }
        if known.is_none_or(|known| known.grant != task.grant) {
            assert_eq!(task.grant, at.revision, "{key:?} is granted by the entry that tells it");
            let last = self.grants.insert(key.clone(), task.grant);
            assert!(last < Some(task.grant), "the grant of {key:?} did not rise");
        }
        self.tasks.insert(key, task);
    }

    /// The events tell the state after the entry at `at`; who holds a shard lives; and an epoch has
    /// one assignment.
    pub fn hold_against(&mut self, at: At, catalog: &Catalog) {
        let mut tasks = BTreeMap::new();
        for (name, set) in catalog.shard_sets() {
            let app = &set.record.config.workers;
            for (shard, value) in set.group.shards() {
                let Some(worker) = &value.holder else { continue };
                let key = InstanceKey::new(app.clone(), worker.clone());
                assert!(catalog.instance(&key).is_some(), "{key} holds {shard} of {name}");
                let release = value.next.is_some() || value.gone;
                let (app, worker, grant) = (app.clone(), worker.clone(), value.grant);
                tasks.insert((name.clone(), shard.clone()), Task { app, worker, grant, release });
            }
            let shards = set.group.shards().map(|(id, shard)| (id.clone(), shard.clone()));
            self.assigned(at, name, (set.record.epoch, shards.collect()));
        }
        assert_eq!(self.tasks, tasks);
    }

    fn assigned(&mut self, at: At, set: &ShardSetName, now: (Revision, Vec<(ShardId, Shard)>)) {
        let epoch = now.0;
        let Some(before) = self.assigned.insert(set.clone(), now.clone()) else { return };
        assert!(before.0 <= epoch, "the epoch of {set} went back to {epoch}");
        assert!(before == now || epoch == at.revision, "{set} changed within its epoch {epoch}");
    }
}

/// What a watcher knows of latches from events alone, and the largest tokens that it saw.
#[derive(Default)]
pub struct Latches {
    claims: BTreeMap<(LatchKey, Revision), Claim>,
    /// Kept when the latch goes: it may come again.
    newest: BTreeMap<LatchKey, Revision>,
}

impl Latches {
    /// Takes the events of the entry at `at`.
    pub fn follow(&mut self, at: At, events: &[Event]) {
        for event in events {
            match event {
                Event::ClaimPut { latch, claim } => self.put(at, latch, claim),
                Event::ClaimEnded { latch, claim, .. } => {
                    let known = self.claims.remove(&(latch.clone(), claim.since));
                    assert_eq!(known, Some(as_told(claim)), "{latch} ends what was not told");
                }
                Event::AppPut { .. }
                | Event::AppDeleted { .. }
                | Event::InstancePut { .. }
                | Event::InstanceDeleted { .. }
                | Event::ShardDeleted { .. }
                | Event::SessionPut { .. }
                | Event::SessionEnded { .. }
                | Event::DocumentPut { .. }
                | Event::DocumentDeleted { .. }
                | Event::RingPut { .. }
                | Event::RingDeleted { .. }
                | Event::WorkPut { .. }
                | Event::WorkEnded { .. }
                | Event::AlarmPut { .. }
                | Event::AlarmEnded { .. } => {}
            }
        }
    }

    /// Whoever wins has a larger token than all who held before, but for those it shares with.
    fn put(&mut self, at: At, latch: &LatchKey, claim: &Claim) {
        let told = as_told(claim);
        let known = self.claims.insert((latch.clone(), claim.since), told.clone());
        assert_ne!(known.as_ref(), Some(&told), "{latch} was told twice");
        let held = known.as_ref().and_then(|known| known.token);
        if let Some(known) = &known {
            assert_eq!((&known.by, known.mode), (&claim.by, claim.mode), "{latch}");
            assert!(held.is_none() || held == claim.token, "{latch} lost a token: {claim:?}");
        } else {
            assert_eq!(claim.since, at.revision, "{latch} began late: {claim:?}");
        }
        let Some(token) = claim.token.filter(|_| held.is_none()) else { return };
        assert_eq!(token, at.revision, "{latch} was won by the entry that tells it");
        let newest = self.newest.insert(latch.clone(), token);
        let grew = newest < Some(token);
        assert!(grew || newest == Some(token) && claim.mode == Mode::Shared, "{latch}: {claim:?}");
    }

    /// The events tell the state; who holds comes before who waits; one holds alone, or all share;
    /// and nobody waits who could hold.
    pub fn hold_against(&self, catalog: &Catalog) {
        let mut claims = BTreeMap::new();
        for (key, latch) in latches_of(catalog) {
            let each: Vec<_> = latch.claims().collect();
            claims.extend(each.iter().map(|c| ((key.clone(), c.since), as_told(c))));
            let holding = each.iter().take_while(|claim| claim.token.is_some()).count();
            let (holders, waiters) = each.split_at(holding);
            assert!(waiters.iter().all(|claim| claim.token.is_none()), "{key} was passed on");
            let shared = holders.iter().all(|claim| claim.mode == Mode::Shared);
            assert!(holding == 1 || holding > 1 && shared, "{holding} hold {key}");
            if let Some(first) = waiters.first() {
                assert!(!(shared && first.mode == Mode::Shared), "{key}: {first:?} could hold");
            }
        }
        assert_eq!(self.claims, claims);
    }
}

/// Asking again changes nothing that is told.
fn as_told(claim: &Claim) -> Claim {
    Claim { asked: Revision(0), ..claim.clone() }
}

/// All latches, each with its key.
pub fn latches_of(catalog: &Catalog) -> impl Iterator<Item = (LatchKey, &Arc<Latch>)> {
    [LatchKind::Lock, LatchKind::Election].into_iter().flat_map(move |kind| {
        let latches = catalog.latches_after(kind, None);
        latches.map(move |(name, latch)| (LatchKey::new(kind, name.clone()), latch))
    })
}
