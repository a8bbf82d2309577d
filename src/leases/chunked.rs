//! A vector that grows without moving what is in it.
//!
//! The parts of the lease table are filled in turn, so vectors would outgrow their room together. At a million
//! sessions that moved 50 MB within a few hundred registrations; with the parts' indexes, which doubled
//! together too, it took 60 ms in which all others waited. What moves now is a pointer for each chunk.

use std::ops::{Index, IndexMut};

/// A vector in chunks of `CHUNK` items.
#[derive(Debug)]
pub struct Chunked<T, const CHUNK: usize> {
    /// All are full but the last.
    chunks: Vec<Vec<T>>,
    /// The last chunk knows it too, but to ask that is one more access to memory.
    len: usize,
}

impl<T, const CHUNK: usize> Default for Chunked<T, CHUNK> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T, const CHUNK: usize> Chunked<T, CHUNK> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, at: usize) -> Option<&T> {
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    pub fn push(&mut self, item: T) {
        self.len += 1;
        match self.chunks.last_mut().filter(|last| last.len() < CHUNK) {
            Some(last) => last.push(item),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(item);
                self.chunks.push(chunk);
            }
        }
    }

    /// What it takes in memory.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let items = self.chunks.iter().map(|chunk| chunk.capacity() * size_of::<T>());
        items.sum::<usize>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

/// Panics where there is none, as a vector does.
impl<T, const CHUNK: usize> Index<usize> for Chunked<T, CHUNK> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.chunks[at / CHUNK][at % CHUNK]
    }
}

impl<T, const CHUNK: usize> IndexMut<usize> for Chunked<T, CHUNK> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.chunks[at / CHUNK][at % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_vector_whose_items_stay_where_they_are() {
        const CHUNK: usize = 16;
        let mut items = Chunked::<_, CHUNK>::default();
        let mut places = Vec::new();
        for number in 0..3 * CHUNK + 1 {
            assert_eq!((items.len(), items.get(number)), (number, None));
            items.push(number);
            places.push(&raw const items[number]);
        }
        items[CHUNK] += 1_000;
        for (number, place) in places.into_iter().enumerate() {
            let item = if number == CHUNK { number + 1_000 } else { number };
            assert_eq!((items.get(number), items[number]), (Some(&item), item));
            assert!(std::ptr::eq(place, &items[number]), "{number} was moved");
        }
        assert_eq!(items.get(items.len()), None);
    }
}
