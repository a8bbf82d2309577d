//! Changes that are not kept any more: said, never passed over.

use cluster_tests::cluster::{Plan, READY_WITHIN};
use cluster_tests::wait::until;
use cluster_tests::watch::{Chronicle, Form, Interest, Line, Listener, Stream};

use super::{listen_up_to, next, put_many, reference, register};
use crate::three_nodes;

/// Changes that a node keeps in memory: the least that it takes.
const KEPT: usize = 64;

/// Entries that are far more than the kernel buffers of one connection and the kept changes hold.
const ENTRIES: usize = 30;

/// Instances of an entry and bytes of each: nearly as much as an entry may carry.
const INSTANCES: usize = 15;
const BYTES: usize = 15_000;

fn few_changes_kept() -> Plan {
    three_nodes()
        .set("--event-log", KEPT)
        .set("--event-log-mib", 1)
        .set("--watch-queue", 1)
        .set("--history-mib", 0)
}

#[tokio::test]
async fn what_is_not_kept_is_refused_before_the_stream_begins_or_replaced_by_a_snapshot() {
    let cluster = few_changes_kept().start().await;
    let client = cluster.client();
    let old = register(&client, 1, "pay", "old").await;
    let mut newest = old;
    for i in 0..2 * KEPT {
        newest = register(&client, 1, "pay", &format!("i{i}")).await;
    }
    cluster.settled().await;
    for node in cluster.ids() {
        let at = client.at(node);
        let refused = Stream::open(&at, &format!("from={old}"), Form::Lines).await.err();
        let refused = refused.expect("it is not kept");
        assert_eq!((refused.status(), refused.code()), (Some(410), "compacted"), "{refused}");
        let restart_from = refused.problem().body["restart_from"].as_u64().expect("a revision");
        assert!(restart_from >= newest, "from {restart_from} on it would be refused again");

        for form in [Form::Lines, Form::Sse] {
            let query = format!("from={old}&restart=snapshot");
            let mut stream = Stream::open(&at, &query, form).await.expect("a stream");
            let mut listener = Listener::new(format!("node {node}"), Interest::all(), Some(old));
            let first = next(&mut stream).await;
            assert!(matches!(first, Line::Compacted { .. }), "{first:?}");
            listener.take(first);
            assert!(listen_up_to(&mut stream, &mut listener, newest).await);
            let shown = &listener.snapshots()[0].events;
            let instances = shown.iter().filter(|e| e["kind"] == "instance").count();
            assert_eq!(instances, 1 + 2 * KEPT, "node {node}");
        }
    }
}

#[tokio::test]
async fn what_is_forgotten_while_a_stream_waits_for_its_reader_ends_it_with_a_word() {
    let cluster = few_changes_kept().start().await;
    let client = cluster.client();
    let (writer, followers) = cluster.leader_and_followers().await;
    let watched = followers[0];
    let first = put_many(&client, writer, "pay", INSTANCES, BYTES, 0).await;
    let chronicle = Chronicle::new();
    let reference = reference(&client, writer, &chronicle).await;

    let address = cluster.api(watched);
    let mut ending = Stream::open_small(address, &format!("from={first}&wait=10s")).await;
    let query = format!("from={first}&wait=10s&restart=snapshot");
    let mut restarting = Stream::open_small(address, &query).await;
    for round in 1..ENTRIES {
        put_many(&client, writer, "pay", INSTANCES, BYTES, round).await;
    }
    let last = register(&client, writer, "pay", "last").await;
    cluster.settled().await;

    let mut listener = Listener::new("the ended one", Interest::all(), Some(first));
    assert!(!listen_up_to(&mut ending, &mut listener, last).await, "it is too much to be kept");
    assert!(listener.is_compacted());
    chronicle.told(listener);

    let mut listener = Listener::new("the restarted one", Interest::all(), Some(first));
    assert!(listen_up_to(&mut restarting, &mut listener, last).await, "it ended");
    assert_eq!(listener.snapshots().len(), 1, "it was told all without a snapshot");
    let list = client.at(watched).get("/v1/apps/pay/instances?limit=10000").await.expect("listed");
    chronicle.listed(watched, "pay", &list.json());
    // And it goes on behind the snapshot.
    let end = register(&client, writer, "pay", "end").await;
    assert!(listen_up_to(&mut restarting, &mut listener, end).await, "it ended");
    chronicle.told(listener);
    reference.ends_at(end).await;
    let checked = chronicle.check();
    assert!(checked.lists == 1 && checked.snapshots == 2, "{checked:?}");
    assert!(checked.covered.1 >= end, "{checked:?}");
}

/// The history is cut behind the back of one that reads it.
#[tokio::test]
async fn what_the_history_drops_while_it_is_read_is_told_or_ends_the_stream_with_a_word() {
    let cluster = three_nodes().set("--event-log", KEPT).set("--history-age", "1s").start().await;
    let client = cluster.client();
    let (writer, followers) = cluster.leader_and_followers().await;
    let watched = followers[0];
    let first = put_many(&client, writer, "pay", INSTANCES, BYTES, 0).await;
    let chronicle = Chronicle::new();
    let reference = reference(&client, writer, &chronicle).await;
    for round in 1..ENTRIES {
        put_many(&client, writer, "pay", INSTANCES, BYTES, round).await;
    }
    cluster.settled().await;
    let address = cluster.api(watched);
    let mut streams = Vec::new();
    for query in ["", "&restart=snapshot"] {
        let from = first + streams.len() as u64;
        let stream = Stream::open_small(address, &format!("from={from}{query}")).await;
        streams.push((
            stream,
            Listener::new(format!("from {from}{query}"), Interest::all(), Some(from)),
        ));
    }
    let mut last = 0;
    until("the oldest is not kept any more", READY_WITHIN, async || {
        last = register(&client, writer, "pay", "more").await;
        match Stream::open(&client.at(watched), &format!("from={first}"), Form::Lines).await {
            Err(refused) if refused.code() == "compacted" => Ok(()),
            Err(other) => panic!("{other}"),
            Ok(_) => Err("it is told"),
        }
    })
    .await;
    for (mut stream, mut listener) in streams {
        let all = listen_up_to(&mut stream, &mut listener, last).await;
        assert!(all || listener.was_told_the_end(), "it ended without a word");
        chronicle.told(listener);
    }
    reference.ends_at(last).await;
    chronicle.check();
}
