//! What a history must tell: a model of all changes, and a reader that compares.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use roster_storage::catalog::{At, Instance, State};
use roster_storage::command::{AppPolicy, Profile, Stamp};
use roster_storage::events::{Change, Event, Interest, Kind, Kinds, Reason, Seen};
use roster_storage::history::{Gap, GapReason, History, HistoryError, HistoryLimits, Sizes};
use roster_storage::latch::{Claim, Claimant, Mode};
use roster_storage::names::{
    AppName, Incarnation, InstanceId, InstanceKey, LatchKey, LatchKind, LatchName, Revision,
    SessionId,
};

pub const UNLIMITED: HistoryLimits = HistoryLimits { bytes_max: u64::MAX, age_max_ms: u64::MAX };

/// Sizes that make many blocks, parts, pages and segments of few changes.
pub const SMALL: Sizes = Sizes {
    block_bytes: 2_000,
    growing_bytes: 600,
    value_bytes: 300,
    segment_bytes: 32 * 1024,
    file_bytes: 4_000,
};

pub fn app(n: u64) -> AppName {
    AppName::new(format!("app-{n}")).expect("a name")
}

pub fn interest(apps: Option<&[u64]>) -> Interest {
    let apps = apps.map(|apps| apps.iter().map(|n| app(*n)).collect::<BTreeSet<_>>());
    Interest { apps, kinds: Kinds::told(), ..Interest::default() }
}

fn seen(revision: u64) -> Seen {
    let profile = Profile {
        ip: "10.0.0.1".into(),
        port: 8719,
        hostname: noise(revision, 40).into(),
        weight: 1,
        metadata: Arc::new(BTreeMap::from([("build".into(), noise(revision + 1, 60).into())])),
        ..Profile::default()
    };
    let instance = Instance {
        profile: profile.into(),
        session: SessionId(revision),
        incarnation: Incarnation(revision),
        revision: Revision(revision),
        registered_at_ms: revision,
    };
    Seen { instance: Arc::new(instance), state: State::Up }
}

/// Of a few latches, named like apps and unlike any.
pub fn latch(n: u64) -> LatchKey {
    let kind = if n.is_multiple_of(2) { LatchKind::Lock } else { LatchKind::Election };
    LatchKey::new(kind, LatchName::new(format!("app-{}", n / 2)).expect("a name"))
}

fn claim(revision: u64) -> Event {
    let latch = latch(revision % 21);
    let claim = Arc::new(Claim {
        by: Claimant { session: SessionId(revision), owner: "x".into() },
        mode: Mode::Exclusive,
        value: noise(revision, 30).into(),
        since: Revision(revision),
        token: revision.is_multiple_of(4).then_some(Revision(revision)),
        asked: Revision(revision),
    });
    match revision.is_multiple_of(7) {
        true => Event::ClaimEnded { latch, claim, reason: Reason::LetGo },
        false => Event::ClaimPut { latch, claim },
    }
}

/// In some apps or all of them, in some latches or all of them, and in latches alone.
fn interests() -> [Interest; 5] {
    let latches = |numbers: &[u64]| Some(numbers.iter().map(|n| latch(*n)).collect());
    let only_latches = std::iter::once(Kind::Latch).collect();
    [
        interest(None),
        Interest { latches: latches(&[3]), ..interest(Some(&[3])) },
        interest(Some(&[0, 99])),
        Interest { latches: latches(&[99]), ..interest(Some(&[99])) },
        Interest { latches: latches(&[0, 6, 99]), kinds: only_latches, ..interest(None) },
    ]
}

/// Text that does not compress, the same for the same number.
fn noise(mut seed: u64, length: usize) -> String {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (seed >> 33) as u8 % 26)
    };
    (0..length).map(|_| next()).collect()
}

/// The change of a revision, as the whole cluster agrees on it: `None` for those that told nothing.
pub fn change(revision: u64) -> Option<Arc<Change>> {
    let key = |app: AppName| {
        let id = InstanceId::new(format!("i{}", revision % 17)).expect("an id");
        InstanceKey::new(app, id)
    };
    let one = app(revision % 7);
    let incarnation = Incarnation(revision);
    let silent = Event::SessionEnded { session: SessionId(revision), reason: Reason::Operator };
    let put = Event::InstancePut {
        key: key(one.clone()),
        now: seen(revision),
        ttl_ms: 15_000,
        before: revision.is_multiple_of(2).then(|| seen(revision - 1)),
        said: if revision.is_multiple_of(3) { "rack 7".into() } else { "".into() },
    };
    let reason = Reason::Expired { silent_ms: revision };
    let events = match revision % 5 {
        0 if revision.is_multiple_of(10) => vec![claim(revision)],
        0 => return None,
        1 => vec![silent],
        2 => vec![
            put,
            Event::AppPut { app: app(revision % 3), policy: AppPolicy::default(), created: true },
        ],
        3 => vec![
            Event::InstanceDeleted {
                key: key(one.clone()),
                last: seen(revision),
                reason: reason.clone(),
            },
            silent,
            Event::ShardDeleted { key: key(one), incarnation, reason, held: Vec::new() },
        ],
        _ if revision.is_multiple_of(3) => vec![put, claim(revision)],
        _ => vec![put],
    };
    Some(Arc::new(Change::new(at(revision), events)))
}

pub fn at(revision: u64) -> At {
    let stamp = Stamp { cluster_ms: revision, wall_ms: wall_ms(revision) };
    At { revision: Revision(revision), term: 1 + revision / 100, stamp }
}

