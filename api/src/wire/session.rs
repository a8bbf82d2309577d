//! Sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use roster_storage::catalog::Session;
use roster_storage::command::OpenSession;
use roster_storage::latch::Claim;
use roster_storage::names::{AppName, InstanceId, InstanceKey, LatchKey, LatchKind, SessionId};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use utoipa::ToSchema;

use super::instance::heartbeat_every;
use super::latch::{CandidacyView, HeldLockView};
use super::scalar::{Millis, Text, short_text, ttl};
use crate::error::Invalid;
use crate::openapi::schemas::{SessionText, ShortText};

#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"ttl": "15s", "name": "worker on host-1"})))]
pub(crate) struct SessionBody {
    ttl: Option<Millis>,
    #[serde(default)]
    #[schema(value_type = ShortText)]
    name: SmolStr,
}

impl SessionBody {
    pub fn into_command(
        self,
        request: Option<roster_storage::command::Request>,
    ) -> Result<OpenSession, Invalid> {
        Ok(OpenSession {
            ttl_ms: ttl("ttl", self.ttl)?,
            name: short_text("name", self.name)?,
            request,
        })
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SessionOpened {
    #[schema(value_type = SessionText)]
    session: Text<SessionId>,
    ttl: Millis,
    heartbeat_every: Millis,
    revision: u64,
}

impl SessionOpened {
    pub fn new(session: SessionId, ttl_ms: u64, revision: u64) -> Self {
        Self {
            session: Text(session),
            ttl: Millis(ttl_ms),
            heartbeat_every: heartbeat_every(ttl_ms),
            revision,
        }
    }
}

/// A session with what hangs off it.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionView<'a> {
    #[schema(value_type = SessionText)]
    session: Text<SessionId>,
    name: &'a str,
    ttl: Millis,
    #[schema(value_type = BTreeMap<String, u64>)]
    adopted: BTreeMap<&'a str, u64>,
    instances: Vec<Held>,
    locks: Vec<HeldLockView<'a>>,
    elections: Vec<CandidacyView<'a>>,
}

#[derive(Serialize, ToSchema)]
struct Held {
    #[schema(value_type = String)]
    app: AppName,
    #[schema(value_type = String)]
    id: InstanceId,
    #[schema(required)]
    incarnation: Option<u64>,
}

impl<'a> SessionView<'a> {
    pub fn new(
        id: SessionId,
        session: &'a Session,
        held: impl Iterator<Item = (InstanceKey, Option<u64>)>,
        claims: impl Iterator<Item = (&'a LatchKey, &'a Arc<Claim>)>,
    ) -> Self {
        let (mut locks, mut elections) = (Vec::new(), Vec::new());
        for (LatchKey { kind, name }, claim) in claims {
            let token = claim.token.map(|token| token.0);
            match kind {
                LatchKind::Lock => {
                    let (owner, mode) = (claim.by.owner.as_str(), claim.mode.word());
                    locks.push(HeldLockView { name, owner, mode, token });
                }
                LatchKind::Election => {
                    elections.push(CandidacyView { name, value: &claim.value, token });
                }
            }
        }
        let instances =
            held.map(|(InstanceKey { app, id }, incarnation)| Held { app, id, incarnation });
        Self {
            session: Text(id),
            name: session.name(),
            ttl: Millis(session.ttl_ms()),
            adopted: BTreeMap::new(),
            instances: instances.collect(),
            locks,
            elections,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SessionClosed {
    #[schema(value_type = SessionText)]
    pub session: Text<SessionId>,
    pub instances: u64,
    pub revision: u64,
}

/// What a session's heartbeat may bring: the ring epochs that its owner has adopted.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionBeatBody {
    #[schema(value_type = Option<BTreeMap<String, u64>>)]
    pub adopted: Option<BTreeMap<AppName, u64>>,
}
