//! Clients that make changes of every kind, whatever happens, and note what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Answer, At, Client, Failed, Said, instance};
use crate::seed::Seed;
use crate::watch::{Chronicle, Write};

/// What they change.
pub const APPS: [&str; 3] = ["ads", "orders", "pay"];

/// Ids that each client changes in each app.
const IDS: usize = 4;

/// Instances on one session, which go together.
const ON_A_SESSION: usize = 5;

/// How long one node is given before the next one is asked.
const NODE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Between two changes of a client.
const PAUSE: Duration = Duration::from_millis(5);

/// Clients at work.
pub struct Churn {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Churn {
    pub fn start(client: &Client, chronicle: &Chronicle, clients: usize, seed: &mut Seed) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let hand = Hand {
                number,
                count: 0,
                client: client.patient(NODE_TIMEOUT),
                chronicle: chronicle.clone(),
                seed: seed.split(),
            };
            tasks.spawn(hand.work(stop.clone()));
        }
        Self { stop, tasks }
    }

    /// Lets each client end what it is doing.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no client panicked");
        }
    }
}

struct Hand {
    number: usize,
    count: usize,
    client: Client,
    chronicle: Chronicle,
    seed: Seed,
}

impl Hand {
    async fn work(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            if let Err(failed) = self.change().await {
                // What is not there cannot be changed, and nodes may be dead: both are as planned.
                let planned = failed.status().is_none_or(|s| s >= 500 || [404, 409].contains(&s));
                assert!(planned, "a change was refused: {failed}");
            }
            self.count += 1;
            sleep(PAUSE).await;
        }
    }

    async fn change(&mut self) -> Result<(), Failed> {
        let ids = self.client.ids();
        let client = self.client.clone();
        let at = client.at(ids[self.seed.below(ids.len())]);
        let app = APPS[self.seed.below(APPS.len())];
        let id = format!("c{}-{}", self.number, self.seed.below(IDS));
        let path = instance(app, &id);
        match self.seed.below(14) {
            0..=2 => self.put(&at, app, &id, "", &self.record("10m")).await,
            3 => self.patch(&at, app, &id).await,
            4 => self.put(&at, app, &id, "?takeover=true", &self.record("10m")).await,
            5 => {
                let gone = at.delete(&path).await?;
                self.note(app, &id, "delete", &gone);
                Ok(())
            }
            6 => at.put(&format!("{path}/override"), &self.word()).await.map(drop),
            7 => at.delete(&format!("{path}/override")).await.map(drop),
            // Nobody sends heartbeats for it.
            8 => self.put(&at, app, &format!("brief-{id}"), "", &self.record("1s")).await,
            9 => self.come_and_go_together(&at, app).await,
            10 => at.put(&format!("/v1/apps/{app}"), &json!({"ttl": "1m"})).await.map(drop),
            11 => {
                let body = json!({"count": self.count});
                at.put(&document(app, self.number), &body).await.map(drop)
            }
            12 => at.delete(&document(app, self.number)).await.map(drop),
            _ => self.app_comes_and_goes(&at).await,
        }
    }

    /// Another one each time.
    fn record(&self, ttl: &str) -> Value {
        let port = 1_000 + self.count % 7;
        json!({"ip": "192.0.2.1", "port": port, "ttl": ttl, "metadata": {"count": self.count.to_string()}})
    }

    fn word(&mut self) -> Value {
        match self.seed.below(3) {
            0 => json!({"state": "draining", "expires": "300ms"}),
            1 => json!({"state": "draining"}),
            _ => json!({"state": "maintenance", "reason": "a test"}),
        }
    }

    async fn put(
        &self,
        at: &At<'_>,
        app: &str,
        id: &str,
        how: &str,
        record: &Value,
    ) -> Result<(), Failed> {
        let put = at.put(&format!("{}{how}", instance(app, id)), record).await?;
        self.note(app, id, "put", &put);
        Ok(())
    }

    async fn patch(&self, at: &At<'_>, app: &str, id: &str) -> Result<(), Failed> {
        let body = json!({"weight": 1 + self.count % 9, "metadata": {"patched": "yes"}});
        let request = at.request(reqwest::Method::PATCH, &instance(app, id));
        let patched: Said = at.send(request.json(&body)).await;
        self.note(app, id, "put", &patched?);
        Ok(())
    }

    /// Several instances in one entry, and gone in one revision.
    async fn come_and_go_together(&self, at: &At<'_>, app: &str) -> Result<(), Failed> {
        let key = format!("{}-{}", self.number, self.count);
        let session = at.post_once("/v1/sessions", &key, &json!({"ttl": "1m"})).await?.json();
        let items: Vec<_> = (0..ON_A_SESSION)
            .map(|i| {
                json!({"op": "register", "app": app, "id": format!("s{key}-{i}"), "ip": "192.0.2.9",
                       "port": 1, "session": session["session"]})
            })
            .collect();
        at.post_once("/v1/instances:batch", &format!("b{key}"), &json!({"items": items})).await?;
        let session = session["session"].as_str().expect("a session");
        at.delete(&format!("/v1/sessions/{session}")).await.map(drop)
    }

    async fn app_comes_and_goes(&self, at: &At<'_>) -> Result<(), Failed> {
        let app = format!("own-{}", self.number);
        self.put(at, &app, "only", "", &self.record("10m")).await?;
        at.delete(&format!("/v1/apps/{app}?cascade=true")).await.map(drop)
    }

    fn note(&self, app: &str, id: &str, event: &'static str, answer: &Answer) {
        let revision = answer.json()["revision"].as_u64().expect("a write has a revision");
        let (app, id) = (app.to_owned(), id.to_owned());
        self.chronicle.acknowledged(Write { app, id, revision, event });
    }
}

fn document(app: &str, client: usize) -> String {
    format!("/v1/apps/{app}/documents/rules-{client}")
}
