//! One load: connections that each send their next request when the last one was answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;

use super::http::Connection;

/// One request of a load.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    pub path: String,
    /// Left out where it is empty.
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self { method: Method::GET, path: path.into(), content_type: "", body: Bytes::new() }
    }
}

/// Makes a worker's next request from its number and the number of the call.
pub type Job = Arc<dyn Fn(usize, usize) -> Request + Send + Sync>;

pub struct Load {
    pub name: String,
    pub connections: usize,
    /// Operations that one call carries.
    pub per_call: usize,
    /// Calls that belong together: a connection ends only after all of them.
    pub round: usize,
    pub job: Job,
}

/// What came of a load.
#[derive(Default)]
pub struct Measured {
    pub operations: usize,
    pub seconds: f64,
    /// Of each call that succeeded, sorted.
    latencies: Vec<Duration>,
    /// Calls that failed, and the first of them.
    pub failed: usize,
    pub failure: String,
}

impl Measured {
    pub fn percentile_ms(&self, part: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * part).round() as usize;
        self.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }

    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.latencies.extend(other.latencies);
        if self.failed == 0 {
            self.failure = other.failure;
        }
        self.failed += other.failed;
    }
}

/// Runs a load, its connections spread over the nodes in turn.
pub async fn run_load(
    nodes: &[String],
    load: &Load,
    duration: Duration,
) -> Result<Measured, String> {
    let mut connections = Vec::new();
    for worker in 0..load.connections {
        connections.push(Connection::open(&nodes[worker % nodes.len()]).await?);
    }
    let begun = Instant::now();
    let workers: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(worker, connection)| {
            let (job, per_call, round) = (load.job.clone(), load.per_call, load.round);
            tokio::spawn(work(worker, connection, job, per_call, round, begun + duration))
        })
        .collect();
    let mut measured = Measured::default();
    for worker in workers {
        measured.add(worker.await.map_err(|e| e.to_string())??);
    }
    measured.seconds = begun.elapsed().as_secs_f64();
    measured.latencies.sort_unstable();
    Ok(measured)
}

async fn work(
    worker: usize,
    mut connection: Connection,
    job: Job,
    per_call: usize,
    round: usize,
    until: Instant,
) -> Result<Measured, String> {
    let mut measured = Measured::default();
    for call in 0.. {
        let begun = Instant::now();
        if begun >= until && call % round == 0 {
            break;
        }
        let request = job(worker, call);
        let answer = connection
            .send(request.method, &request.path, request.content_type, request.body)
            .await?;
        if answer.status.is_success() {
            measured.operations += per_call;
            measured.latencies.push(begun.elapsed());
        } else {
            if measured.failed == 0 {
                measured.failure = answer.to_string();
            }
            measured.failed += 1;
        }
    }
    Ok(measured)
}
