//! One of those who own keys of a ring.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use roster_storage::names::Incarnation;
use roster_storage::ring::View;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Client;
use super::error::Error;
use super::instance::Registration;
use super::keep_alive::{KeepAlive, Status};
use super::lease::Lease;
use super::pauses::Pauses;
use super::ring::RingFollower;
use super::standing::Standing;

/// What a worker does when keys are taken from it.
#[async_trait]
pub trait RingWork: Send + Sync + 'static {
    /// Returns when no work goes on any more on any key that this worker owned in `old` and does not own in
    /// `new`. The cluster waits for it before others start on those keys. May be called again for
    /// the same keys if waiting for it was given up.
    async fn stop_lost(&self, old: &View, new: &View);

    /// Returns when no work goes on any more at all: within a fifth of the TTL, since then the
    /// cluster may give all keys to others.
    async fn stop_all(&self);
}

/// A registered worker of a ring: it follows the ring, has work stopped on keys that it loses, tells
/// the cluster so, and knows on which keys it may start. Dropping it is like a crash: heartbeats end,
/// and nothing is stopped. [`RingMember::leave`] stops first.
#[derive(Debug)]
pub struct RingMember {
    keep: Arc<KeepAlive>,
    lease: Lease,
    follower: RingFollower,
    standing: Arc<ArcSwapOption<Standing>>,
    news: watch::Receiver<()>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Client {
    /// Registers a worker of the ring of an app, and works on its keys from then on. The ring must
    /// be there already. Needs a Tokio runtime.
    ///
    /// # Errors
    /// See [`Client::ring`] and [`Client::keep_alive`].
    pub async fn join_ring(
        &self,
        app: &str,
        id: &str,
        registration: Registration,
        work: Arc<dyn RingWork>,
    ) -> Result<RingMember, Error> {
        let follower = self.follow_ring(app).await?;
        let keep = Arc::new(self.keep_alive(app, id, registration).await?);
        let standing = Arc::new(ArcSwapOption::empty());
        let (tell, news) = watch::channel(());
        let stop = CancellationToken::new();
        let keeper = Keeper {
            client: self.clone(),
            app: app.into(),
            id: id.into(),
            keep: keep.clone(),
            follower: follower.clone(),
            work,
            standing: standing.clone(),
            tell,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(keeper.run(stop.clone())));
        let lease = keep.lease();
        Ok(RingMember { keep, lease, follower, standing, news, stop, task })
    }
}

impl RingMember {
    /// Whether work may start on the key now: this worker owns it under the newest ring that it
    /// knows, nobody else is at work on it any more, and the lease is safe. Let the work be known to
    /// what [`RingWork`] stops before this is asked: the ring may change right after the answer.
    pub fn may_start(&self, key: &[u8]) -> bool {
        self.safe_standing().is_some_and(|standing| standing.may_start(key))
    }

    /// Whether the cluster surely has not given the keys that this worker works on to others. If
    /// not, no work may go on.
    pub fn is_safe(&self) -> bool {
        self.safe_standing().is_some()
    }

    /// What is known under the lease that is safe now. The worker may have been removed, its keys
    /// given to others, and itself registered again since what is known was last looked after:
    /// then it is of another life, and nothing of it holds any more.
    fn safe_standing(&self) -> Option<Arc<Standing>> {
        let standing = self.standing.load_full()?;
        self.lease.is_safe_in(standing.life()).then_some(standing)
    }

    /// Waits until [`RingMember::may_start`] may answer otherwise than before.
    pub async fn changed(&mut self) {
        // The sender lives as long as the task, which ends only with this.
        let _ = self.news.changed().await;
    }

    /// The ring under which this worker works. Its epoch goes with each effect on the outside, as a
    /// fencing token. `None` until there is one, and while the lease is not safe.
    pub fn current(&self) -> Option<Arc<View>> {
        self.safe_standing().and_then(|standing| standing.newest().cloned())
    }

    /// The newest known ring, adopted or not.
    pub fn ring(&self) -> &RingFollower {
        &self.follower
    }

    /// How the registration is.
    pub fn status(&self) -> Status {
        self.keep.status()
    }

    /// Stops all work, then deregisters, so that others can start at once.
    ///
    /// # Errors
    /// See [`KeepAlive::leave`]: all work has stopped in any case.
    pub async fn leave(self) -> Result<(), Error> {
        let Self { keep, stop, task, .. } = self;
        stop.cancel();
        task.await.map_err(|e| Error::Invalid(format!("the ring member's task failed: {e}")))?;
        match Arc::into_inner(keep) {
            Some(keep) => keep.leave().await,
            None => Ok(()),
        }
    }
}

struct Keeper {
    client: Client,
    app: String,
    id: String,
    keep: Arc<KeepAlive>,
    follower: RingFollower,
    work: Arc<dyn RingWork>,
    standing: Arc<ArcSwapOption<Standing>>,
    tell: watch::Sender<()>,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        let mut lease = self.keep.lease();
        while !stop.is_cancelled() {
            let life = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                life = lease.safe() => life,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = lease.over(life) => {}
                () = self.serve(life) => {}
            }
            self.publish(None);
            self.work.stop_all().await;
        }
    }

    /// Follows the ring as long as this is polled. Nothing is worked on when it begins.
    async fn serve(&mut self, life: Incarnation) {
        let mut lease = self.keep.lease();
        let first = self.read().await;
        self.keep.adopt(first.epoch());
        let mut standing = Standing::new(&self.id, life, first);
        loop {
            // Of an earlier life nothing is taken: `heard` of this one starts anew.
            let heard = lease.heard();
            if heard.life == life {
                standing.settle(heard.settled);
            }
            self.publish(Some(standing.clone()));
            tokio::select! {
                () = lease.changed() => {}
                view = self.follower.changed() => self.adopt(&mut standing, view).await,
            }
        }
    }

    /// The ring as it is now that the lease is safe: one that was read before may be older than what
    /// the cluster did while it was not.
    async fn read(&mut self) -> Arc<View> {
        let mut pauses = Pauses::new(self.client.endpoints.count(), &self.client.options);
        loop {
            match self.client.ring(&self.app).await {
                Ok(view) => {
                    self.follower.offer(view);
                    return self.follower.view();
                }
                Err(error) => sleep(pauses.next(error.retry_after())).await,
            }
        }
    }

    async fn adopt(&self, standing: &mut Standing, view: Arc<View>) {
        let Some(old) = standing.newest().cloned() else { return };
        if view.epoch() <= old.epoch() {
            return;
        }
        // Nothing may start meanwhile on what is about to be lost.
        standing.adopt(view.clone());
        self.publish(Some(standing.clone()));
        self.work.stop_lost(&old, &view).await;
        self.keep.adopt(view.epoch());
    }

    fn publish(&self, standing: Option<Standing>) {
        self.standing.store(standing.map(Arc::new));
        self.tell.send_replace(());
    }
}
