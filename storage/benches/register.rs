//! What a batch of registrations costs a node between the log and the watchers: decoding its command,
//! and applying it to the catalogue. `roster bench scale` tells what that comes to in a cluster.

#![allow(clippy::unwrap_used, reason = "a bench may end on a mistake of its own")]

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
fn registration(number: usize) -> BatchItem {
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
    BatchItem::Register(Register {
        key: InstanceKey { app, id: id.parse().unwrap() },
        profile: profile.into(),
        session: None,
        ttl_ms: None,
        takeover: false,
        create_app: Some(0),
        condition: Condition::Any,
    })
}

fn batch(first: usize) -> Command {
    let items = (first..first + ITEMS).map(registration).collect();
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
