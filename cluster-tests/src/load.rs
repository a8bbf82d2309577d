//! Clients that go on whatever happens: writers register, keepers register once and send heartbeats.
//! Each tries the next node when one does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Client, Failed, Registered};
use crate::history::{History, Life, Sent};
use crate::seed::Seed;

/// How long one node is given before the next one is asked.
const NODE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Between two tries, and between two writes of a writer.
const PAUSE: Duration = Duration::from_millis(5);

/// What writers ask for: long enough to outlive any test without heartbeats.
const WRITTEN_TTL: &str = "10m";

#[derive(Clone, Debug)]
pub struct Shape {
    pub app: String,
    pub writers: usize,
    pub keepers: usize,
    pub keepers_ttl: Duration,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Load {
    pub fn start(client: &Client, history: &History, shape: &Shape, seed: &mut Seed) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let beats = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let hand = |seed: &mut Seed| Hand {
            client: client.patient(NODE_TIMEOUT),
            history: history.clone(),
            seed: seed.split(),
            stop: stop.clone(),
            beats: beats.clone(),
        };
        for writer in 0..shape.writers {
            tasks.spawn(hand(seed).write(shape.app.clone(), writer));
        }
        for keeper in 0..shape.keepers {
            tasks.spawn(hand(seed).keep(shape.app.clone(), keeper, shape.keepers_ttl));
        }
        Self { stop, beats, tasks }
    }

    /// Heartbeats acknowledged so far.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Lets each client end what it is doing.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no client panicked");
        }
    }
}

struct Hand {
    client: Client,
    history: History,
    seed: Seed,
    stop: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
}

impl Hand {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    async fn write(mut self, app: String, writer: usize) {
        let mut count = 0;
        while self.goes_on() {
            count += 1;
            self.register(&app, &format!("w{writer}-{count}"), WRITTEN_TTL).await;
            sleep(PAUSE).await;
        }
    }

    async fn keep(mut self, app: String, keeper: usize, ttl: Duration) {
        let id = format!("k{keeper}");
        let ttl_text = humantime::format_duration(ttl).to_string();
        let Some(life) = self.register(&app, &id, &ttl_text).await else { return };
        while self.goes_on() {
            self.beat(&life).await;
            sleep(ttl / 8).await;
        }
    }

    /// Registers, on whichever node takes it; a repeated registration does no harm.
    async fn register(&mut self, app: &str, id: &str, ttl: &str) -> Option<Life> {
        let first = self.seed.below(3);
        for node in self.nodes_from(first) {
            let sent = Sent::now();
            let said: Result<Registered, Failed> =
                self.client.at(node).register(app, id, ttl).await;
            match said {
                Ok(registered) => return Some(self.history.registered(&registered, sent)),
                Err(failed) if failed.status().is_some_and(|status| status < 500) => {
                    panic!("{app}/{id} cannot be registered at node {node}: {failed}")
                }
                Err(_) if !self.goes_on() => return None,
                Err(_) => sleep(PAUSE).await,
            }
        }
        None
    }

    async fn beat(&mut self, life: &Life) {
        let first = self.seed.below(3);
        for node in self.nodes_from(first) {
            let sent = Sent::now();
            match self.client.at(node).beat(&life.app, &life.id, life.incarnation).await {
                Ok(_) => {
                    self.history.beaten(life, sent);
                    self.beats.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(failed) if failed.status().is_some_and(|status| status < 500) => {
                    panic!("{life:?} sends heartbeats, but node {node} says: {failed}")
                }
                Err(_) if !self.goes_on() => return,
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// The nodes in turn, without end.
    fn nodes_from(&self, first: usize) -> impl Iterator<Item = u64> + use<> {
        let ids = self.client.ids();
        (first..).map(move |at| ids[at % ids.len()])
    }
}
