//! A client of a Roster cluster: calls, registrations that are kept alive, watches, the history,
//! key rings and shards, locks and elections.
//!
//! A [`Client`] knows the nodes of one cluster and asks the next one when a node does not answer or
//! says that it cannot serve. What it resends is decided by one rule: a call whose outcome is
//! unknown is sent again only if doing it twice is the same as doing it once ([`Call`] says which
//! are). Every [`Error`] says whether anything may have been done.
//!
//! ```no_run
//! use roster::client::{Client, Item, Registration, WatchRequest};
//!
//! # async fn example() -> Result<(), roster::client::Error> {
//! let client = Client::new("127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403")?;
//!
//! let registration = Registration { ip: "10.0.0.1".into(), port: 8719, ..Default::default() };
//! let alive = client.keep_alive("pay", "10.0.0.1:8719", registration).await?;
//!
//! let mut watch = client.watch(WatchRequest { apps: vec!["pay".into()], ..Default::default() });
//! while let Item::Listed(_) | Item::SnapshotBegin { .. } = watch.next().await? {}
//! alive.leave().await
//! # }
//! ```
//!
//! Who does what is answered in two ways. Keys that nobody has listed: a [`RingFollower`] computes
//! who owns one, and a [`RingMember`] is one of those who own them. Shards, one per registered
//! instance: a [`ShardWorker`] is told which ones to work on. Both stop by themselves when their
//! [`Lease`] is not safe any more, before the cluster gives their work to others.
//!
//! Who may act alone is answered in two more: [`Client::lock`] acquires a lock, a [`Candidate`] leads an
//! election once it is its turn. Both give a [`Held`]: its fencing token grows with each holder, and
//! it tells in time when it may be another's.
//!
//! Calls go one way: `watch`, `keep_alive` and `history` use `call`; `ring_member` and `shard_worker`
//! use `keep_alive`, and `holding` uses `session`, `latches` and `watch`. `revisions` decides, without a socket or a clock, what a watch gives out and from
//! where it resumes; in the same way `standing` decides on which keys a member may start, and `work` what a
//! worker starts, stops and lets go.

mod call;
mod endpoints;
mod error;
mod event;
mod history;
mod holding;
mod instance;
mod keep_alive;
mod latches;
mod lease;
mod lines;
mod patience;
mod pauses;
mod revisions;
mod rhythm;
mod ring;
mod ring_member;
mod session;
mod shard_worker;
mod shards;
mod standing;
mod tries;
mod watch;
mod work;

use std::sync::Arc;
use std::time::Duration;

use endpoints::Endpoints;
use patience::Limits;

pub use call::{Answer, Call, path};
pub use error::{Error, Outcome, Problem};
pub use event::{Action, Event, HeldIn};
pub use history::{Events, EventsRequest, Order, Page};
pub use holding::{Candidate, CandidateSettings, Held, LockSettings, Loss};
pub use instance::{Registered, Registration};
pub use keep_alive::{Ended, KeepAlive, Status};
pub use latches::{AcquiredLock, Latch, LockMode};
pub use lease::Lease;
pub use rhythm::Rhythm;
pub use ring::RingFollower;
pub use ring_member::{RingMember, RingWork};
pub use roster_storage::names::{Incarnation, Revision};
pub use roster_storage::ring::{Description as RingDescription, View as RingView};
pub(crate) use session::{Hearing, once_key};
pub use session::{KeptSession, OpenedSession, SessionSettings};
pub use shard_worker::{ShardWork, ShardWorker, ShardWorkerSettings};
pub use shards::{Grant, Released, WorkerShard, WorkerView};
pub use watch::{Item, Watch, WatchRequest};

/// How long a connection may take to be made: the nodes are near.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// When a silent connection is probed: it keeps open what a firewall would forget.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The times that a [`Client`] keeps.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long one node may take to answer a call: by default longer than its own limit. While
    /// others can still be asked, a call that may be repeated waits only for its share of the
    /// patience (at least 2 s) until the answer begins.
    pub call_timeout: Duration,
    /// How long a call, or the beginning of a watch, is tried on one node after the other before
    /// its error is given back; but each node is asked once, and the last try may take as long as
    /// one node may. A watch that has begun is resumed without a limit.
    pub patience: Duration,
    /// How long one node may at least take to answer a heartbeat; with a long TTL it gets half of the
    /// time between two, up to 5 s.
    pub heartbeat_timeout_min: Duration,
    /// A watch that brings no line for so long is broken: nodes send a bookmark each 10 s.
    pub silence_max: Duration,
    /// Before each further try: at most this, and after each round over all nodes twice as much...
    pub pause_min: Duration,
    /// ...up to this, unless a node asks for more with `Retry-After`.
    pub pause_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(10),
            patience: Duration::from_secs(5),
            heartbeat_timeout_min: Duration::from_millis(250),
            silence_max: Duration::from_secs(30),
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
        }
    }
}

/// The nodes of a cluster, as a client knows them. A clone is cheap and shares the connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoints: Arc<Endpoints>,
    options: Options,
}

impl Client {
    /// `endpoints` are the API addresses of the nodes, separated by commas: `HOST:PORT` or
    /// `http://HOST:PORT`. The first one is asked first. Connects to nobody yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the list is empty or one of them is no such address.
    pub fn new(endpoints: &str) -> Result<Self, Error> {
        Self::with(endpoints, Options::default())
    }

    /// As [`Client::new`], with other times.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with(endpoints: &str, options: Options) -> Result<Self, Error> {
        let endpoints = Arc::new(Endpoints::parse(endpoints)?);
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(TCP_KEEP_ALIVE)
            .build()
            .map_err(|e| Error::Invalid(format!("the HTTP client cannot be made: {e}")))?;
        Ok(Self { http, endpoints, options })
    }

    /// Those of a call that may go to one node after the other.
    fn limits(&self) -> Limits {
        let Options { call_timeout, patience, .. } = self.options;
        Limits::shared(self.endpoints.count(), call_timeout, patience)
    }
}
