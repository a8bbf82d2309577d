//! A watch that survives its connection.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt, unfold};
use reqwest::header::CONTENT_TYPE;
use roster_storage::names::Revision;
use tokio::time::{Instant, sleep};

use super::Client;
use super::call::Call;
use super::error::{Error, Outcome};
use super::event::{Event, Message};
use super::lines::Lines;
use super::patience::{Limits, Patience};
use super::pauses::Pauses;
use super::revisions::{Next, Revisions, Untaken};
use super::tries::Tries;

const NDJSON: &str = "application/x-ndjson";

/// How long a node may take to reach the revision that a watch resumes from.
const WAIT: Duration = Duration::from_secs(5);

/// So many different reasons of one interruption are told; then it is silent until it is over.
const REASONS_TOLD_MAX: usize = 16;

/// What to watch. The default is everything: a snapshot, then every change.
#[derive(Clone, Debug, Default)]
pub struct WatchRequest {
    /// Only these apps; all, if there are none.
    pub apps: Vec<String>,
    /// Of all latches only these locks, and `elections`; with no app and no kind beside them, nothing
    /// else is told. If both are empty: the latches that are named like one of the apps, or all.
    pub locks: Vec<String>,
    /// Of all latches only these elections, and `locks`.
    pub elections: Vec<String>,
    /// Only these kinds (`app`, `instance`, `shard`, `document`, `ring`, `worker`, `latch`); all, if
    /// there are none.
    pub kinds: Vec<String>,
    /// Only instances for which this CEL expression is true.
    pub filter: Option<String>,
    /// All after this revision; without it a snapshot comes first.
    pub from: Option<Revision>,
    /// How long a node may take to reach the revision to begin from; 5 s, if not given.
    pub wait: Option<Duration>,
    /// Begin again with a snapshot when what comes next is not kept any more. Without it, that is
    /// the end of a watch that began with `from` or whose snapshot was complete.
    pub restart: bool,
    /// Let the snapshot be what the node knows, without asking the leader.
    pub stale: bool,
}

/// What a watch gives out.
#[derive(Clone, Debug)]
pub enum Item {
    /// What is there follows, as [`Item::Listed`]. Whatever was known before is to be forgotten:
    /// also a snapshot that was not ended, which this one begins anew.
    SnapshotBegin {
        /// The snapshot is of this revision.
        revision: Revision,
        /// As the node sent it.
        line: Box<str>,
    },
    /// An object of the snapshot.
    Listed(Event),
    /// The snapshot is complete.
    SnapshotEnd {
        /// Changes after this revision follow.
        revision: Revision,
        /// As the node sent it.
        line: Box<str>,
    },
    /// A change: each comes once, in the order of revisions, and all of one revision in a row.
    Changed(Event),
    /// Everything up to this revision was given out.
    Bookmark {
        /// The revision.
        revision: Revision,
        /// As the node sent it.
        line: Box<str>,
    },
    /// Some changes are not kept any more; a snapshot follows, since the request asked for it.
    Compacted {
        /// The snapshot is of this revision or a later one.
        restart_from: Revision,
        /// What the node said.
        detail: String,
        /// As the node sent it, if it came in the stream.
        line: Option<Box<str>>,
    },
    /// The stream ended; the watch resumes it by itself. Told once per reason until
    /// [`Item::Resumed`].
    Interrupted {
        /// The node that ended it or cannot be reached.
        endpoint: String,
        /// Why.
        why: String,
    },
    /// The watch goes on.
    Resumed {
        /// On this node.
        endpoint: String,
        /// With all after this revision; `None`: with a snapshot.
        from: Option<Revision>,
    },
}

/// A watch: every change, in order, once. It reconnects to the next node and resumes by itself.
/// Dropping it ends it. Works only while [`Watch::next`] is awaited; a node ends the stream of a
/// client that is too slow, which is then resumed like any other.
pub struct Watch {
    items: BoxStream<'static, Result<Item, Error>>,
    position: Option<Revision>,
    ended: Option<Error>,
}

