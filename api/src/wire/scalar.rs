//! Small things that JSON writes as text: durations, moments, bytes, ids that are numbers.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roster_storage::limits::{METADATA_BYTES_MAX, TEXT_BYTES_MAX, TTL_MS_MAX, TTL_MS_MIN};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

use crate::error::Invalid;

/// A span of time as text: `"10s"`, `"500ms"`, `"1m30s"`. Numbers are refused, for nobody knows
/// their unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.0 / 1000, self.0 % 1000);
        let parts =
            [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (ms, "ms")];
        for (count, unit) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{count}{unit}")?;
        }
        if self.0 == 0 { f.write_str("0s") } else { Ok(()) }
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Millis;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration as text, such as \"10s\" or \"500ms\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Millis, E> {
                parse_millis(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Reads a duration, at most 64 bytes of it: no honest one is longer.
pub(crate) fn parse_millis(text: &str) -> Result<Millis, String> {
    if text.len() > 64 {
        return Err("it is too long for a duration".into());
    }
    let span: Duration = humantime::parse_duration(text)
        .map_err(|e| format!("it is not a duration such as \"10s\" or \"500ms\": {e}"))?;
    u64::try_from(span.as_millis()).map(Millis).map_err(|_| "it is too long a time".into())
}

/// A TTL within what Roster can keep; an app's own bounds are held in the log.
pub(crate) fn ttl(field: &'static str, named: Option<Millis>) -> Result<Option<u64>, Invalid> {
    match named {
        Some(Millis(ms)) if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&ms) => {
            let (min, max) = (Millis(TTL_MS_MIN), Millis(TTL_MS_MAX));
            Err(Invalid::new(field, format!("must be between {min} and {max}")))
        }
        Some(Millis(ms)) => Ok(Some(ms)),
        None => Ok(None),
    }
}

/// A moment in milliseconds since 1970, written as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub u64);

/// The last moment that RFC 3339 can write.
const LAST_MS: u64 = 253_402_300_799_999;

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.min(LAST_MS));
        serializer.collect_str(&humantime::format_rfc3339_millis(at))
    }
}

/// Bytes as base64.
pub(crate) struct Base64<'a>(pub &'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&base64::display::Base64Display::new(self.0, &STANDARD))
    }
}

pub(crate) fn from_base64(field: &'static str, text: &str) -> Result<Vec<u8>, Invalid> {
    STANDARD.decode(text).map_err(|e| Invalid::new(field, format!("is not base64: {e}")))
}

/// A number that identifies something, as text: JSON readers lose digits of large numbers.
pub(crate) struct Text<T>(pub T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A value that must be a JSON object: serde would take an array for one, field by field.
pub(crate) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Object)
    }
}

/// A hash as 16 hexadecimal digits.
pub(crate) struct Hex(pub u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

/// One of the short texts by which instances and sessions describe themselves.
pub(crate) fn short_text(field: &'static str, text: SmolStr) -> Result<SmolStr, Invalid> {
    within_short_text(field, &text)?;
    Ok(text)
}

/// As [`short_text`], of one that stays where it is.
pub(crate) fn within_short_text<'a>(
    field: &'static str,
    text: &'a str,
) -> Result<&'a str, Invalid> {
    if text.len() > TEXT_BYTES_MAX {
        let why = format!("is {} bytes long; the limit is {TEXT_BYTES_MAX}", text.len());
        return Err(Invalid::new(field, why));
    }
    // Most are plain, and seen so at once.
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_plain && text.chars().any(char::is_control) {
        return Err(Invalid::new(field, "has a control character"));
    }
    Ok(text)
}

pub(crate) fn metadata_within<'a>(
    metadata: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), Invalid> {
    let bytes: usize = metadata.map(|(k, v)| k.len() + v.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        let why = format!("is {bytes} bytes; the limit is {METADATA_BYTES_MAX}");
        return Err(Invalid::new("metadata", why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for (ms, text) in [
            (15_000, "15s"),
            (500, "500ms"),
            (90_000, "1m30s"),
            (86_400_000, "24h"),
            (1_333, "1s333ms"),
            (0, "0s"),
        ] {
            assert_eq!(Millis(ms).to_string(), text);
            assert_eq!(parse_millis(text), Ok(Millis(ms)));
        }
        for wrong in ["", "10", "ten", "-1s", "10 bananas", "99999999999999999999h"] {
            assert!(parse_millis(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_moment_beyond_the_calendar_is_its_last_one() {
        let text = |ms| serde_json::to_string(&Moment(ms)).expect("encodes");
        assert_eq!(text(1_795_293_377_350), "\"2026-11-21T20:36:17.350Z\"");
        assert_eq!(text(u64::MAX), "\"9999-12-31T23:59:59.999Z\"");
    }
}
