//! What one node tells of the cluster, and what is known from before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;

use crate::client::{Call, Client, Error, Event, EventsRequest, Options, Order};

/// A node that does not answer within this is left for the next one.
const PATIENCE: Duration = Duration::from_secs(2);

/// Apps and shard sets that are looked at.
const APPS_MAX: usize = 10_000;
const SETS_MAX: usize = 500;

/// Events that are read at once, the newest first. Of an app's changes not more are counted for one reading.
const EVENTS_MAX: usize = 200;

/// State hashes that are compared, by the revisions at which they were told.
const HASHES_MAX: usize = 200;

/// Changes of an app are counted over so long.
const CHANGES_WITHIN: Duration = Duration::from_secs(10);

/// What `GET /v1/cluster` says, as far as it is shown.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ClusterSeen {
    pub leader: Option<String>,
    pub term: u64,
    pub nodes: Vec<NodeSeen>,
    #[serde(default)]
    pub alarms: Vec<AlarmSeen>,
    pub brake: Option<Value>,
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    pub heartbeats_per_second: Option<u64>,
    #[serde(default)]
    pub pace: Value,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct NodeSeen {
    pub id: String,
    pub api: String,
    pub role: Option<String>,
    pub applied: Option<u64>,
    pub lag: Option<u64>,
    pub state_hash: Option<String>,
    pub state_hash_at: Option<u64>,
    pub version: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct AlarmSeen {
    pub detail: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct AppSeen {
    pub app: String,
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// Changes of its instances within the last 10 s.
    #[serde(skip)]
    pub changes: usize,
}

impl AppSeen {
    pub fn instances(&self) -> u64 {
        self.counts.values().sum()
    }

    pub fn count(&self, state: &str) -> u64 {
        self.counts.get(state).copied().unwrap_or(0)
    }
}

/// Whether the nodes' states are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    /// No two nodes told theirs of the same revision yet.
    NotCompared,
    Same {
        nodes: usize,
    },
    Differ {
        revision: u64,
    },
}

/// All that is shown.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Who told it, and when.
    pub node: String,
    pub at: SystemTime,
    pub cluster: ClusterSeen,
    pub agreement: Agreement,
    pub apps: Vec<AppSeen>,
    /// As the API gives them.
    pub sets: Vec<Value>,
    /// There are more apps or shard sets than are looked at.
    pub more_apps: bool,
    pub more_sets: bool,
    /// The newest first.
    pub events: Vec<Event>,
    /// Why this is old, or not all.
    pub problem: Option<String>,
}

impl Reading {
    /// Nobody has told anything yet.
    pub fn without(why: &Error) -> Self {
        Self {
            node: String::new(),
            at: SystemTime::now(),
            cluster: ClusterSeen::default(),
            agreement: Agreement::NotCompared,
            apps: Vec::new(),
            sets: Vec::new(),
            more_apps: false,
            more_sets: false,
            events: Vec::new(),
            problem: Some(nothing_newer(why)),
        }
    }

    /// It stays as it is, since there was no answer.
    pub fn grow_old(&mut self, why: &Error) {
        self.problem = Some(nothing_newer(why));
    }
}

fn nothing_newer(why: &Error) -> String {
    format!("nothing newer: {why}")
}

/// What one node answered, each question by itself: a node that does not serve yet tells of the cluster all
/// the same.
pub(super) struct Told {
    node: String,
    cluster: ClusterSeen,
    apps: Result<Apps, Error>,
    sets: Result<Sets, Error>,
    events: Result<Vec<Event>, Error>,
}

impl Told {
    fn problem(&self) -> Option<String> {
        let all = [
            ("apps", self.apps.as_ref().err()),
            ("shard sets", self.sets.as_ref().err()),
            ("events", self.events.as_ref().err()),
        ];
        let first = all.into_iter().find_map(|(what, why)| Some((what, why?)));
        first.map(|(what, why)| format!("no {what}: {why}"))
    }
}

/// The nodes that can be asked, and what they told before.
pub(super) struct Readings {
    nodes: Vec<(String, Client)>,
    at: usize,
    hashes: BTreeMap<u64, BTreeMap<String, String>>,
    /// What was seen of an app's instances, and when.
    changes: VecDeque<(Instant, String)>,
    newest_counted: Option<u64>,
}

impl Readings {
    pub fn of(endpoints: &str) -> Result<Self, Error> {
        // Says what is wrong with the list as a whole.
        Client::new(endpoints)?;
        let options =
            Options { call_timeout: PATIENCE, patience: Duration::ZERO, ..Options::default() };
        let all = endpoints.split(',').map(str::trim).filter(|one| !one.is_empty());
        let nodes = all.map(|one| Ok((one.to_owned(), Client::with(one, options)?)));
        let nodes = nodes.collect::<Result<_, Error>>()?;
        let (hashes, changes) = (BTreeMap::new(), VecDeque::new());
        Ok(Self { nodes, at: 0, hashes, changes, newest_counted: None })
    }

