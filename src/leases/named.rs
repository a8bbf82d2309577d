//! Where the leases of instances stand, by the instances' names.
//!
//! A heartbeat that names an instance would find its session through the apps and instances of the
//! catalogue: a dozen places in memory, of which at a million instances no cache holds any. Here it
//! is one or two.
//!
//! Only instances on private sessions are here. Such a session belongs to one life of one instance and
//! ends with it, so as long as the session has the lease that is found, that is the instance's; whoever
//! asks must compare them ([`Known::is_of`]). Who is not found here is looked up in the catalogue.

use std::hash::Hasher;
use std::num::NonZeroU64;

use parking_lot::RwLock;
use roster_storage::names::SessionId;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::bodies::random_key;
use super::chunked::Chunked;
use super::table::Place;

/// Each with a lock of its own, so that growing holds nobody up for long.
const PARTS: u64 = 256;

/// 4 KiB: smaller chunks are more, and fewer of the pointers to them stay in the caches.
const SLOTS_PER_CHUNK: usize = 256;

/// Those of one leadership.
#[derive(Debug)]
pub struct Named {
    /// Random, so that nobody can make names that are taken for each other; nothing else depends on
    /// it.
    key: [u8; 16],
    parts: Vec<RwLock<Part>>,
}

/// Tells an instance's name from all others, with the part that it belongs to: 72 bits. That two of a million
/// have the same ones happens once in 10 billion leaderships; then beats of the one renew the other.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    part: usize,
    tag: NonZeroU64,
}

/// Where a lease stood, and whose it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub place: Place,
    session: u32,
}

impl Known {
    fn of(session: SessionId, place: Place) -> Self {
        Self { place, session: low(session) }
    }

    fn is_later_than(self, other: Self) -> bool {
        self.session.wrapping_sub(other.session).cast_signed() > 0
    }

    /// Whether it was this session's. Sessions are counted, so that another one with the same low half
    /// is four billion further on.
    pub fn is_of(self, session: SessionId) -> bool {
        self.session == low(session)
    }
}

fn low(session: SessionId) -> u32 {
    session.0 as u32
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: NonZeroU64,
    known: Known,
}

/// A hash table with open addressing and linear probing, which leaves no mark where something was removed
/// (Knuth, The Art of Computer Programming, vol. 3, 6.4, algorithm R). It is for its memory: it grows by
/// a fourth and gives nothing back on the way, so that a million names take 18 to 24 bytes each; tables
/// that double take up to 39 and leave as much behind.
#[derive(Debug, Default)]
struct Part {
    slots: Chunked<Option<Slot>, SLOTS_PER_CHUNK>,
    taken: usize,
}

impl Default for Named {
    fn default() -> Self {
        Self { key: random_key(), parts: (0..PARTS).map(|_| RwLock::default()).collect() }
    }
}

impl Named {
    pub fn name(&self, app: &str, id: &str) -> Name {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(app.as_bytes());
        // In no name.
        hasher.write_u8(0xff);
        hasher.write(id.as_bytes());
        let hash = hasher.finish128();
        let tag = NonZeroU64::new(hash.h1).unwrap_or(NonZeroU64::MIN);
        Name { part: (hash.h2 % PARTS) as usize, tag }
    }

    pub fn find(&self, name: Name) -> Option<Known> {
        self.parts[name.part].read().find(name.tag)
    }

    /// Of two sessions for one name the later one has it.
    pub fn insert(&self, name: Name, session: SessionId, place: Place) {
        let slot = Slot { tag: name.tag, known: Known::of(session, place) };
        self.parts[name.part].write().insert(slot);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.read().taken).sum()
    }

    /// Unless a later session has the name.
    pub fn remove(&self, name: Name, session: SessionId) {
        let mut part = self.parts[name.part].write();
        if part.find(name.tag).is_some_and(|known| known.is_of(session)) {
            part.remove(name.tag);
        }
    }
}

/// Where a tag belongs among so many slots, of which there are some.
fn home(tag: NonZeroU64, slots: usize) -> usize {
    ((u128::from(tag.get()) * slots as u128) >> 64) as usize
}

