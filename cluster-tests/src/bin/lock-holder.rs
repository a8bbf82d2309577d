//! A program that holds a lock of the cluster again and again, for a short time each: while it does, it
//! has its mark in a folder, and whatever it does it writes into its own log. It ends when the test that
//! started it ends.
//!
//! Arguments, those of a worker: nodes, lock, and two that are not used, with its id between them; the
//! folder of the marks, the log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use cluster_tests::ledger::Entry;
use cluster_tests::locks::{Locks, Mark, now_us};
use cluster_tests::workers::TTL;
use roster::client::{Client, Held, LockMode, LockSettings, SessionSettings};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::time::interval;

/// How long it waits for the lock before it asks anew.
const WAIT: Duration = Duration::from_secs(60);

/// How often it does a piece of work while it holds the lock, and how many.
const WORKS_EVERY: Duration = Duration::from_millis(10);
const PIECES: usize = 8;

/// Two held the lock.
const VIOLATION: u8 = 3;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    if let Err(e) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("lock-holder: it may outlive its test: {e}");
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, lock, _, id, _, folder, log] = &arguments[..] else {
        eprintln!("usage: lock-holder NODES LOCK - ID - FOLDER LOG");
        return ExitCode::from(2);
    };
    let log = OpenOptions::new().create(true).append(true).open(log).expect("a log");
    let mut hands = Hands { locks: Locks::in_folder(Path::new(folder)), lock: lock.clone(), log };
    let session = SessionSettings { name: id.clone(), ttl: Some(TTL) };
    let settings = LockSettings { session, mode: LockMode::Exclusive, wait: WAIT };
    let client = Client::new(nodes).expect("a client");
    loop {
        match client.lock(lock, &settings).await {
            Ok(held) => {
                if let Err(violation) = hands.work_under(held).await {
                    eprintln!("lock-holder: {violation}");
                    return ExitCode::from(VIOLATION);
                }
            }
            Err(error) => eprintln!("lock-holder: {error}"),
        }
    }
}

struct Hands {
    locks: Locks,
    lock: String,
    log: File,
}

impl Hands {
    async fn work_under(&mut self, mut held: Held) -> Result<(), String> {
        // It may have been frozen since the lock was won.
        if !held.lease().is_safe() {
            return Ok(());
        }
        let (shard, grant) = (self.lock.clone(), held.token().0);
        let mine = Mark { pid: std::process::id(), grant };
        self.locks.take(&shard, mine)?;
        self.writes(&Entry::Begin { shard: shard.clone(), grant, at_us: now_us() });
        let mut pieces = interval(WORKS_EVERY);
        for _ in 0..PIECES {
            tokio::select! {
                biased;
                loss = held.lost() => {
                    eprintln!("lock-holder: {grant} may be another's: {loss}");
                    break;
                }
                _ = pieces.tick() => {}
            }
            if held.lease().is_safe() {
                self.writes(&Entry::Work { shard: shard.clone(), grant, at_us: now_us() });
            }
        }
        self.writes(&Entry::End { shard: shard.clone(), grant, at_us: now_us() });
        self.locks.give_back(&shard, mine);
        if let Err(error) = held.release().await {
            eprintln!("lock-holder: {grant} is left to its TTL: {error}");
        }
        Ok(())
    }

    fn writes(&mut self, entry: &Entry) {
        // In one piece: it may be killed at any time.
        self.log.write_all(format!("{entry}\n").as_bytes()).expect("written");
    }
}
