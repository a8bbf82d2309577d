//! A node that plays a script: each request gets the next act.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use roster::client::{Client, Options};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// No test should take as long; a test that does fails with what it waited for.
pub const LIMIT: Duration = Duration::from_secs(20);

/// What happens to one request.
pub enum Act {
    /// An answer with a body of JSON.
    Answer(u16, serde_json::Value),
    /// An answer as it stands here.
    Raw(Response),
    /// A watch that sends this text, then ends so.
    Stream(String, Then),
    /// The answer breaks in the middle.
    Broken,
    /// No answer comes, and the connection stays.
    Silence,
    /// The act, once this is notified.
    After(Arc<Notify>, Box<Act>),
    /// What this makes, for this request and all further ones.
    Always(Box<dyn Fn() -> Act + Send>),
}

pub enum Then {
    /// The connection breaks.
    Break,
    /// The stream ends in good order.
    Close,
    /// Nothing more is sent.
    Stay,
}

/// A watch with these lines.
pub fn stream(lines: &[&str], then: Then) -> Act {
    Act::Stream(lines.iter().map(|line| format!("{line}\n")).collect(), then)
}

/// A problem document.
pub fn problem(status: u16, code: &str, outcome: &str) -> Act {
    let retryable = [429, 503, 504].contains(&status);
    Act::Answer(
        status,
        json!({"code": code, "detail": format!("said {code}"), "outcome": outcome, "retryable": retryable}),
    )
}

/// A request that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Method, path and query.
    pub line: String,
    /// The client's side of the connection.
    pub from: SocketAddr,
    pub headers: http::HeaderMap,
    pub body: String,
}

struct Stage {
    script: Mutex<VecDeque<Act>>,
    /// Requests whose line has this text in it have a script of their own. Where that is over they
    /// wait for more of it.
    topics: Mutex<Vec<(&'static str, VecDeque<Act>)>>,
    asked: Mutex<Vec<Asked>>,
    heard: Notify,
    more: Notify,
}

impl Stage {
    /// The next act of the first topic that the line has in it.
    async fn of_topic(&self, line: &str) -> Option<Act> {
        loop {
            let more = self.more.notified();
            {
                let mut topics = self.topics.lock();
                let (_, acts) = topics.iter_mut().find(|(topic, _)| line.contains(topic))?;
                match acts.front() {
                    Some(Act::Always(make)) => return Some(make()),
                    Some(_) => return acts.pop_front(),
                    None => {}
                }
            }
            more.await;
        }
    }
}

/// A node that plays its script, and answers 503 when that is over.
pub struct Scripted {
    pub address: SocketAddr,
    stage: Arc<Stage>,
}

impl Scripted {
    pub async fn start(script: impl IntoIterator<Item = Act>) -> Self {
        Self::with_topics(script, []).await
    }

