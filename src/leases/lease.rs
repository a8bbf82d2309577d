//! One session as the leader knows it: when it was last heard, by which node, and whether it is
//! being ended.
//!
//! All of that is one atomic word. A heartbeat is a compare-exchange that fails on an ending
//! session, so one whose removal may have been proposed is never acknowledged (invariant S5); who
//! ends a session marks it by compare-exchange from the very value that it judged, so a heartbeat
//! that came in between wins.
//!
//! Registrations are rarer, and what they change is more than a word: the expiry names the last
//! one. So a session's touches and judgements exclude each other by a lock; a heartbeat takes that
//! for no more than the last touch, where it comes by a remembered place or names an incarnation. A touch that
//! comes before a judgement is both judged and named. One that comes after it takes the mark away:
//! the expiry names an older touch, and apply drops it.

use roster_storage::brake::stretched;
use roster_storage::command::Expiry;
use roster_storage::names::{Revision, SessionId};

use super::sync::{AtomicI64, AtomicU32, AtomicU64, Mutex, Ordering};

/// Set in the word of a session whose removal may have been proposed; the other bits still say when
/// it was last heard, and by whom.
const ENDING: u64 = 1 << 63;

/// Where in the word the node stands that took the last heartbeat.
const VIA_SHIFT: u32 = 56;

/// The bits of the time in the word, in milliseconds: enough for two million years.
const HEARD: u64 = (1 << VIA_SHIFT) - 1;

/// The slot of a lease that is in none.
pub const NOWHERE: u64 = u64::MAX;

/// No mark was sent.
const NO_MARK: i64 = i64::MIN;

/// The node that took a heartbeat, as a small number that the lease table gave it; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via(u8);

impl Via {
    pub const NONE: Self = Self(0);

    /// So many nodes can be told apart.
    pub const COUNT: u8 = 127;

    /// The node with this number, from 0. `None` if it is beyond [`Via::COUNT`].
    pub fn numbered(number: usize) -> Self {
        match u8::try_from(number) {
            Ok(number) if number < Self::COUNT => Self(number + 1),
            Ok(_) | Err(_) => Self::NONE,
        }
    }

    /// The number, from 0, if there was a node.
    pub fn number(self) -> Option<usize> {
        self.0.checked_sub(1).map(usize::from)
    }
}

/// A lease's word, taken apart: see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    fn is_ending(self) -> bool {
        self.0 & ENDING != 0
    }

    fn heard(self) -> u64 {
        self.0 & HEARD
    }

    fn via(self) -> Via {
        Via(((self.0 & !ENDING) >> VIA_SHIFT) as u8)
    }

    fn ending(self) -> Self {
        Self(self.0 | ENDING)
    }

    /// Not ending, and heard at `now` or later: time never goes back.
    fn heard_at(self, now: u64) -> Self {
        Self((self.0 & !(ENDING | HEARD)) | self.heard().max(now).min(HEARD))
    }

    fn by(self, via: Via) -> Self {
        Self((self.0 & (ENDING | HEARD)) | (u64::from(via.0) << VIA_SHIFT))
    }
}

/// How TTLs are lengthened at the moment, in percent: 100 is as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch(pub u32);

impl Stretch {
    /// A TTL as it counts.
    pub fn of(self, ttl_ms: u64) -> u64 {
        stretched(ttl_ms, self.0)
    }
}

/// See the module. Its times are milliseconds of the lease clock.
#[derive(Debug)]
pub struct Lease {
    pub session: SessionId,
    word: AtomicU64,
    /// At most `TTL_MS_MAX`: less than 50 days.
    ttl_ms: AtomicU32,
    /// The revision of the last registration or update that apply saw. Held while the lease is
    /// touched, judged or spared.
    touched: Mutex<Touched>,
    /// The client's own mark of its last beat, or [`NO_MARK`].
    mark: AtomicI64,
    /// The slot in which the wheel looks at it, or [`NOWHERE`].
    filed: AtomicU64,
}

