//! `roster bench watch`: how fast and at what cost changes reach those who watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use http::Method;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::http::Connection;
use super::{JSON, cpu_seconds};

/// Watchers of the fan-out, over all nodes.
const FANNED_OUT: usize = 200;

/// Watchers of one node of which nothing is asked but to be there.
const IDLE: usize = 10_000;

/// Registrations per second beside watchers of other apps, and how many these are.
const RATE: u64 = 1_000;
const OTHERS: usize = 1_000;

/// How often the two halves of a comparison are measured, in turn.
const TURNS: u32 = 3;

/// Connections that are opened at once.
const OPENING: usize = 64;

/// How long a change may take to reach all watchers.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what was opened or closed takes to be settled in a node's memory.
const SETTLE: Duration = Duration::from_secs(2);

/// Runs all three measurements.
pub async fn run(nodes: &[String], duration: Duration, only: Option<&str>) -> Result<(), String> {
    let app = format!("bench-watch-{}", std::process::id());
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let mut result = Ok(());
    if wanted("fan-out") {
        result = result.and(fan_out(nodes, &app, duration).await);
    }
    if wanted("idle") {
        result = result.and(idle(nodes, &app).await);
    }
    if wanted("others") {
        result = result.and(others(nodes, &app, duration).await);
    }
    let path = format!("/v1/apps/{app}?cascade=true");
    if let Some(node) = nodes.first() {
        Connection::open(node).await?.send(Method::DELETE, &path, "", Bytes::new()).await?;
    }
    result
}

/// One registration after the other; each is over when the last watcher has it.
async fn fan_out(nodes: &[String], app: &str, duration: Duration) -> Result<(), String> {
    let arrivals = Arc::new(Arrivals::default());
    let path = format!("/v1/watch?kind=instance&app={app}");
    let watchers = open_watchers(nodes, FANNED_OUT, &path, &arrivals).await?;
    let mut writer = Connection::open(&nodes[0]).await?;
    let mut latencies = Vec::new();
    let cpu = cpu_seconds(nodes).await?;
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let changed = Instant::now();
        arrivals.count.store(0, Ordering::SeqCst);
        register(&mut writer, app, latencies.len()).await?;
        let all = arrivals.all(FANNED_OUT);
        let arrived = timeout(ARRIVAL_TIMEOUT, all).await;
        arrived.map_err(|_| "a change did not reach all watchers within 10 s".to_owned())?;
        latencies.push(changed.elapsed());
    }
    let cpu = (cpu_seconds(nodes).await? - cpu) / latencies.len().max(1) as f64;
    drop(watchers);
    latencies.sort_unstable();
    let at = |part: f64| latencies[(latencies.len() as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "fan-out: {} registrations to {FANNED_OUT} watchers on {} nodes: the last has it after p50 \
         {:.2} ms, p99 {:.2} ms; server CPU {:.2} ms per change",
        latencies.len(),
        nodes.len(),
        at(0.50),
        at(0.99),
        cpu * 1e3,
    );
    Ok(())
}

/// Memory of one node with many watchers that get nothing but bookmarks.
async fn idle(nodes: &[String], app: &str) -> Result<(), String> {
    let node = &nodes[nodes.len() - 1..];
    let before = memory(&node[0]).await?;
    let arrivals = Arc::new(Arrivals::default());
    let path = format!("/v1/watch?app={app}-idle");
    let watchers = open_watchers(node, IDLE, &path, &arrivals).await?;
    sleep(SETTLE).await;
    let (cpu, begun) = (cpu_seconds(node).await?, Instant::now());
    let after = memory(&node[0]).await?;
    sleep(SETTLE * 5).await;
    let cpu = (cpu_seconds(node).await? - cpu) / begun.elapsed().as_secs_f64();
    drop(watchers);
    println!(
        "idle: {IDLE} watchers on one node: {:.1} KiB each (resident memory {:.0} MiB to {:.0} MiB), \
         {:.1} % of a core",
        after.saturating_sub(before) as f64 / IDLE as f64 / 1024.0,
        before as f64 / 1048576.0,
        after as f64 / 1048576.0,
        cpu * 100.0,
    );
    Ok(())
}

/// Registrations at a steady rate, without watchers and with watchers of other apps, in turn.
async fn others(nodes: &[String], app: &str, duration: Duration) -> Result<(), String> {
    let (mut without, mut with) = (0.0, 0.0);
    for turn in 0..TURNS {
        without += steady(nodes, &format!("{app}-{turn}-without"), duration).await?;
        let arrivals = Arc::new(Arrivals::default());
        let watchers = open_others(nodes, app, &arrivals).await?;
        with += steady(nodes, &format!("{app}-{turn}-with"), duration).await?;
        drop(watchers);
        sleep(SETTLE).await;
    }
    println!(
        "others: {RATE} registrations/s: {:.4} server CPU s per 1,000 without watchers, {:.4} with \
         {OTHERS} watchers of other apps ({:+.1} %)",
        without / f64::from(TURNS),
        with / f64::from(TURNS),
        (with / without - 1.0) * 100.0,
    );
    Ok(())
}

