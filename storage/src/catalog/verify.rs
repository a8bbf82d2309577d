//! Holds all that is derived (indexes, counts, the state hash) against the records.

use imbl::OrdSet;

use super::store::empty_app_due;
use super::{App, Catalog, Due, Inconsistent, Session, recomputed_hash};
use crate::names::{AppName, SessionId};

impl Catalog {
    /// Whether all that is derived belongs to the records, and the records to each other. Walks
    /// the whole state: for tests, and for a checkpoint that was just read.
    pub fn verify(&self) -> Result<(), Inconsistent> {
        self.sessions().try_for_each(|(id, session)| self.verify_session(id, session))?;
        self.verify_apps()?;
        let kept_bytes: u64 = self.kept.values().map(|kept| kept.bytes).sum();
        check(self.kept_bytes == kept_bytes, || format!("kept answers have {kept_bytes} bytes"))?;
        check(self.due == self.recomputed_due(), || "what ends by itself is misplaced".into())?;
        check(self.state_hash() == recomputed_hash(self.records()), || {
            "the state hash is not that of the records".into()
        })
    }

    fn verify_session(&self, id: SessionId, session: &Session) -> Result<(), Inconsistent> {
        let held = self.held_by(id).count() as u64;
        let whole = session.things == held && (!session.private || held == 1);
        check(whole, || format!("session {id} holds {held} things: {session:?}"))?;
        check(id.0 <= self.clock.last_session, || format!("session {id} was never counted"))
    }

    fn verify_apps(&self) -> Result<(), Inconsistent> {
        let mut live = 0;
        for (name, app) in &self.apps {
            let known_empty = app.record.empty_since_ms.is_some();
            check(app.instances.is_empty() == known_empty, || {
                format!("app {name} is wrong about being empty")
            })?;
            verify_documents(name, app)?;
            live += app.instances.len();
            for (id, instance) in &app.instances {
                check(self.sessions.contains_key(&instance.session), || {
                    format!("{name}/{id} has no session {}", instance.session)
                })?;
            }
        }
        // Sessions hold as many things as they count, so equal sums leave no stray entry.
        let held: u64 = self.sessions.values().map(|session| session.things).sum();
        let counts = [self.instances, self.held.len() as u64, held];
        check(counts == [live as u64; 3], || format!("{live} instances counted as {counts:?}"))?;
        let stray = self.overrides.keys().find(|key| !self.apps.contains_key(&key.app));
        check(stray.is_none(), || format!("an override without its app: {stray:?}"))
    }

    fn recomputed_due(&self) -> OrdSet<(u64, Due)> {
        let kept = self
            .kept
            .iter()
            .map(|((key, part), kept)| (kept.until_ms, Due::Kept(key.clone(), *part)));
        let overrides = self
            .overrides
            .iter()
            .filter_map(|(key, word)| Some((word.expires_at_ms?, Due::Override(key.clone()))));
        let apps = self
            .apps
            .iter()
            .filter_map(|(name, app)| Some((empty_app_due(app)?, name.clone())))
            .map(|(when, name)| (when, Due::EmptyApp(name)));
        kept.chain(overrides).chain(apps).collect()
    }
}

fn verify_documents(name: &AppName, app: &App) -> Result<(), Inconsistent> {
    let bytes: u64 = app.documents.values().map(|document| document.counted()).sum();
    check(app.document_bytes == bytes, || format!("documents of {name} count {bytes} bytes"))?;
    let newest = app.documents.values().map(|document| document.revision).max();
    check(newest.unwrap_or_default() <= app.record.documents_changed, || {
        format!("app {name} missed a change of its documents")
    })
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Inconsistent> {
    if holds { Ok(()) } else { Err(Inconsistent(otherwise())) }
}
