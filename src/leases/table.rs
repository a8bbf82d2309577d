//! The leader's soft state: when each session was last heard, and which deadlines are due. Pure:
//! every call takes `now`, in milliseconds of the lease clock (see [`super::clock`]).
//!
//! One atomic word per session holds the time it was last heard, or [`ENDING`]. A heartbeat is a
//! compare-exchange that fails on `ENDING`, so a session whose removal may have been proposed is
//! never acknowledged (invariant S5); the wheel marks `ENDING` by compare-exchange from the very
//! value that it judged, so a heartbeat that came in between wins.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use roster_storage::command::Expiry;
use roster_storage::names::{Revision, SessionId};

/// The word of a session whose removal may have been proposed. No time is ever this large.
const ENDING: u64 = u64::MAX;

/// Width of a wheel slot, and so how late a deadline may be noticed, in milliseconds.
pub const SLOT_MS: u64 = 20;

/// Parts of the session map, so that registrations and heartbeats of different sessions do not
/// wait for each other.
const PARTS: u64 = 64;

/// No mark was sent.
const NO_MARK: i64 = i64::MIN;

/// One session as the leader knows it.
#[derive(Debug)]
struct Lease {
    session: SessionId,
    /// When it was last heard, or [`ENDING`].
    word: AtomicU64,
    ttl_ms: AtomicU64,
    /// The revision of the last registration or update that apply saw.
    touched: AtomicU64,
    /// The client's own mark of its last beat, or [`NO_MARK`].
    mark: AtomicI64,
    /// Set once the session is gone; the wheel then drops it.
    gone: std::sync::atomic::AtomicBool,
}

impl Lease {
    /// Renews unless the session is being ended. Time never goes back.
    fn renew(&self, now: u64) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word != ENDING).then(|| word.max(now))
            })
            .is_ok()
    }
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

/// Leases by the slot in which their deadline was last seen: each is in one slot, and is looked at
/// only when that slot comes due; if it was renewed meanwhile it is filed again.
#[derive(Debug, Default)]
struct Wheel {
    slots: BTreeMap<u64, Vec<Arc<Lease>>>,
}

impl Wheel {
    fn file(&mut self, lease: Arc<Lease>, deadline: u64) {
        self.slots.entry(deadline / SLOT_MS + 1).or_default().push(lease);
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

    /// Apply saw a session opened or touched: it lives for a full TTL from `heard`. Whatever expiry
    /// was under way names an older touch and will be dropped, so the word is simply set.
    pub fn touch(&self, session: SessionId, ttl_ms: u64, touched: Revision, heard: u64) {
        if let Some(lease) = self.find(session) {
            let earlier = lease.ttl_ms.swap(ttl_ms, Ordering::AcqRel) > ttl_ms;
            // First `touched`, then the word: the wheel reads them in the same order, so it
            // cannot pair the new touch with the old word.
            lease.touched.store(touched.0, Ordering::Release);
            let word = lease.word.load(Ordering::Acquire);
            lease
                .word
                .store(if word == ENDING { heard } else { word.max(heard) }, Ordering::Release);
            if earlier || word == ENDING {
                self.wheel.lock().file(lease, heard + ttl_ms);
            }
            return;
        }
        let lease = Arc::new(Lease {
            session,
            word: AtomicU64::new(heard),
            ttl_ms: AtomicU64::new(ttl_ms),
            touched: AtomicU64::new(touched.0),
            mark: AtomicI64::new(NO_MARK),
            gone: false.into(),
        });
        self.part(session).write().insert(session, lease.clone());
        self.wheel.lock().file(lease, heard + ttl_ms);
    }

    /// Apply saw a session end.
    pub fn forget(&self, session: SessionId) {
        if let Some(lease) = self.part(session).write().remove(&session) {
            lease.gone.store(true, Ordering::Release);
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
            ago_ms: match word {
                ENDING => lease.ttl_ms.load(Ordering::Relaxed),
                heard => now.saturating_sub(heard),
            },
            mark: (mark != NO_MARK).then_some(mark),
        })
    }

