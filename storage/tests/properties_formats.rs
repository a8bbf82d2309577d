//! What is in logs and checkpoints of nodes that run: a change of these bytes is a change of the
//! format. Old binaries must read the new bytes, or `FORMAT` (commands) or `HASH_SCHEMA` (records)
//! goes up.

use std::sync::Arc;

use roster_storage::catalog::{At, Catalog, Instance, Record, State};
use roster_storage::command::{
    BatchItem, BreakLatch, ClaimLatch, ClearOverride, Command, CompactRing, Condition, Covered,
    DeleteDocument, DeleteRing, DeleteShardSet, Deregister, EncodedCommand, Expire, Expiry,
    OpenSession, Profile, Proposal, PutDocument, PutRing, PutShardSet, Rebalance, Register,
    Release, ReleaseLatch, ReleasedBy, Request, ShardSetConfig, Stamp, WithdrawClaim,
};
use roster_storage::events::{Event, Held, Reason, Seen};
use roster_storage::latch::{Claim, Claimant, Mode};
use roster_storage::names::{
    AppName, Incarnation, InstanceId, InstanceKey, LatchKey, LatchKind, Revision, SessionId,
    ShardId, ShardSetName,
};
use roster_storage::profile::PackedProfile;
use roster_storage::shards::scaling::ScalingPolicy;
use serde::Serialize;
use smol_str::SmolStr;

fn register() -> Register {
    let key = InstanceKey::new("pay".parse().expect("a name"), "a:1".parse().expect("an id"));
    Register {
        key,
        profile: Profile {
            ip: "10.0.0.1".into(),
            port: 8719,
            hostname: "host".into(),
            version: "1.8".into(),
            zone: "eu".into(),
            weight: 2,
            metadata: Arc::new([("k".into(), "v".into())].into_iter().collect()),
            payload: vec![0, 255],
        }
        .into(),
        session: None,
        ttl_ms: Some(10_000),
        takeover: true,
        create_app: Some(1),
        condition: Condition::Unchanged(Revision(7)),
    }
}

