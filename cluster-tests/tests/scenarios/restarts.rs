//! Nodes die all at once and come back, or are told to stop.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use cluster_tests::client::{Client, Failed, Registered};
use cluster_tests::history::{History, Sent, departures};
use cluster_tests::wait::{until, while_it_holds};
use tokio::task::JoinSet;

use crate::three_nodes;

const TTL: Duration = Duration::from_secs(3);
const INSTANCES: usize = 30;

#[tokio::test]
async fn after_the_death_of_all_nodes_everything_is_there_and_has_a_full_ttl() {
    let mut cluster =
        three_nodes().set("--checkpoint-every", 20).set("--log-keep", 5).start().await;
    let client = cluster.client();
    let history = History::new();
    let mut registered: Vec<Registered> = Vec::new();
    for i in 0..INSTANCES {
        let node = cluster.ids()[i % 3];
        let sent = Sent::now();
        let one =
            client.at(node).register("pay", &format!("i{i}"), "3s").await.expect("registered");
        history.registered(&one, sent);
        registered.push(one);
    }
    let (revision, _) = client.at(2).list("pay").await.expect("listed");

    cluster.kill_all();
    let down_at = tokio::time::Instant::now();
    while_it_holds("nobody answers", TTL, async || match client.at(1).ready().await {
        Err(_) => Ok(()),
        Ok(()) => Err("a dead node answered"),
    })
    .await;
    println!("all nodes were dead for {:?}", down_at.elapsed());
    cluster.start_all();
    cluster.ready().await;

    for node in cluster.ids() {
        let (read_at, listed) = client.at(node).list("pay").await.expect("listed");
        assert!(read_at >= revision, "S2: node {node} went back from {revision} to {read_at}");
        let missing = history.missing(&listed);
        assert!(missing.is_empty(), "S7: node {node} has lost {missing:?}");
    }
    let write = client.at(3).register("pay", "after", "1m").await.expect("registered");
    assert!(write.revision > revision, "S2: a write went back");

    // One half sends heartbeats again, the other stays silent.
    let (live, silent) = registered.split_at(INSTANCES / 2);
    let ready_at = SystemTime::now();
    until("the silent half is gone", TTL * 3, async || {
        beat_all(&client, &history, live).await;
        let (_, listed) = client.at(1).list("pay").await.map_err(|e| e.to_string())?;
        let left = listed.iter().filter(|i| silent.iter().any(|s| s.id == i.id)).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    })
    .await;
    cluster.settled().await;
    let departed = departures(&cluster);
    assert_eq!(departed.len(), silent.len() * 3, "S6: {departed:?}");
    for departure in &departed {
        // Ready means that a leader is known, so a node was ready no earlier than it could have
        // been given a full TTL.
        let lived = departure.at.duration_since(ready_at).unwrap_or_default();
        let slack = Duration::from_millis(200);
        assert!(lived + slack >= TTL, "S4: {departure:?} left {lived:?} after the restart");
    }
    let (_, listed) = client.at(1).list("pay").await.expect("listed");
    assert_eq!(listed.len(), live.len() + 1);
    history.check(&cluster).await;
}

async fn beat_all(client: &Client, history: &History, instances: &[Registered]) {
    for (i, one) in instances.iter().enumerate() {
        let node = 1 + i as u64 % 3;
        let life = cluster_tests::history::Life {
            app: one.app.clone(),
            id: one.id.clone(),
            incarnation: one.incarnation,
        };
        let sent = Sent::now();
        let beaten = client.at(node).beat(&one.app, &one.id, one.incarnation).await;
        beaten.unwrap_or_else(|e| panic!("{life:?} at node {node}: {e}"));
        history.beaten(&life, sent);
    }
}

/// Whoever is told to stop needs to be told once, whatever its clients and peers do.
#[tokio::test]
async fn a_node_that_is_told_to_stop_ends_cleanly() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    client.at(1).register("pay", "i1", "1m").await.expect("registered");
    let mut idle = Vec::new();
    for id in cluster.ids() {
        let mut half = TcpStream::connect(cluster.api(id)).expect("it takes connections");
        half.write_all(b"GET /v1/apps HTTP/1.1\r\nhost: x\r\n").expect("sent");
        idle.extend([half, TcpStream::connect(cluster.api(id)).expect("it takes connections")]);
    }
    let (leader, followers) = cluster.leader_and_followers().await;
    // A follower, the leader, and then the last one without a majority.
    let order = [followers[0], leader, followers[1]];
    for id in order {
        cluster.stop(id).await;
    }
    for id in order {
        let log = cluster.last_log(id);
        let errors: Vec<_> = log.lines().filter(|line| line.contains("\"ERROR\"")).collect();
        assert!(errors.is_empty(), "node {id} ({order:?} stopped): {errors:#?}");
        assert!(log.contains("\"stopped\""), "node {id} did not end as it should:\n{log}");
    }
    drop(idle);
}

const CLEAN_STOPS: usize = 4;
const WRITERS_PER_NODE: usize = 8;

/// A leader hands the leadership on and closes its doors only then: what a follower brings it until
/// that is answered, or goes to the next leader.
#[tokio::test]
async fn a_leader_that_stops_cleanly_leaves_no_write_of_another_node_in_doubt() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    let written = Arc::new(AtomicUsize::new(0));
    for stop in 1..=CLEAN_STOPS {
        let (leader, followers) = cluster.leader_and_followers().await;
        let over = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for node in followers {
            for writer in 0..WRITERS_PER_NODE {
                let app = format!("stop{stop}-node{node}-writer{writer}");
                let work = write_until(client.clone(), node, app, written.clone(), over.clone());
                writers.spawn(work);
            }
        }
        goes_on(&written).await;
        cluster.stop(leader).await;
        goes_on(&written).await;
        over.store(true, Ordering::Relaxed);
        for failed in writers.join_all().await.into_iter().flatten() {
            assert!(!failed.is_unknown(), "stop {stop}: {failed}");
        }
        cluster.start(leader, &[]);
        cluster.ready().await;
    }
    println!("{} writes were acknowledged", written.load(Ordering::Relaxed));
}

/// Writes one after the other, and returns how some failed.
async fn write_until(
    client: Client,
    node: u64,
    app: String,
    written: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
) -> Vec<Failed> {
    let mut failed = Vec::new();
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        match client.at(node).register(&app, &format!("i{number}"), "1m").await {
            Ok(_) => drop(written.fetch_add(1, Ordering::Relaxed)),
            Err(why) => failed.push(why),
        }
    }
    failed
}

/// Waits for more writes than are under way.
async fn goes_on(written: &AtomicUsize) {
    let wanted = written.load(Ordering::Relaxed) + 4 * WRITERS_PER_NODE;
    until("writes go on", Duration::from_secs(20), async || {
        match written.load(Ordering::Relaxed) {
            now if now >= wanted => Ok(()),
            now => Err(format!("{now} of {wanted}")),
        }
    })
    .await;
}
