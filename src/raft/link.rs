//! One connection to one peer for one purpose, opened when needed and dropped at the first error: a
//! pooled connection that outlives its peer is a known cause of endless elections.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::HOST;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::TrySendError;
use roster_storage::names::NodeId;
use roster_storage::raft_types::PeerNode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
pub use super::connection::{Body, Carries};
use super::lookups::Lookups;
use super::refusals::Refusals;
use super::rpc::header;
use crate::identity::Identity;

/// How long a connection to a peer may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Largest answer of a peer: a batch of outcomes is far below.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a call failed, sorted by what the caller may do next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The peer never got the request: safe to send again.
    #[error("cannot connect to {0}")]
    NotSent(String),
    /// The peer got the request and refused it as a whole: it did nothing.
    #[error("{0}")]
    Refused(String),
    /// The peer is of a version that does not know such a call: it did nothing.
    #[error("{0} does not know this call: it runs an earlier version")]
    Unknown(String),
    /// The connection broke, or no answer came in time: it may have been carried out.
    #[error("no answer from {0}")]
    Unanswered(String),
}

/// Who calls, as told in the headers of every call, who was refused for it, and where peers are.
#[derive(Debug)]
pub struct Badge {
    identity: watch::Receiver<Identity>,
    refusals: Arc<Refusals>,
    lookups: Arc<Lookups>,
}

impl Badge {
    pub fn new(
        identity: watch::Receiver<Identity>,
        refusals: Arc<Refusals>,
        lookups: Arc<Lookups>,
    ) -> Self {
        Self { identity, refusals, lookups }
    }

    /// Of a node with a new disk.
    #[cfg(test)]
    pub fn of_new_disk(refusals: Arc<Refusals>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = crate::identity::DataDir::open(folder.path()).expect("opens");
        let identity = data.identity(1).expect("is made");
        Self::new(watch::Sender::new(identity).subscribe(), refusals, Arc::default())
    }

    fn sign(&self, request: http::request::Builder, to_disk: &str) -> http::request::Builder {
        let identity = self.identity.borrow();
        let request = request
            .header(header::FROM, identity.node_id)
            .header(header::FROM_DISK, &identity.disk_id)
            .header(header::TO_DISK, to_disk);
        match &identity.cluster {
            Some(cluster) => request.header(header::CLUSTER, &cluster.id),
            None => request,
        }
    }
}

#[derive(Debug)]
pub struct Link {
    pub target: NodeId,
    node: PeerNode,
    badge: Arc<Badge>,
    carries: Carries,
    /// Where it is served, whoever opens it: the threads on which this was made.
    threads: Handle,
    connection: Mutex<Option<Connection>>,
    /// Counts the connections that ended, for who wants to know at once.
    ended: watch::Sender<u64>,
}

impl Link {
    /// Its connections are served by the threads on which this is called.
    pub fn new(target: NodeId, node: PeerNode, badge: Arc<Badge>, carries: Carries) -> Self {
        Self {
            target,
            node,
            badge,
            carries,
            threads: Handle::current(),
            connection: Mutex::default(),
            ended: watch::Sender::new(0),
        }
    }

    pub fn node(&self) -> &PeerNode {
        &self.node
    }

    /// Changes each time a connection of this link ends.
    pub fn endings(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    /// Opens the connection if there is none.
    pub async fn connect(&self) -> Result<(), CallError> {
        let connection = self.take().await?;
        self.put_back(connection).await;
        Ok(())
    }

    /// One question, one answer, both msgpack.
    pub async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
        limit: Duration,
    ) -> Result<A, CallError> {
        let bytes = rmp_serde::to_vec_named(question)
            .map_err(|e| CallError::Refused(format!("cannot encode the question: {e}")))?;
        self.call_encoded(path, bytes.into(), limit).await
    }

