//! Apps and their policies; overrides, which belong to an app's ids rather than to a life.

use super::{App, AppRecord, Applied, At, Catalog, Override, State};
use crate::brake::Scope;
use crate::command::{
    AppPolicy, ClearOverride, Condition, DeleteApp, PutApp, PutOverride, Refusal, Reply,
};
use crate::events::{Event, Reason, Seen};
use crate::names::{AppName, InstanceKey, Revision};

impl Catalog {
    pub(super) fn put_app(&mut self, at: At, c: &PutApp, events: &mut Vec<Event>) -> Applied {
        let current = self.apps.get(&c.app).map(|app| app.record.revision);
        check(c.condition, current, || Refusal::AppExists(c.app.clone()))?;
        match current {
            Some(_) => self.change_app(&c.app, |record| {
                record.policy = c.policy.clone();
                record.revision = at.revision;
            }),
            None => self.make_app(at, &c.app, c.policy.clone()),
        }
        let created = current.is_none();
        events.push(Event::AppPut { app: c.app.clone(), policy: c.policy.clone(), created });
        Ok(Reply::AppPut { created })
    }

    /// An app that begins empty.
    pub(super) fn make_app(&mut self, at: At, name: &AppName, policy: AppPolicy) {
        let record = AppRecord {
            policy,
            revision: at.revision,
            members_changed: at.revision,
            empty_since_ms: Some(self.clock.cluster_ms),
            documents_changed: Revision(0),
        };
        self.insert_app(name.clone(), record);
    }

    pub(super) fn delete_app(&mut self, at: At, c: &DeleteApp, events: &mut Vec<Event>) -> Applied {
        let app = self.known_app(&c.app)?;
        check(c.condition, Some(app.record.revision), || Refusal::AppExists(c.app.clone()))?;
        if let Some(set) = self.set_worked_by(&c.app) {
            return Err(Refusal::AppInUse { app: c.app.clone(), set: set.clone() });
        }
        let (instances, documents) = (app.instances.len() as u64, app.documents.len() as u64);
        if instances + documents > 0 && !c.cascade {
            return Err(Refusal::AppNotEmpty { app: c.app.clone(), instances, documents });
        }
        let ids: Vec<_> = app.instances.keys().cloned().collect();
        // First, or each of them would be taken off it one by one.
        self.drop_ring(&c.app, &Reason::Operator, events);
        for id in ids {
            let key = InstanceKey::new(c.app.clone(), id);
            self.depart(at, &key, &Reason::Operator, events);
        }
        self.drop_documents(at, &c.app, events);
        self.forget_overrides(&c.app);
        self.forget_brake(&c.app, &Reason::Operator, events);
        self.remove_app(&c.app);
        events.push(Event::AppDeleted { app: c.app.clone(), reason: Reason::Operator });
        Ok(Reply::AppDeleted { instances })
    }

    /// Called when an app's time without instances is over; it has no documents either.
    pub(super) fn end_empty_app(&mut self, name: &AppName, events: &mut Vec<Event>) {
        self.forget_overrides(name);
        self.forget_brake(name, &Reason::Empty, events);
        self.remove_app(name);
        events.push(Event::AppDeleted { app: name.clone(), reason: Reason::Empty });
    }

    fn forget_brake(&mut self, name: &AppName, reason: &Reason, events: &mut Vec<Event>) {
        let scope = Scope::App(name.clone());
        self.end_brake(&scope, reason, events);
        self.remove_brake_override(&scope);
    }

    fn forget_overrides(&mut self, name: &AppName) {
        let keys: Vec<_> = self.overrides_of(name).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.remove_override(&key);
        }
    }

    pub(super) fn put_override(
        &mut self,
        at: At,
        c: &PutOverride,
        events: &mut Vec<Event>,
    ) -> Applied {
        self.known_app(&c.key.app)?;
        let before = self.state_of(&c.key);
        let word = Override {
            state: c.state,
            reason: c.reason.clone(),
            expires_at_ms: c.expires_in_ms.map(|ms| self.clock.cluster_ms.saturating_add(ms)),
            expires_wall_ms: c.expires_in_ms.map(|ms| self.clock.wall_ms.saturating_add(ms)),
            revision: at.revision,
        };
        self.insert_override(c.key.clone(), word);
        self.override_changed(at, &c.key, before, &c.reason, events);
        Ok(Reply::OverridePut)
    }

    pub(super) fn clear_override(
        &mut self,
        at: At,
        c: &ClearOverride,
        events: &mut Vec<Event>,
    ) -> Applied {
        self.known_app(&c.key.app)?;
        let before = self.state_of(&c.key);
        if self.remove_override(&c.key).is_some() {
            self.override_changed(at, &c.key, before, &c.reason, events);
        }
        Ok(Reply::OverrideCleared)
    }

    /// Called when an override's time is over.
    pub(super) fn end_override(&mut self, at: At, key: &InstanceKey, events: &mut Vec<Event>) {
        let before = self.state_of(key);
        self.remove_override(key);
        self.override_changed(at, key, before, "", events);
    }

    /// Tells that the state that clients see of an instance changed, if it lives, and what the operator
    /// `said`.
    fn override_changed(
        &mut self,
        at: At,
        key: &InstanceKey,
        before: State,
        said: &str,
        events: &mut Vec<Event>,
    ) {
        let Some(instance) = self.instance(key).cloned() else { return };
        self.change_app(&key.app, |record| record.members_changed = at.revision);
        self.member_on_ring(key);
        self.changes_in_shard_sets(key);
        events.push(Event::InstancePut {
            key: key.clone(),
            ttl_ms: self.session(instance.session).map_or(0, |session| session.ttl_ms()),
            now: Seen { instance: instance.clone(), state: self.state_of(key) },
            before: Some(Seen { instance, state: before }),
            said: said.into(),
        });
    }

    pub(super) fn known_app(&self, name: &AppName) -> Result<&App, Refusal> {
        match self.apps.get(name) {
            Some(app) => Ok(app),
            None => Err(Refusal::UnknownApp(name.clone())),
        }
    }
}

/// Holds a condition against the last change of the thing, `None` if it is not there.
pub(super) fn check(
    condition: Condition,
    current: Option<Revision>,
    exists: impl FnOnce() -> Refusal,
) -> Result<(), Refusal> {
    match (condition, current) {
        (Condition::Any, _) | (Condition::Absent, None) => Ok(()),
        (Condition::Absent, Some(_)) => Err(exists()),
        (Condition::Unchanged(wanted), Some(current)) if wanted == current => Ok(()),
        (Condition::Unchanged(_), current) => {
            Err(Refusal::PreconditionFailed { current: current.unwrap_or_default() })
        }
    }
}
