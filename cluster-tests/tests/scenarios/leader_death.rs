//! kill -9 of the leader while clients write.

use std::time::{Duration, Instant};

use cluster_tests::history::{History, departures};
use cluster_tests::load::{Load, Shape};
use cluster_tests::seed::Seed;
use cluster_tests::wait::until;
use serde_json::json;

use crate::three_nodes;

const KILLS: usize = 3;

#[tokio::test]
async fn killing_the_leader_loses_nothing_that_was_acknowledged() {
    let mut seed = Seed::of_this_run("killing_the_leader");
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    let history = History::new();
    let shape =
        Shape { app: "pay".into(), writers: 3, keepers: 10, keepers_ttl: Duration::from_secs(3) };
    let load = Load::start(&client, &history, &shape, &mut seed);
    for kill in 1..=KILLS {
        goes_on(&history, &load, 50).await;
        let leader = cluster.leader().await;
        let killed = Instant::now();
        cluster.kill(leader);
        goes_on(&history, &load, 50).await;
        let gap = history.longest_gap(killed, Instant::now());
        println!("kill {kill}: no write was acknowledged for {} ms", gap.as_millis());
        cluster.start(leader, &[]);
        cluster.ready().await;
    }
    load.stop().await;
    let departed = departures(&cluster);
    assert!(departed.is_empty(), "all had heartbeats or a long TTL: {departed:?}");
    history.check(&cluster).await;
    println!("{} registrations were acknowledged and are there", history.acknowledged());
}

/// Waits for some more writes and heartbeats.
async fn goes_on(history: &History, load: &Load, more: usize) {
    let (writes, beats) = (history.acknowledged() + more, load.beats() + more as u64);
    until("clients get on", Duration::from_secs(20), async || {
        let (now, beats_now) = (history.acknowledged(), load.beats());
        if now >= writes && beats_now >= beats {
            Ok(())
        } else {
            Err(format!("{now} of {writes} writes, {beats_now} of {beats} heartbeats"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_repeated_on_another_node_after_the_leaders_death_gets_its_first_answer() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let body = json!({"ttl": "1m", "name": "worker"});
    let first = client.at(leader).post_once("/v1/sessions", "key-1", &body).await.expect("opened");

    cluster.kill(leader);
    cluster.leader().await;
    for node in followers {
        let again =
            client.at(node).post_once("/v1/sessions", "key-1", &body).await.expect("answered");
        assert_eq!(again.json(), first.json(), "node {node} opened another session");
        assert_eq!(again.status, first.status);
        assert_eq!(again.revision, first.revision);
        let other = json!({"ttl": "2m", "name": "worker"});
        let refused = client.at(node).post_once("/v1/sessions", "key-1", &other).await;
        assert_eq!(refused.expect_err("is refused").code(), "key-reused");
    }
}
