//! The leader's soft state: when each session was last heard, and which deadlines are due. Pure:
//! every call takes `now`, in milliseconds of the lease clock (see [`super::clock`]).
//!
//! One atomic word per session holds the time it was last heard, and whether it is [`ENDING`]. A
//! heartbeat is a compare-exchange that fails on an ending session, so one whose removal may have
//! been proposed is never acknowledged (invariant S5); the wheel marks a session as ending by
//! compare-exchange from the very value that it judged, so a heartbeat that came in between wins.
//!
//! Registrations are rarer, and what they change is more than a word: the expiry names the last
//! one. So a session's touches and judgements exclude each other by a lock that heartbeats do not
//! take. A touch that comes before a judgement is both judged and named. One that comes after it
//! takes the mark away: the expiry names an older touch, and apply drops it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use roster_storage::command::Expiry;
use roster_storage::names::{Revision, SessionId};

/// Set in the word of a session whose removal may have been proposed; the other bits still say when
/// it was last heard. No time is ever this large.
const ENDING: u64 = 1 << 63;

fn is_ending(word: u64) -> bool {
    word & ENDING != 0
}

fn heard(word: u64) -> u64 {
    word & !ENDING
}

/// Width of a wheel slot, and so how late a deadline may be noticed, in milliseconds.
pub const SLOT_MS: u64 = 20;

/// Parts of the session map, so that registrations and heartbeats of different sessions do not
/// wait for each other.
const PARTS: u64 = 64;

/// How far ahead a lease is filed at most. A later deadline is looked at on the way, so that what is
/// gone leaves the wheel by then.
const FILED_AHEAD_MS: u64 = 60_000;

/// The slot of a lease that is in none.
const NOWHERE: u64 = u64::MAX;

/// No mark was sent.
const NO_MARK: i64 = i64::MIN;

/// One session as the leader knows it.
#[derive(Debug)]
struct Lease {
    session: SessionId,
    /// When it was last heard, and whether it is [`ENDING`].
    word: AtomicU64,
    ttl_ms: AtomicU64,
    /// The revision of the last registration or update that apply saw; `None` once the session is
    /// gone. Held while the lease is touched, judged or spared.
    touched: Mutex<Option<Revision>>,
    /// The client's own mark of its last beat, or [`NO_MARK`].
    mark: AtomicI64,
    /// The slot in which the wheel looks at it, or [`NOWHERE`]; kept by the wheel, under its lock.
    filed: AtomicU64,
}

impl Lease {
    /// Renews unless the session is being ended. Time never goes back.
    fn renew(&self, now: u64) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (!is_ending(word)).then(|| word.max(now))
            })
            .is_ok()
    }

    /// Whatever expiry was under way names an older touch and will be dropped, so the mark goes.
    /// Returns the deadline. A beat that comes in at the same moment is not lost.
    fn touch(&self, ttl_ms: u64, touched: Revision, now: u64) -> u64 {
        let mut last_touched = self.touched.lock();
        *last_touched = Some(touched);
        self.ttl_ms.store(ttl_ms, Ordering::Release);
        let unmarked = |word| heard(word).max(now);
        let touch = |word| Some(unmarked(word));
        match self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, touch) {
            Ok(word) | Err(word) => unmarked(word) + ttl_ms,
        }
    }

    fn judge(&self, now: u64) -> Judgement {
        let last_touched = self.touched.lock();
        let Some(touched) = *last_touched else { return Judgement::Left };
        let word = self.word.load(Ordering::Acquire);
        if is_ending(word) {
            return Judgement::Left;
        }
        let ttl_ms = self.ttl_ms.load(Ordering::Acquire);
        if word + ttl_ms <= now {
            let mark = (word, word | ENDING);
            match self.word.compare_exchange(mark.0, mark.1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let silent_ms = now.saturating_sub(word);
                    let session = self.session;
                    return Judgement::Due(Due { session, touched, heard: word, silent_ms });
                }
                // A beat: only judgements mark, and this is the one that goes on.
                Err(renewed) => return Judgement::Lives { deadline: renewed + ttl_ms },
            }
        }
        Judgement::Lives { deadline: word + ttl_ms }
    }

    /// Takes the mark of `due` away. Returns the deadline, if it was still marked by that.
    fn spare(&self, due: &Due) -> Option<u64> {
        let last_touched = self.touched.lock();
        if *last_touched != Some(due.touched) {
            return None;
        }
        let mark = due.heard | ENDING;
        self.word
            .compare_exchange(mark, due.heard, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
            .then(|| due.heard + self.ttl_ms.load(Ordering::Acquire))
    }
}

