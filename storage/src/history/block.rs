//! The bytes of a block: consecutive changes, compressed together. Numbers are big endian.
//!
//! ```text
//! format u8 | from u64 | upto u64 | parts u32 | raw length u32
//! changes, LZ4 block format; each is msgpack by position: revision, term, cluster time, wall time,
//!     events
//! XXH64 of all before u64
//! ```
//!
//! A large block lies in a file, in one piece. The bytes of a smaller one are cut into parts, each a value of its own
//! in sled; of a large one the number of parts is 0. A block says itself which revisions it
//! covers, those that told nothing included, so what a reader is told of never rests on another
//! record than the one that holds it.

use std::collections::BTreeSet;
use std::sync::Arc;

use twox_hash::XxHash64;

use super::Sizes;
use super::keys::{FORMAT, Key, Mark, Rest, Row};
use crate::catalog::At;
use crate::command::Stamp;
use crate::events::{Change, Event};
use crate::msgpack;
use crate::names::Revision;

/// A change that takes more is not kept; see [`super::GapReason::TooLarge`]. It is what one block
/// can take in memory, uncompressed.
pub(super) const CHANGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Memory that is kept from one block to the next: what all but the largest need.
const KEPT_BYTES: usize = 1024 * 1024;

/// A block that is being filled.
#[derive(Debug)]
pub(super) struct Builder {
    from: Revision,
    upto: Revision,
    raw: Vec<u8>,
    marks: BTreeSet<Mark>,
    /// The lowest and the highest wall time so far.
    walls: Option<(u64, u64)>,
}

impl Builder {
    pub fn starting_after(from: Revision) -> Self {
        Self { from, upto: from, raw: Vec::new(), marks: BTreeSet::new(), walls: None }
    }

    /// Begins the next block, in the memory of this one.
    pub fn start_after(&mut self, from: Revision) {
        let mut raw = std::mem::take(&mut self.raw);
        raw.clear();
        raw.shrink_to(KEPT_BYTES);
        *self = Self { raw, ..Self::starting_after(from) };
    }

    pub fn upto(&self) -> Revision {
        self.upto
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.upto == self.from
    }

    /// Of its changes, uncompressed.
    pub fn raw_bytes(&self) -> usize {
        self.raw.len()
    }

    /// Takes the next change, which was encoded before.
    pub fn push(&mut self, change: &Change, encoded: &[u8]) {
        self.raw.extend_from_slice(encoded);
        self.upto = change.at.revision;
        self.marks.extend(change.told().filter_map(Mark::of_event));
        let wall = change.at.stamp.wall_ms;
        let (oldest, newest) = self.walls.unwrap_or((wall, wall));
        self.walls = Some((oldest.min(wall), newest.max(wall)));
    }

    /// Covers the revisions up to this one, which told nothing more.
    pub fn pass(&mut self, upto: Revision) {
        self.upto = self.upto.max(upto);
    }

    /// The block as it is kept.
    pub fn finish(&self, sizes: &Sizes) -> Block {
        let body = lz4_flex::block::compress(&self.raw);
        let length = HEAD_BYTES + body.len() + SUM_BYTES;
        let is_large = self.raw.len() >= sizes.growing_bytes.max(1);
        let parts = if is_large { 0 } else { length.div_ceil(sizes.value_bytes) as u32 };
        let mut bytes = Vec::with_capacity(length);
        bytes.push(FORMAT);
        bytes.extend(self.from.0.to_be_bytes());
        bytes.extend(self.upto.0.to_be_bytes());
        bytes.extend(parts.to_be_bytes());
        bytes.extend((self.raw.len() as u32).to_be_bytes());
        bytes.extend(body);
        bytes.extend(XxHash64::oneshot(0, &bytes).to_be_bytes());
        let (oldest_ms, newest_ms) = self.walls.unwrap_or_default();
        let row = Row {
            from: self.from,
            upto: self.upto,
            parts,
            spot: None,
            bytes: length as u64,
            oldest_ms,
            newest_ms,
            marks: self.marks.iter().copied().collect(),
        };
        Block { row, bytes, value_bytes: sizes.value_bytes }
    }
}

/// A block as it is kept.
#[derive(Debug)]
pub(super) struct Block {
    pub row: Row,
    bytes: Vec<u8>,
    value_bytes: usize,
}

impl Block {
    /// Whether it is put into a file.
    pub fn is_large(&self) -> bool {
        self.row.parts == 0
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The keys and values of its parts.
    pub fn parts(&self) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
        let first = self.row.first();
        (0..self.row.parts)
            .zip(self.bytes.chunks(self.value_bytes))
            .map(move |(part, value)| (Key::Part { first, part }.bytes(), value))
    }
}

const HEAD_BYTES: usize = 1 + 8 + 8 + 4 + 4;
const SUM_BYTES: usize = 8;

/// Checks that the bytes are the block that its row tells of. `Err` says what is wrong.
pub(super) fn check<'a>(row: &Row, bytes: &'a [u8]) -> Result<Checked<'a>, String> {
    let (content, sum) = bytes.split_last_chunk().ok_or("it is cut short")?;
    if XxHash64::oneshot(0, content) != u64::from_be_bytes(*sum) {
        return Err("its checksum is wrong".into());
    }
    let mut rest = Rest(content);
    let format = rest.u8()?;
    if format != FORMAT {
        return Err(format!("it has format {format}; this binary reads {FORMAT}"));
    }
    let (from, upto) = (Revision(rest.u64()?), Revision(rest.u64()?));
    if (from, upto, rest.u32()?) != (row.from, row.upto, row.parts) {
        return Err(format!("it covers the revisions after {from} up to {upto}"));
    }
    let raw_bytes = rest.u32()? as usize;
    Ok(Checked { from, upto, raw_bytes, body: rest.0 })
}

