//! The history against a model: what it tells is right, and what it does not have it says.

#[path = "history/model.rs"]
mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use roster_storage::events::{Change, Event, Interest, Reason};
use roster_storage::history::{Gap, GapReason, History, HistoryError, HistoryLimits, Sizes};
use roster_storage::names::{LatchKey, Revision};

use model::{SMALL, UNLIMITED, assert_right, at, changes, covered, interest, open, plain, wall_ms};

fn append(history: &History, from: u64, upto: u64) {
    history.append(Revision(from), Revision(upto), &changes(from, upto));
}

fn gap(after: u64, upto: u64, reason: GapReason) -> Gap {
    Gap { after: Revision(after), upto: Revision(upto), reason }
}

#[test]
fn what_was_synced_is_told_after_a_restart_and_what_was_not_is_not() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("history");
    let history = open(&folder, UNLIMITED, Sizes::default());
    append(&history, 10, 100);
    assert_eq!(covered(&history), []);
    history.sync(0).expect("it works");
    append(&history, 100, 200);
    assert_eq!(assert_right(&history, 300, 7), [(10, 100)]);
    drop(history);
    let history = open(&folder, UNLIMITED, Sizes::default());
    assert_eq!(assert_right(&history, 300, 7), [(10, 100)]);
    assert_eq!(history.appended(), Some(Revision(100)));
    assert_eq!(history.take_notes(), Vec::<String>::new());
}

#[test]
fn what_was_never_appended_is_a_gap_with_its_name() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("history");
    let history = open(&folder, UNLIMITED, SMALL);
    append(&history, 0, 50);
    append(&history, 70, 90);
    history.note_gap(Revision(95), GapReason::CheckpointInstalled);
    append(&history, 95, 100);
    // It has those already.
    append(&history, 80, 105);
    history.sync(0).expect("it works");
    let expected = [gap(50, 70, GapReason::Overflow), gap(90, 95, GapReason::CheckpointInstalled)];
    assert_eq!(history.gaps(), expected);
    drop(history);
    let history = open(&folder, UNLIMITED, SMALL);
    assert_eq!(history.gaps(), expected);
    assert_eq!(assert_right(&history, 105, 3), [(0, 50), (70, 90), (95, 105)]);
    let all = interest(None);
    assert_eq!(history.after(Revision(50), &all, 9), Err(expected[0]));
    assert_eq!(history.before(Revision(60), &all, 9), Err(gap(50, 59, GapReason::Overflow)));
}

#[test]
fn a_small_block_grows_by_what_comes_next() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("history");
    let history = open(&folder, UNLIMITED, Sizes::default());
    for revision in 0..40 {
        append(&history, revision, revision + 1);
        history.sync(0).expect("it works");
        assert_eq!(assert_right(&history, 40, 50), [(0, revision + 1)]);
    }
    let grown = history.bytes_kept();
    drop(history);
    let at_once = open(&home.path().join("other"), UNLIMITED, Sizes::default());
    append(&at_once, 0, 40);
    at_once.sync(0).expect("it works");
    assert_eq!(grown, at_once.bytes_kept());
}

#[test]
fn a_revision_of_20_000_events_is_told_whole() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("history");
    let history = open(&folder, UNLIMITED, Sizes::default());
    let events: Vec<Event> = changes(0, 20_000).iter().flat_map(|c| c.events.clone()).collect();
    let large = Arc::new(Change::new(at(11), events.into_iter().cycle().take(20_000).collect()));
    append(&history, 0, 10);
    history.append(Revision(10), Revision(11), std::slice::from_ref(&large));
    append(&history, 11, 20);
    history.sync(0).expect("it works");
    drop(history);
    let history = open(&folder, UNLIMITED, Sizes::default());
    let (told, upto) = history.after(Revision(10), &interest(None), 1).expect("covered");
    assert_eq!(upto, Revision(11));
    let expected: Vec<Event> = large.told().cloned().collect();
    assert_eq!(told[0].events, expected);
    assert!(history.bytes_kept() > 10 * Sizes::default().value_bytes as u64, "it is large");
    let (rest, _) = history.after(Revision(11), &interest(None), 100).expect("covered");
    assert_eq!(plain(&rest), model::told(11, 20, &interest(None)));
    let blobs = std::fs::read_dir(folder.join("blobs")).expect("it is there");
    assert_eq!(blobs.count(), 0, "nothing is in files that are not synced");
}

