//! A ring as slow and as plain as its specification: every rule is a line of text made code.

use std::collections::BTreeMap;

use roster_storage::ring::arithmetic::{GAMMA, mix64, xxh64};

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub seed: u64,
    pub workers: BTreeMap<String, u64>,
    pub slots: Vec<Option<String>>,
    pub holes: Vec<(usize, String)>,
}

impl Model {
    /// Whether it changed anything.
    pub fn join(&mut self, id: &str, weight: u64) -> bool {
        let old = self.workers.get(id).copied().unwrap_or(0);
        let total: u64 = self.workers.values().sum();
        if !(1..=1024).contains(&weight) || weight == old || total - old + weight > 1 << 20 {
            return false;
        }
        for _ in old..weight {
            let own = self.holes.iter().rposition(|(_, last)| last == id);
            let slot = match own.or(if self.holes.is_empty() { None } else { Some(0) }) {
                Some(hole) => self.holes.remove(hole).0,
                None => {
                    self.slots.push(None);
                    self.slots.len() - 1
                }
            };
            self.slots[slot] = Some(id.into());
        }
        self.vacate(id, weight);
        self.workers.insert(id.into(), weight);
        true
    }

    pub fn leave(&mut self, id: &str) -> bool {
        self.vacate(id, 0);
        self.workers.remove(id).is_some()
    }

    pub fn compact(&mut self) -> bool {
        let changes = !self.holes.is_empty();
        let held = self.slots.iter().flatten().count();
        while let Some(hole) = self.slots[..held].iter().position(Option::is_none) {
            let highest = self.slots.iter().rposition(Option::is_some).expect("a held slot");
            self.slots.swap(hole, highest);
        }
        self.slots.truncate(held);
        self.holes.clear();
        changes
    }

    fn vacate(&mut self, id: &str, keep: u64) {
        let holds = |slot: &Option<String>| slot.as_deref() == Some(id);
        let held: Vec<usize> = (0..self.slots.len()).filter(|at| holds(&self.slots[*at])).collect();
        for slot in held.into_iter().skip(keep as usize) {
            self.slots[slot] = None;
            self.holes.push((slot, id.into()));
        }
    }

    pub fn owner(&self, key: &[u8]) -> Option<&str> {
        let h = xxh64(key, self.seed);
        if self.workers.is_empty() {
            return None;
        }
        for t in 0..8 {
            let p = if t == 0 { h } else { mix64(h.wrapping_add(GAMMA.wrapping_mul(t))) };
            if let Some(id) = &self.slots[jump(p, self.slots.len())] {
                return Some(id);
            }
        }
        self.by_score(h).first().copied()
    }

    pub fn owners(&self, key: &[u8], replicas: usize) -> Vec<&str> {
        let owner = self.owner(key);
        let others = self.by_score(xxh64(key, self.seed)).into_iter();
        let others = others.filter(|id| Some(*id) != owner);
        owner.into_iter().chain(others).take(replicas).collect()
    }

    fn by_score(&self, h: u64) -> Vec<&str> {
        let mut ids: Vec<&str> = self.workers.keys().map(String::as_str).collect();
        ids.sort_by_key(|id| (std::cmp::Reverse(self.score(h, id)), *id));
        ids
    }

    fn score(&self, h: u64, id: &str) -> u64 {
        let token =
            |c: u64| mix64(xxh64(id.as_bytes(), self.seed).wrapping_add(GAMMA.wrapping_mul(c)));
        (0..self.workers[id]).map(|c| mix64(h ^ token(c))).max().expect("a weight of 1 or more")
    }
}

/// Jump consistent hash without the library.
pub fn jump(mut h: u64, n: usize) -> usize {
    let (mut b, mut j) = (-1_i64, 0_i64);
    while j < n as i64 {
        b = j;
        h = h.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let q = (1_u64 << 31) as f64 / ((h >> 33) + 1) as f64;
        j = ((b + 1) as f64 * q) as i64;
    }
    b as usize
}
