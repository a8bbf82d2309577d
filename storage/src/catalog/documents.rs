//! Documents: small JSON texts that belong to an app, not to a life, and that are replaced as a whole.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use smol_str::SmolStr;

use super::apps::check;
use super::{App, Applied, At, Catalog, Document};
use crate::command::{AppPolicy, DeleteDocument, PutDocument, Refusal, Reply};
use crate::events::{Event, Reason};
use crate::limits::{DOCUMENT_BYTES_COUNTED_MIN, DOCUMENTS_BYTES_MAX};
use crate::names::{AppName, DocumentName, Revision};

impl Catalog {
    /// Writing the same value again is a change like any other.
    pub(super) fn put_document(
        &mut self,
        at: At,
        c: &PutDocument,
        events: &mut Vec<Event>,
    ) -> Applied {
        let known = self.apps.get(&c.app);
        if known.is_none() && !c.create_app {
            return Err(Refusal::UnknownApp(c.app.clone()));
        }
        let old = known.and_then(|app| app.documents.get(&c.name));
        let created = old.is_none();
        check(c.condition, old.map(|document| document.revision), || Refusal::DocumentExists {
            app: c.app.clone(),
            name: c.name.clone(),
        })?;
        let document = Arc::new(Document {
            value: c.value.clone(),
            by: c.by.clone(),
            revision: at.revision,
            changed_at_ms: self.clock.wall_ms,
        });
        let taken = known.map_or(0, |app| app.document_bytes) - old.map_or(0, |old| old.counted());
        room_for(taken + document.counted())?;

        // Nothing is refused from here on.
        if known.is_none() {
            self.make_app(at, &c.app, AppPolicy::default());
            let policy = AppPolicy::default();
            events.push(Event::AppPut { app: c.app.clone(), policy, created: true });
        }
        self.insert_document(&c.app, c.name.clone(), document.clone());
        self.change_app(&c.app, |record| record.documents_changed = at.revision);
        events.push(Event::DocumentPut { app: c.app.clone(), name: c.name.clone(), document });
        Ok(Reply::DocumentPut { created })
    }

    pub(super) fn delete_document(
        &mut self,
        at: At,
        c: &DeleteDocument,
        events: &mut Vec<Event>,
    ) -> Applied {
        let known = self.known_app(&c.app)?.documents.get(&c.name);
        let revision = known
            .map(|document| document.revision)
            .ok_or_else(|| Refusal::UnknownDocument { app: c.app.clone(), name: c.name.clone() })?;
        check(c.condition, Some(revision), || Refusal::DocumentExists {
            app: c.app.clone(),
            name: c.name.clone(),
        })?;
        self.drop_document(at, &c.app, &c.name, &c.by, events);
        Ok(Reply::DocumentDeleted)
    }

    /// All documents of an app that is being deleted.
    pub(super) fn drop_documents(&mut self, at: At, app: &AppName, events: &mut Vec<Event>) {
        let Some(known) = self.apps.get(app) else { return };
        let names: Vec<_> = known.documents.keys().cloned().collect();
        for name in names {
            self.drop_document(at, app, &name, &SmolStr::default(), events);
        }
    }

    fn drop_document(
        &mut self,
        at: At,
        app: &AppName,
        name: &DocumentName,
        by: &SmolStr,
        events: &mut Vec<Event>,
    ) {
        self.remove_document(app, name);
        self.change_app(app, |record| record.documents_changed = at.revision);
        events.push(Event::DocumentDeleted {
            app: app.clone(),
            name: name.clone(),
            reason: Reason::Operator,
            by: by.clone(),
        });
    }

    pub fn document(&self, app: &AppName, name: &DocumentName) -> Option<&Arc<Document>> {
        self.apps.get(app)?.documents.get(name)
    }
}

fn room_for(bytes: u64) -> Result<(), Refusal> {
    let limit = DOCUMENTS_BYTES_MAX;
    if bytes > limit { Err(Refusal::DocumentsTooLarge { bytes, limit }) } else { Ok(()) }
}

impl Document {
    /// What it counts against `DOCUMENTS_BYTES_MAX`.
    pub(super) fn counted(&self) -> u64 {
        (self.value.len() as u64).max(DOCUMENT_BYTES_COUNTED_MIN)
    }
}

impl App {
    /// All documents in name order, from `after` (exclusive) on.
    pub fn documents_after(
        &self,
        after: Option<&DocumentName>,
    ) -> impl Iterator<Item = (&DocumentName, &Arc<Document>)> {
        let from = after.map_or(Unbounded, |name| Excluded(name.clone()));
        self.documents.range::<_, DocumentName>((from, Unbounded))
    }

    /// The last change of the list of documents: who has seen it at this revision or later has seen
    /// it as it is. For an app that never had any it is some revision from the app's begin on, so
    /// that who saw the documents of an earlier app of this name is told that they are gone.
    pub fn documents_changed(&self) -> Revision {
        match self.record.documents_changed {
            Revision(0) => self.record.revision.min(self.record.members_changed),
            changed => changed,
        }
    }
}
