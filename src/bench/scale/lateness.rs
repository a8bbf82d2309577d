//! How late an instance that stopped is removed: from the end of its TTL, counted by this program's
//! clock from when its last acknowledged heartbeat was sent, until a watcher on another node knows.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::servers::Servers;
use super::system::{NODES, System};
use crate::bench::http::{Connection, Lines};

/// Instances that are alive at once.
const AT_ONCE: usize = 25;

/// The shortest TTL that Roster takes; etcd makes it longer.
const TTL: Duration = Duration::from_secs(1);

/// Between two heartbeats.
const BEAT_EVERY: Duration = Duration::from_millis(300);

/// Heartbeats of an instance, so many at least and so many more, by chance.
const BEATS: Range<u32> = 2..5;

/// How long after its TTL an instance is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// One after the other: how late each was removed, seconds, the shortest first. Negative: it was
/// removed while it had to live.
pub async fn removals<S: System>(servers: &Servers<S>, tries: usize) -> Result<Vec<f64>, String> {
    let mut late = Vec::new();
    while late.len() < tries {
        let first = fastrand::usize(1..1 << 30);
        let numbers = first..first + AT_ONCE.min(tries - late.len());
        late.extend(round(servers, numbers).await?);
    }
    late.sort_by(f64::total_cmp);
    Ok(late)
}

/// The moments at which the watchers of each node learnt of a departure.
type Seen = Arc<[Mutex<std::collections::BTreeMap<usize, Instant>>; NODES]>;

async fn round<S: System>(servers: &Servers<S>, numbers: Range<usize>) -> Result<Vec<f64>, String> {
    let addresses = servers.addresses();
    let seen = Seen::default();
    let (woken, mut news) = mpsc::unbounded_channel();
    let mut watchers = JoinSet::new();
    for (node, address) in addresses.iter().enumerate() {
        let lines = follow(&servers.system, address, numbers.clone()).await?;
        watchers.spawn(note(servers.system.clone(), lines, node, seen.clone(), woken.clone()));
    }
    let mut lives = JoinSet::new();
    for number in numbers.clone() {
        let (system, address) = (servers.system.clone(), addresses[number % NODES].clone());
        lives.spawn(async move { live(&system, &address, number).await.map(|end| (number, end)) });
    }
    let mut late = Vec::new();
    while let Some(life) = lives.join_next().await {
        let (number, end) = life.map_err(|e| e.to_string())??;
        let watcher = (number + 1) % NODES;
        let told = async {
            loop {
                if let Some(at) = seen[watcher].lock().get(&number) {
                    return Ok(*at);
                }
                if news.recv().await.is_none() {
                    return Err("a watch has ended".to_owned());
                }
            }
        };
        let patience = end.saturating_duration_since(Instant::now()) + PATIENCE;
        let at = timeout(patience, told).await.map_err(|_| {
            format!("an instance is still there {} s after its TTL", PATIENCE.as_secs())
        })??;
        late.push(match at.checked_duration_since(end) {
            Some(late) => late.as_secs_f64(),
            None => -end.duration_since(at).as_secs_f64(),
        });
    }
    Ok(late)
}

async fn follow<S: System>(
    system: &S,
    address: &str,
    numbers: Range<usize>,
) -> Result<Lines, String> {
    let watch = system.watch(numbers);
    let connection = Connection::open(address).await?;
    let content_type = if watch.body.is_empty() { "" } else { crate::bench::JSON };
    let mut lines = connection.follow(watch.method, &watch.path, content_type, watch.body).await?;
    while !system.is_following(&lines.next().await?) {}
    Ok(lines)
}

/// Writes down when each departure was told.
async fn note<S: System>(
    system: S,
    mut lines: Lines,
    node: usize,
    seen: Seen,
    woken: mpsc::UnboundedSender<()>,
) {
    while let Ok(line) = lines.next().await {
        let now = Instant::now();
        for number in system.departures(&line) {
            seen[node].lock().entry(number).or_insert(now);
            // Nobody waits any more once the round is over.
            let _ = woken.send(());
        }
    }
}

/// Lives a short life, and says when its TTL ends.
async fn live<S: System>(system: &S, address: &str, number: usize) -> Result<Instant, String> {
    let mut connection = Connection::open(address).await?;
    sleep(BEAT_EVERY.mul_f64(fastrand::f64())).await;
    let mut sent = Instant::now();
    let lease = system.appear(&mut connection, number, TTL).await?;
    let beat = lease.heartbeat;
    for _ in 0..fastrand::u32(BEATS) {
        sleep(BEAT_EVERY.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        let begun = Instant::now();
        let (method, body) = (beat.method.clone(), beat.body.clone());
        let answer = connection.send(method, &beat.path, beat.content_type, body).await?;
        if answer.status.is_success() {
            sent = begun;
        }
    }
    Ok(sent + lease.ttl)
}
