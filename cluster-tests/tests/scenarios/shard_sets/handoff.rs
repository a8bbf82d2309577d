//! Shards change hands one step at a time; what does not fit is refused by name.

use cluster_tests::client::{At, Client, instance};
use cluster_tests::cluster::Cluster;
use cluster_tests::sets::{Held, put_set, release, shards, view};
use cluster_tests::wait::{until, while_it_holds};
use std::time::Duration;

use super::{PLANNED_WITHIN, all_is_held};
use crate::three_nodes;

const SET: &str = "poll";
const SHARDS: usize = 4;

/// One worker that holds all shards.
async fn one_worker(cluster: &Cluster, client: &Client) -> Vec<Held> {
    let at = client.at(cluster.leader().await);
    at.register("fetchers", "old", "10m").await.expect("registered");
    put_set(&at, SET, "fetchers", &["pay"]).await;
    for i in 0..SHARDS {
        at.register("pay", &format!("t{i}"), "10m").await.expect("registered");
    }
    all_is_held(&at, SET, SHARDS, 1).await;
    view(&at, SET, "old").await.expect("a view").shards
}

/// Waits until a worker is to let go of so many.
async fn is_asked_for(at: &At<'_>, worker: &str, count: usize) -> Vec<Held> {
    until("it is asked to let go", PLANNED_WITHIN, async || {
        let view = view(at, SET, worker).await.map_err(|e| e.to_string())?;
        let asked: Vec<_> = view.shards.iter().filter(|held| held.release).cloned().collect();
        if asked.len() == count { Ok(asked) } else { Err(format!("{view:?}")) }
    })
    .await
}

#[tokio::test]
async fn a_newcomer_gets_what_was_let_go_and_nothing_before_that() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let first = one_worker(&cluster, &client).await;
    let (leader, followers) = cluster.leader_and_followers().await;
    let at = client.at(followers[0]);
    at.register("fetchers", "new", "10m").await.expect("registered");
    let asked = is_asked_for(&at, "old", SHARDS / 2).await;
    while_it_holds("nothing is taken from it", Duration::from_millis(300), async || {
        let new = view(&client.at(leader), SET, "new").await.map_err(|e| e.to_string())?;
        if new.shards.is_empty() { Ok(()) } else { Err(format!("{new:?}")) }
    })
    .await;

    // One of an old grant, one that it does not hold, beside one that is as it should be.
    let [good, late] = [&asked[0], &asked[1]];
    let told = [(&*late.shard, late.grant - 1), ("pay/none", 1), (&*good.shard, good.grant)];
    let results = release(&client.at(followers[1]), SET, "old", &told).await.expect("results");
    assert_eq!(results.len(), 3, "{results:?}");
    assert_eq!(results[0]["code"], "stale-token", "{results:?}");
    assert_eq!(results[0]["holder"], "old", "{results:?}");
    assert_eq!(results[0]["grant"], late.grant, "{results:?}");
    assert!(results[1]["code"].is_string(), "{results:?}");
    assert!(results[2]["code"].is_null(), "{results:?}");
    for node in cluster.ids() {
        let at = client.at(node);
        let new = view(&at, SET, "new").await.expect("a view").shards;
        assert_eq!(new.len(), 1, "node {node}");
        assert!(new[0].shard == good.shard && new[0].grant > good.grant, "{new:?}");
        let old = view(&at, SET, "old").await.expect("a view").shards;
        assert_eq!(old.len(), SHARDS - 1, "node {node}");
        assert!(old.contains(late), "node {node}: {old:?}");
        let kept = first.iter().filter(|held| old.contains(held)).count();
        assert_eq!(kept, SHARDS / 2, "what stays is not touched: {old:?}");
    }
    // The same again changes nothing: it is not its own any more.
    let again = release(&at, SET, "old", &[(&good.shard, good.grant)]).await.expect("results");
    assert_eq!(again[0]["code"], "stale-token", "{again:?}");
    assert_eq!(again[0]["holder"], "new", "{again:?}");
}

#[tokio::test]
async fn a_shard_whose_transport_leaves_is_kept_only_until_its_worker_lets_go() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    one_worker(&cluster, &client).await;
    let (leader, followers) = cluster.leader_and_followers().await;
    let at = client.at(followers[0]);
    at.delete(&instance("pay", "t0")).await.expect("it leaves");
    let asked = is_asked_for(&client.at(leader), "old", 1).await;
    assert_eq!(asked[0].shard, "pay/t0");
    for node in cluster.ids() {
        let listed = shards(&client.at(node), SET).await.expect("shards");
        let gone: Vec<_> = listed.iter().filter(|s| s.gone).map(|s| s.shard.as_str()).collect();
        assert_eq!(gone, ["pay/t0"], "node {node}");
    }
    release(&at, SET, "old", &[("pay/t0", asked[0].grant)]).await.expect("results");
    all_is_held(&client.at(leader), SET, SHARDS - 1, 1).await;
}

#[tokio::test]
async fn the_app_of_a_sets_workers_cannot_be_deleted_while_the_set_is_there() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    one_worker(&cluster, &client).await;
    let (leader, followers) = cluster.leader_and_followers().await;
    for node in [leader, followers[0]] {
        let refused = client.at(node).delete("/v1/apps/fetchers?cascade=true").await;
        let refused = refused.expect_err("it is in use");
        assert_eq!((refused.status(), refused.code()), (Some(409), "app-in-use"), "{refused}");
        assert!(refused.problem().detail.contains(SET), "it does not say by which: {refused}");
    }
    all_is_held(&client.at(leader), SET, SHARDS, 1).await;
    client.at(followers[1]).delete(&format!("/v1/shard-sets/{SET}")).await.expect("gone");
    client.at(leader).delete("/v1/apps/fetchers?cascade=true").await.expect("gone");
}
