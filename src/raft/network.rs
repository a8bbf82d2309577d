//! How openraft reaches the other nodes: a client per peer and lane, each with a connection of its
//! own, so that a checkpoint or a backlog of entries never delays a heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::{Either, select};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use openraft::OptionalSend;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use roster_storage::disk::Checkpoint;
use roster_storage::names::{NodeId, Revision};
use roster_storage::raft_types::{PeerNode, TypeConfig, Vote, alias};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::timeout;

use super::link::{Badge, CallError, Carries, Link};
use super::rpc::{SnapshotHead, path};

/// How long a peer may take to write a batch of entries down. openraft offers its heartbeat
/// interval, but a slow disk is no reason to send the same batch again; heartbeats go their own way.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// A checkpoint goes out in pieces of this size.
const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// Pieces read ahead of the network while a checkpoint is sent.
const SNAPSHOT_CHUNKS_AHEAD: usize = 4;

/// How long a peer may take to take the next piece.
const SNAPSHOT_STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How far this node, as leader, told anybody that the log is committed: other nodes, or clients by
/// the answer to a heartbeat. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CommitsTold(Arc<AtomicU64>);

impl CommitsTold {
    /// Before it is sent: whoever hears of it later finds it here.
    pub fn tell(&self, Revision(index): Revision) {
        // Most say nothing new, and reading leaves it where it is for the other threads.
        if index > self.0.load(Ordering::Acquire) {
            self.0.fetch_max(index, Ordering::AcqRel);
        }
    }

    pub fn highest(&self) -> Revision {
        Revision(self.0.load(Ordering::Acquire))
    }
}

/// Makes the clients that openraft asks for.
#[derive(Clone, Debug)]
pub struct Network {
    badge: Arc<Badge>,
    told: CommitsTold,
    /// One checkpoint is sent at a time.
    sending: Arc<Semaphore>,
}

impl Network {
    pub fn new(badge: Arc<Badge>, told: CommitsTold) -> Self {
        Self { badge, told, sending: Arc::new(Semaphore::new(1)) }
    }

    fn client(&self, target: NodeId, node: &PeerNode, lane: Lane) -> Client {
        Client {
            link: Link::new(target, node.clone(), self.badge.clone(), lane.carries()),
            told: self.told.clone(),
            sending: self.sending.clone(),
            lane,
        }
    }
}

/// What a client's connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Log,
    Heartbeat,
    Snapshot,
}

