//! What an instance says of itself as the catalogue keeps it: a million times, so it is packed.
//!
//! The texts lie in one string, each after its length. What instances of one app mostly have in
//! common (version, zone, the names of their metadata) is a [`Shape`] that they share. Whoever reads
//! sees none of that: [`PackedProfile`] gives each field.
//!
//! The log, checkpoints and the history have these texts too, as they are (`encoded.rs`): nobody on the
//! way takes a profile apart only to put it together again.

mod encoded;

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::command::Profile;

/// Shapes that an app remembers for those who come: versions times zones, of which there are few at
/// a time. Who finds none gets its own, and the oldest is forgotten.
const SHAPES_MAX: usize = 16;

/// A [`Profile`] in little memory. Does not change; a new one takes its place.
#[derive(Clone, PartialEq)]
pub struct PackedProfile {
    shape: Arc<Shape>,
    /// Port, weight, ip, hostname, then the values of the metadata in the order of their keys.
    own: Box<str>,
    payload: Option<Box<Payload>>,
}

/// Version, zone, then the keys of the metadata in order.
#[derive(Debug, PartialEq, Eq)]
struct Shape(Box<str>);

/// Behind a thin pointer: few instances have one.
#[derive(Clone, Debug, PartialEq)]
struct Payload(Box<[u8]>);

impl PackedProfile {
    pub fn port(&self) -> u32 {
        Reader(&self.own).number()
    }

    /// 1 to `WEIGHT_MAX`.
    pub fn weight(&self) -> u16 {
        let mut reader = Reader(&self.own);
        reader.number();
        reader.number() as u16
    }

    pub fn ip(&self) -> &str {
        self.own_texts().text()
    }

    pub fn hostname(&self) -> &str {
        let mut reader = self.own_texts();
        reader.text();
        reader.text()
    }

    pub fn version(&self) -> &str {
        Reader(&self.shape.0).text()
    }

    pub fn zone(&self) -> &str {
        let mut reader = Reader(&self.shape.0);
        reader.text();
        reader.text()
    }

    pub fn metadata(&self) -> Metadata<'_> {
        let (mut keys, mut values) = (Reader(&self.shape.0), self.own_texts());
        for reader in [&mut keys, &mut values] {
            reader.text();
            reader.text();
        }
        Metadata { keys, values }
    }

    /// Opaque bytes.
    pub fn payload(&self) -> &[u8] {
        self.payload.as_ref().map_or(&[], |payload| &payload.0)
    }

    /// As it was packed.
    pub fn unpacked(&self) -> Profile {
        Profile {
            ip: self.ip().into(),
            port: self.port(),
            hostname: self.hostname().into(),
            version: self.version().into(),
            zone: self.zone().into(),
            weight: self.weight(),
            metadata: Arc::new(self.metadata().map(|(k, v)| (k.into(), v.into())).collect()),
            payload: self.payload().into(),
        }
    }

    /// About how many bytes it takes, with what it shares with others.
    pub fn memory_bytes(&self) -> usize {
        self.shape.0.len() + self.own.len() + self.payload().len()
    }

    fn of(shape: Arc<Shape>, own: impl Into<Box<str>>, payload: impl Into<Box<[u8]>>) -> Self {
        let payload = payload.into();
        Self {
            shape,
            own: own.into(),
            payload: (!payload.is_empty()).then(|| Box::new(Payload(payload))),
        }
    }

    fn own_texts(&self) -> Reader<'_> {
        let mut reader = Reader(&self.own);
        reader.number();
        reader.number();
        reader
    }
}

/// What is packed, wherever it lies: the fields of a [`Profile`].
pub struct Fields<'a, M> {
    pub ip: &'a str,
    pub port: u32,
    pub hostname: &'a str,
    pub version: &'a str,
    pub zone: &'a str,
    pub weight: u16,
    /// In the order of the keys, each once.
    pub metadata: M,
    pub payload: &'a [u8],
}

impl<'a, M: Iterator<Item = (&'a str, &'a str)> + Clone> From<Fields<'a, M>> for PackedProfile {
    fn from(fields: Fields<'a, M>) -> Self {
        let Fields { ip, port, hostname, version, zone, weight, metadata, payload } = fields;
        let (mut entries, mut keys, mut values) = (0, 0, 0);
        for (key, value) in metadata.clone() {
            (entries, keys, values) = (entries + 1, keys + key.len(), values + value.len());
        }
        // Lengths and numbers below 64 take one byte, most others two.
        let mut shape =
            Writer::with_capacity(version.len() + zone.len() + keys + 2 * (2 + entries));
        shape.text(version);
        shape.text(zone);
        let mut own = Writer::with_capacity(ip.len() + hostname.len() + values + 2 * (6 + entries));
        own.number(port);
        own.number(weight.into());
        own.text(ip);
        own.text(hostname);
        for (key, value) in metadata {
            shape.text(key);
            own.text(value);
        }
        Self::of(Arc::new(Shape(shape.0.into())), own.0, payload)
    }
}

