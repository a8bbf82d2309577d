//! Checkpoints and the state machine: what was written comes back whole, or is refused.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream;
use openraft::Membership;
use openraft::storage::RaftLogStorage;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;
use roster_storage::catalog::{Record, recomputed_hash};
use roster_storage::command::{
    Command, Condition, Covered, Deregister, EncodedCommand, Profile, Proposal, PutRing,
    PutShardSet, Rebalance, Register, ShardSetConfig, Stamp,
};
use roster_storage::disk::{Checkpoint, Disk, DiskError, Incoming, LogOptions, StateMachine};
use roster_storage::events::Change;
use roster_storage::names::{AppName, InstanceId, InstanceKey, ShardSetName};
use roster_storage::raft_types::{Entry, EntryPayload, LogId, PeerNode};
use roster_storage::shards::scaling::ScalingPolicy;
use roster_storage::version::{Observer, Published, Version};
use twox_hash::XxHash64;

fn entry(index: u64, payload: EntryPayload) -> Entry {
    Entry { log_id: LogId::new_term_index(3, index), payload }
}

fn register(index: u64) -> Entry {
    let app = AppName::new("pay").expect("a name");
    let id = InstanceId::new(format!("i{index}")).expect("an id");
    let command = Command::Register(Register {
        key: InstanceKey::new(app, id),
        profile: Profile { payload: vec![index as u8; 300], ..Profile::default() }.into(),
        session: None,
        ttl_ms: None,
        takeover: false,
        create_app: Some(0),
        condition: Condition::Any,
    });
    proposed(index, &command)
}

fn proposed(index: u64, command: &Command) -> Entry {
    let command = EncodedCommand::new(command).expect("it is small");
    let stamp = Stamp { cluster_ms: index, wall_ms: 1_000_000 + index };
    entry(index, EntryPayload::Normal(Proposal { stamp, command }))
}

/// A ring over three workers that restart again and again, and a shard set over instances that come
/// and go.
fn work(index: u64) -> Entry {
    let app = |name: &str| AppName::new(name).expect("a name");
    let key = |name: &str, id: u64| {
        InstanceKey::new(app(name), InstanceId::new(format!("i{id}")).expect("an id"))
    };
    let register = |key| {
        Command::Register(Register {
            key,
            profile: Profile { weight: 1 + (index % 3) as u16, ..Profile::default() }.into(),
            session: None,
            ttl_ms: None,
            takeover: true,
            create_app: Some(0),
            condition: Condition::Any,
        })
    };
    let set: ShardSetName = "metrics".parse().expect("a name");
    let command = match index {
        ..5 => register(key("work", index % 3)),
        5 => Command::PutRing(PutRing {
            app: app("work"),
            seed: 7,
            replicas: 2,
            condition: Condition::Any,
        }),
        6 => Command::PutShardSet(PutShardSet {
            set,
            config: ShardSetConfig {
                workers: app("work"),
                apps: Covered::All,
                copies: 2,
                scaling: Some(ScalingPolicy {
                    shards_per_worker: 5,
                    min: 1,
                    max: 9,
                    cooldown_ms: 50,
                }),
            },
            condition: Condition::Any,
        }),
        7.. if index.is_multiple_of(5) => Command::Rebalance(Rebalance { sets: vec![set] }),
        7.. if index.is_multiple_of(11) => register(key("work", index % 3)),
        7.. if index.is_multiple_of(3) => Command::Deregister(Deregister {
            key: key("pay", index * 7 % 40),
            incarnation: None,
            by_operator: false,
            reason: Default::default(),
            condition: Condition::Any,
        }),
        7.. => register(key("pay", index % 40)),
    };
    proposed(index, &command)
}

fn membership(index: u64) -> Entry {
    let node = PeerNode { peer: "a:1".into(), api: "a:2".into(), disk_id: "d".into() };
    let membership =
        Membership::new(vec![[1].into()], std::collections::BTreeMap::from([(1, node)]))
            .expect("it is one");
    entry(index, EntryPayload::Membership(membership))
}

async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) {
    let items = entries.into_iter().map(|entry| Ok((entry, None)));
    machine.apply(stream::iter(items)).await.expect("they are applied");
}

