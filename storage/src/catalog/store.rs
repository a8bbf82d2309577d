//! Every write to the maps goes through here, so that the state hash, the indexes and the counts
//! always belong to the records. Also the way into and out of checkpoints.

use std::sync::Arc;

use imbl::OrdMap;

use super::records::kind;
use super::{
    App, AppRecord, Catalog, Clock, Document, Due, Instance, Kept, Override, Record, Session,
    StateHash,
};
use crate::names::{AppName, DocumentName, IdempotencyKey, InstanceKey, SessionId};

/// Records that do not make a state: an instance of an app that is not there, a session twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the records contradict each other: {0}")]
pub struct Inconsistent(pub(super) String);

impl Catalog {
    pub(super) fn insert_app(&mut self, name: AppName, record: AppRecord) {
        self.hash.add(kind::APP, &name, &record);
        let (instances, documents) = (OrdMap::new(), OrdMap::new());
        let app = App { record, instances, documents, document_bytes: 0 };
        if let Some(when) = empty_app_due(&app) {
            self.due.insert((when, Due::EmptyApp(name.clone())));
        }
        self.apps.insert(name, Arc::new(app));
    }

    /// Removes an app that has no instance and no document.
    pub(super) fn remove_app(&mut self, name: &AppName) {
        let Some(app) = self.apps.remove(name) else { return };
        debug_assert!(app.instances.is_empty(), "instances leave before their app");
        debug_assert!(app.documents.is_empty(), "documents go before their app");
        self.hash.subtract(kind::APP, name, &app.record);
        if let Some(when) = empty_app_due(&app) {
            self.due.remove(&(when, Due::EmptyApp(name.clone())));
        }
    }

    pub(super) fn change_app(&mut self, name: &AppName, change: impl FnOnce(&mut AppRecord)) {
        self.within_app(name, |app, hash| {
            hash.subtract(kind::APP, name, &app.record);
            change(&mut app.record);
            hash.add(kind::APP, name, &app.record);
        });
    }

    /// Changes what decides when an app goes by itself. `None` if the app is not there.
    fn within_app<T>(
        &mut self,
        name: &AppName,
        change: impl FnOnce(&mut App, &mut StateHash) -> T,
    ) -> Option<T> {
        let app = Arc::make_mut(self.apps.get_mut(name)?);
        let due_before = empty_app_due(app);
        let changed = change(app, &mut self.hash);
        let due_after = empty_app_due(app);
        if due_before != due_after {
            let entry = |when| (when, Due::EmptyApp(name.clone()));
            due_before.map(|when| self.due.remove(&entry(when)));
            due_after.map(|when| self.due.insert(entry(when)));
        }
        Some(changed)
    }

    /// Puts an instance into its app, which must be there. `None` if the app is not.
    pub(super) fn insert_instance(
        &mut self,
        key: &InstanceKey,
        instance: Arc<Instance>,
    ) -> Option<()> {
        let app = Arc::make_mut(self.apps.get_mut(&key.app)?);
        self.hash.add(kind::INSTANCE, key, &*instance);
        self.instances += 1;
        let session = instance.session;
        if let Some(old) = app.instances.insert(key.id.clone(), instance) {
            self.hash.subtract(kind::INSTANCE, key, &*old);
            self.instances -= 1;
            self.held.remove(&(old.session, key.clone()));
        }
        self.held.insert((session, key.clone()));
        Some(())
    }

    pub(super) fn remove_instance(&mut self, key: &InstanceKey) -> Option<Arc<Instance>> {
        let app = Arc::make_mut(self.apps.get_mut(&key.app)?);
        let old = app.instances.remove(&key.id)?;
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
        self.within_app(app, |known, hash| {
            forget_document(known, hash, app, &name);
            hash.add(kind::DOCUMENT, &(app, &name), &*document);
            known.document_bytes += document.counted();
            known.documents.insert(name, document);
        })
    }

    pub(super) fn remove_document(&mut self, app: &AppName, name: &DocumentName) {
        self.within_app(app, |known, hash| forget_document(known, hash, app, name));
    }

    pub(super) fn insert_session(&mut self, id: SessionId, session: Session) {
        self.hash.add(kind::SESSION, &id, &session);
        if let Some(old) = self.sessions.insert(id, session) {
            self.hash.subtract(kind::SESSION, &id, &old);
        }
    }

