//! The history after damage and after power cuts: what it tells is right, and what it lost it says.

#[path = "history/model.rs"]
mod model;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use roster_storage::history::{GapReason, History, HistoryLimits, OPENINGS_MAX, SET_ASIDE_MAX};
use roster_storage::names::Revision;
use tempfile::TempDir;

use model::{SMALL, UNLIMITED, assert_right, changes, covered, open};

fn append(history: &History, from: u64, upto: u64) {
    history.append(Revision(from), Revision(upto), &changes(from, upto));
}

fn home() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("history");
    (home, folder)
}

/// A history of 600 revisions, closed, with some that were trimmed and two runs.
fn filled(folder: &Path) -> (u64, u64) {
    let limits = HistoryLimits { bytes_max: 40_000, ..UNLIMITED };
    for run in 0..2 {
        let history = open(folder, limits, SMALL);
        for from in (run * 300..(run + 1) * 300).step_by(20) {
            append(&history, from, from + 20);
            history.sync(0).expect("it works");
        }
    }
    let history = open(folder, limits, SMALL);
    let [range] = covered(&history)[..] else { panic!("one range") };
    range
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("it is there");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("it is copied");
        }
    }
}

/// Covered ranges: the revision before the first of each, and its last.
type Ranges = Vec<(u64, u64)>;

/// Opens a folder that something happened to, and looks at it twice: what was found to be lost is
/// lost after another start too. Then goes on writing. Returns what was covered, and what is covered
/// after another start.
fn look_at(folder: &Path, newest: u64) -> (Ranges, Ranges) {
    let history = open(folder, UNLIMITED, SMALL);
    read_all(&history, newest);
    if history.working().is_err() {
        drop(history);
        let history = open(folder, UNLIMITED, SMALL);
        assert_eq!(covered(&history), [], "it was set aside");
        return Default::default();
    }
    let ranges = assert_right(&history, newest, 50);
    let end = history.appended().map_or(newest, |end| end.0);
    append(&history, end.max(newest), newest + 100);
    // An error turns it off; whatever was written is looked at.
    let _ = history.sync(0);
    drop(history);
    let history = open(folder, UNLIMITED, SMALL);
    read_all(&history, newest + 100);
    if history.working().is_err() {
        return (ranges, Vec::new());
    }
    (ranges, assert_right(&history, newest + 100, 50))
}

/// Finds out all that is lost: whoever reads first is told, and from then on everybody is.
fn read_all(history: &History, newest: u64) {
    let all = model::interest(None);
    model::read_forwards(history, newest, &all, 50);
}

/// What history has on the disk: sled's data, and the large blocks.
type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("it is there"));
    let named =
        entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    let ours = named.filter(|(name, _)| name == "db" || name.starts_with("blocks-"));
    ours.map(|(name, path)| (name, fs::read(path).expect("it is there"))).collect()
}

/// A folder that is only read.
struct Original {
    _home: TempDir,
    folder: PathBuf,
    range: (u64, u64),
    files: Files,
}

impl Original {
    /// Flips bytes in a copy of it.
    fn flip(&self, folder: &Path, places: &[(Index, Index, u8)]) {
        let mut files = self.files.clone();
        for (file, place, mask) in places {
            // As often sled's as all others together.
            let file = match file.index(2 * self.files.len()).checked_sub(self.files.len()) {
                Some(n) => files.values_mut().nth(n).expect("in range"),
                None => files.get_mut("db").expect("it is there"),
            };
            let place = place.index(file.len());
            file[place] ^= mask;
        }
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).expect("written");
        }
    }
}

fn original() -> &'static Original {
    static ORIGINAL: std::sync::OnceLock<Original> = std::sync::OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let (home, folder) = home();
        let range = filled(&folder);
        let files = files(&folder);
        assert!(files.len() > 3, "several files of blocks: {:?}", files.keys());
        Original { _home: home, folder, range, files }
    })
}