    /// As [`Link::call`], with a question that is msgpack already.
    pub async fn call_encoded<A: DeserializeOwned>(
        &self,
        path: &str,
        question: Bytes,
        limit: Duration,
    ) -> Result<A, CallError> {
        let body = Full::new(question).map_err(|never| match never {}).boxed();
        let answer = self.send(path, body, limit).await?;
        rmp_serde::from_slice(&answer).map_err(|e| {
            CallError::Unanswered(format!("{self}: its answer to {path} is not readable: {e}"))
        })
    }

    /// Sends a body and returns the answer's bytes.
    pub async fn send(&self, path: &str, body: Body, limit: Duration) -> Result<Bytes, CallError> {
        let request = self
            .badge
            .sign(self.post(path), &self.node.disk_id)
            .body(body)
            .map_err(|e| CallError::NotSent(format!("{self}: {e}")))?;
        let mut connection = timeout(limit.min(CONNECT_TIMEOUT), self.take())
            .await
            .map_err(|_| CallError::NotSent(self.to_string()))??;
        let answer = timeout(limit, async {
            let response = connection.send(request).await;
            let response = response.map_err(|e| self.not_answered(&e))?;
            let status = response.status();
            let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let bytes = body.collect().await.map_err(|e| self.broken_under_way(&*e))?;
            Ok((status, bytes.to_bytes()))
        })
        .await;
        let late = || CallError::Unanswered(format!("{self} within {} ms", limit.as_millis()));
        let (status, bytes) = match answer.unwrap_or_else(|_| Err(late())) {
            Ok(answer) => answer,
            Err(e) => {
                // One that carries no other call ends here.
                if self.carries == Carries::Many {
                    self.disconnect().await;
                }
                return Err(e);
            }
        };
        self.put_back(connection).await;
        if status.is_success() { Ok(bytes) } else { Err(self.no_success(status, &bytes)) }
    }

    fn post(&self, path: &str) -> http::request::Builder {
        match self.carries {
            Carries::Many => http::Request::post(format!("http://{}{path}", self.node.peer)),
            Carries::One => http::Request::post(path).header(HOST, &self.node.peer),
        }
    }

    fn not_answered(&self, e: &TrySendError<http::Request<Body>>) -> CallError {
        // It comes back if it was never sent.
        if e.message().is_some() || was_not_taken_up(e.error()) {
            tracing::debug!("{self} did not take a call up: {:?}", e.error());
            return CallError::Refused(format!("{self} closes its connections, as when it stops"));
        }
        self.broken_under_way(e.error())
    }

    fn broken_under_way(&self, e: &dyn std::error::Error) -> CallError {
        tracing::debug!("the connection to {self} broke: {e:?}");
        CallError::Unanswered(format!("{self}: the connection ended under way"))
    }

    fn no_success(&self, status: StatusCode, bytes: &[u8]) -> CallError {
        let why = String::from_utf8_lossy(bytes);
        if status == StatusCode::FORBIDDEN {
            self.badge.refusals.note(format!("{self} refuses this node: {why}"));
        }
        if status == StatusCode::NOT_FOUND {
            return CallError::Unknown(self.to_string());
        }
        match nothing_was_done(status) {
            true => CallError::Refused(format!("{self}: {why}")),
            false => CallError::Unanswered(format!("{self}, only {status}: {why}")),
        }
    }

    /// The next call opens a new connection.
    pub async fn disconnect(&self) {
        self.connection.lock().await.take();
    }

    /// The connection, for one call. One that carries no more than that is nobody else's until it is put
    /// back; dropped under way, it ends.
    async fn take(&self) -> Result<Connection, CallError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = Connection::take(&mut kept).await {
            return Ok(connection);
        }
        let mut opened = Some(timeout(CONNECT_TIMEOUT, self.open()).await.map_err(|_| {
            CallError::NotSent(format!("{self} within {} ms", CONNECT_TIMEOUT.as_millis()))
        })??);
        let taken = Connection::take(&mut opened).await;
        *kept = opened;
        taken.ok_or_else(|| CallError::NotSent(format!("{self}, which ended it at once")))
    }

    async fn put_back(&self, connection: Connection) {
        if self.carries == Carries::One {
            *self.connection.lock().await = Some(connection);
        }
    }

    async fn open(&self) -> Result<Connection, CallError> {
        let (peer, lookups) = (self.node.peer.clone(), self.badge.lookups.clone());
        let opening = Connection::open(self.carries, peer, lookups, self.ended.clone());
        // Given up with the one who waits for it.
        let opened = AbortOnDropHandle::new(self.threads.spawn(opening)).await;
        let opened = opened.map_err(|e| e.to_string()).flatten();
        opened.map_err(|e| CallError::NotSent(format!("{self}: {e}")))
    }
}

