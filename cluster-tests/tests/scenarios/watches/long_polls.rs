//! A long poll is answered when its own result changed, and not before.

use std::time::Duration;

use cluster_tests::client::{Client, Said, instance};
use cluster_tests::wait::while_it_holds;
use serde_json::json;
use tokio::task::JoinHandle;

use super::{deregister, register};
use crate::three_nodes;

/// So long a poll must not be answered while other things change.
const UNMOVED_FOR: Duration = Duration::from_millis(300);

/// A poll that waits for longer than any client of a test does: an answer means that it woke.
fn poll(client: &Client, node: u64, path: &str, index: u64) -> JoinHandle<Said> {
    let (client, path) = (client.clone(), format!("{path}?index={index}&wait=5m"));
    tokio::spawn(async move { client.at(node).get(&path).await })
}

async fn answer(poll: JoinHandle<Said>) -> Said {
    poll.await.expect("it did not panic")
}

/// Others change all the time, and the poll is not answered.
async fn sleeps_through(poll: &JoinHandle<Said>, change: impl AsyncFn(usize)) {
    let mut round = 0;
    while_it_holds("a poll waits for its own", UNMOVED_FOR, async || {
        change(round).await;
        round += 1;
        if poll.is_finished() { Err("it was answered") } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn a_poll_sleeps_through_what_others_change_and_wakes_for_its_own() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (writer, followers) = cluster.leader_and_followers().await;
    let other_change = async |round: usize| {
        register(&client, writer, "orders", &format!("i{}", round % 3)).await;
    };
    register(&client, writer, "pay", "a").await;
    register(&client, writer, "pay", "b").await;
    let list = "/v1/apps/pay/instances";
    let one = instance("pay", "a");
    for (turn, node) in [followers[0], writer].into_iter().enumerate() {
        let known = client.at(node).get(list).await.expect("listed").revision;
        let listing = poll(&client, node, list, known);
        let reading = poll(&client, node, &one, known);
        sleeps_through(&listing, other_change).await;

        // Another instance changes the list, not the instance.
        let changed = register(&client, writer, "pay", "b").await;
        let listed = answer(listing).await.expect("listed");
        assert!(listed.revision >= changed, "the list is of {} < {changed}", listed.revision);
        sleeps_through(&reading, async |_| {
            register(&client, writer, "pay", "b").await;
        })
        .await;

        let port = 2_000 + turn;
        let body = json!({"ip": "192.0.2.1", "port": port, "ttl": "10m"});
        client.at(writer).put(&one, &body).await.expect("updated");
        assert_eq!(answer(reading).await.expect("read").json()["port"], port, "node {node}");

        // An operator's word changes what the instance shows.
        let known = client.at(node).get(&one).await.expect("read").revision;
        let reading = poll(&client, node, &one, known);
        let word = if turn == 0 { "draining" } else { "maintenance" };
        let path = format!("{one}/override");
        client.at(writer).put(&path, &json!({"state": word})).await.expect("put");
        assert_eq!(answer(reading).await.expect("read").json()["state"], word);
    }
}

#[tokio::test]
async fn a_poll_wakes_when_what_it_reads_is_gone() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (writer, followers) = cluster.leader_and_followers().await;
    let (list, one) = ("/v1/apps/pay/instances", instance("pay", "a"));
    register(&client, writer, "pay", "b").await;
    for node in [followers[0], writer] {
        let known = register(&client, writer, "pay", "a").await;
        let (listing, reading) =
            (poll(&client, node, list, known), poll(&client, node, &one, known));
        deregister(&client, writer, "pay", "a").await;
        let left = answer(listing).await.expect("listed").json();
        assert_eq!(left["instances"].as_array().map(Vec::len), Some(1), "node {node}: {left}");
        let gone = answer(reading).await.expect_err("it is gone");
        assert_eq!((gone.status(), gone.code()), (Some(404), "unknown-instance"));
    }
    let known = client.at(followers[0]).get(list).await.expect("listed").revision;
    let listing = poll(&client, followers[0], list, known);
    client.at(writer).delete("/v1/apps/pay?cascade=true").await.expect("deleted");
    let gone = answer(listing).await.expect_err("it is gone");
    assert_eq!((gone.status(), gone.code()), (Some(404), "unknown-app"));
}

#[tokio::test]
async fn at_the_end_of_its_wait_a_poll_is_answered_with_what_is_still_so() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (writer, followers) = cluster.leader_and_followers().await;
    register(&client, writer, "pay", "a").await;
    for node in [followers[0], writer] {
        for path in ["/v1/apps/pay/instances", "/v1/apps/pay"] {
            let before = client.at(node).get(path).await.expect("read");
            let poll = format!("{path}?index={}&wait=200ms", before.revision);
            let after = client.at(node).get(&poll).await.expect("read");
            assert_eq!(after.status, 200);
            let (before, after) = (before.json(), after.json());
            assert_eq!(after["instances"], before["instances"], "node {node}");
            assert_eq!(after["counts"], before["counts"], "node {node}");
        }
    }
    // What changed before the poll came is told at once.
    let old = register(&client, writer, "pay", "a").await;
    let new = register(&client, writer, "pay", "c").await;
    let listed = answer(poll(&client, followers[0], "/v1/apps/pay/instances", old)).await;
    assert!(listed.expect("listed").revision >= new);
}
