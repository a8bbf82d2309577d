//! What a node writes into its log while it serves requests.

use cluster_tests::client::At;
use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::wait::until;
use reqwest::Method;
use serde_json::{Value, json};

use crate::three_nodes;

fn lines(cluster: &Cluster, node: u64) -> Vec<Value> {
    let log = cluster.last_log(node);
    let line = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    log.lines().map(line).collect()
}

fn of_request<'a>(lines: &'a [Value], id: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["request_id"] == id).collect()
}

/// Asks under an id of ours, whatever comes of it.
async fn ask(at: &At<'_>, method: Method, path: &str, id: &str) {
    drop(at.send(at.request(method, path).header("request-id", id)).await);
}

#[tokio::test]
async fn a_failed_request_is_told_once_with_its_id_and_an_ordinary_one_is_not() {
    let mut cluster = three_nodes().set("--request-timeout", "1s").start().await;
    let client = cluster.client();
    let at = client.at(1);
    ask(&at, Method::GET, "/v1/apps", "ordinary").await;
    ask(&at, Method::GET, "/v1/apps/none", "refused").await;
    cluster.kill(2);
    cluster.kill(3);
    until("no leader is known", READY_WITHIN, async || match at.ready().await {
        Err(e) if e.problem().detail.contains("leader") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    ask(&at, Method::GET, "/v1/apps", "failed").await;
    let lines = lines(&cluster, 1);
    let failed = of_request(&lines, "failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    let line = failed[0];
    assert_eq!((&line["level"], &line["route"]), (&json!("WARN"), &json!("/v1/apps")));
    assert_eq!((&line["code"], &line["status"]), (&json!("no-leader"), &json!(503)));
    assert!(line["revision"].as_u64().is_some_and(|revision| revision > 0), "{line}");
    assert!(of_request(&lines, "ordinary").is_empty() && of_request(&lines, "refused").is_empty());
    let probes = lines.iter().filter(|line| line["route"] == "/readyz");
    assert_eq!(probes.count(), 0, "a probe's answer is no failure");
}

#[tokio::test]
async fn each_request_has_a_line_where_that_is_wanted_heartbeats_too() {
    let mut cluster = three_nodes().nodes(1).lay_out();
    cluster.start_instead(1, "--log", "info,roster::access=debug");
    cluster.ready().await;
    let client = cluster.client();
    let at = client.at(1);
    let registered = at.register("pay", "a", "1h").await.expect("registered");
    let heartbeat = "/v1/apps/pay/instances/a/heartbeat";
    ask(&at, Method::PUT, heartbeat, "beat").await;
    ask(&at, Method::GET, "/nowhere", "nowhere").await;
    let lines = lines(&cluster, 1);
    let beat = of_request(&lines, "beat");
    assert_eq!(beat.len(), 1, "{beat:?}");
    assert_eq!(beat[0]["route"], "/v1/apps/{app}/instances/{id}/heartbeat");
    assert_eq!((&beat[0]["method"], &beat[0]["status"]), (&json!("PUT"), &json!(200)));
    assert!(beat[0]["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert!(beat[0]["revision"].as_u64() >= Some(registered.incarnation));
    assert_eq!(of_request(&lines, "nowhere")[0]["route"], "unmatched");
}

#[tokio::test]
async fn lines_about_the_cluster_tell_term_and_revision() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    let leader = cluster.leader().await;
    client.at(leader).register("pay", "a", "1h").await.expect("registered");
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    let told = |node: u64, message: &str| {
        let lines = lines(&cluster, node);
        let found = lines.iter().rev().find(|line| line["message"] == message).cloned();
        found.unwrap_or_else(|| panic!("node {node} does not tell: {message}"))
    };
    for (node, message) in [
        (leader, "stopping"),
        (leader, "handing the leadership on"),
        (leader, "a node leads"),
        (next, "a node leads"),
        (next, "leading; leases are open"),
        (next, "the state is there; Raft runs"),
    ] {
        let line = told(node, message);
        assert!(line["term"].is_u64() && line["applied"].is_u64(), "{line}");
    }
    assert_eq!(told(next, "a node leads")["leader"], next);
    assert!(told(leader, "stopped")["applied"].as_u64() > Some(0));
}
