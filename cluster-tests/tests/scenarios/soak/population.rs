//! Instances that each hang off a session of their own and beat in bodies of many, by way of all nodes
//! in turn, at the client's own rhythm. What a silent one is still remembered for is when it was heard.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster_tests::client::{Client, Failed, Registered};
use cluster_tests::history::Life;
use cluster_tests::seed::Seed;
use reqwest::Method;
use roster::client::Rhythm;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Registrations in one call, and how many such calls are under way at once.
const BATCH: usize = 500;
const BATCHES_AT_ONCE: usize = 8;

/// Before a registration that was refused is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// No call takes more of a TTL than this part: the next node is asked while it counts.
const CALL_PARTS: u32 = 4;

/// One life of an instance.
pub struct Member {
    pub life: Life,
    pub ttl: Duration,
    session: String,
    begun: Instant,
    /// When the last acknowledged call was sent, in microseconds after `begun`.
    heard_us: AtomicU64,
    silent: AtomicBool,
}

impl Member {
    fn new(registered: Registered, begun: Instant, sent: Instant) -> Self {
        let Registered { app, id, incarnation, session, ttl, .. } = registered;
        let member = Self {
            life: Life { app, id, incarnation },
            ttl: humantime::parse_duration(&ttl).expect("a TTL"),
            session,
            begun,
            heard_us: AtomicU64::new(0),
            silent: AtomicBool::new(false),
        };
        member.heard(sent);
        member
    }

    fn heard(&self, sent: Instant) {
        let us = sent.duration_since(self.begun).as_micros() as u64;
        self.heard_us.fetch_max(us, Ordering::Relaxed);
    }

    /// When the last call that was acknowledged was sent.
    pub fn last_heard(&self) -> Instant {
        self.begun + Duration::from_micros(self.heard_us.load(Ordering::Relaxed))
    }

    /// It is named in no call from now on.
    pub fn falls_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }
}

/// Who is to be registered.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub app: String,
    pub id: String,
}

/// All members, those who are silent too.
pub struct Population {
    shared: Arc<Shared>,
    herds: Vec<Arc<Herd>>,
    beating: Mutex<JoinSet<()>>,
}

struct Shared {
    client: Client,
    ttl: Duration,
    begun: Instant,
    registering: Semaphore,
    acknowledged: AtomicU64,
    /// What was said of members that beat and are gone.
    lost: Mutex<Vec<String>>,
}

/// Members that beat in one body.
struct Herd {
    members: Mutex<Vec<Arc<Member>>>,
    names: Names,
    encoding: Encoding,
}

/// How a body names its members.
#[derive(Clone, Copy)]
enum Names {
    Sessions,
    Instances,
}

#[derive(Clone, Copy)]
enum Encoding {
    Json,
    Msgpack,
}

impl Population {
    /// Registers all, so many to a herd, and has each herd beat as soon as it is there.
    pub async fn start(
        client: &Client,
        newcomers: Vec<Newcomer>,
        in_a_herd: usize,
        ttl: Duration,
        seed: &mut Seed,
    ) -> Self {
        let shared = Arc::new(Shared {
            client: client.clone(),
            ttl,
            begun: Instant::now(),
            registering: Semaphore::new(BATCHES_AT_ONCE),
            acknowledged: AtomicU64::new(0),
            lost: Mutex::default(),
        });
        let (mut herds, mut beating, mut registering) = (vec![], JoinSet::new(), JoinSet::new());
        for (number, newcomers) in newcomers.chunks(in_a_herd).enumerate() {
            let herd = Arc::new(Herd {
                members: Mutex::default(),
                names: [Names::Sessions, Names::Instances][number % 2],
                encoding: [Encoding::Json, Encoding::Msgpack][number / 2 % 2],
            });
            herds.push(herd.clone());
            let (shared, newcomers, seed) = (shared.clone(), newcomers.to_vec(), seed.split());
            registering.spawn(async move {
                let mut beats = Beats { shared, herd, seed, heard: Instant::now() };
                beats.register(&newcomers, number).await;
                beats
            });
        }
        while let Some(registered) = registering.join_next().await {
            beating.spawn(registered.expect("it is registered").go_on());
        }
        Self { shared, herds, beating: Mutex::new(beating) }
    }

