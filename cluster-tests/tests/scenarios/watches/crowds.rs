//! Many watchers, and large changes for them.

use std::time::Duration;

use cluster_tests::client::Client;
use cluster_tests::wait::until;
use cluster_tests::watch::{Chronicle, Form, Interest, Listener, Stream};
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use super::{listen_up_to, next, register, watch_from_snapshot};
use crate::three_nodes;

/// On one session, so that they go in one entry.
const DEPARTING: usize = 2_000;

/// Metadata of each: a snapshot of all is more than a connection takes that nobody reads.
const BYTES: usize = 1_700;

/// Registrations at the same time.
const BESIDE: usize = 100;

#[tokio::test]
async fn one_watch_too_many_is_told_to_come_back_and_gets_the_place_of_one_that_ends() {
    let cluster = three_nodes().set("--watches-max", 2).start().await;
    let client = cluster.client();
    let known = register(&client, 1, "pay", "a").await;
    let at = client.at(1);
    let mut first = Stream::open(&at, "", Form::Lines).await.expect("a stream");
    next(&mut first).await;
    let waiting = {
        let client = client.clone();
        let path = format!("/v1/apps/pay/instances?index={known}&wait=5m");
        tokio::spawn(async move { client.at(1).get(&path).await })
    };
    // The long poll has taken its place when there is none left.
    until("both places are taken", Duration::from_secs(10), async || {
        match Stream::open(&at, "", Form::Lines).await {
            Err(refused) if refused.status() == Some(503) => Ok(()),
            Err(other) => panic!("{other}"),
            Ok(_) => Err("there is room"),
        }
    })
    .await;

    let refused = at.request(Method::GET, "/v1/watch").send().await.expect("an answer");
    assert_eq!(refused.status(), 503);
    let retry_after = refused.headers().get("retry-after").expect("it says when to come back");
    let seconds: u64 = retry_after.to_str().expect("text").parse().expect("seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
    let problem: serde_json::Value = refused.json().await.expect("a problem");
    assert_eq!((&problem["code"], &problem["outcome"]), (&json!("overloaded"), &json!("none")));
    let poll = at.get(&format!("/v1/apps/pay?index={known}&wait=1s")).await;
    assert_eq!(poll.expect_err("no room").code(), "overloaded");
    // Others have room, and all else goes on.
    Stream::open(&client.at(2), "", Form::Lines).await.expect("a stream");
    at.list("pay").await.expect("listed");

    drop(first);
    has_room(&client).await;
    register(&client, 2, "pay", "b").await;
    waiting.await.expect("no panic").expect("the long poll was answered");
    let mut both = Vec::new();
    until("both places are free", Duration::from_secs(10), async || {
        both.push(Stream::open(&at, "", Form::Lines).await.map_err(|e| e.to_string())?);
        if both.len() == 2 { Ok(()) } else { Err(format!("{} so far", both.len())) }
    })
    .await;
}

async fn has_room(client: &Client) {
    until("there is room again", Duration::from_secs(10), async || {
        Stream::open(&client.at(1), "", Form::Lines).await.map(drop).map_err(|e| e.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_mass_departure_reaches_watchers_with_tiny_queues_in_full() {
    let cluster = three_nodes().set("--watch-queue", 1).start().await;
    let client = cluster.client();
    let (writer, _) = cluster.leader_and_followers().await;
    let at = client.at(writer);
    let session = at.post_once("/v1/sessions", "s", &json!({"ttl": "10m"})).await;
    let session = session.expect("opened").json()["session"].as_str().expect("text").to_owned();
    let text = "x".repeat(BYTES);
    let items: Vec<_> = (0..DEPARTING)
        .map(|i| {
            json!({"op": "register", "app": "pay", "id": format!("i{i}"), "ip": "192.0.2.1",
                   "port": 1, "session": session, "metadata": {"text": text}})
        })
        .collect();
    at.post_once("/v1/instances:batch", "b", &json!({"items": items})).await.expect("put");

    let chronicle = Chronicle::new();
    let mut watches = Vec::new();
    for node in cluster.ids() {
        watches.push(watch_from_snapshot(&client, node).await);
        // One that does not read its snapshot meanwhile: all that comes is too much for its queue.
        let stream = Stream::open_small(cluster.api(node), "").await;
        watches.push((stream, Listener::new(format!("node {node}"), Interest::all(), None)));
    }
    // Together, so that some of them are applied at once: more than a queue holds.
    let mut writes = JoinSet::new();
    for i in 0..BESIDE {
        let client = client.clone();
        writes.spawn(async move { register(&client, writer, "orders", &format!("i{i}")).await });
    }
    at.delete(&format!("/v1/sessions/{session}")).await.expect("closed");
    writes.join_all().await;
    let last = register(&client, writer, "orders", "last").await;
    for (mut stream, mut listener) in watches {
        assert!(listen_up_to(&mut stream, &mut listener, last).await, "it was given up");
        let largest = listener.run().revisions.values().map(Vec::len).max();
        assert_eq!(largest, Some(2 * DEPARTING), "each instance with its shard, in one revision");
        chronicle.told(listener);
    }
    chronicle.check();
}