/// What a look at a lease showed.
enum Judgement {
    Lives {
        deadline: u64,
    },
    /// It is marked as ending now.
    Due(Due),
    /// Gone, or marked before: nothing to look at until it is touched or spared.
    Left,
}

/// What the wheel found due: the session, and what must be told when it is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub session: SessionId,
    pub touched: Revision,
    /// When it was last heard: put back if the proposal certainly was not appended.
    heard: u64,
    pub silent_ms: u64,
}

impl From<Due> for Expiry {
    fn from(due: Due) -> Self {
        Self { session: due.session, touched: due.touched, silent_ms: due.silent_ms }
    }
}

/// Why a session was not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRenewed {
    Unknown,
    Ending,
}

/// What is known of a session's last sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastHeard {
    pub ago_ms: u64,
    pub mark: Option<i64>,
}

/// All leases of one leadership.
#[derive(Debug)]
pub struct LeaseTable {
    term: u64,
    parts: Vec<RwLock<HashMap<SessionId, Arc<Lease>>>>,
    wheel: Mutex<Wheel>,
}

/// Leases by the slot in which they are looked at, which is never after their deadline's; one that
/// was renewed meanwhile is filed again. Each counts in one slot only: a copy that an earlier
/// deadline left behind in a later slot is dropped when that slot comes due.
#[derive(Debug, Default)]
struct Wheel {
    slots: BTreeMap<u64, Vec<Arc<Lease>>>,
}

impl Wheel {
    fn file(&mut self, lease: Arc<Lease>, deadline: u64, now: u64) {
        let slot = deadline.clamp(now, now + FILED_AHEAD_MS) / SLOT_MS + 1;
        if slot < lease.filed.load(Ordering::Relaxed) {
            lease.filed.store(slot, Ordering::Relaxed);
            self.slots.entry(slot).or_default().push(lease);
        }
    }

    /// Up to `limit` leases of the first slot, if that is due. `None`: it is not.
    fn take(&mut self, now: u64, limit: usize) -> Option<Vec<Arc<Lease>>> {
        let mut first = self.slots.first_entry().filter(|first| *first.key() <= now / SLOT_MS)?;
        let slot = *first.key();
        let leases = first.get_mut();
        let mut taken = leases.split_off(leases.len().saturating_sub(limit));
        if leases.is_empty() {
            first.remove();
        }
        let takes_out = |lease: &mut Arc<Lease>| {
            let filed =
                lease.filed.compare_exchange(slot, NOWHERE, Ordering::Relaxed, Ordering::Relaxed);
            filed.is_ok()
        };
        taken.retain_mut(takes_out);
        Some(taken)
    }
}

impl LeaseTable {
    /// An empty table for the leadership of `term`.
    pub fn new(term: u64) -> Self {
        Self {
            term,
            parts: (0..PARTS).map(|_| RwLock::default()).collect(),
            wheel: Mutex::default(),
        }
    }

    pub fn term(&self) -> u64 {
        self.term
    }

    fn part(&self, session: SessionId) -> &RwLock<HashMap<SessionId, Arc<Lease>>> {
        &self.parts[(session.0 % PARTS) as usize]
    }

    fn find(&self, session: SessionId) -> Option<Arc<Lease>> {
        self.part(session).read().get(&session).cloned()
    }

    /// Apply saw a session opened or touched: it lives for a full TTL from `heard`.
    pub fn touch(&self, session: SessionId, ttl_ms: u64, touched: Revision, heard: u64) {
        if let Some(lease) = self.find(session) {
            let deadline = lease.touch(ttl_ms, touched, heard);
            self.wheel.lock().file(lease, deadline, heard);
            return;
        }
        let lease = Arc::new(Lease {
            session,
            word: AtomicU64::new(heard),
            ttl_ms: AtomicU64::new(ttl_ms),
            touched: Mutex::new(Some(touched)),
            mark: AtomicI64::new(NO_MARK),
            filed: AtomicU64::new(NOWHERE),
        });
        self.part(session).write().insert(session, lease.clone());
        self.wheel.lock().file(lease, heard + ttl_ms, heard);
    }

    /// Apply saw a session end.
    pub fn forget(&self, session: SessionId) {
        if let Some(lease) = self.part(session).write().remove(&session) {
            *lease.touched.lock() = None;
        }
    }

