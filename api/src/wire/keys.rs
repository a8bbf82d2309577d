//! Keys of a ring, as requests bring them: any bytes, thousands of them.

use std::fmt::Write as _;

use roster_storage::limits::{RING_KEY_BYTES_MAX, RING_KEYS_MAX};
use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::scalar::Base64;
use crate::error::{ApiError, Invalid};

/// Keys in the order in which they came, one behind the other in one piece of memory.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends.
    ends: Vec<usize>,
}

impl Keys {
    /// `probe-0`, `probe-1` and so on.
    pub fn probes(count: usize) -> Self {
        let mut keys = Self::default();
        let mut probe = String::new();
        for n in 0..count {
            probe.clear();
            // Writing to memory does not fail.
            let _ = write!(probe, "probe-{n}");
            keys.push(probe.as_bytes());
        }
        keys
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.bytes[begin..*end])
    }

    /// Neither too many, nor one too long.
    pub fn within_limits(&self) -> Result<(), ApiError> {
        if self.len() > RING_KEYS_MAX {
            let detail = format!("{} keys are over the limit of {RING_KEYS_MAX}", self.len());
            return Err(ApiError::too_large(detail));
        }
        self.iter().try_for_each(key_within_limit).map_err(ApiError::from)
    }

    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }
}

/// Longer keys are refused, though only their hash is of use.
pub(crate) fn key_within_limit(key: &[u8]) -> Result<(), Invalid> {
    if key.len() > RING_KEY_BYTES_MAX {
        let why = format!("is {} bytes long; the limit is {RING_KEY_BYTES_MAX}", key.len());
        return Err(Invalid::new("key", why));
    }
    Ok(())
}

/// From an array of texts, or of binaries where the format has them.
impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of keys")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Keys, A::Error> {
                let mut keys = Keys::default();
                while array.next_element_seed(Next(&mut keys))?.is_some() {}
                Ok(keys)
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

/// Adds one key.
struct Next<'a>(&'a mut Keys);

impl<'de> DeserializeSeed<'de> for Next<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Next<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key as text or as bytes")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        self.visit_bytes(key.as_bytes())
    }

    fn visit_bytes<E: Error>(self, key: &[u8]) -> Result<(), E> {
        self.0.push(key);
        Ok(())
    }
}

/// A key in an answer: as text if it is that.
#[derive(Serialize, ToSchema)]
pub(crate) struct KeyView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<Base64<'a>>,
}

impl<'a> KeyView<'a> {
    pub fn new(key: &'a [u8]) -> Self {
        match str::from_utf8(key) {
            Ok(text) => Self { key: Some(text), key_base64: None },
            Err(_) => Self { key: None, key_base64: Some(Base64(key)) },
        }
    }
}
