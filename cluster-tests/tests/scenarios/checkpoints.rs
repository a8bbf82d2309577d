//! When checkpoints are written, and what a bad sender can do.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use cluster_tests::client::instance;
use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::wait::until;
use serde_json::{Value, json};

use crate::{has_checkpoint, newest_checkpoint, three_nodes};

/// Few entries, but large ones.
#[tokio::test]
async fn a_checkpoint_is_written_after_so_many_bytes() {
    let cluster = three_nodes().nodes(1).set("--checkpoint-every-mib", 1).start().await;
    let checkpoints = cluster.data_dir(1).join("checkpoints");
    let client = cluster.client();
    let build = "x".repeat(10_000);
    let body = json!({"ip": "192.0.2.1", "port": 1, "ttl": "10m", "metadata": {"build": build}});
    for i in 0..50 {
        client.at(1).put(&instance("pay", &format!("i{i}")), &body).await.expect("registered");
    }
    assert!(!has_checkpoint(&checkpoints), "half a MiB is not enough");
    for i in 50..120 {
        client.at(1).put(&instance("pay", &format!("i{i}")), &body).await.expect("registered");
    }
    until("there is a checkpoint", READY_WITHIN, async || {
        if has_checkpoint(&checkpoints) { Ok(()) } else { Err("there is none") }
    })
    .await;
}

/// Else a cluster that fills up, or whose members change, would mostly write checkpoints.
#[tokio::test]
async fn a_large_state_is_written_again_only_after_as_much_log() {
    let cluster = three_nodes().nodes(1).set("--checkpoint-every-mib", 1).start().await;
    let checkpoints = cluster.data_dir(1).join("checkpoints");
    let client = cluster.client();
    let build = "x".repeat(10_000);
    let body = json!({"ip": "192.0.2.1", "port": 1, "ttl": "10m", "metadata": {"build": build}});
    let register = async |i| {
        client.at(1).put(&instance("pay", &format!("i{i}")), &body).await.expect("registered");
    };
    for i in 0..700 {
        register(i).await;
    }
    let before = newest_checkpoint(&checkpoints);
    until("there is a checkpoint of all of them", READY_WITHIN, async || {
        register(0).await;
        if newest_checkpoint(&checkpoints) > before { Ok(()) } else { Err("not yet") }
    })
    .await;
    let of_all = newest_checkpoint(&checkpoints);
    for i in 0..350 {
        register(i).await;
    }
    assert_eq!(newest_checkpoint(&checkpoints), of_all, "half as much log as it takes came since");
}

/// Only one checkpoint is received at a time, so a sender that died must not have that place.
#[tokio::test]
async fn a_sender_that_stops_in_the_middle_is_given_up() {
    let cluster = three_nodes().nodes(1).start().await;
    let mut dead = send_checkpoint(&cluster, "expect: 100-continue\r\n", b"2\r\n\x00\x00\r\n");
    // Told when the body is wanted, and so after the place was taken.
    assert_eq!(answer(&mut dead), "HTTP/1.1 100 Continue\r\n\r\n");
    let mut other = send_checkpoint(&cluster, "", b"2\r\n\x00\x00\r\n0\r\n\r\n");
    assert!(answer(&mut other).starts_with("HTTP/1.1 503"), "two are received at once");
    let begun = Instant::now();
    let gave_up = answer(&mut dead);
    assert!(gave_up.starts_with("HTTP/1.1 408"), "{gave_up}");
    assert!(begun.elapsed() > Duration::from_secs(5), "a slow sender has its time");
    let mut other = send_checkpoint(&cluster, "", b"2\r\n\x00\x00\r\n0\r\n\r\n");
    let refused = answer(&mut other);
    assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("its head"), "{refused}");
}

/// The beginning of a checkpoint to node 1, as from a node that belongs to its cluster.
fn send_checkpoint(cluster: &Cluster, expect: &str, body: &[u8]) -> TcpStream {
    let identity = fs::read(cluster.data_dir(1).join("identity.json")).expect("it has one");
    let identity: Value = serde_json::from_slice(&identity).expect("it is whole");
    let word = |value: &Value| value.as_str().expect("a text").to_owned();
    let (id, disk) = (word(&identity["cluster"]["id"]), word(&identity["disk_id"]));
    let peer: SocketAddr = cluster.list()[2..].parse().expect("an address");
    let mut stream = TcpStream::connect(peer).expect("it takes connections");
    stream.set_read_timeout(Some(READY_WITHIN)).expect("set");
    let head = format!(
        "POST /raft/snapshot HTTP/1.1\r\nhost: {peer}\r\nroster-cluster: {id}\r\nroster-from: 9\r\n\
         roster-from-disk: x\r\nroster-to-disk: {disk}\r\n{expect}transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).expect("sent");
    stream
}

fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 4096];
    let length = stream.read(&mut bytes).expect("an answer");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}
