//! Heartbeats, one and many.

use std::collections::BTreeMap;

use roster_storage::names::{AppName, Incarnation, InstanceId, InstanceKey, Revision, SessionId};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use utoipa::ToSchema;

use super::instance::{heartbeat_every, session_id};
use super::scalar::Millis;
use crate::error::{ApiError, Invalid};
use crate::openapi::schemas::{Name, SessionText};
use crate::registry::{Beat, BeatRefused, BeatTarget, Renewed};

/// The answer to one heartbeat.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({
    "ttl": "30s", "heartbeat_every": "10s", "revision": 812,
})))]
pub(crate) struct RenewedView {
    ttl: Millis,
    heartbeat_every: Millis,
    revision: u64,
    /// Ring epochs that all have adopted; told to who tells what it adopted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, u64>>)]
    settled: Option<BTreeMap<AppName, u64>>,
}

impl RenewedView {
    /// `adopts`: the beat told adoptions, so its answer tells what is settled.
    pub fn new(renewed: Renewed, revision: Revision, adopts: bool) -> Self {
        let settled = renewed.settled.into_iter().map(|(app, epoch)| (app, epoch.0)).collect();
        Self {
            ttl: Millis(renewed.ttl_ms),
            heartbeat_every: heartbeat_every(renewed.ttl_ms),
            revision: revision.0,
            settled: adopts.then_some(settled),
        }
    }
}

/// `POST /v1/heartbeats`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "sessions": ["1"], "instances": [{"app": "pay", "id": "10.0.0.1:8719", "incarnation": 812}],
})))]
pub(crate) struct HeartbeatsBody {
    #[serde(default)]
    #[schema(value_type = Vec<SessionText>)]
    sessions: Vec<SmolStr>,
    #[serde(default)]
    instances: Vec<InstanceBeat>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct InstanceBeat {
    #[schema(value_type = Name)]
    app: AppName,
    #[schema(value_type = Name)]
    id: InstanceId,
    incarnation: Option<u64>,
    /// Of its own app's ring.
    adopted: Option<u64>,
}

impl HeartbeatsBody {
    pub fn len(&self) -> usize {
        self.sessions.len() + self.instances.len()
    }

    /// Sessions first, then instances, each in its order.
    pub fn into_beats(self) -> Result<Vec<Beat>, Invalid> {
        let mut beats = Vec::with_capacity(self.len());
        for session in &self.sessions {
            beats.push(Beat::of(BeatTarget::Session(session_id(session)?)));
        }
        for InstanceBeat { app, id, incarnation, adopted } in self.instances {
            let incarnation = incarnation.map(Incarnation);
            let adopted = adopted.map(|epoch| (app.clone(), Revision(epoch)));
            let target = BeatTarget::Instance { key: InstanceKey::new(app, id), incarnation };
            beats.push(Beat { adopted: adopted.into_iter().collect(), ..Beat::of(target) });
        }
        Ok(beats)
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct HeartbeatsView {
    pub renewed: u64,
    /// The shortest of all that were renewed.
    #[schema(required)]
    pub heartbeat_every: Option<Millis>,
    /// Of the rings of which instances told what they adopted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub settled: BTreeMap<AppName, u64>,
    pub failed: Vec<FailedBeat>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct FailedBeat {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    session: Option<SmolStr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    app: Option<SmolStr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    id: Option<SmolStr>,
    /// The life that took over, if that is why.
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<u64>,
    code: String,
    detail: String,
}

impl FailedBeat {
    pub fn of_session(session: SessionId, why: BeatRefused) -> Self {
        Self { session: Some(smol_str::format_smolstr!("{session}")), ..Self::because(why) }
    }

    pub fn of_instance(app: &str, id: &str, why: BeatRefused) -> Self {
        Self { app: Some(app.into()), id: Some(id.into()), ..Self::because(why) }
    }

    /// Of nobody yet.
    fn because(why: BeatRefused) -> Self {
        let incarnation = match &why {
            BeatRefused::StaleIncarnation { current } => Some(current.0),
            BeatRefused::UnknownApp(_)
            | BeatRefused::UnknownInstance
            | BeatRefused::UnknownSession(_)
            | BeatRefused::Ending => None,
        };
        let error = ApiError::from(why);
        let (code, detail) = (error.code().to_owned(), error.detail().to_owned());
        Self { session: None, app: None, id: None, incarnation, code, detail }
    }
}
