//! The history: every change that clients are told of, longer than memory keeps it.
//!
//! It is derived from the log of this node and kept in blocks of consecutive changes (`block.rs`): large ones
//! in files (`files.rs`), small ones in sled, with a row for each that tells what is in it (`keys.rs`). What is kept is a list of
//! covered ranges of revisions (`coverage.rs`). **Loss is never silent**: a reader is told of every
//! change of a range, or that some are missing and why.
//!
//! # How that is kept
//!
//! - A block says itself which revisions it covers, and carries a checksum. It begins where the one
//!   before it ended, or there is a gap. A block that cannot be read whole is taken out of what is
//!   covered by the first who finds out, whatever sled said before.
//! - Blocks are passed over unread only by what their row says of the apps and latches in them. The row that
//!   says so is the one that says which revisions are covered; an index apart from it could lose an
//!   entry without anybody noticing.
//! - Only what was synced is covered: [`History::append`] only takes changes into memory,
//!   [`History::sync`] writes them. What that promised outlasts a power cut (`store.rs`, `files.rs`).
//! - What was never taken leaves a gap by itself, since the next block begins later. Its name is
//!   kept for people.
//!
//! # What goes wrong
//!
//! A folder that cannot be opened, in which sled panicked, or which could not be opened
//! [`OPENINGS_MAX`] times in a row is set aside, renamed `<folder>.damaged-<n>`, and an empty
//! history begins. Of those the newest [`SET_ASIDE_MAX`] are kept. An error while it runs turns the
//! history off until the next start: it never stops the node, whose state does not rest on it.
//!
//! # What is left out
//!
//! A damaged block is not fetched from another node. Changes of one entry that take more than
//! 64 MiB leave a gap.

mod block;
mod coverage;
mod files;
mod folder;
mod keys;
mod store;

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use sled::Batch;

use crate::events::{Change, Interest, Kind};
use crate::names::Revision;
use block::{Block, Builder, Checked};
use coverage::{Coverage, Place};
use files::Files;
use folder::Contents;
use keys::{Key, Mark, Name, Row, after, before};
use store::{Store, StoreError};

pub use folder::{OPENINGS_MAX, SET_ASIDE_MAX};

/// How much of the past is kept. Beyond either, the oldest blocks go; the newest one always stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Of all blocks, compressed. The folder takes more: sled writes pages of small ones anew and uses its
    /// file again in segments, and a file of large ones goes when all of them may go.
    pub bytes_max: u64,
    /// By the wall time of the changes, in milliseconds.
    pub age_max_ms: u64,
}

/// How changes are packed. Only tests choose other sizes than the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// A block is closed before it would take more, uncompressed.
    pub block_bytes: usize,
    /// A block that is smaller than this after a sync is written again with what comes next, so
    /// that a slow trickle does not leave a block per change. It stays in sled; larger ones go to files.
    pub growing_bytes: usize,
    /// The largest value in sled.
    pub value_bytes: usize,
    /// sled's. A page holds 17 values and must stay below a quarter of it.
    pub segment_bytes: usize,
    /// A file takes no more blocks once it is as large.
    pub file_bytes: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            block_bytes: 256 * 1024,
            growing_bytes: 32 * 1024,
            // 32 KiB in segments of 4 MiB cost the same CPU time and half as much more disk.
            value_bytes: 7 * 1024,
            segment_bytes: 512 * 1024,
            file_bytes: 4 * 1024 * 1024,
        }
    }
}

/// Blocks whose bytes one call of a reader may look at, so that it comes back now and then when
/// nothing interests it.
const BLOCKS_PER_READ_MAX: usize = 32;

/// Blocks that one sync removes at most; the next one goes on.
const TRIM_BLOCKS_MAX: usize = 256;

/// Keys that are removed at once.
const TRIM_KEYS_MAX: usize = 4_096;

/// The newest blocks are checked when it is opened: what is written next goes on from them.
const CHECKED_AT_OPEN: usize = 16;

/// Decoded blocks that are kept, for those who read on in the same ones.
const DECODED_MAX: usize = 4;

/// Messages for the log that wait to be taken. More are dropped.
const NOTES_MAX: usize = 64;

