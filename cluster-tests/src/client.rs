//! A small client: one HTTP call per method, and for each failure whether anything may have been
//! done.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::{Value, json};

/// How long a call may take unless a test says otherwise: longer than a node's own limit.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A success.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub revision: u64,
    pub consistency: Option<String>,
    /// Of a single object: its own last change, as `If-Match` takes it.
    pub etag: Option<String>,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub fn parse<T: for<'a> Deserialize<'a>>(&self) -> T {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

/// No success.
#[derive(Clone, Debug)]
pub enum Failed {
    /// Nothing was done and nothing will be.
    Nothing(Problem),
    /// It may still take effect, once.
    Unknown(Problem),
}

#[derive(Clone, Debug)]
pub struct Problem {
    /// `None`: there was no answer.
    pub status: Option<u16>,
    pub code: String,
    pub detail: String,
    pub body: Value,
    /// When the node said to come back.
    pub retry_after: Option<Duration>,
}

impl Failed {
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Nothing(problem) | Self::Unknown(problem) => problem,
        }
    }

    pub fn code(&self) -> &str {
        &self.problem().code
    }

    pub fn status(&self) -> Option<u16> {
        self.problem().status
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// The call, or the rest of its answer, came to nothing.
    pub fn without_answer(e: &reqwest::Error) -> Self {
        let problem = Problem {
            status: None,
            code: if e.is_timeout() { "no-answer" } else { "broken" }.into(),
            detail: format!("{e:?}"),
            body: Value::Null,
            retry_after: None,
        };
        if e.is_connect() { Self::Nothing(problem) } else { Self::Unknown(problem) }
    }

    fn answered(status: u16, headers: &HeaderMap, text: &str) -> Self {
        let body: Value = serde_json::from_str(text).unwrap_or(Value::Null);
        let word = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let nothing = body["outcome"] == "none" || (400..500).contains(&status);
        let detail = if body.is_null() { text.to_owned() } else { word("detail") };
        let retry_after = header(headers, "retry-after").and_then(|seconds| seconds.parse().ok());
        let problem = Problem {
            status: Some(status),
            code: word("code"),
            detail,
            body,
            retry_after: retry_after.map(Duration::from_secs),
        };
        if nothing { Self::Nothing(problem) } else { Self::Unknown(problem) }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { status, code, detail, .. } = self.problem();
        write!(f, "{status:?} {code}: {detail}")
    }
}

pub type Said = Result<Answer, Failed>;

/// What a registration is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Registered {
    pub app: String,
    pub id: String,
    pub incarnation: u64,
    pub session: String,
    pub ttl: String,
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listed {
    pub app: String,
    pub id: String,
    pub incarnation: u64,
    pub revision: u64,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Shard {
    pub shard: String,
    pub app: String,
    pub instance: String,
    pub revision: u64,
}

/// `/v1/node`
#[derive(Clone, Debug, Deserialize)]
pub struct NodeStatus {
    pub id: String,
    pub cluster_id: Option<String>,
    pub role: String,
    pub leader: Option<String>,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub state_hash: String,
    pub state_hashes: Vec<(u64, String)>,
    /// Resident memory.
    pub memory_bytes: u64,
}

/// The nodes of a cluster, as clients know them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoints: Arc<BTreeMap<u64, SocketAddr>>,
    timeout: Duration,
}

impl Client {
    pub fn new(endpoints: BTreeMap<u64, SocketAddr>) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        Self { http, endpoints: Arc::new(endpoints), timeout: TIMEOUT }
    }

    /// The same, giving up after `timeout`.
    #[must_use]
    pub fn patient(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    pub fn ids(&self) -> Vec<u64> {
        self.endpoints.keys().copied().collect()
    }

    pub fn at(&self, node: u64) -> At<'_> {
        let address = self.endpoints[&node];
        At { client: self, base: format!("http://{address}") }
    }
}

/// One node.
pub struct At<'a> {
    client: &'a Client,
    base: String,
}

