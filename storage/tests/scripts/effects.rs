//! The effects of an act as a script shows them: the answer, then the events, then, for `show`, the
//! state.

use std::fmt::Write;

use roster_storage::brake::{Brake, Pace};
use roster_storage::catalog::{Catalog, Document, Instance, ShardSet, State};
use roster_storage::command::{Covered, Outcome, Refusal, Reply, Withdrawn};
use roster_storage::events::{Event, Held, Reason};
use roster_storage::latch::{Claim, Latch};
use roster_storage::names::{InstanceKey, LatchKey, LatchKind, Revision, ShardSetName};
use roster_storage::profile::PackedProfile;
use roster_storage::ring::Ring;
use roster_storage::shards::Shard;

/// An answer and its events, a line each.
pub fn told(revision: Revision, outcome: &Outcome, events: &[Event]) -> String {
    let mut text = answer(&outcome.result);
    if outcome.revision != revision {
        let _ = write!(text, " (first answered at r{})", outcome.revision);
    }
    text.push('\n');
    let items: Vec<String> = match &outcome.result {
        Ok(Reply::Batch(items)) => items.iter().map(answer).collect(),
        Ok(Reply::Released(items)) => items.iter().map(let_go).collect(),
        Ok(_) | Err(_) => Vec::new(),
    };
    for item in items {
        let _ = writeln!(text, "   - {item}");
    }
    for event in events {
        let _ = writeln!(text, "   {}", happened(event));
        if let (true, Event::InstancePut { key, now, .. }) = (event.puts_shard(), event) {
            let incarnation = now.instance.incarnation;
            let _ = writeln!(text, "   shard {key} put incarnation={incarnation}");
        }
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
        Ok(Reply::RingPut { created: true, epoch }) => format!("ring created epoch={epoch}"),
        Ok(Reply::RingPut { created: false, epoch }) => format!("ring put epoch={epoch}"),
        Ok(Reply::RingDeleted) => "ring deleted".into(),
        Ok(Reply::RingCompacted { epoch }) => format!("ring compacted epoch={epoch}"),
        Ok(Reply::ShardSetPut { created: true }) => "shard set created".into(),
        Ok(Reply::ShardSetPut { created: false }) => "shard set changed".into(),
        Ok(Reply::ShardSetDeleted) => "shard set deleted".into(),
        Ok(Reply::Released(items)) => format!("release of {}", items.len()),
        Ok(Reply::Rebalanced { changed }) => format!("rebalanced changed={changed}"),
        Ok(Reply::SessionOpened { session, ttl_ms }) => {
            format!("opened session={session} ttl={ttl_ms}ms")
        }
        Ok(Reply::SessionClosed { instances }) => format!("closed with {instances} instances"),
        Ok(Reply::Claimed { token: Some(token) }) => format!("holds token={token}"),
        Ok(Reply::Claimed { token: None }) => "waits".into(),
        Ok(Reply::Withdrawn(Withdrawn::Gone)) => "withdrawn".into(),
        Ok(Reply::Withdrawn(Withdrawn::Won { token })) => format!("has won token={token}"),
        Ok(Reply::Withdrawn(Withdrawn::Kept)) => "asked for again since, kept".into(),
        Ok(Reply::Withdrawn(Withdrawn::NotThere)) => "nothing to withdraw".into(),
        Ok(Reply::LatchReleased) => "latch released".into(),
        Ok(Reply::LatchBroken(claims)) => {
            let held: Vec<_> = claims.iter().map(|claim| claimed(claim)).collect();
            format!("latch broken, was held by {}", held.join("; "))
        }
        Ok(Reply::Batch(items)) => format!("batch of {}", items.len()),
        Ok(Reply::Expired { ended, dropped }) => format!("expired ended={ended} dropped={dropped}"),
        Ok(Reply::Suspected { changed, dropped }) => {
            format!("suspected changed={changed} dropped={dropped}")
        }
        Ok(Reply::BrakeSet) => "brake set".into(),
        Ok(Reply::BrakeOverridePut) => "brake override put".into(),
        Ok(Reply::BrakeOverrideCleared) => "brake override cleared".into(),
        Ok(Reply::PaceSet) => "pace set".into(),
    }
}

