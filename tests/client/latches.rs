//! Locks and elections, from the client and from the command line.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use roster::client::{LockMode, LockSettings, Loss, SessionSettings};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::commands::{Running, Terminal, output};
use crate::scripted::{
    Act, Hung, Scripted, Then, client, endpoints, problem, quick, stream, within,
};

const BROKEN: &str = r#"{"event":"delete","kind":"latch","latch":"lock","id":"db","revision":9,"value":{"session":"4","owner":"","mode":"exclusive","token":5},"reason":"operator","detail":"removed by an operator"}"#;
const ANOTHERS: &str = r#"{"event":"delete","kind":"latch","latch":"lock","id":"db","revision":8,"value":{"session":"3","owner":"","mode":"shared","token":5},"reason":"released"}"#;

fn opened(ttl_ms: u64) -> Act {
    let (ttl, every) = (format!("{ttl_ms}ms"), format!("{}ms", ttl_ms / 3));
    Act::Answer(201, json!({"session": "4", "ttl": ttl, "heartbeat_every": every, "revision": 4}))
}

fn acquired() -> Act {
    Act::Answer(200, json!({"name": "db", "token": 5, "mode": "exclusive", "revision": 5}))
}

fn beats() -> Act {
    let renewed =
        || Act::Answer(200, json!({"ttl": "15s", "heartbeat_every": "5s", "revision": 5}));
    Act::Always(Box::new(renewed))
}

fn closed() -> Act {
    Act::Answer(200, json!({"session": "4", "instances": 0, "revision": 6}))
}

/// A node at which the lock is free; its watch tells these lines and then nothing.
async fn free_lock(told: &[&str]) -> Scripted {
    Scripted::on([
        ("/acquire", vec![acquired()]),
        ("/v1/watch", vec![stream(told, Then::Stay)]),
        ("/heartbeat", vec![beats()]),
        ("DELETE /v1/sessions/4", vec![closed()]),
        ("POST /v1/sessions", vec![opened(15_000)]),
    ])
    .await
}

fn body(node: &Scripted, text: &str) -> Value {
    let asked = node.asked_with(text);
    serde_json::from_str(&asked[0].body).expect("JSON")
}

#[tokio::test]
async fn a_command_runs_under_a_lock_which_is_given_back_and_its_exit_code_passed_on() {
    let node = free_lock(&[]).await;
    let says = "echo $ROSTER_LOCK_NAME $ROSTER_LOCK_TOKEN; exit 7";
    let run = ["lock", "run", "db", "--wait", "3s", "--shared", "--", "sh", "-c", says];
    let (code, out, error) = output(&run, &[&node]).await;
    assert_eq!((code, out.as_str()), (Some(7), "db 5\n"), "{error}");
    assert_eq!(
        body(&node, "/acquire"),
        json!({"session": "4", "owner": "", "mode": "shared", "wait": "3s"})
    );
    assert_eq!(node.asked_with("DELETE /v1/sessions/4").len(), 1, "{:?}", node.lines());
}

#[tokio::test]
async fn a_command_whose_lock_an_operator_broke_is_ended_however_deaf_it_is() {
    let node = free_lock(&[ANOTHERS, BROKEN]).await;
    // Neither it nor what it started obeys.
    let deaf = "trap '' TERM; echo begun; (trap '' TERM; sleep 600) & wait; sleep 600";
    let run = ["lock", "run", "db", "--ttl", "1s", "--", "sh", "-c", deaf];
    let (code, _, error) = output(&run, &[&node]).await;
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("an operator took it away"), "{error}");
}

#[tokio::test]
async fn a_command_is_ended_when_no_heartbeat_is_answered_any_more() {
    let node = Scripted::on([
        ("/acquire", vec![acquired()]),
        ("/v1/watch", vec![stream(&[], Then::Stay)]),
        ("/heartbeat", vec![Act::Always(Box::new(|| Act::Silence))]),
        ("DELETE /v1/sessions/4", vec![closed()]),
        ("POST /v1/sessions", vec![opened(1_000)]),
    ])
    .await;
    let run = ["lock", "run", "db", "--ttl", "1s", "--", "sh", "-c", "exec sleep 600"];
    let (code, _, error) = output(&run, &[&node]).await;
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("no heartbeat was answered in time"), "{error}");
}

