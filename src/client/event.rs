//! What a watch's lines and the history's events say.

use roster_storage::names::{Incarnation, Revision};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was made or changed; the event has its value, and a reason if an operator did it.
    Put,
    /// It is gone; the event has the reason.
    Delete,
}

/// One change of one object. Texts are as the node sent them: escape them before they reach a
/// terminal.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub action: Action,
    /// `app`, `instance`, `shard`, `document`; `ring`, the ring of an app; `worker`, one shard that a
    /// worker of a shard set holds; `latch`, one claim on a lock or an election; or a kind that this
    /// client is too old to know.
    pub kind: String,
    /// Of a latch: `lock` or `election`.
    pub latch: Option<String>,
    /// The entry that changed it. In a snapshot: the object's own last change.
    pub revision: Revision,
    /// When, RFC 3339 with milliseconds, by the leader's wall clock. Not in snapshots.
    pub time: Option<String>,
    /// The app that it belongs to; empty if it belongs to none, as a latch does.
    pub app: String,
    /// Which one of its kind. An app's and a ring's is the app's name, a shard's begins with its
    /// app's name. A worker's does not tell its shards apart: see `set` and `shard`. A latch's does
    /// not tell its claims apart: their values do.
    pub id: String,
    /// The life of the instance.
    pub incarnation: Option<Incarnation>,
    /// Of a worker: the shard set. Of a shard's delete: the first shard set that had it.
    pub set: Option<String>,
    /// Of a worker: which shard it holds, or held.
    pub shard: Option<String>,
    /// Of a worker: under which grant it holds the shard, or held it.
    pub grant: Option<Revision>,
    /// Of a shard's delete: who held it in `set`, if anybody did.
    pub holder: Option<String>,
    /// Of a shard's delete: the other shard sets that had it.
    pub also_held: Vec<HeldIn>,
    /// Of a delete: `deregistered`, `expired`, `replaced` or `operator`; of a worker also `released`,
    /// if it let the shard go, and `worker-gone`, if it lost the shard with its registration; of a
    /// latch `released` also if it left the queue; or `unmatched`, if it is still there but does not match the filter of this watch any more. Of a
    /// put: `operator`, if an operator's word changed the state.
    pub reason: Option<String>,
    /// What caused it, for people. Of a put only together with a reason: the state and what it was
    /// before.
    pub detail: Option<String>,
    /// Of a put: the object as JSON, as a read of it would give it. Of a latch's delete: the claim as
    /// it was last.
    pub value: Option<Box<RawValue>>,
    /// Whether another event of this revision follows.
    pub more: bool,
    /// The event as the node sent it: one line of JSON.
    pub line: Box<str>,
}

/// A shard set that had a shard which is gone now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeldIn {
    /// Which one.
    pub set: String,
    /// Who held the shard there, if anybody did.
    pub holder: Option<String>,
}

impl Event {
    /// The value as a type of the caller's; `None` if there is none, or of another shape.
    pub fn value_as<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.value.as_ref()?.get()).ok()
    }

    /// Reads one event of the history.
    pub(crate) fn parse(json: &str) -> Result<Self, String> {
        // Between tokens a line break means nothing, and within texts there is none.
        let line = json.replace(['\n', '\r'], " ");
        match Message::parse(line)? {
            Message::Change(event) => Ok(*event),
            Message::SnapshotBegin { .. }
            | Message::SnapshotEnd { .. }
            | Message::Bookmark { .. }
            | Message::Lagging { .. }
            | Message::Bye { .. }
            | Message::Compacted { .. }
            | Message::Unknown => Err("the history has something that is no change".into()),
        }
    }
}

/// One line of a watch.
#[derive(Clone, Debug)]
pub(super) enum Message {
    SnapshotBegin {
        revision: Revision,
        line: Box<str>,
    },
    SnapshotEnd {
        revision: Revision,
        line: Box<str>,
    },
    Change(Box<Event>),
    Bookmark {
        revision: Revision,
        line: Box<str>,
    },
    Lagging {
        revision: Revision,
        detail: String,
    },
    Bye {
        revision: Revision,
        detail: String,
    },
    Compacted {
        restart_from: Revision,
        detail: String,
        line: Box<str>,
    },
    /// Of a newer node; nothing that this client must know.
    Unknown,
}

#[derive(Deserialize)]
struct Wire {
    event: String,
    #[serde(default)]
    kind: String,
    latch: Option<String>,
    revision: Option<Revision>,
    time: Option<String>,
    #[serde(default)]
    app: String,
    #[serde(default)]
    id: String,
    incarnation: Option<Incarnation>,
    set: Option<String>,
    shard: Option<String>,
    grant: Option<Revision>,
    holder: Option<String>,
    #[serde(default)]
    also_held: Vec<HeldIn>,
    reason: Option<String>,
    detail: Option<String>,
    value: Option<Box<RawValue>>,
    #[serde(default)]
    more: bool,
    restart_from: Option<Revision>,
}

