//! What holds of the catalogue for every sequence of commands. The sequences live in a small
//! universe, so that names, sessions and keys meet again and again; see `properties/acts.rs`.

#[path = "properties/acts.rs"]
mod acts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use roster_storage::catalog::{At, Catalog, CatalogBuilder, Document, Record, recomputed_hash};
use roster_storage::command::{Command, EncodedCommand, Outcome, Reply};
use roster_storage::events::Event;
use roster_storage::names::{AppName, DocumentName, Incarnation, InstanceKey, Revision};
use roster_storage::raft_types::Entry;

use acts::{Step, World, acts, garbage};

/// All that one entry gave.
type Effect = (Outcome, Vec<Event>);

fn apply(catalog: &mut Catalog, step: &Step) -> Effect {
    let effect = catalog.apply(step.at, &step.command);
    catalog.passed(step.at.revision.0);
    effect
}

/// What a checkpoint keeps: the records, through their bytes.
fn reopened(catalog: &Catalog) -> Catalog {
    let mut builder = CatalogBuilder::default();
    for record in catalog.records() {
        let bytes = rmp_serde::to_vec_named(&record).expect("a record encodes");
        let read: Record = rmp_serde::from_slice(&bytes).expect("a record decodes");
        assert_eq!(read, record);
        builder.add(read).expect("the records fit each other");
    }
    builder.finish()
}

/// The hash of all but the clock, which a refused command moves too.
fn hash_without_clock(catalog: &Catalog) -> u64 {
    recomputed_hash(catalog.records().filter(|record| !matches!(record, Record::Clock(_))))
}

