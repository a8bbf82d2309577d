//! The log after crashes and damage: what was acknowledged is there, or the node does not start.

use std::fs;
use std::path::{Path, PathBuf};

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use roster_storage::command::{Command, EncodedCommand, OpenSession, Proposal, Stamp};
use roster_storage::disk::{DiskError, LogOptions, LogStore, Repair};
use roster_storage::raft_types::{Entry, EntryPayload, LogId, TypeConfig, Vote};
use tempfile::TempDir;

/// Chunks of a few entries, so that tests have several.
const SMALL: LogOptions = LogOptions { chunk_bytes: 4096, cache_bytes: 1024 };

fn id(index: u64) -> LogId {
    LogId::new_term_index(1, index)
}

/// An entry whose command has a text without zeros.
fn entry(index: u64, text_bytes: usize) -> Entry {
    let name = "x".repeat(text_bytes).into();
    let command = Command::OpenSession(OpenSession { ttl_ms: None, name, request: None });
    let command = EncodedCommand::new(&command).expect("it is small");
    let stamp = Stamp { cluster_ms: index, wall_ms: 2 * index };
    Entry { log_id: id(index), payload: EntryPayload::Normal(Proposal { stamp, command }) }
}

fn open(folder: &Path, options: LogOptions) -> Result<(LogStore, Vec<Repair>), DiskError> {
    LogStore::open(folder, options)
}

async fn append(
    log: &mut LogStore,
    entries: impl IntoIterator<Item = Entry, IntoIter: Send> + Send,
) {
    let (sender, written) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await.expect("it is appended");
    written.await.expect("an answer").expect("it is durable");
}

/// A log of its own with entries 0 to `last`, each acknowledged, closed again.
async fn written(last: u64, options: LogOptions) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut log, _) = open(folder.path(), options).expect("it opens");
    log.save_vote(&Vote::new(1, 7)).await.expect("it is saved");
    for index in 0..=last {
        append(&mut log, [entry(index, 100)]).await;
    }
    folder
}

async fn last_index(log: &mut LogStore) -> Option<u64> {
    log.get_log_state().await.expect("a state").last_log_id.map(|id| id.index)
}

fn chunks(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "wal"));
    paths.sort();
    paths
}

fn newest(folder: &Path) -> PathBuf {
    chunks(folder).pop().expect("a chunk")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 0x04;
    fs::write(path, bytes).expect("it is written");
}

/// Appends to a file what a write would have left that was never acknowledged.
fn leave(path: &Path, tail: &[u8]) -> u64 {
    let mut bytes = fs::read(path).expect("a file");
    let before = bytes.len() as u64;
    bytes.extend_from_slice(tail);
    fs::write(path, bytes).expect("it is written");
    before
}

#[tokio::test]
async fn what_was_forgotten_in_memory_is_read_from_the_disk() {
    let folder = TempDir::new().expect("a folder");
    let options = LogOptions { cache_bytes: 1 << 20, ..SMALL };
    let (mut log, _) = open(folder.path(), options).expect("it opens");
    append(&mut log, (0..=200).map(|index| entry(index, 100)).collect::<Vec<_>>()).await;
    log.wait_until_written().expect("it is written");
    log.forget_cached();
    let all = log.try_get_log_entries(0..=200).await.expect("they can be read");
    assert_eq!(all, (0..=200).map(|index| entry(index, 100)).collect::<Vec<_>>());
}

/// The bytes of entries as the log writes them.
async fn encoded(indexes: std::ops::RangeInclusive<u64>, text_bytes: usize) -> Vec<u8> {
    let folder = written(indexes.start() - 1, LogOptions::default()).await;
    let before = fs::read(newest(folder.path())).expect("a file").len();
    let (mut log, _) = open(folder.path(), LogOptions::default()).expect("it opens");
    append(&mut log, indexes.map(|index| entry(index, text_bytes)).collect::<Vec<_>>()).await;
    drop(log);
    fs::read(newest(folder.path())).expect("a file").split_off(before)
}

/// Opens a log with a torn tail behind entry 10: nothing that was acknowledged is lost, the tail is
/// kept, and the log goes on.
async fn assert_repaired(folder: &TempDir, cut_at: u64, tail: &[u8]) {
    let (mut log, repairs) = open(folder.path(), LogOptions::default()).expect("it opens");
    let [repair] = &repairs[..] else { panic!("{repairs:?}") };
    assert_eq!(repair.offset, cut_at);
    assert_eq!(repair.bytes, tail.len() as u64);
    assert_eq!(fs::read(&repair.saved_as).expect("it is there"), tail);
    assert_eq!(last_index(&mut log).await, Some(10));
    append(&mut log, [entry(11, 50)]).await;
    drop(log);
    let (mut log, repairs) = open(folder.path(), LogOptions::default()).expect("it opens again");
    assert!(repairs.is_empty(), "{repairs:?}");
    let all = log.try_get_log_entries(0..=11).await.expect("they can be read");
    let expected: Vec<_> = (0..=10).map(|i| entry(i, 100)).chain([entry(11, 50)]).collect();
    assert_eq!(all, expected);
}