#[tokio::test]
async fn a_signal_reaches_the_command_and_the_lock_is_given_back_when_it_has_ended() {
    let node = free_lock(&[]).await;
    // What it starts says so itself: a shell that is yet to become it would still have the trap, and
    // pass over the signal.
    let waits = "trap 'exit 9' TERM; sh -c 'echo begun; exec sleep 600' & wait";
    let run = ["lock", "run", "db", "--", "sh", "-c", waits];
    let mut running = Running::start(&run, &[&node]);
    assert_eq!(running.line().await, "begun");
    let (code, error) = running.signal(Signal::TERM).await;
    assert_eq!(code, Some(9), "{error}");
    assert_eq!(node.asked_with("DELETE /v1/sessions/4").len(), 1);
}

#[tokio::test]
async fn a_lock_that_is_not_free_in_time_runs_nothing_and_leaves_no_session() {
    let node = Scripted::on([
        ("/acquire", vec![problem(409, "lock-held", "none")]),
        ("DELETE /v1/sessions/4", vec![closed()]),
        ("POST /v1/sessions", vec![opened(15_000)]),
    ])
    .await;
    let (code, out, error) = output(&["lock", "run", "db", "--", "echo", "ran"], &[&node]).await;
    assert_eq!((code, out.as_str()), (Some(4), ""), "{error}");
    assert!(error.contains("lock-held"), "{error}");
    assert_eq!(node.asked_with("DELETE /v1/sessions/4").len(), 1);
}

#[tokio::test]
async fn what_cannot_be_run_is_told_as_shells_tell_it() {
    let node = free_lock(&[]).await;
    for (program, expected, why) in [
        ("/nowhere/at/all", 127, "/nowhere/at/all: there is no such file"),
        ("roster-has-no-such", 127, "roster-has-no-such: there is no such command"),
        ("/", 126, "cannot run /: "),
    ] {
        let lock = ["lock", "run", "db", "--", program];
        let lead = ["election", "campaign", "db", "--value", "a", "--", program];
        for run in [&lock[..], &lead[..]] {
            let (code, _, error) = output(run, &[&node]).await;
            assert_eq!(code, Some(expected), "{error}");
            assert!(error.contains(why), "{error}");
        }
    }
    assert!(node.lines().is_empty(), "looked for before anything is waited for");
}

