//! Every write to the maps goes through here, so that the state hash, the indexes and the counts
//! always belong to the records. Also the way into and out of checkpoints.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::records::kind;
use super::{
    App, AppRecord, Catalog, Clock, Document, Due, Instance, Kept, Override, Record, Session,
    ShardSet, ShardSetRecord, StateHash,
};
use crate::brake::{Brake, BrakeOverride, Pace, Scope};
use crate::command::ShardSetConfig;
use crate::compact_map::CompactMap;
use crate::latch::{Claim, Latch};
use crate::names::{
    AppName, DocumentName, IdempotencyKey, InstanceKey, LatchKey, Revision, SessionId, ShardId,
    ShardSetName,
};
use crate::profile::Shapes;
use crate::ring::Ring;
use crate::shards::scaling;
use crate::shards::{Group, Shard};

/// Records that do not make a state: an instance of an app that is not there, a session twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the records contradict each other: {0}")]
pub struct Inconsistent(pub(super) String);

impl Catalog {
    pub(super) fn insert_app(&mut self, name: AppName, record: AppRecord) {
        self.hash.add(kind::APP, &name, &record);
        let (instances, documents) = (CompactMap::default(), OrdMap::new());
        let app = App {
            name: Arc::new(name.clone()),
            record,
            instances,
            documents,
            document_bytes: 0,
            ring: None,
            works_for: 0,
            suspects: 0,
            shapes: Shapes::default(),
        };
        if let Some(when) = empty_app_due(&app) {
            self.due.insert((when, Due::EmptyApp(name.clone())));
        }
        self.apps.insert(name, Arc::new(app));
    }

    /// Removes an app that has no instance, no document and no ring.
    pub(super) fn remove_app(&mut self, name: &AppName) {
        let Some(app) = self.apps.remove(name) else { return };
        debug_assert!(app.instances.is_empty(), "instances leave before their app");
        debug_assert!(app.documents.is_empty(), "documents go before their app");
        debug_assert!(app.ring.is_none(), "the ring goes before its app");
        self.hash.subtract(kind::APP, name, &app.record);
        if let Some(when) = empty_app_due(&app) {
            self.due.remove(&(when, Due::EmptyApp(name.clone())));
        }
    }

    pub(super) fn change_app(&mut self, name: &AppName, change: impl FnOnce(&mut AppRecord)) {
        self.within_app(name, |app, hash, _| change_record(app, hash, change));
    }

    /// Changes what decides when an app goes by itself. `None` if the app is not there.
    fn within_app<T>(
        &mut self,
        name: &AppName,
        change: impl FnOnce(&mut App, &mut StateHash, &OrdSet<SessionId>) -> T,
    ) -> Option<T> {
        let app = Arc::make_mut(self.apps.get_mut(name)?);
        let due_before = empty_app_due(app);
        let changed = change(app, &mut self.hash, &self.suspects);
        let due_after = empty_app_due(app);
        if due_before != due_after {
            let entry = |when| (when, Due::EmptyApp(name.clone()));
            due_before.map(|when| self.due.remove(&entry(when)));
            due_after.map(|when| self.due.insert(entry(when)));
        }
        Some(changed)
    }

    /// Puts an instance into its app, and changes what is kept of that with it; `None` if the app is not
    /// there. A private session knows its instance already, another one is told by [`Self::hold`].
    pub(super) fn insert_instance(
        &mut self,
        key: &InstanceKey,
        mut instance: Instance,
        change: impl FnOnce(&mut AppRecord),
    ) -> Option<Inserted> {
        let session = instance.session;
        let (old, inserted) = self.within_app(&key.app, |app, hash, suspects| {
            app.shapes.share(&mut instance.profile);
            let instance = Arc::new(instance);
            hash.add(kind::INSTANCE, key, &*instance);
            app.suspects += u64::from(suspects.contains(&session));
            let old = app.instances.insert(key.id.clone(), instance.clone());
            if let Some(old) = &old {
                app.suspects -= u64::from(suspects.contains(&old.session));
                hash.subtract(kind::INSTANCE, key, &**old);
            }
            change_record(app, hash, change);
            (old, Inserted { instance, has_ring: app.ring.is_some() })
        })?;
        debug_assert!(
            old.as_ref().is_none_or(|old| old.session == session),
            "a life keeps its session"
        );
        self.instances += u64::from(old.is_none());
        Some(inserted)
    }

