//! Everything that the history keeps in sled, in one table. All of it is in one tree, numbers are
//! big endian, and the first byte of a key tells its kind, so that each kind lies together, in the
//! order of revisions.
//!
//! | what | key | value |
//! |---|---|---|
//! | a part of a block's bytes | `B`, first revision u64, part u32 | at most [`super::Sizes::value_bytes`] of what `block.rs` describes |
//! | a block's row: what is known of it without reading it | `R`, first revision u64 | [`Row`] |
//! | the name of a gap | `G`, first revision u64 | [`Name`] |
//!
//! A row: format u8, last revision u64, parts in sled u32, file u64 and offset in it u64 of a block that lies in a
//! file (0 and 0 of one in sled), bytes u64, oldest and newest wall time u64 each, number of marks u32, the [`Mark`]s of its apps and latches u32 each, XXH64 of the key and all of this u64.
//!
//! A name: format u8, last revision u64, reason u8, XXH64 of the key and all of this u64.

use std::ops::RangeInclusive;

use twox_hash::XxHash64;

use super::GapReason;
use super::files::Spot;
use crate::events::Event;
use crate::names::{AppName, LatchKey, LatchKind, Revision};

/// Raised with every change of what the bytes of a row, a name or a block mean. A binary refuses
/// the formats that it does not know.
pub(super) const FORMAT: u8 = 4;

/// The first bytes of keys. They stay.
mod kind {
    pub const PART: u8 = b'B';
    pub const NAME: u8 = b'G';
    pub const ROW: u8 = b'R';
}

/// A key of the tree. `first` is the first revision that is covered, or missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Part { first: Revision, part: u32 },
    Row { first: Revision },
    Name { first: Revision },
}

impl Key {
    pub fn bytes(self) -> Vec<u8> {
        let (kind, first) = match self {
            Self::Part { first, .. } => (kind::PART, first),
            Self::Row { first } => (kind::ROW, first),
            Self::Name { first } => (kind::NAME, first),
        };
        let mut bytes = vec![kind];
        bytes.extend(first.0.to_be_bytes());
        if let Self::Part { part, .. } = self {
            bytes.extend(part.to_be_bytes());
        }
        bytes
    }

    /// `None` if no key has these bytes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (first, rest) = rest.split_first_chunk()?;
        let first = Revision(u64::from_be_bytes(*first));
        match (*kind, rest) {
            (kind::PART, rest) => {
                Some(Self::Part { first, part: u32::from_be_bytes(rest.try_into().ok()?) })
            }
            (kind::ROW, []) => Some(Self::Row { first }),
            (kind::NAME, []) => Some(Self::Name { first }),
            (_unknown, _) => None,
        }
    }

    /// All parts of the blocks that begin in this range.
    pub fn parts(first: RangeInclusive<Revision>) -> RangeInclusive<Vec<u8>> {
        let (start, end) = first.into_inner();
        Self::Part { first: start, part: 0 }.bytes()
            ..=Self::Part { first: end, part: u32::MAX }.bytes()
    }

    pub fn all_rows() -> [u8; 1] {
        [kind::ROW]
    }

    pub fn all_names() -> [u8; 1] {
        [kind::NAME]
    }
}

/// How many marks all latches share. Part of the format: a reader looks for those that were written.
const LATCH_MARKS: u32 = 512;

/// Stands for an app or a latch in a row: a row that does not hold it is of a block without that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(pub u32);

impl Mark {
    pub fn of(app: &AppName) -> Self {
        Self(XxHash64::oneshot(0, app.as_str().as_bytes()) as u32)
    }

    /// One of a few, which latches share: a session may end with 10,000 claims in one entry, and a
    /// row must stay a small value.
    pub fn of_latch(latch: &LatchKey) -> Self {
        let seed = match latch.kind {
            LatchKind::Lock => 1,
            LatchKind::Election => 2,
        };
        Self(XxHash64::oneshot(seed, latch.name.as_str().as_bytes()) as u32 % LATCH_MARKS)
    }

    /// What the event is about. Clients are told of nothing that is about neither.
    pub fn of_event(event: &Event) -> Option<Self> {
        event.latch().map(Self::of_latch).or_else(|| event.app().map(Self::of))
    }
}

