//! Limits are too far for random sequences; these go there.

use super::*;
use roster_storage::command::{
    BreakLatch, ClaimLatch, CloseSession, Condition, Covered, Deregister, Expire, Expiry,
    OpenSession, Patch, Profile, PutRing, PutShardSet, Register, ReleaseLatch, Request,
    ShardSetConfig,
};
use roster_storage::latch::{Claimant, Mode};
use roster_storage::limits::{
    COMMAND_BYTES_MAX, DOCUMENT_BYTES_MAX, DUE_PER_ENTRY_MAX, ID_BYTES_MAX, IDEMPOTENCY_BYTES_MAX,
    LATCH_CLAIMS_MAX, RING_SLOTS_MAX, SESSION_THINGS_MAX, SHARD_SETS_MAX, TEXT_BYTES_MAX,
    WEIGHT_MAX,
};
use roster_storage::names::{AppName, InstanceKey, LatchKey, LatchKind, SessionId};

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
    register.profile =
        Profile { payload: vec![0; COMMAND_BYTES_MAX], ..register.profile.unpacked() }.into();
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
        register.profile = Profile { weight: WEIGHT_MAX, ..register.profile.unpacked() }.into();
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
    let leave = Deregister {
        key: key(1),
        incarnation,
        by_operator: false,
        reason: Default::default(),
        condition,
    };
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

fn lock(name: &str) -> LatchKey {
    LatchKey::new(LatchKind::Lock, name.parse().expect("a name"))
}

fn claim(latch: &str, session: u64, owner: u64, mode: Mode) -> Command {
    let by = Claimant { session: SessionId(session), owner: owner.to_string().into() };
    Command::ClaimLatch(ClaimLatch { latch: lock(latch), by, mode, value: "".into(), waits: true })
}

/// Sessions 1 to `count`, opened in as many entries.
fn sessions(count: u64) -> Catalog {
    let mut catalog = Catalog::default();
    for n in 1..=count {
        let open = OpenSession { ttl_ms: None, name: "host".into(), request: None };
        catalog.apply(at(n), &Command::OpenSession(open));
    }
    catalog
}

fn is_won(event: &Event) -> bool {
    matches!(event, Event::ClaimPut { claim, .. } if claim.token.is_some())
}

/// One holds it alone and all others wait to share it: all of them win in one entry.
#[test]
fn so_many_claim_a_latch_and_no_more() {
    let mut catalog = sessions(3);
    let limit = LATCH_CLAIMS_MAX as u64;
    catalog.apply(at(4), &claim("data", 3, 0, Mode::Exclusive));
    for n in 1..limit {
        let (outcome, _) = catalog.apply(at(4 + n), &claim("data", 1 + n % 2, n, Mode::Shared));
        assert_eq!(outcome.result, Ok(Reply::Claimed { token: None }));
    }
    let before = catalog.clone();
    let (outcome, events) = catalog.apply(at(limit + 4), &claim("data", 3, 1, Mode::Shared));
    let full = Refusal::LatchFull { latch: lock("data"), limit };
    assert_eq!((outcome.result, events), (Err(full), vec![]));
    assert!(catalog == before);
    let (outcome, _) = catalog.apply(at(limit + 5), &claim("data", 2, 1, Mode::Shared));
    assert!(outcome.result.is_ok(), "who waits may ask again: {outcome}");
    let (outcome, _) = catalog.apply(at(limit + 6), &claim("other", 3, 1, Mode::Shared));
    assert!(outcome.result.is_ok(), "another latch has room: {outcome}");
    assert_eq!(catalog.verify(), Ok(()));

    let (request, token) = (None, Revision(4));
    let release = ReleaseLatch { latch: lock("data"), token, by: None, request };
    let (_, events) = catalog.apply(at(limit + 7), &Command::ReleaseLatch(release));
    assert_eq!(events.iter().filter(|event| is_won(event)).count() as u64, limit - 1);
    assert_eq!(catalog.verify(), Ok(()));
    let all = BreakLatch { latch: lock("data"), token: None };
    let (outcome, _) = catalog.apply(at(limit + 8), &Command::BreakLatch(all));
    let Ok(Reply::LatchBroken(broken)) = &outcome.result else { panic!("{outcome}") };
    assert_eq!((broken.len() as u64, catalog.latch(&lock("data"))), (limit - 1, None));
    assert_eq!(catalog.verify(), Ok(()));
}

