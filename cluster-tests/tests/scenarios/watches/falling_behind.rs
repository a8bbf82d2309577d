//! A node that slept for so long that it comes back through a checkpoint of the leader.

use std::time::Duration;

use cluster_tests::cluster::READY_WITHIN;
use cluster_tests::wait::until;
use cluster_tests::watch::{Chronicle, Form, Interest, Listener, Stream};

use super::{ask_every_revision, listen_up_to, reference, register, watch_from_snapshot};
use crate::three_nodes;

/// More than the log keeps behind a checkpoint.
const MISSED: usize = 120;

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

    cluster.pause(asleep);
    for i in 0..MISSED {
        register(&client, writer, ["pay", "orders"][i % 2], &format!("i{}", i % 20)).await;
    }
    cluster.wake(asleep);
    until("it got a checkpoint", READY_WITHIN, async || {
        let log = cluster.last_log(asleep);
        if log.contains("received a checkpoint") { Ok(()) } else { Err("not yet") }
    })
    .await;
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