fn proposal(command: &Command) -> String {
    let stamp = Stamp { cluster_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let command = EncodedCommand::new(command).expect("small");
    let bytes = rmp_serde::to_vec_named(&Proposal { stamp, command }).expect("encodes");
    bytes.escape_ascii().to_string()
}

#[test]
fn the_bytes_of_a_registration() {
    insta::assert_snapshot!(proposal(&Command::Register(register())), @r#"\x82\xa5stamp\x82\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xa7command\xc4\x82\x03\x81\xa8Register\x86\xa3key\x82\xa3app\xa3pay\xa2id\xa3a:1\xa7profile\x93\xa9\x031.8\x02eu\x01k\xb4OH\x02\x02\x0810.0.0.1\x04host\x01v\xc4\x02\x00\xff\xa6ttl_ms\xcd\'\x10\xa8takeover\xc3\xaacreate_app\x01\xa9condition\x81\xa9Unchanged\x07"#);
    let plain = Register {
        ttl_ms: None,
        takeover: false,
        create_app: None,
        condition: Condition::Any,
        ..register()
    };
    insta::assert_snapshot!(proposal(&Command::Register(plain)), @r"\x82\xa5stamp\x82\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xa7command\xc4L\x03\x81\xa8Register\x82\xa3key\x82\xa3app\xa3pay\xa2id\xa3a:1\xa7profile\x93\xa9\x031.8\x02eu\x01k\xb4OH\x02\x02\x0810.0.0.1\x04host\x01v\xc4\x02\x00\xff");
}

/// As registrations were written before what they leave out was left out of their bytes.
#[test]
fn a_registration_that_spells_out_what_it_leaves_out_is_read() {
    #[derive(Serialize)]
    enum Spelled<'a> {
        Register {
            key: &'a InstanceKey,
            profile: &'a PackedProfile,
            session: Option<SessionId>,
            ttl_ms: Option<u64>,
            takeover: bool,
            create_app: Option<i32>,
            condition: Condition,
        },
    }
    let plain = Register {
        session: None,
        ttl_ms: None,
        takeover: false,
        create_app: None,
        condition: Condition::Any,
        ..register()
    };
    let spelled = Spelled::Register {
        key: &plain.key,
        profile: &plain.profile,
        session: None,
        ttl_ms: None,
        takeover: false,
        create_app: None,
        condition: Condition::Any,
    };
    let bytes = [&[2][..], &rmp_serde::to_vec_named(&spelled).expect("encodes")].concat();
    assert_eq!(encoded(bytes).decode().expect("a command"), Command::Register(plain));
}

#[test]
fn a_command_of_a_format_that_nobody_knows_is_refused_with_a_word() {
    for format in [0, 1, 4, 255] {
        let error = encoded(vec![format, 0xc0]).decode().expect_err("nobody knows it").to_string();
        let told = format!("it has format {format}; this binary reads 2 to 3");
        assert!(error.contains(&told), "{error}");
    }
}

fn encoded(bytes: Vec<u8>) -> EncodedCommand {
    let wrapped = rmp_serde::to_vec(&serde_bytes::ByteBuf::from(bytes)).expect("encodes");
    rmp_serde::from_slice(&wrapped).expect("bytes")
}

/// Batches are cut by it: a batch that is longer than was reckoned is refused.
#[test]
fn no_item_takes_more_bytes_than_is_reckoned_and_none_far_less() {
    let lengths = [0, 1, 31, 32, 63, 64, 255, 256, 4_095, 4_096, 65_535, 65_536, 200_000];
    for length in lengths {
        let text = SmolStr::from("x".repeat(length));
        let pairs = if length < 1_000 { 600 } else { 20 };
        let metadata = (0..pairs).map(|key| (format!("{text}{key:03}").into(), text.clone()));
        let profile = Profile {
            ip: text.clone(),
            port: u32::MAX,
            hostname: text.clone(),
            version: text.clone(),
            zone: text.clone(),
            weight: u16::MAX,
            metadata: Arc::new(metadata.collect()),
            payload: vec![0; length],
        };
        let long = Register {
            profile: profile.into(),
            session: Some(SessionId(u64::MAX)),
            ttl_ms: Some(u64::MAX),
            create_app: Some(i32::MIN),
            condition: Condition::Unchanged(Revision(u64::MAX)),
            ..register()
        };
        let leaves = Deregister {
            key: register().key,
            incarnation: Some(Incarnation(u64::MAX)),
            by_operator: true,
            reason: text,
            condition: Condition::Unchanged(Revision(u64::MAX)),
        };
        for item in [BatchItem::Register(long), BatchItem::Deregister(leaves)] {
            let bytes = rmp_serde::to_vec_named(&item).expect("encodes").len();
            let reckoned = item.encoded_bytes_max();
            assert!(reckoned >= bytes, "{reckoned} of {bytes}, texts of {length}");
            assert!(reckoned <= bytes + 256, "{reckoned} of {bytes}, texts of {length}");
        }
    }
}

#[test]
fn the_bytes_of_an_expiry() {
    let session = Expiry { session: SessionId(3), touched: Revision(9), silent_ms: 15_200 };
    let expire = Command::Expire(Expire { term: 2, sessions: vec![session] });
    insta::assert_snapshot!(proposal(&expire), @r#"\x82\xa5stamp\x82\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xa7command\xc4:\x03\x81\xa6Expire\x82\xa4term\x02\xa8sessions\x91\x83\xa7session\x03\xa7touched\t\xa9silent_ms\xcd;`"#);
}

fn put_document() -> PutDocument {
    PutDocument {
        app: "pay".parse().expect("a name"),
        name: "flow".parse().expect("a name"),
        value: r#"{"qps":1.0}"#.into(),
        by: "ops".into(),
        create_app: true,
        condition: Condition::Absent,
    }
}

#[test]
fn the_bytes_of_a_document_that_is_written_and_deleted() {
    insta::assert_snapshot!(proposal(&Command::PutDocument(put_document())), @r#"\x82\xa5stamp\x82\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xa7command\xc4W\x03\x81\xabPutDocument\x86\xa3app\xa3pay\xa4name\xa4flow\xa5value\xab{\"qps\":1.0}\xa2by\xa3ops\xaacreate_app\xc3\xa9condition\xa6Absent"#);
    let PutDocument { app, name, by, .. } = put_document();
    let condition = Condition::Unchanged(Revision(7));
    let delete = Command::DeleteDocument(DeleteDocument { app, name, by, condition });
    insta::assert_snapshot!(proposal(&delete), @r#"\x82\xa5stamp\x82\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xa7command\xc4A\x03\x81\xaeDeleteDocument\x84\xa3app\xa3pay\xa4name\xa4flow\xa2by\xa3ops\xa9condition\x81\xa9Unchanged\x07"#);
}

/// An app without documents does not write when they changed: see the next test.
#[test]
fn the_bytes_of_a_document_with_its_app_and_their_hash() {
    let mut catalog = Catalog::default();
    let stamp = Stamp { cluster_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let at = At { revision: Revision(7), term: 2, stamp };
    catalog.apply(at, &Command::PutDocument(put_document()));
    let bytes = |record: Record| rmp_serde::to_vec_named(&record).expect("encodes");
    let lines: Vec<_> = catalog.records().map(|r| bytes(r).escape_ascii().to_string()).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    \x81\xa5Clock\x83\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xaclast_session\x00
    \x81\xa3App\x82\xa3app\xa3pay\xa5value\x85\xa6policy\x85\xa4kind\x00\xa6ttl_ms\xc0\xaattl_min_ms\xc0\xaattl_max_ms\xc0\xbaremove_when_empty_after_ms\xc0\xa8revision\x07\xafmembers_changed\x07\xaeempty_since_ms\xcd\x03\xe8\xb1documents_changed\x07
    \x81\xa8Document\x83\xa3app\xa3pay\xa4name\xa4flow\xa5value\x84\xa5value\xab{\"qps\":1.0}\xa2by\xa3ops\xa8revision\x07\xadchanged_at_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00
    "#);
    assert_eq!(
        catalog.state_hash(),
        11_021_269_322_431_669_806,
        "equal states of two versions must have equal hashes"
    );
}

#[test]
fn the_bytes_of_records_and_their_hash() {
    let mut catalog = Catalog::default();
    let stamp = Stamp { cluster_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let command = Register { condition: Condition::Any, ..register() };
    let at = At { revision: Revision(7), term: 2, stamp };
    catalog.apply(at, &Command::Register(command));
    let bytes = |record: Record| rmp_serde::to_vec_named(&record).expect("encodes");
    let lines: Vec<_> = catalog.records().map(|r| bytes(r).escape_ascii().to_string()).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    \x81\xa5Clock\x83\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xaclast_session\x01
    \x81\xa7Session\x82\xa2id\x01\xa5value\x85\xa6ttl_ms\xcd\'\x10\xa4name\xa0\xa7private\xc3\xa7touched\x07\xa6things\x01
    \x81\xa3App\x82\xa3app\xa3pay\xa5value\x84\xa6policy\x85\xa4kind\x01\xa6ttl_ms\xc0\xaattl_min_ms\xc0\xaattl_max_ms\xc0\xbaremove_when_empty_after_ms\xc0\xa8revision\x07\xafmembers_changed\x07\xaeempty_since_ms\xc0
    \x81\xa8Instance\x82\xa3key\x82\xa3app\xa3pay\xa2id\xa3a:1\xa5value\x85\xa7profile\x93\xa9\x031.8\x02eu\x01k\xb4OH\x02\x02\x0810.0.0.1\x04host\x01v\xc4\x02\x00\xff\xa7session\x01\xabincarnation\x07\xa8revision\x07\xb0registered_at_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00
    "#);
    assert_eq!(
        catalog.state_hash(),
        1_368_017_704_635_263_304,
        "equal states of two versions must have equal hashes"
    );
}

fn app() -> AppName {
    "pay".parse().expect("a name")
}

fn set() -> ShardSetName {
    "metrics".parse().expect("a name")
}

fn worker() -> InstanceId {
    "a:1".parse().expect("an id")
}

fn shard() -> ShardId {
    ShardId::from(&InstanceKey::new(app(), worker()))
}

fn put_ring() -> PutRing {
    PutRing { app: app(), seed: 7, replicas: 2, condition: Condition::Any }
}

/// The workers of an app on each other, so that one instance is both.
fn put_shard_set() -> PutShardSet {
    let apps = Covered::Apps([app()].into());
    let scaling = ScalingPolicy { shards_per_worker: 300, min: 1, max: 9, cooldown_ms: 60_000 };
    let config = ShardSetConfig { workers: app(), apps, copies: 2, scaling: Some(scaling) };
    PutShardSet { set: set(), config, condition: Condition::Absent }
}

fn ring_and_shard_set_commands() -> Vec<Command> {
    let condition = Condition::Unchanged(Revision(7));
    let (all, scaling) = (Covered::All, None);
    let all = ShardSetConfig { workers: app(), apps: all, copies: 1, scaling };
    let shards = vec![(shard(), Revision(9))];
    let by = ReleasedBy::Worker(worker());
    vec![
        Command::PutRing(put_ring()),
        Command::DeleteRing(DeleteRing { app: app(), condition }),
        Command::CompactRing(CompactRing { app: app(), condition }),
        Command::PutShardSet(put_shard_set()),
        Command::PutShardSet(PutShardSet { set: set(), config: all, condition }),
        Command::DeleteShardSet(DeleteShardSet { set: set(), condition }),
        Command::Release(Release { set: set(), by, shards: shards.clone() }),
        Command::Release(Release { set: set(), by: ReleasedBy::Operator, shards }),
        Command::Rebalance(Rebalance { sets: vec![set()] }),
    ]
}

#[test]
fn the_bytes_of_ring_and_shard_set_commands() {
    let lines: Vec<_> = ring_and_shard_set_commands()
        .iter()
        .map(|command| {
            let encoded = EncodedCommand::new(command).expect("small");
            assert_eq!(encoded.decode().as_ref(), Ok(command));
            rmp_serde::to_vec_named(command).expect("encodes").escape_ascii().to_string()
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    \x81\xa7PutRing\x84\xa3app\xa3pay\xa4seed\x07\xa8replicas\x02\xa9condition\xa3Any
    \x81\xaaDeleteRing\x82\xa3app\xa3pay\xa9condition\x81\xa9Unchanged\x07
    \x81\xabCompactRing\x82\xa3app\xa3pay\xa9condition\x81\xa9Unchanged\x07
    \x81\xabPutShardSet\x83\xa3set\xa7metrics\xa6config\x84\xa7workers\xa3pay\xa4apps\x81\xa4Apps\x91\xa3pay\xa6copies\x02\xa7scaling\x84\xb1shards_per_worker\xcd\x01,\xa3min\x01\xa3max\t\xabcooldown_ms\xcd\xea`\xa9condition\xa6Absent
    \x81\xabPutShardSet\x83\xa3set\xa7metrics\xa6config\x84\xa7workers\xa3pay\xa4apps\xa3All\xa6copies\x01\xa7scaling\xc0\xa9condition\x81\xa9Unchanged\x07
    \x81\xaeDeleteShardSet\x82\xa3set\xa7metrics\xa9condition\x81\xa9Unchanged\x07
    \x81\xa7Release\x83\xa3set\xa7metrics\xa2by\x81\xa6Worker\xa3a:1\xa6shards\x91\x92\xa7pay/a:1\t
    \x81\xa7Release\x83\xa3set\xa7metrics\xa2by\xa8Operator\xa6shards\x91\x92\xa7pay/a:1\t
    \x81\xa9Rebalance\x81\xa4sets\x91\xa7metrics
    "#);
}

/// A ring with a hole, and a shard set with a shard that is held.
#[test]
fn the_bytes_of_rings_and_shard_sets_and_their_hash() {
    let mut catalog = Catalog::default();
    let register = Register { condition: Condition::Any, ..register() };
    let mut other = register.clone();
    other.key = InstanceKey::new(app(), "b:1".parse().expect("an id"));
    other.profile = Profile { weight: 1, ..other.profile.unpacked() }.into();
    let leave = Deregister {
        key: other.key.clone(),
        incarnation: None,
        by_operator: false,
        reason: Default::default(),
        condition: Condition::Any,
    };
    let commands = [
        Command::Register(register),
        Command::PutRing(put_ring()),
        Command::Register(other),
        Command::Deregister(leave),
        Command::PutShardSet(put_shard_set()),
        Command::Rebalance(Rebalance { sets: vec![set()] }),
    ];
    let stamp = Stamp { cluster_ms: 1_000, wall_ms: 1_700_000_000_000 };
    for (revision, command) in (7..).zip(&commands) {
        catalog.apply(At { revision: Revision(revision), term: 2, stamp }, command);
    }
    let records = catalog.records().filter(|record| match record {
        Record::Ring { .. } | Record::ShardSet { .. } | Record::Shard { .. } => true,
        Record::Clock(_)
        | Record::Session { .. }
        | Record::App { .. }
        | Record::Instance { .. }
        | Record::Document { .. }
        | Record::Override { .. }
        | Record::Latch { .. }
        | Record::Claim { .. }
        | Record::Kept { .. }
        | Record::HashMark { .. }
        | Record::Brake { .. }
        | Record::BrakeOverride { .. } => false,
    });
    let bytes = |record: Record| rmp_serde::to_vec_named(&record).expect("encodes");
    let lines: Vec<_> = records.map(|r| bytes(r).escape_ascii().to_string()).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    \x81\xa4Ring\x82\xa3app\xa3pay\xa5value\x86\xa4seed\x07\xa8replicas\x02\xa5epoch\n\xa7workers\x91\x92\xa3a:1\x02\xa5slots\x93\x00\x00\xff\xa5holes\x91\x92\x02\xa3b:1
    \x81\xa8ShardSet\x82\xa3set\xa7metrics\xa5value\x85\xa6config\x84\xa7workers\xa3pay\xa4apps\x81\xa4Apps\x91\xa3pay\xa6copies\x02\xa7scaling\x84\xb1shards_per_worker\xcd\x01,\xa3min\x01\xa3max\t\xabcooldown_ms\xcd\xea`\xa8revision\x0b\xa5epoch\x0c\xa7scaling\x84\xa7desired\x01\xaelower_since_ms\xc0\xaalower_need\x01\xadchanged_at_ms\xcd\x03\xe8\xa5rules\xa2V1
    \x81\xa5Shard\x83\xa3set\xa7metrics\xa5shard\xa7pay/a:1\xa5value\x84\xa6holder\xa3a:1\xa5grant\x0c\xa4next\xc0\xa4gone\xc2
    "#);
    assert_eq!(
        catalog.state_hash(),
        10_885_961_290_118_291_928,
        "equal states of two versions must have equal hashes"
    );
}

/// As the history keeps it.
fn by_position(event: &Event) -> Vec<u8> {
    let bytes = rmp_serde::to_vec(event).expect("encodes");
    let read: Event = rmp_serde::from_slice(&bytes).expect("decodes");
    assert_eq!(&read, event);
    bytes
}

/// Most deletions are of no shard set, and say nothing of one.
#[test]
fn the_deletion_of_a_shard_outside_of_shard_sets_has_the_bytes_it_always_had() {
    let deleted = |held| Event::ShardDeleted {
        key: InstanceKey::new(app(), worker()),
        incarnation: Incarnation(7),
        reason: Reason::Deregistered,
        held,
    };
    let old = b"\x81\xacShardDeleted\x93\x92\xa3pay\xa3a:1\x07\xacDeregistered";
    assert_eq!(by_position(&deleted(vec![])), old);
    let held = Held { set: set(), holder: Some(worker()) };
    let new = by_position(&deleted(vec![held, Held { set: set(), holder: None }]));
    insta::assert_snapshot!(new.escape_ascii().to_string(), @r#"\x81\xacShardDeleted\x94\x92\xa3pay\xa3a:1\x07\xacDeregistered\x92\x92\xa7metrics\xa3a:1\x92\xa7metrics\xc0"#);
}

/// Most changes are of no operator, and say nothing of one.
#[test]
fn the_change_of_an_instance_without_an_operators_word_has_the_bytes_it_always_had() {
    let seen = || Seen {
        instance: Arc::new(Instance {
            profile: Profile::default().into(),
            session: SessionId(3),
            incarnation: Incarnation(7),
            revision: Revision(9),
            registered_at_ms: 5,
        }),
        state: State::Draining,
    };
    let put = |said: &str| Event::InstancePut {
        key: InstanceKey::new(app(), worker()),
        now: seen(),
        ttl_ms: 15_000,
        before: None,
        said: said.into(),
    };
    let old = by_position(&put(""));
    insta::assert_snapshot!(old.escape_ascii().to_string(), @r#"\x81\xabInstancePut\x94\x92\xa3pay\xa3a:1\x92\x95\x93\xa2\x00\x00\xa4\x00\x00\x00\x00\xc4\x00\x03\x07\t\x05\xa8Draining\xcd:\x98\xc0"#);
    assert_eq!(rmp_serde::from_slice::<Event>(&old).expect("decodes"), put(""));
    let new = by_position(&put("rack 7"));
    assert!(new.ends_with(b"\xa6rack 7"), "it comes last: {}", new.escape_ascii());
    assert_eq!(rmp_serde::from_slice::<Event>(&new).expect("decodes"), put("rack 7"));
    let clear = |reason: &str| {
        let key = InstanceKey::new(app(), worker());
        proposal(&Command::ClearOverride(ClearOverride { key, reason: reason.into() }))
    };
    assert!(!clear("").contains("reason") && clear("mended").contains("mended"));
}

#[test]
fn the_bytes_of_events_of_rings_and_shard_sets() {
    let mut ring = roster_storage::ring::Ring::new(7, 2);
    ring.join(&worker(), 2);
    ring.join(&InstanceId::new("b:1").expect("an id"), 1);
    ring.leave(&InstanceId::new("b:1").expect("an id"));
    ring.set_epoch(Revision(9));
    let events = [
        Event::RingPut { app: app(), ring: Arc::new(ring) },
        Event::RingDeleted { app: app(), reason: Reason::Operator },
        Event::WorkPut {
            set: set(),
            app: app(),
            worker: worker(),
            shard: shard(),
            grant: Revision(9),
            release: true,
        },
        Event::WorkEnded {
            set: set(),
            app: app(),
            worker: worker(),
            shard: shard(),
            grant: Revision(9),
            reason: Reason::Released,
        },
        Event::WorkEnded {
            set: set(),
            app: app(),
            worker: worker(),
            shard: shard(),
            grant: Revision(9),
            reason: Reason::WorkerGone,
        },
    ];
    let lines: Vec<_> = events.iter().map(|e| by_position(e).escape_ascii().to_string()).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    \x81\xa7RingPut\x92\xa3pay\x96\x07\x02\t\x91\x92\xa3a:1\x02\x93\x00\x00\xff\x91\x92\x02\xa3b:1
    \x81\xabRingDeleted\x92\xa3pay\xa8Operator
    \x81\xa7WorkPut\x96\xa7metrics\xa3pay\xa3a:1\xa7pay/a:1\t\xc3
    \x81\xa9WorkEnded\x96\xa7metrics\xa3pay\xa3a:1\xa7pay/a:1\t\xa8Released
    \x81\xa9WorkEnded\x96\xa7metrics\xa3pay\xa3a:1\xa7pay/a:1\t\xaaWorkerGone
    "#);
}

fn latch(kind: LatchKind) -> LatchKey {
    LatchKey::new(kind, "backup".parse().expect("a name"))
}

fn by(owner: &str) -> Claimant {
    Claimant { session: SessionId(3), owner: owner.into() }
}

fn claim(kind: LatchKind, owner: &str, mode: Mode, value: &str) -> Command {
    let (latch, by, value) = (latch(kind), by(owner), value.into());
    Command::ClaimLatch(ClaimLatch { latch, by, mode, value, waits: true })
}

#[test]
fn the_bytes_of_latch_commands() {
    let (lock, election) = (latch(LatchKind::Lock), latch(LatchKind::Election));
    let (token, asked) = (Revision(7), Some(Revision(9)));
    let request = Request { key: "K".parse().expect("a key"), digest: (1, 2), part: 0 };
    let (even_won, request) = (true, Some(request));
    let commands = [
        claim(LatchKind::Lock, "nightly", Mode::Shared, ""),
        claim(LatchKind::Election, "", Mode::Exclusive, "10.0.0.1:80"),
        Command::WithdrawClaim(WithdrawClaim {
            latch: lock.clone(),
            by: by("x"),
            asked,
            even_won,
            request: None,
        }),
        Command::ReleaseLatch(ReleaseLatch {
            latch: lock.clone(),
            token,
            by: Some(by("x")),
            request,
        }),
        Command::ReleaseLatch(ReleaseLatch { latch: election, token, by: None, request: None }),
        Command::BreakLatch(BreakLatch { latch: lock, token: Some(token) }),
    ];
    let lines: Vec<_> = commands
        .iter()
        .map(|command| {
            let encoded = EncodedCommand::new(command).expect("small");
            assert_eq!(encoded.decode().as_ref(), Ok(command));
            rmp_serde::to_vec_named(command).expect("encodes").escape_ascii().to_string()
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    \x81\xaaClaimLatch\x85\xa5latch\x82\xa4kind\xa4Lock\xa4name\xa6backup\xa2by\x82\xa7session\x03\xa5owner\xa7nightly\xa4mode\xa6Shared\xa5value\xa0\xa5waits\xc3
    \x81\xaaClaimLatch\x85\xa5latch\x82\xa4kind\xa8Election\xa4name\xa6backup\xa2by\x82\xa7session\x03\xa5owner\xa0\xa4mode\xa9Exclusive\xa5value\xab10.0.0.1:80\xa5waits\xc3
    \x81\xadWithdrawClaim\x85\xa5latch\x82\xa4kind\xa4Lock\xa4name\xa6backup\xa2by\x82\xa7session\x03\xa5owner\xa1x\xa5asked\t\xa8even_won\xc3\xa7request\xc0
    \x81\xacReleaseLatch\x84\xa5latch\x82\xa4kind\xa4Lock\xa4name\xa6backup\xa5token\x07\xa2by\x82\xa7session\x03\xa5owner\xa1x\xa7request\x83\xa3key\xa1K\xa6digest\x92\x01\x02\xa4part\x00
    \x81\xacReleaseLatch\x84\xa5latch\x82\xa4kind\xa8Election\xa4name\xa6backup\xa5token\x07\xa2by\xc0\xa7request\xc0
    \x81\xaaBreakLatch\x82\xa5latch\x82\xa4kind\xa4Lock\xa4name\xa6backup\xa5token\x07
    "#);
}

/// A lock that is shared and waited for, and an election.
#[test]
fn the_bytes_of_latches_and_their_hash() {
    let mut catalog = Catalog::default();
    let stamp = Stamp { cluster_ms: 1_000, wall_ms: 1_700_000_000_000 };
    let open =
        || Command::OpenSession(OpenSession { ttl_ms: None, name: "".into(), request: None });
    let commands = [
        open(),
        open(),
        open(),
        claim(LatchKind::Lock, "", Mode::Shared, ""),
        claim(LatchKind::Lock, "x", Mode::Exclusive, ""),
        claim(LatchKind::Election, "", Mode::Exclusive, "10.0.0.1:80"),
        claim(LatchKind::Lock, "x", Mode::Exclusive, ""),
    ];
    for (revision, command) in (7..).zip(&commands) {
        catalog.apply(At { revision: Revision(revision), term: 2, stamp }, command);
    }
    let of_latches =
        |record: &Record| matches!(record, Record::Latch { .. } | Record::Claim { .. });
    let bytes = |record: Record| rmp_serde::to_vec_named(&record).expect("encodes");
    let records = catalog.records().filter(of_latches);
    let lines: Vec<_> = records.map(|r| bytes(r).escape_ascii().to_string()).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    \x81\xa5Latch\x82\xa5latch\x82\xa4kind\xa4Lock\xa4name\xa6backup\xa8revision\x0b
    \x81\xa5Claim\x82\xa5latch\x82\xa4kind\xa4Lock\xa4name\xa6backup\xa5value\x86\xa2by\x82\xa7session\x03\xa5owner\xa0\xa4mode\xa6Shared\xa5value\xa0\xa5since\n\xa5token\n\xa5asked\n
    \x81\xa5Claim\x82\xa5latch\x82\xa4kind\xa4Lock\xa4name\xa6backup\xa5value\x86\xa2by\x82\xa7session\x03\xa5owner\xa1x\xa4mode\xa9Exclusive\xa5value\xa0\xa5since\x0b\xa5token\xc0\xa5asked\r
    \x81\xa5Latch\x82\xa5latch\x82\xa4kind\xa8Election\xa4name\xa6backup\xa8revision\x0c
    \x81\xa5Claim\x82\xa5latch\x82\xa4kind\xa8Election\xa4name\xa6backup\xa5value\x86\xa2by\x82\xa7session\x03\xa5owner\xa0\xa4mode\xa9Exclusive\xa5value\xab10.0.0.1:80\xa5since\x0c\xa5token\x0c\xa5asked\x0c
    "#);
    assert_eq!(
        catalog.state_hash(),
        5_445_283_311_630_059_347,
        "equal states of two versions must have equal hashes"
    );
}

#[test]
fn the_bytes_of_events_of_latches() {
    let claim = |token| {
        let (mode, value, since, asked) = (Mode::Shared, "v".into(), Revision(7), Revision(9));
        Arc::new(Claim { by: by("x"), mode, value, since, token, asked })
    };
    let ended = |reason| Event::ClaimEnded {
        latch: latch(LatchKind::Election),
        claim: claim(Some(Revision(8))),
        reason,
    };
    let events = [
        Event::ClaimPut { latch: latch(LatchKind::Lock), claim: claim(None) },
        ended(Reason::LetGo),
        ended(Reason::GaveUp),
    ];
    let lines: Vec<_> = events.iter().map(|e| by_position(e).escape_ascii().to_string()).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    \x81\xa8ClaimPut\x92\x92\xa4Lock\xa6backup\x96\x92\x03\xa1x\xa6Shared\xa1v\x07\xc0\t
    \x81\xaaClaimEnded\x93\x92\xa8Election\xa6backup\x96\x92\x03\xa1x\xa6Shared\xa1v\x07\x08\t\xa5LetGo
    \x81\xaaClaimEnded\x93\x92\xa8Election\xa6backup\x96\x92\x03\xa1x\xa6Shared\xa1v\x07\x08\t\xa6GaveUp
    "#);
}