impl At<'_> {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.client.http.request(method, url).timeout(self.client.timeout)
    }

    pub async fn send(&self, request: RequestBuilder) -> Said {
        let response = request.send().await.map_err(|e| Failed::without_answer(&e))?;
        Self::answer(response).await
    }

    /// A success whose body is still to be read.
    pub async fn begin(&self, request: RequestBuilder) -> Result<Response, Failed> {
        let response = request.send().await.map_err(|e| Failed::without_answer(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.map_err(|e| Failed::without_answer(&e))?;
        Err(Failed::answered(status, &headers, &text))
    }

    async fn answer(response: Response) -> Said {
        let status = response.status();
        let headers = response.headers().clone();
        let text = response.text().await.map_err(|e| Failed::without_answer(&e))?;
        if !status.is_success() {
            return Err(Failed::answered(status.as_u16(), &headers, &text));
        }
        Ok(Answer {
            status: status.as_u16(),
            revision: header(&headers, "roster-revision").and_then(|r| r.parse().ok()).unwrap_or(0),
            consistency: header(&headers, "roster-consistency"),
            etag: header(&headers, "etag"),
            text,
        })
    }

    pub async fn get(&self, path: &str) -> Said {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Said {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// A PUT that holds only if the thing's last change is still the one that `tag` names.
    pub async fn put_if(&self, path: &str, tag: &str, body: &Value) -> Said {
        self.send(self.request(Method::PUT, path).header("if-match", tag).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Said {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// A POST that is carried out at most once per key.
    pub async fn post_once(&self, path: &str, key: &str, body: &Value) -> Said {
        let request = self.request(Method::POST, path).header("idempotency-key", key);
        self.send(request.json(body)).await
    }

    pub async fn register(&self, app: &str, id: &str, ttl: &str) -> Result<Registered, Failed> {
        let body = json!({"ip": "192.0.2.1", "port": 8719, "ttl": ttl});
        Ok(self.put(&instance(app, id), &body).await?.parse())
    }

    pub async fn beat(&self, app: &str, id: &str, incarnation: u64) -> Said {
        let path = format!("{}/heartbeat?incarnation={incarnation}", instance(app, id));
        self.send(self.request(Method::PUT, &path)).await
    }

    /// All instances of an app, linearizable.
    pub async fn list(&self, app: &str) -> Result<(u64, Vec<Listed>), Failed> {
        #[derive(Deserialize)]
        struct List {
            instances: Vec<Listed>,
            next_cursor: Option<String>,
        }
        let answer = self.get(&format!("/v1/apps/{app}/instances?limit=10000")).await?;
        let list: List = answer.parse();
        assert_eq!(list.next_cursor, None, "one page should do");
        Ok((answer.revision, list.instances))
    }

    /// All instances of all apps, linearizable.
    pub async fn list_all(&self) -> Result<(u64, Vec<Listed>), Failed> {
        #[derive(Deserialize)]
        struct List {
            instances: Vec<Listed>,
            next_cursor: Option<String>,
        }
        let answer = self.get("/v1/instances?limit=10000").await?;
        let list: List = answer.parse();
        assert_eq!(list.next_cursor, None, "one page should do");
        Ok((answer.revision, list.instances))
    }

    pub async fn shards(&self, app: &str) -> Result<(u64, Vec<Shard>), Failed> {
        #[derive(Deserialize)]
        struct List {
            shards: Vec<Shard>,
        }
        let answer = self.get(&format!("/v1/shards?app={app}&limit=10000")).await?;
        let list: List = answer.parse();
        Ok((answer.revision, list.shards))
    }

    pub async fn node(&self) -> Result<NodeStatus, Failed> {
        Ok(self.get("/v1/node").await?.parse())
    }

    pub async fn ready(&self) -> Result<(), Failed> {
        self.get("/readyz").await.map(drop)
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

pub fn instance(app: &str, id: &str) -> String {
    format!("/v1/apps/{app}/instances/{id}")
}
