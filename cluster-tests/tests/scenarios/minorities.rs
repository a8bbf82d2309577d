//! Two nodes of three are dead.

use std::time::Duration;

use cluster_tests::client::{Failed, Said};
use cluster_tests::cluster::Cluster;
use cluster_tests::metrics::Metrics;
use cluster_tests::wait::until;
use serde_json::json;

use crate::three_nodes;

/// How long a node may take to notice that it has no majority any more, or has one again.
const WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_leader_alone_answers_only_reads_that_may_be_stale() {
    let mut cluster = three_nodes().set("--request-timeout", "1s").start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    client.at(leader).register("pay", "a", "1m").await.expect("registered");
    followers.into_iter().for_each(|id| cluster.kill(id));
    tells_of_no_leader(&cluster, leader, "candidate").await;
    serves_only_stale_reads(&mut cluster, leader).await;
}

#[tokio::test]
async fn a_follower_alone_answers_only_reads_that_may_be_stale() {
    let mut cluster = three_nodes().set("--request-timeout", "1s").start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    client.at(leader).register("pay", "a", "1m").await.expect("registered");
    // What was acknowledged must be here for the stale read below.
    client.at(followers[1]).list("pay").await.expect("listed");
    cluster.kill(followers[0]);
    cluster.kill(leader);
    tells_of_no_leader(&cluster, followers[1], "follower").await;
    serves_only_stale_reads(&mut cluster, followers[1]).await;
}

#[tokio::test]
async fn a_leader_that_lost_its_majority_is_told_of_again_once_one_node_came_back() {
    let mut cluster = three_nodes().set("--request-timeout", "1s").start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    followers.iter().for_each(|id| cluster.kill(*id));
    tells_of_no_leader(&cluster, leader, "candidate").await;
    cluster.start(followers[0], &[]);
    cluster.ready().await;
    cluster.leader().await;
    let at = client.at(leader);
    until("the alarm is over", WITHIN, async || {
        let view = at.get("/v1/cluster").await.map_err(|e| e.to_string())?.json();
        let well = view["leader"].is_string() && view["alarms"] == json!([]);
        if well { Ok(()) } else { Err(format!("{} {}", view["leader"], view["alarms"])) }
    })
    .await;
    at.register("pay", "b", "1m").await.expect("registered");
}

/// Waits until a node that is alone says so, wherever it tells of a leader. `role`: what it is then.
async fn tells_of_no_leader(cluster: &Cluster, alone: u64, role: &str) {
    let client = cluster.client();
    let at = client.at(alone);
    until("it tells of no leader", WITHIN, async || {
        let node = at.node().await.map_err(|e| e.to_string())?;
        if (node.leader.as_deref(), node.role.as_str()) != (None, role) {
            return Err(format!("role {}, leader {:?}", node.role, node.leader));
        }
        let view = at.get("/v1/cluster").await.map_err(|e| e.to_string())?.json();
        if !view["leader"].is_null() || view["alarms"][0]["code"] != "no-quorum" {
            return Err(format!("{} {}", view["leader"], view["alarms"]));
        }
        let detail = view["alarms"][0]["detail"].as_str().unwrap_or_default();
        assert!(detail.starts_with("1 of 3 nodes answer"), "{detail}");
        let metrics = Metrics::of(&at).await.map_err(|e| e.to_string())?;
        let flags = ["roster_raft_leading", "roster_raft_leader_known"];
        let told = flags.map(|flag| metrics.value(flag, &[]));
        if told == [0.0, 0.0] { Ok(()) } else { Err(format!("{flags:?} are {told:?}")) }
    })
    .await;
}

async fn serves_only_stale_reads(cluster: &mut Cluster, alone: u64) {
    let client = cluster.client();
    let at = client.at(alone);

    let write = at.register("pay", "b", "1m").await.expect_err("there is no majority");
    match write.status() {
        Some(503) => assert!(!write.is_unknown() && write.code() == "no-leader", "{write}"),
        Some(504) => assert!(write.is_unknown() && write.code() == "timeout", "{write}"),
        _ => panic!("{write}"),
    }
    let beat = at.beat("pay", "a", 0).await.expect_err("nobody confirms the leadership");
    assert_eq!((beat.status(), beat.code()), (Some(503), "no-leader"), "{beat}");
    let read = at.list("pay").await.expect_err("nobody confirms the leadership");
    assert_eq!((read.status(), read.code()), (Some(503), "no-leader"), "{read}");

    for failed in [&write, &beat, &read] {
        let detail = &failed.problem().detail;
        assert!(!detail.contains(['{', '[', '_']), "this is no text for people: {detail}");
        assert!(failed.problem().body["leader"].is_null(), "{failed}");
    }

    let stale: Said = at.get("/v1/apps/pay/instances?consistency=stale").await;
    let stale = stale.expect("a stale read is served");
    assert_eq!(stale.consistency.as_deref(), Some("stale"), "it says so");
    assert_eq!(stale.json()["instances"][0]["id"], "a");
    assert!(stale.revision > 0, "it says how old it is");
    at.get("/livez").await.expect("it lives");
    until("it is not ready", Duration::from_secs(5), async || match at.ready().await {
        Ok(()) => Err("it is ready"),
        Err(_) => Ok(()),
    })
    .await;

    // With a majority it goes on, and what was unknown has happened once or never.
    for id in cluster.ids() {
        if !cluster.runs(id) {
            cluster.start(id, &[]);
        }
    }
    cluster.ready().await;
    let (_, listed) = at.list("pay").await.expect("listed");
    assert!(listed.iter().any(|instance| instance.id == "a"));
    if matches!(write, Failed::Nothing(_)) {
        assert!(
            listed.iter().all(|instance| instance.id != "b"),
            "it promised that nothing was done"
        );
    }
    at.register("pay", "c", "1m").await.expect("registered");
}
