//! The catalogue: who is here. Persistent maps, so that a clone is a version that readers, cursors
//! and checkpoints hold without holding anybody up.
//!
//! [`Catalog::carry_out`] is the only door to change. It is a pure function of the state, the entry's
//! place and the command: no clock, no randomness, no map whose order differs between processes.

mod apps;
mod brakes;
mod builder;
mod documents;
mod instances;
mod latches;
mod records;
mod requests;
mod rings;
mod sessions;
mod shard_sets;
mod store;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};

pub use builder::{CatalogBuilder, Counted};
pub use records::{
    App, AppRecord, Clock, Document, Instance, Kept, Override, Record, Rules, Session, ShardSet,
    ShardSetRecord, State, StateHash, recomputed_hash,
};
pub use store::Inconsistent;

use crate::brake::{Brake, BrakeOverride, Pace, Scope};
use crate::command::{Command, Outcome, Overridden, Refusal, ReleasedBy, Reply, Stamp};
use crate::compact_map::CompactMap;
use crate::events::Event;
use crate::latch::{Claimant, Latch};
use crate::limits::{DUE_PER_ENTRY_MAX, STATE_HASH_EVERY, STATE_HASHES_KEPT};
use crate::names::{
    AppName, IdempotencyKey, InstanceId, InstanceKey, LatchKey, Revision, SessionId, ShardSetName,
};

/// Where and when an entry stands in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The entry's log index.
    pub revision: Revision,
    /// The entry's own term.
    pub term: u64,
    pub stamp: Stamp,
}

/// The replicated state. A clone is a version of its own and costs next to nothing.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    clock: Clock,
    apps: CompactMap<AppName, Arc<App>>,
    sessions: CompactMap<SessionId, Session>,
    overrides: OrdMap<InstanceKey, Override>,
    shard_sets: OrdMap<ShardSetName, Arc<ShardSet>>,
    latches: OrdMap<LatchKey, Arc<Latch>>,
    kept: OrdMap<(IdempotencyKey, u32), Arc<Kept>>,
    brakes: OrdMap<Scope, Brake>,
    brake_overrides: OrdMap<Scope, BrakeOverride>,
    /// Over the records in the maps above; the clock is added when it is asked for.
    hash: StateHash,
    /// (log index, state hash), oldest first.
    hash_marks: Vector<(u64, u64)>,
    // Derived from the maps above, rebuilt when a checkpoint is read.
    /// What hangs off each session that is not private; a private one knows its instance.
    held: CompactMap<(SessionId, InstanceKey), ()>,
    /// Sessions that are suspect.
    suspects: OrdSet<SessionId>,
    /// Which claim of a latch is whose.
    claims: OrdMap<(Claimant, LatchKey), Revision>,
    /// What ends by itself, by the moment of cluster time at which it does.
    due: OrdSet<(u64, Due)>,
    /// Of all kept answers, held against `IDEMPOTENCY_BYTES_MAX`.
    kept_bytes: u64,
    /// Live ones, of all apps.
    instances: u64,
    /// What the entry that is being applied has changed and not told yet. Empty between entries.
    touched: Touched,
}

/// Rings, shard sets and latches that one entry changes, perhaps several times, are told of once, at its end.
#[derive(Clone, Debug, Default)]
struct Touched {
    /// As they were counted in the state hash before.
    rings: BTreeMap<AppName, store::Hashed>,
    /// Apps whose rings were all but full and have more room now.
    roomier: BTreeSet<AppName>,
    shard_sets: BTreeSet<ShardSetName>,
    /// Workers that ended, also those that began again in the same entry.
    ended: BTreeSet<(ShardSetName, InstanceId)>,
    /// Latches of which a claim ended.
    latches: BTreeSet<LatchKey>,
    /// Sets that take their workers from another app now, with the app of those before.
    dismissed: BTreeMap<ShardSetName, AppName>,
}

/// What happens at a moment of cluster time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Kept(IdempotencyKey, u32),
    Override(InstanceKey),
    EmptyApp(AppName),
    Scaling(ShardSetName),
    BrakeOverride(Scope),
    /// Deadlines are judged by what is told from then on.
    Pace,
}

