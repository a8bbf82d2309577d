//! A small HTTP client: one keep-alive connection, no pool, so that a benchmark measures the servers
//! and not itself.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
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
        let response = self.begin(method, path, &[("content-type", content_type)], body).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| self.told(path, &e))?;
        Ok(Answer { status, body: body.to_bytes() })
    }

    /// Sends a request whose answer goes on: the connection is for that alone from now on.
    pub async fn follow(
        mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Lines, String> {
        let headers = [("content-type", content_type), ("accept", "application/x-ndjson")];
        let response = self.begin(method, path, &headers, body).await?;
        let status = response.status();
        let lines = Lines { body: response.into_body(), read: Vec::new(), _connection: self };
        if status.is_success() { Ok(lines) } else { Err(format!("{path}: {status}")) }
    }

    async fn begin(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>, String> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|e| self.told(path, &e))?;
        self.sender.ready().await.map_err(|e| self.told(path, &e))?;
        self.sender.send_request(request).await.map_err(|e| self.told(path, &e))
    }

    fn told(&self, path: &str, e: &dyn std::fmt::Display) -> String {
        format!("http://{}{path}: {e}", self.host)
    }
}

/// An answer that goes on, read line by line.
pub struct Lines {
    body: Incoming,
    read: Vec<u8>,
    /// What is followed ends with it.
    _connection: Connection,
}

impl Lines {
    /// The next line without its end; an error when there is none any more.
    pub async fn next(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let frame = self.body.frame().await.ok_or("the answer has ended")?;
            let frame = frame.map_err(|e| e.to_string())?;
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}
