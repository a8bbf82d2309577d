//! Locks and elections over HTTP: who wins, who waits, and what becomes of a claim whose request ends.

mod support;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::future::join;
use futures::poll;
use roster_api::registry::{Registry, Unavailable};
use roster_storage::command::{ClaimLatch, Command};
use roster_storage::latch::{Claimant, Mode};
use roster_storage::limits::LATCH_CLAIMS_MAX;
use roster_storage::names::{LatchKey, LatchKind, LatchName, SessionId};
use serde_json::{Value, json};
use support::{Reply, Server, Stream};
use tokio::task::yield_now;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// With so many sessions, `1` on: revisions up to `count`.
async fn with_sessions(count: usize) -> Server {
    let server = Server::new();
    for _ in 0..count {
        let opened = server.call("POST /v1/sessions", r#"{"ttl":"30s"}"#).await;
        assert_eq!(opened.status.as_u16(), 201, "{}", opened.text());
    }
    server
}

async fn acquire(server: &Server, lock: &str, body: Value) -> Reply {
    server.call(&format!("POST /v1/locks/{lock}/acquire"), &body.to_string()).await
}

async fn release(server: &Server, lock: &str, body: Value) -> Reply {
    server.call(&format!("POST /v1/locks/{lock}/release"), &body.to_string()).await
}

async fn campaign(server: &Server, election: &str, body: Value) -> Reply {
    server.call(&format!("POST /v1/elections/{election}/campaign"), &body.to_string()).await
}

async fn resign(server: &Server, election: &str, body: Value) -> Reply {
    server.call(&format!("POST /v1/elections/{election}/resign"), &body.to_string()).await
}

/// The token of a lock that was won, or of a leader.
fn won(reply: &Reply) -> u64 {
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    reply.json()["token"].as_u64().expect("a token")
}

fn done(reply: &Reply) {
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
}

fn key(kind: LatchKind, name: &str) -> LatchKey {
    LatchKey::new(kind, LatchName::new(name).expect("a name"))
}

/// How many hold and how many wait.
fn queue(server: &Server, lock: &str) -> (usize, usize) {
    let version = server.registry.version();
    let latch = version.catalog.latch(&key(LatchKind::Lock, lock)).cloned();
    latch.map_or((0, 0), |latch| (latch.holding(), latch.waiting()))
}

type Request<'a> = Pin<Box<dyn Future<Output = Reply> + 'a>>;

/// A request for a lock that waits in its queue, and has seen that it does.
async fn queued<'a>(server: &'a Server, lock: &'a str, body: Value) -> Request<'a> {
    let mut request: Request<'a> = Box::pin(acquire(server, lock, body));
    let before = server.registry.written();
    while server.registry.written() == before {
        assert!(poll!(&mut request).is_pending(), "it is answered");
        yield_now().await;
    }
    assert!(poll!(&mut request).is_pending(), "it is answered");
    request
}

/// What goes on behind the requests comes to this.
async fn eventually(holds: impl Fn() -> bool) {
    let turns = async {
        while !holds() {
            yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, turns).await.expect("it holds");
}

async fn long_before_its_wait_is_over(request: Request<'_>) -> Reply {
    tokio::time::timeout(PATIENCE, request).await.expect("it is answered")
}

#[tokio::test]
async fn a_lock_that_is_free_is_won_at_once_and_given_back() {
    let server = with_sessions(2).await;
    let written = server.registry.written();
    let first = acquire(&server, "backup", json!({"session": "1", "owner": "w"})).await;
    assert_eq!(server.registry.written(), written + 1, "it is one write");
    let answer = json!({"name": "backup", "token": 3, "mode": "exclusive", "revision": 3});
    assert_eq!((first.json(), first.header("roster-revision")), (answer, "3"));
    let again = acquire(&server, "backup", json!({"session": "1", "owner": "w"})).await;
    assert_eq!((won(&again), again.header("roster-revision")), (3, "4"));

    let other = acquire(&server, "backup", json!({"session": "2"})).await;
    assert_eq!(other.problem(), (409, "lock-held".into()));
    assert_eq!(
        other.json()["detail"],
        r#"lock "backup" is held by "w" of session 1 under token 3; 0 wait for it"#
    );
    assert_eq!((&other.json()["outcome"], &other.json()["revision"]), (&"none".into(), &5.into()));
    assert_eq!(other.json()["token"], 3, "under which it is held");

    let held = server.get("/v1/locks/backup").await;
    assert_eq!(held.header("etag"), "\"r3\"");
    let holder = json!({"session": "1", "owner": "w", "mode": "exclusive", "token": 3});
    let lock = json!({
        "name": "backup", "holders": [holder], "holding": 1, "waiting": 0, "revision": 3
    });
    assert_eq!(held.json(), lock);

    let released = release(&server, "backup", json!({"token": 3})).await;
    assert_eq!(released.json(), json!({"name": "backup", "revision": 6}));
    let twice = release(&server, "backup", json!({"token": 3})).await;
    assert_eq!(twice.problem(), (409, "stale-token".into()));
    assert_eq!(server.get("/v1/locks/backup").await.problem(), (404, "unknown-latch".into()));
    let next = acquire(&server, "backup", json!({"session": "2"})).await;
    assert!(won(&next) > 3, "tokens grow");
    let stale = release(&server, "backup", json!({"token": 3})).await;
    assert_eq!(stale.problem(), (409, "stale-token".into()));
    assert_eq!(queue(&server, "backup"), (1, 0));
}

#[tokio::test]
async fn those_who_share_hold_together_and_pass_nobody_who_waits() {
    let server = with_sessions(4).await;
    let shared = |session: &str| json!({"session": session, "mode": "shared"});
    let first = won(&acquire(&server, "table", shared("1")).await);
    let second = won(&acquire(&server, "table", shared("2")).await);
    let other_mode = acquire(&server, "table", json!({"session": "1"})).await;
    assert_eq!(other_mode.problem(), (409, "lock-held".into()));
    let writer = queued(&server, "table", json!({"session": "3", "wait": "1m"})).await;
    let late = acquire(&server, "table", shared("4")).await;
    assert_eq!(late.problem(), (409, "lock-held".into()));
    done(&release(&server, "table", json!({"token": first})).await);
    assert_eq!(queue(&server, "table"), (1, 1));
    done(&release(&server, "table", json!({"token": second})).await);
    let written = writer.await;
    assert_eq!(won(&written), written.json()["revision"].as_u64().expect("a revision"));
}

#[tokio::test]
async fn of_several_that_won_in_one_revision_the_one_that_lets_go_must_say_who_it_is() {
    let server = with_sessions(3).await;
    let held = won(&acquire(&server, "table", json!({"session": "1"})).await);
    let share = |session: &str, owner: &str| json!({"session": session, "owner": owner, "mode": "shared", "wait": "1m"});
    let a = queued(&server, "table", share("2", "a")).await;
    let b = queued(&server, "table", share("3", "")).await;
    done(&release(&server, "table", json!({"token": held})).await);
    let (a, b) = join(a, b).await;
    assert_eq!(won(&a), won(&b));
    let token = won(&a);
    let whose = release(&server, "table", json!({"token": token})).await;
    assert_eq!(whose.problem(), (400, "invalid-owner".into()));
    assert_eq!(whose.json()["errors"][0]["field"], "owner");
    let nobody = release(&server, "table", json!({"token": token, "session": "2"})).await;
    assert_eq!(nobody.problem(), (409, "stale-token".into()));
    for (query, holds) in
        [("", true), ("&session=2&owner=a", true), ("&session=2", false), ("&session=3", true)]
    {
        let path = format!("/v1/locks/table/check?token={token}{query}");
        assert_eq!(server.get(&path).await.json()["holds"], holds, "{path}");
    }
    let own =
        release(&server, "table", json!({"token": token, "session": "2", "owner": "a"})).await;
    done(&own);
    done(&release(&server, "table", json!({"token": token})).await);
    assert_eq!(queue(&server, "table"), (0, 0));
}

#[tokio::test]
async fn an_owner_lets_go_of_what_it_never_heard_that_it_won() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1", "owner": "w"})).await);
    done(&release(&server, "backup", json!({"session": "1", "owner": "w"})).await);
    for body in [json!({"session": "1", "owner": "w"}), json!({"session": "2"})] {
        let nothing = release(&server, "backup", body).await;
        assert_eq!(nothing.problem(), (409, "stale-token".into()));
    }
    let unknown = release(&server, "backup", json!({"session": "9"})).await;
    assert_eq!(unknown.problem(), (404, "unknown-session".into()));
}

#[tokio::test]
async fn a_release_that_is_to_happen_once_is_answered_alike_twice() {
    let server = with_sessions(1).await;
    let token = won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
    let body = json!({"token": token}).to_string();
    let first = server.call_with("POST /v1/locks/backup/release", &headers, body.clone()).await;
    let again = server.call_with("POST /v1/locks/backup/release", &headers, body).await;
    done(&first);
    assert_eq!(first.json(), again.json());
    // Also without a token, where once more would let go what was acquired since.
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let all = |key| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let body = json!({"session": "1"}).to_string();
        let server = &server;
        async move { server.call_with("POST /v1/locks/backup/release", &headers, body).await }
    };
    done(&all("all").await);
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    done(&all("all").await);
    assert_eq!(queue(&server, "backup"), (1, 0), "what was acquired since is held");
}

