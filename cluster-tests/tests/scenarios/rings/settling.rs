//! Adopted and settled: who gained a key begins when all who may be at work on it have stopped.

use cluster_tests::client::{Client, Failed, instance};
use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::rings::{epoch_of, keys, owners, ring};
use cluster_tests::wait::until;
use serde_json::{Value, json};

use super::switch_on;
use crate::three_nodes;

const APP: &str = "fetchers";

/// Much longer than any of these tests, so that nobody expires in between.
const TTL: &str = "10m";

/// A member of the ring, played by the test.
struct Member {
    id: String,
    session: String,
    /// The largest epoch that it was ever told to be settled.
    settled: u64,
}

impl Member {
    /// With a session on which nothing is registered.
    async fn opens(client: &Client, node: u64, id: &str, key: &str) -> Self {
        let (at, body) = (client.at(node), json!({"ttl": TTL, "name": id}));
        let opened = at.post_once("/v1/sessions", key, &body).await.expect("opened").json();
        let session = opened["session"].as_str().expect("a session").to_owned();
        Self { id: id.into(), session, settled: 0 }
    }

    async fn joins(client: &Client, node: u64, id: &str) -> Self {
        let member = Self::opens(client, node, id, id).await;
        let record = json!({"ip": "192.0.2.1", "port": 1, "session": member.session});
        client.at(node).put(&instance(APP, id), &record).await.expect("registered");
        member
    }

    /// Tells what it has adopted, and gives what the answer says is settled.
    async fn tells(&mut self, client: &Client, node: u64, adopted: u64) -> Result<u64, Failed> {
        let path = format!("/v1/sessions/{}/heartbeat", self.session);
        let answer = client.at(node).put(&path, &json!({"adopted": {APP: adopted}})).await?.json();
        let settled = answer["settled"][APP].as_u64();
        let settled = settled.unwrap_or_else(|| panic!("{} was told {answer}", self.id));
        self.settled = self.settled.max(settled);
        Ok(settled)
    }

    /// The same, tried until a node serves again.
    async fn gets_to_tell(&mut self, client: &Client, node: u64, adopted: u64) -> u64 {
        until("there is a leader that hears it", READY_WITHIN, async || {
            match self.tells(client, node, adopted).await {
                Err(failed) if failed.status().is_some_and(|status| status < 500) => {
                    panic!("{} at node {node}: {failed}", self.id)
                }
                other => other,
            }
        })
        .await
    }

    /// Whichever node it asks, the epoch is not settled.
    async fn may_not_begin(&mut self, client: &Client, nodes: &[u64], epoch: u64, why: &str) {
        for node in nodes {
            let settled = self.gets_to_tell(client, *node, epoch).await;
            assert!(settled < epoch, "{}, but node {node} says {settled} is settled", why);
        }
    }

    /// Whichever node it asks, the epoch is settled.
    async fn may_begin(&mut self, client: &Client, nodes: &[u64], epoch: u64) {
        for node in nodes {
            let settled = self.gets_to_tell(client, *node, epoch).await;
            assert_eq!(settled, epoch, "{} at node {node}", self.id);
        }
    }
}

async fn epoch(client: &Client, node: u64) -> u64 {
    epoch_of(&ring(&client.at(node), APP).await.expect("a ring"))
}

async fn owners_of_keys(client: &Client, node: u64) -> Vec<Value> {
    let answer = owners(&client.at(node), APP, &keys(100), None).await.expect("owners");
    answer["results"].as_array().expect("results").clone()
}

/// Two members whose ring is settled.
async fn a_settled_pair(cluster: &Cluster, client: &Client) -> (Member, Member) {
    let leader = cluster.leader().await;
    let mut a = Member::joins(client, leader, "a").await;
    switch_on(&client.at(leader), APP).await;
    let mut b = Member::joins(client, leader, "b").await;
    let first = epoch(client, leader).await;
    a.gets_to_tell(client, leader, first).await;
    b.may_begin(client, &cluster.ids(), first).await;
    (a, b)
}

