//! Large blocks, in files of their own beside sled's: one after the other, as `block.rs` describes them,
//! with nothing between. sled writes what it is given two to three times, and copies it more often; here it
//! is written once. Small blocks, which grow and are written again with every sync, stay in sled.
//!
//! - A block's row in sled says where it lies ([`Spot`]). It is written after the block was synced, so
//!   every row leads to bytes that outlast a power cut. Bytes that no row leads to are nothing.
//! - A file takes blocks until it is full or the process ends. What an earlier process left is never
//!   written again.
//! - A file goes once no row leads into it and sled's batch that says so is synced.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::store::StoreError;
use crate::disk::fsync_dir;

/// Where a block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// The file's number, from 1.
    pub file: u64,
    /// Bytes before it in the file.
    pub offset: u64,
}

/// All files of a history, for the one who writes.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    /// A file that is as long takes no more blocks.
    full_bytes: u64,
    /// Numbers of those that are there, ascending.
    numbers: Vec<u64>,
    /// The newest, if it takes more.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    file: File,
    bytes: u64,
    /// There is more in it than was synced.
    grew: bool,
    /// Its name is durable.
    named: bool,
}

impl Files {
    /// Looks which there are.
    pub fn open(folder: &Path, full_bytes: u64) -> io::Result<Self> {
        let mut numbers = numbers(folder)?;
        numbers.sort_unstable();
        Ok(Self { folder: folder.to_owned(), full_bytes, numbers, open: None })
    }

    /// Writes a block behind the others. It is durable after the next [`Self::sync`].
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<Spot> {
        if self.open.as_ref().is_some_and(|open| open.bytes >= self.full_bytes) {
            self.sync()?;
            self.open = None;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let number = self.numbers.last().map_or(1, |newest| newest + 1);
                let file = File::create_new(path(&self.folder, number))?;
                self.numbers.push(number);
                self.open.insert(Open { number, file, bytes: 0, grew: false, named: false })
            }
        };
        open.file.write_all(bytes)?;
        let offset = open.bytes;
        open.bytes += bytes.len() as u64;
        open.grew = true;
        Ok(Spot { file: open.number, offset })
    }

    /// When this returns, everything that was appended outlasts a power cut.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.grew {
            open.file.sync_data()?;
            open.grew = false;
        }
        if !open.named {
            fsync_dir(&self.folder).map_err(io::Error::other)?;
            open.named = true;
        }
        Ok(())
    }

    /// Deletes the oldest files as long as nobody needs them.
    pub fn trim(&mut self, is_needed: impl Fn(u64) -> bool) -> io::Result<()> {
        while let Some(oldest) = self.closed().first().copied() {
            if is_needed(oldest) {
                break;
            }
            self.delete(oldest)?;
        }
        Ok(())
    }

    /// Deletes all but these, wherever they stand.
    pub fn keep(&mut self, needed: &BTreeSet<u64>) -> io::Result<()> {
        let closed = self.closed().to_vec();
        closed.into_iter().filter(|n| !needed.contains(n)).try_for_each(|n| self.delete(n))
    }

    /// Those that take no more.
    fn closed(&self) -> &[u64] {
        &self.numbers[..self.numbers.len() - usize::from(self.open.is_some())]
    }

    fn delete(&mut self, number: u64) -> io::Result<()> {
        match fs::remove_file(path(&self.folder, number)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => self.numbers.retain(|n| *n != number),
        }
        Ok(())
    }

    /// Whether all of it outlasts a power cut.
    #[cfg(test)]
    pub fn is_synced(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.named && !open.grew)
    }
}

/// Reads a block of so many bytes.
pub(super) fn read(folder: &Path, spot: Spot, bytes: u64) -> Result<Vec<u8>, StoreError> {
    let path = path(folder, spot.file);
    let told = |e: io::Error| {
        let why = format!("cannot read {}: {e}", path.display());
        match Errno::from_io_error(&e) {
            // A bad sector costs the block that lies on it, and no other.
            Some(Errno::NOENT | Errno::IO | Errno::BADMSG | Errno::UCLEAN) => {
                StoreError::Damaged(why)
            }
            None if e.kind() == io::ErrorKind::UnexpectedEof => StoreError::Damaged(why),
            Some(_) | None => StoreError::Io(why),
        }
    };
    let file = File::open(&path).map_err(told)?;
    // Before anything is allocated.
    let length = file.metadata().map_err(told)?.len();
    if spot.offset.checked_add(bytes).is_none_or(|end| end > length) {
        return Err(StoreError::Damaged(format!("{} is cut short", path.display())));
    }
    let mut block = vec![0; bytes as usize];
    file.read_exact_at(&mut block, spot.offset).map_err(told)?;
    Ok(block)
}