#[test]
fn a_folder_that_is_gone_begins_an_empty_history() {
    let (_home, folder) = home();
    filled(&folder);
    fs::remove_dir_all(&folder).expect("it was there");
    let history = open(&folder, UNLIMITED, SMALL);
    assert_eq!(history.take_notes(), Vec::<String>::new());
    assert_eq!(covered(&history), []);
    append(&history, 600, 700);
    history.sync(0).expect("it works");
    assert_eq!(assert_right(&history, 700, 50), [(600, 700)]);
}

#[test]
fn a_folder_that_is_no_history_is_set_aside_and_only_the_newest_are_kept() {
    let (home, folder) = home();
    for round in 1..=SET_ASIDE_MAX + 2 {
        fs::create_dir(&folder).expect("it is not there");
        fs::write(folder.join("conf"), format!("nothing of ours, {round}")).expect("written");
        let history = open(&folder, UNLIMITED, SMALL);
        let notes = history.take_notes().join(" ");
        assert!(notes.contains(&format!("history.damaged-{round}")), "{notes}");
        append(&history, 0, 10);
        history.sync(0).expect("it works");
        drop(history);
        assert_eq!(covered(&open(&folder, UNLIMITED, SMALL)), [(0, 10)]);
        fs::remove_dir_all(&folder).expect("it was there");
    }
    let aside = |n: usize| home.path().join(format!("history.damaged-{n}")).exists();
    let kept: Vec<_> = (1..=SET_ASIDE_MAX + 2).filter(|n| aside(*n)).collect();
    assert_eq!(kept, [SET_ASIDE_MAX + 1, SET_ASIDE_MAX + 2]);
}

/// Its version can have it back.
#[test]
fn a_history_of_another_format_is_set_aside_whole() {
    let (home, folder) = home();
    let config = sled::Config::new().path(&folder).segment_size(SMALL.segment_bytes);
    let sled = config.open().expect("it opens");
    let (key, format) = ([b"R".as_slice(), &7_u64.to_be_bytes()].concat(), [3]);
    let sum = twox_hash::XxHash64::oneshot(0, &[key.as_slice(), &format].concat());
    sled.insert(key, [&format[..], &sum.to_be_bytes()].concat()).expect("it works");
    sled.flush().expect("it works");
    drop(sled);
    let history = open(&folder, UNLIMITED, SMALL);
    let notes = history.take_notes().join(" ");
    assert!(notes.contains("has a format that this version of Roster does not know"), "{notes}");
    assert!(home.path().join("history.damaged-1").join("db").exists());
    assert_eq!(covered(&history), []);
}

/// A crash between the blocks and what would have led to them, and damage, leave such files.
#[test]
fn files_that_nothing_leads_to_are_gone_after_the_next_sync() {
    let (_home, folder) = home();
    let range = filled(&folder);
    let before = files(&folder);
    fs::write(folder.join("blocks-99999999"), "of a crash").expect("written");
    let middle = before.keys().filter(|name| *name != "db").nth(1).expect("several").clone();
    fs::write(folder.join(&middle), "damaged").expect("written");
    let history = open(&folder, UNLIMITED, SMALL);
    read_all(&history, range.1);
    append(&history, range.1, range.1 + 50);
    history.sync(0).expect("it works");
    let after = files(&folder);
    assert!(
        !after.contains_key("blocks-99999999") && !after.contains_key(&middle),
        "{:?}",
        after.keys()
    );
    assert!(after.len() > 3, "the others are there: {:?}", after.keys());
}

#[test]
fn a_folder_that_kills_every_start_is_set_aside() {
    let (home, folder) = home();
    filled(&folder);
    let opening = home.path().join("history.opening");
    fs::write(&opening, (OPENINGS_MAX - 1).to_string()).expect("written");
    assert_ne!(covered(&open(&folder, UNLIMITED, SMALL)), [], "one more try");
    assert!(!opening.exists());
    fs::write(&opening, OPENINGS_MAX.to_string()).expect("written");
    let history = open(&folder, UNLIMITED, SMALL);
    assert_eq!(covered(&history), []);
    assert!(home.path().join("history.damaged-1").exists());
    assert!(!opening.exists());
}