    /// Notes that an instance hangs off a session that it does not have for itself. After the session's
    /// sign of life, which counts what it holds by then out of the suspects.
    pub(super) fn hold(&mut self, session: SessionId, key: &InstanceKey) {
        self.held.insert((session, key.clone()), ());
    }

    pub(super) fn remove_instance(&mut self, key: &InstanceKey) -> Option<Arc<Instance>> {
        let app = Arc::make_mut(self.apps.get_mut(&key.app)?);
        let old = app.instances.remove(&key.id)?;
        app.suspects -= u64::from(self.suspects.contains(&old.session));
        self.hash.subtract(kind::INSTANCE, key, &*old);
        self.held.remove(&(old.session, key.clone()));
        self.instances -= 1;
        Some(old)
    }

    /// Puts a document into its app, which must be there. `None` if the app is not.
    pub(super) fn insert_document(
        &mut self,
        app: &AppName,
        name: DocumentName,
        document: Arc<Document>,
    ) -> Option<()> {
        self.within_app(app, |known, hash, _| {
            forget_document(known, hash, app, &name);
            hash.add(kind::DOCUMENT, &(app, &name), &*document);
            known.document_bytes += document.counted();
            known.documents.insert(name, document);
        })
    }

    pub(super) fn remove_document(&mut self, app: &AppName, name: &DocumentName) {
        self.within_app(app, |known, hash, _| forget_document(known, hash, app, name));
    }

    /// Puts a ring in its app's place; `None` takes it away. The app must be there.
    pub(super) fn set_ring(&mut self, app: &AppName, ring: Option<Arc<Ring>>) {
        let counted = self.touched.rings.remove(app);
        self.within_app(app, |known, hash, _| {
            if let Some(old) = &known.ring {
                hash.subtract(kind::RING, app, &counted.unwrap_or_else(|| hashed(old)));
            }
            if let Some(new) = &ring {
                hash.add(kind::RING, app, &hashed(new));
            }
            known.ring = ring;
        });
    }

    /// Changes an app's ring, if it has one; the change is counted and told at the end of the entry.
    /// Returns whether anything changed.
    pub(super) fn change_ring(
        &mut self,
        name: &AppName,
        change: impl FnOnce(&mut Ring) -> bool,
    ) -> bool {
        let Some(app) = self.apps.get_mut(name) else { return false };
        let Some(ring) = &mut Arc::make_mut(app).ring else { return false };
        let before = hashed(ring);
        let changed = change(Arc::make_mut(ring));
        if changed {
            self.touched.rings.entry(name.clone()).or_insert(before);
        }
        changed
    }

    /// Counts a ring that was changed since it was counted as `before`.
    pub(super) fn count_ring(&mut self, app: &AppName, before: Hashed, ring: &Ring) {
        self.hash.subtract(kind::RING, app, &before);
        self.hash.add(kind::RING, app, &hashed(ring));
    }

    /// Puts the set in its place, with the shards that `group` has.
    pub(super) fn insert_shard_set(
        &mut self,
        set: ShardSetName,
        record: ShardSetRecord,
        group: Group,
    ) {
        record.count(&set, |kind, set, part| self.hash.add(kind, set, &part));
        for (shard, value) in group.shards() {
            self.hash.add(kind::SHARD, &(&set, shard), value);
        }
        self.count_work(&record.config.workers, 1);
        if let Some(when) = scaling_due(&record) {
            self.due.insert((when, Due::Scaling(set.clone())));
        }
        self.shard_sets.insert(set, Arc::new(ShardSet { record, group }));
    }

    /// Takes the set away with all its shards.
    pub(super) fn remove_shard_set(&mut self, set: &ShardSetName) -> Option<Arc<ShardSet>> {
        let old = self.shard_sets.remove(set)?;
        old.record.count(set, |kind, set, part| self.hash.subtract(kind, set, &part));
        for (shard, value) in old.group.shards() {
            self.hash.subtract(kind::SHARD, &(set, shard), value);
        }
        self.count_work(&old.record.config.workers, -1);
        if let Some(when) = scaling_due(&old.record) {
            self.due.remove(&(when, Due::Scaling(set.clone())));
        }
        Some(old)
    }

