//! A group that polls keys: each by one member, whoever dies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cluster_tests::client::{Client, instance};
use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::rings::keys;
use cluster_tests::seed::Seed;
use cluster_tests::wait::until;
use roster::client::{Client as Member, Registration, RingMember, RingView, RingWork};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::switch_on;
use crate::three_nodes;

const APP: &str = "pollers";
const MEMBERS: usize = 3;
const KEYS: usize = 1_000;
const TTL: Duration = Duration::from_secs(2);

/// Between two rounds of a member.
const ROUND_EVERY: Duration = Duration::from_millis(100);

/// Much longer than others need to hear of a new ring.
const STOPPING_TAKES: Duration = Duration::from_millis(300);

/// Who polled what in which round, and who is at work on a key at present.
#[derive(Clone, Debug, Default)]
struct Board(Arc<Mutex<Marks>>);

#[derive(Debug, Default)]
struct Marks {
    rounds: Vec<Round>,
    /// Work that takes longer than a round, and that only one may do: by key.
    at_work: BTreeMap<String, usize>,
}

/// One member's round, by the newest ring at its beginning.
#[derive(Clone, Debug)]
struct Round {
    member: usize,
    begun: Instant,
    epoch: u64,
    polled: Vec<String>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().expect("no member panicked meanwhile")
    }

    fn free(&self, member: usize, mut lost: impl FnMut(&str) -> bool) {
        self.lock().at_work.retain(|key, by| *by != member || !lost(key));
    }
}

/// What a member stops when it is told to.
struct Work {
    number: usize,
    board: Board,
}

#[async_trait]
impl RingWork for Work {
    async fn stop_lost(&self, _old: &RingView, new: &RingView) {
        sleep(STOPPING_TAKES).await;
        let id = id_of(self.number);
        self.board.free(self.number, |key| new.owner(key.as_bytes()) != Some(id.as_str()));
    }

    async fn stop_all(&self) {
        self.board.free(self.number, |_| true);
    }
}

fn id_of(member: usize) -> String {
    format!("m{member}")
}

/// A member whose rounds go on until it is killed.
struct Polling(JoinHandle<()>);

impl Polling {
    async fn start(cluster: &Cluster, board: &Board, number: usize) -> Self {
        let client = Member::new(&cluster.endpoints(number)).expect("a client");
        let registration = Registration {
            ip: "192.0.2.1".into(),
            port: 1,
            ttl: Some(TTL),
            ..Registration::default()
        };
        let work = Arc::new(Work { number, board: board.clone() });
        let member = client.join_ring(APP, &id_of(number), registration, work).await;
        let member = member.expect("it joins");
        Self(tokio::spawn(poll(client, member, number, board.clone())))
    }

    /// Its heartbeats end, and whatever it did; it lets nobody know.
    async fn dies(self, number: usize, board: &Board) {
        self.0.abort();
        assert!(self.0.await.is_err_and(|why| why.is_cancelled()), "it ended by itself");
        board.free(number, |_| true);
    }
}

async fn poll(client: Member, member: RingMember, number: usize, board: Board) {
    let (keys, id) = (keys(KEYS), id_of(number));
    loop {
        let begun = Instant::now();
        // Nobody answers while there is no leader; the next round is soon.
        if let Ok(ring) = client.ring(APP).await {
            let mine = |key: &&String| ring.owner(key.as_bytes()) == Some(id.as_str());
            let polled = keys.iter().filter(mine).cloned().collect();
            let round = Round { member: number, begun, epoch: ring.epoch().0, polled };
            board.lock().rounds.push(round);
        }
        begin_what_may_begin(&member, number, &keys, &board);
        sleep(ROUND_EVERY).await;
    }
}