/// Of all files in the folder.
pub(super) fn bytes_on_disk(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for number in numbers(folder)? {
        match fs::metadata(path(folder, number)) {
            Ok(file) => bytes += file.len(),
            // It went meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes)
}

const PREFIX: &str = "blocks-";

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(file_name(number))
}

fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:08}")
}

fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let number = number.and_then(|number| number.parse::<u64>().ok());
        // What somebody else put there stays.
        numbers.extend(number.filter(|n| (1..u64::MAX).contains(n) && name == *file_name(*n)));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Files {
        Files::open(folder, 10).expect("it opens")
    }

    fn spot(file: u64, offset: u64) -> Spot {
        Spot { file, offset }
    }

    #[test]
    fn blocks_come_back_from_where_they_were_put_and_a_new_start_begins_a_new_file() {
        let home = tempfile::tempdir().expect("a folder");
        let mut first = files(home.path());
        let spots: Vec<_> =
            [&b"seven b"[..], b"six by", b"x"].map(|b| first.append(b).expect("room")).into();
        assert_eq!(spots, [spot(1, 0), spot(1, 7), spot(2, 0)], "10 bytes fill a file");
        first.sync().expect("it works");
        let mut second = files(home.path());
        assert_eq!(second.append(b"y").expect("room"), spot(3, 0));
        let block = |spot, bytes| read(home.path(), spot, bytes).expect("it is there");
        assert_eq!(block(spots[0], 7), b"seven b");
        assert_eq!(block(spots[1], 6), b"six by");
        assert_eq!(bytes_on_disk(home.path()).expect("it works"), 15);
    }

    #[test]
    fn what_is_not_there_is_damage() {
        let home = tempfile::tempdir().expect("a folder");
        files(home.path()).append(b"abc").expect("room");
        for (spot, bytes) in
            [(spot(1, 0), 4), (spot(1, 3), 1), (spot(1, u64::MAX), 2), (spot(2, 0), 1)]
        {
            let read = read(home.path(), spot, bytes);
            assert!(matches!(read, Err(StoreError::Damaged(_))), "{spot:?} {read:?}");
        }
    }

    #[test]
    fn the_oldest_go_until_one_is_needed_and_the_one_that_takes_more_stays() {
        let home = tempfile::tempdir().expect("a folder");
        let mut files = files(home.path());
        for _ in 0..4 {
            files.append(&[0; 10]).expect("room");
        }
        files.trim(|number| number == 3).expect("it works");
        assert_eq!(numbers(home.path()).expect("it works").len(), 2);
        files.trim(|_| false).expect("it works");
        assert_eq!(numbers(home.path()).expect("it works"), [4]);
        assert_eq!(files.append(b"more").expect("room"), spot(5, 0));
    }

    #[test]
    fn those_that_nobody_needs_go_from_the_middle_too_and_what_is_not_ours_stays() {
        let home = tempfile::tempdir().expect("a folder");
        for other in
            ["blocks-0000000x", "blocks-7", "blocks-00000000", "blocks-18446744073709551615"]
        {
            fs::write(home.path().join(other), "not ours").expect("written");
        }
        let mut files = files(home.path());
        for _ in 0..5 {
            files.append(&[0; 10]).expect("room");
        }
        files.keep(&[2, 4].into()).expect("it works");
        let mut left = numbers(home.path()).expect("it works");
        left.sort_unstable();
        assert_eq!(left, [2, 4, 5], "the newest takes more");
        assert_eq!(fs::read_dir(home.path()).expect("a folder").count(), 3 + 4);
    }

    #[test]
    fn what_was_appended_waits_for_a_sync() {
        let home = tempfile::tempdir().expect("a folder");
        let mut files = files(home.path());
        files.append(b"abc").expect("room");
        assert!(!files.is_synced());
        files.sync().expect("it works");
        assert!(files.is_synced());
        files.append(b"def").expect("room");
        assert!(!files.is_synced());
    }
}