/// Waits until a process has ended: it is gone, or nobody has asked for its exit code.
async fn ended(pid: &str) {
    let stat = format!("/proc/{pid}/stat");
    let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    let ended = async {
        while runs() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(&format!("the end of process {pid}"), ended).await;
}

/// Tells its number and that of a process that it has started, and waits for that one.
const TWO: &str = "sleep 600 & echo $$ $!; wait; true";

async fn pids(running: &mut Running) -> Vec<String> {
    running.line().await.split(' ').map(String::from).collect()
}

#[tokio::test]
async fn a_command_and_what_it_started_ends_with_a_holder_that_was_killed() {
    let node = free_lock(&[]).await;
    let mut running = Running::start(&["lock", "run", "db", "--", "sh", "-c", TWO], &[&node]);
    let pids = pids(&mut running).await;
    running.signal(Signal::KILL).await;
    for pid in pids {
        ended(&pid).await;
    }
}

#[tokio::test]
async fn at_a_terminal_the_command_ends_with_a_holder_that_was_killed() {
    let node = free_lock(&[]).await;
    let terminal = Terminal::open();
    let run = ["lock", "run", "db", "--", "sh", "-c", TWO];
    let mut running = Running::start_at(terminal.user_side(), &run, &[&node]);
    let pids = pids(&mut running).await;
    running.send(Signal::KILL);
    ended(&pids[0]).await;
    // What it has started is out of reach then, as the help says.
    let left = Pid::from_raw(pids[1].parse().expect("a number")).expect("a pid");
    kill_process(left, Signal::KILL).expect("it runs");
}

#[tokio::test]
async fn at_a_terminal_what_the_command_started_ends_when_the_lock_is_lost() {
    let gate = Arc::new(Notify::new());
    let broken = Act::After(gate.clone(), Box::new(stream(&[BROKEN], Then::Stay)));
    let node = Scripted::on([
        ("/acquire", vec![acquired()]),
        ("/v1/watch", vec![broken]),
        ("/heartbeat", vec![beats()]),
        ("DELETE /v1/sessions/4", vec![closed()]),
        ("POST /v1/sessions", vec![opened(15_000)]),
    ])
    .await;
    let terminal = Terminal::open();
    // Neither the first nor the second obeys; the second is not waited for.
    let deaf = "trap '' TERM; (sleep 600 & echo $$ $!; wait) & wait; sleep 600";
    let run = ["lock", "run", "db", "--ttl", "1s", "--", "sh", "-c", deaf];
    let mut running = Running::start_at(terminal.user_side(), &run, &[&node]);
    let pids = pids(&mut running).await;
    gate.notify_one();
    let (code, error) = running.ended().await;
    assert_eq!(code, Some(4), "{error}");
    for pid in pids {
        ended(&pid).await;
    }
}

#[tokio::test]
async fn what_a_command_leaves_behind_in_good_order_stays() {
    let node = free_lock(&[]).await;
    let leaves = "sleep 600 >/dev/null 2>&1 & echo $!";
    let (code, out, error) =
        output(&["lock", "run", "db", "--", "sh", "-c", leaves], &[&node]).await;
    assert_eq!(code, Some(0), "{error}");
    let left = Pid::from_raw(out.trim().parse().expect("a number")).expect("a pid");
    kill_process(left, Signal::KILL).expect("it runs");
}

#[tokio::test]
async fn a_command_of_another_parent_is_not_run() {
    let node = Scripted::start([]).await;
    let (code, out, error) = output(&["run-for", "1", "--", "echo", "ran"], &[&node]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""), "{error}");
    assert!(error.contains("is gone"), "{error}");
}

#[tokio::test]
async fn a_signal_during_the_wait_leaves_no_session() {
    let lock = ["lock", "run", "db", "--", "true"];
    let acquire = ["lock", "acquire", "db", "--wait", "10m"];
    let lead = ["election", "campaign", "db", "--value", "a", "--", "true"];
    for run in [&lock[..], &acquire[..], &lead[..]] {
        let node = Scripted::on([
            ("/acquire", vec![Act::Silence]),
            ("/campaign", vec![Act::Silence]),
            ("/heartbeat", vec![beats()]),
            ("DELETE /v1/sessions/4", vec![closed()]),
            ("POST /v1/sessions", vec![opened(15_000)]),
        ])
        .await;
        let running = Running::start(run, &[&node]);
        node.asked_with_times("/db/", 1).await;
        let (code, error) = running.signal(Signal::TERM).await;
        assert_eq!(code, Some(128 + 15), "{error}");
        assert_eq!(node.asked_with("DELETE /v1/sessions/4").len(), 1, "{:?}", node.lines());
    }
}

#[tokio::test]
async fn a_signal_while_the_session_is_opened_leaves_none() {
    let gate = Arc::new(Notify::new());
    let node = Scripted::on([
        // The answer may be read before the signal is noticed.
        ("/acquire", vec![Act::Silence]),
        ("DELETE /v1/sessions/4", vec![closed()]),
        ("POST /v1/sessions", vec![Act::After(gate.clone(), Box::new(opened(15_000)))]),
    ])
    .await;
    let running = Running::start(&["lock", "run", "db", "--", "true"], &[&node]);
    node.asked_times(1).await;
    running.send(Signal::INT);
    gate.notify_one();
    let (code, error) = running.ended().await;
    assert_eq!(code, Some(128 + 2), "{error}");
    assert_eq!(node.asked_with("DELETE /v1/sessions/4").len(), 1, "{:?}", node.lines());
}