impl Client {
    /// Begins a watch; nothing is sent before [`Watch::next`] is called.
    pub fn watch(&self, request: WatchRequest) -> Watch {
        let position = request.from;
        let follower = Follower::new(self.clone(), request);
        let items = unfold(Some(follower), |follower| async {
            let mut follower = follower?;
            let item = follower.next().await;
            let rest = item.is_ok().then_some(follower);
            Some((item, rest))
        });
        Watch { items: items.boxed(), position, ended: None }
    }
}

impl Watch {
    /// One that gives out these items.
    #[cfg(test)]
    pub(super) fn of(
        items: impl futures::Stream<Item = Result<Item, Error>> + Send + 'static,
    ) -> Self {
        Self { items: items.boxed(), position: None, ended: None }
    }

    /// The next item, waiting for it. May be cancelled, as in `select!`: nothing is lost.
    ///
    /// # Errors
    /// What the watch cannot get around; it has ended then, and gives the same error again.
    /// [`Error::Compacted`] after all nodes were asked; [`Error::TooLarge`]; what makes no sense to repeat, such as an
    /// unknown kind; and, if it could not begin within the client's patience, why.
    pub async fn next(&mut self) -> Result<Item, Error> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let over = || Err(Error::Invalid("the watch has ended".into()));
        let item = self.items.next().await.unwrap_or_else(over);
        match &item {
            Ok(item) => self.follow(item),
            Err(error) => self.ended = Some(error.clone()),
        }
        item
    }

    /// Everything up to here was given out: a new watch `from` here misses nothing and repeats
    /// nothing. `None` before the first snapshot is complete.
    pub fn position(&self) -> Option<Revision> {
        self.position
    }

    fn follow(&mut self, item: &Item) {
        match item {
            Item::SnapshotBegin { .. } | Item::Compacted { .. } => self.position = None,
            Item::SnapshotEnd { revision, .. } | Item::Bookmark { revision, .. } => {
                self.position = Some(*revision);
            }
            Item::Changed(event) if !event.more => self.position = Some(event.revision),
            Item::Changed(_)
            | Item::Listed(_)
            | Item::Interrupted { .. }
            | Item::Resumed { .. } => {}
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("position", &self.position).finish_non_exhaustive()
    }
}

/// As the API reads durations: `5s`, `1500ms`.
pub(super) fn wait_text(wait: Duration) -> String {
    match wait.subsec_millis() {
        0 => format!("{}s", wait.as_secs()),
        _ => format!("{}ms", wait.as_millis()),
    }
}

/// What drives a watch.
struct Follower {
    client: Client,
    request: WatchRequest,
    /// The node that is asked, or asked next.
    at: usize,
    stream: Option<Lines>,
    revisions: Revisions,
    ready: VecDeque<Item>,
    pauses: Pauses,
    /// Before the next try.
    pause: Duration,
    /// Whether a node has answered with a stream.
    begun: bool,
    /// Until when one must have, from the first try on.
    begins: Option<Patience>,
    /// Since then.
    tries: Tries,
    gone: Option<Gone>,
    /// The reasons told since the stream broke; `None` while it is well.
    told: Option<BTreeSet<String>>,
}

/// A node does not keep what comes next; others may.
struct Gone {
    restart_from: Revision,
    detail: String,
    /// How many nodes are still to be asked, with the one that is asked now.
    others: usize,
}

impl Gone {
    fn to_error(&self) -> Error {
        Error::Compacted { restart_from: self.restart_from, detail: self.detail.clone() }
    }
}

impl Follower {
    fn new(client: Client, request: WatchRequest) -> Self {
        Self {
            at: client.endpoints.current(),
            revisions: Revisions::new(request.from),
            pauses: Pauses::new(client.endpoints.count(), &client.options),
            begun: false,
            begins: None,
            tries: Tries::new(client.endpoints.count()),
            pause: Duration::ZERO,
            stream: None,
            ready: VecDeque::new(),
            gone: None,
            told: None,
            client,
            request,
        }
    }

