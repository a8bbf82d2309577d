//! The effects of an act as a script shows them: the answer, then the events, then, for `show`, the
//! state.

use std::fmt::Write;

use roster_storage::catalog::{Catalog, Document, Instance, State};
use roster_storage::command::{Outcome, Profile, Refusal, Reply};
use roster_storage::events::{Event, Reason};
use roster_storage::names::{InstanceKey, Revision};

/// An answer and its events, a line each.
pub fn told(revision: Revision, outcome: &Outcome, events: &[Event]) -> String {
    let mut text = answer(&outcome.result);
    if outcome.revision != revision {
        let _ = write!(text, " (first answered at r{})", outcome.revision);
    }
    text.push('\n');
    if let Ok(Reply::Batch(items)) = &outcome.result {
        for item in items {
            let _ = writeln!(text, "   - {}", answer(item));
        }
    }
    for event in events {
        let _ = writeln!(text, "   {}", happened(event));
    }
    text
}

fn answer(result: &Result<Reply, Refusal>) -> String {
    match result {
        Err(refusal) => format!("refused: {refusal}"),
        Ok(Reply::Done) => "done".into(),
        Ok(Reply::AppPut { created: true }) => "app created".into(),
        Ok(Reply::AppPut { created: false }) => "app changed".into(),
        Ok(Reply::AppDeleted { instances }) => format!("app deleted with {instances} instances"),
        Ok(Reply::Registered(r)) => format!(
            "{} incarnation={} session={} ttl={}ms",
            if r.created { "registered" } else { "updated" },
            r.incarnation,
            r.session,
            r.ttl_ms
        ),
        Ok(Reply::Patched { incarnation }) => format!("patched incarnation={incarnation}"),
        Ok(Reply::Deregistered { incarnation }) => {
            format!("deregistered incarnation={incarnation}")
        }
        Ok(Reply::OverridePut) => "override put".into(),
        Ok(Reply::OverrideCleared) => "override cleared".into(),
        Ok(Reply::DocumentPut { created: true }) => "document created".into(),
        Ok(Reply::DocumentPut { created: false }) => "document changed".into(),
        Ok(Reply::DocumentDeleted) => "document deleted".into(),
        Ok(Reply::SessionOpened { session, ttl_ms }) => {
            format!("opened session={session} ttl={ttl_ms}ms")
        }
        Ok(Reply::SessionClosed { instances }) => format!("closed with {instances} instances"),
        Ok(Reply::Batch(items)) => format!("batch of {}", items.len()),
        Ok(Reply::Expired { ended, dropped }) => format!("expired ended={ended} dropped={dropped}"),
    }
}

fn happened(event: &Event) -> String {
    match event {
        Event::AppPut { app, .. } => format!("app {app} put"),
        Event::AppDeleted { app, reason } => format!("app {app} deleted: {}", why(reason)),
        Event::InstancePut { key, now, .. } => {
            let state = if now.state == State::Up { "" } else { now.state.word() };
            format!("{key} put {} {state}", described(&now.instance)).trim_end().into()
        }
        Event::InstanceDeleted { key, last, reason } => {
            format!("{key} deleted incarnation={}: {}", last.instance.incarnation, why(reason))
        }
        Event::ShardPut { key, incarnation, .. } => {
            format!("shard {key} put incarnation={incarnation}")
        }
        Event::ShardDeleted { key, incarnation, reason } => {
            format!("shard {key} deleted incarnation={incarnation}: {}", reason.word())
        }
        Event::SessionPut { session, value } => {
            format!("session {session} put ttl={}ms touched={}", value.ttl_ms, value.touched)
        }
        Event::SessionEnded { session, reason } => {
            format!("session {session} ended: {}", why(reason))
        }
        Event::DocumentPut { app, name, document } => {
            format!("document {app}/{name} put {}", written(document))
        }
        Event::DocumentDeleted { app, name, reason, by } => {
            format!("document {app}/{name} deleted by={by}: {}", why(reason))
        }
    }
}

fn why(reason: &Reason) -> String {
    format!("{}, {}", reason.word(), reason.detail())
}

fn described(instance: &Instance) -> String {
    let Instance { incarnation, session, revision, profile, .. } = instance;
    format!("incarnation={incarnation} session={session} revision={revision}{}", said(profile))
}

fn written(document: &Document) -> String {
    let Document { value, by, revision, .. } = document;
    match value.len() {
        0..=80 => format!("revision={revision} by={by} {value}"),
        bytes => format!("revision={revision} by={by} {bytes} bytes"),
    }
}

/// What a profile says, where it is not what it is without words.
fn said(profile: &Profile) -> String {
    let mut text = String::new();
    for (name, value) in [("version", &profile.version), ("zone", &profile.zone)] {
        if !value.is_empty() {
            let _ = write!(text, " {name}={value}");
        }
    }
    if profile.weight != 1 {
        let _ = write!(text, " weight={}", profile.weight);
    }
    for (key, value) in profile.metadata.iter() {
        let _ = write!(text, " meta.{key}={value}");
    }
    text
}

/// The state: sessions, apps with their instances, documents and overrides.
pub fn shown(catalog: &Catalog) -> String {
    let mut text = String::new();
    for (id, session) in catalog.sessions() {
        let kind = if session.private { "private" } else { "shared" };
        let (ttl, touched) = (session.ttl_ms, session.touched);
        let things = session.things;
        let _ =
            writeln!(text, "= session {id} {kind} ttl={ttl}ms touched={touched} things={things}");
    }
    for (name, app) in catalog.apps_after(None) {
        let (revision, members) = (app.record.revision, app.record.members_changed);
        let _ = writeln!(text, "= app {name} revision={revision} members_changed={members}");
        for (id, instance) in &app.instances {
            let key = InstanceKey::new(name.clone(), id.clone());
            let state = catalog.state_of(&key).word();
            let _ = writeln!(text, "= {key} {state} {}", described(instance));
        }
        for (document, value) in &app.documents {
            let _ = writeln!(text, "= document {name}/{document} {}", written(value));
        }
        if app.record.documents_changed > Revision(0) {
            let (changed, bytes) = (app.documents_changed(), app.document_bytes);
            let _ = writeln!(text, "= documents of {name} changed={changed} counted={bytes}");
        }
        for (key, word) in catalog.overrides_of(name) {
            let until = word.expires_at_ms.map_or("".into(), |ms| format!(" until={ms}ms"));
            let _ = writeln!(text, "= override {key} {:?}{until}", word.state);
        }
    }
    if text.is_empty() { "= nothing\n".into() } else { text }
}
