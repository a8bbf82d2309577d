//! The vectors that implementations in every language share.

use std::sync::OnceLock;

use roster_storage::names::{InstanceId, Revision};
use roster_storage::ring::arithmetic::{GAMMA, jump, mix64, token, xxh64};
use roster_storage::ring::{Description, Joined, KIND, Ring, View};
use serde::Deserialize;
use serde_json::Value;

use crate::acts::id;
use crate::model;

#[derive(Deserialize)]
pub struct Vectors {
    kind: String,
    xxh64: Vec<HashVector>,
    mix64: Vec<MixVector>,
    jump: Vec<JumpVector>,
    keys: Vec<Key>,
    rings: Vec<RingVector>,
    pub refuse: Vec<Value>,
}

#[derive(Deserialize)]
struct HashVector {
    hex: String,
    seed: u64,
    hash: String,
}

#[derive(Deserialize)]
struct MixVector {
    #[serde(rename = "in")]
    input: String,
    out: String,
}

#[derive(Deserialize)]
struct JumpVector {
    key: String,
    buckets: u32,
    bucket: u32,
    why: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Key {
    Utf8(String),
    Hex(String),
}

#[derive(Deserialize)]
struct RingVector {
    name: String,
    group: String,
    seed: u64,
    replicas: u8,
    steps: Vec<Step>,
    #[serde(default)]
    keys_here: Vec<KeyHere>,
}

#[derive(Deserialize)]
struct Step {
    index: u64,
    ops: Vec<Vec<Value>>,
    changed: bool,
    epoch: u64,
    digest: String,
    describe: Option<Value>,
    holes: Option<Vec<(u32, InstanceId)>>,
    owners: Option<Vec<Vec<String>>>,
}

#[derive(Deserialize)]
struct KeyHere {
    #[serde(flatten)]
    key: Key,
    owner: InstanceId,
}

pub fn vectors() -> &'static Vectors {
    static VECTORS: OnceLock<Vectors> = OnceLock::new();
    VECTORS.get_or_init(|| {
        serde_json::from_str(include_str!("../vectors/ring.json")).expect("the vectors' shape")
    })
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn number(hex: &str) -> u64 {
    u64::from_str_radix(hex, 16).expect("16 hex digits")
}

impl Key {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Utf8(text) => text.clone().into_bytes(),
            Self::Hex(hex) => unhex(hex),
        }
    }
}

#[test]
fn keys_are_hashed_as_the_vectors_say() {
    assert_eq!(vectors().kind, KIND);
    for vector in &vectors().xxh64 {
        assert_eq!(xxh64(&unhex(&vector.hex), vector.seed), number(&vector.hash), "{}", vector.hex);
    }
    for vector in &vectors().mix64 {
        assert_eq!(mix64(number(&vector.input)), number(&vector.out), "{}", vector.input);
    }
}

#[test]
fn jumps_end_where_the_vectors_say() {
    for vector in &vectors().jump {
        let key: u64 = vector.key.parse().expect("a number");
        assert_eq!(jump(key, vector.buckets), vector.bucket, "{key}: {}", vector.why);
        let model = model::jump(key, vector.buckets as usize);
        assert_eq!(model, vector.bucket as usize, "the model at {key}: {}", vector.why);
    }
}

/// Whether it changed anything.
fn perform(ring: &mut Ring, operation: &[Value]) -> bool {
    let text = |at: usize| operation[at].as_str().expect("a text");
    match text(0) {
        "join" => {
            let weight = operation[2].as_u64().and_then(|weight| u16::try_from(weight).ok());
            ring.join(&id(text(1)), weight.expect("a weight")) == Joined::Changed
        }
        "leave" => ring.leave(&id(text(1))),
        "compact" => ring.compact(),
        other => panic!("an operation {other} that this test does not know"),
    }
}

fn digest(ring: &Ring) -> String {
    let mut text = String::new();
    for probe in 0..300 {
        let key = format!("probe-{probe}");
        let owners = ring.owners(key.as_bytes(), ring.replicas().into());
        let owners: Vec<&str> = owners.into_iter().map(InstanceId::as_str).collect();
        text.push_str(&owners.join(","));
        text.push('\n');
    }
    format!("{:016x}", xxh64(text.as_bytes(), 0))
}

