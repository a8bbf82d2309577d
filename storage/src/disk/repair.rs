//! Makes the log's folder ready to be opened: sets a torn tail aside, refuses damage.
//!
//! The log's crate would cut off whatever fails to decode for want of bytes, acknowledged or not,
//! and remove a last chunk whose first record fails so. It is told not to, and finds nothing left
//! to do: [`prepare`] looks at the end of the log first. Only the newest chunk can be torn, since
//! the one before is synced before the first record of the next is written; so a chunk without a
//! first record counts as not begun, and the one before it is the newest.
//!
//! A file `NEWEST` names the newest chunk of the last start, so that a log whose last chunks are
//! gone is noticed too.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::log_scan::{self, Failure, Verdict};
use super::{DiskError, fsync_dir};

/// Names the newest chunk that was whole at the last start.
const NEWEST: &str = "NEWEST";

/// A torn tail that was set aside. None of it had been acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub file: PathBuf,
    /// Where the file was cut; 0 if all of it was torn and it was removed.
    pub offset: u64,
    /// How much was cut off.
    pub bytes: u64,
    /// Where those bytes are now. Nobody needs them; they can be deleted.
    pub saved_as: PathBuf,
}

/// Sets a torn tail aside. Finding damage, changes nothing. The folder must be locked.
pub(super) fn prepare(folder: &Path) -> Result<Vec<Repair>, DiskError> {
    let mut chunks = chunks(folder)?;
    let noted = noted_newest(folder)?;
    ensure_newest_is_there(folder, &chunks, noted.as_deref())?;
    let mut repairs = Vec::new();
    while let Some(chunk) = chunks.pop() {
        let bytes = std::fs::read(&chunk).map_err(DiskError::io("read", &chunk))?;
        let Some(end) = whole_until(&chunk, &bytes)? else { break };
        if end == 0 && noted.as_deref().is_some_and(|noted| *file_name(&chunk) <= *noted) {
            return Err(DiskError::damaged(&chunk, 0, "its first record was there and is gone"));
        }
        repairs.push(set_aside(folder, &chunk, &bytes, end)?);
        if end > 0 {
            break;
        }
    }
    Ok(repairs)
}

/// Where the torn tail of a chunk begins; none if it has no torn tail.
fn whole_until(chunk: &Path, bytes: &[u8]) -> Result<Option<usize>, DiskError> {
    match log_scan::scan(bytes) {
        // The name came to the disk before the first record.
        None => Ok(bytes.is_empty().then_some(0)),
        Some(Failure { verdict: Verdict::Torn, offset, .. }) => Ok(Some(offset)),
        Some(Failure { verdict: Verdict::Damaged, offset, error }) => {
            Err(DiskError::damaged(chunk, offset as u64, error))
        }
    }
}

/// The first record of any chunk that fails, to say what kept the log from opening.
pub(super) fn find_damage(folder: &Path) -> Result<(), DiskError> {
    for chunk in chunks(folder)? {
        let bytes = std::fs::read(&chunk).map_err(DiskError::io("read", &chunk))?;
        if let Some(failure) = log_scan::scan(&bytes) {
            return Err(DiskError::damaged(&chunk, failure.offset as u64, failure.error));
        }
    }
    Ok(())
}

/// Syncs the newest chunk and notes its name, after the log was opened.
pub(super) fn note_newest(folder: &Path) -> Result<(), DiskError> {
    let Some(newest) = chunks(folder)?.pop() else { return Ok(()) };
    File::open(&newest).and_then(|f| f.sync_all()).map_err(DiskError::io("sync", &newest))?;
    let name = file_name(&newest);
    if noted_newest(folder)?.as_ref() == Some(&name) {
        return Ok(());
    }
    let aside = folder.join(format!("{NEWEST}.tmp"));
    write_synced(&aside, name.as_bytes(), OpenOptions::new().create(true).truncate(true))?;
    std::fs::rename(&aside, folder.join(NEWEST)).map_err(DiskError::io("rename", &aside))?;
    fsync_dir(folder)
}

/// The files of the log, oldest first. Their names sort by their place in the log.
fn chunks(folder: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut files = list().map_err(DiskError::io("list", folder))?;
    files.retain(|path| {
        raft_log::chunked_wal::Config::parse_chunk_file_name(&file_name(path)).is_ok()
    });
    files.sort();
    Ok(files)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn noted_newest(folder: &Path) -> Result<Option<String>, DiskError> {
    let path = folder.join(NEWEST);
    match std::fs::read_to_string(&path) {
        Ok(name) => Ok(Some(name)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(DiskError::io("read", &path)(e)),
    }
}

/// A log only grows: the newest chunk of the last start, or a later one, must be there.
fn ensure_newest_is_there(
    folder: &Path,
    chunks: &[PathBuf],
    noted: Option<&str>,
) -> Result<(), DiskError> {
    match noted {
        Some(noted) if chunks.last().is_none_or(|newest| *file_name(newest) < *noted) => {
            Err(DiskError::missing(&folder.join(noted), "it was the log's newest file"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Saves the tail next to the chunk, and makes that durable before the chunk is cut.
fn set_aside(
    folder: &Path,
    chunk: &Path,
    bytes: &[u8],
    offset: usize,
) -> Result<Repair, DiskError> {
    let saved_as = free_name(chunk, offset);
    write_synced(&saved_as, &bytes[offset..], OpenOptions::new().create_new(true))?;
    fsync_dir(folder)?;
    if offset == 0 {
        std::fs::remove_file(chunk).map_err(DiskError::io("remove", chunk))?;
        fsync_dir(folder)?;
    } else {
        cut(chunk, offset as u64).map_err(DiskError::io("cut", chunk))?;
    }
    Ok(Repair {
        file: chunk.to_owned(),
        offset: offset as u64,
        bytes: (bytes.len() - offset) as u64,
        saved_as,
    })
}

/// A name that the log does not take for a chunk, and that no earlier repair took.
fn free_name(chunk: &Path, offset: usize) -> PathBuf {
    let name = |n: u32| chunk.with_file_name(format!("{}.torn-{offset}-{n}", file_name(chunk)));
    (0..).map(name).find(|path| !path.exists()).expect("some number is free")
}

fn cut(chunk: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(chunk)?;
    file.set_len(length)?;
    file.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8], how: &mut OpenOptions) -> Result<(), DiskError> {
    let mut write = || -> io::Result<()> {
        let mut file = how.write(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(DiskError::io("write", path))
}
