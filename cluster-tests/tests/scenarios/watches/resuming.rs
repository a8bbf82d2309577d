//! Whoever resumes, from whatever revision, on whatever node, is told what everybody else is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cluster_tests::churn::{APPS, Churn};
use cluster_tests::client::{Client, Failed};
use cluster_tests::cluster::Cluster;
use cluster_tests::seed::Seed;
use cluster_tests::wait::until;
use cluster_tests::watch::{Chronicle, Form, Interest, Listener, Stream};
use roster::client::{Client as Resuming, Item, Watch, WatchRequest};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::watch_from_snapshot;
use crate::three_nodes;

/// Nodes that are killed or stopped, one after the other.
const FAULTS: usize = 3;

/// Acknowledged writes between two faults.
const WRITES_BETWEEN: usize = 40;

/// Changes that a node keeps in memory: more than come while a stream that was cut off resumes,
/// and much less than all.
const KEPT: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_resumes_anywhere_is_told_the_same_history_while_nodes_die_and_come_back() {
    let mut seed = Seed::of_this_run("whoever_resumes_anywhere");
    let mut cluster = three_nodes()
        .set("--event-log", KEPT)
        .set("--checkpoint-every", 100)
        .set("--log-keep", 20)
        .start()
        .await;
    let client = cluster.client();
    let chronicle = Chronicle::new();
    let watching = Watching::start(&cluster, &chronicle, &mut seed);
    let churn = Churn::start(&client, &chronicle, 4, &mut seed);
    for fault in 0..FAULTS {
        writes_go_on(&chronicle).await;
        let leader = cluster.leader().await;
        let ids = cluster.ids();
        let any = ids[seed.below(ids.len())];
        // At least one leader is killed, whatever else happens.
        let (hit, gently) = if fault == 0 { (leader, false) } else { (any, seed.below(3) == 0) };
        println!("node {hit} of leader {leader} is {}", if gently { "stopped" } else { "killed" });
        match gently {
            true => cluster.stop(hit).await,
            false => cluster.kill(hit),
        }
        writes_go_on(&chronicle).await;
        cluster.start(hit, &[]);
        cluster.ready().await;
    }
    writes_go_on(&chronicle).await;
    churn.stop().await;
    cluster.settled().await;
    for node in cluster.ids() {
        // What each node has in the end must fit, too.
        let (_, listener) = watch_from_snapshot(&client, node).await;
        chronicle.told(listener);
    }
    let upto = chronicle.newest();
    let outcomes = watching.stop(upto).await;
    println!("{outcomes:?}");
    let checked = chronicle.check();
    assert!(checked.covered.1 >= upto, "changes up to {upto} are not known: {checked:?}");
    assert!(checked.lists > 20 && checked.runs > 40, "too little was compared: {checked:?}");
    let resumed = outcomes.resumed.load(Ordering::Relaxed);
    assert!(resumed > 20, "too few resumed: {outcomes:?}");
}

async fn writes_go_on(chronicle: &Chronicle) {
    let wanted = chronicle.writes() + WRITES_BETWEEN;
    until("writers get on", Duration::from_secs(30), async || {
        let writes = chronicle.writes();
        if writes >= wanted { Ok(()) } else { Err(format!("{writes} of {wanted} writes")) }
    })
    .await;
}

/// What became of the streams that were asked for.
#[derive(Debug, Default)]
struct Outcomes {
    resumed: AtomicUsize,
    snapshots: AtomicUsize,
    compacted: AtomicUsize,
    too_early: AtomicUsize,
    unavailable: AtomicUsize,
    /// Ended by the node with a word.
    told_the_end: AtomicUsize,
    broke: AtomicUsize,
}

/// Readers at work.
struct Watching {
    stop: Arc<AtomicBool>,
    outcomes: Arc<Outcomes>,
    chronicle: Chronicle,
    /// Follow everything from the beginning, and resume by themselves.
    faithful: JoinSet<(Watch, Listener)>,
    others: JoinSet<()>,
}

impl Watching {
    fn start(cluster: &Cluster, chronicle: &Chronicle, seed: &mut Seed) -> Self {
        let (stop, outcomes) = (Arc::<AtomicBool>::default(), Arc::<Outcomes>::default());
        let mut faithful = JoinSet::new();
        for first in 0..2 {
            let client = Resuming::new(&cluster.endpoints(first)).expect("a client");
            faithful.spawn(follow(client, stop.clone()));
        }
        let mut others = JoinSet::new();
        let mut hand = || Hand {
            client: cluster.client(),
            chronicle: chronicle.clone(),
            seed: seed.split(),
            stop: stop.clone(),
            outcomes: outcomes.clone(),
        };
        for _ in 0..4 {
            others.spawn(hand().wander());
        }
        others.spawn(hand().list());
        Self { stop, outcomes, chronicle: chronicle.clone(), faithful, others }
    }

