//! What apply emitted: every change, with its reason, in the revision that made it.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::catalog::{Document, Instance, Session};
use crate::names::{AppName, DocumentName, Incarnation, InstanceKey, SessionId};

/// Why something is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Deregistered,
    /// Its session's deadline passed; so long after its last heartbeat, in milliseconds.
    Expired {
        silent_ms: u64,
    },
    /// Another incarnation took over.
    Replaced {
        by: Incarnation,
    },
    Operator,
    /// Its session was closed by its owner.
    SessionClosed,
    /// An app without instances reached its `remove_when_empty_after`.
    Empty,
}

impl Reason {
    /// The word that clients see.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Deregistered | Self::SessionClosed => "deregistered",
            Self::Expired { .. } | Self::Empty => "expired",
            Self::Replaced { .. } => "replaced",
            Self::Operator => "operator",
        }
    }

    /// What caused it, in words for people.
    pub fn detail(&self) -> SmolStr {
        match self {
            Self::Deregistered => "left by itself".into(),
            Self::SessionClosed => "its session was closed".into(),
            Self::Expired { silent_ms } => smol_str::format_smolstr!(
                "last heartbeat {}.{} s before",
                silent_ms / 1000,
                silent_ms % 1000 / 100
            ),
            Self::Replaced { by } => smol_str::format_smolstr!("replaced by incarnation {by}"),
            Self::Operator => "removed by an operator".into(),
            Self::Empty => "without instances for too long".into(),
        }
    }
}

/// One change. All events of one entry share its revision and are told together.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    AppPut {
        app: AppName,
    },
    AppDeleted {
        app: AppName,
        reason: Reason,
    },
    /// Made, changed, or seen in another state by an override.
    InstancePut {
        key: InstanceKey,
        instance: Arc<Instance>,
    },
    InstanceDeleted {
        key: InstanceKey,
        incarnation: Incarnation,
        reason: Reason,
    },
    ShardPut {
        key: InstanceKey,
        incarnation: Incarnation,
    },
    /// Always in the revision of its instance's removal (invariant S6).
    ShardDeleted {
        key: InstanceKey,
        incarnation: Incarnation,
        reason: Reason,
    },
    /// Opened, or touched by a registration: the leader renews its lease.
    SessionPut {
        session: SessionId,
        value: Session,
    },
    SessionEnded {
        session: SessionId,
        reason: Reason,
    },
    /// Made or written again, with the same value too.
    DocumentPut {
        app: AppName,
        name: DocumentName,
        document: Arc<Document>,
    },
    DocumentDeleted {
        app: AppName,
        name: DocumentName,
        reason: Reason,
        /// Who deleted it; empty where it went with its app.
        by: SmolStr,
    },
}
