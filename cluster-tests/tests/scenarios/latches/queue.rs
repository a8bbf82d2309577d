//! Who waits keeps its place, and gets its turn once.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster_tests::client::At;
use cluster_tests::cluster::Cluster;
use cluster_tests::latches::{
    Told, acquire, all_nodes_agree, holds, release, session, so_many_wait, told,
};
use cluster_tests::seed::Seed;
use cluster_tests::wait::until;
use roster::client::{AcquiredLock, Client as Waiting, Error, LockMode};
use tokio::task::JoinSet;

use crate::three_nodes;

const LOCK: &str = "db";
const PATH: &str = "/v1/locks/db";
const WAITERS: usize = 300;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_lock_is_held_through_the_leaders_death_and_a_restart_of_all_nodes() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    let first = client.at(cluster.leader().await);
    let [holder, other] = ["holder", "other"].map(|name| session(&first, name, "10m"));
    let (holder, other) = (holder.await, other.await);
    let token = acquire(&first, LOCK, &holder, "0s").await.expect("it is free");
    for all_die in [false, true] {
        let leader = cluster.leader().await;
        match all_die {
            false => cluster.kill(leader),
            true => cluster.kill_all(),
        }
        for node in cluster.ids().into_iter().filter(|id| !cluster.runs(*id)).collect::<Vec<_>>() {
            cluster.start(node, &[]);
        }
        cluster.ready().await;
        cluster.leader().await;
        for node in cluster.ids() {
            let at = client.at(node);
            assert!(holds(&at, LOCK, token).await.expect("an answer"), "node {node}");
            let refused = acquire(&at, LOCK, &other, "0s").await.expect_err("it is held");
            assert_eq!(refused.code(), "lock-held", "node {node}");
            let again = acquire(&at, LOCK, &holder, "0s").await.expect("it is its own");
            assert_eq!(again, token, "node {node} gave the holder another token");
        }
    }
    release(&client.at(1), LOCK, token).await.expect("released");
    let next = acquire(&client.at(2), LOCK, &other, "0s").await.expect("it is free");
    assert!(next > token);
    all_nodes_agree(&cluster, &client, "lock=db").await;
}

#[tokio::test]
async fn a_waiter_whose_node_goes_keeps_its_place_at_the_next_one() {
    let mut cluster = three_nodes().start().await;
    let client = cluster.client();
    for killed in [false, true] {
        let (leader, followers) = cluster.leader_and_followers().await;
        let at = client.at(leader);
        let mut sessions = Vec::new();
        for name in ["holder", "second", "third"] {
            sessions.push(session(&at, &format!("{name} {killed}"), "10m").await);
        }
        let [holder, second, third] = &sessions[..] else { panic!("three sessions") };
        let token = acquire(&at, LOCK, holder, "0s").await.expect("it is free");

        let goes = followers[0];
        let mut second_wins = tokio::spawn(asks(asking_first(&cluster, goes), second.clone()));
        so_many_wait(&at, PATH, 1).await;
        let mut third_wins = tokio::spawn(asks(asking_first(&cluster, leader), third.clone()));
        so_many_wait(&at, PATH, 2).await;

        let before = touched(&at, second).await.expect("it is there");
        match killed {
            true => cluster.kill(goes),
            false => cluster.stop(goes).await,
        }
        until("it has asked again at another node", LONG, async || {
            match touched(&at, second).await {
                Some(now) if now != before => Ok(()),
                now => Err(format!("{now:?}")),
            }
        })
        .await;
        so_many_wait(&at, PATH, 2).await;
        release(&at, LOCK, token).await.expect("released");
        let second = tokio::select! {
            won = &mut second_wins => won.expect("no panic").expect("it wins"),
            won = &mut third_wins => panic!("who came first was passed over: {won:?}"),
        };
        assert!(second.token.0 > token);
        release(&at, LOCK, second.token.0).await.expect("released");
        let third = third_wins.await.expect("no panic").expect("it wins");
        assert!(third.token > second.token);
        release(&at, LOCK, third.token.0).await.expect("released");
        cluster.start(goes, &[]);
        cluster.ready().await;
    }
    all_nodes_agree(&cluster, &client, "lock=db").await;
}

