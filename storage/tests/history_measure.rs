//! What the history costs. Run by hand:
//! `cargo test --release -p roster-storage --test history_measure -- --ignored --nocapture`

#[path = "history/model.rs"]
mod model;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use roster_storage::catalog::{At, Instance, State};
use roster_storage::command::{Profile, Stamp};
use roster_storage::events::{Change, Event, Seen};
use roster_storage::history::{History, HistoryLimits, Sizes};
use roster_storage::names::{Incarnation, InstanceId, InstanceKey, Revision, SessionId};
use rustix::time::{ClockId, clock_gettime};

use model::{UNLIMITED, app, interest, open};

/// A registration as its watchers are told of it, about 250 bytes.
fn registered(revision: u64, apps: u64) -> Arc<Change> {
    let id = InstanceId::new(format!("10.{}.{}.1:8719", revision % 251, revision % 241));
    let profile = Profile {
        ip: format!("10.{}.{}.1", revision % 251, revision % 241).into(),
        port: 8719,
        hostname: format!("node-{}.example.org", revision * 7_919 % 10_007).into(),
        version: "1.8.6".into(),
        zone: "eu-west-1a".into(),
        weight: 1,
        metadata: Arc::new(BTreeMap::from([
            (
                "build".into(),
                format!("{:016x}", revision.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into(),
            ),
            ("team".into(), "payments-and-settlement".into()),
            ("protocol".into(), "grpc,http".into()),
        ])),
        payload: Vec::new(),
    };
    let instance = Instance {
        profile: profile.into(),
        session: SessionId(revision),
        incarnation: Incarnation(revision),
        revision: Revision(revision),
        registered_at_ms: 1_700_000_000_000 + revision,
    };
    let now = Seen { instance: Arc::new(instance), state: State::Up };
    let key = InstanceKey::new(app(revision * 31 % apps), id.expect("an id"));
    let event = Event::InstancePut { key, now, ttl_ms: 15_000, before: None, said: "".into() };
    let stamp = Stamp { cluster_ms: revision, wall_ms: 1_700_000_000_000 + revision };
    Arc::new(Change::new(At { revision: Revision(revision), term: 3, stamp }, vec![event]))
}

/// CPU time of all threads of this process: sled writes on its own.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn wall() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Writes changes as the writer does: some at a time, with a sync each.
fn write(history: &History, changes: &[Arc<Change>], per_sync: usize) {
    for some in changes.chunks(per_sync) {
        let (first, last) = (some[0].at.revision, some[some.len() - 1].at.revision);
        history.append(Revision(first.0 - 1), last, some);
        history.sync(0).expect("it works");
    }
}

fn per(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

#[test]
#[ignore = "measures; run by hand"]
fn cpu_per_event() {
    const EVENTS: usize = 100_000;
    for (apps, per_sync) in
        [(10, 1_000), (1_000, 1_000), (100_000, 1_000), (1_000, 10_000), (1_000, 100)]
    {
        let changes: Vec<_> = (1..=EVENTS as u64).map(|r| registered(r, apps)).collect();
        let home =
            tempfile::tempdir_in(std::env::current_dir().expect("a folder")).expect("a folder");
        let folder = home.path().join("history");
        let history = open(&folder, UNLIMITED, Sizes::default());
        let (cpu_before, wall_before) = (cpu(), wall());
        write(&history, &changes, per_sync);
        let (cpu_write, wall_write) = (cpu() - cpu_before, wall() - wall_before);
        println!(
            "{apps} apps, {per_sync} events per sync: {:.2} us CPU, {:.2} us wall per event; {:.0} bytes \
             kept, {:.0} on disk per event",
            per(cpu_write, EVENTS),
            per(wall_write, EVENTS),
            history.bytes_kept() as f64 / EVENTS as f64,
            history.bytes_on_disk().expect("it works") as f64 / EVENTS as f64,
        );
        let before = cpu();
        drop(history);
        let history = open(&folder, UNLIMITED, Sizes::default());
        println!("    opened in {:?} CPU", cpu() - before);
        let before = cpu();
        let read = read_all(&history, None);
        println!("    {read} events read: {:.2} us CPU per event", per(cpu() - before, read));
        let before = cpu();
        let read = read_all(&history, Some(&[3]));
        println!("    {read} events of one app read in {:?} CPU", cpu() - before);
    }
}

fn read_all(history: &History, apps: Option<&[u64]>) -> usize {
    let (mut from, mut count) = (Revision(0), 0);
    loop {
        let (changes, upto) = history.after(from, &interest(apps), 256).expect("covered");
        count += changes.len();
        if upto == from {
            return count;
        }
        from = upto;
    }
}

#[test]
#[ignore = "measures; run by hand"]
fn space_on_disk() {
    let limits = HistoryLimits { bytes_max: 16 << 20, age_max_ms: u64::MAX };
    for (value_kib, segment_kib) in [(32, 4_096), (14, 1_024), (7, 512)] {
        let sizes = Sizes {
            value_bytes: value_kib << 10,
            segment_bytes: segment_kib << 10,
            ..Sizes::default()
        };
        let home =
            tempfile::tempdir_in(std::env::current_dir().expect("a folder")).expect("a folder");
        let folder = home.path().join("history");
        let mut history = open(&folder, limits, sizes);
        let (mut next, before) = (1, cpu());
        for round in 0..12 {
            for _ in 0..100 {
                let changes: Vec<_> = (next..next + 1_000).map(|r| registered(r, 1_000)).collect();
                next += 1_000;
                write(&history, &changes, if round % 2 == 0 { 1_000 } else { 50 });
            }
            if round % 4 == 3 {
                println!(
                    "values of {value_kib} KiB, segments of {segment_kib} KiB, {next} events: {} MiB kept, \
                     {} MiB by sled, {} MiB by the file system, {:?} CPU",
                    history.bytes_kept() >> 20,
                    history.bytes_on_disk().expect("it works") >> 20,
                    bytes_of(&folder) >> 20,
                    cpu() - before,
                );
                drop(history);
                history = open(&folder, limits, sizes);
            }
        }
    }
}

fn bytes_of(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.and_then(|e| e.metadata()).map_or(0, |m| m.blocks() * 512)).sum()
}