#[tokio::test]
async fn an_idempotency_key_is_refused_where_asking_again_is_harmless() {
    let server = with_sessions(1).await;
    let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
    for call in ["POST /v1/locks/backup/acquire", "POST /v1/elections/main/campaign"] {
        let body = json!({"session": "1"}).to_string();
        let refused = server.call_with(call, &headers, body).await;
        assert_eq!(refused.problem(), (400, "invalid-idempotency-key".into()), "{call}");
    }
}

#[tokio::test]
async fn whoever_waits_wins_in_the_revision_in_which_the_holder_lets_go() {
    let server = with_sessions(2).await;
    let held = won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let waiting = queued(&server, "backup", json!({"session": "2", "wait": "1m"})).await;
    assert_eq!(server.get("/v1/locks/backup").await.json()["waiting"], 1);
    let (next, released) = join(waiting, release(&server, "backup", json!({"token": held}))).await;
    let revision = released.json()["revision"].clone();
    assert_eq!((&next.json()["token"], &next.json()["revision"]), (&revision, &revision));
}

#[tokio::test]
async fn whoever_waits_wins_in_the_revision_in_which_the_holders_session_ends() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let waiting = queued(&server, "backup", json!({"session": "2", "wait": "1m"})).await;
    let (next, closed) = join(waiting, server.call("DELETE /v1/sessions/1", "")).await;
    assert_eq!(next.json()["token"], closed.json()["revision"]);
}

#[tokio::test]
async fn two_owners_of_one_session_are_two_claims() {
    let server = with_sessions(2).await;
    let held = won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let of = |owner: &str| json!({"session": "2", "owner": owner, "wait": "1m"});
    let a = queued(&server, "backup", of("a")).await;
    let mut b = queued(&server, "backup", of("b")).await;
    done(&release(&server, "backup", json!({"token": held})).await);
    let token = won(&a.await);
    assert!(poll!(&mut b).is_pending(), "it is told what the other one won");
    done(&release(&server, "backup", json!({"token": token})).await);
    assert!(won(&b.await) > token);
}

#[tokio::test]
async fn whoever_waited_in_vain_is_out_of_the_queue() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1", "owner": "w"})).await);
    let late = acquire(&server, "backup", json!({"session": "2", "wait": "20ms"})).await;
    assert_eq!(late.problem(), (409, "lock-held".into()));
    assert!(late.text().contains("of session 1"), "{}", late.text());
    assert_eq!(late.json()["outcome"], "none");
    assert_eq!(queue(&server, "backup"), (1, 0));
}