    /// Replaces what is configured of a set.
    pub(super) fn configure_shard_set(
        &mut self,
        set: &ShardSetName,
        config: Arc<ShardSetConfig>,
        revision: Revision,
    ) {
        let Some(known) = self.shard_sets.get(set) else { return };
        let old = known.record.config.clone();
        self.change_shard_set(set, |record| {
            record.config = config.clone();
            record.revision = revision;
        });
        if old.workers != config.workers {
            self.count_work(&old.workers, -1);
            self.count_work(&config.workers, 1);
        }
    }

    pub(super) fn change_shard_set(
        &mut self,
        set: &ShardSetName,
        change: impl FnOnce(&mut ShardSetRecord),
    ) {
        let Some(known) = self.shard_sets.get_mut(set) else { return };
        let record = &mut Arc::make_mut(known).record;
        let old = record.clone();
        change(record);
        let new = record.clone();
        if old == new {
            return;
        }
        let same_set = (&old.config, old.revision) == (&new.config, new.revision);
        let changed = |kind| !(same_set && kind == kind::SHARD_SET);
        old.count(set, |kind, set, part| {
            if changed(kind) {
                self.hash.subtract(kind, set, &part);
            }
        });
        new.count(set, |kind, set, part| {
            if changed(kind) {
                self.hash.add(kind, set, &part);
            }
        });
        let (due_before, due_after) = (scaling_due(&old), scaling_due(&new));
        if due_before != due_after {
            let entry = |when| (when, Due::Scaling(set.clone()));
            due_before.map(|when| self.due.remove(&entry(when)));
            due_after.map(|when| self.due.insert(entry(when)));
        }
    }

    /// Counts a changed record of a shard in the hash; the group has made the change already.
    pub(super) fn shard_changed(
        &mut self,
        set: &ShardSetName,
        shard: &ShardId,
        before: Option<&Shard>,
        now: Option<&Shard>,
    ) {
        let key = (set, shard);
        before.inspect(|value| self.hash.subtract(kind::SHARD, &key, *value));
        now.inspect(|value| self.hash.add(kind::SHARD, &key, *value));
    }

    fn count_work(&mut self, workers: &AppName, by: i32) {
        self.within_app(workers, |app, _, _| {
            app.works_for = app.works_for.saturating_add_signed(by);
        });
    }

    pub(super) fn insert_session(&mut self, id: SessionId, session: Session) {
        self.hash.add(kind::SESSION, &id, &session);
        let suspect = session.suspect;
        let old = self.sessions.insert(id, session);
        if let Some(old) = &old {
            self.hash.subtract(kind::SESSION, &id, old);
        }
        if suspect != old.is_some_and(|old| old.suspect) {
            self.count_suspect(id, suspect);
        }
    }

    fn count_suspect(&mut self, id: SessionId, suspect: bool) {
        match suspect {
            true => self.suspects.insert(id),
            false => self.suspects.remove(&id),
        };
        let apps: Vec<_> = self.held_by(id).map(|key| key.app).collect();
        for app in apps {
            if let Some(app) = self.apps.get_mut(&app) {
                let by = if suspect { 1 } else { -1 };
                let app = Arc::make_mut(app);
                app.suspects = app.suspects.saturating_add_signed(by);
            }
        }
    }

    pub(super) fn remove_session(&mut self, id: SessionId) -> Option<Session> {
        let old = self.sessions.remove(&id)?;
        self.hash.subtract(kind::SESSION, &id, &old);
        if old.suspect {
            self.count_suspect(id, false);
        }
        Some(old)
    }

    pub(super) fn insert_override(&mut self, key: InstanceKey, word: Override) {
        self.remove_override(&key);
        self.hash.add(kind::OVERRIDE, &key, &word);
        if let Some(when) = word.expires_at_ms {
            self.due.insert((when, Due::Override(key.clone())));
        }
        self.overrides.insert(key, word);
    }

    pub(super) fn remove_override(&mut self, key: &InstanceKey) -> Option<Override> {
        let old = self.overrides.remove(key)?;
        self.hash.subtract(kind::OVERRIDE, key, &old);
        if let Some(when) = old.expires_at_ms {
            self.due.remove(&(when, Due::Override(key.clone())));
        }
        Some(old)
    }

    /// Puts a claim in its place. A latch begins with its first claim.
    pub(super) fn insert_claim(&mut self, key: &LatchKey, claim: Arc<Claim>) {
        if !self.latches.contains_key(key) {
            self.insert_latch(key.clone(), Latch::default());
        }
        let Some(latch) = self.latches.get_mut(key) else { return };
        if let Some(old) = latch.claim(claim.since) {
            self.hash.subtract(kind::CLAIM, key, old);
        }
        self.hash.add(kind::CLAIM, key, &claim);
        self.claims.insert((claim.by.clone(), key.clone()), claim.since);
        Arc::make_mut(latch).insert(claim);
    }