    /// All lives that there ever were.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.herds.iter().flat_map(|herd| herd.members()).collect()
    }

    /// Registers somebody who is gone once more, who beats from then on.
    pub async fn comes_back(&self, life: &Life, seed: &mut Seed) {
        let ttl = humantime::format_duration(self.shared.ttl).to_string();
        let client = self.shared.client.patient(self.shared.ttl / CALL_PARTS);
        let (registered, sent) = loop {
            // Of a call without an answer nothing is known but that it came before this one.
            let sent = Instant::now();
            match client.at(any_node(&client, seed)).register(&life.app, &life.id, &ttl).await {
                Ok(registered) => break (registered, sent),
                Err(_) => sleep(PAUSE).await,
            }
        };
        let member = Arc::new(Member::new(registered, self.shared.begun, sent));
        let herd = &self.herds[seed.below(self.herds.len())];
        herd.members.lock().expect("a lock").push(member);
    }

    /// Heartbeats of single members that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// What was said of members that beat and are gone.
    pub fn lost(&self) -> Vec<String> {
        self.shared.lost.lock().expect("a lock").clone()
    }

    pub async fn stop(&self) {
        let mut beating = std::mem::take(&mut *self.beating.lock().expect("a lock"));
        beating.abort_all();
        while let Some(ended) = beating.join_next().await {
            assert!(!ended.is_err_and(|e| e.is_panic()), "a herd's task panicked");
        }
    }
}

impl Herd {
    fn members(&self) -> Vec<Arc<Member>> {
        self.members.lock().expect("a lock").clone()
    }
}

/// The task of a herd.
struct Beats {
    shared: Arc<Shared>,
    herd: Arc<Herd>,
    seed: Seed,
    /// When the last acknowledged call was sent.
    heard: Instant,
}

impl Beats {
    async fn register(&mut self, newcomers: &[Newcomer], number: usize) {
        let ttl = humantime::format_duration(self.shared.ttl).to_string();
        for (part, newcomers) in newcomers.chunks(BATCH).enumerate() {
            let _place = self.shared.registering.acquire().await.expect("never closed");
            let item = |Newcomer { app, id }: &Newcomer| {
                json!({"op": "register", "app": app, "id": id, "ip": "192.0.2.1", "port": 8719,
                       "ttl": ttl})
            };
            let body = json!({"items": newcomers.iter().map(item).collect::<Vec<_>>()});
            let key = format!("herd-{number}-{part}");
            // The first try may have been carried out.
            let sent = Instant::now();
            let answer = loop {
                let node = any_node(&self.shared.client, &mut self.seed);
                let at = self.shared.client.at(node);
                match at.post_once("/v1/instances:batch", &key, &body).await {
                    Ok(answer) => break answer,
                    Err(_) => sleep(PAUSE).await,
                }
            };
            let mut members = self.herd.members.lock().expect("a lock");
            members.extend(
                registered(&answer.json())
                    .into_iter()
                    .map(|registered| Arc::new(Member::new(registered, self.shared.begun, sent))),
            );
        }
    }

    /// Until it is aborted.
    async fn go_on(mut self) {
        let mut rhythm = Rhythm::new(self.shared.ttl / 3);
        loop {
            let safe_for = self.shared.ttl.saturating_sub(self.heard.elapsed());
            let chance = self.seed.draw() as f64 / u64::MAX as f64;
            sleep(rhythm.pause(safe_for, chance)).await;
            let (members, sent) = (self.beating(), Instant::now());
            match self.beat(&members).await {
                Ok(answer) => {
                    self.answered(&members, &answer, sent);
                    rhythm.answered(answer.every().unwrap_or(rhythm.every()), sent.elapsed());
                }
                Err(failed) => rhythm.failed(failed.problem().retry_after),
            }
        }
    }