/// Why revisions are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The history could not keep up, and memory had forgotten them.
    Overflow,
    /// The state jumped to a leader's checkpoint.
    CheckpointInstalled,
    /// They were written and cannot be read any more.
    Damaged,
    /// The history was turned off by an error, or was not running.
    Failed,
    /// One entry's changes were too large to keep.
    TooLarge,
    /// Older than what is kept.
    NotKept,
    /// Newer than what was written so far.
    NotYet,
}

impl GapReason {
    pub const ALL: [Self; 7] = [
        Self::Overflow,
        Self::CheckpointInstalled,
        Self::Damaged,
        Self::Failed,
        Self::TooLarge,
        Self::NotKept,
        Self::NotYet,
    ];

    /// In words for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Overflow => "the history could not keep up",
            Self::CheckpointInstalled => "a checkpoint was installed",
            Self::Damaged => "damaged on disk",
            Self::Failed => "the history was not running",
            Self::TooLarge => "too large to keep",
            Self::NotKept => "older than what is kept",
            Self::NotYet => "not written yet",
        }
    }
}

/// The changes after `after` up to `upto` are not all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the changes after revision {after} up to {upto} are missing: {}", reason.words())]
pub struct Gap {
    pub after: Revision,
    pub upto: Revision,
    pub reason: GapReason,
}

/// Why there is no history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Somebody else holds the folder, or has not let go of it yet. Worth another try.
    #[error("the history in {} is in use: {why}", folder.display())]
    Busy { folder: PathBuf, why: String },
    #[error(
        "the history in {} is off until the next start: {why}. The registry goes on without it; \
         changes of this time will be missing in the history of this node", folder.display()
    )]
    Failed { folder: PathBuf, why: String },
}

/// Changes of the past, oldest first, and up to which revision they tell everything.
pub type After = Result<(Vec<Arc<Change>>, Revision), Gap>;

/// Changes of the past, newest first, and down to which revision (exclusive) they tell everything.
pub type Before = Result<(Vec<Arc<Change>>, Revision), Gap>;

/// The history of one node. One thread appends and syncs, any number read meanwhile.
pub struct History {
    folder: PathBuf,
    limits: HistoryLimits,
    sizes: Sizes,
    /// `None` only while it is dropped.
    store: Option<Store>,
    /// Of large blocks. Taken while `pending` is held, by the one who writes.
    files: Mutex<Files>,
    /// What waits for the next sync. Held while that writes; readers only take it when they found
    /// something wrong. Taken before `state`.
    pending: Mutex<Pending>,
    state: RwLock<State>,
    decoded: Mutex<VecDeque<Decoded>>,
    notes: Mutex<Vec<String>>,
}

/// What readers go by.
#[derive(Debug, Default)]
struct State {
    coverage: Coverage,
    failed: Option<HistoryError>,
}

/// What is not on the disk yet.
#[derive(Debug, Default)]
struct Pending {
    closed: Vec<Block>,
    /// The block that takes the next change. `None` before the first.
    filling: Option<Builder>,
    /// There is more in it than was synced.
    filling_grew: bool,
    /// Gaps that were named.
    names: Vec<(Revision, Name)>,
    /// The first revisions of blocks that cannot be read any more.
    lost: Vec<Revision>,
    /// Files that nobody needed when it was opened are gone.
    swept: bool,
    /// One change's encoding.
    scratch: Vec<u8>,
}

/// A block that somebody read a moment ago.
struct Decoded {
    from: Revision,
    upto: Revision,
    changes: Arc<[Arc<Change>]>,
}

impl History {
    /// Opens the history in this folder, or begins one. May take long. A folder that is damaged is
    /// set aside, as is told by [`Self::take_notes`].
    pub fn open(folder: &Path, limits: HistoryLimits) -> Result<Self, HistoryError> {
        Self::open_with(folder, limits, Sizes::default())
    }

    /// The same with other sizes, which must be those that the folder was made with.
    pub fn open_with(
        folder: &Path,
        limits: HistoryLimits,
        sizes: Sizes,
    ) -> Result<Self, HistoryError> {
        match Self::opened(folder, limits, sizes) {
            // The damage was found by reading: now the folder is set aside.
            Err(HistoryError::Failed { .. }) if folder::is_marked_broken(folder) => {
                Self::opened(folder, limits, sizes)
            }
            opened => opened,
        }
    }

