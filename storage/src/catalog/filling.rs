//! Fills a map in the order of its keys.
//!
//! imbl splits a full node of 16 in two halves. Entries that come in order would never reach the
//! left half again, so every node would stay half empty. Here each run of eight is followed by one
//! that waits until the node of the run before it was split off, and fills it up. The result is the
//! same map in any case; only its size in memory rests on how imbl splits.

use std::collections::VecDeque;

use imbl::OrdMap;

/// Half of an imbl node.
const RUN: usize = 8;

/// The entries of so many runs wait.
const WAITING_RUNS: usize = 2;

/// Puts what comes in order into the order in which it fills nodes.
#[derive(Debug)]
pub(super) struct Interleaved<T> {
    count: usize,
    waiting: VecDeque<T>,
}

impl<T> Default for Interleaved<T> {
    fn default() -> Self {
        Self { count: 0, waiting: VecDeque::new() }
    }
}

impl<T> Interleaved<T> {
    /// Takes the next; gives what is to be inserted now, if anything is.
    pub fn push(&mut self, next: T) -> Option<T> {
        let at_once = (self.count / RUN).is_multiple_of(2);
        self.count += 1;
        if at_once {
            return Some(next);
        }
        self.waiting.push_back(next);
        let ready = self.waiting.len() > WAITING_RUNS * RUN;
        if ready { self.waiting.pop_front() } else { None }
    }

    /// What is still to be inserted.
    pub fn rest(&mut self) -> impl Iterator<Item = T> + '_ {
        self.waiting.drain(..)
    }
}

/// A map to which entries come in the order of their keys.
#[derive(Debug)]
pub(super) struct Filling<K: Ord + Clone, V: Clone> {
    map: OrdMap<K, V>,
    last: Option<K>,
    order: Interleaved<(K, V)>,
}

impl<K: Ord + Clone, V: Clone> Default for Filling<K, V> {
    fn default() -> Self {
        Self { map: OrdMap::new(), last: None, order: Interleaved::default() }
    }
}

impl<K: Ord + Clone, V: Clone> Filling<K, V> {
    /// Gives the entry back if its key does not come after all before.
    pub fn push(&mut self, key: K, value: V) -> Result<(), (K, V)> {
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err((key, value));
        }
        self.last = Some(key.clone());
        if let Some((key, value)) = self.order.push((key, value)) {
            self.map.insert(key, value);
        }
        Ok(())
    }

    /// The map with all that came.
    pub fn so_far(&mut self) -> OrdMap<K, V> {
        for (key, value) in self.order.rest() {
            self.map.insert(key, value);
        }
        self.map.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_was_filled_in_order_has_all_entries_whenever_it_is_asked_for() {
        for count in [0, 1, 7, 8, 9, 16, 17, 40, 41, 1_000] {
            for asked_every in [1, 3, 33, 2_000] {
                let mut filling = Filling::default();
                for key in 0..count {
                    assert_eq!(filling.push(key, key * 2), Ok(()));
                    if key % asked_every == 0 {
                        assert_eq!(filling.so_far().len(), key + 1);
                    }
                }
                let map = filling.so_far();
                assert!(map.into_iter().eq((0..count).map(|key| (key, key * 2))), "{count}");
            }
        }
    }

    #[test]
    fn a_key_that_does_not_come_after_the_last_is_given_back() {
        let mut filling = Filling::default();
        assert_eq!(filling.push(5, 'a'), Ok(()));
        assert_eq!(filling.push(5, 'b'), Err((5, 'b')));
        assert_eq!(filling.push(4, 'c'), Err((4, 'c')));
        assert_eq!(filling.push(6, 'd'), Ok(()));
        assert!(filling.so_far().into_iter().eq([(5, 'a'), (6, 'd')]));
    }
}