fn refused(outcome: &Outcome) -> bool {
    match &outcome.result {
        Err(_) | Ok(Reply::Done) => true,
        Ok(Reply::Expired { ended, .. }) => *ended == 0,
        Ok(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Invariant S9, and that the incremental hash, the counts and the indexes belong to the records.
    #[test]
    fn the_same_commands_give_the_same_state_on_every_node(acts in acts(80)) {
        let (mut world, mut follower) = (World::default(), Catalog::default());
        for act in acts {
            let step = world.step(&act);
            let effect = apply(&mut world.catalog, &step);
            let encoded = EncodedCommand::new(&step.command).expect("small");
            let read = Step { command: encoded.decode().expect("just encoded"), ..step };
            prop_assert_eq!(&effect, &apply(&mut follower, &read));
            prop_assert_eq!(world.catalog.state_hash(), follower.state_hash());
            prop_assert_eq!(world.catalog.verify(), Ok(()), "after {}", read.command);
        }
        prop_assert!(world.catalog == follower);
    }

    /// Invariant S8: where a node read a checkpoint makes no difference to anything later.
    #[test]
    fn a_checkpoint_anywhere_makes_no_difference(acts in acts(80), split in 0..80_usize) {
        let (mut world, mut other) = (World::default(), Catalog::default());
        for (n, act) in acts.iter().enumerate() {
            if n == split {
                other = reopened(&other);
                prop_assert_eq!(other.verify(), Ok(()));
            }
            let step = world.step(act);
            let effect = apply(&mut world.catalog, &step);
            prop_assert_eq!(&effect, &apply(&mut other, &step));
            prop_assert_eq!(world.catalog.state_hash(), other.state_hash());
            prop_assert_eq!(world.catalog.next_due_ms(), other.next_due_ms());
        }
        prop_assert!(world.catalog == other);
        prop_assert_eq!(other.verify(), Ok(()));
    }

    /// A version that a reader holds is not touched by what comes later.
    #[test]
    fn a_held_version_stays_as_it_is(acts in acts(60), split in 0..60_usize) {
        let mut world = World::default();
        let mut held = None;
        for (n, act) in acts.iter().enumerate() {
            if n == split {
                held = Some((world.catalog.clone(), world.catalog.records().collect::<Vec<_>>()));
            }
            let step = world.step(act);
            apply(&mut world.catalog, &step);
        }
        if let Some((version, records)) = held {
            prop_assert!(version.records().eq(records));
            prop_assert_eq!(version.verify(), Ok(()));
        }
    }

    /// Invariant S6: each life begins once, and ends once, with its shard.
    #[test]
    fn each_incarnation_begins_once_and_ends_once_with_its_shard(acts in acts(120)) {
        let mut world = World::default();
        let mut lives = Lives::default();
        for act in acts {
            let step = world.step(&act);
            let (_, events) = apply(&mut world.catalog, &step);
            lives.follow(&events);
            lives.hold_against(&world.catalog);
        }
    }

    /// Events alone tell every document.
    #[test]
    fn events_tell_all_documents(acts in acts(120)) {
        let mut world = World::default();
        let mut told = Documents::new();
        for act in acts {
            let step = world.step(&act);
            let (_, events) = apply(&mut world.catalog, &step);
            follow_documents(&mut told, &events);
            prop_assert_eq!(&documents_of(&world.catalog), &told);
        }
    }

    /// Who waits for another list of documents is told of every one, its app's new begin too; and,
    /// once the app had a document, of nothing else.
    #[test]
    fn a_list_of_documents_is_new_when_a_document_is(acts in acts(120)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let before = world.catalog.clone();
            apply(&mut world.catalog, &step);
            for (name, app) in world.catalog.apps_after(None) {
                let old = before.app(name);
                let (was, is) = (old.map(|old| old.documents_changed()), app.documents_changed());
                if old.is_none_or(|old| old.documents != app.documents) {
                    prop_assert_eq!(is, step.at.revision, "{} after {}", name, step.command);
                } else if app.record.documents_changed > Revision(0) {
                    prop_assert_eq!(was, Some(is), "{} after {}", name, step.command);
                } else {
                    prop_assert!(was <= Some(is), "{} after {}", name, step.command);
                }
            }
        }
    }

    /// An app goes by itself only without instances and documents, and then no later than its policy
    /// says.
    #[test]
    fn an_app_goes_by_itself_when_it_is_empty_and_only_then(acts in acts(120)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let mut ticked = world.catalog.clone();
            ticked.apply(step.at, &Command::Tick);
            let now = step.at.stamp.cluster_ms;
            for (name, app) in world.catalog.apps_after(None) {
                let after = app.record.policy.remove_when_empty_after_ms;
                let over = match (app.record.empty_since_ms, after) {
                    (Some(since), Some(after)) => app.documents.is_empty() && since + after <= now,
                    (None, _) | (_, None) => false,
                };
                prop_assert_eq!(ticked.app(name).is_none(), over, "{}", name);
            }
            apply(&mut world.catalog, &step);
        }
    }

    /// Who is refused changed nothing; only the clock moved, and what fell due by it went.
    #[test]
    fn a_refused_command_changes_nothing(acts in acts(80)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let mut ticked = world.catalog.clone();
            let (_, due) = ticked.apply(step.at, &Command::Tick);
            let (outcome, events) = apply(&mut world.catalog, &step);
            let replayed = outcome.revision != step.at.revision;
            if refused(&outcome) || replayed {
                prop_assert_eq!(events, due, "{}: {}", step.command, outcome);
                let hashes = (hash_without_clock(&ticked), hash_without_clock(&world.catalog));
                prop_assert_eq!(hashes.0, hashes.1, "{}: {}", step.command, outcome);
                prop_assert_eq!(ticked.state_hash(), world.catalog.state_hash());
            }
        }
    }

    /// A batch is its items, one after the other, in one revision: a refused one leaves nothing.
    #[test]
    fn refused_items_of_a_batch_change_nothing(acts in acts(80)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let mut without = world.catalog.clone();
            let (outcome, _) = apply(&mut world.catalog, &step);
            let (Command::Batch(batch), Ok(Reply::Batch(replies))) = (&step.command, &outcome.result)
            else {
                continue;
            };
            if batch.request.is_some() {
                continue;
            }
            let mut agreed = batch.clone();
            let mut replies = replies.iter();
            agreed.items.retain(|_| replies.next().is_some_and(Result::is_ok));
            let agreed = Step { at: step.at, command: Command::Batch(agreed) };
            apply(&mut without, &agreed);
            prop_assert!(without == world.catalog);
        }
    }

    /// Invariant S2: revisions and both clocks only grow, whatever the stamps say.
    #[test]
    fn clocks_never_go_back(acts in acts(60)) {
        let mut world = World::default();
        let mut before = world.catalog.clock();
        for act in acts {
            let mut step = world.step(&act);
            step.at.stamp.cluster_ms = step.at.stamp.cluster_ms.saturating_sub(act.back_ms);
            step.at.stamp.wall_ms = step.at.stamp.wall_ms.saturating_sub(act.back_ms);
            apply(&mut world.catalog, &step);
            let now = world.catalog.clock();
            prop_assert!(now.cluster_ms >= before.cluster_ms && now.wall_ms >= before.wall_ms);
            prop_assert!(now.last_session >= before.last_session);
            before = now;
        }
    }

    /// Damage is an error, never a panic.
    #[test]
    fn bytes_that_are_no_command_are_refused(bytes in garbage()) {
        let wrapped = rmp_serde::to_vec(&serde_bytes::Bytes::new(&bytes)).expect("bytes encode");
        let command: EncodedCommand = rmp_serde::from_slice(&wrapped).expect("any bytes");
        let _ = command.decode();
        let _ = format!("{command:?}");
        let _ = rmp_serde::from_slice::<EncodedCommand>(&bytes);
        let _ = rmp_serde::from_slice::<Record>(&bytes);
        let _ = rmp_serde::from_slice::<Entry>(&bytes);
    }
}