/// A touch.
#[derive(Clone, Copy, Debug)]
struct Touched {
    /// The bytes may lie anywhere, so that they take no more room with a lock than both have.
    revision: [u8; 8],
    /// The life of the private session's instance is known to have begun with it.
    began: bool,
}

impl Touched {
    fn at(revision: Revision) -> Self {
        Self { revision: revision.0.to_ne_bytes(), began: false }
    }

    fn revision(self) -> Revision {
        Revision(u64::from_ne_bytes(self.revision))
    }
}

fn short(ttl_ms: u64) -> u32 {
    u32::try_from(ttl_ms).unwrap_or(u32::MAX)
}

/// What a look at a lease showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    Lives {
        deadline: u64,
    },
    /// Its deadline passed.
    Late {
        touched: Revision,
        heard: u64,
        via: Via,
    },
    /// It is marked as ending.
    Ending,
}

/// What became of an attempt to end a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// It is marked now.
    Due(Due),
    /// It was renewed or touched.
    Lives { deadline: u64 },
    /// It was marked before.
    Before,
}

/// A session that is marked as ending, and what must be told when its removal is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub session: SessionId,
    pub touched: Revision,
    pub silent_ms: u64,
    /// What it was marked from: put back if the proposal certainly was not appended.
    judged: Word,
}

impl Due {
    /// When it was last heard.
    #[cfg(test)]
    pub fn heard(&self) -> u64 {
        self.judged.heard()
    }
}

impl From<Due> for Expiry {
    fn from(due: Due) -> Self {
        Self { session: due.session, touched: due.touched, silent_ms: due.silent_ms }
    }
}

impl Lease {
    /// In no slot yet.
    pub fn new(session: SessionId, ttl_ms: u64, touched: Revision, heard: u64) -> Self {
        Self {
            session,
            word: AtomicU64::new(Word(0).heard_at(heard).0),
            ttl_ms: AtomicU32::new(short(ttl_ms)),
            touched: Mutex::new(Touched::at(touched)),
            mark: AtomicI64::new(NO_MARK),
            filed: AtomicU64::new(NOWHERE),
        }
    }

    fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    fn deadline_of(&self, word: Word, stretch: Stretch) -> u64 {
        word.heard() + stretch.of(self.ttl_ms.load(Ordering::Acquire).into())
    }

    pub fn deadline(&self, stretch: Stretch) -> u64 {
        self.deadline_of(self.word(), stretch)
    }

