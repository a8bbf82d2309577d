//! A node that slept for so long that it comes back through a checkpoint of the leader.

use std::time::Duration;

use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::wait::until;
use cluster_tests::watch::{Chronicle, Form, Interest, Listener, Stream};

use super::{ask_every_revision, listen_up_to, reference, register, watch_from_snapshot};
use crate::{newest_checkpoint, three_nodes};

/// Of the leader, while the node sleeps for the first time; twice as many each further time.
const CHECKPOINTS_MISSED: usize = 5;

/// Between two looks for a checkpoint.
const WRITES_AT_ONCE: usize = 20;

/// Sleeps at most to let a node miss what the log does not keep.
const SLEEPS_MAX: usize = 5;

#[tokio::test]
async fn a_node_that_jumps_to_a_checkpoint_tells_its_watchers_that_they_missed_something() {
    let cluster = three_nodes().set("--checkpoint-every", 40).set("--log-keep", 5).start().await;
    let (client, chronicle) = (cluster.client(), Chronicle::new());
    let (writer, followers) = cluster.leader_and_followers().await;
    let (asleep, awake) = (followers[0], followers[1]);
    let before = register(&client, writer, "pay", "before").await;
    cluster.settled().await;
    let reference = reference(&client, awake, &chronicle).await;
    let mut watches = Vec::new();
    for (query, interest) in [
        ("", Interest::all()),
        ("&restart=snapshot", Interest::all()),
        ("&app=pay", Interest::app("pay")),
        ("&app=idle", Interest::app("idle")),
    ] {
        let query = format!("from={before}{query}");
        let stream = Stream::open(&client.at(asleep), &query, Form::Lines).await.expect("a stream");
        watches.push((stream, Listener::new(query, interest, Some(before))));
    }

    sleeps_until_it_needs_a_checkpoint(&cluster, asleep, writer).await;
    let idle = register(&client, writer, "idle", "a").await;
    let after = register(&client, writer, "pay", "after").await;
    cluster.settled().await;
    reference.ends_at(after).await;

    for (mut stream, mut listener) in watches {
        let upto = if listener.run().interest == Interest::app("idle") { idle } else { after };
        if !listen_up_to(&mut stream, &mut listener, upto).await {
            assert!(listener.is_compacted(), "another end than expected");
        }
        chronicle.told(listener);
    }
    // Whoever comes anew gets all, or is refused.
    let refused = ask_every_revision(&client, asleep, before..=after, &chronicle).await;
    println!("{refused} of {} revisions were refused", after - before + 1);
    let checked = chronicle.check();
    assert!(checked.covered.1 >= after, "{checked:?}");
}

/// The leader keeps what it is just sending to a sleeping node, so a short sleep may not be enough.
async fn sleeps_until_it_needs_a_checkpoint(cluster: &Cluster, asleep: u64, writer: u64) {
    let client = cluster.client();
    for sleep in 0..SLEEPS_MAX {
        cluster.pause(asleep);
        let mut last = 0;
        for _ in 0..CHECKPOINTS_MISSED << sleep {
            last = write_until_there_is_another_checkpoint(cluster, writer).await;
        }
        cluster.wake(asleep);
        until("it has caught up", READY_WITHIN, async || {
            let applied = client.at(asleep).node().await.map_err(|e| e.to_string())?.applied;
            if applied >= last { Ok(()) } else { Err(format!("{applied} of {last}")) }
        })
        .await;
        if cluster.last_log(asleep).contains("received a checkpoint") {
            return println!("it needed a checkpoint after {} sleeps", sleep + 1);
        }
    }
    panic!("it never needed a checkpoint");
}

/// Returns the last revision.
async fn write_until_there_is_another_checkpoint(cluster: &Cluster, writer: u64) -> u64 {
    let client = cluster.client();
    let checkpoints = cluster.data_dir(writer).join("checkpoints");
    let before = newest_checkpoint(&checkpoints);
    until("there is another checkpoint", READY_WITHIN, async || {
        let mut last = 0;
        for i in 0..WRITES_AT_ONCE {
            let app = ["pay", "orders"][i % 2];
            last = register(&client, writer, app, &format!("i{i}")).await;
        }
        if newest_checkpoint(&checkpoints) > before { Ok(last) } else { Err("there is none") }
    })
    .await
}

#[tokio::test]
async fn a_node_that_only_dozed_tells_everything() {
    let cluster = three_nodes().start().await;
    let (client, chronicle) = (cluster.client(), Chronicle::new());
    let (writer, followers) = cluster.leader_and_followers().await;
    let reference = reference(&client, writer, &chronicle).await;
    let (mut stream, mut listener) = watch_from_snapshot(&client, followers[0]).await;
    cluster.pause(followers[0]);
    let mut last = 0;
    for i in 0..50 {
        last = register(&client, writer, "pay", &format!("i{i}")).await;
    }
    let quiet = stream.next_within(Duration::from_millis(100)).await;
    assert!(quiet.is_none(), "a stopped node told {quiet:?}");
    cluster.wake(followers[0]);
    assert!(listen_up_to(&mut stream, &mut listener, last).await, "it ended");
    reference.ends_at(last).await;
    assert_eq!(listener.run().revisions.len(), 50);
    chronicle.told(listener);
    chronicle.check();
}