impl Part {
    /// Where the tag stands, or else where it would. There is a free slot.
    fn position(&self, tag: NonZeroU64) -> Result<usize, usize> {
        let mut at = home(tag, self.slots.len());
        loop {
            match self.slots[at] {
                Some(slot) if slot.tag == tag => return Ok(at),
                Some(_) => at = self.after(at),
                None => return Err(at),
            }
        }
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    fn find(&self, tag: NonZeroU64) -> Option<Known> {
        if self.taken == 0 {
            return None;
        }
        let at = self.position(tag).ok()?;
        self.slots[at].map(|slot| slot.known)
    }

    fn insert(&mut self, slot: Slot) {
        if (self.taken + 1) * 8 > self.slots.len() * 7 {
            self.grow();
        }
        match self.position(slot.tag) {
            Ok(at) => {
                let is_later = |old: Slot| slot.known.is_later_than(old.known);
                if self.slots[at].is_none_or(is_later) {
                    self.slots[at] = Some(slot);
                }
            }
            Err(at) => {
                self.slots[at] = Some(slot);
                self.taken += 1;
            }
        }
    }

    fn grow(&mut self) {
        let room = self.slots.len();
        let all: Vec<Slot> = (0..room).filter_map(|at| self.slots[at].take()).collect();
        (0..room / 4 + 8).for_each(|_| self.slots.push(None));
        for slot in all {
            if let Err(at) = self.position(slot.tag) {
                self.slots[at] = Some(slot);
            }
        }
    }

    /// What stands behind it and belongs before moves up, so that it is found.
    fn remove(&mut self, tag: NonZeroU64) {
        if self.taken == 0 {
            return;
        }
        let Ok(mut hole) = self.position(tag) else { return };
        let mut at = hole;
        loop {
            at = self.after(at);
            let Some(slot) = self.slots[at] else { break };
            let home = home(slot.tag, self.slots.len());
            // Whether its home is behind the hole, on the way from there to where it stands.
            let stays =
                if hole <= at { hole < home && home <= at } else { hole < home || home <= at };
            if !stays {
                self.slots[hole] = Some(slot);
                hole = at;
            }
        }
        self.slots[hole] = None;
        self.taken -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn known(session: u64) -> Known {
        Known::of(SessionId(session), Place::new(0, session as u32))
    }

    #[test]
    fn what_there_is_a_million_of_stays_small() {
        assert_eq!(size_of::<Option<Slot>>(), 16);
    }

    #[test]
    fn names_are_told_apart_by_app_and_id() {
        let named = Named::default();
        let insert = |app, id, session| {
            named.insert(named.name(app, id), SessionId(session), Place::new(0, session as u32));
        };
        insert("pay", "a", 1);
        insert("pa", "ya", 2);
        let find = |app, id| named.find(named.name(app, id));
        assert_eq!(find("pay", "a"), Some(known(1)));
        assert_eq!(find("pa", "ya"), Some(known(2)));
        assert_eq!(find("p", "aya"), None);
    }

    #[test]
    fn the_later_session_has_the_name_whichever_comes_first() {
        let named = Named::default();
        let name = named.name("pay", "a");
        for session in [5, 4] {
            named.insert(name, SessionId(session), known(session).place);
        }
        assert_eq!(named.find(name), Some(known(5)));
        named.remove(name, SessionId(4));
        assert_eq!(named.find(name), Some(known(5)));
        named.remove(name, SessionId(5));
        assert_eq!(named.find(name), None);
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Insert,
        Remove,
    }

    proptest! {
        /// Tags at both ends of the table, so that what is at its end goes on at its beginning, and many that
        /// belong to one slot.
        #[test]
        fn a_part_is_a_map(
            acts in prop::collection::vec(
                (
                    prop_oneof![Just(Act::Insert), Just(Act::Remove)],
                    prop_oneof![1..24_u64, u64::MAX - 24..u64::MAX, any::<u64>().prop_map(|tag| tag | 1)],
                ),
                0..300,
            ),
        ) {
            let mut part = Part::default();
            let mut model = HashMap::new();
            for (session, (act, tag)) in (1..).zip(acts) {
                let tag = NonZeroU64::new(tag).expect("it is above 0");
                match act {
                    Act::Insert => {
                        part.insert(Slot { tag, known: known(session) });
                        model.insert(tag, known(session));
                    }
                    Act::Remove => {
                        if model.remove(&tag).is_some() {
                            part.remove(tag);
                        }
                    }
                }
                prop_assert_eq!(part.taken, model.len());
                for (tag, known) in &model {
                    prop_assert_eq!(part.find(*tag), Some(*known));
                }
                let taken = (0..part.slots.len()).filter(|at| part.slots[*at].is_some());
                prop_assert_eq!(taken.count(), model.len());
            }
        }
    }
}