    /// Renews unless the session is being ended. Returns the TTL as it was registered.
    pub fn renew(&self, mark: Option<i64>, via: Via, now: u64) -> Option<u64> {
        let beat = |word| {
            let word = Word(word);
            (!word.is_ending()).then(|| word.heard_at(now).by(via).0)
        };
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, beat).ok()?;
        if let Some(mark) = mark {
            self.mark.store(mark, Ordering::Relaxed);
        }
        Some(self.ttl_ms.load(Ordering::Relaxed).into())
    }

    /// The life of its instance began with its last touch, if that was at this revision.
    pub fn began(&self, at: Revision) {
        let mut touched = self.touched.lock();
        touched.began |= touched.revision() == at;
    }

    /// Whether the life of its instance began at this revision, as far as the last touch tells.
    pub fn is_known_to_have_begun(&self, at: Revision) -> bool {
        let touched = self.touched.lock();
        touched.began && touched.revision() == at
    }

    /// As [`Lease::renew`], unless it was touched after `seen`: then other things may hang off it than were seen.
    pub fn renew_as_seen(&self, seen: Revision, via: Via, now: u64) -> Option<u64> {
        let unchanged = self.touched.lock().revision() <= seen;
        unchanged.then(|| self.renew(None, via, now)).flatten()
    }

    /// Whatever expiry was under way names an older touch and will be dropped, so the mark goes.
    /// Returns the deadline. A beat that comes in at the same moment is not lost.
    pub fn touch(&self, ttl_ms: u64, touched: Revision, now: u64, stretch: Stretch) -> u64 {
        let mut last_touched = self.touched.lock();
        *last_touched = Touched::at(touched);
        self.ttl_ms.store(short(ttl_ms), Ordering::Release);
        let touch = |word| Some(Word(word).heard_at(now).0);
        match self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, touch) {
            Ok(word) | Err(word) => Word(word).heard_at(now).heard() + stretch.of(ttl_ms),
        }
    }

    /// Whether its deadline passed; it can still be renewed.
    pub fn look(&self, now: u64, stretch: Stretch) -> Judgement {
        let touched = self.touched.lock();
        let word = self.word();
        let deadline = self.deadline_of(word, stretch);
        if word.is_ending() {
            Judgement::Ending
        } else if deadline <= now {
            Judgement::Late { touched: touched.revision(), heard: word.heard(), via: word.via() }
        } else {
            Judgement::Lives { deadline }
        }
    }

    /// Marks it as ending if its deadline passed.
    pub fn end(&self, now: u64, stretch: Stretch) -> Marked {
        let touched = self.touched.lock();
        let judged = self.word();
        if judged.is_ending() {
            return Marked::Before;
        }
        let deadline = self.deadline_of(judged, stretch);
        if now < deadline {
            return Marked::Lives { deadline };
        }
        let marked = self.word.compare_exchange(
            judged.0,
            judged.ending().0,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        match marked {
            Ok(_) => {
                let silent_ms = now.saturating_sub(judged.heard());
                let touched = touched.revision();
                Marked::Due(Due { session: self.session, touched, silent_ms, judged })
            }
            // A beat: only this marks, and whoever else would waits for the lock.
            Err(renewed) => Marked::Lives { deadline: self.deadline_of(Word(renewed), stretch) },
        }
    }

    /// Takes the mark of `due` away. Returns the deadline, if it was still marked by that.
    pub fn spare(&self, due: &Due, stretch: Stretch) -> Option<u64> {
        let touched = self.touched.lock();
        if touched.revision() != due.touched {
            return None;
        }
        let marked = due.judged.ending().0;
        self.word
            .compare_exchange(marked, due.judged.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
            .then(|| self.deadline_of(due.judged, stretch))
    }

    /// When it was last heard, and the client's own mark of that.
    pub fn last_heard(&self) -> (u64, Option<i64>) {
        let mark = self.mark.load(Ordering::Relaxed);
        (self.word().heard(), (mark != NO_MARK).then_some(mark))
    }

    /// The node that took its last heartbeat.
    pub fn via(&self) -> Via {
        self.word().via()
    }

    /// By whom it was heard last, if that is longer ago than a client waits that beats in time.
    pub fn late(&self, now: u64, stretch: Stretch) -> Option<Via> {
        let word = self.word();
        let silent_ms = now.saturating_sub(word.heard());
        let ttl_ms = stretch.of(self.ttl_ms.load(Ordering::Relaxed).into());
        (silent_ms > ttl_ms / 2).then(|| word.via())
    }

    /// Has the wheel look at it in `slot`, unless it does so earlier. Returns whether it must be
    /// put there.
    pub fn file(&self, slot: u64) -> bool {
        slot < self.filed.fetch_min(slot, Ordering::AcqRel)
    }

    /// Takes it out of `slot`, if that is where the wheel looks at it.
    pub fn take_out(&self, slot: u64) -> bool {
        self.filed.compare_exchange(slot, NOWHERE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The slot in which the wheel looks at it, or [`NOWHERE`].
    pub fn filed(&self) -> u64 {
        self.filed.load(Ordering::Acquire)
    }

    /// The wheel looks at it no more, and what it still has of it counts for nothing. Nor is it renewed
    /// by anybody who remembers its place.
    pub fn withdraw(&self) {
        self.filed.store(NOWHERE, Ordering::Release);
        self.word.fetch_or(ENDING, Ordering::AcqRel);
    }
}