fn begin_what_may_begin(member: &RingMember, number: usize, keys: &[String], board: &Board) {
    // Held until the work is known to what stops it.
    let mut marks = board.lock();
    for key in keys {
        if member.may_start(key.as_bytes()) {
            let before = marks.at_work.insert(key.clone(), number);
            let alone = before.is_none_or(|by| by == number);
            assert!(alone, "{key} is worked on by {before:?} and by {number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_is_polled_by_one_member_from_the_first_round_after_a_death() {
    let mut seed = Seed::of_this_run("every_key_is_polled_by_one_member");
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    let leader = cluster.leader().await;
    client.at(leader).put(&format!("/v1/apps/{APP}"), &json!({})).await.expect("made");
    switch_on(&client.at(leader), APP).await;
    let board = Board::default();
    let mut members = BTreeMap::new();
    for number in 0..MEMBERS {
        members.insert(number, Polling::start(&cluster, &board, number).await);
    }
    all_is_worked_on(&board, &members).await;

    let killed = seed.below(MEMBERS);
    members.remove(&killed).expect("it is there").dies(killed, &board).await;
    let removed = is_removed(&client, leader, killed).await;
    first_rounds_cover_all(&board, &members, removed).await;
    all_is_worked_on(&board, &members).await;
    println!("all is worked on again {:?} after the removal", removed.elapsed());

    // Nobody loses or gains a key by a new leader, and a new member gets its keys under it.
    cluster.kill(leader);
    members.insert(MEMBERS, Polling::start(&cluster, &board, MEMBERS).await);
    let joined = Instant::now();
    first_rounds_cover_all(&board, &members, joined).await;
    all_is_worked_on(&board, &members).await;
    each_epoch_gave_a_key_to_one(&board);
    for (number, member) in members {
        member.dies(number, &board).await;
    }
}

/// Waits until the removal shows, and tells when it did.
async fn is_removed(client: &Client, node: u64, member: usize) -> Instant {
    until("it is removed", TTL * 5, async || {
        match client.at(node).get(&instance(APP, &id_of(member))).await {
            Err(failed) if failed.code() == "unknown-instance" => Ok(Instant::now()),
            Err(failed) => Err(failed.to_string()),
            Ok(_) => Err("it is there".into()),
        }
    })
    .await
}

/// The first round of each that began after a moment: together they polled each key once.
async fn first_rounds_cover_all(board: &Board, members: &BTreeMap<usize, Polling>, after: Instant) {
    let rounds = until("each has polled", READY_WITHIN, async || {
        let marks = board.lock();
        let first = |member: &usize| {
            let of_it = |round: &&Round| round.member == *member && round.begun > after;
            marks.rounds.iter().find(of_it).cloned().ok_or(*member)
        };
        members.keys().map(first).collect::<Result<Vec<_>, _>>()
    })
    .await;
    let mut polled: Vec<_> = rounds.iter().flat_map(|round| &round.polled).collect();
    polled.sort();
    let epochs: Vec<_> = rounds.iter().map(|round| (round.member, round.epoch)).collect();
    assert_eq!(polled.len(), KEYS, "polled in the first rounds, with epochs {epochs:?}");
    polled.dedup();
    assert_eq!(polled.len(), KEYS, "some were polled twice, with epochs {epochs:?}");
}

/// Waits until each key has somebody who works on it; that it is one only, each start checks.
async fn all_is_worked_on(board: &Board, members: &BTreeMap<usize, Polling>) {
    until("each key is worked on", READY_WITHIN, async || {
        for (number, member) in members {
            assert!(!member.0.is_finished(), "member {number} has ended");
        }
        let marks = board.lock();
        let by: BTreeSet<_> = marks.at_work.values().collect();
        let all = marks.at_work.len() == KEYS && by.len() == members.len();
        if all { Ok(()) } else { Err(format!("{} keys by {by:?}", marks.at_work.len())) }
    })
    .await;
}

fn each_epoch_gave_a_key_to_one(board: &Board) {
    let mut owners = BTreeMap::new();
    for round in &board.lock().rounds {
        for key in &round.polled {
            let first = *owners.entry((round.epoch, key.clone())).or_insert(round.member);
            assert_eq!(first, round.member, "{key} was polled by two under one epoch: {round:?}");
        }
    }
}