/// The place is given up as soon as that can be written, and is not left to whoever does not want it.
#[tokio::test]
async fn who_hangs_up_while_nobody_leads_leaves_the_queue_when_somebody_does() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let (at, asked) = (client.at(leader), client.at(followers[0]));
    let holder = session(&at, "holder", "10m").await;
    let waiter = session(&at, "waiter", "10m").await;
    let token = acquire(&at, LOCK, &holder, "0s").await.expect("it is free");
    let (patient, node) = (client.patient(LONG), followers[0]);
    let waiting =
        tokio::spawn(async move { acquire(&patient.at(node), LOCK, &waiter, "10m").await });
    so_many_wait(&at, PATH, 1).await;

    let paused = [leader, followers[1]];
    paused.iter().for_each(|node| cluster.pause(*node));
    waiting.abort();
    assert!(waiting.await.expect_err("it hung up").is_cancelled());
    // What is written after it fails, and so did the giving up.
    let failed = acquire(&asked, LOCK, &holder, "0s").await.expect_err("nobody leads");
    assert!(failed.status().is_none_or(|status| status >= 500), "{failed}");
    paused.iter().for_each(|node| cluster.wake(*node));

    so_many_wait(&asked, PATH, 0).await;
    release(&asked, LOCK, token).await.expect("released");
    assert!(asked.get(PATH).await.is_err(), "nobody holds it");
    all_nodes_agree(&cluster, &client, "lock=db").await;
}

#[tokio::test]
async fn when_a_session_expires_the_next_waiter_wins_in_that_very_revision_on_all_nodes() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let at = client.at(leader);
    let silent = session(&at, "silent", "1s").await;
    let next = session(&at, "next", "10m").await;
    let first = acquire(&at, LOCK, &silent, "0s").await.expect("it is free");
    let waits = client.patient(LONG);
    let token = acquire(&waits.at(followers[0]), LOCK, &next, "60s").await.expect("it wins");
    assert!(token > first);
    for node in cluster.ids() {
        let events = told(&client.at(node), "lock=db", |told| told.len() >= 4).await;
        let handover: Vec<_> = events.into_iter().filter(|one| one.revision == token).collect();
        let is = |what: &str, session: &str, token| Told {
            revision: token,
            what: what.into(),
            session: session.into(),
            token: Some(token),
        };
        let ended = Told { token: Some(first), ..is("expired", &silent, token) };
        assert_eq!(handover, [ended, is("put", &next, token)], "node {node}");
    }
    all_nodes_agree(&cluster, &client, "lock=db").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_served_in_the_order_in_which_it_came_each_once() {
    let mut seed = Seed::of_this_run("a_crowd_is_served_in_order");
    let cluster = three_nodes().start().await;
    let client = cluster.client().patient(LONG);
    let at = client.at(cluster.leader().await);
    let holder = session(&at, "holder", "10m").await;
    let token = acquire(&at, LOCK, &holder, "0s").await.expect("it is free");
    let mut crowd = JoinSet::new();
    for number in 0..WAITERS {
        let (client, mut seed) = (client.clone(), seed.split());
        crowd.spawn(async move {
            let mut any = || 1 + seed.below(3) as u64;
            let own = session(&client.at(any()), &format!("waiter {number}"), "10m").await;
            let token = acquire(&client.at(any()), LOCK, &own, "5m").await.expect("it wins");
            if number % 10 == 0 {
                let stale = release(&client.at(any()), LOCK, token - 1).await;
                assert_eq!(stale.expect_err("nobody holds it").code(), "stale-token");
            }
            release(&client.at(any()), LOCK, token).await.expect("released");
            (own, token)
        });
    }
    so_many_wait(&at, PATH, WAITERS as u64).await;
    release(&at, LOCK, token).await.expect("released");
    let mut served = crowd.join_all().await;
    served.sort_by_key(|(_, token)| *token);
    let tokens: BTreeSet<_> = served.iter().map(|(_, token)| *token).collect();
    assert_eq!(tokens.len(), WAITERS, "a token was given twice");

    let all = 2 + WAITERS * 3;
    let events = told(&at, "lock=db", |told| told.len() >= all).await;
    assert_eq!(events.len(), all, "each begins to wait, wins and releases once");
    let puts = |won: bool| {
        let puts = events.iter().filter(move |one| one.what == "put" && one.token.is_some() == won);
        puts.map(|one| one.session.as_str()).filter(|session| *session != holder)
    };
    let (came, won): (Vec<_>, Vec<_>) = (puts(false).collect(), puts(true).collect());
    assert_eq!(came.len(), WAITERS);
    assert_eq!(won, came, "they were not served in the order in which they came");
    let heard: Vec<_> = served.iter().map(|(session, _)| session.as_str()).collect();
    assert_eq!(heard, won, "others were told that they had won");
    all_nodes_agree(&cluster, &client, "lock=db").await;
}

async fn asks(client: Waiting, session: String) -> Result<AcquiredLock, Error> {
    client.acquire_lock(LOCK, &session, "", LockMode::Exclusive, LONG).await
}

/// A client that asks this node first.
fn asking_first(cluster: &Cluster, node: u64) -> Waiting {
    Waiting::new(&cluster.endpoints(node as usize - 1)).expect("a client")
}

/// Which entry has touched the session last, as asking for a lock does.
async fn touched(at: &At<'_>, session: &str) -> Option<String> {
    at.get(&format!("/v1/sessions/{session}")).await.ok()?.etag
}
