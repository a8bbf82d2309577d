//! What one stream told, checked line by line.

use std::collections::{BTreeMap, BTreeSet};

use roster::client::Item;
use serde_json::Value;

use super::{End, Event, Line};

/// What a watch was asked for; empty sets stand for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    pub apps: BTreeSet<String>,
    pub kinds: BTreeSet<String>,
}

impl Interest {
    pub fn all() -> Self {
        Self::default()
    }

    pub fn app(app: &str) -> Self {
        Self { apps: [app.to_owned()].into(), ..Self::default() }
    }

    pub fn is_all(&self) -> bool {
        self.apps.is_empty() && self.kinds.is_empty()
    }

    pub fn wants(&self, event: &Value) -> bool {
        let among = |set: &BTreeSet<String>, name: &str| {
            set.is_empty() || event[name].as_str().is_some_and(|word| set.contains(word))
        };
        // Latches belong to no app; with one go those that are named like it.
        let of = if event["kind"] == "latch" { "id" } else { "app" };
        among(&self.apps, of) && among(&self.kinds, "kind")
    }

    /// As the query of a watch, with an `&` before each part.
    pub fn query(&self) -> String {
        let apps = self.apps.iter().map(|app| format!("&app={app}"));
        let kinds = self.kinds.iter().map(|kind| format!("&kind={kind}"));
        apps.chain(kinds).collect()
    }
}

/// What a stream told without a break: everything of its interest after `after`, up to `upto`.
#[derive(Clone, Debug)]
pub struct Run {
    /// Who was asked, for messages.
    pub who: String,
    pub interest: Interest,
    pub after: u64,
    pub upto: u64,
    /// The events of each revision, in their order.
    pub revisions: BTreeMap<u64, Vec<Value>>,
}

/// What stood there at a revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub who: String,
    pub interest: Interest,
    pub revision: u64,
    pub events: Vec<Value>,
}

/// Takes the lines of one watch, and panics at the first that breaks a promise.
#[derive(Clone, Debug)]
pub struct Listener {
    who: String,
    interest: Interest,
    run: Option<Run>,
    /// Events of a revision of which more are to come.
    half: Vec<Value>,
    /// The snapshot that is being told.
    snapshot: Option<Snapshot>,
    over: bool,
    compacted: bool,
    runs: Vec<Run>,
    snapshots: Vec<Snapshot>,
}

impl Listener {
    /// `after`: where the watch resumes; without it a snapshot comes first.
    pub fn new(who: impl Into<String>, interest: Interest, after: Option<u64>) -> Self {
        let mut listener = Self {
            who: who.into(),
            interest,
            run: None,
            half: Vec::new(),
            snapshot: None,
            over: false,
            compacted: false,
            runs: Vec::new(),
            snapshots: Vec::new(),
        };
        listener.run = after.map(|after| listener.run_after(after));
        listener
    }

    fn run_after(&self, after: u64) -> Run {
        Run {
            who: self.who.clone(),
            interest: self.interest.clone(),
            after,
            upto: after,
            revisions: BTreeMap::new(),
        }
    }

    /// Up to where everything was told; `None` before a snapshot is complete.
    pub fn upto(&self) -> Option<u64> {
        self.run.as_ref().map(|run| run.upto)
    }

    /// The run that goes on.
    pub fn run(&self) -> &Run {
        self.run.as_ref().unwrap_or_else(|| panic!("{} has no run", self.who))
    }