/// A state machine with a membership and instances, up to index `last`.
async fn filled(folder: &Path, last: u64) -> StateMachine {
    let mut machine = StateMachine::open(folder, Arc::new(())).expect("it opens");
    let mut entries = vec![membership(0), entry(1, EntryPayload::Blank)];
    entries.extend((2..=last).map(register));
    apply(&mut machine, entries).await;
    machine
}

async fn checkpoint(machine: &mut StateMachine) -> Checkpoint {
    let mut builder = machine.get_snapshot_builder().await;
    builder.build_snapshot().await.expect("it is written").snapshot
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn assert_same(a: &Version, b: &Version) {
    assert_eq!((a.applied, &a.membership), (b.applied, &b.membership));
    assert_eq!(a.catalog, b.catalog);
    assert_eq!(a.catalog.state_hash(), b.catalog.state_hash());
    assert_eq!(a.catalog.state_hash(), recomputed_hash(b.catalog.records()));
    assert!(a.catalog.hash_marks().eq(b.catalog.hash_marks()));
    assert_eq!((a.catalog.verify(), b.catalog.verify()), (Ok(()), Ok(())));
}

#[tokio::test]
async fn a_checkpoint_gives_back_the_same_state_with_its_hash_and_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = filled(folder.path(), 3000).await;
    let written = checkpoint(&mut machine).await;
    assert_eq!(written.index(), 3000);
    assert_eq!(written.bytes, fs::metadata(&written.path).expect("a file").len());
    assert!(written.bytes > 1_000_000, "several blocks");
    let before = machine.published().load();
    let marks: Vec<_> = before.catalog.hash_marks().map(|(index, _)| index).collect();
    assert_eq!(marks, [0, 1024, 2048], "every kind of entry passes");
    let again = StateMachine::open(folder.path(), Arc::new(())).expect("it opens");
    assert_same(&before, &again.published().load());
    let newest = again.checkpoints().newest().expect("one");
    assert_eq!(
        (newest.index(), newest.bytes, newest.checksum),
        (3000, written.bytes, written.checksum)
    );
}

/// However the entries are batched, and wherever one of the nodes was restarted.
#[tokio::test]
async fn rings_and_shard_sets_are_the_same_on_every_node_and_after_a_restart() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let [mut at_once, mut one_by_one, mut restarted] = [0, 1, 2]
        .map(|n: usize| StateMachine::open(folders[n].path(), Arc::new(())).expect("opens"));
    apply(&mut at_once, (2..400).map(work).collect()).await;
    for index in 2..400 {
        apply(&mut one_by_one, vec![work(index)]).await;
    }
    apply(&mut restarted, (2..218).map(work).collect()).await;
    checkpoint(&mut restarted).await;
    let mut restarted = StateMachine::open(folders[2].path(), Arc::new(())).expect("it opens");
    apply(&mut restarted, (218..400).map(work).collect()).await;

    let version = at_once.published().load();
    assert_same(&version, &one_by_one.published().load());
    assert_same(&version, &restarted.published().load());
    let set = version.catalog.shard_set(&"metrics".parse().expect("a name")).expect("it is there");
    let counts = set.group.counts();
    assert!(counts.assigned > 0 && counts.orphaned > 0 && counts.gone > 0, "{counts:?}");
}

#[tokio::test]
async fn a_newer_checkpoint_takes_the_place_of_the_older_which_an_open_handle_still_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = filled(folder.path(), 10).await;
    let older = checkpoint(&mut machine).await;
    apply(&mut machine, vec![register(11)]).await;
    let newer = checkpoint(&mut machine).await;
    assert_eq!(files(folder.path()), ["checkpoint-00000000000000000011.roster", SPARE]);
    assert_eq!(older.read().expect("it is whole").revision().0, 10);
    assert_eq!(newer.read().expect("it is whole").revision().0, 11);
}

#[tokio::test]
async fn damage_at_any_place_of_a_checkpoint_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = checkpoint(&mut filled(folder.path(), 5).await).await.path;
    let whole = fs::read(&path).expect("a file");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        assert_refused(folder.path(), &path, &bytes, &format!("byte {at} flipped"));
    }
    for length in [0, 7, 11, 30, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
        assert_refused(folder.path(), &path, &whole[..length], &format!("cut to {length}"));
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert_refused(folder.path(), &path, &longer, "one byte more");
    fs::write(&path, &whole).expect("it is written");
    StateMachine::open(folder.path(), Arc::new(())).expect("the whole one opens");
}

