//! Texts under names, as a JSON object brings them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// In the order of the names, each once: of two entries with one name the later counts. What needs no
/// unescaping stays where it was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl Entries<'_> {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(name, text)| (&**name, &**text))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(name), Text(text))) = map.next_entry()? {
                    entries.push((name, text));
                }
                Ok(entries)
            }
        }

        let mut entries = deserializer.deserialize_map(Each)?;
        if !entries.is_sorted_by(|(one, _), (next, _)| one < next) {
            // The last of each name comes first, and stays.
            entries.reverse();
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            entries.dedup_by(|(later, _), (kept, _)| later == kept);
        }
        Ok(Self(entries))
    }
}

/// A text, borrowed where it can be: of a `Cow` in other types serde makes an owned one always.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;

        impl<'de> Visitor<'de> for AnyText {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }

        deserializer.deserialize_str(AnyText).map(Text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Entries<'_> {
        serde_json::from_str(json).expect("it is an object of texts")
    }

    proptest! {
        #[test]
        fn they_are_what_a_sorted_map_would_be(
            pairs in prop::collection::vec(("[ab\\\\\"\n应]{0,2}", "[c\\\\\"\n用]{0,2}"), 0..8)
        ) {
            let texts: Vec<_> = pairs
                .iter()
                .map(|(name, text)| format!("{}:{}", quoted(name), quoted(text)))
                .collect();
            let json = format!("{{{}}}", texts.join(","));
            let expected: BTreeMap<_, _> = pairs.into_iter().collect();
            let entries = read(&json);
            let found = entries.iter().map(|(name, text)| (name.to_owned(), text.to_owned()));
            prop_assert!(found.eq(expected), "{json}");
        }
    }

    fn quoted(text: &str) -> String {
        serde_json::to_string(text).expect("a text")
    }

    #[test]
    fn nothing_is_copied_that_can_stay() {
        let entries = read(r#"{"build": "47", "note": "a\\b"}"#);
        let borrowed = entries.0.iter().map(|(_, text)| matches!(text, Cow::Borrowed(_)));
        assert_eq!(borrowed.collect::<Vec<_>>(), [true, false]);
    }
}
