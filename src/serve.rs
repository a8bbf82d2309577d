//! Takes connections and serves a router on them until told to stop.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use roster_api::ClientAddress;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ConfigError;
use crate::raft::connection::{KEEP_ALIVE_EVERY, KEEP_ALIVE_TIMEOUT, keep_alive};

/// How long a client may take to send the head of a request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests under way may take to end when the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that takes nothing of what waits for it, or acknowledges nothing, for so long is cut off.
const STALLED_MS: u32 = 60_000;

/// What waits in memory for one HTTP/1 client to take it, beside what made it; also the longest
/// head of a request.
const CLIENT_BUFFER_BYTES: usize = 128 * 1024;

/// Connections beyond the limit that are told so at once; more are only closed.
const REFUSED_AT_ONCE: usize = 128;

/// How long such a one may take, and how much of what it asks is read.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
const REFUSED_BYTES_MAX: u64 = 64 * 1024;

/// After an error of `accept` (no descriptors left): it does not pass by trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes the port, for connections that `threads` serve. The error names the setting.
pub async fn bind(
    setting: &str,
    address: SocketAddr,
    threads: &Handle,
) -> Result<TcpListener, ConfigError> {
    let bound = TcpListener::bind(address).await.and_then(|listener| {
        // A socket belongs to the threads where it was made.
        let listener = listener.into_std()?;
        let _made_there = threads.enter();
        TcpListener::from_std(listener)
    });
    bound.map_err(|e| ConfigError {
        setting: setting.into(),
        problem: format!("cannot listen on {address}: {e}; stop what uses it or choose another"),
    })
}

/// How many connections may be open, and what one is told that is too many.
#[derive(Clone)]
pub struct Limit {
    pub connections: usize,
    /// Those that are.
    pub open: TaskTracker,
    /// A whole answer of HTTP/1.
    pub refusal: Arc<dyn Fn() -> Vec<u8> + Send + Sync>,
}

/// Who connects.
#[derive(Clone)]
pub enum Callers {
    Clients(Limit),
    /// Other nodes: their connections stay open for as long as they are there.
    Nodes,
}

/// Serves until `stop`, then lets requests under way end. Each request says where it came from, as
/// [`ClientAddress`]. Beyond a limit a client is told at once, so that it can try another node: one
/// that was left waiting would not know why.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    callers: Callers,
    stop: CancellationToken,
) {
    let (connections, limit) = match callers {
        Callers::Clients(limit) => (limit.open.clone(), Some(limit)),
        Callers::Nodes => (TaskTracker::new(), None),
    };
    let of_nodes = limit.is_none();
    let refused = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, from)) => match &limit {
                Some(limit) if connections.len() >= limit.connections => {
                    // More that come at once are only closed.
                    if refused.len() < REFUSED_AT_ONCE {
                        refused.spawn(refuse(stream, (limit.refusal)()));
                    }
                }
                Some(_) | None => {
                    let one = connection(stream, from.ip(), of_nodes, router.clone(), stop.clone());
                    connections.spawn(one);
                }
            },
            Err(e) => {
                tracing::warn!("cannot take a connection: {e}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!(
            open = connections.len(),
            "connections are cut while requests are under way"
        );
    }
}

/// Answers whatever is asked. What the client sends is read for a moment: to close with something
/// unread would reset the connection, and the client might not see the answer.
async fn refuse(mut stream: TcpStream, answer: Vec<u8>) {
    let told = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(REFUSED_BYTES_MAX), &mut tokio::io::sink()).await
    };
    // A client that does not take it is closed like the others.
    drop(timeout(REFUSAL_TIMEOUT, told).await);
}

/// How a connection begins that speaks HTTP/2; no method of HTTP/1 begins with all of it.
const HTTP2: &[u8; 4] = b"PRI ";

/// Between two looks at a connection of which only a part of these came.
const PEEK_PAUSE: Duration = Duration::from_millis(5);

/// Which HTTP is spoken, without taking a byte. Finding out on the way would cost each HTTP/1
/// connection a second read buffer: with ten thousand watchers that counts.
async fn speaks_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut begin = [0; HTTP2.len()];
    loop {
        match stream.peek(&mut begin).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length if begin[..length] != HTTP2[..length] => return Ok(false),
            length if length == HTTP2.len() => return Ok(true),
            _ => sleep(PEEK_PAUSE).await,
        }
    }
}

async fn connection(
    stream: TcpStream,
    from: IpAddr,
    of_node: bool,
    router: Router,
    stop: CancellationToken,
) {
    let kept = if of_node { keep_alive(&stream) } else { Ok(()) };
    if let Err(e) = stream.set_nodelay(true).and(kept) {
        return tracing::debug!("a connection ended at once: {e}");
    }
    let http2 = tokio::select! {
        spoken = timeout(HEAD_TIMEOUT, speaks_http2(&stream)) => spoken,
        () = stop.cancelled() => return,
    };
    let http2 = match http2 {
        Ok(Ok(http2)) => http2,
        Ok(Err(e)) => return tracing::debug!("a connection ended at once: {e}"),
        Err(_) => return tracing::debug!("a connection ended: nothing came in time"),
    };
    // Not all systems know it; the write timeout is there on all.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, STALLED_MS);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(Duration::from_millis(STALLED_MS.into())));
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout((!of_node).then_some(HEAD_TIMEOUT))
        .max_buf_size(CLIENT_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .max_frame_size(256 << 10);
    let builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ClientAddress(from));
        router.call(request)
    });
    let served = builder.serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!("a connection ended: {e}");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: roster\r\n\r\n";

    /// What stands at the begin of the answer to one request; nothing where the connection ends.
    async fn ask(client: &mut TcpStream) -> String {
        client.write_all(ASK).await.expect("it is sent");
        let mut begin = [0; 12];
        let length = client.read(&mut begin).await.expect("an answer");
        String::from_utf8_lossy(&begin[..length]).into_owned()
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so_until_another_one_ends() {
        let any_port = ([127, 0, 0, 1], 0).into();
        let listener = bind("--listen", any_port, &Handle::current()).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let router = Router::new().route("/", get(async || "ok"));
        let refusal = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec();
        let limit = Limit {
            connections: 1,
            open: TaskTracker::new(),
            refusal: Arc::new(move || refusal.clone()),
        };
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        tokio::spawn(serve(listener, router, Callers::Clients(limit), stop));

        let connect = async || TcpStream::connect(address).await.expect("it is open");
        let mut first = connect().await;
        assert_eq!(ask(&mut first).await, "HTTP/1.1 200");
        assert_eq!(ask(&mut connect().await).await, "HTTP/1.1 503");
        drop(first);
        let ended_is_seen = async { while ask(&mut connect().await).await != "HTTP/1.1 200" {} };
        timeout(Duration::from_secs(60), ended_is_seen).await.expect("it is seen that one ended");
    }
}
