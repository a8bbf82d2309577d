//! Locks and elections.

use std::sync::Arc;

use roster_storage::command::{ClaimLatch, ReleaseLatch, Request, WithdrawClaim};
use roster_storage::latch::{Claim, Claimant, Latch, Mode};
use roster_storage::limits::{CAMPAIGN_VALUE_BYTES_MAX, OWNER_BYTES_MAX};
use roster_storage::names::{LatchKey, LatchKind, LatchName, Revision, SessionId};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use utoipa::ToSchema;

use super::scalar::{Millis, Text};
use crate::error::Invalid;
use crate::openapi::schemas::{CandidateValue, Name, OwnerText, SessionText};
use crate::poll::WAIT_MAX;

/// Holders that a lock shows; the others are counted.
const HOLDERS_SHOWN: usize = 100;

/// Candidates that an election shows; the others are counted. A list of elections shows none.
pub(crate) const CANDIDATES_SHOWN: usize = 100;

/// `POST /v1/locks/{name}/acquire`
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "session": "1", "owner": "nightly", "mode": "exclusive", "wait": "10s",
})))]
pub(crate) struct AcquireBody {
    #[schema(value_type = SessionText)]
    session: SmolStr,
    #[serde(default)]
    #[schema(value_type = OwnerText)]
    owner: SmolStr,
    #[serde(default)]
    mode: ModeWord,
    #[serde(default)]
    wait: Option<Millis>,
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = LockMode)]
enum ModeWord {
    #[default]
    Exclusive,
    Shared,
}

/// A claim, and how long to wait for it to win.
pub(crate) struct Claiming {
    pub command: ClaimLatch,
    pub wait_ms: u64,
}

impl AcquireBody {
    pub fn into_claiming(self, latch: LatchKey) -> Result<Claiming, Invalid> {
        let wait_ms = wait(self.wait)?;
        let mode = match self.mode {
            ModeWord::Exclusive => Mode::Exclusive,
            ModeWord::Shared => Mode::Shared,
        };
        let (by, value) = (claimant(&self.session, self.owner)?, Arc::from(""));
        let command = ClaimLatch { latch, by, mode, value, waits: wait_ms > 0 };
        Ok(Claiming { command, wait_ms })
    }
}

/// `POST /v1/elections/{name}/campaign`
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CampaignBody {
    #[schema(value_type = SessionText)]
    session: SmolStr,
    #[serde(default)]
    #[schema(value_type = CandidateValue)]
    value: String,
    #[serde(default)]
    wait: Option<Millis>,
}

impl CampaignBody {
    pub fn into_claiming(self, latch: LatchKey) -> Result<Claiming, Invalid> {
        if self.value.len() > CAMPAIGN_VALUE_BYTES_MAX {
            let (bytes, max) = (self.value.len(), CAMPAIGN_VALUE_BYTES_MAX);
            return Err(Invalid::new("value", format!("has {bytes} bytes; the limit is {max}")));
        }
        let wait_ms = wait(self.wait)?;
        let command = ClaimLatch {
            latch,
            by: claimant(&self.session, SmolStr::default())?,
            mode: Mode::Exclusive,
            value: self.value.into(),
            // A candidate stays in its place, however long this request waits.
            waits: true,
        };
        Ok(Claiming { command, wait_ms })
    }
}

fn wait(wait: Option<Millis>) -> Result<u64, Invalid> {
    match wait {
        Some(wait) if wait.0 > WAIT_MAX.0 => {
            Err(Invalid::new("wait", format!("is over the limit of {WAIT_MAX}")))
        }
        Some(wait) => Ok(wait.0),
        None => Ok(0),
    }
}

/// `POST /v1/elections/{name}/resign`
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResignBody {
    token: Option<u64>,
    #[schema(value_type = Option<SessionText>)]
    session: Option<SmolStr>,
}

impl ResignBody {
    pub fn into_letting(
        self,
        latch: LatchKey,
        request: Option<Request>,
    ) -> Result<Letting, Invalid> {
        let Self { token, session } = self;
        ReleaseBody { token, session, owner: None }.into_letting(latch, request)
    }
}

/// `POST /v1/locks/{name}/release`
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReleaseLockBody)]
pub(crate) struct ReleaseBody {
    token: Option<u64>,
    #[schema(value_type = Option<SessionText>)]
    session: Option<SmolStr>,
    #[schema(value_type = Option<OwnerText>)]
    owner: Option<SmolStr>,
}

/// What is let go.
pub(crate) enum Letting {
    /// What is held under a token.
    Held(ReleaseLatch),
    /// Whatever a claimant has of it, a place in the queue too.
    All(WithdrawClaim),
}

impl ReleaseBody {
    pub fn into_letting(
        self,
        latch: LatchKey,
        request: Option<Request>,
    ) -> Result<Letting, Invalid> {
        let by = claimant_if_named(self.session, self.owner)?;
        match (self.token, by) {
            (Some(token), by) => {
                Ok(Letting::Held(ReleaseLatch { latch, token: Revision(token), by, request }))
            }
            (None, Some(by)) => {
                let (asked, even_won) = (None, true);
                Ok(Letting::All(WithdrawClaim { latch, by, asked, even_won, request }))
            }
            (None, None) => {
                Err(Invalid::new("token", "is missing: give it, or the session that lets go"))
            }
        }
    }
}

/// Who is meant, if anybody is named: an owner is one of a session.
pub(crate) fn claimant_if_named(
    session: Option<SmolStr>,
    owner: Option<SmolStr>,
) -> Result<Option<Claimant>, Invalid> {
    match (session, owner) {
        (Some(session), owner) => claimant(&session, owner.unwrap_or_default()).map(Some),
        (None, Some(_)) => Err(Invalid::new("owner", "is one of a session; name that too")),
        (None, None) => Ok(None),
    }
}

