//! Reads an encoded profile straight into its packed form: no map, and no text of its own for each
//! field. Takes the fields in the order in which they are written; those it does not know it passes
//! over.

use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_bytes::ByteBuf;

use super::{FIELDS, PackedProfile, Writer};

/// What most profiles need, so that it seldom grows while it is filled.
const SCRATCH_BYTES: usize = 320;

/// A profile with the names of its fields, or without.
pub(super) struct Packing;

impl<'de> Visitor<'de> for Packing {
    type Value = PackedProfile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the profile of an instance")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PackedProfile, A::Error> {
        let mut fields = Named(map);
        let profile = packed(&mut fields)?;
        while fields.0.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(profile)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<PackedProfile, A::Error> {
        packed(&mut Unnamed(seq))
    }
}

fn packed<'de, F: Fields<'de>>(fields: &mut F) -> Result<PackedProfile, F::Error> {
    let [ip, port, hostname, version, zone, weight, metadata, payload] = FIELDS;
    let mut shape = Writer::with_capacity(SCRATCH_BYTES);
    let mut texts = Writer::with_capacity(SCRATCH_BYTES);
    fields.text(ip, &mut texts)?;
    let port: u32 = fields.value(port)?;
    fields.text(hostname, &mut texts)?;
    fields.text(version, &mut shape)?;
    fields.text(zone, &mut shape)?;
    let weight: u16 = fields.value(weight)?;
    fields.take(metadata, Pairs { keys: &mut shape, values: &mut texts })?;
    let payload: ByteBuf = fields.value(payload)?;

    // Both numbers take up to six characters.
    let mut own = Writer::with_capacity(texts.0.len() + 12);
    own.number(port);
    own.number(weight.into());
    own.0.push_str(&texts.0);
    Ok(PackedProfile::of(shape, own, payload.into_vec()))
}

/// Gives the fields one after the other.
trait Fields<'de> {
    type Error: Error;

    fn take<S: DeserializeSeed<'de>>(
        &mut self,
        name: &'static str,
        seed: S,
    ) -> Result<S::Value, Self::Error>;

    fn text(&mut self, name: &'static str, to: &mut Writer) -> Result<(), Self::Error> {
        self.take(name, Text(to))
    }

    fn value<T: Deserialize<'de>>(&mut self, name: &'static str) -> Result<T, Self::Error> {
        self.take(name, std::marker::PhantomData)
    }
}

struct Named<A>(A);

impl<'de, A: MapAccess<'de>> Fields<'de> for Named<A> {
    type Error = A::Error;

    fn take<S: DeserializeSeed<'de>>(
        &mut self,
        name: &'static str,
        seed: S,
    ) -> Result<S::Value, A::Error> {
        while let Some(found) = self.0.next_key_seed(NameIs(name))? {
            if found {
                return self.0.next_value_seed(seed);
            }
            self.0.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::missing_field(name))
    }
}

struct Unnamed<A>(A);

impl<'de, A: SeqAccess<'de>> Fields<'de> for Unnamed<A> {
    type Error = A::Error;

    fn take<S: DeserializeSeed<'de>>(
        &mut self,
        name: &'static str,
        seed: S,
    ) -> Result<S::Value, A::Error> {
        self.0.next_element_seed(seed)?.ok_or_else(|| A::Error::missing_field(name))
    }
}

/// Whether the name that comes is this one.
struct NameIs(&'static str);

impl<'de> DeserializeSeed<'de> for NameIs {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for NameIs {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// A text, which is written behind what is there.
struct Text<'a>(&'a mut Writer);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.text(text);
        Ok(())
    }
}

/// The metadata, whose keys come in order, each once.
struct Pairs<'a> {
    keys: &'a mut Writer,
    values: &'a mut Writer,
}

impl<'de> DeserializeSeed<'de> for Pairs<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pairs<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names and texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // Where the key before was written.
        let mut last = None;
        loop {
            let end = self.keys.0.len();
            if map.next_key_seed(Text(self.keys))?.is_none() {
                return Ok(());
            }
            let key = self.keys.text_at(end);
            if last.is_some_and(|last| self.keys.text_at(last) >= key) {
                return Err(A::Error::custom("the keys of the metadata are not in order"));
            }
            last = Some(end);
            map.next_value_seed(Text(self.values))?;
        }
    }
}
