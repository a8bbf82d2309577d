//! `roster bench`: drives a running cluster and says what it does and what that costs its nodes.
//! `roster bench scale` drives one that it starts itself.
//!
//! The CPU time is the nodes' own (`cpu_seconds` of `/v1/node`, summed over all of them), so a busy
//! client beside them does not count. Each line has its own load, one after the other.

mod etcd;
pub mod http;
mod load;
mod lock;
mod ring;
mod scale;
mod watch;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use crate::cli::asking::End;
use crate::cli::progress::during;
use crate::client::{Call, Client, Error, Options, Outcome, path};
use crate::config::Span;
use http::Connection;
use load::{Job, Load, Measured, Request, run_load};

/// Connections of the loads with many clients.
const MANY: usize = 64;

/// Instances of the app that is listed.
const LISTED: usize = 100;

/// Instances that one batch of heartbeats renews.
const BATCH: usize = 1_000;

const JSON: &str = "application/json";

#[derive(Debug, clap::Args)]
pub struct Bench {
    /// What is measured
    #[arg(value_enum, default_value_t = Suite::Basic)]
    suite: Suite,
    /// API addresses of the nodes, HOST:PORT,…; one is enough, the others are asked from it
    #[arg(long, env = "ROSTER_ENDPOINT", default_value = "127.0.0.1:7401", value_name = "LIST")]
    endpoint: String,
    /// How long each load runs
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    duration: Span,
    /// Only the loads whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Workers of the ring, for the suite of that name
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=ring::WORKERS_MAX))]
    workers: u16,
    #[command(flatten)]
    scale: scale::Options,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Suite {
    /// Registrations, heartbeats and lists
    Basic,
    /// How changes reach those who watch: 200 at once, 10,000 idle ones, 1,000 of other apps
    Watch,
    /// Who owns keys of a ring: one and 1,000 per call
    Ring,
    /// Locks: free ones, and one that many want
    Lock,
    /// A cluster of its own with a million instances, beside etcd if that is installed: heartbeats,
    /// memory, removals, restarts, checkpoints, kills; each with what is wanted of it
    Scale,
}

/// Measures and prints.
pub(crate) async fn run(bench: Bench) -> Result<(), End> {
    let only = bench.only.as_deref();
    if let Suite::Scale = bench.suite {
        return Ok(scale::run(&bench.scale, bench.duration.0, only).await?);
    }
    let nodes = find_nodes(&bench.endpoint).await?;
    let measured = match bench.suite {
        Suite::Basic => return basic(&nodes, &bench).await,
        Suite::Watch => watch::run(&nodes, bench.duration.0, only).await,
        Suite::Ring => ring::run(&nodes, bench.workers, bench.duration.0, only).await,
        Suite::Lock => lock::run(&nodes, bench.duration.0, only).await,
        Suite::Scale => Ok(()),
    };
    Ok(measured?)
}

/// Runs all loads and prints a line for each.
async fn basic(nodes: &[String], bench: &Bench) -> Result<(), End> {
    header(nodes, bench.duration.0);
    let app = format!("bench-{}", std::process::id());
    let mut ended = prepare(nodes, &app).await.map_err(End::from);
    if ended.is_ok() {
        for load in loads(&app) {
            if bench.only.as_deref().is_some_and(|only| !load.name.contains(only)) {
                continue;
            }
            match measure(nodes, &load, bench.duration.0).await {
                Ok(line) => println!("{line}"),
                Err(e) => ended = Err(End::Failed(format!("{}: {e}", load.name))),
            }
        }
    }
    clean_up(nodes, &app).await;
    ended
}

/// What is above the lines of [`measure`].
fn header(nodes: &[String], duration: Duration) {
    println!("nodes {}; {} per load", nodes.join(" "), humantime::format_duration(duration));
    println!(
        "{:<44} {:>10} {:>9} {:>9} {:>15}",
        "load", "ops/s", "p50 ms", "p99 ms", "server CPU s/1k"
    );
}

/// What is measured, in this order.
fn loads(app: &str) -> Vec<Load> {
    let list = format!("/v1/apps/{app}-listed/instances");
    let register = |writers| Load {
        name: format!("register, {writers} writer{}", if writers == 1 { "" } else { "s" }),
        connections: writers,
        per_call: 1,
        round: 1,
        job: register_job(format!("{app}-{writers}")),
    };
    vec![
        register(1),
        register(MANY),
        Load {
            name: format!("heartbeat, single calls, {MANY} connections"),
            connections: MANY,
            per_call: 1,
            round: 1,
            job: heartbeat_job(format!("{app}-listed")),
        },
        Load {
            name: format!("heartbeat, {BATCH} per call, 4 connections"),
            connections: 4,
            per_call: BATCH,
            round: 1,
            job: batch_job(format!("{app}-beating")),
        },
        Load {
            name: format!("list {LISTED}, linearizable, {MANY} connections"),
            connections: MANY,
            per_call: 1,
            round: 1,
            job: Arc::new({
                let list = list.clone();
                move |_, _| Request::get(&list)
            }),
        },
        Load {
            name: format!("list {LISTED}, stale, {MANY} connections"),
            connections: MANY,
            per_call: 1,
            round: 1,
            job: Arc::new(move |_, _| Request::get(&format!("{list}?consistency=stale"))),
        },
    ]
}

