//! Workers of a shard set.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use roster::client::{
    Client, Grant, Options, Registration, ShardWork, ShardWorker, ShardWorkerSettings,
};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use crate::scripted::{Act, Scripted, endpoints, problem, quick, within};

const BEATS: &str = "heartbeat";
const REGISTRATIONS: &str = "PUT /v1/apps/fetchers/instances/f1";
const DEPARTURES: &str = "DELETE /v1/apps/fetchers/instances/f1";
const RELEASES: &str = "POST /v1/shard-sets/polling/workers/f1/release";
/// The long polls, and first of all since the first reads' path is in theirs.
const POLLS: &str = "workers/f1?index=";
const READS: &str = "GET /v1/shard-sets/polling/workers/f1";

fn registered(incarnation: u64, ttl: &str) -> Act {
    Act::Answer(
        201,
        json!({"app": "fetchers", "id": "f1", "incarnation": incarnation, "session": "1",
            "ttl": ttl, "heartbeat_every": "50ms", "revision": incarnation}),
    )
}

fn renewed() -> Act {
    let body = json!({"ttl": "60s", "heartbeat_every": "50ms", "revision": 9});
    Act::Answer(200, body)
}

/// Shards with their grants; a `!` asks for the release.
fn view(epoch: u64, shards: &[(&str, u64)]) -> Act {
    let shards: Vec<Value> = shards
        .iter()
        .map(|(shard, grant)| {
            let release = shard.ends_with('!');
            json!({"shard": shard.trim_end_matches('!'), "grant": grant, "release": release})
        })
        .collect();
    Act::Answer(200, json!({"epoch": epoch, "worker": "f1", "shards": shards}))
}

/// Writes down what it is told. Stops return at once, or when the test lets them.
struct Work {
    told: Mutex<Vec<String>>,
    news: Notify,
    stops_wait: fn(&str) -> bool,
    may_return: Semaphore,
}

/// No stop waits for the test.
fn none(_shard: &str) -> bool {
    false
}

/// Every stop waits for the test.
fn all(_shard: &str) -> bool {
    true
}

impl Work {
    fn new(stops_wait: fn(&str) -> bool) -> Arc<Self> {
        let may_return = Semaphore::new(0);
        Arc::new(Self { told: Mutex::default(), news: Notify::new(), stops_wait, may_return })
    }

    fn tell(&self, what: &str, Grant { shard, grant }: &Grant) {
        self.told.lock().push(format!("{what} {shard} {grant}"));
        self.news.notify_waiters();
    }

    /// Waits until so much was told, and gives all of it.
    async fn told(&self, count: usize) -> Vec<String> {
        let enough = async {
            loop {
                let news = self.news.notified();
                let told = self.told.lock().clone();
                if told.len() >= count {
                    return told;
                }
                news.await;
            }
        };
        within(&format!("{count} starts and stops"), enough).await
    }
}

#[async_trait::async_trait]
impl ShardWork for Work {
    fn start(&self, shard: &Grant) {
        self.tell("start", shard);
    }

    async fn stop(&self, shard: &Grant) {
        self.tell("stop", shard);
        if (self.stops_wait)(&shard.shard) {
            self.may_return.acquire().await.expect("open").forget();
        }
    }
}

async fn worker<W: ShardWork>(node: &Scripted, work: &Arc<W>) -> ShardWorker {
    let settings = ShardWorkerSettings {
        set: "polling".into(),
        app: "fetchers".into(),
        id: "f1".into(),
        registration: Registration::default(),
    };
    let options = Options { heartbeat_timeout_min: Duration::from_millis(100), ..quick() };
    let client = Client::with(&endpoints(&[node]), options).expect("a client");
    client.work_on_shards(settings, work.clone()).await.expect("registered")
}

/// A node that acknowledges all heartbeats, and these views one after the other.
async fn node(first: Act, polls: Vec<Act>, releases: Vec<Act>) -> Scripted {
    Scripted::on([
        (BEATS, vec![Act::Always(Box::new(renewed))]),
        (REGISTRATIONS, vec![registered(7, "60s")]),
        (DEPARTURES, vec![Act::Answer(200, json!({}))]),
        (RELEASES, releases),
        (POLLS, polls),
        (READS, vec![first]),
    ])
    .await
}

fn body(node: &Scripted, request: usize) -> Value {
    serde_json::from_str(&node.asked_with(RELEASES)[request].body).expect("JSON")
}

