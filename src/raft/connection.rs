//! One open connection to a peer, in one of two forms of HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::lookups::Lookups;

pub type Body = BoxBody<Bytes, std::io::Error>;

/// Each side of a connection asks the other so often whether it is still there, and ends the connection if
/// it does not say so in time: a machine that lost its power or its network closes nothing. By HTTP/2
/// itself, for HTTP/1.1 by TCP.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps a connection to another node, whoever opened it. One over which nothing goes stays open: a call
/// waits for no name server then.
pub fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    set_tcp_keepidle(stream, KEEP_ALIVE_EVERY)?;
    set_tcp_keepintvl(stream, KEEP_ALIVE_EVERY)?;
    set_tcp_keepcnt(
        stream,
        KEEP_ALIVE_TIMEOUT.as_secs().div_ceil(KEEP_ALIVE_EVERY.as_secs()) as u32,
    )?;
    set_socket_keepalive(stream, true)?;
    Ok(())
}

/// What a connection carries at a time, and by which HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// By HTTP/2: any number of calls. A peer that stops says which of them it did not take up, so those
    /// can be made again.
    Many,
    /// By HTTP/1.1: one call after the other, which takes about a tenth less of the processor for a
    /// heartbeat in all. If the connection ends under way, nobody knows whether the call was carried
    /// out: for calls that may be made twice.
    One,
}

/// Calls can be sent over it until it ends.
#[derive(Debug)]
pub enum Connection {
    Http2(http2::SendRequest<Body>),
    Http1(http1::SendRequest<Body>),
}

impl Connection {
    /// Opens it and serves it until it ends, which is counted.
    pub async fn open(
        carries: Carries,
        peer: String,
        lookups: Arc<Lookups>,
        ended: watch::Sender<u64>,
    ) -> Result<Self, String> {
        let addresses = lookups.addresses(&peer).await?;
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        keep_alive(&stream).map_err(|e| e.to_string())?;
        match carries {
            Carries::Many => Self::http2(stream, ended).await,
            Carries::One => Self::http1(stream, ended).await,
        }
        .map_err(|e| e.to_string())
    }

    async fn http2(stream: TcpStream, ended: watch::Sender<u64>) -> hyper::Result<Self> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .max_frame_size(256 << 10)
            .handshake(TokioIo::new(stream))
            .await?;
        serve(connection, ended);
        Ok(Self::Http2(sender))
    }

    async fn http1(stream: TcpStream, ended: watch::Sender<u64>) -> hyper::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        serve(connection, ended);
        Ok(Self::Http1(sender))
    }

    /// One that is kept, for a call, if it is still there. One that carries many stays where it is kept.
    pub async fn take(kept: &mut Option<Self>) -> Option<Self> {
        match kept.take()? {
            Self::Http2(sender) if !sender.is_closed() => {
                *kept = Some(Self::Http2(sender.clone()));
                Some(Self::Http2(sender))
            }
            Self::Http2(_) => None,
            Self::Http1(mut sender) => {
                // At once, but for the moment in which it notices that the last answer was read.
                sender.ready().await.ok()?;
                Some(Self::Http1(sender))
            }
        }
    }

    /// Sends one call and returns when its answer begins. `request` names the peer in its target.
    pub async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        match self {
            Self::Http2(sender) => sender.try_send_request(request).await,
            Self::Http1(sender) => sender.try_send_request(request).await,
        }
    }
}

fn serve(
    connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
    ended: watch::Sender<u64>,
) {
    tokio::spawn(async move {
        // How it ended is told by the calls that were under way.
        drop(connection.await);
        ended.send_modify(|count| *count += 1);
    });
}
