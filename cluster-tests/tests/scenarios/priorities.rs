//! Heartbeats and the nodes' own traffic come before lists, searches and watches (L5).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::client::{Client, Said};
use cluster_tests::wait::until;
use cluster_tests::watch::{Form, Stream};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::three_nodes;

/// Instances that are only there to be searched.
const INSTANCES: usize = 50_000;

/// Instances of one batch, and of each of their apps: more than one page of a list.
const IN_ONE_BATCH: usize = 2_500;

/// Instances that live by single heartbeats, and those that live by batches.
const SINGLE: usize = 24;
const TOGETHER: usize = 1_000;

/// How long they live without: far less than the crowd stays.
const TTL: &str = "10s";
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Each searcher, reader and watcher is at another node than the one before.
const SEARCHERS: usize = 24;
const READERS: usize = 24;
const WATCHERS: usize = 1_000;

/// Searches that are answered while the heartbeats are looked at, at least.
const SEARCHES: u64 = 60;

/// Longest that the crowd may take for it.
const WITHIN: Duration = Duration::from_secs(240);

/// A crowd of tasks that go on until it is dropped.
#[derive(Default)]
struct Crowd {
    tasks: JoinSet<()>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Crowd {
    /// Does this again and again, so many times at once.
    fn of<W: Future<Output = bool> + Send + 'static>(
        count: usize,
        work: impl Fn(usize) -> W + Clone + Send + 'static,
    ) -> Self {
        let mut crowd = Self::default();
        for number in 0..count {
            let (work, answered, stop) = (work.clone(), crowd.answered.clone(), crowd.stop.clone());
            crowd.tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    answered.fetch_add(work(number).await.into(), Ordering::Relaxed);
                }
            });
        }
        crowd
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets each end what it is doing.
    async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("none of the crowd panicked");
        }
    }
}

fn node_of(client: &Client, number: usize) -> u64 {
    let ids = client.ids();
    ids[number % ids.len()]
}

async fn register(client: &Client, app: &str, ids: impl Iterator<Item = usize>, ttl: &str) {
    let item = |id| {
        json!({"op": "register", "app": app, "id": format!("i{id}"), "ip": "192.0.2.1",
               "port": 8719, "hostname": format!("host-{id}"), "ttl": ttl})
    };
    let items: Vec<Value> = ids.map(item).collect();
    let batch = client.at(node_of(client, 0)).request(reqwest::Method::POST, "/v1/instances:batch");
    let answer = client.at(node_of(client, 0)).send(batch.json(&json!({"items": items}))).await;
    let answer = answer.expect("it is taken").json();
    let results = answer["results"].as_array().expect("results");
    assert!(results.iter().all(|result| result["code"].is_null()), "{results:?}");
}

/// A crowd's question may be refused since others ask too; then a client waits.
async fn asked(said: Said) -> bool {
    match said {
        Ok(_) => true,
        Err(failed) => {
            assert_eq!(failed.code(), "overloaded", "{failed}");
            sleep(Duration::from_millis(100)).await;
            false
        }
    }
}

fn searchers(client: &Client) -> Crowd {
    let client = client.clone();
    Crowd::of(SEARCHERS, move |number| {
        let client = client.clone();
        async move {
            // What matches nothing, by text and by an expression: all instances are looked at.
            let what = ["q=nowhere", "filter=hostname.endsWith(%22-none%22)"][number % 2];
            let at = client.at(node_of(&client, number));
            asked(at.get(&format!("/v1/instances?limit=10000&{what}")).await).await
        }
    })
}

fn readers(client: &Client) -> Crowd {
    let client = client.clone();
    Crowd::of(READERS, move |number| {
        let client = client.clone();
        async move {
            let app = format!("crowd-{}", number % (INSTANCES / IN_ONE_BATCH));
            let at = client.at(node_of(&client, number));
            asked(at.get(&format!("/v1/apps/{app}/instances?limit=10000")).await).await
        }
    })
}