    /// Takes up to `limit` leases out of the slots that are due at `now`, files the renewed ones
    /// again and marks the others as ending. `None` when no slot is due: call again until then, with
    /// a fresh `now`, so that a long tick cannot judge by an old one.
    pub fn take_due(&self, now: u64, limit: usize) -> Option<Vec<Due>> {
        let piece = self.take_piece(now, limit)?;
        let mut due = Vec::new();
        for lease in piece {
            if let Some(ended) = self.judge(lease, now) {
                due.push(ended);
            }
        }
        Some(due)
    }

    fn take_piece(&self, now: u64, limit: usize) -> Option<Vec<Arc<Lease>>> {
        let mut wheel = self.wheel.lock();
        let mut first = wheel.slots.first_entry()?;
        if *first.key() > now / SLOT_MS {
            return None;
        }
        let slot = first.get_mut();
        let piece = slot.split_off(slot.len().saturating_sub(limit));
        if slot.is_empty() {
            first.remove();
        }
        Some(piece)
    }

    fn judge(&self, lease: Arc<Lease>, now: u64) -> Option<Due> {
        if lease.gone.load(Ordering::Acquire) {
            return None;
        }
        // The order matters: see `touch`.
        let touched = Revision(lease.touched.load(Ordering::Acquire));
        let heard = lease.word.load(Ordering::Acquire);
        if heard == ENDING {
            return None;
        }
        let deadline = heard + lease.ttl_ms.load(Ordering::Acquire);
        let marked = deadline <= now
            && lease
                .word
                .compare_exchange(heard, ENDING, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
        if !marked {
            let word = lease.word.load(Ordering::Acquire);
            if word != ENDING {
                let deadline = word + lease.ttl_ms.load(Ordering::Acquire);
                self.wheel.lock().file(lease, deadline.max(now));
            }
            return None;
        }
        let silent_ms = now.saturating_sub(heard);
        Some(Due { session: lease.session, touched, heard, silent_ms })
    }

    /// The proposal of these was certainly not appended: heartbeats may be acknowledged again.
    pub fn spare(&self, due: &[Due]) {
        for due in due {
            let Some(lease) = self.find(due.session) else { continue };
            let unmarked = lease
                .word
                .compare_exchange(ENDING, due.heard, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
            if unmarked {
                self.wheel.lock().file(lease, due.heard);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.read().len()).sum()
    }
}

#[cfg(test)]
mod tests {
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
        table.spare(&due);
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

    #[derive(Clone, Debug)]
    enum Act {
        Touch(u64, u64),
        Renew(u64),
        Forget(u64),
        Pass(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0..5u64, 20..400u64).prop_map(|(s, ttl)| Act::Touch(s, ttl)),
            (0..5u64).prop_map(Act::Renew),
            (0..5u64).prop_map(Act::Forget),
            (1..200u64).prop_map(Act::Pass),
        ]
    }

    proptest! {
        /// Against a plain model: a map of deadlines, walked whole at each step.
        #[test]
        fn the_wheel_finds_what_a_walk_over_all_deadlines_finds(
            acts in proptest::collection::vec(act(), 1..120),
        ) {
            let table = LeaseTable::new(1);
            let mut model: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            let (mut now, mut revision) = (0u64, 0u64);
            for act in acts {
                revision += 1;
                match act {
                    Act::Touch(s, ttl) => {
                        table.touch(SessionId(s), ttl, Revision(revision), now);
                        model.insert(s, (now, ttl));
                    }
                    Act::Renew(s) => {
                        let renewed = table.renew(SessionId(s), None, now).is_ok();
                        prop_assert_eq!(renewed, model.contains_key(&s));
                        model.entry(s).and_modify(|(heard, _)| *heard = now);
                    }
                    Act::Forget(s) => {
                        table.forget(SessionId(s));
                        model.remove(&s);
                    }
                    Act::Pass(ms) => now += ms,
                }
                for due in all_due(&table, now) {
                    let (heard, ttl) = model.remove(&due.session.0).expect("the model has it too");
                    prop_assert!(heard + ttl <= now, "removed before its deadline");
                    table.forget(due.session);
                }
                for (s, (heard, ttl)) in &model {
                    let noticed_by = heard + ttl + 2 * SLOT_MS;
                    prop_assert!(now < noticed_by, "session {} was overlooked", s);
                }
            }
        }
    }
}