/// What is known of a block without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// It covers the revisions above this one,
    pub from: Revision,
    /// up to this one.
    pub upto: Revision,
    /// In sled; 0 of a block that lies in a file,
    pub parts: u32,
    /// which is here.
    pub spot: Option<Spot>,
    /// Of all of it.
    pub bytes: u64,
    /// The lowest and the highest wall time of its changes; 0 if it has none.
    pub oldest_ms: u64,
    pub newest_ms: u64,
    /// Of its changes, ascending.
    pub marks: Box<[Mark]>,
}

impl Row {
    pub fn first(&self) -> Revision {
        after(self.from)
    }

    pub fn key(&self) -> Vec<u8> {
        Key::Row { first: self.first() }.bytes()
    }

    pub fn value(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.upto.0.to_be_bytes());
        bytes.extend(self.parts.to_be_bytes());
        let spot = self.spot.unwrap_or(Spot { file: 0, offset: 0 });
        bytes.extend(spot.file.to_be_bytes());
        bytes.extend(spot.offset.to_be_bytes());
        bytes.extend(self.bytes.to_be_bytes());
        bytes.extend(self.oldest_ms.to_be_bytes());
        bytes.extend(self.newest_ms.to_be_bytes());
        bytes.extend((self.marks.len() as u32).to_be_bytes());
        bytes.extend(self.marks.iter().flat_map(|mark| mark.0.to_be_bytes()));
        sealed(&self.key(), bytes)
    }

    /// `Err` says what is wrong with the bytes.
    pub fn read(key: &[u8], value: &[u8]) -> Result<Self, &'static str> {
        let Some(Key::Row { first }) = Key::read(key) else { return Err("its key is not a row's") };
        let mut rest = opened(key, value)?;
        let mut row = Self {
            from: before(first).ok_or("it begins at revision 0")?,
            upto: Revision(rest.u64()?),
            parts: rest.u32()?,
            spot: Some(Spot { file: rest.u64()?, offset: rest.u64()? }).filter(|s| s.file > 0),
            bytes: rest.u64()?,
            oldest_ms: rest.u64()?,
            newest_ms: rest.u64()?,
            marks: Box::default(),
        };
        let count = rest.u32()?;
        row.marks = (0..count).map(|_| rest.u32().map(Mark)).collect::<Result<_, _>>()?;
        rest.end()?;
        if row.upto < row.from { Err("it ends before it begins") } else { Ok(row) }
    }
}

/// Why a range of revisions is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The last revision that is missing.
    pub upto: Revision,
    pub reason: GapReason,
}

/// The numbers of reasons. They stay.
const REASONS: [(u8, GapReason); 6] = [
    (1, GapReason::Overflow),
    (2, GapReason::CheckpointInstalled),
    (3, GapReason::Damaged),
    (4, GapReason::Failed),
    (5, GapReason::TooLarge),
    (6, GapReason::NotKept),
];

impl Name {
    pub fn value(self, key: &[u8]) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.upto.0.to_be_bytes());
        bytes.push(REASONS.iter().find(|(_, r)| *r == self.reason).map_or(0, |(n, _)| *n));
        sealed(key, bytes)
    }

    pub fn read(key: &[u8], value: &[u8]) -> Result<(Revision, Self), &'static str> {
        let Some(Key::Name { first }) = Key::read(key) else {
            return Err("its key is not a gap's");
        };
        let mut rest = opened(key, value)?;
        let upto = Revision(rest.u64()?);
        let number = rest.u8()?;
        rest.end()?;
        let reason = REASONS.iter().find(|(n, _)| *n == number).ok_or("its reason is unknown")?.1;
        Ok((first, Self { upto, reason }))
    }
}

/// The revision after this one.
pub(super) fn after(revision: Revision) -> Revision {
    Revision(revision.0.saturating_add(1))
}

/// The revision before this one; there is none before 0.
pub(super) fn before(revision: Revision) -> Option<Revision> {
    revision.0.checked_sub(1).map(Revision)
}

fn sealed(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let sum = checksum(key, &value);
    value.extend(sum.to_be_bytes());
    value
}

fn opened<'a>(key: &[u8], value: &'a [u8]) -> Result<Rest<'a>, &'static str> {
    let (value, sum) = value.split_last_chunk().ok_or(SHORT)?;
    if checksum(key, value) != u64::from_be_bytes(*sum) {
        return Err("its checksum is wrong");
    }
    let mut rest = Rest(value);
    if rest.u8()? == FORMAT { Ok(rest) } else { Err(UNKNOWN_FORMAT) }
}

fn checksum(key: &[u8], value: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hash = XxHash64::with_seed(0);
    hash.write(key);
    hash.write(value);
    hash.finish()
}

