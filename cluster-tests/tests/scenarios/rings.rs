//! Rings: one assignment per epoch, the same on all nodes, and no key worked on by two.

mod busy;
mod polling;
mod settling;

use cluster_tests::client::{At, Client};
use cluster_tests::cluster::READY_WITHIN;
use cluster_tests::rings::{computed_from, epoch_of, keys, owners, ring};
use cluster_tests::wait::until;
use roster::client::{RingDescription, RingView};
use serde::Deserialize;
use serde_json::{Value, json};

/// Switches an app's ring on.
async fn switch_on(at: &At<'_>, app: &str) -> u64 {
    let ring = at.put(&format!("/v1/apps/{app}/ring"), &json!({})).await.expect("switched on");
    epoch_of(&ring.json())
}

/// Waits until no change comes in between, and gives the ring that all of these nodes have: they name
/// the same owners of 1,000 keys, which are those that follow from its description.
async fn same_everywhere(client: &Client, nodes: &[u64], app: &str) -> Value {
    let keys = keys(1_000);
    until("the ring is asked for at one epoch", READY_WITHIN, async || {
        let first = ring(&client.at(nodes[0]), app).await.map_err(|e| e.to_string())?;
        let computed = owners_by(&first, &keys);
        for node in nodes {
            let at = client.at(*node);
            let here = ring(&at, app).await.map_err(|e| e.to_string())?;
            let named = owners(&at, app, &keys, Some(COPIES)).await.map_err(|e| e.to_string())?;
            let epochs = [epoch_of(&first), epoch_of(&here), epoch_of(&named)];
            if epochs.iter().any(|epoch| *epoch != epochs[0]) {
                return Err(format!("it changes: {epochs:?}"));
            }
            let (first, here) = (computed_from(&first), computed_from(&here));
            assert_eq!(here, first, "the ring of {app} at node {node} is another");
            assert_eq!(named["results"], computed, "the owners in {app} at node {node} are others");
        }
        Ok(first)
    })
    .await
}

/// Copies of a key that are compared.
const COPIES: u8 = 3;

/// What a client computes: in the shape of a node's answer.
fn owners_by(description: &Value, keys: &[String]) -> Value {
    let description = RingDescription::deserialize(description).expect("a description");
    let view = RingView::try_from(description).expect("a ring");
    let of = |key: &String| json!({"owners": view.owners(key.as_bytes(), COPIES.into())});
    keys.iter().map(of).collect()
}