/// Every call registers another instance.
fn register_job(app: String) -> Job {
    Arc::new(move |worker, call| {
        Request {
        method: Method::PUT,
        path: format!("/v1/apps/{app}/instances/10.{worker}.{}.{}:8080", call / 250 % 250, call),
        content_type: JSON,
        body: Bytes::from_static(
            br#"{"ip":"10.0.0.1","port":8080,"hostname":"host-1","version":"1.8.9","zone":"a","metadata":{"build":"4711"},"ttl":"10m"}"#,
        ),
    }
    })
}

fn heartbeat_job(app: String) -> Job {
    Arc::new(move |worker, call| Request {
        method: Method::PUT,
        path: format!("/v1/apps/{app}/instances/i{}/heartbeat", (worker * 7 + call) % LISTED),
        content_type: "",
        body: Bytes::new(),
    })
}

#[derive(serde::Serialize)]
struct Target {
    app: String,
    id: String,
}

fn batch_job(app: String) -> Job {
    let instances: Vec<_> =
        (0..BATCH).map(|i| Target { app: app.clone(), id: format!("i{i}") }).collect();
    let body =
        rmp_serde::to_vec_named(&std::collections::BTreeMap::from([("instances", instances)]))
            .unwrap_or_default();
    let body = Bytes::from(body);
    Arc::new(move |_, _| Request {
        method: Method::POST,
        path: "/v1/heartbeats".into(),
        content_type: "application/msgpack",
        body: body.clone(),
    })
}

#[derive(Deserialize)]
struct Cluster {
    nodes: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    api: String,
}

#[derive(Deserialize)]
struct NodeUsage {
    cpu_seconds: f64,
}

/// The API addresses of all members, as one of the given endpoints tells them. Each is asked once.
pub(crate) async fn find_nodes(endpoints: &str) -> Result<Vec<String>, Error> {
    let answer = once(endpoints)?.send(Call::get(path(&["v1", "cluster"])?)).await?;
    let cluster: Cluster = answer.json()?;
    match cluster.nodes.len() {
        0 => Err(Error::NoAnswer {
            endpoint: endpoints.into(),
            detail: "it belongs to no cluster yet".into(),
            outcome: Outcome::Nothing,
        }),
        _ => Ok(cluster.nodes.into_iter().map(|node| node.api).collect()),
    }
}

/// A client that asks each node once.
fn once(endpoints: &str) -> Result<Client, Error> {
    Client::with(endpoints, Options { patience: Duration::ZERO, ..Options::default() })
}

async fn cpu_seconds(nodes: &[String]) -> Result<f64, String> {
    let mut sum = 0.0;
    for node in nodes {
        let usage: NodeUsage = Connection::open(node).await?.get("/v1/node").await?.json()?;
        sum += usage.cpu_seconds;
    }
    Ok(sum)
}

/// Registers what is listed and what is renewed.
async fn prepare(nodes: &[String], app: &str) -> Result<(), Error> {
    let client = once(&nodes.join(","))?;
    for (name, count) in [("listed", LISTED), ("beating", BATCH)] {
        let items = (0..count).map(|i| {
            json!({
                "op": "register", "app": format!("{app}-{name}"), "id": format!("i{i}"),
                "ip": "10.0.0.1", "port": 8080, "hostname": format!("host-{i}"),
                "version": "1.8.9", "zone": "a", "metadata": {"build": "4711"}, "ttl": "10m",
            })
        });
        let body = json!({ "items": items.collect::<Vec<_>>() });
        client.send(Call::post("/v1/instances:batch".into()).json(&body)?).await?;
    }
    Ok(())
}

/// Takes everything away again.
async fn clean_up(nodes: &[String], app: &str) {
    let Some(node) = nodes.first() else { return };
    let Ok(mut connection) = Connection::open(node).await else { return };
    for name in ["listed", "beating", "1", "64"] {
        let path = format!("/v1/apps/{app}-{name}?cascade=true");
        match connection.send(Method::DELETE, &path, "", Bytes::new()).await {
            Ok(answer) if answer.status.is_success() || answer.status == 404 => {}
            Ok(answer) => eprintln!("app {app}-{name} is left behind: {answer}"),
            Err(e) => eprintln!("app {app}-{name} is left behind: {e}"),
        }
    }
}

async fn measure(nodes: &[String], load: &Load, duration: Duration) -> Result<String, String> {
    let before = cpu_seconds(nodes).await?;
    let measured = during(&load.name, duration, run_load(nodes, load, duration)).await?;
    let cpu = cpu_seconds(nodes).await? - before;
    Ok(line(&load.name, &measured, cpu))
}

fn line(name: &str, measured: &Measured, cpu: f64) -> String {
    let mut line = format!(
        "{name:<44} {:>10.0} {:>9.2} {:>9.2} {:>15.4}",
        measured.operations as f64 / measured.seconds,
        measured.percentile_ms(0.50),
        measured.percentile_ms(0.99),
        cpu / measured.operations.max(1) as f64 * 1000.0,
    );
    if measured.failed > 0 {
        // Writing to a String cannot fail.
        let _ = write!(line, "   {} failed, such as {}", measured.failed, measured.failure);
    }
    line
}