#[test]
fn a_full_session_claims_nothing_more_and_ends_with_all_that_it_claimed() {
    let mut catalog = sessions(2);
    let limit = SESSION_THINGS_MAX as u64;
    for n in 0..limit {
        let (outcome, _) = catalog.apply(at(n + 3), &claim(&n.to_string(), 1, 0, Mode::Exclusive));
        assert!(outcome.result.is_ok(), "{outcome}");
    }
    let (outcome, events) = catalog.apply(at(limit + 3), &claim("more", 1, 0, Mode::Exclusive));
    let full = Refusal::SessionFull { session: SessionId(1), limit };
    assert_eq!((outcome.result, events), (Err(full.clone()), vec![]));
    let (outcome, _) = catalog.apply(at(limit + 4), &Command::Register(on_session_1(1)));
    assert_eq!(outcome.result, Err(full), "claims count like instances");
    let (outcome, _) = catalog.apply(at(limit + 5), &claim("7", 1, 0, Mode::Exclusive));
    assert!(outcome.result.is_ok(), "what it holds it may ask for again: {outcome}");
    catalog.apply(at(limit + 6), &claim("7", 2, 0, Mode::Exclusive));
    let close = CloseSession { session: SessionId(1) };
    let (_, events) = catalog.apply(at(limit + 7), &Command::CloseSession(close));
    assert_eq!(events.iter().filter(|event| is_won(event)).count(), 1);
    assert_eq!(catalog.latches_after(LatchKind::Lock, None).count(), 1);
    assert_eq!(catalog.verify(), Ok(()));
}

#[test]
fn a_thousand_sessions_on_one_lock_expire_in_one_entry_and_the_one_left_has_it() {
    let mut catalog = sessions(1_001);
    for n in 1..=1_001 {
        catalog.apply(at(1_001 + n), &claim("data", n, 0, Mode::Exclusive));
    }
    let expiry =
        |n| Expiry { session: SessionId(n), touched: Revision(1_001 + n), silent_ms: 15_000 };
    let expire = Expire { term: 1, sessions: (1..=1_000).map(expiry).collect() };
    let (_, events) = catalog.apply(at(2_003), &Command::Expire(expire));
    let won: Vec<_> = events.iter().filter(|event| is_won(event)).collect();
    let [Event::ClaimPut { claim, .. }] = won.as_slice() else { panic!("{won:?}") };
    assert_eq!((claim.by.session, claim.token), (SessionId(1_001), Some(Revision(2_003))));
    assert_eq!(catalog.verify(), Ok(()));
}

#[test]
fn records_of_latches_out_of_place_are_refused() {
    let mut catalog = sessions(2);
    catalog.apply(at(3), &claim("data", 1, 0, Mode::Shared));
    catalog.apply(at(4), &claim("data", 2, 0, Mode::Exclusive));
    catalog.apply(at(5), &claim("data", 2, 1, Mode::Shared));
    let records: Vec<_> = catalog.records().collect();
    let of_latches =
        |record: &&Record| matches!(record, Record::Latch { .. } | Record::Claim { .. });
    assert_eq!(records.iter().filter(of_latches).count(), 4);
    for record in records.iter().filter(of_latches) {
        let mut all = CatalogBuilder::default();
        records.iter().for_each(|record| all.add(record.clone()).expect("fits"));
        assert!(all.add(record.clone()).is_err(), "taken twice: {record:?}");
        let alone = CatalogBuilder::default().add(record.clone());
        let hangs = matches!(record, Record::Claim { .. });
        assert!(!hangs || alone.is_err(), "taken without what it hangs off: {record:?}");
        let mut without = CatalogBuilder::default();
        let rest = records.iter().filter(|other| *other != record);
        let taken = rest.map(|other| without.add(other.clone())).all(|taken| taken.is_ok());
        assert!(!taken || without.finish().verify().is_err(), "not missed: {record:?}");
    }
}
