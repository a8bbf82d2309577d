//! The life of an instance: registered, changed, taken over, gone. Its shard begins and ends with
//! it, in the same entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use smol_str::SmolStr;

use super::apps::check;
use super::store::Inserted;
use super::{Applied, At, Catalog, Instance, Session, State};
use crate::command::{
    AppPolicy, BatchItem, Deregister, MetadataPatch, Patch, Refusal, Register, Registered, Reply,
};
use crate::events::{Event, Reason, Seen};
use crate::limits::{
    METADATA_BYTES_MAX, SESSION_THINGS_MAX, TTL_MS_DEFAULT, TTL_MS_MAX, TTL_MS_MIN,
};
use crate::names::{AppName, Incarnation, InstanceKey, SessionId};

impl Catalog {
    pub(super) fn register(
        &mut self,
        at: At,
        c: Register,
        events: &mut Vec<Event>,
    ) -> Result<Registered, Refusal> {
        let known = self.apps.get(&c.key.app);
        if known.is_none() && c.create_app.is_none() {
            return Err(Refusal::UnknownApp(c.key.app.clone()));
        }
        let default_policy = AppPolicy { kind: c.create_app.unwrap_or(0), ..AppPolicy::default() };
        let policy = known.map_or(&default_policy, |app| &app.record.policy);
        let live = known.and_then(|app| app.instances.get(&c.key.id)).cloned();
        check(c.condition, live.as_ref().map(|i| i.revision), || Refusal::InstanceExists {
            app: c.key.app.clone(),
            id: c.key.id.clone(),
        })?;
        let ttl_ms = ttl_within(policy, c.ttl_ms)?;
        let stays =
            live.as_ref().filter(|i| !c.takeover && c.session.is_none_or(|s| s == i.session));
        if stays.is_none() {
            live.as_ref().map_or(Ok(()), |old| may_end(at, old))?;
            self.room_on(c.session, live.as_ref().map(|old| old.session))?;
        }

        // Nothing is refused from here on.
        let app = known.map(|app| app.name.clone());
        if known.is_none() {
            self.make_app(at, &c.key.app, default_policy.clone());
            let made = c.key.app.clone();
            events.push(Event::AppPut { app: made, policy: default_policy, created: true });
        }
        let registered = match (stays, live.as_ref()) {
            (Some(live), _) => self.renew(at, c, live, events),
            (None, Some(_)) => {
                let by = at.revision.into();
                self.depart(at, &c.key, &Reason::Replaced { by }, events);
                self.begin(at, c, app, ttl_ms, events)
            }
            (None, None) => self.begin(at, c, app, ttl_ms, events),
        };
        Ok(registered)
    }

    /// A new incarnation, on the named session or on a private one. Its app must be there; `app` is its
    /// name as it is kept with it, if it was there before. That the session was touched follows from
    /// [`Event::InstancePut`].
    fn begin(
        &mut self,
        at: At,
        c: Register,
        app: Option<Arc<AppName>>,
        ttl_ms: u64,
        events: &mut Vec<Event>,
    ) -> Registered {
        let incarnation = Incarnation::from(at.revision);
        let named = c.session.and_then(|id| Some((id, self.sessions.get(&id)?.clone())));
        let (session, mut value) = named.unwrap_or_else(|| {
            let just_made = || self.apps.get(&c.key.app).map(|app| app.name.clone());
            let app = app.or_else(just_made).unwrap_or_else(|| Arc::new(c.key.app.clone()));
            (self.next_session(), Session::of_instance(ttl_ms, app, c.key.id.clone()))
        });
        value.touched = at.revision;
        value.things += 1;
        let ttl_ms = value.ttl_ms();
        let is_private = value.is_private();
        self.revive(at, session, value, events);
        if !is_private {
            self.hold(session, &c.key);
        }
        let instance = Instance {
            profile: c.profile,
            session,
            incarnation,
            revision: at.revision,
            registered_at_ms: self.clock.wall_ms,
        };
        self.store(at, &c.key, instance, ttl_ms, None, events);
        self.begins_in_shard_sets(&c.key);
        Registered { created: true, incarnation, session, ttl_ms }
    }

