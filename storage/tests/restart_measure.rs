//! What a checkpoint of many instances costs to write and to load. Run by hand:
//! `cargo test --release -p roster-storage --test restart_measure -- --ignored --nocapture`
//! (`a_million` or `a_hundred_thousand` before `--ignored` for one of them).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use roster_storage::catalog::{At, Catalog};
use roster_storage::command::{Command, Condition, Profile, Register, Stamp};
use roster_storage::disk::Checkpoint;
use roster_storage::names::{AppName, InstanceId, InstanceKey, Revision};
use roster_storage::raft_types::{LogId, StoredMembership};
use roster_storage::version::Version;
use rustix::time::{ClockId, clock_gettime};

/// The one of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const APPS: u64 = 1_000;

/// An instance with about 200 bytes of metadata, on a private session.
fn registration(n: u64) -> Command {
    let app = AppName::new(format!("service-{:04}", n * 7_919 % APPS)).expect("a name");
    let id = format!("10.{}.{}.{}:8719", n % 251, n / 251 % 241, n / 60_491);
    let profile = Profile {
        ip: format!("10.{}.{}.{}", n % 251, n / 251 % 241, n / 60_491).into(),
        port: 8719,
        hostname: format!("node-{}.example.org", n * 7_919 % 1_000_003).into(),
        version: "1.8.6".into(),
        zone: "eu-west-1a".into(),
        weight: 1,
        metadata: Arc::new(BTreeMap::from([
            ("build".into(), format!("{:032x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into()),
            ("team".into(), "payments-and-settlement-of-the-south".into()),
            ("protocols".into(), "grpc,http,graphql".into()),
            ("commit".into(), format!("{:040x}", n.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)).into()),
            ("owner".into(), "team-payments@example.org".into()),
        ])),
        payload: Vec::new(),
    };
    Command::Register(Register {
        key: InstanceKey::new(app, InstanceId::new(id).expect("an id")),
        profile: profile.into(),
        session: None,
        ttl_ms: Some(15_000),
        takeover: false,
        create_app: Some(0),
        condition: Condition::Any,
    })
}

fn version_of(instances: u64) -> Version {
    let mut catalog = Catalog::default();
    for n in 1..=instances {
        let stamp = Stamp { cluster_ms: n, wall_ms: 1_700_000_000_000 + n };
        catalog.apply(At { revision: Revision(n), term: 3, stamp }, &registration(n));
    }
    assert_eq!(catalog.instance_count(), instances, "all are there");
    Version {
        catalog,
        applied: Some(LogId::new_term_index(3, instances)),
        membership: StoredMembership::default(),
    }
}

fn now(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn measured<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (cpu, wall) = (now(ClockId::ProcessCPUTime), now(ClockId::Monotonic));
    let done = work();
    println!(
        "{what}: {:.2} s, {:.2} s of CPU",
        (now(ClockId::Monotonic) - wall).as_secs_f64(),
        (now(ClockId::ProcessCPUTime) - cpu).as_secs_f64()
    );
    done
}

fn loaded(folder: &Path) -> Version {
    Checkpoint::open_newest(folder, |_| {}).expect("it is whole").expect("it is there").1
}

#[test]
#[ignore = "measures; run by hand"]
fn a_hundred_thousand() {
    write_and_load(100_000);
}

#[test]
#[ignore = "measures; run by hand"]
fn a_million() {
    write_and_load(1_000_000);
}

fn write_and_load(instances: u64) {
    let home = tempfile::tempdir_in(std::env::current_dir().expect("a folder")).expect("a folder");
    let version = measured("apply", || version_of(instances));
    let checkpoint =
        measured("write", || Checkpoint::write(home.path(), &version)).expect("it is written");
    println!("{instances} instances, {} MiB", checkpoint.bytes >> 20);
    for _ in 0..3 {
        let again = measured("load", || loaded(home.path()));
        assert_eq!(again.catalog.state_hash(), version.catalog.state_hash(), "it is the same");
    }
}
