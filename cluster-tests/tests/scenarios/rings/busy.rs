//! Members come, go, drain, expire and change their weight while nodes die and come back.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_tests::churn::{APPS, Churn};
use cluster_tests::client::{At, Client, instance};
use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::history::History;
use cluster_tests::rings::{RingBook, RingReaders, epoch_of};
use cluster_tests::seed::Seed;
use cluster_tests::wait::until;
use cluster_tests::watch::{Chronicle, Form, Interest, Listener, Run, Stream};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{owners_by, same_everywhere, switch_on};
use crate::watches::reference;
use crate::{has_checkpoint, newest_checkpoint, three_nodes};

const QUIET: &str = "quiet";

/// Epochs that must come between two faults.
const EPOCHS_BETWEEN: usize = 12;

/// Entries between two checkpoints, and at least so many go from a log at once.
const CHECKPOINT_EVERY: u64 = 20;

/// Deaths after which a node must have missed more than the log keeps.
const DEATHS_MAX: u32 = 5;

/// Entries that a node keeps of its log behind a checkpoint.
const LOG_KEPT: u64 = 5;

/// What the wandering watch takes from one node before it goes to the next.
const LINES_BEFORE_A_HOP: usize = 7;
const HOPS_WITHOUT_A_LINE_FOR: Duration = Duration::from_millis(100);

/// Before the next node is asked when one refused.
const PAUSE: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_is_one_assignment_per_epoch_for_all_nodes_and_clients_whatever_dies() {
    let mut seed = Seed::of_this_run("a_ring_is_one_assignment_per_epoch");
    let plan =
        three_nodes().set("--checkpoint-every", CHECKPOINT_EVERY).set("--log-keep", LOG_KEPT);
    let mut cluster = plan.start().await;
    let client = cluster.client();
    let (chronicle, book) = (Chronicle::new(), RingBook::new());
    let (leader, followers) = cluster.leader_and_followers().await;
    let [steady, behind] = [followers[0], followers[1]];
    let mut begun = 0;
    for app in APPS {
        client.at(leader).put(&format!("/v1/apps/{app}"), &json!({})).await.expect("made");
        begun = switch_on(&client.at(leader), app).await;
    }
    a_quiet_ring_with_holes(&client.at(leader)).await;
    let reference = reference(&client, steady, &chronicle).await;
    let wandering = Wandering::start(&client, &chronicle, begun);
    let readers = RingReaders::start(&client, &book, &APPS, 3, &mut seed);
    let churn = Churn::start(&client, &chronicle, 4, &mut seed);

    epochs_go_on(&book).await;
    cluster.kill(leader);
    epochs_go_on(&book).await;
    cluster.start(leader, &[]);
    cluster.ready().await;
    assert!(has_checkpoint(&cluster.data_dir(leader).join("checkpoints")), "it began with the log");
    dies_until_it_needs_a_checkpoint(&mut cluster, behind, &[leader, steady], &book).await;
    epochs_go_on(&book).await;

    churn.stop().await;
    readers.stop().await;
    the_nodes_agree(&cluster, &client).await;
    let newest = the_next_one_gets_the_same_slots_everywhere(&cluster, &client).await;
    the_nodes_agree(&cluster, &client).await;

    let told = wandering.ends_at(newest).await;
    every_epoch_was_told_once(&book, &told);
    reference.ends_at(newest).await;
    let checked = chronicle.check();
    assert!(checked.covered.1 >= newest, "{checked:?}");
    println!("{} answers about rings were held against each other", book.answers());
}

async fn epochs_go_on(book: &RingBook) {
    let count = || APPS.iter().map(|app| book.epochs(app).len()).sum::<usize>();
    let wanted = count() + EPOCHS_BETWEEN;
    until("rings change", Duration::from_secs(30), async || {
        let seen = count();
        if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted} epochs")) }
    })
    .await;
}

/// Waits until these nodes keep nothing in their logs that is older than now.
async fn the_log_is_cut(cluster: &Cluster, nodes: &[u64]) {
    let client = cluster.client();
    for node in nodes {
        let now = client.at(*node).node().await.expect("it answers").applied;
        let folder = cluster.data_dir(*node).join("checkpoints");
        until("it has a newer checkpoint", READY_WITHIN, async || {
            let newest = newest_checkpoint(&folder);
            if newest > Some(now + LOG_KEPT + CHECKPOINT_EVERY) {
                Ok(())
            } else {
                Err(format!("{newest:?}"))
            }
        })
        .await;
    }
}

/// The leader keeps what it was just sending to a node that died, so one death may not be enough.
async fn dies_until_it_needs_a_checkpoint(
    cluster: &mut Cluster,
    node: u64,
    others: &[u64],
    book: &RingBook,
) {
    let client = cluster.client();
    for death in 1..=DEATHS_MAX {
        cluster.kill(node);
        epochs_go_on(book).await;
        the_log_is_cut(cluster, others).await;
        let missed = client.at(others[0]).node().await.expect("it answers").applied;
        cluster.start(node, &[]);
        until("it has caught up", READY_WITHIN, async || {
            let applied = client.at(node).node().await.map_err(|e| e.to_string())?.applied;
            if applied >= missed { Ok(()) } else { Err(format!("{applied} of {missed}")) }
        })
        .await;
        if cluster.last_log(node).contains("received a checkpoint") {
            println!("it needed a checkpoint after {death} deaths");
            return cluster.ready().await;
        }
    }
    panic!("it never needed a checkpoint");
}