/// What another version of the binary wrote: it is not damaged.
pub(super) const UNKNOWN_FORMAT: &str = "has a format that this version of Roster does not know";

const SHORT: &str = "it is cut short";

/// What is still to be read of a value.
pub(super) struct Rest<'a>(pub &'a [u8]);

impl<'a> Rest<'a> {
    pub fn u8(&mut self) -> Result<u8, &'static str> {
        self.array().map(|[byte]| byte)
    }

    pub fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (array, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*array)
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() { Ok(()) } else { Err("something follows its end") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn row() -> Row {
        Row {
            from: Revision(0x0a),
            upto: Revision(0x0b),
            parts: 2,
            spot: Some(Spot { file: 8, offset: 9 }),
            bytes: 3,
            oldest_ms: 4,
            newest_ms: 5,
            marks: [Mark(6), Mark(7)].into(),
        }
    }

    #[test]
    fn the_bytes_on_disk_stay_as_they_are() {
        let part = Key::Part { first: Revision(0x0a), part: 1 };
        assert_eq!(part.bytes(), b"B\0\0\0\0\0\0\0\x0a\0\0\0\x01");
        assert_eq!(row().key(), b"R\0\0\0\0\0\0\0\x0b");
        let expected = b"\x04\0\0\0\0\0\0\0\x0b\0\0\0\x02\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x09\
            \0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\
            \0\0\0\0\0\0\0\x05\0\0\0\x02\0\0\0\x06\0\0\0\x07";
        assert_eq!(row().value().split_last_chunk::<8>().expect("a sum").0, expected);
        let name = Name { upto: Revision(9), reason: GapReason::Damaged };
        let key = Key::Name { first: Revision(8) }.bytes();
        assert_eq!(key, b"G\0\0\0\0\0\0\0\x08");
        let value = name.value(&key);
        assert_eq!(value.split_last_chunk::<8>().expect("a sum").0, b"\x04\0\0\0\0\0\0\0\x09\x03");
        assert_eq!(Mark::of(&AppName::new("pay").expect("a name")), Mark(0xda4c_b113));
        let latch = |kind| LatchKey::new(kind, "pay".parse().expect("a name"));
        assert_eq!(Mark::of_latch(&latch(LatchKind::Lock)), Mark(378));
        assert_eq!(Mark::of_latch(&latch(LatchKind::Election)), Mark(496));
    }

    #[test]
    fn every_reason_has_a_number_and_comes_back() {
        for reason in GapReason::ALL {
            let key = Key::Name { first: Revision(8) }.bytes();
            let name = Name { upto: Revision(9), reason };
            let read = Name::read(&key, &name.value(&key));
            // What is only ever found while reading is never written down.
            let expected = match reason {
                GapReason::NotYet => Err("its reason is unknown"),
                _written => Ok((Revision(8), name)),
            };
            assert_eq!(read, expected);
        }
    }

    proptest! {
        #[test]
        fn a_row_comes_back_and_a_changed_one_does_not(
            from in 0..u64::MAX / 2, covers in 0..1000_u64, parts: u32, bytes: u64,
            spot in proptest::option::of((1..u64::MAX, any::<u64>())),
            oldest_ms: u64, newest_ms: u64, marks in vec(any::<u32>().prop_map(Mark), 0..9),
            flip: prop::sample::Index,
        ) {
            let spot = spot.map(|(file, offset)| Spot { file, offset });
            let row = Row {
                from: Revision(from), upto: Revision(from + covers), parts, spot, bytes, oldest_ms,
                newest_ms, marks: marks.into(),
            };
            let (key, mut value) = (row.key(), row.value());
            prop_assert_eq!(Row::read(&key, &value), Ok(row));
            value[flip.index(key.len())] ^= 1;
            prop_assert!(Row::read(&key, &value).is_err());
        }

        #[test]
        fn keys_come_back_and_sort_like_revisions(a: u64, b: u64, part: u32) {
            let keys = [
                Key::Part { first: Revision(a), part },
                Key::Row { first: Revision(a) },
                Key::Name { first: Revision(a) },
            ];
            for key in keys {
                prop_assert_eq!(Key::read(&key.bytes()), Some(key));
            }
            let row = |first| Key::Row { first: Revision(first) }.bytes();
            prop_assert_eq!(a.cmp(&b), row(a).cmp(&row(b)));
        }
    }
}
