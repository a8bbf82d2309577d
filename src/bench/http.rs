//! A small HTTP client: one keep-alive connection, no pool, so that a benchmark measures the servers
//! and not itself.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One connection to one node.
pub struct Connection {
    host: String,
    sender: SendRequest<Full<Bytes>>,
}

pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; the error shows the status and the body.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.body).map_err(|e| format!("{e} in {self}"))
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

impl Connection {
    /// `address` is HOST:PORT.
    pub async fn open(address: &str) -> Result<Self, String> {
        let told = |e: &dyn std::fmt::Display| format!("http://{address}: {e}");
        let stream = TcpStream::connect(address).await.map_err(|e| told(&e))?;
        stream.set_nodelay(true).map_err(|e| told(&e))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| told(&e))?;
        // It ends with the sender; errors show in the requests.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { host: address.into(), sender })
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, String> {
        self.send(Method::GET, path, "", Bytes::new()).await
    }

    /// Sends a request; `content_type` is left out where it is empty.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Answer, String> {
        let told = |e: &dyn std::fmt::Display| format!("http://{}{path}: {e}", self.host);
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Full::new(body)).map_err(|e| told(&e))?;
        self.sender.ready().await.map_err(|e| told(&e))?;
        let response = self.sender.send_request(request).await.map_err(|e| told(&e))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| told(&e))?.to_bytes();
        Ok(Answer { status, body })
    }
}