    async fn next(&mut self) -> Result<Item, Error> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            match &mut self.stream {
                None => self.connect().await?,
                Some(lines) => match lines.next().await {
                    Ok(line) => self.take(line)?,
                    Err(why) => self.broke(why)?,
                },
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Error> {
        sleep(std::mem::take(&mut self.pause)).await;
        let limit = self.limit();
        match self.open(limit).await {
            Ok(lines) => {
                self.stream = Some(lines);
                self.begun = true;
                if self.told.take().is_some() {
                    let (endpoint, from) = (self.endpoint(), self.revisions.position());
                    self.ready.push_back(Item::Resumed { endpoint, from });
                }
                Ok(())
            }
            Err(Error::Refused(problem)) if problem.code == "compacted" => {
                let restart_from = problem.restart_from.unwrap_or_default();
                self.compacted(restart_from, problem.detail, None)
            }
            Err(error) if self.may_go_on() || !error.is_retryable() => self.failed(error),
            Err(error) => {
                self.tries.note(self.at, &error);
                let told = || self.tries.most_telling(&self.client.endpoints, error);
                Err(self.gone.as_ref().map_or_else(told, Gone::to_error))
            }
        }
    }

    /// How long the next node gets to begin its stream. A node that is behind may need all of the
    /// wait, but before the watch has begun another node may be further; only who asked for a wait
    /// gets it on each of them.
    fn limit(&mut self) -> Duration {
        let (wait, nodes) = (self.wait(), self.client.endpoints.count());
        let Limits { share, each, all } = self.client.limits();
        if self.begun {
            return wait + if self.pauses.in_first_round() { share } else { each };
        }
        let share = share + self.request.wait.unwrap_or_default();
        let limits = Limits { share, each: wait + each, all };
        let (now, is_alone) = (Instant::now(), self.tries.is_alone(self.at));
        self.begins.get_or_insert_with(|| Patience::new(nodes, limits, now)).ask(now, is_alone)
    }

    fn may_go_on(&self) -> bool {
        let over = |patience: &Patience| patience.is_over(Instant::now());
        self.begun || !self.begins.as_ref().is_some_and(over)
    }

    async fn open(&self, limit: Duration) -> Result<Lines, Error> {
        let endpoint = self.client.endpoints.get(self.at);
        let response = self.client.open_within(limit, self.at, &self.call()).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with(NDJSON)) {
            return Err(Error::NotRoster {
                endpoint: endpoint.to_string(),
                detail: format!("a watch of content type {}", kind.unwrap_or("unknown")),
                outcome: Outcome::Nothing,
            });
        }
        Ok(Lines::of(response, self.client.options.silence_max))
    }

    fn call(&self) -> Call {
        let mut call = Call::get("/v1/watch".into()).accept(NDJSON);
        let WatchRequest { apps, locks, elections, .. } = &self.request;
        for (name, values) in [("app", apps), ("lock", locks), ("election", elections)] {
            for value in values {
                call = call.query(name, value);
            }
        }
        if !self.request.kinds.is_empty() {
            call = call.query("kind", self.request.kinds.join(","));
        }
        if let Some(filter) = &self.request.filter {
            call = call.query("filter", filter);
        }
        if let Some(from) = self.revisions.position() {
            call = call.query("from", from).query("wait", wait_text(self.wait()));
        }
        if self.request.restart {
            call = call.query("restart", "snapshot");
        }
        if self.request.stale {
            call = call.query("consistency", "stale");
        }
        call
    }

    fn wait(&self) -> Duration {
        self.request.wait.unwrap_or(WAIT)
    }

