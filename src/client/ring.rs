//! Rings: read once, or followed.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use roster_storage::names::Revision;
use roster_storage::ring::{Description, View};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::Client;
use super::call::{Answer, Call, MSGPACK, path};
use super::error::Error;
use super::patience::Limits;
use super::pauses::Pauses;

/// How long a node is asked to wait for a change. A node that hangs is noticed soon after.
pub(super) const POLL: Duration = Duration::from_secs(10);

impl Client {
    /// The ring of an app as it is now. Its look-ups need no node.
    ///
    /// # Errors
    /// See [`Client::send`]; `no-ring` if the app has none. [`Error::NotRoster`] if the description
    /// is malformed, or of a kind that this program cannot compute.
    pub async fn ring(&self, app: &str) -> Result<View, Error> {
        view_of(&self.send(reading(app)?).await?, app)
    }

    /// The ring once it is another one than that of this epoch, or the same after [`POLL`].
    async fn next_ring(&self, app: &str, epoch: Revision) -> Result<View, Error> {
        let call = reading(app)?.query("index", epoch).query("wait", poll_text());
        view_of(&self.send(call.within(self.polling())).await?, app)
    }

    /// Reads a ring and follows it from then on.
    ///
    /// # Errors
    /// Those of the first read, see [`Client::ring`].
    pub async fn follow_ring(&self, app: &str) -> Result<RingFollower, Error> {
        let shared = Arc::new(Shared {
            view: ArcSwap::from_pointee(self.ring(app).await?),
            news: watch::Sender::new(Revision(0)),
            error: watch::Sender::new(None),
        });
        shared.news.send_replace(shared.view.load().epoch());
        let following = follow(self.clone(), app.to_owned(), shared.clone());
        let task = Arc::new(AbortOnDropHandle::new(tokio::spawn(following)));
        let seen = shared.news.subscribe();
        Ok(RingFollower { shared, seen, _task: task })
    }

    /// Those of a call that a node may answer only after [`POLL`].
    pub(super) fn polling(&self) -> Limits {
        let Limits { share, each, all } = self.limits();
        Limits { share: POLL + share, each: POLL + each, all }
    }
}

/// As the API reads it.
pub(super) fn poll_text() -> String {
    format!("{}s", POLL.as_secs())
}

fn reading(app: &str) -> Result<Call, Error> {
    Ok(Call::get(path(&["v1", "apps", app, "ring"])?).accept(MSGPACK))
}

fn view_of(answer: &Answer, app: &str) -> Result<View, Error> {
    let description: Description = answer.json_or_msgpack()?;
    if description.group != app {
        let detail =
            format!("the ring of {:?} where that of {app:?} was asked for", description.group);
        return Err(answer.not_understood(detail));
    }
    View::try_from(description).map_err(|why| answer.not_understood(why.to_string()))
}

struct Shared {
    view: ArcSwap<View>,
    /// The epoch of the view: tells those who wait.
    news: watch::Sender<Revision>,
    /// Why the view may be old, `None` while all is well.
    error: watch::Sender<Option<Error>>,
}

/// The newest known ring of an app, kept up in the background. Epochs only rise. Clones follow
/// together; when the last one is dropped, the following ends.
#[derive(Clone)]
pub struct RingFollower {
    shared: Arc<Shared>,
    seen: watch::Receiver<Revision>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl RingFollower {
    /// The newest known ring, without a lock. It may be older than the cluster's.
    pub fn view(&self) -> Arc<View> {
        self.shared.view.load_full()
    }

    /// Waits for a newer ring than this one has seen here before, and gives it.
    pub async fn changed(&mut self) -> Arc<View> {
        // The sender is held by this.
        let _ = self.seen.changed().await;
        self.seen.borrow_and_update();
        self.view()
    }

    /// Why the ring may be older than the cluster's: the last try to read it failed. `None` while
    /// all is well.
    pub fn error(&self) -> Option<Error> {
        self.shared.error.borrow().clone()
    }

    /// Takes a ring that was read elsewhere.
    pub(super) fn offer(&self, view: View) {
        self.shared.offer(view);
    }
}

impl std::fmt::Debug for RingFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let view = self.shared.view.load();
        let mut shown = f.debug_struct("RingFollower");
        shown.field("group", &view.group()).field("epoch", &view.epoch()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Takes the view if it is newer. An older one must never replace it: whoever saw the newer one
    /// has acted on it.
    fn offer(&self, view: View) {
        let epoch = view.epoch();
        self.news.send_if_modified(|newest| {
            let newer = epoch > *newest;
            if newer {
                self.view.store(Arc::new(view));
                *newest = epoch;
            }
            newer
        });
    }
}

async fn follow(client: Client, app: String, shared: Arc<Shared>) {
    let mut pauses = Pauses::new(client.endpoints.count(), &client.options);
    loop {
        let newest = shared.view.load().epoch();
        let error = match client.next_ring(&app, newest).await {
            Ok(view) if view.epoch() < newest => older(&client, view.epoch(), newest),
            Ok(view) => {
                shared.offer(view);
                shared.error.send_replace(None);
                pauses.reset();
                continue;
            }
            Err(error) => error,
        };
        let pause = pauses.next(error.retry_after());
        shared.error.send_replace(Some(error));
        sleep(pause).await;
    }
}

/// A node that knows an older ring than one that was seen is behind, or of another cluster.
fn older(client: &Client, epoch: Revision, newest: Revision) -> Error {
    let at = client.endpoints.current();
    let endpoint = client.endpoints.get(at).to_string();
    client.endpoints.leave(at);
    Error::NotRoster {
        endpoint,
        detail: format!("a ring of epoch {epoch}, but epoch {newest} was seen before"),
        outcome: super::Outcome::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(epoch: u64) -> View {
        let text = format!(
            r#"{{"v":1,"kind":"jump-probe-1","group":"a","epoch":{epoch},"seed":0,"replicas":1,
                "workers":[],"slots":[]}}"#
        );
        let description: Description = serde_json::from_str(&text).expect("a description");
        View::try_from(description).expect("a ring")
    }

    #[test]
    fn of_two_rings_that_cross_the_newer_one_stays() {
        let shared = Shared {
            view: ArcSwap::from_pointee(view(5)),
            news: watch::Sender::new(Revision(5)),
            error: watch::Sender::new(None),
        };
        shared.offer(view(9));
        shared.offer(view(7));
        assert_eq!(shared.view.load().epoch(), Revision(9));
    }
}