async fn the_nodes_agree(cluster: &Cluster, client: &Client) {
    for app in APPS {
        same_everywhere(client, &cluster.ids(), app).await;
    }
    let history = History::new();
    cluster.settled().await.iter().for_each(|status| history.saw_state(status));
}

/// A ring that nobody changes until it has a newcomer, with vacant slots of three who left: first
/// the four of z3, then the three of z1.
async fn a_quiet_ring_with_holes(at: &At<'_>) {
    for (id, weight) in [("z0", 2), ("z1", 3), ("z2", 2), ("z3", 4)] {
        at.put(&instance(QUIET, id), &weighing(weight)).await.expect("registered");
    }
    switch_on(at, QUIET).await;
    for id in ["z3", "z1", "z2"] {
        at.delete(&instance(QUIET, id)).await.expect("left");
    }
}

/// Vacant slots are taken in an order that no description shows: only who joins tells whether a node
/// still has it that was sent a checkpoint, or began with one. Gives the epoch.
async fn the_next_one_gets_the_same_slots_everywhere(cluster: &Cluster, client: &Client) -> u64 {
    let before = same_everywhere(client, &cluster.ids(), QUIET).await;
    assert_eq!(before["slots"], json!([0, 0, -1, -1, -1, -1, -1, -1, -1, -1, -1]));
    let at = client.at(cluster.leader().await);
    let joined = at.put(&instance(QUIET, "a"), &weighing(5)).await.expect("registered");
    let after = same_everywhere(client, &cluster.ids(), QUIET).await;
    assert_eq!(epoch_of(&after), joined.revision, "it joined in the entry that registered it");
    assert_eq!(after["slots"], json!([1, 1, 0, -1, -1, -1, -1, 0, 0, 0, 0]));
    joined.revision
}

fn weighing(weight: u16) -> Value {
    json!({"ip": "192.0.2.1", "port": 1, "ttl": "10m", "weight": weight})
}

/// All that anybody saw of a ring since the watch began was told by it.
fn every_epoch_was_told_once(book: &RingBook, run: &Run) {
    book.told(run);
    book.for_each_epoch(|description, named| {
        for (key, owners) in named {
            let computed = owners_by(description, &[(*key).to_owned()]);
            let copies = owners.as_array().expect("owners").len();
            let computed: Vec<_> = computed[0]["owners"].as_array().expect("owners").clone();
            let epoch = epoch_of(description);
            assert_eq!(owners.as_array(), Some(&computed[..copies].to_vec()), "{key} at {epoch}");
        }
    });
    let mut epochs = 0;
    for app in APPS {
        for epoch in book.epochs(app).into_iter().filter(|epoch| *epoch > run.after) {
            let events = run.revisions.get(&epoch).into_iter().flatten();
            let of_app = events.filter(|event| event["app"] == app).count();
            assert_eq!(of_app, 1, "epoch {epoch} of {app} was told {of_app} times");
            epochs += 1;
        }
    }
    println!("the watch that went from node to node told {epochs} epochs");
}

/// A watch of all rings that goes on at the next node again and again.
struct Wandering {
    upto: watch::Sender<u64>,
    task: JoinHandle<Run>,
}

impl Wandering {
    fn start(client: &Client, chronicle: &Chronicle, after: u64) -> Self {
        let upto = watch::Sender::new(u64::MAX);
        let wanderer = Wanderer {
            client: client.clone(),
            chronicle: chronicle.clone(),
            told: Run {
                who: "the wandering watch".into(),
                interest: Interest { kinds: ["ring".to_owned()].into(), ..Interest::default() },
                after,
                upto: after,
                revisions: BTreeMap::new(),
            },
        };
        let task = tokio::spawn(wanderer.wander(upto.subscribe()));
        Self { upto, task }
    }

    /// All that it was told up to this revision.
    async fn ends_at(self, revision: u64) -> Run {
        self.upto.send_replace(revision);
        let told = timeout(READY_WITHIN, self.task).await.expect("it gets there");
        told.expect("the watch did not panic")
    }
}

struct Wanderer {
    client: Client,
    chronicle: Chronicle,
    told: Run,
}

impl Wanderer {
    async fn wander(mut self, upto: watch::Receiver<u64>) -> Run {
        let mut nodes = self.client.ids().into_iter().cycle();
        while self.told.upto < *upto.borrow() {
            let node = nodes.next().expect("they come again");
            let (from, interest) = (self.told.upto, self.told.interest.clone());
            let query = format!("wait=2s&from={from}{}", interest.query());
            match Stream::open(&self.client.at(node), &query, Form::Lines).await {
                Ok(stream) => {
                    let here = Listener::new(format!("node {node}"), interest, Some(from));
                    self.hear(stream, here).await;
                }
                // It is dead, or it was sent a checkpoint and does not know the changes before it.
                Err(_) => sleep(PAUSE).await,
            }
        }
        self.told
    }

    async fn hear(&mut self, mut stream: Stream, mut here: Listener) {
        for _ in 0..LINES_BEFORE_A_HOP {
            match stream.next_within(HOPS_WITHOUT_A_LINE_FOR).await {
                Some(Ok(line)) => here.take(line),
                Some(Err(end)) => {
                    here.ended(&end);
                    break;
                }
                None => break,
            }
        }
        for run in here.clone().told().0 {
            self.told.revisions.extend(run.revisions);
            self.told.upto = run.upto;
        }
        self.chronicle.told(here);
    }
}
