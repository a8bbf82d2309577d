//! Rings that are followed, and members of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use parking_lot::Mutex;
use roster::client::{
    Client, Error, Options, Registration, Revision, RingDescription, RingFollower, RingMember,
    RingView, RingWork,
};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use crate::scripted::{Act, Scripted, client, endpoints, problem, quick, within};

/// The long polls, and first of all since the other reads' path is in theirs.
const POLLS: &str = "ring?index=";
const READS: &str = "GET /v1/apps/pay/ring";
const BEATS: &str = "heartbeat";
const REGISTRATIONS: &str = "PUT /v1/apps/pay/instances/me";

/// A ring of two workers, who hold one slot each: these.
fn ring(epoch: u64, slots: [i64; 2]) -> Value {
    json!({
        "v": 1, "kind": "jump-probe-1", "group": "pay", "epoch": epoch, "seed": 0, "replicas": 1,
        "workers": [["me", 1], ["other", 1]], "slots": slots, "settled": 0,
    })
}

fn answer(ring: Value) -> Act {
    Act::Answer(200, ring)
}

#[tokio::test]
async fn a_ring_is_read_as_messagepack_and_as_json() {
    let description: RingDescription = serde_json::from_value(ring(7, [0, 1])).expect("a ring");
    let msgpack = rmp_serde::to_vec_named(&description).expect("MessagePack");
    let msgpack = Response::builder()
        .header("content-type", "application/msgpack")
        .body(Body::from(msgpack))
        .expect("a response");
    let node = Scripted::start([Act::Raw(msgpack), answer(ring(7, [0, 1]))]).await;
    let client = client(&[&node]);
    for _ in 0..2 {
        let view = client.ring("pay").await.expect("a ring");
        assert_eq!((view.epoch(), view.workers().len()), (Revision(7), 2));
    }
    assert_eq!(node.asked()[0].headers["accept"], "application/msgpack");
}

#[tokio::test]
async fn a_malformed_description_is_refused() {
    let with = |field: &str, value: Value| {
        let mut ring = ring(7, [0, 1]);
        ring[field] = value;
        ring
    };
    let malformed = [
        with("v", json!(2)),
        with("kind", json!("ketama")),
        with("group", json!("another")),
        with("slots", json!([0, 0])),
        with("slots", json!([0, 2])),
        with("workers", json!([["other", 1], ["me", 1]])),
        json!({"v": 1}),
    ];
    for description in malformed {
        let node = Scripted::start([answer(description.clone())]).await;
        let error = client(&[&node]).ring("pay").await.expect_err("malformed");
        assert!(matches!(error, Error::NotRoster { .. }), "{description}: {error}");
    }
}

#[tokio::test]
async fn a_follower_takes_newer_rings_and_never_goes_back() {
    let gates = [(); 2].map(|()| Arc::new(Notify::new()));
    let later = |gate: usize, act: Act| Act::After(gates[gate].clone(), Box::new(act));
    let malformed = later(0, answer(json!({"v": 9})));
    let polls = vec![answer(ring(3, [1, 0])), malformed, later(1, answer(ring(9, [0, 1])))];
    let node = Scripted::on([(POLLS, polls), (READS, vec![answer(ring(5, [0, 1]))])]).await;
    let mut follower = client(&[&node]).follow_ring("pay").await.expect("a ring");
    let error = |follower: &RingFollower| follower.error().expect("an error").to_string();
    node.asked_with_times(POLLS, 2).await;
    assert_eq!(follower.view().epoch(), Revision(5));
    assert!(error(&follower).contains("a ring of epoch 3, but epoch 5"), "{}", error(&follower));
    gates[0].notify_one();
    node.asked_with_times(POLLS, 3).await;
    assert_eq!(follower.view().epoch(), Revision(5));
    assert!(error(&follower).contains("missing field"), "{}", error(&follower));
    gates[1].notify_one();
    assert_eq!(within("a newer ring", follower.changed()).await.epoch(), Revision(9));
    node.asked_with_times(POLLS, 4).await;
    assert!(follower.error().is_none(), "{:?}", follower.error());
    let asked = node.asked_with(POLLS).into_iter().map(|asked| asked.line).collect::<Vec<_>>();
    let poll = |epoch| format!("{READS}?index={epoch}&wait=10s");
    assert_eq!(asked, [poll(5), poll(5), poll(5), poll(9)]);
}

/// Counts what it is told, and returns only when the test lets it.
struct Work {
    lost: AtomicUsize,
    all: AtomicUsize,
    told: Notify,
    may_return: Semaphore,
    epochs: Mutex<Vec<(u64, u64)>>,
}

