//! The bytes of the Raft log's records.
//!
//! The log frames each record as a type, what is encoded here, and a CRC. Numbers are big endian.
//!
//! | what | bytes |
//! |---|---|
//! | log id | term u64, index u64 |
//! | vote | term u64, node u64, committed u8 |
//! | payload | kind u8, length u32, body |
//! | body of a blank | nothing |
//! | body of a command | cluster time u64, wall time u64, the command as it was encoded |
//! | body of a membership | msgpack with field names |
//!
//! A command is copied as it is: it was encoded once where it was made. Input that ends too early
//! is `UnexpectedEof`, everything else that cannot be is `InvalidData`; [`super::log_scan`] builds
//! on the difference.

use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::IOFlushed;
use raft_log::codeq::{Decode, Encode};

use super::measures::Stopwatch;
use crate::command::{EncodedCommand, Proposal, Stamp};
use crate::histogram::Histogram;
use crate::raft_types::{EntryPayload, LogId, TypeConfig, Vote};

/// A stamp: two u64.
const STAMP_BYTES: usize = 16;

/// Far above any command and any membership. A longer one is not written, and read as damage, which
/// must not make us allocate what its length says.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a kept entry costs besides its command: the maps of the log's cache.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// The first byte of a payload. Numbers stay.
mod kind {
    pub const BLANK: u8 = 0;
    pub const COMMAND: u8 = 1;
    pub const MEMBERSHIP: u8 = 2;
}

/// What the log is made of.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct LogTypes;

impl raft_log::Types for LogTypes {
    type LogId = StoredLogId;
    type LogPayload = StoredPayload;
    type Vote = StoredVote;
    type Callback = Ack;
    type UserData = ();

    fn log_index(id: &StoredLogId) -> u64 {
        id.0.index
    }

    fn payload_size(payload: &StoredPayload) -> u64 {
        payload.cost()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StoredLogId(pub LogId);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct StoredVote(pub Vote);

#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredPayload(pub EntryPayload);

impl StoredPayload {
    /// Memory that it takes, nearly.
    pub fn cost(&self) -> u64 {
        let body = match &self.0 {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(proposal) => proposal.command.len() as u64,
            EntryPayload::Membership(_) => ENTRY_OVERHEAD_BYTES,
        };
        ENTRY_OVERHEAD_BYTES + body
    }
}

impl Encode for StoredLogId {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        w.write_all(&self.0.committed_leader_id().term.to_be_bytes())?;
        w.write_all(&self.0.index.to_be_bytes())?;
        Ok(16)
    }
}

impl Decode for StoredLogId {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        Ok(Self(LogId::new_term_index(read_u64(&mut r)?, read_u64(&mut r)?)))
    }
}

impl Encode for StoredVote {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        w.write_all(&self.0.leader_id.term.to_be_bytes())?;
        w.write_all(&self.0.leader_id.voted_for.to_be_bytes())?;
        w.write_all(&[u8::from(self.0.committed)])?;
        Ok(17)
    }
}

impl Decode for StoredVote {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let (term, node) = (read_u64(&mut r)?, read_u64(&mut r)?);
        let mut vote = Vote::new(term, node);
        vote.committed = match read_array::<1>(&mut r)? {
            [0] => false,
            [1] => true,
            [other] => return Err(invalid(format!("a vote's flag is {other}"))),
        };
        Ok(Self(vote))
    }
}

impl Encode for StoredPayload {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        match &self.0 {
            EntryPayload::Blank => write_frame(&mut w, kind::BLANK, &[], &[]),
            EntryPayload::Normal(proposal) => {
                let stamp = stamp_bytes(proposal.stamp);
                write_frame(&mut w, kind::COMMAND, &stamp, proposal.command.as_bytes())
            }
            EntryPayload::Membership(membership) => {
                let body = rmp_serde::to_vec_named(membership).map_err(io::Error::other)?;
                write_frame(&mut w, kind::MEMBERSHIP, &[], &body)
            }
        }
    }
}

impl Decode for StoredPayload {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let [kind] = read_array(&mut r)?;
        let length = u32::from_be_bytes(read_array(&mut r)?) as usize;
        match kind {
            kind::BLANK => read_body(&mut r, length, 0..=0).map(|_| EntryPayload::Blank),
            kind::COMMAND => {
                let body = read_body(&mut r, length, STAMP_BYTES..=BODY_BYTES_MAX)?;
                Ok(EntryPayload::Normal(proposal(body.into())))
            }
            kind::MEMBERSHIP => {
                let body = read_body(&mut r, length, 1..=BODY_BYTES_MAX)?;
                rmp_serde::from_slice(&body).map(EntryPayload::Membership).map_err(invalid)
            }
            other => Err(invalid(format!("a payload has kind {other}"))),
        }
        .map(Self)
    }
}

fn stamp_bytes(stamp: Stamp) -> [u8; STAMP_BYTES] {
    let mut bytes = [0; STAMP_BYTES];
    bytes[..8].copy_from_slice(&stamp.cluster_ms.to_be_bytes());
    bytes[8..].copy_from_slice(&stamp.wall_ms.to_be_bytes());
    bytes
}

/// Takes apart a command's body, which is at least a stamp long.
fn proposal(mut body: Bytes) -> Proposal {
    let command = body.split_off(STAMP_BYTES);
    let (cluster, wall) = body.split_at(8);
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("half a stamp"));
    let stamp = Stamp { cluster_ms: number(cluster), wall_ms: number(wall) };
    Proposal { stamp, command: EncodedCommand::from_bytes(command) }
}