/// The ring after an entry against the step; and a client's view of it.
fn compare(ring: &Ring, vector: &RingVector, step: &Step) {
    let at = format!("{} after entry {}", vector.name, step.index);
    assert_eq!(ring.epoch(), Revision(step.epoch), "the epoch of {at}");
    assert_eq!(digest(ring), step.digest, "the digest of {at}");
    assert_eq!(ring.fingerprint(), ring.recomputed_fingerprint(), "the fingerprint of {at}");
    let description = ring.description(&vector.group);
    if let Some(expected) = &step.describe {
        let shown = serde_json::to_value(&description).expect("a description is JSON");
        assert_eq!(&shown, expected, "the description of {at}");
        let read: Description = serde_json::from_value(expected.clone()).expect("a description");
        assert_eq!(read, description, "the description read of {at}");
    }
    if let Some(expected) = &step.holes {
        let holes: Vec<_> = ring.holes().map(|(slot, last)| (slot, last.clone())).collect();
        assert_eq!(&holes, expected, "the holes of {at}");
    }
    let view = View::try_from(description).expect("a ring's own description is well formed");
    for (key, expected) in vectors().keys.iter().zip(step.owners.iter().flatten()) {
        let key = key.bytes();
        assert_eq!(view.owners(&key, view.replicas()), *expected, "owners of {key:x?} in {at}");
        assert_eq!(view.owner(&key), expected.first().map(String::as_str));
    }
}

#[test]
fn rings_change_and_answer_as_the_vectors_say() {
    for vector in &vectors().rings {
        let mut ring = Ring::new(vector.seed, vector.replicas);
        for step in &vector.steps {
            let changes = step.ops.iter().filter(|operation| perform(&mut ring, operation)).count();
            assert_eq!(changes > 0, step.changed, "{} at entry {}", vector.name, step.index);
            if changes > 0 {
                ring.set_epoch(Revision(step.index));
            }
            compare(&ring, vector, step);
        }
        for here in &vector.keys_here {
            assert_eq!(ring.owner(&here.key.bytes()), Some(&here.owner), "{}", vector.name);
        }
    }
}

#[test]
fn descriptions_that_the_vectors_refuse_are_refused() {
    for description in &vectors().refuse {
        let read: Description = serde_json::from_value(description.clone()).expect("the shape");
        assert!(View::try_from(read).is_err(), "{description}");
    }
}

/// The bytes lead the library's generator to the one state at which its plain `+ 1` overflows: with
/// overflow checks in that crate this test panics, and so would a node asked for this key.
#[test]
fn the_key_that_overflows_the_generator_has_an_owner() {
    let key = unhex("13b98c194d74a66b");
    assert_eq!(xxh64(&key, 0), 2_313_046_976_756_913_067);
    let mut ring = Ring::new(0, 1);
    assert_eq!(ring.owner(&key), None);
    for number in 0..1_000 {
        ring.join(&id(&format!("w{number}")), 1);
    }
    assert_eq!(ring.owner(&key), Some(&id("w0")));
}

#[test]
fn the_example_in_the_documentation_is_right() {
    let description: Description = serde_json::from_str(
        r#"{"v":1,"kind":"jump-probe-1","group":"fetchers","epoch":42,"seed":0,"replicas":2,
            "workers":[["a",1],["b",2]],"slots":[0,1,-1,1]}"#,
    )
    .expect("a description");
    let view = View::try_from(description).expect("well formed");
    let hash = xxh64(b"user/10", 0);
    assert_eq!(hash, 0x4487_e5df_fa28_6b69);
    assert_eq!(jump(hash, 4), 2);
    let again = mix64(hash.wrapping_add(GAMMA));
    assert_eq!(again, 0x38fb_c369_2de2_abbb);
    assert_eq!(jump(again, 4), 0);
    assert_eq!(view.owners(b"user/10", view.replicas()), ["a", "b"]);
    assert_eq!(token(xxh64(b"b", 0), 1), 0x434d_6d98_06cd_0fb6);
    assert_eq!(view.owners(b"key-1", 2), ["b", "a"]);
}
