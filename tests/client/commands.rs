//! `roster watch` and `roster events`, as a terminal or a script sees them.

use std::os::fd::OwnedFd;
use std::process::{Output, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::scripted::{Act, Hung, Scripted, Then, endpoints, problem, stream, within};

const BEGIN: &str = r#"{"event":"snapshot-begin","revision":4}"#;
const LISTED: &str = r#"{"event":"put","kind":"instance","revision":3,"time":"2026-11-21T20:36:17.350Z","app":"pay","id":"a","incarnation":3,"value":{"ip":"10.0.0.1","port":8719,"state":"up","zone":"z\u001b[2J","weight":2}}"#;
const END: &str = r#"{"event":"snapshot-end","revision":4}"#;
const EXPIRED: &str = r#"{"event":"delete","kind":"shard","revision":5,"time":"2026-11-21T20:36:18.350Z","app":"pay","id":"pay/a","incarnation":3,"reason":"expired","detail":"last heartbeat 15.2 s before"}"#;
const BOOKMARK: &str = r#"{"event":"bookmark","revision":6}"#;
const COMPACTED: &str = r#"{"event":"compacted","restart_from":4,"detail":"too old"}"#;

const HEADER: &str = "TIME                      REVISION  CHANGE    KIND      NAME                            DETAILS";
const LISTED_ROW: &str = r"2026-11-21T20:36:17.350Z         3  snapshot  instance  pay/a                           up  10.0.0.1:8719  zone=z\u{1b}[2J  weight=2";
const EXPIRED_ROW: &str = "2026-11-21T20:36:18.350Z         5  delete    shard     pay/a                           expired: last heartbeat 15.2 s before";

fn roster(arguments: &[&str], nodes: &[&Scripted]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roster"));
    command
        .args(arguments)
        .env("ROSTER_ENDPOINT", endpoints(nodes))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A command that runs.
pub struct Running {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub fn start(arguments: &[&str], nodes: &[&Scripted]) -> Self {
        Self::start_at(Stdio::null(), arguments, nodes)
    }

    /// With this standard input.
    pub fn start_at(input: Stdio, arguments: &[&str], nodes: &[&Scripted]) -> Self {
        let mut process = roster(arguments, nodes).stdin(input).spawn().expect("it starts");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Self { process, lines }
    }

    /// Its next line.
    pub async fn line(&mut self) -> String {
        let line = within("a line", self.lines.next_line()).await;
        line.expect("readable").expect("not the end")
    }

    /// Ctrl-C; gives the exit code and standard error.
    async fn interrupt(self) -> (Option<i32>, String) {
        self.signal(Signal::INT).await
    }

    /// The same with another signal.
    pub async fn signal(self, signal: Signal) -> (Option<i32>, String) {
        self.send(signal);
        self.ended().await
    }

    /// A signal that need not end it.
    pub fn send(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().expect("it runs") as i32).expect("a pid");
        kill_process(pid, signal).expect("it gets the signal");
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        self.end().await
    }

    async fn end(&mut self) -> (Option<i32>, String) {
        let status = within("its end", self.process.wait()).await.expect("a status");
        let mut error = String::new();
        let mut stderr = self.process.stderr.take().expect("its errors");
        stderr.read_to_string(&mut error).await.expect("text");
        (status.code(), error)
    }
}

/// A terminal that nobody looks at, and that no process has as its own.
pub struct Terminal(OwnedFd);

impl Terminal {
    pub fn open() -> Self {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&screen).expect("granted");
        unlockpt(&screen).expect("unlocked");
        Self(screen)
    }

    pub fn user_side(&self) -> Stdio {
        let name = ptsname(&self.0, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        open(name, flags, Mode::empty()).expect("the terminal").into()
    }
}

pub async fn output(arguments: &[&str], nodes: &[&Scripted]) -> (Option<i32>, String, String) {
    let run = roster(arguments, nodes).output();
    let Output { status, stdout, stderr } = within("its end", run).await.expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test]
async fn a_watch_shows_a_line_per_change_and_goes_on_when_a_connection_breaks() {
    let first = Scripted::start([stream(&[BEGIN, LISTED, END], Then::Break)]).await;
    let second = Scripted::start([stream(&[EXPIRED], Then::Stay)]).await;
    let mut watch = Running::start(&["watch", "--app", "pay"], &[&first, &second]);
    for line in [
        HEADER,
        "# what is there at revision 4",
        LISTED_ROW,
        "# changes after revision 4",
        EXPIRED_ROW,
    ] {
        assert_eq!(watch.line().await, line);
    }
    let (code, error) = watch.interrupt().await;
    assert_eq!(code, Some(0), "{error}");
    assert!(error.contains(&format!("roster: {}: ", first.address)), "{error}");
    assert!(error.contains(&format!("goes on at {} after revision 4", second.address)), "{error}");
    assert_eq!(first.lines(), ["GET /v1/watch?app=pay&restart=snapshot"]);
}

#[tokio::test]
async fn a_watch_for_programs_prints_the_lines_as_the_node_sent_them() {
    let all = [COMPACTED, BEGIN, LISTED, END, EXPIRED, BOOKMARK];
    let node = Scripted::start([stream(&all, Then::Stay)]).await;
    let mut watch = Running::start(&["watch", "-o", "json"], &[&node]);
    for line in all {
        assert_eq!(watch.line().await, line);
    }
    assert_eq!(watch.interrupt().await.0, Some(0));
}

#[tokio::test]
async fn a_watch_ends_quietly_when_nobody_reads_it_any_more() {
    for output in ["table", "json"] {
        let node = Scripted::start([
            stream(&[BEGIN, END], Then::Break),
            stream(&[BOOKMARK, BOOKMARK], Then::Stay),
        ]);
        let node = node.await;
        let mut watch = roster(&["watch", "-o", output], &[&node]).spawn().expect("it starts");
        drop(watch.stdout.take());
        let status = within("its end", watch.wait()).await.expect("a status");
        let mut error = String::new();
        let mut stderr = watch.stderr.take().expect("its errors");
        stderr.read_to_string(&mut error).await.expect("text");
        assert_eq!(status.code(), Some(0), "{error}");
        assert!(!error.contains("panicked") && !error.contains("pipe"), "{error}");
    }
}

#[tokio::test]
async fn a_quiet_table_notices_at_a_bookmark_that_nobody_reads_it_any_more() {
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let bookmark = Act::After(gate.clone(), Box::new(stream(&[BOOKMARK], Then::Stay)));
    let node = Scripted::start([stream(&[BEGIN, END], Then::Close), bookmark]).await;
    let mut watch = Running::start(&["watch"], &[&node]);
    for _ in 0..3 {
        watch.line().await;
    }
    let Running { mut process, lines } = watch;
    drop(lines);
    gate.notify_one();
    let status = within("its end", process.wait()).await.expect("a status");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_watch_from_a_revision_that_is_gone_fails_and_says_from_where_to_list() {
    let gone = Act::Answer(410, json!({"code": "compacted", "detail": "old", "restart_from": 90}));
    let node = Scripted::start([gone]).await;
    let (code, _, error) = output(&["watch", "--from", "7"], &[&node]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("from revision 90"), "{error}");
    assert_eq!(node.lines(), ["GET /v1/watch?from=7&wait=5s"]);
}

/// A page of the history with one event.
fn page(event: &str, next: Option<&str>, covered: &serde_json::Value) -> Act {
    let event: serde_json::Value = serde_json::from_str(event).expect("JSON");
    Act::Answer(200, json!({"events": [event], "next_cursor": next, "covered": covered}))
}

#[tokio::test]
async fn gaps_are_told_whenever_a_page_has_others_and_to_programs_too() {
    for format in ["table", "json"] {
        let pages = [
            page(EXPIRED, Some("c1"), &json!([[1, 9]])),
            page(EXPIRED, Some("c2"), &json!([[1, 2], [5, 9]])),
            page(EXPIRED, Some("c3"), &json!([[1, 2], [5, 9]])),
            page(EXPIRED, None, &json!([[8, 9]])),
        ];
        let node = Scripted::start(pages).await;
        let (code, out, error) = output(&["events", "--since", "1", "-o", format], &[&node]).await;
        assert_eq!((code, error.lines().count()), (Some(0), 2), "{error}");
        assert!(error.contains("not shown: 3 to 4;"), "{error}");
        assert!(error.contains("not shown: 2 to 7;"), "{error}");
        assert!(!out.contains("not shown"), "{out}");
    }
}

#[tokio::test]
async fn what_an_operator_did_stands_beside_what_it_made_of_the_instance() {
    let drained = LISTED
        .replace("\"up\"", "\"draining\"")
        .replace(r#""value""#, r#""reason":"operator","detail":"draining, was up","value""#);
    let node = Scripted::start([page(&drained, None, &json!([[1, 3]]))]).await;
    let (_, out, _) = output(&["events"], &[&node]).await;
    let row = out.lines().nth(1).expect("a row");
    assert!(row.ends_with("weight=2  operator: draining, was up"), "{row}");
}

#[tokio::test]
async fn who_holds_what_is_shown_and_so_are_rings_and_who_held_what_is_gone() {
    let worker =
        r#""kind":"worker","revision":8,"app":"fetchers","id":"f1","set":"main","shard":"pay/a","#;
    let held = |release: bool| {
        format!(
            r#"{{"event":"put",{worker}"value":{{"set":"main","worker":"f1","shard":"pay/a","grant":7,"release":{release}}}}}"#
        )
    };
    let ring = r#""kind":"ring","revision":8,"app":"fetchers","id":"fetchers","#;
    let description = r#""value":{"v":1,"kind":"jump-probe-1","group":"fetchers","epoch":8,"seed":0,"replicas":1,"workers":[["f1",1],["f2",1]],"slots":[0,1]}"#;
    let shard = r#"{"event":"delete","kind":"shard","revision":8,"app":"pay","id":"pay/a","set":"main","holder":"f1","#;
    let cases = [
        (
            held(false),
            "put       worker    fetchers/f1                     pay/a  grant=7  set=main",
        ),
        (
            held(true),
            "put       worker    fetchers/f1                     pay/a  grant=7  set=main  to let go",
        ),
        (
            format!(
                r#"{{"event":"delete",{worker}"grant":7,"reason":"released","detail":"let go by its worker"}}"#
            ),
            "delete    worker    fetchers/f1                     pay/a  grant=7  set=main  released: let go by its worker",
        ),
        (
            format!(r#"{{"event":"put",{ring}{description}}}"#),
            "put       ring      fetchers                        epoch=8  2 workers",
        ),
        (
            format!(r#"{{"event":"delete",{ring}"reason":"operator","detail":"removed"}}"#),
            "delete    ring      fetchers                        operator: removed",
        ),
        (
            format!(r#"{shard}"reason":"expired"}}"#),
            "delete    shard     pay/a                           set=main  holder=f1  expired",
        ),
        (
            format!(r#"{shard}"also_held":[{{"set":"b","holder":null}}],"reason":"expired"}}"#),
            "delete    shard     pay/a                           set=main  holder=f1  set=b  held by nobody  expired",
        ),
    ];
    for (event, expected) in cases {
        let row = format!("-                                8  {expected}");
        let node = Scripted::start([page(&event, None, &json!([[1, 8]]))]).await;
        let (_, out, error) = output(&["events"], &[&node]).await;
        assert_eq!(out.lines().nth(1), Some(row.as_str()), "{error}");
        let node = Scripted::start([stream(&[BEGIN, END, &event], Then::Stay)]).await;
        let mut watch = Running::start(&["watch"], &[&node]);
        for _ in 0..3 {
            watch.line().await;
        }
        assert_eq!(watch.line().await, row);
    }
}

#[tokio::test]
async fn a_node_that_hangs_is_no_failure_while_others_answer() {
    let hung = Hung::start().await;
    let history = Scripted::start([page(EXPIRED, None, &json!([[1, 9]]))]).await;
    let list = hung.before(&[&history]);
    let (code, _, error) = output(&["events", "--endpoint", &list], &[]).await;
    assert_eq!(code, Some(0), "{error}");

    let watched = Scripted::start([stream(&[BEGIN], Then::Stay)]).await;
    let list = hung.before(&[&watched]);
    let mut watch = Running::start(&["watch", "-o", "json", "--endpoint", &list], &[]);
    assert_eq!(watch.line().await, BEGIN);
    assert_eq!(watch.interrupt().await.0, Some(0));
}

#[tokio::test]
async fn past_events_are_shown_up_to_the_limit_and_gaps_are_told() {
    let covered = json!([[1, 2], [4, 5]]);
    let pages = [page(EXPIRED, Some("c"), &covered), page(EXPIRED, Some("d"), &covered)];
    let node = Scripted::start(pages).await;
    let (code, out, error) = output(&["events", "--limit", "2"], &[&node]).await;
    assert_eq!(out, format!("{HEADER}\n{EXPIRED_ROW}\n{EXPIRED_ROW}\n"));
    assert_eq!(error.matches("not shown: 3 to 3;").count(), 1, "{error}");
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn the_exit_code_says_what_kind_of_failure_it_was() {
    let cases = [(400, "invalid-since", 2), (404, "unknown-app", 3), (410, "compacted", 1)];
    for (status, code, exit) in cases {
        let node = Scripted::start([problem(status, code, "none")]).await;
        let (ended, out, error) = output(&["events"], &[&node]).await;
        assert_eq!((ended, out.as_str()), (Some(exit), ""), "{error}");
        assert!(error.contains(&format!("roster: {code}: said {code}")), "{error}");
    }
    let node = Scripted::start([]).await;
    for wrong in
        [["watch", "--endpoint", "nowhere"], ["watch", "--from", "x"], ["events", "--order", "up"]]
    {
        assert_eq!(output(&wrong, &[&node]).await.0, Some(2), "{wrong:?}");
    }
}