    /// Lets all of them get to `revision` and notes what they were told.
    async fn stop(mut self, revision: u64) -> Arc<Outcomes> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.others.join_next().await {
            ended.expect("no reader panicked");
        }
        while let Some(ended) = self.faithful.join_next().await {
            let (mut watch, mut listener) = ended.expect("no reader panicked");
            while listener.upto().is_none_or(|upto| upto < revision) {
                take(&mut watch, &mut listener).await;
            }
            self.chronicle.told(listener);
        }
        self.outcomes
    }
}

async fn follow(client: Resuming, stop: Arc<AtomicBool>) -> (Watch, Listener) {
    let mut watch = client.watch(WatchRequest::default());
    let mut listener = Listener::new("the client", Interest::all(), None);
    while !stop.load(Ordering::Relaxed) {
        if let Ok(item) = timeout(Duration::from_millis(200), watch.next()).await {
            listener.take_item(&item.expect("it goes on"));
        }
    }
    (watch, listener)
}

async fn take(watch: &mut Watch, listener: &mut Listener) {
    let item: Item = match timeout(Duration::from_secs(20), watch.next()).await {
        Ok(item) => item.expect("it goes on"),
        Err(_) => panic!("nothing came any more after {:?}", listener.upto()),
    };
    listener.take_item(&item);
}

struct Hand {
    client: Client,
    chronicle: Chronicle,
    seed: Seed,
    stop: Arc<AtomicBool>,
    outcomes: Arc<Outcomes>,
}

impl Hand {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn any_node(&mut self) -> u64 {
        let ids = self.client.ids();
        ids[self.seed.below(ids.len())]
    }

    /// Opens one stream after the other, each from another revision on another node.
    async fn wander(mut self) {
        while self.goes_on() {
            let node = self.any_node();
            let from = self.any_revision();
            let interest = Interest::draw(&mut self.seed, &APPS);
            let form = if self.seed.below(3) == 0 { Form::Sse } else { Form::Lines };
            let mut query = format!("wait=500ms{}", interest.query());
            query += &from.map(|from| format!("&from={from}")).unwrap_or_default();
            if self.seed.below(3) == 0 {
                query += "&restart=snapshot";
            }
            let who = format!("node {node}, asked for {query} as {form:?}");
            match Stream::open(&self.client.at(node), &query, form).await {
                Ok(stream) => {
                    let outcomes = &self.outcomes;
                    if from.is_some() { &outcomes.resumed } else { &outcomes.snapshots }
                        .fetch_add(1, Ordering::Relaxed);
                    self.listen(stream, Listener::new(who, interest, from)).await;
                }
                Err(failed) => self.refused(&failed, from).await,
            }
        }
    }

    /// Near the newest one, or any, or one to come; or none, for a snapshot.
    fn any_revision(&mut self) -> Option<u64> {
        let newest = self.chronicle.newest() as usize;
        match self.seed.below(8) {
            0 => None,
            1..=4 => Some((newest - self.seed.below(KEPT / 2).min(newest)) as u64),
            5 | 6 => Some(self.seed.below(newest + 1) as u64),
            _ => Some((newest + self.seed.below(20)) as u64),
        }
    }

    async fn listen(&mut self, mut stream: Stream, mut listener: Listener) {
        for _ in 0..20 + self.seed.below(400) {
            let patience = Duration::from_millis(100);
            match stream.next_within(patience).await {
                Some(Ok(line)) => listener.take(line),
                Some(Err(end)) => {
                    listener.ended(&end);
                    if !listener.was_told_the_end() {
                        self.outcomes.broke.fetch_add(1, Ordering::Relaxed);
                    }
                    break;
                }
                None => break,
            }
        }
        if listener.was_told_the_end() {
            self.outcomes.told_the_end.fetch_add(1, Ordering::Relaxed);
        }
        self.chronicle.told(listener);
    }

    /// Only explicit refusals will do.
    async fn refused(&self, failed: &Failed, from: Option<u64>) {
        let (from, problem) = (from.unwrap_or(0), failed.problem());
        let number = |name: &str| problem.body[name].as_u64();
        let count = match (failed.status(), failed.code()) {
            (Some(410), "compacted") => {
                assert!(number("restart_from") >= Some(from), "S10: it goes back: {problem:?}");
                &self.outcomes.compacted
            }
            (Some(504), "timeout") => {
                assert!(number("revision") < Some(from), "S10: it is there: {problem:?}");
                &self.outcomes.too_early
            }
            (None | Some(503), _) => &self.outcomes.unavailable,
            _ => panic!("from {from}: {failed}"),
        };
        count.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(5)).await;
    }

    /// Reads lists to hold the changes against.
    async fn list(mut self) {
        let client = self.client.patient(Duration::from_secs(1));
        while self.goes_on() {
            let (node, app) = (self.any_node(), APPS[self.seed.below(APPS.len())]);
            let list = client.at(node).get(&format!("/v1/apps/{app}/instances?limit=10000")).await;
            if let Ok(list) = list {
                self.chronicle.listed(node, app, &list.json());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}