/// Ten milliseconds per revision, and now and then a clock that goes back.
pub fn wall_ms(revision: u64) -> u64 {
    1_000_000 + revision * 10 - (revision % 11) * 15
}

/// All that there is to tell after `from` up to `upto`.
pub fn changes(from: u64, upto: u64) -> Vec<Arc<Change>> {
    (from + 1..=upto).filter_map(change).collect()
}

/// What is told of them: without what is not for clients.
pub fn told(from: u64, upto: u64, interest: &Interest) -> Vec<Change> {
    let all = changes(from, upto).into_iter();
    let told = all.map(|change| {
        let events = change.told().cloned().collect();
        Change::new(change.at, events)
    });
    told.filter(|change| interest.touched_by(change)).collect()
}

pub fn plain(changes: &[Arc<Change>]) -> Vec<Change> {
    changes.iter().map(|change| Change::clone(change)).collect()
}

/// Opens it; waits until the one before has let go of the folder.
pub fn open(folder: &Path, limits: HistoryLimits, sizes: Sizes) -> History {
    loop {
        match History::open_with(folder, limits, sizes) {
            Ok(history) => return history,
            Err(HistoryError::Busy { .. }) => std::thread::yield_now(),
            Err(e @ HistoryError::Failed { .. }) => panic!("{e}"),
        }
    }
}

/// Reads all of it forwards, in pieces, and compares. Returns the ranges that were told, each with
/// the revision before its first and its last, and the gaps.
pub fn read_forwards(
    history: &History,
    newest: u64,
    interest: &Interest,
    count: usize,
) -> (Vec<(u64, u64)>, Vec<Gap>) {
    let (mut ranges, mut gaps) = (Vec::new(), Vec::new());
    let mut from = 0;
    while from < newest {
        match history.after(Revision(from), interest, count) {
            Ok((changes, upto)) => {
                assert_eq!(plain(&changes), told(from, upto.0, interest), "({from}, {upto}]");
                assert!(changes.len() <= count, "{} of {count}", changes.len());
                if upto.0 == from {
                    break;
                }
                join(&mut ranges, (from, upto.0));
                from = upto.0;
            }
            Err(gap) => {
                assert_eq!(gap.after, Revision(from));
                assert!(gap.upto.0 > from, "{gap}");
                gaps.push(gap);
                from = gap.upto.0;
            }
        }
    }
    (ranges, gaps)
}

/// The same backwards, with the ranges from the newest to the oldest.
pub fn read_backwards(
    history: &History,
    newest: u64,
    interest: &Interest,
    count: usize,
) -> (Vec<(u64, u64)>, Vec<Gap>) {
    let (mut ranges, mut gaps) = (Vec::new(), Vec::new());
    let mut upto = newest;
    while upto > 0 {
        match history.before(Revision(upto + 1), interest, count) {
            Ok((mut changes, downto)) => {
                changes.reverse();
                assert_eq!(plain(&changes), told(downto.0, upto, interest), "({downto}, {upto}]");
                assert!(changes.len() <= count, "{} of {count}", changes.len());
                assert!(downto.0 < upto, "it comes on");
                join_down(&mut ranges, (downto.0, upto));
                upto = downto.0;
            }
            Err(gap) => {
                assert_eq!(gap.upto, Revision(upto));
                assert!(gap.after.0 < upto, "{gap}");
                gaps.push(gap);
                upto = gap.after.0;
            }
        }
    }
    (ranges, gaps)
}

fn join(ranges: &mut Vec<(u64, u64)>, (from, upto): (u64, u64)) {
    match ranges.last_mut() {
        Some((_, last)) if *last == from => *last = upto,
        Some(_) | None => ranges.push((from, upto)),
    }
}

fn join_down(ranges: &mut Vec<(u64, u64)>, (from, upto): (u64, u64)) {
    match ranges.last_mut() {
        Some((first, _)) if *first == upto => *first = from,
        Some(_) | None => ranges.push((from, upto)),
    }
}

/// What it says that it covers, in the form of the readers above.
pub fn covered(history: &History) -> Vec<(u64, u64)> {
    history.covered().iter().map(|(first, last)| (first.0 - 1, last.0)).collect()
}

/// Reads all of it both ways, for all apps and latches and for some. Everything told must be right, and what is
/// covered and what was told must be the same in the end. Returns the covered ranges.
pub fn assert_right(history: &History, newest: u64, count: usize) -> Vec<(u64, u64)> {
    let all = interest(None);
    let (ranges, gaps) = read_forwards(history, newest, &all, count);
    assert_eq!(ranges, covered(history), "what was told is what is covered; gaps: {gaps:?}");
    for interest in interests() {
        let (forwards, _) = read_forwards(history, newest, &interest, count);
        assert_eq!(forwards, ranges);
        let (mut backwards, _) = read_backwards(history, newest, &interest, count);
        backwards.reverse();
        assert_eq!(backwards, ranges);
    }
    let between = ranges.windows(2).map(|pair| (pair[0].1, pair[1].0));
    let named = history.gaps();
    let told: Vec<_> = named.iter().map(|gap| (gap.after.0, gap.upto.0)).collect();
    assert_eq!(told, between.collect::<Vec<_>>());
    let hidden = |gap: &Gap| matches!(gap.reason, GapReason::NotKept | GapReason::NotYet);
    assert!(!named.iter().any(hidden), "{named:?}");
    ranges
}
