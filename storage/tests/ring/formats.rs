//! What checkpoints keep and what clients read: a change of these bytes is a change of the format.

use roster_storage::names::Revision;
use roster_storage::ring::Ring;

use crate::acts::id;

/// A vacant slot, a weight, and a hole whose last holder is still there.
fn ring() -> Ring {
    let mut ring = Ring::new(5, 2);
    ring.join(&id("é"), 1);
    ring.join(&id("b"), 3);
    ring.join(&id("a"), 1);
    ring.leave(&id("é"));
    ring.join(&id("b"), 2);
    ring.set_epoch(Revision(42));
    ring
}

#[test]
fn the_description_of_a_ring() {
    let json = serde_json::to_string(&ring().description("fetchers")).expect("encodes");
    insta::assert_snapshot!(json, @r#"{"v":1,"kind":"jump-probe-1","group":"fetchers","epoch":42,"seed":5,"replicas":2,"workers":[["a",1],["b",2]],"slots":[-1,1,1,-1,0]}"#);
}

#[test]
fn the_description_of_a_ring_as_msgpack() {
    let bytes = rmp_serde::to_vec_named(&ring().description("fetchers")).expect("encodes");
    insta::assert_snapshot!(bytes.escape_ascii().to_string(), @r#"\x88\xa1v\x01\xa4kind\xacjump-probe-1\xa5group\xa8fetchers\xa5epoch*\xa4seed\x05\xa8replicas\x02\xa7workers\x92\x92\xa1a\x01\x92\xa1b\x02\xa5slots\x95\xff\x01\x01\xff\x00"#);
}

#[test]
fn the_bytes_of_a_ring_in_a_checkpoint() {
    let bytes = rmp_serde::to_vec_named(&ring()).expect("encodes");
    insta::assert_snapshot!(bytes.escape_ascii().to_string(), @r#"\x86\xa4seed\x05\xa8replicas\x02\xa5epoch*\xa7workers\x92\x92\xa1a\x01\x92\xa1b\x02\xa5slots\x95\xff\x01\x01\xff\x00\xa5holes\x92\x92\x00\xa2\xc3\xa9\x92\x03\xa1b"#);
    let json = serde_json::to_string(&ring()).expect("encodes");
    insta::assert_snapshot!(json, @r#"{"seed":5,"replicas":2,"epoch":42,"workers":[["a",1],["b",2]],"slots":[-1,1,1,-1,0],"holes":[[0,"é"],[3,"b"]]}"#);
}

/// Equal numbers on every node and in every version: they end up in hashes that nodes compare.
#[test]
fn the_fingerprint_of_a_ring() {
    insta::assert_snapshot!(format!("{:016x}", ring().fingerprint()), @r#"809b40c07e3faec7"#);
}
