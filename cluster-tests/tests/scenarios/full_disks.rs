//! A disk that is nearly full. Nothing is really filled: the reserve is set just below what is free.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_tests::client::Client;
use cluster_tests::faults::{Filler, free_bytes};
use cluster_tests::history::History;
use cluster_tests::load::{Load, Shape};
use cluster_tests::seed::Seed;
use cluster_tests::wait::until;

use crate::{has_checkpoint, three_nodes};

const MIB: u64 = 1 << 20;

/// Between what is free and the reserve.
const ROOM: u64 = 64 * MIB;

/// A filesystem whose free space nobody else changes much: memory if there is any.
fn quiet_filesystem() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let usable = memory.is_dir() && free_bytes(memory) > 4 * ROOM;
    if usable { memory.to_owned() } else { std::env::temp_dir() }
}

#[tokio::test]
async fn a_node_with_a_nearly_full_disk_takes_no_writes_and_comes_back_by_itself() {
    let mut seed = Seed::of_this_run("a_nearly_full_disk");
    let disk = quiet_filesystem();
    // Every node could lead; the full one shall, so it is node 1 with a reserve of its own and the
    // others have none.
    let reserve = (free_bytes(&disk) - ROOM) / MIB;
    let cluster = three_nodes()
        .set_at(1, "--disk-reserve-mib", reserve)
        .set_at(2, "--disk-reserve-mib", 0)
        .set_at(3, "--disk-reserve-mib", 0)
        .data_under(1, &disk)
        .start()
        .await;
    let client = cluster.client();
    let history = History::new();
    let shape =
        Shape { app: "pay".into(), writers: 1, keepers: 3, keepers_ttl: Duration::from_secs(3) };
    let load = Load::start(&client, &history, &shape, &mut seed);
    let led = cluster.leader().await;
    println!("node 1's disk gets full while node {led} leads");

    let filler =
        Filler::new(disk.join(format!("roster-filler-{}", std::process::id())), ROOM + 8 * MIB);
    let filler = filler.expect("a file of that size");
    until("node 1 takes no writes", Duration::from_secs(5), async || {
        match client.at(1).register("pay", "refused", "1m").await {
            Ok(_) => Err("it took one".to_owned()),
            Err(e) if e.code() == "read-only" => {
                assert!(e.status() == Some(503) && !e.is_unknown(), "{e}");
                assert!(e.problem().detail.contains("--disk-reserve-mib"), "{e}");
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        }
    })
    .await;
    let not_ready = client.at(1).ready().await.expect_err("it is not ready");
    assert!(not_ready.problem().detail.contains("disk"), "{not_ready}");
    let cluster_view = client.at(1).get("/v1/cluster").await.expect("answered").json();
    // If it led, there may be nobody yet who leads in its stead, which is an alarm too.
    let alarms = cluster_view["alarms"].as_array().expect("a list");
    assert!(alarms.iter().any(|alarm| alarm["code"] == "disk-full"), "{alarms:?}");

    // It writes a checkpoint, so that it can make its log shorter.
    let checkpoints = cluster.data_dir(1).join("checkpoints");
    until("it has a checkpoint", Duration::from_secs(10), async || {
        if has_checkpoint(&checkpoints) { Ok(()) } else { Err("it has none") }
    })
    .await;
    for node in [2, 3] {
        assert!(!has_checkpoint(&cluster.data_dir(node).join("checkpoints")), "it is due anyway");
    }

    // The others write; if it led, it does no longer. It still serves reads and heartbeats.
    until("another node leads", Duration::from_secs(10), async || {
        match client.at(2).node().await.map_err(|e| e.to_string())?.leader {
            Some(leader) if leader != "1" => Ok(()),
            leader => Err(format!("{leader:?} leads")),
        }
    })
    .await;
    for i in 0..20 {
        let at = client.at(2 + i % 2);
        until("the others write", Duration::from_secs(5), async || {
            at.register("orders", &format!("i{i}"), "10m").await
        })
        .await;
    }
    beats(&client, "orders", "i1").await;
    let (_, listed) = client.at(2).list("orders").await.expect("listed");
    assert_eq!(listed.len(), 20);

    drop(filler);
    until("node 1 takes writes again", Duration::from_secs(10), async || {
        client.at(1).ready().await?;
        client.at(1).register("pay", "taken", "1m").await
    })
    .await;
    load.stop().await;
    let (_, listed) = client.at(1).list("orders").await.expect("listed");
    assert_eq!(listed.len(), 20, "it has what was written meanwhile");
    history.check(&cluster).await;
}

async fn beats(client: &Client, app: &str, id: &str) {
    let (_, listed) = client.at(2).list(app).await.expect("listed");
    let live = listed.iter().find(|instance| instance.id == id).expect("it is there");
    client.at(1).beat(app, id, live.incarnation).await.expect("renewed through node 1");
}