#[test]
fn a_missing_file_is_never_a_silent_loss() {
    for file in ["db", "conf", "snap", "blocks-"] {
        let (_home, folder) = home();
        let (_, newest) = filled(&folder);
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("it is there").path();
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(file)) {
                fs::remove_file(path).expect("it was there");
            }
        }
        look_at(&folder, newest);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 0, ..ProptestConfig::default() })]

    /// After damage, sled may forget at the next start what was synced since: that is a gap too.
    #[test]
    fn flipped_bytes_are_never_a_wrong_answer_and_never_a_silent_loss(
        places in vec((any::<Index>(), any::<Index>(), 1..=255_u8), 1..4)
    ) {
        let original = original();
        let (_home, folder) = home();
        copy(&original.folder, &folder);
        original.flip(&folder, &places);
        look_at(&folder, original.range.1);
    }

    #[test]
    fn bytes_flipped_while_it_runs_are_never_a_wrong_answer(
        places in vec((any::<Index>(), any::<Index>(), 1..=255_u8), 1..40)
    ) {
        let original = original();
        let (_home, folder) = home();
        copy(&original.folder, &folder);
        let history = open(&folder, UNLIMITED, SMALL);
        original.flip(&folder, &places);
        read_all(&history, original.range.1);
        if history.working().is_ok() {
            assert_right(&history, original.range.1, 50);
        }
    }

    #[test]
    fn a_file_that_was_cut_is_never_a_wrong_answer_and_never_a_silent_loss(
        file: Index, length: Index,
    ) {
        let original = original();
        let (_home, folder) = home();
        copy(&original.folder, &folder);
        let (name, bytes) =
            original.files.iter().nth(file.index(original.files.len())).expect("in range");
        let length = length.index(bytes.len());
        fs::write(folder.join(name), &bytes[..length]).expect("written");
        look_at(&folder, original.range.1);
    }
}

/// What a power cut leaves of one page of a file that was written since the last sync.
#[derive(Clone, Copy, Debug)]
enum Left {
    Old,
    New,
    /// The first so many bytes are new.
    Torn(usize),
}

fn left() -> impl Strategy<Value = Left> {
    prop_oneof![
        3 => Just(Left::Old),
        3 => Just(Left::New),
        1 => (0..8_usize).prop_map(|sectors| Left::Torn(sectors * 512)),
    ]
}

const PAGE: usize = 4_096;

/// A file of which the pages that differ are as a power cut left them. A hole reads as zeros.
fn mixed(synced: &[u8], later: &[u8], left: &[Left], cut: bool) -> Vec<u8> {
    let length = if cut { synced.len() } else { synced.len().max(later.len()) };
    let mut bytes = synced.to_vec();
    bytes.resize(length, 0);
    for (n, page) in bytes.chunks_mut(PAGE).enumerate() {
        let Some(newer) = later.get(n * PAGE..) else { break };
        let newer = &newer[..newer.len().min(page.len())];
        let new_bytes = match left[n % left.len()] {
            Left::Old => 0,
            Left::New => newer.len(),
            Left::Torn(bytes) => bytes.min(newer.len()),
        };
        page[..new_bytes].copy_from_slice(&newer[..new_bytes]);
    }
    bytes
}

#[derive(Clone, Debug)]
struct PowerCut {
    /// While blocks were put into files; else while sled wrote.
    in_blocks: bool,
    left: Vec<Left>,
    /// No file is longer than it was.
    cut: bool,
    /// Syncs that returned.
    before: u64,
    /// Revisions of each.
    step: u64,
    bytes_max: u64,
}

prop_compose! {
    fn any_power_cut()(
        in_blocks: bool,
        left in vec(left(), 1..40),
        cut: bool,
        before in 0..16_u64,
        step in prop_oneof![1..60_u64, 100..300_u64],
        bytes_max in prop_oneof![Just(u64::MAX), 5_000..40_000_u64],
    ) -> PowerCut {
        PowerCut { in_blocks, left, cut, before, step, bytes_max }
    }
}