    /// A heartbeat arrived and the leadership was confirmed after that. Returns the TTL.
    pub fn renew(
        &self,
        session: SessionId,
        mark: Option<i64>,
        now: u64,
    ) -> Result<u64, NotRenewed> {
        let lease = self.find(session).ok_or(NotRenewed::Unknown)?;
        if !lease.renew(now) {
            return Err(NotRenewed::Ending);
        }
        if let Some(mark) = mark {
            lease.mark.store(mark, Ordering::Relaxed);
        }
        Ok(lease.ttl_ms.load(Ordering::Relaxed))
    }

    pub fn last_heard(&self, session: SessionId, now: u64) -> Option<LastHeard> {
        let lease = self.find(session)?;
        let word = lease.word.load(Ordering::Acquire);
        let mark = lease.mark.load(Ordering::Relaxed);
        Some(LastHeard {
            ago_ms: now.saturating_sub(heard(word)),
            mark: (mark != NO_MARK).then_some(mark),
        })
    }

    /// Takes up to `limit` leases out of the slots that are due at `now`, files the renewed ones
    /// again and marks the others as ending. `None` when no slot is due: call again until then, with
    /// a fresh `now`, so that a long tick cannot judge by an old one.
    pub fn take_due(&self, now: u64, limit: usize) -> Option<Vec<Due>> {
        let piece = self.wheel.lock().take(now, limit)?;
        Some(piece.into_iter().filter_map(|lease| self.judge(lease, now)).collect())
    }

    fn judge(&self, lease: Arc<Lease>, now: u64) -> Option<Due> {
        match lease.judge(now) {
            Judgement::Due(due) => Some(due),
            Judgement::Lives { deadline } => {
                self.wheel.lock().file(lease, deadline, now);
                None
            }
            Judgement::Left => None,
        }
    }

    /// The proposal of these was certainly not appended: heartbeats may be acknowledged again. They
    /// are looked at in the next slot, not in one that is due already.
    pub fn spare(&self, due: impl IntoIterator<Item = Due>, now: u64) {
        for due in due {
            let Some(lease) = self.find(due.session) else { continue };
            if let Some(deadline) = lease.spare(&due) {
                self.wheel.lock().file(lease, deadline, now);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.read().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;

    const S: SessionId = SessionId(1);

    fn all_due(table: &LeaseTable, now: u64) -> Vec<Due> {
        std::iter::from_fn(|| table.take_due(now, 3)).flatten().collect()
    }

    #[test]
    fn a_session_lives_for_its_ttl_after_the_last_heartbeat_and_not_less() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        assert_eq!(all_due(&table, 999), []);
        assert_eq!(table.renew(S, None, 990), Ok(1_000));
        assert_eq!(all_due(&table, 1_989), []);
        let due = all_due(&table, 1_990 + 2 * SLOT_MS);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].session, S);
    }

