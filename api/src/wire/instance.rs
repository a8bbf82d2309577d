//! Instances, their registrations and the overrides on them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use roster_storage::catalog::{Catalog, Instance, Override, State};
use roster_storage::command::{
    Condition, MetadataPatch, Overridden, Patch, PutOverride, Register, Registered,
};
use roster_storage::limits::{HEARTBEATS_PER_TTL, PAYLOAD_BYTES_MAX, REASON_BYTES_MAX, WEIGHT_MAX};
use roster_storage::names::{AppName, Incarnation, InstanceId, InstanceKey, Revision, SessionId};
use roster_storage::profile::{Fields, Metadata, PackedProfile};
use serde::{Deserialize, Deserializer, Serialize};
use smol_str::SmolStr;
use utoipa::ToSchema;

use super::entries::Entries;
use super::scalar::{
    Base64, Millis, Moment, Text, from_base64, metadata_within, parse_millis, ttl,
    within_short_text,
};
use crate::error::Invalid;
use crate::openapi::schemas::{
    Expires, InstanceState, MetadataText, Payload, Port, ReasonText, SessionText, ShortText, Weight,
};

/// The full record of an instance, as registrations bring it.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "ip": "10.0.0.1", "port": 8719, "hostname": "host-1", "version": "1.8.9", "zone": "a",
    "metadata": {"build": "47"}, "ttl": "30s",
})))]
pub(crate) struct InstanceBody<'a> {
    #[serde(default)]
    #[schema(value_type = ShortText)]
    pub ip: SmolStr,
    #[serde(default)]
    #[schema(value_type = Port)]
    pub port: u16,
    #[serde(default)]
    #[schema(value_type = ShortText)]
    pub hostname: SmolStr,
    #[serde(default)]
    #[schema(value_type = ShortText)]
    pub version: SmolStr,
    #[serde(default)]
    #[schema(value_type = ShortText)]
    pub zone: SmolStr,
    #[schema(value_type = Option<Weight>)]
    pub weight: Option<u16>,
    #[serde(borrow, default)]
    #[schema(value_type = MetadataText)]
    pub metadata: Entries<'a>,
    #[serde(default)]
    #[schema(value_type = Payload)]
    pub payload: String,
    pub ttl: Option<Millis>,
    #[schema(value_type = Option<SessionText>)]
    pub session: Option<SmolStr>,
}

/// How a registration was asked for, beside its record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegisterHow {
    pub create_app: bool,
    pub takeover: bool,
    pub condition: Condition,
}

impl InstanceBody<'_> {
    pub fn into_register(self, key: InstanceKey, how: RegisterHow) -> Result<Register, Invalid> {
        let session = self.session.as_deref().map(session_id).transpose()?;
        if session.is_some() && self.ttl.is_some() {
            return Err(Invalid::new("ttl", "is the session's, once a session is named"));
        }
        Ok(Register {
            key,
            session,
            ttl_ms: ttl("ttl", self.ttl)?,
            profile: self.packed()?,
            takeover: how.takeover,
            create_app: how.create_app.then_some(0),
            condition: how.condition,
        })
    }

    /// The texts go from where the body was read into the packed ones.
    fn packed(&self) -> Result<PackedProfile, Invalid> {
        metadata_within(self.metadata.iter())?;
        Ok(PackedProfile::from(Fields {
            ip: within_short_text("ip", &self.ip)?,
            port: self.port.into(),
            hostname: within_short_text("hostname", &self.hostname)?,
            version: within_short_text("version", &self.version)?,
            zone: within_short_text("zone", &self.zone)?,
            weight: weight(self.weight.unwrap_or(1))?,
            metadata: self.metadata.iter(),
            payload: &payload(&self.payload)?,
        }))
    }
}

pub(crate) fn session_id(text: &str) -> Result<SessionId, Invalid> {
    text.parse().map_err(Invalid::name("session"))
}

fn weight(weight: u16) -> Result<u16, Invalid> {
    if (1..=WEIGHT_MAX).contains(&weight) {
        Ok(weight)
    } else {
        Err(Invalid::new("weight", format!("must be between 1 and {WEIGHT_MAX}")))
    }
}

