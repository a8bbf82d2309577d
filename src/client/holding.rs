//! A lock or a lead with a session of its own: kept, told of when it is lost, given back.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use roster_storage::names::Revision;
use serde::Deserialize;

use super::Client;
use super::error::Error;
use super::event::{Action, Event};
use super::latches::{Latch, LockMode, checked_wait};
use super::lease::Lease;
use super::ring::POLL;
use super::session::{KeptSession, SessionSettings};
use super::watch::{Item, Watch, WatchRequest};

/// How a lock is to be held.
#[derive(Clone, Debug, Default)]
pub struct LockSettings {
    /// Of its session, for people.
    pub session: SessionSettings,
    /// Alone, or with others.
    pub mode: LockMode,
    /// How long to wait for it, at most 10 minutes: a longer wait is refused.
    pub wait: Duration,
}

/// What a candidate stands with.
#[derive(Clone, Debug, Default)]
pub struct CandidateSettings {
    /// Of its session, for people.
    pub session: SessionSettings,
    /// What is published while it leads: at most 4,096 bytes.
    pub value: String,
}

/// Why what was held may be another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// No heartbeat was answered for most of the TTL, or the session has ended: it may have gone with
    /// it, but not before another fifth of the TTL is over if it is silence.
    LeaseOver,
    /// The cluster told its end, for this reason, such as `operator`.
    Ended(String),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaseOver => write!(f, "no heartbeat was answered in time"),
            Self::Ended(reason) if reason == "operator" => write!(f, "an operator took it away"),
            Self::Ended(reason) => write!(f, "it ended: {reason}"),
        }
    }
}

/// A lock or a lead that is held, with a session of its own. Dropping it ends the session's heartbeats,
/// so that it goes to the next one after the TTL; [`Held::release`] gives it back at once.
#[derive(Debug)]
pub struct Held {
    session: KeptSession,
    name: String,
    token: Revision,
    watch: Watch,
    /// It was seen in the snapshot that is not complete yet. Kept here, since a wait for the end that
    /// is cancelled goes on in the middle of it.
    listed: bool,
}

impl Held {
    fn new(
        client: &Client,
        session: KeptSession,
        latch: Latch,
        name: &str,
        token: Revision,
    ) -> Self {
        let names = vec![name.to_owned()];
        let (locks, elections) = match latch {
            Latch::Lock => (names, Vec::new()),
            Latch::Election => (Vec::new(), names),
        };
        let from = Some(token);
        let request = WatchRequest { locks, elections, from, restart: true, ..Default::default() };
        let watch = client.watch(request);
        Self { session, name: name.into(), token, watch, listed: false }
    }

    /// The lock, or the election.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The fencing token: later holders have a larger one.
    pub fn token(&self) -> Revision {
        self.token
    }

    /// The session that it hangs off.
    pub fn session(&self) -> &str {
        self.session.id()
    }

    /// Until when this process may act as the holder if no heartbeat is answered any more.
    pub fn lease(&self) -> &Lease {
        self.session.lease()
    }

    /// Waits until it may be another's: what is done under it must stop at once. May be cancelled.
    pub async fn lost(&mut self) -> Loss {
        let Self { session, token, watch, listed, .. } = self;
        tokio::select! {
            () = session.lost() => Loss::LeaseOver,
            reason = told_end(watch, listed, session.id(), *token) => Loss::Ended(reason),
        }
    }

    /// Gives it back, by ending its session: whoever is next holds it in that revision.
    ///
    /// # Errors
    /// See [`Client::send`]: it may still be held then, until the session expires.
    pub async fn release(self) -> Result<(), Error> {
        self.session.close().await
    }
}

/// Waits until the cluster tells that this claim has ended: the reason. For ever if it cannot tell:
/// the lease tells then. `listed` is whether it was seen in a snapshot that is not complete yet.
async fn told_end(watch: &mut Watch, listed: &mut bool, session: &str, token: Revision) -> String {
    let is_mine = |event: &Event| {
        #[derive(Deserialize)]
        struct Claim {
            session: String,
            token: Option<Revision>,
        }
        let claim = event.value_as::<Claim>();
        claim.is_some_and(|claim| claim.session == session && claim.token == Some(token))
    };
    loop {
        match watch.next().await {
            Ok(Item::SnapshotBegin { .. }) => *listed = false,
            Ok(Item::Listed(event)) => *listed |= is_mine(&event),
            Ok(Item::SnapshotEnd { .. }) if !*listed => return "it is not there any more".into(),
            Ok(Item::Changed(event)) if event.action == Action::Delete && is_mine(&event) => {
                return event.reason.unwrap_or_default();
            }
            Ok(
                Item::SnapshotEnd { .. }
                | Item::Changed(_)
                | Item::Bookmark { .. }
                | Item::Compacted { .. }
                | Item::Interrupted { .. }
                | Item::Resumed { .. },
            ) => {}
            Err(_) => pending().await,
        }
    }
}

impl Client {
    /// Acquires a lock with a session of its own, which is kept from then on.
    ///
    /// # Errors
    /// See [`Client::acquire_lock`]: nothing is held then, and nothing waited for. [`Error::Unheard`] if
    /// the cluster went away during the wait.
    pub async fn lock(&self, name: &str, settings: &LockSettings) -> Result<Held, Error> {
        match self.lock_unless(name, settings, pending::<Infallible>()).await? {
            ControlFlow::Continue(held) => Ok(held),
            ControlFlow::Break(never) => match never {},
        }
    }

