//! Locks and elections: claims, their tokens, and giving them up.

use std::time::Duration;

use roster_storage::names::Revision;
use serde::{Deserialize, Serialize};

use super::Client;
use super::call::{Call, path};
use super::error::Error;
use super::ring::POLL;
use super::session::once_key;
use super::watch::wait_text;

/// No node waits longer for a claim to win.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(10 * 60);

/// What can be held by one, in an order: locks and elections are named apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latch {
    /// Held by whoever acquired it.
    Lock,
    /// Held by the candidate that leads.
    Election,
}

impl Latch {
    /// As events name it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Election => "election",
        }
    }

    /// The path of one of that name, and of something below it.
    pub(crate) fn path(self, name: &str, more: &[&str]) -> Result<String, Error> {
        path(&[&["v1", self.collection(), name], more].concat())
    }

    pub(crate) fn collection(self) -> &'static str {
        match self {
            Self::Lock => "locks",
            Self::Election => "elections",
        }
    }
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// By one alone.
    #[default]
    Exclusive,
    /// Together with others who share it.
    Shared,
}

/// The answer to an acquisition.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AcquiredLock {
    /// Since when it is held. Later holders have a larger one: it goes with each effect on the outside,
    /// as a fencing token.
    pub token: Revision,
    /// How it is held.
    pub mode: LockMode,
    /// What the answer is based on.
    pub revision: Revision,
}

#[derive(Serialize)]
struct AcquireBody<'a> {
    session: &'a str,
    owner: &'a str,
    mode: LockMode,
    wait: String,
}

#[derive(Serialize)]
struct CampaignBody<'a> {
    session: &'a str,
    value: &'a str,
    wait: String,
}

#[derive(Serialize)]
struct Letting<'a> {
    token: Revision,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
}

#[derive(Deserialize)]
struct Campaigned {
    token: Option<Revision>,
}

#[derive(Deserialize)]
struct Checked {
    holds: bool,
}

impl Client {
    /// Acquires a lock for a session, waiting for it at most so long (up to 10 minutes) in the order
    /// in which it was asked for. `owner` tells two holders of one session apart. The same owner of the
    /// same session asking again gets the same token; so this goes on at the next node, in its place, if
    /// one fails. Whoever gives up waiting for the answer leaves the queue.
    ///
    /// # Errors
    /// See [`Client::send`]; `lock-held` if it was not free in time, `unknown-session` also if the
    /// session ended meanwhile; [`Error::Invalid`] for a longer wait. If the outcome is unknown, it may
    /// be held: closing the session gives it up.
    pub async fn acquire_lock(
        &self,
        name: &str,
        session: &str,
        owner: &str,
        mode: LockMode,
        wait: Duration,
    ) -> Result<AcquiredLock, Error> {
        let path = Latch::Lock.path(name, &["acquire"])?;
        let call = |left: Duration| {
            let body = AcquireBody { session, owner, mode, wait: in_millis(left) };
            Call::post(path.clone()).json(&body)
        };
        self.send_waiting(checked_wait(wait)?, call).await?.json()
    }

    /// Releases a lock that is held under this token; `holder` is a session and an owner, which must be
    /// given if the lock is shared and others won it in the same revision.
    ///
    /// # Errors
    /// See [`Client::send`]; `stale-token` if nobody holds it under that token: nothing has changed.
    pub async fn release_lock(
        &self,
        name: &str,
        token: Revision,
        holder: Option<(&str, &str)>,
    ) -> Result<Revision, Error> {
        let (session, owner) = holder.unzip();
        self.let_go(Latch::Lock.path(name, &["release"])?, &Letting { token, session, owner }).await
    }

    /// Makes a session a candidate of an election, and waits at most so long, about 10 s at a time,
    /// until it leads; its token then. Without one it stays a candidate, in its place, until it resigns
    /// or its session ends. Asking again with another value changes the value.
    ///
    /// # Errors
    /// See [`Client::send`]; it may be a candidate all the same, if its session is there.
    pub async fn campaign(
        &self,
        name: &str,
        session: &str,
        value: &str,
        wait: Duration,
    ) -> Result<Option<Revision>, Error> {
        let body = CampaignBody { session, value, wait: in_millis(wait.min(POLL)) };
        let call = Call::post(Latch::Election.path(name, &["campaign"])?).json(&body)?;
        let answer = self.send(call.repeatable().within(self.polling())).await?;
        Ok(answer.json::<Campaigned>()?.token)
    }

    /// Gives up the lead that is held under this token, and the candidacy with it.
    ///
    /// # Errors
    /// As [`Client::release_lock`].
    pub async fn resign(&self, name: &str, token: Revision) -> Result<Revision, Error> {
        let letting = Letting { token, session: None, owner: None };
        self.let_go(Latch::Election.path(name, &["resign"])?, &letting).await
    }

    async fn let_go(&self, path: String, letting: &Letting<'_>) -> Result<Revision, Error> {
        #[derive(Deserialize)]
        struct Changed {
            revision: Revision,
        }
        let call = Call::post(path).json(letting)?.once(&once_key())?;
        Ok(self.send(call).await?.json::<Changed>()?.revision)
    }

    /// Whether somebody holds a lock or leads an election under this token. It may be over when the
    /// answer comes.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub async fn token_holds(
        &self,
        latch: Latch,
        name: &str,
        token: Revision,
    ) -> Result<bool, Error> {
        let call = Call::get(latch.path(name, &["check"])?).query("token", token);
        Ok(self.send(call).await?.json::<Checked>()?.holds)
    }
}

/// A wait that a node takes. A longer one cannot be made of several: the place in the queue would be
/// lost in between.
pub(super) fn checked_wait(wait: Duration) -> Result<Duration, Error> {
    if wait <= WAIT_MAX {
        return Ok(wait);
    }
    let [asked, most] = [wait, WAIT_MAX].map(humantime::format_duration);
    Err(Error::Invalid(format!(
        "invalid-wait: {asked} is more than a node waits for a lock; at most {most}, then ask again"
    )))
}

/// As the API reads it, without losing what is below a millisecond to zero: that would be no wait.
fn in_millis(wait: Duration) -> String {
    wait_text(Duration::from_millis(wait.as_micros().div_ceil(1_000) as u64))
}