    fn beating(&self) -> Vec<Arc<Member>> {
        let members = self.herd.members.lock().expect("a lock");
        members.iter().filter(|member| !member.is_silent()).cloned().collect()
    }

    async fn beat(&mut self, members: &[Arc<Member>]) -> Result<Answer, Failed> {
        let body = match self.herd.names {
            Names::Sessions => Body {
                sessions: members.iter().map(|member| &*member.session).collect(),
                instances: vec![],
            },
            Names::Instances => {
                Body { sessions: vec![], instances: members.iter().map(|m| &m.life).collect() }
            }
        };
        let client = self.shared.client.patient(self.shared.ttl / CALL_PARTS);
        let at = client.at(any_node(&client, &mut self.seed));
        let request = at.request(Method::POST, "/v1/heartbeats");
        let (kind, bytes) = self.herd.encoding.write(&body);
        let response = at.begin(request.header("content-type", kind).body(bytes)).await?;
        let bytes = response.bytes().await.map_err(|e| Failed::without_answer(&e))?;
        Ok(self.herd.encoding.read(&bytes))
    }

    fn answered(&mut self, members: &[Arc<Member>], answer: &Answer, sent: Instant) {
        self.heard = sent;
        let failed: BTreeSet<_> = answer.failed.iter().map(FailedBeat::name).collect();
        for member in members {
            let Life { app, id, .. } = &member.life;
            if !failed.contains(&(Some(&*member.session), None, None))
                && !failed.contains(&(None, Some(&**app), Some(&**id)))
            {
                member.heard(sent);
            }
        }
        let acknowledged = members.len() - answer.failed.len();
        self.shared.acknowledged.fetch_add(acknowledged as u64, Ordering::Relaxed);
        // Of a session that the leader has not taken up yet, the next try tells.
        let lost = answer.failed.iter().filter(|failed| failed.code != "not-ready");
        let lost: Vec<_> = lost.map(|failed| format!("{failed:?}")).collect();
        self.shared.lost.lock().expect("a lock").extend(lost);
    }
}

#[derive(Serialize)]
struct Body<'a> {
    sessions: Vec<&'a str>,
    instances: Vec<&'a Life>,
}

#[derive(Deserialize)]
struct Answer {
    heartbeat_every: Option<String>,
    failed: Vec<FailedBeat>,
}

impl Answer {
    fn every(&self) -> Option<Duration> {
        let text = self.heartbeat_every.as_ref()?;
        Some(humantime::parse_duration(text).expect("a duration"))
    }
}

#[derive(Debug, Deserialize)]
struct FailedBeat {
    session: Option<String>,
    app: Option<String>,
    id: Option<String>,
    code: String,
}

impl FailedBeat {
    /// By its session, or by its app and its id.
    fn name(&self) -> (Option<&str>, Option<&str>, Option<&str>) {
        (self.session.as_deref(), self.app.as_deref(), self.id.as_deref())
    }
}

impl Encoding {
    fn write(self, body: &Body<'_>) -> (&'static str, Vec<u8>) {
        match self {
            Self::Json => ("application/json", serde_json::to_vec(body).expect("JSON")),
            Self::Msgpack => {
                ("application/msgpack", rmp_serde::to_vec_named(body).expect("msgpack"))
            }
        }
    }

    fn read(self, bytes: &[u8]) -> Answer {
        match self {
            Self::Json => serde_json::from_slice(bytes).expect("JSON"),
            Self::Msgpack => rmp_serde::from_slice(bytes).expect("msgpack"),
        }
    }
}

fn registered(answer: &Value) -> Vec<Registered> {
    let results = answer["results"].as_array().expect("results");
    let read = |result: &Value| {
        Registered::deserialize(result).unwrap_or_else(|e| panic!("{e}: {result}"))
    };
    results.iter().map(read).collect()
}

fn any_node(client: &Client, seed: &mut Seed) -> u64 {
    let ids = client.ids();
    ids[seed.below(ids.len())]
}
