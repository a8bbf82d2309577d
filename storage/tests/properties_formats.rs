//! What is in logs and checkpoints of nodes that run: a change of these bytes is a change of the
//! format. Old binaries must read the new bytes, or `FORMAT` (commands) or `HASH_SCHEMA` (records)
//! goes up.

use std::sync::Arc;

use roster_storage::catalog::{At, Catalog, Record};
use roster_storage::command::{
    Command, Condition, DeleteDocument, EncodedCommand, Expire, Expiry, Profile, Proposal,
    PutDocument, Register, Stamp,
};
use roster_storage::names::{InstanceKey, Revision, SessionId};

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
        },
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
    insta::assert_snapshot!(proposal(&Command::Register(register())), @r#"\x82\xa5stamp\x82\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xa7command\xc4\xc0\x01\x81\xa8Register\x87\xa3key\x82\xa3app\xa3pay\xa2id\xa3a:1\xa7profile\x88\xa2ip\xa810.0.0.1\xa4port\xcd\"\x0f\xa8hostname\xa4host\xa7version\xa31.8\xa4zone\xa2eu\xa6weight\x02\xa8metadata\x81\xa1k\xa1v\xa7payload\xc4\x02\x00\xff\xa7session\xc0\xa6ttl_ms\xcd\'\x10\xa8takeover\xc3\xaacreate_app\x01\xa9condition\x81\xa9Unchanged\x07"#);
}

#[test]
fn the_bytes_of_an_expiry() {
    let session = Expiry { session: SessionId(3), touched: Revision(9), silent_ms: 15_200 };
    let expire = Command::Expire(Expire { term: 2, sessions: vec![session] });
    insta::assert_snapshot!(proposal(&expire), @r#"\x82\xa5stamp\x82\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xa7command\xc4:\x01\x81\xa6Expire\x82\xa4term\x02\xa8sessions\x91\x83\xa7session\x03\xa7touched\t\xa9silent_ms\xcd;`"#);
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
    insta::assert_snapshot!(proposal(&Command::PutDocument(put_document())), @r#"\x82\xa5stamp\x82\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xa7command\xc4W\x01\x81\xabPutDocument\x86\xa3app\xa3pay\xa4name\xa4flow\xa5value\xab{\"qps\":1.0}\xa2by\xa3ops\xaacreate_app\xc3\xa9condition\xa6Absent"#);
    let PutDocument { app, name, by, .. } = put_document();
    let condition = Condition::Unchanged(Revision(7));
    let delete = Command::DeleteDocument(DeleteDocument { app, name, by, condition });
    insta::assert_snapshot!(proposal(&delete), @r#"\x82\xa5stamp\x82\xaacluster_ms\xcd\x03\xe8\xa7wall_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00\xa7command\xc4A\x01\x81\xaeDeleteDocument\x84\xa3app\xa3pay\xa4name\xa4flow\xa2by\xa3ops\xa9condition\x81\xa9Unchanged\x07"#);
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
        7_277_974_716_527_063_146,
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
    \x81\xa8Instance\x82\xa3key\x82\xa3app\xa3pay\xa2id\xa3a:1\xa5value\x85\xa7profile\x88\xa2ip\xa810.0.0.1\xa4port\xcd\"\x0f\xa8hostname\xa4host\xa7version\xa31.8\xa4zone\xa2eu\xa6weight\x02\xa8metadata\x81\xa1k\xa1v\xa7payload\xc4\x02\x00\xff\xa7session\x01\xabincarnation\x07\xa8revision\x07\xb0registered_at_ms\xcf\x00\x00\x01\x8b\xcf\xe5h\x00
    "#);
    assert_eq!(
        catalog.state_hash(),
        8_147_625_541_602_177_414,
        "equal states of two versions must have equal hashes"
    );
}
