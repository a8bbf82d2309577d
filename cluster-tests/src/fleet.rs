//! Thousands of sessions, each of which beats on its own schedule, whatever becomes of the others: a
//! cluster that is slow or away does not make them fewer. They keep to the client's own rhythm.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use roster::client::Rhythm;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Client, Failed};
use crate::seed::Seed;

/// Calls that may be under way at once, each on a connection of its own: enough that those who hang in an
/// outage keep no others waiting, who would then all come at its end.
const CONNECTIONS: usize = 2_500;

/// How long a node may take to answer a heartbeat; it gives up itself before.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Calls are counted in slots of this.
pub const SLOT: Duration = Duration::from_millis(100);

/// Slots that are counted: five minutes.
const SLOTS: usize = 3_000;

/// The sessions at work.
pub struct Fleet {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    client: Client,
    connections: Semaphore,
    begun: Instant,
    /// Calls sent in each slot.
    calls: Vec<AtomicU64>,
    acknowledged: AtomicU64,
    /// What the last answer told.
    told: Mutex<Option<Told>>,
    /// What was said of sessions that are gone.
    lost: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// What the answer to a heartbeat, or to a new session, tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Words")]
pub struct Told {
    pub ttl: Duration,
    pub heartbeat_every: Duration,
}

#[derive(Deserialize)]
struct Words {
    ttl: String,
    heartbeat_every: String,
}

impl From<Words> for Told {
    fn from(words: Words) -> Self {
        let span = |text: &str| humantime::parse_duration(text).expect("a duration");
        Self { ttl: span(&words.ttl), heartbeat_every: span(&words.heartbeat_every) }
    }
}

impl Fleet {
    /// Opens so many sessions and has each of them beat from then on.
    pub async fn start(client: &Client, count: usize, ttl: &str, seed: &mut Seed) -> Self {
        let shared = Arc::new(Shared {
            client: client.patient(ANSWER_WITHIN),
            connections: Semaphore::new(CONNECTIONS),
            begun: Instant::now(),
            calls: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            acknowledged: AtomicU64::new(0),
            told: Mutex::new(None),
            lost: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let mut opening = JoinSet::new();
        for _ in 0..count {
            let (shared, seed, ttl) = (shared.clone(), seed.split(), ttl.to_owned());
            opening.spawn(async move { Beating::open(shared, seed, &ttl).await });
        }
        let mut tasks = JoinSet::new();
        while let Some(opened) = opening.join_next().await {
            tasks.spawn(opened.expect("no panic").go_on());
        }
        Self { shared, tasks }
    }

    /// Heartbeats acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// What the last answer told.
    pub fn told(&self) -> Option<Told> {
        *self.shared.told.lock().expect("no panic meanwhile")
    }

    /// What was said of sessions that are gone, though they go on beating.
    pub fn lost(&self) -> Vec<String> {
        self.shared.lost.lock().expect("no panic meanwhile").clone()
    }

    /// The slot of now.
    pub fn slot(&self) -> usize {
        self.shared.slot()
    }

    /// Calls sent in each slot of a range.
    pub fn calls(&self, slots: std::ops::Range<usize>) -> Vec<u64> {
        self.shared.calls[slots].iter().map(|calls| calls.load(Ordering::Relaxed)).collect()
    }

    /// Lets each session end what it is doing, and gives all that they saw.
    pub async fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            assert!(!ended.is_err_and(|e| e.is_panic()), "a session's task panicked");
        }
    }
}

impl Shared {
    fn slot(&self) -> usize {
        (self.begun.elapsed().as_millis() / SLOT.as_millis()) as usize
    }

    fn count_call(&self) {
        self.calls[self.slot().min(SLOTS - 1)].fetch_add(1, Ordering::Relaxed);
    }
}

/// One session.
struct Beating {
    shared: Arc<Shared>,
    seed: Seed,
    path: String,
    rhythm: Rhythm,
    ttl: Duration,
    heard: Instant,
}

impl Beating {
    async fn open(shared: Arc<Shared>, mut seed: Seed, ttl: &str) -> Self {
        #[derive(Deserialize)]
        struct Opened {
            session: String,
            #[serde(flatten)]
            told: Told,
        }
        loop {
            let place = shared.connections.acquire().await.expect("never closed");
            let sent = Instant::now();
            let at = shared.client.at(any_node(&shared.client, &mut seed));
            let request = at.request(Method::POST, "/v1/sessions").json(&json!({ "ttl": ttl }));
            if let Ok(answer) = at.send(request).await {
                drop(place);
                let Opened { session, told } = answer.parse();
                return Self {
                    shared,
                    seed,
                    path: format!("/v1/sessions/{session}/heartbeat"),
                    rhythm: Rhythm::new(told.heartbeat_every),
                    ttl: told.ttl,
                    heard: sent,
                };
            }
            drop(place);
            sleep(SLOT).await;
        }
    }

    async fn go_on(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let safe_for = self.ttl.saturating_sub(self.heard.elapsed());
            let chance = self.seed.draw() as f64 / u64::MAX as f64;
            sleep(self.rhythm.pause(safe_for, chance)).await;
            let sent = Instant::now();
            match self.beat().await {
                Ok(told) => {
                    self.rhythm.answered(told.heartbeat_every, sent.elapsed());
                    (self.ttl, self.heard) = (told.ttl, sent);
                }
                Err(failed) if failed.status() == Some(404) => {
                    let lost = format!("{}: {failed}", self.path);
                    return self.shared.lost.lock().expect("no panic meanwhile").push(lost);
                }
                Err(failed) => self.rhythm.failed(failed.problem().retry_after),
            }
        }
    }

    async fn beat(&mut self) -> Result<Told, Failed> {
        let _place = self.shared.connections.acquire().await.expect("never closed");
        let at = self.shared.client.at(any_node(&self.shared.client, &mut self.seed));
        self.shared.count_call();
        let told: Told = at.send(at.request(Method::PUT, &self.path)).await?.parse();
        self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        *self.shared.told.lock().expect("no panic meanwhile") = Some(told);
        Ok(told)
    }
}

fn any_node(client: &Client, seed: &mut Seed) -> u64 {
    let ids = client.ids();
    ids[seed.below(ids.len())]
}

/// By how much the cluster lengthens TTLs, percent: what is told, and what is held.
pub fn pace(cluster: &Value) -> (u64, u64) {
    let percent = |name: &str| cluster["pace"][name].as_u64().expect("a percentage");
    (percent("told"), percent("held"))
}