#[test]
fn the_oldest_blocks_go_by_age_and_by_bytes_and_the_newest_stays() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("history");
    let limits = HistoryLimits { bytes_max: u64::MAX, age_max_ms: 1_000 };
    let history = open(&folder, limits, SMALL);
    append(&history, 0, 500);
    history.sync(wall_ms(1)).expect("it works");
    assert_eq!(assert_right(&history, 500, 9), [(0, 500)]);
    assert!(history.has_outlived(wall_ms(400)));
    history.sync(wall_ms(400)).expect("it works");
    let [(floor, 500)] = assert_right(&history, 500, 9)[..] else { panic!("one range") };
    assert!((250..=300).contains(&floor), "a hundred revisions a second: {floor}");
    let missing = history.after(Revision(0), &interest(None), 1);
    assert_eq!(missing, Err(gap(0, floor, GapReason::NotKept)));
    history.sync(u64::MAX).expect("it works");
    let [(floor, 500)] = assert_right(&history, 500, 9)[..] else { panic!("one range") };
    assert!(floor > 480, "{floor}");
    drop(history);
    let limits = HistoryLimits { bytes_max: 10_000, age_max_ms: u64::MAX };
    let history = open(&folder, limits, SMALL);
    append(&history, 500, 2_000);
    history.sync(0).expect("it works");
    let files = || {
        let names =
            std::fs::read_dir(&folder).expect("it is there").map(|e| e.expect("it is there"));
        names.filter(|e| e.file_name().to_string_lossy().starts_with("blocks-")).count()
    };
    assert!(files() > 10, "{}", files());
    assert!(history.has_outlived(0), "what has just come goes with the next sync");
    history.sync(0).expect("it works");
    let [(_, 2_000)] = assert_right(&history, 2_000, 9)[..] else { panic!("one range") };
    assert!((5_000..=10_000).contains(&history.bytes_kept()), "{}", history.bytes_kept());
    assert!(files() < 5, "what they held is gone: {}", files());
}

#[test]
fn a_wall_time_finds_the_last_revision_told_before_it() {
    let home = tempfile::tempdir().expect("a folder");
    let history = open(&home.path().join("history"), UNLIMITED, SMALL);
    append(&history, 0, 300);
    history.sync(0).expect("it works");
    let all = model::told(0, 300, &interest(None));
    for wall in (wall_ms(1)..wall_ms(300) + 100).step_by(7) {
        let expected = all.iter().rev().find(|change| change.at.stamp.wall_ms < wall);
        assert_eq!(history.revision_at(wall), expected.map(|change| change.at.revision), "{wall}");
    }
    assert_eq!(history.revision_at(0), None);
}

/// Nothing but claims was told: they belong to no app, and are told all the same.
#[test]
fn a_block_of_claims_alone_is_told_to_those_who_follow_its_latches() {
    let home = tempfile::tempdir().expect("a folder");
    let history = open(&home.path().join("history"), UNLIMITED, SMALL);
    let claims: Vec<_> =
        changes(0, 100).into_iter().filter(|change| latch_of(change).is_some()).collect();
    let claims: Vec<_> = claims.into_iter().filter(|change| change.events.len() == 1).collect();
    history.append(Revision(0), Revision(100), &claims);
    history.sync(0).expect("it works");
    let told =
        |interest: &Interest| history.after(Revision(0), interest, 1_000).expect("covered").0;
    let nobodys = interest(Some(&[99]));
    assert_eq!(told(&nobodys), claims, "latches belong to no app");
    let last = claims.last().expect("some");
    let only = Interest { latches: Some(latch_of(last).into_iter().collect()), ..nobodys };
    assert!(told(&only).contains(last));
    assert!(told(&only).iter().all(|change| latch_of(change) == latch_of(last)));
    let newest = last.at;
    assert_eq!(history.revision_at(newest.stamp.wall_ms + 1), Some(newest.revision));
}

