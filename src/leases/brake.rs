//! The mass-loss brake: which overdue sessions are removed when, and which are held back. Pure:
//! `now`, in milliseconds of the lease clock, and chance are arguments.
//!
//! # Whose fault is it?
//!
//! A client that stops beating has died, or something between it and the leader has. Nobody can tell
//! the two apart for one client. For many they can be told apart well enough, since clients seldom
//! die together, and networks and nodes always fail for many at once. So a loss of many is taken for
//! our own fault until somebody says otherwise or much time has passed:
//!
//! - **By share.** More of an app, or of all, is gone within one window than a set share. What counts
//!   is what expired within the window and what is overdue. Who deregisters has said so, and does not
//!   count; neither does what an operator let go. A small loss never counts: whoever has three
//!   instances loses a third of them with one machine.
//! - **By node.** The leader does not reach a member. Clients that beat by way of it may be alive and
//!   well behind it, so those whose last heartbeat came by it are held, however few they are of their
//!   app, until it is back and their TTL passed once more. Clients that know another node move there
//!   within a third of their TTL, so who is late by then either knows no other or died with it. A
//!   machine that carried the node and some services takes those with it: a few that are late
//!   together go at once, as any single departure does. After a change of leaders nobody knows by
//!   which node a session was heard before, and the old leader may have been that node, so whoever
//!   was not heard since counts as heard by whatever member is missing.
//!
//! What cannot be seen from here is a node that reaches the leader and not its clients. The shares
//! catch it if it matters.
//!
//! # What the brake does
//!
//! An overdue session that is held can still be renewed; it is told to all as `suspect`. The scope
//! that brakes loses its sessions at such a rate that the last one is gone after the set pace. What
//! is outside of it goes on at the ordinary rate. While all of the registry brakes, small losses of
//! other apps go on too, as long as they are few together: that many tiny apps lose one each is a
//! mass loss as well.
//!
//! A scope stops to brake when what it lost was small, by half of what made it brake, for a whole
//! window.

mod faults;
mod rate;
mod waiting;
mod window;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
pub use roster_api::registry::BrakeSettings;
use roster_storage::brake::{BrakeMode, Scope};
use roster_storage::command::BrakeEnd;
use roster_storage::names::{AppName, NodeId, Revision, SessionId};

use faults::Fault;
use rate::Bucket;
use waiting::{Group, Waiting};
use window::Window;

/// Groups that one turn looks at; the others have their chance in the next one.
const GROUPS_PER_TURN: usize = 2_000;

/// Sessions let go in one turn, so that none takes long.
const SESSIONS_PER_TURN: usize = 2_000;

/// Held sessions that one turn looks at in order to mark them, or to forgive a node that is back.
const LOOKS_PER_TURN: usize = 1_000;

/// Between two looks at whether a scope may stop to brake, milliseconds.
const LEAVING_EVERY_MS: u64 = 500;

/// The ordinary rate is filled up to what passes in so long, milliseconds.
const ORDINARY_FULL_MS: u64 = 100;

/// How large the registry is. What is being removed and was not applied yet is counted still.
pub trait Sizes {
    fn instances(&self) -> u64;
    fn instances_of(&self, app: &AppName) -> u64;
}

/// By which way a session was heard last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeardBy {
    /// This node took its heartbeat.
    Node(NodeId),
    /// It registered under this leader, and has not beaten since.
    Registration,
    /// Not heard yet under this leader.
    NobodyYet,
}

/// A session whose deadline passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub session: SessionId,
    /// The last registration or update that the leader saw on it.
    pub touched: Revision,
    /// As deadlines are counted with it: lengthened as all are.
    pub ttl_ms: u64,
    pub heard: u64,
    pub by: HeardBy,
    /// Its instances, by app.
    pub carries: Vec<(AppName, u64)>,
    /// Whether it is told to be suspect already.
    pub suspect: bool,
}

impl Missing {
    fn instances(&self) -> u64 {
        self.carries.iter().map(|(_, count)| count).sum()
    }

    /// What it counts in a rate: one that carries locks alone counts too.
    fn weight(&self) -> u64 {
        self.instances().max(1)
    }

    /// The apps that it has instances of, or none.
    fn apps(&self) -> impl Iterator<Item = Option<&AppName>> {
        let none = self.carries.is_empty().then_some(None);
        self.carries.iter().map(|(app, _)| Some(app)).chain(none)
    }