    #[test]
    fn a_heartbeat_is_not_acknowledged_once_the_removal_may_have_been_proposed() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        let due = all_due(&table, 2_000);
        assert_eq!(table.renew(S, None, 2_000), Err(NotRenewed::Ending));
        table.spare(due, 2_000);
        assert_eq!(table.renew(S, None, 2_001), Ok(1_000));
        assert_eq!(all_due(&table, 3_000), []);
    }

    #[test]
    fn a_registration_saves_a_session_whose_expiry_names_an_older_touch() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        let due = all_due(&table, 2_000);
        assert_eq!(due[0].touched, Revision(1));
        table.touch(S, 1_000, Revision(7), 2_000);
        assert_eq!(table.renew(S, None, 2_001), Ok(1_000));
        assert_eq!(all_due(&table, 2_990), []);
        let again = all_due(&table, 4_000);
        assert_eq!(again[0].touched, Revision(7));
    }

    #[test]
    fn a_spared_session_is_looked_at_again_in_the_next_slot_and_not_before() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        let due = all_due(&table, 2_000);
        assert_eq!(due.len(), 1);
        table.spare(due, 2_000);
        assert_eq!(table.take_due(2_000, 1), None);
        assert_eq!(all_due(&table, 2_000 + SLOT_MS).len(), 1);
    }

    #[test]
    fn sparing_a_dropped_expiry_does_not_take_a_later_mark_away() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        let dropped = all_due(&table, 2_000);
        // At the same moment as before, so that only the touch tells the two marks apart.
        table.touch(S, 1_000, Revision(2), 0);
        assert_eq!(all_due(&table, 2_000 + SLOT_MS)[0].touched, Revision(2));
        table.spare(dropped, 2_100);
        assert_eq!(table.renew(S, None, 2_100), Err(NotRenewed::Ending));
    }

    #[test]
    fn a_touch_does_not_take_a_later_beat_back() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        assert_eq!(table.renew(S, None, 900), Ok(1_000));
        table.touch(S, 1_000, Revision(2), 500);
        assert_eq!(all_due(&table, 1_899), []);
    }

    #[test]
    fn what_is_gone_leaves_the_wheel_long_before_its_deadline() {
        let table = LeaseTable::new(1);
        let day = 24 * 3_600_000;
        for id in 0..1_000 {
            table.touch(SessionId(id), day, Revision(1), 0);
            table.forget(SessionId(id));
        }
        table.touch(S, day, Revision(2), 0);
        assert_eq!(all_due(&table, FILED_AHEAD_MS + SLOT_MS), []);
        assert_eq!(filed(&table), 1);
        assert_eq!(all_due(&table, day - 1), []);
        assert_eq!(all_due(&table, day + SLOT_MS).len(), 1);
    }

    #[test]
    fn a_ttl_that_goes_up_and_down_leaves_one_copy_in_the_wheel() {
        let table = LeaseTable::new(1);
        let mut now = 0;
        for revision in 0..1_000 {
            let ttl = if revision % 2 == 0 { 50_000 } else { 1_000 };
            table.touch(S, ttl, Revision(revision), now);
            now += 900;
            assert_eq!(all_due(&table, now), []);
            assert!(filed(&table) <= 60, "{} copies", filed(&table));
        }
        table.touch(S, 50_000, Revision(1_000), now);
        assert_eq!(all_due(&table, now + 50_000 - 1), []);
        assert_eq!(filed(&table), 1);
    }

    fn filed(table: &LeaseTable) -> usize {
        table.wheel.lock().slots.values().map(Vec::len).sum()
    }

    #[test]
    fn a_forgotten_session_is_neither_renewed_nor_due() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        table.forget(S);
        assert_eq!(table.renew(S, None, 1), Err(NotRenewed::Unknown));
        assert_eq!(all_due(&table, 10_000), []);
    }

    #[test]
    fn a_shortened_ttl_is_noticed_at_its_own_deadline() {
        let table = LeaseTable::new(1);
        table.touch(S, 60_000, Revision(1), 0);
        table.touch(S, 1_000, Revision(2), 100);
        assert_eq!(all_due(&table, 1_100 + 2 * SLOT_MS).len(), 1);
    }

    /// What apply and clients do to one session while the keeper judges it, each in a thread.
    struct Race {
        table: LeaseTable,
        now: AtomicU64,
        /// The latest beat that was acknowledged.
        acknowledged: AtomicU64,
        over: AtomicBool,
    }

    impl Race {
        const TTL: u64 = 20;

        fn judge(&self, proposals: &mpsc::Sender<Due>) {
            while !self.over.load(Ordering::Acquire) {
                for due in all_due(&self.table, self.now.load(Ordering::Acquire)) {
                    proposals.send(due).expect("apply takes them");
                }
            }
        }

        fn beat(&self) {
            while !self.over.load(Ordering::Acquire) {
                let now = self.now.load(Ordering::Acquire);
                // Not at all times, or nobody would ever be late.
                if now.is_multiple_of(8) && self.table.renew(S, None, now).is_ok() {
                    self.acknowledged.fetch_max(now, Ordering::AcqRel);
                }
            }
        }

        /// What apply makes of an expiry: true if it removed the session.
        fn expire(&self, due: Due, touched: Revision, registered: u64) -> bool {
            if due.touched != touched {
                return false;
            }
            assert!(due.heard >= registered, "removed, and its registration was not judged");
            let acknowledged = self.acknowledged.load(Ordering::Acquire);
            assert!(
                due.heard >= acknowledged,
                "removed, and a beat at {acknowledged} was not judged"
            );
            self.table.forget(S);
            true
        }

        /// Returns the last touch and its time.
        fn apply(&self, rounds: u64, proposals: &mpsc::Receiver<Due>) -> (Revision, u64) {
            let (mut touched, mut registered) = (Revision(0), 0);
            for round in 1..=rounds {
                let stale = self.now.load(Ordering::Acquire);
                let due_now = Self::TTL + SLOT_MS + round % SLOT_MS;
                let now = self.now.fetch_add(due_now, Ordering::AcqRel) + due_now;
                (0..round % 256).for_each(|_| std::hint::spin_loop());
                for due in proposals.try_iter() {
                    self.expire(due, touched, registered);
                }
                (touched, registered) =
                    (Revision(round), if round.is_multiple_of(3) { stale } else { now });
                self.table.touch(S, Self::TTL, touched, registered);
            }
            (touched, registered)
        }
    }

    /// Ends the others if apply panics.
    struct Ends<'a>(&'a AtomicBool);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[test]
    fn touches_beats_and_judgements_may_come_at_the_same_moment() {
        // Many short races, since only the end of one shows whether the lease was lost.
        for rounds in (1..=40).cycle().take(2_000) {
            let race = Race {
                table: LeaseTable::new(1),
                now: AtomicU64::new(0),
                acknowledged: AtomicU64::new(0),
                over: AtomicBool::new(false),
            };
            let (proposals, proposed) = mpsc::channel();
            let (touched, registered) = std::thread::scope(|scope| {
                scope.spawn(|| race.judge(&proposals));
                scope.spawn(|| race.beat());
                let _ends = Ends(&race.over);
                race.apply(rounds, &proposed)
            });
            // All is still: the session goes when its time is over, whatever happened before.
            let end = race.now.load(Ordering::Acquire) + Race::TTL + 2 * SLOT_MS;
            let mut expire = |due| race.expire(due, touched, registered);
            let gone = proposed.try_iter().any(&mut expire)
                || all_due(&race.table, end).into_iter().any(expire);
            assert!(gone, "the session is in no slot, or still marked for a dropped expiry");
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Touch(u64, u64),
        Renew(u64),
        Forget(u64),
        Pass(u64, Fate),
    }

    /// What becomes of the expiries that are proposed after some time passed.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Applied,
        /// Nothing was appended.
        Spared,
        /// A registration went ahead of it in the log, with this TTL.
        Dropped(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let ttl = || 20..400u64;
        let fate = prop_oneof![
            2 => Just(Fate::Applied),
            1 => Just(Fate::Spared),
            1 => ttl().prop_map(Fate::Dropped),
        ];
        prop_oneof![
            (0..5u64, ttl()).prop_map(|(s, ttl)| Act::Touch(s, ttl)),
            (0..5u64).prop_map(Act::Renew),
            (0..5u64).prop_map(Act::Forget),
            (1..200u64, fate).prop_map(|(ms, fate)| Act::Pass(ms, fate)),
        ]
    }

    /// A session as a plain map of deadlines knows it.
    #[derive(Clone, Copy, Debug)]
    struct Modelled {
        heard: u64,
        ttl: u64,
        touched: Revision,
        /// When it was spared: it is noticed again after that.
        spared: u64,
    }

    proptest! {
        /// Against a plain model: a map of deadlines, walked whole at each step.
        #[test]
        fn the_wheel_finds_what_a_walk_over_all_deadlines_finds(
            acts in proptest::collection::vec(act(), 1..120),
        ) {
            let table = LeaseTable::new(1);
            let mut model: BTreeMap<u64, Modelled> = BTreeMap::new();
            let (mut now, mut revision) = (0u64, 0u64);
            for act in acts {
                revision += 1;
                let touched = Revision(revision);
                let mut fate = Fate::Applied;
                match act {
                    Act::Touch(s, ttl) => {
                        table.touch(SessionId(s), ttl, touched, now);
                        model.insert(s, Modelled { heard: now, ttl, touched, spared: 0 });
                    }
                    Act::Renew(s) => {
                        let renewed = table.renew(SessionId(s), None, now).is_ok();
                        prop_assert_eq!(renewed, model.contains_key(&s));
                        model.entry(s).and_modify(|known| known.heard = now);
                    }
                    Act::Forget(s) => {
                        table.forget(SessionId(s));
                        model.remove(&s);
                    }
                    Act::Pass(ms, then) => {
                        now += ms;
                        fate = then;
                    }
                }
                for due in all_due(&table, now) {
                    let s = due.session.0;
                    let known = model.remove(&s).expect("the model has it too");
                    prop_assert!(known.heard + known.ttl <= now, "removed before its deadline");
                    prop_assert_eq!(due.touched, known.touched);
                    prop_assert_eq!(due.silent_ms, now - known.heard);
                    prop_assert_eq!(table.renew(due.session, None, now), Err(NotRenewed::Ending));
                    match fate {
                        Fate::Applied => table.forget(due.session),
                        Fate::Spared => {
                            table.spare([due], now);
                            model.insert(s, Modelled { spared: now, ..known });
                        }
                        Fate::Dropped(ttl) => {
                            table.touch(due.session, ttl, touched, now);
                            model.insert(s, Modelled { heard: now, ttl, touched, spared: 0 });
                        }
                    }
                }
                for (s, known) in &model {
                    let noticed_by = (known.heard + known.ttl).max(known.spared) + 2 * SLOT_MS;
                    prop_assert!(now < noticed_by, "session {} was overlooked", s);
                }
            }
        }
    }
}