impl Work {
    fn new(returns: usize) -> Arc<Self> {
        Arc::new(Self {
            lost: AtomicUsize::new(0),
            all: AtomicUsize::new(0),
            told: Notify::new(),
            may_return: Semaphore::new(returns),
            epochs: Mutex::default(),
        })
    }

    async fn told_once(&self, counter: &AtomicUsize) {
        let told = async {
            loop {
                let told = self.told.notified();
                if counter.load(Ordering::SeqCst) > 0 {
                    return;
                }
                told.await;
            }
        };
        within("being told to stop", told).await;
    }
}

#[async_trait::async_trait]
impl RingWork for Work {
    async fn stop_lost(&self, old: &RingView, new: &RingView) {
        self.epochs.lock().push((old.epoch().0, new.epoch().0));
        self.lost.fetch_add(1, Ordering::SeqCst);
        self.told.notify_waiters();
        self.may_return.acquire().await.expect("open").forget();
    }

    async fn stop_all(&self) {
        self.all.fetch_add(1, Ordering::SeqCst);
        self.told.notify_waiters();
    }
}

fn registered(ttl: &str) -> Act {
    registered_as(4, ttl)
}

fn registered_as(incarnation: u64, ttl: &str) -> Act {
    Act::Answer(
        201,
        json!({"app": "pay", "id": "me", "incarnation": incarnation, "session": "1", "ttl": ttl,
            "heartbeat_every": "50ms", "revision": incarnation}),
    )
}

/// Heartbeats that are all answered, with what is settled then.
fn renewed(settled: &Arc<AtomicU64>) -> Act {
    let settled = settled.clone();
    Act::Always(Box::new(move || {
        let settled = settled.load(Ordering::SeqCst);
        Act::Answer(
            200,
            json!({"ttl": "60s", "heartbeat_every": "50ms", "revision": 9,
                "settled": {"pay": settled}}),
        )
    }))
}

/// A key in each slot of a ring of two.
fn keys() -> (String, String) {
    let description: RingDescription = serde_json::from_value(ring(1, [0, 1])).expect("a ring");
    let view = RingView::try_from(description).expect("a ring");
    let key = |owner: &str| {
        let owned = |key: &String| view.owner(key.as_bytes()) == Some(owner);
        (0..).map(|n| format!("key-{n}")).find(owned).expect("a key")
    };
    (key("me"), key("other"))
}

async fn until_it_may_start(member: &mut RingMember, key: &str) {
    let allowed = async {
        while !member.may_start(key.as_bytes()) {
            member.changed().await;
        }
    };
    within("a key that may be started", allowed).await;
}

#[tokio::test]
async fn a_member_adopts_an_epoch_after_its_losses_stopped_and_starts_on_gains_once_it_is_settled()
{
    let (first, second) = keys();
    let settled = Arc::new(AtomicU64::new(0));
    let both = vec![answer(ring(5, [0, 1])), answer(ring(5, [0, 1]))];
    let topics = [
        (BEATS, vec![renewed(&settled)]),
        (POLLS, vec![]),
        (READS, both),
        (REGISTRATIONS, vec![registered("60s")]),
    ];
    let node = Scripted::on(topics).await;
    let work = Work::new(0);
    let client = client(&[&node]);
    let joining = client.join_ring("pay", "me", Registration::default(), work.clone());
    let mut member = joining.await.expect("a member");
    node.asked_with_times("adopted=5", 2).await;
    assert!(!member.may_start(first.as_bytes()), "epoch 5 is not settled");
    settled.store(5, Ordering::SeqCst);
    until_it_may_start(&mut member, &first).await;
    assert!(!member.may_start(second.as_bytes()), "it is another's");

    node.then(POLLS, answer(ring(9, [1, 0])));
    work.told_once(&work.lost).await;
    node.asked_with_times(BEATS, node.asked_with(BEATS).len() + 2).await;
    assert!(node.asked_with("adopted=9").is_empty(), "work on lost keys goes on");
    assert!(!member.may_start(first.as_bytes()), "it is about to be lost");
    work.may_return.add_permits(1);
    node.asked_with_times("adopted=9", 2).await;
    assert!(!member.may_start(second.as_bytes()), "the other may still be at work on it");
    settled.store(9, Ordering::SeqCst);
    until_it_may_start(&mut member, &second).await;
    assert_eq!(*work.epochs.lock(), [(5, 9)]);
}

