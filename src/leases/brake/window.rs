//! How much was removed lately.

use std::collections::VecDeque;

/// A window is counted in so many parts: it is too long by at most one of them.
const PARTS: u64 = 60;

/// A sum over the last while, by a clock that the caller tells.
#[derive(Clone, Debug)]
pub struct Window {
    part_ms: u64,
    /// Part and count, oldest first.
    parts: VecDeque<(u64, u64)>,
    sum: u64,
}

impl Window {
    pub fn new(window_ms: u64) -> Self {
        Self { part_ms: (window_ms / PARTS).max(1), parts: VecDeque::new(), sum: 0 }
    }

    pub fn add(&mut self, now: u64, count: u64) {
        let part = now / self.part_ms;
        self.sum += count;
        match self.parts.back_mut() {
            Some((last, counted)) if *last == part => *counted += count,
            Some(_) | None => self.parts.push_back((part, count)),
        }
    }

    /// What was counted last did not happen after all.
    pub fn take_back(&mut self, mut count: u64) {
        while let Some((_, counted)) = self.parts.back_mut() {
            let taken = count.min(*counted);
            *counted -= taken;
            self.sum -= taken;
            count -= taken;
            if count == 0 {
                return;
            }
            self.parts.pop_back();
        }
    }

    /// Lets go of what is older than the window.
    pub fn pass(&mut self, now: u64) {
        let oldest = (now / self.part_ms).saturating_sub(PARTS);
        while let Some((part, counted)) = self.parts.front()
            && *part < oldest
        {
            self.sum -= counted;
            self.parts.pop_front();
        }
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn is_empty(&self) -> bool {
        self.sum == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut window = Window::new(60_000);
        window.add(0, 3);
        window.add(30_000, 4);
        window.pass(60_000);
        assert_eq!(window.sum(), 7);
        window.pass(61_000);
        assert_eq!(window.sum(), 4);
        window.pass(200_000);
        assert!(window.is_empty());
    }

    #[test]
    fn what_did_not_happen_is_taken_back_from_the_newest() {
        let mut window = Window::new(60_000);
        window.add(0, 3);
        window.add(30_000, 4);
        window.take_back(5);
        assert_eq!(window.sum(), 2);
        window.pass(61_000);
        assert_eq!(window.sum(), 0);
        window.take_back(9);
        assert_eq!(window.sum(), 0);
    }
}
