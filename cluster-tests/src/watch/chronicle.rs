//! What everybody saw of the changes, which must be one history (S10).
//!
//! No stream is believed more than another: whatever two of them tell of the same revisions must be
//! the same, what lists and snapshots show must be what the changes up to their revision come to,
//! and what was acknowledged must be told.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;

use super::{Interest, Listener, Run, Snapshot};

/// Kept by all listeners, readers and writers of a test together. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Chronicle(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    runs: Vec<Run>,
    snapshots: Vec<Snapshot>,
    lists: Vec<List>,
    writes: Vec<Write>,
    newest: u64,
}

/// All instances of an app, as a read gave them.
#[derive(Debug)]
struct List {
    node: u64,
    app: String,
    revision: u64,
    instances: Vec<Value>,
}

/// An acknowledged write of an instance.
#[derive(Clone, Debug)]
pub struct Write {
    pub app: String,
    pub id: String,
    pub revision: u64,
    /// `put` or `delete`.
    pub event: &'static str,
}

/// How much was held against each other.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// All changes after the first and up to the second revision are known.
    pub covered: (u64, u64),
    pub changes: usize,
    pub events: usize,
    pub runs: usize,
    pub lists: usize,
    pub snapshots: usize,
    pub writes: usize,
}

impl Chronicle {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().expect("no test task panicked meanwhile")
    }

    pub fn told(&self, listener: Listener) {
        let (runs, snapshots) = listener.told();
        let mut seen = self.lock();
        let newest = runs.iter().map(|run| run.upto).max().unwrap_or(0);
        seen.newest = seen.newest.max(newest);
        seen.runs.extend(runs);
        seen.snapshots.extend(snapshots);
    }

    /// What `GET /v1/apps/{app}/instances` gave.
    pub fn listed(&self, node: u64, app: &str, list: &Value) {
        let revision = list["revision"].as_u64().expect("a list has a revision");
        let instances = list["instances"].as_array().expect("a list has instances").clone();
        assert!(list["next_cursor"].is_null(), "one page should do");
        let mut seen = self.lock();
        seen.newest = seen.newest.max(revision);
        seen.lists.push(List { node, app: app.into(), revision, instances });
    }

    pub fn acknowledged(&self, write: Write) {
        let mut seen = self.lock();
        seen.newest = seen.newest.max(write.revision);
        seen.writes.push(write);
    }

    /// The highest revision that anybody saw.
    pub fn newest(&self) -> u64 {
        self.lock().newest
    }

    pub fn writes(&self) -> usize {
        self.lock().writes.len()
    }

    /// Holds everything against everything; panics at the first contradiction.
    pub fn check(&self) -> Checked {
        let seen = self.lock();
        let (full, narrow): (Vec<_>, Vec<_>) =
            seen.runs.iter().partition(|run| run.interest.is_all());
        let mut changes = Changes::default();
        full.iter().for_each(|run| changes.take(run));
        narrow.iter().for_each(|run| changes.hold_against(run));
        let first = seen.snapshots.iter().filter(|snapshot| snapshot.interest.is_all());
        let first = first.min_by_key(|snapshot| snapshot.revision).expect("a full snapshot");
        let upto = changes.covered_from(first.revision);
        let mut checked = Checked {
            covered: (first.revision, upto),
            changes: changes.revisions.len(),
            events: changes.revisions.values().map(Vec::len).sum(),
            runs: seen.runs.len(),
            ..Checked::default()
        };
        replay(&seen, &changes, first, &mut checked);
        checked.writes = seen
            .writes
            .iter()
            .filter(|write| (first.revision + 1..=upto).contains(&write.revision))
            .inspect(|write| changes.has(write))
            .count();
        println!("all saw one history: {checked:?}");
        checked
    }
}

/// The changes of all full streams together.
#[derive(Debug, Default)]
struct Changes {
    revisions: BTreeMap<u64, Vec<Value>>,
    /// Ranges (after, upto], from low to high, none touching another.
    covered: Vec<(u64, u64)>,
}

impl Changes {
    fn take(&mut self, run: &Run) {
        self.hold_against(run);
        self.revisions.extend(run.revisions.clone());
        self.covered.push((run.after, run.upto));
        self.covered.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (after, upto) in self.covered.drain(..) {
            match merged.last_mut() {
                Some(last) if after <= last.1 => last.1 = last.1.max(upto),
                Some(_) | None => merged.push((after, upto)),
            }
        }
        self.covered = merged;
    }

    /// What the run tells of covered revisions must be what is known of them.
    fn hold_against(&self, run: &Run) {
        for (after, upto) in &self.covered {
            let (from, to) = ((*after).max(run.after), (*upto).min(run.upto));
            if from >= to {
                continue;
            }
            let within = (Excluded(from), Included(to));
            let told: BTreeSet<u64> = run.revisions.range(within).map(|(at, _)| *at).collect();
            for (revision, events) in self.revisions.range(within) {
                let wanted: Vec<_> = events.iter().filter(|e| run.interest.wants(e)).collect();
                let events: Vec<_> = run.revisions.get(revision).into_iter().flatten().collect();
                assert_eq!(
                    events, wanted,
                    "S10: {} (all after {} up to {}) told the left of revision {revision}, others the right",
                    run.who, run.after, run.upto
                );
            }
            let unknown = told.iter().find(|revision| !self.revisions.contains_key(revision));
            assert_eq!(unknown, None, "S10: {} told what nobody else did", run.who);
        }
    }

