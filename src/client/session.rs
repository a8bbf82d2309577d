//! A session that stays, as long as somebody holds on to it: locks and candidacies hang off it.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use roster_storage::names::{Incarnation, Revision};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Client;
use super::call::{Call, path};
use super::error::{Error, Outcome};
use super::instance::{Renewed, span};
use super::keep_alive::heartbeat_limits;
use super::lease::{Heard, Lease, Moment};
use super::rhythm::Rhythm;

/// Who is stopped closes its session, but waits no longer for it: the TTL is there for the rest.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// A session as it is to be.
#[derive(Clone, Debug, Default)]
pub struct SessionSettings {
    /// Who it is, for people: any text of at most 1,024 bytes.
    pub name: String,
    /// How long it stays without a heartbeat, in whole milliseconds: 1 s to 24 h; 15 s, if not given.
    pub ttl: Option<Duration>,
}

/// The answer to the opening of a session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OpenedSession {
    /// Its id, which no other session ever has.
    pub session: String,
    /// It ends, with all that hangs off it, when nothing was heard for so long.
    #[serde(deserialize_with = "span")]
    pub ttl: Duration,
    /// A third of that: how often to be heard.
    #[serde(deserialize_with = "span")]
    pub heartbeat_every: Duration,
    /// When it began.
    pub revision: Revision,
}

#[derive(Serialize)]
struct OpenBody<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
}

/// A key that makes a request happen once, however often it is sent: nobody else draws it.
pub(crate) fn once_key() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

impl Client {
    /// Opens a session. It ends when no heartbeat comes: [`Client::keep_session`] sends them.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub async fn open_session(&self, settings: &SessionSettings) -> Result<OpenedSession, Error> {
        let ttl = settings.ttl.map(|ttl| format!("{}ms", ttl.as_millis()));
        let body = OpenBody { name: &settings.name, ttl };
        let call = Call::post(path(&["v1", "sessions"])?).json(&body)?.once(&once_key())?;
        self.send(call).await?.json()
    }

    /// Ends a session: all that hangs off it goes in one revision, and whoever is next has it.
    ///
    /// # Errors
    /// See [`Client::send`]. That it is not there is an error only if no earlier try of this very
    /// call may have ended it.
    pub async fn close_session(&self, session: &str) -> Result<(), Error> {
        match self.send(Call::delete(path(&["v1", "sessions", session])?)).await {
            Err(error) if error.code() == "unknown-session" => match error.outcome() {
                Outcome::Nothing => Err(error),
                Outcome::Unknown => Ok(()),
            },
            result => result.map(drop),
        }
    }

    /// Opens a session and sends heartbeats from then on, as often as the nodes ask for. One that has
    /// ended is not opened again: what hung off it may be another's. Needs a Tokio runtime.
    ///
    /// # Errors
    /// See [`Client::open_session`].
    pub async fn keep_session(&self, settings: &SessionSettings) -> Result<KeptSession, Error> {
        let sent = Moment::now();
        let opened = self.open_session(settings).await?;
        // A session has one life, which began with it.
        let life = Incarnation(opened.revision.0);
        let (hear, heard) = watch::channel(Heard::new(life, sent, opened.ttl));
        let id = opened.session.clone();
        let ended = Arc::new(OnceLock::new());
        let keeper = Keeper {
            client: self.clone(),
            rhythm: Rhythm::new(opened.heartbeat_every),
            session: opened.session,
            life,
            hear,
            ended: ended.clone(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
        let lease = Lease::of(heard);
        Ok(KeptSession { client: self.clone(), id, life, lease, ended, task })
    }

    /// As [`Client::keep_session`], unless `stop` comes first, whose value it gives then: no session is
    /// left behind, if the cluster answers within 2 s.
    pub(crate) async fn keep_session_unless<S>(
        &self,
        settings: &SessionSettings,
        stop: Pin<&mut impl Future<Output = S>>,
    ) -> Result<ControlFlow<S, KeptSession>, Error> {
        let mut opening = Box::pin(self.keep_session(settings));
        let stopped = tokio::select! {
            opened = &mut opening => return opened.map(ControlFlow::Continue),
            stopped = stop => stopped,
        };
        // It may be open without an answer: only the answer says which one to close.
        if let Ok(Ok(session)) = timeout(CLOSING_MAX, opening).await {
            session.close_soon().await;
        }
        Ok(ControlFlow::Break(stopped))
    }
}

/// What became of the heartbeats of a session whose end nobody has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// None was answered for most of the TTL: it may have ended.
    Unheard,
    /// One was answered: it has not ended.
    HeardAgain,
}