    /// The next one is asked from now on.
    pub fn go_on(&mut self) {
        self.at = (self.at + 1) % self.nodes.len();
    }

    /// Asks the node whose turn it is. Needs nothing of this any more, so that whoever waits may do other things
    /// meanwhile.
    pub fn ask(&self) -> BoxFuture<'static, Result<Told, Error>> {
        let (node, client) = self.nodes[self.at].clone();
        Box::pin(ask(node, client))
    }

    /// What came of asking. Where the node did not answer or does not serve, the next one is asked the next time.
    pub fn take(&mut self, told: Result<Told, Error>) -> Result<Reading, Error> {
        if told.as_ref().map_or(true, |told| told.apps.is_err()) {
            self.go_on();
        }
        Ok(self.reading(told?))
    }

    /// What the first node says that serves; else what any of them says.
    pub async fn read_from_any(&mut self) -> Result<Reading, Error> {
        let mut last = None;
        for _ in 0..self.nodes.len() {
            let told = self.ask().await;
            match (self.take(told), &last) {
                (Ok(reading), _) if reading.problem.is_none() => return Ok(reading),
                (Err(_), Some(Ok(_))) => {}
                (result, _) => last = Some(result),
            }
        }
        last.unwrap_or_else(|| Err(Error::Invalid("no node is named".into())))
    }

    fn reading(&mut self, told: Told) -> Reading {
        let problem = told.problem();
        let Told { node, cluster, apps, sets, events } = told;
        self.keep_hashes(&cluster);
        if let Ok(events) = &events {
            self.count_changes(events);
        }
        let (apps, sets) = (apps.unwrap_or_default(), sets.unwrap_or_default());
        Reading {
            node,
            at: SystemTime::now(),
            cluster,
            agreement: self.agreement(),
            apps: self.with_changes(apps.apps),
            sets: sets.shard_sets,
            more_apps: apps.next_cursor.is_some(),
            more_sets: sets.next_cursor.is_some(),
            events: events.unwrap_or_default(),
            problem,
        }
    }

    fn keep_hashes(&mut self, cluster: &ClusterSeen) {
        for node in &cluster.nodes {
            if let (Some(at), Some(hash)) = (node.state_hash_at, &node.state_hash) {
                self.hashes.entry(at).or_default().insert(node.id.clone(), hash.clone());
            }
        }
        while self.hashes.len() > HASHES_MAX {
            self.hashes.pop_first();
        }
    }

    /// Nodes are seldom asked at the same revision, so what was told before counts too.
    fn agreement(&self) -> Agreement {
        let mut most = 0;
        for (revision, told) in &self.hashes {
            if told.values().collect::<BTreeSet<_>>().len() > 1 {
                return Agreement::Differ { revision: *revision };
            }
            most = most.max(told.len());
        }
        match most {
            0 | 1 => Agreement::NotCompared,
            nodes => Agreement::Same { nodes },
        }
    }

    /// Of what was there at the first reading nobody knows when it happened.
    fn count_changes(&mut self, events: &[Event]) {
        let now = Instant::now();
        self.changes.retain(|(at, _)| now.duration_since(*at) < CHANGES_WITHIN);
        if let Some(newest) = self.newest_counted {
            let new = events.iter().filter(|event| event.revision.0 > newest);
            let of_instances = new.filter(|event| event.kind == "instance");
            self.changes.extend(of_instances.map(|event| (now, event.app.clone())));
        }
        let newest = events.iter().map(|event| event.revision.0).max();
        self.newest_counted = newest.max(self.newest_counted).or(Some(0));
    }

    fn with_changes(&self, apps: Vec<AppSeen>) -> Vec<AppSeen> {
        let mut changes = BTreeMap::<&str, usize>::new();
        for (_, app) in &self.changes {
            *changes.entry(app).or_default() += 1;
        }
        let of = |app: &AppSeen| changes.get(app.app.as_str()).copied().unwrap_or(0);
        apps.into_iter().map(|app| AppSeen { changes: of(&app), ..app }).collect()
    }
}

#[derive(Default, Deserialize)]
struct Apps {
    apps: Vec<AppSeen>,
    next_cursor: Option<String>,
}

#[derive(Default, Deserialize)]
struct Sets {
    shard_sets: Vec<Value>,
    next_cursor: Option<String>,
}

async fn ask(node: String, client: Client) -> Result<Told, Error> {
    let list = |path: &str, limit: usize| {
        let call = Call::get(path.into()).query("limit", limit);
        // Also where there is no leader.
        client.send(call.query("consistency", "stale"))
    };
    let (cluster, apps, sets, events) = futures::join!(
        client.send(Call::get("/v1/cluster".into())),
        list("/v1/apps", APPS_MAX),
        list("/v1/shard-sets", SETS_MAX),
        newest_events(&client),
    );
    let cluster = cluster?.json()?;
    let apps = apps.and_then(|answer| answer.json());
    let sets = sets.and_then(|answer| answer.json());
    Ok(Told { node, cluster, apps, sets, events })
}

