//! The bytes of a packed profile: its shape, what is its own, its payload, each as it lies in memory.
//! Reading checks that they are what a [`super::Writer`] writes, and passes over what a later version
//! adds behind them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::{ByteBuf, Bytes};

use super::{PackedProfile, Reader, Shape};

/// How many parts are written.
const PARTS: usize = 3;

impl Serialize for PackedProfile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&*self.shape.0, &*self.own, Bytes::new(self.payload())).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PackedProfile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(PARTS, Parts)
    }
}

struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = PackedProfile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the packed profile of an instance")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<PackedProfile, A::Error> {
        let missing = |part| A::Error::invalid_length(part, &Self);
        let shape = parts.next_element_seed(Recent)?.ok_or_else(|| missing(0))?;
        let own: Box<str> = parts.next_element()?.ok_or_else(|| missing(1))?;
        let payload: ByteBuf = parts.next_element()?.ok_or_else(|| missing(2))?;
        while parts.next_element::<IgnoredAny>()?.is_some() {}
        check(&shape.0, &own).ok_or_else(|| A::Error::custom("it is no packed profile"))?;
        Ok(PackedProfile::of(shape, own, payload.into_vec()))
    }
}

/// Reads a shape. Of many profiles in a row most have the one of a profile shortly before, and no memory
/// of their own for it: each thread remembers the last ones that it read.
struct Recent;

/// Shapes that a thread remembers.
const REMEMBERED: usize = 8;

thread_local! {
    static SHAPES: RefCell<VecDeque<Arc<Shape>>> = const { RefCell::new(VecDeque::new()) };
}

impl<'de> DeserializeSeed<'de> for Recent {
    type Value = Arc<Shape>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Arc<Shape>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Recent {
    type Value = Arc<Shape>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shape of a packed profile")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Arc<Shape>, E> {
        SHAPES.with_borrow_mut(|shapes| {
            if let Some(known) = shapes.iter().find(|known| *known.0 == *text) {
                return Ok(known.clone());
            }
            let shape = Arc::new(Shape(text.into()));
            shapes.truncate(REMEMBERED - 1);
            shapes.push_front(shape.clone());
            Ok(shape)
        })
    }
}

/// `None` unless each text is there in full, the keys of the metadata are in order, each once and with
/// a value, and nothing is left over.
fn check(shape: &str, own: &str) -> Option<()> {
    let (mut shape, mut own) = (Reader(shape), Reader(own));
    let (_version, _zone) = (shape.next_text()?, shape.next_text()?);
    let (_port, weight) = (own.next_number()?, own.next_number()?);
    u16::try_from(weight).ok()?;
    let (_ip, _hostname) = (own.next_text()?, own.next_text()?);
    let mut last = None;
    while !shape.is_at_end() {
        let (key, _value) = (shape.next_text()?, own.next_text()?);
        if last.is_some_and(|last| last >= key) {
            return None;
        }
        last = Some(key);
    }
    own.is_at_end().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: impl Serialize) -> Result<PackedProfile, String> {
        let bytes = rmp_serde::to_vec(&parts).expect("encodes");
        rmp_serde::from_slice(&bytes).map_err(|e| e.to_string())
    }

    /// Version 2, no zone, metadata a and b.
    const SHAPE: &str = "\x012\0\x01a\x01b";
    /// Port 80, weight 1, an ip, no hostname, two values.
    const OWN: &str = "\x50\x01\x01\x01i\0\x013\x014";

    #[test]
    fn profiles_in_a_row_are_read_with_one_shape() {
        // More shapes than are remembered, and each of them several times.
        for round in 0..REMEMBERED + 4 {
            let shape = format!("\x01{}\0\x01a\x01b", char::from(b'A' + round as u8));
            let [one, other] = [0; 2].map(|_| read((&shape, OWN, Bytes::new(b""))));
            let (one, other) = (one.expect("decodes"), other.expect("decodes"));
            assert!(Arc::ptr_eq(&one.shape, &other.shape));
            assert_eq!(*one.shape.0, *shape);
        }
        assert_eq!(SHAPES.with_borrow(VecDeque::len), REMEMBERED);
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let read = read((SHAPE, OWN, Bytes::new(b"p"), "more", [1, 2])).expect("decodes");
        assert_eq!((read.port(), read.weight(), read.ip(), read.version()), (80, 1, "i", "2"));
        assert_eq!(read.metadata().collect::<Vec<_>>(), [("a", "3"), ("b", "4")]);
        assert_eq!(read.payload(), b"p");
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let none = Bytes::new(b"");
        for (shape, own, what) in [
            ("", OWN, "no version"),
            ("\x012", OWN, "no zone"),
            ("\x012\0\x01a", OWN, "a value without a key"),
            ("\x012\0\x01a\x01b\x01c", OWN, "a key without a value"),
            ("\x012\0\x01b\x01a", OWN, "keys out of order"),
            ("\x012\0\x01a\x01a", OWN, "a key twice"),
            ("\x012\0\x01a\x02b", OWN, "a key that is cut short"),
            ("\x012\0\x01a\x01ü", OWN, "a key that ends within a character"),
            (SHAPE, "\x50", "no weight"),
            (SHAPE, "\x50\x01\x40\x40\x40\x01i\0\x013\x014", "a weight above all"),
            (SHAPE, "\x40\x40\x40\x40\x40\x04\x01\x01i\0\x013\x014", "a port above all"),
            (SHAPE, "\x50\x01\x01i\0\x013\x014\0", "something left over"),
            (SHAPE, "\x50\x01\x01i\0\x013", "a value that is not there"),
        ] {
            let error = read((shape, own, none)).expect_err(what);
            assert!(error.contains("no packed profile"), "{what}: {error}");
        }
        assert!(read((SHAPE, OWN)).is_err_and(|e| e.contains("invalid length 2")));
        assert!(read(SHAPE).is_err_and(|e| e.contains("invalid type")));
    }
}
