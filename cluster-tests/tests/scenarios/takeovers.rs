//! A new process with an old one's name.

use cluster_tests::client::instance;
use cluster_tests::wait::until;
use serde_json::json;
use std::time::Duration;

use cluster_tests::history::departures;

use crate::three_nodes;

#[tokio::test]
async fn a_restarted_instance_takes_its_name_over_at_once_and_the_old_one_is_told() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let path = instance("pay", "a");
    let record = |port: u16| json!({"ip": "192.0.2.1", "port": port, "ttl": "1m"});

    let first = client.at(followers[0]).register("pay", "a", "1m").await.expect("registered");
    let taken = client.at(followers[1]).put(&format!("{path}?takeover=true"), &record(2)).await;
    let second = taken.expect("taken over").json();
    let second_life = second["incarnation"].as_u64().expect("an incarnation");
    assert!(second_life > first.incarnation);
    for node in cluster.ids() {
        let (_, listed) = client.at(node).list("pay").await.expect("listed");
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].incarnation, listed[0].port), (second_life, 2), "node {node}");
        let (_, shards) = client.at(node).shards("pay").await.expect("shards");
        assert_eq!(shards.len(), 1);
        assert_eq!(shards[0].revision, second_life);
        let old = client.at(node).beat("pay", "a", first.incarnation).await;
        let old = old.expect_err("the old one stays away");
        assert_eq!((old.status(), old.code()), (Some(409), "stale-incarnation"));
        assert_eq!(old.problem().body["incarnation"], second_life, "it is told the current one");
        client.at(node).beat("pay", "a", second_life).await.expect("the new one lives");
    }
    let removal = format!("{path}?incarnation={}", first.incarnation);
    let refused = client.at(leader).delete(&removal).await.expect_err("is refused");
    assert_eq!(refused.code(), "stale-incarnation");

    // Another session is another process, too.
    let session = client.at(leader).post_once("/v1/sessions", "s", &json!({"ttl": "1m"})).await;
    let session = session.expect("opened").json()["session"].clone();
    let record = json!({"ip": "192.0.2.1", "port": 3, "session": session});
    let third = client.at(followers[0]).put(&path, &record).await.expect("taken over").json();
    assert!(third["incarnation"].as_u64() > Some(second_life));
    let old = client.at(followers[1]).beat("pay", "a", second_life).await;
    assert_eq!(old.expect_err("the old one stays away").code(), "stale-incarnation");

    let expected = 2 * cluster.ids().len();
    until("each replaced life has departed once", Duration::from_secs(5), async || {
        let departed = departures(&cluster);
        let replaced = departed.iter().filter(|d| d.reason == "replaced").count();
        if replaced == expected { Ok(()) } else { Err(format!("{departed:?}")) }
    })
    .await;
}