/// Shards are left out: each goes with its instance.
async fn newest_events(client: &Client) -> Result<Vec<Event>, Error> {
    let kinds = ["instance", "app", "ring", "latch", "alarm", "document"];
    let mut pages = client.events(EventsRequest {
        kinds: kinds.map(String::from).to_vec(),
        order: Order::Descending,
        limit: Some(EVENTS_MAX),
        ..EventsRequest::default()
    });
    Ok(pages.next_page().await?.map(|page| page.events).unwrap_or_default())
}

/// The health of the cluster in one word, with why.
pub(super) struct Health {
    pub word: &'static str,
    pub why: String,
    /// As terminals number colours.
    pub colour: u8,
}

impl Health {
    const GOOD: u8 = 32;
    const WARNING: u8 = 33;
    const BAD: u8 = 31;

    pub fn of(reading: &Reading) -> Self {
        let health = |word, colour, why| Self { word, why, colour };
        let cluster = &reading.cluster;
        if cluster.nodes.is_empty() {
            return health("Unknown", Self::BAD, "no answer yet".into());
        }
        if cluster.leader.is_none() {
            let why = "no leader is known: nothing can be written";
            return health("Down", Self::BAD, why.into());
        }
        if let Agreement::Differ { revision } = reading.agreement {
            return health("Diverged", Self::BAD, format!("state hashes differ at {revision}"));
        }
        let silent = cluster.nodes.iter().filter(|node| node.role.is_none());
        let silent: Vec<&str> = silent.map(|node| node.id.as_str()).collect();
        if !silent.is_empty() {
            let why = format!("not reached: node {}", silent.join(", "));
            return health("Degraded", Self::WARNING, why);
        }
        if brakes(cluster) > 0 {
            let why = "many instances fell silent together; removals are slowed down";
            return health("Braking", Self::WARNING, why.into());
        }
        match cluster.alarms.first() {
            Some(alarm) => health("Degraded", Self::WARNING, alarm.detail.clone()),
            None => health("Healthy", Self::GOOD, "a leader, all nodes reached, no alarms".into()),
        }
    }
}

/// Brakes that are on.
pub(super) fn brakes(cluster: &ClusterSeen) -> u64 {
    let Some(brake) = &cluster.brake else { return 0 };
    let shown = brake["brakes"].as_array().map_or(0, Vec::len) as u64;
    shown + brake["more"].as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(apps: Result<Apps, Error>, events: Result<Vec<Event>, Error>) -> Told {
        let (node, cluster, sets) = (String::new(), ClusterSeen::default(), Ok(Sets::default()));
        Told { node, cluster, apps, sets, events }
    }

    fn of_app(name: &str) -> Result<Apps, Error> {
        let counts = BTreeMap::new();
        let apps = vec![AppSeen { app: name.into(), counts, changes: 0 }];
        Ok(Apps { apps, next_cursor: None })
    }

    fn change(revision: u64) -> Event {
        let line = format!(
            r#"{{"event":"delete","kind":"instance","revision":{revision},"app":"pay","id":"a"}}"#
        );
        Event::parse(&line).expect("an event")
    }

    fn refused() -> Error {
        Error::Invalid("not now".into())
    }

    #[test]
    fn what_was_not_told_is_said_and_counts_for_nothing() {
        let mut readings = Readings::of("127.0.0.1:1").expect("an endpoint");
        let first = readings.take(Ok(told(of_app("pay"), Err(refused())))).expect("a reading");
        assert_eq!(first.problem.as_deref(), Some("no events: not now"));
        let old = vec![change(7), change(6)];
        let second = readings.take(Ok(told(of_app("pay"), Ok(old)))).expect("a reading");
        assert_eq!(second.apps[0].changes, 0, "nobody knows when these happened");
        let new = vec![change(9), change(8), change(7)];
        let third = readings.take(Ok(told(of_app("pay"), Ok(new)))).expect("a reading");
        assert_eq!((third.apps[0].changes, third.problem), (2, None));
    }

    #[test]
    fn a_node_that_does_not_serve_is_left_for_the_next_one() {
        let mut readings = Readings::of("127.0.0.1:1,127.0.0.1:2").expect("endpoints");
        readings.take(Ok(told(of_app("pay"), Ok(Vec::new())))).expect("a reading");
        assert_eq!(readings.at, 0);
        readings.take(Ok(told(Err(refused()), Ok(Vec::new())))).expect("a reading");
        assert_eq!(readings.at, 1);
        assert!(readings.take(Err(refused())).is_err());
        assert_eq!(readings.at, 0);
    }
}
