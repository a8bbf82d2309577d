//! What one node's watch tells of removals, through all lives of the node's process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster_tests::client::Client;
use cluster_tests::history::Life;
use cluster_tests::watch::{Form, Interest, Line, Listener, Stream};
use serde_json::Value;
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
        let mut listener =
            Listener::new(format!("the watch at node {node}"), interest.clone(), Some(upto));
        // What was told of a revision without its end is told again.
        let mut half = Vec::new();
        while !listener.is_over() {
            let line = match stream.next().await {
                Ok(line) => line,
                Err(end) => {
                    listener.ended(&end);
                    break;
                }
            };
            let seen = Instant::now();
            listener.take(line.clone());
            assert!(
                !listener.is_compacted(),
                "S10: node {node} does not keep what came after {upto}"
            );
            let Line::Event(event) = line else { continue };
            half.push(event.object);
            if !event.more {
                let mut told = told.lock().expect("a lock");
                half.drain(..).for_each(|event| told.take(&event, seen));
            }
        }
        upto = listener.upto().unwrap_or(upto);
    }
}

impl Told {
    fn take(&mut self, event: &Value, seen: Instant) {
        match (event["kind"].as_str(), event["event"].as_str()) {
            (Some("alarm"), Some("put")) => self.brakes.0 += 1,
            (Some("alarm"), Some("delete")) => self.brakes.1 += 1,
            (Some("instance"), Some("put")) => {
                self.suspicions += usize::from(event["value"]["state"] == "suspect");
            }
            (Some("instance"), Some("delete")) => self.removed(event, seen),
            kind => panic!("nobody asked for {kind:?}: {event}"),
        }
    }

    fn removed(&mut self, event: &Value, seen: Instant) {
        let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| event[name].as_u64().unwrap_or_else(|| panic!("{name}: {event}"));
        let life = Life { app: word("app"), id: word("id"), incarnation: number("incarnation") };
        let removal = Removal { revision: number("revision"), reason: word("reason"), seen };
        if let Some(first) = self.removals.get(&life) {
            return self.twice.push(format!("{life:?}: {first:?}, and then {removal:?}"));
        }
        self.order.push(life.clone());
        self.removals.insert(life, removal);
    }
}