    fn opened(folder: &Path, limits: HistoryLimits, sizes: Sizes) -> Result<Self, HistoryError> {
        let mut notes = Vec::new();
        let Contents { store, files, rows, names, lost } = folder::open(folder, sizes, &mut notes)?;
        let mut pending = Pending { lost, ..Pending::default() };
        let mut coverage = Coverage::default();
        for row in rows {
            if let Err(row) = coverage.insert(row) {
                let (from, folder) = (row.from, folder.display());
                notes.push(format!(
                    "the history in {folder} has two blocks with changes after revision {from}: \
                     one is left out"
                ));
                pending.lost.push(row.first());
            }
        }
        names.into_iter().for_each(|(first, name)| coverage.name(first, name));
        let history = Self {
            folder: folder.to_owned(),
            limits,
            sizes,
            store: Some(store),
            files: Mutex::new(files),
            pending: Mutex::new(pending),
            state: RwLock::new(State { coverage, failed: None }),
            decoded: Mutex::default(),
            notes: Mutex::new(notes),
        };
        history.check_newest();
        history.working()?;
        let end = history.newest();
        history.pending.lock().filling = end.map(Builder::starting_after);
        Ok(history)
    }

    /// What was lost at the end is found here, so that it can be written again while memory has it.
    fn check_newest(&self) {
        let rows: Vec<_> =
            self.state.read().coverage.rows().rev().take(CHECKED_AT_OPEN).cloned().collect();
        for row in rows {
            // What is lost is noted, and every reader is told.
            let _ = self.changes(&row);
        }
    }

    // Writing.

    /// The newest revision that was appended, synced or not; `None` before the first.
    pub fn appended(&self) -> Option<Revision> {
        self.pending.lock().filling.as_ref().map(Builder::upto)
    }

    /// Takes changes into memory: all that there were after `from` up to `upto`. Those that it has
    /// already are passed over. If it has not all up to `from`, that is a gap, as if the changes
    /// between had overflowed.
    pub fn append(&self, from: Revision, upto: Revision, changes: &[Arc<Change>]) {
        self.note_gap(from, GapReason::Overflow);
        let mut pending = self.pending.lock();
        let Pending { closed, filling, filling_grew, names, scratch, .. } = &mut *pending;
        let filling = filling.get_or_insert_with(|| Builder::starting_after(from));
        for change in changes.iter().filter(|change| change.told().next().is_some()) {
            let revision = change.at.revision;
            if revision <= filling.upto() {
                continue;
            }
            scratch.clear();
            if block::encode(change, scratch).is_none() {
                filling.pass(before(revision).unwrap_or_default());
                close(filling, closed, revision, self.sizes);
                names.push((revision, Name { upto: revision, reason: GapReason::TooLarge }));
                self.note(format!(
                    "the changes of revision {revision} take more than {} MiB; the history leaves \
                     them out",
                    block::CHANGE_BYTES_MAX >> 20
                ));
                continue;
            }
            if filling.raw_bytes() + scratch.len() > self.sizes.block_bytes
                && filling.raw_bytes() > 0
            {
                let end = filling.upto();
                close(filling, closed, end, self.sizes);
            }
            filling.push(change, scratch);
            *filling_grew = true;
        }
        if upto > filling.upto() {
            filling.pass(upto);
            *filling_grew = true;
        }
    }

    /// Gives the revisions up to `upto` that were not appended a name: they are missing, for this
    /// reason. Nothing is missing before the first change of a new history.
    pub fn note_gap(&self, upto: Revision, reason: GapReason) {
        let mut pending = self.pending.lock();
        let Pending { closed, filling: Some(filling), filling_grew, names, .. } = &mut *pending
        else {
            return;
        };
        let end = filling.upto();
        if upto <= end {
            return;
        }
        close(filling, closed, upto, self.sizes);
        *filling_grew = false;
        let name = Name { upto, reason };
        names.push((after(end), name));
        // Readers know at once: it may be long until something follows that is written with it.
        self.state.write().coverage.name(after(end), name);
        let gap = Gap { after: end, upto, reason };
        self.note(format!("the history has a gap: {gap}"));
    }

    /// About how many bytes the next sync will write.
    pub fn pending_bytes(&self) -> usize {
        let pending = self.pending.lock();
        let closed: u64 = pending.closed.iter().map(|block| block.row.bytes).sum();
        let filling = pending.filling.as_ref().filter(|_| pending.filling_grew);
        closed as usize + filling.map_or(0, Builder::raw_bytes)
    }