/// A row is one value in sled, however many latches its block is about, and several share a page.
#[test]
fn sessions_that_end_with_10_000_claims_each_have_small_rows() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("history");
    let history = open(&folder, UNLIMITED, Sizes::default());
    let mut events = changes(0, 10).into_iter().flat_map(|change| change.events.clone());
    let first = events.find(|event| event.latch().is_some());
    let Some(Event::ClaimPut { claim, .. }) = first else { panic!("{first:?}") };
    let ended = |n| Event::ClaimEnded {
        latch: model::latch(n),
        claim: claim.clone(),
        reason: Reason::SessionClosed,
    };
    let all: Vec<_> = (0..10_000).map(ended).collect();
    for revision in 1..=6 {
        let change = Arc::new(Change::new(at(revision), all.clone()));
        history.append(Revision(revision - 1), Revision(revision), &[change]);
        history.sync(0).expect("it works");
    }
    let one = Interest { latches: Some([model::latch(4_321)].into()), ..interest(None) };
    let (told, _) = history.after(Revision(5), &one, 1).expect("covered");
    assert_eq!(told[0].events, all);
    let blobs = std::fs::read_dir(folder.join("blobs")).expect("it is there");
    assert_eq!(blobs.count(), 0, "nothing is in files that are not synced");
}

/// A page of sled holds 17 values.
#[test]
fn pages_of_the_largest_values_stay_in_the_file_that_is_synced() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("history");
    let history = open(&folder, UNLIMITED, Sizes::default());
    // Blocks that are nearly too large for sled, and do not grow.
    for from in (0..8_000).step_by(200) {
        let mut upto = from + 1;
        while history.pending_bytes() < 30 * 1024 && upto < from + 190 {
            append(&history, upto - 1, upto);
            upto += 1;
        }
        history.note_gap(Revision(from + 200), GapReason::CheckpointInstalled);
        history.sync(0).expect("it works");
    }
    assert!(
        history.bytes_kept() > 40 * 2 * Sizes::default().value_bytes as u64,
        "several values each"
    );
    let names = std::fs::read_dir(&folder).expect("it is there").map(|e| e.expect("it is there"));
    assert!(names.into_iter().all(|e| !e.file_name().to_string_lossy().starts_with("blocks-")));
    let blobs = std::fs::read_dir(folder.join("blobs")).expect("it is there");
    assert_eq!(blobs.count(), 0, "nothing is in files that are not synced");
}

fn latch_of(change: &Change) -> Option<LatchKey> {
    change.events.iter().find_map(|event| event.latch().cloned())
}

#[test]
fn a_folder_in_use_is_not_taken_for_a_damaged_one() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("history");
    let history = open(&folder, UNLIMITED, SMALL);
    append(&history, 0, 10);
    history.sync(0).expect("it works");
    let second = History::open_with(&folder, UNLIMITED, SMALL).expect_err("it is in use");
    assert!(matches!(second, HistoryError::Busy { .. }), "{second}");
    drop(history);
    assert_eq!(covered(&open(&folder, UNLIMITED, SMALL)), [(0, 10)]);
}

/// A block may be written again, or go, between the look at its row and the look at its bytes.
#[test]
fn readers_are_told_rightly_while_it_is_written_and_trimmed() {
    let home = tempfile::tempdir().expect("a folder");
    let limits = HistoryLimits { bytes_max: 20_000, age_max_ms: u64::MAX };
    let history = open(&home.path().join("history"), limits, SMALL);
    append(&history, 0, 100);
    history.sync(0).expect("it works");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for back in [0, 40, 200] {
            let (history, done) = (&history, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let newest = history.newest().expect("there is one").0;
                    let from = newest.saturating_sub(back);
                    match history.after(Revision(from), &interest(None), 500) {
                        Ok((told, upto)) => {
                            let expected = model::told(from, upto.0, &interest(None));
                            assert_eq!(plain(&told), expected);
                        }
                        Err(gap) => assert_eq!(gap.reason, GapReason::NotKept, "{gap}"),
                    }
                    match history.before(Revision(from + 1), &interest(None), 500) {
                        Ok((mut told, downto)) => {
                            told.reverse();
                            let expected = model::told(downto.0, from, &interest(None));
                            assert_eq!(plain(&told), expected);
                        }
                        Err(gap) => assert_eq!(gap.reason, GapReason::NotKept, "{gap}"),
                    }
                }
            });
        }
        for revision in 100..600 {
            append(&history, revision, revision + 1);
            history.sync(0).expect("it works");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(history.take_notes(), Vec::<String>::new());
    assert_eq!(history.covered().len(), 1);
}