    /// As [`Client::lock`], unless `stop` comes first, whose value it gives then: the session is closed,
    /// and so nothing held or waited for, if the cluster answers within 2 s. Dropping [`Client::lock`]
    /// leaves the session behind until its TTL is over.
    ///
    /// # Errors
    /// As [`Client::lock`].
    pub async fn lock_unless<S>(
        &self,
        name: &str,
        settings: &LockSettings,
        stop: impl Future<Output = S>,
    ) -> Result<ControlFlow<S, Held>, Error> {
        let LockSettings { session, mode, wait } = settings;
        let wait = checked_wait(*wait)?;
        let mut stop = pin!(stop);
        let session = match self.keep_session_unless(session, stop.as_mut()).await? {
            ControlFlow::Continue(session) => session,
            ControlFlow::Break(stopped) => return Ok(ControlFlow::Break(stopped)),
        };
        let acquired = tokio::select! {
            acquired = self.acquire_lock(name, session.id(), "", *mode, wait) => acquired,
            lost = session.lost_because() => Err(lost),
            stopped = stop => {
                session.close_soon().await;
                return Ok(ControlFlow::Break(stopped));
            }
        };
        match acquired {
            Ok(acquired) => {
                let held = Held::new(self, session, Latch::Lock, name, acquired.token);
                Ok(ControlFlow::Continue(held))
            }
            Err(error) => {
                session.close_soon().await;
                Err(error)
            }
        }
    }

    /// Stands for election with a session of its own, which is kept from then on. It keeps its place
    /// until it leaves or its session ends.
    ///
    /// # Errors
    /// See [`Client::campaign`]: it stands not then.
    pub async fn stand(
        &self,
        name: &str,
        settings: &CandidateSettings,
    ) -> Result<Candidate, Error> {
        match self.stand_unless(name, settings, pending::<Infallible>()).await? {
            ControlFlow::Continue(candidate) => Ok(candidate),
            ControlFlow::Break(never) => match never {},
        }
    }

    /// As [`Client::stand`], unless `stop` comes first, whose value it gives then: the session is
    /// closed, if the cluster answers within 2 s.
    ///
    /// # Errors
    /// As [`Client::stand`].
    pub async fn stand_unless<S>(
        &self,
        name: &str,
        settings: &CandidateSettings,
        stop: impl Future<Output = S>,
    ) -> Result<ControlFlow<S, Candidate>, Error> {
        let CandidateSettings { session, value } = settings;
        let mut stop = pin!(stop);
        let session = match self.keep_session_unless(session, stop.as_mut()).await? {
            ControlFlow::Continue(session) => session,
            ControlFlow::Break(stopped) => return Ok(ControlFlow::Break(stopped)),
        };
        let stands = tokio::select! {
            stands = self.campaign(name, session.id(), value, Duration::ZERO) => stands,
            stopped = stop => {
                session.close_soon().await;
                return Ok(ControlFlow::Break(stopped));
            }
        };
        match stands {
            Ok(_) => {
                let (client, name, value) = (self.clone(), name.into(), value.clone());
                Ok(ControlFlow::Continue(Candidate { client, name, value, session }))
            }
            Err(error) => {
                session.close_soon().await;
                Err(error)
            }
        }
    }
}

/// A candidate of an election, which may lead or not.
#[derive(Debug)]
pub struct Candidate {
    client: Client,
    name: String,
    value: String,
    session: KeptSession,
}

impl Candidate {
    /// The session that it hangs off.
    pub fn session(&self) -> &str {
        self.session.id()
    }

    /// Waits until it leads, and gives its token: [`Candidate::into_held`] takes it. May be cancelled:
    /// it keeps its place.
    ///
    /// # Errors
    /// If it is no candidate any more, or may not be, as by [`Error::Unheard`]; a node that fails is no
    /// error.
    pub async fn leads(&self) -> Result<Revision, Error> {
        let Self { client, name, value, session } = self;
        loop {
            let campaigned = tokio::select! {
                campaigned = client.campaign(name, session.id(), value, POLL) => campaigned,
                lost = session.lost_because() => return Err(lost),
            };
            match campaigned {
                Ok(Some(token)) => return Ok(token),
                Ok(None) => {}
                // The session is alive: the cluster will be there again.
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What it holds as the leader under this token.
    pub fn into_held(self, token: Revision) -> Held {
        Held::new(&self.client, self.session, Latch::Election, &self.name, token)
    }

    /// Stands no longer.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub async fn leave(self) -> Result<(), Error> {
        self.session.close().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::channel::mpsc;

    use super::*;

    const MINE: &str = r#"{"event":"put","kind":"latch","latch":"lock","id":"db","revision":5,"value":{"session":"4","owner":"","mode":"exclusive","token":5}}"#;

    #[test]
    fn a_wait_for_the_end_that_is_cancelled_within_a_snapshot_forgets_nothing_of_it() {
        let (tell, told) = mpsc::unbounded();
        let mut watch = Watch::of(told);
        let tell = |item| tell.unbounded_send(Ok(item)).expect("the watch is there");
        let (revision, line) = (Revision(7), Box::<str>::default());
        let mut listed = false;
        let mut ended = || told_end(&mut watch, &mut listed, "4", Revision(5)).now_or_never();
        tell(Item::SnapshotBegin { revision, line: line.clone() });
        tell(Item::Listed(Event::parse(MINE).expect("an event")));
        assert_eq!(ended(), None);
        tell(Item::SnapshotEnd { revision, line: line.clone() });
        assert_eq!(ended(), None, "it is there");
        tell(Item::SnapshotBegin { revision, line: line.clone() });
        tell(Item::SnapshotEnd { revision, line });
        assert_eq!(ended().as_deref(), Some("it is not there any more"));
    }
}
