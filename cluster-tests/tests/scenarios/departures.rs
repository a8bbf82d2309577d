//! Who stops is removed, with its shard, once, everywhere.

use std::time::{Duration, Instant};

use cluster_tests::client::{At, Failed};
use cluster_tests::history::{History, Sent, departures};
use cluster_tests::load::{Load, Shape};
use cluster_tests::seed::Seed;
use cluster_tests::wait::until;

use crate::three_nodes;

const TTL: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_client_that_stops_is_removed_with_its_shard_once_in_one_revision() {
    let mut seed = Seed::of_this_run("a_client_that_stops");
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let history = History::new();
    let (_, followers) = cluster.leader_and_followers().await;
    let shape = Shape { app: "pay".into(), writers: 0, keepers: 3, keepers_ttl: TTL };
    let others = Load::start(&client, &history, &shape, &mut seed);

    let at = client.at(followers[0]);
    let mut sent = Sent::now();
    let registered = at.register("pay", "stops", "2s").await.expect("registered");
    let life = history.registered(&registered, sent);
    for _ in 0..5 {
        sent = Sent::now();
        at.beat("pay", "stops", registered.incarnation).await.expect("renewed");
        history.beaten(&life, sent);
    }
    assert_eq!(shows(&client.at(1), "stops").await.expect("read").1, (true, true));

    // From here on it is silent. Each node is asked all the time for both lists.
    let limit = TTL + Duration::from_secs(1);
    let mut gone_at = Vec::new();
    for node in cluster.ids() {
        let at = client.at(node);
        until("it is gone", limit.saturating_sub(sent.at.elapsed()), async || {
            match shows(&at, "stops").await {
                Ok((_, (true, true))) => Err("it is there".to_owned()),
                Ok((revision, (false, false))) => {
                    gone_at.push(revision);
                    Ok(())
                }
                Ok((revision, half)) => panic!("at {revision} only half of it is gone: {half:?}"),
                Err(failed) => Err(failed.to_string()),
            }
        })
        .await;
    }
    println!(
        "it was gone from all nodes {} ms after its last heartbeat",
        sent.at.elapsed().as_millis()
    );
    assert!(sent.at.elapsed() >= TTL, "S4: it went too early");

    others.stop().await;
    cluster.settled().await;
    let departed = departures(&cluster);
    assert_eq!(departed.len(), cluster.ids().len(), "one line per node: {departed:?}");
    assert!(departed.iter().all(|d| d.life == life && d.reason == "expired"), "{departed:?}");
    let removed_at = departed[0].revision;
    assert!(gone_at.iter().all(|seen| *seen >= removed_at), "{gone_at:?} before {removed_at}");
    history.check(&cluster).await;
}

/// Whether the instance and its shard are shown, at one revision: asked again until both answers
/// are of the same one.
async fn shows(at: &At<'_>, id: &str) -> Result<(u64, (bool, bool)), Failed> {
    loop {
        let (first, instances) = at.list("pay").await?;
        let (second, shards) = at.shards("pay").await?;
        if first == second {
            let instance = instances.iter().any(|instance| instance.id == id);
            let shard = shards.iter().any(|shard| shard.instance == id);
            return Ok((first, (instance, shard)));
        }
    }
}

#[tokio::test]
async fn a_deregistered_instance_takes_its_shard_with_it_and_is_not_removed_again() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let registered = client.at(leader).register("pay", "leaves", "1s").await.expect("registered");
    let path = format!(
        "{}?incarnation={}",
        cluster_tests::client::instance("pay", "leaves"),
        registered.incarnation
    );
    let left = client.at(followers[0]).delete(&path).await.expect("left");
    for node in cluster.ids() {
        let (revision, shown) = shows(&client.at(node), "leaves").await.expect("read");
        assert!(revision >= left.revision);
        assert_eq!(shown, (false, false), "node {node}");
    }
    // A retried deregister changes nothing, and neither does the TTL's end.
    let again = client.at(followers[1]).delete(&path).await.expect_err("is refused");
    assert_eq!(again.code(), "unknown-instance");
    let next = client.at(leader).register("pay", "leaves", "1m").await.expect("registered again");
    assert!(next.incarnation > registered.incarnation);
    let ttl_over = Instant::now() + Duration::from_secs(2);
    until("the first life's TTL is over", Duration::from_secs(4), async || {
        let (_, shown) = shows(&client.at(leader), "leaves").await.expect("read");
        assert_eq!(shown, (true, true), "a successor was removed");
        if Instant::now() > ttl_over { Ok(()) } else { Err("not yet") }
    })
    .await;
    let departed = departures(&cluster);
    assert_eq!(departed.len(), cluster.ids().len(), "{departed:?}");
    assert!(departed.iter().all(|d| d.revision == left.revision), "{departed:?}");
}