/// A refused command changes nothing and emits nothing of its own; what fell due by its time did.
type Applied = Result<Reply, Refusal>;

impl Catalog {
    /// As [`Catalog::carry_out`], for whoever keeps the command.
    pub fn apply(&mut self, at: At, command: &Command) -> (Outcome, Vec<Event>) {
        self.carry_out(at, command.clone())
    }

    /// Carries out one entry. Calls must come in log order, each index once.
    pub fn carry_out(&mut self, at: At, command: Command) -> (Outcome, Vec<Event>) {
        let mut events = Vec::new();
        self.advance(at, &mut events);
        let by_operator = matches!(&command, Command::Release(c) if c.by == ReleasedBy::Operator);
        let request = command.request().cloned();
        let mut outcome = self
            .at_most_once(at, request.as_ref(), |catalog| catalog.decide(at, command, &mut events));
        // By the pace of now, also where it is the answer of an earlier time: what was told then may be
        // held no more.
        outcome.lengthen_ttls(self.clock.pace);
        self.settle_latches(at, &mut events);
        self.settle_rings(at, &mut events);
        self.settle_shard_sets(at, by_operator, &mut events);
        (outcome, events)
    }

    fn decide(&mut self, at: At, command: Command, events: &mut Vec<Event>) -> Applied {
        match command {
            Command::PutApp(c) => self.put_app(at, &c, events),
            Command::DeleteApp(c) => self.delete_app(at, &c, events),
            Command::Register(c) => self.register(at, c, events).map(Reply::Registered),
            Command::Patch(c) => self.patch(at, &c, events),
            Command::Deregister(c) => self.deregister(at, &c, events),
            Command::PutOverride(c) => self.put_override(at, &c, events),
            Command::ClearOverride(c) => self.clear_override(at, &c, events),
            Command::PutDocument(c) => self.put_document(at, &c, events),
            Command::DeleteDocument(c) => self.delete_document(at, &c, events),
            Command::PutRing(c) => self.put_ring(at, &c),
            Command::DeleteRing(c) => self.delete_ring(&c, events),
            Command::CompactRing(c) => self.compact_ring(at, &c),
            Command::PutShardSet(c) => self.put_shard_set(at, &c),
            Command::DeleteShardSet(c) => self.delete_shard_set(&c, events),
            Command::Release(c) => self.release(at, &c),
            Command::Rebalance(c) => Ok(self.rebalance(at, &c)),
            Command::OpenSession(c) => Ok(self.open_session(at, &c, events)),
            Command::CloseSession(c) => self.close_session(at, &c, events),
            Command::ClaimLatch(c) => self.claim_latch(at, &c, events),
            Command::WithdrawClaim(c) => self.withdraw_claim(at, &c, events),
            Command::ReleaseLatch(c) => self.release_latch(at, &c, events),
            Command::BreakLatch(c) => self.break_latch(at, &c, events),
            Command::Batch(c) => Ok(Reply::Batch(self.batch(at, c.items, events))),
            Command::Expire(c) => Ok(self.expire(at, &c, events)),
            Command::Tick => Ok(Reply::Done),
            Command::Suspect(c) => Ok(self.suspect(at, &c, events)),
            Command::Brake(c) => Ok(self.set_brake(at, &c, events)),
            Command::OverrideBrake(c) => self.override_brake(at, &c),
            Command::ClearBrakeOverride(c) => Ok(self.clear_brake_override(&c.scope)),
            Command::Pace(c) => Ok(self.set_pace(at, c)),
        }
    }

    /// Notes that the entry at `index` was applied, whatever it carried; publishes the state hash
    /// at the indexes that all nodes share.
    pub fn passed(&mut self, index: u64) {
        if index.is_multiple_of(STATE_HASH_EVERY) {
            self.hash_marks.push_back((index, self.state_hash()));
            while self.hash_marks.len() > STATE_HASHES_KEPT {
                self.hash_marks.pop_front();
            }
        }
    }

