//! Limits are too far for random sequences; these go there.

use super::*;
use roster_storage::command::{
    Condition, Covered, Deregister, OpenSession, Patch, PutRing, PutShardSet, Register, Request,
    ShardSetConfig,
};
use roster_storage::limits::{
    COMMAND_BYTES_MAX, DOCUMENT_BYTES_MAX, DUE_PER_ENTRY_MAX, ID_BYTES_MAX, IDEMPOTENCY_BYTES_MAX,
    RING_SLOTS_MAX, SESSION_THINGS_MAX, SHARD_SETS_MAX, TEXT_BYTES_MAX, WEIGHT_MAX,
};
use roster_storage::names::{AppName, InstanceKey, SessionId};

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

/// A ring of the heaviest workers, as many as it takes, and two that it does not.
fn full_ring() -> (Catalog, AppName, u64) {
    let mut catalog = Catalog::default();
    let fit = (RING_SLOTS_MAX / usize::from(WEIGHT_MAX)) as u64;
    for n in 1..=fit + 2 {
        let mut register = acts::register("pay", &format!("{n:04}"));
        register.profile.weight = WEIGHT_MAX;
        catalog.apply(at(n), &Command::Register(register));
    }
    let app: AppName = "pay".parse().expect("a name");
    let condition = Condition::Any;
    let ring = PutRing { app: app.clone(), seed: 0, replicas: 1, condition };
    catalog.apply(at(fit + 3), &Command::PutRing(ring));
    (catalog, app, fit)
}

fn weight_of(catalog: &Catalog, app: &AppName, n: u64) -> Option<u16> {
    let id = format!("{n:04}").parse().expect("an id");
    catalog.ring(app).and_then(|ring| ring.weight_of(&id))
}

#[test]
fn who_finds_a_ring_full_is_taken_in_when_there_is_room() {
    let (mut catalog, app, fit) = full_ring();
    assert_eq!(weight_of(&catalog, &app, fit), Some(WEIGHT_MAX));
    assert_eq!(weight_of(&catalog, &app, fit + 1), None);
    assert_eq!(catalog.verify(), Ok(()));

    let key = |n: u64| InstanceKey::new(app.clone(), format!("{n:04}").parse().expect("an id"));
    let (incarnation, condition) = (None, Condition::Any);
    let leave = Deregister { key: key(1), incarnation, by_operator: false, condition };
    let (_, events) = catalog.apply(at(fit + 4), &Command::Deregister(leave));
    assert_eq!(weight_of(&catalog, &app, fit + 1), Some(WEIGHT_MAX));
    assert_eq!(weight_of(&catalog, &app, fit + 2), None);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::RingPut { .. })).count(), 1);
    assert_eq!(catalog.verify(), Ok(()));

    let lighter = Patch { weight: Some(1), ..patch(key(2)) };
    catalog.apply(at(fit + 5), &Command::Patch(lighter));
    assert_eq!(weight_of(&catalog, &app, fit + 2), None, "it is too heavy still");
    let lighter = Patch { weight: Some(3), ..patch(key(fit + 2)) };
    catalog.apply(at(fit + 6), &Command::Patch(lighter));
    assert_eq!(weight_of(&catalog, &app, fit + 2), Some(3));
    assert_eq!(catalog.verify(), Ok(()));
}

fn patch(key: InstanceKey) -> Patch {
    let (incarnation, weight, payload) = (None, None, None);
    let (metadata, condition) = Default::default();
    Patch { key, incarnation, metadata, weight, payload, condition }
}

fn shard_set(name: &str) -> PutShardSet {
    let apps = Covered::Apps(["pay".parse().expect("a name")].into());
    let workers = "work".parse().expect("a name");
    PutShardSet {
        set: name.parse().expect("a name"),
        config: ShardSetConfig { workers, apps, copies: 1, scaling: None },
        condition: Condition::Any,
    }
}

#[test]
fn there_are_so_many_shard_sets_and_no_more() {
    let mut catalog = Catalog::default();
    catalog.apply(at(1), &Command::Register(acts::register("work", "w")));
    let limit = SHARD_SETS_MAX as u64;
    for n in 0..limit {
        let (outcome, _) =
            catalog.apply(at(n + 2), &Command::PutShardSet(shard_set(&n.to_string())));
        assert!(outcome.result.is_ok(), "{outcome}");
    }
    let before = catalog.clone();
    let (outcome, events) = catalog.apply(at(limit + 2), &Command::PutShardSet(shard_set("more")));
    assert_eq!((outcome.result, events), (Err(Refusal::TooManyShardSets { limit }), vec![]));
    assert!(catalog == before);
    let (outcome, _) = catalog.apply(at(limit + 3), &Command::PutShardSet(shard_set("7")));
    assert!(outcome.result.is_ok(), "those that are there can be changed: {outcome}");
    assert_eq!(catalog.verify(), Ok(()));
}

#[test]
fn records_of_rings_and_shard_sets_out_of_place_are_refused() {
    let mut catalog = Catalog::default();
    catalog.apply(at(1), &Command::Register(acts::register("work", "w")));
    catalog.apply(at(2), &Command::Register(acts::register("pay", "a")));
    let (app, condition) = ("work".parse().expect("a name"), Condition::Any);
    catalog.apply(at(3), &Command::PutRing(PutRing { app, seed: 0, replicas: 1, condition }));
    catalog.apply(at(4), &Command::PutShardSet(shard_set("S")));
    let records: Vec<_> = catalog.records().collect();
    let all = || {
        let mut builder = CatalogBuilder::default();
        records.iter().for_each(|record| builder.add(record.clone()).expect("fits"));
        builder
    };
    for record in &records {
        assert!(all().add(record.clone()).is_err(), "taken twice: {record:?}");
        let hangs =
            matches!(record, Record::Ring { .. } | Record::ShardSet { .. } | Record::Shard { .. });
        let alone = CatalogBuilder::default().add(record.clone());
        assert!(!hangs || alone.is_err(), "taken without what it hangs off: {record:?}");
        let mut without = CatalogBuilder::default();
        let rest = records.iter().filter(|other| *other != record);
        let taken = rest.map(|other| without.add(other.clone())).all(|taken| taken.is_ok());
        let counted = !matches!(record, Record::Ring { .. } | Record::Clock(_));
        assert!(
            !(taken && counted) || without.finish().verify().is_err(),
            "not missed: {record:?}"
        );
    }
    assert_eq!(all().finish().verify(), Ok(()));
}
