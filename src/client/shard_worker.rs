//! A worker of a shard set.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use roster_storage::limits::RELEASES_MAX;
use roster_storage::names::Incarnation;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Client;
use super::error::Error;
use super::instance::Registration;
use super::keep_alive::{KeepAlive, Status};
use super::lease::Lease;
use super::pauses::Pauses;
use super::shards::{Grant, Released, WorkerView};
use super::work::Work;

/// While some stops go on, what follows from those that have ended waits at most so long for others:
/// one release for many shards costs the cluster less than many.
const GATHER: Duration = Duration::from_millis(50);

/// The work on shards.
#[async_trait]
pub trait ShardWork: Send + Sync + 'static {
    /// Begins to work on a shard, in a task or thread of its own: this returns at once.
    fn start(&self, shard: &Grant);

    /// Returns when no work on the shard goes on any more: within a fifth of the TTL, since the
    /// cluster may give it to others then. Called once for each start. Many are called at the same
    /// time; one that takes long holds up nothing but its own shard, which stays with this worker
    /// until it returns.
    async fn stop(&self, shard: &Grant);
}

/// Which worker of which shard set.
#[derive(Clone, Debug)]
pub struct ShardWorkerSettings {
    /// The shard set.
    pub set: String,
    /// The app of its workers.
    pub app: String,
    /// The worker's own id.
    pub id: String,
    /// How it is registered.
    pub registration: Registration,
}

/// A registered worker of a shard set: it starts what it is granted, and stops and lets go what it
/// is to give up. When its lease is not safe any more it has everything stopped, before the cluster
/// can give it to others, and begins anew under the grants that it has then. A shard is never let go
/// and never started again before its work has stopped. Dropping it is like a crash: heartbeats end,
/// and nothing is stopped. [`ShardWorker::leave`] stops first.
#[derive(Debug)]
pub struct ShardWorker {
    keep: KeepAlive,
    lease: Lease,
    running: watch::Receiver<Vec<Grant>>,
    error: watch::Receiver<Option<Error>>,
    late: watch::Receiver<BTreeSet<Grant>>,
    served: watch::Receiver<Option<Incarnation>>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Client {
    /// Registers a worker, and works on its shards from then on. Needs a Tokio runtime.
    ///
    /// # Errors
    /// See [`Client::keep_alive`].
    pub async fn work_on_shards(
        &self,
        settings: ShardWorkerSettings,
        work: Arc<dyn ShardWork>,
    ) -> Result<ShardWorker, Error> {
        let ShardWorkerSettings { set, app, id, registration } = settings;
        let keep = self.keep_alive(&app, &id, registration).await?;
        let lease = keep.lease();
        let (tell, running) = watch::channel(Vec::new());
        let (tell_error, error) = watch::channel(None);
        let (tell_late, late) = watch::channel(BTreeSet::new());
        let (tell_served, served) = watch::channel(None);
        let desk = Arc::new(Desk { client: self.clone(), set, id, error: tell_error });
        let hands = Hands {
            desk,
            lease: lease.clone(),
            work,
            state: Work::default(),
            stops: FuturesUnordered::new(),
            tell,
            late: tell_late,
            served: tell_served,
        };
        let stop = CancellationToken::new();
        let task = AbortOnDropHandle::new(tokio::spawn(hands.run(stop.clone())));
        Ok(ShardWorker { keep, lease, running, error, late, served, stop, task })
    }
}

impl ShardWorker {
    /// What is worked on, by shard; what is stopping is among it until it has stopped.
    pub fn running(&self) -> Vec<Grant> {
        self.running.borrow().clone()
    }

    /// Waits until something else is worked on than when this was last asked, and gives it.
    pub async fn changed(&mut self) -> Vec<Grant> {
        // The sender lives as long as the task, which ends only with this.
        let _ = self.running.changed().await;
        self.running.borrow_and_update().clone()
    }

    /// Whether the cluster surely has not given this worker's shards to others. If not, no work may
    /// go on, whether it was told to stop yet or not.
    pub fn is_safe(&self) -> bool {
        self.served.borrow().is_some_and(|life| self.lease.is_safe_in(life))
    }

    /// How the registration is.
    pub fn status(&self) -> Status {
        self.keep.status()
    }

    /// Why what is worked on may not be what the cluster wants: [`ShardWork::stop`] takes longer than
    /// a fifth of the TTL, or the last call failed. `None` while all is well.
    pub fn error(&self) -> Option<Error> {
        let late = not_stopped(&self.late.borrow());
        late.or_else(|| self.error.borrow().clone())
    }