/// Blocks are decoded beside each other, so what each holds, and its place, is checked for itself.
#[tokio::test]
async fn damage_in_any_block_of_a_large_checkpoint_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = checkpoint(&mut filled(folder.path(), 3000).await).await.path;
    let whole = fs::read(&path).expect("a file");
    for at in (0..whole.len()).step_by(100_003) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert_refused(folder.path(), &path, &bytes, &format!("byte {at} flipped"));
        assert_refused(folder.path(), &path, &whole[..at], &format!("cut to {at}"));
    }
    let (head, blocks) = parted(&whole);
    assert!(blocks.len() > 5, "several blocks");
    let records = u64::from_be_bytes(whole[whole.len() - 16..][..8].try_into().expect("eight"));
    assert_eq!(joined(&head, &blocks, records), whole, "it is parted as it was written");
    let wrong = |change: fn(&mut Vec<Vec<u8>>)| {
        let mut blocks = blocks.clone();
        change(&mut blocks);
        blocks
    };
    let less = wrong(|blocks| drop(blocks.remove(2)));
    let twice = wrong(|blocks| blocks.insert(2, blocks[2].clone()));
    let swapped = wrong(|blocks| blocks.swap(2, 3));
    let shortened = wrong(|blocks| {
        blocks[2].pop();
    });
    for (blocks, what) in [
        (&less, "a block is missing"),
        (&twice, "a block is there twice"),
        (&swapped, "two blocks are swapped"),
        (&shortened, "a record ends too early"),
    ] {
        assert_refused(folder.path(), &path, &joined(&head, blocks, records), what);
    }
    // One that miscounts, too: the state has another hash.
    let bytes = joined(&head, &less, records - records_missing(&blocks, &less));
    assert_refused(folder.path(), &path, &bytes, "a block is missing and not counted");
    fs::write(&path, joined(&head, &blocks, records)).expect("it is written");
    StateMachine::open(folder.path(), Arc::new(())).expect("the whole one opens");
}

/// How many records the block has that is missing.
fn records_missing(all: &[Vec<u8>], less: &[Vec<u8>]) -> u64 {
    let missing = all.iter().find(|block| !less.contains(block)).expect("one is missing");
    let mut rest = missing.as_slice();
    let mut count = 0;
    while !rest.is_empty() {
        let _: Record = rmp_serde::from_read(&mut rest).expect("a record");
        count += 1;
    }
    count
}

/// What comes before the blocks of records, and those.
fn parted(file: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let block_at = |at: usize| {
        let length = u32::from_be_bytes(file[at..at + 4].try_into().expect("four")) as usize;
        at + 12..at + 12 + length
    };
    let header = block_at(12);
    let mut blocks = Vec::new();
    let mut at = header.end;
    while file[at..at + 4] != [0; 4] {
        let block = block_at(at);
        at = block.end;
        blocks.push(file[block].to_vec());
    }
    (file[..header.end].to_vec(), blocks)
}

/// A file with these blocks, all checksums right.
fn joined(head: &[u8], blocks: &[Vec<u8>], records: u64) -> Vec<u8> {
    let mut file = head.to_vec();
    for block in blocks {
        file.extend((block.len() as u32).to_be_bytes());
        file.extend(XxHash64::oneshot(0, block).to_be_bytes());
        file.extend(block);
    }
    file.extend([0; 4]);
    file.extend(records.to_be_bytes());
    let checksum = XxHash64::oneshot(0, &file);
    file.extend(checksum.to_be_bytes());
    file
}

fn assert_refused(folder: &Path, path: &PathBuf, bytes: &[u8], what: &str) {
    fs::write(path, bytes).expect("it is written");
    match StateMachine::open(folder, Arc::new(())).err() {
        Some(DiskError::Damaged { path: named, .. } | DiskError::Format { path: named, .. }) => {
            assert_eq!(named, *path, "{what}");
        }
        other => panic!("{what}: {other:?}"),
    }
    assert_eq!(fs::read(path).expect("it stays"), bytes, "{what}");
}