#[tokio::test]
async fn what_must_go_is_let_go_in_one_call_and_a_stale_token_is_as_good_as_done() {
    let released = json!({"results": [
        {"shard": "pay/a"},
        {"shard": "pay/b", "code": "stale-token", "detail": "", "outcome": "none"},
    ], "revision": 12});
    let node = node(
        view(10, &[("pay/a", 3), ("pay/b", 4), ("pay/c", 5)]),
        vec![view(11, &[("pay/a!", 3), ("pay/b!", 4), ("pay/c", 5)])],
        vec![Act::Answer(200, released)],
    )
    .await;
    let work = Work::new(none);
    let worker = worker(&node, &work).await;
    let mut told = work.told(5).await;
    told.sort();
    let expected =
        ["start pay/a 3", "start pay/b 4", "start pay/c 5", "stop pay/a 3", "stop pay/b 4"];
    assert_eq!(told, expected);
    node.asked_with_times(RELEASES, 1).await;
    let expected = [json!({"shard": "pay/a", "grant": 3}), json!({"shard": "pay/b", "grant": 4})];
    assert_eq!(body(&node, 0), json!({"shards": expected}));

    // The node is behind: it has not heard of the release, and the other token is still there.
    node.then(POLLS, view(12, &[("pay/a!", 3), ("pay/b!", 4), ("pay/c", 5), ("pay/d", 12)]));
    assert_eq!(work.told(6).await[5], "start pay/d 12");
    node.then(POLLS, view(13, &[("pay/c", 5), ("pay/d", 12), ("pay/b", 13)]));
    assert_eq!(work.told(7).await[6], "start pay/b 13");
    assert_eq!(node.asked_with(RELEASES).len(), 1, "{:?}", node.lines());
    assert!(worker.running().iter().any(|held| held.shard == "pay/c"), "it was never touched");
}

#[tokio::test]
async fn a_move_that_is_called_off_while_its_work_stops_goes_on_here() {
    let polls = vec![view(11, &[("pay/a!", 3)])];
    let node = node(view(10, &[("pay/a", 3)]), polls, vec![]).await;
    let work = Work::new(all);
    let worker = worker(&node, &work).await;
    assert_eq!(work.told(2).await, ["start pay/a 3", "stop pay/a 3"]);
    node.then(POLLS, view(12, &[("pay/a", 3)]));
    node.asked_with_times("index=12", 1).await;
    work.may_return.add_permits(1);
    assert_eq!(work.told(3).await[2], "start pay/a 3");
    assert!(node.asked_with(RELEASES).is_empty(), "{:?}", node.lines());
    drop(worker);
}

#[tokio::test]
async fn a_release_without_an_answer_is_sent_again_and_the_shard_never_started_under_its_grant() {
    let released = json!({"results": [{"shard": "pay/a"}], "revision": 12});
    let gate = Arc::new(Notify::new());
    let late = Act::After(gate.clone(), Box::new(Act::Answer(200, released)));
    let polls = vec![view(11, &[("pay/a!", 3)])];
    let node = node(view(10, &[("pay/a", 3)]), polls, vec![Act::Broken, late]).await;
    let work = Work::new(none);
    let worker = worker(&node, &work).await;
    node.asked_with_times(RELEASES, 2).await;
    // Called off, as far as this node knows; but the first release may still arrive.
    node.then(POLLS, view(12, &[("pay/a", 3)]));
    node.then(POLLS, view(13, &[("pay/a", 3), ("pay/b", 13)]));
    assert_eq!(work.told(3).await[2], "start pay/b 13");
    gate.notify_one();
    node.then(POLLS, view(14, &[("pay/a", 14), ("pay/b", 13)]));
    assert_eq!(work.told(4).await[3], "start pay/a 14");
    drop(worker);
}