impl From<&Profile> for PackedProfile {
    fn from(profile: &Profile) -> Self {
        Self::from(Fields {
            ip: &profile.ip,
            port: profile.port,
            hostname: &profile.hostname,
            version: &profile.version,
            zone: &profile.zone,
            weight: profile.weight,
            metadata: profile.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())),
            payload: &profile.payload,
        })
    }
}

impl From<Profile> for PackedProfile {
    fn from(profile: Profile) -> Self {
        Self::from(&profile)
    }
}

impl Default for PackedProfile {
    fn default() -> Self {
        Profile::default().into()
    }
}

impl fmt::Debug for PackedProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.unpacked().fmt(f)
    }
}

/// What an instance tells of itself in names of its own: keys in order, each once, with values.
#[derive(Clone, Copy)]
pub struct Metadata<'a> {
    keys: Reader<'a>,
    values: Reader<'a>,
}

impl<'a> Metadata<'a> {
    pub fn get(self, key: &str) -> Option<&'a str> {
        let mut entries = self;
        entries.find(|(known, _)| *known == key).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Metadata<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        (!self.keys.is_at_end()).then(|| (self.keys.text(), self.values.text()))
    }
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // msgpack wants to know how many come, JSON does not mind.
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(self.count()))?;
        for (key, value) in *self {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// The shapes of an app's instances that came last, so that the next ones share them.
#[derive(Clone, Debug, Default)]
pub struct Shapes(Arc<Vec<Arc<Shape>>>);

impl Shapes {
    /// Lets the profile share a shape that is known, or remembers its own for those who come.
    pub fn share(&mut self, profile: &mut PackedProfile) {
        // Those that came in a row were read with one shape.
        if self.0.iter().any(|known| Arc::ptr_eq(known, &profile.shape)) {
            return;
        }
        if let Some(known) = self.0.iter().find(|known| **known == profile.shape) {
            profile.shape = known.clone();
            return;
        }
        let shapes = Arc::make_mut(&mut self.0);
        if shapes.len() == SHAPES_MAX {
            shapes.remove(0);
        }
        shapes.push(profile.shape.clone());
    }
}

/// Bits of a number in one character: with the mark that more follow, it stays ASCII.
const DIGIT_BITS: u32 = 6;
const MORE: u8 = 1 << DIGIT_BITS;

/// Numbers as characters of [`DIGIT_BITS`] each, lowest first; texts after their lengths.
struct Writer(String);

impl Writer {
    fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    fn number(&mut self, mut number: u32) {
        while number >= MORE.into() {
            self.0.push(char::from(MORE | (number as u8 & (MORE - 1))));
            number >>= DIGIT_BITS;
        }
        self.0.push(char::from(number as u8));
    }

    fn text(&mut self, text: &str) {
        // A command has at most `COMMAND_BYTES_MAX` bytes, a checkpoint's block far less than 4 GiB.
        self.number(u32::try_from(text.len()).expect("a text comes from a command"));
        self.0.push_str(text);
    }
}

/// Reads what [`Writer`] wrote, in its order.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    /// 0 and an empty text are what is read where there is none: a profile was checked when it was decoded.
    fn number(&mut self) -> u32 {
        self.next_number().unwrap_or_default()
    }

    fn text(&mut self) -> &'a str {
        self.next_text().unwrap_or_default()
    }

    /// `None` if there is none that fits.
    fn next_number(&mut self) -> Option<u32> {
        let (mut number, mut shift) = (0, 0);
        for (at, byte) in self.0.bytes().enumerate() {
            let digit = u32::from(byte & (MORE - 1));
            if !byte.is_ascii() || digit.leading_zeros() < shift {
                return None;
            }
            number |= digit << shift;
            shift += DIGIT_BITS;
            if byte & MORE == 0 {
                self.0 = &self.0[at + 1..];
                let as_written = digit > 0 || at == 0;
                return as_written.then_some(number);
            }
        }
        None
    }

    fn next_text(&mut self) -> Option<&'a str> {
        let length = self.next_number()? as usize;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use smol_str::SmolStr;

    use super::*;

    /// Texts of all lengths of a length: 0, one character, two, three.
    fn text() -> impl Strategy<Value = SmolStr> {
        let lengths = prop_oneof![8 => 0..40_usize, 1 => 60..70_usize, 1 => 4_090..4_100_usize];
        (lengths, prop_oneof![Just('x'), Just('应'), Just('\u{7f}'), Just('@')])
            .prop_map(|(length, character)| std::iter::repeat_n(character, length).collect())
    }

    fn profile() -> impl Strategy<Value = Profile> {
        let texts = (text(), text(), text(), text());
        let metadata = proptest::collection::btree_map(text(), text(), 0..6);
        let payload = proptest::collection::vec(any::<u8>(), 0..9);
        (texts, any::<u32>(), any::<u16>(), metadata, payload).prop_map(
            |((ip, hostname, version, zone), port, weight, metadata, payload)| Profile {
                ip,
                port,
                hostname,
                version,
                zone,
                weight,
                metadata: Arc::new(metadata),
                payload,
            },
        )
    }

    proptest! {
        #[test]
        fn packed_and_encoded_it_says_the_same(profile in profile()) {
            let packed = PackedProfile::from(&profile);
            prop_assert_eq!(&packed.unpacked(), &profile);
            for (key, value) in profile.metadata.iter() {
                prop_assert_eq!(packed.metadata().get(key), Some(value.as_str()));
            }
            prop_assert_eq!(
                serde_json::to_string(&packed.metadata()).expect("encodes"),
                serde_json::to_string(&profile.metadata).expect("encodes")
            );
            let bytes = rmp_serde::to_vec_named(&packed).expect("encodes");
            prop_assert_eq!(
                &bytes,
                &rmp_serde::to_vec(&packed).expect("encodes"),
                "the state hash is made of these"
            );
            let read: PackedProfile = rmp_serde::from_slice(&bytes).expect("decodes");
            prop_assert_eq!(&read, &packed);
            let read: PackedProfile =
                rmp_serde::from_read(bytes.as_slice()).expect("decodes what it cannot borrow");
            prop_assert_eq!(read, packed);
        }

        /// A damaged log is found by its checksums; what passes them, as a peer's mistake does, must not
        /// end the node when it is read.
        #[test]
        fn any_texts_are_a_profile_or_refused(
            shape in "[\\x00\\x01\\x02@abü]{0,8}", own in "[\\x00\\x01\\x02@abü]{0,10}"
        ) {
            let bytes = rmp_serde::to_vec(&(shape, own, serde_bytes::ByteBuf::new()));
            let read = rmp_serde::from_slice::<PackedProfile>(&bytes.expect("encodes"));
            if let Ok(read) = read {
                prop_assert_eq!(PackedProfile::from(read.unpacked()), read);
            }
        }
    }

    fn of_version(version: usize, build: usize) -> PackedProfile {
        let metadata = BTreeMap::from([("build".into(), format!("{build}").into())]);
        let version = format!("{version}").into();
        Profile { version, metadata: Arc::new(metadata), ..Profile::default() }.into()
    }

    #[test]
    fn what_instances_have_in_common_is_kept_once() {
        let mut shapes = Shapes::default();
        let mut packed: Vec<_> = (0..10).map(|build| of_version(1, build)).collect();
        packed.iter_mut().for_each(|profile| shapes.share(profile));
        let first = &packed[0].shape;
        assert!(packed.iter().all(|profile| Arc::ptr_eq(&profile.shape, first)));
        assert!(packed.iter().enumerate().all(|(build, profile)| {
            profile.metadata().get("build") == Some(build.to_string().as_str())
        }));
    }

    #[test]
    fn an_app_with_more_shapes_than_are_remembered_keeps_each_as_it_is() {
        let mut shapes = Shapes::default();
        for build in 0..2 {
            for version in 0..SHAPES_MAX + 5 {
                let mut profile = of_version(version, build);
                shapes.share(&mut profile);
                assert_eq!(profile, of_version(version, build));
                assert!(shapes.0.len() <= SHAPES_MAX);
            }
        }
    }

    #[test]
    fn what_there_is_a_million_of_stays_small() {
        use crate::catalog::{Instance, Session};
        assert!(size_of::<Instance>() <= 64, "{} bytes", size_of::<Instance>());
        // With the name of its instance: no index has that.
        assert!(size_of::<Session>() <= 48, "{} bytes", size_of::<Session>());
    }
}