    pub fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots
    }

    /// Whether the node said that the stream ends.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the node said that the stream ends, or that it cannot go on without a snapshot.
    pub fn was_told_the_end(&self) -> bool {
        self.over || self.compacted
    }

    /// Whether the last word was that what comes next is not kept.
    pub fn is_compacted(&self) -> bool {
        self.compacted
    }

    /// The stream told nothing more. Only a broken connection may come unannounced.
    pub fn ended(&self, end: &End) {
        let announced = *end != End::Closed || self.was_told_the_end();
        assert!(announced, "S10: {} was ended without a word", self.who);
    }

    /// What was told; half a revision and half a snapshot do not count.
    pub fn told(mut self) -> (Vec<Run>, Vec<Snapshot>) {
        self.runs.extend(self.run);
        (self.runs, self.snapshots)
    }

    /// A client's watch, which resumes by itself.
    pub fn take_item(&mut self, item: &Item) {
        match item {
            Item::SnapshotBegin { line, .. }
            | Item::SnapshotEnd { line, .. }
            | Item::Bookmark { line, .. } => self.take(Line::parse(line)),
            Item::Listed(event) | Item::Changed(event) => {
                let Line::Event(parsed) = Line::parse(&event.line) else {
                    panic!("not an event: {event:?}")
                };
                self.take(Line::Event(Event { more: event.more, ..parsed }));
            }
            Item::Compacted { restart_from, .. } => {
                self.take(Line::Compacted { restart_from: restart_from.0 });
            }
            Item::Interrupted { .. } => self.snapshot = None,
            Item::Resumed { .. } => {}
        }
    }

    pub fn take(&mut self, line: Line) {
        assert!(!self.over, "S10: {} was told {line:?} after its end", self.who);
        match line {
            Line::SnapshotBegin(revision) => {
                assert!(self.run.is_none(), "S10: {} got a snapshot in between", self.who);
                self.compacted = false;
                let (who, interest) = (self.who.clone(), self.interest.clone());
                self.snapshot = Some(Snapshot { who, interest, revision, events: Vec::new() });
            }
            Line::SnapshotEnd(revision) => self.end_snapshot(revision),
            Line::Event(event) => match &mut self.snapshot {
                Some(snapshot) => {
                    let newest = snapshot.revision;
                    assert!(event.revision <= newest, "S10: {event:?} in a snapshot of {newest}");
                    snapshot.events.push(event.object);
                }
                None => self.change(event),
            },
            Line::Bookmark(revision) => self.mark("bookmark", revision),
            Line::Lagging(revision) => self.end("lagging", revision),
            Line::Bye(revision) => self.end("bye", revision),
            Line::Compacted { restart_from } => {
                self.nothing_is_half("compacted");
                self.compacted = true;
                if let Some(run) = self.run.take() {
                    let Run { who, upto, .. } = &run;
                    assert!(restart_from >= *upto, "S10: {who} goes back: {restart_from} < {upto}");
                    self.runs.push(run);
                }
            }
        }
    }

    fn end_snapshot(&mut self, revision: u64) {
        let snapshot = self.snapshot.take();
        let snapshot = snapshot.unwrap_or_else(|| panic!("{} got an end without one", self.who));
        assert_eq!(snapshot.revision, revision, "a snapshot is of one revision");
        self.snapshots.push(snapshot);
        self.run = Some(self.run_after(revision));
    }

    fn change(&mut self, event: Event) {
        let Event { revision, more, object } = event;
        let who = &self.who;
        let run = self.run.as_mut().unwrap_or_else(|| panic!("S10: {who} got {object} too early"));
        let upto = run.upto;
        assert!(revision > upto, "S10: {who} was told all up to {upto}, and then {object}");
        assert!(run.interest.wants(&object), "S10: {who} did not ask for {object}");
        if let Some(half) = self.half.first() {
            assert_eq!(half["revision"], revision, "S10: {who} got {object} within {half}");
        }
        self.half.push(object);
        if !more {
            run.revisions.insert(revision, std::mem::take(&mut self.half));
            run.upto = revision;
        }
    }

    fn mark(&mut self, what: &str, revision: u64) {
        self.nothing_is_half(what);
        let who = &self.who;
        let run = self.run.as_mut().unwrap_or_else(|| panic!("S10: {who} got a {what} too early"));
        let upto = run.upto;
        assert!(
            revision >= upto,
            "S10: {who} was told all up to {upto}, and then {what} {revision}"
        );
        run.upto = revision;
    }

    fn end(&mut self, what: &str, revision: u64) {
        self.over = true;
        // A snapshot that was not told in full is nothing to go on from.
        if self.snapshot.take().is_none() {
            self.mark(what, revision);
        }
    }

    fn nothing_is_half(&self, what: &str) {
        let (who, half) = (&self.who, &self.half);
        assert!(half.is_empty(), "S10: {who} got a {what} within a revision: {half:?}");
    }
}
