//! Which revisions the history has: the rows of its blocks, in order, and the names of what is
//! missing between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keys::{Name, Row, after, before};
use super::{Gap, GapReason};
use crate::names::Revision;

#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// By where each begins. They never overlap.
    rows: BTreeMap<Revision, Arc<Row>>,
    /// By the first missing revision.
    names: BTreeMap<Revision, Name>,
    /// Of all blocks.
    bytes: u64,
}

/// What there is to read on one side of a revision.
#[derive(Debug)]
pub(super) enum Place {
    Covered(Arc<Row>),
    Missing(Gap),
    /// There is nothing newer.
    End,
}

impl Coverage {
    /// Takes a row, or a later version of one that it has. `Err` gives it back if it overlaps
    /// another one.
    pub fn insert(&mut self, row: Row) -> Result<(), Row> {
        let before = self.rows.range(..row.from).next_back();
        let next = self.rows.range(after(row.from)..).next();
        let overlaps = before.is_some_and(|(_, other)| other.upto > row.from)
            || next.is_some_and(|(from, _)| *from < row.upto);
        if overlaps || row.upto <= row.from {
            return Err(row);
        }
        self.remove(row.from);
        self.bytes += row.bytes;
        self.rows.insert(row.from, Arc::new(row));
        Ok(())
    }

    pub fn remove(&mut self, from: Revision) -> Option<Arc<Row>> {
        let row = self.rows.remove(&from)?;
        self.bytes -= row.bytes;
        Some(row)
    }

    /// Names what is missing from `first` on.
    pub fn name(&mut self, first: Revision, name: Name) {
        self.names.insert(first, name);
    }

    /// Forgets names of what lies before everything that is covered.
    pub fn forget_names(&mut self, firsts: &[Revision]) {
        for first in firsts {
            self.names.remove(first);
        }
    }

    /// The names of what lies before everything that is covered after `floor`.
    pub fn names_before(&self, floor: Revision) -> Vec<Revision> {
        self.names.iter().filter(|(_, name)| name.upto <= floor).map(|(first, _)| *first).collect()
    }

    /// The row that begins there.
    pub fn at(&self, from: Revision) -> Option<&Arc<Row>> {
        self.rows.get(&from)
    }

