//! `roster bench ring`: the owners of keys over HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Serialize;

use super::http::Connection;
use super::load::{Job, Load, Measured, Request, run_load};
use super::{JSON, MANY, cpu_seconds};

/// What one batch of registrations takes.
pub const WORKERS_MAX: i64 = 5_000;

const MSGPACK: &str = "application/msgpack";

/// Keys of the calls with many.
const KEYS: usize = 1_000;

/// Connections of these: each call keeps a core busy.
const CONNECTIONS: usize = 4;

/// Different calls that a load sends in turn.
const BODIES: usize = 16;

/// Registers a ring, runs all loads, and takes it away again.
pub async fn run(
    nodes: &[String],
    workers: u16,
    duration: Duration,
    only: Option<&str>,
) -> Result<(), String> {
    let app = format!("bench-ring-{}", std::process::id());
    println!(
        "nodes {}; a ring of {workers} workers; {} per load",
        nodes.join(" "),
        humantime::format_duration(duration)
    );
    println!(
        "{:<44} {:>9} {:>11} {:>8} {:>8} {:>21}",
        "load", "calls/s", "keys/s", "p50 ms", "p99 ms", "server CPU s/1k calls"
    );
    let mut result = prepare(nodes, &app, workers).await;
    if result.is_ok() {
        for load in loads(&app) {
            if only.is_some_and(|only| !load.name.contains(only)) {
                continue;
            }
            match measure(nodes, &load, duration).await {
                Ok(line) => println!("{line}"),
                Err(e) => result = Err(format!("{}: {e}", load.name)),
            }
        }
    }
    clean_up(nodes, &app).await;
    result
}

/// What is measured, in this order.
fn loads(app: &str) -> Vec<Load> {
    let path = format!("/v1/apps/{app}/ring/owners");
    ["linearizable", "stale"]
        .into_iter()
        .flat_map(|consistency| {
            let path = format!("{path}?consistency={consistency}");
            let many = |format: &str, job| Load {
                name: format!("{KEYS} keys per call, {format}, {consistency}"),
                connections: CONNECTIONS,
                per_call: KEYS,
                round: 1,
                job,
            };
            [
                Load {
                    name: format!("one key, {consistency}, {MANY} connections"),
                    connections: MANY,
                    per_call: 1,
                    round: 1,
                    job: one_key(path.clone()),
                },
                many("JSON", many_keys(path.clone(), JSON)),
                many("msgpack", many_keys(path, MSGPACK)),
            ]
        })
        .collect()
}

fn key(number: usize) -> String {
    format!("key-{number:016}")
}

fn one_key(path: String) -> Job {
    Arc::new(move |worker, call| {
        Request::get(&format!("{path}&key={}", key(worker * 1_000_000 + call)))
    })
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<String>,
}

fn many_keys(path: String, content_type: &'static str) -> Job {
    let bodies: Vec<Bytes> = (0..BODIES)
        .map(|body| Keys { keys: (0..KEYS).map(|n| key(body * KEYS + n)).collect() })
        .map(|keys| match content_type {
            MSGPACK => rmp_serde::to_vec_named(&keys).unwrap_or_default(),
            _ => serde_json::to_vec(&keys).unwrap_or_default(),
        })
        .map(Bytes::from)
        .collect();
    Arc::new(move |worker, call| Request {
        method: Method::POST,
        path: path.clone(),
        content_type,
        body: bodies[(worker + call) % BODIES].clone(),
    })
}

async fn prepare(nodes: &[String], app: &str, workers: u16) -> Result<(), String> {
    let node = nodes.first().ok_or("the cluster has no nodes")?;
    let mut connection = Connection::open(node).await?;
    let items = (0..workers).map(|n| {
        format!(
            r#"{{"op":"register","app":"{app}","id":"worker-{n:05}@10.20.0.1:8719","ip":"10.20.0.1","port":8719,"ttl":"1h"}}"#
        )
    });
    let items = format!(r#"{{"items":[{}]}}"#, items.collect::<Vec<_>>().join(","));
    let ring = format!("/v1/apps/{app}/ring");
    let steps = [
        (Method::POST, "/v1/instances:batch", items.into()),
        (Method::PUT, ring.as_str(), Bytes::new()),
    ];
    for (method, path, body) in steps {
        let answer = connection.send(method, path, JSON, body).await?;
        if !answer.status.is_success() {
            return Err(format!("cannot make the ring that is to be measured: {answer}"));
        }
    }
    Ok(())
}

async fn clean_up(nodes: &[String], app: &str) {
    let Some(node) = nodes.first() else { return };
    let path = format!("/v1/apps/{app}?cascade=true");
    let deleted =
        async { Connection::open(node).await?.send(Method::DELETE, &path, "", Bytes::new()).await };
    match deleted.await {
        Ok(answer) if answer.status.is_success() || answer.status == 404 => {}
        Ok(answer) => eprintln!("app {app} is left behind: {answer}"),
        Err(e) => eprintln!("app {app} is left behind: {e}"),
    }
}

async fn measure(nodes: &[String], load: &Load, duration: Duration) -> Result<String, String> {
    let before = cpu_seconds(nodes).await?;
    let measured = run_load(nodes, load, duration).await?;
    let cpu = cpu_seconds(nodes).await? - before;
    Ok(line(load, &measured, cpu))
}

fn line(load: &Load, measured: &Measured, cpu: f64) -> String {
    let keys = measured.operations as f64;
    let calls = keys / load.per_call as f64;
    let mut line = format!(
        "{:<44} {:>9.0} {:>11.0} {:>8.2} {:>8.2} {:>21.4}",
        load.name,
        calls / measured.seconds,
        keys / measured.seconds,
        measured.percentile_ms(0.50),
        measured.percentile_ms(0.99),
        cpu / calls.max(1.0) * 1000.0,
    );
    if measured.failed > 0 {
        line += &format!("   {} failed, such as {}", measured.failed, measured.failure);
    }
    line
}
