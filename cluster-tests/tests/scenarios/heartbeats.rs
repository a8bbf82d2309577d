//! Heartbeats of many in one body: read by the leader alone, wherever they come in.

use std::time::Duration;

use cluster_tests::client::{At, Failed};
use cluster_tests::wait::until;
use reqwest::Method;
use serde_json::{Value, json};

use crate::three_nodes;

const JSON: &str = "application/json";
const MSGPACK: &str = "application/msgpack";

/// The answer to one body, as it was written.
async fn beat(node: At<'_>, kind: &str, body: Vec<u8>) -> Result<Vec<u8>, Failed> {
    let request = node.request(Method::POST, "/v1/heartbeats");
    let response = node.begin(request.header("content-type", kind).body(body)).await?;
    assert_eq!(response.headers()["content-type"], kind);
    assert!(response.headers().contains_key("roster-revision"));
    Ok(response.bytes().await.expect("a body").to_vec())
}

async fn beat_json(node: At<'_>, body: &Value) -> Result<Value, Failed> {
    let answer = beat(node, JSON, body.to_string().into_bytes()).await?;
    Ok(serde_json::from_slice(&answer).expect("JSON"))
}

async fn beat_msgpack(node: At<'_>, body: &Value) -> Result<Value, Failed> {
    let answer = beat(node, MSGPACK, rmp_serde::to_vec_named(body).expect("encodes")).await?;
    Ok(rmp_serde::from_slice(&answer).expect("msgpack"))
}

#[tokio::test]
async fn bodies_are_answered_alike_by_every_node_and_in_either_encoding() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, _) = cluster.leader_and_followers().await;
    let registered = client.at(leader).register("pay", "a", "30s").await.expect("registers");
    client.at(leader).register("pay \"eu\"", "b", "10m").await.expect("registers");
    let (incarnation, session) = (registered.incarnation, registered.session);
    let body = json!({"sessions": [session, "77"], "instances": [
        {"app": "pay", "id": "a"},
        {"app": "pay \"eu\"", "id": "b", "incarnation": null},
        {"app": "pay", "id": "a", "incarnation": incarnation + 1},
        {"app": "pay", "id": "z"},
        {"app": "none", "id": "z"},
    ]});
    let expected = json!({"renewed": 3, "heartbeat_every": "10s", "failed": [
        {"session": "77", "code": "unknown-session",
            "detail": "there is no session 77; open a new one"},
        {"app": "pay", "id": "a", "incarnation": incarnation, "code": "stale-incarnation",
            "detail": format!("incarnation {incarnation} took over; stay away")},
        {"app": "pay", "id": "z", "code": "unknown-instance",
            "detail": "there is no such live instance; register it again"},
        {"app": "none", "id": "z", "code": "unknown-app",
            "detail": "there is no app \"none\"; register the instance again"},
    ]});
    for node in cluster.ids() {
        assert_eq!(beat_json(client.at(node), &body).await.expect("answers"), expected, "{node}");
        assert_eq!(beat_msgpack(client.at(node), &body).await.expect("answers"), expected);
    }
    for wrong in [json!({"sessions": [1]}), json!({"more": []}), json!({"instances": [{"id": ""}]})]
    {
        let mut told = Vec::new();
        for node in cluster.ids() {
            let failed = beat_json(client.at(node), &wrong).await.expect_err("it is wrong");
            assert_eq!(failed.status(), Some(400), "{failed:?}");
            assert!(!failed.is_unknown(), "{failed:?}");
            told.push((failed.code().to_owned(), failed.problem().detail.clone()));
        }
        assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    }
}

#[tokio::test]
async fn whom_a_body_names_is_heard_wherever_it_came_in() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, _) = cluster.leader_and_followers().await;
    client.at(leader).register("pay", "a", "10m").await.expect("registers");
    let body = json!({"instances": [{"app": "pay", "id": "a"}]});
    let heard = async || {
        let seen = client.at(leader).get("/v1/apps/pay/instances/a").await.expect("is there");
        seen.json()["last_heartbeat"].as_str().expect("a time").to_owned()
    };
    for node in cluster.ids() {
        let before = heard().await;
        until("the leader has heard it", Duration::from_secs(10), async || {
            let answer = beat_msgpack(client.at(node), &body).await.expect("answers");
            assert_eq!(answer["renewed"], 1, "{answer}");
            let now = heard().await;
            // Times of one form are ordered as text.
            if now > before { Ok(()) } else { Err(now) }
        })
        .await;
    }
}
