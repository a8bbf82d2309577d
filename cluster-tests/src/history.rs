//! What was acknowledged, and whether the cluster kept it. The checks carry the names of the
//! invariants: S4 no premature removal, S6 exactly once, S7 durable, S9 same state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::client::{Listed, NodeStatus, Registered};
use crate::cluster::Cluster;

/// One incarnation of an instance, as the body of a batch of heartbeats names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Life {
    pub app: String,
    pub id: String,
    pub incarnation: u64,
}

/// A line of a node's log that tells of a departure.
#[derive(Clone, Debug)]
pub struct Departure {
    pub node: u64,
    /// Which life of the node's process told it; a replay after a restart tells it again.
    pub process: usize,
    pub at: SystemTime,
    pub revision: u64,
    pub life: Life,
    pub reason: String,
}

/// Kept by all clients of a test together.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    lives: BTreeMap<Life, Known>,
    /// When a write was acknowledged.
    writes: Vec<Instant>,
    /// State hashes by index, with who said so first.
    hashes: BTreeMap<u64, (String, String)>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    ttl: Duration,
    /// When the last acknowledged registration or heartbeat was sent.
    sent: Sent,
    /// The client asked for its removal.
    given_up: bool,
}

/// A moment by both clocks: spans are measured by the first, log lines are held against the second.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub at: Instant,
    wall: SystemTime,
}

impl Sent {
    pub fn now() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }
}

impl History {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test task panicked meanwhile")
    }

    /// A registration that was sent at `sent` was acknowledged now.
    pub fn registered(&self, registered: &Registered, sent: Sent) -> Life {
        let life = Life {
            app: registered.app.clone(),
            id: registered.id.clone(),
            incarnation: registered.incarnation,
        };
        let ttl = humantime::parse_duration(&registered.ttl).expect("a TTL");
        let mut inner = self.lock();
        inner.writes.push(Instant::now());
        inner.lives.insert(life.clone(), Known { ttl, sent, given_up: false });
        life
    }

    /// A heartbeat that was sent at `sent` was acknowledged.
    pub fn beaten(&self, life: &Life, sent: Sent) {
        if let Some(known) = self.lock().lives.get_mut(life) {
            known.sent = sent;
        }
    }

    /// A removal is asked for now.
    pub fn gives_up(&self, life: &Life) {
        if let Some(known) = self.lock().lives.get_mut(life) {
            known.given_up = true;
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.lock().lives.len()
    }

    /// The longest time between `from` and `to` in which no write was acknowledged.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let inner = self.lock();
        let mut moments: Vec<_> =
            inner.writes.iter().copied().filter(|at| *at > from && *at < to).collect();
        moments.extend([from, to]);
        moments.sort();
        moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// S9: holds what a node says of its state against what any node said of the same index.
    pub fn saw_state(&self, status: &NodeStatus) {
        let now = (status.applied, status.state_hash.clone());
        let mut inner = self.lock();
        for (index, hash) in status.state_hashes.iter().cloned().chain([now]) {
            let told = (hash, status.id.clone());
            let first = inner.hashes.entry(index).or_insert_with(|| told.clone());
            assert_eq!(
                first.0, told.0,
                "S9: at index {index} node {} had another state than node {}",
                told.1, first.1
            );
        }
    }

    /// S4, S6, S7 and S9 over all that happened. Call it when the cluster is whole again.
    pub async fn check(&self, cluster: &Cluster) {
        let departures = departures(cluster);
        check_once(&departures);
        self.check_not_early(&departures);
        for status in cluster.settled().await {
            self.saw_state(&status);
        }
        let client = cluster.client();
        for id in cluster.ids().into_iter().filter(|id| cluster.runs(*id)) {
            let (_, listed) = client.at(id).list_all().await.expect("a list");
            self.check_kept(id, &listed, &departures);
        }
    }

    /// S4: nobody departed within a TTL of a heartbeat that was acknowledged.
    fn check_not_early(&self, departures: &[Departure]) {
        let inner = self.lock();
        for departure in departures.iter().filter(|d| d.reason == "expired") {
            let Some(known) = inner.lives.get(&departure.life) else { continue };
            let lived = departure.at.duration_since(known.sent.wall).unwrap_or_default();
            assert!(
                lived >= known.ttl,
                "S4: {:?} expired {lived:?} after an acknowledged heartbeat was sent; its TTL is {:?}",
                departure.life,
                known.ttl
            );
        }
    }

    /// S7: what was acknowledged is there, unless it departed as it should.
    fn check_kept(&self, node: u64, listed: &[Listed], departures: &[Departure]) {
        let there: BTreeSet<_> = listed
            .iter()
            .map(|i| Life { app: i.app.clone(), id: i.id.clone(), incarnation: i.incarnation })
            .collect();
        let gone: BTreeSet<_> = departures.iter().map(|departure| &departure.life).collect();
        let inner = self.lock();
        for (life, known) in &inner.lives {
            let kept = there.contains(life) || known.given_up || gone.contains(life);
            assert!(kept, "S7: node {node} has lost {life:?}, which was acknowledged");
        }
    }

    /// Of the acknowledged instances, those that are not on the list.
    pub fn missing(&self, listed: &[Listed]) -> Vec<Life> {
        let there: BTreeSet<_> =
            listed.iter().map(|i| (i.app.as_str(), i.id.as_str(), i.incarnation)).collect();
        let inner = self.lock();
        let is_there = |l: &&Life| there.contains(&(l.app.as_str(), l.id.as_str(), l.incarnation));
        inner.lives.keys().filter(|life| !is_there(life)).cloned().collect()
    }
}

/// S6: one removal per incarnation in each process, at one revision on all nodes.
fn check_once(departures: &[Departure]) {
    let mut told = BTreeSet::new();
    let mut revisions = BTreeMap::new();
    for departure in departures {
        let first = told.insert((departure.node, departure.process, &departure.life));
        assert!(first, "S6: node {} removed {:?} twice", departure.node, departure.life);
        let revision = *revisions.entry(&departure.life).or_insert(departure.revision);
        assert_eq!(
            revision, departure.revision,
            "S6: {:?} was removed at different revisions",
            departure.life
        );
    }
}

/// What the nodes' logs tell of departures.
pub fn departures(cluster: &Cluster) -> Vec<Departure> {
    let mut found = Vec::new();
    for node in cluster.ids() {
        for (process, log) in cluster.logs(node).into_iter().enumerate() {
            found.extend(log.lines().filter_map(|line| departure(node, process, line)));
        }
    }
    found
}

fn departure(node: u64, process: usize, line: &str) -> Option<Departure> {
    #[derive(Deserialize)]
    struct Line {
        timestamp: String,
        message: String,
        revision: u64,
        instance: String,
        incarnation: String,
        reason: String,
    }
    let line: Line = serde_json::from_str(line).ok()?;
    if !line.message.starts_with("departed") {
        return None;
    }
    let (app, id) = line.instance.split_once('/').expect("an app and an id");
    Some(Departure {
        node,
        process,
        at: humantime::parse_rfc3339(&line.timestamp).expect("a time"),
        revision: line.revision,
        life: Life {
            app: app.into(),
            id: id.into(),
            incarnation: line.incarnation.parse().expect("an incarnation"),
        },
        reason: line.reason,
    })
}