/// A block's bytes, found whole.
pub(super) struct Checked<'a> {
    from: Revision,
    upto: Revision,
    raw_bytes: usize,
    body: &'a [u8],
}

impl Checked<'_> {
    /// Its changes, oldest first.
    pub fn changes(&self) -> Result<Vec<Arc<Change>>, String> {
        if self.raw_bytes > 2 * CHANGE_BYTES_MAX {
            return Err(format!("it would be {} bytes large", self.raw_bytes));
        }
        let raw = lz4_flex::block::decompress(self.body, self.raw_bytes)
            .map_err(|e| format!("it cannot be decompressed: {e}"))?;
        let mut rest = &raw[..];
        let mut changes = Vec::new();
        let mut last = self.from;
        while !rest.is_empty() {
            let change = decode(&mut rest).map_err(|e| format!("a change cannot be read: {e}"))?;
            let revision = change.at.revision;
            if revision <= last || revision > self.upto {
                return Err(format!("revision {revision} is out of place"));
            }
            last = revision;
            changes.push(Arc::new(change));
        }
        Ok(changes)
    }
}

/// Appends a change's encoding; `None` and nothing appended if it is larger than
/// [`CHANGE_BYTES_MAX`].
pub(super) fn encode(change: &Change, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let At { revision, term, stamp } = change.at;
    let told: Vec<&Event> = change.told().collect();
    let stored = (revision, term, stamp.cluster_ms, stamp.wall_ms, told);
    match msgpack::write_at_most(CHANGE_BYTES_MAX, out, &stored) {
        Ok(()) => Some(()),
        Err(_full) => {
            out.truncate(start);
            None
        }
    }
}

fn decode(bytes: &mut &[u8]) -> Result<Change, rmp_serde::decode::Error> {
    let mut input = rmp_serde::Deserializer::new(bytes);
    let (revision, term, cluster_ms, wall_ms, events) =
        serde::Deserialize::deserialize(&mut input)?;
    let stamp = Stamp { cluster_ms, wall_ms };
    Ok(Change::new(At { revision, term, stamp }, events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::AppPolicy;
    use crate::events::Reason;
    use crate::names::{AppName, SessionId};

    fn change(revision: u64) -> Change {
        let app = AppName::new("pay").expect("a name");
        let stamp = Stamp { cluster_ms: 2, wall_ms: 100 - revision };
        let at = At { revision: Revision(revision), term: 1, stamp };
        let put = Event::AppPut { app: app.clone(), policy: AppPolicy::default(), created: true };
        let ended = Event::SessionEnded { session: SessionId(7), reason: Reason::Operator };
        let deleted = Event::AppDeleted { app, reason: Reason::Expired { silent_ms: 300 } };
        Change::new(at, vec![put, ended, deleted])
    }

    fn block(changes: &[Change]) -> Block {
        let sizes = Sizes { value_bytes: 32, ..Sizes::default() };
        let mut builder = Builder::starting_after(Revision(3));
        for change in changes {
            let mut encoded = Vec::new();
            encode(change, &mut encoded).expect("it is small");
            builder.push(change, &encoded);
        }
        builder.pass(Revision(9));
        builder.finish(&sizes)
    }

    fn joined(block: &Block) -> Vec<u8> {
        block.parts().flat_map(|(_, value)| value.to_vec()).collect()
    }

    #[test]
    fn the_bytes_on_disk_stay_as_they_are() {
        let mut encoded = Vec::new();
        encode(&change(5), &mut encoded).expect("it is small");
        let expected = b"\x95\x05\x01\x02\x5f\x92\
            \x81\xa6AppPut\x93\xa3pay\x95\0\xc0\xc0\xc0\xc0\xc3\
            \x81\xaaAppDeleted\x92\xa3pay\x81\xa7Expired\x91\xcd\x01\x2c";
        assert_eq!(encoded, expected);
        let bytes = joined(&block(&[change(5)]));
        let head = b"\x04\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x09\0\0\0\x03\0\0\0\x38";
        assert_eq!(&bytes[..HEAD_BYTES], head);
    }

    #[test]
    fn a_block_gives_back_what_clients_are_told_of_and_what_it_covers() {
        let block = block(&[change(5), change(7)]);
        let row = &block.row;
        assert_eq!((row.from, row.upto), (Revision(3), Revision(9)));
        assert_eq!((row.oldest_ms, row.newest_ms), (93, 95));
        assert_eq!(block.parts().count(), row.parts as usize);
        let bytes = joined(&block);
        let changes = check(row, &bytes).and_then(|b| b.changes()).expect("it is whole");
        let told: Vec<_> = changes[1].events.iter().collect();
        let expected = change(7);
        assert_eq!(told, expected.told().collect::<Vec<_>>());
        assert_eq!(changes.iter().map(|c| c.at).collect::<Vec<_>>(), [change(5).at, change(7).at]);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_found() {
        let block = block(&[change(5)]);
        let bytes = joined(&block);
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 0x10;
            assert!(check(&block.row, &flipped).is_err(), "flipped at {place}");
            assert!(check(&block.row, &bytes[..place]).is_err(), "cut at {place}");
        }
    }
}
