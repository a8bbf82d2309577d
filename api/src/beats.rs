//! The body of `POST /v1/heartbeats`, as the leader reads and answers it: a node that does not lead
//! only passes the bytes on, both ways.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use roster_storage::limits::HEARTBEATS_MAX;
use roster_storage::names::{AppName, Incarnation, InstanceId, InstanceKey, Revision, SessionId};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::extract::Encoding;
use crate::registry::{BeatRefused, BeatTarget};
use crate::wire::heartbeat::{FailedBeat, HeartbeatsView};
use crate::wire::instance::heartbeat_every;

/// Room for [`HEARTBEATS_MAX`] instances that say all there is to say, with names of 240 bytes; of longer
/// ones fewer fit. A body is read by the leader, on the threads that lead, and there is nobody else.
pub(crate) const HEARTBEATS_BYTES_MAX: usize = HEARTBEATS_MAX * 320;

/// A body that nobody has read yet. Its answer is encoded as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BeatsBody {
    pub encoding: Encoding,
    #[serde(serialize_with = "write_bytes", deserialize_with = "read_bytes")]
    pub bytes: Bytes,
}

impl BeatsBody {
    /// Whether it begins as what a batch is: an object, a map. Cheap, so that the leader is not asked to
    /// read what is something else altogether.
    pub(crate) fn begins_as_a_batch(&self) -> bool {
        match self.encoding {
            Encoding::Json => self.bytes.trim_ascii_start().starts_with(b"{"),
            // The markers of maps: small ones, and those with a length of two and of four bytes.
            Encoding::Msgpack => matches!(self.bytes.first(), Some(0x80..=0x8f | 0xde | 0xdf)),
        }
    }
}

fn write_bytes<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

fn read_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    serde_bytes::ByteBuf::deserialize(deserializer).map(|bytes| Bytes::from(bytes.into_vec()))
}

/// What became of a body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum BodyAnswer {
    /// The body for the client.
    Renewed(#[serde(serialize_with = "write_bytes", deserialize_with = "read_bytes")] Bytes),
    /// Nobody was renewed: the leader cannot read it, or takes no bodies. Whoever got the body finds
    /// out what is wrong with it; if nothing is, each of its beats is to be sent by itself.
    NotRead,
}

/// Whom a body names, read in place.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch<'a> {
    sessions: Vec<SessionText>,
    #[serde(borrow)]
    instances: Vec<InstanceBeat<'a>>,
}

/// An instance that a body names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceBeat<'a> {
    #[serde(borrow)]
    pub app: Cow<'a, str>,
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// Only if this one lives.
    pub incarnation: Option<Incarnation>,
    /// The epoch of its own app's ring that it has adopted.
    pub adopted: Option<Revision>,
}

impl InstanceBeat<'_> {
    fn is_valid(&self) -> bool {
        AppName::check(&self.app).is_ok() && InstanceId::check(&self.id).is_ok()
    }

    /// Whom it names; always somebody once [`Batch::read`] let it through.
    pub fn key(&self) -> Option<InstanceKey> {
        Some(InstanceKey::new(self.app.parse().ok()?, self.id.parse().ok()?))
    }
}

/// A session's id, which is text.
#[derive(Debug)]
struct SessionText(SessionId);

impl<'de> Deserialize<'de> for SessionText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = SessionText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the id of a session")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SessionText, E> {
                text.parse().map(SessionText).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl<'a> Batch<'a> {
    /// `None` where anything is not as it should be, or is more than may come together: what exactly
    /// is told by whoever got the body.
    pub fn read(body: &'a BeatsBody) -> Option<Self> {
        let batch: Self = match body.encoding {
            // serde would take an array for an object, field by field.
            Encoding::Json if body.bytes.trim_ascii_start().starts_with(b"[") => return None,
            Encoding::Json => serde_json::from_slice(&body.bytes).ok()?,
            Encoding::Msgpack => whole_msgpack(&body.bytes)?,
        };
        (batch.len() <= HEARTBEATS_MAX && batch.instances.iter().all(InstanceBeat::is_valid))
            .then_some(batch)
    }

    pub fn len(&self) -> usize {
        self.sessions.len() + self.instances.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// They come before the instances.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.iter().map(|session| session.0)
    }

    pub fn instances(&self) -> &[InstanceBeat<'a>] {
        &self.instances
    }
}

/// `None` if anything comes after it too.
fn whole_msgpack<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    let value = T::deserialize(&mut reader).ok()?;
    // Whatever came next would have a marker, be it one that a flag cannot have.
    let next = bool::deserialize(&mut reader);
    matches!(next, Err(rmp_serde::decode::Error::InvalidMarkerRead(_))).then_some(value)
}

/// The answer to many heartbeats, as it is gathered.
#[derive(Default)]
pub struct Summary {
    renewed: u64,
    shortest_ms: Option<u64>,
    settled: BTreeMap<AppName, u64>,
    failed: Vec<FailedBeat>,
}

impl Summary {
    /// `ttl_ms` as the client is told it.
    pub fn renewed(&mut self, ttl_ms: u64) {
        self.renewed += 1;
        self.shortest_ms = Some(self.shortest_ms.map_or(ttl_ms, |shortest| shortest.min(ttl_ms)));
    }

    /// What is settled of the rings of which a beat told adoptions.
    pub fn settled(&mut self, settled: impl IntoIterator<Item = (AppName, Revision)>) {
        self.settled.extend(settled.into_iter().map(|(app, epoch)| (app, epoch.0)));
    }

    pub fn session_failed(&mut self, session: SessionId, why: BeatRefused) {
        self.failed.push(FailedBeat::of_session(session, why));
    }

    pub fn instance_failed(&mut self, app: &str, id: &str, why: BeatRefused) {
        self.failed.push(FailedBeat::of_instance(app, id, why));
    }

    /// As one of the above.
    pub fn failed(&mut self, target: &BeatTarget, why: BeatRefused) {
        match target {
            BeatTarget::Session(session) => self.session_failed(*session, why),
            BeatTarget::Instance { key, .. } => {
                self.instance_failed(key.app.as_str(), key.id.as_str(), why);
            }
        }
    }

    pub fn write(self, encoding: Encoding) -> Bytes {
        let view = HeartbeatsView {
            renewed: self.renewed,
            heartbeat_every: self.shortest_ms.map(heartbeat_every),
            settled: self.settled,
            failed: self.failed,
        };
        encoding.write(&view)
    }
}
