//! Everybody comes at once: after an outage, with registrations, and for as long as it lasts.

use std::time::{Duration, Instant};

use cluster_tests::client::Client;
use cluster_tests::cluster::Cluster;
use cluster_tests::fleet::{Fleet, SLOT, pace};
use cluster_tests::history::{History, Sent, departures};
use cluster_tests::seed::Seed;
use cluster_tests::wait::{until, while_it_holds};
use tokio::task::JoinSet;

use crate::three_nodes;

/// Slots that make a second.
const SECOND: usize = (1_000 / SLOT.as_millis()) as usize;

/// The sessions of an outage; each beats every 10 s.
const SESSIONS: usize = 3_000;
const SESSIONS_TTL: &str = "30s";
const ROUND: usize = 10 * SECOND;

/// Longer than a node lets a heartbeat wait for a leader.
const OUTAGE: Duration = Duration::from_secs(6);

/// How many register at once.
const REGISTRATIONS: usize = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_lost_their_cluster_come_back_without_an_avalanche() {
    let mut seed = Seed::of_this_run("sessions_that_lost_their_cluster");
    // A machine that runs other tests beside this one stalls its nodes for longer than usual.
    let plan = three_nodes()
        .set("--raft-heartbeat", "200ms")
        .set("--election-timeout-min", "2s")
        .set("--election-timeout-max", "2500ms");
    let cluster = plan.start().await;
    let client = cluster.client();
    let mut fleet = Fleet::start(&client, SESSIONS, SESSIONS_TTL, &mut seed).await;
    acknowledges(&fleet, SESSIONS as u64).await;
    let (_, followers) = cluster.leader_and_followers().await;

    // The leader alone has no majority: what waits there is refused, what is sent elsewhere hangs.
    followers.iter().for_each(|id| cluster.pause(*id));
    while_it_holds("no majority is left", OUTAGE, async || Ok::<_, String>(())).await;
    followers.iter().for_each(|id| cluster.wake(*id));
    let leader = cluster.leader().await;
    let term = term(&client, leader).await;
    let returned = fleet.slot();
    // Beside it a crowd of others that register, all at once.
    let registering = register_at_once(&client, &mut seed);
    acknowledges(&fleet, 3 * SESSIONS as u64).await;
    assert_eq!(registering.await, REGISTRATIONS, "all were registered in the end");

    let calls = fleet.calls(returned..fleet.slot());
    let seconds: Vec<u64> = calls.chunks_exact(SECOND).map(|second| second.iter().sum()).collect();
    println!("calls in each second after the return: {seconds:?}");
    let busiest = calls.windows(SECOND).map(|second| second.iter().sum::<u64>()).max();
    assert!(busiest < Some(SESSIONS as u64 / 2), "half of all came within a second: {calls:?}");
    // Who came back together does not stay together: else the rest of each round would be silence.
    let after_a_round = &seconds[ROUND / SECOND..];
    let mean = after_a_round.iter().sum::<u64>() / after_a_round.len() as u64;
    let quiet = after_a_round.iter().filter(|calls| **calls < mean / 3).count();
    assert!(quiet * 6 <= after_a_round.len(), "they still come together: {calls:?}");
    assert_eq!(self::term(&client, cluster.leader().await).await, term, "the leader changed again");
    assert_eq!(fleet.lost(), [""; 0], "removed, though they went on beating");
    fleet.stop().await;
}

/// Each tries again until it is registered. Returns how many were.
fn register_at_once(client: &Client, seed: &mut Seed) -> impl Future<Output = usize> + use<> {
    let mut all = JoinSet::new();
    for i in 0..REGISTRATIONS {
        let (client, mut seed) = (client.clone(), seed.split());
        all.spawn(async move {
            let ids = client.ids();
            loop {
                let at = client.at(ids[seed.below(ids.len())]);
                if at.register("storm", &format!("s{i}"), "10m").await.is_ok() {
                    return;
                }
                let pause = Duration::from_millis(seed.below(1_000) as u64);
                tokio::time::sleep(pause).await;
            }
        });
    }
    async move { all.join_all().await.len() }
}

async fn term(client: &Client, node: u64) -> u64 {
    client.at(node).node().await.expect("its status").term
}

