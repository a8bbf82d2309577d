//! What one node acknowledged, every node shows.

use crate::three_nodes;

#[tokio::test]
async fn what_is_registered_on_one_node_is_read_on_all() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let mut revision = 0;
    for round in 0..20 {
        for writer in cluster.ids() {
            let id = format!("{writer}-{round}");
            let registered =
                client.at(writer).register("pay", &id, "1m").await.expect("registered");
            assert!(registered.revision > revision, "a later write has a higher revision");
            revision = registered.revision;
            for reader in cluster.ids() {
                let (read_at, listed) = client.at(reader).list("pay").await.expect("listed");
                let found = listed.iter().find(|instance| instance.id == id);
                let found = found.unwrap_or_else(|| panic!("node {reader} does not show {id}"));
                assert_eq!(found.incarnation, registered.incarnation);
                assert!(
                    read_at >= revision,
                    "node {reader} went back from {revision} to {read_at}"
                );
                revision = read_at;
            }
        }
    }
    let states = cluster.settled().await;
    assert!(states.iter().all(|state| state.state_hash == states[0].state_hash), "{states:?}");
}
