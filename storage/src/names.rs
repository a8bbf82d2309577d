//! Names and numbers that identify things. Each is checked once, where it enters, and is valid
//! from then on; kinds that look alike have types of their own.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::limits::{ID_BYTES_MAX, SHARD_ID_BYTES_MAX};

/// Why a text cannot be an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("must not be empty")]
    Empty,
    #[error("is {0} bytes long; the limit is {ID_BYTES_MAX}")]
    TooLong(usize),
    #[error("is {0} bytes long; the limit of a shard's id is {SHARD_ID_BYTES_MAX}")]
    ShardIdTooLong(usize),
    #[error("has a control character at byte {0}")]
    Control(usize),
    #[error("is not a number")]
    NotANumber,
}

/// Checks what every id must keep: 1 to [`ID_BYTES_MAX`] bytes of UTF-8, no control characters.
fn check(text: &str) -> Result<(), InvalidName> {
    if text.len() > ID_BYTES_MAX {
        return Err(InvalidName::TooLong(text.len()));
    }
    check_text(text)
}

/// Checks the id of a shard: as [`check`], but as long as an escaped app and an instance can be.
fn check_shard_id(text: &str) -> Result<(), InvalidName> {
    if text.len() > SHARD_ID_BYTES_MAX {
        return Err(InvalidName::ShardIdTooLong(text.len()));
    }
    check_text(text)
}

fn check_text(text: &str) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty);
    }
    // Most are plain, and seen so at once.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(());
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(InvalidName::Control(at)),
        None => Ok(()),
    }
}

/// The order of texts, as [`str`] has it, eight bytes at a time: most names differ within the first sixteen,
/// where a call of `memcmp` takes longer than the comparison.
fn order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while let (Some((first, behind)), Some((other, other_behind))) =
        (a.split_first_chunk::<8>(), b.split_first_chunk::<8>())
    {
        if first != other {
            return u64::from_be_bytes(*first).cmp(&u64::from_be_bytes(*other));
        }
        (a, b) = (behind, other_behind);
    }
    let differs = a.iter().zip(b).find(|(a, b)| a != b);
    differs.map_or(a.len().cmp(&b.len()), |(a, b)| a.cmp(b))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        name! { $(#[$doc])* $name, check }
    };
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "SmolStr")]
        pub struct $name(SmolStr);

        impl $name {
            pub fn new(text: impl Into<SmolStr>) -> Result<Self, InvalidName> {
                Self::try_from(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether a text is one, without making it one.
            pub fn check(text: &str) -> Result<(), InvalidName> {
                $check(text)
            }
        }

        impl TryFrom<SmolStr> for $name {
            type Error = InvalidName;

            fn try_from(text: SmolStr) -> Result<Self, InvalidName> {
                $check(&text).map(|()| Self(text))
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for SmolStr {
            fn from(name: $name) -> SmolStr {
                name.0
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                order(&self.0, &other.0)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// In quotes: messages to clients say `app "pay"`.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    };
}

name! {
    /// The name of an app: a set of instances with one policy.
    AppName
}

name! {
    /// The id of an instance within its app.
    InstanceId
}

name! {
    /// The name of a document within its app.
    DocumentName
}

name! {
    /// The text of an `Idempotency-Key`, chosen by a client to make a POST happen at most once.
    IdempotencyKey
}

name! {
    /// The name of a shard set: whose instances are shards, and who works on them.
    ShardSetName
}

name! {
    /// The name of a lock or of an election.
    LatchName
}

name! {
    /// The id of a shard, 1 to [`SHARD_ID_BYTES_MAX`] bytes: `<app>/<instance>` of the instance
    /// that it stands for, as [`InstanceKey::shard_id`] writes it.
    ShardId, check_shard_id
}

impl From<&InstanceKey> for ShardId {
    fn from(key: &InstanceKey) -> Self {
        // Two checked names, escaped, are within the limit and have no control characters.
        Self(key.shard_id().into())
    }
}

impl ShardId {
    /// The instance that this shard stands for; none if the text is not what
    /// [`InstanceKey::shard_id`] writes for any instance.
    pub fn key(&self) -> Option<InstanceKey> {
        let (app, id) = self.0.split_once('/')?;
        let app = app.replace("%2F", "/").replace("%25", "%");
        let key = InstanceKey::new(app.parse().ok()?, id.parse().ok()?);
        // One instance, one text: another way to escape is no shard of it.
        (key.shard_id() == self.as_str()).then_some(key)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                // `parse` would take a `+` in front: one number, one text.
                match text.parse() {
                    Ok(number) if !text.starts_with('+') => Ok(Self(number)),
                    _ => Err(InvalidName::NotANumber),
                }
            }
        }
    };
}

number! {
    /// The Raft log index of the entry that made a change. One entry may change many things.
    Revision
}

number! {
    /// One life of an instance: the [`Revision`] that began it, so it is unique and ordered.
    Incarnation
}

number! {
    /// A session, counted by the replicated state; never used again.
    SessionId
}

impl From<Revision> for Incarnation {
    fn from(revision: Revision) -> Self {
        Self(revision.0)
    }
}

/// A node of the cluster.
pub type NodeId = u64;

/// An instance by app and id: the key of all that belongs to one instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceKey {
    pub app: AppName,
    pub id: InstanceId,
}

impl InstanceKey {
    pub fn new(app: AppName, id: InstanceId) -> Self {
        Self { app, id }
    }

    /// The id of this instance's shard: `<app>/<instance>`, with `%` and `/` of the app written
    /// `%25` and `%2F`, so that the first `/` always ends the app.
    pub fn shard_id(&self) -> String {
        let app = self.app.as_str();
        if app.contains(['%', '/']) {
            format!("{}/{}", app.replace('%', "%25").replace('/', "%2F"), self.id)
        } else {
            format!("{app}/{}", self.id)
        }
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.id)
    }
}

/// What a latch is for. Locks and elections of one name are two latches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LatchKind {
    Lock,
    Election,
}