#[tokio::test]
async fn a_session_that_ends_ends_the_wait() {
    let server = with_sessions(2).await;
    let gone = acquire(&server, "backup", json!({"session": "9", "wait": "1m"})).await;
    assert_eq!(gone.problem(), (404, "unknown-session".into()));
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let waiting = queued(&server, "backup", json!({"session": "2", "wait": "1m"})).await;
    let (ended, closed) = join(waiting, server.call("DELETE /v1/sessions/2", "")).await;
    assert_eq!(ended.problem(), (404, "unknown-session".into()));
    assert_eq!(ended.json()["revision"], closed.json()["revision"]);
}

#[tokio::test]
async fn a_private_session_takes_no_claims() {
    let server = Server::new();
    server.call("PUT /v1/apps/pay/instances/a", r#"{"ttl":"30s"}"#).await;
    let private = acquire(&server, "backup", json!({"session": "1"})).await;
    assert_eq!(private.problem(), (404, "unknown-session".into()));
}

#[tokio::test]
async fn a_wait_ends_when_another_request_of_its_owner_gives_it_up() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let body = json!({"session": "2", "owner": "w", "wait": "1m"});
    let waiting = queued(&server, "backup", body).await;
    done(&release(&server, "backup", json!({"session": "2", "owner": "w"})).await);
    let ended = waiting.await;
    assert_eq!(ended.problem(), (409, "lock-held".into()));
    assert!(ended.text().contains("was given up by another request"), "{}", ended.text());
}

#[tokio::test]
async fn whoever_hangs_up_leaves_the_queue_and_the_next_one_wins() {
    let server = with_sessions(3).await;
    let held = won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let second = queued(&server, "backup", json!({"session": "2", "wait": "1m"})).await;
    let third = queued(&server, "backup", json!({"session": "3", "wait": "1m"})).await;
    drop(second);
    eventually(|| queue(&server, "backup") == (1, 1)).await;
    done(&release(&server, "backup", json!({"token": held})).await);
    won(&third.await);
}

#[tokio::test]
async fn whoever_hangs_up_before_hearing_that_it_won_gives_it_back() {
    let server = with_sessions(2).await;
    let held = won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let waiting = queued(&server, "backup", json!({"session": "2", "wait": "1m"})).await;
    done(&release(&server, "backup", json!({"token": held})).await);
    assert_eq!(queue(&server, "backup"), (1, 0));
    drop(waiting);
    eventually(|| queue(&server, "backup") == (0, 0)).await;
}

#[tokio::test]
async fn whoever_hangs_up_while_its_claim_is_on_its_way_gives_back_what_it_wins() {
    let server = with_sessions(1).await;
    let mut asking = Box::pin(acquire(&server, "backup", json!({"session": "1"})));
    assert!(poll!(&mut asking).is_pending());
    assert_eq!(server.registry.written(), 1, "it is on its way");
    drop(asking);
    // The session, the claim, and its end.
    eventually(|| server.registry.written() == 3).await;
    assert_eq!(queue(&server, "backup"), (0, 0));
}

#[tokio::test]
async fn a_repeated_request_that_hangs_up_does_not_give_back_what_its_owner_holds() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let mut again = Box::pin(acquire(&server, "backup", json!({"session": "1", "wait": "1m"})));
    assert!(poll!(&mut again).is_pending());
    drop(again);
    eventually(|| server.registry.written() == 4).await;
    // Whatever would follow had its turns.
    for _ in 0..100 {
        yield_now().await;
    }
    assert_eq!((queue(&server, "backup"), server.registry.written()), ((1, 0), 4));
}

#[tokio::test]
async fn an_owner_that_asks_twice_has_one_place_and_the_request_that_asked_last_decides_its_end() {
    let server = with_sessions(2).await;
    let held = won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let body = json!({"session": "2", "wait": "1m"});
    let first = queued(&server, "backup", body.clone()).await;
    let second = queued(&server, "backup", body.clone()).await;
    let hung_up = queued(&server, "backup", body.clone()).await;
    let last = queued(&server, "backup", body).await;
    assert_eq!(queue(&server, "backup"), (1, 1));
    let written = server.registry.written();
    drop(hung_up);
    eventually(|| server.registry.written() == written + 1).await;
    assert_eq!(queue(&server, "backup"), (1, 1), "the last one waits still");
    done(&release(&server, "backup", json!({"token": held})).await);
    let (first, (second, last)) = join(first, join(second, last)).await;
    let token = won(&last);
    assert_eq!((won(&first), won(&second)), (token, token));
}

/// A client whose node died asks the next one with what is left of its time, and that may be nothing.
#[tokio::test]
async fn an_owner_that_asks_again_without_a_wait_has_done_with_waiting() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let waiting = queued(&server, "backup", json!({"session": "2", "wait": "1m"})).await;
    let last = acquire(&server, "backup", json!({"session": "2"})).await;
    assert_eq!(
        (last.problem(), &last.json()["outcome"]),
        ((409, "lock-held".into()), &"none".into())
    );
    assert_eq!(queue(&server, "backup"), (1, 0));
    assert_eq!(waiting.await.problem(), (409, "lock-held".into()));
}

#[tokio::test]
async fn an_older_request_whose_time_is_over_leaves_the_newer_one_its_place() {
    let server = with_sessions(2).await;
    let held = won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let older = queued(&server, "backup", json!({"session": "2", "wait": "200ms"})).await;
    let newer = queued(&server, "backup", json!({"session": "2", "wait": "1m"})).await;
    let older = older.await;
    assert_eq!(older.problem(), (409, "lock-held".into()));
    assert_eq!(older.json()["outcome"], "unknown", "its owner waits still");
    assert_eq!(queue(&server, "backup"), (1, 1));
    done(&release(&server, "backup", json!({"token": held})).await);
    won(&newer.await);
}