    /// Stops all work, then deregisters, so that others get the shards at once.
    ///
    /// # Errors
    /// See [`KeepAlive::leave`]: all work has stopped in any case.
    pub async fn leave(self) -> Result<(), Error> {
        self.stop.cancel();
        self.task.await.map_err(|e| Error::Invalid(format!("the worker's task failed: {e}")))?;
        self.keep.leave().await
    }
}

/// What speaks with the cluster.
struct Desk {
    client: Client,
    set: String,
    id: String,
    error: watch::Sender<Option<Error>>,
}

impl Desk {
    /// Keeps the newest view in the channel.
    async fn follow(self: Arc<Self>, views: watch::Sender<Option<WorkerView>>) {
        let mut pauses = self.pauses();
        let mut index = None;
        loop {
            let error = match self.client.worker_view(&self.set, &self.id, index).await {
                Ok(view) => {
                    self.error.send_replace(None);
                    pauses.reset();
                    if index.is_none_or(|index| view.epoch >= index) {
                        index = Some(view.epoch);
                        tell_if_other(&views, view);
                    }
                    continue;
                }
                Err(error) => error,
            };
            if is_no_worker(&error) {
                // It holds nothing, and where nothing is there is no change to wait for.
                let epoch = index.take().unwrap_or_default();
                tell_if_other(&views, WorkerView { epoch, shards: Vec::new() });
            }
            let pause = pauses.next(error.retry_after());
            self.error.send_replace(Some(error));
            sleep(pause).await;
        }
    }

    /// Lets go of all in one call. What is not known to be done comes again with the next steps.
    async fn release(self: Arc<Self>, grants: Vec<Grant>) -> Vec<Grant> {
        match self.client.release_shards(&self.set, &self.id, &grants).await {
            Ok(results) => {
                let done = results.iter().filter(|one| one.is_done()).map(|one| &one.shard);
                let done: BTreeSet<&String> = done.collect();
                if let Some(refused) = results.iter().find(|one| !one.is_done()) {
                    self.error.send_replace(Some(not_released(refused)));
                    sleep(self.pauses().next(None)).await;
                }
                grants.into_iter().filter(|grant| done.contains(&grant.shard)).collect()
            }
            Err(error) => {
                let pause = self.pauses().next(error.retry_after());
                self.error.send_replace(Some(error));
                sleep(pause).await;
                Vec::new()
            }
        }
    }