/// What happens to a history, one after the other.
#[derive(Clone, Debug)]
enum Act {
    /// So many revisions more.
    Append(u64),
    /// The same, after a gap of so many.
    AppendLater(u64, u64),
    /// From so far back: it has some of them already.
    AppendAgain(u64, u64),
    Sync,
    /// What was not synced is lost.
    Restart,
    Jump(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..60_u64).prop_map(Act::Append),
        1 => (1..9_u64, 1..30_u64).prop_map(|(gap, more)| Act::AppendLater(gap, more)),
        1 => (0..30_u64, 1..30_u64).prop_map(|(back, more)| Act::AppendAgain(back, more)),
        3 => Just(Act::Sync),
        1 => Just(Act::Restart),
        1 => (1..9_u64).prop_map(Act::Jump),
    ]
}

/// Which revisions must be there: appended, synced, not beyond the limits.
#[derive(Default)]
struct Expected {
    synced: Vec<(u64, u64)>,
    appended: Vec<(u64, u64)>,
}

impl Expected {
    fn end(&self) -> Option<u64> {
        self.appended.last().map(|(_, upto)| *upto)
    }

    fn append(&mut self, from: u64, upto: u64) {
        match self.appended.last_mut() {
            Some((_, last)) if *last >= from => *last = upto.max(*last),
            Some(_) | None => self.appended.push((from, upto)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn it_tells_what_the_model_tells_or_names_the_gap(
        acts in vec(act(), 1..30),
        start in 0..40_u64,
        count in 1..80_usize,
        block_bytes in 300..6_000_usize,
        growing_bytes in 0..2_000_usize,
        value_bytes in 60..400_usize,
        bytes_max in prop_oneof![Just(u64::MAX), 2_000..20_000_u64],
    ) {
        let sizes = Sizes { block_bytes, growing_bytes, value_bytes, ..SMALL };
        let limits = HistoryLimits { bytes_max, age_max_ms: u64::MAX };
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("history");
        let mut history = open(&folder, limits, sizes);
        let mut expected = Expected::default();
        for act in acts {
            let end = expected.end().unwrap_or(start);
            let mut appended = |from: u64, upto: u64| {
                append(&history, from, upto);
                expected.append(from, upto);
            };
            match act {
                Act::Append(more) => appended(end, end + more),
                Act::AppendLater(gap, more) => appended(end + gap, end + gap + more),
                Act::AppendAgain(back, more) => {
                    // Before the first, there is nothing to have again.
                    let first = expected.appended.first().map_or(end, |(from, _)| *from);
                    let from = end.saturating_sub(back).max(first);
                    append(&history, from, from + more);
                    let held = expected.end().is_some_and(|end| from + more <= end);
                    if !held {
                        expected.append(end, from + more);
                    }
                }
                Act::Sync => {
                    history.sync(0).expect("it works");
                    expected.synced = expected.appended.clone();
                }
                Act::Restart => {
                    drop(history);
                    history = open(&folder, limits, sizes);
                    expected.appended = expected.synced.clone();
                }
                Act::Jump(over) => {
                    history.note_gap(Revision(end + over), GapReason::CheckpointInstalled);
                }
            }
            // A gap at the end is none before something follows it.
            let end = history.appended().map_or(0, |end| end.0);
            if let Some((_, last)) = expected.appended.last() && *last < end {
                expected.appended.push((end, end));
            }
            expected.appended.retain(|(from, upto)| from < upto || *upto == end);
            let told = assert_right(&history, end + 5, count);
            let synced: Vec<_> =
                expected.synced.iter().copied().filter(|(from, upto)| from < upto).collect();
            if bytes_max == u64::MAX {
                prop_assert_eq!(told, synced);
            } else {
                // The newest of it.
                let floor = told.first().map_or(u64::MAX, |(from, _)| *from);
                let kept = synced.iter().filter(|(_, upto)| *upto > floor);
                let kept: Vec<_> = kept.map(|(from, upto)| (floor.max(*from), *upto)).collect();
                prop_assert_eq!(told, kept);
            }
        }
    }
}
