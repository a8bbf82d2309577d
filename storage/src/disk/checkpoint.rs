//! Checkpoints: the whole state in one file, written aside and renamed, sent and received as it is.
//!
//! A file appears under its name only when it is whole and synced. The one before it stays as a spare,
//! whose room the next one is written into: to free and to find room for hundreds of megabytes holds up
//! the syncs of the log on the same disk for a quarter of a second. A spare that is still being sent is
//! removed instead, and its open handle keeps it readable, so that sending one never races with writing
//! the next.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::checkpoint_format::{self as format, Header, Sum, Summed};
use super::{DiskError, fsync_dir};
use crate::raft_types::SnapshotMeta;
use crate::version::{Loaded, Version};

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".roster";
const UNFINISHED: &str = ".tmp";

/// The name of the spare.
const SPARE: &str = "checkpoint.spare";

/// Bytes that are copied at once from one file to another.
const COPY_BYTES: usize = 1024 * 1024;

/// Bytes of a checkpoint that are written before they are synced: a disk takes them in a few
/// milliseconds.
const PIECE_BYTES: usize = 2 * 1024 * 1024;

/// What is written past the system's cache lies in memory and in the file at multiples of this. Disks have
/// blocks of 512 bytes or of 4 KiB.
const BLOCK_BYTES: usize = 4096;

/// The file name of the checkpoint at an index. Names sort like indexes.
pub(super) fn file_name(index: u64) -> String {
    format!("{PREFIX}{index:020}{SUFFIX}")
}

/// A checkpoint that can be read and sent. Clones share the file.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub meta: SnapshotMeta,
    /// Where it is, or was: a newer one may have removed it.
    pub path: PathBuf,
    pub bytes: u64,
    /// XXH64 of all bytes of the file.
    pub checksum: u64,
    pub file: Arc<File>,
    /// Removes a received file that was never installed.
    unfinished: Option<Arc<Unfinished>>,
}

impl Checkpoint {
    /// Writes a version to the folder. The older checkpoint there becomes the spare.
    pub fn write(folder: &Path, version: &Version) -> Result<Self, DiskError> {
        Self::write_into(folder, version, None)
    }

    /// As [`Self::write`], into the room of a spare.
    pub(super) fn write_into(
        folder: &Path,
        version: &Version,
        spare: Option<Spare>,
    ) -> Result<Self, DiskError> {
        let aside = match spare {
            Some(Spare(room)) => room,
            None => Unfinished::create(folder)?,
        };
        let sum = format::write(SyncedPieces::past_cache(aside.file.clone()), version)
            .map_err(aside.failed("write"))?;
        aside.file.set_len(sum.bytes).map_err(aside.failed("cut"))?;
        aside.file.sync_all().map_err(aside.failed("sync"))?;
        let header = Header {
            applied: version.applied,
            membership: version.membership.clone(),
            state_hash: version.catalog.state_hash(),
        };
        Self::of(header, aside, sum).install(folder)
    }

    /// The newest checkpoint of the folder with its state, all of it checked. Removes what a crash
    /// left unfinished.
    /// `tell` hears how far reading came.
    pub fn open_newest(
        folder: &Path,
        tell: impl Fn(Loaded),
    ) -> Result<Option<(Self, Version)>, DiskError> {
        let names = list(folder)?;
        for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
            remove(&folder.join(name))?;
        }
        let newest = names.iter().filter(|name| index_of(name).is_some()).max();
        let Some(name) = newest else { return Ok(None) };
        let path = folder.join(name);
        let file = File::open(&path).map_err(DiskError::io("open", &path))?;
        let (header, version, sum) = format::read(&path, &file, &tell)?;
        if index_of(name) != Some(version.revision().0) {
            return Err(DiskError::damaged(&path, 0, "it is of another index than its name says"));
        }
        set_older_aside(folder, name)?;
        let checkpoint = Self {
            meta: meta(header),
            path,
            bytes: sum.bytes,
            checksum: sum.checksum,
            file: Arc::new(file),
            unfinished: None,
        };
        Ok(Some((checkpoint, version)))
    }

    /// The state in the file, all of it checked.
    pub fn read(&self) -> Result<Version, DiskError> {
        let (header, version, sum) = format::read(&self.path, &self.file, &|_| {})?;
        if sum != (Sum { bytes: self.bytes, checksum: self.checksum }) || meta(header) != self.meta
        {
            return Err(DiskError::damaged(&self.path, 0, "it is not the file that it was"));
        }
        Ok(version)
    }

    /// Up to `length` bytes from `offset` on; fewer at the end, none after it.
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(left)];
        self.file.read_exact_at(&mut bytes, offset).map_err(DiskError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// The index of the last entry in it.
    pub fn index(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |id| id.index)
    }

    /// Gives a received file its name in the folder; an older checkpoint there becomes the spare. One of
    /// another folder is copied.
    pub(super) fn install(self, folder: &Path) -> Result<Self, DiskError> {
        let name = file_name(self.index());
        let path = folder.join(&name);
        if self.path == path {
            return Ok(self);
        }
        let here = self.unfinished.is_some() && self.path.parent() == Some(folder);
        let source = if here { self } else { self.copy_to(folder)? };
        std::fs::rename(&source.path, &path).map_err(DiskError::io("rename", &source.path))?;
        fsync_dir(folder)?;
        set_older_aside(folder, &name)?;
        Ok(Self { path, unfinished: None, ..source })
    }

    fn copy_to(&self, folder: &Path) -> Result<Self, DiskError> {
        let mut copy = Incoming::create(folder)?;
        let mut offset = 0;
        while offset < self.bytes {
            let piece = self.read_at(offset, COPY_BYTES)?;
            copy.write(&piece)?;
            offset += piece.len() as u64;
        }
        copy.finish(self.bytes, self.checksum)
    }

    fn of(header: Header, aside: Unfinished, sum: Sum) -> Self {
        Self {
            meta: meta(header),
            path: aside.path.clone(),
            bytes: sum.bytes,
            checksum: sum.checksum,
            file: aside.file.clone(),
            unfinished: Some(Arc::new(aside)),
        }
    }
}