    pub(super) fn remove_session(&mut self, id: SessionId) -> Option<Session> {
        let old = self.sessions.remove(&id)?;
        self.hash.subtract(kind::SESSION, &id, &old);
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
            std::iter::once(record).chain(instances).chain(documents)
        });
        let overrides = self
            .overrides
            .iter()
            .map(|(key, word)| Record::Override { key: key.clone(), value: word.clone() });
        let kept = self.kept.iter().map(|((key, part), kept)| Record::Kept {
            key: key.clone(),
            part: *part,
            value: Kept::clone(kept),
        });
        let marks = self.hash_marks.iter().map(|&(index, hash)| Record::HashMark { index, hash });
        clock.chain(sessions).chain(apps).chain(overrides).chain(kept).chain(marks)
    }
}

fn forget_document(app: &mut App, hash: &mut StateHash, app_name: &AppName, name: &DocumentName) {
    let Some(old) = app.documents.remove(name) else { return };
    hash.subtract(kind::DOCUMENT, &(app_name, name), &*old);
    app.document_bytes -= old.counted();
}

/// The cluster time at which an app without instances goes, if its policy says so; never while it
/// has documents.
pub(super) fn empty_app_due(app: &App) -> Option<u64> {
    if !app.documents.is_empty() {
        return None;
    }
    let AppRecord { empty_since_ms, policy, .. } = &app.record;
    Some(empty_since_ms.as_ref()?.saturating_add(policy.remove_when_empty_after_ms?))
}

/// Makes a catalogue from the records of a checkpoint.
#[derive(Debug, Default)]
pub struct CatalogBuilder {
    catalog: Catalog,
}

impl CatalogBuilder {
    /// Takes the next record. What it hangs off must have come before, and it only once.
    pub fn add(&mut self, record: Record) -> Result<(), Inconsistent> {
        self.fits(&record)?;
        let catalog = &mut self.catalog;
        match record {
            Record::Clock(clock) => catalog.clock = clock,
            Record::Session { id, value } => catalog.insert_session(id, value),
            Record::App { app, value } => catalog.insert_app(app, value),
            Record::Instance { key, value } => {
                catalog.insert_instance(&key, value);
            }
            Record::Document { app, name, value } => {
                catalog.insert_document(&app, name, value);
            }
            Record::Override { key, value } => catalog.insert_override(key, value),
            Record::Kept { key, part, value } => catalog.insert_kept(key, part, value),
            Record::HashMark { index, hash } => catalog.hash_marks.push_back((index, hash)),
        }
        Ok(())
    }

    fn fits(&self, record: &Record) -> Result<(), Inconsistent> {
        let catalog = &self.catalog;
        let (twice, whole) = match record {
            Record::Clock(_) => (catalog.clock != Clock::default(), true),
            Record::Session { id, .. } => (catalog.sessions.contains_key(id), true),
            Record::App { app, .. } => (catalog.apps.contains_key(app), true),
            Record::Instance { key, value } => (
                catalog.instance(key).is_some(),
                catalog.apps.contains_key(&key.app)
                    && catalog.sessions.contains_key(&value.session),
            ),
            Record::Document { app, name, .. } => {
                (catalog.document(app, name).is_some(), catalog.apps.contains_key(app))
            }
            Record::Override { key, .. } => {
                (catalog.overrides.contains_key(key), catalog.apps.contains_key(&key.app))
            }
            Record::Kept { key, part, .. } => {
                (catalog.kept.contains_key(&(key.clone(), *part)), true)
            }
            Record::HashMark { index, .. } => {
                (catalog.hash_marks.last().is_some_and(|(last, _)| index <= last), true)
            }
        };
        match (twice, whole) {
            (true, _) => Err(Inconsistent(format!("this came before: {record:?}"))),
            (_, false) => Err(Inconsistent(format!("what this hangs off is missing: {record:?}"))),
            (false, true) => Ok(()),
        }
    }

    /// The catalogue as it stands. [`Catalog::verify`] says whether all records came.
    pub fn finish(self) -> Catalog {
        self.catalog
    }
}

impl PartialEq for Catalog {
    /// Equal records; the derived indexes follow from them.
    fn eq(&self, other: &Self) -> bool {
        self.records().eq(other.records())
    }
}