fn payload(text: &str) -> Result<Vec<u8>, Invalid> {
    let bytes = from_base64("payload", text)?;
    if bytes.len() > PAYLOAD_BYTES_MAX {
        let why = format!("is {} bytes; the limit is {PAYLOAD_BYTES_MAX}", bytes.len());
        return Err(Invalid::new("payload", why));
    }
    Ok(bytes)
}

/// What `PATCH` takes: a JSON merge patch, where null forgets.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PatchBody {
    /// Keys to set, and keys to forget: those with null. Null forgets all.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    metadata: Option<Option<BTreeMap<SmolStr, Option<SmolStr>>>>,
    /// Null: 1.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Weight>)]
    weight: Option<Option<u16>>,
    /// Null: none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Payload>)]
    payload: Option<Option<String>>,
}

/// Tells null from absent.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

impl PatchBody {
    pub fn into_patch(
        self,
        key: InstanceKey,
        incarnation: Option<Incarnation>,
        condition: Condition,
    ) -> Result<Patch, Invalid> {
        let metadata = match self.metadata {
            None => MetadataPatch::default(),
            Some(None) => MetadataPatch { clear: true, entries: BTreeMap::new() },
            Some(Some(entries)) => MetadataPatch { clear: false, entries },
        };
        let entries = metadata.entries.iter();
        metadata_within(entries.map(|(k, v)| (k.as_str(), v.as_deref().unwrap_or_default())))?;
        Ok(Patch {
            key,
            incarnation,
            metadata,
            weight: self.weight.map(|to| weight(to.unwrap_or(1))).transpose()?,
            payload: self
                .payload
                .map(|to| payload(&to.unwrap_or_default()).map(serde_bytes::ByteBuf::from))
                .transpose()?,
            condition,
        })
    }
}

/// The answer to a registration.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({
    "app": "pay", "id": "10.0.0.1:8719", "incarnation": 812, "session": "1", "ttl": "30s",
    "heartbeat_every": "10s", "revision": 812,
})))]
pub(crate) struct RegisteredView<'a> {
    app: &'a str,
    id: &'a str,
    incarnation: u64,
    #[schema(value_type = SessionText)]
    session: Text<SessionId>,
    ttl: Millis,
    heartbeat_every: Millis,
    revision: u64,
}

impl<'a> RegisteredView<'a> {
    pub fn new(key: &'a InstanceKey, registered: Registered, revision: Revision) -> Self {
        Self {
            app: key.app.as_str(),
            id: key.id.as_str(),
            incarnation: registered.incarnation.0,
            session: Text(registered.session),
            ttl: Millis(registered.ttl_ms),
            heartbeat_every: heartbeat_every(registered.ttl_ms),
            revision: revision.0,
        }
    }
}

pub(crate) fn heartbeat_every(ttl_ms: u64) -> Millis {
    Millis(ttl_ms / HEARTBEATS_PER_TTL)
}

/// The answer to a change or a removal.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChangedView<'a> {
    pub app: &'a str,
    pub id: &'a str,
    pub incarnation: u64,
    pub revision: u64,
}

impl<'a> ChangedView<'a> {
    pub fn new(key: &'a InstanceKey, incarnation: Incarnation, revision: Revision) -> Self {
        Self {
            app: key.app.as_str(),
            id: key.id.as_str(),
            incarnation: incarnation.0,
            revision: revision.0,
        }
    }
}

/// An instance, alone or in a list.
#[derive(Serialize, ToSchema)]
pub(crate) struct InstanceView<'a> {
    app: &'a str,
    id: &'a str,
    incarnation: u64,
    ip: &'a str,
    port: u32,
    hostname: &'a str,
    version: &'a str,
    zone: &'a str,
    weight: u16,
    #[schema(value_type = MetadataText)]
    metadata: Metadata<'a>,
    payload: Base64<'a>,
    #[schema(value_type = InstanceState)]
    state: &'static str,
    ttl: Millis,
    #[schema(value_type = SessionText)]
    session: Text<SessionId>,
    registered_at: Moment,
    revision: u64,
    /// Only where it was asked for; null if the leader does not know the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat: Option<Option<Moment>>,
}