#[tokio::test]
async fn a_crash_before_the_rename_leaves_the_old_checkpoint_and_no_rubbish() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = checkpoint(&mut filled(folder.path(), 5).await).await;
    let bytes = fs::read(&old.path).expect("a file");
    fs::write(folder.path().join("checkpoint-77.tmp"), &bytes[..bytes.len() / 2]).expect("rubbish");
    let machine = StateMachine::open(folder.path(), Arc::new(())).expect("it opens");
    assert_eq!(machine.published().load().revision().0, 5);
    assert_eq!(files(folder.path()), ["checkpoint-00000000000000000005.roster"]);
}

#[tokio::test]
async fn a_crash_before_the_old_checkpoint_gives_up_its_name_leaves_the_new_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = filled(folder.path(), 5).await;
    let old = checkpoint(&mut machine).await;
    let old_bytes = fs::read(&old.path).expect("a file");
    apply(&mut machine, vec![register(6)]).await;
    checkpoint(&mut machine).await;
    fs::write(&old.path, old_bytes).expect("it is back");
    let machine = StateMachine::open(folder.path(), Arc::new(())).expect("it opens");
    assert_eq!(machine.published().load().revision().0, 6);
    assert_eq!(files(folder.path()), ["checkpoint-00000000000000000006.roster", SPARE]);
}

/// The file of the checkpoint before the newest.
const SPARE: &str = "checkpoint.spare";

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("a file").ino()
}

#[tokio::test]
async fn a_checkpoint_is_written_into_the_room_of_the_one_before_the_last() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = filled(folder.path(), 40).await;
    let first = checkpoint(&mut machine).await;
    let (room, bytes) = (inode(&first.path), first.bytes);
    drop(first);
    apply(&mut machine, vec![register(41)]).await;
    let second = checkpoint(&mut machine).await;
    let second_room = inode(&second.path);
    assert_eq!(inode(&folder.path().join(SPARE)), room);
    drop(second);
    // Smaller than what the room held.
    let leaving = (4..40).map(|id| leave(40 + id, id)).collect();
    apply(&mut machine, leaving).await;
    let third = checkpoint(&mut machine).await;
    assert_eq!(inode(&third.path), room);
    assert!(third.bytes < bytes, "{} bytes", third.bytes);
    assert_eq!(fs::metadata(&third.path).expect("a file").len(), third.bytes);
    drop(third);
    // Also after a restart.
    drop(machine);
    let mut machine = StateMachine::open(folder.path(), Arc::new(())).expect("it opens");
    apply(&mut machine, vec![register(90)]).await;
    assert_eq!(inode(&checkpoint(&mut machine).await.path), second_room);
    let machine = StateMachine::open(folder.path(), Arc::new(())).expect("it opens");
    assert_eq!(machine.published().load().revision().0, 90);
}

#[tokio::test]
async fn a_checkpoint_that_is_still_being_sent_is_not_written_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = filled(folder.path(), 20).await;
    let sent = checkpoint(&mut machine).await;
    for index in 21..25 {
        apply(&mut machine, vec![register(index)]).await;
        checkpoint(&mut machine).await;
    }
    assert_eq!(sent.read().expect("it is whole").revision().0, 20);
}

fn leave(index: u64, id: u64) -> Entry {
    let app = AppName::new("pay").expect("a name");
    let id = InstanceId::new(format!("i{id}")).expect("an id");
    proposed(
        index,
        &Command::Deregister(Deregister {
            key: InstanceKey::new(app, id),
            incarnation: None,
            by_operator: false,
            reason: Default::default(),
            condition: Condition::Any,
        }),
    )
}

#[tokio::test]
async fn a_checkpoint_under_another_name_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = checkpoint(&mut filled(folder.path(), 5).await).await.path;
    let wrong = folder.path().join("checkpoint-00000000000000000009.roster");
    fs::rename(path, wrong).expect("it is renamed");
    assert!(StateMachine::open(folder.path(), Arc::new(())).is_err());
}

