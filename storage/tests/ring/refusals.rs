//! R11: what is no ring is refused, with words that say where it goes wrong.

use proptest::prelude::*;
use roster_storage::ring::{Description, Ring, View};
use serde_json::{Value, json};

use crate::acts::{any_ring, id};

fn good() -> Value {
    json!({"v": 1, "kind": "jump-probe-1", "group": "g", "epoch": 42, "seed": 0, "replicas": 2,
        "workers": [["a", 1], ["b", 2]], "slots": [0, 1, -1, 1]})
}

/// What a client says to a description that differs from the good one in one field.
fn refusal(field: &str, value: Value) -> String {
    let mut description = good();
    description[field] = value;
    let read =
        serde_json::from_value::<Description>(description).map_err(|error| error.to_string());
    match read.and_then(|read| View::try_from(read).map_err(|error| error.to_string())) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error,
    }
}

#[test]
fn each_refusal_says_what_is_wrong_and_where() {
    let refusals = [
        ("v", json!(2)),
        ("kind", json!("maglev")),
        ("epoch", json!(1_u64 << 53)),
        ("seed", json!(1_u64 << 53)),
        ("replicas", json!(0)),
        ("workers", json!([["", 1], ["b", 2]])),
        ("workers", json!([["b", 1], ["a", 2]])),
        ("workers", json!([["a", 1], ["a", 2]])),
        ("workers", json!([["a", 0], ["b", 2]])),
        ("workers", json!([["a", 1], ["b", 1025]])),
        ("workers", json!([["a", 1], ["b", 1]])),
        ("slots", json!([0, 1, -2, 1])),
        ("slots", json!([0, 1, 2, 1])),
        ("slots", json!([0, 0, -1, 1])),
        ("slots", json!([0, 1, -1, 1.5])),
        ("slots", Value::Array(vec![json!(-1); (1 << 20) + 1])),
    ];
    let said: Vec<_> = refusals.into_iter().map(|(field, value)| refusal(field, value)).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    the ring's description has version 2; this program reads version 1: update it
    the ring is of kind "maglev"; this program computes "jump-probe-1" only: update it
    the ring's epoch must be 0 to 9007199254740991, not 9007199254740992
    the ring's seed must be 0 to 9007199254740991, not 9007199254740992
    the ring's replicas must be 1 to 16, not 0
    the id of worker 0 of the ring must not be empty
    worker "a" of the ring is not above the one before it: ids must be ascending bytes, none twice
    worker "a" of the ring is not above the one before it: ids must be ascending bytes, none twice
    worker "a" of the ring has weight 0; it must be 1 to 1024
    worker "b" of the ring has weight 1025; it must be 1 to 1024
    worker "b" of the ring holds 2 slots, but its weight is 1
    slot 2 of the ring says -2; it must be -1 or a place among its 2 workers
    slot 2 of the ring says 2; it must be -1 or a place among its 2 workers
    worker "a" of the ring holds 2 slots, but its weight is 1
    invalid type: floating point `1.5`, expected i64
    the ring has 1048577 slots; the limit is 1048576
    "#);
}

#[test]
fn fields_that_come_later_are_ignored() {
    assert_eq!(refusal("settled", json!(41)), "accepted");
    assert_eq!(refusal("addresses", json!({"a": ["10.0.0.1", 80]})), "accepted");
}

/// Why a checkpoint's ring is refused that differs from the good one in one field.
fn state_refusal(field: &str, value: Value) -> String {
    let mut ring = Ring::new(0, 1);
    for name in ["a", "b", "c"] {
        ring.join(&id(name), 1);
    }
    ring.leave(&id("b"));
    ring.leave(&id("a"));
    let mut state = serde_json::to_value(&ring).expect("encodes");
    state[field] = value;
    match serde_json::from_value::<Ring>(state) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_checkpoint_does_not_bring_in_a_ring_that_cannot_be() {
    assert_eq!(state_refusal("epoch", json!(7)), "accepted");
    let refusals = [
        ("seed", json!(1_u64 << 53)),
        ("replicas", json!(17)),
        ("workers", json!([["c", 2]])),
        ("workers", json!([["", 1]])),
        ("slots", json!([-1, -1, 1])),
        ("holes", json!([[1, "b"]])),
        ("holes", json!([[1, "b"], [1, "a"]])),
        ("holes", json!([[1, "b"], [2, "a"]])),
        ("holes", json!([[1, "b"], [0, "a"], [3, "a"]])),
    ];
    let refusals = refusals.into_iter().map(|(field, value)| state_refusal(field, value));
    insta::assert_snapshot!(refusals.collect::<Vec<_>>().join("\n"), @r#"
    the ring's seed must be 0 to 9007199254740991, not 9007199254740992
    the ring's replicas must be 1 to 16, not 17
    worker "c" of the ring holds 1 slots, but its weight is 2
    must not be empty
    slot 2 of the ring says 1; it must be -1 or a place among its 1 workers
    1 of 2 vacant slots of the ring are listed; all must be
    slot 1 is listed as vacant, but it is held, not there, or listed twice
    slot 2 is listed as vacant, but it is held, not there, or listed twice
    slot 3 is listed as vacant, but it is held, not there, or listed twice
    "#);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_description_with_one_slot_changed_is_refused(
        ring in any_ring(),
        at in any::<prop::sample::Index>(),
        says in -3_i64..10,
    ) {
        let mut description = ring.description("g");
        prop_assume!(!description.slots.is_empty());
        let slot = at.get_mut(&mut description.slots);
        prop_assume!(*slot != says);
        *slot = says;
        prop_assert!(View::try_from(description).is_err());
    }

    #[test]
    fn a_description_with_workers_in_another_order_is_refused(
        ring in any_ring(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut description = ring.description("g");
        prop_assume!(description.workers.len() > 1);
        let one = at.index(description.workers.len() - 1);
        description.workers.swap(one, one + 1);
        prop_assert!(View::try_from(description).is_err());
    }

    /// Numbers of any size, in any combination: an answer or a refusal, never a panic.
    #[test]
    fn a_description_of_anything_is_read_or_refused(
        numbers in prop::array::uniform3(prop_oneof![0_u64..20, any::<u64>()]),
        workers in prop::collection::vec(("[a-c]{0,2}", prop_oneof![0_u64..3, any::<u64>()]), 0..4),
        slots in prop::collection::vec(prop_oneof![-2_i64..5, any::<i64>()], 0..5),
    ) {
        let [epoch, seed, replicas] = numbers;
        let mut description = Ring::new(seed, 1).description("g");
        description.epoch.0 = epoch;
        (description.seed, description.replicas) = (seed, replicas);
        description.workers = workers.into_iter().map(|(id, weight)| (id.into(), weight)).collect();
        description.slots = slots;
        if let Ok(view) = View::try_from(description) {
            prop_assert_eq!(view.owner(b"key").is_none(), view.workers().len() == 0);
        }
    }
}
