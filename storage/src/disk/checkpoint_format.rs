//! The bytes of a checkpoint file. Numbers are big endian.
//!
//! ```text
//! "ROSTERCP" | format u32
//! block: the header, msgpack with field names: log id, membership, state hash
//! block: records, msgpack with field names, one after the other
//! ...
//! 0 u32 | number of records u64 | XXH64 of all before u64
//! block = length u32 (never 0) | XXH64 of the bytes u64 | bytes
//! ```
//!
//! Reading checks each block before it is decoded, the sum at the end, that nothing follows, and
//! that the state has the hash it had when it was written.

use std::fs::File;
use std::hash::Hasher;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use super::DiskError;
use crate::catalog::{CatalogBuilder, Counted, Record};
use crate::msgpack;
use crate::raft_types::{LogId, StoredMembership};
use crate::version::{Loaded, Version};

const MAGIC: [u8; 8] = *b"ROSTERCP";
const FORMAT: u32 = 2;

/// A block is closed when it is this long: what is in memory at once.
const BLOCK_BYTES: usize = 256 * 1024;

/// A block is longer by at most one record, and a record is far below this. A longer one is damage,
/// which must not make us allocate what its length says.
const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// More would wait for the one that puts the records in their places.
const DECODERS_MAX: usize = 8;

/// Blocks that wait on either side of one that decodes.
const BLOCKS_AHEAD: usize = 2;

/// What a checkpoint is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    pub state_hash: u64,
}

/// How long a file is, and the XXH64 of all its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub bytes: u64,
    pub checksum: u64,
}

/// Counts and hashes what passes through.
pub(super) struct Summed<T> {
    inner: T,
    hash: XxHash64,
    bytes: u64,
}

impl<T> Summed<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, hash: XxHash64::with_seed(0), bytes: 0 }
    }

    pub fn sum(&self) -> Sum {
        Sum { bytes: self.bytes, checksum: self.hash.finish() }
    }

    pub fn inner(&self) -> &T {
        &self.inner
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.write(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Write> Write for Summed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Summed<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.count(&bytes[..read]);
        Ok(read)
    }
}

/// Writes all of a version.
pub(super) fn write(file: impl Write, version: &Version) -> io::Result<Sum> {
    let mut out = Summed::new(file);
    out.write_all(&MAGIC)?;
    out.write_all(&FORMAT.to_be_bytes())?;
    let header = Header {
        applied: version.applied,
        membership: version.membership.clone(),
        state_hash: version.catalog.state_hash(),
    };
    write_block(&mut out, &rmp_serde::to_vec_named(&header).map_err(io::Error::other)?)?;
    let records = write_records(&mut out, version.catalog.records())?;
    out.write_all(&0_u32.to_be_bytes())?;
    out.write_all(&records.to_be_bytes())?;
    let checksum = out.sum().checksum;
    out.write_all(&checksum.to_be_bytes())?;
    out.flush()?;
    Ok(out.sum())
}

fn write_records(out: &mut impl Write, records: impl Iterator<Item = Record>) -> io::Result<u64> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut count = 0;
    for record in records {
        msgpack::write_named(&mut block, &record).map_err(io::Error::other)?;
        count += 1;
        if block.len() >= BLOCK_BYTES {
            write_block(out, &block)?;
            block.clear();
        }
    }
    if !block.is_empty() {
        write_block(out, &block)?;
    }
    Ok(count)
}

fn write_block(out: &mut impl Write, block: &[u8]) -> io::Result<()> {
    let length = u32::try_from(block.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&XxHash64::oneshot(0, block).to_be_bytes())?;
    out.write_all(block)
}

/// Reads a file from its beginning, whoever else reads it and from wherever.
struct FromStart<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Reads a file while checking it; knows how far it came, for the message about damage.
struct Checked<'a> {
    path: &'a Path,
    input: Summed<BufReader<FromStart<'a>>>,
}

/// How far reading came, in records; called now and then.
pub(super) type Tell<'a> = &'a dyn Fn(Loaded);

