//! A node that loads a large state.

use std::time::Duration;

use cluster_tests::client::{Answer, At};
use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::wait::until;
use serde_json::{Value, json};

use crate::{newest_checkpoint, three_nodes};

/// Loading them takes a debug build a second or more.
const INSTANCES: usize = 20_000;
const BATCH: usize = 500;

/// Starts of a node until it is seen while it loads: a fast machine may be through before anybody asks.
const STARTS_MAX: usize = 10;

/// Between two heartbeats to the node that loads, at the very most.
const TTL: &str = "5s";

/// Its clients know this node only: what heartbeats there must live, whatever it takes to load.
#[tokio::test]
async fn a_node_that_loads_its_state_takes_heartbeats_and_refuses_all_else() {
    let mut cluster =
        three_nodes().set("--checkpoint-every", 20).set("--log-keep", 5).start().await;
    let client = cluster.client();
    let (leader, others) = cluster.leader_and_followers().await;
    register_many(&client.at(leader)).await;
    let (at_large, loads) = (client.at(leader), others[0]);
    until("the node has a checkpoint of most", READY_WITHIN, async || {
        let index = newest_checkpoint(&cluster.data_dir(loads).join("checkpoints"));
        let applied = at_large.node().await.map_err(|e| e.to_string())?.applied;
        let lag = applied - index.unwrap_or_default();
        if lag < 25 { Ok(()) } else { Err(format!("{lag} entries are not in it")) }
    })
    .await;
    let one = at_large.register("pay", "one", TTL).await.expect("registered");
    let session = at_large.post_once("/v1/sessions", "s", &json!({"ttl": TTL})).await;
    let session = session.expect("opened").json()["session"].as_str().expect("an id").to_owned();

    let at = client.at(loads);
    let heartbeat = format!("/v1/sessions/{session}/heartbeat");
    let mut taken = 0;
    for _ in 0..STARTS_MAX {
        let before_it_loads = last_heard(&at_large).await;
        cluster.kill(loads);
        cluster.start(loads, &[]);
        until("it is ready", READY_WITHIN, async || {
            let Some(before) = what_it_loads(&at).await else {
                return at.ready().await.map_err(|e| e.to_string());
            };
            let beaten = [
                at.beat("pay", "one", one.incarnation).await,
                at.put(&heartbeat, &json!({})).await,
                at.post_once("/v1/heartbeats", "", &json!({"sessions": [session]})).await,
            ];
            let listed = at.get("/v1/apps/pay/instances?limit=1").await;
            let Some(after) = what_it_loads(&at).await else { return Err(before) };
            for beaten in &beaten {
                assert!(beaten.is_ok(), "between {before:?} and {after:?}: {beaten:?}");
            }
            let renewed = beaten.last().and_then(|many| many.as_ref().ok()).map(Answer::json);
            assert_eq!(renewed.expect("an answer")["renewed"], 1);
            // Times of one form are ordered as text.
            let heard = last_heard(&at_large).await;
            assert!(
                heard > before_it_loads,
                "S4: acknowledged, and the leader has not heard it: {heard}"
            );
            let refused = listed.expect_err("it has no list yet");
            assert_eq!((refused.status(), refused.code()), (Some(503), "not-ready"), "{refused}");
            taken += 1;
            Err(after)
        })
        .await;
        at.beat("pay", "one", one.incarnation).await.expect("S4: it lives");
        at.put(&heartbeat, &json!({})).await.expect("S4: it lives");
        if taken > 0 {
            break;
        }
    }
    println!("heartbeats were taken {taken} times while it loaded");
    at.get(&format!("/v1/sessions/{session}")).await.expect("S4: it lives");
    same_everywhere(&cluster).await;
}

/// When the leader heard the one that beats, as it says.
async fn last_heard(leader: &At<'_>) -> String {
    let seen = leader.get("/v1/apps/pay/instances/one").await.expect("S4: it lives").json();
    seen["last_heartbeat"].as_str().unwrap_or_default().to_owned()
}

/// What it says it is doing while it loads; `None` if it does not load, or does not answer yet.
async fn what_it_loads(at: &At<'_>) -> Option<String> {
    let node = at.get("/v1/node").await.ok()?.json();
    node["loading"].as_str().map(str::to_owned)
}

async fn same_everywhere(cluster: &Cluster) {
    let nodes = cluster.settled().await;
    let hashes: Vec<_> = nodes.iter().map(|node| (node.applied, &node.state_hash)).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "S9: {hashes:?}");
}

async fn register_many(at: &At<'_>) {
    let patient = Duration::from_secs(60);
    for first in (0..INSTANCES).step_by(BATCH) {
        let items: Vec<Value> = (first..first + BATCH)
            .map(|i| {
                json!({"op": "register", "app": "pay", "id": format!("i{i}"), "ip": "192.0.2.2",
                       "port": 8719, "ttl": "30m", "metadata": {"build": "0123456789abcdef"}})
            })
            .collect();
        let (key, body) = (format!("b{first}"), json!({"items": items}));
        until("a batch is registered", patient, async || {
            at.post_once("/v1/instances:batch", &key, &body).await.map(drop)
        })
        .await;
    }
}
