//! Two nodes of three are dead.

use std::time::Duration;

use cluster_tests::client::{Failed, Said};
use cluster_tests::cluster::Cluster;
use cluster_tests::wait::until;

use crate::three_nodes;

#[tokio::test]
async fn a_leader_alone_answers_only_reads_that_may_be_stale() {
    let mut cluster = three_nodes().set("--request-timeout", "1s").start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    client.at(leader).register("pay", "a", "1m").await.expect("registered");
    followers.into_iter().for_each(|id| cluster.kill(id));
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
    serves_only_stale_reads(&mut cluster, followers[1]).await;
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