fn meta(header: Header) -> SnapshotMeta {
    SnapshotMeta { last_log_id: header.applied, last_membership: header.membership }
}

/// A checkpoint that is being received. Dropped unfinished, it leaves nothing. Its calls write to
/// the disk: not for a thread that must not wait.
pub struct Incoming {
    out: Summed<SyncedPieces>,
    aside: Unfinished,
}

impl Incoming {
    pub fn create(folder: &Path) -> Result<Self, DiskError> {
        let aside = Unfinished::create(folder)?;
        Ok(Self { out: Summed::new(SyncedPieces::through_cache(aside.file.clone())), aside })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.out.write_all(bytes).map_err(self.aside.failed("write"))
    }

    /// Checks that all came as it was sent, and syncs it. It keeps its passing name until openraft
    /// installs it; dropped before, it is removed.
    pub fn finish(mut self, bytes: u64, checksum: u64) -> Result<Checkpoint, DiskError> {
        self.out.flush().map_err(self.aside.failed("write"))?;
        let sum = self.out.sum();
        if sum != (Sum { bytes, checksum }) {
            let what = format!(
                "{} bytes with checksum {:016x} came instead of {bytes} with {checksum:016x}",
                sum.bytes, sum.checksum
            );
            return Err(DiskError::Transfer { path: self.aside.path.clone(), what });
        }
        self.out.inner().file.sync_all().map_err(self.aside.failed("sync"))?;
        let header = format::read_header(&self.aside.path, &self.aside.file)?;
        Ok(Checkpoint::of(header, self.aside, sum))
    }
}

/// A shared file as a writer that syncs as it goes: hundreds of megabytes that wait for one sync would
/// hold up the log's syncs on the same disk. It may write past the system's cache: to copy there what
/// nobody reads soon takes longer than to encode it. What is left of the last piece goes out with
/// [`Write::flush`].
struct SyncedPieces {
    file: Arc<File>,
    past_cache: bool,
    /// Bytes of the file that are written.
    written: u64,
    /// A piece lies in it from `begin` on, which is aligned.
    room: Vec<u8>,
    begin: usize,
    filled: usize,
}

impl SyncedPieces {
    /// For what is read again at once.
    fn through_cache(file: Arc<File>) -> Self {
        let room = vec![0; PIECE_BYTES];
        Self { file, past_cache: false, written: 0, room, begin: 0, filled: 0 }
    }

    /// For what nobody reads soon, if the file system can do that.
    fn past_cache(file: Arc<File>) -> Self {
        let room = vec![0; PIECE_BYTES + BLOCK_BYTES];
        match room.as_ptr().align_offset(BLOCK_BYTES) {
            begin @ 0..BLOCK_BYTES => {
                Self { file, past_cache: true, written: 0, room, begin, filled: 0 }
            }
            _ => Self::through_cache(file),
        }
    }

    fn write_piece(&mut self) -> io::Result<()> {
        let piece = &self.room[self.begin..self.begin + self.filled];
        // The end of the file is no whole block.
        if self.past_cache && piece.len().is_multiple_of(BLOCK_BYTES) {
            match write_past_cache(&self.file, piece, self.written) {
                // Not every file system does, nor every disk with blocks of this size.
                Err(e) if is_not_done(&e) => self.past_cache = false,
                done => return done.and_then(|()| self.wrote()),
            }
        }
        self.file.write_all_at(piece, self.written)?;
        self.wrote()
    }

    fn wrote(&mut self) -> io::Result<()> {
        self.written += self.filled as u64;
        self.filled = 0;
        self.file.sync_data()
    }
}

