//! What went wrong, sorted by what a caller can do about it.

use std::time::Duration;

use http::StatusCode;
use roster_storage::names::{Incarnation, Revision};
use serde::Deserialize;

/// Whether a call that failed may have changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was done, and nothing will be.
    Nothing,
    /// It may have been done, or still be.
    Unknown,
}

/// Why a call or a watch got no success.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be sent as it is: it never left this process.
    #[error("{0}")]
    Invalid(String),
    /// A node answered, and said no.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// There was no answer: no connection, or it broke, or it took too long.
    #[error("{endpoint}: {detail}")]
    NoAnswer {
        /// Who was asked; all of them, if none answered.
        endpoint: String,
        /// What happened to the last try.
        detail: String,
        /// [`Outcome::Nothing`] if no connection was made.
        outcome: Outcome,
    },
    /// There was an answer that no Roster node gives: something else listens there.
    #[error("{endpoint} does not answer like a Roster node: {detail}")]
    NotRoster {
        /// Who was asked.
        endpoint: String,
        /// What is wrong with the answer.
        detail: String,
        /// What is known of the call.
        outcome: Outcome,
    },
    /// No heartbeat of a session was answered for most of its TTL: what hangs off the session may be gone
    /// with it.
    #[error(
        "no heartbeat of session {session} was answered in time: it may have ended, with all that hung \
         off it; try again when the cluster answers"
    )]
    Unheard {
        /// The session that nobody heard.
        session: String,
    },
    /// The changes after the asked revision are kept on no node that was asked.
    #[error(
        "the changes that were asked for are not kept any more ({detail}); list again, and watch \
         from revision {restart_from}"
    )]
    Compacted {
        /// A list at this revision or a later one is a new beginning.
        restart_from: Revision,
        /// What the node said.
        detail: String,
    },
    /// One revision changed more than a watch holds: all of a revision is given out together.
    #[error(
        "the changes of revision {revision} take more than the {bytes_max} bytes that a watch \
         holds; watch fewer apps or kinds, or list again and watch from a later revision"
    )]
    TooLarge {
        /// Nothing of it was given out; all before it was.
        revision: Revision,
        /// As they are on the wire.
        bytes_max: usize,
    },
}

impl Error {
    /// Whether the call may have changed anything.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Invalid(_) | Self::Compacted { .. } | Self::TooLarge { .. } => Outcome::Nothing,
            Self::Refused(problem) => problem.outcome,
            Self::NoAnswer { outcome, .. } | Self::NotRoster { outcome, .. } => *outcome,
            Self::Unheard { .. } => Outcome::Unknown,
        }
    }

    /// The stable word of the problem document; empty if there was none.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(problem) => &problem.code,
            Self::Compacted { .. } => "compacted",
            Self::Invalid(_)
            | Self::NoAnswer { .. }
            | Self::NotRoster { .. }
            | Self::Unheard { .. }
            | Self::TooLarge { .. } => "",
        }
    }

    /// Whether it may go better on another node or later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::Compacted { .. } | Self::TooLarge { .. } => false,
            Self::Refused(problem) => problem.retryable,
            Self::NoAnswer { .. } | Self::NotRoster { .. } | Self::Unheard { .. } => true,
        }
    }

    /// How long the node asked to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) => problem.retry_after,
            Self::Invalid(_)
            | Self::NoAnswer { .. }
            | Self::NotRoster { .. }
            | Self::Unheard { .. }
            | Self::Compacted { .. }
            | Self::TooLarge { .. } => None,
        }
    }

    /// The same, after an earlier try of unknown outcome: that one may have taken effect.
    pub(super) fn after_unknown(self) -> Self {
        self.with_outcome(Outcome::Unknown)
    }

    /// The same of a call that can change nothing, whoever answered it.
    pub(super) fn of_a_read(self) -> Self {
        self.with_outcome(Outcome::Nothing)
    }

    fn with_outcome(mut self, is: Outcome) -> Self {
        match &mut self {
            Self::Refused(problem) => problem.outcome = is,
            Self::NoAnswer { outcome, .. } | Self::NotRoster { outcome, .. } => *outcome = is,
            Self::Invalid(_)
            | Self::Unheard { .. }
            | Self::Compacted { .. }
            | Self::TooLarge { .. } => {}
        }
        self
    }

    pub(super) fn without_answer(endpoint: &dyn std::fmt::Display, e: &reqwest::Error) -> Self {
        let outcome = if e.is_connect() { Outcome::Nothing } else { Outcome::Unknown };
        Self::NoAnswer { endpoint: endpoint.to_string(), detail: root_cause(e), outcome }
    }
}

/// The innermost reason, for people: the outer ones only say that a request failed, and the system's
/// number says nothing beside its words.
pub(super) fn root_cause(e: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// The problem document of a node's refusal.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code}: {detail}{}", unknown_note(*outcome))]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A stable word, such as `unknown-instance`; `http-<status>` if the answer had none.
    pub code: String,
    /// What happened, for people.
    pub detail: String,
    /// Whether the call, or an earlier try of it, may have changed anything.
    pub outcome: Outcome,
    /// Whether it may go better on another node or later.
    pub retryable: bool,
    /// What the node said to be at.
    pub revision: Option<Revision>,
    /// Of `stale-incarnation`: the life that took over.
    pub incarnation: Option<Incarnation>,
    /// Of `compacted`: from where to list again.
    pub restart_from: Option<Revision>,
    /// The `Retry-After` header.
    pub retry_after: Option<Duration>,
}

fn unknown_note(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Nothing => "",
        Outcome::Unknown => " (it may have taken effect)",
    }
}

/// What the document may say; what is not there is judged by the status.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    code: Option<String>,
    detail: Option<String>,
    outcome: Option<String>,
    retryable: Option<bool>,
    revision: Option<Revision>,
    incarnation: Option<Incarnation>,
    restart_from: Option<Revision>,
}

/// So much of an answer that is no problem document is shown.
const SHOWN_CHARS_MAX: usize = 200;

impl Problem {
    pub(super) fn parse(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let document: Document = serde_json::from_slice(body).unwrap_or_default();
        let nothing = match document.outcome.as_deref() {
            Some(word) => word == "none",
            None => status.is_client_error(),
        };
        let passing = [429, 502, 503, 504].contains(&status.as_u16());
        let code = document.code.unwrap_or_else(|| format!("http-{}", status.as_u16()));
        let detail = document.detail.unwrap_or_else(|| {
            String::from_utf8_lossy(body).chars().take(SHOWN_CHARS_MAX).collect()
        });
        Self {
            status: status.as_u16(),
            code,
            detail,
            outcome: if nothing { Outcome::Nothing } else { Outcome::Unknown },
            retryable: document.retryable.unwrap_or(passing),
            revision: document.revision,
            incarnation: document.incarnation,
            restart_from: document.restart_from,
            retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_document_is_believed_and_another_answer_judged_by_its_status() {
        let read = |status: u16, body: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            let p = Problem::parse(status, None, body.as_bytes());
            (p.code, p.outcome, p.retryable)
        };
        let document = r#"{"code":"timeout","outcome":"none","retryable":true,"new":[1]}"#;
        assert_eq!(read(504, document), ("timeout".into(), Outcome::Nothing, true));
        assert_eq!(read(502, "<html>"), ("http-502".into(), Outcome::Unknown, true));
        assert_eq!(read(404, ""), ("http-404".into(), Outcome::Nothing, false));
        assert_eq!(read(500, "[]"), ("http-500".into(), Outcome::Unknown, false));
    }
}