    fn first_app(&self) -> Option<AppName> {
        self.carries.first().map(|(app, _)| app.clone())
    }
}

/// A mark to be put on a session or to be taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub session: SessionId,
    pub touched: Revision,
    pub suspect: bool,
}

/// What a scope lost, as it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Instances that are overdue.
    pub missing: u64,
    /// The most that were missing or removed since it brakes: what its rate is made of.
    pub peak: u64,
    /// Instances that there were in the scope.
    pub of: u64,
}

/// A scope began to brake, or stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    Entered(Scope, Loss),
    Left(Scope, BrakeEnd),
}

/// One scope that brakes.
#[derive(Clone, Debug)]
struct Braking {
    peak: u64,
    of: u64,
    removed: u64,
    recovered: u64,
    /// Since when its loss is small.
    quiet_since: Option<u64>,
    bucket: Bucket,
}

/// What was lost of an app, of sessions without any, or of all.
#[derive(Clone, Debug)]
struct Tally {
    /// Instances of overdue sessions, those that are held by a node's fault left out.
    overdue: u64,
    /// Removals that were proposed and not applied yet.
    under_way: u64,
    /// Instances that expired within the window.
    removed: Window,
}

impl Tally {
    fn new(window_ms: u64) -> Self {
        Self { overdue: 0, under_way: 0, removed: Window::new(window_ms) }
    }

    fn lost(&self) -> u64 {
        self.overdue + self.removed.sum()
    }

    /// How many there were before the window, of which so many are there by apply's count.
    fn out_of(&self, live: u64) -> u64 {
        (live + self.removed.sum()).saturating_sub(self.under_way)
    }

    fn is_empty(&self) -> bool {
        self.overdue == 0 && self.under_way == 0 && self.removed.is_empty()
    }
}

/// What is known of a session that is overdue.
#[derive(Debug)]
struct Held {
    missing: Missing,
    fault_of: Option<NodeId>,
    /// Known to be missing by an earlier leader: not overdue by this one yet.
    expected: bool,
}

/// All that is overdue under one leadership, and what brakes.
#[derive(Debug)]
pub struct Brake {
    settings: BrakeSettings,
    held: BTreeMap<SessionId, Held>,
    waiting: Waiting,
    /// Let go, and not known to be gone.
    under_way: BTreeMap<SessionId, UnderWay>,
    of_all: Tally,
    /// Under `None` the sessions without instances, each counted as one.
    of_apps: BTreeMap<Option<AppName>, Tally>,
    /// Apps whose loss grew since it was last judged.
    grew: BTreeSet<AppName>,
    braking: BTreeMap<Scope, Braking>,
    /// Small losses let go although all brake.
    singles: Window,
    words: BTreeMap<Scope, BrakeMode>,
    faults: BTreeMap<NodeId, Fault>,
    /// When a session is no longer the fault of a node that is back.
    forgiven: BTreeSet<(u64, SessionId)>,
    /// Nodes that are back, and up to which held session that is noted.
    to_forgive: BTreeMap<NodeId, Option<SessionId>>,
    to_mark: VecDeque<SessionId>,
    to_unmark: VecDeque<Mark>,
    ordinary: Bucket,
    looked_at_leaving: u64,
}

/// A session that was let go.
#[derive(Debug)]
struct UnderWay {
    missing: Missing,
    /// What it went by, and so what it has paid to whom.
    gate: Gate,
}

impl Brake {
    pub fn new(settings: BrakeSettings, now: u64) -> Self {
        Self {
            settings,
            held: BTreeMap::new(),
            waiting: Waiting::default(),
            under_way: BTreeMap::new(),
            of_all: Tally::new(settings.window_ms),
            of_apps: BTreeMap::new(),
            grew: BTreeSet::new(),
            braking: BTreeMap::new(),
            singles: Window::new(settings.window_ms),
            words: BTreeMap::new(),
            faults: BTreeMap::new(),
            forgiven: BTreeSet::new(),
            to_forgive: BTreeMap::new(),
            to_mark: VecDeque::new(),
            to_unmark: VecDeque::new(),
            ordinary: Bucket::new(now),
            looked_at_leaving: now,
        }
    }