impl Write for SyncedPieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filled == PIECE_BYTES {
            self.write_piece()?;
        }
        let taken = bytes.len().min(PIECE_BYTES - self.filled);
        let at = self.begin + self.filled;
        self.room[at..at + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filled > 0 { self.write_piece() } else { Ok(()) }
    }
}

fn is_not_done(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Leaves the file as it was: to read it that way, others would need aligned room too.
fn write_past_cache(file: &File, piece: &[u8], at: u64) -> io::Result<()> {
    let flags = fcntl_getfl(file)?;
    fcntl_setfl(file, flags | OFlags::DIRECT)?;
    let written = file.write_all_at(piece, at);
    fcntl_setfl(file, flags)?;
    written
}

/// A file under a passing name, removed when nobody holds it. After a rename there is nothing left
/// under that name to remove.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    file: Arc<File>,
}

impl Unfinished {
    fn create(folder: &Path) -> Result<Self, DiskError> {
        let path = Self::name_in(folder);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        Ok(Self { file: Arc::new(file.map_err(DiskError::io("make", &path))?), path })
    }

    fn name_in(folder: &Path) -> PathBuf {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        folder.join(format!("{PREFIX}{number}{UNFINISHED}"))
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> DiskError + use<> {
        let path = self.path.clone();
        move |source| DiskError::Io { doing, path, source }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It may be gone, renamed or removed; and what stays is removed at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn list(folder: &Path) -> Result<Vec<String>, DiskError> {
    let list = || -> io::Result<Vec<String>> {
        std::fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    list().map_err(DiskError::io("list", folder))
}

fn index_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

/// The file of an older checkpoint that nobody reads any more, under a passing name. What it holds is
/// overwritten; whoever writes cuts off what is left of it.
pub(super) struct Spare(Unfinished);

impl Spare {
    /// Takes the spare of the folder away, and gives it if it is the file that was `retired` and nobody
    /// else has that open. The renaming comes first: an installed checkpoint may leave another spare at any
    /// time, and a full disk's keeper may remove one.
    pub fn take(folder: &Path, retired: Option<Arc<File>>) -> Result<Option<Self>, DiskError> {
        let path = Unfinished::name_in(folder);
        match std::fs::rename(folder.join(SPARE), &path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DiskError::io("rename", &folder.join(SPARE))(e)),
        }
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = Arc::new(opened.map_err(DiskError::io("open", &path))?);
        let room = Unfinished { path, file };
        let inode = |file: &File| {
            let known = file.metadata().map_err(DiskError::io("look at", &room.path))?;
            Ok((known.dev(), known.ino()))
        };
        let is_free = match retired.and_then(|file| Arc::try_unwrap(file).ok()) {
            Some(own) => inode(&own)? == inode(&room.file)?,
            None => false,
        };
        // Else it is removed as it is dropped.
        Ok(is_free.then_some(Self(room)))
    }

    /// What an earlier process left: nobody has that open.
    pub fn left_behind(folder: &Path) -> Option<Arc<File>> {
        File::open(folder.join(SPARE)).ok().map(Arc::new)
    }

    pub fn remove(folder: &Path) -> Result<(), DiskError> {
        remove(&folder.join(SPARE))
    }

    /// How much room there is in the spare of the folder.
    pub fn bytes(folder: &Path) -> u64 {
        std::fs::metadata(folder.join(SPARE)).map_or(0, |known| known.len())
    }
}

/// Makes the checkpoint with a lower index the spare, in the place of an earlier one. What stays by a
/// crash goes with the next one.
fn set_older_aside(folder: &Path, newest: &str) -> Result<(), DiskError> {
    let names = list(folder)?;
    let older = names.iter().filter(|name| index_of(name).is_some() && name.as_str() < newest);
    for name in older {
        let path = folder.join(name);
        match std::fs::rename(&path, folder.join(SPARE)) {
            // Two may be set aside at once: one that was written, and one for one that was received.
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(DiskError::io("rename", &path)(e));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), DiskError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DiskError::io("remove", path)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_piece_by_piece_is_in_the_file_past_the_cache_or_through_it() {
        let folder = tempfile::tempdir().expect("a folder");
        for past_cache in [true, false] {
            for length in [0, 1, BLOCK_BYTES, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 777] {
                let bytes: Vec<u8> = (0..length).map(|at| ((at * 31) >> 3) as u8).collect();
                let aside = Unfinished::create(folder.path()).expect("a file");
                let file = aside.file.clone();
                let mut out = match past_cache {
                    true => SyncedPieces::past_cache(file),
                    false => SyncedPieces::through_cache(file),
                };
                bytes.chunks(60_001).for_each(|some| out.write_all(some).expect("written"));
                out.flush().expect("written");
                assert!(std::fs::read(&aside.path).expect("read") == bytes, "{length} bytes");
                let flags = fcntl_getfl(&*aside.file).expect("its flags");
                assert!(!flags.contains(OFlags::DIRECT));
            }
        }
    }
}
