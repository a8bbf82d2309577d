//! `roster demo` with a cluster of its own.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The story may take 30 s on a machine of its own.
const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn the_demo_keeps_its_promises_and_leaves_nothing_behind() {
    let run = Command::new(env!("CARGO_BIN_EXE_roster"))
        .args(["demo", "--transports", "12", "--fetchers", "3"])
        .env_remove("ROSTER_ENDPOINT")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let run = tokio::time::timeout(LIMIT, run).await.expect("in time").expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&run.stdout), text(&run.stderr));
    assert!(run.status.success(), "{out}{error}");
    assert!(out.contains("at work on all 7 remaining shards"), "{out}");
    assert!(out.contains("All that was made is deleted."), "{out}");
}
