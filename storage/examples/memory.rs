//! What an instance takes in memory: registers many, each with a private session, and tells by how
//! much the process grew. Run by hand:
//! `cargo run --release -p roster-storage --example memory -- [instances] [apps]`
//!
//! Ids of one app come in the order of their numbers, as those of hosts do that start together; with
//! `shuffled` as a third word in no order.

use std::time::Duration;

use roster_storage::catalog::{At, Catalog};
use roster_storage::command::{
    Batch, BatchItem, Command, Condition, EncodedCommand, Profile, Register, Stamp,
};
use roster_storage::names::{AppName, InstanceId, InstanceKey, Revision};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Instances of one log entry.
const BATCH: u64 = 500;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise| {
        arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let (instances, apps): (u64, u64) = (number(0, 1_000_000), number(1, 1_000));
    let shuffled = arguments.get(2).is_some_and(|word| word == "shuffled");

    let mut catalog = Catalog::default();
    let (mut published, mut busy) = (catalog.clone(), Duration::ZERO);
    let before = resident_bytes();
    for entry in 1..=instances / BATCH {
        let first = (entry - 1) * BATCH;
        let command = batch((first..first + BATCH).map(|n| registration(n, apps, shuffled)));
        let began = cpu();
        let command = command.decode().expect("it was just encoded");
        let stamp = Stamp { cluster_ms: entry, wall_ms: 1_700_000_000_000 + entry };
        let at = At { revision: Revision(entry), term: 1, stamp };
        drop(catalog.apply(at, &command));
        catalog.passed(entry);
        published = catalog.clone();
        drop(command);
        busy += cpu() - began;
    }
    let grown = resident_bytes() - before;
    println!("{instances} instances of {apps} apps, shuffled: {shuffled}");
    println!("{} bytes resident per instance", grown / instances);
    println!("{:.2} us to decode and apply one", busy.as_secs_f64() * 1e6 / instances as f64);
    println!("state hash {:016x}", published.state_hash());
}

fn batch(items: impl Iterator<Item = Register>) -> EncodedCommand {
    let items = items.map(BatchItem::Register).collect();
    EncodedCommand::new(&Command::Batch(Batch { items, request: None })).expect("it is small")
}

fn registration(n: u64, apps: u64, shuffled: bool) -> Register {
    let place = if shuffled { n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 } else { n };
    let ip = format!("10.{}.{}.{}", place >> 16 & 255, place >> 8 & 255, place & 255);
    let app = AppName::new(format!("service-{:04}", n % apps)).expect("a name");
    let id = InstanceId::new(format!("{ip}:{}", 8719 + (n >> 24))).expect("a name");
    let metadata = [
        ("build", format!("2026-11-22.{n:06}")),
        ("commit", format!("{:040x}", u128::from(n) * 0x9e37_79b9_7f4a_7c15)),
        ("datacenter", "fra1".into()),
        ("framework", "spring-boot".into()),
        ("owner", format!("svc-{n:07}@example.org")),
        ("protocol", "dubbo".into()),
        ("region", "eu-central-1".into()),
        ("team", "payments-and-checkout".into()),
    ];
    let filled: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    let metadata = metadata.into_iter().map(|(key, value)| match key {
        // So that all metadata together has 200 bytes.
        "owner" => (key.into(), format!("{value}{}", "x".repeat(200 - filled)).into()),
        _ => (key.into(), value.into()),
    });
    Register {
        key: InstanceKey::new(app, id),
        profile: Profile {
            ip: ip.into(),
            port: 8719,
            hostname: format!("host-{n:07}.prod").into(),
            version: "1.8.9".into(),
            zone: "eu-central-1a".into(),
            weight: 1,
            metadata: std::sync::Arc::new(metadata.collect()),
            payload: Vec::new(),
        }
        .into(),
        session: None,
        ttl_ms: Some(600_000),
        takeover: false,
        create_app: Some(0),
        condition: Condition::Any,
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Resident memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("it is Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line for it");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}