/// What a watcher knows of documents from events alone.
type Documents = BTreeMap<(AppName, DocumentName), Arc<Document>>;

fn documents_of(catalog: &Catalog) -> Documents {
    let each = |(app, name, document): (&AppName, &DocumentName, &Arc<Document>)| {
        ((app.clone(), name.clone()), document.clone())
    };
    catalog
        .apps_after(None)
        .flat_map(|(app, known)| known.documents_after(None).map(move |(n, d)| (app, n, d)))
        .map(each)
        .collect()
}

fn follow_documents(told: &mut Documents, events: &[Event]) {
    for event in events {
        match event {
            Event::DocumentPut { app, name, document } => {
                told.insert((app.clone(), name.clone()), document.clone());
            }
            Event::DocumentDeleted { app, name, .. } => {
                let gone = told.remove(&(app.clone(), name.clone()));
                assert!(gone.is_some(), "{app}/{name} was deleted twice");
            }
            Event::AppDeleted { app, .. } => {
                assert!(told.keys().all(|(of, _)| of != app), "{app} went before its documents");
            }
            Event::AppPut { .. }
            | Event::InstancePut { .. }
            | Event::InstanceDeleted { .. }
            | Event::ShardPut { .. }
            | Event::ShardDeleted { .. }
            | Event::SessionPut { .. }
            | Event::SessionEnded { .. }
            | Event::RingPut { .. }
            | Event::RingDeleted { .. }
            | Event::WorkPut { .. }
            | Event::WorkEnded { .. } => {}
        }
    }
}

/// What a watcher knows of lives from events alone.
#[derive(Default)]
struct Lives {
    living: BTreeMap<InstanceKey, Incarnation>,
    begun: BTreeSet<(InstanceKey, Incarnation)>,
}