impl Lane {
    /// openraft sends entries and heartbeats one after the other, and again where no answer comes; for each
    /// vote, and each word to a new leader, it asks for a client of its own.
    fn carries(self) -> Carries {
        match self {
            Self::Log | Self::Heartbeat => Carries::One,
            Self::Snapshot => Carries::Many,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, node: &PeerNode) -> Client {
        self.client(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &PeerNode) -> Client {
        self.client(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &PeerNode) -> Client {
        self.client(target, node, Lane::Snapshot)
    }
}

/// One peer, one lane, one connection.
#[derive(Debug)]
pub struct Client {
    link: Link,
    told: CommitsTold,
    sending: Arc<Semaphore>,
    lane: Lane,
}

impl Client {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        action: RPCTypes,
        path: &str,
        question: &Q,
        limit: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        self.link.call(path, question, limit).await.map_err(|e| match e {
            CallError::NotSent(_) | CallError::Refused(_) | CallError::Unknown(_) => {
                tracing::debug!(peer = %self.link, ?action, "not sent: {e}");
                RPCError::Unreachable(Unreachable::new(&e))
            }
            CallError::Unanswered(_) => {
                tracing::debug!(peer = %self.link, ?action, "{e}");
                RPCError::Network(NetworkError::new(&e))
            }
        })
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Checkpoint;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = match self.lane {
            Lane::Log => APPEND_TIMEOUT.max(option.soft_ttl()),
            Lane::Heartbeat | Lane::Snapshot => option.soft_ttl(),
        };
        self.told.tell(Revision(rpc.leader_commit.map_or(0, |id| id.index)));
        self.call(RPCTypes::AppendEntries, path::APPEND, &rpc, limit).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(RPCTypes::Vote, path::VOTE, &rpc, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(RPCTypes::Vote, path::PRE_VOTE, &rpc, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: alias::SnapshotOf<TypeConfig, Checkpoint>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let transfer = Box::pin(self.send_checkpoint(vote, snapshot.snapshot, option.hard_ttl()));
        match select(transfer, Box::pin(cancel)).await {
            Either::Left((done, _)) => done,
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(RPCTypes::TransferLeader, path::TRANSFER, &req, option.soft_ttl()).await
    }
}

impl Client {
    async fn send_checkpoint(
        &self,
        vote: Vote,
        checkpoint: Checkpoint,
        limit: Duration,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreachable = |e: &CallError| StreamingError::Unreachable(Unreachable::new(e));
        let Ok(one_at_a_time) = self.sending.acquire().await else {
            return Err(unreachable(&CallError::NotSent("the node stops".into())));
        };
        let (bytes, index) = (checkpoint.bytes, checkpoint.index());
        tracing::info!(peer = %self.link, bytes, index, "sending a checkpoint");
        let head = SnapshotHead {
            vote,
            meta: checkpoint.meta.clone(),
            bytes: checkpoint.bytes,
            checksum: checkpoint.checksum,
        };
        let (progress, taken) = watch::channel(());
        let body = checkpoint_body(&head, checkpoint, progress)
            .map_err(|e| unreachable(&CallError::NotSent(e.to_string())))?;
        let answer = tokio::select! {
            answer = self.link.send(path::SNAPSHOT, body, limit) => answer,
            () = stalls(taken, SNAPSHOT_STALL_TIMEOUT, one_at_a_time) => {
                self.link.disconnect().await;
                let what = format!("{}, which takes no more of it", self.link);
                Err(CallError::Unanswered(what))
            }
        };
        let answer = answer.map_err(|e| {
            tracing::warn!(peer = %self.link, "the checkpoint did not arrive: {e}");
            match e {
                CallError::NotSent(_) | CallError::Refused(_) | CallError::Unknown(_) => {
                    unreachable(&e)
                }
                CallError::Unanswered(_) => StreamingError::Timeout(Timeout {
                    action: RPCTypes::InstallSnapshot,
                    id: 0,
                    target: self.link.target,
                    timeout: limit,
                }),
            }
        })?;
        rmp_serde::from_slice(&answer).map_err(|e| StreamingError::Network(NetworkError::new(&e)))
    }
}

/// Returns when the peer takes no more although there is more. Once it has taken all, the next peer's
/// turn comes; how long it may then take to install it is for the call itself to limit.
async fn stalls(mut taken: watch::Receiver<()>, limit: Duration, turn: SemaphorePermit<'_>) {
    while let Ok(changed) = timeout(limit, taken.changed()).await {
        if changed.is_err() {
            drop(turn);
            return std::future::pending().await;
        }
    }
}

/// The head with its length before it, then the checkpoint's bytes, read in a thread of its own.
/// `progress` is told of each piece that is taken, and dropped after the last.
fn checkpoint_body(
    head: &SnapshotHead,
    checkpoint: Checkpoint,
    progress: watch::Sender<()>,
) -> Result<super::link::Body, rmp_serde::encode::Error> {
    let head = rmp_serde::to_vec_named(head)?;
    let mut first = BytesMut::with_capacity(4 + head.len());
    first.put_u32(head.len() as u32);
    first.put_slice(&head);
    let (pieces, received) = mpsc::channel::<std::io::Result<Bytes>>(SNAPSHOT_CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut next = Ok(first.freeze());
        let mut offset = 0;
        while pieces.blocking_send(next).is_ok() && offset < checkpoint.bytes {
            next = checkpoint
                .read_at(offset, SNAPSHOT_CHUNK_BYTES)
                .map(Bytes::from)
                .map_err(std::io::Error::from);
            offset += next.as_ref().map_or(checkpoint.bytes, |piece| piece.len() as u64);
        }
    });
    let frames = futures::stream::unfold((received, progress), |(mut received, progress)| async {
        let piece = received.recv().await?;
        progress.send_replace(());
        Some((piece.map(Frame::data), (received, progress)))
    });
    Ok(BodyExt::boxed(StreamBody::new(frames)))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::post;
    use parking_lot::Mutex;
    use roster_storage::raft_types::LogId;
    use tokio::runtime::Handle;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::serve::{Callers, bind, serve};

    const LIMIT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_peer_that_takes_no_more_is_given_up_and_a_slow_one_is_not() {
        let sending = Semaphore::new(1);
        let turn = sending.acquire().await.expect("it is open");
        let (progress, taken) = watch::channel(());
        let slow = async {
            for _ in 0..4 {
                tokio::time::sleep(LIMIT / 2).await;
                progress.send_replace(());
            }
        };
        let begun = tokio::time::Instant::now();
        tokio::join!(slow, stalls(taken, LIMIT, turn));
        assert!(begun.elapsed() >= LIMIT * 3, "it was given up after {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn the_next_peer_has_its_turn_once_all_was_taken() {
        let sending = Semaphore::new(1);
        let turn = sending.acquire().await.expect("it is open");
        let (progress, taken) = watch::channel(());
        drop(progress);
        let installs = timeout(LIMIT * 2, stalls(taken, LIMIT, turn));
        let (installs, next) = tokio::join!(installs, timeout(LIMIT, sending.acquire()));
        assert!(installs.is_err(), "it was given up while it installs");
        drop(next.expect("in time").expect("it is open"));
    }

    /// What any node answers of a revision, a heartbeat that comes in later must answer too (invariant
    /// S2).
    #[tokio::test]
    async fn nobody_hears_that_an_entry_is_committed_before_this_node_says_so_itself() {
        let any_port = ([127, 0, 0, 1], 0).into();
        let listener = bind("--peer-listen", any_port, &Handle::current()).await.expect("a port");
        let peer = listener.local_addr().expect("its address").to_string();
        let told = CommitsTold::default();
        let (heard, known) = (Arc::new(Mutex::new(Vec::new())), told.clone());
        let hears = heard.clone();
        let append = post(async move |body: Bytes| {
            let rpc: AppendEntriesRequest<TypeConfig> = rmp_serde::from_slice(&body).expect("one");
            hears.lock().push((rpc.leader_commit.map_or(0, |id| id.index), known.highest().0));
            StatusCode::SERVICE_UNAVAILABLE
        });
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        tokio::spawn(serve(
            listener,
            Router::new().route(path::APPEND, append),
            Callers::Nodes,
            stop,
        ));
        let badge = Badge::of_new_disk(Arc::default());
        let node = PeerNode { peer, ..PeerNode::default() };
        let mut network = Network::new(Arc::new(badge), told.clone());
        let mut client = network.new_client(2, &node).await;
        let leader = alias::CommittedLeaderIdOf::<TypeConfig>::new(1);
        for committed in [7, 9, 8] {
            let rpc = AppendEntriesRequest {
                vote: Vote::new_committed(1, 1),
                prev_log_id: None,
                entries: Vec::new(),
                leader_commit: Some(LogId::new(leader, committed)),
            };
            let option = RPCOption::new(Duration::from_secs(5));
            client.append_entries(rpc, option).await.expect_err("it was refused");
        }
        assert_eq!(*heard.lock(), [(7, 7), (9, 9), (8, 9)]);
        assert_eq!(told.highest(), Revision(9));
    }
}
