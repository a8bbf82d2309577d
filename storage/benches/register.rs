//! What registrations cost a node between the log and the watchers: decoding the command of a batch, applying
//! it to the catalogue, and one alone; and the look-up of each heartbeat. `roster bench scale` tells what
//! that comes to in a cluster.

#![allow(clippy::unwrap_used, reason = "a bench may end on a mistake of its own")]

use std::collections::VecDeque;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use roster_storage::catalog::{At, Catalog};
use roster_storage::command::{
    Batch, BatchItem, Command, Condition, EncodedCommand, Profile, Register,
};
use roster_storage::names::{InstanceKey, Revision};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Items of one command.
const ITEMS: usize = 500;
/// Instances of one app.
const APP_SIZE: usize = 1_000;

fn main() {
    divan::main();
}

/// One of a fleet: 200 bytes of metadata.
fn registration(number: usize) -> Register {
    let app = format!("app-{:04}", number / APP_SIZE).parse().unwrap();
    let id = format!("10.{}.{}.{}:8719", number >> 16, number >> 8 & 255, number & 255);
    let metadata = [
        ("build", format!("{number:040}")),
        ("commit", format!("{number:040x}")),
        ("image", format!("registry/service/{number:032}")),
        ("rack", format!("r{}", number % 40)),
    ];
    let profile = Profile {
        ip: "10.1.2.3".into(),
        port: 8719,
        hostname: format!("host-{number}").into(),
        version: "2.4.1".into(),
        zone: "zone-a".into(),
        weight: 1,
        metadata: Arc::new(metadata.map(|(key, value)| (key.into(), value.into())).into()),
        payload: Vec::new(),
    };
    Register {
        key: InstanceKey { app, id: id.parse().unwrap() },
        profile: profile.into(),
        session: None,
        ttl_ms: None,
        takeover: false,
        create_app: Some(0),
        condition: Condition::Any,
    }
}

fn batch(first: usize) -> Command {
    let items = (first..first + ITEMS).map(registration).map(BatchItem::Register).collect();
    Command::Batch(Batch { items, request: None })
}

#[divan::bench]
fn decode(bencher: Bencher) {
    let encoded = EncodedCommand::new(&batch(0)).unwrap();
    bencher.counter(ItemsCount::new(ITEMS)).bench_local(|| encoded.decode().unwrap());
}

#[divan::bench]
fn encode(bencher: Bencher) {
    let command = batch(0);
    bencher.counter(ItemsCount::new(ITEMS)).bench_local(|| EncodedCommand::new(&command).unwrap());
}

/// To a catalogue that grows from empty.
#[divan::bench(sample_size = 1, sample_count = 200)]
fn apply(bencher: Bencher) {
    let mut catalog = Catalog::default();
    let mut at = At { term: 1, ..At::default() };
    let mut number = 0;
    let commands = move || {
        let command = batch(number);
        number += ITEMS;
        command
    };
    bencher.counter(ItemsCount::new(ITEMS)).with_inputs(commands).bench_local_values(|command| {
        at.revision = Revision(at.revision.0 + 1);
        catalog.apply(at, &command)
    });
}

/// Instances that are there before those that come alone.
const FLEET: usize = 200_000;

/// Versions that readers hold at a time.
const HELD: usize = 2;

fn fleet() -> (Catalog, At) {
    let mut catalog = Catalog::default();
    let mut at = At { term: 1, ..At::default() };
    for first in (0..FLEET).step_by(ITEMS) {
        at.revision = Revision(at.revision.0 + 1);
        catalog.apply(at, &batch(first));
    }
    (catalog, at)
}

/// Members of the fleet, far from each other.
fn scattered(number: usize) -> Register {
    registration(number * 7_919_777 % FLEET)
}

/// Anywhere in the fleet, while readers hold the versions before: what has to be copied.
#[divan::bench(sample_size = 25, sample_count = 800)]
fn apply_one(bencher: Bencher) {
    let (mut catalog, mut at) = fleet();
    let mut held = VecDeque::new();
    let mut number = 0;
    let commands = move || {
        number += 1;
        let mut one = scattered(number);
        one.key.id = format!("{}-{number}", one.key.id).parse().unwrap();
        Command::Register(one)
    };
    bencher.counter(ItemsCount::new(1_usize)).with_inputs(commands).bench_local_values(|command| {
        at.revision = Revision(at.revision.0 + 1);
        held.push_front(catalog.clone());
        held.truncate(HELD);
        catalog.apply(at, &command)
    });
}

/// As for a heartbeat.
#[divan::bench(sample_size = 1_000, sample_count = 200)]
fn look_up(bencher: Bencher) {
    let (catalog, _) = fleet();
    let mut number = 0;
    let keys = move || {
        number += 1;
        scattered(number).key
    };
    bencher.counter(ItemsCount::new(1_usize)).with_inputs(keys).bench_local_refs(|key| {
        catalog.app_named(key.app.as_str()).unwrap().instances.get(key.id.as_str()).unwrap().session
    });
}