fn assert_refused(folder: &Path) -> DiskError {
    let before = chunks(folder);
    let error = open(folder, LogOptions::default()).err().expect("it must not open");
    assert!(error.to_string().contains("let the node join again"), "{error}");
    assert_eq!(chunks(folder), before, "nothing was changed");
    error
}

#[tokio::test]
async fn entries_vote_and_committed_pointer_are_there_after_a_restart() {
    let folder = written(10, LogOptions::default()).await;
    {
        let (mut log, _) = open(folder.path(), LogOptions::default()).expect("it opens");
        log.save_committed(Some(id(9))).await.expect("it is saved");
    }
    let (mut log, _) = open(folder.path(), LogOptions::default()).expect("it opens");
    assert_eq!(log.read_vote().await.expect("a vote"), Some(Vote::new(1, 7)));
    assert_eq!(log.read_committed().await.expect("a pointer"), Some(id(9)));
    let all = log.try_get_log_entries(..).await.expect("they can be read");
    assert_eq!(all, (0..=10).map(|i| entry(i, 100)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_committed_pointer_behind_the_log_is_not_needed() {
    let folder = written(3, LogOptions::default()).await;
    let (mut log, _) = open(folder.path(), LogOptions::default()).expect("it opens");
    log.save_committed(Some(id(8))).await.expect("it is let go");
    assert_eq!(log.read_committed().await.expect("none"), None);
}

#[tokio::test]
async fn a_read_for_replication_is_bounded_by_bytes_but_never_empty() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut log, _) = open(folder.path(), LogOptions::default()).expect("it opens");
    append(&mut log, (0..8).map(|i| entry(i, 250_000)).collect::<Vec<_>>()).await;
    let some = log.limited_get_log_entries(0, 8).await.expect("they can be read");
    assert_eq!(some.len(), 4);
    assert_eq!(log.limited_get_log_entries(7, 8).await.expect("one").len(), 1);
}

#[tokio::test]
async fn a_purge_unlinks_the_chunks_it_frees() {
    let folder = written(100, SMALL).await;
    let before = chunks(folder.path()).len();
    assert!(before > 4, "{before}");
    let (mut log, _) = open(folder.path(), SMALL).expect("it opens");
    log.purge(id(90)).await.expect("it is purged");
    log.wait_until_written().expect("it is written");
    assert!(chunks(folder.path()).len() < before / 2);
    drop(log);
    let (mut log, _) = open(folder.path(), SMALL).expect("it opens");
    let state = log.get_log_state().await.expect("a state");
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(90)), Some(id(100))));
    assert_eq!(log.try_get_log_entries(..).await.expect("they can be read").len(), 10);
}

#[tokio::test]
async fn a_log_can_be_purged_beyond_its_end_and_goes_on_there() {
    let folder = written(5, LogOptions::default()).await;
    let (mut log, _) = open(folder.path(), LogOptions::default()).expect("it opens");
    log.purge(id(50)).await.expect("it is purged");
    append(&mut log, [entry(51, 10)]).await;
    drop(log);
    let (mut log, _) = open(folder.path(), LogOptions::default()).expect("it opens");
    assert_eq!(log.try_get_log_entries(..).await.expect("one"), [entry(51, 10)]);
}

#[tokio::test]
async fn truncated_entries_stay_gone_once_others_take_their_place() {
    let folder = written(10, LogOptions::default()).await;
    let (mut log, _) = open(folder.path(), LogOptions::default()).expect("it opens");
    log.truncate_after(Some(id(4))).await.expect("it is truncated");
    append(&mut log, [entry(5, 33)]).await;
    drop(log);
    let (mut log, _) = open(folder.path(), LogOptions::default()).expect("it opens");
    assert_eq!(last_index(&mut log).await, Some(5));
    assert_eq!(log.try_get_log_entries(5..).await.expect("one"), [entry(5, 33)]);
}

#[tokio::test]
async fn a_record_that_is_cut_short_is_set_aside() {
    let record = encoded(11..=11, 700).await;
    for cut in [1, 4, 24, 300, record.len() - 1] {
        let folder = written(10, LogOptions::default()).await;
        let at = leave(&newest(folder.path()), &record[..cut]);
        assert_repaired(&folder, at, &record[..cut]).await;
    }
}

#[tokio::test]
async fn zeros_from_a_record_boundary_on_are_set_aside() {
    for zeros in [1, 12, 29, 100, 512, 5000] {
        let folder = written(10, LogOptions::default()).await;
        let tail = vec![0; zeros];
        let at = leave(&newest(folder.path()), &tail);
        assert_repaired(&folder, at, &tail).await;
    }
}

