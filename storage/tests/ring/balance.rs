//! Keys are spread by weight, however many slots are vacant.

use std::collections::BTreeMap;

use roster_storage::names::InstanceId;
use roster_storage::ring::Ring;

use crate::acts::{id, keys};

/// A ring of `all` workers with weights that repeat `weights`, of which those stay whose number
/// `stays`.
fn ring(all: usize, weights: &[u16], stays: impl Fn(usize) -> bool) -> Ring {
    let mut ring = Ring::new(7, 1);
    for number in 0..all {
        ring.join(&id(&format!("w{number}")), weights[number % weights.len()]);
    }
    for number in (0..all).filter(|number| !stays(*number)) {
        ring.leave(&id(&format!("w{number}")));
    }
    ring
}

fn loads(ring: &Ring, count: usize) -> BTreeMap<InstanceId, u32> {
    let mut loads: BTreeMap<_, _> = ring.workers().map(|(id, _)| (id.clone(), 0)).collect();
    for key in keys(count) {
        let owner = ring.owner(&key).expect("there are workers");
        *loads.get_mut(owner).expect("owners are workers") += 1;
    }
    loads
}

/// How far the loads are from the shares, in standard deviations of what chance alone would do:
/// the chi-squared statistic, less what is expected of it, over its own deviation.
fn strangeness(ring: &Ring, count: usize) -> f64 {
    let total: u64 = ring.workers().map(|(_, weight)| u64::from(weight)).sum();
    let loads = loads(ring, count);
    let statistic: f64 = ring
        .workers()
        .map(|(id, weight)| {
            let share = count as f64 * f64::from(weight) / total as f64;
            (f64::from(loads[id]) - share).powi(2) / share
        })
        .sum();
    let freedom = (ring.len() - 1) as f64;
    (statistic - freedom) / (2.0 * freedom).sqrt()
}

/// R8. The keys are always the same, so this cannot fail by chance.
#[test]
fn loads_differ_from_the_weights_by_chance_alone() {
    let cases: [(&str, Ring); 8] = [
        ("10 alike", ring(10, &[1], |_| true)),
        ("100 alike", ring(100, &[1], |_| true)),
        ("99 of weights 1, 2, 4", ring(99, &[1, 2, 4], |_| true)),
        ("half vacant", ring(40, &[1], |number| number % 2 == 0)),
        ("60 % vacant, weights 1, 2, 4", ring(150, &[1, 2, 4], |number| number % 5 < 2)),
        ("90 % vacant", ring(200, &[1], |number| number % 10 == 3)),
        ("95 % vacant", ring(400, &[1], |number| number >= 380)),
        ("95 % vacant, weights 1, 2, 4", ring(600, &[1, 2, 4], |number| number < 30)),
    ];
    for (name, ring) in cases {
        let strangeness = strangeness(&ring, 30_000);
        assert!(strangeness.abs() < 4.0, "{name}: {strangeness:.1} deviations");
    }
}

/// The largest load over the mean of a million keys, for docs/ring.md. Takes long.
#[test]
#[ignore = "measures; run with --ignored --nocapture"]
fn the_largest_load_of_a_million_keys() {
    for (workers, limit) in [(10, 1.02), (100, 1.05), (1_000, 1.15)] {
        let ring = ring(workers, &[1], |_| true);
        let largest = loads(&ring, 1_000_000).into_values().max().expect("there are workers");
        let ratio = f64::from(largest) * workers as f64 / 1e6;
        println!("{workers} workers: {ratio:.3}");
        assert!(ratio <= limit, "{workers} workers: {ratio}");
    }
}