/// Waits until so many more heartbeats were acknowledged.
async fn acknowledges(fleet: &Fleet, more: u64) {
    let wanted = fleet.acknowledged() + more;
    until("they are heard again", Duration::from_secs(120), async || match fleet.acknowledged() {
        count if count >= wanted => Ok(()),
        count => Err(format!("{count} of {wanted}; lost: {:?}", fleet.lost())),
    })
    .await;
}

/// Calls per second that the cluster is said to take, and clients that make twice as many.
const RATE: u64 = 50;
const BUSY_SESSIONS: usize = 300;
const BUSY_TTL: &str = "9s";

/// What those ask for who fall silent.
const SILENT_TTL: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_cluster_asks_for_less_and_waits_for_it_across_a_change_of_leader() {
    let mut seed = Seed::of_this_run("a_busy_cluster_asks_for_less");
    let plan = three_nodes().set("--heartbeat-rate", RATE).set("--pace-calm", "2s");
    let mut cluster = plan.start().await;
    let client = cluster.client();
    let history = History::new();
    let calm = silent(&client, &history, "calm").await;
    assert_eq!(calm, SILENT_TTL, "nothing is lengthened without load");

    let asked = humantime::parse_duration(BUSY_TTL).expect("a TTL");
    let mut fleet = Fleet::start(&client, BUSY_SESSIONS, BUSY_TTL, &mut seed).await;
    until("answers tell a longer TTL", Duration::from_secs(60), async || match fleet.told() {
        Some(told) if told.ttl > asked => {
            let third = told.ttl / 3;
            assert_eq!(told.heartbeat_every, third, "both are lengthened together");
            Ok(())
        }
        told => Err(format!("{told:?}")),
    })
    .await;
    let before = silent(&client, &history, "before").await;
    assert!(before > SILENT_TTL, "{before:?}");
    let since = Instant::now();

    // The promises of the old leader are the new one's.
    let old = cluster.leader().await;
    cluster.kill(old);
    let leader = cluster.leader().await;
    assert!(told_by(&client, leader).await.1 > 100, "the new leader holds what was told");
    cluster.start(old, &[]);
    cluster.ready().await;
    let after = silent(&client, &history, "after").await;
    while_it_holds("the silent one lives for the lengthened TTL", before, async || {
        let (_, listed) = client.at(leader).list("before").await.map_err(|e| e.to_string())?;
        match since.elapsed() < before && listed.is_empty() {
            true => Err(format!("gone {:?} after its registration", since.elapsed())),
            false => Ok(()),
        }
    })
    .await;
    println!("told {before:?} before the change of leader and {after:?} after it");

    fleet.stop().await;
    until("what is told comes back", Duration::from_secs(60), async || {
        match told_by(&client, leader).await {
            (100, held) => Ok(held),
            told => Err(format!("{told:?}")),
        }
    })
    .await;
    let (_, held) = told_by(&client, leader).await;
    assert!(held > 100, "somebody may rely on the longer TTL still, and {held} % is held");
    assert_eq!(silent(&client, &history, "calm-again").await, SILENT_TTL);
    assert_eq!(fleet.lost(), [""; 0], "removed, though they went on beating");
    all_are_gone(&cluster, &["calm", "before", "after", "calm-again"]).await;
    history.check(&cluster).await;
}

/// Registers somebody who is never heard again; gives the TTL that was told.
async fn silent(client: &Client, history: &History, app: &str) -> Duration {
    let ids = client.ids();
    let ttl = humantime::format_duration(SILENT_TTL).to_string();
    let (registered, sent) = until("it is registered", Duration::from_secs(20), async || {
        for id in &ids {
            let sent = Sent::now();
            if let Ok(registered) = client.at(*id).register(app, "silent", &ttl).await {
                return Ok((registered, sent));
            }
        }
        Err("no node takes it")
    })
    .await;
    history.registered(&registered, sent);
    humantime::parse_duration(&registered.ttl).expect("a TTL")
}

async fn told_by(client: &Client, node: u64) -> (u64, u64) {
    pace(&client.at(node).get("/v1/cluster").await.expect("the cluster").json())
}

async fn all_are_gone(cluster: &Cluster, apps: &[&str]) {
    until("all silent ones are gone", Duration::from_secs(120), async || {
        let departures = departures(cluster);
        let is_gone = |app: &&&str| !departures.iter().any(|d| d.life.app == **app);
        match apps.iter().find(is_gone) {
            None => Ok(()),
            Some(app) => Err(format!("{app} is left")),
        }
    })
    .await;
}