/// Whether the peer said that it did not come to the call: with the end of the connection, which names
/// the last call that it took up, or of that call alone.
fn was_not_taken_up(e: &hyper::Error) -> bool {
    let said = e.source().and_then(|source| source.downcast_ref::<h2::Error>());
    said.filter(|said| said.is_remote()).is_some_and(|said| match said.reason() {
        // Only those after the last one that it took up fail with this.
        Some(h2::Reason::NO_ERROR) => said.is_go_away(),
        reason => said.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM),
    })
}

/// A peer that refuses a call says so with one of these. Any other failure may come after the call
/// was carried out.
fn nothing_was_done(status: StatusCode) -> bool {
    status.is_client_error()
        || matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE)
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} at {}", self.target, self.node.peer)
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::serve::{Callers, bind, serve};

    const LIMIT: Duration = Duration::from_secs(5);

    fn link_to(peer: String, refusals: Arc<Refusals>, carries: Carries) -> Link {
        let badge = Badge::of_new_disk(refusals);
        Link::new(2, PeerNode { peer, ..PeerNode::default() }, Arc::new(badge), carries)
    }

    /// How a call fails that the peer answers with `status`.
    async fn failure(status: StatusCode, refusals: Arc<Refusals>, carries: Carries) -> CallError {
        let (any_port, here) = (([127, 0, 0, 1], 0).into(), Handle::current());
        let listener = bind("--peer-listen", any_port, &here).await.expect("a port");
        let peer = listener.local_addr().expect("its address").to_string();
        let router = Router::new().route("/call", post(async move || (status, "because")));
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        tokio::spawn(serve(listener, router, Callers::Nodes, stop));
        let link = link_to(peer, refusals, carries);
        link.call::<_, ()>("/call", &(), LIMIT).await.expect_err("it is no success")
    }

    #[tokio::test]
    async fn only_a_refusal_promises_that_nothing_was_done() {
        for carries in [Carries::Many, Carries::One] {
            for status in [400, 403, 409, 503, 507] {
                let status = StatusCode::from_u16(status).expect("a status");
                let failed = failure(status, Arc::default(), carries).await;
                assert!(matches!(failed, CallError::Refused(_)), "{status}: {failed:?}");
            }
            for status in [500, 502, 504] {
                let status = StatusCode::from_u16(status).expect("a status");
                let failed = failure(status, Arc::default(), carries).await;
                assert!(matches!(failed, CallError::Unanswered(_)), "{status}: {failed:?}");
            }
        }
    }

    /// How a call fails at a peer that reads it and says this, in HTTP/2, before it closes.
    async fn failure_where_told(frame: &'static [u8]) -> CallError {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer = listener.local_addr().expect("its address").to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a caller");
            stream.write_all(SETTINGS).await.expect("it is sent");
            let mut read = Vec::new();
            while !has_call(&read) {
                assert!(stream.read_buf(&mut read).await.expect("it sends") > 0, "it sends a call");
            }
            stream.write_all(frame).await.expect("it is sent");
        });
        let link = link_to(peer, Arc::default(), Carries::Many);
        link.call::<_, ()>("/call", &(), LIMIT).await.expect_err("it is no success")
    }

    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;

    /// Whether the head of the first call is there, behind the preface.
    fn has_call(bytes: &[u8]) -> bool {
        let mut rest = bytes.get(24..).unwrap_or_default();
        while let [a, b, c, kind, _, _, _, _, _, behind @ ..] = rest {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let Some(next) = behind.get(length..) else { return false };
            if *kind == HEADERS {
                return true;
            }
            rest = next;
        }
        false
    }

    #[tokio::test]
    async fn a_call_that_the_peer_did_not_come_to_may_be_made_again_and_no_other_one() {
        // The last call that it took up is none, or the first one; the reason is none, or an error.
        let stops: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let stops_after_it: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        let is_lost: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        // The call itself is refused, or broken off.
        let refuses: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
        let breaks_off: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2];
        for told in [stops, refuses] {
            let failed = failure_where_told(told).await;
            assert!(matches!(failed, CallError::Refused(_)), "{told:?}: {failed:?}");
        }
        for told in [stops_after_it, is_lost, breaks_off, &[]] {
            let failed = failure_where_told(told).await;
            assert!(matches!(failed, CallError::Unanswered(_)), "{told:?}: {failed:?}");
        }
    }

    #[tokio::test]
    async fn a_refused_caller_can_say_why() {
        let refusals = Arc::new(Refusals::default());
        failure(StatusCode::SERVICE_UNAVAILABLE, refusals.clone(), Carries::Many).await;
        assert_eq!(refusals.lately(), None);
        failure(StatusCode::FORBIDDEN, refusals.clone(), Carries::Many).await;
        let why = refusals.lately().expect("it was refused");
        assert!(why.starts_with("node 2 at ") && why.ends_with("refuses this node: because"));
    }

    /// A peer that speaks HTTP/1.1, and the link to it.
    struct OneByOne {
        peer: TcpListener,
        link: Link,
    }

    const EMPTY_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\xc0";

    impl OneByOne {
        async fn start() -> Self {
            let peer = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = peer.local_addr().expect("its address").to_string();
            Self { peer, link: link_to(address, Arc::default(), Carries::One) }
        }

        /// The connection that is opened.
        async fn accept(&self) -> TcpStream {
            let accepted = timeout(LIMIT, self.peer.accept()).await;
            accepted.expect("a connection is opened").expect("a caller").0
        }

        async fn accept_and_answer(&self) -> TcpStream {
            let mut stream = self.accept().await;
            answer_one(&mut stream).await;
            stream
        }

        async fn call(&self) -> Result<(), CallError> {
            self.link.call("/call", &(), LIMIT).await
        }
    }

    /// Reads a call, whose body is one byte.
    async fn read_call(stream: &mut TcpStream) {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n\xc0") {
            assert!(stream.read_buf(&mut read).await.expect("it sends") > 0, "it sends a call");
        }
    }

    async fn answer_one(stream: &mut TcpStream) {
        read_call(stream).await;
        stream.write_all(EMPTY_ANSWER).await.expect("it is taken");
    }

    #[tokio::test]
    async fn calls_one_after_the_other_share_a_connection_until_it_ends() {
        let two = OneByOne::start().await;
        let (called, mut first) = tokio::join!(two.call(), two.accept_and_answer());
        called.expect("answered");
        let (called, ()) = tokio::join!(two.call(), answer_one(&mut first));
        called.expect("answered over the same one");

        let mut endings = two.link.endings();
        endings.mark_unchanged();
        drop(first);
        endings.changed().await.expect("the link stays");
        let (called, _second) = tokio::join!(two.call(), two.accept_and_answer());
        called.expect("answered over another one");
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_ends_its_connection_so_no_other_gets_its_answer() {
        let two = OneByOne::start().await;
        let taken_up = async {
            let mut stream = two.accept().await;
            read_call(&mut stream).await;
            stream
        };
        let mut stream = tokio::select! {
            called = two.call() => panic!("it was answered: {called:?}"),
            stream = taken_up => stream,
        };
        assert_eq!(stream.read(&mut [0]).await.expect("it is closed"), 0);
        let (called, _other) = tokio::join!(two.call(), two.accept_and_answer());
        called.expect("answered");
    }
}
