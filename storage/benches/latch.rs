//! What claims on latches cost in apply. No targets: a claim goes through the log, whose fsync takes
//! a hundred times as long as any of these may.

#![allow(clippy::unwrap_used, reason = "a bench may end on a mistake of its own")]

use divan::Bencher;
use roster_storage::catalog::{At, Catalog};
use roster_storage::command::{
    ClaimLatch, CloseSession, Command, Expire, Expiry, OpenSession, ReleaseLatch,
};
use roster_storage::latch::{Claimant, Mode};
use roster_storage::names::{LatchKey, LatchKind, Revision, SessionId};

fn main() {
    divan::main();
}

/// A catalogue and the end of its log.
#[derive(Clone, Default)]
struct World {
    catalog: Catalog,
    at: At,
}

impl World {
    fn with_sessions(count: usize) -> Self {
        let mut world = Self { at: At { term: 1, ..At::default() }, ..Self::default() };
        let open = OpenSession { ttl_ms: None, name: "".into(), request: None };
        (0..count).for_each(|_| world.apply(&Command::OpenSession(open.clone())));
        world
    }

    fn apply(&mut self, command: &Command) {
        self.at.revision.0 += 1;
        let (outcome, events) = self.catalog.apply(self.at, command);
        assert!(outcome.result.is_ok(), "{outcome}");
        divan::black_box_drop(events);
    }
}

fn lock(number: u64) -> LatchKey {
    LatchKey::new(LatchKind::Lock, format!("resource-{number:05}").parse().unwrap())
}

fn claim(latch: u64, session: u64, mode: Mode) -> Command {
    let by = Claimant { session: SessionId(session), owner: "fetcher".into() };
    Command::ClaimLatch(ClaimLatch { latch: lock(latch), by, mode, value: "".into(), waits: true })
}

fn release(latch: u64, token: Revision) -> Command {
    let (by, request) = (None, None);
    Command::ReleaseLatch(ReleaseLatch { latch: lock(latch), token, by, request })
}

/// Among so many other locks that are held.
#[divan::bench(args = [0, 10_000])]
fn claim_and_release_of_a_free_lock(bencher: Bencher, others: u64) {
    let mut world = World::with_sessions(2);
    (1..=others).for_each(|n| world.apply(&claim(n, 1, Mode::Exclusive)));
    bencher.bench_local(|| {
        world.apply(&claim(0, 2, Mode::Exclusive));
        world.apply(&release(0, world.at.revision));
    });
}

/// The holder lets go, the next one has it, and it queues again.
#[divan::bench(args = [10, 1_000, 9_999])]
fn handover_in_a_queue(bencher: Bencher, waiting: u64) {
    let mut world = World::with_sessions(waiting as usize + 1);
    (1..=waiting + 1).for_each(|n| world.apply(&claim(0, n, Mode::Exclusive)));
    bencher.bench_local(|| {
        let holder = world.catalog.latch(&lock(0)).unwrap().holders().next().unwrap().clone();
        world.apply(&release(0, holder.token.unwrap()));
        world.apply(&claim(0, holder.by.session.0, Mode::Exclusive));
    });
}

/// All that wait win in one entry.
#[divan::bench(args = [1_000, 9_999])]
fn handover_to_all_that_share(bencher: Bencher, waiting: u64) {
    let mut world = World::with_sessions(waiting as usize + 1);
    world.apply(&claim(0, 1, Mode::Exclusive));
    let token = world.at.revision;
    (2..=waiting + 1).for_each(|n| world.apply(&claim(0, n, Mode::Shared)));
    bencher
        .with_inputs(|| world.clone())
        .bench_local_values(|mut world| world.apply(&release(0, token)));
}

#[divan::bench(args = [1_000, 10_000])]
fn session_with_claims_ends(bencher: Bencher, claims: u64) {
    let mut world = World::with_sessions(2);
    (0..claims).for_each(|n| world.apply(&claim(n, 1, Mode::Exclusive)));
    let close = Command::CloseSession(CloseSession { session: SessionId(1) });
    bencher.with_inputs(|| world.clone()).bench_local_values(|mut world| world.apply(&close));
}

#[divan::bench]
fn a_thousand_sessions_on_one_lock_expire_in_one_entry(bencher: Bencher) {
    let mut world = World::with_sessions(1_001);
    (1..=1_001).for_each(|n| world.apply(&claim(0, n, Mode::Exclusive)));
    let expiry = |n| Expiry {
        session: SessionId(n),
        touched: world.catalog.session(SessionId(n)).unwrap().touched,
        silent_ms: 15_000,
    };
    let expire = Command::Expire(Expire { term: 1, sessions: (1..=1_000).map(expiry).collect() });
    bencher.with_inputs(|| world.clone()).bench_local_values(|mut world| world.apply(&expire));
}
