//! What a node answers on its peer port. Until the node belongs to a cluster it only says who it is
//! and takes part in making one; Raft's calls and what is forwarded to a leader are refused, with the
//! reason.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::{BodyExt, Limited};
use openraft::storage::Snapshot;
use roster_storage::disk::{CHECKPOINTS_DIR, Incoming};
use roster_storage::names::NodeId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::rpc::{SnapshotHead, header, path};
use crate::config::Config;
use crate::node::{Node, Running};

/// Largest body of a peer's call but for checkpoints, which are streamed.
const BODY_BYTES_MAX: usize = 64 << 20;

/// How long the sender of a checkpoint may take for the next piece.
const SNAPSHOT_PIECE_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head of a checkpoint: a membership of some nodes.
const SNAPSHOT_HEAD_BYTES_MAX: usize = 1 << 20;

#[derive(Clone)]
struct Peer {
    node: Arc<Node>,
    /// One checkpoint is received at a time.
    receiving: Arc<Semaphore>,
}

pub fn router(node: Arc<Node>) -> Router {
    let peer = Peer { node, receiving: Arc::new(Semaphore::new(1)) };
    let members = Router::new()
        .route(path::APPEND, post(append))
        .route(path::VOTE, post(vote))
        .route(path::PRE_VOTE, post(pre_vote))
        .route(path::SNAPSHOT, post(snapshot))
        .route(path::TRANSFER, post(transfer))
        .route(path::STATUS, post(status))
        .route(path::PROPOSE, post(propose))
        .route(path::READ_INDEX, post(read_index))
        .route(path::HEARTBEATS, post(heartbeats))
        .route(path::BEATS, post(beats))
        .route(path::LAST_HEARD, post(last_heard))
        .layer(middleware::from_fn_with_state(peer.clone(), members_only));
    Router::new()
        .route(path::HELLO, post(hello))
        .route(path::FORM, post(form))
        .route(path::REPLACE, post(replace))
        .merge(members)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(peer)
}

/// A call that is refused as a whole: nothing was done. The text is for the caller's log.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

fn not_serving(why: String) -> Refused {
    Refused(StatusCode::SERVICE_UNAVAILABLE, why)
}

type Answer = Result<Bytes, Refused>;

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    rmp_serde::from_slice(body).map_err(|e| Refused(StatusCode::BAD_REQUEST, e.to_string()))
}

fn render<T: Serialize>(answer: &T) -> Answer {
    rmp_serde::to_vec_named(answer)
        .map(Bytes::from)
        .map_err(|e| Refused(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

impl Peer {
    fn running(&self) -> Result<&Arc<Running>, Refused> {
        self.node.running().map_err(not_serving)
    }
}

/// Holds the caller's headers against what this node knows (invariant S14).
async fn members_only(State(peer): State<Peer>, request: Request, next: Next) -> Response {
    if Caller::of(request.headers()).is_no_node() {
        return not_the_api(&peer.node).into_response();
    }
    let checked = peer.running().and_then(|running| {
        let caller = Caller::of(request.headers());
        running.check_caller(&caller).map_err(|why| {
            running.refusals.note(format!("this node refuses node {}: {why}", caller.from));
            Refused(StatusCode::FORBIDDEN, why)
        })
    });
    match checked {
        Ok(()) => next.run(request).await,
        Err(refused) => {
            // To close while it still sends would reset the connection, and it might not see why.
            let mut rest = Limited::new(request.into_body(), BODY_BYTES_MAX);
            while let Some(Ok(_)) = rest.frame().await {}
            refused.into_response()
        }
    }
}

/// Somebody who is no node took the port of the peers for that of the API.
fn not_the_api(node: &Node) -> Refused {
    let Config { node_id, advertise_api, .. } = node.config();
    let why = format!(
        "this is the port of node {node_id} for the other nodes of its cluster; its API is at \
         {advertise_api}\n"
    );
    Refused(StatusCode::MISDIRECTED_REQUEST, why)
}

/// What a call says of its caller.
pub struct Caller<'a> {
    pub cluster: &'a str,
    pub from: &'a str,
    pub from_disk: &'a str,
    pub to_disk: &'a str,
}

impl<'a> Caller<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        Self {
            cluster: text(header::CLUSTER),
            from: text(header::FROM),
            from_disk: text(header::FROM_DISK),
            to_disk: text(header::TO_DISK),
        }
    }

    /// Every node says who it is.
    fn is_no_node(&self) -> bool {
        [self.cluster, self.from, self.from_disk, self.to_disk].iter().all(|said| said.is_empty())
    }

    /// `Err` says that it does not tell.
    pub fn node(&self) -> Result<NodeId, String> {
        self.from.parse().map_err(|_| "the caller has no node id".into())
    }
}

async fn append(State(peer): State<Peer>, body: Bytes) -> Answer {
    let running = peer.running()?;
    let rpc: openraft::raft::AppendEntriesRequest<_> = parse(&body)?;
    if !rpc.entries.is_empty() {
        running.disk.writable().map_err(|why| Refused(StatusCode::INSUFFICIENT_STORAGE, why))?;
    }
    render(&running.raft.append_entries(rpc).await.map_err(fatal)?)
}

async fn vote(State(peer): State<Peer>, body: Bytes) -> Answer {
    render(&peer.running()?.raft.vote(parse(&body)?).await.map_err(fatal)?)
}

async fn pre_vote(State(peer): State<Peer>, body: Bytes) -> Answer {
    render(&peer.running()?.raft.pre_vote(parse(&body)?).await.map_err(fatal)?)
}

