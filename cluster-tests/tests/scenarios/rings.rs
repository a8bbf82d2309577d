//! Rings: one assignment per epoch, the same on all nodes, and no key worked on by two.

mod busy;
mod polling;
mod settling;

use cluster_tests::client::{At, Client};
use cluster_tests::rings::{computed_from, epoch_of, keys, owners, ring};
use serde_json::{Value, json};

/// Switches an app's ring on.
async fn switch_on(at: &At<'_>, app: &str) -> u64 {
    let ring = at.put(&format!("/v1/apps/{app}/ring"), &json!({})).await.expect("switched on");
    epoch_of(&ring.json())
}

/// The ring that all of these nodes have, with the owners of 1,000 keys.
async fn same_everywhere(client: &Client, nodes: &[u64], app: &str) -> (Value, Value) {
    let keys = keys(1_000);
    let mut first = None;
    for node in nodes {
        let at = client.at(*node);
        let description = computed_from(&ring(&at, app).await.expect("a ring"));
        let owners = owners(&at, app, &keys, Some(3)).await.expect("owners");
        let here = (description, owners["results"].clone());
        let (ring, owned) = first.get_or_insert_with(|| here.clone());
        assert_eq!(here.0, *ring, "the ring of {app} at node {node} is another");
        assert_eq!(here.1, *owned, "the owners in {app} at node {node} are others");
    }
    first.expect("at least one node")
}
