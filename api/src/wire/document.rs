//! Documents: JSON that clients wrote, which answers carry as it is.

use roster_storage::catalog::Document;
use roster_storage::limits::DOCUMENT_DEPTH_MAX;
use roster_storage::names::{AppName, DocumentName, Revision};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::scalar::Moment;
use crate::error::{ApiError, Invalid};

/// What `PUT` takes: any JSON value that common readers of JSON can read. It stands in lists and
/// streams among others, so what few can read would break those for all.
pub(crate) struct DocumentBody(String);

impl DocumentBody {
    pub fn read(bytes: &[u8]) -> Result<Self, ApiError> {
        let text = str::from_utf8(bytes)
            .map_err(|e| ApiError::malformed(format!("this is not JSON in UTF-8: {e}")))?;
        if depth(text) > DOCUMENT_DEPTH_MAX {
            let why = format!("is nested deeper than {DOCUMENT_DEPTH_MAX} levels");
            return Err(Invalid::new("value", why).into());
        }
        serde_json::from_str::<Value>(text)
            .map_err(|e| ApiError::malformed(format!("this is not JSON: {e}")))?;
        Ok(Self(without_whitespace(text)))
    }

    /// The document without whitespace between its parts, and so without the end of a line.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// The document as it is written, but for whitespace between its parts.
fn without_whitespace(json: &str) -> String {
    let mut strings = Strings::default();
    json.chars().filter(|c| strings.take_in(*c) || !matches!(c, ' ' | '\t' | '\n' | '\r')).collect()
}

/// How many arrays and objects stand in each other at the deepest place.
fn depth(json: &str) -> usize {
    let mut strings = Strings::default();
    let (mut depth, mut deepest) = (0_usize, 0);
    for c in json.chars().filter(|c| !strings.take_in(*c)) {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Knows, character by character, what stands within the strings of a JSON text.
#[derive(Default)]
struct Strings {
    inside: bool,
    escaped: bool,
}

impl Strings {
    /// Whether the next character belongs to a string; its closing quote does, its opening one does
    /// not.
    fn take_in(&mut self, next: char) -> bool {
        let inside = self.inside;
        if next == '"' && !self.escaped {
            self.inside = !inside;
        }
        self.escaped = inside && next == '\\' && !self.escaped;
        inside
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct DocumentView<'a> {
    app: &'a str,
    name: &'a str,
    #[schema(value_type = Value)]
    value: &'a RawValue,
    by: &'a str,
    changed_at: Moment,
    revision: u64,
}

impl<'a> DocumentView<'a> {
    pub fn new(app: &'a AppName, name: &'a DocumentName, document: &'a Document) -> Self {
        Self {
            app: app.as_str(),
            name: name.as_str(),
            // All that came in was JSON.
            value: serde_json::from_str(&document.value).unwrap_or(RawValue::NULL),
            by: &document.by,
            changed_at: Moment(document.changed_at_ms),
            revision: document.revision.0,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct DocumentList<'a> {
    pub documents: Vec<DocumentView<'a>>,
    #[schema(required)]
    pub next_cursor: Option<String>,
    pub revision: u64,
}

/// The answer to a write.
#[derive(Serialize, ToSchema)]
pub(crate) struct DocumentChanged<'a> {
    app: &'a str,
    name: &'a str,
    revision: u64,
}

impl<'a> DocumentChanged<'a> {
    pub fn new(app: &'a AppName, name: &'a DocumentName, revision: Revision) -> Self {
        Self { app: app.as_str(), name: name.as_str(), revision: revision.0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(json: &str) -> String {
        DocumentBody::read(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e:?}")).into_text()
    }

    #[test]
    fn whitespace_between_the_parts_goes_and_nothing_else() {
        for (sent, kept) in [
            (" { \"b\" : 1.0 ,\r\n\t\"a\" : [ 1E2 , -0 ] } ", "{\"b\":1.0,\"a\":[1E2,-0]}"),
            ("\" a\\\" \\\\\" ", "\" a\\\" \\\\\""),
            ("{\"a\": 1, \"a\": 2}", "{\"a\":1,\"a\":2}"),
            ("12345678901234567890123 ", "12345678901234567890123"),
            ("\"\\u000a \u{2028}é\"", "\"\\u000a \u{2028}é\""),
            ("\nnull\n", "null"),
        ] {
            assert_eq!(stored(sent), kept);
        }
    }

    #[test]
    fn what_common_readers_cannot_read_is_refused() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        stored(&nested(DOCUMENT_DEPTH_MAX));
        stored(&format!("\"{}\"", "[".repeat(1000)));
        for wrong in [
            "",
            " ",
            "{",
            "{} {}",
            "nul",
            "01",
            "\"\n\"",
            "\"\\ud800\"",
            "1e999",
            "[1,]",
            "\u{feff}1",
            &nested(DOCUMENT_DEPTH_MAX + 1),
            &"[".repeat(100_000),
        ] {
            assert!(DocumentBody::read(wrong.as_bytes()).is_err(), "{wrong:.20}");
        }
        assert!(DocumentBody::read(b"\"\xff\"").is_err());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ \\\\\"\n\t{}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let members = prop::collection::btree_map(any::<String>(), inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                members.prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The shortest way to write it, which serde_json writes too, whatever the layout was.
        #[test]
        fn a_document_keeps_its_meaning_and_has_no_end_of_a_line(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).expect("encodes");
            let kept = stored(&pretty);
            prop_assert_eq!(&kept, &serde_json::to_string(&value).expect("encodes"));
            prop_assert!(!kept.contains(['\n', '\r']));
            prop_assert_eq!(&stored(&kept), &kept);
        }
    }
}