#[tokio::test]
async fn a_page_of_zeros_within_the_last_batch_is_set_aside_with_what_follows() {
    let folder = written(10, LogOptions::default()).await;
    let path = newest(folder.path());
    let mut tail = encoded(11..=40, 400).await;
    let before = fs::metadata(&path).expect("a file").len() as usize;
    let page = 8192 - before;
    tail[page..page + 4096].fill(0);
    leave(&path, &tail);
    let (mut log, repairs) = open(folder.path(), LogOptions::default()).expect("it opens");
    let [repair] = &repairs[..] else { panic!("{repairs:?}") };
    assert!(repair.offset <= 8192 && repair.offset > 8192 - 600, "{repair:?}");
    let last = last_index(&mut log).await.expect("entries");
    assert!((10..40).contains(&last), "{last}");
    let all = log.try_get_log_entries(0..=10).await.expect("they can be read");
    assert_eq!(all.len(), 11, "what was acknowledged is there");
}

#[tokio::test]
async fn a_chunk_that_has_not_begun_is_set_aside_and_the_one_before_may_be_torn_too() {
    let folder = written(10, LogOptions::default()).await;
    let path = newest(folder.path());
    let record = encoded(11..=11, 700).await;
    let end = leave(&path, &record[..200]) + record.len() as u64;
    let digits = format!("{end:026}");
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let grouped = regroup(&digits, &name);
    fs::write(folder.path().join(grouped), []).expect("it is written");
    assert_eq!(chunks(folder.path()).len(), 2);
    let (mut log, repairs) = open(folder.path(), LogOptions::default()).expect("it opens");
    assert_eq!(repairs.len(), 2);
    assert_eq!(last_index(&mut log).await, Some(10));
}

/// A chunk's name for another place, with the separators of an example.
fn regroup(digits: &str, example: &str) -> String {
    let mut digits = digits.chars().rev();
    let name = example.chars().rev().map(|c| match c {
        '0'..='9' => digits.next().expect("as many digits"),
        other => other,
    });
    name.collect::<Vec<_>>().into_iter().rev().collect()
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_the_newest_chunk_is_refused() {
    let folder = written(3, LogOptions::default()).await;
    let path = newest(folder.path());
    let whole = fs::read(&path).expect("a file");
    for at in 0..whole.len() {
        for bit in [0x01, 0x04, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            fs::write(&path, &bytes).expect("it is written");
            let error = assert_refused(folder.path());
            let DiskError::Damaged { path: named, .. } = &error else { panic!("{error}") };
            assert_eq!(*named, path);
            assert_eq!(fs::read(&path).expect("a file"), bytes, "byte {at}: nothing was changed");
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_an_earlier_chunk_is_refused_with_its_name_and_place() {
    let folder = written(100, SMALL).await;
    let path = chunks(folder.path()).remove(1);
    flip(&path, 2000);
    let error = assert_refused(folder.path());
    let DiskError::Damaged { path: named, offset, .. } = &error else { panic!("{error}") };
    assert_eq!(*named, path);
    assert!((1500..=2000).contains(offset), "{offset}");
}

#[tokio::test]
async fn an_earlier_chunk_that_ends_early_is_refused() {
    let folder = written(100, SMALL).await;
    let path = chunks(folder.path()).remove(1);
    let bytes = fs::read(&path).expect("a file");
    fs::write(&path, &bytes[..bytes.len() - 10]).expect("it is written");
    assert_refused(folder.path());
}

#[tokio::test]
async fn a_missing_chunk_is_refused_wherever_it_was() {
    let count = chunks(written(100, SMALL).await.path()).len();
    for missing in [0, 1, count - 1] {
        let folder = written(100, SMALL).await;
        drop(open(folder.path(), SMALL).expect("it opens"));
        let path = chunks(folder.path()).remove(missing);
        fs::remove_file(&path).expect("it is removed");
        let error = assert_refused(folder.path());
        assert!(matches!(error, DiskError::Missing { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_log_without_any_chunk_left_is_refused() {
    let folder = written(10, LogOptions::default()).await;
    fs::remove_file(newest(folder.path())).expect("it is removed");
    assert_refused(folder.path());
}

#[tokio::test]
async fn a_newest_chunk_that_lost_its_beginning_is_refused() {
    let folder = written(10, LogOptions::default()).await;
    fs::write(newest(folder.path()), []).expect("it is written");
    assert_refused(folder.path());
}

#[tokio::test]
async fn a_second_process_does_not_touch_the_log() {
    let folder = written(10, LogOptions::default()).await;
    let (_log, _) = open(folder.path(), LogOptions::default()).expect("it opens");
    leave(&newest(folder.path()), &[0; 100]);
    let error = open(folder.path(), LogOptions::default()).err().expect("it is locked");
    assert!(matches!(error, DiskError::Io { doing: "lock", .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 3, "LOCK, NEWEST, a chunk");
}