fn write_frame(w: &mut impl Write, kind: u8, head: &[u8], body: &[u8]) -> io::Result<usize> {
    let length = head.len() + body.len();
    if length > BODY_BYTES_MAX {
        return Err(invalid(format!("an entry of {length} bytes is too large for the log")));
    }
    w.write_all(&[kind])?;
    w.write_all(&(length as u32).to_be_bytes())?;
    w.write_all(head)?;
    w.write_all(body)?;
    Ok(5 + length)
}

/// Reads a body whose length was read before; refuses a length that no writer gives.
fn read_body(
    r: &mut impl Read,
    length: usize,
    allowed: RangeInclusive<usize>,
) -> io::Result<Vec<u8>> {
    if !allowed.contains(&length) {
        return Err(invalid(format!("a payload of its kind cannot have {length} bytes")));
    }
    let mut body = vec![0; length];
    r.read_exact(&mut body)?;
    Ok(body)
}

fn read_u64(r: &mut impl Read) -> io::Result<u64> {
    read_array(r).map(u64::from_be_bytes)
}

fn read_array<const N: usize>(r: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    r.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn invalid(e: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e.to_string())
}

/// Tells openraft when a write is durable, or that it never will be.
///
/// When the log's writer fails, it drops the requests that still wait in its queue. openraft must
/// hear of those too, or the node would hang instead of stopping: so a dropped one is a failed one.
pub(super) struct Ack {
    flushed: Option<IOFlushed<TypeConfig>>,
    since: Stopwatch,
    times: Arc<Histogram>,
}

impl Ack {
    /// `times` hears how long the write took.
    pub fn new(flushed: IOFlushed<TypeConfig>, times: &Arc<Histogram>) -> Self {
        Self { flushed: Some(flushed), since: Stopwatch::start(), times: times.clone() }
    }
}

impl raft_log::Callback for Ack {
    fn send(mut self, result: io::Result<()>) {
        if let Some(flushed) = self.flushed.take() {
            self.times.add_time(self.since.elapsed());
            flushed.io_completed(result);
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let Some(flushed) = self.flushed.take() {
            flushed
                .io_completed(Err(io::Error::other("the log's writer stopped before this write")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::Membership;
    use openraft::type_config::TypeConfigExt;
    use raft_log::Callback;

    use super::*;
    use crate::raft_types::PeerNode;

    fn bytes_of(value: &impl Encode) -> Vec<u8> {
        let mut bytes = Vec::new();
        let count = value.encode(&mut bytes).expect("memory takes it");
        assert_eq!(count, bytes.len());
        bytes
    }

    fn payloads() -> Vec<EntryPayload> {
        let node = PeerNode { peer: "a:1".into(), api: "a:2".into(), disk_id: "d".into() };
        let nodes = BTreeMap::from([(1, node)]);
        let membership = Membership::new(vec![[1].into()], nodes).expect("it is one");
        let stamp = Stamp { cluster_ms: 0x0102, wall_ms: 0x0304 };
        let command = EncodedCommand::from_bytes(Bytes::from_static(b"\x01abc"));
        vec![
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal { stamp, command }),
            EntryPayload::Membership(membership),
        ]
    }

    #[test]
    fn the_bytes_on_disk_stay_as_they_are() {
        let id = StoredLogId(LogId::new_term_index(0x0a, 0x0b));
        assert_eq!(bytes_of(&id), [0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 11]);
        let vote = StoredVote(Vote::new_committed(2, 3));
        assert_eq!(bytes_of(&vote), [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 1]);
        let [blank, command, membership] = &payloads()[..] else { panic!("three kinds") };
        assert_eq!(bytes_of(&StoredPayload(blank.clone())), [0, 0, 0, 0, 0]);
        let expected = b"\x01\0\0\0\x14\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x03\x04\x01abc";
        assert_eq!(bytes_of(&StoredPayload(command.clone())), expected);
        let expected = b"\x02\0\0\0\x30\x82\xa7configs\x91\x91\x01\xa5nodes\x81\x01\
            \x83\xa4peer\xa3a:1\xa3api\xa3a:2\xa7disk_id\xa1d";
        assert_eq!(bytes_of(&StoredPayload(membership.clone())), expected);
    }

    #[test]
    fn a_payload_comes_back_and_a_part_of_one_ends_unexpectedly() {
        for payload in payloads().into_iter().map(StoredPayload) {
            let bytes = bytes_of(&payload);
            assert_eq!(StoredPayload::decode(&bytes[..]).expect("it is whole"), payload);
            for length in 0..bytes.len() {
                let error = StoredPayload::decode(&bytes[..length]).expect_err("it is not whole");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length} bytes");
            }
        }
    }

    #[test]
    fn a_length_that_no_writer_gives_is_refused_before_memory_is_taken() {
        let error = StoredPayload::decode(&b"\x01\xff\0\0\0"[..]).expect_err("it is too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_write_that_is_dropped_unanswered_is_a_failed_write() {
        let times = Arc::new(Histogram::new(&[]));
        let (sender, answer) = TypeConfig::oneshot();
        drop(Ack::new(IOFlushed::signal(sender), &times));
        answer.await.expect("an answer").expect_err("nobody wrote it");
        let (sender, answer) = TypeConfig::oneshot();
        Ack::new(IOFlushed::signal(sender), &times).send(Ok(()));
        answer.await.expect("an answer").expect("it was written");
    }
}