/// Keeps a session. Dropping it ends the heartbeats, so that the session expires;
/// [`KeptSession::close`] ends it at once.
#[derive(Debug)]
pub struct KeptSession {
    client: Client,
    id: String,
    life: Incarnation,
    lease: Lease,
    /// Why no more heartbeats are sent.
    ended: Arc<OnceLock<Error>>,
    task: AbortOnDropHandle<()>,
}

impl KeptSession {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Until when this process may act on what hangs off the session.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Waits until the session may have ended, which is a fifth of its TTL before the cluster may
    /// end it for silence. May be cancelled.
    pub async fn lost(&self) {
        self.lease.clone().over(self.life).await;
    }

    /// Waits as [`KeptSession::lost`], and tells why: what the cluster said of its end, or that it said
    /// nothing in time.
    pub(crate) async fn lost_because(&self) -> Error {
        self.lost().await;
        let unheard = || Error::Unheard { session: self.id.clone() };
        self.ended.get().cloned().unwrap_or_else(unheard)
    }

    /// Waits until the cluster says that the session has ended, or does not take it any more, and gives
    /// that back. Silence alone ends nothing: the heartbeats go on, and `tell` hears when nobody answered
    /// in time and when somebody did again. May be cancelled.
    pub(crate) async fn gone(&self, mut tell: impl FnMut(Hearing)) -> Error {
        loop {
            self.lost().await;
            if let Some(why) = self.ended.get() {
                return why.clone();
            }
            tell(Hearing::Unheard);
            if let Some(why) = self.gone_unless_heard().await {
                return why;
            }
            tell(Hearing::HeardAgain);
        }
    }

    /// Nothing, as soon as a heartbeat was answered again.
    async fn gone_unless_heard(&self) -> Option<Error> {
        let mut lease = self.lease.clone();
        loop {
            if let Some(why) = self.ended.get() {
                return Some(why.clone());
            }
            if lease.is_safe() {
                return None;
            }
            lease.changed().await;
        }
    }

    /// As [`KeptSession::close`], for who cannot wait: whatever fails, or takes longer than 2 s, ends
    /// with the TTL.
    pub(crate) async fn close_soon(self) {
        drop(timeout(CLOSING_MAX, self.close()).await);
    }

    /// Ends the session, and with it all that hangs off it. That it has ended already is no error.
    ///
    /// # Errors
    /// See [`Client::send`]: it may still be there then, until it expires.
    pub async fn close(self) -> Result<(), Error> {
        // A heartbeat that is on its way would only be told that it has ended.
        drop(self.task);
        match self.client.close_session(&self.id).await {
            Err(error) if error.code() == "unknown-session" => Ok(()),
            result => result,
        }
    }
}

/// What sends the heartbeats.
struct Keeper {
    client: Client,
    session: String,
    life: Incarnation,
    rhythm: Rhythm,
    hear: watch::Sender<Heard>,
    ended: Arc<OnceLock<Error>>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let safe_for = self.hear.borrow().safe_for();
            sleep(self.rhythm.pause(safe_for, fastrand::f64())).await;
            let sent = Moment::now();
            match self.beat().await {
                Ok(Renewed { ttl, heartbeat_every, .. }) => {
                    self.rhythm.answered(heartbeat_every, sent.elapsed());
                    self.hear.send_replace(Heard::new(self.life, sent, ttl));
                }
                Err(error) if error.is_retryable() => self.rhythm.failed(error.retry_after()),
                // It has ended, or the cluster does not take it any more.
                Err(error) => {
                    // Told once, and before the end.
                    drop(self.ended.set(error));
                    self.hear.send_modify(|heard| heard.safe_until = Moment::now());
                    return;
                }
            }
        }
    }

    async fn beat(&self) -> Result<Renewed, Error> {
        let path = path(&["v1", "sessions", &self.session, "heartbeat"])?;
        let limits = heartbeat_limits(self.rhythm.every(), &self.client.options);
        self.client.send(Call::put(path).within(limits)).await?.json()
    }
}