    /// Writes all that was appended. When this returns, it outlasts a power cut. Removes the oldest
    /// blocks that are beyond the limits; `now_ms` is the wall time.
    pub fn sync(&self, now_ms: u64) -> Result<(), HistoryError> {
        let mut pending = self.pending.lock();
        self.working()?;
        let mut blocks = std::mem::take(&mut pending.closed);
        if pending.filling_grew {
            let filling = pending.filling.as_ref().filter(|filling| !filling.is_empty());
            blocks.extend(filling.map(|filling| filling.finish(&self.sizes)));
        }
        let removed = self.beyond_limits(&blocks, now_ms);
        if blocks.is_empty() && removed.is_empty() && pending.lost.is_empty() {
            return Ok(());
        }
        let written = self.write(&pending, &mut blocks, &removed);
        let forgotten = written.map_err(|e| self.fail(e))?;
        self.publish(&pending.names, blocks, &removed, &forgotten);
        // A crash leaves files that no row leads to, and so does a row that is lost.
        let anywhere = !pending.swept || !pending.lost.is_empty();
        self.trim_files(anywhere).map_err(|e| self.fail(e))?;
        pending.swept = true;
        pending.names.clear();
        pending.lost.clear();
        pending.filling_grew = false;
        if let Some(filling) = &mut pending.filling
            && filling.raw_bytes() >= self.sizes.growing_bytes
        {
            filling.start_after(filling.upto());
        }
        Ok(())
    }

    /// Whether a sync would remove something, though nothing was appended.
    pub fn has_outlived(&self, now_ms: u64) -> bool {
        !self.beyond_limits(&[], now_ms).is_empty()
    }

    /// The oldest rows that must go when these blocks come.
    fn beyond_limits(&self, coming: &[Block], now_ms: u64) -> Vec<Arc<Row>> {
        let coverage = &self.state.read().coverage;
        let born_after = now_ms.saturating_sub(self.limits.age_max_ms);
        let coming_from = coming.first().map(|block| block.row.from);
        // The first that comes may be a later version of the newest that is there.
        let stays = coming_from.or(coverage.rows().next_back().map(|row| row.from));
        let mut bytes = coverage.bytes() + coming.iter().map(|block| block.row.bytes).sum::<u64>();
        let oldest = coverage.rows().take_while(|row| Some(row.from) != stays);
        let goes = oldest.take_while(|row| {
            let goes = bytes > self.limits.bytes_max || row.newest_ms < born_after;
            bytes -= if goes { row.bytes } else { 0 };
            goes
        });
        goes.take(TRIM_BLOCKS_MAX).cloned().collect()
    }

    /// Writes all of it: large blocks into files, and then in one batch what leads to them and all else; see
    /// `store.rs`. Returns the names of gaps that went.
    fn write(
        &self,
        pending: &Pending,
        blocks: &mut [Block],
        removed: &[Arc<Row>],
    ) -> Result<Vec<Revision>, StoreError> {
        self.put_into_files(blocks)?;
        let mut batch = Batch::default();
        for first in &pending.lost {
            self.remove(&mut batch, *first..=*first)?;
            batch.remove(Key::Row { first: *first }.bytes());
        }
        let mut forgotten = Vec::new();
        if let Some(last) = removed.last() {
            // Whatever lies before goes, also what no row told of.
            self.remove(&mut batch, Revision(0)..=last.first())?;
            removed.iter().for_each(|row| batch.remove(row.key()));
            forgotten = self.state.read().coverage.names_before(last.upto);
        }
        for first in &forgotten {
            batch.remove(Key::Name { first: *first }.bytes());
        }
        for (first, name) in &pending.names {
            let key = Key::Name { first: *first }.bytes();
            let value = name.value(&key);
            batch.insert(key, value);
        }
        for block in blocks {
            self.insert(&mut batch, block);
        }
        self.store()?.write(batch)?;
        Ok(forgotten)
    }

