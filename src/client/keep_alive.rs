//! A registration that stays, as long as somebody holds on to it.

use std::time::Duration;

use roster_storage::names::{Incarnation, Revision};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::error::{Error, Outcome};
use super::instance::{Registered, Registration, Renewed};
use super::lease::{Heard, Lease, Moment};
use super::patience::Limits;
use super::rhythm::Rhythm;
use super::{Client, Options};

/// While an epoch that this instance has adopted is not settled, heartbeats are sent so often: each
/// answer may be the one that says that it is. But not for longer than somebody who died may be
/// waited for: who lives and adopts nothing may never do so.
const UNSETTLED_EVERY: Duration = Duration::from_millis(200);

/// An instance that the cluster does not know any more is registered again within this, and within
/// the time between two heartbeats: those who were lost together do not come back at one moment.
const AGAIN_WITHIN: Duration = Duration::from_secs(1);

/// What one node gets to answer a heartbeat, at most.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A life that nobody beats for is gone after so many TTLs: one, and another one if the leader
/// changes meanwhile.
const TTLS_UNTIL_GONE: u32 = 2;

/// ...and after this: a new leader must be found first.
const GONE_LATE_MAX: Duration = Duration::from_secs(10);

/// How a kept registration is.
#[derive(Clone, Debug)]
pub enum Status {
    /// The last heartbeat was acknowledged.
    Alive(Registered),
    /// No node acknowledged the last one; they go on. The instance may expire meanwhile and is
    /// then registered again.
    Unheard {
        /// The last answer to a registration.
        registered: Registered,
        /// Why the last try failed.
        why: Error,
    },
    /// No more heartbeats are sent.
    Ended(Ended),
}

/// Why heartbeats have ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// [`KeepAlive::leave`] was called.
    Left,
    /// Another life of the same id took over, or began after this one had expired: this process
    /// should stay away.
    Replaced {
        /// The life that took over, if the node told it.
        by: Option<Incarnation>,
    },
    /// The cluster does not take this instance any more.
    Refused(Error),
}

/// Keeps an instance registered. Dropping it ends the heartbeats, so that the instance expires;
/// [`KeepAlive::leave`] removes it at once.
#[derive(Debug)]
pub struct KeepAlive {
    client: Client,
    status: watch::Receiver<Status>,
    lease: Lease,
    adopted: watch::Sender<Revision>,
    stop: CancellationToken,
    task: AbortOnDropHandle<Registered>,
}