fn claimant(session: &str, owner: SmolStr) -> Result<Claimant, Invalid> {
    let session: SessionId = session.parse().map_err(Invalid::name("session"))?;
    if owner.len() > OWNER_BYTES_MAX {
        let (bytes, max) = (owner.len(), OWNER_BYTES_MAX);
        return Err(Invalid::new("owner", format!("has {bytes} bytes; the limit is {max}")));
    }
    Ok(Claimant { session, owner })
}

/// A lock that was won.
#[derive(Serialize, ToSchema)]
pub(crate) struct AcquiredView<'a> {
    #[schema(value_type = Name)]
    pub name: &'a LatchName,
    pub token: u64,
    #[schema(value_type = ModeWord)]
    pub mode: &'static str,
    pub revision: u64,
}

/// Whether a candidate leads.
#[derive(Serialize, ToSchema)]
pub(crate) struct CampaignView<'a> {
    #[schema(value_type = Name)]
    pub name: &'a LatchName,
    pub leader: bool,
    #[schema(required)]
    pub token: Option<u64>,
    pub revision: u64,
}

/// Nothing but when it was done.
#[derive(Serialize, ToSchema)]
pub(crate) struct LatchChanged<'a> {
    #[schema(value_type = Name)]
    pub name: &'a LatchName,
    pub revision: u64,
}

/// `GET …/check`
#[derive(Serialize, ToSchema)]
pub(crate) struct CheckView {
    pub holds: bool,
    pub revision: u64,
}

/// Who lost a latch to an operator.
#[derive(Serialize, ToSchema)]
pub(crate) struct BrokenView<'a> {
    #[schema(value_type = Name)]
    pub name: &'a LatchName,
    pub broken: Vec<ClaimView<'a>>,
    pub revision: u64,
}

/// A claim as events and lists show it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ClaimView<'a> {
    #[schema(value_type = SessionText)]
    session: Text<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ModeWord>)]
    mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[schema(required)]
    token: Option<u64>,
}

impl<'a> ClaimView<'a> {
    pub fn new(kind: LatchKind, claim: &'a Claim) -> Self {
        let session = Text(claim.by.session);
        let token = claim.token.map(|token| token.0);
        let (owner, mode, value) = match kind {
            LatchKind::Lock => (Some(claim.by.owner.as_str()), Some(claim.mode.word()), None),
            LatchKind::Election => (None, None, Some(&*claim.value)),
        };
        Self { session, owner, mode, value, token }
    }
}

/// A lock: who holds it, how many do, and how many wait.
#[derive(Serialize, ToSchema)]
pub(crate) struct LockView<'a> {
    #[schema(value_type = Name)]
    name: &'a LatchName,
    holders: Vec<ClaimView<'a>>,
    holding: usize,
    waiting: usize,
    revision: u64,
}

impl<'a> LockView<'a> {
    pub fn new(name: &'a LatchName, latch: &'a Latch) -> Self {
        let shown = latch.holders().take(HOLDERS_SHOWN);
        Self {
            name,
            holders: shown.map(|claim| ClaimView::new(LatchKind::Lock, claim)).collect(),
            holding: latch.holding(),
            waiting: latch.waiting(),
            revision: latch.revision.0,
        }
    }
}

/// An election: who leads, with what it publishes, and who would be next.
#[derive(Serialize, ToSchema)]
pub(crate) struct ElectionView<'a> {
    #[schema(value_type = Name)]
    name: &'a LatchName,
    #[schema(value_type = Option<SessionText>, required)]
    leader: Option<Text<SessionId>>,
    #[schema(required)]
    value: Option<&'a str>,
    #[schema(required)]
    token: Option<u64>,
    candidates: Vec<CandidateView<'a>>,
    waiting: usize,
    revision: u64,
}

#[derive(Serialize, ToSchema)]
struct CandidateView<'a> {
    #[schema(value_type = SessionText)]
    session: Text<SessionId>,
    value: &'a str,
}

impl<'a> ElectionView<'a> {
    pub fn new(name: &'a LatchName, latch: &'a Latch, candidates_shown: usize) -> Self {
        let leader = latch.holders().next();
        let candidates = latch
            .waiters()
            .take(candidates_shown)
            .map(|claim| CandidateView { session: Text(claim.by.session), value: &claim.value });
        Self {
            name,
            leader: leader.map(|claim| Text(claim.by.session)),
            value: leader.map(|claim| &*claim.value),
            token: leader.and_then(|claim| claim.token).map(|token| token.0),
            candidates: candidates.collect(),
            waiting: latch.waiting(),
            revision: latch.revision.0,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct LockList<'a> {
    pub locks: Vec<LockView<'a>>,
    #[schema(required)]
    pub next_cursor: Option<String>,
    pub revision: u64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ElectionList<'a> {
    pub elections: Vec<ElectionView<'a>>,
    #[schema(required)]
    pub next_cursor: Option<String>,
    pub revision: u64,
}

/// A claim on a lock, of a session.
#[derive(Serialize, ToSchema)]
pub(crate) struct HeldLockView<'a> {
    #[schema(value_type = Name)]
    pub name: &'a LatchName,
    pub owner: &'a str,
    #[schema(value_type = ModeWord)]
    pub mode: &'static str,
    #[schema(required)]
    pub token: Option<u64>,
}

/// A candidacy of a session.
#[derive(Serialize, ToSchema)]
pub(crate) struct CandidacyView<'a> {
    #[schema(value_type = Name)]
    pub name: &'a LatchName,
    pub value: &'a str,
    #[schema(required)]
    pub token: Option<u64>,
}