impl Lives {
    fn follow(&mut self, events: &[Event]) {
        let mut shards_gone = Vec::new();
        let mut gone = Vec::new();
        for event in events {
            match event {
                Event::InstancePut { key, now, .. } => {
                    let instance = &now.instance;
                    let life = *self.living.entry(key.clone()).or_insert(instance.incarnation);
                    assert_eq!(life, instance.incarnation, "{key} was replaced without an end");
                }
                Event::ShardPut { key, incarnation, .. } => {
                    assert_eq!(self.living.get(key), Some(incarnation), "a shard of nobody");
                    // Once more where its instance has a new address.
                    self.begun.insert((key.clone(), *incarnation));
                }
                Event::InstanceDeleted { key, last, .. } => {
                    let incarnation = &last.instance.incarnation;
                    assert_eq!(self.living.remove(key), Some(*incarnation), "{key} ended twice");
                    gone.push((key, incarnation));
                }
                Event::ShardDeleted { key, incarnation, .. } => {
                    shards_gone.push((key, incarnation));
                }
                Event::AppPut { .. }
                | Event::AppDeleted { .. }
                | Event::SessionPut { .. }
                | Event::SessionEnded { .. }
                | Event::DocumentPut { .. }
                | Event::DocumentDeleted { .. }
                | Event::RingPut { .. }
                | Event::RingDeleted { .. }
                | Event::WorkPut { .. }
                | Event::WorkEnded { .. } => {}
            }
        }
        assert_eq!(gone, shards_gone, "instances and shards go together");
    }

    /// The events tell the state.
    fn hold_against(&self, catalog: &Catalog) {
        let mut count = 0;
        for (name, app) in catalog.apps_after(None) {
            for (id, instance) in &app.instances {
                let key = InstanceKey::new(name.clone(), id.clone());
                assert_eq!(self.living.get(&key), Some(&instance.incarnation), "{key}");
                assert!(self.begun.contains(&(key, instance.incarnation)), "a life without begin");
                count += 1;
            }
        }
        assert_eq!(self.living.len(), count, "a life that nobody ended");
    }
}

/// Limits are too far for random sequences; these go there.
mod at_the_limit {
    use super::*;
    use roster_storage::command::{OpenSession, Refusal, Register, Request};
    use roster_storage::limits::{
        COMMAND_BYTES_MAX, DOCUMENT_BYTES_MAX, DUE_PER_ENTRY_MAX, ID_BYTES_MAX,
        IDEMPOTENCY_BYTES_MAX, SESSION_THINGS_MAX, TEXT_BYTES_MAX,
    };
    use roster_storage::names::SessionId;

    fn at(revision: u64) -> At {
        At { revision: Revision(revision), term: 1, ..At::default() }
    }

    fn full_session() -> (Catalog, u64) {
        let mut catalog = Catalog::default();
        let open = OpenSession { ttl_ms: None, name: "host".into(), request: None };
        catalog.apply(at(1), &Command::OpenSession(open));
        for n in 0..SESSION_THINGS_MAX as u64 {
            let (outcome, _) = catalog.apply(at(n + 2), &Command::Register(on_session_1(n)));
            assert!(outcome.result.is_ok(), "{outcome}");
        }
        (catalog, SESSION_THINGS_MAX as u64 + 2)
    }

    fn on_session_1(n: u64) -> Register {
        Register { session: Some(SessionId(1)), ..acts::register("pay", &n.to_string()) }
    }

    #[test]
    fn a_full_session_takes_nothing_more_but_restarts_of_what_it_has() {
        let (mut catalog, next) = full_session();
        let more = Command::Register(on_session_1(next));
        let (outcome, events) = catalog.apply(at(next), &more);
        let limit = SESSION_THINGS_MAX as u64;
        let full = Refusal::SessionFull { session: SessionId(1), limit };
        assert_eq!((outcome.result, events), (Err(full), vec![]));
        let restart = Command::Register(Register { takeover: true, ..on_session_1(7) });
        let (outcome, _) = catalog.apply(at(next + 1), &restart);
        assert!(outcome.result.is_ok(), "{outcome}");
        assert_eq!(catalog.verify(), Ok(()));
    }