/// Server CPU seconds per 1,000 registrations at [`RATE`].
async fn steady(nodes: &[String], app: &str, duration: Duration) -> Result<f64, String> {
    const WRITERS: u64 = 16;
    let mut writers = JoinSet::new();
    let cpu = cpu_seconds(nodes).await?;
    let begun = tokio::time::Instant::now();
    for writer in 0..WRITERS {
        let mut connection = Connection::open(&nodes[writer as usize % nodes.len()]).await?;
        let app = app.to_owned();
        writers.spawn(async move {
            let calls = duration.as_secs() * RATE / WRITERS;
            for call in 0..calls {
                let at = Duration::from_micros((call * WRITERS + writer) * 1_000_000 / RATE);
                sleep_until(begun + at).await;
                register(&mut connection, &app, (writer * calls + call) as usize).await?;
            }
            Ok::<_, String>(calls)
        });
    }
    let mut calls = 0;
    while let Some(done) = writers.join_next().await {
        calls += done.map_err(|e| e.to_string())??;
    }
    let cpu = cpu_seconds(nodes).await? - cpu;
    let path = format!("/v1/apps/{app}?cascade=true");
    Connection::open(&nodes[0]).await?.send(Method::DELETE, &path, "", Bytes::new()).await?;
    Ok(cpu / calls as f64 * 1000.0)
}

async fn register(connection: &mut Connection, app: &str, call: usize) -> Result<(), String> {
    let path = format!("/v1/apps/{app}/instances/10.0.{}.{}:8080", call / 250 % 250, call);
    let body = Bytes::from_static(
        br#"{"ip":"10.0.0.1","port":8080,"hostname":"host-1","version":"1.8.9","zone":"a","metadata":{"build":"4711"},"ttl":"10m"}"#,
    );
    let answer = connection.send(Method::PUT, &path, JSON, body).await?;
    if answer.status.is_success() { Ok(()) } else { Err(answer.to_string()) }
}

#[derive(Deserialize)]
struct Usage {
    memory_bytes: u64,
}

async fn memory(node: &str) -> Result<u64, String> {
    let usage: Usage = Connection::open(node).await?.get("/v1/node").await?.json()?;
    Ok(usage.memory_bytes)
}

/// How many watchers have the newest change.
#[derive(Default)]
struct Arrivals {
    count: AtomicUsize,
    all: Notify,
}

impl Arrivals {
    async fn all(&self, wanted: usize) {
        while self.count.load(Ordering::SeqCst) < wanted {
            self.all.notified().await;
        }
    }

    fn add(&self, wanted: usize) {
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 >= wanted {
            self.all.notify_one();
        }
    }
}

async fn open_others(
    nodes: &[String],
    app: &str,
    arrivals: &Arc<Arrivals>,
) -> Result<Vec<JoinSet<()>>, String> {
    let each = (0..OTHERS).map(|i| {
        let (path, node) = (format!("/v1/watch?app={app}-other-{i}"), i % nodes.len());
        async move { open_watchers(&nodes[node..=node], 1, &path, arrivals).await }
    });
    try_join_all(each).await
}

/// Watchers, spread over the nodes in turn; they end when the set is dropped.
async fn open_watchers(
    nodes: &[String],
    count: usize,
    path: &str,
    arrivals: &Arc<Arrivals>,
) -> Result<JoinSet<()>, String> {
    let opening = Semaphore::new(OPENING);
    let streams = try_join_all((0..count).map(|i| {
        let (node, opening) = (&nodes[i % nodes.len()], &opening);
        async move {
            let _turn = opening.acquire().await.map_err(|e| e.to_string())?;
            open_watcher(node, path).await
        }
    }))
    .await?;
    let mut watchers = JoinSet::new();
    for stream in streams {
        watchers.spawn(read_on(stream, arrivals.clone(), count));
    }
    Ok(watchers)
}

/// A watch whose snapshot was read. No HTTP library, so that the watchers cost little themselves.
async fn open_watcher(node: &str, path: &str) -> Result<TcpStream, String> {
    let told = |e: std::io::Error| format!("http://{node}{path}: {e}");
    let mut stream = TcpStream::connect(node).await.map_err(told)?;
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {node}\r\naccept: application/x-ndjson\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(told)?;
    let mut head = Vec::new();
    while !contains(&head, b"snapshot-end") {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.map_err(told)?;
        head.extend_from_slice(&piece[..read]);
        if read == 0 || !head.starts_with(b"HTTP/1.1 200") {
            return Err(format!("http://{node}{path}: {}", String::from_utf8_lossy(&head)));
        }
    }
    Ok(stream)
}

/// Counts each put as an arrival. The puts are small, and come one at a time.
async fn read_on(mut stream: TcpStream, arrivals: Arc<Arrivals>, watchers: usize) {
    let mut piece = [0; 4096];
    while let Ok(read) = stream.read(&mut piece).await {
        if read == 0 {
            return;
        }
        if contains(&piece[..read], b"\"event\":\"put\"") {
            arrivals.add(watchers);
        }
    }
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window == needle)
}