#[tokio::test]
async fn a_cluster_that_goes_away_during_the_wait_may_be_there_later() {
    let silence = || Act::Always(Box::new(|| Act::Silence));
    let node = Scripted::on([
        ("/acquire", vec![silence()]),
        ("/heartbeat", vec![silence()]),
        ("/livez", vec![Act::Always(Box::new(|| Act::Answer(200, json!({}))))]),
        ("DELETE /v1/sessions/4", vec![closed()]),
        ("POST /v1/sessions", vec![opened(1_000)]),
    ])
    .await;
    let (code, _, error) = output(&["lock", "run", "db", "--", "true"], &[&node]).await;
    assert_eq!(code, Some(5), "{error}");
    assert!(error.contains("no heartbeat of session 4 was answered in time"), "{error}");
}

#[tokio::test]
async fn a_session_that_was_ended_during_the_wait_is_not_found() {
    let node = Scripted::on([
        ("/acquire", vec![Act::Silence]),
        ("/heartbeat", vec![problem(404, "unknown-session", "none")]),
        ("DELETE /v1/sessions/4", vec![problem(404, "unknown-session", "none")]),
        ("POST /v1/sessions", vec![opened(1_000)]),
    ])
    .await;
    let (code, _, error) = output(&["lock", "run", "db", "--", "true"], &[&node]).await;
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("unknown-session"), "{error}");
}

#[tokio::test]
async fn a_longer_wait_than_nodes_take_is_refused_and_not_shortened() {
    let node = free_lock(&[]).await;
    for run in [
        &["lock", "run", "db", "--wait", "11m", "--", "true"][..],
        &["lock", "acquire", "db", "--wait", "11m", "--session", "4"],
        &["lock", "acquire", "db", "--wait", "11m"],
    ] {
        let (code, _, error) = output(run, &[&node]).await;
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains("invalid-wait: 11m"), "{error}");
    }
    assert!(node.asked_with("/acquire").is_empty());
}

/// A refusal after which no node is asked again for this heartbeat.
fn long_pause() -> Act {
    let refusal = Response::builder().status(503).header("retry-after", "30");
    let body = r#"{"code":"no-leader","detail":"","outcome":"none","retryable":true}"#;
    Act::Raw(refusal.body(body.into()).expect("a response"))
}

#[tokio::test]
async fn a_session_outlives_an_outage_that_is_shorter_than_its_lease() {
    let node = Scripted::on([
        ("/heartbeat", vec![long_pause(), long_pause(), beats()]),
        ("POST /v1/sessions", vec![opened(6_000)]),
    ])
    .await;
    let session = client(&[&node]).keep_session(&SessionSettings::default()).await;
    let session = session.expect("open");
    tokio::select! {
        () = session.lost() => panic!("it was lost before a third heartbeat: {:?}", node.lines()),
        () = node.asked_with_times("/heartbeat", 3) => {}
    }
}