#[tokio::test]
async fn a_claim_that_won_in_what_a_node_forgot_is_looked_up() {
    let server = with_sessions(3).await;
    let held = won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let waiting = queued(&server, "backup", json!({"session": "2", "wait": "10m"})).await;
    let mut third = queued(&server, "backup", json!({"session": "3", "wait": "10m"})).await;
    done(&release(&server, "backup", json!({"token": held})).await);
    server.registry.log.forget();
    let token = won(&long_before_its_wait_is_over(waiting).await);
    // The one that waits still goes on from there.
    assert!(poll!(&mut third).is_pending());
    let release = release(&server, "backup", json!({"token": token}));
    let (third, released) = join(long_before_its_wait_is_over(third), release).await;
    assert_eq!(third.json()["token"], released.json()["revision"]);
}

#[tokio::test]
async fn a_session_that_ended_in_what_a_node_forgot_is_missed() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let waiting = queued(&server, "backup", json!({"session": "2", "wait": "10m"})).await;
    done(&server.call("DELETE /v1/sessions/2", "").await);
    server.registry.log.forget();
    let ended = long_before_its_wait_is_over(waiting).await;
    assert_eq!(ended.problem(), (404, "unknown-session".into()));
}

#[tokio::test]
async fn a_node_that_stops_keeps_the_place_for_who_asks_another_one() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let waiting = queued(&server, "backup", json!({"session": "2", "wait": "1m"})).await;
    server.registry.log.stop();
    let stopped = waiting.await;
    assert_eq!(stopped.problem(), (503, "not-ready".into()));
    assert_eq!(stopped.json()["outcome"], "unknown");
    assert_eq!(queue(&server, "backup"), (1, 1));
}

#[tokio::test]
async fn a_claim_that_cannot_leave_the_queue_is_told_so_and_taken_out_later() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let waiting = queued(&server, "backup", json!({"session": "2", "wait": "50ms"})).await;
    *server.registry.fail.lock() = Some(Unavailable::NoLeader("an election".into()));
    let failed = waiting.await;
    assert_eq!(failed.problem(), (503, "no-leader".into()));
    assert_eq!(failed.json()["outcome"], "unknown");
    // It is not tried once more, but until there is a leader again.
    let tried = || server.registry.failed.load(std::sync::atomic::Ordering::Relaxed);
    eventually(|| tried() >= 4).await;
    *server.registry.fail.lock() = None;
    eventually(|| queue(&server, "backup") == (1, 0)).await;
}

#[tokio::test]
async fn a_lock_that_cannot_be_waited_for_is_not_waited_for() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1"})).await);
    let full = Unavailable::Overloaded("too many wait".into());
    let written = server.registry.written() as u64;
    // Nothing is told any more; what is written goes through for now.
    server.registry.fail_after.store(written + 2, std::sync::atomic::Ordering::Relaxed);
    *server.registry.fail.lock() = Some(full);
    let refused = acquire(&server, "backup", json!({"session": "2", "wait": "1m"})).await;
    assert_eq!(refused.problem(), (503, "overloaded".into()));
    assert_eq!(refused.json()["outcome"], "none");
    assert_eq!(queue(&server, "backup"), (1, 0));
}

#[tokio::test]
async fn a_candidate_that_cannot_be_told_is_one_nevertheless() {
    let server = with_sessions(2).await;
    won(&campaign(&server, "main", json!({"session": "1"})).await);
    let written = server.registry.written() as u64;
    server.registry.fail_after.store(written + 1, std::sync::atomic::Ordering::Relaxed);
    *server.registry.fail.lock() = Some(Unavailable::Overloaded("too many wait".into()));
    let refused = campaign(&server, "main", json!({"session": "2", "wait": "1m"})).await;
    *server.registry.fail.lock() = None;
    assert_eq!(refused.problem(), (503, "overloaded".into()));
    assert_eq!(refused.json()["outcome"], "unknown");
    assert_eq!(server.get("/v1/elections/main").await.json()["waiting"], 1);
}

#[tokio::test]
async fn candidates_stand_in_order_and_publish_what_they_like() {
    let server = with_sessions(3).await;
    let first = campaign(&server, "main", json!({"session": "1", "value": "10.0.0.1:80"})).await;
    assert_eq!(first.json(), json!({"name": "main", "leader": true, "token": 4, "revision": 4}));
    let second = campaign(&server, "main", json!({"session": "2", "value": "b", "wait": "20ms"}));
    let waits = json!({"name": "main", "leader": false, "token": null, "revision": 5});
    assert_eq!(second.await.json(), waits);
    campaign(&server, "main", json!({"session": "3"})).await;
    let leads = json!({
        "name": "main", "leader": "1", "value": "10.0.0.1:80", "token": 4,
        "candidates": [{"session": "2", "value": "b"}, {"session": "3", "value": ""}],
        "waiting": 2, "revision": 6,
    });
    let seen = server.get("/v1/elections/main").await;
    assert_eq!((seen.json(), seen.header("etag")), (leads, "\"r6\""));
    assert_eq!(server.get("/v1/locks/main").await.problem(), (404, "unknown-latch".into()));

    // Another value keeps the token, and the place.
    let other = campaign(&server, "main", json!({"session": "1", "value": "10.0.0.1:81"})).await;
    assert_eq!(won(&other), 4);
    campaign(&server, "main", json!({"session": "2", "value": "c"})).await;
    let seen = server.get("/v1/elections/main").await.json();
    assert_eq!(
        (&seen["value"], &seen["candidates"][0]["value"]),
        (&json!("10.0.0.1:81"), &json!("c"))
    );

    done(&resign(&server, "main", json!({"token": 4})).await);
    let seen = server.get("/v1/elections/main").await.json();
    assert_eq!(
        (&seen["leader"], &seen["value"], &seen["waiting"]),
        (&json!("2"), &json!("c"), &json!(1))
    );
    // One by its session, be it a candidate or the leader.
    done(&resign(&server, "main", json!({"session": "3"})).await);
    done(&resign(&server, "main", json!({"session": "2"})).await);
    assert_eq!(server.get("/v1/elections/main").await.problem(), (404, "unknown-latch".into()));
    for body in [json!({"token": 4}), json!({"session": "2"})] {
        assert_eq!(resign(&server, "main", body).await.problem(), (409, "stale-token".into()));
    }
    let unknown = campaign(&server, "main", json!({"session": "9"})).await;
    assert_eq!(unknown.problem(), (404, "unknown-session".into()));
}

