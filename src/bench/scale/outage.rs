//! What a killed node costs: no writes or heartbeats until somebody else leads, and no reads from it
//! until it has loaded everything again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::servers::Servers;
use super::system::{NODES, System};
use crate::bench::http::Connection;
use crate::bench::load::Request;

/// Between an answer and the next request of each of those whose requests show the outage. They begin
/// at different nodes.
const PROBE_EVERY: Duration = Duration::from_millis(2);

/// An answer takes no longer, or the next node is tried: some servers keep those waiting whose
/// request went down with the leader.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Without a leader for longer, something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a node may take to load what it has.
const RESTART_TIMEOUT: Duration = Duration::from_secs(180);

const LOOK_EVERY: Duration = Duration::from_millis(5);

pub type Probe = Arc<dyn Fn(usize) -> Request + Send + Sync>;

/// Kills the leader so many times, and says how long nothing that was asked then succeeded, in
/// seconds, the shortest first.
pub async fn after_kills<S: System>(
    servers: &mut Servers<S>,
    kills: usize,
    probe: &Probe,
) -> Result<Vec<f64>, String> {
    let mut outages = Vec::new();
    for _ in 0..kills {
        servers.ensure_up().await?;
        outages.push(after_kill(servers, probe).await?);
    }
    servers.ensure_up().await?;
    outages.sort_by(f64::total_cmp);
    Ok(outages)
}

async fn after_kill<S: System>(servers: &mut Servers<S>, probe: &Probe) -> Result<f64, String> {
    let leader = servers.leader().await?;
    let (acknowledged, mut probed) = watch::channel(None);
    let mut tasks = JoinSet::new();
    for first in 0..NODES {
        let (addresses, probe) = (servers.addresses(), probe.clone());
        tasks.spawn(ask_steadily(addresses, first, probe, acknowledged.clone()));
    }
    let broken = |_| "those who ask have ended".to_owned();
    probed.wait_for(Option::is_some).await.map_err(broken)?;
    sleep(Duration::from_millis(fastrand::u64(100..300))).await;
    servers.kill(leader).await?;
    let killed = Instant::now();
    let last = probed.borrow().map_or(killed, |call: Call| call.answered);
    let first = probed.wait_for(|call| call.is_some_and(|call| call.sent > killed));
    let first = timeout(PATIENCE, first)
        .await
        .map_err(|_| format!("nothing succeeded for {} s after a kill", PATIENCE.as_secs()))?
        .map_err(broken)?
        .map_or(killed, |call| call.answered);
    Ok(first.saturating_duration_since(last).as_secs_f64())
}

/// A call that succeeded.
#[derive(Clone, Copy)]
struct Call {
    sent: Instant,
    answered: Instant,
}

/// Asks again and again, and tries the next node at once when one does not do it. The last call that
/// succeeded is shared by all who ask.
async fn ask_steadily(
    addresses: Vec<String>,
    first: usize,
    probe: Probe,
    acknowledged: watch::Sender<Option<Call>>,
) {
    let mut number = fastrand::usize(0..1 << 40);
    for node in (first..).map(|turn| turn % addresses.len()) {
        // Tries that fail at once do not keep a core busy.
        sleep(Duration::from_millis(1)).await;
        let Ok(mut connection) = Connection::open(&addresses[node]).await else { continue };
        loop {
            number += 1;
            let request = probe(number);
            let sent = Instant::now();
            let answer =
                connection.send(request.method, &request.path, request.content_type, request.body);
            match timeout(ANSWER_TIMEOUT, answer).await {
                Ok(Ok(answer)) if answer.status.is_success() => {
                    let call = Call { sent, answered: Instant::now() };
                    acknowledged.send_modify(|last| match last {
                        Some(last) if last.sent > sent => {}
                        Some(_) | None => *last = Some(call),
                    });
                }
                Ok(_) | Err(_) => break,
            }
            sleep(PROBE_EVERY).await;
        }
    }
}

/// What a node that was killed needs until it serves again, seconds since its start.
pub struct Restart {
    /// Until a linearizable read there counts all instances.
    pub counted: f64,
    /// Until all of them were read there too.
    pub read: f64,
}

/// Kills a node that does not lead, and starts it again.
pub async fn restart<S: System>(servers: &mut Servers<S>, fleet: usize) -> Result<Restart, String> {
    servers.ensure_up().await?;
    let node = (servers.leader().await? + 1) % NODES;
    let address = servers.addresses()[node].clone();
    servers.kill(node).await?;
    let begun = Instant::now();
    servers.start_node(node)?;
    loop {
        match servers.system.count(&address).await {
            Ok(count) if count == fleet => break,
            Ok(count) => return Err(format!("{count} of {fleet} instances are left")),
            Err(e) if begun.elapsed() > RESTART_TIMEOUT => return Err(e),
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
    let counted = begun.elapsed().as_secs_f64();
    let read = servers.system.read_all(&address).await?;
    if read != fleet {
        return Err(format!("{read} of {fleet} instances were read"));
    }
    Ok(Restart { counted, read: begun.elapsed().as_secs_f64() })
}
