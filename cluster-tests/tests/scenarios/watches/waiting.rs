//! Nodes that are behind, that stop and that die: a watch waits, or goes on elsewhere.

use std::time::Duration;

use cluster_tests::client::Client;
use cluster_tests::cluster::READY_WITHIN;
use cluster_tests::wait::until;
use cluster_tests::watch::{Chronicle, Form, Interest, Line, Listener, Stream};

use super::{
    COMES_WITHIN, is_put_of, listen_up_to, next, register, watch_after, watch_from_snapshot,
};
use crate::{newest_checkpoint, three_nodes};

#[tokio::test]
async fn a_revision_to_come_is_waited_for_and_then_followed() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let now = register(&client, 1, "pay", "first").await;

    // It does not come: the answer says where the node is.
    for node in cluster.ids() {
        let query = format!("from={}&wait=200ms", now + 1_000);
        let refused = Stream::open(&client.at(node), &query, Form::Lines).await.err();
        let refused = refused.expect("it is not there");
        assert_eq!((refused.status(), refused.code()), (Some(504), "timeout"), "{refused}");
        let told = refused.problem().body["revision"].as_u64().expect("the current revision");
        assert!((now..now + 1_000).contains(&told), "node {node} is at {told}");
    }

    // It comes: what is told begins behind it.
    let from = now + 5;
    for node in cluster.ids() {
        let stream = tokio::spawn(open(client.clone(), node, format!("from={from}&wait=10s")));
        let mut revision = 0;
        while revision <= from {
            revision = register(&client, 1, "pay", &format!("for-{node}-{revision}")).await;
        }
        let mut stream = stream.await.expect("it did not panic");
        let mut listener = Listener::new(format!("node {node}"), Interest::all(), Some(from));
        assert!(listen_up_to(&mut stream, &mut listener, revision).await);
        assert!(listener.run().revisions.contains_key(&revision));
        if node == 1 {
            assert_eq!(listener.run().revisions.len() as u64, revision - from);
        }
    }
}

async fn open(client: Client, node: u64, query: String) -> Stream {
    Stream::open(&client.at(node), &query, Form::Lines).await.expect("a stream")
}

/// Nothing is applied after such a start, so nothing may wait for that.
#[tokio::test]
async fn a_node_whose_checkpoint_holds_all_there_is_follows_at_once_after_a_restart() {
    let mut cluster = three_nodes().set("--checkpoint-every", 10).start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let node = followers[0];
    let checkpoints = cluster.data_dir(node).join("checkpoints");
    until("a checkpoint holds all that was applied", READY_WITHIN, async || {
        let newest = newest_checkpoint(&checkpoints);
        let applied = client.at(node).node().await.map_err(|e| e.to_string())?.applied;
        if newest == Some(applied) {
            return Ok(());
        }
        register(&client, leader, "pay", "i").await;
        Err(format!("{newest:?} of {applied}"))
    })
    .await;
    cluster.stop(node).await;
    cluster.start(node, &[]);
    cluster.ready().await;
    let applied = client.at(node).node().await.expect("it answers").applied;
    let query = format!("from={applied}&wait=100ms");
    drop(Stream::open(&client.at(node), &query, Form::Lines).await.expect("it follows"));
}

#[tokio::test]
async fn what_is_wrong_with_a_revision_is_said_at_once() {
    let cluster = three_nodes().nodes(1).start().await;
    let client = cluster.client();
    for (query, code) in [
        ("from=-1", "invalid-from"),
        ("from=x", "invalid-from"),
        ("kind=instances", "invalid-kind"),
        ("wait=11m", "invalid-wait"),
        ("restart=list", "invalid-restart"),
        ("form=1", "unknown-field"),
    ] {
        let refused = Stream::open(&client.at(1), query, Form::Lines).await.err();
        let refused = refused.unwrap_or_else(|| panic!("{query} is taken"));
        assert_eq!((refused.status(), refused.code()), (Some(400), code), "{query}: {refused}");
    }
}

#[tokio::test]
async fn a_node_that_stops_says_goodbye_and_another_one_goes_on_from_there() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let chronicle = Chronicle::new();
    for stopped in [followers[0], leader] {
        let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != stopped).collect();
        let (mut reference, mut witness) = watch_from_snapshot(&client, others[0]).await;
        let (mut stream, mut listener) = watch_from_snapshot(&client, stopped).await;
        let before = register(&client, others[1], "pay", &format!("before-{stopped}")).await;
        assert!(listen_up_to(&mut stream, &mut listener, before).await);

        cluster.stop(stopped).await;
        while let Some(Ok(line)) = stream.next_within(COMES_WITHIN).await {
            listener.take(line);
        }
        assert!(listener.is_over(), "it said no goodbye");
        let position = listener.upto().expect("it has a position");
        chronicle.told(listener);

        cluster.leader().await;
        let after = register(&client, others[1], "pay", &format!("after-{stopped}")).await;
        let (mut resumed, mut listener) = watch_after(&client, others[1], position).await;
        assert!(listen_up_to(&mut resumed, &mut listener, after).await);
        assert!(listen_up_to(&mut reference, &mut witness, after).await);
        chronicle.told(listener);
        chronicle.told(witness);
        cluster.start(stopped, &[]);
        cluster.ready().await;
    }
    chronicle.check();
}

/// As a person would see it with `curl -N`.
#[tokio::test]
async fn after_kill_9_of_the_watched_node_the_last_event_id_goes_on_at_the_third_one() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    let (writer, followers) = cluster.leader_and_followers().await;
    let (watched, third) = (followers[0], followers[1]);
    let mut stream = Stream::open(&client.at(watched), "", Form::Sse).await.expect("a stream");
    let mut listener = Listener::new(format!("node {watched}"), Interest::all(), None);
    while listener.upto().is_none() {
        listener.take(next(&mut stream).await);
    }
    let seen = register(&client, writer, "pay", "seen").await;
    let mut shown = false;
    while listener.upto() < Some(seen) {
        let line = next(&mut stream).await;
        shown |= is_put_of(&line, "seen");
        listener.take(line);
    }
    assert!(shown, "a registration on another node is not shown");

    cluster.kill(watched);
    let mut missed = Vec::new();
    for i in 0..20 {
        missed.push(register(&client, writer, "pay", &format!("missed-{i}")).await);
    }
    // What the dying node had still sent counts.
    while let Some(Ok(line)) = stream.next_within(Duration::from_secs(1)).await {
        listener.take(line);
    }
    let last_id = listener.upto().expect("it has a position");
    let resumed = Stream::open_after(&client.at(third), "", Form::Sse, Some(last_id)).await;
    let mut resumed = resumed.expect("a stream");
    let mut listener = Listener::new(format!("node {third}"), Interest::all(), Some(last_id));
    assert!(listen_up_to(&mut resumed, &mut listener, missed[19]).await);
    let told: Vec<_> = listener.run().revisions.keys().copied().collect();
    missed.retain(|revision| *revision > last_id);
    assert_eq!(told, missed, "exactly what was missed");

    // The URL of the first request may name a revision: the id is the newer word.
    let again = Stream::open_after(&client.at(third), "from=1", Form::Sse, Some(missed[18])).await;
    let line = next(&mut again.expect("a stream")).await;
    assert!(matches!(&line, Line::Event(e) if e.revision == missed[19]), "{line:?}");
}