impl Message {
    /// Reads a line; the error says what is wrong with it.
    pub fn parse(line: String) -> Result<Self, String> {
        let wire: Wire = serde_json::from_str(&line).map_err(|e| format!("{e} in an event"))?;
        let line = line.into_boxed_str();
        let at = wire.revision.ok_or_else(|| format!("a {:?} without a revision", wire.event));
        let detail = wire.detail.clone().unwrap_or_default();
        Ok(match wire.event.as_str() {
            "put" => Self::Change(wire.into_event(Action::Put, at?, line).into()),
            "delete" => Self::Change(wire.into_event(Action::Delete, at?, line).into()),
            "snapshot-begin" => Self::SnapshotBegin { revision: at?, line },
            "snapshot-end" => Self::SnapshotEnd { revision: at?, line },
            "bookmark" => Self::Bookmark { revision: at?, line },
            "lagging" => Self::Lagging { revision: at?, detail },
            "bye" => Self::Bye { revision: at?, detail },
            "compacted" => {
                let from = wire.restart_from.ok_or("a \"compacted\" without restart_from")?;
                Self::Compacted { restart_from: from, detail, line }
            }
            _ => Self::Unknown,
        })
    }
}

impl Wire {
    fn into_event(self, action: Action, revision: Revision, line: Box<str>) -> Event {
        let grant = self.grant.or_else(|| self.granted());
        Event {
            action,
            kind: self.kind,
            latch: self.latch,
            revision,
            time: self.time,
            app: self.app,
            id: self.id,
            incarnation: self.incarnation,
            set: self.set,
            shard: self.shard,
            grant,
            holder: self.holder,
            also_held: self.also_held,
            reason: self.reason,
            detail: self.detail,
            value: self.value,
            more: self.more,
            line,
        }
    }

    /// A worker's put has the grant in its value.
    fn granted(&self) -> Option<Revision> {
        #[derive(Deserialize)]
        struct Held {
            grant: Revision,
        }
        let value = self.value.as_ref().filter(|_| self.kind == "worker")?;
        serde_json::from_str::<Held>(value.get()).ok().map(|held| held.grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_kept_as_it_came_beside_what_it_says() {
        let line = r#"{"event":"put","kind":"instance","revision":813,"time":"t","app":"pay","id":"a","incarnation":813,"value":{"port" : 1},"more":true,"new":1}"#;
        let Ok(Message::Change(event)) = Message::parse(line.into()) else { panic!("a change") };
        assert_eq!((event.revision, event.incarnation), (Revision(813), Some(Incarnation(813))));
        assert_eq!(event.value_as::<serde_json::Value>().expect("a value")["port"], 1);
        assert!(event.more);
        assert_eq!(&*event.line, line);
    }

    #[test]
    fn who_holds_or_held_a_shard_is_told() {
        let event = |line: &str| match Message::parse(line.into()) {
            Ok(Message::Change(event)) => event,
            other => panic!("{other:?} is no change"),
        };
        let held = event(
            r#"{"event":"put","kind":"worker","revision":8,"app":"fetchers","id":"f1","set":"main","shard":"pay/s2","value":{"set":"main","worker":"f1","shard":"pay/s2","grant":7,"release":false}}"#,
        );
        let lost = event(
            r#"{"event":"delete","kind":"worker","revision":9,"app":"fetchers","id":"f1","set":"main","shard":"pay/s2","grant":7,"reason":"released"}"#,
        );
        for event in [held, lost] {
            let told = (event.set.as_deref(), event.shard.as_deref(), event.grant);
            assert_eq!(told, (Some("main"), Some("pay/s2"), Some(Revision(7))));
        }
        let gone = event(
            r#"{"event":"delete","kind":"shard","revision":9,"app":"pay","id":"pay/s2","set":"main","holder":"f1","also_held":[{"set":"other","holder":null}],"reason":"expired"}"#,
        );
        assert_eq!((gone.set.as_deref(), gone.holder.as_deref()), (Some("main"), Some("f1")));
        assert_eq!(gone.also_held, [HeldIn { set: "other".into(), holder: None }]);
    }

    #[test]
    fn a_claim_is_told_without_an_app_and_with_what_it_was_at_its_end() {
        let line = r#"{"event":"delete","kind":"latch","revision":9,"latch":"lock","id":"db/a","value":{"session":"7","owner":"w","mode":"shared","token":8},"reason":"released"}"#;
        let Ok(Message::Change(event)) = Message::parse(line.into()) else { panic!("a change") };
        let told = (event.latch.as_deref(), event.id.as_str(), event.app.as_str());
        assert_eq!(told, (Some("lock"), "db/a", ""));
        assert_eq!(event.value_as::<serde_json::Value>().expect("a value")["token"], 8);
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_new_is_passed_over() {
        let said = |line: &str| Message::parse(line.into()).expect_err(line);
        assert!(said(r#"{"event":"put"}"#).contains("without a revision"));
        assert!(said(r#"{"event":"compacted"}"#).contains("without restart_from"));
        assert!(said("<html>").contains("expected value"));
        assert!(matches!(Message::parse(r#"{"event":"new"}"#.into()), Ok(Message::Unknown)));
    }
}