fn let_go(item: &Result<(), Refusal>) -> String {
    match item {
        Ok(()) => "released".into(),
        Err(refusal) => format!("refused: {refusal}"),
    }
}

fn happened(event: &Event) -> String {
    match event {
        Event::AppPut { app, .. } => format!("app {app} put"),
        Event::AppDeleted { app, reason } => format!("app {app} deleted: {}", why(reason)),
        Event::InstancePut { key, now, said, .. } => {
            let state = if now.state == State::Up { "" } else { now.state.word() };
            let put = format!("{key} put {} {state}", described(&now.instance));
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            format!("{}{said}", put.trim_end())
        }
        Event::InstanceDeleted { key, last, reason } => {
            format!("{key} deleted incarnation={}: {}", last.instance.incarnation, why(reason))
        }
        Event::ShardDeleted { key, incarnation, reason, held } => {
            let held: String = held.iter().map(who_held).collect();
            format!("shard {key} deleted incarnation={incarnation}: {}{held}", reason.word())
        }
        Event::SessionPut { session, ttl_ms, touched } => {
            format!("session {session} put ttl={ttl_ms}ms touched={touched}")
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
        Event::RingPut { app, ring } => format!("ring of {app} put {}", turned(ring)),
        Event::RingDeleted { app, reason } => format!("ring of {app} deleted: {}", why(reason)),
        Event::WorkPut { set, app, worker, shard, grant, release } => {
            let release = if *release { ", to be let go" } else { "" };
            format!("work {app}/{worker} put {shard} of {set} grant={grant}{release}")
        }
        Event::WorkEnded { set, app, worker, shard, grant, reason } => {
            let why = why(reason);
            format!("work {app}/{worker} ended {shard} of {set} grant={grant}: {why}")
        }
        Event::ClaimPut { latch, claim } => format!("{latch} claimed by {}", claimed(claim)),
        Event::ClaimEnded { latch, claim, reason } => {
            format!("{latch} given up by {}: {}", claimed(claim), why(reason))
        }
        Event::AlarmPut { scope, brake } => format!("brake of {scope:?} on {}", missing(brake)),
        Event::AlarmEnded { scope, brake, reason } => {
            format!("brake of {scope:?} off, was {}: {}", missing(brake), why(reason))
        }
    }
}

fn missing(brake: &Brake) -> String {
    format!("since={} missing={} of={}", brake.since, brake.missing, brake.of)
}

/// A claim: whose, and whether it holds.
fn claimed(claim: &Claim) -> String {
    let Claim { by, mode, value, since, token, asked: _ } = claim;
    let holds = token.map_or("waits".into(), |token| format!("holds token={token}"));
    let value = if value.is_empty() { "".into() } else { format!(" value={value}") };
    format!("{}/{:?} {} since={since} {holds}{value}", by.session, by.owner, mode.word())
}

fn who_held(held: &Held) -> String {
    let Held { set, holder } = held;
    match holder {
        Some(holder) => format!(", of {set} held by {holder}"),
        None => format!(", of {set} held by nobody"),
    }
}

/// A ring: who holds each slot, and who held the vacant ones, the longest vacant first.
fn turned(ring: &Ring) -> String {
    let (epoch, seed, replicas) = (ring.epoch(), ring.seed(), ring.replicas());
    let mut text = format!("epoch={epoch} seed={seed} replicas={replicas} slots");
    for holder in ring.holders() {
        let _ = write!(text, " {}", holder.map_or("-", |id| id.as_str()));
    }
    for (n, (slot, holder)) in ring.holes().enumerate() {
        let before = if n == 0 { ", vacant" } else { "" };
        let _ = write!(text, "{before} {slot}:{holder}");
    }
    text
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
fn said(profile: &PackedProfile) -> String {
    let mut text = String::new();
    for (name, value) in [("version", profile.version()), ("zone", profile.zone())] {
        if !value.is_empty() {
            let _ = write!(text, " {name}={value}");
        }
    }
    if profile.weight() != 1 {
        let _ = write!(text, " weight={}", profile.weight());
    }
    for (key, value) in profile.metadata() {
        let _ = write!(text, " meta.{key}={value}");
    }
    text
}

/// The state: sessions, apps with their instances, documents, overrides and ring, shard sets, latches.
pub fn shown(catalog: &Catalog) -> String {
    let mut text = String::new();
    for (id, session) in catalog.sessions() {
        let kind = if session.is_private() { "private" } else { "shared" };
        let (ttl, touched) = (session.ttl_ms(), session.touched);
        let things = session.things;
        let suspect = if session.suspect { " suspect" } else { "" };
        let _ = writeln!(
            text,
            "= session {id} {kind} ttl={ttl}ms touched={touched} things={things}{suspect}"
        );
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
        if let Some(ring) = &app.ring {
            let _ = writeln!(text, "= ring of {name} {}", turned(ring));
        }
    }
    text.push_str(&shown_sets(catalog));
    text.push_str(&shown_latches(catalog));
    text.push_str(&shown_brakes(catalog));
    if text.is_empty() { "= nothing\n".into() } else { text }
}

/// What the state has of shard sets.
pub fn shown_sets(catalog: &Catalog) -> String {
    catalog.shard_sets().map(|(name, set)| shown_set(name, set)).collect()
}

fn shown_set(name: &ShardSetName, set: &ShardSet) -> String {
    let (config, counts) = (&set.record.config, set.group.counts());
    let apps = match &config.apps {
        Covered::All => "*".into(),
        Covered::Apps(apps) => apps.iter().map(|app| app.as_str()).collect::<Vec<_>>().join(","),
    };
    let mut text = format!(
        "= shard set {name} revision={} epoch={} workers={} apps={apps} copies={}",
        set.record.revision, set.record.epoch, config.workers, config.copies
    );
    if let Some(scaling) = &set.record.scaling {
        let since = scaling.lower_since_ms.map_or("".into(), |ms| format!(" lower_since={ms}ms"));
        let _ = write!(text, " desired={}{since}", scaling.desired);
    }
    let _ = writeln!(
        text,
        "\n= counts of {name} shards={} assigned={} pending={} orphaned={} gone={} workers={}",
        counts.shards,
        counts.assigned,
        counts.pending,
        counts.orphaned,
        counts.gone,
        counts.workers
    );
    let mut shards: Vec<_> = set.group.shards().collect();
    shards.sort_by_key(|(shard, _)| shard.as_str());
    for (shard, Shard { holder, grant, next, gone }) in shards {
        let _ = write!(text, "= {shard} of {name}");
        let _ = match holder {
            Some(holder) => write!(text, " held by {holder} grant={grant}"),
            None => write!(text, " held by nobody, last grant={grant}"),
        };
        let next = next.as_ref().map_or("".into(), |next| format!(" next={next}"));
        let _ = writeln!(text, "{next}{}", if *gone { " gone" } else { "" });
    }
    text
}

/// What the state has of latches: their claims in the order of their places, each with the last
/// entry that asked for it.
pub fn shown_latches(catalog: &Catalog) -> String {
    [LatchKind::Lock, LatchKind::Election]
        .into_iter()
        .flat_map(|kind| {
            catalog.latches_after(kind, None).map(move |(name, latch)| (kind, name, latch))
        })
        .map(|(kind, name, latch)| shown_latch(&LatchKey::new(kind, name.clone()), latch))
        .collect()
}

/// Brakes that are on, what operators say about them, and the pace.
fn shown_brakes(catalog: &Catalog) -> String {
    let mut text = String::new();
    for (scope, brake) in catalog.brakes() {
        let _ = writeln!(text, "= brake of {scope:?} {}", missing(brake));
    }
    for (scope, word) in catalog.brake_overrides() {
        let until = word.expires_at_ms.map_or("".into(), |ms| format!(" until={ms}ms"));
        let _ = writeln!(text, "= brake of {scope:?} to {}{until}", word.mode.word());
    }
    if catalog.pace() != Pace::default() {
        let Pace { told_percent, held_percent, held_until_ms } = catalog.pace();
        let _ = writeln!(
            text,
            "= pace told={told_percent} held={held_percent} until={held_until_ms}ms"
        );
    }
    text
}

fn shown_latch(key: &LatchKey, latch: &Latch) -> String {
    let (holding, waiting, revision) = (latch.holding(), latch.waiting(), latch.revision);
    let mut text = format!("= {key} revision={revision} holding={holding} waiting={waiting}\n");
    for claim in latch.claims() {
        let _ = writeln!(text, "= {key} has {} asked={}", claimed(claim), claim.asked);
    }
    text
}