    /// An earlier leader entered this brake: it goes on at its rate. Before all that is expected.
    pub fn resume(&mut self, scope: Scope, loss: Loss, now: u64) {
        if let Scope::Node(node) = scope {
            // Until it shows that it is reached.
            self.faults.entry(node).or_default();
        }
        self.braking.insert(scope, Braking::new(loss.peak, loss.of, now));
    }

    /// A session that an earlier leader found overdue and told to be suspect. It counts as missing
    /// and is not removed before this leader finds it overdue itself.
    pub fn expect(&mut self, missing: Missing, now: u64) {
        let fault_of = self.fault_in(&missing, now);
        self.hold(Held { missing, fault_of, expected: true });
    }

    // What is overdue.

    /// A session is overdue. Returns whether it is held now: not while its removal is under way, which
    /// may name an older registration than the one that it is overdue by. Then it must come again.
    #[must_use]
    pub fn take(&mut self, mut missing: Missing, now: u64) -> bool {
        if self.under_way.contains_key(&missing.session) {
            return false;
        }
        let before = self.drop_held(missing.session);
        missing.suspect |= before.as_ref().is_some_and(|before| before.missing.suspect);
        let fault_of = match before {
            // It was missing before whoever is missing now.
            Some(before) if before.expected => before.fault_of,
            Some(_) | None => self.fault_in(&missing, now),
        };
        if let Some(node) = fault_of
            && let Some(back) = self.faults.get(&node).and_then(|fault| fault.back)
        {
            self.forgiven.insert((back + missing.ttl_ms, missing.session));
        }
        self.hold(Held { missing, fault_of, expected: false });
        true
    }

    /// It was heard again.
    pub fn heard(&mut self, session: SessionId) {
        let Some(held) = self.drop_held(session) else { return };
        for scope in scopes_of(&held) {
            if let Some(braking) = self.braking.get_mut(&scope) {
                braking.recovered += held.missing.weight();
            }
        }
        if held.missing.suspect {
            let Missing { session, touched, .. } = held.missing;
            self.to_unmark.push_back(Mark { session, touched, suspect: false });
        }
    }

    /// It is there no more: removed by expiry or in another way.
    pub fn gone(&mut self, session: SessionId) {
        self.drop_held(session);
        if let Some(UnderWay { missing, .. }) = self.under_way.remove(&session) {
            self.each_tally(&missing, |tally, count| tally.under_way -= count);
        }
    }

    /// It was heard before its removal was proposed.
    pub fn heard_in_time(&mut self, session: SessionId) {
        if let Some(missing) = self.not_under_way(session)
            && missing.suspect
        {
            let Missing { session, touched, .. } = missing;
            self.to_unmark.push_back(Mark { session, touched, suspect: false });
        }
    }

    /// Its removal was certainly not proposed. It comes again once the table finds it overdue.
    pub fn spared(&mut self, session: SessionId) {
        self.not_under_way(session);
    }

    /// Takes back all that its going has changed: else whoever is let go again and again, and never
    /// removed, would count as many, and the rate of what brakes is made of that.
    fn not_under_way(&mut self, session: SessionId) -> Option<Missing> {
        let UnderWay { missing, gate } = self.under_way.remove(&session)?;
        let weight = missing.weight();
        self.ordinary.give_back(weight);
        for (scope, weight) in gate.scopes() {
            if let Some(braking) = self.braking.get_mut(scope) {
                braking.bucket.give_back(*weight);
                // It may have begun to brake only since.
                braking.removed = braking.removed.saturating_sub(*weight);
            }
        }
        if gate.is_single() {
            self.singles.take_back(weight);
        }
        let counted = gate.counts();
        self.each_tally(&missing, |tally, count| {
            tally.under_way -= count;
            if counted {
                tally.removed.take_back(count);
            }
        });
        Some(missing)
    }

    /// The state says that a session is suspect. One that is not held here is so no more.
    pub fn unmark_stray(&mut self, session: SessionId, touched: Revision) {
        if !self.held.contains_key(&session) && !self.under_way.contains_key(&session) {
            self.to_unmark.push_back(Mark { session, touched, suspect: false });
        }
    }

    /// The state says that a held session is not suspect, and no mark is on its way: one of before may
    /// have been taken off since it is held again.
    pub fn mark_again(&mut self, session: SessionId) {
        if let Some(held) = self.held.get_mut(&session)
            && held.missing.suspect
        {
            held.missing.suspect = false;
            self.to_mark.push_back(session);
        }
    }

