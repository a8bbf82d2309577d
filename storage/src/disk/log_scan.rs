//! Reads a chunk of the log record by record and judges the first record that fails.
//!
//! A power cut can leave the end of the newest chunk torn: cut short, or with sectors that were
//! never written and read as zeros. No write in it was acknowledged, since its fsync never
//! returned. Everything else is damage to what was acknowledged. The two can look alike, so the
//! judgement leans to damage: a node that refuses to start can be replaced, an acknowledged write
//! that was cut off cannot.
//!
//! What cannot be told apart: a damaged record which holds a whole aligned sector of zeros that its
//! writer put there.

use std::io;

use raft_log::RaftLogRecord;
use raft_log::codeq::Decode;
use raft_log::codeq::config::{CodeqConfig, Crc32fast};

use super::codec::LogTypes;

/// What a disk writes at once or not at all.
const SECTOR_BYTES: usize = 512;

/// Type, log id, payload kind and payload length: what comes before an entry's body.
const ENTRY_HEAD_BYTES: usize = 4 + 16 + 5;

/// More zeros than a record can begin with: a vote's type and the upper bytes of its term are 11.
const ZEROS_AT_START_MIN: usize = 13;

/// A record's checksum: a u64 of which the CRC fills the lower half.
const CHECKSUM_BYTES: usize = 8;

/// The type of a record that appends an entry.
const APPEND: u8 = 1;

/// Types of records are 0 to 5.
const TYPE_MAX: u8 = 5;

/// The first record of a chunk that cannot be read.
#[derive(Debug)]
pub(super) struct Failure {
    /// Where the record begins.
    pub offset: usize,
    pub verdict: Verdict,
    pub error: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The end of a write that was never acknowledged.
    Torn,
    Damaged,
}

/// Reads all records; tells of the first that fails.
pub(super) fn scan(bytes: &[u8]) -> Option<Failure> {
    let mut offset = 0;
    while offset < bytes.len() {
        let mut rest = &bytes[offset..];
        match read_record(&mut rest) {
            Ok(()) => offset = bytes.len() - rest.len(),
            Err(error) => {
                let end = bytes.len() - rest.len();
                return Some(Failure { offset, verdict: judge(bytes, offset, end, &error), error });
            }
        }
    }
    None
}

/// Moves `rest` behind one record, or, if it fails, behind what was read of it.
fn read_record(rest: &mut &[u8]) -> io::Result<()> {
    RaftLogRecord::<LogTypes>::decode(rest).map(|_| ())
}

fn judge(bytes: &[u8], start: usize, end: usize, error: &io::Error) -> Verdict {
    let torn = holds_unwritten_sector(bytes, start, end)
        || begins_in_old_sector(bytes, start)
        || (error.kind() == io::ErrorKind::UnexpectedEof && is_cut_short(&bytes[start..]));
    if torn { Verdict::Torn } else { Verdict::Damaged }
}

/// Whether a sector of the file that overlaps the record is all zeros. The file's last sector may
/// be a part of one.
fn holds_unwritten_sector(bytes: &[u8], start: usize, end: usize) -> bool {
    let first = start / SECTOR_BYTES * SECTOR_BYTES;
    (first..end.max(start + 1)).step_by(SECTOR_BYTES).any(|sector| {
        let whole = &bytes[sector..bytes.len().min(sector + SECTOR_BYTES)];
        whole.iter().all(|b| *b == 0)
    })
}

/// Whether the sector in which the record begins is as it was before the record: what comes before
/// was synced earlier, the rest reads as zeros.
fn begins_in_old_sector(bytes: &[u8], start: usize) -> bool {
    let sector_end = (start / SECTOR_BYTES + 1) * SECTOR_BYTES;
    let begin = &bytes[start..bytes.len().min(sector_end)];
    begin.len() >= ZEROS_AT_START_MIN && begin.iter().all(|b| *b == 0)
}

/// Whether the rest of a file is the beginning of one record. It is not if another record can be
/// found behind, or if it is a whole record whose length or type alone is wrong: then a flipped bit
/// only makes it look short.
fn is_cut_short(rest: &[u8]) -> bool {
    let another = (1..rest.len()).any(|at| record_begins(&rest[at..]));
    !another && !is_whole_but_for_its_head(rest)
}

fn record_begins(mut bytes: &[u8]) -> bool {
    let plausible = matches!(bytes, [0, 0, 0, kind, ..] if *kind <= TYPE_MAX);
    plausible && read_record(&mut bytes).is_ok()
}

/// Tries the heads that would make the bytes one record.
fn is_whole_but_for_its_head(record: &[u8]) -> bool {
    let Some((body, stored)) = record.split_last_chunk::<CHECKSUM_BYTES>() else { return false };
    let stored = u64::from_be_bytes(*stored);
    let matches = |candidate: &[u8]| Crc32fast::hash(candidate) == stored;
    heads(body).any(|candidate| matches(&candidate))
}

/// The bytes with each type that a record can have, and as an entry that ends where they end.
fn heads(body: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let typed = (0..=TYPE_MAX).filter(|_| body.len() >= 4).map(|kind| {
        let mut candidate = body.to_vec();
        candidate[..4].copy_from_slice(&[0, 0, 0, kind]);
        candidate
    });
    let framed = (0..=u8::MAX).take(3).filter_map(|kind| {
        let length = u32::try_from(body.len().checked_sub(ENTRY_HEAD_BYTES)?).ok()?;
        let mut candidate = body.to_vec();
        candidate[..4].copy_from_slice(&[0, 0, 0, APPEND]);
        candidate[ENTRY_HEAD_BYTES - 5] = kind;
        candidate[ENTRY_HEAD_BYTES - 4..ENTRY_HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        Some(candidate)
    });
    typed.chain(framed)
}