#[tokio::test]
async fn a_candidate_that_hangs_up_stays_one_until_its_session_ends() {
    let server = with_sessions(2).await;
    won(&campaign(&server, "main", json!({"session": "1"})).await);
    let mut waiting = Box::pin(campaign(&server, "main", json!({"session": "2", "wait": "1m"})));
    assert!(poll!(&mut waiting).is_pending());
    eventually(|| server.registry.written() == 4).await;
    drop(waiting);
    let mut on_its_way = Box::pin(campaign(&server, "main", json!({"session": "2", "value": "b"})));
    assert!(poll!(&mut on_its_way).is_pending());
    drop(on_its_way);
    eventually(|| server.registry.written() == 5).await;
    done(&server.call("DELETE /v1/sessions/1", "").await);
    let seen = server.get("/v1/elections/main").await.json();
    assert_eq!((&seen["leader"], &seen["value"]), (&json!("2"), &json!("b")));
    done(&server.call("DELETE /v1/sessions/2", "").await);
    assert_eq!(server.get("/v1/elections/main").await.problem(), (404, "unknown-latch".into()));
}

#[tokio::test]
async fn a_candidate_hears_when_it_leads() {
    let server = with_sessions(2).await;
    won(&campaign(&server, "main", json!({"session": "1"})).await);
    let mut waiting = Box::pin(campaign(&server, "main", json!({"session": "2", "wait": "1m"})));
    assert!(poll!(&mut waiting).is_pending());
    eventually(|| server.registry.written() == 4).await;
    assert!(poll!(&mut waiting).is_pending());
    let deposed = server.call("DELETE /v1/elections/main", "").await;
    let broken = json!([{"session": "1", "value": "", "token": 3}]);
    assert_eq!(deposed.json(), json!({"name": "main", "broken": broken, "revision": 5}));
    assert_eq!(waiting.await.json()["token"], 5);
    let check = async |token| {
        server.get(&format!("/v1/elections/main/check?token={token}")).await.json()["holds"].clone()
    };
    assert_eq!((check(3).await, check(5).await), (false.into(), true.into()));
}

#[tokio::test]
async fn the_first_hundred_candidates_are_shown_and_all_are_counted() {
    let server = with_sessions(102).await;
    for session in 1..=102 {
        campaign(&server, "main", json!({"session": session.to_string()})).await;
    }
    let seen = server.get("/v1/elections/main").await.json();
    assert_eq!(seen["candidates"].as_array().map(Vec::len), Some(100));
    assert_eq!(
        (&seen["candidates"][99]["session"], &seen["waiting"]),
        (&json!("101"), &json!(101))
    );
    let listed = server.get("/v1/elections").await.json()["elections"][0].clone();
    assert_eq!((&listed["candidates"], &listed["waiting"]), (&json!([]), &json!(101)));
}

#[tokio::test]
async fn whether_a_token_holds_can_be_asked_of_any_lock() {
    let server = with_sessions(1).await;
    let never = server.get("/v1/locks/backup/check?token=3").await;
    assert_eq!(never.json(), json!({"holds": false, "revision": 1}));
    assert_eq!(never.header("roster-consistency"), "linearizable");
    won(&acquire(&server, "backup", json!({"session": "1", "owner": "w"})).await);
    for (query, holds) in [
        ("token=2", true),
        ("token=1", false),
        ("token=2&session=1&owner=w", true),
        ("token=2&session=1", false),
        ("token=2&session=2&owner=w", false),
    ] {
        let path = format!("/v1/locks/backup/check?{query}");
        assert_eq!(server.get(&path).await.json()["holds"], holds, "{path}");
    }
}

#[tokio::test]
async fn an_operator_breaks_a_lock_for_all_or_for_those_of_one_token() {
    let server = with_sessions(4).await;
    let shared = |session: &str| json!({"session": session, "mode": "shared"});
    let first = won(&acquire(&server, "table", shared("1")).await);
    won(&acquire(&server, "table", shared("2")).await);
    let waiting = queued(&server, "table", json!({"session": "3", "wait": "1m"})).await;
    let stale = server.call("DELETE /v1/locks/table?token=1", "").await;
    assert_eq!(stale.problem(), (409, "stale-token".into()));
    let one = server.call(&format!("DELETE /v1/locks/table?token={first}"), "").await;
    let broken = json!([{"session": "1", "owner": "", "mode": "shared", "token": first}]);
    assert_eq!((&one.json()["broken"], &one.json()["name"]), (&broken, &json!("table")));
    assert_eq!(queue(&server, "table"), (1, 1));
    let all = server.call("DELETE /v1/locks/table", "").await;
    assert_eq!(all.json()["broken"][0]["session"], "2");
    assert_eq!(won(&waiting.await), all.json()["revision"].as_u64().expect("a revision"));
    let lost = release(&server, "table", json!({"token": first})).await;
    assert_eq!(lost.problem(), (409, "stale-token".into()));
    done(&server.call("DELETE /v1/locks/table", "").await);
    let nobody = server.call("DELETE /v1/locks/table", "").await;
    assert_eq!(nobody.problem(), (404, "unknown-latch".into()));
}

#[tokio::test]
async fn a_break_does_not_pass_over_a_condition() {
    let server = with_sessions(1).await;
    won(&acquire(&server, "a", json!({"session": "1"})).await);
    won(&campaign(&server, "a", json!({"session": "1"})).await);
    for latch in ["locks", "elections"] {
        let line = format!("DELETE /v1/{latch}/a");
        let refused = server.call_with(&line, &[("if-match", "\"r2\"")], "").await;
        assert_eq!(refused.problem(), (400, "invalid-if-match".into()));
    }
    assert_eq!(queue(&server, "a"), (1, 0));
}