/// Reads and checks a whole checkpoint. One thread reads, others check and decode a block each, this
/// one puts the records in their places.
pub(super) fn read(
    path: &Path,
    file: &File,
    tell: Tell<'_>,
) -> Result<(Header, Version, Sum), DiskError> {
    let mut input = Checked::new(path, file);
    let header = input.header()?;
    let of = expected_records(file);
    let mut builder = CatalogBuilder::default();
    let mut records = 0;
    let ended = thread::scope(|scope| {
        let (hand_out, decoded) = decoders(scope, path);
        let reader = scope.spawn(move || input.hand_out(&hand_out));
        // In the order in which they were handed out.
        for decoder in decoded.iter().cycle() {
            let Ok(block) = decoder.recv() else { break };
            let Decoded { at, counted } = block?;
            records += counted.len() as u64;
            builder.add_all(counted).map_err(|e| DiskError::damaged(path, at, e))?;
            tell(Loaded { records, of });
        }
        drop(decoded);
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    if ended.records != records {
        let what = format!("it has {records} records, not {}", ended.records);
        return Err(DiskError::damaged(path, ended.sum.bytes, what));
    }
    let damaged = |what: &dyn std::fmt::Display| DiskError::damaged(path, ended.sum.bytes, what);
    let catalog = builder.finish();
    if catalog.state_hash() != header.state_hash {
        return Err(damaged(&"its records do not give the state that it says it holds"));
    }
    catalog.verify_records().map_err(|e| damaged(&e))?;
    let version =
        Version { catalog, applied: header.applied, membership: header.membership.clone() };
    Ok((header, version, ended.sum))
}

/// The number of records that a file says it has, for who waits; 0 if it does not say. It is
/// checked where it is read again.
fn expected_records(file: &File) -> u64 {
    let mut records = [0; 8];
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    match file.read_exact_at(&mut records, length.saturating_sub(16)) {
        Ok(()) => u64::from_be_bytes(records),
        Err(_) => 0,
    }
}

/// A block as it is in the file.
struct Block {
    /// Where its bytes begin in the file.
    at: u64,
    checksum: u64,
    bytes: Vec<u8>,
}

struct Decoded {
    at: u64,
    counted: Counted,
}

type DecodedOrNot = Result<Decoded, DiskError>;

/// A thread per core that decodes. Blocks go to them in turn, and come from them in turn. They end
/// when nobody hands out or takes any more.
fn decoders<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    path: &'scope Path,
) -> (Vec<SyncSender<Block>>, Vec<Receiver<DecodedOrNot>>) {
    let count = thread::available_parallelism().map_or(1, usize::from).min(DECODERS_MAX);
    let decoder = |_| {
        let (hand_out, blocks) = mpsc::sync_channel::<Block>(BLOCKS_AHEAD);
        let (send, decoded) = mpsc::sync_channel(BLOCKS_AHEAD);
        scope.spawn(move || {
            for block in blocks {
                if send.send(block.decode(path)).is_err() {
                    break;
                }
            }
        });
        (hand_out, decoded)
    };
    (0..count).map(decoder).unzip()
}

impl Block {
    fn decode(self, path: &Path) -> DecodedOrNot {
        let damaged = |what: &dyn std::fmt::Display| DiskError::damaged(path, self.at, what);
        if XxHash64::oneshot(0, &self.bytes) != self.checksum {
            return Err(damaged(&"the block from here on has another checksum"));
        }
        // Borrows texts from the block, where `from_read` would copy each twice.
        let mut input = rmp_serde::Deserializer::from_read_ref(&self.bytes);
        let mut records = Vec::new();
        loop {
            match Record::deserialize(&mut input) {
                Ok(record) => records.push(record),
                // The block's end. A record that ends too early is missed in the count at the file's end.
                Err(rmp_serde::decode::Error::InvalidMarkerRead(e))
                    if e.kind() == io::ErrorKind::UnexpectedEof =>
                {
                    break;
                }
                Err(e) => return Err(damaged(&e)),
            }
        }
        Ok(Decoded { at: self.at, counted: Counted::new(records) })
    }
}

/// What the end of a file says.
struct Ended {
    records: u64,
    sum: Sum,
}

/// Reads only what a checkpoint is of.
pub(super) fn read_header(path: &Path, file: &File) -> Result<Header, DiskError> {
    Checked::new(path, file).header()
}

impl<'a> Checked<'a> {
    fn new(path: &'a Path, file: &'a File) -> Self {
        let file = FromStart { file, offset: 0 };
        Self { path, input: Summed::new(BufReader::with_capacity(BLOCK_BYTES, file)) }
    }

    fn damaged(&self, what: impl ToString) -> DiskError {
        DiskError::damaged(self.path, self.input.sum().bytes, what)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DiskError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), DiskError> {
        match self.input.read_exact(bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends too early"))
            }
            result => result.map_err(DiskError::io("read", self.path)),
        }
    }

    fn header(&mut self) -> Result<Header, DiskError> {
        if self.array()? != MAGIC {
            return Err(self.damaged("it does not begin like a checkpoint"));
        }
        let format = u32::from_be_bytes(self.array()?);
        if format != FORMAT {
            let path = self.path.to_owned();
            return Err(DiskError::Format { path, found: format, known: FORMAT });
        }
        let block = self.block()?.ok_or_else(|| self.damaged("it has no header"))?;
        if XxHash64::oneshot(0, &block.bytes) != block.checksum {
            return Err(self.damaged("its header has another checksum"));
        }
        rmp_serde::from_slice(&block.bytes).map_err(|e| self.damaged(e))
    }

    /// The next block, or none at the end mark. Its own checksum is not checked yet.
    fn block(&mut self) -> Result<Option<Block>, DiskError> {
        let length = u32::from_be_bytes(self.array()?) as usize;
        if length == 0 {
            return Ok(None);
        }
        if length > BLOCK_BYTES_MAX {
            return Err(self.damaged("a block is too long"));
        }
        let checksum = u64::from_be_bytes(self.array()?);
        let at = self.input.sum().bytes;
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(Some(Block { at, checksum, bytes }))
    }

    /// Hands all blocks out in turn, then checks the end. If one of those who decode gave up, so does
    /// this: why is for the other to tell.
    fn hand_out(mut self, decoders: &[SyncSender<Block>]) -> Result<Ended, DiskError> {
        for decoder in decoders.iter().cycle() {
            let Some(block) = self.block()? else { break };
            if decoder.send(block).is_err() {
                break;
            }
        }
        self.footer()
    }

    fn footer(&mut self) -> Result<Ended, DiskError> {
        let records = u64::from_be_bytes(self.array()?);
        let found = self.input.sum().checksum;
        if u64::from_be_bytes(self.array()?) != found {
            return Err(self.damaged("it has another checksum"));
        }
        match self.input.read(&mut [0]).map_err(DiskError::io("read", self.path))? {
            0 => Ok(Ended { records, sum: self.input.sum() }),
            _more => Err(self.damaged("something follows its end")),
        }
    }
}