    /// Up to where everything after `revision` is known.
    fn covered_from(&self, revision: u64) -> u64 {
        let range = self.covered.iter().find(|(from, to)| (*from..=*to).contains(&revision));
        range.map_or(revision, |(_, upto)| *upto)
    }

    fn has(&self, write: &Write) {
        let told = self.revisions.get(&write.revision).into_iter().flatten();
        let same = |e: &&Value| {
            e["kind"] == "instance"
                && e["event"] == write.event
                && e["app"] == *write.app
                && e["id"] == *write.id
        };
        assert!(told.clone().any(|e| same(&e)), "S10: {write:?} was acknowledged, but not told");
    }
}

/// Applies the changes to the first snapshot, and compares on the way.
fn replay(seen: &Seen, changes: &Changes, first: &Snapshot, checked: &mut Checked) {
    let (after, upto) = checked.covered;
    let within = |revision: u64| (after..=upto).contains(&revision);
    let mut lists: Vec<_> = seen.lists.iter().filter(|list| within(list.revision)).collect();
    lists.sort_by_key(|list| list.revision);
    let mut snapshots: Vec<_> = seen.snapshots.iter().filter(|s| within(s.revision)).collect();
    snapshots.sort_by_key(|snapshot| snapshot.revision);
    (checked.lists, checked.snapshots) = (lists.len(), snapshots.len());

    let mut state = State::default();
    first.events.iter().for_each(|event| state.stands(event));
    let mut stops: BTreeSet<u64> = lists.iter().map(|list| list.revision).collect();
    stops.extend(snapshots.iter().map(|snapshot| snapshot.revision));
    let (mut lists, mut snapshots) =
        (lists.into_iter().peekable(), snapshots.into_iter().peekable());
    let mut at = after;
    for stop in stops {
        for event in changes.revisions.range((Excluded(at), Included(stop))).flat_map(|(_, e)| e) {
            state.apply(event);
        }
        at = stop;
        while let Some(list) = lists.next_if(|list| list.revision == stop) {
            state.is_listed(list);
        }
        while let Some(snapshot) = snapshots.next_if(|snapshot| snapshot.revision == stop) {
            state.is_shown(snapshot);
        }
    }
    for event in changes.revisions.range((Excluded(at), Included(upto))).flat_map(|(_, e)| e) {
        state.apply(event);
    }
}

/// What the changes come to: each thing by app, kind and id, with its value.
#[derive(Debug, Default)]
struct State(BTreeMap<(String, String, String), Value>);

impl State {
    fn key(event: &Value) -> (String, String, String) {
        let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        // A latch has many claims, one per owner of a session.
        let id = match event["kind"].as_str() {
            Some("latch") => {
                let (session, owner) = (&event["value"]["session"], &event["value"]["owner"]);
                format!("{} {} {session} {owner}", word("latch"), word("id"))
            }
            Some(_) | None => word("id"),
        };
        (word("app"), word("kind"), id)
    }

    fn stands(&mut self, event: &Value) {
        let before = self.0.insert(Self::key(event), event.clone());
        assert_eq!(before, None, "a snapshot has it twice: {event}");
    }

    fn apply(&mut self, event: &Value) {
        let key = Self::key(event);
        let life = |event: &Value| event["incarnation"].clone();
        if event["event"] == "put" {
            if let Some(before) = self.0.insert(key, event.clone()) {
                assert_eq!(life(&before), life(event), "S6: {before} did not go before {event}");
            }
            return;
        }
        let gone = self.0.remove(&key).unwrap_or_else(|| panic!("S6: it was not there: {event}"));
        assert_eq!(life(&gone), life(event), "S6: another life was there: {event}");
    }

    fn is_listed(&self, list: &List) {
        let of_app = |key: &(String, String, String)| key.0 == list.app && key.1 == "instance";
        let expected: Vec<_> = self
            .0
            .iter()
            .filter(|(key, _)| of_app(key))
            .map(|(_, event)| &event["value"])
            .collect();
        let listed: Vec<_> = list.instances.iter().collect();
        assert_eq!(
            listed, expected,
            "node {} listed the left of {} at revision {}, the changes come to the right",
            list.node, list.app, list.revision
        );
    }

    fn is_shown(&self, snapshot: &Snapshot) {
        let values = |events: &mut dyn Iterator<Item = &Value>| -> BTreeMap<_, _> {
            events.map(|event| (Self::key(event), event["value"].clone())).collect()
        };
        let wanted = |event: &&Value| snapshot.interest.wants(event);
        let expected = values(&mut self.0.values().filter(wanted));
        let shown = values(&mut snapshot.events.iter());
        let Snapshot { who, revision, .. } = snapshot;
        assert_eq!(
            shown, expected,
            "{who} was shown the left at revision {revision}, the changes come to the right"
        );
    }
}

impl Interest {
    /// A random one: everything, or one of the apps, or some kinds.
    pub fn draw(seed: &mut crate::seed::Seed, apps: &[&str]) -> Self {
        let mut interest = Self::all();
        if seed.below(2) == 0 {
            interest.apps = [apps[seed.below(apps.len())].to_owned()].into();
        }
        if seed.below(3) == 0 {
            let kinds = ["instance", "shard", "app", "document"];
            interest.kinds = [kinds[seed.below(kinds.len())].to_owned()].into();
        }
        interest
    }
}