async fn transfer(State(peer): State<Peer>, body: Bytes) -> Answer {
    let answer = peer.running()?.raft.handle_transfer_leader(parse(&body)?).await;
    render(&answer.map_err(fatal)?)
}

fn fatal(e: impl std::fmt::Display) -> Refused {
    Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("this node's Raft stopped: {e}"))
}

async fn snapshot(State(peer): State<Peer>, request: Request) -> Answer {
    let running = peer.running()?;
    running.disk.writable().map_err(|why| Refused(StatusCode::INSUFFICIENT_STORAGE, why))?;
    let Ok(_one_at_a_time) = peer.receiving.try_acquire() else {
        return Err(not_serving("another checkpoint is being received".into()));
    };
    let (head, incoming) = receive(running, request.into_body()).await?;
    let checkpoint =
        tokio::task::spawn_blocking(move || incoming.finish(head.bytes, head.checksum))
            .await
            .map_err(fatal)?
            .map_err(|e| Refused(StatusCode::BAD_REQUEST, e.to_string()))?;
    let index = head.meta.last_log_id.map_or(0, |id| id.index);
    let (term, applied) = (running.term(), running.applied());
    tracing::info!(bytes = head.bytes, index, term, applied, "received a checkpoint");
    let snapshot = Snapshot { meta: head.meta, snapshot: checkpoint };
    render(&running.raft.install_full_snapshot(head.vote, snapshot).await.map_err(fatal)?)
}

async fn receive(running: &Running, body: Body) -> Result<(SnapshotHead, Incoming), Refused> {
    let broken = |e: &dyn std::fmt::Display| Refused(StatusCode::BAD_REQUEST, e.to_string());
    let mut incoming =
        Incoming::create(&running.data.path().join(CHECKPOINTS_DIR)).map_err(|e| broken(&e))?;
    let mut stream = body.into_data_stream();
    let mut start = BytesMut::new();
    let head: SnapshotHead = loop {
        if start.len() >= 4 {
            let length = (&start[..4]).get_u32() as usize;
            if length > SNAPSHOT_HEAD_BYTES_MAX {
                return Err(broken(&"the head of the checkpoint is too long"));
            }
            if start.len() >= 4 + length {
                let head = parse(&start[4..4 + length])?;
                start.advance(4 + length);
                break head;
            }
        }
        match next_piece(&mut stream).await? {
            Some(piece) => start.extend_from_slice(&piece),
            None => return Err(broken(&"the checkpoint ended within its head")),
        }
    };
    incoming.write(&start).map_err(|e| broken(&e))?;
    while let Some(piece) = next_piece(&mut stream).await? {
        tokio::task::block_in_place(|| incoming.write(&piece)).map_err(|e| broken(&e))?;
    }
    Ok((head, incoming))
}

/// A sender that died without closing its connection must not keep the others from sending.
async fn next_piece(stream: &mut BodyDataStream) -> Result<Option<Bytes>, Refused> {
    match timeout(SNAPSHOT_PIECE_TIMEOUT, stream.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(Some(Err(e))) => Err(Refused(StatusCode::BAD_REQUEST, e.to_string())),
        Err(_) => {
            let why = format!("no piece of the checkpoint within {SNAPSHOT_PIECE_TIMEOUT:?}");
            tracing::warn!("{why}");
            Err(Refused(StatusCode::REQUEST_TIMEOUT, why))
        }
    }
}

async fn hello(State(peer): State<Peer>, body: Bytes) -> Answer {
    render(&peer.node.answer_hello(parse(&body)?))
}

async fn form(State(peer): State<Peer>, body: Bytes) -> Answer {
    let joined = peer.node.answer_form(parse(&body)?).await;
    render(&joined.map_err(|why| Refused(StatusCode::CONFLICT, why))?)
}

async fn replace(State(peer): State<Peer>, body: Bytes) -> Answer {
    let replaced = peer.running()?.replace_member(parse(&body)?).await;
    render(&replaced.map_err(|why| Refused(StatusCode::CONFLICT, why))?)
}

async fn status(State(peer): State<Peer>) -> Answer {
    render(&peer.running()?.status_answer())
}

async fn propose(State(peer): State<Peer>, body: Bytes) -> Answer {
    let question: super::rpc::Propose = parse(&body)?;
    render(&peer.running()?.leading.propose(question.commands).await)
}

async fn read_index(State(peer): State<Peer>) -> Answer {
    render(&peer.running()?.leading.read_index().await)
}

async fn heartbeats(State(peer): State<Peer>, headers: HeaderMap, body: Bytes) -> Answer {
    let via = Caller::of(&headers).node().map_err(not_serving)?;
    let question: super::rpc::Heartbeats = parse(&body)?;
    render(&peer.running()?.leading.heartbeats(&question.beats, via).await)
}

async fn beats(State(peer): State<Peer>, headers: HeaderMap, body: Bytes) -> Answer {
    let via = Caller::of(&headers).node().map_err(not_serving)?;
    let question: Vec<super::rpc::BeatsAsked> = parse(&body)?;
    let answer = peer.running()?.leading.beats(&question, via).await;
    rmp_serde::to_vec(&answer).map(Bytes::from).map_err(fatal)
}

async fn last_heard(State(peer): State<Peer>, body: Bytes) -> Answer {
    let question: super::rpc::LastHeard = parse(&body)?;
    render(&peer.running()?.leading.last_heard(&question.sessions).await)
}