    /// Large blocks know afterwards where they lie.
    fn put_into_files(&self, blocks: &mut [Block]) -> Result<(), StoreError> {
        let mut files = self.files.lock();
        let failed = |e| StoreError::Io(format!("cannot write a block: {e}"));
        for block in blocks.iter_mut().filter(|block| block.is_large()) {
            block.row.spot = Some(files.append(block.bytes()).map_err(failed)?);
        }
        files.sync().map_err(failed)
    }

    /// Deletes files that no block of those covered lies in: the oldest, or `anywhere`.
    fn trim_files(&self, anywhere: bool) -> Result<(), StoreError> {
        let file = |row: &Arc<Row>| row.spot.map(|spot| spot.file);
        let trimmed = if anywhere {
            let needed = self.state.read().coverage.rows().filter_map(file).collect();
            self.files.lock().keep(&needed)
        } else {
            let is_in = |n| self.state.read().coverage.rows().any(|row| file(row) == Some(n));
            self.files.lock().trim(is_in)
        };
        trimmed.map_err(|e| StoreError::Io(format!("cannot delete a file of blocks: {e}")))
    }

    fn insert(&self, batch: &mut Batch, block: &Block) {
        let row = &block.row;
        let earlier = self.state.read().coverage.at(row.from).map_or(0, |earlier| earlier.parts);
        for part in row.parts..earlier {
            batch.remove(Key::Part { first: row.first(), part }.bytes());
        }
        for (key, value) in block.parts() {
            batch.insert(key, value);
        }
        batch.insert(row.key(), row.value());
    }

    /// Removes the parts of all blocks that begin there.
    fn remove(
        &self,
        batch: &mut Batch,
        first: std::ops::RangeInclusive<Revision>,
    ) -> Result<(), StoreError> {
        let keys = self.store()?.keys(Key::parts(first), TRIM_KEYS_MAX)?;
        keys.into_iter().for_each(|key| batch.remove(key));
        Ok(())
    }

    /// Shows readers what is on the disk now.
    fn publish(
        &self,
        names: &[(Revision, Name)],
        blocks: Vec<Block>,
        removed: &[Arc<Row>],
        forgotten: &[Revision],
    ) {
        let coverage = &mut self.state.write().coverage;
        for row in removed {
            coverage.remove(row.from);
        }
        coverage.forget_names(forgotten);
        names.iter().for_each(|(first, name)| coverage.name(*first, *name));
        for block in blocks {
            if let Err(row) = coverage.insert(block.row) {
                self.note(format!(
                    "a block of the history after revision {} does not fit",
                    row.from
                ));
            }
        }
    }

    // Reading.

    /// The newest revision that is covered.
    pub fn newest(&self) -> Option<Revision> {
        self.state.read().coverage.end()
    }

    /// The ranges that are covered and synced, oldest first: first and last revision of each. None
    /// once it is turned off: nothing of them can be read.
    pub fn covered(&self) -> Vec<(Revision, Revision)> {
        let state = self.state.read();
        match state.failed {
            Some(_) => Vec::new(),
            None => state.coverage.ranges(),
        }
    }

    /// Whether it has all after `after` up to `upto`, or takes it up now. May wait for the disk.
    pub fn leads(&self, after: Revision, upto: Revision) -> bool {
        let covered = self.covered();
        let end = covered.last().map(|range| range.1);
        let Some(range) = covered.iter().find(|range| range.0.0 <= after.0 + 1 && after <= range.1)
        else {
            // After what was synced, and within what waits for it.
            return end.is_some_and(|end| after > end)
                && self.appended() >= Some(after)
                && self.goes_on(after);
        };
        range.1 >= upto || (end == Some(range.1) && self.goes_on(range.1))
    }

    /// Whether what follows a revision, of which nothing is there, may still come.
    fn goes_on(&self, revision: Revision) -> bool {
        matches!(self.following(revision), Place::End)
    }

    /// What is missing between the covered ranges.
    pub fn gaps(&self) -> Vec<Gap> {
        self.state.read().coverage.gaps()
    }