    /// A node that answers requests by what they are about. Those whose line has a topic in it get
    /// the next act of the first such topic, and wait for one where there is none.
    pub async fn on(topics: impl IntoIterator<Item = (&'static str, Vec<Act>)>) -> Self {
        Self::with_topics([], topics).await
    }

    async fn with_topics(
        script: impl IntoIterator<Item = Act>,
        topics: impl IntoIterator<Item = (&'static str, Vec<Act>)>,
    ) -> Self {
        let topics = topics.into_iter().map(|(topic, acts)| (topic, acts.into()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let stage = Arc::new(Stage {
            script: Mutex::new(script.into_iter().collect()),
            topics: Mutex::new(topics.collect()),
            asked: Mutex::new(Vec::new()),
            heard: Notify::new(),
            more: Notify::new(),
        });
        let routes = Router::new()
            .fallback(play)
            .with_state(stage.clone())
            .into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, stage }
    }

    /// Adds an act to the end of a topic's script.
    pub fn then(&self, topic: &'static str, act: Act) {
        let mut topics = self.stage.topics.lock();
        let known = topics.iter_mut().find(|(known, _)| *known == topic);
        known.expect("a topic of this node").1.push_back(act);
        self.stage.more.notify_waiters();
    }

    /// What was asked so far of what has this text in its line.
    pub fn asked_with(&self, text: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.line.contains(text)).collect()
    }

    /// Waits until so many requests have arrived that have this text in their line.
    pub async fn asked_with_times(&self, text: &str, count: usize) {
        let enough = async {
            loop {
                let heard = self.stage.heard.notified();
                if self.asked_with(text).len() >= count {
                    return;
                }
                heard.await;
            }
        };
        within(&format!("{count} requests with {text:?}, of {:?}", self.lines()), enough).await;
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.stage.asked.lock().clone()
    }

    /// Method, path and query of what was asked so far.
    pub fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }

    /// Waits until so many requests have arrived.
    pub async fn asked_times(&self, count: usize) {
        let enough = async {
            loop {
                let heard = self.stage.heard.notified();
                if self.stage.asked.lock().len() >= count {
                    return;
                }
                heard.await;
            }
        };
        within(&format!("{count} requests"), enough).await;
    }
}

async fn play(
    State(stage): State<Arc<Stage>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
) -> Result<Response, Infallible> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    let asked = Asked {
        line: format!("{} {}", parts.method, parts.uri),
        from,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).expect("text"),
    };
    let line = asked.line.clone();
    stage.asked.lock().push(asked);
    stage.heard.notify_waiters();
    let act = match stage.of_topic(&line).await {
        Some(act) => Some(act),
        None => stage.script.lock().pop_front(),
    };
    let mut act = act.unwrap_or_else(|| problem(503, "not-ready", "none"));
    while let Act::After(gate, then) = act {
        gate.notified().await;
        act = *then;
    }
    Ok(match act {
        Act::Answer(status, body) => answer(status, "application/json", body.to_string().into()),
        Act::Raw(response) => response,
        Act::Stream(text, then) => answer(200, "application/x-ndjson", streamed(text, then)),
        Act::Broken => answer(200, "application/json", broken(String::new())),
        Act::Silence => std::future::pending().await,
        Act::After(..) => unreachable!("waited for above"),
        Act::Always(..) => unreachable!("made by its topic"),
    })
}

fn answer(status: u16, kind: &str, body: Body) -> Response {
    Response::builder().status(status).header("content-type", kind).body(body).expect("a response")
}

fn streamed(text: String, then: Then) -> Body {
    match then {
        Then::Close => Body::from(text),
        Then::Break => broken(text),
        Then::Stay => {
            let text = stream::iter([Ok::<_, io::Error>(Bytes::from(text))]);
            Body::from_stream(text.chain(stream::pending()))
        }
    }
}

/// The text, and then the connection breaks: not before the text has left.
fn broken(text: String) -> Body {
    let end = stream::once(async {
        tokio::task::yield_now().await;
        Err(io::Error::other("the test breaks the connection"))
    });
    let text = stream::iter((!text.is_empty()).then(|| Ok(Bytes::from(text))));
    Body::from_stream(text.chain(end))
}

/// A list of these nodes, in this order.
pub fn endpoints(nodes: &[&Scripted]) -> String {
    nodes.iter().map(|node| node.address.to_string()).collect::<Vec<_>>().join(",")
}

/// A client of these nodes.
pub fn client(nodes: &[&Scripted]) -> Client {
    Client::with(&endpoints(nodes), quick()).expect("a client")
}

/// Short pauses, and so much patience with one node that a slow machine plays no part.
pub fn quick() -> Options {
    Options {
        heartbeat_timeout_min: LIMIT,
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(5),
        ..Options::default()
    }
}

/// An address where nobody listens any more.
pub async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("its address")
}

/// A node that hangs, as a stopped process does: it accepts connections and answers nothing.
pub struct Hung {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Hung {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let accepting = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                held.push(connection);
            }
        });
        Self { address, accepting }
    }

    /// It first, then the others.
    pub fn before(&self, nodes: &[&Scripted]) -> String {
        format!("{},{}", self.address, endpoints(nodes))
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let late = |_| panic!("waited {LIMIT:?} in vain for {what}");
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(late)
}
