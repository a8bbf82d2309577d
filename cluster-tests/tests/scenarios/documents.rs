//! Documents of apps: kept by all nodes, through restarts and checkpoints, and guarded by their
//! revisions.

use std::net::IpAddr;

use cluster_tests::client::Client;
use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::wait::until;
use serde_json::{Value, json};

use crate::{has_checkpoint, three_nodes};

const DOCUMENTS: &str = "/v1/apps/pay/documents";
const FLOW: &str = "/v1/apps/pay/documents/flow";

/// How often two writers race for one document.
const RACES: u64 = 20;

#[tokio::test]
async fn documents_survive_the_death_of_all_nodes_from_checkpoint_and_log() {
    let mut cluster =
        three_nodes().set("--checkpoint-every", 20).set("--log-keep", 5).start().await;
    let client = cluster.client();
    let policy = json!({"remove_when_empty_after": "1s"});
    client.at(1).put("/v1/apps/pay", &policy).await.expect("made");
    for i in 0..30 {
        let path = format!("{DOCUMENTS}/rules-{i}");
        let value = json!({"qps": i, "resource": "x".repeat(1000)});
        client.at(1 + i % 3).put(&path, &value).await.expect("written");
    }
    until("every node has a checkpoint", READY_WITHIN, async || {
        let without = |id: &u64| !has_checkpoint(&cluster.data_dir(*id).join("checkpoints"));
        match cluster.ids().into_iter().find(without) {
            Some(id) => Err(format!("node {id} has none")),
            None => Ok(()),
        }
    })
    .await;
    client.at(2).delete(&format!("{DOCUMENTS}/rules-7")).await.expect("deleted");
    client.at(3).put(&format!("{FLOW}?by=ops"), &json!([1.5])).await.expect("written");
    let before = documents(&client, 1).await;
    assert_eq!(before.len(), 30);

    cluster.kill_all();
    cluster.start_all();
    cluster.ready().await;

    for node in cluster.ids() {
        assert_eq!(documents(&client, node).await, before, "node {node}");
    }
    let flow = client.at(1).get(FLOW).await.expect("read").json();
    assert_eq!((&flow["value"], &flow["by"]), (&json!([1.5]), &"ops".into()));
    let other = client.at(2).get(&format!("{DOCUMENTS}/rules-3")).await.expect("read").json();
    let by: IpAddr = other["by"].as_str().and_then(|by| by.parse().ok()).expect("an address");
    assert!(by.is_loopback(), "{by}");
    same_state(&cluster).await;

    // It had no instance all the time; now it has no documents either.
    for document in &before {
        let name = document["name"].as_str().expect("a name");
        client.at(1).delete(&format!("{DOCUMENTS}/{name}")).await.expect("deleted");
    }
    until("the empty app is gone", READY_WITHIN, async || {
        match client.at(2).get("/v1/apps/pay").await {
            Err(gone) if gone.code() == "unknown-app" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn of_two_writers_that_saw_the_same_document_exactly_one_changes_it() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    client.at(1).put(FLOW, &json!({"qps": 0})).await.expect("written");
    for race in 1..=RACES {
        let seen = client.at(1 + race % 3).get(FLOW).await.expect("read");
        let tag = seen.etag.expect("a single object has one");
        let write = async |writer: u64| {
            let value = json!({"race": race, "writer": writer});
            (writer, client.at(1 + (race + writer) % 3).put_if(FLOW, &tag, &value).await)
        };
        let answers: [_; 2] = tokio::join!(write(0), write(1)).into();
        let won: Vec<_> =
            answers.iter().filter_map(|(w, a)| Some((*w, a.as_ref().ok()?))).collect();
        let [(winner, answer)] = won.as_slice() else { panic!("race {race}: {answers:?}") };
        for (_, lost) in answers.iter().filter(|(writer, _)| writer != winner) {
            let lost = lost.as_ref().expect_err("only one wins");
            assert_eq!((lost.status(), lost.code()), (Some(412), "precondition-failed"));
        }
        for node in cluster.ids() {
            let now = client.at(node).get(FLOW).await.expect("read").json();
            assert_eq!(now["value"], json!({"race": race, "writer": winner}), "node {node}");
            assert_eq!(now["revision"], answer.revision);
        }
    }
    same_state(&cluster).await;
}

/// All documents, linearizable.
async fn documents(client: &Client, node: u64) -> Vec<Value> {
    let list = client.at(node).get(DOCUMENTS).await.expect("listed").json();
    list["documents"].as_array().expect("documents").clone()
}

async fn same_state(cluster: &Cluster) {
    let nodes = cluster.settled().await;
    let hashes: Vec<_> = nodes.iter().map(|node| &node.state_hash).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "S9: {hashes:?}");
}