    /// Of all blocks.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Oldest first.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = &Arc<Row>> + ExactSizeIterator {
        self.rows.values()
    }

    /// The newest revision that is covered.
    pub fn end(&self) -> Option<Revision> {
        self.rows().next_back().map(|row| row.upto)
    }

    /// What follows right after a revision.
    pub fn following(&self, revision: Revision) -> Place {
        match self.rows.range(..=revision).next_back() {
            Some((_, row)) if row.upto > revision => Place::Covered(row.clone()),
            Some(_) | None => match self.rows.range(revision..).next() {
                Some((from, _)) => Place::Missing(self.gap(revision, *from)),
                None => match self.named_at(after(revision)) {
                    Some(name) => Place::Missing(self.gap(revision, name.upto)),
                    None => Place::End,
                },
            },
        }
    }

    /// What leads up to a revision, that one included.
    pub fn leading_to(&self, revision: Revision) -> Place {
        match self.rows.range(..revision).next_back() {
            Some((_, row)) if row.upto >= revision => Place::Covered(row.clone()),
            Some((_, row)) => Place::Missing(self.gap(row.upto, revision)),
            None => Place::Missing(self.gap(Revision(0), revision)),
        }
    }

    /// The ranges that are covered, oldest first: first and last revision of each.
    pub fn ranges(&self) -> Vec<(Revision, Revision)> {
        let mut ranges: Vec<(Revision, Revision)> = Vec::new();
        for row in self.rows() {
            match ranges.last_mut() {
                Some((_, last)) if *last == row.from => *last = row.upto,
                Some(_) | None => ranges.push((row.first(), row.upto)),
            }
        }
        ranges
    }

    /// What is missing between the ranges.
    pub fn gaps(&self) -> Vec<Gap> {
        let ranges = self.ranges();
        let between = ranges.windows(2).filter_map(|pair| Some((pair[0].1, before(pair[1].0)?)));
        between.map(|(after, upto)| self.gap(after, upto)).collect()
    }

    /// The revisions after `after` up to `upto`, all missing, with their name.
    pub fn gap(&self, after: Revision, upto: Revision) -> Gap {
        let reason = if self.rows.first_key_value().is_some_and(|(floor, _)| upto <= *floor) {
            GapReason::NotKept
        } else if self.end().is_none_or(|end| after >= end) {
            // A name behind all rows is of what will never be there; what follows it may come.
            let never = self.named_at(upto).filter(|_| self.end().is_some());
            never.map_or(GapReason::NotYet, |name| name.reason)
        } else {
            self.name_within(after, upto)
        };
        Gap { after, upto, reason }
    }

    /// The name of what is missing there.
    fn named_at(&self, revision: Revision) -> Option<&Name> {
        let (_, name) = self.names.range(..=revision).next_back()?;
        (name.upto >= revision).then_some(name)
    }

    /// What nobody gave a name was lost unnoticed.
    fn name_within(&self, after: Revision, upto: Revision) -> GapReason {
        let mut names = self.names.range(..=upto).rev();
        let named = names.find(|(_, name)| name.upto > after);
        named.map_or(GapReason::Damaged, |(_, name)| name.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(from: u64, upto: u64) -> Row {
        Row {
            from: Revision(from),
            upto: Revision(upto),
            parts: 1,
            spot: None,
            bytes: 10,
            oldest_ms: 0,
            newest_ms: 0,
            marks: Box::default(),
        }
    }

    fn coverage(rows: &[(u64, u64)]) -> Coverage {
        let mut coverage = Coverage::default();
        for (from, upto) in rows {
            coverage.insert(row(*from, *upto)).expect("it fits");
        }
        coverage
    }

    #[test]
    fn blocks_that_touch_are_one_range_and_others_leave_a_gap() {
        let mut coverage = coverage(&[(5, 10), (10, 12), (20, 30)]);
        let ranges: Vec<_> = coverage.ranges().iter().map(|(a, b)| (a.0, b.0)).collect();
        assert_eq!(ranges, [(6, 12), (21, 30)]);
        let gap = |reason| Gap { after: Revision(12), upto: Revision(20), reason };
        assert_eq!(coverage.gaps(), [gap(GapReason::Damaged)]);
        coverage.name(Revision(13), Name { upto: Revision(20), reason: GapReason::Overflow });
        assert_eq!(coverage.gaps(), [gap(GapReason::Overflow)]);
    }

    #[test]
    fn a_gap_behind_all_rows_is_told_and_what_follows_it_may_come() {
        let mut coverage = coverage(&[(5, 10)]);
        coverage.name(Revision(11), Name { upto: Revision(20), reason: GapReason::Overflow });
        let gap =
            |after, upto, reason| Gap { after: Revision(after), upto: Revision(upto), reason };
        let told = |place| match place {
            Place::Missing(gap) => Some(gap),
            Place::Covered(_) | Place::End => None,
        };
        let overflow = GapReason::Overflow;
        assert_eq!(told(coverage.following(Revision(10))), Some(gap(10, 20, overflow)));
        assert_eq!(told(coverage.following(Revision(15))), Some(gap(15, 20, overflow)));
        assert!(matches!(coverage.following(Revision(20)), Place::End));
        assert_eq!(told(coverage.leading_to(Revision(20))), Some(gap(10, 20, overflow)));
        assert_eq!(told(coverage.leading_to(Revision(21))), Some(gap(10, 21, GapReason::NotYet)));
    }

    #[test]
    fn a_row_that_overlaps_another_one_is_refused_and_a_later_version_is_taken() {
        let mut coverage = coverage(&[(5, 10), (20, 30)]);
        for (from, upto) in [(4, 6), (9, 12), (15, 21), (21, 22), (5, 21), (12, 12)] {
            assert_eq!(coverage.insert(row(from, upto)), Err(row(from, upto)));
        }
        assert_eq!(coverage.insert(row(5, 20)), Ok(()));
        assert_eq!(coverage.bytes(), 20);
    }

    #[test]
    fn what_is_before_between_and_behind_is_told_apart() {
        let coverage = coverage(&[(5, 10), (20, 30)]);
        let reason = |place| match place {
            Place::Missing(gap) => Some(gap.reason),
            Place::Covered(_) | Place::End => None,
        };
        assert_eq!(reason(coverage.following(Revision(3))), Some(GapReason::NotKept));
        assert_eq!(reason(coverage.following(Revision(10))), Some(GapReason::Damaged));
        assert!(matches!(coverage.following(Revision(5)), Place::Covered(_)));
        assert!(matches!(coverage.following(Revision(30)), Place::End));
        assert_eq!(reason(coverage.leading_to(Revision(31))), Some(GapReason::NotYet));
        assert_eq!(reason(coverage.leading_to(Revision(20))), Some(GapReason::Damaged));
        assert_eq!(reason(coverage.leading_to(Revision(5))), Some(GapReason::NotKept));
        assert!(matches!(coverage.leading_to(Revision(6)), Place::Covered(_)));
    }
}
