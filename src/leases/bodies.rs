//! Bodies of many heartbeats that come again as they were: whoever beats for others sends the same
//! bytes each time. The leader remembers where the leases stand that a body renewed, and by which
//! revision that was found; the next time it reads none of the body and looks nobody up.
//!
//! A body is remembered only if whom it names can lose a session by nothing else than that session's
//! end or a touch: sessions themselves, and instances on a private one. Either shows in the lease, so
//! what was found is never used when it might be outdated: see [`super::table::LeaseTable::renew_at`].

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;
use roster_api::beats::BeatsBody;
use roster_storage::names::Revision;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::table::Place;

/// Leases of all bodies of one generation: each takes four bytes, and there are two generations.
const PLACES_MAX: usize = 1 << 21;

/// A shorter body, of some ten heartbeats, is read as fast as it is found.
const BYTES_MIN: usize = 512;

/// What a body came to when it was read.
#[derive(Debug)]
pub struct Found {
    /// The version of the catalogue in which everybody was looked up.
    pub revision: Revision,
    pub places: Box<[Place]>,
}

/// Tells a body from all others. Nobody can make two with the same one who does not know the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(u128);

/// The bodies of one leadership.
#[derive(Debug)]
pub struct Bodies {
    /// Random, so that nobody can make bodies that are taken for each other; nothing else depends on
    /// it.
    key: [u8; 16],
    generations: Mutex<Generations>,
}

/// What was used since the last turn, and what was used between that and the one before.
#[derive(Debug, Default)]
struct Generations {
    current: HashMap<Digest, Arc<Found>>,
    previous: HashMap<Digest, Arc<Found>>,
    /// Of `current`, together.
    places: usize,
}

impl Default for Bodies {
    fn default() -> Self {
        Self { key: random_key(), generations: Mutex::default() }
    }
}

/// For digests.
pub fn random_key() -> [u8; 16] {
    let random = || RandomState::new().build_hasher().finish();
    (u128::from(random()) << 64 | u128::from(random())).to_le_bytes()
}

impl Bodies {
    /// `None` if the body is not worth remembering.
    pub fn digest(&self, body: &BeatsBody) -> Option<Digest> {
        (body.bytes.len() >= BYTES_MIN).then(|| self.digest_of(body))
    }

    fn digest_of(&self, body: &BeatsBody) -> Digest {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u8(body.encoding as u8);
        hasher.write(&body.bytes);
        Digest(hasher.finish128().as_u128())
    }

    pub fn find(&self, digest: Digest) -> Option<Arc<Found>> {
        let mut generations = self.generations.lock();
        if let Some(found) = generations.current.get(&digest) {
            return Some(found.clone());
        }
        let found = generations.previous.remove(&digest)?;
        generations.insert(digest, found.clone());
        Some(found)
    }

    pub fn remember(&self, digest: Digest, found: Found) {
        self.generations.lock().insert(digest, Arc::new(found));
    }

    pub fn forget(&self, digest: Digest) {
        self.generations.lock().remove(digest);
    }
}

impl Generations {
    fn insert(&mut self, digest: Digest, found: Arc<Found>) {
        self.remove(digest);
        if self.places + found.places.len() > PLACES_MAX {
            self.previous = std::mem::take(&mut self.current);
            self.places = 0;
        }
        self.places += found.places.len();
        self.current.insert(digest, found);
    }

    fn remove(&mut self, digest: Digest) {
        if let Some(found) = self.current.remove(&digest) {
            self.places -= found.places.len();
        }
        self.previous.remove(&digest);
    }
}

#[cfg(test)]
mod tests {
    use roster_api::beats::Encoding;

    use super::*;

    fn body(text: &'static str) -> BeatsBody {
        BeatsBody { encoding: Encoding::Json, bytes: text.into() }
    }

    fn found(places: usize) -> Found {
        let places = (0..places).map(|_| Place::new(0, 0)).collect();
        Found { revision: Revision(1), places }
    }

    #[test]
    fn bodies_are_told_apart_by_their_bytes_and_by_how_these_are_read() {
        let bodies = Bodies::default();
        let one = bodies.digest_of(&body("one"));
        assert_eq!(one, bodies.digest_of(&body("one")));
        assert_ne!(one, bodies.digest_of(&body("two")));
        let packed = BeatsBody { encoding: Encoding::Msgpack, ..body("one") };
        assert_ne!(one, bodies.digest_of(&packed));
        assert_ne!(one, Bodies::default().digest_of(&body("one")));
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes_within_two_turns() {
        let bodies = Bodies::default();
        let (used, unused) = (bodies.digest_of(&body("used")), bodies.digest_of(&body("unused")));
        bodies.remember(used, found(1));
        bodies.remember(unused, found(1));
        for turn in 0..3_u128 {
            // Takes all the room of a generation.
            bodies.remember(Digest(turn), found(PLACES_MAX));
            assert!(bodies.find(used).is_some(), "after {turn} turns");
            let generations = bodies.generations.lock();
            let places =
                generations.current.values().map(|found| found.places.len()).sum::<usize>();
            assert_eq!(generations.places, places);
        }
        assert!(bodies.find(unused).is_none());
        bodies.forget(used);
        assert!(bodies.find(used).is_none());
    }
}