#[tokio::test]
async fn a_member_that_nobody_hears_stops_all_by_itself() {
    let (first, _) = keys();
    let beats = Act::Always(Box::new(|| Act::Silence));
    let both = vec![answer(ring(5, [0, 1])), answer(ring(5, [0, 1]))];
    let topics = [
        (BEATS, vec![beats]),
        (POLLS, vec![]),
        (READS, both),
        (REGISTRATIONS, vec![registered("1s")]),
    ];
    let node = Scripted::on(topics).await;
    let work = Work::new(0);
    let client = client(&[&node]);
    let joining = client.join_ring("pay", "me", Registration::default(), work.clone());
    let member = joining.await.expect("a member");
    work.told_once(&work.all).await;
    assert!(!member.is_safe() && !member.may_start(first.as_bytes()));
    assert!(member.current().is_none());
}

/// Takes its thread away while it is told what is lost, until the test gives it back.
struct Blocking {
    begun: Notify,
    go_on: Mutex<mpsc::Receiver<()>>,
}

#[async_trait::async_trait]
impl RingWork for Blocking {
    async fn stop_lost(&self, _old: &RingView, _new: &RingView) {
        self.begun.notify_one();
        // Ends when the test has dropped its side, too.
        let _ = self.go_on.lock().recv();
    }

    async fn stop_all(&self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_that_slept_through_its_lease_starts_nothing_by_what_it_knew_before() {
    let (first, _) = keys();
    let gone = Arc::new(AtomicUsize::new(0));
    let beats = Act::Always(Box::new({
        let gone = gone.clone();
        move || match gone.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => problem(404, "unknown-instance", "none"),
            Err(_) => Act::Answer(
                200,
                json!({"ttl": "60s", "heartbeat_every": "50ms", "revision": 9,
                    "settled": {"pay": 5}}),
            ),
        }
    }));
    let both = vec![answer(ring(5, [0, 1])), answer(ring(5, [0, 1]))];
    let topics = [
        (BEATS, vec![beats]),
        (POLLS, vec![]),
        (READS, both),
        (REGISTRATIONS, vec![registered("60s"), registered_as(20, "60s")]),
    ];
    let node = Scripted::on(topics).await;
    let (go_on, waiting) = mpsc::channel();
    let work = Arc::new(Blocking { begun: Notify::new(), go_on: Mutex::new(waiting) });
    let client = client(&[&node]);
    let joining = client.join_ring("pay", "me", Registration::default(), work.clone());
    let mut member = joining.await.expect("a member");
    until_it_may_start(&mut member, &first).await;
    node.then(POLLS, answer(ring(9, [0, 1])));
    within("its task to be held up", work.begun.notified()).await;
    assert!(member.may_start(first.as_bytes()), "it kept the key");
    gone.store(1, Ordering::SeqCst);
    node.asked_with_times("incarnation=20", 1).await;
    assert!(!member.may_start(first.as_bytes()), "of its life before");
    assert!(member.current().is_none() && !member.is_safe());
    drop(go_on);
    node.then(READS, answer(ring(12, [0, 1])));
    let anew = async {
        while member.current().is_none_or(|view| view.epoch() < Revision(12)) {
            member.changed().await;
        }
    };
    within("the ring under its new lease", anew).await;
    assert!(!member.may_start(first.as_bytes()), "epoch 12 is not settled");
}

#[tokio::test]
async fn a_late_answer_counts_from_when_its_heartbeat_was_sent() {
    let gate = Arc::new(Notify::new());
    let late = json!({"ttl": "500ms", "heartbeat_every": "10ms", "revision": 9});
    let late = Act::After(gate.clone(), Box::new(Act::Answer(200, late)));
    let topics = [(BEATS, vec![late]), (REGISTRATIONS, vec![registered("500ms")])];
    let node = Scripted::on(topics).await;
    let options = Options { heartbeat_timeout_min: Duration::from_secs(20), ..quick() };
    let client = Client::with(&endpoints(&[&node]), options).expect("a client");
    let kept = client.keep_alive("pay", "me", Registration::default()).await.expect("registered");
    node.asked_with_times(BEATS, 1).await;
    // The heartbeat was sent right after the registration, so it is all but too old when that is.
    let over = async {
        while kept.lease().is_safe() {
            tokio::task::yield_now().await;
        }
    };
    within("the end of the registration's lease", over).await;
    gate.notify_one();
    node.asked_with_times(BEATS, 2).await;
    assert!(kept.lease().left() < Duration::from_millis(200), "it counts from the answer");
}