    fn pauses(&self) -> Pauses {
        Pauses::new(self.client.endpoints.count(), &self.client.options)
    }
}

/// Wakes nobody if nothing has changed but the epoch.
fn tell_if_other(views: &watch::Sender<Option<WorkerView>>, view: WorkerView) {
    views.send_if_modified(|known| {
        let other = known.as_ref().is_none_or(|known| known.shards != view.shards);
        *known = Some(view);
        other
    });
}

fn is_no_worker(error: &Error) -> bool {
    ["unknown-instance", "unknown-app", "unknown-shard-set"].contains(&error.code())
}

fn not_released(one: &Released) -> Error {
    let code = one.code.as_deref().unwrap_or_default();
    Error::Invalid(format!("shard {} was not let go: {code}: {}", one.shard, one.detail))
}

fn not_stopped(late: &BTreeSet<Grant>) -> Option<Error> {
    let Grant { shard, grant } = late.first()?;
    let others = match late.len() - 1 {
        0 => String::new(),
        others => format!(" (and on {others} others)"),
    };
    Some(Error::Invalid(format!(
        "work on shard {shard}, held since revision {grant}{others}, was told to stop and takes \
         longer than a fifth of the TTL: nobody else gets it while this worker lives, and two may be \
         at work on it if this worker's lease ends"
    )))
}

/// What starts and stops work.
struct Hands {
    desk: Arc<Desk>,
    lease: Lease,
    work: Arc<dyn ShardWork>,
    state: Work,
    /// The stops that go on. They outlive the lease under which they began.
    stops: FuturesUnordered<BoxFuture<'static, Grant>>,
    tell: watch::Sender<Vec<Grant>>,
    /// What takes too long to stop.
    late: watch::Sender<BTreeSet<Grant>>,
    /// Under which life work is done: everything of an earlier one was told to stop.
    served: watch::Sender<Option<Incarnation>>,
}

/// A release that is on its way; gives what is let go.
type Releasing = Option<BoxFuture<'static, Vec<Grant>>>;

impl Hands {
    async fn run(mut self, stop: CancellationToken) {
        let mut lease = self.lease.clone();
        while !stop.is_cancelled() {
            let life = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                never = self.all_stopped() => match never {},
                life = lease.safe() => life,
            };
            self.served.send_replace(Some(life));
            // Each lease has views of its own: one from before may list what was given to others.
            let (views, view) = watch::channel(None);
            let following = self.desk.clone().follow(views);
            let _following = AbortOnDropHandle::new(tokio::spawn(following));
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = lease.over(life) => {}
                () = self.serve(life, view) => {}
            }
            // What was let go stays in mind: the release may be on its way still.
            self.begin_stops(&self.state.not_stopping().collect::<Vec<_>>());
        }
        while !self.stops.is_empty() {
            self.some_stopped().await;
        }
    }

    /// Works on what the newest view says, as long as this is polled.
    async fn serve(&mut self, life: Incarnation, mut views: watch::Receiver<Option<WorkerView>>) {
        let mut releasing: Releasing = None;
        loop {
            let view = views.borrow_and_update().clone();
            if let Some(view) = view {
                self.carry_out(life, &view, &mut releasing);
            }
            tokio::select! {
                () = self.some_stopped() => {}
                Ok(()) = views.changed() => {}
                done = finished(&mut releasing) => {
                    releasing = None;
                    self.state.released(done);
                }
            }
        }
    }

    fn carry_out(&mut self, life: Incarnation, view: &WorkerView, releasing: &mut Releasing) {
        self.state.forget(view);
        let mut steps = self.state.steps(view);
        if self.begin_stops(&steps.stop) {
            steps = self.state.steps(view);
        }
        self.start(life, &steps.start);
        if releasing.is_none() && !steps.release.is_empty() {
            let grants: Vec<_> = steps.release.into_iter().take(RELEASES_MAX).collect();
            self.state.letting_go(&grants);
            *releasing = Some(self.desk.clone().release(grants).boxed());
        }
    }

    fn start(&mut self, life: Incarnation, grants: &[Grant]) {
        for grant in grants {
            // Who was frozen may see an old view before it sees that its lease is over.
            if !self.lease.is_safe_in(life) {
                break;
            }
            self.work.start(grant);
            self.state.started(grant);
        }
        if !grants.is_empty() {
            self.publish();
        }
    }

    /// All of them are told to stop when this returns. Tells whether some have stopped already.
    fn begin_stops(&mut self, grants: &[Grant]) -> bool {
        let before = self.stops.len();
        let margin = self.lease.heard().margin;
        for grant in grants {
            self.state.stopping(grant);
            let stop = stop(self.work.clone(), grant.clone(), margin, self.late.clone());
            let mut stop = stop.boxed();
            // Nothing is told before the first poll; those that follow wait for the end.
            match (&mut stop).now_or_never() {
                Some(stopped) => self.state.stopped(&stopped),
                None => self.stops.push(stop),
            }
        }
        let stopped = self.stops.len() - before < grants.len();
        if stopped {
            self.publish();
        }
        stopped
    }

    /// Waits until a stop has ended, and a little for others. Whatever has stopped is known if this
    /// is not polled to its end.
    async fn some_stopped(&mut self) {
        self.one_stopped().await;
        let others = async {
            while !self.stops.is_empty() {
                self.one_stopped().await;
            }
        };
        // Those that take longer are waited for by the next call.
        let _ = timeout(GATHER, others).await;
        self.publish();
    }

    /// Waits for ever if nothing is stopping.
    async fn one_stopped(&mut self) {
        match self.stops.next().await {
            Some(stopped) => self.state.stopped(&stopped),
            None => std::future::pending().await,
        }
    }

    /// Has the stops that go on end, and those that come.
    async fn all_stopped(&mut self) -> Infallible {
        loop {
            self.some_stopped().await;
        }
    }

    fn publish(&self) {
        self.tell.send_replace(self.state.running().collect());
    }
}

/// Has the work on a shard stopped, and tells if that takes longer than the margin.
async fn stop(
    work: Arc<dyn ShardWork>,
    shard: Grant,
    margin: Duration,
    late: watch::Sender<BTreeSet<Grant>>,
) -> Grant {
    {
        let mut stopped = work.stop(&shard);
        if timeout(margin, &mut stopped).await.is_err() {
            late.send_if_modified(|late| late.insert(shard.clone()));
            stopped.await;
            late.send_if_modified(|late| late.remove(&shard));
        }
    }
    shard
}

async fn finished(releasing: &mut Releasing) -> Vec<Grant> {
    match releasing {
        Some(releasing) => releasing.await,
        None => std::future::pending().await,
    }
}