/// Runs until a power cut at any moment after a sync returned: the next one was under way, and any
/// part of what it wrote may be on the disk.
fn power_cut(cut: PowerCut, strict: bool) {
    let PowerCut { in_blocks, left, cut, before, step, bytes_max } = cut;
    let (_home, folder) = home();
    let limits = HistoryLimits { bytes_max, ..UNLIMITED };
    let mut history = open(&folder, limits, SMALL);
    for n in 0..before {
        if n == before / 2 {
            drop(history);
            history = open(&folder, limits, SMALL);
        }
        append(&history, n * step, (n + 1) * step);
        history.sync(0).expect("it works");
    }
    let synced = files(&folder);
    let promised = covered(&history);
    append(&history, before * step, (before + 1) * step);
    history.sync(0).expect("it works");
    // What was to be trimmed may be gone once sled wrote.
    let floor = covered(&history).first().map_or(0, |(from, _)| *from);
    let floor = if in_blocks { 0 } else { floor };
    let later = files(&folder);
    let (_other_home, other) = home();
    copy(&folder, &other);
    // Large blocks are synced before anything leads to them, and go after nothing does any more.
    for (name, bytes) in synced.iter().filter(|(name, _)| !later.contains_key(*name)) {
        fs::write(other.join(name), bytes).expect("written");
    }
    let torn = |name: &str| (name == "db") != in_blocks;
    for (n, (name, bytes)) in later.iter().filter(|(name, _)| in_blocks || torn(name)).enumerate() {
        let synced = synced.get(name);
        // Each file in its own way.
        let left = [&left[n % left.len()..], &left[..n % left.len()]].concat();
        let bytes = match synced {
            Some(synced) if !torn(name) => synced.clone(),
            _ => mixed(synced.map_or(&[], Vec::as_slice), bytes, &left, cut),
        };
        fs::write(other.join(name), bytes).expect("written");
    }
    let newest = (before + 1) * step;
    let mut history = open(&other, limits, SMALL);
    read_all(&history, newest);
    let mut notes = history.take_notes();
    if history.working().is_err() {
        // Sled came upon it in the middle of what was read: it is off, and says so.
        assert_eq!(covered(&history), [], "nothing can be read of it");
        assert!(notes.iter().any(|note| note.contains("sets the folder aside")), "{notes:?}");
        drop(history);
        history = open(&other, limits, SMALL);
        notes = history.take_notes();
    }
    let told = assert_right(&history, newest, 50);
    let said = notes.iter().any(|note| note.contains("an empty one begins"));
    assert!(!said || (!strict && told.is_empty()), "set aside: {notes:?}, {told:?}");
    assert!(said || notes.is_empty(), "{notes:?}");
    for (from, upto) in promised.into_iter().filter(|_| !said) {
        let from = from.max(floor);
        assert!(
            told.iter().any(|(first, last)| *first <= from && upto <= *last),
            "({from}, {upto}] was promised, and there is {told:?}"
        );
    }
    drop(history);
    let (_, after_more) = look_at(&other, newest);
    assert_eq!(after_more.last().map(|(_, upto)| *upto), Some(newest + 100), "it goes on");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// Sled does not open every mix: then the folder is set aside, and everybody is told so.
    #[test]
    fn what_a_sync_promised_outlasts_a_power_cut_or_its_loss_is_said(
        cut in any_power_cut()
    ) {
        power_cut(cut, false);
    }

    #[test]
    #[ignore = "fails: sled does not open some mixes, such as of pages that a trim lets it write again"]
    fn what_a_sync_promised_outlasts_a_power_cut(
        cut in any_power_cut()
    ) {
        power_cut(cut, true);
    }
}

#[test]
fn what_is_lost_while_the_history_is_off_is_a_gap() {
    let (_home, folder) = home();
    let history = open(&folder, UNLIMITED, SMALL);
    append(&history, 0, 50);
    history.sync(0).expect("it works");
    history.note_gap(Revision(60), GapReason::Failed);
    append(&history, 60, 70);
    history.sync(0).expect("it works");
    assert_eq!(assert_right(&history, 70, 50), [(0, 50), (60, 70)]);
}
