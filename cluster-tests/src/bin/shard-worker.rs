//! A worker of a shard set, as a program: for each shard that it works on it has a lock in a folder,
//! and whatever it does it writes into its own log. It ends when the test that started it ends.
//!
//! Arguments: nodes, set, app, id, zone, folder of the locks, log.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use cluster_tests::ledger::Entry;
use cluster_tests::locks::{Locks, Mark, Taken, now_us};
use cluster_tests::workers::TTL;
use roster::client::{Client, Grant, Registration, ShardWork, ShardWorker, ShardWorkerSettings};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{Signal as Told, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// How often it does a piece of work on each of its shards.
const WORKS_EVERY: Duration = Duration::from_millis(50);

/// Two were at work on one shard.
const VIOLATION: i32 = 3;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    if let Err(e) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("shard-worker: it may outlive its test: {e}");
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, set, app, id, zone, folder, log] = &arguments[..] else {
        eprintln!("usage: shard-worker NODES SET APP ID ZONE FOLDER LOG");
        return ExitCode::from(2);
    };
    let told = signal(SignalKind::terminate()).expect("signals");
    let log = OpenOptions::new().create(true).append(true).open(log).expect("a log");
    let work = Arc::new(Work {
        locks: Locks::in_folder(Path::new(folder)),
        pid: std::process::id(),
        hands: Mutex::new(Hands { at_work: BTreeMap::new(), log }),
    });
    let registration = Registration {
        ip: "192.0.2.1".into(),
        port: 1,
        zone: zone.clone(),
        ttl: Some(TTL),
        ..Registration::default()
    };
    let settings =
        ShardWorkerSettings { set: set.clone(), app: app.clone(), id: id.clone(), registration };
    let client = Client::new(nodes).expect("a client");
    let worker = client.work_on_shards(settings, work.clone()).await.expect("registered");
    works(&worker, &work, told).await;
    worker.leave().await.expect("it leaves");
    ExitCode::SUCCESS
}

/// Until it is told to stop.
async fn works(worker: &ShardWorker, work: &Work, mut told: Told) {
    let mut pieces = interval(WORKS_EVERY);
    pieces.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = told.recv() => return,
            _ = pieces.tick() => work.does_a_piece(|| worker.is_safe()),
        }
    }
}

struct Work {
    locks: Locks,
    pid: u32,
    hands: Mutex<Hands>,
}

/// What is worked on, under which grant, and what was written down of it.
struct Hands {
    at_work: BTreeMap<String, u64>,
    log: File,
}

impl Work {
    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().expect("nothing panicked meanwhile")
    }

    fn does_a_piece(&self, is_safe: impl Fn() -> bool) {
        let mut hands = self.hands();
        for (shard, grant) in hands.at_work.clone() {
            if is_safe() {
                hands.writes(&Entry::Work { shard, grant, at_us: now_us() });
            }
        }
    }
}

impl Hands {
    fn writes(&mut self, entry: &Entry) {
        // In one piece: it may be killed at any time.
        self.log.write_all(format!("{entry}\n").as_bytes()).expect("written");
    }
}

#[async_trait]
impl ShardWork for Work {
    fn start(&self, shard: &Grant) {
        let Grant { shard, grant } = shard;
        let mut hands = self.hands();
        let taken = match self.locks.take(shard, Mark { pid: self.pid, grant: grant.0 }) {
            Ok(taken) => taken,
            Err(violation) => {
                eprintln!("shard-worker: {violation}");
                std::process::exit(VIOLATION);
            }
        };
        if let Taken::LeftBehind(by) = taken {
            eprintln!("shard-worker: {shard} was left behind by {by:?}");
        }
        hands.at_work.insert(shard.clone(), grant.0);
        hands.writes(&Entry::Begin { shard: shard.clone(), grant: grant.0, at_us: now_us() });
    }

    async fn stop(&self, shard: &Grant) {
        let Grant { shard, grant } = shard;
        let mut hands = self.hands();
        if hands.at_work.get(shard) != Some(&grant.0) {
            return;
        }
        hands.at_work.remove(shard);
        hands.writes(&Entry::End { shard: shard.clone(), grant: grant.0, at_us: now_us() });
        self.locks.give_back(shard, Mark { pid: self.pid, grant: grant.0 });
    }
}