    #[test]
    fn what_falls_due_together_is_cleared_in_bounded_pieces() {
        let mut catalog = Catalog::default();
        let many = DUE_PER_ENTRY_MAX as u64 + 1;
        for n in 1..=many {
            let app = format!("app-{n}").parse().expect("a name");
            catalog.apply(at(n), &Command::PutApp(acts::short_lived(app)));
        }
        let mut late = at(many + 1);
        late.stamp.cluster_ms = 3_600_000;
        let (_, events) = catalog.apply(late, &Command::Tick);
        assert_eq!(events.len(), DUE_PER_ENTRY_MAX);
        late.revision = Revision(many + 2);
        let (_, events) = catalog.apply(late, &Command::Tick);
        assert_eq!((events.len(), catalog.app_count()), (1, 0));
        assert_eq!(catalog.verify(), Ok(()));
    }

    #[test]
    fn answers_are_kept_up_to_a_limit_and_found_again_beyond_it() {
        let open = |key: &str| {
            let request = Request { key: key.parse().expect("a key"), digest: (1, 1), part: 0 };
            let request = Some(request);
            Command::OpenSession(OpenSession { ttl_ms: None, name: "host".into(), request })
        };
        let mut catalog = Catalog::default();
        let first = catalog.apply(at(1), &open("K")).0;
        let mut builder = CatalogBuilder::default();
        for mut record in catalog.records() {
            if let Record::Kept { value, .. } = &mut record {
                value.bytes = IDEMPOTENCY_BYTES_MAX;
            }
            builder.add(record).expect("fits");
        }
        let mut catalog = builder.finish();
        assert_eq!(catalog.apply(at(2), &open("L")).0.result, Err(Refusal::TooManyKeys));
        assert_eq!(catalog.apply(at(3), &open("K")).0, first);
    }

    #[test]
    fn a_command_that_is_too_large_is_not_encoded() {
        let mut register = on_session_1(1);
        register.profile.payload = vec![0; COMMAND_BYTES_MAX];
        assert!(EncodedCommand::new(&Command::Register(register)).is_err());
    }

    #[test]
    fn records_that_contradict_each_other_are_refused() {
        let (catalog, _) = full_session();
        let records: Vec<_> = catalog.records().take(4).collect();
        for twice in &records {
            let mut builder = CatalogBuilder::default();
            records.iter().for_each(|r| builder.add(r.clone()).expect("fits"));
            assert!(builder.add(twice.clone()).is_err(), "taken twice: {twice:?}");
        }
        let mut builder = CatalogBuilder::default();
        assert!(builder.add(records[3].clone()).is_err(), "an instance without app and session");
        records.iter().for_each(|r| builder.add(r.clone()).expect("fits"));
        assert!(builder.finish().verify().is_err(), "the session counts more than came");
    }

    #[test]
    fn a_document_without_its_app_or_for_a_second_time_is_refused() {
        let mut catalog = Catalog::default();
        catalog.apply(at(1), &Command::PutDocument(acts::document("pay", "flow")));
        let records: Vec<_> = catalog.records().collect();
        let [clock, app, document] = records.as_slice() else { panic!("{records:?}") };
        let mut builder = CatalogBuilder::default();
        builder.add(clock.clone()).expect("fits");
        assert!(builder.add(document.clone()).is_err(), "its app did not come yet");
        builder.add(app.clone()).expect("fits");
        builder.add(document.clone()).expect("fits");
        assert!(builder.add(document.clone()).is_err(), "it came before");
        assert_eq!(builder.finish().verify(), Ok(()));
    }

    /// The limits fit each other: no document is too large for the log.
    #[test]
    fn the_largest_document_fits_into_a_log_entry() {
        let mut largest = acts::document(&"a".repeat(ID_BYTES_MAX), &"n".repeat(ID_BYTES_MAX));
        largest.value = "1".repeat(DOCUMENT_BYTES_MAX).into();
        largest.by = "b".repeat(TEXT_BYTES_MAX).into();
        assert!(EncodedCommand::new(&Command::PutDocument(largest)).is_ok());
    }
}