/// Changes an instance that all the watchers watch.
fn churn(client: &Client) -> Crowd {
    let client = client.clone();
    Crowd::of(2, move |number| {
        let client = client.clone();
        async move {
            let at = client.at(node_of(&client, number));
            at.register("churn", &format!("c{number}"), "10m").await.expect("it is taken");
            sleep(Duration::from_millis(50)).await;
            true
        }
    })
}

async fn watchers(client: &Client) -> JoinSet<u64> {
    let mut watchers = JoinSet::new();
    for number in 0..WATCHERS {
        let client = client.clone();
        watchers.spawn(async move {
            let at = client.at(node_of(&client, number));
            let mut stream =
                Stream::open(&at, "app=churn", Form::Lines).await.expect("it may watch");
            let mut lines = 0;
            while stream.next().await.is_ok() {
                lines += 1;
            }
            lines
        });
    }
    watchers
}

/// Heartbeats, single and in batches; one that is not acknowledged fails the test.
fn heartbeats(client: &Client) -> Crowd {
    let client = client.clone();
    Crowd::of(SINGLE + 1, move |number| {
        let client = client.clone();
        async move {
            let at = client.at(node_of(&client, number));
            if number < SINGLE {
                let path = format!("/v1/apps/beating/instances/i{number}/heartbeat");
                let beaten = at.send(at.request(reqwest::Method::PUT, &path)).await;
                beaten.unwrap_or_else(|failed| panic!("a heartbeat failed: {failed}"));
            } else {
                let instances: Vec<Value> = (SINGLE..SINGLE + TOGETHER)
                    .map(|id| json!({"app": "beating", "id": format!("i{id}")}))
                    .collect();
                let beats = at.request(reqwest::Method::POST, "/v1/heartbeats");
                let beaten = at.send(beats.json(&json!({"instances": instances}))).await;
                let beaten = beaten.unwrap_or_else(|failed| panic!("a heartbeat failed: {failed}"));
                assert_eq!(beaten.json()["failed"], json!([]));
            }
            sleep(BEAT_EVERY).await;
            true
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_searches_lists_and_watches_costs_no_heartbeat_and_no_leader() {
    // A debug build shares few cores with its clients and other tests; what is shown is what waits
    // for what, not how fast it is.
    let cluster = three_nodes()
        .set("--raft-heartbeat", "200ms")
        .set("--election-timeout-min", "1200ms")
        .set("--election-timeout-max", "1500ms")
        .start()
        .await;
    let client = cluster.client().patient(Duration::from_secs(30));
    for batch in 0..INSTANCES / IN_ONE_BATCH {
        register(&client, &format!("crowd-{batch}"), 0..IN_ONE_BATCH, "1h").await;
    }
    register(&client, "beating", 0..SINGLE + TOGETHER, TTL).await;
    let leader = cluster.leader().await;
    let before = client.at(leader).node().await.expect("it answers");

    let beating = heartbeats(&client);
    let watching = watchers(&client).await;
    let others = [readers(&client), churn(&client)];
    let searching = searchers(&client);
    until("the crowd was answered often enough", WITHIN, async || {
        let answered = searching.answered();
        if answered >= SEARCHES { Ok(()) } else { Err(format!("{answered} searches")) }
    })
    .await;
    let beats = beating.answered();
    assert!(beats > SINGLE as u64, "only {beats} heartbeats were sent meanwhile");
    drop(watching);
    searching.stop().await;
    for crowd in others {
        crowd.stop().await;
    }

    let after = client.at(leader).node().await.expect("it answers");
    assert_eq!((after.term, after.leader), (before.term, before.leader), "another one leads");
    let (_, alive) = client.at(leader).list("beating").await.expect("it is listed");
    assert_eq!(alive.len(), SINGLE + TOGETHER);
    let kept = alive.iter().all(|instance| instance.incarnation <= before.applied);
    assert!(kept, "one was removed and registered again");
    beating.stop().await;
}