#[tokio::test]
async fn a_release_may_be_repeated_and_by_a_stale_token_is_a_conflict() {
    let released = Act::Answer(200, json!({"name": "db", "revision": 8}));
    let node = Scripted::start([Act::Broken, released, problem(409, "stale-token", "none")]).await;
    let release = ["lock", "release", "db", "--token", "5"];
    let (code, out, error) = output(&release, &[&node]).await;
    assert_eq!((code, out.as_str()), (Some(0), "lock db was released at revision 8\n"), "{error}");
    let asked = node.asked();
    let key = |number: usize| asked[number].headers["idempotency-key"].clone();
    assert_eq!(key(0), key(1), "the same release");
    assert_eq!(asked[0].body, r#"{"token":5}"#);
    let (code, _, error) = output(&release, &[&node]).await;
    assert_eq!(code, Some(4), "{error}");
    assert_ne!(node.asked()[2].headers["idempotency-key"], key(0), "another release");
}

#[tokio::test]
async fn a_break_without_a_token_is_never_repeated() {
    let node = Scripted::start([Act::Broken]).await;
    let (code, _, error) = output(&["lock", "break", "db"], &[&node]).await;
    assert_eq!(code, Some(5), "{error}");
    assert_eq!(node.lines(), ["DELETE /v1/locks/db"], "the next holder would lose it");
}

#[tokio::test]
async fn locks_and_elections_are_shown_as_tables() {
    let lock = json!({
        "name": "db/1", "waiting": 2, "revision": 9, "holders": [
            {"owner": "a\u{1b}", "session": "4", "token": 5, "mode": "shared"},
            {"owner": "", "session": "7", "token": 9, "mode": "shared"}],
    });
    let election = json!({
        "name": "scheduler", "leader": "4", "value": "10.0.0.1:1", "token": 5, "waiting": 1,
        "candidates": [{"session": "7", "value": "10.0.0.2:2"}], "revision": 9,
    });
    let locks = json!({"locks": [lock], "next_cursor": null, "revision": 9});
    let node = Scripted::start([Act::Answer(200, locks), Act::Answer(200, election)]).await;
    let (code, out, error) = output(&["lock", "list"], &[&node]).await;
    assert_eq!(code, Some(0), "{error}");
    let lines = [
        "LOCK  MODE    TOKEN  SESSION  OWNER    WAITING",
        r"db/1  shared      5  4        a\u{1b}        2",
        "db/1  shared      9  7                       2",
        "",
    ];
    assert_eq!(out, lines.join("\n"));
    let (code, out, error) = output(&["election", "get", "scheduler"], &[&node]).await;
    assert_eq!(code, Some(0), "{error}");
    let lines = [
        "ELECTION   VALUE       TOKEN  LEADER  WAITING",
        "scheduler  10.0.0.1:1      5  4             1",
        "",
        "NEXT  SESSION  VALUE",
        "1     7        10.0.0.2:2",
        "",
    ];
    assert_eq!(out, lines.join("\n"));
}

#[tokio::test]
async fn an_observer_is_told_each_leader_once_and_never_of_the_moment_between_two() {
    let node = Scripted::start([stream(
        &[
            r#"{"event":"snapshot-begin","revision":4}"#,
            r#"{"event":"put","kind":"latch","latch":"election","id":"s","revision":3,"value":{"session":"1","value":"a:1","token":3}}"#,
            r#"{"event":"put","kind":"latch","latch":"election","id":"s","revision":4,"value":{"session":"2","value":"b:2","token":null}}"#,
            r#"{"event":"snapshot-end","revision":4}"#,
            r#"{"event":"delete","kind":"latch","latch":"election","id":"s","revision":6,"value":{"session":"1","value":"a:1","token":3},"reason":"expired","more":true}"#,
            r#"{"event":"put","kind":"latch","latch":"election","id":"s","revision":6,"value":{"session":"2","value":"b:2","token":6}}"#,
            r#"{"event":"delete","kind":"latch","latch":"election","id":"s","revision":7,"value":{"session":"2","value":"b:2","token":6},"reason":"released"}"#,
        ],
        Then::Stay,
    )])
    .await;
    let mut running = Running::start(&["election", "observe", "s"], &[&node]);
    for line in [
        "revision 4: session 1 leads with a:1",
        "revision 6: session 2 leads with b:2",
        "revision 7: nobody leads",
    ] {
        assert_eq!(running.line().await, line);
    }
    assert_eq!(node.lines(), ["GET /v1/watch?election=s&restart=snapshot"]);
    let (code, error) = running.signal(Signal::INT).await;
    assert_eq!(code, Some(0), "{error}");
}

#[tokio::test]
async fn the_history_of_a_lock_has_a_row_per_claim() {
    let event: Value = serde_json::from_str(BROKEN).expect("JSON");
    let page = json!({"events": [event], "next_cursor": null, "covered": [[1, 9]]});
    let node = Scripted::start([Act::Answer(200, page)]).await;
    let (code, out, error) = output(&["events", "--lock", "db", "--limit", "1"], &[&node]).await;
    assert_eq!(code, Some(0), "{error}");
    let row = out.lines().nth(1).expect("a row");
    assert!(row.contains("latch     lock db "), "{row}");
    assert!(row.ends_with("held  token=5  session=4  operator: removed by an operator"), "{row}");
    assert_eq!(node.lines(), ["GET /v1/events?limit=1&lock=db&order=desc"]);
}

#[tokio::test]
async fn an_acquisition_goes_on_at_the_next_node_with_the_rest_of_its_wait() {
    let first = Scripted::start([Act::Broken]).await;
    let second = Scripted::start([acquired()]).await;
    let wait = Duration::from_secs(60);
    let client = client(&[&first, &second]);
    let acquired = client.acquire_lock("db", "4", "me", LockMode::Exclusive, wait).await;
    assert_eq!(acquired.expect("acquired").token.0, 5);
    let [before, after] = [body(&first, "/acquire"), body(&second, "/acquire")];
    let left = |body: &Value| humantime::parse_duration(body["wait"].as_str()?).ok();
    assert!(left(&after) < left(&before) && left(&before) <= Some(wait), "{before} {after}");
    assert_eq!(after["owner"], "me");
}

#[tokio::test]
async fn a_node_that_stands_still_while_a_lock_is_waited_for_is_left() {
    let hung = Hung::start().await;
    let node = Scripted::start([acquired()]).await;
    let client = roster::client::Client::with(&hung.before(&[&node]), quick()).expect("a client");
    let wait = Duration::from_secs(600);
    let acquiring = client.acquire_lock("db", "4", "", LockMode::Exclusive, wait);
    let acquired = within("the other node", acquiring).await;
    assert_eq!(acquired.expect("acquired").token.0, 5);
}

#[tokio::test]
async fn a_holder_is_told_of_its_own_end_and_not_of_others() {
    let node = free_lock(&[ANOTHERS, BROKEN]).await;
    let session = SessionSettings { name: "me".into(), ttl: None };
    let settings = LockSettings { session, mode: LockMode::Exclusive, wait: Duration::ZERO };
    let client = roster::client::Client::new(&endpoints(&[&node])).expect("a client");
    let mut held = client.lock("db", &settings).await.expect("held");
    assert_eq!(within("its end", held.lost()).await, Loss::Ended("operator".into()));
    assert_eq!(body(&node, "POST /v1/sessions"), json!({"name": "me"}));
}

#[tokio::test]
async fn services_are_listed_as_nova_manage_did() {
    let instance = |app: &str, host: &str| {
        json!({
            "app": app, "id": format!("{host}/7"), "zone": "nova", "state": "draining",
            "last_heartbeat": "2026-11-21T20:36:17.350Z",
            "metadata": {"servicegroup": "nova", "binary": app.replace('.', "-"), "host": host},
        })
    };
    let instances = [instance("nova.compute", "h1"), instance("nova.scheduler", "h2")];
    let page = |instance: &Value, cursor: Value| {
        Act::Answer(200, json!({"instances": [instance], "next_cursor": cursor, "revision": 9}))
    };
    let pages = [page(&instances[0], json!("c1")), page(&instances[1], Value::Null)];
    let node = Scripted::start(pages).await;
    let list = ["service", "list", "--prefix", "nova.c"];
    let (code, out, error) = output(&list, &[&node]).await;
    assert_eq!(code, Some(0), "{error}");
    let lines = [
        "Binary        Host  Zone  Status  State  Updated_At",
        "nova-compute  h1    nova  -       :-)    2026-11-21 20:36:17",
        "",
    ];
    assert_eq!(out, lines.join("\n"));
    assert_eq!(
        node.lines(),
        [
            "GET /v1/instances?filter=metadata.servicegroup+%3D%3D+%22nova%22&heartbeats=true&limit=10000",
            "GET /v1/instances?filter=metadata.servicegroup+%3D%3D+%22nova%22&heartbeats=true&limit=10000&cursor=c1"
        ]
    );
}