impl LatchKind {
    /// The word that clients see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Election => "election",
        }
    }
}

impl fmt::Display for LatchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A latch by what it is for and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LatchKey {
    pub kind: LatchKind,
    pub name: LatchName,
}

impl LatchKey {
    pub fn new(kind: LatchKind, name: LatchName) -> Self {
        Self { kind, name }
    }
}

/// As messages to clients say it: `lock "backup"`.
impl fmt::Display for LatchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind, self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Maps of names are searched by text: both must agree.
        #[test]
        fn names_are_ordered_as_their_texts_are(
            both in "[ab\u{e9}]{0,20}",
            a in "[ -~\u{e9}\u{5fdc}]{1,20}",
            b in "[ -~\u{e9}\u{5fdc}]{1,20}",
        ) {
            for (a, b) in [(a.clone(), b), (a.clone(), String::new()), (a.clone(), a)] {
                let texts = [format!("{both}{a}"), format!("{both}{b}x")];
                let names = texts.clone().map(|text| AppName::new(text).expect("a name"));
                prop_assert_eq!(names[0].cmp(&names[1]), texts[0].cmp(&texts[1]));
                prop_assert_eq!(names[1].cmp(&names[0]), texts[1].cmp(&texts[0]));
                prop_assert_eq!(names[0].cmp(&names[0].clone()), Ordering::Equal);
            }
        }
    }

    /// Around the bytes that are compared at once.
    #[test]
    fn names_that_differ_anywhere_or_not_at_all_are_ordered_as_their_texts_are() {
        let texts: Vec<String> = (0..=17)
            .map(|length| "x".repeat(length))
            .flat_map(|x| ["a", "x", "z", "\u{e9}", "ax", "\u{e9}x"].map(|end| format!("{x}{end}")))
            .collect();
        for a in &texts {
            for b in &texts {
                let name = |text: &str| AppName::new(text).expect("a name");
                assert_eq!(name(a).cmp(&name(b)), a.cmp(b), "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn an_id_is_one_to_1024_bytes_without_control_characters() {
        assert!(AppName::new("pay/eu 应用").is_ok());
        assert!(AppName::new("x".repeat(1024)).is_ok());
        assert_eq!(AppName::new(""), Err(InvalidName::Empty));
        assert_eq!(AppName::new("x".repeat(1025)), Err(InvalidName::TooLong(1025)));
        assert_eq!(AppName::new("a\u{7}b"), Err(InvalidName::Control(1)));
    }

    #[test]
    fn an_invalid_id_does_not_come_in_through_serde() {
        let bytes = rmp_serde::to_vec("a\nb").expect("encodes");
        assert!(rmp_serde::from_slice::<InstanceId>(&bytes).is_err());
    }

    #[test]
    fn a_shard_id_escapes_the_app_so_that_it_parses_one_way_only() {
        let key = |app: &str, id: &str| {
            InstanceKey::new(app.parse().expect("app"), id.parse().expect("id")).shard_id()
        };
        assert_eq!(key("pay", "10.0.0.1:8719"), "pay/10.0.0.1:8719");
        assert_eq!(key("a/b%c", "d/e"), "a%2Fb%25c/d/e");
        assert_ne!(key("a/b", "c"), key("a", "b/c"));
    }

    #[test]
    fn a_shard_id_names_its_instance() {
        for (app, id) in
            [("pay", "10.0.0.1:8719"), ("a/b%c", "d/e"), ("%2F", "%25"), ("%252F", "x")]
        {
            let key = InstanceKey::new(app.parse().expect("app"), id.parse().expect("id"));
            let shard = ShardId::from(&key);
            assert_eq!(shard.as_str(), key.shard_id());
            assert_eq!(shard.key(), Some(key));
        }
    }

    #[test]
    fn a_text_that_no_instance_gives_names_none() {
        for text in ["pay", "/x", "pay/", "a%2fb/x", "a%/x", "%41/x"] {
            let shard: ShardId = text.parse().expect("a shard id");
            assert_eq!(shard.key(), None, "{text}");
        }
    }

    #[test]
    fn the_longest_app_and_instance_make_a_shard_id() {
        let key = InstanceKey::new(
            "/".repeat(ID_BYTES_MAX).parse().expect("app"),
            "x".repeat(ID_BYTES_MAX).parse().expect("id"),
        );
        let shard = ShardId::from(&key);
        assert_eq!(shard.as_str().len(), SHARD_ID_BYTES_MAX);
        assert_eq!(shard.as_str().parse(), Ok(shard.clone()));
        let longer = format!("{shard}x");
        assert_eq!(ShardId::new(longer), Err(InvalidName::ShardIdTooLong(SHARD_ID_BYTES_MAX + 1)));
    }
}
