//! What look-ups and changes of a ring cost. The targets for a machine with two cores are beside
//! each bench; keys are 20 to 25 bytes long, and hashing them is included.

#![allow(clippy::unwrap_used, reason = "a bench may end on a mistake of its own")]

use divan::{Bencher, black_box};
use roster_storage::names::InstanceId;
use roster_storage::ring::{Description, Ring, View};

fn main() {
    divan::main();
}

fn id(number: usize) -> InstanceId {
    InstanceId::new(format!("fetcher-{number:05}@10.20.0.1:8719")).unwrap()
}

fn ring(workers: usize, weights: &[u16]) -> Ring {
    let mut ring = Ring::new(0, 1);
    for number in 0..workers {
        ring.join(&id(number), weights[number % weights.len()]);
    }
    ring
}

/// A thousand workers, of which so many percent are gone, evenly spread.
fn vacant(percent: usize) -> Ring {
    let mut ring = ring(1_000, &[1]);
    for number in (0..1_000).filter(|number| (number * 7) % 100 < percent) {
        ring.leave(&id(number));
    }
    ring
}

fn bench_keys(bencher: Bencher, look_up: impl Fn(&[u8]) -> usize) {
    let keys: Vec<_> = (0..4_096).map(|number| format!("resource/{number:011}/eu")).collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % keys.len();
        look_up(black_box(keys[at].as_bytes()))
    });
}

/// At most 60, 80, 100 ns.
#[divan::bench(args = [10, 100, 1_000])]
fn owner(bencher: Bencher, workers: usize) {
    let ring = ring(workers, &[1]);
    bench_keys(bencher, |key| ring.owner(key).map_or(0, |id| id.as_str().len()));
}

/// At most 110, 200, 600 ns.
#[divan::bench(args = [10, 50, 90])]
fn owner_among_1000_with_percent_vacant(bencher: Bencher, percent: usize) {
    let ring = vacant(percent);
    bench_keys(bencher, |key| ring.owner(key).map_or(0, |id| id.as_str().len()));
}

/// At most 0.6, 4 us.
#[divan::bench(args = [100, 1_000])]
fn three_copies(bencher: Bencher, workers: usize) {
    let ring = ring(workers, &[1]);
    bench_keys(bencher, |key| ring.owners(key, 3).len());
}

/// No target: each further copy of a worker is one more draw.
#[divan::bench(args = [100, 1_000])]
fn three_copies_with_weights_1_2_4(bencher: Bencher, workers: usize) {
    let ring = ring(workers, &[1, 2, 4]);
    bench_keys(bencher, |key| ring.owners(key, 3).len());
}

#[divan::bench]
fn copy_of_1000(bencher: Bencher) {
    let ring = ring(1_000, &[1]);
    bencher.bench_local(|| black_box(&ring).clone());
}

/// At most 50 us, with the copy that readers keep looking at.
#[divan::bench]
fn join_to_1000_and_copy(bencher: Bencher) {
    let ring = ring(1_000, &[1]);
    let new = id(50_000);
    bencher.bench_local(|| {
        let mut changed = black_box(&ring).clone();
        changed.join(&new, 1);
        changed
    });
}

/// At most 50 us, as above.
#[divan::bench]
fn leave_from_1000_and_copy(bencher: Bencher) {
    let ring = ring(1_000, &[1]);
    let gone = id(500);
    bencher.bench_local(|| {
        let mut changed = black_box(&ring).clone();
        changed.leave(&gone);
        changed
    });
}

/// At most 50 us, as above.
#[divan::bench]
fn leave_from_1000_with_weights_1_2_4_half_vacant_and_copy(bencher: Bencher) {
    let mut ring = ring(2_000, &[1, 2, 4]);
    for number in (0..2_000).filter(|number| number % 2 == 1) {
        ring.leave(&id(number));
    }
    let gone = id(500);
    bencher.bench_local(|| {
        let mut changed = black_box(&ring).clone();
        changed.leave(&gone);
        changed
    });
}

/// At most 1 ms.
#[divan::bench]
fn view_of_1000_from_a_parsed_description(bencher: Bencher) {
    let description: Description = ring(1_000, &[1]).description("fetchers");
    bencher
        .with_inputs(|| description.clone())
        .bench_local_values(|description| View::try_from(description).unwrap());
}

#[divan::bench]
fn description_of_1000(bencher: Bencher) {
    let ring = ring(1_000, &[1]);
    bencher.bench_local(|| black_box(&ring).description("fetchers"));
}
