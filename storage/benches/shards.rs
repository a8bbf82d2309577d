//! What a plan costs, and what it keeps. `cargo bench -p roster-storage --bench shards`; memory is
//! the `max alloc` of `memory`.

use std::collections::BTreeMap;

use divan::{AllocProfiler, Bencher, black_box};
use roster_storage::names::{InstanceId, Revision, ShardId};
use roster_storage::shards::{Changed, Group, Input, Member, Worker, plan};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Shards and workers.
const SIZES: [(usize, usize); 2] = [(10_000, 100), (100_000, 1_000)];
const AT: Revision = Revision(2);

/// As ids are: an address and a port, 26 to 29 bytes.
fn worker(n: usize) -> InstanceId {
    let text = format!("fetcher-{n:05}@10.20.{}.{}:8719", n / 256, n % 256);
    text.parse().expect("a worker id")
}

fn shard(n: usize) -> ShardId {
    let text = format!("app-{}/10.{}.{}.{}:8719", n % 50, n >> 16, (n >> 8) % 256, n % 256);
    text.parse().expect("a shard id")
}

fn properties() -> Worker {
    Worker { weight: 1, zone: "zone-a".into(), available: true }
}

/// Shards and workers that were never planned.
fn unplanned(shards: usize, workers: usize, copies: u8) -> Group {
    let mut group = Group::new(0, copies);
    for n in 0..workers {
        group.up(&worker(n), properties());
    }
    for n in 0..shards {
        group.add(&shard(n));
    }
    group.finish(Revision(1));
    group
}

fn planned((shards, workers): (usize, usize)) -> Group {
    let mut group = unplanned(shards, workers, 1);
    rebalance(&mut group);
    group
}

fn without_a_tenth(size: (usize, usize)) -> Group {
    let mut group = planned(size);
    for n in 0..size.1 / 10 {
        group.down(AT, &worker(n * 10));
    }
    group.finish(AT);
    group
}

fn rebalance(group: &mut Group) -> Vec<Changed> {
    group.rebalance(AT);
    group.finish(AT)
}

/// Measures one act on copies of a group, as apply does it beside a published version. What it
/// leaves is dropped outside of the time.
fn on_copies<T>(bencher: Bencher<'_, '_>, group: &Group, act: impl Fn(&mut Group) -> T + Sync) {
    bencher.with_inputs(|| group.clone()).bench_local_values(|mut copy| {
        let told = act(&mut copy);
        (copy, told)
    });
}

/// The plan alone, of shards that nobody has.
#[divan::bench(args = SIZES, sample_count = 20, sample_size = 1)]
fn first_plan_alone(bencher: Bencher<'_, '_>, (shards, workers): (usize, usize)) {
    let group = unplanned(shards, workers, 1);
    bencher.bench_local(|| black_box(&group).next_moves());
}

/// The plan alone, after a tenth of the workers left.
#[divan::bench(args = SIZES, sample_count = 50, sample_size = 1)]
fn a_tenth_left_alone(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    let group = without_a_tenth(size);
    bencher.bench_local(|| black_box(&group).next_moves());
}

/// All shards are granted for the first time: apply's whole work, records and indexes.
#[divan::bench(args = SIZES, sample_count = 20, sample_size = 1)]
fn first_plan(bencher: Bencher<'_, '_>, (shards, workers): (usize, usize)) {
    on_copies(bencher, &unplanned(shards, workers, 1), rebalance);
}

/// The same with a standby, so that each shard ranks the workers.
#[divan::bench(args = SIZES, sample_count = 3, sample_size = 1)]
fn first_plan_with_a_standby(bencher: Bencher<'_, '_>, (shards, workers): (usize, usize)) {
    on_copies(bencher, &unplanned(shards, workers, 2), rebalance);
}

#[divan::bench(args = SIZES, sample_count = 50)]
fn nothing_to_do(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    on_copies(bencher, &planned(size), rebalance);
}

/// A worker came: the plan that gives it its share.
#[divan::bench(args = SIZES, sample_count = 50)]
fn join(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    let mut group = planned(size);
    group.up(&worker(size.1), properties());
    on_copies(bencher, &group, rebalance);
}

/// A tenth of the workers are gone: the plan that gives their shards to the others.
#[divan::bench(args = SIZES, sample_count = 50, sample_size = 1)]
fn a_tenth_left(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    on_copies(bencher, &without_a_tenth(size), rebalance);
}

/// A worker is declared dead, without the plan that follows.
#[divan::bench(args = SIZES, sample_count = 50)]
fn down(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    on_copies(bencher, &planned(size), |group| {
        group.down(AT, &worker(7));
        group.finish(AT)
    });
}

/// The pure function, from text ids: it hashes and sorts all shards.
#[divan::bench(args = SIZES, sample_count = 10, sample_size = 1)]
fn pure_function(bencher: Bencher<'_, '_>, (shards, workers): (usize, usize)) {
    let member = Member { weight: 1, zone: "zone-a".into() };
    let mut input = Input {
        shards: (0..shards).map(shard).collect(),
        workers: (0..workers).map(|n| (worker(n), member.clone())).collect(),
        copies: 1,
        ..Input::default()
    };
    input.planned = plan(&input);
    bencher.bench_local(|| -> BTreeMap<_, _> { plan(black_box(&input)) });
}

/// Look at `max alloc`: all that a group of this size keeps.
#[divan::bench(args = SIZES, sample_count = 1, sample_size = 1)]
fn memory(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    let group = planned(size);
    let records: Vec<_> = group.shards().map(|(id, s)| (id.clone(), s.clone())).collect();
    bencher.bench_local(|| {
        let mut read = Group::new(0, 1);
        for (id, worker) in group.workers() {
            read.up(id, worker.clone());
        }
        for (id, shard) in &records {
            read.insert_record(id.clone(), shard.clone());
        }
        read
    });
}