    pub(super) fn remove_claim(&mut self, key: &LatchKey, claim: &Claim) {
        let Some(latch) = self.latches.get_mut(key) else { return };
        let Some(old) = Arc::make_mut(latch).remove(claim.since) else { return };
        self.hash.subtract(kind::CLAIM, key, &old);
        self.claims.remove(&(old.by.clone(), key.clone()));
    }

    pub(super) fn insert_latch(&mut self, key: LatchKey, latch: Latch) {
        self.hash.add(kind::LATCH, &key, &latch.revision);
        self.latches.insert(key, Arc::new(latch));
    }

    pub(super) fn set_latch_revision(&mut self, key: &LatchKey, revision: Revision) {
        let Some(latch) = self.latches.get_mut(key) else { return };
        self.hash.subtract(kind::LATCH, key, &latch.revision);
        self.hash.add(kind::LATCH, key, &revision);
        Arc::make_mut(latch).revision = revision;
    }

    /// Removes a latch that has no claim.
    pub(super) fn remove_latch(&mut self, key: &LatchKey) {
        let Some(latch) = self.latches.remove(key) else { return };
        debug_assert!(latch.is_empty(), "claims end before their latch");
        self.hash.subtract(kind::LATCH, key, &latch.revision);
    }

    pub(super) fn insert_brake(&mut self, scope: Scope, brake: Brake) {
        self.hash.add(kind::BRAKE, &scope, &brake);
        if let Some(old) = self.brakes.insert(scope.clone(), brake) {
            self.hash.subtract(kind::BRAKE, &scope, &old);
        }
    }

    pub(super) fn remove_brake(&mut self, scope: &Scope) -> Option<Brake> {
        let old = self.brakes.remove(scope)?;
        self.hash.subtract(kind::BRAKE, scope, &old);
        Some(old)
    }

    pub(super) fn insert_brake_override(&mut self, scope: Scope, word: BrakeOverride) {
        self.remove_brake_override(&scope);
        self.hash.add(kind::BRAKE_OVERRIDE, &scope, &word);
        if let Some(when) = word.expires_at_ms {
            self.due.insert((when, Due::BrakeOverride(scope.clone())));
        }
        self.brake_overrides.insert(scope, word);
    }

    pub(super) fn remove_brake_override(&mut self, scope: &Scope) {
        let Some(old) = self.brake_overrides.remove(scope) else { return };
        self.hash.subtract(kind::BRAKE_OVERRIDE, scope, &old);
        if let Some(when) = old.expires_at_ms {
            self.due.remove(&(when, Due::BrakeOverride(scope.clone())));
        }
    }

    /// Lengthens TTLs by so much.
    pub(super) fn insert_pace(&mut self, pace: Pace) {
        if let Some(when) = pace_due(&self.clock) {
            self.due.remove(&(when, Due::Pace));
        }
        self.clock.pace = pace;
        if let Some(when) = pace_due(&self.clock) {
            self.due.insert((when, Due::Pace));
        }
    }

    pub(super) fn insert_kept(&mut self, key: IdempotencyKey, part: u32, kept: Kept) {
        self.remove_kept(&key, part);
        self.hash.add(kind::KEPT, &(&key, part), &kept);
        self.due.insert((kept.until_ms, Due::Kept(key.clone(), part)));
        self.kept_bytes += kept.bytes;
        self.kept.insert((key, part), Arc::new(kept));
    }

    pub(super) fn remove_kept(&mut self, key: &IdempotencyKey, part: u32) {
        let Some(old) = self.kept.remove(&(key.clone(), part)) else { return };
        self.hash.subtract(kind::KEPT, &(key, part), &*old);
        self.due.remove(&(old.until_ms, Due::Kept(key.clone(), part)));
        self.kept_bytes -= old.bytes;
    }