#[tokio::test]
async fn a_worker_that_nobody_hears_stops_by_itself_and_begins_anew_under_new_grants() {
    let heard = Arc::new(AtomicUsize::new(0));
    let beats = Act::Always(Box::new({
        let heard = heard.clone();
        move || match heard.load(Ordering::SeqCst) {
            0 => Act::Silence,
            1 => problem(404, "unknown-instance", "none"),
            _ => renewed(),
        }
    }));
    let node = Scripted::on([
        (BEATS, vec![beats]),
        (REGISTRATIONS, vec![registered(7, "1s"), registered(20, "60s")]),
        (POLLS, vec![]),
        (READS, vec![view(10, &[("pay/a", 3), ("pay/b", 4)]), view(22, &[("pay/a", 21)])]),
    ])
    .await;
    let work = Work::new(none);
    let worker = worker(&node, &work).await;
    let mut told = work.told(4).await;
    told.sort();
    assert_eq!(told, ["start pay/a 3", "start pay/b 4", "stop pay/a 3", "stop pay/b 4"]);
    assert!(!worker.is_safe(), "no heartbeat was answered, and no node said that it is gone");
    assert_eq!(node.asked_with("/v1/apps").len(), node.asked_with(BEATS).len() + 1);
    heard.store(1, Ordering::SeqCst);
    node.asked_with_times(REGISTRATIONS, node.asked_with(BEATS).len() + 2).await;
    heard.store(2, Ordering::SeqCst);
    assert_eq!(work.told(5).await[4], "start pay/a 21");
    assert!(worker.is_safe());
}

#[tokio::test]
async fn a_worker_that_the_cluster_does_not_know_stops_all() {
    let unknown = problem(404, "unknown-instance", "none");
    let node = node(view(10, &[("pay/a", 3)]), vec![unknown], vec![]).await;
    let work = Work::new(none);
    let worker = worker(&node, &work).await;
    assert_eq!(work.told(2).await, ["start pay/a 3", "stop pay/a 3"]);
    node.then(READS, view(12, &[("pay/a", 12)]));
    assert_eq!(work.told(3).await[2], "start pay/a 12");
    drop(worker);
}

#[tokio::test]
async fn a_view_that_is_older_than_one_that_was_seen_is_not_taken() {
    let polls = vec![view(8, &[]), view(11, &[("pay/a", 3), ("pay/b", 11)])];
    let node = node(view(10, &[("pay/a", 3)]), polls, vec![]).await;
    let work = Work::new(none);
    let worker = worker(&node, &work).await;
    assert_eq!(work.told(2).await, ["start pay/a 3", "start pay/b 11"]);
    drop(worker);
}

#[tokio::test]
async fn leaving_stops_everything_before_it_deregisters() {
    let node = node(view(10, &[("pay/a", 3)]), vec![], vec![]).await;
    let work = Work::new(all);
    let worker = worker(&node, &work).await;
    work.told(1).await;
    let leaving = tokio::spawn(worker.leave());
    assert_eq!(work.told(2).await[1], "stop pay/a 3");
    node.asked_with_times(BEATS, node.asked_with(BEATS).len() + 2).await;
    assert!(node.asked_with(DEPARTURES).is_empty(), "work goes on");
    work.may_return.add_permits(1);
    within("the departure", leaving).await.expect("no panic").expect("left");
    assert_eq!(node.asked_with(DEPARTURES).len(), 1);
}

/// Waits until the worker has an error, or none; looked at with each heartbeat.
async fn error_of(worker: &ShardWorker, node: &Scripted, expected: bool) -> Option<String> {
    loop {
        let error = worker.error();
        if error.is_some() == expected {
            return error.map(|error| error.to_string());
        }
        node.asked_with_times(BEATS, node.asked_with(BEATS).len() + 1).await;
    }
}

#[tokio::test]
async fn a_stop_that_hangs_holds_up_nothing_but_its_own_shard_and_is_told() {
    let renewed = || {
        let body = json!({"ttl": "2s", "heartbeat_every": "20ms", "revision": 9});
        Act::Answer(200, body)
    };
    let released =
        |shard: &str| Act::Answer(200, json!({"results": [{"shard": shard}], "revision": 12}));
    let node = Scripted::on([
        (BEATS, vec![Act::Always(Box::new(renewed))]),
        (REGISTRATIONS, vec![registered(7, "2s")]),
        (RELEASES, vec![released("pay/b"), released("pay/a")]),
        (POLLS, vec![view(11, &[("pay/a!", 3), ("pay/b!", 4), ("pay/c", 11)])]),
        (READS, vec![view(10, &[("pay/a", 3), ("pay/b", 4)])]),
    ])
    .await;
    let work = Work::new(|shard| shard == "pay/a");
    let worker = worker(&node, &work).await;
    let mut told = work.told(5).await;
    told.sort();
    let expected =
        ["start pay/a 3", "start pay/b 4", "start pay/c 11", "stop pay/a 3", "stop pay/b 4"];
    assert_eq!(told, expected);
    node.asked_with_times(RELEASES, 1).await;
    assert_eq!(body(&node, 0), json!({"shards": [{"shard": "pay/b", "grant": 4}]}));
    let error = within("an error", error_of(&worker, &node, true)).await.expect("an error");
    assert!(error.contains("pay/a") && error.contains("was told to stop"), "{error}");

    node.then(POLLS, view(12, &[("pay/a!", 3), ("pay/c", 11), ("pay/d", 12)]));
    assert_eq!(work.told(6).await[5], "start pay/d 12");
    assert_eq!(node.asked_with(RELEASES).len(), 1, "work on it goes on");
    work.may_return.add_permits(1);
    node.asked_with_times(RELEASES, 2).await;
    assert_eq!(body(&node, 1), json!({"shards": [{"shard": "pay/a", "grant": 3}]}));
    within("no error", error_of(&worker, &node, false)).await;
    assert_eq!(work.told(6).await.len(), 6, "told to stop once");
}

