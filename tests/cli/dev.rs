//! `roster dev`: the ports that it takes, and how it ends.

use std::process::Stdio;
use std::time::Duration;

use roster::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::sleep;

use crate::run::{Cluster, ended, roster, within};

/// Between two signals of somebody who is impatient.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// One that runs, with its temporary folders here.
struct Dev {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    temporary: TempDir,
}

impl Dev {
    fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().expect("a folder");
        let arguments = [&["dev", "--log", "error"], arguments].concat();
        let mut command = roster(&arguments, "");
        let command = command.env("TMPDIR", temporary.path()).stderr(Stdio::null());
        let mut process = command.spawn().expect("it starts");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Self { process, lines, temporary }
    }

    /// The rest of the first line that has this in it.
    async fn after(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.lines.next_line().await.expect("text") {
                if let Some((_, rest)) = line.split_once(text) {
                    return rest.to_owned();
                }
            }
            panic!("its output ends before {text:?}");
        };
        within(text, found).await
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().expect("it runs") as i32).expect("a pid");
        kill_process(pid, signal).expect("it gets the signal");
    }

    /// The exit code, and how many folders are left.
    async fn end(mut self) -> (Option<i32>, usize) {
        let status = within("its end", self.process.wait()).await.expect("a status");
        let left = std::fs::read_dir(self.temporary.path()).expect("a folder").count();
        (status.code(), left)
    }
}

#[tokio::test]
async fn a_second_cluster_on_the_same_ports_is_refused_and_not_taken_for_the_first() {
    let cluster = Cluster::start(1).await;
    let port = cluster.nodes[0].rsplit(':').next().expect("a port").to_owned();
    for more in [["--peer-port", "0"], ["--data-dir", "/nowhere"]] {
        let again = ["dev", "--nodes", "1", "--api-port", &port];
        let again = ended(&[&again[..], &more].concat(), "").await;
        assert_eq!((again.code, again.out.as_str()), (Some(1), ""), "{again:?}");
        let expected = format!("port {port} is in use (by another `roster dev`?); use --api-port");
        assert!(again.error.contains(&expected), "{again:?}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn port_0_stands_for_free_ports() {
    let mut dev = Dev::start(&["--nodes", "2", "--api-port", "0", "--peer-port", "0"]);
    let first = dev.after("node 1  http://").await;
    let second = dev.after("node 2  http://").await;
    for node in [first, second] {
        let address = node.split(' ').next().expect("an address");
        let client = Client::new(address).expect("a client");
        let call = roster::client::Call::get("/readyz".into());
        client.send(call).await.expect("it serves");
    }
    dev.send(Signal::INT);
    assert_eq!(dev.end().await, (Some(0), 0));
}

#[tokio::test]
async fn nodes_that_have_data_do_not_get_other_ports_than_they_had() {
    let data = tempfile::tempdir().expect("a folder");
    let folder = data.path().to_str().expect("text");
    let one = ["--nodes", "1", "--data-dir", folder, "--api-port", "0", "--peer-port", "0"];
    let mut dev = Dev::start(&one);
    dev.after("Stop with Ctrl-C").await;
    dev.send(Signal::INT);
    assert_eq!(dev.end().await, (Some(0), 0));
    let again = ended(&[&["dev"], &one[..]].concat(), "").await;
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.error.contains("--api-port: 0 stands for free ports, but"), "{again:?}");
}

#[tokio::test]
async fn ports_beyond_the_highest_one_are_a_wrong_setting() {
    for (flag, port) in [("--api-port", "65534"), ("--peer-port", "65535")] {
        let ended = ended(&["dev", flag, port], "").await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.error.contains(&format!("{flag}: {port} is too high")), "{ended:?}");
    }
}

#[tokio::test]
async fn two_signals_at_once_are_one_and_leave_nothing_behind() {
    let mut dev = Dev::start(&["--nodes", "1", "--api-port", "0", "--peer-port", "0"]);
    dev.after("Stop with Ctrl-C").await;
    dev.send(Signal::INT);
    dev.send(Signal::TERM);
    assert_eq!(dev.end().await, (Some(0), 0));
}

/// Asks a process again and again to stop, as somebody does who is not heard; gives its exit code.
async fn asked_until_it_ends(process: &mut Child) -> Option<i32> {
    let pid = Pid::from_raw(process.id().expect("it runs") as i32).expect("a pid");
    let asking = async {
        loop {
            kill_process(pid, Signal::INT).expect("it runs");
            tokio::select! {
                status = process.wait() => return status.expect("a status").code(),
                () = sleep(ASK_EVERY) => {}
            }
        }
    };
    within("its end", asking).await
}

/// The process of the only node.
async fn frozen(dev: &mut Dev) -> Pid {
    let pid = dev.after("(pid ").await;
    let pid = pid.trim_end_matches(')').parse().ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::STOP).expect("it runs");
    pid
}

#[tokio::test]
async fn a_later_signal_hurries_and_leaves_nothing_behind_either() {
    let mut dev = Dev::start(&["--nodes", "1", "--api-port", "0", "--peer-port", "0"]);
    // It cannot stop in good order.
    frozen(&mut dev).await;
    assert_eq!(asked_until_it_ends(&mut dev.process).await, Some(130));
    assert_eq!(std::fs::read_dir(dev.temporary.path()).expect("a folder").count(), 0);
}

#[tokio::test]
async fn a_demo_that_is_hurried_says_how_to_delete_what_is_left() {
    let mut dev = Dev::start(&["--nodes", "1", "--api-port", "0", "--peer-port", "0"]);
    let address = dev.after("Dashboard  http://").await.trim_end_matches("/ui/").to_owned();
    let few = ["demo", "--transports", "10", "--fetchers", "2"];
    let mut demo = roster(&few, &address).spawn().expect("it starts");
    let mut lines = BufReader::new(demo.stdout.take().expect("its output")).lines();
    let registered = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.starts_with("1. ") {
                return;
            }
        }
        panic!("its output ends before the first step");
    };
    within("the first step", registered).await;
    let node = frozen(&mut dev).await;
    assert_eq!(asked_until_it_ends(&mut demo).await, Some(1));
    let mut error = String::new();
    let mut errors = demo.stderr.take().expect("its errors");
    errors.read_to_string(&mut error).await.expect("text");
    for command in ["roster shards delete demo-", "roster app delete demo-"] {
        assert!(error.contains(command), "{error}");
    }
    kill_process(node, Signal::CONT).expect("it is there");
    dev.send(Signal::INT);
    assert_eq!(dev.end().await, (Some(0), 0));
}