#[tokio::test]
async fn locks_and_elections_are_listed_in_pages() {
    let server = with_sessions(1).await;
    for name in ["c", "b%2Fx", "a"] {
        won(&acquire(&server, name, json!({"session": "1"})).await);
        won(&campaign(&server, name, json!({"session": "1"})).await);
    }
    for list in ["locks", "elections"] {
        let mut names = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = server.get(&format!("/v1/{list}?limit=2{cursor}")).await.json();
            assert_eq!(page["revision"], 7);
            let shown = page[list].as_array().expect("a list");
            names.extend(shown.iter().map(|latch| latch["name"].clone()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(names, ["a", "b/x", "c"], "{list}");
        let one = server.get(&format!("/v1/{list}/b%2Fx")).await.json();
        assert_eq!(server.get(&format!("/v1/{list}")).await.json()[list][1], one);
        let wrong = server.get(&format!("/v1/{list}?cursor=x")).await;
        assert_eq!(wrong.problem(), (400, "invalid-cursor".into()));
    }
}

#[tokio::test]
async fn a_session_shows_what_it_holds_and_waits_for() {
    let server = with_sessions(2).await;
    won(&acquire(&server, "backup", json!({"session": "1", "owner": "w"})).await);
    won(&campaign(&server, "main", json!({"session": "2", "value": "v"})).await);
    campaign(&server, "main", json!({"session": "1", "value": "mine"})).await;
    let session = server.get("/v1/sessions/1").await.json();
    let lock = json!({"name": "backup", "owner": "w", "mode": "exclusive", "token": 3});
    assert_eq!(session["locks"], json!([lock]));
    let candidate = json!({"name": "main", "value": "mine", "token": null});
    assert_eq!(session["elections"], json!([candidate]));
    done(&resign(&server, "main", json!({"session": "2"})).await);
    assert_eq!(server.get("/v1/sessions/1").await.json()["elections"][0]["token"], 6);
}

/// The events of so many lines, in short: what, of which latch, whose, under which token.
async fn told(stream: &mut Stream, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..count {
        let line = stream.line().await.expect("a line");
        told.push(short(&serde_json::from_str(&line).expect("JSON")));
    }
    told
}

fn short(event: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let value = &event["value"];
    let parts = [
        &event["event"],
        &event["latch"],
        &event["id"],
        &value["session"],
        &value["token"],
        &event["reason"],
        &event["revision"],
    ];
    let more = if event["more"] == true { " more" } else { "" };
    parts.map(text).join(" ") + more
}

#[tokio::test]
async fn a_watch_begins_with_the_claims_that_stand_and_goes_on_with_what_becomes_of_them() {
    let server = with_sessions(3).await;
    won(&campaign(&server, "main", json!({"session": "1", "value": "v"})).await);
    won(&acquire(&server, "pay", json!({"session": "1", "owner": "w"})).await);
    campaign(&server, "main", json!({"session": "2"})).await;
    won(&acquire(&server, "other", json!({"session": "1"})).await);
    let mut all = server.lines("/v1/watch?kind=latch").await;
    assert_eq!(
        told(&mut all, 6).await,
        [
            "snapshot-begin - - - - - 7",
            "put lock other 1 7 - 7",
            "put lock pay 1 5 - 5",
            "put election main 1 4 - 4",
            "put election main 2 - - 6",
            "snapshot-end - - - - - 7",
        ]
    );
    let mut two = server.lines("/v1/watch?lock=pay&lock=none&election=main").await;
    insta::assert_snapshot!(two.some(5).await, @r#"
    {"event":"snapshot-begin","revision":7}
    {"event":"put","kind":"latch","latch":"lock","revision":5,"id":"pay","value":{"session":"1","owner":"w","mode":"exclusive","token":5}}
    {"event":"put","kind":"latch","latch":"election","revision":4,"id":"main","value":{"session":"1","value":"v","token":4}}
    {"event":"put","kind":"latch","latch":"election","revision":6,"id":"main","value":{"session":"2","value":"","token":null}}
    {"event":"snapshot-end","revision":7}
    "#);
    done(&release(&server, "other", json!({"session": "1"})).await);
    campaign(&server, "main", json!({"session": "2", "value": "b"})).await;
    done(&server.call("DELETE /v1/sessions/1", "").await);
    assert_eq!(
        told(&mut two, 4).await,
        [
            "put election main 2 - - 9",
            "delete election main 1 4 deregistered 10 more",
            "delete lock pay 1 5 deregistered 10 more",
            "put election main 2 10 - 10",
        ]
    );
    won(&acquire(&server, "none", json!({"session": "2"})).await);
    done(&server.call("DELETE /v1/locks/none", "").await);
    done(&resign(&server, "main", json!({"session": "2"})).await);
    assert_eq!(
        told(&mut two, 3).await,
        [
            "put lock none 2 11 - 11",
            "delete lock none 2 11 operator 12",
            "delete election main 2 10 released 13",
        ]
    );
    // The same from the past, on any of its ends.
    let mut past = server.lines("/v1/watch?election=main&from=9").await;
    assert_eq!(
        told(&mut past, 3).await,
        [
            "delete election main 1 4 deregistered 10 more",
            "put election main 2 10 - 10",
            "delete election main 2 10 released 13",
        ]
    );
}

#[tokio::test]
async fn with_an_app_alone_the_latches_of_its_name_are_told() {
    let server = with_sessions(1).await;
    server.call("PUT /v1/apps/pay", "{}").await;
    for lock in ["pay", "other"] {
        won(&acquire(&server, lock, json!({"session": "1"})).await);
    }
    won(&campaign(&server, "pay", json!({"session": "1"})).await);
    let changed = async |query: &str| {
        let json = server.get(&format!("/v1/changes?index=0&{query}")).await.json();
        let changed = json["changed"].as_array().expect("changes").clone();
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let line =
            |c: &Value| format!("{} {} {}", word(&c["kind"]), word(&c["latch"]), word(&c["id"]));
        changed.iter().map(line).collect::<Vec<_>>()
    };
    let app = "app - pay";
    let (lock, other, election) = ("latch lock pay", "latch lock other", "latch election pay");
    assert_eq!(changed("").await, [app, election, other, lock]);
    assert_eq!(changed("app=pay").await, [app, election, lock]);
    assert_eq!(changed("app=pay&lock=other").await, [app, other]);
    assert_eq!(changed("app=pay&kind=app").await, [app]);
    assert_eq!(changed("app=none").await, [""; 0]);
    assert_eq!(changed("lock=pay").await, [lock]);
    assert_eq!(changed("lock=other&election=pay").await, [election, other]);
    assert_eq!(changed("lock=pay&kind=latch,app").await, [app, lock]);
    let named = server.get("/v1/changes?index=0&election=pay").await;
    assert_eq!(
        named.json()["changed"],
        json!([{"kind": "latch", "latch": "election", "id": "pay"}])
    );
    let events = server.get("/v1/events?order=asc&lock=pay&election=pay").await.json();
    let events: Vec<_> = events["events"].as_array().expect("events").iter().map(short).collect();
    assert_eq!(events, ["put lock pay 1 3 - 3", "put election pay 1 5 - 5"]);
    let of_app = server.get("/v1/events?order=asc&app=pay&kind=latch").await.json();
    assert_eq!(of_app["events"].as_array().map(Vec::len), Some(2));
    let mut standing = server.lines("/v1/watch?app=pay").await;
    assert_eq!(
        told(&mut standing, 5).await,
        [
            "snapshot-begin - - - - - 5",
            "put - pay - - - 2",
            "put lock pay 1 3 - 3",
            "put election pay 1 5 - 5",
            "snapshot-end - - - - - 5",
        ]
    );
}

#[tokio::test]
async fn changes_wait_for_the_latches_that_were_named() {
    let server = with_sessions(1).await;
    let mut waiting = Box::pin(server.get("/v1/changes?lock=a&index=1&wait=1m"));
    assert!(poll!(&mut waiting).is_pending());
    won(&acquire(&server, "b", json!({"session": "1"})).await);
    won(&campaign(&server, "a", json!({"session": "1"})).await);
    assert!(poll!(&mut waiting).is_pending());
    won(&acquire(&server, "a", json!({"session": "1"})).await);
    let changed = waiting.await.json();
    assert_eq!(changed["changed"], json!([{"kind": "latch", "latch": "lock", "id": "a"}]));
    assert_eq!(changed["revision"], 4);
}

#[tokio::test]
async fn a_watch_of_latches_that_makes_no_sense_is_refused() {
    let server = Server::new();
    for (query, code) in [
        ("lock=", "invalid-lock"),
        ("election=%01", "invalid-election"),
        ("lock=a&kind=instance", "invalid-kind"),
        ("lock=a&set=main", "invalid-set"),
        ("lock=a&filter=true", "invalid-filter"),
        ("lock=a&id=b", "invalid-id"),
        ("latch=a", "unknown-field"),
    ] {
        let refused = server.get(&format!("/v1/watch?{query}")).await;
        assert_eq!(refused.problem(), (400, code.into()), "{query}");
    }
    let many: String = (0..1_001).map(|lock| format!("lock=a{lock}&")).collect();
    let refused = server.get(&format!("/v1/changes?{many}index=0")).await;
    assert_eq!(refused.problem(), (400, "invalid-lock".into()));
}

/// The answer of a long poll, which an unrelated change must not wake.
async fn polled(
    server: &Server,
    path: &str,
    unrelated: impl Future<Output = Reply>,
    own: impl Future<Output = Reply>,
) -> Reply {
    let mut waiting: Request<'_> = Box::pin(server.get(path));
    assert!(poll!(&mut waiting).is_pending(), "{path}");
    done(&unrelated.await);
    assert!(poll!(&mut waiting).is_pending(), "{path} is woken");
    let (answer, written) = join(long_before_its_wait_is_over(waiting), own).await;
    assert_eq!(answer.header("roster-revision"), written.header("roster-revision"), "{path}");
    answer
}

#[tokio::test]
async fn a_long_poll_of_a_latch_wakes_for_it_alone() {
    let server = with_sessions(2).await;
    let one = json!({"session": "1"});
    // Nobody has it yet.
    let won_it = polled(
        &server,
        "/v1/locks/a?index=2&wait=1m",
        campaign(&server, "a", one.clone()),
        acquire(&server, "a", one.clone()),
    )
    .await;
    assert_eq!(won_it.json()["holders"][0]["token"], 4);
    let gone = polled(
        &server,
        "/v1/locks/a?index=4&wait=1m",
        acquire(&server, "b", one.clone()),
        release(&server, "a", json!({"token": 4})),
    )
    .await;
    assert_eq!(gone.problem(), (404, "unknown-latch".into()));
    let joined = polled(
        &server,
        "/v1/elections/a?index=6&wait=1m",
        acquire(&server, "a", one.clone()),
        campaign(&server, "a", json!({"session": "2"})),
    )
    .await;
    assert_eq!(joined.json()["waiting"], 1);
    // What was before the index, and what came before it was asked.
    let same = server.get("/v1/elections/a?index=8&wait=20ms").await;
    assert_eq!((same.status.as_u16(), same.header("etag")), (200, "\"r8\""));
    assert_eq!(server.get("/v1/elections/a?index=7&wait=1m").await.json()["waiting"], 1);
    let absent = server.get("/v1/locks/none?index=8&wait=20ms").await;
    assert_eq!(absent.problem(), (404, "unknown-latch".into()));
}

#[tokio::test]
async fn a_long_poll_of_a_session_wakes_for_its_claims() {
    let server = with_sessions(2).await;
    let took = polled(
        &server,
        "/v1/sessions/1?index=2&wait=1m",
        acquire(&server, "a", json!({"session": "2"})),
        campaign(&server, "main", json!({"session": "1"})),
    )
    .await;
    assert_eq!(took.json()["elections"][0]["name"], "main");
    let lost = polled(
        &server,
        "/v1/sessions/1?index=4&wait=1m",
        release(&server, "a", json!({"token": 3})),
        server.call("DELETE /v1/elections/main", ""),
    )
    .await;
    assert_eq!(lost.json()["elections"], json!([]));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_name() {
    let server = with_sessions(1).await;
    let long = "x".repeat(1_025);
    let value = "x".repeat(4_097);
    let (acquire, release) = ("POST /v1/locks/a/acquire", "POST /v1/locks/a/release");
    let (campaign, resign) = ("POST /v1/elections/a/campaign", "POST /v1/elections/a/resign");
    for (line, body, code) in [
        (acquire, "{}".to_owned(), "invalid-session"),
        (acquire, "".to_owned(), "malformed"),
        (acquire, r#"{"session":1}"#.to_owned(), "invalid-session"),
        (acquire, r#"{"session":"one"}"#.to_owned(), "invalid-session"),
        (acquire, r#"{"session":"-1"}"#.to_owned(), "invalid-session"),
        (acquire, r#"{"session":"1","mode":"share"}"#.to_owned(), "invalid-mode"),
        (acquire, r#"{"session":"1","wait":"11m"}"#.to_owned(), "invalid-wait"),
        (acquire, r#"{"session":"1","wait":5}"#.to_owned(), "invalid-wait"),
        (acquire, r#"{"session":"1","value":"v"}"#.to_owned(), "unknown-field"),
        (acquire, r#"{"session":"1","ownr":"v"}"#.to_owned(), "unknown-field"),
        (acquire, format!(r#"{{"session":"1","owner":"{long}"}}"#), "invalid-owner"),
        (release, "{}".to_owned(), "invalid-token"),
        (release, r#"{"owner":"a"}"#.to_owned(), "invalid-owner"),
        (release, r#"{"token":2,"owner":"a"}"#.to_owned(), "invalid-owner"),
        (release, r#"{"token":"2"}"#.to_owned(), "invalid-token"),
        (release, r#"{"token":-2}"#.to_owned(), "invalid-token"),
        (release, r#"{"session":"x"}"#.to_owned(), "invalid-session"),
        (campaign, "{}".to_owned(), "invalid-session"),
        (campaign, format!(r#"{{"session":"1","value":"{value}"}}"#), "invalid-value"),
        (campaign, r#"{"session":"1","wait":"1h"}"#.to_owned(), "invalid-wait"),
        (campaign, r#"{"session":"1","owner":"a"}"#.to_owned(), "unknown-field"),
        (campaign, r#"{"session":"1","mode":"shared"}"#.to_owned(), "unknown-field"),
        (resign, "{}".to_owned(), "invalid-token"),
        (resign, r#"{"session":"1","owner":"a"}"#.to_owned(), "unknown-field"),
        ("POST /v1/locks/a/acquire?wait=1s", r#"{"session":"1"}"#.to_owned(), "unknown-field"),
        ("GET /v1/locks/a/check", String::new(), "invalid-token"),
        ("GET /v1/locks/a/check?token=x", String::new(), "invalid-token"),
        ("GET /v1/locks/a/check?token=1&owner=a", String::new(), "invalid-owner"),
        ("GET /v1/locks/a/check?token=1&session=a", String::new(), "invalid-session"),
        ("GET /v1/elections/a/check?tokn=1", String::new(), "invalid-token"),
        ("GET /v1/elections/a/check?token=1&tokn=1", String::new(), "unknown-field"),
        ("GET /v1/locks/a?wait=1s", String::new(), "invalid-wait"),
        ("GET /v1/locks/%01", String::new(), "invalid-name"),
        ("GET /v1/elections/%FF", String::new(), "invalid-name"),
        ("DELETE /v1/locks/a?token=x", String::new(), "invalid-token"),
        ("DELETE /v1/elections/a?reason=x", String::new(), "unknown-field"),
    ] {
        let refused = server.call(line, &body).await;
        assert_eq!(refused.problem(), (400, code.into()), "{line} {body}");
    }
    let name = server.get(&format!("/v1/locks/{long}")).await;
    assert_eq!(name.problem(), (400, "invalid-name".into()));
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let refused = server.call_with(acquire, &form, "session=1").await;
    assert_eq!(refused.problem(), (415, "invalid-content-type".into()));
    assert_eq!(server.registry.written(), 1, "nothing was done");
    let longest = json!({"session": "1", "owner": "x".repeat(1_024), "wait": "10m"}).to_string();
    let name = "%2F".repeat(1_024);
    won(&server.call(&format!("POST /v1/locks/{name}/acquire"), &longest).await);
}

#[tokio::test]
async fn a_full_latch_and_a_full_session_take_no_more() {
    let server = with_sessions(2).await;
    for owner in 0..LATCH_CLAIMS_MAX {
        let claim = ClaimLatch {
            latch: key(LatchKind::Lock, "table"),
            by: Claimant { session: SessionId(1), owner: owner.to_string().into() },
            mode: Mode::Shared,
            value: "".into(),
            waits: false,
        };
        let outcome = server.registry.propose(Command::ClaimLatch(claim)).await;
        outcome.expect("an answer").result.expect("a claim");
    }
    let latch = acquire(&server, "table", json!({"session": "2", "mode": "shared"})).await;
    assert_eq!((latch.problem(), latch.header("retry-after")), ((429, "rate-limited".into()), "1"));
    assert!(latch.text().contains("has 10000 holders and waiters"), "{}", latch.text());
    let session = acquire(&server, "other", json!({"session": "1"})).await;
    assert_eq!(session.problem(), (429, "rate-limited".into()));
    let known = acquire(&server, "table", json!({"session": "1", "owner": "7", "mode": "shared"}));
    won(&known.await);
}
