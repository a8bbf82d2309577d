//! What one node's watch tells of removals, through all lives of the node's process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster_tests::client::Client;
use cluster_tests::history::Life;
use cluster_tests::watch::{End, Form, Interest, Stream};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Before a node that is dead, or not there yet, is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// How one life ended, as a node told it.
#[derive(Clone, Debug)]
pub struct Removal {
    pub revision: u64,
    pub reason: String,
    pub seen: Instant,
}

/// All that was told so far.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub removals: BTreeMap<Life, Removal>,
    /// The same lives in the order in which they went.
    pub order: Vec<Life>,
    /// Lives whose removal was told again.
    pub twice: Vec<String>,
    /// How often somebody became suspect.
    pub suspicions: usize,
    /// Brakes that went on and off.
    pub brakes: (usize, usize),
    /// How often the watch was begun, after the first time where it had ended.
    pub streams: usize,
}

/// Follows the instances at one node until it is dropped.
pub struct Follower {
    pub node: u64,
    told: Arc<Mutex<Told>>,
    task: JoinHandle<()>,
}

impl Follower {
    /// All after this revision.
    pub fn start(client: &Client, node: u64, after: u64) -> Self {
        let told: Arc<Mutex<Told>> = Arc::default();
        let follows = follow(client.clone(), node, after, told.clone());
        Self { node, told, task: tokio::spawn(follows) }
    }

    pub fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        assert!(!self.task.is_finished(), "the watch at node {} broke a promise", self.node);
        look(&self.told.lock().expect("a lock"))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(client: Client, node: u64, mut upto: u64, told: Arc<Mutex<Told>>) {
    let interest =
        Interest { kinds: ["instance", "alarm"].map(str::to_owned).into(), ..Interest::all() };
    loop {
        let query = format!("from={upto}{}", interest.query());
        let Ok(mut stream) = Stream::open(&client.at(node), &query, Form::Lines).await else {
            sleep(PAUSE).await;
            continue;
        };
        told.lock().expect("a lock").streams += 1;
        // What was told of a revision without its end is told again.
        let mut half = Vec::new();
        loop {
            let text = match stream.text().await {
                Ok(text) => text,
                Err(End::Broke(_)) => break,
                Err(End::Closed) => panic!("S10: node {node} ended a watch without a word"),
            };
            let (line, seen) = (Line::read(&text), Instant::now());
            match line.event {
                "put" | "delete" => {
                    assert!(
                        line.revision > upto,
                        "S10: all up to {upto} was told, and then {text}"
                    );
                    let (revision, more) = (line.revision, line.more);
                    half.extend(Change::of(&line));
                    if !more {
                        let mut told = told.lock().expect("a lock");
                        half.drain(..).for_each(|change| told.take(change, revision, seen));
                        upto = revision;
                    }
                }
                "bookmark" => upto = upto.max(line.revision),
                "bye" | "lagging" => {
                    upto = upto.max(line.revision);
                    break;
                }
                _ => panic!("S10: node {node} was asked for all after {upto} and told {text}"),
            }
        }
    }
}

/// What is looked at of a line. There are hundreds of thousands, so no more of each is read.
#[derive(Deserialize)]
struct Line<'a> {
    event: &'a str,
    kind: Option<&'a str>,
    revision: u64,
    #[serde(default)]
    more: bool,
    app: Option<String>,
    id: Option<String>,
    incarnation: Option<u64>,
    reason: Option<String>,
    value: Option<State>,
}

#[derive(Deserialize)]
struct State {
    state: Option<String>,
}

impl<'a> Line<'a> {
    fn read(text: &'a str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

/// What counts of a change.
enum Change {
    Suspected,
    BrakeOn,
    BrakeOff,
    Removed(Life, String),
}

impl Change {
    fn of(line: &Line<'_>) -> Option<Self> {
        match (line.kind, line.event) {
            (Some("alarm"), "put") => Some(Self::BrakeOn),
            (Some("alarm"), _) => Some(Self::BrakeOff),
            (_, "delete") => {
                let word = |word: &Option<String>| word.clone().unwrap_or_default();
                let life = Life {
                    app: word(&line.app),
                    id: word(&line.id),
                    incarnation: line.incarnation.unwrap_or_default(),
                };
                Some(Self::Removed(life, word(&line.reason)))
            }
            (_, _) => {
                let state = line.value.as_ref().and_then(|value| value.state.as_deref());
                (state == Some("suspect")).then_some(Self::Suspected)
            }
        }
    }
}

impl Told {
    fn take(&mut self, change: Change, revision: u64, seen: Instant) {
        match change {
            Change::Suspected => self.suspicions += 1,
            Change::BrakeOn => self.brakes.0 += 1,
            Change::BrakeOff => self.brakes.1 += 1,
            Change::Removed(life, reason) => self.removed(life, Removal { revision, reason, seen }),
        }
    }

    fn removed(&mut self, life: Life, removal: Removal) {
        if let Some(first) = self.removals.get(&life) {
            return self.twice.push(format!("{life:?}: {first:?}, and then {removal:?}"));
        }
        self.order.push(life.clone());
        self.removals.insert(life, removal);
    }
}
