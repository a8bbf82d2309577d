//! Nodes that are not who the others know: they do not vote, and everybody can see why.

use std::fs;
use std::time::Duration;

use cluster_tests::client::Client;
use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::wait::{until, while_it_holds};

use crate::{three_nodes, wait_until_voter};

/// Waits until a node says, as the reason that it is not ready, all of these words.
async fn says(client: &Client, node: u64, words: &[&str]) {
    until("it says why it is not ready", READY_WITHIN, async || {
        match client.at(node).ready().await {
            Ok(()) => Err("it is ready".to_owned()),
            Err(e) => {
                let detail = &e.problem().detail;
                let missing = words.iter().find(|word| !detail.contains(**word));
                missing.map_or(Ok(()), |word| Err(format!("{word:?} is not in: {detail}")))
            }
        }
    })
    .await;
}

/// With one voter more dead, the wrong node's vote would make the majority.
async fn does_not_vote(cluster: &mut Cluster, wrong: u64) {
    let killed = cluster.leader_but(&[wrong]).await;
    let other = 6 - wrong - killed;
    cluster.kill(killed);
    let client = cluster.client().patient(Duration::from_secs(1));
    while_it_holds("nobody wins an election", Duration::from_secs(3), async || {
        for node in [other, wrong] {
            let status = client.at(node).node().await.map_err(|e| e.to_string())?;
            if status.role == "leader" {
                return Err(format!("{status:?}"));
            }
        }
        Ok(())
    })
    .await;
    cluster.start(killed, &[]);
    cluster.leader_but(&[wrong]).await;
}

fn warnings(cluster: &Cluster, node: u64, of: &str) -> usize {
    let log = cluster.last_log(node);
    log.lines().filter(|line| line.contains("\"WARN\"") && line.contains(of)).count()
}

#[tokio::test]
async fn a_data_folder_of_another_cluster_does_not_vote_and_says_why() {
    let mut cluster = three_nodes().start().await;
    let mut foreign = three_nodes().start().await;
    let own_id = cluster.client().at(1).node().await.expect("its status").cluster_id;
    let foreign_id = foreign.client().at(1).node().await.expect("its status").cluster_id;
    let (own_id, foreign_id) = (own_id.expect("an id"), foreign_id.expect("an id"));
    foreign.kill_all();
    cluster.kill(2);
    cluster.wipe(2);
    fs::rename(foreign.data_dir(2), cluster.data_dir(2)).expect("it is moved");
    cluster.start(2, &[]);
    let client = cluster.client();
    says(&client, 2, &["cluster: this node refuses node", &own_id, &foreign_id]).await;
    does_not_vote(&mut cluster, 2).await;
    says(&client, 2, &["cluster: this node refuses node"]).await;
    // The others serve, and say once what is wrong with it.
    for node in [1, 3] {
        client.at(node).register("pay", "i1", "1m").await.expect("it takes writes");
        client.at(node).ready().await.expect("it is ready");
        let said = warnings(&cluster, node, "node 2 at");
        assert!(said <= 1, "node {node} said it {said} times");
    }
    assert!(warnings(&cluster, 2, "refuses node 1") <= 1);
    assert!(warnings(&cluster, 2, "refuses node") >= 1);
}

#[tokio::test]
async fn an_old_disk_that_was_replaced_does_not_vote_and_says_why() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    cluster.kill(2);
    let old = cluster.data_dir(2).with_extension("old");
    fs::rename(cluster.data_dir(2), &old).expect("it is moved");
    cluster.start(2, &["--replace-disk"]);
    cluster.ready().await;
    wait_until_voter(&client, 1, 2).await;
    cluster.kill(2);
    let newer = cluster.data_dir(2).with_extension("newer");
    fs::rename(cluster.data_dir(2), &newer).expect("it is moved");
    fs::rename(&old, cluster.data_dir(2)).expect("it is moved back");
    cluster.start(2, &[]);
    says(&client, 2, &["cluster: ", "that disk was replaced", "--replace-disk"]).await;
    does_not_vote(&mut cluster, 2).await;
    says(&client, 2, &["cluster: "]).await;
    assert!(warnings(&cluster, 2, "refuse") >= 1);

    cluster.kill(2);
    cluster.wipe(2);
    fs::rename(&newer, cluster.data_dir(2)).expect("it is moved back");
    cluster.start(2, &[]);
    cluster.ready().await;
}

/// A wrong list must not cost a healthy cluster one of its voters.
#[tokio::test]
async fn a_node_that_lives_is_not_replaced() {
    let mut cluster = three_nodes().start().await;
    // A node that has a good list but for itself.
    let mut stranger = three_nodes().set_at(2, "--replace-disk", true).lay_out();
    let list = format!(
        "{},{},{}",
        entry(&cluster.list(), 1),
        entry(&stranger.list(), 2),
        entry(&cluster.list(), 3)
    );
    let before = cluster.client().at(1).get("/v1/cluster").await.expect("answered").json();
    stranger.start_instead(2, "--cluster", &list);
    let strange = stranger.client();
    says(
        &strange,
        2,
        &["the leader does not take this node in", "node 2 runs at", "stop it first"],
    )
    .await;
    cluster.ready().await;
    let after = cluster.client().at(1).get("/v1/cluster").await.expect("answered").json();
    for at in [0, 1, 2] {
        assert_eq!(before["nodes"][at]["peer"], after["nodes"][at]["peer"]);
    }

    // Once it is dead its place can be taken, at another address too.
    let peer = entry(&stranger.list(), 2);
    cluster.kill(2);
    wait_until_voter(&cluster.client(), 1, 2).await;
    strange.at(2).ready().await.expect("it is ready");
    let after = cluster.client().at(1).get("/v1/cluster").await.expect("answered").json();
    assert_eq!(format!("2={}", after["nodes"][1]["peer"].as_str().expect("an address")), peer);
}

fn entry(list: &str, id: u64) -> String {
    let start = format!("{id}=");
    list.split(',').find(|entry| entry.starts_with(&start)).expect("it is listed").to_owned()
}

#[tokio::test]
async fn a_node_that_is_started_with_another_address_says_so() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    for (flag, known) in [
        ("--advertise-api", cluster.api(2).to_string()),
        ("--advertise-peer", entry(&cluster.list(), 2).replace("2=", "")),
    ] {
        cluster.stop(2).await;
        cluster.start(2, &[flag, "127.0.0.1:9"]);
        says(&client, 2, &["cluster: ", flag, &known, "127.0.0.1:9"]).await;
        let log = cluster.last_log(2);
        assert!(log.lines().any(|l| l.contains("\"ERROR\"") && l.contains(flag)), "{log}");
    }
    cluster.stop(2).await;
    cluster.start(2, &[]);
    cluster.ready().await;
}
