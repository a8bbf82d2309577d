//! Watches and long polls: every change, in order, once, from any revision, on any node.

mod compaction;
mod crowds;
mod damaged_history;
mod falling_behind;
mod long_polls;
mod resuming;
mod slow_readers;
mod waiting;

use std::ops::RangeInclusive;
use std::time::Duration;

use cluster_tests::client::{Client, instance};
use cluster_tests::watch::{Chronicle, Form, Interest, Line, Listener, Stream};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a line may take on a busy machine.
const COMES_WITHIN: Duration = Duration::from_secs(20);

/// The next line, which must come.
async fn next(stream: &mut Stream) -> Line {
    match stream.next_within(COMES_WITHIN).await {
        Some(Ok(line)) => line,
        Some(Err(end)) => panic!("the stream ended: {end:?}"),
        None => panic!("no line came within {COMES_WITHIN:?}"),
    }
}

/// Listens until everything up to `revision` was told, or the node says that the stream ends.
/// Returns whether all was told.
async fn listen_up_to(stream: &mut Stream, listener: &mut Listener, revision: u64) -> bool {
    let listening = async {
        while listener.upto().is_none_or(|upto| upto < revision) {
            if listener.is_over() {
                return false;
            }
            match stream.next().await {
                Ok(line) => listener.take(line),
                Err(end) => {
                    listener.ended(&end);
                    return false;
                }
            }
        }
        true
    };
    match timeout(COMES_WITHIN, listening).await {
        Ok(complete) => complete,
        Err(_) => panic!("after {COMES_WITHIN:?} all up to {:?} was told", listener.upto()),
    }
}

/// A reader of everything that reads all the time, and notes what it is told: the first snapshot
/// is there when this returns.
pub async fn reference(client: &Client, node: u64, chronicle: &Chronicle) -> Reference {
    let (stream, listener) = watch_from_snapshot(client, node).await;
    let upto = watch::Sender::new(u64::MAX);
    let task = tokio::spawn(read_all(stream, listener, chronicle.clone(), upto.subscribe()));
    Reference { upto, task }
}

/// A task that reads.
pub struct Reference {
    upto: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Reference {
    /// Lets it read up to this revision.
    pub async fn ends_at(self, revision: u64) {
        self.upto.send_replace(revision);
        self.task.await.expect("the reference did not panic");
    }
}

async fn read_all(
    mut stream: Stream,
    mut listener: Listener,
    chronicle: Chronicle,
    mut upto: watch::Receiver<u64>,
) {
    loop {
        tokio::select! {
            line = stream.next() => listener.take(line.expect("the stream goes on")),
            changed = upto.changed() => {
                changed.expect("its test goes on");
                let upto = *upto.borrow();
                assert!(listen_up_to(&mut stream, &mut listener, upto).await, "it ended");
                return chronicle.told(listener);
            }
        }
    }
}

/// A watch of everything after a revision, at one node.
async fn watch_after(client: &Client, node: u64, after: u64) -> (Stream, Listener) {
    let at = client.at(node);
    let stream = Stream::open(&at, &format!("from={after}"), Form::Lines).await;
    let stream = stream.unwrap_or_else(|e| panic!("node {node} from {after}: {e}"));
    (stream, Listener::new(format!("node {node}"), Interest::all(), Some(after)))
}

/// A watch of everything, with its snapshot told.
async fn watch_from_snapshot(client: &Client, node: u64) -> (Stream, Listener) {
    let mut stream = Stream::open(&client.at(node), "", Form::Lines).await.expect("a stream");
    let mut listener = Listener::new(format!("node {node}"), Interest::all(), None);
    while listener.upto().is_none() {
        listener.take(next(&mut stream).await);
    }
    (stream, listener)
}

/// Asks a node for all after each of these revisions: it must tell all up to the last one, or
/// refuse. Returns how many it refused.
async fn ask_every_revision(
    client: &Client,
    node: u64,
    revisions: RangeInclusive<u64>,
    chronicle: &Chronicle,
) -> usize {
    let last = *revisions.end();
    let mut refused = 0;
    for from in revisions {
        match Stream::open(&client.at(node), &format!("from={from}"), Form::Lines).await {
            Ok(mut stream) => {
                let who = format!("node {node} from {from}");
                let mut listener = Listener::new(who, Interest::all(), Some(from));
                if !listen_up_to(&mut stream, &mut listener, last).await {
                    assert!(listener.is_compacted(), "it ended for another reason");
                    refused += 1;
                }
                chronicle.told(listener);
            }
            Err(failed) => {
                assert_eq!((failed.status(), failed.code()), (Some(410), "compacted"), "{failed}");
                refused += 1;
            }
        }
    }
    refused
}

/// An entry of the log with `count` registrations or updates, each with this much metadata.
async fn put_many(
    client: &Client,
    node: u64,
    app: &str,
    count: usize,
    bytes: usize,
    round: usize,
) -> u64 {
    let text = format!("{round:08}{}", "x".repeat(bytes));
    let items: Vec<Value> = (0..count)
        .map(|i| {
            json!({"op": "register", "app": app, "id": format!("i{i}"), "ip": "192.0.2.1",
                   "port": 1, "ttl": "10m", "metadata": {"text": text}})
        })
        .collect();
    let (key, body) = (format!("{app}-{round}"), json!({"items": items}));
    let put = client.at(node).post_once("/v1/instances:batch", &key, &body).await.expect("put");
    put.json()["revision"].as_u64().expect("a revision")
}

/// Registers one instance; returns the revision.
async fn register(client: &Client, node: u64, app: &str, id: &str) -> u64 {
    client.at(node).register(app, id, "10m").await.expect("registered").revision
}

async fn deregister(client: &Client, node: u64, app: &str, id: &str) -> u64 {
    client.at(node).delete(&instance(app, id)).await.expect("gone").revision
}

/// Whether the line is the `put` of this instance.
fn is_put_of(line: &Line, id: &str) -> bool {
    matches!(line, Line::Event(e) if e.word("event") == "put" && e.word("kind") == "instance" && e.word("id") == id)
}