    /// The same life with a new profile. Only a private session takes a new TTL.
    fn renew(
        &mut self,
        at: At,
        c: Register,
        live: &Arc<Instance>,
        events: &mut Vec<Event>,
    ) -> Registered {
        let session = live.session;
        let mut ttl_ms = TTL_MS_DEFAULT;
        if let Some(mut value) = self.sessions.get(&session).cloned() {
            if let (true, Some(named)) = (value.is_private(), c.ttl_ms) {
                value.set_ttl_ms(named);
            }
            value.touched = at.revision;
            ttl_ms = value.ttl_ms();
            self.touch(at, session, value, events);
        }
        let instance =
            Instance { profile: c.profile, revision: at.revision, ..Instance::clone(live) };
        self.store(at, &c.key, instance, ttl_ms, Some(live.clone()), events);
        Registered { created: false, incarnation: live.incarnation, session, ttl_ms }
    }

    pub(super) fn patch(&mut self, at: At, c: &Patch, events: &mut Vec<Event>) -> Applied {
        let live = self.live(&c.key, c.incarnation)?;
        check(c.condition, Some(live.revision), || Refusal::InstanceExists {
            app: c.key.app.clone(),
            id: c.key.id.clone(),
        })?;
        let before = live.clone();
        let mut instance = Instance::clone(live);
        let mut profile = instance.profile.unpacked();
        profile.metadata = Arc::new(patched(&profile.metadata, &c.metadata)?);
        if let Some(weight) = c.weight {
            profile.weight = weight;
        }
        if let Some(payload) = &c.payload {
            profile.payload = payload.to_vec();
        }
        instance.profile = profile.into();
        instance.revision = at.revision;
        let incarnation = instance.incarnation;
        let ttl_ms = self.session(instance.session).map_or(0, |session| session.ttl_ms());
        self.store(at, &c.key, instance, ttl_ms, Some(before), events);
        Ok(Reply::Patched { incarnation })
    }

    pub(super) fn deregister(
        &mut self,
        at: At,
        c: &Deregister,
        events: &mut Vec<Event>,
    ) -> Applied {
        let live = self.live(&c.key, c.incarnation)?;
        let incarnation = live.incarnation;
        check(c.condition, Some(live.revision), || Refusal::InstanceExists {
            app: c.key.app.clone(),
            id: c.key.id.clone(),
        })?;
        may_end(at, live)?;
        let reason = match (c.by_operator, c.reason.is_empty()) {
            (false, _) => Reason::Deregistered,
            (true, true) => Reason::Operator,
            (true, false) => Reason::OperatorBecause { why: c.reason.clone() },
        };
        self.depart(at, &c.key, &reason, events);
        Ok(Reply::Deregistered { incarnation })
    }

    pub(super) fn batch(
        &mut self,
        at: At,
        items: Vec<BatchItem>,
        events: &mut Vec<Event>,
    ) -> Vec<Applied> {
        // One that begins has one, and the first of an app makes that too. They stay in memory for a while, not in
        // twice the room.
        events.reserve_exact(items.len() + 1);
        items
            .into_iter()
            .map(|item| match item {
                BatchItem::Register(c) => self.register(at, c, events).map(Reply::Registered),
                BatchItem::Deregister(c) => self.deregister(at, &c, events),
            })
            .collect()
    }

    /// The instance and its shard go, and its session too if nothing else can hang off it.
    pub(super) fn depart(
        &mut self,
        at: At,
        key: &InstanceKey,
        reason: &Reason,
        events: &mut Vec<Event>,
    ) {
        let state = self.state_of(key);
        let Some(gone) = self.remove_instance(key) else { return };
        self.member_on_ring(key);
        let held = self.ends_in_shard_sets(at, key);
        let empty = self.apps.get(&key.app).is_some_and(|app| app.instances.is_empty());
        let now = self.clock.cluster_ms;
        self.change_app(&key.app, |record| {
            record.members_changed = at.revision;
            if empty {
                record.empty_since_ms = Some(now);
            }
        });
        let incarnation = gone.incarnation;
        events.push(Event::InstanceDeleted {
            key: key.clone(),
            last: Seen { instance: gone.clone(), state },
            reason: reason.clone(),
        });
        let (key, reason) = (key.clone(), reason.clone());
        events.push(Event::ShardDeleted { key, incarnation, reason: reason.clone(), held });
        if let Some(mut session) = self.sessions.get(&gone.session).cloned() {
            session.things -= 1;
            if session.is_private() {
                self.remove_session(gone.session);
                events.push(Event::SessionEnded { session: gone.session, reason });
            } else {
                self.insert_session(gone.session, session);
            }
        }
    }