impl Client {
    /// Registers an instance and sends heartbeats from then on, as often as the nodes ask for. If a
    /// node does not acknowledge one, the next node gets it; if the instance expired meanwhile, it
    /// is registered again, but only if nobody else has registered it by then: two processes must
    /// not keep one life. Needs a Tokio runtime, as all of this client does.
    ///
    /// # Errors
    /// Those of the first registration, see [`Client::register`].
    pub async fn keep_alive(
        &self,
        app: &str,
        id: &str,
        registration: Registration,
    ) -> Result<KeepAlive, Error> {
        let sent = Moment::now();
        let registered = self.register(app, id, &registration).await?;
        let (tell, status) = watch::channel(Status::Alive(registered.clone()));
        let (hear, heard) =
            watch::channel(Heard::new(registered.incarnation, sent, registered.ttl));
        let (adopted, to_adopt) = watch::channel(Revision(0));
        let stop = CancellationToken::new();
        let keeper = Keeper {
            client: self.clone(),
            again: Registration { takeover: false, ..registration },
            unclear_until: None,
            tell,
            hear,
            adopted: to_adopt,
            adopted_at: None,
            rhythm: Rhythm::new(registered.heartbeat_every),
            gone: false,
            registered,
            stop: stop.clone(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
        let lease = Lease::of(heard);
        Ok(KeepAlive { client: self.clone(), status, lease, adopted, stop, task })
    }
}

impl KeepAlive {
    /// How it is now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Until when this process may act for the instance.
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// The next heartbeats tell that work has stopped on every key that the ring of this epoch does
    /// not give to this instance. The first of them is sent at once.
    pub(super) fn adopt(&self, epoch: Revision) {
        self.adopted.send_replace(epoch);
    }

    /// Waits for the status to be another one, and gives it. Once it is [`Status::Ended`] it stays
    /// so and is given at once.
    pub async fn changed(&mut self) -> Status {
        // The sender goes after it has told the end.
        let _ = self.status.changed().await;
        self.status.borrow_and_update().clone()
    }

    /// Waits until no more heartbeats are sent, and tells why.
    pub async fn ended(&mut self) -> Ended {
        loop {
            let status = self.status.borrow_and_update().clone();
            if let Status::Ended(why) = status {
                return why;
            }
            if self.status.changed().await.is_err() {
                return Ended::Left;
            }
        }
    }

    /// Ends the heartbeats and removes the instance, but never a successor. That it is gone already
    /// is no error. A life that a registration of unknown outcome made just before expires.
    ///
    /// # Errors
    /// See [`Client::send`]: it may still be there then, until it expires.
    pub async fn leave(self) -> Result<(), Error> {
        self.stop.cancel();
        // A registration that is on its way must not arrive after the departure.
        let registered = self
            .task
            .await
            .map_err(|e| Error::Invalid(format!("the heartbeats' task failed: {e}")))?;
        if let Status::Ended(Ended::Replaced { .. }) = &*self.status.borrow() {
            return Ok(());
        }
        let Registered { app, id, incarnation, .. } = registered;
        match self.client.deregister(&app, &id, Some(incarnation)).await {
            Err(error) if is_gone(&error) || error.code() == "stale-incarnation" => Ok(()),
            result => result,
        }
    }
}

/// Those of a heartbeat: half of the time for one node leaves time for another one before the TTL is
/// over.
pub(super) fn heartbeat_limits(every: Duration, options: &Options) -> Limits {
    let each = (every / 2).min(ANSWER_MAX).max(options.heartbeat_timeout_min);
    Limits { share: each, each, all: every }
}

/// Whether the cluster does not know the instance.
fn is_gone(error: &Error) -> bool {
    ["unknown-instance", "unknown-app", "unknown-session"].contains(&error.code())
}

/// What sends the heartbeats.
struct Keeper {
    client: Client,
    /// What is registered again after an expiry.
    again: Registration,
    registered: Registered,
    /// A registration of unknown outcome may have made a life that nobody beats for: it expires
    /// before this. Another process's life does not.
    unclear_until: Option<Instant>,
    tell: watch::Sender<Status>,
    hear: watch::Sender<Heard>,
    /// The newest epoch of its app's ring that it has adopted, 0 if none.
    adopted: watch::Receiver<Revision>,
    adopted_at: Option<Instant>,
    rhythm: Rhythm,
    /// The cluster said that it does not know it.
    gone: bool,
    stop: CancellationToken,
}

impl Keeper {
    /// Gives the last registration back.
    async fn run(mut self) -> Registered {
        let why = loop {
            let beat_at = Instant::now() + self.pause();
            tokio::select! {
                () = self.stop.cancelled() => break Ended::Left,
                () = sleep_until(beat_at) => {}
                Ok(()) = self.adopted.changed() => self.adopted_at = Some(Instant::now()),
            }
            if let Err(why) = self.beat().await {
                break why;
            }
        };
        if !matches!(why, Ended::Left) {
            self.lost();
        }
        self.tell.send_replace(Status::Ended(why));
        self.registered
    }

    /// How long to wait until the next heartbeat, or registration, is sent.
    fn pause(&self) -> Duration {
        let chance = fastrand::f64();
        let pause = self.rhythm.pause(self.hear.borrow().safe_for(), chance);
        if self.rhythm.is_failing() {
            return pause;
        }
        match (self.gone, self.waits_for_others()) {
            (true, _) => self.rhythm.every().min(AGAIN_WITHIN).mul_f64(chance),
            (false, true) => pause.min(UNSETTLED_EVERY),
            (false, false) => pause,
        }
    }

    /// Whether an adopted epoch may yet be settled.
    fn waits_for_others(&self) -> bool {
        self.adopted_at.is_some_and(|at| {
            at.elapsed() < self.registered.ttl * TTLS_UNTIL_GONE
                && *self.adopted.borrow() > self.hear.borrow().settled
        })
    }

    /// One heartbeat, and what follows from its answer.
    async fn beat(&mut self) -> Result<(), Ended> {
        if self.gone || self.unclear_until.is_some() {
            return self.register_again().await;
        }
        let limits = heartbeat_limits(self.rhythm.every(), &self.client.options);
        let adopted = *self.adopted.borrow_and_update();
        let sent = Moment::now();
        match self.client.heartbeat(&self.registered, adopted, limits).await {
            Ok(renewed) => {
                self.renewed(sent, &renewed);
                Ok(())
            }
            Err(error) if is_gone(&error) => {
                self.lost();
                self.gone = true;
                Ok(())
            }
            Err(error) => self.not_renewed(error),
        }
    }

    fn renewed(&mut self, sent: Moment, renewed: &Renewed) {
        let Registered { app, incarnation, .. } = &self.registered;
        // What was settled once stays so: a new leader may only not know of it yet.
        let settled = renewed.settled.get(app).copied().unwrap_or_default();
        let settled = settled.max(self.hear.borrow().settled);
        self.hear.send_replace(Heard { settled, ..Heard::new(*incarnation, sent, renewed.ttl) });
        self.registered.ttl = renewed.ttl;
        self.registered.heartbeat_every = renewed.heartbeat_every;
        self.rhythm.answered(renewed.heartbeat_every, sent.elapsed());
        self.tell_alive();
    }

    /// The cluster has ended this life: nothing is its own any more.
    fn lost(&self) {
        self.hear.send_modify(|heard| heard.safe_until = Moment::now());
    }

    async fn register_again(&mut self) -> Result<(), Ended> {
        let Registered { app, id, .. } = &self.registered;
        let sent = Moment::now();
        match self.client.register_if_absent(app, id, &self.again).await {
            Ok(registered) => {
                self.hear.send_replace(Heard::new(registered.incarnation, sent, registered.ttl));
                self.rhythm = Rhythm::new(registered.heartbeat_every);
                self.registered = registered;
                self.unclear_until = None;
                self.gone = false;
                self.tell_alive();
                Ok(())
            }
            Err(error) if error.code() == "instance-exists" => self.somebody_is_there(error),
            Err(error) => {
                if error.outcome() == Outcome::Unknown {
                    let gone_after = self.registered.ttl * TTLS_UNTIL_GONE + GONE_LATE_MAX;
                    self.unclear_until = Some(Instant::now() + gone_after);
                }
                self.not_renewed(error)
            }
        }
    }

    /// Unless it may be a life of our own, that nobody knows of: then it goes by itself.
    fn somebody_is_there(&mut self, error: Error) -> Result<(), Ended> {
        match self.unclear_until {
            Some(until) if Instant::now() < until => {
                self.unheard(error);
                Ok(())
            }
            Some(_) | None => Err(Ended::Replaced { by: incarnation_of(&error) }),
        }
    }

    fn not_renewed(&mut self, error: Error) -> Result<(), Ended> {
        if error.code() == "stale-incarnation" {
            return Err(Ended::Replaced { by: incarnation_of(&error) });
        }
        if !error.is_retryable() {
            return Err(Ended::Refused(error));
        }
        self.unheard(error);
        Ok(())
    }

    fn unheard(&mut self, error: Error) {
        self.rhythm.failed(error.retry_after());
        let registered = self.registered.clone();
        self.tell.send_replace(Status::Unheard { registered, why: error });
    }

    /// Wakes nobody if nothing has changed.
    fn tell_alive(&self) {
        self.tell.send_if_modified(|status| {
            let same = matches!(status, Status::Alive(known) if *known == self.registered);
            if !same {
                *status = Status::Alive(self.registered.clone());
            }
            !same
        });
    }
}

fn incarnation_of(error: &Error) -> Option<Incarnation> {
    match error {
        Error::Refused(problem) => problem.incarnation,
        Error::Invalid(_)
        | Error::NoAnswer { .. }
        | Error::NotRoster { .. }
        | Error::Unheard { .. }
        | Error::Compacted { .. }
        | Error::TooLarge { .. } => None,
    }
}