impl<'a> InstanceView<'a> {
    pub fn new(
        catalog: &Catalog,
        app: &'a AppName,
        id: &'a InstanceId,
        instance: &'a Instance,
    ) -> Self {
        let key = InstanceKey::new(app.clone(), id.clone());
        let ttl_ms = catalog.session(instance.session).map_or(0, |s| s.ttl_ms());
        Self::seen(app, id, instance, catalog.state_of(&key), ttl_ms)
    }

    pub fn seen(
        app: &'a AppName,
        id: &'a InstanceId,
        instance: &'a Instance,
        state: State,
        ttl_ms: u64,
    ) -> Self {
        let profile = &instance.profile;
        Self {
            app: app.as_str(),
            id: id.as_str(),
            incarnation: instance.incarnation.0,
            ip: profile.ip(),
            port: profile.port(),
            hostname: profile.hostname(),
            version: profile.version(),
            zone: profile.zone(),
            weight: profile.weight(),
            metadata: profile.metadata(),
            payload: Base64(profile.payload()),
            state: state.word(),
            ttl: Millis(ttl_ms),
            session: Text(instance.session),
            registered_at: Moment(instance.registered_at_ms),
            revision: instance.revision.0,
            last_heartbeat: None,
        }
    }

    /// With what the leader knows of its last heartbeat.
    pub fn heard(mut self, wall_ms: Option<u64>) -> Self {
        self.last_heartbeat = Some(wall_ms.map(Moment));
        self
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct InstanceList<'a> {
    pub instances: Vec<InstanceView<'a>>,
    #[schema(required)]
    pub next_cursor: Option<String>,
    pub revision: u64,
}

/// What an operator says of an instance.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OverrideBody {
    state: OverrideWord,
    #[serde(default)]
    #[schema(value_type = ReasonText)]
    reason: SmolStr,
    /// A span (`"2h"`) or a moment, as `GET` writes it.
    #[schema(value_type = Option<Expires>)]
    expires: Option<SmolStr>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OverrideWord {
    Draining,
    Maintenance,
}

/// Why an operator does something.
pub(crate) fn reason(text: impl Into<SmolStr>) -> Result<SmolStr, Invalid> {
    let text = text.into();
    if text.len() > REASON_BYTES_MAX {
        let why = format!("is over the limit of {REASON_BYTES_MAX} bytes");
        return Err(Invalid::new("reason", why));
    }
    Ok(text)
}

impl OverrideBody {
    pub fn into_override(self, key: InstanceKey) -> Result<PutOverride, Invalid> {
        Ok(PutOverride {
            key,
            state: match self.state {
                OverrideWord::Draining => Overridden::Draining,
                OverrideWord::Maintenance => Overridden::Maintenance,
            },
            reason: reason(self.reason)?,
            expires_in_ms: self.expires.as_deref().map(expires_in).transpose()?,
        })
    }
}

pub(crate) fn expires_in(text: &str) -> Result<u64, Invalid> {
    let wrong = || Invalid::new("expires", "must be a duration (\"2h\") or a time to come");
    let ms = match humantime::parse_rfc3339(text) {
        Ok(at) => {
            let left = at.duration_since(SystemTime::now()).map_err(|_| wrong())?;
            u64::try_from(left.as_millis()).map_err(|_| wrong())?
        }
        Err(_) => parse_millis(text).map_err(|_| wrong())?.0,
    };
    if ms == 0 { Err(wrong()) } else { Ok(ms) }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OverrideView<'a> {
    app: &'a str,
    id: &'a str,
    #[schema(value_type = OverrideWord)]
    state: &'static str,
    reason: &'a str,
    #[schema(required)]
    expires: Option<Moment>,
    revision: u64,
}

impl<'a> OverrideView<'a> {
    pub fn new(key: &'a InstanceKey, word: &'a Override) -> Self {
        Self {
            app: key.app.as_str(),
            id: key.id.as_str(),
            state: State::from(word.state).word(),
            reason: &word.reason,
            expires: word.expires_wall_ms.map(Moment),
            revision: word.revision.0,
        }
    }
}

/// The answer to a change of an override.
#[derive(Serialize, ToSchema)]
pub(crate) struct OverrideChanged<'a> {
    pub app: &'a str,
    pub id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OverrideWord>)]
    pub state: Option<&'static str>,
    pub revision: u64,
}