    /// Sessions that are held, in order, after one of them: to be looked at whether they were heard.
    pub fn held_after(&self, after: Option<SessionId>) -> impl Iterator<Item = SessionId> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.held.range((from, Unbounded)).map(|(session, _)| *session)
    }

    /// Whether this leader found it overdue itself.
    pub fn is_overdue(&self, session: SessionId) -> bool {
        self.held.get(&session).is_some_and(|held| !held.expected)
    }

    fn hold(&mut self, held: Held) {
        let session = held.missing.session;
        match held.fault_of.and_then(|node| self.faults.get_mut(&node)) {
            Some(fault) => {
                fault.sessions += 1;
                fault.instances += held.missing.instances();
            }
            None => self.each_tally(&held.missing, |tally, count| tally.overdue += count),
        }
        if !held.expected {
            self.waiting.add(session, group_of(&held));
        }
        if !held.missing.suspect {
            self.to_mark.push_back(session);
        }
        self.grew.extend(held.missing.carries.iter().map(|(app, _)| app.clone()));
        self.held.insert(session, held);
    }

    fn drop_held(&mut self, session: SessionId) -> Option<Held> {
        let held = self.held.remove(&session)?;
        self.waiting.remove(session);
        match held.fault_of.and_then(|node| self.faults.get_mut(&node)) {
            Some(fault) => {
                fault.sessions -= 1;
                fault.instances -= held.missing.instances();
            }
            None => self.each_tally(&held.missing, |tally, count| tally.overdue -= count),
        }
        Some(held)
    }

    /// Counts a session in the tallies of its apps and of all.
    fn each_tally(&mut self, missing: &Missing, count: impl Fn(&mut Tally, u64)) {
        count(&mut self.of_all, missing.instances());
        let window_ms = self.settings.window_ms;
        let mut of = |app: Option<&AppName>, instances| {
            let tally = self.of_apps.entry(app.cloned()).or_insert_with(|| Tally::new(window_ms));
            count(tally, instances);
        };
        if missing.carries.is_empty() {
            of(None, 1);
        }
        for (app, instances) in &missing.carries {
            of(Some(app), *instances);
        }
    }

    // What brakes.

    /// Which scopes begin to brake now, and which stop.
    pub fn judge(&mut self, sizes: &impl Sizes, now: u64) -> Vec<Turn> {
        self.of_all.removed.pass(now);
        let mut turns = self.enter(sizes, now);
        if now >= self.looked_at_leaving + LEAVING_EVERY_MS {
            self.looked_at_leaving = now;
            self.pass(now);
            turns.extend(self.leave(sizes, now));
        }
        turns
    }

    /// What is older than the window is forgotten.
    fn pass(&mut self, now: u64) {
        self.singles.pass(now);
        self.of_apps.retain(|_, tally| {
            tally.removed.pass(now);
            !tally.is_empty()
        });
    }

    fn enter(&mut self, sizes: &impl Sizes, now: u64) -> Vec<Turn> {
        let grew = std::mem::take(&mut self.grew);
        let apps = grew.into_iter().map(Scope::App);
        let nodes: Vec<_> = self.faults.keys().map(|node| Scope::Node(*node)).collect();
        let scopes = [Scope::All].into_iter().chain(apps).chain(nodes);
        let mut turns = Vec::new();
        for scope in scopes {
            if !self.braking.contains_key(&scope) && self.is_too_much(&scope, sizes) {
                let loss = Loss { peak: self.weight(&scope), ..self.loss(&scope, sizes) };
                self.braking.insert(scope.clone(), Braking::new(loss.peak, loss.of, now));
                turns.push(Turn::Entered(scope, loss));
            }
        }
        turns
    }

    fn is_too_much(&self, scope: &Scope, sizes: &impl Sizes) -> bool {
        if self.is_released(scope) {
            return false;
        }
        let (lost, exempt) = (self.lost(scope), self.exempt(scope));
        match self.share_percent(scope) {
            // While all brake, none of them has to on its own.
            Some(_) if self.braking.contains_key(&Scope::All) => false,
            Some(percent) => lost > exempt && lost * 100 > percent * self.of(scope, sizes),
            None => lost > exempt,
        }
    }

    fn leave(&mut self, sizes: &impl Sizes, now: u64) -> Vec<Turn> {
        let scopes: Vec<_> = self.braking.keys().cloned().collect();
        let mut turns = Vec::new();
        for scope in scopes {
            if let Some(reason) = self.may_leave(&scope, sizes, now) {
                self.braking.remove(&scope);
                turns.push(Turn::Left(scope, reason));
            }
        }
        if turns.iter().any(|turn| matches!(turn, Turn::Left(Scope::All, _))) {
            self.grew.extend(self.of_apps.keys().flatten().cloned());
        }
        turns
    }

    fn may_leave(&mut self, scope: &Scope, sizes: &impl Sizes, now: u64) -> Option<BrakeEnd> {
        if self.is_released(scope) {
            return Some(BrakeEnd::Released);
        }
        let (lost, weight) = (self.lost(scope), self.weight(scope));
        let (of, half_exempt) = (self.of(scope, sizes), self.exempt(scope) / 2);
        let percent = self.share_percent(scope).unwrap_or(0);
        let back_and_empty = self.is_back_and_empty(scope);
        let braking = self.braking.get_mut(scope)?;
        braking.peak = braking.peak.max(braking.removed + weight);
        braking.of = braking.of.max(of);
        if lost > half_exempt && lost * 200 > percent * braking.of {
            braking.quiet_since = None;
            return None;
        }
        let quiet_since = *braking.quiet_since.get_or_insert(now);
        let quiet = now >= quiet_since + self.settings.window_ms;
        (quiet || back_and_empty).then_some(if braking.recovered >= braking.removed {
            BrakeEnd::Recovered
        } else {
            BrakeEnd::Removed
        })
    }

    fn share_percent(&self, scope: &Scope) -> Option<u64> {
        match scope {
            Scope::All => Some(self.settings.share_percent),
            Scope::App(_) => Some(self.settings.app_share_percent),
            Scope::Node(_) => None,
        }
    }

    fn exempt(&self, scope: &Scope) -> u64 {
        match scope {
            Scope::All => self.settings.exempt_of_all(),
            Scope::App(_) | Scope::Node(_) => self.settings.exempt,
        }
    }

    /// What a scope lost: instances, or the sessions of a node.
    fn lost(&self, scope: &Scope) -> u64 {
        match scope {
            Scope::All => self.of_all.lost().saturating_sub(self.overdue_and_released()),
            Scope::App(app) => self.tally(app).map_or(0, Tally::lost),
            Scope::Node(node) => self.faults.get(node).map_or(0, |fault| match fault.back {
                Some(_) => fault.sessions,
                None if fault.sessions == 0 => 0,
                None => fault.sessions.max(fault.late),
            }),
        }
    }

    /// What a scope's rate is made of: all that is held of it.
    fn weight(&self, scope: &Scope) -> u64 {
        match scope {
            Scope::All => {
                let without = self.of_apps.get(&None).map_or(0, |tally| tally.overdue);
                self.of_all.overdue + without
            }
            Scope::App(app) => self.tally(app).map_or(0, |tally| tally.overdue),
            Scope::Node(node) => {
                self.faults.get(node).map_or(0, |fault| fault.instances.max(fault.sessions))
            }
        }
    }

    fn of(&self, scope: &Scope, sizes: &impl Sizes) -> u64 {
        match scope {
            Scope::All | Scope::Node(_) => self.of_all.out_of(sizes.instances()),
            Scope::App(app) => {
                let live = sizes.instances_of(app);
                self.tally(app).map_or(live, |tally| tally.out_of(live))
            }
        }
    }

    fn tally(&self, app: &AppName) -> Option<&Tally> {
        self.of_apps.get(&Some(app.clone()))
    }

    /// What a scope has lost by now.
    pub fn loss(&self, scope: &Scope, sizes: &impl Sizes) -> Loss {
        let braking = self.braking.get(scope);
        Loss {
            missing: self.weight(scope),
            peak: braking.map_or(0, |braking| braking.peak),
            of: self.of(scope, sizes).max(braking.map_or(0, |braking| braking.of)),
        }
    }

    /// The scopes that brake.
    pub fn scopes(&self) -> impl Iterator<Item = &Scope> {
        self.braking.keys()
    }

    // What goes, and what is held.

    /// Lets sessions go: what the rates allow, each group in its turn. Each must be answered by
    /// [`Self::gone`] or [`Self::spared`].
    pub fn release(&mut self, chance: &mut Rng, now: u64) -> Vec<SessionId> {
        self.fill(now);
        let may_go = |group: &Group| self.may_go(group);
        let mut groups = self.waiting.some_groups(chance, GROUPS_PER_TURN, may_go);
        let (mut released, mut turn) = (Vec::new(), 0);
        while !groups.is_empty() && released.len() < SESSIONS_PER_TURN && self.ordinary.holds(1) {
            turn %= groups.len();
            match self.waiting.draw(&groups[turn], chance) {
                Some(session) if self.let_go(session, now) => {
                    released.push(session);
                    turn += 1;
                }
                Some(_) | None => {
                    groups.swap_remove(turn);
                }
            }
        }
        released
    }

    /// Whether one of a group may go, as far as can be told without a look at any of them. Few can while
    /// much brakes, and who waits then are many.
    fn may_go(&self, group: &Group) -> bool {
        let holds_one =
            |scope: &Scope| self.braking.get(scope).is_none_or(|braking| braking.bucket.holds(1));
        if !self.words.is_empty() {
            return true;
        }
        let own = group.app.clone().map(Scope::App);
        let by_node = group.fault_of.map(Scope::Node);
        let is_single = || {
            let lost = self.of_apps.get(&group.app).map_or(0, Tally::lost);
            lost <= self.settings.exempt && self.singles.sum() < self.settings.exempt_of_all()
        };
        own.iter().chain(&by_node).all(holds_one)
            && (group.fault_of.is_some() || holds_one(&Scope::All) || is_single())
    }

    /// Nothing can be removed now: this time adds to no rate, so that not all goes at once afterwards.
    pub fn wait(&mut self, now: u64) {
        self.ordinary.wait(now);
        self.braking.values_mut().for_each(|braking| braking.bucket.wait(now));
    }

    fn fill(&mut self, now: u64) {
        let rate = self.settings.rate;
        let full = (rate * ORDINARY_FULL_MS / 1_000).max(1);
        self.ordinary.fill(now, rate, 1_000, full);
        for braking in self.braking.values_mut() {
            // Up to the whole, so that a session that carries much of the scope has its turn too.
            let full = braking.peak.saturating_sub(braking.removed).max(1);
            braking.bucket.fill(now, braking.peak, self.settings.pace_ms, full);
        }
    }

    /// Whether the rates of all scopes that hold it let a session go; then it is under way.
    fn let_go(&mut self, session: SessionId, now: u64) -> bool {
        let Some(held) = self.held.get(&session) else { return false };
        let gate = self.gate(held);
        match &gate {
            Gate::Open { .. } => {}
            Gate::Paced { scopes, .. } => {
                let allows = |(scope, weight): &(Scope, u64)| {
                    self.braking.get(scope).is_none_or(|braking| braking.bucket.holds(*weight))
                };
                if !scopes.iter().all(allows) {
                    return false;
                }
            }
            Gate::Shut => return false,
        }
        let Some(held) = self.drop_held(session) else { return false };
        self.pay(gate, held.missing, now);
        true
    }

    fn pay(&mut self, gate: Gate, missing: Missing, now: u64) {
        let weight = missing.weight();
        self.ordinary.take(weight);
        for (scope, weight) in gate.scopes() {
            if let Some(braking) = self.braking.get_mut(scope) {
                braking.bucket.take(*weight);
                braking.removed += weight;
            }
        }
        if gate.is_single() {
            self.singles.add(now, weight);
        }
        let counted = gate.counts();
        self.each_tally(&missing, |tally, count| {
            tally.under_way += count;
            if counted {
                tally.removed.add(now, count);
            }
        });
        self.under_way.insert(missing.session, UnderWay { missing, gate });
    }

    /// What holds a session back.
    fn gate(&self, held: &Held) -> Gate {
        let words = || held.missing.apps().map(|app| self.word(app));
        if words().any(|word| word == Some(BrakeMode::Hold)) {
            return Gate::Shut;
        }
        if words().all(|word| word == Some(BrakeMode::Release)) {
            return Gate::Open { counted: false };
        }
        let mut scopes = Vec::new();
        for (app, count) in &held.missing.carries {
            scopes.push((Scope::App(app.clone()), *count));
        }
        if let Some(node) = held.fault_of {
            scopes.push((Scope::Node(node), held.missing.weight()));
        }
        scopes.retain(|(scope, _)| self.braking.contains_key(scope));
        let all_brake = self.braking.contains_key(&Scope::All) && held.fault_of.is_none();
        let single = all_brake && self.is_single(held);
        if all_brake && !single {
            scopes.push((Scope::All, held.missing.weight()));
        }
        if scopes.is_empty() && !single {
            return Gate::Open { counted: true };
        }
        Gate::Paced { scopes, single }
    }

    /// Whether it is a small loss beside the one that all brake for.
    fn is_single(&self, held: &Held) -> bool {
        let is_small = |app: Option<&AppName>| {
            let lost = self.of_apps.get(&app.cloned()).map_or(0, Tally::lost);
            lost <= self.settings.exempt
        };
        held.missing.apps().all(is_small)
            && self.singles.sum() + held.missing.weight() <= self.settings.exempt_of_all()
    }

    /// Up to `limit` marks: of those that are held now, and of those that were and are heard again.
    pub fn marks(&mut self, limit: usize) -> Vec<Mark> {
        let unmarked = limit.min(self.to_unmark.len());
        let mut marks: Vec<_> = self.to_unmark.drain(..unmarked).collect();
        for _ in 0..self.to_mark.len().min(LOOKS_PER_TURN) {
            if marks.len() >= limit {
                break;
            }
            let Some(session) = self.to_mark.pop_front() else { break };
            let Some(held) = self.held.get(&session).filter(|held| !held.missing.suspect) else {
                continue;
            };
            if self.gate(held).is_open() {
                self.to_mark.push_back(session);
            } else if let Some(held) = self.held.get_mut(&session) {
                held.missing.suspect = true;
                let touched = held.missing.touched;
                marks.push(Mark { session, touched, suspect: true });
            }
        }
        marks
    }

    /// These marks were certainly not written.
    pub fn not_marked(&mut self, marks: Vec<Mark>) {
        for mark in marks {
            if !mark.suspect {
                self.to_unmark.push_back(mark);
            } else if let Some(held) = self.held.get_mut(&mark.session) {
                held.missing.suspect = false;
                self.to_mark.push_back(mark.session);
            }
        }
    }

    /// Sessions that are overdue, or expected to be, and not let go.
    pub fn len(&self) -> usize {
        self.held.len()
    }
}

