//! Two thousand shards and twenty workers.

use std::time::Instant;

use cluster_tests::client::{At, instance};
use cluster_tests::sets::{put_set, shards};
use cluster_tests::wait::until;
use serde_json::{Value, json};

use super::{PLANNED_WITHIN, all_is_held, are_even, by_id, loads};
use crate::three_nodes;

const SET: &str = "poll";
const WORKERS: usize = 20;
const TRANSPORTS: usize = 2_000;

/// Of one call.
const BATCH: usize = 500;

#[tokio::test]
async fn all_shards_of_a_worker_that_ends_go_to_others_and_no_other_is_touched() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let at = client.at(followers[0]);
    for worker in 0..WORKERS {
        at.register("fetchers", &format!("f{worker}"), "10m").await.expect("registered");
    }
    put_set(&at, SET, "fetchers", &["pay"]).await;
    register_transports(&at).await;
    all_is_held(&at, SET, TRANSPORTS, WORKERS).await;
    let before = by_id(&at, SET).await;
    let held: Vec<_> = before.values().cloned().collect();
    assert!(are_even(&held, WORKERS), "{:?}", loads(&held));

    at.delete(&instance("fetchers", "f7")).await.expect("it leaves");
    let removed = Instant::now();
    let reader = client.at(leader);
    until("its shards are held by others", PLANNED_WITHIN, async || {
        let now = shards(&reader, SET).await.map_err(|e| e.to_string())?;
        let left = now.iter().filter(|s| s.holder.as_deref().is_none_or(|by| by == "f7")).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} are not")) }
    })
    .await;
    println!("{} ms after the removal all shards are held", removed.elapsed().as_millis());

    all_is_held(&at, SET, TRANSPORTS, WORKERS - 1).await;
    let mut moved = 0;
    for node in cluster.ids() {
        let after = by_id(&client.at(node), SET).await;
        assert_eq!(after.len(), TRANSPORTS, "node {node}");
        for (id, was) in &before {
            let is = &after[id];
            if was.holder.as_deref() == Some("f7") {
                assert!(is.grant > was.grant, "{id} has a new holder under an old grant: {is:?}");
                moved += 1;
            } else {
                assert_eq!(is, was, "node {node}: it was not f7's");
            }
        }
        let held: Vec<_> = after.into_values().collect();
        assert!(are_even(&held, WORKERS - 1), "{:?}", loads(&held));
    }
    assert_eq!(moved, TRANSPORTS / WORKERS * cluster.ids().len());
}

/// All on one session, in few entries.
async fn register_transports(at: &At<'_>) {
    let session = at.post_once("/v1/sessions", "transports", &json!({"ttl": "10m"})).await;
    let session = session.expect("opened").json()["session"].clone();
    for first in (0..TRANSPORTS).step_by(BATCH) {
        let items: Vec<Value> = (first..first + BATCH)
            .map(|i| {
                json!({"op": "register", "app": "pay", "id": format!("t{i}"), "ip": "192.0.2.2",
                       "port": 8719, "session": session})
            })
            .collect();
        let (key, body) = (format!("b{first}"), json!({"items": items}));
        at.post_once("/v1/instances:batch", &key, &body).await.expect("registered");
    }
}
