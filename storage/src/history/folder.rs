//! The history's folder: how it is opened, and how a damaged one is set aside.
//!
//! ```text
//! history/             sled's: `conf`, written once; `db`, all of its data; `snap.<n>`, where its
//!                      pages were at the last start; `blobs/`, which stays empty. And ours:
//!                      `blocks-<n>`, the large blocks
//! history.opening      how often it was tried to open it since it was last open
//! history.broken       why it must not be opened again as it is
//! history.damaged-<n>  set aside
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::Files;
use super::keys::{Key, Name, Row, UNKNOWN_FORMAT};
use super::store::{Store, StoreError};
use super::{HistoryError, Sizes};
use crate::disk::fsync_dir;
use crate::names::Revision;

/// After so many openings in a row that never came to an end (the process was killed, or died of
/// it), the folder is set aside.
pub const OPENINGS_MAX: u32 = 5;

/// Damaged folders that are kept; the oldest go.
pub const SET_ASIDE_MAX: usize = 2;

/// All that is read when a history is opened.
pub(super) struct Contents {
    pub store: Store,
    pub files: Files,
    pub rows: Vec<Row>,
    pub names: Vec<(Revision, Name)>,
    /// First revisions of rows that cannot be read.
    pub lost: Vec<Revision>,
}

/// Opens the folder; if that cannot be, sets it aside and begins an empty one.
pub(super) fn open(
    folder: &Path,
    sizes: Sizes,
    notes: &mut Vec<String>,
) -> Result<Contents, HistoryError> {
    let failed = |e: String| HistoryError::Failed { folder: folder.to_owned(), why: e };
    if let Some(why) = reason_against(folder) {
        notes.push(set_aside(folder, &why).map_err(|e| failed(e.to_string()))?);
    }
    match opened(folder, sizes, notes) {
        Ok(contents) => Ok(contents),
        Err(e) if is_damage(&e) => {
            notes.push(set_aside(folder, &e.to_string()).map_err(|e| failed(e.to_string()))?);
            opened(folder, sizes, notes).map_err(|e| failed(e.to_string()))
        }
        Err(StoreError::Busy(why)) => Err(HistoryError::Busy { folder: folder.to_owned(), why }),
        Err(e) => Err(failed(e.to_string())),
    }
}

/// Whether another folder would help.
pub(super) fn is_damage(e: &StoreError) -> bool {
    match e {
        StoreError::Damaged(_) | StoreError::Panicked(_) => true,
        StoreError::Busy(_) | StoreError::Io(_) => false,
    }
}

/// Whether the next opening sets the folder aside because of what an earlier one met.
pub(super) fn is_marked_broken(folder: &Path) -> bool {
    beside(folder, "broken").exists()
}

/// Has the next opening set the folder aside.
pub(super) fn mark_broken(folder: &Path, why: &str) -> io::Result<()> {
    fs::write(beside(folder, "broken"), why)
}

fn opened(folder: &Path, sizes: Sizes, notes: &mut Vec<String>) -> Result<Contents, StoreError> {
    let opening = beside(folder, "opening");
    let tries = tries(&opening) + 1;
    // A try that is not counted does no harm.
    let _ = fs::write(&opening, tries.to_string());
    let store = Store::open(folder, sizes.segment_bytes);
    let read = store.and_then(|store| read(folder, store, sizes, notes));
    let _ = fs::remove_file(&opening);
    read
}

fn read(
    folder: &Path,
    store: Store,
    sizes: Sizes,
    notes: &mut Vec<String>,
) -> Result<Contents, StoreError> {
    let (mut rows, mut names, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    let mut unreadable = |what: &str, key: &[u8], why: &str| {
        notes.push(format!("{what} {key:02x?} of the history in {} {why}", folder.display()));
    };
    for (key, value) in store.all(&Key::all_rows())? {
        match Row::read(&key, &value) {
            Ok(row) => rows.push(row),
            // Set aside, so that the version that wrote it can have it back.
            Err(UNKNOWN_FORMAT) => return Err(StoreError::Damaged(format!("it {UNKNOWN_FORMAT}"))),
            Err(why) => {
                unreadable("the block at", &key, why);
                lost.extend(first_of(&key));
            }
        }
    }
    for (key, value) in store.all(&Key::all_names())? {
        match Name::read(&key, &value) {
            Ok(name) => names.push(name),
            Err(why) => unreadable("the gap at", &key, why),
        }
    }
    let files = Files::open(folder, sizes.file_bytes).map_err(|e| StoreError::Io(e.to_string()))?;
    Ok(Contents { store, files, rows, names, lost })
}

fn first_of(key: &[u8]) -> Option<Revision> {
    match Key::read(key)? {
        Key::Row { first } | Key::Name { first } | Key::Part { first, .. } => Some(first),
    }
}

fn reason_against(folder: &Path) -> Option<String> {
    if let Ok(why) = fs::read_to_string(beside(folder, "broken")) {
        return Some(why);
    }
    let tries = tries(&beside(folder, "opening"));
    (tries >= OPENINGS_MAX).then(|| format!("it was not opened in {tries} tries"))
}

fn tries(opening: &Path) -> u32 {
    fs::read_to_string(opening).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Gives the folder another name and forgets what stood against it. Returns the message for the
/// operator.
fn set_aside(folder: &Path, why: &str) -> io::Result<String> {
    let mut numbers = set_aside_before(folder)?;
    let number = numbers.last().map_or(1, |last| last + 1);
    let aside = beside(folder, &format!("damaged-{number}"));
    if folder.exists() {
        fs::rename(folder, &aside)?;
        numbers.push(number);
    }
    for marker in ["opening", "broken"] {
        match fs::remove_file(beside(folder, marker)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
    }
    for old in numbers.iter().rev().skip(SET_ASIDE_MAX) {
        fs::remove_dir_all(beside(folder, &format!("damaged-{old}")))?;
    }
    folder.parent().map_or(Ok(()), fsync_dir)?;
    Ok(format!(
        "the history in {} cannot be used ({why}); it was renamed {} and an empty one begins. This \
         node does not have the changes of before any more, the others may; the registry itself is \
         not touched. Delete the renamed folder when nobody wants to look into it",
        folder.display(),
        aside.display()
    ))
}

/// The numbers of the folders that were set aside, ascending.
fn set_aside_before(folder: &Path) -> io::Result<Vec<u64>> {
    let Some(parent) = folder.parent().filter(|parent| parent.is_dir()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.damaged-", name(folder));
    let mut numbers = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?.file_name();
        let number = entry.to_str().and_then(|entry| entry.strip_prefix(&prefix));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn beside(folder: &Path, what: &str) -> PathBuf {
    folder.with_file_name(format!("{}.{what}", name(folder)))
}

fn name(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