    /// Changes after a revision that touch the interest, oldest first, and up to which revision
    /// that is all. About `count` at most; there may be more to come even if there were none. An
    /// error if what comes right after the revision is missing.
    pub fn after(&self, revision: Revision, interest: &Interest, count: usize) -> After {
        let marks = marks(interest);
        let (mut told, mut upto) = (Vec::new(), revision);
        let mut looked_at = 0;
        while told.len() < count.max(1) && looked_at < BLOCKS_PER_READ_MAX {
            let row = match self.following(upto) {
                Place::Covered(row) => row,
                Place::End => break,
                Place::Missing(_) if upto > revision => break,
                Place::Missing(gap) => return Err(gap),
            };
            if may_touch(&marks, &row) {
                looked_at += 1;
                let changes = match self.changes(&row) {
                    Ok(changes) => changes,
                    Err(_) if upto > revision => break,
                    Err(gap) => return Err(Gap { after: upto, ..gap }),
                };
                let newer = changes.iter().filter(|change| change.at.revision > upto);
                let mut wanted = newer.filter(|change| interest.touched_by(change));
                let room = count.max(1) - told.len();
                told.extend(wanted.by_ref().take(room).cloned());
                if wanted.next().is_some() {
                    upto = told.last().map_or(upto, |last| last.at.revision);
                    return Ok((told, upto));
                }
            }
            upto = row.upto;
        }
        Ok((told, upto))
    }

    /// Changes before a revision (exclusive) that touch the interest, newest first, and down to
    /// which revision (exclusive) that is all; 0 is the end. About `count` at most; there may be
    /// more to come even if there were none. An error if what comes right before the revision is
    /// missing.
    pub fn before(&self, revision: Revision, interest: &Interest, count: usize) -> Before {
        let marks = marks(interest);
        let start = before(revision).unwrap_or_default();
        let (mut told, mut downto) = (Vec::new(), start);
        let mut looked_at = 0;
        while told.len() < count.max(1) && looked_at < BLOCKS_PER_READ_MAX && downto > Revision(0) {
            let row = match self.leading_to(downto) {
                Place::Covered(row) => row,
                Place::End => break,
                Place::Missing(_) if downto < start => break,
                Place::Missing(gap) => return Err(gap),
            };
            if may_touch(&marks, &row) {
                looked_at += 1;
                let changes = match self.changes(&row) {
                    Ok(changes) => changes,
                    Err(_) if downto < start => break,
                    Err(gap) => return Err(Gap { upto: downto, ..gap }),
                };
                let older = changes.iter().rev().filter(|change| change.at.revision <= downto);
                let mut wanted = older.filter(|change| interest.touched_by(change));
                let room = count.max(1) - told.len();
                told.extend(wanted.by_ref().take(room).cloned());
                if wanted.next().is_some() {
                    let last = told.last().and_then(|last| before(last.at.revision));
                    return Ok((told, last.unwrap_or(downto)));
                }
            }
            downto = row.from;
        }
        Ok((told, downto))
    }

    /// The last revision that was told before a wall time, in milliseconds since 1970; `None` if
    /// none of those kept was. Wall clocks may have gone back: what was told later is later by
    /// revision, whatever its time.
    pub fn revision_at(&self, wall_ms: u64) -> Option<Revision> {
        let rows: Vec<_> = {
            let state = self.state.read();
            let rows = state.coverage.rows().rev();
            rows.filter(|row| !row.marks.is_empty() && row.oldest_ms < wall_ms).cloned().collect()
        };
        rows.iter().find_map(|row| {
            let changes = self.changes(row).ok()?;
            let earlier = changes.iter().rev().find(|change| change.at.stamp.wall_ms < wall_ms);
            earlier.map(|change| change.at.revision)
        })
    }

    /// Checks up to `count` blocks after a revision, whether they can be read whole. Returns where
    /// to go on; `None` if those were the last.
    pub fn check(&self, revision: Revision, count: usize) -> Option<Revision> {
        let rows: Vec<_> = {
            let state = self.state.read();
            let rows = state.coverage.rows().filter(|row| row.from >= revision);
            rows.take(count).cloned().collect()
        };
        for row in &rows {
            if self.load(row, |_| Ok(())).is_err() {
                // What is lost is noted, and every reader is told.
                let _ = self.look_again(row);
            }
        }
        rows.last().map(|row| row.upto)
    }

    /// Of all its files, in bytes.
    pub fn bytes_on_disk(&self) -> Result<u64, HistoryError> {
        self.working()?;
        // Nothing is wrong with what it holds if its files cannot be counted.
        let in_files = files::bytes_on_disk(&self.folder).map_err(|e| HistoryError::Failed {
            folder: self.folder.clone(),
            why: format!("cannot count its files: {e}"),
        })?;
        let in_sled = self.store().and_then(Store::bytes_on_disk).map_err(|e| self.fail(e))?;
        Ok(in_sled + in_files)
    }

