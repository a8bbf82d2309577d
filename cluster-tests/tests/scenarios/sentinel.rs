//! Sentinel's own heartbeats, byte for byte, over a raw socket.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::client::Client;
use cluster_tests::cluster::Cluster;
use cluster_tests::history::departures;
use cluster_tests::wait::{until, while_it_holds};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::three_nodes;

/// What a real sender waits at most.
const SENDER_TIMEOUT: Duration = Duration::from_secs(3);

/// What the sender of the simple-http transport wrote when it was recorded, but for app and port.
fn simple_http(app: &str, port: u16) -> String {
    let body = format!(
        "app={app}&hostname=vm&app_type=1&port={port}&v=1.8.9&ip=192.0.2.2&version=1795293377350"
    );
    format!(
        "POST /registry/machine HTTP/1.1\r\n\
         Content-Type: application/x-www-form-urlencoded; charset=UTF-8\r\n\
         Host: svc-1.my_net\r\n\
         Content-Length: {}\r\n\
         \r\n\
         {body}",
        body.len()
    )
}

/// What Apache HttpClient makes of the netty-http transport's parameters.
fn netty_http(app: &str, port: u16) -> String {
    format!(
        "GET /registry/machine?app={app}&app_type=0&v=1.8.9&version=1795293377351&hostname=vm_2\
         &ip=192.0.2.3&port={port}&pid=4711 HTTP/1.1\r\n\
         Host: roster_api:8080\r\n\
         Connection: Keep-Alive\r\n\
         User-Agent: Apache-HttpClient/4.5.3 (Java/17.0.2)\r\n\
         Accept-Encoding: gzip,deflate\r\n\
         \r\n"
    )
}

/// Sends one heartbeat as a real sender does: a connection of its own, closed after the answer, read
/// by its rules (the status is the second word; lines end in CRLF and are short).
async fn send(to: SocketAddr, request: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.expect("it connects");
        stream.write_all(request.as_bytes()).await.expect("it is sent");
        let mut reader = BufReader::new(stream);
        let status = line(&mut reader).await;
        assert_eq!(status.split(' ').nth(1), Some("200"), "{status}");
        let mut length = None;
        loop {
            let header = line(&mut reader).await;
            let Some((name, value)) = header.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse::<usize>().expect("a number"));
            }
        }
        let mut body = vec![0; length.expect("an exact content-length")];
        reader.read_exact(&mut body).await.expect("the whole body");
        String::from_utf8(body).expect("text")
    };
    timeout(SENDER_TIMEOUT, exchange).await.expect("an answer in time")
}

async fn line(reader: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).await.expect("a line");
    assert!(line.len() < 4_096, "{line}");
    line.strip_suffix("\r\n").expect("CRLF").to_owned()
}

/// The machines of all apps as `briefinfos.json` shows them: app, ip, port, healthy.
async fn machines(client: &Client, node: u64) -> Vec<(String, String, u64, bool)> {
    let answer = client.at(node).get("/app/briefinfos.json").await.expect("answered").json();
    assert_eq!((&answer["success"], &answer["code"]), (&Value::Bool(true), &Value::from(0)));
    let apps = answer["data"].as_array().expect("apps");
    let of_app = |app: &Value| app["machines"].as_array().expect("machines").clone();
    let shown = |machine: &Value| {
        (
            machine["app"].as_str().expect("app").to_owned(),
            machine["ip"].as_str().expect("ip").to_owned(),
            machine["port"].as_u64().expect("port"),
            machine["healthy"].as_bool().expect("healthy"),
        )
    };
    apps.iter().flat_map(of_app).map(|machine| shown(&machine)).collect()
}

const TTL: Duration = Duration::from_secs(2);
const ACCEPTED: &str = r#"{"success":true,"code":0,"msg":"success","data":null}"#;

/// The app of the recorded beat, with a slash, an ampersand and two Chinese letters.
const APP: &str = "应用 a/b&c";
const APP_ON_THE_WIRE: &str = "%E5%BA%94%E7%94%A8+a%2Fb%26c";

async fn beat_everywhere(cluster: &Cluster) {
    for node in cluster.ids() {
        let to = cluster.api(node);
        let posted = send(to, &simple_http(APP_ON_THE_WIRE, 8719 + node as u16)).await;
        assert_eq!(posted, ACCEPTED, "node {node}");
        let got = send(to, &netty_http("gateway", 8719 + node as u16)).await;
        assert_eq!(got, ACCEPTED, "node {node}");
    }
}

#[tokio::test]
async fn a_sentinel_transport_appears_on_all_nodes_and_disappears_when_it_falls_silent() {
    let cluster = three_nodes().set("--sentinel-ttl", "2s").start().await;
    let client = cluster.client();
    // Each node, leader or not, takes a machine of its own.
    beat_everywhere(&cluster).await;
    let mut expected: Vec<_> = cluster
        .ids()
        .into_iter()
        .flat_map(|node| {
            [(APP, "192.0.2.2"), ("gateway", "192.0.2.3")]
                .map(|(app, ip)| (app.to_owned(), ip.to_owned(), 8719 + node, true))
        })
        .collect();
    expected.sort();
    for node in cluster.ids() {
        let mut shown = machines(&client, node).await;
        shown.sort();
        assert_eq!(shown, expected, "node {node}");
    }
    let (_, shards) = client.at(1).shards("gateway").await.expect("shards");
    assert_eq!(shards.len(), 3);

    // Beats at any node keep all of them, and cost no log entry.
    let before = client.at(1).node().await.expect("status").applied;
    while_it_holds("beats keep them all", TTL + TTL / 2, async || {
        beat_everywhere(&cluster).await;
        let shown = machines(&client, 2).await;
        if shown.len() == expected.len() { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
    let after = client.at(1).node().await.expect("status").applied;
    assert_eq!(before, after, "beats without news are log entries");

    // Silence.
    for node in cluster.ids() {
        until("they are gone", TTL + Duration::from_secs(1), async || {
            let shown = machines(&client, node).await;
            if shown.is_empty() { Ok(()) } else { Err(format!("{shown:?}")) }
        })
        .await;
    }
    for node in cluster.ids() {
        let (_, shards) = client.at(node).shards("gateway").await.expect("shards");
        assert!(shards.is_empty(), "node {node}: {shards:?}");
    }
    cluster.settled().await;
    let departed = departures(&cluster);
    assert_eq!(departed.len(), expected.len() * 3, "once per node: {departed:?}");

    // It comes back with its next beat.
    assert_eq!(send(cluster.api(2), &netty_http("gateway", 8720)).await, ACCEPTED);
    assert_eq!(machines(&client, 3).await.len(), 1);
}