    /// Moves cluster time, never back, and clears away what fell due.
    fn advance(&mut self, at: At, events: &mut Vec<Event>) {
        self.clock.cluster_ms = self.clock.cluster_ms.max(at.stamp.cluster_ms);
        self.clock.wall_ms = self.clock.wall_ms.max(at.stamp.wall_ms);
        for _ in 0..DUE_PER_ENTRY_MAX {
            match self.due.get_min() {
                Some((when, _)) if *when <= self.clock.cluster_ms => {}
                _ => break,
            }
            let Some((_, due)) = self.due.remove_min() else { break };
            match due {
                Due::Kept(key, part) => self.remove_kept(&key, part),
                Due::Override(key) => self.end_override(at, &key, events),
                Due::EmptyApp(app) => self.end_empty_app(&app, events),
                Due::Scaling(set) => self.touch_shard_set(&set),
                Due::BrakeOverride(scope) => self.remove_brake_override(&scope),
                Due::Pace => self.end_pace(),
            }
        }
    }

    // Reading.

    /// The times and counters as the last command left them.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The hash over all replicated records, equal on all nodes at the same applied index.
    pub fn state_hash(&self) -> u64 {
        self.hash.with_clock(&self.clock)
    }

    /// The hashes at the last indexes divisible by `STATE_HASH_EVERY`, oldest first.
    pub fn hash_marks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.hash_marks.iter().copied()
    }

    /// When the next timed thing falls due, in cluster time.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.due.get_min().map(|(when, _)| *when)
    }

    /// As [`Catalog::app`], by the text of its name, which need not be one.
    pub fn app_named(&self, name: &str) -> Option<&Arc<App>> {
        self.apps.get(name)
    }

    pub fn app(&self, app: &AppName) -> Option<&Arc<App>> {
        self.apps.get(app)
    }

    /// All apps in name order, from `after` (exclusive) on.
    pub fn apps_after<'a>(
        &'a self,
        after: Option<&AppName>,
    ) -> impl Iterator<Item = (&'a AppName, &'a Arc<App>)> + 'a {
        use std::ops::Bound::{Excluded, Unbounded};
        self.apps.starting(after.map_or(Unbounded, Excluded))
    }

    /// An app with its name as it is kept here.
    pub fn app_entry(&self, app: &AppName) -> Option<(&AppName, &Arc<App>)> {
        self.apps.get_key_value(app)
    }

    pub fn app_count(&self) -> usize {
        self.apps.len()
    }

    pub fn instance(&self, key: &InstanceKey) -> Option<&Arc<Instance>> {
        self.apps.get(&key.app)?.instances.get(&key.id)
    }

    pub fn instance_count(&self) -> u64 {
        self.instances
    }

    pub fn session(&self, session: SessionId) -> Option<&Session> {
        self.sessions.get(&session)
    }

    /// All sessions in the order in which they were opened, private ones too.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(id, s)| (*id, s))
    }

    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The instances that hang off a session, in order.
    pub fn held_by(&self, session: SessionId) -> impl Iterator<Item = InstanceKey> {
        self.instance_of(session).into_iter().chain(self.held_from(session, lowest_key()))
    }

    /// Those of one app that hang off a session, in order.
    pub fn held_in<'a>(
        &'a self,
        session: SessionId,
        app: &'a AppName,
    ) -> impl Iterator<Item = InstanceKey> + 'a {
        let only = self.instance_of(session).filter(|key| key.app == *app);
        let held = self.held_from(session, InstanceKey::new(app.clone(), lowest_id()));
        only.into_iter().chain(held.take_while(move |key| key.app == *app))
    }

    /// The one instance of a private session.
    fn instance_of(&self, session: SessionId) -> Option<InstanceKey> {
        let (app, id) = self.sessions.get(&session)?.instance()?;
        Some(InstanceKey::new(app.clone(), id.clone()))
    }

    fn held_from(
        &self,
        session: SessionId,
        from: InstanceKey,
    ) -> impl Iterator<Item = InstanceKey> {
        let held = self.held.starting(std::ops::Bound::Included(&(session, from)));
        let held = held.map(|(held, ())| held).take_while(move |(s, _)| *s == session);
        held.map(|(_, key)| key.clone())
    }

    /// Sessions that the leader does not hear and does not end yet, in order.
    pub fn suspects(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.suspects.iter().copied()
    }

    /// The same from the next session on, found without walking over those before it.
    pub fn suspects_after(
        &self,
        session: Option<SessionId>,
    ) -> impl Iterator<Item = SessionId> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        self.suspects.range((session.map_or(Unbounded, Excluded), Unbounded)).copied()
    }

    pub fn suspect_count(&self) -> usize {
        self.suspects.len()
    }

    /// The mass-loss brakes that are on.
    pub fn brakes(&self) -> impl Iterator<Item = (&Scope, &Brake)> {
        self.brakes.iter()
    }

    /// The same from the next scope on.
    pub fn brakes_after<'a>(
        &'a self,
        scope: Option<&Scope>,
    ) -> impl Iterator<Item = (&'a Scope, &'a Brake)> + use<'a> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.brakes.range::<_, Scope>((scope.map_or(Unbounded, Excluded), Unbounded))
    }

    pub fn brake(&self, scope: &Scope) -> Option<&Brake> {
        self.brakes.get(scope)
    }

    /// What operators decided about scopes.
    pub fn brake_overrides(&self) -> impl Iterator<Item = (&Scope, &BrakeOverride)> {
        self.brake_overrides.iter()
    }

    /// By how much TTLs are lengthened.
    pub fn pace(&self) -> Pace {
        self.clock.pace
    }

    /// An operator's word about an instance id, live or not.
    pub fn override_of(&self, key: &InstanceKey) -> Option<&Override> {
        self.overrides.get(key)
    }

    pub fn override_count(&self) -> usize {
        self.overrides.len()
    }

    /// The overrides of one app, in id order, of live instances and of others.
    pub fn overrides_of<'a>(
        &'a self,
        app: &'a AppName,
    ) -> impl Iterator<Item = (&'a InstanceKey, &'a Override)> + 'a {
        self.overrides
            .range(InstanceKey::new(app.clone(), lowest_id())..)
            .take_while(move |(key, _)| key.app == *app)
    }

    /// The state that clients see of an instance, live or not.
    pub fn state_of(&self, key: &InstanceKey) -> State {
        match self.overrides.get(key) {
            Some(word) => word.state.into(),
            None if self.is_suspect(key) => State::Suspect,
            None => State::Up,
        }
    }

    fn is_suspect(&self, key: &InstanceKey) -> bool {
        let session = |live: &Arc<Instance>| self.suspects.contains(&live.session);
        !self.suspects.is_empty() && self.instance(key).is_some_and(session)
    }

    /// How many of an app's live instances are in each state.
    pub fn counts(&self, name: &AppName) -> Counts {
        let (live, suspects) =
            self.apps.get(name).map_or((0, 0), |app| (app.instances.len() as u64, app.suspects));
        self.counted(live, suspects, self.overrides_of(name))
    }

    /// Counts over all apps.
    pub fn total_counts(&self) -> Counts {
        let suspects = match self.suspects.is_empty() {
            true => 0,
            false => self.apps.values().map(|app| app.suspects).sum(),
        };
        self.counted(self.instances, suspects, self.overrides.iter())
    }

    /// All are up or suspect but those that live and have an override.
    fn counted<'a>(
        &self,
        live: u64,
        suspect: u64,
        overrides: impl Iterator<Item = (&'a InstanceKey, &'a Override)>,
    ) -> Counts {
        let mut counts = Counts { up: live - suspect, suspect, ..Counts::default() };
        for (key, word) in overrides.filter(|(key, _)| self.instance(key).is_some()) {
            match self.is_suspect(key) {
                true => counts.suspect -= 1,
                false => counts.up -= 1,
            }
            match word.state {
                Overridden::Draining => counts.draining += 1,
                Overridden::Maintenance => counts.maintenance += 1,
            }
        }
        counts
    }
}

/// Live instances by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub up: u64,
    pub suspect: u64,
    pub draining: u64,
    pub maintenance: u64,
}

/// Sorts before every other key: a space is the lowest character that an id may have.
fn lowest_key() -> InstanceKey {
    InstanceKey::new(lowest_app(), lowest_id())
}

fn lowest_app() -> AppName {
    AppName::new(" ").expect("a space is a name")
}

fn lowest_id() -> InstanceId {
    InstanceId::new(" ").expect("a space is a name")
}