    /// Of all blocks, in bytes.
    pub fn bytes_kept(&self) -> u64 {
        self.state.read().coverage.bytes()
    }

    /// Messages for the log that came up since the last call.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock())
    }

    /// The changes of a block, oldest first. One that cannot be read whole is a gap from now on.
    fn changes(&self, row: &Arc<Row>) -> Result<Arc<[Arc<Change>]>, Gap> {
        if let Some(changes) = self.decoded(row) {
            return Ok(changes);
        }
        let changes = match self.load(row, |block| block.changes()) {
            Ok(changes) => changes,
            Err(_) => self.look_again(row)?,
        };
        let changes: Arc<[_]> = changes.into();
        let mut decoded = self.decoded.lock();
        decoded.truncate(DECODED_MAX - 1);
        let (from, upto) = (row.from, row.upto);
        decoded.push_front(Decoded { from, upto, changes: changes.clone() });
        Ok(changes)
    }

    fn decoded(&self, row: &Row) -> Option<Arc<[Arc<Change>]>> {
        let decoded = self.decoded.lock();
        let found = decoded.iter().find(|d| (d.from, d.upto) == (row.from, row.upto));
        found.map(|decoded| decoded.changes.clone())
    }

    /// Reads a block that could not be read, now that nothing is being written: it may have been
    /// removed or written again meanwhile. If it cannot be read now either, it is a gap from now on.
    fn look_again(&self, row: &Row) -> Result<Vec<Arc<Change>>, Gap> {
        let mut pending = self.pending.lock();
        let current = {
            let state = self.state.read();
            let gap = state.gap(row.from, row.upto);
            state.coverage.at(row.from).cloned().filter(|r| r.upto >= row.upto).ok_or(gap)?
        };
        match self.load(&current, |block| block.changes()) {
            Ok(mut changes) => {
                changes.retain(|change| change.at.revision <= row.upto);
                Ok(changes)
            }
            Err(why) => Err(self.lose(&mut pending, &current, &why)),
        }
    }

    fn lose(&self, pending: &mut Pending, row: &Row, why: &str) -> Gap {
        let mut state = self.state.write();
        let name = Name { upto: row.upto, reason: GapReason::Damaged };
        state.coverage.remove(row.from);
        state.coverage.name(row.first(), name);
        let gap = state.gap(row.from, row.upto);
        if state.failed.is_none() {
            pending.lost.push(row.first());
            pending.names.push((row.first(), name));
            let folder = self.folder.display();
            self.note(format!("the history in {folder} is damaged: {gap}; {why}"));
        }
        gap
    }

    /// Reads a block's bytes and checks them. `Err` says what is wrong.
    fn load<T>(
        &self,
        row: &Row,
        read: impl FnOnce(&Checked<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let bytes = self.bytes(row).map_err(|e| match e {
            StoreError::Damaged(why) => why,
            StoreError::Busy(_) | StoreError::Panicked(_) | StoreError::Io(_) => {
                self.fail(e).to_string()
            }
        })?;
        block::check(row, &bytes).and_then(|block| read(&block))
    }

    fn bytes(&self, row: &Row) -> Result<Vec<u8>, StoreError> {
        if let Some(spot) = row.spot {
            // What was turned off is not read any more.
            self.store()?;
            return files::read(&self.folder, spot, row.bytes);
        }
        let mut bytes = Vec::new();
        for part in 0..row.parts {
            let key = Key::Part { first: row.first(), part }.bytes();
            let missing = || StoreError::Damaged(format!("part {part} of it is missing"));
            bytes.extend_from_slice(&self.store()?.get(&key)?.ok_or_else(missing)?);
        }
        Ok(bytes)
    }

    // Failing.

    /// `Err` if it was turned off.
    pub fn working(&self) -> Result<(), HistoryError> {
        match &self.state.read().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn store(&self) -> Result<&Store, StoreError> {
        match (&self.store, &self.state.read().failed) {
            (Some(store), None) => Ok(store),
            (_, Some(error)) => Err(StoreError::Io(error.to_string())),
            (None, None) => Err(StoreError::Io("it is closed".into())),
        }
    }

    /// Turns the history off. Only the first error counts.
    fn fail(&self, error: StoreError) -> HistoryError {
        let mut state = self.state.write();
        if let Some(earlier) = &state.failed {
            return earlier.clone();
        }
        let mut why = error.to_string();
        if folder::is_damage(&error) {
            why += "; the next start sets the folder aside";
            if let Err(e) = folder::mark_broken(&self.folder, &error.to_string()) {
                why += &format!(", though that could not be written down: {e}");
            }
        }
        let error = HistoryError::Failed { folder: self.folder.clone(), why };
        self.note(error.to_string());
        state.failed = Some(error.clone());
        error
    }

    fn following(&self, revision: Revision) -> Place {
        let state = self.state.read();
        match state.failed {
            Some(_) => Place::Missing(state.gap(revision, Revision(u64::MAX))),
            None => state.coverage.following(revision),
        }
    }

    fn leading_to(&self, revision: Revision) -> Place {
        let state = self.state.read();
        match state.failed {
            Some(_) => Place::Missing(state.gap(Revision(0), revision)),
            None => state.coverage.leading_to(revision),
        }
    }

    fn note(&self, note: String) {
        let mut notes = self.notes.lock();
        if notes.len() < NOTES_MAX {
            notes.push(note);
        }
    }
}

impl State {
    fn gap(&self, after: Revision, upto: Revision) -> Gap {
        match self.failed {
            Some(_) => Gap { after, upto, reason: GapReason::Failed },
            None => self.coverage.gap(after, upto),
        }
    }
}

impl Drop for History {
    /// What was not synced is lost. sled is left as it is after an error: it might wait for ever.
    fn drop(&mut self) {
        if self.state.get_mut().failed.is_none()
            && let Some(store) = self.store.take()
        {
            // There is nobody to tell; the next start looks at what is there.
            let _ = store.close();
        }
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("folder", &self.folder)
            .field("covered", &self.covered())
            .finish_non_exhaustive()
    }
}

/// Ends the block that is being filled; the next one begins after `next`.
fn close(filling: &mut Builder, closed: &mut Vec<Block>, next: Revision, sizes: Sizes) {
    if !filling.is_empty() {
        closed.push(filling.finish(&sizes));
    }
    filling.start_after(next);
}

/// The marks of all that somebody is interested in; `None`: every block may hold some of it.
fn marks(interest: &Interest) -> Option<Vec<Mark>> {
    let Interest { apps, kinds, latches, id: _, session: _, claim: _ } = interest;
    let of_apps = kinds.has_any_of_apps();
    let of_latches = kinds.has(Kind::Latch);
    let mut marks = Vec::new();
    if of_apps {
        marks.extend(apps.as_ref()?.iter().map(Mark::of));
    }
    if of_latches {
        marks.extend(latches.as_ref()?.iter().map(Mark::of_latch));
    }
    Some(marks)
}

fn may_touch(marks: &Option<Vec<Mark>>, row: &Row) -> bool {
    marks.as_ref().is_none_or(|marks| marks.iter().any(|m| row.marks.binary_search(m).is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::At;
    use crate::command::{AppPolicy, Stamp};
    use crate::events::Event;
    use crate::names::AppName;

    /// Rows lead to what outlasts a power cut: no file system tells a test what it would have lost.
    #[test]
    fn a_sync_leaves_no_file_unsynced() {
        let home = tempfile::tempdir().expect("a folder");
        let limits = HistoryLimits { bytes_max: u64::MAX, age_max_ms: u64::MAX };
        let sizes = Sizes { growing_bytes: 1, ..Sizes::default() };
        let history =
            History::open_with(&home.path().join("history"), limits, sizes).expect("it opens");
        for revision in 1..4 {
            let at = At { revision: Revision(revision), term: 1, stamp: Stamp::default() };
            let app = AppName::new("pay").expect("a name");
            let put = Event::AppPut { app, policy: AppPolicy::default(), created: true };
            let change = Arc::new(Change::new(at, vec![put]));
            history.append(Revision(revision - 1), Revision(revision), &[change]);
            history.sync(0).expect("it works");
            assert!(history.files.lock().is_synced());
        }
        assert!(files::bytes_on_disk(&history.folder).expect("it works") > 0);
    }
}