/// Sends a checkpoint in pieces.
fn send(from: &Checkpoint, to: &Path) -> Incoming {
    let mut incoming = Incoming::create(to).expect("it begins");
    let mut offset = 0;
    while offset < from.bytes {
        let piece = from.read_at(offset, 1000).expect("a piece");
        incoming.write(&piece).expect("it is taken");
        offset += piece.len() as u64;
    }
    assert!(from.read_at(offset, 1000).expect("nothing").is_empty());
    incoming
}

#[tokio::test]
async fn a_received_checkpoint_is_installed_published_and_there_after_a_restart() {
    let (here, there) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let mut sender = filled(here.path(), 50).await;
    let sent = checkpoint(&mut sender).await;
    let mut receiver = filled(there.path(), 3).await;
    checkpoint(&mut receiver).await;
    let received = send(&sent, there.path()).finish(sent.bytes, sent.checksum).expect("all came");
    assert!(received.path.extension().is_some_and(|e| e == "tmp"), "not before it is installed");
    receiver.install_snapshot(&sent.meta, received).await.expect("it is installed");
    assert_same(&sender.published().load(), &receiver.published().load());
    assert_eq!(files(there.path()), ["checkpoint-00000000000000000050.roster", SPARE]);
    let current = receiver.get_current_snapshot().await.expect("it can tell").expect("one");
    assert_eq!(current.snapshot.read().expect("it is whole").revision().0, 50);
    let again = StateMachine::open(there.path(), Arc::new(())).expect("it opens");
    assert_same(&sender.published().load(), &again.published().load());
}

#[tokio::test]
async fn a_checkpoint_that_came_damaged_or_was_given_up_leaves_nothing() {
    let (here, there) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let sent = checkpoint(&mut filled(here.path(), 20).await).await;
    let error = send(&sent, there.path()).finish(sent.bytes, sent.checksum ^ 1).err();
    assert!(matches!(error, Some(DiskError::Transfer { .. })), "{error:?}");
    let error = send(&sent, there.path()).finish(sent.bytes + 1, sent.checksum).err();
    assert!(matches!(error, Some(DiskError::Transfer { .. })), "{error:?}");
    drop(send(&sent, there.path()));
    drop(send(&sent, there.path()).finish(sent.bytes, sent.checksum).expect("all came"));
    assert!(files(there.path()).is_empty(), "{:?}", files(there.path()));
}

/// Notes what it is told, and what is published at that moment.
#[derive(Default)]
struct Witness {
    published: Mutex<Option<Published>>,
    seen: Mutex<Vec<(u64, u64, Vec<u64>)>>,
}

impl Observer for Witness {
    fn applied(&self, version: &Arc<Version>, changes: &[Arc<Change>]) {
        let published = self.published.lock().as_ref().expect("it is set").load().revision().0;
        let at = changes.iter().map(|c| c.at.revision.0).collect();
        self.seen.lock().push((published, version.revision().0, at));
    }

    fn replaced(&self, version: &Arc<Version>) {
        self.seen.lock().push((0, version.revision().0, Vec::new()));
    }
}

#[tokio::test]
async fn a_batch_is_published_once_and_before_the_observer_hears_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let witness = Arc::new(Witness::default());
    let mut machine = StateMachine::open(folder.path(), witness.clone()).expect("it opens");
    *witness.published.lock() = Some(machine.published());
    apply(&mut machine, (1..=513).map(register).collect()).await;
    let seen = witness.seen.lock();
    let expected = [(512, 512, (1..=512).collect::<Vec<_>>()), (513, 513, vec![513])];
    assert_eq!(*seen, expected);
}

#[tokio::test]
async fn a_log_without_the_checkpoint_that_it_was_purged_for_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut disk = open(folder.path()).expect("it opens");
    apply(&mut disk.state_machine, vec![membership(0), register(1)]).await;
    let path = checkpoint(&mut disk.state_machine).await.path;
    disk.log.purge(LogId::new_term_index(3, 1)).await.expect("it is purged");
    disk.log.wait_until_written().expect("it is written");
    drop(disk);
    drop(open(folder.path()).expect("it opens again"));
    fs::remove_file(&path).expect("it is removed");
    let error = open(folder.path()).err().expect("it must not open");
    assert!(matches!(error, DiskError::Missing { .. }), "{error}");
}

fn open(folder: &Path) -> Result<Disk, DiskError> {
    Disk::open(folder, LogOptions::default(), Arc::new(()))
}
