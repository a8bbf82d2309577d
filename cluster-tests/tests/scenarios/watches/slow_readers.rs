//! Readers that do not read cost little, and are told what they missed, or that they missed it.

use cluster_tests::cluster::Plan;
use cluster_tests::watch::{Chronicle, Interest, Listener, Stream};

use super::{listen_up_to, put_many, reference, register};
use crate::three_nodes;

const READERS: usize = 8;

const MIB: u64 = 1 << 20;

/// Changes of all entries together: many times what may be kept for readers.
const ENTRIES: usize = 64;
const INSTANCES: usize = 15;
const BYTES: usize = 15_000;

/// Of one reader that does not read: more large changes than its connection takes, and then more
/// small ones than memory keeps, if there is a history.
const LARGE_CHANGES: usize = 18;
const SMALL_CHANGES: usize = 128;

/// What readers that do not read may cost a node, all together.
const EXTRA_BYTES_MAX: u64 = 6 * MIB;

fn small_queues() -> Plan {
    three_nodes().set("--watch-queue", 16)
}

#[tokio::test]
async fn readers_that_do_not_read_cost_little_and_are_told_that_they_missed_something() {
    let cluster = small_queues().set("--event-log-mib", 1).set("--history-mib", 0).start().await;
    let (client, chronicle) = (cluster.client(), Chronicle::new());
    let (writer, followers) = cluster.leader_and_followers().await;
    let (watched, unwatched) = (followers[0], followers[1]);
    let mut first = 0;
    for round in 0..3 {
        first = put_many(&client, writer, "pay", INSTANCES, BYTES, round).await;
    }
    cluster.settled().await;
    let reference = reference(&client, writer, &chronicle).await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(Stream::open_small(cluster.api(watched), &format!("from={first}")).await);
    }
    for round in 3..ENTRIES {
        put_many(&client, writer, "pay", INSTANCES, BYTES, round).await;
    }
    let end = register(&client, writer, "pay", "end").await;
    cluster.settled().await;

    let memory = async |node| client.at(node).node().await.expect("status").memory_bytes;
    let (with, without) = (memory(watched).await, memory(unwatched).await);
    println!(
        "{READERS} readers that do not read: {} MiB, none: {} MiB; {} MiB of changes came",
        with / MIB,
        without / MIB,
        (ENTRIES * INSTANCES * BYTES) as u64 / MIB
    );
    assert!(with <= without + EXTRA_BYTES_MAX, "{with} bytes with, {without} without readers");

    let mut complete = 0;
    for (number, mut stream) in readers.into_iter().enumerate() {
        let mut listener = Listener::new(format!("reader {number}"), Interest::all(), Some(first));
        if listen_up_to(&mut stream, &mut listener, end).await {
            complete += 1;
        } else {
            assert!(listener.was_told_the_end(), "it was ended without a word");
        }
        chronicle.told(listener);
    }
    println!("{complete} of {READERS} were told everything");
    reference.ends_at(end).await;
    assert!(chronicle.check().covered.1 >= end);
}

#[tokio::test]
async fn a_reader_that_comes_back_in_time_is_told_everything_from_memory() {
    comes_back_in_time(small_queues().set("--history-mib", 0)).await;
}

#[tokio::test]
async fn a_reader_that_comes_back_in_time_is_told_everything_from_the_history() {
    comes_back_in_time(small_queues().set("--event-log", SMALL_CHANGES / 2)).await;
}

async fn comes_back_in_time(plan: Plan) {
    let cluster = plan.start().await;
    let (client, chronicle) = (cluster.client(), Chronicle::new());
    let (writer, followers) = cluster.leader_and_followers().await;
    let first = put_many(&client, writer, "pay", INSTANCES, BYTES, 0).await;
    let reference = reference(&client, writer, &chronicle).await;
    let address = cluster.api(followers[0]);
    let mut stream = Stream::open_small(address, &format!("from={first}&wait=10s")).await;
    for round in 1..=LARGE_CHANGES {
        put_many(&client, writer, "pay", INSTANCES, BYTES, round).await;
    }
    let mut end = 0;
    for _ in 0..SMALL_CHANGES {
        end = register(&client, writer, "orders", "small").await;
    }
    let mut listener = Listener::new("the slow reader", Interest::all(), Some(first));
    assert!(listen_up_to(&mut stream, &mut listener, end).await, "it was given up");
    assert_eq!(listener.run().revisions.len(), LARGE_CHANGES + SMALL_CHANGES);
    chronicle.told(listener);
    reference.ends_at(end).await;
    chronicle.check();
}