    /// All records of this version, in an order in which [`CatalogBuilder`] takes them.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let clock = std::iter::once(Record::Clock(self.clock));
        let sessions =
            self.sessions.iter().map(|(id, s)| Record::Session { id: *id, value: s.clone() });
        let apps = self.apps.iter().flat_map(|(name, app)| {
            let record = Record::App { app: name.clone(), value: app.record.clone() };
            let instances = app.instances.iter().map(|(id, instance)| Record::Instance {
                key: InstanceKey::new(name.clone(), id.clone()),
                value: instance.clone(),
            });
            let documents = app.documents.iter().map(|(document, value)| Record::Document {
                app: name.clone(),
                name: document.clone(),
                value: value.clone(),
            });
            let ring =
                app.ring.iter().map(|ring| Record::Ring { app: name.clone(), value: ring.clone() });
            std::iter::once(record).chain(ring).chain(instances).chain(documents)
        });
        let overrides = self
            .overrides
            .iter()
            .map(|(key, word)| Record::Override { key: key.clone(), value: word.clone() });
        let sets = self.shard_sets.iter().flat_map(|(name, set)| {
            let record = Record::ShardSet { set: name.clone(), value: set.record.clone() };
            let shards = set.group.shards().map(|(shard, value)| Record::Shard {
                set: name.clone(),
                shard: shard.clone(),
                value: value.clone(),
            });
            std::iter::once(record).chain(shards)
        });
        let latches = self.latches.iter().flat_map(|(key, latch)| {
            let record = Record::Latch { latch: key.clone(), revision: latch.revision };
            let claims = latch
                .claims()
                .map(|claim| Record::Claim { latch: key.clone(), value: claim.clone() });
            std::iter::once(record).chain(claims)
        });
        let kept = self.kept.iter().map(|((key, part), kept)| Record::Kept {
            key: key.clone(),
            part: *part,
            value: Kept::clone(kept),
        });
        let brakes = self
            .brakes
            .iter()
            .map(|(scope, brake)| Record::Brake { scope: scope.clone(), value: brake.clone() });
        let words = self.brake_overrides.iter().map(|(scope, word)| Record::BrakeOverride {
            scope: scope.clone(),
            value: word.clone(),
        });
        let marks = self.hash_marks.iter().map(|&(index, hash)| Record::HashMark { index, hash });
        clock
            .chain(sessions)
            .chain(apps)
            .chain(overrides)
            .chain(sets)
            .chain(latches)
            .chain(brakes)
            .chain(words)
            .chain(kept)
            .chain(marks)
    }
}

/// An instance as it is kept.
pub(super) struct Inserted {
    pub instance: Arc<Instance>,
    pub has_ring: bool,
}

fn change_record(app: &mut App, hash: &mut StateHash, change: impl FnOnce(&mut AppRecord)) {
    let before = app.record.clone();
    change(&mut app.record);
    // All but the first item of a batch find their app as they would leave it.
    if app.record != before {
        hash.subtract(kind::APP, &*app.name, &before);
        hash.add(kind::APP, &*app.name, &app.record);
    }
}

fn forget_document(app: &mut App, hash: &mut StateHash, app_name: &AppName, name: &DocumentName) {
    let Some(old) = app.documents.remove(name) else { return };
    hash.subtract(kind::DOCUMENT, &(app_name, name), &*old);
    app.document_bytes -= old.counted();
}

/// What of a ring is counted in the state hash: its fingerprint stands for all of it but the epoch.
pub(super) type Hashed = (Revision, u64);

fn hashed(ring: &Ring) -> Hashed {
    (ring.epoch(), ring.fingerprint())
}

/// When deadlines are judged by what is told again.
pub(super) fn pace_due(clock: &Clock) -> Option<u64> {
    let Pace { told_percent, held_percent, held_until_ms } = clock.pace;
    (told_percent != held_percent).then_some(held_until_ms)
}

/// When the number of workers that there should be is to be looked at though nothing changes.
pub(super) fn scaling_due(record: &ShardSetRecord) -> Option<u64> {
    scaling::due_ms(record.config.scaling.as_ref()?, record.scaling.as_ref()?)
}

/// The cluster time at which an app without instances goes, if its policy says so; never while it
/// has documents or a ring, or while a shard set takes its workers from it.
pub(super) fn empty_app_due(app: &App) -> Option<u64> {
    if !app.documents.is_empty() || app.ring.is_some() || app.works_for > 0 {
        return None;
    }
    let AppRecord { empty_since_ms, policy, .. } = &app.record;
    Some(empty_since_ms.as_ref()?.saturating_add(policy.remove_when_empty_after_ms?))
}

impl PartialEq for Catalog {
    /// Equal records; the derived indexes follow from them.
    fn eq(&self, other: &Self) -> bool {
        self.records().eq(other.records())
    }
}
