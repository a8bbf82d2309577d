//! Damage to files and disks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// The files under a folder, in the order of their names.
pub fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Turns one bit around in the byte at `offset`.
pub fn flip_a_bit(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    bytes[offset] ^= 0x10;
    fs::write(file, bytes).expect("it is written");
}

/// Free bytes for this user on the filesystem of `path`.
pub fn free_bytes(path: &Path) -> u64 {
    let fs = statvfs(path).expect("the filesystem's state");
    fs.f_bavail * fs.f_frsize
}

/// A file that takes room until it is dropped.
pub struct Filler(PathBuf);

impl Filler {
    pub fn new(path: PathBuf, bytes: u64) -> io::Result<Self> {
        let file: File = OpenOptions::new().create_new(true).write(true).open(&path)?;
        let filler = Self(path);
        fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        Ok(filler)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            eprintln!("{} is left behind: {e}", self.0.display());
        }
    }
}
