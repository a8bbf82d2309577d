//! A node that lost its disk.

use std::time::Duration;

use cluster_tests::client::Client;
use cluster_tests::cluster::{Plan, READY_WITHIN};
use cluster_tests::history::{History, Sent};
use cluster_tests::wait::{until, while_it_holds};

use crate::{three_nodes, wait_until_voter};

const INSTANCES: usize = 200;

/// Checkpoints come early and the log is cut behind them, so a new disk must get a checkpoint.
fn few_entries_kept() -> Plan {
    three_nodes().set("--checkpoint-every", 50).set("--log-keep", 10)
}

async fn fill(at: &[u64], client: &Client, history: &History, app: &str) {
    for i in 0..INSTANCES {
        let node = at[i % at.len()];
        let sent = Sent::now();
        let one = client.at(node).register(app, &format!("i{i}"), "10m").await.expect("registered");
        history.registered(&one, sent);
    }
}

#[tokio::test]
async fn a_node_with_an_emptied_disk_does_not_vote_and_says_why() {
    let mut cluster = few_entries_kept().start().await;
    let client = cluster.client();
    let history = History::new();
    fill(&cluster.ids(), &client, &history, "pay").await;
    let (leader, followers) = cluster.leader_and_followers().await;
    let (wiped, other) = (followers[0], followers[1]);
    cluster.kill(wiped);
    cluster.wipe(wiped);
    cluster.start(wiped, &[]);

    let why = until("it says why it is not ready", READY_WITHIN, async || {
        match client.at(wiped).ready().await {
            Ok(()) => panic!("an emptied node is ready"),
            Err(not_ready) if not_ready.problem().detail.contains("--replace-disk") => {
                Ok(not_ready)
            }
            Err(e) => Err(e.to_string()),
        }
    })
    .await;
    assert_eq!((why.status(), why.code()), (Some(503), "not-ready"));
    let status = client.at(wiped).node().await.expect("its status");
    assert_eq!(status.role, "outside");
    let refused = client.at(wiped).list("pay").await.expect_err("it has nothing to read");
    assert_eq!(refused.code(), "not-ready");
    let refused = client.at(wiped).register("pay", "x", "1m").await.expect_err("it takes nothing");
    assert!(refused.code() == "not-ready" && !refused.is_unknown(), "{refused}");

    // The others go on.
    let sent = Sent::now();
    let more = client.at(other).register("pay", "more", "10m").await.expect("registered");
    history.registered(&more, sent);
    // Its vote is not to be had: with one voter more dead there is no majority.
    cluster.kill(leader);
    let client = client.patient(Duration::from_secs(1));
    while_it_holds("nobody wins an election", Duration::from_secs(3), async || {
        let status = client.at(other).node().await.map_err(|e| e.to_string())?;
        if status.role == "leader" { Err(format!("{status:?}")) } else { Ok(()) }
    })
    .await;
    cluster.start(leader, &[]);
    cluster.leader_but(&[wiped]).await;
    let client = cluster.client();
    for node in [leader, other] {
        let (_, listed) = client.at(node).list("pay").await.expect("listed");
        assert!(history.missing(&listed).is_empty());
    }
}

/// The lowest node made the cluster. A new disk in its place did not, and joins like any other.
#[tokio::test]
async fn the_node_that_made_the_cluster_can_be_replaced() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    let history = History::new();
    fill(&cluster.ids(), &client, &history, "pay").await;
    cluster.kill(1);
    cluster.wipe(1);
    cluster.leader().await;
    cluster.start(1, &["--replace-disk"]);
    cluster.ready().await;
    wait_until_voter(&client, 2, 1).await;
    let (_, listed) = client.at(1).list("pay").await.expect("listed");
    assert!(history.missing(&listed).is_empty());
    cluster.stop(1).await;
    cluster.start(1, &[]);
    cluster.ready().await;
    history.check(&cluster).await;
}

#[tokio::test]
async fn a_replaced_disk_catches_up_by_a_checkpoint_and_votes_again() {
    let mut cluster = few_entries_kept().start().await;
    let client = cluster.client();
    let history = History::new();
    fill(&cluster.ids(), &client, &history, "pay").await;
    let (leader, followers) = cluster.leader_and_followers().await;
    let (wiped, other) = (followers[0], followers[1]);
    cluster.kill(wiped);
    cluster.wipe(wiped);
    cluster.start(wiped, &["--replace-disk"]);
    fill(&[leader, other], &client, &history, "orders").await;

    cluster.ready().await;
    wait_until_voter(&client, leader, wiped).await;
    let log = cluster.last_log(wiped);
    assert!(log.contains("received a checkpoint"), "it caught up otherwise:\n{log}");
    history.check(&cluster).await;

    // Its vote counts: it and one more are a majority without the third.
    cluster.kill(leader);
    let next = cluster.leader().await;
    assert!([wiped, other].contains(&next));
    let sent = Sent::now();
    let more = client.at(wiped).register("pay", "more", "10m").await.expect("registered");
    history.registered(&more, sent);

    // From now on the disk is like any other: it starts without the flag.
    cluster.start(leader, &[]);
    cluster.ready().await;
    cluster.stop(wiped).await;
    cluster.start(wiped, &[]);
    cluster.ready().await;
    history.check(&cluster).await;
}