impl Braking {
    fn new(peak: u64, of: u64, now: u64) -> Self {
        let bucket = Bucket::new(now);
        Self { peak, of, removed: 0, recovered: 0, quiet_since: None, bucket }
    }
}

/// What holds a session back.
#[derive(Debug)]
enum Gate {
    /// Nothing but the ordinary rate; whether its removal counts as a loss.
    Open { counted: bool },
    /// The pace of each of these, for so much, and whether it goes as a single departure beside.
    Paced { scopes: Vec<(Scope, u64)>, single: bool },
    /// An operator.
    Shut,
}

impl Gate {
    fn is_open(&self) -> bool {
        match self {
            Self::Open { .. } => true,
            Self::Paced { scopes, .. } => scopes.is_empty(),
            Self::Shut => false,
        }
    }

    /// Whose pace it goes by, and for how much.
    fn scopes(&self) -> &[(Scope, u64)] {
        match self {
            Self::Paced { scopes, .. } => scopes,
            Self::Open { .. } | Self::Shut => &[],
        }
    }

    fn is_single(&self) -> bool {
        match self {
            Self::Paced { single, .. } => *single,
            Self::Open { .. } | Self::Shut => false,
        }
    }

    /// Whether a removal by it counts as a loss.
    fn counts(&self) -> bool {
        match self {
            Self::Open { counted } => *counted,
            Self::Paced { .. } => true,
            Self::Shut => false,
        }
    }
}

fn group_of(held: &Held) -> Group {
    Group { app: held.missing.first_app(), fault_of: held.fault_of }
}

/// All scopes that a session belongs to.
fn scopes_of(held: &Held) -> impl Iterator<Item = Scope> {
    let apps = held.missing.carries.iter().map(|(app, _)| Scope::App(app.clone()));
    let node = held.fault_of.map(Scope::Node);
    let all = held.fault_of.is_none().then_some(Scope::All);
    apps.chain(node).chain(all)
}

#[cfg(test)]
mod tests;