#[tokio::test]
async fn what_hangs_when_the_lease_is_over_is_not_started_again_before_it_has_stopped() {
    let gone = Arc::new(AtomicUsize::new(0));
    let beats = Act::Always(Box::new({
        let gone = gone.clone();
        move || match gone.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => problem(404, "unknown-instance", "none"),
            Err(_) => renewed(),
        }
    }));
    let node = Scripted::on([
        (BEATS, vec![beats]),
        (REGISTRATIONS, vec![registered(7, "60s"), registered(20, "60s")]),
        (POLLS, vec![view(11, &[("pay/a!", 3), ("pay/b", 4)])]),
        (
            READS,
            vec![
                view(10, &[("pay/a", 3), ("pay/b", 4)]),
                view(22, &[("pay/a", 21), ("pay/b", 21), ("pay/c", 22)]),
            ],
        ),
    ])
    .await;
    let work = Work::new(|shard| shard == "pay/a");
    let worker = worker(&node, &work).await;
    assert_eq!(work.told(3).await[2], "stop pay/a 3");
    gone.store(1, Ordering::SeqCst);
    let mut told = work.told(6).await.split_off(3);
    assert_eq!(told[0], "stop pay/b 4", "the other was told already");
    told[1..].sort();
    assert_eq!(told[1..], ["start pay/b 21", "start pay/c 22"]);
    work.may_return.add_permits(1);
    assert_eq!(work.told(7).await[6], "start pay/a 21");
    drop(worker);
}

/// Whose start of one shard takes its thread away until the test gives it back.
struct Blocking {
    shard: &'static str,
    begun: Notify,
    go_on: Mutex<mpsc::Receiver<()>>,
    started: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl ShardWork for Blocking {
    fn start(&self, Grant { shard, grant }: &Grant) {
        self.started.lock().push(format!("{shard} {grant}"));
        if shard == self.shard {
            self.begun.notify_one();
            // Ends when the test has dropped its side, too.
            let _ = self.go_on.lock().recv();
        }
    }

    async fn stop(&self, _shard: &Grant) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_slept_through_its_lease_is_not_safe_under_the_next_one_before_it_knows() {
    let gone = Arc::new(AtomicUsize::new(0));
    let beats = Act::Always(Box::new({
        let gone = gone.clone();
        move || match gone.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => problem(404, "unknown-instance", "none"),
            Err(_) => renewed(),
        }
    }));
    let node = Scripted::on([
        (BEATS, vec![beats]),
        (REGISTRATIONS, vec![registered(7, "60s"), registered(20, "60s")]),
        (POLLS, vec![]),
        (READS, vec![view(10, &[("pay/a", 3), ("pay/b", 4)]), view(22, &[("pay/b", 21)])]),
    ])
    .await;
    let (go_on, waiting) = mpsc::channel();
    let work = Arc::new(Blocking {
        shard: "pay/a",
        begun: Notify::new(),
        go_on: Mutex::new(waiting),
        started: Mutex::default(),
    });
    let worker = worker(&node, &work).await;
    within("the start", work.begun.notified()).await;
    assert!(worker.is_safe());
    gone.store(1, Ordering::SeqCst);
    node.asked_with_times("incarnation=20", 1).await;
    assert!(!worker.is_safe(), "what it works on was given to others");
    go_on.send(()).expect("it waits");
    let anew = async {
        while !worker.is_safe() {
            node.asked_with_times(BEATS, node.asked_with(BEATS).len() + 1).await;
        }
    };
    within("the next lease", anew).await;
    node.asked_with_times(POLLS, 1).await;
    let started = work.started.lock().clone();
    assert!(!started.contains(&"pay/b 4".to_owned()), "of the lease before: {started:?}");
}
