//! SIGSTOP of the leader for longer than the TTL, then SIGCONT.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster_tests::client::Client;
use cluster_tests::history::{History, Life, Sent, departures};
use cluster_tests::load::{Load, Shape};
use cluster_tests::seed::Seed;
use cluster_tests::wait::{until, while_it_holds};
use tokio::task::JoinSet;

use crate::three_nodes;

const TTL: Duration = Duration::from_secs(2);

/// Heartbeats that wait there, too.
const WAITING_BEATS: usize = 20;

/// Reads that wait in the paused node's sockets and are answered at the moment it wakes.
const WAITING_READS: usize = 20;

#[tokio::test]
async fn a_leader_that_wakes_removes_nobody_and_serves_nothing_stale() {
    let mut seed = Seed::of_this_run("a_leader_that_wakes");
    // All of an app fall silent in the end, and are to go at once.
    let plan = three_nodes().set("--brake-share", "100").set("--brake-app-share", "100");
    let cluster = plan.start().await;
    let client = cluster.client();
    let history = History::new();
    let shape = Shape { app: "pay".into(), writers: 1, keepers: 8, keepers_ttl: TTL };
    let load = Load::start(&client, &history, &shape, &mut seed);
    until("all keepers send heartbeats", Duration::from_secs(10), async || {
        if load.beats() >= 40 { Ok(()) } else { Err(load.beats()) }
    })
    .await;

    let (paused, others) = cluster.leader_and_followers().await;
    // These live while the leader sleeps, and send their last heartbeat to it. If that is
    // acknowledged, it counts.
    let mut late = BTreeSet::new();
    for i in 0..WAITING_BEATS {
        let sent = Sent::now();
        let one = client.at(others[0]).register("late", &format!("l{i}"), "2s").await;
        late.insert(history.registered(&one.expect("registered"), sent));
    }
    cluster.pause(paused);
    let leader = cluster.leader_but(&[paused]).await;
    assert!(others.contains(&leader));
    while_it_holds("the others keep everybody", TTL * 2, async || {
        for life in &late {
            if !beat(client.clone(), history.clone(), leader, life.clone()).await {
                return Err(format!("{life:?} is not renewed"));
            }
        }
        let (_, listed) = client.at(leader).list("pay").await.map_err(|e| e.to_string())?;
        let keepers = listed.iter().filter(|instance| instance.id.starts_with('k')).count();
        if keepers == shape.keepers { Ok(()) } else { Err(format!("{keepers} keepers are left")) }
    })
    .await;

    // What is acknowledged before the reads are sent must show in them.
    let marker = client.at(leader).register("pay", "marker", "1m").await.expect("registered");
    let mut reads = JoinSet::new();
    for _ in 0..WAITING_READS {
        reads.spawn(read(client.clone(), paused));
    }
    none_is_answered(&mut reads, Duration::from_millis(800)).await;
    let mut beats = JoinSet::new();
    for life in late.clone() {
        beats.spawn(beat(client.clone(), history.clone(), paused, life));
    }
    none_is_answered(&mut beats, Duration::from_millis(200)).await;
    cluster.wake(paused);
    let renewed = beats.join_all().await.into_iter().filter(|renewed| *renewed).count();
    println!(
        "{renewed} of {WAITING_BEATS} heartbeats that waited at the woken node were acknowledged"
    );
    let mut served = 0;
    while let Some(answer) = reads.join_next().await {
        let Some((revision, ids)) = answer.expect("it read") else { continue };
        served += 1;
        assert!(
            revision >= marker.revision,
            "S3: a read at {revision}, before {}",
            marker.revision
        );
        assert!(ids.iter().any(|id| id == "marker"), "S3: a read at {revision} lacks the marker");
    }
    println!("{served} of {WAITING_READS} reads that waited at the woken node were served");

    until("the woken node follows", Duration::from_secs(10), async || {
        let status = client.at(paused).node().await.map_err(|e| e.to_string())?;
        match (status.role.as_str(), &status.leader) {
            ("follower", Some(_)) => Ok(()),
            (role, leader) => Err(format!("{role} of {leader:?}")),
        }
    })
    .await;
    while_it_holds("the woken leader removes nobody", TTL, async || {
        let departed = departures(&cluster);
        let others = departed.iter().filter(|departure| !late.contains(&departure.life)).count();
        if others == 0 { Ok(()) } else { Err(format!("{departed:?}")) }
    })
    .await;
    until("the late ones are gone, too", TTL * 2, async || {
        let gone = departures(&cluster).iter().filter(|d| late.contains(&d.life)).count();
        if gone == late.len() * cluster.ids().len() { Ok(()) } else { Err(gone) }
    })
    .await;
    load.stop().await;
    history.check(&cluster).await;
}

/// One heartbeat at one node; whether it is acknowledged is for that node to say.
async fn beat(client: Client, history: History, node: u64, life: Life) -> bool {
    let sent = Sent::now();
    let said = client.at(node).beat(&life.app, &life.id, life.incarnation).await;
    if said.is_ok() {
        history.beaten(&life, sent);
    }
    said.is_ok()
}

/// A linearizable list at one node; a refusal is not a stale answer.
async fn read(client: Client, node: u64) -> Option<(u64, Vec<String>)> {
    let (revision, listed) = client.at(node).list("pay").await.ok()?;
    Some((revision, listed.into_iter().map(|instance| instance.id).collect()))
}

/// The requests are on their way, and none is answered: the node is stopped.
async fn none_is_answered<T: 'static>(requests: &mut JoinSet<T>, span: Duration) {
    while_it_holds("a stopped node does not answer", span, async || {
        if requests.try_join_next().is_none() { Ok(()) } else { Err("it did") }
    })
    .await;
}