    /// Puts an instance in its place and tells of it. Its app must be there.
    fn store(
        &mut self,
        at: At,
        key: &InstanceKey,
        instance: Instance,
        ttl_ms: u64,
        before: Option<Arc<Instance>>,
        events: &mut Vec<Event>,
    ) {
        let inserted = self.insert_instance(key, instance, |app| {
            app.members_changed = at.revision;
            app.empty_since_ms = None;
        });
        let Some(Inserted { instance, has_ring }) = inserted else { return };
        if has_ring {
            self.member_on_ring(key);
        }
        if before.is_some() {
            self.changes_in_shard_sets(key);
        }
        let state = self.state_of(key);
        let before = before.map(|instance| Seen { instance, state });
        let now = Seen { instance, state };
        let said = SmolStr::default();
        events.push(Event::InstancePut { key: key.clone(), now, ttl_ms, before, said });
    }

    /// Something was changed that hangs off the session, or a claim made: a sign of life.
    pub(super) fn touch(
        &mut self,
        at: At,
        session: SessionId,
        value: Session,
        events: &mut Vec<Event>,
    ) {
        let (ttl_ms, touched) = (value.ttl_ms(), value.touched);
        events.push(Event::SessionPut { session, ttl_ms, touched });
        self.revive(at, session, value, events);
    }

    /// Puts a session in its place that shows a sign of life.
    fn revive(&mut self, at: At, session: SessionId, mut value: Session, events: &mut Vec<Event>) {
        let was_suspect = std::mem::take(&mut value.suspect);
        self.insert_session(session, value);
        if was_suspect {
            self.tell_suspicion(at, session, State::Suspect, events);
        }
    }

    /// The live instance, if it is of the incarnation that the caller means.
    fn live(
        &self,
        key: &InstanceKey,
        wanted: Option<Incarnation>,
    ) -> Result<&Arc<Instance>, Refusal> {
        let live =
            self.known_app(&key.app)?.instances.get(&key.id).ok_or_else(|| {
                Refusal::UnknownInstance { app: key.app.clone(), id: key.id.clone() }
            })?;
        match wanted {
            Some(wanted) if wanted != live.incarnation => {
                Err(Refusal::StaleIncarnation { current: live.incarnation })
            }
            _ => Ok(live),
        }
    }

    /// Whether the named session is there and can carry one thing more, when one on `left` goes.
    pub(super) fn room_on(
        &self,
        session: Option<SessionId>,
        left: Option<SessionId>,
    ) -> Result<(), Refusal> {
        let Some(id) = session else { return Ok(()) };
        // A private session belongs to its one instance; nobody else can hang anything off it.
        let Some(named) = self.sessions.get(&id).filter(|s| !s.is_private()) else {
            return Err(Refusal::UnknownSession(id));
        };
        let limit = SESSION_THINGS_MAX as u64;
        if left != Some(id) && u64::from(named.things) >= limit {
            return Err(Refusal::SessionFull { session: id, limit });
        }
        Ok(())
    }
}

/// An incarnation is named by the revision that began it, so one revision can begin only one life
/// of an id: what an item of a batch began, a later item may update but not end or replace.
fn may_end(at: At, live: &Instance) -> Result<(), Refusal> {
    if live.incarnation == Incarnation::from(at.revision) {
        return Err(Refusal::StaleIncarnation { current: live.incarnation });
    }
    Ok(())
}

/// The TTL that an instance gets: what it names if the app allows that, else the app's default.
fn ttl_within(policy: &AppPolicy, named: Option<u64>) -> Result<u64, Refusal> {
    let min_ms = policy.ttl_min_ms.unwrap_or(TTL_MS_MIN);
    let max_ms = policy.ttl_max_ms.unwrap_or(TTL_MS_MAX);
    match named {
        // Not `clamp`: it panics on crossed bounds, which an older binary may have let in.
        None => Ok(policy.ttl_ms.unwrap_or(TTL_MS_DEFAULT).max(min_ms).min(max_ms)),
        Some(ttl_ms) if (min_ms..=max_ms).contains(&ttl_ms) => Ok(ttl_ms),
        Some(_) => Err(Refusal::TtlOutOfBounds { min_ms, max_ms }),
    }
}

fn patched(
    old: &BTreeMap<SmolStr, SmolStr>,
    patch: &MetadataPatch,
) -> Result<BTreeMap<SmolStr, SmolStr>, Refusal> {
    let mut new = if patch.clear { BTreeMap::new() } else { old.clone() };
    for (key, value) in &patch.entries {
        match value {
            Some(value) => new.insert(key.clone(), value.clone()),
            None => new.remove(key),
        };
    }
    let bytes: usize = new.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(Refusal::MetadataTooLarge {
            bytes: bytes as u64,
            limit: METADATA_BYTES_MAX as u64,
        });
    }
    Ok(new)
}
