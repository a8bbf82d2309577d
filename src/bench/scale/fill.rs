//! Registers the fleet, and keeps all of it heartbeating.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::servers::Servers;
use super::system::System;
use crate::bench::http::Connection;
use crate::bench::load::Request;

/// Connections that send beats of the whole fleet.
const BEATERS: usize = 6;

/// What memory is looked at after so much quiet: allocators give back what was used in between.
const SETTLE: Duration = Duration::from_secs(3);

/// Servers are at rest when all of them together took less than so much of a core over so long: three
/// idle nodes take some hundredths, those of a debug build several times as much. They are waited for so long
/// at most.
const CORES_AT_REST: f64 = if cfg!(debug_assertions) { 0.6 } else { 0.15 };
const REST_LOOK: Duration = Duration::from_millis(400);
const REST_WITHIN: Duration = Duration::from_secs(60);

/// How the members of a fleet are registered.
pub struct Filling {
    /// Members of one piece of work.
    pub at_once: usize,
    pub connections: usize,
}

/// Registers these members and says how long it took.
pub async fn fill<S: System>(
    servers: &Servers<S>,
    numbers: Range<usize>,
    filling: &Filling,
) -> Result<Duration, String> {
    let next = Arc::new(AtomicUsize::new(numbers.start));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for address in servers.addresses().into_iter().cycle().take(filling.connections) {
        let (system, next) = (servers.system.clone(), next.clone());
        let (at_once, end) = (filling.at_once, numbers.end);
        workers.spawn(async move {
            let mut connection = Connection::open(&address).await?;
            loop {
                let first = next.fetch_add(at_once, Ordering::Relaxed);
                if first >= end {
                    return Ok::<_, String>(());
                }
                for request in system.registrations(first..end.min(first + at_once)) {
                    succeed(&mut connection, request).await?;
                }
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.map_err(|e| e.to_string())??;
    }
    let took = begun.elapsed();
    let count = servers.system.count(&servers.addresses()[0]).await?;
    match count == numbers.end {
        true => Ok(took),
        false => Err(format!("{} instances were registered, {count} are there", numbers.end)),
    }
}

/// Sends each call once, over so many connections, and says how long it took.
pub async fn send_each(
    addresses: &[String],
    calls: &[Request],
    connections: usize,
) -> Result<Duration, String> {
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let workers = addresses.iter().cycle().take(connections).map(async |address| {
        let mut connection = Connection::open(address).await?;
        while let Some(call) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
            succeed(&mut connection, call.clone()).await?;
        }
        Ok::<_, String>(())
    });
    try_join_all(workers).await?;
    Ok(begun.elapsed())
}

async fn succeed(connection: &mut Connection, request: Request) -> Result<(), String> {
    let Request { method, path, content_type, body } = request;
    let answer = connection.send(method, &path, content_type, body).await?;
    if answer.status.is_success() { Ok(()) } else { Err(answer.to_string()) }
}

/// Resident memory of each node when nothing has happened for a while.
pub async fn settled_memory<S: System>(servers: &Servers<S>) -> Vec<u64> {
    sleep(SETTLE).await;
    servers.memory()
}

/// Waits until the servers are done with what came before, such as the checkpoint of what was registered:
/// that is none of the next load's work. Those that never rest are measured as they are.
pub async fn come_to_rest<S: System>(servers: &Servers<S>) {
    let begun = Instant::now();
    while begun.elapsed() < REST_WITHIN {
        let (busy, since) = (servers.cpu_seconds(), Instant::now());
        sleep(REST_LOOK).await;
        let cores = (servers.cpu_seconds() - busy) / since.elapsed().as_secs_f64();
        if cores < CORES_AT_REST {
            return;
        }
    }
}

/// Heartbeats of the whole fleet at a steady rate, until this is dropped.
pub struct Beating {
    sent: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    begun: Instant,
    per_call: usize,
    _workers: JoinSet<()>,
}

impl Beating {
    /// All of the calls, which are sent once per period, evenly spread.
    pub async fn start(
        addresses: &[String],
        calls: Vec<Request>,
        per_call: usize,
        period: Duration,
    ) -> Result<Self, String> {
        let (sent, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let calls = Arc::new(calls);
        let begun = tokio::time::Instant::now();
        let mut workers = JoinSet::new();
        for worker in 0..BEATERS {
            let mut connection = Connection::open(&addresses[worker % addresses.len()]).await?;
            let (calls, sent, failed) = (calls.clone(), sent.clone(), failed.clone());
            workers.spawn(async move {
                for turn in (worker..).step_by(BEATERS) {
                    let call = &calls[turn % calls.len()];
                    sleep_until(begun + period.mul_f64(turn as f64 / calls.len() as f64)).await;
                    let (method, body) = (call.method.clone(), call.body.clone());
                    match connection.send(method, &call.path, call.content_type, body).await {
                        Ok(answer) if answer.status.is_success() => {
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(_) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => return,
                    }
                }
            });
        }
        Ok(Self { sent, failed, begun: begun.into(), per_call, _workers: workers })
    }

    /// Heartbeats per second until now, and calls that failed.
    pub fn rate(&self) -> (f64, usize) {
        let sent = self.sent.load(Ordering::Relaxed) * self.per_call;
        (sent as f64 / self.begun.elapsed().as_secs_f64(), self.failed.load(Ordering::Relaxed))
    }
}