    fn take(&mut self, line: String) -> Result<(), Error> {
        let message = match Message::parse(line) {
            Ok(message) => message,
            Err(why) => return self.broke(why),
        };
        match self.revisions.take(message, &mut self.ready) {
            Ok(Next::GoOn) => Ok(()),
            Ok(Next::Settled) => {
                self.pauses.reset();
                self.gone = None;
                Ok(())
            }
            Ok(Next::Lagging(detail)) => {
                // The node is well: it may take this watch again.
                self.interrupted(self.endpoint(), format!("lagging: {detail}"));
                self.pause = self.pauses.next(None);
                Ok(())
            }
            Ok(Next::Bye(detail)) => self.broke(format!("bye: {detail}")),
            Ok(Next::Compacted { restart_from, detail, line }) => {
                self.compacted(restart_from, detail, Some(line))
            }
            Err(Untaken::OutOfOrder(why)) => self.broke(why),
            Err(Untaken::TooLarge { revision, bytes_max }) => {
                Err(Error::TooLarge { revision, bytes_max })
            }
        }
    }

    /// What comes next is not kept on this node. With a restart its snapshot follows in the stream
    /// that is open; else another node may have what is missing here.
    fn compacted(
        &mut self,
        restart_from: Revision,
        detail: String,
        line: Option<Box<str>>,
    ) -> Result<(), Error> {
        if self.request.restart || self.revisions.position().is_none() {
            self.revisions.start_over();
            self.ready.push_back(Item::Compacted { restart_from, detail, line });
            if self.stream.is_none() {
                self.pause = self.pauses.next(None);
            }
            return Ok(());
        }
        let others = match &self.gone {
            Some(gone) => gone.others,
            None => self.client.endpoints.count(),
        };
        self.gone = Some(Gone { restart_from, detail: detail.clone(), others });
        self.broke(format!("compacted: {detail}"))
    }

    /// The stream ended, which is no end of the watch.
    fn broke(&mut self, why: String) -> Result<(), Error> {
        let (endpoint, outcome) = (self.endpoint(), Outcome::Nothing);
        self.failed(Error::NoAnswer { endpoint, detail: why, outcome })
    }

    /// Goes on to the next node after a pause, unless that makes no sense any more.
    fn failed(&mut self, error: Error) -> Result<(), Error> {
        if !error.is_retryable() {
            return Err(error);
        }
        self.tries.note(self.at, &error);
        self.ask_another_for_what_is_gone()?;
        let (endpoint, why) = match &error {
            Error::NoAnswer { endpoint, detail, .. } => (endpoint.clone(), detail.clone()),
            Error::Invalid(_)
            | Error::Refused(_)
            | Error::NotRoster { .. }
            | Error::Unheard { .. }
            | Error::Compacted { .. }
            | Error::TooLarge { .. } => (self.endpoint(), error.to_string()),
        };
        if self.begun {
            self.interrupted(endpoint, why);
        }
        self.client.endpoints.leave(self.at);
        self.at = self.client.endpoints.after(self.at);
        self.pause = self.pauses.next(error.retry_after());
        Ok(())
    }

    /// Every node is asked once for what one of them does not keep.
    fn ask_another_for_what_is_gone(&mut self) -> Result<(), Error> {
        let Some(gone) = &mut self.gone else { return Ok(()) };
        gone.others = gone.others.saturating_sub(1);
        if gone.others > 0 {
            return Ok(());
        }
        Err(gone.to_error())
    }

    /// Drops the stream, and tells why if that is new.
    fn interrupted(&mut self, endpoint: String, why: String) {
        self.stream = None;
        self.revisions.broken();
        let told = self.told.get_or_insert_default();
        if told.len() < REASONS_TOLD_MAX && told.insert(format!("{endpoint}: {why}")) {
            self.ready.push_back(Item::Interrupted { endpoint, why });
        }
    }

    fn endpoint(&self) -> String {
        self.client.endpoints.get(self.at).to_string()
    }
}
