//! Randomness that can be had again: one number, printed, given by `ROSTER_TEST_SEED`.

use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (splitmix64); good enough to vary an order.
#[derive(Clone, Debug)]
pub struct Seed(u64);

impl Seed {
    /// From the environment, else from the clock; printed so that a failure can be had again.
    pub fn of_this_run(test: &str) -> Self {
        let given = std::env::var("ROSTER_TEST_SEED").ok();
        let seed = match given.map(|text| text.parse()) {
            Some(Ok(seed)) => seed,
            Some(Err(e)) => panic!("ROSTER_TEST_SEED is not a number: {e}"),
            None => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_micros() as u64)
            }
        };
        println!("{test}: ROSTER_TEST_SEED={seed}");
        Self(seed)
    }

    /// One more generator, for another task.
    pub fn split(&mut self) -> Self {
        Self(self.draw())
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit.max(1) as u64) as usize
    }
}