#[tokio::test]
async fn who_gained_a_key_may_begin_when_its_loser_has_stopped_whichever_node_is_asked() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let nodes = cluster.ids();
    let (mut a, mut b) = a_settled_pair(&cluster, &client).await;
    let (first, before) = (epoch(&client, leader).await, owners_of_keys(&client, leader).await);

    let mut c = Member::joins(&client, followers[0], "c").await;
    let (second, after) = (epoch(&client, leader).await, owners_of_keys(&client, leader).await);
    assert!(second > first);
    let from_a = |(was, is): (&Value, &Value)| was["owners"][0] == "a" && is["owners"][0] == "c";
    assert!(before.iter().zip(&after).any(from_a), "c gained no key of a: {after:?}");

    c.may_not_begin(&client, &nodes, second, "neither a nor b has stopped").await;
    b.gets_to_tell(&client, followers[0], second).await;
    c.may_not_begin(&client, &nodes, second, "a has not stopped").await;
    // That it lives is not that it has stopped.
    a.gets_to_tell(&client, leader, first).await;
    a.gets_to_tell(&client, followers[1], first).await;
    c.may_not_begin(&client, &nodes, second, "a told only the epoch before").await;
    a.gets_to_tell(&client, followers[1], second).await;
    c.may_begin(&client, &nodes, second).await;
    b.may_begin(&client, &nodes, second).await;
}

#[tokio::test]
async fn who_leaves_or_drains_is_waited_for_no_longer_than_it_works() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let (mut a, mut b) = a_settled_pair(&cluster, &client).await;
    let at = client.at(followers[0]);
    let word = format!("{}/override", instance(APP, "b"));
    at.put(&word, &json!({"state": "draining"})).await.expect("set");
    let drained = epoch(&client, leader).await;
    a.may_not_begin(&client, &cluster.ids(), drained, "b drains, and may be at work").await;
    b.gets_to_tell(&client, leader, drained).await;
    a.may_begin(&client, &cluster.ids(), drained).await;

    let mut c = Member::joins(&client, leader, "c").await;
    let joined = epoch(&client, leader).await;
    c.may_not_begin(&client, &cluster.ids(), joined, "a has not stopped").await;
    at.delete(&instance(APP, "a")).await.expect("it leaves");
    let left = epoch(&client, leader).await;
    assert!(left > joined);
    c.may_begin(&client, &cluster.ids(), left).await;
}

#[tokio::test]
async fn a_takeover_is_a_new_epoch_although_it_moves_no_key() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let (mut a, b) = a_settled_pair(&cluster, &client).await;
    let before = ring(&client.at(leader), APP).await.expect("a ring");
    let mut successor = Member::opens(&client, followers[0], "b", "b-again").await;
    let record = json!({"ip": "192.0.2.1", "port": 1, "session": successor.session});
    let path = format!("{}?takeover=true", instance(APP, "b"));
    let taken = client.at(followers[1]).put(&path, &record).await.expect("taken over");
    for node in cluster.ids() {
        let after = ring(&client.at(node), APP).await.expect("a ring");
        assert_eq!(
            epoch_of(&after),
            taken.revision,
            "node {node}: work of before is not told apart"
        );
        assert_eq!(after["slots"], before["slots"], "node {node}");
    }
    assert!(b.settled < taken.revision);
    successor.may_not_begin(&client, &cluster.ids(), taken.revision, "a has not adopted it").await;
    a.gets_to_tell(&client, leader, taken.revision).await;
    successor.may_begin(&client, &cluster.ids(), taken.revision).await;
}

#[tokio::test]
async fn a_new_leader_takes_nothing_as_settled_until_all_have_told_again() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let (mut a, mut b) = a_settled_pair(&cluster, &client).await;
    let mut c = Member::joins(&client, followers[0], "c").await;
    let now = epoch(&client, leader).await;
    b.gets_to_tell(&client, followers[1], now).await;
    let kept = b.settled;
    assert!(kept > 0 && kept < now, "the epoch before is settled: {kept} of {now}");

    cluster.kill(leader);
    // The old leader knew of b and c; the new one has heard nobody.
    a.may_not_begin(&client, &followers, now, "only a has told the new leader").await;
    c.may_not_begin(&client, &followers, now, "b has not told the new leader").await;
    assert_eq!(b.settled, kept, "who keeps the largest never goes back");
    cluster.start(leader, &[]);
    cluster.ready().await;
    c.may_not_begin(&client, &cluster.ids(), now, "b has not told the new leader").await;
    b.may_begin(&client, &cluster.ids(), now).await;
    for member in [&mut a, &mut c] {
        member.may_begin(&client, &cluster.ids(), now).await;
    }
}
